"""`serve`: the HTTP server."""

from __future__ import annotations

import sys

import click

from jobdeck.core import logs
from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command
from jobdeck.core.cli.signals import stop_signals
from jobdeck.core.errors import require_extra


@command("serve", logs=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 picks a free port.")
@click.option("--openapi", is_flag=True, help="Print the OpenAPI document and exit.")
def serve(session: Session, host: str, port: int, openapi: bool) -> int | None:
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
    try:
        with stop_signals() as stop, session.database(max_size=CONNECTIONS) as database:
            door = Door(database, session.registry, session.settings, host=host, port=port)
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
