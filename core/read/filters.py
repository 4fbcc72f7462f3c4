"""The filter language of the dashboard and of `--filter`: `status:failed type:sync error:"no route" age>2h`.

A filter chooses the jobs of an action, so unknown words are errors: ignoring one would choose more jobs than meant.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jobdeck.core import plugins
from jobdeck.core.errors import UsageError, meant
from jobdeck.core.model import Filter, RunOutcome, Status
from jobdeck.core.times import parse_duration, write_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import timedelta

_WORD: Final = re.compile(
    r'\s*(?:(?P<name>"(?:[^"\\]|\\.)+"|[^\s":<>=\\]+)=|'
    r"(?P<key>payload\.[\w-]+|[a-z]+)(?P<sign>:>=|:>|>=|<=|:|>|<))?"
    r'(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>\S*))',
    re.IGNORECASE,
)
_PLAIN: Final = re.compile(r'[^\s":<>=\\]+(?: [^\s":<>=\\]+)*')
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,99})?(?:[eE][+-]?[0-9]{1,2})?")
SORTS: Final = ("natural", "task", "status", "attempts", "created", "last_run", "run_at", "error", "updated")
"""The orders in which jobs can be listed."""
PER_KEY: Final = "payload."
_PAYLOAD: Final = frozenset({"payload", "payload_is"})
EVERYTHING: Final = "all"
"""The value of `status:` for jobs of every status."""
REASONS: Final = {
    word.replace(" ", "-"): word
    for word in ("cannot run", "overdue", "paused", "retrying", "at limit", "waiting", "held")
}
"""What a list says in place of `pending`, which is a `Standing`, by the word of `status:` for it."""
STATUSES: Final = (*Status, *REASONS)
"""The words of `status:` besides `all`."""


class Key(NamedTuple):
    """One key of the language: the field of `Filter` that it sets, the parser of its value, and an example.

    A parser that returns a dict gives several fields.
    """

    field: str
    read: Callable[[str], object]
    example: str


def parse_filter(text: str) -> Filter:
    """Parses a filter. Words without a key are the search text; a value with spaces needs double quotes.

    Raises:
        UsageError: an unknown key, a key given twice, or a missing or invalid value.
    """
    found: dict[str, Any] = {}
    words: list[str] = []
    for word in _words(text):
        value = word["bare"] if word["quoted"] is None else _unquoted(word["quoted"])
        if word["name"] is not None:
            _compare(found, word["name"], value)
            continue
        if word["key"] is None:
            words.append(value)
            continue
        field, read = _read(word["key"], word["sign"], value)
        if field in found or {field, *found} >= _PAYLOAD:
            twice = "compares two payload keys" if field == "payload" else f"has {word['key']} twice"
            raise UsageError(f"The filter {twice}. Remove one of them.")
        found |= read if isinstance(read, dict) else {field: read}
    return Filter(**found, search=" ".join(words) or None)


def narrowed(wanted: Filter, what: str, **given: object) -> Filter:
    """The filter with further fields; those without a value are left out.

    Raises:
        UsageError: the filter sets one of them too. The message begins with `what` both are.
    """
    changes: dict[str, Any] = {field: value for field, value in given.items() if value}
    for field in changes:
        if getattr(wanted, field):
            raise UsageError(f"{what} both set the {field.replace('_', ' ')}. Omit one of them.")
    return replace(wanted, **changes)


def by_status(word: str | None) -> dict[str, Any]:
    """The fields of `Filter` for a word of `STATUSES`; for None, jobs of every status."""
    if word in REASONS:
        return {"status": Status.PENDING, "standing": REASONS[word]}
    return {"status": Status(word) if word else None}


def status_of(wanted: Filter) -> str | None:
    """The word of `STATUSES` for a filter's status or standing."""
    return next((word for word, of in REASONS.items() if of == wanted.standing), wanted.status)


def format_filter(wanted: Filter) -> str:
    """The filter as a person would type it; `parse_filter` parses it to the same filter."""
    words = [f"status:{status_of(wanted)}"] if wanted.status else []
    texts = [("type", wanted.task_type), ("error", wanted.error)]
    if wanted.payload is not None:
        key, beginning = wanted.payload
        texts.append((next((name for name, of in plugins.filters().items() if of == key), PER_KEY + key), beginning))
    words += [f"{name}:{_quoted(value, loose=False)}" for name, value in texts if value is not None]
    if wanted.payload_is is not None:
        key, value = wanted.payload_is
        named = PER_KEY + key if _key(key) or key.lower().startswith(PER_KEY) else key
        words.append(f"{_quoted(named, loose=False)}={_quoted(value, loose=False)}")
    if wanted.attempts_at_least is not None:
        words.append(f"attempts>={wanted.attempts_at_least}")
    if wanted.older_than is not None:
        words.append(f"age>{write_duration(wanted.older_than)}")
    if wanted.outcome is not None:
        words.append(f"outcome:{wanted.outcome.value}")
    if wanted.fingerprint is not None:
        words.append(f"fingerprint:{wanted.fingerprint}")
    if wanted.search is not None:
        words.append(_quoted(wanted.search, loose=True))
    return " ".join(words)


def parameters(wanted: Filter) -> dict[str, Any]:
    """The parameters of statements for a filter; None for a field that it does not set."""
    return {
        "status": wanted.status.value if wanted.status else None,
        "standing": wanted.standing,
        "task_type": wanted.task_type,
        "search": wanted.search,
        "error": wanted.error,
        "payload_key": wanted.payload[0] if wanted.payload else None,
        "payload_value": wanted.payload[1] if wanted.payload else None,
        "payload_is": _alternatives(*wanted.payload_is) if wanted.payload_is else None,
        "attempts": wanted.attempts_at_least,
        "age": wanted.older_than,
        "outcome": wanted.outcome.value if wanted.outcome else None,
        "fingerprint": wanted.fingerprint,
    }


def _alternatives(key: str, value: str) -> list[str]:
    """The JSON objects of which a payload contains one if its key has the value: as text, or as a number or a word."""
    plain = value in {"true", "false", "null"} or _NUMBER.fullmatch(value)
    return [f"{{{json.dumps(key)}: {read}}}" for read in (json.dumps(value), *([value] if plain else []))]


def completions(text: str, task_types: Sequence[str]) -> list[str]:
    """Completions of the filter's last word, best first; each is the whole word."""
    last = text[len(text.rstrip().rpartition(" ")[0]) :].strip() if text and not text[-1].isspace() else ""
    key, colon, value = last.partition(":")
    if not colon:
        return [word for word in starts() if word.startswith(last.lower()) and word != last.lower()]
    choices: dict[str, Iterable[str]] = {
        "status": (EVERYTHING, *STATUSES),
        "outcome": RunOutcome,
        "type": task_types,
    }
    wanted = value.lower()
    fitting = [choice for choice in choices.get(key.lower(), ()) if wanted in choice and wanted != choice]
    return [f"{key}:{choice}" for choice in sorted(fitting, key=lambda choice: not choice.startswith(wanted))]


def _words(text: str) -> list[re.Match[str]]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        word = _WORD.match(text, at)
        if word is None or word.end() == at:
            raise UsageError(f"The filter cannot be parsed from {text[at:]!r} on.")
        if word["bare"] is not None and '"' in word["bare"]:
            raise UsageError(f"A quote in the filter is not closed or is inside a word: {word.group().strip()}.")
        found.append(word)
        at = word.end()
        if word["quoted"] is not None and at < len(text) and not text[at].isspace():
            raise UsageError(f"The filter needs a space after {word.group().strip()}.")
    return found


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _compare(found: dict[str, Any], name: str, value: str) -> None:
    """Adds the comparison of a payload key with a whole value to the fields that were found."""
    key = _unquoted(name[1:-1]) if name.startswith('"') else name
    known = _key(key)
    if key.lower().startswith(PER_KEY):
        key = key[len(PER_KEY) :]
    elif known is not None:
        raise UsageError(
            f"The filter key {key} is written like {known.example}. "
            f'To compare a payload key of this name, write "{PER_KEY}{key}"={_quoted(value, loose=False)}.'
        )
    if not key or not value:
        raise UsageError("A payload key is compared like orderId=5. Names and values with spaces need double quotes.")
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in key + value):
        raise UsageError("The filter compares with a character that Postgres cannot store. Remove it.")
    if found.keys() & _PAYLOAD:
        raise UsageError("The filter compares two payload keys. Remove one of them.")
    found["payload_is"] = (key, value)


def starts() -> list[str]:
    """The keys that completion offers.

    Not among them: `older:`, the same as `age>`; `payload.KEY:` and `KEY=`; and `fingerprint:`, which nobody types.
    """
    return ["type:", "status:", "error:", *(f"{name}:" for name in plugins.filters()), "age>", "attempts>=", "outcome:"]


def _key(name: str) -> Key | None:
    """The key of this name: built in, of a plugin, or `payload.KEY`."""
    found = _KEYS.get(name.lower())
    if found is not None:
        return found
    payload_key = plugins.filters().get(name.lower())
    if payload_key is None and name.lower().startswith(PER_KEY):
        payload_key = name[len(PER_KEY) :]
    if payload_key is None:
        return None
    return Key("payload", lambda value: (payload_key, value), f"{name}:ID")


def _read(name: str, sign: str, value: str) -> tuple[str, object]:
    known_key, key = _key(name), name.lower()
    if known_key is None:
        known = " ".join([*(word.rstrip("=") for word in starts()), f"{PER_KEY}KEY:", "KEY=VALUE"])
        raise UsageError(
            f'Unknown filter key "{key}"{meant(key, [*_KEYS, *plugins.filters()])} The keys are {known}. '
            "To search for the text itself, put it in double quotes."
        )
    field, read, example = known_key
    sign = sign.removeprefix(":") or ":"
    allowed = {"age": (":", ">", ">="), "older": (":", ">", ">="), "attempts": (":", ">", ">=")}.get(key, (":",))
    if sign not in allowed:
        raise UsageError(f"The filter key {key} does not accept {sign}. Write it like {example}.")
    if not value:
        raise UsageError(f"The filter key {key} needs a value, like {example}.")
    found = read(value)
    return field, found + 1 if key == "attempts" and sign == ">" and isinstance(found, int) else found


def _text(value: str) -> str:
    return value


def _age(value: str) -> timedelta:
    return parse_duration(value, what="age in the filter")


def _status(value: str) -> dict[str, Any]:
    """The fields of `Filter` for a status. One of the six goes before a reason that begins alike."""
    wanted = value.lower().replace(" ", "-")
    if wanted == EVERYTHING:
        return by_status(None)
    begun = [word for word in Status if word.startswith(wanted)]
    return by_status(begun[0] if len(begun) == 1 else _member(STATUSES, "status", value, wanted))


def _outcome(value: str) -> RunOutcome:
    return RunOutcome(_member([*RunOutcome], "outcome", value, value.lower()))


def _member(words: Sequence[str], key: str, value: str, wanted: str) -> str:
    """The word equal to the value, which is `wanted` as words are written, or the only one that starts with it."""
    near = [word for word in words if word.startswith(wanted)]
    exact = [word for word in near if word == wanted]
    if exact or len(near) == 1:
        return (exact or near)[0]
    if near:
        raise UsageError(f'"{value}" could be {", ".join(near)}.')
    raise UsageError(f'Unknown {key} "{value}"{meant(wanted, words)} Use one of {", ".join(words)}.')


def _count(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", value):
        raise UsageError(f'"{value}" is not a number of attempts. Write it like attempts>=3, which means 3 or more.')
    return int(value)


def _fingerprint(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{12}", value.lower()):
        raise UsageError(
            f'"{value}" is not a fingerprint. It has 12 digits from 0 to f; `jobdeck errors --json` shows it.'
        )
    return value.lower()


def _quoted(value: str, *, loose: bool) -> str:
    # A text that begins with @ would be the name of a saved filter.
    if _PLAIN.fullmatch(value) and (not value.startswith("@") if loose else " " not in value):
        return value
    return '"{}"'.format(value.replace("\\", "\\\\").replace('"', '\\"'))


_KEYS: Final[dict[str, Key]] = {
    "status": Key("status", _status, "status:failed"),
    "type": Key("task_type", _text, "type:nightly_report"),
    "error": Key("error", _text, 'error:"rate limit"'),
    "age": Key("older_than", _age, "age>2h"),
    "older": Key("older_than", _age, "older:2h"),
    "attempts": Key("attempts_at_least", _count, "attempts>=3"),
    "outcome": Key("outcome", _outcome, "outcome:partial"),
    "fingerprint": Key("fingerprint", _fingerprint, "fingerprint:3f0c9a7d1b2e"),
}
