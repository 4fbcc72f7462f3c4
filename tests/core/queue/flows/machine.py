"""Flows as a state machine, over real connections that act at the same time.

Whatever workers, operators and lost leases do to random flows: a join runs once, after all those that it waits for have
ended as it needs, with their outcomes; none waits for ever, and none is cancelled without a reason. `truth.py` has the
judge, which reads nothing that the queue stores about ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from typing import Any, ClassVar, Final, NamedTuple
from uuid import UUID

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from psycopg.pq import TransactionStatus

from jobdeck.core.errors import Refused
from jobdeck.core.model import ClaimedJob
from jobdeck.core.postgres.refusals import refusals
from jobdeck.core.queue import leases, operator
from jobdeck.core.queue.operators import flows
from tests.core.queue.flows import truth
from tests.core.queue.flows.steps import enqueue, extend, member
from tests.support.queue import ACTOR, BASE, CAP, WORKER, Connection, report
from tests.support.waiting import rounds

SESSIONS: Final = 3
TABLES: Final = (
    "job_queue, job_runs, job_trash, job_audit, job_recheck, job_stat_delta, job_flows, "
    "job_flow_members, job_dependencies, job_canaries, " + truth.TABLES
)
NEEDS: Final = ("success", "success", "success", "end", "end", "failure")
steps = st.tuples(
    st.sampled_from(("claim", "claim", "succeed", "succeed", "succeed", "fail", "fail for good", "release", "lose",
                     "retry", "retry", "cancel", "delete", "restore", "restore", "cancel flow", "extend", "canary",
                     "purge", "upkeep")),
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
HELD: Final = ("succeed", "succeed", "fail for good", "retry", "cancel", "delete", "extend", "lose", "upkeep", "hold")
BETWEEN: Final = ("nothing", "upkeep", "upkeep", "canary", "canary")
ENDS: Final = ("succeed", "succeed", "fail for good")
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


class Scene(NamedTuple):
    """A join of parts that run, some of which have ended; transactions that overlap, and in which order they end.

    Each act is on the part at its place. `then` is what happens between the ends of the transactions, and `late`
    whether 40 days pass before the parts that run have ended.
    """

    needs: str
    ended: list[str]
    running: int
    late: bool
    acts: list[str]
    places: list[int]
    order: list[int]
    then: list[str]


scenes = st.builds(
    Scene,
    needs=st.sampled_from(NEEDS),
    ended=st.lists(st.sampled_from(("succeed", "fail for good", "cancel")), max_size=1),
    running=st.sampled_from((1, 2, 2)),
    late=st.sampled_from((False, False, True)),
    # Ends that overlap are the most of what happens in a queue; an end that finds the join locked leaves it to upkeep.
    acts=st.one_of(
        st.lists(st.sampled_from(HELD), min_size=1, max_size=SESSIONS),
        st.lists(st.sampled_from(ENDS), min_size=2, max_size=SESSIONS),
        st.tuples(st.just("hold"), st.sampled_from(ENDS)).map(list),
    ),
    places=st.permutations(range(SESSIONS)),
    order=st.permutations(range(SESSIONS)),
    then=st.lists(st.sampled_from(BETWEEN), min_size=SESSIONS, max_size=SESSIONS),
)


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
        self.extending: dict[int, ClaimedJob] = {}
        """The run that has added members in the open transaction of a session, by the session's process."""
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
        truth.assert_right(self.conn)

    @rule(some=st.lists(steps, min_size=2, max_size=SESSIONS))
    def together(self, some: list[tuple[str, int, int]]) -> None:
        self.carry_out([Step(*step) for step in some])
        self.settle()

    @rule(scene=scenes)
    def overlapping(self, scene: Scene) -> None:
        """Sessions act on one join in transactions that are open at the same time."""
        parts = [member(f"p{place}", max_attempts=2) for place in range(len(scene.ended) + scene.running)]
        join = member("join", (part["name"] for part in parts), needs=scene.needs)
        ids = list(enqueue(self.conn, *parts, join, member("tail", ["join"])).values())
        self.claim(self.conn, 1_000)
        for place, action in enumerate(scene.ended):
            self.deal(action, ids, place)(self.conn)
        if scene.late:
            self.pass_days(self.conn)
        acts = zip(scene.acts, scene.places, strict=False)
        self.interleave([self.deal(action, ids, place % len(parts)) for action, place in acts], scene, ids)
        self.settle()

    def teardown(self) -> None:
        """Lets everything that can run run to its end."""
        for _ in rounds(self.left_over):
            self.settle()
            self.claim(self.conn, 1_000)
            self.conn.finish(*map(report, self.running))
            self.running = []
            if not self.conn.value("SELECT count(*) FROM job_queue WHERE status IN ('pending', 'running')"):
                break
        self.settle()

    # What the sessions do

    def carry_out(self, some: list[Step]) -> None:
        """The steps, at the same time. Runs are dealt out before, because two reports of one run are another test's."""
        deals = [self.bound(step) for step in some]
        done = [self.threads.submit(deal, session) for deal, session in zip(deals, self.sessions, strict=False)]
        for one in done:
            one.result()
        self.ids = self.all_ids()

    def settle(self) -> None:
        """With no transaction open, upkeep finds what they hid from each other; then all is as it has to be."""
        self.upkeep(self.conn)
        truth.assert_right(self.conn)
        self.ids = self.all_ids()

    def deal(self, action: str, ids: list[UUID], place: int) -> Callable[[Connection], object]:
        """The function of a session for an action on one part of a join."""
        runs = [run for run in self.running if run.id == ids[place]]
        if action in OUTCOMES:
            self.running = [run for run in self.running if run not in runs]
            return lambda session: self.end(session, action, runs)
        if action in ACTIONS:
            return lambda session: self.answered(lambda: ACTIONS[action](session, [ids[place]], actor=ACTOR))
        if action == "extend":
            names = [f"x{next(self.numbers)}"]
            return lambda session: self.extend(session, runs[0] if runs else None, names)
        if action == "hold":
            return lambda session: session.execute(
                "SELECT FROM job_queue WHERE id = %s FOR UPDATE SKIP LOCKED", (ids[-2],)
            )
        return self.lose if action == "lose" else self.upkeep

    def interleave(self, deals: list[Callable[[Connection], object]], scene: Scene, ids: list[UUID]) -> None:
        """Each session acts in a transaction that stays open, also while the next ones act, unless one waits for it."""
        unended: list[Connection] = []
        for deal, session in zip(deals, self.sessions, strict=False):
            session.execute("BEGIN")
            acting = self.threads.submit(deal, session)
            for _ in rounds("the end of a step"):
                if acting.done() or self.is_held_up(session):
                    break
            if not acting.done():
                self.commit(unended)
                unended = []
            acting.result()
            unended.append(session)
        for place, then in zip(scene.order, scene.then, strict=True):
            if place < len(deals) and self.sessions[place] in unended:
                self.commit([self.sessions[place]])
                {"nothing": lambda: None, "upkeep": lambda: self.upkeep(self.conn),
                 "canary": lambda: self.canary(self.conn, ids[-2])}[then]()  # fmt: skip

    def is_held_up(self, session: Connection) -> bool:
        return bool(self.conn.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", session.info.backend_pid))

    def commit(self, some: list[Connection]) -> None:
        for session in some:
            if (run := self.extending.pop(session.info.backend_pid, None)) is not None:
                held = session.value("SELECT count(*) FROM job_queue WHERE run_token = %s", run.run_token)
                assert held, "A run that was taken back has added members."
            session.execute("COMMIT")

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
            "canary": lambda session: self.canary(session, ids[0]),
            "purge": self.purge,
        }
        return steps[step.action]

    def claim(self, session: Connection, limit: int) -> None:
        """Claims, and looks in the same transaction whether each first attempt was allowed."""
        session.execute(ALL_DUE)
        with session.transaction():
            runs = leases.claim(session, WORKER, ["alpha"], limit, 600.0)
            truth.assert_may_run(session, [run.id for run in runs])
        self.running += runs

    def end(self, session: Connection, action: str, runs: list[ClaimedJob]) -> None:
        fields: dict[str, Any] = {"permanent": True} if action == "fail for good" else {}
        if runs:
            self.answered(lambda: session.finish(*(report(run, OUTCOMES[action], **fields) for run in runs)), runs)

    def extend(self, session: Connection, run: ClaimedJob | None, names: list[str]) -> None:
        def adding() -> None:
            assert run is not None
            with refusals("locked"), session.transaction():
                extend(session, run, *map(member, names))
            if session.info.transaction_status is TransactionStatus.INTRANS:
                self.extending[session.info.backend_pid] = run

        if run is not None:
            self.answered(adding)

    def cancel_flow(self, session: Connection, job_id: UUID) -> None:
        flow = session.value("SELECT flow_id FROM job_flow_members WHERE job_id = %s", job_id)
        self.answered(lambda: flows.cancel(session, flow, actor=ACTOR))

    def lose(self, session: Connection) -> None:
        """Lets all leases run out."""
        session.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 s' WHERE id IN ("
                        "SELECT id FROM job_queue WHERE status = 'running' FOR UPDATE SKIP LOCKED)")  # fmt: skip
        self.upkeep(session)

    def canary(self, session: Connection, job_id: UUID) -> None:
        """Asks a worker to run a job next, whatever is paused, and claims."""

        def asking() -> None:
            session.execute("SELECT job_worker_report(%s, 'h', 1, 'worker', '1', 1, '{alpha}', 0)", (WORKER,))
            operator.ask_canary(session, job_id, actor=ACTOR)

        self.answered(asking)
        self.claim(session, 1)

    def purge(self, session: Connection) -> None:
        """Removes what has ended from the queue, except what waiting members have to be judged by."""
        session.execute("SELECT job_queue_purge(interval '0', 1000, %s, NULL)", (ACTOR,))

    def pass_days(self, session: Connection) -> None:
        """Lets 40 days pass, after which the history and the trash are emptied; runs keep their leases."""
        session.execute("UPDATE job_queue SET lease_expires_at = lease_expires_at + interval '90 days'")
        session.advance(timedelta(days=40))
        self.purge(session)
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
