-- Removes objects of the original application that schema.sql replaces.

-- roles.sql creates it again. The version of an earlier release may call functions that no longer exist.
drop function if exists public.competition_grant_roles();

-- The queue's functions set updated_at. A trigger would cost each claim and finish one call per row.
do $$
begin
    if to_regclass('public.job_queue') is not null then
        drop trigger if exists job_queue_set_updated_at on public.job_queue;
        alter table public.job_queue drop constraint if exists recurring_jobs_must_have_interval;
    end if;
end
$$;

drop index if exists public.idx_job_queue_status_run_at;
drop index if exists public.idx_job_queue_task_type;
drop index if exists public.idx_job_queue_recurring_next_run;

drop function if exists public.job_queue_claim(integer);
drop function if exists public.job_queue_mark_succeeded(uuid, jsonb);
drop function if exists public.job_queue_mark_failed(uuid, text, integer);
drop function if exists public.job_queue_mark_failed(uuid, text, interval);
drop function if exists public.job_queue_enqueue(text, jsonb, timestamptz, integer);
drop function if exists public.job_queue_cleanup(interval);
