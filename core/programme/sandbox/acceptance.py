"""The log of messages that the sandbox's mail and text vendors accepted, for tests."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

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
