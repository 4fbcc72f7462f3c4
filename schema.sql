-- jobdeck schema version 5
-- serves programs from 0.2.0
--
-- The queue. Safe to run again: rows and columns are kept. Runs in one transaction (psql --single-transaction) on
-- Postgres 15 and later, and needs no extension.
--
-- Only the functions of this file change the status of a job. Errors for people have SQLSTATE JD001 and a sentence as
-- message; every other error is a defect.
--
--   1 tables        4 clauses of the claim    7 reaper               10 reading
--   2 old rows      5 claim, heartbeat        8 operators' actions   11 retention, erasure
--   3 enqueue       6 finish                  9 processing switch    12 statistics
--   13 flows        14 schedules              15 producers           16 roles
--   limits of task types are before section 4

set local client_min_messages = warning;

-- All objects are created in the first schema of the search path, which the installer sets, and each function uses that
-- schema only ("set search_path from current"). No statement names it, so that one database can have several queues.
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-------------------------------------------------------------------------------------------------------
-- 1. Tables
-------------------------------------------------------------------------------------------------------

-- An application's own tables of these names are not touched. Three of them may be a predecessor's.
do $$
declare
    v_trouble text;
begin
    if to_regclass('jobdeck_schema') is not null then
        return;
    end if;
    select format('%s, which is not Jobdeck''s', t) into v_trouble
    from unnest(array['job_types', 'job_paused_types', 'job_canaries', 'job_notes', 'job_error_mutes', 'job_runs',
        'job_workers', 'job_alarms', 'job_trash', 'job_bulk', 'job_bulk_items', 'job_audit', 'job_stats',
        'job_stat_delta', 'job_stat_times', 'job_stat_errors', 'job_error_groups', 'job_failing_types', 'job_backlog',
        'job_releases', 'job_key_rates', 'job_unique_keys', 'job_flows', 'job_flow_members', 'job_dependencies',
        'job_producers', 'job_producer_keys', 'job_awaited', 'job_run_partitions', 'job_runs_0',
        'job_runs_10000000']) t
    where to_regclass(t) is not null limit 1;
    select coalesce(v_trouble, format('%s without the column %s of type %s, so it is not Jobdeck''s', t.name,
        split_part(c, ' ', 1), split_part(c, ' ', 2)))
    into v_trouble
    from (values
        ('job_queue', 'id uuid, task_type text, payload jsonb, status text, run_at timestamptz, attempts integer, '
            'max_attempts integer, last_error text, output jsonb, created_at timestamptz, updated_at timestamptz, '
            'completed_at timestamptz, is_recurring boolean, recurrence_interval_minutes integer, '
            'expires_at timestamptz, last_run_at timestamptz'),
        ('job_queue_settings', 'id integer, processing_enabled boolean, paused_reason text, updated_at timestamptz'),
        ('job_worker_runs', 'id uuid, started_at timestamptz, completed_at timestamptz, source text, http_method text, '
            'user_agent text, status text, processed integer, succeeded integer, failed integer, message text, '
            'error_message text, results jsonb')
    ) as t (name, columns), string_to_table(t.columns, ', ') as c
    where v_trouble is not null or to_regclass(t.name) is not null and not exists (
        select from pg_attribute a where a.attrelid = to_regclass(t.name) and a.attname = split_part(c, ' ', 1)
            and a.atttypid = to_regtype(split_part(c, ' ', 2)) and a.attnum > 0 and not a.attisdropped)
    limit 1;
    if v_trouble is not null then
        raise exception using errcode = 'JD001', message = format(
            'The schema %s has a table %s. Install the queue into a schema of its own: "jobdeck init --schema NAME".',
            current_schema(), v_trouble);
    end if;
end
$$;

-- One row per version of each component (the queue, and each plugin). Programs before 0.2.0 read only `version`.
-- `jobdeck init` writes the other columns: the checksum of the SQL, the objects that it created, the oldest program
-- that works with them, and the migrations that were run.
create table if not exists jobdeck_schema (
    version integer not null,
    installed_at timestamptz not null default now()
);
alter table jobdeck_schema
    add column if not exists component text not null default 'queue',
    add column if not exists checksum text,
    add column if not exists catalog jsonb,
    add column if not exists serves_from text,
    add column if not exists migrations integer[];
create unique index if not exists jobdeck_schema_component on jobdeck_schema (component, version);

-- Guards. Hosts of managed Postgres give all tables, views and functions to the roles behind their public key, by default
-- or by a later grant on everything. The rights of the groups are in section 13.

do $$
begin
    if to_regprocedure('job_roles_prefix()') is null then
        create function job_roles_prefix() returns text language sql immutable return 'job_';
    end if;
end
$$;

-- Whether the host's own roles have rights in this schema, or get them on what is created in it.
create or replace function job_has_foreign_roles() returns boolean
language sql stable parallel safe
set search_path from current
as $$
    select exists (
        select from pg_roles r join (
            select (aclexplode(d.defaclacl)).grantee from pg_default_acl d
            where d.defaclnamespace in (0, quote_ident(current_schema())::regnamespace)
            union all
            select (aclexplode(n.nspacl)).grantee from pg_namespace n where n.nspname = current_schema()) g
            on g.grantee = r.oid
        where r.rolname in ('anon', 'authenticated', 'service_role'))
$$;

-- Whether the current role may read the views. They read with their owner's rights, so no row security holds there: beside
-- the host's own roles, only the owner and members of the groups get rows, whatever was granted on the views.
create or replace function job_may_read_views() returns boolean
language sql stable parallel safe
set search_path from current
as $$
    select pg_has_role((select c.relowner from pg_class c where c.oid = 'jobdeck_schema'::regclass), 'usage')
        or not job_has_foreign_roles()
        or exists (
            select from pg_roles r, unnest(array['viewer', 'operator', 'worker']) t
            where r.rolname = job_roles_prefix() || t and pg_has_role(r.oid, 'usage'))
$$;

-- Whether a role of the public key calls, even if somebody granted it all functions. In a function with its owner's rights,
-- the caller is the role of the session or of SET ROLE. Triggers of the application's tables run under these roles, too,
-- and may enqueue.
create or replace function job_is_outsider() returns boolean
language sql stable parallel safe
return coalesce(nullif(current_setting('role'), 'none'), session_user) in ('anon', 'authenticated')
    and pg_trigger_depth() = 0;

-- Refuses a call by such a role. The functions that are called for each job ask first, because the call of this one costs
-- as much as some of their statements.
create or replace function job_refuse_outsiders() returns void
language plpgsql stable parallel safe
set search_path from current
as $$
begin
    if job_is_outsider() then
        raise exception using errcode = 'insufficient_privilege', message = format(
            'The role %s may not call the functions of the queue. Call them under another role.',
            coalesce(nullif(current_setting('role'), 'none'), session_user));
    end if;
end
$$;

-- Row security does not hold TRUNCATE, which a grant of everything includes.
create or replace function job_refuse_truncate() returns trigger
language plpgsql
set search_path from current
as $$
begin
    if not pg_has_role((select c.relowner from pg_class c where c.oid = tg_relid), 'usage') then
        raise exception using errcode = 'insufficient_privilege', message = format(
            'Only the owner may empty the table %s.', tg_table_name);
    end if;
    return null;
end
$$;

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

-- One row per run, appended and never updated. `late` marks the report of a worker that came back after its run had
-- been recorded as `lost` in a row of its own.
create table if not exists job_runs (
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
    -- Of a job that left the queue with this run: its keys, so that a copy of it keeps them, and who enqueued it.
    concurrency_key text,
    dedupe_key text,
    created_by text,
    -- A run that changed nothing; null in a run that was reported to an earlier schema.
    dry_run boolean,
    primary key (run_token, late),
    constraint job_runs_late_check check (late = (outcome = 'abandoned')),
    constraint job_runs_outcome_check check (outcome in ('succeeded', 'partial', 'continued', 'retried', 'failed',
        'cancelled', 'released', 'snoozed', 'lost', 'abandoned'))
) partition by range (run_token);
create index if not exists job_runs_job on job_runs (job_id, run_token);
create index if not exists job_runs_removed on job_runs (finished_at) where removed;
-- For how many rows one row of the sample stands: half of the sample for 64, a quarter for 128, and so on up to 16384.
-- Of the rows that stand for at least 64 * n, there are 1 in 64 * n of all, so an estimate of any number reads few of them.
-- The indexes of the sample have the same expression written out, so that who inserts needs no right on this function.
create or replace function job_sample_step(p_hash integer) returns integer
language sql immutable parallel safe
return (p_hash & 16383 | 16384) & -(p_hash & 16383 | 16384);

-- One run in 64, chosen by its token alone; `job_sample_count` reads it.
create index if not exists job_runs_drawn on job_runs (
        ((hashint8(run_token) & 16383 | 16384) & -(hashint8(run_token) & 16383 | 16384)), run_token)
    where removed and hashint8(run_token) & 63 = 0;
create index if not exists job_runs_troubled on job_runs (finished_at)
    where outcome in ('failed', 'retried', 'lost');

-- The partitions of the history that get no more runs: all their tokens are drawn, and none of them holds a job. The
-- last of their runs was recorded before `closed_at`.
create table if not exists job_run_partitions (
    name text primary key,
    closed_at timestamptz not null default clock_timestamp()
);

-- The partitions of the history and their ranges: from first_token to before next_token, and null where it is open.
create or replace function job_run_ranges() returns table (name name, first_token bigint, next_token bigint)
language sql stable
set search_path from current
as $$
    select c.relname, (regexp_match(b.bound, $re$FROM \('(-?\d+)'\)$re$))[1]::bigint,
        (regexp_match(b.bound, $re$TO \('(-?\d+)'\)$re$))[1]::bigint
    from pg_partition_tree('job_runs') t join pg_class c on c.oid = t.relid
    cross join lateral (select pg_get_expr(c.relpartbound, c.oid)) as b (bound)
    where t.level = 1
$$;

-- Takes all rights on a partition from others, which some hosts give on every new table: the rights on job_runs are
-- those that count. Row security holds as on job_runs.
create or replace function job_run_guard(p_name name) returns void
language plpgsql volatile
set search_path from current
as $$
declare
    v_table constant regclass := quote_ident(p_name)::regclass;
    v_name text;
begin
    for v_name in
        select distinct case a.grantee when 0 then 'PUBLIC' else quote_ident(pg_get_userbyid(a.grantee)) end
        from (
            select c.relowner as owner, c.relacl as acl from pg_class c where c.oid = v_table
            union all select c.relowner, t.attacl from pg_class c join pg_attribute t on t.attrelid = c.oid
            where c.oid = v_table and not t.attisdropped) as o
        cross join aclexplode(o.acl) a where a.grantee <> o.owner
    loop
        execute format('revoke all on %s from %s', v_table, v_name);
    end loop;
    for v_name in select p.polname from pg_policy p where p.polrelid = v_table loop
        execute format('drop policy %I on %s', v_name, v_table);
    end loop;
    if (select p.relrowsecurity and not c.relrowsecurity from pg_class p, pg_class c
        where p.oid = 'job_runs'::regclass and c.oid = v_table)
    then
        execute format('alter table %s enable row level security', v_table);
    end if;
    if exists (select from pg_trigger where tgrelid = 'job_runs'::regclass and tgname = 'jobdeck_refuse_truncate')
        and not exists (select from pg_trigger where tgrelid = v_table and tgname = 'jobdeck_refuse_truncate')
    then
        execute format('create trigger jobdeck_refuse_truncate before truncate on %s for each statement execute function '
            'job_refuse_truncate()', v_table);
    end if;
end
$$;

-- Makes a table for a partition of the history. Its indexes are named as those of job_runs.
create or replace function job_run_make(p_name name) returns void
language plpgsql volatile
set search_path from current
as $$
begin
    execute format('create table %I (like job_runs including all)', p_name);
    execute format('alter table %I set (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1)',
        p_name);
    perform job_run_guard(p_name);
end
$$;

-- Makes a table a partition of the history, for the tokens from p_first to before p_next; null leaves an end open.
create or replace function job_run_attach(p_name name, p_first bigint, p_next bigint) returns void
language plpgsql volatile
set search_path from current
as $$
declare
    v_index record;
begin
    execute format('alter table job_runs attach partition %I for values from (%s) to (%s)', p_name,
        coalesce(quote_literal(p_first), 'minvalue'), coalesce(quote_literal(p_next), 'maxvalue'));
    for v_index in
        select i.relname as name, p_name || substr(p.relname, length('job_runs') + 1) as wanted
        from pg_index x join pg_class i on i.oid = x.indexrelid
            join pg_class p on p.oid = pg_partition_root(x.indexrelid)
        where x.indrelid = quote_ident(p_name)::regclass
    loop
        if v_index.name <> v_index.wanted then
            execute format('alter index %I rename to %I', v_index.name, v_index.wanted);
        end if;
    end loop;
end
$$;

-- The first partition. What the owner granted on the table of an earlier schema holds on the partitioned one.
do $$
declare
    v_right record;
    v_owner text;
begin
    if exists (select from job_run_ranges()) then
        return;
    end if;
    if to_regclass('job_runs_0') is null then
        perform job_run_make('job_runs_0');
        perform job_run_attach('job_runs_0', null, null);
        return;
    end if;
    select quote_ident(pg_get_userbyid(o.relowner)) into v_owner from pg_class o, pg_class n
    where o.oid = 'job_runs_0'::regclass and n.oid = 'job_runs'::regclass and o.relowner <> n.relowner;
    if v_owner is not null then
        execute format('alter table job_runs owner to %s', v_owner);
    end if;
    for v_right in
        select k.conname from pg_constraint k where k.conrelid = 'job_runs_0'::regclass and k.contype = 'n'
    loop
        execute format('alter table job_runs_0 rename constraint %I to %I', v_right.conname,
            regexp_replace(v_right.conname, '_0$', ''));
    end loop;
    for v_right in
        select case a.grantee when 0 then 'PUBLIC' else quote_ident(pg_get_userbyid(a.grantee)) end as grantee,
            a.privilege_type, case when a.is_grantable then ' with grant option' else '' end as option
        from pg_class c cross join aclexplode(c.relacl) a where c.oid = 'job_runs_0'::regclass and a.grantee <> c.relowner
    loop
        execute format('grant %s on job_runs to %s%s', v_right.privilege_type, v_right.grantee, v_right.option);
    end loop;
    for v_right in
        select p.polname, case when p.polpermissive then 'permissive' else 'restrictive' end as kind,
            case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
                else 'all' end as command,
            (select string_agg(case r when 0 then 'PUBLIC' else quote_ident(pg_get_userbyid(r)) end, ', ')
                from unnest(p.polroles) r) as roles,
            ' using (' || pg_get_expr(p.polqual, p.polrelid) || ')' as checked,
            ' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')' as written
        from pg_policy p where p.polrelid = 'job_runs_0'::regclass
    loop
        execute format('create policy %I on job_runs as %s for %s to %s%s%s', v_right.polname, v_right.kind,
            v_right.command, v_right.roles, v_right.checked, v_right.written);
    end loop;
    if (select c.relrowsecurity from pg_class c where c.oid = 'job_runs_0'::regclass) then
        alter table job_runs enable row level security;
    end if;
    if (select c.relforcerowsecurity from pg_class c where c.oid = 'job_runs_0'::regclass) then
        alter table job_runs force row level security;
    end if;
    if exists (select from pg_trigger where tgrelid = 'job_runs_0'::regclass and tgname = 'jobdeck_refuse_truncate') then
        create trigger jobdeck_refuse_truncate before truncate on job_runs for each statement
            execute function job_refuse_truncate();
    end if;
    perform job_run_guard('job_runs_0');
    perform job_run_attach('job_runs_0', null, null);
end
$$;

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
    -- The role that signed in; null for a row of version 2 or before. Only this role changes the row.
    add column if not exists opened_by text,
    add column if not exists noted_at timestamptz;
alter table job_worker_runs alter column opened_by set default session_user;
create index if not exists idx_job_worker_runs_started_at_desc on job_worker_runs (started_at desc);
drop index if exists job_worker_runs_scheduled;
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
    heartbeat_at timestamptz not null default now()
);

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
alter table job_stat_delta set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Finished runs by the time of their end. `minutes` is the length of a bucket: 1 (kept for a day, without counts of bins),
-- 5, 15, 120 or 480, so that a read of any window adds up few rows; 0 for all runs ever (kept, without counts of bins),
-- because a counter of a monitor must not become smaller.
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
    waits integer[],
    durations integer[],
    primary key (minutes, bucket, task_type, outcome, dry_run)
) with (fillfactor = 70);

-- Waits and durations of all runs ever, without dry runs: the counts of bins and the sums. Kept, because the histograms of a
-- monitor must not become smaller.
create table if not exists job_stat_times (
    task_type text not null,
    outcome text not null,
    waits bigint[] not null,
    durations bigint[] not null,
    wait_seconds double precision not null,
    duration_seconds double precision not null,
    primary key (task_type, outcome)
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

-- The task types of which too many runs fail, as job_stats_judge found them. `calm_since`: since when the share is below half
-- of the threshold of the verdict; after 15 minutes of this the verdict ends. `in_a_row`: too few runs ended to judge their
-- share, but the last ones failed.
create table if not exists job_failing_types (
    task_type text primary key,
    verdict text not null constraint job_failing_types_verdict_check check (verdict in ('warning', 'critical')),
    since timestamptz not null,
    calm_since timestamptz,
    runs bigint not null,
    failed bigint not null,
    failed_in_a_row bigint not null,
    in_a_row boolean not null,
    usual double precision not null,
    threshold double precision not null,
    judged_at timestamptz not null
);

-- The locks of concurrency keys (slots from 0) and of names (slots below 0). A lock is a row lock, because row locks
-- need no shared memory, and because only the functions of the queue's owner reach these rows. Two keys in one slot
-- only delay each other.
create table if not exists job_locks (
    slot integer primary key
);
insert into job_locks select generate_series(-64, 4095) on conflict (slot) do nothing;

-- Concurrency keys whose line could not be advanced, because another transaction had the lock of the key or of the next
-- job. Claims try them again.
create table if not exists job_lines_due (
    concurrency_key text not null,
    retry_at timestamptz not null
);
-- What an open transaction may have hidden from the run that ended before it: lines that a new job joined, and blockers
-- of waiting jobs. Written in the transaction that makes the check necessary; upkeep checks each entry once.
create table if not exists job_recheck (
    concurrency_key text,
    blocker uuid
);
-- A row with `walk` is a place: from there upkeep looks at the next lines, heads of lines or blockers.
alter table job_recheck add column if not exists walk text;
create index if not exists job_recheck_walks on job_recheck (walk) where walk is not null;
alter table job_lines_due set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
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

-- Running jobs that the reaper could not take back, each with the error. They are tried again after 10 minutes.
create table if not exists job_poison (
    job_id uuid primary key,
    run_token bigint not null,
    error text not null,
    since timestamptz not null default clock_timestamp(),
    retry_at timestamptz not null
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
    set_aside integer not null default 0
);
-- Of the part 'recheck': the task types that could run when it was last done.
alter table job_upkeep add column if not exists open_types text[];
insert into job_upkeep (part, every) values ('lost', '10 s'), ('expired', '10 s'), ('recheck', '10 s'),
    ('pauses', '10 s'), ('prune', '2 min'), ('bulk', '10 s'), ('stats', '20 s'), ('partitions', '4 hours'),
    ('old partitions', '1 day')
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
    constraint job_bulk_state_check check (state in ('chosen', 'running', 'finished', 'stopped')),
    constraint job_bulk_action_check check (action in ('retry', 'cancel', 'delete', 'restore', 'edit', 'revert')),
    constraint job_bulk_started_check check (state = 'chosen' or action is not null)
);
-- The last job that has its answer; batches follow the order of the ids.
alter table job_bulk add column if not exists reached uuid;
-- What an edit changes in each payload: {"set": {key: value}, "unset": [key]}.
alter table job_bulk add column if not exists changes jsonb;
-- The bulk edit whose jobs get their former payloads back.
alter table job_bulk add column if not exists reverts uuid;
do $$
begin
    if not exists (select from pg_constraint where conrelid = to_regclass('job_bulk')
        and conname = 'job_bulk_action_check' and pg_get_constraintdef(oid) like '%revert%')
    then
        alter table job_bulk drop constraint if exists job_bulk_action_check,
            add constraint job_bulk_action_check
                check (action in ('retry', 'cancel', 'delete', 'restore', 'edit', 'revert'));
    end if;
end
$$;
create index if not exists job_bulk_running on job_bulk (stepped_at) where state = 'running';
create index if not exists job_bulk_chosen_at on job_bulk (chosen_at);

create table if not exists job_bulk_items (
    bulk_id uuid not null references job_bulk (id) on delete cascade,
    job_id uuid not null,
    task_type text,
    seen bigint,
    ok boolean,
    message text,
    status text,
    version bigint,
    primary key (bulk_id, job_id)
);
-- `message` has the answers of version 1, which were sentences.
alter table job_bulk_items
    add column if not exists code text,
    add column if not exists facts jsonb;
-- A batch begins behind `reached`: an index of the jobs without an answer would hold one dead entry per answer.
drop index if exists job_bulk_items_open;
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

-- Whether a job has exactly one rhythm if it is recurring (minutes, seconds or a cron expression), and else none. Slots
-- belong to a cron expression.
create or replace function job_schedule_fits(
    p_is_recurring boolean, p_minutes integer, p_schedule jsonb, p_slots timestamptz[]
) returns boolean
language sql immutable parallel safe
set search_path from current
return case
    when not p_is_recurring then p_minutes is null and p_schedule is null
    when p_schedule is null then p_slots is null and coalesce(p_minutes > 0, false)
    else jsonb_typeof(p_schedule) = 'object' and coalesce(p_minutes > 0, true)
        and num_nonnulls(p_minutes, p_schedule ->> 'seconds', p_schedule ->> 'cron') = 1
        and coalesce(p_schedule ->> 'seconds' ~ '^[1-9][0-9]{0,8}$', true)
        and (p_schedule ->> 'cron' is null) = (p_schedule ->> 'zone' is null)
        and (p_schedule ->> 'cron' is null) = (p_slots is null)
        and coalesce(p_schedule ->> 'catch_up' in ('all', 'none'), true)
end;

-------------------------------------------------------------------------------------------------------
-- 2. Rows from before the queue had leases, and constraints over them
-------------------------------------------------------------------------------------------------------

update job_queue
set run_token = nextval('job_run_token_seq'), locked_by = coalesce(locked_by, 'an earlier runner'),
    lease_expires_at = updated_at + interval '20 minutes', started_at = coalesce(started_at, updated_at),
    anchor_at = case when is_recurring then coalesce(anchor_at, run_at) end
where status = 'running' and run_token is null;

do $$
begin
    if not exists (select from pg_trigger where tgrelid = 'job_queue'::regclass and tgname = 'job_queue_inserted')
        and not exists (select from pg_constraint where conrelid = 'job_queue'::regclass
            and conname = 'job_queue_times_check')
    then
        -- Times that no clock reaches, and that programs cannot read. An upgrade corrects them before this
        -- transaction, because this reads the whole table.
        update job_queue set run_at = case when job_is_a_time(run_at) then run_at else now() end,
            expires_at = case when job_is_a_time(expires_at) then expires_at end,
            anchor_at = case when job_is_a_time(anchor_at) then anchor_at end, version = version + 1
        where coalesce(current_setting('jobdeck.times_corrected', true), '') <> 'on'
            and not (job_is_a_time(run_at) and job_is_a_time(expires_at) and job_is_a_time(anchor_at));
        -- Schemas before version 3 did not record what has to be checked again.
        insert into job_recheck (concurrency_key) select distinct concurrency_key from job_queue
        where status = 'pending' and blocked_by is null and in_line;
        insert into job_recheck (blocker) select distinct blocked_by from job_queue
        where status = 'pending' and blocked_by is not null;
    end if;
    -- The function job_queue_after_write refuses what these refused.
    if exists (select from pg_constraint where conrelid = 'job_queue'::regclass and conname in ('job_queue_status_check',
        'job_queue_attempts_check', 'job_queue_times_check', 'job_queue_recurrence_check', 'job_queue_lease_check',
        'job_queue_priority_check'))
    then
        alter table job_queue
            drop constraint if exists job_queue_status_check,
            drop constraint if exists job_queue_attempts_check,
            drop constraint if exists job_queue_times_check,
            drop constraint if exists job_queue_recurrence_check,
            drop constraint if exists job_queue_lease_check,
            drop constraint if exists job_queue_priority_check;
    end if;
end
$$;

-- The index that claims read: only jobs that can run once they are due, not paused, and a worker is free.
create index if not exists job_queue_claimable on job_queue (task_type, priority desc, run_at, id)
    where status = 'pending' and blocked_by is null and not in_line;
create index if not exists job_queue_lines on job_queue (concurrency_key, task_type, priority desc, run_at, id)
    where status = 'pending' and blocked_by is null and in_line;
-- On a large table, the index is built after this transaction; lines need the earlier one until then.
do $$
begin
    if exists (select from pg_index where indexrelid = to_regclass('job_queue_lines') and indisvalid) then
        drop index if exists job_queue_in_line;
    end if;
end
$$;
create index if not exists job_queue_blocked on job_queue (blocked_by, id)
    where status = 'pending' and blocked_by is not null;
create index if not exists job_queue_waiting on job_queue (run_at, id)
    where status = 'pending' and (blocked_by is not null or in_line);
create index if not exists job_queue_held on job_queue (run_token) where status = 'running';
drop index if exists job_queue_running;
create unique index if not exists job_queue_dedupe on job_queue (dedupe_key)
    where dedupe_key is not null and status in ('pending', 'running');
create index if not exists job_queue_keyed on job_queue (concurrency_key, priority desc, run_at)
    where status = 'pending' and blocked_by is null and not in_line and concurrency_key is not null;
create index if not exists job_queue_finished on job_queue (status, coalesce(completed_at, updated_at), id)
    where status in ('succeeded', 'failed', 'cancelled');
create index if not exists job_queue_series on job_queue (run_at)
    where is_recurring and status in ('pending', 'running');
create index if not exists job_queue_expiring on job_queue (expires_at)
    where status = 'pending' and expires_at is not null;
-- Cron series, by the time from which fewer than ten of their slots are left.
create index if not exists job_queue_slots on job_queue (coalesce(slots[cardinality(slots) - 9], '-infinity'))
    where slots is not null and status in ('pending', 'running');
-- Series that do not make up a missed slot.
create index if not exists job_queue_unmissed on job_queue (run_at)
    where status = 'pending' and blocked_by is null and slot_at is null and schedule ->> 'catch_up' = 'none';
-- The jobs of each group of errors.
create index if not exists job_queue_alike on job_queue (fingerprint, task_type, status, id)
    where fingerprint is not null;
-- One job in 64, chosen by its id alone: `job_sample_count` estimates from it how many there are. The second index has
-- those that wait, in the order of the claim. It also has all that is asked of them, because their rows are far apart.
drop index if exists job_queue_sample;
create index if not exists job_queue_drawn on job_queue (
        status, ((uuid_hash(id) & 16383 | 16384) & -(uuid_hash(id) & 16383 | 16384)), id)
    where status <> 'pending' and uuid_hash(id) & 63 = 0;
create index if not exists job_queue_drawn_pending on job_queue (
        ((uuid_hash(id) & 16383 | 16384) & -(uuid_hash(id) & 16383 | 16384)), task_type, priority desc, run_at, id)
    include (blocked_by, in_line) where status = 'pending' and uuid_hash(id) & 63 = 0;
-- What it replaces is read until it is built.
do $$
begin
    if exists (select from pg_index where indexrelid = to_regclass('job_queue_drawn_pending') and indisvalid) then
        drop index if exists job_queue_drawn_waiting;
    end if;
end
$$;

-------------------------------------------------------------------------------------------------------
-- 3. Enqueue
-------------------------------------------------------------------------------------------------------

create or replace function job_queue_refuse(p_sentence text) returns void
language plpgsql
set search_path from current
as $$
begin
    raise exception using errcode = 'JD001', message = p_sentence;
end
$$;

-- Whether a new job with this key waits behind one that will run before it. Two concurrent enqueues may both get
-- false: then both are in the claim's index, and the claim takes one of them.
create or replace function job_queue_joins_line(
    p_key text, p_priority integer, p_run_at timestamptz, p_task_type text
) returns boolean
language plpgsql stable
set search_path from current set enable_seqscan = off set enable_sort = off
as $$
declare
    v_waits constant boolean := p_key is not null and (
        (select true from job_queue where concurrency_key = p_key and status = 'running' order by key_place limit 1)
            is not null
        or exists (
            select from job_queue
            where concurrency_key = p_key and status = 'pending' and blocked_by is null and not in_line
                and priority >= p_priority and run_at <= p_run_at
        )
    );
begin
    if v_waits and job_key_limit(p_task_type) > 1 then
        return job_key_limit(p_task_type) <= job_key_running(p_key) + (
            select count(*) from job_queue
            where concurrency_key = p_key and status = 'pending' and blocked_by is null and not in_line
                and priority >= p_priority and run_at <= p_run_at);
    end if;
    return v_waits;
end
$$;

-- Whether a one-time job succeeded and left the queue. A series that was deleted may have succeeded too, but no cycle of
-- it will again.
create or replace function job_left_with_success(p_id uuid) returns boolean
language sql stable
set search_path from current set enable_seqscan = off
as $$ select exists (select from job_runs where job_id = p_id and removed) $$;

-- Whether a job must wait for this blocker (`live`). If the blocker can never succeed, `refusal` says why.
create or replace function job_queue_judge_blocker(
    p_blocked_by uuid, out live boolean, out refusal text
)
language plpgsql stable
set search_path from current set enable_seqscan = off
as $$
declare
    v_status text;
    v_last_success_at timestamptz;
begin
    select status, last_success_at into v_status, v_last_success_at from job_queue where id = p_blocked_by;
    live := coalesce(v_status in ('pending', 'running'), false);
    if live or v_status = 'succeeded' and v_last_success_at is not null then
        return;
    end if;
    if v_status is not null or not job_left_with_success(p_blocked_by) then
        refusal := format(
            'The blocker, job %s, %s. Retry the blocker first, or enqueue this job without a blocker.',
            p_blocked_by, case when v_status = 'succeeded' then 'expired before it ran'
                when v_status is not null then 'is ' || v_status else 'does not exist' end);
    end if;
end
$$;

-- The blocker that a job has to wait for: null if the blocker has already succeeded.
create or replace function job_queue_live_blocker(p_blocked_by uuid) returns uuid
language plpgsql stable
set search_path from current
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

-- The live job that has a dedupe key. Called after an insert conflicted with it, so it must see rows that were
-- committed since the insert began: therefore volatile.
create or replace function job_queue_holder(p_dedupe_key text) returns uuid
language plpgsql volatile
set search_path from current set enable_seqscan = off
as $$
begin
    return (select id from job_queue where dedupe_key = p_dedupe_key and status in ('pending', 'running'));
end
$$;

-- Why a dedupe or concurrency key cannot be used; null if it can. Keys are in indexes, which take no long values.
create or replace function job_refused_key(p_key text) returns text
language sql immutable
return case when octet_length(p_key) > 1000
    then format('A key may have 1,000 bytes; this one has %s. Use a hash of it.', octet_length(p_key)) end;

-- The concurrency key of a payload by the rule of its task type; null without a rule. It is the key that a producer
-- with the type's handler computes: a text, a truth value or a whole number of up to 15 digits counts, every other value is
-- as if it was missing.
create or replace function job_key_by_rule(p_task_type text, p_rule text, p_payload jsonb) returns text
language sql immutable parallel safe
return case
    when p_rule = 'type' then p_task_type
    when p_rule like 'key:%' then substr(p_rule, 5)
    when p_rule like 'payload:%' then (
        select case
            when jsonb_typeof(v) in ('string', 'boolean') and v #>> '{}' <> ''
                or jsonb_typeof(v) = 'number' and v #>> '{}' ~ '^-?[0-9]{1,15}$'
            then p_task_type || ':' || (v #>> '{}')
            else p_task_type
        end
        -- A payload may spell a key in both ways.
        from coalesce(p_payload -> substr(p_rule, 9),
            p_payload -> lower(regexp_replace(substr(p_rule, 9), '([A-Z])', '_\1', 'g'))) v)
end;

-- The same by the rule that workers wrote. A key that is too long for the indexes is replaced by its hash.
create or replace function job_key_of(p_task_type text, p_payload jsonb) returns text
language sql stable
set search_path from current
as $$
    select case when octet_length(k.key) > 1000 then t.task_type || ':' || md5(k.key) else k.key end
    from job_types t cross join lateral (select job_key_by_rule(t.task_type, t.concurrency, p_payload) as key) k
    where t.task_type = p_task_type and t.concurrency is not null
$$;

-- Refuses the rows of a statement if one of them breaks a rule. A constraint of the table would be read and prepared again
-- by each statement; this function is prepared once in a session. A rule that was a constraint until version 5 has the name
-- of that constraint in its error. After an INSERT the function sends a hint to idle workers, which also poll: a second
-- trigger would take longer. The channel is named after the schema, so that the queues of a database do not wake each
-- other's workers; a worker of 0.1.0 listens to `job_queue` alone. A search path would make each enqueue slower, so the
-- function calls only what is built in.
create or replace function job_queue_after_write() returns trigger
language plpgsql
as $$
declare
    v_id uuid;
    v_rule text;
    v_sent boolean;
begin
    select n.id, broken.rule into v_id, v_rule from new_rows n cross join lateral (select case
        when n.status not in ('pending', 'running', 'succeeded', 'failed', 'cancelled') then 'status'
        when n.attempts < 0 or n.max_attempts < 1 then 'attempts'
        when n.priority not between -100 and 100 then 'priority'
        when least(n.run_at, n.expires_at) < '0001-01-02 00:00+00'
            or greatest(n.run_at, n.expires_at) >= '9999-12-31 00:00+00' then 'times'
        when (n.recurrence_interval_minutes is not null or n.schedule is not null) and not n.is_recurring
            and n.status in ('pending', 'running') then 'recurrence'
        when n.status = 'running' and n.run_token is null and tg_op = 'UPDATE' then 'claim'
        when n.status = 'running' and (n.run_token is null or n.lease_expires_at is null or n.locked_by is null)
            or n.status <> 'running' and (n.run_token is not null or n.lease_expires_at is not null) then 'lease'
        end) as broken (rule)
    where broken.rule is not null limit 1;
    if v_rule is null then
        -- An assignment takes less time than PERFORM.
        v_sent := tg_op = 'INSERT' and pg_catalog.pg_notify('job_queue', '') is not null
            and pg_catalog.pg_notify(pg_catalog.concat(tg_table_schema, '.job_queue'), '') is not null;
        return null;
    end if;
    raise exception using table = 'job_queue', constraint = 'job_queue_' || v_rule || '_check',
        errcode = case when v_rule in ('recurrence', 'claim') then 'JD001' else 'check_violation' end,
        message = case v_rule
            when 'status' then 'The status of a job is pending, running, succeeded, failed or cancelled.'
            when 'attempts' then 'A job has made 0 attempts or more, and may make at least 1.'
            when 'priority' then 'A priority must be between -100 and 100.'
            when 'times' then 'A due time and the time at which a job expires must be between the years 1 and 9999.'
            when 'recurrence' then 'A job that is not recurring has no interval. Make it recurring, or leave the interval out.'
            when 'claim' then format('Job %s cannot be set to running by hand: it would have no token that protects its '
                'result. Claim it with a function.', v_id)
            else 'A running job has a run token, a lease and the name of its worker. Another job has no token and no lease.'
            end || ' Nothing was changed.';
end
$$;
create or replace trigger job_queue_inserted after insert on job_queue
    referencing new table as new_rows for each statement execute function job_queue_after_write();
create or replace trigger job_queue_updated after update on job_queue
    referencing new table as new_rows for each statement execute function job_queue_after_write();
-- Also where session_replication_role leaves other triggers out, as constraints are checked there too.
alter table job_queue enable always trigger job_queue_inserted, enable always trigger job_queue_updated;
drop trigger if exists job_queue_notify on job_queue;
drop function if exists job_queue_notify();

-- Records that upkeep has to judge the blocker of a new job, once the transaction that enqueues has ended: until then, a
-- blocker that ends does not see the job. Gives a job its key that was not enqueued by a function, and refuses an interval
-- that does not fit.
create or replace function job_queue_before_insert() returns trigger
language plpgsql security definer
set search_path from current
as $$
begin
    if new.status in ('pending', 'running') then
        perform job_refuse_interval(new);
    end if;
    if new.blocked_by is not null then
        perform job_queue_ask_recheck(null, array[new.blocked_by]);
    end if;
    if new.created_by is not null or new.concurrency_key is not null or new.status <> 'pending' then
        return new;
    end if;
    new.concurrency_key := job_key_of(new.task_type, new.payload);
    if new.expires_at is null and not new.is_recurring then
        new.expires_at := new.run_at + make_interval(secs => (
            select t.max_age_seconds from job_types t where t.task_type = new.task_type));
    end if;
    if new.concurrency_key is not null then
        new.in_line := job_queue_joins_line(new.concurrency_key, new.priority, new.run_at, new.task_type);
        if new.in_line then
            perform job_queue_ask_recheck(array[new.concurrency_key], null);
        end if;
    end if;
    return new;
end
$$;
-- The functions write created_by, so their one-time jobs without a blocker do not pay for this.
create or replace trigger job_queue_before_insert before insert on job_queue
    for each row when (new.created_by is null or new.blocked_by is not null or new.is_recurring)
    execute function job_queue_before_insert();
drop trigger if exists job_queue_note_blocker on job_queue;
drop trigger if exists job_queue_add_key on job_queue;
drop function if exists job_queue_note_blocker();
drop function if exists job_queue_add_key();

-- Refuses a pending or running job whose interval does not fit.
create or replace function job_refuse_interval(p_job job_queue) returns void
language plpgsql immutable
set search_path from current
as $$
begin
    if not job_schedule_fits(p_job.is_recurring, p_job.recurrence_interval_minutes, p_job.schedule, p_job.slots) then
        raise exception using errcode = 'JD001', message = case
            when p_job.is_recurring and p_job.schedule is not null
            then 'A schedule has one of minutes, seconds and a cron expression with zone and slots. Use the function '
                'job_series_create. Nothing was changed.'
            when p_job.is_recurring
            then 'A recurring job needs an interval of 1 minute or more. Nothing was changed.'
            else 'A job that is not recurring has no interval. Make it recurring, or leave the interval out. Nothing was '
                'changed.' end;
    end if;
end
$$;

-- An UPDATE by hand of the status of a job that is not pending. A running job can be cancelled: that becomes a request, as
-- the functions make it. A job that is set to pending joins the line of its key.
create or replace function job_hand_update() returns trigger
language plpgsql security definer
set search_path from current
as $$
begin
    if old.status = 'running' and new.status <> 'running' and new.run_token is not null then
        if new.status <> 'cancelled' then
            raise exception using errcode = 'JD001', message = format('Job %s is running, so its status cannot be set to '
                '%s. Wait until it has ended, or cancel it. Nothing was changed.', old.id, new.status);
        end if;
        old.cancel_requested_at := coalesce(old.cancel_requested_at, clock_timestamp());
        old.cancel_requested_by := coalesce(old.cancel_requested_by, '(' || session_user || ')');
        return old;
    elsif new.status = 'pending' and old.status <> 'running' then
        perform job_refuse_interval(new);
        new.concurrency_key := coalesce(new.concurrency_key, job_key_of(new.task_type, new.payload));
        new.in_line := job_queue_joins_line(new.concurrency_key, new.priority, new.run_at, new.task_type);
        if new.in_line then
            perform job_queue_ask_recheck(array[new.concurrency_key], null);
        end if;
    end if;
    return new;
end
$$;
-- Claims update pending jobs, and the other functions change the version, so they do not pay for this.
create or replace trigger job_hand_update before update of status on job_queue
    for each row when (old.status <> 'pending' and new.version = old.version) execute function job_hand_update();
drop trigger if exists job_hand_claim on job_queue;
drop trigger if exists job_hand_retry on job_queue;
drop function if exists job_hand_claim();
drop function if exists job_hand_retry();

-- An UPDATE by hand of the interval. Claims and reports do not change it, so they do not pay for this.
create or replace function job_hand_interval() returns trigger
language plpgsql security definer
set search_path from current
as $$
begin
    if new.status in ('pending', 'running') then
        perform job_refuse_interval(new);
    end if;
    return new;
end
$$;
create or replace trigger job_hand_interval
    before update of is_recurring, recurrence_interval_minutes, schedule, slots on job_queue
    for each row when (new.is_recurring or new.recurrence_interval_minutes is not null or new.schedule is not null)
    execute function job_hand_interval();

-- Writes the rules of the task types that a worker handles; a null means no rule. Returns those types whose earlier jobs
-- may have no key: job_types_fill_keys gives them one.
create or replace function job_types_declare(p_types text[], p_rules text[]) returns text[]
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    insert into job_types as t (task_type, concurrency, keyless)
    select n.task_type, n.rule, true from unnest(p_types, p_rules) as n (task_type, rule)
    where n.rule is not null and not exists (
        select from job_types o where o.task_type = n.task_type and o.concurrency = n.rule)
    order by n.task_type
    on conflict (task_type) do update set concurrency = excluded.concurrency, keyless = true;
    update job_types t set concurrency = null, keyless = false
    from unnest(p_types, p_rules) as n (task_type, rule)
    where t.task_type = n.task_type and n.rule is null and t.concurrency is not null;
    return array(select task_type from job_types where keyless and task_type = any (p_types) order by task_type);
end
$$;

-- Gives keys to those of the next p_limit jobs after an id that have none, of these types. Returns the last id, and null
-- when there is none left: then the types have all their keys.
create or replace function job_types_fill_keys(p_types text[], p_after uuid, p_limit integer) returns uuid
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_ids constant uuid[] := array(select q.id from job_queue q
        where q.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000') order by q.id limit p_limit);
    v_keys text[];
    v_slots integer[];
begin
    perform job_refuse_outsiders();
    with free as (
        select q.id, job_key_of(q.task_type, q.payload) as key from job_queue q
        where q.id = any (v_ids) and q.concurrency_key is null and q.status <> 'running' and q.task_type = any (p_types)
        order by q.id for update skip locked
    ), keyed as (
        -- All wait at first; the first of each line is put forward below.
        update job_queue q set concurrency_key = f.key, in_line = q.status = 'pending'
        from free f where q.id = f.id and f.key is not null
        returning q.concurrency_key
    )
    select array_agg(distinct concurrency_key) into v_keys from keyed;
    -- Of jobs that run already without a key, one holds it; the others end beside it. Claims leave a key out whose lock is
    -- not free, so that none of them waits for this transaction.
    v_slots := job_queue_try_locks(array(
        select job_key_of(q.task_type, q.payload) from job_queue q
        where q.id = any (v_ids) and q.concurrency_key is null and q.status = 'running' and q.task_type = any (p_types)));
    begin
        with free as (
            select q.id, job_key_of(q.task_type, q.payload) as key, q.started_at from job_queue q
            where q.id = any (v_ids) and q.concurrency_key is null and q.status = 'running'
                and q.task_type = any (p_types)
            order by q.id for update skip locked
        )
        update job_queue q set concurrency_key = f.key
        from (select distinct on (key) id, key from free where key is not null order by key, started_at) f
        where q.id = f.id and job_slot(f.key) = any (v_slots) and not job_key_is_busy(f.key);
    exception when unique_violation then
        null;
    end;
    perform job_queue_advance_lines(v_keys);
    if cardinality(v_ids) < p_limit then
        update job_types set keyless = false where task_type = any (p_types);
        return null;
    end if;
    return v_ids[cardinality(v_ids)];
end
$$;

-- Records what upkeep has to check once the transaction that enqueues has ended: until then, a run that ends does not
-- see the new jobs.
create or replace function job_queue_ask_recheck(p_keys text[], p_blockers uuid[]) returns void
language sql volatile
set search_path from current
as $$
    insert into job_recheck (concurrency_key, blocker)
    select distinct k, null::uuid from unnest(p_keys) k where k is not null
    union all select distinct null, b from unnest(p_blockers) b where b is not null
$$;

-- Who did something: the name that a client gives, and in brackets at the end the role that signed in, which no client
-- can choose.
create or replace function job_actor(p_actor text) returns text
language sql stable
return coalesce(nullif(trim(p_actor), '') || ' ', '') || '(' || session_user || ')';

-- Refuses a series beside an active one of the same type, payload and interval, which would do everything twice.
create or replace function job_series_refuse_twin(p_task_type text, p_payload jsonb, p_interval_minutes integer)
returns void
language plpgsql stable
set search_path from current
as $$
declare
    v_first uuid;
begin
    select q.id into v_first from job_queue q
    where q.is_recurring and q.status in ('pending', 'running') and q.task_type = p_task_type
        and q.recurrence_interval_minutes = p_interval_minutes and q.payload = p_payload
        and (q.expires_at is null or q.expires_at > now())
    order by q.created_at, q.id limit 1;
    if found then
        perform job_queue_refuse(format('Job %s is a series of %s with the same payload and interval. A dedupe key allows '
            'both. Nothing was enqueued.', v_first, p_task_type));
    end if;
end
$$;

-- Enqueues one job, or returns the job that already has the dedupe key (`created` false). While another transaction that has
-- not ended enqueues a job with the same key, it waits for 1.5 seconds at most (SQLSTATE 55P03).
create or replace function job_queue_create(
    p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer, p_priority integer,
    p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid, p_interval_minutes integer,
    p_expires_at timestamptz, p_actor text, out job_id uuid, out created boolean
)
language plpgsql volatile security definer
set search_path from current set lock_timeout = '1500ms'
as $$
declare
    v_run_at timestamptz := coalesce(p_run_at, now());
    v_key text := p_concurrency_key;
    v_expires_at timestamptz := p_expires_at;
    v_max_attempts constant integer := greatest(coalesce(p_max_attempts, 1), 1);
    v_has_rule boolean;
    v_max_age integer;
    v_blocked_by uuid;
    v_in_line boolean;
begin
    -- Most jobs have none of what follows, and most types no rule, so both are looked at in one step first.
    if not job_is_outsider() and trim(p_task_type) <> '' and jsonb_typeof(p_payload) = 'object'
        and p_priority between -100 and 100 and job_is_a_time(v_run_at) and job_is_a_time(p_expires_at)
        and num_nonnulls(p_dedupe_key, p_concurrency_key, p_blocked_by, p_interval_minutes) = 0
    then
        insert into job_queue as q (task_type, payload, run_at, max_attempts, priority, expires_at, created_by)
        select p_task_type, p_payload, v_run_at, v_max_attempts, p_priority, p_expires_at, job_actor(p_actor)
        where not exists (select from job_types t where t.task_type = p_task_type
            and (t.concurrency is not null or t.max_age_seconds is not null))
        returning q.id into job_id;
        created := found;
        if created then
            return;
        end if;
    end if;
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    if coalesce(trim(p_task_type), '') = '' then
        perform job_queue_refuse('A job needs a task type.');
    elsif p_interval_minutes <= 0 then
        perform job_queue_refuse('The interval of a recurring job must be 1 minute or more.');
    elsif p_priority not between -100 and 100 then
        perform job_queue_refuse('A priority must be between -100 and 100.');
    elsif jsonb_typeof(p_payload) is distinct from 'object' then
        perform job_queue_refuse('A payload must be a JSON object.');
    end if;
    if octet_length(p_dedupe_key) > 1000 or octet_length(p_concurrency_key) > 1000 then
        perform job_queue_refuse(coalesce(job_refused_key(p_dedupe_key), job_refused_key(p_concurrency_key)));
    end if;
    if not (job_is_a_time(v_run_at) and job_is_a_time(p_expires_at)) then
        perform job_queue_refuse('A due time and an expiry must be between the years 1 and 9999.');
    end if;
    -- A series with a dedupe key is told apart by it.
    if p_interval_minutes is not null and p_dedupe_key is null then
        perform job_series_refuse_twin(p_task_type, p_payload, p_interval_minutes);
    end if;
    if p_blocked_by is not null then
        v_blocked_by := job_queue_live_blocker(p_blocked_by);
    end if;
    select t.concurrency is not null, t.max_age_seconds into v_has_rule, v_max_age
    from job_types t where t.task_type = p_task_type;
    if v_key is null and v_has_rule then
        v_key := job_key_of(p_task_type, p_payload);
    end if;
    if v_max_age is not null and p_interval_minutes is null then
        v_expires_at := coalesce(v_expires_at, v_run_at + make_interval(secs => v_max_age));
    end if;
    for attempt in 1..5 loop
        v_in_line := v_key is not null and job_queue_joins_line(v_key, p_priority, v_run_at, p_task_type);
        -- ON CONFLICT writes a second record to the write-ahead log for each row.
        if p_dedupe_key is null then
            insert into job_queue as q (task_type, payload, run_at, max_attempts, priority, concurrency_key, in_line,
                blocked_by, is_recurring, recurrence_interval_minutes, anchor_at, expires_at, created_by)
            values (p_task_type, p_payload, v_run_at, v_max_attempts, p_priority, v_key, v_in_line,
                v_blocked_by, p_interval_minutes is not null, p_interval_minutes,
                case when p_interval_minutes is not null then v_run_at end, v_expires_at, job_actor(p_actor))
            returning q.id into job_id;
        else
            insert into job_queue as q (task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key,
                in_line, blocked_by, is_recurring, recurrence_interval_minutes, anchor_at, expires_at, created_by)
            values (p_task_type, p_payload, v_run_at, v_max_attempts, p_priority, p_dedupe_key, v_key,
                v_in_line, v_blocked_by, p_interval_minutes is not null, p_interval_minutes,
                case when p_interval_minutes is not null then v_run_at end, v_expires_at, job_actor(p_actor))
            on conflict (dedupe_key) where dedupe_key is not null and status in ('pending', 'running') do nothing
            returning q.id into job_id;
        end if;
        created := found;
        if created and v_in_line then
            perform job_queue_ask_recheck(array[v_key], null);
        end if;
        if not created then
            job_id := job_queue_holder(p_dedupe_key);
        end if;
        if job_id is not null then
            return;
        end if;
    end loop;
    perform job_queue_refuse(format(
        'Jobs with the dedupe key %s came and left while this one was enqueued. Try again.', p_dedupe_key));
end
$$;

-- The short call for producers in SQL: a null payload means {}, a null time means now; at least one attempt.
create or replace function job_queue_enqueue(
    p_task_type text, p_payload jsonb default '{}', p_run_at timestamptz default now(),
    p_max_attempts integer default 5
) returns job_queue
language plpgsql volatile security definer
set search_path from current
as $$
declare
    v_id uuid;
    v_job job_queue;
begin
    perform job_refuse_outsiders();
    v_id := (job_queue_create(p_task_type, coalesce(p_payload, '{}'), p_run_at, p_max_attempts, 0, null, null, null,
        null, null, null)).job_id;
    select * into v_job from job_queue where id = v_id;
    return v_job;
end
$$;

-- Which jobs of a batch wait behind another job with their concurrency key, in the batch or in the queue; one value per
-- key, in the same order.
create or replace function job_queue_join_lines(
    p_keys text[], p_priorities integer[], p_run_at timestamptz[]
) returns boolean[]
language sql stable
set search_path from current set enable_seqscan = off
as $$
    with batch as (
        select n.key, coalesce(n.priority, 0) as priority, coalesce(n.run_at, now()) as run_at, n.place
        from unnest(p_keys, p_priorities, p_run_at) with ordinality as n (key, priority, run_at, place)
    ), lined as (
        select b.place, b.key is not null and (
            coalesce(min(b.run_at) over (partition by b.key order by b.priority desc, b.run_at, b.place
                rows between unbounded preceding and 1 preceding) <= b.run_at, false)
            or job_queue_joins_line(b.key, b.priority, b.run_at, null)) as in_line
        from batch b
    )
    select array_agg(in_line order by place) from lined
$$;

-- Enqueues many one-time jobs in one statement. All arrays have one element per job; those after the task types may be
-- null for the default. The result does not contain jobs whose dedupe key is taken. It waits for keys like job_queue_create.
create or replace function job_queue_create_many(
    p_task_types text[], p_payloads jsonb[], p_run_at timestamptz[], p_max_attempts integer[],
    p_priorities integer[], p_dedupe_keys text[], p_concurrency_keys text[], p_actor text
) returns setof uuid
language plpgsql volatile security definer
set search_path from current set lock_timeout = '1500ms'
as $$
declare
    v_in_line boolean[];
    v_expires_at timestamptz[];
    v_keys text[] := p_concurrency_keys;
    v_created_by constant text := job_actor(p_actor);
    -- Ids like those of the column's default, but with one time for all. After it the position in the batch, in seven
    -- digits that start with 8 as the layout requires, then nine random digits: a fifth of the default's time.
    v_time constant text := overlay('0' || to_hex((date_part('epoch', clock_timestamp()) * 1000 * 4096)::bigint)
        placing '7' from 13 for 0);
    v_first_place constant bigint := x'8000000'::bigint;
    v_least_chance constant bigint := x'100000000'::bigint;
    v_chances constant bigint := x'effffffff'::bigint;
begin
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    if exists (
        select from unnest(p_task_types, p_priorities) as n (task_type, priority)
        where coalesce(trim(n.task_type), '') = '' or n.priority not between -100 and 100
    ) then
        perform job_queue_refuse('Each job needs a task type and a priority between -100 and 100. None was enqueued.');
    end if;
    if p_dedupe_keys is not null or p_concurrency_keys is not null then
        perform job_queue_refuse(job_refused_key(k) || ' None was enqueued.')
        from unnest(p_dedupe_keys || p_concurrency_keys) k
        where job_refused_key(k) is not null;
    end if;
    if exists (select from unnest(p_run_at) t where not job_is_a_time(t)) then
        perform job_queue_refuse('A due time must be between the years 1 and 9999. None was enqueued.');
    end if;
    if exists (select from job_types t where t.concurrency is not null and t.task_type = any (p_task_types)) then
        v_keys := array(
            select coalesce(n.key, job_key_of(n.task_type, coalesce(n.payload, '{}')))
            from unnest(p_task_types, p_payloads, p_concurrency_keys) with ordinality
                as n (task_type, payload, key, place)
            order by n.place);
    end if;
    if exists (select from job_types t where t.max_age_seconds is not null and t.task_type = any (p_task_types)) then
        v_expires_at := array(
            select coalesce(n.run_at, now()) + make_interval(secs => t.max_age_seconds)
            from unnest(p_task_types, p_run_at) with ordinality as n (task_type, run_at, place)
            left join job_types t on t.task_type = n.task_type
            order by n.place);
    end if;
    if v_keys is not null then
        if exists (select from job_types t where t.max_per_key > 1 and t.task_type = any (p_task_types)) then
            v_in_line := job_key_join_lines(v_keys, p_task_types, p_priorities, p_run_at);
        else
            v_in_line := job_queue_join_lines(v_keys, p_priorities, p_run_at);
        end if;
        if true = any (v_in_line) then
            perform job_queue_ask_recheck(array(
                select l.key from unnest(v_keys, v_in_line) as l (key, in_line) where l.in_line), null);
        end if;
    end if;
    -- ON CONFLICT writes a second record to the write-ahead log for each row.
    if p_dedupe_keys is null then
        return query
        insert into job_queue (id, task_type, payload, run_at, max_attempts, priority, concurrency_key, in_line,
            expires_at, created_by)
        select (v_time || to_hex(v_first_place + n.place) || to_hex(v_least_chance + (random() * v_chances)::bigint))::uuid,
            n.task_type, coalesce(n.payload, '{}'), coalesce(n.run_at, now()),
            greatest(coalesce(n.max_attempts, 5), 1), coalesce(n.priority, 0), n.concurrency_key,
            coalesce(n.in_line, false), n.expires_at, v_created_by
        from unnest(p_task_types, p_payloads, p_run_at, p_max_attempts, p_priorities, v_keys, v_in_line, v_expires_at)
            with ordinality
            as n (task_type, payload, run_at, max_attempts, priority, concurrency_key, in_line, expires_at, place)
        returning id;
        return;
    end if;
    return query
    insert into job_queue (id, task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key,
        in_line, expires_at, created_by)
    select (v_time || to_hex(v_first_place + n.place) || to_hex(v_least_chance + (random() * v_chances)::bigint))::uuid,
        n.task_type, coalesce(n.payload, '{}'), coalesce(n.run_at, now()),
        greatest(coalesce(n.max_attempts, 5), 1), coalesce(n.priority, 0), n.dedupe_key, n.concurrency_key,
        coalesce(n.in_line, false), n.expires_at, v_created_by
    from unnest(p_task_types, p_payloads, p_run_at, p_max_attempts, p_priorities, p_dedupe_keys, v_keys, v_in_line,
        v_expires_at) with ordinality
        as n (task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key, in_line, expires_at, place)
    -- One order, because two batches with the same keys wait for each other's rows.
    order by n.dedupe_key, n.place
    on conflict (dedupe_key) where dedupe_key is not null and status in ('pending', 'running') do nothing
    returning id;
end
$$;

-------------------------------------------------------------------------------------------------------
-- Limits of task types: how many jobs run at the same time over all workers, and how many start in a period
--
-- A claim locks the rows of the limited types that it was asked for, and leaves out those that another claim has locked. The
-- lock lasts until the claim commits, so a count made after it is exact: reports only make it smaller. Jobs of types
-- without limits are not in the index of limited runs, and their claims find no row here.
-------------------------------------------------------------------------------------------------------

alter table job_types
    add column if not exists max_running integer,
    -- At most rate_runs runs start in rate_seconds, on average, and rate_burst of them (null: those of a second) at once.
    add column if not exists rate_runs integer,
    add column if not exists rate_seconds integer,
    add column if not exists rate_burst integer,
    -- How many jobs with the same concurrency key run at the same time; null for one. The same kind of rate for each key.
    add column if not exists max_per_key integer,
    add column if not exists key_rate_runs integer,
    add column if not exists key_rate_seconds integer,
    -- One-time jobs that are enqueued without an expiry expire so long after they are due.
    add column if not exists max_age_seconds integer,
    add column if not exists limited boolean not null
        generated always as (max_running is not null or rate_runs is not null) stored,
    -- When the type got its first limit, and whether jobs run that were claimed before.
    add column if not exists limited_at timestamptz,
    add column if not exists uncounted boolean not null default false,
    -- Until when the runs that have started use up the rate. A run adds the time that the rate leaves between two runs.
    add column if not exists rate_until timestamptz;
-- Claims update the rows of types with a rate, and all claims read the table.
alter table job_types set (fillfactor = 50);

alter table job_queue
    -- Claimed while its type had a limit.
    add column if not exists limited boolean,
    -- Of a running job whose key may have several: its place among them, null for the first.
    add column if not exists key_place smallint;
-- After the column: with it, Postgres 15 refuses the default where a function takes a row of the table.
alter table job_queue alter column limited set default false;
create index if not exists job_queue_limited on job_queue (task_type) where status = 'running' and limited;
create unique index if not exists job_queue_key_places on job_queue (concurrency_key, key_place) nulls not distinct
    where status = 'running' and concurrency_key is not null;
drop index if exists job_queue_running_key;

-- Until when the runs of each concurrency key that have started use up the rate of their type. Types with the same rate use
-- it together. Keys may name people, so they are stored as hashes. Upkeep removes what is used up no more.
create table if not exists job_key_rates (
    key_hash uuid not null,
    rate_runs integer not null,
    rate_seconds integer not null,
    used_until timestamptz not null,
    primary key (key_hash, rate_runs, rate_seconds)
);
create index if not exists job_key_rates_used on job_key_rates (used_until);

-- How many jobs with the same concurrency key may run at the same time when one of this type is added.
create or replace function job_key_limit(p_task_type text) returns integer
language plpgsql stable parallel safe
set search_path from current
as $$
begin
    return coalesce((select max_per_key from job_types where task_type = p_task_type), 1);
end
$$;

-- How many jobs with a key run. The order makes the planner read the index of the places of keys, whatever the
-- statistics say; the index of all running jobs would do as well, and reads all of them.
create or replace function job_key_running(p_key text) returns bigint
language plpgsql stable parallel safe
set search_path from current set enable_seqscan = off set enable_sort = off set jit = off
as $$
begin
    return (select count(*) from (
        select from job_queue where concurrency_key = p_key and status = 'running' order by key_place) running);
end
$$;

-- The same. Called with the key's lock held, so it must see what was committed since the claim began.
create or replace function job_key_running_now(p_key text) returns bigint
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_sort = off set jit = off
as $$
begin
    return (select count(*) from (
        select from job_queue where concurrency_key = p_key and status = 'running' order by key_place) running);
end
$$;

-- Whether as many jobs with a key run as may when one of this type is added.
create or replace function job_key_is_full(p_key text, p_task_type text) returns boolean
language plpgsql stable parallel safe
set search_path from current
as $$
begin
    return job_key_limit(p_task_type) <= job_key_running(p_key);
end
$$;

-- The places for these taken jobs, which the caller has locked, among the running jobs of their keys: the lowest that are
-- free, in the order of claims. The first job of a key has none. Does not ask for limits, which may just have changed.
create or replace function job_key_places(p_places tid[], out jobs tid[], out numbers smallint[])
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_sort = off set jit = off
as $$
declare
    v_job record;
    v_taken text[] := '{}';
    v_running smallint[];
    v_number smallint;
begin
    for v_job in
        select q.ctid as place, q.concurrency_key as key from job_queue q
        where q.ctid = any (p_places) and q.concurrency_key is not null
        order by q.priority desc, q.run_at, q.id
    loop
        v_running := array(select coalesce(q.key_place, 0) from job_queue q
            where q.concurrency_key = v_job.key and q.status = 'running' order by q.key_place);
        v_number := 0;
        while v_number = any (v_running) or format('%s %s', v_number, v_job.key) = any (v_taken) loop
            v_number := v_number + 1;
        end loop;
        v_taken := v_taken || format('%s %s', v_number, v_job.key);
        jobs := jobs || v_job.place;
        numbers := numbers || nullif(v_number, 0::smallint);
    end loop;
end
$$;

-- How many runs a rate lets start at once if that is not said: those of one second, at least one.
create or replace function job_rate_burst(p_burst integer, p_runs integer, p_seconds integer) returns integer
language sql immutable parallel safe
return coalesce(p_burst, greatest(ceil(p_runs::numeric / p_seconds), 1)::integer);

-- How many seconds of a rate are used up. Far more than the burst has can only be from before the clock was set back, or
-- from a slower rate: then none are.
create or replace function job_rate_used(
    p_until timestamptz, p_burst integer, p_runs integer, p_seconds integer, p_at timestamptz
) returns double precision
language sql immutable parallel safe
return case
    when p_until - p_at > make_interval(secs => 60
        + job_rate_burst(p_burst, p_runs, p_seconds) * p_seconds::double precision / p_runs) then 0
    else greatest(date_part('epoch', coalesce(p_until, p_at) - p_at), 0) end;

-- How many runs may start now by a rate; null without a rate. Times have microseconds, so a time that has come could be
-- missed by a rounding.
create or replace function job_rate_places(
    p_until timestamptz, p_burst integer, p_runs integer, p_seconds integer, p_at timestamptz
) returns integer
language sql immutable parallel safe
return floor(job_rate_burst(p_burst, p_runs, p_seconds)
    - job_rate_used(p_until, p_burst, p_runs, p_seconds, p_at) * p_runs / p_seconds + 1e-6)::integer;

-- Until when a rate is used up after so many more runs.
create or replace function job_rate_after(
    p_until timestamptz, p_burst integer, p_runs integer, p_seconds integer, p_at timestamptz, p_more bigint
) returns timestamptz
language sql immutable parallel safe
return p_at + make_interval(secs => job_rate_used(p_until, p_burst, p_runs, p_seconds, p_at)
    + p_more * p_seconds::double precision / p_runs);

-- When a rate that lets no run start now lets one start.
create or replace function job_rate_opens(
    p_until timestamptz, p_burst integer, p_runs integer, p_seconds integer, p_at timestamptz
) returns timestamptz
language sql immutable parallel safe
return p_at + make_interval(secs => job_rate_used(p_until, p_burst, p_runs, p_seconds, p_at)
    - (job_rate_burst(p_burst, p_runs, p_seconds) - 1) * p_seconds::double precision / p_runs);

-- When the rate of a key lets the next job of this type start, which may be now; null without such a rate.
create or replace function job_key_opens(p_key text, p_task_type text, p_at timestamptz) returns timestamptz
language plpgsql stable
set search_path from current set enable_seqscan = off set jit = off
as $$
begin
    return (
        select case
            when job_rate_places(r.used_until, null, t.key_rate_runs, t.key_rate_seconds, p_at) > 0 then p_at
            else job_rate_opens(r.used_until, null, t.key_rate_runs, t.key_rate_seconds, p_at) end
        from job_types t left join job_key_rates r on r.key_hash = md5(p_key)::uuid
            and r.rate_runs = t.key_rate_runs and r.rate_seconds = t.key_rate_seconds
        where t.task_type = p_task_type and t.key_rate_runs is not null);
end
$$;

-- Locks what is stored of the rates of a key until the end of the transaction. False if another transaction has locked
-- some of it: upkeep or an erasure, which removes it.
create or replace function job_key_rates_lock(p_key text) returns boolean
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_locked constant tid[] := array(
        select r.ctid from job_key_rates r where r.key_hash = md5(p_key)::uuid for update skip locked);
begin
    return not exists (select from job_key_rates r where r.key_hash = md5(p_key)::uuid and r.ctid <> all (v_locked));
end
$$;

-- Uses up the rate of a key for a job of this type that starts now. The caller has the lock of the key.
create or replace function job_key_spend(p_key text, p_task_type text, p_at timestamptz) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
begin
    insert into job_key_rates as r (key_hash, rate_runs, rate_seconds, used_until)
    select md5(p_key)::uuid, t.key_rate_runs, t.key_rate_seconds,
        job_rate_after(null, null, t.key_rate_runs, t.key_rate_seconds, p_at, 1)
    from job_types t where t.task_type = p_task_type and t.key_rate_runs is not null
    on conflict (key_hash, rate_runs, rate_seconds) do update
        set used_until = job_rate_after(r.used_until, null, r.rate_runs, r.rate_seconds, p_at, 1);
end
$$;

-- Lets a job, which the caller has locked, wait until the rate of its key lets it start: it is due then, and stays in the
-- claim's index. False, and nothing is changed, if another job of the key does already, unless this job can run and the
-- other cannot (its type is paused, or no live worker handles it).
create or replace function job_key_hold(p_id uuid, p_opens timestamptz, p_at timestamptz) returns boolean
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
begin
    if exists (
        select from job_queue q join job_queue o on o.concurrency_key = q.concurrency_key
        where q.id = p_id and o.id <> p_id and o.status = 'pending' and o.blocked_by is null and not o.in_line
            and o.run_at > p_at and o.run_at <= p_opens + interval '1 millisecond'
            and (job_type_can_run(o.task_type, p_at) or not job_type_can_run(q.task_type, p_at)))
    then
        return false;
    end if;
    update job_queue q set slot_at = case when q.is_recurring then coalesce(q.slot_at, q.run_at) end, run_at = p_opens
    where q.id = p_id;
    return true;
end
$$;

-- How many jobs of a limited type run. The caller has locked the row of the type.
create or replace function job_limit_running(p_type job_types) returns bigint
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_running bigint;
    v_uncounted bigint;
begin
    select count(*) into v_running from job_queue q
    where q.status = 'running' and q.limited and q.task_type = p_type.task_type;
    if p_type.uncounted then
        select count(*) into v_uncounted from job_queue q
        where q.status = 'running' and q.limited is not true and q.task_type = p_type.task_type;
        if v_uncounted = 0 then
            update job_types set uncounted = false where task_type = p_type.task_type;
        end if;
        v_running := v_running + v_uncounted;
    end if;
    return v_running;
end
$$;

-- Locks the rows of these limited types until the end of the transaction, but for those that another claim has locked.
-- A claim that has nothing else to do (p_wait) waits for the other one, which takes milliseconds.
create or replace function job_limits_lock(p_types text[], p_wait boolean) returns setof job_types
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off set lock_timeout = '50ms'
as $$
declare
    v_locked job_types[];
begin
    return query select * from job_types t where t.limited and t.task_type = any (p_types)
        order by t.task_type for update skip locked;
    if found or not p_wait then
        return;
    end if;
    begin
        v_locked := array(select t from job_types t where t.limited and t.task_type = any (p_types)
            order by t.task_type for update);
    exception when lock_not_available then
        -- The locks that this block has got are lost with it. Rows that it had returned would stay.
        return query select * from job_types t where t.limited and t.task_type = any (p_types)
            order by t.task_type for update skip locked;
        return;
    end;
    return query select * from unnest(v_locked);
end
$$;

-- Of these limited types, those of which jobs may start, how many, and when they were counted: the jobs must not start
-- before. The rows of the types are locked until the end of the transaction. A claim takes no more jobs of a limited
-- type than its worker runs at a time, because jobs that wait in a worker keep their places from others, and start later
-- than the rate has counted. Where there are more places than all workers of the types have slots, the worker has the
-- share of the places that its slots are of all slots, since the others need the other places alone. A claim takes half
-- of this share, so that one half runs while the other is claimed, and no more than the share of a tenth of a second of
-- the rate.
create or replace function job_limits_admit(
    p_types text[], p_worker text, p_limit integer, p_wait boolean, out types text[], out places integer[],
    out counted_at timestamptz
)
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_type job_types;
    v_locked constant job_types[] := array(select l from job_limits_lock(p_types, p_wait) l);
    v_places bigint;
    v_slots constant integer := (select w.concurrency from job_workers w where w.id = p_worker);
    v_share constant double precision := case when p_limit > v_slots then v_slots::double precision / nullif((
        select sum(w.concurrency) from job_workers w
        where w.heartbeat_at > clock_timestamp() - interval '2 minutes' and w.task_types && p_types), 0) end;
begin
    -- After the locks, since runs that end while this claim waits for them are not counted.
    counted_at := clock_timestamp();
    foreach v_type in array v_locked loop
        -- A claim that began before the limit may not have committed yet.
        continue when v_type.limited_at between counted_at - interval '1 second' and counted_at + interval '1 second';
        v_places := least(p_limit, greatest(v_slots, ceil(v_share * least(
            v_type.max_running / 2.0, v_type.rate_runs / (10.0 * v_type.rate_seconds)))), job_rate_places(
            v_type.rate_until, v_type.rate_burst, v_type.rate_runs, v_type.rate_seconds, counted_at));
        if v_places > 0 and v_type.max_running is not null then
            v_places := least(v_places, v_type.max_running - job_limit_running(v_type));
        end if;
        if v_places > 0 then
            types := types || v_type.task_type;
            places := places || v_places::integer;
        end if;
    end loop;
end
$$;

-- How many jobs of each lane a claim takes where a type may have several lanes: like the ranking in job_queue_claim, with
-- the places that the types of some lanes have (p_free, null for a type without limits).
create or replace function job_limits_rank(
    p_types text[], p_priorities integer[], p_run_at timestamptz[], p_ids uuid[], p_free integer[], p_room integer,
    p_now timestamptz, p_but tid[]
) returns integer[]
language plpgsql volatile
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return array(
        select coalesce(h.jobs, 0)::integer from generate_subscripts(p_types, 1) as s (place)
        left join (
            select best.place, count(*) as jobs
            from (
                select r.place from (
                    select l.place, l.priority, l.free, c.run_at, c.id, row_number() over (
                        partition by l.task_type order by l.priority desc, c.run_at, c.id) as number
                    from unnest(p_types, p_priorities, p_run_at, p_ids, p_free) with ordinality
                        as l (task_type, priority, run_at, id, free, place)
                    cross join lateral (
                        select q.run_at, q.id from job_queue q
                        where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                            and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type
                            and q.priority = l.priority and (q.run_at, q.id) > (l.run_at, l.id)
                            and job_clause_due(q.run_at, p_now) and job_clause_unexpired(q.expires_at, p_now)
                            and job_clause_key_free(q.concurrency_key, q.task_type) and q.ctid <> all (p_but)
                        order by q.run_at, q.id limit least(p_room, l.free)
                    ) c
                ) r
                where r.free is null or r.number <= r.free
                order by r.priority desc, r.run_at, r.id limit p_room
            ) best
            group by best.place
        ) h on h.place = s.place
        order by s.place);
end
$$;

-- These places without those of jobs, the last in the order of claims, that are more than their limited type has places.
-- The caller has locked the jobs.
create or replace function job_limits_within(p_jobs tid[], p_types text[], p_places integer[]) returns tid[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_over constant tid[] := array(
        select c.job from (
            select q.ctid as job, q.task_type, row_number() over (
                partition by q.task_type order by q.priority desc, q.run_at, q.id) as number
            from job_queue q where q.ctid = any (p_jobs) and q.task_type = any (p_types)
        ) c
        join unnest(p_types, p_places) as l (task_type, places) on l.task_type = c.task_type and c.number > l.places);
begin
    if cardinality(v_over) = 0 then
        return p_jobs;
    end if;
    return array(select j.job from unnest(p_jobs) as j (job) where j.job <> all (v_over));
end
$$;

-- The places that are left in each lane (null for a type without limits) after these jobs, which the caller has locked.
create or replace function job_limits_left(p_types text[], p_free integer[], p_jobs tid[]) returns integer[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
begin
    return array(
        select case when l.free is not null then greatest(l.free - coalesce(n.jobs, 0), 0)::integer end
        from unnest(p_types, p_free) with ordinality as l (task_type, free, place)
        left join (
            select q.task_type, count(*) as jobs from job_queue q where q.ctid = any (p_jobs) group by q.task_type
        ) n on n.task_type = l.task_type
        order by l.place);
end
$$;

-- Uses up the rates of these types for jobs that start now. The caller has locked the jobs and the types.
create or replace function job_limits_spend(p_jobs tid[], p_types text[], p_at timestamptz) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
begin
    update job_types t
    set rate_until = job_rate_after(t.rate_until, t.rate_burst, t.rate_runs, t.rate_seconds, p_at, n.jobs)
    from (select q.task_type, count(*) as jobs from job_queue q where q.ctid = any (p_jobs) group by q.task_type) n
    where t.task_type = n.task_type and t.task_type = any (p_types) and t.rate_runs is not null;
end
$$;

-- What the limits of a type say now, for people: a code and facts, and from when on a claim may find a place. All null
-- without limits; `opens_at` is null if there is a place.
create or replace function job_limit_state(
    p_task_type text, p_at timestamptz, out code text, out facts jsonb, out opens_at timestamptz
)
language plpgsql stable
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_type job_types;
    v_running bigint;
begin
    select * into v_type from job_types where task_type = p_task_type and limited;
    if not found then
        return;
    end if;
    select count(*) into v_running from job_queue q
    where q.status = 'running' and q.limited and q.task_type = p_task_type;
    if v_type.uncounted then
        v_running := v_running + (select count(*) from job_queue q
            where q.status = 'running' and q.limited is not true and q.task_type = p_task_type);
    end if;
    if v_running >= v_type.max_running then
        code := 'type-full';
        -- Nobody knows when a run ends; workers look again after a second.
        opens_at := p_at + interval '1 second';
    elsif job_rate_places(v_type.rate_until, v_type.rate_burst, v_type.rate_runs, v_type.rate_seconds, p_at) < 1
    then
        code := 'type-rate';
        opens_at := job_rate_opens(v_type.rate_until, v_type.rate_burst, v_type.rate_runs, v_type.rate_seconds, p_at);
    else
        code := 'type-has-place';
        if v_type.limited_at between p_at - interval '1 second' and p_at + interval '1 second' then
            opens_at := v_type.limited_at + interval '1 second';
        end if;
    end if;
    facts := jsonb_build_object('task_type', p_task_type, 'running', v_running, 'max_running', v_type.max_running,
        'rate_runs', v_type.rate_runs, 'rate_seconds', v_type.rate_seconds,
        'seconds', ceil(date_part('epoch', opens_at - p_at)));
end
$$;

-- Why these limits of a type cannot be; null if they can.
create or replace function job_limits_refusal(p_type job_types) returns text
language sql immutable
set search_path from current
as $$
    select case
        when p_type.max_running not between 1 and 1000000 then format('A limit of runs at the same time must be between 1 '
            'and 1,000,000, and %s is not. To run none, pause the type. Nothing was changed.', p_type.max_running)
        when p_type.max_per_key not between 1 and 1000 then format('A limit of runs for each key must be between 1 and '
            '1,000, and %s is not. Nothing was changed.', p_type.max_per_key)
        when (p_type.rate_runs is null) <> (p_type.rate_seconds is null)
            or (p_type.key_rate_runs is null) <> (p_type.key_rate_seconds is null)
        then 'A rate needs a number of runs and a period in seconds. Nothing was changed.'
        when p_type.rate_runs not between 1 and 1000000 or p_type.key_rate_runs not between 1 and 1000000 then format(
            'A rate must have between 1 and 1,000,000 runs, and %s is not. To run none, pause the type. Nothing was '
            'changed.', case when p_type.rate_runs between 1 and 1000000 then p_type.key_rate_runs
                else coalesce(p_type.rate_runs, p_type.key_rate_runs) end)
        when p_type.rate_seconds not between 1 and 2678400 or p_type.key_rate_seconds not between 1 and 2678400 then
            'The period of a rate must be between a second and 31 days. Nothing was changed.'
        when p_type.max_age_seconds not between 1 and 31622400 then
            'The maximum age of a job must be between a second and 366 days. Nothing was changed.'
        when p_type.rate_burst is not null and p_type.rate_runs is null then
            'A burst is how many runs of a rate may start at once, and the type has no rate. Nothing was changed.'
        -- Workers look once a second, so a smaller burst would not reach the rate.
        when p_type.rate_burst not between ceil(p_type.rate_runs::numeric / p_type.rate_seconds) and 1000000 then
            format('The burst of this rate must be between %s, the runs of one second, and 1,000,000, and %s is not. '
                'Nothing was changed.', ceil(p_type.rate_runs::numeric / p_type.rate_seconds), p_type.rate_burst)
    end
$$;

-- Refuses limits in p_changes that are no whole numbers.
create or replace function job_limits_refuse_others(p_changes jsonb) returns void
language plpgsql immutable
set search_path from current
as $$
declare
    v_name text;
    v_value jsonb;
begin
    for v_name, v_value in
        select c.key, c.value from jsonb_each(p_changes) c
        where c.key in ('max_running', 'max_per_key', 'rate_runs', 'rate_seconds', 'rate_burst', 'key_rate_runs',
            'key_rate_seconds', 'max_age_seconds')
            and jsonb_typeof(c.value) <> 'null'
    loop
        if jsonb_typeof(v_value) <> 'number' or v_value #>> '{}' !~ '^-?[0-9]{1,9}$' then
            perform job_queue_refuse(format('A limit is a whole number, and %s is not one for %s. Nothing was changed.',
                left(v_value #>> '{}', 40), v_name));
        end if;
    end loop;
end
$$;

-- Keeps the changed limits of a type, whose row the caller has locked: from when on they count, and the lines that may move.
create or replace function job_limits_keep(p_before job_types, p_after job_types) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    update job_types set max_running = p_after.max_running, rate_runs = p_after.rate_runs,
        rate_seconds = p_after.rate_seconds, rate_burst = p_after.rate_burst, max_per_key = p_after.max_per_key,
        key_rate_runs = p_after.key_rate_runs, key_rate_seconds = p_after.key_rate_seconds,
        max_age_seconds = p_after.max_age_seconds,
        rate_until = case when (p_before.rate_runs, p_before.rate_seconds, p_before.rate_burst)
            is not distinct from (p_after.rate_runs, p_after.rate_seconds, p_after.rate_burst) then rate_until end
    where task_type = p_after.task_type;
    if not p_before.limited then
        update job_types set limited_at = clock_timestamp(), uncounted = true
        where task_type = p_after.task_type and limited;
    end if;
    if p_after.max_per_key > coalesce(p_before.max_per_key, 1) then
        insert into job_recheck (concurrency_key) select distinct q.concurrency_key from job_queue q
        where q.status = 'pending' and q.blocked_by is null and q.in_line and q.task_type = p_after.task_type;
    end if;
    if (p_before.key_rate_runs, p_before.key_rate_seconds)
        is distinct from (p_after.key_rate_runs, p_after.key_rate_seconds)
    then
        -- Jobs that are due when the earlier rate lets them start are due now. Claims hold them to the new rate.
        with held as (
            select q.id from job_queue q join job_key_rates r on r.key_hash = md5(q.concurrency_key)::uuid
                and r.rate_runs = p_before.key_rate_runs and r.rate_seconds = p_before.key_rate_seconds
            where q.status = 'pending' and q.task_type = p_after.task_type and q.run_at > v_now
                and abs(date_part('epoch', q.run_at - job_rate_opens(r.used_until, null, r.rate_runs, r.rate_seconds, v_now)))
                    < 0.001
            for update of q skip locked
        ), due as (
            update job_queue q set run_at = v_now from held h where q.id = h.id returning q.concurrency_key
        )
        insert into job_recheck (concurrency_key) select distinct concurrency_key from due;
    end if;
    perform pg_notify(current_schema() || '.job_queue', '');
end
$$;

-- Which jobs of a batch wait in the line of their key, where the types of the batch let several jobs with a key run; like
-- job_queue_join_lines.
create or replace function job_key_join_lines(
    p_keys text[], p_task_types text[], p_priorities integer[], p_run_at timestamptz[]
) returns boolean[]
language sql stable
set search_path from current set enable_seqscan = off
as $$
    with batch as (
        select n.key, n.task_type, coalesce(n.priority, 0) as priority, coalesce(n.run_at, now()) as run_at, n.place,
            row_number() over (partition by n.key order by coalesce(n.priority, 0) desc, n.run_at, n.place) as number
        from unnest(p_keys, p_task_types, p_priorities, p_run_at) with ordinality
            as n (key, task_type, priority, run_at, place)
    )
    select array_agg(b.key is not null and (b.number > coalesce(t.max_per_key, 1)
        or job_queue_joins_line(b.key, b.priority, b.run_at, b.task_type)) order by b.place)
    from batch b left join job_types t on t.task_type = b.task_type
$$;

-- Puts the next job of a line into the claim's index beside those of its key that run or are there and due, if its type
-- lets so many run. Returns whether it did. The caller has the lock of the key.
create or replace function job_queue_put_beside(p_key text, p_now timestamptz) returns boolean
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_job constant job_queue := job_queue_lock_next_in_line(p_key, p_now, null);
begin
    if v_job.id is null or job_key_limit(v_job.task_type) <= job_key_running_now(p_key) + (
        select count(*) from (
            select from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and not q.in_line
                and q.run_at <= greatest(v_job.run_at, p_now)
            order by q.priority desc) waiting)
    then
        return false;
    end if;
    update job_queue set in_line = false where id = v_job.id;
    return true;
end
$$;

-------------------------------------------------------------------------------------------------------
-- Unique within a period: a dedupe key that goes on to count for a time, whatever becomes of its job
-------------------------------------------------------------------------------------------------------

-- The job that was enqueued last with a key, and until when no other is. Keys may name people, so they are stored as hashes.
-- Upkeep removes rows whose time is over.
create table if not exists job_unique_keys (
    key_hash uuid primary key,
    job_id uuid,
    until timestamptz not null
);
create index if not exists job_unique_keys_until on job_unique_keys (until);

-- Enqueues one job like job_queue_create, or returns the job that was enqueued with the dedupe key less than p_seconds
-- ago, whatever became of it (`created` false). It waits for other transactions like job_queue_create.
create or replace function job_queue_create_once(
    p_seconds double precision, p_task_type text, p_payload jsonb, p_run_at timestamptz, p_max_attempts integer,
    p_priority integer, p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid, p_interval_minutes integer,
    p_expires_at timestamptz, p_actor text, out job_id uuid, out created boolean
)
language plpgsql volatile security definer
set search_path from current set lock_timeout = '1500ms'
as $$
#variable_conflict use_variable
declare
    v_hash constant uuid := md5(p_dedupe_key)::uuid;
    v_until timestamptz;
begin
    perform job_refuse_outsiders();
    if v_hash is null then
        perform job_queue_refuse('A job that is unique for a time needs a dedupe key. Nothing was enqueued.');
    elsif p_interval_minutes is not null then
        perform job_queue_refuse('A recurring job cannot be unique for a time, because it keeps its dedupe key until it '
            'ends. Omit the time. Nothing was enqueued.');
    elsif p_seconds is null or p_seconds not between 1 and 31622400 then
        perform job_queue_refuse('The time for which a job is unique must be between a second and 366 days. Nothing was '
            'enqueued.');
    end if;
    loop
        insert into job_unique_keys values (v_hash, null, '-infinity') on conflict (key_hash) do nothing;
        select k.job_id, k.until into job_id, v_until from job_unique_keys k where k.key_hash = v_hash for update;
        -- Upkeep may have removed the row of a time that is over.
        exit when found;
    end loop;
    created := v_until <= clock_timestamp();
    if not created then
        return;
    end if;
    select c.job_id, c.created into job_id, created from job_queue_create(p_task_type, p_payload, p_run_at,
        p_max_attempts, p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, p_interval_minutes, p_expires_at,
        p_actor) c;
    if created then
        update job_unique_keys k set job_id = job_queue_create_once.job_id,
            until = clock_timestamp() + make_interval(secs => p_seconds)
        where k.key_hash = v_hash;
    end if;
end
$$;

-- Removes the hashes of the keys of these jobs, which would confirm a guess of a key. For an erasure, before it clears
-- the keys themselves.
create or replace function job_limits_erase(p_jobs uuid[]) returns void
language plpgsql volatile
set search_path from current
as $$
declare
    v_keys constant uuid[] := array(
        select md5(k)::uuid from (
            select q.dedupe_key, q.concurrency_key from job_queue q where q.id = any (p_jobs)
            union all select r.dedupe_key, r.concurrency_key from job_runs r where r.job_id = any (p_jobs)
            union all select t.job ->> 'dedupe_key', t.job ->> 'concurrency_key' from job_trash t
            where t.job_id = any (p_jobs)
        ) j cross join unnest(array[j.dedupe_key, j.concurrency_key]) k where k is not null);
begin
    delete from job_key_rates where key_hash = any (v_keys);
    delete from job_unique_keys where key_hash = any (v_keys) or job_id = any (p_jobs);
end
$$;

-- Removes what counts no more of the rates of keys and of keys that were unique for a time.
create or replace function job_limits_forget(p_limit integer) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    delete from job_key_rates where ctid = any (array(select r.ctid from job_key_rates r
        where r.used_until < v_now order by r.used_until limit p_limit for update skip locked));
    delete from job_unique_keys where key_hash in (select k.key_hash from job_unique_keys k
        where k.until < v_now order by k.until limit p_limit for update skip locked);
end
$$;

-------------------------------------------------------------------------------------------------------
-- 4. The clauses of the claim
--
-- Each is one expression that the planner inlines, or a query with a cached plan. The claim uses all of them, and
-- job_queue_why one after the other, so that the explanation cannot differ from the claim.
-------------------------------------------------------------------------------------------------------

create or replace function job_clause_pending(p_status text) returns boolean
language sql immutable parallel safe
return p_status = 'pending';

create or replace function job_clause_due(p_run_at timestamptz, p_at timestamptz) returns boolean
language sql immutable parallel safe
return p_run_at <= p_at;

create or replace function job_clause_unexpired(p_expires_at timestamptz, p_at timestamptz) returns boolean
language sql immutable parallel safe
return p_expires_at is null or p_expires_at > p_at;

create or replace function job_clause_unblocked(p_blocked_by uuid) returns boolean
language sql immutable parallel safe
return p_blocked_by is null;

create or replace function job_clause_first_in_line(p_in_line boolean) returns boolean
language sql immutable parallel safe
return not p_in_line;

-- The row of job_locks that is the lock of a concurrency key.
create or replace function job_slot(p_key text) returns integer
language sql immutable parallel safe
return hashtext(p_key) & 4095;

-- Takes the locks of these keys until the end of the transaction, those that are free, and returns their slots.
create or replace function job_queue_try_locks(p_keys text[]) returns integer[]
language sql volatile
set search_path from current set enable_seqscan = off
as $$
    select coalesce(array_agg(l.slot), '{}') from (
        select slot from job_locks where slot = any (array(
            select distinct job_slot(k) from unnest(p_keys) k where k is not null))
        for update skip locked) l
$$;

-- Waits for the lock of a name and holds it until the end of the transaction.
create or replace function job_queue_lock_name(p_name text) returns void
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    select from job_locks where slot = -1 - (hashtext(p_name) & 63) for update
$$;

create or replace function job_key_is_busy(p_key text) returns boolean
language plpgsql stable parallel safe
set search_path from current set enable_seqscan = off set enable_sort = off set jit = off
as $$
begin
    -- The order makes the planner read the index of running keys.
    return (select true from job_queue q where q.concurrency_key = p_key and q.status = 'running'
        order by q.concurrency_key, q.key_place limit 1) is not null;
end
$$;

create or replace function job_clause_key_free(p_key text, p_task_type text) returns boolean
language sql stable parallel safe
return p_key is null or not job_key_is_busy(p_key) or not job_key_is_full(p_key, p_task_type);

-- Whether processing is on; false if the settings row is missing.
create or replace function job_switch_is_on(p_at timestamptz) returns boolean
language plpgsql stable
set search_path from current
as $$
begin
    return coalesce((select processing_enabled or resume_at <= p_at from job_queue_settings where id = 1), false);
end
$$;

-- Whether workers may take jobs: processing is on, and no earlier runner has the queue.
create or replace function job_clause_processing(p_at timestamptz) returns boolean
language plpgsql stable
set search_path from current
as $$
begin
    -- One query instead of a call of job_switch_is_on, because each claim asks this.
    return coalesce((select (processing_enabled or resume_at <= p_at) and runner = 'jobdeck'
        from job_queue_settings where id = 1), false);
end
$$;

-- The name under which the functions of an earlier runner claim.
create or replace function job_earlier_runner() returns text
language sql immutable parallel safe
return 'an earlier runner';

-- Those of these types that are not paused, in their order.
create or replace function job_types_open(p_types text[], p_at timestamptz) returns text[]
language plpgsql stable
set search_path from current
as $$
declare
    v_paused constant text[] := array(
        select t.task_type from job_types t
        where t.task_type = any (p_types) and t.paused_at is not null and (t.resume_at is null or t.resume_at > p_at));
begin
    if cardinality(v_paused) = 0 then
        return p_types;
    end if;
    return array(select u.name from unnest(p_types) with ordinality u (name, place)
        where u.name <> all (v_paused) order by u.place);
end
$$;

create or replace function job_clause_type_open(p_task_type text, p_at timestamptz) returns boolean
language plpgsql stable
set search_path from current
as $$
begin
    return cardinality(job_types_open(array[p_task_type], p_at)) = 1;
end
$$;

-- Whether a job of this type can run: the type is not paused, and a live worker handles it.
create or replace function job_type_can_run(p_task_type text, p_at timestamptz) returns boolean
language plpgsql stable
set search_path from current
as $$
begin
    return job_clause_type_open(p_task_type, p_at) and exists (
        select from job_workers where heartbeat_at > p_at - interval '2 minutes' and p_task_type = any (task_types));
end
$$;

-- All types of which a job can run, in order.
create or replace function job_types_that_can_run(p_at timestamptz) returns text[]
language plpgsql stable
set search_path from current
as $$
begin
    return array(
        select distinct t from job_workers w cross join unnest(w.task_types) t
        where w.heartbeat_at > p_at - interval '2 minutes' and job_clause_type_open(t, p_at) order by t);
end
$$;

-------------------------------------------------------------------------------------------------------
-- 5. Claim, heartbeat, checkpoint
-------------------------------------------------------------------------------------------------------

-- The lanes of some task types: each priority with claimable jobs, found by one index probe each.
create or replace function job_queue_lanes(p_types text[])
returns table (task_type text, priority integer)
language plpgsql stable
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
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

-- The same as job_queue_take_keys where each key lets one job run and no key has a rate: a few statements for all keys. The
-- caller has the locks of these slots.
create or replace function job_queue_take_single_keys(p_places tid[], p_slots integer[]) returns tid[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_nestloop = on set enable_hashjoin = on
set enable_sort = on set jit = off
as $$
declare
    v_keys text[];
    v_ids uuid[];
    v_refused tid[];
    v_others uuid[];
begin
    select array_agg(c.key) filter (where c.takes), array_agg(c.id) filter (where c.takes),
        array_agg(c.place) filter (where not c.takes)
    into v_keys, v_ids, v_refused
    from (
        select f.place, f.key, f.id, f.number = 1 and job_slot(f.key) = any (p_slots)
            -- The order makes the planner read the index of running keys.
            and (select true from job_queue r where r.concurrency_key = f.key and r.status = 'running'
                order by r.concurrency_key, r.key_place limit 1) is null as takes
        from (
            select q.ctid as place, q.id, q.concurrency_key as key,
                row_number() over (partition by q.concurrency_key order by q.priority desc, q.run_at, q.id) as number
            from job_queue q where q.ctid = any (p_places) and q.concurrency_key is not null
        ) f
        offset 0  -- so that each key is looked for once
    ) c;
    -- Other jobs in the claim's index with such a key (inserted out of order, or at the same time) would slow down
    -- every claim while the key is busy.
    v_others := array(
        select o.id from unnest(v_keys, v_ids) as t (key, id) cross join lateral (
            select q.id from job_queue q
            where q.concurrency_key = t.key and q.status = 'pending' and q.blocked_by is null and not q.in_line
                and q.id <> t.id
            order by q.concurrency_key, q.priority desc
        ) o);
    if cardinality(v_others) > 0 then
        update job_queue set in_line = true where id in (
            select q.id from job_queue q
            where q.id = any (v_others) and q.status = 'pending' and q.blocked_by is null and not q.in_line
            for update skip locked);
    end if;
    if v_refused is null then
        return p_places;
    end if;
    return array(select c.place from unnest(p_places) as c (place) where c.place <> all (v_refused));
end
$$;

-- Of the candidates, which the caller has locked, those that may run: the first in claim order of each concurrency key,
-- if no job with the key is running, or as many as their type lets run (p_several; else one). The key's lock is tried and
-- not waited for; it decides between two claims that do not see each other.
create or replace function job_queue_take_keys(p_places tid[], p_several boolean) returns tid[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_job record;
    v_refused tid[] := '{}';
    v_taken text[] := '{}';
    v_takers uuid[] := '{}';
    v_most integer;
    -- The types with a rate for each key, the keys whose rate is used up, and the jobs that wait in the lines of these.
    v_paced constant text[] := array(select t.task_type from job_types t where t.key_rate_runs is not null);
    v_held text[] := '{}';
    v_waiting uuid[] := '{}';
    v_now constant timestamptz := clock_timestamp();
    v_opens timestamptz;
    v_slots constant integer[] := job_queue_try_locks(array(
        select q.concurrency_key from job_queue q where q.ctid = any (p_places) and q.concurrency_key is not null));
begin
    if not p_several and cardinality(v_paced) = 0 then
        return job_queue_take_single_keys(p_places, v_slots);
    end if;
    for v_job in
        select q.ctid as place, q.id, q.task_type, q.concurrency_key as key from job_queue q
        where q.ctid = any (p_places) and q.concurrency_key is not null
        order by q.priority desc, q.run_at, q.id
    loop
        if job_slot(v_job.key) <> all (v_slots) or v_job.key = any (v_held) then
            v_refused := v_refused || v_job.place;
            v_waiting := v_waiting || case when v_job.key = any (v_held) then v_job.id end;
            continue;
        elsif v_job.key = any (v_taken) or job_key_is_busy_now(v_job.key) then
            v_most := case when p_several then job_key_limit(v_job.task_type) else 1 end;
            if v_most = 1 or v_most <= job_key_running_now(v_job.key)
                + coalesce(cardinality(array_positions(v_taken, v_job.key)), 0)
            then
                v_refused := v_refused || v_job.place;
                continue;
            end if;
        end if;
        if v_job.task_type = any (v_paced) then
            -- An erasure takes long, and is not waited for.
            if not job_key_rates_lock(v_job.key) then
                v_refused := v_refused || v_job.place;
                continue;
            end if;
            v_opens := job_key_opens(v_job.key, v_job.task_type, v_now);
            if v_opens > v_now then
                v_refused := v_refused || v_job.place;
                if job_key_hold(v_job.id, v_opens, v_now) then
                    v_held := v_held || v_job.key;
                else
                    v_waiting := v_waiting || v_job.id;
                end if;
                continue;
            end if;
            perform job_key_spend(v_job.key, v_job.task_type, v_now);
        end if;
        v_taken := v_taken || v_job.key;
        v_takers := v_takers || v_job.id;
    end loop;
    update job_queue set in_line = true where id = any (v_waiting);
    -- Other jobs in the claim's index with such a key (inserted out of order, or at the same time) would slow down
    -- every claim while the key is busy.
    update job_queue set in_line = true where id in (
        select q.id from job_queue q
        where q.concurrency_key = any (v_taken) and q.status = 'pending' and q.blocked_by is null and not q.in_line
            and q.id <> all (v_takers) and (job_key_limit(q.task_type) = 1 or job_key_limit(q.task_type)
                <= job_key_running_now(q.concurrency_key) + cardinality(array_positions(v_taken, q.concurrency_key)))
        for update skip locked);
    return array(select c.place from unnest(p_places) as c (place) where c.place <> all (v_refused));
end
$$;

-- Called with a lock held, so it must see rows that were committed since the claim began: therefore volatile.
create or replace function job_key_is_busy_now(p_key text) returns boolean
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_sort = off set jit = off
as $$
begin
    return (select true from job_queue where concurrency_key = p_key and status = 'running' order by key_place limit 1)
        is not null;
end
$$;

drop function if exists job_queue_claim(text, text[], integer, double precision);
-- Claims up to p_limit jobs of the given types for a worker, best first.
--
-- Constant conditions (switch, paused types) are read first. Then each lane is one range of one index, so that jobs
-- that are not due, of other types, blocked or behind a busy key cost nothing. The planner's settings force that plan
-- whatever the statistics say.
--
-- Under load, the dead index entries of jobs claimed since the last vacuum come before the next jobs, and every claim
-- has to skip all of them. So a worker may pass the lanes and the last claimed job of each (p_lane_...). Then only jobs
-- behind those are read; jobs that came before them meanwhile are left to the next claim without lanes.
create or replace function job_queue_claim(
    p_worker text, p_types text[], p_limit integer, p_lease_seconds double precision,
    p_lane_types text[] default null, p_lane_priorities integer[] default null,
    p_lane_run_at timestamptz[] default null, p_lane_ids uuid[] default null
) returns table (
    id uuid, run_token bigint, task_type text, payload jsonb, attempt integer, max_attempts integer,
    due_at timestamptz, claimed_at timestamptz, is_recurring boolean, checkpoint jsonb, cycle integer, priority integer
)
language plpgsql volatile security definer
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_open text[];
    v_canary boolean;
    v_on boolean;
    v_lines boolean;
    v_missed boolean;
    v_paused boolean;
    v_due_series boolean;
    v_types text[];
    v_priorities integer[];
    v_run_at timestamptz[];
    v_ids uuid[];
    v_quotas integer[];
    v_room integer;
    v_wanted bigint;
    v_series tid[] := '{}';
    v_places tid[];
    v_more tid[];
    v_keyed boolean;
    v_several boolean;
    -- The types with limits, those of them that have places, and these places; the places of the type of each lane.
    v_limited text[];
    v_open_types text[];
    v_open_places integer[];
    v_free integer[];
    -- With limits: whether all lanes have the same priority, so that no type has two of them; whether there is room for
    -- all that the types have places for.
    v_level boolean;
    v_whole boolean;
    v_key_jobs tid[];
    v_key_numbers smallint[];
begin
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    -- One query for all that a claim has to know before it looks for jobs: some of these are rules that have functions, whose
    -- calls would take longer than the query.
    select exists (select from job_canaries c where c.task_type = any (p_types) and c.run_token is null),
        coalesce((select (s.processing_enabled or s.resume_at <= v_now)
                and (s.runner = 'jobdeck' or p_worker = job_earlier_runner())
            from job_queue_settings s where s.id = 1), false),
        exists (select from job_lines_due where retry_at <= v_now),
        exists (select from job_queue q where q.status = 'pending' and q.blocked_by is null and q.slot_at is null
            and q.schedule ->> 'catch_up' = 'none' and q.run_at <= v_now - interval '1 minute'),
        exists (select from job_types t where t.task_type = any (p_types) and (t.set_aside
            or t.paused_at is not null and (t.resume_at is null or t.resume_at > v_now))),
        array(select t.task_type from job_types t where t.limited and t.task_type = any (p_types)),
        exists (select from job_queue q where q.is_recurring and job_clause_pending(q.status)
            and job_clause_due(q.run_at, v_now))
    into v_canary, v_on, v_lines, v_missed, v_paused, v_limited, v_due_series;
    if v_canary and p_worker <> job_earlier_runner() then
        return query select * from job_queue_take_canary(p_worker, p_types, p_lease_seconds);
        if found then
            return;
        end if;
    end if;
    if p_limit < 1 or not v_on then
        return;
    end if;
    if v_lines then
        perform job_queue_retry_lines(v_now);
    end if;
    if v_missed then
        perform job_series_pass_missed(v_now);
    end if;
    v_open := p_types;
    if v_paused then
        v_open := job_types_open(p_types, v_now);
        if p_worker = job_earlier_runner() then
            -- The earlier runner takes jobs of types that are set aside for it.
            v_open := v_open || array(select t.task_type from job_types t
                where t.set_aside and t.task_type = any (p_types) and t.task_type <> all (v_open));
        end if;
    end if;
    if p_lane_types is null then
        select array_agg(l.task_type), array_agg(l.priority), array_agg('-infinity'::timestamptz),
            array_agg('00000000-0000-0000-0000-000000000000'::uuid)
        into v_types, v_priorities, v_run_at, v_ids
        from job_queue_lanes(v_open) l;
    else
        select array_agg(l.task_type), array_agg(l.priority), array_agg(l.run_at), array_agg(l.id)
        into v_types, v_priorities, v_run_at, v_ids
        from unnest(p_lane_types, p_lane_priorities, p_lane_run_at, p_lane_ids) as l (task_type, priority, run_at, id)
        where l.task_type = any (v_open);
    end if;
    if v_types is null then
        return;
    end if;
    if v_limited && v_types then
        v_limited := array(select u from unnest(v_limited) u where u = any (v_types));
        select a.types, a.places, a.counted_at into v_open_types, v_open_places, v_now
        from job_limits_admit(v_limited, p_worker, p_limit, v_types <@ v_limited) a;
        select array_agg(l.task_type), array_agg(l.priority), array_agg(l.run_at), array_agg(l.id),
            array_agg(o.places)
        into v_types, v_priorities, v_run_at, v_ids, v_free
        from unnest(v_types, v_priorities, v_run_at, v_ids) as l (task_type, priority, run_at, id)
        left join unnest(v_open_types, v_open_places) as o (task_type, places) on o.task_type = l.task_type
        where l.task_type <> all (v_limited) or o.places is not null;
        if v_types is null then
            return;
        end if;
        v_level := (select min(u) = max(u) from unnest(v_priorities) u);
    end if;

    -- Behind more due jobs than this claim takes, up to half of it are series, which would come too late otherwise. A
    -- claim of one job takes a series every second time. The second round ranks for the places that the series leave.
    loop
        v_room := p_limit - cardinality(v_series);
        v_wanted := v_room;
        v_quotas := array[v_room];
        if v_level then
            v_whole := (select sum(coalesce(u, p_limit)) from unnest(v_free) u) <= v_room;
        end if;
        if v_whole then
            -- A lane of a type without limits has no number of its own, which would be no limit at all.
            v_quotas := array(select coalesce(u, v_room) from unnest(v_free) u);
            v_wanted := (select sum(u) from unnest(v_quotas) u);
        elsif not v_level then
            v_quotas := job_limits_rank(v_types, v_priorities, v_run_at, v_ids, v_free, v_room, v_now, v_series);
            v_wanted := (select sum(u) from unnest(v_quotas) u);
        elsif array_length(v_types, 1) > 1 then
            v_quotas := array(
                select coalesce(h.jobs, 0)::integer from generate_subscripts(v_types, 1) as s (place)
                left join (
                    select best.place, count(*) as jobs
                    from (
                        select l.place
                        from unnest(v_types, v_priorities, v_run_at, v_ids, v_free) with ordinality
                            as l (task_type, priority, run_at, id, free, place)
                        cross join lateral (
                            select q.run_at, q.id from job_queue q
                            where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                                and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type
                                and q.priority = l.priority and (q.run_at, q.id) > (l.run_at, l.id)
                                and job_clause_due(q.run_at, v_now)
                                and job_clause_unexpired(q.expires_at, v_now)
                                and job_clause_key_free(q.concurrency_key, q.task_type) and q.ctid <> all (v_series)
                            order by q.run_at, q.id limit least(v_room, l.free)
                        ) c
                        order by l.priority desc, c.run_at, c.id limit v_room
                    ) best
                    group by best.place
                ) h on h.place = s.place
                order by s.place);
            v_wanted := (select sum(u) from unnest(v_quotas) u);
        end if;
        -- A type with limits may have more due jobs than places.
        exit when not v_due_series or v_wanted < p_limit and (v_open_types is null or cardinality(v_series) > 0);
        -- The index holds series by their due time; those of the best priority are chosen among the first thousand.
        v_series := array(
            select q.ctid from job_queue q
            where q.is_recurring and job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                and job_clause_first_in_line(q.in_line) and job_clause_due(q.run_at, v_now)
                and q.priority >= (select max(l.priority) from unnest(v_priorities, v_quotas) as l (priority, quota)
                    where l.quota > 0)
                and q.task_type = any (v_types)
                and job_clause_unexpired(q.expires_at, v_now) and job_clause_key_free(q.concurrency_key, q.task_type)
            order by q.run_at limit 1000);
        exit when cardinality(v_series) = 0;
        v_series := array(
            select q.ctid from job_queue q
            where q.ctid = any (v_series) and job_clause_pending(q.status) and job_clause_first_in_line(q.in_line)
            order by q.priority desc, q.run_at, q.id limit greatest(p_limit / 2, round(random())::integer)
            for update of q skip locked);
        if v_open_types is not null then
            v_series := job_limits_within(v_series, v_open_types,
                array(select greatest(u / 2, round(random())::integer) from unnest(v_open_places) u));
            v_free := job_limits_left(v_types, v_free, v_series);
        end if;
        exit when cardinality(v_series) = 0;
    end loop;
    if v_wanted = 0 and cardinality(v_series) = 0 then
        return;
    end if;

    select v_series || array_agg(c.ctid), bool_or(c.keyed) or cardinality(v_series) > 0 into v_places, v_keyed
    from (
        select c.ctid, c.keyed
        from unnest(v_types, v_priorities, v_run_at, v_ids, v_quotas) as l (task_type, priority, run_at, id, quota)
        cross join lateral (
            select q.ctid, q.concurrency_key is not null as keyed from job_queue q
            where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type and q.priority = l.priority
                and (q.run_at, q.id) > (l.run_at, l.id) and job_clause_due(q.run_at, v_now)
                and job_clause_unexpired(q.expires_at, v_now) and job_clause_key_free(q.concurrency_key, q.task_type)
                and q.ctid <> all (v_series)
            order by q.run_at, q.id limit l.quota
            for update of q skip locked
        ) c
    ) c;
    -- The ranking of several lanes also counted jobs that are locked. Others take their places, best lane first.
    if cardinality(v_places) < v_wanted + cardinality(v_series) and array_length(v_types, 1) > 1
        and v_whole is not true
    then
        v_more := array(
            select c.ctid
            from (
                select * from unnest(v_types, v_priorities, v_run_at, v_ids, v_free)
                    as u (task_type, priority, run_at, id, free)
                order by u.priority desc
            ) l
            cross join lateral (
                select q.ctid from job_queue q
                where job_clause_pending(q.status) and job_clause_unblocked(q.blocked_by)
                    and job_clause_first_in_line(q.in_line) and q.task_type = l.task_type and q.priority = l.priority
                    and (q.run_at, q.id) > (l.run_at, l.id) and job_clause_due(q.run_at, v_now)
                    and job_clause_unexpired(q.expires_at, v_now) and job_clause_key_free(q.concurrency_key, q.task_type)
                    and q.ctid <> all (v_places)
                order by q.run_at, q.id limit least(p_limit - cardinality(v_places), l.free)
                for update of q skip locked
            ) c
            limit p_limit - cardinality(v_places));
        v_places := v_places || v_more;
        v_keyed := true;
        if v_open_types is not null then
            v_places := job_limits_within(v_places, v_open_types, v_open_places);
        end if;
    end if;
    if v_keyed then
        -- Asked once: with a limit that is raised between the two, jobs would start that get no place.
        v_several := exists (select from job_types t where t.max_per_key > 1 and t.task_type = any (v_types));
        v_places := job_queue_take_keys(v_places, v_several);
        if v_several then
            select k.jobs, k.numbers into v_key_jobs, v_key_numbers from job_key_places(v_places) k;
        end if;
    end if;
    assert cardinality(v_places) <= p_limit, 'job_queue_claim would take more jobs than it was asked for';
    -- Two conditions, since a query costs something even where no type has a limit.
    if v_open_types is not null then
        if exists (select from job_types t where t.rate_runs is not null and t.task_type = any (v_open_types)) then
            perform job_limits_spend(v_places, v_open_types, v_now);
        end if;
    end if;

    return query
    with taken as (
        update job_queue q
        set status = 'running', attempts = q.attempts + 1, run_token = nextval('job_run_token_seq'),
            locked_by = p_worker, started_at = v_now, updated_at = v_now, version = q.version + 1,
            lease_expires_at = v_now + make_interval(secs => p_lease_seconds),
            anchor_at = case when q.is_recurring then coalesce(q.anchor_at, q.run_at) end,
            limited = v_open_types is not null and q.task_type = any (v_limited),
            key_place = case when v_key_jobs is not null then v_key_numbers[array_position(v_key_jobs, q.ctid)] end
        -- The rows are locked, so their ctid has not changed.
        where q.ctid = any (v_places)
        returning q.id, q.run_token, q.task_type, q.payload, q.attempts, q.max_attempts, q.run_at, q.slot_at,
            q.is_recurring, q.checkpoint, q.cycle, q.priority
    )
    select t.id, t.run_token, t.task_type, t.payload, t.attempts, t.max_attempts, coalesce(t.slot_at, t.run_at), v_now,
        t.is_recurring, t.checkpoint, t.cycle, t.priority
    from taken t order by t.priority desc, t.run_at, t.id;
end
$$;

-- Of these jobs, those that were enqueued by a span or whose newest run had one. Only workers that record traces ask.
create or replace function job_queue_traces(p_ids uuid[])
returns table (job_id uuid, trace_context text, run_trace text)
language plpgsql stable security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
begin
    perform job_refuse_outsiders();
    return query select q.id, q.trace_context, q.run_trace from job_queue q
    where q.id = any (p_ids) and (q.trace_context is not null or q.run_trace is not null);
end
$$;

-- The due time, past or future, of the next job of these types; null if none is in the claim's index.
create or replace function job_queue_next_due(p_types text[], out at timestamptz, out next_due timestamptz)
language plpgsql stable security definer
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_limited constant text[] := array(select t.task_type from job_types t where t.limited and t.task_type = any (p_types));
begin
    perform job_refuse_outsiders();
    at := clock_timestamp();
    if not job_clause_processing(at) then
        return;
    end if;
    select min(greatest(h.run_at, case when l.task_type = any (v_limited) then (
        select s.opens_at from job_limit_state(l.task_type, at) s) end)) into next_due
    from job_queue_lanes(job_types_open(p_types, at)) l
    cross join lateral (
        select q.run_at from job_queue q
        where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
            and q.priority = l.priority and job_clause_key_free(q.concurrency_key, q.task_type)
        order by q.run_at, q.id limit 1
    ) h;
    next_due := least(next_due, (select min(l.retry_at) from job_lines_due l));
end
$$;

-- Renews the leases of all jobs that a worker holds, stores their progress, and returns which of them are still its own
-- and which an operator asked to cancel. A job whose row another transaction has locked is not waited for: its lease is
-- not renewed, and there is no answer for it.
create or replace function job_queue_heartbeat(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_progress jsonb[], p_lease_seconds double precision
) returns table (job_id uuid, run_token bigint, alive boolean, cancel_requested boolean)
language sql volatile security definer
set search_path from current set enable_seqscan = off set enable_nestloop = off set jit = off
as $$
    select job_refuse_outsiders();
    with held as (
        select h.id, h.token, h.progress from unnest(p_ids, p_tokens, p_progress) as h (id, token, progress)
    ), own as materialized (
        select q.id, q.run_token from job_queue q join held h on h.id = q.id and h.token = q.run_token
        -- Only running jobs have a token. With their status as well, the index of all running jobs would be read.
        where q.id = any (p_ids) and q.locked_by = p_worker
    ), mine as (
        select q.id, q.run_token from job_queue q join held h on h.id = q.id and h.token = q.run_token
        where q.id = any (p_ids) and q.status = 'running' and q.locked_by = p_worker
        order by q.id for update of q skip locked
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
    left join own o on o.id = h.id and o.run_token = h.token
    where r.id is not null or o.id is null
$$;

-- Saves a checkpoint of a running job; false if the token no longer holds the job.
create or replace function job_queue_checkpoint(p_id uuid, p_token bigint, p_checkpoint jsonb)
returns boolean
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    with kept as (
        update job_queue set checkpoint = p_checkpoint, updated_at = clock_timestamp()
        where id = p_id and run_token = p_token and status = 'running' returning id
    )
    select exists (select from kept)
$$;

-------------------------------------------------------------------------------------------------------
-- 6. Finish
-------------------------------------------------------------------------------------------------------

-- The first slot of an interval after a time: anchor + k x interval, never before the anchor.
create or replace function job_next_slot(p_anchor timestamptz, p_interval interval, p_after timestamptz)
returns timestamptz
language sql immutable parallel safe
return case
    when p_anchor > p_after then p_anchor
    else date_bin(p_interval, p_after, p_anchor) + p_interval
end;

-- The due time of a cron series whose slots are used up, until a worker writes more: beyond all clocks.
create or replace function job_no_slot() returns timestamptz
language sql immutable parallel safe
return '9999-12-30 00:00+00'::timestamptz;

-- The first of these slots after a time.
create or replace function job_first_slot(p_slots timestamptz[], p_after timestamptz) returns timestamptz
language sql immutable parallel safe
return coalesce((select min(s) from unnest(p_slots) s where s > p_after), job_no_slot());

-- The next slot of a series after a time. None is before the anchor, so that a slot that was skipped does not come back.
create or replace function job_series_slot(
    p_minutes integer, p_schedule jsonb, p_slots timestamptz[], p_anchor timestamptz, p_after timestamptz
) returns timestamptz
language sql immutable parallel safe
return case
    when p_slots is not null
        then job_first_slot(p_slots, greatest(p_after, nullif(p_anchor, job_no_slot()) - interval '1 microsecond'))
    else job_next_slot(p_anchor, coalesce(make_interval(mins => p_minutes),
        make_interval(secs => (p_schedule ->> 'seconds')::double precision)), p_after)
end;

-- Whether each slot of a series is run, also those that were missed. Its runs are retried and put off past the next slot.
create or replace function job_series_runs_all(p_schedule jsonb) returns boolean
language sql immutable parallel safe
return coalesce(p_schedule ->> 'catch_up' = 'all', false);

-- Seconds to wait before the next attempt: doubling from the base up to the cap, 50 to 100 % of it.
create or replace function job_backoff(p_attempt integer, p_base double precision, p_cap double precision)
returns double precision
language sql volatile parallel safe
return least(p_cap, p_base * power(2::double precision, least(greatest(p_attempt, 1) - 1, 60))) * (0.5 + random() / 2);

-- The delay that a handler asked for, limited to 0 to 1 year.
create or replace function job_delay(p_seconds double precision) returns interval
language sql immutable parallel safe
return make_interval(secs => least(greatest(coalesce(p_seconds, 0), 0), 31536000));

-- The outcomes that count as failures; else those that count as successes. All others count as neither. An index
-- repeats the first list.
create or replace function job_outcomes(p_failures boolean) returns text[]
language sql immutable parallel safe
return case when p_failures then array['failed', 'retried', 'lost'] else array['succeeded', 'partial', 'continued'] end;

-- An error without ids, numbers, times and quoted text.
create or replace function job_error_pattern(p_error text) returns text
language sql immutable parallel safe
return regexp_replace(
    regexp_replace(left(coalesce(p_error, ''), 500), '"[^"]*"|''[^'']*''', '"?"', 'g'),
    '[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|[0-9a-fA-F]*[0-9][0-9a-fA-F]*', '#', 'g');

-- Groups errors that differ only in these.
create or replace function job_error_fingerprint(p_kind text, p_error text) returns text
language sql immutable parallel safe
return substr(md5(coalesce(p_kind, '') || ':' || job_error_pattern(p_error)), 1, 12);

-- The lower edges of the bins of waits and durations in seconds, each 1.41 times the one before, from 1 ms to 99 days.
create or replace function job_stat_edges() returns double precision[]
language sql immutable parallel safe
return (select array_agg(0.001 * 2 ^ (k / 2.0::double precision) order by k) from generate_series(0, 66) k);

-- The bins of a wait and a duration in one number, 128 times the first and the second. Bin 1 is below the first edge, and
-- each edge begins the next.
create or replace function job_stat_bins(p_wait interval, p_duration interval) returns smallint
language sql immutable parallel safe
return (width_bucket(date_part('epoch', p_wait), job_stat_edges()) * 128 + 129
    + width_bucket(date_part('epoch', p_duration), job_stat_edges()))::smallint;

-- A time in seconds. A run may start before its job is due, and a clock may step back: a sum of times never becomes smaller.
create or replace function job_stat_seconds(p_time interval) returns double precision
language sql immutable parallel safe
return greatest(date_part('epoch', p_time), 0);

-- The start of the bucket of this many minutes that has a time. There is one bucket of 0 minutes, for all times.
create or replace function job_stat_bucket(p_minutes integer, p_time timestamptz) returns timestamptz
language sql immutable parallel safe
return case when p_minutes = 0 then '2000-01-01 00:00+00'::timestamptz
    else date_bin(p_minutes * '1 minute'::interval, p_time, '2000-01-01 00:00+00'::timestamptz) end;

-- Whether a run changed nothing: its worker reports so, or its payload asked for it, which is all that is known of a lost
-- run and of one whose worker is older. Payloads may spell the field in both ways.
create or replace function job_run_is_dry(p_payload jsonb, p_details jsonb) returns boolean
language sql immutable parallel safe
return coalesce((p_details ->> 'dry_run')::boolean, false) or coalesce(p_payload -> 'dryRun' = 'true'::jsonb,
    p_payload -> 'dry_run' = 'true'::jsonb, false);

-- The next job of each lane of a line, the lanes being its task types (of p_types, if that is not null) and priorities.
-- A few index probes for each lane, however long the line is.
create or replace function job_queue_line_lanes(p_key text, p_types text[])
returns table (task_type text, priority integer, run_at timestamptz, id uuid)
language plpgsql stable
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
begin
    return query
    with recursive type (name) as (
        (select q.task_type from job_queue q
        where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
        order by q.concurrency_key, q.task_type limit 1)
        union all
        select (select q.task_type from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
                and q.task_type > t.name
            order by q.concurrency_key, q.task_type limit 1)
        from type t where t.name is not null
    ), lane (task_type, priority, run_at, id) as (
        select first.* from type t cross join lateral (
            select q.task_type, q.priority, q.run_at, q.id from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
                and q.task_type = t.name
            order by q.concurrency_key, q.task_type, q.priority desc, q.run_at, q.id limit 1
        ) first
        where p_types is null or t.name = any (p_types)
        union all
        select next.* from lane l cross join lateral (
            select q.task_type, q.priority, q.run_at, q.id from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
                and q.task_type = l.task_type and q.priority < l.priority
            order by q.concurrency_key, q.task_type, q.priority desc, q.run_at, q.id limit 1
        ) next
    )
    select lane.task_type, lane.priority, lane.run_at, lane.id from lane;
end
$$;

-- The next job in a line, of these types (null: of any), locked: the best of those that are due, else the one due first.
-- A locked job gives way to the next that is due. Null if there is none.
create or replace function job_queue_lock_next_in_line(p_key text, p_at timestamptz, p_types text[])
returns job_queue
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_job job_queue;
    v_next uuid;
begin
    select l.id into v_next from job_queue_line_lanes(p_key, p_types) l
    order by l.run_at > p_at, case when l.run_at <= p_at then l.priority end desc, l.run_at, l.priority desc, l.id
    limit 1;
    if v_next is null then
        return null;
    end if;
    -- By its id alone: with the line's predicate, the planner may read the whole line for it.
    select * into v_job from job_queue q where q.id = v_next for update skip locked;
    if v_job.concurrency_key is distinct from p_key or v_job.status <> 'pending' or v_job.blocked_by is not null
        or not v_job.in_line
    then
        insert into job_lines_due values (p_key, p_at + interval '1 second');
        select c.* into v_job from job_queue_line_lanes(p_key, p_types) l
        cross join lateral (
            select * from job_queue q
            where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and q.in_line
                and q.task_type = l.task_type and q.priority = l.priority and q.run_at <= p_at
            order by q.concurrency_key, q.task_type, q.priority desc, q.run_at, q.id limit 1 for update skip locked
        ) c
        order by c.priority desc, c.run_at, c.id limit 1;
    end if;
    return v_job;
end
$$;

-- Puts the next job of a line, of these types (null: of any), into the claim's index, and returns its type. Another job
-- of the key that is there and due keeps it out, unless this job can run and the other cannot. The caller has the lock
-- of the key.
create or replace function job_queue_put_first(p_key text, p_now timestamptz, p_types text[]) returns text
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_job constant job_queue := job_queue_lock_next_in_line(p_key, p_now, p_types);
begin
    -- The order makes the planner read the index of the heads of lines.
    if v_job.id is not null and (
        select true from job_queue q
        where q.concurrency_key = p_key and q.status = 'pending' and q.blocked_by is null and not q.in_line
            and q.run_at <= greatest(v_job.run_at, p_now)
            and (job_type_can_run(q.task_type, p_now) or not job_type_can_run(v_job.task_type, p_now))
        order by q.priority desc limit 1
    ) is null then
        update job_queue set in_line = false where id = v_job.id;
    end if;
    return v_job.task_type;
end
$$;

-- Puts these jobs, each the next of one of these lines, into the claim's index, and returns the other keys. No job that
-- another transaction has locked is put there, nor one that has left its line.
create or replace function job_queue_put_all_first(p_keys text[], p_jobs uuid[]) returns text[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_free uuid[];
    v_keys text[];
begin
    select array_agg(l.id), array_agg(l.concurrency_key) into v_free, v_keys from (
        select q.id, q.concurrency_key, q.status, q.blocked_by, q.in_line from job_queue q
        where q.id = any (array_remove(p_jobs, null))
        offset 0  -- By their ids alone: with the line's predicate, the planner may read whole lines for them.
        for update skip locked
    ) l
    where l.concurrency_key = any (p_keys) and l.status = 'pending' and l.blocked_by is null and l.in_line;
    if v_free is null then
        return p_keys;
    end if;
    update job_queue set in_line = false where id = any (v_free);
    return array(select k from unnest(p_keys) k where k <> all (v_keys) order by k);
end
$$;

-- Puts the next job of each line into the claim's index, unless a job of the key runs. If its type cannot run (paused, or
-- no live worker handles it), it stays there, and the next of a type that can run is put beside it. No lock is waited
-- for: a key whose lock is not free is written to job_lines_due, to be tried again after p_delay. Returns the number of
-- keys whose lock was not free.
create or replace function job_queue_try_lines(p_keys text[], p_delay interval) returns integer
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_slots constant integer[] := job_queue_try_locks(p_keys);
    v_later text[];
    v_lines text[];
    v_heads text[];
    v_busy boolean[];
    v_next uuid[];
    v_next_types text[];
    v_several boolean;
    v_key text;
    v_type text;
    v_open_types text[];
begin
    select array_agg(k.key) filter (where not k.mine),
        array_agg(k.key) filter (where k.waits), array_agg(k.busy) filter (where k.waits),
        array_agg(case when k.waits then (
            select q.task_type from job_queue q
            where q.concurrency_key = k.key and q.status = 'pending' and q.blocked_by is null and not q.in_line
                and q.run_at <= v_now
            order by q.concurrency_key, q.priority desc limit 1) end) filter (where k.waits),
        array_agg(k.next) filter (where k.waits), array_agg(k.next_type) filter (where k.waits)
    into v_later, v_lines, v_busy, v_heads, v_next, v_next_types
    from (
        select d.key, d.mine, f.id is not null as waits, f.id is not null and (
            select true from job_queue r where r.concurrency_key = d.key and r.status = 'running'
            order by r.concurrency_key, r.key_place limit 1) is not null as busy,
            -- The next one of a line is known where all of it is of one type, and the first one in the index is due.
            case when f.run_at <= v_now and f.task_type = (
                select q.task_type from job_queue q
                where q.concurrency_key = d.key and q.status = 'pending' and q.blocked_by is null and q.in_line
                order by q.concurrency_key desc, q.task_type desc, q.priority, q.run_at desc, q.id desc limit 1)
            then f.id end as next, f.task_type as next_type
        from (
            select k as key, job_slot(k) = any (v_slots) as mine
            from (select distinct k from unnest(p_keys) k where k is not null) each
        ) d
        -- Most keys of one-time jobs have nothing that waits.
        left join lateral (
            select q.id, q.task_type, q.run_at from job_queue q
            where d.mine and q.concurrency_key = d.key and q.status = 'pending' and q.blocked_by is null and q.in_line
            order by q.concurrency_key, q.task_type, q.priority desc, q.run_at, q.id limit 1
        ) f on true
        offset 0  -- so that each key is looked for once
    ) k;
    if v_lines is not null then
        v_several := exists (select from job_types t where t.max_per_key > 1);
        if not v_several then
            -- A key of which a job runs stays as it is, and one whose first job is due and can run.
            v_open_types := array(select t from (select distinct unnest(v_heads || v_next_types) as t) each
                where t is not null and job_type_can_run(t, v_now));
            select array_agg(l.key order by l.key),
                array_agg(l.next) filter (where l.head is null and l.next_type = any (v_open_types))
            into v_lines, v_next
            from unnest(v_lines, v_busy, v_heads, v_next, v_next_types) as l (key, busy, head, next, next_type)
            where not l.busy and (l.head is null or l.head <> all (v_open_types));
            v_lines := job_queue_put_all_first(v_lines, v_next);
            v_open_types := null;
        end if;
        foreach v_key in array coalesce(v_lines, '{}') loop
            if not job_key_is_busy_now(v_key) then
                v_type := job_queue_put_first(v_key, v_now, null);
                -- No type, if the next job is locked and no other is due.
                if v_type is null or v_type <> all (v_open_types)
                    or v_open_types is null and not job_type_can_run(v_type, v_now)
                then
                    v_open_types := coalesce(v_open_types, job_types_that_can_run(v_now));
                    perform job_queue_put_first(v_key, v_now, v_open_types);
                end if;
            end if;
            while v_several and job_queue_put_beside(v_key, v_now) loop
            end loop;
        end loop;
    end if;
    if v_later is null then
        return 0;
    end if;
    insert into job_lines_due select k, v_now + p_delay from unnest(v_later) k;
    return cardinality(v_later);
end
$$;

-- The same for the end of a run or an action. The lock of a key is held for milliseconds, so idle workers are woken to try
-- again at once.
create or replace function job_queue_advance_lines(p_keys text[]) returns void
language plpgsql volatile
set search_path from current
as $$
begin
    if job_queue_try_lines(p_keys, interval '0') > 0 then
        perform pg_notify(current_schema() || '.job_queue', '');
    end if;
end
$$;

-- Tries again to advance lines whose lock was not free.
create or replace function job_queue_retry_lines(p_now timestamptz) returns void
language plpgsql volatile
set search_path from current set jit = off
as $$
declare
    v_keys text[];
begin
    with taken as (
        delete from job_lines_due where ctid = any (array(
            select ctid from job_lines_due where retry_at <= p_now limit 500 for update skip locked))
        returning concurrency_key
    )
    select array_agg(concurrency_key) into v_keys from taken;
    if v_keys is not null then
        perform job_queue_try_lines(v_keys, interval '0.2 seconds');
    end if;
end
$$;

-- The jobs that wait for these blockers, locked, up to 1,000. Blockers with more of them, or with waiting jobs that another
-- transaction has locked, are written to job_recheck.
create or replace function job_queue_lock_waiting(p_blockers uuid[]) returns uuid[]
language plpgsql volatile
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_nestloop = on
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_most constant integer := 1000;
    v_found uuid[];
    v_locked uuid[];
begin
    -- With an equality the planner might use another index than the one that begins with blocked_by.
    v_found := array(
        select w.id from unnest(p_blockers) as b (id) cross join lateral (
            -- Not a paused series, which blocks itself.
            select q.id from job_queue q where q.status = 'pending' and q.blocked_by between b.id and b.id
                and q.id <> b.id
            order by q.blocked_by, q.id) w
        limit v_most);
    if cardinality(v_found) = 0 then
        return v_found;
    end if;
    v_locked := array(
        select q.id from job_queue q
        where q.id = any (v_found) and q.status = 'pending' and q.blocked_by = any (p_blockers)
        order by q.id for update skip locked);
    if cardinality(v_locked) < cardinality(v_found) or cardinality(v_found) = v_most then
        perform job_queue_ask_recheck(null, array(
            select b from unnest(p_blockers) b where exists (
                select from job_queue q where q.status = 'pending' and q.blocked_by between b and b
                    and q.id <> b and q.id <> all (v_locked))));
    end if;
    return v_locked;
end
$$;

-- Releases jobs whose blocker succeeded, and cancels jobs (and the jobs that wait for them) whose blocker can no longer
-- succeed. Members of flows are judged by all their blockers. Returns the keys whose lines the caller has to advance.
create or replace function job_queue_release_waiting(p_succeeded uuid[], p_hopeless uuid[], p_reason text)
returns text[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_waiting uuid[] := job_queue_lock_waiting(p_succeeded);
    v_ended uuid[] := p_hopeless;
    v_judged record;
    v_keys text[];
begin
    if cardinality(v_waiting) > 0 then
        v_judged := job_flow_release(v_waiting);
        v_ended := v_ended || v_judged.cancelled;
        with released as (
            update job_queue set blocked_by = null, updated_at = v_now, version = version + 1,
                in_line = concurrency_key is not null
            where id = any (v_judged.others)
            returning concurrency_key
        )
        select array_agg(concurrency_key) || v_judged.keys into v_keys from released;
    end if;
    while cardinality(v_ended) > 0 loop
        v_judged := job_flow_fail(v_ended, job_queue_lock_waiting(v_ended));
        update job_queue set status = 'cancelled', completed_at = v_now, updated_at = v_now,
            version = version + 1, last_outcome = 'cancelled',
            last_error = format('Cancelled because its blocker, job %s, %s.', blocked_by, p_reason)
        where id = any (v_judged.others);
        v_ended := v_judged.others || v_judged.cancelled;
        -- Those who report an end without success do not expect keys.
        perform job_queue_advance_lines(v_judged.keys);
    end loop;
    return v_keys;
end
$$;

drop function if exists job_queue_settle(
    text, uuid[], bigint[], text[], timestamptz[], timestamptz[], jsonb[], double precision, double precision);
do $$
begin
    if to_regtype('job_queue_move') is null then
        create type job_queue_move as (
            id uuid, token bigint, move text, is_recurring boolean, is_over boolean, slot timestamptz,
            retry_at timestamptz, outcome text, started_at timestamptz, finished_at timestamptz, details jsonb,
            key text, cancelled_by text, recorded text
        );
    end if;
end
$$;

-- The details of a run that puts its job off, and gives up some time after the first of such runs in a row: with `gave_up`
-- once that time is over. The row ends with a run of another kind, unless that run was handed back or lost; with a failure
-- of a job that is not recurring, which somebody has retried; and with what an operator does to the job. A series that has
-- given up fails at each slot.
create or replace function job_queue_put_off(p_id uuid, p_is_recurring boolean, p_details jsonb, p_now timestamptz)
returns jsonb
language plpgsql stable
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_kind constant text := p_details ->> 'error_kind';
    v_before constant bigint := (select r.run_token from job_runs r
        where r.job_id = p_id and not r.late and (r.error_kind is distinct from v_kind and r.outcome not in ('released', 'lost')
            or r.outcome = 'failed' and not p_is_recurring)
        order by r.run_token desc limit 1);
    v_asked constant timestamptz := (select max(a.at) from job_audit a
        where a.job_id = p_id and a.action in ('retry', 'edit', 'restore', 'canary'));
    v_since constant timestamptz := (select r.started_at from job_runs r
        where r.job_id = p_id and not r.late and r.error_kind = v_kind and r.run_token > coalesce(v_before, 0)
            and r.started_at > coalesce(v_asked, '-infinity')
        order by r.run_token limit 1);
begin
    if coalesce(v_since + job_delay((p_details ->> 'give_up_after')::double precision) > p_now, true) then
        return p_details;
    end if;
    return p_details || jsonb_build_object('gave_up', true, 'error', format('%s It was first put off %s minutes ago, so it has '
        'failed.', p_details ->> 'error', floor(date_part('epoch', p_now - v_since) / 60)));
end
$$;

-- Applies the table of outcomes to runs whose token still holds the job: appends each run to the history and gives its
-- job the next status. `p_details` has for each run, all optional: output, checkpoint, delay, retry_after, retry_base,
-- retry_cap (seconds), permanent, error_kind, error, traceback, log, progress, give_up_after. `p_keys` are the keys of runs that the
-- caller has already finished. A worker reports only runs that it claimed: after a crash without synchronous commit, a
-- token may have been given to another worker again.
create or replace function job_queue_settle(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_outcomes text[], p_started timestamptz[],
    p_finished timestamptz[], p_details jsonb[], p_retry_base double precision, p_retry_cap double precision,
    p_keys text[]
) returns table (job_id uuid, run_token bigint, recorded text, status text, run_at timestamptz)
language plpgsql volatile security definer
set search_path from current
set enable_seqscan = off set enable_nestloop = off set jit = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_moves job_queue_move[];
    v_keys text[];
begin
    perform job_refuse_outsiders();
    with report as (
        -- A run that is twice in a batch counts once.
        select distinct on (r.token) * from unnest(p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details)
            as r (id, token, outcome, started_at, finished_at, details)
    ), held as (
        select q.*, r.outcome, r.started_at as began_at, r.finished_at,
            case when r.outcome = 'snoozed' and r.details ? 'give_up_after'
                then job_queue_put_off(q.id, q.is_recurring, r.details, v_now) else r.details end as details
        from job_queue q join report r on r.id = q.id and r.token = q.run_token
        where q.run_token = any (p_tokens) and q.status = 'running' and (r.outcome = 'lost' or q.locked_by = p_worker)
        order by q.id for update of q
    ), judged as (
        select h.*,
            h.cancel_requested_at is not null or h.outcome = 'cancelled' as cancels,
            -- After a clock that was set back during the run, its slot is still to come, and is not served again.
            case when h.is_recurring
                then job_series_slot(h.recurrence_interval_minutes, h.schedule, h.slots, coalesce(h.anchor_at, h.run_at),
                    case when job_series_runs_all(h.schedule) then coalesce(h.slot_at, h.run_at)
                        else greatest(v_now, h.run_at) end)
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
                when j.outcome = 'snoozed' and not coalesce(j.details ? 'gave_up', false) then 'snooze'
                when j.may_retry and (j.slot is null or j.retry_at < j.slot or job_series_runs_all(j.schedule))
                    and (not j.is_recurring or j.expires_at is null or j.retry_at < j.expires_at) then 'retry'
                else 'failure'
            end as move,
            -- The series is over when its next slot is at or past its end.
            j.is_recurring and j.expires_at is not null and j.slot >= j.expires_at and j.slot < job_no_slot() as is_over
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
        end)::job_queue_move)
    into v_moves from decided d;
    if v_moves is null then
        return;
    end if;

    with noted as (
        insert into job_runs as r (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at,
            finished_at, outcome, removed, error_kind, error, fingerprint, traceback, output, log, progress,
            concurrency_key, dedupe_key, created_by, dry_run)
        select m.token, m.id, q.task_type, q.payload, q.attempts, q.locked_by, q.run_at, m.started_at, m.finished_at,
            m.recorded, m.move = 'success' and not m.is_recurring, e.kind, e.error,
            case when m.recorded = any (job_outcomes(true)) then job_error_fingerprint(e.kind, e.error) end,
            m.details ->> 'traceback', nullif(m.details -> 'output', 'null'), m.details ->> 'log',
            coalesce(nullif(m.details -> 'progress', 'null'), q.progress),
            case when m.move = 'success' and not m.is_recurring then q.concurrency_key end,
            case when m.move = 'success' and not m.is_recurring then q.dedupe_key end,
            case when m.move = 'success' and not m.is_recurring then q.created_by end,
            job_run_is_dry(q.payload, m.details)
        from unnest(v_moves) m
        join job_queue q on q.id = m.id
        cross join lateral (
            select
                case when m.move = 'cancel' then 'cancelled' else m.details ->> 'error_kind' end as kind,
                case
                    when m.move = 'cancel' and m.outcome <> 'lost' then format(
                        'Cancelled by %s while it ran; the handler had %s.', coalesce(m.cancelled_by, 'its handler'),
                        case m.outcome when 'cancelled' then 'stopped' when 'released' then 'returned the job' when 'snoozed' then 'put the job off'
                            when 'failed' then 'failed: ' || coalesce(m.details ->> 'error', 'no reason given')
                            else m.outcome end)
                    else m.details ->> 'error'
                end as error
        ) e
        where q.id = any (p_ids)
        returning r.run_token, r.task_type, r.due_at, r.started_at, r.finished_at, r.outcome, r.dry_run, r.fingerprint
    )
    insert into job_stat_delta (minute, task_type, outcome, dry_run, fingerprint, sample_token, runs, permanent, first_at,
        last_at, bins, wait_seconds, duration_seconds)
    select job_stat_bucket(1, n.finished_at), n.task_type, n.outcome, n.dry_run, n.fingerprint, max(n.run_token),
        count(*), count(*) filter (where m.move = 'failure'), min(n.finished_at), max(n.finished_at),
        array_agg(job_stat_bins(n.started_at - n.due_at, n.finished_at - n.started_at)),
        sum(job_stat_seconds(n.started_at - n.due_at)), sum(job_stat_seconds(n.finished_at - n.started_at))
    from noted n join unnest(v_moves) m on m.token = n.run_token
    group by 1, n.task_type, n.outcome, n.dry_run, n.fingerprint;

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
            when m.move = 'snooze'
                then least(v_now + job_delay((m.details ->> 'delay')::double precision),
                    case when not job_series_runs_all(q.schedule) then m.slot end)
            when m.move = 'retry' then m.retry_at
            else q.run_at
        end,
        attempts = case
            when m.move in ('release', 'snooze') then greatest(q.attempts - 1, 0)
            when m.move = 'continue' or m.is_recurring and m.move in ('success', 'failure') and not m.is_over then 0
            else q.attempts
        end,
        checkpoint = case
            when m.move = 'continue' then m.details -> 'checkpoint'
            when m.is_recurring and m.move = 'success' then nullif(m.details -> 'checkpoint', 'null')
            when m.is_recurring and m.move = 'failure' then null
            else q.checkpoint
        end,
        slot_at = case
            when m.is_recurring and (m.move in ('retry', 'continue') or m.move = 'snooze'
                and (job_series_runs_all(q.schedule)
                    or v_now + job_delay((m.details ->> 'delay')::double precision) < m.slot))
            then coalesce(q.slot_at, q.run_at)
            -- A slot that was begun is not missed.
            when m.move = 'release'
                then coalesce(q.slot_at, case when q.schedule ->> 'catch_up' = 'none' then q.run_at end) end,
        cycle = q.cycle + (m.is_recurring and m.move in ('success', 'failure'))::integer,
        output = case when m.move = 'success' then nullif(m.details -> 'output', 'null') else q.output end,
        last_error = case
            when m.move in ('success', 'continue') then null
            when m.move in ('retry', 'failure') then coalesce(m.details ->> 'error', 'The run failed without a reason.')
            when m.move = 'snooze' and m.details ? 'give_up_after' then m.details ->> 'error'
            -- The reason for which the run before put the job off does not hold any more.
            when m.move = 'snooze' and q.last_outcome = 'snoozed' and q.fingerprint is null then null
            else q.last_error
        end,
        fingerprint = case
            when m.move in ('success', 'continue') then null
            when m.move in ('retry', 'failure')
                then job_error_fingerprint(m.details ->> 'error_kind', m.details ->> 'error')
            when m.move = 'snooze' and m.details ? 'give_up_after' then null
            else q.fingerprint
        end,
        run_trace = case when m.move <> 'success' then m.details ->> 'trace' end,
        last_outcome = m.recorded,
        last_run_dry = case when m.move in ('release', 'snooze') then q.last_run_dry
            else job_run_is_dry(q.payload, m.details) end,
        last_run_at = case when m.move in ('release', 'snooze') then q.last_run_at else v_now end,
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
        where m.move = 'failure' and (not m.is_recurring or m.is_over)), 'failed permanently');
    perform job_queue_release_waiting('{}', array(select m.id from unnest(v_moves) m where m.move = 'cancel'),
        'was cancelled');
    perform job_queue_advance_lines(v_keys);

    return query
    select m.id, m.token, m.recorded, q.status, q.run_at
    from unnest(v_moves) m left join job_queue q on q.id = m.id and q.id = any (p_ids);
end
$$;

-- Of these runs, those whose row another transaction has locked. The rows of the others are locked until the end of the
-- caller's transaction.
create or replace function job_queue_locked(p_worker text, p_tokens bigint[]) returns bigint[]
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_running constant bigint[] := array(select q.run_token from job_queue q
        where q.run_token = any (p_tokens) and q.status = 'running' and q.locked_by = p_worker);
    v_free constant bigint[] := array(select q.run_token from job_queue q
        where q.run_token = any (p_tokens) and q.status = 'running' and q.locked_by = p_worker
        order by q.id for update skip locked);
begin
    perform job_refuse_outsiders();
    return array(select t from unnest(v_running) t where t <> all (v_free));
end
$$;

-- Finishes a batch of runs for a worker. Returns one row per run, except for one-time jobs that succeeded and left the
-- queue. A report that is sent again is not applied again: for a token that no longer holds its job, the recorded
-- outcome is returned, and the run is recorded as `abandoned` if the reaper had recorded it as lost. A row that another
-- transaction has locked is waited for half a second (SQLSTATE 55P03): the worker then leaves out the runs that
-- job_queue_locked names, and reports them later.
create or replace function job_queue_finish(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_outcomes text[], p_started timestamptz[],
    p_finished timestamptz[], p_details jsonb[], p_retry_base double precision, p_retry_cap double precision
) returns table (job_id uuid, run_token bigint, recorded text, status text, run_at timestamptz)
language plpgsql volatile security definer
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan set lock_timeout = '500ms'
as $$
#variable_conflict use_column
declare
    v_done bigint[];
    v_removed uuid[];
    v_keys text[];
    v_settled record;
begin
    if job_is_outsider() then
        perform job_refuse_outsiders();
    end if;
    -- A handler's own transaction may have a snapshot from before jobs that wait for these. Upkeep looks after its commit.
    if current_setting('transaction_isolation') <> 'read committed' then
        perform job_queue_ask_recheck(
            array(select q.concurrency_key from job_queue q where q.run_token = any (p_tokens)), p_ids);
    end if;
    -- Most runs are one-time jobs that succeeded: one statement for all of them.
    with gone as (
        delete from job_queue q
        using unnest(p_ids, p_tokens, p_outcomes, p_started, p_finished, p_details)
            as r (id, token, outcome, started_at, finished_at, details)
        where q.run_token = any (p_tokens) and q.run_token = r.token and q.id = r.id and q.status = 'running'
            and q.locked_by = p_worker and r.outcome in ('succeeded', 'partial') and not q.is_recurring
            and q.cancel_requested_at is null
        returning q.id, q.run_token, q.task_type, q.payload, q.attempts, q.locked_by, q.run_at, q.progress,
            q.concurrency_key, q.dedupe_key, q.created_by, r.outcome, r.started_at, r.finished_at, r.details,
            job_run_is_dry(q.payload, r.details) as dry_run
    ), history as (
        insert into job_runs (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at,
            finished_at, outcome, removed, output, log, progress, concurrency_key, dedupe_key, created_by, dry_run)
        select g.run_token, g.id, g.task_type, g.payload, g.attempts, g.locked_by, g.run_at, g.started_at,
            g.finished_at, g.outcome, true, nullif(g.details -> 'output', 'null'), g.details ->> 'log',
            coalesce(nullif(g.details -> 'progress', 'null'), g.progress), g.concurrency_key, g.dedupe_key,
            g.created_by, g.dry_run
        from gone g
    ), counted as (
        insert into job_stat_delta (minute, task_type, outcome, dry_run, runs, first_at, last_at, bins, wait_seconds,
            duration_seconds)
        select job_stat_bucket(1, g.finished_at), g.task_type, g.outcome, g.dry_run, count(*), min(g.finished_at),
            max(g.finished_at), array_agg(job_stat_bins(g.started_at - g.run_at, g.finished_at - g.started_at)),
            sum(job_stat_seconds(g.started_at - g.run_at)), sum(job_stat_seconds(g.finished_at - g.started_at))
        from gone g group by 1, g.task_type, g.outcome, g.dry_run
    )
    select array_agg(g.run_token), array_agg(g.id),
        array_agg(g.concurrency_key) filter (where g.concurrency_key is not null)
    into v_done, v_removed, v_keys from gone g;
    if exists (select from job_awaited) then
        perform pg_notify(current_schema() || '.job_done', a.job_id::text) from job_awaited a where a.job_id = any (p_ids);
    end if;
    if v_removed is not null then
        if exists (select from job_queue q where q.status = 'pending' and q.blocked_by is not null) then
            v_keys := v_keys || job_queue_release_waiting(v_removed, '{}', '');
        end if;
        if cardinality(v_done) = cardinality(p_tokens) then
            if v_keys is not null then
                perform job_queue_advance_lines(v_keys);
            end if;
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
    if coalesce(cardinality(v_done), 0) < cardinality(p_tokens) then
        return query select l.* from job_queue_note_late(p_worker, p_ids, p_tokens, p_started, p_finished, p_details) l
        where v_done is null or l.run_token <> all (v_done);
    end if;
end
$$;

-- The recorded outcomes of runs whose token no longer holds a job. If that is `lost`, the worker reports late: that is
-- recorded once, and its result is discarded.
create or replace function job_queue_note_late(
    p_worker text, p_ids uuid[], p_tokens bigint[], p_started timestamptz[], p_finished timestamptz[],
    p_details jsonb[]
) returns table (job_id uuid, run_token bigint, recorded text, status text, run_at timestamptz)
language sql volatile
set search_path from current set enable_seqscan = off set enable_nestloop = on set jit = off
as $$
    with report as (
        select r.*, l.task_type, l.payload, l.attempt, l.due_at, l.outcome
        from unnest(p_ids, p_tokens, p_started, p_finished, p_details)
            as r (id, token, started_at, finished_at, details)
        left join job_runs l on l.run_token = r.token and l.job_id = r.id and not l.late
    ), noted as (
        insert into job_runs as l (run_token, late, job_id, task_type, payload, attempt, worker_id, due_at, started_at,
            finished_at, outcome, error_kind, error, log, dry_run)
        select r.token, true, r.id, r.task_type, r.payload, r.attempt, p_worker, r.due_at, r.started_at,
            r.finished_at, 'abandoned', 'lease_lost',
            'The worker reported after its lease had expired; its result was discarded.',
            r.details ->> 'log', job_run_is_dry(r.payload, r.details)
        from report r where r.outcome = 'lost'
        on conflict (run_token, late) do nothing
        returning l.task_type, l.due_at, l.started_at, l.finished_at, l.outcome, l.dry_run
    ), counted as (
        insert into job_stat_delta (minute, task_type, outcome, dry_run, runs, first_at, last_at, bins, wait_seconds,
            duration_seconds)
        select job_stat_bucket(1, n.finished_at), n.task_type, n.outcome, n.dry_run, count(*), min(n.finished_at),
            max(n.finished_at), array_agg(job_stat_bins(n.started_at - n.due_at, n.finished_at - n.started_at)),
            sum(job_stat_seconds(n.started_at - n.due_at)), sum(job_stat_seconds(n.finished_at - n.started_at))
        from noted n group by 1, n.task_type, n.outcome, n.dry_run
    )
    select r.id, r.token, case when r.outcome = 'lost' or r.outcome is null then 'abandoned' else r.outcome end,
        q.status, q.run_at
    from report r left join job_queue q on q.id = r.id
$$;

-------------------------------------------------------------------------------------------------------
-- 7. Reaper
-------------------------------------------------------------------------------------------------------

-- Ends runs whose lease has expired; all locks are held while their tokens are checked again.
create or replace function job_queue_take_back(
    p_worker text, p_ids uuid[], p_details jsonb, p_retry_base double precision, p_retry_cap double precision
) returns setof uuid
language sql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
    with expired as materialized (
        select q.id, q.run_token, q.started_at, q.locked_by from job_queue q
        where q.id = any (p_ids) and q.status = 'running' and q.lease_expires_at <= clock_timestamp()
        order by q.id for update of q skip locked
    ), together as (
        select array_agg(e.id) as ids, array_agg(e.run_token) as tokens, array_agg('lost'::text) as outcomes,
            array_agg(coalesce(e.started_at, clock_timestamp())) as started,
            array_agg(clock_timestamp()) as finished,
            array_agg(jsonb_build_object('error_kind', 'lease_expired', 'error', format(case e.locked_by
                when job_earlier_runner() then 'The earlier runner did not report within 20 minutes; it crashed or was stopped.'
                else 'Worker %s stopped renewing its lease; it crashed, lost its connection or was stopped.' end, e.locked_by))
                || p_details) as details
        from expired e
    )
    select s.job_id from together t
    cross join lateral job_queue_settle(p_worker, t.ids, t.tokens, t.outcomes, t.started, t.finished, t.details,
        p_retry_base, p_retry_cap, null) s
    where t.ids is not null
$$;

-- Takes back up to 100 lost runs. If the batch fails, each is tried alone, and those that fail are set aside.
create or replace function job_queue_reap_lost(p_retry_base double precision, p_retry_cap double precision)
returns uuid[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_ids uuid[];
    v_id uuid;
    v_lost uuid[] := '{}';
begin
    delete from job_poison p where not exists (
        select from job_queue q where q.id = p.job_id and q.run_token = p.run_token);
    v_ids := array(
        select q.id from job_queue q where q.status = 'running' and q.lease_expires_at <= v_now
            and not exists (select from job_poison p where p.job_id = q.id and p.retry_at > v_now)
        limit 100);
    begin
        return array(select job_queue_take_back('upkeep', v_ids, '{}', p_retry_base, p_retry_cap));
    exception when others then
        null;
    end;
    foreach v_id in array v_ids loop
        begin
            v_lost := v_lost || array(
                select job_queue_take_back('upkeep', array[v_id], '{}', p_retry_base, p_retry_cap));
        exception when others then
            insert into job_poison (job_id, run_token, error, retry_at)
            select q.id, q.run_token, sqlstate || ' ' || sqlerrm, v_now + interval '10 minutes'
            from job_queue q where q.id = v_id and q.run_token is not null
            on conflict (job_id) do update set run_token = excluded.run_token, error = excluded.error,
                retry_at = excluded.retry_at;
        end;
    end loop;
    return v_lost;
end
$$;

-- Ends jobs that wait past their expiry: a series as succeeded, or failed if its last cycle failed; a one-time job as
-- cancelled. No job that waits for one of them is released: each success before has released those that waited then.
create or replace function job_queue_end_expired(p_limit integer) returns bigint
language plpgsql volatile
set search_path from current set enable_sort = off set enable_bitmapscan = off set enable_seqscan = off set jit = off
as $$
declare
    -- Read once, because an index cannot be used for a condition with the volatile clock.
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
            last_error = case when q.is_recurring then q.last_error
                when q.last_outcome is null then 'The job expired before a worker could run it.'
                else 'The job expired before a worker could run it again.' || coalesce(' ' || q.last_error, '') end,
            completed_at = v_now, updated_at = v_now, version = q.version + 1
        from expired e where q.id = e.id
        returning q.id, q.concurrency_key
    )
    select array_agg(id), array_agg(concurrency_key) into v_ended, v_keys from ended;
    if v_ended is null then
        return 0;
    end if;
    perform job_queue_release_waiting('{}', v_ended, 'expired');
    perform job_queue_advance_lines(v_keys);
    return cardinality(v_ended);
end
$$;

-- Asks to check the lines whose first job cannot run, each time the types that can run have changed.
create or replace function job_queue_note_open_types() returns void
language plpgsql volatile
set search_path from current set enable_bitmapscan = off set jit = off
as $$
declare
    v_open_types constant text[] := job_types_that_can_run(clock_timestamp());
begin
    update job_upkeep set open_types = v_open_types
    where part = 'recheck' and open_types is distinct from v_open_types;
    if found and cardinality(v_open_types) > 0 then
        -- The walk that has come furthest goes on to its end, so that types that change often do not keep it from it.
        delete from job_recheck r where r.walk = 'heads'
            and r.concurrency_key < (select max(w.concurrency_key) from job_recheck w where w.walk = 'heads');
        insert into job_recheck (walk, concurrency_key) values ('heads', '');
    end if;
end
$$;

-- Looks at the next p_limit keys or blockers of a walk, in their order from p_key or p_blocker, and asks to check those
-- that need it: lines without a job in front ('lines'), lines whose first job cannot run ('heads'), blockers that have
-- ended or are gone ('blockers'). Returns where the walk continues; nulls when it is over.
create or replace function job_queue_walk(
    p_walk text, p_key text, p_blocker uuid, p_limit integer, out next_key text, out next_blocker uuid
)
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set jit = off
as $$
declare
    v_open_types text[];
    v_keys text[];
    v_blockers uuid[];
begin
    if p_walk = 'blockers' then
        v_blockers := array(
            with recursive blocker (id, number) as (
                (select q.blocked_by, 0 from job_queue q where q.status = 'pending' and q.blocked_by >= p_blocker
                order by q.blocked_by limit 1)
                union all
                select (select q.blocked_by from job_queue q where q.status = 'pending' and q.blocked_by > b.id
                    order by q.blocked_by limit 1), b.number + 1
                from blocker b where b.id is not null and b.number < p_limit
            )
            select b.id from blocker b where b.id is not null);
        next_blocker := v_blockers[p_limit + 1];
        perform job_queue_ask_recheck(null, array(
            select b from unnest(v_blockers[:p_limit]) b where not exists (
                select from job_queue q where q.id = b and q.status in ('pending', 'running'))));
    elsif p_walk = 'lines' then
        v_keys := array(
            with recursive line (key, number) as (
                (select q.concurrency_key, 0 from job_queue q
                where q.status = 'pending' and q.blocked_by is null and q.in_line and q.concurrency_key >= p_key
                order by q.concurrency_key limit 1)
                union all
                select (select q.concurrency_key from job_queue q
                    where q.status = 'pending' and q.blocked_by is null and q.in_line and q.concurrency_key > l.key
                    order by q.concurrency_key limit 1), l.number + 1
                from line l where l.key is not null and l.number < p_limit
            )
            select l.key from line l where l.key is not null);
        next_key := v_keys[p_limit + 1];
        -- The order makes the planner read the index of the heads of lines.
        perform job_queue_ask_recheck(array(
            select k from unnest(v_keys[:p_limit]) k where not job_key_is_busy(k) and (
                select true from job_queue q where q.concurrency_key = k and q.status = 'pending'
                    and q.blocked_by is null and not q.in_line order by q.priority desc limit 1) is null), null);
    else
        v_open_types := (select u.open_types from job_upkeep u where u.part = 'recheck');
        v_keys := array(
            with recursive head (key, number) as (
                (select q.concurrency_key, 0 from job_queue q
                where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.concurrency_key >= p_key
                order by q.concurrency_key limit 1)
                union all
                select (select q.concurrency_key from job_queue q
                    where q.status = 'pending' and q.blocked_by is null and not q.in_line
                        and q.concurrency_key > h.key
                    order by q.concurrency_key limit 1), h.number + 1
                from head h where h.key is not null and h.number < p_limit
            )
            select h.key from head h where h.key is not null);
        next_key := v_keys[p_limit + 1];
        perform job_queue_ask_recheck(array(
            select k from unnest(v_keys[:p_limit]) k where (
                select true from job_queue w
                where w.concurrency_key = k and w.status = 'pending' and w.blocked_by is null and w.in_line
                order by w.concurrency_key, w.task_type limit 1) is not null and (
                select true from job_queue q
                where q.concurrency_key = k and q.status = 'pending' and q.blocked_by is null and not q.in_line
                    and q.task_type <> all (v_open_types) order by q.priority desc limit 1) is not null), null);
    end if;
end
$$;

-- Continues the walks until this time.
create or replace function job_queue_walk_on(p_until timestamptz) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_walk job_recheck;
begin
    loop
        delete from job_recheck r where r.ctid = (
            select w.ctid from job_recheck w where w.walk is not null order by w.walk limit 1) returning * into v_walk;
        exit when not found;
        loop
            select w.next_key, w.next_blocker into v_walk.concurrency_key, v_walk.blocker
            from job_queue_walk(v_walk.walk, v_walk.concurrency_key, v_walk.blocker, 100) w;
            exit when v_walk.concurrency_key is null and v_walk.blocker is null or clock_timestamp() >= p_until;
        end loop;
        if v_walk.concurrency_key is not null or v_walk.blocker is not null then
            insert into job_recheck (walk, concurrency_key, blocker) values (v_walk.walk, v_walk.concurrency_key, v_walk.blocker);
        end if;
        exit when clock_timestamp() >= p_until;
    end loop;
end
$$;

-- Checks these rows of job_recheck: advances lines, and releases or cancels jobs whose blocker has ended. Returns the number
-- of rows.
create or replace function job_queue_check_rows(p_places tid[]) returns bigint
language plpgsql volatile
set search_path from current set enable_bitmapscan = off set jit = off
as $$
declare
    v_checked bigint;
    v_keys text[];
    v_blockers uuid[];
    v_succeeded uuid[];
    v_hopeless uuid[];
    v_free uuid[];
begin
    with taken as (
        delete from job_recheck where ctid = any (array(
            select ctid from job_recheck where ctid = any (p_places) and walk is null for update skip locked))
        returning concurrency_key, blocker
    )
    select count(*), array_agg(distinct concurrency_key), array_agg(distinct blocker) filter (where blocker is not null)
    into v_checked, v_keys, v_blockers from taken;
    if v_blockers is not null then
        select array_agg(j.id) filter (where j.gone_well), array_agg(j.id) filter (where not j.gone_well)
        into v_succeeded, v_hopeless from (
            select b.id, case
                when q.status = 'succeeded' then coalesce(q.last_success_at >= q.completed_at, false)
                when q.status is not null then false
                else job_left_with_success(b.id) end as gone_well
            from unnest(v_blockers) as b (id) left join job_queue q on q.id = b.id
            where q.status is null or q.status not in ('pending', 'running')
        ) j;
        v_keys := v_keys || job_queue_release_waiting(coalesce(v_succeeded, '{}'), '{}', '');
        perform job_queue_release_waiting('{}', coalesce(v_hopeless, '{}'), 'failed, was cancelled or was deleted');
        -- A blocker whose row another transaction has locked may be ending there, and that transaction may not see the
        -- jobs that wait for it. One that has ended since it was read above is checked again, too.
        v_free := array(select q.id from job_queue q
            where q.id = any (v_blockers) and q.status in ('pending', 'running') for key share skip locked);
        perform job_queue_ask_recheck(null, array(
            select b from unnest(v_blockers) b where b <> all (v_free || v_succeeded || v_hopeless)));
    end if;
    perform job_queue_advance_lines(v_keys);
    return v_checked;
end
$$;

drop function if exists job_queue_check_again(integer);
-- Continues the walks and checks up to p_limit rows of job_recheck, about until p_until. Returns the number of rows.
create or replace function job_queue_check_again(p_limit integer, p_until timestamptz) returns bigint
language plpgsql volatile
set search_path from current set jit = off
as $$
declare
    v_chunk constant integer := 25;
    v_places tid[];
    v_checked bigint := 0;
begin
    perform job_queue_note_open_types();
    perform job_limits_forget(p_limit);
    perform job_queue_walk_on(p_until - (p_until - clock_timestamp()) / 2);
    v_places := array(select ctid from job_recheck where walk is null limit p_limit);
    while cardinality(v_places) > 0 loop
        v_checked := v_checked + job_queue_check_rows(v_places[:v_chunk]);
        v_places := v_places[v_chunk + 1:];
        exit when clock_timestamp() >= p_until;
    end loop;
    return v_checked;
end
$$;

-- Starts to look for lines without a job in front, and for jobs whose blocker has ended or is gone. A DELETE or an UPDATE by
-- hand leaves them so. A trigger would slow down each finish, which deletes too.
create or replace function job_queue_find_stranded() returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    insert into job_recheck (walk, concurrency_key, blocker)
    select n.walk, n.key, n.blocker
    from (values ('lines', '', null), ('blockers', null, '00000000-0000-0000-0000-000000000000'::uuid)) as n (walk, key, blocker)
    where not exists (select from job_recheck r where r.walk = n.walk);
end
$$;

drop function if exists job_bulk_is_old(job_bulk, timestamptz);
-- Whether a bulk action was chosen before p_before. A choice without an action is old after an hour.
create or replace function job_bulk_is_over(p_bulk job_bulk, p_before timestamptz) returns boolean
language sql stable
return (p_bulk).chosen_at < case (p_bulk).state when 'chosen' then now() - interval '1 hour' else p_before end
    and (p_bulk).state <> 'running';

drop function if exists job_queue_prune();
drop function if exists job_queue_mend();
-- Does one part of upkeep, unless another worker does it now: 'lost' (takes back runs whose lease has expired),
-- 'expired', 'recheck', 'pauses', 'stats' (every 10 s, or while there is more to add up), 'prune' (once a minute,
-- likewise), 'retention' (once an hour, likewise), 'partitions' or 'old partitions' (once a minute, also after it
-- failed). `done` is the number of rows, `trouble` the error of a part that failed; the parts do not depend on
-- each other, and each should be called in a transaction of its own. `more` says that a part ended early, because it had
-- taken its time, and should be called again soon.
do $$
begin
    if exists (select from pg_proc where oid = to_regprocedure(
        'job_queue_upkeep(text, double precision, double precision)') and not 'more' = any (proargnames)) then
        drop function job_queue_upkeep(text, double precision, double precision);
    end if;
end
$$;
create or replace function job_queue_upkeep(
    p_part text, p_retry_base double precision, p_retry_cap double precision,
    out done bigint, out lost_jobs uuid[], out trouble text, out more boolean
)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '2s'
as $$
declare
    v_part job_upkeep;
    -- Deleting a job costs more than deleting a line of the history.
    v_limit constant integer := case p_part when 'prune' then 5000 else 1000 end;
    v_pause constant interval := case p_part when 'prune' then '1 minute' when 'retention' then '1 hour'
        when 'stats' then '10 s' when 'backlog' then '1 minute' when 'partitions' then '1 minute'
        when 'old partitions' then '1 minute' end;
    -- Whether there may be more to remove, or it failed.
    v_more boolean := false;
    -- A pass holds locks, and other parts wait for it.
    v_until constant timestamptz := clock_timestamp() + interval '15 ms';
    v_one bigint;
begin
    perform job_refuse_outsiders();
    done := 0;
    more := false;
    lost_jobs := '{}';
    select * into v_part from job_upkeep u where u.part = p_part for update skip locked;
    -- A time to come is from before the clock was set back.
    if not found or v_part.succeeded_at > clock_timestamp() - v_pause and v_part.succeeded_at <= clock_timestamp()
        -- Each attempt may have finishes wait for 100 ms.
        or p_part in ('partitions', 'old partitions') and v_part.failed_at > clock_timestamp() - v_pause
            and v_part.failed_at <= clock_timestamp()
    then
        return;
    end if;
    begin
        case p_part
            when 'lost' then
                lost_jobs := job_queue_reap_lost(p_retry_base, p_retry_cap);
                done := cardinality(lost_jobs);
                more := done >= 100;
                update job_upkeep u set set_aside = (select count(*) from job_poison) where u.part = p_part;
                trouble := (select p.error from job_poison p order by p.since limit 1);
            when 'expired' then
                loop
                    v_one := job_queue_end_expired(50);
                    done := done + v_one;
                    more := v_one >= 50;
                    exit when not more or clock_timestamp() >= v_until;
                end loop;
            when 'recheck' then
                done := job_queue_check_again(1000, v_until);
                more := done >= 1000 or clock_timestamp() >= v_until
                    or exists (select from job_recheck where walk is not null);
            when 'pauses' then
                done := job_queue_resume_due();
                perform job_queue_judge_canaries();
                perform job_awaited_clean();
            when 'stats' then
                done := job_stats_compact(v_limit);
                v_more := done >= v_limit;
                if not v_more then
                    perform job_stats_judge(clock_timestamp());
                end if;
            when 'backlog' then done := job_backlog_sample();
            when 'partitions' then
                trouble := job_run_extend();
                v_more := trouble is not null;
            when 'old partitions' then
                select r.done, r.trouble into done, trouble from job_run_drop_old() r;
                v_more := trouble is not null;
            when 'prune', 'retention' then
                select r.done, r.trouble into done, trouble from job_retain(p_part, v_limit) r;
                v_more := trouble is not null or done >= v_limit;
                if p_part = 'retention' and not v_more then
                    perform job_queue_find_stranded();
                end if;
        end case;
        update job_upkeep u set trouble = job_queue_upkeep.trouble,
            failed_at = case when v_more and job_queue_upkeep.trouble is not null then clock_timestamp()
                else u.failed_at end,
            succeeded_at = case when v_more then u.succeeded_at else clock_timestamp() end
        where u.part = p_part;
    exception when others then
        trouble := sqlstate || ' ' || sqlerrm;
        done := 0;
        lost_jobs := '{}';
        more := false;
        update job_upkeep u set failed_at = clock_timestamp(), trouble = job_queue_upkeep.trouble where u.part = p_part;
    end;
end
$$;

-- All parts of upkeep in one transaction, for workers of 0.1.0.
create or replace function job_queue_reap(
    p_worker text, p_retry_base double precision, p_retry_cap double precision,
    out lost bigint, out expired bigint, out pruned bigint, out resumed bigint, out lost_jobs uuid[]
)
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    select u.done, u.lost_jobs into lost, lost_jobs from job_queue_upkeep('lost', p_retry_base, p_retry_cap) u;
    expired := (job_queue_upkeep('expired', p_retry_base, p_retry_cap)).done;
    resumed := (job_queue_upkeep('pauses', p_retry_base, p_retry_cap)).done;
    perform job_queue_upkeep('recheck', p_retry_base, p_retry_cap);
    perform job_queue_upkeep('stats', p_retry_base, p_retry_cap);
    perform job_queue_upkeep('backlog', p_retry_base, p_retry_cap);
    pruned := (job_queue_upkeep('prune', p_retry_base, p_retry_cap)).done;
    perform job_queue_upkeep('retention', p_retry_base, p_retry_cap);
    perform job_queue_upkeep('partitions', p_retry_base, p_retry_cap);
    perform job_queue_upkeep('old partitions', p_retry_base, p_retry_cap);
end
$$;

-------------------------------------------------------------------------------------------------------
-- 8. Operators' actions
--
-- The functions answer with a code, which has a hyphen, and the facts of its sentence; core/read/sentences.py has the
-- sentences.
-------------------------------------------------------------------------------------------------------

-- The facts of a job for the audit. The payload only if it was changed, because it may name people.
create or replace function job_audit_facts(p_job job_queue) returns jsonb
language sql immutable
return jsonb_build_object('task_type', (p_job).task_type, 'status', (p_job).status, 'run_at', (p_job).run_at,
    'attempts', (p_job).attempts, 'version', (p_job).version, 'last_outcome', (p_job).last_outcome);

create or replace function job_queue_write_audit(
    p_actor text, p_action text, p_job_id uuid, p_before jsonb, p_after jsonb, p_reason text
) returns void
language sql volatile
set search_path from current
as $$
    insert into job_audit (actor, action, job_id, before, after, reason)
    values (job_actor(p_actor), p_action, p_job_id, p_before, p_after, p_reason)
$$;

-- Records in the audit that a user viewed a job's personal data unmasked.
create or replace function job_queue_reveal(p_id uuid, p_actor text) returns void
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    select job_queue_write_audit(p_actor, 'reveal', p_id, null, null, null)
$$;

-- The code of the reason why a job's status does not allow an action; null if it is allowed.
create or replace function job_action_refusal(p_action text, p_status text, p_cancelling boolean)
returns text
language sql immutable
return case
    when p_action = 'retry' and p_status = 'running' then 'retry-running'
    when p_action = 'cancel' and p_status = 'running' and p_cancelling then 'cancel-requested'
    when p_action = 'cancel' and p_status = 'succeeded' then 'cancel-succeeded'
    when p_action = 'cancel' and p_status = 'cancelled' then 'already-cancelled'
    when p_action = 'delete' and p_status = 'running' then 'delete-running'
    when p_action = 'edit' and p_status = 'running' then 'edit-running'
    when p_action = 'edit' and p_status = 'succeeded' then 'edit-succeeded'
end;

drop function if exists job_queue_holder(job_queue);

-- Makes a job pending and due now, for a retry: attempts start from 0, unless the job was already pending.
create or replace function job_queue_make_due(p_job job_queue) returns job_queue
language plpgsql volatile
set search_path from current
as $$
declare
    v_now timestamptz := clock_timestamp();
    -- A job that has expired loses its expiry. A series must not go on for ever for that, so it becomes a one-time job.
    v_series constant boolean := p_job.is_recurring and coalesce(p_job.expires_at > v_now, true);
    v_job job_queue;
begin
    update job_queue q set
        status = 'pending', run_at = v_now, completed_at = null, last_error = null, fingerprint = null,
        updated_at = v_now, version = q.version + 1, is_recurring = v_series,
        attempts = case when q.status = 'pending' then q.attempts else 0 end,
        recurrence_interval_minutes = case when v_series then q.recurrence_interval_minutes end,
        schedule = case when v_series then q.schedule end, slots = case when v_series then q.slots end,
        anchor_at = case when v_series then coalesce(q.anchor_at, q.run_at) end,
        slot_at = case when v_series then coalesce(q.slot_at, case
            -- A slot that was asked for is not passed over, and one that is made up is not lost.
            when q.schedule ->> 'catch_up' = 'none' then v_now
            when job_series_runs_all(q.schedule) and q.status = 'pending' and q.run_at <= v_now then q.run_at end) end,
        expires_at = case when q.expires_at > v_now then q.expires_at end,
        blocked_by = case when q.status = 'pending' or q.blocked_by is null then q.blocked_by
            -- A series that was paused when it ended is not paused any more.
            when q.blocked_by <> q.id and not job_is_member(q.id) then job_queue_live_blocker(q.blocked_by) end,
        in_line = q.concurrency_key is not null
    where q.id = p_job.id returning * into v_job;
    perform job_flow_wait_again(array[p_job.id]);
    perform job_queue_ask_recheck(null, array[v_job.blocked_by]);
    perform job_queue_advance_lines(array[v_job.concurrency_key]);
    select * into v_job from job_queue where id = p_job.id;
    return v_job;
end
$$;

create or replace function job_queue_make_cancelled(p_job job_queue, p_actor text)
returns job_queue
language plpgsql volatile
set search_path from current
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_job job_queue;
begin
    if p_job.status = 'running' then
        update job_queue q set cancel_requested_at = v_now, cancel_requested_by = job_actor(p_actor),
            updated_at = v_now, version = q.version + 1
        where q.id = p_job.id returning * into v_job;
        perform pg_notify(current_schema() || '.job_queue', 'cancel');
        return v_job;
    end if;
    update job_queue q set status = 'cancelled', completed_at = v_now, updated_at = v_now, version = q.version + 1,
        last_outcome = case when q.status = 'pending' then 'cancelled' else q.last_outcome end, in_line = false
    where q.id = p_job.id returning * into v_job;
    perform job_queue_release_waiting('{}', array[p_job.id], 'was cancelled');
    return v_job;
end
$$;

drop function if exists job_queue_move_to_trash(job_queue, text, text);

drop function if exists job_queue_copy(uuid, jsonb, integer, integer, text, text, text);
drop function if exists job_queue_run_again(uuid, text, boolean);
drop function if exists job_queue_run_again(uuid, text, text, boolean);
-- Enqueues a copy of a job that succeeded and left the queue, and records it in the audit. Without a payload, the copy
-- has that of the run; the caller has validated and admitted it. Keys of the job go before p_concurrency_key, which is
-- for runs from before the keys were stored, unless p_payload replaces the payload from which a key follows.
--
-- At most one copy is pending or running: the dedupe key of a job without one is made from its id.
create or replace function job_queue_run_again(
    p_job_id uuid, p_payload jsonb, p_max_attempts integer, p_concurrency_key text, p_actor text, p_reason text,
    p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_run job_runs;
    v_dedupe_key text;
    v_earlier record;
    v_facts jsonb;
    v_copy uuid;
    v_created boolean;
begin
    perform job_refuse_outsiders();
    select * into v_run from job_runs r where r.job_id = p_job_id and r.removed order by r.run_token desc limit 1;
    if not found then
        return query select p_job_id, false, case
            when exists (select from job_trash t where t.job_id = p_job_id) then 'is-deleted' else 'no-success' end,
            null::jsonb, null::text, null::bigint;
        return;
    end if;
    v_dedupe_key := coalesce(v_run.dedupe_key, 'copy of ' || p_job_id);
    if p_dry_run then
        v_copy := job_queue_holder(v_dedupe_key);
        v_created := v_copy is null;
    else
        select c.job_id, c.created into v_copy, v_created from job_queue_create(v_run.task_type,
            coalesce(p_payload, v_run.payload), null, p_max_attempts, 0, v_dedupe_key,
            case when p_payload is null then coalesce(v_run.concurrency_key, p_concurrency_key)
                else coalesce(p_concurrency_key, v_run.concurrency_key) end, null, null, null, p_actor) c;
    end if;
    if not v_created then
        return query select p_job_id, false, case when v_run.dedupe_key is null then 'copy-open' else 'key-held' end,
            jsonb_build_object('holder', v_copy), null::text, null::bigint;
        return;
    end if;
    select a.job_id as copy, a.at, a.actor into v_earlier from job_audit a
    where a.action = 'run again' and a.after ->> 'copy_of' = p_job_id::text order by a.id desc limit 1;
    v_facts := jsonb_build_object('copy', v_copy, 'earlier', v_earlier.copy, 'at', v_earlier.at,
        'actor', v_earlier.actor);
    if p_dry_run then
        return query select p_job_id, true, case when v_earlier.copy is null then 'would-run-again'
            else 'would-run-once-more' end, v_facts, null::text, null::bigint;
        return;
    end if;
    perform job_queue_write_audit(p_actor, 'run again', v_copy, null,
        jsonb_strip_nulls(jsonb_build_object('copy_of', p_job_id, 'earlier_copy', v_earlier.copy)), p_reason);
    return query select p_job_id, true, case when v_earlier.copy is null then 'enqueued-again'
        else 'enqueued-once-more' end, v_facts, 'pending'::text, null::bigint;
end
$$;

-- Why a job that the caller has locked is not retried, cancelled or deleted; no code if it is. A null version matches
-- any version.
create or replace function job_queue_refusal(
    p_action text, p_job job_queue, p_version bigint, out code text, out facts jsonb
)
language plpgsql volatile
set search_path from current
as $$
declare
    v_holder uuid;
begin
    if p_version <> p_job.version then
        code := case when p_action = 'retry' and p_job.status = 'succeeded' then 'has-succeeded-since'
            else 'has-changed' end;
        facts := jsonb_build_object('status', p_job.status, 'job', p_job.id);
        return;
    end if;
    code := case when p_action = 'retry' and p_job.status = 'pending' and p_job.blocked_by = p_job.id then 'series-paused'
        else job_action_refusal(p_action, p_job.status, p_job.cancel_requested_at is not null) end;
    if code is not null or p_action <> 'retry' or p_job.status = 'pending' then
        facts := case code when 'series-paused' then jsonb_build_object('job', p_job.id) end;
        return;
    end if;
    if p_job.dedupe_key is not null then
        v_holder := job_queue_holder(p_job.dedupe_key);
    end if;
    if v_holder is not null then
        code := 'key-held';
        facts := jsonb_build_object('holder', v_holder);
    elsif job_is_member(p_job.id) then
        select r.code, r.facts into code, facts from job_flow_refusal(p_job.id) r;
    elsif p_job.blocked_by <> p_job.id and (job_queue_judge_blocker(p_job.blocked_by)).refusal is not null then
        code := 'hopeless-blocker';
        facts := jsonb_build_object('blocker', p_job.blocked_by,
            'status', (select q.status from job_queue q where q.id = p_job.blocked_by));
    elsif p_job.is_recurring
        and not job_schedule_fits(true, p_job.recurrence_interval_minutes, p_job.schedule, p_job.slots)
    then
        code := 'no-interval';
    end if;
end
$$;

-- The code for a job that is not in the queue.
create or replace function job_queue_absence(p_action text, p_id uuid) returns text
language sql stable
set search_path from current set enable_seqscan = off
as $$
    select case
        when exists (select from job_trash t where t.job_id = p_id) then 'is-deleted'
        when p_action in ('retry', 'edit') and exists (select from job_runs r where r.job_id = p_id and r.removed)
            then 'has-succeeded'
        else 'not-in-queue'
    end
$$;

-- Locks these jobs and returns the ids that an action can use. It waits twice for 0.9 seconds (less than the second after
-- which Postgres looks for deadlocks), then leaves out the jobs that another transaction has locked.
create or replace function job_queue_lock_jobs(p_ids uuid[]) returns uuid[]
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
declare
    v_free uuid[];
begin
    for attempt in 1..2 loop
        begin
            perform from job_queue q where q.id = any (p_ids) order by q.id for update;
            return p_ids;
        exception when lock_not_available then
            -- A session that waits for one of these jobs goes first, or neither would get all of its own.
            perform pg_sleep(0.05);
        end;
    end loop;
    v_free := array(select q.id from job_queue q where q.id = any (p_ids) order by q.id for update skip locked);
    return v_free || array(select i from unnest(p_ids) i where not exists (select from job_queue q where q.id = i));
end
$$;

-- Deletes jobs for job_queue_act, which has locked those of p_free. One statement moves all of them to the trash: a
-- statement for each job took most of the time of a bulk action.
create or replace function job_queue_delete(
    p_ids uuid[], p_versions bigint[], p_free uuid[], p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_gone uuid[];
    v_keys text[];
begin
    with gone as (
        delete from job_queue q using unnest(p_ids, p_versions) as a (id, version)
        where q.id = a.id and q.id = any (p_free) and not p_dry_run
            and (job_queue_refusal('delete', q, a.version)).code is null
        returning q.id, q.concurrency_key, to_jsonb(q) as job, job_audit_facts(q) as facts
    ), kept as (
        insert into job_trash (job_id, job, deleted_by, reason)
        select g.id, g.job, job_actor(p_actor), p_reason from gone g
        on conflict (job_id) do update set job = excluded.job, deleted_at = now(), deleted_by = excluded.deleted_by,
            reason = excluded.reason
    ), noted as (
        insert into job_audit (actor, action, job_id, before, reason)
        select job_actor(p_actor), 'delete', g.id, g.facts, p_reason from gone g order by g.id
    )
    select coalesce(array_agg(g.id), '{}'), array_agg(g.concurrency_key) into v_gone, v_keys from gone g;
    if cardinality(v_gone) > 0 then
        perform job_queue_release_waiting('{}', v_gone, 'was deleted');
        perform job_queue_advance_lines(v_keys);
    end if;
    return query
    select a.id, a.id = any (v_gone) or coalesce(r.found and r.code is null, false),
        case when a.id = any (v_gone) then 'was-deleted' when r.code is not null then r.code
            when r.found then 'would-delete' else job_queue_absence('delete', a.id) end,
        case when a.id = any (v_gone) then null when r.found then r.facts else jsonb_build_object('job', a.id) end,
        r.status, r.version
    from (select distinct on (a.id) a.id, a.version from unnest(p_ids, p_versions) as a (id, version)) a
    left join lateral (
        select true as found, q.status, q.version, f.code, f.facts from job_queue q cross join lateral (
            select 'is-locked' as code, null::jsonb as facts where q.id <> all (p_free)
            union all
            select * from job_queue_refusal('delete', q, a.version) where q.id = any (p_free)) f
        where q.id = a.id) r on true
    order by a.id;
end
$$;

-- Retries or cancels jobs one by one, in the order of their ids, or deletes them, and returns one answer per id. p_versions has
-- one element per id; null matches any version.
create or replace function job_queue_act(
    p_action text, p_ids uuid[], p_versions bigint[], p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_asked record;
    v_free uuid[];
    v_job job_queue;
    v_after job_queue;
    v_refusal text;
    v_facts jsonb;
    v_keys text[];
begin
    perform job_refuse_outsiders();
    if p_action not in ('retry', 'cancel', 'delete') then
        perform job_queue_refuse(format('There is no action %s.', p_action));
    end if;
    v_free := job_queue_lock_jobs(p_ids);
    if p_action = 'delete' then
        return query select * from job_queue_delete(p_ids, p_versions, v_free, p_actor, p_reason, p_dry_run);
        return;
    end if;
    for v_asked in
        select distinct on (a.id) a.id, a.version from unnest(p_ids, p_versions) as a (id, version) order by a.id
    loop
        if v_asked.id <> all (v_free) then
            return query select v_asked.id, false, 'is-locked', null::jsonb, q.status, q.version
            from job_queue q where q.id = v_asked.id;
            continue when found;
        end if;
        select * into v_job from job_queue q where q.id = v_asked.id for update;
        if not found then
            return query select v_asked.id, false, job_queue_absence(p_action, v_asked.id),
                jsonb_build_object('job', v_asked.id), null::text, null::bigint;
            continue;
        end if;
        select * into v_refusal, v_facts from job_queue_refusal(p_action, v_job, v_asked.version);
        if v_refusal is not null then
            return query select v_job.id, false, v_refusal, v_facts, v_job.status, v_job.version;
            continue;
        end if;
        if p_dry_run then
            return query select v_job.id, true, case
                when p_action = 'retry' then 'would-retry'
                when v_job.status = 'running' then 'would-ask-to-cancel' else 'would-cancel' end, null::jsonb,
                v_job.status, v_job.version;
            continue;
        end if;

        if p_action = 'retry' and v_job.dedupe_key is null then
            v_after := job_queue_make_due(v_job);
        elsif p_action = 'retry' then
            -- Another job may have taken the key since the check.
            begin
                v_after := job_queue_make_due(v_job);
            exception when unique_violation then
                return query select v_job.id, false, 'key-taken', null::jsonb, v_job.status, v_job.version;
                continue;
            when lock_not_available then
                -- A transaction that has not ended enqueues a job with the key. It may hold those of the next jobs too.
                set local lock_timeout = '1ms';
                return query select v_job.id, false, 'key-locked', null::jsonb, v_job.status, v_job.version;
                continue;
            end;
        else
            v_after := job_queue_make_cancelled(v_job, p_actor);
            v_keys := v_keys || v_job.concurrency_key;
        end if;
        perform job_queue_write_audit(p_actor, p_action, v_job.id, job_audit_facts(v_job), job_audit_facts(v_after),
            p_reason);
        return query select v_job.id, true, case
            when p_action = 'retry' and v_after.in_line then 'due-in-line'
            when p_action = 'retry' and v_after.blocked_by is not null then 'due-blocked'
            when p_action = 'retry' and v_job.is_recurring and not v_after.is_recurring then 'due-once'
            when p_action = 'retry' then 'due-now'
            when v_after.status = 'running' then 'asked-to-cancel'
            else 'was-cancelled' end, jsonb_build_object('blocker', v_after.blocked_by), v_after.status,
            v_after.version;
    end loop;
    perform job_queue_advance_lines(v_keys);
    if p_action = 'retry' and not p_dry_run then
        perform pg_notify(current_schema() || '.job_queue', '');
    end if;
end
$$;

-- Restores jobs for job_queue_restore, one by one, because another job may have taken the dedupe key of each.
create or replace function job_queue_restore_each(
    p_ids uuid[], p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_id uuid;
    v_job job_queue;
    v_holder uuid;
    v_keys text[];
begin
    for v_id in select distinct a.id from unnest(p_ids) as a (id) order by a.id loop
        -- In the list of columns, the record would be made once for each of them.
        select j.* into v_job from job_trash t, jsonb_populate_record(null::job_queue, t.job) j
        where t.job_id = v_id for update of t;
        if not found then
            return query select v_id, false, 'not-in-trash', null::jsonb, null::text, null::bigint;
            continue;
        end if;
        v_holder := case when v_job.status = 'pending' and v_job.dedupe_key is not null
            then job_queue_holder(v_job.dedupe_key) end;
        if v_holder is not null then
            return query select v_id, false, 'key-held', jsonb_build_object('holder', v_holder), null::text,
                null::bigint;
            continue;
        end if;
        if p_dry_run then
            return query select v_id, true, 'would-restore', jsonb_build_object('status', v_job.status), v_job.status,
                v_job.version;
            continue;
        end if;
        v_job.version := v_job.version + 1;
        v_job.updated_at := clock_timestamp();
        v_job.in_line := v_job.status = 'pending' and v_job.concurrency_key is not null;
        begin
            insert into job_queue select (v_job).*;
        exception when unique_violation then
            return query select v_id, false, 'key-taken', null::jsonb, null::text, null::bigint;
            continue;
        when lock_not_available then
            set local lock_timeout = '1ms';
            return query select v_id, false, 'key-locked', null::jsonb, null::text, null::bigint;
            continue;
        end;
        delete from job_trash where job_id = v_id;
        v_keys := v_keys || v_job.concurrency_key;
        perform job_queue_write_audit(p_actor, 'restore', v_id, null, job_audit_facts(v_job), p_reason);
        return query select v_id, true, 'was-restored', jsonb_build_object('status', v_job.status), v_job.status,
            v_job.version;
    end loop;
    if not p_dry_run then
        perform job_flow_wait_again(p_ids);
    end if;
    perform job_queue_advance_lines(v_keys);
end
$$;

-- Restores jobs for job_queue_restore, which has locked them in the trash and found that no other job can have their keys.
create or replace function job_queue_restore_together(p_ids uuid[], p_actor text, p_reason text)
returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_keys text[];
begin
    return query
    with gone as (
        delete from job_trash t where t.job_id = any (p_ids)
        returning t.job || jsonb_build_object('version', (t.job ->> 'version')::bigint + 1,
            'updated_at', clock_timestamp(),
            'in_line', t.job ->> 'status' = 'pending' and t.job ->> 'concurrency_key' is not null) as job
    ), back as (
        insert into job_queue select j.* from gone g, jsonb_populate_record(null::job_queue, g.job) j
        returning job_queue.id, job_queue.status, job_queue.version, job_audit_facts(job_queue) as facts
    ), noted as (
        insert into job_audit (actor, action, job_id, after, reason)
        select job_actor(p_actor), 'restore', b.id, b.facts, p_reason from back b order by b.id
    )
    select b.id, true, 'was-restored', jsonb_build_object('status', b.status), b.status, b.version from back b;
    perform job_flow_wait_again(p_ids);
    select array_agg(distinct q.concurrency_key) into v_keys from job_queue q
    where q.id = any (p_ids) and q.concurrency_key is not null;
    perform job_queue_advance_lines(v_keys);
end
$$;

-- Moves jobs out of the trash, back to the state they were in. Running jobs cannot be deleted, so none of them runs.
create or replace function job_queue_restore(
    p_ids uuid[], p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_together constant uuid[] := array(
        select t.job_id from job_trash t
        where t.job_id = any (p_ids) and not p_dry_run
            and (t.job ->> 'dedupe_key' is null or t.job ->> 'status' <> 'pending')
            and not exists (select from job_queue q where q.id = t.job_id)
        order by t.job_id for update of t);
begin
    perform job_refuse_outsiders();
    return query
    select r.* from (
        select * from job_queue_restore_together(v_together, p_actor, p_reason)
        union all
        select * from job_queue_restore_each(
            array(select i from unnest(p_ids) i where i <> all (v_together)), p_actor, p_reason, p_dry_run)) r
    order by r.job_id;
end
$$;

-- Changes payload, schedule or limits of a job that is not running. Keys of p_changes: payload, run_at,
-- recurrence_interval_minutes, schedule, slots, expires_at, priority, max_attempts, and with a payload its concurrency_key.
-- The caller has validated payload and schedule.
create or replace function job_queue_edit(
    p_id uuid, p_version bigint, p_changes jsonb, p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_job job_queue;
    v_new job_queue;
    v_refusal text;
    v_unknown text;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue q where q.id = p_id for update;
    if not found then
        return query select p_id, false, job_queue_absence('edit', p_id), jsonb_build_object('job', p_id), null::text,
            null::bigint;
        return;
    end if;
    select string_agg(k, ', ' order by k) into v_unknown from jsonb_object_keys(p_changes) k
    where k not in ('payload', 'run_at', 'recurrence_interval_minutes', 'schedule', 'slots', 'expires_at', 'priority',
        'max_attempts', 'concurrency_key');
    -- A given key replaces the old value, also with null; all others keep it.
    v_new := jsonb_populate_record(v_job, p_changes);
    v_new.is_recurring := v_new.recurrence_interval_minutes is not null or v_new.schedule is not null;
    if v_new.slots is null and v_new.run_at >= job_no_slot() and not p_changes ? 'run_at' then
        v_new.run_at := clock_timestamp();
    end if;
    v_refusal := case
        when p_version is not null and p_version <> v_job.version then 'has-changed'
        when v_unknown is not null then 'not-editable'
        when p_changes = '{}' then 'no-changes'
        when v_new.recurrence_interval_minutes <= 0 then 'bad-interval'
        when jsonb_typeof(v_new.payload) is distinct from 'object' then 'bad-payload'
        when not job_schedule_fits(v_new.is_recurring, v_new.recurrence_interval_minutes, v_new.schedule, v_new.slots)
            then 'bad-schedule'
        when v_job.blocked_by = v_job.id and not v_new.is_recurring then 'series-paused'
        when v_new.is_recurring and job_is_member(p_id) then 'member-recurs'
        when v_new.is_recurring and not v_job.is_recurring and job_flow_asks(p_id) then 'blocker-recurs'
        when v_new.run_at is null then 'bad-due-time'
        when not (job_is_a_time(v_new.run_at) and job_is_a_time(v_new.expires_at)) then 'bad-time'
        when job_refused_key(v_new.concurrency_key) is not null then 'bad-key'
        when v_new.priority is null or v_new.priority not between -100 and 100 then 'bad-priority'
        when v_new.max_attempts is null or v_new.max_attempts < 1 then 'bad-attempts'
        else job_action_refusal('edit', v_job.status, false)
    end;
    if v_refusal is not null or p_dry_run then
        return query select p_id, v_refusal is null, coalesce(v_refusal, 'would-edit'),
            jsonb_build_object('status', v_job.status, 'names', v_unknown, 'job', p_id), v_job.status, v_job.version;
        return;
    end if;
    update job_queue q set
        payload = v_new.payload, run_at = v_new.run_at, priority = v_new.priority, expires_at = v_new.expires_at,
        max_attempts = v_new.max_attempts, recurrence_interval_minutes = v_new.recurrence_interval_minutes,
        schedule = v_new.schedule, slots = v_new.slots,
        is_recurring = v_new.is_recurring, concurrency_key = v_new.concurrency_key,
        anchor_at = case
            when not v_new.is_recurring then null
            when v_new.run_at <> v_job.run_at or v_job.anchor_at is null or v_job.slots is not null then v_new.run_at
            else v_job.anchor_at
        end,
        slot_at = case when v_new.run_at = v_job.run_at and v_new.is_recurring then q.slot_at end,
        in_line = q.status = 'pending' and v_new.concurrency_key is not null,
        updated_at = clock_timestamp(), version = q.version + 1
    where q.id = p_id returning * into v_new;
    perform job_queue_advance_lines(array[v_job.concurrency_key, v_new.concurrency_key]);
    perform job_queue_write_audit(p_actor, 'edit', p_id, job_audit_facts(v_job) || (
        select coalesce(jsonb_object_agg(o.key, o.value), '{}') from jsonb_each(to_jsonb(v_job)) o where p_changes ? o.key
    ), job_audit_facts(v_new) || p_changes, p_reason);
    perform pg_notify(current_schema() || '.job_queue', '');
    return query select p_id, true, 'was-edited', null::jsonb, v_new.status, v_new.version;
end
$$;

-- Notes how many jobs were chosen. Without any there is no choice, and the answer is null.
create or replace function job_bulk_counted(p_bulk uuid, p_total integer) returns uuid
language plpgsql volatile
set search_path from current
as $$
begin
    if p_total = 0 then
        delete from job_bulk where id = p_bulk;
        return null;
    end if;
    update job_bulk set total = p_total where id = p_bulk;
    return p_bulk;
end
$$;

drop function if exists job_bulk_choose(text, text, text, text, text, text, integer, interval, text, text);
drop function if exists job_bulk_choose(text, text, text, text, text, text, text, integer, interval, text, text);
-- Chooses all jobs in the queue that match, for an action on exactly these; null if none matches.
create or replace function job_bulk_choose(
    p_words text, p_status text, p_type text, p_text text, p_error text, p_key text, p_value text,
    p_attempts integer, p_age interval, p_outcome text, p_fingerprint text, p_payload jsonb[], p_actor text
) returns uuid
language plpgsql volatile security definer
set search_path from current set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor) values (p_words, p_actor) returning id into v_bulk;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select v_bulk, q.id, q.task_type, q.version from job_queue q
    where (p_status is null or q.status = p_status)
        and job_matches(q.id, q.task_type, q.payload, q.last_error, q.attempts, q.created_at, q.last_outcome,
            p_type, p_text, p_error, p_key, p_value, p_attempts, p_age, p_outcome, q.fingerprint, p_fingerprint)
        and (p_payload is null or q.payload @> any (p_payload));
    get diagnostics v_total = row_count;
    return job_bulk_counted(v_bulk, v_total);
end
$$;

-- Chooses the jobs of a group of errors: those that failed with it, and those that wait for a retry after it.
create or replace function job_bulk_choose_alike(p_type text, p_fingerprint text, p_words text, p_actor text)
returns uuid
language plpgsql volatile security definer
set search_path from current set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor) values (p_words, p_actor) returning id into v_bulk;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select v_bulk, q.id, q.task_type, q.version from job_queue q
    where q.fingerprint = p_fingerprint and q.task_type = p_type and q.status in ('failed', 'pending');
    get diagnostics v_total = row_count;
    return job_bulk_counted(v_bulk, v_total);
end
$$;

-- Chooses these jobs. p_versions has one element per id; null matches any version.
create or replace function job_bulk_choose_ids(
    p_ids uuid[], p_versions bigint[], p_words text, p_actor text
) returns uuid
language plpgsql volatile security definer
set search_path from current set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor) values (p_words, p_actor) returning id into v_bulk;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select distinct on (a.id) v_bulk, a.id, q.task_type, a.version from unnest(p_ids, p_versions) as a (id, version)
    left join job_queue q on q.id = a.id order by a.id;
    get diagnostics v_total = row_count;
    update job_bulk set total = v_total where id = v_bulk;
    return v_bulk;
end
$$;

-- Chooses jobs of an earlier bulk action again: all, those that it changed, or those that were refused. Each is frozen
-- at its version, except that one that has succeeded since the earlier choice gets a version that no job has: an action
-- refuses it.
create or replace function job_bulk_choose_again(p_bulk uuid, p_which text, p_actor text) returns uuid
language plpgsql volatile security definer
set search_path from current set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor)
    select b.words, p_actor from job_bulk b where b.id = p_bulk returning id into v_bulk;
    if v_bulk is null then
        perform job_queue_refuse('There is no such bulk action. Bulk actions are kept for 30 days.');
    end if;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select v_bulk, i.job_id, i.task_type, case when q.last_success_at > b.chosen_at then -1 else q.version end
    from job_bulk b join job_bulk_items i on i.bulk_id = b.id left join job_queue q on q.id = i.job_id
    where b.id = p_bulk and (p_which = 'all' or (p_which = 'done' and i.ok) or (p_which = 'refused' and not i.ok));
    get diagnostics v_total = row_count;
    return job_bulk_counted(v_bulk, v_total);
end
$$;

-- Chooses the jobs whose payload a bulk edit has changed, each at the version that the edit made. So an undo refuses those
-- that were changed or claimed since.
create or replace function job_bulk_choose_edited(p_bulk uuid, p_actor text) returns uuid
language plpgsql volatile security definer
set search_path from current set jit = off
as $$
declare
    v_bulk uuid;
    v_total integer;
begin
    perform job_refuse_outsiders();
    insert into job_bulk (words, actor, reverts)
    select b.words, p_actor, b.id from job_bulk b
    where b.id = p_bulk and b.action = 'edit' and b.state in ('finished', 'stopped') returning id into v_bulk;
    if v_bulk is null then
        perform job_queue_refuse('Only a bulk edit that has ended can be undone. Bulk actions are kept for 30 days.');
    end if;
    insert into job_bulk_items (bulk_id, job_id, task_type, seen)
    select v_bulk, i.job_id, i.task_type, i.version from job_bulk_items i
    where i.bulk_id = p_bulk and i.code = 'was-edited';
    get diagnostics v_total = row_count;
    return job_bulk_counted(v_bulk, v_total);
end
$$;

-- Starts an action on a choice; job_bulk_step carries it out.
create or replace function job_bulk_start(p_bulk uuid, p_action text, p_actor text, p_reason text) returns void
language plpgsql volatile security definer
set search_path from current
as $$
declare
    v_bulk job_bulk;
begin
    perform job_refuse_outsiders();
    if p_action not in ('retry', 'cancel', 'delete', 'restore', 'edit', 'revert') then
        perform job_queue_refuse(format('There is no action %s.', p_action));
    end if;
    if p_action = 'edit' and not exists (select from job_bulk where id = p_bulk and changes is not null) then
        perform job_queue_refuse('A bulk edit needs its changes: choose the jobs with job_bulk_start_edit.');
    end if;
    if p_action = 'revert' and not exists (select from job_bulk where id = p_bulk and reverts is not null) then
        perform job_queue_refuse('Only the jobs of a bulk edit can get a former payload back: undo that bulk edit.');
    end if;
    update job_bulk set state = 'running', action = p_action, actor = p_actor, role = session_user, reason = p_reason,
        driver = p_actor, started_at = clock_timestamp(), stepped_at = clock_timestamp()
    where id = p_bulk and state = 'chosen' returning * into v_bulk;
    if not found then
        perform job_queue_refuse('This choice of jobs was already used, or is too old. Choose the jobs again.');
    end if;
    perform job_queue_write_audit(p_actor, 'bulk ' || p_action, null, null,
        jsonb_build_object('bulk', p_bulk, 'jobs', v_bulk.total, 'filter', v_bulk.words), p_reason);
end
$$;

-- The actor of the audit rows: the user who started the bulk action, whichever process runs this step.
create or replace function job_bulk_actor(p_bulk job_bulk) returns text
language sql stable
return case when (p_bulk).role = session_user then (p_bulk).actor
    else format('%s (%s), carried out by', (p_bulk).actor, (p_bulk).role) end;

-- Counts the answers of a batch, whose ids are in order, and ends the bulk action with the last one.
create or replace function job_bulk_advance(p_bulk uuid, p_ids uuid[], p_driver text) returns setof job_bulk
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_done integer;
    v_refused integer;
begin
    select count(*), count(*) filter (where not i.ok) into v_done, v_refused from job_bulk_items i
    where i.bulk_id = p_bulk and i.job_id = any (p_ids);
    return query update job_bulk b set done = b.done + v_done, refused = b.refused + v_refused,
        stepped_at = clock_timestamp(), driver = p_driver, trouble = null,
        reached = coalesce(p_ids[cardinality(p_ids)], b.reached),
        state = case when b.done + v_done >= b.total then 'finished' else b.state end,
        finished_at = case when b.done + v_done >= b.total then clock_timestamp() end
    where b.id = p_bulk returning b.*;
end
$$;

-- Gives these jobs the payloads back that they had before a bulk edit made these versions. The audit has them for as long
-- as payloads are kept there; the concurrency key followed from the payload, so it comes back too.
create or replace function job_bulk_revert(
    p_ids uuid[], p_versions bigint[], p_actor text, p_reason text
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_asked record;
begin
    for v_asked in
        select a.id, a.version, (
            select (select jsonb_object_agg(b.key, b.value) from jsonb_each(e.before) b
                where b.key in ('payload', 'concurrency_key'))
            -- Only the index by job: the one of the rows with payloads would be read whole, as would the key for the order.
            from (select u.id, u.before from job_audit u
                where u.job_id = a.id and u.action = 'edit' and (u.after ->> 'version')::bigint = a.version offset 0) e
            where e.before ? 'payload' order by e.id desc limit 1) as former
        from unnest(p_ids, p_versions) as a (id, version) order by a.id
    loop
        begin
            return query select e.job_id, e.ok and v_asked.former is not null,
                case when not e.ok then e.code when v_asked.former is null then 'former-not-kept'
                    when e.code = 'was-edited' then 'was-reverted' else e.code end,
                e.facts, e.status, e.version
            -- Without a former payload the edit is only tried, so that a job that has changed says that.
            from job_queue_edit(v_asked.id, v_asked.version, coalesce(v_asked.former, '{"payload": {}}'), p_actor,
                p_reason, v_asked.former is null) e;
        exception when lock_not_available then
            return query select v_asked.id, false, 'is-locked'::text, null::jsonb, q.status, q.version
            from (select) one left join job_queue q on q.id = v_asked.id;
        end;
    end loop;
end
$$;

-- Acts on the next jobs of a bulk action and stores their answers in one transaction, so that each job is changed once,
-- however often and by however many processes this is called. The audit row names the user who started the bulk
-- action, whichever process runs this step.
create or replace function job_bulk_step(p_bulk uuid, p_limit integer, p_driver text) returns setof job_bulk
language plpgsql volatile security definer
-- A plan that sorts would read all the jobs that are left for each batch.
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_bulk job_bulk;
    v_ids uuid[];
    v_versions bigint[];
    v_actor text;
begin
    perform job_refuse_outsiders();
    select * into v_bulk from job_bulk b where b.id = p_bulk for update;
    if v_bulk.state is distinct from 'running' then
        return query select * from job_bulk b where b.id = p_bulk;
        return;
    end if;
    if v_bulk.action = 'edit' then
        perform job_queue_refuse('A bulk edit is carried out by a program that knows the task types of its jobs.');
    end if;
    select coalesce(array_agg(i.job_id order by i.job_id), '{}'), coalesce(array_agg(i.seen order by i.job_id), '{}')
    into v_ids, v_versions from (
        select i.job_id, i.seen from job_bulk_items i
        where i.bulk_id = p_bulk and i.ok is null and (v_bulk.reached is null or i.job_id > v_bulk.reached)
        order by i.job_id limit p_limit) i;
    v_actor := job_bulk_actor(v_bulk);
    if v_bulk.action = 'restore' then
        update job_bulk_items i set ok = r.ok, code = r.code, facts = r.facts, status = r.status, version = r.version
        from job_queue_restore(v_ids, v_actor, v_bulk.reason, false) r
        where i.bulk_id = p_bulk and i.job_id = r.job_id and i.job_id = any (v_ids);
    elsif v_bulk.action = 'revert' then
        update job_bulk_items i set ok = r.ok, code = r.code, facts = r.facts, status = r.status, version = r.version
        from job_bulk_revert(v_ids, v_versions, v_actor, v_bulk.reason) r
        where i.bulk_id = p_bulk and i.job_id = r.job_id and i.job_id = any (v_ids);
    else
        update job_bulk_items i set ok = r.ok, code = r.code, facts = r.facts, status = r.status, version = r.version
        from job_queue_act(v_bulk.action, v_ids, v_versions, v_actor, v_bulk.reason, false) r
        where i.bulk_id = p_bulk and i.job_id = r.job_id and i.job_id = any (v_ids);
    end if;
    return query select * from job_bulk_advance(p_bulk, v_ids, p_driver);
end
$$;

-- Starts an edit of the payloads of the chosen jobs. p_changes: {"set": {key: value}, "unset": [key]}.
create or replace function job_bulk_start_edit(p_bulk uuid, p_changes jsonb, p_actor text, p_reason text) returns void
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    if jsonb_typeof(p_changes -> 'set') is distinct from 'object'
        or jsonb_typeof(p_changes -> 'unset') is distinct from 'array'
    then
        perform job_queue_refuse('The changes of a bulk edit are an object of keys to set and a list of keys to unset.');
    end if;
    update job_bulk set changes = p_changes where id = p_bulk and state = 'chosen';
    perform job_bulk_start(p_bulk, 'edit', p_actor, p_reason);
end
$$;

-- Locks a bulk edit and returns its next jobs, each with the version at which it was frozen.
create or replace function job_bulk_edit_next(p_bulk uuid, p_limit integer)
returns table (job_id uuid, seen bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
declare
    v_bulk job_bulk;
begin
    perform job_refuse_outsiders();
    select * into v_bulk from job_bulk b where b.id = p_bulk and b.state = 'running' and b.action = 'edit' for update;
    return query select i.job_id, i.seen from job_bulk_items i
    where i.bulk_id = v_bulk.id and i.ok is null and (v_bulk.reached is null or i.job_id > v_bulk.reached)
    order by i.job_id limit p_limit;
end
$$;

-- For workers: locks a bulk edit without a batch in the last 10 seconds, or one that the same worker has resumed, and
-- returns its next jobs, if the worker handles all their types. Another worker, or "jobdeck bulk resume", takes the others.
create or replace function job_bulk_edit_take(p_worker text, p_types text[], p_limit integer)
returns table (bulk_id uuid, job_id uuid, seen bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
declare
    v_bulk job_bulk;
    v_known boolean;
begin
    perform job_refuse_outsiders();
    for v_bulk in
        select * from job_bulk b
        where b.state = 'running' and b.action = 'edit'
            and (b.driver = p_worker or b.stepped_at < clock_timestamp() - interval '10 seconds')
        order by b.stepped_at for update skip locked
    loop
        select bool_and(i.task_type is null or i.task_type = any (p_types)) into v_known from (
            select i.task_type from job_bulk_items i
            where i.bulk_id = v_bulk.id and i.ok is null and (v_bulk.reached is null or i.job_id > v_bulk.reached)
            order by i.job_id limit p_limit) i;
        if v_known then
            return query select v_bulk.id, n.job_id, n.seen from job_bulk_edit_next(v_bulk.id, p_limit) n;
            return;
        end if;
    end loop;
end
$$;

-- Notes why a worker could not carry out a batch of a bulk edit, which is tried again after 10 seconds.
create or replace function job_bulk_edit_failed(p_bulk uuid, p_trouble text) returns void
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    update job_bulk set trouble = p_trouble, stepped_at = clock_timestamp(), driver = null
    where id = p_bulk and state = 'running' and action = 'edit'
$$;

-- Edits the next jobs of a bulk edit and stores their answers. The caller has validated each payload: an element of
-- p_changes is the changes of job_queue_edit, or null if there is nothing to change, and one of p_refusals the sentence
-- by which the task type refuses them.
create or replace function job_bulk_edit_step(
    p_bulk uuid, p_ids uuid[], p_versions bigint[], p_changes jsonb[], p_refusals text[], p_driver text
) returns setof job_bulk
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_bulk job_bulk;
    v_asked record;
    v_done record;
begin
    perform job_refuse_outsiders();
    select * into v_bulk from job_bulk b where b.id = p_bulk for update;
    if v_bulk.state is distinct from 'running' or v_bulk.action <> 'edit' then
        return query select * from job_bulk b where b.id = p_bulk;
        return;
    end if;
    for v_asked in
        select a.id, a.version, a.changes, a.refusal
        from unnest(p_ids, p_versions, p_changes, p_refusals) as a (id, version, changes, refusal)
        join job_bulk_items i on i.bulk_id = p_bulk and i.job_id = a.id and i.ok is null order by a.id
    loop
        begin
            if v_asked.refusal is not null then
                select false as ok, 'not-admitted' as code, jsonb_build_object('sentence', v_asked.refusal) as facts,
                    q.status, q.version into v_done from (select) one left join job_queue q on q.id = v_asked.id;
            elsif v_asked.changes is null then
                select true as ok, 'nothing-to-change' as code, null::jsonb as facts, q.status, q.version into v_done
                from (select) one left join job_queue q on q.id = v_asked.id;
            else
                select e.ok, e.code, e.facts, e.status, e.version into v_done from job_queue_edit(v_asked.id,
                    v_asked.version, v_asked.changes, job_bulk_actor(v_bulk), v_bulk.reason, false) e;
            end if;
        exception when lock_not_available then
            select false as ok, 'is-locked' as code, null::jsonb as facts, q.status, q.version into v_done
            from job_queue q where q.id = v_asked.id;
        end;
        update job_bulk_items i set ok = v_done.ok, code = v_done.code, facts = v_done.facts, status = v_done.status,
            version = v_done.version
        where i.bulk_id = p_bulk and i.job_id = v_asked.id;
    end loop;
    return query select * from job_bulk_advance(p_bulk, p_ids, p_driver);
end
$$;

-- For workers: resumes a bulk action without a batch in the last 10 seconds, or one that the same worker has resumed.
-- Not a bulk edit, whose payloads a program validates that knows their types: see job_bulk_edit_take.
-- Returns whether more work is waiting. An error is stored with the action and does not affect the worker.
create or replace function job_bulk_continue(p_worker text, p_limit integer) returns boolean
language plpgsql volatile security definer
set search_path from current set jit = off
as $$
declare
    v_bulk uuid;
    v_state text;
begin
    perform job_refuse_outsiders();
    select b.id into v_bulk from job_bulk b
    where b.state = 'running' and b.action <> 'edit' and (b.driver = p_worker or b.stepped_at < clock_timestamp() - interval '10 seconds')
    order by b.stepped_at limit 1 for update skip locked;
    if not found then
        update job_upkeep set succeeded_at = clock_timestamp() where part = (
            select u.part from job_upkeep u where u.part = 'bulk'
                and not exists (select from job_bulk b where b.state = 'running' and b.trouble is not null)
            for update skip locked);
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

-- Stops a bulk action after its last complete batch; false if it had already ended.
create or replace function job_bulk_stop(p_bulk uuid, p_actor text) returns boolean
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    update job_bulk set state = 'stopped', stopped_by = job_actor(p_actor), finished_at = clock_timestamp()
    where id = p_bulk and state = 'running';
    if found then
        perform job_queue_write_audit(p_actor, 'bulk stop', null, null, jsonb_build_object('bulk', p_bulk), null);
    end if;
    return found;
end
$$;

-- Deletes a choice on which no action was started.
create or replace function job_bulk_drop(p_bulk uuid) returns void
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    delete from job_bulk where id = p_bulk and state = 'chosen'
$$;

-- The answers of a bulk action in the order of the ids; `ok` is null for jobs that no batch has reached.
create or replace function job_bulk_result(p_bulk uuid, p_refused boolean, p_after uuid, p_limit integer)
returns table (job_id uuid, task_type text, ok boolean, code text, facts jsonb, status text, version bigint)
language sql stable security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
    select job_refuse_outsiders();
    select i.job_id, i.task_type, i.ok, case when i.message is not null then 'earlier-answer' else i.code end,
        case when i.message is not null then jsonb_build_object('sentence', i.message) else i.facts end,
        i.status, i.version
    from job_bulk_items i
    where i.bulk_id = p_bulk and (not p_refused or not i.ok) and (p_after is null or i.job_id > p_after)
    order by i.job_id limit p_limit
$$;

-- Moves up to p_limit jobs that succeeded or were cancelled longer ago than p_older_than to the trash, and records their
-- ids in the audit. Returns how many. Callers repeat it, each time in a transaction of its own, until there are none.
create or replace function job_queue_purge(p_older_than interval, p_limit integer, p_actor text, p_reason text)
returns integer
language plpgsql volatile security definer
set search_path from current set jit = off
as $$
declare
    v_ended_before constant timestamptz := now() - p_older_than;
    v_ids uuid[];
begin
    perform job_refuse_outsiders();
    v_ids := array(
        select q.id from job_queue q
        where q.status in ('succeeded', 'cancelled') and coalesce(q.completed_at, q.updated_at) < v_ended_before
            -- Upkeep has to tell the jobs that wait for this one first.
            and not exists (select from job_queue w where w.blocked_by = q.id and w.status = 'pending')
            and not job_flow_asks(q.id)
        limit p_limit for update skip locked);
    perform job_flow_note_ends(v_ids);
    with gone as (
        delete from job_queue q where q.id = any (v_ids) returning q.*
    ), kept as (
        insert into job_trash (job_id, job, deleted_by, reason)
        select g.id, to_jsonb(g), job_actor(p_actor), p_reason from gone g
        on conflict (job_id) do update set job = excluded.job, deleted_at = now(), deleted_by = excluded.deleted_by,
            reason = excluded.reason
    )
    select array_agg(g.id order by g.id) into v_ids from gone g;
    if v_ids is null then
        return 0;
    end if;
    perform job_queue_write_audit(p_actor, 'purge', null, null, jsonb_build_object('jobs', cardinality(v_ids),
        'ended_before', v_ended_before, 'ids', v_ids), p_reason);
    return cardinality(v_ids);
end
$$;

-- The same in one transaction, for programs of 0.1.0 and for SQL.
create or replace function job_queue_cleanup(p_max_age interval default interval '14 days') returns integer
language plpgsql volatile security definer
set search_path from current
as $$
declare
    v_batch integer;
    v_total integer := 0;
begin
    perform job_refuse_outsiders();
    loop
        v_batch := job_queue_purge(p_max_age, 1000, null, null);
        exit when v_batch = 0;
        v_total := v_total + v_batch;
    end loop;
    return v_total;
end
$$;

-- The playbook's jobs:cleanup: lists running jobs that started longer ago than p_older_than and whose lease has
-- expired, all or those of p_ids, and marks them failed unless p_dry_run (a series continues at its next slot).
drop function if exists job_queue_clean_stuck(interval, text, boolean);
create or replace function job_queue_clean_stuck(
    p_older_than interval, p_actor text, p_dry_run boolean, p_ids uuid[]
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_stuck job_queue;
    v_after job_queue;
begin
    perform job_refuse_outsiders();
    for v_stuck in
        select * from job_queue q where q.status = 'running' and q.lease_expires_at <= clock_timestamp()
            and coalesce(q.started_at, q.updated_at) <= clock_timestamp() - p_older_than
            and (p_ids is null or q.id = any (p_ids))
        order by q.id
    loop
        if p_dry_run then
            return query select v_stuck.id, true, 'is-stuck', jsonb_build_object('expired_at', v_stuck.lease_expires_at,
                'worker', v_stuck.locked_by), v_stuck.status, v_stuck.version;
            continue;
        end if;
        if not exists (select from job_queue_take_back('cleanup', array[v_stuck.id], jsonb_build_object(
            'permanent', true, 'error_kind', 'stuck', 'error', format(
                'Stuck in running state: %s, and an operator marked the job failed.', case v_stuck.locked_by
                when job_earlier_runner() then 'the earlier runner did not report within 20 minutes'
                else format('worker %s stopped renewing its lease', v_stuck.locked_by) end)), 0, 0))
        then
            return query select v_stuck.id, false, 'stuck-no-more', null::jsonb, null::text, null::bigint;
            continue;
        end if;
        select * into v_after from job_queue q where q.id = v_stuck.id;
        perform job_queue_write_audit(p_actor, 'cleanup', v_stuck.id, job_audit_facts(v_stuck),
            job_audit_facts(v_after), null);
        return query select v_stuck.id, true, case when v_after.status = 'pending' then 'cycle-marked-failed'
            when v_after.status = 'cancelled' then 'cancelled-as-requested' else 'marked-failed' end, null::jsonb,
            v_after.status, v_after.version;
    end loop;
end
$$;

-------------------------------------------------------------------------------------------------------
-- Canaries: jobs that run next and alone, although their type or everything is paused
--
-- A request changes nothing of the job until a worker takes it, so there is nothing to undo when it is taken back. It
-- ends with the run, whose outcome the history has; upkeep, and who waits for the answer, write it to the audit.
-------------------------------------------------------------------------------------------------------

-- Whether nobody has changed the job since the request. A blocker that has ended since does not count.
create or replace function job_canary_stands(p_canary job_canaries, p_job job_queue) returns boolean
language sql immutable
return coalesce((p_job).version = (p_canary).seen or (p_canary).blocker is not null and (p_job).blocked_by is null
    and (p_job).version = (p_canary).seen + 1, false);

-- The code that says which other runner has the jobs of this type; null if workers have them.
create or replace function job_left_to_another(p_task_type text) returns text
language sql stable
set search_path from current
as $$
    select case
        when exists (select from job_queue_settings where runner = 'earlier') then 'earlier-runner'
        when exists (select from job_types where task_type = p_task_type and set_aside) then 'type-left-to-another'
    end
$$;

-- Why a job cannot be taken as a canary now; no code if it can.
create or replace function job_canary_hold(p_job job_queue, out code text, out facts jsonb)
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_blocker record;
    v_holder uuid;
    v_now constant timestamptz := clock_timestamp();
begin
    code := job_left_to_another(p_job.task_type);
    facts := jsonb_build_object('task_type', p_job.task_type);
    if code is null and p_job.blocked_by is not null then
        select * into v_blocker from job_queue_judge_blocker(p_job.blocked_by);
        code := case when p_job.blocked_by = p_job.id then 'series-paused' when v_blocker.live or job_flow_waits(p_job.id)
            then 'waits-for-blocker' when v_blocker.refusal is not null then 'hopeless-blocker' end;
        facts := jsonb_build_object('job', p_job.id, 'blocker', p_job.blocked_by, 'status',
            (select q.status from job_queue q where q.id = p_job.blocked_by));
    end if;
    if code is null and job_key_is_busy_now(p_job.concurrency_key)
        and job_key_is_full(p_job.concurrency_key, p_job.task_type)
    then
        code := 'concurrency-key-busy';
        facts := jsonb_build_object('holder', (select q.id from job_queue q
            where q.concurrency_key = p_job.concurrency_key and q.status = 'running' limit 1));
    end if;
    if code is null then
        select s.code, s.facts into code, facts from job_limit_state(p_job.task_type, clock_timestamp()) s
        where s.opens_at is not null;
    end if;
    if code is null and job_key_opens(p_job.concurrency_key, p_job.task_type, v_now) > v_now then
        code := 'key-rate';
        facts := jsonb_build_object('seconds', ceil(date_part('epoch',
            job_key_opens(p_job.concurrency_key, p_job.task_type, v_now) - v_now)));
    end if;
    if code is null and p_job.status <> 'pending' and p_job.dedupe_key is not null then
        v_holder := job_queue_holder(p_job.dedupe_key);
        code := case when v_holder is not null then 'key-held' end;
        facts := jsonb_build_object('holder', v_holder);
    end if;
end
$$;

-- Claims the oldest canary of these types that can be taken, if there is one. Its priority is reported as 101, above all
-- others, by which the worker knows it. No lock is waited for, but for a dedupe key that is being enqueued.
create or replace function job_queue_take_canary(p_worker text, p_types text[], p_lease_seconds double precision)
returns table (
    id uuid, run_token bigint, task_type text, payload jsonb, attempt integer, max_attempts integer,
    due_at timestamptz, claimed_at timestamptz, is_recurring boolean, checkpoint jsonb, cycle integer, priority integer
)
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '100ms'
as $$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_canary job_canaries;
    v_job job_queue;
    v_limited boolean;
    v_open boolean;
begin
    for v_canary in
        select * from job_canaries c
        where c.task_type = any (p_types) and c.run_token is null and c.asked_at > v_now - interval '1 minute'
        order by c.id for update skip locked
    loop
        select * into v_job from job_queue q where q.id = v_canary.job_id for update skip locked;
        continue when v_job.status = 'running' or not job_canary_stands(v_canary, v_job);
        continue when v_job.concurrency_key is not null
            and cardinality(job_queue_try_locks(array[v_job.concurrency_key])) = 0;
        continue when (select h.code from job_canary_hold(v_job) h) is not null;
        v_limited := exists (select from job_types t where t.limited and t.task_type = v_job.task_type);
        if v_limited then
            select a.types is not null, a.counted_at into v_open, v_now
            from job_limits_admit(array[v_job.task_type], p_worker, 1, false) a;
            continue when not v_open;
        end if;
        begin
            v_job := job_queue_make_due(v_job);
            perform job_flow_refuse_canary(v_job);
            perform job_limits_spend(array[q.ctid], array[q.task_type], v_now) from job_queue q
            where v_limited and q.id = v_job.id;
            perform job_key_spend(v_job.concurrency_key, v_job.task_type, v_now)
            where v_job.concurrency_key is not null;
            -- Others with the key are not looked at while it runs, as after any claim.
            update job_queue set in_line = true where id in (
                select q.id from job_queue q
                where q.concurrency_key = v_job.concurrency_key and q.status = 'pending' and q.blocked_by is null
                    and not q.in_line and q.id <> v_job.id and job_key_limit(q.task_type) = 1
                for update skip locked);
            update job_queue q
            set status = 'running', attempts = q.attempts + 1, run_token = nextval('job_run_token_seq'),
                locked_by = p_worker, started_at = v_now, updated_at = v_now, version = q.version + 1,
                lease_expires_at = v_now + make_interval(secs => p_lease_seconds), blocked_by = null, in_line = false,
                limited = v_limited,
                key_place = (select k.numbers[1] from job_key_places(array[q.ctid]) k),
                anchor_at = case when q.is_recurring then coalesce(q.anchor_at, q.run_at) end
            where q.id = v_job.id returning * into v_job;
        exception when sqlstate 'JD001' or unique_violation or lock_not_available then
            -- Its blocker, its flow or its dedupe key was faster.
            continue;
        end;
        update job_canaries c set run_token = v_job.run_token where c.id = v_canary.id;
        return query select v_job.id, v_job.run_token, v_job.task_type, v_job.payload, v_job.attempts,
            v_job.max_attempts, coalesce(v_job.slot_at, v_job.run_at), v_now, v_job.is_recurring, v_job.checkpoint,
            v_job.cycle, 101;
        return;
    end loop;
end
$$;

-- Asks to run a job as a canary. Of each group of errors (a type and a fingerprint) one is asked for at a time.
create or replace function job_queue_ask_canary(
    p_id uuid, p_version bigint, p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_job job_queue;
    v_fingerprint text;
    v_refusal text;
    v_facts jsonb;
    v_canary bigint;
begin
    perform job_refuse_outsiders();
    perform job_queue_judge_canaries();
    if p_id <> all (job_queue_lock_jobs(array[p_id])) then
        return query select p_id, false, 'is-locked', null::jsonb, null::text, null::bigint;
        return;
    end if;
    select * into v_job from job_queue q where q.id = p_id for update;
    if not found then
        return query select p_id, false, job_queue_absence('retry', p_id), jsonb_build_object('job', p_id), null::text,
            null::bigint;
        return;
    end if;
    v_fingerprint := (select r.fingerprint from job_runs r where r.job_id = p_id and r.fingerprint is not null
        order by r.run_token desc limit 1);
    select r.code, r.facts into v_refusal, v_facts from job_queue_refusal('retry', v_job, p_version) r;
    if v_refusal is null then
        select r.code, r.facts into v_refusal, v_facts from job_canary_refusal(v_job, v_fingerprint) r;
    end if;
    if v_refusal is null and not p_dry_run then
        begin
            insert into job_audit (actor, action, job_id, before, reason)
            values (job_actor(p_actor), 'canary', p_id, job_audit_facts(v_job), p_reason) returning id into v_canary;
            insert into job_canaries (id, job_id, task_type, fingerprint, seen, blocker, after_token, asked_by)
            values (v_canary, p_id, v_job.task_type, v_fingerprint, v_job.version, v_job.blocked_by,
                nextval('job_run_token_seq'), job_actor(p_actor));
            perform pg_notify(current_schema() || '.job_queue', 'canary');
        exception when unique_violation or lock_not_available then
            v_refusal := 'canary-was-faster';
        end;
    end if;
    return query select p_id, v_refusal is null, coalesce(v_refusal, case when p_dry_run then 'would-be-canary'
        else 'canary-asked' end), coalesce(v_facts, jsonb_build_object('canary', v_canary)), v_job.status, v_job.version;
end
$$;

-- Why a job that could be retried cannot be asked for as a canary; no code if it can.
create or replace function job_canary_refusal(p_job job_queue, p_fingerprint text, out code text, out facts jsonb)
language plpgsql volatile
set search_path from current
as $$
declare
    v_other job_canaries;
begin
    select * into v_other from job_canaries c
    where c.job_id = p_job.id or c.task_type = p_job.task_type and c.fingerprint = p_fingerprint limit 1;
    if found then
        code := case when v_other.job_id = p_job.id then 'canary-open' else 'canary-of-group' end;
        facts := jsonb_build_object('canary_job', v_other.job_id, 'asked_by', v_other.asked_by,
            'asked_at', v_other.asked_at);
    elsif job_left_to_another(p_job.task_type) is not null then
        code := job_left_to_another(p_job.task_type);
        facts := jsonb_build_object('task_type', p_job.task_type);
    elsif not exists (select from job_workers w
        where w.heartbeat_at > clock_timestamp() - interval '2 minutes' and p_job.task_type = any (w.task_types))
    then
        code := 'canary-no-worker';
        facts := jsonb_build_object('task_type', p_job.task_type);
    end if;
end
$$;

-- Ends the requests whose run has ended, whose job was changed, or that no worker has taken within a minute, and writes
-- the answers to the audit. Requests that another session has locked are left to it.
create or replace function job_queue_judge_canaries() returns void
language plpgsql volatile
set search_path from current set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_canary job_canaries;
    v_job job_queue;
    v_answer jsonb;
begin
    for v_canary in select * from job_canaries c order by c.id for update skip locked loop
        select * into v_job from job_queue q where q.id = v_canary.job_id;
        if v_canary.run_token is null then
            -- Where nothing is paused, the job may also be claimed in its turn.
            v_canary.run_token := coalesce(case when v_job.run_token > v_canary.after_token then v_job.run_token end,
                (select min(r.run_token) from job_runs r
                where r.job_id = v_canary.job_id and r.run_token > v_canary.after_token));
            update job_canaries c set run_token = v_canary.run_token
            where c.id = v_canary.id and v_canary.run_token is not null;
        end if;
        if v_canary.run_token is not null then
            continue when v_job.run_token = v_canary.run_token;
            v_answer := (select jsonb_build_object('code', 'canary-ended', 'outcome', r.outcome, 'last_error', r.error,
                    'seconds', extract(epoch from r.finished_at - r.started_at), 'run_token', r.run_token,
                    'facts', case when r.dry_run then jsonb_build_object('dry_run', true) end)
                from job_runs r where r.run_token = v_canary.run_token and not r.late);
        elsif not job_canary_stands(v_canary, v_job) then
            v_answer := job_canary_change(v_canary, v_job);
        elsif v_canary.asked_at <= v_now - interval '1 minute' then
            v_answer := (select jsonb_build_object(
                'code', case when h.code is null then 'canary-not-taken' else 'canary-held' end,
                'facts', coalesce(h.facts, '{}') || jsonb_build_object('held_by', h.code))
                from job_canary_hold(v_job) h);
        else
            continue;
        end if;
        insert into job_audit (actor, action, job_id, after)
        values (v_canary.asked_by, 'canary ended', v_canary.job_id, jsonb_strip_nulls(jsonb_build_object('canary',
            v_canary.id, 'task_type', v_canary.task_type) || coalesce(v_answer,
                jsonb_build_object('code', 'canary-vanished'))));
        delete from job_canaries c where c.id = v_canary.id;
    end loop;
end
$$;

-- What became of a job between the request and a claim, by the audit.
create or replace function job_canary_change(p_canary job_canaries, p_job job_queue) returns jsonb
language sql stable
set search_path from current
as $$
    select jsonb_build_object('code', 'canary-changed', 'facts', jsonb_build_object('action', a.action,
        'actor', a.actor, 'status', p_job.status))
    from (select 1) one left join lateral (
        select c.action, c.actor from job_audit c
        where c.job_id = p_canary.job_id and c.id > p_canary.id and c.action not in ('canary', 'canary ended', 'reveal')
        order by c.id limit 1) a on true
$$;

-- The state of a request, `waiting`, `running` or `ended`, and then its answer: the outcome of the run, or a code that
-- says why there was none. No row for an id that is none.
create or replace function job_queue_canary(p_canary bigint)
returns table (
    job_id uuid, state text, code text, facts jsonb, outcome text, error text, seconds double precision,
    asked_at timestamptz
)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
    perform job_refuse_outsiders();
    perform job_queue_judge_canaries();
    return query
    select c.job_id, case when c.run_token is null then 'waiting' else 'running' end,
        case when c.run_token is not null then 'canary-runs' else coalesce(h.code, 'canary-waits') end,
        coalesce(h.facts, '{}'), null::text, null::text, null::double precision, c.asked_at
    from job_canaries c left join job_queue q on q.id = c.job_id
    left join lateral job_canary_hold(q) h on c.run_token is null
    where c.id = p_canary;
    if found then
        return;
    end if;
    return query
    select e.job_id, 'ended', e.after ->> 'code', coalesce(e.after -> 'facts', '{}'), e.after ->> 'outcome',
        e.after ->> 'last_error', (e.after ->> 'seconds')::double precision, a.at
    from job_audit a join job_audit e on e.job_id = a.job_id and e.action = 'canary ended' and e.id > a.id
        and (e.after ->> 'canary')::bigint = p_canary
    where a.id = p_canary and a.action = 'canary';
end
$$;

-- The clauses for a job that is asked for as a canary: pauses, due time and expiry do not hold it.
create or replace function job_queue_why_canary(p_job job_queue, p_workers integer, p_handling integer)
returns table (place integer, clause text, holds boolean, code text, facts jsonb)
language plpgsql stable
set search_path from current
as $$
declare
    v_canary job_canaries;
    v_code text;
    v_facts jsonb;
begin
    select * into v_canary from job_canaries c where c.job_id = p_job.id;
    select h.code, h.facts into v_code, v_facts from job_canary_hold(p_job) h;
    return query values
        (1, 'canary', true, 'canary-requested',
            jsonb_build_object('asked_by', v_canary.asked_by, 'asked_at', v_canary.asked_at)),
        (2, 'worker', p_handling > 0, case when p_workers = 0 then 'no-worker' when p_handling = 0
            then 'no-worker-for-type' when p_workers = 1 then 'one-worker' else 'some-workers' end,
            jsonb_build_object('workers', p_workers, 'handling', p_handling)),
        (3, 'nothing else holds it', v_code is null, coalesce(v_code, 'canary-free'), v_facts);
end
$$;

-------------------------------------------------------------------------------------------------------
-- 9. The processing switch, workers and their runs
-------------------------------------------------------------------------------------------------------

-- Pauses all task types or one, from the next claim of each worker on.
create or replace function job_queue_pause(
    p_task_type text, p_reason text, p_resume_at timestamptz, p_actor text
) returns void
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    if p_resume_at <= clock_timestamp() then
        perform job_queue_refuse('The time to resume is in the past. Choose a later one.');
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
        insert into job_types as t (task_type, paused_reason, paused_by, paused_at, resume_at)
        values (p_task_type, p_reason, job_actor(p_actor), clock_timestamp(), p_resume_at)
        on conflict (task_type) do update set paused_reason = excluded.paused_reason, paused_by = excluded.paused_by,
            paused_at = excluded.paused_at, resume_at = excluded.resume_at
        where not t.set_aside;
        if not found then
            perform job_queue_refuse(format('The task type %s is set aside for another runner, so no worker takes its '
                'jobs anyway. Nothing was changed.', p_task_type));
        end if;
    end if;
    perform job_queue_write_audit(p_actor, 'pause', null, null, jsonb_build_object('task_type', p_task_type,
        'resume_at', p_resume_at), p_reason);
end
$$;

-- Leaves a note for the next shift, for up to 30 days, and returns its id. The audit does not repeat its text.
create or replace function job_note_add(p_note text, p_days integer, p_actor text) returns bigint
language plpgsql volatile security definer
set search_path from current
as $$
declare
    v_id bigint;
begin
    perform job_refuse_outsiders();
    if length(btrim(p_note)) not between 1 and 2000 then
        perform job_queue_refuse('A note has 1 to 2,000 characters.');
    end if;
    if p_days not between 1 and 30 then
        perform job_queue_refuse('A note is shown for 1 to 30 days.');
    end if;
    insert into job_notes (actor, note, until)
    values (job_actor(p_actor), btrim(p_note), clock_timestamp() + make_interval(days => p_days)) returning id into v_id;
    perform job_queue_write_audit(p_actor, 'note', null, null, jsonb_build_object('note', v_id, 'days', p_days), null);
    return v_id;
end
$$;

-- Acknowledges a note, which is shown no longer.
create or replace function job_note_acknowledge(p_id bigint, p_actor text) returns void
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    update job_notes set acknowledged_at = clock_timestamp(), acknowledged_by = job_actor(p_actor)
    where id = p_id and acknowledged_at is null and until > clock_timestamp();
    if not found then
        perform job_queue_refuse(format('There is no open note %s. "jobdeck note" lists the open ones.', p_id));
    end if;
    perform job_queue_write_audit(p_actor, 'acknowledge', null, null, jsonb_build_object('note', p_id), null);
end
$$;

-- Mutes a group of errors until a time; with null it is muted no longer.
create or replace function job_error_mute(
    p_task_type text, p_fingerprint text, p_until timestamptz, p_actor text, p_reason text
) returns void
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    if p_until <= clock_timestamp() then
        perform job_queue_refuse('The time until which the errors are muted is in the past. Choose a later one.');
    end if;
    if p_until > clock_timestamp() + interval '365 days' then
        perform job_queue_refuse('Errors are muted for 365 days at most. Choose an earlier time.');
    end if;
    delete from job_error_mutes where task_type = p_task_type and fingerprint = p_fingerprint;
    if not found and p_until is null then
        perform job_queue_refuse('This group of errors is not muted.');
    end if;
    if p_until is not null then
        insert into job_error_mutes (task_type, fingerprint, until, reason, actor)
        values (p_task_type, p_fingerprint, p_until, p_reason, job_actor(p_actor));
    end if;
    perform job_queue_write_audit(p_actor, case when p_until is null then 'unmute errors' else 'mute errors' end, null,
        null, jsonb_build_object('task_type', p_task_type, 'fingerprint', p_fingerprint, 'until', p_until), p_reason);
end
$$;

create or replace function job_queue_resume(p_task_type text, p_actor text) returns void
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    if p_task_type is null then
        insert into job_queue_settings (id, processing_enabled) values (1, true)
        on conflict (id) do update set processing_enabled = true, paused_reason = null, paused_by = null,
            paused_at = null, resume_at = null, updated_at = now();
    else
        update job_types set paused_reason = null, paused_by = null, paused_at = null, resume_at = null
        where task_type = p_task_type and paused_at is not null and not set_aside;
        if not found then
            perform job_queue_refuse(format('The task type %s is set aside for another runner. Once that one has stopped, '
                'run "jobdeck types set %s --take-over".', t.task_type, t.task_type))
            from job_types t where t.task_type = p_task_type and t.set_aside;
            perform job_queue_refuse(format('The task type %s is not paused.', p_task_type));
        end if;
    end if;
    perform job_queue_write_audit(p_actor, 'resume', null, null, jsonb_build_object('task_type', p_task_type), null);
    perform pg_notify(current_schema() || '.job_queue', '');
end
$$;

-- Gives the queue to the workers of this program ('jobdeck'), or back to the earlier runner ('earlier'). Jobs that run end
-- where they began. Returns how many run.
create or replace function job_runner_switch(p_runner text, p_actor text, p_reason text) returns bigint
language plpgsql volatile security definer
set search_path from current
as $$
declare
    v_before text;
    v_left_at timestamptz;
begin
    perform job_refuse_outsiders();
    select runner, earlier_left_at into v_before, v_left_at from job_queue_settings where id = 1 for update;
    if p_runner is null or p_runner not in ('jobdeck', 'earlier') then
        perform job_queue_refuse(format('There is no runner %s: name jobdeck or earlier. Nothing was changed.', p_runner));
    elsif p_runner = 'earlier' and v_left_at is not null then
        perform job_queue_refuse(format('The earlier runner cannot come back: "jobdeck cutover stay" has dropped its '
            'functions at %s. Nothing was changed.', v_left_at));
    elsif v_before is not distinct from p_runner then
        perform job_queue_refuse(case p_runner when 'jobdeck' then 'The workers of Jobdeck have the queue already.'
            else 'The earlier runner has the queue already.' end || ' Nothing was changed.');
    end if;
    update job_queue_settings set runner = p_runner, updated_at = now() where id = 1;
    if not found then
        perform job_queue_refuse('The settings row is missing. Run "jobdeck resume". Nothing was changed.');
    end if;
    perform job_queue_write_audit(p_actor, 'switch runner', null, jsonb_build_object('runner', v_before),
        jsonb_build_object('runner', p_runner), p_reason);
    perform pg_notify(current_schema() || '.job_queue', '');
    return (select count(*) from job_queue where status = 'running');
end
$$;

-- Ends pauses whose time is up. Claims do not wait for this; it updates the switch and the audit.
create or replace function job_queue_resume_due() returns bigint
language plpgsql volatile
set search_path from current
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
    for v_type in
        update job_types set paused_reason = null, paused_by = null, paused_at = null, resume_at = null
        where resume_at <= clock_timestamp() returning task_type
    loop
        perform job_queue_write_audit('automatic resume', 'resume', null, null,
            jsonb_build_object('task_type', v_type), null);
        v_resumed := v_resumed + 1;
    end loop;
    return v_resumed;
end
$$;

-- A share as people write it: 0.25 is 25 %.
create or replace function job_percent(p_share double precision) returns text
language sql immutable parallel safe
return trim(trim_scale(round((p_share * 100)::numeric, 2))::text) || ' %';

-- Why these settings of a type cannot be; null if they can.
create or replace function job_type_refusal(p_warning double precision, p_critical double precision) returns text
language sql immutable
set search_path from current
as $$
    select case
        -- Not a number is greater than all numbers.
        when p_warning <= 0 or p_warning > 1 or p_critical <= 0 or p_critical > 1 then format(
            'A threshold must be more than 0 %% and at most 100 %%, and %s is not. Nothing was changed.',
            job_percent(case when p_warning <= 0 or p_warning > 1 then p_warning else p_critical end))
        when p_warning > p_critical then format(
            'The threshold for a warning, %s, must not be above the one for critical, %s. Nothing was changed.',
            job_percent(p_warning), job_percent(p_critical))
    end
$$;

-- Changes settings of a task type. Keys of p_changes: warning_share, critical_share, muted_until, set_aside, and the limits
-- max_running, rate_runs with rate_seconds, rate_burst, max_per_key, key_rate_runs with key_rate_seconds,
-- max_age_seconds; null resets one. A type without a row has the settings that hold for all types.
create or replace function job_type_set(p_task_type text, p_changes jsonb, p_actor text, p_reason text) returns void
language plpgsql volatile security definer
set search_path from current set lock_timeout = '900ms'
as $$
declare
    v_type job_types;
    v_was job_types;
    v_before jsonb;
    v_unknown text;
begin
    perform job_refuse_outsiders();
    select string_agg(k, ', ' order by k) into v_unknown from jsonb_object_keys(p_changes) k
    where k not in ('warning_share', 'critical_share', 'muted_until', 'set_aside', 'max_running', 'max_per_key',
        'rate_runs', 'rate_seconds', 'rate_burst', 'key_rate_runs', 'key_rate_seconds',
        'max_age_seconds');
    if v_unknown is not null then
        perform job_queue_refuse(format('A task type has no setting %s. Nothing was changed.', v_unknown));
    elsif coalesce(trim(p_task_type), '') = '' or p_changes = '{}' then
        perform job_queue_refuse('Name a task type and a setting to change. Nothing was changed.');
    elsif not job_is_a_time((p_changes ->> 'muted_until')::timestamptz) then
        perform job_queue_refuse('A time must be between the years 1 and 9999. Nothing was changed.');
    elsif (p_changes ->> 'muted_until')::timestamptz <= clock_timestamp() then
        perform job_queue_refuse('The time until which to mute is in the past. Choose a later one. Nothing was changed.');
    elsif (p_changes ->> 'set_aside')::boolean and coalesce(trim(p_reason), '') = '' then
        perform job_queue_refuse('Say in the reason which runner has the task type. Nothing was changed.');
    end if;
    insert into job_types (task_type) values (p_task_type) on conflict (task_type) do nothing;
    perform job_limits_refuse_others(p_changes);
    select * into v_type from job_types where task_type = p_task_type for update;
    v_was := v_type;
    v_before := to_jsonb(v_type);
    v_type := jsonb_populate_record(v_type, p_changes);
    v_type.set_aside := coalesce(v_type.set_aside, false);
    if v_type.rate_runs is null and not p_changes ? 'rate_burst' then
        v_type.rate_burst := null;
    end if;
    perform job_queue_refuse(r) from job_limits_refusal(v_type) r where r is not null;
    perform job_queue_refuse(r) from job_type_refusal(v_type.warning_share, v_type.critical_share) r
    where r is not null;
    if p_changes ? 'muted_until' then
        v_type.muted_by := case when v_type.muted_until is not null then job_actor(p_actor) end;
        v_type.muted_reason := case when v_type.muted_until is not null then p_reason end;
    end if;
    if v_type.set_aside is distinct from (v_before ->> 'set_aside')::boolean then
        v_type.paused_at := case when v_type.set_aside then clock_timestamp() end;
        v_type.paused_by := case when v_type.set_aside then job_actor(p_actor) end;
        v_type.paused_reason := case when v_type.set_aside then p_reason end;
        v_type.resume_at := null;
        perform pg_notify(current_schema() || '.job_queue', '');
    elsif p_changes ? 'set_aside' then
        perform job_queue_refuse(format('The task type %s is %s set aside. Nothing was changed.', p_task_type,
            case when v_type.set_aside then 'already' else 'not' end));
    end if;
    update job_types set warning_share = v_type.warning_share, critical_share = v_type.critical_share,
        muted_until = v_type.muted_until, muted_by = v_type.muted_by, muted_reason = v_type.muted_reason,
        set_aside = v_type.set_aside, paused_at = v_type.paused_at, paused_by = v_type.paused_by,
        paused_reason = v_type.paused_reason, resume_at = v_type.resume_at
    where task_type = p_task_type;
    if p_changes ?| array['max_running', 'max_per_key', 'rate_runs', 'rate_seconds', 'rate_burst', 'key_rate_runs',
        'key_rate_seconds', 'max_age_seconds']
    then
        perform job_limits_keep(v_was, v_type);
    end if;
    perform job_queue_write_audit(p_actor, 'set type', null,
        (select jsonb_object_agg(k, v_before -> k) from jsonb_object_keys(p_changes) k)
            || jsonb_build_object('task_type', p_task_type),
        p_changes || jsonb_build_object('task_type', p_task_type), p_reason);
end
$$;

create or replace function job_worker_report(
    p_id text, p_host text, p_pid integer, p_mode text, p_version text, p_concurrency integer, p_types text[],
    p_running integer
) returns void
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    insert into job_workers as w (id, host, pid, mode, version, concurrency, task_types, running)
    values (p_id, p_host, p_pid, p_mode, p_version, p_concurrency, p_types, p_running)
    on conflict (id) do update set heartbeat_at = clock_timestamp(), running = excluded.running,
        concurrency = excluded.concurrency, task_types = excluded.task_types, mode = excluded.mode
$$;

-- Notes the release of a worker that starts.
create or replace function job_release_note(p_name text) returns void
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    insert into job_releases (name) select left(p_name, 200) where p_name <> '' on conflict (name) do nothing
$$;

create or replace function job_worker_remove(p_id text) returns void
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    delete from job_workers where id = p_id
$$;

-- The task types with a job in the claim's index.
create or replace function job_queue_waiting_types() returns text[]
language sql stable
set search_path from current set enable_seqscan = off set enable_sort = off set jit = off
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

-- Jobs that are due and could be claimed: exact up to 10,000, above that an estimate, which is more than 10,000.
create or replace function job_queue_due_count() returns integer
language plpgsql stable security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    return (
        select least(job_queue_before(array_agg(l.task_type), array_agg(l.priority), array_agg(statement_timestamp()),
            array_agg('00000000-0000-0000-0000-000000000000'::uuid), 10001), 2147483647)
        from job_queue_lanes(job_types_open(job_queue_waiting_types(), statement_timestamp())) l);
end
$$;

create or replace function job_worker_run_open(p_source text, p_worker text, p_http_method text)
returns uuid
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    insert into job_worker_runs (started_at, source, worker_id, http_method, due_before)
    values (clock_timestamp(), p_source, p_worker, p_http_method, job_queue_due_count()) returning id
$$;

drop function if exists job_worker_run_note(uuid, integer, integer, integer, integer);
-- Updates the counts of an open record, and its other columns where they are given. Only the role that opened it does.
create or replace function job_worker_run_note(
    p_id uuid, p_claimed integer, p_succeeded integer, p_failed integer, p_released integer,
    p_status text default null, p_message text default null, p_http_status integer default null
) returns void
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    update job_worker_runs set claimed = p_claimed, processed = p_succeeded + p_failed, succeeded = p_succeeded,
        failed = p_failed, released = p_released, status = coalesce(p_status, status),
        message = coalesce(p_message, message), http_status = coalesce(p_http_status, http_status),
        noted_at = clock_timestamp()
    where id = p_id and completed_at is null and coalesce(opened_by = session_user, true)
$$;

-- Closes a record. A closed one does not change any more, and only the role that opened it closes it.
create or replace function job_worker_run_close(
    p_id uuid, p_status text, p_claimed integer, p_succeeded integer, p_failed integer, p_released integer,
    p_message text, p_error text, p_results jsonb, p_http_status integer
) returns void
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    if exists (select from job_worker_runs w where w.id = p_id and w.opened_by <> session_user) then
        perform job_queue_refuse('Another role opened this record of a worker run. Nothing was changed.');
    end if;
    update job_worker_runs set completed_at = clock_timestamp(), status = p_status, claimed = p_claimed,
        processed = p_succeeded + p_failed, succeeded = p_succeeded, failed = p_failed, released = p_released,
        message = p_message, error_message = p_error, results = p_results, http_status = p_http_status,
        duration_ms = extract(epoch from clock_timestamp() - started_at) * 1000
    where id = p_id and completed_at is null;
end
$$;

-- Whether a scheduler started a cycle.
create or replace function job_is_scheduled(p_source text) returns boolean
language sql immutable parallel safe
return p_source = 'timer' or p_source like '%cron%';

-- Sets the interval in minutes at which a scheduler should call; the health verdict uses it.
create or replace function job_queue_expect_trigger(p_minutes integer) returns void
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    update job_queue_settings set trigger_minutes = p_minutes where id = 1 and trigger_minutes <> p_minutes
$$;

-- Raises an alarm; false if one of this name is already raised.
create or replace function job_alarm_raise(p_name text) returns boolean
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    insert into job_alarms (name) values (p_name) on conflict (name) do nothing;
    return found;
end
$$;

-- Clears an alarm and returns when it was raised; null if there was none.
create or replace function job_alarm_clear(p_name text) returns timestamptz
language sql volatile security definer
set search_path from current
as $$
    select job_refuse_outsiders();
    delete from job_alarms where name = p_name returning since
$$;

-------------------------------------------------------------------------------------------------------
-- 10. Reading
-------------------------------------------------------------------------------------------------------

-- A payload as a viewer sees it: keys and plain values, no text that may name a person.
create or replace function job_redact_payload(p_payload jsonb) returns jsonb
language sql immutable parallel safe
set search_path from current
as $$
    select coalesce(jsonb_object_agg(e.key, case
        when jsonb_typeof(e.value) in ('boolean', 'number', 'null') then e.value
        when jsonb_typeof(e.value) = 'array' then to_jsonb(format('%s hidden', jsonb_array_length(e.value)))
        when e.value #>> '{}' ~ '^[0-9a-fA-F-]{36}$' then e.value
        else '"hidden"'::jsonb end), '{}')
    from jsonb_each(case when jsonb_typeof(p_payload) = 'object' then p_payload else '{}' end) e
$$;

-- Whether the current role sees whole payloads, which it does if it may read the table itself. A session that reads for
-- somebody else, such as an assistant, can ask with the setting jobdeck.as_viewer to see what a viewer sees.
create or replace function job_sees_payloads() returns boolean
language sql stable parallel safe
return has_table_privilege('job_queue'::regclass, 'select')
    and current_setting('jobdeck.as_viewer', true) is distinct from 'on';

create or replace view job_list as
select q.id, q.task_type,
    case when job_sees_payloads() then q.payload else job_redact_payload(q.payload) end as payload,
    q.status, q.run_at, q.attempts, q.max_attempts, q.created_at, q.updated_at, q.version, q.priority, q.last_error,
    case when job_sees_payloads() then q.output end as output, q.completed_at, q.is_recurring,
    q.recurrence_interval_minutes, q.expires_at, q.last_run_at, q.dedupe_key, q.concurrency_key, q.blocked_by,
    case when job_sees_payloads() then q.checkpoint end as checkpoint,
    case when job_sees_payloads() then q.progress else q.progress - 'log' end as progress,
    q.locked_by, q.run_token, q.lease_expires_at, q.started_at, q.cancel_requested_at, q.cancel_requested_by, q.anchor_at,
    q.consecutive_failures, q.last_outcome, q.last_success_at, q.created_by,
    case when q.status = 'pending' then q.run_at end as next_run_at,
    case when q.status = 'pending' and q.run_at <= now() and q.blocked_by is null
        then extract(epoch from now() - q.run_at)::double precision end as overdue_seconds,
    q.in_line, coalesce(q.completed_at, q.updated_at) as ended_at, false as removed, q.fingerprint, q.last_run_dry,
    q.schedule, q.slots, substring(coalesce(q.run_trace, q.trace_context) from '^00-([0-9a-f]{32})-') as trace_id
from job_queue q
where (select job_may_read_views())
with check option;

-- One-time jobs that succeeded and left the queue, with the columns of jobs. Columns that the history does not store
-- are null; created_at comes from the id, if the id contains its time.
create or replace view job_removed_list as
select r.job_id as id, r.task_type,
    case when job_sees_payloads() then r.payload else job_redact_payload(r.payload) end as payload,
    'succeeded'::text as status, r.due_at as run_at, r.attempt as attempts,
    null::integer as max_attempts, case when made.at <= r.started_at then made.at end as created_at,
    r.finished_at as updated_at, 0::bigint as version, null::integer as priority, null::text as last_error,
    case when job_sees_payloads() then r.output end as output,
    r.finished_at as completed_at, false as is_recurring, r.finished_at as last_run_at, r.outcome as last_outcome,
    r.finished_at as last_success_at, r.run_token as left_with, true as removed, r.concurrency_key, r.dedupe_key,
    r.created_by, null::text as fingerprint, r.dry_run as last_run_dry
from job_runs r
cross join lateral (
    select case when substr(r.job_id::text, 15, 1) = '7' then to_timestamp(
        ('x0000' || replace(left(r.job_id::text, 13), '-', ''))::bit(64)::bigint / 1000.0) end as at
) made
where r.removed and (select job_may_read_views());

-- Deleted jobs with the columns of jobs, as long as they can be restored.
create or replace view job_trash_list as
select q.id, q.task_type,
    case when job_sees_payloads() then q.payload else job_redact_payload(q.payload) end as payload,
    q.status, q.run_at, q.attempts, q.max_attempts, q.created_at, q.updated_at, q.version, q.priority, q.last_error,
    case when job_sees_payloads() then q.output end as output, q.completed_at, q.is_recurring,
    q.recurrence_interval_minutes, q.expires_at, q.last_run_at, q.dedupe_key, q.concurrency_key, q.blocked_by,
    case when job_sees_payloads() then q.checkpoint end as checkpoint, q.anchor_at, q.consecutive_failures,
    q.last_outcome, q.last_success_at, q.created_by, t.deleted_at, t.deleted_by, t.reason, q.last_run_dry, q.schedule,
    q.slots
from job_trash t cross join lateral jsonb_populate_record(null::job_queue, t.job) q
where (select job_may_read_views());

drop function if exists job_matches(
    uuid, text, jsonb, text, integer, timestamptz, text, text, text, text, text, integer, interval, text);
drop function if exists job_matches(
    uuid, text, jsonb, text, integer, timestamptz, text, text, text, text, text, text, integer, interval, text);
-- The part of a filter that reads the payload. Text is matched literally, and the payload value of the key p_want_key by its
-- beginning, because lists show the beginning of an id.
create or replace function job_payload_matches(
    p_payload jsonb, p_beside text, p_want_text text, p_want_key text, p_want_value text
) returns boolean
language sql stable parallel safe
return (p_want_text is null or position(lower(p_want_text) in lower(concat_ws(' ', p_beside, p_payload))) > 0)
    and (p_want_key is null or starts_with(lower(p_payload ->> p_want_key), lower(p_want_value)));

-- Whether a job matches a filter; null matches everything. One expression, so that the planner inlines it, drops unused
-- conditions, and can use an index for the others. For that, it names the payload once: in a view it is an expression.
create or replace function job_matches(
    p_id uuid, p_task_type text, p_payload jsonb, p_error text, p_attempts integer, p_created_at timestamptz,
    p_outcome text, p_want_type text, p_want_text text, p_want_error text, p_want_key text,
    p_want_value text, p_want_attempts integer, p_want_age interval, p_want_outcome text, p_fingerprint text,
    p_want_fingerprint text
) returns boolean
language sql stable parallel safe
return (p_want_type is null or position(lower(p_want_type) in lower(p_task_type)) > 0)
    and (p_want_text is null and p_want_key is null or job_payload_matches(
        p_payload, concat_ws(' ', p_id, p_task_type, p_error), p_want_text, p_want_key, p_want_value))
    and (p_want_error is null or position(lower(p_want_error) in lower(p_error)) > 0)
    and (p_want_attempts is null or p_attempts >= p_want_attempts)
    and (p_want_age is null or p_created_at <= now() - p_want_age)
    and (p_want_outcome is null or p_outcome = p_want_outcome)
    and (p_want_fingerprint is null or p_fingerprint = p_want_fingerprint);

drop function if exists job_order_key(text, uuid, timestamptz, text, text, integer, timestamptz, timestamptz);
-- The value that the order p_sort compares; null for the natural order.
create or replace function job_order_key(
    p_sort text, p_id uuid, p_created_at timestamptz, p_task_type text, p_status text, p_attempts integer,
    p_run_at timestamptz, p_updated_at timestamptz, p_last_run_at timestamptz, p_error text
) returns text
language sql stable parallel safe
return case p_sort
    -- Jobs enqueued together have the same time, and the order of their ids.
    when 'created' then coalesce(to_char(p_created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS'), repeat('0', 20)) || p_id
    when 'task' then p_task_type
    when 'status' then p_status
    when 'attempts' then lpad(p_attempts::text, 10, '0')
    when 'run_at' then to_char(p_run_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS')
    when 'updated' then to_char(p_updated_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS')
    -- Jobs that have not run, or that have no error, come last in descending order.
    when 'last_run' then coalesce(to_char(p_last_run_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS'), '')
    when 'error' then coalesce(left(p_error, 100), '')
end;

-- The open notes as this role sees them: who sees no payloads may not read what people wrote either.
create or replace view job_note_list as
select n.id, n.at, n.actor, case when job_sees_payloads() then n.note else 'hidden' end as note, n.until
from job_notes n where n.acknowledged_at is null and n.until > now() and (select job_may_read_views())
with check option;

create or replace view job_run_list as
select r.run_token, r.late, r.job_id, r.task_type,
    case when job_sees_payloads() then r.payload else job_redact_payload(r.payload) end as payload,
    r.attempt, r.worker_id, r.due_at, r.started_at, r.finished_at, r.outcome, r.removed, r.error_kind, r.error,
    r.fingerprint, r.traceback, case when job_sees_payloads() then r.output end as output,
    case when job_sees_payloads() then r.log end as log,
    case when job_sees_payloads() then r.progress else r.progress - 'log' end as progress, r.dry_run
from job_runs r
where (select job_may_read_views())
with check option;

-- The last token that was drawn.
create or replace function job_run_last_token() returns bigint
language plpgsql stable security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    return (select s.last_value from job_run_token_seq s);
end
$$;

-- The newest runs before a place, which is a token and `late`, or from the newest on; null matches every type and outcome,
-- and p_from is the oldest token to be read. The tokens are read in steps, planned each for its own tokens: so Postgres
-- plans and opens the newest partitions alone, unless a page is not full after these.
create or replace function job_run_page(
    p_task_type text, p_outcome text, p_before bigint, p_before_late boolean, p_from bigint, p_limit integer
) returns setof job_run_list
language plpgsql stable rows 50
set search_path from current set plan_cache_mode = force_custom_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off set enable_sort = off
as $$
declare
    v_least constant bigint := -9223372036854775808;
    v_first bigint := least(job_run_last_token(), p_before);
    v_high bigint := coalesce(p_before, 9223372036854775807);
    v_width bigint := 1000000;
    v_left integer := p_limit;
    v_found integer;
begin
    loop
        v_first := greatest(case when v_first > v_width then v_first - v_width else v_least end, p_from);
        return query select r.* from job_run_list r
        where r.run_token >= v_first and r.run_token <= v_high
            and (p_before is null or (r.run_token, r.late) < (p_before, p_before_late))
            and (p_task_type is null or r.task_type = p_task_type) and (p_outcome is null or r.outcome = p_outcome)
        order by r.run_token desc, r.late desc limit v_left;
        get diagnostics v_found = row_count;
        v_left := v_left - v_found;
        exit when v_left <= 0 or v_first <= coalesce(p_from, v_least);
        v_high := v_first - 1;
        v_width := 8 * v_width;
    end loop;
end
$$;

-- The token of the p_most-th run before a place, as in job_run_page; null if there are fewer.
create or replace function job_run_reach(p_before bigint, p_before_late boolean, p_most integer) returns bigint
language plpgsql stable
set search_path from current set plan_cache_mode = force_custom_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off set enable_sort = off
as $$
declare
    v_least constant bigint := -9223372036854775808;
    v_first bigint := least(job_run_last_token(), p_before);
    v_high bigint := coalesce(p_before, 9223372036854775807);
    v_width bigint := 1000000;
    v_left integer := p_most;
    v_found record;
begin
    loop
        v_first := case when v_first > v_width then v_first - v_width else v_least end;
        select count(*) as runs, min(n.run_token) as token into v_found from (
            select r.run_token from job_run_list r
            where r.run_token >= v_first and r.run_token <= v_high
                and (p_before is null or (r.run_token, r.late) < (p_before, p_before_late))
            order by r.run_token desc, r.late desc limit v_left) n;
        v_left := v_left - v_found.runs;
        if v_left <= 0 then
            return v_found.token;
        end if;
        exit when v_first = v_least;
        v_high := v_first - 1;
        v_width := 8 * v_width;
    end loop;
    return null;
end
$$;

-- The newest runs of one job, like job_run_page. They may be in any partition, so the plan has all of them: it is kept, since
-- to make it takes longer than to look into each of them.
create or replace function job_run_page_of(
    p_job uuid, p_task_type text, p_outcome text, p_before bigint, p_before_late boolean, p_limit integer
) returns setof job_run_list
language plpgsql stable rows 50
set search_path from current set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_high constant bigint := coalesce(p_before, 9223372036854775807);
    v_late constant boolean := p_before is null or p_before_late;
begin
    return query select r.* from job_run_list r
    where r.job_id = p_job and r.run_token <= v_high and (r.run_token < v_high or v_late and not r.late)
        and (p_task_type is null or r.task_type = p_task_type) and (p_outcome is null or r.outcome = p_outcome)
    order by r.run_token desc, r.late desc limit p_limit;
end
$$;

-- The outcomes of the last p_limit runs of each of these jobs, newest first. The runs of a job are one range of an index in
-- each partition; of an equality the planner expects few, and might sort all that a series has.
create or replace function job_run_outcomes(p_jobs uuid[], p_limit integer)
returns table (job_id uuid, outcomes text[])
language plpgsql stable
set search_path from current set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off set enable_sort = off
as $$
begin
    return query select j.id, array(
        select r.outcome from job_run_list r where r.job_id = j.id and not r.late
        order by r.run_token desc limit p_limit)
    from unnest(p_jobs) as j (id);
end
$$;

-- The last success of a job that left the queue with it and is not there again. A series that is there may have very many
-- runs, and left with none of them.
create or replace function job_removed_job(p_job uuid) returns setof job_removed_list
language plpgsql stable rows 1
set search_path from current set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off
set enable_bitmapscan = off
as $$
begin
    if not exists (select from job_list j where j.id = p_job) then
        return query select r.* from job_removed_list r where r.id = p_job order by r.left_with desc limit 1;
    end if;
end
$$;

-- The error of a job's last run. A function of its own, so that it is planned only where it is asked for.
create or replace function job_run_last_error(p_job uuid) returns text
language plpgsql stable
set search_path from current set jit = off set enable_seqscan = off
as $$
begin
    return (select r.error from job_runs r where r.job_id = p_job and not r.late order by r.run_token desc limit 1);
end
$$;

create or replace view job_audit_list as
select a.id, a.at, a.actor, a.action, a.job_id,
    case when job_sees_payloads() or not a.before ? 'payload' then a.before
        else a.before || jsonb_build_object('payload', job_redact_payload(a.before -> 'payload')) end as before,
    case when job_sees_payloads() or not a.after ? 'payload' then a.after
        else a.after || jsonb_build_object('payload', job_redact_payload(a.after -> 'payload')) end as after,
    a.reason
from job_audit a
where (select job_may_read_views())
with check option;

-- Why a job is or is not running: all clauses of the claim in its order, each with a code and facts as evidence.
create or replace function job_queue_why(p_id uuid)
returns table (place integer, clause text, holds boolean, code text, facts jsonb)
language plpgsql stable security definer
set search_path from current set jit = off
as $$
declare
    v_job job_queue;
    v_now timestamptz := clock_timestamp();
    v_switch job_queue_settings;
    v_pause job_types;
    v_workers integer;
    v_handling integer;
    v_holder uuid;
    v_key_limit integer;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue where id = p_id;
    if not found then
        return;
    end if;
    select * into v_switch from job_queue_settings where id = 1;
    select * into v_pause from job_types where task_type = v_job.task_type;
    select count(*), count(*) filter (where v_job.task_type = any (w.task_types)) into v_workers, v_handling
    from job_workers w where w.heartbeat_at > v_now - interval '2 minutes';
    if exists (select from job_canaries c where c.job_id = p_id and c.run_token is null) then
        return query select * from job_queue_why_canary(v_job, v_workers, v_handling);
        return;
    end if;
    select q.id into v_holder from job_queue q
    where q.concurrency_key = v_job.concurrency_key and q.status = 'running' and q.id <> v_job.id limit 1;
    v_key_limit := job_key_limit(v_job.task_type);

    return query values
        (1, 'status', job_clause_pending(v_job.status), 'has-status', jsonb_build_object('status', v_job.status)),
        (2, 'processing', job_clause_processing(v_now), case
            when v_switch.id is null then 'no-settings'
            when v_switch.runner = 'earlier' then 'earlier-runner'
            when job_clause_processing(v_now) then 'processing-on'
            else 'processing-off' end,
            jsonb_build_object('paused_at', v_switch.paused_at, 'paused_by', v_switch.paused_by,
                'reason', v_switch.paused_reason)),
        (3, 'type not paused', job_clause_type_open(v_job.task_type, v_now), case
            when job_clause_type_open(v_job.task_type, v_now) then 'type-open'
            when v_pause.set_aside then 'type-set-aside'
            else 'type-paused' end,
            jsonb_build_object('task_type', v_job.task_type, 'paused_at', v_pause.paused_at,
                'paused_by', v_pause.paused_by, 'reason', v_pause.paused_reason)),
        (4, 'worker', v_handling > 0, case
            when v_workers = 0 then 'no-worker'
            when v_handling = 0 then 'no-worker-for-type'
            when v_workers = 1 then 'one-worker'
            else 'some-workers' end, jsonb_build_object('workers', v_workers, 'handling', v_handling)),
        (5, 'due', job_clause_due(v_job.run_at, v_now), case
            when job_clause_due(v_job.run_at, v_now) then 'due-since' when v_job.run_at >= job_no_slot() then 'no-slots'
            when v_job.status = 'pending' and v_job.last_outcome = 'snoozed' then 'put-off'
            else 'due-later' end,
            jsonb_build_object('run_at', v_job.run_at, 'reason',
                case when v_job.last_outcome = 'snoozed' then job_run_last_error(p_id) end)),
        (6, 'expiry', job_clause_unexpired(v_job.expires_at, v_now), case
            when v_job.expires_at is null then 'never-expires'
            when v_job.expires_at > v_now then 'expires-later'
            else 'has-expired' end, jsonb_build_object('expires_at', v_job.expires_at)),
        (7, 'dependencies', job_clause_unblocked(v_job.blocked_by), case
            when v_job.blocked_by is null then 'no-blocker' when v_job.blocked_by = v_job.id then 'paused-alone'
            when job_flow_waits(p_id) then 'waits-for-members'
            else 'waits-for-blocker' end, job_flow_evidence(p_id) ||
            jsonb_build_object('job', v_job.id, 'blocker', v_job.blocked_by,
                'status', coalesce((select q.status from job_queue q where q.id = v_job.blocked_by), 'gone'))),
        -- A place in the line counts only while the job waits.
        (8, 'concurrency', job_clause_first_in_line(v_job.in_line and v_job.status = 'pending')
                and (v_holder is null or job_clause_key_free(v_job.concurrency_key, v_job.task_type)), case
            when v_job.concurrency_key is null then 'no-concurrency-key'
            when v_holder is not null and v_key_limit > 1 then 'concurrency-key-shared'
            when v_holder is not null then 'concurrency-key-busy'
            when v_workers > 0 and not job_type_can_run(v_job.task_type, v_now) then 'lets-others-pass'
            when v_job.in_line and v_job.status = 'pending' then 'behind-in-line'
            else 'concurrency-key-free' end, jsonb_build_object('holder', v_holder, 'max_per_key', v_key_limit,
                'running', case when v_key_limit > 1 then (select count(*) from job_queue q
                    where q.concurrency_key = v_job.concurrency_key and q.status = 'running') end));
    return query select 9, 'limit', s.opens_at is null, s.code, s.facts
    from job_limit_state(v_job.task_type, v_now) s where s.code is not null and v_job.status = 'pending';
    return query select 10, 'limit of the key', o.at <= v_now, case when o.at <= v_now then 'key-has-place'
        else 'key-rate' end, jsonb_build_object('seconds', ceil(date_part('epoch', o.at - v_now)))
    from job_key_opens(v_job.concurrency_key, v_job.task_type, v_now) as o (at)
    where o.at is not null and v_job.concurrency_key is not null and v_job.status = 'pending';
end
$$;

-- About how many rows there are, from the sample: pending jobs ('pending'), those of a type ('type'), jobs of another
-- status ('status'), jobs that succeeded and left the queue ('removed'), or claimable jobs before a place in each of these
-- lanes ('before'). The rows that stand for the most are read first, until there are 1000 (a standard error of 3 %).
-- `proves` says that there are more than p_most: by Chernoff's bound, fewer rows would give so large a sample only once
-- in e^64 times.
create or replace function job_sample_count(
    p_what text, p_name text, p_most integer, p_types text[] default null, p_priorities integer[] default null,
    p_run_at timestamptz[] default null, p_ids uuid[] default null, out jobs bigint, out proves boolean
)
language plpgsql stable
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_step integer := 16384;
    v_seen bigint := 0;
begin
    loop
        v_seen := v_seen + case p_what
            when 'pending' then (
                select count(*) from job_queue q
                where q.status = 'pending' and uuid_hash(q.id) & 63 = 0 and job_sample_step(uuid_hash(q.id)) = v_step)
            when 'type' then (
                select count(*) from job_queue q
                where q.status = 'pending' and uuid_hash(q.id) & 63 = 0 and job_sample_step(uuid_hash(q.id)) = v_step
                    and q.task_type = p_name)
            when 'status' then (
                select count(*) from job_queue q
                where q.status = p_name and q.status <> 'pending' and uuid_hash(q.id) & 63 = 0
                    and job_sample_step(uuid_hash(q.id)) = v_step)
            when 'removed' then (
                select count(*) from job_runs r
                where r.removed and hashint8(r.run_token) & 63 = 0
                    and job_sample_step(hashint8(r.run_token)) = v_step)
            else (
                select count(*) from unnest(p_types, p_priorities, p_run_at, p_ids) as l (task_type, priority, run_at, id)
                cross join lateral (
                    select from job_queue q
                    where q.status = 'pending' and q.blocked_by is null and not q.in_line
                        and uuid_hash(q.id) & 63 = 0 and job_sample_step(uuid_hash(q.id)) = v_step
                        and q.task_type = l.task_type and q.priority = l.priority
                        and (q.run_at, q.id) < (l.run_at, l.id)
                    offset 0 -- Each lane is one range of the index: the planner would read the whole sample instead.
                ) d)
            end;
        exit when v_seen >= 1000 or v_step = 64;
        v_step := v_step / 2;
    end loop;
    jobs := v_seen * v_step;
    proves := v_seen >= p_most::double precision / v_step + 12 * sqrt(p_most::double precision / v_step) + 40;
end
$$;

-- What was counted up to p_most, if it is less than that; else the estimate, and at least p_most. So numbers from p_most
-- on are estimates. A null was not counted, because the sample proves that it is more.
create or replace function job_counted_or_about(p_counted bigint, p_about bigint, p_most integer) returns bigint
language sql immutable parallel safe
return case when p_counted < p_most then p_counted else greatest(p_about, p_most) end;

-- Claimable jobs before a place in each of these lanes: exact below p_most, from there on an estimate.
create or replace function job_queue_before(
    p_types text[], p_priorities integer[], p_run_at timestamptz[], p_ids uuid[], p_most integer
) returns bigint
language plpgsql stable
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_drawn record;
begin
    select * into v_drawn from job_sample_count('before', null, p_most, p_types, p_priorities, p_run_at, p_ids);
    return job_counted_or_about(case when not v_drawn.proves then (
        select count(*) from (
            select from unnest(p_types, p_priorities, p_run_at, p_ids) as l (task_type, priority, run_at, id)
            cross join lateral (
                select from job_queue q
                where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
                    and q.priority = l.priority and (q.run_at, q.id) < (l.run_at, l.id)
                limit p_most
            ) d limit p_most
        ) found) end, v_drawn.jobs, p_most);
end
$$;

-- Jobs by status, and as `removed` those that succeeded and left the queue: each exact below p_most, counted by its own
-- index, and from there on an estimate, which is not less than p_most.
create or replace function job_queue_counts(
    p_most integer, out pending bigint, out running bigint, out succeeded bigint, out failed bigint,
    out cancelled bigint, out removed bigint
)
language plpgsql stable security definer
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_drawn record;
begin
    perform job_refuse_outsiders();
    select * into v_drawn from job_sample_count('pending', null, p_most);
    pending := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line limit p_most) found)
        + (select count(*) from (select from job_queue q
            where q.status = 'pending' and (q.blocked_by is not null or q.in_line) limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('status', 'running', p_most);
    running := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q where q.status = 'running' limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('status', 'succeeded', p_most);
    succeeded := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q where q.status = 'succeeded' limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('status', 'failed', p_most);
    failed := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q where q.status = 'failed' limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('status', 'cancelled', p_most);
    cancelled := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_queue q where q.status = 'cancelled' limit p_most) found) end, v_drawn.jobs, p_most);
    select * into v_drawn from job_sample_count('removed', null, p_most);
    removed := job_counted_or_about(case when not v_drawn.proves then
        (select count(*) from (select from job_runs r where r.removed limit p_most) found) end, v_drawn.jobs, p_most);
end
$$;

-- The task types with pending jobs, at most 1000. `waiting` are a type's pending jobs, `overdue` those that are due for
-- longer than p_late and could be claimed, `due_since` the earliest due time of those that could be claimed. A number is
-- exact unless its `about` is true: then it is beyond p_most; or the types before it by name had ten times as many.
-- Where more than p_most jobs wait for another job or in a line, those of each type are an estimate.
create or replace function job_queue_backlog(p_late interval, p_most integer)
returns table (
    task_type text, waiting bigint, waiting_about boolean, overdue bigint, overdue_about boolean, due_since timestamptz
)
language plpgsql stable security definer
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
as $$
#variable_conflict use_column
declare
    v_type text;
    v_beside jsonb;
    v_beside_jobs bigint;
    v_drawn record;
    v_room integer := 10 * p_most;
    v_most integer;
    v_free bigint;
begin
    perform job_refuse_outsiders();
    select coalesce(jsonb_object_agg(b.task_type, b.jobs), '{}'), coalesce(sum(b.jobs), 0)
    into v_beside, v_beside_jobs
    from (
        select w.task_type, count(*) as jobs from (
            select q.task_type from job_queue q
            where q.status = 'pending' and (q.blocked_by is not null or q.in_line)
            order by q.run_at, q.id limit p_most
        ) w group by w.task_type
    ) b;
    for v_type in
        select t from unnest(job_queue_waiting_types()) t union select jsonb_object_keys(v_beside) order by 1 limit 1000
    loop
        task_type := v_type;
        v_most := least(p_most, greatest(v_room, 1000));
        select * into v_drawn from job_sample_count('type', v_type, v_most);
        v_free := case when not v_drawn.proves then (
            select count(*) from (
                select from job_queue q
                where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = v_type
                limit v_most
            ) found) end;
        waiting_about := not coalesce(v_free < v_most and v_beside_jobs < p_most, false);
        waiting := coalesce(v_free, v_most) + coalesce((v_beside ->> v_type)::bigint, 0);
        if waiting_about then
            waiting := greatest(waiting, v_drawn.jobs);
        end if;
        select min(h.run_at), job_queue_before(array_agg(l.task_type), array_agg(l.priority),
            array_agg(statement_timestamp() - p_late), array_agg('00000000-0000-0000-0000-000000000000'::uuid), v_most)
        into due_since, overdue
        from job_queue_lanes(array[v_type]) l
        cross join lateral (
            select q.run_at from job_queue q
            where q.status = 'pending' and q.blocked_by is null and not q.in_line and q.task_type = l.task_type
                and q.priority = l.priority
            order by q.run_at, q.id limit 1
        ) h;
        overdue_about := overdue >= v_most;
        v_room := v_room - coalesce(least(v_free, v_most), 0)::integer - least(overdue, v_most)::integer;
        return next;
    end loop;
end
$$;

-- Whether the workers that handle this job's type claim other due jobs before it, as one more clause with a code and facts:
-- how many are ahead in the order of the claim, exact up to 10,000 or `estimated`, and how many runs of all these types
-- end per second. No row if the job could not be claimed now.
create or replace function job_queue_turn(p_id uuid) returns table (clause text, holds boolean, code text, facts jsonb)
language plpgsql stable security definer
set search_path from current set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_most constant integer := 10001;
    v_job job_queue;
    v_workers text[];
    v_types text[];
    v_ahead bigint;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue
    where id = p_id and status = 'pending' and blocked_by is null and not in_line and run_at <= v_now;
    if not found then
        return;
    end if;
    select array_agg(w.id) into v_workers from job_workers w
    where w.heartbeat_at > v_now - interval '2 minutes' and v_job.task_type = any (w.task_types);
    v_types := array(
        select distinct t from job_workers w cross join unnest(w.task_types) t
        where w.id = any (v_workers) and job_clause_type_open(t, v_now));
    select job_queue_before(array_agg(l.task_type), array_agg(l.priority),
        array_agg(case when l.priority = v_job.priority then v_job.run_at else v_now end),
        array_agg(case when l.priority = v_job.priority then v_job.id
            else '00000000-0000-0000-0000-000000000000'::uuid end), v_most)
    into v_ahead
    from job_queue_lanes(v_types) l where l.priority >= v_job.priority;
    return query values ('turn', v_ahead = 0, case when v_ahead = 0 then 'none-ahead' else 'others-ahead' end,
        jsonb_build_object('ahead', v_ahead, 'estimated', v_ahead >= v_most, 'per_second', job_finish_rate(v_types)));
end
$$;

drop function if exists job_queue_type_counts(integer);
-- Jobs by type that are running or failed; `job_queue_backlog` has the pending ones. If there are more than p_most failed jobs
-- in all, their numbers are estimates from at least 4,000 jobs of the sample, and `about` is true. A type of which these have
-- no job is then left out.
create or replace function job_queue_type_jobs(p_most integer)
returns table (task_type text, running bigint, failed bigint, about boolean)
language plpgsql stable security definer
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_drawn constant record := job_sample_count('status', 'failed', p_most);
    v_all constant bigint := case when not v_drawn.proves then (
        select count(*) from (select from job_queue q where q.status = 'failed' limit p_most) found) end;
    v_about constant boolean := coalesce(v_all, p_most) >= p_most;
    v_step integer := 16384;
    v_seen bigint := 0;
begin
    perform job_refuse_outsiders();
    while v_about loop
        v_seen := v_seen + (
            select count(*) from job_queue q
            where q.status = 'failed' and q.status <> 'pending' and uuid_hash(q.id) & 63 = 0
                and job_sample_step(uuid_hash(q.id)) = v_step);
        exit when v_seen >= 4000 or v_step = 64;
        v_step := v_step / 2;
    end loop;
    return query
    with found (task_type, status, jobs) as (
        select q.task_type, 'running', 1 from job_queue q where q.status = 'running'
        union all
        select q.task_type, 'failed', 1 from job_queue q where q.status = 'failed' and not v_about
        union all
        select q.task_type, 'failed', v_step from job_queue q
        where q.status = 'failed' and q.status <> 'pending' and uuid_hash(q.id) & 63 = 0
            and job_sample_step(uuid_hash(q.id)) >= v_step and v_about
    )
    select f.task_type, coalesce(sum(f.jobs) filter (where f.status = 'running'), 0),
        coalesce(sum(f.jobs) filter (where f.status = 'failed'), 0),
        v_about and coalesce(bool_or(f.status = 'failed'), false)
    from found f group by f.task_type;
end
$$;

-- The due time of the job that has waited longest; null if none is due. Jobs of paused types do not count.
create or replace function job_queue_oldest_due() returns timestamptz
language sql stable security definer
set search_path from current set enable_seqscan = off set enable_sort = off set jit = off
as $$
    select job_refuse_outsiders();
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

-- The rights of the current role.
create or replace function job_permissions(out can_view boolean, out can_operate boolean, out can_work boolean)
language sql stable
set search_path from current
as $$
    select has_table_privilege('job_list', 'select'),
        has_function_privilege('job_queue_act(text, uuid[], bigint[], text, text, boolean)', 'execute'),
        has_function_privilege('job_queue_claim('
            || 'text, text[], integer, double precision, text[], integer[], timestamptz[], uuid[])', 'execute')
$$;

-------------------------------------------------------------------------------------------------------
-- 11. Retention and erasure
-------------------------------------------------------------------------------------------------------

-- What is removed after some days, by which part of upkeep. `name` is a table, or a table and which of its values. The
-- installer writes the periods of a plugin, whose function NAME_retain removes its rows. `days` is the owner's choice.
create table if not exists job_retention (
    name text primary key,
    component text not null default 'queue',
    part text not null default 'retention',
    default_days integer not null,
    days integer,
    constraint job_retention_days_check check (days between 1 and 36500)
);
delete from job_retention where name = 'job_throughput';
insert into job_retention (name, part, default_days) values
    ('job_runs', 'prune', 30), ('job_worker_runs', 'prune', 14), ('job_trash', 'prune', 7), ('job_audit', 'prune', 365),
    ('job_bulk', 'prune', 30), ('job_workers', 'prune', 1), ('job_stats', 'prune', 30), ('job_stats minutes', 'prune', 1),
    ('job_stat_errors', 'prune', 30), ('job_error_groups', 'prune', 30), ('job_queue', 'retention', 90),
    ('job_audit payloads', 'retention', 90), ('job_notes', 'retention', 30), ('job_error_mutes', 'retention', 7)
on conflict (name) do update set part = excluded.part, default_days = excluded.default_days;

insert into job_upkeep (part, every) values ('retention', '8 hours') on conflict (part) do nothing;

create index if not exists job_audit_payloads on job_audit (at) where before ? 'payload' or after ? 'payload';

-- When rows of this line are old: before the returned time.
create or replace function job_retention_limit(p_name text) returns timestamptz
language sql volatile
set search_path from current
as $$
    select clock_timestamp() - make_interval(days => coalesce(days, default_days))
    from job_retention where name = p_name
$$;

-- Has the newest partition of the history, which is open at its end, end at a token that is not drawn yet, and makes the
-- next one. Does so when fewer tokens are left before it than twice those of yesterday, or 5 million. Also makes the one
-- for tokens before the oldest partition, if the next token is one of them. Answers with the reason why it could not: runs
-- are recorded all the same, in the partition that is open at its end.
create or replace function job_run_extend() returns text
language plpgsql volatile
set search_path from current set lock_timeout = '100ms' set jit = off
as $$
declare
    -- What is small enough to be read while finishes wait.
    v_small constant bigint := 64 * 1024 ^ 2;
    v_round constant bigint := 10000000;
    v_last constant bigint := (select s.last_value from job_run_token_seq s);
    v_yesterday constant bigint := coalesce((select sum(s.runs) from job_stats s
        where s.minutes = 120 and s.bucket > clock_timestamp() - interval '1 day'), 0);
    v_need constant bigint := greatest(2 * v_yesterday, 5000000);
    v_oldest constant bigint := (select min(coalesce(r.first_token, -9223372036854775808)) from job_run_ranges() r);
    v_newest record;
    v_next bigint;
    v_bound record;
begin
    -- The sequence was set back to tokens whose partition is gone.
    if v_oldest > v_last then
        perform job_run_make('job_runs_0');
        perform job_run_attach('job_runs_0', null, v_oldest);
    end if;
    select r.* into v_newest from job_run_ranges() r where r.next_token is null;
    if not found then
        return 'The history has no partition that is open at its end. Run `jobdeck init`.';
    end if;
    -- `jobdeck init` has read all of a large partition for this.
    select k.convalidated as valid, (regexp_match(pg_get_constraintdef(k.oid), $re$run_token < '?(\d+)$re$))[1]::bigint as token
    into v_bound from pg_constraint k
    where k.conrelid = quote_ident(v_newest.name)::regclass and k.conname = 'job_runs_bound';
    if v_bound.token is not null and v_bound.token - v_last < 5000000 then
        execute format('alter table %I drop constraint job_runs_bound', v_newest.name);
        return null;
    elsif v_bound.valid then
        v_next := v_bound.token;
    elsif v_newest.first_token - v_last >= v_need or v_bound.token is not null then
        return null;
    elsif pg_relation_size(quote_ident(v_newest.name)::regclass) > v_small then
        return format('The newest partition of the history, %s, is open at its end and already large, so it keeps all '
            'further runs. Run `jobdeck init`, which divides it while jobs run.', v_newest.name);
    else
        -- About thirty partitions for the period of the history. One that is in use already ends after what is needed.
        v_next := v_round * case when v_newest.first_token > v_last
            then ceil((v_newest.first_token + greatest(v_round, v_yesterday * greatest(date_part('day',
                clock_timestamp() - job_retention_limit('job_runs')) / 30, 1))) / v_round)
            else floor((v_last + v_need) / v_round) + 1 end;
    end if;
    perform job_run_make('job_runs_' || v_next);
    execute format('alter table job_runs detach partition %I', v_newest.name);
    perform job_run_attach(v_newest.name, v_newest.first_token, v_next);
    perform job_run_attach('job_runs_' || v_next, v_next, null);
    execute format('alter table %I drop constraint if exists job_runs_bound', v_newest.name);
    return null;
exception
    when lock_not_available then
        return 'The next partition of the history could not be made: another session holds job_runs. Runs are recorded '
            'in the newest one.';
    when insufficient_privilege then
        return format('The next partition of the history could not be made: the role %s may not create tables in the '
            'schema %s. Runs are recorded in the newest one.', current_user, current_schema());
end
$$;

-- Begins to divide a large newest partition: from then on it takes only tokens before one that is far away. Answers with
-- its name if it has to be validated, which reads it all beside the workers; job_run_extend then divides it.
create or replace function job_run_bound() returns name
language plpgsql volatile
set search_path from current set lock_timeout = '100ms' set jit = off
as $$
declare
    v_last constant bigint := (select s.last_value from job_run_token_seq s);
    v_newest record;
begin
    select r.* into v_newest from job_run_ranges() r where r.next_token is null;
    if not found or v_newest.first_token > v_last
        or pg_relation_size(quote_ident(v_newest.name)::regclass) <= 64 * 1024 ^ 2
    then
        return null;
    end if;
    if not exists (select from pg_constraint k where k.conrelid = quote_ident(v_newest.name)::regclass
        and k.conname = 'job_runs_bound')
    then
        execute format('alter table %I add constraint job_runs_bound check (run_token >= %s and run_token < %s) not valid',
            v_newest.name, quote_literal(coalesce(v_newest.first_token, '-9223372036854775808'::bigint)) || '::bigint',
            ((v_last + greatest(20000000, v_last / 5)) / 10000000 + 1) * 10000000);
    end if;
    return v_newest.name;
end
$$;

-- Drops the partitions of the history whose newest run is older than its period. A partition with a token that holds a
-- job is not closed, since that run will be recorded there.
create or replace function job_run_drop_old(out done bigint, out trouble text)
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '100ms'
as $$
declare
    v_last constant bigint := (select s.last_value from job_run_token_seq s);
    v_before constant timestamptz := job_retention_limit('job_runs');
    v_range record;
begin
    done := 0;
    -- The sequence was set back, so they get runs again.
    delete from job_run_partitions p using job_run_ranges() r where r.name = p.name and r.next_token > v_last;
    for v_range in select r.* from job_run_ranges() r where r.next_token <= v_last order by r.next_token loop
        if exists (select from job_queue q where q.status = 'running' and q.run_token < v_range.next_token
            and (v_range.first_token is null or q.run_token >= v_range.first_token))
        then
            delete from job_run_partitions p where p.name = v_range.name;
            continue;
        end if;
        insert into job_run_partitions (name) values (v_range.name) on conflict do nothing;
        continue when trouble is not null
            or not exists (select from job_run_partitions p where p.name = v_range.name and p.closed_at < v_before);
        -- Of blockers that left the queue with success.
        update job_dependencies d set outcome = r.outcome from job_runs r
        where d.outcome is null and r.job_id = d.blocker_id and r.removed and r.run_token < v_range.next_token;
        begin
            execute format('drop table %I', v_range.name);
            delete from job_run_partitions p where p.name = v_range.name;
            done := done + 1;
        exception when lock_not_available then
            trouble := format('The partition %s, whose runs are older than the period of the history, could not be '
                'dropped: another session holds job_runs. `jobdeck doctor` names the oldest transaction.', v_range.name);
        end;
    end loop;
end
$$;

-- Whether the oldest runs of the history are in a partition that is dropped soon: within a thirtieth of its period, at
-- least a day. Their rows are not deleted one by one, unless the drop is late by as much.
create or replace function job_run_goes_soon(p_before timestamptz) returns boolean
language plpgsql stable
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_while constant interval := greatest((clock_timestamp() - p_before) / 30, interval '1 day');
    v_oldest constant oid := (select r.tableoid from job_runs r order by r.run_token limit 1);
begin
    return exists (select from job_run_partitions p join pg_class c on c.relname = p.name
        where c.oid = v_oldest and p.closed_at between p_before - v_while and p_before + v_while);
end
$$;

-- Deletes runs from before p_before that are among the p_limit oldest and not locked. Returns how many.
create or replace function job_run_delete_old(p_before timestamptz, p_limit integer) returns bigint
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_rows bigint;
begin
    -- Tokens rise with time, so the oldest runs are found at the low end of the key.
    delete from job_runs r using (
        select n.run_token, n.late from (
            select o.run_token, o.late from (
                select run_token, late, finished_at from job_runs order by run_token limit p_limit) o
            where o.finished_at < p_before) low
        join job_runs n using (run_token, late) for update of n skip locked
    ) old where r.run_token = old.run_token and r.late = old.late;
    get diagnostics v_rows = row_count;
    return v_rows;
end
$$;

-- Removes up to p_limit rows of the queue that are from before p_before and not locked. Returns how many.
create or replace function job_retain_line(p_name text, p_before timestamptz, p_limit integer) returns bigint
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_rows bigint;
    v_ended uuid[];
begin
    case p_name
        when 'job_runs' then
            if job_run_goes_soon(p_before) then
                return 0;
            end if;
            perform job_flow_keep_outcomes(p_before, p_limit);
            return job_run_delete_old(p_before, p_limit);
        when 'job_worker_runs' then
            delete from job_worker_runs where id in (select w.id from job_worker_runs w
                where w.started_at < p_before order by w.started_at limit p_limit for update skip locked);
        when 'job_trash' then
            delete from job_trash where job_id in (select t.job_id from job_trash t
                where t.deleted_at < p_before order by t.deleted_at limit p_limit for update skip locked);
        when 'job_audit' then
            delete from job_audit where id in (select a.id from job_audit a
                where a.at < p_before order by a.at limit p_limit for update skip locked);
        when 'job_audit payloads' then
            update job_audit set before = before - 'payload', after = after - 'payload' where id in (
                select a.id from job_audit a where a.at < p_before and (a.before ? 'payload' or a.after ? 'payload')
                order by a.at limit p_limit for update skip locked);
        when 'job_bulk' then
            delete from job_bulk_items where (bulk_id, job_id) in (select i.bulk_id, i.job_id from job_bulk b
                join job_bulk_items i on i.bulk_id = b.id where job_bulk_is_over(b, p_before) limit p_limit
                for update of i skip locked);
            get diagnostics v_rows = row_count;
            delete from job_bulk where id in (select b.id from job_bulk b where job_bulk_is_over(b, p_before)
                and not exists (select from job_bulk_items i where i.bulk_id = b.id) for update skip locked);
            return v_rows;
        when 'job_stats', 'job_stats minutes' then
            delete from job_stats where ctid = any (array(select s.ctid from job_stats s
                where s.minutes = any (case p_name when 'job_stats' then array[5, 15, 120, 480] else array[1] end::smallint[])
                    and s.bucket < p_before and s.bucket + s.minutes * interval '1 minute' < p_before limit p_limit for update skip locked));
        when 'job_backlog' then
            delete from job_backlog where ctid = any (array(select b.ctid from job_backlog b
                where b.minutes = any (array[5, 15, 120, 480]::smallint[]) and b.bucket < p_before
                    and b.bucket + b.minutes * interval '1 minute' < p_before
                limit p_limit for update skip locked));
        when 'job_stat_errors' then
            delete from job_stat_errors where ctid = any (array(select e.ctid from job_stat_errors e
                where e.bucket < p_before - interval '5 minutes' order by e.bucket limit p_limit for update skip locked));
        when 'job_error_groups' then
            delete from job_error_groups where ctid = any (array(select g.ctid from job_error_groups g
                where g.last_at < p_before order by g.last_at limit p_limit for update skip locked));
        when 'job_notes' then
            delete from job_notes where id in (select n.id from job_notes n
                where n.at < p_before order by n.at limit p_limit for update skip locked);
        when 'job_error_mutes' then
            delete from job_error_mutes where (task_type, fingerprint) in (select m.task_type, m.fingerprint
                from job_error_mutes m where m.until < p_before limit p_limit for update skip locked);
        when 'job_flows' then
            return job_flow_retain(p_before, p_limit);
        when 'job_producer_keys' then
            delete from job_producer_keys where (producer, key_hash) in (select k.producer, k.key_hash
                from job_producer_keys k where k.at < p_before order by k.at limit p_limit for update skip locked);
        when 'job_workers' then
            delete from job_workers where id in (select w.id from job_workers w where w.heartbeat_at < p_before
                for update skip locked);
        when 'job_queue' then
            -- A job that waits for this one can still be told what it waits for.
            v_ended := array(select q.id from job_queue q
                where q.status in ('succeeded', 'failed', 'cancelled')
                    and coalesce(q.completed_at, q.updated_at) < p_before
                    and not exists (select from job_queue w where w.blocked_by = q.id and w.status = 'pending')
                    and not job_flow_asks(q.id)
                limit p_limit for update of q skip locked);
            perform job_flow_note_ends(v_ended);
            delete from job_queue where id = any (v_ended);
    end case;
    get diagnostics v_rows = row_count;
    return v_rows;
end
$$;

-- Keeps the periods of one part of upkeep: removes up to p_limit rows of each line. A line that fails does not keep the
-- others from their turn; `trouble` is the first error.
create or replace function job_retain(p_part text, p_limit integer, out done bigint, out trouble text)
language plpgsql volatile
set search_path from current
as $$
declare
    v_line job_retention;
    v_rows bigint;
begin
    done := 0;
    for v_line in select * from job_retention r where r.part = p_part order by r.name loop
        begin
            if v_line.component = 'queue' then
                v_rows := job_retain_line(v_line.name, job_retention_limit(v_line.name), p_limit);
            else
                execute format('select %I($1, $2, $3)', v_line.component || '_retain')
                into v_rows using v_line.name, job_retention_limit(v_line.name), p_limit;
            end if;
            done := done + v_rows;
        exception when others then
            trouble := coalesce(trouble, v_line.name || ': ' || sqlstate || ' ' || sqlerrm);
        end;
    end loop;
end
$$;

-- Sets the period of a line, or resets it with a null. Only the owner may.
create or replace function job_retention_set(p_name text, p_days integer, p_actor text) returns void
language plpgsql volatile
set search_path from current
as $$
declare
    v_before integer;
begin
    if p_days not between 1 and 36500 then
        perform job_queue_refuse('A period is between 1 and 36500 days. Nothing was changed.');
    end if;
    select coalesce(days, default_days) into v_before from job_retention where name = p_name for update;
    if not found then
        perform job_queue_refuse(format('There is no period %s. `jobdeck retention` lists them.', p_name));
    end if;
    update job_retention set days = p_days where name = p_name;
    perform job_queue_write_audit(p_actor, 'set retention', null, jsonb_build_object('name', p_name, 'days', v_before),
        jsonb_build_object('name', p_name, 'days', p_days), null);
end
$$;

-------------------------------------------------------------------------------------------------------
-- Erasure, for the owner alone. The caller's transaction makes a dry run of it: it rolls back.
-------------------------------------------------------------------------------------------------------

-- A text as a regular expression that matches this text alone.
create or replace function job_scrub_literal(p_text text) returns text
language sql immutable parallel safe
return regexp_replace(p_text, '([].*+?^${}()|\\[-])', '\\\1', 'g');

-- A text with every mark's key replaced by its value, whatever its case. A key within a longer word or address is
-- another one, and is left; escapes of programs and of web addresses before it (\n, %22) belong to no word.
create or replace function job_scrub_text(p_text text, p_marks jsonb) returns text
language plpgsql immutable
set search_path from current
as $$
declare
    v_mark record;
begin
    for v_mark in select m.key, m.value from jsonb_each_text(p_marks) m order by length(m.key) desc, m.key loop
        p_text := regexp_replace(p_text, '(?:(?<![[:alnum:]._%+-])|(?<=\\[nrt])|(?<=%[0-9a-f]{2}))'
            || job_scrub_literal(v_mark.key) || '(?![.]?[[:alnum:]_-])', v_mark.value, 'gi');
    end loop;
    return p_text;
end
$$;

-- The same for every text, number and key in a JSON value.
create or replace function job_scrub_json(p_value jsonb, p_marks jsonb) returns jsonb
language plpgsql immutable
set search_path from current
as $$
declare
    v_text text := p_value #>> '{}';
begin
    return case jsonb_typeof(p_value)
        when 'string' then to_jsonb(job_scrub_text(v_text, p_marks))
        when 'number' then case when job_scrub_text(v_text, p_marks) = v_text then p_value
            else to_jsonb(job_scrub_text(v_text, p_marks)) end
        when 'array' then (select coalesce(jsonb_agg(job_scrub_json(e.value, p_marks) order by e.nth), '[]')
            from jsonb_array_elements(p_value) with ordinality as e (value, nth))
        when 'object' then (select coalesce(jsonb_object_agg(job_scrub_text(e.key, p_marks),
            job_scrub_json(e.value, p_marks)), '{}') from jsonb_each(p_value) e)
        else p_value end;
end
$$;

create or replace function job_scrub_array(p_texts text[], p_marks jsonb) returns text[]
language sql immutable
set search_path from current
as $$
    select array_agg(job_scrub_text(t.text, p_marks) order by t.nth)
    from unnest(p_texts) with ordinality as t (text, nth)
$$;

-- A regular expression that finds texts, also in JSON, that have one of the marks' keys in them, perhaps within a longer
-- word. Null without marks.
create or replace function job_scrub_pattern(p_marks jsonb) returns text
language sql immutable
set search_path from current
as $$
    select string_agg(distinct job_scrub_literal(f.form), '|') from jsonb_object_keys(p_marks) k
    cross join lateral (values (k), (btrim(to_jsonb(k)::text, '"'))) as f (form)
$$;

-- Replaces the marks' keys by their values in all texts of these tables, and returns each table with its changed rows.
create or replace function job_scrub(p_tables text[], p_marks jsonb) returns table (place text, rows bigint)
language plpgsql volatile
set search_path from current
as $$
declare
    v_changes text;
    v_differs text;
    v_found text;
    v_pattern constant text := job_scrub_pattern(p_marks);
begin
    foreach place in array p_tables loop
        select string_agg(format('%1$I = %2$s(t.%1$I, $1)', a.attname, f.name), ', '),
            string_agg(format('%2$s(t.%1$I, $1) is distinct from t.%1$I', a.attname, f.name), ' or '),
            string_agg(format('t.%I::text', a.attname), ', ')
        into v_changes, v_differs, v_found
        from pg_attribute a join (values ('text'::regtype, 'job_scrub_text'), ('jsonb', 'job_scrub_json'),
            ('text[]', 'job_scrub_array')) as f (type, name) on f.type = a.atttypid
        where a.attrelid = to_regclass(quote_ident(place)) and a.attnum > 0 and not a.attisdropped
            and a.attgenerated = '';
        continue when v_changes is null;
        execute format('update %I t set %s where concat_ws('' '', %s) ~* $2 and (%s)', place, v_changes, v_found,
            v_differs) using p_marks, v_pattern;
        get diagnostics rows = row_count;
        if rows > 0 then
            return next;
        end if;
    end loop;
end
$$;

-- The tables of the queue that can have texts about people.
create or replace function job_tables_with_texts() returns text[]
language sql immutable
set search_path from current
as $$
    select array['job_queue', 'job_runs', 'job_trash', 'job_audit', 'job_bulk', 'job_bulk_items', 'job_worker_runs',
        'job_poison', 'job_upkeep', 'job_alarms', 'job_types', 'job_queue_settings', 'job_lines_due', 'job_recheck',
        'job_error_groups', 'job_stat_errors', 'job_stat_delta', 'job_canaries', 'job_notes', 'job_error_mutes',
        'job_key_rates', 'job_unique_keys', 'job_flows', 'job_flow_members', 'job_producers']
$$;

-- Cancels these jobs where they wait, and returns how many. Refuses when one is running.
create or replace function job_erase_stop(p_jobs uuid[], p_actor text) returns bigint
language plpgsql volatile
set search_path from current
as $$
declare
    v_job job_queue;
    v_cancelled bigint := 0;
    v_keys text[];
begin
    for v_job in select * from job_queue q where q.id = any (p_jobs) and q.status in ('pending', 'running')
        order by q.id for update
    loop
        if v_job.status = 'running' then
            perform job_queue_refuse(format('Job %s, whose texts would be erased, is running. Nothing was erased. Wait '
                'for its end, or cancel it with "jobdeck cancel %s".', v_job.id, v_job.id));
        end if;
        perform job_queue_write_audit(p_actor, 'cancel', v_job.id, job_audit_facts(v_job),
            job_audit_facts(job_queue_make_cancelled(v_job, p_actor)), 'erasure');
        v_cancelled := v_cancelled + 1;
        v_keys := v_keys || v_job.concurrency_key;
    end loop;
    perform job_queue_advance_lines(v_keys);
    return v_cancelled;
end
$$;

-- Counts a failed run in another group of errors.
create or replace function job_stat_move_error(p_run job_runs, p_fingerprint text) returns void
language plpgsql volatile
set search_path from current set jit = off
as $$
declare
    v_bucket constant timestamptz := job_stat_bucket(5, p_run.finished_at);
begin
    update job_stat_errors e set runs = e.runs - 1
    where e.fingerprint = p_run.fingerprint and e.task_type = p_run.task_type and e.bucket = v_bucket;
    -- Without a row, the run was counted as `other`, and stays there.
    if found and p_run.fingerprint <> p_fingerprint then
        insert into job_stat_errors as e (task_type, fingerprint, bucket, runs)
        values (p_run.task_type, p_fingerprint, v_bucket, 1)
        on conflict (fingerprint, task_type, bucket) do update set runs = e.runs + 1;
        insert into job_error_groups as g (task_type, fingerprint, error_kind, pattern, sample_token, first_at, last_at)
        values (p_run.task_type, p_fingerprint, p_run.error_kind, '[erased]', p_run.run_token, p_run.finished_at,
            p_run.finished_at)
        on conflict (fingerprint, task_type) do update set sample_token = greatest(g.sample_token, excluded.sample_token),
            first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at);
    end if;
end
$$;

-- Gives failed runs, and the jobs whose newest failed run is one of them, the fingerprint that their error has after the
-- erasure of these marks (null: of the whole error), and counts them in that group.
create or replace function job_erase_fingerprints(p_tokens bigint[], p_marks jsonb) returns void
language plpgsql volatile
set search_path from current set jit = off
as $$
declare
    v_run job_runs;
    v_after text;
begin
    -- Nobody else adds up now, and no run is counted by its fingerprint of before later.
    perform from job_upkeep u where u.part = 'stats' for update;
    while job_stats_compact(1000) > 0 loop
        null;
    end loop;
    for v_run in select r.* from job_runs r where r.run_token = any (p_tokens) and r.fingerprint is not null
        order by r.run_token
    loop
        v_after := job_error_fingerprint(v_run.error_kind, case when p_marks is null then '[erased]'
            else job_scrub_text(v_run.error, p_marks) end);
        perform job_stat_move_error(v_run, v_after);
        update job_runs r set fingerprint = v_after where r.run_token = v_run.run_token and r.late = v_run.late;
        -- The order of the tokens leaves the fingerprint of the newest run.
        update job_queue q set fingerprint = v_after where q.id = v_run.job_id and q.fingerprint is not null;
    end loop;
    delete from job_stat_errors e where e.runs <= 0;
    delete from job_error_groups g where not exists (
        select from job_stat_errors e where e.fingerprint = g.fingerprint and e.task_type = g.task_type);
end
$$;

-- The same for groups of which the history no longer has a run, by their pattern. Groups that become one are added up.
create or replace function job_erase_groups(p_marks jsonb) returns void
language plpgsql volatile
set search_path from current set jit = off
as $$
declare
    v_group job_error_groups;
    v_pattern text;
    v_after text;
begin
    for v_group in select g.* from job_error_groups g where g.pattern ~* job_scrub_pattern(p_marks) loop
        v_pattern := job_scrub_text(v_group.pattern, p_marks);
        continue when v_pattern = v_group.pattern;
        v_after := job_error_fingerprint(v_group.error_kind, v_pattern);
        delete from job_error_groups g where g.fingerprint = v_group.fingerprint and g.task_type = v_group.task_type;
        insert into job_error_groups as g (task_type, fingerprint, error_kind, pattern, sample_token, first_at, last_at)
        values (v_group.task_type, v_after, v_group.error_kind, v_pattern, v_group.sample_token, v_group.first_at,
            v_group.last_at)
        on conflict (fingerprint, task_type) do update set sample_token = greatest(g.sample_token, excluded.sample_token),
            first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at);
        insert into job_stat_errors as e (task_type, fingerprint, bucket, runs)
        select o.task_type, v_after, o.bucket, o.runs from job_stat_errors o
        where o.fingerprint = v_group.fingerprint and o.task_type = v_group.task_type and v_after <> v_group.fingerprint
        on conflict (fingerprint, task_type, bucket) do update set runs = e.runs + excluded.runs;
        delete from job_stat_errors e where e.fingerprint = v_group.fingerprint and e.task_type = v_group.task_type
            and v_after <> v_group.fingerprint;
    end loop;
end
$$;

-- Replaces the marks' keys by their values in the texts of the queue, for a plugin that erases a person. Jobs that
-- have one of them in their payload, checkpoint or keys are cancelled, since they could not run any more.
create or replace function job_erase_texts(p_marks jsonb, p_actor text) returns table (place text, rows bigint)
language plpgsql volatile
set search_path from current set lock_timeout = '2s'
as $$
declare
    v_pattern constant text := job_scrub_pattern(p_marks);
begin
    place := 'job_queue (cancelled)';
    rows := job_erase_stop(array(
        select q.id from job_queue q where q.status in ('pending', 'running') and concat_ws(' ', q.payload::text,
            q.checkpoint::text, q.progress::text, q.dedupe_key, q.concurrency_key) ~* v_pattern), p_actor);
    if rows > 0 then
        return next;
    end if;
    -- The hash of an error would confirm a guess of the text that it was made from.
    delete from job_error_mutes m using job_runs r
    where r.fingerprint = m.fingerprint and r.task_type = m.task_type and r.error ~* v_pattern;
    perform job_limits_erase(array(
        select q.id from job_queue q where concat_ws(' ', q.dedupe_key, q.concurrency_key) ~* v_pattern
        union select r.job_id from job_runs r where concat_ws(' ', r.dedupe_key, r.concurrency_key) ~* v_pattern
        union select t.job_id from job_trash t
        where concat_ws(' ', t.job ->> 'dedupe_key', t.job ->> 'concurrency_key') ~* v_pattern));
    perform job_erase_fingerprints(array(
        select r.run_token from job_runs r where r.fingerprint is not null and r.error ~* v_pattern), p_marks);
    perform job_erase_groups(p_marks);
    return query select s.place, s.rows from job_scrub(job_tables_with_texts(), p_marks) s;
end
$$;

-- Removes what the queue has of the jobs with this key and value in their payload: payload, keys, output, error, log and
-- progress, also of their runs, and the texts about them in the audit. Those that wait are cancelled, those in the trash
-- removed. The rows stay, with type, times and outcome. Returns each place with its rows. Refuses when no job has the
-- value, or one of them is running.
create or replace function job_erase_payload(p_key text, p_value text, p_actor text)
returns table (place text, rows bigint)
language plpgsql volatile
set search_path from current set lock_timeout = '2s'
as $$
#variable_conflict use_column
declare
    v_jobs uuid[] := array(
        select q.id from job_queue q where q.payload ->> p_key = p_value
        union select r.job_id from job_runs r where r.payload ->> p_key = p_value
        union select t.job_id from job_trash t where t.job -> 'payload' ->> p_key = p_value
        union select a.job_id from job_audit a where a.job_id is not null and p_value in (
            a.before -> 'payload' ->> p_key, a.after -> 'payload' ->> p_key));
begin
    if cardinality(v_jobs) = 0 then
        perform job_queue_refuse('No job has this key and value in its payload. Nothing was erased.');
    end if;
    return query
        with cancelled as (select job_erase_stop(v_jobs, p_actor) as rows)
        select 'job_queue (cancelled)', c.rows from cancelled c where c.rows > 0;
    perform job_erase_fingerprints(array(
        select r.run_token from job_runs r where r.job_id = any (v_jobs) and r.fingerprint is not null), null);
    perform job_limits_erase(v_jobs);
    return query
        select e.place, e.rows from job_erase_jobs(v_jobs) e where e.rows > 0;
    update job_bulk b set words = null where position(p_key in b.words) > 0 and position(p_value in b.words) > 0;
    update job_bulk b set changes = null where b.changes -> 'set' ->> p_key = p_value and b.state <> 'running';
    -- A short value, such as 5, is also a part of other texts.
    if length(p_value) >= 8 then
        perform job_erase_groups(jsonb_build_object(p_value, '[erased]'));
        return query select s.place || ' (elsewhere)', s.rows
        from job_scrub(job_tables_with_texts(), jsonb_build_object(p_value, '[erased]')) s;
    end if;
    perform job_queue_write_audit(p_actor, 'erase', null, null, jsonb_build_object('payload_key', p_key, 'jobs',
        cardinality(v_jobs)), null);
end
$$;

-- The facts of a job in an audit row without what its producer or its handler wrote.
create or replace function job_erased_facts(p_facts jsonb) returns jsonb
language sql immutable
return p_facts - array['payload', 'output', 'last_error', 'checkpoint', 'progress', 'dedupe_key', 'concurrency_key'];

create or replace function job_erase_jobs(p_jobs uuid[]) returns table (place text, rows bigint)
language sql volatile
set search_path from current
as $$
    with queued as (
        update job_queue set payload = '{}', output = null, checkpoint = null, progress = null,
            last_error = case when last_error is not null then '[erased]' end, dedupe_key = null,
            concurrency_key = null, in_line = false, version = version + 1
        where id = any (p_jobs) returning 1),
    runs as (
        update job_runs set payload = '{}', output = null, traceback = null, log = null, progress = null,
            dedupe_key = null, concurrency_key = null, error = case when error is not null then '[erased]' end
        where job_id = any (p_jobs) returning 1),
    trash as (delete from job_trash where job_id = any (p_jobs) returning 1),
    poison as (delete from job_poison where job_id = any (p_jobs) returning 1),
    audit as (
        update job_audit set reason = null, before = job_erased_facts(before), after = job_erased_facts(after)
        where job_id = any (p_jobs) returning 1),
    items as (
        update job_bulk_items set facts = null, message = null where job_id = any (p_jobs) returning 1),
    worker_runs as (
        update job_worker_runs set results = (
            select jsonb_agg(e.value order by e.nth) from jsonb_array_elements(results) with ordinality as e (value, nth)
            where (e.value ->> 'id') <> all (p_jobs::text[]))
        where jsonb_typeof(results) = 'array' and exists (select from jsonb_array_elements(results) e
            where (e.value ->> 'id') = any (p_jobs::text[])) returning 1)
    select 'job_queue', count(*) from queued union all select 'job_runs', count(*) from runs
    union all select 'job_trash', count(*) from trash union all select 'job_poison', count(*) from poison
    union all select 'job_audit', count(*) from audit union all select 'job_bulk_items', count(*) from items
    union all select 'job_worker_runs', count(*) from worker_runs
$$;

-------------------------------------------------------------------------------------------------------
-- 12. Statistics of runs
-------------------------------------------------------------------------------------------------------

-- The counts of bins in two arrays, added. Bins above the last one in use are not stored.
create or replace function job_stat_add(p_one integer[], p_other integer[]) returns integer[]
language sql immutable parallel safe
return (
    select array_agg(coalesce(t.one, 0) + coalesce(t.other, 0) order by t.bin)
    from unnest(p_one, p_other) with ordinality as t (one, other, bin));

create or replace function job_stat_add(p_one bigint[], p_other bigint[]) returns bigint[]
language sql immutable parallel safe
return (
    select array_agg(coalesce(t.one, 0) + coalesce(t.other, 0) order by t.bin)
    from unnest(p_one, p_other) with ordinality as t (one, other, bin));

-- The counts of all bins, from the counts of some; a bin may be in the list several times.
create or replace function job_stat_histogram(p_bins integer[], p_runs integer[]) returns integer[]
language sql immutable parallel safe
return (
    with counted as (
        select t.bin, sum(t.runs)::integer as runs from unnest(p_bins, p_runs) as t (bin, runs) group by t.bin)
    select array_agg(coalesce(c.runs, 0) order by g.bin)
    from generate_series(1, (select max(d.bin) from counted d)) as g (bin) left join counted c on c.bin = g.bin);

-- Adds up to p_limit rows of job_stat_delta to the tables of statistics and deletes them. Returns their number. The caller
-- holds the lock on the row 'stats' of job_upkeep, so nobody else writes these tables, except for what is too old.
create or replace function job_stats_compact(p_limit integer) returns bigint
language plpgsql volatile
set search_path from current set jit = off
as $$
declare
    v_taken job_stat_delta[];
begin
    with taken as (
        delete from job_stat_delta where ctid = any (array(select ctid from job_stat_delta limit p_limit)) returning *
    )
    select array_agg(t::job_stat_delta) into v_taken from taken t;
    if v_taken is null then
        return 0;
    end if;
    perform job_stats_add_runs(v_taken);
    perform job_stats_add_times(v_taken);
    perform job_stats_add_errors(v_taken);
    return cardinality(v_taken);
end
$$;

create or replace function job_stats_add_runs(p_delta job_stat_delta[]) returns void
language sql volatile
set search_path from current set jit = off
as $$
    with delta as materialized (
        select job_stat_bucket(5, d.minute) as bucket, d.* from unnest(p_delta) d
    ), found as materialized (
        -- Counted once, because there is a number for each run, and then added up for the longer buckets.
        select d.bucket, d.task_type, d.outcome, d.dry_run, b.bins, count(*)::integer as runs
        from delta d cross join unnest(d.bins) as b (bins) group by 1, 2, 3, 4, 5
    ), added as (
        select l.minutes, job_stat_bucket(l.minutes, f.bucket) as bucket, f.task_type, f.outcome, f.dry_run,
            job_stat_histogram(array_agg(f.bins / 128), array_agg(f.runs)) as waits,
            job_stat_histogram(array_agg(f.bins % 128), array_agg(f.runs)) as durations
        from found f cross join (values (5), (15), (120), (480)) as l (minutes) group by 1, 2, 3, 4, 5
    ), counted as (
        select l.minutes, job_stat_bucket(l.minutes, d.minute) as bucket, d.task_type, d.outcome, d.dry_run,
            sum(d.runs) as runs, sum(d.permanent) as permanent, min(d.first_at) as first_at, max(d.last_at) as last_at
        from delta d cross join (values (0), (1), (5), (15), (120), (480)) as l (minutes) group by 1, 2, 3, 4, 5
    )
    insert into job_stats as s (minutes, bucket, task_type, outcome, dry_run, runs, permanent, first_at, last_at, waits,
        durations)
    select c.minutes, c.bucket, c.task_type, c.outcome, c.dry_run, c.runs, c.permanent, c.first_at, c.last_at,
        a.waits, a.durations
    from counted c left join added a using (minutes, bucket, task_type, outcome, dry_run)
    on conflict (minutes, bucket, task_type, outcome, dry_run) do update set
        runs = s.runs + excluded.runs, permanent = s.permanent + excluded.permanent,
        first_at = least(s.first_at, excluded.first_at), last_at = greatest(s.last_at, excluded.last_at),
        waits = job_stat_add(s.waits, excluded.waits), durations = job_stat_add(s.durations, excluded.durations)
$$;

create or replace function job_stats_add_times(p_delta job_stat_delta[]) returns void
language sql volatile
set search_path from current set jit = off
as $$
    with found as (
        select d.task_type, d.outcome, b.bins, count(*)::integer as runs
        from unnest(p_delta) d cross join unnest(d.bins) as b (bins) where not d.dry_run group by 1, 2, 3
    ), counted as (
        select f.task_type, f.outcome, job_stat_histogram(array_agg(f.bins / 128), array_agg(f.runs)) as waits,
            job_stat_histogram(array_agg(f.bins % 128), array_agg(f.runs)) as durations
        from found f group by 1, 2
    ), summed as (
        select d.task_type, d.outcome, sum(d.wait_seconds) as wait_seconds, sum(d.duration_seconds) as duration_seconds
        from unnest(p_delta) d where not d.dry_run group by 1, 2
    )
    insert into job_stat_times as t (task_type, outcome, waits, durations, wait_seconds, duration_seconds)
    select c.task_type, c.outcome, c.waits, c.durations, s.wait_seconds, s.duration_seconds
    from counted c join summed s using (task_type, outcome)
    on conflict (task_type, outcome) do update set
        waits = job_stat_add(t.waits, excluded.waits), durations = job_stat_add(t.durations, excluded.durations),
        wait_seconds = t.wait_seconds + excluded.wait_seconds,
        duration_seconds = t.duration_seconds + excluded.duration_seconds
$$;

-- A group that is new in its type and 5 minutes, where there are 1,000 already, is counted as `other`.
create or replace function job_stats_add_errors(p_delta job_stat_delta[]) returns void
language sql volatile
set search_path from current set jit = off
as $$
    with found as materialized (
        select d.task_type, d.fingerprint, job_stat_bucket(5, d.minute) as bucket, sum(d.runs) as runs,
            min(d.first_at) as first_at, max(d.last_at) as last_at, max(d.sample_token) as sample_token
        from unnest(p_delta) d where d.fingerprint is not null group by 1, 2, 3
    ), held as (
        select e.task_type, e.bucket, count(*) as groups from job_stat_errors e
        where e.bucket in (select f.bucket from found f) and e.fingerprint <> 'other' group by 1, 2
    ), ranked as (
        select f.*, e.runs is null and coalesce(h.groups, 0) + row_number() over (
            partition by f.task_type, f.bucket, e.runs is null order by f.first_at, f.fingerprint) > 1000 as is_other
        from found f
        left join job_stat_errors e using (task_type, fingerprint, bucket)
        left join held h using (task_type, bucket)
    ), named as (
        select r.task_type, case when r.is_other then 'other' else r.fingerprint end as fingerprint, r.bucket,
            sum(r.runs) as runs, min(r.first_at) as first_at, max(r.last_at) as last_at,
            max(r.sample_token) as sample_token
        from ranked r group by 1, 2, 3
    ), counted as (
        insert into job_stat_errors as e (task_type, fingerprint, bucket, runs)
        select n.task_type, n.fingerprint, n.bucket, n.runs from named n
        on conflict (fingerprint, task_type, bucket) do update set runs = e.runs + excluded.runs
    ), grouped as (
        select n.task_type, n.fingerprint, min(n.first_at) as first_at, max(n.last_at) as last_at,
            max(n.sample_token) as sample_token
        from named n group by 1, 2
    )
    insert into job_error_groups as g (task_type, fingerprint, error_kind, pattern, sample_token, first_at, last_at)
    select n.task_type, n.fingerprint, case when n.fingerprint <> 'other' then r.error_kind end,
        case when n.fingerprint <> 'other' then job_error_pattern(r.error) end, n.sample_token, n.first_at, n.last_at
    from grouped n left join job_runs r on r.run_token = n.sample_token and not r.late
    on conflict (fingerprint, task_type) do update set
        error_kind = coalesce(g.error_kind, excluded.error_kind), pattern = coalesce(g.pattern, excluded.pattern),
        sample_token = greatest(g.sample_token, excluded.sample_token),
        first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at)
$$;

-- An earlier schema counted no errors by group: counts those that its pages showed, the newest 20,000 failed runs of a
-- week. They have no `dry_run`, which later runs have, so none is counted twice.
do $$
begin
    if exists (select from job_error_groups) then
        return;
    end if;
    create temporary table job_stats_before on commit drop as
    select r.run_token, r.job_id, r.task_type, r.outcome, r.fingerprint, r.finished_at from job_runs r
    where r.outcome = any (job_outcomes(true)) and r.finished_at > now() - interval '7 days' and r.dry_run is null
        and r.fingerprint is not null
    order by r.finished_at desc limit 20000;
    perform job_stats_add_errors(array(
        select row(job_stat_bucket(1, r.finished_at), r.task_type, r.outcome, false, r.fingerprint, max(r.run_token),
            count(*), 0, min(r.finished_at), max(r.finished_at), '{}', 0, 0)::job_stat_delta
        from job_stats_before r group by job_stat_bucket(1, r.finished_at), r.task_type, r.outcome, r.fingerprint));
    update job_queue q set fingerprint = n.fingerprint
    from (select distinct on (job_id) job_id, task_type, fingerprint from job_stats_before
        order by job_id, run_token desc) n
    where q.id = n.job_id and q.task_type = n.task_type
        and (q.status = 'failed' or q.status = 'pending' and q.last_error is not null);
    drop table job_stats_before;
end
$$;

-- The counts of runs, those in job_stats and those still in job_stat_delta: exact at any moment. For one value of
-- `minutes`; the sum over all lengths has each run several times.
create or replace view job_stat_list as
select s.minutes, s.bucket, s.task_type, s.outcome, s.dry_run, s.runs, s.permanent, s.first_at, s.last_at
from job_stats s where (select job_may_read_views())
union all
select l.minutes, job_stat_bucket(l.minutes, d.minute), d.task_type, d.outcome, d.dry_run, d.runs::bigint,
    d.permanent::bigint, d.first_at, d.last_at
from job_stat_delta d cross join unnest(array[0, 1, 5, 15, 120, 480]::smallint[]) as l (minutes)
where (select job_may_read_views());

-- The same with the counts of bins, for the lengths that have them.
create or replace view job_stat_bin_list as
select s.minutes, s.bucket, s.task_type, s.outcome, s.dry_run, s.waits, s.durations
from job_stats s where s.minutes > 1 and (select job_may_read_views())
union all
select l.minutes, job_stat_bucket(l.minutes, d.minute), d.task_type, d.outcome, d.dry_run,
    job_stat_histogram(b.waits, b.ones), job_stat_histogram(b.durations, b.ones)
from job_stat_delta d
cross join lateral (
    select array_agg(u.bins / 128) as waits, array_agg(u.bins % 128) as durations, array_agg(1) as ones
    from unnest(d.bins) as u (bins)) b
cross join unnest(array[5, 15, 120, 480]::smallint[]) as l (minutes)
where (select job_may_read_views());

-- The waits and durations of all runs ever, without dry runs. A type and outcome may have several lines.
create or replace view job_stat_time_list as
select t.task_type, t.outcome, t.waits, t.durations, t.wait_seconds, t.duration_seconds from job_stat_times t
where (select job_may_read_views())
union all
select d.task_type, d.outcome, job_stat_histogram(b.waits, b.ones)::bigint[],
    job_stat_histogram(b.durations, b.ones)::bigint[], d.wait_seconds, d.duration_seconds
from job_stat_delta d
cross join lateral (
    select array_agg(u.bins / 128) as waits, array_agg(u.bins % 128) as durations, array_agg(1) as ones
    from unnest(d.bins) as u (bins)) b
where not d.dry_run and (select job_may_read_views());

-- The same for failed runs by group of errors.
create or replace view job_stat_error_list as
select e.task_type, e.fingerprint, e.bucket, e.runs from job_stat_errors e where (select job_may_read_views())
union all
select d.task_type, d.fingerprint, job_stat_bucket(5, d.minute), d.runs::bigint
from job_stat_delta d where d.fingerprint is not null and (select job_may_read_views());

-- The groups of errors, with those that are only in job_stat_delta yet. A group may have several lines.
create or replace view job_error_group_list as
select g.task_type, g.fingerprint, g.error_kind, g.pattern, g.sample_token, g.first_at, g.last_at
from job_error_groups g where (select job_may_read_views())
union all
select d.task_type, d.fingerprint, null::text, null::text, d.sample_token, d.first_at, d.last_at
from job_stat_delta d where d.fingerprint is not null and (select job_may_read_views());

-- The runs of each type in the 15 minutes before p_at (full minutes and the present one), and how many of them failed;
-- the same of the 7 days before the last hour; the failures since the newest success of a day (of the minute of that
-- success at least one, if it had some later); the shares from which health warns. Dry runs do not count. Types of which
-- a run ended in the last day; with p_failing, those of which a run has just failed or that were failing.
create or replace function job_failure_shares(p_at timestamptz, p_failing boolean)
returns table (task_type text, last_at timestamptz, runs bigint, failed bigint, usual_runs bigint, usual_failed bigint,
    failed_in_a_row bigint, usual double precision, warning_share double precision, critical_share double precision)
language sql stable
set search_path from current set jit = off
as $$
    with kinds as (
        select job_outcomes(true) as failures, job_outcomes(true) || job_outcomes(false) as counted
    ), recent as materialized (
        select s.task_type, sum(s.runs)::bigint as runs,
            coalesce(sum(s.runs) filter (where s.outcome = any (k.failures)), 0)::bigint as failed
        from job_stat_list s, kinds k
        where s.minutes = 1 and s.bucket >= job_stat_bucket(1, p_at - interval '15 minutes') and s.bucket <= p_at
            and not s.dry_run and s.outcome = any (k.counted)
        group by s.task_type
    ), day as materialized (
        select s.task_type, max(s.last_at) as last_at,
            greatest(max(s.last_at) filter (where s.outcome <> all (k.failures)), p_at - interval '1 day') as good_at
        from job_stat_list s, kinds k
        where s.minutes = 15 and s.bucket > p_at - interval '1 day' and s.bucket <= p_at and not s.dry_run
            and s.outcome = any (k.counted)
        group by s.task_type
    ), looked_at as (
        select coalesce(d.task_type, f.task_type) as task_type, d.last_at,
            coalesce(d.good_at, p_at - interval '1 day') as good_at, coalesce(r.runs, 0) as runs,
            coalesce(r.failed, 0) as failed
        from day d full join job_failing_types f using (task_type) left join recent r using (task_type)
        where not p_failing and d.task_type is not null or r.failed > 0 or f.task_type is not null
    ), usual as materialized (
        select s.task_type, sum(s.runs)::bigint as runs,
            coalesce(sum(s.runs) filter (where s.outcome = any (k.failures)), 0)::bigint as failed
        from job_stat_list s, kinds k
        where (s.minutes = 120 and s.bucket >= job_stat_bucket(120, p_at - interval '7 days')
                and s.bucket < job_stat_bucket(120, p_at - interval '1 hour')
            or s.minutes = 5 and s.bucket >= job_stat_bucket(120, p_at - interval '1 hour')
                and s.bucket < job_stat_bucket(5, p_at - interval '1 hour'))
            and not s.dry_run and s.outcome = any (k.counted)
        group by s.task_type
    )
    select l.task_type, l.last_at, l.runs, l.failed, coalesce(u.runs, 0), coalesce(u.failed, 0), a.runs, w.usual,
        coalesce(t.warning_share, greatest(0.05, 2 * w.usual, w.usual + 0.1)),
        coalesce(t.critical_share, greatest(0.5, w.usual + 0.3, t.warning_share))
    from looked_at l
    left join usual u using (task_type)
    left join job_types t using (task_type)
    cross join lateral (
        select least((coalesce(u.failed, 0) + 1.0) / (coalesce(u.runs, 0) + 2.0), 0.5)::double precision as usual
    ) w
    cross join lateral (
        select coalesce(sum(case when s.first_at > l.good_at then s.runs when s.last_at > l.good_at then 1 else 0 end),
            0)::bigint as runs
        from job_stat_list s
        where s.task_type = l.task_type and not s.dry_run and s.outcome = any (job_outcomes(true))
            and (s.minutes = 15 and s.bucket > l.good_at and s.bucket <= p_at
                or s.minutes = 1 and s.bucket >= job_stat_bucket(15, l.good_at)
                    and s.bucket < job_stat_bucket(15, l.good_at) + interval '15 minutes')
    ) a
    order by l.task_type
$$;

-- Runs per second of these types that ended in the last full minute, dry ones too; null if none.
create or replace function job_finish_rate(p_types text[]) returns double precision
language sql stable
set search_path from current set jit = off
as $$
    select nullif(sum(s.runs), 0)::double precision / 60 from job_stat_list s
    where s.minutes = 1 and s.bucket = job_stat_bucket(1, statement_timestamp() - interval '1 minute')
        and s.task_type = any (p_types) and s.outcome = any (job_outcomes(true) || job_outcomes(false))
$$;

-- What the failure shares say of each type: 20 runs or more are judged by their share, fewer by three failures in a row. A
-- verdict ends when the share has been below half of its threshold for 15 minutes; one that is critical becomes a warning
-- if that still holds.
create or replace function job_stats_judge(p_at timestamptz) returns void
language plpgsql volatile
set search_path from current
as $$
begin
    with judged as (
        select s.*, f.since, f.verdict as before,
            case
                when s.enough and s.share >= s.critical_share then 'critical'
                when s.enough and s.share >= s.warning_share or s.in_a_row then 'warning'
            end as found,
            case when s.share < case f.verdict when 'critical' then s.critical_share else s.warning_share end / 2
                    and (f.verdict = 'critical' or not s.in_a_row)
                then least(coalesce(f.calm_since, p_at), p_at) end as calm_since
        from (
            select j.*, coalesce(j.failed::double precision / nullif(j.runs, 0), 0) as share, j.runs >= 20 as enough,
                j.runs < 20 and j.failed_in_a_row >= 3 as in_a_row
            from job_failure_shares(p_at, true) j
        ) s left join job_failing_types f using (task_type)
    ), decided as (
        select j.*,
            case
                when j.found = 'critical' then 'critical'
                when j.before = 'critical' and (j.calm_since is null or j.calm_since > p_at - interval '15 minutes')
                    then 'critical'
                when j.found = 'warning' or j.before = 'critical' and j.share >= j.warning_share / 2 then 'warning'
                when j.before = 'warning' and (j.calm_since is null or j.calm_since > p_at - interval '15 minutes')
                    then 'warning'
            end as verdict
        from judged j
    ), ended as (
        delete from job_failing_types f using decided d where d.task_type = f.task_type and d.verdict is null
    )
    insert into job_failing_types as f (task_type, verdict, since, calm_since, runs, failed, failed_in_a_row,
        in_a_row, usual, threshold, judged_at)
    select d.task_type, d.verdict, p_at, case when d.before = d.verdict then d.calm_since end, d.runs, d.failed,
        d.failed_in_a_row, d.in_a_row, d.usual,
        case d.verdict when 'critical' then d.critical_share else d.warning_share end, p_at
    from decided d where d.verdict is not null
    on conflict (task_type) do update set verdict = excluded.verdict, calm_since = excluded.calm_since,
        since = least(f.since, excluded.since), runs = excluded.runs, failed = excluded.failed,
        failed_in_a_row = excluded.failed_in_a_row, in_a_row = excluded.in_a_row,
        usual = excluded.usual, threshold = excluded.threshold, judged_at = excluded.judged_at;
end
$$;

-------------------------------------------------------------------------------------------------------
-- The backlog over time, and one slot of a series
-------------------------------------------------------------------------------------------------------

-- The most jobs that were due and waited for a worker in each bucket, by type. `minutes` is the length of a bucket: 5, 15,
-- 120 or 480, as in job_stats. The empty type has all types together; without this row, nobody counted. Once a minute the
-- part 'backlog' of upkeep counts.
create table if not exists job_backlog (
    minutes smallint not null,
    bucket timestamptz not null,
    task_type text not null,
    waiting bigint not null,
    estimated boolean not null,
    primary key (minutes, bucket, task_type)
) with (fillfactor = 70);

insert into job_upkeep (part, every) values ('backlog', '1 min') on conflict (part) do nothing;
insert into job_retention (name, part, default_days) values ('job_backlog', 'prune', 30)
on conflict (name) do update set part = excluded.part, default_days = excluded.default_days;

-- The pauses of a window, among all that operators did in it.
create index if not exists job_audit_pauses on job_audit (at) where action in ('pause', 'resume');

-- Counts the backlog for the present buckets. Returns the number of types with one.
create or replace function job_backlog_sample() returns bigint
language sql volatile
set search_path from current
as $$
    with found as materialized (
        select b.task_type, b.overdue as waiting, b.overdue_about as estimated
        from job_queue_backlog(interval '0', 10001) b where b.overdue > 0
    ), counted as (
        select f.task_type, f.waiting, f.estimated from found f where f.task_type <> ''
        union all
        select '', coalesce(sum(f.waiting), 0), coalesce(bool_or(f.estimated), false) from found f
    ), kept as (
        insert into job_backlog as b (minutes, bucket, task_type, waiting, estimated)
        select l.minutes, job_stat_bucket(l.minutes, clock_timestamp()), c.task_type, c.waiting, c.estimated
        from counted c cross join unnest(array[5, 15, 120, 480]::smallint[]) as l (minutes)
        on conflict (minutes, bucket, task_type) do update set
            estimated = case when excluded.waiting > b.waiting then excluded.estimated else b.estimated end,
            waiting = greatest(b.waiting, excluded.waiting)
    )
    select count(*) from found
$$;

-- Why the next run of a series cannot be skipped; null if it can. p_next is the slot after it.
create or replace function job_skip_refusal(p_job job_queue, p_version bigint, p_next timestamptz) returns text
language sql immutable
return case
    when p_version <> (p_job).version then 'has-changed'
    when not (p_job).is_recurring then 'skip-once'
    when (p_job).status = 'running' then 'skip-running'
    when (p_job).status <> 'pending' then 'skip-ended'
    when (p_job).blocked_by = (p_job).id then 'series-paused'
    when p_next >= job_no_slot() then 'skip-without-slots'
    when (p_job).expires_at <= p_next then 'skip-last'
end;

-- Skips the next run of a series, which then is due at the slot after it. A late run counts as the next one, and so does
-- the retry of a failed one.
create or replace function job_queue_skip(
    p_id uuid, p_version bigint, p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_job job_queue;
    v_after job_queue;
    v_next timestamptz;
    v_refusal text;
begin
    perform job_refuse_outsiders();
    begin
        select * into v_job from job_queue q where q.id = p_id for update;
    exception when lock_not_available then
        return query select p_id, false, 'is-locked', null::jsonb, null::text, null::bigint;
        return;
    end;
    if v_job.id is null then
        return query select p_id, false, job_queue_absence('edit', p_id), jsonb_build_object('job', p_id), null::text,
            null::bigint;
        return;
    end if;
    v_next := job_series_slot(v_job.recurrence_interval_minutes, v_job.schedule, v_job.slots,
        coalesce(v_job.anchor_at, v_job.run_at), greatest(coalesce(v_job.slot_at, v_job.run_at),
            case when not job_series_runs_all(v_job.schedule) then clock_timestamp() end));
    v_refusal := job_skip_refusal(v_job, p_version, v_next);
    if v_refusal is not null or p_dry_run then
        return query select p_id, v_refusal is null, coalesce(v_refusal, 'would-skip'),
            jsonb_build_object('status', v_job.status, 'run_at', v_next, 'job', p_id), v_job.status, v_job.version;
        return;
    end if;
    update job_queue q set
        run_at = v_next, slot_at = null, attempts = 0, anchor_at = v_next,
        in_line = q.concurrency_key is not null, updated_at = clock_timestamp(), version = q.version + 1
    where q.id = p_id;
    perform job_queue_advance_lines(array[v_job.concurrency_key]);
    select * into v_after from job_queue q where q.id = p_id;
    perform job_queue_write_audit(p_actor, 'skip', p_id, job_audit_facts(v_job), job_audit_facts(v_after), p_reason);
    perform pg_notify(current_schema() || '.job_queue', '');
    return query select p_id, true, 'was-skipped', jsonb_build_object('run_at', v_next), v_after.status, v_after.version;
end
$$;

-- Why a series cannot be paused (p_paused) or resumed; null if it can.
create or replace function job_series_refusal(p_job job_queue, p_version bigint, p_paused boolean) returns text
language sql immutable
return case
    when p_version <> (p_job).version then 'has-changed'
    when not (p_job).is_recurring then 'pause-once'
    when (p_job).status not in ('pending', 'running') then 'pause-ended'
    when p_paused and (p_job).blocked_by = (p_job).id then 'already-paused'
    when p_paused and (p_job).blocked_by is not null then 'pause-blocked'
    when not p_paused and (p_job).blocked_by is distinct from (p_job).id then 'not-paused'
end;

-- Pauses one series, or resumes it. A paused series blocks itself, so it is in no index of the claim, and no claim has to
-- look at anything more. A running cycle ends as usual. A resumed series runs at its next slot: missed ones are not made up.
create or replace function job_series_pause(
    p_id uuid, p_version bigint, p_paused boolean, p_actor text, p_reason text, p_dry_run boolean
) returns table (job_id uuid, ok boolean, code text, facts jsonb, status text, version bigint)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := clock_timestamp();
    v_job job_queue;
    v_after job_queue;
    v_next timestamptz;
    v_refusal text;
begin
    perform job_refuse_outsiders();
    begin
        select * into v_job from job_queue q where q.id = p_id for update;
    exception when lock_not_available then
        return query select p_id, false, 'is-locked', null::jsonb, null::text, null::bigint;
        return;
    end;
    if v_job.id is null then
        return query select p_id, false, job_queue_absence('edit', p_id), jsonb_build_object('job', p_id), null::text,
            null::bigint;
        return;
    end if;
    v_refusal := job_series_refusal(v_job, p_version, p_paused);
    v_next := case when v_refusal is null and not p_paused and v_job.status = 'pending' and v_job.run_at <= v_now
        then job_series_slot(v_job.recurrence_interval_minutes, v_job.schedule, v_job.slots,
            coalesce(v_job.anchor_at, v_job.run_at), v_now)
        else v_job.run_at end;
    if v_refusal is not null or p_dry_run then
        return query select p_id, v_refusal is null,
            coalesce(v_refusal, case when p_paused then 'would-pause' else 'would-resume' end),
            jsonb_build_object('status', v_job.status, 'run_at', v_next, 'blocker', v_job.blocked_by, 'job', p_id),
            v_job.status, v_job.version;
        return;
    end if;
    update job_queue q set
        blocked_by = case when p_paused then q.id end, run_at = v_next,
        slot_at = case when v_next = q.run_at then q.slot_at end,
        attempts = case when v_next = q.run_at then q.attempts else 0 end,
        anchor_at = coalesce(q.anchor_at, q.run_at),
        in_line = q.status = 'pending' and q.concurrency_key is not null, updated_at = v_now, version = q.version + 1
    where q.id = p_id;
    perform job_queue_advance_lines(array[v_job.concurrency_key]);
    select * into v_after from job_queue q where q.id = p_id;
    perform job_queue_write_audit(p_actor, case when p_paused then 'pause series' else 'resume series' end, p_id,
        job_audit_facts(v_job), job_audit_facts(v_after), p_reason);
    perform pg_notify(current_schema() || '.job_queue', '');
    return query select p_id, true, case when p_paused then 'was-paused' else 'was-resumed' end,
        jsonb_build_object('status', v_after.status, 'run_at', v_next, 'job', p_id), v_after.status, v_after.version;
end
$$;

-------------------------------------------------------------------------------------------------------
-- 13. Flows: jobs that wait for several others
--
-- A member waits for one blocker at a time (`blocked_by`), so claims, and the ends of other jobs, look at nothing more. When
-- this blocker has ended, the member waits for another one that has not, or is released.
--
-- What releases a member locks its row, then reads its blockers in a new statement. What lets an ended blocker run once more
-- (a retry, an undo), or adds a blocker, locks the members that wait for it in the same transaction. So a member is never
-- released while one of its blockers waits or runs. A blocker that ends while a member begins to wait for it is found by
-- job_queue_check_again (docs/decisions/flows.md).
-------------------------------------------------------------------------------------------------------

create table if not exists job_flows (
    id uuid primary key,
    name text not null,
    created_at timestamptz not null default clock_timestamp(),
    created_by text not null
);
create index if not exists job_flows_created_at on job_flows (created_at);

-- The ids of members rise in the order in which they were given.
create table if not exists job_flow_members (
    job_id uuid primary key,
    flow_id uuid not null,
    name text not null,
    task_type text not null,
    -- What it needs of its blockers: the success of all, the end of all, or the end of all with a failure among them.
    needs text not null constraint job_flow_members_needs_check check (needs in ('success', 'end', 'failure')),
    -- The member whose run added this one.
    added_by uuid,
    -- Why the queue cancelled it: a blocker did not succeed (`lost`), or it needs a failure and there was none (`skipped`).
    set_aside text constraint job_flow_members_set_aside_check check (set_aside in ('lost', 'skipped'))
);
create index if not exists job_flow_members_flow on job_flow_members (flow_id, name);

-- Whom each member waits for. `outcome` is how the blocker ended, from when the member is judged; null before.
create table if not exists job_dependencies (
    job_id uuid not null,
    blocker_id uuid not null,
    -- That of the member.
    needs text not null constraint job_dependencies_needs_check check (needs in ('success', 'end', 'failure')),
    outcome text constraint job_dependencies_outcome_check
        check (outcome in ('succeeded', 'partial', 'failed', 'cancelled', 'deleted')),
    primary key (job_id, blocker_id)
) with (fillfactor = 80);
create index if not exists job_dependencies_blocker on job_dependencies (blocker_id);
create index if not exists job_dependencies_open on job_dependencies (job_id, blocker_id) where outcome is null;
create index if not exists job_dependencies_bad on job_dependencies (job_id, blocker_id)
    where outcome in ('failed', 'cancelled', 'deleted');

insert into job_retention (name, part, default_days) values ('job_flows', 'retention', 30)
on conflict (name) do update set part = excluded.part, default_days = excluded.default_days;

create or replace function job_is_member(p_job uuid) returns boolean
language sql stable
set search_path from current
as $$ select exists (select from job_flow_members where job_id = p_job) $$;

-- Whether a member has blockers by which it was not judged yet.
create or replace function job_flow_waits(p_job uuid) returns boolean
language sql stable
set search_path from current
as $$ select exists (select from job_dependencies where job_id = p_job and outcome is null) $$;

-- Whether a waiting member still has to be judged by this blocker.
create or replace function job_flow_asks(p_blocker uuid) returns boolean
language sql stable
set search_path from current
as $$
    select exists (
        select from job_dependencies d join job_queue q on q.id = d.job_id
        where d.blocker_id = p_blocker and d.outcome is null and q.status = 'pending')
$$;

-- How a blocker ended; null while it waits or runs.
create or replace function job_flow_outcome(p_blocker uuid) returns text
language sql stable
return (
    select case
        when q.status in ('pending', 'running') then null
        when q.status = 'succeeded' then case when q.last_success_at is null then 'cancelled' else 'succeeded' end
        when q.status is not null then q.status
        else coalesce((
            select r.outcome from job_runs r where r.job_id = p_blocker and r.removed
            order by r.run_token desc limit 1), 'deleted')
    end
    from (select) one left join job_queue q on q.id = p_blocker);

-- What `why` says of a member: how many of its blockers have not ended, of how many, and the names of the first three.
create or replace function job_flow_evidence(p_job uuid) returns jsonb
language sql stable
set search_path from current
as $$
    select coalesce((
        select jsonb_build_object('open', count(*) filter (where q.status in ('pending', 'running')),
            'total', count(*), 'needs', max(d.needs),
            'names', to_jsonb((array_agg(coalesce(m.name, d.blocker_id::text) order by d.blocker_id)
                filter (where q.status in ('pending', 'running')))[1:3]))
        from job_dependencies d left join job_queue q on q.id = d.blocker_id
        left join job_flow_members m on m.job_id = d.blocker_id
        where d.job_id = p_job having count(*) > 0), '{}')
$$;

-- Judges members by their blockers: each waits for a blocker that has not ended, can run, or is cancelled. The caller has
-- locked them in an earlier statement; they are pending, or were cancelled as `lost`. Returns those that are cancelled now,
-- those that wait again after they were, and the keys whose lines the caller has to advance.
create or replace function job_flow_judge(p_jobs uuid[], out cancelled uuid[], out revived uuid[], out keys text[])
language plpgsql volatile
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_live uuid[];
    v_next uuid[];
begin
    cancelled := '{}';
    revived := '{}';
    if coalesce(cardinality(p_jobs), 0) = 0 then
        return;
    end if;
    -- The last blocker that has not ended, since jobs end about in the order of their ids: so few ends concern the member,
    -- and no blocker is read twice.
    v_live := array(
        select l.id from unnest(p_jobs) with ordinality as j (id, place) left join lateral (
            select d.blocker_id as id from job_dependencies d join job_queue q on q.id = d.blocker_id
            where d.job_id = j.id and d.outcome is null and q.status in ('pending', 'running')
            order by d.blocker_id desc limit 1) l on true
        order by j.place);
    update job_dependencies d set outcome = job_flow_outcome(d.blocker_id)
    from unnest(p_jobs, v_live) as j (id, live)
    where d.job_id = j.id and d.outcome is null and (j.live is null or d.blocker_id > j.live);
    with judged as (
        select m.job_id, j.live, bad.id as bad, case
                when m.needs = 'success' and bad.id is not null then 'lost'
                when j.live is not null then 'wait'
                when m.needs = 'failure' and bad.id is null then 'skipped'
                else 'run' end as move
        from unnest(p_jobs, v_live) as j (id, live) join job_flow_members m on m.job_id = j.id
        left join lateral (
            select d.blocker_id as id from job_dependencies d
            where d.job_id = j.id and d.outcome in ('failed', 'cancelled', 'deleted')
            order by d.blocker_id limit 1) bad on true
    ), wanted as (
        select q.id, j.move, q.status as before, q.blocked_by is null as unblocked,
            case when j.move in ('lost', 'skipped') then 'cancelled' else 'pending' end as status,
            case j.move when 'lost' then j.bad when 'wait' then j.live end as blocker,
            case j.move
                when 'skipped' then 'Not needed: all jobs that it waited for succeeded.'
                when 'lost' then format('Cancelled because its blocker, job %s, %s.', j.bad, case job_flow_outcome(j.bad)
                    when 'failed' then 'failed permanently' when 'deleted' then 'was deleted' else 'was cancelled' end)
            end as error
        from judged j join job_queue q on q.id = j.job_id
        -- Another job may have taken its dedupe key since it was cancelled.
        where q.status = 'pending' or j.move in ('lost', 'skipped') or q.dedupe_key is null
            or job_queue_holder(q.dedupe_key) is null
    ), moved as (
        update job_queue q set status = w.status, blocked_by = w.blocker,
            last_error = case when w.status = 'cancelled' then w.error when q.status = 'pending' then q.last_error end,
            last_outcome = case when w.status = 'cancelled' then w.status when q.status = 'pending' then q.last_outcome end,
            completed_at = case when w.status = 'cancelled' then v_now end,
            -- As after a retry.
            expires_at = case when w.status = 'cancelled' or q.status = 'pending' or q.expires_at > v_now
                then q.expires_at end,
            in_line = w.status = 'pending' and q.concurrency_key is not null, updated_at = v_now, version = q.version + 1
        from wanted w where q.id = w.id and (q.status <> w.status or q.blocked_by is distinct from w.blocker)
        returning q.id, q.concurrency_key, q.status, q.blocked_by, w.before, w.unblocked, w.move
    ), noted as (
        update job_flow_members m set set_aside = case when v.status = 'cancelled' then v.move end
        from moved v where m.job_id = v.id and m.set_aside is distinct from case when v.status = 'cancelled' then v.move end
    )
    select coalesce(array_agg(v.id) filter (where v.status = 'cancelled' and v.before = 'pending'), '{}'),
        coalesce(array_agg(v.id) filter (where v.status = 'pending' and v.before = 'cancelled'), '{}'),
        -- One that could run and waits again was perhaps the first of its line.
        array_agg(distinct v.concurrency_key) filter (where v.move = 'run' or v.unblocked),
        array_agg(distinct v.blocked_by) filter (where v.move = 'wait')
    into cancelled, revived, keys, v_next from moved v;
    -- The next blocker may be ending in a transaction that does not see that this member waits for it.
    perform job_queue_ask_recheck(null, v_next);
end
$$;

-- Of jobs whose blocker has succeeded, which the caller has locked: judges the members of flows, and returns the others.
create or replace function job_flow_release(p_waiting uuid[], out others uuid[], out cancelled uuid[], out keys text[])
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_members constant uuid[] := array(select m.job_id from job_flow_members m where m.job_id = any (p_waiting));
begin
    others := p_waiting;
    cancelled := '{}';
    if cardinality(v_members) > 0 then
        others := array(select w from unnest(p_waiting) w where w <> all (v_members));
        select j.cancelled, j.keys into cancelled, keys from job_flow_judge(v_members) j;
    end if;
end
$$;

-- Judges the members that wait for blockers that have ended without success. p_waiting are the jobs that wait for one of them
-- now, locked; returns those that are no members, which the caller cancels.
create or replace function job_flow_fail(
    p_blockers uuid[], p_waiting uuid[], out others uuid[], out cancelled uuid[], out keys text[]
)
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_most constant integer := 1000;
    v_members uuid[];
    v_found uuid[];
    v_locked uuid[];
begin
    others := p_waiting;
    cancelled := '{}';
    if not exists (select from job_dependencies d where d.blocker_id = any (p_blockers)) then
        return;
    end if;
    v_members := array(select m.job_id from job_flow_members m where m.job_id = any (p_waiting));
    others := array(select w from unnest(p_waiting) w where w <> all (v_members));
    -- Those that wait for another blocker now, but cannot run without this one.
    v_found := array(
        select q.id from job_dependencies d join job_queue q on q.id = d.job_id
        where d.blocker_id = any (p_blockers) and d.needs = 'success' and d.outcome is null and q.status = 'pending'
            and q.id <> all (v_members)
        limit v_most);
    v_locked := array(
        select q.id from job_queue q where q.id = any (v_found) and q.status = 'pending'
        order by q.id for update skip locked);
    if cardinality(v_locked) < cardinality(v_found) or cardinality(v_found) = v_most then
        perform job_queue_ask_recheck(null, p_blockers);
    end if;
    v_members := v_members || v_locked;
    update job_dependencies d set outcome = job_flow_outcome(d.blocker_id)
    where d.blocker_id = any (p_blockers) and d.job_id = any (v_members) and d.outcome is null;
    select j.cancelled, j.keys into cancelled, keys from job_flow_judge(v_members) j;
end
$$;

-- Keeps how these jobs ended for the members that waited for them, before the jobs leave the queue: a job that never ran is
-- not in the history.
create or replace function job_flow_note_ends(p_ids uuid[]) returns void
language sql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
    update job_dependencies d set outcome = job_flow_outcome(d.blocker_id)
    where d.blocker_id = any (p_ids) and d.outcome is null
$$;

-- Records that upkeep has to judge all blockers without which these members cannot run. A blocker that ends in another
-- transaction does not see that they wait. It sees them cancelled or deleted until this transaction has ended.
create or replace function job_flow_note_blockers(p_members uuid[]) returns void
language sql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
    select job_queue_ask_recheck(null, array(
        select d.blocker_id from job_dependencies d
        where d.job_id = any (p_members) and d.outcome is null and d.needs = 'success'))
$$;

-- Called after jobs were retried or restored. They wait for their blockers again, and the members of flows that wait for them,
-- or were cancelled because of them and could run now, wait for them.
create or replace function job_flow_wait_again(p_jobs uuid[]) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_judged record;
    v_live uuid[];
    v_waiting uuid[] := array(
        select q.id from job_flow_members m join job_queue q on q.id = m.job_id
        where m.job_id = any (p_jobs) and (q.status = 'pending' or q.status = 'cancelled' and m.set_aside = 'lost')
        order by q.id for update of q);
begin
    if cardinality(v_waiting) > 0 then
        update job_flow_members m set set_aside = null from job_queue q
        where m.job_id = any (v_waiting) and q.id = m.job_id and q.status = 'pending' and m.set_aside is not null;
        -- What has succeeded does not change; the history may have lost it. Nor does the end of a blocker that is gone.
        update job_dependencies d set outcome = job_flow_outcome(d.blocker_id)
        where d.job_id = any (v_waiting) and d.outcome not in ('succeeded', 'partial')
            and job_flow_outcome(d.blocker_id) is distinct from 'deleted';
        v_judged := job_flow_judge(v_waiting);
        perform job_flow_note_blockers(v_waiting);
        perform job_queue_advance_lines(v_judged.keys);
        perform job_queue_release_waiting('{}', v_judged.cancelled, 'was cancelled');
    end if;
    v_live := array(select q.id from job_queue q where q.id = any (p_jobs) and q.status in ('pending', 'running'));
    while exists (select from job_dependencies d where d.blocker_id = any (v_live)) loop
        v_waiting := array(
            select q.id from job_queue q where q.id in (select d.job_id from job_dependencies d where d.blocker_id = any (v_live))
                -- One that has run already does not wait again.
                and (q.status = 'pending' and q.attempts = 0 or q.status = 'cancelled' and exists (
                    select from job_flow_members m where m.job_id = q.id and m.set_aside = 'lost'))
            order by q.id for update);
        update job_dependencies d set outcome = null
        where d.blocker_id = any (v_live) and d.job_id = any (v_waiting) and d.outcome is not null;
        v_judged := job_flow_judge(v_waiting);
        v_live := v_judged.revived;
        perform job_flow_note_blockers(v_live);
        perform job_queue_advance_lines(v_judged.keys);
        perform job_queue_release_waiting('{}', v_judged.cancelled, 'was cancelled');
    end loop;
end
$$;

-- Why a member that has ended cannot be retried: it needs the success of a blocker that has ended without one, or the
-- failure of one where all have succeeded.
create or replace function job_flow_refusal(p_job uuid, out code text, out facts jsonb)
language sql stable
set search_path from current set enable_seqscan = off
as $$
    with ended as (
        select d.blocker_id as id, d.needs, case when d.outcome in ('succeeded', 'partial') then d.outcome
            else job_flow_outcome(d.blocker_id) end as outcome
        from job_dependencies d where d.job_id = p_job
    )
    select r.code, r.facts from (
        select 'hopeless-blocker' as code, jsonb_build_object('blocker', e.id, 'status', nullif(e.outcome, 'deleted')) as facts,
            e.id
        from ended e where e.needs = 'success' and e.outcome not in ('succeeded', 'partial')
        union all
        select 'not-needed', '{}', null
        where (select bool_and(e.needs = 'failure' and coalesce(e.outcome in ('succeeded', 'partial'), false)) from ended e)
    ) r order by r.id limit 1
$$;

-- Refuses the canary of a member that was made due and has to wait for its blockers, or is not to run at all. What it was
-- asked for may have changed since.
create or replace function job_flow_refuse_canary(p_job job_queue) returns void
language plpgsql stable
set search_path from current
as $$
begin
    if (p_job.status <> 'pending' or p_job.blocked_by is not null) and job_is_member(p_job.id) then
        perform job_queue_refuse(format('Job %s has to wait for other members of its flow.', p_job.id));
    end if;
end
$$;

do $$
begin
    if to_regtype('job_flow_given') is null then
        create type job_flow_given as (
            place bigint, id uuid, name text, task_type text, payload jsonb, run_at timestamptz, max_attempts integer,
            priority integer, dedupe_key text, concurrency_key text, after text[], after_jobs uuid[], needs text
        );
    end if;
end
$$;

-- The members in a document: a list of objects, in which a member comes after those that it waits for.
create or replace function job_flow_given_of(p_members jsonb) returns job_flow_given[]
language plpgsql volatile
set search_path from current
as $$
declare
    v_key text;
    -- As in job_queue_create_many.
    v_time constant text := overlay('0' || to_hex((date_part('epoch', clock_timestamp()) * 1000 * 4096)::bigint)
        placing '7' from 13 for 0);
    v_first_place constant bigint := x'8000000'::bigint;
    v_least_chance constant bigint := x'100000000'::bigint;
    v_chances constant bigint := x'effffffff'::bigint;
begin
    if jsonb_typeof(p_members) is distinct from 'array' then
        perform job_queue_refuse('The members of a flow are a list of JSON objects. Nothing was enqueued.');
    elsif jsonb_array_length(p_members) not between 1 and 10000 then
        perform job_queue_refuse(format('A flow has 1 to 10,000 members; this one has %s. Nothing was enqueued.',
            jsonb_array_length(p_members)));
    end if;
    select k into v_key from jsonb_array_elements(p_members) e (member) cross join lateral jsonb_object_keys(e.member) k
    where k not in ('name', 'task_type', 'payload', 'run_at', 'max_attempts', 'priority', 'dedupe_key',
        'concurrency_key', 'after', 'after_jobs', 'needs') limit 1;
    if found then
        perform job_queue_refuse(format('A member of a flow has no "%s". Nothing was enqueued.', left(v_key, 50)));
    end if;
    return array(
        select row(e.place, (v_time || to_hex(v_first_place + e.place)
                || to_hex(v_least_chance + (random() * v_chances)::bigint))::uuid,
            m.name, m.task_type, coalesce(m.payload, '{}'), coalesce(m.run_at, now()),
            greatest(coalesce(m.max_attempts, 5), 1), coalesce(m.priority, 0), m.dedupe_key, m.concurrency_key,
            coalesce(m.after, '{}'), coalesce(m.after_jobs, '{}'), coalesce(m.needs, 'success'))::job_flow_given
        from jsonb_array_elements(p_members) with ordinality as e (value, place)
        cross join lateral jsonb_to_record(e.value) as m (name text, task_type text, payload jsonb, run_at timestamptz,
            max_attempts integer, priority integer, dedupe_key text, concurrency_key text, after text[],
            after_jobs uuid[], needs text)
        order by e.place);
exception when data_exception then
    raise exception using errcode = 'JD001', message = format(
        'A member of the flow cannot be read (%s). Nothing was enqueued.', sqlerrm);
end
$$;

create or replace function job_flow_refuse_given(p_given job_flow_given[]) returns void
language plpgsql stable
set search_path from current
as $$
declare
    v_refusal text;
begin
    select r.words into v_refusal from unnest(p_given) g cross join lateral (
        select case
            when coalesce(trim(g.name), '') = '' then format('The member at place %s has no name.', g.place)
            when octet_length(g.name) > 200 then format('The name of the member at place %s is longer than 200 bytes.',
                g.place)
            when coalesce(trim(g.task_type), '') = '' then format('The member %s has no task type.', g.name)
            when jsonb_typeof(g.payload) <> 'object' then format('The payload of the member %s is no JSON object.', g.name)
            when g.priority not between -100 and 100 then format(
                'The priority of the member %s is not between -100 and 100.', g.name)
            when not job_is_a_time(g.run_at) then format(
                'The due time of the member %s is not between the years 1 and 9999.', g.name)
            when octet_length(g.dedupe_key) > 1000 or octet_length(g.concurrency_key) > 1000 then
                coalesce(job_refused_key(g.dedupe_key), job_refused_key(g.concurrency_key))
            when g.needs not in ('success', 'end', 'failure') then format(
                'The member %s needs "%s" of those that it waits for. It can need their success, end or failure.', g.name,
                left(g.needs, 50))
            when g.needs <> 'success' and cardinality(g.after) + cardinality(g.after_jobs) = 0 then format(
                'The member %s waits for no other, so there is no %s that it could need.', g.name, g.needs)
        end as words) r
    where r.words is not null order by g.place limit 1;
    if not found then
        select format('Two members are named %s.', g.name) into v_refusal from unnest(p_given) g
        group by g.name having count(*) > 1 order by min(g.place) limit 1;
    end if;
    if not found and (
        select sum(cardinality(g.after) + cardinality(g.after_jobs)) from unnest(p_given) g) > 50000
    then
        v_refusal := 'The members of a flow wait for each other 50,000 times at most. Put one member between many that '
            'wait for the same many others.';
    end if;
    if v_refusal is not null then
        perform job_queue_refuse(v_refusal || ' Nothing was enqueued.');
    end if;
end
$$;

-- Refuses members that wait for what is not there or cannot succeed, and each circle: a member waits for earlier ones only.
create or replace function job_flow_refuse_links(p_given job_flow_given[]) returns void
language plpgsql stable
set search_path from current set enable_nestloop = off set jit = off
as $$
declare
    v_refusal text;
begin
    select case
        when b.id is null then format('The member %s waits for %s, which is no member of this flow.', g.name, a.name)
        when b.place = g.place then format('The member %s waits for itself.', g.name)
        else format('The member %s waits for %s, which comes after it. List each member after those that it waits for; '
            'members that wait for each other in a circle can never run.', g.name, a.name) end
    into v_refusal
    from unnest(p_given) g cross join lateral unnest(g.after) a (name) left join unnest(p_given) b on b.name = a.name
    where b.id is null or b.place >= g.place
    order by g.place limit 1;
    if not found then
        select case
            when o.words is null then format('The member %s waits for job %s, which is recurring, so that it has no end.',
                o.name, o.id)
            else format('The member %s waits for job %s, which %s. Retry that job first, or leave it out.', o.name, o.id,
                o.words) end
        into v_refusal
        from (
            select g.name, a.id, g.place, case
                when q.is_recurring then null
                when q.id is null and f.outcome = 'deleted' then 'is not in the queue'
                when g.needs = 'success' and f.outcome in ('failed', 'cancelled') then 'is ' || f.outcome
                else '' end as words
            from unnest(p_given) g cross join lateral unnest(g.after_jobs) a (id)
            left join job_queue q on q.id = a.id cross join lateral (select job_flow_outcome(a.id) as outcome) f
        ) o
        where o.words is distinct from '' order by o.place limit 1;
    end if;
    if v_refusal is not null then
        perform job_queue_refuse(v_refusal || ' Nothing was enqueued.');
    end if;
end
$$;

-- Whom the given members wait for, with the outcomes of those that are in the queue already or were.
create or replace function job_flow_link(p_given job_flow_given[]) returns job_dependencies[]
language sql stable
set search_path from current set enable_nestloop = off set jit = off
as $$
    select array(
        select distinct row(g.id, b.id, g.needs, null)::job_dependencies
        from unnest(p_given) g cross join lateral unnest(g.after) a (name) join unnest(p_given) b on b.name = a.name)
    || array(
        select distinct row(g.id, a.id, g.needs, job_flow_outcome(a.id))::job_dependencies
        from unnest(p_given) g cross join lateral unnest(g.after_jobs) a (id))
$$;

-- Enqueues the members, whose links were checked.
create or replace function job_flow_insert(
    p_flow uuid, p_given job_flow_given[], p_links job_dependencies[], p_added_by uuid, p_actor text
) returns void
language plpgsql volatile
set search_path from current set jit = off
as $$
declare
    v_ruled constant boolean := exists (select from job_types t where t.concurrency is not null
        and t.task_type in (select g.task_type from unnest(p_given) g));
    v_blockers uuid[];
    v_keys text[];
    v_lines text[];
    v_types text[];
    v_priorities integer[];
    v_run_at timestamptz[];
    v_in_line boolean[];
    v_name text;
    v_judged record;
begin
    select array_agg(coalesce(g.concurrency_key, case when v_ruled then job_key_of(g.task_type, g.payload) end)
            order by g.place),
        array_agg(l.blocker_id order by g.place)
    into v_keys, v_blockers
    from unnest(p_given) g left join (
        select distinct on (l.job_id) l.job_id, l.blocker_id from unnest(p_links) l
        where l.outcome is null order by l.job_id, l.blocker_id desc) l on l.job_id = g.id;
    if exists (select from unnest(v_keys) k where k is not null) then
        select array_agg(case when k.blocker is null then k.key end order by k.place),
            array_agg(g.task_type order by k.place), array_agg(g.priority order by k.place),
            array_agg(g.run_at order by k.place)
        into v_lines, v_types, v_priorities, v_run_at
        from unnest(v_keys, v_blockers) with ordinality as k (key, blocker, place) join unnest(p_given) g using (place);
        if exists (select from job_types t where t.max_per_key > 1 and t.task_type = any (v_types)) then
            v_in_line := job_key_join_lines(v_lines, v_types, v_priorities, v_run_at);
        else
            v_in_line := job_queue_join_lines(v_lines, v_priorities, v_run_at);
        end if;
        perform job_queue_ask_recheck(array(
            select l.key from unnest(v_keys, v_in_line) as l (key, in_line) where l.in_line), null);
    end if;
    insert into job_queue (id, task_type, payload, run_at, max_attempts, priority, dedupe_key, concurrency_key, in_line,
        blocked_by, expires_at, created_by)
    select g.id, g.task_type, g.payload, g.run_at, g.max_attempts, g.priority, g.dedupe_key, k.key,
        case when k.blocker is null then coalesce(k.in_line, false) else k.key is not null end, k.blocker,
        g.run_at + make_interval(secs => t.max_age_seconds), job_actor(p_actor)
    from unnest(p_given) g
    join unnest(v_keys, v_in_line, v_blockers) with ordinality as k (key, in_line, blocker, place) using (place)
    left join job_types t on t.task_type = g.task_type
    order by g.dedupe_key, g.place;
    insert into job_flow_members (job_id, flow_id, name, task_type, needs, added_by)
    select g.id, p_flow, g.name, g.task_type, g.needs, p_added_by from unnest(p_given) g order by g.place;
    insert into job_dependencies select l.* from unnest(p_links) l;
    perform job_queue_ask_recheck(null, array(
        select l.blocker_id from unnest(p_links) l where l.outcome is null and l.needs = 'success'
            and not exists (select from unnest(p_given) g where g.id = l.blocker_id)));
    -- Those whose blockers have all ended already.
    v_judged := job_flow_judge(array(
        select l.job_id from unnest(p_links) l group by l.job_id having bool_and(l.outcome is not null)));
    perform job_queue_advance_lines(v_judged.keys);
    perform job_queue_release_waiting('{}', v_judged.cancelled, 'was cancelled');
exception when unique_violation then
    select g.name into v_name from unnest(p_given) g
    where g.dedupe_key is not null and job_queue_holder(g.dedupe_key) is not null order by g.place limit 1;
    perform job_queue_refuse(case when v_name is null then 'Two members have the same dedupe key.'
        else format('A job with the dedupe key of the member %s is already pending or running.', v_name) end
        || ' Nothing was enqueued.');
end
$$;

-- Enqueues a flow, all of its members or none, and returns their ids. p_members is a list of objects with: name, task_type,
-- and optionally payload, run_at, max_attempts, priority, dedupe_key, concurrency_key, after (names of earlier members that
-- it waits for), after_jobs (ids of other jobs), needs (success, end or failure). It waits for keys like job_queue_create.
create or replace function job_flow_create(p_name text, p_members jsonb, p_actor text)
returns table (flow_id uuid, name text, job_id uuid)
language plpgsql volatile security definer
set search_path from current set lock_timeout = '1500ms'
as $$
declare
    v_given job_flow_given[];
    v_flow constant uuid := encode(overlay(uuid_send(gen_random_uuid()) placing decode(overlay('0' || to_hex((date_part(
        'epoch', clock_timestamp()) * 1000 * 4096)::bigint) placing '7' from 13 for 0), 'hex') from 1 for 8), 'hex')::uuid;
begin
    perform job_refuse_outsiders();
    v_given := job_flow_given_of(p_members);
    if coalesce(trim(p_name), '') = '' or octet_length(p_name) > 200 then
        perform job_queue_refuse('A flow needs a name of up to 200 bytes. Nothing was enqueued.');
    end if;
    perform job_flow_refuse_given(v_given);
    perform job_flow_refuse_links(v_given);
    insert into job_flows (id, name, created_by) values (v_flow, p_name, job_actor(p_actor));
    perform job_flow_insert(v_flow, v_given, job_flow_link(v_given), null, p_actor);
    return query select v_flow, g.name, g.id from unnest(v_given) g order by g.place;
end
$$;

-- Adds members to the flow of a running job, for its run alone: what waits for the job also waits for them. `after` names
-- members of this list. A member that an earlier attempt of the job has added under the same name is returned again. The row
-- of the job is locked until the commit, so that the run is not taken back before it.
create or replace function job_flow_add(p_job uuid, p_token bigint, p_members jsonb, p_actor text)
returns table (flow_id uuid, name text, job_id uuid)
language plpgsql volatile security definer
set search_path from current set lock_timeout = '1500ms' set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
declare
    v_given job_flow_given[];
    v_new job_flow_given[];
    v_flow constant uuid := (select m.flow_id from job_flow_members m where m.job_id = p_job);
    v_asked timestamptz;
    v_waiting uuid[];
    v_name text;
begin
    perform job_refuse_outsiders();
    v_given := job_flow_given_of(p_members);
    -- The order of these locks is that of job_flow_cancel.
    perform from job_flows f where f.id = v_flow for no key update;
    if not found then
        perform job_queue_refuse(format('Job %s is in no flow, so its run cannot add members. Nothing was enqueued.', p_job));
    end if;
    select q.cancel_requested_at into v_asked from job_queue q
    where q.id = p_job and q.run_token = p_token and q.status = 'running' for key share;
    if not found then
        perform job_queue_refuse(format('The run of job %s was taken back, so its flow gets no members of it. Nothing was '
            'enqueued.', p_job));
    elsif v_asked is not null then
        perform job_queue_refuse(format('Job %s was asked to cancel, so its flow gets no more members. Nothing was '
            'enqueued.', p_job));
    end if;
    perform job_flow_refuse_given(v_given);
    select g.name into v_name from unnest(v_given) g where cardinality(g.after_jobs) > 0 limit 1;
    if found then
        perform job_queue_refuse(format('The member %s waits for a job outside the list. A member that a run adds waits '
            'for others of the list alone. Nothing was enqueued.', v_name));
    end if;
    perform job_flow_refuse_links(v_given);
    select m.name into v_name from job_flow_members m join unnest(v_given) g on g.name = m.name
    where m.flow_id = v_flow and m.added_by is distinct from p_job limit 1;
    if found then
        perform job_queue_refuse(format('The flow has another member named %s already. Nothing was enqueued.', v_name));
    end if;
    v_given := array(
        select row(g.place, coalesce(m.job_id, g.id), g.name, g.task_type, g.payload, g.run_at, g.max_attempts, g.priority,
            g.dedupe_key, g.concurrency_key, g.after, g.after_jobs, g.needs)::job_flow_given
        from unnest(v_given) g left join job_flow_members m on m.flow_id = v_flow and m.name = g.name order by g.place);
    select array_agg(row(row_number, g.id, g.name, g.task_type, g.payload, g.run_at, g.max_attempts, g.priority,
        g.dedupe_key, g.concurrency_key, g.after, g.after_jobs, g.needs)::job_flow_given order by row_number)
    into v_new
    from (select row_number() over (order by n.place), n.* from unnest(v_given) n
        where not exists (select from job_flow_members m where m.job_id = n.id)) g;
    if (select count(*) from job_flow_members m where m.flow_id = v_flow) + coalesce(cardinality(v_new), 0) > 10000 then
        perform job_queue_refuse('A flow has 10,000 members at most. Nothing was enqueued.');
    end if;
    if v_new is not null then
        -- One that has begun does not wait again, and gets the same outcomes in each of its runs.
        v_waiting := array(
            select q.id from job_queue q where q.id in (select d.job_id from job_dependencies d where d.blocker_id = p_job)
                and (q.status = 'pending' and q.attempts = 0 or q.status in ('failed', 'cancelled'))
            order by q.id for update)
            || array(select t.job_id from job_dependencies d join job_trash t on t.job_id = d.job_id
                where d.blocker_id = p_job);
        perform job_flow_insert(v_flow, v_new, array(
            select row(l.job_id, l.blocker_id, l.needs, case when n.id is null then job_flow_outcome(l.blocker_id) end)
                ::job_dependencies
            from unnest(job_flow_link(v_given)) l left join unnest(v_new) n on n.id = l.blocker_id
            where l.job_id in (select o.id from unnest(v_new) o)), p_job, p_actor);
        insert into job_dependencies (job_id, blocker_id, needs)
        select m.job_id, n.id, m.needs from job_flow_members m cross join unnest(v_new) n where m.job_id = any (v_waiting)
        on conflict do nothing;
    end if;
    return query select v_flow, g.name, g.id from unnest(v_given) g order by g.place;
end
$$;

-- Cancels all members of a flow that wait, and asks those that run. Members that another transaction has locked for long make
-- it refuse, because a flow is cancelled as a whole. Returns how many were cancelled, were asked, and had ended before.
create or replace function job_flow_cancel(
    p_flow uuid, p_actor text, p_reason text, p_dry_run boolean, out cancelled bigint, out asked bigint, out ended bigint
)
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off set lock_timeout = '900ms'
as $$
declare
    v_now timestamptz;
    v_jobs uuid[];
    v_open job_queue[];
    v_keys text[];
begin
    perform job_refuse_outsiders();
    perform from job_flows f where f.id = p_flow for no key update;
    if not found then
        perform job_queue_refuse(format('There is no flow %s. "jobdeck flow" lists them.', p_flow));
    end if;
    v_jobs := array(select m.job_id from job_flow_members m where m.flow_id = p_flow);
    if cardinality(job_queue_lock_jobs(v_jobs)) < cardinality(v_jobs) then
        perform job_queue_refuse('Another session has locked members of this flow. Nothing was cancelled; try again.');
    end if;
    v_open := array(select q from job_queue q where q.id = any (v_jobs) and (
        q.status = 'pending' or q.status = 'running' and q.cancel_requested_at is null));
    cancelled := (select count(*) from unnest(v_open) o where o.status = 'pending');
    asked := cardinality(v_open) - cancelled;
    ended := cardinality(v_jobs) - (
        select count(*) from job_queue q where q.id = any (v_jobs) and q.status in ('pending', 'running'));
    if p_dry_run or cardinality(v_open) = 0 then
        return;
    end if;
    v_now := clock_timestamp();
    with changed as (
        update job_queue q set
            status = case when q.status = 'pending' then 'cancelled' else q.status end,
            completed_at = case when q.status = 'pending' then v_now end,
            last_outcome = case when q.status = 'pending' then 'cancelled' else q.last_outcome end,
            cancel_requested_at = case when q.status = 'running' then v_now end,
            cancel_requested_by = case when q.status = 'running' then job_actor(p_actor) end,
            in_line = false, updated_at = v_now, version = q.version + 1
        where q.id in (select o.id from unnest(v_open) o)
        returning q.id, q.concurrency_key, q.status, job_audit_facts(q) as facts
    ), noted as (
        insert into job_audit (actor, action, job_id, before, after, reason)
        select job_actor(p_actor), 'cancel', c.id, job_audit_facts(o), c.facts, coalesce(p_reason, 'with its flow')
        from changed c join unnest(v_open) o on o.id = c.id order by c.id
    )
    select array_agg(c.concurrency_key) filter (where c.status = 'cancelled') into v_keys from changed c;
    perform job_queue_release_waiting('{}', array(select o.id from unnest(v_open) o where o.status = 'pending'),
        'was cancelled');
    perform job_queue_advance_lines(v_keys);
    perform pg_notify(current_schema() || '.job_queue', 'cancel');
end
$$;

-- How the jobs ended that a job waited for, with the outputs of those that succeeded; in the order of their ids.
create or replace function job_flow_outcomes(p_job uuid)
returns table (name text, job_id uuid, task_type text, outcome text, output jsonb, error text)
language plpgsql stable security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
#variable_conflict use_column
begin
    perform job_refuse_outsiders();
    return query
    select coalesce(m.name, d.blocker_id::text), d.blocker_id, coalesce(m.task_type, r.task_type, q.task_type), d.outcome,
        case when d.outcome in ('succeeded', 'partial') then r.output end,
        case when d.outcome not in ('succeeded', 'partial') then coalesce(q.last_error, r.error) end
    from job_dependencies d
    left join job_flow_members m on m.job_id = d.blocker_id
    left join job_queue q on q.id = d.blocker_id
    left join lateral (
        select n.task_type, n.output, n.error from job_runs n where n.job_id = d.blocker_id and not n.late
        order by n.run_token desc limit 1) r on true
    where d.job_id = p_job order by d.blocker_id;
end
$$;

-- Stores the outcomes of blockers that left the queue with success, before the history loses the runs that say so.
create or replace function job_flow_keep_outcomes(p_before timestamptz, p_limit integer) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
begin
    if exists (select from job_dependencies d where d.outcome is null) then
        update job_dependencies d set outcome = r.outcome from (
            select o.job_id, o.outcome, o.finished_at from job_runs o where o.removed order by o.run_token limit p_limit) r
        where d.blocker_id = r.job_id and d.outcome is null and r.finished_at < p_before;
    end if;
end
$$;

-- Removes flows from before p_before of which no member is in the queue or in the trash. Returns p_limit if there may be more.
create or replace function job_flow_retain(p_before timestamptz, p_limit integer) returns bigint
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_most constant integer := 100;
    v_old constant uuid[] := array(
        select f.id from job_flows f where f.created_at < p_before and not exists (
            select from job_flow_members m where m.flow_id = f.id and (
                exists (select from job_queue q where q.id = m.job_id)
                or exists (select from job_trash t where t.job_id = m.job_id)))
        order by f.created_at limit v_most for update skip locked);
begin
    delete from job_dependencies d using job_flow_members m where m.flow_id = any (v_old) and d.job_id = m.job_id;
    delete from job_flow_members m where m.flow_id = any (v_old);
    delete from job_flows f where f.id = any (v_old);
    return case when cardinality(v_old) = v_most then p_limit else cardinality(v_old) end;
end
$$;

create or replace view job_flow_list as
select f.id, f.name, f.created_at, f.created_by from job_flows f
where (select job_may_read_views())
with check option;

-- The members with their state: `blocked`, the status of the job in the queue, `succeeded` of one that left it with success,
-- `deleted`, or `gone` when nothing is stored of it any more.
create or replace view job_flow_member_list as
select m.flow_id, m.job_id, m.name, m.task_type, m.needs, m.added_by, m.set_aside, case
        when q.status = 'pending' and q.blocked_by is not null then 'blocked'
        when q.status is not null then q.status
        when r.outcome is not null then 'succeeded'
        when t.job_id is not null then 'deleted'
        else 'gone' end as state,
    coalesce(q.last_outcome, r.outcome) as last_outcome, q.last_error, coalesce(q.attempts, r.attempt) as attempts,
    coalesce(q.completed_at, r.finished_at) as ended_at
from job_flow_members m
left join job_queue q on q.id = m.job_id
left join lateral (
    select n.outcome, n.attempt, n.finished_at from job_runs n
    where n.job_id = m.job_id and n.removed and q.id is null limit 1) r on true
left join job_trash t on t.job_id = m.job_id
where (select job_may_read_views());

create or replace view job_dependency_list as
select d.job_id, d.blocker_id, d.needs, d.outcome from job_dependencies d
where (select job_may_read_views())
with check option;

-------------------------------------------------------------------------------------------------------
-- 14. Schedules
--
-- A program parses cron expressions, the database keeps the slots that it found: the functions above take the next of
-- them. Workers write more before they are used up. When they are, the job is due at job_no_slot(), so that no claim takes
-- it, until a worker has written more.
-------------------------------------------------------------------------------------------------------

-- Enqueues a series like job_queue_create. p_schedule has `seconds`, or `cron` with its `zone`; `catch_up` ("one", "all" or
-- "none") and `name` are optional. Without slots, the next worker writes those of the expression. A cron series is due at
-- its first slot from p_run_at on (null: after now).
create or replace function job_series_create(
    p_task_type text, p_payload jsonb, p_schedule jsonb, p_slots timestamptz[], p_run_at timestamptz,
    p_max_attempts integer, p_priority integer, p_dedupe_key text, p_concurrency_key text, p_blocked_by uuid,
    p_expires_at timestamptz, p_actor text, out job_id uuid, out created boolean
)
language plpgsql volatile security definer
set search_path from current set lock_timeout = '1500ms'
as $$
declare
    v_seconds constant bigint := case when p_schedule ->> 'seconds' ~ '^[0-9]{1,10}$' then p_schedule ->> 'seconds' end;
    v_minutes constant integer := case when v_seconds % 60 = 0 then v_seconds / 60 end;
    v_schedule jsonb := jsonb_strip_nulls(jsonb_build_object('cron', p_schedule -> 'cron', 'zone', p_schedule -> 'zone',
        'seconds', case when v_minutes is null then v_seconds end,
        'catch_up', nullif(p_schedule -> 'catch_up', '"one"'), 'name', p_schedule -> 'name'));
    v_slots constant timestamptz[] := case when v_schedule ? 'cron' then coalesce(p_slots, '{}') end;
    v_first uuid;
begin
    perform job_refuse_outsiders();
    if v_seconds not between 1 and 3155760000 then
        perform job_queue_refuse('The interval of a recurring job must be between 1 second and 100 years.');
    elsif v_seconds > 999999999 and v_minutes is null then
        perform job_queue_refuse('An interval of more than 31 years must be whole minutes.');
    elsif not coalesce(job_schedule_fits(true, v_minutes, v_schedule, v_slots), false)
        or (p_schedule ? 'seconds') <> (v_seconds is not null) or octet_length(v_schedule::text) > 1000
    then
        perform job_queue_refuse('A schedule has either seconds, or a cron expression with its zone; its catch_up is one, '
            'all or none. Nothing was enqueued.');
    elsif array_length(v_slots, 1) > 1100 or exists (select from unnest(v_slots) s where s is null or not job_is_a_time(s))
    then
        perform job_queue_refuse('A series has at most 1,100 slots, between the years 1 and 9999. Nothing was enqueued.');
    end if;
    if p_dedupe_key is null then
        select q.id into v_first from job_queue q
        where q.is_recurring and q.status in ('pending', 'running') and q.task_type = p_task_type
            and q.payload = p_payload and q.recurrence_interval_minutes is not distinct from v_minutes
            and q.schedule ->> 'seconds' is not distinct from v_schedule ->> 'seconds'
            and q.schedule ->> 'cron' is not distinct from v_schedule ->> 'cron'
            and q.schedule ->> 'zone' is not distinct from v_schedule ->> 'zone'
            and (q.expires_at is null or q.expires_at > now())
        order by q.created_at, q.id limit 1;
        if found then
            perform job_queue_refuse(format('Job %s is a series of %s with the same payload and schedule. A dedupe key '
                'allows both. Nothing was enqueued.', v_first, p_task_type));
        end if;
    end if;
    select c.job_id, c.created into job_id, created from job_queue_create(p_task_type, p_payload,
        -- A time that is none is refused there.
        case when v_slots is not null and job_is_a_time(p_run_at)
            then job_first_slot(v_slots, coalesce(p_run_at - interval '1 microsecond', now())) else p_run_at end,
        p_max_attempts, p_priority, p_dedupe_key, p_concurrency_key, p_blocked_by, null, p_expires_at, p_actor) c;
    if created then
        update job_queue q set is_recurring = true, recurrence_interval_minutes = v_minutes,
            schedule = nullif(v_schedule, '{}'), slots = v_slots, anchor_at = q.run_at,
            -- The maximum age of the type is one of one-time jobs.
            expires_at = p_expires_at
        where q.id = job_id;
    end if;
end
$$;

-- Puts off series without catch-up whose slot no worker took within a minute, to their next slot, which may be due. Retries
-- and runs that somebody asked for are not missed slots.
create or replace function job_series_pass_missed(p_now timestamptz) returns void
language plpgsql volatile
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_keys text[];
begin
    with missed as (
        select q.id from job_queue q
        where q.status = 'pending' and q.blocked_by is null and q.slot_at is null
            and q.schedule ->> 'catch_up' = 'none' and q.run_at <= p_now - interval '1 minute'
        order by q.id for update skip locked
    ), passed as (
        update job_queue q set
            run_at = job_series_slot(q.recurrence_interval_minutes, q.schedule, q.slots, coalesce(q.anchor_at, q.run_at),
                p_now - interval '1 minute'),
            attempts = 0, anchor_at = coalesce(q.anchor_at, q.run_at), in_line = q.concurrency_key is not null,
            updated_at = p_now, version = q.version + 1
        from missed m where q.id = m.id
        returning q.concurrency_key
    )
    select array_agg(distinct concurrency_key) filter (where concurrency_key is not null) into v_keys from passed;
    perform job_queue_advance_lines(v_keys);
end
$$;

-- The cron series that have fewer than ten slots left, or all of them, and the time after which each needs slots. A series
-- that makes up all slots needs those since the last that it served; one that ran out, those since then. When all are
-- written again, the slot that is next is among them, wherever the zone's rules have moved it.
create or replace function job_series_short(p_all boolean, p_limit integer)
returns table (job_id uuid, cron text, zone text, after timestamptz, at timestamptz)
language plpgsql stable security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
begin
    perform job_refuse_outsiders();
    return query
    select q.id, q.schedule ->> 'cron', q.schedule ->> 'zone', case
            when job_series_runs_all(q.schedule) and q.blocked_by is distinct from q.id
                then coalesce(q.slot_at, case when q.run_at < job_no_slot() then q.run_at end,
                    (select max(s) from unnest(q.slots) s), q.updated_at)
            when q.run_at >= job_no_slot() then q.updated_at
            else greatest(v_now - interval '1 minute', q.run_at - case when p_all then interval '25 hours' else '0' end)
        end, v_now
    from job_queue q
    where q.slots is not null and q.status in ('pending', 'running')
        and (p_all or coalesce(q.slots[cardinality(q.slots) - 9], '-infinity') <= v_now)
    order by coalesce(q.slots[cardinality(q.slots) - 9], '-infinity') limit p_limit;
end
$$;

-- Writes the slots of a series after a time, if it still has this expression and zone. A series that had run out is due at
-- the first of them, and one whose next slot the zone's rules have moved, where it is now. Without slots, p_trouble says
-- why there are none. A series that another transaction has locked is left out.
create or replace function job_series_fill(
    p_id uuid, p_cron text, p_zone text, p_after timestamptz, p_slots timestamptz[], p_trouble text
) returns boolean
language plpgsql volatile security definer
set search_path from current set enable_seqscan = off set jit = off
as $$
declare
    v_now constant timestamptz := clock_timestamp();
    v_job job_queue;
    v_run_at timestamptz;
begin
    perform job_refuse_outsiders();
    select * into v_job from job_queue q
    where q.id = p_id and q.status in ('pending', 'running') and q.schedule ->> 'cron' = p_cron
        and q.schedule ->> 'zone' = p_zone
    for update skip locked;
    if v_job.id is null or p_slots is null and v_job.last_error is not distinct from p_trouble then
        return false;
    end if;
    if p_slots is null then
        update job_queue q set last_error = p_trouble, version = q.version + 1 where q.id = p_id;
        return true;
    end if;
    v_run_at := case
        when v_job.status <> 'pending' then v_job.run_at
        -- It may have run since its slots were looked for.
        when v_job.run_at >= job_no_slot() then job_first_slot(p_slots, case
            when job_series_runs_all(v_job.schedule) then p_after
            else greatest(p_after, v_job.updated_at,
                case when v_job.schedule ->> 'catch_up' = 'none' then v_now - interval '1 minute' end) end)
        when v_job.slot_at is null and v_job.run_at > v_now and v_job.run_at = any (v_job.slots)
            and v_job.run_at <> all (p_slots) and v_job.run_at > p_after
            and v_job.run_at < (select max(s) from unnest(p_slots) s)
            then coalesce((select s from unnest(p_slots) s where s > v_now
                order by greatest(s - v_job.run_at, v_job.run_at - s), s limit 1), v_job.run_at)
        else v_job.run_at end;
    if v_run_at = v_job.run_at then
        update job_queue q set slots = p_slots where q.id = p_id and q.slots <> p_slots;
        return found;
    end if;
    update job_queue q set slots = p_slots, run_at = v_run_at, in_line = q.concurrency_key is not null,
        updated_at = v_now, version = q.version + 1
    where q.id = p_id;
    perform job_queue_advance_lines(array[v_job.concurrency_key]);
    perform pg_notify(current_schema() || '.job_queue', '');
    return true;
end
$$;

-- Makes the series that a program declares for its task types those of the queue: creates, changes and cancels them.
-- p_wanted has an object for each: name, task_type, payload, schedule, slots, max_attempts, concurrency_key. Returns the
-- names that are left for the next call, because their job runs, is locked, or another job has their dedupe key.
create or replace function job_series_declare(p_types text[], p_wanted jsonb, p_actor text) returns text[]
language plpgsql volatile security definer
set search_path from current set lock_timeout = '1500ms'
as $$
declare
    v_left text[] := '{}';
    v_name text;
    v_one record;
    v_job job_queue;
    v_minutes integer;
    v_schedule jsonb;
    v_moved boolean;
begin
    perform job_refuse_outsiders();
    -- Another worker may enqueue the same series now, which this waits for: before it holds the lock of any row.
    perform job_series_create(w.task_type, w.payload, w.schedule || jsonb_build_object('name', w.name), w.slots, null,
        w.max_attempts, 0, 'schedule:' || w.name, w.concurrency_key, null, null, p_actor)
    from (
        select * from jsonb_to_recordset(p_wanted) as w (name text, task_type text, payload jsonb, schedule jsonb,
            slots timestamptz[], max_attempts integer, concurrency_key text)
        order by w.name
    ) w
    where job_queue_holder('schedule:' || w.name) is null;
    for v_one in
        select * from jsonb_to_recordset(p_wanted) as w (name text, task_type text, payload jsonb, schedule jsonb,
            slots timestamptz[], max_attempts integer, concurrency_key text)
        order by w.name
    loop
        select * into v_job from job_queue q
        where q.dedupe_key = 'schedule:' || v_one.name and q.status in ('pending', 'running') for update skip locked;
        if v_job.id is null then
            v_left := v_left || v_one.name;
            continue;
        end if;
        v_minutes := case when (v_one.schedule ->> 'seconds')::bigint % 60 = 0
            then (v_one.schedule ->> 'seconds')::bigint / 60 end;
        v_schedule := jsonb_strip_nulls(case when v_minutes is null then v_one.schedule else v_one.schedule - 'seconds' end
            || jsonb_build_object('name', v_one.name, 'catch_up', nullif(v_one.schedule -> 'catch_up', '"one"')));
        continue when v_job.schedule = v_schedule and v_job.recurrence_interval_minutes is not distinct from v_minutes
            and v_job.payload = v_one.payload and v_job.max_attempts = v_one.max_attempts
            and v_job.concurrency_key is not distinct from v_one.concurrency_key;
        if v_job.status = 'running' or v_job.schedule ->> 'name' is distinct from v_one.name then
            v_left := v_left || v_one.name;
            continue;
        end if;
        v_moved := v_job.recurrence_interval_minutes is distinct from v_minutes
            or v_job.schedule - 'catch_up' <> v_schedule - 'catch_up';
        update job_queue q set
            payload = v_one.payload, max_attempts = v_one.max_attempts, concurrency_key = v_one.concurrency_key,
            recurrence_interval_minutes = v_minutes, schedule = v_schedule,
            slots = case when v_schedule ? 'cron' then v_one.slots end,
            run_at = case
                when not v_moved then q.run_at
                when v_schedule ? 'cron' then job_first_slot(v_one.slots, clock_timestamp())
                else job_series_slot(v_minutes, v_schedule, null, coalesce(q.anchor_at, q.run_at), clock_timestamp()) end,
            -- The slots of another expression may be before the one that was skipped.
            anchor_at = case when not (v_moved and v_schedule ? 'cron') then q.anchor_at end,
            slot_at = case when not v_moved then q.slot_at end, attempts = case when v_moved then 0 else q.attempts end,
            in_line = v_one.concurrency_key is not null, updated_at = clock_timestamp(), version = q.version + 1
        where q.id = v_job.id;
        perform job_queue_advance_lines(array[v_job.concurrency_key, v_one.concurrency_key]);
        perform job_queue_write_audit(p_actor, 'edit', v_job.id, job_audit_facts(v_job), v_schedule,
            'Its declaration in the code has changed.');
    end loop;
    for v_job in
        select q.* from job_queue q
        where q.is_recurring and q.status in ('pending', 'running') and q.schedule ? 'name'
            and q.task_type = any (p_types)
            and q.schedule ->> 'name' not in (select w ->> 'name' from jsonb_array_elements(p_wanted) w)
        order by q.id for update skip locked
    loop
        v_name := v_job.schedule ->> 'name';
        if v_job.status = 'running' then
            v_left := v_left || v_name;
            continue;
        end if;
        perform job_queue_make_cancelled(v_job, p_actor);
        update job_queue q set last_error = 'The code that runs now does not declare this series.' where q.id = v_job.id;
        perform job_queue_write_audit(p_actor, 'cancel', v_job.id, job_audit_facts(v_job), null,
            'The code does not declare it any more.');
    end loop;
    return v_left;
end
$$;

-------------------------------------------------------------------------------------------------------
-- 15. Producers that enqueue over HTTP, and jobs whose result somebody waits for
-------------------------------------------------------------------------------------------------------

-- The producers. Of the token, only the SHA-256 is stored. `level` is how many jobs the producer may enqueue at `level_at`;
-- it rises by `jobs` in `per_seconds`, up to `jobs`.
create table if not exists job_producers (
    name text primary key,
    token_hash bytea not null unique,
    task_types text[] not null,
    jobs integer not null,
    per_seconds integer not null,
    level double precision not null,
    level_at timestamptz not null default clock_timestamp(),
    used_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    created_by text not null
) with (fillfactor = 50);

-- The idempotency keys of producers' requests. Keys and bodies may name people, so that only their SHA-256 are stored.
create table if not exists job_producer_keys (
    producer text not null,
    key_hash bytea not null,
    body_hash bytea not null,
    job_ids uuid[] not null,
    at timestamptz not null default clock_timestamp(),
    primary key (producer, key_hash)
);
create index if not exists job_producer_keys_at on job_producer_keys (at);
insert into job_retention (name, part, default_days) values ('job_producer_keys', 'retention', 7)
on conflict (name) do update set part = excluded.part, default_days = excluded.default_days;

-- Creates a producer, or with p_replace gives an existing one another token, list of types and rate. Only the owner may.
create or replace function job_producer_add(
    p_name text, p_token_hash bytea, p_task_types text[], p_jobs integer, p_per_seconds integer, p_replace boolean,
    p_actor text
) returns void
language plpgsql volatile
set search_path from current
as $$
declare
    v_before jsonb;
begin
    if p_name !~ '^[a-z0-9][a-z0-9._-]{0,62}$' then
        perform job_queue_refuse('The name of a producer has 1 to 63 characters: small letters, digits, ".", "_" and "-", '
            'and begins with a letter or digit. Nothing was changed.');
    elsif coalesce(cardinality(p_task_types), 0) not between 1 and 200
        or exists (select from unnest(p_task_types) t where t is null or trim(t) = '' or length(t) > 200)
    then
        perform job_queue_refuse('A producer needs 1 to 200 task types. Nothing was changed.');
    elsif p_jobs not between 1 and 1000000 or p_per_seconds not between 1 and 86400 then
        perform job_queue_refuse('A rate is 1 to 1,000,000 jobs in a second, minute, hour or day. Nothing was changed.');
    end if;
    select jsonb_build_object('name', p.name, 'types', p.task_types, 'jobs', p.jobs, 'perSeconds', p.per_seconds)
    into v_before from job_producers p where p.name = p_name for update;
    if found and not p_replace then
        perform job_queue_refuse(format('There is a producer %s already. Choose another name, or replace its token, types '
            'and rate with --replace. Nothing was changed.', p_name));
    elsif not found and p_replace then
        perform job_queue_refuse(format('There is no producer %s. `jobdeck producers list` shows them.', p_name));
    end if;
    insert into job_producers as p (name, token_hash, task_types, jobs, per_seconds, level, created_by)
    values (p_name, p_token_hash, p_task_types, p_jobs, p_per_seconds, p_jobs, job_actor(p_actor))
    on conflict (name) do update set token_hash = excluded.token_hash, task_types = excluded.task_types,
        jobs = excluded.jobs, per_seconds = excluded.per_seconds, level = least(p.level, excluded.jobs);
    perform job_queue_write_audit(p_actor, case when p_replace then 'replace producer' else 'add producer' end, null,
        v_before, jsonb_build_object('name', p_name, 'types', p_task_types, 'jobs', p_jobs, 'perSeconds', p_per_seconds),
        null);
end
$$;

-- Removes a producer: its token is refused from the next request on. Only the owner may.
create or replace function job_producer_revoke(p_name text, p_actor text) returns void
language plpgsql volatile
set search_path from current
as $$
declare
    v_before jsonb;
begin
    delete from job_producers p where p.name = p_name
    returning jsonb_build_object('name', p.name, 'types', p.task_types, 'jobs', p.jobs, 'perSeconds', p.per_seconds)
    into v_before;
    if not found then
        perform job_queue_refuse(format('There is no producer %s. `jobdeck producers list` shows them.', p_name));
    end if;
    perform job_queue_write_audit(p_actor, 'revoke producer', null, v_before, null, null);
end
$$;

create or replace view job_producer_list as
select p.name, p.task_types, p.jobs, p.per_seconds, p.used_at, p.created_at, p.created_by
from job_producers p where (select job_may_read_views())
with check option;

-- The hashes of all tokens, with which the HTTP server recognises a request before it reads its body.
create or replace function job_producer_hashes() returns setof bytea
language plpgsql stable security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    return query select p.token_hash from job_producers p;
end
$$;

-- Whether a producer may enqueue these jobs now, in the transaction that enqueues them; if it may, they count against its
-- rate. `code` is null then, and otherwise: 'gone', 'type' (which `task_type` names), 'reused' (the key was used for another
-- request), 'known' (`job_ids` are those of the same request), 'never' (more jobs than the rate ever allows at once) or 'rate'
-- (for `seconds`). Requests of one producer come one after the other; it waits for 1.5 seconds at most (SQLSTATE 55P03).
create or replace function job_producer_begin(
    p_token_hash bytea, p_task_types text[], p_key_hash bytea, p_body_hash bytea,
    out code text, out producer text, out task_type text, out job_ids uuid[], out jobs integer, out seconds double precision
)
language plpgsql volatile security definer
set search_path from current set lock_timeout = '1500ms'
as $$
declare
    v_producer job_producers;
    v_asked constant integer := cardinality(p_task_types);
    v_now constant timestamptz := clock_timestamp();
    v_body bytea;
    v_level double precision;
begin
    perform job_refuse_outsiders();
    select * into v_producer from job_producers p where p.token_hash = p_token_hash for update;
    if not found then
        code := 'gone';
        return;
    end if;
    producer := v_producer.name;
    jobs := v_producer.jobs;
    select t into task_type from unnest(p_task_types) t where t <> all (v_producer.task_types) limit 1;
    if found then
        code := 'type';
        return;
    end if;
    if p_key_hash is not null then
        select k.body_hash, k.job_ids into v_body, job_ids from job_producer_keys k
        where k.producer = v_producer.name and k.key_hash = p_key_hash;
        if found then
            code := case when v_body = p_body_hash then 'known' else 'reused' end;
            return;
        end if;
    end if;
    -- A time to come is from before the clock was set back.
    v_level := least(v_producer.jobs, v_producer.level + greatest(0, date_part('epoch', v_now - v_producer.level_at))
        * v_producer.jobs / v_producer.per_seconds);
    if v_asked > v_producer.jobs then
        code := 'never';
    elsif v_asked > v_level then
        code := 'rate';
        seconds := (v_asked - v_level) * v_producer.per_seconds / v_producer.jobs;
    else
        update job_producers p set level = v_level - v_asked, level_at = v_now, used_at = v_now
        where p.name = v_producer.name;
    end if;
end
$$;

-- Stores which jobs a request with an idempotency key has enqueued, in its transaction, after job_producer_begin.
create or replace function job_producer_keep(
    p_token_hash bytea, p_key_hash bytea, p_body_hash bytea, p_job_ids uuid[]
) returns void
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    insert into job_producer_keys (producer, key_hash, body_hash, job_ids)
    select p.name, p_key_hash, p_body_hash, p_job_ids from job_producers p where p.token_hash = p_token_hash;
end
$$;

-- Which sessions wait for the result of which jobs, and until when. Reports of workers notify them (job_queue_finish), and
-- only them; they also poll. The process id keeps two that wait for one job from waiting for each other's rows.
create table if not exists job_awaited (
    job_id uuid not null,
    waiter integer not null,
    until timestamptz not null,
    primary key (job_id, waiter)
);

-- Notes that this session waits for a job that has not ended, for an hour at most.
create or replace function job_queue_await(p_id uuid, p_seconds double precision) returns void
language plpgsql volatile security definer
set search_path from current
as $$
begin
    perform job_refuse_outsiders();
    insert into job_awaited (job_id, waiter, until)
    select q.id, pg_backend_pid(), clock_timestamp() + make_interval(secs => least(p_seconds, 3600))
    from job_queue q where q.id = p_id and q.status in ('pending', 'running') and not q.is_recurring
    on conflict (job_id, waiter) do update set until = excluded.until;
end
$$;

-- Removes the notes whose time is over or whose job has left the queue.
create or replace function job_awaited_clean() returns void
language sql volatile
set search_path from current
as $$
    delete from job_awaited where ctid = any (array(select a.ctid from job_awaited a
        where a.until < clock_timestamp() or not exists (select from job_queue q where q.id = a.job_id)
        limit 5000 for update of a skip locked))
$$;

-------------------------------------------------------------------------------------------------------
-- 16. Who may do what
--
-- The group viewer reads views with redacted payloads; operator reads and acts; worker claims and finishes; producer
-- enqueues and reads nothing. Only the owner writes the queue's tables, and PUBLIC has no rights. Roles belong to the
-- whole server, so their names begin with a prefix, which each queue may choose. job_make_roles creates them
-- ("jobdeck init --roles"); rights are granted to those that exist. An application's own objects in this schema keep
-- their rights, because all names are listed.
-------------------------------------------------------------------------------------------------------

-- Stores the prefix for later installations; null keeps the current one.
create or replace function job_use_roles_prefix(p_prefix text) returns void
language plpgsql
set search_path from current
as $$
begin
    if p_prefix is distinct from job_roles_prefix() and p_prefix is not null then
        execute format('create or replace function job_roles_prefix() returns text language sql immutable return %L',
            p_prefix);
    end if;
end
$$;

drop function if exists job_make_roles();
create or replace function job_make_roles(p_prefix text default null) returns void
language plpgsql
set search_path from current
as $$
declare
    v_role text;
begin
    perform job_use_roles_prefix(p_prefix);
    for v_role in select job_roles_prefix() || t from unnest(array['viewer', 'operator', 'worker', 'producer']) t loop
        if not exists (select from pg_roles where rolname = v_role) then
            execute format('create role %I nologin', v_role);
        end if;
    end loop;
    -- Only the role that granted a membership may grant it again, and another database's owner may have been it.
    if not pg_has_role(job_roles_prefix() || 'operator', job_roles_prefix() || 'viewer', 'member') then
        execute format('grant %I to %I', job_roles_prefix() || 'viewer', job_roles_prefix() || 'operator');
    end if;
end
$$;

drop function if exists job_grant_roles();
-- Grants the queue's groups their rights, then calls NAME_grant_roles() of each plugin, where NAME is its component in
-- jobdeck_schema.
create or replace function job_grant_roles(p_prefix text default null) returns void
language plpgsql
set search_path from current
as $$
declare
    v_schema constant regnamespace := quote_ident(current_schema())::regnamespace;
    v_name text;
    v_object text;
    v_guarded boolean;
    v_table boolean;
    v_foreign boolean;
    v_viewer text;
    v_operator text;
    v_worker text;
    v_producer text;
    -- Roles that get rights on all new objects by the default privileges of some hosts.
    v_outsiders constant text := (select string_agg(quote_ident(rolname), ', ' order by rolname) from pg_roles
        where rolname in ('anon', 'authenticated', 'service_role'));
    v_actions constant text[] := array['job_queue_act', 'job_queue_run_again', 'job_queue_restore', 'job_queue_edit',
        'job_queue_clean_stuck', 'job_queue_reveal', 'job_queue_pause', 'job_queue_resume', 'job_type_set',
        'job_runner_switch',
        'job_queue_ask_canary', 'job_queue_canary', 'job_note_add', 'job_note_acknowledge', 'job_error_mute', 'job_queue_skip',
        'job_series_pause',
        'job_flow_create', 'job_flow_cancel',
        'job_queue_cleanup',
        'job_queue_purge', 'job_queue_create', 'job_queue_create_once', 'job_queue_create_many', 'job_queue_enqueue',
        'job_series_create', 'job_bulk_choose',
        'job_bulk_choose_alike', 'job_bulk_choose_ids', 'job_bulk_choose_again', 'job_bulk_start',
        'job_bulk_choose_edited', 'job_bulk_start_edit', 'job_bulk_edit_next', 'job_bulk_edit_step', 'job_bulk_step', 'job_bulk_stop',
        'job_bulk_drop', 'job_bulk_result'];
    v_work constant text[] := array['job_queue_claim', 'job_queue_next_due', 'job_queue_heartbeat',
        'job_queue_checkpoint', 'job_queue_finish', 'job_queue_locked', 'job_queue_reap', 'job_queue_upkeep',
        'job_queue_traces',
        'job_queue_lock_name', 'job_bulk_continue', 'job_bulk_edit_take', 'job_bulk_edit_step', 'job_bulk_edit_failed',
        'job_queue_create', 'job_queue_create_once',
        'job_queue_create_many', 'job_queue_enqueue', 'job_types_declare', 'job_types_fill_keys', 'job_release_note',
        'job_worker_report', 'job_worker_remove',
        'job_worker_run_open', 'job_worker_run_note', 'job_worker_run_close',
        'job_flow_create', 'job_flow_add', 'job_flow_outcomes',
        'job_queue_expect_trigger', 'job_alarm_raise', 'job_alarm_clear',
        'job_series_create', 'job_series_short', 'job_series_fill', 'job_series_declare',
        'job_producer_hashes', 'job_producer_begin', 'job_producer_keep'];
    v_enqueue constant text[] := array['job_queue_create', 'job_queue_create_once', 'job_queue_create_many',
        'job_queue_enqueue', 'job_flow_create', 'job_series_create'];
    v_look constant text[] := array['job_queue_why', 'job_permissions', 'job_redact_payload', 'job_sees_payloads',
        'job_queue_due_count', 'job_queue_oldest_due', 'job_queue_counts', 'job_queue_type_jobs', 'job_matches',
        'job_payload_matches', 'job_order_key', 'job_is_scheduled', 'job_roles_prefix', 'job_has_foreign_roles', 'job_may_read_views',
        'job_queue_backlog', 'job_queue_turn', 'job_queue_await',
        'job_stat_bucket', 'job_stat_histogram', 'job_outcomes', 'job_failure_shares', 'job_run_last_token', 'job_run_page',
        'job_run_page_of', 'job_run_reach', 'job_run_outcomes', 'job_removed_job'];
    v_inner constant text[] := array['job_switch_is_on', 'job_is_outsider', 'job_earlier_runner', 'job_left_to_another', 'job_hand_update',
        'job_hand_interval', 'job_refuse_interval', 'job_key_by_rule', 'job_key_of', 'job_queue_after_write', 'job_action_refusal', 'job_actor', 'job_audit_facts', 'job_backoff',
        'job_bulk_is_over', 'job_bulk_actor', 'job_bulk_advance', 'job_clause_due', 'job_clause_first_in_line', 'job_clause_key_free', 'job_clause_pending',
        'job_clause_processing', 'job_clause_type_open', 'job_clause_unblocked', 'job_clause_unexpired', 'job_delay',
        'job_error_fingerprint', 'job_error_pattern', 'job_percent', 'job_type_refusal', 'job_canary_change',
        'job_canary_hold', 'job_canary_refusal', 'job_canary_stands', 'job_queue_judge_canaries',
        'job_queue_take_canary', 'job_queue_why_canary', 'job_grant_roles', 'job_is_a_time', 'job_refuse_outsiders', 'job_refuse_truncate',
        'job_key_is_busy',
        'job_key_is_busy_now', 'job_left_with_success', 'job_make_roles', 'job_next_slot', 'job_queue_absence', 'job_queue_advance_lines',
        'job_queue_ask_recheck', 'job_queue_check_again', 'job_queue_check_rows', 'job_queue_lock_jobs',
        'job_queue_lock_waiting', 'job_queue_reap_lost', 'job_queue_retry_lines', 'job_queue_try_lines', 'job_queue_put_all_first',
        'job_queue_try_locks', 'job_refused_key', 'job_slot',
        'job_counted_or_about', 'job_finish_rate', 'job_queue_before', 'job_sample_count', 'job_sample_step',
        'job_queue_end_expired', 'job_queue_find_stranded', 'job_queue_walk', 'job_queue_walk_on', 'job_queue_line_lanes', 'job_queue_lock_next_in_line',
        'job_queue_holder', 'job_queue_note_open_types',
        'job_queue_put_first', 'job_queue_put_off', 'job_type_can_run', 'job_types_open', 'job_types_that_can_run', 'job_queue_join_lines',
        'job_queue_joins_line', 'job_queue_judge_blocker', 'job_queue_lanes', 'job_queue_live_blocker',
        'job_queue_delete', 'job_queue_make_cancelled', 'job_queue_make_due',
        'job_queue_before_insert', 'job_queue_note_late', 'job_queue_refusal', 'job_queue_refuse',
        'job_queue_release_waiting', 'job_queue_restore_each', 'job_queue_restore_together', 'job_queue_resume_due',
        'job_queue_settle',
        'job_queue_take_back', 'job_queue_take_keys', 'job_queue_take_single_keys', 'job_queue_waiting_types',
        'job_queue_write_audit',
        'job_retain', 'job_retain_line', 'job_retention_limit', 'job_retention_set', 'job_erase_jobs', 'job_erase_payload',
        'job_erase_stop', 'job_erase_texts', 'job_erased_facts', 'job_scrub', 'job_scrub_array', 'job_scrub_json',
        'job_scrub_literal', 'job_scrub_pattern', 'job_scrub_text', 'job_tables_with_texts', 'job_use_roles_prefix',
        'job_run_is_dry', 'job_stat_add', 'job_stat_bins', 'job_stat_edges', 'job_stat_move_error', 'job_stat_seconds',
        'job_erase_fingerprints', 'job_erase_groups', 'job_stats_add_errors', 'job_stats_add_runs',
        'job_stats_add_times',
        'job_stats_compact', 'job_bulk_counted', 'job_bulk_revert', 'job_stats_judge',
        'job_backlog_sample', 'job_skip_refusal', 'job_series_refusal',
        'job_series_refuse_twin',
        'job_key_is_full', 'job_key_join_lines', 'job_key_limit', 'job_key_places',
        'job_key_running', 'job_key_running_now', 'job_limit_running', 'job_limit_state', 'job_limits_admit', 'job_limits_erase', 'job_limits_forget',
        'job_limits_keep', 'job_limits_left', 'job_limits_lock', 'job_limits_rank', 'job_limits_refusal',
        'job_limits_refuse_others', 'job_limits_spend', 'job_limits_within', 'job_queue_put_beside', 'job_key_hold',
        'job_key_opens', 'job_key_rates_lock', 'job_key_spend', 'job_rate_after', 'job_rate_burst', 'job_rate_opens',
        'job_rate_places', 'job_rate_used',
        'job_is_member', 'job_flow_asks', 'job_flow_evidence', 'job_flow_fail', 'job_flow_given_of', 'job_flow_insert',
        'job_flow_judge', 'job_flow_keep_outcomes', 'job_flow_link', 'job_flow_note_blockers', 'job_flow_note_ends',
        'job_flow_outcome', 'job_flow_refusal', 'job_flow_refuse_canary', 'job_flow_refuse_given', 'job_flow_refuse_links',
        'job_flow_release', 'job_flow_retain', 'job_flow_wait_again', 'job_flow_waits',
        'job_schedule_fits', 'job_no_slot', 'job_first_slot', 'job_series_slot',
        'job_series_runs_all', 'job_series_pass_missed',
        'job_producer_add', 'job_producer_revoke', 'job_awaited_clean',
        'job_run_ranges', 'job_run_guard', 'job_run_make', 'job_run_attach', 'job_run_extend', 'job_run_bound',
        'job_run_drop_old', 'job_run_goes_soon', 'job_run_delete_old', 'job_run_last_error'];
    v_views constant text[] := array['job_list', 'job_removed_list', 'job_trash_list', 'job_run_list',
        'job_audit_list', 'job_stat_list', 'job_stat_bin_list', 'job_stat_time_list', 'job_stat_error_list',
        'job_error_group_list', 'job_paused_types', 'job_note_list', 'job_producer_list',
        'job_flow_list', 'job_flow_member_list', 'job_dependency_list'];
    v_open_tables constant text[] := array['jobdeck_schema', 'job_queue_settings', 'job_types', 'job_workers',
        'job_worker_runs', 'job_alarms', 'job_upkeep', 'job_retention', 'job_error_mutes', 'job_stats',
        'job_stat_delta', 'job_stat_times', 'job_stat_errors', 'job_error_groups', 'job_failing_types', 'job_backlog',
        'job_releases'];
    v_queue_tables constant text[] := array['job_queue', 'job_runs', 'job_trash', 'job_audit', 'job_bulk',
        'job_bulk_items', 'job_poison', 'job_lines_due', 'job_recheck', 'job_canaries', 'job_notes', 'job_key_rates',
        'job_unique_keys', 'job_flows', 'job_flow_members', 'job_dependencies'];
    -- Tables that only the owner's functions read.
    v_closed constant text[] := array['job_run_partitions', 'job_locks', 'job_producers', 'job_producer_keys', 'job_awaited'];
    v_sequences constant text[] := array['job_run_token_seq', 'job_audit_id_seq', 'job_notes_id_seq'];
begin
    perform job_use_roles_prefix(p_prefix);
    v_foreign := job_has_foreign_roles();
    select quote_ident(max(rolname) filter (where rolname = job_roles_prefix() || 'viewer')),
        quote_ident(max(rolname) filter (where rolname = job_roles_prefix() || 'operator')),
        quote_ident(max(rolname) filter (where rolname = job_roles_prefix() || 'worker')),
        quote_ident(max(rolname) filter (where rolname = job_roles_prefix() || 'producer'))
    into v_viewer, v_operator, v_worker, v_producer from pg_roles;
    for v_name in select unnest(array[v_viewer, v_operator, v_worker, v_producer]) loop
        if not has_schema_privilege(v_name, v_schema, 'usage') then
            execute format('grant usage on schema %s to %s', v_schema, v_name);
        end if;
    end loop;
    for v_object, v_name in
        select p.oid::regprocedure, p.proname from pg_proc p
        where p.pronamespace = v_schema and p.proname = any (v_actions || v_work || v_look || v_inner)
    loop
        execute format('revoke all on function %s from %s', v_object, concat_ws(', ', 'PUBLIC', v_outsiders));
        if v_viewer is not null and v_name = any (v_look) then
            execute format('grant execute on function %s to %s', v_object, v_viewer);
        end if;
        if v_operator is not null and v_name = any (v_actions || v_look) then
            execute format('grant execute on function %s to %s', v_object, v_operator);
        end if;
        if v_worker is not null and v_name = any (v_work || v_look) then
            execute format('grant execute on function %s to %s', v_object, v_worker);
        end if;
        if v_producer is not null and v_name = any (v_enqueue) then
            execute format('grant execute on function %s to %s', v_object, v_producer);
        end if;
    end loop;
    -- Rights that an earlier schema granted.
    for v_object, v_name in
        select p.oid::regprocedure, quote_ident(r.rolname)
        from pg_proc p cross join aclexplode(p.proacl) a join pg_roles r on r.oid = a.grantee
        where p.pronamespace = v_schema and p.proname = any (v_actions || v_work || v_look || v_inner) and (
            quote_ident(r.rolname) = v_viewer and p.proname <> all (v_look)
            or quote_ident(r.rolname) = v_operator and p.proname <> all (v_actions || v_look)
            or quote_ident(r.rolname) = v_worker and p.proname <> all (v_work || v_look)
            or quote_ident(r.rolname) = v_producer and p.proname <> all (v_enqueue))
    loop
        execute format('revoke all on function %s from %s', v_object, v_name);
    end loop;
    for v_object, v_name, v_guarded, v_table in
        select c.oid::regclass, c.relname, c.relrowsecurity, c.relkind in ('r', 'p') from pg_class c
        where c.relnamespace = v_schema and c.relkind in ('r', 'v', 'p', 'S')
            and c.relname = any (v_views || v_open_tables || v_queue_tables || v_closed || v_sequences)
    loop
        -- If an owner has enabled row security on a table, its grants and policies are left as they are.
        if v_outsiders is not null and not v_guarded then
            execute format('revoke all on %s from %s', v_object, v_outsiders);
        end if;
        -- A right that such a role gets later, as these hosts grant it on everything, then shows it no row.
        if v_foreign and not v_guarded and v_table then
            execute format('alter table %s enable row level security', v_object);
            execute format('create or replace trigger jobdeck_refuse_truncate before truncate on %s for each statement '
                'execute function job_refuse_truncate()', v_object);
            v_guarded := true;
        end if;
        if v_guarded and v_viewer is not null and v_operator is not null and v_worker is not null and not exists (
            select from pg_policy where polrelid = v_object::regclass and polname = 'jobdeck_read')
        then
            execute format('create policy jobdeck_read on %s for select to %s, %s, %s using (true)', v_object, v_viewer,
                v_operator, v_worker);
        end if;
        -- The host's roles may not delete a job from under its worker. The owner's functions are not held, unless forced.
        if v_guarded and v_outsiders is not null and v_name = 'job_queue' and not exists (
            select from pg_class where oid = v_object::regclass and relforcerowsecurity) and not exists (
            select from pg_policy where polrelid = v_object::regclass and polname = 'jobdeck_keep_running')
        then
            execute format('create policy jobdeck_keep_running on %s as restrictive for delete to %s using '
                '(status <> ''running'' or lease_expires_at is null or lease_expires_at <= now())', v_object, v_outsiders);
        end if;
        if v_viewer is not null and v_name = any (v_views || v_open_tables) then
            execute format('grant select on %s to %s', v_object, v_viewer);
        elsif v_viewer is not null then
            -- Early schemas let the viewer read job_audit itself, which shows payloads unmasked.
            execute format('revoke all on %s from %s', v_object, v_viewer);
        end if;
        if v_operator is not null and v_name <> all (v_closed || v_sequences) then
            execute format('grant select on %s to %s', v_object, v_operator);
        end if;
        if v_worker is not null and v_name <> all (v_closed || v_sequences) then
            execute format('grant select on %s to %s', v_object, v_worker);
        end if;
    end loop;
    perform job_run_guard(r.name) from job_run_ranges() r;
    for v_object in
        select distinct p.oid::regprocedure::text from jobdeck_schema s join pg_proc p
            on p.pronamespace = v_schema and p.proname = s.component || '_grant_roles' and p.pronargs = 0
        where s.component <> 'queue'
    loop
        execute format('select %s', v_object);
    end loop;
end
$$;

-- The partition after the first one.
do $$
begin
    perform job_run_extend() where not exists (select from job_run_ranges() r where r.first_token is not null);
end
$$;

insert into jobdeck_schema (version) values (5) on conflict (component, version) do nothing;

-- The installer passes the requested prefix in this setting.
select job_grant_roles(nullif(current_setting('jobdeck.roles_prefix', true), ''));
