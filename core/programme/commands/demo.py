"""`demo`: a separate database with sample data, sandbox vendors, and jobs that use them. `sandbox`: the vendors."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.demo.jobs import incident, set_thresholds, to_enqueue
from jobdeck.core.cli.session import Session, command
from jobdeck.core.cli.signals import stop_signals
from jobdeck.core.errors import Refused
from jobdeck.core.model import Filter, NewJob, Status
from jobdeck.core.programme.plugin import SYNC, TOTALS
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.queue.requests import draft

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from jobdeck.core.programme.sandbox.server import Sandbox
    from jobdeck.core.registry import Json, Registry
    from jobdeck.core.settings import Settings


ACTOR: Final = "the demo"
RECURRING: Final = {
    SYNC: 1,
    TOTALS: 15,
    "game_platform_flash_ctf_sync": 1440,
    "admin_alert_dispatch": 5,
    "sms_digest_processor": 60,
    "release_parent_email_verification": 60,
}
"""The recurring jobs of production, with intervals in minutes; only the sync runs more often than there."""

ONCE: Final = (
    "message_read_receipts_backfill",
    "game_platform_onboard_coaches",
    "game_platform_onboard_competitors",
    "game_platform_profile_refresh",
)
"""Task types that production runs on demand; the demo enqueues one of each, a few seconds apart."""
CAMPAIGN_TYPE: Final = "competitor_announcement_dispatch"
BETWEEN_ONCE: Final = timedelta(seconds=4)

ROUNDS: Final = tuple(timedelta(minutes=minutes) for minutes in (0, 2, 4, 7, 11))
BETWEEN_COACHES: Final = timedelta(seconds=8)
AROUND_THE_INCIDENT: Final = tuple(timedelta(seconds=seconds) for seconds in range(40, 280, 6))
"""From before the incident until its end, so that enough runs fail."""
MISSPELT: Final = "demo:misspelt"
MISSPELT_AFTER: Final = timedelta(seconds=5)
COMPETITION: Final[dict[str, Any]] = {
    "GAME_PLATFORM_RATE_PER_SECOND": 50.0,
    "SENDGRID_FROM_NAME": "Coach Dashboard",
    "SENDGRID_TEMPLATE_ID": None,
    "SENDGRID_SANDBOX_MODE": False,
    "TWILIO_MESSAGING_SERVICE_SID": None,
    "APP_BASE_URL": "https://dashboard.example.org",
    "QUIET_HOURS": "off",
}
"""Settings that the demo does not take from the environment, so that every message goes to the sandbox at once."""


@contextmanager
def demo_environment(settings: Settings, registry: Registry, *, calm: bool = False) -> Iterator[Settings]:
    """Starts the demo's database and vendors, and yields the settings to use them.

    `DATABASE_URL` is not used. Data of an earlier demo is kept and not duplicated. Unless it is `calm`, the game
    platform fails a minute after the start, for some minutes.

    Raises:
        EmbeddedPostgresError: Postgres is not installed or cannot be started.
    """
    from jobdeck.core.connect import open_database  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.programme.sandbox.sample import load  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.programme.sandbox.server import Sandbox  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.settings import state_folder  # noqa: PLC0415 -- imported on first use

    with Sandbox() as sandbox:
        changes: dict[str, Any] = {
            "database_url": None,
            "databases": {},
            "state_dir": state_folder(settings.state_dir) / "demo",
            "environment": "demo",
        }
        competition = CompetitionSettings(**{**sandbox.settings_env(), **COMPETITION})
        demo_settings = settings.model_copy(update=changes).having(competition)
        with open_database(demo_settings, application_name="jobdeck demo", embedded=True) as database:
            with database.connection() as conn:
                load(conn)
                enqueue_demo_jobs(conn, registry)
                if SYNC in registry:
                    set_thresholds(conn, SYNC, actor=ACTOR)
            with nullcontext() if calm else incident(partial(game_platform_failing, sandbox)):
                yield demo_settings


@contextmanager
def game_platform_failing(sandbox: Sandbox) -> Iterator[None]:
    """Every request to the game platform fails; the vendors of messages go on."""
    from jobdeck.core.programme.sandbox.metactf import PREFIX  # noqa: PLC0415 -- imported on first use

    rule = sandbox.rules.add(f"503:{PREFIX},retry-after=1")
    try:
        yield
    finally:
        sandbox.rules.remove(rule)


def enqueue_demo_jobs(conn: psycopg.Connection[Any], registry: Registry) -> None:
    """Enqueues the demo's jobs of the registered task types. A second call adds nothing."""
    from jobdeck.core.queue import leases, producer  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.read import jobs as read_jobs  # noqa: PLC0415 -- imported on first use

    now, _ = leases.next_due(conn, [])
    jobs = [
        draft(registry, task_type, {})._replace(
            recurrence_interval_minutes=minutes, dedupe_key=f"demo:every:{task_type}"
        )
        for task_type, minutes in RECURRING.items()
        if task_type in registry
    ]
    jobs += _once(registry, now)
    if SYNC in registry:
        jobs += _coach_syncs(registry, now)
        jobs += to_enqueue(conn, _syncs_around_the_incident(registry, now), actor=ACTOR)
        failed = read_jobs.page(Filter(status=Status.FAILED, task_type=SYNC)).run(conn).jobs
        jobs += [] if any(job.dedupe_key == MISSPELT for job in failed) else [_misspelt(now)]
    with conn.transaction():
        for job in jobs:
            producer.enqueue(conn, job, actor=ACTOR)


def _once(registry: Registry, now: datetime) -> Iterator[NewJob]:
    """One job of each type in `ONCE`, and one for the sample's campaign."""
    from jobdeck.core.programme.sandbox.messaging_sample import CAMPAIGN  # noqa: PLC0415 -- imported on first use

    payloads: dict[str, Json] = {task_type: {} for task_type in ONCE}
    payloads[CAMPAIGN_TYPE] = {"campaignId": str(CAMPAIGN)}
    for place, (task_type, payload) in enumerate(payloads.items()):
        if task_type in registry:
            yield draft(registry, task_type, payload)._replace(
                run_at=now + place * BETWEEN_ONCE,
                dedupe_key=f"demo:once:{task_type}",
            )


def _coach_syncs(registry: Registry, now: datetime) -> Iterator[NewJob]:
    """One-time syncs of each coach, spread over the first quarter of an hour."""
    from jobdeck.core.programme.sandbox import sample  # noqa: PLC0415 -- imported on first use

    for number, start in enumerate(ROUNDS):
        for place in range(sample.COACHES):
            yield draft(registry, SYNC, {"coachId": str(sample.coach(place).id)})._replace(
                run_at=now + start + place * BETWEEN_COACHES,
                dedupe_key=f"demo:round {number}:coach {place}",
            )


def _syncs_around_the_incident(registry: Registry, now: datetime) -> list[NewJob]:
    from jobdeck.core.programme.sandbox import sample  # noqa: PLC0415 -- imported on first use

    return [
        draft(registry, SYNC, {"coachId": str(sample.coach(number % sample.COACHES).id)})._replace(
            run_at=now + start, max_attempts=1
        )
        for number, start in enumerate(AROUND_THE_INCIDENT)
    ]


def _misspelt(now: datetime) -> NewJob:
    """An unvalidated job whose coach id lacks its last digit. It fails, and can be fixed with `edit` and `retry`."""
    from jobdeck.core.programme.sandbox import sample  # noqa: PLC0415 -- imported on first use

    return NewJob(
        SYNC,
        {"coachId": str(sample.coach(0).id)[:-1], "dryRun": False},
        run_at=now + MISSPELT_AFTER,
        dedupe_key=MISSPELT,
    )


@command("sandbox", logs=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="0 picks a free port.")
@click.option(
    "--fail", "rules", multiple=True, metavar="RULE", help="Inject a failure, such as 429:scores:3,retry-after=2."
)
def sandbox(session: Session, port: int, rules: tuple[str, ...]) -> int | None:
    """Serve the sandbox vendors on localhost until stopped. Prints the environment variables to use them."""
    from jobdeck.core.programme.sandbox.server import Sandbox  # noqa: PLC0415 -- imported on first use

    try:
        server = Sandbox(port, rules=rules)
    except OSError as error:
        raise Refused(f"Port {port} cannot be used ({error.strerror}). Choose another.") from None
    with stop_signals() as stop, server:
        variables = server.settings_env()
        session.answer(
            {"port": server.port, "environment": variables},
            [f"export {name}={value}" for name, value in variables.items()],
            revealed=True,
        )
        sys.stdout.flush()
        output.note("The sandbox runs until Ctrl-C or SIGTERM.")
        stop.wait()
    return 130 if stop.interrupted else None
