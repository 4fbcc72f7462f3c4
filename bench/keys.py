"""Concurrency keys at their worst: one key with 100,000 jobs that wait, and 100,000 keys with a job each.

    python bench/keys.py [--jobs 100000] [--repeat 3]         --jobs 20000 takes two minutes

A line of JSON for each of the two kinds; what it is made of is written to standard error.

`rate` of `many_keys` is that of the keyed jobs. `rate` of `one_key` is that of plain jobs beside the line, because jobs
of one key run one by one; the line's own rate is `line_rate`, beside a bare loop that claims and deletes one job at a
time (`bare_rate`). `plain_rate` is that of as many plain jobs alone, by turns with the others.

`longest_pass_ms` is the longest statement of upkeep, from the call to the answer, commit included, over all states
below; `longest_pass_cpu_ms` is the most processor time that the server's process took for one. Starts a Postgres of its
own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alone
import common
import own_server
import peer_jobdeck as peer
import peer_raw
import psycopg

from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, operator, presence, producer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobdeck.core.postgres.cluster import Cluster

Connection = psycopg.Connection[Any]
Figures = dict[str, float]

ACTOR = "bench"
TEMPLATE = "bench_keys_template"
SHORT_LINE = 1_000
GIVE_UP_AFTER = 600.0
MOST_PASSES = 20_000
LONG_AGO = "UPDATE job_upkeep SET succeeded_at = succeeded_at - interval '1 day', failed_at = NULL"
WITH_MORE = """
    SELECT 'recheck' WHERE EXISTS (SELECT FROM job_recheck)
    UNION ALL SELECT part FROM job_upkeep
    WHERE part IN ('prune', 'retention', 'stats') AND succeeded_at < clock_timestamp() - interval '2 hours'
"""
DELETE_FIRST = "DELETE FROM job_queue WHERE concurrency_key = 'line' AND NOT in_line"


def say(what: str, **figures: Any) -> None:
    """Writes one figure for a person."""
    print(what, json.dumps(figures), file=sys.stderr, flush=True)


@contextmanager
def queue(server: Cluster) -> Iterator[tuple[str, Connection]]:
    """A database with an empty queue, dropped at the end: its address and a connection."""
    name = "bench_keys"
    with own_server.connected(server, "postgres") as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        with own_server.connected(server, name) as conn:
            yield server.url(name), conn
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def enqueue(conn: Connection, jobs: Iterator[NewJob] | list[NewJob]) -> None:
    """Enqueues all in one transaction."""
    with conn.transaction():
        producer.enqueue_many(conn, list(jobs), actor=ACTOR)


def plain(jobs: int) -> Iterator[NewJob]:
    return (NewJob("noop", {"seq": seq}) for seq in range(1, jobs + 1))


def one_key(jobs: int, task_type: str = "noop") -> Iterator[NewJob]:
    return (NewJob(task_type, {"seq": 0}, concurrency_key="line") for _ in range(jobs))


def own_keys(jobs: int, first: int = 1) -> Iterator[NewJob]:
    return (NewJob("noop", {"seq": seq}, concurrency_key=f"key {seq}") for seq in range(first, first + jobs))


class Counter:
    """Counts the runs of jobs with a number and of those with the number 0, and says when one kind had enough."""

    def __init__(self, *, numbered: int = 0, others: int = 0) -> None:
        self._lock, self.runs = threading.Lock(), [0, 0]
        self._wanted, self.enough = (others, numbered), threading.Event()

    def __call__(self, seq: int) -> None:
        """The no-op job."""
        with self._lock:
            kind = seq > 0
            self.runs[kind] += 1
            if self.runs[kind] == self._wanted[kind]:
                self.enough.set()


def drain(url: str, conn: Connection, counter: Counter) -> tuple[float, float]:
    """Lets a worker go until the counter has enough; the seconds, and the processor time of the server."""
    conn.execute("VACUUM (ANALYZE) job_queue")
    peer.Noop.handler = counter
    cpu, began = common.server_cpu_seconds(conn), time.monotonic()
    with alone.worker(url):
        if not counter.enough.wait(GIVE_UP_AFTER):
            raise TimeoutError("a drain took too long")
        return time.monotonic() - began, common.server_cpu_seconds(conn) - cpu


def drain_of(server: Cluster, jobs: Callable[[int], Iterator[NewJob]], count: int, line: int = 0) -> Figures:
    """Jobs a second, and microseconds of the server's processor for each, beside this many jobs of one key."""
    with queue(server) as (url, conn):
        enqueue(conn, one_key(line))
        enqueue(conn, jobs(count))
        counter = Counter(numbered=count)
        seconds, cpu = drain(url, conn, counter)
    return {"rate": count / seconds, "cpu_us": 1e6 * cpu / count, "line": counter.runs[0] / seconds}


def line_of(server: Cluster, waiting: int) -> Figures:
    """Jobs a second of the line itself."""
    with queue(server) as (url, conn):
        enqueue(conn, one_key(waiting))
        seconds, cpu = drain(url, conn, Counter(others=SHORT_LINE))
    return {"rate": SHORT_LINE / seconds, "cpu_us": 1e6 * cpu / SHORT_LINE}


CLAIM_ONE = """
    UPDATE job SET state = 'running'
    WHERE id = (SELECT id FROM job WHERE state = 'ready' ORDER BY priority, id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id
"""


def bare_loop(server: Cluster, waiting: int) -> Figures:
    """Jobs a second of a loop that claims a job, deletes it and claims the next, each in a transaction."""
    with own_server.connected(server, "postgres") as admin:
        admin.execute("DROP DATABASE IF EXISTS bench_keys_bare WITH (FORCE)")
        admin.execute("CREATE DATABASE bench_keys_bare")
    with own_server.connected(server, "bench_keys_bare") as conn:
        conn.execute(peer_raw.SCHEMA)
        conn.execute(peer_raw.FILL, {"n": waiting})
        conn.execute("VACUUM (ANALYZE) job")
        began = time.monotonic()
        for _ in range(SHORT_LINE):
            conn.execute("DELETE FROM job WHERE id = %s", conn.execute(CLAIM_ONE).fetchone())
        return {"rate": SHORT_LINE / (time.monotonic() - began)}


def rates(server: Cluster, jobs: int, repeat: int) -> dict[str, Figures]:
    """All drains by turns, for each kind: the medians, and the medians of the ratios of each turn."""
    turns: list[dict[str, Figures]] = []
    for _ in range(repeat):
        turns.append({
            "plain": drain_of(server, plain, jobs),
            "many_keys": drain_of(server, own_keys, jobs),
            "one_key": drain_of(server, plain, jobs, line=jobs),
            "line": line_of(server, jobs),
            "bare": bare_loop(server, jobs),
        })  # fmt: skip
        say("a turn", **turns[-1])

    def middle(what: str, name: str = "rate") -> float:
        return statistics.median(turn[what][name] for turn in turns)

    def ratio(what: str, of: str = "plain", name: str = "rate") -> float:
        return statistics.median(turn[what][name] / turn[of][name] for turn in turns)

    found = {
        kind: {
            "ratio": ratio(kind), "rate": middle(kind), "plain_rate": middle("plain"),
            "cpu_us": middle(kind, "cpu_us"), "plain_cpu_us": middle("plain", "cpu_us"),
        }
        for kind in ("one_key", "many_keys")
    }  # fmt: skip
    found["one_key"] |= {
        "line_ratio": ratio("line", "bare"), "line_rate": middle("line"), "bare_rate": middle("bare"),
        "line_rate_beside": middle("one_key", "line"),
    }  # fmt: skip
    return found


class Passes:
    """Times the statements of upkeep on a connection of its own."""

    def __init__(self, url: str, conn: Connection, jobs: int) -> None:
        self.conn, self.jobs = conn, jobs
        self._upkeep: Connection = psycopg.connect(url, autocommit=True)
        self._process = Path(f"/proc/{self._upkeep.info.backend_pid}/schedstat")
        self.found: list[tuple[float, float, str]] = []

    def run(self, state: str) -> None:
        """Does all parts as if long after the last time, then those again that have more to do."""
        first = len(self.found)
        self.conn.execute(LONG_AGO)
        parts: tuple[str, ...] = leases.UPKEEP
        for _ in range(MOST_PASSES):
            for part in parts:
                self._time(state, part)
            parts = tuple(part for (part,) in self.conn.execute(WITH_MORE).fetchall())
            if not parts:
                break
        else:
            raise TimeoutError(f"upkeep did not end: {state}")
        longest = max(self.found[first:])
        most = max(self.found[first:], key=itemgetter(1))
        say(f"passes: {state}", count=len(self.found) - first, ms=longest[0], in_part=longest[2], cpu_ms=most[1],
            cpu_part=most[2])  # fmt: skip

    def _time(self, state: str, part: str) -> None:
        cpu, began = self._cpu_ms(), time.monotonic()
        reaped = leases.reap(self._upkeep, retry_base=30.0, retry_cap=3600.0, parts=(part,))
        took = 1000 * (time.monotonic() - began)
        if reaped.troubles:
            raise RuntimeError(str(reaped.troubles))
        self.found.append((took, self._cpu_ms() - cpu, f"{state}, {part}"))

    def _cpu_ms(self) -> float:
        return int(self._process.read_text().split()[0]) / 1e6

    def figures(self) -> Figures:
        """The longest of all states."""
        return {
            "longest_pass_ms": max(took for took, _, _ in self.found),
            "longest_pass_cpu_ms": max(cpu for _, cpu, _ in self.found),
            "passes": len(self.found),
        }


def report(conn: Connection) -> None:
    """A worker that handles the types, so that they can run."""
    presence.report_worker(conn, worker_id="bench", host="bench", pid=1, mode="headless", version="bench",
                           concurrency=8, task_types=["noop", "other_noop"], running=0)  # fmt: skip


def pause_and_resume(passes: Passes, state: str) -> None:
    """Pauses the type of the jobs that are first, upkeep, resumes it, upkeep."""
    operator.pause(passes.conn, reason="bench", actor=ACTOR, task_type="noop")
    passes.run(f"{state}, the type is paused")
    operator.resume(passes.conn, actor=ACTOR, task_type="noop")
    passes.run(f"{state}, the type is resumed")


def passes_of_one_key(server: Cluster, jobs: int) -> Figures:
    """A key with this many waiting jobs."""
    with queue(server) as (url, conn):
        passes = Passes(url, conn, jobs)
        report(conn)
        enqueue(conn, [NewJob("noop", {"seq": 0}, concurrency_key="line", priority=5)])
        enqueue(conn, [*one_key(jobs // 2), *one_key(jobs - jobs // 2, "other_noop")])
        passes.run("a line, just enqueued")
        conn.execute("VACUUM (ANALYZE) job_queue")
        passes.run("a line")
        pause_and_resume(passes, "a line")
        conn.execute(DELETE_FIRST)
        passes.run("a line, the first job is deleted by hand")
        blocker = next(iter(producer.enqueue_many(conn, [NewJob("held_noop", {"seq": 0})], actor=ACTOR)))
        conn.execute(
            "UPDATE job_queue SET blocked_by = %s WHERE NOT in_line AND concurrency_key IS NOT NULL", [blocker]
        )
        passes.run("a line, the first job is blocked")
        conn.execute("UPDATE job_queue SET blocked_by = %s WHERE concurrency_key IS NOT NULL", [blocker])
        passes.run("a line, all jobs are blocked")
        conn.execute("UPDATE job_queue SET status = 'failed' WHERE id = %s", [blocker])
        passes.run("a line, the blocker of all failed")
        return passes.figures()


def passes_of_many_keys(server: Cluster, jobs: int) -> Figures:
    """This many keys, first with one job each, then with one more that waits."""
    with queue(server) as (url, conn):
        passes = Passes(url, conn, jobs)
        report(conn)
        enqueue(conn, own_keys(jobs))
        passes.run("keys with one job, just enqueued")
        pause_and_resume(passes, "keys with one job")
        enqueue(conn, (NewJob("other_noop", {"seq": seq}, concurrency_key=f"key {seq}") for seq in range(1, jobs + 1)))
        passes.run("keys with a job that waits, just enqueued")
        conn.execute("VACUUM (ANALYZE) job_queue")
        passes.run("keys with a job that waits")
        pause_and_resume(passes, "keys with a job that waits")
        enqueue(conn, own_keys(jobs))
        conn.execute("DELETE FROM job_queue WHERE NOT in_line")
        passes.run("keys with a job that waits, the first jobs are deleted by hand")
        return passes.figures()


def main() -> None:
    """Measures both kinds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=("rates", "passes"))
    args = parser.parse_args()
    leases.PASSES = 1  # each is timed alone
    with own_server.own_server() as server:
        own_server.make_queue(server, TEMPLATE)
        found: dict[str, Figures] = {"one_key": {}, "many_keys": {}}
        if args.only != "rates":
            found["one_key"] |= passes_of_one_key(server, args.jobs)
            found["many_keys"] |= passes_of_many_keys(server, args.jobs)
        if args.only != "passes":
            for kind, figures in rates(server, args.jobs, args.repeat).items():
                found[kind] |= figures
    for kind, figures in found.items():
        common.emit("keys", kind=kind, jobs=args.jobs, **figures)


if __name__ == "__main__":
    main()
