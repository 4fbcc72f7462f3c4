-- The functions of the queue: their names, and how many arguments each takes.
--
-- By this list functions are closed and bound to the schema, so that those of an application keep their rights and
-- settings. "python -m jobdeck.core.schema.checksums" writes it, from the heads in the other parts.

create or replace function job_own_functions() returns table (function regprocedure, name text)
language sql stable
as $$
    select p.oid::regprocedure, p.proname
    from regexp_matches($list$
        job_actor/1 job_alarm_clear/1 job_alarm_raise/1 job_audit_facts/1 job_backlog_sample/0 job_backoff/3 job_batch_id/2
        job_batch_place/1 job_batch_time/0 job_bind_functions/0 job_blocker_outcome/1 job_blocker_verdict/1
        job_bulk_carry_out/4 job_bulk_choose/17 job_bulk_continue/2 job_bulk_drop/1 job_bulk_edit/5 job_bulk_edit_step/3
        job_bulk_failed/2 job_bulk_is_over/2 job_bulk_next/2 job_bulk_start/5 job_bulk_step/3 job_bulk_stop/2
        job_bulk_take/3 job_canary_obstacle/1 job_canary_stands/2 job_claim_keys/2 job_claim_lanes/1 job_claim_left/2
        job_claim_pick/5 job_claim_rank/4 job_claim_series/4 job_claim_start/8 job_claim_try/2 job_claim_unheld/4
        job_claim_within/2 job_clause_claimable/1 job_clause_due/2 job_clause_first_in_line/1 job_clause_key_free/2
        job_clause_missed/2 job_clause_pending/1 job_clause_processing/1 job_clause_startable/2 job_clause_type_open/2
        job_clause_unblocked/1 job_clause_unexpired/2 job_clause_unmissed/2 job_delay/1 job_erase_fingerprints/2
        job_erase_groups/1 job_erase_jobs/2 job_erase_keys/2 job_erase_left/2 job_erase_payload/3 job_erase_squeezed/1
        job_erase_stop/2 job_erase_texts/2 job_erased_facts/1 job_erased_mark/0 job_error_fingerprint/2 job_error_mute/5
        job_error_pattern/1 job_facets/3 job_failure_shares/2 job_first_slot/2 job_flow_add/4 job_flow_asks/1
        job_flow_callback/1 job_flow_cancel/4 job_flow_create/3 job_flow_evidence/1 job_flow_given_of/2 job_flow_insert/5
        job_flow_link/1 job_flow_note_ends/1 job_flow_outcomes/1 job_flow_refusal/1 job_flow_retain/2 job_flow_wait_again/1
        job_flow_waits/1 job_grant_functions/5 job_grant_relations/4 job_grant_roles/1 job_hand_update/0 job_hand_values/0
        job_has_begun/1 job_has_foreign_roles/0 job_hold/6 job_hold_jobs/2 job_hold_mark/2 job_hold_of/2 job_hold_reach/5
        job_hold_step/2 job_is_a_time/1 job_is_held/1 job_is_hold/1 job_is_member/1 job_is_outsider/0 job_is_put_off/1
        job_is_scheduled/1 job_judge_waiting/1 job_key_behind/1 job_key_by_rule/3 job_key_hashes_erase/1 job_key_is_busy/1
        job_key_is_declared/1 job_key_limit/1 job_key_of/2 job_key_opens/3 job_key_running/1 job_lanes_until/2
        job_last_deed/2 job_last_runs/2 job_left_to_another/1 job_limit_running/1 job_limit_state/2 job_limits_admit/3
        job_limits_keep/2 job_limits_mark/0 job_limits_refusal/1 job_limits_refuse_others/1 job_limits_spend/3
        job_lock_slot/1 job_lost_runs/3 job_make_roles/1 job_matches/17 job_may_read_views/0 job_new_error/2 job_next_slot/3
        job_no_slot/0 job_note_acknowledge/2 job_note_add/3 job_order_key/10 job_outcomes/1 job_own_functions/0
        job_payload_matches/5 job_percent/1 job_permissions/0 job_place_holder/1 job_priority_fits/1 job_producer_add/7
        job_producer_begin/4 job_producer_hashes/0 job_producer_keep/4 job_producer_revoke/2 job_queue_absence/2
        job_queue_act/6 job_queue_add/10 job_queue_add_behind/10 job_queue_advance_lines/2 job_queue_after_write/0
        job_queue_ask_canary/5 job_queue_ask_recheck/3 job_queue_await/2 job_queue_backlog/2 job_queue_before/2
        job_queue_before_insert/0 job_queue_canary/1 job_queue_cannot_run/1 job_queue_check_again/2 job_queue_check_rows/2
        job_queue_checkpoint/3 job_queue_claim/10 job_queue_clean_stuck/4 job_queue_cleanup/1 job_queue_counts/1
        job_queue_create/11 job_queue_create_many/9 job_queue_create_replacing/10 job_queue_create_with/12
        job_queue_due_since/1 job_queue_edit/6 job_queue_end_expired/1 job_queue_enqueue/4 job_queue_expect_trigger/1
        job_queue_finish/9 job_queue_heartbeat/6 job_queue_held_places/2 job_queue_held_types/1 job_queue_holder/1
        job_queue_insert/10 job_queue_join_lines/5 job_queue_joins_line/4 job_queue_judge/10 job_queue_judge_canaries/0
        job_queue_line_lanes/2 job_queue_live_blocker/1 job_queue_lock_jobs/1 job_queue_lock_name/1
        job_queue_lock_next_in_line/3 job_queue_lock_waiting/2 job_queue_locked/2 job_queue_long_runs/1
        job_queue_make_cancelled/3 job_queue_make_deleted/5 job_queue_make_due/1 job_queue_newer_payloads/1
        job_queue_next_due/1 job_queue_note_late/6 job_queue_note_open_types/0 job_queue_oldest_due/0 job_queue_pause/5
        job_queue_purge/4 job_queue_put_all_first/2 job_queue_put_beside/2 job_queue_put_first/3 job_queue_put_off/4
        job_queue_put_off_since/3 job_queue_reap_lost/2 job_queue_refusal/3 job_queue_refuse/1 job_queue_release_waiting/2
        job_queue_replace/7 job_queue_restore/4 job_queue_resume/3 job_queue_resume_due/0 job_queue_reveal/2
        job_queue_run_again/7 job_queue_set_aside/3 job_queue_settle/10 job_queue_take_back/5 job_queue_take_canary/3
        job_queue_timeouts/1 job_queue_traces/1 job_queue_try_locks/1 job_queue_turn/1 job_queue_type_jobs/1
        job_queue_upkeep/3 job_queue_waiting_types/0 job_queue_walk/3 job_queue_why/1 job_queue_why_canary/3
        job_queue_write_audit/6 job_rate_after/6 job_rate_burst/3 job_rate_opens/5 job_rate_places/5 job_rate_used/5
        job_redact_payload/1 job_refusal/7 job_refuse_interval/0 job_refuse_long_values/4 job_refuse_outsiders/0
        job_refuse_rhythm/3 job_refuse_truncate/0 job_release/2 job_release_note/1 job_release_precedes/2 job_removed_job/1
        job_retain/2 job_retain_line/3 job_retention_limit/1 job_retention_set/3 job_roles_prefix/0 job_run_attach/3
        job_run_bound/0 job_run_delete_old/2 job_run_drop_old/0 job_run_extend/0 job_run_goes_soon/1 job_run_guard/1
        job_run_is_dry/2 job_run_last_error/1 job_run_last_token/0 job_run_make/1 job_run_of/8 job_run_outcomes/2
        job_run_page/6 job_run_page_of/6 job_run_ranges/0 job_run_reach/3 job_run_steps/2 job_runs_by_job/3
        job_runs_record/2 job_schedule_fits/4 job_scrub/3 job_scrub_about/2 job_scrub_array/2 job_scrub_character/1
        job_scrub_columns/1 job_scrub_expression/1 job_scrub_hit/2 job_scrub_json/3 job_scrub_replaced/2 job_scrub_rules/1
        job_scrub_text/3 job_scrub_whole/3 job_sees_payloads/0 job_series_act/6 job_series_add/13 job_series_create/12
        job_series_declare/3 job_series_fill/6 job_series_pass_missed/1 job_series_read/1 job_series_refusal/4
        job_series_runs_all/1 job_series_short/2 job_series_slot/5 job_slot_state/1 job_slots/1 job_slots_fit/1
        job_stat_add/2 job_stat_bins/2 job_stat_bucket/2 job_stat_edges/0 job_stat_histogram/2 job_stat_seconds/1
        job_stats_add_errors/1 job_stats_add_runs/1 job_stats_compact/1 job_stats_judge/1 job_tables_with_texts/0
        job_timeout_fits/1 job_type_can_run/2 job_type_pause/2 job_type_set/4 job_types_code/3 job_types_declare/2
        job_types_fill_keys/3 job_types_open/4 job_types_that_can_run/1 job_use_roles_prefix/1 job_usual_seconds/1
        job_value_names/0 job_values_held/3 job_values_own/3 job_worker_is_alive/2 job_worker_remove/1 job_worker_report/9
        job_worker_run_note/11 job_worker_run_open/3
    $list$, '(\w+)/(\d+)', 'g') f join pg_proc p on p.proname = f[1] and p.pronargs = f[2]::integer
    where p.pronamespace = quote_ident(current_schema())::regnamespace
$$;
