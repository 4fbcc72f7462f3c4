"""A headless browser, driven by its own protocol, so that tests need no package for it."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.support.waiting import PATIENCE, becomes

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.asked: list[str] = []
        """The addresses that the page has asked for."""
        self.complaints: list[str] = []
        """What the page has logged as an error."""

    async def send(self, method: str, **params: Any) -> Any:
        """The answer to one command of the protocol."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=PATIENCE)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            case "Network.webSocketCreated":
                self.asked.append(message["params"]["url"])
            case "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self.complaints.append(entry["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"].get("text")))

    async def open(self, address: str) -> None:
        for domain in ("Page", "Network", "Log", "Runtime"):
            await self.send(f"{domain}.enable")
        await self.send("Page.navigate", url=address)

    async def value(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answered = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answered["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until an expression is true in the page."""
        found = False

        async def look() -> None:
            nonlocal found
            while not found:
                found = bool(await self.value(expression))

        looking = asyncio.ensure_future(look())
        await becomes(lambda: found or looking.done(), expression)
        await looking

    async def press(self, text: str, key: str | None = None, code: int = 0) -> None:
        """Presses a key of this text, or a named one."""
        named = {"key": key or text, "windowsVirtualKeyCode": code or ord(text.upper()[0]), "text": text}
        await self.send("Input.dispatchKeyEvent", type="keyDown", **named)
        await self.send("Input.dispatchKeyEvent", type="keyUp", key=named["key"])

    async def picture(self) -> bytes:
        """The page as a PNG."""
        taken = await self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(taken["data"])


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own, until the block ends."""
    assert CHROMIUM
    profile = folder / "profile"
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
        "--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1100,700", "about:blank",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    try:
        port = profile / "DevToolsActivePort"
        await becomes(lambda: port.exists() and port.read_text(encoding="utf-8").strip(), "the browser's port")
        where = f"http://127.0.0.1:{port.read_text(encoding='utf-8').split()[0]}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{where}/json/list") as listed:
                pages = [one for one in await listed.json() if one["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Browser(socket)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
