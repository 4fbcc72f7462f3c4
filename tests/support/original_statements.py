"""What the original application's pages and jobs say to the database: each statement with those who say it.

Statements take ids by name: those of `IDS`, and `%(job)s` where a statement is about one job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from tests.support.original import OWNER
from tests.support.queue import Connection

SERVICE, PAGE = "service_role", "authenticated"
"""The roles of the jobs and webhooks, and of a signed-in person's pages."""

ADA: Final = "ad000000-0000-4000-8000-000000000001"
ALAN: Final = "c0000000-0000-4000-8000-000000000001"
KIM: Final = "5a000000-0000-4000-8000-000000000001"
LEE: Final = "5a000000-0000-4000-8000-000000000002"
TEAM: Final = "7e000000-0000-4000-8000-000000000001"
TALK: Final = "ca000000-0000-4000-8000-000000000001"
MESSAGE: Final = "3e000000-0000-4000-8000-000000000001"
CAMPAIGN: Final = "cc000000-0000-4000-8000-000000000001"
IDS: Final = {"ada": ADA, "alan": ALAN, "kim": KIM, "lee": LEE, "team": TEAM, "talk": TALK, "message": MESSAGE,
              "campaign": CAMPAIGN}  # fmt: skip


class Speaker(NamedTuple):
    """A role, and the signed-in person; an admin if it is Ada."""

    role: str
    user: str = ADA


SPEAKERS: Final = {
    "anon": Speaker("anon", ""),
    "a coach": Speaker(PAGE, ALAN),
    "an admin": Speaker(PAGE),
    "the service": Speaker(SERVICE),
    "the owner": Speaker(OWNER),
}


class Statement(NamedTuple):
    """One statement as one speaker says it."""

    name: str
    speaker: Speaker
    text: str


@contextmanager
def acting(conn: Connection, speaker: Speaker) -> Iterator[None]:
    """Inside, statements run in one transaction as a role, for a person."""
    with conn.transaction():
        conn.execute("SELECT set_config('request.jwt.claim.sub', %s, true)", [speaker.user])
        conn.execute("SELECT set_config('request.is_admin', %s, true)", ["true" if speaker.user == ADA else "false"])
        conn.execute(f"SET LOCAL ROLE {speaker.role}".encode())
        yield
        conn.execute("RESET ROLE")


RETRY: Final = """
UPDATE job_queue SET status = 'pending', run_at = now(), last_error = NULL, completed_at = NULL WHERE id = %(job)s"""
CANCEL: Final = "UPDATE job_queue SET status = 'cancelled', completed_at = now() WHERE id = %(job)s"
DELETE: Final = "DELETE FROM job_queue WHERE id = %(job)s"
OF_A_JOB: Final = {"retry": RETRY, "cancel": CANCEL, "delete": DELETE}

_CREATE: Final = """
INSERT INTO job_queue (task_type, payload, is_recurring, recurrence_interval_minutes, expires_at, run_at, status)
VALUES ('game_platform_sync', '{"dryRun": true, "coachId": null}', %s, NULL, now(), 'pending') RETURNING *"""
OF_THE_QUEUE: Final = {
    "enqueue": "SELECT * FROM job_queue_enqueue('game_platform_sync')",
    "enqueue with all that it takes": """
        SELECT * FROM job_queue_enqueue(p_task_type => 'game_platform_sync', p_payload => '{"dryRun": true}',
            p_run_at => '2030-01-01 00:00+00', p_max_attempts => -1)""",
    "insert": _CREATE % "false, NULL",
    "insert a series": _CREATE % "true, 60",
    "insert with what has no default": "INSERT INTO job_queue (task_type) VALUES ('game_platform_sync') RETURNING *",
    "insert a series without an interval": _CREATE % "true, NULL",
    "insert a series with a negative interval": _CREATE % "true, -5",
    "insert an interval without a series": _CREATE % "false, 15",
    "pause": """
        UPDATE job_queue_settings SET processing_enabled = false, paused_reason = 'Paused on the page' WHERE id = 1
        RETURNING processing_enabled, paused_reason, updated_at""",
    "resume": """
        UPDATE job_queue_settings SET processing_enabled = true, paused_reason = NULL WHERE id = 1
        RETURNING processing_enabled, paused_reason, updated_at""",
    "list jobs": "SELECT * FROM job_queue ORDER BY created_at DESC LIMIT 500",
    "count jobs": "SELECT count(*) FROM job_queue",
    "list pending jobs": "SELECT * FROM job_queue WHERE status = 'pending' ORDER BY run_at LIMIT 250",
    "list running jobs": "SELECT * FROM job_queue WHERE status = 'running' ORDER BY updated_at LIMIT 50",
    "list calls of the runner": "SELECT * FROM job_worker_runs ORDER BY started_at DESC LIMIT 20",
    "list syncs": "SELECT * FROM game_platform_sync_runs ORDER BY started_at DESC LIMIT 1",
    "read the switch": "SELECT processing_enabled, paused_reason FROM job_queue_settings WHERE id = 1",
}
"""What each speaker may try. Row security lets admins, the service and the owner."""

_COACH, _ADMIN, _SERVICE = SPEAKERS["a coach"], SPEAKERS["an admin"], SPEAKERS["the service"]
_SEND: Final = """
INSERT INTO messages (conversation_id, sender_id, body, high_priority)
VALUES (%(talk)s, %(alan)s, 'An example.', {}) RETURNING id"""
OF_OTHER_TABLES: Final = (
    Statement("send a message", _COACH, _SEND.format("false")),
    Statement("send an urgent message", _COACH, _SEND.format("true")),
    Statement("upsert an alert", _SERVICE, """
        INSERT INTO admin_alert_queue (recipient_id, message_id)
        SELECT user_id, %(message)s FROM conversation_members JOIN profiles AS p ON p.id = user_id
        WHERE p.role = 'admin'
        ON CONFLICT (recipient_id, message_id)
        DO UPDATE SET recipient_id = excluded.recipient_id, message_id = excluded.message_id"""),
    Statement("delete alerts that were sent", _SERVICE, """
        DELETE FROM admin_alert_queue WHERE message_id = ANY (ARRAY[%(message)s]::uuid[])"""),
    Statement("upsert scores", _SERVICE, """
        INSERT INTO game_platform_challenge_solves (synced_user_id, challenge_solve_id, challenge_title,
            challenge_points, source)
        VALUES (%(kim)s, 1819, 'Other', 50, 'flash_ctf'), (%(kim)s, 99, 'New', 10, 'odl')
        ON CONFLICT (synced_user_id, challenge_solve_id)
        DO UPDATE SET challenge_title = excluded.challenge_title, challenge_points = excluded.challenge_points,
            source = excluded.source"""),
    Statement("insert statistics", _SERVICE, """
        INSERT INTO game_platform_stats (competitor_id, challenges_completed) VALUES (%(lee)s, 0)"""),
    Statement("update statistics", _SERVICE, """
        UPDATE game_platform_stats SET total_score = 300, updated_at = now() WHERE competitor_id = %(kim)s"""),
    Statement("upsert the state of a sync", _SERVICE, """
        INSERT INTO game_platform_sync_state (synced_user_id, last_odl_synced_at, last_attempt_at, last_result,
            error_message, last_login_at, needs_totals_refresh)
        VALUES (%(kim)s, now(), now(), 'success', NULL, NULL, NULL)
        ON CONFLICT (synced_user_id)
        DO UPDATE SET last_odl_synced_at = excluded.last_odl_synced_at, last_attempt_at = excluded.last_attempt_at,
            last_result = excluded.last_result, error_message = excluded.error_message,
            last_login_at = excluded.last_login_at, needs_totals_refresh = excluded.needs_totals_refresh"""),
    Statement("upsert events", _SERVICE, """
        INSERT INTO game_platform_flash_ctf_events (synced_user_id, event_id, flash_ctf_name, challenges_solved)
        VALUES (%(kim)s, 'Example Flash:1750000000', 'Example Flash', 2), (%(kim)s, 'New:1', 'New', 1)
        ON CONFLICT (synced_user_id, event_id) DO UPDATE SET challenges_solved = excluded.challenges_solved"""),
    Statement("insert a sync", _SERVICE, """
        INSERT INTO game_platform_sync_runs (status, sync_type) VALUES ('running', 'wave')"""),
    Statement("upsert the account of a competitor", _SERVICE, """
        INSERT INTO game_platform_profiles (coach_id, competitor_id, metactf_role, synced_user_id, status, updated_at)
        VALUES (NULL, %(kim)s::uuid, 'user', %(kim)s::text, 'approved', now())
        ON CONFLICT (competitor_id) DO UPDATE SET coach_id = excluded.coach_id, metactf_role = excluded.metactf_role,
            synced_user_id = excluded.synced_user_id, status = excluded.status, updated_at = excluded.updated_at"""),
    Statement("upsert the account of a team", _SERVICE, """
        INSERT INTO game_platform_teams (team_id, synced_team_id, metactf_team_name, status)
        VALUES (%(team)s::uuid, %(team)s::text, 'Example Team', 'approved')
        ON CONFLICT (team_id) DO UPDATE SET metactf_team_name = excluded.metactf_team_name"""),
    Statement("insert a competitor without a date", _COACH, """
        INSERT INTO competitors (coach_id, first_name, last_name, created_at)
        VALUES (%(alan)s, 'Sam', 'Example', NULL)"""),
    Statement("log what was disclosed", _ADMIN, """
        INSERT INTO activity_logs (user_id, action, entity_type, entity_id, metadata)
        VALUES (%(ada)s, 'data_disclosed_game_platform', 'competitor', %(kim)s, '{}')"""),
    Statement("log a notice by mail", _SERVICE, """
        INSERT INTO alert_log (coach_id, channel, unread_count, error_text) VALUES (%(alan)s, 'email', 3, NULL)"""),
    Statement("list unread messages", _SERVICE, """
        SELECT * FROM fetch_unread_alert_candidates(p_window_minutes => 1440, p_coach_id => NULL, p_force => true,
            p_roles => ARRAY['coach'])"""),
    Statement("mark a notice as sent", _SERVICE, "SELECT mark_unread_alert_sent(%(alan)s, 3)"),
    Statement("mark messages as read", _ADMIN, "SELECT mark_messages_read(%(talk)s, %(ada)s)"),
    Statement("archive a conversation", _ADMIN, "SELECT archive_all_messages_in_conversation(%(talk)s, %(ada)s)"),
    Statement("reply in private", _ADMIN, "SELECT post_private_reply(%(talk)s, 'An example.', %(alan)s)"),
    Statement("upsert a receipt", _ADMIN, """
        INSERT INTO message_read_receipts (message_id, user_id) VALUES (%(message)s, %(ada)s)
        ON CONFLICT (message_id, user_id) DO UPDATE SET read_at = excluded.read_at"""),
    Statement("note a probe", _SERVICE, """
        UPDATE agreements SET recipient_email_verification_sent_at = now(),
            recipient_email_verification_status = 'pending', recipient_email_verification_error = NULL
        WHERE competitor_id = %(kim)s"""),
    Statement("insert a campaign", _SERVICE, """
        INSERT INTO competitor_announcement_campaigns (subject, body_markdown, body_html, created_by, status)
        VALUES ('Example', 'Hello', '<p>Hello</p>', %(ada)s, 'pending')"""),
    Statement("insert recipients, one of them twice", _SERVICE, """
        INSERT INTO competitor_announcement_recipients (campaign_id, competitor_id, email, status)
        SELECT %(campaign)s, %(lee)s, 'lee@example.com', 'queued' FROM generate_series(1, 2)"""),
    Statement("end a campaign", _SERVICE, """
        UPDATE competitor_announcement_campaigns SET status = 'sent', completed_at = now() WHERE id = %(campaign)s"""),
    Statement("count a campaign", _SERVICE, "SELECT * FROM get_campaign_stats(%(campaign)s)"),
    Statement("list teams", _ADMIN, "SELECT * FROM comp_team_view"),
    Statement("list who may be released", _SERVICE, "SELECT * FROM release_eligible_competitors"),
    Statement("count competitors", _SERVICE, "SELECT * FROM coach_competitor_counts"),
    Statement("sum up categories", _SERVICE, "SELECT * FROM get_dashboard_category_totals(ARRAY[%(kim)s])"),
    Statement("ask for the health", _SERVICE, "SELECT job_queue_health()"),
    Statement("clean up", _SERVICE, "SELECT job_queue_cleanup(interval '400 days')"),
)  # fmt: skip


def of_the_queue() -> Iterator[Statement]:
    """What is said of no certain job, by each speaker."""
    for name, text in OF_THE_QUEUE.items():
        for who, speaker in SPEAKERS.items():
            yield Statement(f"{name} as {who}", speaker, text)


def of_a_job(state: str) -> Iterator[Statement]:
    """What is said of a job in a state, by each speaker. `%(job)s` is its id."""
    for name, text in OF_A_JOB.items():
        for who, speaker in SPEAKERS.items():
            yield Statement(f"{name} a {state} job as {who}", speaker, text)
