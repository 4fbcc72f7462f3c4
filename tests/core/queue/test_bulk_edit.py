"""Edits of the payloads of many jobs: each is validated like a single edit, refused by itself, and audited."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import Field

from jobdeck.core import settings as configuration
from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.queue import bulk, operator
from jobdeck.core.queue.operators import bulk_edit
from jobdeck.core.queue.operators.payload_change import PayloadChange, difference, parse_change
from jobdeck.core.read.filters import parse_filter
from jobdeck.core.registry import Done, JobType, Payload, Registry
from tests.support.queue import ACTOR, Connection, add, audit_rows, changes_nothing, claim, job_row, rows, value

if TYPE_CHECKING:
    from uuid import UUID

    from jobdeck.core.queue.bulk_model import Bulk


class Push(Payload):
    url: str = Field("https://old.example.org", pattern="^https://")
    tries: int = Field(1, ge=1, le=5)
    note: str | None = None


REGISTRY = Registry(
    [JobType("alpha", lambda _params, _ctx: Done(), payload=Push, concurrency=None, label="Push", purpose="Push")]
)
NEW = {"url": "https://new.example.org"}


def choose(conn: Connection, words: str = "type:alpha") -> Bulk:
    choice = bulk.choose(conn, parse_filter(words), actor=ACTOR)
    assert choice is not None
    return choice.bulk


def edit_all(conn: Connection, change: PayloadChange, *, frozen: Bulk | None = None, limit: int = 2) -> Bulk:
    now = bulk_edit.start(conn, (frozen or choose(conn)).id, change, actor=ACTOR, reason="moved")
    while now.state == "running":
        now = bulk_edit.step(conn, REGISTRY, now.id, settings=configuration.load(), driver=ACTOR, limit=limit)
    return now


def answers(conn: Connection, found: Bulk) -> dict[UUID, tuple[bool | None, str | None]]:
    return {one.job_id: (one.ok, one.code) for one in bulk.answers(conn, found.id)}


def test_every_job_is_edited_once_and_audited(conn: Connection) -> None:
    ids = [
        add(conn, payload={"url": "https://old.example.org", "tries": number, "note": "x"}).id for number in (1, 2, 3)
    ]
    done = edit_all(conn, PayloadChange(NEW, ("note",)))

    assert (done.action, done.state, done.done, done.refused) == ("edit", "finished", 3, 0)
    assert [job_row(conn, one)["payload"] for one in ids] == [NEW | {"tries": n} for n in (1, 2, 3)]
    audit = audit_rows(conn, "edit")
    assert {row["job_id"] for row in audit} == set(ids)
    assert {(row["actor"], row["reason"]) for row in audit} == {(audit[0]["actor"], "moved")}
    again = bulk_edit.step(conn, REGISTRY, done.id, settings=configuration.load(), driver=ACTOR)
    assert again == done
    assert len(audit_rows(conn, "edit")) == 3


def test_refused_jobs_are_answered_one_by_one_and_stay_as_they_are(conn: Connection) -> None:
    fine, same = add(conn, payload={"tries": 2}).id, add(conn, payload=NEW | {"tries": 1}).id
    wrong, stranger = add(conn, payload={"tries": 9}).id, add(conn, "alphabet").id
    running, changed = add(conn, payload={"tries": 3}, priority=9).id, add(conn, payload={"tries": 4}).id
    gone = add(conn, payload={"tries": 5}).id
    (claimed,) = claim(conn, limit=1)
    assert claimed.id == running
    frozen = choose(conn)
    operator.edit(conn, changed, changes={"priority": 3}, actor="another")
    operator.delete(conn, [gone], actor="another")
    before = {one: job_row(conn, one) for one in (same, wrong, stranger, running, changed)}

    done = edit_all(conn, PayloadChange(NEW), frozen=frozen)

    assert answers(conn, done) == {
        fine: (True, "was-edited"),
        same: (True, "nothing-to-change"),
        wrong: (False, "not-admitted"),
        stranger: (False, "not-admitted"),
        running: (False, "edit-running"),
        changed: (False, "has-changed"),
        gone: (False, "is-deleted"),
    }
    assert (done.done, done.refused) == (7, 5)
    assert {one: job_row(conn, one) for one in before} == before
    (said,) = [one.message for one in bulk.answers(conn, done.id) if one.job_id == wrong]
    assert "tries" in str(said)


def test_a_dry_run_says_what_each_job_would_answer_and_changes_nothing(conn: Connection) -> None:
    ids = [add(conn, payload={"tries": number}).id for number in (1, 2, 9)]
    frozen = choose(conn)
    with changes_nothing(conn):
        found = bulk_edit.rehearse(
            conn, REGISTRY, frozen.id, PayloadChange(NEW), settings=configuration.load(), actor=ACTOR
        )
    assert (found.total, found.checked, found.changed, found.same) == (3, 3, 2, 0)
    assert [one.job_id for one in found.refused] == [ids[2]]
    assert {job.id for job, _ in found.first} == set(ids[:2])
    assert '+ url: "https://new.example.org"' in found.first[0][1].lines


def test_workers_leave_a_bulk_edit_to_a_program_that_knows_its_types(conn: Connection) -> None:
    add(conn)
    now = bulk_edit.start(conn, choose(conn).id, PayloadChange(NEW), actor=ACTOR)
    conn.execute("UPDATE job_bulk SET stepped_at = now() - interval '1 hour'")
    assert not bulk.resume_stalled(conn, "a worker")
    with pytest.raises(Refused, match="knows the task types"):
        bulk.step(conn, now.id, driver=ACTOR)
    assert edit_all_from(conn, now).state == "finished"


def edit_all_from(conn: Connection, now: Bulk) -> Bulk:
    return bulk_edit.step(conn, REGISTRY, now.id, settings=configuration.load(), driver="another")


def test_a_bulk_edit_without_changes_is_refused(conn: Connection) -> None:
    add(conn)
    frozen = choose(conn)
    with pytest.raises(Refused, match="needs its changes"):
        bulk.start(conn, frozen.id, "edit", actor=ACTOR)
    assert value(conn, "SELECT state FROM job_bulk") == "chosen"


def test_the_audit_of_the_bulk_edit_names_no_value(conn: Connection) -> None:
    add(conn)
    edit_all(conn, PayloadChange({"note": "ada@example.org"}))
    assert "ada@" not in json.dumps(rows(conn, "SELECT after FROM job_audit WHERE action = 'bulk edit'"))


@pytest.mark.parametrize(
    ("sets", "unset", "change"),
    [
        (["url=https://x?a=b"], [], PayloadChange({"url": "https://x?a=b"})),
        (
            ["n=5", "b=true", "o={}", 's="5"', "z=05"],
            [],
            PayloadChange({"n": 5, "b": True, "o": {}, "s": "5", "z": "05"}),
        ),
        (['"a=b"=null', "c="], ["d"], PayloadChange({"a=b": None, "c": ""}, ("d",))),
        (["n=NaN"], [], PayloadChange({"n": "NaN"})),
    ],
)
def test_changes_are_read(sets: list[str], unset: list[str], change: PayloadChange) -> None:
    assert parse_change(sets, unset) == change


@pytest.mark.parametrize(
    ("sets", "unset", "word"),
    [
        (["url"], [], "KEY=VALUE"),
        (["=5"], [], "KEY=VALUE"),
        (["a=1", "a=2"], [], "twice"),
        (["a=1"], ["a"], "twice"),
        ([], [""], "empty"),
        (['"a=1'], [], "not closed"),
        (['a="\\u0000"'], [], "NUL"),
        (["a=\udcff"], [], "cannot store"),
    ],
)
def test_changes_that_cannot_be_read_are_refused(sets: list[str], unset: list[str], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_change(sets, unset)


def test_a_difference_names_each_key_and_masks_private_values() -> None:
    before = {"url": "a", "person": {"email": "ada@example.org", "n": 1}, "gone": 1, "password": "old"}
    after = {"url": "b", "person": {"email": "bob@example.org", "n": 1}, "password": "new", "made": "\x1b[31mx"}
    lines = difference(before, after).lines
    assert '~ url: "a" → "b"' in lines
    assert "- gone: 1" in lines
    assert any(line.startswith("~ person.email: ") and "not shown" in line for line in lines)
    assert any(line.startswith("~ password: ") for line in lines)
    for hidden in ("ada@", "bob@", "old", "new", "\x1b"):
        assert not any(hidden in line for line in lines)


def test_a_difference_of_large_payloads_is_cut_and_says_so() -> None:
    large = {"list": list(range(200_000)), "text": "x" * 1_000_000}
    found = difference(large, {"list": [*range(200_000), 1], "text": "x" * 1_000_000 + "y"})
    assert len(found.keys) == 2
    for line in found.lines:
        assert len(line) < 500
        assert "characters in all)" in line
    many = difference({}, {f"key-{number}": number for number in range(50_000)})
    assert len(many.keys) == 12
    assert many.lines[-1] == "and 49988 more keys, which are not shown"
