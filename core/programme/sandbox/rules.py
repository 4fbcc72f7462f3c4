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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

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
