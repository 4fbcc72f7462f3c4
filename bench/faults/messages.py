"""The task type of a sweep that sends text messages, each at most once, through the competition's outbox."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from bench.faults.vendors import TEXT_TYPE, mobile, person
from jobdeck.core import settings
from jobdeck.core.errors import RetryLater
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.delivery import deliver
from jobdeck.core.programme.messaging.outbox import Claimed, Intent, Policy
from jobdeck.core.programme.resources import Resources
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors import Clients
from jobdeck.core.programme.vendors.sms import Sms
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Payload

if TYPE_CHECKING:
    from jobdeck.core.registry import JobContext

PAUSE_SECONDS = 2.0


class Text(Payload):
    """Which text: its number is in its words, and chooses the person who gets it."""

    number: int


@cache
def _resources() -> Resources:
    own = settings.load().of(CompetitionSettings)
    return Resources(own, Clients(own))


class _Context:
    """The run's context with the competition's resources, which only its own types get."""

    def __init__(self, ctx: JobContext) -> None:
        self.resources = _resources()
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def _render(message: Claimed) -> Sms:
    return Sms(message.address, str(message.data["words"]))


@job(TEXT_TYPE, payload=Text, max_attempts=50, retry_base=0.0)
def text(params: Text, ctx: JobContext) -> None:
    """Queues its text in the outbox and sends it, unless a run before this one did."""
    context: Any = _Context(ctx)
    words = f"text {params.number}"
    intent = Intent(
        "unread_alert", "sms", person(params.number), mobile(params.number), f"sweep {words}", {"words": words}
    )
    outbox.sweep(ctx.db)
    decisions = outbox.put(ctx.db, [intent], Policy(), job_id=ctx.job.id, run_token=ctx.job.run_token)
    deliver(context, decisions, _render)
    if decisions[0].verdict == "waiting":
        raise RetryLater(PAUSE_SECONDS, "The text waits for its next attempt.")
