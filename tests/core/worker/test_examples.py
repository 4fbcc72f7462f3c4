"""The examples of docs/adding-a-job-type.md do what the page says, as modules that a worker loads."""

from __future__ import annotations

import hashlib
import importlib
import re
import socketserver
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.errors import InvalidPayload
from jobdeck.core.registry import around, load, registered
from tests.support.queue import Connection
from tests.support.serving import Quiet, serving
from tests.support.worker_process import ROOT
from tests.support.working import drain, quick_settings

PAGE = ROOT / "docs" / "adding-a-job-type.md"


def example(task_type: str, replaced: tuple[str, str] = ("", "")) -> str:
    """The example of the page that registers this type."""
    (found,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        if f'@job("{task_type}"' in block
    ]
    assert replaced[0] in found
    return str(found).replace(*replaced) if replaced[0] else str(found)


class Echo(socketserver.StreamRequestHandler):
    """Answers a line with its text in brackets."""

    def handle(self) -> None:
        self.wfile.write(b"[" + self.rfile.readline().strip() + b"]\n")


@pytest.fixture
def port() -> Iterator[int]:
    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)) as server:
        yield server.server_address[1]


def run(
    url: str,
    conn: Connection,
    code: str,
    task_type: str,
    payload: dict[str, Any],
    folder: Path,
    patch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """The run of one job by a worker that loads the code as a module."""
    (folder / f"example_{task_type}.py").write_text(code, encoding="utf-8")
    patch.syspath_prepend(str(folder))
    patch.setenv("PYTHONPATH", f"{ROOT}:{folder}")
    importlib.invalidate_caches()
    job = conn.add(task_type, payload=payload)
    settings = quick_settings(lease_seconds=120.0)
    drain(url, *load([f"example_{task_type}"]), settings=settings, task_types=[task_type])
    return conn.last_run(job.id)


def test_the_example_of_a_thread(
    database_url: str, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = example("count_runs")
    done = run(database_url, conn, code, "count_runs", {"day": "2026-03-01"}, tmp_path, monkeypatch)
    assert (done["outcome"], done["output"]) == ("succeeded", {"runs": 0})


def test_the_example_of_the_event_loop(
    database_url: str, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    code = example("fetch_pages", ("8080", str(port)))
    done = run(database_url, conn, code, "fetch_pages", {"count": 4}, tmp_path, monkeypatch)
    assert (done["outcome"], done["output"]) == ("succeeded", {"pages": ["[0]", "[1]", "[2]", "[3]"]})


@pytest.mark.slow
def test_the_example_of_a_process(
    database_url: str, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = {"text": "a", "rounds": 1}
    done = run(database_url, conn, example("seal_text"), "seal_text", payload, tmp_path, monkeypatch)
    assert (done["outcome"], done["output"]) == ("succeeded", {"seal": hashlib.sha256(b"a").hexdigest()})


def test_the_example_of_a_run_that_ends_with_what_it_wrote(
    database_url: str, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute("CREATE TABLE invoices (number integer, booked boolean)")
    conn.execute("INSERT INTO invoices VALUES (7, false), (8, false)")
    done = run(database_url, conn, example("book_invoice"), "book_invoice", {"number": 7}, tmp_path, monkeypatch)
    assert (done["outcome"], done["output"]) == ("succeeded", {"booked": 7})
    assert conn.execute("SELECT number FROM invoices WHERE booked").fetchall() == [(7,)]


def test_the_example_of_a_renamed_field_reads_jobs_that_waited_and_new_ones(
    database_url: str, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.add("post_letter", payload={"address": "ada@example.org"})
    done = run(
        database_url,
        conn,
        example("post_letter"),
        "post_letter",
        {"recipient": "bob@example.org"},
        tmp_path,
        monkeypatch,
    )
    assert (done["outcome"], done["output"]) == ("succeeded", {"sent_to": "bob@example.org"})
    outputs = conn.execute("SELECT outcome::text, output FROM job_runs ORDER BY run_token").fetchall()
    assert outputs[0] == ("succeeded", {"sent_to": "ada@example.org"})
    with pytest.raises(InvalidPayload, match="is not a field"):
        registered("post_letter").parse({"address": "ada@example.org", "adress": "bob@example.org"})


class Page(Quiet, BaseHTTPRequestHandler):
    """Answers every path but one."""

    def do_GET(self) -> None:
        if self.path == "/cut":
            self.connection.close()
            return
        self.send_response(204)
        self.end_headers()


def test_the_example_of_what_goes_around_runs(
    database_url: str,
    conn: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("plain_middleware", "async_middleware", "failure_hooks"):
        monkeypatch.setattr(around, name, [])
    with serving(HTTPServer(("127.0.0.1", 0), Page)) as server:
        code = example("ping_vendor", ("8080", str(server.server_port)))
        conn.add("ping_vendor", payload={"path": "/cut"}, max_attempts=1, priority=-1)
        done = run(database_url, conn, code, "ping_vendor", {}, tmp_path, monkeypatch)
    assert (done["outcome"], done["output"]) == ("succeeded", {"status": 204})
    assert "begins" in done["log"]
    assert "failed for good" in capsys.readouterr().out
