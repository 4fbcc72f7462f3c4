"""The parts that all commands share: common options, settings, database connection, output."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobdeck.core import settings as configuration
from jobdeck.core.cli.completing import complete_parameters
from jobdeck.core.errors import Refused, UsageError, meant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import psycopg

    from jobdeck.core.model import Filter, Json
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.read.batch import Query
    from jobdeck.core.read.operators.preferences import Preferences
    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings


LOCK_SECONDS = 5.0
"""How long a statement of a command waits for a lock. Many functions of the queue have a shorter limit of their own."""


@contextmanager
def limited_waits(database: Database, conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Limits the waits of a command's connection, which is closed when the command ends.

    Raises:
        Refused: a session held a table of the queue for longer. The message names the session.
    """
    from psycopg.errors import LockNotAvailable  # noqa: PLC0415 -- imported on first use

    from jobdeck.core.errors import Locked, Refused  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.postgres.database import limit_waits  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.schema import known_components  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.schema.turn import holder  # noqa: PLC0415 -- imported on first use

    # A database that was opened with the limit has it already. A pooler would keep the setting for other programs.
    if database.lock_seconds is None and database.probe().listens:
        limit_waits(conn, LOCK_SECONDS)
    try:
        yield
    except (Locked, LockNotAvailable) as error:
        # A call of a function of the queue has converted the error already, and takes the lock for that of a row.
        converted = isinstance(error, Locked)
        who = holder(conn, database.schema, known_components(), whole_tables=converted)
        if converted and not who:
            raise
        raise Refused(
            f"Another session has locked the queue's tables{f' ({who})' if who else ''}. "
            f"Try again once its transaction has ended."
        ) from None


T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")


@dataclass
class Session:
    """One invocation of a command: the shared options, and the settings and connections made from them."""

    database_urls: tuple[str, ...] = ()
    handlers: str | None = None
    json: bool = False

    @property
    def database_url(self) -> str | None:
        """The address of `--database-url`."""
        return next(iter(self.database_urls), None)

    def refuse_several(self) -> None:
        """Returns unless `--database-url` was given more than once.

        Raises:
            UsageError: it was.
        """
        if len(self.database_urls) > 1:
            raise UsageError(
                f"A command works on one database, and --database-url was given {len(self.database_urls)} times. Give "
                "it once; `jobdeck fleet` shows several databases."
            )

    @cached_property
    def settings(self) -> Settings:
        """The settings; `--database-url` and `--handlers` take precedence.

        Raises:
            ConfigurationError: a setting is invalid.
        """
        return configuration.load(database_url=self.database_url or None, handlers=self.handlers or None)

    @cached_property
    def settings_of_fleet(self) -> Settings:
        """The settings of a command that takes several databases.

        Raises:
            ConfigurationError: a setting is invalid.
        """
        return configuration.load(handlers=self.handlers or None)

    @cached_property
    def registry(self) -> Registry:
        """The task types of the plugins and of the modules in `--handlers` or `JOBDECK_HANDLERS`.

        Raises:
            ConfigurationError: a module cannot be imported.
        """
        from jobdeck.core import registry  # noqa: PLC0415 -- imported on first use

        return registry.load(self.settings.handler_modules)

    @cached_property
    def actor(self) -> str:
        """The user name for the audit log."""
        from jobdeck.core.queue.calls import actor  # noqa: PLC0415 -- imported on first use

        return actor()

    def configure_logs(self) -> None:
        """Logs to standard error, and to the log file if one is configured, as the settings say.

        Raises:
            ConfigurationError: the log file cannot be opened.
        """
        from jobdeck.core import logs  # noqa: PLC0415 -- imported on first use

        used = self.settings
        logs.configure(console=True, file=used.log_file, form=used.log_format, level=used.log_level)

    @property
    def preferences(self) -> Preferences:
        """What the person has saved."""
        from jobdeck.core.read.operators.preferences import preferences_of  # noqa: PLC0415 -- imported on first use

        return preferences_of(self.settings)

    def filter(self, text: str | None) -> Filter:
        """The filter of an option: its own words, or the one that the person saved as `@name`.

        Raises:
            UsageError: the filter is not valid, or none is saved under this name.
            Refused: the file of saved filters cannot be read.
        """
        from jobdeck.core.read.filters import parse_filter  # noqa: PLC0415 -- imported on first use
        from jobdeck.core.read.operators.preferences import SIGN  # noqa: PLC0415 -- imported on first use

        if text is not None and text.strip().startswith(SIGN):
            return self.preferences.filter(text)
        return parse_filter(text or "")

    @contextmanager
    def database(
        self,
        *,
        program: str = "cli",
        max_size: int = 4,
        lock_seconds: float | None = None,
        embedded: bool = True,
        note: Callable[[str], None] | None = None,
    ) -> Iterator[Database]:
        """The database, with its schema checked and at most `max_size` connections. `lock_seconds` limits their waits.

        Without an address it is the embedded one, unless that is not `embedded`, as for what runs jobs by itself.
        The server lists its connections as those of `jobdeck PROGRAM`. `note` gets a sentence if the database holds
        components whose plugins are off in this process. Without `note` it goes to standard error.

        Raises:
            DatabaseUnreachable: the database does not answer.
            SchemaMismatch: the schema is missing, older or newer.
            Refused: the role lacks a right. The message names the groups that have it.
        """
        from psycopg.errors import InsufficientPrivilege, LockNotAvailable  # noqa: PLC0415 -- imported on first use

        from jobdeck.core.cli import output  # noqa: PLC0415 -- imported on first use
        from jobdeck.core.connect import open_database  # noqa: PLC0415 -- imported on first use
        from jobdeck.core.postgres import inspection  # noqa: PLC0415 -- imported on first use
        from jobdeck.core.schema import NOTHING, open_checked  # noqa: PLC0415 -- imported on first use

        with open_database(
            self.settings,
            application_name=f"jobdeck {program}",
            max_size=max_size,
            connect=False,
            embedded=embedded,
        ) as database:
            database.lock_seconds = lock_seconds
            try:
                try:
                    open_checked(database, NOTHING, note=note or output.note)
                except LockNotAvailable:
                    with database.connection() as conn, limited_waits(database, conn):
                        raise
                if program == "cli":
                    output.note_embedded(self.settings)
                yield database
            except InsufficientPrivilege as error:
                from jobdeck.core.redact import safe_error  # noqa: PLC0415 -- imported on first use

                said = safe_error(str(error), 300).rstrip(".")
                with database.connection() as conn:
                    raise Refused(inspection.denied(conn, said)) from error

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """One autocommit connection to the database, whose waits for locks are limited.

        Raises:
            Refused: see `limited_waits`; and as `database`.
        """
        with (
            self.database(lock_seconds=LOCK_SECONDS) as database,
            database.connection() as conn,
            limited_waits(database, conn),
        ):
            yield conn

    def read(self, query: Query[T]) -> T:
        """The result of one read, over a connection of its own.

        Raises:
            Refused: as `connection`.
        """
        with self.connection() as conn:
            return query.run(conn)

    def answer(self, data: Json, text: Iterable[str], *, revealed: bool = False) -> None:
        """Prints `data` as JSON with `--json`, else the lines of `text`; both masked, unless they are `revealed`."""
        from jobdeck.core.cli import output  # noqa: PLC0415 -- imported on first use

        if self.json:
            output.write_json(data, revealed=revealed)
        else:
            output.write(map(output.Verbatim, text) if revealed else text)

    def answer_page(self, data: Json, text: Iterable[str], cursor: str | None) -> None:
        """Prints one page like `answer`, with the cursor of the next page; None for the last one."""
        from jobdeck.core.cli import output  # noqa: PLC0415 -- imported on first use

        following = output.Verbatim(cursor) if cursor else None
        self.answer({**data, "next": following}, text)
        if following and not self.json:
            output.note(output.Verbatim(f"next page: --after {following}"))


_pass_session = click.make_pass_decorator(Session, ensure=True)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name:
        setattr(context.ensure_object(Session), parameter.name, value)


def _add(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Adds to those before the command's name."""
    del parameter
    context.ensure_object(Session).database_urls += tuple(filter(None, value or ()))


def shared_options() -> list[click.Parameter]:
    """The options that are allowed before and after a command's name."""
    return [
        click.Option(
            ["--database-url", "database_urls"], metavar="URL", multiple=True, callback=_add, expose_value=False,
            help="Postgres to use. Default: DATABASE_URL, else an embedded database.",
        ),
        click.Option(
            ["--handlers"], metavar="MODULE,…", callback=_keep, expose_value=False,
            help="Modules to import for their @job functions. Default: JOBDECK_HANDLERS.",
        ),
        click.Option(
            ["--json"], is_flag=True, callback=_keep, expose_value=False, help="Print one JSON object."
        ),
    ]  # fmt: skip


def command(
    name: str, *, logs: bool = False, several: bool = False, cls: type[click.Command] = click.Command
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Makes a command of a function `(session, …) -> exit code or None`, and adds the shared options.

    On a terminal it shows how long it works, unless it writes a log there (`logs`). It is refused with more than one
    database, unless it takes `several`. `cls` is the command's class.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @wraps(function)
        def run(session: Session, **given: Any) -> int | None:
            from jobdeck.core.cli.output import waiting  # noqa: PLC0415 -- imported on first use

            if not several:
                session.refuse_several()
            with nullcontext() if logs else waiting(name):
                return function(session, **given)

        made = click.command(name, cls=cls, context_settings={"max_content_width": 115})(_pass_session(run))
        made.params += shared_options()
        complete_parameters(made.params, lambda context: context.ensure_object(Session).registry.names)
        return made

    return decorate


class Words(click.Choice[str]):
    """A word of a list, in any case. A refusal names the nearest one."""

    def __init__(self, words: Iterable[str]) -> None:
        super().__init__(list(words), case_sensitive=False)

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        del ctx
        return f'unknown word "{value}"{meant(str(value), self.choices)} Use one of {", ".join(self.choices)}.'


class Group(click.Group):
    """A group of commands that refuses an unknown one with the nearest of its own."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f'Unknown command "{args[0]}"{meant(args[0], self.list_commands(ctx))}')
        return super().resolve_command(ctx, args)


def limit_option(default: int, most: int, what: str = "Maximum number listed.") -> Callable[[F], F]:
    return click.option("--limit", type=click.IntRange(1, most), default=default, show_default=True, help=what)


after_option = click.option("--after", metavar="CURSOR", help="Continue after a page, with its `next`.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would happen; change nothing.")
embedded_option = click.option(
    "--embedded", is_flag=True, help="Without DATABASE_URL, run jobs of this account's own embedded database."
)
yes_option = click.option("--yes", is_flag=True, help="Confirm deletions and changes to more than one job.")
detach_option = click.option("--detach", is_flag=True, help="Let workers do it; do not wait for the end.")
reason_option = click.option(
    "--reason", metavar="TEXT", callback=lambda _context, _option, text: (text or "").strip() or None,
    help="Reason, for the audit log.",
)  # fmt: skip
