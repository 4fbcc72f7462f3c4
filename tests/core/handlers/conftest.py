"""A world for each test: a fresh database and an empty sandbox vendor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobdeck.core.programme.sandbox.server import Sandbox
from tests.core.handlers.mail_world import MailWorld
from tests.core.handlers.notice_world import NoticeWorld
from tests.core.handlers.world import World
from tests.support.queue import Connection


@pytest.fixture
def world(conn: Connection) -> Iterator[World]:
    """Tables without rows and a vendor without accounts."""
    with Sandbox(people=False) as sandbox:
        yield World(conn, sandbox)


@pytest.fixture
def mail(conn: Connection) -> Iterator[MailWorld]:
    """Tables with one coach, and vendors who have seen nobody."""
    with Sandbox(people=False) as sandbox:
        yield MailWorld(conn, sandbox)


@pytest.fixture
def notices(conn: Connection) -> Iterator[NoticeWorld]:
    """The same, with conversations, release forms, and time that passes."""
    with Sandbox(people=False) as sandbox:
        yield NoticeWorld(conn, sandbox)
