"""Commands for personal data: `retention` and `erase`. Both need the owner of the tables to change something."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command, dry_run_option, yes_option
from jobdeck.core.errors import UsageError
from jobdeck.core.plugins import Erased, load_plugins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.plugins import Connection, Erasure


@command("retention")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--days", type=click.IntRange(1, 36_500), metavar="DAYS", help="Set the period of NAME.")
@click.option("--default", "reset", is_flag=True, help="Reset the period of NAME.")
@dry_run_option
def retention(session: Session, name: str | None, days: int | None, reset: bool, dry_run: bool) -> None:
    """List how long rows are kept, or set the period of one line."""
    from jobdeck.core.queue import privacy  # noqa: PLC0415 -- imported on first use

    if bool(name) != (days is not None or reset) or (days is not None and reset):
        raise UsageError("Give a NAME together with --days or with --default, or nothing to list the periods.")
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        if name:
            privacy.set_period(conn, name, days, actor=session.actor)
        found = privacy.periods().run(conn)
    if name:
        line = next(one for one in found if one.name == name)
        outcome = "would be kept" if dry_run else "are kept"
        session.answer({"retention": [line], "dry_run": dry_run}, [f"Rows of {name} {outcome} for {line.days} days."])
        return
    rows = [(line.name, line.component, line.days, "set by the owner" if line.chosen else "default") for line in found]
    session.answer({"retention": found}, output.table(("ROWS", "PART", "DAYS", "WHY"), rows))


@command("erase")
@click.option("--payload-key", metavar="KEY=VALUE", help="Erase the contents of jobs with this value in their payload.")
@click.option("--person", metavar="KIND=VALUE", help="Erase a person of a plugin, such as email=-; - reads the value.")
@click.option("--keep-shared", is_flag=True, help="Leave addresses that other people have too.")
@dry_run_option
@yes_option
def erase(
    session: Session, payload_key: str | None, person: str | None, keep_shared: bool, dry_run: bool, yes: bool
) -> None:
    """List where personal data is; with --yes erase it for good. docs/security.md says what stays."""
    looking = dry_run or not yes
    if bool(payload_key) == bool(person):
        raise UsageError("Give --payload-key or --person, and not both.")
    with session.connection() as conn, conn.transaction(force_rollback=looking):
        if payload_key:
            found = _jobs(session, conn, payload_key)
        else:
            found = _person(session, conn, person or "", keep_shared=keep_shared)
    places = _added_up(found)
    if looking and not dry_run:
        output.note("Nothing was changed. Run it again with --yes to erase it; it cannot be restored.")
    verb = "would be erased in" if looking else "erased in"
    lines = [f"{one.rows} {'row' if one.rows == 1 else 'rows'} {verb} {one.place}." for one in places]
    session.answer({"erased": places, "dry_run": looking}, lines)


def _jobs(session: Session, conn: Connection, payload_key: str) -> Sequence[Erased]:
    from jobdeck.core.queue import privacy  # noqa: PLC0415 -- imported on first use

    key, value = _parts(payload_key, "--payload-key")
    return privacy.erase_payload(conn, key, value, actor=session.actor)


def _person(session: Session, conn: Connection, person: str, *, keep_shared: bool) -> Sequence[Erased]:
    kind, value = _parts(person, "--person")
    ways: dict[str, Erasure] = {
        name: plugin.erase for plugin in load_plugins() if plugin.erase is not None for name in plugin.erase.people
    }
    if kind not in ways:
        known = ", ".join(f"{name} ({way.people[name]})" for name, way in ways.items())
        raise UsageError(
            f"There is no kind of person {kind!r}. Known: {known or 'none, because no plugin has people'}."
        )
    found: Sequence[Erased] = ways[kind].run(conn, session.settings, kind, value, keep_shared, session.actor)
    return found


def _parts(text: str, option: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if value == "-":
        value = sys.stdin.readline()
    if not name.strip() or not value.strip():
        raise UsageError(f"{option} needs a name and a value, like customerId=5.")
    return name.strip(), value.strip()


def _added_up(found: Sequence[Erased]) -> list[Erased]:
    """One line per place, in the order in which they came first."""
    rows: dict[str, int] = {}
    for one in found:
        rows[one.place] = rows.get(one.place, 0) + one.rows
    return [Erased(place, count) for place, count in rows.items() if count]
