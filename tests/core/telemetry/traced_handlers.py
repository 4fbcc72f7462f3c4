"""An application that exports its spans, each as a line of JSON, into the file that TRACES_FILE names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

import jobdeck

WAIT_MS = 3_600_000
"""Longer than any test: what is exported before was exported because somebody flushed."""


class ToFile(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with Path(os.environ["TRACES_FILE"]).open("a", encoding="utf-8") as file:
            file.writelines(f"{os.getpid()} {one.to_json(indent=None)}\n" for one in spans)
        return SpanExportResult.SUCCESS


if "TRACES_FILE" in os.environ:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(ToFile(), schedule_delay_millis=WAIT_MS))
    trace.set_tracer_provider(provider)


class Params(jobdeck.Payload):
    note: str = ""


def inside(name: str) -> jobdeck.Done:
    with trace.get_tracer("application").start_as_current_span(f"inside {name}"):
        return jobdeck.Done({"pid": os.getpid()})


@jobdeck.job("traced_thread", payload=Params)
def in_thread(params: Params, ctx: jobdeck.JobContext) -> jobdeck.Done:
    return inside("thread")


@jobdeck.job("traced_loop", payload=Params)
async def on_loop(params: Params, ctx: jobdeck.AsyncJobContext) -> Any:
    return await asyncio.to_thread(inside, "loop")


@jobdeck.job("traced_process", payload=Params, isolation="process")
def in_process(params: Params, ctx: jobdeck.JobContext) -> jobdeck.Done:
    return inside("process")
