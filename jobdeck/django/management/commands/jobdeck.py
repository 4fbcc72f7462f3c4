"""`manage.py jobdeck …`: the program `jobdeck` on the database of the project, with the task types of its apps."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobdeck.core.cli import failures, output
from jobdeck.core.errors import JobdeckError
from jobdeck.core.registry import import_handlers, registrations
from jobdeck.django import database
from jobdeck.tui.__main__ import main

WORKER: Final = "jobdeck.django.worker"


class Command(BaseCommand):
    """Hands its words to the program `jobdeck`."""

    help = "Run the program jobdeck on the database of this project; without words, its dashboard."

    def run_from_argv(self, argv: list[str]) -> None:
        """Hands all words on, but those that Django itself has read, and exits as the program does."""
        own = CommandParser(add_help=False, allow_abbrev=False)
        own.add_argument("--settings")
        own.add_argument("--pythonpath")
        sys.exit(run(own.parse_known_args(argv[2:])[1]))

    def add_arguments(self, parser: CommandParser) -> None:
        """Takes the words of `call_command("jobdeck", "status")`."""
        parser.add_argument("words", nargs="*")

    def handle(self, *_args: Any, words: list[str], **_options: Any) -> None:
        """Runs the program within another.

        Raises:
            CommandError: it ended with another exit code than 0.
        """
        if code := run(words):
            raise CommandError(f"jobdeck {' '.join(words)} ended with the exit code {code}.", returncode=code)


def run(words: list[str]) -> int:
    """Runs the program and returns its exit code. Its processes find the project's address and types as it does."""
    try:
        os.environ["DATABASE_URL"] = database.address()
        import_handlers(WORKER)
    except JobdeckError as error:
        code, sentence = failures.explain(error)
        output.note(f"jobdeck: {sentence}")
        return code
    if registrations:
        given = os.environ.get("JOBDECK_HANDLERS", "").split(",")
        os.environ["JOBDECK_HANDLERS"] = ",".join(dict.fromkeys([WORKER, *filter(None, given)]))
    return main(words)
