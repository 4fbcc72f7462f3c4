"""The messaging part of the schema: over the original's tables, with its triggers, and for each role."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.core.programme.outbox_support import add_profile, intent, put_one
from tests.support.people import make_groups
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection, ago
from tests.support.schema import install_everything

pytestmark = pytest.mark.installation


def _columns(conn: Connection) -> list[Any]:
    return conn.execute(
        "select table_name, column_name, data_type, column_default, is_nullable from information_schema.columns "
        "where table_schema = 'public' order by 1, 2"
    ).fetchall()


def test_a_second_installation_changes_nothing(conn: Connection) -> None:
    before = _columns(conn)
    install_everything(conn)
    assert _columns(conn) == before


ORIGINAL = """
create type user_role as enum ('admin', 'coach');
create type competitor_division as enum ('middle_school', 'high_school', 'college');
create table profiles (id uuid primary key, email text not null unique, role user_role not null default 'coach',
    full_name text not null, first_name text not null, last_name text not null, school_name text not null,
    mobile_number text, email_alerts_enabled boolean default true, email_alert_address text,
    sms_notifications_enabled boolean default false, instant_sms_enabled boolean default false,
    last_unread_alert_at timestamptz, last_unread_alert_count integer, game_platform_user_id text,
    game_platform_last_synced_at timestamptz, region text, division text, is_approved boolean,
    created_at timestamptz default now(), updated_at timestamptz default now());
create table competitors (id uuid primary key default gen_random_uuid(), coach_id uuid not null references profiles,
    first_name text not null, last_name text not null, email_personal text, email_school text, parent_name text,
    parent_email text, parent_email_is_valid boolean, parent_email_validated_at timestamptz,
    parent_email_invalid_reason text, is_active boolean default true, is_18_or_over boolean default false,
    grade text, gender text, race text, ethnicity text, level_of_technology text, years_competing integer,
    media_release_date timestamptz, participation_agreement_date timestamptz, division competitor_division,
    program_track text, status text default 'pending', game_platform_id text unique,
    game_platform_synced_at timestamptz, game_platform_sync_error text, syned_school_id text, syned_region_id text,
    syned_coach_user_id text, created_at timestamptz default now(), updated_at timestamptz default now());
create table competitor_announcement_campaigns (id uuid primary key default gen_random_uuid(), subject text not null,
    body_markdown text not null, body_html text not null, created_by uuid not null references profiles,
    status text not null default 'pending'
        constraint original_status check (status in ('draft', 'pending', 'sending', 'sent', 'failed')),
    created_at timestamptz not null default now(), completed_at timestamptz);
create table competitor_announcement_recipients (id uuid primary key default gen_random_uuid(),
    campaign_id uuid not null references competitor_announcement_campaigns,
    competitor_id uuid not null references competitors, email text not null,
    status text not null default 'queued' check (status in
        ('queued', 'unconfirmed', 'delivered', 'bounced', 'dropped', 'blocked', 'skipped', 'failed')),
    skip_reason text, error text, opened_at timestamptz, clicked_at timestamptz,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now());
insert into profiles (id, email, full_name, first_name, last_name, school_name)
    values ('00000000-0000-0000-0000-000000000001', 'zz@example.org', 'Zz', 'Zz', 'Zz', 'Zz');
insert into competitors (coach_id, first_name, last_name)
    values ('00000000-0000-0000-0000-000000000001', 'Zz', 'Zz');
insert into competitor_announcement_campaigns (subject, body_markdown, body_html, created_by)
    values ('s', 'm', 'h', '00000000-0000-0000-0000-000000000001');
insert into competitor_announcement_recipients (campaign_id, competitor_id, email)
    select c.id, p.id, 'same@example.org'
    from competitor_announcement_campaigns c, competitors p, generate_series(1, 2);
"""


def test_the_originals_tables_and_rows_survive(postgres: PostgresServer, empty_database_url: str) -> None:
    with Connection.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(ORIGINAL)
        install_everything(conn)
        make_groups(conn)
        assert (
            conn.execute("select email, status, email_norm from competitor_announcement_recipients").fetchall()
            == [("same@example.org", "queued", None)] * 2
        )
        conn.execute("update competitor_announcement_campaigns set status = 'partially_failed', created_by = null")
        conn.execute("update competitor_announcement_recipients set status = 'uncertain'")
        with pytest.raises(psycopg.errors.CheckViolation):
            conn.execute("update competitor_announcement_recipients set status = 'lost'")
        install_everything(conn)


def test_a_ledger_from_before_an_outcome_had_its_time_is_brought_up(conn: Connection) -> None:
    columns = _columns(conn)
    conn.execute("alter table outbox_messages drop column outcome_at")
    conn.execute("delete from jobdeck_schema where component = 'competition'")
    message = put_one(conn, intent(add_profile(conn)))
    install_everything(conn)
    assert _columns(conn) == columns
    assert conn.execute("select id, outcome_at from outbox_messages").fetchall() == [(message, None)]


# Unread messages


def _conversation(conn: Connection, *people: UUID) -> UUID:
    conversation: UUID = conn.insert("conversations", type="group")
    for person in people:
        conn.insert("conversation_members", conversation_id=conversation, user_id=person, joined_at=ago("1 day"))
    return conversation


def _message(conn: Connection, conversation: UUID, sender: UUID, *, age: str = "1 hour", **columns: Any) -> UUID:
    message: UUID = conn.insert(
        "messages", conversation_id=conversation, sender_id=sender, body="zztext", created_at=ago(age), **columns
    )
    return message


def _unread(conn: Connection, person: UUID, grace: str = "0") -> int:
    row = conn.execute(
        "select unread from programme_unread(%s::interval) where user_id = %s", (grace, person)
    ).fetchone()
    return int(row[0]) if row else 0


def test_what_counts_as_unread(conn: Connection) -> None:
    reader, writer, other = (add_profile(conn) for _ in range(3))
    talk = _conversation(conn, reader, writer)
    plain = _message(conn, talk, writer)
    own = _message(conn, talk, reader)
    archived = _message(conn, talk, writer)
    read = _message(conn, talk, writer)
    _message(conn, talk, writer, metadata=f'{{"private_to": "{other}"}}')
    _message(conn, talk, writer, metadata=f'{{"private_to": "{reader}"}}')
    _message(conn, talk, writer, metadata='{"private_to": "not an id"}')
    _message(conn, talk, writer, age="2 days")
    conn.insert("message_read_receipts", message_id=read, user_id=reader)
    conn.insert("message_user_state", user_id=reader, message_id=archived, archived_at="now")
    assert _unread(conn, reader) == 2
    assert own != plain
    assert _unread(conn, other) == 0


def test_young_messages_have_a_grace_and_the_newest_is_named(conn: Connection) -> None:
    reader, writer = add_profile(conn), add_profile(conn)
    talk = _conversation(conn, reader, writer)
    old = _message(conn, talk, writer, age="20 minutes")
    _message(conn, talk, writer, age="5 minutes")
    assert (_unread(conn, reader), _unread(conn, reader, "10 minutes")) == (2, 1)
    newest = conn.execute("select newest_message_id from programme_unread('10 minutes') where user_id = %s", (reader,))
    assert newest.fetchall() == [(old,)]


# Admin alerts


def _queued(conn: Connection) -> list[tuple[UUID, UUID]]:
    return conn.execute("select recipient_id, message_id from admin_alert_queue").fetchall()


def _jobs(conn: Connection) -> list[Any]:
    return conn.execute("select task_type, payload ->> 'force', status from job_queue").fetchall()


def test_every_admin_of_a_conversation_hears_of_a_message_in_it(conn: Connection) -> None:
    admin, sender, coach, elsewhere = (add_profile(conn, role=role) for role in ("admin", "admin", "coach", "admin"))
    message = _message(conn, _conversation(conn, admin, sender, coach), sender)
    assert _queued(conn) == [(admin, message)]
    assert elsewhere not in dict(_queued(conn))
    assert _jobs(conn) == []


def test_a_private_reply_is_for_its_addressee(conn: Connection) -> None:
    one, two, coach = (add_profile(conn, role=role) for role in ("admin", "admin", "coach"))
    message = _message(conn, _conversation(conn, one, two, coach), coach, metadata=f'{{"private_to": "{two}"}}')
    assert _queued(conn) == [(two, message)]


def test_messages_of_high_priority_start_one_job_at_once(conn: Connection) -> None:
    admin, coach = add_profile(conn, role="admin"), add_profile(conn)
    talk = _conversation(conn, admin, coach)
    for _ in range(3):
        _message(conn, talk, coach, high_priority=True)
    assert _jobs(conn) == [("admin_alert_dispatch", "true", "pending")]
    conn.execute("update job_queue set run_at = now() + interval '1 hour'")
    _message(conn, talk, coach, high_priority=True)
    assert len(_jobs(conn)) == 2


def test_high_priority_that_no_admin_is_to_hear_starts_nothing(conn: Connection) -> None:
    one, two = add_profile(conn), add_profile(conn)
    _message(conn, _conversation(conn, one, two), two, high_priority=True)
    assert _jobs(conn) == []


def test_trouble_with_alerts_does_not_keep_a_message_from_being_written(conn: Connection) -> None:
    admin, coach = add_profile(conn, role="admin"), add_profile(conn)
    talk = _conversation(conn, admin, coach)
    conn.execute("alter table admin_alert_queue add constraint never check (false) not valid")
    message = _message(conn, talk, coach)
    assert conn.execute("select id from messages").fetchall() == [(message,)]
    assert _queued(conn) == []


# Roles


@pytest.fixture
def roles(conn: Connection) -> Connection:
    make_groups(conn)
    return conn


def _as(conn: Connection, role: str, statement: str) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute(f"set local role {role}".encode())
        conn.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "select outbox_sweep()",
        "select outbox_put('[]', '{}', null, null)",
        "select outbox_apply_events(1)",
        "select outbox_record_pulled('[]', '{\"a\": \"1\"}', 'x')",
        "select * from programme_digest_due('{coach}', null, null, 1, 0, 0, 'UTC')",
        "select * from programme_probes_due(0, 1, 1, '1 day', '1 day')",
        "select * from programme_find_coaches('', 1)",
        "select * from outbox_messages",
        "select * from outbox_receipts",
        "select * from programme_unread()",
        "update admin_alert_queue set sent_at = now()",
        "insert into alert_log (coach_id) select id from profiles",
        "update agreements set status = 'sent'",
        "select outbox_campaign_start(gen_random_uuid(), gen_random_uuid(), 1, 1)",
    ],
)
def test_the_worker_may(roles: Connection, statement: str) -> None:
    _as(roles, "job_worker", statement)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("job_worker", "update outbox_messages set state = 'queued'"),
        ("job_worker", "insert into email_suppressions values ('a@example.org', 'manual', 'all', 'x')"),
        ("job_worker", "delete from provider_events"),
        ("job_worker", "select outbox_decide(array[gen_random_uuid()], true, 'x')"),
        ("job_worker", "select outbox_reveal(gen_random_uuid(), null, 'x', 'y')"),
        ("job_viewer", "select * from outbox_messages"),
        ("job_viewer", "select outbox_sweep()"),
        ("job_operator", "update outbox_messages set state = 'queued'"),
        ("job_operator", "select outbox_claim('{}', 1, null, null)"),
        ("job_operator", "select * from outbox_audience('all', null)"),
        ("job_operator", "update competitor_announcement_campaigns set status = 'pending'"),
    ],
)
def test_nobody_writes_the_ledger_but_its_functions(roles: Connection, role: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        _as(roles, role, statement)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("job_viewer", "select * from outbox_receipts"),
        ("job_operator", "select outbox_decide(array[gen_random_uuid()], true, 'x')"),
        ("job_operator", "select * from outbox_audience_outlook('all', null, 3)"),
        ("job_operator", "select outbox_campaign_create('s', 'm', 'h', 'all', null, 'x')"),
        ("job_operator", "select * from outbox_campaign_stats(gen_random_uuid())"),
    ],
)  # fmt: skip
def test_operators_and_viewers_may(roles: Connection, role: str, statement: str) -> None:
    _as(roles, role, statement)


def test_a_producer_with_no_rights_on_the_outbox_may_edit_and_write(roles: Connection) -> None:
    """The original's application signs in as a role of its own, and its tables have triggers now."""
    admin, coach = add_profile(roles, role="admin"), add_profile(roles)
    talk = _conversation(roles, admin, coach)
    roles.execute(
        "insert into competitors (coach_id, first_name, last_name, parent_email) "
        "values (%s, 'Z', 'Z', 'a@example.org')",
        (coach,),
    )
    producer = f"producer_{uuid4().hex[:8]}"
    with roles.transaction(force_rollback=True):
        roles.execute(f"create role {producer}".encode())
        roles.execute(f"grant insert on messages to {producer}".encode())
        roles.execute(f"grant select, update on competitors to {producer}".encode())
        roles.execute(f"set local role {producer}".encode())
        roles.execute("insert into messages (conversation_id, sender_id, body) values (%s, %s, 'x')", (talk, coach))
        roles.execute("update competitors set parent_email = 'b@example.org'")
        roles.execute("reset role")
        assert len(_queued(roles)) == 1
