-------------------------------------------------------------------------------------------------------
-- The cut-over: `jobdeck cutover switch`, and its ends, `jobdeck cutover stay` and `jobdeck cutover undo`
-------------------------------------------------------------------------------------------------------

-- Gives the queue to the workers, or with p_back to the earlier runner. Jobs that run end where they began. Returns how many
-- run.
create or replace function public.competition_switch(p_back boolean, p_actor text, p_reason text) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_held_by text;
    v_left constant text := (select r.definition from jobdeck_replaced r where r.kind = 'left');
begin
    perform job_refuse_outsiders();
    select held_by into v_held_by from job_queue_settings where id = 1 for update;
    if not found then
        perform job_queue_refuse('The settings row is missing. Run "jobdeck resume". Nothing was changed.');
    elsif p_back and v_left is not null then
        perform job_queue_refuse(format('The earlier runner cannot come back: "jobdeck cutover stay" has dropped its '
            'functions at %s. Nothing was changed.', v_left));
    elsif p_back = (v_held_by is not null) then
        perform job_queue_refuse(case when p_back then 'The earlier runner has the queue already.'
            else 'The workers of Jobdeck have the queue already.' end || ' Nothing was changed.');
    end if;
    update job_queue_settings set held_by = case when p_back then competition_hold() end, updated_at = now() where id = 1;
    perform job_queue_write_audit(p_actor, 'switch runner', null, jsonb_build_object('held_by', v_held_by),
        jsonb_build_object('held_by', case when p_back then competition_hold() end), p_reason);
    perform pg_notify(current_schema() || '.job_queue', '');
    return (select count(*) from job_queue where status = 'running');
end
$$;

-- The unique indexes over (user, solve) of the original, which has at most one.
create or replace function public.competition_key_of_solves() returns setof oid
language sql stable
set search_path = public, pg_temp
as $$
    select x.indexrelid from pg_index x
    where x.indrelid = 'game_platform_challenge_solves'::regclass and x.indisunique and not x.indisprimary
        and array(select a.attname::text from pg_attribute a where a.attrelid = x.indrelid
            and a.attnum = any (x.indkey::smallint[]) order by 1) = array['challenge_solve_id', 'synced_user_id']
$$;

-- What only the original needs, with the statement that drops it. With p_runner, also the functions of its runner.
create or replace function public.competition_leftovers(p_runner boolean)
returns table (kind text, name text, why text, statement text)
language sql stable
set search_path = public, pg_temp
as $$
    select 'trigger', 'job_queue.job_queue_set_updated_at', 'costs each claim and each report a call per row',
        'drop trigger job_queue_set_updated_at on public.job_queue'
    from pg_trigger g where g.tgrelid = 'job_queue'::regclass and g.tgname = 'job_queue_set_updated_at'
    union all
    select 'constraint', 'job_queue.' || k.conname, 'job_queue_recurrence_check checks the same, without its gap',
        'alter table public.job_queue drop constraint recurring_jobs_must_have_interval'
    from pg_constraint k
    where k.conrelid = 'job_queue'::regclass and k.conname = 'recurring_jobs_must_have_interval'
    union all
    select 'constraint', 'game_platform_challenge_solves.' || k.conname, 'keeps out a solve whose id another event has, too',
        format('alter table public.game_platform_challenge_solves drop constraint %I', k.conname)
    from pg_constraint k where k.conindid in (select competition_key_of_solves())
    union all
    select 'index', i.relname, 'keeps out a solve whose id another event has, too', format('drop index public.%I', i.relname)
    from pg_class i where i.oid in (select competition_key_of_solves())
        and not exists (select from pg_constraint k where k.conindid = i.oid)
    union all
    select 'index', i.relname, 'other indexes serve the queries of the queue', format('drop index public.%I', i.relname)
    from pg_class i where i.relnamespace = 'public'::regnamespace and i.relkind = 'i'
        and i.relname in ('idx_job_queue_status_run_at', 'idx_job_queue_task_type', 'idx_job_queue_recurring_next_run')
    union all
    select 'index', theirs.relname, format('%s is the same', min(ours.relname)), format('drop index public.%I', theirs.relname)
    from jobdeck_replaced r
    join pg_class theirs on theirs.oid = to_regclass('public.' || quote_ident(r.name)) and theirs.relkind = 'i'
    join pg_index x on x.indexrelid = theirs.oid
    join pg_index y on y.indrelid = x.indrelid and y.indexrelid <> x.indexrelid
    join pg_class ours on ours.oid = y.indexrelid
    where r.kind = 'index' and y.indisvalid and exists (
            select from jobdeck_schema s where s.catalog -> 'objects' ? ('index ' || ours.relname))
        and regexp_replace(pg_get_indexdef(y.indexrelid), ' INDEX \S+ ON', '') =
            regexp_replace(pg_get_indexdef(x.indexrelid), ' INDEX \S+ ON', '')
    group by theirs.relname
    union all
    select 'function', p.oid::regprocedure::text, 'only the earlier runner calls it', format('drop function %s',
        p.oid::regprocedure)
    from pg_proc p where p_runner and p.oid in (to_regprocedure('job_queue_claim(integer)'),
        to_regprocedure('job_queue_mark_succeeded(uuid, jsonb)'),
        to_regprocedure('job_queue_mark_failed(uuid, text, integer)'),
        to_regprocedure('job_queue_mark_failed(uuid, text, interval)'),
        to_regprocedure('job_earlier_report(uuid, text, jsonb)'))
$$;

-- Drops what only the original needs; its runner's functions only where no type is set aside for it. Returns what was
-- dropped, and why.
create or replace function public.competition_stay(p_actor text, p_reason text)
returns table (kind text, name text, why text)
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_one record;
    v_left constant boolean := not exists (select from job_types t where t.set_aside);
    v_dropped text[] := '{}';
begin
    if exists (select from job_queue_settings s where s.held_by is not null) then
        perform job_queue_refuse('The earlier runner has the queue, and needs what this would drop. Switch first: '
            '"jobdeck cutover switch". Nothing was changed.');
    elsif v_left and exists (
        select from job_queue q where q.status = 'running' and q.locked_by = competition_earlier_runner())
    then
        perform job_queue_refuse('Jobs of the earlier runner still run, and it could not report them. Wait until they have '
            'ended ("jobdeck jobs --status running"). Nothing was changed.');
    end if;
    for v_one in select * from competition_leftovers(v_left) loop
        execute v_one.statement;
        update jobdeck_replaced r set gone = true where r.kind = v_one.kind and r.name = v_one.name;
        v_dropped := v_dropped || format('%s %s', v_one.kind, v_one.name);
        kind := v_one.kind;
        name := v_one.name;
        why := v_one.why;
        return next;
    end loop;
    if v_left then
        delete from jobdeck_replaced r where r.kind <> 'left';
        insert into jobdeck_replaced (kind, name, definition) values ('left', 'earlier runner', now()) on conflict do nothing;
    end if;
    perform job_queue_write_audit(p_actor, 'stay', null, null, jsonb_build_object('dropped', v_dropped), p_reason);
end
$$;

-- Takes the triggers, constraints and indexes of Jobdeck off the tables that were there before it.
create or replace function public.competition_take_off() returns void
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_one record;
begin
    for v_one in
        with adopted as (
            select distinct t.name from jobdeck_schema s, jsonb_array_elements_text(s.catalog -> 'adopted') as t (name)),
        ours as (
            select distinct split_part(k.key, ' ', 1) as kind, substr(k.key, strpos(k.key, ' ') + 1) as name
            from jobdeck_schema s, jsonb_object_keys(s.catalog -> 'objects') as k (key))
        select case o.kind when 'trigger' then format('drop trigger if exists %I on public.%I', split_part(o.name, '.', 2),
                split_part(o.name, '.', 1))
            else format('alter table public.%I drop constraint if exists %I', split_part(o.name, '.', 1),
                split_part(o.name, '.', 2)) end as statement
        from ours o join adopted a on a.name = split_part(o.name, '.', 1)
        where o.kind in ('trigger', 'constraint')
            and not exists (select from jobdeck_replaced r where r.kind = o.kind and r.name = o.name)
        union all
        select format('drop index if exists public.%I', o.name)
        from ours o join pg_index x on x.indexrelid = to_regclass('public.' || quote_ident(o.name))
        join pg_class c on c.oid = x.indrelid join adopted a on a.name = c.relname
        where o.kind = 'index' and not exists (select from jobdeck_replaced r where r.kind = 'index' and r.name = o.name)
    loop
        execute v_one.statement;
    end loop;
end
$$;

-- Puts back the original's functions with their owners and rights.
create or replace function public.competition_give_back_functions() returns void
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_one record;
    v_statement text;
begin
    for v_one in select * from jobdeck_replaced r where r.kind = 'function' order by r.name loop
        execute format('drop function if exists %s', v_one.name);
        execute v_one.definition;
        -- A host's default privileges have granted more on the new function than the original's had.
        for v_statement in
            select format('revoke all on function %s from %s', v_one.name,
                case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
            from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            where p.oid = to_regprocedure(v_one.name) and a.grantee <> p.proowner
        loop
            execute v_statement;
        end loop;
        foreach v_statement in array v_one.rights loop
            execute v_statement;
        end loop;
    end loop;
end
$$;

-- The kept constraints, triggers, indexes and columns that are missing or differ, with the statement that drops what differs.
create or replace function public.competition_missing() returns table (kind text, name text, drops text)
language sql stable
set search_path = public, pg_temp
as $$
    select r.kind, r.name, case when k.oid is not null then format('alter table %s drop constraint %I', k.conrelid::regclass,
        k.conname) end
    from jobdeck_replaced r left join pg_constraint k
        on k.conrelid = to_regclass('public.' || quote_ident(split_part(r.name, '.', 1)))
            and k.conname = split_part(r.name, '.', 2)
    where r.kind = 'constraint' and (k.oid is null or format('alter table public.%I add constraint %I %s',
        split_part(r.name, '.', 1), k.conname, pg_get_constraintdef(k.oid)) <> r.definition)
    union all
    select r.kind, r.name, null from jobdeck_replaced r where r.kind = 'trigger' and not exists (
        select from pg_trigger g where g.tgrelid = to_regclass('public.' || quote_ident(split_part(r.name, '.', 1)))
            and g.tgname = split_part(r.name, '.', 2))
    union all
    select r.kind, r.name, null from jobdeck_replaced r
    where r.kind = 'index' and to_regclass('public.' || quote_ident(r.name)) is null
    union all
    select r.kind, r.name, null from jobdeck_replaced r join competition_columns() c using (kind, name)
    where c.definition <> r.definition
$$;

-- What this installation has dropped or changed.
do $$
begin
    if current_setting('jobdeck.took_over', true) = 'on' then
        update public.jobdeck_replaced r set gone = true from public.competition_missing() m
        where m.kind = r.kind and m.name = r.name;
    end if;
end
$$;

-- Puts back the constraints, triggers, indexes and columns that Jobdeck has dropped or changed. Returns a sentence for each that rows
-- of today violate.
create or replace function public.competition_put_back() returns setof text
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_one record;
begin
    for v_one in
        select r.kind, r.name, r.definition, m.drops from jobdeck_replaced r join competition_missing() m using (kind, name)
        where r.gone order by r.kind, r.name
    loop
        begin
            if v_one.drops is not null then
                execute v_one.drops;
            end if;
            execute v_one.definition;
        exception when check_violation or not_null_violation or unique_violation then
            return next format('The %s %s was not put back, because rows of today violate it.', v_one.kind, v_one.name);
        end;
    end loop;
end
$$;

-- Puts back the functions, constraints, triggers and indexes that the original's tables had before the installation, and
-- takes Jobdeck's off them. Columns and rows stay, and so do Jobdeck's own tables. Returns a sentence for each thing that
-- somebody should know.
create or replace function public.competition_undo(p_actor text, p_reason text) returns setof text
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_count bigint;
    v_workers text;
begin
    if not exists (select from jobdeck_replaced r where r.kind = 'function') then
        perform job_queue_refuse('This database has nothing to bring back: Jobdeck has replaced no function of an earlier '
            'application, or "jobdeck cutover stay" has ended the cut-over. Nothing was changed.');
    end if;
    lock table job_queue in access exclusive mode;
    if not exists (select from job_queue_settings s where s.held_by is not null) then
        perform job_queue_refuse('The workers of Jobdeck have the queue. Give it back first: '
            '"jobdeck cutover switch --back". Nothing was changed.');
    end if;
    select count(*) into v_count from job_queue q where q.status = 'running' and q.locked_by <> competition_earlier_runner();
    if v_count > 0 then
        perform job_queue_refuse(format('Jobs of the workers still run (%s). Wait until they have ended ("jobdeck jobs '
            '--status running"). Nothing was changed.', v_count));
    end if;
    select string_agg(w.id, ', ' order by w.id) into v_workers from job_workers w
    where job_worker_is_alive(w.heartbeat_at, clock_timestamp());
    if v_workers is not null then
        perform job_queue_refuse(format('Stop the workers first. These are alive: %s. Nothing was changed.', v_workers));
    end if;
    perform job_queue_write_audit(p_actor, 'undo cut-over', null, null, '{}', p_reason);
    perform competition_take_off();
    -- The original's functions report a run without a token.
    update job_queue set run_token = null, lease_expires_at = null, locked_by = null where status = 'running';
    get diagnostics v_count = row_count;
    if v_count > 0 then
        return next format('Jobs are running (%s). One whose run has died stays so, because the original has no leases.',
            v_count);
    end if;
    perform competition_give_back_functions();
    return query select t from competition_put_back() t;
    select count(*) into v_count from job_queue q
    where q.status = 'pending' and (q.blocked_by is not null or q.in_line or q.priority <> 0);
    if v_count > 0 then
        return next format('%s pending jobs wait for another job or for their turn, or have a priority. The earlier runner '
            'does not know these rules, and takes each job when it is due.', v_count);
    end if;
    -- Version 0 has every program ask for `jobdeck init`, which takes over again. The record of the adopted tables stays.
    delete from jobdeck_schema s using jobdeck_schema n
    where n.component = s.component and n.version > s.version;
    update jobdeck_schema s set version = 0, checksum = null, serves_from = null,
        catalog = jsonb_set(s.catalog, '{objects}', '{}');
end
$$;
