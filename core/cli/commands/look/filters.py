"""`filter`: filters that a person has saved under a name, which `--filter @NAME` and the dashboard use."""

from __future__ import annotations

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Group, Session, command, shared_options
from jobdeck.core.errors import UsageError
from jobdeck.core.read.filters import parse_filter
from jobdeck.core.read.operators.preferences import SIGN


@command("list")
def listed(session: Session) -> None:
    """List the saved filters."""
    found = session.preferences.filters()
    troubles = {name: _trouble(text) for name, text in found.items()}
    rows = [(f"{SIGN}{name}", output.line(text), troubles[name]) for name, text in found.items()]
    session.answer(
        {"filters": [{"name": name, "filter": text, "trouble": troubles[name]} for name, text in found.items()]},
        output.table(("NAME", "FILTER", ""), rows) if rows else ["No saved filters."],
    )


def _trouble(text: str) -> str | None:
    try:
        parse_filter(text)
    except UsageError as error:
        return str(error)
    return None


@command("save")
@click.argument("name")
@click.argument("words", metavar="FILTER")
def save(session: Session, name: str, words: str) -> None:
    """Save a filter under a name, in place of an earlier one of this name."""
    session.preferences.save_filter(name.removeprefix(SIGN), words)
    shown = f"{SIGN}{name.removeprefix(SIGN).lower()}"
    session.answer(
        {"name": shown.removeprefix(SIGN), "filter": words.strip()},
        [f"Saved as {shown}. Use it with --filter {shown}."],
    )


@command("delete")
@click.argument("name")
def delete(session: Session, name: str) -> None:
    """Delete a saved filter."""
    session.preferences.delete_filter(name)
    shown = name.removeprefix(SIGN).lower()
    session.answer({"name": shown, "deleted": True}, [f"{SIGN}{shown} is deleted."])


filter = Group(  # noqa: A001 -- the name of the command
    "filter",
    commands={"list": listed, "save": save, "delete": delete},
    params=shared_options(),
    help="Show and save filters of your own.",
)
