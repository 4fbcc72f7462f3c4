"""Job types with previews, for the tests of `jobdeck cutover watch`."""

from __future__ import annotations

from typing import Any, Final

from jobdeck.core.errors import PermanentError
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, JobContext, Payload

GATE: Final = 7_301
"""The advisory lock for which the preview of `cli_slow` waits."""


class Letter(Payload):
    to: str = "ada@example.org"
    copies: int = 1


def letter(params: Letter, _ctx: JobContext) -> dict[str, Any]:
    if params.copies == 0:
        raise PermanentError(f"Nothing would be sent to {params.to}.")
    return {"wouldSend": params.copies, "to": params.to}


def slow(_params: Letter, ctx: JobContext) -> dict[str, Any]:
    ctx.db.execute("SELECT pg_advisory_xact_lock_shared(%s)", (GATE,))
    return {}


@job("cli_letter", payload=Letter, preview=letter)
def send(params: Letter, ctx: JobContext) -> Done:
    return Done()


@job("cli_slow", payload=Letter, preview=slow)
def send_slowly(params: Letter, ctx: JobContext) -> Done:
    return Done()


@job("cli_plain", payload=Letter)
def send_plainly(params: Letter, ctx: JobContext) -> Done:
    return Done()
