"""Removes personal data, secrets and control characters from text that is shown, logged or stored as an error.

`clean` makes text harmless for a terminal or a log line, `redact` masks personal data and secrets, and `safe_error`
does both and returns one line.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

LONGEST = 65_536
"""Maximum number of characters of one text. Longer text is cut first, so that hostile input costs little time."""

# C0 and C1 controls, bidirectional marks and overrides, line and paragraph separators, invisible format
# characters, tag characters, lone surrogates. ZWJ and ZWNJ stay: emoji and several scripts need them.
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
_UNSAFE_CHARACTER = re.compile(f"[{_UNSAFE}]")
_UNSAFE_BUT_LINES = re.compile(f"(?![\n\t])[{_UNSAFE}]")
_NAMED_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def clean(text: str, *, multiline: bool = False) -> str:
    r"""Replaces control, format and bidirectional characters and lone surrogates by backslash escapes.

    The result cannot move a cursor, change a colour, reorder text or start a new line; with `multiline`, line feeds
    and tabs are kept. Cleaning a second time changes nothing.
    """
    if text.isprintable():
        return text
    if multiline:
        return _UNSAFE_BUT_LINES.sub(_escape, text.replace("\r\n", "\n"))
    return _UNSAFE_CHARACTER.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    named = _NAMED_ESCAPES.get(character)
    if named:
        return named
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_SECRET_WORD = r"(?:api[_-]?key|access[_-]?key|password|passwd|passphrase|secret|token|pwd)"  # noqa: S105 -- a pattern
_PHONE_WORD = r"(?:phone(?:[_ -]?(?:number|no))?|mobile|telephone|tel|sms|cell|fax)"

# Every expression is linear in its input: repetitions are bounded, or end at a character that they cannot match.
# The order matters: credentials in an address contain an @, and an e-mail address may contain digits.
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), mask)
    for pattern, mask in (
        # Postgres quotes the offending key or row in an error's detail, pydantic the invalid value.
        (r"(Key \([^=\n]{1,200}\)=)\([^\n]{0,2000}\)", r"\1(<value>)"),
        (r"(Failing row contains )\([^\n]{0,8000}", r"\1(<value>)"),
        (r"input_value=[^\n]{0,500}?, input_type=", "input_value=<value>, input_type="),
        (r"\b([a-z][a-z0-9+.-]{1,20}://)[^/\s\"'<>]{1,400}@", r"\1<secret>@"),
        (r"\b(bearer|basic)(?:\s{1,4}|%20)[\w.~+/=:-]{6,}", r"\1 <secret>"),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?", "<secret>"),
        (r"\b(?:SG\.[\w-]{10,}\.[\w-]{10,}|sk[-_][\w-]{16,}|SK[0-9a-f]{32}|gh[opsu]_\w{20,})", "<secret>"),
        (
            (
                rf"(?<![a-z0-9])(?<!run_)({_SECRET_WORD}[\"']?\s{{0,4}}[=:]\s{{0,4}})"
                r"(?:\"[^\"\n]{1,400}\"|'[^'\n]{1,400}'|[^\s\"'&,;)}\]<]{3,})"
            ),
            r"\1<secret>",
        ),
        (
            r"(?:\"[^\"\n]{1,64}\"|[\w.!#$*+^~-]{1,64})(?:@|%40)(?:[^\W_][\w-]{0,62}\.){1,8}[^\W\d_]{2,24}",
            "<email>",
        ),
        (
            rf"\b({_PHONE_WORD}[\"']?\s{{0,4}}[=:]?\s{{0,4}}[\"']?)\+?\(?\d(?:[ ().-]{{0,2}}\d){{5,14}}(?!\w)",
            r"\1<phone>",
        ),
        (r"(?<![\w+])(?:\+|00)[1-9](?:[ ().-]{0,2}\d){6,14}(?!\w)", "<phone>"),
        (r"(?<![\w.+-])(?:1[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?!\w|[.-]\w)", "<phone>"),
        (r"(?<![\w.+-])1?[2-9]\d{9}(?!\w|[.-]\w)", "<phone>"),
    )
)


_HINTS = (
    "key", "pass", "secret", "token", "pwd", "@", "%40", "://", "bearer", "basic", "eyj", "sg.", "sk", "gho_", "ghp_",
    "ghs_", "ghu_", "failing row", "input_value",
)  # fmt: skip
_DIGITS = re.compile(r"\d(?:[ ().-]{0,2}\d){5}")


def _is_innocent(text: str) -> bool:
    """Whether no rule can match, because each rule needs one of the hints or six digits close together.

    With IGNORECASE some letters outside ASCII match ASCII letters, so for such text the answer is False.
    """
    if not text.isascii():
        return False
    lower = text.lower()
    return not any(hint in lower for hint in _HINTS) and _DIGITS.search(text) is None


def redact(text: str) -> str:
    """Masks e-mail addresses, phone numbers, credentials, and the values that Postgres and pydantic quote.

    Identifiers, times and counts stay readable. Names of people cannot be recognised, so messages must not contain
    any.
    """
    left_out = len(text) - LONGEST
    text = text[:LONGEST]
    if not _is_innocent(text):
        for pattern, mask in _RULES:
            text = pattern.sub(mask, text)
    return f"{text}… ({left_out} characters were left out here)" if left_out > 0 else text


def safe_error(text: str, limit: int = 2000) -> str:
    """One harmless line of at most `limit` characters, with an ellipsis if it was cut."""
    line = " ".join(redact(clean(text[:LONGEST], multiline=True)).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


PRIVATE = "<private>"
_PRIVATE_KEY = re.compile(
    rf"{_SECRET_WORD}|{_PHONE_WORD}|e_?mail|cookie|authorization|dsn|(?:full|first|last|display)[_-]?name$",
    re.IGNORECASE,
)


def scrub(value: Any) -> Any:
    """Cleans and redacts all text in a JSON value, keys too, and masks the values of keys such as `password`."""
    if isinstance(value, str):
        return redact(clean(value, multiline=True))
    if isinstance(value, dict):
        scrubbed: dict[str, Any] = {}
        alike: Counter[str] = Counter()
        for key, entry in value.items():
            name = masked = redact(clean(str(key)))
            # Different keys may be masked to the same text, and each must keep its entry.
            while name in scrubbed:
                alike[masked] += 1
                name = f"{masked} {alike[masked] + 1}"
            scrubbed[name] = _scrub_entry(str(key), entry)
        return scrubbed
    if isinstance(value, list | tuple):
        return [scrub(entry) for entry in value]
    return value


def _scrub_entry(key: str, value: Any) -> Any:
    return PRIVATE if isinstance(value, str) and is_private(key) else scrub(value)


def is_private(key: str) -> bool:
    """Whether text under this key is always masked."""
    return _PRIVATE_KEY.search(key) is not None


def harmless_json(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON that is harmless for a terminal and parses to the same value; nothing is masked."""
    return _UNSAFE_BUT_LINES.sub(_json_escape, json.dumps(value, indent=indent, ensure_ascii=False))


def _json_escape(match: re.Match[str]) -> str:
    character = match[0]
    # DEL is the only control character that `json.dumps` does not escape.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
