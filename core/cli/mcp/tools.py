"""One tool: what an assistant may ask, with its arguments, and how it reaches the database."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from jobdeck.core.cli import failures
from jobdeck.core.cli.mcp.quoting import quote, refused, written
from jobdeck.core.errors import UsageError, meant
from jobdeck.core.read.batch import Connection, as_viewer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jobdeck.core.cli.session import Session

SHORT: Final = 200
"""Characters of one text in an answer that lists."""
LONG: Final = 2000
"""Characters of one text in an answer about one thing."""


class Arguments(BaseModel):
    """The arguments of a tool. Another argument than its own is refused."""

    model_config = ConfigDict(extra="forbid")


class Access:
    """How the tools reach the database: each call has a connection of its own, with the role of the command."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.actor = f"{session.actor} via mcp"
        """The actor for the audit log."""

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that changes nothing, and sees what a viewer sees.

        Raises:
            JobdeckError: as `Session.connection`.
        """
        with self.session.connection() as conn, as_viewer(conn):
            yield conn


@dataclass(frozen=True, slots=True)
class Tool:
    """What an assistant may ask. `run` gets validated arguments; `longest` limits each text of its answer."""

    name: str
    description: str
    arguments: type[Arguments]
    run: Callable[[Access, Any], Any]
    longest: int = SHORT
    changes: bool = False
    destroys: bool = False


def call(tools: Mapping[str, Tool], access: Access, name: str, given: Mapping[str, Any]) -> tuple[str, bool]:
    """Carries out a call; returns the text of its answer, and whether it was refused or failed.

    Every error becomes a sentence, as the commands write it.
    """
    try:
        tool = _named(tools, name)
        answer = tool.run(access, _validated(tool, given))
        return written(quote(answer, tool.longest)), False
    except Exception as error:  # noqa: BLE001 -- the assistant gets a sentence, and the log file the traceback
        return refused(failures.explain(error)[1]), True


def _named(tools: Mapping[str, Tool], name: str) -> Tool:
    if name not in tools:
        raise UsageError(f"There is no tool {name[:64]}{meant(name[:64], tools)}")
    return tools[name]


def _validated(tool: Tool, given: Mapping[str, Any]) -> Arguments:
    try:
        return tool.arguments.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the arguments"
        raise UsageError(f"The tool {tool.name} cannot use {where}: {first['msg']}. Nothing was done.") from None
