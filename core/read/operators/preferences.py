"""What a person has saved for the lists of jobs: filters by name, the columns of each tab, and what is beside the list.

It is a file in the state folder, which is read each time, so that a dashboard knows what a command has saved, and is
replaced as a whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.errors import EmbeddedPostgresError, Refused, UsageError, meant
from jobdeck.core.read.filters import parse_filter
from jobdeck.core.redact import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from jobdeck.core.model import Filter
    from jobdeck.core.settings import Settings

VERSION: Final = 1
SIGN: Final = "@"
"""A filter that begins with it is the name of a saved one."""
MOST: Final = 200
LARGEST: Final = 1_000_000
"""Maximum size of the file in bytes."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}", re.IGNORECASE)


class Preferences:
    """The preferences in one file; without a path they are kept in memory, for as long as the program runs.

    Methods raise `Refused` if the file cannot be read or written, and then change nothing.
    """

    def __init__(self, path: Path | Callable[[], Path] | None = None) -> None:
        """`path` may be a function that finds the file when it is used."""
        self._where = path
        self._kept: dict[str, Any] = {}

    def filters(self) -> Mapping[str, str]:
        """The saved filters by name, in the order of the names."""
        return dict(sorted(_texts(self._read().get("filters")).items()))

    def save_filter(self, name: str, text: str) -> None:
        """Saves a filter, in place of an earlier one of this name.

        Raises:
            UsageError: the name or the filter is not valid.
            Refused: too many filters are saved.
        """
        if not _NAME.fullmatch(name):
            raise UsageError("The name of a filter has 1 to 40 letters, digits, - and _, and begins with no sign.")
        if text.strip().startswith(SIGN):
            raise UsageError("A saved filter cannot be the name of another one. Give its words.")
        if not text.strip():
            raise UsageError("An empty filter matches every job; there is nothing to save.")
        parse_filter(text)
        with self._changing() as found:
            filters = _texts(found.get("filters")) | {name.lower(): text.strip()}
            if len(filters) > MOST:
                raise Refused(f"{MOST} filters are saved already. Delete one first: `jobdeck filter delete NAME`.")
            found["filters"] = filters

    def delete_filter(self, name: str) -> None:
        """Deletes a saved filter.

        Raises:
            UsageError: no filter has this name.
        """
        with self._changing() as found:
            filters = _texts(found.get("filters"))
            if name.removeprefix(SIGN).lower() not in filters:
                raise _unknown(name, filters)
            del filters[name.removeprefix(SIGN).lower()]
            found["filters"] = filters

    def words(self, text: str) -> str:
        """The words of a filter: those of the saved one that `@name` names, or the text itself.

        Raises:
            UsageError: no filter has this name, or the saved one can no longer be parsed.
        """
        name = text.strip().removeprefix(SIGN)
        if not text.strip().startswith(SIGN) or not _NAME.fullmatch(name):
            return text
        filters = self.filters()
        if name.lower() not in filters:
            raise _unknown(name, filters)
        found = filters[name.lower()]
        try:
            parse_filter(found)
        except UsageError as error:
            raise UsageError(
                f"The saved filter {name.lower()} can no longer be read: {error} "
                f"Save it again, or remove it with `jobdeck filter delete {name.lower()}`."
            ) from error
        return found

    def filter(self, text: str) -> Filter:
        """The filter that a text means: that of its own words, or the saved one that `@name` names.

        Raises:
            UsageError: the filter is not valid, or no saved one has this name.
        """
        return parse_filter(self.words(text))

    def columns(self, tab: str) -> tuple[str, ...]:
        """The columns that were chosen for a tab; empty where none were."""
        found = self._read().get("columns")
        chosen = found.get(tab) if isinstance(found, dict) else None
        return tuple(one for one in chosen if isinstance(one, str)) if isinstance(chosen, list) else ()

    def choose_columns(self, tab: str, columns: Sequence[str]) -> None:
        """Chooses the columns of a tab; none is the usual choice."""
        with self._changing() as found:
            known = found.get("columns")
            chosen = dict(known) if isinstance(known, dict) else {}
            chosen.pop(tab, None)
            found["columns"] = chosen | ({tab: list(columns)} if columns else {})

    def beside(self) -> bool:
        """Whether the details of a job are shown beside the list; yes where nothing was chosen."""
        return self._read().get("beside") is not False

    def show_beside(self, wanted: bool) -> None:
        """Chooses whether the details of a job are shown beside the list."""
        with self._changing() as found:
            found["beside"] = wanted

    def _path(self) -> Path | None:
        try:
            return self._where() if callable(self._where) else self._where
        except EmbeddedPostgresError as error:
            raise Refused(
                "This account has no home folder for saved filters and columns. "
                "Set JOBDECK_STATE_DIR to a folder that it can write."
            ) from error

    def _read(self) -> dict[str, Any]:
        path = self._path()
        if path is None:
            return self._kept
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._trouble(str(error.strerror)) from error
        with os.fdopen(handle, "rb") as file:
            return self._understood(file.read(LARGEST + 1))

    def _understood(self, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content) if len(content) <= LARGEST else None
        except (ValueError, RecursionError) as error:
            raise self._trouble("it is not JSON") from error
        if not isinstance(found, dict):
            raise self._trouble("it is no list of preferences")
        if found.get("version") != VERSION:
            raise self._trouble("another version of Jobdeck wrote it")
        return found

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The content of the file, which replaces the file at the end if nothing was raised."""
        path = self._path()
        if path is None:
            changed = dict(self._kept)
            yield changed
            self._kept = changed
            return
        with self._locked(path.parent):
            changed = self._read()
            yield changed
            self._write(path, json.dumps(changed | {"version": VERSION}, indent=1, sort_keys=True) + "\n")

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Holds a lock on the folder, so that two programs do not lose what the other one saves."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._trouble(str(error.strerror)) from error
        try:
            if os.fstat(handle).st_uid != os.geteuid():
                raise self._trouble("the folder belongs to another account")
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, path: Path, text: str) -> None:
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            beside.unlink(missing_ok=True)
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            raise self._trouble(str(error.strerror)) from error

    def _trouble(self, why: str) -> Refused:
        return Refused(f"Saved filters and columns are in {self._path()}, and {why}. Nothing was changed.")


def preferences_of(settings: Settings) -> Preferences:
    """The preferences of this account, in its state folder, which is looked for when they are used."""

    def find() -> Path:
        from jobdeck.core.settings import state_folder  # noqa: PLC0415 -- slow to import, not needed for the first paint

        return state_folder(settings.state_dir) / "preferences.json"

    return Preferences(find)


def _texts(found: object) -> dict[str, str]:
    """The texts by name, without what a person wrote into the file that is neither."""
    pairs = found.items() if isinstance(found, dict) else ()
    return {name: text for name, text in pairs if isinstance(text, str) and _NAME.fullmatch(name)}


def _unknown(name: str, filters: Mapping[str, str]) -> UsageError:
    shown = clean(name.removeprefix(SIGN))
    return UsageError(
        f'No filter is saved as "{shown}"{meant(shown, filters)} `jobdeck filter list` shows them. '
        f"To search for the text itself, put it in double quotes."
    )
