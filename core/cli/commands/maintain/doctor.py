"""`doctor`: checks of the database and the installation."""

from __future__ import annotations

import os
import shlex
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from jobdeck.core import config_file, schema
from jobdeck.core.cli import output
from jobdeck.core.cli.commands.look.status import finding_table
from jobdeck.core.cli.session import Session, command, limited_waits
from jobdeck.core.connect import open_database
from jobdeck.core.errors import UNHEALTHY, SchemaMismatch
from jobdeck.core.model import Finding, Verdict
from jobdeck.core.plugins import Checklist, load_plugins, off_here
from jobdeck.core.postgres import inspection
from jobdeck.core.read import jobs
from jobdeck.core.read.type_settings import type_lines
from jobdeck.core.redact import clean
from jobdeck.core.settings import Settings, secret_names
from jobdeck.core.times import format_duration
from jobdeck.core.words.tables import code_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

    from jobdeck.core.postgres.database import Database
    from jobdeck.core.postgres.inspection import Diagnosis
    from jobdeck.core.read.type_settings import TypeLine
    from jobdeck.core.schema import Examined

SKEW_SECONDS: Final = (5.0, 60.0)
TRANSACTION_SECONDS: Final = (300.0, 3600.0)
DEAD_ROWS: Final = (100_000, 1_000_000)
"""Limits for a warning and for critical. Dead rows are judged in tables where they outnumber the live ones."""

CHANNEL: Final = "jobdeck_doctor"
NOTIFY_SECONDS: Final = 5.0
_WORST: Final = [Verdict.CRITICAL, Verdict.WARNING, Verdict.PAUSED, Verdict.OK]


class _Doctor(click.Command):
    """Has an option for each check list of the plugins, which are loaded when the command is used."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        lists = [
            click.Option([f"--{name}", "checklist"], flag_value=name, help=one.help)
            for name, one in _checklists().items()
        ]
        return [*lists, *super().get_params(ctx)]


def _checklists() -> dict[str, Checklist]:
    return {name: one for plugin in load_plugins() for name, one in plugin.checklists.items()}


@command("doctor", cls=_Doctor)
def doctor(session: Session, checklist: str | None = None) -> int | None:
    """Check the database, the schema and the plugins.

    The checks cover schema, indexes, roles, LISTEN, pooler, clock, dead rows, open transactions, secrets, the
    configuration file and plugins.
    """
    if checklist is not None:
        with session.database() as database:
            found = list(_checklists()[checklist].run(database, session.settings, session.registry))
        return _answer(session, database.label, found, bad=[Verdict.CRITICAL, Verdict.WARNING, Verdict.PAUSED])
    with (
        open_database(session.settings, application_name="jobdeck doctor", embedded=True) as database,
        database.connection() as conn,
        limited_waits(database, conn),
    ):
        findings = [
            *_server(database, conn),
            *_schema(conn),
            *_series(conn),
            _secrets(session.settings),
            _file(),
            *_plugins(session.settings),
        ]
    return _answer(session, database.label, findings, bad=[Verdict.CRITICAL])


def _plugins(settings: Settings) -> Iterator[Finding]:
    for plugin in load_plugins():
        if plugin.findings:
            yield from plugin.findings(settings)


def _answer(session: Session, label: str, findings: Sequence[Finding], *, bad: Sequence[Verdict]) -> int | None:
    worst = min((finding.verdict for finding in findings), key=_WORST.index)
    session.answer(
        {"database": label, "verdict": worst, "findings": findings},
        [f"Database: {label}", f"Verdict: {worst.value}", "", *finding_table(findings)],
    )
    return UNHEALTHY if worst in bad else None


def _server(database: Database, conn: psycopg.Connection[Any]) -> Iterator[Finding]:

    found = database.probe()
    said = f"Postgres {found.server_version // 10_000}, role {found.role}."
    state = inspection.read_only_state(conn)
    if state is not None:
        what = "a standby, which is read-only" if state == "standby" else "read-only for this role"
        said += f" It is {what}: no job runs or changes here. Connect to the primary server."
    yield Finding("server", Verdict.OK if state is None else Verdict.CRITICAL, said)
    if found.listens and state == "standby":
        yield Finding("LISTEN", Verdict.WARNING, "A standby sends no notifications.")
    elif found.listens:
        yield _heard(database, conn)
        yield Finding("pooler", Verdict.OK, "Direct connection, with prepared statements.")
    else:
        yield Finding(
            "pooler", Verdict.WARNING,
            "Connected through a pooler: no LISTEN, no prepared statements. Workers poll. Connect them directly.",
        )  # fmt: skip
    before = datetime.now(UTC)
    moment = jobs.clock().run(conn)
    after = datetime.now(UTC)
    skew = max((before - moment).total_seconds(), (moment - after).total_seconds(), 0.0)
    yield Finding(
        "clock", _graded(skew, SKEW_SECONDS),
        f"This machine's clock differs from the database's by {skew:.1f}s. The database clock is authoritative.",
    )  # fmt: skip


def _heard(database: Database, conn: psycopg.Connection[Any]) -> Finding:

    listener = database.listen(CHANNEL)
    try:
        listener.wait(0)
        inspection.notify(conn, CHANNEL)
        heard = bool(listener.wait(NOTIFY_SECONDS))
    finally:
        listener.close()
    if heard:
        return Finding("LISTEN", Verdict.OK, "A notification arrived.")
    evidence = f"No notification arrived within {NOTIFY_SECONDS:g}s. Workers find jobs only by polling."
    return Finding("LISTEN", Verdict.WARNING, evidence)


def _schema(conn: psycopg.Connection[Any]) -> Iterator[Finding]:

    try:
        schema.check_schema(conn)
    except SchemaMismatch as error:
        yield Finding("schema", Verdict.CRITICAL, str(error))
        return
    examined = schema.examine(conn)
    yield _version(examined, schema.schema_version())
    yield _objects(examined)
    yield _creators(examined)
    found = inspection.diagnose(conn, schema.declared_indexes())
    may = jobs.permissions().run(conn)
    rights = [name for name in ("view", "operate", "work") if getattr(may, name)]
    yield Finding(
        "rights",
        Verdict.OK if may.view else Verdict.CRITICAL,
        f"This role may {', '.join(rights) or 'not even view jobs'}.",
    )
    for check in (_indexes, _roles, _dead_rows, _transactions):
        yield check(found)
    if may.view and inspection.tokens_are_behind(conn):
        words = (
            "The sequence of run tokens is behind the history, as after a restore of the rows alone, so runs cannot be "
            "recorded. Stop the workers and run `jobdeck init`, which moves it on."
        )
        yield Finding("run tokens", Verdict.CRITICAL, words)
    if may.view:
        yield from _limits_in_code(type_lines().run(conn))


def _limits_in_code(lines: Sequence[TypeLine]) -> Iterator[Finding]:
    """Names the types of which live releases say different things, or those whose limits operators changed."""
    known = [line for line in lines if line.code or line.differing]
    differing = [line for line in known if line.differing]
    changed = [line for line in known if line.overridden]
    named = [f"{output.cut(line.task_type, 60)}: {code_words(line)}" for line in (differing or changed)[:3]]
    more = f". And {len(differing or changed) - 3:,} more types" if len(differing or changed) > 3 else ""
    if differing:
        words = f"Live releases disagree; the one in brackets holds. {'. '.join(named)}{more}."
        yield Finding("limits in code", Verdict.WARNING, words)
    elif changed:
        words = f"{'. '.join(named)}{more}. `jobdeck types set TYPE --max-running code` takes back what operators set."
        yield Finding("limits in code", Verdict.OK, words)
    elif known:
        words = f"What the code says of {len(known):,} task type{'' if len(known) == 1 else 's'} holds."
        yield Finding("limits in code", Verdict.OK, words)


def _series(conn: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Looks at the types and the zones of series, if there are any and the schema is the program's."""
    try:
        schema.check_schema(conn)
    except SchemaMismatch:
        return
    yield from _lost_series(inspection.lost_series(conn))
    found = inspection.zone_differences(conn, datetime.now(UTC))
    if found == []:
        words = "The database and Python have the same rules for the zones of series."
        yield Finding("time zones", Verdict.OK, words)
    elif found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        words = (
            f"{'; '.join(found[:3])}{more}. Series run by the rules of Python (tzdata), so times that SQL computes in "
            "these zones may differ. Update the older of the two."
        )
        yield Finding("time zones", Verdict.WARNING, words)


def _lost_series(found: Sequence[inspection.LostSeries]) -> Iterator[Finding]:
    if not found:
        return
    types = list(dict.fromkeys(clean(series.task_type) for series in found))
    named = ", ".join(types[:3]) + (f" and {len(types) - 3:,} more types" if len(types) > 3 else "")
    words = (
        f"{len(found):,} series that a program declared {'has a type' if len(found) == 1 else 'have types'} that no "
        f"live worker handles: {named}. Start a worker that does. If the program has the type no more, cancel the "
        f"series: `jobdeck cancel {found[0].id.hex[-8:]}`."
    )
    yield Finding("series", Verdict.WARNING, words)


def _version(examined: Examined, needed: int) -> Finding:
    """Compares the installed components with those of this program."""
    if examined.newer:
        evidence = (
            f"Version {examined.version} is newer than this program's {needed}. The program works, but upgrade it soon."
        )
    elif examined.unloaded:
        evidence = off_here(examined.unloaded)
    elif examined.unrecorded:
        evidence = f"Version {examined.version} was not installed by `jobdeck init`. Run it, so that changes are found."
    elif examined.edited:
        evidence = f"The SQL of {', '.join(examined.edited)} differs from this program's. Run `jobdeck init`."
    elif examined.waiting:
        evidence = f"{'; '.join(examined.waiting)}. Run `jobdeck init` when all workers have been upgraded."
    else:
        return Finding("schema", Verdict.OK, f"Version {examined.version}, up to date.")
    return Finding("schema", Verdict.WARNING, evidence)


def _objects(examined: Examined) -> Finding:
    if not examined.altered:
        return Finding("objects", Verdict.OK, "No object was changed since the installation.")
    named, more = examined.altered[:5], len(examined.altered) - 5
    evidence = f"{'; '.join(named)}{f'; and {more} more' if more > 0 else ''}. `jobdeck init --dry-run` shows the fix."
    return Finding("objects", Verdict.CRITICAL, evidence)


def _creators(examined: Examined) -> Finding:
    if examined.creators is None:
        return Finding("schema rights", Verdict.OK, "Only the queue's owner can create objects in its schema.")
    return Finding("schema rights", Verdict.CRITICAL, examined.creators)


def _indexes(found: Diagnosis) -> Finding:
    if found.indexes_missing or found.indexes_broken:
        names = ", ".join([*found.indexes_missing, *(f"{name} (invalid)" for name in found.indexes_broken)])
        return Finding("indexes", Verdict.CRITICAL, f"Missing or invalid: {names}. Run `jobdeck init` to build them.")
    return Finding("indexes", Verdict.OK, "All indexes exist and are valid.")


def _roles(found: Diagnosis) -> Finding:
    """Warns where several accounts have rights that one of the group roles would limit; one account needs no roles."""
    if found.roles_missing and found.writers:
        more = f" and {len(found.writers) - 3} more" if len(found.writers) > 3 else ""
        evidence = (
            f"The roles {', '.join(found.roles_missing)} do not exist, so {', '.join(found.writers[:3])}{more} can "
            "change all jobs past the queue's rules. `jobdeck init --roles` creates them; give each account the role "
            "that it needs."
        )
        return Finding("roles", Verdict.WARNING, evidence)
    if found.roles_missing:
        evidence = "Only the owner's account uses the queue. For others, `jobdeck init --roles` creates group roles."
        return Finding("roles", Verdict.OK, evidence)
    return Finding("roles", Verdict.OK, "The group roles exist.")


def _dead_rows(found: Diagnosis) -> Finding:
    worst = max(found.tables, key=lambda table: table.dead, default=None)
    if worst is None:
        return Finding("dead rows", Verdict.WARNING, "The server has no statistics on the queue's tables.")
    verdict = _graded(worst.dead, DEAD_ROWS) if worst.dead > worst.live else Verdict.OK
    vacuumed = output.when(worst.vacuumed_at) if worst.vacuumed_at else "never"
    return Finding(
        "dead rows",
        verdict,
        f"{worst.dead:,} dead rows in {worst.name} ({worst.live:,} live); last vacuum: {vacuumed}.",
    )


def _transactions(found: Diagnosis) -> Finding:
    oldest = found.oldest
    hidden = ""
    if found.hidden:
        sessions = "1 session" if found.hidden == 1 else f"{found.hidden} sessions"
        hidden = f" This role cannot see the transactions of {sessions}; membership in pg_read_all_stats shows them."
    if oldest is None:
        known = "that this role can see " if hidden else ""
        return Finding("transactions", Verdict.OK, f"No other session {known}has an open transaction.{hidden}")
    age = format_duration(timedelta(seconds=oldest.seconds))
    evidence = (
        f"The oldest has been open for {age}: pid {oldest.pid}, application {oldest.application or 'unnamed'}, "
        f"role {oldest.role}, {oldest.state}.{hidden}"
    )
    return Finding("transactions", _graded(oldest.seconds, TRANSACTION_SECONDS), evidence)


def _secrets(settings: Settings) -> Finding:
    from jobdeck.core.http.clients.proof import bad_secrets  # noqa: PLC0415 -- imported on first use

    bad = bad_secrets(settings)
    if bad:
        return Finding("secrets", Verdict.CRITICAL, f"`jobdeck serve` does not start: {bad}")
    return Finding("secrets", Verdict.OK, "No secret of the HTTP server is a placeholder or short.")


def _file() -> Finding:
    """Judges who else can read or change the configuration file."""
    file = config_file.path()
    try:
        mode = file.stat().st_mode if os.name == "posix" else 0
    except OSError:
        return Finding("configuration file", Verdict.OK, f"There is no file {file}.")
    remedy = f"Run: chmod o-rwx {shlex.quote(str(file))}"
    if mode & stat.S_IWOTH:
        return Finding("configuration file", Verdict.CRITICAL, f"Every account can change {file}. {remedy}")
    held = sorted(secret_names() & config_file.content().keys())
    if held and mode & stat.S_IROTH:
        evidence = f"Every account can read {file}, which holds {', '.join(held)}. {remedy}"
        return Finding("configuration file", Verdict.CRITICAL, evidence)
    return Finding("configuration file", Verdict.OK, f"No other account can read a secret in {file}.")


def _graded(figure: float, limits: tuple[float, float]) -> Verdict:
    warning, critical = limits
    return Verdict.CRITICAL if figure >= critical else Verdict.WARNING if figure >= warning else Verdict.OK
