"""`serve`, `web` and `mcp`: the queue over HTTP, the dashboard in a browser, and the queue for assistants."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobdeck.core import logs
from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command, embedded_option
from jobdeck.core.cli.signals import Stop, stop_signals
from jobdeck.core.errors import ConfigurationError, UsageError, require_extra

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobdeck.core.web.server import Site

log = logging.getLogger(__name__)


@command("serve", logs=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 picks a free port.")
@click.option("--openapi", is_flag=True, help="Print the OpenAPI document and exit.")
@embedded_option
def serve(session: Session, host: str, port: int, openapi: bool, embedded: bool) -> int | None:
    """Run the HTTP server until stopped.

    It serves /api/jobs, /api/jobs/run, /healthz, /metrics and the endpoints of the plugins. After SIGTERM, running
    jobs finish.
    """
    require_extra("The HTTP server", "server", "starlette", "uvicorn", "h11", "prometheus_client")
    if openapi:
        from jobdeck.core.http.openapi import describe  # noqa: PLC0415 -- imported on first use

        output.write_json(describe(), revealed=True)
        return None
    from jobdeck.core.http.server import CONNECTIONS, Door  # noqa: PLC0415 -- imported on first use

    session.configure_logs()
    off: list[str] = []
    try:
        with (
            stop_signals() as stop,
            session.database(program="serve", max_size=CONNECTIONS, embedded=embedded, note=off.append) as database,
        ):
            for sentence in off:
                logs.event(log, logging.WARNING, sentence)
            door = Door(database, session.registry, session.settings, host=host, port=port, plugins_off=bool(off))
            door.start()
            addresses = [{"host": where, "port": number} for where, number in door.addresses]
            session.answer(
                {"addresses": addresses}, [f"Serving http://{one['host']}:{one['port']}" for one in addresses]
            )
            sys.stdout.flush()
            stop.wait()
            stop.in_order(door.drain, lambda: door.cron.drain(0.0))
    finally:
        logs.shutdown()
    return 130 if stop.interrupted else None


@command("web", logs=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="0 picks a free port.")
@click.option("--beyond-this-machine", "beyond", is_flag=True, help="Allow an address that other machines can reach.")
@click.option("--sessions", type=click.IntRange(1, 50), default=4, show_default=True, help="Dashboards at a time.")
@click.option("--read-only", is_flag=True, help="Disable all changes.")
@click.option("--refresh", type=click.FloatRange(0.5, 3600), default=2.0, show_default=True, metavar="SECONDS",
              help="Seconds between two reads of the database.")  # fmt: skip
@click.option("--address-file", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the address with its token to a file that only this account can read.")  # fmt: skip
def web(session: Session, *, beyond: bool, address_file: Path | None, **given: object) -> int | None:
    """Show the dashboard in a browser on this machine.

    Open the address that it prints; the token in it works once. The person who opens it acts with this command's role.
    """
    require_extra("The dashboard in a browser", "web", "aiohttp", "textual_serve", "textual", "rich")
    if sys.platform == "win32":
        raise ConfigurationError("`jobdeck web` needs a terminal of Linux or macOS for each dashboard. Use WSL.")
    from jobdeck.core.web.gate import Gate, checked_host  # noqa: PLC0415 -- imported on first use
    from jobdeck.core.web.server import Dashboards, Site  # noqa: PLC0415 -- imported on first use

    host, port = str(given["host"]), int(str(given["port"]))
    if checked_host(host, beyond=beyond):
        output.note(
            f"Warning: other machines can reach {host}, and nothing is encrypted. Who reads the network can act with "
            "this command's role."
        )
    shown = Shown(session, address_file)
    session.configure_logs()
    try:
        dashboards = Dashboards(
            dashboard(given),
            _environment(session),
            most=int(str(given["sessions"])),
            patience=session.settings.drain_seconds + 10,
        )
        site = Site(Gate(host), dashboards, shown)
        with stop_signals() as stop:
            asyncio.run(_show(site, host, port, stop))
            return 130 if stop.interrupted else None
    finally:
        shown.remove()
        logs.shutdown()


def dashboard(given: dict[str, object]) -> list[str]:
    """The command of a dashboard in the browser."""
    options = ["--mouse", "--refresh", f"{given['refresh']:g}", *(["--read-only"] if given["read_only"] else [])]
    # Without -P, Python would import from the current folder first.
    return [sys.executable, "-P", "-m", "jobdeck.tui", *options]


def _environment(session: Session) -> dict[str, str]:
    """What the dashboards get by their environment, because everybody on a machine sees the arguments of a process."""
    given = {"DATABASE_URL": session.database_url, "JOBDECK_HANDLERS": session.handlers}
    return {"JOBDECK_VIA": "web", **{name: value for name, value in given.items() if value}}


class Shown:
    """Where the address is shown: on stdout, or in a file, which nobody else may read."""

    def __init__(self, session: Session, file: Path | None) -> None:
        self._session = session
        self._file = file
        self._saved = False

    def __call__(self, address: str) -> None:
        """Shows an address, and no longer the one before it.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        if self._file is None:
            self._session.answer({"address": output.Verbatim(address)}, [output.Verbatim(f"Open {address}")])
            sys.stdout.flush()
            return
        beside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            beside.write_text(f"{address}\n", encoding="utf-8")
            beside.replace(self._file)
        except OSError as error:
            raise ConfigurationError(f"The file {self._file} cannot be written ({error.strerror}).") from None
        self._saved = True

    def remove(self) -> None:
        """Removes the file, if this server wrote it."""
        if self._file is not None and self._saved:
            self._file.unlink(missing_ok=True)


async def _show(site: Site, host: str, port: int, stop: Stop) -> None:
    loop = asyncio.get_running_loop()
    await site.serve(host, port, lambda: loop.run_in_executor(None, stop.wait))


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
