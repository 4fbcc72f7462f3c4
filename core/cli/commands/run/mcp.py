"""`mcp`: the queue for assistants."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from jobdeck.core import logs
from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command
from jobdeck.core.errors import UsageError, require_extra

if TYPE_CHECKING:
    from collections.abc import Iterator


@command("mcp", logs=True)
@click.option("--allow-actions", is_flag=True, help="Let the assistant change jobs; each action is in the audit log.")
def mcp(session: Session, allow_actions: bool) -> None:
    """Let an assistant read the queue over stdin and stdout.

    The program of the assistant starts it (Model Context Protocol). Answers are masked as for a viewer.
    """
    require_extra("The server for assistants", "mcp", "mcp", "mcp_types", "anyio")
    if session.json:
        raise UsageError("`jobdeck mcp` always writes its protocol to stdout. Omit --json.")
    from jobdeck.core.cli.mcp.server import serve  # noqa: PLC0415 -- imported on first use

    session.configure_logs()
    try:
        with _stdout_is_stderr():
            _ = session.registry  # whatever the application's modules print must not reach the protocol
        if sys.stdin.isatty():
            output.note("An assistant starts this command and talks to it. Press Ctrl-D to end it.")
        serve(session, allow_actions=allow_actions)
    finally:
        logs.shutdown()


@contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """Sends to standard error what is written to standard output, also by other languages and by child processes."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
