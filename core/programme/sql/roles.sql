-------------------------------------------------------------------------------------------------------
-- Rights of the roles
-------------------------------------------------------------------------------------------------------

-- Tables of the competition that the worker reads and writes directly.
create or replace function public.job_programme_tables() returns setof text
language sql immutable
set search_path = public, pg_temp
as $$
    select unnest(array['profiles', 'competitors', 'teams', 'team_members', 'game_platform_profiles',
        'game_platform_teams', 'game_platform_challenge_solves', 'game_platform_flash_ctf_events',
        'game_platform_sync_state', 'game_platform_stats', 'game_platform_stats_duplicates',
        'game_platform_sync_runs', 'game_platform_onboarding', 'activity_logs'])
$$;

create or replace function public.outbox_programme_tables() returns setof text
language sql immutable
set search_path = public, pg_temp
as $$
    select unnest(array['conversations', 'conversation_members', 'messages', 'message_read_receipts',
        'message_user_state', 'admin_alert_queue', 'alert_log', 'agreements', 'competitor_announcement_campaigns',
        'competitor_announcement_recipients', 'provider_cursors'])
$$;

-- The columns that commands and previews read from tables that an operator may not read completely. They hold no
-- address, name or number and no text of a message; for these there are the preview functions.
create or replace function public.job_preview_columns() returns table (relation text, columns text)
language sql immutable
set search_path = public, pg_temp
as $$
    values
        ('admin_alert_queue', 'recipient_id, message_id, sent_at, dropped_at, outbox_id'),
        ('message_user_state', 'id, message_id, user_id, archived_at'),
        ('message_read_receipts', 'message_id, user_id'),
        ('competitors', 'id, coach_id, created_at, is_active, status, game_platform_id, syned_school_id, '
            'syned_region_id, syned_coach_user_id'),
        ('profiles', 'id, role, is_approved, school_name, region, division, game_platform_user_id'),
        ('outbox_messages', 'id, kind, channel, state, campaign_id, provider_message_id, accepted_at, updated_at'),
        ('competitor_announcement_recipients', 'id, campaign_id, competitor_id, status, skip_reason, opened_at, '
            'clicked_at'),
        ('teams', 'id, coach_id, name, division, affiliation, status, game_platform_id, syned_coach_user_id, '
            'coach_game_platform_id, created_at'),
        ('team_members', 'id, team_id, competitor_id, joined_at'),
        ('game_platform_profiles', 'coach_id, competitor_id, synced_user_id, metactf_user_id, status'),
        ('game_platform_teams', 'team_id, synced_team_id'),
        ('game_platform_sync_state', 'synced_user_id, last_login_at, last_odl_watermark_unix, last_odl_full_at, '
            'last_flash_checked_at, needs_totals_refresh, totals_dirty_at'),
        ('game_platform_flash_ctf_events', 'started_at'),
        ('game_platform_onboarding', 'person_id, lap, state, outcome, message')
$$;

drop function if exists public.outbox_grant_roles();
-- Grants the competition's rights. Called by job_grant_roles.
create or replace function public.competition_grant_roles() returns void
language plpgsql
set search_path = public, pg_temp
as $$
declare
    v_name text;
    v_object text;
    v_columns text;
    v_guarded boolean;
    v_operator text;
    v_worker text;
    v_viewer text;
    v_service text;
    -- The roles of the original's host, which get rights on all new objects by its default privileges.
    v_outsiders constant text := (select string_agg(quote_ident(rolname), ', ' order by rolname) from pg_roles
        where rolname in ('anon', 'authenticated', 'service_role'));
    v_public_key constant text := (select string_agg(quote_ident(rolname), ', ' order by rolname) from pg_roles
        where rolname in ('anon', 'authenticated'));
    v_tables constant text[] := array(select t from job_programme_tables() t union all
        select t from outbox_programme_tables() t);
    -- Those that the application did not have, which is recorded when the installation has made them; and their sequences.
    v_made constant text[] := array(
        select t from unnest(v_tables) t
        where exists (select from jobdeck_schema s where s.component = 'competition' and s.catalog is not null)
            and not exists (select from jobdeck_schema s where s.component = 'competition' and s.catalog -> 'adopted' ? t));
    v_sequences constant text[] := array(
        select c.relname from pg_class c join pg_depend d on d.objid = c.oid and d.deptype in ('a', 'i')
        where c.relkind = 'S' and d.refobjid in (select to_regclass('public.' || quote_ident(t)) from unnest(v_made) t));
    v_ledger constant text[] := array['outbox_messages', 'send_batches', 'outbox_left_out', 'email_suppressions',
        'sms_opt_outs', 'provider_events', 'provider_requests', 'provider_rates', 'outbox_erasure_key'];
    v_work constant text[] := array['outbox_put', 'outbox_leave_out', 'outbox_claim', 'outbox_settle', 'outbox_sweep',
        'outbox_reserve', 'outbox_close_provider', 'outbox_closed_for', 'outbox_campaign_hold', 'outbox_campaign_start',
        'outbox_campaign_batch', 'outbox_settle_batch', 'outbox_campaign_close', 'outbox_campaign_release',
        'outbox_campaign_skip', 'outbox_erased', 'outbox_erased_known', 'outbox_erasure_check', 'outbox_note_upkeep',
        'outbox_record_events', 'outbox_record_pulled', 'outbox_apply_events', 'outbox_retire_probes',
        'outbox_request_keep', 'outbox_request_take', 'outbox_request_settle'];
    v_operate constant text[] := array['outbox_decide', 'outbox_campaign_create', 'outbox_campaign_reopen',
        'outbox_erased_known', 'outbox_erasure_check', 'outbox_reveal', 'outbox_suppress', 'outbox_lift',
        'outbox_blocks_of', 'competition_switch', 'programme_find_people', 'programme_sent_to_address',
        'programme_reveal_sent'];
    -- Masked addresses of messages and of blocks, by id alone: who only looks may not ask about a name or an address.
    v_see constant text[] := array['outbox_block_list', 'programme_person_kind', 'programme_sent_to'];
    v_judge constant text[] := array['competition_key_of_solves', 'outbox_suppression', 'outbox_obstacle',
        'outbox_preference_off', 'outbox_recipient_obstacle', 'outbox_has_address', 'outbox_audience',
        'programme_digest_due', 'programme_probes_due', 'programme_probes_judged'];
    v_look constant text[] := array['outbox_normal', 'outbox_email_ok', 'outbox_e164', 'outbox_mask', 'outbox_is_quiet',
        'competition_earlier_runner', 'outbox_audience_outlook', 'outbox_campaign_outlook', 'outbox_campaign_stats',
        'outbox_rank', 'outbox_preview',
        'programme_unread', 'programme_alert_obstacle', 'programme_digest_ahead', 'programme_admin_alerts_ahead',
        'programme_probe_skips', 'programme_probes_ahead', 'programme_competitors_ahead', 'programme_coaches_ahead',
        'programme_statuses', 'programme_find_coaches'];
    v_inner constant text[] := array['job_preview_columns', 'job_programme_tables', 'job_queue_mark_failed',
        'job_queue_mark_succeeded', 'job_earlier_report', 'outbox_address_changed', 'outbox_apply_batch',
        'outbox_apply_to_forms', 'outbox_apply_to_messages', 'outbox_apply_to_opt_outs', 'outbox_apply_to_original',
        'outbox_apply_to_suppressions', 'outbox_apply_together', 'outbox_campaign_adopt', 'outbox_campaign_orphans',
        'outbox_event_suppression', 'outbox_keep_events', 'outbox_match_events', 'outbox_mirror',
        'outbox_outcome_order', 'outbox_outranks', 'outbox_overtaken', 'outbox_programme_tables', 'outbox_put_one',
        'outbox_taken_back', 'outbox_unmask', 'programme_forget_parent_check', 'programme_limit_team',
        'programme_queue_admin_alerts', 'programme_shape', 'programme_touch', 'programme_one_stats_row',
        'competition_columns', 'competition_hold', 'competition_leftovers', 'competition_stay', 'competition_undo', 'competition_take_off',
        'competition_give_back_functions', 'competition_put_back', 'competition_missing', 'competition_keep_original',
        'competition_addresses', 'competition_addresses_of', 'competition_erase', 'competition_erase_competitor',
        'competition_erase_messages', 'competition_erase_parent', 'competition_erase_profile',
        'competition_find_person', 'competition_grant_roles', 'competition_identifiers', 'competition_names', 'competition_others',
        'competition_refuse_erasure', 'competition_retain', 'competition_tables', 'outbox_blocks', 'outbox_shown',
        'outbox_read_address', 'outbox_reason', 'programme_describe', 'programme_messages_to',
        'programme_own_addresses'];
    v_of_original constant text[] := array['job_queue_enqueue(text,jsonb,timestamp with time zone,integer)',
        'job_queue_cleanup(interval)', 'job_queue_claim(integer)', 'job_queue_mark_succeeded(uuid,jsonb)',
        'job_queue_mark_failed(uuid,text,integer)', 'job_queue_mark_failed(uuid,text,interval)'];
begin
    select quote_ident(max(rolname) filter (where rolname = job_roles_prefix() || 'viewer')),
        quote_ident(max(rolname) filter (where rolname = job_roles_prefix() || 'operator')),
        quote_ident(max(rolname) filter (where rolname = job_roles_prefix() || 'worker')),
        max(rolname) filter (where rolname = 'service_role')
    into v_viewer, v_operator, v_worker, v_service from pg_roles;
    for v_object, v_name in
        select p.oid::regprocedure, p.proname from pg_proc p
        where p.pronamespace = 'public'::regnamespace
            and (p.proname = any (v_work || v_operate || v_see || v_judge || v_look || v_inner)
                or p.oid = to_regprocedure('job_queue_claim(integer)'))
    loop
        execute format('revoke all on function %s from %s', v_object, concat_ws(', ', 'public', v_outsiders));
        -- Rights that an earlier release granted and that the role must not keep.
        if v_operator is not null then
            execute format('revoke all on function %s from %s', v_object, v_operator);
        end if;
        if v_viewer is not null and (v_name = 'outbox_mask' or v_name = any (v_see)) then
            execute format('grant execute on function %s to %s', v_object, v_viewer);
        end if;
        if v_worker is not null and v_name = any (v_work || v_judge || v_look) then
            execute format('grant execute on function %s to %s', v_object, v_worker);
        end if;
        if v_operator is not null and v_name = any (v_operate || v_see || v_look) then
            execute format('grant execute on function %s to %s', v_object, v_operator);
        end if;
    end loop;
    if job_has_foreign_roles() then
        execute format('revoke all on jobdeck_replaced from %s', v_outsiders);
        alter table jobdeck_replaced enable row level security;
        execute 'create or replace trigger jobdeck_refuse_truncate before truncate on jobdeck_replaced '
            'for each statement execute function job_refuse_truncate()';
    end if;
    -- In the original, the session of an admin could call this. The function refuses it with a sentence.
    if v_public_key like '%authenticated%' and exists (select from jobdeck_replaced r where r.kind = 'function') then
        grant execute on function job_queue_enqueue(text, jsonb, timestamptz, integer) to authenticated;
    end if;
    -- The original's callers use this role.
    if v_service is not null then
        foreach v_object in array v_of_original loop
            continue when to_regprocedure(v_object) is null;
            execute format('grant execute on function %s to service_role', v_object);
        end loop;
    end if;
    for v_object, v_name, v_guarded in
        select c.oid::regclass, c.relname, c.relrowsecurity from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p', 'S') and c.relname = any (
            v_tables || v_sequences || v_ledger || array['outbox_receipts', 'outbox_left_out_id_seq', 'provider_events_id_seq',
                'provider_requests_id_seq'])
    loop
        -- Personal data must not be readable with the host's public key.
        if v_public_key is not null and not v_guarded then
            execute format('revoke all on %s from %s', v_object, v_public_key);
        end if;
        -- Tables of the application keep the row security that it gave them.
        if job_has_foreign_roles() and not v_guarded and v_name = any (v_ledger || v_made) then
            if v_name = any (v_ledger) then
                execute format('revoke all on %s from %s', v_object, v_outsiders);
            end if;
            execute format('alter table %s enable row level security', v_object);
            execute format('create or replace trigger jobdeck_refuse_truncate before truncate on %s for each statement '
                'execute function job_refuse_truncate()', v_object);
            v_guarded := true;
        end if;
        if v_guarded and v_worker is not null and v_operator is not null and v_name = any (v_ledger) and not exists (
            select from pg_policy where polrelid = v_object::regclass and polname = 'jobdeck_read')
        then
            execute format('create policy jobdeck_read on %s for select to %s, %s using (true)', v_object, v_worker,
                v_operator);
        end if;
        if v_guarded and v_worker is not null and v_name = any (v_tables) and not exists (
            select from pg_policy where polrelid = v_object::regclass and polname = 'jobdeck_work')
        then
            execute format('create policy jobdeck_work on %s to %s using (true) with check (true)', v_object, v_worker);
        end if;
        -- Grants restrict what an operator may read or write.
        if v_guarded and v_operator is not null and v_name = any (v_tables) and not exists (
            select from pg_policy where polrelid = v_object::regclass and polname = 'jobdeck_operate')
        then
            execute format('create policy jobdeck_operate on %s to %s using (true) with check (true)', v_object,
                v_operator);
        end if;
        if v_viewer is not null and v_name = 'outbox_receipts' then
            execute format('grant select on %s to %s', v_object, v_viewer);
        end if;
        if v_operator is not null and v_name = any (v_ledger || v_tables) then
            execute format('revoke all on %s from %s', v_object, v_operator);
        end if;
        if v_operator is not null and v_name in ('outbox_receipts', 'send_batches', 'provider_rates',
            'provider_cursors', 'competitor_announcement_campaigns')
        then
            execute format('grant select on %s to %s', v_object, v_operator);
        end if;
        if v_worker is not null and v_name = any (v_ledger || array['outbox_receipts']) then
            execute format('grant select on %s to %s', v_object, v_worker);
        end if;
        if v_worker is not null and v_name = any (v_tables) then
            execute format('grant select, insert, update, delete on %s to %s', v_object, v_worker);
        end if;
    end loop;
    -- Tables of the original may lack a column.
    for v_object, v_columns in
        select a.attrelid::regclass, string_agg(quote_ident(a.attname), ', ')
        from job_preview_columns() t join pg_attribute a on a.attrelid = to_regclass('public.' || t.relation)
            and a.attname = any (string_to_array(t.columns, ', '))
        where v_operator is not null group by 1
    loop
        execute format('grant select (%s) on %s to %s', v_columns, v_object, v_operator);
    end loop;
end
$$;

do $$
begin
    if not exists (select from public.jobdeck_schema where component = 'competition' and version = 1) then
        insert into public.jobdeck_schema (component, version) values ('competition', 1);
    end if;
end
$$;

select public.job_grant_roles();
