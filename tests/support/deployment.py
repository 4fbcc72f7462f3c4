"""Carries out what docs/deployment.md says about the database and its accounts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from jobdeck.core.schema import install_schema
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
DATABASE: Final = "jobdeck"
OWNER: Final = "jobdeck_owner"


def follow_the_page(server: PostgresServer) -> None:
    """Creates the database, the roles and the accounts of the page on a server that has none of them."""
    before, after = _statements()
    _run(server, before)
    with Connection.connect(address(server, OWNER), autocommit=True) as owner:
        install_schema(owner, roles=True)
    _run(server, after)


def address(server: PostgresServer, account: str) -> str:
    """The address by which an account of the page signs in."""
    return server.url(DATABASE).replace("//jobdeck@", f"//{account}@")


def _statements() -> list[list[str]]:
    """The statements of the page that come before and after `jobdeck init --roles`."""
    section = PAGE.read_text(encoding="utf-8").partition("**The database and its roles.**")[2]
    blocks = re.findall(r"```sql\n(.*?)```", section.partition("**A separate schema.**")[0], re.DOTALL)
    return [[line.partition(";")[0] for line in block.splitlines() if line.strip()] for block in blocks]


def _run(server: PostgresServer, statements: list[str]) -> None:
    with server.connect() as admin:
        for statement in statements:
            admin.execute(statement.encode())
