"""The embedded Postgres, which Jobdeck starts itself when there is no `DATABASE_URL`.

All processes of one account share one server on one data folder: the first one starts it and the last one stops it.
A process finds out whether it is the last by the server's list of connections.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import sql

from jobdeck.core.errors import EmbeddedPostgresError
from jobdeck.core.postgres.cluster import Cluster
from jobdeck.core.settings import state_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATABASE = "jobdeck"
LOCK_SECONDS = 200.0
PAUSE_SECONDS = 0.02
KEEPER = "jobdeck keeper"
LEAVING = "jobdeck leaving"
KEEPER_GRACE = 0.05
CLIENT_GRACE = 1.0

WHO_IS_LEFT = """
    SELECT count(*), count(*) FILTER (WHERE application_name = %s) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> %s
"""


class EmbeddedPostgres:
    """This process's use of the embedded server: one connection, open until `close`. Create it with `open`."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._mutex = threading.Lock()
        self._closed = False
        self._keeper: psycopg.Connection[Any] | None = None
        self._cluster = Cluster(state)

    @classmethod
    def open(cls, state_dir: Path | None = None) -> Self:
        """Joins the server of the state folder, and starts it if it is down.

        Args:
            state_dir: the state folder; None for `/var/lib/jobdeck` as root, otherwise `jobdeck` in the XDG state
                folder.

        Raises:
            EmbeddedPostgresError: there is no Postgres to start, or it does not start.
        """
        state = state_folder(state_dir)
        with _in_a_sentence(state):
            _make_state_folder(state)
            server = cls(state)
        try:
            server.ensure_running()
        except BaseException:
            with suppress(OSError, EmbeddedPostgresError):
                server.close()
            raise
        return server

    @classmethod
    def set_aside(cls, state_dir: Path | None = None) -> Path | None:
        """Stops the server, also under other processes, and keeps its data as `data.old`. `open` then makes new data.

        Args:
            state_dir: as for `open`.

        Returns:
            The folder that keeps the data; None if there was no data.

        Raises:
            EmbeddedPostgresError: there is a `data.old` already, or the server does not stop. Nothing was changed.
        """
        state = state_folder(state_dir)
        with _in_a_sentence(state):
            _make_state_folder(state)
            server = cls(state)
            with server._file_lock():
                data = server._cluster.data
                old = data.with_name("data.old")
                if not data.exists():
                    return None
                if os.path.lexists(old):
                    raise EmbeddedPostgresError(
                        f"The data of an earlier embedded Postgres is kept in {old}, and nothing was changed. Move or "
                        f"delete that folder, then try again."
                    )
                server._cluster.stop()
                data.rename(old)
        return old

    @property
    def url(self) -> str:
        """The address of Jobdeck's database on this server."""
        return self._cluster.url(DATABASE)

    def connect(self) -> psycopg.Connection[Any]:
        """A new autocommit connection to Jobdeck's database; the caller closes it."""
        return psycopg.connect(self.url, autocommit=True, connect_timeout=10)

    def ensure_running(self) -> None:
        """Starts the server if it is down, and replaces this process's connection if it was lost.

        Raises:
            EmbeddedPostgresError: the server does not start, or this object is closed.
        """
        with _in_a_sentence(self._state), self._mutex, self._file_lock():
            if self._closed:
                raise EmbeddedPostgresError("This process has already closed the embedded Postgres.")
            keeper = self._live_keeper()
            if keeper is None:
                self._cluster = Cluster(self._state)
                self._cluster.start()
                keeper = self._connect_keeper()
            self._keeper = keeper
            known = keeper.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if known is None:
                keeper.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def close(self) -> None:
        """Leaves the server, and stops it if no other process is connected. Closing twice is allowed.

        The caller must have closed its own connections.
        """
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            with self._file_lock():
                keeper = self._live_keeper()
                if keeper is None:
                    return
                with keeper:
                    last = _is_last(keeper)
                if last:
                    self._cluster.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _live_keeper(self) -> psycopg.Connection[Any] | None:
        """This process's connection, or a new one if it was lost; None if the server is down."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            with suppress(psycopg.Error):
                keeper.execute("")
                return keeper
            keeper.close()
        with suppress(psycopg.OperationalError):
            return self._connect_keeper()
        return None

    def _connect_keeper(self) -> psycopg.Connection[Any]:
        url = self._cluster.url("postgres")
        return psycopg.connect(url, autocommit=True, connect_timeout=10, application_name=KEEPER)

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        """Keeps other processes from starting, stopping, joining or leaving; the kernel frees it when we end."""
        path = self._state / "lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EmbeddedPostgresError(
                            f"Another Jobdeck process has been starting or stopping the embedded Postgres for "
                            f"{LOCK_SECONDS:.0f} s and holds {path}. End that process, then try again."
                        ) from None
                    time.sleep(PAUSE_SECONDS)
            yield
        finally:
            os.close(handle)


def _is_last(keeper: psycopg.Connection[Any]) -> bool:
    """Whether no other client is connected to any database of the server.

    The server lists a closed connection for a moment longer. So this waits up to a second for ordinary connections to
    end, and 50 ms for keepers of killed processes. A leaving process marks its keeper, which is not counted.
    """
    keeper.execute(sql.SQL("SET application_name = {}").format(sql.Literal(LEAVING)))
    asked = time.monotonic()
    while True:
        row = keeper.execute(WHO_IS_LEFT, [KEEPER, LEAVING]).fetchone()
        clients, keepers = row or (0, 0)
        if not clients:
            return True
        if time.monotonic() - asked > (KEEPER_GRACE if keepers else CLIENT_GRACE):
            return False
        time.sleep(PAUSE_SECONDS / 4)


@contextmanager
def _in_a_sentence(state: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedPostgresError(
            f"The embedded Postgres cannot store its data in {state} ({error.strerror or error}). Set "
            f"JOBDECK_STATE_DIR to a folder that this user can write, or DATABASE_URL to another Postgres."
        ) from error
    except psycopg.OperationalError as error:
        raise EmbeddedPostgresError(
            f"The embedded Postgres in {state} started, but its connection was lost. Its log is {state / 'server.log'}."
        ) from error


def _make_state_folder(state: Path) -> None:
    """Creates the folder and missing folders above it, so that as root the server's account can enter them."""
    mode = 0o755 if os.geteuid() == 0 else 0o700
    for folder in reversed([folder for folder in (state, *state.parents) if not folder.exists()]):
        with suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(mode)
    found = state.stat()
    if found.st_uid not in {0, os.geteuid()} or (os.geteuid() == 0 and found.st_mode & 0o022):
        raise EmbeddedPostgresError(
            f"Another account can change {state}, so the embedded Postgres does not keep its data there. Set "
            f"JOBDECK_STATE_DIR to a folder that only this account can write, or DATABASE_URL to another Postgres."
        )
