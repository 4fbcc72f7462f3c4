"""`demo`: a separate database with demo jobs. A plugin can bring its own demo."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core.cli.commands.look.status import answer_status
from jobdeck.core.cli.commands.run.workers import CONNECTIONS_BESIDE_HANDLERS, run_until_stopped
from jobdeck.core.cli.demo.jobs import incident, set_thresholds, to_enqueue
from jobdeck.core.cli.session import Session, command
from jobdeck.core.cli.signals import Stop, stop_signals
from jobdeck.core.connect import open_database
from jobdeck.core.errors import UsageError
from jobdeck.core.model import NewJob
from jobdeck.core.plugins import load_plugins
from jobdeck.core.queue import operator, producer
from jobdeck.core.read import jobs
from jobdeck.core.settings import Settings, state_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg


ACTOR: Final = "the demo"
HANDLERS: Final = "jobdeck.core.cli.demo.jobs"
INVOICES: Final = ("ada", "grace", "edsger", "barbara")
BETWEEN_INVOICES: Final = timedelta(seconds=20)
PHOTO_TYPE: Final = "demo_resize_photos"
PHOTOS: Final = tuple(timedelta(minutes=minutes) for minutes in (0, 0, 0, 2, 4, 7, 11))
"""Several are due at once, and one of this type runs at a time, so the others wait for its place."""
SUPPLIERS: Final = {"Northwind": 600, "Contoso": 450}
SERIES: Final = {"demo_check_links": 1, "demo_sync_stock": 5, "demo_back_up": 60}
"""The series and their intervals in minutes."""
CLOSING: Final = ("demo_collect_sales", "demo_render_report", "demo_publish_report")
"""The steps of a flow, each of which waits for the one before."""
NEWSLETTER: Final = "demo_send_newsletter"
READERS: Final = ("customers", "suppliers", "staff", "press")
MAINTENANCE: Final = "the mail provider is under maintenance"
MAINTAINED: Final = timedelta(hours=1)
LEAST_CONCURRENCY: Final = 8
"""So that the jobs that run for minutes leave places for the others."""
WRONG_AFTER: Final = timedelta(seconds=5)
PUSHES: Final = "demo_push_webhook"
ORDERS: Final = range(1001, 1301)
BETWEEN_ORDERS: Final = timedelta(seconds=3)


@command("demo", logs=True)
@click.option(
    "--headless",
    "seconds",
    type=click.FloatRange(1, 86_400),
    metavar="SECONDS",
    help="Run without a terminal for SECONDS.",
)
@click.option("--calm", is_flag=True, help="Without the incident that begins after a minute.")
def demo(session: Session, seconds: float | None, calm: bool) -> int | None:
    """Run Jobdeck on demo data. With --headless, print the status at the end."""
    if session.database_url:
        raise UsageError("The demo uses its own database. Omit --database-url.")
    if seconds is None:
        raise UsageError(
            "On a terminal, `jobdeck demo` or `./run demo` opens the dashboard. "
            "Without one, give the number of seconds to run: --headless 40."
        )
    with stop_signals() as stop, demo_environment(session.settings, calm=calm) as settings:
        _work(session, settings, stop, seconds)
    return 130 if stop.interrupted else None


@contextmanager
def demo_environment(settings: Settings, *, calm: bool = False) -> Iterator[Settings]:
    """Prepares the demo of a plugin, else the queue's own, and yields the settings that point at it.

    `DATABASE_URL` is not touched. Jobs of an earlier demo are kept, and not enqueued twice. Unless it is `calm`, a
    vendor stand-in of this process fails a minute after the start, for some minutes.

    Raises:
        EmbeddedPostgresError: no Postgres is installed, or it does not start.
    """
    from jobdeck.core import registry  # noqa: PLC0415 -- imported on first use

    shown = next((plugin.demo for plugin in load_plugins() if plugin.demo), None)
    known = registry.load(settings.handler_modules)
    with shown(settings, known, calm=calm) if shown else _own_demo(settings, calm=calm) as demo_settings:
        yield demo_settings


@contextmanager
def _own_demo(settings: Settings, *, calm: bool) -> Iterator[Settings]:
    from jobdeck.core.cli.demo.jobs import shop  # noqa: PLC0415 -- imported on first use

    changes: dict[str, Any] = {
        "database_url": None,
        "databases": {},
        "state_dir": state_folder(settings.state_dir) / "demo-queue",
        "environment": "demo",
        "concurrency": max(settings.concurrency, LEAST_CONCURRENCY),
        "handlers": ",".join([*settings.handler_modules, HANDLERS]),
    }
    demo_settings = settings.model_copy(update=changes)
    with open_database(demo_settings, application_name="jobdeck demo", embedded=True) as database:
        with database.connection() as conn:
            enqueue_demo_jobs(conn)
            pause_newsletters(conn)
            set_thresholds(conn, PUSHES, actor=ACTOR)
        with nullcontext() if calm else incident(shop.failing):
            yield demo_settings


def enqueue_demo_jobs(conn: psycopg.Connection[Any]) -> None:
    """Enqueues the demo jobs that are not active already."""
    with conn.transaction():
        now = jobs.clock().run(conn)
        for job in (*_demo_jobs(now), *to_enqueue(conn, _pushes(now), actor=ACTOR)):
            producer.enqueue(conn, job, actor=ACTOR)
        _close_month(conn, now)


def pause_newsletters(conn: psycopg.Connection[Any]) -> None:
    """Pauses one type for a time and with a reason, unless it is paused."""
    if all(pause.task_type != NEWSLETTER for pause in jobs.processing().run(conn).paused_types):
        until = jobs.clock().run(conn) + MAINTAINED
        operator.pause(conn, task_type=NEWSLETTER, reason=MAINTENANCE, resume_at=until, actor=ACTOR)


def _close_month(conn: psycopg.Connection[Any], now: datetime) -> None:
    """Enqueues the steps of a flow, unless those of an earlier start are not over."""
    payload = {"month": f"{now:%Y-%m}"}
    before = None
    for step in CLOSING:
        new = NewJob(step, payload, blocked_by=before, dedupe_key=f"demo:close {step}")
        ticket = producer.enqueue(conn, new, actor=ACTOR)
        if not ticket.created:
            return
        before = ticket.job_id


def _demo_jobs(now: datetime) -> Iterator[NewJob]:
    for name, every in SERIES.items():
        yield NewJob(name, {}, recurrence_interval_minutes=every, dedupe_key=f"demo:{name}")
    for supplier, products in SUPPLIERS.items():
        yield NewJob(
            "demo_import_catalogue", {"supplier": supplier, "products": products}, dedupe_key=f"demo:{supplier}"
        )
    for readers in READERS:
        yield NewJob(NEWSLETTER, {"readers": readers}, dedupe_key=f"demo:newsletter {readers}")
    for place, after in enumerate(PHOTOS):
        yield NewJob(
            PHOTO_TYPE, {"photos": 100 + 20 * place}, run_at=now + after, dedupe_key=f"demo:photos {place}",
            concurrency_key=PHOTO_TYPE,
        )  # fmt: skip
    for place, customer in enumerate(INVOICES):
        yield NewJob(
            "demo_send_invoice",
            {"customer": customer, "amount": f"{19 + place}.50"},
            run_at=now + place * BETWEEN_INVOICES,
            dedupe_key=f"demo:invoice {customer}",
        )
    yield NewJob(
        "demo_send_invoice", {"customer": "alan", "amount": "12,50"}, run_at=now + WRONG_AFTER, dedupe_key="demo:wrong"
    )


def _pushes(now: datetime) -> list[NewJob]:
    """Webhooks at a steady rate, so that some meet the incident."""
    return [
        NewJob(PUSHES, {"order": order}, run_at=now + place * BETWEEN_ORDERS, max_attempts=2)
        for place, order in enumerate(ORDERS)
    ]


def _work(session: Session, settings: Settings, stop: Stop, seconds: float) -> None:
    from jobdeck.core import registry  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.worker.worker import Worker  # noqa: PLC0415 -- imported on first use

    connections = settings.concurrency + CONNECTIONS_BESIDE_HANDLERS
    with open_database(
        settings, application_name="jobdeck demo worker", max_size=connections, embedded=True
    ) as database:
        run_until_stopped(Worker(database, registry.load(settings.handler_modules), settings), stop, seconds=seconds)
        with database.connection() as conn:
            answer_status(session, conn)
