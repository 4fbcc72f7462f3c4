"""The watch over the earlier runner: it answers each run that begins, once, and changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from pydantic import field_validator

from jobdeck.core.errors import PermanentError, Refused
from jobdeck.core.postgres.database import Database
from jobdeck.core.programme.cutover import ends
from jobdeck.core.programme.cutover import shadow as watching
from jobdeck.core.programme.cutover.shadow import MOST_WAITING, Foreseen, Watch
from jobdeck.core.queue import operator
from jobdeck.core.registry import JobType, Payload, Registry
from jobdeck.core.settings import Settings
from tests.support.earlier_runner import fail, succeed, take
from tests.support.people import People
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import until
from tests.support.working import nothing

Json = dict[str, Any]


class Letters(Payload):
    number: int = 1


def refuses(_params: Letters, _ctx: object) -> Json:
    raise PermanentError("The list is empty.")


def breaks(_params: Letters, _ctx: object) -> Json:
    return {"share": 1 // 0}


def exits(_params: Letters, _ctx: object) -> Json:
    raise SystemExit(3)


EXIT = "The preview failed: SystemExit: the handler called sys.exit(3); a handler must return or raise"


class Odd(Payload):
    number: int = 1

    @field_validator("number")
    @classmethod
    def looked_up(cls, number: int) -> int:
        known: dict[str, int] = {}
        return known["number"] + number


def made(name: str, preview: Callable[[Any, Any], Json] | None) -> JobType:
    return JobType(name, nothing, name, "", Letters, preview=preview)


TYPES = (
    made("letters", lambda params, ctx: {"letters": params.number, "dry": ctx.dry_run}),
    made("plain", None),
    made("refusing", refuses),
    made("breaking", breaks),
    made("exiting", exits),
    replace(made("odd", refuses), payload=Odd),
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url, application_name="test") as opened:
        yield opened


@pytest.fixture
def earlier(conn: Connection) -> Connection:
    """A connection of the earlier runner, which has the queue."""
    ends.switch(conn, back=True, actor=ACTOR, reason=None)
    return conn


@contextmanager
def watched(database: Database, *types: JobType, task_types: Collection[str] | None = None) -> Iterator[Watch]:
    watch = Watch(database, Registry(types or TYPES), Settings(), task_types=task_types)
    watch.begin()
    try:
        yield watch
    finally:
        watch.end()


def answers(watch: Watch) -> list[Foreseen]:
    """What the watch answers for the runs until now."""
    watch.look()
    until(lambda: not watch.is_busy, "the end of the previews")
    return watch.answers()


def test_each_run_is_answered_with_its_effects_or_with_the_reason_why_there_are_none(
    database: Database, earlier: Connection
) -> None:
    operator.set_type(earlier, "images", changes={"set_aside": True}, actor=ACTOR, reason="elsewhere")
    operator.set_type(earlier, "plain", changes={"set_aside": True}, actor=ACTOR, reason="elsewhere")
    with watched(database) as watch:
        for name in ("letters", "refusing", "breaking", "exiting", "odd", "images", "unknown"):
            earlier.add(name, payload={"number": 3})
        earlier.add("letters", payload={"number": "many"})
        earlier.add("plain")
        take(earlier, 10)
        with earlier.changes_nothing():
            found = answers(watch)
    refused = [one.sentence or "" for one in found if one.answer == "refused"]
    assert [said.partition(": number: ")[0] for said in refused] == ["The payload does not fit letters"]
    assert {(one.run.task_type, one.answer): one.sentence or one.effects for one in found} == {
        ("letters", "effects"): {"letters": 3, "dry": True},
        ("letters", "refused"): refused[0],
        ("refusing", "would-fail"): "A run would fail: The list is empty.",
        ("breaking", "preview-failed"): "The preview failed: ZeroDivisionError: integer division or modulo by zero",
        ("exiting", "preview-failed"): EXIT,
        ("odd", "would-fail"): "A run would fail: KeyError: 'number'",
        ("images", "no-handler"): "no handler here: the type stays with the earlier runner",
        ("plain", "set-aside"): "set aside: the type stays with the earlier runner",
        ("unknown", "no-handler"): "no handler here: after the switch its jobs wait, unless the type is set aside",
    }


def test_a_type_without_a_preview_is_said_to_have_none(database: Database, earlier: Connection) -> None:
    with watched(database) as watch:
        earlier.add("plain")
        take(earlier)
        assert [(one.answer, one.sentence) for one in answers(watch)] == [("no-preview", "no preview")]


@pytest.mark.slow
def test_a_run_that_begins_and_ends_between_two_looks_is_answered(database: Database, earlier: Connection) -> None:
    with watched(database) as watch:
        done, failed = earlier.add("letters"), earlier.add("letters")
        take(earlier)
        succeed(earlier, done.id)
        fail(earlier, failed.id)
        assert {one.run.job_id for one in answers(watch)} == {done.id, failed.id}


def test_a_run_is_answered_once_however_long_it_lasts_and_a_second_run_of_its_job_again(
    database: Database, earlier: Connection
) -> None:
    with watched(database) as watch:
        job = earlier.add("letters")
        take(earlier)
        assert [one.run.job_id for one in answers(watch)] == [job.id]
        assert answers(watch) == []
        fail(earlier, job.id, 0)
        assert answers(watch) == []
        take(earlier)
        assert [one.run.job_id for one in answers(watch)] == [job.id]
        assert watch.counts == {"letters": 2}


def test_runs_that_began_before_the_watch_are_not_answered(database: Database, earlier: Connection) -> None:
    ended, lasting = earlier.add("letters"), earlier.add("letters")
    take(earlier)
    succeed(earlier, ended.id)
    with watched(database) as watch:
        assert answers(watch) == []
        succeed(earlier, lasting.id)
        assert answers(watch) == []
    assert watch.counts == {}


def test_nothing_is_answered_twice_or_missed_when_there_are_more_runs_than_are_remembered(
    database: Database, earlier: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "REMEMBERED", 3)
    for _ in range(5):
        earlier.add("plain")
    take(earlier)
    found: list[int] = []
    with watched(database) as watch:
        for _ in range(4):
            begun = [earlier.add("plain").id for _ in range(2)]
            assert len(take(earlier)) == 2
            for job in begun:
                succeed(earlier, job)
            found += [one.run.run_token for one in answers(watch)]
    assert len(found) == len(set(found)) == 8


@pytest.mark.slow
def test_a_claim_that_commits_after_a_later_one_is_answered(
    database: Database, database_url: str, earlier: Connection
) -> None:
    early = earlier.add("letters")
    with watched(database) as watch, Connection.connect(database_url) as slow:
        assert [row["id"] for row in take(slow)] == [early.id]
        late = earlier.add("letters")
        assert [row["id"] for row in take(earlier)] == [late.id]
        assert [one.run.job_id for one in answers(watch)] == [late.id]
        slow.commit()
        assert [one.run.job_id for one in answers(watch)] == [early.id]


def test_only_the_runs_of_the_wanted_types_are_answered(database: Database, earlier: Connection) -> None:
    with watched(database, task_types=["plain"]) as watch:
        earlier.add("letters")
        earlier.add("plain")
        take(earlier)
        assert [one.run.task_type for one in answers(watch)] == ["plain"]
        assert watch.counts == {"plain": 1}


class TestSlowPreviews:
    """The first preview waits at a gate, and the earlier runner goes on."""

    @pytest.fixture
    def gate(self) -> Iterator[threading.Event]:
        gate = threading.Event()
        yield gate
        gate.set()

    @pytest.fixture
    def reached(self) -> threading.Event:
        return threading.Event()

    @pytest.fixture
    def slow(self, gate: threading.Event, reached: threading.Event) -> JobType:
        def preview(params: Letters, _ctx: object) -> Json:
            reached.set()
            gate.wait()
            return {"letters": params.number}

        return made("slow", preview)

    def test_the_oldest_waiting_runs_are_left_out_and_counted(
        self, database: Database, earlier: Connection, slow: JobType, gate: threading.Event, reached: threading.Event
    ) -> None:
        with watched(database, slow) as watch:
            earlier.add("slow", payload={"number": 0})
            take(earlier)
            watch.look()
            until(reached.is_set, "the first preview")
            for number in range(1, MOST_WAITING + 6):
                earlier.add("slow", payload={"number": number})
            take(earlier, 100)
            watch.look()
            assert (watch.left_out, watch.answers()) == (5, [])
            gate.set()
            found = [one.effects for one in answers(watch)]
        assert found == [{"letters": number} for number in (0, *range(6, MOST_WAITING + 6))]
        assert (watch.left_out, watch.counts) == (5, {"slow": MOST_WAITING + 6})

    def test_a_preview_that_hangs_does_not_hold_up_the_looks_nor_the_end(
        self, database: Database, earlier: Connection, slow: JobType, reached: threading.Event
    ) -> None:
        with watched(database, slow, *TYPES) as watch:
            for _ in range(2):
                earlier.add("slow")
            take(earlier)
            watch.look()
            until(reached.is_set, "the first preview")
            earlier.add("plain")
            take(earlier)
            watch.look()
            assert [one.answer for one in watch.answers()] == ["no-preview"]
        assert (watch.left_out, watch.answers()) == (2, [])


class TestSwitch:
    def test_a_watch_is_refused_while_the_workers_have_the_queue(self, database: Database) -> None:
        watch = Watch(database, Registry(TYPES), Settings())
        with pytest.raises(Refused, match=r"The workers of Jobdeck have the queue.* `jobdeck cutover status`"):
            watch.begin()

    def test_the_look_after_the_switch_says_so_and_still_answers_the_runs_before_it(
        self, database: Database, earlier: Connection
    ) -> None:
        with watched(database) as watch:
            job = earlier.add("plain")
            take(earlier)
            assert watch.look()
            watch.answers()
            succeed(earlier, job.id)
            last = earlier.add("plain")
            take(earlier)
            ends.switch(earlier, back=False, actor=ACTOR, reason=None)
            assert not watch.look()
            assert [one.run.job_id for one in watch.answers()] == [last.id]


@pytest.mark.slow
def test_a_workers_account_may_watch(people: People, database_url: str, earlier: Connection) -> None:
    with Database(people.address(database_url, "job_worker"), application_name="test") as database:
        assert database.probe().role == people.name("job_worker")
        with watched(database) as watch:
            earlier.add("letters", payload={"number": 7})
            take(earlier)
            assert [one.effects for one in answers(watch)] == [{"letters": 7, "dry": True}]
