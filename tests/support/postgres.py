"""A real Postgres server for the tests: thrown away afterwards, even when the test run is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql

from jobdeck.core.postgres.binaries import Account, Binaries, find_binaries, run_tool, server_account
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, rounds

ROLE = "jobdeck"
MEMORY = Path("/dev/shm")  # noqa: S108 -- every folder in it is made by mkdtemp
ROOM_IN_MEMORY = 2 * 1024**3
ON_DISK = Path("/tmp")  # noqa: S108 -- the same
PUBLISHED = bool(os.environ.get("JOBDECK_TEST_PUBLICATION"))
"""Whether each database is one that a logical replica may be made of: all its tables are in a publication."""
WAL_LEVEL = "logical" if PUBLISHED else "minimal"
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = 64MB
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = {wal_level}
max_wal_senders = 0
max_wal_size = 512MB
autovacuum = off
jit = off
timezone = 'UTC'
log_min_messages = warning
"""
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
ENDED_SESSIONS = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s"
# Its standard input is a pipe from the test run: however that ends, the pipe closes and the server goes.
WATCHDOG = 'read _; "$1/pg_ctl" stop -w -m immediate >/dev/null 2>&1; rm -rf "$2"'


def scratch_folder(account: Account | None, *, for_programs: bool = False) -> Path:
    """A new folder that the account owns, in memory where there is room: copying a database is 30 times faster.

    It is not `tmp_path`, which is closed to the account, and too long for a socket. Memory is often mounted so
    that no program in it can be executed; `for_programs` asks for a place where they can.
    """
    in_memory = not for_programs and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_IN_MEMORY
    folder = Path(tempfile.mkdtemp(prefix="jobdeck-test-", dir=MEMORY if in_memory else ON_DISK))
    if account:
        os.chown(folder, account.uid, account.gid)
    return folder


class PostgresServer:
    """One server with its own data folder, reachable through a Unix socket."""

    def __init__(self, folder: Path, binaries: Binaries, account: Account | None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.version = binaries.major
        self._binaries = binaries
        self._account = account
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._admin: Connection | None = None

    @classmethod
    def start_new(cls, major: int | None = None, *, on_disk: bool = False) -> Self:
        """Makes a data folder and starts a server of this major version (None: the wheel's) on it.

        The folder is in memory if there is room, or `on_disk`.
        """
        account = server_account()
        folder = scratch_folder(account, for_programs=on_disk)
        copies = ON_DISK / f"{folder.name}-binaries"
        server = cls(folder, find_binaries(account, copies, major=major), account)
        server._initialise()
        server._watch()
        server.start()
        return server

    def _initialise(self) -> None:
        made = run_tool(
            [self._binaries.folder / "initdb", "-D", self.data, "-U", ROLE, "-A", "trust", "-E", "UTF8",
             "--locale=C", "--no-sync", "--no-instructions"],
            self._account,
        )  # fmt: skip
        if made.returncode != 0:
            raise RuntimeError(made.stdout.decode(errors="replace"))
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write(SETTINGS.format(folder=self.folder, wal_level=WAL_LEVEL))

    def _watch(self) -> None:
        account = self._account
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", self._binaries.folder, self.folder],
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "PGDATA": str(self.data)},
            stdin=subprocess.PIPE,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )

    def _control(self, *arguments: str) -> None:
        log = self.folder / "server.log"
        with log.open("ab") as output:
            done = run_tool(
                [self._binaries.folder / "pg_ctl", *arguments, "-w", "-t", "90"],
                self._account,
                output=output,
                environment={"PGDATA": str(self.data)},
            )
        if done.returncode != 0:
            raise RuntimeError(f"pg_ctl {arguments[0]} failed:\n{log.read_text(errors='replace')[-2000:]}")

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None while the server is down."""
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except FileNotFoundError:
            return None

    def start(self) -> None:
        """Starts the server and returns once it takes connections."""
        self._control("start")

    def stop(self) -> None:
        """Stops the server: its clients are cut off."""
        self._control("stop", "-m", "fast")

    def restart(self) -> None:
        """Stops the server, cutting its clients off, and starts it again on the same data and socket."""
        self._control("restart", "-m", "fast")

    def crash(self) -> None:
        """Ends every server process at once, as a power cut would; `start` then recovers from the log."""
        self._control("stop", "-m", "immediate")

    def ensure_running(self) -> None:
        """Starts the server if a test left it down."""
        if self.pid is None:
            self.start()

    def destroy(self) -> None:
        """Stops the server for good and removes its folder."""
        if self._admin is not None:
            self._admin.close()
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            self._watchdog.wait(timeout=PATIENCE)
        for folder in (self.folder, ON_DISK / f"{self.folder.name}-binaries"):
            shutil.rmtree(folder, ignore_errors=True)

    def url(self, database: str = "postgres", role: str = ROLE) -> str:
        """The address of one database."""
        return f"postgresql://{role}@/{database}?host={self.folder}&port=5432"

    def require_password(self, role: str) -> None:
        """Makes the server ask this role, and nobody else, for a password."""
        rules = self.data / "pg_hba.conf"
        rules.write_text(f"local all {role} scram-sha-256\n{rules.read_text()}")
        with self.connect() as admin:
            admin.execute("SELECT pg_reload_conf()")

    def connect(self, database: str = "postgres", role: str = ROLE) -> Connection:
        """A connection in autocommit mode; the caller closes it."""
        return Connection.connect(self.url(database, role), autocommit=True)

    def create_database(self, *, template: str | None = None, owner: str = ROLE) -> str:
        """Makes a database with a name of its own, empty or a copy of `template`; returns the name."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        make = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY file_copy").format(
            sql.Identifier(name), sql.Identifier(template or "template0"), sql.Identifier(owner)
        )
        self._once_unused(make, "a template that no session uses", template or "template0")
        return name

    def _once_unused(self, statement: sql.Composed, what: str, database: str, *, look: str = SESSIONS) -> None:
        """Executes a statement about a database whose last sessions may not have ended yet."""
        for _ in rounds(what, pause=0.002):
            if self._admin is None or self._admin.closed:
                self._admin = self.connect()
            # Postgres itself waits for 5 s, and looks only each 0.1 s.
            try:
                if self._admin.execute(look.encode(), (database,)).fetchone() != (0,):
                    continue
                self._admin.execute(statement)
            except psycopg.OperationalError as refusal:
                cut_off = self._admin.closed  # by a test that restarted the server
                if not cut_off and not isinstance(refusal, psycopg.errors.ObjectInUse):
                    raise
            else:
                return

    def dump(self, name: str) -> str:
        """The statements that make a database's schema, by pg_dump, without what differs from one run to the next."""
        command: list[str | Path] = [self._binaries.folder / "pg_dump", "-s", "-d", self.url(name)]
        made = run_tool([*command, "--restrict-key=x"], self._account)
        if b"restrict-key" in made.stdout and made.returncode != 0:
            made = run_tool(command, self._account)  # before 15.14 and its like
        if made.returncode != 0:
            raise RuntimeError(made.stdout.decode(errors="replace"))
        lines = made.stdout.decode().splitlines()
        return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))

    def drop_database(self, name: str) -> None:
        """Drops a database and ends the connections to it."""
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        self._once_unused(drop, "a database that no session uses", name, look=ENDED_SESSIONS)
