"""Erases a person: the competition's part of `jobdeck erase`. What stays is in docs/competition/security.md."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.plugins import Erased
from jobdeck.core.postgres.refusals import refusals
from jobdeck.core.programme.messaging.erased import SETTING, Marker
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.programme.vendors.email_wire import address_key
from jobdeck.core.queue.privacy import erasing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from jobdeck.core.settings import Settings

_NATIONAL: Final = re.compile(r"\+1(\d{10})")
_SHORT: Final = 8
"""A text shorter than this is also a part of other texts, so it is searched in these fields alone."""
_ID_FIELDS: Final = [
    "synced_user_id", "syncedUserId", "syned_user_id", "syned_coach_user_id", "metactf_user_id", "metactf_username",
    "game_platform_id", "gamePlatformId", "game_platform_user_id", "gamePlatformUserId", "request_id", "requestId",
]  # fmt: skip


def erase(
    conn: psycopg.Connection[Any], settings: Settings, kind: str, value: str, keep_shared: bool, actor: str
) -> list[Erased]:
    """Erases one person in the caller's transaction, and returns the places with their rows. Audited without them.

    Addresses become keyed hashes, so that blocks and sent messages still prevent a second message.

    Raises:
        ConfigurationError: the key is missing or bad.
        Refused: nobody or several people were found, others have an address of theirs too, or something about them is
            under way. Nothing was changed.
        UsageError: the value is not an id.
    """
    made = Marker(settings.of(CompetitionSettings))
    if kind in {"competitor", "profile"}:
        value = str(_id(kind, value))
    with refusals(), erasing():
        who, person, address = conn.execute(
            "select kind, id, address from competition_find_person(%s, %s)", (kind, value)
        ).fetchall()[0]
        named = conn.execute(
            "select what, value from competition_identifiers(%s, %s, %s, %s)", (who, person, address, keep_shared)
        ).fetchall()
        erased = conn.execute("select job_erased_mark()").fetchall()[0][0]
        marks = {form: mark for what, text in named for form, mark in _forms(made, erased, what, text)}
        others = conn.execute("select value from competition_others(%s, %s::text[])", (person, list(marks))).fetchall()
        _keep_check(conn, made)
        found = conn.execute(
            "select place, rows, remains from competition_erase(%s, %s, %s, %s::jsonb, %s)",
            (who, person, address, json.dumps(marks | dict.fromkeys(other for (other,) in others)), actor),
        ).fetchall()
    return [Erased(*one) for one in found]


def _id(kind: str, value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        raise UsageError(f"The id of the {kind} is not a UUID.") from None


def _forms(made: Marker, erased: str, what: str, text: str) -> Iterator[tuple[str, str | list[str]]]:
    """The marks of a text about the person: those of an address are also the hashes of it that delivery events have.

    Everyone who knows the address can make these.
    """
    if what not in {"email", "phone"}:
        yield text, erased if len(text) >= _SHORT else _ID_FIELDS
        return
    mark = made.mark(text)
    yield text, mark
    yield hashlib.sha256(text.lower().encode()).hexdigest(), mark
    yield address_key(text), mark
    if (national := _NATIONAL.fullmatch(text)) is not None:
        yield national[1], mark


def _keep_check(conn: psycopg.Connection[Any], made: Marker) -> None:
    """Records the key's check at the first erasure, and compares it at the others.

    Raises:
        Refused: people were erased with another key.
    """
    conn.execute("insert into outbox_erasure_key (check_value) values (%s) on conflict (id) do nothing", (made.check,))
    known = conn.execute("select outbox_erasure_check()").fetchall()[0][0]
    if known != made.check:
        raise Refused(
            f"{SETTING} is not the key with which people were erased before, so their addresses would no longer "
            "be known. Nothing was erased."
        )
