"""`producers`: the programs that enqueue over HTTP, each with a token, a list of types and a rate."""

from __future__ import annotations

import re
from typing import Final

import click

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Group, Session, command, dry_run_option, shared_options
from jobdeck.core.errors import UsageError
from jobdeck.core.queue.producers import tokens
from jobdeck.core.queue.producers.tokens import Rate

HEADER: Final = ("NAME", "TYPES", "RATE", "LAST USED", "CREATED", "BY")
UNITS: Final = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600, "d": 86_400, "day": 86_400}
_SHORTEST: Final = {1: "s", 60: "min", 3600: "h", 86_400: "day"}
_RATE: Final = re.compile(r"([0-9]{1,7})/([a-z]+)")


@command("add")
@click.argument("name", metavar="NAME")
@click.option("--types", required=True, metavar="TYPE,…", help="Task types that it may enqueue, separated by commas.")
@click.option("--rate", required=True, metavar="RATE", help="Jobs that it may enqueue: 60/min, or per s, h or day.")
@click.option("--replace", is_flag=True, help="Give an existing producer another token, types and rate.")
@dry_run_option
def add(session: Session, name: str, types: str, rate: str, replace: bool, dry_run: bool) -> None:
    """Create a producer and show its token, once.

    The queue stores only a hash of the token. With --replace, the former token is refused from now on.
    """
    listed = list(dict.fromkeys(one.strip() for one in types.split(",") if one.strip()))
    limit = _rate(rate)
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        token = tokens.add(conn, name, listed, limit, replace=replace, actor=session.actor)
        made = next(one for one in tokens.listed().run(conn) if one.name == name)
    for unknown in (one for one in listed if session.registry.get(one) is None):
        output.note(
            f"No module that is loaded here registers {unknown} as a task type. The HTTP server refuses types that it "
            "does not know."
        )
    verb = "would be" if dry_run else "is"
    lines = [
        f"The producer {name} {verb} {'replaced' if replace else 'created'}: {_words(made.jobs, made.per_seconds)}."
    ]
    if not dry_run:
        lines += ["Its token, which is not shown again:", token]
    session.answer({"producer": made, "token": None if dry_run else token, "dry_run": dry_run}, lines)


@command("list")
def listed(session: Session) -> None:
    """List the producers."""
    found = session.read(tokens.listed())
    rows = [
        (
            one.name,
            ", ".join(one.task_types),
            _words(one.jobs, one.per_seconds),
            output.when(one.used_at) if one.used_at else "never",
            output.when(one.created_at),
            one.created_by,
        )
        for one in found
    ]
    session.answer({"producers": found}, output.table(HEADER, rows) or ["No producers."])


@command("revoke")
@click.argument("name", metavar="NAME")
@dry_run_option
def revoke(session: Session, name: str, dry_run: bool) -> None:
    """Remove a producer. Its token is refused from now on; its jobs stay."""
    with session.connection() as conn, conn.transaction(force_rollback=dry_run):
        tokens.revoke(conn, name, actor=session.actor)
    session.answer(
        {"revoked": name, "dry_run": dry_run}, [f"The producer {name} {'would be' if dry_run else 'is'} revoked."]
    )


def _rate(text: str) -> Rate:

    match = _RATE.fullmatch(text.strip().lower())
    if match is None or match[2] not in UNITS:
        raise UsageError(f"--rate needs a number of jobs and a unit, like 60/min; {text[:60]!r} is none.")
    return Rate(int(match[1]), UNITS[match[2]])


def _words(jobs: int, per_seconds: int) -> str:
    unit = _SHORTEST.get(per_seconds, f"{per_seconds} s")
    return f"{jobs:,} {'job' if jobs == 1 else 'jobs'} per {unit}"


producers = Group(
    "producers",
    commands={"add": add, "list": listed, "revoke": revoke},
    params=shared_options(),
    help="Manage the programs that enqueue jobs over HTTP.",
)
