-------------------------------------------------------------------------------------------------------
-- The jobs of the original application, and the functions that its runner calls
-------------------------------------------------------------------------------------------------------

-- The original accepted a recurring job without an interval, and ran it only once.
update public.job_queue
set status = 'failed', completed_at = now(), last_outcome = 'failed', last_error =
    'This recurring job has no interval and could never run again. Edit it to give it one, then retry it.',
    run_token = null, lease_expires_at = null, locked_by = null, started_at = null
where is_recurring and coalesce(recurrence_interval_minutes, 0) <= 0 and status in ('pending', 'running');

-- In the original, a recurring job that had run was due at last_run_at + interval.
update public.job_queue
set anchor_at = last_run_at + make_interval(mins => recurrence_interval_minutes),
    run_at = last_run_at + make_interval(mins => recurrence_interval_minutes)
where is_recurring and anchor_at is null and last_run_at is not null and status = 'pending'
    and recurrence_interval_minutes > 0;

create or replace function public.job_queue_refuse_old_runner(p_function text) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    raise exception using errcode = 'JD001', message = format(
        '%s belongs to the earlier runner, which carries no run token and so could finish a job that another '
        'worker holds. Nothing was changed. Stop that runner and start "jobdeck worker".', p_function);
end
$$;

create or replace function public.job_queue_claim(p_limit integer default 5) returns setof public.job_queue
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform public.job_queue_refuse_old_runner('job_queue_claim(limit)');
end
$$;

create or replace function public.job_queue_mark_succeeded(p_job_id uuid, p_output jsonb default null)
returns public.job_queue
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform public.job_queue_refuse_old_runner('job_queue_mark_succeeded');
    return null;
end
$$;

create or replace function public.job_queue_mark_failed(p_job_id uuid, p_error text, p_retry_in_ms integer default null)
returns public.job_queue
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform public.job_queue_refuse_old_runner('job_queue_mark_failed');
    return null;
end
$$;

create or replace function public.job_queue_mark_failed(
    p_id uuid, p_error text, p_retry_in interval default interval '5 minutes'
) returns public.job_queue
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform public.job_queue_refuse_old_runner('job_queue_mark_failed');
    return null;
end
$$;
