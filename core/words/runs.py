"""What commands, the hand-over and the dashboard say of runs, and of jobs that may have acted twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.read.runs.ran_twice import SAMPLED
from jobdeck.core.read.sentences import amount, outcome_words
from jobdeck.core.redact import harmless_json, scrub
from jobdeck.core.times import format_duration
from jobdeck.core.words.plain import when
from jobdeck.core.words.tables import Column, Seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.model import Run
    from jobdeck.core.read.runs.ran_twice import LostRuns, RanTwice, SameContent

NOTHING_LOST: Final = "No job may have acted twice: no run was lost."
HIDDEN: Final = "Payloads and outputs are hidden from this role, so jobs with the same content are not listed."
TROUBLED: Final = frozenset({"failed", "lost", "abandoned"})


def sent(run: Run) -> str | None:
    """What a run returned, masked; of a run that returned nothing, its error."""
    return harmless_json(scrub(run.output)) if run.output else run.error


def _ink(run: Run) -> str:
    return "bad" if run.outcome in TROUBLED else "warn" if run.outcome == "retried" else "text"


RUNS: Final[Sequence[Column[Run]]] = (
    Column("began", lambda run: when(run.started_at), cells=20, ink="muted", left=True),
    Column("took", lambda run: Seconds(run.duration.total_seconds()), cells=6, ink="muted", roomy=True),
    Column("outcome", lambda run: outcome_words(run.outcome, dry=run.dry_run), cells=10, ink=_ink, left=True),
    Column("job", lambda run: run.job_id.hex[-8:], cells=8, ink="muted", left=True),
    Column("task", lambda run: run.task_type, cells=20, left=True),
    Column("worker", lambda run: run.worker_id, cells=20, ink="muted", roomy=True, left=True),
    Column("sent", sent),
)
"""A run and what it returned, such as the ids of a vendor. The dashboard shows that in the room that is left."""


def _jobs(number: int, *, at_least: bool = False) -> str:
    return f"{amount(number, at_least=at_least)} {'job' if number == 1 and not at_least else 'jobs'}"


def lost_sentences(lost: LostRuns) -> list[str]:
    """What is known of the jobs of which a run was lost, and no more."""
    if not (lost.twice or lost.unclear or lost.alone):
        return [NOTHING_LOST]
    more = lost.at_least
    found = []
    if lost.twice:
        found.append(f"{_jobs(lost.twice, at_least=more)} may have acted twice: a run was lost or late after it began, "
                     "and another one began.")  # fmt: skip
    if lost.unclear:
        found.append(f"{_jobs(lost.unclear, at_least=more)} may have acted twice if a lost run had begun, which its "
                     "worker did not report.")  # fmt: skip
    if lost.alone:
        found.append(f"{_jobs(lost.alone, at_least=more)} lost a run and {'has' if lost.alone == 1 else 'have'} no "
                     "other.")  # fmt: skip
    return found


def sentences(found: RanTwice) -> list[str]:
    """The verdict, and what the other runs say."""
    said = lost_sentences(found.lost)
    if found.once:
        said.append(f"{_jobs(found.once)} {'has' if found.once == 1 else 'have'} one run that began.")
    if found.again:
        said.append(f"{_jobs(found.again)} ran more than once, and each run reported how it ended.")
    if found.counted_since is not None:
        said.append(f"Other jobs are counted among the newest {SAMPLED:,} runs, since {when(found.counted_since)}.")
    return said


def same_words(one: SameContent) -> str:
    """`order_mail: 2 jobs with the same content, …`, with the ids of the first ones. It is no verdict."""
    ids = ", ".join(job.hex[-8:] for job in one.job_ids)
    more = f" and {one.jobs - len(one.job_ids):,} more" if one.jobs > len(one.job_ids) else ""
    apart = format_duration(one.last_at - one.first_at)
    return f"{one.task_type}: {one.jobs:,} jobs within {apart}, the last at {when(one.last_at)}: {ids}{more}"
