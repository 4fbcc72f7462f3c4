"""The program `jobdeck`: the dashboard without a command, else the command line, which does not import Textual."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import UsageError, require_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jobdeck.core.fleet import Member
    from jobdeck.core.settings import Settings
    from jobdeck.tui.terminal.options import Arguments

COMPLETING: Final = "_JOBDECK_COMPLETE"
"""With this in the environment, a shell asks for completions."""
ALONE: Final = ("--headless", "--help", "-h")
"""With one of these options, `demo` is a command without dashboard."""

CALM: Final = "--calm"
"""With this option, `demo` has no incident."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the dashboard or a command and returns the exit code of the process."""
    with _importing():
        from jobdeck.tui.terminal import options  # noqa: PLC0415 -- imported on first use

    arguments = list(sys.argv[1:] if argv is None else argv)
    if COMPLETING in os.environ:
        return _command(arguments)
    command = options.command_of(arguments)
    try:
        if command is None:
            return _dashboard(options.parse(arguments))
        if command == "demo" and not any(word.partition("=")[0] in ALONE for word in arguments):
            demo = [word for word in arguments if word in {"demo", CALM}]
            return _dashboard(options.parse([word for word in arguments if word not in demo]), demo=demo)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 -- users get a sentence, and the log file the traceback
        from jobdeck.core.cli import failures, output  # noqa: PLC0415 -- needed only after an error

        code, sentence = failures.explain(error)
        output.note(f"jobdeck: {sentence}")
        return code
    code = _command(arguments)
    if command in {"--help", "-h"}:
        _tell(options.HELP)
    return code


@contextmanager
def _importing() -> Iterator[None]:
    """Modules are not garbage, and to look for garbage among them takes a tenth of the time of their import."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _tell(text: str) -> None:
    """Writes to stdout, whose reader may be gone."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(arguments: list[str]) -> int:
    with _importing():
        from jobdeck.core.cli.app import main as cli_main  # noqa: PLC0415 -- not needed by the dashboard

    return cli_main(arguments)


def _dashboard(arguments: Arguments, *, demo: Sequence[str] = ()) -> int:
    """`demo` has the words of that command, where it is the demo."""
    from jobdeck.core import logs  # noqa: PLC0415 -- imported on first use
    from jobdeck.tui.terminal import options  # noqa: PLC0415 -- imported on first use

    if demo and arguments.database_urls:
        raise UsageError("The demo uses its own database. Omit --database-url.")
    settings = arguments.settings()
    several = not demo and arguments.names_fleet(settings)
    if not options.terminal_is_fit():
        return _command([*arguments.shared(), *(demo or ["fleet" if several else "status"])])
    require_extra("The dashboard", "dashboard", "textual", "rich")
    theme = options.prepare_environment(os.environ, settings.theme)
    logs.configure(console=False, file=settings.log_file, form=settings.log_format, level=settings.log_level)
    with _demo(settings, calm=CALM in demo) if demo else nullcontext(settings) as used:
        with _importing():
            from jobdeck.tui.run import run_dashboard  # noqa: PLC0415 -- Textual reads the environment on its import

        return run_dashboard(
            used,
            read_only=arguments.read_only,
            worker=arguments.worker,
            mouse=arguments.mouse,
            interval=arguments.refresh,
            theme=theme,
            few_colours=options.has_256_colours(os.environ),
            fleet=_fleet(settings, arguments.database_urls) if several else None,
        )


def _fleet(settings: Settings, urls: Sequence[str]) -> Callable[[], Sequence[Member]]:
    """What makes the members of the fleet. Invalid addresses are refused now, before the dashboard takes the screen."""
    from jobdeck.core.fleet import members  # noqa: PLC0415 -- not needed for one database

    members(settings, urls)
    return lambda: members(settings, urls)


@contextmanager
def _demo(settings: Settings, *, calm: bool) -> Iterator[Settings]:
    from jobdeck.core.cli.commands.run.demo import demo_environment  # noqa: PLC0415 -- for the demo only

    sys.stderr.write("Starting the demo…\n")
    with demo_environment(settings, calm=calm) as demo_settings:
        yield demo_settings


if __name__ == "__main__":
    sys.exit(main())
