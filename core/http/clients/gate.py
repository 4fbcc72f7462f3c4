"""The places of one server's connections: who gives way when there are too many, and whose turn it is to be read.

A request is proven when it has shown a secret: a bearer token in its head, or a valid signature over its body. Proven
requests are read at once and keep their place. All others are read in turn, in a part of the event loop's time, so
that no number of them and no speed delays the proven ones by much.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE_SECONDS: Final = 0.0002
REST: Final = 5.0
"""After each slice of reading, requests without a proof wait for this multiple of it. Answering costs about twice as
much as reading, so that they get half of the event loop's time at most."""
REST_AGAIN: Final = 40.0
"""The same before the further requests of a connection, which get less than a tenth of the time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for clients, in seconds, bytes, connections, and requests of one connection.

    Args:
        body_seconds: how long the body of a request may take.
        header_seconds: how long the head of a request may take.
        send_seconds: how long a client may take to read a response.
        held_bytes: maximum memory for the bodies of all requests together that have not shown a secret in their heads.
        connections: those that were answered without a proof. A quarter as many more places are for new and proven
            ones.
        requests: those of one connection, after which it is closed.
    """

    body_seconds: float = 10.0
    header_seconds: float = 10.0
    send_seconds: float = 10.0
    held_bytes: int = 64 * 1024 * 1024
    connections: int = 400
    requests: int = 100


class Rank(IntEnum):
    """The order in which connections are closed when there are too many; the last rank is never closed."""

    BLOCKED = 0
    """The client does not read its response."""
    ASKED = 1
    """The last request was answered without a proof, and the next is not complete."""
    WAITING = 2
    """The head of the first request is not complete."""
    READING = 3
    """The body of a request is not complete. At most half of the places are for this rank."""
    ASKING = 4
    """A request without a proof is being answered."""
    PROVEN = 5
    """A proven request is being answered."""


class Guest(Protocol):
    """A connection, as the gate knows it."""

    def serve(self) -> None:
        """Handles what the connection has received."""

    def cut(self) -> None:
        """Closes the connection at once."""


class Turns:
    """Lets connections be read one after the other.

    Those that have been answered before come after all others. Of the others the newest comes first: when there are
    more than can be read, each has the same chance, and none waits long only to be closed for a newer one.
    """

    def __init__(self) -> None:
        self._first: dict[Guest, None] = {}
        self._again: dict[Guest, None] = {}
        self._timer: asyncio.Handle | None = None
        self._first_at = self._again_at = -math.inf

    def ask(self, guest: Guest, *, again: bool) -> None:
        """Calls `guest.serve` once, when it is its turn. Must be called in the thread of the event loop."""
        if guest not in self._first and guest not in self._again:
            (self._again if again else self._first)[guest] = None
            if self._timer is not None and not again and len(self._first) == 1:
                # The timer may be that of the longer rest.
                self._timer.cancel()
                self._timer = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._turn)

    def leave(self, guest: Guest) -> None:
        self._first.pop(guest, None)
        self._again.pop(guest, None)

    def _turn(self) -> None:
        self._timer = None
        new = bool(self._first)
        left = (self._first_at if new else self._again_at) - time.monotonic()
        if left > 0:
            self._timer = asyncio.get_running_loop().call_later(left, self._turn)
            return
        began, used = time.thread_time(), 0.0
        while (self._first if new else self._again) and used < SLICE_SECONDS:
            self._next(new=new).serve()
            used = time.thread_time() - began
        now = time.monotonic()
        if new:
            self._first_at = now + REST * used
        self._again_at = max(self._again_at, now + REST_AGAIN * used)
        if (self._first or self._again) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._turn)

    def _next(self, *, new: bool) -> Guest:
        if new:
            return self._first.popitem()[0]
        guest = next(iter(self._again))
        del self._again[guest]
        return guest


class Gate:
    """Keeps the places of all connections of one server.

    Args:
        refused: is called with the status of each request that is refused before routing.
        proof: whether the head of a request shows a secret.
        limits: those of connections and of their requests.
    """

    def __init__(
        self,
        refused: Callable[[int], None],
        proof: Callable[[bytes], bool],
        limits: Limits,
    ) -> None:
        self.refused = refused
        self.proof = proof
        self.limits = limits
        self.turns = Turns()
        self._most = limits.connections
        self._ranks: dict[Guest, Rank] = {}
        self._places: dict[Rank, dict[Guest, None]] = {rank: {} for rank in Rank}

    def place(self, guest: Guest, rank: Rank) -> None:
        """Gives a connection its rank. If there are too many, closes the one that has the lowest rank the longest."""
        known = self._ranks.get(guest)
        if known is rank:
            return
        if known is not None:
            del self._places[known][guest]
        self._ranks[guest] = rank
        self._places[rank][guest] = None
        if len(self._places[Rank.READING]) > self._most // 2:
            self._cut_oldest(Rank.READING)
        elif self._crowded():
            for lowest in (Rank.BLOCKED, Rank.ASKED, Rank.WAITING, Rank.READING, Rank.ASKING):
                if self._places[lowest]:
                    self._cut_oldest(lowest)
                    break

    def leave(self, guest: Guest) -> None:
        """Forgets a connection."""
        self.turns.leave(guest)
        rank = self._ranks.pop(guest, None)
        if rank is not None:
            del self._places[rank][guest]

    def _crowded(self) -> bool:
        strangers = sum(len(self._places[rank]) for rank in (Rank.BLOCKED, Rank.ASKED, Rank.ASKING))
        return strangers > self._most or len(self._ranks) > self._most + self._most // 4

    def _cut_oldest(self, rank: Rank) -> None:
        oldest = next(iter(self._places[rank]))
        self.leave(oldest)
        oldest.cut()
