"""How many examples a property is tried with: few in `./test`, all in `./test --long`."""

from __future__ import annotations

import os
from typing import Final

THOROUGH: Final = os.environ.get("JOBDECK_TEST_EXAMPLES") == "all"
SHARE: Final = 10


def examples(number: int) -> int:
    """This number where there is time; a tenth of it, and at least five, where there is not."""
    return number if THOROUGH else max(number // SHARE, min(number, 5))
