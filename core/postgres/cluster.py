"""One Postgres data folder and its server. Callers that change either must hold the lock of `embedded.py`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import psycopg

from jobdeck.core.errors import EmbeddedPostgresError
from jobdeck.core.logs import open_private
from jobdeck.core.postgres.binaries import Account, Binaries, find_binaries, run_tool, server_account
from jobdeck.core.redact import clean

ROLE = "jobdeck"
SOCKET = ".s.PGSQL.5432"
HERE = "&hostaddr="
"""The end of an address with a socket. Without it, libpq goes where PGHOSTADDR of the environment leads."""
LONGEST_SOCKET = 100
"""Maximum bytes of a socket's path. The kernel allows 107 on Linux (unix(7)) and 103 on macOS."""
SHORT_FOLDER = Path("/tmp")  # noqa: S108 -- a folder made in it is private, and its owner is checked
START_SECONDS = 90.0
PAUSE_SECONDS = 0.02
LARGEST_LOG = 1_000_000
OF_A_DEAD_SERVER = "unexpected postmaster exit"
"""Log message of a killed server's children when they end, perhaps while the next server starts."""
_TRUSTED_HOSTS = re.compile(
    r"^host[ \t]+(?:all|replication)[ \t]+all[ \t]+(?:127\.0\.0\.1/32|::1/128)[ \t]+trust[ \t]*\n", re.MULTILINE
)
SETTINGS = """\
# Written by Jobdeck at every start. Put your own settings at the end of postgresql.conf.
listen_addresses = ''
unix_socket_directories = '{folder}'
unix_socket_permissions = 0700
port = 5432
max_connections = 100
shared_buffers = 64MB
max_wal_size = 256MB
wal_level = minimal
max_wal_senders = 0
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
# The detail of an error and its statement may contain personal data.
log_error_verbosity = terse
log_min_error_statement = panic
"""


class Cluster:
    """The data folder `data` in a state folder, with its socket, its log and the account that owns it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.data = state / "data"
        self.log = state / "server.log"
        self.account = self._owner() or server_account()
        self.socket_folder = self._socket_folder()

    def url(self, database: str) -> str:
        """The address of one database of this server, for libpq alone."""
        return f"postgresql://{ROLE}@/{database}?host={quote(str(self.socket_folder), safe='')}&port=5432{HERE}"

    def start(self) -> None:
        """Creates the data folder if there is none and starts the server; returns when it accepts connections.

        It waits for a server that is starting or stopping, and for the children of a killed server: Postgres refuses
        to start while they run, and they end by themselves.

        Raises:
            EmbeddedPostgresError: the server does not start within 90 seconds.
        """
        deadline = time.monotonic() + START_SECONDS
        reason = "it does not answer"
        while time.monotonic() < deadline:
            if self._answers():
                return
            if not self._is_live():
                self._forget_the_dead()
                reason = self._launch()
                if reason and "shared memory block" not in reason:
                    break
            time.sleep(PAUSE_SECONDS)
        raise EmbeddedPostgresError(
            f"The embedded Postgres in {self.data} does not start: {clean(reason)}. {self._advice()}"
        )

    def stop(self) -> None:
        """Stops the server, closes all connections, and returns when it is down.

        Raises:
            EmbeddedPostgresError: the server still runs after 90 seconds.
        """
        # Data of a Postgres that is not installed has no server to stop, and no program to stop it with.
        stopped = not self._is_live() or self._control("stop", "-m", "fast") == 0 or not self._is_live()
        if stopped and self.socket_folder.parent != self.state:
            with suppress(OSError):
                self.socket_folder.rmdir()
        if stopped:
            return
        raise EmbeddedPostgresError(f"The embedded Postgres in {self.data} does not stop. {self._advice()}")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _launch(self) -> str:
        """Starts the server. Returns an empty string, or the reason why it did not start."""
        if not self.data.exists():
            self._initialise()
        make_private_folder(self.socket_folder, self.account)
        self._write_settings()
        if self.log.exists() and self.log.stat().st_size > LARGEST_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self._open_log() as log:
            before = log.tell()
        self._close_to_the_network()
        try:
            ended = self._control("start", "-t", f"{START_SECONDS:.0f}")
        except BaseException:
            self.stop()
            raise
        if ended == 0:
            return ""
        with self.log.open("rb") as log:
            log.seek(before)
            lines = log.read().decode(errors="replace").splitlines()
        own = [line for line in lines if OF_A_DEAD_SERVER not in line]
        telling = [line for line in own if re.search(r"\b(FATAL|PANIC|could not|cannot)\b", line)]
        return (telling or own or ["its log is empty"])[0]

    def _control(self, *arguments: str) -> int:
        """Runs pg_ctl. Its output goes to the log file and not to a pipe, because the server inherits it.

        The data folder is passed in the environment: pg_ctl would put an argument unquoted into a shell command.
        """
        program = self._binaries.folder / "pg_ctl"
        with self._open_log() as output:
            return run_tool(
                [program, *arguments, "-w"],
                self.account,
                output=output,
                environment={"PGDATA": str(self.data)},
            ).returncode

    def _open_log(self) -> BinaryIO:
        return os.fdopen(open_private(self.log, os.O_WRONLY | os.O_APPEND), "ab")

    def _close_to_the_network(self) -> None:
        """Takes from pg_hba.conf the lines by which initdb lets everybody on this machine in, without a password.

        Nothing uses them, but with them a changed `listen_addresses` would open the database. Others are kept.
        """
        # The account owns this folder, so root must not follow a link in it.
        with os.fdopen(os.open(self.data / "pg_hba.conf", os.O_RDWR | os.O_NOFOLLOW), "r+") as rules:
            text = rules.read()
            kept = _TRUSTED_HOSTS.sub("", text)
            if kept != text:
                rules.seek(0)
                rules.write(kept)
                rules.truncate()

    def _initialise(self) -> None:
        binaries = find_binaries(self.account, self.state / "binaries")
        unfinished = self.state / "data.init"
        _remove(unfinished)
        make_private_folder(unfinished, self.account)
        options = ["-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions"]
        made = run_tool([binaries.folder / "initdb", "-D", unfinished, *options], self.account)
        if made.returncode != 0:
            said = [line for line in made.stdout.decode(errors="replace").splitlines() if "error" in line]
            reason = clean(said[0] if said else f"initdb ended with {made.returncode}")
            raise EmbeddedPostgresError(
                f"The embedded Postgres could not prepare its data in {self.state}: {reason}. {self._advice()}"
            )
        # The account owns this folder, so root must not follow a link in it.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
        configuration = os.open(unfinished / "postgresql.conf", flags)
        os.write(configuration, b"\ninclude_if_exists = '../jobdeck.conf'\n")
        os.close(configuration)
        unfinished.rename(self.data)

    def _write_settings(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(self.state / "jobdeck.conf", flags, 0o644), "w", encoding="utf-8") as settings:
            os.fchmod(settings.fileno(), 0o644)
            settings.write(SETTINGS.format(folder=self.socket_folder))

    @cached_property
    def _binaries(self) -> Binaries:
        """The programs of the version that created the data."""
        try:
            major = int((self.data / "PG_VERSION").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EmbeddedPostgresError(
                f"{self.data} is not a Postgres data folder (its PG_VERSION cannot be read). Move it away to start "
                f"with an empty one, or set DATABASE_URL."
            ) from error
        return find_binaries(self.account, self.state / "binaries", major=major)

    def _owner(self) -> Account | None:
        """The account that owns existing data, if this process is root."""
        if os.geteuid() != 0 or not self.data.exists():
            return None
        info = self.data.stat()
        return Account(f"uid {info.st_uid}", info.st_uid, info.st_gid) if info.st_uid else None

    def _socket_folder(self) -> Path:
        """A folder in the state folder, unless its path is too long for a socket or needs quotes in a setting."""
        inside = self.state / "socket"
        if re.fullmatch(r"[\w./+-]+", str(inside), re.ASCII) and len(f"{inside}/{SOCKET}") <= LONGEST_SOCKET:
            return inside
        owner = self.account.uid if self.account else os.geteuid()
        mark = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]
        return SHORT_FOLDER / f"jobdeck-{owner}-{mark}"

    def _is_live(self) -> bool:
        """Whether the process named in postmaster.pid is a server on this data folder, and not a zombie."""
        pid = self._pid()
        if pid is None:
            return False
        if sys.platform != "linux":
            state = subprocess.run(
                ["/bin/ps", "-p", str(pid), "-o", "state=,comm="], capture_output=True, text=True, check=False
            ).stdout.strip()
            return state.endswith("postgres") and not state.startswith("Z")
        process = Path("/proc") / str(pid)
        try:
            name = (process / "comm").read_text().strip()
            return name == "postgres" and (process / "cwd").samefile(self.data)
        except OSError:
            return False

    def _pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def _forget_the_dead(self) -> None:
        """Removes the files of a dead server.

        Postgres itself removes them only if the old process id is free. If the id now belongs to another process or a
        zombie, Postgres assumes that the server still runs.
        """
        pid = self._pid()
        if pid is None or _exists(pid):
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        for leftover in (SOCKET, f"{SOCKET}.lock"):
            (self.socket_folder / leftover).unlink(missing_ok=True)

    def _advice(self) -> str:
        if self.account and run_tool(["/bin/sh", "-c", 'cd "$0"', self.state], self.account).returncode != 0:
            return (
                f"Postgres refuses root and runs as the account {self.account.name}, which cannot enter "
                f"{self.state}. Set JOBDECK_STATE_DIR to a folder that this account can enter."
            )
        return f"Its log is {self.log}. You can also set DATABASE_URL to another Postgres."


def make_private_folder(folder: Path, account: Account | None) -> None:
    """Creates a folder that only its owner can enter, or checks that an existing one is such a folder.

    Raises:
        EmbeddedPostgresError: the path is something else.
    """
    owner = account.uid if account else os.geteuid()
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    info = folder.lstat()
    if stat.S_ISDIR(info.st_mode) and account and info.st_uid == os.geteuid():
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)
        info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != owner or info.st_mode & 0o077:
        raise EmbeddedPostgresError(
            f"{folder} is not a private folder of the account that runs the embedded Postgres. Remove it, or "
            f"set JOBDECK_STATE_DIR to another folder."
        )


def _remove(folder: Path) -> None:
    """Removes a folder; repeats that while an ending process still writes into it."""
    deadline = time.monotonic() + START_SECONDS
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
