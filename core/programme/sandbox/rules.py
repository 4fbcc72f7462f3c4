"""Rules that make a sandbox vendor fail. They can be changed while it runs.

    FAULT[:WHERE[:TIMES]][,KEY=VALUE]...

FAULT   a status from 300 to 599 · `slow` (answers late) · `malformed` (not JSON) · `schema` (JSON of the wrong
        shape) · `cut-before` (closes the connection without acting) · `cut-after` (acts, then closes the connection)
WHERE   a part of the path, such as `users`, `scores`, `flash`, `assign_team`; `*` (the default) is every path
TIMES   which requests fail: a number of them · `/3` every third one · `*` (the default) all, until removed
KEYS    `user=ID` and `method=POST` narrow the rule; `retry-after=5` (seconds) and `retry-after=date:5` (an HTTP date)
        add that header; `seconds=2` is the delay of `slow`; `detail=TEXT` is the message of a status

Examples: `429:scores:3,retry-after=2` · `503:*:/5` · `403:scores,user=c-1` · `cut-after:users:1,method=POST`
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jobdeck.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

Reply = tuple[int, Any, dict[str, str]]
"""The answer of a vendor: status, body and headers."""

FAULTS: Final = ("slow", "malformed", "schema", "cut-before", "cut-after")
DETAILS: Final = {
    401: "Invalid authentication credentials",
    403: "User not found or not approved",
    404: "User not found",
    409: "User already exists",
    429: "Too many requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

_HELP: Final = "Write it like 429:scores:3,retry-after=2 (FAULT[:WHERE[:TIMES]][,KEY=VALUE]...)"
_RETRY_AFTER: Final = re.compile(r"(date:)?(\d{1,6})", re.ASCII)
_TIMES: Final = re.compile(r"(/?)(\d{1,9})", re.ASCII)
_SECONDS: Final = re.compile(r"\d{1,4}(\.\d{1,3})?", re.ASCII)


@dataclass(eq=False, slots=True)
class Rule:
    """One fault. It applies to `times` matching requests (None means all), or to every `every`-th one."""

    fault: str
    where: str = "*"
    times: int | None = None
    every: int = 1
    user: str | None = None
    method: str | None = None
    retry_after: int | None = None
    retry_after_as_date: bool = False
    seconds: float = 30.0
    detail: str | None = None
    matched: int = field(default=0, init=False)
    struck: int = field(default=0, init=False)

    @property
    def status(self) -> int | None:
        """The HTTP status of the answer, or None for other faults."""
        return int(self.fault) if self.fault.isdigit() else None

    @property
    def message(self) -> str:
        """The `detail` of the answer."""
        return self.detail or DETAILS.get(self.status or 0, "Failed by a rule of the sandbox")

    def matches(self, method: str, path: str, user: str | None) -> bool:
        return (
            (self.where == "*" or self.where in path)
            and (self.method is None or self.method == method)
            and (self.user is None or self.user == user)
        )

    def strikes(self) -> bool:
        """Counts a matching request; returns whether it fails."""
        self.matched += 1
        if self.matched % self.every or (self.times is not None and self.struck >= self.times):
            return False
        self.struck += 1
        return True


def parse_rule(text: str) -> Rule:
    """Parses a rule in the format of the module's docstring.

    Raises:
        UsageError: names the invalid part and the format.
    """
    head, *options = text.strip().split(",")
    fault, *rest = head.split(":")
    if len(rest) > 2:
        raise UsageError(f"The rule {text!r} has more than three parts. {_HELP}.")
    if fault not in FAULTS and not (re.fullmatch(r"[3-5]\d\d", fault, re.ASCII)):
        raise UsageError(f"Unknown fault {fault!r}; use a status or one of {', '.join(FAULTS)}. {_HELP}.")
    rule = Rule(fault, where=rest[0] if rest and rest[0] else "*")
    if len(rest) == 2 and rest[1] != "*":
        _read_times(rule, rest[1])
    for option in options:
        _read_option(rule, option)
    return rule


def _read_times(rule: Rule, text: str) -> None:
    match = _TIMES.fullmatch(text)
    if match is None or int(match[2]) == 0:
        raise UsageError(f"{text!r} is not a number of requests. {_HELP}.")
    if match[1]:
        rule.every = int(match[2])
    else:
        rule.times = int(match[2])


def _read_option(rule: Rule, option: str) -> None:
    key, _, value = option.strip().partition("=")
    if key in {"user", "detail"} and value:
        setattr(rule, key, value)
    elif key == "method" and value.upper() in {"GET", "POST"}:
        rule.method = value.upper()
    elif key == "seconds" and _SECONDS.fullmatch(value):
        rule.seconds = float(value)
    elif key == "retry-after" and (match := _RETRY_AFTER.fullmatch(value)):
        rule.retry_after, rule.retry_after_as_date = int(match[2]), bool(match[1])
    else:
        raise UsageError(f"{option.strip()!r} is not an option of a rule. {_HELP}.")


class Rules:
    """The active rules, in order; the first that matches and applies decides. Thread-safe."""

    def __init__(self, rules: Iterable[Rule | str] = ()) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule | str) -> Rule:
        """Activates a rule, given as text or `Rule`.

        Raises:
            UsageError: the text is not a rule.
        """
        added = parse_rule(rule) if isinstance(rule, str) else rule
        with self._lock:
            self._rules.append(added)
        return added

    def remove(self, rule: Rule) -> None:
        """Deactivates a rule, if it is active."""
        with self._lock:
            self._rules = [kept for kept in self._rules if kept is not rule]

    def clear(self) -> None:
        """Deactivates all rules."""
        with self._lock:
            self._rules.clear()

    def strike(self, method: str, path: str, user: str | None) -> Rule | None:
        """The rule by which a request fails, or None if it succeeds."""
        with self._lock:
            for rule in self._rules:
                if rule.matches(method, path, user) and rule.strikes():
                    return rule
        return None


@dataclass(frozen=True, slots=True)
class Seen:
    """One received request. `user` is the requested user id; `status` is None if the connection was cut."""

    method: str
    path: str
    user: str | None
    status: int | None

    @property
    def mutating(self) -> bool:
        """Whether the request may change something."""
        return self.method != "GET"


Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Accepted:
    """One accepted message to one address. `at` is unix seconds; `place` counts from 0."""

    place: int
    message_id: str
    address: str = field(repr=False)
    at: float
    text: str = field(default="", repr=False)
    html: str = field(default="", repr=False)
    subject: str = field(default="", repr=False)
    custom_args: Mapping[str, str] = field(default_factory=dict)
    categories: tuple[str, ...] = ()
    group_id: int | None = None
    request: Json = field(default_factory=dict, repr=False)


class AcceptanceLog:
    """Accepted messages, oldest first. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Accepted] = []

    def __len__(self) -> int:
        with self._lock:
            return len(self._all)

    @property
    def all(self) -> list[Accepted]:
        with self._lock:
            return list(self._all)

    def add(self, message_id: str, address: str, at: float, **facts: Any) -> Accepted:
        with self._lock:
            accepted = Accepted(len(self._all), message_id, address, at, **facts)
            self._all.append(accepted)
            return accepted

    def counts(self) -> Counter[str]:
        """Number of messages by lower-case address."""
        return Counter(one.address.strip().lower() for one in self.all)

    def repeated(self) -> list[str]:
        """Addresses with more than one message."""
        return sorted(address for address, count in self.counts().items() if count > 1)


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
