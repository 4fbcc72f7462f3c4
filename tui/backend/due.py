"""The jobs that a cycle of the worker could take now, counted by task type."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from jobdeck.tui.backend.protocol import Due

if TYPE_CHECKING:
    from collections.abc import Collection

    from jobdeck.core.read.report_types import Snapshot


def due_among(pending: Snapshot, handled: Collection[str]) -> Due:
    """The due jobs among the first pending ones, of types that are handled here, not paused and not blocked."""
    held = {pause.task_type for pause in pending.processing.paused_types}
    due = [job for job in pending.page.jobs if (job.next_run_at or job.run_at) <= pending.at]
    free = [job for job in due if job.task_type in handled and job.task_type not in held and job.blocked_by is None]
    counts = Counter(job.task_type for job in free)
    counted = pending.page.next is None or len(due) < len(pending.page.jobs)
    return Due(tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), counted)
