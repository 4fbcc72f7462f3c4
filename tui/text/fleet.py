"""The text of the fleet: a line for each database, and the details of the current one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.fleet import Reading, Trouble, word
from jobdeck.core.model import Verdict
from jobdeck.core.words.tables import DATABASES
from jobdeck.tui.format import (
    DASH,
    VERDICT_INK,
    count,
    fit,
    middle,
    one_line,
    plural,
    seconds,
    since,
    wrapped,
)
from jobdeck.tui.text.cron_health import GLYPHS
from jobdeck.tui.text.lines import cells, heading, width_of
from jobdeck.tui.widgets.pane import Entry, entry
from jobdeck.tui.widgets.status_bar import LATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobdeck.core.read.pages.overview import DatabaseFigures
    from jobdeck.tui.widgets.ink import Span

STATE: Final = 8
AGE: Final = 5
FIGURES: Final = width_of(DATABASES)
LEAST_NAME: Final = 8
LEAST_NOTE: Final = 12
"""With less room than this, the evidence is shown below the list only."""


def name_width(names: Iterable[str], width: int) -> int:
    """The width of the first column: that of the longest name, so far as the other columns leave room for it."""
    longest = max((len(one_line(name)) for name in names), default=LEAST_NAME)
    return max(min(longest, width - 1 - (STATE + 2) - (AGE + 1) - FIGURES), LEAST_NAME)


def columns(named: int, width: int) -> str:
    """The heading of the lines."""
    head = f" {fit('database', named)}  {'state':<{STATE}} {'age':>{AGE}}"
    return fit(f"{head}{heading(DATABASES)}  {'evidence' if _room(named, width) >= LEAST_NOTE else ''}", width)


def line(name: str, reading: Reading | None, old: float | None, pace: float, named: int, width: int) -> Entry:
    """One database. Its figures are `old` seconds old, None where it has none; every state is a word as well."""
    shown = fit(middle(one_line(name), named), named)
    head: tuple[Span, ...] = ((f" {shown}  ", "text"),)
    if reading is None:
        return entry(*head, ("reading…", "muted"), key=("database", name))
    state, ink = word(reading), _ink(reading)
    head = (*head, (f"{state:<{STATE}}", ink), _age(old, pace))
    if isinstance(reading, Trouble):
        room = width - 1 - named - 2 - STATE - 1 - AGE - 2
        return entry(*head, (f"  {fit(one_line(reading.brief), room).rstrip()}", ink), key=("database", name))
    return entry(*head, *cells(DATABASES, reading), *_note(reading, _room(named, width)), key=("database", name))


def about(name: str, label: str, reading: Reading | None, width: int, *, last: DatabaseFigures | None,
          old: float | None, retry: float | None) -> tuple[list[Span], list[Entry]]:  # fmt: skip
    """The rule with name and address, and what is wrong with what to do.

    `last` are the last figures, `old` seconds ago. `retry` is in how many seconds a database is asked again.
    """
    address = f" {one_line(label)} " if label != name else ""
    rule: list[Span] = [(f" {one_line(name)} ", "tab"), (address, "muted")]
    if reading is None:
        return rule, [entry((" Reading…", "muted"))]
    if not isinstance(reading, Trouble):
        return rule, _findings(reading, width)
    found = [entry((f" {part}", "bad")) for part in wrapped(one_line(reading.message), max(width - 2, 20))]
    if last is not None and old is not None:
        counts = last.counts
        words = (
            f"{count(counts.pending)} pending, {count(counts.failed)} failed, {plural(last.workers, 'worker')}, "
            f"{last.health.verdict.value}"
        )
        found.append(entry((f" {seconds(old)} ago: {words}", "muted")))
    if retry is not None:
        found.append(entry((f" Asks again in {seconds(max(retry, 0.0))}.", "muted")))
    return rule, found


def summary(tally: Mapping[str, int]) -> list[Span]:
    """How many databases there are, and in which states, worst first."""
    spans: list[Span] = [(f"Fleet of {sum(tally.values())}  ", "accent")]
    for at, (state, number) in enumerate(tally.items()):
        spans += [(", ", "muted")] if at else []
        spans.append((f"{number} {state}", _INKS.get(state, "bad")))
    return spans


_INKS: Final[Mapping[str, str]] = {**{verdict.value: ink for verdict, ink in VERDICT_INK.items()},
                                   "not read yet": "muted"}  # fmt: skip


def _ink(reading: Reading) -> str:
    return _INKS.get(word(reading), "bad")


def _room(named: int, width: int) -> int:
    """What is left for the evidence."""
    return width - 1 - named - 2 - STATE - 1 - AGE - FIGURES - 2


def _age(old: float | None, pace: float) -> Span:
    """An age that is usual is not counted, so that it sends nothing over a slow line."""
    if old is None:
        return (f" {DASH:>{AGE}}", "muted")
    usual = pace + LATE
    text = f"<{seconds(usual)}" if old < usual else seconds(old)
    return (f" {text:>{AGE}}", "muted" if old < usual else "warn")


def _note(found: DatabaseFigures, room: int) -> list[Span]:
    worst = found.health.findings[0]
    if worst.verdict is Verdict.OK or room < LEAST_NOTE:
        return []
    return [(f"  {fit(one_line(worst.evidence), room).rstrip()}", VERDICT_INK[worst.verdict])]


def _findings(found: DatabaseFigures, width: int) -> list[Entry]:
    wrong = [finding for finding in found.health.findings if finding.verdict is not Verdict.OK]
    if not wrong:
        return [entry((f" {GLYPHS[Verdict.OK]} Nothing is wrong.", "good"))]
    lines = []
    for finding in wrong:
        begun = f" ({since(finding.since, found.at)})" if finding.since else ""
        text = f"{GLYPHS[finding.verdict]} {one_line(finding.evidence).rstrip('.')}{begun}"
        parts = wrapped(text, max(width - 2, 20))
        lines += [
            entry((f" {'' if not at else '  '}{part}", VERDICT_INK[finding.verdict])) for at, part in enumerate(parts)
        ]
    return lines
