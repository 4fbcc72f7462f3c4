-- The queue of the original application as its database held it: tables, indexes, trigger, policies, grants and
-- functions, and rows in every state that it could leave behind. Times are relative to now. The owner of the database runs
-- it; tests/support/original.py makes the roles before.

grant usage on schema public to anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;

create function public.is_admin_user() returns boolean language sql stable security definer
as $$ select current_setting('request.is_admin', true) = 'true' $$;

create table public.job_queue (
    id uuid not null default gen_random_uuid(),
    task_type text not null,
    payload jsonb not null default '{}'::jsonb,
    status text not null default 'pending',
    run_at timestamptz not null default now(),
    attempts integer not null default 0,
    max_attempts integer not null default 5,
    last_error text,
    output jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    completed_at timestamptz,
    is_recurring boolean not null default false,
    recurrence_interval_minutes integer,
    expires_at timestamptz,
    last_run_at timestamptz,
    constraint job_queue_pkey primary key (id),
    constraint job_queue_status_check
        check (status = any (array['pending', 'running', 'succeeded', 'failed', 'cancelled'])),
    constraint job_queue_attempts_check check (attempts >= 0 and max_attempts >= 1),
    -- A recurring row with a null interval makes this unknown, which passes.
    constraint recurring_jobs_must_have_interval check (
        (is_recurring = false and recurrence_interval_minutes is null)
        or (is_recurring = true and recurrence_interval_minutes > 0)
    )
);
create index idx_job_queue_status_run_at on public.job_queue (status, run_at);
create index idx_job_queue_task_type on public.job_queue (task_type);
create index idx_job_queue_recurring_next_run on public.job_queue (is_recurring, last_run_at, run_at)
    where is_recurring = true and status = 'pending';

create function public.set_job_queue_updated_at() returns trigger language plpgsql
as $$ begin new.updated_at := now(); return new; end $$;
create trigger job_queue_set_updated_at before update on public.job_queue
    for each row execute function public.set_job_queue_updated_at();

create table public.job_queue_settings (
    id integer primary key default 1,
    processing_enabled boolean not null default true,
    paused_reason text,
    updated_at timestamptz not null default now(),
    constraint job_queue_settings_singleton check (id = 1)
);
create trigger job_queue_settings_set_updated_at before update on public.job_queue_settings
    for each row execute function public.set_job_queue_updated_at();

create table public.job_worker_runs (
    id uuid primary key default gen_random_uuid(),
    started_at timestamptz not null default now(),
    completed_at timestamptz,
    source text not null,
    http_method text,
    user_agent text,
    status text,
    processed integer not null default 0,
    succeeded integer,
    failed integer,
    message text,
    error_message text,
    results jsonb
);
create index idx_job_worker_runs_started_at_desc on public.job_worker_runs (started_at desc);

alter table public.job_queue enable row level security;
alter table public.job_queue_settings enable row level security;
alter table public.job_worker_runs enable row level security;
create policy job_queue_admin_read on public.job_queue for select to authenticated using (public.is_admin_user());
create policy job_queue_admin_modify on public.job_queue to authenticated using (public.is_admin_user());
create policy job_queue_service_role_full on public.job_queue to service_role using (true) with check (true);
create policy job_queue_settings_admin on public.job_queue_settings to authenticated using (public.is_admin_user());
create policy job_queue_settings_service_role on public.job_queue_settings to service_role using (true);
create policy job_worker_runs_admin_read on public.job_worker_runs for select to authenticated
    using (public.is_admin_user());
create policy job_worker_runs_service_role_full on public.job_worker_runs to service_role using (true);

create function public.job_queue_enqueue(
    p_task_type text, p_payload jsonb default '{}'::jsonb, p_run_at timestamptz default now(),
    p_max_attempts integer default 5
) returns public.job_queue language plpgsql
as $$
declare
    v_job public.job_queue;
begin
    insert into public.job_queue (task_type, payload, run_at, max_attempts)
    values (p_task_type, coalesce(p_payload, '{}'), coalesce(p_run_at, now()), greatest(p_max_attempts, 1))
    returning * into v_job;
    return v_job;
end
$$;

-- Series first, by the slot after their last run; then the others. Neither looks at the pause.
create function public.job_queue_claim(p_limit integer default 5) returns setof public.job_queue
language plpgsql security definer
as $$
declare
    v_taken integer;
begin
    return query update public.job_queue q set status = 'running', attempts = q.attempts + 1,
        run_at = coalesce(q.last_run_at + make_interval(mins => q.recurrence_interval_minutes), q.run_at)
    where q.id in (select d.id from public.job_queue d where d.is_recurring and d.status = 'pending'
            and (d.expires_at is null or d.expires_at > now())
            and case when d.last_run_at is null then d.run_at <= now()
                else d.last_run_at + make_interval(mins => d.recurrence_interval_minutes) <= now() end
        order by d.run_at limit p_limit for update skip locked)
    returning q.*;
    get diagnostics v_taken = row_count;
    return query update public.job_queue q set status = 'running', attempts = q.attempts + 1
    where q.id in (select d.id from public.job_queue d where not d.is_recurring and d.status = 'pending'
            and d.run_at <= now()
        order by d.run_at limit p_limit - v_taken for update skip locked)
    returning q.*;
end
$$;

create function public.job_queue_mark_succeeded(p_job_id uuid, p_output jsonb default null)
returns public.job_queue language sql security definer
as $$
    update public.job_queue set output = p_output, last_error = null,
        status = case when is_recurring then 'pending' else 'succeeded' end,
        last_run_at = case when is_recurring then now() end
    where id = p_job_id returning *
$$;

-- The first run of a series that fails without a delay has no next time, which its column refuses.
create function public.job_queue_mark_failed(p_job_id uuid, p_error text, p_retry_in_ms integer default null)
returns public.job_queue language sql security definer
as $$
    update public.job_queue set last_error = p_error,
        status = case when is_recurring or (attempts < max_attempts and p_retry_in_ms is not null)
            then 'pending' else 'failed' end,
        run_at = case
            when p_retry_in_ms is not null and (is_recurring or attempts < max_attempts)
                then now() + make_interval(secs => p_retry_in_ms / 1000.0)
            when is_recurring then last_run_at + make_interval(mins => recurrence_interval_minutes)
            else run_at end,
        last_run_at = case when is_recurring then now() end
    where id = p_job_id returning *
$$;

create function public.job_queue_mark_failed(
    p_id uuid, p_error text, p_retry_in interval default interval '5 minutes'
) returns public.job_queue language sql
as $$ update public.job_queue set last_error = p_error, status = 'failed' where id = p_id returning * $$;

create function public.job_queue_cleanup(p_max_age interval default interval '14 days') returns integer
language plpgsql
as $$
declare
    v_deleted integer;
begin
    delete from public.job_queue where status in ('succeeded', 'cancelled')
        and coalesce(completed_at, updated_at, run_at) < now() - p_max_age
    returning 1 into strict v_deleted;
    return v_deleted;
end
$$;

create function public.job_queue_health() returns jsonb language sql security definer set search_path = public
as $$ select jsonb_build_object('jobs', (select count(*) from public.job_queue)) $$;

-- The settings row is missing: the migration that put it there has been deleted.
insert into public.job_queue (id, task_type, payload, status, run_at, attempts, max_attempts, last_error, output,
    created_at, updated_at, completed_at, is_recurring, recurrence_interval_minutes, expires_at, last_run_at)
values
    ('f1000000-0000-4000-8000-000000000001', 'due', '{"dryRun": true}', 'pending', now() - interval '1 hour', 0, 3,
        null, null, now() - interval '2 hours', now() - interval '2 hours', null, false, null, null, null),
    ('a1000000-0000-4000-8000-000000000002', 'later', '{}', 'pending', now() + interval '1 hour', 0, 5, null, null,
        now() - interval '2 hours', now() - interval '2 hours', null, false, null, null, null),
    ('31000000-0000-4000-8000-000000000003', 'running_now', '{}', 'running', now() - interval '6 minutes', 1, 5, null,
        null, now() - interval '1 day', now() - interval '5 minutes', null, false, null, null, null),
    ('e1000000-0000-4000-8000-000000000004', 'left_running', '{}', 'running', now() - interval '2 days', 1, 5, null,
        null, now() - interval '3 days', now() - interval '2 days', null, false, null, null, null),
    ('51000000-0000-4000-8000-000000000005', 'succeeded', '{}', 'succeeded', now() - interval '1 day', 1, 3, null,
        '{"total": 3}', now() - interval '2 days', now() - interval '1 day', null, false, null, null, null),
    ('91000000-0000-4000-8000-000000000006', 'failed', '{"coachId": null}', 'failed', now() - interval '5 hours', 3, 3,
        'Request timed out', null, now() - interval '6 hours', now() - interval '5 hours', null, false, null, null,
        null),
    ('71000000-0000-4000-8000-000000000007', 'cancelled', '{}', 'cancelled', now() - interval '5 hours', 7, 5,
        'It broke', null, now() - interval '6 hours', now() - interval '4 hours', now() - interval '4 hours', false,
        null, null, null),
    ('b1000000-0000-4000-8000-000000000008', 'series', '{"n": 1}', 'pending', now() - interval '25 minutes', 412, 5,
        null, '{"total": 9}', now() - interval '90 days', now() - interval '10 minutes', null, true, 15, null,
        now() - interval '10 minutes'),
    ('c1000000-0000-4000-8000-000000000009', 'new_series', '{}', 'pending', now() - interval '1 minute', 0, 5, null,
        null, now() - interval '1 hour', now() - interval '1 hour', null, true, 60, now() + interval '30 days', null),
    ('d1000000-0000-4000-8000-00000000000a', 'failing_series', '{}', 'pending', now() - interval '2 hours', 37, 5,
        'Vendor said no', null, now() - interval '9 days', now() - interval '2 hours', null, true, 60, null,
        now() - interval '2 hours'),
    ('21000000-0000-4000-8000-00000000000b', 'running_series', '{}', 'running', now() - interval '9 days', 88, 5, null,
        null, now() - interval '30 days', now() - interval '9 days', null, true, 60, null,
        now() - interval '10 days'),
    ('41000000-0000-4000-8000-00000000000c', 'ended_series', '{}', 'pending', now() - interval '9 days', 20, 5, null,
        null, now() - interval '30 days', now() - interval '9 days', null, true, 60, now() - interval '8 days',
        now() - interval '9 days'),
    ('61000000-0000-4000-8000-00000000000d', 'cancelled_series', '{}', 'cancelled', now() - interval '9 days', 20, 5,
        null, null, now() - interval '30 days', now() - interval '9 days', now() - interval '9 days', true, 60, null,
        now() - interval '10 days'),
    ('81000000-0000-4000-8000-00000000000e', 'dead_series', '{}', 'pending', now() - interval '9 days', 1, 5, null,
        null, now() - interval '30 days', now() - interval '9 days', null, true, null, null,
        now() - interval '9 days'),
    ('01000000-0000-4000-8000-00000000000f', 'dead_running', '{}', 'running', now() - interval '9 days', 1, 5, null,
        null, now() - interval '30 days', now() - interval '9 days', null, true, null, null, null);

insert into public.job_worker_runs (started_at, completed_at, source, http_method, user_agent, status, processed,
    succeeded, failed, message, results)
values
    (now() - interval '4 minutes', now() - interval '4 minutes', 'vercel_cron_secret', 'GET', 'vercel-cron/1.0', 'ok',
        0, null, null, 'no jobs available', null),
    (now() - interval '20 days', null, 'admin_manual', 'POST', 'admin-tools/run-worker', null, 0, null, null, null,
        null);
