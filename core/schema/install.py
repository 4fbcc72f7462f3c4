"""Installs and upgrades the schema: one transaction, then the indexes of large tables."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql

from jobdeck.core.errors import Refused
from jobdeck.core.postgres.refusals import REFUSED
from jobdeck.core.redact import clean
from jobdeck.core.schema.catalog import accept, adopting, invalid_indexes, recording
from jobdeck.core.schema.components import (
    QUEUE,
    known_components,
    migrations,
    queue_component,
    release,
    serves_from,
)
from jobdeck.core.schema.plan import LARGE_BYTES, Plan, large_indexes, partition_indexes, plan_installation
from jobdeck.core.schema.script import files, periods
from jobdeck.core.schema.turn import (
    ATTEMPT_SECONDS,
    PAUSE_SECONDS,
    holder,
    lock_tables,
    patiently,
    take_turn,
    use_schema,
)
from jobdeck.core.schema.versions import records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jobdeck.core.schema.catalog import Index
    from jobdeck.core.schema.components import Component, Migration

LOCK_SECONDS: Final = 10
"""How long an installation tries to get the queue's tables, in attempts of two seconds."""

INDEX_LOCK_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class _Given:
    """What `install_schema` was called with."""

    schema: str
    components: Sequence[Component]
    roles: bool
    roles_prefix: str | None
    repair: bool
    large_bytes: int


def install_schema(
    conn: psycopg.Connection[Any],
    *,
    schema: str = "public",
    roles: bool = False,
    roles_prefix: str | None = None,
    repair: bool = False,
    components: Sequence[Component] | None = None,
    large_bytes: int = LARGE_BYTES,
    waits: Callable[[str], object] = lambda _: None,
) -> int:
    """Installs or upgrades the schema and returns the version of the queue. Safe to repeat.

    Args:
        conn: an autocommit connection whose role may create tables and functions.
        schema: the schema that it is installed into, created where it is missing.
        roles: whether to create the group roles as well, which needs the right to create roles.
        roles_prefix: what the names of the group roles begin with; None keeps what was said last, at first `job_`.
        repair: whether to overwrite functions, views, triggers and indexes that were altered by hand.
        components: what to install; None for the queue and the loaded plugins.
        large_bytes: from which size of its table on an index is built after the transaction.
        waits: gets a sentence about the session that is in the way, each time an attempt has waited for two seconds.

    Raises:
        SchemaMismatch: when the database's schema is newer than this program.
        Refused: when a long transaction holds the queue's tables for more than ten seconds, the role may not install
            it, the schema holds tables of these names that are somebody else's, an object was altered by hand, or a
            component's plugin is not loaded. Nothing was changed then.
    """
    wanted = known_components() if components is None else tuple(components)

    given = _Given(schema, wanted, roles, roles_prefix, repair, large_bytes)

    def say_who_is_in_the_way() -> None:
        who = holder(conn, schema, wanted) or "it has let go since"
        waits(f"Another session held the queue's tables for {ATTEMPT_SECONDS} s: {who}. The installation tries again.")

    with _refusals(conn, lambda: holder(conn, schema, wanted)):
        online = _online_steps(conn, wanted, schema, repair=repair)
        _run_online(conn, schema, online)
        _complete_history(conn, schema, wanted)
        plan, later = patiently(
            conn,
            partial(_attempt, conn, given),
            seconds=LOCK_SECONDS,
            waits=say_who_is_in_the_way,
        )
        # What was written since the first time.
        _run_online(conn, schema, online)
        if later:
            _build(conn, schema, later)
            with conn.transaction():
                use_schema(conn, schema)
                _record(conn, wanted, plan, schema)
        _divide_history(conn, schema, waits)
    return next(component.version for component in wanted if component.name == QUEUE)


def _attempt(conn: psycopg.Connection[Any], given: _Given) -> tuple[Plan, tuple[Index, ...]]:
    """What an installation does in one transaction. Returns the indexes that are left to build as well."""
    use_schema(conn, given.schema)
    take_turn(conn, given.schema)
    conn.execute("SELECT set_config('jobdeck.roles_prefix', %s, true)", [given.roles_prefix or ""])
    _refuse_while_an_index_is_built(conn, given.schema)
    plan = plan_installation(
        conn, given.components, schema=given.schema, repair=given.repair, large_bytes=given.large_bytes
    )
    lock_tables(conn, given.schema, given.components)
    for component in given.components:
        statement = adopting(given.schema, component)
        conn.execute(statement)
    later = _run(conn, given.components, plan, given.schema, given.large_bytes)
    _write_periods(conn, given.components)
    _record(conn, given.components, plan, given.schema)
    if given.roles:
        _make_roles(conn)
    conn.execute("SELECT job_grant_roles()")
    return plan, later


def _make_roles(conn: psycopg.Connection[Any]) -> None:
    names = conn.execute(
        "SELECT job_roles_prefix() || t FROM unnest(ARRAY['viewer', 'operator', 'worker']) AS t"
    ).fetchall()
    try:
        conn.execute("SELECT job_make_roles()")
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            f"The schema was not installed, because the role {conn.info.user} may not create the group roles "
            f"({error.diag.message_primary}). Have an administrator of the server create "
            f"{', '.join(name for (name,) in names)}, then run `jobdeck init` without --roles."
        ) from error


def schema_of(conn: psycopg.Connection[Any]) -> str:
    """The schema that the connection works in, by its search path.

    Raises:
        Refused: when the search path names none that exists.
    """
    row = conn.execute("SELECT current_schema()").fetchone()
    if row is None or row[0] is None:
        raise Refused("The search path of this connection names no schema that exists. Create it, then try again.")
    return str(row[0])


def _online_steps(
    conn: psycopg.Connection[Any], components: Sequence[Component], schema: str, *, repair: bool
) -> tuple[Migration, ...]:
    """The migrations that run beside the workers, once it is certain that the installation is not refused."""
    if conn.execute("SELECT to_regnamespace(quote_ident(%s)) IS NULL", [schema]).fetchone() == (True,):
        return ()
    with conn.transaction():
        use_schema(conn, schema)
        plan = plan_installation(conn, components, schema=schema, repair=repair)
    return tuple(step for step in plan.steps if step.phase == "online")


def _run_online(conn: psycopg.Connection[Any], schema: str, steps: Sequence[Migration]) -> None:
    """Runs each migration, and writes what it changes into the records: later that is no change by hand."""
    for step in steps:
        with conn.transaction():
            use_schema(conn, schema)
            conn.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_SECONDS}s"])
            conn.execute(step.text)
            for component, record in records(conn).items():
                accept(conn, schema, component, record)


def _run(
    conn: psycopg.Connection[Any], components: Sequence[Component], plan: Plan, schema: str, large_bytes: int
) -> tuple[Index, ...]:
    """Runs all SQL but for the indexes of large tables, which it returns."""
    for step in plan.steps:
        if step.phase == "before":
            conn.execute(step.text)
    altered = [key.removeprefix("index ") for key in plan.overwritten if key.startswith("index ")]
    for name in (*(index.name for index in plan.unusable), *altered):
        conn.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(schema, name)))
    later = large_indexes(conn, schema, components, large_bytes)
    for _, text in files(components, later):
        conn.execute(text)
    if not outdated_workers(conn):
        for step in plan.steps:
            if step.phase == "after":
                conn.execute(step.text)
    return later


def outdated_workers(conn: psycopg.Connection[Any]) -> tuple[str, ...]:
    """The running workers that are too old for this schema. Migrations of the phase "after" wait for their end."""
    oldest = release(serves_from(queue_component()))
    rows = conn.execute(
        "SELECT id, version FROM job_workers WHERE job_worker_is_alive(heartbeat_at, clock_timestamp()) ORDER BY id"
    ).fetchall()
    return tuple(worker for worker, version in rows if release(version) < oldest)


def _record(conn: psycopg.Connection[Any], components: Sequence[Component], plan: Plan, schema: str) -> None:
    waiting = {step.number for step in plan.steps if step.phase == "after"} if outdated_workers(conn) else set()
    for component in components:
        done = [step.number for step in migrations(component) if step.number not in waiting]
        for statement in recording(schema, component, done):
            conn.execute(statement)
    use_schema(conn, schema)


def _write_periods(conn: psycopg.Connection[Any], components: Sequence[Component]) -> None:
    """Stores the retention periods of the plugins, whose functions NAME_retain keep them. The owner's choice stays.

    Raises:
        Refused: when a plugin has periods and not the function.
    """
    for component in components:
        if not component.retention:
            continue
        function = f"{component.name}_retain"
        if conn.execute(
            "SELECT to_regprocedure(quote_ident(%s) || '(text, timestamptz, integer)') IS NULL", [function]
        ).fetchone() == (True,):
            raise Refused(
                f"Nothing was installed. The plugin {component.name} has retention periods, but its SQL has no "
                f"function {function}(text, timestamptz, integer). Add it, then run `jobdeck init` again."
            )
        statement = periods(component)
        conn.execute(statement)


def _complete_history(conn: psycopg.Connection[Any], schema: str, components: Sequence[Component]) -> None:
    """Builds the indexes that the partitions of the history lack, while jobs run.

    The transaction of the installation makes those of the whole history, and takes for each partition the index that
    is there by then.
    """
    if conn.execute("SELECT to_regclass(quote_ident(%s) || '.job_runs') IS NULL", [schema]).fetchone() == (True,):
        return
    missing = partition_indexes(conn, schema, components)
    for name in invalid_indexes(conn, schema, [one.name for one in missing]):
        conn.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(schema, name)))
    _build(conn, schema, missing, what="The schema was not installed, because its index")


def _divide_history(conn: psycopg.Connection[Any], schema: str, waits: Callable[[str], object]) -> None:
    """Divides a newest partition of the history that is already large, while jobs run.

    Another session may be in the way for long. Upkeep does the last step then, or says that it is left to do.
    """

    def begin() -> str | None:
        use_schema(conn, schema)
        row = conn.execute("SELECT job_run_bound()").fetchone()
        return row[0] if row else None

    def pause() -> None:
        conn.execute("SELECT pg_sleep(%s)", [PAUSE_SECONDS])

    try:
        name = patiently(conn, begin, seconds=ATTEMPT_SECONDS, waits=pause)
    except psycopg.errors.LockNotAvailable:
        waits("Another session holds the history, so its large part is left whole. Run `jobdeck init` again later.")
        return
    if name is not None:
        with conn.transaction():
            table = sql.Identifier(schema, name)
            conn.execute(sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT job_runs_bound").format(table))
        with conn.transaction():
            use_schema(conn, schema)
            conn.execute("SELECT job_run_extend()")


def _build(
    conn: psycopg.Connection[Any],
    schema: str,
    later: Sequence[Index],
    *,
    what: str = "The schema is installed, but its index",
) -> None:
    """Builds indexes while the queue goes on. An interrupted one is left invalid, and the next installation drops it.

    Raises:
        Refused: when an old transaction keeps one from being built.
    """
    before = conn.execute("SELECT current_setting('lock_timeout'), current_setting('search_path')").fetchone()
    settings = "SELECT set_config('lock_timeout', %s, false), set_config('search_path', %s, false)"
    conn.execute(settings, [f"{INDEX_LOCK_SECONDS}s", sql.Identifier(schema).as_string()])
    try:
        for index in later:
            statement = index.statement.replace("create index if", "create index concurrently if", 1)
            try:
                conn.execute(statement)
            except psycopg.errors.LockNotAvailable as error:
                raise Refused(
                    f"{what} {index.name} was not built: another session's "
                    f"transaction has been open for a minute. `jobdeck doctor` names it; once it has ended, run "
                    f"`jobdeck init` again."
                ) from error
    finally:
        conn.execute(settings, before)


def _refuse_while_an_index_is_built(conn: psycopg.Connection[Any], schema: str) -> None:
    """Another installation may be at its indexes. Each would wait for the other."""
    row = conn.execute(
        """
        SELECT c.relname FROM pg_stat_progress_create_index AS p JOIN pg_class AS c ON c.oid = p.relid
        WHERE p.datname = current_database() AND p.pid <> pg_backend_pid()
            AND c.relnamespace = to_regnamespace(quote_ident(%s)) LIMIT 1
        """,
        [schema],
    ).fetchone()
    if row is not None:
        raise Refused(
            f"The schema was not installed: another session is building an index of the table {clean(row[0])}. "
            f"Run `jobdeck init` again once it has ended."
        )


@contextmanager
def _refusals(conn: psycopg.Connection[Any], holds: Callable[[], str]) -> Iterator[None]:
    """Says in a sentence why the server ended the installation; `holds` names the session that has the tables."""
    try:
        yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        who = holds()
        raise Refused(
            f"The schema was not installed: another session has held the queue's tables for ten seconds"
            f"{f' ({who})' if who else ''}. Try again once its transaction has ended."
        ) from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise Refused(
            "The schema was not installed, because the server is read-only, as a standby is. Connect to the primary "
            "server, or try again later."
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            f"The schema was not installed, because the role {conn.info.user} may not do it "
            f"({error.diag.message_primary}). Connect as the owner of the database."
        ) from error
    except psycopg.DatabaseError as error:
        if error.sqlstate == REFUSED:
            raise Refused(f"Nothing was installed. {clean(str(error.diag.message_primary))}") from error
        if not isinstance(error, psycopg.ProgrammingError):
            raise
        raise Refused(
            f"The schema was not installed and nothing was changed, because something in the database is in its way: "
            f"{clean(str(error.diag.message_primary or error))}. Rename or repair it, then run `jobdeck init` again."
        ) from error
