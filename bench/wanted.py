"""The table of what is wanted beside what one run measured, one row for each workload. `summarize.py` prints it.

What other libraries and the bare loop reached in the same run is in the same cell.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from bench.verdicts import BARE, OURS, Best, Part, Records, Row, limited, over, told

if TYPE_CHECKING:
    from collections.abc import Iterator

DRAIN = {"workers": 1, "jobs": 10_000}
SETTING = {OURS: "default", BARE: "b100"}
RATE = 100
KEYS = ("ratio", "rate", "plain_rate", "line_rate", "bare_rate", "jobs")
HISTORY = (
    "rows", "beside", "finish_ratio", "dashboard_ratio", "dashboard_worst_ratio", "runs_ratio", "prune_seconds",
)  # fmt: skip
LARGE = {
    "claim_one": "claim of one",
    "claim_hundred": "claim of a hundred",
    "claim_types": "claim of nine types",
    "claim_none": "claim where nothing is due",
    "pickup_p50": "pickup p50",
    "pickup_p95": "pickup p95",
    "counts": "counts",
}


def value(found: Best | None) -> float | None:
    """The figure alone."""
    return found.value if found else None


def peer(found: Best | None, unit: str = "") -> list[str]:
    """A peer's figure, if there is one."""
    return told(found.peer, found.value, unit) if found else []


def enqueueing(records: Records, workload: str, title: str, share: Part) -> Row:
    """Jobdeck beside the fastest peer, and its share of the bare loop."""
    ours, loop = records.middle(workload, "rate"), records.middle(workload, "rate", peer=BARE)
    fastest = records.best(workload, "rate")
    return Row(
        title,
        (share, Part("the fastest peer", "≥", 1, "×", over(ours, value(fastest)))),
        (*told("ours", ours, "/s"), *peer(fastest, "/s"), *told("bare loop", loop, "/s")),
    )


def enqueue_one(records: Records) -> Row:
    """The share of the bare loop is of blocks by turns on open connections."""
    share = Part("of a bare INSERT loop in blocks", "≥", 0.58, "%", records.middle("blocks_enqueue", "ratio"))
    return enqueueing(records, "enqueue_single", "enqueue one at a time", share)


def enqueue_many(records: Records) -> Row:
    """The share is of the rates of the same run."""
    rates = [records.middle("enqueue_bulk", "rate", peer=name) for name in (OURS, BARE)]
    return enqueueing(records, "enqueue_bulk", "enqueue many", Part("of bare COPY", "≥", 0.5, "%", over(*rates)))


def chain(records: Records) -> Row:
    """A claim and a report of a job behind one key, beside those of a job without a key."""
    server = records.middle("blocks_chain", "server_us")
    return Row(
        "a chain behind one key",
        (
            Part("a round, of one without a key", "≤", 1.5, "×", records.middle("blocks_chain", "ratio")),
            Part("the server's processor", "≤", 1, "ms", server / 1000 if server is not None else None),
        ),
        (*told("rounds", records.middle("blocks_chain", "rate"), "/s"),),
    )


def limits(records: Records) -> Row:
    """Ten types with places, with a rate, and with both."""
    kinds = {"running50": "50 places of each", "rate": "rates", "both50": "both"}
    return Row(
        "ten types with limits, of the unlimited rate",
        tuple(Part(name, "≥", 0.85, "%", records.middle(f"limited_{kind}", "ratio")) for kind, name in kinds.items()),
        (*told("unlimited", records.middle("limited_rate", "noop_rate"), "/s"),),
    )


def two_workers(records: Records) -> Row:
    """A drain by two workers beside one by one worker, in one run."""
    rates = [records.middle("drain", "rate", setting="default", jobs=10_000, workers=count) for count in (2, 1)]
    return Row(
        "two workers on two cores",
        (Part("of one", "≥", 1.15, "×", over(*rates)),),
        (*told("two", rates[0], "/s"), *told("one", rates[1], "/s")),
    )


def pickup(records: Records) -> Row:
    """Both quantiles beside oban's, each at the better of its settings."""
    parts, beside = [], []
    for name, limit in (("p50", 0.9), ("p95", 0.85)):
        field = f"{name}_ms"
        ours, loop = records.middle("pickup", field), records.middle("pickup", field, peer=BARE)
        oban, fastest = (records.best("pickup", field, *which, least=True) for which in (("oban",), ()))
        parts.append(Part(name, "≤", limit, "×", over(ours, value(oban))))
        beside += told(f"{name} ours", ours, "ms") + peer(oban, "ms")
        beside += (peer(fastest, "ms") if fastest != oban else []) + told("bare loop", loop, "ms")
        whole = f"{name}_call_ms"
        base = records.best("pickup", whole, "oban", least=True)
        parts.append(Part(f"{name} from the start of the call", "≤", 0.85, "×",
                          over(records.middle("pickup", whole), value(base))))  # fmt: skip
    return Row("pickup against oban", tuple(parts), tuple(beside))


def logging(records: Records) -> Row:
    """Jobs with output and log lines, kept and dropped by turns."""
    rates = [records.values(f"payload_{kind}", "rate") for kind in ("heavy", "dropped")]
    turns = [kept / dropped for kept, dropped in zip(*rates, strict=False)]
    return Row(
        "jobs with 1 kB output and 20 log lines",
        (
            Part("of no-op", "≥", 0.2, "%", records.middle("payload_heavy", "ratio")),
            Part("of the same jobs with lines dropped", "≥", 0.75, "%", median(turns) if turns else None),
        ),
        (
            *told("ours", records.middle("payload_heavy", "rate"), "/s"),
            *told("lines dropped", records.middle("payload_dropped", "rate"), "/s"),
            *told("no-op", records.middle("payload_heavy", "noop_rate"), "/s"),
        ),
    )


def mixed(records: Records) -> Row:
    """Recurring, failing and keyed jobs beside plain ones."""
    ours, plain = records.middle("mixed", "rate"), records.middle("mixed", "noop_rate")
    return Row(
        "mixed (a tenth behind ten keys), of no-op",
        (Part("", "≥", 0.45, "%", records.middle("mixed", "ratio")),),
        (*told("ours", ours, "/s"), *told("no-op", plain, "/s")),
    )


def lending(records: Records) -> Row:
    """Jobs that use the connection of their run."""
    ours, plain = records.middle("lending", "rate"), records.middle("lending", "noop_rate")
    return Row(
        "jobs that use `ctx.db`, of the same on connections that are not cleaned",
        (Part("", "≥", 0.95, "%", records.middle("lending", "ratio")),),
        (*told("ours", ours, "/s"), *told("not cleaned", plain, "/s")),
    )


def keys(records: Records, kind: str, title: str) -> Row:
    """One of the two lines of `keys.py`."""
    found = {name: records.middle("keys", name, kind=kind) for name in KEYS}
    passes = records.values("keys", "longest_pass_ms", kind=kind)
    return Row(
        title,
        (
            Part("longest pass", "≤", 50, "ms", max(passes, default=None)),
            Part("of the plain rate", "≥", 0.8, "%", found["ratio"]),
        ),
        (
            *told("ours", found["rate"], "/s"),
            *told("plain", found["plain_rate"], "/s"),
            *told("the key's own jobs", found["line_rate"], "/s"),
            *told("bare loop, one at a time", found["bare_rate"], "/s"),
        ),
        limited(found["jobs"], 100_000, "jobs"),
    )


def history(records: Records) -> Row:
    """What `history.py` says of two histories."""
    found = {name: records.middle("history", name) for name in HISTORY}
    ways = set(records.values("history", "pruned_by"))
    return Row(
        "100 M runs in the history, of 1 M",
        (
            Part("finish", "≥", 0.95, "%", found["finish_ratio"]),
            Part("dashboard", "≤", 1.5, "×", found["dashboard_ratio"]),
            Part("`runs`", "≤", 1.5, "×", found["runs_ratio"]),
            Part("pruning drops partitions", "≥", 1, "fact", float(ways == {"drop"}) if ways else None),
        ),
        (
            *told("runs", found["rows"]),
            *told("beside", found["beside"]),
            *told("the page that grew most", found["dashboard_worst_ratio"], "×"),
            *told("a pass of pruning", found["prune_seconds"], "s"),
        ),
        limited(found["rows"], 100_000_000, "runs"),
    )


def large(records: Records) -> Row:
    """What `large.py` says of two queues."""
    told_of = {
        "jobs": ("jobs", ""),
        "beside": ("beside", ""),
        "analyze_s": ("ANALYZE", "s"),
        "beside_analyze_s": ("of the small queue", "s"),
        "vacuum_s": ("VACUUM", "s"),
        "beside_vacuum_s": ("of the small queue", "s"),
    }
    return Row(
        "50 M jobs waiting, of 1 M",
        tuple(Part(name, "≤", 1.2, "×", records.middle("large", f"{field}_ratio")) for field, name in LARGE.items()),
        tuple(
            text for field, (name, unit) in told_of.items() for text in told(name, records.middle("large", field), unit)
        ),
        limited(records.middle("large", "jobs"), 50_000_000, "jobs"),
    )


def crowd(records: Records) -> Row:
    """What `crowd.py` says. A stampede is when half of the workers come within a tenth of a second."""
    workers = records.middle("crowd_restart", "workers") or 100
    rate = records.middle("crowd_enqueues", "rate")
    stampede = {what: records.middle("crowd_restart", f"most_{what}_in_100_ms") for what in ("connections", "claims")}
    idle = records.middle("crowd_idle", "statements_per_s")
    claims = records.middle("crowd_enqueues", "claims_per_job")
    return Row(
        "100 workers connected, 90 idle",
        (
            Part("statements/s of each without enqueues", "≤", 1, "", idle),
            Part(f"claims for each job at {RATE} enqueues/s", "≤", 5, "", claims),
            *(
                Part(f"{what} in the busiest 0.1 s after a restart", "≤", workers / 2, "", most)
                for what, most in stampede.items()
            ),
        ),
        (*told("enqueues/s", rate), *told("pickup p95", records.middle("crowd_enqueues", "p95_ms"), "ms")),
        limited(rate, RATE, "enqueues/s", enough=0.95),
    )


def far(records: Records) -> Row:
    """What `far.py` says of a near and a far database."""
    screen = {name: records.middle("far_dashboard_far", name) for name in ("first_paint_s", "turns_per_reading")}
    return Row(
        "a line of 50 ms to the database",
        (
            Part("drain, of local", "≥", 0.6, "%", records.middle("far_drain", "ratio")),
            Part("first paint", "<", 1, "s", screen["first_paint_s"]),
            Part("round trips per refresh", "≤", 1, "", screen["turns_per_reading"]),
        ),
        (
            *told("far", records.middle("far_drain", "rate"), "/s"),
            *told("local", records.middle("far_drain", "near_rate"), "/s"),
            *told("jobs", records.middle("far_drain", "jobs")),
            *told("local paint", records.middle("far_dashboard_near", "first_paint_s"), "s"),
        ),
    )


def wal(records: Records) -> Row:
    """Both halves of a job's life, and the same of the peer that writes least."""
    found = {}
    for name in records.peers():
        setting = {"setting": SETTING[name]} if name in SETTING else {}
        halves = [
            records.best("enqueue_single", "wal_per_job", name, least=True),
            records.best("drain", "wal_per_job", name, least=True, **DRAIN, **setting),
        ]
        if None not in halves:
            found[name] = [half.value for half in halves if half]
    ours, loop = found.pop(OURS, None), found.pop(BARE, None)
    leanest = min((Best(name, sum(halves)) for name, halves in found.items()), key=lambda one: one.value, default=None)
    beside = [f"enqueue {ours[0]:,.0f}, drain {ours[1]:,.0f}"] if ours else []
    return Row(
        "WAL per job, enqueue and drain",
        (Part("", "≤", 1250, "B", sum(ours) if ours else None),),
        (*beside, *peer(leanest, "B"), *told("bare loop", sum(loop) if loop else None, "B")),
    )


def memory(records: Records) -> Row:
    """A worker that has nothing to do, and one that has had much, above the libraries that it cannot do without."""
    jobs = records.middle("growth", "jobs")
    idle, grown = records.middle("idle", "rss_mb"), records.middle("growth", "rss_mb")
    imports = records.middle("idle", "imports_rss_mb")
    return Row(
        "memory of a worker above psycopg and pydantic",
        tuple(
            Part(name, "≤", limit, "MB", None if imports is None or found is None else found - imports)
            for name, limit, found in (("idle", 16, idle), ("after 1 M jobs", 21, grown))
        ),
        (
            *told("jobs", jobs),
            *told("whole", idle, "MB"),
            *told("whole after the jobs", grown, "MB"),
            *(f"idle {text}" for text in peer(records.best("idle", "rss_mb", least=True), "MB")),
            *told("idle bare loop", records.middle("idle", "rss_mb", peer=BARE), "MB"),
        ),
        limited(jobs, 1_000_000, "jobs"),
    )


def starts(records: Records) -> Row:
    """Processor time of starts, of the imports that each cannot do without."""
    names = {
        "header": ("first header", 2.0),
        "rows": ("first rows", 2.6),
        "status": ("`status`", 1.3),
        "app": ("the command line", 1.6),
    }
    return Row(
        "processor time of a start, of its imports",
        tuple(
            Part(name, "≤", limit, "×", records.middle("starts", f"{field}_ratio"))
            for field, (name, limit) in names.items()
        ),
        tuple(
            text
            for field, (name, _) in names.items()
            for text in told(name, records.middle("starts", f"{field}_cpu_ms"), "ms")
        ),
    )


def rows(records: Records) -> Iterator[Row]:
    """The rows in the order of the table."""
    yield enqueue_one(records)
    yield enqueue_many(records)
    yield pickup(records)
    yield logging(records)
    yield chain(records)
    yield mixed(records)
    yield limits(records)
    yield two_workers(records)
    yield lending(records)
    yield keys(records, "one_key", "a key with 100,000 waiting")
    yield keys(records, "many_keys", "100,000 keys with one each")
    yield history(records)
    yield large(records)
    yield crowd(records)
    yield far(records)
    yield wal(records)
    yield memory(records)
    yield starts(records)


def table(records: Records) -> Iterator[str]:
    """The table in markdown."""
    yield "| workload | wanted | measured | reached |"
    yield "|---|---|---|---|"
    for row in rows(records):
        yield f"| {' | '.join(row.cells())} |"
