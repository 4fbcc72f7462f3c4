"""Notifies coaches of unread messages: one short notice by mail, and by text to those who want it.

A notice contains the number of messages, not their text. It is sent for unread messages without a notice so far, and
repeated once the window has passed; within a window nobody is notified twice of the same messages.
"""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pydantic import Field, StrictBool

from jobdeck.core.errors import PermanentError
from jobdeck.core.programme import links
from jobdeck.core.programme.messaging import digest, outbox
from jobdeck.core.programme.messaging.outbox import Channel, Claimed, Decision, Intent, LeftOut
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
from jobdeck.core.registry import Admission, Continue, Done, Payload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

    from jobdeck.core.programme.messaging.digest import Candidate
    from jobdeck.core.programme.resources import CompetitionContext
    from jobdeck.core.programme.settings import CompetitionSettings

Json = dict[str, Any]

KIND: Final = "unread_alert"
PAGE: Final = 500
UNTOLD: Final = frozenset({"preference_off", "no_address"})
"""Obstacles that are no trouble: somebody without any channel is left out as `no_channel`."""
RUN_SECONDS: Final = 600.0
"""A run hands over to the next one after this long."""


def _coaches() -> list[Role]:
    return ["coach"]


class Params(Payload):
    """Whom to notify, and how often."""

    dry_run: StrictBool = Field(False, description="Preview only; send and change nothing")
    coach_id: UUID | None = Field(None, description="Only this person")
    window_minutes: Minutes | None = Field(
        None, description="Minimum minutes between notices of the same messages (unset: ALERT_WINDOW_MINUTES)"
    )
    force: StrictBool = Field(False, description="Also send within the window; the daily caps apply")
    roles: Roles = Field(default_factory=_coaches, description="Roles to notify: coach, admin")
    allow_sms: StrictBool = Field(True, description="Also send text messages, to people who want them")


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the notices a run would send, and the people left out by reason. Reads only the database."""
    _refuse_forcing_everyone(params, ctx)
    outlook = Outlook(ctx)
    count = 0
    for people in _pages(params, ctx, None, ahead=True):
        count += len(people)
        outlook.add(*_intents(people, params, ctx))
    return {
        "candidates": count,
        **outlook.facts(),
    }


def admit(params: Params, admission: Admission) -> dict[str, str]:
    """Problems that prevent enqueueing, by payload field."""
    forced = _forces_everyone(params, recurring=admission.recurring)
    return {"force": "a recurring job with force needs a coachId, or every run would notify everyone"} if forced else {}


# One run at a time: a second run would find the same people, who are already notified.
@job(
    "sms_digest_processor",
    label="Coach Alert Digest",
    purpose="Batch SMS/email notifications to coaches",
    payload=Params,
    recurring=60,
    timeout=1800.0,
    concurrency="type",
    preview=preview,
    admit=admit,
)
def run(params: Params, ctx: CompetitionContext) -> Done | Continue:
    """Notifies everyone who is due, page by page.

    Raises:
        PermanentError: a setting is missing or refused, or a recurring job has `force` without a coach.
        RetryLater: a provider asked for a pause or does not answer, or nothing was accepted.
    """
    if params.dry_run or ctx.dry_run:
        return Done(_asked(params) | preview(params, ctx) | {"dryRun": True})
    _refuse_forcing_everyone(params, ctx)
    links.require(ctx)
    require_providers(ctx, sms=params.allow_sms)
    outbox.sweep(ctx.db)
    digest.forget_read(ctx.db)
    return _Digest(params, ctx).run()


def _forces_everyone(params: Params, *, recurring: bool) -> bool:
    return params.force and recurring and params.coach_id is None


def _refuse_forcing_everyone(params: Params, ctx: CompetitionContext) -> None:
    if _forces_everyone(params, recurring=ctx.job.is_recurring):
        raise PermanentError(
            "A recurring job with force would notify everyone at every run. Make it a one-time job, set coachId, or "
            "remove force."
        )


def _asked(params: Params) -> Json:
    return {"dryRun": False, "force": params.force, "roles": list(params.roles), "allowSms": params.allow_sms}


def _window(params: Params, settings: CompetitionSettings) -> int:
    return params.window_minutes or settings.alert_window_minutes


def _pages(
    params: Params, ctx: CompetitionContext, after: UUID | None, *, ahead: bool = False
) -> Iterator[list[Candidate]]:
    scope = digest.Scope(
        roles=params.roles,
        person=params.coach_id,
        grace_minutes=ctx.resources.settings.alert_grace_minutes,
        window_minutes=_window(params, ctx.resources.settings),
        zone=ctx.resources.settings.quiet_tz,
    )

    def read(last: UUID | None) -> list[Candidate]:
        with outbox.refusals():
            return digest.candidates(ctx.db, scope, after=last, limit=PAGE, ahead=ahead)

    return pages(ctx, read, attrgetter("id"), PAGE, after=after)


def _intents(
    people: Sequence[Candidate], params: Params, ctx: CompetitionContext
) -> tuple[list[Intent], list[LeftOut]]:
    """The messages to send to these people, and the people left out."""
    intents: list[Intent] = []
    excluded: list[LeftOut] = []
    for one in people:
        if one.held and not params.force:
            excluded.append(LeftOut(KIND, one.id, "window"))
            continue
        usable, obstacles = one.channels(ctx.resources.settings, texts=params.allow_sms)
        intents += [_intent(one, channel, address, params, ctx) for channel, address in usable.items()]
        told = {channel: reason for channel, reason in obstacles.items() if reason not in UNTOLD}
        excluded += [LeftOut(KIND, one.id, reason, channel) for channel, reason in told.items()]
        if not usable and not told:
            excluded.append(LeftOut(KIND, one.id, "no_channel"))
    return intents, excluded


def _intent(one: Candidate, channel: Channel, address: str, params: Params, ctx: CompetitionContext) -> Intent:
    fresh, notified = (one.email_fresh, one.email_told) if channel == "email" else (one.sms_fresh, one.sms_told)
    if params.force:
        about, window = f"force:{ctx.idempotency_key}", None
    else:
        # A message that already had a notice only gets a reminder: once a day, after the window has passed.
        about = one.day if notified else str(one.newest_message_id)
        window = _window(params, ctx.resources.settings)
        if fresh:
            # Somebody who has read everything of the last notice is notified of new messages at once. Notices sent
            # since the oldest of these messages still count, because another run may have just sent one.
            window = min(window, one.oldest_minutes) or None
    names = (one.full_name, one.first_name) if channel == "email" else (one.first_name, one.full_name.split(" ")[0])
    return Intent(
        KIND,
        channel,
        one.id,
        address,
        f"{KIND}:{channel}:{one.id}:{about}",
        {"name": one_line(*names, otherwise=one.role.capitalize()), "messages": one.unread, "role": one.role},
        window,
    )


class _Digest:
    def __init__(self, params: Params, ctx: CompetitionContext) -> None:
        self._params = params
        self._ctx = ctx
        self._sending = Sending(ctx, self._after, what="notices")
        self._candidates = 0
        self._attempted = 0
        self._successes = 0
        self._results: list[Json] = []

    def run(self) -> Done | Continue:
        found = self._ctx.checkpoint or {}
        left = bool(found.get("left"))
        hand_over_at = time.monotonic() + RUN_SECONDS
        for people in _pages(self._params, self._ctx, UUID(found["after"]) if found.get("after") else None):
            self._notify(people)
            if len(people) == PAGE and time.monotonic() >= hand_over_at:
                place = {"after": str(people[-1].id), "left": left or self._sending.left_for_later}
                return Continue(place, output=self._output())
        if found:
            self._ctx.save_checkpoint({})
        self._sending.raise_if_unfinished()
        if left:
            return Continue({}, delay=60.0, output=self._output())
        return Done(self._output(), failed=self._sending.failed)

    def _notify(self, people: Sequence[Candidate]) -> None:
        self._candidates += len(people)
        tried = self._sending.send(self._put(people))
        self._attempted += len(tried)
        self._successes += sum(any(state not in NOT_TAKEN for state in by.values()) for by in tried.values())
        for one in people:
            if one.id in tried and len(self._results) < RESULTS:
                self._results.append({"coachId": str(one.id), "unreadCount": one.unread, **tried[one.id]})

    def _put(self, people: Sequence[Candidate]) -> list[Decision]:
        ctx = self._ctx
        intents, excluded = _intents(people, self._params, ctx)
        intents = [intent for intent in intents if self._sending.is_open(intent.channel)]
        for one in excluded:
            self._sending.skip(one.reason)
        with ctx.db.transaction():
            digest.keep_numbers(ctx.db, {one.recipient: one.address for one in intents if one.channel == "sms"})
            decisions = put(ctx, intents)
            outbox.leave_out(ctx.db, excluded, job_id=ctx.job.id, run_token=ctx.job.run_token)
        return decisions

    def _after(self, conn: psycopg.Connection[Any], claimed: Claimed, state: str) -> None:
        if state != "queued":
            digest.noted(
                conn,
                claimed,
                job_id=self._ctx.job.id,
                role=claimed.data["role"],
                unread=claimed.data["messages"],
                error=state if state in NOT_TAKEN else None,
            )

    def _output(self) -> Json:
        return _asked(self._params) | {
            "candidates": self._candidates,
            "alertsAttempted": self._attempted,
            "successes": self._successes,
            "failures": self._attempted - self._successes,
            **self._sending.counts_by_channel(),
            "results": self._results,
        }
