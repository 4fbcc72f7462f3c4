"""Who gives way when there are too many connections, whose turn it is, and which chunks are not worth their cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import SecretStr

from jobdeck.core.http.clients.connections import CHUNK_BYTES, FREE_BYTES, FREE_CHUNKS, READ_BYTES, FrugalConnection
from jobdeck.core.http.clients.gate import Gate, Limits, Rank, Turns
from jobdeck.core.http.clients.proof import Bearers, Secret
from jobdeck.core.http.producers.enqueue import BODY_BYTES, THREADS
from jobdeck.core.http.producers.sharing import IN_WORK, WAITING
from jobdeck.core.http.producers.wire import MOST_JOBS
from tests.support.waiting import becomes

MOST = 4
STRANGE = (Rank.BLOCKED, Rank.ASKED, Rank.ASKING)
HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Guest:
    """A connection that remembers what was done to it."""

    def __init__(self, served: list[Guest] | None = None) -> None:
        self.open = True
        self._served = served if served is not None else []

    def cut(self) -> None:
        self.open = False

    def serve(self) -> None:
        self._served.append(self)


class Places(RuleBasedStateMachine):
    """The gate beside a list of its connections, oldest in their rank first."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(lambda _: None, lambda _: None, Limits(connections=MOST))
        self.here: list[tuple[Guest, Rank]] = []

    @rule()
    def comes(self) -> None:
        self.placed(Guest(), Rank.WAITING)

    @precondition(lambda self: self.here)
    @rule(data=st.data(), rank=st.sampled_from(Rank))
    def changes(self, data: st.DataObject, rank: Rank) -> None:
        guest, before = one = data.draw(st.sampled_from(self.here))
        if before is rank:
            self.gate.place(guest, rank)
        else:
            self.here.remove(one)
            self.placed(guest, rank)

    def placed(self, guest: Guest, rank: Rank) -> None:
        self.here.append((guest, rank))
        reading = [one for one in self.here if one[1] is Rank.READING]
        strangers = sum(one[1] in STRANGE for one in self.here)
        victim = None
        if len(reading) > MOST // 2:
            victim = reading[0]
        elif strangers > MOST or len(self.here) > MOST + MOST // 4:
            lowest = min(rank for _, rank in self.here)
            victim = next(one for one in self.here if one[1] is lowest)
        if victim is not None:
            self.here.remove(victim)
        self.gate.place(guest, rank)
        assert victim is None or not victim[0].open

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def goes(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.here))
        self.here.remove(one)
        self.gate.leave(one[0])

    @invariant()
    def all_that_are_here_are_open(self) -> None:
        assert all(guest.open for guest, _ in self.here)
        assert sum(rank in STRANGE for _, rank in self.here) <= MOST
        assert len(self.here) <= MOST + MOST // 4


TestPlaces = Places.TestCase


@pytest.mark.parametrize("rank", STRANGE)
def test_connections_without_a_proof_are_too_many_together_whatever_they_do(rank: Rank) -> None:
    gate = Gate(lambda _: None, lambda _: None, Limits(connections=MOST))
    guests = [Guest() for _ in range(MOST + 1)]
    for guest in guests:
        gate.place(guest, rank)
    assert [guest.open for guest in guests] == [False, *[True] * MOST]


def test_proven_connections_are_never_closed_for_another() -> None:
    gate = Gate(lambda _: None, lambda _: None, Limits(connections=2))
    proven, late = [Guest(), Guest()], Guest()
    for guest in proven:
        gate.place(guest, Rank.PROVEN)
    gate.place(late, Rank.WAITING)
    assert (proven[0].open, proven[1].open, late.open) == (True, True, False)


async def test_the_newest_connection_is_read_first_and_those_that_were_answered_before_last() -> None:
    served: list[Guest] = []
    turns = Turns()
    old, new = [[Guest(served) for _ in range(20)] for _ in range(2)]
    for guest in old:
        turns.ask(guest, again=True)
    for guest in [*reversed(new), new[0]]:
        turns.ask(guest, again=False)
    turns.leave(old[3])
    await becomes(lambda: len(served) == 39, "39 turns")
    assert served == [*new, *old[:3], *old[4:]]


def parsed(chunks: list[bytes], extension: bytes = b"") -> bytes:
    """The body that the parser makes of chunks, which arrive in pieces."""
    text = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    parser = FrugalConnection(READ_BYTES)
    body = b""
    for place in range(0, len(text) + len(HEAD) + 5, READ_BYTES):
        parser.receive_data((HEAD + text + b"0\r\n\r\n")[place : place + READ_BYTES])
        while True:
            event: Any = parser.next_event()
            if event is h11.NEED_DATA or isinstance(event, h11.EndOfMessage):
                break
            if isinstance(event, h11.Data):
                body += event.data
    return body


@given(st.lists(st.integers(1, 3 * CHUNK_BYTES), max_size=3 * FREE_CHUNKS))
def test_a_body_in_chunks_is_read_whole_or_refused_for_their_number(sizes: list[int]) -> None:
    chunks = [b"x" * size for size in sizes]
    total, worth = 0, True
    for number, size in enumerate(sizes, 1):
        # h11 gives the beginning of a chunk that is not complete yet.
        total += size
        worth = worth and number <= FREE_CHUNKS + (total - size) // CHUNK_BYTES
    if worth:
        assert parsed(chunks) == b"".join(chunks)
    elif any(number > FREE_CHUNKS + sum(sizes[:number]) // CHUNK_BYTES for number in range(1, len(sizes) + 1)):
        with pytest.raises(h11.RemoteProtocolError):
            parsed(chunks)


def test_a_body_with_more_around_it_than_in_it_is_refused() -> None:
    extension = b";" + b"x" * 8000
    assert parsed([b"x" * 2000] * 5, extension) == b"x" * 10_000
    with pytest.raises(h11.RemoteProtocolError):
        parsed([b"x" * 2000] * (FREE_BYTES // 4000), extension)


def test_each_request_of_a_connection_has_its_own_chunks() -> None:
    parser = FrugalConnection(READ_BYTES)
    for _ in range(3):
        parser.receive_data(HEAD + b"1\r\nx\r\n" * (FREE_CHUNKS - 1) + b"0\r\n\r\n")
        while not isinstance(parser.next_event(), h11.EndOfMessage):
            continue
        parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        parser.send(h11.EndOfMessage())
        parser.start_next_cycle()


@pytest.mark.parametrize(
    ("head", "shown"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer the-token\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nauthorization:\tbearer  the-token \r\nHost", True),
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer the-other\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer the-tok", False),
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer \r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nAuthorization: Basic the-token\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nX-Authorization: Bearer the-token\r\n\r\n", False),
        (b"GET /authorization:bearer%20the-token HTTP/1.1\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nAuthorization: Bearer the-token\r\n\r\n", False),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\nx\r\nAuthorization: Bearer the-token\r\n\r\n", False),
        (b"\xff" * 100, False),
        (b"", False),
    ],
)
def test_a_secret_is_recognised_in_the_head_of_a_request(head: bytes, shown: bool) -> None:
    configured = (SecretStr("the-token"), SecretStr(" the-other "), None, SecretStr("  "))
    known = Bearers(*(Secret("A_SECRET", one) for one in configured))
    assert (known.shown(head) is not None) is shown
    assert not Bearers(Secret("A_SECRET", None), Secret("A_SECRET", SecretStr(""))).shown(head)


def test_the_page_names_the_limits_as_shipped() -> None:
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    limits, mebibyte = Limits(), 1024 * 1024
    for line in (
        f"| head of a request | {READ_BYTES // 1024} KiB, complete within {limits.header_seconds:g} s |",
        f"| body | {BODY_BYTES // mebibyte} MiB to enqueue, ",
        f"; complete within {limits.body_seconds:g} s | 413, 408 |",
        f"| chunks of a body | {FREE_CHUNKS}, and one for each {CHUNK_BYTES} bytes; {FREE_BYTES // 1024} KiB and ",
        f"| bodies of all requests without a secret in the head | {limits.held_bytes // mebibyte} MiB together; ",
        f"| connections with a request that shows the same secret | {limits.per_secret}; ",
        f"| reading a response | {limits.send_seconds:g} s |",
        f"| requests of a connection | {limits.requests} |",
        f"| connections | {limits.connections} that were answered without a proof, and {limits.connections // 4} more ",
        f"| requests of one producer | {IN_WORK} in work, of {THREADS} for all producers, and {WAITING} that wait |",
        f"| jobs that a producer enqueues | its rate (`--rate`), and {MOST_JOBS} in a request |",
    ):
        assert line in page
