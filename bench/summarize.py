"""Prints result files as markdown: what was measured on, what is wanted and was measured, and a table of each workload.

    python bench/summarize.py [results.jsonl …]

Tables have medians, min–max, and ratios to raw b100.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import wanted  # noqa: E402 -- after the path is set
from bench.common import HOME  # noqa: E402 -- the same
from bench.verdicts import Records  # noqa: E402 -- the same

RATE = {"rate": "jobs/s"}
WAL = {"wal_per_job": "WAL bytes per job"}
DRAIN = RATE | {"rate_started": "from the first job's start", "first_job_s": "start, s"} | WAL
# Of each workload's figures the first is the one that is compared.
COLUMNS = {
    "stuck": {
        "ratio": "× empty table",
        "rate": "jobs/s",
        "empty_rate": "empty table",
        "p95_ms": "pickup p95 ms",
        "empty_p95_ms": "empty table p95 ms",
        "backlog": "backlog",
    },
    "payload": {"ratio": "× no-op", "rate": "jobs/s", "noop_rate": "no-op jobs/s"},
    "mixed": {"ratio": "× no-op", "rate": "jobs/s", "noop_rate": "no-op jobs/s"},
    "lending": {"ratio": "× not cleaned", "rate": "jobs/s", "noop_rate": "not cleaned"},
    "blocks": {
        "ratio": "× beside",
        "rate": "a second",
        "beside_rate": "beside",
        "server_us": "server, µs",
        "beside_server_us": "beside",
        "client_us": "client, µs",
        "beside_client_us": "beside",
    },
    "limited": {"ratio": "× without limits", "rate": "jobs/s", "noop_rate": "without limits"},
    "waiting": {"ratio": "× one process", "rate": "jobs/s of two", "one_rate": "of one"},
    "computing": {
        "ratio": "× one process",
        "rate": "jobs/s of two",
        "one_rate": "of one",
        "server_cpu_percent": "Postgres, % of a core",
    },
    "churn": {
        "ratio": "last tenth × first",
        "rate": "last jobs/s",
        "first_rate": "first jobs/s",
        "jobs": "jobs",
        "job_queue_table_mb": "queue MB",
        "job_queue_index_mb": "its indexes MB",
        "job_runs_table_mb": "history MB",
        "job_runs_index_mb": "its indexes MB",
    },
    "growth": {"rss_mb": "RSS MB at the end", "first_rss_mb": "after a tenth", "jobs": "jobs"},
    "start": {"seconds": "s to the first job"},
    "snapshot": {"ratio": "× 1 000 jobs", "ms_at_1000": "ms at 1 000", "ms_at_1000000": "ms at 1 000 000"},
    "keys": {
        "ratio": "× plain",
        "rate": "jobs/s",
        "plain_rate": "plain jobs/s",
        "longest_pass_ms": "longest pass ms",
        "jobs": "jobs",
    },
    "history": {
        "finish_ratio": "finish ×",
        "dashboard_ratio": "dashboard ×",
        "runs_ratio": "runs ×",
        "prune_seconds": "a pass of pruning, s",
        "rows": "runs",
        "beside": "beside",
    },
    "large": {
        **{f"{name}_ratio": f"{words} ×" for name, words in wanted.LARGE.items()},
        "analyze_s": "ANALYZE s",
        "vacuum_s": "VACUUM s",
        "jobs": "jobs",
        "beside": "beside",
    },
    "crowd": {
        "statements_per_s": "statements/s of each",
        "claims_per_s": "claims/s of each",
        "claims_per_job": "claims per job",
        "rate": "enqueues/s",
        "p50_ms": "pickup p50 ms",
        "p95_ms": "p95 ms",
        "seconds": "s to the last start",
        "most_connections_in_100_ms": "most connections in 0.1 s",
        "most_claims_in_100_ms": "most claims in 0.1 s",
        "workers": "workers",
    },
    "far": {
        "ratio": "× near",
        "rate": "jobs/s",
        "near_rate": "near jobs/s",
        "first_paint_s": "first paint s",
        "turns_per_reading": "round trips of a refresh",
        "reading_ms": "a refresh ms",
        "line_ms": "line ms",
    },
    "starts": {
        "header_ratio": "first header, × its imports",
        "rows_ratio": "first rows",
        "status_ratio": "`status`, × its imports",
        "app_ratio": "the command line, × psycopg and click",
        "header_cpu_ms": "first header ms",
        "rows_cpu_ms": "first rows ms",
        "status_cpu_ms": "`status` ms",
    },
    "drain": DRAIN,
    "pickup": {
        "p50_ms": "p50 ms",
        "p95_ms": "p95 ms",
        "p99_ms": "p99 ms",
        "p50_call_ms": "p50 from the call's start",
        "p95_call_ms": "p95",
    },
    "enqueue_single": RATE | WAL,
    "enqueue_bulk": RATE | WAL,
    "backlog": DRAIN,
    "waits": {"seconds": "s", "rss_mb": "peak RSS MB", "most_in_flight": "most in flight"},
    "idle": {"statements_per_s": "statements/s", "cpu_percent": "CPU %", "rss_mb": "RSS MB"},
}
TITLES = {
    "stuck": "Backlogs: the same drain and pickup with and without",
    "payload": "A kilobyte of payload; a kilobyte of output and twenty log lines, kept and dropped",
    "mixed": "A mix: recurring, failing, keyed",
    "lending": "Jobs that use ctx.db, beside the same on connections that are not cleaned",
    "blocks": "By turns on open connections: enqueues beside the bare loop's, jobs of a key beside others",
    "limited": "Ten types with limits: places for each type, or a rate that is never reached",
    "waiting": "Handlers that wait 10 ms",
    "computing": "Jobs of 200 ms of processor time in processes",
    "churn": "Churn, and churn beside an old transaction",
    "growth": "Memory",
    "start": "Start",
    "snapshot": "The dashboard's data",
    "keys": "Keys: one with many jobs, many with one",
    "history": "A long history beside a short one",
    "large": "Many waiting jobs beside few",
    "crowd": "Many workers: nothing to do, enqueues, many jobs at once, a restart of Postgres",
    "far": "A far database beside a near one",
    "starts": "Processor time of starts",
    "drain": "Drain of {jobs:,} no-op jobs, workers: {workers}",
    "pickup": "Pickup by an idle worker",
    "enqueue_single": "Enqueue, one call and commit per job",
    "enqueue_bulk": "Enqueue in bulk",
    "backlog": "Drain of {jobs:,} jobs with a backlog behind them",
    "waits": "{jobs:,} async jobs that wait for a second, 1,000 in flight, one worker",
    "idle": "An idle worker",
}


# Workloads of Jobdeck alone, by the first word of their names; and one that is in another's table.
OWN = {
    "stuck", "payload", "mixed", "blocks", "lending", "limited", "waiting", "computing", "churn", "growth", "start",
    "snapshot", "keys", "history", "large", "crowd", "far", "starts",
}  # fmt: skip
FAMILIES = {"old_transaction": "churn"}


def number(value):
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def middle_of(values):
    present = [value for value in values if value is not None]
    return median(present) if present else None


def table(workload, rows):
    columns = {k: v for k, v in COLUMNS[workload].items() if any(k in r for r in rows)}
    compared = next(iter(columns))
    groups = defaultdict(list)
    for row in rows:
        groups[row["peer"], row["setting"]].append(row)
    middle = {key: {c: middle_of([row.get(c) for row in group]) for c in columns} for key, group in groups.items()}
    yardstick = middle.get(("raw", "b100"), {}).get(compared)

    headings = ["peer", "setting", *columns.values()]
    if workload in OWN:
        headings = ["workload", *columns.values()]
        yield f"| {' | '.join(headings)} | runs |"
        yield "|---" + "|---:" * len(headings) + "|"
        for (_, setting), figures in middle.items():
            cells = [setting, *(number(value) for value in figures.values())]
            yield f"| {' | '.join(cells)} | {len(groups['jobdeck', setting])} |"
        return
    headings[3:3] = ["min–max", "× raw" if workload.startswith("enqueue") else "× raw b100"]
    yield f"| {' | '.join(headings)} | runs |"
    yield "|---" * 2 + "|---:" * (len(headings) - 1) + "|"
    descending = compared == "rate"
    for key in sorted(middle, key=lambda key: middle[key][compared], reverse=descending):
        values = [row[compared] for row in groups[key]]
        cells = [*key, *(number(value) for value in middle[key].values())]
        ratio = f"{middle[key][compared] / yardstick:.3g}" if yardstick else "–"
        cells[3:3] = [f"{number(min(values))}–{number(max(values))}", ratio]
        if workload.startswith("enqueue"):
            cells[1] = ""
        yield f"| {' | '.join(cells)} | {len(values)} |"


def circumstances(row):
    yield "\n### Measured on\n"
    for name, value in row.items():
        if name != "workload":
            told = ", ".join(f"{key} {text}" for key, text in value.items()) if isinstance(value, dict) else value
            yield f"- {name}: {told}"


def sections_of(rows):
    """The rows of each table."""
    sections = defaultdict(list)
    for row in rows:
        family = FAMILIES.get(row["workload"], row["workload"].partition("_")[0])
        if family in OWN:
            setting = "_".join([row["workload"], row["kind"]]) if "kind" in row else row["workload"]
            sections[family, 0, 1].append(row | {"setting": setting})
        else:
            sections[row["workload"], row["jobs"], row.get("workers", 1)].append(row)
    return sections


def main():
    files = [Path(name) for name in sys.argv[1:]] or [HOME / "results.jsonl"]
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    measured = [row for row in found if row["workload"] != "circumstances"]
    for row in found:
        if row["workload"] == "circumstances":
            print("\n".join(circumstances(row)))
    print("\n### Wanted and measured\n")
    print("\n".join(wanted.table(Records(measured))))
    for (workload, jobs, workers), rows in sections_of(measured).items():
        print(f"\n### {TITLES[workload].format(jobs=jobs, workers=workers)}\n")
        print("\n".join(table(workload, rows)))
        extra = sum(row.get("extra_runs", 0) for row in rows)
        if extra:
            print(f"\n{extra} runs of handlers beyond one for each job.")


if __name__ == "__main__":
    main()
