-- Removes objects of the original application that schema.sql replaces.

-- roles.sql creates it again. The version of an earlier release may call functions that no longer exist.
drop function if exists public.competition_grant_roles();

-- The functions of the original that Jobdeck replaces, and the constraints, triggers, indexes and columns of the tables
-- that were there: as they were before the installation, so that `jobdeck cutover undo` can bring them back. After `jobdeck cutover
-- stay` it has one row, of the kind "left": since when the original's runner cannot come back.
create table if not exists public.jobdeck_replaced (
    kind text not null,
    name text not null,
    definition text not null,
    -- Statements for the owner and the rights of a function.
    rights text[] not null default '{}',
    -- Whether Jobdeck has dropped or changed it. What the application drops itself does not come back.
    gone boolean not null default false,
    primary key (kind, name)
);

-- For each column, the statements that make it as it is now: whether it may be null, and its default.
create or replace function public.competition_columns() returns table (kind text, name text, definition text)
language sql stable
set search_path = public, pg_temp
as $$
    select k.kind, t.relname || '.' || a.attname, format('alter table public.%I alter column %I %s', t.relname, a.attname,
        k.change)
    from pg_attribute a join pg_class t on t.oid = a.attrelid
    left join pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    cross join lateral (values
        ('not null', case when a.attnotnull then 'set not null' else 'drop not null' end),
        ('default', coalesce('set default ' || pg_get_expr(d.adbin, d.adrelid), 'drop default'))) as k (kind, change)
    where t.relnamespace = 'public'::regnamespace and t.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
        and a.attidentity = '' and a.attgenerated = ''
$$;

create or replace function public.competition_keep_original() returns void
language plpgsql
set search_path = public, pg_temp
as $$
begin
    delete from public.jobdeck_replaced;
    insert into public.jobdeck_replaced (kind, name, definition, rights)
    select 'function', f.name, pg_get_functiondef(f.oid),
        array[format('alter function %s owner to %I', f.name, pg_get_userbyid(f.proowner))] || array(
            select format('grant execute on function %s to %s', f.name,
                case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
            from aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a where a.grantee <> f.proowner)
    from (select p.*, format('public.%I(%s)', p.proname, oidvectortypes(p.proargtypes)) as name
        from pg_proc p where p.oid in (to_regprocedure('public.job_queue_claim(integer)'),
            to_regprocedure('public.job_queue_mark_succeeded(uuid, jsonb)'),
            to_regprocedure('public.job_queue_mark_failed(uuid, text, integer)'),
            to_regprocedure('public.job_queue_mark_failed(uuid, text, interval)'),
            to_regprocedure('public.job_queue_enqueue(text, jsonb, timestamptz, integer)'),
            to_regprocedure('public.job_queue_cleanup(interval)'))) f;
    insert into public.jobdeck_replaced (kind, name, definition)
    select 'constraint', t.relname || '.' || k.conname, format('alter table public.%I add constraint %I %s', t.relname,
        k.conname, pg_get_constraintdef(k.oid))
    from pg_constraint k join pg_class t on t.oid = k.conrelid
    where t.relnamespace = 'public'::regnamespace and k.contype in ('c', 'f', 'p', 'u', 'x')
    union all
    select 'trigger', t.relname || '.' || g.tgname, pg_get_triggerdef(g.oid)
    from pg_trigger g join pg_class t on t.oid = g.tgrelid
    where t.relnamespace = 'public'::regnamespace and not g.tgisinternal
    union all
    select 'index', i.relname, pg_get_indexdef(i.oid)
    from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class t on t.oid = x.indrelid
    where t.relnamespace = 'public'::regnamespace and not exists (select from pg_constraint k where k.conindid = i.oid)
    union all
    select * from public.competition_columns();
end
$$;

-- Once, when the competition is installed: some functions of the original have the names of Jobdeck's, and what was
-- granted on those must stay. Databases of 0.1.0, whose table of versions has no components, have the competition. After
-- `jobdeck cutover undo` the version is 0.
do $$
declare
    v_installed boolean := false;
begin
    if to_regclass('public.jobdeck_schema') is not null then
        v_installed := exists (select from public.jobdeck_schema s
            where coalesce(to_jsonb(s) ->> 'component', 'competition') = 'competition' and s.version > 0);
    end if;
    if v_installed then
        return;
    end if;
    perform public.competition_keep_original();
    -- The original's runner has the queue until somebody switches.
    if to_regprocedure('public.job_queue_mark_succeeded(uuid, jsonb)') is not null then
        perform set_config('jobdeck.took_over', 'on', true);
    end if;
    -- Until original.sql: what this installation changes is no change of a job.
    if exists (select from pg_trigger where tgrelid = to_regclass('public.job_queue')
        and tgname = 'job_queue_set_updated_at')
    then
        alter table public.job_queue disable trigger job_queue_set_updated_at;
    end if;
    -- After an undo: the original may have jobs together whose keys the indexes of this queue allow once.
    if exists (select from pg_attribute where attrelid = to_regclass('public.job_queue') and attname = 'key_place') then
        update public.job_queue q set concurrency_key = null
        from (select id, row_number() over (partition by concurrency_key, key_place order by updated_at, id) as number
            from public.job_queue where status = 'running' and concurrency_key is not null) r
        where q.id = r.id and r.number > 1;
        update public.job_queue q set dedupe_key = null
        from (select id, row_number() over (partition by dedupe_key order by created_at, id) as number
            from public.job_queue where status in ('pending', 'running') and dedupe_key is not null) r
        where q.id = r.id and r.number > 1;
    end if;
    drop function if exists public.job_queue_claim(integer);
    drop function if exists public.job_queue_mark_succeeded(uuid, jsonb);
    drop function if exists public.job_queue_mark_failed(uuid, text, integer);
    drop function if exists public.job_queue_mark_failed(uuid, text, interval);
    drop function if exists public.job_queue_enqueue(text, jsonb, timestamptz, integer);
    drop function if exists public.job_queue_cleanup(interval);
end
$$;
