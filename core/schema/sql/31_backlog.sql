-- The backlog over time, and one slot of a series.

-- The most jobs that were due and waited for a worker in each bucket, by type. `minutes` is the length of a bucket: 5, 15,
-- 120 or 480, as in job_stats. The empty type has all types together; without this row, nobody counted. Once a minute the
-- part 'backlog' of upkeep counts.
create table if not exists job_backlog (
    minutes smallint not null,
    bucket timestamptz not null,
    task_type text not null,
    waiting bigint not null,
    at_least boolean not null,
    primary key (minutes, bucket, task_type)
) with (fillfactor = 70);

insert into job_upkeep (part, every) values ('backlog', '1 min') on conflict (part) do nothing;
insert into job_retention (name, part, default_days) values ('job_backlog', 'prune', 30)
on conflict (name) do update set part = excluded.part, default_days = excluded.default_days;

-- The pauses of a window, among all that operators did in it.
create index if not exists job_audit_pauses on job_audit (at) where action in ('pause', 'resume');

-- Counts the backlog for the present buckets. Returns the number of types with one.
create or replace function job_backlog_sample() returns bigint
language sql volatile
as $$
    with found as materialized (
        select b.task_type, b.overdue as waiting, b.overdue_at_least as at_least
        from job_queue_backlog(interval '0', 10001) b where b.overdue > 0
    ), counted as (
        select f.task_type, f.waiting, f.at_least from found f where f.task_type <> ''
        union all
        select '', coalesce(sum(f.waiting), 0), coalesce(bool_or(f.at_least), false) from found f
    ), kept as (
        insert into job_backlog as b (minutes, bucket, task_type, waiting, at_least)
        select l.minutes, job_stat_bucket(l.minutes, clock_timestamp()), c.task_type, c.waiting, c.at_least
        from counted c cross join unnest(array[5, 15, 120, 480]::smallint[]) as l (minutes)
        on conflict (minutes, bucket, task_type) do update set
            at_least = case when excluded.waiting > b.waiting then excluded.at_least else b.at_least end,
            waiting = greatest(b.waiting, excluded.waiting)
    )
    select count(*) from found
$$;

-- Why this cannot be done with a series: 'skip', 'pause' or 'resume'; null if it can. p_next is the slot that it runs at then.
create or replace function job_series_refusal(
    p_job job_queue, p_version bigint, p_action text, p_next timestamptz
) returns text
language sql immutable
return case
    when p_version <> (p_job).version then 'has-changed'
    when p_action = 'skip' then case
        when not (p_job).is_recurring then 'skip-once'
        when (p_job).status = 'running' then 'skip-running'
        when (p_job).status <> 'pending' then 'skip-ended'
        when (p_job).blocked_by = (p_job).id then 'series-paused'
        when p_next >= job_no_slot() then 'skip-without-slots'
        when (p_job).expires_at <= p_next then 'skip-last' end
    when not (p_job).is_recurring then 'pause-once'
    when (p_job).status not in ('pending', 'running') then 'pause-ended'
    when p_action = 'pause' and (p_job).blocked_by = (p_job).id then 'already-paused'
    when p_action = 'pause' and (p_job).blocked_by is not null then 'pause-blocked'
    when p_action = 'resume' and (p_job).blocked_by is distinct from (p_job).id then 'not-paused'
end;

-- Skips the next run of a series, pauses one series, or resumes it (p_action is 'skip', 'pause' or 'resume').
-- A skipped series is due at the slot after its next run. A late run counts as the next one, and so does the retry of a failed
-- one. A paused series blocks itself, so it is in no index of the claim, and no claim has to look at anything more. A
-- running cycle ends as usual. A resumed series runs at its next slot: missed ones are not made up.
create or replace function job_series_act(
    p_id uuid, p_version bigint, p_action text, p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_job job_queue;
    v_after job_queue;
    v_from timestamptz;
    v_next timestamptz;
    v_facts jsonb;
    v_refusal text;
begin
    perform job_refuse_outsiders();
    perform job_queue_refuse(format('A series has no action %s. Nothing was changed.', p_action))
    where p_action in ('skip', 'pause', 'resume') is not true;
    begin
        select * into v_job from job_queue q where q.id = p_id for update;
    exception when lock_not_available then
        return query select p_id, false, 'is-locked', null::jsonb, null::text, null::bigint;
        return;
    end;
    if v_job.id is null then
        return query select p_id, false, job_queue_absence('edit', p_id), jsonb_build_object('job', p_id), null::text,
            null::bigint;
        return;
    end if;
    -- The time after which its next slot is looked for; null if it stays where it is.
    v_from := case
        when p_action = 'skip' then greatest(coalesce(v_job.slot_at, v_job.run_at),
            case when not job_series_runs_all(v_job.schedule) then v_now end)
        when p_action = 'resume' and v_job.status = 'pending' and v_job.run_at <= v_now then v_now end;
    v_next := case when v_from is null then v_job.run_at
        else job_series_slot(v_job.recurrence_interval_minutes, v_job.schedule, v_job.slots,
            coalesce(v_job.anchor_at, v_job.run_at), v_from) end;
    v_refusal := job_series_refusal(v_job, p_version, p_action, v_next);
    v_facts := jsonb_build_object('status', v_job.status, 'run_at', v_next, 'blocker', v_job.blocked_by, 'job', p_id);
    if v_refusal is not null or p_dry_run then
        return query select p_id, v_refusal is null, coalesce(v_refusal, case p_action
            when 'skip' then 'would-skip' when 'pause' then 'would-pause' else 'would-resume' end),
            v_facts, v_job.status, v_job.version;
        return;
    end if;
    update job_queue q set
        blocked_by = case p_action when 'pause' then q.id when 'skip' then q.blocked_by end, run_at = v_next,
        slot_at = case when v_from is null then q.slot_at end,
        attempts = case when v_from is null then q.attempts else 0 end,
        anchor_at = case when p_action = 'skip' then v_next else coalesce(q.anchor_at, q.run_at) end,
        in_line = q.status = 'pending' and q.concurrency_key is not null, updated_at = v_now, version = q.version + 1
    where q.id = p_id;
    perform job_queue_advance_lines(array[v_job.concurrency_key]);
    select * into v_after from job_queue q where q.id = p_id;
    perform job_queue_write_audit(p_actor, case p_action when 'skip' then 'skip' else p_action || ' series' end, p_id,
        job_audit_facts(v_job), job_audit_facts(v_after), p_reason);
    perform pg_notify(current_schema() || '.job_queue', '');
    return query select p_id, true, case p_action
        when 'skip' then 'was-skipped' when 'pause' then 'was-paused' else 'was-resumed' end,
        v_facts, v_after.status, v_after.version;
end
$$;
