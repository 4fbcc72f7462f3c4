"""What a run here would do with a job that the earlier runner has taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from psycopg.errors import InsufficientPrivilege

from jobdeck.core.errors import InvalidPayload, JobFailure
from jobdeck.core.worker.run_log import error_message
from jobdeck.core.worker.shadow.preview import DENIED, effects

if TYPE_CHECKING:
    from jobdeck.core.model import Json
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.read.report_types import EarlierRun
    from jobdeck.core.registry import JobType
    from jobdeck.core.settings import Settings

NO_PREVIEW: Final = "no preview"
SET_ASIDE: Final = "set aside: the type stays with the earlier runner"
STAYS: Final = "no handler here: the type stays with the earlier runner"
WAITS: Final = "no handler here: after the switch its jobs wait, unless the type is set aside"


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a run here would do: the effects that the preview found, or a sentence that says why there are none."""

    run: EarlierRun
    answer: Literal["effects", "no-preview", "no-handler", "set-aside", "refused", "would-fail", "preview-failed"]
    sentence: str | None = None
    effects: Json | None = None


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
