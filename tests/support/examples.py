"""How many examples a property is tried with: few in `./test`, all in `./test --long`, more where that is asked for."""

from __future__ import annotations

import os
from typing import Final

WANTED: Final = os.environ.get("JOBDECK_TEST_EXAMPLES", "")
"""`all`, or how many times all of them."""

THOROUGH: Final = WANTED == "all" or WANTED.isdecimal()
SHARE: Final = 10


def examples(number: int) -> int:
    """This number where there is time; a tenth of it, and at least five, where there is not."""
    times = int(WANTED) if WANTED.isdecimal() else 1
    return number * times if THOROUGH else max(number // SHARE, min(number, 5))
