"""The concurrency key of every job, also of one inserted by hand, from the rule that a worker wrote for its type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, presence, producer
from jobdeck.core.registry import JobType, NoArguments, Payload
from tests.support.examples import examples
from tests.support.queue import ACTOR, Connection


class Arguments(Payload):
    """Fields of all kinds that a payload may have."""

    team_id: str | int | bool | float | list[int] | UUID | None = None


def kind(rule: str | None, name: str = "alpha", payload: type[Payload] = NoArguments) -> JobType:
    return JobType(name, lambda _payload, _context: None, name, "", payload, concurrency=rule)


def declare(conn: Connection, rule: str | None, name: str = "alpha") -> None:
    presence.declare_types(conn, [kind(rule, name)])


def insert(conn: Connection, payload: dict[str, Any] | None = None, **columns: Any) -> UUID:
    """A row as an application writes it that knows nothing of keys."""
    given = {"task_type": "alpha", "payload": json.dumps(payload or {}), **columns}
    names = sql.SQL(", ").join(map(sql.Identifier, given))
    places = sql.SQL(", ").join([sql.Placeholder()] * len(given))
    statement = sql.SQL("INSERT INTO job_queue ({}) VALUES ({}) RETURNING id").format(names, places)
    (found,) = conn.execute(statement, list(given.values())).fetchall()[0]
    assert isinstance(found, UUID)
    return found


def keys(conn: Connection, ids: Sequence[UUID]) -> list[str | None]:
    return [conn.job_row(one)["concurrency_key"] for one in ids]


def test_a_row_that_was_inserted_by_hand_waits_behind_the_one_before(conn: Connection) -> None:
    declare(conn, "type")
    first, second = insert(conn), insert(conn)
    assert keys(conn, [first, second]) == ["alpha", "alpha"]
    claimed = conn.claim_one()
    assert claimed.id == first
    assert conn.claim() == []
    conn.finish_one(claimed)
    assert conn.claim_one().id == second


def test_a_row_beside_a_running_job_of_its_key_waits(conn: Connection) -> None:
    declare(conn, "payload:teamId")
    producer.enqueue(conn, NewJob("alpha", {"teamId": "7"}), actor=ACTOR)
    claimed = conn.claim_one()
    same, other = insert(conn, {"teamId": "7"}), insert(conn, {"team_id": "8"})
    assert keys(conn, [claimed.id, same, other]) == ["alpha:7", "alpha:7", "alpha:8"]
    assert [one.id for one in conn.claim()] == [other]


def test_the_functions_of_producers_give_the_key_too(conn: Connection) -> None:
    declare(conn, "type")
    (made,) = conn.execute("SELECT (job_queue_enqueue('alpha', '{}')).id").fetchall()[0]
    ids = producer.enqueue_many(
        conn, [NewJob("alpha"), NewJob("beta"), NewJob("alpha", concurrency_key="own")], actor=ACTOR
    )
    assert keys(conn, [made, *ids]) == ["alpha", "alpha", None, "own"]
    assert len(conn.claim(("alpha", "beta"))) == 3


def test_a_key_that_the_row_brings_is_kept(conn: Connection) -> None:
    declare(conn, "type")
    assert keys(conn, [insert(conn, concurrency_key="own")]) == ["own"]


def test_types_share_a_key_by_its_name(conn: Connection) -> None:
    declare(conn, "type", "alpha")
    declare(conn, "key:alpha", "beta")
    first = insert(conn)
    second = insert(conn, task_type="beta")
    assert keys(conn, [first, second]) == ["alpha", "alpha"]
    assert [one.id for one in conn.claim(("alpha", "beta"))] == [first]


def test_a_key_beyond_the_limit_of_the_indexes_is_replaced_by_its_hash(conn: Connection) -> None:
    declare(conn, "payload:teamId")
    first, second = insert(conn, {"teamId": "x" * 9000}), insert(conn, {"teamId": "x" * 9000 + "y"})
    one, other = keys(conn, [first, second])
    assert one is not None
    assert len(one) == len("alpha:") + 32
    assert one != other


class TestEarlierJobs:
    """Jobs that were in the queue when a worker wrote the rule."""

    @pytest.mark.parametrize("together", [1, 2, 10_000])
    def test_those_that_wait_get_their_key_and_run_one_by_one(
        self, conn: Connection, monkeypatch: pytest.MonkeyPatch, together: int
    ) -> None:
        monkeypatch.setattr(presence, "FILLED_TOGETHER", together)
        waiting = [conn.add() for _ in range(3)]
        blocked = conn.add(blocked_by=waiting[0].id)
        other = conn.add("beta")
        declare(conn, "type")
        assert keys(conn, [*(job.id for job in waiting), blocked.id, other.id]) == ["alpha"] * 4 + [None]
        assert [claimed.id for claimed in conn.claim()] == [waiting[0].id]
        assert conn.value("SELECT count(*) FROM job_types WHERE keyless") == 0

    def test_one_of_those_that_run_holds_the_key_and_none_starts_beside_it(self, conn: Connection) -> None:
        running = [conn.add(), conn.add()]
        claimed = conn.claim()
        assert len(claimed) == 2
        waiting = conn.add()
        declare(conn, "type")
        assert sorted(keys(conn, [job.id for job in running]), key=str) == [None, "alpha"]
        assert conn.claim() == []
        for one in claimed:
            conn.finish_one(one)
        assert conn.claim_one().id == waiting.id

    def test_a_claim_neither_waits_for_the_transaction_that_gives_a_run_its_key_nor_fails_by_it(
        self, conn: Connection, database_url: str
    ) -> None:
        conn.add()
        running = conn.claim_one()
        waiting = conn.add(concurrency_key="alpha")
        conn.execute("SET lock_timeout = '5s'")
        with Connection.connect(database_url) as other:
            other.execute("SELECT job_types_declare('{alpha}', '{type}')")
            other.execute("SELECT job_types_fill_keys('{alpha}', NULL, 100)")
            assert conn.claim() == []
        assert keys(conn, [running.id]) == ["alpha"]
        assert conn.claim() == []
        conn.finish_one(running)
        assert conn.claim_one().id == waiting.id

    def test_a_failed_one_has_its_key_when_it_is_retried(self, conn: Connection) -> None:
        job = conn.add()
        conn.run_once(outcome="failed", permanent=True)
        declare(conn, "type")
        beside = conn.add()
        operator.retry(conn, [job.id], actor=ACTOR)
        assert keys(conn, [job.id, beside.id]) == ["alpha", "alpha"]
        assert len(conn.claim()) == 1

    def test_a_lost_run_comes_back_with_its_key(self, conn: Connection) -> None:
        job = conn.add(max_attempts=3)
        conn.claim_one()
        declare(conn, "type")
        conn.lose()
        assert keys(conn, [job.id]) == ["alpha"]

    @pytest.mark.parametrize("run", [False, True])
    def test_a_row_that_another_session_holds_is_left_and_nobody_waits(
        self, conn: Connection, database_url: str, *, run: bool
    ) -> None:
        held, free = conn.add(), conn.add()
        if run:
            conn.claim()
        conn.execute("SET lock_timeout = '5s'")
        with Connection.connect(database_url) as other:
            other.execute("SELECT FROM job_queue WHERE id = %s FOR UPDATE", (held.id,))
            declare(conn, "type")
            assert keys(conn, [held.id, free.id]) == [None, "alpha"]


def test_a_rule_that_is_gone_gives_no_more_keys(conn: Connection) -> None:
    declare(conn, "type")
    first = insert(conn)
    declare(conn, None)
    assert keys(conn, [first, insert(conn)]) == ["alpha", None]


def test_a_rule_that_is_written_again_changes_nothing(conn: Connection) -> None:
    declare(conn, "type")
    before = conn.value("SELECT xmin::text FROM job_types")
    declare(conn, "type")
    assert conn.value("SELECT xmin::text FROM job_types") == before


def test_a_type_without_a_rule_leaves_no_row(conn: Connection) -> None:
    declare(conn, None)
    assert conn.value("SELECT count(*) FROM job_types") == 0


values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), st.uuids(),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=values, rule=st.sampled_from(["type", "payload:teamId", "key:shared", None]))
def test_the_database_and_a_producer_make_the_same_key(conn: Connection, given: Any, rule: str | None) -> None:
    job_type = kind(rule, payload=Arguments)
    made = Arguments(team_id=given)
    for payload in (job_type.dump(made), {"team_id": job_type.dump(made)["teamId"]}):
        found = conn.value("SELECT job_key_by_rule('alpha', %s, %s::jsonb)", rule, json.dumps(payload))
        assert found == job_type.concurrency_key(made)
