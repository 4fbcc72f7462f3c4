"""The Postgres of a sweep: it can crash, its disk can be full, and its clock can step."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg

from jobdeck.core.postgres.binaries import run_tool
from jobdeck.core.postgres.cluster import Cluster

ROLE = "sweep"
DISK_MEGABYTES = 8192
"""The limit of the small file system. Only what lies in it takes memory."""
ROOM_BYTES = 64 * 1024
MOST_CONNECTIONS = 250
"""Three workers whose handlers all use the database have up to 150."""
CLOCK_LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1")


def clock_library() -> Path | None:
    """The library that can set a process's clock; None if it is not installed."""
    found = [path for pattern in CLOCK_LIBRARIES for path in Path("/").glob(pattern.lstrip("/"))]
    return found[0] if found else None


class Server(Cluster):
    """A cluster that asks for a password, which only this process and its children know."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._clock = state / "clock"
        self._library = clock_library()
        self.step_clock(0)

    @property
    def has_clock(self) -> bool:
        """Whether `step_clock` has an effect."""
        return self._library is not None

    def begin(self) -> None:
        """Makes the data folder, starts the server, and creates the role of the queue."""
        password = secrets.token_hex(16)
        self.start()
        with self.connect("postgres") as admin:
            admin.execute(f"ALTER ROLE jobdeck PASSWORD '{password}'")
            admin.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'")
            (self.data / "pg_hba.conf").write_text("local all all scram-sha-256\n")
            # The time of a commit says when a finish counted, which no column of a row can say.
            admin.execute("ALTER SYSTEM SET track_commit_timestamp = on")
            admin.execute(f"ALTER SYSTEM SET max_connections = {MOST_CONNECTIONS}")
        os.environ["PGPASSWORD"] = password
        self.stop()
        self.start()

    def crash(self) -> None:
        """Ends every process of the server at once; `start` then recovers from the log."""
        self._control("stop", "-m", "immediate")

    def deadlocks(self) -> int:
        """How many the server's log tells of, as far back as it is kept."""
        logs = [path for path in (self.log, self.log.with_suffix(".log.1")) if path.exists()]
        return sum(path.read_text(errors="replace").count("deadlock detected") for path in logs)

    def step_clock(self, seconds: int) -> None:
        """Sets the server's clock ahead of the true time by these seconds. All sessions see it within a second."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.chmod(0o644)
        new.replace(self._clock)

    def connect(self, database: str = ROLE, role: str = "jobdeck") -> psycopg.Connection[Any]:
        """An autocommit connection that ignores a server that is read only."""
        return psycopg.connect(
            self.url(database), user=role, autocommit=True, connect_timeout=5,
            options="-c default_transaction_read_only=off" if role == "jobdeck" else "-c statement_timeout=5s",
        )  # fmt: skip

    def _control(self, *arguments: str) -> int:
        """As in `Cluster`, with the library that sets the clock."""
        environment = {"PGDATA": str(self.data)}
        if self._library is not None:
            environment |= {
                "LD_PRELOAD": str(self._library),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DISABLE_SHM": "1",
                "NO_FAKE_STAT": "1",
            }
        command: list[str | Path] = [self._binaries.folder / "pg_ctl", *arguments, "-w"]
        with self._open_log() as output:
            return run_tool(command, self.account, output=output, environment=environment).returncode


class SmallDisk:
    """A file system in memory for the tables, whose limit can be lowered to what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def made(cls, folder: Path, server: Server) -> SmallDisk | None:
        """Mounts one; None where that needs rights that this process lacks."""
        folder.mkdir()
        if os.geteuid() != 0 or shutil.which("mount") is None:
            return None
        options = f"size={DISK_MEGABYTES}m"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode != 0:
            return None
        if server.account is not None:
            os.chown(folder, server.account.uid, server.account.gid)
        folder.chmod(0o700)
        return cls(folder)

    def fill(self) -> None:
        """Lowers the limit to little more than what is used. Raises OSError if the limit cannot be changed."""
        facts = os.statvfs(self.folder)
        used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
        self._limit(f"{used + ROOM_BYTES}")

    def empty(self) -> None:
        """Restores the limit."""
        self._limit(f"{DISK_MEGABYTES}m")

    def close(self) -> None:
        subprocess.run(["umount", self.folder], check=False)

    def _limit(self, size: str) -> None:
        done = subprocess.run(
            ["mount", "-o", f"remount,size={size}", self.folder], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise OSError(f"the limit of the small file system was not changed: {done.stderr.strip()}")
