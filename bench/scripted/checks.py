"""What was compared, and what did not hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable


class Checks:
    """Prints each comparison, and remembers those that do not hold."""

    def __init__(self) -> None:
        self.made = 0
        self.failed: list[str] = []
        self._began = time.monotonic()

    def chapter(self, title: str) -> None:
        """Prints a heading with the time since the beginning."""
        print(f"\n{title} ({time.monotonic() - self._began:.0f} s)", flush=True)

    def equal(self, what: str, found: Any, expected: Any) -> bool:
        """Whether a figure is exactly what is expected."""
        if found == expected:
            return self._note(what, True, f"found and expected {_shown(found)}")
        return self._note(what, False, f"found {_shown(found)}, expected {_shown(expected)}")

    def holds(self, what: str, held: object, found: Any, expected: str) -> bool:
        """Whether a condition holds; `expected` says it in words."""
        return self._note(what, bool(held), f"found {_shown(found)}, expected {expected}")

    def becomes(self, what: str, condition: Callable[[], object], seconds: float) -> bool:
        """Waits until a condition holds, at most so long."""
        deadline = time.monotonic() + seconds
        while not (found := condition()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return self._note(what, bool(found), f"found {_shown(found)}, expected within {seconds:.0f} s")

    def _note(self, what: str, held: bool, words: str) -> bool:
        self.made += 1
        if not held:
            self.failed.append(f"{what}: {words}")
        print(f"  {'ok  ' if held else 'FAIL'} {what}: {words}", flush=True)
        return held


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_shown(key)}: {_shown(one)}" for key, one in sorted(value.items(), key=str)) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(_shown, value)) + ")"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def judged(tell: Callable[[Checks], None]) -> int:
    """Tells a story and prints what did not hold; returns the number of these comparisons."""
    began, checks = time.monotonic(), Checks()
    try:
        tell(checks)
    except (TimeoutError, RuntimeError, LookupError, ValueError, psycopg.Error) as error:
        checks.holds("every step is carried out", False, repr(error), "no error")
    print(f"\n{checks.made} comparisons, {len(checks.failed)} did not hold, {time.monotonic() - began:.0f} s")
    for line in checks.failed:
        print(f"  FAIL {line}")
    return len(checks.failed)
