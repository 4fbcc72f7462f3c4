"""An assistant: the official client of the protocol, which starts `jobdeck mcp` as a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.core.cli.support import HANDLERS, ROOT


@dataclass(frozen=True)
class Assistant:
    client: Client

    async def tools(self) -> dict[str, Any]:
        """The tools that are offered, by name."""
        return {tool.name: tool for tool in (await self.client.list_tools()).tools}

    async def call(self, name: str, given: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """What was answered, and whether it is an error."""
        answered = await self.client.call_tool(name, given)
        (content,) = answered.content
        return json.loads(content.text), bool(answered.is_error)  # type: ignore[union-attr]

    async def ask(self, name: str, **given: Any) -> Any:
        """The answer of a call that is not refused."""
        answered, failed = await self.call(name, given)
        assert not failed, answered
        assert list(answered) == ["notice", "answer"]
        return answered["answer"]

    async def refused(self, name: str, **given: Any) -> str:
        """The sentence of a call that is refused."""
        answered, failed = await self.call(name, given)
        assert failed, answered
        sentence: str = answered["refused"]
        assert list(answered) == ["refused"]
        assert sentence.endswith((".", "?"))
        assert "Traceback" not in sentence
        return sentence


@asynccontextmanager
async def assistant(url: str, folder: Path, *options: str, handlers: str = HANDLERS) -> AsyncIterator[Assistant]:
    """A process of `jobdeck mcp` with the role of this address, until the block ends."""
    started = StdioServerParameters(
        command=sys.executable,
        args=["-m", "core", "mcp", *options],
        cwd=ROOT,
        env={
            "DATABASE_URL": url,
            "JOBDECK_PLUGINS": "competition",
            "JOBDECK_HANDLERS": handlers,
            "JOBDECK_STATE_DIR": str(folder / "state"),
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(folder),
        },
    )
    with (folder / "mcp.log").open("a", encoding="utf-8") as log:
        async with Client(stdio_client(started, errlog=log)) as client:
            yield Assistant(client)
