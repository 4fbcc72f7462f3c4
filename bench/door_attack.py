"""Attacks on the HTTP server, and calls with a secret beside them. `bench/door.py --attack` runs it.

`pipeline`: 400 connections ask for /healthz without a pause and read nothing. `chunks`: one connection sends bodies in
chunks of one byte, 0.7 MB a second. A connection that is closed is opened again at once. Calls come ten a second, in
turn one of a scheduler and one of SendGrid with 10 events, each over a connection of its own: first alone, then beside
the attack. A call that gets no response or another status than 200 counts as cut.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import re
import selectors
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobdeck.core.programme.sandbox.sendgrid import SendGrid

CONNECTIONS = 400
CALLS_PER_SECOND = 10
CHUNKS_PER_SECOND = 700_000 // 6
ASKING = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100
RUN, EVENTS = "/api/jobs/run", "/api/sendgrid/events"


def pipeline(port: int, ending: Any) -> None:
    """Asks over all connections as fast as they take it."""
    selector = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        selector.register(_opened(port), selectors.EVENT_WRITE)
    while not ending.is_set():
        for key, _ in selector.select(0.1):
            line: Any = key.fileobj
            try:
                line.send(ASKING)
            except BlockingIOError:
                continue
            except OSError:
                selector.unregister(line)
                line.close()
                selector.register(_opened(port), selectors.EVENT_WRITE)


def chunks(port: int, ending: Any) -> None:
    """Sends chunks of one byte to a webhook that needs the whole body to judge its signature."""
    each = CHUNKS_PER_SECOND // 100
    while not ending.is_set():
        with _opened(port, blocking=True) as line:
            try:
                line.sendall(
                    f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                    "X-Twilio-Email-Event-Webhook-Signature: AAAA\r\n"
                    f"X-Twilio-Email-Event-Webhook-Timestamp: {time.time():.0f}\r\n\r\n".encode()
                )
                while not ending.is_set():
                    line.sendall(b"1\r\nx\r\n" * each)
                    time.sleep(0.01)
            except OSError:
                continue


ATTACKS: dict[str, Callable[[int, Any], None]] = {"pipeline": pipeline, "chunks": chunks}


def _opened(port: int, *, blocking: bool = False) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port), timeout=30)
    if not blocking:
        line.setblocking(False)
    return line


class Caller:
    """Calls at fixed times, so that a call that waits does not delay the next."""

    def __init__(self, port: int, secret: str, vendor: SendGrid) -> None:
        self._port = port
        self._secret = secret
        self._vendor = vendor
        self._lock = threading.Lock()

    def calls(self, seconds: float) -> dict[str, Any]:
        """Calls for so long; the medians and 95th percentiles in milliseconds, and how many were cut."""
        taken: dict[str, list[float]] = {RUN: [], EVENTS: []}
        cut: dict[str, int] = {RUN: 0, EVENTS: 0}

        def one(number: int, at: float) -> None:
            path = (RUN, EVENTS)[number % 2]
            good = self._call(path)
            with self._lock:
                cut[path] += not good
                taken[path].append((time.monotonic() - at) * 1000)

        begin, threads = time.monotonic(), []
        for number in range(int(seconds * CALLS_PER_SECOND)):
            at = begin + number / CALLS_PER_SECOND
            time.sleep(max(0.0, at - time.monotonic()))
            thread = threading.Thread(target=one, args=(number, at))
            thread.start()
            threads = [*(other for other in threads if other.is_alive()), thread]
        for thread in threads:
            thread.join()
        return {
            name: {
                "calls": len(taken[path]), "cut": cut[path], "p50_ms": round(statistics.median(taken[path]), 1),
                "p95_ms": round(sorted(taken[path])[int(len(taken[path]) * 0.95)], 1),
            }
            for name, path in (("scheduler", RUN), ("sendgrid", EVENTS))
        }  # fmt: skip

    def _call(self, path: str) -> bool:
        line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            if path == RUN:
                line.request("GET", path, headers={"Authorization": f"Bearer {self._secret}"})
            else:
                line.request("POST", path, *self._vendor.signed([_event() for _ in range(10)]))
            answer = line.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return False
        else:
            return answer.status == 200
        finally:
            line.close()


def _event() -> dict[str, Any]:
    return {"event": "open", "timestamp": int(time.time()), "sg_event_id": uuid4().hex, "email": "p@example.org"}


def attacked(attack: str, minutes: float, process: int, port: int, caller: Caller) -> dict[str, Any]:
    """Measures alone and beside the attack. `process` is the id of the server's process."""
    caller.calls(5)
    alone = caller.calls(min(60.0, minutes * 60))
    memory = [_megabytes(process)]
    ending = multiprocessing.Event()
    attacker = multiprocessing.Process(target=ATTACKS[attack], args=(port, ending))
    attacker.start()
    time.sleep(2.0)
    beside: list[dict[str, Any]] = []
    watcher = threading.Thread(target=lambda: beside.append(caller.calls(minutes * 60)))
    watcher.start()
    while watcher.is_alive():
        watcher.join(1.0)
        memory.append(_megabytes(process))
    ending.set()
    attacker.join()
    return {
        "attack": attack, "minutes": minutes, "alone": alone, "beside": beside[0],
        "times_the_median": {
            name: round(beside[0][name]["p50_ms"] / alone[name]["p50_ms"], 2) for name in ("scheduler", "sendgrid")
        },
        "cut": sum(one["cut"] for one in beside[0].values()),
        "memory_mb": {"before": memory[0], "most": max(memory), "end": memory[-1], "every_10_s": memory[::10]},
    }  # fmt: skip


def good(told: dict[str, Any]) -> bool:
    """Whether no call was cut and both medians are within twice those alone."""
    return told["cut"] == 0 and max(told["times_the_median"].values()) <= 2.0


def _megabytes(process: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    return round(int(found[1]) / 1024, 1) if found else 0.0


def report(told: dict[str, Any]) -> int:
    """Prints the result; the exit code is 0 if it is good."""
    print(json.dumps(told, indent=2))
    return 0 if good(told) else 1
