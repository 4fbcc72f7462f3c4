-- Canaries: jobs that run next and alone, although their type or everything is paused
--
-- A request changes nothing of the job until a worker takes it, so there is nothing to undo when it is taken back. It
-- ends with the run, whose outcome the history has; upkeep, and who waits for the answer, write it to the audit.

-- Whether nobody has changed the job since the request. A blocker that has ended since does not count.
create or replace function job_canary_stands(p_canary job_canaries, p_job job_queue) returns boolean
language sql immutable
return coalesce((p_job).version = (p_canary).seen or (p_canary).blocker is not null and (p_job).blocked_by is null
    and (p_job).version = (p_canary).seen + 1, false);

-- Why no worker may take jobs of this type, whatever is paused: the queue is held, or the type is set aside.
create or replace function job_left_to_another(p_task_type text, out code text, out facts jsonb)
language sql stable
as $$
    select 'queue-held', jsonb_build_object('who', held_by) from job_queue_settings where held_by is not null
    union all
    select 'type-left-to-another', jsonb_build_object('task_type', task_type)
    from job_types where task_type = p_task_type and set_aside
    limit 1
$$;

-- Why a job cannot be taken as a canary now; no code if it can.
create or replace function job_canary_obstacle(p_job job_queue, out code text, out facts jsonb)
language plpgsql volatile
set enable_seqscan = off set jit = off
as $$
declare
    v_outcome text;
    v_holder uuid;
    v_now constant timestamptz := clock_timestamp();
begin
    select l.code, l.facts into code, facts from job_left_to_another(p_job.task_type) l;
    if code is null and p_job.blocked_by is not null and not job_is_hold(p_job.blocked_by) then
        v_outcome := job_blocker_outcome(p_job.blocked_by);
        code := case when p_job.blocked_by = p_job.id then 'series-paused' when v_outcome is null or job_flow_waits(p_job.id)
            then 'waits-for-blocker' when v_outcome in ('failed', 'cancelled', 'deleted') then 'hopeless-blocker' end;
        facts := jsonb_build_object('job', p_job.id, 'blocker', p_job.blocked_by, 'status',
            (select q.status from job_queue q where q.id = p_job.blocked_by));
    end if;
    if code is null and not job_clause_key_free(p_job.concurrency_key, p_job.task_type) then
        code := 'concurrency-key-busy';
        facts := jsonb_build_object('holder', (select q.id from job_queue q
            where q.concurrency_key = p_job.concurrency_key and q.status = 'running' limit 1));
    end if;
    if code is null then
        select s.code, s.facts into code, facts from job_limit_state(p_job.task_type, clock_timestamp()) s
        where s.opens_at is not null;
    end if;
    if code is null and job_key_opens(p_job.concurrency_key, p_job.task_type, v_now) > v_now then
        code := 'key-rate';
        facts := jsonb_build_object('seconds', ceil(date_part('epoch',
            job_key_opens(p_job.concurrency_key, p_job.task_type, v_now) - v_now)));
    end if;
    if code is null and p_job.status <> 'pending' and p_job.dedupe_key is not null then
        v_holder := job_queue_holder(p_job.dedupe_key);
        code := case when v_holder is not null then 'key-held' end;
        facts := jsonb_build_object('holder', v_holder);
    end if;
end
$$;

-- Claims the oldest canary of these types that can be taken, if there is one. Its priority is reported as 101, above all
-- others, by which the worker knows it. No lock is waited for, but for a dedupe key that is being enqueued.
create or replace function job_queue_take_canary(p_worker text, p_types text[], p_lease_seconds double precision)
returns table (
    id uuid, run_token bigint, task_type text, payload jsonb, attempt integer, max_attempts integer,
    due_at timestamptz, claimed_at timestamptz, is_recurring boolean, checkpoint jsonb, cycle integer, priority integer
)
language plpgsql volatile
set enable_seqscan = off set jit = off set lock_timeout = '100ms'
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_canary job_canaries;
    v_job job_queue;
    v_lanes job_lane[];
    v_keys record;
begin
    for v_canary in
        select * from job_canaries c
        where c.task_type = any (p_types) and c.run_token is null and c.asked_at > v_now - interval '1 minute'
        order by c.id for update skip locked
    loop
        select * into v_job from job_queue q where q.id = v_canary.job_id for update skip locked;
        continue when v_job.status = 'running' or not job_canary_stands(v_canary, v_job);
        continue when v_job.concurrency_key is not null
            and cardinality(job_queue_try_locks(array[v_job.concurrency_key])) = 0;
        continue when (select h.code from job_canary_obstacle(v_job) h) is not null;
        select a.lanes, a.counted_at into v_lanes, v_now from job_limits_admit(
            array[row(v_job.task_type, v_job.priority, null, null, null)::job_lane], p_worker, 1) a;
        continue when cardinality(v_lanes) = 0;
        begin
            v_job := job_queue_make_due(v_job);
            -- A member may have to wait for a blocker again, or is not to run at all, since its canary was asked for.
            perform job_queue_refuse('It has to wait for other members of its flow.')
            where (v_job.status <> 'pending' or v_job.blocked_by is not null) and job_is_member(v_job.id)
                or (select c.final from job_flow_callback(v_job.id) c);
            select k.* into v_keys from job_queue q cross join lateral job_claim_keys(array[q.ctid], v_now) k
            where q.id = v_job.id;
            perform job_queue_refuse('Its key has no place.') where cardinality(v_keys.taken) = 0;
            return query select s.id, s.run_token, s.task_type, s.payload, s.attempt, s.max_attempts, s.due_at, s.claimed_at,
                s.is_recurring, s.checkpoint, s.cycle, 101
            from job_claim_start(p_worker, v_keys.taken, v_keys.jobs, v_keys.places, array(
                select l.task_type from unnest(v_lanes) l where l.room is not null), v_now, p_lease_seconds) s;
        exception
            when sqlstate 'JD001' or lock_not_available or integrity_constraint_violation or data_exception or raise_exception then
            -- Its blocker, its flow, its key or its dedupe key was faster, or a trigger of the application refuses to start it.
            continue;
        end;
        update job_canaries c set run_token = q.run_token from job_queue q where c.id = v_canary.id and q.id = v_job.id;
        return;
    end loop;
end
$$;

-- Asks to run a job as a canary. Of each group of errors (a type and a fingerprint) one is asked for at a time.
create or replace function job_queue_ask_canary(
    p_id uuid, p_version bigint, p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_job job_queue;
    v_fingerprint text;
    v_other job_canaries;
    v_refusal text;
    v_facts jsonb;
    v_canary bigint;
begin
    perform job_refuse_outsiders();
    perform job_queue_judge_canaries();
    if p_id <> all (job_queue_lock_jobs(array[p_id])) then
        return query select p_id, false, 'is-locked', null::jsonb, null::text, null::bigint;
        return;
    end if;
    select * into v_job from job_queue q where q.id = p_id for update;
    if not found then
        return query select p_id, false, job_queue_absence('retry', p_id),
            jsonb_build_object('job', p_id) || job_last_deed(p_id, 0), null::text, null::bigint;
        return;
    end if;
    v_fingerprint := (select r.fingerprint from job_runs r where r.job_id = p_id and r.fingerprint is not null
        order by r.run_token desc limit 1);
    select r.code, r.facts into v_refusal, v_facts from job_queue_refusal('retry', v_job, p_version) r;
    select * into v_other from job_canaries c
    where c.job_id = p_id or c.task_type = v_job.task_type and c.fingerprint = v_fingerprint limit 1;
    if v_refusal is null and found then
        v_refusal := case when v_other.job_id = p_id then 'canary-open' else 'canary-of-group' end;
        v_facts := jsonb_build_object('canary_job', v_other.job_id, 'asked_by', v_other.asked_by, 'asked_at', v_other.asked_at);
    elsif v_refusal is null then
        select l.code, coalesce(l.facts, v_facts) into v_refusal, v_facts from job_left_to_another(v_job.task_type) l;
    end if;
    if v_refusal is null and not exists (select from job_workers w
        where job_worker_is_alive(w.heartbeat_at, clock_timestamp()) and v_job.task_type = any (w.task_types))
    then
        v_refusal := 'canary-no-worker';
        v_facts := jsonb_build_object('task_type', v_job.task_type);
    end if;
    if v_refusal is null and not p_dry_run then
        begin
            insert into job_audit (actor, action, job_id, before, reason)
            values (job_actor(p_actor), 'canary', p_id, job_audit_facts(v_job), p_reason) returning id into v_canary;
            insert into job_canaries (id, job_id, task_type, fingerprint, seen, blocker, after_token, asked_by)
            values (v_canary, p_id, v_job.task_type, v_fingerprint, v_job.version, v_job.blocked_by,
                nextval('job_run_token_seq'), job_actor(p_actor));
            perform pg_notify(current_schema() || '.job_queue', 'canary');
        exception when unique_violation or lock_not_available then
            v_refusal := 'canary-was-faster';
        end;
    end if;
    return query select p_id, v_refusal is null, coalesce(v_refusal, case when p_dry_run then 'would-be-canary'
        when exists (select from job_hold_of(v_job.task_type, v_job.payload)) then 'canary-asked-held'
        else 'canary-asked' end), case when v_refusal is null
        then coalesce(v_facts, '{}') || jsonb_build_object('canary', v_canary) else v_facts end, v_job.status, v_job.version;
end
$$;

-- Ends the requests whose run has ended, whose job was changed, or that no worker has taken within a minute, and writes
-- the answers to the audit. Requests that another session has locked are left to it.
create or replace function job_queue_judge_canaries() returns void
language plpgsql volatile
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_canary job_canaries;
    v_job job_queue;
    v_answer jsonb;
begin
    for v_canary in select * from job_canaries c order by c.id for update skip locked loop
        select * into v_job from job_queue q where q.id = v_canary.job_id;
        if v_canary.run_token is null then
            -- Where nothing is paused, the job may also be claimed in its turn.
            v_canary.run_token := coalesce(case when v_job.run_token > v_canary.after_token then v_job.run_token end,
                (select min(r.run_token) from job_runs r
                where r.job_id = v_canary.job_id and r.run_token > v_canary.after_token));
            update job_canaries c set run_token = v_canary.run_token
            where c.id = v_canary.id and v_canary.run_token is not null;
        end if;
        if v_canary.run_token is not null then
            continue when v_job.run_token = v_canary.run_token;
            v_answer := (select jsonb_build_object('code', 'canary-ended', 'outcome', r.outcome, 'last_error', r.error,
                    'seconds', extract(epoch from r.finished_at - r.started_at), 'run_token', r.run_token,
                    'facts', case when r.dry_run then jsonb_build_object('dry_run', true) end)
                from job_runs r where r.run_token = v_canary.run_token and not r.late);
        elsif not job_canary_stands(v_canary, v_job) then
            -- By the audit: what became of the job between the request and a claim.
            v_answer := (
                select jsonb_build_object('code', 'canary-changed', 'facts', jsonb_build_object('action', a.action,
                    'actor', a.actor, 'status', v_job.status))
                from (select 1) one left join lateral (
                    select c.action, c.actor from job_audit c
                    where c.job_id = v_canary.job_id and c.id > v_canary.id
                        and c.action not in ('canary', 'canary ended', 'reveal')
                    order by c.id limit 1) a on true);
        elsif v_canary.asked_at <= v_now - interval '1 minute' then
            v_answer := (select jsonb_build_object(
                'code', case when h.code is null then 'canary-not-taken' else 'canary-held' end,
                'facts', coalesce(h.facts, '{}') || jsonb_build_object('held_by', h.code))
                from job_canary_obstacle(v_job) h);
        else
            continue;
        end if;
        insert into job_audit (actor, action, job_id, after)
        values (v_canary.asked_by, 'canary ended', v_canary.job_id, jsonb_strip_nulls(jsonb_build_object('canary',
            v_canary.id, 'task_type', v_canary.task_type) || coalesce(v_answer,
                jsonb_build_object('code', 'canary-vanished'))));
        delete from job_canaries c where c.id = v_canary.id;
    end loop;
end
$$;

-- The state of a request, `waiting`, `running` or `ended`, and then its answer: the outcome of the run, or a code that
-- says why there was none. No row for an id that is none.
create or replace function job_queue_canary(p_canary bigint)
returns table (
    job_id uuid, state text, code text, facts jsonb, outcome text, error text, seconds double precision,
    asked_at timestamptz
)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
    perform job_refuse_outsiders();
    perform job_queue_judge_canaries();
    return query
    select c.job_id, case when c.run_token is null then 'waiting' else 'running' end,
        case when c.run_token is not null then 'canary-runs' else coalesce(h.code, 'canary-waits') end,
        coalesce(h.facts, '{}'), null::text, null::text, null::double precision, c.asked_at
    from job_canaries c left join job_queue q on q.id = c.job_id
    left join lateral job_canary_obstacle(q) h on c.run_token is null
    where c.id = p_canary;
    if found then
        return;
    end if;
    return query
    select e.job_id, 'ended', e.after ->> 'code', coalesce(e.after -> 'facts', '{}'), e.after ->> 'outcome',
        e.after ->> 'last_error', (e.after ->> 'seconds')::double precision, a.at
    from job_audit a join job_audit e on e.job_id = a.job_id and e.action = 'canary ended' and e.id > a.id
        and (e.after ->> 'canary')::bigint = p_canary
    where a.id = p_canary and a.action = 'canary';
end
$$;

-- The clauses for a job that is asked for as a canary: pauses, due time and expiry do not hold it.
create or replace function job_queue_why_canary(p_job job_queue, p_workers integer, p_handling integer)
returns table (place integer, clause text, holds boolean, code text, facts jsonb)
language sql stable
as $$
    select 1, 'canary', true, 'canary-requested', jsonb_build_object('asked_by', c.asked_by, 'asked_at', c.asked_at)
    from job_canaries c where c.job_id = p_job.id
    union all
    select 2, 'worker', p_handling > 0, case when p_workers = 0 then 'no-worker' when p_handling = 0
        then 'no-worker-for-type' when p_workers = 1 then 'one-worker' else 'some-workers' end,
        jsonb_build_object('workers', p_workers, 'handling', p_handling)
    union all
    select 3, 'nothing else holds it', h.code is null, coalesce(h.code, 'canary-free'), h.facts
    from job_canary_obstacle(p_job) h
$$;
