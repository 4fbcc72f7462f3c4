"""What the parts of the live backend share: the way to the database, the task types, and who is asking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from jobdeck.core.registry import Registry
    from jobdeck.core.settings import Settings


@dataclass(frozen=True, slots=True)
class Link:
    """`reach` gives a connection for doing something, `told` puts errors in words that say what was being done.

    `pool` is the database, `known` the task types, `who` the actor as the audit records it.
    """

    settings: Settings
    reach: Callable[[str], AbstractContextManager[Any]]
    told: Callable[[str], AbstractContextManager[None]]
    pool: Callable[[], Any]
    known: Callable[[], Registry]
    who: Callable[[], str]
