"""The table of what is wanted is computed rightly from the lines that a run recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.verdicts import ABSENT, Part, Records
from bench.wanted import rows, table


def line(workload: str, peer: str = "jobdeck", setting: str = "default", **figures: Any) -> dict[str, Any]:
    return {"workload": workload, "peer": peer, "setting": setting, "jobs": 2000} | figures


def enqueues(workload: str, **rates: list[float]) -> list[dict[str, Any]]:
    return [
        line(workload, peer, "b100" if peer == "raw" else "default", rate=rate, wal_per_job=500.0)
        for peer, found in rates.items()
        for rate in found
    ]


def reached(title: str, lines: list[dict[str, Any]]) -> str:
    """The last cell of the row whose first cell begins with this."""
    return next(row.reached() for row in rows(Records(lines)) if row.workload.startswith(title))


def measured(title: str, lines: list[dict[str, Any]]) -> str:
    return next(list(row.cells())[2] for row in rows(Records(lines)) if row.workload.startswith(title))


def test_a_row_without_records_was_not_measured() -> None:
    lines = list(table(Records([])))
    assert len(lines) == 2 + 18
    for text in lines[2:]:
        assert text.endswith(f"| {ABSENT} | {ABSENT} |")


def test_each_row_has_four_cells() -> None:
    records = Records(enqueues("enqueue_single", jobdeck=[90], raw=[100]))
    assert {text.count("|") for text in table(records)} == {5}


def test_a_ratio_is_of_the_medians_of_one_run() -> None:
    lines = enqueues("enqueue_bulk", jobdeck=[90, 10, 55], raw=[100, 101, 5], pgqueuer=[50, 40, 60])
    assert reached("enqueue many", lines) == "yes: of bare COPY: 5 points to spare; the fastest peer: 0.1 × to spare"
    assert measured("enqueue many", lines) == (
        "55.0 % of bare COPY; 1.10 × the fastest peer; ours 55.00/s; pgqueuer 50.00/s; bare loop 100/s"
    )


def test_the_share_of_one_enqueue_is_that_of_blocks_by_turns() -> None:
    lines = [
        *enqueues("enqueue_single", jobdeck=[50], raw=[100], pgqueuer=[50]),
        line("blocks_enqueue", rate=3000.0, ratio=0.55),
        line("blocks_enqueue", rate=3000.0, ratio=0.63),
    ]
    text = "yes: of a bare INSERT loop in blocks: 1 points to spare; the fastest peer: 0 × to spare"
    assert reached("enqueue one", lines) == text


def test_a_chain_is_judged_by_its_rounds_and_by_the_servers_processor() -> None:
    text = "**no**: a round, of one without a key: 0.1 × to spare; the server's processor: 0.2 ms too much"
    assert reached("a chain", [line("blocks_chain", rate=700.0, ratio=1.4, server_us=1200.0)]) == text


def test_each_kind_of_limits_and_the_second_worker_have_their_share() -> None:
    limited = [line(f"limited_{kind}", ratio=ratio, noop_rate=100) for kind, ratio in (("rate", 0.9), ("both50", 0.8))]
    assert reached("ten types", limited).startswith("**no**: 50 places of each: not measured in this run; rates: 5")
    drains = [line("drain", rate=rate, workers=workers) | {"jobs": 10_000} for rate, workers in ((100, 1), (120, 2))]
    assert reached("two workers", drains) == "yes: of one: 0.05 × to spare"


def test_a_row_that_is_missed_says_by_how_much() -> None:
    lines = enqueues("enqueue_bulk", jobdeck=[39], raw=[100], awa=[20], oban=[10])
    assert (
        reached("enqueue many", lines)
        == "**no**: of bare COPY: 11 points too little; the fastest peer: 0.95 × to spare"
    )


def test_a_row_of_a_run_without_peers_says_so() -> None:
    lines = enqueues("enqueue_bulk", jobdeck=[55], raw=[100])
    expected = f"yes, as far as measured: of bare COPY: 5 points to spare; the fastest peer: {ABSENT}"
    assert reached("enqueue many", lines) == expected


def test_pickup_counts_from_the_start_of_the_call_too() -> None:
    ours: dict[str, Any] = {"p50_ms": 0.9, "p95_ms": 2.0, "p50_call_ms": 1.7, "p95_call_ms": 3.6}
    oban: dict[str, Any] = {"p50_ms": 1.0, "p95_ms": 4.0, "p50_call_ms": 2.0, "p95_call_ms": 4.0}
    assert reached("pickup", [line("pickup", **ours), line("pickup", "oban", "tuned", **oban)]) == (
        "**no**: p50: 0 × to spare; p50 from the start of the call: 0 × to spare; p95: 0.35 × to spare; "
        "p95 from the start of the call: 0.05 × too much"
    )


def test_pickup_is_compared_with_the_better_setting_of_oban_whatever_others_reach() -> None:
    lines = [
        line("pickup", p50_ms=1.0, p95_ms=1.5),
        line("pickup", "oban", "default", p50_ms=4.0, p95_ms=2.0),
        line("pickup", "oban", "tuned", p50_ms=2.0, p95_ms=3.0),
        line("pickup", "pgqueuer", "tuned", p50_ms=0.5, p95_ms=3.0),
        line("pickup", "raw", "b100", p50_ms=0.4, p95_ms=0.6),
    ]
    call = f"from the start of the call: {ABSENT}"
    assert measured("pickup", lines).startswith(f"p50 0.50 ×; p50 {call}; p95 0.75 ×; p95 {call}; p50 ours 1.00 ms; ")
    assert "oban 2.00 ms; pgqueuer 0.50" in measured("pickup", lines)
    assert reached("pickup", lines) == (
        f"yes, as far as measured: p50: 0.4 × to spare; p50 {call}; p95: 0.1 × to spare; p95 {call}"
    )


def test_jobs_that_log_are_compared_with_dropped_lines_turn_by_turn() -> None:
    turns = ((30, 40), (10, 100), (80, 100))
    lines = [
        one
        for kept, dropped in turns
        for one in (
            line("payload_heavy", rate=kept, noop_rate=100, ratio=0.3),
            line("payload_dropped", rate=dropped, noop_rate=100, ratio=0.5),
        )
    ]
    text = "yes: of no-op: 10 points to spare; of the same jobs with lines dropped: 0 points to spare"
    assert reached("jobs with 1 kB", lines) == text


def test_a_smaller_size_than_wanted_is_told() -> None:
    ratios: dict[str, Any] = {"finish_ratio": 0.99, "dashboard_ratio": 1.1, "runs_ratio": 1.0}
    small = line("history", rows=1_000_000, beside=100_000, pruned_by="drop", **ratios)
    text = reached("100 M runs", [small])
    assert text.startswith("yes (of 1,000,000 runs, not of 100,000,000): finish: 4 points to spare;")
    assert "not of" not in reached("100 M runs", [small | {"rows": 100_000_000}])


def test_pruning_by_delete_is_not_what_is_wanted() -> None:
    ratios: dict[str, Any] = {"finish_ratio": 0.99, "dashboard_ratio": 1.1, "runs_ratio": 1.0}
    deleted = line("history", rows=100_000_000, beside=1_000_000, pruned_by="delete", **ratios)
    text = reached("100 M runs", [deleted])
    assert text.startswith("**no**")
    assert text.endswith("pruning drops partitions: no")


def test_the_longest_of_all_passes_counts_and_each_kind_of_keys_has_its_row() -> None:
    def keys(kind: str, longest: float) -> dict[str, Any]:
        return line("keys", kind=kind, jobs=100_000, longest_pass_ms=longest, ratio=0.9)

    lines = [keys("one_key", 20.0), keys("one_key", 62.0), keys("one_key", 30.0), keys("many_keys", 40.0)]
    assert reached("a key with", lines) == "**no**: longest pass: 12 ms too much; of the plain rate: 10 points to spare"
    assert reached("100,000 keys", lines).startswith("yes: longest pass: 10 ms to spare")


def test_claims_of_a_crowd_count_at_the_wanted_rate_alone() -> None:
    def lines(rate: float) -> list[dict[str, Any]]:
        return [
            line("crowd_idle", workers=100, statements_per_s=0.8),
            line("crowd_enqueues", workers=100, rate=rate, claims_per_job=4.0),
            line("crowd_restart", workers=100, most_connections_in_100_ms=60, most_claims_in_100_ms=10),
        ]

    assert reached("100 workers", lines(32)).startswith("**no** (of 32.00 enqueues/s, not of 100)")
    assert "connections in the busiest 0.1 s after a restart: 10 too much" in reached("100 workers", lines(99))
    assert "not of" not in reached("100 workers", lines(99))


def test_wal_per_job_is_that_of_an_enqueue_and_a_drain_of_one_worker() -> None:
    def drain(peer: str, setting: str, wal: float, **changes: Any) -> dict[str, Any]:
        return line("drain", peer, setting, wal_per_job=wal, **({"jobs": 10_000, "workers": 1} | changes))

    lines = [
        *enqueues("enqueue_single", jobdeck=[90], raw=[100], oban=[50], awa=[40]),
        drain("jobdeck", "default", 915.0),
        drain("jobdeck", "c1", 1.0),
        drain("jobdeck", "default", 1.0, workers=2),
        drain("jobdeck", "default", 1.0, jobs=200_000),
        drain("oban", "default", 1200.0),
        drain("oban", "tuned", 1100.0),
        drain("raw", "b100", 100.0),
        drain("raw", "b1000", 50.0),
    ]
    assert reached("WAL per job", lines) == "**no**: 165 B too much"
    assert measured("WAL per job", lines) == "1,415 B; enqueue 500, drain 915; oban 1,600 B; bare loop 600 B"


def test_one_half_of_the_wal_alone_is_not_measured() -> None:
    assert reached("WAL per job", enqueues("enqueue_single", jobdeck=[90])) == ABSENT


def test_the_memory_above_the_imports_says_of_how_many_jobs() -> None:
    lines = [line("idle", rss_mb=55.0), line("growth", rss_mb=63.5, jobs=200_000), line("idle", "awa", rss_mb=40.0)]
    assert reached("memory", lines) == ABSENT
    expected = "**no** (of 200,000 jobs, not of 1,000,000): idle: 2 MB to spare; after 1 M jobs: 1.5 MB too much"
    assert reached("memory", [*lines, line("idle", imports_rss_mb=41.0)]) == expected


def test_a_start_is_judged_by_the_imports_that_it_needs() -> None:
    lines = [line("starts", header_ratio=1.5, rows_ratio=1.6, status_ratio=1.4, app_ratio=1.1)]
    assert reached("processor time of a start", lines) == (
        "**no**: first header: 0.5 × to spare; first rows: 1 × to spare; `status`: 0.1 × too much; "
        "the command line: 0.5 × to spare"
    )


RUN: list[dict[str, Any]] = [
    {"workload": "circumstances", "commit": "abc1234", "machine": "2 processors", "versions": {"Python": "3.12"}},
    line("enqueue_single", rate=80.0, wal_per_job=400.0),
    line("crowd_idle", workers=100, statements_per_s=0.75),
    line("crowd_enqueues", workers=100, rate=100.0, claims_per_job=4.5, p50_ms=1.0, p95_ms=2.0),
    line("far_drain", ratio=0.7, rate=700, near_rate=1000),
    line("far_dashboard_far", first_paint_s=0.8, turns_per_reading=1, reading_ms=60.0, line_ms=50),
    line("large", jobs=1_000_000, beside=100_000, counts_ratio=1.1, analyze_s=1.0, vacuum_s=2.0),
    line("history", rows=1_000_000, beside=100_000, finish_ratio=1.0),
    line("keys", kind="one_key", ratio=0.9, longest_pass_ms=20.0),
    line("keys", kind="many_keys", ratio=0.7, longest_pass_ms=20.0),
    {"workload": "starts", "peer": "jobdeck", "setting": "default", "header_ratio": 1.7, "rows_ratio": 1.8},
]


def test_the_program_prints_circumstances_and_the_table_and_one_for_each_workload(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in RUN))
    program = Path(__file__).parents[2] / "bench" / "summarize.py"
    done = subprocess.run([sys.executable, str(program), str(file)], capture_output=True, check=True, text=True)
    headings = [text.removeprefix("### ") for text in done.stdout.splitlines() if text.startswith("### ")]
    assert headings[:2] == ["Measured on", "Wanted and measured"]
    assert len(headings) == 2 + len({record["workload"].partition("_")[0] for record in RUN[1:]})
    assert "- commit: abc1234" in done.stdout
    assert "| keys_many_keys | 0.70 |" in done.stdout
    assert "| starts | 1.70 | 1.80 |" in done.stdout


@pytest.mark.parametrize(("sign", "value", "held"), [("≥", 2, True), (">", 2, False), ("≤", 2, True), ("<", 2, False)])
def test_a_limit_is_held_as_its_sign_says(sign: str, value: float, held: bool) -> None:
    assert Part("", sign, 2, "", value).held is held
