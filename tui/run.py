"""Starts the dashboard from the settings, and shuts it down."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from jobdeck.core import settings as configuration
from jobdeck.core.read.operators.preferences import preferences_of
from jobdeck.core.redact import safe_error
from jobdeck.tui import keymap, themes
from jobdeck.tui.app import JobdeckApp
from jobdeck.tui.deck import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.fleet import Member
    from jobdeck.core.settings import Settings
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.fleet.app import FleetApp

COMMAND: Final = re.compile(r"`[^`]*`")
HELD: Final = "\N{NO-BREAK SPACE}"


def run_dashboard(
    settings: Settings,
    *,
    read_only: bool = False,
    worker: bool = False,
    mouse: bool = False,
    interval: float = 2.0,
    theme: str = themes.DARK.name,
    few_colours: bool = False,
    fleet: Callable[[], Sequence[Member]] | None = None,
) -> int:
    """Runs the dashboard, then drains the embedded worker. Returns the exit code.

    The dashboard opens the database after its first paint. With a `fleet`, its page comes first, and each of its
    databases gets a dashboard of its own, which ends before the next one is opened.
    """
    options = Options(
        theme=theme,
        few_colours=few_colours,
        environment=settings.environment,
        production=settings.is_production,
        read_only=read_only,
        interval=interval,
        patience=settings.drain_seconds,
        keymap=keymap.read(configuration.key_bindings()),
        mouse=mouse,
        preferences=preferences_of(settings),
    )

    def dashboard(opened: Settings, name: str = "") -> JobdeckApp:
        def make_backend() -> Backend:
            from jobdeck.tui.backend.live import LiveBackend  # noqa: PLC0415 -- slow, not needed for the first paint

            return LiveBackend(opened, read_only=read_only, worker=worker, label=name)

        return JobdeckApp(make_backend, replace(options, opened=name))

    if fleet is not None:
        return _run_fleet(fleet, options, dashboard)
    app = dashboard(settings)
    with app.log_lines.attached():
        return run(app)


def _run_fleet(
    members: Callable[[], Sequence[Member]], options: Options, dashboard: Callable[[Settings, str], JobdeckApp]
) -> int:
    """Shows the page of the fleet and, one after the other, the dashboards of the databases chosen on it."""
    from jobdeck.tui.fleet.app import FleetApp  # noqa: PLC0415 -- not needed for one database

    page = FleetApp(members(), options)
    while True:
        code = run_fleet_page(page)
        if code or page.chosen is None:
            return code
        app = dashboard(page.databases.members[page.chosen].settings, page.chosen)
        with app.log_lines.attached():
            code = run(app)
        if not (app.gave_up or (app.returns and not code)):
            return code
        gc.unfreeze()  # the dashboard that has ended froze its objects
        notice = str(app.failure) if app.failure is not None else ""
        page = FleetApp(members(), options, at=page.chosen, known=page.databases.standings, notice=notice)


def run(app: JobdeckApp) -> int:
    """Runs the app until the user or a signal ends it, then closes its backend, with the terminal restored."""
    try:
        app.run(mouse=app.options.mouse)
    finally:
        app.poller.stop()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        running = app.worker.running
        if running:
            _tell(f"Waiting up to {app.options.patience:g} s for the running jobs ({running}) to finish…")
        if app.backend is not None:
            app.backend.close()
    if app.failure is not None and not (app.gave_up and app.options.opened):
        _tell(f"jobdeck: {app.failure}")
    return app.return_code or 0


def run_fleet_page(page: FleetApp) -> int:
    """Runs the page of the fleet until a database is chosen or the user leaves, and closes its connections."""
    try:
        page.run(mouse=page.options.mouse)
    finally:
        page.databases.close()
    if page.failure is not None:
        _tell(f"jobdeck: {page.failure}")
    return page.return_code or 0


def sentence(text: str, width: int) -> str:
    """Wraps a text into lines of at most `width` cells. A `command` in backquotes stays on one line."""
    if width <= 0:
        return text
    whole = COMMAND.sub(lambda command: command[0].replace(" ", HELD), text)
    return "\n".join(wrap(whole, width, break_long_words=False, break_on_hyphens=False)).replace(HELD, " ")


def _tell(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
        sys.stderr.write(f"{sentence(safe_error(text), width)}\n")
