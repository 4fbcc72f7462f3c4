"""Keeps the version and the checksum of each component's SQL in `checksums.toml`, for a test to compare.

It also lists the parts of the queue's SQL, and the functions in them, which `37_functions.sql` closes and binds; the
installer refuses a folder with other parts. After a change of
`core/schema/sql` raise the number in the first lines of `schema.sql` and of the first part, and in the statement
"insert into jobdeck_schema"; after a change of a plugin's SQL raise `version` in its `Plugin`. Then run
`python -m jobdeck.core.schema.checksums`. Where `create or replace` and `add column if not exists` do not bring an
earlier database to the same result, add a file to `migrations/` whose first line, like that of `schema.sql`, is the
version that it leads to. `--unpublished` keeps the version, for a change to one
that the main branch has not had yet.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import JobdeckError, Refused
from jobdeck.core.plugins import GROUP, SETTING
from jobdeck.core.schema.components import QUEUE, checksum, known_components, sql_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    """Writes the file of the checkout that this is run from, with the components of all installed plugins."""
    os.environ.setdefault(SETTING, ",".join(point.name for point in metadata.entry_points(group=GROUP)))
    before = recorded()
    folder = Path(__file__).with_name("sql")
    (folder / FUNCTIONS).write_text(list_of_functions(folder), encoding="utf-8")
    # The list comes first, because no component can be read with a part that is not in it.
    _write(before)
    try:
        after = refreshed(before, known_components(), unpublished="--unpublished" in arguments)
    except JobdeckError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _write(after)
    return 0


FUNCTIONS: Final = "37_functions.sql"
"""The part that lists the functions of the other parts."""

_HEAD: Final = re.compile(
    r"^\s*create (?:or replace )?function (\w+)\(([^;]*?)\)\s*(?:returns\b|language\b)", re.MULTILINE
)
_LIST: Final = """-- The functions of the queue: their names, and how many arguments each takes.
--
-- By this list functions are closed and bound to the schema, so that those of an application keep their rights and
-- settings. "python -m jobdeck.core.schema.checksums" writes it, from the heads in the other parts.

create or replace function job_own_functions() returns table (function regprocedure, name text)
language sql stable
as $$
    select p.oid::regprocedure, p.proname
    from regexp_matches($list$
{names}
    $list$, '(\\w+)/(\\d+)', 'g') f join pg_proc p on p.proname = f[1] and p.pronargs = f[2]::integer
    where p.pronamespace = quote_ident(current_schema())::regnamespace
$$;
"""


def functions_of(texts: Iterable[str]) -> list[str]:
    """The functions that these parts create, each as its name and the number of its arguments: `job_lock_slot/1`."""
    found = {"job_own_functions/0"}
    for text in texts:
        for name, arguments in _HEAD.findall(text):
            taken = [one for one in _arguments(arguments) if not one.lower().startswith("out ")]
            found.add(f"{name}/{len(taken)}")
    return sorted(found)


def _arguments(text: str) -> list[str]:
    """The arguments of a function's head, which are separated by the commas outside brackets."""
    depth, found = 0, [""]
    for letter in re.sub(r"--.*", "", text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found if one.strip()]


def list_of_functions(folder: Path) -> str:
    """The text of the part that lists the functions of the others."""
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.sql")) if file.name != FUNCTIONS]
    names = textwrap.fill(" ".join(functions_of(texts)), 124, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return _LIST.format(names=names)


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
