"""The places of one server's connections: who gives way when there are too many, and whose turn it is to be read.

A request is proven when it is complete and has shown a secret: a bearer token in its head, or a valid signature over
its body. Proven requests keep their place. Requests whose head shows a secret are read in the turns of that secret, all
others in those of strangers. Each of these turns has a part of the event loop's time, so that neither strangers nor the
program that has one secret delay the others by much, whatever their number and speed.
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
REST_SHOWN: Final = 10.0
"""The same for the requests that show one secret, which get about a quarter of the time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for clients, in seconds, bytes, connections, and requests of one connection.

    Args:
        body_seconds: how long the body of a request may take.
        header_seconds: how long the head of a request may take.
        send_seconds: how long a client may take to read a response.
        held_bytes: maximum memory for the bodies of all requests together that have not shown a secret in their heads.
        per_secret: connections with a request that shows the same secret.
        connections: those that were answered without a proof. A quarter as many more places are for new and proven
            ones.
        requests: those of one connection, after which it is closed.
    """

    body_seconds: float = 10.0
    header_seconds: float = 10.0
    send_seconds: float = 10.0
    held_bytes: int = 64 * 1024 * 1024
    per_secret: int = 20
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
    SHOWN = 5
    """The head of a request shows a secret, and the request is not complete."""
    PROVEN = 6
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

    def __init__(self, rest: float = REST, rest_again: float = REST_AGAIN) -> None:
        """`rest` and `rest_again` are multiples of the time of a slice: the pauses before the next slice."""
        self._rest, self._rest_again = rest, rest_again
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
            self._first_at = now + self._rest * used
        self._again_at = max(self._again_at, now + self._rest_again * used)
        if (self._first or self._again) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._turn)

    def _next(self, *, new: bool) -> Guest:
        if new:
            return self._first.popitem()[0]
        guest = next(iter(self._again))
        del self._again[guest]
        return guest


class Holder:
    """The program that has one secret: the turns of its requests, and its connections with one, the oldest first."""

    def __init__(self) -> None:
        self.turns = Turns(REST_SHOWN, REST_SHOWN)
        self.guests: dict[Guest, None] = {}


class Gate:
    """Keeps the places of all connections of one server.

    Args:
        refused: is called with the status of each request that is refused before routing.
        shown: which secret the head of a request shows, by its hash; None if it shows none.
        limits: those of connections and of their requests.
    """

    def __init__(
        self,
        refused: Callable[[int], None],
        shown: Callable[[bytes], bytes | None],
        limits: Limits,
    ) -> None:
        self.refused = refused
        self.limits = limits
        self._shown = shown
        self._turns = Turns()
        # There are no more of them than secrets.
        self._holders: dict[bytes, Holder] = {}
        self._holder_of: dict[Guest, Holder] = {}
        self._most = limits.connections
        self._ranks: dict[Guest, Rank] = {}
        self._places: dict[Rank, dict[Guest, None]] = {rank: {} for rank in Rank}

    def recognise(self, guest: Guest, head: bytes) -> None:
        """Notes which secret the request of a connection shows. `head` may be incomplete."""
        shown = self._shown(head)
        if shown is None:
            self.part(guest)
        else:
            self._holder_of[guest] = self._holders.setdefault(shown, Holder())

    def ask(self, guest: Guest, *, again: bool) -> None:
        """Calls `guest.serve` once, when it is its turn. Must be called in the thread of the event loop."""
        holder = self._holder_of.get(guest)
        (self._turns if holder is None else holder.turns).ask(guest, again=again)

    def admits(self, guest: Guest) -> bool:
        """Whether a connection may have a request that shows its secret; always if it shows none.

        If too many have one, the oldest whose request is not proven is closed. If all are proven, the answer is no.
        """
        holder = self._holder_of.get(guest)
        if holder is None or guest in holder.guests:
            return True
        if len(holder.guests) >= self.limits.per_secret:
            slowest = next((one for one in holder.guests if self._ranks.get(one) is not Rank.PROVEN), None)
            if slowest is None:
                return False
            self._cut(slowest)
        holder.guests[guest] = None
        return True

    def is_held(self, guest: Guest) -> bool:
        """Whether a connection has a request that shows a secret, and was admitted with it."""
        holder = self._holder_of.get(guest)
        return holder is not None and guest in holder.guests

    def part(self, guest: Guest) -> None:
        """Forgets which secret the request of a connection has shown, because it is answered."""
        holder = self._holder_of.pop(guest, None)
        if holder is not None:
            holder.guests.pop(guest, None)
            holder.turns.leave(guest)

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
            for lowest in Rank:
                if lowest is not Rank.PROVEN and self._places[lowest]:
                    self._cut_oldest(lowest)
                    break

    def leave(self, guest: Guest) -> None:
        """Forgets a connection."""
        self._turns.leave(guest)
        self.part(guest)
        rank = self._ranks.pop(guest, None)
        if rank is not None:
            del self._places[rank][guest]

    def _crowded(self) -> bool:
        strangers = sum(len(self._places[rank]) for rank in (Rank.BLOCKED, Rank.ASKED, Rank.ASKING))
        return strangers > self._most or len(self._ranks) > self._most + self._most // 4

    def _cut_oldest(self, rank: Rank) -> None:
        self._cut(next(iter(self._places[rank])))

    def _cut(self, guest: Guest) -> None:
        self.leave(guest)
        guest.cut()
