"""`campaign`: creates, shows and resumes bulk mail to competitors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import (
    Group,
    Session,
    Words,
    command,
    dry_run_option,
    limit_option,
    shared_options,
    yes_option,
)
from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.programme.commands import receipts
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.queue.requests import draft

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    from jobdeck.core.model import Json, Ticket
    from jobdeck.core.programme.messaging.campaigns import Campaign, Outlook, Stats
    from jobdeck.core.programme.messaging.templates import Body

TASK_TYPE: Final = "competitor_announcement_dispatch"
LONGEST_BODY: Final = 512 * 1024
LONGEST_SUBJECT: Final = 200


@command("create")
@click.option("--subject", required=True, metavar="TEXT", help="The subject line.")
@click.option("--body", "source", required=True, metavar="FILE.md", help="The text, as Markdown in UTF-8.")
@click.option(
    "--audience",
    type=Words(["game_platform", "all"]),
    default="game_platform",
    help="Active competitors on the game platform, or all active ones.",
)
@click.option("--coach", metavar="ID", help="Only this coach's competitors.")
@click.option("--allow-without-unsubscribe", is_flag=True, help="Allow sending without an unsubscribe group.")
@click.option("--yes", is_flag=True, help="Create and send. Without this option only a preview is shown.")
@dry_run_option
def create(
    session: Session, subject: str, source: str, coach: str | None, yes: bool, dry_run: bool, **given: Any
) -> None:
    """Preview a campaign: recipients, exclusions, and the mail. With --yes, create it and its job."""
    from jobdeck.core.programme.messaging import campaigns  # noqa: PLC0415 -- imported on first use

    subject, text = _subject(subject), _text(source)
    coach_id = receipts.parse_id(coach, "--coach") if coach else None
    allowed = given["allow_without_unsubscribe"]
    _require_unsubscribe_group(session, allowed=allowed)
    body = _body(session, subject, text)
    with session.connection() as conn:
        outlook = campaigns.audience_outlook(conn, given["audience"], coach_id)
        if not outlook.recipients:
            raise Refused(f"The campaign has no recipients ({_reasons(outlook.excluded) or 'the audience is empty'}). "
                          "Choose another --audience or --coach.")  # fmt: skip
        made = None
        if yes and not dry_run:
            made = _create(session, conn, text=text, subject=subject, coach=coach_id, **given)
    session.answer(_created_json(outlook, body, made), _created_lines(outlook, body, made))


@command("show")
@click.argument("campaign", metavar="ID")
@click.option("--recipients", is_flag=True, help="List all recipients, with masked addresses and the last event.")
@limit_option(200, 100_000, "Maximum number of recipients listed.")
@click.option("--reveal", metavar="REASON", help="Show full addresses; access and reason are logged.")
def show(session: Session, campaign: str, recipients: bool, limit: int, reveal: str | None) -> None:
    """Show a campaign's status and its recipients by status."""
    from jobdeck.core.programme.messaging import campaigns, outbox  # noqa: PLC0415 -- imported on first use

    wanted = receipts.parse_id(campaign, "id")
    with session.connection() as conn:
        found = campaigns.find(conn, wanted)
        if found is None:
            raise Refused(f"There is no campaign {wanted}. Check the id.")
        stats = campaigns.stats(conn, wanted)
        rows = outbox.receipts(conn, campaign_id=wanted, limit=limit) if recipients or reveal is not None else []
        if reveal is not None:
            rows = receipts.revealed(conn, rows, actor=session.actor, reason=reveal, campaign_id=wanted)
    data: Json = {"campaign": found, "by_status": stats.by_status, "skipped": stats.skipped, "total": stats.total,
                  "opened": stats.opened, "clicked": stats.clicked}  # fmt: skip
    if recipients or reveal is not None:
        data["recipients"] = rows
    session.answer(data, [*_facts(found, stats), *output.section("Recipients", receipts.table(rows))])


@command("resume")
@click.argument("campaign", metavar="ID")
@click.option("--retry-failed", is_flag=True, help="Include recipients whom the provider refused.")
@click.option("--include-uncertain", is_flag=True, help="Include recipients who may already have got the mail.")
@click.option("--allow-without-unsubscribe", is_flag=True, help="Allow sending without an unsubscribe group.")
@dry_run_option
@yes_option
def resume(
    session: Session, campaign: str, retry_failed: bool, include_uncertain: bool, allow_without_unsubscribe: bool,
    dry_run: bool, yes: bool,
) -> None:  # fmt: skip
    """Mail the remaining recipients of a campaign in a new job."""
    from jobdeck.core.programme.messaging import campaigns  # noqa: PLC0415 -- imported on first use

    wanted = receipts.parse_id(campaign, "id")
    if include_uncertain and not (yes or dry_run):
        raise Refused("Uncertain recipients may get the mail twice. Add --yes to send anyway, or --dry-run.")
    _require_unsubscribe_group(session, allowed=allow_without_unsubscribe)
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        count = campaigns.reopen(
            conn, wanted, retry_failed=retry_failed, include_uncertain=include_uncertain, actor=session.actor
        )
        enqueued = _enqueue(session, conn, wanted, allowed=allow_without_unsubscribe)
    verb = "Would mail" if dry_run else "Mailing"
    session.answer(
        {"campaign": wanted, "recipients": count, "job": enqueued.job_id, "dry_run": dry_run},
        [f"{verb} {count} recipients of campaign {wanted} in job {enqueued.job_id}."],
    )


campaign = Group(
    "campaign",
    commands={"create": create, "show": show, "resume": resume},
    params=shared_options(),
    help="Create, show and resume bulk mail to competitors.",
)


def _create(
    session: Session, conn: psycopg.Connection[Any], *, subject: str, text: str, coach: UUID | None, **given: Any
) -> tuple[UUID, Ticket]:
    from jobdeck.core.programme.messaging import campaigns, templates  # noqa: PLC0415 -- imported on first use

    with conn.transaction():
        made = campaigns.create(
            conn,
            subject=subject,
            body_markdown=text,
            body_html=templates.markdown(text, templates.image_hosts(session.settings.of(CompetitionSettings))),
            audience=given["audience"],
            coach=coach,
            actor=session.actor,
        )
        return made, _enqueue(session, conn, made, allowed=given["allow_without_unsubscribe"])


def _enqueue(session: Session, conn: psycopg.Connection[Any], campaign_id: UUID, *, allowed: bool) -> Ticket:
    from jobdeck.core.queue import producer  # noqa: PLC0415 -- imported on first use

    payload: Json = {"campaignId": str(campaign_id)} | ({"allowWithoutUnsubscribe": True} if allowed else {})
    job = draft(session.registry, TASK_TYPE, payload)._replace(dedupe_key=f"campaign:{campaign_id}")
    return producer.enqueue(conn, job, actor=session.actor)


def _require_unsubscribe_group(session: Session, *, allowed: bool) -> None:
    if session.settings.of(CompetitionSettings).sendgrid_unsubscribe_group_id is None and not allowed:
        raise Refused(
            "Campaigns need an unsubscribe group. Set SENDGRID_UNSUBSCRIBE_GROUP_ID, or add "
            "--allow-without-unsubscribe."
        )


def _body(session: Session, subject: str, text: str) -> Body:
    from jobdeck.core.programme.messaging import templates  # noqa: PLC0415 -- imported on first use

    settings = session.settings.of(CompetitionSettings)
    group = settings.sendgrid_unsubscribe_group_id
    return templates.announcement(templates.of(settings), subject, text, unsubscribe=group is not None)


def _facts(found: Campaign, stats: Stats) -> list[str]:
    facts = output.facts(
        [
            ("Campaign", found.id),
            ("Subject", found.subject),
            ("Status", found.status),
            ("Reason", found.failed_reason),
            ("Sending now", "yes" if found.held else None),
            ("Job", found.dispatch_job_id),
            ("Created", f"{output.when(found.created_at)} {found.created_by_actor or ''}".strip()),
            ("Started", output.when(found.started_at)),
            ("Completed", output.when(found.completed_at)),
            ("Audience", found.audience),
            ("Coach", found.coach_id),
            ("Recipients", stats.total),
        ]
    )
    counts = [*sorted(stats.by_status.items()), *((f"skipped: {why}", n) for why, n in sorted(stats.skipped.items()))]
    return [*facts, *output.section("Recipients by status", output.facts(counts))]


def _subject(text: str) -> str:
    line = " ".join(text.split())
    if not line or len(line) > LONGEST_SUBJECT or not line.isprintable():
        raise UsageError(f"--subject must be one line of 1 to {LONGEST_SUBJECT} characters.")
    return line


def _text(source: str) -> str:
    try:
        text = Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The file {source} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UsageError(f"The file {source} is not UTF-8 text.") from None
    if not text.strip() or "\x00" in text:
        raise UsageError(f"The file {source} contains no text.")
    if len(text) > LONGEST_BODY:
        raise UsageError(f"The file {source} is longer than {LONGEST_BODY // 1024} KiB. Shorten the text.")
    return text


def _reasons(excluded: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(excluded.items()))


def _preview(body: Body) -> Json:
    """The mail as its author wrote it, so that it can be judged."""
    parts = {"subject": body.subject, "text": body.text, "html": body.html}
    return {name: part if part is None else output.Verbatim(part) for name, part in parts.items()}


def _created_json(outlook: Outlook, body: Body, made: tuple[UUID, Ticket] | None) -> Json:
    return {
        "created": made is not None,
        "campaign": made[0] if made else None,
        "job": made[1].job_id if made else None,
        "recipients": outlook.recipients,
        "minors": outlook.minors,
        "excluded": outlook.excluded,
        "samples": [{"competitor": person, "to": masked, **_preview(body)} for person, masked in outlook.sample],
    }


def _created_lines(outlook: Outlook, body: Body, made: tuple[UUID, Ticket] | None) -> list[str]:
    lines = output.facts(
        [
            ("Recipients", outlook.recipients),
            ("Minors among them", outlook.minors),
            *((f"Excluded: {reason}", count) for reason, count in sorted(outlook.excluded.items())),
        ]
    )
    for person, masked in outlook.sample:
        words = map(output.Verbatim, body.text.splitlines())
        lines += ["", f"To {masked} (competitor {person})", output.Verbatim(f"Subject: {body.subject}"), "", *words]
    if made is None:
        return [*lines, "", "Nothing was created. Add --yes to create the campaign and its job."]
    return [*lines, "", f"Campaign {made[0]} created; job {made[1].job_id} sends it."]
