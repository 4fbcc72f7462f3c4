"""Removes personal data, secrets and control characters from text that is shown, logged or stored as an error.

`clean` makes text harmless for a terminal or a log line, and `redact` masks personal data and secrets. `safe_text` does
both, `safe_error` does both and returns one line, and `scrub` does both in all of a JSON value.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LONGEST = 65_536
"""Maximum number of characters of one text. Longer text is cut, so that hostile input costs little time."""

LONGEST_PRIVATE = 8_192
"""Maximum length of one private value. So much is looked at on each side of the characters that are shown."""

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


_SECRET_WORD = r"(?:api[_-]?key|access[_-]?key|password|passwd|passphrase|secret|(?<!run_)(?<!run)token|pwd)"  # noqa: S105 -- a pattern
_PHONE_WORD = r"(?:phone|mobile|telephone|whatsapp|\b(?:tel|tlf|mob|sms|cell|fax))(?:[_ -]?(?:number|no|nr))?"
_SPACE = r"(?:[ ().-]|%20)"
_START, _END = r"(?<![\w.+-])", r"(?!\w|[.-]\w)"
_MASKED = r"(?!<[a-z]+>)"
# Limits of 32 bits, which errors about a number quote. Ten digits are otherwise taken for a phone number.
_BOUNDS = r"(?:214748364[78]|4294967295)(?!\d)"
_GROUPED = r"(?:[2-9]\d(?:[ -]\d\d){3}|[2-9]\d\d[ -]\d\d[ -]\d{3}|[6-9]\d\d[ -]\d{3}[ -]\d{3}|[6-9]\d{4}[ -]\d{5})"
# A number that follows another one after a space has no sign of its own: it looks like more groups of the first one.
_MORE = r"(?: {1,2}\d{2,12}){0,20}"

# Every expression is linear in its input: repetitions are bounded, or end at a character that they cannot match.
# The order matters: credentials in an address contain an @, and an e-mail address may contain digits.
# After its mask, a rule has pieces in small letters. It cannot match a text in ASCII that has none of them, and is not
# tried. In other text, a letter may be another one without regard to case, as the long s is an s.
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE), mask, pieces)
    for pattern, mask, *pieces in (
        # Postgres quotes the offending key or row in an error's detail, pydantic the invalid value.
        (r"Key \([^=\n]{1,200}\)=(?P<private>\([^\n]{0,2000}\)|\([^\n]{0,2000})", "(<value>)", "key ("),
        (r"Failing row contains (?P<private>\([^\n]{0,8000})", "(<value>)", "failing row"),
        (r"input_value=(?P<private>[^\n]{0,500}?), input_type=", "<value>", "input_value"),
        (r"\b[a-z][a-z0-9+.-]{1,20}://(?P<private>[^/\s\"'<>]{1,400})@", "<secret>", "://"),
        (r"\b(?:bearer|basic)(?:\s{1,4}|%20)(?P<private>[\w.~+/=:-]{6,})", "<secret>", "bearer", "basic"),
        (r"(?P<private>\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)", "<secret>", "eyj"),
        (
            r"\b(?P<private>SG\.[\w-]{10,}\.[\w-]{10,}|sk[-_][\w-]{16,}|SK[0-9a-f]{32}|gh[opsu]_\w{20,})",
            "<secret>",
            *("sg.", "sk", "gh"),
        ),
        (
            (
                rf"{_SECRET_WORD}\\{{0,4}}[\"']?\s{{0,4}}[=:]\s{{0,4}}(?P<private>"
                rf"\\{{0,4}}\"{_MASKED}[^\"\n]{{1,400}}\"|'{_MASKED}[^'\n]{{1,400}}'|[^\s\"'\\&,;)}}\]<]{{3,}})"
            ),
            "<secret>",
            *("key", "pass", "secret", "token", "pwd"),
        ),
        (
            (
                r"(?P<private>(?:\"[^\"\n]{1,64}\"|(?:[\w.!#$*+^~-]{1,64}['`\u2019])?[\w.!#$*+^~-]{1,64})(?:@|%40)"
                r"(?:[^\W_][\w-]{0,62}\.){1,8}[^\W\d_]{2,24})"
            ),
            "<email>",
            *("@", "%40"),
        ),
        (
            (
                rf"{_PHONE_WORD}\\{{0,4}}[\"']?\s{{0,4}}[=:]?\s{{0,4}}\\{{0,4}}[\"']?"
                rf"(?P<private>\+?\(?\d(?:{_SPACE}{{0,2}}\d){{5,14}}{_MORE})(?!\w)"
            ),
            "<phone>",
            *("phone", "mobile", "whatsapp", "tel", "tlf", "mob", "sms", "cell", "fax"),
        ),
        (rf"(?<![\w+.-])(?P<private>(?:\+|00)[1-9](?:{_SPACE}{{0,2}}\d){{6,14}}{_MORE}){_END}", "<phone>", "+", "00"),
        (rf"{_START}(?P<private>(?:1[ .-]?)?(?:\(\d{{3}}\) ?|\d{{3}}[ .-])\d{{3}}[ .-]\d{{4}}){_END}", "<phone>"),
        (rf"{_START}(?P<private>1?(?!{_BOUNDS})[2-9]\d{{9}}){_END}", "<phone>"),
        # Numbers as they are written inside a country: a leading zero, or groups that nothing else is written in.
        (rf"{_START}(?P<private>\(?0[1-9](?:[ ()./-]{{0,2}}\d){{7,12}}{_MORE})(?!\w|[.:/-]\w)", "<phone>"),
        (rf"{_START}(?<!\d )(?P<private>{_GROUPED}(?: {_GROUPED}){{0,9}})(?!\w|[.:/-]\w| \d)", "<phone>"),
    )
)


_HINTS = (
    "key", "pass", "secret", "token", "pwd", "@", "://", "bearer", "basic", "eyj", "sg.", "failing row", "input_value",
    "%",
)  # fmt: skip
_DIGITS = re.compile(r"\d(?:[ ()./-]{0,2}\d){5}")
_ASCII_DIGITS = re.compile(_DIGITS.pattern.replace(r"\d", "[0-9]"))
"""The same for text in ASCII, in half the time."""
_TOKENS = re.compile(r"sk[-_0-9a-f]|gh[opsu]_")


def _is_quiet(text: str) -> bool:
    """Whether no rule can match, because each rule needs one of the hints or six digits close together."""
    lower = text.lower()
    for hint in _HINTS:
        if hint in lower:
            return False
    if ("sk" in lower or "gh" in lower) and _TOKENS.search(lower):
        return False
    return (_ASCII_DIGITS if text.isascii() else _DIGITS).search(text) is None


# Characters written as codes in addresses, mail, HTML, JSON and the result of `clean`.
_MAIL_CODE = re.compile(r"=(?:40|2[bB])")
_CODE = re.compile(
    r"&#0{0,4}(?P<decimal>[0-9]{1,7});?|&(?P<name>commat|plus|period|lowbar|colon|equals);?"
    r"|(?:%|&#[xX]0{0,4}|\\{1,4}x|\\{1,4}u00)(?P<byte>[0-9a-fA-F]{2});?|=(?P<mail>40|2[bB])"
    r"|(?:\\{1,4}u|&#[xX])(?P<short>[0-9a-fA-F]{3,4});?|\\{1,4}(?:r|U(?P<long>[0-9a-fA-F]{8}))"
)
_NAMES = {"commat": "@", "plus": "+", "period": ".", "lowbar": "_", "colon": ":", "equals": "="}
_MEANT = frozenset(_NAMES.values()) | {"-"}
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Mn", "Me"})
"""Categories of characters that are invisible or only change another one."""
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols that look like nothing."""


@lru_cache(4096)
def _meaning(character: str) -> str:
    """What a reader takes a character for: the plain form of its variants, nothing if it is invisible."""
    if character in "\n\t…":
        return character
    if unicodedata.category(character) == "Pd":
        return "-"
    plain = unicodedata.normalize("NFKD", character).replace("\u3002", ".").replace("\u0131", "i")
    return "".join(c for c in plain if c not in _BLANK and unicodedata.category(c) not in _UNSEEN)


def _decoded(code: re.Match[str]) -> str:
    """What a code means, if that is invisible or a part of an address, a number or a name; else the code itself."""
    if code["name"]:
        return _NAMES[code["name"]]
    digits = code["decimal"] or code["byte"] or code["mail"] or code["short"] or code["long"]
    if digits is None:
        return ""
    number = int(digits, 10 if code["decimal"] else 16)
    meant = _meaning(chr(number)) if number <= sys.maxunicode else code[0]
    return meant if not meant or meant.isalnum() or meant in _MEANT else code[0]


def _read(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """The text as a reader or a program takes it, and where each of its characters starts and stops in `text`."""
    pieces: list[str] = []
    starts: list[int] = []
    stops: list[int] = []

    def add(meanings: Iterable[str], start: int, length: int) -> None:
        for place, meant in enumerate(meanings, start):
            pieces.append(meant)
            starts.extend([place] * len(meant))
            stops.extend([place + length] * len(meant))

    end = 0
    for code in _CODE.finditer(text):
        meant = _decoded(code)
        if meant != code[0]:
            add(map(_meaning, text[end : code.start()]), end, 1)
            add([meant], code.start(), len(code[0]))
            end = code.end()
    add(map(_meaning, text[end:]), end, 1)
    return "".join(pieces), starts, stops


def _private_parts(text: str) -> list[tuple[int, int, str]]:
    """Start, end and mask of each private part, in order. A part inside another one may be among them."""
    found: list[tuple[int, int, str]] = []
    lower = text.lower() if text.isascii() else None
    for pattern, mask, needed in _RULES:
        if lower is not None and needed and not any(piece in lower for piece in needed):
            continue
        pieces: list[str] = []
        end = 0
        for match in pattern.finditer(text):
            start, stop = match.span("private")
            found.append((start, stop, mask))
            # The next rules see a text of the same length, without what is masked already.
            pieces += [text[end:start], "<" * (stop - start)]
            end = stop
        if end:
            text = "".join(pieces) + text[end:]
    return sorted(found, key=lambda part: (part[0], -part[1]))


def _is_plain(text: str) -> bool:
    """Whether the text means exactly what is written: it has no variants of characters and no codes."""
    if not text.isascii() or not (text.isprintable() or text.replace("\n", "").replace("\t", "").isprintable()):
        return False
    return not ("%" in text or "&" in text or "\\" in text or ("=" in text and _MAIL_CODE.search(text)))


def redact_part(text: str, start: int, stop: int) -> str:
    """The characters from `start` to `stop`, with what `redact` masks.

    The text around them is looked at too, so that no half of a private value is left at their ends.
    """
    low = max(start - LONGEST_PRIVATE, 0)
    around = text[low : stop + LONGEST_PRIVATE]
    start, stop = start - low, min(stop - low, len(around))
    plain = _is_plain(around)
    if plain and _is_quiet(around):
        return around[start:stop]
    read, starts, stops = (around, range(len(around)), range(1, len(around) + 1)) if plain else _read(around)
    if not plain and _is_quiet(read):
        return around[start:stop]
    pieces: list[str] = []
    end, place = 0, start
    for first, last, mask in _private_parts(read):
        if first >= end:
            pieces.append(around[place : min(starts[first], stop)])
            if starts[first] < stop and stops[last - 1] > start:
                pieces.append(mask)
        if last > end:
            end, place = last, max(stops[last - 1], start)
    return "".join([*pieces, around[place:stop]])


def redact(text: str) -> str:
    """Masks e-mail addresses, phone numbers, credentials, and the values that Postgres and pydantic quote.

    Invisible characters, variants of letters and codes such as `%40` hide none of them. Identifiers, times and counts
    stay readable. Names of people cannot be recognised, so messages must not contain any.
    """
    left_out = len(text) - LONGEST
    masked = redact_part(text, 0, LONGEST)
    return f"{masked}… ({left_out} characters were left out here)" if left_out > 0 else masked


def safe_text(text: str, limit: int | None = None) -> str:
    """A text, or its first `limit` characters, masked, and harmless but for line feeds and tabs."""
    return clean(redact(text) if limit is None else redact_part(text, 0, limit), multiline=True)


def safe_texts(texts: Sequence[str], limit: int) -> list[str]:
    """What `safe_text` makes of each of these texts; one look at all of them finds that none has anything to mask."""
    together = "\n".join([text[: limit + LONGEST_PRIVATE] for text in texts])
    if _is_plain(together) and _is_quiet(together):
        return [text[:limit] for text in texts]
    return [safe_text(text, limit) for text in texts]


def safe_error(text: str, limit: int = 2000) -> str:
    """One harmless line of at most `limit` characters, with an ellipsis if it was cut."""
    line = " ".join(safe_text(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def readable(error: BaseException) -> str:
    """An exception in one harmless line. Never raises, even where its methods do."""
    try:
        return safe_error(repr(error))
    except BaseException:  # noqa: BLE001 -- also SystemExit: an application's exception may raise anything
        return type(error).__name__


PRIVATE = "<private>"
_SECRET_KEY = re.compile(rf"{_SECRET_WORD}|cookie|authorization|dsn", re.IGNORECASE)
_PERSONAL_KEY = re.compile(rf"{_PHONE_WORD}|e_?mail|(?:full|first|last|display)[_-]?name$", re.IGNORECASE)
_ID_KEY = re.compile(r"(?:[a-z]I|\bi|_i)d$|^run$|run_?token$")
SHORTEST_NUMBER = 100_000
"""Smaller numbers under the name of an address or a phone number are counts."""


def scrub(value: Any) -> Any:
    """Cleans and redacts all text in a JSON value, keys too, and masks the values of keys such as `password`."""
    return _scrubbed(value, secret=False, personal=False)


def scrub_field(key: str, value: Any) -> Any:
    """A value as `scrub` returns it from under this key of an object."""
    name = key if _is_plain(key) else _read(key)[0]
    if isinstance(value, int) and _ID_KEY.search(name):
        return value
    return _scrubbed(value, secret=bool(_SECRET_KEY.search(name)), personal=bool(_PERSONAL_KEY.search(name)))


def _scrubbed(value: Any, *, secret: bool, personal: bool) -> Any:
    if isinstance(value, str):
        return PRIVATE if secret or personal else safe_text(value)
    if isinstance(value, dict):
        return _scrubbed_object(value, secret=secret, personal=personal)
    if isinstance(value, list | tuple):
        return [_scrubbed(entry, secret=secret, personal=personal) for entry in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        private = secret or (personal and abs(value) >= SHORTEST_NUMBER)
        return PRIVATE if private else _scrubbed_number(value)
    return PRIVATE if (secret or personal) and value is not None and not isinstance(value, bool) else value


def _scrubbed_object(value: dict[Any, Any], *, secret: bool, personal: bool) -> dict[str, Any]:
    scrubbed: dict[str, Any] = {}
    alike: Counter[str] = Counter()
    for key, entry in value.items():
        name = masked = clean(redact(str(key)))
        # Different keys may be masked to the same text, and each must keep its entry.
        while name in scrubbed:
            alike[masked] += 1
            name = f"{masked} {alike[masked] + 1}"
        inherits = secret or personal
        scrubbed[name] = (
            _scrubbed(entry, secret=secret, personal=personal) if inherits else scrub_field(str(key), entry)
        )
    return scrubbed


def _scrubbed_number(value: float) -> Any:
    """A number, or its mask if it is a phone number by its form."""
    if not SHORTEST_NUMBER <= abs(value) < 10**16 or value != int(value):
        return value
    text = str(int(value))
    masked = redact(text)
    return value if masked == text else masked


def harmless_json(value: Any, *, indent: int | None = None, default: Callable[[Any], str] | None = None) -> str:
    """A value as JSON that is harmless for a terminal and parses to the same value; nothing is masked."""
    written = json.dumps(value, indent=indent, ensure_ascii=False, default=default)
    return _UNSAFE_BUT_LINES.sub(_json_escape, written)


def _json_escape(match: re.Match[str]) -> str:
    character = match[0]
    # DEL is the only control character that `json.dumps` does not escape.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
