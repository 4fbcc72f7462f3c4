"""How a notice of waiting messages reads: by mail, or as a text of one part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobdeck.core import rendering
from jobdeck.core.clients.email import Email
from jobdeck.core.clients.sms import Sms, segments
from jobdeck.core.programme.messaging_sending import mail_sample, masked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobdeck.core.outbox import Channel, Intent, Kind
    from jobdeck.core.registry import JobContext
    from jobdeck.core.settings import Settings

Json = dict[str, Any]

EXPENDABLE = ("name", "dashboard_url")
"""What a text that is too long for one part does without, first one, then both."""


def notice(settings: Settings, kind: Kind, channel: Channel, address: str, data: Mapping[str, Any]) -> Email | Sms:
    """The message to somebody; of `data` it takes the name and how many messages wait."""
    values = {
        "name": data["name"],
        "messages": data["messages"],
        "dashboard_url": f"{settings.app_base_url}/dashboard/messages",
        "organisation": settings.sendgrid_from_name,
    }
    templates = rendering.of(settings)
    if channel == "email":
        body = templates.email(kind, values)
        return Email(address, body.subject, body.text, body.html, template_data=values)
    text = templates.sms(kind, values)
    for left_away in EXPENDABLE:
        if segments(text) > 1:
            values[left_away] = ""
            text = templates.sms(kind, values)
    return Sms(address, text)


def sample(ctx: JobContext, intent: Intent, name: str) -> Json:
    """A notice as a preview shows it: to a masked address, with a word in place of the person's name."""
    to = masked(ctx.db, intent.channel, intent.address)
    made = notice(ctx.settings, intent.kind, intent.channel, intent.address, intent.data | {"name": name})
    if isinstance(made, Sms):
        return {"channel": "sms", "to": to, "text": made.body}
    return mail_sample(to, rendering.Body(made.subject, made.text, made.html))
