"""What each role may do with each function and relation. What is not listed here fails a test until it is.

v is the viewer, o the operator, w the worker and the HTTP server. p is the producer, and a role of an
application with the rights that docs/security.md names.
"""

from __future__ import annotations

from typing import Final

FUNCTIONS: Final = {
    # The queue.
    "vow": """
        job_is_scheduled job_matches job_order_key job_payload_matches job_permissions job_queue_counts
        job_queue_due_count job_queue_oldest_due job_queue_type_jobs job_queue_why job_redact_payload job_roles_prefix
        job_sees_payloads job_stat_bucket job_stat_histogram job_outcomes
        job_failure_shares job_queue_backlog job_queue_turn job_queue_await job_has_foreign_roles job_may_read_views
        job_run_last_token job_run_page job_run_page_of job_run_reach job_run_outcomes job_removed_job
        outbox_mask
    """,
    "vo": "outbox_block_list programme_person_kind programme_sent_to",
    "owp": "job_queue_create job_queue_create_once job_queue_create_many job_queue_enqueue job_flow_create "
    "job_series_create",
    "o": """
        job_bulk_choose job_bulk_choose_alike job_bulk_choose_again job_bulk_choose_ids job_bulk_drop
        job_bulk_result job_bulk_start job_bulk_step job_bulk_stop job_queue_act job_queue_clean_stuck
        job_queue_cleanup job_queue_edit job_bulk_start_edit job_bulk_edit_next job_bulk_choose_edited job_note_add
        job_note_acknowledge job_error_mute
        job_queue_pause job_queue_purge job_queue_restore job_queue_resume job_queue_reveal job_queue_run_again
        job_type_set job_runner_switch job_queue_ask_canary job_queue_canary job_queue_skip job_series_pause
        job_flow_cancel
        outbox_campaign_create outbox_campaign_reopen outbox_decide outbox_reveal
        outbox_blocks_of outbox_lift outbox_suppress programme_find_people programme_reveal_sent
        programme_sent_to_address
    """,
    "w": """
        job_alarm_clear job_alarm_raise job_bulk_continue job_bulk_edit_failed job_bulk_edit_take
        job_queue_checkpoint job_queue_claim job_queue_traces
        job_queue_expect_trigger job_queue_finish job_queue_heartbeat job_queue_lock_name job_queue_locked
        job_queue_next_due job_queue_reap job_queue_upkeep job_release_note job_types_declare
        job_types_fill_keys job_worker_remove job_worker_report job_flow_add job_flow_outcomes job_series_short
        job_series_fill job_series_declare job_producer_begin job_producer_hashes job_producer_keep
        job_worker_run_close job_worker_run_note job_worker_run_open
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
        outbox_audience_outlook outbox_campaign_outlook outbox_campaign_stats outbox_e164 outbox_email_ok
        outbox_is_quiet outbox_normal outbox_preview outbox_rank programme_admin_alerts_ahead
        programme_alert_obstacle programme_coaches_ahead programme_competitors_ahead programme_digest_ahead
        programme_find_coaches programme_probe_skips programme_probes_ahead programme_statuses programme_unread
        outbox_erased_known outbox_erasure_check
    """,
    "": """
        job_action_refusal job_actor job_audit_facts job_backoff job_bulk_is_over job_clause_due
        job_bulk_actor job_bulk_advance
        job_clause_first_in_line job_clause_key_free job_clause_pending job_clause_processing job_clause_type_open
        job_clause_unblocked job_clause_unexpired job_delay job_error_fingerprint job_grant_roles job_is_a_time
        job_key_is_busy job_key_is_busy_now job_left_with_success job_make_roles job_next_slot job_queue_absence
        job_queue_advance_lines job_queue_ask_recheck job_queue_check_again job_queue_claim(integer)
        job_queue_delete job_queue_end_expired job_queue_holder
        job_queue_join_lines job_queue_joins_line job_queue_judge_blocker job_queue_lanes job_queue_live_blocker
        job_queue_lock_jobs job_queue_lock_waiting job_queue_make_cancelled job_queue_make_due
        job_queue_mark_failed job_queue_mark_succeeded job_queue_before_insert
        job_queue_note_late job_queue_reap_lost job_queue_refusal job_queue_refuse
        job_earlier_report job_queue_release_waiting job_queue_restore_each job_queue_restore_together
        job_queue_put_off job_queue_resume_due job_queue_retry_lines
        job_queue_settle job_queue_take_back job_queue_take_keys job_queue_try_lines job_queue_try_locks
        job_queue_waiting_types job_queue_write_audit job_refused_key job_slot job_use_roles_prefix
        job_preview_columns job_programme_tables competition_grant_roles outbox_address_changed outbox_apply_batch
        outbox_apply_to_forms outbox_apply_to_messages outbox_apply_to_opt_outs outbox_apply_to_original
        outbox_apply_to_suppressions outbox_apply_together outbox_campaign_adopt outbox_campaign_orphans
        outbox_event_suppression outbox_keep_events outbox_match_events outbox_mirror outbox_outcome_order
        outbox_outranks outbox_overtaken outbox_programme_tables outbox_put_one outbox_taken_back outbox_unmask
        programme_forget_parent_check programme_limit_team programme_queue_admin_alerts programme_shape
        programme_touch
        job_erase_jobs job_erase_payload job_erase_stop job_erase_texts job_erased_facts job_refuse_outsiders
        job_refuse_truncate job_queue_put_all_first job_is_outsider
        job_queue_line_lanes job_queue_lock_next_in_line job_queue_note_open_types job_queue_put_first job_retain
        job_retain_line job_retention_limit job_retention_set job_scrub job_scrub_array job_scrub_json
        job_scrub_literal job_scrub_pattern job_scrub_text job_tables_with_texts job_type_can_run
        job_types_open job_types_that_can_run job_percent job_type_refusal job_canary_change job_canary_hold
        job_canary_refusal job_canary_stands job_queue_judge_canaries job_queue_take_canary job_queue_why_canary
        job_erase_fingerprints job_erase_groups job_error_pattern job_run_is_dry job_stat_add job_stat_bins
        job_stat_edges job_stat_move_error job_stat_seconds job_stats_add_errors job_stats_add_runs
        job_stats_add_times job_stats_compact
        job_stats_judge job_bulk_counted job_bulk_revert job_queue_find_stranded
        job_queue_walk job_queue_walk_on job_queue_check_rows job_queue_take_single_keys
        job_counted_or_about job_finish_rate job_queue_before job_sample_count job_sample_step
        job_backlog_sample job_skip_refusal job_series_refusal job_key_by_rule job_key_of job_queue_after_write
        job_switch_is_on job_earlier_runner job_left_to_another job_hand_update job_hand_interval
        job_refuse_interval
        job_producer_add job_producer_revoke job_awaited_clean
        job_series_refuse_twin
        job_key_hold job_key_is_full job_key_join_lines job_key_limit job_key_opens job_key_places
        job_key_rates_lock job_key_running job_key_running_now job_key_spend job_limit_running job_limit_state
        job_limits_admit job_limits_erase job_limits_forget job_limits_keep job_limits_left job_limits_lock
        job_limits_rank job_limits_refusal job_limits_refuse_others job_limits_spend job_limits_within
        job_queue_put_beside job_rate_after job_rate_burst job_rate_opens job_rate_places job_rate_used
        job_is_member job_flow_asks job_flow_evidence job_flow_fail job_flow_given_of job_flow_insert job_flow_judge
        job_flow_keep_outcomes job_flow_link job_flow_note_blockers job_flow_note_ends job_flow_outcome
        job_flow_refusal job_flow_refuse_canary
        job_flow_refuse_given job_flow_refuse_links job_flow_release job_flow_retain job_flow_wait_again job_flow_waits
        job_schedule_fits job_no_slot job_first_slot job_series_slot job_series_runs_all
        job_run_last_error job_run_attach job_run_bound job_run_delete_old job_run_drop_old job_run_extend
        job_run_goes_soon job_run_guard
        job_run_make job_run_ranges
        job_series_pass_missed
        competition_addresses competition_addresses_of competition_erase competition_erase_competitor
        competition_erase_messages competition_erase_parent competition_erase_profile competition_find_person
        competition_identifiers competition_names competition_refuse_erasure competition_retain competition_tables
        competition_give_back_functions competition_keep_original competition_leftovers competition_missing
        competition_put_back competition_stay competition_take_off competition_undo programme_one_stats_row
        outbox_blocks outbox_read_address outbox_reason outbox_shown programme_describe programme_messages_to
        programme_own_addresses
    """,
}
"""By the roles that may execute them. A name stands for all functions of this name that have no line of their own."""

RELATIONS: Final = {
    "v:read o:read w:read": """
        job_alarms job_audit_list job_list job_paused_types job_queue_settings job_removed_list job_run_list
        job_retention job_trash_list job_types job_upkeep job_worker_runs job_workers jobdeck_schema
        job_error_group_list job_error_groups job_stat_bin_list job_stat_delta job_stat_error_list job_stat_errors
        job_releases job_stat_time_list job_stat_times job_stat_list job_stats job_failing_types job_backlog
        job_error_mutes job_note_list job_flow_list job_flow_member_list job_dependency_list job_producer_list
        outbox_receipts
    """,
    "o:read w:read": """
        job_audit job_bulk job_bulk_items job_canaries job_lines_due job_notes job_poison
        job_flows job_flow_members job_dependencies
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
        job_run_token_seq outbox_left_out_id_seq provider_events_id_seq
        provider_requests_id_seq
    """,
}
"""By what each role may do: read it, read some columns, or write its rows."""
