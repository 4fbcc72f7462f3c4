"""A request and its answer as values, so that what a path does is a plain function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobdeck.core.door.lanes import Lane


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Header names are in lower case; `target` is path and query as they were sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply: a JSON object, or text of some media type."""

    status: int
    content: dict[str, Any] | str
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Declined(Exception):
    """A call that is not carried out; nothing was changed. The sentence is told to the caller."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def answer(self) -> Answer:
        """What the caller reads."""
        return Answer(self.status, {"status": "refused", "error": self.sentence}, headers=self.headers)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path.

    Args:
        path: as it stands in the URL.
        methods: those that are served.
        limit: the most bytes that a body may have.
        admit: looks at everything but the body and raises `Declined` for whoever may not go on.
        handle: carries the call out; runs in a thread of `lane`.
        lane: the threads for it.
    """

    path: str
    methods: tuple[str, ...]
    limit: int
    admit: Callable[[Call], None]
    handle: Callable[[Call], Answer]
    lane: Lane
