"""Several databases, each read on its own and read-only. What is wrong with one is said of that one."""

from __future__ import annotations

import logging
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import psycopg
from pydantic import SecretStr

from jobdeck.core import registry
from jobdeck.core.connect import open_database
from jobdeck.core.errors import (
    UNHEALTHY,
    ConfigurationError,
    DatabaseUnreachable,
    JobdeckError,
    SchemaMismatch,
    UsageError,
)
from jobdeck.core.model import Verdict
from jobdeck.core.postgres.address import Address
from jobdeck.core.postgres.database import Database, Unreachable
from jobdeck.core.postgres.inspection import denied
from jobdeck.core.read.pages.overview import DatabaseFigures, database_figures
from jobdeck.core.redact import safe_error, safe_text
from jobdeck.core.schema import open_checked
from jobdeck.core.settings import DATABASES, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager


STATEMENT_SECONDS: Final = 8.0
ANSWER_SECONDS: Final = 10.0
"""Seconds after which a database that has not answered is called slow: the connect timeout and one statement's."""
Ill = Literal["away", "slow", "unusable"]
_ORDER: Final = ("away", "slow", Verdict.CRITICAL, "unusable", Verdict.WARNING, Verdict.PAUSED, Verdict.OK)
_OF_ADDRESS: Final = re.compile("authentication|does not exist|pg_hba|translate host|password")
"""In reasons of libpq that are about the address rather than the server."""
_WHOSE: Final = re.compile(r' for user "[^"]*"')

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a database has no figures: in a few words with what to do, and in whole sentences.

    `exit_code` is that of a command on this database alone.
    """

    word: Ill
    brief: str
    message: str
    exit_code: int = 1


Reading = DatabaseFigures | Trouble


def word(reading: Reading) -> str:
    """The state of a database in one word: its verdict, or its trouble."""
    return reading.word if isinstance(reading, Trouble) else reading.health.verdict.value


def rank(reading: Reading) -> int:
    """The place of a database in a list with the worst first."""
    return _ORDER.index(word(reading))


def exit_code(reading: Reading) -> int:
    """The exit code of `jobdeck health` on this database."""
    if isinstance(reading, Trouble):
        return reading.exit_code
    return UNHEALTHY if reading.health.verdict is Verdict.CRITICAL else 0


class Member:
    """One database of a fleet. `label` is its host and name, without user and password."""

    def __init__(self, name: str, label: str, settings: Settings, timeouts: Timeouts) -> None:
        self.name = name
        self.label = label
        self.settings = settings
        self._timeouts = timeouts
        self._opened: AbstractContextManager[Database] | None = None
        self._database: Database | None = None
        self._ended = False

    def read(self) -> Reading:
        """Reads the figures over a connection of its own, which stays open until one fails. Not for two threads."""
        try:
            return self._read()
        except Exception as error:  # noqa: BLE001 -- shown on the line of this database, while the others go on
            trouble = self._trouble(error)
            self._disconnect()
            return trouble
        finally:
            if self._ended:
                self._disconnect()

    def close(self) -> None:
        """Closes the connection, now or when the reading that is under way has ended."""
        self._ended = True
        self._disconnect()

    def _disconnect(self) -> None:
        opened, self._opened, self._database = self._opened, None, None
        if opened is not None:
            opened.__exit__(None, None, None)

    def silent(self, seconds: float) -> Trouble:
        """The trouble of a database that was asked this number of seconds ago and has not answered."""
        return Trouble(
            "slow",
            f"no answer for {seconds:.0f} s; check its load and locks",
            f"The database at {safe_text(self.label)} has not answered for {seconds:.0f} s. Check its load, its locks "
            "and the network.",
            DatabaseUnreachable.exit_code,
        )

    def _read(self) -> DatabaseFigures:
        timeouts = self._timeouts.read()
        query = database_figures(limit=STATEMENT_SECONDS, timeouts=timeouts, production=self.settings.is_production)
        database = self._database  # `close` may come meanwhile
        if database is None:
            self._opened = open_database(
                self.settings, application_name="jobdeck fleet", read_only=True, max_size=1, connect=False
            )
            self._database = database = self._opened.__enter__()
            return open_checked(database, query)
        with database.connection() as conn:
            return query.run(conn)

    def _trouble(self, error: Exception) -> Trouble:
        if isinstance(error, JobdeckError):
            return _refused(safe_text(self.label), error)
        said = safe_error(str(error), 300).rstrip(".")
        match error:
            case psycopg.errors.QueryCanceled():
                return self.silent(STATEMENT_SECONDS)
            case psycopg.errors.InsufficientPrivilege():
                return Trouble("unusable", "this role may not read it; grant it job_viewer", self._denied(said))
            case psycopg.OperationalError() | psycopg.InterfaceError():
                return _away(safe_text(self.label), said)
        log.error("Could not read a database of the fleet", exc_info=error)
        return Trouble(
            "unusable",
            f"unexpected {type(error).__name__}; see the log",
            f"The database at {safe_text(self.label)} could not be read: {type(error).__name__}. The log file "
            "(JOBDECK_LOG_FILE) has the details.",
        )

    def _denied(self, said: str) -> str:
        plain = f"The database role may not do this ({said}). Grant it job_viewer, or use another role."
        database = self._database
        if database is None:
            return plain
        try:
            with database.connection() as conn:
                return denied(conn, said)
        except (psycopg.Error, JobdeckError):
            return plain


class Timeouts:
    """The timeouts of the task types, which `jobdeck health` judges long runs by. Threads may share it."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = tuple(modules)
        self._lock = threading.Lock()
        self._found: Mapping[str, float] | None = None

    def read(self) -> Mapping[str, float]:
        """Imports the modules of the handlers at first use.

        Raises:
            ConfigurationError: one of them cannot be imported.
        """
        with self._lock:
            if self._found is None:
                self._found = {known.task_type: known.timeout for known in registry.load(self._modules)}
            return self._found


def _refused(label: str, error: JobdeckError) -> Trouble:
    match error:
        case Unreachable(reason=reason) if reason:
            return _away(label, safe_error(_WHOSE.sub("", reason)))
        case SchemaMismatch():
            return Trouble("unusable", error.brief, str(error), error.exit_code)
        case DatabaseUnreachable():
            return Trouble("away", str(error), str(error), error.exit_code)
    return Trouble("unusable", str(error), str(error), error.exit_code)


def _away(label: str, reason: str) -> Trouble:
    return Trouble(
        "away",
        f"{reason}; check {'its address' if _OF_ADDRESS.search(reason) else 'Postgres there'}",
        f"The database at {label} does not answer ({reason}). Check its address, and that Postgres is running there.",
        DatabaseUnreachable.exit_code,
    )


def members(settings: Settings, urls: Sequence[str] = ()) -> tuple[Member, ...]:
    """The databases at these addresses, or those that the settings list. None is connected to yet.

    Raises:
        UsageError: no database is named.
        ConfigurationError: an address is invalid, or two lines could not be told apart.
    """
    given = [("", url) for url in urls] or [(name, url.get_secret_value()) for name, url in settings.databases.items()]
    if not given:
        raise UsageError(f"No databases are named. Give --database-url for each of them, or list them in {DATABASES}.")
    timeouts, found = Timeouts(settings.handler_modules), []
    seen: dict[str, Address] = {}
    for number, (name, url) in enumerate(given, start=1):
        address = _parsed(url, f"{DATABASES}: the address of {name}" if name else f"Address {number} of --database-url")
        shown = name or address.label
        _refuse_twins(shown, address, seen)
        seen[shown] = address
        own = settings.model_copy(update={"database_url": SecretStr(url), "databases": {}})
        found.append(Member(shown, address.label, own, timeouts))
    return tuple(found)


def read_each(fleet: Sequence[Member], patience: float = ANSWER_SECONDS) -> list[Reading]:
    """Reads all databases at once. One that has not answered after `patience` seconds is slow, and is left behind."""
    answers: dict[int, Reading] = {}

    def ask(at: int) -> None:
        answers[at] = fleet[at].read()

    asked = [threading.Thread(target=ask, args=(at,), name="jobdeck-fleet", daemon=True) for at in range(len(fleet))]
    for thread in asked:
        thread.start()
    end = time.monotonic() + patience
    for thread in asked:
        thread.join(max(0.0, end - time.monotonic()))
    return [answers.get(at) or member.silent(patience) for at, member in enumerate(fleet)]


def _parsed(url: str, which: str) -> Address:
    if not url.strip():
        raise ConfigurationError(f"{which} is empty. Write it like postgresql://<user>@host:5432/database.")
    try:
        return Address.parse(url)
    except ConfigurationError as error:
        raise ConfigurationError(f"{which} {str(error).removeprefix('DATABASE_URL ')}") from None


def _refuse_twins(shown: str, address: Address, seen: Mapping[str, Address]) -> None:
    for other, known in seen.items():
        if known.parameters == address.parameters:
            names = safe_text(shown) if other == shown else f"{safe_text(other)} and {safe_text(shown)}"
            raise ConfigurationError(f"The same database is given twice: {names}. Give each database once.")
    if shown in seen:
        raise ConfigurationError(
            f"Two addresses would both be shown as {safe_text(shown)}. Give them names in {DATABASES}."
        )
