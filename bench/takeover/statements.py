"""Tries the original's statements at a stage, and compares each answer with that of the original's own database."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from bench.scripted.world import ROOT
from tests.support.original_statements import IDS, OF_OTHER_TABLES, Statement, acting, of_a_job, of_the_queue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID

    from bench.scripted.checks import Checks

    Connection = psycopg.Connection[Any]

OUR_REFUSAL = "JD001"
NO_RIGHT = "42501"
OF_CONSTRAINTS = "23"
BY_THE_PAGE = {
    "insert statistics": ("game_platform_stats", 0),
    "update statistics": ("game_platform_stats", 1),
    "delete a running job as an admin": ("delete a running job", 0),
}
"""Statements that may change this number of rows instead, while a table of cutover.md has these words."""


class Answer(NamedTuple):
    """How many rows a statement changed or found, or the code and the text of its refusal."""

    rows: int | None
    code: str | None = None
    text: str = ""

    def __str__(self) -> str:
        return f"{self.rows} rows" if self.code is None else f"refused ({self.code}): {self.text}"


def tries(jobs: Mapping[str, UUID]) -> Iterator[tuple[Statement, UUID | None]]:
    """All statements; those about a job once for each state that `jobs` has one of."""
    for one in (*of_the_queue(), *OF_OTHER_TABLES):
        yield one, None
    for state, job in jobs.items():
        for one in of_a_job(state):
            yield one, job


def ask(conn: Connection, statement: Statement, job: UUID | None) -> Answer:
    """What the database answers. Nothing is changed."""
    try:
        with conn.transaction(force_rollback=True), acting(conn, statement.speaker):
            found = conn.execute(statement.text.encode(), IDS | {"job": job}).rowcount
    except psycopg.Error as error:
        return Answer(None, error.sqlstate, error.diag.message_primary or str(error))
    # How many rows a list has differs from stage to stage.
    return Answer(min(found, 1) if statement.text.lstrip().startswith("SELECT") else found)


def ask_all(conn: Connection, jobs: Mapping[str, UUID]) -> dict[str, Answer]:
    return {one.name: ask(conn, one, job) for one, job in tries(jobs)}


class Page:
    """What docs/competition/cutover.md says that this queue answers differently."""

    def __init__(self) -> None:
        text = (ROOT / "docs" / "competition" / "cutover.md").read_text(encoding="utf-8")
        self.sentences = [one.split("…") for one in re.findall(r'refused: "([^"]+)"', text)]
        self._first_cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]

    def has(self, sentence: str) -> bool:
        """Whether a refusal is in it; … is for what differs."""
        return any(re.match(".*".join(map(re.escape, one)), sentence) for one in self.sentences)

    def lists(self, name: str) -> bool:
        """Whether one of its tables is about this object or statement of the original's."""
        return any(name in cell for cell in self._first_cells)


def compare(checks: Checks, stage: str, before: Mapping[str, Answer], now: Mapping[str, Answer], page: Page) -> None:
    """One line for the stage, and one for each statement whose answer is neither the original's nor in the page."""
    wrong = {name: one for name, one in now.items() if not _may_be(name, before[name], one, page)}
    refused = sum(one.code == OUR_REFUSAL for one in now.values())
    checks.holds(
        f"{stage}: statements answered as before, or refused as the page says", not wrong,
        f"{len(now) - len(wrong)} of {len(now)}, {refused} refused", f"{len(now)} of {len(now)}",
    )  # fmt: skip
    for name, one in wrong.items():
        checks.holds(f"{stage}: {name}", False, str(one), f"{before[name]}, or a sentence of the page")


def _may_be(name: str, before: Answer, now: Answer, page: Page) -> bool:
    if now.code is None:
        words, rows = BY_THE_PAGE.get(name, ("", before.rows))
        is_same = now.rows == before.rows or (now.rows == rows and page.lists(words))
        # What the original's own functions could not do may work. A right that is new may not.
        return is_same or before.code not in {None, NO_RIGHT}
    if now.code.startswith(OF_CONSTRAINTS):
        return False
    # Who had no right has none.
    return page.has(now.text) or now.code == before.code == NO_RIGHT
