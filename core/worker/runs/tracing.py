"""Spans of runs, where traces are recorded: that of a run is the current one around its handler."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from jobdeck.core.logs import event
from jobdeck.core.queue import leases
from jobdeck.core.redact import safe_error
from jobdeck.core.telemetry import switch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.model import ClaimedJob
    from jobdeck.core.postgres.reconnecting import Link
    from jobdeck.core.settings import Settings
    from jobdeck.core.telemetry.recorder import Recorder
    from jobdeck.core.telemetry.spans import Origin
    from jobdeck.core.worker.context import RunContext

log = logging.getLogger(__name__)
NO_PROVIDER: Final = (
    "JOBDECK_OTEL is on, but no traces are recorded, because this process has no tracer provider. Start it by "
    "opentelemetry-instrument, or set a provider in a module of JOBDECK_HANDLERS."
)


def recorder_of(settings: Settings) -> Recorder | None:
    """What records the runs of a worker or of a process of its; None unless its settings ask for it.

    Raises:
        MissingExtra: they do, and OpenTelemetry is not installed.
    """
    recorder = switch.of(settings)
    if recorder is not None and not recorder.records:
        event(log, logging.WARNING, NO_PROVIDER)
    return recorder


def origins(recorder: Recorder | None, link: Link, jobs: Sequence[ClaimedJob]) -> Mapping[UUID, Origin]:
    """The spans that claimed jobs belong to. An error is logged: the jobs are run all the same."""
    if not jobs or recorder is None:
        return {}
    try:
        return link.run(lambda conn: leases.origins(conn, [job.id for job in jobs]))
    except Exception as error:  # noqa: BLE001 -- the jobs are claimed, and must be run or handed back
        event(log, logging.WARNING, "the traces of claimed jobs could not be read", error=safe_error(repr(error)))
        return {}


@contextmanager
def span(recorder: Recorder, context: RunContext, worker: str) -> Iterator[None]:
    """The span of a run; in a process of a worker, which has begun it, it is only made the current one.

    The code that stores the report of the run ends its span (`RunContext.span`).
    """
    begun = None
    if context.trace is None:
        try:
            begun = recorder.begin(context.job, worker, context.origin)
        except Exception as error:  # noqa: BLE001 -- samplers and processors are the application's
            event(log, logging.WARNING, "the span of a run could not be begun", error=safe_error(repr(error)))
            yield
            return
        context.span, context.trace = begun, begun.traceparent
    with recorder.within(context.trace, begun):
        yield
