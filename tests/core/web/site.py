"""`jobdeck web` as a process of its own, and a person's browser without its screen."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.core.cli.support import HANDLERS, started
from tests.support.waiting import PATIENCE, rounds, until

OPENED = re.compile(r"a page was opened pid=(\d+)")


@dataclass(frozen=True)
class Site:
    process: subprocess.Popen[str]
    folder: Path

    @property
    def address(self) -> str:
        """The address that lets somebody in now."""
        return (self.folder / "address").read_text(encoding="utf-8").strip()

    @property
    def page(self) -> str:
        """The address of the page, without a token."""
        return self.address.partition("?")[0]

    @property
    def origin(self) -> str:
        return "/".join(self.address.split("/")[:3])

    @property
    def log(self) -> str:
        return (self.folder / "web.log").read_text(encoding="utf-8")

    @property
    def dashboards(self) -> list[int]:
        """The processes of all dashboards that were started."""
        return [int(number) for number in OPENED.findall(self.log)]


@contextmanager
def site(url: str, folder: Path, *options: str) -> Iterator[Site]:
    """A server with the role of this database address, until the block ends."""
    with started(
        "web", "--port", "0", "--address-file", str(folder / "address"), *options,
        DATABASE_URL=url, JOBDECK_HANDLERS=HANDLERS, JOBDECK_STATE_DIR=str(folder / "state"),
        XDG_CONFIG_HOME=str(folder), JOBDECK_LOG_FILE=str(folder / "web.log"),
    ) as process:  # fmt: skip
        until(lambda: (folder / "address").exists() or process.poll() is not None, "the address of the server")
        assert process.poll() is None, process.communicate()
        yield Site(process, folder)


@asynccontextmanager
async def person(of: Site) -> AsyncIterator[aiohttp.ClientSession]:
    """Somebody who has opened the address, and has its cookie."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get(of.address) as entered:
            assert entered.status == 200, await entered.text()
        yield session


@asynccontextmanager
async def page(
    of: Site, session: aiohttp.ClientSession, *, width: int = 100, height: int = 30
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """The connection of an open page."""
    where = f"{of.page}socket?width={width}&height={height}"
    async with session.ws_connect(where, headers={"Origin": of.origin}, max_msg_size=0) as socket:
        yield socket


async def shows(socket: aiohttp.ClientWebSocketResponse, *words: str) -> None:
    """Waits until the dashboard has written these words."""
    seen = bytearray()
    for _ in rounds(f"{words} on the screen"):
        if all(word.encode() in seen for word in words):
            return
        message = await socket.receive(timeout=PATIENCE)
        assert message.type in {aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT}, (message, seen)
        if isinstance(message.data, bytes):
            seen.extend(message.data)


def lives(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
