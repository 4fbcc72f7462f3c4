"""Probes the addresses of minors' parents with a harmless mail; a bounce shows that a release form was not received.

Delivery events report the result of a probe, not this job. Each address is probed once for all its forms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field, StrictBool

from jobdeck.core.programme.messaging import outbox, templates
from jobdeck.core.programme.messaging import parent_probe as probes
from jobdeck.core.programme.messaging.outbox import Claimed, Decision, Intent, LeftOut
from jobdeck.core.programme.messaging.sending import (
    NOT_TAKEN,
    RESULTS,
    SAMPLE,
    Sending,
    mail_sample,
    put,
    require_providers,
)
from jobdeck.core.programme.vendors.email import Email
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import Done, Payload

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from jobdeck.core.programme.messaging.parent_probe import Due
    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]

KIND: Final = "parent_probe"
WAITING: Final = frozenset({"queued", "waiting", "in_flight"})
KNOWN: Final = frozenset({"sent", "uncertain"})
"""Verdicts for an address to which a probe has already been sent."""


class Params(Payload):
    """The number of addresses to probe, and the minimum age of a form."""

    dry_run: StrictBool = Field(False, description="Preview only; send and change nothing")
    limit: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = Field(
        None, description="Addresses per run (unset: PROBE_LIMIT)"
    )
    stale_hours: Annotated[float, Field(strict=True, ge=0, le=87_600, allow_inf_nan=False)] | None = Field(
        None, description="Minimum age of a form in hours (unset: PROBE_STALE_HOURS)"
    )


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the probes a run would send, and the forms skipped by reason. Reads only the database."""
    due = _due(params, ctx, ahead=True)
    skipped = probes.skips(ctx.db, stale_hours=_stale(params, ctx), most=ctx.resources.settings.probe_max_attempts)
    sample = mail_sample(due[0].masked, templates.of(ctx.resources.settings).email(KIND, _values(ctx))) if due else None
    return {
        "candidates": sum(len(one.forms) for one in due) + sum(skipped.values()),
        "wouldSend": {"email": len(due)},
        "skipped": sum(skipped.values()),
        "skippedReasons": skipped,
        "addressDiffers": sum(one.elsewhere for one in due),
        "first": [str(form) for one in due for form in one.forms][:SAMPLE],
        "sample": sample,
    }


@job(
    "release_parent_email_verification",
    label="Release Parent Email Verification",
    purpose="Verify parent emails for release forms",
    payload=Params,
    recurring=60,
    timeout=1800.0,
    concurrency="type",
    preview=preview,
)
def run(params: Params, ctx: CompetitionContext) -> Done:
    """Probes the addresses that are due.

    Raises:
        PermanentError: a setting is missing or refused.
        RetryLater: SendGrid asked for a pause or does not answer, or accepted nothing.
    """
    if params.dry_run or ctx.dry_run:
        found = preview(params, ctx)
        listed = [{"agreementId": form, "status": "dry_run"} for form in found["first"]]
        return Done(found | {"dryRun": True, "sent": 0, "results": listed})
    require_providers(ctx, sms=False)
    outbox.sweep(ctx.db)
    return _Probing(params, ctx).run()


def _stale(params: Params, ctx: CompetitionContext) -> float:
    return ctx.resources.settings.probe_stale_hours if params.stale_hours is None else params.stale_hours


def _due(params: Params, ctx: CompetitionContext, *, ahead: bool = False) -> list[Due]:
    return probes.due(
        ctx.db,
        stale_hours=_stale(params, ctx),
        most=ctx.resources.settings.probe_max_attempts,
        limit=params.limit or ctx.resources.settings.probe_limit,
        ahead=ahead,
    )


def _values(ctx: CompetitionContext) -> Json:
    return {"organisation": ctx.resources.settings.sendgrid_from_name}


class _Probing:
    def __init__(self, params: Params, ctx: CompetitionContext) -> None:
        self._params = params
        self._ctx = ctx
        self._sending = Sending(ctx, self._after, what="probes", render=self._make)
        self._skipped: dict[str, int] = {}
        self._results: list[Json] = []

    def run(self) -> Done:
        ctx = self._ctx
        with ctx.db.transaction():
            timed_out = probes.time_out(ctx.db)
            stale, most = _stale(self._params, ctx), ctx.resources.settings.probe_max_attempts
            probes.lock(ctx.db)
            adopted = probes.adopt(ctx.db, stale_hours=stale)
            probes.keep_skips(ctx.db, stale_hours=stale, most=most)
            self._skipped = probes.skips(ctx.db, stale_hours=stale, most=most)
            due = _due(self._params, ctx)
            decisions = self._decide(due)
        states = self._sending.send(decisions)
        for one, decision in zip(due, decisions, strict=True):
            self._list(one, states.get(one.competitor_id, {}).get("email"), decision.verdict)
        self._sending.raise_if_unfinished()
        output = {
            "dryRun": False,
            "candidates": sum(len(one.forms) for one in due) + sum(self._skipped.values()),
            "sent": self._sending.total.accepted,
            "skipped": sum(self._skipped.values()),
            "skippedReasons": self._skipped,
            "sharedProbe": adopted,
            "timedOut": timed_out,
            "addressDiffers": sum(one.elsewhere for one in due),
            **self._sending.counts(),
            "results": self._results,
        }
        return Done(output, failed=self._sending.failed)

    def _decide(self, due: Sequence[Due]) -> list[Decision]:
        """Puts the probes into the outbox and binds their forms to them, before the first one is sent."""
        ctx = self._ctx
        decisions = put(ctx, [self._intent(one) for one in due])
        for one, decision in zip(due, decisions, strict=True):
            if decision.id is not None and decision.verdict in WAITING | KNOWN:
                probes.bind(ctx.db, one, decision.id, again=one.key is not None)
            elif decision.verdict != "failed":
                probes.skip(ctx.db, one, decision.verdict)
            if one.elsewhere:
                ctx.log.warning("Form %s was sent to another address than the profile's current one.", one.forms[0])
        probes.retire(ctx.db)
        left_out = [LeftOut(KIND, None, reason, "email") for reason in self._skipped]
        outbox.leave_out(ctx.db, left_out, job_id=ctx.job.id, run_token=ctx.job.run_token)
        return decisions

    @staticmethod
    def _intent(one: Due) -> Intent:
        # The address is part of the key, so that a corrected address gets another probe.
        first = f"{KIND}:{one.forms[0]}:{one.address}"
        key = one.key or (first if one.attempt == 1 else f"{first}:{one.attempt}")
        data = {"agreement_id": str(one.forms[0]), "competitor_id": str(one.competitor_id)}
        return Intent(KIND, "email", one.competitor_id, one.address, key, data)

    def _list(self, one: Due, state: str | None, verdict: str) -> None:
        for form in one.forms[: RESULTS - len(self._results)]:
            if state is None:
                result = {"status": "skipped", "reason": verdict}
            elif state in NOT_TAKEN:
                result = {"status": "skipped", "reason": f"send_{state}"}
            else:
                result = {"status": "sent"}
            self._results.append({"agreementId": str(form), **result})

    def _make(self, claimed: Claimed) -> Email:
        body = templates.of(self._ctx.resources.settings).email(KIND, _values(self._ctx))
        ids = {name: str(claimed.data[name]) for name in ("agreement_id", "competitor_id")}
        return Email(claimed.address, body.subject, body.text, body.html, custom_args=ids)

    @staticmethod
    def _after(conn: psycopg.Connection[Any], claimed: Claimed, state: str) -> None:
        probes.noted(conn, claimed, state)
