"""Mails a campaign to its recipients, each at most once.

Recipients go out in batches, one request each. Before a request its recipients are put down as in flight, so that a
crash leaves behind exactly whom it is uncertain about; they are mailed again only on a person's word
(`campaign resume --include-uncertain`). Everyone else who is left is mailed by the next run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pydantic import Field, StrictBool

from jobdeck.core.errors import Cancelled, LeaseLost, PermanentError, RetryLater
from jobdeck.core.programme.messaging import campaigns, outbox, templates
from jobdeck.core.programme.messaging.batches import PROVIDER, Batches
from jobdeck.core.programme.messaging.delivery import LONGEST_WAIT, lease_seconds, pause, wait_for_place
from jobdeck.core.programme.vendors.email import Email
from jobdeck.core.programme.vendors.errors import PayloadRefused, ProviderConfigError, SettingMissing
from jobdeck.core.read import jobs
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Continue, Done, JobContext, Payload, job

if TYPE_CHECKING:
    from jobdeck.core.programme.messaging.campaigns import Mailed, Start
    from jobdeck.core.programme.vendors.email import EmailClient
    from jobdeck.core.registry import Admission
    from jobdeck.core.settings import Settings

Json = dict[str, Any]

AFTER_TROUBLE: Final = 20
"""Recipients in the first request of a run that follows a failed one; each that passes lets the next be larger."""

BUSY_PAUSE_SECONDS: Final = 60.0


class Params(Payload):
    """Which campaign to send, and how much of it."""

    campaign_id: UUID = Field(description="The campaign")
    dry_run: StrictBool = Field(False, description="Say what would be done; send and change nothing")
    coach_id: UUID | None = Field(None, description="Only this coach's competitors")
    batch_size: int | None = Field(None, strict=True, ge=1, le=1000, description="Recipients in one request")
    max_recipients: int | None = Field(None, strict=True, ge=1, description="Stop after this many")
    allow_without_unsubscribe: StrictBool = Field(
        False, description="Send although no unsubscribe group is set (SENDGRID_UNSUBSCRIBE_GROUP_ID)"
    )


def preview(params: Params, ctx: JobContext) -> Json:
    """What a run would do. Reads the database only; the provider is not asked anything."""
    words = campaigns.words(ctx.db, params.campaign_id)
    if words is None:
        raise PermanentError(_not_found(params.campaign_id))
    found = campaigns.outlook(ctx.db, params.campaign_id, params.coach_id)
    masked = found.pop("masked")
    body = _body(ctx.settings, words)
    due = min(found["wouldMail"], params.max_recipients or found["wouldMail"])
    size = params.batch_size or ctx.settings.campaign_batch_size
    return {
        "campaignId": str(params.campaign_id),
        **found,
        "wouldMail": due,
        "batches": -(-due // size),
        "unsubscribeGroup": ctx.settings.sendgrid_unsubscribe_group_id is not None,
        "sample": {"to": masked, "subject": body.subject, "text": body.text},
    }


def admit(params: Params, admission: Admission) -> dict[str, str]:
    """What keeps a job from being enqueued, by field."""
    problems: dict[str, str] = {}
    found = campaigns.find(admission.conn, params.campaign_id)
    if found is None:
        problems["campaignId"] = "there is no such campaign; `jobdeck campaign create` makes one"
    elif found.status == "draft":
        problems["campaignId"] = "it is a draft; `jobdeck campaign create` makes a campaign from its text"
    if not params.dry_run and _lacks_unsubscribe_group(params, admission.settings):
        problems["allowWithoutUnsubscribe"] = (
            "no unsubscribe group is set (SENDGRID_UNSUBSCRIBE_GROUP_ID); set it, or say true here"
        )
    return problems


# Runs of different campaigns may overlap: they share the provider's rate, and each campaign is held by one run at a
# time. Attempts are many, since a pause the provider asks for uses one up and loses nothing.
@job(
    "competitor_announcement_dispatch",
    label="Announcement Dispatch",
    purpose="Send bulk email campaign via SendGrid",
    payload=Params,
    timeout=3600.0,
    max_attempts=25,
    coach_filter=True,
    preview=preview,
    admit=admit,
)
def run(params: Params, ctx: JobContext) -> Done | Continue:
    """Mails everyone of the campaign who is still to be mailed.

    Raises:
        PermanentError: there is no such campaign, it needs a person's word, or a setting is missing or refused.
        RetryLater: another job is sending it, or the provider asked for a pause or left it open what it did.
        MessagingError: the provider does not answer; the queue tries again.
    """
    if params.dry_run or ctx.dry_run:
        return Done({"dryRun": True, **preview(params, ctx)})
    client = ctx.clients.email
    _require_unsubscribe_group(params, ctx.settings)
    outbox.sweep(ctx.db)
    start = campaigns.start(
        ctx.db, params.campaign_id, job_id=ctx.job.id, token=ctx.job.run_token, lease_seconds=_lease(ctx.settings)
    )
    if not start.taken:
        return _not_taken(params, ctx, start)
    return _Dispatch(params, ctx, client, start).run()


def _lacks_unsubscribe_group(params: Params, settings: Settings) -> bool:
    return settings.sendgrid_unsubscribe_group_id is None and not params.allow_without_unsubscribe


def _require_unsubscribe_group(params: Params, settings: Settings) -> None:
    if _lacks_unsubscribe_group(params, settings):
        raise SettingMissing(
            "A campaign is not sent without a way to unsubscribe. Set SENDGRID_UNSUBSCRIBE_GROUP_ID, or enqueue the "
            "job with allowWithoutUnsubscribe."
        )


def _not_taken(params: Params, ctx: JobContext, start: Start) -> Done:
    campaign = params.campaign_id
    if start.verdict == "busy":
        raise RetryLater(
            BUSY_PAUSE_SECONDS,
            f"Another job is sending campaign {campaign}. This one looks again in {BUSY_PAUSE_SECONDS:.0f} s.",
        )
    if start.verdict == "lost":
        raise LeaseLost(f"A later run of this job has taken campaign {campaign} over; this one stops.")
    refusals = {
        "not_found": _not_found(campaign),
        "draft": f"Campaign {campaign} is a draft. Create a campaign from it (`jobdeck campaign create`).",
        "failed": f"Campaign {campaign} failed with recipients left. `jobdeck campaign resume {campaign}` mails them.",
    }
    if start.verdict in refusals:
        raise PermanentError(refusals[start.verdict])
    reason = f"Nobody is left to mail; the campaign is {start.status}."
    output = _output(ctx, campaign, resumed=True)
    return Done(output | {"reason": reason}, failed=output["failed"] + output["uncertain"])


def _not_found(campaign: UUID) -> str:
    return f"There is no campaign {campaign}. Check campaignId; `jobdeck campaign create` makes one."


def _body(settings: Settings, words: tuple[str, str, str]) -> templates.Body:
    subject, markdown, html = words
    # From the text the admin wrote, so that HTML in it is shown and not carried out, whoever stored the campaign.
    made = templates.markdown(markdown) if markdown.strip() else html
    unsubscribe = settings.sendgrid_unsubscribe_group_id is not None
    return templates.announcement(templates.of(settings), subject, markdown, made, unsubscribe=unsubscribe)


def _lease(settings: Settings) -> float:
    return lease_seconds(settings) + settings.campaign_batch_pause_seconds + LONGEST_WAIT


def _output(ctx: JobContext, campaign: UUID, *, resumed: bool) -> Json:
    found = campaigns.stats(ctx.db, campaign)
    return {
        "campaignId": str(campaign),
        "total": found.total,
        "accepted": found.accepted,
        "skipped": found.skipped,
        "failed": found.of("failed"),
        "uncertain": found.of("uncertain"),
        "queued": found.of("queued"),
        "batches": campaigns.batches(ctx.db, campaign),
        "resumed": resumed,
    }


class _Dispatch:
    """One run that holds one campaign."""

    def __init__(self, params: Params, ctx: JobContext, client: EmailClient, start: Start) -> None:
        self._params = params
        self._ctx = ctx
        self._resumed = start.verdict == "resumed"
        body = _body(ctx.settings, (start.subject or "", start.body_markdown or "", start.body_html or ""))
        mail = Email(
            to="",
            subject=body.subject,
            text=body.text,
            html=body.html,
            categories=("announcement", f"campaign-{params.campaign_id}"),
            unsubscribe=True,
        )
        largest = params.batch_size or ctx.settings.campaign_batch_size
        first = min(largest, AFTER_TROUBLE) if ctx.job.attempt > 1 else largest
        self._batches = Batches(ctx, client, params.campaign_id, mail, size=first, largest=largest)

    def run(self) -> Done | Continue:
        try:
            finished = self._send()
        except LeaseLost:
            raise
        except Exception as error:
            self._let_go_after(error)
            raise
        if not finished:
            return self._step_aside()
        output = _output(self._ctx, self._params.campaign_id, resumed=self._resumed)
        self._let_go(
            f"{output['queued']} queued, {output['failed']} failed, {output['uncertain']} uncertain. "
            f"`jobdeck campaign resume {self._params.campaign_id}` goes on."
        )
        return Done(output, failed=output["failed"] + output["uncertain"])

    def _send(self) -> bool:
        """Sends until nobody is left (True), or processing is paused (False)."""
        first = True
        while self._room() > 0:
            self._ctx.raise_if_cancelled()
            if not first:
                if not self._processing():
                    return False
                pause(self._ctx, self._ctx.settings.campaign_batch_pause_seconds)
            first = False
            wait_for_place(self._ctx, PROVIDER, self._ctx.settings.email_rate_per_sec)
            batch = self._next()
            if not batch:
                break
            self._batches.send(batch)
            self._tell()
        return True

    def _room(self) -> int:
        most = self._params.max_recipients
        return self._batches.size if most is None else min(self._batches.size, most - self._batches.taken)

    def _processing(self) -> bool:
        switch = jobs.processing().run(self._ctx.db)
        return switch.enabled and all(one.task_type != self._ctx.job.task_type for one in switch.paused_types)

    def _next(self) -> list[Mailed]:
        held: Json = {
            "job_id": self._ctx.job.id,
            "token": self._ctx.job.run_token,
            "lease_seconds": _lease(self._ctx.settings),
        }
        batch = campaigns.next_batch(
            self._ctx.db, self._params.campaign_id, size=self._room(), coach=self._params.coach_id, **held
        )
        if not batch and not campaigns.hold(self._ctx.db, self._params.campaign_id, **held):
            raise LeaseLost(f"Another run has taken campaign {self._params.campaign_id} over; this one stops.")
        return batch

    def _tell(self) -> None:
        found = campaigns.stats(self._ctx.db, self._params.campaign_id)
        self._ctx.progress(found.total - found.of("queued") - found.of("sending"), found.total, "recipients")
        self._ctx.save_checkpoint({"accepted": found.accepted, "queued": found.of("queued")})

    def _step_aside(self) -> Continue:
        self._let_go("Processing is paused; the campaign goes on when it is resumed.")
        output = _output(self._ctx, self._params.campaign_id, resumed=self._resumed)
        return Continue({"accepted": output["accepted"], "queued": output["queued"]}, output=output)

    def _let_go_after(self, error: Exception) -> None:
        stopped = isinstance(error, Cancelled)
        told = "The run was told to stop." if stopped else safe_error(str(error), 500)
        final = isinstance(error, PayloadRefused) and not isinstance(error, ProviderConfigError)
        self._let_go(told, failed=final)

    def _let_go(self, reason: str, *, failed: bool = False) -> None:
        campaigns.release(
            self._ctx.db,
            self._params.campaign_id,
            job_id=self._ctx.job.id,
            token=self._ctx.job.run_token,
            status="failed" if failed else "partially_failed",
            reason=reason,
        )
