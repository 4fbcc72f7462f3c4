-- What the original application left that must be out of the way before schema.sql, which makes its own.

-- roles.sql makes it again. What an earlier release made may name functions that are gone.
drop function if exists public.competition_grant_roles();

-- The queue's functions set updated_at; a trigger for it costs every claim and finish a call per row.
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
