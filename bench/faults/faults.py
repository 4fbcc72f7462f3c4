"""The kinds of fault. Each is a generator: it begins the fault, yields for how many seconds it stays, and ends it."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from bench.faults.stage import LEASE_SECONDS, ROLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.faults.stage import Stage

    Begun = Callable[[Stage], Iterator[float]]

PAST_THE_LEASE = LEASE_SECONDS + 2.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind. Faults that use the same resource do not overlap. `short`: it is part of the short run."""

    name: str
    uses: str
    begin: Begun
    short: bool


FAULTS: dict[str, Fault] = {}


def fault(name: str, uses: str, *, short: bool = False) -> Callable[[Begun], Begun]:
    """Registers a kind of fault."""

    def register(begin: Begun) -> Begun:
        FAULTS[name] = Fault(name, uses, begin, short)
        return begin

    return register


def left_out(stage: Stage) -> dict[str, str]:
    """The kinds that cannot run here, each with the reason."""
    reasons = {"clock": "a clock that steps needs libfaketime, and is not part of this program"}
    if stage.disk is None:
        reasons["disk"] = "a full disk needs root, to mount a small file system"
    return reasons


@fault("kill", "worker", short=True)
def kill(stage: Stage) -> Iterator[float]:
    """Kill -9, and another worker in its place."""
    worker = stage.a_worker()
    try:
        worker.kill()
        yield 0.0
        worker.start()
    finally:
        worker.free.release()


@fault("freeze", "worker", short=True)
def freeze(stage: Stage) -> Iterator[float]:
    """SIGSTOP for longer than the lease."""
    worker = stage.a_worker()
    try:
        worker.signal(signal.SIGSTOP)
        yield PAST_THE_LEASE
        worker.signal(signal.SIGCONT)
    finally:
        worker.free.release()


@fault("term", "worker")
def term(stage: Stage) -> Iterator[float]:
    """SIGTERM, and another worker once it has ended."""
    worker = stage.a_worker()
    try:
        code = worker.stop()
        if code is None:
            stage.troubles.append("a worker did not end within a minute of SIGTERM")
        yield 0.0
        worker.start()
    finally:
        worker.free.release()


@fault("backends", "server", short=True)
def backends(stage: Stage) -> Iterator[float]:
    """The server ends all sessions of the queue's role."""
    _end_sessions(stage)
    yield 0.0


@fault("crash", "server", short=True)
def crash(stage: Stage) -> Iterator[float]:
    """All processes of the server end at once; it recovers from its log."""
    stage.server.crash()
    try:
        yield 0.5
    finally:
        stage.server.start()


@fault("read-only", "server", short=True)
def read_only(stage: Stage) -> Iterator[float]:
    """The server refuses writes for 10 s."""
    _configure(stage, "default_transaction_read_only = on")
    try:
        yield 10.0
    finally:
        _configure(stage, "default_transaction_read_only = off")


@fault("limit", "server")
def limit(stage: Stage) -> Iterator[float]:
    """The limit of connections is reached: all are ended, and the server accepts one only."""
    _execute(stage, f"ALTER ROLE {ROLE} CONNECTION LIMIT 1")
    _end_sessions(stage)
    try:
        yield 8.0
    finally:
        _execute(stage, f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


@fault("disk", "server")
def disk(stage: Stage) -> Iterator[float]:
    """The file system of the data is full."""
    if stage.disk is None:
        return
    filler = stage.disk / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1024 * 1024)):
                pass
        yield 8.0
    finally:
        filler.unlink(missing_ok=True)


@fault("cut", "line", short=True)
def cut(stage: Stage) -> Iterator[float]:
    """All connections are cut, half of the times within a message, and none is accepted for 3 s."""
    stage.line().cut(in_a_message=stage.rng.random() < 0.5)
    try:
        yield 3.0
    finally:
        stage.line().restore()


@fault("hole", "line", short=True)
def hole(stage: Stage) -> Iterator[float]:
    """Nothing passes for longer than the lease. Then it arrives late, or, half of the times, the connections end."""
    stage.line().hold()
    try:
        yield PAST_THE_LEASE
    finally:
        if stage.rng.random() < 0.5:
            stage.line().end_connections()
        stage.line().restore()


@fault("slow", "line")
def slow(stage: Stage) -> Iterator[float]:
    """Each piece of data takes 100 ms longer."""
    stage.line().slow(0.1)
    try:
        yield 8.0
    finally:
        stage.line().restore()


@fault("row", "row", short=True)
def row(stage: Stage) -> Iterator[float]:
    """Another session locks the row of a running job for longer than the lease."""
    statement = """
        SELECT id FROM job_queue WHERE status = 'running' AND task_type = 'sweep_work'
        ORDER BY (payload ->> 'seconds')::float8 DESC LIMIT 1 FOR UPDATE
    """
    yield from _held(stage, statement)


@fault("key", "key", short=True)
def key(stage: Stage) -> Iterator[float]:
    """Another session locks the lock of a concurrency key for longer than the lease."""
    statement = "SELECT slot FROM job_locks WHERE slot = job_slot('key 0') FOR UPDATE"
    yield from _held(stage, statement)


@fault("init", "init", short=True)
def init(stage: Stage) -> Iterator[float]:
    """`jobdeck init`. It may refuse in a sentence while another session holds locks."""
    refused = stage.init()
    if refused:
        stage.notes.append(f"init: {refused}")
    yield 0.0


def _held(stage: Stage, statement: str) -> Iterator[float]:
    conn = stage.server.connect()
    try:
        conn.execute("BEGIN")
        conn.execute(statement.encode())
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
    _execute(stage, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")
