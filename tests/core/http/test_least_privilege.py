"""Signed in as each group: everything that none of them may do, tried; and what is on record of those who may."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from jobdeck.core.programme.messaging import campaigns, outbox
from jobdeck.core.queue import operator as queue_operator
from jobdeck.core.read import history
from tests.support.people import GROUPS, People
from tests.support.queue import Connection

SOMEBODY_ELSE = "root@elsewhere"

NEVER = [
    # The switch and the queue, past their functions.
    "UPDATE job_queue_settings SET processing_enabled = NOT processing_enabled",
    "INSERT INTO job_types (task_type) VALUES ('alpha')",
    "UPDATE job_queue SET status = 'cancelled'",
    "DELETE FROM job_queue",
    "UPDATE job_runs SET outcome = 'succeeded'",
    "DELETE FROM job_worker_runs",
    # The evidence.
    "DELETE FROM job_audit",
    "UPDATE job_audit SET actor = 'nobody'",
    "INSERT INTO job_audit (actor, action) VALUES ('nobody', 'pause')",
    "SELECT job_queue_write_audit('nobody', 'pause', NULL, NULL, NULL, NULL)",
    "TRUNCATE job_audit",
    "TRUNCATE job_queue CASCADE",
    "TRUNCATE competitors CASCADE",
    "TRUNCATE provider_events",
    # What was sent, and to whom nothing may be.
    "UPDATE outbox_messages SET state = 'queued'",
    "DELETE FROM email_suppressions",
    "UPDATE sms_opt_outs SET cleared_at = now()",
    "DELETE FROM outbox_left_out",
    "UPDATE provider_events SET applied_at = NULL",
    "SELECT outbox_apply_together('{}')",
    "SELECT outbox_keep_events('[]')",
    "SELECT outbox_apply_to_suppressions('{}')",
    "SELECT outbox_taken_back(NULL)",
    # What is kept, and for how long.
    "SELECT job_erase_payload('key', 'value', 'nobody')",
    "SELECT job_erase_texts('{}', 'nobody')",
    "SELECT job_erase_jobs('{}', '{}')",
    "SELECT job_scrub('{job_audit}', '{}')",
    "SELECT competition_find_person('email', 'a@example.org')",
    "SELECT competition_identifiers('address', NULL, 'a@example.org', true)",
    "SELECT competition_erase('address', NULL, 'a@example.org', '{}', 'nobody')",
    "SELECT competition_addresses()",
    "INSERT INTO outbox_erasure_key (check_value) VALUES ('mine')",
    "SELECT job_retention_set('job_audit', 1, 'nobody')",
    "UPDATE job_retention SET days = 1",
    "SELECT job_retain('prune', 5000)",
    "SELECT competition_retain('provider_events', now(), 5000)",
    # The rules themselves.
    "ALTER TABLE job_queue DISABLE TRIGGER ALL",
    "ALTER TABLE job_queue ADD COLUMN mine text",
    "ALTER TABLE job_queue OWNER TO CURRENT_USER",
    "CREATE INDEX mine ON job_queue (id)",
    "CREATE TRIGGER mine AFTER UPDATE ON competitors EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE mine AS ON DELETE TO competitors DO INSTEAD NOTHING",
    "CREATE OR REPLACE FUNCTION job_queue_oldest_due() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'",
    "ALTER FUNCTION job_permissions() SECURITY INVOKER",
    "ALTER FUNCTION job_permissions() RESET search_path",
    "DROP FUNCTION job_permissions()",
    "DROP VIEW job_list CASCADE",
    "DROP TABLE job_audit",
    "CREATE TABLE mine (id integer)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "SELECT setval('job_run_token_seq', 1)",
    "SELECT nextval('job_run_token_seq')",
    "SET session_replication_role = replica",
    "SELECT job_make_roles()",
    "SELECT job_grant_roles()",
    "SELECT competition_grant_roles()",
    "UPDATE jobdeck_schema SET version = 0",
    # Other roles, the server, its files.
    "SET ROLE jobdeck",
    "SET SESSION AUTHORIZATION jobdeck",
    "GRANT job_operator TO job_viewer",
    "CREATE ROLE mine",
    "ALTER ROLE job_viewer LOGIN",
    "COPY job_queue_settings TO '/tmp/mine'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('.')",
    "ALTER SYSTEM SET work_mem = '1GB'",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'jobdeck'",
    "SELECT rolpassword FROM pg_authid",
]
HIDDEN = {
    "competitors": "first_name last_name email_personal email_school parent_email parent_name "
    "game_platform_onboarding_email grade race is_18_or_over *",
    "profiles": "email full_name first_name last_name mobile_number email_alert_address *",
    "outbox_messages": "address address_norm dedupe_key data recipient_ref error_text *",
    "competitor_announcement_recipients": "email email_norm error *",
    "agreements": "signers metadata recipient_email_verification_address *",
    "email_suppressions": "address_norm *",
    "sms_opt_outs": "phone_e164 *",
    "provider_events": "address_norm payload *",
    "messages": "body *",
}
"""Whom we know, whom we wrote to, and who does not want it: operators are told masked, in numbers, or with a reason."""

OPERATOR_NEVER = [
    "SELECT count(*) FROM competitors WHERE email_personal LIKE 'a%'",
    "COPY competitors TO STDOUT",
    # What answers with whole addresses, or tells of any address whether it is barred.
    "SELECT * FROM outbox_audience('all', NULL)",
    "SELECT * FROM programme_digest_due('{coach}', NULL, NULL, 1, 0, 0, 'UTC')",
    "SELECT * FROM programme_probes_due(0, 1, 1, '1 day', '1 day')",
    "SELECT outbox_suppression('announcement', 'email', 'a@example.org')",
    "SELECT outbox_unmask('email', NULL, 'a…@example.org')",
    # Campaigns and what the providers tell, past the functions that put it on record.
    "INSERT INTO competitor_announcement_campaigns (subject, body_markdown, body_html) VALUES ('x', 'x', 'x')",
    "UPDATE competitor_announcement_campaigns SET status = 'pending'",
    "INSERT INTO competitor_announcement_recipients (campaign_id) VALUES (gen_random_uuid())",
    "UPDATE competitor_announcement_recipients SET status = 'queued'",
    "INSERT INTO provider_cursors (name, position) VALUES ('x', '1')",
    "UPDATE provider_cursors SET position = '1'",
    "SELECT outbox_record_events('[]')",
    "SELECT outbox_record_pulled('[]', '{}', 'x')",
    "SELECT outbox_apply_events(1)",
]
PERSONAL = ("competitors", "profiles", "messages", "agreements", "outbox_messages", "email_suppressions",
            "sms_opt_outs", "provider_events", "competitor_announcement_recipients", "job_queue")  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_what_no_group_may_is_refused_and_changes_nothing(
    conn: Connection, people: People, database_url: str, group: str
) -> None:
    conn.add()
    with conn.changes_nothing(), people.sign_in(database_url, group) as signed_in:
        assert [statement for statement in NEVER if not denied(signed_in, statement)] == []


def test_an_operator_reads_no_address_and_changes_nothing_past_the_audit(
    conn: Connection, people: People, database_url: str
) -> None:
    with conn.changes_nothing(), people.sign_in(database_url, "job_operator") as operator:
        assert [statement for statement in OPERATOR_NEVER if not denied(operator, statement)] == []
        assert readable(operator) == []


def test_no_column_that_an_operator_reads_holds_an_address_a_name_or_a_number(conn: Connection, people: People) -> None:
    del people
    read = conn.execute(
        """
        SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0
            AND c.relname !~ '^job' AND has_column_privilege('job_operator', c.oid, a.attnum, 'select')
            AND a.attname ~ ('email|phone|mobile|address|parent|_name|number|^data$|payload|signer|metadata|'
                || 'dedupe|body|error')
        ORDER BY 1, 2
        """
    ).fetchall()
    # The words of a campaign are an operator's own; receipts have their addresses masked, and words for errors.
    assert read == [
        ("competitor_announcement_campaigns", "body_html"),
        ("competitor_announcement_campaigns", "body_markdown"),
        ("outbox_receipts", "address"),
        ("outbox_receipts", "error_class"),
        ("outbox_receipts", "error_code"),
        ("profiles", "school_name"),
        ("send_batches", "error_class"),
    ]


def test_what_an_earlier_release_let_operators_do_is_taken_back(
    conn: Connection, people: People, database_url: str
) -> None:
    conn.execute(
        "GRANT SELECT ON competitors, profiles, email_suppressions, sms_opt_outs, outbox_messages TO job_operator"
    )
    conn.execute("GRANT SELECT (signers, metadata) ON agreements TO job_operator")
    conn.execute(
        "GRANT SELECT, INSERT, UPDATE ON competitor_announcement_campaigns, competitor_announcement_recipients, "
        "provider_cursors TO job_operator"
    )
    conn.execute(
        "GRANT EXECUTE ON FUNCTION outbox_audience, outbox_suppression, outbox_record_events, outbox_record_pulled, "
        "outbox_apply_events TO job_operator"
    )
    conn.execute("SELECT job_grant_roles()")
    with people.sign_in(database_url, "job_operator") as operator:
        assert [statement for statement in OPERATOR_NEVER if not denied(operator, statement)] == []
        assert readable(operator) == []


def readable(conn: Connection) -> list[str]:
    """What can be read of that which is hidden."""
    found = []
    for table, columns in HIDDEN.items():
        for column in columns.split():
            what = sql.SQL("*") if column == "*" else sql.Identifier(column)
            try:
                conn.execute(sql.SQL("SELECT {} FROM {}").format(what, sql.Identifier(table)))
            except psycopg.errors.InsufficientPrivilege:
                continue
            found.append(f"{table}.{column}")
    return found


def denied(conn: Connection, statement: str) -> bool:
    try:
        conn.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege:
        return True
    return False


def test_no_group_may_empty_a_table_or_hang_anything_on_it(conn: Connection, people: People) -> None:
    del people
    for group in GROUPS:
        held = conn.execute(
            """
            SELECT c.relname, r.name FROM pg_class AS c,
                unnest('{truncate,references,trigger}'::text[]) AS r (name)
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'p')
                AND has_table_privilege(%s, c.oid, r.name)
            """,
            (group,),
        ).fetchall()
        assert held == [], group


def test_a_viewer_reads_nobodys_data(conn: Connection, people: People, database_url: str) -> None:
    with people.sign_in(database_url, "job_viewer") as viewer:
        for table in PERSONAL:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                viewer.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
    columns = conn.execute(
        """
        SELECT table_name, column_name FROM information_schema.column_privileges
        WHERE grantee = 'job_viewer' AND column_name ~ 'address_norm|email|phone|mobile|payload_sha|body'
        """
    ).fetchall()
    assert columns == []


def test_what_an_operator_does_is_on_record_under_the_role_that_signed_in(
    conn: Connection, people: People, database_url: str
) -> None:
    job = conn.add()
    with people.sign_in(database_url, "job_operator") as operator:
        role = operator.value("SELECT session_user::text")
        queue_operator.pause(operator, reason="a reason", actor=SOMEBODY_ELSE)
        queue_operator.resume(operator, actor=SOMEBODY_ELSE)
        queue_operator.cancel(operator, [job.id], actor=SOMEBODY_ELSE)
        outbox.reveal(operator, job_id=job.id, actor=SOMEBODY_ELSE, reason="a complaint")
        campaign = campaigns.create(
            operator, subject="s", body_markdown="m", body_html="h", audience="all", coach=None, actor=SOMEBODY_ELSE
        )
    told = history.audit().run(conn)
    by_action = {entry.action: entry.after for entry in told}
    assert {"pause", "resume", "cancel", "reveal", "create campaign"} <= by_action.keys()
    assert by_action["create campaign"] == {
        "campaign_id": str(campaign), "audience": "all", "coach_id": None, "recipients": 0, "left_out": 0,
    }  # fmt: skip
    assert {entry.actor for entry in told} == {f"{SOMEBODY_ELSE} ({role})"}


def test_each_event_that_was_pulled_is_on_record_once_with_its_address_masked(
    conn: Connection, people: People, database_url: str
) -> None:
    mail = {"provider": "sendgrid", "event_key": "bounces:1", "event": "bounced", "occurred_at": 1.7e9,
            "address": "Ada.Lane@example.org", "payload": {}}  # fmt: skip
    text = {"provider": "twilio", "event_key": "SM1", "event": "stop", "occurred_at": 1.7e9, "address": "+14155550123"}
    with people.sign_in(database_url, "job_worker") as worker:
        role = worker.value("SELECT session_user::text")
        assert outbox.record_pulled(worker, [mail, text], {"sendgrid:bounces": "1"}, actor=SOMEBODY_ELSE) == 2
        assert outbox.record_pulled(worker, [mail, text], {}, actor=SOMEBODY_ELSE) == 0
    (entry,) = history.audit().run(conn)
    assert (entry.action, entry.actor) == ("pull events", f"{SOMEBODY_ELSE} ({role})")
    assert entry.after is not None
    assert (entry.after["new"], entry.after["cursors"]) == (2, {"sendgrid:bounces": "1"})
    assert [(event["event"], event["address"]) for event in entry.after["events"]] == [
        ("bounced", "a…@example.org"), ("stop", "…23"),
    ]  # fmt: skip
    assert "lane" not in repr(entry).lower()
    assert "4155550" not in repr(entry)


def test_a_guessed_address_is_tied_to_nobody(conn: Connection, people: People, database_url: str) -> None:
    conn.execute(
        """
        INSERT INTO profiles (id, email, role, full_name, first_name, last_name, school_name)
        VALUES (gen_random_uuid(), 'ada.lane@example.org', 'coach', 'Ada Lane', 'Ada', 'Lane', 'North')
        """
    )
    conn.execute("INSERT INTO email_suppressions VALUES ('ada.lane@example.org', 'hard_bounce', 'all', 'a test')")
    with people.sign_in(database_url, "job_operator") as operator:
        assert operator.execute("SELECT outbox_erased_known('{ada.lane@example.org}')").fetchall() == []
        for guess in ("ada.lane@example.org", "ada.lane@", "@example"):
            assert operator.execute("SELECT * FROM programme_find_coaches(%s, 10)", [guess]).fetchall() == []
