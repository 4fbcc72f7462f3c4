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
        'job_queue_checkpoint', 'job_queue_finish', 'job_queue_locked', 'job_queue_upkeep',
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
    v_inner constant text[] := array['job_claim_lanes', 'job_claim_within', 'job_claim_left', 'job_claim_series',
        'job_claim_rank', 'job_claim_pick', 'job_claim_keys', 'job_claim_start', 'job_is_outsider', 'job_earlier_runner', 'job_left_to_another', 'job_hand_update',
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
        'job_queue_joins_line', 'job_queue_judge_blocker', 'job_queue_live_blocker',
        'job_queue_delete', 'job_queue_make_cancelled', 'job_queue_make_due',
        'job_queue_before_insert', 'job_queue_note_late', 'job_queue_refusal', 'job_queue_refuse',
        'job_queue_release_waiting', 'job_queue_restore_each', 'job_queue_restore_together', 'job_queue_resume_due',
        'job_queue_settle',
        'job_queue_take_back', 'job_queue_waiting_types',
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
        'job_key_is_full', 'job_key_join_lines', 'job_key_limit', 
        'job_key_running', 'job_key_running_now', 'job_limit_running', 'job_limit_state', 'job_limits_admit', 'job_limits_erase', 'job_limits_forget',
        'job_limits_keep', 'job_limits_refusal',
        'job_limits_refuse_others', 'job_limits_spend', 'job_queue_put_beside', 
        'job_key_opens', 'job_rate_after', 'job_rate_burst', 'job_rate_opens',
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

insert into jobdeck_schema (version) values (6) on conflict (component, version) do nothing;

-- The installer passes the requested prefix in this setting.
select job_grant_roles(nullif(current_setting('jobdeck.roles_prefix', true), ''));
