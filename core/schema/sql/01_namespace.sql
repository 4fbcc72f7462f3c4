-- jobdeck schema version 6
-- serves programs from 0.3.0
--
-- The queue. Safe to run again: rows and columns are kept. Runs in one transaction (psql --single-transaction) on
-- Postgres 15 and later, and needs no extension.
--
-- Planner settings stand at the functions that programs call. One that only such functions call has their settings while it
-- runs, and none of its own unless its query needs others.
--
-- Only the functions of these files change the status of a job. Errors for people have SQLSTATE JD001 and a sentence as
-- message; every other error is a defect.

set local client_min_messages = warning;

-- All objects are created in the first schema of the search path, which the installer sets. No statement names it, so that one
-- database can have several queues; job_bind_functions binds the functions to it.
select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- An application's own tables of these names are not touched. Three of them may be a predecessor's.
do $$
declare
    v_trouble text;
    v_version integer;
begin
    if to_regclass('jobdeck_schema') is not null then
        execute $q$select max(version) from jobdeck_schema s where coalesce(to_jsonb(s) ->> 'component', 'queue') = 'queue'$q$
            into v_version;
        if v_version between 1 and 5 then
            raise exception using errcode = 'JD001', message = format(
                'The schema %s has version %s of the queue, from before 0.3.0, the first release, and nothing upgrades that. '
                'Install the queue into a new database, or into a schema of its own: "jobdeck init --schema NAME".',
                current_schema(), v_version);
        end if;
        return;
    end if;
    select format('%s, which is not Jobdeck''s', t) into v_trouble
    from unnest(array['job_types', 'job_type_values', 'job_paused_types', 'job_paused_queues', 'job_canaries', 'job_notes', 'job_error_mutes', 'job_runs',
        'job_workers', 'job_alarms', 'job_trash', 'job_bulk', 'job_bulk_items', 'job_audit', 'job_stats',
        'job_stat_delta', 'job_stat_errors', 'job_error_groups', 'job_failing_types', 'job_backlog',
        'job_releases', 'job_key_rates', 'job_unique_keys', 'job_flows', 'job_flow_members', 'job_dependencies',
        'job_producers', 'job_producer_keys', 'job_awaited', 'job_timeouts', 'job_holds', 'job_run_partitions', 'job_runs_0',
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

-- One row per version of each component (the queue, and each plugin). `jobdeck init` writes the checksum of the SQL, the
-- objects that it created, the oldest program that works with them, and the migrations that were run.
create table if not exists jobdeck_schema (
    component text not null default 'queue',
    version integer not null,
    installed_at timestamptz not null default now(),
    checksum text,
    catalog jsonb,
    serves_from text,
    migrations integer[],
    primary key (component, version)
);

-- Guards. Hosts of managed Postgres give all tables, views and functions to the roles behind their public key, by default
-- or by a later grant on everything. The rights of the groups are in the part "rights".

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
as $$
begin
    if not pg_has_role((select c.relowner from pg_class c where c.oid = tg_relid), 'usage') then
        raise exception using errcode = 'insufficient_privilege', message = format(
            'Only the owner may empty the table %s.', tg_table_name);
    end if;
    return null;
end
$$;
