"""Judges the task types of which too many runs fail (`job_failing_types`, kept by the upkeep of workers)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.read.batch import Query, select

if TYPE_CHECKING:
    from jobdeck.core.read.rows import Row

SIGNAL: Final = "failures"
"""The signal of these findings. Each has the task type as its subject."""

TYPES: Final = """
SELECT f.*, t.muted_until, t.muted_by FROM job_failing_types AS f
LEFT JOIN job_types AS t ON t.task_type = f.task_type AND t.muted_until > now()
ORDER BY f.verdict, f.failed DESC, f.task_type
"""


def raised_alarms() -> Query[tuple[str, ...]]:
    """The names of the alarms that were raised and are not over."""
    return select("SELECT name FROM job_alarms ORDER BY name", read=lambda rows: tuple(row["name"] for row in rows))


def judge(types: list[Row]) -> list[Finding]:
    """A finding for each type of which too many runs fail. A muted one is no reason for an alarm, and says so."""
    return [Finding(SIGNAL, _verdict(one), _words(one), one["since"], subject=one["task_type"]) for one in types]


def _percent(share: float) -> str:
    """A share as a number of percent, with a decimal below 10."""
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def _verdict(one: dict[str, Any]) -> Verdict:
    return Verdict.OK if one["muted_until"] else Verdict(one["verdict"])


def _words(one: dict[str, Any]) -> str:
    if one["in_a_row"]:
        words = f"{one['task_type']}: the last {one['failed_in_a_row']:,} runs failed"
    elif one["runs"]:
        share, usual = _percent(one["failed"] / one["runs"]), _percent(one["usual"])
        counts = f"{one['failed']:,} of {one['runs']:,}, usually {usual}"
        # The share comes first, because 80 columns cut the end.
        words = f"{one['task_type']}: {share} of runs failed in the last 15 minutes ({counts})"
    else:
        words = f"{one['task_type']}: no run ended in the last 15 minutes; many had failed before"
    if one["calm_since"]:
        words += f"; below half of {_percent(one['threshold'])} since {one['calm_since']:%H:%M}Z"
    if one["muted_until"]:
        words += f"; muted by {one['muted_by']} until {one['muted_until']:%Y-%m-%d %H:%M}Z"
    return f"{words}."
