"""Shared by the alert and probe jobs: payload fields, sending per channel, and the end of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from pydantic import Field

from jobdeck.core.errors import PermanentError, RetryLater
from jobdeck.core.programme.messaging import erased, outbox
from jobdeck.core.programme.messaging import templates as messaging_templates
from jobdeck.core.programme.messaging.delivery import RETRY_SECONDS, Delivery, deliver
from jobdeck.core.programme.messaging.outbox import Decision, LeftOut
from jobdeck.core.programme.vendors.email import Email
from jobdeck.core.programme.vendors.errors import ProviderConfigError, RateLimited
from jobdeck.core.programme.vendors.sms import Sms, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import psycopg

    from jobdeck.core.programme.messaging.delivery import After, Render
    from jobdeck.core.programme.messaging.outbox import Channel, Claimed, Intent
    from jobdeck.core.programme.messaging.templates import Body
    from jobdeck.core.programme.resources import CompetitionContext
    from jobdeck.core.programme.settings import CompetitionSettings

Json = dict[str, Any]
Role = Literal["coach", "admin"]
Roles = Annotated[list[Role], Field(min_length=1, max_length=2)]
Minutes = Annotated[int, Field(strict=True, ge=1, le=43_200)]
T = TypeVar("T")

SAMPLE: Final = 10
"""Maximum number of ids in a preview."""

RESULTS: Final = 25
"""Maximum number of people whose results an output lists."""

NOT_TAKEN: Final = frozenset({"queued", "failed", "uncertain"})
"""States after an attempt in which the provider is not known to have taken the message."""

CHANNELS: Final[tuple[Channel, ...]] = ("email", "sms")


@dataclass(frozen=True, slots=True)
class Reachable:
    """A person with addresses; `…_on` means that they want messages of this channel, `number` is E.164."""

    id: UUID
    full_name: str = field(repr=False)
    first_name: str = field(repr=False)
    email_on: bool
    email: str = field(repr=False)
    email_ok: bool
    sms_on: bool
    mobile: str = field(repr=False)
    number: str | None = field(repr=False)

    def channels(self, settings: CompetitionSettings, *, texts: bool) -> tuple[dict[Channel, str], dict[Channel, str]]:
        """The address of each usable channel, and the obstacle of mail and of texts that they want."""
        usable: dict[Channel, str] = {}
        obstacles: dict[Channel, str] = {}
        if not self.email_on:
            obstacles["email"] = "preference_off"
        elif not self.email_ok:
            obstacles["email"] = "invalid_email_format" if self.email else "no_address"
        else:
            usable["email"] = self.email
        if texts and settings.sms_wanted and self.sms_on and self.mobile:
            if not settings.sms_enabled:
                obstacles["sms"] = "no_provider"
            elif self.number is not None:
                usable["sms"] = self.number
            else:
                obstacles["sms"] = "invalid_phone"
        return usable, obstacles


def pages(
    ctx: CompetitionContext,
    read: Callable[[UUID | None], list[T]],
    id_of: Callable[[T], UUID],
    size: int,
    *,
    after: UUID | None = None,
) -> Iterator[list[T]]:
    """Pages of people in the order of their ids; `read` reads those after an id.

    Raises:
        Cancelled: the run was asked to stop.
    """
    while True:
        ctx.raise_if_cancelled()
        found = read(after)
        if found:
            yield found
        if len(found) < size:
            return
        after = id_of(found[-1])


def log_attempt(
    conn: psycopg.Connection[Any], claimed: Claimed, *, job_id: UUID, role: str, unread: int, error: str | None
) -> None:
    """Writes a finished attempt to the alert log."""
    conn.execute(
        """
        insert into alert_log (coach_id, channel, unread_count, error_text, job_id, outbox_id, role)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (claimed.recipient_ref, claimed.channel, unread, error, job_id, claimed.id, role),
    )


def require_providers(ctx: CompetitionContext, *, sms: bool) -> None:
    """Checks the providers' settings before anything is changed.

    Raises:
        SettingMissing: names the missing setting.
    """
    ctx.resources.clients.email.check()
    if sms and ctx.resources.settings.sms_enabled:
        ctx.resources.clients.sms.check()


def put(ctx: CompetitionContext, intents: Sequence[Intent], *, dry_run: bool = False) -> list[Decision]:
    """Records what this run is to send, as in `outbox.put`, within the limits of the settings.

    Addresses that were blocked or written to before they were erased are left out, but not in a preview.

    Raises:
        SettingMissing: people were erased, and this process does not have the key.
    """
    policy = outbox.Policy.of(ctx.resources.settings)
    run: Json = {"job_id": ctx.job.id, "run_token": ctx.job.run_token}
    barred = {} if dry_run else erased.verdicts(ctx.db, ctx.resources.settings, intents)
    free = [one for at, one in enumerate(intents) if at not in barred]
    decisions = iter(outbox.put(ctx.db, free, policy, dry_run=dry_run, **run))
    left_out = [
        LeftOut(intents[at].kind, intents[at].recipient, why, intents[at].channel) for at, why in barred.items()
    ]
    outbox.leave_out(ctx.db, left_out, **run)
    return [Decision(one, None, barred[at]) if at in barred else next(decisions) for at, one in enumerate(intents)]


def mail_sample(to: str, body: Body) -> Json:
    """A rendered mail for a preview; `to` is already masked."""
    return {"channel": "email", "to": to, "subject": body.subject, "text": body.text}


def one_line(*names: str | None, otherwise: str) -> str:
    """The first name that is not blank, on one line; `otherwise` if there is none."""
    return next((line for name in names if (line := " ".join((name or "").split()))), otherwise)


class Sending:
    """Sends the messages of one run. A channel that fails is closed for the rest of the run; the other continues.

    `after` gets the state of each message in the transaction that settles it, as in `delivery.deliver`. The messages
    are notices, unless `render` makes others.
    """

    def __init__(
        self,
        ctx: CompetitionContext,
        after: After,
        *,
        what: str,
        render: Render | None = None,
    ) -> None:
        self.total = Delivery()
        self.left_out: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self._ctx = ctx
        self._render = render or partial(notice, ctx.resources.settings)
        self._after = after
        self._what = what
        self._stopped: dict[str, RetryLater | ProviderConfigError] = {}
        self._waiting = 0
        self._states: dict[UUID, dict[str, str]] = {}

    def is_open(self, channel: Channel) -> bool:
        """Whether this run can still send messages of this channel."""
        return channel not in self._stopped

    @property
    def left_for_later(self) -> bool:
        """Whether some messages are to be tried again later."""
        return bool(self.total.retried or self._waiting)

    def skip(self, reason: str) -> None:
        """Counts a person whom the handler itself leaves out."""
        self.left_out[reason] += 1

    def send(self, decisions: Iterable[Decision]) -> Mapping[UUID, dict[str, str]]:
        """Sends what may be sent now; returns the states of the tried messages: by person, then by channel.

        Raises:
            Cancelled: the run was asked to stop.
            TemplateError: a template cannot be rendered.
        """
        self._states = {}
        kept = list(decisions)
        for decision in kept:
            if decision.verdict == "waiting":
                self._waiting += 1
            elif not decision.sendable:
                self.left_out[decision.verdict] += 1
        for channel in CHANNELS:
            due = [one for one in kept if one.sendable and one.intent.channel == channel]
            if due and self.is_open(channel):
                self._deliver(channel, due)
        return self._states

    def _deliver(self, channel: Channel, due: list[Decision]) -> None:
        try:
            done = deliver(self._ctx, due, self._render, self._settled)
        except (RetryLater, ProviderConfigError) as error:
            self._stopped[channel] = error
            self._ctx.log.warning("Channel %s is closed for this run: %s", channel, error)
        else:
            self.total.by_class.update(done.by_class)

    def _settled(self, conn: psycopg.Connection[Any], claimed: Claimed, state: str) -> None:
        self._after(conn, claimed, state)
        self.total.count(state, None)
        self._states.setdefault(claimed.recipient_ref, {})[claimed.channel] = state
        if state not in NOT_TAKEN:
            self.accepted[claimed.channel] += 1

    def counts(self) -> Json:
        """Counts for the output: messages by outcome, and people left out by reason."""
        return {
            "accepted": self.total.accepted,
            "retried": self.total.retried + self._waiting,
            "failed": self.total.failed,
            "uncertain": self.total.uncertain,
            "leftOut": dict(self.left_out),
        }

    def counts_by_channel(self) -> Json:
        """The same, and the messages that were accepted, by channel."""
        return {"emailSent": self.accepted["email"], "smsSent": self.accepted["sms"], **self.counts()}

    @property
    def failed(self) -> int:
        """Number of messages that failed or are uncertain."""
        return self.total.failed + self.total.uncertain

    def raise_if_unfinished(self) -> None:
        """Fails the run if a channel was closed, nothing was accepted, or messages are left for later.

        Raises:
            ProviderConfigError: a setting is missing or not accepted.
            PermanentError: the provider refuses such messages for every recipient.
            RetryLater: names what was sent, what was not, and when the job resumes.
        """
        stops = list(self._stopped.values())
        for stop in stops:
            if isinstance(stop, ProviderConfigError):
                raise stop
        if stops:
            raise self._with_counts(max((one for one in stops if isinstance(one, RetryLater)), key=_seconds))
        if self.total.attempted and not self.total.accepted and set(self.total.by_class) == {"payload_refused"}:
            raise PermanentError(
                f"None of {self.total.attempted} {self._what} was accepted: the provider refuses this kind of message. "
                "Correct the template or the sender's settings, then retry."
            )
        self.total.raise_if_all_failed(self._what)
        if self.left_for_later:
            raise RetryLater(
                RETRY_SECONDS,
                f"{self.total.accepted} {self._what} were sent, {self.total.retried + self._waiting} could not be "
                f"sent yet{self._why()}. The job resumes in {RETRY_SECONDS:.0f} s.",
            )

    def _why(self) -> str:
        words = ", ".join(f"{count} {word}" for word, count in sorted(self.total.by_class.items()))
        return f" ({words})" if words else ""

    def _with_counts(self, stop: RetryLater) -> RetryLater:
        message = f"{self.total.accepted} {self._what} were sent. {stop}"
        if isinstance(stop, RateLimited):
            return RateLimited(stop.seconds, f"{message} The job resumes in {stop.seconds:.0f} s.", code=stop.code)
        return RetryLater(stop.seconds, message)


def _seconds(stop: RetryLater) -> float:
    return stop.seconds


EXPENDABLE = ("name", "dashboard_url")
"""Values that are left out, one after the other, if a text does not fit one segment."""


def notice(settings: CompetitionSettings, message: Claimed | Intent) -> Email | Sms:
    """Renders a notice; uses `name` and `messages` (their number) of the message's data."""
    values = {
        "name": message.data["name"],
        "messages": message.data["messages"],
        "dashboard_url": f"{settings.app_base_url}/dashboard/messages",
        "organisation": settings.sendgrid_from_name,
    }
    templates = messaging_templates.of(settings)
    if message.channel == "email":
        body = templates.email(message.kind, values)
        return Email(message.address, body.subject, body.text, body.html, template_data=values)
    text = templates.sms(message.kind, values)
    for left_away in EXPENDABLE:
        if segments(text) > 1:
            values[left_away] = ""
            text = templates.sms(message.kind, values)
    return Sms(message.address, text)


class Outlook:
    """The preview of a notice job: what a run would send, and the people it would leave out by reason."""

    def __init__(self, ctx: CompetitionContext) -> None:
        self.would = dict.fromkeys(CHANNELS, 0)
        self.left_out: Counter[str] = Counter()
        self.first: list[str] = []
        self.sample: Json | None = None
        self._ctx = ctx

    def add(self, intents: Sequence[Intent], excluded: Sequence[LeftOut]) -> bool:
        """Adds people; returns whether a run would send any of these messages now."""
        decisions = put(self._ctx, intents, dry_run=True)
        self.left_out.update(one.reason for one in excluded)
        self.left_out.update(one.verdict for one in decisions if not one.sendable)
        due = [one.intent for one in decisions if one.sendable]
        for intent in due:
            self.would[intent.channel] += 1
        self.first = list(dict.fromkeys(self.first + [str(intent.recipient) for intent in due]))[:SAMPLE]
        if self.sample is None and due:
            self.sample = self._sample(due[0])
        return bool(due)

    def facts(self) -> Json:
        """What was added, for the output."""
        return {
            "wouldSend": self.would, "leftOut": dict(self.left_out), "first": self.first, "sample": self.sample,
        }  # fmt: skip

    def _sample(self, intent: Intent) -> Json:
        """The rendered notice: masked address, and the role instead of the person's name."""
        role = str(intent.data.get("role", "admin")).capitalize()
        made = notice(self._ctx.resources.settings, replace(intent, data=intent.data | {"name": role}))
        values = (intent.channel, intent.address)
        to = str(self._ctx.db.execute("select outbox_mask(%s, %s)", values).fetchall()[0][0])
        if isinstance(made, Sms):
            return {"channel": "sms", "to": to, "text": made.body}
        return mail_sample(to, messaging_templates.Body(made.subject, made.text, made.html))
