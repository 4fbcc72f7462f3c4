"""Facets of a group of errors and of the jobs of a list, as lines. Pure; foreign text is cleaned and masked here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobdeck.core.words import facets as words
from jobdeck.tui.format import fit, one_line, plural, wrapped
from jobdeck.tui.text.lines import LABEL, facts
from jobdeck.tui.widgets.pane import BLANK, Entry, entry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobdeck.core.read.stats.facets import Facet, Facets
    from jobdeck.tui.widgets.ink import Span

NO_PATTERN: Final = "no pattern in"
"""Before the keys whose values are as common as in all runs of the type."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was read of a list: its first jobs, whether it has more, how many types they have, and facets by type."""

    jobs: int
    more: bool
    types: int
    facets: Mapping[str, Facets]


def facet_lines(facets: Facets, read: str, width: int, hold_key: str, *, task_type: str = "") -> list[Entry]:
    """The values that are more common than in all runs of the type; the other keys are named in one line.

    `read` says how much was read. The last line says what can be held, and with which key. Each value's line has the
    key ("facet", task type, payload key).
    """
    found = [line for facet in facets.odd for line in _odd(facet, task_type, width)]
    usual = one_line(words.usual(facets))
    last = (NO_PATTERN, f"{usual}; {read}") if usual else ("facets", read)
    found += facts([(*last, "text")], width, most=2)
    held = facets.first_to_hold
    if held is not None:
        which = f"{one_line(held.key)} {one_line(words.value(held))}"
        found += facts([("", f"{hold_key} holds the jobs with {which}; all others go on", "text")], width, most=1)
    return found


def sample_lines(sample: Sample, width: int, nothing: str, hold_key: str) -> list[Entry]:
    """The facets of each type of a sample; without a job what `nothing` says."""
    if not sample.jobs:
        return [entry((f" {part}", "muted")) for part in wrapped(nothing, max(width - 2, 20))]
    found: list[Entry] = []
    for task_type, facets in sample.facets.items():
        name = fit(one_line(task_type), max(width - 2, 8)).rstrip()
        found += [*([BLANK] if found else []), entry((f" {name}", "run"), key=("type", task_type))]
        read, why = f"{plural(facets.read, 'job')} read", words.nothing_to_compare(facets)
        if why:
            found += facts([("facets", f"{why} {read}.", "muted")], width)
        else:
            found += facet_lines(facets, read, width, hold_key, task_type=task_type)
    left = sample.types - len(sample.facets)
    return [*found, BLANK, entry((f" {plural(left, 'other type')} among them.", "muted"))] if left > 0 else found


def _odd(facet: Facet, task_type: str, width: int) -> list[Entry]:
    """The share of a value in the sample, above its share in all runs."""
    bar = min(max(width - LABEL - 40, 8), 24)
    value = one_line(words.value(facet))
    found = []
    for label, part in (("these", facet.share), ("all", facet.usual)):
        these = label == "these"
        counted = f"{label:<5} {words.share(part):>6} "
        drawn = "█" * max(round(part * bar), 1 if part else 0)
        said = fit(value, max(width - LABEL - len(counted) - bar - 2, 8)) if these else ""
        first: Span = (f" {fit(one_line(facet.key), LABEL - 1) if these else '':<{LABEL - 1}} ", "muted")
        spans = (first, (counted, "text"), (f"{drawn:<{bar}} ", "bad" if these else "muted"), (said.rstrip(), "strong"))
        found.append(entry(*spans, key=("facet", task_type, facet.key) if these else None))
    return found
