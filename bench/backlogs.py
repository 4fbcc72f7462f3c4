"""Backlogs that cannot run, and churn: does what is in the tables slow the claims down?"""

import statistics
import time

import alone
import common
import peer_jobdeck as peer
import psycopg

from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, operator, producer, service

# What part of the whole backlog each kind has.
KINDS = {"paused": 1, "unhandled": 1, "future": 1, "keyed": 0.1, "blocked": 0.1, "pending": 1, "history": 1}
_BLOCKED = """
    INSERT INTO job_queue (task_type, payload, run_at, priority, blocked_by)
    SELECT 'noop', '{"seq": 0}', now() - interval '1 hour', 5, %(blocker)s FROM generate_series(1, %(n)s)
"""


def fill(connection, kind, n):
    """Puts n jobs ahead of all others that cannot run, or (`pending`) behind them, or n runs into the history."""
    early = {"in": "-1 hour", "priority": 5, "n": n}
    if kind == "paused":
        connection.execute(alone.PLAIN, {"type": "paused_noop", **early})
        operator.pause(connection, reason="bench", actor=alone.ACTOR, task_type="paused_noop")
    elif kind == "unhandled":
        connection.execute(alone.PLAIN, {"type": "unhandled_noop", **early})
    elif kind == "future":
        connection.execute(alone.PLAIN, {"type": "noop", "in": "1 day", "priority": 5, "n": n})
    elif kind == "pending":
        connection.execute(alone.PLAIN, {"type": "noop", "in": "1 second", "priority": 0, "n": n})
    elif kind == "history":
        connection.execute(alone.HISTORY, {"n": n})
    elif kind == "keyed":
        hold(connection, concurrency_key="busy")
        producer.enqueue_many(
            connection, [NewJob("noop", {"seq": 0}, concurrency_key="busy", priority=5)] * n, actor=alone.ACTOR
        )
    elif kind == "blocked":
        connection.execute(_BLOCKED, {"blocker": hold(connection), "n": n})
    connection.execute("VACUUM (ANALYZE)")


def hold(connection, **facts):
    """A job that another worker runs for the whole measurement."""
    found = service.enqueue(connection, NewJob("held_noop", {"seq": 0}, **facts), actor=alone.ACTOR).job
    leases.claim(connection, "holder", ["held_noop"], 1, 3600)
    return found.id


def pickup_p95(connection, database, counter, n=100):
    """Milliseconds from the commit of an enqueue to the handler's start, at the 95th percentile."""
    delays = []
    with alone.worker(database):
        time.sleep(1)
        for seq in range(1, n + 1):
            producer.enqueue(connection, NewJob("noop", {"seq": seq}), actor=alone.ACTOR)
            committed = time.monotonic()
            time.sleep(0.03)
            while seq not in counter.started:
                time.sleep(0.001)
            delays.append(counter.started.pop(seq) - committed)
    return 1000 * common.percentile(sorted(delays), 0.95)


def stuck(args):
    """The drain and the pickup with a backlog, against those of an empty table."""
    waiting = int(args.backlog * KINDS[args.kind])
    counter = alone.Counter()
    peer.Noop.handler = counter
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        empty = statistics.median(
            alone.drain_rate(connection, database, counter, args.jobs) for _ in range(args.repeat)
        )
        counter.started.clear()
        empty_p95 = pickup_p95(connection, database, counter)
        fill(connection, args.kind, waiting)
        full = statistics.median(alone.drain_rate(connection, database, counter, args.jobs) for _ in range(args.repeat))
        counter.started.clear()
        full_p95 = pickup_p95(connection, database, counter) if args.kind != "pending" else None
    common.emit(
        f"stuck_{args.kind}",
        backlog=waiting,
        rate=full,
        empty_rate=empty,
        ratio=full / empty,
        p95_ms=full_p95,
        empty_p95_ms=empty_p95,
    )


def churn(args):
    """Enqueue and drain side by side, a tenth at a time: does the last go as fast as the first?"""
    counter = alone.Counter()
    peer.Noop.handler = counter
    holder = None
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        if args.old_transaction:
            holder = psycopg.connect(common.url(database), application_name="the old transaction")
            holder.execute("SELECT txid_current()")
        rates, table = [], []
        part = args.jobs // 10
        with alone.worker(database):
            for _ in range(10):
                counter.expect(part)
                began = time.monotonic()
                alone.enqueue(connection, part)
                while not counter.done.wait(1):
                    if time.monotonic() - began > 1800:
                        raise TimeoutError("churn took too long")
                counter.started.clear()
                rates.append(part / (time.monotonic() - began))
                table.append(common.sizes(connection)["job_queue_table_mb"])
        measured = common.sizes(connection)
    if holder is not None:
        holder.close()
    name = "old_transaction" if args.old_transaction else "churn"
    common.emit(name, jobs=args.jobs, rate=rates[-1], first_rate=rates[0], ratio=rates[-1] / rates[0], rates=rates,
         queue_mb=table, **measured)  # fmt: skip
