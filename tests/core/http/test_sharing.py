"""What one producer or stranger can take: others are served beside slow bodies, endless ones and refused requests."""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

import pytest

from jobdeck.core.http.clients.gate import Gate, Limits, Rank
from jobdeck.core.http.clients.proof import digest
from jobdeck.core.http.endpoints import Answer, Call, Declined
from jobdeck.core.http.producers import enqueue
from jobdeck.core.http.producers.sharing import IN_WORK, WAITING, FairLane
from jobdeck.core.programme import webhooks
from jobdeck.core.queue.producers import tokens
from jobdeck.core.queue.producers.tokens import Rate
from tests.core.http.support import METRICS, Open, answer_of
from tests.core.http.test_bad_input import signed_headers, status_line
from tests.core.http.test_gate import Guest
from tests.core.http.test_producers import PATH, Client, client_of, one
from tests.core.http.test_webhooks import event
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, becomes, beside, until

SMALL = Limits(connections=8, per_secret=3, body_seconds=PATIENCE, header_seconds=PATIENCE)


@contextmanager
def two(url: str, conn: Connection, limits: Limits = SMALL) -> Iterator[tuple[Client, Client]]:
    """Two producers of one server."""
    with client_of(url, conn, Rate(5000, 60), limits=limits) as shop:
        token = tokens.add(conn, "till", ["letter"], Rate(5000, 60), actor=ACTOR)
        until(lambda: shop._door.door._tokens.knows(digest(token)), "the token to be known")
        yield shop, Client(shop._door, token)


def begun(door: Open, path: str, headers: dict[str, str], body: bytes) -> socket.socket:
    """A request with this beginning of a body, which never ends."""
    line = door.connect()
    told = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    with suppress(ConnectionError):
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n{told}\r\n".encode() + body)
    return line


def slow(shop: Client) -> socket.socket:
    headers = {"Authorization": f"Bearer {shop.token}", "Content-Type": "application/json"}
    return begun(shop._door, PATH, headers, b"[")


def everybody_is_served(door: Open, other: Client) -> None:
    assert door.run().status == 200
    assert door.report([]).status == 200
    assert door.call("GET", "/healthz").status == 200
    assert door.call("GET", "/metrics", headers={"Authorization": f"Bearer {METRICS}"}).status == 200
    assert other(one()).status == 201


class TestSlowBodies:
    @pytest.mark.slow
    def test_those_of_one_producer_leave_room_for_all_others(self, database_url: str, conn: Connection) -> None:
        with two(database_url, conn) as (shop, till), ExitStack() as lines:
            for _ in range(30):
                lines.enter_context(slow(shop))
            everybody_is_served(shop._door, till)
            assert shop(one()).status == 201, "the producer itself is served too, because its slowest gives way"

    @pytest.mark.slow
    def test_one_gives_way_to_another_connection_of_its_producer(self, database_url: str, conn: Connection) -> None:
        with two(database_url, conn) as (shop, till), ExitStack() as lines:
            other = lines.enter_context(slow(till))
            own = [lines.enter_context(slow(shop)) for _ in range(SMALL.per_secret + 1)]
            select.select(own, [], [], PATIENCE)
            for line in (other, *own):
                with suppress(ConnectionError):
                    line.sendall(b"x" * 59_999)
            answers = [answer_of(line) for line in own]
            assert sorted(status_line(answer) if answer else 0 for answer in answers) == [0, 400, 400, 400]
            assert status_line(answer_of(other)) == 400

    @pytest.mark.slow
    def test_requests_in_work_are_answered_and_further_ones_of_their_producer_refused(
        self, database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limits = Limits(per_secret=IN_WORK)
        with two(database_url, conn, limits) as (shop, till), held_up(monkeypatch, shop) as held:
            with beside(*[lambda: held.answers.append(shop(one()).status)] * IN_WORK), held:
                held.have_begun(IN_WORK)
                got = shop(one())
                assert (got.status, got.headers["retry-after"]) == (429, "5")
                assert got.data["error"] == "Too many requests with this secret are in progress."
                everybody_is_served(shop._door, till)
            assert held.answers == [201] * IN_WORK


class TestEndlessBodies:
    @pytest.mark.slow
    def test_those_of_strangers_leave_room_for_producers_and_for_signed_webhooks(
        self, database_url: str, conn: Connection
    ) -> None:
        limits = Limits(held_bytes=10_000, body_seconds=PATIENCE)
        with two(database_url, conn, limits) as (shop, _), ExitStack() as lines:
            headers = {name.replace("_", "-"): text for name, text in signed_headers(shop._door).items()}
            headers["Expect"] = "100-continue"
            strangers = [
                lines.enter_context(begun(shop._door, webhooks.SENDGRID_PATH, headers, b"x" * 4990)) for _ in range(2)
            ]
            for line in strangers:
                assert status_line(line.recv(1000)) == 100, "the server has begun to read the body"
            more = {"type": "letter", "payload": {"to": 1, "words": {"a": "x" * 2 * limits.held_bytes}}}
            assert shop(more).status == 201, "the bytes of a producer are not those of strangers"
            assert shop._door.report([{**event(), "note": "x" * 1000}]).status == 200
            ended, _, _ = select.select(strangers, [], [], PATIENCE)
            assert [status_line(answer_of(line)) for line in ended] == [503]


class HeldUp:
    """Requests of one producer that have begun wait in the block of this object."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)

    def have_begun(self, count: int) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=PATIENCE)

    def __enter__(self) -> None:
        self.go.clear()

    def __exit__(self, *_: object) -> None:
        self.go.set()


@contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch, client: Client) -> Iterator[HeldUp]:
    """Holds up the requests of one producer in the threads that enqueue."""
    held, begin = HeldUp(), tokens.begin

    def late(conn: Any, request: tokens.Request, task_types: Any) -> tokens.Verdict:
        if request.token_hash == digest(client.token):
            held.begun.release()
            assert held.go.wait(PATIENCE)
        return begin(conn, request, task_types)

    monkeypatch.setattr(tokens, "begin", late)
    try:
        yield held
    finally:
        held.go.set()


class TestThreads:
    @pytest.mark.slow
    def test_those_of_one_producers_requests_leave_some_for_others(
        self, database_url: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with two(database_url, conn, Limits()) as (shop, till), held_up(monkeypatch, shop) as held:
            with beside(*[lambda: held.answers.append(shop(one()).status)] * (enqueue.THREADS + 2)), held:
                held.have_begun(IN_WORK)
                assert [till(one()).status for _ in range(3)] == [201] * 3
            assert set(held.answers) <= {201, 503}, "a request waits for the row of its producer for 1.5 s"

    async def test_of_requests_that_wait_there_are_few(self) -> None:
        with lane() as fair, Work() as work:
            tasks = [asyncio.ensure_future(fair.run(work, call("shop"))) for _ in range(IN_WORK + WAITING)]
            await becomes(lambda: work.began, "the first request")
            with pytest.raises(Declined) as declined:
                await fair.run(work, call("shop"))
            assert (declined.value.status, declined.value.headers) == (429, {"Retry-After": "5"})
            assert "20 requests of this producer" in declined.value.sentence
            work.go.set()
            assert len(await asyncio.gather(*tasks)) == IN_WORK + WAITING
            await fair.run(work, call("shop"))

    @pytest.mark.parametrize("status", [200, 429])
    async def test_a_producer_rests_after_requests_that_enqueued_nothing(
        self, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        hours = itertools.count()
        monkeypatch.setattr(time, "thread_time", lambda: next(hours) * 3600.0)
        with lane() as fair, Work() as work:
            work.go.set()
            for _ in range(IN_WORK):
                await answered(fair, Work(status), "shop")
            resting = asyncio.ensure_future(fair.run(work, call("shop")))
            for _ in range(10):
                await answered(fair, work, "till")
            assert (work.began, resting.done()) == (10, False)
            resting.cancel()

    async def test_a_producer_does_not_rest_after_requests_that_enqueued(self) -> None:
        with lane() as fair, Work() as work:
            work.go.set()
            for _ in range(3 * IN_WORK):
                await answered(fair, work, "shop")
            assert work.began == 3 * IN_WORK


class Work:
    """What a request does: it waits in the block of this object, and is answered or declined with a status."""

    def __init__(self, status: int = 201) -> None:
        self.go = threading.Event()
        self.began = 0
        self._status = status
        if status != 201:
            self.go.set()

    def __call__(self, _: Call) -> Answer:
        self.began += 1
        assert self.go.wait(PATIENCE)
        if self._status >= 400:
            raise Declined(self._status, "Not now.")
        return Answer(self._status, {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()


@contextmanager
def lane() -> Iterator[FairLane]:
    made = FairLane("test", threads=1, waiting=100)
    try:
        yield made
    finally:
        made.close()


def call(token: str) -> Call:
    return Call("POST", PATH, {"authorization": f"Bearer {token}"}, {})


async def answered(fair: FairLane, work: Work, token: str) -> None:
    async with asyncio.timeout(PATIENCE):
        with suppress(Declined):
            await fair.run(work, call(token))


class TestPlaces:
    """The connections of one secret, without a network."""

    def gate(self) -> Gate:
        return Gate(lambda _: None, lambda head: head or None, Limits(connections=4, per_secret=2))

    def test_a_connection_that_is_not_proven_gives_way_to_another_of_its_secret(self) -> None:
        gate, guests = self.gate(), [Guest() for _ in range(3)]
        for guest, rank in zip(guests, (Rank.PROVEN, Rank.SHOWN, Rank.WAITING), strict=True):
            gate.recognise(guest, b"secret")
            assert gate.admits(guest)
            gate.place(guest, rank)
        assert [guest.open for guest in guests] == [True, False, True]

    def test_proven_ones_give_way_to_none_and_make_room_when_they_are_answered(self) -> None:
        gate, guests, late = self.gate(), [Guest() for _ in range(2)], Guest()
        for guest in guests:
            gate.recognise(guest, b"secret")
            assert gate.admits(guest)
            gate.place(guest, Rank.PROVEN)
        gate.recognise(late, b"secret")
        assert (gate.admits(late), gate.is_held(late)) == (False, False)
        gate.part(guests[0])
        assert (gate.admits(late), gate.is_held(late)) == (True, True)
        assert all(guest.open for guest in guests)

    def test_as_shipped_one_secret_has_20_connections_with_a_request(self) -> None:
        gate, guests = Gate(lambda _: None, lambda head: head or None, Limits()), [Guest() for _ in range(21)]
        for guest in guests:
            gate.recognise(guest, b"secret")
            assert gate.admits(guest)
            gate.place(guest, Rank.SHOWN)
        assert [guest.open for guest in guests] == [False, *[True] * 20]

    def test_as_shipped_strangers_have_400_connections_and_100_more_are_for_others(self) -> None:
        gate, strangers = Gate(lambda _: None, lambda head: head or None, Limits()), [Guest() for _ in range(401)]
        for guest in strangers:
            gate.place(guest, Rank.ASKED)
        assert [guest.open for guest in strangers] == [False, *[True] * 400]
        for number in range(101):
            gate.place(Guest(), Rank.PROVEN)
            assert sum(guest.open for guest in strangers) == (400 if number < 100 else 399)

    def test_another_secret_has_places_of_its_own_and_so_have_strangers(self) -> None:
        gate, guests = self.gate(), [Guest() for _ in range(5)]
        for guest, head in zip(guests, (b"a", b"a", b"b", b"", b""), strict=True):
            gate.recognise(guest, head)
            assert gate.admits(guest)
            gate.place(guest, Rank.SHOWN if head else Rank.READING)
        assert all(guest.open for guest in guests)

    def test_when_there_are_too_many_those_that_are_not_proven_give_way_last_but_do(self) -> None:
        gate, guests, late = self.gate(), [Guest() for _ in range(5)], Guest()
        for number, guest in enumerate(guests):
            gate.recognise(guest, b"%d" % number)
            gate.place(guest, Rank.PROVEN if number == 0 else Rank.SHOWN)
        gate.place(late, Rank.PROVEN)
        assert [guest.open for guest in guests] == [True, False, True, True, True]
