"""The kinds of fault. Each is a generator: it begins the fault, yields for how many seconds it stays, and ends it."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from bench.faults.server import ROLE
from bench.faults.stage import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.faults.stage import Stage

    Begun = Callable[[Stage], Iterator[float]]

PAST_THE_LEASE = LEASE_SECONDS + 2.0
STEP_SECONDS = 3 * int(LEASE_SECONDS)
STEP_ARRIVES_SECONDS = 5.0
END_SECONDS = 60.0


class DidNotBegin(Exception):
    """The fault found nothing that it could hit, or did not take effect."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind. Faults that use the same resource do not overlap."""

    name: str
    uses: str
    begin: Begun


FAULTS: dict[str, Fault] = {}


def fault(name: str, uses: str) -> Callable[[Begun], Begun]:
    """Registers a kind of fault."""

    def register(begin: Begun) -> Begun:
        FAULTS[name] = Fault(name, uses, begin)
        return begin

    return register


def left_out(stage: Stage) -> dict[str, str]:
    """The kinds that cannot run here, each with the reason."""
    reasons = {}
    if not stage.server.has_clock:
        reasons["clock"] = "a clock that steps needs the package libfaketime"
    if stage.disk is None:
        reasons["disk"] = "a full disk needs root, to mount a small file system"
    return reasons


@fault("kill", "worker")
def kill(stage: Stage) -> Iterator[float]:
    """Kill -9, and another worker in its place."""
    worker = stage.a_worker()
    try:
        worker.kill()
        yield 0.0
        worker.start()
    finally:
        worker.free.release()


@fault("freeze", "worker")
def freeze(stage: Stage) -> Iterator[float]:
    """SIGSTOP until about the moment at which the leases are taken back, or for longer."""
    worker = stage.a_worker()
    try:
        worker.signal(signal.SIGSTOP)
        yield _about_a_lease(stage)
        worker.signal(signal.SIGCONT)
    finally:
        worker.free.release()


@fault("term", "worker")
def term(stage: Stage) -> Iterator[float]:
    """SIGTERM, and another worker once it has ended."""
    worker = stage.a_worker()
    try:
        how = worker.stop()
        if how.startswith("did not end"):
            stage.troubles.append(f"a worker {how}")
        elif how:
            stage.notes[f"a worker {how.splitlines()[0]}"] += 1
        yield 0.0
        worker.start()
    finally:
        worker.free.release()


@fault("backends", "server")
def backends(stage: Stage) -> Iterator[float]:
    """The server ends all sessions of the queue's role."""
    _end_sessions(stage)
    yield 0.0


@fault("crash", "server")
def crash(stage: Stage) -> Iterator[float]:
    """All processes of the server end at once; it recovers from its log."""
    stage.server.crash()
    try:
        yield 0.5
    finally:
        stage.server.start()


@fault("read-only", "server")
def read_only(stage: Stage) -> Iterator[float]:
    """The server refuses writes for 10 s."""
    _configure(stage, "default_transaction_read_only = on")
    try:
        yield 10.0
    finally:
        _surely(lambda: _configure(stage, "default_transaction_read_only = off"))


@fault("limit", "server")
def limit(stage: Stage) -> Iterator[float]:
    """The limit of connections is reached: all are ended, and the server accepts one only."""
    _execute(stage, f"ALTER ROLE {ROLE} CONNECTION LIMIT 1")
    try:
        _end_sessions(stage)
        yield 8.0
    finally:
        _surely(lambda: _execute(stage, f"ALTER ROLE {ROLE} CONNECTION LIMIT -1"))


@fault("disk", "server")
def disk(stage: Stage) -> Iterator[float]:
    """The file system of the tables is full."""
    small = stage.disk
    if small is None:
        raise DidNotBegin("there is no small file system")
    small.fill()
    try:
        _find_it_full(stage)
        yield 8.0
    finally:
        _surely(small.empty)


@fault("clock", "server")
def clock(stage: Stage) -> Iterator[float]:
    """The server's clock steps by three leases, forward or back, and returns."""
    seconds = stage.rng.choice((STEP_SECONDS, -STEP_SECONDS))
    stage.step_clock(seconds)
    try:
        _find_it_wrong(stage, seconds)
        yield PAST_THE_LEASE
    finally:
        stage.step_clock(0)


@fault("cut", "line")
def cut(stage: Stage) -> Iterator[float]:
    """All connections are cut, half of the times within a message, and none is accepted for 3 s."""
    stage.line.cut(in_a_message=stage.rng.random() < 0.5)
    try:
        yield 3.0
    finally:
        stage.line.restore()


@fault("hole", "line")
def hole(stage: Stage) -> Iterator[float]:
    """Nothing passes for about a lease. Then it arrives late, or, half of the times, the connections end."""
    stage.line.hold()
    try:
        yield _about_a_lease(stage)
    finally:
        if stage.rng.random() < 0.5:
            stage.line.end_connections()
        stage.line.restore()


@fault("slow", "line")
def slow(stage: Stage) -> Iterator[float]:
    """Each piece of data takes 100 ms longer."""
    stage.line.slow(0.1)
    try:
        yield 8.0
    finally:
        stage.line.restore()


@fault("row", "row")
def row(stage: Stage) -> Iterator[float]:
    """Another session locks the row of a running job for longer than the lease."""
    statement = """
        SELECT id FROM job_queue WHERE status = 'running' AND task_type = 'sweep_work'
        ORDER BY (payload ->> 'seconds')::float8 DESC LIMIT 1 FOR UPDATE
    """
    yield from _held(stage, statement)


@fault("key", "key")
def key(stage: Stage) -> Iterator[float]:
    """Another session locks the lock of a concurrency key for longer than the lease."""
    statement = "SELECT slot FROM job_locks WHERE slot = job_lock_slot('key 0') FOR UPDATE"
    yield from _held(stage, statement)


@fault("init", "init")
def init(stage: Stage) -> Iterator[float]:
    """`jobdeck init`. It may refuse in a sentence while another fault is in its way; then it is tried again."""
    refused = stage.init()
    if refused:
        raise DidNotBegin(refused)
    yield 0.0


def _about_a_lease(stage: Stage) -> float:
    """Leases end about then. A report that comes while its job runs again is the one that must be refused."""
    return stage.rng.uniform(LEASE_SECONDS * 0.75, LEASE_SECONDS * 1.5)


def _held(stage: Stage, statement: str) -> Iterator[float]:
    conn = stage.server.connect()
    try:
        conn.execute("BEGIN")
        if conn.execute(statement.encode()).fetchone() is None:
            raise DidNotBegin("there was no such row to lock")
        yield PAST_THE_LEASE
    finally:
        # It has ended already where the server crashed meanwhile.
        with suppress(psycopg.Error):
            conn.execute("ROLLBACK")
        conn.close()


def _execute(stage: Stage, statement: str) -> None:
    with stage.server.connect() as admin:
        admin.execute(statement.encode())


def _configure(stage: Stage, setting: str) -> None:
    _execute(stage, f"ALTER SYSTEM SET {setting}")
    _execute(stage, "SELECT pg_reload_conf()")


def _end_sessions(stage: Stage) -> None:
    with stage.server.connect() as admin:
        ended = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [ROLE]
        ).fetchall()
    if not ended:
        raise DidNotBegin("the queue's role had no session")


def _find_it_full(stage: Stage) -> None:
    try:
        with stage.server.connect() as admin:
            admin.execute("CREATE TEMP TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 10000)")
    except psycopg.errors.DiskFull:
        return
    raise DidNotBegin("the file system was not full")


def _find_it_wrong(stage: Stage, seconds: int) -> None:
    deadline = time.monotonic() + STEP_ARRIVES_SECONDS
    while time.monotonic() < deadline:
        with stage.server.connect() as admin:
            (told,) = admin.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone() or (0.0,)
        if abs(told - time.time() - seconds) < STEP_SECONDS / 2:
            return
        time.sleep(0.1)
    raise DidNotBegin("the clock of the server did not step")


def _surely(end: Callable[[], None]) -> None:
    """Ends a fault, whatever is in the way for a minute."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        try:
            end()
        except (psycopg.Error, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
