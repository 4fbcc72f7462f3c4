"""Records spans and metrics through OpenTelemetry's API, by its conventions for messaging.

The application configures what becomes of them; without that, the API does nothing. No payload, key, address or message
of an error is recorded: a span has the type, the job's id, the worker, the attempt, the outcome and the error's kind.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import context as current
from opentelemetry import metrics, trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from jobdeck.core.logs import event
from jobdeck.core.model import ClaimedJob, FinishedRun, RunOutcome, Ticket
from jobdeck.core.redact import safe_error
from jobdeck.core.telemetry.spans import Origin, Sending

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from uuid import UUID

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider


log = logging.getLogger(__name__)

SCOPE: Final = "jobdeck"
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_KIND: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,79}", re.ASCII)
_OTHER_KIND: Final = "_OTHER"
_RAN: Final = frozenset(map(RunOutcome, ("succeeded", "partial", "continued", "retried", "failed")))
"""Outcomes of runs whose handler came to an end; only these have a duration, as in the metrics for Prometheus."""
_WRONG: Final = frozenset(map(RunOutcome, ("retried", "failed", "lost", "abandoned")))
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300, 1800, 7200)
"""Bounds of the durations: those of the conventions, and longer ones."""


class Recorder:
    """Makes the spans of enqueues and runs, and counts both."""

    def __init__(self, tracers: TracerProvider | None = None, meters: MeterProvider | None = None) -> None:
        """Without providers, it uses those of the process, also such as are set later."""
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracers)
        self._tracers = tracers
        meter = metrics.get_meter(SCOPE, meter_provider=meters)
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Jobs that were enqueued.")
        self._runs = meter.create_counter("jobdeck.runs", "{run}", "Ended runs by outcome, without dry runs.")
        self._active = meter.create_up_down_counter("jobdeck.runs.active", "{run}", "Runs in flight.")
        self._seconds = meter.create_histogram(
            "messaging.process.duration", "s", "Time that runs took, without dry runs.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )  # fmt: skip
        self._flush = threading.Event()
        self._flusher: threading.Thread | None = None

    @property
    def records(self) -> bool:
        """Whether spans go anywhere by now: without a provider of the application, the API makes none."""
        return self._tracers is not None or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    @contextmanager
    def sending(self, task_type: str) -> Iterator[Enqueue]:
        """The span of an enqueue, which is the current one inside the block."""
        facts = _facts("send", task_type)
        with self._tracer.start_as_current_span(
            f"send {task_type}",
            kind=SpanKind.PRODUCER,
            attributes=facts,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            made = Enqueue(span, task_type)
            try:
                yield made
            except BaseException as error:
                _mark_wrong(span, type(error).__name__)
                raise
            for sent, number in made.sent.items():
                self._sent.add(number, _labels("send", sent))

    def begin(self, job: ClaimedJob, worker: str, origin: Origin) -> Run:
        """Begins the span of a run.

        It continues the trace that enqueued the job. A series has a trace for each run instead, with a link to that
        one, because it may run for years. A run also has a link to the one before, unless that succeeded.
        """
        producer, before = parsed(origin.producer), parsed(origin.run_before)
        links = [
            Link(found, {"jobdeck.link": what})
            for found, what in ((producer, "producer"), (before, "run_before"))
            if found is not None
        ]
        facts: dict[str, str | int] = {
            **_facts("process", job.task_type),
            "messaging.message.id": str(job.id),
            "messaging.client.id": worker,
            "jobdeck.attempt": job.attempt,
        }
        began = time.time_ns()
        span = self._tracer.start_span(
            f"process {job.task_type}",
            # Never the context of the thread that happens to run it.
            context=_within(None if job.is_recurring else producer),
            kind=SpanKind.CONSUMER,
            attributes=facts,
            links=links,
            start_time=began,
        )
        self._active.add(1, _labels("process", job.task_type))
        return Run(self, span, job.task_type, began)

    @contextmanager
    def within(self, traceparent: str | None, run: Run | None = None) -> Iterator[None]:
        """Makes a run's span the current one inside the block: its own object, or one of another process."""
        span = run.span if run is not None else None
        made = _within(parsed(traceparent)) if span is None else trace.set_span_in_context(span, current.Context())
        token = current.attach(made)
        try:
            yield
        finally:
            current.detach(token)

    def count(self, task_type: str, run: FinishedRun | None, recorded: RunOutcome | None) -> None:
        """Counts the end of a run, and its outcome if the database has recorded it."""
        self._active.add(-1, _labels("process", task_type))
        if run is None or recorded is None or run.dry_run:
            return
        labels = {**_labels("process", task_type), "jobdeck.outcome": recorded.value}
        self._runs.add(1, labels)
        if recorded in _RAN:
            self._seconds.record(max(run.finished - run.started, 0.0), labels)

    def flush_soon(self) -> None:
        """Has ended spans exported, in a thread of its own: for a process that may be killed while it is idle."""
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_always, name="spans", daemon=True)
            self._flusher.start()
        self._flush.set()

    def _flush_always(self) -> None:
        while self._flush.wait():
            self._flush.clear()
            provider = self._tracers or trace.get_tracer_provider()
            # The API's own provider, which does nothing, cannot be flushed.
            if (flush := getattr(provider, "force_flush", None)) is not None:
                try:
                    flush()
                except Exception as error:  # noqa: BLE001 -- an exporter of the application
                    event(log, logging.WARNING, "spans could not be exported", error=safe_error(repr(error)))


class Enqueue(Sending):
    """The recorded span of an enqueue."""

    def __init__(self, span: Span, task_type: str) -> None:
        self.traceparent = traceparent(span)
        self.sent: dict[str, int] = {}
        """How many jobs of each type were created."""
        self._span, self._task_type = span, task_type

    def enqueued(self, ticket: Ticket) -> Ticket:
        self.sent = {self._task_type: int(ticket.created)}
        self._span.set_attribute("messaging.message.id", str(ticket.job_id))
        return ticket

    def enqueued_many(self, ids: list[UUID]) -> list[UUID]:
        self._counted({self._task_type: len(ids)})
        return ids

    def enqueued_each(self, task_types: Iterable[str], flow_id: UUID | None = None) -> None:
        self._counted(Counter(task_types))
        if flow_id is not None:
            self._span.set_attribute("jobdeck.flow.id", str(flow_id))

    def _counted(self, sent: dict[str, int]) -> None:
        self.sent = sent
        self._span.set_attribute("messaging.batch.message_count", sum(sent.values()))


class Run:
    """The span of one run."""

    def __init__(self, recorder: Recorder, span: Span, task_type: str, began: int) -> None:
        self.span = span
        self.traceparent = traceparent(span)
        self._recorder = recorder
        self._task_type = task_type
        self._began = began

    def end(self, run: FinishedRun | None, recorded: RunOutcome | None) -> None:
        """Ends the span and counts the run. Never raises: the run has ended, whatever an exporter does."""
        try:
            self._end(run, recorded)
        except Exception as error:  # noqa: BLE001 -- processors and exporters are the application's
            event(log, logging.WARNING, "the span of a run could not be ended", error=safe_error(repr(error)))

    def _end(self, run: FinishedRun | None, recorded: RunOutcome | None) -> None:
        self._recorder.count(self._task_type, run, recorded)
        outcome = recorded or (run.outcome if run is not None else None)
        if outcome is not None:
            self.span.set_attribute("jobdeck.outcome", outcome.value)
            if outcome in _WRONG:
                _mark_wrong(self.span, (run.error_kind if run is not None else None) or outcome.value)
        # The report may be stored much later than the handler ended.
        took = max(run.finished - run.started, 0.0) if run is not None else None
        self.span.end(None if took is None else self._began + int(took * 1e9))


def traceparent(span: Span) -> str | None:
    """The span's context as W3C Trace Context has it; None for one that is not valid, as without an SDK."""
    found = span.get_span_context()
    if not found.is_valid:
        return None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def parsed(text: str | None) -> SpanContext | None:
    """The context that a `traceparent` names; None if it names none."""
    match = _TRACEPARENT.fullmatch(text or "")
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    found = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return found if found.is_valid else None


def _within(found: SpanContext | None) -> Context:
    nothing = current.Context()
    return nothing if found is None else trace.set_span_in_context(NonRecordingSpan(found), nothing)


def _labels(operation: str, task_type: str) -> dict[str, str]:
    return {
        "messaging.system": "jobdeck",
        "messaging.operation.name": operation,
        "messaging.destination.name": task_type,
    }


def _facts(operation: str, task_type: str) -> Mapping[str, str]:
    return {**_labels(operation, task_type), "messaging.operation.type": operation}


def _mark_wrong(span: Span, kind: str) -> None:
    """Marks a span as failed, with the kind of the error alone: a message may have personal data."""
    span.set_attribute("error.type", kind if _KIND.fullmatch(kind) else _OTHER_KIND)
    span.set_status(Status(StatusCode.ERROR))
