"""Values of task types in code: beside those of operators, over releases, and from the first claim on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jobdeck
from jobdeck.core.errors import ConfigurationError, Refused
from jobdeck.core.model import NewJob
from jobdeck.core.queue import operator, presence, producer
from jobdeck.core.read.type_settings import type_lines
from jobdeck.core.registry import JobType, Payload, registrations
from jobdeck.core.registry.code_values import CodeValues, columns
from tests.core.worker.test_limits import Effects
from tests.support.examples import examples
from tests.support.queue import ACTOR, Connection
from tests.support.working import drain, job_type

if TYPE_CHECKING:
    from jobdeck.core.read.type_settings import TypeLine

OLD, NEW = "shop@1", "shop@2"


def alpha(values: CodeValues, name: str = "alpha") -> JobType:
    return job_type(name, lambda _params, _ctx: None, values=values)


def start(conn: Connection, release: str = OLD, worker: str = "w", name: str = "alpha", **values: Any) -> None:
    """A worker of a release starts, whose code says this of one type."""
    report(conn, worker, name)
    presence.declare_values(conn, [alpha(cast("CodeValues", values), name)], release=release, worker_id=worker)


def report(conn: Connection, worker: str, name: str = "alpha") -> None:
    presence.report_worker(
        conn,
        worker_id=worker,
        host="h",
        pid=1,
        mode="headless",
        version="1",
        concurrency=1,
        task_types=[name],
        running=0,
    )


def line(conn: Connection, name: str = "alpha") -> TypeLine:
    return next(one for one in type_lines().run(conn) if one.task_type == name)


def set_alpha(conn: Connection, **changes: Any) -> None:
    operator.set_type(conn, "alpha", changes=changes, actor=ACTOR, reason=None)


def test_values_of_the_code_hold_for_claims_and_enqueues(conn: Connection) -> None:
    start(conn, max_running=2, rate="5/s", per_key=2, priority=7, max_age=timedelta(hours=1))
    found = line(conn)
    assert (found.max_running, found.rate, found.max_per_key, found.priority, found.max_age) == (2, "5/s", 2, 7, "1h")
    assert (found.release, found.own, found.differing) == (OLD, {}, ())
    producer.enqueue_many(conn, [NewJob("alpha")] * 3, actor=ACTOR)
    conn.add()
    (row,) = conn.rows("SELECT count(*) AS jobs, min(priority) AS low, max(priority) AS high FROM job_queue")
    assert (row["jobs"], row["low"], row["high"]) == (4, 7, 7)
    assert all(
        one["left"] == timedelta(hours=1) for one in conn.rows("SELECT expires_at - run_at AS left FROM job_queue")
    )
    assert len(conn.claim()) == 2


def test_a_priority_of_a_job_comes_before_that_of_its_type(conn: Connection) -> None:
    start(conn, priority=7)
    conn.add(priority=0)
    producer.enqueue_many(conn, [NewJob("alpha"), NewJob("alpha", priority=-1)], actor=ACTOR)
    conn.execute("SELECT job_queue_enqueue('alpha'), job_queue_enqueue('beta')")
    assert [row["priority"] for row in conn.rows("SELECT priority FROM job_queue ORDER BY 1")] == [-1, 0, 0, 7, 7]


def test_an_operators_value_holds_and_theirs_can_be_none_or_the_codes_again(conn: Connection) -> None:
    start(conn, max_running=2, rate="5/s")
    set_alpha(conn, max_running=9)
    start(conn, NEW, max_running=3, rate="6/s")
    assert (line(conn).max_running, line(conn).rate, line(conn).own) == (9, "6/s", {"max_running": 9})
    set_alpha(conn, max_running=None)
    assert (line(conn).max_running, line(conn).own) == (None, {"max_running": None})
    set_alpha(conn, max_running="code")
    assert (line(conn).max_running, line(conn).own) == (3, {})
    before = [row["before"]["max_running"] for row in conn.audit_rows() if row["action"] == "set type"]
    assert before == [2, 9, None]


def test_a_reset_keeps_nothing_that_would_hold_off_a_later_value_of_the_code(conn: Connection) -> None:
    set_alpha(conn, max_running=9)
    set_alpha(conn, max_running=None)
    start(conn, max_running=3)
    assert (line(conn).max_running, line(conn).own) == (3, {})


def test_a_burst_makes_the_rate_of_the_code_the_operators_so_that_a_later_rate_cannot_contradict_it(
    conn: Connection,
) -> None:
    start(conn, rate="5/s")
    set_alpha(conn, rate_burst=10)
    start(conn, NEW, rate="500/s")
    assert (line(conn).rate, line(conn).rate_burst) == ("5/s", 10)
    set_alpha(conn, rate_runs="code")
    assert (line(conn).rate, line(conn).rate_burst) == ("500/s", None)


def test_an_older_release_changes_nothing_and_is_named_while_it_lives(conn: Connection) -> None:
    start(conn, OLD, "old", max_running=2, priority=1)
    start(conn, NEW, "new", max_running=3)
    start(conn, OLD, "old", max_running=2, priority=1)
    found = line(conn)
    assert (found.max_running, found.priority, found.release, found.differing) == (3, None, NEW, (OLD,))
    presence.remove_worker(conn, "old")
    assert line(conn).differing == ()


def test_a_value_that_the_code_no_longer_names_is_removed_and_does_not_come_back_with_an_older_worker(
    conn: Connection,
) -> None:
    start(conn, OLD, max_running=2)
    start(conn, NEW)
    start(conn, OLD, max_running=2)
    assert (line(conn).max_running, line(conn).code, line(conn).release) == (None, {}, NEW)


def test_a_start_that_says_nothing_new_writes_nothing(conn: Connection) -> None:
    start(conn, max_running=2)
    with conn.changes_nothing():
        presence.declare_values(conn, [alpha(CodeValues(max_running=2))], release=OLD, worker_id="w")


def test_other_types_have_no_row_that_claims_would_read(conn: Connection) -> None:
    start(conn)
    assert conn.rows("SELECT FROM job_types") == []


def test_a_value_that_is_no_number_is_refused_and_code_is_the_only_word(conn: Connection) -> None:
    with conn.changes_nothing(), pytest.raises(Refused, match="whole number, and cod is not one for max_running"):
        set_alpha(conn, max_running="cod")


VALUES: Final = st.sampled_from([None, 1, 2, 50])
STEP: Final = st.one_of(
    st.tuples(st.sampled_from([OLD, NEW]), st.fixed_dictionaries({}, optional={
        "max_running": VALUES, "priority": VALUES, "rate": st.sampled_from([None, "1/s", "9/m"])})),
    st.tuples(st.just("operator"), st.dictionaries(
        st.sampled_from(["max_running", "priority", "rate"]), st.sampled_from([None, "code", 3, 4]), min_size=1)),
)  # fmt: skip
CODE_RATES: Final = {"1/s": (1, 1), "9/m": (9, 60)}


def changes_of(given: dict[str, Any]) -> dict[str, Any]:
    """What an operator says, by the columns. A rate of n is n in a second."""
    made = {name: value for name, value in given.items() if name != "rate"}
    if "rate" in given:
        rate = given["rate"]
        made |= {"rate_runs": rate, "rate_seconds": 1 if isinstance(rate, int) else rate}
    return made


@pytest.mark.slow
@settings(max_examples=examples(400), deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, max_size=8))
def test_the_value_is_always_the_operators_else_that_of_the_newest_code_else_none(
    conn: Connection, steps: list[tuple[str, dict[str, Any]]]
) -> None:
    with conn.transaction(force_rollback=True):
        presence.declare_values(conn, (), release=OLD, worker_id="")
        conn.execute("UPDATE job_releases SET first_seen = first_seen - interval '1 hour'")
        own: dict[str, Any] = {}
        code: dict[str, Any] = {}
        newest = OLD
        for who, said in steps:
            if who == "operator":
                set_alpha(conn, **changes_of(said))
                own = {name: value for name, value in {**own, **said}.items()
                       if value != "code" and (value is not None or name in code)}  # fmt: skip
            else:
                start(conn, who, **said)
                if who >= newest:
                    newest = who
                    code = {name: value for name, value in said.items() if value is not None}
            # A type without a value has no row.
            (found,) = conn.rows("SELECT max(max_running) AS max_running, max(priority) AS priority, "
                                  "max(rate_runs) AS runs, max(rate_seconds) AS seconds FROM job_types")  # fmt: skip
            held = {**code, **own}
            assert (found["max_running"], found["priority"]) == (held.get("max_running"), held.get("priority"))
            rate = held.get("rate")
            assert (found["runs"], found["seconds"]) == (
                (rate, 1) if isinstance(rate, int) else (None, None) if rate is None else CODE_RATES[rate]
            )


@pytest.mark.slow
def test_limits_in_the_code_hold_from_the_first_claim_of_a_worker(conn: Connection, database_url: str) -> None:
    effects = Effects()
    producer.enqueue_many(conn, [NewJob("limited")] * 30, actor=ACTOR)
    kind = job_type("limited", effects, values=CodeValues(max_running=1))
    drain(database_url, kind, concurrency=8)
    assert (effects.ran, effects.most) == (30, 1)


class Invoice(Payload):
    customer: int


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_running": 0}, "max_running=0. It must be a whole number from 1 to 1,000,000"),
        ({"max_running": True}, "max_running=True"),
        ({"per_key": 5, "max_running": 3}, "per_key=5, which is above its max_running=3"),
        ({"rate": "fast"}, "rate='fast'. Write the jobs that start in a time, like \"5/s\""),
        ({"rate": "0/s"}, "from 1 to 1,000,000 jobs"),
        ({"rate": 5}, "rate=5. Write"),
        ({"priority": 101}, "priority=101. It must be a whole number from -100 to 100"),
        ({"max_age": 60}, "max_age=60. It must be a timedelta"),
        ({"max_age": timedelta(milliseconds=1500)}, "whole seconds"),
    ],
)
def test_a_value_that_cannot_be_is_refused_at_import_with_the_type_and_the_value(values: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        jobdeck.task("send_invoice", Invoice, **values)
    assert words in str(refused.value)
    assert "send_invoice has " in str(refused.value)


def test_an_unknown_option_is_refused() -> None:
    unknown: Any = {"max_runing": 3}
    with pytest.raises(ConfigurationError, match="send_invoice has the unknown options max_runing"):
        jobdeck.task("send_invoice", Invoice, **unknown)


def test_the_handler_adds_values_to_those_of_the_declaration_and_comes_first() -> None:
    declared = jobdeck.task("light", Invoice, max_running=3, priority=2)

    @declared.handler(max_running=4, timeout=60)
    def handle(_invoice: Invoice, _ctx: jobdeck.JobContext) -> None: ...

    made = registrations[-1].job_type
    assert (made.run, made.timeout) == (handle, 60)
    assert columns("light", made.values) == {"max_running": 4, "priority": 2}
