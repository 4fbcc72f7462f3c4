-- The history: one row per run, in partitions by token. A partition is dropped as a whole once its runs are old.

-- One row per run, appended and never updated. `late` marks the report of a worker that came back after its run had
-- been recorded as `lost` in a row of its own.
create table if not exists job_runs (
    run_token bigint not null,
    job_id uuid not null,
    due_at timestamptz not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    attempt integer not null,
    late boolean not null default false,
    -- The job left the queue with this run: a one-time job that succeeded.
    removed boolean not null default false,
    task_type text not null,
    outcome text not null,
    worker_id text,
    payload jsonb not null,
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
    -- A run that changed nothing.
    dry_run boolean,
    primary key (run_token, late),
    constraint job_runs_late_check check (late = (outcome = 'abandoned')),
    constraint job_runs_outcome_check check (outcome in ('succeeded', 'partial', 'continued', 'retried', 'failed',
        'cancelled', 'released', 'snoozed', 'lost', 'abandoned'))
) partition by range (run_token);
create index if not exists job_runs_job on job_runs (job_id, run_token);
create index if not exists job_runs_removed on job_runs (finished_at) where removed;
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

do $$
begin
    if not exists (select from job_run_ranges()) then
        perform job_run_make('job_runs_0');
        perform job_run_attach('job_runs_0', null, null);
    end if;
end
$$;
