"""What a process that an application forks gets of the connections: nothing."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import psycopg

_open: WeakSet[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]] = WeakSet()


def keep_from_forks(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Makes a connection end in processes that this one forks, without a word to the server.

    A forked process that closes a connection, or ends in order, would say goodbye for this one. While it lives, the
    server would not notice that this one has died.
    """
    _open.add(connection)


def _leave() -> None:
    """Puts a file that takes everything in the place of each socket, whose number the connection may still use."""
    if not _open:
        return
    null = os.open(os.devnull, os.O_RDWR)
    for connection in list(_open):
        with suppress(psycopg.Error, OSError):
            os.dup2(null, connection.fileno(), inheritable=False)
    os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave)
