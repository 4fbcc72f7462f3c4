"""Follows the runs of the earlier runner and previews what a run here would do. It changes nothing.

A look reads the runs that have begun since the last one. Previews run one at a time on a thread of their own. If the
earlier runner begins runs faster than that, the oldest waiting ones are left out, so that the watch stays close to it.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from heapq import nlargest
from typing import TYPE_CHECKING, Final, Literal

from psycopg.errors import InsufficientPrivilege

from jobdeck.core.errors import InvalidPayload, JobFailure, Refused
from jobdeck.core.read import history, jobs
from jobdeck.core.read.batch import Query, one_moment, select
from jobdeck.core.worker.run_log import error_message
from jobdeck.core.worker.runs.preview import DENIED, effects

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Json
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.registry import JobType, Registry
    from jobdeck.core.settings import Settings

NO_PREVIEW: Final = "no preview"
SET_ASIDE: Final = "set aside: the type stays with the earlier runner"
STAYS: Final = "no handler here: the type stays with the earlier runner"
WAITS: Final = "no handler here: after the switch its jobs wait, unless the type is set aside"
MOST_WAITING: Final = 20
"""Maximum number of runs that wait for the preview."""
REMEMBERED: Final = 1_000
"""Number of tokens that are remembered: a claim may commit after another one whose tokens are higher."""
MOST_PER_LOOK: Final = 1_000
HAS_NOT: Final = (
    "The workers of Jobdeck have the queue, and this watches the earlier runner. "
    "`jobdeck cutover status` shows who takes the jobs."
)


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """One run of the earlier runner, which may have ended."""

    run_token: int
    job_id: UUID
    task_type: str
    payload: Json
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a run here would do: the effects that the preview found, or a sentence that says why there are none."""

    run: EarlierRun
    answer: Literal["effects", "no-preview", "no-handler", "set-aside", "refused", "would-fail", "preview-failed"]
    sentence: str | None = None
    effects: Json | None = None


def earlier_runs(*, after: int, but: Collection[int], limit: int) -> Query[tuple[EarlierRun, ...]]:
    """The runs of the earlier runner with a token above `after` that is not in `but`, lowest token first.

    A run that has ended is in the history and no longer in the queue, so both are read.
    """
    return select(
        """
        SELECT DISTINCT ON (run_token) run_token, job_id, task_type, payload, started_at
        FROM (
            SELECT run_token, id AS job_id, task_type, payload, started_at FROM job_list
            WHERE status = 'running' AND locked_by = competition_earlier_runner() AND run_token > %(after)s
            UNION ALL
            SELECT run_token, job_id, task_type, payload, started_at FROM job_run_list
            WHERE worker_id = competition_earlier_runner() AND run_token > %(after)s
        ) AS begun
        WHERE run_token <> ALL (%(but)s::bigint[]) ORDER BY run_token LIMIT %(limit)s
        """,
        {"after": after, "but": list(but), "limit": limit},
        read=lambda rows: tuple(EarlierRun(**row) for row in rows),
    )


def without_preview(run: EarlierRun, job_type: JobType | None, *, set_aside: bool) -> Foreseen | None:
    """The answer where it needs no preview; None where only the preview knows."""
    if job_type is None:
        return Foreseen(run, "no-handler", STAYS if set_aside else WAITS)
    if set_aside:
        return Foreseen(run, "set-aside", SET_ASIDE)
    try:
        job_type.parse(run.payload)
    except InvalidPayload as refusal:
        return Foreseen(run, "refused", str(refusal))
    except Exception as error:  # noqa: BLE001 -- a payload's own validator may raise anything
        return Foreseen(run, "would-fail", f"A run would fail: {error_message(error)}")
    return Foreseen(run, "no-preview", NO_PREVIEW) if job_type.preview is None else None


def with_preview(run: EarlierRun, job_type: JobType, *, settings: Settings, database: Database) -> Foreseen:
    """The answer of the type's preview. A preview that raises an exception gives its sentence."""
    try:
        found = effects(job_type, run.payload, settings=settings, database=database)
    except InsufficientPrivilege:
        return Foreseen(run, "preview-failed", DENIED)
    except JobFailure as failure:
        return Foreseen(run, "would-fail", f"A run would fail: {error_message(failure)}")
    except BaseException as error:  # noqa: BLE001 -- also SystemExit: a preview must not end the thread of all previews
        return Foreseen(run, "preview-failed", f"The preview failed: {error_message(error)}")
    return Foreseen(run, "effects", effects=found)


class Watch:
    """One watch over the earlier runner, for one thread: `begin` first, `end` last."""

    def __init__(
        self, database: Database, registry: Registry, settings: Settings, *, task_types: Collection[str] | None = None
    ) -> None:
        """Watches the runs of all types, or of `task_types`."""
        self.counts = Counter[str]()
        """The number of runs by type."""
        self._database = database
        self._registry = registry
        self._settings = settings
        self._task_types = task_types
        self._tokens: list[int] = []
        self._changed = threading.Condition()
        self._waiting: deque[tuple[EarlierRun, JobType]] = deque()
        self._answers: deque[Foreseen] = deque()
        self._previews_now = False
        self._left_out = 0
        self._over = False

    def begin(self) -> None:
        """Starts the watch: only runs that begin after this are shown.

        Raises:
            Refused: the workers have the queue.
        """
        with self._database.connection() as conn, one_moment(conn) as batch:
            switch = batch.add(jobs.processing())
            tokens = batch.add(history.newest_tokens(REMEMBERED))
        if switch().held_by is None:
            raise Refused(HAS_NOT)
        self._tokens = list(tokens())
        threading.Thread(target=self._preview_all, name="previews", daemon=True).start()

    def look(self) -> bool:
        """Reads the runs that began since the last look. Returns whether the earlier runner still has the queue.

        Raises:
            psycopg.Error: the database does not answer. The next look reads the runs that this one did not.
        """
        after = min(self._tokens) if len(self._tokens) == REMEMBERED else 0
        with self._database.connection() as conn, one_moment(conn) as batch:
            answer = batch.add(jobs.processing())
            begun = batch.add(earlier_runs(after=after, but=self._tokens, limit=MOST_PER_LOOK))
        switch, runs = answer(), begun()
        self._tokens = nlargest(REMEMBERED, [*self._tokens, *(run.run_token for run in runs)])
        aside = {one.task_type for one in switch.set_aside}
        for run in runs:
            if self._task_types is None or run.task_type in self._task_types:
                self._take(run, set_aside=run.task_type in aside)
        return switch.held_by is not None

    def answers(self) -> list[Foreseen]:
        """The answers since the last call."""
        with self._changed:
            found = list(self._answers)
            self._answers.clear()
        return found

    @property
    def left_out(self) -> int:
        """The number of runs that had to be left out until now."""
        return self._left_out

    @property
    def is_busy(self) -> bool:
        """Whether a preview runs or waits."""
        with self._changed:
            return self._previews_now or bool(self._waiting)

    def end(self) -> None:
        """Ends the previews. Runs without an answer are left out. A preview that hangs is not waited for."""
        with self._changed:
            self._over = True
            self._left_out += len(self._waiting) + self._previews_now
            self._waiting.clear()
            self._changed.notify()

    def _take(self, run: EarlierRun, *, set_aside: bool) -> None:
        self.counts[run.task_type] += 1
        job_type = self._registry.get(run.task_type)
        known = without_preview(run, job_type, set_aside=set_aside)
        with self._changed:
            if known is not None:
                self._answers.append(known)
            elif job_type is not None:
                self._waiting.append((run, job_type))
                if len(self._waiting) > MOST_WAITING:
                    self._waiting.popleft()
                    self._left_out += 1
                self._changed.notify()

    def _preview_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                if self._over:
                    return
                run, job_type = self._waiting.popleft()
                self._previews_now = True
            found = with_preview(run, job_type, settings=self._settings, database=self._database)
            with self._changed:
                self._previews_now = False
                if not self._over:
                    self._answers.append(found)
