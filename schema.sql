-- jobdeck schema version 1
--
-- The whole database of Jobdeck. Safe to run again and over the original application's tables: rows and
-- columns stay. Runs in one transaction on Postgres 15 and later, and needs no extension.
--
-- A job changes its status in the functions of this file and nowhere else. Errors meant for a person carry
-- SQLSTATE JD001 and a sentence; everything else is a defect.
--
--   1 tables        4 clauses of the claim    7 reaper               10 reading
--   2 old rows      5 claim, heartbeat        8 operators' actions   11 programme
--   3 enqueue       6 finish                  9 processing switch    12 sending        13 roles

set local client_min_messages = warning;

-------------------------------------------------------------------------------------------------------
-- 1. Tables
-------------------------------------------------------------------------------------------------------

create table if not exists public.jobdeck_schema (
    version integer not null,
    installed_at timestamptz not null default now()
);

create table if not exists public.job_queue (
    id uuid primary key default gen_random_uuid(),
    task_type text not null,
    payload jsonb not null default '{}',
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
    constraint job_queue_status_check check (status in ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    constraint job_queue_attempts_check check (attempts >= 0 and max_attempts >= 1)
);

alter table public.job_queue
    add column if not exists priority integer not null default 0,
    add column if not exists dedupe_key text,
    add column if not exists concurrency_key text,
    -- Waits behind another job with its concurrency key, and so does not stand in the index that claims read.
    add column if not exists in_line boolean not null default false,
    add column if not exists blocked_by uuid,
    add column if not exists checkpoint jsonb,
    add column if not exists progress jsonb,
    add column if not exists locked_by text,
    add column if not exists run_token bigint,
    add column if not exists lease_expires_at timestamptz,
    add column if not exists started_at timestamptz,
    add column if not exists cancel_requested_at timestamptz,
    add column if not exists cancel_requested_by text,
    add column if not exists anchor_at timestamptz,
    add column if not exists cycle integer not null default 0,
    add column if not exists consecutive_failures integer not null default 0,
    add column if not exists last_outcome text,
    add column if not exists last_success_at timestamptz,
    add column if not exists created_by text,
    add column if not exists version bigint not null default 1;

-- Ids rise with time (the layout of UUID version 7, with microseconds in the 12 bits behind the version), so that
-- jobs enqueued together run first in, first out, and inserts touch one end of each index. Built-in functions
-- only: whoever may insert needs no other right. Bytes, because text functions ask of every letter how long it is:
-- half the time. The clock is read once: two readings may stand on either side of a millisecond.
alter table public.job_queue alter column id set default encode(
    overlay(uuid_send(gen_random_uuid()) placing decode(
        overlay('0' || to_hex((date_part('epoch', clock_timestamp()) * 1000 * 4096)::bigint) placing '7' from 13 for 0),
        'hex') from 1 for 8),
    'hex')::uuid;

-- Every change of status writes a new index entry, so what is dead is taken away early and often.
alter table public.job_queue set (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.2, autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);

create sequence if not exists public.job_run_token_seq as bigint;

create table if not exists public.job_queue_settings (
    id integer primary key default 1 constraint job_queue_settings_singleton check (id = 1),
    processing_enabled boolean not null default true,
    paused_reason text,
    updated_at timestamptz not null default now()
);
alter table public.job_queue_settings
    add column if not exists paused_by text,
    add column if not exists paused_at timestamptz,
    add column if not exists resume_at timestamptz,
    add column if not exists pruned_at timestamptz not null default now(),
    add column if not exists trigger_minutes integer not null default 5
        constraint job_queue_settings_trigger_check check (trigger_minutes between 1 and 1440);
insert into public.job_queue_settings (id) values (1) on conflict (id) do nothing;

create table if not exists public.job_paused_types (
    task_type text primary key,
    reason text,
    paused_by text,
    paused_at timestamptz not null default now(),
    resume_at timestamptz
);

-- One row per run, appended and never updated. `late` marks the record of a worker that came back after its
-- run had been taken from it; that run's own row says `lost`.
create table if not exists public.job_runs (
    run_token bigint not null,
    late boolean not null default false,
    job_id uuid not null,
    task_type text not null,
    payload jsonb not null,
    attempt integer not null,
    worker_id text,
    due_at timestamptz not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    outcome text not null,
    -- The job left the queue with this run: a one-time job that succeeded.
    removed boolean not null default false,
    error_kind text,
    error text,
    fingerprint text,
    traceback text,
    output jsonb,
    log text,
    progress jsonb,
    primary key (run_token, late),
    constraint job_runs_outcome_check check (outcome in ('succeeded', 'partial', 'continued', 'retried', 'failed',
        'cancelled', 'released', 'lost', 'abandoned')),
    constraint job_runs_late_check check (late = (outcome = 'abandoned'))
);
create index if not exists job_runs_job on public.job_runs (job_id, run_token);
create index if not exists job_runs_removed on public.job_runs (finished_at) where removed;
-- One run in 64, drawn by nothing but its token, as `job_queue_sample` is by the id.
create index if not exists job_runs_sample on public.job_runs (finished_at)
    where removed and hashint8(run_token) & 63 = 0;
create index if not exists job_runs_troubled on public.job_runs (finished_at)
    where outcome in ('failed', 'retried', 'lost');
alter table public.job_runs set (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);

create table if not exists public.job_worker_runs (
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
alter table public.job_worker_runs
    add column if not exists worker_id text,
    add column if not exists http_status integer,
    add column if not exists claimed integer not null default 0,
    add column if not exists released integer not null default 0,
    add column if not exists due_before integer,
    add column if not exists duration_ms double precision;
create index if not exists idx_job_worker_runs_started_at_desc on public.job_worker_runs (started_at desc);
create index if not exists job_worker_runs_scheduled on public.job_worker_runs (started_at)
    where source in ('cron_http', 'timer', 'vercel_cron_secret', 'vercel_cron_user_agent');

create table if not exists public.job_workers (
    id text primary key,
    host text not null,
    pid integer not null,
    mode text not null,
    version text not null,
    concurrency integer not null,
    task_types text[] not null,
    running integer not null default 0,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now()
);

-- What was finished, by the minute: a dashboard's rates cost the same whatever the history's length. One row
-- per worker keeps workers from waiting for each other.
create table if not exists public.job_throughput (
    minute timestamptz not null,
    worker_id text not null,
    succeeded integer not null default 0,
    troubled integer not null default 0,
    failed integer not null default 0,
    primary key (minute, worker_id)
);
-- Those among the ones that succeeded which were so in part only, and which go on with another run.
alter table public.job_throughput
    add column if not exists partial integer not null default 0,
    add column if not exists continued integer not null default 0;

-- What somebody was told of and has not been told the end of: one alert per incident, however many processes see it.
create table if not exists public.job_alarms (
    name text primary key,
    since timestamptz not null default clock_timestamp()
);

create table if not exists public.job_trash (
    job_id uuid primary key,
    job jsonb not null,
    deleted_at timestamptz not null default now(),
    deleted_by text not null,
    reason text
);
create index if not exists job_trash_deleted_at on public.job_trash (deleted_at);

-- What an operator does to many jobs at once: which they are, frozen when they were chosen and with the version seen,
-- and the answer for each. Batches are carried out by whoever is there: who began it, or any worker.
create table if not exists public.job_bulk (
    id uuid primary key default gen_random_uuid(),
    state text not null default 'chosen',
    action text,
    words text,
    actor text not null,
    role text not null default session_user,
    reason text,
    total integer not null default 0,
    done integer not null default 0,
    refused integer not null default 0,
    chosen_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    stepped_at timestamptz,
    finished_at timestamptz,
    driver text,
    stopped_by text,
    trouble text,
    constraint job_bulk_state_check check (state in ('chosen', 'running', 'finished', 'stopped')),
    constraint job_bulk_action_check check (action in ('retry', 'cancel', 'delete', 'restore')),
    constraint job_bulk_started_check check (state = 'chosen' or action is not null)
);
create index if not exists job_bulk_running on public.job_bulk (stepped_at) where state = 'running';
create index if not exists job_bulk_chosen_at on public.job_bulk (chosen_at);

create table if not exists public.job_bulk_items (
    bulk_id uuid not null references public.job_bulk (id) on delete cascade,
    job_id uuid not null,
    task_type text,
    seen bigint,
    ok boolean,
    message text,
    status text,
    version bigint,
    primary key (bulk_id, job_id)
);
create index if not exists job_bulk_items_open on public.job_bulk_items (bulk_id, job_id) where ok is null;
create index if not exists job_bulk_items_refused on public.job_bulk_items (bulk_id, job_id) where not ok;

create table if not exists public.job_audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    action text not null,
    job_id uuid,
    before jsonb,
    after jsonb,
    reason text
);
create index if not exists job_audit_job on public.job_audit (job_id) where job_id is not null;
create index if not exists job_audit_at on public.job_audit (at);

-------------------------------------------------------------------------------------------------------
-- 2. Rows and functions that the original application left
-------------------------------------------------------------------------------------------------------

-- The functions below set updated_at; a trigger for it costs every claim and finish a call per row.
drop trigger if exists job_queue_set_updated_at on public.job_queue;
alter table public.job_queue drop constraint if exists recurring_jobs_must_have_interval;

-- The original accepted a recurring job without an interval, ran it once and never again.
update public.job_queue
set status = 'failed', completed_at = now(), last_outcome = 'failed', last_error =
    'This recurring job has no interval and could never run again. Edit it to give it one, then retry it.'
where is_recurring and coalesce(recurrence_interval_minutes, 0) <= 0
    and (status = 'pending' or status = 'running' and run_token is null);

update public.job_queue
set run_token = nextval('public.job_run_token_seq'), locked_by = coalesce(locked_by, 'an earlier runner'),
    lease_expires_at = updated_at + interval '20 minutes', started_at = coalesce(started_at, updated_at),
    anchor_at = case when is_recurring then coalesce(anchor_at, run_at) end
where status = 'running' and run_token is null;

-- The original kept the due time of a recurring job that had run before as last_run_at + interval.
update public.job_queue
set anchor_at = last_run_at + make_interval(mins => recurrence_interval_minutes),
    run_at = last_run_at + make_interval(mins => recurrence_interval_minutes)
where is_recurring and anchor_at is null and last_run_at is not null and status = 'pending'
    and recurrence_interval_minutes > 0;

do $$
begin
    if not exists (select from pg_constraint where conname = 'job_queue_recurrence_check') then
        alter table public.job_queue
            add constraint job_queue_recurrence_check check (
                status not in ('pending', 'running')
                or is_recurring and recurrence_interval_minutes is not null and recurrence_interval_minutes > 0
                or not is_recurring and recurrence_interval_minutes is null
            ) not valid,
            add constraint job_queue_lease_check check (
                case when status = 'running'
                    then run_token is not null and lease_expires_at is not null and locked_by is not null
                    else run_token is null and lease_expires_at is null
                end
            ) not valid,
            -- Priorities are few: the claim visits each that is present.
            add constraint job_queue_priority_check check (priority between -100 and 100) not valid;
    end if;
end
$$;

drop index if exists public.idx_job_queue_status_run_at;
drop index if exists public.idx_job_queue_task_type;
drop index if exists public.idx_job_queue_recurring_next_run;

-- What claims read: only jobs that nothing but time, a pause or their worker keeps from running.
create index if not exists job_queue_claimable on public.job_queue (task_type, priority desc, run_at, id)
    where status = 'pending' and blocked_by is null and not in_line;
create index if not exists job_queue_in_line on public.job_queue (concurrency_key, priority desc, run_at, id)
    where status = 'pending' and blocked_by is null and in_line;
create index if not exists job_queue_blocked on public.job_queue (blocked_by, id)
    where status = 'pending' and blocked_by is not null;
create index if not exists job_queue_waiting on public.job_queue (run_at, id)
    where status = 'pending' and (blocked_by is not null or in_line);
create index if not exists job_queue_held on public.job_queue (run_token) where status = 'running';
drop index if exists public.job_queue_running;
create unique index if not exists job_queue_running_key on public.job_queue (concurrency_key)
    where status = 'running' and concurrency_key is not null;
create unique index if not exists job_queue_dedupe on public.job_queue (dedupe_key)
    where dedupe_key is not null and status in ('pending', 'running');
create index if not exists job_queue_keyed on public.job_queue (concurrency_key, priority desc, run_at)
    where status = 'pending' and blocked_by is null and not in_line and concurrency_key is not null;
create index if not exists job_queue_finished on public.job_queue (status, coalesce(completed_at, updated_at), id)
    where status in ('succeeded', 'failed', 'cancelled');
create index if not exists job_queue_series on public.job_queue (run_at)
    where is_recurring and status in ('pending', 'running');
create index if not exists job_queue_expiring on public.job_queue (expires_at)
    where status = 'pending' and expires_at is not null;
-- One job in 64, drawn by nothing but its id: `job_queue_counts` tells by it which counts are beyond its limit.
create index if not exists job_queue_sample on public.job_queue (status) where uuid_hash(id) & 63 = 0;

drop function if exists public.job_queue_claim(integer);
drop function if exists public.job_queue_mark_succeeded(uuid, jsonb);
drop function if exists public.job_queue_mark_failed(uuid, text, integer);
drop function if exists public.job_queue_mark_failed(uuid, text, interval);
drop function if exists public.job_queue_enqueue(text, jsonb, timestamptz, integer);
drop function if exists public.job_queue_cleanup(interval);

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

create function public.job_queue_claim(p_limit integer default 5) returns setof public.job_queue
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform public.job_queue_refuse_old_runner('job_queue_claim(limit)');
end
$$;

create function public.job_queue_mark_succeeded(p_job_id uuid, p_output jsonb default null)
returns public.job_queue
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform public.job_queue_refuse_old_runner('job_queue_mark_succeeded');
    return null;
end
$$;

create function public.job_queue_mark_failed(p_job_id uuid, p_error text, p_retry_in_ms integer default null)
returns public.job_queue
language plpgsql
set search_path = public, pg_temp
as $$
begin
    perform public.job_queue_refuse_old_runner('job_queue_mark_failed');
    return null;
end
$$;

create function public.job_queue_mark_failed(
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

-------------------------------------------------------------------------------------------------------
-- 3. Enqueue
-------------------------------------------------------------------------------------------------------

create or replace function public.job_queue_refuse(p_sentence text) returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    raise exception using errcode = 'JD001', message = p_sentence;
end
$$;

-- A hint for idle workers, once per statement; what they poll is the truth. It names its schema, which costs an
-- enqueue less than a search path of its own.
create or replace function public.job_queue_notify() returns trigger
language plpgsql
as $$
begin
    perform pg_catalog.pg_notify('job_queue', '');
    return null;
end
$$;
create or replace trigger job_queue_notify after insert on public.job_queue
    for each statement execute function public.job_queue_notify();

-- Whether a new job with this key goes behind one that will run before it. Two enqueues at once may both say
-- no: then both stand in the claim's index, and the claim takes one.
create or replace function public.job_queue_joins_line(p_key text, p_priority integer, p_run_at timestamptz)
returns boolean
language plpgsql stable
set search_path = public, pg_temp set enable_seqscan = off
as $$
begin
    return p_key is not null and (
        exists (select from job_queue where concurrency_key = p_key and status = 'running')
        or exists (
            select from job_queue
            where concurrency_key = p_key and status = 'pending' and blocked_by is null and not in_line
                and priority >= p_priority and run_at <= p_run_at
        )
    );
end
$$;

-- What a job that waits for this one has to do: wait on (`live`), or go ahead; else why it waits in vain.
create or replace function public.job_queue_judge_blocker(
    p_blocked_by uuid, out live boolean, out refusal text
)
language plpgsql stable
set search_path = public, pg_temp set enable_seqscan = off
as $$
declare
    v_status text;
    v_outcome text;
begin
    select status into v_status from job_queue where id = p_blocked_by;
    live := coalesce(v_status in ('pending', 'running'), false);
    if live or v_status = 'succeeded' then
        return;
    end if;
    select outcome into v_outcome from job_runs where job_id = p_blocked_by and not late
    order by run_token desc limit 1;
    if v_status is not null or v_outcome is null or v_outcome not in ('succeeded', 'partial') then
        refusal := format(
            'Job %s, which this one is to wait for, %s. Retry it first, or enqueue this job without waiting.',
            p_blocked_by, coalesce('is ' || v_status, 'does not exist'));
    end if;
end
$$;

-- The blocker that a job really has to wait for: null when it has succeeded already.
create or replace function public.job_queue_live_blocker(p_blocked_by uuid) returns uuid
language plpgsql stable
set search_path = public, pg_temp
as $$
declare
    v_blocker record;
begin
    select * into v_blocker from job_queue_judge_blocker(p_blocked_by);
    if v_blocker.refusal is not null then
        perform job_queue_refuse(v_blocker.refusal);
    end if;
    return case when v_blocker.live then p_blocked_by end;
end
$$;

-- The live job that holds a dedupe key. Asked after an insert gave way to it, so it must see what has committed
-- since that began: hence volatile.
create or replace function public.job_queue_holder(p_dedupe_key text) returns uuid
language plpgsql volatile
set search_path = public, pg_temp set enable_seqscan = off
as $$
begin
    return (select id from job_queue where dedupe_key = p_dedupe_key and status in ('pending', 'running'));
end
$$;

drop function if exists public.job_queue_create(text, jsonb, timestamptz, integer, integer, text, text, uuid, integer, timestamptz, text);
-- Enqueues one job, or answers with the one that already holds the dedupe key (`created` false).
create function public.job_queue_create(
    p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer, p_priority integer,
    p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid, p_interval_minutes integer,
    p_expires_at timestamptz, p_actor text, out job_id uuid, out created boolean
)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_run_at timestamptz := coalesce(p_run_at, now());
    v_blocked_by uuid;
begin
    if coalesce(trim(p_task_type), '') = '' then
        perform job_queue_refuse('A job needs a task type.');
    elsif p_interval_minutes <= 0 then
        perform job_queue_refuse('The interval of a recurring job must be 1 minute or more.');
    elsif p_priority not between -100 and 100 then
        perform job_queue_refuse('A priority lies between -100 and 100.');
    elsif jsonb_typeof(p_payload) is distinct from 'object' then
        perform job_queue_refuse('A payload is a JSON object.');
    end if;
    if p_blocked_by is not null then
        v_blocked_by := job_queue_live_blocker(p_blocked_by);
    end if;
    for attempt in 1..5 loop
        insert into job_queue as q (task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key,
            in_line, blocked_by, is_recurring, recurrence_interval_minutes, anchor_at, expires_at, created_by)
        values (p_task_type, p_payload, v_run_at, greatest(coalesce(p_max_attempts, 1), 1), p_priority, p_dedupe_key,
            p_concurrency_key, p_concurrency_key is not null
                and job_queue_joins_line(p_concurrency_key, p_priority, v_run_at), v_blocked_by,
            p_interval_minutes is not null, p_interval_minutes,
            case when p_interval_minutes is not null then v_run_at end, p_expires_at,
            coalesce(p_actor, session_user))
        on conflict (dedupe_key) where dedupe_key is not null and status in ('pending', 'running') do nothing
        returning q.id into job_id;
        created := found;
        if not created then
            job_id := job_queue_holder(p_dedupe_key);
        end if;
        if job_id is not null then
            return;
        end if;
    end loop;
    perform job_queue_refuse(format(
        'A job with the dedupe key %s comes and goes while this one is enqueued. Try again.', p_dedupe_key));
end
$$;

-- The original's call, with its defaults: null payload is {}, null time is now, at least one attempt.
create function public.job_queue_enqueue(
    p_task_type text, p_payload jsonb default '{}', p_run_at timestamptz default now(),
    p_max_attempts integer default 5
) returns public.job_queue
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_id uuid;
    v_job public.job_queue;
begin
    v_id := (job_queue_create(p_task_type, coalesce(p_payload, '{}'), p_run_at, p_max_attempts, 0, null, null, null,
        null, null, null)).job_id;
    select * into v_job from job_queue where id = v_id;
    return v_job;
end
$$;

-- Which jobs of a batch go behind another of their concurrency key, in the batch or before it: in step with the keys.
create or replace function public.job_queue_join_lines(
    p_keys text[], p_priorities integer[], p_run_at timestamptz[]
) returns boolean[]
language sql stable
set search_path = public, pg_temp set enable_seqscan = off
as $$
    with batch as (
        select n.key, coalesce(n.priority, 0) as priority, coalesce(n.run_at, now()) as run_at, n.place
        from unnest(p_keys, p_priorities, p_run_at) with ordinality as n (key, priority, run_at, place)
    ), lined as (
        select b.place, b.key is not null and (
            coalesce(min(b.run_at) over (partition by b.key order by b.priority desc, b.run_at, b.place
                rows between unbounded preceding and 1 preceding) <= b.run_at, false)
            or job_queue_joins_line(b.key, b.priority, b.run_at)) as in_line
        from batch b
    )
    select array_agg(in_line order by place) from lined
$$;

-- Enqueues many one-time jobs in one statement; arrays run in step, and those past the task types may be null
-- for the default. Jobs whose dedupe key is taken are left out of what it returns.
create or replace function public.job_queue_create_many(
    p_task_types text[], p_payloads jsonb[], p_run_at timestamptz[], p_max_attempts integer[],
    p_priorities integer[], p_dedupe_keys text[], p_concurrency_keys text[], p_actor text
) returns setof uuid
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_in_line boolean[];
    -- Ids as their default makes them, but the time is taken once for all. Behind it the place in the batch, in seven
    -- digits from 8 on as the layout wants, then nine digits of chance. A fifth of what the default takes.
    v_time constant text := overlay('0' || to_hex((date_part('epoch', clock_timestamp()) * 1000 * 4096)::bigint)
        placing '7' from 13 for 0);
    v_first_place constant bigint := x'8000000'::bigint;
    v_least_chance constant bigint := x'100000000'::bigint;
    v_chances constant bigint := x'effffffff'::bigint;
begin
    if exists (
        select from unnest(p_task_types, p_priorities) as n (task_type, priority)
        where coalesce(trim(n.task_type), '') = '' or n.priority not between -100 and 100
    ) then
        perform job_queue_refuse('Each job needs a task type and a priority between -100 and 100. None was enqueued.');
    end if;
    if p_concurrency_keys is not null then
        v_in_line := job_queue_join_lines(p_concurrency_keys, p_priorities, p_run_at);
    end if;
    return query
    insert into job_queue (id, task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key,
        in_line, created_by)
    select (v_time || to_hex(v_first_place + n.place) || to_hex(v_least_chance + (random() * v_chances)::bigint))::uuid,
        n.task_type, coalesce(n.payload, '{}'), coalesce(n.run_at, now()),
        greatest(coalesce(n.max_attempts, 5), 1), coalesce(n.priority, 0), n.dedupe_key, n.concurrency_key,
        coalesce(n.in_line, false), coalesce(p_actor, session_user)
    from unnest(p_task_types, p_payloads, p_run_at, p_max_attempts, p_priorities, p_dedupe_keys, p_concurrency_keys,
        v_in_line) with ordinality
        as n (task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key, in_line, place)
    on conflict (dedupe_key) where dedupe_key is not null and status in ('pending', 'running') do nothing
    returning id;
end
$$;

-------------------------------------------------------------------------------------------------------
-- 4. The clauses of the claim
--
-- Each is one expression that the planner puts in place of its call, or a query whose plan is kept. The claim asks
-- for all of them and job_queue_why for one after the other, so that the explanation cannot differ from the claim.
-------------------------------------------------------------------------------------------------------

create or replace function public.job_clause_pending(p_status text) returns boolean
language sql immutable parallel safe
return p_status = 'pending';

create or replace function public.job_clause_due(p_run_at timestamptz, p_at timestamptz) returns boolean
language sql immutable parallel safe
return p_run_at <= p_at;

create or replace function public.job_clause_unexpired(p_expires_at timestamptz, p_at timestamptz) returns boolean
language sql immutable parallel safe
return p_expires_at is null or p_expires_at > p_at;

create or replace function public.job_clause_unblocked(p_blocked_by uuid) returns boolean
language sql immutable parallel safe
return p_blocked_by is null;

create or replace function public.job_clause_first_in_line(p_in_line boolean) returns boolean
language sql immutable parallel safe
return not p_in_line;

create or replace function public.job_key_is_busy(p_key text) returns boolean
language sql stable parallel safe
set search_path = public, pg_temp
as $$ select exists (select from job_queue where concurrency_key = p_key and status = 'running') $$;

create or replace function public.job_clause_key_free(p_key text) returns boolean
language sql stable parallel safe
return p_key is null or not public.job_key_is_busy(p_key);

-- Whether anything may be claimed at all: false too when the settings row is missing.
create or replace function public.job_clause_processing(p_at timestamptz) returns boolean
language plpgsql stable
set search_path = public, pg_temp
as $$
begin
    return coalesce((select processing_enabled or resume_at <= p_at from job_queue_settings where id = 1), false);
end
$$;

create or replace function public.job_clause_type_open(p_task_type text, p_at timestamptz) returns boolean
language plpgsql stable
set search_path = public, pg_temp
as $$
begin
    return not exists (
        select from job_paused_types where task_type = p_task_type and (resume_at is null or resume_at > p_at)
    );
end
$$;

-------------------------------------------------------------------------------------------------------
-- 5. Claim, heartbeat, checkpoint
-------------------------------------------------------------------------------------------------------

-- The lanes of some task types: each priority at which claimable jobs stand, found by one probe of the index.
create or replace function public.job_queue_lanes(p_types text[])
returns table (task_type text, priority integer)
language plpgsql stable
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
    return query
    with recursive lane (task_type, priority) as (
        select t.task_type, (
            select q.priority from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = t.task_type
            order by q.task_type, q.priority desc limit 1)
        from unnest(p_types) as t (task_type)
        union all
        select l.task_type, (
            select q.priority from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
                and q.priority < l.priority
            order by q.task_type, q.priority desc limit 1)
        from lane l where l.priority is not null
    )
    select lane.task_type, lane.priority from lane where lane.priority is not null;
end
$$;

drop function if exists public.job_queue_take_keys(uuid[]);
-- Of candidates, which the caller has locked where they stand, those that may run: of each key the first in claim
-- order, while no job with the key is running. The key's lock is tried and not waited for, and decides between two
-- claims that have not seen each other.
create or replace function public.job_queue_take_keys(p_places tid[]) returns tid[]
language plpgsql volatile
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
declare
    v_job record;
    v_refused tid[] := '{}';
    v_taken text[] := '{}';
    v_takers uuid[] := '{}';
begin
    for v_job in
        select q.ctid as place, q.id, q.concurrency_key as key from job_queue q
        where q.ctid = any (p_places) and q.concurrency_key is not null
        order by q.priority desc, q.run_at, q.id
    loop
        if v_job.key = any (v_taken) or not pg_try_advisory_xact_lock(1785689, hashtext(v_job.key))
            or job_key_is_busy_now(v_job.key)
        then
            v_refused := v_refused || v_job.place;
        else
            v_taken := v_taken || v_job.key;
            v_takers := v_takers || v_job.id;
        end if;
    end loop;
    -- Others that stand first with such a key (inserted out of order, or at the same time) would be in the way of
    -- every claim while it is busy.
    update job_queue set in_line = true where id in (
        select q.id from job_queue q
        where q.concurrency_key = any (v_taken) and q.status = 'pending' and q.blocked_by is null and not q.in_line
            and q.id <> all (v_takers)
        for update skip locked);
    return array(select c.place from unnest(p_places) as c (place) where c.place <> all (v_refused));
end
$$;

-- Asked after a lock is held, so it must see what has committed since the claim began: hence volatile.
create or replace function public.job_key_is_busy_now(p_key text) returns boolean
language plpgsql volatile
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
begin
    return exists (select from job_queue where concurrency_key = p_key and status = 'running');
end
$$;

drop function if exists public.job_queue_claim(text, text[], integer, double precision);
-- Takes up to p_limit claimable jobs of the given types for a worker, best first.
--
-- Constant conditions (switch, paused types) are read first. Then each lane is one range of one index, so that
-- what is not due, of a type not asked for, blocked or behind a busy key costs nothing. The planner's settings
-- hold that plan whatever the statistics say.
--
-- In a flood, what was claimed since the last vacuum stands dead before what is next, and every claim walks past all
-- of it. Whoever claimed last may therefore say in which lanes and behind which job (p_lane_...) to go on. Only those
-- are looked at then; what has come before them meanwhile is for the next claim without.
create or replace function public.job_queue_claim(
    p_worker text, p_types text[], p_limit integer, p_lease_seconds double precision,
    p_lane_types text[] default null, p_lane_priorities integer[] default null,
    p_lane_run_at timestamptz[] default null, p_lane_ids uuid[] default null
) returns table (
    id uuid, run_token bigint, task_type text, payload jsonb, attempt integer, max_attempts integer,
    due_at timestamptz, claimed_at timestamptz, is_recurring boolean, checkpoint jsonb, cycle integer, priority integer
)
language plpgsql volatile security definer
set search_path = public, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_types text[];
    v_priorities integer[];
    v_run_at timestamptz[];
    v_ids uuid[];
    v_quotas integer[];
    v_places tid[];
    v_keyed boolean;
begin
    if p_limit < 1 or not job_clause_processing(v_now) then
        return;
    end if;
    if p_lane_types is null then
        select array_agg(l.task_type), array_agg(l.priority), array_agg('-infinity'::timestamptz),
            array_agg('00000000-0000-0000-0000-000000000000'::uuid), array_agg(p_limit)
        into v_types, v_priorities, v_run_at, v_ids, v_quotas
        from job_queue_lanes(array(select t from unnest(p_types) t where job_clause_type_open(t, v_now))) l;
    else
        select array_agg(l.task_type), array_agg(l.priority), array_agg(l.run_at), array_agg(l.id), array_agg(p_limit)
        into v_types, v_priorities, v_run_at, v_ids, v_quotas
        from unnest(p_lane_types, p_lane_priorities, p_lane_run_at, p_lane_ids) as l (task_type, priority, run_at, id)
        where l.task_type = any (p_types) and job_clause_type_open(l.task_type, v_now);
    end if;
    if v_types is null then
        return;
    end if;

    if array_length(v_types, 1) > 1 then
        select array_agg(h.task_type), array_agg(h.priority), array_agg(h.run_at), array_agg(h.id), array_agg(h.jobs)
        into v_types, v_priorities, v_run_at, v_ids, v_quotas
        from (
            select best.task_type, best.priority, best.run_at, best.id, count(*)::integer as jobs
            from (
                select l.task_type, l.priority, l.run_at, l.id
                from unnest(v_types, v_priorities, v_run_at, v_ids) as l (task_type, priority, run_at, id)
                cross join lateral (
                    select q.run_at, q.id from job_queue q
                    where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                        and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type
                        and q.priority = l.priority and (q.run_at, q.id) > (l.run_at, l.id)
                        and job_clause_due(q.run_at, v_now)
                        and job_clause_unexpired(q.expires_at, v_now) and job_clause_key_free(q.concurrency_key)
                    order by q.run_at, q.id limit p_limit
                ) c
                order by l.priority desc, c.run_at, c.id limit p_limit
            ) best
            group by best.task_type, best.priority, best.run_at, best.id
        ) h;
        if v_types is null then
            return;
        end if;
    end if;

    select array_agg(c.ctid), bool_or(c.keyed) into v_places, v_keyed
    from unnest(v_types, v_priorities, v_run_at, v_ids, v_quotas) as l (task_type, priority, run_at, id, quota)
    cross join lateral (
        select q.ctid, q.concurrency_key is not null as keyed from job_queue q
        where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
            and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type and q.priority = l.priority
            and (q.run_at, q.id) > (l.run_at, l.id) and job_clause_due(q.run_at, v_now)
            and job_clause_unexpired(q.expires_at, v_now) and job_clause_key_free(q.concurrency_key)
        order by q.run_at, q.id limit l.quota
        for update of q skip locked
    ) c;
    if v_keyed then
        v_places := job_queue_take_keys(v_places);
    end if;

    return query
    with taken as (
        update job_queue q
        set status = 'running', attempts = q.attempts + 1, run_token = nextval('job_run_token_seq'),
            locked_by = p_worker, started_at = v_now, updated_at = v_now, version = q.version + 1,
            lease_expires_at = v_now + make_interval(secs => p_lease_seconds),
            anchor_at = case when q.is_recurring then coalesce(q.anchor_at, q.run_at) end
        -- The rows are locked, so they are where they were found.
        where q.ctid = any (v_places)
        returning q.id, q.run_token, q.task_type, q.payload, q.attempts, q.max_attempts, q.run_at, q.is_recurring,
            q.checkpoint, q.cycle, q.priority
    )
    select t.id, t.run_token, t.task_type, t.payload, t.attempts, t.max_attempts, t.run_at, v_now, t.is_recurring,
        t.checkpoint, t.cycle, t.priority
    from taken t order by t.priority desc, t.run_at, t.id;
end
$$;

-- When the next job of these types may be due, past or future; null when none stands in the claim's index.
create or replace function public.job_queue_next_due(p_types text[], out at timestamptz, out next_due timestamptz)
language plpgsql stable security definer
set search_path = public, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
begin
    at := clock_timestamp();
    if not job_clause_processing(at) then
        return;
    end if;
    select min(h.run_at) into next_due
    from job_queue_lanes(array(select t from unnest(p_types) t where job_clause_type_open(t, at))) l
    cross join lateral (
        select q.run_at from job_queue q
        where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
            and q.priority = l.priority and job_clause_key_free(q.concurrency_key)
        order by q.run_at, q.id limit 1
    ) h;
end
$$;

-- Renews the leases of all jobs a worker holds, takes their progress, and answers which are still its own and
-- which an operator asked to cancel.
create or replace function public.job_queue_heartbeat(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_progress jsonb[], p_lease_seconds double precision
) returns table (job_id uuid, run_token bigint, alive boolean, cancel_requested boolean)
language sql volatile security definer
set search_path = public, pg_temp set enable_seqscan = off set enable_nestloop = off set jit = off
as $$
    with held as (
        select h.id, h.token, h.progress from unnest(p_ids, p_tokens, p_progress) as h (id, token, progress)
    ), mine as (
        select q.id, q.run_token from job_queue q join held h on h.id = q.id and h.token = q.run_token
        where q.id = any (p_ids) and q.status = 'running' order by q.id for update of q
    ), renewed as (
        update job_queue q
        set lease_expires_at = clock_timestamp() + make_interval(secs => p_lease_seconds),
            progress = coalesce(h.progress, q.progress)
        from mine m, held h
        where q.id = any (p_ids) and q.id = m.id and q.run_token = m.run_token and q.status = 'running'
            and h.id = q.id and h.token = q.run_token
        returning q.id, q.run_token, q.cancel_requested_at is not null as cancel_requested
    )
    select h.id, h.token, r.id is not null, coalesce(r.cancel_requested, false)
    from held h left join renewed r on r.id = h.id and r.run_token = h.token
$$;

-- Keeps a checkpoint of a running job; false when the token no longer holds it.
create or replace function public.job_queue_checkpoint(p_id uuid, p_token bigint, p_checkpoint jsonb)
returns boolean
language sql volatile security definer
set search_path = public, pg_temp
as $$
    with kept as (
        update job_queue set checkpoint = p_checkpoint, updated_at = clock_timestamp()
        where id = p_id and run_token = p_token and status = 'running' returning id
    )
    select exists (select from kept)
$$;

-------------------------------------------------------------------------------------------------------
-- 6. Finish
-------------------------------------------------------------------------------------------------------

-- The first slot of a series after a moment: anchor + k x interval, never before the anchor.
create or replace function public.job_next_slot(p_anchor timestamptz, p_minutes integer, p_after timestamptz)
returns timestamptz
language sql immutable parallel safe
return case
    when p_anchor > p_after then p_anchor
    else date_bin(make_interval(mins => p_minutes), p_after, p_anchor) + make_interval(mins => p_minutes)
end;

-- Seconds to wait before the next attempt: doubling from the base up to the cap, 50 to 100 % of it.
create or replace function public.job_backoff(p_attempt integer, p_base double precision, p_cap double precision)
returns double precision
language sql volatile parallel safe
return least(p_cap, p_base * power(2::double precision, least(greatest(p_attempt, 1) - 1, 60))) * (0.5 + random() / 2);

-- A delay that a handler asked for: none that is negative, and a year at most.
create or replace function public.job_delay(p_seconds double precision) returns interval
language sql immutable parallel safe
return make_interval(secs => least(greatest(coalesce(p_seconds, 0), 0), 31536000));

-- Groups errors that differ only in ids, numbers, times and quoted text.
create or replace function public.job_error_fingerprint(p_kind text, p_error text) returns text
language sql immutable parallel safe
return substr(md5(coalesce(p_kind, '') || ':' || regexp_replace(
    regexp_replace(left(coalesce(p_error, ''), 500), '"[^"]*"|''[^'']*''', '"?"', 'g'),
    '[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|[0-9a-fA-F]*[0-9][0-9a-fA-F]*', '#', 'g')), 1, 12);

-- Who goes next in a line: the best of those that are due, else the one due first. One probe of the index for each
-- priority in the line, however long it is.
create or replace function public.job_queue_first_in_line(
    p_key text, p_at timestamptz, out id uuid, out run_at timestamptz
)
language plpgsql stable
set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
begin
    with recursive lane (id, priority, run_at) as (
        (select q.id, q.priority, q.run_at from job_queue q
        where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
        order by q.concurrency_key, q.priority desc, q.run_at, q.id limit 1)
        union all
        select next.id, next.priority, next.run_at from lane l cross join lateral (
            select q.id, q.priority, q.run_at from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
                and q.priority < l.priority
            order by q.concurrency_key, q.priority desc, q.run_at, q.id limit 1
        ) next
    )
    select l.id, l.run_at into job_queue_first_in_line.id, job_queue_first_in_line.run_at from lane l
    order by l.run_at > p_at, case when l.run_at <= p_at then l.priority end desc, l.run_at, l.priority desc limit 1;
end
$$;

-- Lets the one who goes next stand in the claim's index, of each key of which no job runs or is first already. Rows
-- that somebody else holds are passed over; the reaper comes by again.
create or replace function public.job_queue_advance_lines(p_keys text[]) returns void
language plpgsql volatile
set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_key text;
    v_next uuid;
    v_run_at timestamptz;
begin
    for v_key in select distinct k from unnest(p_keys) k where k is not null order by k loop
        perform pg_advisory_xact_lock(1785689, hashtext(v_key));
        continue when job_key_is_busy_now(v_key);
        v_next := (job_queue_first_in_line(v_key, v_now)).id;
        select q.id, q.run_at into v_next, v_run_at from job_queue q
        where q.id = v_next and q.concurrency_key = v_key and q.status = 'pending' and q.blocked_by is null and q.in_line
        for update skip locked;
        continue when v_next is null or exists (
            select from job_queue q
            where q.concurrency_key = v_key and q.status = 'pending' and q.blocked_by is null and not q.in_line
                and q.run_at <= greatest(v_run_at, v_now)
        );
        update job_queue set in_line = false where id = v_next;
    end loop;
end
$$;

drop function if exists public.job_queue_release_waiting(uuid[], uuid[], text);
-- Jobs that waited for others: released where those succeeded, cancelled (and their own waiters with them)
-- where those can no longer succeed. Returns the keys whose lines the caller has to advance: keys are locked
-- after all rows, so that no two transactions wait for each other. Rows that somebody else holds are passed over
-- for the same reason; the reaper comes by again.
create function public.job_queue_release_waiting(p_succeeded uuid[], p_hopeless uuid[], p_reason text)
returns text[]
language plpgsql volatile
set search_path = public, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_nestloop = on
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_hopeless uuid[] := p_hopeless;
    v_keys text[];
begin
    -- An equality would let the planner take another index than the one that begins with blocked_by.
    with released as (
        update job_queue set blocked_by = null, updated_at = v_now, version = version + 1,
            in_line = concurrency_key is not null
        where id = any (array(
            select w.id from unnest(p_succeeded) as b (id) cross join lateral (
                select q.id from job_queue q where q.status = 'pending' and q.blocked_by between b.id and b.id
                order by q.blocked_by, q.id for update skip locked) w))
        returning concurrency_key
    )
    select array_agg(concurrency_key) into v_keys from released;
    while cardinality(v_hopeless) > 0 loop
        with ended as (
            update job_queue set status = 'cancelled', completed_at = v_now, updated_at = v_now,
                version = version + 1, last_outcome = 'cancelled',
                last_error = format('Cancelled because job %s, which it waited for, %s.', blocked_by, p_reason)
            where id = any (array(
                select w.id from unnest(v_hopeless) as b (id) cross join lateral (
                    select q.id from job_queue q where q.status = 'pending' and q.blocked_by between b.id and b.id
                    order by q.blocked_by, q.id for update skip locked) w))
            returning id
        )
        select coalesce(array_agg(id), '{}') into v_hopeless from ended;
    end loop;
    return v_keys;
end
$$;

drop function if exists public.job_queue_count_finished(text, bigint, bigint, bigint);
-- Adds to what a worker has finished in this minute; partial and continued runs are among those that succeeded.
create or replace function public.job_queue_count_finished(
    p_worker text, p_succeeded bigint, p_partial bigint, p_continued bigint, p_troubled bigint, p_failed bigint
) returns void
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    insert into job_throughput as t (minute, worker_id, succeeded, partial, continued, troubled, failed)
    values (date_trunc('minute', clock_timestamp()), p_worker, p_succeeded, p_partial, p_continued, p_troubled,
        p_failed)
    on conflict (minute, worker_id) do update set succeeded = t.succeeded + excluded.succeeded,
        partial = t.partial + excluded.partial, continued = t.continued + excluded.continued,
        troubled = t.troubled + excluded.troubled, failed = t.failed + excluded.failed;
end
$$;

drop function if exists public.job_queue_settle(
    text, uuid[], bigint[], text[], timestamptz[], timestamptz[], jsonb[], double precision, double precision);
drop type if exists public.job_queue_move;
create type public.job_queue_move as (
    id uuid, token bigint, move text, is_recurring boolean, is_over boolean, slot timestamptz, retry_at timestamptz,
    outcome text, started_at timestamptz, finished_at timestamptz, details jsonb, key text, cancelled_by text,
    recorded text
);

-- Carries out the table of outcomes for runs whose token still holds: appends each to the history and moves
-- its job on. `p_details` holds, per run and where present: output, checkpoint, delay, retry_after, retry_base,
-- retry_cap (seconds), permanent, error_kind, error, traceback, log, progress. `p_keys` are those of runs that the
-- caller has finished by itself: all lines are advanced together, because their locks have an order.
create or replace function public.job_queue_settle(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_outcomes text[], p_started timestamptz[],
    p_finished timestamptz[], p_details jsonb[], p_retry_base double precision, p_retry_cap double precision,
    p_keys text[]
) returns table (job_id uuid, run_token bigint, recorded text, status text, run_at timestamptz)
language plpgsql volatile security definer
set search_path = public, pg_temp
set enable_seqscan = off set enable_nestloop = off set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_moves public.job_queue_move[];
    v_keys text[];
begin
    with report as (
        -- A run that stands twice in a batch is one run.
        select distinct on (r.token) * from unnest(p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details)
            as r (id, token, outcome, started_at, finished_at, details)
    ), held as (
        select q.*, r.outcome, r.started_at as began_at, r.finished_at, r.details
        from job_queue q join report r on r.id = q.id and r.token = q.run_token
        where q.run_token = any (p_tokens) and q.status = 'running'
        order by q.id for update of q
    ), judged as (
        select h.*,
            h.cancel_requested_at is not null or h.outcome = 'cancelled' as cancels,
            case when h.is_recurring
                then job_next_slot(coalesce(h.anchor_at, h.run_at), h.recurrence_interval_minutes, v_now)
            end as slot,
            h.outcome in ('failed', 'lost') and not coalesce((h.details ->> 'permanent')::boolean, false)
                and h.attempts < h.max_attempts as may_retry,
            v_now + job_delay(coalesce(
                (h.details ->> 'retry_after')::double precision,
                job_backoff(h.attempts, coalesce((h.details ->> 'retry_base')::double precision, p_retry_base),
                    coalesce((h.details ->> 'retry_cap')::double precision, p_retry_cap)))) as retry_at
        from held h
    ), decided as (
        select j.*,
            case
                when j.cancels then 'cancel'
                when j.outcome in ('succeeded', 'partial') then 'success'
                when j.outcome = 'continued' then 'continue'
                when j.outcome = 'released' then 'release'
                when j.may_retry and (j.slot is null or j.retry_at < j.slot)
                    and (not j.is_recurring or j.expires_at is null or j.retry_at < j.expires_at) then 'retry'
                else 'failure'
            end as move,
            -- The series is over when its next slot is at or past its end.
            j.is_recurring and j.expires_at is not null and j.slot >= j.expires_at as is_over
        from judged j
    )
    select array_agg(row(
        d.id, d.run_token, d.move, d.is_recurring, d.is_over, d.slot, d.retry_at, d.outcome, d.began_at,
        d.finished_at, d.details, d.concurrency_key, d.cancel_requested_by,
        case
            when d.outcome = 'lost' then 'lost'
            when d.move = 'cancel' then 'cancelled'
            when d.move = 'retry' then 'retried'
            when d.move = 'failure' then 'failed'
            else d.outcome
        end)::public.job_queue_move)
    into v_moves from decided d;
    if v_moves is null then
        return;
    end if;

    insert into job_runs (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at, finished_at,
        outcome, removed, error_kind, error, fingerprint, traceback, output, log, progress)
    select m.token, m.id, q.task_type, q.payload, q.attempts, q.locked_by, q.run_at, m.started_at, m.finished_at,
        m.recorded, m.move = 'success' and not m.is_recurring, e.kind, e.error,
        case when m.recorded in ('failed', 'retried', 'lost') then job_error_fingerprint(e.kind, e.error) end,
        m.details ->> 'traceback', nullif(m.details -> 'output', 'null'), m.details ->> 'log',
        coalesce(nullif(m.details -> 'progress', 'null'), q.progress)
    from unnest(v_moves) m
    join job_queue q on q.id = m.id
    cross join lateral (
        select
            case when m.move = 'cancel' then 'cancelled' else m.details ->> 'error_kind' end as kind,
            case
                when m.move = 'cancel' and m.outcome <> 'lost' then format(
                    'Cancelled by %s while it ran; the handler had %s.', coalesce(m.cancelled_by, 'its handler'),
                    case m.outcome when 'cancelled' then 'stopped' when 'released' then 'been handed back'
                        when 'failed' then 'failed: ' || coalesce(m.details ->> 'error', 'no reason given')
                        else m.outcome end)
                else m.details ->> 'error'
            end as error
    ) e
    where q.id = any (p_ids);

    delete from job_queue q using unnest(v_moves) m
    where q.id = any (p_ids) and q.id = m.id and m.move = 'success' and not m.is_recurring;

    update job_queue q set
        status = case
            when m.move = 'cancel' then 'cancelled'
            when m.move = 'success' and m.is_over then 'succeeded'
            when m.move = 'failure' and (not m.is_recurring or m.is_over) then 'failed'
            else 'pending'
        end,
        run_at = case
            when m.move = 'cancel' then q.run_at
            when m.move in ('success', 'failure') and m.is_recurring and not m.is_over then m.slot
            when m.move = 'continue'
                then v_now + job_delay((m.details ->> 'delay')::double precision)
            when m.move = 'retry' then m.retry_at
            else q.run_at
        end,
        attempts = case
            when m.move = 'release' then greatest(q.attempts - 1, 0)
            when m.move = 'continue' or m.is_recurring and m.move in ('success', 'failure') and not m.is_over then 0
            else q.attempts
        end,
        checkpoint = case
            when m.move = 'continue' then m.details -> 'checkpoint'
            when m.is_recurring and m.move in ('success', 'failure') then null
            else q.checkpoint
        end,
        cycle = q.cycle + (m.is_recurring and m.move in ('success', 'failure'))::integer,
        output = case when m.move = 'success' then nullif(m.details -> 'output', 'null') else q.output end,
        last_error = case
            when m.move in ('success', 'continue') then null
            when m.move in ('retry', 'failure') then coalesce(m.details ->> 'error', 'The run failed and gave no reason.')
            else q.last_error
        end,
        last_outcome = m.recorded,
        last_run_at = case when m.move = 'release' then q.last_run_at else v_now end,
        last_success_at = case when m.move = 'success' then v_now else q.last_success_at end,
        consecutive_failures = case m.move when 'success' then 0 when 'failure' then q.consecutive_failures + 1
            else q.consecutive_failures end,
        completed_at = case
            when m.move = 'cancel' or m.move = 'failure' and (not m.is_recurring or m.is_over)
                or m.move = 'success' and m.is_over then v_now
        end,
        in_line = q.concurrency_key is not null,
        progress = null, locked_by = null, run_token = null, lease_expires_at = null, started_at = null,
        cancel_requested_at = null, cancel_requested_by = null,
        updated_at = v_now, version = q.version + 1
    from unnest(v_moves) m
    where q.id = any (p_ids) and q.id = m.id and not (m.move = 'success' and not m.is_recurring);

    select array_agg(m.key) into v_keys from unnest(v_moves) m where m.key is not null;
    v_keys := v_keys || p_keys || job_queue_release_waiting(
        array(select m.id from unnest(v_moves) m where m.move = 'success'), '{}', '');
    perform job_queue_release_waiting('{}', array(select m.id from unnest(v_moves) m
        where m.move = 'failure' and (not m.is_recurring or m.is_over)), 'failed for good');
    perform job_queue_release_waiting('{}', array(select m.id from unnest(v_moves) m where m.move = 'cancel'),
        'was cancelled');
    perform job_queue_advance_lines(v_keys);
    perform job_queue_count_finished(p_worker, count(*) filter (where m.recorded in ('succeeded', 'partial', 'continued')),
        count(*) filter (where m.recorded = 'partial'), count(*) filter (where m.recorded = 'continued'),
        count(*) filter (where m.recorded in ('retried', 'lost') and m.move <> 'failure'),
        count(*) filter (where m.move = 'failure'))
    from unnest(v_moves) m;

    return query
    select m.id, m.token, m.recorded, q.status, q.run_at
    from unnest(v_moves) m left join job_queue q on q.id = m.id and q.id = any (p_ids);
end
$$;

-- Finishes a batch of runs for a worker. Answers for each, save for one-time jobs that succeeded as reported and
-- so left the queue: of those nothing is said. Applied once however often it is sent: a token that no longer holds
-- is answered with what its run was recorded as, and recorded as `abandoned` where the reaper had given it up.
create or replace function public.job_queue_finish(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_outcomes text[], p_started timestamptz[],
    p_finished timestamptz[], p_details jsonb[], p_retry_base double precision, p_retry_cap double precision
) returns table (job_id uuid, run_token bigint, recorded text, status text, run_at timestamptz)
language plpgsql volatile security definer
set search_path = public, pg_temp
set enable_seqscan = off set enable_nestloop = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_done bigint[];
    v_removed uuid[];
    v_partial bigint;
    v_keys text[];
    v_settled record;
begin
    -- By far most runs are one-time jobs that succeeded: one statement for all of them.
    with gone as (
        delete from job_queue q
        using unnest(p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details)
            as r (id, token, outcome, started_at, finished_at, details)
        where q.run_token = any (p_tokens) and q.run_token = r.token and q.id = r.id and q.status = 'running'
            and r.outcome in ('succeeded', 'partial') and not q.is_recurring and q.cancel_requested_at is null
        returning q.id, q.run_token, q.task_type, q.payload, q.attempts, q.locked_by, q.run_at, q.progress,
            q.concurrency_key, r.outcome, r.started_at, r.finished_at, r.details
    ), history as (
        insert into job_runs (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at,
            finished_at, outcome, removed, output, log, progress)
        select g.run_token, g.id, g.task_type, g.payload, g.attempts, g.locked_by, g.run_at, g.started_at,
            g.finished_at, g.outcome, true, nullif(g.details -> 'output', 'null'), g.details ->> 'log',
            coalesce(nullif(g.details -> 'progress', 'null'), g.progress)
        from gone g
    )
    select array_agg(g.run_token), array_agg(g.id), count(*) filter (where g.outcome = 'partial'),
        array_agg(g.concurrency_key) filter (where g.concurrency_key is not null)
    into v_done, v_removed, v_partial, v_keys from gone g;
    if v_removed is not null then
        if exists (select from job_queue q where q.status = 'pending' and q.blocked_by is not null) then
            v_keys := v_keys || job_queue_release_waiting(v_removed, '{}', '');
        end if;
        if cardinality(v_done) = cardinality(p_tokens) then
            if v_keys is not null then
                perform job_queue_advance_lines(v_keys);
            end if;
            perform job_queue_count_finished(p_worker, cardinality(v_removed), v_partial, 0, 0, 0);
            return;
        end if;
    end if;

    for v_settled in
        select s.* from (
            select array_agg(r.id order by r.id) as ids, array_agg(r.token order by r.id) as tokens,
                array_agg(r.outcome order by r.id) as outcomes, array_agg(r.started_at order by r.id) as started,
                array_agg(r.finished_at order by r.id) as finished, array_agg(r.details order by r.id) as details
            from unnest(p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details)
                as r (id, token, outcome, started_at, finished_at, details)
            where v_done is null or r.token <> all (v_done)
        ) rest
        cross join lateral job_queue_settle(p_worker, rest.ids, rest.tokens, rest.outcomes, rest.started,
            rest.finished, rest.details, p_retry_base, p_retry_cap, v_keys) s
    loop
        v_done := v_done || v_settled.run_token;
        job_id := v_settled.job_id;
        run_token := v_settled.run_token;
        recorded := v_settled.recorded;
        status := v_settled.status;
        run_at := v_settled.run_at;
        return next;
    end loop;
    if v_keys is not null then
        perform job_queue_advance_lines(v_keys);
    end if;
    if v_removed is not null then
        -- Last, because all of a worker's connections wait for each other at this row.
        perform job_queue_count_finished(p_worker, cardinality(v_removed), v_partial, 0, 0, 0);
    end if;
    if coalesce(cardinality(v_done), 0) < cardinality(p_tokens) then
        return query select l.* from job_queue_note_late(p_worker, p_ids, p_tokens, p_started, p_finished, p_details) l
        where v_done is null or l.run_token <> all (v_done);
    end if;
end
$$;

-- The answer for runs whose token holds nothing any more: what each was recorded as. Where that is `lost`, the
-- worker has come back late, which is put on record once; its result is dropped.
create or replace function public.job_queue_note_late(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_started timestamptz[], p_finished timestamptz[],
    p_details jsonb[]
) returns table (job_id uuid, run_token bigint, recorded text, status text, run_at timestamptz)
language sql volatile
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
    with report as (
        select r.*, l.task_type, l.payload, l.attempt, l.due_at, l.outcome
        from unnest(p_ids, p_tokens, p_started, p_finished, p_details)
            as r (id, token, started_at, finished_at, details)
        left join job_runs l on l.run_token = r.token and l.job_id = r.id and not l.late
    ), noted as (
        insert into job_runs (run_token, late, job_id, task_type, payload, attempt, worker_id, due_at, started_at,
            finished_at, outcome, error_kind, error, log)
        select r.token, true, r.id, r.task_type, r.payload, r.attempt, p_worker, r.due_at, r.started_at,
            r.finished_at, 'abandoned', 'lease_lost',
            'The worker came back after its lease had ended; what it had done for the queue was dropped.',
            r.details ->> 'log'
        from report r where r.outcome = 'lost'
        on conflict (run_token, late) do nothing
    )
    select r.id, r.token, case when r.outcome = 'lost' or r.outcome is null then 'abandoned' else r.outcome end,
        q.status, q.run_at
    from report r left join job_queue q on q.id = r.id
$$;

-------------------------------------------------------------------------------------------------------
-- 7. Reaper
-------------------------------------------------------------------------------------------------------

-- Ends runs whose lease has provably expired; all locks are held while their tokens are checked again.
create or replace function public.job_queue_take_back(
    p_worker text, p_ids uuid[], p_details jsonb, p_retry_base double precision, p_retry_cap double precision
) returns setof uuid
language sql volatile
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
    with expired as materialized (
        select q.id, q.run_token, q.started_at, q.locked_by from job_queue q
        where q.id = any (p_ids) and q.status = 'running' and q.lease_expires_at <= clock_timestamp()
        order by q.id for update of q skip locked
    ), together as (
        select array_agg(e.id) as ids, array_agg(e.run_token) as tokens, array_agg('lost'::text) as outcomes,
            array_agg(coalesce(e.started_at, clock_timestamp())) as started,
            array_agg(clock_timestamp()) as finished,
            array_agg(jsonb_build_object('error_kind', 'lease_expired', 'error', format(
                'Worker %s stopped renewing its lease; it crashed, was cut off or was stopped.', e.locked_by))
                || p_details) as details
        from expired e
    )
    select s.job_id from together t
    cross join lateral job_queue_settle(p_worker, t.ids, t.tokens, t.outcomes, t.started, t.finished, t.details,
        p_retry_base, p_retry_cap, null) s
    where t.ids is not null
$$;

-- Ends what waits past its end: a series as succeeded, unless its last cycle failed; a one-time job as cancelled.
create or replace function public.job_queue_end_expired(p_limit integer) returns bigint
language plpgsql volatile
set search_path = public, pg_temp set enable_sort = off set enable_bitmapscan = off set enable_seqscan = off set jit = off
as $$
declare
    -- Read once: the clock itself, being volatile, would be no condition of an index.
    v_now timestamptz := clock_timestamp();
    v_ended uuid[];
    v_keys text[];
begin
    with expired as (
        select q.id from job_queue q
        where q.status = 'pending' and q.expires_at is not null and q.expires_at <= v_now
        order by q.expires_at limit p_limit for update skip locked
    ), ended as (
        update job_queue q set
            status = case when not q.is_recurring then 'cancelled' when q.consecutive_failures > 0 then 'failed'
                else 'succeeded' end,
            last_error = case when not q.is_recurring then 'Its time ran out before a worker could run it.'
                else q.last_error end,
            completed_at = v_now, updated_at = v_now, version = q.version + 1
        from expired e where q.id = e.id
        returning q.id, q.concurrency_key
    )
    select array_agg(id), array_agg(concurrency_key) into v_ended, v_keys from ended;
    if v_ended is null then
        return 0;
    end if;
    v_keys := v_keys || job_queue_release_waiting(array(select q.id from job_queue q where q.id = any (v_ended)
        and q.status = 'succeeded'), '{}', '');
    perform job_queue_release_waiting('{}', array(select q.id from job_queue q where q.id = any (v_ended)
        and q.status <> 'succeeded'), 'ran out of time');
    perform job_queue_advance_lines(v_keys);
    return cardinality(v_ended);
end
$$;

-- What two transactions that could not see each other may leave behind: a line of which nobody is first, a job
-- that waits for one that is gone.
create or replace function public.job_queue_mend() returns void
language plpgsql volatile
set search_path = public, pg_temp set enable_sort = off set enable_bitmapscan = off set enable_seqscan = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_stuck text[];
    v_gone uuid[];
    v_failed uuid[];
begin
    with recursive line (key) as (
        (select q.concurrency_key from job_queue q
        where q.status = 'pending' and q.blocked_by is null and q.in_line order by q.concurrency_key limit 1)
        union all
        select (select q.concurrency_key from job_queue q
            where q.status = 'pending' and q.blocked_by is null and q.in_line and q.concurrency_key > l.key
            order by q.concurrency_key limit 1)
        from line l where l.key is not null
    )
    select array_agg(l.key) into v_stuck from line l
    where l.key is not null and not job_key_is_busy(l.key) and not exists (
        select from job_queue q where q.concurrency_key = l.key and q.status = 'pending' and q.blocked_by is null
            and not q.in_line and q.run_at <= greatest(v_now, (job_queue_first_in_line(l.key, v_now)).run_at));

    with recursive blocker (id) as (
        (select q.blocked_by from job_queue q where q.status = 'pending' and q.blocked_by is not null
        order by q.blocked_by limit 1)
        union all
        select (select q.blocked_by from job_queue q
            where q.status = 'pending' and q.blocked_by is not null and q.blocked_by > b.id
            order by q.blocked_by limit 1)
        from blocker b where b.id is not null
    ), judged as (
        select b.id, q.status, (
            select r.outcome from job_runs r where r.job_id = b.id and not r.late order by r.run_token desc limit 1
        ) as outcome
        from blocker b left join job_queue q on q.id = b.id where b.id is not null
    )
    select array_agg(j.id) filter (where j.status = 'succeeded'
            or j.status is null and j.outcome in ('succeeded', 'partial')),
        array_agg(j.id) filter (where j.status in ('failed', 'cancelled')
            or j.status is null and coalesce(j.outcome, '') not in ('succeeded', 'partial'))
    into v_gone, v_failed from judged j;
    v_stuck := v_stuck || job_queue_release_waiting(coalesce(v_gone, '{}'), '{}', '');
    perform job_queue_release_waiting('{}', coalesce(v_failed, '{}'), 'failed, was cancelled or was deleted');
    perform job_queue_advance_lines(v_stuck);
end
$$;

-- A bulk action is kept for 30 days from its choice, a choice that came to nothing for an hour.
create or replace function public.job_bulk_is_old(p_bulk public.job_bulk, p_now timestamptz) returns boolean
language sql immutable
return (p_bulk).chosen_at < p_now - case (p_bulk).state when 'chosen' then interval '1 hour' else interval '30 days' end
    and (p_bulk).state <> 'running';

-- Takes old evidence away, in batches and once a minute for all workers, but at the next pass already while there is
-- more: runs after 30 days, worker runs after 14, trash after 7, audit after 365, bulk actions after 30.
create or replace function public.job_queue_prune() returns bigint
language plpgsql volatile
set search_path = public, pg_temp set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_rows bigint;
    v_pruned bigint := 0;
begin
    update job_queue_settings set pruned_at = v_now
    where id = 1 and pruned_at < v_now - interval '1 minute'
        and pg_try_advisory_xact_lock(1785689, 0);
    if not found then
        return 0;
    end if;
    -- Tokens rise with time, so the oldest runs are found at the low end of the key.
    delete from job_runs r using (
        select o.run_token, o.late from (select run_token, late, finished_at from job_runs order by run_token limit 5000) o
        where o.finished_at < v_now - interval '30 days'
    ) old where r.run_token = old.run_token and r.late = old.late;
    get diagnostics v_rows = row_count;
    if v_rows = 5000 then
        update job_queue_settings set pruned_at = '-infinity' where id = 1;
    end if;
    v_pruned := v_pruned + v_rows;
    delete from job_worker_runs where id in (select w.id from job_worker_runs w
        where w.started_at < v_now - interval '14 days' order by w.started_at limit 5000);
    get diagnostics v_rows = row_count;
    v_pruned := v_pruned + v_rows;
    delete from job_trash where job_id in (select t.job_id from job_trash t
        where t.deleted_at < v_now - interval '7 days' order by t.deleted_at limit 5000);
    get diagnostics v_rows = row_count;
    v_pruned := v_pruned + v_rows;
    delete from job_audit where id in (select a.id from job_audit a
        where a.at < v_now - interval '365 days' order by a.at limit 5000);
    get diagnostics v_rows = row_count;
    v_pruned := v_pruned + v_rows;
    delete from job_bulk_items where (bulk_id, job_id) in (select i.bulk_id, i.job_id from job_bulk b
        join job_bulk_items i on i.bulk_id = b.id where job_bulk_is_old(b, v_now) limit 5000);
    get diagnostics v_rows = row_count;
    v_pruned := v_pruned + v_rows;
    delete from job_bulk b where job_bulk_is_old(b, v_now)
        and not exists (select from job_bulk_items i where i.bulk_id = b.id);
    delete from job_throughput where minute < v_now - interval '1 day';
    delete from job_workers where heartbeat_at < v_now - interval '1 day';
    return v_pruned;
end
$$;

drop function if exists public.job_queue_reap(text, double precision, double precision);
-- One pass of the reaper, safe from every worker at once. Runs before a claim can need what it mends.
create function public.job_queue_reap(
    p_worker text, p_retry_base double precision, p_retry_cap double precision,
    out lost bigint, out expired bigint, out pruned bigint, out resumed bigint, out lost_jobs uuid[]
)
language plpgsql volatile security definer
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
begin
    lost_jobs := array(select job_queue_take_back(p_worker, array(
        select q.id from job_queue q where q.status = 'running' and q.lease_expires_at <= clock_timestamp() limit 500
    ), '{}', p_retry_base, p_retry_cap));
    lost := cardinality(lost_jobs);
    expired := job_queue_end_expired(5000);
    resumed := job_queue_resume_due();
    perform job_queue_mend();
    pruned := job_queue_prune();
end
$$;

-- The original's cleanup, mended: removes succeeded and cancelled jobs older than p_max_age, returns how many.
create function public.job_queue_cleanup(p_max_age interval default interval '14 days') returns integer
language plpgsql volatile security definer
set search_path = public, pg_temp set jit = off
as $$
declare
    v_cutoff timestamptz := now() - p_max_age;
    v_batch integer;
    v_total integer := 0;
begin
    loop
        delete from job_queue where id in (
            select q.id from job_queue q
            where q.status in ('succeeded', 'cancelled') and coalesce(q.completed_at, q.updated_at, q.run_at) < v_cutoff
            limit 5000 for update skip locked);
        get diagnostics v_batch = row_count;
        v_total := v_total + v_batch;
        exit when v_batch = 0;
    end loop;
    return v_total;
end
$$;

-------------------------------------------------------------------------------------------------------
-- 8. Operators' actions
-------------------------------------------------------------------------------------------------------

create or replace function public.job_actor(p_actor text) returns text
language sql stable
return coalesce(nullif(trim(p_actor), '') || ' ', '') || '(' || session_user || ')';

-- What the audit keeps of a job. The payload only where it was changed: it may name people.
create or replace function public.job_audit_facts(p_job public.job_queue) returns jsonb
language sql immutable
return jsonb_build_object('task_type', (p_job).task_type, 'status', (p_job).status, 'run_at', (p_job).run_at,
    'attempts', (p_job).attempts, 'version', (p_job).version, 'last_outcome', (p_job).last_outcome);

create or replace function public.job_queue_write_audit(
    p_actor text, p_action text, p_job_id uuid, p_before jsonb, p_after jsonb, p_reason text
) returns void
language sql volatile
set search_path = public, pg_temp
as $$
    insert into job_audit (actor, action, job_id, before, after, reason)
    values (job_actor(p_actor), p_action, p_job_id, p_before, p_after, p_reason)
$$;

-- Puts on record that somebody looked at a job's personal data unmasked.
create or replace function public.job_queue_reveal(p_id uuid, p_actor text) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select job_queue_write_audit(p_actor, 'reveal', p_id, null, null, null)
$$;

-- Why an action may not be done to a job in its state; null when it may.
create or replace function public.job_action_refusal(p_action text, p_status text, p_cancelling boolean)
returns text
language sql immutable
return case
    when p_action = 'retry' and p_status = 'running' then 'It is running. Cancel it first, or wait until it ends.'
    when p_action = 'cancel' and p_status = 'running' and p_cancelling then 'It has been asked to cancel already.'
    when p_action = 'cancel' and p_status = 'succeeded' then 'It has succeeded; there is nothing to cancel.'
    when p_action = 'cancel' and p_status = 'cancelled' then 'It is cancelled already.'
    when p_action = 'delete' and p_status = 'running' then 'It is running. Cancel it first, then delete it.'
    when p_action = 'edit' and p_status = 'running' then 'It is running. Cancel it first, then edit it.'
    when p_action = 'edit' and p_status = 'succeeded' then 'It has succeeded. Enqueue a new job instead.'
end;

drop function if exists public.job_queue_holder(public.job_queue);

-- Makes a job pending and due now, for retry: attempts start again unless it was waiting already.
create or replace function public.job_queue_make_due(p_job public.job_queue) returns public.job_queue
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_job public.job_queue;
begin
    update job_queue q set
        status = 'pending', run_at = v_now, completed_at = null, last_error = null, updated_at = v_now,
        version = q.version + 1,
        attempts = case when q.status = 'pending' then q.attempts else 0 end,
        anchor_at = case when q.is_recurring then coalesce(q.anchor_at, q.run_at) end,
        -- A job whose time has run out, and which a person wants run all the same, is given no new end.
        expires_at = case when q.expires_at > v_now then q.expires_at end,
        blocked_by = case when q.status = 'pending' or q.blocked_by is null then q.blocked_by
            else job_queue_live_blocker(q.blocked_by) end,
        in_line = q.concurrency_key is not null
    where q.id = p_job.id returning * into v_job;
    perform job_queue_advance_lines(array[v_job.concurrency_key]);
    select * into v_job from job_queue where id = p_job.id;
    return v_job;
end
$$;

create or replace function public.job_queue_make_cancelled(p_job public.job_queue, p_actor text)
returns public.job_queue
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_job public.job_queue;
begin
    if p_job.status = 'running' then
        update job_queue q set cancel_requested_at = v_now, cancel_requested_by = job_actor(p_actor),
            updated_at = v_now, version = q.version + 1
        where q.id = p_job.id returning * into v_job;
        perform pg_notify('job_queue', 'cancel');
        return v_job;
    end if;
    update job_queue q set status = 'cancelled', completed_at = v_now, updated_at = v_now, version = q.version + 1,
        last_outcome = case when q.status = 'pending' then 'cancelled' else q.last_outcome end, in_line = false
    where q.id = p_job.id returning * into v_job;
    perform job_queue_release_waiting('{}', array[p_job.id], 'was cancelled');
    return v_job;
end
$$;

create or replace function public.job_queue_move_to_trash(p_job public.job_queue, p_actor text, p_reason text)
returns void
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    delete from job_queue where id = p_job.id;
    insert into job_trash (job_id, job, deleted_by, reason)
    values (p_job.id, to_jsonb(p_job), job_actor(p_actor), p_reason)
    on conflict (job_id) do update set job = excluded.job, deleted_at = now(), deleted_by = excluded.deleted_by,
        reason = excluded.reason;
    perform job_queue_release_waiting('{}', array[p_job.id], 'was deleted');
end
$$;

-- Enqueues a copy of a success that has left the queue, with what its history does not keep, and puts it on record.
-- Null where there is no such success. The payload is that of the run where none is given.
create or replace function public.job_queue_copy(
    p_job_id uuid, p_payload jsonb, p_max_attempts integer, p_priority integer, p_concurrency_key text, p_actor text,
    p_reason text
) returns uuid
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_run record;
    v_new uuid;
begin
    select r.task_type, r.payload into v_run from job_runs r where r.job_id = p_job_id and r.removed
    order by r.run_token desc limit 1;
    if found then
        v_new := (job_queue_create(v_run.task_type, coalesce(p_payload, v_run.payload), null, p_max_attempts, p_priority,
            null, p_concurrency_key, null, null, null, p_actor)).job_id;
        perform job_queue_write_audit(p_actor, 'run again', v_new, null, jsonb_build_object('copy_of', p_job_id),
            p_reason);
    end if;
    return v_new;
end
$$;

drop function if exists public.job_queue_run_again(uuid, text, boolean);
-- A success that has left the queue is run again as a new job with the same type and payload. Says what came of it;
-- null where there is no such success.
create or replace function public.job_queue_run_again(p_job_id uuid, p_actor text, p_reason text, p_dry_run boolean)
returns text
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    if p_dry_run then
        return (select 'It succeeded and left the queue; a copy of it would be enqueued.'
            where exists (select from job_runs r where r.job_id = p_job_id and r.removed));
    end if;
    return 'It succeeded and left the queue; enqueued a copy of it as '
        || job_queue_copy(p_job_id, null, 5, 0, null, p_actor, p_reason) || '.';
end
$$;

-- Retries, cancels or deletes jobs, each by itself and in the order of their ids: an answer per id. p_versions
-- runs in step with p_ids; a null in it means that the operator did not look first.
create or replace function public.job_queue_act(
    p_action text, p_ids uuid[], p_versions bigint[], p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, message text, status text, version bigint)
language plpgsql volatile security definer
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_asked record;
    v_job public.job_queue;
    v_after public.job_queue;
    v_copied text;
    v_refusal text;
    v_holder uuid;
    v_keys text[];
begin
    if p_action not in ('retry', 'cancel', 'delete') then
        perform job_queue_refuse(format('There is no action %s.', p_action));
    end if;
    perform from job_queue q where q.id = any (p_ids) order by q.id for update;
    if p_action = 'retry' and not p_dry_run then
        perform pg_advisory_xact_lock(1785689, hashtext(k.key)) from (
            select distinct q.concurrency_key as key from job_queue q
            where q.id = any (p_ids) and q.concurrency_key is not null order by q.concurrency_key) k;
    end if;
    for v_asked in
        select distinct on (a.id) a.id, a.version from unnest(p_ids, p_versions) as a (id, version) order by a.id
    loop
        select * into v_job from job_queue q where q.id = v_asked.id for update;
        if not found then
            if p_action = 'retry' then
                v_copied := job_queue_run_again(v_asked.id, p_actor, p_reason, p_dry_run);
                if v_copied is not null then
                    return query select v_asked.id, true, v_copied, 'pending'::text, null::bigint;
                    continue;
                end if;
            end if;
            return query select v_asked.id, false, case
                when exists (select from job_trash t where t.job_id = v_asked.id)
                    then 'It has been deleted. Restore it first.'
                else 'There is no such job in the queue any more.' end, null::text, null::bigint;
            continue;
        end if;
        v_refusal := job_action_refusal(p_action, v_job.status, v_job.cancel_requested_at is not null);
        if v_asked.version is not null and v_asked.version <> v_job.version then
            v_refusal := format('It has changed meanwhile and is now %s. Look again, then decide.', v_job.status);
        elsif v_refusal is null and p_action = 'retry' and v_job.status <> 'pending' and v_job.dedupe_key is not null
        then
            v_holder := job_queue_holder(v_job.dedupe_key);
            v_refusal := case when v_holder is not null
                then format('Job %s with the same dedupe key is waiting or running already.', v_holder) end;
        end if;
        if v_refusal is null and p_action = 'retry' and v_job.status <> 'pending' and v_job.blocked_by is not null then
            v_refusal := (job_queue_judge_blocker(v_job.blocked_by)).refusal;
        end if;
        if v_refusal is null and p_action = 'retry' and v_job.status <> 'pending' and v_job.is_recurring
            and coalesce(v_job.recurrence_interval_minutes, 0) <= 0
        then
            v_refusal := 'It is recurring and has no interval. Edit it to give it one, then retry it.';
        end if;
        if v_refusal is not null then
            return query select v_job.id, false, v_refusal, v_job.status, v_job.version;
            continue;
        end if;
        if p_dry_run then
            return query select v_job.id, true, format('It would be %s.', case
                when p_action = 'retry' then 'due now'
                when p_action = 'delete' then 'deleted'
                when v_job.status = 'running' then 'asked to cancel' else 'cancelled' end), v_job.status, v_job.version;
            continue;
        end if;

        if p_action = 'retry' and v_job.dedupe_key is null then
            v_after := job_queue_make_due(v_job);
        elsif p_action = 'retry' then
            -- Its key may have been taken since it was looked for.
            begin
                v_after := job_queue_make_due(v_job);
            exception when unique_violation then
                return query select v_job.id, false, 'A job with the same dedupe key came first.', v_job.status,
                    v_job.version;
                continue;
            end;
        elsif p_action = 'cancel' then
            v_after := job_queue_make_cancelled(v_job, p_actor);
        else
            perform job_queue_move_to_trash(v_job, p_actor, p_reason);
            v_after := null;
        end if;
        if p_action <> 'retry' then
            v_keys := v_keys || v_job.concurrency_key;
        end if;
        perform job_queue_write_audit(p_actor, p_action, v_job.id, job_audit_facts(v_job),
            case when v_after.id is not null then job_audit_facts(v_after) end, p_reason);
        return query select v_job.id, true, case
            when p_action = 'retry' and v_after.in_line then 'Due now, behind another job with its concurrency key.'
            when p_action = 'retry' and v_after.blocked_by is not null
                then format('Due now, and waits for job %s.', v_after.blocked_by)
            when p_action = 'retry' then 'Due now.'
            when p_action = 'delete' then 'Deleted; it can be restored for 7 days.'
            when v_after.status = 'running' then 'Asked to cancel; it ends when its handler stops.'
            else 'Cancelled.' end, v_after.status, v_after.version;
    end loop;
    perform job_queue_advance_lines(v_keys);
    if p_action = 'retry' and not p_dry_run then
        perform pg_notify('job_queue', '');
    end if;
end
$$;

-- Takes jobs back out of the trash as they were. One that was running cannot have been deleted.
create or replace function public.job_queue_restore(
    p_ids uuid[], p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, message text, status text, version bigint)
language plpgsql volatile security definer
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_id uuid;
    v_job public.job_queue;
    v_holder uuid;
    v_keys text[];
begin
    for v_id in select distinct a.id from unnest(p_ids) as a (id) order by a.id loop
        select (jsonb_populate_record(null::public.job_queue, t.job)).* into v_job from job_trash t
        where t.job_id = v_id for update;
        if not found then
            return query select v_id, false, 'It is not in the trash: never deleted, restored already or older than 7 days.',
                null::text, null::bigint;
            continue;
        end if;
        v_holder := case when v_job.status = 'pending' and v_job.dedupe_key is not null then job_queue_holder(v_job.dedupe_key) end;
        if v_holder is not null then
            return query select v_id, false, format('Job %s with the same dedupe key is waiting or running already.',
                v_holder), null::text, null::bigint;
            continue;
        end if;
        if p_dry_run then
            return query select v_id, true, format('It would come back as %s.', v_job.status), v_job.status, v_job.version;
            continue;
        end if;
        v_job.version := v_job.version + 1;
        v_job.updated_at := clock_timestamp();
        v_job.in_line := v_job.status = 'pending' and v_job.concurrency_key is not null;
        begin
            insert into job_queue select (v_job).*;
        exception when unique_violation then
            return query select v_id, false, 'A job with the same dedupe key came first.', null::text, null::bigint;
            continue;
        end;
        delete from job_trash where job_id = v_id;
        v_keys := v_keys || v_job.concurrency_key;
        perform job_queue_write_audit(p_actor, 'restore', v_id, null, job_audit_facts(v_job), p_reason);
        return query select v_id, true, format('Restored as %s.', v_job.status), v_job.status, v_job.version;
    end loop;
    perform job_queue_advance_lines(v_keys);
end
$$;

-- Changes payload, schedule or limits of a job that is not running. Keys of p_changes: payload, run_at,
-- recurrence_interval_minutes, expires_at, priority, max_attempts, and with a payload its concurrency_key; the
-- caller has validated the payload.
create or replace function public.job_queue_edit(
    p_id uuid, p_version bigint, p_changes jsonb, p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, message text, status text, version bigint)
language plpgsql volatile security definer
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_job public.job_queue;
    v_new public.job_queue;
    v_refusal text;
    v_unknown text;
begin
    select * into v_job from job_queue q where q.id = p_id for update;
    if not found then
        return query select p_id, false, 'There is no such job in the queue any more.', null::text, null::bigint;
        return;
    end if;
    select string_agg(k, ', ' order by k) into v_unknown from jsonb_object_keys(p_changes) k
    where k not in ('payload', 'run_at', 'recurrence_interval_minutes', 'expires_at', 'priority', 'max_attempts',
        'concurrency_key');
    -- A field that is given replaces the old one, null included; one that is not keeps it.
    v_new := jsonb_populate_record(v_job, p_changes);
    v_refusal := case
        when p_version is not null and p_version <> v_job.version
            then format('It has changed meanwhile and is now %s. Look again, then decide.', v_job.status)
        when v_unknown is not null then format('There is nothing to edit by the name of %s.', v_unknown)
        when p_changes = '{}' then 'Nothing was given to change.'
        when v_new.recurrence_interval_minutes <= 0 then 'The interval of a recurring job must be 1 minute or more.'
        when jsonb_typeof(v_new.payload) is distinct from 'object' then 'A payload is a JSON object.'
        when v_new.run_at is null then 'A job needs a time to run at.'
        when v_new.priority is null or v_new.priority not between -100 and 100 then 'A priority lies between -100 and 100.'
        when v_new.max_attempts is null or v_new.max_attempts < 1 then 'A job needs at least one attempt.'
        else job_action_refusal('edit', v_job.status, false)
    end;
    if v_refusal is not null or p_dry_run then
        return query select p_id, v_refusal is null, coalesce(v_refusal, 'It would be changed.'), v_job.status, v_job.version;
        return;
    end if;
    update job_queue q set
        payload = v_new.payload, run_at = v_new.run_at, priority = v_new.priority, expires_at = v_new.expires_at,
        max_attempts = v_new.max_attempts, recurrence_interval_minutes = v_new.recurrence_interval_minutes,
        is_recurring = v_new.recurrence_interval_minutes is not null, concurrency_key = v_new.concurrency_key,
        anchor_at = case
            when v_new.recurrence_interval_minutes is null then null
            when v_new.run_at <> v_job.run_at or v_job.anchor_at is null then v_new.run_at
            else v_job.anchor_at
        end,
        in_line = q.status = 'pending' and v_new.concurrency_key is not null,
        updated_at = clock_timestamp(), version = q.version + 1
    where q.id = p_id returning * into v_new;
    perform job_queue_advance_lines(array[v_job.concurrency_key, v_new.concurrency_key]);
    perform job_queue_write_audit(p_actor, 'edit', p_id, job_audit_facts(v_job) || (
        select coalesce(jsonb_object_agg(o.key, o.value), '{}') from jsonb_each(to_jsonb(v_job)) o where p_changes ? o.key
    ), job_audit_facts(v_new) || p_changes, p_reason);
    perform pg_notify('job_queue', '');
    return query select p_id, true, 'Changed.', v_new.status, v_new.version;
end
$$;

-- Chooses all jobs in the queue that match, for an action on exactly these; null where none does.
create or replace function public.job_bulk_choose(
    p_words text, p_status text, p_type text, p_text text, p_error text, p_coach text, p_attempts integer,
    p_age interval, p_outcome text, p_actor text
) returns uuid
language plpgsql volatile security definer
set search_path = public, pg_temp set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    insert into job_bulk (words, actor) values (p_words, p_actor) returning id into v_bulk;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select v_bulk, q.id, q.task_type, q.version from job_queue q
    where (p_status is null or q.status = p_status)
        and job_matches(q.id, q.task_type, q.payload, q.last_error, q.attempts, q.created_at, q.last_outcome,
            p_type, p_text, p_error, p_coach, p_attempts, p_age, p_outcome);
    get diagnostics v_total = row_count;
    if v_total = 0 then
        delete from job_bulk where id = v_bulk;
        return null;
    end if;
    update job_bulk set total = v_total where id = v_bulk;
    return v_bulk;
end
$$;

-- Chooses these jobs. p_versions runs in step with p_ids; a null in it means that the operator did not look first.
create or replace function public.job_bulk_choose_ids(
    p_ids uuid[], p_versions bigint[], p_words text, p_actor text
) returns uuid
language plpgsql volatile security definer
set search_path = public, pg_temp set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    insert into job_bulk (words, actor) values (p_words, p_actor) returning id into v_bulk;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select distinct on (a.id) v_bulk, a.id, q.task_type, a.version from unnest(p_ids, p_versions) as a (id, version)
    left join job_queue q on q.id = a.id order by a.id;
    get diagnostics v_total = row_count;
    update job_bulk set total = v_total where id = v_bulk;
    return v_bulk;
end
$$;

-- Chooses jobs of an earlier bulk action once more: all of them, those it was done to, or those that were refused.
create or replace function public.job_bulk_choose_again(p_bulk uuid, p_which text, p_actor text) returns uuid
language plpgsql volatile security definer
set search_path = public, pg_temp set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    insert into job_bulk (words, actor)
    select b.words, p_actor from job_bulk b where b.id = p_bulk returning id into v_bulk;
    if v_bulk is null then
        perform job_queue_refuse('There is no such bulk action. They are kept for 30 days.');
    end if;
    insert into job_bulk_items (bulk_id, job_id, task_type)
    select v_bulk, i.job_id, i.task_type from job_bulk_items i
    where i.bulk_id = p_bulk and (p_which = 'all' or (p_which = 'done' and i.ok) or (p_which = 'refused' and not i.ok));
    get diagnostics v_total = row_count;
    if v_total = 0 then
        delete from job_bulk where id = v_bulk;
        return null;
    end if;
    update job_bulk set total = v_total where id = v_bulk;
    return v_bulk;
end
$$;

-- Has an action begin on what was chosen; job_bulk_step carries it out.
create or replace function public.job_bulk_start(p_bulk uuid, p_action text, p_actor text, p_reason text) returns void
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_bulk public.job_bulk;
begin
    if p_action not in ('retry', 'cancel', 'delete', 'restore') then
        perform job_queue_refuse(format('There is no action %s.', p_action));
    end if;
    update job_bulk set state = 'running', action = p_action, actor = p_actor, role = session_user, reason = p_reason,
        driver = p_actor, started_at = clock_timestamp(), stepped_at = clock_timestamp()
    where id = p_bulk and state = 'chosen' returning * into v_bulk;
    if not found then
        perform job_queue_refuse('This choice of jobs was used already, or is too old. Choose them again.');
    end if;
    perform job_queue_write_audit(p_actor, 'bulk ' || p_action, null, null,
        jsonb_build_object('bulk', p_bulk, 'jobs', v_bulk.total, 'filter', v_bulk.words), p_reason);
end
$$;

-- Acts on the next jobs of a bulk action and keeps their answers, in one transaction, so that however often it is
-- called and by however many, each job is acted on once. Whoever carries it out, it is the deed of who began it.
create or replace function public.job_bulk_step(p_bulk uuid, p_limit integer, p_driver text) returns setof public.job_bulk
language plpgsql volatile security definer
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
declare
    v_bulk public.job_bulk;
    v_ids uuid[];
    v_versions bigint[];
    v_done integer;
    v_refused integer;
    v_actor text;
begin
    select * into v_bulk from job_bulk b where b.id = p_bulk for update;
    if v_bulk.state is distinct from 'running' then
        return query select * from job_bulk b where b.id = p_bulk;
        return;
    end if;
    select coalesce(array_agg(i.job_id order by i.job_id), '{}'), coalesce(array_agg(i.seen order by i.job_id), '{}')
    into v_ids, v_versions from (
        select i.job_id, i.seen from job_bulk_items i where i.bulk_id = p_bulk and i.ok is null
        order by i.job_id limit p_limit) i;
    v_actor := case when v_bulk.role = session_user then v_bulk.actor
        else format('%s (%s), carried out by', v_bulk.actor, v_bulk.role) end;
    if v_bulk.action = 'restore' then
        update job_bulk_items i set ok = r.ok, message = r.message, status = r.status, version = r.version
        from job_queue_restore(v_ids, v_actor, v_bulk.reason, false) r
        where i.bulk_id = p_bulk and i.job_id = r.job_id;
    else
        update job_bulk_items i set ok = r.ok, message = r.message, status = r.status, version = r.version
        from job_queue_act(v_bulk.action, v_ids, v_versions, v_actor, v_bulk.reason, false) r
        where i.bulk_id = p_bulk and i.job_id = r.job_id;
    end if;
    select count(*), count(*) filter (where not i.ok) into v_done, v_refused from job_bulk_items i
    where i.bulk_id = p_bulk and i.job_id = any (v_ids);
    return query update job_bulk b set done = b.done + v_done, refused = b.refused + v_refused,
        stepped_at = clock_timestamp(), driver = p_driver, trouble = null,
        state = case when b.done + v_done >= b.total then 'finished' else b.state end,
        finished_at = case when b.done + v_done >= b.total then clock_timestamp() end
    where b.id = p_bulk returning b.*;
end
$$;

-- For workers: goes on with a bulk action that nobody has carried further for 10 seconds, and stays with it. Answers
-- whether there is more to do at once. What goes wrong with one is kept with it, and keeps the worker from nothing.
create or replace function public.job_bulk_continue(p_worker text, p_limit integer) returns boolean
language plpgsql volatile security definer
set search_path = public, pg_temp set jit = off
as $$
declare
    v_bulk uuid;
    v_state text;
begin
    select b.id into v_bulk from job_bulk b
    where b.state = 'running' and (b.driver = p_worker or b.stepped_at < clock_timestamp() - interval '10 seconds')
    order by b.stepped_at limit 1 for update skip locked;
    if not found then
        return false;
    end if;
    begin
        select s.state into v_state from job_bulk_step(v_bulk, p_limit, p_worker) s;
        return v_state = 'running';
    exception when others then
        update job_bulk set trouble = sqlerrm, stepped_at = clock_timestamp(), driver = null where id = v_bulk;
        return false;
    end;
end
$$;

-- Ends a bulk action with what has been done so far; false where it had ended already.
create or replace function public.job_bulk_stop(p_bulk uuid, p_actor text) returns boolean
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    update job_bulk set state = 'stopped', stopped_by = job_actor(p_actor), finished_at = clock_timestamp()
    where id = p_bulk and state = 'running';
    if found then
        perform job_queue_write_audit(p_actor, 'bulk stop', null, null, jsonb_build_object('bulk', p_bulk), null);
    end if;
    return found;
end
$$;

-- Forgets a choice that no action was begun on.
create or replace function public.job_bulk_drop(p_bulk uuid) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    delete from job_bulk where id = p_bulk and state = 'chosen'
$$;

-- The answers of a bulk action in the order of the ids; `ok` is null for a job whose turn has not come.
create or replace function public.job_bulk_result(p_bulk uuid, p_refused boolean, p_after uuid, p_limit integer)
returns table (job_id uuid, task_type text, ok boolean, message text, status text, version bigint)
language sql stable security definer
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
    select i.job_id, i.task_type, i.ok, i.message, i.status, i.version from job_bulk_items i
    where i.bulk_id = p_bulk and (not p_refused or not i.ok) and (p_after is null or i.job_id > p_after)
    order by i.job_id limit p_limit
$$;

-- The playbook's jobs:cleanup: running jobs that started longer ago than p_older_than and whose lease has
-- provably expired. They are listed, and unless p_dry_run end as failed (a series goes on at its next slot).
-- Marks stuck jobs failed: all of them, or those of p_ids.
drop function if exists public.job_queue_clean_stuck(interval, text, boolean);
create or replace function public.job_queue_clean_stuck(
    p_older_than interval, p_actor text, p_dry_run boolean, p_ids uuid[]
) returns table (job_id uuid, ok boolean, message text, status text, version bigint)
language plpgsql volatile security definer
set search_path = public, pg_temp set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_stuck public.job_queue;
    v_after public.job_queue;
begin
    for v_stuck in
        select * from job_queue q where q.status = 'running' and q.lease_expires_at <= clock_timestamp()
            and coalesce(q.started_at, q.updated_at) <= clock_timestamp() - p_older_than
            and (p_ids is null or q.id = any (p_ids))
        order by q.id
    loop
        if p_dry_run then
            return query select v_stuck.id, true, format('Stuck since %s: worker %s stopped renewing its lease.',
                to_char(v_stuck.lease_expires_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'), v_stuck.locked_by),
                v_stuck.status, v_stuck.version;
            continue;
        end if;
        if not exists (select from job_queue_take_back('cleanup', array[v_stuck.id], jsonb_build_object(
            'permanent', true, 'error_kind', 'stuck', 'error', format(
                'Stuck in running state: worker %s stopped renewing its lease, and the job was marked failed by hand.',
                v_stuck.locked_by)), 0, 0))
        then
            return query select v_stuck.id, false, 'Its worker or the reaper was quicker; nothing was changed.',
                null::text, null::bigint;
            continue;
        end if;
        select * into v_after from job_queue q where q.id = v_stuck.id;
        perform job_queue_write_audit(p_actor, 'cleanup', v_stuck.id, job_audit_facts(v_stuck),
            job_audit_facts(v_after), null);
        return query select v_stuck.id, true, case when v_after.status = 'pending'
            then 'The cycle was marked failed; the series goes on at its next slot.'
            when v_after.status = 'cancelled' then 'Cancelled, as it had been asked to be.' else 'Marked failed.' end,
            v_after.status, v_after.version;
    end loop;
end
$$;

-------------------------------------------------------------------------------------------------------
-- 9. The processing switch, workers and their runs
-------------------------------------------------------------------------------------------------------

-- Stops all claims, or those of one task type, at the next claim everywhere.
create or replace function public.job_queue_pause(
    p_task_type text, p_reason text, p_resume_at timestamptz, p_actor text
) returns void
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    if p_resume_at <= clock_timestamp() then
        perform job_queue_refuse('The time to resume at has passed already. Give one that is still to come.');
    end if;
    if p_task_type is null then
        update job_queue_settings set processing_enabled = false, paused_reason = p_reason, updated_at = now(),
            paused_by = job_actor(p_actor), paused_at = clock_timestamp(), resume_at = p_resume_at
        where id = 1;
        if not found then
            insert into job_queue_settings (id, processing_enabled, paused_reason, paused_by, paused_at, resume_at)
            values (1, false, p_reason, job_actor(p_actor), clock_timestamp(), p_resume_at);
        end if;
    else
        insert into job_paused_types as t (task_type, reason, paused_by, paused_at, resume_at)
        values (p_task_type, p_reason, job_actor(p_actor), clock_timestamp(), p_resume_at)
        on conflict (task_type) do update set reason = excluded.reason, paused_by = excluded.paused_by,
            paused_at = excluded.paused_at, resume_at = excluded.resume_at;
    end if;
    perform job_queue_write_audit(p_actor, 'pause', null, null, jsonb_build_object('task_type', p_task_type,
        'resume_at', p_resume_at), p_reason);
end
$$;

create or replace function public.job_queue_resume(p_task_type text, p_actor text) returns void
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    if p_task_type is null then
        insert into job_queue_settings (id, processing_enabled) values (1, true)
        on conflict (id) do update set processing_enabled = true, paused_reason = null, paused_by = null,
            paused_at = null, resume_at = null, updated_at = now();
    else
        delete from job_paused_types where task_type = p_task_type;
        if not found then
            perform job_queue_refuse(format('The task type %s is not paused.', p_task_type));
        end if;
    end if;
    perform job_queue_write_audit(p_actor, 'resume', null, null, jsonb_build_object('task_type', p_task_type), null);
    perform pg_notify('job_queue', '');
end
$$;

-- Takes away pauses whose time is up. Claims did not wait for this; it brings the switch and the audit up to date.
create or replace function public.job_queue_resume_due() returns bigint
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_type text;
    v_resumed bigint := 0;
begin
    update job_queue_settings set processing_enabled = true, paused_reason = null, paused_by = null, paused_at = null,
        resume_at = null, updated_at = now()
    where id = 1 and not processing_enabled and resume_at <= clock_timestamp();
    if found then
        perform job_queue_write_audit('automatic resume', 'resume', null, null, '{}', null);
        v_resumed := v_resumed + 1;
    end if;
    for v_type in delete from job_paused_types where resume_at <= clock_timestamp() returning task_type loop
        perform job_queue_write_audit('automatic resume', 'resume', null, null,
            jsonb_build_object('task_type', v_type), null);
        v_resumed := v_resumed + 1;
    end loop;
    return v_resumed;
end
$$;

create or replace function public.job_worker_report(
    p_id text, p_host text, p_pid integer, p_mode text, p_version text, p_concurrency integer, p_types text[],
    p_running integer
) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    insert into job_workers as w (id, host, pid, mode, version, concurrency, task_types, running)
    values (p_id, p_host, p_pid, p_mode, p_version, p_concurrency, p_types, p_running)
    on conflict (id) do update set heartbeat_at = clock_timestamp(), running = excluded.running,
        concurrency = excluded.concurrency, task_types = excluded.task_types, mode = excluded.mode
$$;

create or replace function public.job_worker_remove(p_id text) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$ delete from job_workers where id = p_id $$;

-- The task types of which any job stands in the claim's index, whoever handles them.
create or replace function public.job_queue_waiting_types() returns text[]
language sql stable
set search_path = public, pg_temp set enable_seqscan = off set enable_sort = off set jit = off
as $$
    with recursive type (name) as (
        (select q.task_type from job_queue q where q.status = 'pending' and q.blocked_by is null and not q.in_line
        order by q.task_type limit 1)
        union all
        select (select q.task_type from job_queue q where q.status = 'pending' and q.blocked_by is null
            and not q.in_line and q.task_type > t.name order by q.task_type limit 1)
        from type t where t.name is not null
    )
    select array(select name from type where name is not null)
$$;

-- Jobs that are due and could be claimed, counted up to 1000.
create or replace function public.job_queue_due_count() returns integer
language sql stable security definer
set search_path = public, pg_temp set enable_seqscan = off set enable_sort = off set jit = off
as $$
    select least(1000, coalesce(sum(c.jobs), 0))::integer
    from job_queue_lanes(array(
        select t from unnest(job_queue_waiting_types()) t where job_clause_type_open(t, statement_timestamp()))) l
    cross join lateral (
        select count(*) as jobs from (
            select from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
                and q.priority = l.priority and q.run_at <= statement_timestamp()
            order by q.run_at limit 1000
        ) due
    ) c
$$;

create or replace function public.job_worker_run_open(p_source text, p_worker text, p_http_method text)
returns uuid
language sql volatile security definer
set search_path = public, pg_temp
as $$
    insert into job_worker_runs (started_at, source, worker_id, http_method, due_before)
    values (clock_timestamp(), p_source, p_worker, p_http_method, job_queue_due_count()) returning id
$$;

-- The figures of a window that is still open.
create or replace function public.job_worker_run_note(
    p_id uuid, p_claimed integer, p_succeeded integer, p_failed integer, p_released integer
) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    update job_worker_runs set claimed = p_claimed, processed = p_succeeded + p_failed, succeeded = p_succeeded,
        failed = p_failed, released = p_released
    where id = p_id and completed_at is null
$$;

create or replace function public.job_worker_run_close(
    p_id uuid, p_status text, p_claimed integer, p_succeeded integer, p_failed integer, p_released integer,
    p_message text, p_error text, p_results jsonb, p_http_status integer
) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    update job_worker_runs set completed_at = clock_timestamp(), status = p_status, claimed = p_claimed,
        processed = p_succeeded + p_failed, succeeded = p_succeeded, failed = p_failed, released = p_released,
        message = p_message, error_message = p_error, results = p_results, http_status = p_http_status,
        duration_ms = extract(epoch from clock_timestamp() - started_at) * 1000
    where id = p_id
$$;

-- Every how many minutes a scheduler is to call; health counts in this.
create or replace function public.job_queue_expect_trigger(p_minutes integer) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$ update job_queue_settings set trigger_minutes = p_minutes where id = 1 and trigger_minutes <> p_minutes $$;

-- Whether this alarm is news: false while an earlier one of that name stands.
create or replace function public.job_alarm_raise(p_name text) returns boolean
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    insert into job_alarms (name) values (p_name) on conflict (name) do nothing;
    return found;
end
$$;

-- Takes an alarm away; since when it had stood, for whoever did so, and null where none stood.
create or replace function public.job_alarm_clear(p_name text) returns timestamptz
language sql volatile security definer
set search_path = public, pg_temp
as $$ delete from job_alarms where name = p_name returning since $$;

-------------------------------------------------------------------------------------------------------
-- 10. Reading
-------------------------------------------------------------------------------------------------------

-- A payload as one sees it who may look but not operate: keys and plain values, no text that may name a person.
create or replace function public.job_redact_payload(p_payload jsonb) returns jsonb
language sql immutable parallel safe
set search_path = public, pg_temp
as $$
    select coalesce(jsonb_object_agg(e.key, case
        when jsonb_typeof(e.value) in ('boolean', 'number', 'null') then e.value
        when jsonb_typeof(e.value) = 'array' then to_jsonb(format('%s hidden', jsonb_array_length(e.value)))
        when e.value #>> '{}' ~ '^[0-9a-fA-F-]{36}$' then e.value
        else '"hidden"'::jsonb end), '{}')
    from jsonb_each(case when jsonb_typeof(p_payload) = 'object' then p_payload else '{}' end) e
$$;

-- Whether the one who asks may see payloads whole: whoever may read the table itself.
create or replace function public.job_sees_payloads() returns boolean
language sql stable parallel safe
return has_table_privilege('public.job_queue', 'select');

drop view if exists public.job_list;
drop view if exists public.job_removed_list;
create view public.job_list as
select q.id, q.task_type,
    case when public.job_sees_payloads() then q.payload else public.job_redact_payload(q.payload) end as payload,
    q.status, q.run_at, q.attempts, q.max_attempts, q.created_at, q.updated_at, q.version, q.priority, q.last_error,
    case when public.job_sees_payloads() then q.output end as output, q.completed_at, q.is_recurring,
    q.recurrence_interval_minutes, q.expires_at, q.last_run_at, q.dedupe_key, q.concurrency_key, q.blocked_by,
    case when public.job_sees_payloads() then q.checkpoint end as checkpoint,
    case when public.job_sees_payloads() then q.progress else q.progress - 'log' end as progress,
    q.locked_by, q.run_token, q.lease_expires_at, q.started_at, q.cancel_requested_at, q.cancel_requested_by, q.anchor_at,
    q.consecutive_failures, q.last_outcome, q.last_success_at, q.created_by,
    case when q.status = 'pending' then q.run_at end as next_run_at,
    case when q.status = 'pending' and q.run_at <= now() and q.blocked_by is null
        then extract(epoch from now() - q.run_at)::double precision end as overdue_seconds,
    q.in_line, coalesce(q.completed_at, q.updated_at) as ended_at, false as removed
from public.job_queue q;

-- One-time jobs that succeeded and so left the queue, as the jobs they were. What the history does not keep is null;
-- when a job was created its id tells, where that was made with its time in it.
create view public.job_removed_list as
select r.job_id as id, r.task_type,
    case when public.job_sees_payloads() then r.payload else public.job_redact_payload(r.payload) end as payload,
    'succeeded'::text as status, r.due_at as run_at, r.attempt as attempts,
    null::integer as max_attempts, case when made.at <= r.started_at then made.at end as created_at,
    r.finished_at as updated_at, 0::bigint as version, null::integer as priority, null::text as last_error,
    case when public.job_sees_payloads() then r.output end as output,
    r.finished_at as completed_at, false as is_recurring, r.finished_at as last_run_at, r.outcome as last_outcome,
    r.finished_at as last_success_at, r.run_token as left_with, true as removed
from public.job_runs r
cross join lateral (
    select case when substr(r.job_id::text, 15, 1) = '7' then to_timestamp(
        ('x0000' || replace(left(r.job_id::text, 13), '-', ''))::bit(64)::bigint / 1000.0) end as at
) made
where r.removed;

-- Deleted jobs as they were, for as long as they can be restored.
drop view if exists public.job_trash_list;
create view public.job_trash_list as
select q.id, q.task_type,
    case when public.job_sees_payloads() then q.payload else public.job_redact_payload(q.payload) end as payload,
    q.status, q.run_at, q.attempts, q.max_attempts, q.created_at, q.updated_at, q.version, q.priority, q.last_error,
    case when public.job_sees_payloads() then q.output end as output, q.completed_at, q.is_recurring,
    q.recurrence_interval_minutes, q.expires_at, q.last_run_at, q.dedupe_key, q.concurrency_key, q.blocked_by,
    case when public.job_sees_payloads() then q.checkpoint end as checkpoint, q.anchor_at, q.consecutive_failures,
    q.last_outcome, q.last_success_at, q.created_by, t.deleted_at, t.deleted_by, t.reason
from public.job_trash t cross join lateral jsonb_populate_record(null::public.job_queue, t.job) q;

-- Whether a job is among those a list was asked for; a filter that is null lets everything pass. One expression,
-- so that the planner puts it in place and drops what is not asked for. Text is looked for as it stands.
create or replace function public.job_matches(
    p_id uuid, p_task_type text, p_payload jsonb, p_error text, p_attempts integer, p_created_at timestamptz,
    p_outcome text, p_want_type text, p_want_text text, p_want_error text, p_want_coach text,
    p_want_attempts integer, p_want_age interval, p_want_outcome text
) returns boolean
language sql stable parallel safe
return (p_want_type is null or position(lower(p_want_type) in lower(p_task_type)) > 0)
    and (p_want_text is null or position(lower(p_want_text) in
        lower(concat_ws(' ', p_id, p_task_type, p_error, p_payload))) > 0)
    and (p_want_error is null or position(lower(p_want_error) in lower(p_error)) > 0)
    -- Lists show the beginning of an id.
    and (p_want_coach is null or starts_with(lower(p_payload ->> 'coachId'), lower(p_want_coach)))
    and (p_want_attempts is null or p_attempts >= p_want_attempts)
    and (p_want_age is null or p_created_at <= now() - p_want_age)
    and (p_want_outcome is null or p_outcome = p_want_outcome);

drop function if exists public.job_order_key(text, uuid, timestamptz, text, text, integer, timestamptz, timestamptz);
-- What an order by the name of p_sort compares; null for the natural order.
create or replace function public.job_order_key(
    p_sort text, p_id uuid, p_created_at timestamptz, p_task_type text, p_status text, p_attempts integer,
    p_run_at timestamptz, p_updated_at timestamptz, p_last_run_at timestamptz, p_error text
) returns text
language sql stable parallel safe
return case p_sort
    -- Jobs enqueued together were created at one moment, in the order of their ids.
    when 'created' then coalesce(to_char(p_created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS'), repeat('0', 20)) || p_id
    when 'task' then p_task_type
    when 'status' then p_status
    when 'attempts' then lpad(p_attempts::text, 10, '0')
    when 'run_at' then to_char(p_run_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS')
    when 'updated' then to_char(p_updated_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS')
    -- Jobs that have not run, or that have no error, come last when the list is turned round, as what says least.
    when 'last_run' then coalesce(to_char(p_last_run_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS'), '')
    when 'error' then coalesce(left(p_error, 100), '')
end;

drop view if exists public.job_run_list;
create view public.job_run_list as
select r.run_token, r.late, r.job_id, r.task_type,
    case when public.job_sees_payloads() then r.payload else public.job_redact_payload(r.payload) end as payload,
    r.attempt, r.worker_id, r.due_at, r.started_at, r.finished_at, r.outcome, r.removed, r.error_kind, r.error,
    r.fingerprint, r.traceback, case when public.job_sees_payloads() then r.output end as output,
    case when public.job_sees_payloads() then r.log end as log, r.progress
from public.job_runs r;

drop view if exists public.job_audit_list;
create view public.job_audit_list as
select a.id, a.at, a.actor, a.action, a.job_id,
    case when public.job_sees_payloads() or not a.before ? 'payload' then a.before
        else a.before || jsonb_build_object('payload', public.job_redact_payload(a.before -> 'payload')) end as before,
    case when public.job_sees_payloads() or not a.after ? 'payload' then a.after
        else a.after || jsonb_build_object('payload', public.job_redact_payload(a.after -> 'payload')) end as after,
    a.reason
from public.job_audit a;

-- Why a job is or is not running: every clause of the claim with its evidence, in the order of the claim.
create or replace function public.job_queue_why(p_id uuid)
returns table (place integer, clause text, holds boolean, evidence text)
language plpgsql stable security definer
set search_path = public, pg_temp set jit = off
as $$
declare
    v_job public.job_queue;
    v_now timestamptz := clock_timestamp();
    v_switch public.job_queue_settings;
    v_pause public.job_paused_types;
    v_workers integer;
    v_handling integer;
    v_holder uuid;
begin
    select * into v_job from job_queue where id = p_id;
    if not found then
        return;
    end if;
    select * into v_switch from job_queue_settings where id = 1;
    select * into v_pause from job_paused_types where task_type = v_job.task_type;
    select count(*), count(*) filter (where v_job.task_type = any (w.task_types)) into v_workers, v_handling
    from job_workers w where w.heartbeat_at > v_now - interval '2 minutes';
    select q.id into v_holder from job_queue q
    where q.concurrency_key = v_job.concurrency_key and q.status = 'running' and q.id <> v_job.id;

    return query values
        (1, 'status', job_clause_pending(v_job.status), format('The job is %s.', v_job.status)),
        (2, 'processing', job_clause_processing(v_now), case
            when v_switch.id is null then 'The settings row is missing, so nothing is claimed. Run "jobdeck resume".'
            when job_clause_processing(v_now) then 'Automatic processing is on.'
            else format('Automatic processing has been off since %s%s%s.',
                to_char(v_switch.paused_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'),
                coalesce(', by ' || v_switch.paused_by, ''), coalesce(': ' || v_switch.paused_reason, '')) end),
        (3, 'type open', job_clause_type_open(v_job.task_type, v_now), case
            when job_clause_type_open(v_job.task_type, v_now) then format('The type %s is not paused.', v_job.task_type)
            else format('The type %s has been paused since %s%s%s.', v_job.task_type,
                to_char(v_pause.paused_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI"Z"'),
                coalesce(', by ' || v_pause.paused_by, ''), coalesce(': ' || v_pause.reason, '')) end),
        (4, 'worker', v_handling > 0, case
            when v_workers = 0 then 'No worker has been heard of in the last 2 minutes. Start one: "jobdeck worker".'
            when v_handling = 0 then format('%s workers are alive and none of them handles this type.', v_workers)
            when v_workers = 1 then 'The one live worker handles this type.'
            else format('%s of %s live workers handle this type.', v_handling, v_workers) end),
        (5, 'due', job_clause_due(v_job.run_at, v_now), case
            when job_clause_due(v_job.run_at, v_now)
                then format('It has been due since %s.',
                    to_char(v_job.run_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"'))
            else format('It is due at %s.', to_char(v_job.run_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"')) end),
        (6, 'unexpired', job_clause_unexpired(v_job.expires_at, v_now), case
            when v_job.expires_at is null then 'It has no end.'
            else format('Its time %s at %s.', case when v_job.expires_at > v_now then 'runs out' else 'ran out' end,
                to_char(v_job.expires_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"')) end),
        (7, 'unblocked', job_clause_unblocked(v_job.blocked_by), case
            when v_job.blocked_by is null then 'It waits for no other job.'
            else format('It waits for job %s to succeed; that one is %s.', v_job.blocked_by,
                coalesce((select q.status from job_queue q where q.id = v_job.blocked_by), 'gone')) end),
        (8, 'key free', job_clause_first_in_line(v_job.in_line)
                and (v_holder is null or job_clause_key_free(v_job.concurrency_key)), case
            when v_job.concurrency_key is null then 'It may run beside any other job.'
            when v_holder is not null then format('Job %s with the same concurrency key is running.', v_holder)
            when v_job.in_line then 'Another job with its concurrency key goes first.'
            else 'No job with its concurrency key is running.' end);
end
$$;

-- Jobs by status, each counted up to p_most and by an index of its own; those that succeeded and left, as `removed`.
-- Of p_most jobs the sample holds m = p_most / 64, give or take. Where it holds v_proof there are more than p_most, and
-- they are not counted: by Chernoff's bound fewer would have given it so many once in e^64 times.
create or replace function public.job_queue_counts(
    p_most integer, out pending bigint, out running bigint, out succeeded bigint, out failed bigint,
    out cancelled bigint, out removed bigint
)
language plpgsql stable security definer
set search_path = public, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_proof constant integer := ceil(p_most / 64.0 + 12 * sqrt(p_most / 64.0) + 40);
begin
    pending := case
        when (select count(*) from (select from job_queue q
            where q.status = 'pending' and uuid_hash(q.id) & 63 = 0 limit v_proof) drawn) = v_proof then p_most
        else (select count(*) from (select from job_queue q
                where q.status = 'pending' and q.blocked_by is null and not q.in_line limit p_most) found)
            + (select count(*) from (select from job_queue q
                where q.status = 'pending' and (q.blocked_by is not null or q.in_line) limit p_most) found) end;
    running := (select count(*) from (select from job_queue q where q.status = 'running' limit p_most) found);
    succeeded := case
        when (select count(*) from (select from job_queue q
            where q.status = 'succeeded' and uuid_hash(q.id) & 63 = 0 limit v_proof) drawn) = v_proof then p_most
        else (select count(*) from (select from job_queue q where q.status = 'succeeded' limit p_most) found) end;
    failed := case
        when (select count(*) from (select from job_queue q
            where q.status = 'failed' and uuid_hash(q.id) & 63 = 0 limit v_proof) drawn) = v_proof then p_most
        else (select count(*) from (select from job_queue q where q.status = 'failed' limit p_most) found) end;
    cancelled := case
        when (select count(*) from (select from job_queue q
            where q.status = 'cancelled' and uuid_hash(q.id) & 63 = 0 limit v_proof) drawn) = v_proof then p_most
        else (select count(*) from (select from job_queue q where q.status = 'cancelled' limit p_most) found) end;
    removed := case
        when (select count(*) from (select from job_runs r
            where r.removed and hashint8(r.run_token) & 63 = 0 limit v_proof) drawn) = v_proof then p_most
        else (select count(*) from (select from job_runs r where r.removed limit p_most) found) end;
end
$$;

-- Since when the job that has been due longest waits; null when nothing is due. A paused type's jobs are not late.
create or replace function public.job_queue_oldest_due() returns timestamptz
language sql stable security definer
set search_path = public, pg_temp set enable_seqscan = off set enable_sort = off set jit = off
as $$
    select min(h.run_at)
    from job_queue_lanes(array(
        select t from unnest(job_queue_waiting_types()) t where job_clause_type_open(t, clock_timestamp()))) l
    cross join lateral (
        select q.run_at from job_queue q
        where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
            and q.priority = l.priority and q.run_at <= statement_timestamp()
        order by q.run_at, q.id limit 1
    ) h
$$;

-- What the one who asks may do here.
create or replace function public.job_permissions(out can_view boolean, out can_operate boolean, out can_work boolean)
language sql stable
return (
    has_table_privilege('public.job_list', 'select'),
    has_function_privilege('public.job_queue_act(text, uuid[], bigint[], text, text, boolean)', 'execute'),
    has_function_privilege('public.job_queue_claim('
        || 'text, text[], integer, double precision, text[], integer[], timestamptz[], uuid[])', 'execute')
);

-------------------------------------------------------------------------------------------------------
-- 11. The programme's own tables
-------------------------------------------------------------------------------------------------------

-- Over the original application's tables every statement is additive: rows and columns stay.

do $$
begin
    if to_regtype('public.user_role') is null then
        create type public.user_role as enum ('admin', 'coach');
    end if;
    if to_regtype('public.competitor_division') is null then
        create type public.competitor_division as enum ('middle_school', 'high_school', 'college');
    end if;
    if to_regtype('public.metactf_role') is null then
        create type public.metactf_role as enum ('coach', 'user');
    end if;
    if to_regtype('public.team_status') is null then
        create type public.team_status as enum ('forming', 'active', 'archived');
    end if;
    if to_regtype('public.metactf_sync_status') is null then
        create type public.metactf_sync_status as enum
            ('pending', 'user_created', 'pending_approval', 'approved', 'denied', 'error');
    end if;
end
$$;

-- Nothing in this file uses the new value: Postgres allows that only after the transaction that adds it.
alter type public.metactf_sync_status add value if not exists 'pending_approval' after 'user_created';

create table if not exists public.profiles (
    id uuid primary key default gen_random_uuid(),
    email text not null unique,
    role public.user_role not null default 'coach',
    full_name text not null,
    first_name text not null,
    last_name text not null,
    school_name text not null,
    division text,
    region text,
    is_approved boolean default false,
    game_platform_user_id text,
    game_platform_last_synced_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.competitors (
    id uuid primary key default gen_random_uuid(),
    coach_id uuid not null references public.profiles (id) on delete cascade,
    first_name text not null,
    last_name text not null,
    email_personal text,
    email_school text,
    is_18_or_over boolean default false,
    grade text,
    gender text,
    race text,
    ethnicity text,
    level_of_technology text,
    years_competing integer,
    parent_name text,
    parent_email text,
    media_release_date timestamptz,
    participation_agreement_date timestamptz,
    division public.competitor_division,
    program_track text check (program_track in ('traditional', 'adult_ed')),
    is_active boolean default true,
    status text default 'pending',
    game_platform_id text unique,
    game_platform_synced_at timestamptz,
    game_platform_sync_error text,
    game_platform_onboarding_email text,
    syned_school_id text,
    syned_region_id text,
    syned_coach_user_id text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (coach_id, email_school, game_platform_id)
);

create table if not exists public.teams (
    id uuid primary key default gen_random_uuid(),
    coach_id uuid not null references public.profiles (id) on delete cascade,
    name text not null,
    division text,
    affiliation text,
    status public.team_status default 'forming',
    game_platform_id text,
    game_platform_synced_at timestamptz,
    game_platform_sync_error text,
    syned_coach_user_id text,
    coach_game_platform_id text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (coach_id, name)
);

create table if not exists public.team_members (
    id uuid primary key default gen_random_uuid(),
    team_id uuid not null references public.teams (id) on delete cascade,
    competitor_id uuid not null references public.competitors (id) on delete cascade,
    position integer check (position between 1 and 6),
    joined_at timestamptz not null default now(),
    game_platform_synced_at timestamptz,
    game_platform_sync_error text,
    unique (competitor_id),
    unique (team_id, competitor_id)
);

create table if not exists public.game_platform_profiles (
    id uuid primary key default gen_random_uuid(),
    coach_id uuid unique references public.profiles (id) on delete cascade,
    competitor_id uuid unique references public.competitors (id) on delete cascade,
    metactf_role public.metactf_role not null,
    synced_user_id text unique,
    metactf_user_id integer,
    metactf_username text,
    status public.metactf_sync_status default 'pending',
    last_synced_at timestamptz,
    sync_error text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((coach_id is null) <> (competitor_id is null))
);

create table if not exists public.game_platform_teams (
    id uuid primary key default gen_random_uuid(),
    team_id uuid unique references public.teams (id) on delete cascade,
    synced_team_id text,
    metactf_team_id integer,
    metactf_team_name text,
    status public.metactf_sync_status default 'pending',
    last_synced_at timestamptz,
    sync_error text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.game_platform_challenge_solves (
    id bigint generated always as identity primary key,
    synced_user_id text not null,
    metactf_user_id bigint,
    synced_team_id text,
    challenge_solve_id bigint not null,
    challenge_id bigint,
    challenge_title text,
    challenge_category text,
    challenge_points integer,
    solved_at timestamptz,
    source text not null default 'odl' check (source in ('odl', 'flash_ctf')),
    event_id text not null default '',
    raw_payload jsonb,
    created_at timestamptz not null default now()
);

create table if not exists public.game_platform_flash_ctf_events (
    id bigint generated always as identity primary key,
    synced_user_id text not null,
    metactf_user_id bigint,
    event_id text not null,
    flash_ctf_name text,
    challenges_solved integer default 0,
    points_earned integer default 0,
    rank integer,
    max_points_possible integer,
    started_at timestamptz,
    ended_at timestamptz,
    raw_payload jsonb,
    created_at timestamptz not null default now(),
    unique (synced_user_id, event_id)
);

create table if not exists public.game_platform_sync_state (
    synced_user_id text primary key,
    last_odl_synced_at timestamptz,
    last_flash_ctf_synced_at timestamptz,
    last_remote_accessed_at timestamptz,
    last_attempt_at timestamptz,
    last_login_at timestamptz,
    last_result text check (last_result in ('success', 'failure')),
    error_message text,
    needs_totals_refresh boolean not null default false,
    updated_at timestamptz not null default now()
);

create table if not exists public.game_platform_stats (
    id uuid primary key default gen_random_uuid(),
    competitor_id uuid not null references public.competitors (id) on delete cascade,
    challenges_completed integer default 0,
    monthly_ctf_challenges integer default 0,
    total_score integer default 0,
    last_activity timestamptz,
    synced_at timestamptz default now(),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.game_platform_sync_runs (
    id uuid primary key default gen_random_uuid(),
    started_at timestamptz not null default now(),
    completed_at timestamptz,
    status text not null default 'running',
    competitors_synced integer default 0,
    competitors_failed integer default 0,
    error_message text,
    sync_type text default 'incremental',
    created_at timestamptz not null default now()
);

create table if not exists public.activity_logs (
    id uuid primary key default gen_random_uuid(),
    user_id uuid references public.profiles (id) on delete set null,
    action text not null,
    entity_type text,
    entity_id uuid,
    metadata jsonb,
    ip_address inet,
    user_agent text,
    created_at timestamptz not null default now()
);

-- What the jobs need beyond the original's columns.

alter table public.competitors
    add column if not exists game_platform_onboarding_email text;

-- A wave walks competitors by (created_at, id); a row without a date would fall out of that order.
update public.competitors set created_at = coalesce(updated_at, now()) where created_at is null;
alter table public.competitors alter column created_at set default now();
alter table public.competitors alter column created_at set not null;

alter table public.game_platform_challenge_solves
    add column if not exists event_id text not null default '';

alter table public.game_platform_sync_state
    add column if not exists last_odl_watermark_unix bigint,
    add column if not exists last_odl_full_at timestamptz,
    add column if not exists last_odl_result text,
    add column if not exists last_flash_result text,
    add column if not exists last_flash_checked_at timestamptz,
    add column if not exists totals_dirty_at timestamptz;

update public.game_platform_sync_state set needs_totals_refresh = false where needs_totals_refresh is null;
alter table public.game_platform_sync_state alter column needs_totals_refresh set default false;
alter table public.game_platform_sync_state alter column needs_totals_refresh set not null;
update public.game_platform_sync_state set totals_dirty_at = now()
    where needs_totals_refresh and totals_dirty_at is null;

alter table public.game_platform_profiles
    add column if not exists refreshed_at timestamptz,
    add column if not exists refresh_attempt_at timestamptz,
    add column if not exists refresh_result text,
    add column if not exists refresh_error text;

alter table public.game_platform_sync_runs
    add column if not exists job_id uuid,
    add column if not exists coach_id uuid,
    add column if not exists dry_run boolean not null default false,
    add column if not exists heartbeat_at timestamptz;

-- How far each person's last onboarding got. `creating` is written before the vendor is asked to create the account,
-- so that whoever finds it, after a crash as well, knows that the account may exist. `lap` groups one job's attempts.
create table if not exists public.game_platform_onboarding (
    competitor_id uuid unique references public.competitors (id) on delete cascade,
    coach_id uuid unique references public.profiles (id) on delete cascade,
    person_id uuid generated always as (coalesce(competitor_id, coach_id)) stored primary key,
    synced_user_id text not null,
    lap text not null,
    job_id uuid not null,
    run_token bigint not null,
    state text not null default 'open' check (state in ('open', 'creating', 'done', 'failed')),
    outcome text,
    message text,
    sent_at timestamptz,
    sent_fields text[],
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((coach_id is null) <> (competitor_id is null))
);

-- Constraints over rows the original may have written bind new rows only (not valid).
do $$
begin
    if not exists (select from pg_constraint where conname = 'game_platform_sync_state_results_check'
                                  and conrelid = 'public.game_platform_sync_state'::regclass) then
        alter table public.game_platform_sync_state add constraint game_platform_sync_state_results_check
            check (last_odl_result in ('success', 'failure') and last_flash_result in ('success', 'failure')) not valid;
    end if;
    if not exists (select from pg_constraint where conname = 'game_platform_profiles_refresh_check'
                                  and conrelid = 'public.game_platform_profiles'::regclass) then
        alter table public.game_platform_profiles add constraint game_platform_profiles_refresh_check
            check (refresh_result in ('success', 'missing', 'refused', 'failure')) not valid;
    end if;
    if not exists (select from pg_constraint where conname = 'game_platform_sync_runs_status_check'
                                  and conrelid = 'public.game_platform_sync_runs'::regclass) then
        alter table public.game_platform_sync_runs add constraint game_platform_sync_runs_status_check
            check (status in ('running', 'completed', 'failed')) not valid;
    end if;
end
$$;

-- The vendor's solve ids are unique within one event only: the original's key over (user, solve) lets one event's solve replace another's.
do $$
declare
    old_key text;
begin
    for old_key in
        select c.conname from pg_constraint c
        where c.conrelid = 'public.game_platform_challenge_solves'::regclass and c.contype = 'u'
            and (select array_agg(a.attname::text order by a.attname) from pg_attribute a
                      where a.attrelid = c.conrelid and a.attnum = any (c.conkey))
                    = array['challenge_solve_id', 'synced_user_id']
    loop
        execute format('alter table public.game_platform_challenge_solves drop constraint %I', old_key);
    end loop;
    for old_key in
        select i.indexrelid::regclass::text from pg_index i
        where i.indrelid = 'public.game_platform_challenge_solves'::regclass and i.indisunique and not i.indisprimary
            and (select array_agg(a.attname::text order by a.attname) from pg_attribute a
                      where a.attrelid = i.indrelid and a.attnum = any (i.indkey::smallint[]))
                    = array['challenge_solve_id', 'synced_user_id']
    loop
        execute format('drop index %s', old_key);
    end loop;
end
$$;

create unique index if not exists game_platform_challenge_solves_key
    on public.game_platform_challenge_solves (synced_user_id, source, event_id, challenge_solve_id);

-- One stats row for each competitor. Where the original left several, the newest stays and the others are kept aside.
create table if not exists public.game_platform_stats_duplicates
    (like public.game_platform_stats including defaults);

do $$
begin
    if to_regclass('public.game_platform_stats_competitor_key') is null then
        with surplus as (
            select id from (
                select id, row_number() over (partition by competitor_id order by updated_at desc nulls last, id) as place
                from public.game_platform_stats) as ranked
            where place > 1),
        moved as (delete from public.game_platform_stats s using surplus where s.id = surplus.id returning s.*)
        insert into public.game_platform_stats_duplicates select * from moved;
        create unique index game_platform_stats_competitor_key on public.game_platform_stats (competitor_id);
    end if;
end
$$;

create unique index if not exists profiles_game_platform_user_key
    on public.profiles (game_platform_user_id) where game_platform_user_id is not null;
create index if not exists competitors_on_platform
    on public.competitors (created_at, id) where game_platform_id is not null;
create index if not exists competitors_coach on public.competitors (coach_id);
create unique index if not exists teams_game_platform_key
    on public.teams (game_platform_id) where game_platform_id is not null;
create index if not exists team_members_team on public.team_members (team_id);
create unique index if not exists game_platform_teams_synced_team_key
    on public.game_platform_teams (synced_team_id) where synced_team_id is not null;
create index if not exists game_platform_challenge_solves_recent
    on public.game_platform_challenge_solves (synced_user_id, solved_at desc);
create index if not exists game_platform_challenge_solves_category
    on public.game_platform_challenge_solves (challenge_category);
create index if not exists game_platform_flash_ctf_events_recent
    on public.game_platform_flash_ctf_events (synced_user_id, started_at desc);
create index if not exists game_platform_flash_ctf_events_started
    on public.game_platform_flash_ctf_events (started_at);
create index if not exists game_platform_sync_state_dirty
    on public.game_platform_sync_state (totals_dirty_at) where needs_totals_refresh;
create index if not exists game_platform_sync_runs_started
    on public.game_platform_sync_runs (started_at desc);
create index if not exists game_platform_sync_runs_running
    on public.game_platform_sync_runs (status) where status = 'running';
create index if not exists competitors_to_onboard
    on public.competitors (created_at, id) where game_platform_id is null and status in ('profile', 'compliance');
create index if not exists game_platform_onboarding_lap on public.game_platform_onboarding (lap, person_id);
create index if not exists activity_logs_entity on public.activity_logs (entity_type, entity_id);

create or replace function public.programme_touch() returns trigger
language plpgsql set search_path = pg_catalog, public as $$
begin
    new.updated_at := now();
    return new;
end
$$;

create or replace function public.programme_limit_team() returns trigger
language plpgsql set search_path = pg_catalog, public as $$
begin
    perform from public.teams where id = new.team_id for update;
    if (select count(*) from public.team_members where team_id = new.team_id and id <> new.id) >= 6 then
        raise exception 'A team has at most 6 members.' using errcode = 'check_violation';
    end if;
    return new;
end
$$;

create or replace trigger programme_touch before update on public.competitors
    for each row execute function public.programme_touch();
create or replace trigger programme_touch before update on public.game_platform_sync_state
    for each row execute function public.programme_touch();
create or replace trigger programme_limit_team before insert or update of team_id on public.team_members
    for each row execute function public.programme_limit_team();

create or replace function public.job_programme_tables() returns setof text
language sql immutable
set search_path = public, pg_temp
as $$
    select unnest(array['profiles', 'competitors', 'teams', 'team_members', 'game_platform_profiles',
        'game_platform_teams', 'game_platform_challenge_solves', 'game_platform_flash_ctf_events',
        'game_platform_sync_state', 'game_platform_stats', 'game_platform_stats_duplicates',
        'game_platform_sync_runs', 'game_platform_onboarding', 'activity_logs'])
$$;

-------------------------------------------------------------------------------------------------------
-- 12. Sending
--
-- Conversations, release forms and campaigns as the original has them, and the outbox: the ledger between "decided
-- to send" and "sent". Over the original's tables every statement is additive: rows and columns stay.
-------------------------------------------------------------------------------------------------------

-------------------------------------------------------------------------------------------------------
-- Conversations, release forms, campaigns
-------------------------------------------------------------------------------------------------------

alter table public.profiles
    add column if not exists mobile_number text,
    add column if not exists email_alerts_enabled boolean default true,
    add column if not exists email_alert_address text,
    add column if not exists sms_notifications_enabled boolean default false,
    add column if not exists instant_sms_enabled boolean default false,
    add column if not exists last_unread_alert_at timestamptz,
    add column if not exists last_unread_alert_count integer;

alter table public.competitors
    add column if not exists parent_email_is_valid boolean,
    add column if not exists parent_email_validated_at timestamptz,
    add column if not exists parent_email_invalid_reason text;

create table if not exists public.conversations (
    id uuid primary key default gen_random_uuid(),
    type text not null check (type in ('dm', 'group', 'announcement')),
    title text,
    created_by uuid references public.profiles (id) on delete set null,
    created_at timestamptz not null default now()
);

create table if not exists public.conversation_members (
    conversation_id uuid not null references public.conversations (id) on delete cascade,
    user_id uuid not null references public.profiles (id) on delete cascade,
    role text not null default 'member',
    joined_at timestamptz not null default now(),
    muted_until timestamptz,
    last_read_at timestamptz not null default now(),
    primary key (conversation_id, user_id)
);

create table if not exists public.messages (
    id uuid primary key default gen_random_uuid(),
    conversation_id uuid not null references public.conversations (id) on delete cascade,
    sender_id uuid not null references public.profiles (id) on delete cascade,
    body text not null,
    metadata jsonb not null default '{}',
    high_priority boolean not null default false,
    parent_message_id uuid references public.messages (id) on delete set null,
    thread_root_id uuid references public.messages (id) on delete set null,
    created_at timestamptz not null default now()
);

create table if not exists public.message_read_receipts (
    id uuid primary key default gen_random_uuid(),
    message_id uuid not null references public.messages (id) on delete cascade,
    user_id uuid not null references public.profiles (id) on delete cascade,
    read_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    unique (message_id, user_id)
);

create table if not exists public.message_user_state (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references public.profiles (id) on delete cascade,
    message_id uuid not null references public.messages (id) on delete cascade,
    flagged boolean not null default false,
    archived_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (user_id, message_id)
);

create table if not exists public.admin_alert_queue (
    id uuid primary key default gen_random_uuid(),
    recipient_id uuid not null references public.profiles (id) on delete cascade,
    message_id uuid not null references public.messages (id) on delete cascade,
    created_at timestamptz not null default now(),
    unique (recipient_id, message_id)
);

create table if not exists public.alert_log (
    id uuid primary key default gen_random_uuid(),
    coach_id uuid not null references public.profiles (id) on delete cascade,
    channel text check (channel in ('email', 'sms')),
    unread_count integer,
    sent_at timestamptz not null default now(),
    error_text text
);

create table if not exists public.agreements (
    id uuid primary key default gen_random_uuid(),
    competitor_id uuid not null references public.competitors (id) on delete cascade,
    provider text default 'zoho',
    template_kind text check (template_kind in ('adult', 'minor')),
    request_id text not null,
    status text default 'sent',
    metadata jsonb,
    signers jsonb,
    recipient_email_verification_sent_at timestamptz,
    recipient_email_verification_status text,
    recipient_email_verification_error text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table if not exists public.competitor_announcement_campaigns (
    id uuid primary key default gen_random_uuid(),
    subject text not null,
    body_markdown text not null,
    body_html text not null,
    created_by uuid references public.profiles (id),
    status text not null default 'pending',
    created_at timestamptz not null default now(),
    completed_at timestamptz
);

create table if not exists public.competitor_announcement_recipients (
    id uuid primary key default gen_random_uuid(),
    campaign_id uuid not null references public.competitor_announcement_campaigns (id),
    competitor_id uuid not null references public.competitors (id),
    email text not null,
    status text not null default 'queued',
    skip_reason text,
    error text,
    opened_at timestamptz,
    clicked_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- What the jobs need beyond the original's columns.

-- A claimed row is bound to the message that tells of it; sent and dropped rows stay, so that nobody is told twice.
alter table public.admin_alert_queue
    add column if not exists outbox_id uuid,
    add column if not exists claimed_by bigint,
    add column if not exists claimed_at timestamptz,
    add column if not exists sent_at timestamptz,
    add column if not exists dropped_at timestamptz,
    add column if not exists dropped_reason text;

alter table public.alert_log
    add column if not exists job_id uuid,
    add column if not exists outbox_id uuid,
    add column if not exists role text;
alter table public.alert_log alter column channel drop not null;
alter table public.alert_log alter column unread_count drop not null;

alter table public.agreements
    add column if not exists recipient_email_verification_address text,
    add column if not exists recipient_email_verification_attempts integer not null default 0,
    add column if not exists recipient_email_verification_next_at timestamptz,
    add column if not exists recipient_email_verification_skip_reason text,
    add column if not exists recipient_email_verification_event_at timestamptz,
    add column if not exists recipient_email_verification_outbox_id uuid;

-- A campaign that a command creates has no signed-in user; created_by_actor says who it was.
alter table public.competitor_announcement_campaigns
    add column if not exists created_by_actor text,
    add column if not exists audience text,
    add column if not exists coach_id uuid,
    add column if not exists started_at timestamptz,
    add column if not exists failed_reason text,
    add column if not exists dispatch_job_id uuid,
    add column if not exists dispatch_token bigint,
    add column if not exists lease_until timestamptz,
    add column if not exists send_attempt integer not null default 0;
alter table public.competitor_announcement_campaigns alter column created_by drop not null;

-- Rows of the original have no email_norm until their campaign is taken up; only those with one are bound by the keys.
alter table public.competitor_announcement_recipients
    add column if not exists email_norm text,
    add column if not exists send_batch_id uuid,
    add column if not exists accepted_at timestamptz;

-- The original's checks know fewer statuses.
do $$
declare
    v_check record;
begin
    for v_check in
        select c.conrelid::regclass as relation, c.conname as name from pg_constraint c
        where c.contype = 'c' and (
            c.conrelid = 'public.competitor_announcement_campaigns'::regclass
            and pg_get_constraintdef(c.oid) ~ '\mstatus\M' and pg_get_constraintdef(c.oid) !~ 'partially_failed'
            or c.conrelid = 'public.competitor_announcement_recipients'::regclass
            and pg_get_constraintdef(c.oid) ~ '\mstatus\M' and pg_get_constraintdef(c.oid) !~ 'uncertain')
    loop
        execute format('alter table %s drop constraint %I', v_check.relation, v_check.name);
    end loop;
    if not exists (select from pg_constraint where conname = 'competitor_announcement_campaigns_status_check') then
        alter table public.competitor_announcement_campaigns add constraint competitor_announcement_campaigns_status_check
            check (status in ('draft', 'pending', 'sending', 'sent', 'failed', 'partially_failed'));
    end if;
    if not exists (select from pg_constraint where conname = 'competitor_announcement_recipients_status_check') then
        alter table public.competitor_announcement_recipients add constraint competitor_announcement_recipients_status_check
            check (status in ('queued', 'sending', 'uncertain', 'unconfirmed', 'delivered', 'bounced', 'dropped', 'blocked',
                'skipped', 'failed'));
    end if;
end
$$;

create index if not exists conversation_members_user on public.conversation_members (user_id);
create index if not exists messages_conversation on public.messages (conversation_id, created_at desc);
create index if not exists message_read_receipts_user on public.message_read_receipts (user_id, read_at desc);
create index if not exists message_user_state_archived
    on public.message_user_state (archived_at, id) where archived_at is not null;
create index if not exists message_user_state_user_archived
    on public.message_user_state (user_id, message_id) where archived_at is not null;
create index if not exists admin_alert_queue_open
    on public.admin_alert_queue (recipient_id, created_at) where sent_at is null and dropped_at is null;
create index if not exists admin_alert_queue_outbox
    on public.admin_alert_queue (outbox_id) where outbox_id is not null;
create index if not exists alert_log_coach on public.alert_log (coach_id, channel, sent_at desc);
create index if not exists agreements_to_probe on public.agreements (created_at)
    where provider = 'zoho' and template_kind = 'minor' and status = 'sent'
        and recipient_email_verification_sent_at is null;
create index if not exists agreements_outbox on public.agreements (recipient_email_verification_outbox_id)
    where recipient_email_verification_outbox_id is not null;
create index if not exists agreements_competitor on public.agreements (competitor_id);
create index if not exists competitor_announcement_recipients_queued
    on public.competitor_announcement_recipients (campaign_id, id) where status = 'queued';
create index if not exists competitor_announcement_recipients_status
    on public.competitor_announcement_recipients (campaign_id, status);
create index if not exists competitor_announcement_recipients_batch
    on public.competitor_announcement_recipients (send_batch_id) where send_batch_id is not null;
create unique index if not exists competitor_announcement_recipients_person
    on public.competitor_announcement_recipients (campaign_id, competitor_id) where email_norm is not null;
create unique index if not exists competitor_announcement_recipients_address
    on public.competitor_announcement_recipients (campaign_id, email_norm)
    where email_norm is not null and status <> 'skipped';

-------------------------------------------------------------------------------------------------------
-- The outbox: tables
-------------------------------------------------------------------------------------------------------

-- One row per message, there before anything is sent. `attempts` is the fence: what a sender reports counts only for
-- the attempt it was given. `queued` may be sent; `uncertain` may have been, and is never sent again by itself.
create table if not exists public.outbox_messages (
    id uuid primary key default gen_random_uuid(),
    kind text not null check (kind in ('unread_alert', 'admin_alert', 'parent_probe', 'announcement')),
    channel text not null check (channel in ('email', 'sms')),
    recipient_ref uuid,
    address text not null,
    address_norm text not null,
    dedupe_key text not null unique,
    data jsonb not null default '{}',
    campaign_id uuid,
    campaign_recipient_id uuid,
    batch_id uuid,
    state text not null default 'queued' check (state in ('queued', 'sending', 'uncertain', 'accepted', 'delivered',
        'blocked', 'dropped', 'bounced', 'failed', 'suppressed')),
    attempts integer not null default 0,
    lease_until timestamptz,
    next_attempt_at timestamptz not null default now(),
    provider_message_id text,
    segments integer,
    error_class text,
    error_code text,
    error_text text,
    last_event text,
    last_event_at timestamptz,
    job_id uuid,
    run_token bigint,
    created_at timestamptz not null default now(),
    accepted_at timestamptz,
    updated_at timestamptz not null default now(),
    check ((state = 'sending') = (lease_until is not null))
);
alter table public.outbox_messages add column if not exists outcome_at timestamptz;
alter table public.outbox_messages set (fillfactor = 85);

create index if not exists outbox_messages_sending on public.outbox_messages (lease_until) where state = 'sending';
create index if not exists outbox_messages_queued on public.outbox_messages (kind, created_at) where state = 'queued';
create index if not exists outbox_messages_recipient
    on public.outbox_messages (recipient_ref, channel, kind, created_at desc);
create index if not exists outbox_messages_campaign
    on public.outbox_messages (campaign_id, state) where campaign_id is not null;
create index if not exists outbox_messages_campaign_recipient
    on public.outbox_messages (campaign_recipient_id) where campaign_recipient_id is not null;
create index if not exists outbox_messages_batch on public.outbox_messages (batch_id) where batch_id is not null;
create index if not exists outbox_messages_provider
    on public.outbox_messages (provider_message_id) where provider_message_id is not null;
create index if not exists outbox_messages_address on public.outbox_messages (address_norm, accepted_at desc);
create index if not exists outbox_messages_job on public.outbox_messages (job_id, id) where job_id is not null;
create index if not exists outbox_messages_open on public.outbox_messages (channel, accepted_at)
    where state in ('accepted', 'uncertain');

-- One request that carries many messages.
create table if not exists public.send_batches (
    id uuid primary key default gen_random_uuid(),
    campaign_id uuid not null,
    size integer not null,
    state text not null default 'sending' check (state in ('sending', 'accepted', 'returned', 'failed', 'uncertain')),
    provider_message_id text,
    http_status integer,
    error_class text,
    job_id uuid,
    run_token bigint,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index if not exists send_batches_campaign on public.send_batches (campaign_id, created_at);

-- Who was not sent anything in a run, and why.
create table if not exists public.outbox_left_out (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    job_id uuid,
    run_token bigint,
    kind text not null,
    channel text,
    recipient_ref uuid,
    reason text not null
);
create index if not exists outbox_left_out_job on public.outbox_left_out (job_id, id);
create index if not exists outbox_left_out_at on public.outbox_left_out (at);

create table if not exists public.email_suppressions (
    address_norm text not null,
    reason text not null check (reason in ('hard_bounce', 'spam', 'global_unsub', 'group_unsub', 'invalid', 'manual')),
    scope text not null default 'all' check (scope in ('all', 'announcements')),
    source text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    primary key (address_norm, reason, scope)
);

create table if not exists public.sms_opt_outs (
    phone_e164 text primary key,
    source text not null check (source in ('stop', 'error_21610', 'manual', 'unusable')),
    created_at timestamptz not null default now(),
    cleared_at timestamptz
);

-- An event's address is kept until the event is applied, then taken away.
create table if not exists public.provider_events (
    id bigint generated always as identity primary key,
    provider text not null check (provider in ('sendgrid', 'twilio')),
    event_key text not null,
    event text not null,
    occurred_at timestamptz not null,
    message_key text,
    outbox_id uuid,
    campaign_id uuid,
    competitor_id uuid,
    agreement_id uuid,
    address_norm text,
    reason text,
    payload jsonb not null default '{}',
    received_at timestamptz not null default now(),
    applied_at timestamptz,
    result text,
    failures integer not null default 0,
    unique (provider, event_key)
);
create index if not exists provider_events_waiting on public.provider_events (occurred_at, id) where applied_at is null;
create index if not exists provider_events_received on public.provider_events (received_at);
create index if not exists provider_events_taken_back on public.provider_events ((payload ->> 'address_sha256'))
    where event in ('group_resubscribe', 'start');

create table if not exists public.provider_cursors (
    name text primary key,
    position text not null,
    updated_at timestamptz not null default now()
);

-- When the next request to a provider may go out, for all workers together.
create table if not exists public.provider_rates (
    provider text primary key,
    due_at timestamptz not null default '-infinity',
    closed_until timestamptz not null default '-infinity'
);

-------------------------------------------------------------------------------------------------------
-- Addresses, preferences, quiet hours
-------------------------------------------------------------------------------------------------------

create or replace function public.outbox_normal(p_channel text, p_address text) returns text
language sql immutable
return case p_channel when 'email' then lower(regexp_replace(p_address, '^\s+|\s+$', '', 'g'))
    else regexp_replace(p_address, '^\s+|\s+$', '', 'g') end;

-- Strict, because one bad address makes SendGrid refuse a whole request.
create or replace function public.outbox_email_ok(p_address text) returns boolean
language sql immutable
return coalesce(length(p_address) <= 254
    and p_address ~ '^[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+)*@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$'
    and length(split_part(p_address, '@', 1)) <= 64, false);

-- A number as E.164, read as one of the United States where it has no country code; null when it is none.
create or replace function public.outbox_e164(p_number text) returns text
language sql immutable
return case
    when p_number is null or p_number !~ '^\s*\+?[0-9 ().\-]+\s*$' then null
    when regexp_replace(p_number, '[^0-9+]', '', 'g') ~ '^\+[1-9][0-9]{7,14}$'
        then regexp_replace(p_number, '[^0-9+]', '', 'g')
    when regexp_replace(p_number, '[^0-9+]', '', 'g') ~ '^[2-9][0-9]{9}$'
        then '+1' || regexp_replace(p_number, '[^0-9+]', '', 'g')
    when regexp_replace(p_number, '[^0-9+]', '', 'g') ~ '^1[2-9][0-9]{9}$'
        then '+' || regexp_replace(p_number, '[^0-9+]', '', 'g')
end;

create or replace function public.outbox_mask(p_channel text, p_address text) returns text
language sql immutable
return case when coalesce(p_address, '') = '' then ''
    when p_channel = 'sms' then '…' || right(p_address, 2)
    else left(p_address, 1) || '…@' || split_part(p_address, '@', 2) end;

-- Whether a time of day lies in a span that may go past midnight; a span without length is none.
create or replace function public.outbox_is_quiet(p_at time, p_from time, p_to time) returns boolean
language sql immutable
return coalesce(case when p_from <= p_to then p_at >= p_from and p_at < p_to else p_at >= p_from or p_at < p_to end, false);

-- Why an address must not be sent to; null when it may.
create or replace function public.outbox_suppression(p_kind text, p_channel text, p_address_norm text) returns text
language sql stable
set search_path = public, pg_temp
as $$
    select case when p_channel = 'sms' then (
            select case source when 'unusable' then 'number_unusable' else 'opted_out' end
            from sms_opt_outs where phone_e164 = p_address_norm and cleared_at is null)
        else (
            select case when reason in ('global_unsub', 'group_unsub') then 'unsubscribed' else 'suppressed' end
            from email_suppressions
            where address_norm = p_address_norm and (scope = 'all' or p_kind = 'announcement')
                and (expires_at is null or expires_at > now())
            order by reason in ('global_unsub', 'group_unsub') limit 1)
        end
$$;

-- Whether somebody does not want such alerts.
create or replace function public.outbox_preference_off(p_kind text, p_channel text, p_recipient uuid) returns boolean
language sql stable
set search_path = public, pg_temp
as $$
    select p_kind in ('unread_alert', 'admin_alert') and exists (
        select from profiles where id = p_recipient and case
            when p_channel = 'email' then email_alerts_enabled is false
            when p_kind = 'unread_alert' then sms_notifications_enabled is not true
            else instant_sms_enabled is not true end)
$$;

-- Whether a message that was put down would go to an address that its person has given up since. A probe is for the
-- forms that are bound to it, an alert for a profile; nothing is said of a campaign's mail, which has a list of its own.
create or replace function public.outbox_address_changed(p_message public.outbox_messages) returns boolean
language sql stable
set search_path = public, pg_temp
as $$
    select case
        when (p_message).kind = 'parent_probe' then (
            select bool_and(outbox_normal('email', c.parent_email) is distinct from (p_message).address_norm)
            from agreements a join competitors c on c.id = a.competitor_id
            where a.recipient_email_verification_outbox_id = (p_message).id) is true
        when (p_message).kind in ('unread_alert', 'admin_alert') then not exists (
            select from profiles p where p.id = (p_message).recipient_ref and (p_message).address_norm = case
                (p_message).channel when 'sms' then outbox_e164(p.mobile_number)
                else coalesce(nullif(outbox_normal('email', p.email_alert_address), ''), outbox_normal('email', p.email))
                end)
        else false end
$$;

-- Why a message that was put down must not go out any more; null when it may.
create or replace function public.outbox_overtaken(p_message public.outbox_messages) returns text
language sql stable
set search_path = public, pg_temp
as $$
    select coalesce(
        outbox_suppression((p_message).kind, (p_message).channel, (p_message).address_norm),
        case when outbox_preference_off((p_message).kind, (p_message).channel, (p_message).recipient_ref)
            then 'preference_off' end,
        case when outbox_address_changed(p_message) then 'address_changed' end)
$$;

-- What keeps a message from being sent now: suppression, then preference, window, daily cap, quiet hours. Null when
-- nothing does. A message of which it is not known whether it was sent counts as sent.
create or replace function public.outbox_obstacle(
    p_kind text, p_channel text, p_recipient uuid, p_address_norm text, p_window_minutes integer, p_policy jsonb,
    p_except uuid
) returns text
language plpgsql stable
set search_path = public, pg_temp
as $$
declare
    v_reason text := outbox_suppression(p_kind, p_channel, p_address_norm);
    v_zone text := coalesce(p_policy ->> 'zone', 'UTC');
    v_cap integer := (p_policy ->> ('cap_' || p_channel))::integer;
begin
    if v_reason is not null then
        return v_reason;
    end if;
    if outbox_preference_off(p_kind, p_channel, p_recipient) then
        return 'preference_off';
    end if;
    if p_window_minutes is not null and exists (
        select from outbox_messages
        where recipient_ref = p_recipient and channel = p_channel and kind = p_kind and id is distinct from p_except
            and state not in ('queued', 'failed', 'suppressed')
            and coalesce(accepted_at, updated_at) > now() - make_interval(mins => p_window_minutes))
    then
        return 'window';
    end if;
    if p_kind = 'unread_alert' and v_cap is not null and (
        select count(*) from outbox_messages
        where recipient_ref = p_recipient and channel = p_channel and kind = p_kind and id is distinct from p_except
            and state not in ('queued', 'failed', 'suppressed')
            and coalesce(accepted_at, updated_at) >= date_trunc('day', now() at time zone v_zone) at time zone v_zone
        ) >= v_cap
    then
        return 'daily_cap';
    end if;
    if p_channel = 'sms'
        and outbox_is_quiet((now() at time zone v_zone)::time, (p_policy ->> 'quiet_from')::time,
            (p_policy ->> 'quiet_to')::time)
    then
        return 'quiet_hours';
    end if;
    return null;
end
$$;

-------------------------------------------------------------------------------------------------------
-- The outbox: state machine
--
--   (nothing) -> queued -> sending -> accepted -> delivered, blocked, dropped, bounced
--                   ^         |-> queued (definitely not sent, try again), failed, uncertain
--                   |         '-> uncertain (lease ended: the sender died on the way)
--                   '-- a person's decision -- uncertain -> what an event or a late report proves
--   queued -> suppressed (address or wish changed), failed (too old, or overtaken by a newer message)
-------------------------------------------------------------------------------------------------------

-- Puts down what is to be sent, once per dedupe key, and answers for each entry in order: `queued` (there is an intent
-- that may be sent now), `waiting` (it may be sent later), `in_flight`, `sent`, `uncertain`, `failed`, or the reason why
-- it must not be sent, which is put on record. With p_dry nothing is written.
-- An entry: kind, channel, recipient, address, dedupe_key, data, window_minutes.
create or replace function public.outbox_put(
    p_entries jsonb, p_policy jsonb, p_job uuid, p_token bigint, p_dry boolean default false
) returns table (place integer, id uuid, decision text)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    e record;
    v_found outbox_messages;
    v_norm text;
    v_reason text;
begin
    if not p_dry then
        -- Windows and caps count what others put; one at a time, and never across a call to a provider.
        perform pg_advisory_xact_lock(hashtextextended('outbox_put', 0));
    end if;
    for e in
        select t.* from rows from (jsonb_to_recordset(p_entries) as (kind text, channel text, recipient uuid,
            address text, dedupe_key text, data jsonb, window_minutes integer)) with ordinality
            as t (kind, channel, recipient, address, dedupe_key, data, window_minutes, nth)
    loop
        place := e.nth;
        v_norm := outbox_normal(e.channel, e.address);
        select m.* into v_found from outbox_messages m where m.dedupe_key = e.dedupe_key;
        id := v_found.id;
        if v_found.id is not null and v_found.state not in ('queued', 'suppressed') then
            decision := case when v_found.state = 'sending' then 'in_flight'
                when v_found.state in ('uncertain', 'failed') then v_found.state else 'sent' end;
            return next;
            continue;
        end if;
        v_reason := outbox_obstacle(e.kind, e.channel, e.recipient, v_norm, e.window_minutes, p_policy, v_found.id);
        decision := coalesce(v_reason,
            case when v_found.state = 'queued' and v_found.next_attempt_at > now() then 'waiting' else 'queued' end);
        if not p_dry then
            id := outbox_put_one(v_found, e.kind, e.channel, e.recipient, e.address, v_norm, e.dedupe_key,
                coalesce(e.data, '{}'), v_reason, p_job, p_token);
        end if;
        return next;
    end loop;
end
$$;

-- The address of a profile that a masked one stands for; any other address is itself.
create or replace function public.outbox_unmask(p_channel text, p_recipient uuid, p_address text) returns text
language sql stable
set search_path = public, pg_temp
as $$
    select coalesce((
        select a.address from profiles p cross join lateral (
            select case p_channel when 'sms' then outbox_e164(p.mobile_number)
                else coalesce(nullif(outbox_normal('email', p.email_alert_address), ''), outbox_normal('email', p.email))
                end as address) a
        where p.id = p_recipient and outbox_mask(p_channel, a.address) = p_address), p_address)
$$;

-- What outbox_put would answer; for whoever may look ahead and may not send.
create or replace function public.outbox_preview(p_entries jsonb, p_policy jsonb)
returns table (place integer, id uuid, decision text)
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select p.place, p.id, p.decision from outbox_put((
        select coalesce(jsonb_agg(e.entry || jsonb_build_object('address', outbox_unmask(e.entry ->> 'channel',
            (e.entry ->> 'recipient')::uuid, e.entry ->> 'address')) order by e.nth), '[]')
        from jsonb_array_elements(p_entries) with ordinality as e (entry, nth)), p_policy, null, null, true) p
$$;

create or replace function public.outbox_put_one(
    p_found public.outbox_messages, p_kind text, p_channel text, p_recipient uuid, p_address text, p_norm text,
    p_key text, p_data jsonb, p_reason text, p_job uuid, p_token bigint
) returns uuid
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_id uuid := (p_found).id;
begin
    if p_reason is not null then
        insert into outbox_left_out (job_id, run_token, kind, channel, recipient_ref, reason)
        values (p_job, p_token, p_kind, p_channel, p_recipient, p_reason);
        update outbox_messages m set state = 'suppressed', error_class = p_reason, updated_at = now()
        where m.id = v_id and m.state = 'queued' and p_reason in ('suppressed', 'unsubscribed', 'opted_out',
            'number_unusable', 'preference_off');
        return v_id;
    end if;
    if v_id is not null then
        update outbox_messages m
        set state = 'queued', recipient_ref = p_recipient, address = p_address, address_norm = p_norm, data = p_data,
            job_id = p_job, run_token = p_token, error_class = case when m.state = 'suppressed' then null else m.error_class end,
            updated_at = now()
        where m.id = v_id and m.state in ('queued', 'suppressed');
        return v_id;
    end if;
    -- A newer alert says all that an older one would have said.
    update outbox_messages m set state = 'failed', error_class = 'superseded', updated_at = now()
    where p_kind in ('unread_alert', 'admin_alert') and m.recipient_ref = p_recipient and m.channel = p_channel
        and m.kind = p_kind and m.state = 'queued';
    insert into outbox_messages (kind, channel, recipient_ref, address, address_norm, dedupe_key, data, job_id, run_token)
    values (p_kind, p_channel, p_recipient, p_address, p_norm, p_key, p_data, p_job, p_token)
    on conflict (dedupe_key) do nothing
    returning outbox_messages.id into v_id;
    return v_id;
end
$$;

-- Puts on record that people are left out, and why. An entry: kind, channel, recipient, reason.
create or replace function public.outbox_leave_out(p_entries jsonb, p_job uuid, p_token bigint) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    insert into outbox_left_out (job_id, run_token, kind, channel, recipient_ref, reason)
    select p_job, p_token, e.kind, e.channel, e.recipient, e.reason
    from jsonb_to_recordset(p_entries) as e (kind text, channel text, recipient uuid, reason text)
$$;

-- Takes messages that may be sent now, for one attempt each: what it does not return must not be sent. Who has opted
-- out or moved to another address since the intent was put down is left out here; putting it down again finds the new
-- address.
create or replace function public.outbox_claim(p_ids uuid[], p_lease_seconds double precision, p_job uuid, p_token bigint)
returns table (id uuid, attempt integer, kind text, channel text, recipient_ref uuid, address text, data jsonb)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    with judged as (
        select o.id, outbox_overtaken(o) as reason from outbox_messages o
        where o.id = any (p_ids) and o.state = 'queued' order by o.id for update skip locked),
    stopped as (
        update outbox_messages m set state = 'suppressed', error_class = j.reason, updated_at = now()
        from judged j where m.id = j.id and j.reason is not null
        returning m.kind, m.channel, m.recipient_ref, m.error_class)
    insert into outbox_left_out (job_id, run_token, kind, channel, recipient_ref, reason)
    select p_job, p_token, s.kind, s.channel, s.recipient_ref, s.error_class from stopped s;
    return query
        update outbox_messages m
        set state = 'sending', attempts = m.attempts + 1, job_id = p_job, run_token = p_token, updated_at = now(),
            lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        where m.id in (
            select o.id from outbox_messages o
            where o.id = any (p_ids) and o.state = 'queued' and o.next_attempt_at <= clock_timestamp()
            order by o.id for update skip locked)
        returning m.id, m.attempts, m.kind, m.channel, m.recipient_ref, m.address, m.data;
end
$$;

-- Takes what senders report of their attempts. A report counts for the attempt it names and no other; it counts too
-- when the attempt has been given up as uncertain meanwhile, for now it is certain. An entry: id, attempt, outcome
-- (accepted, retry, failed, uncertain), provider_message_id, segments, error_class, error_code, error_text, wait
-- (seconds), most_attempts.
create or replace function public.outbox_settle(p_results jsonb) returns table (id uuid, state text)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    return query
        with reports as (
            select r.* from jsonb_to_recordset(p_results) as r (id uuid, attempt integer, outcome text,
                provider_message_id text, segments integer, error_class text, error_code text, error_text text,
                wait double precision, most_attempts integer)),
        locked as (
            select m.id from outbox_messages m where m.id in (select reports.id from reports) order by m.id for update),
        settled as (
            update outbox_messages m
            set state = case when m.state not in ('sending', 'uncertain') then m.state
                    when r.outcome = 'retry' and m.attempts >= coalesce(r.most_attempts, 2147483647) then 'failed'
                    when r.outcome = 'retry' then 'queued' else r.outcome end,
                lease_until = null,
                next_attempt_at = case when r.outcome = 'retry'
                    then now() + make_interval(secs => coalesce(r.wait, 0)) else m.next_attempt_at end,
                accepted_at = case when r.outcome = 'accepted' then coalesce(m.accepted_at, now()) else m.accepted_at end,
                provider_message_id = coalesce(r.provider_message_id, m.provider_message_id),
                segments = coalesce(r.segments, m.segments),
                error_class = r.error_class, error_code = r.error_code, error_text = left(r.error_text, 500),
                updated_at = now()
            from reports r join locked l on l.id = r.id
            where m.id = r.id and m.attempts = r.attempt and (m.state in ('sending', 'uncertain')
                or r.outcome = 'accepted' and m.state in ('accepted', 'delivered', 'blocked', 'dropped', 'bounced')
                    and m.provider_message_id is null)
            returning m.*),
        opted as (
            insert into sms_opt_outs (phone_e164, source)
            select distinct on (s.address_norm) s.address_norm,
                case s.error_class when 'opted_out' then 'error_21610' else 'unusable' end
            from settled s where s.channel = 'sms' and s.error_class in ('opted_out', 'number_unusable')
            on conflict (phone_e164) do update set source = excluded.source, created_at = now(), cleared_at = null),
        unwished as (
            update profiles p set sms_notifications_enabled = false
            from settled s where s.error_class = 'opted_out' and p.id = s.recipient_ref
                and s.kind in ('unread_alert', 'admin_alert')),
        barred as (
            insert into email_suppressions (address_norm, reason, scope, source)
            select distinct s.address_norm, 'invalid', 'all', 'sendgrid refused it'
            from settled s where s.channel = 'email' and s.error_class = 'address_refused'
            on conflict do nothing)
        select s.id, s.state from settled s;
end
$$;

-- Takes back probes that wait for forms which are gone, or bound to the probe of another address by now. Returns how many.
create or replace function public.outbox_retire_probes() returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_retired bigint;
begin
    update outbox_messages m set state = 'suppressed', updated_at = now(), error_class = 'no_form'
    where m.kind = 'parent_probe' and m.state = 'queued'
        and not exists (select from agreements a where a.recipient_email_verification_outbox_id = m.id);
    get diagnostics v_retired = row_count;
    return v_retired;
end
$$;

-- Gives up attempts whose sender has died: whether they went out nobody knows. Ends alerts that nobody sent within a
-- day. Prunes what is old.
create or replace function public.outbox_sweep() returns table (uncertain bigint, expired bigint)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    with lost as (
        update outbox_messages m set state = 'uncertain', lease_until = null, error_class = 'sender_died',
            updated_at = now()
        where m.id in (select o.id from outbox_messages o where o.state = 'sending' and o.lease_until < clock_timestamp()
            order by o.id for update skip locked)
        returning m.batch_id),
    batches as (
        update send_batches b set state = 'uncertain', updated_at = now()
        where b.id in (select l.batch_id from lost l) and b.state = 'sending')
    select count(*) into uncertain from lost;
    with old as (
        update outbox_messages m set state = 'failed', error_class = 'expired', updated_at = now()
        where m.id in (select o.id from outbox_messages o where o.state = 'queued'
            and o.kind in ('unread_alert', 'admin_alert') and o.created_at < now() - interval '1 day'
            order by o.id for update skip locked)
        returning 1)
    select count(*) into expired from old;
    delete from outbox_left_out where outbox_left_out.id in (
        select l.id from outbox_left_out l where l.at < now() - interval '30 days' order by l.at limit 5000);
    delete from provider_events where provider_events.id in (
        select v.id from provider_events v where v.received_at < now() - interval '90 days' order by v.received_at
        limit 5000);
    return next;
end
$$;

-- A person's decision on messages of which it is not known whether they were sent: send them again, or not.
create or replace function public.outbox_decide(p_ids uuid[], p_send_again boolean, p_actor text) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_decided uuid[];
begin
    with decided as (
        update outbox_messages m set state = case when p_send_again then 'queued' else 'failed' end,
            next_attempt_at = now(), updated_at = now(),
            error_class = case when p_send_again then null else 'given_up' end
        where m.id in (select o.id from outbox_messages o where o.id = any (p_ids) and o.state = 'uncertain'
            order by o.id for update)
        returning m.id)
    select array_agg(decided.id) into v_decided from decided;
    if v_decided is not null then
        perform job_queue_write_audit(p_actor, case when p_send_again then 'send again' else 'give up' end, null, null,
            jsonb_build_object('outbox_messages', cardinality(v_decided)), null);
    end if;
    return coalesce(cardinality(v_decided), 0);
end
$$;

-- Seconds until the next request to a provider may go out, which is then taken; null, and nothing is taken, where that
-- is more than p_longest. All workers share the count.
create or replace function public.outbox_reserve(
    p_provider text, p_rate double precision, p_burst integer, p_longest double precision
) returns double precision
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_now timestamptz;
    v_start timestamptz;
    v_row provider_rates;
begin
    insert into provider_rates (provider) values (p_provider) on conflict do nothing;
    select * into v_row from provider_rates where provider = p_provider for update;
    v_now := clock_timestamp();
    v_start := greatest(v_now, v_row.closed_until,
        case when v_row.due_at = '-infinity' then v_now
            else v_row.due_at - make_interval(secs => (p_burst - 1) / p_rate) end);
    if extract(epoch from v_start - v_now) > p_longest then
        return null;
    end if;
    update provider_rates set due_at = greatest(v_row.due_at, v_start) + make_interval(secs => 1 / p_rate)
    where provider = p_provider;
    return extract(epoch from v_start - v_now);
end
$$;

-- A provider asked all of us to stay away for a while.
create or replace function public.outbox_close_provider(p_provider text, p_seconds double precision) returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    insert into provider_rates (provider, closed_until)
    values (p_provider, clock_timestamp() + make_interval(secs => p_seconds))
    on conflict (provider) do update set closed_until = greatest(provider_rates.closed_until, excluded.closed_until)
$$;

-- Seconds for which a provider is still closed; 0 when it is open.
create or replace function public.outbox_closed_for(p_provider text) returns double precision
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select coalesce((
        select greatest(extract(epoch from closed_until - clock_timestamp()), 0)::double precision
        from provider_rates where provider = p_provider and closed_until > clock_timestamp()), 0)
$$;

-- A campaign's recipient is what its message is: one fact, two places, changed in one statement.
create or replace function public.outbox_mirror() returns trigger
language plpgsql security definer
set search_path = public, pg_temp
as $$
begin
    update competitor_announcement_recipients r
    set status = m.status, skip_reason = m.skip_reason, error = m.error, send_batch_id = m.batch_id,
        accepted_at = m.accepted_at, updated_at = now()
    from changed c
    join competitor_announcement_recipients seen on seen.id = c.campaign_recipient_id
    cross join lateral (
        select case c.state when 'accepted' then 'unconfirmed' when 'suppressed' then 'skipped' else c.state end,
            case when c.state = 'suppressed' then c.error_class else seen.skip_reason end,
            case when c.state in ('failed', 'uncertain', 'blocked', 'dropped', 'bounced')
                then coalesce(c.error_text, c.error_class) end,
            c.batch_id, c.accepted_at) m (status, skip_reason, error, batch_id, accepted_at)
    where r.id = seen.id and (r.status, r.skip_reason, r.error, r.send_batch_id, r.accepted_at)
        is distinct from (m.status, m.skip_reason, m.error, m.batch_id, m.accepted_at);
    return null;
end
$$;
create or replace trigger outbox_mirror after update on public.outbox_messages
    referencing new table as changed for each statement execute function public.outbox_mirror();

-------------------------------------------------------------------------------------------------------
-- Campaigns
-------------------------------------------------------------------------------------------------------

-- Whether a run still holds its campaign; if so its lease is renewed.
create or replace function public.outbox_campaign_hold(
    p_campaign uuid, p_job uuid, p_token bigint, p_lease_seconds double precision
) returns boolean
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    update competitor_announcement_campaigns
    set lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
    where id = p_campaign and dispatch_job_id = p_job and dispatch_token = p_token and status = 'sending';
    return found;
end
$$;

-- Recipients as the original stored them: gives each queued one its normal address. Of those who share an address one
-- is mailed, or none where one has been.
create or replace function public.outbox_campaign_adopt(p_campaign uuid) returns void
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    with ranked as (
        select id, row_number() over (partition by coalesce(email_norm, outbox_normal('email', email))
            order by status = 'queued', email_norm is null, created_at, id) as by_address,
            row_number() over (partition by competitor_id
            order by status = 'queued', email_norm is null, created_at, id) as by_person
        from competitor_announcement_recipients where campaign_id = p_campaign and status <> 'skipped')
    update competitor_announcement_recipients r
    set status = 'skipped', skip_reason = 'duplicate_email', updated_at = now()
    from ranked k
    where k.id = r.id and r.status = 'queued' and r.email_norm is null and greatest(k.by_address, k.by_person) > 1;
    update competitor_announcement_recipients r
    set email_norm = outbox_normal('email', r.email)
    where r.campaign_id = p_campaign and r.status = 'queued' and r.email_norm is null;
end
$$;

-- Takes a campaign up for one run, which then holds it until its lease ends. `verdict`: `started`, `resumed`,
-- `not_found`, `draft`, `busy` (another job holds it), `lost` (a later run of the same job does), `done` (nobody is left
-- to mail), `failed` (a person has to open it again: outbox_campaign_reopen, or a retry of the job that failed).
-- What the run before left in flight becomes uncertain: a campaign is held by one run at a time, so nobody is sending it.
create or replace function public.outbox_campaign_start(
    p_campaign uuid, p_job uuid, p_token bigint, p_lease_seconds double precision,
    out verdict text, out status text, out subject text, out body_markdown text, out body_html text
)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_row competitor_announcement_campaigns;
begin
    select * into v_row from competitor_announcement_campaigns where id = p_campaign for update;
    if not found then
        verdict := 'not_found';
        return;
    end if;
    status := v_row.status;
    subject := v_row.subject;
    body_markdown := v_row.body_markdown;
    body_html := v_row.body_html;
    verdict := case
        when v_row.status = 'draft' then 'draft'
        when v_row.dispatch_job_id = p_job and v_row.dispatch_token > p_token then 'lost'
        when v_row.dispatch_job_id <> p_job and v_row.lease_until > clock_timestamp() then 'busy' end;
    if verdict is not null then
        return;
    end if;
    perform outbox_campaign_orphans(p_campaign);
    if v_row.status = 'sent' or not exists (
        select from competitor_announcement_recipients r
        where r.campaign_id = p_campaign and r.status in ('queued', 'sending'))
    then
        update competitor_announcement_campaigns c set lease_until = null where c.id = p_campaign;
        status := outbox_campaign_close(p_campaign);
        verdict := 'done';
        return;
    end if;
    if v_row.status = 'failed' and v_row.dispatch_job_id is distinct from p_job then
        verdict := 'failed';
        return;
    end if;
    perform outbox_campaign_adopt(p_campaign);
    update competitor_announcement_campaigns c
    set status = 'sending', started_at = coalesce(c.started_at, now()), failed_reason = null, completed_at = null,
        dispatch_job_id = p_job, dispatch_token = p_token, send_attempt = c.send_attempt + 1,
        lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
    where c.id = p_campaign;
    verdict := case when v_row.started_at is null then 'started' else 'resumed' end;
end
$$;

-- A person's word that a campaign goes on: with those not sent to yet, with those that were refused if p_retry_failed,
-- and with those who may have been mailed already if p_include_uncertain. Returns how many are to be mailed.
create or replace function public.outbox_campaign_reopen(
    p_campaign uuid, p_retry_failed boolean, p_include_uncertain boolean, p_actor text
) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_row competitor_announcement_campaigns;
    v_uncertain uuid[];
    v_left bigint;
begin
    select * into v_row from competitor_announcement_campaigns where id = p_campaign for update;
    if not found then
        perform job_queue_refuse(format('There is no campaign %s.', p_campaign));
    elsif v_row.status = 'draft' then
        perform job_queue_refuse('The campaign is a draft, which nobody has sent off yet. Create a campaign from it.');
    elsif v_row.lease_until > clock_timestamp() then
        perform job_queue_refuse(format('Job %s is sending this campaign. Wait for it, or cancel it first.',
            v_row.dispatch_job_id));
    end if;
    perform outbox_campaign_orphans(p_campaign);
    if p_include_uncertain then
        select array_agg(m.id) into v_uncertain from outbox_messages m
        where m.campaign_id = p_campaign and m.state = 'uncertain';
        perform outbox_decide(v_uncertain, true, p_actor);
    end if;
    if p_retry_failed then
        update outbox_messages m set state = 'queued', next_attempt_at = now(), error_class = null, error_code = null,
            error_text = null, updated_at = now()
        where m.campaign_id = p_campaign and m.state = 'failed' and m.error_class is distinct from 'given_up';
        update competitor_announcement_recipients r set status = 'queued', error = null, updated_at = now()
        where r.campaign_id = p_campaign and r.status = 'failed'
            and not exists (select from outbox_messages m where m.campaign_recipient_id = r.id);
    end if;
    select count(*) into v_left from competitor_announcement_recipients r
    where r.campaign_id = p_campaign and r.status = 'queued';
    if v_left = 0 then
        perform job_queue_refuse('Nobody is left to mail. Those who failed or are uncertain are mailed again only when '
            'asked for (--retry-failed, --include-uncertain).');
    end if;
    update competitor_announcement_campaigns c set status = 'pending', failed_reason = null, completed_at = null
    where c.id = p_campaign;
    perform job_queue_write_audit(p_actor, 'resume campaign', null, null, jsonb_build_object('campaign_id', p_campaign,
        'recipients', v_left, 'retry_failed', p_retry_failed, 'include_uncertain', p_include_uncertain), null);
    return v_left;
end
$$;

create or replace function public.outbox_campaign_orphans(p_campaign uuid) returns void
language sql volatile
set search_path = public, pg_temp
as $$
    update outbox_messages m set state = 'uncertain', lease_until = null, error_class = 'sender_died', updated_at = now()
    where m.campaign_id = p_campaign and m.state = 'sending';
    update send_batches b set state = 'uncertain', updated_at = now()
    where b.campaign_id = p_campaign and b.state = 'sending';
$$;

-- Why a recipient is not to be mailed after all; null when they are.
create or replace function public.outbox_recipient_obstacle(p_norm text, p_active boolean) returns text
language sql stable
set search_path = public, pg_temp
as $$
    select case when coalesce(p_norm, '') = '' then 'no_email'
        when not outbox_email_ok(p_norm) then 'invalid_email_format'
        when p_active is false then 'inactive'
        else outbox_suppression('announcement', 'email', p_norm) end
$$;

-- Whether an address is one of a competitor's. A campaign mails the list that a person approved, and nobody at an address
-- that is no longer theirs.
create or replace function public.outbox_has_address(p_competitor public.competitors, p_norm text) returns boolean
language sql stable
set search_path = public, pg_temp
as $$
    select coalesce(p_norm = any (array[outbox_normal('email', (p_competitor).game_platform_onboarding_email),
        outbox_normal('email', (p_competitor).email_personal), outbox_normal('email', (p_competitor).email_school)]), false)
$$;

-- Whom a campaign to an audience (`game_platform`: those on it; `all`) reaches, with the reason for those whom it does
-- not. An empty address counts as none, so that the next one is tried; of several who share one the first is mailed.
create or replace function public.outbox_audience(p_audience text, p_coach uuid)
returns table (competitor_id uuid, address_norm text, is_minor boolean, reason text, place bigint)
language sql stable
set search_path = public, pg_temp
as $$
    with chosen as (
        select c.id, coalesce(c.is_active, false) as active, c.is_18_or_over is not true as is_minor, c.created_at,
            coalesce(nullif(outbox_normal('email', c.game_platform_onboarding_email), ''),
                nullif(outbox_normal('email', c.email_personal), ''),
                nullif(outbox_normal('email', c.email_school), ''), '') as norm
        from competitors c
        where (p_audience = 'all' or c.game_platform_id is not null) and (p_coach is null or c.coach_id = p_coach)),
    judged as (
        select h.*, outbox_recipient_obstacle(h.norm, h.active) as obstacle from chosen h)
    select j.id, j.norm, j.is_minor, coalesce(j.obstacle, case when row_number() over (
            partition by j.norm, j.obstacle is null order by j.created_at, j.id) > 1 then 'duplicate_email' end),
        row_number() over (order by j.created_at, j.id)
    from judged j
$$;

-- An audience in numbers: how many there are for each reason to leave them out, or for none (''), and the first
-- p_samples of them with masked addresses.
create or replace function public.outbox_audience_outlook(p_audience text, p_coach uuid, p_samples integer)
returns table (reason text, people bigint, minors bigint, ids uuid[], masked text[])
language sql stable security definer
set search_path = public, pg_temp
as $$
    select coalesce(a.reason, ''), count(*), count(*) filter (where a.is_minor),
        (array_agg(a.competitor_id order by a.place))[1:p_samples],
        (array_agg(outbox_mask('email', a.address_norm) order by a.place))[1:p_samples]
    from outbox_audience(p_audience, p_coach) a group by 1 order by 1
$$;

-- Creates a campaign with everyone it reaches and everyone it leaves out, for the person who says so.
create or replace function public.outbox_campaign_create(
    p_subject text, p_markdown text, p_html text, p_audience text, p_coach uuid, p_actor text
) returns uuid
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_campaign uuid;
    v_queued bigint;
    v_skipped bigint;
begin
    insert into competitor_announcement_campaigns
        (subject, body_markdown, body_html, status, audience, coach_id, created_by_actor)
    values (p_subject, p_markdown, p_html, 'pending', p_audience, p_coach, p_actor) returning id into v_campaign;
    with made as (
        insert into competitor_announcement_recipients
            (campaign_id, competitor_id, email, email_norm, status, skip_reason)
        select v_campaign, a.competitor_id, a.address_norm, a.address_norm,
            case when a.reason is null then 'queued' else 'skipped' end, a.reason
        from outbox_audience(p_audience, p_coach) a order by a.place
        returning status)
    select count(*) filter (where status = 'queued'), count(*) filter (where status = 'skipped')
    into v_queued, v_skipped from made;
    perform job_queue_write_audit(p_actor, 'create campaign', null, null, jsonb_build_object('campaign_id', v_campaign,
        'audience', p_audience, 'coach_id', p_coach, 'recipients', v_queued, 'left_out', v_skipped), null);
    return v_campaign;
end
$$;

-- What a run would do with a campaign's queued: how many there are for each reason to leave them out, or for none (''),
-- the first ids, and masked addresses.
create or replace function public.outbox_campaign_outlook(p_campaign uuid, p_coach uuid)
returns table (reason text, people bigint, first uuid[], masked text[])
language sql stable security definer
set search_path = public, pg_temp
as $$
    with queued as (
        select r.id, r.competitor_id, r.email, r.email_norm, c.is_active, n.norm,
            outbox_has_address(c, n.norm) as theirs
        from competitor_announcement_recipients r left join competitors c on c.id = r.competitor_id
        cross join lateral (select outbox_normal('email', r.email) as norm) n
        where r.campaign_id = p_campaign and r.status = 'queued' and (p_coach is null or c.coach_id = p_coach)),
    judged as (
        select q.*, coalesce(
            outbox_recipient_obstacle(q.norm, q.is_active),
            case when not q.theirs then 'address_changed' end,
            case when q.email_norm is null
                    and row_number() over (partition by q.norm order by q.id) > 1
                or exists (select from outbox_messages m where m.campaign_id = p_campaign
                    and m.address_norm = q.norm and m.state not in ('queued', 'suppressed')
                    and m.campaign_recipient_id <> q.id)
            then 'duplicate_email' end) as reason
        from queued q)
    select coalesce(j.reason, ''), count(*), (array_agg(j.competitor_id order by j.id))[1:10],
        (array_agg(outbox_mask('email', j.email) order by j.id))[1:3]
    from judged j group by 1
$$;

-- Takes up to p_size queued recipients for one request: their messages are `sending` and their batch is on record
-- before anything is sent. Empty when nobody is left, or when the run no longer holds the campaign: `held` says which
-- by outbox_campaign_hold. Only those of p_coach where one is given.
create or replace function public.outbox_campaign_batch(
    p_campaign uuid, p_job uuid, p_token bigint, p_size integer, p_lease_seconds double precision, p_coach uuid
) returns table (id uuid, attempt integer, batch uuid, recipient_id uuid, competitor_id uuid, address text)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_ids uuid[];
    v_batch uuid;
    v_size integer;
begin
    if not outbox_campaign_hold(p_campaign, p_job, p_token, p_lease_seconds) then
        return;
    end if;
    loop
        select array_agg(t.id) into v_ids from (
            select r.id from competitor_announcement_recipients r
            where r.campaign_id = p_campaign and r.status = 'queued' and (p_coach is null
                or exists (select from competitors c where c.id = r.competitor_id and c.coach_id = p_coach))
            order by r.id limit p_size for update of r) t;
        exit when v_ids is null;
        with judged as (
            select r.id as recipient, coalesce(outbox_recipient_obstacle(r.email_norm, c.is_active),
                case when not outbox_has_address(c, r.email_norm) then 'address_changed' end) as reason
            from competitor_announcement_recipients r left join competitors c on c.id = r.competitor_id
            where r.id = any (v_ids)),
        messages as (
            update outbox_messages m set state = 'suppressed', error_class = j.reason, updated_at = now()
            from judged j where m.campaign_recipient_id = j.recipient and j.reason is not null and m.state = 'queued')
        update competitor_announcement_recipients r set status = 'skipped', skip_reason = j.reason, updated_at = now()
        from judged j where j.recipient = r.id and j.reason is not null;
        insert into outbox_messages (kind, channel, recipient_ref, address, address_norm, dedupe_key, campaign_id,
            campaign_recipient_id, job_id, run_token)
        select 'announcement', 'email', r.competitor_id, r.email_norm, r.email_norm,
            'announcement:' || p_campaign || ':' || r.email_norm, p_campaign, r.id, p_job, p_token
        from competitor_announcement_recipients r where r.id = any (v_ids) and r.status = 'queued'
        order by r.id
        on conflict (dedupe_key) do nothing;
        -- The ledger knows the address already, under another recipient: it has been mailed.
        update competitor_announcement_recipients r
        set status = 'skipped', skip_reason = 'duplicate_email', updated_at = now()
        where r.id = any (v_ids) and r.status = 'queued'
            and not exists (select from outbox_messages m where m.campaign_recipient_id = r.id and m.state = 'queued');
        select count(*) into v_size from outbox_messages m
        where m.campaign_recipient_id = any (v_ids) and m.state = 'queued';
        continue when v_size = 0;
        insert into send_batches (campaign_id, size, job_id, run_token) values (p_campaign, v_size, p_job, p_token)
        returning send_batches.id into v_batch;
        return query
            with taken as (
                update outbox_messages m
                set state = 'sending', attempts = m.attempts + 1, batch_id = v_batch, job_id = p_job,
                    run_token = p_token, updated_at = now(),
                    lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
                where m.campaign_recipient_id = any (v_ids) and m.state = 'queued'
                returning m.*)
            select t.id, t.attempts, v_batch, t.campaign_recipient_id, t.recipient_ref, t.address
            from taken t order by t.campaign_recipient_id;
        return;
    end loop;
end
$$;

-- What became of a request as a whole: `accepted`, `returned` (not sent, all may be sent again), `failed`, `uncertain`.
-- Counts while the batch is in flight, or given up as uncertain meanwhile.
create or replace function public.outbox_settle_batch(
    p_batch uuid, p_outcome text, p_provider_message_id text, p_http_status integer, p_error_class text,
    p_error_text text
) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_count bigint;
    v_campaign uuid;
begin
    update send_batches b
    set state = p_outcome, provider_message_id = coalesce(p_provider_message_id, b.provider_message_id),
        http_status = p_http_status, error_class = p_error_class, updated_at = now()
    where b.id = p_batch and b.state in ('sending', 'uncertain')
    returning b.campaign_id into v_campaign;
    update outbox_messages m
    set state = case when m.state not in ('sending', 'uncertain') then m.state
            when p_outcome = 'returned' then 'queued' else p_outcome end,
        lease_until = null,
        next_attempt_at = case when p_outcome = 'returned' then now() else m.next_attempt_at end,
        accepted_at = case when p_outcome = 'accepted' then coalesce(m.accepted_at, now()) else m.accepted_at end,
        provider_message_id = coalesce(p_provider_message_id, m.provider_message_id),
        error_class = p_error_class, error_code = p_http_status::text, error_text = left(p_error_text, 500),
        updated_at = now()
    where m.batch_id = p_batch and (m.state in ('sending', 'uncertain')
        or p_outcome = 'accepted' and m.state in ('delivered', 'blocked', 'dropped', 'bounced'));
    get diagnostics v_count = row_count;
    if v_campaign is not null then
        perform outbox_campaign_close(v_campaign);
    end if;
    return v_count;
end
$$;

-- Brings the status of a campaign that no run holds in line with its recipients'.
create or replace function public.outbox_campaign_close(p_campaign uuid) returns text
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_open bigint;
    v_failed bigint;
    v_uncertain bigint;
    v_mailed bigint;
    v_status text;
begin
    select status into v_status from competitor_announcement_campaigns
    where id = p_campaign and status <> 'draft' and (lease_until is null or lease_until <= clock_timestamp())
    for update;
    if not found then
        return null;
    end if;
    select count(*) filter (where status in ('queued', 'sending')), count(*) filter (where status = 'failed'),
        count(*) filter (where status = 'uncertain'),
        count(*) filter (where status in ('unconfirmed', 'delivered', 'blocked', 'dropped', 'bounced'))
    into v_open, v_failed, v_uncertain, v_mailed
    from competitor_announcement_recipients where campaign_id = p_campaign;
    v_status := case
        when v_open > 0 then case when v_status in ('pending', 'sending', 'failed') then v_status
            else 'partially_failed' end
        when v_failed > 0 and v_mailed = 0 and v_uncertain = 0 then 'failed'
        when v_failed + v_uncertain > 0 then 'partially_failed'
        else 'sent' end;
    update competitor_announcement_campaigns c
    set status = v_status,
        completed_at = case when v_open > 0 then null else coalesce(c.completed_at, now()) end,
        failed_reason = case when v_status = 'sent' then null else c.failed_reason end
    where c.id = p_campaign;
    return v_status;
end
$$;

-- Lets a campaign go. p_status is what it is while recipients are left: null keeps it `sending` for the run that goes on,
-- `partially_failed` or `failed` waits for a person. Returns its status; null when the run did not hold it any more.
create or replace function public.outbox_campaign_release(
    p_campaign uuid, p_job uuid, p_token bigint, p_status text, p_reason text
) returns text
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    update competitor_announcement_campaigns
    set lease_until = null, status = coalesce(p_status, status), failed_reason = p_reason
    where id = p_campaign and dispatch_job_id = p_job and dispatch_token = p_token and status = 'sending';
    if not found then
        return null;
    end if;
    return outbox_campaign_close(p_campaign);
end
$$;

-- How many of a campaign's recipients are where.
create or replace function public.outbox_campaign_stats(p_campaign uuid)
returns table (status text, skip_reason text, people bigint, opened bigint, clicked bigint)
language sql stable
set search_path = public, pg_temp
as $$
    select r.status, case when r.status = 'skipped' then r.skip_reason end, count(*), count(r.opened_at),
        count(r.clicked_at)
    from competitor_announcement_recipients r where r.campaign_id = p_campaign group by 1, 2 order by 1, 2
$$;

-------------------------------------------------------------------------------------------------------
-- Unread messages and alerts
-------------------------------------------------------------------------------------------------------

-- What each person has not read: others' messages in their conversations, without a receipt, not archived, older than a
-- grace period, not private to somebody else, and not from before they joined.
create or replace function public.programme_unread(p_grace interval default '0')
returns table (user_id uuid, unread bigint, newest_message_id uuid, newest_at timestamptz, oldest_at timestamptz)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select b.user_id, count(*), (array_agg(m.id order by m.created_at desc, m.id desc))[1], max(m.created_at),
        min(m.created_at)
    from conversation_members b
    join messages m on m.conversation_id = b.conversation_id
    where m.sender_id <> b.user_id and m.created_at >= b.joined_at and m.created_at <= now() - p_grace
        and coalesce(m.metadata ->> 'private_to', '') in ('', b.user_id::text)
        and not exists (select from message_read_receipts r where r.message_id = m.id and r.user_id = b.user_id)
        and not exists (select from message_user_state s
            where s.message_id = m.id and s.user_id = b.user_id and s.archived_at is not null)
    group by b.user_id
$$;

-- Why somebody need not hear of a message any more; null when they are to.
create or replace function public.programme_alert_obstacle(p_person uuid, p_message uuid) returns text
language sql stable security definer
set search_path = public, pg_temp
as $$
    select case
        when exists (select from message_read_receipts r where r.message_id = m.id and r.user_id = p_person) then 'read'
        when exists (select from message_user_state s
            where s.message_id = m.id and s.user_id = p_person and s.archived_at is not null) then 'archived'
        when coalesce(m.metadata ->> 'private_to', '') not in ('', p_person::text) then 'private'
        when not exists (select from conversation_members b
            where b.conversation_id = m.conversation_id and b.user_id = p_person) then 'not_member' end
    from messages m where m.id = p_message
$$;

-------------------------------------------------------------------------------------------------------
-- Looking ahead: what a run would find, for whoever may enqueue it and may not see addresses. These have their owner's
-- rights and answer with masked addresses, shapes and counts; runs read what they need with rights of their own.
-------------------------------------------------------------------------------------------------------

-- The next people with unread messages, by id, with their addresses. p_grace and p_window are minutes.
create or replace function public.programme_digest_due(
    p_roles text[], p_person uuid, p_after uuid, p_limit integer, p_grace integer, p_window integer, p_zone text
) returns table (id uuid, role text, full_name text, first_name text, email_on boolean, email text, email_ok boolean,
    sms_on boolean, mobile text, number text, unread bigint, newest_message_id uuid, oldest_minutes integer, day text,
    held boolean, email_fresh boolean, sms_fresh boolean, email_told boolean, sms_told boolean)
language sql stable
set search_path = public, pg_temp
as $$
    with due as (
        select p.*, u.unread, u.newest_message_id, u.oldest_at
        from programme_unread(make_interval(mins => p_grace)) u join profiles p on p.id = u.user_id
        where p.role::text = any (p_roles) and (p_person is null or p.id = p_person)
            and (p_after is null or p.id > p_after)
        order by p.id limit p_limit),
    noticed as (
        select d.*, n.email_at, n.sms_at,
            case when d.last_unread_alert_at > coalesce(n.accepted_at, '-infinity')
                then d.last_unread_alert_at end as mark_at
        from due d cross join lateral (
            select max(coalesce(m.accepted_at, m.updated_at)) filter (where m.channel = 'email') as email_at,
                max(coalesce(m.accepted_at, m.updated_at)) filter (where m.channel = 'sms') as sms_at,
                max(m.accepted_at) as accepted_at
            from outbox_messages m
            where m.recipient_ref = d.id and m.kind = 'unread_alert'
                and m.state not in ('queued', 'failed', 'suppressed')) n)
    select n.id, n.role::text as role, n.full_name, n.first_name,
        n.email_alerts_enabled is not false as email_on, a.address as email,
        outbox_email_ok(a.address) as email_ok,
        n.sms_notifications_enabled is true as sms_on, trim(coalesce(n.mobile_number, '')) as mobile,
        outbox_e164(n.mobile_number) as number, n.unread, n.newest_message_id,
        floor(extract(epoch from now() - n.oldest_at) / 60)::integer as oldest_minutes,
        (now() at time zone p_zone)::date::text as day,
        coalesce(n.mark_at >= n.oldest_at
            and n.mark_at > now() - make_interval(mins => p_window), false) as held,
        coalesce(n.email_at < n.oldest_at, true) as email_fresh,
        coalesce(n.sms_at < n.oldest_at, true) as sms_fresh,
        exists (select from outbox_messages m
            where m.dedupe_key = 'unread_alert:email:' || n.id || ':' || n.newest_message_id
                and m.state not in ('queued', 'suppressed', 'sending')) as email_told,
        exists (select from outbox_messages m
            where m.dedupe_key = 'unread_alert:sms:' || n.id || ':' || n.newest_message_id
                and m.state not in ('queued', 'suppressed', 'sending')) as sms_told
    from noticed n cross join lateral (
        select coalesce(nullif(outbox_normal('email', n.email_alert_address), ''),
            outbox_normal('email', n.email), '') as address) a
    order by n.id
$$;

create or replace function public.programme_digest_ahead(
    p_roles text[], p_person uuid, p_after uuid, p_limit integer, p_grace integer, p_window integer, p_zone text
) returns table (id uuid, role text, full_name text, first_name text, email_on boolean, email text, email_ok boolean,
    sms_on boolean, mobile text, number text, unread bigint, newest_message_id uuid, oldest_minutes integer, day text,
    held boolean, email_fresh boolean, sms_fresh boolean, email_told boolean, sms_told boolean)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select d.id, d.role, '', '', d.email_on, outbox_mask('email', d.email), d.email_ok, d.sms_on,
        outbox_mask('sms', d.mobile), nullif(outbox_mask('sms', d.number), ''), d.unread, d.newest_message_id,
        d.oldest_minutes, d.day, d.held, d.email_fresh, d.sms_fresh, d.email_told, d.sms_told
    from programme_digest_due(p_roles, p_person, p_after, p_limit, p_grace, p_window, p_zone) d order by d.id
$$;

-- People with messages that admins are to hear of, as a run would find them.
create or replace function public.programme_admin_alerts_ahead(p_people uuid[], p_roles text[])
returns table (id uuid, messages bigint, key text, email_on boolean, email text, email_ok boolean, sms_on boolean,
    mobile text, number text)
language sql stable security definer
set search_path = public, pg_temp
as $$
    with open as (
        select q.recipient_id, count(*) as messages, case
            when bool_and(coalesce(o.state = 'queued', false)) and count(distinct o.id) = 1
            then min(o.dedupe_key) end as key
        from admin_alert_queue q join profiles p on p.id = q.recipient_id
        left join outbox_messages o on o.id = q.outbox_id
        where q.recipient_id = any (p_people) and q.sent_at is null and q.dropped_at is null
            and p.role::text = any (p_roles) and o.state is distinct from 'sending'
            and programme_alert_obstacle(q.recipient_id, q.message_id) is null
        group by 1)
    select p.id, o.messages, o.key, p.email_alerts_enabled is not false, outbox_mask('email', a.address),
        outbox_email_ok(a.address), p.instant_sms_enabled is true,
        outbox_mask('sms', trim(coalesce(p.mobile_number, ''))),
        nullif(outbox_mask('sms', outbox_e164(p.mobile_number)), '')
    from open o join profiles p on p.id = o.recipient_id cross join lateral (
        select coalesce(nullif(outbox_normal('email', p.email_alert_address), ''),
            outbox_normal('email', p.email), '') as address) a
    order by p.id
$$;

-- Why each unprobed form is not to be probed, null where it is. p_stale is hours, p_most attempts.
create or replace function public.programme_probes_judged(p_stale double precision, p_most integer)
returns table (form uuid, reason text)
language sql stable
set search_path = public, pg_temp
as $$
    select a.id, case
        when c.is_18_or_over then 'not_minor'
        when a.metadata ->> 'mode' = 'print' or a.metadata ->> 'isPrintMode' = 'true' then 'print_mode'
        when coalesce(n.address, '') = '' then 'missing_parent_email'
        when c.parent_email_is_valid is false then 'already_invalid'
        when c.parent_email_is_valid then 'already_valid'
        when not outbox_email_ok(n.address) then 'invalid_email_format'
        when outbox_suppression('parent_probe', 'email', n.address) is not null
            then outbox_suppression('parent_probe', 'email', n.address)
        when a.recipient_email_verification_attempts >= p_most and m.state is distinct from 'queued'
            and a.recipient_email_verification_address = n.address then 'gave_up' end as reason
    from agreements a join competitors c on c.id = a.competitor_id
    left join outbox_messages m on m.id = a.recipient_email_verification_outbox_id
    cross join lateral (select outbox_normal('email', c.parent_email) as address) n
    where a.provider = 'zoho' and a.template_kind = 'minor' and a.status = 'sent'
        and a.created_at < now() - make_interval(secs => p_stale * 3600)
        and (a.recipient_email_verification_sent_at is null
            and coalesce(a.recipient_email_verification_status, 'pending') = 'pending'
            or a.recipient_email_verification_status = 'blocked'
            or a.recipient_email_verification_address <> n.address)
$$;

-- How many unprobed forms are not to be probed, by reason.
create or replace function public.programme_probe_skips(p_stale double precision, p_most integer)
returns table (reason text, forms bigint)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select reason, count(*) from programme_probes_judged(p_stale, p_most)
    where reason is not null group by 1 order by 1
$$;

-- The addresses to probe now, oldest form first, each once with all the forms that wait for it.
create or replace function public.programme_probes_due(
    p_stale double precision, p_most integer, p_limit integer, p_resend interval, p_reuse interval
) returns table (address text, masked text, forms uuid[], competitor_id uuid, key text, attempt integer,
    elsewhere bigint)
language sql stable
set search_path = public, pg_temp
as $$
    with open as (
        select a.id, a.competitor_id, a.created_at, n.address, m.state, m.dedupe_key,
            m.address_norm = n.address as bound,
            case when a.recipient_email_verification_address = n.address
                then a.recipient_email_verification_attempts else 0 end as attempts,
            s.anybody and not s.same as elsewhere
        from agreements a join competitors c on c.id = a.competitor_id
        left join outbox_messages m on m.id = a.recipient_email_verification_outbox_id
        cross join lateral (select outbox_normal('email', c.parent_email) as address) n
        cross join lateral (
            select count(*) > 0 as anybody,
                coalesce(bool_or(outbox_normal('email', e.signer ->> 'email') = n.address), false) as same
            from jsonb_array_elements(
                case when jsonb_typeof(a.signers) = 'array' then a.signers else '[]' end) as e (signer)
            where coalesce(e.signer ->> 'email', '') <> '') s
        where a.provider = 'zoho' and a.template_kind = 'minor' and a.status = 'sent'
            and a.created_at < now() - make_interval(secs => p_stale * 3600)
            and c.is_18_or_over is not true and c.parent_email_is_valid is null
            and coalesce(a.metadata ->> 'mode', '') <> 'print'
            and coalesce(a.metadata ->> 'isPrintMode', '') <> 'true'
            and outbox_email_ok(n.address) and outbox_suppression('parent_probe', 'email', n.address) is null
            and ((a.recipient_email_verification_address <> n.address
                    or a.recipient_email_verification_outbox_id is null
                        and a.recipient_email_verification_sent_at is null
                        and a.recipient_email_verification_status is null)
                    and not exists (select from outbox_messages k
                        where k.kind = 'parent_probe' and k.address_norm = n.address
                            and k.created_at > now() - p_reuse
                            and k.state not in ('failed', 'suppressed'))
                or m.state in ('queued', 'suppressed')
                or a.recipient_email_verification_attempts < p_most
                    and coalesce(a.recipient_email_verification_next_at, '-infinity') <= now() and (
                        a.recipient_email_verification_status = 'blocked'
                        or m.state = 'failed' and m.error_class is distinct from 'given_up'
                        or m.state = 'uncertain' and m.updated_at < now() - p_resend
                            and not exists (select from outbox_messages u
                                where u.kind = 'parent_probe' and u.address_norm = n.address
                                    and u.state = 'uncertain' and u.id <> m.id)))),
    grouped as (
        select address, array_agg(id order by created_at, id) as forms,
            (array_agg(competitor_id order by created_at, id))[1] as competitor_id,
            min(dedupe_key) filter (where state = 'queued' and bound) as key,
            (array_agg(attempts order by created_at, id))[1] + 1 as attempt,
            count(*) filter (where elsewhere) as elsewhere, min(created_at) as since
        from open group by address)
    select address, outbox_mask('email', address) as masked, forms, competitor_id, key, attempt, elsewhere
    from grouped order by since, address limit p_limit
$$;

create or replace function public.programme_probes_ahead(
    p_stale double precision, p_most integer, p_limit integer, p_resend interval, p_reuse interval
) returns table (address text, masked text, forms uuid[], competitor_id uuid, key text, attempt integer,
    elsewhere bigint)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select d.masked, d.masked, d.forms, d.competitor_id, null::text, d.attempt, d.elsewhere
    from programme_probes_due(p_stale, p_most, p_limit, p_resend, p_reuse) d
$$;

-- A text of which only the shape is left: as long, with blanks and punctuation in their places, and as valid.
create or replace function public.programme_shape(p_text text) returns text
language sql immutable
set search_path = public, pg_temp
as $$
    select regexp_replace(regexp_replace(p_text, '[A-Za-z0-9]', 'x', 'g'),
        '[^\u0001-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]', 'ü', 'g')
$$;

-- What the request for an account would be made of, as shapes.
create or replace function public.programme_competitors_ahead(p_ids uuid[])
returns table (id uuid, first_name text, last_name text, email_personal text, email_school text)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select c.id, programme_shape(c.first_name), programme_shape(c.last_name), programme_shape(c.email_personal),
        programme_shape(c.email_school)
    from competitors c where c.id = any (p_ids)
$$;

create or replace function public.programme_coaches_ahead(p_ids uuid[])
returns table (id uuid, email text, full_name text, first_name text, last_name text)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select p.id, programme_shape(p.email), programme_shape(p.full_name), programme_shape(p.first_name),
        programme_shape(p.last_name)
    from profiles p where p.id = any (p_ids)
$$;

-- What each competitor's status is, by what is filled in, with or without an account on the platform.
create or replace function public.programme_statuses(p_ids uuid[], p_has_account boolean)
returns table (id uuid, status text)
language plpgsql stable security definer
set search_path = public, pg_temp
as $$
#variable_conflict use_column
begin
    return query
        select c.id, case
            when not (core.filled and case when c.is_18_or_over then btrim(coalesce(c.email_school, '')) <> ''
                else btrim(coalesce(c.parent_name, '')) <> '' and btrim(coalesce(c.parent_email, '')) <> '' end)
                then 'pending'
            when not p_has_account then 'profile'
            when case when c.is_18_or_over then c.participation_agreement_date else c.media_release_date end is null
                then 'in_the_game_not_compliant'
            else 'complete' end
        from public.competitors c
        cross join lateral (
          select c.years_competing is not null and not exists (
            select from unnest(array[c.grade, c.gender, c.race, c.ethnicity, c.level_of_technology]) as given (value)
            where btrim(coalesce(given.value, '')) = '') as filled) core
        where c.id = any (p_ids);
end
$$;

-- Coaches whose name, address, school or id holds the text, by name; addresses are searched and not told.
create or replace function public.programme_find_coaches(p_text text, p_limit integer)
returns table (id uuid, name text, school text, on_platform boolean, competitors bigint)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select p.id, coalesce(nullif(p.full_name, ''), concat_ws(' ', p.first_name, p.last_name)), p.school_name,
        p.game_platform_user_id is not null, (select count(*) from competitors c where c.coach_id = p.id)
    from profiles p
    where p.role = 'coach' and (p_text = '' or position(lower(p_text) in lower(concat_ws(' ',
        p.full_name, p.first_name, p.last_name, p.email, p.school_name, p.id))) > 0)
    order by p.full_name, p.id limit least(p_limit, 100)
$$;

-- Every admin of a conversation is to hear of a message in it. One of high priority does not wait for the next slot,
-- and one job is enough for all that come meanwhile. Nothing that goes wrong in here keeps a message from being written.
create or replace function public.programme_queue_admin_alerts() returns trigger
language plpgsql security definer
set search_path = public, pg_temp
as $$
declare
    v_queued bigint;
begin
    insert into admin_alert_queue (recipient_id, message_id)
    select b.user_id, m.id
    from added m
    join conversation_members b on b.conversation_id = m.conversation_id and b.user_id <> m.sender_id
    join profiles p on p.id = b.user_id and p.role = 'admin'
    where coalesce(m.metadata ->> 'private_to', '') in ('', b.user_id::text)
    on conflict (recipient_id, message_id) do nothing;
    get diagnostics v_queued = row_count;
    if v_queued > 0 and exists (select from added where high_priority) and not exists (
        select from job_queue
        where task_type = 'admin_alert_dispatch' and status = 'pending' and run_at <= now())
    then
        perform job_queue_enqueue('admin_alert_dispatch',
            '{"roles": ["admin"], "allowSms": false, "force": true, "windowMinutes": 5}'::jsonb, now(), 5);
    end if;
    return null;
exception when others then
    raise warning 'Admin alerts for a message could not be queued (SQLSTATE %).', sqlstate;
    return null;
end
$$;
create or replace trigger programme_queue_admin_alerts after insert on public.messages
    referencing new table as added for each statement execute function public.programme_queue_admin_alerts();

-- An edited address has been checked by nobody, unless the same statement says so.
create or replace function public.programme_forget_parent_check() returns trigger
language plpgsql security definer
set search_path = public, pg_temp
as $$
begin
    if outbox_normal('email', new.parent_email) is distinct from outbox_normal('email', old.parent_email)
        and new.parent_email_is_valid is not distinct from old.parent_email_is_valid
    then
        new.parent_email_is_valid := null;
        new.parent_email_validated_at := null;
        new.parent_email_invalid_reason := null;
    end if;
    return new;
end
$$;
create or replace trigger programme_forget_parent_check before update of parent_email on public.competitors
    for each row execute function public.programme_forget_parent_check();

-------------------------------------------------------------------------------------------------------
-- What providers report
-------------------------------------------------------------------------------------------------------

create or replace function public.outbox_rank(p_state text) returns integer
language sql immutable
return case p_state when 'queued' then 0 when 'sending' then 1 when 'uncertain' then 2 when 'suppressed' then 2
    when 'failed' then 2 when 'skipped' then 2 when 'accepted' then 3 when 'unconfirmed' then 3 when 'delivered' then 4
    when 'blocked' then 5 when 'dropped' then 6 when 'bounced' then 7 else 0 end;

-- Keeps events, each once by its provider's key; returns how many were new. An entry: provider, event_key, event,
-- occurred_at (unix seconds), message_key, outbox_id, campaign_id, competitor_id, agreement_id, address, reason, payload.
create or replace function public.outbox_record_events(p_events jsonb) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_new bigint;
begin
    insert into provider_events (provider, event_key, event, occurred_at, message_key, outbox_id, campaign_id,
        competitor_id, agreement_id, address_norm, reason, payload)
    select e.provider, e.event_key, e.event, to_timestamp(e.occurred_at), e.message_key, e.outbox_id, e.campaign_id,
        e.competitor_id, e.agreement_id,
        outbox_normal(case e.provider when 'twilio' then 'sms' else 'email' end, e.address), left(e.reason, 500),
        coalesce(e.payload, '{}') || case when e.address is null then '{}'::jsonb
            else jsonb_build_object('address_sha256', encode(sha256(convert_to(lower(e.address), 'UTF8')), 'hex')) end
    from jsonb_to_recordset(p_events) as e (provider text, event_key text, event text, occurred_at double precision,
        message_key text, outbox_id uuid, campaign_id uuid, competitor_id uuid, agreement_id uuid, address text,
        reason text, payload jsonb)
    on conflict (provider, event_key) do nothing;
    get diagnostics v_new = row_count;
    return v_new;
end
$$;

drop function if exists public.outbox_apply_event(public.provider_events);
drop function if exists public.outbox_apply_to_message(public.provider_events, uuid);
drop function if exists public.outbox_apply_to_forms(public.provider_events, uuid);
drop function if exists public.outbox_find_message(public.provider_events);

-- Keeps events that a person had fetched, and how far each source has been read (`p_cursors`: position by name); returns
-- how many were new. Anyone who can say what became of a message can keep an address from being written to, or bring it
-- back: hence the audit.
create or replace function public.outbox_record_pulled(p_events jsonb, p_cursors jsonb, p_actor text) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_new bigint := outbox_record_events(p_events);
begin
    insert into provider_cursors (name, position) select c.key, c.value from jsonb_each_text(p_cursors) c
    on conflict (name) do update set position = excluded.position, updated_at = now();
    if v_new > 0 or p_cursors <> '{}' then
        perform job_queue_write_audit(p_actor, 'pull events', null, null,
            jsonb_build_object('new', v_new, 'cursors', p_cursors), null);
    end if;
    return v_new;
end
$$;

-- Why an event makes an address unfit; null where it does not. A drop for an unsubscribe is not a bad address.
create or replace function public.outbox_event_suppression(p_event public.provider_events) returns text
language sql immutable
return case
    when (p_event).provider <> 'sendgrid' then null
    when (p_event).event = 'bounced' then 'hard_bounce'
    when (p_event).event = 'invalid' then 'invalid'
    when (p_event).event = 'spamreport' then 'spam'
    when (p_event).event = 'unsubscribe' then 'global_unsub'
    when (p_event).event = 'group_unsubscribe' then 'group_unsub'
    when (p_event).event <> 'dropped' then null
    when (p_event).reason ~* 'unsubscribe' then 'global_unsub'
    when (p_event).reason ~* 'spam' then 'spam'
    when (p_event).reason ~* 'bounce' then 'hard_bounce'
    when (p_event).reason ~* 'invalid' then 'invalid' end;

-- Whether an outcome that is told now takes the place of the present one, in whatever order the two are told: the
-- higher rank does, and of a delivery and a block the later. `p_present_at` is when the present one happened, before
-- all others where that is not known; the same outcome told again for a later time moves it.
create or replace function public.outbox_outranks(
    p_told text, p_told_at timestamptz, p_present text, p_present_at timestamptz
) returns boolean
language sql immutable
return case
    when p_told in ('delivered', 'blocked') and p_present in ('delivered', 'blocked')
        then p_told_at > coalesce(p_present_at, '-infinity')
            or p_told_at = p_present_at and p_told = 'blocked' and p_present = 'delivered'
    else outbox_rank(p_told) > outbox_rank(p_present) end;

-- Of several outcomes that are told together, the one that outbox_outranks would leave standing is the highest by this.
create or replace function public.outbox_outcome_order(p_outcome text, p_at timestamptz) returns double precision[]
language sql stable
return case when p_outcome in ('delivered', 'blocked')
    then array[4, extract(epoch from p_at), case p_outcome when 'blocked' then 1 else 0 end]::double precision[]
    else array[outbox_rank(p_outcome), -extract(epoch from p_at)]::double precision[] end;

-- An event with what it is about. `address` is that of its message where it has none itself; `outcome` is what it says
-- became of the message, `bar` why the address is unfit since; `closes` is the campaign whose status may change by it.
do $$
begin
    if to_regtype('public.outbox_told') is null then
        create type public.outbox_told as (
            id bigint, provider text, event text, occurred_at timestamptz, reason text, code text, address text,
            address_sha256 text, outcome text, bar text, message uuid, kind text, recipient uuid, closes uuid,
            campaign_id uuid, competitor_id uuid, agreement_id uuid
        );
    end if;
end
$$;

-- Finds the message of each event: by the id it carries, by the provider's id and the address, by the address alone for
-- lists that know no more (the last message accepted before it). Row by row, so that no plan reads a whole table.
create or replace function public.outbox_match_events(p_events bigint[]) returns setof public.outbox_told
language sql stable
set search_path = public, pg_temp
as $$
    select e.id, e.provider, e.event, e.occurred_at, e.reason, e.payload ->> 'code',
        coalesce(e.address_norm, m.address_norm), e.payload ->> 'address_sha256',
        case when e.event in ('delivered', 'blocked', 'dropped', 'bounced') then e.event
            when e.event = 'invalid' then 'bounced' end,
        outbox_event_suppression(e), m.id, m.kind, m.campaign_recipient_id, coalesce(m.campaign_id, e.campaign_id),
        e.campaign_id, e.competitor_id, e.agreement_id
    from provider_events e
    left join lateral (select m.id from outbox_messages m where m.id = e.outbox_id limit 1) a on true
    cross join lateral (
        select case e.provider when 'sendgrid' then split_part(e.message_key, '.', 1) else e.message_key end as sent) k
    left join lateral (
        select m.id from outbox_messages m
        where a.id is null and m.provider_message_id = k.sent and m.address_norm = e.address_norm
        order by m.created_at limit 1) b on true
    left join lateral (
        select m.id from outbox_messages m
        where a.id is null and e.address_norm is null and m.provider_message_id = k.sent
        order by m.created_at limit 1) c on true
    left join lateral (
        select m.id from outbox_messages m
        where a.id is null and b.id is null and e.message_key is null and m.address_norm = e.address_norm
            and m.accepted_at <= e.occurred_at + interval '5 seconds'
        order by m.accepted_at desc limit 1) d on true
    left join lateral (
        select m.id, m.kind, m.campaign_recipient_id, m.campaign_id, m.address_norm from outbox_messages m
        where m.id = coalesce(a.id, b.id, c.id, d.id) limit 1) m on true
    where e.id = any (p_events)
$$;

-- What events tell of messages, and of those who opened them; answers with those whose outcome is now the message's.
create or replace function public.outbox_apply_to_messages(p_told public.outbox_told[]) returns setof bigint
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    -- In one order, as everybody takes them who takes several.
    perform from outbox_messages m where m.id in (
        select t.message from unnest(p_told) t where t.event not in ('open', 'click')) order by m.id for update;
    return query
    with told as (select * from unnest(p_told) t where t.message is not null and t.event not in ('open', 'click')),
    latest as (
        select distinct on (message) message, event, occurred_at from told order by message, occurred_at desc, id desc),
    best as (
        select distinct on (message) told.*, min(occurred_at) over (partition by message) as first_at
        from told where outcome is not null
        order by message, outbox_outcome_order(outcome, occurred_at) desc, id),
    weighed as (
        select m.id, l.event, l.occurred_at, b.id as told, b.outcome, b.occurred_at as outcome_at, b.first_at, b.code,
            b.reason, coalesce(outbox_outranks(b.outcome, b.occurred_at, m.state, m.outcome_at), false) as counts,
            l.occurred_at >= coalesce(m.last_event_at, '-infinity') as newest
        from latest l join outbox_messages m on m.id = l.message left join best b on b.message = l.message),
    changed as (
        update outbox_messages m
        set state = case when w.counts then w.outcome else m.state end,
            outcome_at = case when w.counts then w.outcome_at else m.outcome_at end,
            lease_until = case when w.counts then null else m.lease_until end,
            accepted_at = case when w.counts then coalesce(m.accepted_at, w.first_at) else m.accepted_at end,
            error_class = case when not w.counts then m.error_class when w.outcome <> 'delivered' then w.outcome end,
            error_code = case when w.counts then w.code else m.error_code end,
            error_text = case when not w.counts then m.error_text when w.outcome <> 'delivered' then w.reason end,
            updated_at = case when w.counts then now() else m.updated_at end,
            last_event = case when w.newest then w.event else m.last_event end,
            last_event_at = case when w.newest then w.occurred_at else m.last_event_at end
        from weighed w where m.id = w.id and (w.counts or w.newest)
        returning case when w.counts then w.told end as told)
    select c.told from changed c where c.told is not null;
    update competitor_announcement_recipients r
    set opened_at = least(r.opened_at, s.opened), clicked_at = least(r.clicked_at, s.clicked)
    from (
        select t.recipient, min(t.occurred_at) filter (where t.event = 'open') as opened,
            min(t.occurred_at) filter (where t.event = 'click') as clicked
        from unnest(p_told) t where t.event in ('open', 'click') and t.recipient is not null group by 1) s
    where r.id = s.recipient and (least(r.opened_at, s.opened) is distinct from r.opened_at
        or least(r.clicked_at, s.clicked) is distinct from r.clicked_at);
end
$$;

-- Mail that the original sent has no message in the outbox. Answers with the events that are about such mail, and
-- whether they changed what is known of it.
create or replace function public.outbox_apply_to_original(p_told public.outbox_told[])
returns table (event bigint, counted boolean)
language sql volatile
set search_path = public, pg_temp
as $$
    with told as materialized (
        select r.id as recipient, t.id, t.event, t.occurred_at, t.reason
        from unnest(p_told) t
        join competitor_announcement_recipients r
            on r.campaign_id = t.campaign_id and r.competitor_id = t.competitor_id
        where t.message is null and not exists (select from outbox_messages m where m.campaign_recipient_id = r.id)),
    best as (
        select distinct on (recipient) * from told where told.event in ('delivered', 'blocked', 'dropped', 'bounced')
        order by recipient, outbox_rank(told.event) desc, occurred_at, id),
    changed as (
        update competitor_announcement_recipients r
        set status = b.event, error = case when b.event <> 'delivered' then b.reason end, updated_at = now()
        from best b where r.id = b.recipient and outbox_rank(b.event) > outbox_rank(r.status)
        returning b.id)
    select told.id, bool_or(changed.id is not null) from told left join changed on changed.id = told.id group by told.id
$$;

-- Probes' outcomes on the forms they stand for; answers like outbox_apply_to_original. A parent's address is bad only
-- after a hard bounce, or a drop because of one, and only if the profile still has that address.
create or replace function public.outbox_apply_to_forms(p_told public.outbox_told[])
returns table (event bigint, counted boolean)
language sql volatile
set search_path = public, pg_temp
as $$
    with told as (
        select t.*, replace(t.outcome, 'bounced', 'bounce') as status
        from unnest(p_told) t where t.outcome is not null),
    pairs as materialized (
        select a.id as agreement, a.competitor_id as child, told.*
        from told join agreements a on a.recipient_email_verification_outbox_id = told.message
        union
        select a.id, a.competitor_id, told.* from told join agreements a on a.id = told.agreement_id),
    best as (
        select distinct on (agreement) * from pairs
        order by agreement, outbox_outcome_order(outcome, occurred_at) desc, id),
    changed as (
        update agreements a
        set recipient_email_verification_status = b.status,
            recipient_email_verification_error = case when b.status <> 'delivered'
                then left(coalesce(b.reason, b.status), 1000) end,
            recipient_email_verification_event_at = b.occurred_at, updated_at = now(),
            recipient_email_verification_next_at = case when b.status = 'blocked' then now() + interval '24 hours'
                else a.recipient_email_verification_next_at end
        from best b
        where a.id = b.agreement and outbox_outranks(b.outcome, b.occurred_at,
            replace(a.recipient_email_verification_status, 'bounce', 'bounced'),
            a.recipient_email_verification_event_at)
        returning b.id),
    condemned as (
        update competitors c
        set parent_email_is_valid = false, parent_email_validated_at = now(),
            parent_email_invalid_reason = left(coalesce(p.reason, p.status), 500)
        from (
            select distinct on (p.child) p.child, p.reason, p.status
            from pairs p join competitors k on k.id = p.child
            where p.bar in ('hard_bounce', 'invalid') and outbox_normal('email', k.parent_email) = p.address
            order by p.child, p.occurred_at desc, p.id desc) p
        where c.id = p.child)
    select pairs.id, bool_or(changed.id is not null) from pairs left join changed on changed.id = pairs.id
    group by pairs.id
$$;

-- Whether somebody who had unsubscribed from a group, or stopped texts, has come back since, as far as is known.
create or replace function public.outbox_taken_back(p_told public.outbox_told) returns boolean
language sql stable
set search_path = public, pg_temp
as $$
    select exists (
        select from provider_events r
        where r.event in ('group_resubscribe', 'start')
            and r.event = case (p_told).event when 'group_unsubscribe' then 'group_resubscribe'
                when 'stop' then 'start' end
            and r.payload ->> 'address_sha256' = (p_told).address_sha256 and r.occurred_at > (p_told).occurred_at)
$$;

-- Addresses that must not be mailed any more, and those of a group that may be again.
create or replace function public.outbox_apply_to_suppressions(p_told public.outbox_told[]) returns void
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    delete from email_suppressions s using unnest(p_told) t
    where t.event = 'group_resubscribe' and s.address_norm = t.address and s.reason = 'group_unsub'
        and s.created_at < t.occurred_at;
    insert into email_suppressions as s (address_norm, reason, scope, source, created_at)
    select t.address, t.bar, case t.bar when 'group_unsub' then 'announcements' else 'all' end, 'sendgrid event',
        case t.bar when 'group_unsub' then max(t.occurred_at) else min(t.occurred_at) end
    from unnest(p_told) t
    where t.address is not null and t.bar is not null
        and not (t.bar = 'group_unsub' and (outbox_taken_back(t) or exists (
            select from unnest(p_told) b where b.event = 'group_resubscribe' and b.address = t.address
                and b.occurred_at > t.occurred_at)))
    group by t.address, t.bar order by t.address, t.bar
    on conflict (address_norm, reason, scope) do update set created_at = excluded.created_at
    where s.reason = 'group_unsub' and s.created_at < excluded.created_at;
end
$$;

-- Numbers that must not be sent texts any more, and those that may be again. A person who comes back does not make a
-- number usable that cannot take texts.
create or replace function public.outbox_apply_to_opt_outs(p_told public.outbox_told[]) returns void
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    update profiles p set sms_notifications_enabled = false
    where outbox_e164(p.mobile_number) in (
        select t.address from unnest(p_told) t where t.provider = 'twilio' and t.event = 'stop');
    insert into sms_opt_outs as o (phone_e164, source, created_at)
    select distinct on (t.address) t.address, t.event, t.occurred_at from unnest(p_told) t
    where t.provider = 'twilio' and t.event in ('stop', 'unusable') and t.address is not null
        and not outbox_taken_back(t)
    order by t.address, t.event = 'unusable' desc, t.occurred_at desc, t.id desc
    on conflict (phone_e164) do update set source = excluded.source, created_at = excluded.created_at, cleared_at = null
    where case when excluded.source = 'unusable' then o.source <> 'unusable' or o.cleared_at < excluded.created_at
        else (o.source <> 'unusable' or o.cleared_at is not null)
            and excluded.created_at >= greatest(o.created_at, o.cleared_at) end;
    update sms_opt_outs o set cleared_at = b.at
    from (
        select t.address, max(t.occurred_at) as at from unnest(p_told) t
        where t.provider = 'twilio' and t.event = 'start' group by 1) b
    where o.phone_e164 = b.address and o.source <> 'unusable' and o.created_at < b.at;
end
$$;

-- Applies events all together, or none of them where one cannot be. Where several tell of the same, what counts is what
-- would if they came one by one in the order in which they happened.
create or replace function public.outbox_apply_together(p_events bigint[], out applied bigint, out unmatched bigint)
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_told outbox_told[] := array(select f from outbox_match_events(p_events) f);
    v_counted bigint[] := array(select outbox_apply_to_messages(v_told));
    v_known bigint[] := array(select t.id from unnest(v_told) t where t.message is not null);
    v_barred bigint[] := array(select t.id from unnest(v_told) t where t.bar is not null and t.address is not null);
    v_campaign uuid;
begin
    if exists (select from unnest(v_told) t where t.message is null and t.campaign_id is not null) then
        select v_known || array_agg(o.event), v_counted || array_agg(o.event) filter (where o.counted)
        into v_known, v_counted from outbox_apply_to_original(v_told) o;
    end if;
    if exists (select from unnest(v_told) t where t.agreement_id is not null or t.kind = 'parent_probe') then
        select v_known || array_agg(o.event), v_counted || array_agg(o.event) filter (where o.counted)
        into v_known, v_counted from outbox_apply_to_forms(v_told) o;
    end if;
    if cardinality(v_barred) > 0 or exists (select from unnest(v_told) t where t.event = 'group_resubscribe') then
        perform outbox_apply_to_suppressions(v_told);
    end if;
    if exists (select from unnest(v_told) t where t.event in ('stop', 'unusable', 'start')) then
        perform outbox_apply_to_opt_outs(v_told);
    end if;
    for v_campaign in select distinct t.closes from unnest(v_told) t where t.closes is not null order by 1 loop
        perform outbox_campaign_close(v_campaign);
    end loop;
    with done as (
        update provider_events e
        set applied_at = now(), address_norm = null,
            result = case when e.id = any (v_counted) then 'applied' when e.id = any (v_known) then 'noted'
                when e.id = any (v_barred) then 'suppressed' else 'unmatched' end
        where e.id = any (p_events)
        returning e.result)
    select count(*) filter (where result in ('applied', 'suppressed')), count(*) filter (where result = 'unmatched')
    into applied, unmatched from done;
end
$$;

-- Applies events; those that cannot be applied are looked for by halves, so that each costs itself alone.
create or replace function public.outbox_apply_batch(
    p_events bigint[], out applied bigint, out unmatched bigint, out failed bigint
)
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_half integer := cardinality(p_events) / 2;
begin
    select t.applied, t.unmatched, 0 into applied, unmatched, failed from outbox_apply_together(p_events) t;
exception when others then
    if v_half > 0 then
        select sum(h.applied), sum(h.unmatched), sum(h.failed) into applied, unmatched, failed
        from (values (p_events[:v_half]), (p_events[v_half + 1:])) as halves (part), outbox_apply_batch(halves.part) h;
        return;
    end if;
    applied := 0;
    unmatched := 0;
    failed := cardinality(p_events);
    update provider_events e set failures = e.failures + 1, result = 'error ' || sqlstate where e.id = any (p_events);
end
$$;

-- Applies waiting events, the oldest first. One that cannot be applied is tried 5 times, by itself after the first, and
-- keeps nobody else's waiting.
create or replace function public.outbox_apply_events(p_limit integer)
returns table (seen bigint, applied bigint, unmatched bigint, failed bigint)
language plpgsql volatile security definer
-- Long lists are compared quickly only where they are constants of the plan. A bitmap would read all that waits,
-- however little of it is wanted.
set search_path = public, pg_temp set plan_cache_mode = force_custom_plan set enable_bitmapscan = off set jit = off
as $$
declare
    v_fresh bigint[];
    v_again bigint[];
begin
    perform pg_advisory_xact_lock(hashtextextended('outbox_apply_events', 0));
    select array_agg(w.id order by w.occurred_at, w.id) filter (where w.failures = 0),
        array_agg(w.id) filter (where w.failures > 0)
    into v_fresh, v_again
    from (
        select e.id, e.occurred_at, e.failures from provider_events e where e.applied_at is null and e.failures < 5
        order by e.occurred_at, e.id limit p_limit) w;
    select coalesce(sum(cardinality(b.part)), 0), coalesce(sum(d.applied), 0), coalesce(sum(d.unmatched), 0),
        coalesce(sum(d.failed), 0)
    into seen, applied, unmatched, failed
    from (
        select v_fresh as part where v_fresh is not null
        union all
        select array[one] from unnest(v_again) one) b, outbox_apply_batch(b.part) d;
    return next;
end
$$;

-------------------------------------------------------------------------------------------------------
-- Receipts: who was sent what, when, and what became of it; who was left out
-------------------------------------------------------------------------------------------------------

create or replace view public.outbox_receipts as
    select m.job_id, m.run_token, m.id as outbox_id, m.campaign_id, m.kind, m.channel, m.recipient_ref,
        public.outbox_mask(m.channel, m.address) as address, m.state, m.attempts, m.provider_message_id, m.segments,
        m.created_at, m.accepted_at, m.last_event, m.last_event_at, m.error_class, m.error_code, null::text as left_out
    from public.outbox_messages m
    union all
    select l.job_id, l.run_token, null, null, l.kind, l.channel, l.recipient_ref, '', 'left out', 0, null, null, l.at,
        null, null, null, null, null, l.reason
    from public.outbox_left_out l
    union all
    select c.dispatch_job_id, c.dispatch_token, null, r.campaign_id, 'announcement', 'email', r.competitor_id,
        public.outbox_mask('email', r.email), 'left out', 0, null, null, r.updated_at, null, null, null, null, null,
        r.skip_reason
    from public.competitor_announcement_recipients r
    join public.competitor_announcement_campaigns c on c.id = r.campaign_id
    where r.status = 'skipped'
        and not exists (select from public.outbox_messages m where m.campaign_recipient_id = r.id);

-- Whole addresses of a job's or campaign's messages, for one who says why; that they looked is on record.
create or replace function public.outbox_reveal(p_job uuid, p_campaign uuid, p_actor text, p_reason text)
returns table (outbox_id uuid, recipient_ref uuid, channel text, address text)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    if coalesce(trim(p_reason), '') = '' then
        perform job_queue_refuse('Whole addresses are shown only to one who says why. Give a reason.');
    end if;
    perform job_queue_write_audit(p_actor, 'reveal', p_job, null,
        jsonb_build_object('campaign_id', p_campaign, 'what', 'addresses of messages'), p_reason);
    return query
        select m.id, m.recipient_ref, m.channel, m.address from outbox_messages m
        where m.job_id = p_job or m.campaign_id = p_campaign order by m.created_at, m.id;
end
$$;

-------------------------------------------------------------------------------------------------------
-- Who may do what
-------------------------------------------------------------------------------------------------------

-- Tables of the programme that the worker reads and writes directly.
create or replace function public.outbox_programme_tables() returns setof text
language sql immutable
set search_path = public, pg_temp
as $$
    select unnest(array['conversations', 'conversation_members', 'messages', 'message_read_receipts',
        'message_user_state', 'admin_alert_queue', 'alert_log', 'agreements', 'competitor_announcement_campaigns',
        'competitor_announcement_recipients', 'provider_cursors'])
$$;

-- What commands and previews read of tables that an operator may not read whole. No address, name or number is among
-- it, and no words of a message; what needs these is asked of the functions that look ahead.
create or replace function public.job_preview_columns() returns table (relation text, columns text)
language sql immutable
set search_path = public, pg_temp
as $$
    values
        ('admin_alert_queue', 'recipient_id, message_id, sent_at, dropped_at, outbox_id'),
        ('message_user_state', 'id, message_id, user_id, archived_at'),
        ('message_read_receipts', 'message_id, user_id'),
        ('competitors', 'id, coach_id, created_at, is_active, status, game_platform_id, syned_school_id, '
            'syned_region_id, syned_coach_user_id'),
        ('profiles', 'id, role, is_approved, school_name, region, division, game_platform_user_id'),
        ('outbox_messages', 'id, kind, channel, state, campaign_id, provider_message_id, accepted_at, updated_at'),
        ('competitor_announcement_recipients', 'id, campaign_id, competitor_id, status, skip_reason, opened_at, '
            'clicked_at'),
        ('teams', 'id, coach_id, name, division, affiliation, status, game_platform_id, syned_coach_user_id, '
            'coach_game_platform_id, created_at'),
        ('team_members', 'id, team_id, competitor_id, joined_at'),
        ('game_platform_profiles', 'coach_id, competitor_id, synced_user_id, metactf_user_id, status'),
        ('game_platform_teams', 'team_id, synced_team_id'),
        ('game_platform_sync_state', 'synced_user_id, last_login_at, last_odl_watermark_unix, last_odl_full_at, '
            'last_flash_checked_at, needs_totals_refresh, totals_dirty_at'),
        ('game_platform_flash_ctf_events', 'started_at'),
        ('game_platform_onboarding', 'person_id, lap, state, outcome, message')
$$;

create or replace function public.outbox_grant_roles() returns void
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_function regprocedure;
    v_name text;
    v_columns text;
    v_relation regclass;
    v_ledger constant text[] := array['outbox_messages', 'send_batches', 'outbox_left_out', 'email_suppressions',
        'sms_opt_outs', 'provider_events', 'provider_rates'];
    v_work constant text[] := array['outbox_put', 'outbox_leave_out', 'outbox_claim', 'outbox_settle', 'outbox_sweep',
        'outbox_reserve', 'outbox_close_provider', 'outbox_closed_for', 'outbox_campaign_hold', 'outbox_campaign_start',
        'outbox_campaign_batch', 'outbox_settle_batch', 'outbox_campaign_close', 'outbox_campaign_release',
        'outbox_record_events', 'outbox_record_pulled', 'outbox_apply_events', 'outbox_retire_probes'];
    v_operate constant text[] := array['outbox_decide', 'outbox_campaign_create', 'outbox_campaign_reopen',
        'outbox_reveal', 'outbox_record_pulled', 'outbox_apply_events'];
    v_judge constant text[] := array['outbox_suppression', 'outbox_obstacle', 'outbox_preference_off',
        'outbox_recipient_obstacle', 'outbox_has_address', 'outbox_audience', 'programme_digest_due',
        'programme_probes_due', 'programme_probes_judged'];
    v_look constant text[] := array['outbox_normal', 'outbox_email_ok', 'outbox_e164', 'outbox_mask', 'outbox_is_quiet',
        'outbox_audience_outlook', 'outbox_campaign_outlook', 'outbox_campaign_stats', 'outbox_rank', 'outbox_preview',
        'programme_unread', 'programme_alert_obstacle', 'programme_digest_ahead', 'programme_admin_alerts_ahead',
        'programme_probe_skips', 'programme_probes_ahead', 'programme_competitors_ahead', 'programme_coaches_ahead',
        'programme_statuses', 'programme_find_coaches'];
    v_operator boolean := exists (select from pg_roles where rolname = 'job_operator');
    v_worker boolean := exists (select from pg_roles where rolname = 'job_worker');
    v_viewer boolean := exists (select from pg_roles where rolname = 'job_viewer');
begin
    for v_function, v_name in
        select p.oid::regprocedure, p.proname from pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proname ~ '^(outbox|programme)_'
    loop
        execute format('revoke all on function %s from public', v_function);
        -- What the role was given by an earlier release and may not have any more.
        if v_operator then
            execute format('revoke all on function %s from job_operator', v_function);
        end if;
        if v_viewer and v_name = 'outbox_mask' then
            execute format('grant execute on function %s to job_viewer', v_function);
        end if;
        if v_worker and v_name = any (v_work || v_judge || v_look) then
            execute format('grant execute on function %s to job_worker', v_function);
        end if;
        if v_operator and v_name = any (v_operate || v_look) then
            execute format('grant execute on function %s to job_operator', v_function);
        end if;
    end loop;
    for v_relation, v_name in
        select c.oid::regclass, c.relname from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p')
    loop
        if v_viewer and v_name = 'outbox_receipts' then
            execute format('grant select on %s to job_viewer', v_relation);
        end if;
        if v_operator and (v_name = any (v_ledger) or exists (select from outbox_programme_tables() t where t = v_name)
            or exists (select from job_programme_tables() t where t = v_name))
        then
            execute format('revoke all on %s from job_operator', v_relation);
        end if;
        if v_operator and v_name in ('outbox_receipts', 'send_batches', 'provider_rates', 'provider_cursors',
            'competitor_announcement_campaigns')
        then
            execute format('grant select on %s to job_operator', v_relation);
        end if;
        if v_worker and (v_name = any (v_ledger) or v_name = 'outbox_receipts') then
            execute format('grant select on %s to job_worker', v_relation);
        end if;
        if v_worker and exists (select from outbox_programme_tables() t where t = v_name) then
            execute format('grant select, insert, update, delete on %s to job_worker', v_relation);
        end if;
    end loop;
    -- Over the original's tables a column may be missing.
    for v_relation, v_columns in
        select a.attrelid::regclass, string_agg(quote_ident(a.attname), ', ')
        from job_preview_columns() t join pg_attribute a on a.attrelid = to_regclass('public.' || t.relation)
            and a.attname = any (string_to_array(t.columns, ', '))
        where v_operator group by 1
    loop
        execute format('grant select (%s) on %s to job_operator', v_columns, v_relation);
    end loop;
end
$$;

-------------------------------------------------------------------------------------------------------
-- 13. Who may do what
--
-- job_viewer reads views with payloads redacted; job_operator reads and acts; job_worker claims, finishes and
-- writes the programme's tables. Nobody but the owner writes the queue's tables, and nothing is open to PUBLIC.
-- The roles are made by job_make_roles ("jobdeck init --roles"); rights are given to those that exist.
-------------------------------------------------------------------------------------------------------

create or replace function public.job_make_roles() returns void
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_role text;
begin
    foreach v_role in array array['job_viewer', 'job_operator', 'job_worker'] loop
        if not exists (select from pg_roles where rolname = v_role) then
            execute format('create role %I nologin', v_role);
        end if;
    end loop;
    grant job_viewer to job_operator;
end
$$;

create or replace function public.job_grant_roles() returns void
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_function regprocedure;
    v_name text;
    v_relation regclass;
    v_actions constant text[] := array['job_queue_act', 'job_queue_copy', 'job_queue_restore', 'job_queue_edit',
        'job_queue_clean_stuck', 'job_queue_reveal', 'job_queue_pause', 'job_queue_resume', 'job_queue_cleanup',
        'job_queue_create', 'job_queue_create_many', 'job_queue_enqueue', 'job_worker_run_open',
        'job_worker_run_close', 'job_bulk_choose', 'job_bulk_choose_ids', 'job_bulk_choose_again', 'job_bulk_start',
        'job_bulk_step', 'job_bulk_stop', 'job_bulk_drop', 'job_bulk_result'];
    v_work constant text[] := array['job_queue_claim', 'job_queue_next_due', 'job_queue_heartbeat',
        'job_queue_checkpoint', 'job_queue_finish', 'job_queue_reap', 'job_bulk_continue', 'job_queue_create',
        'job_queue_create_many', 'job_queue_enqueue', 'job_worker_report', 'job_worker_remove',
        'job_worker_run_open', 'job_worker_run_note', 'job_worker_run_close',
        'job_queue_expect_trigger', 'job_alarm_raise', 'job_alarm_clear'];
    v_look constant text[] := array['job_queue_why', 'job_permissions', 'job_redact_payload', 'job_sees_payloads',
        'job_queue_due_count', 'job_queue_oldest_due', 'job_queue_counts', 'job_matches', 'job_order_key'];
    v_views constant text[] := array['job_list', 'job_removed_list', 'job_trash_list', 'job_run_list', 'job_audit_list'];
    v_open_tables constant text[] := array['jobdeck_schema', 'job_queue_settings', 'job_paused_types', 'job_workers',
        'job_worker_runs', 'job_throughput', 'job_alarms'];
    v_queue_tables constant text[] := array['job_queue', 'job_runs', 'job_trash', 'job_audit', 'job_bulk',
        'job_bulk_items'];
    v_sequences constant text[] := array['job_run_token_seq', 'job_audit_id_seq'];
    v_viewer boolean := exists (select from pg_roles where rolname = 'job_viewer');
    v_operator boolean := exists (select from pg_roles where rolname = 'job_operator');
    v_worker boolean := exists (select from pg_roles where rolname = 'job_worker');
    -- The roles of the original's host, to which its default privileges give whatever is new.
    v_outsiders text := (select string_agg(quote_ident(rolname), ', ' order by rolname) from pg_roles
        where rolname in ('anon', 'authenticated', 'service_role'));
    v_public_key text := (select string_agg(quote_ident(rolname), ', ' order by rolname) from pg_roles
        where rolname in ('anon', 'authenticated'));
    v_guarded boolean;
    v_programme boolean;
begin
    for v_function, v_name in
        select p.oid::regprocedure, p.proname from pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.proname ~ '^(job|programme|outbox)_'
            and p.proname <> 'job_queue_health'
    loop
        execute format('revoke all on function %s from public', v_function);
        if v_outsiders is not null then
            execute format('revoke all on function %s from %s', v_function, v_outsiders);
        end if;
        if v_viewer and v_name = any (v_look) then
            execute format('grant execute on function %s to job_viewer', v_function);
        end if;
        if v_operator and v_name = any (v_actions || v_look) then
            execute format('grant execute on function %s to job_operator', v_function);
        end if;
        if v_worker and (v_name = any (v_work || v_look)) and v_function::text <> 'job_queue_claim(integer)' then
            execute format('grant execute on function %s to job_worker', v_function);
        end if;
        -- The original's callers sign in as this role, and are to read the sentence that refuses them.
        if exists (select from pg_roles where rolname = 'service_role') and v_function::text in (
            'job_queue_enqueue(text,jsonb,timestamp with time zone,integer)', 'job_queue_cleanup(interval)',
            'job_queue_claim(integer)', 'job_queue_mark_succeeded(uuid,jsonb)',
            'job_queue_mark_failed(uuid,text,integer)', 'job_queue_mark_failed(uuid,text,interval)',
            'job_queue_refuse_old_runner(text)')
        then
            execute format('grant execute on function %s to service_role', v_function);
        end if;
    end loop;
    for v_relation, v_name, v_guarded in
        select c.oid::regclass, c.relname, c.relrowsecurity from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p', 'S')
    loop
        -- The original's own tables have row security, and their grants and policies are left as they are.
        if v_outsiders is not null and not v_guarded
            and v_name = any (v_views || v_open_tables || v_queue_tables || v_sequences)
        then
            execute format('revoke all on %s from %s', v_relation, v_outsiders);
        end if;
        v_programme := exists (select from job_programme_tables() t where t = v_name)
            or exists (select from outbox_programme_tables() t where t = v_name);
        -- What names people is not for whoever holds the host's public key.
        if v_public_key is not null and not v_guarded and (v_programme or v_name ~ '^outbox_' or v_name in (
            'send_batches', 'email_suppressions', 'sms_opt_outs', 'provider_events', 'provider_rates'))
        then
            execute format('revoke all on %s from %s', v_relation, v_public_key);
        end if;
        if v_guarded and v_viewer and v_operator and v_worker and v_name = any (v_open_tables || v_queue_tables)
            and not exists (select from pg_policy where polrelid = v_relation and polname = 'jobdeck_read')
        then
            execute format('create policy jobdeck_read on %s for select to job_viewer, job_operator, job_worker '
                'using (true)', v_relation);
        end if;
        if v_guarded and v_worker and v_programme
            and not exists (select from pg_policy where polrelid = v_relation and polname = 'jobdeck_work')
        then
            execute format('create policy jobdeck_work on %s to job_worker using (true) with check (true)', v_relation);
        end if;
        -- Grants say which of it an operator may read or write.
        if v_guarded and v_operator and v_programme
            and not exists (select from pg_policy where polrelid = v_relation and polname = 'jobdeck_operate')
        then
            execute format('create policy jobdeck_operate on %s to job_operator using (true) with check (true)', v_relation);
        end if;
        if v_viewer and v_name = any (v_views || v_open_tables) then
            execute format('grant select on %s to job_viewer', v_relation);
        end if;
        if v_operator and v_name = any (v_views || v_open_tables || v_queue_tables) then
            execute format('grant select on %s to job_operator', v_relation);
        end if;
        if v_worker and v_name = any (v_views || v_open_tables || v_queue_tables) then
            execute format('grant select on %s to job_worker', v_relation);
        end if;
        if v_worker and exists (select from job_programme_tables() t where t = v_name) then
            execute format('grant select, insert, update, delete on %s to job_worker', v_relation);
        end if;
    end loop;
    perform outbox_grant_roles();
end
$$;

select public.job_grant_roles();

do $$
begin
    if not exists (select from public.jobdeck_schema where version = 1) then
        insert into public.jobdeck_schema (version) values (1);
    end if;
end
$$;
