"""Flows as a state machine, over real connections that act at the same time.

Whatever workers, operators and lost leases do to random flows: no job runs before those that it waits for have ended as
it needs, none waits for ever, and none is cancelled without a reason.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from jobdeck.core.errors import Refused
from jobdeck.core.postgres.refusals import refusals
from jobdeck.core.queue import leases, operator
from jobdeck.core.queue.operators import flows
from tests.core.queue.flows.steps import enqueue, extend, member
from tests.support.examples import examples
from tests.support.queue import ACTOR, BASE, CAP, WORKER, Connection, finish, report, value
from tests.support.waiting import rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from jobdeck.core.model import ClaimedJob

SESSIONS: Final = 3
TABLES: Final = (
    "job_queue, job_runs, job_trash, job_audit, job_recheck, job_lines_due, job_stat_delta, job_flows, "
    "job_flow_members, job_dependencies"
)
NEEDS: Final = ("success", "success", "success", "end", "end", "failure")
TOO_EARLY: Final = """
SELECT m.name, b.status, job_flow_outcome(d.blocker_id) FROM job_dependencies d
JOIN job_flow_members m ON m.job_id = d.job_id LEFT JOIN job_queue b ON b.id = d.blocker_id
WHERE d.job_id = ANY (%s) AND (job_flow_outcome(d.blocker_id) IS NULL
    OR d.needs = 'success' AND job_flow_outcome(d.blocker_id) NOT IN ('succeeded', 'partial'))
"""
"""The blockers because of which a job should not have run."""
UNFOUNDED: Final = """
SELECT m.name, m.set_aside, q.status FROM job_flow_members m JOIN job_queue q ON q.id = m.job_id
WHERE m.set_aside IS NOT NULL AND (q.status <> 'cancelled' OR (m.set_aside = 'lost') <> exists (
    SELECT FROM job_dependencies d WHERE d.job_id = m.job_id
        AND job_flow_outcome(d.blocker_id) IN ('failed', 'cancelled', 'deleted')))
"""
"""Members that the queue cancelled without a reason, or for which the reason has gone."""
FORGOTTEN: Final = """
SELECT m.name, q.status FROM job_flow_members m JOIN job_queue q ON q.id = m.job_id
WHERE q.status = 'cancelled' AND m.set_aside IS NULL AND NOT exists (
    SELECT FROM job_audit a WHERE a.job_id = m.job_id AND a.action = 'cancel')
"""
"""Members that were cancelled although neither an operator nor a blocker is the reason."""

steps = st.tuples(
    st.sampled_from(("claim", "claim", "succeed", "succeed", "succeed", "fail", "fail for good", "release", "lose",
                     "retry", "retry", "cancel", "delete", "restore", "restore", "cancel flow", "extend", "upkeep")),
    st.integers(0, 40),
    st.integers(1, 3),
)  # fmt: skip


ALL_DUE: Final = """
UPDATE job_queue SET run_at = now() WHERE id IN (
    SELECT id FROM job_queue WHERE status = 'pending' AND run_at > now() FOR UPDATE SKIP LOCKED)
"""
LEFT_OVER: Final = """
SELECT m.name, q.status, q.blocked_by, q.in_line FROM job_queue q JOIN job_flow_members m ON m.job_id = q.id
WHERE q.status IN ('pending', 'running')
"""
OUTCOMES: Final = {"succeed": "succeeded", "fail": "failed", "fail for good": "failed", "release": "released"}
ACTIONS: Final[dict[str, Callable[..., object]]] = {
    "retry": operator.retry,
    "cancel": operator.cancel,
    "delete": operator.delete,
    "restore": operator.restore,
}


class Step(NamedTuple):
    """One action, whom it is about, and how many of them."""

    action: str
    place: int
    number: int


@st.composite
def graphs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The members of a flow, each of which waits for some that come before it."""
    made: list[dict[str, Any]] = []
    for number in range(draw(st.integers(2, 7))):
        after = draw(st.sets(st.integers(0, max(number - 1, 0)), max_size=min(number, 4)))
        needs = draw(st.sampled_from(NEEDS)) if after else "success"
        key = draw(st.sampled_from((None, None, None, "k")))
        fields = {"concurrency_key": key} if key else {}
        made.append(
            member(f"m{number}", (f"m{other}" for other in sorted(after)), needs=needs, max_attempts=2, **fields)
        )
    return made


class FlowMachine(RuleBasedStateMachine):
    """Three sessions that work on flows, alone or at the same moment."""

    conn: ClassVar[Connection]
    sessions: ClassVar[list[Connection]]
    threads: ClassVar[ThreadPoolExecutor]

    def __init__(self) -> None:
        super().__init__()
        self.conn.execute(f"TRUNCATE {TABLES}")
        self.running: list[ClaimedJob] = []
        self.ids: list[UUID] = []
        self.numbers = count()

    @initialize(graph=graphs())
    def begin(self, graph: list[dict[str, Any]]) -> None:
        self.enqueue(graph)

    @rule(graph=graphs())
    def enqueue(self, graph: list[dict[str, Any]]) -> None:
        self.ids += sorted(enqueue(self.conn, *graph).values())

    @rule(step=steps)
    def one(self, step: tuple[str, int, int]) -> None:
        self.carry_out([Step(*step)])

    @rule(some=st.lists(steps, min_size=2, max_size=SESSIONS))
    def together(self, some: list[tuple[str, int, int]]) -> None:
        self.carry_out([Step(*step) for step in some])

    def teardown(self) -> None:
        """Lets everything that can run run to its end."""
        for _ in rounds(self.left_over):
            self.upkeep(self.conn)
            self.claim(self.conn, 1_000)
            finish(self.conn, *map(report, self.running))
            self.running = []
            self.ids = self.all_ids()
            if not value(self.conn, "SELECT count(*) FROM job_queue WHERE status IN ('pending', 'running')"):
                break
        self.upkeep(self.conn)
        problems = [*self.conn.execute(UNFOUNDED), *self.conn.execute(FORGOTTEN)]
        assert not problems, problems

    # What the sessions do

    def carry_out(self, some: list[Step]) -> None:
        """The steps, at the same time. Runs are dealt out before, because two reports of one run are another test's."""
        deals = [self.bound(step) for step in some]
        done = [self.threads.submit(deal, session) for deal, session in zip(deals, self.sessions, strict=False)]
        for one in done:
            one.result()
        self.ids = self.all_ids()

    def bound(self, step: Step) -> Callable[[Connection], object]:
        """The function of one session for a step."""
        ids = [self.ids[(step.place + at) % len(self.ids)] for at in range(step.number)]
        if step.action in OUTCOMES:
            runs = [self.running.pop(step.place % len(self.running)) for _ in range(step.number) if self.running]
            return lambda session: self.end(session, step.action, runs)
        if step.action in ACTIONS:
            act = ACTIONS[step.action]
            return lambda session: self.answered(lambda: act(session, ids, actor=ACTOR))
        one = self.running[step.place % len(self.running)] if self.running else None
        names = [f"x{next(self.numbers)}" for _ in range(step.number)]
        steps: dict[str, Callable[[Connection], object]] = {
            "claim": lambda session: self.claim(session, step.number),
            "extend": lambda session: self.extend(session, one, names),
            "lose": self.lose,
            "upkeep": self.upkeep,
            "cancel flow": lambda session: self.cancel_flow(session, ids[0]),
        }
        return steps[step.action]

    def claim(self, session: Connection, limit: int) -> None:
        """Claims, and looks in the same transaction whether each first attempt was allowed."""
        session.execute(ALL_DUE)
        with session.transaction():
            runs = leases.claim(session, WORKER, ["alpha"], limit, 600.0)
            early = session.execute(TOO_EARLY, ([run.id for run in runs if run.attempt == 1],)).fetchall()
            assert not early, early
        self.running += runs

    def end(self, session: Connection, action: str, runs: list[ClaimedJob]) -> None:
        fields: dict[str, Any] = {"permanent": True} if action == "fail for good" else {}
        if runs:
            self.answered(lambda: finish(session, *(report(run, OUTCOMES[action], **fields) for run in runs)), runs)

    def extend(self, session: Connection, run: ClaimedJob | None, names: list[str]) -> None:
        def adding() -> None:
            assert run is not None
            with refusals("locked"), session.transaction():
                extend(session, run, *map(member, names))

        if run is not None:
            self.answered(adding)

    def cancel_flow(self, session: Connection, job_id: UUID) -> None:
        flow = value(session, "SELECT flow_id FROM job_flow_members WHERE job_id = %s", job_id)
        self.answered(lambda: flows.cancel(session, flow, actor=ACTOR))

    def lose(self, session: Connection) -> None:
        """Lets all leases run out."""
        session.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 s' WHERE id IN ("
                        "SELECT id FROM job_queue WHERE status = 'running' FOR UPDATE SKIP LOCKED)")  # fmt: skip
        self.upkeep(session)

    def upkeep(self, session: Connection) -> None:
        leases.reap(session, retry_base=BASE, retry_cap=CAP)

    def answered(self, act: Callable[[], object], runs: list[ClaimedJob] | None = None) -> None:
        """An action, which another session may hold up for so long that it is refused; its runs are then still held."""
        try:
            act()
        except (Refused, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            self.running += runs or []

    def all_ids(self) -> list[UUID]:
        return [job_id for (job_id,) in self.conn.execute("SELECT job_id FROM job_flow_members ORDER BY job_id")]

    def left_over(self) -> str:
        open_jobs = self.conn.execute(LEFT_OVER).fetchall()
        return f"the end of {json.dumps(open_jobs, default=str)}"


@pytest.fixture
def sessions(database_url: str) -> Iterator[list[Connection]]:
    opened = [psycopg.connect(database_url, autocommit=True) for _ in range(SESSIONS)]
    yield opened
    for session in opened:
        session.close()


def test_no_member_runs_too_early_or_waits_for_ever(conn: Connection, sessions: list[Connection]) -> None:
    with ThreadPoolExecutor(SESSIONS) as threads:
        bound = {"conn": conn, "sessions": sessions, "threads": threads}
        machine = type("BoundFlowMachine", (FlowMachine,), bound)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples(100),
                stateful_step_count=25,
                deadline=None,
                print_blob=True,
                phases=(Phase.explicit, Phase.generate),
                suppress_health_check=list(HealthCheck),
            ),
        )
