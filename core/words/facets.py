"""What commands and the dashboard say of facets alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jobdeck.core.redact import harmless_json, scrub_field
from jobdeck.core.words.wording import percent

if TYPE_CHECKING:
    from jobdeck.core.model import Filter
    from jobdeck.core.read.stats.facets import Facet, Facets

LEAST: Final = 10
"""How many runs have to have a value, and to be compared with."""
LONGEST: Final = 200
"""Characters of a value that a filter compares."""
ONE_VALUE: Final = "one value"
"""In place of a value that the session may not see."""


def value(facet: Facet) -> str:
    """The value of an odd facet, masked as it is in a payload."""
    if facet.hidden:
        return ONE_VALUE
    return masked(facet.key, facet.value) if facet.kind == "payload" else str(facet.value)


def masked(key: str, found: object) -> str:
    """A value of a payload key as text, masked."""
    shown = scrub_field(key, found)
    return shown if isinstance(shown, str) else harmless_json(shown)


def filter_of(wanted: Filter, facet: Facet) -> Filter | None:
    """The filter for those of its jobs that have the value of a facet; None if no filter can have both."""
    found = facet.value
    if facet.kind != "payload" or facet.hidden or isinstance(found, dict | list):
        return None
    if wanted.payload or wanted.payload_is:
        return None
    text = found if isinstance(found, str) else harmless_json(found)
    if not text or not text.isprintable() or len(text) > LONGEST:
        return None
    return replace(wanted, payload_is=(facet.key, text))


def nothing_to_compare(facets: Facets) -> str:
    """Why no value can be odd; empty where some could be."""
    compared = next((facet.compared for facet in facets.all), 0)
    if facets.read < LEAST:
        return f"Too few to compare: a value counts from {LEAST} jobs on."
    if not facets.all:
        return "No payload key has at most 200 values among these jobs."
    if compared < LEAST:
        return f"This type has fewer than {LEAST} runs to compare with."
    return ""


def share(part: float) -> str:
    return percent(round(part, 2)) if part >= 0.01 or not part else "<1 %"


def usual(facets: Facets) -> str:
    """The keys whose values are as common as in all runs of the type, and how many runs were later tries."""
    return ", ".join(
        f"{facet.key} ({facet.value} tries {share(facet.share)})" if facet.kind == "attempt" else facet.key
        for facet in facets.usual
    )
