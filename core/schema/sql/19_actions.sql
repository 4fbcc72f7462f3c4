-- Operators' actions.
--
-- The functions answer with a code, which has a hyphen, and the facts of its sentence; core/read/sentences.py has the
-- sentences.

-- The facts of a job for the audit. The payload only if it was changed, because it may name people.
create or replace function job_audit_facts(p_job job_queue) returns jsonb
language sql immutable
return jsonb_build_object('task_type', (p_job).task_type, 'status', (p_job).status, 'run_at', (p_job).run_at,
    'attempts', (p_job).attempts, 'version', (p_job).version, 'last_outcome', (p_job).last_outcome);

create or replace function job_queue_write_audit(
    p_actor text, p_action text, p_job_id uuid, p_before jsonb, p_after jsonb, p_reason text
) returns void
language sql volatile
as $$
    insert into job_audit (actor, action, job_id, before, after, reason)
    values (job_actor(p_actor), p_action, p_job_id, p_before, p_after, p_reason)
$$;

-- Records in the audit that a user viewed a job's personal data unmasked.
create or replace function job_queue_reveal(p_id uuid, p_actor text) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    select job_queue_write_audit(p_actor, 'reveal', p_id, null, null, null)
$$;

-- Makes a job pending and due now, for a retry: attempts start from 0, unless the job was already pending.
create or replace function job_queue_make_due(p_job job_queue) returns job_queue
language plpgsql volatile
as $$
declare
    v_now timestamptz := clock_timestamp();
    -- A job that has expired loses its expiry. A series must not go on for ever for that, so it becomes a one-time job.
    v_series constant boolean := p_job.is_recurring and coalesce(p_job.expires_at > v_now, true);
    v_job job_queue;
begin
    update job_queue q set
        status = 'pending', run_at = v_now, completed_at = null, last_error = null, fingerprint = null,
        updated_at = v_now, version = q.version + 1, is_recurring = v_series,
        attempts = case when q.status = 'pending' then q.attempts else 0 end,
        recurrence_interval_minutes = case when v_series then q.recurrence_interval_minutes end,
        schedule = case when v_series then q.schedule end, slots = case when v_series then q.slots end,
        anchor_at = case when v_series then coalesce(q.anchor_at, q.run_at) end,
        slot_at = case when v_series then coalesce(q.slot_at, case
            -- A slot that was asked for is not passed over, and one that is made up is not lost.
            when q.schedule ->> 'catch_up' = 'none' then v_now
            when job_series_runs_all(q.schedule) and q.status = 'pending' and q.run_at <= v_now then q.run_at end) end,
        expires_at = case when q.expires_at > v_now then q.expires_at end,
        -- A claim looks whether it is held.
        blocked_by = case when q.blocked_by is null or job_is_hold(q.blocked_by) then null when q.status = 'pending' then q.blocked_by
            -- A series that was paused when it ended is not paused any more.
            when q.blocked_by <> q.id and not job_is_member(q.id) then job_queue_live_blocker(q.blocked_by) end,
        in_line = job_queue_joins_line(q.concurrency_key, q.priority, v_now, q.task_type)
    where q.id = p_job.id returning * into v_job;
    perform job_flow_wait_again(array[p_job.id]);
    perform job_queue_ask_recheck(null, array[v_job.blocked_by]);
    perform job_queue_advance_lines(array[v_job.concurrency_key]);
    select * into v_job from job_queue where id = p_job.id;
    return v_job;
end
$$;

-- Cancels these jobs, or asks their workers to, and records it in the audit. The caller has locked them. Returns the keys whose
-- lines the caller has to advance.
create or replace function job_queue_make_cancelled(p_jobs uuid[], p_actor text, p_reason text) returns text[]
language plpgsql volatile
set enable_seqscan = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_ended uuid[];
    v_keys text[];
begin
    with changed as (
        update job_queue q set updated_at = v_now, version = q.version + 1, in_line = false,
            status = case when q.status = 'running' then q.status else 'cancelled' end,
            completed_at = case when q.status <> 'running' then v_now end,
            last_outcome = case when q.status = 'pending' then 'cancelled' else q.last_outcome end,
            cancel_requested_at = case when q.status = 'running' then v_now else q.cancel_requested_at end,
            cancel_requested_by = case when q.status = 'running' then job_actor(p_actor) else q.cancel_requested_by end
        from job_queue o where q.id = any (p_jobs) and o.id = any (p_jobs) and o.id = q.id
        returning q.id, q.concurrency_key, q.status, job_audit_facts(o) as before, job_audit_facts(q) as after
    ), noted as (
        insert into job_audit (actor, action, job_id, before, after, reason)
        select job_actor(p_actor), 'cancel', c.id, c.before, c.after, p_reason from changed c order by c.id
    )
    select coalesce(array_agg(c.id) filter (where c.status = 'cancelled'), '{}'),
        array_agg(c.concurrency_key) filter (where c.status = 'cancelled')
    into v_ended, v_keys from changed c;
    perform pg_notify(current_schema() || '.job_queue', 'cancel') where cardinality(v_ended) < cardinality(p_jobs);
    perform job_queue_release_waiting('{}', v_ended);
    return v_keys;
end
$$;

-- Enqueues a copy of a job that succeeded and left the queue, and records it in the audit. Without a payload, the copy
-- has that of the run; the caller has validated and admitted it. Keys of the job go before p_concurrency_key, which is
-- for runs from before the keys were stored, unless p_payload replaces the payload from which a key follows.
--
-- At most one copy is pending or running: the dedupe key of a job without one is made from its id.
create or replace function job_queue_run_again(
    p_job_id uuid, p_payload jsonb, p_max_attempts integer, p_concurrency_key text, p_actor text, p_reason text,
    p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_run job_runs;
    v_dedupe_key text;
    v_earlier record;
    v_copy uuid;
    v_created boolean;
begin
    perform job_refuse_outsiders();
    select * into v_run from job_runs r where r.job_id = p_job_id and r.removed order by r.run_token desc limit 1;
    if not found then
        return query select p_job_id, false, case
            when exists (select from job_trash t where t.job_id = p_job_id) then 'is-deleted' else 'no-success' end,
            null::jsonb, null::text, null::bigint;
        return;
    end if;
    select a.job_id as copy, a.at, a.actor into v_earlier from job_audit a
    where a.action = 'run again' and a.after ->> 'copy_of' = p_job_id::text order by a.id desc limit 1;
    v_dedupe_key := case when v_run.dedupe_key is null or job_key_is_declared(v_run.dedupe_key)
        then 'copy of ' || p_job_id else v_run.dedupe_key end;
    if p_dry_run then
        v_copy := job_queue_holder(v_dedupe_key);
        v_created := v_copy is null;
    else
        select c.job_id, c.created into v_copy, v_created from job_queue_create(v_run.task_type,
            coalesce(p_payload, v_run.payload), null, p_max_attempts, 0, v_dedupe_key,
            case when p_payload is null then coalesce(v_run.concurrency_key, p_concurrency_key)
                else coalesce(p_concurrency_key, v_run.concurrency_key) end, null, null, null, p_actor) c;
        perform job_queue_write_audit(p_actor, 'run again', v_copy, null, jsonb_strip_nulls(jsonb_build_object(
            'copy_of', p_job_id, 'earlier_copy', v_earlier.copy)), p_reason) where v_created;
    end if;
    return query select p_job_id, v_created, case
            when not v_created and v_dedupe_key = 'copy of ' || p_job_id then 'copy-open'
            when not v_created then 'key-held'
            when p_dry_run and v_earlier.copy is null then 'would-run-again'
            when p_dry_run then 'would-run-once-more'
            when v_earlier.copy is null then 'enqueued-again'
            else 'enqueued-once-more' end,
        case when v_created then jsonb_build_object('copy', v_copy, 'earlier', v_earlier.copy, 'at', v_earlier.at,
            'actor', v_earlier.actor) else jsonb_build_object('holder', v_copy) end,
        case when v_created and not p_dry_run then 'pending' end, null::bigint;
end
$$;

-- What somebody did last to a job after this version of it, by the audit: action, actor and time; empty if nobody did.
create or replace function job_last_deed(p_job uuid, p_version bigint) returns jsonb
language plpgsql stable
set enable_seqscan = off
as $$
begin
    return coalesce((
        select jsonb_build_object('action', a.action, 'actor', a.actor, 'done_at', a.at) from job_audit a
        where a.job_id = p_job
            and coalesce((a.after ->> 'version')::bigint, (a.before ->> 'version')::bigint + 1) > p_version
        order by a.at desc, a.id desc limit 1), '{}');
end
$$;

-- Why a job that the caller has locked is not retried, cancelled or deleted; no code if it is. A null version matches
-- any version.
create or replace function job_queue_refusal(
    p_action text, p_job job_queue, p_version bigint, out code text, out facts jsonb
)
language plpgsql volatile
as $$
declare
    v_holder uuid;
begin
    code := case
        when p_version <> p_job.version and p_action = 'retry' and p_job.status = 'succeeded' then 'has-succeeded-since'
        when p_version <> p_job.version then 'has-changed'
        when p_action = 'retry' and p_job.status = 'running' then 'retry-running'
        when p_action = 'retry' and p_job.status = 'pending' and p_job.blocked_by = p_job.id then 'series-paused'
        when p_action = 'cancel' and p_job.status = 'running' and p_job.cancel_requested_at is not null
            then 'cancel-requested'
        when p_action = 'cancel' and p_job.status = 'succeeded' then 'cancel-succeeded'
        when p_action = 'cancel' and p_job.status = 'cancelled' then 'already-cancelled'
        when p_action = 'delete' and p_job.status = 'running' then 'delete-running'
    end;
    if code is not null then
        facts := jsonb_build_object('status', p_job.status, 'job', p_job.id) || case
            when code = 'cancel-requested' then jsonb_build_object('action', 'cancel', 'actor', p_job.cancel_requested_by,
                'done_at', p_job.cancel_requested_at)
            when code = 'already-cancelled' then job_last_deed(p_job.id, p_job.version - 1)
            else job_last_deed(p_job.id, p_version) end;
        return;
    elsif p_action <> 'retry' or p_job.status = 'pending' then
        return;
    end if;
    v_holder := coalesce(job_queue_holder(p_job.dedupe_key), job_queue_holder(job_key_behind(p_job.dedupe_key)));
    if v_holder is not null then
        code := 'key-held';
        facts := jsonb_build_object('holder', v_holder);
    elsif job_is_member(p_job.id) then
        select r.code, r.facts into code, facts from job_flow_refusal(p_job.id) r;
        if code is null then
            select case when c.final then 'flow-final' end, jsonb_build_object('callback', c.callback) into code, facts
            from job_flow_callback(p_job.id) c where c.callback is not null;
        end if;
    elsif p_job.blocked_by <> p_job.id and not job_is_hold(p_job.blocked_by)
        and job_blocker_outcome(p_job.blocked_by) in ('failed', 'cancelled', 'deleted') then
        code := 'hopeless-blocker';
        facts := jsonb_build_object('blocker', p_job.blocked_by,
            'status', (select q.status from job_queue q where q.id = p_job.blocked_by));
    elsif p_job.is_recurring
        and not job_schedule_fits(true, p_job.recurrence_interval_minutes, p_job.schedule, p_job.slots)
    then
        code := 'no-interval';
    end if;
end
$$;

-- The code for a job that is not in the queue.
create or replace function job_queue_absence(p_action text, p_id uuid) returns text
language sql stable
as $$
    select case
        when exists (select from job_trash t where t.job_id = p_id) then 'is-deleted'
        when p_action in ('retry', 'edit') and exists (select from job_runs r where r.job_id = p_id and r.removed)
            then 'has-succeeded'
        else 'not-in-queue'
    end
$$;

-- Locks these jobs and returns the ids that an action can use. It waits twice for 0.9 seconds (less than the second after
-- which Postgres looks for deadlocks), then leaves out the jobs that another transaction has locked.
create or replace function job_queue_lock_jobs(p_ids uuid[]) returns uuid[]
language plpgsql volatile
set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
declare
    v_free uuid[];
begin
    for attempt in 1..2 loop
        begin
            perform from job_queue q where q.id = any (p_ids) order by q.id for update;
            return p_ids;
        exception when lock_not_available then
            -- A session that waits for one of these jobs goes first, or neither would get all of its own.
            perform pg_sleep(0.05);
        end;
    end loop;
    v_free := array(select q.id from job_queue q where q.id = any (p_ids) order by q.id for update skip locked);
    return v_free || array(select i from unnest(p_ids) i where not exists (select from job_queue q where q.id = i));
end
$$;

-- Moves those of these jobs to the trash that can be deleted, and returns their ids. The caller has locked those of p_free. One
-- statement moves all of them: a statement for each job took most of the time of a bulk action.
create or replace function job_queue_make_deleted(
    p_ids uuid[], p_versions bigint[], p_free uuid[], p_actor text, p_reason text
) returns uuid[]
language plpgsql volatile
as $$
declare
    v_gone uuid[];
    v_keys text[];
begin
    with gone as (
        delete from job_queue q using unnest(p_ids, p_versions) as a (id, version)
        where q.id = a.id and q.id = any (p_free) and (job_queue_refusal('delete', q, a.version)).code is null
        returning q.id, q.concurrency_key, to_jsonb(q) as job, job_audit_facts(q) as facts
    ), kept as (
        insert into job_trash (job_id, job, deleted_by, reason)
        select g.id, g.job, job_actor(p_actor), p_reason from gone g
        on conflict (job_id) do update set job = excluded.job, deleted_at = now(), deleted_by = excluded.deleted_by,
            reason = excluded.reason
    ), noted as (
        insert into job_audit (actor, action, job_id, before, reason)
        select job_actor(p_actor), 'delete', g.id, g.facts, p_reason from gone g order by g.id
    )
    select coalesce(array_agg(g.id), '{}'), array_agg(g.concurrency_key) into v_gone, v_keys from gone g;
    if cardinality(v_gone) > 0 then
        perform job_queue_release_waiting('{}', v_gone);
        perform job_queue_advance_lines(v_keys);
    end if;
    return v_gone;
end
$$;

-- Retries or cancels jobs one by one, in the order of their ids, or deletes them, and returns one answer per id. p_versions has
-- one element per id; null matches any version.
create or replace function job_queue_act(
    p_action text, p_ids uuid[], p_versions bigint[], p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_asked record;
    v_free uuid[];
    v_gone uuid[] := '{}';
    v_job job_queue;
    v_after job_queue;
    v_refusal text;
    v_facts jsonb;
    v_keys text[];
begin
    perform job_refuse_outsiders();
    if p_action not in ('retry', 'cancel', 'delete') then
        perform job_queue_refuse(format('There is no action %s.', p_action));
    end if;
    v_free := job_queue_lock_jobs(p_ids);
    if p_action = 'delete' and not p_dry_run then
        v_gone := job_queue_make_deleted(p_ids, p_versions, v_free, p_actor, p_reason);
        return query select i, true, 'was-deleted', null::jsonb, null::text, null::bigint from unnest(v_gone) i;
    end if;
    for v_asked in
        select distinct on (a.id) a.id, a.version from unnest(p_ids, p_versions) as a (id, version)
        where a.id <> all (v_gone) order by a.id
    loop
        select * into v_job from job_queue q where q.id = v_asked.id and q.id = any (v_free) for update;
        if not found then
            return query select v_asked.id, false,
                case when q.id is null then job_queue_absence(p_action, v_asked.id) else 'is-locked' end,
                case when q.id is null then jsonb_build_object('job', v_asked.id) || job_last_deed(v_asked.id, 0) end,
                q.status, q.version
            from (select) one left join job_queue q on q.id = v_asked.id;
            continue;
        end if;
        select * into v_refusal, v_facts from job_queue_refusal(p_action, v_job, v_asked.version);
        if v_refusal is null and not p_dry_run then
            if p_action = 'cancel' then
                v_keys := v_keys || job_queue_make_cancelled(array[v_job.id], p_actor, p_reason);
                select * into v_after from job_queue q where q.id = v_job.id;
            elsif p_action = 'delete' then
                -- It came into the queue after the others were locked.
                v_refusal := 'is-locked';
            elsif v_job.dedupe_key is null then
                v_after := job_queue_make_due(v_job);
            else
                -- Another job may have taken the key since the check.
                begin
                    v_after := job_queue_make_due(v_job);
                exception when unique_violation then
                    v_refusal := 'key-taken';
                when lock_not_available then
                    -- A transaction that has not ended enqueues a job with the key. It may hold those of the next jobs too.
                    set local lock_timeout = '1ms';
                    v_refusal := 'key-locked';
                end;
            end if;
        end if;
        if v_refusal is not null or p_dry_run then
            return query select v_job.id, v_refusal is null, case
                when v_refusal is not null then v_refusal
                when p_action = 'retry' then 'would-retry'
                when p_action = 'delete' then 'would-delete'
                when v_job.status = 'running' then 'would-ask-to-cancel'
                else 'would-cancel' end, v_facts, v_job.status, v_job.version;
            continue;
        end if;
        perform job_queue_write_audit(p_actor, p_action, v_job.id, job_audit_facts(v_job), job_audit_facts(v_after),
            p_reason) where p_action = 'retry';
        return query select v_job.id, true, case
            when p_action = 'retry' and exists (select from job_hold_of(v_after.task_type, v_after.payload)) then 'due-held'
            when p_action = 'retry' and v_after.blocked_by is not null then 'due-blocked'
            when p_action = 'retry' and v_after.in_line then 'due-in-line'
            when p_action = 'retry' and v_job.is_recurring and not v_after.is_recurring then 'due-once'
            when p_action = 'retry' then 'due-now'
            when v_after.status = 'running' then 'asked-to-cancel'
            else 'was-cancelled' end, jsonb_build_object('blocker', v_after.blocked_by) || coalesce(v_facts, '{}'), v_after.status,
            v_after.version;
    end loop;
    perform job_queue_advance_lines(v_keys);
    if p_action = 'retry' and not p_dry_run then
        perform pg_notify(current_schema() || '.job_queue', '');
    end if;
end
$$;
