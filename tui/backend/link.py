"""Access to database, task types and user, shared by the parts of the live backend."""

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
    """`reach` gives a connection and `translated` turns errors into `JobdeckError`; both take a phrase like "to read".

    `pool` is the database, `known` the task types, `who` the user name for the audit log.
    """

    settings: Settings
    reach: Callable[[str], AbstractContextManager[Any]]
    translated: Callable[[str], AbstractContextManager[None]]
    pool: Callable[[], Any]
    known: Callable[[], Registry]
    who: Callable[[], str]
