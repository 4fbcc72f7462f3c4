-------------------------------------------------------------------------------------------------------
-- The jobs of the original application, and the functions that its runner calls
-------------------------------------------------------------------------------------------------------

-- The original accepted a recurring job without an interval, and ran it only once.
update public.job_queue
set status = 'failed', completed_at = now(), last_outcome = 'failed', last_error =
    'This recurring job has no interval and could never run again. Edit it to give it one, then retry it.',
    run_token = null, lease_expires_at = null, locked_by = null, started_at = null
where is_recurring and coalesce(recurrence_interval_minutes, 0) <= 0 and schedule is null
    and status in ('pending', 'running');

-- In the original, a recurring job that had run was due at last_run_at + interval, and its attempts were those of all its
-- cycles, so that its first cycle here would have no retry. After `jobdeck cutover undo` it had the queue once more, so what
-- this queue wrote before holds no more.
update public.job_queue
set attempts = 0, slot_at = null, anchor_at = last_run_at + make_interval(mins => recurrence_interval_minutes),
    run_at = last_run_at + make_interval(mins => recurrence_interval_minutes)
where is_recurring and (anchor_at is null or current_setting('jobdeck.took_over', true) = 'on')
    and last_run_at is not null and status = 'pending' and recurrence_interval_minutes > 0;

-- The name under which the original's runner claims and reports.
create or replace function public.competition_earlier_runner() returns text
language sql immutable parallel safe
return 'the earlier runner';

-- What `held_by` says while that runner has the queue.
create or replace function public.competition_hold() returns text
language sql immutable parallel safe
return public.competition_earlier_runner() || ' until "jobdeck cutover switch"';

-- A series that runs has the slot of this run from the original. Its claim looked at no line and no blocker.
update public.job_queue
set locked_by = public.competition_earlier_runner(), in_line = false, blocked_by = null, slot_at = null,
    anchor_at = case when is_recurring then run_at end, attempts = case when is_recurring then 1 else attempts end
where status = 'running' and current_setting('jobdeck.took_over', true) = 'on';

-- After an undo, nobody noticed how the jobs ended that others wait for, and pages inserted jobs without a key.
update public.job_queue q set in_line = false, blocked_by = null
where q.status = 'pending' and (q.in_line or q.blocked_by is not null)
    and not exists (select from public.job_queue b where b.id = q.blocked_by and b.status in ('pending', 'running'))
    and current_setting('jobdeck.took_over', true) = 'on';
update public.job_types set keyless = true
where concurrency is not null and current_setting('jobdeck.took_over', true) = 'on';

do $$
begin
    if exists (select from pg_trigger where tgrelid = 'public.job_queue'::regclass
        and tgname = 'job_queue_set_updated_at' and tgenabled = 'D')
    then
        alter table public.job_queue enable trigger job_queue_set_updated_at;
    end if;
end
$$;

-- The earlier runner of the original application calls these functions. Their names, arguments and results are the
-- original's; what they do goes through this queue: a run has a token, a lease of 20 minutes, and a line in the history.
-- It gets all jobs while it has the queue, and afterwards those of the types that are set aside for it. Its claim does the
-- upkeep that jobs may wait for, because there may be no worker yet: runs that have died come back, and lines advance.
create or replace function public.job_queue_claim(p_limit integer default 5) returns setof public.job_queue
language plpgsql security definer
set search_path = public, pg_temp
as $$
declare
    v_ids uuid[];
begin
    perform public.job_refuse_outsiders();
    perform public.job_queue_upkeep('lost', 30.0, 3600.0);
    perform public.job_queue_upkeep('recheck', 30.0, 3600.0);
    v_ids := array(
        select c.id from public.job_queue_claim(public.competition_earlier_runner(), public.job_queue_waiting_types(),
            p_limit, 1200.0, p_outside => true) c);
    -- A statement of its own, which sees what the claim has changed.
    return query select q.* from public.job_queue q where q.id = any (v_ids);
end
$$;

-- Reports a run of the earlier runner, and returns the job as the original's functions did: one that has left the queue
-- as it would be there. A job that this runner does not hold is not changed, because its lease has ended.
create or replace function public.job_earlier_report(p_job_id uuid, p_outcome text, p_details jsonb)
returns public.job_queue
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_job public.job_queue;
    v_after public.job_queue;
begin
    perform public.job_refuse_outsiders();
    select * into v_job from public.job_queue q where q.id = p_job_id;
    if v_job.status is distinct from 'running' or v_job.locked_by <> public.competition_earlier_runner() then
        return v_job;
    end if;
    for attempt in 1..20 loop
        begin
            perform public.job_queue_finish(v_job.locked_by, array[v_job.id], array[v_job.run_token], array[p_outcome],
                array[v_job.started_at], array[clock_timestamp()], array[p_details], 30.0, 3600.0);
            exit;
        exception when lock_not_available then
            -- Somebody else has the row. The runner must not take this for a failure of the job.
            if attempt = 20 then
                raise;
            end if;
        end;
    end loop;
    select * into v_after from public.job_queue q where q.id = p_job_id;
    if found then
        return v_after;
    end if;
    v_job.status := 'succeeded';
    v_job.output := p_details -> 'output';
    v_job.last_error := null;
    v_job.last_run_at := null;
    return v_job;
end
$$;

create or replace function public.job_queue_mark_succeeded(p_job_id uuid, p_output jsonb default null)
returns public.job_queue
language sql security definer
set search_path = public, pg_temp
as $$ select public.job_earlier_report(p_job_id, 'succeeded', jsonb_build_object('output', p_output)) $$;

-- As in the original, a failure is final unless a delay is given. A series goes on at its next slot.
create or replace function public.job_queue_mark_failed(p_job_id uuid, p_error text, p_retry_in_ms integer default null)
returns public.job_queue
language sql security definer
set search_path = public, pg_temp
as $$
    select public.job_earlier_report(p_job_id, 'failed', jsonb_build_object('error_kind', 'earlier_runner', 'error', p_error,
        'permanent', p_retry_in_ms is null, 'retry_after', greatest(p_retry_in_ms, 0) / 1000.0))
$$;

create or replace function public.job_queue_mark_failed(
    p_id uuid, p_error text, p_retry_in interval default interval '5 minutes'
) returns public.job_queue
language sql security definer
set search_path = public, pg_temp
as $$
    select public.job_earlier_report(p_id, 'failed', jsonb_build_object('error_kind', 'earlier_runner', 'error', p_error,
        'retry_after', greatest(extract(epoch from p_retry_in), 0)))
$$;

-- Once that runner cannot come back, nobody calls these.
do $$
begin
    if exists (select from public.jobdeck_replaced r where r.kind = 'left') then
        drop function public.job_queue_claim(integer);
        drop function public.job_queue_mark_succeeded(uuid, jsonb);
        drop function public.job_queue_mark_failed(uuid, text, integer);
        drop function public.job_queue_mark_failed(uuid, text, interval);
        drop function public.job_earlier_report(uuid, text, jsonb);
    end if;
end
$$;

-- Beside a running application, its runner has the queue until somebody switches.
update public.job_queue_settings set held_by = public.competition_hold()
where id = 1 and current_setting('jobdeck.took_over', true) = 'on';
