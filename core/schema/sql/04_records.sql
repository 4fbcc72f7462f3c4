-- What is recorded beside jobs and runs: workers, statistics, locks of keys, requests, notes, upkeep, trash, bulk actions, audit.

create table if not exists job_worker_runs (
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
alter table job_worker_runs
    add column if not exists worker_id text,
    add column if not exists http_status integer,
    add column if not exists claimed integer not null default 0,
    add column if not exists released integer not null default 0,
    add column if not exists due_before integer,
    add column if not exists duration_ms double precision,
    -- The role that signed in; null for a row of the original. Only this role changes the row.
    add column if not exists opened_by text,
    add column if not exists noted_at timestamptz;
alter table job_worker_runs alter column opened_by set default session_user;
create index if not exists idx_job_worker_runs_started_at_desc on job_worker_runs (started_at desc);
-- The condition is the one of job_is_scheduled.
create index if not exists job_worker_runs_by_scheduler on job_worker_runs (started_at)
    where source = 'timer' or source like '%cron%';

create table if not exists job_workers (
    id text primary key,
    host text not null,
    pid integer not null,
    mode text not null,
    version text not null,
    concurrency integer not null,
    task_types text[] not null,
    running integer not null default 0,
    started_at timestamptz not null default now(),
    heartbeat_at timestamptz not null default now(),
    -- The slots of each kind of handler: {"thread": {"slots": 8, "types": ["a"]}}; null: all are those of threads.
    slots jsonb,
    -- Its release of the application, and what its code says of its task types.
    release text,
    code jsonb
);

-- Whether a worker with this heartbeat is alive: it reports every 20 seconds, and a lease lasts a minute.
create or replace function job_worker_is_alive(p_heartbeat_at timestamptz, p_at timestamptz) returns boolean
language sql stable parallel safe
return p_heartbeat_at > p_at - interval '1 minute';

-- The releases of the application whose workers have been here. Kept, because a release that a later worker brings again is
-- not a new one.
create table if not exists job_releases (
    name text primary key,
    first_seen timestamptz not null default clock_timestamp()
);

-- Statistics of runs, so that the cost of figures does not depend on the length of the history. Each report of a batch
-- appends to job_stat_delta, so that workers do not wait for each other; the part 'stats' of upkeep adds these rows to the
-- other tables and deletes them. A reader adds both in one snapshot. `bins` has the bins of wait and duration of each run
-- (see job_stat_bins); `waits` and `durations` have a count for each bin.
create table if not exists job_stat_delta (
    minute timestamptz not null,
    task_type text not null,
    outcome text not null,
    dry_run boolean not null,
    -- Of failed runs only: the group of their errors, and the newest run in it.
    fingerprint text,
    sample_token bigint,
    runs integer not null,
    -- Runs after which the job failed permanently.
    permanent integer not null default 0,
    first_at timestamptz not null,
    last_at timestamptz not null,
    bins smallint[] not null,
    -- The sums of waits and durations in seconds.
    wait_seconds double precision not null default 0,
    duration_seconds double precision not null default 0
);
alter table job_stat_delta alter column bins set storage external;
-- Without a primary key, no publication could have the deletes that upkeep makes.
alter table job_stat_delta replica identity full;
alter table job_stat_delta set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Finished runs by the time of their end. `minutes` is the length of a bucket: 1 (kept for a day, without counts of bins),
-- 5, 15, 120 or 480, so that a read of any window adds up few rows; 0 for all runs ever (kept), because a counter of a monitor
-- must not become smaller.
create table if not exists job_stats (
    minutes smallint not null,
    bucket timestamptz not null,
    task_type text not null,
    outcome text not null,
    dry_run boolean not null,
    runs bigint not null,
    permanent bigint not null,
    first_at timestamptz not null,
    last_at timestamptz not null,
    wait_seconds double precision not null default 0,
    duration_seconds double precision not null default 0,
    waits bigint[],
    durations bigint[],
    primary key (minutes, bucket, task_type, outcome, dry_run)
) with (fillfactor = 70);

-- Failed runs by group of errors and 5 minutes. The group `other` has those beyond the first 1,000 groups of its task
-- type in the 5 minutes.
create table if not exists job_stat_errors (
    task_type text not null,
    fingerprint text not null,
    bucket timestamptz not null,
    runs bigint not null,
    primary key (fingerprint, task_type, bucket)
) with (fillfactor = 70);
create index if not exists job_stat_errors_bucket on job_stat_errors (bucket, task_type);

-- The groups of errors. `pattern` is the error of which the fingerprint is the hash, without quoted texts and digits: it
-- is shown when the history no longer has the newest run.
create table if not exists job_error_groups (
    task_type text not null,
    fingerprint text not null,
    error_kind text,
    pattern text,
    sample_token bigint,
    first_at timestamptz not null,
    last_at timestamptz not null,
    primary key (fingerprint, task_type)
) with (fillfactor = 70);
create index if not exists job_error_groups_last on job_error_groups (last_at);
create index if not exists job_error_groups_newer on job_error_groups (last_at) where error_kind = 'newer_payload';

-- What job_stats_judge found about each task type of which a run ever failed. `verdict` is null while its runs do not fail
-- too often; `note` is no alarm: the type failed when its runs ended, and none runs now. `judged_at`: when its runs were
-- counted last; no run that ended later is counted. `calm_since`: since when nothing as bad as the verdict is found.
-- `runs`: those of 15 minutes, or the last 20 if so few ended (`few`). `seen_runs`, `seen_failed`: all that had ended then.
create table if not exists job_failing_types (
    task_type text primary key,
    verdict text constraint job_failing_types_verdict_check check (verdict in ('note', 'warning', 'critical')),
    since timestamptz not null,
    calm_since timestamptz,
    judged_at timestamptz not null,
    last_at timestamptz,
    last_failed_at timestamptz,
    runs bigint not null,
    failed bigint not null,
    few boolean not null,
    failed_in_a_row bigint not null,
    in_a_row boolean not null,
    -- Jobs that failed permanently in the 15 minutes, and from how many of them health warns.
    lost bigint not null,
    lost_limit integer not null,
    -- The runs of a group of errors that was first seen in the hour before, if there are 20 or more.
    new_runs bigint,
    new_since timestamptz,
    usual double precision,
    warning_share double precision,
    critical_share double precision,
    seen_runs bigint not null,
    seen_failed bigint not null,
    -- The key of the payload of which one value fails most, the share of its runs that failed, and a run that has the value;
    -- looked for when a verdict rises. The value itself is personal, and only the run has it.
    facet_key text,
    facet_share double precision,
    facet_token bigint,
    facet_at timestamptz
);

-- The locks of concurrency keys (slots from 0) and of names (slots below 0). A lock is a row lock, because row locks
-- need no shared memory, and because only the functions of the queue's owner reach these rows. Two keys in one slot
-- only delay each other.
create table if not exists job_locks (
    slot integer primary key
);
insert into job_locks select generate_series(-64, 4095) on conflict (slot) do nothing;

-- The row of job_locks that is the lock of a concurrency key.
create or replace function job_lock_slot(p_key text) returns integer
language sql immutable parallel safe
return hashtext(p_key) & 4095;

-- Takes the locks of these keys until the end of the transaction, those that are free, and returns their slots. Each claim and
-- report of a job with a key calls it, and the statement of a function in SQL would be planned each time.
create or replace function job_queue_try_locks(p_keys text[]) returns integer[]
language plpgsql volatile
set enable_seqscan = off
as $$
begin
    return array(
        select slot from job_locks where slot = any (array(
            select distinct job_lock_slot(k) from unnest(p_keys) k where k is not null))
        for update skip locked);
end
$$;

-- Waits for the lock of a name and holds it until the end of the transaction.
create or replace function job_queue_lock_name(p_name text) returns void
language sql volatile security definer
as $$
    select job_refuse_outsiders();
    select from job_locks where slot = -1 - (hashtext(p_name) & 63) for update
$$;

-- What is to be looked at again, each entry once: lines of concurrency keys, and blockers of waiting jobs. It is written in the
-- transaction that makes the look necessary. An open transaction may have hidden a job that joined a line, or that waits,
-- from the run that ended before it; or another transaction had the lock of a key or of its next job. Upkeep looks at
-- all, and with `due_at` the next claim from then on does.
create table if not exists job_recheck (
    concurrency_key text,
    blocker uuid,
    due_at timestamptz,
    -- A row with `walk` is a place: from that key or blocker, both as text in the first column, upkeep looks at the next lines,
    -- heads of lines or blockers.
    walk text
);
create index if not exists job_recheck_due on job_recheck (due_at) where due_at is not null;
create index if not exists job_recheck_walks on job_recheck (walk) where walk is not null;
alter table job_recheck replica identity full;
alter table job_recheck set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Requests to run one job next and alone. `id` is that of the request's row in the audit, `seen` the version of the job at
-- the request, and tokens of later runs are above `after_token`. With `run_token` a worker has taken the job.
create table if not exists job_canaries (
    id bigint primary key,
    job_id uuid not null unique,
    task_type text not null,
    fingerprint text,
    seen bigint not null,
    blocker uuid,
    after_token bigint not null,
    asked_by text not null,
    asked_at timestamptz not null default clock_timestamp(),
    run_token bigint
);
create unique index if not exists job_canaries_group on job_canaries (task_type, fingerprint);
create index if not exists job_canaries_open on job_canaries (task_type) where run_token is null;

-- Holds: jobs of a type that do not start while a key of their payload has a value (36). At most 100.
create table if not exists job_holds (
    number bigint generated always as identity primary key,
    -- No job has such an id: see job_is_hold.
    id uuid not null generated always as (('00000000-0000-8000-8000-' || lpad(to_hex(number), 12, '0'))::uuid) stored unique,
    task_type text not null,
    key text not null,
    -- Compared as JSON: the text "7" is not the number 7.
    value jsonb not null,
    reason text,
    held_by text not null,
    held_at timestamptz not null default clock_timestamp(),
    until timestamptz,
    -- One hold of each key of a type has this, so that a claim looks up each key once.
    leads boolean not null
);
create unique index if not exists job_holds_keys on job_holds (task_type, key) where leads;
-- By hash: to compare the value with those of a hundred holds takes longer. Not unique: an erasure may make two values one.
create index if not exists job_holds_values on job_holds using hash (value);

-- Notes to the next shift. One is shown until somebody acknowledges it, or until `until`.
create table if not exists job_notes (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    note text not null,
    until timestamptz not null,
    acknowledged_at timestamptz,
    acknowledged_by text
);
create index if not exists job_notes_at on job_notes (at);

-- Groups of errors that somebody has muted until a time.
create table if not exists job_error_mutes (
    task_type text not null,
    fingerprint text not null,
    until timestamptz not null,
    reason text,
    actor text not null,
    at timestamptz not null default clock_timestamp(),
    primary key (task_type, fingerprint)
);

-- Jobs that the database refuses to change, such as by a trigger of the application, each with the error: running ones that the
-- reaper could not take back, with their run token, and waiting ones that no claim could start, with their version. They
-- are tried again from retry_at on.
create table if not exists job_poison (
    job_id uuid primary key,
    run_token bigint,
    error text not null,
    since timestamptz not null default clock_timestamp(),
    retry_at timestamptz not null,
    version bigint
);

-- The parts of upkeep: how often each has to succeed, when it last did, and why it did not since. A worker locks the row
-- of the part that it does, so that each part is done by one worker at a time.
create table if not exists job_upkeep (
    part text primary key,
    every interval not null,
    succeeded_at timestamptz not null default clock_timestamp(),
    failed_at timestamptz,
    trouble text,
    -- Jobs that this part has set aside, because each attempt fails.
    set_aside integer not null default 0,
    -- Of the part 'recheck': the task types that could run when it was last done.
    open_types text[]
);
insert into job_upkeep (part, every) values ('lost', '10 s'), ('expired', '10 s'), ('recheck', '10 s'),
    ('pauses', '10 s'), ('prune', '2 min'), ('bulk', '10 s'), ('stats', '20 s'), ('backlog', '1 min'),
    ('retention', '8 hours'), ('partitions', '4 hours'), ('old partitions', '1 day')
on conflict (part) do nothing;

-- Alarms that were reported and are not over yet: one alert per incident, however many processes see it.
create table if not exists job_alarms (
    name text primary key,
    since timestamptz not null default clock_timestamp()
);

create table if not exists job_trash (
    job_id uuid primary key,
    job jsonb not null,
    deleted_at timestamptz not null default now(),
    deleted_by text not null,
    reason text
);
create index if not exists job_trash_deleted_at on job_trash (deleted_at);

-- Bulk actions: the jobs, frozen with their versions when they were chosen, and the answer for each. The client that
-- started the action carries out its batches, or any worker.
create table if not exists job_bulk (
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
    -- The last job that has its answer; batches follow the order of the ids.
    reached uuid,
    -- What an edit changes in each payload: {"set": {key: value}, "unset": [key]}.
    changes jsonb,
    -- The bulk edit whose jobs get their former payloads back.
    reverts uuid,
    constraint job_bulk_state_check check (state in ('chosen', 'running', 'finished', 'stopped')),
    constraint job_bulk_action_check check (action in ('retry', 'cancel', 'delete', 'restore', 'edit', 'revert')),
    constraint job_bulk_started_check check (state = 'chosen' or action is not null)
);
create index if not exists job_bulk_running on job_bulk (stepped_at) where state = 'running';
create index if not exists job_bulk_chosen_at on job_bulk (chosen_at);

create table if not exists job_bulk_items (
    bulk_id uuid not null references job_bulk (id) on delete cascade,
    job_id uuid not null,
    task_type text,
    seen bigint,
    ok boolean,
    code text,
    facts jsonb,
    status text,
    version bigint,
    primary key (bulk_id, job_id)
);
create index if not exists job_bulk_items_refused on job_bulk_items (bulk_id, job_id) where not ok;

create table if not exists job_audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    action text not null,
    job_id uuid,
    before jsonb,
    after jsonb,
    reason text
);
create index if not exists job_audit_job on job_audit (job_id) where job_id is not null;
create index if not exists job_audit_at on job_audit (at);
create index if not exists job_audit_copies on job_audit ((after ->> 'copy_of'), id) where action = 'run again';

-- Whether a program can read this time: neither infinite nor beyond the years 1 to 9999. Null is.
create or replace function job_is_a_time(p_time timestamptz) returns boolean
language sql immutable parallel safe
return p_time is null or p_time >= '0001-01-02 00:00+00'::timestamptz and p_time < '9999-12-31 00:00+00'::timestamptz;

-- Whether a job may have this priority.
create or replace function job_priority_fits(p_priority integer) returns boolean
language sql immutable parallel safe
return p_priority between -100 and 100;

-- Whether a series may have these slots.
create or replace function job_slots_fit(p_slots timestamptz[]) returns boolean
language sql immutable parallel safe
return p_slots is null or cardinality(p_slots) <= 1100
    and not exists (select from unnest(p_slots) s where s is null or not job_is_a_time(s));

-- Whether a job has exactly one rhythm if it is recurring (minutes, seconds or a cron expression), and else none. Slots
-- belong to a cron expression.
create or replace function job_schedule_fits(
    p_is_recurring boolean, p_minutes integer, p_schedule jsonb, p_slots timestamptz[]
) returns boolean
language sql immutable parallel safe
return case
    when not p_is_recurring then p_minutes is null and p_schedule is null
    when p_schedule is null then p_slots is null and coalesce(p_minutes between 1 and 52596000, false)
    else jsonb_typeof(p_schedule) = 'object' and coalesce(p_minutes between 1 and 52596000, true)
        and num_nonnulls(p_minutes, p_schedule ->> 'seconds', p_schedule ->> 'cron') = 1
        and coalesce(p_schedule ->> 'seconds' ~ '^[1-9][0-9]{0,8}$', true)
        and (p_schedule ->> 'cron' is null) = (p_schedule ->> 'zone' is null)
        and (p_schedule ->> 'cron' is null) = (p_slots is null)
        and coalesce(p_schedule ->> 'catch_up' in ('all', 'none'), true)
end;
