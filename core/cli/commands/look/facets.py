"""Facets as lines and as JSON, for the commands that show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.cli import output
from jobdeck.core.words import facets as words

if TYPE_CHECKING:
    from jobdeck.core.model import Json
    from jobdeck.core.read.stats.facets import Facets


def facet_section(found: Facets, title: str) -> list[str]:
    """The values that are more common than in all runs of the type, and the keys without one."""
    header = ("KEY", "VALUE", "THESE", "ALL RUNS")
    odd = [(one.key, words.value(one), words.share(one.share), words.share(one.usual)) for one in found.odd]
    usual = words.usual(found)
    return output.section(title, [*output.table(header, odd), *([f"No pattern in: {usual}."] if usual else [])])


def facets_json(found: Facets) -> Json:
    """The same as JSON. A value that the session may not see is left out."""
    odd = [
        {"key": one.key, "kind": one.kind, "share": one.share, "usual_share": one.usual}
        | ({} if one.hidden else {"value": words.value(one)})
        for one in found.odd
    ]
    return {"read": found.read, "odd": odd, "usual": [one.key for one in found.usual]}
