"""Mails a campaign to its recipients, each at most once.

Each request mails one batch of recipients, which are marked as in flight before the request. After a crash exactly
these are uncertain, and they are mailed again only if a person decides so (`campaign resume --include-uncertain`).
The next run mails all other remaining recipients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pydantic import Field, StrictBool

from jobdeck.core.errors import Cancelled, LeaseLost, PermanentError, RetryLater
from jobdeck.core.programme.messaging import campaigns, erased, outbox, templates
from jobdeck.core.programme.messaging.campaigns import PROVIDER, Batches, Holder
from jobdeck.core.programme.messaging.delivery import LONGEST_WAIT, lease_seconds, pause, wait_for_place
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors.email import Email, EmailClient
from jobdeck.core.programme.vendors.errors import PayloadRefused, ProviderConfigError, SettingMissing
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.read import jobs
from jobdeck.core.redact import safe_error
from jobdeck.core.registry import Admission, Continue, Done, Payload

if TYPE_CHECKING:
    from jobdeck.core.programme.messaging.campaigns import Mailed, Start
    from jobdeck.core.programme.resources import CompetitionContext

Json = dict[str, Any]

AFTER_TROUBLE: Final = 20
"""Recipients in the first request of a run after a failed one; each successful request allows a larger one."""

BUSY_PAUSE_SECONDS: Final = 60.0


class Params(Payload):
    """Which campaign to send, and to how many recipients."""

    campaign_id: UUID = Field(description="The campaign")
    dry_run: StrictBool = Field(False, description="Preview only; send and change nothing")
    coach_id: UUID | None = Field(None, description="Only this coach's competitors")
    batch_size: int | None = Field(None, strict=True, ge=1, le=1000, description="Recipients per request")
    max_recipients: int | None = Field(None, strict=True, ge=1, description="Stop after this many recipients")
    allow_without_unsubscribe: StrictBool = Field(
        False, description="Send without an unsubscribe group (SENDGRID_UNSUBSCRIBE_GROUP_ID)"
    )


def preview(params: Params, ctx: CompetitionContext) -> Json:
    """Counts the mails and batches of a run. Reads only the database."""
    words = campaigns.words(ctx.db, params.campaign_id)
    if words is None:
        raise PermanentError(_not_found(params.campaign_id))
    found = campaigns.outlook(ctx.db, params.campaign_id, params.coach_id)
    masked = found.pop("masked")
    body = _body(ctx.resources.settings, words)
    due = min(found["wouldMail"], params.max_recipients or found["wouldMail"])
    size = params.batch_size or ctx.resources.settings.campaign_batch_size
    return {
        "campaignId": str(params.campaign_id),
        **found,
        "wouldMail": due,
        "batches": -(-due // size),
        "unsubscribeGroup": ctx.resources.settings.sendgrid_unsubscribe_group_id is not None,
        "sample": {"to": masked, "subject": body.subject, "text": body.text},
        "differs": _differences(ctx.resources.settings, words[1], body),
    }


def admit(params: Params, admission: Admission) -> dict[str, str]:
    """Problems that prevent enqueueing, by payload field."""
    problems: dict[str, str] = {}
    found = campaigns.find(admission.conn, params.campaign_id)
    if found is None:
        problems["campaignId"] = "there is no such campaign; create one with `jobdeck campaign create`"
    elif found.status == "draft":
        problems["campaignId"] = "the campaign is a draft; create one from its text with `jobdeck campaign create`"
    if not params.dry_run and _lacks_unsubscribe_group(params, admission.settings.of(CompetitionSettings)):
        problems["allowWithoutUnsubscribe"] = (
            "no unsubscribe group is set; set SENDGRID_UNSUBSCRIBE_GROUP_ID, or this field to true"
        )
    return problems


# Runs of different campaigns may overlap: they share the provider's rate limit, and only one run at a time can hold a
# campaign. Many attempts are allowed, because each pause that the provider asks for uses one up.
@job(
    "competitor_announcement_dispatch",
    label="Announcement Dispatch",
    purpose="Send bulk email campaign via SendGrid",
    payload=Params,
    timeout=3600.0,
    max_attempts=25,
    preview=preview,
    admit=admit,
)
def run(params: Params, ctx: CompetitionContext) -> Done | Continue:
    """Mails the remaining recipients of the campaign.

    Raises:
        PermanentError: the campaign does not exist or needs a person's decision, or a setting is missing or refused.
        RetryLater: another job is sending it, the provider asked for a pause, or a request has an unknown outcome.
        MessagingError: the provider does not answer; the queue retries the job.
    """
    if params.dry_run or ctx.dry_run:
        return Done({"dryRun": True, **preview(params, ctx)})
    client = ctx.resources.clients.email
    _require_unsubscribe_group(params, ctx.resources.settings)
    words = campaigns.words(ctx.db, params.campaign_id)
    if words is not None:
        _body(ctx.resources.settings, words)  # before the campaign is taken, so that a refused text leaves it free
    outbox.sweep(ctx.db)
    holder = Holder(ctx.db, params.campaign_id, ctx.job.id, ctx.job.run_token, _lease(ctx.resources.settings))
    start = holder.start()
    if not start.taken:
        return _not_taken(params, ctx, start)
    return _Dispatch(params, ctx, client, holder, start).run()


def _lacks_unsubscribe_group(params: Params, settings: CompetitionSettings) -> bool:
    return settings.sendgrid_unsubscribe_group_id is None and not params.allow_without_unsubscribe


def _require_unsubscribe_group(params: Params, settings: CompetitionSettings) -> None:
    if _lacks_unsubscribe_group(params, settings):
        raise SettingMissing(
            "Campaigns need an unsubscribe group. Set SENDGRID_UNSUBSCRIBE_GROUP_ID, or enqueue the job with "
            "allowWithoutUnsubscribe."
        )


def _not_taken(params: Params, ctx: CompetitionContext, start: Start) -> Done:
    campaign = params.campaign_id
    if start.verdict == "busy":
        raise RetryLater(
            BUSY_PAUSE_SECONDS,
            f"Another job is sending campaign {campaign}. This one is retried in {BUSY_PAUSE_SECONDS:.0f} s.",
        )
    if start.verdict == "lost":
        raise LeaseLost(f"A later run of this job has taken over campaign {campaign}; this run stops.")
    refusals = {
        "not_found": _not_found(campaign),
        "draft": f"Campaign {campaign} is a draft. Create a campaign from it (`jobdeck campaign create`).",
        "failed": f"Campaign {campaign} failed. Mail the others with `jobdeck campaign resume {campaign}`.",
    }
    if start.verdict in refusals:
        raise PermanentError(refusals[start.verdict])
    reason = f"No recipients are left to mail; the campaign is {start.status}."
    output = _output(ctx, campaign, resumed=True)
    if output["failed"] or output["uncertain"]:
        reason += (
            f" Mail those that failed with `jobdeck campaign resume {campaign}`; --include-uncertain also mails the "
            f"uncertain ones."
        )
    return Done(output | {"reason": reason}, failed=output["failed"] + output["uncertain"])


def _not_found(campaign: UUID) -> str:
    return f"There is no campaign {campaign}. Check campaignId, or create one with `jobdeck campaign create`."


def _body(settings: CompetitionSettings, words: tuple[str, str]) -> templates.Body:
    unsubscribe = settings.sendgrid_unsubscribe_group_id is not None
    return templates.announcement(templates.of(settings), *words, unsubscribe=unsubscribe)


def _differences(settings: CompetitionSettings, text: str, body: templates.Body) -> list[str]:
    return templates.differences(text, body, templates.image_hosts(settings))


def _lease(settings: CompetitionSettings) -> float:
    return lease_seconds(settings) + settings.campaign_batch_pause_seconds + LONGEST_WAIT


def _output(ctx: CompetitionContext, campaign: UUID, *, resumed: bool) -> Json:
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
    def __init__(
        self, params: Params, ctx: CompetitionContext, client: EmailClient, holder: Holder, start: Start
    ) -> None:
        self._params = params
        self._ctx = ctx
        self._holder = holder
        self._resumed = start.verdict == "resumed"
        text = start.body_markdown or ""
        body = _body(ctx.resources.settings, (start.subject or "", text))
        self._differs = _differences(ctx.resources.settings, text, body)
        mail = Email(
            to="",
            subject=body.subject,
            text=body.text,
            html=body.html,
            categories=("announcement", f"campaign-{params.campaign_id}"),
            unsubscribe=True,
        )
        largest = params.batch_size or ctx.resources.settings.campaign_batch_size
        first = min(largest, AFTER_TROUBLE) if ctx.job.attempt > 1 else largest
        self._batches = Batches(ctx, client, params.campaign_id, mail, size=first, largest=largest)

    def run(self) -> Done | Continue:
        try:
            erased.skip_recipients(self._ctx.db, self._ctx.resources.settings, self._params.campaign_id)
            finished = self._send()
        except LeaseLost:
            raise
        except Exception as error:
            self._release_after(error)
            raise
        if not finished:
            return self._yield_to_pause()
        output = _output(self._ctx, self._params.campaign_id, resumed=self._resumed)
        self._release(
            f"{output['queued']} queued, {output['failed']} failed, {output['uncertain']} uncertain. "
            f"Continue with `jobdeck campaign resume {self._params.campaign_id}`."
        )
        return Done(output | {"differs": self._differs}, failed=output["failed"] + output["uncertain"])

    def _send(self) -> bool:
        """Sends batches until no recipient is left (True) or processing is paused (False)."""
        first = True
        while self._room() > 0:
            self._ctx.raise_if_cancelled()
            if not first:
                if not self._processing():
                    return False
                pause(self._ctx, self._ctx.resources.settings.campaign_batch_pause_seconds)
            first = False
            wait_for_place(self._ctx, PROVIDER, self._ctx.resources.settings.email_rate_per_sec)
            batch = self._next()
            if not batch:
                break
            self._batches.send(batch)
            self._save_progress()
        return True

    def _room(self) -> int:
        most = self._params.max_recipients
        return self._batches.size if most is None else min(self._batches.size, most - self._batches.taken)

    def _processing(self) -> bool:
        switch = jobs.processing().run(self._ctx.db)
        return switch.enabled and self._ctx.job.task_type not in switch.held_types

    def _next(self) -> list[Mailed]:
        batch = self._holder.next_batch(self._room(), self._params.coach_id)
        if not batch and not self._holder.hold():
            raise LeaseLost(f"Another run has taken over campaign {self._params.campaign_id}; this run stops.")
        return batch

    def _save_progress(self) -> None:
        found = campaigns.stats(self._ctx.db, self._params.campaign_id)
        self._ctx.progress(found.total - found.of("queued") - found.of("sending"), found.total, "recipients")
        self._ctx.save_checkpoint({"accepted": found.accepted, "queued": found.of("queued")})

    def _yield_to_pause(self) -> Continue:
        self._release("Processing is paused; the campaign continues when it is resumed.")
        output = _output(self._ctx, self._params.campaign_id, resumed=self._resumed)
        return Continue({"accepted": output["accepted"], "queued": output["queued"]}, output=output)

    def _release_after(self, error: Exception) -> None:
        stopped = isinstance(error, Cancelled)
        reason = "The run was asked to stop." if stopped else safe_error(str(error), 500)
        final = isinstance(error, PayloadRefused) and not isinstance(error, ProviderConfigError)
        self._release(reason, failed=final)

    def _release(self, reason: str, *, failed: bool = False) -> None:
        self._holder.release("failed" if failed else "partially_failed", reason)
