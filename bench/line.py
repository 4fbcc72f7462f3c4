"""A TCP proxy in front of a server's Unix socket: a line that delays what it carries, without a limit of its rate."""

from __future__ import annotations

import asyncio
import multiprocessing
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 18
FORWARD, BACK = 0, 1
TERMINATE = b"X\x00\x00\x00\x04"
"""The last message of a client of Postgres, which waits for no answer."""


class Line:
    """Counts the turns of each connection: how often the client sent something after it had got an answer."""

    def __init__(self, target: str, delay: float, turns: Any) -> None:
        """`delay` is one way, in seconds. `turns` is shared with the process that measures."""
        self._target = target
        self._delay = delay
        self._turns = turns

    async def serve(self, ready: Any) -> None:
        """Serves until the process is ended; `ready` gets the port."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=CHUNK)
        ready.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client of a far server waits for one more turn before its connection is there.
        await asyncio.sleep(2 * self._delay)
        self._turns[0] += 1
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._target, limit=CHUNK)
        except OSError:
            writer.close()
            return
        last = [BACK]
        await asyncio.gather(
            self._carry(reader, far_writer, FORWARD, last), self._carry(far_reader, writer, BACK, last)
        )

    async def _carry(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, way: int, last: list[int]
    ) -> None:
        """Passes each piece on when its time has come, and reads on meanwhile."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

        async def deliver() -> None:
            data = b"more"
            while data:
                at, data = await queue.get()
                await asyncio.sleep(at - loop.time())
                with suppress(OSError):
                    target.write(data)
                    await target.drain()
            with suppress(OSError):
                target.close()

        delivering = asyncio.create_task(deliver())
        data = b"more"
        while data:
            try:
                data = await source.read(CHUNK)
            except OSError:
                data = b""
            if data and data != TERMINATE and way == FORWARD and last[0] == BACK:
                self._turns[0] += 1
            last[0] = way
            queue.put_nowait((loop.time() + self._delay, data))
        await delivering


def _serve(target: str, delay: float, turns: Any, ready: Any) -> None:
    asyncio.run(Line(target, delay, turns).serve(ready))


@contextmanager
def line(target: str, round_trip: float) -> Iterator[tuple[int, Any]]:
    """A line of this length, in seconds there and back, in a process of its own; gives its port and its counter."""
    spawn = multiprocessing.get_context("spawn")
    turns, ready = spawn.RawArray("q", 1), spawn.Queue()
    process = spawn.Process(target=_serve, args=(target, round_trip / 2, turns, ready), daemon=True)
    process.start()
    try:
        yield ready.get(), turns
    finally:
        process.kill()
        process.join()
