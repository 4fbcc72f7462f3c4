"""Names in a filter: after the key of a plugin's look-up, part of a name is replaced by the id that it stands for."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jobdeck.core import plugins
from jobdeck.core.errors import UsageError
from jobdeck.core.redact import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.model import Filter
    from jobdeck.core.plugins import Found, Search
    from jobdeck.core.read.batch import Connection

_ID: Final = re.compile(r"(?=.*[0-9])[0-9a-f-]{1,36}", re.IGNORECASE)
"""An id or the beginning of one. Letters alone, such as those of Ada, are a name first."""
LISTED: Final = 5


def with_ids(conn: Connection, wanted: Filter) -> Filter:
    """The filter with a name replaced by the id of the one that it fits; any other filter as it is.

    Raises:
        UsageError: the name fits nobody, or several; the sentence lists no names, but ids.
    """
    key, text = wanted.payload or ("", "")
    search = plugins.searches().get(key)
    if search is None or _ID.fullmatch(text):
        return wanted
    found = search.find(conn, text)
    if any(one.id.startswith(text.lower()) for one in found):
        return wanted
    return replace(wanted, payload=(key, _only(found, text, search).id))


def _only(found: Sequence[Found], text: str, search: Search) -> Found:
    hint = f" Give {search.hint}." if search.hint else ""
    if not found:
        raise UsageError(clean(f'No {search.noun} was found for "{text}".{hint}'))
    if len(found) > 1:
        ids = ", ".join(one.id for one in found[:LISTED])
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise UsageError(clean(f'{len(found)} {search.plural} fit "{text}": {ids}{more}. Give one of these ids.'))
    return found[0]
