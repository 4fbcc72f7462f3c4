"""The executor of a worker that records traces: it makes the span of a run the current one around its handler."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from jobdeck.core.logs import event
from jobdeck.core.queue import leases
from jobdeck.core.redact import safe_error
from jobdeck.core.telemetry import switch
from jobdeck.core.worker.executor import Executor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from uuid import UUID

    from jobdeck.core.model import ClaimedJob, FinishedRun, Json
    from jobdeck.core.postgres.reconnecting import Link
    from jobdeck.core.registry import AsyncJobContext, JobType, Registry
    from jobdeck.core.telemetry.recorder import Recorder
    from jobdeck.core.telemetry.spans import Origin
    from jobdeck.core.worker.context import RunContext, RunResources
    from jobdeck.core.worker.executor import OpenedOnLoop

log = logging.getLogger(__name__)
NO_PROVIDER: Final = (
    "JOBDECK_OTEL is on, but no traces are recorded, because this process has no tracer provider. Start it by "
    "opentelemetry-instrument, or set a provider in a module of JOBDECK_HANDLERS."
)


def executor_of(registry: Registry, resources: RunResources) -> Executor:
    """The executor of a worker or of a process of its; one that records traces if the settings ask for it.

    Raises:
        MissingExtra: they do, and OpenTelemetry is not installed.
    """
    recorder = switch.of(resources.settings)
    if recorder is None:
        return Executor(registry, resources)
    if not recorder.records:
        event(log, logging.WARNING, NO_PROVIDER)
    return TracedExecutor(registry, resources, recorder)


def origins(executor: Executor, link: Link, jobs: Sequence[ClaimedJob]) -> Mapping[UUID, Origin]:
    """The spans that claimed jobs belong to. An error is logged: the jobs are run all the same."""
    if not (jobs and isinstance(executor, TracedExecutor)):
        return {}
    try:
        return link.run(lambda conn: leases.origins(conn, [job.id for job in jobs]))
    except Exception as error:  # noqa: BLE001 -- the jobs are claimed, and must be run or handed back
        event(log, logging.WARNING, "the traces of claimed jobs could not be read", error=safe_error(repr(error)))
        return {}


class TracedExecutor(Executor):
    """Begins the span of each run; the code that stores its report ends it (`RunContext.span`)."""

    def __init__(self, registry: Registry, resources: RunResources, recorder: Recorder) -> None:
        super().__init__(registry, resources)
        self.recorder = recorder

    def run(self, job: ClaimedJob, context: RunContext | None = None) -> FinishedRun:
        """Runs one job as `Executor.run`; without a context, nothing is recorded."""
        if context is None:
            return super().run(job)
        with self._span(context):
            return super().run(job, context)

    async def run_async(self, context: RunContext, given: AsyncJobContext, opened: OpenedOnLoop) -> FinishedRun:
        """Runs one job as `Executor.run_async`."""
        with self._span(context):
            return await super().run_async(context, given, opened)

    def run_elsewhere(self, context: RunContext, work: Callable[[JobType], Json]) -> FinishedRun:
        """Runs one job as `Executor.run_elsewhere`."""
        with self._span(context):
            return super().run_elsewhere(context, work)

    @contextmanager
    def _span(self, context: RunContext) -> Iterator[None]:
        """The span of a run; in a process of a worker, which has begun it, it is only made the current one."""
        begun = None
        if context.trace is None:
            try:
                begun = self.recorder.begin(context.job, self.resources.worker_id, context.origin)
            except Exception as error:  # noqa: BLE001 -- samplers and processors are the application's
                event(log, logging.WARNING, "the span of a run could not be begun", error=safe_error(repr(error)))
                yield
                return
            context.span, context.trace = begun, begun.traceparent
        with self.recorder.within(context.trace, begun):
            yield
