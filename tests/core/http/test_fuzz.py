"""Requests made from the door's own description, and ones it does not describe: every answer is one that it describes.

A round of 1500 requests in the suite; `DOOR_FUZZ_ROUNDS=20` fuzzes for ten minutes or more.
"""

from __future__ import annotations

import base64
import copy
import gc
import http.client
import json
import logging
import os
import re
import resource
import select
import time
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from jobdeck.core.http import cron, metrics
from jobdeck.core.http.clients.proof import digest
from jobdeck.core.http.openapi import describe
from jobdeck.core.http.producers import enqueue
from jobdeck.core.programme import webhooks
from jobdeck.core.programme.sandbox.twilio import TOKEN
from jobdeck.core.programme.vendors.email_wire import SIGNATURE, TIMESTAMP
from jobdeck.core.queue.producers import tokens
from tests.core.http.support import METRICS, PUBLIC, SECRET, Open, opened
from tests.core.http.test_webhooks import sms
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until

Json = dict[str, Any]

REQUESTS = 1500
ROUNDS = int(os.environ.get("DOOR_FUZZ_ROUNDS", "1"))
GROWTH_KIB = 24 * 1024
"""What the process may grow by after the first round: memory that has been used and not given back."""
SECRETS = (SECRET, METRICS, TOKEN, "postgresql://", "Traceback", 'File "', "psycopg", "uvicorn")

TEXT = st.text(max_size=40)
NUMBER = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, 1e308])
SCALAR = st.none() | st.booleans() | NUMBER | TEXT
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
NAMES = ["X-Other", "Accept", "User-Agent", "Authorization", "Idempotency-Key"]
DEEP = st.integers(1, 3000).map(lambda depth: b"[" * depth + b"]" * depth)


def of_schema(schema: Json) -> st.SearchStrategy[Any]:
    """Values that a schema describes, and now and then one that it does not."""
    if "oneOf" in schema:
        made: st.SearchStrategy[Any] = st.one_of(*map(of_schema, schema["oneOf"]))
    elif "const" in schema or "enum" in schema:
        made = st.sampled_from(schema.get("enum", [schema.get("const")]))
    elif schema.get("type") == "object":
        known = {name: of_schema(inner) for name, inner in schema.get("properties", {}).items()}
        needed = {name: known.pop(name) for name in list(known) if name in schema.get("required", ())}
        made = st.fixed_dictionaries(needed, optional=known)
    elif schema.get("type") == "array":
        made = st.lists(of_schema(schema.get("items", {})), max_size=4)
    elif schema.get("type") == "integer":
        made = st.integers(schema.get("minimum"), schema.get("maximum")) | st.integers(T0, T0 + 60)
    elif "pattern" in schema:
        made = st.from_regex(re.compile(schema["pattern"], re.ASCII), fullmatch=True)
    elif schema.get("type") == "boolean":
        made = st.booleans()
    else:
        made = TEXT
    return st.one_of(made, made, made, VALUE)


T0 = int(time.time()) - 600
DESCRIPTION = copy.deepcopy(describe())
# A task type that nobody described is seldom guessed.
DESCRIPTION["paths"][enqueue.PATH]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"][0][
    "properties"
]["type"] = {"enum": ["fine", "other"]}
OPERATIONS = [(path, method, told) for path, entry in DESCRIPTION["paths"].items() for method, told in entry.items()]


def bodies(told: Json) -> st.SearchStrategy[tuple[bytes, str]]:
    """Bodies for an operation with their media types: as described, of another kind, or garbage."""
    content = told.get("requestBody", {}).get("content", {"application/json": {"schema": {}}})
    made = []
    for media, entry in content.items():
        write = _form if "form" in media else _json
        made.append(st.tuples(of_schema(entry["schema"]).map(write), st.just(media)))
    garbage = (st.binary(max_size=200) | DEEP).map(lambda one: (one, "application/json"))
    return st.one_of(*made, *made, garbage)


def _json(content: Any) -> bytes:
    return json.dumps(content).encode("utf-8", "surrogatepass")


def _form(content: Any) -> bytes:
    if not isinstance(content, dict):
        return repr(content).encode("utf-8", "replace")
    return urlencode({name: str(text) for name, text in content.items()}, errors="replace").encode()


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, str, bytes, str, dict[str, str], bool]:
    """Path in the description, method, target, body, media type, headers, and whether it is signed rightly."""
    path, method, told = draw(st.sampled_from(OPERATIONS))
    body, media = draw(bodies(told))
    query = draw(st.just("") | st.dictionaries(TEXT | st.just("limit"), TEXT, max_size=2).map(_query))
    headers = draw(st.dictionaries(st.sampled_from(NAMES), HEADER))
    return path, method.upper(), f"{path}{query}", body, media, headers, draw(st.booleans() | st.just(True))


def _query(fields: dict[str, str]) -> str:
    return f"?{urlencode(fields, errors='replace')}" if fields else ""


def signed(door: Open, token: str, path: str, target: str, body: bytes) -> dict[str, str]:
    """What lets a request in."""
    if path == enqueue.PATH:
        return {"Authorization": f"Bearer {token}"}
    if path == cron.PATH:
        return {"Authorization": f"Bearer {SECRET}"}
    if path == metrics.METRICS_PATH:
        return {"Authorization": f"Bearer {METRICS}"}
    if path == webhooks.SENDGRID_PATH:
        stamp = str(int(time.time()))
        made = door.vendor._signer.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        return {SIGNATURE: base64.b64encode(made).decode(), TIMESTAMP: stamp}
    if path == webhooks.TWILIO_PATH:
        try:
            fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=webhooks.FIELDS))
        except ValueError:
            fields = {}
        return {"X-Twilio-Signature": RequestValidator(TOKEN).compute_signature(f"{PUBLIC}{target}", fields)}
    return {}


@pytest.mark.slow
def test_every_answer_is_one_that_is_described(
    database_url: str, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    seen: set[tuple[str, str, int]] = set()
    token = tokens.add(conn, "fuzz", ["fine"], tokens.Rate(1_000_000, 1), actor="test")
    with opened(database_url) as door:
        line = http.client.HTTPConnection(*door.address, timeout=PATIENCE)
        until(lambda: door.door._tokens.knows(digest(token)), "the token to be known")

        def one(request: tuple[str, str, str, bytes, str, dict[str, str], bool]) -> None:
            path, method, target, body, media, headers, rightly = request
            given_headers = {**headers, "Content-Type": media}
            if rightly:
                given_headers |= signed(door, token, path, target, body)
            if line.sock is not None and select.select([line.sock], [], [], 0)[0]:
                # Between two requests the server closes a connection that was idle: a slow machine makes pauses.
                line.close()
            line.request(method, target, body, {name: text.encode("latin-1") for name, text in given_headers.items()})
            answer = line.getresponse()
            text = answer.read().decode()
            described = DESCRIPTION["paths"][path][method.lower()]["responses"]
            assert str(answer.status) in described, (answer.status, text, request)
            assert answer.status < 500, (answer.status, text, request)
            assert not any(word in text for word in (*SECRETS, token)), text
            assert "server" not in {name.lower() for name, _ in answer.getheaders()}
            if answer.getheader("content-type") == "application/json" and answer.status >= 400:
                assert set(json.loads(text)) == {"status", "error"}
            seen.add((path, method, answer.status))

        checked = settings(
            max_examples=REQUESTS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(requests())(one))
        # What is made from the description alone seldom has all fields that Twilio sends together.
        real = _form(sms("delivered"))
        one((enqueue.PATH, "POST", enqueue.PATH, b'{"type": "fine"}', "application/json", {}, True))
        one((webhooks.TWILIO_PATH, "POST", webhooks.TWILIO_PATH, real, "application/x-www-form-urlencoded", {}, True))
        checked()
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(ROUNDS - 1):
            checked()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        line.close()
        door.settled()
        assert door.run().status == 200
    assert grown < GROWTH_KIB, f"{grown} KiB more than after the first round"
    complaints = [
        record
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.name != "jobdeck.core.alerts.alarms"
    ]
    assert [record.getMessage() for record in complaints] == []
    for path, method, _ in OPERATIONS:
        assert {(path, method.upper(), status) for status in (200, 201)} & seen
    for path in (cron.PATH, enqueue.PATH, webhooks.SENDGRID_PATH, webhooks.TWILIO_PATH, metrics.METRICS_PATH):
        assert any(status == 401 for where, _, status in seen if where == path)


def test_the_description_and_the_door_name_the_same_paths_and_methods(database_url: str) -> None:
    with opened(database_url) as door:
        for path, entry in DESCRIPTION["paths"].items():
            allowed = set(door.call("BREW", path).headers["allow"].replace(" ", "").split(",")) - {"HEAD"}
            assert allowed == {method.upper() for method in entry}
