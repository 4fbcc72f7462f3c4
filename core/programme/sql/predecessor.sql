-- Removes objects of the original application that schema.sql replaces.

-- roles.sql creates it again. The version of an earlier release may call functions that no longer exist.
drop function if exists public.competition_grant_roles();

-- Once, when the competition is installed: some functions of the original have the names of Jobdeck's, and what was
-- granted on those must stay. Databases of 0.1.0, whose table of versions has no components, have the competition.
do $$
declare
    v_installed boolean := false;
begin
    if to_regclass('public.jobdeck_schema') is not null then
        v_installed := exists (select from public.jobdeck_schema s
            where coalesce(to_jsonb(s) ->> 'component', 'competition') = 'competition');
    end if;
    if v_installed then
        return;
    end if;
    -- The original's runner has the queue until somebody switches.
    if to_regprocedure('public.job_queue_mark_succeeded(uuid, jsonb)') is not null then
        perform set_config('jobdeck.took_over', 'on', true);
    end if;
    -- The queue's functions set updated_at. A trigger would cost each claim and finish one call per row.
    if to_regclass('public.job_queue') is not null then
        drop trigger if exists job_queue_set_updated_at on public.job_queue;
        alter table public.job_queue drop constraint if exists recurring_jobs_must_have_interval;
    end if;
    drop index if exists public.idx_job_queue_status_run_at;
    drop index if exists public.idx_job_queue_task_type;
    drop index if exists public.idx_job_queue_recurring_next_run;
    drop function if exists public.job_queue_claim(integer);
    drop function if exists public.job_queue_mark_succeeded(uuid, jsonb);
    drop function if exists public.job_queue_mark_failed(uuid, text, integer);
    drop function if exists public.job_queue_mark_failed(uuid, text, interval);
    drop function if exists public.job_queue_enqueue(text, jsonb, timestamptz, integer);
    drop function if exists public.job_queue_cleanup(interval);
end
$$;
