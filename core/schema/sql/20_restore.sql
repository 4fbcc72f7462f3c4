-- Undoing a deletion, and editing a job.

-- Moves jobs out of the trash, back to the state they were in. Running jobs cannot be deleted, so none of them runs.
create or replace function job_queue_restore(
    p_ids uuid[], p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_group uuid[];
    v_back uuid[] := '{}';
    v_locked uuid[] := '{}';
    v_keys text[];
begin
    perform job_refuse_outsiders();
    perform from job_trash t where t.job_id = any (p_ids) order by t.job_id for update;
    -- A job that gets its dedupe key back is restored by itself, because another transaction may have the key. No key holds up
    -- the others, which are restored together.
    for v_group in
        select array_agg(t.job_id) from job_trash t where t.job_id = any (p_ids) and not p_dry_run
            and not (t.job ->> 'status' = 'pending' and (select coalesce(c.final, false) from job_flow_callback(t.job_id) c))
        group by case when t.job ->> 'status' = 'pending' and t.job ->> 'dedupe_key' is not null then t.job_id end
        order by 1
    loop
        begin
            with back as (
                insert into job_queue
                select j.* from job_trash t cross join jsonb_populate_record(null::job_queue, t.job || jsonb_build_object(
                    'version', (t.job ->> 'version')::bigint + 1, 'updated_at', clock_timestamp(),
                    'blocked_by', case when not job_is_hold((t.job ->> 'blocked_by')::uuid) then t.job -> 'blocked_by' end,
                    'in_line', t.job ->> 'status' = 'pending' and t.job ->> 'concurrency_key' is not null)) j
                where t.job_id = any (v_group)
                on conflict do nothing
                returning job_queue.id, job_queue.concurrency_key, job_audit_facts(job_queue) as facts
            ), gone as (
                delete from job_trash t using back b where t.job_id = b.id
            ), noted as (
                insert into job_audit (actor, action, job_id, after, reason)
                select job_actor(p_actor), 'restore', b.id, b.facts, p_reason from back b order by b.id
            )
            select v_back || array_agg(b.id), v_keys || array_agg(b.concurrency_key) into v_back, v_keys from back b;
        exception when lock_not_available then
            -- A transaction that has not ended enqueues a job with the key. It may hold those of the next jobs too.
            set local lock_timeout = '1ms';
            v_locked := v_locked || v_group;
        end;
    end loop;
    perform job_flow_wait_again(v_back);
    perform job_queue_advance_lines(v_keys);
    return query
    select a.id, s.status is not null, r.code, case
            when s.status is not null then jsonb_build_object('status', s.status)
            when r.code = 'key-held' then jsonb_build_object('holder', h.holder)
            when r.code = 'flow-final' then jsonb_build_object('callback', f.callback) end,
        s.status, s.version
    from (select distinct unnest(p_ids)) a (id)
    left join job_trash t on t.job_id = a.id
    cross join lateral (
        select case when t.job ->> 'status' = 'pending' then job_queue_holder(t.job ->> 'dedupe_key') end as holder) h
    left join lateral job_flow_callback(t.job_id) f on t.job ->> 'status' = 'pending'
    cross join lateral (
        select case
            when a.id = any (v_back) then 'was-restored'
            when t.job_id is null then 'not-in-trash'
            when f.final then 'flow-final'
            when a.id = any (v_locked) then 'key-locked'
            when h.holder is not null then 'key-held'
            when p_dry_run then 'would-restore'
            else 'key-taken' end as code) r
    left join lateral (
        select q.status, q.version from job_queue q where q.id = a.id and r.code = 'was-restored'
        union all
        select t.job ->> 'status', (t.job ->> 'version')::bigint where r.code = 'would-restore') s on true
    order by a.id;
end
$$;

-- Changes payload, schedule or limits of a job that is not running. Keys of p_changes: payload, run_at,
-- recurrence_interval_minutes, schedule, slots, expires_at, priority, max_attempts, timeout (the job's own, in seconds), and
-- with a payload its concurrency_key.
-- The caller has validated payload and schedule.
create or replace function job_queue_edit(
    p_id uuid, p_version bigint, p_changes jsonb, p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_job job_queue;
    v_new job_queue;
    v_refusal text;
    v_unknown text;
    v_timeout constant double precision := case when jsonb_typeof(p_changes -> 'timeout') = 'number'
        then (p_changes ->> 'timeout')::double precision end;
    v_old_timeout double precision;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue q where q.id = p_id for update;
    select t.seconds into v_old_timeout from job_timeouts t where t.job_id = p_id and p_changes ? 'timeout';
    select string_agg(k, ', ' order by k) into v_unknown from jsonb_object_keys(p_changes) k
    where k not in ('payload', 'run_at', 'recurrence_interval_minutes', 'schedule', 'slots', 'expires_at', 'priority',
        'max_attempts', 'timeout', 'concurrency_key');
    -- A given key replaces the old value, also with null; all others keep it.
    v_new := jsonb_populate_record(v_job, p_changes);
    v_new.is_recurring := v_new.recurrence_interval_minutes is not null or v_new.schedule is not null;
    if v_new.slots is null and v_new.run_at >= job_no_slot() and not p_changes ? 'run_at' then
        v_new.run_at := clock_timestamp();
    end if;
    v_refusal := case
        when v_job.id is null then job_queue_absence('edit', p_id)
        when p_version <> v_job.version then 'has-changed'
        when v_unknown is not null then 'not-editable'
        when p_changes = '{}' then 'no-changes'
        when v_new.recurrence_interval_minutes <= 0 then 'bad-interval'
        when jsonb_typeof(v_new.payload) is distinct from 'object' then 'bad-payload'
        when not job_schedule_fits(v_new.is_recurring, v_new.recurrence_interval_minutes, v_new.schedule, v_new.slots)
            then 'bad-schedule'
        when v_job.blocked_by = v_job.id and not v_new.is_recurring then 'series-paused'
        when v_new.is_recurring and job_is_member(p_id) then 'member-recurs'
        when v_new.is_recurring and not v_job.is_recurring and job_flow_asks(p_id) then 'blocker-recurs'
        when v_new.run_at is null then 'bad-due-time'
        when not (job_is_a_time(v_new.run_at) and job_is_a_time(v_new.expires_at)) then 'bad-time'
        when octet_length(v_new.concurrency_key) > 1000 then 'bad-key'
        when v_new.priority is null or not job_priority_fits(v_new.priority) then 'bad-priority'
        when v_new.max_attempts is null or v_new.max_attempts < 1 then 'bad-attempts'
        when p_changes -> 'timeout' <> 'null' and job_timeout_fits(v_timeout) is not true then 'bad-timeout'
        when v_job.status = 'running' then 'edit-running'
        when v_job.status = 'succeeded' then 'edit-succeeded'
    end;
    if v_refusal is not null or p_dry_run then
        return query select p_id, v_refusal is null, coalesce(v_refusal, 'would-edit'),
            jsonb_build_object('status', v_job.status, 'names', v_unknown, 'job', p_id)
                || case when v_refusal in ('has-changed', 'is-deleted') then job_last_deed(p_id, coalesce(p_version, 0))
                    else '{}' end,
            v_job.status, v_job.version;
        return;
    end if;
    update job_queue q set
        payload = v_new.payload, run_at = v_new.run_at, priority = v_new.priority, expires_at = v_new.expires_at,
        max_attempts = v_new.max_attempts, recurrence_interval_minutes = v_new.recurrence_interval_minutes,
        schedule = v_new.schedule, slots = v_new.slots,
        is_recurring = v_new.is_recurring, concurrency_key = v_new.concurrency_key,
        anchor_at = case
            when not v_new.is_recurring then null
            when v_new.run_at <> v_job.run_at or v_job.anchor_at is null or v_job.slots is not null then v_new.run_at
            else v_job.anchor_at
        end,
        slot_at = case when v_new.run_at = v_job.run_at and v_new.is_recurring then q.slot_at end,
        -- A claim looks whether a hold keeps it still.
        blocked_by = case when not job_is_hold(q.blocked_by) then q.blocked_by end,
        in_line = q.status = 'pending' and v_new.concurrency_key is not null,
        updated_at = clock_timestamp(), version = q.version + 1
    where q.id = p_id returning * into v_new;
    if p_changes ? 'timeout' then
        delete from job_timeouts t where t.job_id = p_id;
        insert into job_timeouts select p_id, v_timeout where v_timeout is not null;
    end if;
    perform job_queue_advance_lines(array[v_job.concurrency_key, v_new.concurrency_key]);
    perform job_queue_write_audit(p_actor, 'edit', p_id, job_audit_facts(v_job) || (
        select coalesce(jsonb_object_agg(o.key, o.value), '{}')
        from jsonb_each(to_jsonb(v_job) || jsonb_build_object('timeout', v_old_timeout)) o where p_changes ? o.key
    ), job_audit_facts(v_new) || p_changes, p_reason);
    perform pg_notify(current_schema() || '.job_queue', '');
    return query select p_id, true, 'was-edited', null::jsonb, v_new.status, v_new.version;
end
$$;
