"""What the original writes into its other tables works before Jobdeck, beside it, and after the switch."""

from __future__ import annotations

from typing import Final

import psycopg
import pytest

from tests.core.programme.original_stages import BEFORE, acting, count, run
from tests.support.original_statements import ADA, ALAN, CAMPAIGN, KIM, LEE, MESSAGE, PAGE, SERVICE, TALK, TEAM
from tests.support.queue import Connection

pytestmark = pytest.mark.installation

SEND: Final = """
INSERT INTO messages (conversation_id, sender_id, body, high_priority) VALUES (%s, %s, 'An example.', %s) RETURNING id
"""
ALERT: Final = """
INSERT INTO admin_alert_queue (recipient_id, message_id)
SELECT user_id, %s FROM conversation_members JOIN profiles AS p ON p.id = user_id WHERE p.role = 'admin'
ON CONFLICT (recipient_id, message_id)
DO UPDATE SET recipient_id = excluded.recipient_id, message_id = excluded.message_id
"""


class TestMessages:
    def test_a_message_and_the_alerts_of_the_page(self, staged: Connection) -> None:
        (sent,) = run(staged, PAGE, SEND, TALK, ALAN, False, user=ALAN)
        for _ in range(2):
            assert count(staged, SERVICE, ALERT, sent["id"]) == 2
        assert staged.value("SELECT count(*) FROM admin_alert_queue WHERE message_id = %s", sent["id"]) == 2

    def test_an_urgent_message_has_its_alert_job_whoever_enqueues_it(self, staged: Connection, stage: str) -> None:
        (sent,) = run(staged, PAGE, SEND, TALK, ALAN, True, user=ALAN)
        count(staged, SERVICE, ALERT, sent["id"])
        jobs = "SELECT count(*) FROM job_queue WHERE task_type = 'admin_alert_dispatch' AND status = 'pending'"
        assert staged.value(jobs) == (0 if stage == BEFORE else 1)
        run(staged, SERVICE, "SELECT job_queue_enqueue('admin_alert_dispatch', %s)", '{"roles": ["admin"]}')
        assert staged.value(jobs) >= 1

    def test_the_alerts_go_when_they_were_sent(self, staged: Connection) -> None:
        statement = "DELETE FROM admin_alert_queue WHERE recipient_id = %s AND message_id = ANY (%s::uuid[])"
        grace = "ad000000-0000-4000-8000-000000000002"
        assert count(staged, SERVICE, statement, grace, [MESSAGE]) == 1


class TestPlatform:
    def test_a_solve_of_the_same_person_and_number_replaces_the_one_before(self, staged: Connection) -> None:
        statement = """
            INSERT INTO game_platform_challenge_solves (synced_user_id, challenge_solve_id, challenge_title,
                challenge_points, source)
            VALUES (%s, 1819, 'Other', 50, 'flash_ctf'), (%s, 99, 'New', 10, 'odl')
            ON CONFLICT (synced_user_id, challenge_solve_id)
            DO UPDATE SET challenge_title = excluded.challenge_title, challenge_points = excluded.challenge_points,
                source = excluded.source
        """
        assert count(staged, SERVICE, statement, KIM, KIM) == 2
        found = staged.rows("SELECT * FROM game_platform_challenge_solves WHERE challenge_solve_id = 1819")
        assert [(row["challenge_title"], row["source"]) for row in found] == [("Other", "flash_ctf")]

    def test_a_second_row_of_statistics_of_a_person_is_accepted_and_left_out(
        self, staged: Connection, stage: str
    ) -> None:
        statement = "INSERT INTO game_platform_stats (competitor_id, challenges_completed) VALUES (%s, %s)"
        assert count(staged, SERVICE, statement, LEE, 7) == 1
        count(staged, SERVICE, statement, LEE, 0)
        found = staged.rows("SELECT * FROM game_platform_stats WHERE competitor_id = %s", LEE)
        assert [row["challenges_completed"] for row in found] == ([7, 0] if stage == BEFORE else [7])

    def test_the_statistics_are_read_and_written_by_person(self, staged: Connection) -> None:
        found = run(staged, SERVICE, "SELECT * FROM game_platform_stats WHERE competitor_id = %s", KIM)
        assert max(row["total_score"] for row in found) == 250
        statement = "UPDATE game_platform_stats SET total_score = 300, updated_at = now() WHERE competitor_id = %s"
        assert count(staged, SERVICE, statement, KIM) >= 1

    @pytest.mark.parametrize("dirty", [True, False, None])
    def test_the_state_of_a_sync(self, staged: Connection, dirty: bool | None) -> None:
        statement = """
            INSERT INTO game_platform_sync_state (synced_user_id, last_odl_synced_at, last_attempt_at, last_result,
                error_message, last_login_at, needs_totals_refresh)
            VALUES (%s, now(), now(), 'success', NULL, NULL, %s)
            ON CONFLICT (synced_user_id)
            DO UPDATE SET last_odl_synced_at = excluded.last_odl_synced_at, last_attempt_at = excluded.last_attempt_at,
                last_result = excluded.last_result, error_message = excluded.error_message,
                last_login_at = excluded.last_login_at, needs_totals_refresh = excluded.needs_totals_refresh
        """
        for synced in (KIM, LEE):
            assert count(staged, SERVICE, statement, synced, dirty) == 1

    def test_a_competitor_without_a_date(self, staged: Connection) -> None:
        statement = """
            INSERT INTO competitors (coach_id, first_name, last_name, created_at) VALUES (%s, 'Sam', 'Example', NULL)
        """
        assert count(staged, PAGE, statement, ALAN, user=ALAN) == 1


PLAIN: Final = {
    "an event of a person": (SERVICE, """
        INSERT INTO game_platform_flash_ctf_events (synced_user_id, event_id, flash_ctf_name, challenges_solved)
        VALUES (%(kim)s, 'Example Flash:1750000000', 'Example Flash', 2), (%(kim)s, 'New:1', 'New', 1)
        ON CONFLICT (synced_user_id, event_id) DO UPDATE SET challenges_solved = excluded.challenges_solved"""),
    "events and solves that are fetched again": (SERVICE, """
        DELETE FROM game_platform_challenge_solves WHERE synced_user_id = %(kim)s AND source = 'flash_ctf'"""),
    "a sync that begins": (SERVICE, """
        INSERT INTO game_platform_sync_runs (status, sync_type) VALUES ('running', 'wave')"""),
    "a sync that ends": (SERVICE, """
        UPDATE game_platform_sync_runs SET status = 'completed', completed_at = now(), competitors_synced = 2,
            competitors_failed = 0 WHERE status = 'running'"""),
    "the account of a competitor": (SERVICE, """
        INSERT INTO game_platform_profiles (coach_id, competitor_id, metactf_role, synced_user_id, status, updated_at)
        VALUES (NULL, %(kim)s::uuid, 'user', %(kim)s::text, 'approved', now())
        ON CONFLICT (competitor_id) DO UPDATE SET coach_id = excluded.coach_id, metactf_role = excluded.metactf_role,
            synced_user_id = excluded.synced_user_id, status = excluded.status, updated_at = excluded.updated_at"""),
    "the account of a coach": (SERVICE, """
        INSERT INTO game_platform_profiles (coach_id, competitor_id, metactf_role, synced_user_id, status, updated_at)
        VALUES (%(alan)s::uuid, NULL, 'coach', %(alan)s::text, 'approved', now())
        ON CONFLICT (coach_id) DO UPDATE SET status = excluded.status, updated_at = excluded.updated_at"""),
    "the account of a team": (SERVICE, """
        INSERT INTO game_platform_teams (team_id, synced_team_id, metactf_team_name, status)
        VALUES (%(team)s::uuid, %(team)s::text, 'Example Team', 'approved')
        ON CONFLICT (team_id) DO UPDATE SET metactf_team_name = excluded.metactf_team_name"""),
    "an error of a competitor": (SERVICE, """
        UPDATE competitors SET game_platform_sync_error = 'no answer' WHERE id = %(kim)s"""),
    "what was disclosed": (PAGE, """
        INSERT INTO activity_logs (user_id, action, entity_type, entity_id, metadata)
        VALUES (%(ada)s, 'data_disclosed_game_platform', 'competitor', %(kim)s, '{}')"""),
    "an event of the audit that nobody reads": (SERVICE, """
        INSERT INTO game_platform_sync_events (profile_id, event_type) VALUES (%(alan)s, 'example')"""),
    "a notice by mail": (SERVICE, """
        INSERT INTO alert_log (coach_id, channel, unread_count, error_text) VALUES (%(alan)s, 'email', 3, NULL)"""),
    "who has unread messages": (SERVICE, """
        SELECT * FROM fetch_unread_alert_candidates(p_window_minutes => 1440, p_coach_id => NULL, p_force => true,
            p_roles => ARRAY['coach'])"""),
    "a notice that was sent": (SERVICE, "SELECT mark_unread_alert_sent(%(alan)s, 3)"),
    "messages that were read": (PAGE, "SELECT mark_messages_read(%(talk)s, %(ada)s)"),
    "a conversation that is archived": (PAGE, "SELECT archive_all_messages_in_conversation(%(talk)s, %(ada)s)"),
    "a private reply": (PAGE, "SELECT post_private_reply(%(talk)s, 'An example.', %(alan)s)"),
    "a receipt": (PAGE, """
        INSERT INTO message_read_receipts (message_id, user_id) VALUES (%(message)s, %(ada)s)
        ON CONFLICT (message_id, user_id) DO UPDATE SET read_at = excluded.read_at"""),
    "a message that is archived": (PAGE, """
        INSERT INTO message_user_state (user_id, message_id, archived_at) VALUES (%(ada)s, %(message)s, now())
        ON CONFLICT (user_id, message_id) DO UPDATE SET archived_at = excluded.archived_at"""),
    "a probe that was sent": (SERVICE, """
        UPDATE agreements SET recipient_email_verification_sent_at = now(),
            recipient_email_verification_status = 'pending', recipient_email_verification_error = NULL
        WHERE competitor_id = %(kim)s"""),
    "a probe that was returned": (SERVICE, """
        UPDATE agreements SET recipient_email_verification_status = 'bounce',
            recipient_email_verification_error = 'no such address', updated_at = now()
        WHERE competitor_id = %(kim)s"""),
    "a parent's address that is wrong": (SERVICE, """
        UPDATE competitors SET parent_email_is_valid = false, parent_email_validated_at = now(),
            parent_email_invalid_reason = 'bounce' WHERE id = %(kim)s"""),
    "a form that was signed": (SERVICE, """
        UPDATE agreements SET status = 'completed', signers = '[]' WHERE competitor_id = %(kim)s"""),
    "a new form": (SERVICE, """
        INSERT INTO agreements (competitor_id, template_kind, request_id) VALUES (%(lee)s, 'adult', 'example-2')"""),
    "a campaign": (SERVICE, """
        INSERT INTO competitor_announcement_campaigns (subject, body_markdown, body_html, created_by, status)
        VALUES ('Example', 'Hello', '<p>Hello</p>', %(ada)s, 'pending')"""),
    "a draft": (PAGE, """
        INSERT INTO competitor_announcement_campaigns (subject, body_markdown, body_html, created_by, status)
        VALUES ('Example', 'Hello', '<p>Hello</p>', %(ada)s, 'draft')"""),
    "a draft that is deleted": (PAGE, "DELETE FROM competitor_announcement_campaigns WHERE status = 'draft'"),
    "recipients, one of them twice": (SERVICE, """
        INSERT INTO competitor_announcement_recipients (campaign_id, competitor_id, email, status)
        SELECT %(campaign)s, %(lee)s, 'lee@example.com', 'queued' FROM generate_series(1, 2)"""),
    "recipients to whom it was sent": (SERVICE, """
        UPDATE competitor_announcement_recipients SET status = 'unconfirmed', updated_at = now()
        WHERE campaign_id = %(campaign)s"""),
    "a recipient who has read it": (SERVICE, """
        UPDATE competitor_announcement_recipients SET opened_at = now()
        WHERE campaign_id = %(campaign)s AND competitor_id = %(kim)s AND opened_at IS NULL"""),
    "a campaign that is over": (SERVICE, """
        UPDATE competitor_announcement_campaigns SET status = 'sent', completed_at = now() WHERE id = %(campaign)s"""),
    "the counts of a campaign": (SERVICE, "SELECT * FROM get_campaign_stats(%(campaign)s)"),
    "a team and its places": (PAGE, "SELECT * FROM comp_team_view"),
    "who may still be released": (SERVICE, "SELECT * FROM release_eligible_competitors"),
    "the competitors of coaches": (SERVICE, "SELECT * FROM coach_competitor_counts"),
    "the solves of categories": (SERVICE, "SELECT * FROM get_dashboard_category_totals(ARRAY[%(kim)s])"),
}  # fmt: skip


def test_the_plain_statements_work_at_every_stage(staged: Connection) -> None:
    ids = {"ada": ADA, "alan": ALAN, "kim": KIM, "lee": LEE, "team": TEAM, "talk": TALK, "message": MESSAGE,
           "campaign": CAMPAIGN}  # fmt: skip
    failed: dict[str, str] = {}
    for what, (role, statement) in PLAIN.items():
        try:
            with staged.transaction(force_rollback=True), acting(staged, role):
                if staged.execute(statement.encode(), ids).rowcount < 1:
                    failed[what] = "no row"
        except psycopg.Error as error:
            failed[what] = str(error)
    assert failed == {}
