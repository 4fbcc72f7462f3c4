"""`/api/jobs`: what a producer may enqueue, every refusal with its sentence, and that a refusal leaves nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pydantic import Field

from jobdeck.core.errors import Refused
from jobdeck.core.http.clients.proof import digest
from jobdeck.core.http.endpoints import Call, Declined
from jobdeck.core.http.producers import enqueue, wire
from jobdeck.core.queue.producers import tokens
from jobdeck.core.queue.producers.tokens import Rate
from jobdeck.core.registry import Admission, Done, JobType, Payload
from tests.core.http.support import BEARER, Open, opened
from tests.support.people import People
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, until

PATH = enqueue.PATH
Json = dict[str, Any]


class Letter(Payload):
    to: int
    words: Json = Field(default_factory=dict)


def nothing(_params: Letter, _ctx: object) -> Done:
    raise AssertionError("no worker runs here")


def admit(params: Letter, admission: Admission) -> dict[str, str]:
    return {"to": "nobody has this number"} if params.to == -13 else {}


LETTER = JobType("letter", nothing, "Letter", "", Letter, concurrency="payload:to", max_attempts=4, admit=admit)
PARCEL = JobType("parcel", nothing, "Parcel", "", Letter)
SECRET_TYPE = JobType("secret", nothing, "Secret", "", Letter)


@pytest.fixture
def other(database_url: str, conn: Connection) -> Iterator[Connection]:
    with Connection.connect(database_url, autocommit=True) as connection:
        yield connection


class Client:
    """A producer that calls the server."""

    def __init__(self, door: Open, token: str) -> None:
        self._door = door
        self.token = token

    def __call__(self, body: Any, key: str | None = None, **headers: str) -> Any:
        given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if key is not None:
            given["Idempotency-Key"] = key
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self._door.call("POST", PATH, text, given | {name.replace("_", "-"): v for name, v in headers.items()})


@contextmanager
def client_of(url: str, conn: Connection, rate: Rate, **options: Any) -> Iterator[Client]:
    token = tokens.add(conn, "shop", ["letter", "parcel", "unknown"], rate, actor=ACTOR)
    with opened(url, LETTER, PARCEL, SECRET_TYPE, **options) as door:
        until(lambda: door.door._tokens.knows(digest(token)), "the token to be known")
        yield Client(door, token)


@pytest.fixture
def shop(database_url: str, conn: Connection) -> Iterator[Client]:
    with client_of(database_url, conn, Rate(5000, 60)) as client:
        yield client


def one(to: Any = 7, **more: Any) -> Json:
    return {"type": "letter", "payload": {"to": to}, **more}


def jobs(conn: Connection) -> list[Json]:
    return conn.rows("SELECT * FROM job_queue ORDER BY id")


def test_a_job_is_enqueued_as_its_type_says_and_names_the_producer(shop: Client, conn: Connection) -> None:
    got = shop(one())
    (job,) = jobs(conn)
    assert (got.status, got.data) == (201, {"status": "ok", "id": str(job["id"]), "created": True})
    assert (job["task_type"], job["payload"], job["max_attempts"]) == ("letter", {"to": 7}, 4)
    assert job["concurrency_key"] == "letter:7"
    assert job["created_by"] == "producer:shop (jobdeck)"
    conn.finish_one(conn.claim_one(types=["letter"]))
    assert conn.value("SELECT created_by FROM job_runs") == "producer:shop (jobdeck)"


def test_the_options_of_a_job_are_taken(shop: Client, conn: Connection) -> None:
    options: Json = {"runAt": "2031-12-24T18:00:00+01:00", "priority": -3, "maxAttempts": 2, "dedupeKey": "a",
                     "timeoutSeconds": 1.5}  # fmt: skip
    assert shop(one(**options)).status == 201
    (job,) = jobs(conn)
    assert job["run_at"].isoformat() == "2031-12-24T17:00:00+00:00"
    assert (job["priority"], job["max_attempts"], job["dedupe_key"]) == (-3, 2, "shop:a")
    assert conn.value("SELECT seconds FROM job_timeouts") == 1.5


def test_a_newer_job_replaces_the_one_that_waits_and_the_answer_says_so(shop: Client, conn: Connection) -> None:
    replacing: Json = {"dedupeKey": "a", "dedupe": "replace", "longestWaitSeconds": 600}
    first = shop(one(1, **replacing)).data
    again = shop(one(2, **replacing))
    assert (again.status, again.data) == (
        200, {"status": "ok", "id": first["id"], "created": False, "replaced": True},
    )  # fmt: skip
    (job,) = jobs(conn)
    assert (job["payload"], job["concurrency_key"]) == ({"to": 2}, "letter:2")
    for wrong in (
        {"longestWaitSeconds": None},
        {"dedupeKey": None},
        {"dedupe": "newest"},
        {"longestWaitSeconds": "1h"},
    ):
        assert shop(one(3, **replacing | wrong)).status == 422
    refused = shop({"type": "parcel", "payload": {"to": 1}, **replacing})
    assert (refused.status, "of the type letter has this dedupe key" in refused.data["error"]) == (422, True)


def test_a_dedupe_key_returns_the_job_that_has_it(shop: Client, conn: Connection) -> None:
    first = shop(one(dedupeKey="a")).data
    again = shop(one(dedupeKey="a"))
    assert (again.status, again.data) == (200, {"status": "ok", "id": first["id"], "created": False})
    listed = shop([one(1, dedupeKey="b"), one(2, dedupeKey="a"), one(3), one(4, dedupeKey="b")]).data["jobs"]
    assert [job["created"] for job in listed] == [True, False, True, False]
    assert (listed[1]["id"], listed[3]["id"]) == (first["id"], listed[0]["id"])
    assert len(jobs(conn)) == 3


def test_a_dedupe_key_of_others_is_out_of_reach(shop: Client, conn: Connection) -> None:
    conn.execute("SELECT job_queue_create('secret', '{}', NULL, 1, 0, 'a', NULL, NULL, NULL, NULL, 'app')")
    assert shop(one(dedupeKey="a")).data["created"]


@pytest.mark.slow
def test_a_list_is_enqueued_in_its_order(shop: Client, conn: Connection) -> None:
    got = shop([one(number) if number % 2 else {**one(number), "type": "parcel"} for number in range(600)])
    assert got.status == 201
    assert [job["id"] for job in got.data["jobs"]] == [str(job["id"]) for job in jobs(conn)]
    assert [job["payload"]["to"] for job in jobs(conn)] == list(range(600))
    assert {job["created_by"] for job in jobs(conn)} == {"producer:shop (jobdeck)"}


BAD: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "not JSON"),
    "empty": (b"", 400, "not JSON"),
    "another encoding": ('{"type": "ä"}'.encode("latin-1"), 400, "not JSON"),
    "infinite": (b'{"type": "letter", "payload": {"to": 1, "words": {"a": 1e999}}}', 400, "not JSON"),
    "NaN": (b'{"type": "letter", "payload": {"to": 1, "words": {"a": NaN}}}', 400, "not JSON"),
    "half a surrogate": (b'{"type": "letter", "payload": {"to": 1, "words": {"a": "\\ud800"}}}', 400, "not JSON"),
    "a long number": (b'{"type": "letter", "payload": {"to": ' + b"9" * 5000 + b"}}", 400, "not JSON"),
    "NUL": (b'{"type": "letter", "payload": {"to": 1, "words": {"a": "\\u0000"}}}', 422, "NUL"),
    "very deep": (b"[" * 100_000, 400, "not JSON"),
    "deep": (
        b'{"type": "letter", "payload": {"to": 1, "words": {"a": ' + b"[" * 70 + b"]" * 70 + b"}}}",
        422,
        "64 levels",
    ),
    "text": ('"letter"', 422, "not a JSON object"),
    "an empty list": ([], 422, "1 to 1000 jobs"),
    "a long list": ([one()] * 1001, 422, "1 to 1000 jobs"),
    "a list of texts": ([one(), "x"], 422, "Job 2 of 2 is not a JSON object"),
    "no type": ({"payload": {}}, 422, "type: Field required"),
    "another field": (one(actor="root"), 422, "actor: Extra inputs"),
    "a concurrency key": (one(concurrencyKey="secret"), 422, "concurrencyKey: Extra inputs"),
    "a series": (one(every=5), 422, "every: Extra inputs"),
    "a payload that is a list": ({"type": "letter", "payload": []}, 422, "payload: Input should be"),
    "a payload that does not fit": (one("x"), 422, "to"),
    "a job of a list": ([one(), one("x")], 422, "Job 2 of 2"),
    "a priority": (one(priority=101), 422, "priority: "),
    "a priority that is a text": (one(priority="1"), 422, "priority: "),
    "attempts": (one(maxAttempts=0), 422, "maxAttempts: "),
    "a time without a zone": (one(runAt="2031-01-01T00:00:00"), 422, "runAt: "),
    "a time that is a number": (one(runAt=1e300), 422, "a time is a text"),
    "a time beyond all": (one(runAt="10000-01-01T00:00:00Z"), 422, "runAt: "),
    "a long dedupe key": (one(dedupeKey="x" * 201), 422, "dedupeKey: "),
    "replacing without a key": (one(dedupe="replace", longestWaitSeconds=60), 422, "needs a dedupe key"),
    "replacing for ever": (one(dedupe="replace", dedupeKey="a"), 422, "needs a longest wait"),
    "a longest wait of a job that is kept": (one(dedupeKey="a", longestWaitSeconds=60), 422, "longest wait is for"),
    "a type that no handler registers": ({"type": "unknown", "payload": {}}, 422, "unknown"),
    "a type that is not the producer's": ({"type": "secret", "payload": {"to": 1}}, 403, "type secret"),
    "one of a list": ([one(), {"type": "secret", "payload": {"to": 1}}], 403, "type secret"),
    "not even a type": ({"type": "'; DROP TABLE job_queue; --", "payload": {}}, 403, "may not enqueue"),
    "what admit refuses": (one(-13), 422, "nobody has this number"),
}


@pytest.mark.slow
def test_what_cannot_be_enqueued_gets_a_sentence_and_leaves_nothing(shop: Client, conn: Connection) -> None:
    for name, (body, status, words) in BAD.items():
        got = shop(body, key="the key")
        assert (got.status, set(got.data), got.data["status"]) == (status, {"status", "error"}, "refused"), name
        assert words in got.data["error"], name
        assert len(got.data["error"]) < 600, name
        assert got.data["error"].count("Nothing was enqueued.") == 1, name
    assert jobs(conn) == []
    assert conn.rows("SELECT * FROM job_producer_keys") == []
    assert conn.value("SELECT level FROM job_producers") == 5000
    assert shop(one(), key="the key").status == 201


HEADS: list[tuple[dict[str, str], int, str]] = [
    ({"Authorization": "Bearer wrong"}, 401, "token of a producer"),
    ({"Authorization": ""}, 401, "token of a producer"),
    ({"Authorization": "Bearer "}, 401, "token of a producer"),
    ({"Authorization": "Basic c2hvcDp4"}, 401, "token of a producer"),
    (BEARER, 401, "token of a producer"),
    ({"Content-Type": "text/plain"}, 415, "application/json"),
    ({"Content-Type": "application/json; charset=latin-1"}, 415, "application/json"),
    ({"Content-Type": "multipart/form-data; boundary=application/json"}, 415, "application/json"),
    ({"Content-Encoding": "gzip"}, 415, "compressed"),
    ({"Idempotency-Key": ""}, 400, "1 to 255"),
    ({"Idempotency-Key": "x" * 256}, 400, "1 to 255"),
    ({"Idempotency-Key": "\xe4"}, 400, "1 to 255"),
]


def test_a_head_that_does_not_fit_is_refused(shop: Client, conn: Connection) -> None:
    for headers, status, words in HEADS:
        got = shop(one(), **headers)
        assert (got.status, words in got.data["error"]) == (status, True), headers
        assert ("www-authenticate" in got.headers) == (status == 401), headers
    assert jobs(conn) == []


def test_a_media_type_may_name_its_encoding(shop: Client) -> None:
    assert shop(one(), Content_Type='Application/JSON; charset="UTF-8"').status == 201


def test_a_long_body_is_refused_before_it_is_read(shop: Client, conn: Connection) -> None:
    got = shop(b" " * (enqueue.BODY_BYTES + 1))
    assert (got.status, got.data["error"]) == (
        413,
        f"The request is too long. The limit is {enqueue.BODY_BYTES} bytes.",
    )
    with socket.create_connection(shop._door.address, timeout=PATIENCE) as line:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shop.token}\r\n"
        line.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99999999\r\n\r\n".encode())
        assert line.recv(1000).startswith(b"HTTP/1.1 413")
    assert shop(one(words_=1)).status == 422
    assert jobs(conn) == []


class TestIdempotencyKeys:
    def test_the_same_request_gets_the_same_jobs(self, shop: Client, conn: Connection) -> None:
        first, again = shop([one(1), one(2)], key="k"), shop([one(1), one(2)], key="k")
        assert (first.status, again.status) == (201, 200)
        assert [job["id"] for job in again.data["jobs"]] == [job["id"] for job in first.data["jobs"]]
        assert [job["created"] for job in again.data["jobs"]] == [False, False]
        assert len(jobs(conn)) == 2

    def test_also_when_the_job_has_left_the_queue(self, shop: Client, conn: Connection) -> None:
        first = shop(one(), key="k").data
        conn.finish_one(conn.claim_one(types=["letter"]))
        assert shop(one(), key="k").data["id"] == first["id"]
        assert jobs(conn) == []

    def test_another_body_is_refused(self, shop: Client, conn: Connection) -> None:
        shop(one(1), key="k")
        got = shop(one(2), key="k")
        assert (got.status, "another body" in got.data["error"]) == (409, True)
        assert len(jobs(conn)) == 1

    @pytest.mark.slow
    def test_keys_of_another_producer_are_others(self, shop: Client, conn: Connection) -> None:
        shop(one(1), key="k")
        token = tokens.add(conn, "till", ["letter"], Rate(10, 60), actor=ACTOR)
        until(lambda: shop._door.door._tokens.knows(digest(token)), "the token to be known")
        assert shop(one(2), key="k", Authorization=f"Bearer {token}").status == 201
        assert [job["created_by"] for job in jobs(conn)] == ["producer:shop (jobdeck)", "producer:till (jobdeck)"]

    def test_requests_at_the_same_time_enqueue_once(self, shop: Client, conn: Connection) -> None:
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: shop(one(), key="k"), range(24)))
        assert len(jobs(conn)) == 1
        # One that waits for longer than 1.5 s, on a busy machine, is refused.
        assert {answer.status for answer in answers} <= {200, 201, 503}
        assert [answer.status for answer in answers].count(201) == 1
        assert {answer.data["id"] for answer in answers if answer.status < 300} == {str(jobs(conn)[0]["id"])}

    def test_a_repeated_request_does_not_count_against_the_rate(self, database_url: str, conn: Connection) -> None:
        with client_of(database_url, conn, Rate(1, 86_400)) as client:
            assert [client(one(), key="k").status for _ in range(3)] == [201, 200, 200]
            assert client(one()).status == 429

    def test_neither_key_nor_token_nor_body_is_stored(self, shop: Client, conn: Connection) -> None:
        shop(one(), key="zoe@example.org")
        stored = repr((conn.rows("SELECT * FROM job_producer_keys"), conn.rows("SELECT * FROM job_producers")))
        assert "zoe" not in stored  # no word of hexadecimal digits, which random ids may have
        assert shop.token not in stored


class TestRates:
    def test_jobs_beyond_the_rate_are_refused_until_it_allows_them(self, database_url: str, conn: Connection) -> None:
        with client_of(database_url, conn, Rate(3, 60)) as client:
            assert client([one(), one()]).status == 201
            late = client([one(), one()])
            assert (late.status, 1 <= int(late.headers["retry-after"]) <= 20) == (429, True)
            assert f"in {late.headers['retry-after']} s" in late.data["error"]
            assert len(jobs(conn)) == 2
            conn.execute("UPDATE job_producers SET level_at = level_at - interval '20 s'")
            assert client([one(), one()]).status == 201
            assert client(one()).status == 429

    def test_what_is_not_used_adds_up_to_the_rate_and_no_further(self, database_url: str, conn: Connection) -> None:
        with client_of(database_url, conn, Rate(3, 60)) as client:
            conn.execute("UPDATE job_producers SET level_at = level_at - interval '1 day'")
            assert [client(one()).status for _ in range(4)] == [201, 201, 201, 429]

    def test_a_clock_that_was_set_back_takes_nothing(self, database_url: str, conn: Connection) -> None:
        with client_of(database_url, conn, Rate(3, 60)) as client:
            conn.execute("UPDATE job_producers SET level_at = level_at + interval '1 day'")
            assert client([one(), one(), one()]).status == 201

    def test_more_jobs_than_the_rate_ever_allows_are_no_matter_of_waiting(
        self, database_url: str, conn: Connection
    ) -> None:
        with client_of(database_url, conn, Rate(3, 60)) as client:
            got = client([one()] * 4)
            assert (got.status, "allows 3 at once" in got.data["error"]) == (422, True)


class TestTokens:
    def test_the_idempotency_keys_go_with_a_revoked_one(self, shop: Client, conn: Connection) -> None:
        assert shop(one(), key="k").status == 201
        assert conn.value("SELECT count(*) FROM job_producer_keys") == 1
        tokens.revoke(conn, "shop", actor=ACTOR)
        assert conn.value("SELECT count(*) FROM job_producer_keys") == 0

    def test_a_revoked_one_is_refused_at_once(
        self, shop: Client, conn: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The server still knows the token, and the database does not.
        monkeypatch.setattr(wire.KnownTokens, "read", lambda _: None)
        tokens.revoke(conn, "shop", actor=ACTOR)
        got = shop(one())
        assert (got.status, got.headers["www-authenticate"]) == (401, "Bearer")
        assert jobs(conn) == []

    @pytest.mark.slow
    def test_one_that_was_replaced_is_refused_and_the_new_one_is_taken(self, shop: Client, conn: Connection) -> None:
        token = tokens.add(conn, "shop", ["parcel"], Rate(10, 60), replace=True, actor=ACTOR)
        assert shop(one()).status == 401
        until(lambda: shop._door.door._tokens.knows(digest(token)), "the new token to be known")
        shop.token = token
        assert (shop(one()).status, shop({**one(), "type": "parcel"}).status) == (403, 201)

    def test_a_stranger_never_asks_the_database(self, shop: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        monkeypatch.setattr(tokens, "begin", lambda *given: asked.append(given))
        assert shop(one(), Authorization="Bearer guessed").status == 401
        assert asked == []

    def test_while_no_token_could_be_read_the_answer_is_to_come_back(self) -> None:
        class Nowhere:
            pass

        one_who_waits = wire.KnownTokens(Nowhere())  # type: ignore[arg-type]  # which it never uses here
        with pytest.raises(Declined) as declined:
            one_who_waits.admit(Call("POST", PATH, {"authorization": "Bearer x"}, {}))
        assert (declined.value.status, declined.value.headers) == (503, {"Retry-After": "5"})

    def test_a_token_is_known_by_its_whole_hash(self, shop: Client) -> None:
        assert shop._door.door._tokens.knows(digest(shop.token))
        assert not shop._door.door._tokens.knows(digest(shop.token)[:8] + bytes(24))


@pytest.mark.slow
def test_the_server_enqueues_with_the_role_of_a_worker(database_url: str, conn: Connection, people: People) -> None:
    with people.sign_in(database_url, "job_worker") as worker:
        for table in ("job_producers", "job_producer_keys", "job_awaited"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                worker.execute(sql.SQL("SELECT FROM {}").format(sql.Identifier(table)))
    with client_of(people.address(database_url, "job_worker"), conn, Rate(10, 60)) as client:
        assert client([one(), one()], key="k").status == 201
        assert client([one(), one()], key="k").status == 200
    assert {job["created_by"] for job in jobs(conn)} == {f"producer:shop ({people.name('job_worker')})"}


def test_a_database_that_does_not_answer_is_said_with_a_time(
    shop: Client, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise psycopg.OperationalError("the secret address")

    monkeypatch.setattr(tokens, "begin", lost)
    got = shop(one())
    assert (got.status, got.headers["retry-after"]) == (503, "5")
    assert "secret" not in got.data["error"]


def test_a_database_that_is_read_only_is_said_with_a_time_until_it_takes_writes(shop: Client, conn: Connection) -> None:
    name = sql.Identifier(conn.info.dbname)
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"
    answers = []

    def answers_with(status: int, words: str) -> bool:
        answers.append(shop(one()))
        return answers[-1].status == status and words in str(answers[-1].data)

    conn.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    conn.execute(others, [conn.info.backend_pid])
    until(lambda: answers_with(503, "The database is read-only now"), "the refusal")
    assert answers[-1].headers["retry-after"] == "5"
    conn.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
    until(lambda: answers_with(201, "created"), "the next job")
    assert {answer.status for answer in answers} == {201, 503}
    assert len(jobs(conn)) == 1


@pytest.mark.slow
def test_a_request_beside_a_transaction_that_holds_the_producer_is_refused(
    shop: Client, conn: Connection, other: Connection
) -> None:
    with other.transaction():
        other.execute("SELECT FROM job_producers FOR UPDATE")
        got = shop(one())
    assert (got.status, got.headers["retry-after"]) == (503, "1")
    assert got.data["error"] == tokens.BUSY
    assert shop(one()).status == 201


@pytest.mark.parametrize(
    "more", [{}, {"dedupe": "replace", "longestWaitSeconds": 60}], ids=["together", "each for itself"]
)
def test_a_list_is_enqueued_in_the_order_of_its_keys_so_that_no_two_requests_wait_for_each_other(
    shop: Client, conn: Connection, more: Json
) -> None:
    got = shop([one(number, dedupeKey=key, **more) for number, key in enumerate("cab")])
    assert got.status == 201
    made = conn.rows("SELECT dedupe_key, id::text FROM job_queue ORDER BY cmin::text::integer")
    assert [row["dedupe_key"] for row in made] == ["shop:a", "shop:b", "shop:c"]
    assert [one["id"] for one in got.data["jobs"]] == [made[place]["id"] for place in (2, 0, 1)]


@pytest.mark.slow
def test_a_job_that_cannot_be_enqueued_takes_back_all_of_its_list(
    shop: Client, conn: Connection, other: Connection
) -> None:
    """The first job is inserted already when the second meets the open transaction."""
    with other.transaction(force_rollback=True):
        other.execute("SELECT job_queue_create('letter', '{}', NULL, 1, 0, 'shop:b', NULL, NULL, NULL, NULL, 'x')")
        got = shop([one(1, dedupeKey="a"), one(2, dedupeKey="b")], key="k")
        assert got.status == 503
        assert "same dedupe key" in got.data["error"]
    assert jobs(conn) == []
    assert conn.value("SELECT level FROM job_producers") == 5000


@pytest.mark.parametrize(
    ("name", "types", "rate", "words"),
    [
        ("", ["a"], Rate(1, 60), "1 to 63 characters"),
        ("Shop", ["a"], Rate(1, 60), "1 to 63 characters"),
        ("shop)\n", ["a"], Rate(1, 60), "1 to 63 characters"),
        ("x" * 64, ["a"], Rate(1, 60), "1 to 63 characters"),
        ("till", [], Rate(1, 60), "1 to 200 task types"),
        ("till", [" "], Rate(1, 60), "1 to 200 task types"),
        ("till", ["a"] * 201, Rate(1, 60), "1 to 200 task types"),
        ("till", ["a"], Rate(0, 60), "A rate is 1 to"),
        ("till", ["a"], Rate(1_000_001, 60), "A rate is 1 to"),
        ("till", ["a"], Rate(1, 0), "A rate is 1 to"),
        ("shop", ["a"], Rate(1, 60), "There is a producer shop already"),
    ],
    ids=str,
)
def test_a_producer_that_cannot_be(conn: Connection, name: str, types: list[str], rate: Rate, words: str) -> None:
    tokens.add(conn, "shop", ["a"], Rate(1, 60), actor=ACTOR)
    before = conn.rows("SELECT * FROM job_producers"), conn.rows("SELECT * FROM job_audit")
    with pytest.raises(Refused, match=words):
        tokens.add(conn, name, types, rate, actor=ACTOR)
    assert (conn.rows("SELECT * FROM job_producers"), conn.rows("SELECT * FROM job_audit")) == before


def test_the_levels_that_count_are_those_of_the_jobs(conn: Connection) -> None:
    deep: Any = 1
    for _ in range(wire.MOST_LEVELS):
        deep = [deep]
    assert not wire._is_too_deep(deep)
    assert wire._is_too_deep([deep])
