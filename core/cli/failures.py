"""Turns an exception into an exit code and one sentence."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import click
import psycopg

from jobdeck.core import settings as configuration
from jobdeck.core.errors import JobdeckError, meant
from jobdeck.core.redact import clean, safe_error

if TYPE_CHECKING:
    from pathlib import Path

FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
OF_CONNECTIONS: Final = ("08", "57P")
"""SQLSTATEs of a lost connection: connection exceptions, and a server that ended the session or shut down."""


def explain(error: Exception) -> tuple[int, str]:
    """Returns the exit code and the sentence for an exception. Logs the traceback of an unexpected one."""
    match error:
        case JobdeckError():
            return error.exit_code, clean(str(error))
        case click.exceptions.NoArgsIsHelpError():
            return USAGE, "No command was given. See `jobdeck --help`."
        case click.UsageError():
            return USAGE, _usage(error)
        case psycopg.Error():
            return _of_database(error)
        case _:
            return FAILED, _unforeseen(error)


def _of_database(error: psycopg.Error) -> tuple[int, str]:
    said = safe_error(str(error), 300).rstrip(".")
    match error:
        case psycopg.OperationalError() if error.sqlstate and not error.sqlstate.startswith(OF_CONNECTIONS):
            return FAILED, (
                f"The database could not carry out the command ({said}). "
                "Check the state of the queue before you repeat a command that changes something."
            )
        case psycopg.OperationalError():
            return UNREACHABLE, (
                f"The connection to the database was lost ({said}). "
                "Check the state of the queue before you repeat a command that changes something."
            )
        case psycopg.DataError():
            return USAGE, f"The database rejected one of the given values ({said})."
        case psycopg.errors.ReadOnlySqlTransaction():
            return FAILED, (
                "Nothing was changed, because the server is read-only, as a standby is. Connect to the primary "
                "server; during a failover, try again in a minute."
            )
        case psycopg.errors.InsufficientPrivilege():
            return FAILED, f"The database role may not do this ({said}). `jobdeck doctor` shows its rights."
        case _:
            return FAILED, _unforeseen(error)


def _usage(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "jobdeck"
    message = clean(error.format_message())
    if isinstance(error, click.NoSuchOption):
        known = [name for option in error.ctx.command.params for name in option.opts] if error.ctx else []
        message = f'Unknown option "{clean(error.option_name)}"{meant(error.option_name, known)}'
    return f"{message if message.endswith(('.', '?')) else f'{message}.'} See `{path} --help`."


def _unforeseen(error: Exception) -> str:
    name = type(error).__name__
    where = _logged(error)
    if where is None:
        return f"An unexpected {name} ended the command. To keep the traceback, set JOBDECK_LOG_FILE and run it again."
    return f"An unexpected {name} ended the command. Its traceback is in {clean(str(where))}."


def _logged(error: Exception) -> Path | None:
    from jobdeck.core import logs  # noqa: PLC0415 -- needed only after an unexpected error
    from jobdeck.core.settings import state_folder  # noqa: PLC0415 -- needed only after an unexpected error

    try:
        settings = configuration.load()
        path = settings.log_file or state_folder(settings.state_dir) / "jobdeck.log"
        logs.configure(console=False, file=path, form=settings.log_format, level=settings.log_level)
    except (JobdeckError, OSError):
        return None
    logging.getLogger("jobdeck.cli").error("A command ended unexpectedly", exc_info=error)
    logs.shutdown()
    return path
