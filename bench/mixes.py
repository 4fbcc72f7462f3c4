"""Jobs that are not no-ops: payloads, output and log lines, failures, keys and limits."""

import logging
import statistics

import alone
import common
import peer_jobdeck as peer

from jobdeck.core.model import NewJob
from jobdeck.core.postgres.database import Database
from jobdeck.core.queue import operator, producer
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, JobType, Registry, load

TEXT = "x" * 1000


@job("heavy_noop", payload=peer.Params)
def heavy(params, ctx):
    """Returns a kilobyte and logs twenty lines."""
    for line in range(20):
        ctx.log.info("line %d of the job's log, of some length", line)
    peer.Noop.handler(params.seq)
    return Done({"text": TEXT})


class Drop(logging.Handler):
    """Takes each record and does nothing with it."""

    def handle(self, record):
        """Drops one record."""
        return True


dropped_lines = logging.getLogger("dropped lines")
dropped_lines.propagate = False
dropped_lines.setLevel(logging.INFO)
dropped_lines.addHandler(Drop())


@job("dropped_noop", payload=peer.Params)
def dropped(params, ctx):
    """Does the same with lines that nobody keeps."""
    for line in range(20):
        dropped_lines.info("line %d of the job's log, of some length", line)
    peer.Noop.handler(params.seq)
    return Done({"text": TEXT})


class Large(peer.Params):
    """A payload with a kilobyte in it."""

    text: str = ""


@job("large_noop", payload=Large)
def large(params, ctx):
    """Does nothing with a kilobyte."""
    peer.Noop.handler(params.seq)


@job("failing_noop", payload=peer.Params, retry_base=0.01, retry_cap=0.01)
def failing(params, ctx):
    """Fails at its first attempt."""
    if ctx.job.attempt == 1:
        raise ValueError("the first attempt fails")
    peer.Noop.handler(params.seq)


class Pool:
    """What `pooled` borrows from: connections that are given back as they are."""

    database = None


@job("lent_noop", payload=peer.Params)
def lent(params, ctx):
    """Executes a statement on `ctx.db`."""
    ctx.db.execute("SELECT %s::int", (params.seq,))
    peer.Noop.handler(params.seq)


@job("pooled_noop", payload=peer.Params)
def pooled(params, ctx):
    """Executes it on a connection that is not cleaned for the next run."""
    with Pool.database.connection() as conn:
        conn.execute("SELECT %s::int", (params.seq,))
    peer.Noop.handler(params.seq)


def own_registry() -> Registry:
    """The types above beside the plain no-op."""
    return load([peer.__name__, __name__])


def payloads(args):
    """Jobs with a kilobyte of payload; with a kilobyte of output and twenty log lines, kept and dropped."""
    counter = alone.Counter()
    peer.Noop.handler = counter
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        plain = alone.warm_drain_rate(connection, database, counter, args.jobs)
        for kind, payload in (("large", {"text": TEXT}), ("heavy", {}), ("dropped", {})):
            jobs = [NewJob(f"{kind}_noop", {"seq": seq} | payload) for seq in range(1, args.jobs + 1)]
            producer.enqueue_many(connection, jobs, actor=alone.ACTOR)
            rate = alone.run_all(connection, database, counter, args.jobs, own_registry())
            common.emit(f"payload_{kind}", jobs=args.jobs, rate=rate, noop_rate=plain, ratio=rate / plain)


def lending(args):
    """Jobs that use `ctx.db`, beside the same with connections that nothing is taken back of."""
    counter = alone.Counter()
    peer.Noop.handler = counter
    rates = {"lent": [], "pooled": []}
    with (
        common.fresh_database(peer) as name,
        common.connect(name) as connection,
        Database(common.url(name), application_name="bench", max_size=12) as Pool.database,
    ):
        for kind in [kind for _ in range(args.repeat + 1) for kind in rates]:
            jobs = [NewJob(f"{kind}_noop", {"seq": seq}) for seq in range(1, args.jobs + 1)]
            producer.enqueue_many(connection, jobs, actor=alone.ACTOR)
            rates[kind].append(alone.run_all(connection, name, counter, args.jobs, own_registry()))
    ours, plain = (statistics.median(found[1:]) for found in rates.values())
    common.emit("lending", jobs=args.jobs, rate=ours, noop_rate=plain, ratio=ours / plain)


def mixed(args):
    """1 recurring per 50 one-time jobs, 5 % failing once, a tenth of the jobs under one of 10 concurrency keys."""
    counter = alone.Counter()
    peer.Noop.handler = counter
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        plain = alone.warm_drain_rate(connection, database, counter, args.jobs)
        jobs = []
        for seq in range(1, args.jobs + 1):
            kind = "failing_noop" if seq % 20 == 0 else "noop"
            key = f"key {seq // 10 % 10}" if seq % 10 == 1 else None
            jobs.append(NewJob(kind, {"seq": seq}, concurrency_key=key))
        producer.enqueue_many(connection, jobs, actor=alone.ACTOR)
        for seq in range(args.jobs // 50):
            producer.enqueue(
                connection, NewJob("noop", {"seq": seq}, recurrence_interval_minutes=60), actor=alone.ACTOR
            )
        total = args.jobs + args.jobs // 50
        rate = alone.run_all(connection, database, counter, total, own_registry())
    common.emit("mixed", jobs=total, rate=rate, noop_rate=plain, ratio=rate / plain)


LIMITED = [f"limited{number}_noop" for number in range(10)]
LIMITS = {
    "none": {},
    "running200": {"max_running": 200},
    "rate": {"rate_runs": 1_000_000, "rate_seconds": 1},
    "running50": {"max_running": 50},
    "both50": {"max_running": 50, "rate_runs": 1_000_000, "rate_seconds": 1},
}


def limited(args):
    """Ten types with each of `LIMITS`. With 200 places or a rate alone, a claim can take a whole batch."""
    counter = alone.Counter()
    peer.Noop.handler = counter
    types = [JobType(name, peer.run, name, "", peer.Params) for name in LIMITED]
    jobs = [NewJob(LIMITED[seq % len(LIMITED)], {"seq": seq}) for seq in range(1, args.jobs + 1)]
    with common.fresh_database(peer) as database, common.connect(database) as connection:
        rates = {kind: [] for kind in LIMITS}
        for kind in [kind for _ in range(args.repeat + 1) for kind in LIMITS]:
            none = dict.fromkeys(("max_running", "rate_runs", "rate_seconds"))
            for name in LIMITED:
                operator.set_type(connection, name, changes=none | LIMITS[kind], actor=alone.ACTOR, reason=None)
            # In the first second after its first limit, a type takes no job.
            connection.execute("UPDATE job_types SET limited_at = limited_at - interval '1 second'")
            producer.enqueue_many(connection, jobs, actor=alone.ACTOR)
            rates[kind].append(alone.run_all(connection, database, counter, args.jobs, Registry(types)))
    plain, *others = (statistics.median(found[1:]) for found in rates.values())
    for kind, rate in zip(list(LIMITS)[1:], others, strict=True):
        common.emit(f"limited_{kind}", jobs=args.jobs, rate=rate, noop_rate=plain, ratio=rate / plain)
