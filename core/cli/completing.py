"""What a shell completes beyond commands, options and the words of lists: task types and filters."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click
from click.types import StringParamType

from jobdeck.core.errors import JobdeckError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from click.shell_completion import CompletionItem

COMPLETING: Final = "_JOBDECK_COMPLETE"
"""Set by the script of a shell, which asks for completions by running `jobdeck`."""


class TaskType(StringParamType):
    """A task type; a shell completes those of the handlers that are imported."""

    def __init__(self, registered: Callable[[click.Context], list[str]]) -> None:
        self._registered = registered

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param
        return _items(name for name in self.known(ctx) if name.startswith(incomplete))

    def known(self, ctx: click.Context) -> list[str]:
        """The types, or none if a setting or a module is wrong: a completion reports no errors."""
        with suppress(JobdeckError):
            return self._registered(ctx)
        return []


class FilterText(TaskType):
    """A filter; a shell completes its last word: a key, a status, an outcome or a task type."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from jobdeck.core.read.filters import completions  # noqa: PLC0415 -- needed for a completion only

        del param
        if incomplete.startswith("@"):
            return _items(f"@{name}" for name in self.saved(ctx) if name.startswith(incomplete[1:].lower()))
        before = incomplete[: len(incomplete) - len(incomplete.rpartition(" ")[2])]
        return _items(f"{before}{word}" for word in completions(incomplete, self.known(ctx)))

    def saved(self, ctx: click.Context) -> list[str]:
        """The names of the saved filters, or none if a setting or their file is wrong."""
        from jobdeck.core import settings as configuration  # noqa: PLC0415 -- needed for a completion only
        from jobdeck.core.read.operators.preferences import preferences_of  # noqa: PLC0415 -- needed for a completion only

        del ctx
        with suppress(JobdeckError):
            return list(preferences_of(configuration.load()).filters())
        return []


COMPLETED: Final = {"TYPE": TaskType, "FILTER": FilterText}
"""The types of the parameters with these placeholders."""


def complete_parameters(params: Sequence[click.Parameter], registered: Callable[[click.Context], list[str]]) -> None:
    """Lets shells complete the parameters of a command that are a task type or a filter.

    `registered` returns the task types of the handlers.
    """
    for parameter in params:
        if parameter.type is click.STRING and parameter.metavar in COMPLETED:
            parameter.type = COMPLETED[parameter.metavar](registered)


def _items(words: Iterable[str]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 -- needed for a completion only

    return [CompletionItem(word) for word in words]
