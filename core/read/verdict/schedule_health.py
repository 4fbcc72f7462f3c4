"""Judges cron series: whether they have slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.model import Finding, Verdict

if TYPE_CHECKING:
    from jobdeck.core.read.rows import Row

RUN_OUT: Final = """
SELECT count(*) AS series, min(updated_at) AS since, min(task_type) AS task_type FROM job_list
WHERE is_recurring AND status = 'pending' AND run_at >= '9999-12-30 00:00+00'
    AND updated_at < now() - interval '1 minute'
"""


def run_out(found: Row) -> list[Finding]:
    """A finding about series for which no worker has written slots, though it does so within seconds."""
    if not found["series"]:
        return []
    one = found["series"] == 1
    words = (
        f"{found['series']} recurring {'job has' if one else 'jobs have'} no next slot, such as {found['task_type']}: "
        "no worker has written any. `jobdeck why ID` says more."
    )
    return [Finding("slots", Verdict.WARNING, words, found["since"])]
