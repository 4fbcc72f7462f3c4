"""A world for each test: a fresh database and an empty sandbox vendor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from jobdeck.core.programme.sandbox.server import Sandbox
from tests.core.handlers.mail_world import MailWorld
from tests.core.handlers.notice_world import NoticeWorld
from tests.core.handlers.world import World


@pytest.fixture
def world(conn: psycopg.Connection[Any]) -> Iterator[World]:
    """Tables without rows and a vendor without accounts."""
    with Sandbox(people=False) as sandbox:
        yield World(conn, sandbox)


@pytest.fixture
def mail(conn: psycopg.Connection[Any]) -> Iterator[MailWorld]:
    """Tables with one coach, and vendors who have seen nobody."""
    with Sandbox(people=False) as sandbox:
        yield MailWorld(conn, sandbox)


@pytest.fixture
def notices(conn: psycopg.Connection[Any]) -> Iterator[NoticeWorld]:
    """The same, with conversations, release forms, and time that passes."""
    with Sandbox(people=False) as sandbox:
        yield NoticeWorld(conn, sandbox)
