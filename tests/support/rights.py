"""What each role may do with each function and relation. A relation that is not listed here fails a test until it is.

v is the viewer, o the operator, w the worker and the HTTP server. p is the producer, and a role of an
application with the rights that docs/security.md names.
"""

from __future__ import annotations

from typing import Final

FUNCTIONS: Final = {
    # The queue.
    "vow": """
        job_is_scheduled job_matches job_order_key job_payload_matches job_permissions job_queue_counts
        job_queue_oldest_due job_queue_type_jobs job_queue_why job_redact_payload job_roles_prefix
        job_sees_payloads job_stat_bucket job_stat_histogram job_outcomes
        job_failure_shares job_queue_backlog job_queue_turn job_queue_await job_has_foreign_roles job_may_read_views
        job_run_last_token job_run_page job_run_page_of job_run_steps job_run_reach job_run_outcomes job_removed_job
        job_worker_is_alive job_queue_cannot_run job_slots job_facets job_hold_jobs
        job_is_hold job_is_held job_lost_runs job_runs_by_job outbox_mask
    """,
    "vo": "outbox_block_list programme_person_kind programme_sent_to",
    "owp": "job_queue_create job_queue_create_with job_queue_create_many job_queue_enqueue job_flow_create "
    "job_series_create",
    "o": """
        job_bulk_choose job_bulk_drop job_bulk_start job_bulk_step job_bulk_stop job_queue_act job_queue_clean_stuck
        job_queue_cleanup job_queue_edit job_note_add job_note_acknowledge job_error_mute
        job_queue_pause job_queue_purge job_queue_restore job_queue_resume job_queue_reveal job_queue_run_again
        job_type_set competition_switch job_queue_ask_canary job_queue_canary job_series_act
        job_flow_cancel job_hold job_hold_reach job_hold_step job_release
        outbox_campaign_create outbox_campaign_reopen outbox_decide outbox_reveal
        outbox_blocks_of outbox_lift outbox_suppress programme_find_people programme_reveal_sent
        programme_sent_to_address
    """,
    "w": """
        job_alarm_clear job_alarm_raise job_bulk_continue job_bulk_failed job_bulk_take
        job_queue_checkpoint job_queue_claim job_queue_set_aside job_queue_timeouts job_queue_traces
        job_queue_expect_trigger job_queue_finish job_queue_heartbeat job_queue_lock_name job_queue_locked
        job_queue_next_due job_queue_upkeep job_types_code job_types_declare
        job_types_fill_keys job_worker_remove job_worker_report job_flow_add job_flow_outcomes
        job_series_short job_series_fill job_series_declare job_producer_begin job_producer_hashes job_producer_keep
        job_worker_run_note job_worker_run_open
        outbox_apply_events outbox_audience outbox_campaign_batch outbox_campaign_close outbox_campaign_hold
        outbox_campaign_release outbox_campaign_start outbox_claim outbox_close_provider outbox_closed_for
        outbox_has_address outbox_leave_out outbox_obstacle outbox_preference_off outbox_put
        outbox_recipient_obstacle outbox_record_events outbox_record_pulled outbox_reserve outbox_retire_probes
        outbox_settle outbox_settle_batch outbox_suppression outbox_sweep programme_digest_due programme_probes_due
        programme_probes_judged outbox_campaign_skip outbox_erased outbox_note_upkeep
        outbox_request_keep outbox_request_settle outbox_request_take competition_key_of_solves
    """,
    "ow": """
        job_bulk_edit_step
        competition_earlier_runner
        outbox_audience_outlook outbox_campaign_outlook outbox_campaign_stats outbox_e164 outbox_email_ok
        outbox_is_quiet outbox_normal outbox_preview outbox_rank programme_admin_alerts_ahead
        programme_alert_obstacle programme_coaches_ahead programme_competitors_ahead programme_digest_ahead
        programme_find_coaches programme_probe_skips programme_probes_ahead programme_statuses programme_unread
        outbox_erased_known outbox_erasure_check
    """,
    "": "job_queue_claim(integer)",
}
"""By the roles that may execute them; only the owner executes a function that is not listed.

A name stands for all functions of this name that have no line of their own.
"""

RELATIONS: Final = {
    "v:read o:read w:read": """
        job_alarms job_audit_list job_list job_paused_queues job_paused_types job_queue_settings job_removed_list
        job_run_list job_retention job_trash_list job_types job_type_values job_upkeep job_worker_runs job_workers
        jobdeck_schema job_error_group_list job_error_groups job_stat_delta job_stat_error_list
        job_stat_errors job_releases job_timeouts job_stat_list job_stats
        job_failing_types job_backlog
        job_error_mutes job_note_list job_flow_list job_flow_member_list job_dependency_list job_producer_list
        job_hold_list outbox_receipts
    """,
    "o:read w:read": """
        job_audit job_bulk job_bulk_items job_canaries job_notes job_poison
        job_flows job_flow_members job_dependencies job_holds
        job_queue job_recheck job_runs job_trash job_key_rates job_unique_keys
        provider_rates send_batches
    """,
    "o:read w:write": "competitor_announcement_campaigns provider_cursors",
    "o:columns w:read": "outbox_messages",
    "o:columns w:write": """
        admin_alert_queue competitor_announcement_recipients competitors game_platform_flash_ctf_events
        game_platform_onboarding game_platform_profiles game_platform_sync_state game_platform_teams
        message_read_receipts message_user_state profiles team_members teams
    """,
    "w:read": """
        email_suppressions outbox_erasure_key outbox_left_out provider_events provider_requests sms_opt_outs
    """,
    "w:write": """
        activity_logs agreements alert_log conversation_members conversations game_platform_challenge_solves
        game_platform_stats game_platform_stats_duplicates game_platform_sync_runs messages
    """,
    "": """
        jobdeck_replaced
        game_platform_challenge_solves_id_seq game_platform_flash_ctf_events_id_seq job_audit_id_seq job_locks
        job_notes_id_seq job_producers job_producer_keys job_awaited job_run_partitions job_runs_0 job_runs_10000000
        job_holds_number_seq job_run_token_seq outbox_left_out_id_seq provider_events_id_seq
        provider_requests_id_seq
    """,
}
"""By what each role may do: read it, read some columns, or write its rows."""
