-- The hot row, the settings of the queue and of its task types. Their columns are added one by one, because the tables may be those
-- of the original application, whose rows are kept.

-- A claim changes `status` to `version` alone and leaves the new row on its page, so that the write-ahead log has these columns
-- and none before or behind them.
create table if not exists job_queue (
    id uuid primary key default gen_random_uuid(),
    task_type text not null,
    payload jsonb not null default '{}',
    is_recurring boolean not null default false,
    run_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    last_error text,
    output jsonb,
    completed_at timestamptz,
    recurrence_interval_minutes integer,
    expires_at timestamptz,
    last_run_at timestamptz,
    max_attempts integer not null default 5,
    status text not null default 'pending',
    attempts integer not null default 0,
    updated_at timestamptz not null default now()
);

alter table job_queue
    add column if not exists run_token bigint,
    add column if not exists lease_expires_at timestamptz,
    add column if not exists started_at timestamptz,
    add column if not exists locked_by text,
    add column if not exists version bigint not null default 1,
    add column if not exists priority integer not null default 0,
    add column if not exists cycle integer not null default 0,
    add column if not exists consecutive_failures integer not null default 0,
    -- Is not in the index of claims because of its concurrency key, whether or not a job is ahead of it. It says something
    -- only of a pending job without a blocker. job_queue_advance_lines and what it calls take the job out of the line.
    add column if not exists in_line boolean not null default false,
    -- Claimed while its type had a limit.
    add column if not exists limited boolean,
    add column if not exists dedupe_key text,
    add column if not exists concurrency_key text,
    add column if not exists blocked_by uuid,
    add column if not exists checkpoint jsonb,
    add column if not exists progress jsonb,
    add column if not exists cancel_requested_at timestamptz,
    add column if not exists cancel_requested_by text,
    add column if not exists anchor_at timestamptz,
    add column if not exists last_outcome text,
    add column if not exists last_success_at timestamptz,
    add column if not exists created_by text,
    -- The slot of a series that a retry or a continued run still serves; null where that is `run_at`.
    add column if not exists slot_at timestamptz,
    -- The group of errors of the newest run that failed, or put the job off for a payload of a newer program, until a run
    -- succeeds or somebody retries the job.
    add column if not exists fingerprint text,
    -- Whether the newest run that ended changed nothing; null before the first one that this schema knows of.
    add column if not exists last_run_dry boolean,
    -- What an interval in minutes cannot say of a series, else null: `cron` with its `zone`, or `seconds`; `catch_up` if it
    -- is not "one"; `name` if a program declares it.
    add column if not exists schedule jsonb,
    -- The next times of a cron expression, in order. Workers write them, so that the database needs no parser.
    add column if not exists slots timestamptz[],
    -- Of a running job whose key may have several: its place among them, null for the first.
    add column if not exists key_place smallint;
-- After the column: with it, Postgres 15 refuses the default where a function takes a row of the table.
alter table job_queue alter column limited set default false;

-- Traces. `trace_context` is the span that enqueued the job, as a `traceparent` of W3C Trace Context. A producer names it in
-- the setting jobdeck.traceparent of its transaction, so that inserts by hand, COPY and every function carry it; anything
-- else in the setting is left out. `run_trace` is the span of the newest run, unless that succeeded or was lost. Workers
-- that record traces read both after a claim. The default comes after the column, which so is null in the jobs of before.
alter table job_queue
    add column if not exists trace_context text,
    add column if not exists run_trace text;
alter table job_queue alter column trace_context set default substring(
    current_setting('jobdeck.traceparent', true) from '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$');

-- Ids rise with time (the layout of UUID version 7, with microseconds in the 12 bits behind the version), so that
-- jobs enqueued together run first in, first out, and inserts touch one end of each index. Built-in functions only,
-- so that a role that may insert needs no other right. Bytes instead of text, because text functions check the length
-- of each character, which doubles the time. The clock is read once: two readings may be in different milliseconds.
alter table job_queue alter column id set default encode(
    overlay(uuid_send(gen_random_uuid()) placing decode(
        overlay('0' || to_hex((date_part('epoch', clock_timestamp()) * 1000 * 4096)::bigint) placing '7' from 13 for 0),
        'hex') from 1 for 8),
    'hex')::uuid;

-- Every change of status writes a new index entry, so vacuum early and often.
alter table job_queue set (
    fillfactor = 45,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.2, autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);

create sequence if not exists job_run_token_seq as bigint;

-- The timeouts of those jobs that were enqueued with one of their own. Beside the row, which every claim and report writes again.
create table if not exists job_timeouts (
    job_id uuid primary key,
    seconds double precision not null
);

create table if not exists job_queue_settings (
    id integer primary key default 1 constraint job_queue_settings_singleton check (id = 1),
    processing_enabled boolean not null default true,
    paused_reason text,
    updated_at timestamptz not null default now()
);
alter table job_queue_settings
    add column if not exists paused_by text,
    add column if not exists paused_at timestamptz,
    add column if not exists resume_at timestamptz,
    add column if not exists trigger_minutes integer not null default 5
        constraint job_queue_settings_trigger_check check (trigger_minutes between 1 and 1440),
    -- Runs that were reported before are not in job_stats.
    add column if not exists stats_since timestamptz not null default now(),
    -- Who has the queue in place of the workers, and until when, in words; null if the workers have it.
    add column if not exists held_by text;
insert into job_queue_settings (id) values (1) on conflict (id) do nothing;

-- The queues of which all types are paused, also those that join later.
create table if not exists job_paused_queues (
    queue text primary key,
    reason text,
    paused_by text,
    paused_at timestamptz not null default clock_timestamp(),
    resume_at timestamptz
);

-- The settings of task types. A type is paused while `paused_at` is set. The shares of failed runs from which health
-- warns and is critical, and the number of jobs that failed permanently in 15 minutes, are null for the rule that holds for
-- all types.
create table if not exists job_types (
    task_type text primary key,
    paused_reason text,
    paused_by text,
    paused_at timestamptz,
    resume_at timestamptz,
    warning_share double precision,
    critical_share double precision,
    lost_jobs integer,
    muted_until timestamptz,
    muted_by text,
    muted_reason text,
    -- Left to a runner that is no worker of this program: paused for the workers, with no time to resume.
    set_aside boolean not null default false,
    -- Which jobs of the type may not run at the same time: type, payload:KEY or key:NAME; null if all may. Workers write it.
    concurrency text,
    -- Jobs that were enqueued before the rule may have no key yet.
    keyless boolean not null default false,
    max_running integer,
    -- At most rate_runs runs start in rate_seconds, on average, and rate_burst of them (null: those of a second) at once.
    rate_runs integer,
    rate_seconds integer,
    rate_burst integer,
    -- How many jobs with the same concurrency key run at the same time; null for one. The same kind of rate for each key.
    max_per_key integer,
    key_rate_runs integer,
    key_rate_seconds integer,
    -- One-time jobs that are enqueued without an expiry expire so long after they are due.
    max_age_seconds integer,
    -- The priority of jobs that are enqueued without one.
    priority integer,
    -- The queue that the type is in, which workers may be started for; null for "default".
    queue text,
    limited boolean not null generated always as (max_running is not null or rate_runs is not null) stored,
    -- When the type got its first limit.
    limited_at timestamptz,
    -- Until when the runs that have started use up the rate. A run adds the time that the rate leaves between two runs.
    rate_until timestamptz
-- Claims update the rows of types with a rate, and all claims read the table.
) with (fillfactor = 50);

-- Where the limits and the priority of a type in job_types come from, by the names of its columns: what its code says, as a
-- worker of a release declared it, and what operators set; null is none. An operator's value holds, else the code's.
create table if not exists job_type_values (
    task_type text primary key,
    code jsonb not null default '{}',
    release text,
    declared_at timestamptz,
    own jsonb not null default '{}'
);
