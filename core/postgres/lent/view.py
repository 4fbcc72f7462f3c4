"""The database as code of an application gets it."""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol, TypeVar


class _Lends(Protocol):
    """A database, which this room must not import."""

    def lend(self) -> Any:
        """A connection for code of an application."""


D = TypeVar("D", bound=_Lends)


def for_application(database: D | None) -> D | None:
    """What a function gets that opens the resources of task types; None where the runs have no database.

    It is the same database and pool. What is borrowed from the pool is lent: see `Loan`.
    """
    if database is None:
        return None
    view = copy(database)
    vars(view)["connection"] = database.lend
    return view
