"""What a sweep runs on: a Postgres of its own, the proxy before it, and the worker processes."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg

from bench.faults.proxy import Proxy
from jobdeck.core.postgres.cluster import SOCKET, Cluster

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ROLE = "sweep"
WORKERS = 3
LEASE_SECONDS = 10.0
DISK_MEGABYTES = 1024
STOP_SECONDS = 60.0


class Server(Cluster):
    """A cluster that can crash, and that asks for a password, which only this process and its children know."""

    def begin(self) -> None:
        """Makes the data folder, starts the server, and creates the role of the queue."""
        password = secrets.token_hex(16)
        self.start()
        with self.connect("postgres") as admin:
            admin.execute(f"ALTER ROLE jobdeck PASSWORD '{password}'")
            admin.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'")
            (self.data / "pg_hba.conf").write_text("local all all scram-sha-256\n")
            admin.execute("SELECT pg_reload_conf()")
        os.environ["PGPASSWORD"] = password

    def crash(self) -> None:
        """Ends every process of the server at once; `start` then recovers from the log."""
        self._control("stop", "-m", "immediate")

    def connect(self, database: str = ROLE, role: str = "jobdeck") -> psycopg.Connection[Any]:
        """An autocommit connection that ignores a server that is read only."""
        return psycopg.connect(
            self.url(database), user=role, autocommit=True, connect_timeout=5,
            options="-c default_transaction_read_only=off" if role == "jobdeck" else "-c statement_timeout=5s",
        )  # fmt: skip


class Worker:
    """One `python -m core worker`, started again when asked to."""

    def __init__(self, url: str, folder: Path, number: int) -> None:
        self.free = threading.Lock()
        self._log = folder / f"worker-{number}.log"
        self._environment = environment(url, folder)
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "core", "worker"],
                cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def start(self) -> None:
        self.process = self._started()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int | None:
        """Terminates the worker and returns its exit code; None if it had to be killed."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


def environment(url: str, folder: Path) -> dict[str, str]:
    """The environment of a worker or a command."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JOBDECK_", "SENTRY_"))}
    return {
        **inherited,
        "DATABASE_URL": url,
        "PYTHONPATH": str(ROOT),
        "XDG_CONFIG_HOME": str(folder),
        "JOBDECK_STATE_DIR": str(folder / "state"),
        "JOBDECK_PLUGINS": "",
        "JOBDECK_HANDLERS": "bench.faults.jobs",
        "JOBDECK_LEASE_SECONDS": str(LEASE_SECONDS),
        "JOBDECK_HEARTBEAT_SECONDS": str(LEASE_SECONDS / 4),
        "JOBDECK_RETRY_BASE_SECONDS": "0",
        "JOBDECK_DRAIN_SECONDS": "5",
        "SWEEP_EFFECTS": str(folder / "effects.jsonl"),
    }


class Stage:
    """Everything that a sweep runs on; removed at the end."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.folder = Path(tempfile.mkdtemp(prefix="jobdeck-sweep-"))
        self.folder.chmod(0o755)
        self.effects = self.folder / "effects.jsonl"
        self.effects.touch()
        self.notes: list[str] = []
        self.troubles: list[str] = []
        self.server = Server(self.folder)
        self.disk: Path | None = None
        self.workers: list[Worker] = []
        self.proxy: Proxy | None = None

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        self.server.begin()
        self.disk = self._small_disk()
        with self.server.connect("postgres") as admin:
            place = ""
            if self.disk is not None:
                admin.execute(f"CREATE TABLESPACE small LOCATION '{self.disk}'")
                place = " TABLESPACE small"
            admin.execute(f"CREATE DATABASE {ROLE} OWNER {ROLE}{place}")
        with self.server.connect() as admin:
            admin.execute(f"ALTER SCHEMA public OWNER TO {ROLE}")
        self.init()
        self.proxy = Proxy(self.server.socket_folder / SOCKET)
        url = f"postgresql://{ROLE}@127.0.0.1:{self.proxy.port}/{ROLE}"
        self.workers = [Worker(url, self.folder, number) for number in range(WORKERS)]

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        if self.proxy is not None:
            self.proxy.close()
        with suppress(Exception):
            self.server.stop()
        if self.disk is not None:
            subprocess.run(["umount", self.disk], check=False)
        if os.environ.get("SWEEP_KEEP"):
            print(f"kept {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def init(self) -> str:
        """Runs `jobdeck init` on the server itself; returns what it said if it refused."""
        url = f"postgresql://{ROLE}@/{ROLE}?host={self.server.socket_folder}&port=5432"
        done = subprocess.run(
            [sys.executable, "-m", "core", "init"],
            cwd=ROOT, env=environment(url, self.folder), capture_output=True, text=True, check=False,
        )  # fmt: skip
        return "" if done.returncode == 0 else (done.stderr or done.stdout).strip()[-300:]

    def line(self) -> Proxy:
        """The proxy between the workers and the server."""
        if self.proxy is None:
            raise RuntimeError("the stage has not begun")
        return self.proxy

    def a_worker(self) -> Worker:
        """A worker that no other fault uses, locked for the caller."""
        for worker in self.rng.sample(self.workers, len(self.workers)):
            if worker.free.acquire(blocking=False):
                return worker
        worker = self.rng.choice(self.workers)
        worker.free.acquire()
        return worker

    def _small_disk(self) -> Path | None:
        """A file system in memory for the data, which a fault can fill; None where that needs rights it lacks."""
        disk = self.folder / "disk"
        disk.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", disk], capture_output=True, check=False
        ) if shutil.which("mount") and os.geteuid() == 0 else None  # fmt: skip
        if made is None or made.returncode != 0:
            return None
        account = self.server.account
        if account is not None:
            os.chown(disk, account.uid, account.gid)
        disk.chmod(0o700)
        return disk


def lines(path: Path) -> Iterator[str]:
    """The whole lines of a file."""
    with path.open(encoding="utf-8") as file:
        yield from (line for line in file if line.endswith("\n"))
