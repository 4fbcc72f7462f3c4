-- Who may do what.
--
-- The group viewer reads views with redacted payloads; operator reads and acts; worker claims and finishes; producer
-- enqueues and reads nothing. Only the owner writes the queue's tables, and PUBLIC has no rights. Roles belong to the
-- whole server, so their names begin with a prefix, which each queue may choose. job_make_roles creates them
-- ("jobdeck init --roles"); rights are granted to those that exist. Every function is closed, but for those that the lists
-- below open to a group. An application's own objects in this schema keep their rights and settings.

-- Stores the prefix for later installations; null keeps the current one.
create or replace function job_use_roles_prefix(p_prefix text) returns void
language plpgsql
as $$
begin
    if p_prefix is distinct from job_roles_prefix() and p_prefix is not null then
        execute format('create or replace function job_roles_prefix() returns text language sql immutable return %L',
            p_prefix);
    end if;
end
$$;

create or replace function job_make_roles(p_prefix text default null) returns void
language plpgsql
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

-- Closes all functions of the queue, and opens to each group those that it may call. The names are those of roles, quoted, or
-- null for a role that does not exist.
create or replace function job_grant_functions(
    p_viewer text, p_operator text, p_worker text, p_producer text, p_outsiders text
) returns void
language plpgsql
as $$
declare
    v_role text;
    v_object text;
    v_enqueue constant text[] := array['job_queue_create', 'job_queue_create_with', 'job_queue_create_many',
        'job_queue_enqueue', 'job_flow_create', 'job_series_create'];
    v_actions constant text[] := v_enqueue || array['job_queue_act', 'job_queue_run_again', 'job_queue_restore', 'job_queue_edit',
        'job_queue_clean_stuck', 'job_queue_reveal', 'job_queue_pause', 'job_queue_resume', 'job_type_set',
        'job_queue_ask_canary', 'job_queue_canary', 'job_note_add', 'job_note_acknowledge', 'job_error_mute', 'job_hold',
        'job_hold_reach', 'job_hold_step', 'job_release', 'job_series_act', 'job_flow_cancel', 'job_queue_cleanup',
        'job_queue_purge', 'job_bulk_choose', 'job_bulk_start', 'job_bulk_step', 'job_bulk_edit_step', 'job_bulk_stop',
        'job_bulk_drop'];
    v_work constant text[] := v_enqueue || array['job_queue_claim', 'job_queue_set_aside', 'job_queue_next_due',
        'job_queue_heartbeat', 'job_queue_checkpoint', 'job_queue_finish', 'job_queue_locked', 'job_queue_upkeep',
        'job_queue_traces', 'job_queue_timeouts', 'job_queue_lock_name', 'job_bulk_continue', 'job_bulk_take',
        'job_bulk_edit_step', 'job_bulk_failed', 'job_types_declare', 'job_types_fill_keys', 'job_types_code',
        'job_worker_report', 'job_worker_remove', 'job_worker_run_open', 'job_worker_run_note',
        'job_flow_add', 'job_flow_outcomes', 'job_queue_expect_trigger', 'job_alarm_raise', 'job_alarm_clear',
        'job_series_short', 'job_series_fill', 'job_series_declare', 'job_producer_hashes', 'job_producer_begin',
        'job_producer_keep'];
    v_look constant text[] := array['job_queue_why', 'job_permissions', 'job_redact_payload', 'job_sees_payloads',
        'job_queue_oldest_due', 'job_queue_counts', 'job_queue_type_jobs', 'job_matches',
        'job_payload_matches', 'job_order_key', 'job_is_scheduled', 'job_roles_prefix', 'job_has_foreign_roles',
        'job_may_read_views', 'job_worker_is_alive', 'job_queue_backlog', 'job_queue_turn', 'job_queue_await', 'job_stat_bucket',
        'job_stat_histogram', 'job_outcomes', 'job_failure_shares', 'job_run_last_token', 'job_run_page',
        'job_run_page_of', 'job_run_steps', 'job_run_reach', 'job_run_outcomes', 'job_removed_job', 'job_queue_cannot_run',
        'job_slots', 'job_facets', 'job_hold_jobs', 'job_is_hold', 'job_is_held', 'job_lost_runs',
        'job_runs_by_job'];
begin
    for v_object in select f.function from job_own_functions() f loop
        execute format('revoke all on function %s from %s', v_object,
            concat_ws(', ', 'PUBLIC', p_outsiders, p_viewer, p_operator, p_worker, p_producer));
    end loop;
    for v_object, v_role in
        select f.function, g.role from job_own_functions() f cross join lateral (values (p_viewer, v_look),
            (p_operator, v_actions || v_look), (p_worker, v_work || v_look), (p_producer, v_enqueue)) as g (role, names)
        where g.role is not null and f.name = any (g.names)
    loop
        execute format('grant execute on function %s to %s', v_object, v_role);
    end loop;
end
$$;

-- Opens to each group the tables and views that it may read, and closes all to the roles of the host.
create or replace function job_grant_relations(p_viewer text, p_operator text, p_worker text, p_outsiders text) returns void
language plpgsql
as $$
declare
    v_name text;
    v_object text;
    v_guarded boolean;
    v_table boolean;
    v_foreign constant boolean := job_has_foreign_roles();
    v_views constant text[] := array['job_list', 'job_removed_list', 'job_trash_list', 'job_run_list', 'job_audit_list',
        'job_stat_list', 'job_stat_error_list', 'job_error_group_list',
        'job_paused_types', 'job_note_list', 'job_producer_list', 'job_flow_list', 'job_flow_member_list',
        'job_dependency_list', 'job_hold_list'];
    v_open_tables constant text[] := array['jobdeck_schema', 'job_queue_settings', 'job_types', 'job_workers',
        'job_worker_runs', 'job_alarms', 'job_upkeep', 'job_retention', 'job_error_mutes', 'job_stats',
        'job_stat_delta', 'job_stat_errors', 'job_error_groups', 'job_failing_types', 'job_backlog',
        'job_releases', 'job_timeouts', 'job_type_values', 'job_paused_queues'];
    v_queue_tables constant text[] := array['job_queue', 'job_runs', 'job_trash', 'job_audit', 'job_bulk',
        'job_bulk_items', 'job_poison', 'job_recheck', 'job_canaries', 'job_notes', 'job_key_rates',
        'job_unique_keys', 'job_flows', 'job_flow_members', 'job_dependencies', 'job_holds'];
    -- Tables that only the owner's functions read.
    v_closed constant text[] := array['job_run_partitions', 'job_locks', 'job_producers', 'job_producer_keys',
        'job_awaited'];
    v_sequences constant text[] := array['job_run_token_seq', 'job_audit_id_seq', 'job_notes_id_seq', 'job_holds_number_seq'];
begin
    for v_object, v_name, v_guarded, v_table in
        select c.oid::regclass, c.relname, c.relrowsecurity, c.relkind in ('r', 'p') from pg_class c
        where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relkind in ('r', 'v', 'p', 'S')
            and c.relname = any (v_views || v_open_tables || v_queue_tables || v_closed || v_sequences)
    loop
        -- If an owner has enabled row security on a table, its grants and policies are left as they are.
        if p_outsiders is not null and not v_guarded then
            execute format('revoke all on %s from %s', v_object, p_outsiders);
        end if;
        -- A right that such a role gets later, as these hosts grant it on everything, then shows it no row.
        if v_foreign and not v_guarded and v_table then
            execute format('alter table %s enable row level security', v_object);
            execute format('create or replace trigger jobdeck_refuse_truncate before truncate on %s for each statement '
                'execute function job_refuse_truncate()', v_object);
            v_guarded := true;
        end if;
        if v_guarded and p_viewer is not null and p_operator is not null and p_worker is not null and not exists (
            select from pg_policy where polrelid = v_object::regclass and polname = 'jobdeck_read')
        then
            execute format('create policy jobdeck_read on %s for select to %s, %s, %s using (true)', v_object, p_viewer,
                p_operator, p_worker);
        end if;
        -- The host's roles may not delete a job from under its worker. The owner's functions are not held, unless forced.
        if v_guarded and p_outsiders is not null and v_name = 'job_queue' and not exists (
            select from pg_class where oid = v_object::regclass and relforcerowsecurity) and not exists (
            select from pg_policy where polrelid = v_object::regclass and polname = 'jobdeck_keep_running')
        then
            execute format('create policy jobdeck_keep_running on %s as restrictive for delete to %s using '
                '(status <> ''running'' or lease_expires_at is null or lease_expires_at <= now())', v_object, p_outsiders);
        end if;
        if p_viewer is not null and v_name = any (v_views || v_open_tables) then
            execute format('grant select on %s to %s', v_object, p_viewer);
        end if;
        if p_operator is not null and v_name <> all (v_closed || v_sequences) then
            execute format('grant select on %s to %s', v_object, p_operator);
        end if;
        if p_worker is not null and v_name <> all (v_closed || v_sequences) then
            execute format('grant select on %s to %s', v_object, p_worker);
        end if;
    end loop;
end
$$;

-- Grants the queue's groups their rights, then calls NAME_grant_roles() of each plugin, where NAME is its component in
-- jobdeck_schema.
create or replace function job_grant_roles(p_prefix text default null) returns void
language plpgsql
as $$
declare
    v_schema constant regnamespace := quote_ident(current_schema())::regnamespace;
    v_name text;
    v_object text;
    v_viewer text;
    v_operator text;
    v_worker text;
    v_producer text;
    -- Roles that get rights on all new objects by the default privileges of some hosts.
    v_outsiders constant text := (select string_agg(quote_ident(rolname), ', ' order by rolname) from pg_roles
        where rolname in ('anon', 'authenticated', 'service_role'));
begin
    perform job_use_roles_prefix(p_prefix);
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
    perform job_grant_functions(v_viewer, v_operator, v_worker, v_producer, v_outsiders);
    perform job_grant_relations(v_viewer, v_operator, v_worker, v_outsiders);
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

-- Binds the functions of the queue to its schema. Functions whose body was parsed with them ("return …", "begin atomic") are bound
-- to it already, and the planner puts many of them in place of their calls, which a setting would prevent. A migration that
-- replaces functions calls this again.
create or replace function job_bind_functions() returns void
language plpgsql
as $$
declare
    v_function regprocedure;
begin
    for v_function in
        select f.function from job_own_functions() f join pg_proc p on p.oid = f.function
        -- The trigger's function calls only what is built in, and a setting would make each enqueue slower.
        where p.prosqlbody is null and f.name <> 'job_queue_after_write'
    loop
        execute format('alter function %s set search_path = %s', v_function, current_setting('search_path'));
    end loop;
end
$$;
select job_bind_functions();

-- The partition after the first one.
do $$
begin
    perform job_run_extend() where not exists (select from job_run_ranges() r where r.first_token is not null);
end
$$;

insert into jobdeck_schema (version) values (6) on conflict (component, version) do nothing;

-- The installer passes the requested prefix in this setting.
select job_grant_roles(nullif(current_setting('jobdeck.roles_prefix', true), ''));
