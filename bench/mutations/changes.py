"""The list of wrong changes: each has alternative pairs of a text and its wrong form, because the code is rewritten."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

QUEUE_SQL: Final = ("schema.sql", "core/schema/sql/*.sql")
"""Where the text of a change is looked for that names no files."""


@dataclass(frozen=True, slots=True)
class Change:
    """A wrong change: the first of its pairs whose text is found is made, at each place where it is found.

    `files` are patterns of paths. `tests` are arguments of pytest: files, or tests in them. `known` says that no test
    notices it yet.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    tests: tuple[str, ...]
    known: bool = False

    def edits(self, root: Path) -> dict[Path, str]:
        """The files below `root` that the change is about, with their wrong texts; none if it does not apply."""
        texts = {path: path.read_text() for path in _files(root, self.files)}
        for right, wrong in self.pairs:
            changed = {path: _replaced(text, right, wrong) for path, text in texts.items()}
            if found := {path: text for path, text in changed.items() if text != texts[path]}:
                return found
        return {}


def read_changes(folder: Path) -> tuple[Change, ...]:
    """All changes of the lists in `folder`, those that are known last.

    Raises:
        ValueError: two changes have the same name, or one has no text, changes nothing or names no test.
    """
    changes = tuple(
        _change(entry) for path in sorted(folder.glob("*.toml")) for entry in tomllib.loads(path.read_text())["change"]
    )
    names = [change.name for change in changes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Several changes have the same name: {', '.join(twice)}.")
    return tuple(sorted(changes, key=lambda change: change.known))


def chosen(changes: Sequence[Change], names: Sequence[str]) -> tuple[Change, ...]:
    """The changes with these names, in the order of the list; without names, all.

    Raises:
        ValueError: there is no change with one of the names.
    """
    if unknown := sorted(set(names) - {change.name for change in changes}):
        raise ValueError(f"There is no change {', '.join(unknown)}.")
    return tuple(change for change in changes if not names or change.name in names)


def _change(entry: dict[str, Any]) -> Change:
    pairs = tuple((right, wrong) for right, wrong in entry["pairs"])
    change = Change(
        entry["name"], pairs, tuple(entry.get("files", QUEUE_SQL)), tuple(entry["tests"]), entry.get("known", False)
    )
    empty = any(not right.split() or right.split() == wrong.split() for right, wrong in pairs)
    if empty or not pairs or not change.tests:
        raise ValueError(f"The change {change.name} has no text, changes nothing or names no test.")
    return change


def _files(root: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(path for path in root.glob(pattern) if path.is_file())


def _replaced(text: str, right: str, wrong: str) -> str:
    """A text with the wrong form at each place of the right one, whatever its indentation and line breaks are."""
    pattern = r"\s+".join(re.escape(word) for word in right.split())
    return re.sub(pattern, lambda _match: wrong, text)
