"""The competition as a plugin: every part by name, so that nothing is imported before it is used."""

from __future__ import annotations

from importlib import resources
from typing import Final

from jobdeck.core.plugins import (
    Checklist,
    Erasure,
    Page,
    PageAction,
    Period,
    Plugin,
    Preset,
    Search,
    TextField,
    Upkeep,
    lazy,
)
from jobdeck.core.programme.settings import CompetitionSettings

SYNC: Final = "game_platform_sync"
TOTALS: Final = "game_platform_totals_sweep"

_PAGES: Final = "jobdeck.core.programme.pages"
_SQL: Final = resources.files("jobdeck.core.programme") / "sql"

_REASON: Final = TextField("reason", "Reason, for the audit log", "e.g. asked on the phone, INC-123")
_SUPPRESSIONS: Final = Page(
    title="Suppressions",
    key="B",
    columns=("since", "by", "address", "why", "stops", "from"),
    query=lazy(f"{_PAGES}:suppressions"),
    search=Search(
        noun="person, kind or channel",
        plural="people, kinds and channels",
        find=lazy(f"{_PAGES}:find_suppressions"),
        hint="a person, an address, or a kind",
        empty="all blocked addresses",
    ),
    actions={
        "lift the block": PageAction(
            run=lazy(f"{_PAGES}:lift_block"),
            asks=(_REASON,),
            about=lazy(f"{_PAGES}:about_lifting"),
            command=lazy(f"{_PAGES}:lift_command"),
        ),
        "block an address": PageAction(
            run=lazy(f"{_PAGES}:block_address"),
            asks=(TextField("address", "E-mail address or phone number"), _REASON),
            about=lazy(f"{_PAGES}:about_blocking"),
            command=lazy(f"{_PAGES}:block_command"),
            on_row=False,
        ),
    },
    about="blocked addresses and numbers; block one, lift a block",
)
_SENT_TO: Final = Page(
    title="Sent To",
    key="U",
    columns=("sent", "kind", "to", "state", "event", "job"),
    query=lazy(f"{_PAGES}:sent_to"),
    search=Search(
        noun="person",
        plural="people",
        find=lazy(f"{_PAGES}:find_people"),
        hint="a name (competitors: the whole one), an address, or an id",
        empty="nobody",
    ),
    actions={
        "reveal the address": PageAction(
            run=lazy(f"{_PAGES}:reveal"),
            asks=(_REASON,),
            about=lazy(f"{_PAGES}:about_revealing"),
            command=lazy(f"{_PAGES}:reveal_command"),
            reveals=True,
        ),
    },
    about="mail and texts to a person, and what became of each",
)

plugin: Final = Plugin(
    name="competition",
    version=2,
    requires=("httpx", "sendgrid", "twilio", "jinja2", "markdown_it", "nh3"),
    sql_before=tuple(_SQL / f"{name}.sql" for name in ("adoption", "predecessor")),
    sql=tuple(
        _SQL / f"{name}.sql"
        for name in (
            "original",
            "tables",
            "outbox",
            "campaigns",
            "alerts",
            "events",
            "retention",
            "erasure",
            "people",
            "cutover",
            "roles",
        )
    ),
    handlers=("jobdeck.core.handlers",),
    settings=CompetitionSettings,
    resources=lazy("jobdeck.core.programme.resources:resources"),
    commands={
        "campaign": "jobdeck.core.programme.commands.campaign:campaign",
        "receipts": "jobdeck.core.programme.commands.receipts:receipts",
        "cutover": "jobdeck.core.programme.commands.cutover:cutover",
        "sent-to": "jobdeck.core.programme.commands.people:sent_to",
        "suppressions": "jobdeck.core.programme.commands.people:suppressions",
        "events": "jobdeck.core.programme.commands.receipts:events",
        "sandbox": "jobdeck.core.programme.commands.demo:sandbox",
    },
    endpoints=lazy("jobdeck.core.programme.webhooks:endpoints"),
    openapi=lazy("jobdeck.core.programme.webhooks:describe"),
    upkeep=(
        Upkeep(
            name="applying delivery events",
            every_seconds=60.0,
            run=lazy("jobdeck.core.programme.webhooks:apply_batch"),
        ),
        Upkeep(
            name="handing events on",
            every_seconds=30.0,
            run=lazy("jobdeck.core.programme.events.hand_on:hand_on_one"),
        ),
        Upkeep(
            name="pulling delivery events",
            every_seconds=60.0,
            run=lazy("jobdeck.core.programme.events.upkeep:pull_due"),
        ),
    ),
    retention=(
        Period("provider_events", 90, "Providers repeat their reports for days."),
        Period("provider_requests", 3, "Longer than SendGrid itself repeats a request."),
        Period("outbox_left_out", 30, "As long as the runs that left people out."),
        Period("admin_alert_queue", 90, "So that no admin is alerted twice about a message."),
    ),
    erase=Erasure(
        people={
            "competitor": "the id of a competitor",
            "profile": "the id of a coach or an admin",
            "email": "an address of one of them or of a parent",
            "phone": "a number of a coach or an admin",
        },
        run=lazy("jobdeck.core.programme.erasure:erase"),
    ),
    pages=(_SUPPRESSIONS, _SENT_TO),
    findings=lazy("jobdeck.core.programme.commands.doctor:findings"),
    checklists={
        "cutover": Checklist(
            help="Check what the cut-over from the original application needs.",
            run=lazy("jobdeck.core.programme.cutover.checklist:checklist"),
        )
    },
    changes=lazy("jobdeck.core.programme.cutover.changes:changes"),
    wording={
        "create campaign": "created campaigns",
        "resume campaign": "resumed campaigns",
        "pull events": "pulled events",
        "switch runner": "switched the runner",
        "stay": "ended the cut-over",
        "undo cut-over": "undid the cut-over",
        "block address": "blocked addresses",
        "lift block": "lifted blocks",
    },
    quiet_loggers=("twilio", "sendgrid", "python_http_client"),
    receipts=lazy("jobdeck.core.programme.commands.receipts:recipients"),
    demo=lazy("jobdeck.core.programme.commands.demo:demo_environment"),
    playbook=resources.files("jobdeck.core.programme") / "playbook.md",
    filters={"coach": "coachId"},
    searches={
        "coachId": Search(
            noun="coach",
            plural="coaches",
            find=lazy("jobdeck.core.programme.people:find_coaches"),
            hint="a part of a coach's name or school, or the beginning of an id",
            empty="all coaches",
        ),
        "campaignId": Search(
            noun="campaign",
            plural="campaigns",
            find=lazy("jobdeck.core.programme.people:find_campaigns"),
            hint="a part of a campaign's subject, its status, or the beginning of an id",
        ),
    },
    presets=(
        Preset(
            name="full",
            key="f",
            label="Full Sync",
            description="recent solves, then all aggregates, as two jobs",
            task_types=(SYNC, TOTALS),
            payload={"dryRun": False},
        ),
        Preset(
            name="incremental",
            key="i",
            label="Incremental Sync",
            description="recent solves, no aggregates",
            task_types=(SYNC,),
            payload={"dryRun": False},
        ),
        Preset(
            name="totals",
            key="t",
            label="Totals Sweep",
            description="aggregates of competitors that are flagged",
            task_types=(TOTALS,),
            payload={"dryRun": False},
        ),
    ),
)
