"""Whether this process records traces and metrics. OpenTelemetry is imported only where `JOBDECK_OTEL` asks for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import require_extra
from jobdeck.core.settings import OtelSettings, asks_for_otel
from jobdeck.core.telemetry.spans import Sending

if TYPE_CHECKING:
    from jobdeck.core.telemetry.recorder import Recorder


_NOTHING: Final = nullcontext(Sending())


def of(settings: OtelSettings) -> Recorder | None:
    """What records the runs of a worker; None unless its settings ask for it.

    Raises:
        MissingExtra: they do, and OpenTelemetry's API is not installed.
    """
    return recorder() if settings.otel else None


def sending(task_type: str) -> AbstractContextManager[Sending]:
    """The span of an enqueue of one job or of many, which is the current one inside the block.

    Raises:
        ConfigurationError: `JOBDECK_OTEL` is wrong, or it is on and OpenTelemetry's API is not installed.
    """
    return recorder().sending(task_type) if _asked() else _NOTHING


@cache
def recorder() -> Recorder:
    """The process's recorder."""
    require_extra("OpenTelemetry, which JOBDECK_OTEL asks for,", "otel", "opentelemetry")
    from jobdeck.core.telemetry.recorder import Recorder  # noqa: PLC0415 -- only those have it who ask for it

    return Recorder()


_asked = cache(asks_for_otel)
