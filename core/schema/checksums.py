"""Keeps the version and the checksum of each component's SQL in `checksums.toml`, for a test to compare.

It also lists the parts of the queue's SQL; the installer refuses a folder with other parts. After a change of
`core/schema/sql` raise the number in the first lines of `schema.sql` and of the first part, and in the statement
"insert into jobdeck_schema"; after a change of a plugin's SQL raise `version` in its `Plugin`. Then run
`python -m jobdeck.core.schema.checksums`. Where `create or replace` and `add column if not exists` do not bring an
earlier database to the same result, add a file to `migrations/`. `--unpublished` keeps the version, for a change to one
that the main branch has not had yet.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from jobdeck.core.errors import JobdeckError, Refused
from jobdeck.core.schema.components import QUEUE, checksum, known_components, sql_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobdeck.core.schema.components import Component


def recorded() -> dict[str, tuple[int, str]]:
    """The version and checksum of each component by its name, as they were last written."""
    text = (sql_folder() / "checksums.toml").read_text(encoding="utf-8")
    return {name: (entry["version"], entry["checksum"]) for name, entry in tomllib.loads(text).items()}


def refreshed(
    before: Mapping[str, tuple[int, str]], components: Sequence[Component], *, unpublished: bool = False
) -> dict[str, tuple[int, str]]:
    """The record with today's SQL. Components that are not loaded keep theirs.

    Raises:
        Refused: when a component's SQL has changed and its version has not.
    """
    after = dict(before)
    for component in components:
        version, known = before.get(component.name, (0, ""))
        now = checksum(component)
        if now != known and component.version <= version and not unpublished:
            raise Refused(
                f"The SQL of {component.name} has changed and its version is still {component.version}. "
                f"Raise the version."
            )
        after[component.name] = (component.version, now)
    return after


def main(arguments: Sequence[str]) -> int:
    """Writes the file of the checkout that this is run from."""
    before = recorded()
    # The list comes first, because no component can be read with a part that is not in it.
    _write(before)
    try:
        after = refreshed(before, known_components(), unpublished="--unpublished" in arguments)
    except JobdeckError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _write(after)
    return 0


def _write(record: Mapping[str, tuple[int, str]]) -> None:
    folder = Path(__file__).parent
    parts = "".join(f'    "{file.name}",\n' for file in sorted((folder / "sql").glob("*.sql")))
    entries = [
        f'[{name}]\nversion = {version}\nchecksum = "{digest}"\n' + (f"parts = [\n{parts}]\n" if name == QUEUE else "")
        for name, (version, digest) in sorted(record.items())
    ]
    text = "# Written by: python -m jobdeck.core.schema.checksums\n\n" + "\n".join(entries)
    (folder / "checksums.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
