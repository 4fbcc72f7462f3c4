"""Edits of the payloads of many jobs: each is validated like a single edit, refused by itself, and audited."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from pydantic import Field

from jobdeck.core import settings as configuration
from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.queue import bulk, operator
from jobdeck.core.queue.bulk_model import Bulk
from jobdeck.core.queue.operators import bulk_edit
from jobdeck.core.queue.operators.payload_change import PayloadChange, difference, parse_change
from jobdeck.core.read.filters import parse_filter
from jobdeck.core.registry import Admission, Done, JobType, Payload, Registry
from tests.support.people import People
from tests.support.queue import ACTOR, Connection, report


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
        conn.add(payload={"url": "https://old.example.org", "tries": number, "note": "x"}).id for number in (1, 2, 3)
    ]
    done = edit_all(conn, PayloadChange(NEW, ("note",)))

    assert (done.action, done.state, done.done, done.refused) == ("edit", "finished", 3, 0)
    assert [conn.job_row(one)["payload"] for one in ids] == [NEW | {"tries": n} for n in (1, 2, 3)]
    audit = conn.audit_rows("edit")
    assert {row["job_id"] for row in audit} == set(ids)
    assert {(row["actor"], row["reason"]) for row in audit} == {(audit[0]["actor"], "moved")}
    again = bulk_edit.step(conn, REGISTRY, done.id, settings=configuration.load(), driver=ACTOR)
    assert again == done
    assert len(conn.audit_rows("edit")) == 3


@pytest.mark.slow
def test_two_programs_that_carry_out_one_edit_edit_each_job_once(conn: Connection, database_url: str) -> None:
    for number in range(30):
        conn.add(payload={"tries": 1 + number % 5})
    now = bulk_edit.start(conn, choose(conn).id, PayloadChange(NEW), actor=ACTOR)

    def drive(limit: int) -> None:
        with Connection.connect(database_url, autocommit=True) as other:
            state = "running"
            while state == "running":
                state = bulk_edit.step(
                    other, REGISTRY, now.id, settings=configuration.load(), driver=f"by {limit}", limit=limit
                ).state

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(drive, (2, 3, 5)))
    ended = bulk.find(conn, now.id)
    assert ended is not None
    assert (ended.state, ended.done, ended.refused) == ("finished", 30, 0)
    assert set(answers(conn, ended).values()) == {(True, "was-edited")}
    assert len(conn.audit_rows("edit")) == 30


def test_refused_jobs_are_answered_one_by_one_and_stay_as_they_are(conn: Connection) -> None:
    fine, same = conn.add(payload={"tries": 2}).id, conn.add(payload=NEW | {"tries": 1}).id
    wrong, stranger = conn.add(payload={"tries": 9}).id, conn.add("alphabet").id
    running, changed = conn.add(payload={"tries": 3}, priority=9).id, conn.add(payload={"tries": 4}).id
    gone = conn.add(payload={"tries": 5}).id
    (claimed,) = conn.claim(limit=1)
    assert claimed.id == running
    frozen = choose(conn)
    operator.edit(conn, changed, changes={"priority": 3}, actor="another")
    operator.delete(conn, [gone], actor="another")
    before = {one: conn.job_row(one) for one in (same, wrong, stranger, running, changed)}

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
    assert {one: conn.job_row(one) for one in before} == before
    (said,) = [one.message for one in bulk.answers(conn, done.id) if one.job_id == wrong]
    assert "tries" in str(said)


def test_a_dry_run_says_what_each_job_would_answer_and_changes_nothing(conn: Connection) -> None:
    ids = [conn.add(payload={"tries": number}).id for number in (1, 2, 9)]
    frozen = choose(conn)
    with conn.changes_nothing():
        found = bulk_edit.rehearse(
            conn, REGISTRY, frozen.id, PayloadChange(NEW), settings=configuration.load(), actor=ACTOR
        )
    assert (found.total, found.checked, found.changed, found.same) == (3, 3, 2, 0)
    assert [one.job_id for one in found.refused] == [ids[2]]
    assert {job.id for job, _ in found.first} == set(ids[:2])
    assert '+ url: "https://new.example.org"' in found.first[0][1].lines


class TestInterrupted:
    """A bulk edit whose command or dashboard has gone."""

    def started(self, conn: Connection, *, jobs: int = 1, words: str = "") -> Bulk:
        for _ in range(jobs):
            conn.add()
        now = bulk_edit.start(conn, choose(conn, words).id, PayloadChange(NEW), actor=ACTOR)
        self.pass_time(conn)
        return now

    def pass_time(self, conn: Connection) -> None:
        conn.execute("UPDATE job_bulk SET stepped_at = clock_timestamp() - interval '11 seconds'")

    def resumed(
        self, conn: Connection, *, types: tuple[str, ...] = ("alpha",), worker: str = "worker-1",
        registry: Registry = REGISTRY,
    ) -> bool:  # fmt: skip
        return bulk_edit.resume_stalled(conn, registry, types, worker, settings=configuration.load(), limit=2)

    def test_a_worker_of_its_types_carries_it_to_its_end(self, conn: Connection) -> None:
        now = self.started(conn, jobs=3)
        assert not bulk.resume_stalled(conn, "worker-1")
        assert self.resumed(conn)
        conn.just_stepped()
        assert not self.resumed(conn, worker="worker-2")
        assert self.resumed(conn)
        assert not self.resumed(conn)
        ended = bulk.find(conn, now.id)
        assert ended is not None
        assert (ended.state, ended.done, ended.refused, ended.driver) == ("finished", 3, 0, "worker-1")
        assert {row["payload"]["url"] for row in conn.rows("SELECT payload FROM job_queue")} == {NEW["url"]}
        assert len(conn.audit_rows("edit")) == 3

    def test_a_worker_that_lacks_a_type_leaves_it_and_takes_the_next(self, conn: Connection) -> None:
        conn.add("beta")
        mixed = self.started(conn)
        fine = self.started(conn, words="type:alpha")
        assert self.resumed(conn)
        assert [bulk.find(conn, one.id).done for one in (mixed, fine)] == [0, 2]  # type: ignore[union-attr]
        assert not self.resumed(conn, types=("beta",))

    def test_only_a_program_that_validates_carries_it_out(self, conn: Connection) -> None:
        now = self.started(conn)
        with pytest.raises(Refused, match="knows the task types"):
            bulk.step(conn, now.id, driver=ACTOR)
        assert conn.job_row(conn.value("SELECT id FROM job_queue"))["payload"] == {}

    def test_what_a_task_type_raises_is_stored_and_tried_again(self, conn: Connection) -> None:
        def broken(_params: Payload, _admission: Admission) -> dict[str, str]:
            raise ZeroDivisionError("no vendor for ada@example.org")

        wrong = Registry(
            [JobType("alpha", lambda _params, _ctx: Done(), payload=Push, concurrency=None, label="Push",
                     purpose="Push", admit=broken)]
        )  # fmt: skip
        now = self.started(conn)
        assert not self.resumed(conn, registry=wrong)
        found = bulk.find(conn, now.id)
        assert found is not None
        assert (found.state, found.done) == ("running", 0)
        assert "no vendor" in str(found.trouble)
        assert "ada@" not in str(found.trouble)
        conn.just_stepped()
        assert not self.resumed(conn)
        self.pass_time(conn)
        assert self.resumed(conn)
        assert bulk.find(conn, now.id).state == "finished"  # type: ignore[union-attr]

    def test_a_worker_s_role_is_enough(self, conn: Connection, database_url: str, people: People) -> None:
        now = self.started(conn, jobs=2)
        with people.sign_in(database_url, "job_worker") as worker:
            assert self.resumed(worker)
        assert bulk.find(conn, now.id).state == "finished"  # type: ignore[union-attr]


class TestUndo:
    def undone(self, conn: Connection, found: Bulk) -> Bulk:
        choice = bulk.choose_undo(conn, found, actor=ACTOR)
        assert choice is not None
        now = bulk.start(conn, choice.bulk.id, "revert", actor=ACTOR)
        while now.state == "running":
            now = bulk.step(conn, now.id, driver=ACTOR, limit=2)
        return now

    def test_each_job_gets_its_former_payload_back(self, conn: Connection) -> None:
        before = {conn.add(payload={"url": f"https://{n}", "note": "x"}, concurrency_key=f"k{n}").id for n in range(3)}
        former = {one: conn.job_row(one) for one in before}
        conn.add(payload=NEW | {"tries": 1})
        done = edit_all(conn, PayloadChange(NEW, ("note",)))
        ended = self.undone(conn, done)
        assert (ended.action, ended.state, ended.done, ended.refused) == ("revert", "finished", 3, 0)
        for one in before:
            now = conn.job_row(one)
            assert now["payload"] == former[one]["payload"]
            assert now["concurrency_key"] == former[one]["concurrency_key"]
            assert answers(conn, ended)[one] == (True, "was-reverted")
        assert len(conn.audit_rows("edit")) == 6
        assert len(conn.audit_rows("bulk revert")) == 1

    @pytest.mark.slow
    def test_jobs_that_were_changed_or_claimed_since_keep_theirs_and_are_counted(self, conn: Connection) -> None:
        fine, changed = conn.add(payload={"tries": 1}).id, conn.add(payload={"tries": 2}).id
        running, tried = conn.add(priority=9).id, conn.add(priority=8, max_attempts=5).id
        gone = conn.add(payload={"tries": 4}).id
        done = edit_all(conn, PayloadChange(NEW))
        assert [job.id for job in conn.claim(limit=1)] == [running]
        (once,) = conn.claim(limit=1)
        assert once.id == tried
        conn.finish(report(once, "failed", error="boom", retry_after=0.0))
        operator.edit(conn, changed, changes={"payload": {"tries": 3}}, actor="another")
        operator.delete(conn, [gone], actor="another")
        before = {one: conn.job_row(one) for one in (changed, running, tried)}
        ended = self.undone(conn, done)
        assert (ended.done, ended.refused) == (5, 4)
        assert answers(conn, ended) == {
            fine: (True, "was-reverted"),
            changed: (False, "has-changed"),
            running: (False, "has-changed"),
            tried: (False, "has-changed"),
            gone: (False, "is-deleted"),
        }
        assert {one: conn.job_row(one) for one in before} == before
        again = self.undone(conn, done)
        assert (again.done, again.refused) == (5, 5)

    def test_a_payload_that_is_no_longer_kept_is_said(self, conn: Connection) -> None:
        job = conn.add(payload={"tries": 2}).id
        done = edit_all(conn, PayloadChange(NEW))
        conn.execute("SELECT job_retain_line('job_audit payloads', now() + interval '1 day', 100)")
        ended = self.undone(conn, done)
        assert answers(conn, ended) == {job: (False, "former-not-kept")}
        assert conn.job_row(job)["payload"]["url"] == NEW["url"]

    @pytest.mark.slow
    def test_a_row_that_somebody_has_locked_is_refused_and_the_others_are_not(
        self, conn: Connection, database_url: str
    ) -> None:
        held, free = conn.add(payload={"tries": 2}).id, conn.add(payload={"tries": 3}).id
        done = edit_all(conn, PayloadChange(NEW))
        with Connection.connect(database_url) as other:
            other.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", [held])
            ended = self.undone(conn, done)
        assert answers(conn, ended) == {held: (False, "is-locked"), free: (True, "was-reverted")}

    def test_any_worker_carries_an_interrupted_undo_to_its_end(self, conn: Connection) -> None:
        job = conn.add(payload={"tries": 2}).id
        choice = bulk.choose_undo(conn, edit_all(conn, PayloadChange(NEW)), actor=ACTOR)
        assert choice is not None
        now = bulk.start(conn, choice.bulk.id, "revert", actor=ACTOR)
        conn.execute("UPDATE job_bulk SET stepped_at = now() - interval '11 seconds'")
        assert not bulk.resume_stalled(conn, "worker-1")
        assert bulk.find(conn, now.id).state == "finished"  # type: ignore[union-attr]
        assert conn.job_row(job)["payload"] == {"tries": 2}

    def test_what_cannot_be_undone_is_refused(self, conn: Connection) -> None:
        conn.add()
        running = bulk_edit.start(conn, choose(conn).id, PayloadChange(NEW), actor=ACTOR)
        with pytest.raises(Refused, match="has ended"):
            bulk.choose_undo(conn, running, actor=ACTOR)
        frozen = choose(conn)
        with pytest.raises(Refused, match="undo that bulk edit"):
            bulk.start(conn, frozen.id, "revert", actor=ACTOR)
        ended = bulk.start(conn, frozen.id, "cancel", actor=ACTOR)
        with pytest.raises(Refused, match="Only a deletion and an edit can be undone"):
            bulk.choose_undo(conn, ended, actor=ACTOR)
        same = edit_all(conn, PayloadChange({}, ("note",)))
        assert bulk.choose_undo(conn, same, actor=ACTOR) is None


def test_a_bulk_edit_without_changes_is_refused(conn: Connection) -> None:
    conn.add()
    frozen = choose(conn)
    with pytest.raises(Refused, match="needs its changes"):
        bulk.start(conn, frozen.id, "edit", actor=ACTOR)
    assert conn.value("SELECT state FROM job_bulk") == "chosen"


def test_the_audit_of_the_bulk_edit_names_no_value(conn: Connection) -> None:
    conn.add()
    edit_all(conn, PayloadChange({"note": "ada@example.org"}))
    assert "ada@" not in json.dumps(conn.rows("SELECT after FROM job_audit WHERE action = 'bulk edit'"))


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


@pytest.mark.slow
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
