-- jobdeck competition version 2
--
-- Reads the catalog and changes nothing. The competition uses existing tables and enums of the original application.
-- It refuses those of another application, and names the first difference.

do $$
declare
    v_trouble text;
begin
    if current_schema() <> 'public' then
        raise exception using errcode = 'JD001', message = format(
            'The competition works only in the schema public, not in %s. Take it out of JOBDECK_PLUGINS, or '
            'install into public.', current_schema());
    end if;
    -- Existing tables are the competition's own, because version 1 of the queue always included it.
    if to_regclass('public.jobdeck_schema') is not null then
        if exists (select from public.jobdeck_schema s
            where coalesce(to_jsonb(s) ->> 'component', 'queue') = 'competition'
                or coalesce(to_jsonb(s) ->> 'component', 'queue') = 'queue' and s.version = 1)
        then
            return;
        end if;
    end if;

    select format('type public.%s has no label %s', e.name, label) into v_trouble
    from (values
        ('user_role', 'admin, coach'),
        ('competitor_division', 'middle_school, high_school, college'),
        ('metactf_role', 'coach, user'),
        ('metactf_sync_status', 'pending, user_created, approved, denied, error'),
        ('team_status', 'forming, active, archived')
    ) as e (name, labels), string_to_table(e.labels, ', ') as label
    where to_regtype('public.' || e.name) is not null and not exists (
        select from pg_enum where enumtypid = to_regtype('public.' || e.name) and enumlabel = label)
    limit 1;

    select coalesce(v_trouble, format('table public.%s has no column %s of type %s', t.name, c, t.type)) into v_trouble
    from (values
        ('profiles', 'uuid', 'id'),
        ('profiles', 'text',
            'email, full_name, first_name, last_name, school_name, division, region, game_platform_user_id, '
            'mobile_number, email_alert_address'),
        ('profiles', 'user_role', 'role'),
        ('profiles', 'boolean', 'is_approved, email_alerts_enabled, sms_notifications_enabled, instant_sms_enabled'),
        ('profiles', 'timestamptz', 'game_platform_last_synced_at, created_at, updated_at, last_unread_alert_at'),
        ('profiles', 'integer', 'last_unread_alert_count'),
        ('competitors', 'uuid', 'id, coach_id'),
        ('competitors', 'text',
            'first_name, last_name, email_personal, email_school, grade, gender, race, ethnicity, '
            'level_of_technology, parent_name, parent_email, program_track, status, game_platform_id, '
            'game_platform_sync_error, syned_school_id, syned_region_id, syned_coach_user_id, '
            'parent_email_invalid_reason'),
        ('competitors', 'boolean', 'is_18_or_over, is_active, parent_email_is_valid'),
        ('competitors', 'integer', 'years_competing'),
        ('competitors', 'timestamptz',
            'media_release_date, participation_agreement_date, game_platform_synced_at, created_at, updated_at, '
            'parent_email_validated_at'),
        ('competitors', 'competitor_division', 'division'),
        ('teams', 'uuid', 'id, coach_id'),
        ('teams', 'text',
            'name, division, affiliation, game_platform_id, game_platform_sync_error, syned_coach_user_id, '
            'coach_game_platform_id'),
        ('teams', 'team_status', 'status'),
        ('teams', 'timestamptz', 'game_platform_synced_at, created_at, updated_at'),
        ('team_members', 'uuid', 'id, team_id, competitor_id'),
        ('team_members', 'integer', 'position'),
        ('team_members', 'timestamptz', 'joined_at, game_platform_synced_at'),
        ('team_members', 'text', 'game_platform_sync_error'),
        ('game_platform_profiles', 'uuid', 'id, coach_id, competitor_id'),
        ('game_platform_profiles', 'metactf_role', 'metactf_role'),
        ('game_platform_profiles', 'text', 'synced_user_id, metactf_username, sync_error'),
        ('game_platform_profiles', 'integer', 'metactf_user_id'),
        ('game_platform_profiles', 'metactf_sync_status', 'status'),
        ('game_platform_profiles', 'timestamptz', 'last_synced_at, created_at, updated_at'),
        ('game_platform_teams', 'uuid', 'id, team_id'),
        ('game_platform_teams', 'text', 'synced_team_id, metactf_team_name, sync_error'),
        ('game_platform_teams', 'integer', 'metactf_team_id'),
        ('game_platform_teams', 'metactf_sync_status', 'status'),
        ('game_platform_teams', 'timestamptz', 'last_synced_at, created_at, updated_at'),
        ('game_platform_challenge_solves', 'bigint', 'id, metactf_user_id, challenge_solve_id, challenge_id'),
        ('game_platform_challenge_solves', 'text',
            'synced_user_id, synced_team_id, challenge_title, challenge_category, source'),
        ('game_platform_challenge_solves', 'integer', 'challenge_points'),
        ('game_platform_challenge_solves', 'timestamptz', 'solved_at, created_at'),
        ('game_platform_challenge_solves', 'jsonb', 'raw_payload'),
        ('game_platform_flash_ctf_events', 'bigint', 'id, metactf_user_id'),
        ('game_platform_flash_ctf_events', 'text', 'synced_user_id, event_id, flash_ctf_name'),
        ('game_platform_flash_ctf_events', 'integer', 'challenges_solved, points_earned, rank, max_points_possible'),
        ('game_platform_flash_ctf_events', 'timestamptz', 'started_at, ended_at, created_at'),
        ('game_platform_flash_ctf_events', 'jsonb', 'raw_payload'),
        ('game_platform_sync_state', 'text', 'synced_user_id, last_result, error_message'),
        ('game_platform_sync_state', 'timestamptz',
            'last_odl_synced_at, last_flash_ctf_synced_at, last_remote_accessed_at, last_attempt_at, last_login_at, '
            'updated_at'),
        ('game_platform_sync_state', 'boolean', 'needs_totals_refresh'),
        ('game_platform_stats', 'uuid', 'id, competitor_id'),
        ('game_platform_stats', 'integer', 'challenges_completed, monthly_ctf_challenges, total_score'),
        ('game_platform_stats', 'timestamptz', 'last_activity, synced_at, created_at, updated_at'),
        ('game_platform_sync_runs', 'uuid', 'id'),
        ('game_platform_sync_runs', 'timestamptz', 'started_at, completed_at, created_at'),
        ('game_platform_sync_runs', 'text', 'status, error_message, sync_type'),
        ('game_platform_sync_runs', 'integer', 'competitors_synced, competitors_failed'),
        ('activity_logs', 'uuid', 'id, user_id, entity_id'),
        ('activity_logs', 'text', 'action, entity_type, user_agent'),
        ('activity_logs', 'jsonb', 'metadata'),
        ('activity_logs', 'inet', 'ip_address'),
        ('activity_logs', 'timestamptz', 'created_at'),
        ('game_platform_onboarding', 'uuid', 'competitor_id, coach_id, person_id, job_id'),
        ('game_platform_onboarding', 'text', 'synced_user_id, lap, state, outcome, message'),
        ('game_platform_onboarding', 'bigint', 'run_token'),
        ('game_platform_onboarding', 'timestamptz', 'sent_at, created_at, updated_at'),
        ('game_platform_onboarding', 'text[]', 'sent_fields'),
        ('conversations', 'uuid', 'id, created_by'),
        ('conversations', 'text', 'type, title'),
        ('conversations', 'timestamptz', 'created_at'),
        ('conversation_members', 'uuid', 'conversation_id, user_id'),
        ('conversation_members', 'text', 'role'),
        ('conversation_members', 'timestamptz', 'joined_at, muted_until, last_read_at'),
        ('messages', 'uuid', 'id, conversation_id, sender_id, parent_message_id, thread_root_id'),
        ('messages', 'text', 'body'),
        ('messages', 'jsonb', 'metadata'),
        ('messages', 'boolean', 'high_priority'),
        ('messages', 'timestamptz', 'created_at'),
        ('message_read_receipts', 'uuid', 'id, message_id, user_id'),
        ('message_read_receipts', 'timestamptz', 'read_at, created_at'),
        ('message_user_state', 'uuid', 'id, user_id, message_id'),
        ('message_user_state', 'boolean', 'flagged'),
        ('message_user_state', 'timestamptz', 'archived_at, created_at, updated_at'),
        ('admin_alert_queue', 'uuid', 'id, recipient_id, message_id'),
        ('admin_alert_queue', 'timestamptz', 'created_at'),
        ('alert_log', 'uuid', 'id, coach_id'),
        ('alert_log', 'text', 'channel, error_text'),
        ('alert_log', 'integer', 'unread_count'),
        ('alert_log', 'timestamptz', 'sent_at'),
        ('agreements', 'uuid', 'id, competitor_id'),
        ('agreements', 'text',
            'provider, template_kind, request_id, status, recipient_email_verification_status, '
            'recipient_email_verification_error'),
        ('agreements', 'jsonb', 'metadata, signers'),
        ('agreements', 'timestamptz', 'recipient_email_verification_sent_at, created_at, updated_at'),
        ('competitor_announcement_campaigns', 'uuid', 'id, created_by'),
        ('competitor_announcement_campaigns', 'text', 'subject, body_markdown, body_html, status'),
        ('competitor_announcement_campaigns', 'timestamptz', 'created_at, completed_at'),
        ('competitor_announcement_recipients', 'uuid', 'id, campaign_id, competitor_id'),
        ('competitor_announcement_recipients', 'text', 'email, status, skip_reason, error'),
        ('competitor_announcement_recipients', 'timestamptz', 'opened_at, clicked_at, created_at, updated_at'),
        ('outbox_messages', 'uuid', 'id, recipient_ref, campaign_id, campaign_recipient_id, batch_id, job_id'),
        ('outbox_messages', 'text',
            'kind, channel, address, address_norm, dedupe_key, state, provider_message_id, error_class, error_code, '
            'error_text, last_event'),
        ('outbox_messages', 'jsonb', 'data'),
        ('outbox_messages', 'integer', 'attempts, segments'),
        ('outbox_messages', 'timestamptz',
            'lease_until, next_attempt_at, last_event_at, created_at, accepted_at, updated_at'),
        ('outbox_messages', 'bigint', 'run_token'),
        ('send_batches', 'uuid', 'id, campaign_id, job_id'),
        ('send_batches', 'integer', 'size, http_status'),
        ('send_batches', 'text', 'state, provider_message_id, error_class'),
        ('send_batches', 'bigint', 'run_token'),
        ('send_batches', 'timestamptz', 'created_at, updated_at'),
        ('outbox_left_out', 'bigint', 'id, run_token'),
        ('outbox_left_out', 'timestamptz', 'at'),
        ('outbox_left_out', 'uuid', 'job_id, recipient_ref'),
        ('outbox_left_out', 'text', 'kind, channel, reason'),
        ('email_suppressions', 'text', 'address_norm, reason, scope, source'),
        ('email_suppressions', 'timestamptz', 'created_at, expires_at'),
        ('sms_opt_outs', 'text', 'phone_e164, source'),
        ('sms_opt_outs', 'timestamptz', 'created_at, cleared_at'),
        ('provider_events', 'bigint', 'id'),
        ('provider_events', 'text', 'provider, event_key, event, message_key, address_norm, reason, result'),
        ('provider_events', 'timestamptz', 'occurred_at, received_at, applied_at'),
        ('provider_events', 'uuid', 'outbox_id, campaign_id, competitor_id, agreement_id'),
        ('provider_events', 'jsonb', 'payload'),
        ('provider_events', 'integer', 'failures'),
        ('provider_requests', 'bigint', 'id'),
        ('provider_requests', 'text', 'digest, signature, signed_at'),
        ('provider_requests', 'text[]', 'about'),
        ('provider_requests', 'bytea', 'body'),
        ('provider_requests', 'timestamptz', 'received_at, next_at'),
        ('provider_requests', 'integer', 'attempts'),
        ('provider_cursors', 'text', 'name, position'),
        ('provider_cursors', 'timestamptz', 'updated_at'),
        ('provider_rates', 'text', 'provider'),
        ('provider_rates', 'timestamptz', 'due_at, closed_until'),
        ('outbox_erasure_key', 'text', 'check_value'),
        ('outbox_erasure_key', 'timestamptz', 'since')
    ) as t (name, type, columns), string_to_table(t.columns, ', ') as c
    where v_trouble is not null or to_regclass('public.' || t.name) is not null and not exists (
        select from pg_attribute a where a.attrelid = to_regclass('public.' || t.name) and a.attname = c
            and a.atttypid = to_regtype(t.type) and a.attnum > 0 and not a.attisdropped)
    limit 1;

    if v_trouble is not null then
        raise exception using errcode = 'JD001', message = format(
            'The %s, so it is not the one that the competition works with. Take the competition out '
            'of JOBDECK_PLUGINS, or give it a database of its own.', v_trouble);
    end if;
end
$$;
