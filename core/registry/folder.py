"""The current folder, in which the modules that a person names are looked for, behind every other place.

It is in Python's path only while such a module is imported. Anybody who can write into a shared folder could otherwise
have their file run in place of a package that is not installed.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jobdeck.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

_used: dict[str, None] = {}


def used() -> list[str]:
    """The folders in which modules were looked for, for the processes that import the same modules."""
    return list(_used)


@contextmanager
def searched(name: str) -> Iterator[None]:
    """Has the import of a module, inside the block, also look into the current folder.

    Raises:
        ConfigurationError: the module is in the folder and in another place.
    """
    here = str(Path().absolute())
    if {"", here} & set(sys.path):
        yield
        return
    _check(name, here)
    _used[here] = None
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _check(name: str, here: str) -> None:
    """Raises `ConfigurationError` if two files could be meant. A folder without `__init__.py` is none of them."""
    top = name.partition(".")[0]
    if not top or top in sys.modules:
        return
    ours, theirs = PathFinder.find_spec(top, [here]), find_spec(top)
    if ours is None or theirs is None or not ours.has_location or not theirs.has_location:
        return
    if ours.origin != theirs.origin and not Path(str(ours.origin)).samefile(str(theirs.origin)):
        raise ConfigurationError(
            f"The handler module {name} is in the current folder ({ours.origin}) and on Python's path "
            f"({theirs.origin}). Rename one of them, or start in another folder."
        )
