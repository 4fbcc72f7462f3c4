"""`sandbox`: serves the sandbox vendors."""

from __future__ import annotations

import sys

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command
from jobdeck.core.cli.signals import stop_signals
from jobdeck.core.errors import Refused


@command("sandbox", logs=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="0 picks a free port.")
@click.option(
    "--fail", "rules", multiple=True, metavar="RULE", help="Inject a failure, such as 429:scores:3,retry-after=2."
)
def sandbox(session: Session, port: int, rules: tuple[str, ...]) -> int | None:
    """Serve the sandbox vendors on localhost until stopped. Prints the environment variables to use them."""
    from jobdeck.core.programme.sandbox.server import Sandbox  # noqa: PLC0415 -- imported on first use

    try:
        server = Sandbox(port, rules=rules)
    except OSError as error:
        raise Refused(f"Port {port} cannot be used ({error.strerror}). Choose another.") from None
    with stop_signals() as stop, server:
        variables = server.settings_env()
        session.answer(
            {"port": server.port, "environment": variables},
            [f"export {name}={value}" for name, value in variables.items()],
            revealed=True,
        )
        sys.stdout.flush()
        output.note("The sandbox runs until Ctrl-C or SIGTERM.")
        stop.wait()
    return 130 if stop.interrupted else None
