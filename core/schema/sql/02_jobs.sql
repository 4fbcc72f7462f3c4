create table if not exists job_queue (
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
    last_run_at timestamptz
);

alter table job_queue
    add column if not exists priority integer not null default 0,
    add column if not exists dedupe_key text,
    add column if not exists concurrency_key text,
    -- Waits behind another job with its concurrency key, and so is not in the index that claims read.
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
    add column if not exists version bigint not null default 1,
    -- The slot of a series that a retry or a continued run still serves; null where that is `run_at`.
    add column if not exists slot_at timestamptz,
    -- Of the newest failed run, until a run succeeds or somebody retries the job: its group of errors.
    add column if not exists fingerprint text,
    -- Whether the newest run that ended changed nothing; null before the first one that this schema knows of.
    add column if not exists last_run_dry boolean,
    -- What an interval in minutes cannot say of a series, else null: `cron` with its `zone`, or `seconds`; `catch_up` if it
    -- is not "one"; `name` if a program declares it.
    add column if not exists schedule jsonb,
    -- The next times of a cron expression, in order. Workers write them, so that the database needs no parser.
    add column if not exists slots timestamptz[];

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
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.2, autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);

create sequence if not exists job_run_token_seq as bigint;

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
    -- Who takes jobs: the workers of this program, or the earlier runner that an application had before.
    add column if not exists runner text not null default 'jobdeck'
        constraint job_queue_settings_runner_check check (runner in ('jobdeck', 'earlier')),
    -- Since when the earlier runner cannot come back.
    add column if not exists earlier_left_at timestamptz;
alter table job_queue_settings drop column if exists pruned_at;
insert into job_queue_settings (id) values (1) on conflict (id) do nothing;

-- The settings of task types. A type is paused while `paused_at` is set. The shares of failed runs from which health
-- warns and is critical are null for the rule that holds for all types. Claims read only the pause.
create table if not exists job_types (
    task_type text primary key,
    paused_reason text,
    paused_by text,
    paused_at timestamptz,
    resume_at timestamptz
);
alter table job_types
    add column if not exists warning_share double precision,
    add column if not exists critical_share double precision,
    add column if not exists muted_until timestamptz,
    add column if not exists muted_by text,
    add column if not exists muted_reason text,
    -- Left to a runner that is no worker of this program: paused for the workers, with no time to resume.
    add column if not exists set_aside boolean not null default false,
    -- Which jobs of the type may not run at the same time: type, payload:KEY or key:NAME; null if all may. Workers write it.
    add column if not exists concurrency text,
    -- Jobs that were enqueued before the rule may have no key yet.
    add column if not exists keyless boolean not null default false;

-- The paused types. Programs of 0.1.0 that run during an upgrade read them under this name, too.
create or replace view job_paused_types as
select task_type, paused_reason as reason, paused_by, paused_at, resume_at, set_aside
from job_types where paused_at is not null and (select job_may_read_views())
with check option;

-- An earlier schema has the history of runs as one table, which becomes the first partition.
do $$
declare
    v_reader text;
    v_name name;
begin
    if not exists (select from pg_class where oid = to_regclass('job_runs') and relkind = 'r') then
        return;
    end if;
    -- They would read the first partition alone.
    select u.reader into v_reader from (
        select format('view %s', r.ev_class::regclass) as reader
        from pg_depend d join pg_rewrite r on r.oid = d.objid and d.classid = 'pg_rewrite'::regclass
        where d.refclassid = 'pg_class'::regclass and d.refobjid = 'job_runs'::regclass
            and coalesce(r.ev_class <> all (array[to_regclass('job_run_list'), to_regclass('job_removed_list'),
                to_regclass('job_flow_member_list')]::oid[]), true)
        union all
        select format('trigger %I', t.tgname) from pg_trigger t
        where t.tgrelid = 'job_runs'::regclass and not t.tgisinternal and t.tgname <> 'jobdeck_refuse_truncate'
        union all
        select format('foreign key %I', k.conname) from pg_constraint k
        where k.confrelid = 'job_runs'::regclass and k.contype = 'f') u
    limit 1;
    if v_reader is not null then
        raise exception using errcode = 'JD001', message = format('The %s of your own uses the table job_runs, which '
            'becomes partitioned. Drop it, run "jobdeck init", then create it again.', v_reader);
    end if;
    alter table job_runs
        add column if not exists concurrency_key text,
        add column if not exists dedupe_key text,
        add column if not exists created_by text,
        add column if not exists dry_run boolean;
    -- Without `jobdeck init`, the migrations 008 and 009 have not done it.
    if not exists (select from pg_constraint where conrelid = 'job_runs'::regclass
        and conname = 'job_runs_outcome_check' and convalidated and pg_get_constraintdef(oid) like '%snoozed%') then
        alter table job_runs drop constraint if exists job_runs_outcome_check;
        alter table job_runs add constraint job_runs_outcome_check check (outcome in ('succeeded', 'partial',
            'continued', 'retried', 'failed', 'cancelled', 'released', 'snoozed', 'lost', 'abandoned'));
    end if;
    drop index if exists job_runs_sample;
    -- It has the type of the table as argument.
    if to_regtype('job_runs') is not null then
        drop function if exists job_stat_move_error(job_runs, text);
    end if;
    for v_name in select i.relname from pg_index x join pg_class i on i.oid = x.indexrelid
        where x.indrelid = 'job_runs'::regclass and starts_with(i.relname, 'job_runs')
    loop
        execute format('alter index %I rename to %I', v_name, 'job_runs_0' || substr(v_name, length('job_runs') + 1));
    end loop;
    -- From Postgres 18 on, these constraints have names, which the new table gets.
    for v_name in select k.conname from pg_constraint k where k.conrelid = 'job_runs'::regclass and k.contype = 'n' loop
        execute format('alter table job_runs rename constraint %I to %I', v_name, v_name || '_0');
    end loop;
    alter table job_runs rename to job_runs_0;
end
$$;

