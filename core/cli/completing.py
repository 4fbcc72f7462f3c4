"""What a shell completes beyond commands, options and the words of lists: task types and filters."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import click

from jobdeck.core.errors import JobdeckError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from click.shell_completion import CompletionItem

COMPLETING: Final = "_JOBDECK_COMPLETE"
"""Set by the script of a shell, which asks for completions by running `jobdeck`."""


class TaskType(click.ParamType):
    """A task type; a shell completes those of the handlers that are imported."""

    name = "type"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param
        return _items(name for name in _names(ctx) if name.startswith(incomplete))


class FilterText(click.ParamType):
    """A filter; a shell completes its last word: a key, a status, an outcome or a task type."""

    name = "filter"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from jobdeck.core.read.filters import completions  # noqa: PLC0415 -- needed for a completion only

        del param
        before = incomplete[: len(incomplete) - len(incomplete.rpartition(" ")[2])]
        return _items(f"{before}{word}" for word in completions(incomplete, _names(ctx)))


COMPLETED: Final = {"TYPE": TaskType(), "FILTER": FilterText()}
"""The types of the parameters with these placeholders."""


def complete_parameters(params: Sequence[click.Parameter]) -> None:
    """Lets shells complete the parameters of a command that are a task type or a filter."""
    for parameter in params:
        if isinstance(parameter.metavar, str) and parameter.type is click.STRING:
            parameter.type = COMPLETED.get(parameter.metavar, parameter.type)


def _names(ctx: click.Context) -> list[str]:
    """The task types of the handlers, or none if a setting or a module is wrong: a completion reports no errors."""
    from jobdeck.core.cli.session import Session  # noqa: PLC0415 -- the session has these parameters

    with suppress(JobdeckError):
        return ctx.ensure_object(Session).registry.names
    return []


def _items(words: Iterable[str]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 -- needed for a completion only

    return [CompletionItem(word) for word in words]
