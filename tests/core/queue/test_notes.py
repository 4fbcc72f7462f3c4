"""Notes to the next shift and muted groups of errors: who wrote them, how long they hold, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.queue import operator
from jobdeck.core.queue.operators import notes
from jobdeck.core.read import reports
from jobdeck.core.read.operators.notes import mutes, open_notes
from jobdeck.core.read.stats import error_groups
from tests.support.queue import ACTOR, Connection

DAY = timedelta(days=1)


def test_a_note_is_shown_until_it_is_acknowledged_and_both_are_audited_without_its_text(conn: Connection) -> None:
    first = notes.add(conn, "  the vendor calls back  ", actor=ACTOR)
    second = notes.add(conn, "look at invoices", days=2, actor=ACTOR)
    assert [(one.id, one.note) for one in open_notes().run(conn)] == [
        (second, "look at invoices"), (first, "the vendor calls back"),
    ]  # fmt: skip
    notes.acknowledge(conn, second, actor="another")
    assert [one.id for one in open_notes().run(conn)] == [first]
    assert [(row["action"], row["after"], row["reason"]) for row in conn.audit_rows()] == [
        ("note", {"note": first, "days": 7}, None),
        ("note", {"note": second, "days": 2}, None),
        ("acknowledge", {"note": second}, None),
    ]
    assert reports.digest(timedelta(hours=8)).run(conn).notes == open_notes().run(conn)


def test_a_note_is_shown_for_its_days(conn: Connection) -> None:
    note = notes.add(conn, "look at invoices", days=2, actor=ACTOR)
    conn.advance(2 * DAY - timedelta(minutes=5))
    assert [one.id for one in open_notes().run(conn)] == [note]
    conn.advance(timedelta(minutes=10))
    assert open_notes().run(conn) == ()
    with pytest.raises(Refused, match="no open note"):
        notes.acknowledge(conn, note, actor=ACTOR)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda conn: notes.add(conn, "  ", actor=ACTOR), "1 to 2,000 characters"),
        (lambda conn: notes.add(conn, "x" * 2001, actor=ACTOR), "1 to 2,000 characters"),
        (lambda conn: notes.add(conn, "a\0b", actor=ACTOR), "cannot store"),
        (lambda conn: notes.add(conn, "x", days=0, actor=ACTOR), "1 to 30 days"),
        (lambda conn: notes.add(conn, "x", days=31, actor=ACTOR), "1 to 30 days"),
        (lambda conn: notes.acknowledge(conn, 999, actor=ACTOR), "no open note 999"),
        (lambda conn: notes.mute(conn, "alpha", "a", until=conn.now(), actor=ACTOR), "in the past"),
        (lambda conn: notes.mute(conn, "alpha", "a", until=conn.now() + 366 * DAY, actor=ACTOR), "365 days"),
        (lambda conn: notes.unmute(conn, "alpha", "a", actor=ACTOR), "not muted"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    conn: Connection, call: Callable[[Connection], object], words: str
) -> None:
    with conn.changes_nothing(), pytest.raises(Refused, match=words):
        call(conn)


def test_a_muted_group_is_marked_until_its_time_and_audited(conn: Connection) -> None:
    conn.add(max_attempts=1)
    conn.run_once(outcome="failed", error="the vendor answered 503", error_kind="vendor")
    (group,) = error_groups.groups().run(conn)
    notes.mute(conn, *group.key, until=conn.now() + DAY, actor=ACTOR, reason="known")
    notes.mute(conn, *group.key, until=conn.now() + 2 * DAY, actor=ACTOR, reason="still known")
    report = reports.errors().run(conn)
    muted = report.mute_of(group)
    assert muted is not None
    assert muted.reason == "still known"
    assert [row["reason"] for row in conn.audit_rows("mute errors")] == ["known", "still known"]
    conn.advance(3 * DAY)
    assert mutes().run(conn) == ()


def test_a_mute_can_be_ended(conn: Connection) -> None:
    notes.mute(conn, "alpha", "abc", until=conn.now() + DAY, actor=ACTOR)
    notes.unmute(conn, "alpha", "abc", actor=ACTOR, reason="mended")
    assert mutes().run(conn) == ()
    assert [row["reason"] for row in conn.audit_rows("unmute errors")] == ["mended"]


def test_a_group_is_new_for_a_day(conn: Connection) -> None:
    conn.add(max_attempts=1)
    conn.run_once(outcome="failed", error="the vendor answered 503", error_kind="vendor")
    (group,) = error_groups.groups().run(conn)
    assert group.is_new(conn.now())
    conn.advance(DAY + timedelta(minutes=5))
    (group,) = error_groups.groups().run(conn)
    assert not group.is_new(conn.now())


def test_a_viewer_does_not_see_what_people_wrote(conn: Connection) -> None:
    notes.add(conn, "Ada Lovelace called", actor=ACTOR)
    conn.execute("CREATE ROLE peeper NOLOGIN")
    try:
        conn.execute("GRANT SELECT ON job_note_list TO peeper")
        conn.execute("GRANT USAGE ON SCHEMA public TO peeper")
        for function in ("job_sees_payloads", "job_may_read_views", "job_has_foreign_roles", "job_roles_prefix"):
            conn.execute(f"GRANT EXECUTE ON FUNCTION {function} TO peeper")
        conn.execute("SET ROLE peeper")
        assert [one.note for one in open_notes().run(conn)] == ["hidden"]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT note FROM job_notes")
    finally:
        conn.execute("RESET ROLE")
        conn.execute("DROP OWNED BY peeper")
        conn.execute("DROP ROLE peeper")


def test_the_digest_has_open_canaries_and_bulk_actions(conn: Connection) -> None:
    from jobdeck.core.queue import bulk  # noqa: PLC0415 -- of this test alone

    job = conn.add()
    chosen = bulk.choose_ids(conn, {job.id: None}, actor=ACTOR).bulk
    bulk.start(conn, chosen.id, "cancel", actor=ACTOR, reason="wrong data")
    operator.pause(conn, reason="x", actor=ACTOR)
    found = reports.digest(timedelta(hours=8)).run(conn)
    assert [(one.action, one.reason) for one in found.bulks] == [("bulk cancel", "wrong data")]
    assert found.canaries == ()
