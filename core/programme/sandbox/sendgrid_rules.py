"""Validates requests like SendGrid's `mail/send`: the first problem of each part, with its field."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

Json = dict[str, Any]

MOST_RECIPIENTS: Final = 1000
MOST_CATEGORIES: Final = 10
CUSTOM_ARGS_BYTES: Final = 10_000

_ADDRESS: Final = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+", re.ASCII)
_KNOWN: Final = frozenset(
    {"personalizations", "from", "reply_to", "subject", "content", "template_id", "categories", "custom_args", "asm",
     "tracking_settings", "mail_settings", "headers", "send_at", "batch_id"}
)  # fmt: skip


class Problem(NamedTuple):
    message: str
    field: str | None


def problems_of(body: Json, refused: Container[str]) -> list[Problem]:
    """The problems of a request; empty if it is accepted. Addresses in `refused` count as invalid."""
    return [*_people(body.get("personalizations"), refused), *_message(body)]


def _people(entries: Any, refused: Container[str]) -> Iterator[Problem]:
    if not isinstance(entries, list) or not entries:
        yield Problem("The personalizations field is required and must have at least one personalization.",
                      "personalizations")  # fmt: skip
        return
    if sum(len(entry.get("to") or []) for entry in entries) > MOST_RECIPIENTS:
        yield Problem("The total number of recipients must be 1000 or less.", "personalizations")
        return
    for place, entry in enumerate(entries):
        where = f"personalizations.{place}"
        addresses = [str(one.get("email", "")) for one in entry.get("to") or []]
        if not addresses:
            yield Problem("The to array is required for all personalization objects.", f"{where}.to")
        for nth, address in enumerate(addresses):
            if not _ADDRESS.fullmatch(address) or address.lower() in refused:
                yield Problem("Does not contain a valid address.", f"{where}.to.{nth}.email")
        if len({address.lower() for address in addresses}) < len(addresses):
            yield Problem("Each email address in the personalization block should be unique.", where)
        yield from _custom_args(entry.get("custom_args"), f"{where}.custom_args")


def _custom_args(found: Any, where: str) -> Iterator[Problem]:
    if found is None:
        return
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        yield Problem("The custom_args values must be strings.", where)
    elif len(str(found)) > CUSTOM_ARGS_BYTES:
        yield Problem("The custom_args must be less than 10000 bytes.", where)


def _message(body: Json) -> Iterator[Problem]:
    unknown = sorted(set(body) - _KNOWN)
    if unknown:
        yield Problem(f"Additional property {unknown[0]} is not allowed", unknown[0])
    sender = body.get("from")
    if not isinstance(sender, dict) or not _ADDRESS.fullmatch(str(sender.get("email", ""))):
        yield Problem("The from object must be provided for every email send.", "from")
    elif not str(sender.get("name", "")).isascii():
        yield Problem("The from name must be ASCII.", "from.name")
    templated = bool(body.get("template_id"))
    if not templated and not str(body.get("subject") or "").strip():
        yield Problem("The subject is required.", "subject")
    kinds = [part.get("type") for part in body.get("content") or []]
    if not templated and not kinds:
        yield Problem("Unless a valid template_id is provided, the content parameter is required.", "content")
    elif any(not str(part.get("value") or "") for part in body.get("content") or []):
        yield Problem("The content value must be a string at least one character in length.", "content.0.value")
    elif kinds not in ([], ["text/plain"], ["text/html"], ["text/plain", "text/html"]):
        yield Problem("If present, text/plain must come first, followed by text/html.", "content")
    categories = body.get("categories") or []
    if len(categories) > MOST_CATEGORIES or len(set(categories)) < len(categories):
        yield Problem("There may be at most 10 different categories.", "categories")
    if "asm" in body and not isinstance(body["asm"].get("group_id"), int):
        yield Problem("The asm group_id must be an integer.", "asm.group_id")
