"""Stand-ins for a connection pooler between client and server: a relay that lies as poolers do, and PgBouncer."""

from __future__ import annotations

import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from jobdeck.core.postgres.binaries import server_account
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

PROCESS_ID = re.compile(rb"K\x00\x00\x00\x0c(....)", re.DOTALL)


@contextmanager
def lying_relay(server: PostgresServer, folder: Path, *, takes_options: bool = True) -> Iterator[Path]:
    """Passes everything on, except that it greets clients with a process id of its own, as every pooler does.

    Many poolers refuse the startup parameter `options`; so does this one unless `takes_options`.
    """

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if not takes_options and b"\0options\0" in self.request.recv(65536, socket.MSG_PEEK):
                self.request.sendall(_error("unsupported startup parameter: options"))
                return
            with socket.socket(socket.AF_UNIX) as upstream:
                upstream.connect(str(server.folder / ".s.PGSQL.5432"))
                back = threading.Thread(target=_pump, args=(upstream, self.request, True))
                back.start()
                _pump(self.request, upstream, False)
                back.join()

    class Listening(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = False

    with Listening(str(folder / ".s.PGSQL.5432"), Relay) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield folder
        finally:
            listening.shutdown()
            thread.join()


def _error(message: str) -> bytes:
    fields = b"SFATAL\0C08P01\0M" + message.encode() + b"\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


def _pump(source: socket.socket, target: socket.socket, lie: bool) -> None:
    with suppress(OSError):
        while chunk := source.recv(65536):
            if lie and PROCESS_ID.search(chunk):
                chunk = PROCESS_ID.sub(b"K\x00\x00\x00\x0c\x00\x0f\xff\xff", chunk)
                lie = False
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def find_pgbouncer() -> str | None:
    """PgBouncer's program, if this machine has one."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


@contextmanager
def pgbouncer(program: str, server: PostgresServer, folder: Path) -> Iterator[Path]:
    """A real PgBouncer in transaction mode that serves all clients with one server connection."""
    account = server_account()
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host={server.folder} user=jobdeck\n"
        f"[pgbouncer]\nlisten_port = 5432\nunix_socket_dir = {folder}\nauth_type = any\npool_mode = transaction\n"
        "default_pool_size = 1\nmax_prepared_statements = 0\n"
    )
    with subprocess.Popen(
        [program, "-q", str(configuration)],
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            while not _answers(folder):
                assert process.poll() is None, "PgBouncer ended"
            yield folder
        finally:
            process.terminate()


def _answers(folder: Path) -> bool:
    try:
        Connection.connect(f"postgresql://jobdeck@/postgres?host={folder}", prepare_threshold=None).close()
    except psycopg.OperationalError:
        return False
    return True
