"""How many examples a property is tried with: a tenth in `./test`, a quarter in `./test --long`, all in `--release`."""

from __future__ import annotations

import os
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings

WANTED: Final = os.environ.get("JOBDECK_TEST_EXAMPLES", "")
"""`quarter` or `all` of the examples, or how many times all of them."""

THOROUGH: Final = WANTED in {"quarter", "all"} or WANTED.isdecimal()
SHARE: Final = 10


def examples(number: int) -> int:
    """The wanted part of this number, or a tenth of it; always at least five, if it is at least five."""
    if WANTED.isdecimal():
        return number * int(WANTED)
    share = {"all": 1, "quarter": 4}.get(WANTED, SHARE)
    return max(number // share, min(number, 5))


def machine_settings(number: int, *, steps: int = 40, **changes: Any) -> settings:
    """How a state machine is tried: with the same examples each time, without a store of those that failed."""
    given: dict[str, Any] = {
        "max_examples": examples(number),
        "stateful_step_count": steps,
        "deadline": None,
        "derandomize": True,
        "database": None,
        "suppress_health_check": list(HealthCheck),
        "phases": (Phase.generate,),
        **changes,
    }
    return settings(**given)
