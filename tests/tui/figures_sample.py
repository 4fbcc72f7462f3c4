"""Figures for the pages of types, trends and series: one type in an incident among calm ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from jobdeck.core.model import RunOutcome
from jobdeck.core.read.pages.overview import TypeFigures
from jobdeck.core.read.stats.backlog import Mark, TrendReport, Waiting
from jobdeck.core.read.stats.figures import FailureShare, RunStats, Trends
from jobdeck.core.read.type_settings import TypeLine
from tests.tui.fake import NOW, FakeBackend, minutes
from tests.tui.sample import sample

CALM = "game_platform_sync"
BROKEN = "sms_digest_processor"


def type_line(name: str, **facts: Any) -> TypeLine:
    return TypeLine(
        **{"task_type": name, "pending": 12, "running": 1, "failed": 0, "at_least": False, "workers": 2, **facts}
    )


def share(name: str, runs: int = 210, failed: int = 2, **facts: Any) -> FailureShare:
    given = {
        "usual_runs": 40_000,
        "usual_failed": 800,
        "failed_in_a_row": 0,
        "last_at": NOW,
        "usual": 801 / 40_002,
        **facts,
    }
    return FailureShare(name, runs, failed, **given)


def types() -> tuple[TypeFigures, ...]:
    return (
        TypeFigures(type_line(CALM), NOW - minutes(2), 14, 0, share(CALM)),
        TypeFigures(type_line("game_platform_totals_sweep", pending=0, running=0), None, 0, 0, None),
        TypeFigures(
            type_line(BROKEN, pending=10_001, failed=7_488, at_least=True, failed_at_least=True, warning_share=0.2,
                      muted_by="bob@10.0.0.9", muted_until=NOW + minutes(90), muted_reason="known"),
            NOW - minutes(41), 31, 122, share(BROKEN, 2304, 1890, failed_in_a_row=12),
        ),
        TypeFigures(type_line("unheard_of", workers=0, running=0, pending=3), NOW - minutes(200), 0, 0, None),
    )  # fmt: skip


def trends(window: timedelta = timedelta(hours=6)) -> TrendReport:
    """Two types over 6 hours: one failed for 40 minutes and was paused, and its backlog grew."""
    step = timedelta(minutes=5)
    start = NOW - window
    buckets = tuple(start + step * number for number in range(int(window / step) + 1))
    broken, calm, waiting, total = {}, {}, {}, {}
    for number, at in enumerate(buckets):
        bad = 90 if 40 <= number < 48 else 1
        ran = 0 if 48 <= number < 56 else 100
        broken[at] = stats(max(ran - bad, 0), min(bad, ran), wait=8 + number % 5 + (12 if number > 50 else 0), took=10)
        calm[at] = stats(20 + number % 7, 0, wait=6, took=14 + number % 3)
        jobs = 0 if number < 40 else (number - 39) * 900 if number < 56 else max(14_400 - (number - 55) * 1200, 0)
        waiting[at], total[at] = Waiting(jobs, jobs > 10_000), Waiting(jobs + 12, jobs > 10_000)
    marks = (
        Mark(buckets[20], "release", "jobdeck@0.2.0", None), Mark(buckets[48], "pause", BROKEN, "bob@10.0.0.9"),
        Mark(buckets[56], "resume", BROKEN, "bob@10.0.0.9"),
    )  # fmt: skip
    found = Trends(NOW, buckets[0], buckets[0], step, buckets, {BROKEN: broken, CALM: calm})
    return TrendReport(found, {"": total, BROKEN: waiting}, marks)


def stats(succeeded: int, failed: int, *, wait: int, took: int) -> RunStats:
    """Runs whose waits and durations are around these bins."""
    runs = succeeded + failed
    waits = (*[0] * wait, runs * 6 // 10, runs * 3 // 10, runs // 10)
    durations = (*[0] * took, runs * 6 // 10, runs * 3 // 10, runs // 10)
    outcomes = {RunOutcome.SUCCEEDED: succeeded, RunOutcome.RETRIED: failed}
    return RunStats(outcomes, 0, 0, waits, durations) if runs else RunStats()


def incident() -> FakeBackend:
    """The sample with figures."""
    backend = sample()
    backend.figures.found = types()
    backend.figures.seen = trends()
    backend.processing = replace(backend.processing, paused_types=())
    return backend
