"""The example application in `examples/shop`: its types, its tests, and its orders where a worker is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.package.environments import ROOT, Environment
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.slow

ORDERS, STOCK = 8, 6


class Vendors(ThreadingHTTPServer):
    """The payment and the mail provider. It answers payments once they are let through."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """How often each key of an order's requests came, by path and order."""
        self.open = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Vendors

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked[f"{self.path} {body['order']}"][self.headers["Idempotency-Key"]] += 1
        if self.path == "/payments":
            self.server.open.wait(PATIENCE)
        try:
            self.send_response(201)
            self.end_headers()
        except OSError:
            return  # the worker that asked was killed

    def log_message(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Shop:
    """A copy of the example with a database of its own, in an environment that has the wheel."""

    folder: Path
    url: str
    environment: Environment
    vendors: str

    def environ(self) -> dict[str, str]:
        return self.environment.environ({
            "DATABASE_URL": self.url, "JOBDECK_SCHEMA": "jobs", "JOBDECK_HANDLERS": "shop.jobs",
            "JOBDECK_LEASE_SECONDS": "3", "JOBDECK_HEARTBEAT_SECONDS": "1", "JOBDECK_RETRY_BASE_SECONDS": "0",
            "SHOP_PAYMENTS_URL": f"{self.vendors}/payments", "SHOP_MAILS_URL": f"{self.vendors}/mails",
        })  # fmt: skip

    def run(self, *words: str | Path, **changes: str) -> str:
        """Runs a program, which must succeed, and returns what it prints."""
        ran = self.environment.run(*words, cwd=self.folder, **{**self.environ(), **changes})
        assert ran.returncode == 0, f"{words}\n{ran.stdout}\n{ran.stderr}"
        return ran.stdout

    @contextmanager
    def beside(self, name: str, *words: str | Path, pass_fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[str]]:
        """A program that runs beside the test, with its log in a file of its name."""
        with (self.folder / f"{name}.log").open("w") as log, subprocess.Popen(
            [str(word) for word in words], cwd=self.folder, env=self.environ(), pass_fds=pass_fds, text=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))


@pytest.fixture
def vendors() -> Iterator[Vendors]:
    with Vendors() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.open.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def shop(for_shop: Environment, empty_database_url: str, tmp_path: Path, vendors: Vendors) -> Shop:
    folder = tmp_path / "shop"
    shutil.copytree(ROOT / "examples" / "shop", folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return Shop(folder, empty_database_url, for_shop, vendors.address)


@pytest.fixture
def admin(empty_database_url: str) -> Iterator[Connection]:
    with Connection.connect(empty_database_url, autocommit=True) as conn:
        yield conn


def place_orders(shop: Shop) -> list[int]:
    """Asks the web application for a product and orders of it, and returns the orders' numbers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        program = (shop.environment.python, "-m", "uvicorn", "shop.web:app", "--fd", f"{listening.fileno()}")
        with shop.beside("web", *program, pass_fds=(listening.fileno(),)):
            product = {"name": "Blue Cup", "cents": 900, "stock": STOCK}
            httpx.put(f"{address}/products/1", json=product, timeout=PATIENCE).raise_for_status()
            new = {"product": 1, "customer": 7}
            answers = [httpx.post(f"{address}/orders", json=new, timeout=PATIENCE) for _ in range(ORDERS)]
            return [answer.raise_for_status().json()["order"] for answer in answers]


def held(conn: Connection) -> list[tuple[int, list[int]]]:
    """The process of each worker that asks for payments, with their orders."""
    return conn.execute(
        """
        SELECT w.pid, array_agg((j.payload ->> 'order')::integer)
        FROM jobs.job_queue AS j JOIN jobs.job_workers AS w ON w.id = j.locked_by
        WHERE j.status = 'running' AND j.task_type = 'charge' GROUP BY w.pid
        """
    ).fetchall()


def states(conn: Connection) -> dict[str, int]:
    return dict(conn.execute("SELECT state, count(*) FROM orders GROUP BY state").fetchall())


def test_each_order_is_kept_though_a_worker_is_killed_while_it_runs_jobs(
    shop: Shop, admin: Connection, vendors: Vendors
) -> None:
    shop.run(shop.environment.jobdeck, "init", "--schema", "jobs")
    shop.run(shop.environment.python, "-m", "shop.models")
    numbers = place_orders(shop)
    with ExitStack() as stack:
        workers = {
            process.pid: process
            for name in ("first", "second")
            for process in [stack.enter_context(shop.beside(name, shop.environment.jobdeck, "worker"))]
        }
        until(lambda: sum(len(orders) for _, orders in held(admin)) == STOCK == len(vendors.asked), shop.logs)
        until(lambda: admin.execute("SELECT count(*) FROM jobs.job_workers").fetchone() == (2,), shop.logs)
        killed, orders = max(held(admin), key=lambda found: len(found[1]))
        workers.pop(killed).kill()
        vendors.open.set()
        expected = {"ready": STOCK, "cancelled": ORDERS - STOCK}
        until(lambda: states(admin) == expected and len(vendors.asked) == 2 * STOCK, shop.logs)
        (other,) = workers.values()
        other.send_signal(signal.SIGTERM)
        assert other.wait(PATIENCE) == 0

    assert admin.execute("SELECT stock FROM products").fetchall() == [(0,)], "each piece is taken once"
    ready = {number for (number,) in admin.execute("SELECT id FROM orders WHERE state = 'ready'")}
    assert ready < set(numbers)
    assert set(vendors.asked) == {f"/{path} {number}" for path in ("payments", "mails") for number in ready}
    assert {len(keys) for keys in vendors.asked.values()} == {1}, "all attempts of a request have one key"
    assert all(vendors.asked[f"/payments {number}"].total() > 1 for number in orders), "another worker asked again"
    waiting = admin.execute("SELECT task_type FROM jobs.job_queue WHERE status IN ('pending', 'running')").fetchall()
    assert {name for (name,) in waiting} <= {"index_product", "morning_report"}, "which come later"


# scripts/package installs watchfiles, and names its environment.
@pytest.mark.skipif("WATCHFILES_ENVIRONMENT" not in os.environ, reason="watchfiles is not installed")
def test_the_command_for_developers_starts_a_worker_again_when_a_module_changes(shop: Shop, admin: Connection) -> None:
    page = (ROOT / "docs" / "adding-a-job-type.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^(.* watchfiles .*)$", page, re.MULTILINE)
    shop.run(shop.environment.jobdeck, "init", "--schema", "jobs")
    programs = f"{shop.environment.folder / 'bin'}:{Path(os.environ['WATCHFILES_ENVIRONMENT']) / 'bin'}"

    def live() -> set[int]:
        return {pid for (pid,) in admin.execute("SELECT pid FROM jobs.job_workers")}

    with shop.beside("watched", "/bin/sh", "-c", f'PATH="{programs}:$PATH" exec env {command}') as watcher:
        try:
            until(lambda: len(live()) == 1, shop.logs)
            before = live()
            with (shop.folder / "shop" / "jobs.py").open("a", encoding="utf-8") as module:
                module.write("CHANGED = True\n")
            until(lambda: len(live()) == 1 and not live() & before, shop.logs)
        finally:
            # A shell that runs CI in its background leaves SIGINT ignored.
            watcher.send_signal(signal.SIGTERM)
            watcher.wait(PATIENCE)


def test_its_own_tests_pass(shop: Shop, postgres: PostgresServer) -> None:
    address = postgres.url()
    said = shop.run(shop.environment.python, "-m", "pytest", "-q", JOBDECK_TEST_DATABASE_URL=address)
    assert " passed" in said


def test_type_checkers_find_nothing_in_it_and_are_told_to_ignore_nothing(shop: Shop) -> None:
    shop.run(sys.executable, "-m", "mypy", "--python-executable", shop.environment.python)
    # scripts/package installs pyright, and names its environment.
    if pyright := os.environ.get("PYRIGHT_ENVIRONMENT"):
        said = shop.run(
            Path(pyright) / "bin" / "basedpyright", "--project", ".", "--pythonpath", shop.environment.python
        )
        assert "0 errors, 0 warnings" in said
    for path in shop.folder.rglob("*.py"):
        assert not re.search(r"type: *ignore|pyright:|\bcast\(", path.read_text(encoding="utf-8")), path
