"""The records of one run, and what they say of figures that are wanted.

A figure is the median of its records, and a ratio is of two medians of one run, or the median of those ratios that a
measurement computed from its own turns. What has no record is "not measured in this run".
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

OURS, BARE = "jobdeck", "raw"
ABSENT = "not measured in this run"
SIGNS: dict[str, Callable[[float, float], bool]] = {
    "≥": operator.ge,
    ">": operator.gt,
    "≤": operator.le,
    "<": operator.lt,
}


class Best(NamedTuple):
    """The best median among some peers and their settings."""

    peer: str
    value: float


class Records:
    """The lines of one run."""

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self._lines = [line for line in lines if "peer" in line]

    def peers(self) -> set[str]:
        """All that were measured, Jobdeck and the bare loop among them."""
        return {line["peer"] for line in self._lines}

    def values(self, workload: str, field: str, **where: Any) -> list[Any]:
        """A field of all lines of a workload that have it, in the order of the run."""
        return [
            line[field]
            for line in self._lines
            if line["workload"] == workload
            and line.get(field) is not None
            and all(line.get(name) == value for name, value in where.items())
        ]

    def middle(self, workload: str, field: str, *, peer: str = OURS, **where: Any) -> float | None:
        """The median of one peer's lines."""
        found = self.values(workload, field, peer=peer, **where)
        return median(found) if found else None

    def best(self, workload: str, field: str, *names: str, least: bool = False, **where: Any) -> Best | None:
        """The best of these, or of all other libraries, each at the best of its settings."""
        among = names or self.peers() - {OURS, BARE}
        settings = {(line["peer"], line["setting"]) for line in self._lines if line["peer"] in among}
        medians = [
            Best(peer, median(found))
            for peer, setting in sorted(settings)
            if (found := self.values(workload, field, **({"peer": peer, "setting": setting} | where)))
        ]
        return (min if least else max)(medians, key=lambda one: one.value) if medians else None


@dataclass(frozen=True)
class Part:
    """One figure that is wanted. Shares have the unit `%`; `fact` is for what is so (1) or not (0)."""

    name: str
    sign: str
    limit: float
    unit: str
    value: float | None

    @property
    def held(self) -> bool:
        """Whether what was measured is what is wanted."""
        return self.value is not None and SIGNS[self.sign](self.value, self.limit)

    def wanted(self) -> str:
        """What is wanted, in words."""
        if self.unit == "fact":
            return self.name
        limit = f"{100 * self.limit:g} %" if self.unit == "%" else f"{self.limit:,g} {self.unit}"
        return self._named(f"{self.sign} {limit}".strip())

    def measured(self) -> str:
        """What was measured, in words."""
        if self.value is None or self.unit == "fact":
            return self.margin()
        return self._named(show(self.value, self.unit))

    def _named(self, figure: str) -> str:
        parts = (figure, self.name) if self.name.startswith(("of ", "the ")) else (self.name, figure)
        return " ".join(part for part in parts if part)

    def margin(self) -> str:
        """By how much it is reached or missed."""
        if self.value is None:
            text = ABSENT
        elif self.unit == "fact":
            text = "yes" if self.held else "no"
        elif self.held:
            text = f"{self._distance(self.value)} to spare"
        else:
            text = f"{self._distance(self.value)} {'too little' if self.sign in '≥>' else 'too much'}"
        return f"{self.name}: {text}" if self.name else text

    def _distance(self, value: float) -> str:
        distance = abs(value - self.limit) * (100 if self.unit == "%" else 1)
        unit = "points" if self.unit == "%" else self.unit
        return f"{distance:,.0f} {unit}".strip() if distance >= 10 else f"{distance:.2g} {unit}".strip()


@dataclass(frozen=True)
class Row:
    """One line of the table. `limited` says what there was less of than is wanted."""

    workload: str
    parts: tuple[Part, ...]
    beside: tuple[str, ...] = ()
    limited: str = ""

    def reached(self) -> str:
        """Yes or no, and by how much."""
        measured = [part for part in self.parts if part.value is not None]
        if not measured:
            return ABSENT
        word = "yes" if all(part.held for part in measured) else "**no**"
        if word == "yes" and len(measured) < len(self.parts):
            word = "yes, as far as measured"
        if self.limited:
            word += f" ({self.limited})"
        return f"{word}: {'; '.join(part.margin() for part in self.parts)}"

    def cells(self) -> Iterator[str]:
        """The columns of the table."""
        yield self.workload
        yield "; ".join(part.wanted() for part in self.parts)
        if any(part.value is not None for part in self.parts):
            yield "; ".join([*(part.measured() for part in self.parts), *self.beside])
        else:
            yield ABSENT
        yield self.reached()


def show(value: float, unit: str = "") -> str:
    """A figure with its unit."""
    if unit == "%":
        return f"{100 * value:.1f} %"
    figure = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return f"{figure}{unit}" if unit == "/s" else f"{figure} {unit}".strip()


def told(name: str, value: float | None, unit: str = "") -> list[str]:
    """A figure beside those that are wanted, if there is one."""
    return [] if value is None else [f"{name} {show(value, unit)}"]


def over(value: float | None, base: float | None) -> float | None:
    """A ratio, where both are known."""
    return value / base if value is not None and base else None


def limited(found: float | None, wanted: float, what: str, *, enough: float = 1) -> str:
    """What there was less of than is wanted: the number of jobs, or their rate."""
    if found is None or found >= enough * wanted:
        return ""
    return f"of {show(found)} {what}, not of {show(wanted)}"
