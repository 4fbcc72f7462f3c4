"""Notifies admins of new messages in their conversations, with one notice for all since the last alert.

Messages wait in a queue that the database fills. A run claims a person's open messages and binds them to one notice,
so that no other run, now or after a crash, notifies the person twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from pydantic import Field, StrictBool

from jobdeck.core.programme import links
from jobdeck.core.programme.messaging import admin_alerts as alerts
from jobdeck.core.programme.messaging import outbox
from jobdeck.core.programme.messaging.outbox import Claimed, Decision, Intent, LeftOut
from jobdeck.core.programme.messaging.sending import (
    NOT_TAKEN,
    RESULTS,
    Minutes,
    Outlook,
    Role,
    Roles,
    Sending,
    one_line,
    pages,
    put,
    require_providers,
)
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, Payload

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import psycopg

    from jobdeck.core.programme.messaging.admin_alerts import Recipient
    from jobdeck.core.programme.resources import CompetitionContext
    from jobdeck.core.programme.settings import CompetitionSettings

Json = dict[str, Any]

KIND: Final = "admin_alert"
DEFAULT_WINDOW_MINUTES: Final = 60
PAGE: Final = 200
WAITING: Final = frozenset({"queued", "waiting", "in_flight"})
FOR_NOW: Final = frozenset({"window", "quiet_hours", "daily_cap"})
"""Verdicts with which the messages stay in the queue."""


def _admins() -> list[Role]:
    return ["admin"]


class Params(Payload):
    """Whom to notify, and how often."""

    dry_run: StrictBool = Field(False, description="Preview only; send and change nothing")
    coach_id: UUID | None = Field(None, description="Only this person")
    window_minutes: Minutes | None = Field(None, description="Minimum minutes between alerts to one person (unset: 60)")
    force: StrictBool = Field(False, description="Also send within that time")
    roles: Roles = Field(default_factory=_admins, description="Current roles of the people to notify: admin, coach")
    allow_sms: StrictBool = Field(False, description="Also send text messages, to people who want instant ones")


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the alerts a run would send, and the people left out by reason. Reads only the database."""
    outlook = Outlook(ctx)
    messages = count = 0
    for people in _pages(params, ctx):
        for one in alerts.look(ctx.db, people, roles=params.roles):
            count += 1
            if outlook.add(*_intents(one, params, ctx.resources.settings)):
                messages += one.messages
    return {
        "candidates": count,
        "messages": messages,
        "wouldDrop": alerts.outdated(ctx.db, roles=params.roles, person=params.coach_id),
        **outlook.facts(),
    }


# Runs may overlap, so that an urgent one need not wait for a long one. Claims keep them apart.
@job(
    "admin_alert_dispatch",
    label="Admin Instant Alerts",
    purpose="Batch admin email notifications",
    payload=Params,
    recurring=5,
    timeout=1800.0,
    preview=preview,
)
def run(params: Params, ctx: CompetitionContext) -> Done:
    """Notifies everyone with waiting messages.

    Raises:
        PermanentError: a setting is missing or refused.
        RetryLater: a provider asked for a pause or does not answer, or nothing was accepted.
    """
    if params.dry_run or ctx.dry_run:
        return Done({"dryRun": True, "sent": 0, "processedRecipients": 0, **preview(params, ctx)})
    links.require(ctx)
    require_providers(ctx, sms=params.allow_sms)
    outbox.sweep(ctx.db)
    with ctx.db.transaction():
        alerts.lock(ctx.db)
        alerts.settle(ctx.db)
        dropped = alerts.drop_outdated(ctx.db, roles=params.roles, person=params.coach_id)
    return _Dispatch(params, ctx, dropped).run()


def _pages(params: Params, ctx: CompetitionContext) -> Iterator[list[UUID]]:
    def read(last: UUID | None) -> list[UUID]:
        return alerts.waiting(ctx.db, roles=params.roles, person=params.coach_id, after=last, limit=PAGE)

    return pages(ctx, read, lambda person: person, PAGE)


def _intents(one: Recipient, params: Params, settings: CompetitionSettings) -> tuple[list[Intent], list[LeftOut]]:
    """The messages to send to a person, and the reasons for channels left out."""
    usable, obstacles = one.channels(settings, texts=params.allow_sms)
    batch = one.key.rsplit(":", 1)[-1] if one.key else str(uuid4())
    window = None if params.force else params.window_minutes or DEFAULT_WINDOW_MINUTES
    data = {"name": one_line(one.full_name, one.first_name, otherwise="Admin"), "messages": one.messages}
    intents = [
        Intent(KIND, channel, one.id, address, f"{KIND}:{channel}:{one.id}:{batch}", data, window)
        for channel, address in usable.items()
    ]
    return intents, [LeftOut(KIND, one.id, reason, channel) for channel, reason in obstacles.items()]


class _Dispatch:
    def __init__(self, params: Params, ctx: CompetitionContext, dropped: dict[str, int]) -> None:
        self._params = params
        self._ctx = ctx
        self._sending = Sending(ctx, self._after, what="alerts")
        self._dropped = dropped
        self._processed = 0
        self._sent = 0
        self._results: list[Json] = []

    def run(self) -> Done:
        self._send_left_texts()
        for people in _pages(self._params, self._ctx):
            counts: dict[UUID, int] = {}
            with self._ctx.db.transaction():
                alerts.lock(self._ctx.db)
                decisions: list[Decision] = []
                for one in alerts.claim(self._ctx.db, people, run_token=self._ctx.job.run_token):
                    decisions += self._decide(one)
                    counts[one.id] = one.messages
            self._processed += len(counts)
            self._send(decisions, counts)
        self._sending.raise_if_unfinished()
        return Done(self._output(), failed=self._sending.failed)

    def _decide(self, one: Recipient) -> list[Decision]:
        """Puts the notice of a person's claimed messages into the outbox and binds them to it, or drops them."""
        ctx, token = self._ctx, self._ctx.job.run_token
        intents, excluded = _intents(one, self._params, ctx.resources.settings)
        for each in excluded:
            self._sending.skip(each.reason)
        outbox.leave_out(ctx.db, excluded, job_id=ctx.job.id, run_token=token)
        decisions = put(ctx, intents)
        verdicts = [decision.verdict for decision in decisions]
        bound = next((each.id for each in decisions if each.verdict in WAITING and each.id is not None), None)
        if bound is not None:
            alerts.bind(ctx.db, one.id, bound, run_token=token)
        elif not FOR_NOW.intersection(verdicts):
            reason = verdicts[0] if verdicts else excluded[0].reason
            alerts.drop(ctx.db, one.id, reason, run_token=token)
            self._dropped[reason] = self._dropped.get(reason, 0) + one.messages
        return decisions

    def _send(self, decisions: Sequence[Decision], counts: Mapping[UUID, int]) -> None:
        for person, states in self._sending.send(decisions).items():
            sent = any(state not in NOT_TAKEN for state in states.values())
            self._sent += sent
            if len(self._results) < RESULTS:
                count = counts.get(person)
                self._results.append({"recipient": str(person), "sent": sent, "count": count, **states})

    def _send_left_texts(self) -> None:
        if not (self._params.allow_sms and self._ctx.resources.settings.sms_enabled and self._sending.is_open("sms")):
            return
        with self._ctx.db.transaction():
            left = alerts.left_texts(self._ctx.db, roles=self._params.roles, person=self._params.coach_id)
            decisions = put(self._ctx, left)
        self._send(decisions, {one.recipient: one.data["messages"] for one in left})

    def _after(self, conn: psycopg.Connection[Any], claimed: Claimed, state: str) -> None:
        if state != "queued":
            error = state if state in NOT_TAKEN else None
            alerts.noted(conn, claimed, job_id=self._ctx.job.id, error=error)
            alerts.settle(conn, claimed.id)

    def _output(self) -> Json:
        return {
            "dryRun": False,
            "sent": self._sent,
            "processedRecipients": self._processed,
            **self._sending.counts_by_channel(),
            "dropped": self._dropped,
            "results": self._results,
        }
