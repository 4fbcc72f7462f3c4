"""The command `fleet`: one line for each of several databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.cli import output
from jobdeck.core.cli.session import Session, command
from jobdeck.core.model import Json, Status, Verdict
from jobdeck.core.words.tables import DATABASES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.fleet import Member, Reading


@command("fleet", several=True)
def fleet(session: Session) -> int | None:
    """Show the health of several databases, worst first.

    Give --database-url for each of them; without it, those of JOBDECK_DATABASES are shown. The exit code is the highest
    that `jobdeck health` has on one of them.
    """
    from jobdeck.core import fleet as databases  # noqa: PLC0415 -- imported on first use

    members = databases.members(session.settings_of_fleet, session.database_urls)
    readings = databases.read_each(members)
    lines = sorted(zip(members, readings, strict=True), key=lambda line: databases.rank(line[1]))
    session.answer({"databases": [_json(*line) for line in lines]}, _text(lines))
    return max(map(databases.exit_code, readings)) or None


def _json(member: Member, reading: Reading) -> Json:
    from jobdeck.core.fleet import Trouble, word  # noqa: PLC0415 -- imported on first use

    found = None if isinstance(reading, Trouble) else reading
    counts = found.counts if found else None
    wrong = [one for one in found.health.findings if one.verdict is not Verdict.OK] if found else []
    return {
        "name": member.name,
        "address": member.label,
        "state": word(reading),
        "problem": reading.message if isinstance(reading, Trouble) else None,
        "at": found and found.at,
        "evidence": wrong,
        "pending": counts and counts.pending,
        "failed": counts and counts.failed,
        "estimated": {name: bool(counts and counts.is_about(Status(name))) for name in ("pending", "failed")},
        "workers": found and found.workers,
        "oldest_due": found and found.health.oldest_due,
    }


def _text(lines: Sequence[tuple[Member, Reading]]) -> list[str]:
    from jobdeck.core.fleet import Trouble, word  # noqa: PLC0415 -- imported on first use

    rows = [(member.name, word(reading), *_row(reading)) for member, reading in lines]
    troubles = [(member.name, reading.message) for member, reading in lines if isinstance(reading, Trouble)]
    header = ("DATABASE", "STATE", *(one.heading for one in DATABASES), "EVIDENCE")
    return [
        *output.table(header, rows, least=("WORKERS", "WAIT")),
        *output.section("No figures", output.facts(troubles)),
    ]


def _row(reading: Reading) -> list[str | None]:
    from jobdeck.core.fleet import Trouble  # noqa: PLC0415 -- imported on first use

    if isinstance(reading, Trouble):
        return [*(None for _ in DATABASES), reading.brief]
    worst = reading.health.findings[0]
    evidence = None if worst.verdict is Verdict.OK else worst.evidence
    return [*(one.whole(reading) for one in DATABASES), evidence]
