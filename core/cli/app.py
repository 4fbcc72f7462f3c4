"""The table of commands and the entry point of the command line.

`jobdeck COMMAND` and `python -m core COMMAND` are the same. The module of a command is imported on first use, to keep
the start fast.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Final

import click

from jobdeck.core import plugins
from jobdeck.core.cli.completing import COMPLETING
from jobdeck.core.cli.session import Group, shared_options
from jobdeck.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

INTERRUPTED: Final = 130

PURPOSES: Final = {
    "Look": {
        "status": "look.status",
        "health": "look.status",
        "fleet": "look.status",
        "jobs": "look.jobs",
        "filter": "look.jobs",
        "job": "look.jobs",
        "why": "look.jobs",
        "runs": "look.jobs",
        "errors": "look.status",
        "trends": "look.types",
        "series": "look.series",
        "flow": "look.flows",
        "types": "look.types",
        "audit": "look.status",
        "digest": "look.digest",
    },
    "Enqueue": {
        "enqueue": "act.enqueue",
        "enqueue-many": "act.enqueue",
        "quick-sync": "act.enqueue",
    },
    "Act on jobs": {
        "retry": "act.actions",
        "run-again": "act.actions",
        "cancel": "act.actions",
        "delete": "act.actions",
        "restore": "act.actions",
        "edit": "act.edit",
        "bulk": "act.bulk",
        "hold": "run.holds",
        "release": "run.holds",
        "cleanup": "run.processing",
    },
    "Hand over": {
        "note": "act.notes",
        "mute": "act.notes",
        "unmute": "act.notes",
    },
    "Run": {
        "worker": "run.workers",
        "run-worker": "run.workers",
        "serve": "run.serve",
        "web": "run.serve",
        "mcp": "run.serve",
        "pause": "run.processing",
        "resume": "run.processing",
        "demo": "run.demo",
    },
    "Set up and maintain": {
        "init": "maintain.init",
        "doctor": "maintain.doctor",
        "producers": "maintain.producers",
        "purge": "run.processing",
        "retention": "run.processing",
        "erase": "run.processing",
        "drop": "maintain.init",
        "completion": "maintain.completion",
    },
}
"""The queue's own commands and their modules in `jobdeck.core.cli.commands`, by what one wants to do."""
COMMANDS: Final = {name: module for named in PURPOSES.values() for name, module in named.items()}
OF_PLUGINS: Final = "Of plugins"


def commands() -> dict[str, str]:
    """All commands as name and "package.module:function": the queue's own, then those of the plugins."""
    own = {name: f"jobdeck.core.cli.commands.{of}:{name.replace('-', '_')}" for name, of in COMMANDS.items()}
    if not plugins.presets():
        del own["quick-sync"]
    return own | {name: target for plugin in plugins.load_plugins() for name, target in plugin.commands.items()}


class Commands(Group):
    """Imports the module of a command on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        target = commands().get(cmd_name)
        if target is None:
            return None
        found = plugins.resolve(target)
        assert isinstance(found, click.Command)  # noqa: S101 -- true for every entry of `commands`
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands under what one wants to do, with their lines in one column."""
        known = self.list_commands(ctx)
        groups: dict[str, Iterable[str]] = {**PURPOSES, OF_PLUGINS: [name for name in known if name not in COMMANDS]}
        width = max(map(len, known))
        for purpose, names in groups.items():
            shown = [(name, self.get_command(ctx, name)) for name in names if name in known]
            lines = [(f"{name:{width}}", of.get_short_help_str(formatter.width - width)) for name, of in shown if of]
            if lines:
                with formatter.section(purpose):
                    formatter.write_dl(lines)


@click.group(
    "jobdeck",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 115},
    epilog="Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no database or not all erased, 4 unhealthy, 130 "
    "interrupted.",
)
@click.version_option(package_name="jobdeck", prog_name="jobdeck")
def cli() -> None:
    """Run and manage a Postgres job queue. Without a command, `jobdeck` opens the dashboard."""


cli.params += shared_options()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code of the process.

    Data goes to stdout. An error is one sentence on stderr, never a traceback. When the reader of stdout is gone
    (`jobdeck jobs | head`), the command ends silently with 0.
    """
    if COMPLETING in os.environ:
        return _completed(os.environ[COMPLETING])
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except click.exceptions.Exit as error:
        return error.exit_code
    except Exception as error:  # noqa: BLE001 -- users get a sentence, and the log file the traceback
        return _explained(error)
    return code


def _invoke(arguments: list[str]) -> int:
    unreadable = next((text for text in arguments if not _is_text(text)), None)
    if unreadable is not None:
        raise UsageError(f"The argument {unreadable!r} is not valid UTF-8.")
    with cli.make_context("jobdeck", arguments) as context:
        code = cli.invoke(context)
    return code if isinstance(code, int) else 0


def _completed(instruction: str) -> int:
    from jobdeck.core.cli.commands.maintain.completion import complete  # noqa: PLC0415 -- needed for a completion only

    return complete(cli, instruction)


def _explained(error: Exception) -> int:
    from jobdeck.core.cli import failures, output  # noqa: PLC0415 -- needed only after an error

    code, sentence = failures.explain(error)
    output.note(f"jobdeck: {sentence}")
    return code


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
