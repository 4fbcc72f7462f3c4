"""The check list of the cut-over, for `doctor --cutover`: each line is ok, or says what is missing and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psycopg

from jobdeck.core.errors import InvalidPayload
from jobdeck.core.model import Finding, Verdict
from jobdeck.core.postgres import inspection
from jobdeck.core.programme import links
from jobdeck.core.programme.cutover.ends import brief
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors import email, sms
from jobdeck.core.programme.vendors.errors import SettingMissing
from jobdeck.core.queue.calls import rows
from jobdeck.core.read import jobs
from jobdeck.core.read.type_settings import type_lines
from jobdeck.core.redact import clean
from jobdeck.core.schema import examine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobdeck.core.postgres.database import Database
    from jobdeck.core.read.type_settings import TypeLine
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings

    Connection = psycopg.Connection[Any]

CRON_MINUTES: Final = 15
"""The original's cron calls its runner every 5 minutes (specification of the queue, 3.1); three calls may fail."""

CALL_MINUTES: Final = 5
"""A call that has not ended after this time has died."""

PAYLOADS: Final = 1000
"""How many waiting jobs have their payload checked."""

_NAMED: Final = 5


def checklist(database: Database, settings: Settings, registry: Registry) -> Iterator[Finding]:
    """What has to hold before the switch, at the switch and after it."""
    with database.connection() as conn, brief(conn):
        switched = jobs.processing().run(conn).held_by is None
        lines = type_lines().run(conn)
        yield _connection(database)
        yield _objects(conn)
        yield _roles(conn)
        yield _integration(settings)
        yield _links(settings)
        yield _messages(conn, settings)
        yield _workers(lines)
        yield _handlers(lines)
        yield _keys(conn)
        yield _payloads(conn, registry)
        yield _runner(switched=switched)
        yield _cron(conn, switched=switched, set_aside=[one.task_type for one in lines if one.set_aside])
        yield _in_flight(conn, switched=switched)


def _judged(subject: str, trouble: str | None, fine: str) -> Finding:
    return Finding(subject, Verdict.OK if trouble is None else Verdict.CRITICAL, fine if trouble is None else trouble)


def _connection(database: Database) -> Finding:
    trouble = None
    if not database.probe().listens:
        trouble = (
            "The database URL leads to a pooler, so workers poll and hear of no new job. Set the URL of the direct "
            "connection (port 5432)."
        )
    return _judged("connection", trouble, "Direct connection, not through a pooler.")


def _objects(conn: Connection) -> Finding:
    altered = examine(conn).altered
    trouble = None
    if altered:
        trouble = f"{_some(altered)} since the installation. Run `jobdeck init --repair`, which puts it back."
    return _judged("functions", trouble, "The queue's functions, triggers and tables are as they were installed.")


def _roles(conn: Connection) -> Finding:
    missing = inspection.diagnose(conn, ()).roles_missing
    trouble = None
    if missing:
        trouble = (
            f"The roles {', '.join(missing)} do not exist. Run `jobdeck init --roles`, or have an administrator create "
            f"them and run `jobdeck init`."
        )
    return _judged("roles", trouble, "The group roles of workers, operators and viewers exist.")


def _integration(settings: Settings) -> Finding:
    own = settings.of(CompetitionSettings)
    trouble = None
    if not own.game_platform_integration_enabled:
        trouble = "Each platform job would be a dry run. Set GAME_PLATFORM_INTEGRATION_ENABLED=true."
    elif own.game_platform_api_token is None:
        trouble = "Each platform job would fail. Set GAME_PLATFORM_API_TOKEN."
    return _judged("game platform", trouble, "The integration is on, with a token.")


def _links(settings: Settings) -> Finding:
    trouble = links.trouble(settings)
    if trouble is None and not settings.is_production:
        trouble = "JOBDECK_ENV is not production, so links in messages are not checked. Set JOBDECK_ENV=production."
    return _judged("links", trouble, "Links in messages lead to the dashboard's address.")


def _messages(conn: Connection, settings: Settings) -> Finding:
    own = settings.of(CompetitionSettings)
    trouble = None
    try:
        email.check(own)
        if own.sms_wanted:
            sms.check(own)
    except SettingMissing as error:
        trouble = f"Jobs that send messages would fail. {error}"
    if trouble is None and own.sendgrid_sandbox_mode:
        trouble = "No mail would be delivered, because SENDGRID_SANDBOX_MODE is true. Remove it."
    elif trouble is None and own.sendgrid_unsubscribe_group_id is None:
        trouble = "Campaigns would not start. Set SENDGRID_UNSUBSCRIBE_GROUP_ID."
    elif trouble is None and not _knows_zone(conn, own.quiet_tz):
        trouble = (
            "Digests and alerts would fail, because the database does not know the time zone in QUIET_TZ. Write it "
            "like America/New_York."
        )
    return _judged("messages", trouble, "The settings of mail and text messages are complete.")


def _knows_zone(conn: Connection, zone: str) -> bool:
    try:
        with conn.transaction():
            conn.execute("SELECT now() AT TIME ZONE %s", [zone])
    except psycopg.errors.InvalidParameterValue:
        return False
    return True


def _workers(lines: Sequence[TypeLine]) -> Finding:
    trouble = None
    if not any(one.workers for one in lines):
        trouble = "No worker is alive. Start `jobdeck worker` on each host; before the switch, it waits."
    return _judged("workers", trouble, "Workers are alive.")


def _handlers(lines: Sequence[TypeLine]) -> Finding:
    waiting = [one.task_type for one in lines if (one.pending or one.running) and not one.workers and not one.set_aside]
    trouble = None
    if waiting:
        trouble = (
            f"No live worker handles {_some(waiting)}. Start a worker that does, or leave the type to the earlier "
            f'runner: jobdeck types set TYPE --set-aside --reason "…".'
        )
    return _judged("task types", trouble, "Each type with jobs has a live worker, or is set aside.")


def _keys(conn: Connection) -> Finding:
    found = rows(
        conn,
        """
        SELECT q.task_type, count(*) AS jobs FROM job_queue AS q
        WHERE q.status IN ('pending', 'running') AND q.concurrency_key IS NULL
            AND job_key_of(q.task_type, q.payload) IS NOT NULL
        GROUP BY 1 ORDER BY 1
        """,
        (),
    )
    trouble = None
    if found:
        named = _some([f"{one['jobs']} jobs of {one['task_type']}" for one in found])
        trouble = f"{named} have no concurrency key. Start a worker, which fills in the keys of its types."
    return _judged("keys", trouble, "Each job of a type that runs one at a time has its concurrency key.")


def _payloads(conn: Connection, registry: Registry) -> Finding:
    """Checks the payloads of the first waiting jobs against the models of their types."""
    found = rows(
        conn,
        "SELECT id, task_type, payload FROM job_queue WHERE status = 'pending' AND task_type = ANY (%s) "
        "ORDER BY run_at, id LIMIT %s",
        (registry.names, PAYLOADS),
    )
    refused = []
    for one in found:
        try:
            registry.validate(one["task_type"], one["payload"])
        except InvalidPayload:
            refused.append(f"{str(one['id'])[:8]} ({one['task_type']})")
    trouble = None
    if refused:
        trouble = (
            f"Jobs with a payload that their type does not accept would not run: {_some(refused)}. `jobdeck edit ID` "
            f"names the fields."
        )
    return _judged("payloads", trouble, f"The payloads of the first {len(found)} waiting jobs fit their types.")


def _runner(*, switched: bool) -> Finding:
    trouble = "The earlier runner has the queue. When all other lines are ok, run `jobdeck cutover switch`."
    return _judged("switch", None if switched else trouble, "The workers of Jobdeck have the queue.")


def _cron(conn: Connection, *, switched: bool, set_aside: Sequence[str]) -> Finding:
    """The calls of the original's cron, which are needed as long as its runner has jobs."""
    found = rows(
        conn,
        "SELECT max(started_at) AS last, count(*) AS calls, count(*) FILTER (WHERE status IN ('ok', 'paused') "
        "OR status IS NULL AND started_at > clock_timestamp() - make_interval(mins => %s)) AS well "
        "FROM job_worker_runs WHERE worker_id IS NULL AND source LIKE 'vercel%%' "
        "AND started_at > clock_timestamp() - make_interval(mins => %s)",
        (CALL_MINUTES, CRON_MINUTES),
    )[0]
    calls = found["last"]
    needed = not switched or bool(set_aside)
    who = f"the types set aside ({_some(list(set_aside))})" if switched else "all jobs"
    trouble = None
    if needed and calls is None:
        trouble = f"The original's cron has not called for {CRON_MINUTES} minutes, and it runs {who}. Start it again."
    elif needed and not found["well"]:
        trouble = (
            f"Every call of the original's cron in the last {CRON_MINUTES} minutes failed ({found['calls']}, the last "
            f"at {calls:%H:%M}), and it runs {who}. Its error is in job_worker_runs.error_message."
        )
    elif not needed and calls is not None:
        trouble = f"The original's cron still calls, last at {calls:%H:%M}, and has nothing to do. Remove it."
    said = "The original's cron calls, as it must." if needed else "The original's cron no longer calls."
    return _judged("cron", trouble, said)


def _in_flight(conn: Connection, *, switched: bool) -> Finding:
    found = rows(
        conn,
        "SELECT count(*) AS jobs, count(*) FILTER (WHERE lease_expires_at < clock_timestamp()) AS lost FROM job_queue "
        "WHERE status = 'running' AND locked_by = competition_earlier_runner() "
        "AND NOT EXISTS (SELECT FROM job_types AS t WHERE t.task_type = job_queue.task_type AND t.set_aside)",
        (),
    )[0]
    trouble = None
    if switched and found["jobs"]:
        trouble = (
            f"{found['jobs']} jobs still run in the earlier runner, {found['lost']} of them past their lease. A worker "
            f"takes those over; wait for the others."
        )
    elif found["lost"]:
        trouble = (
            f"{found['lost']} runs of the earlier runner have died, and their jobs hold up others with their key. Its "
            f"next call returns them to the queue. `jobdeck cleanup --yes` marks them failed at once, and they do not "
            f"run again."
        )
    return _judged("jobs in flight", trouble, "No job runs in a runner that should not have it.")


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(clean(name) for name in names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
