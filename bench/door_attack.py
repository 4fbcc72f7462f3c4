"""Calls with a secret alone and beside an attack. `bench/door.py --attack` runs it.

Calls come ten a second, each over a connection of its own: first alone, then beside the attack. They are a scheduler's
twice a second (the server runs 4 cycles at a time), SendGrid's with 10 events and a producer's with one job, each four
times a second; for the browser's server, those of the person with the cookie.
A call that gets no response or another status than 200 or 201 counts as cut.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import re
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from door_attackers import Target

    from jobdeck.core.programme.sandbox.sendgrid import SendGrid

CALLS_PER_SECOND = 10
RUN, EVENTS, PRODUCERS = "/api/jobs/run", "/api/sendgrid/events", "/api/jobs"
JOB = b'{"type": "door_nothing", "payload": {}, "runAt": "2099-01-01T00:00:00Z"}'


def asked(port: int, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bool:
    """One call over a connection of its own; whether it was answered well."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        line.request(method, path, body, dict(headers))
        answer = line.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return answer.status in {200, 201}
    finally:
        line.close()


def kinds(port: int, secret: str, token: str, vendor: SendGrid) -> dict[str, Callable[[], bool]]:
    """The calls of the HTTP server."""
    producer = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return {
        "scheduler": lambda: asked(port, "GET", RUN, None, {"Authorization": f"Bearer {secret}"}),
        "sendgrid": lambda: asked(port, "POST", EVENTS, *vendor.signed([_event() for _ in range(10)])),
        "producer": lambda: asked(port, "POST", PRODUCERS, JOB, producer),
    }


def _event() -> dict[str, Any]:
    return {"event": "open", "timestamp": int(time.time()), "sg_event_id": uuid4().hex, "email": "p@example.org"}


def calls(made: Mapping[str, Callable[[], bool]], seconds: float) -> dict[str, Any]:
    """Calls for so long; medians and 95th percentiles in milliseconds, and how many were cut.

    Each call has its time, so that one that waits does not delay the next.
    """
    lock = threading.Lock()
    taken: dict[str, list[float]] = {name: [] for name in made}
    cut = dict.fromkeys(made, 0)

    def one(name: str, at: float) -> None:
        good = made[name]()
        with lock:
            cut[name] += not good
            taken[name].append((time.monotonic() - at) * 1000)

    names, begin = [*made, *list(made)[1:]], time.monotonic()
    threads: list[threading.Thread] = []
    for number in range(max(len(names), int(seconds * CALLS_PER_SECOND))):
        at = begin + number / CALLS_PER_SECOND
        time.sleep(max(0.0, at - time.monotonic()))
        thread = threading.Thread(target=one, args=(names[number % len(names)], at))
        thread.start()
        threads = [*(other for other in threads if other.is_alive()), thread]
    for thread in threads:
        thread.join()
    return {
        name: {
            "calls": len(each), "cut": cut[name], "p50_ms": round(statistics.median(each), 1),
            "p95_ms": round(sorted(each)[int(len(each) * 0.95)], 1),
        }
        for name, each in taken.items()
    }  # fmt: skip


def attacked(
    attack: Callable[[Target, Any], None], target: Target, process: int, made: Mapping[str, Callable[[], bool]],
    minutes: float,
) -> dict[str, Any]:  # fmt: skip
    """Measures alone and beside the attack. `process` is the id of the server's process."""
    calls(made, 5)
    alone = calls(made, min(60.0, minutes * 60))
    memory = [_megabytes(process)]
    ending = multiprocessing.Event()
    attacker = multiprocessing.Process(target=attack, args=(target, ending))
    attacker.start()
    time.sleep(2.0)
    found: list[dict[str, Any]] = []
    watcher = threading.Thread(target=lambda: found.append(calls(made, minutes * 60)))
    watcher.start()
    while watcher.is_alive():
        watcher.join(1.0)
        memory.append(_megabytes(process))
    ending.set()
    attacker.join()
    (beside,) = found
    return {
        "attack": attack.__name__, "minutes": minutes, "alone": alone, "beside": beside,
        "times_the_median": {name: round(beside[name]["p50_ms"] / alone[name]["p50_ms"], 2) for name in made},
        "cut": sum(one["cut"] for one in beside.values()),
        "memory_mb": {"before": memory[0], "most": max(memory), "end": memory[-1], "every_10_s": memory[::10]},
    }  # fmt: skip


def good(told: dict[str, Any]) -> bool:
    """Whether no call was cut and all medians are within twice those alone."""
    return told["cut"] == 0 and max(told["times_the_median"].values()) <= 2.0


def _megabytes(process: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    return round(int(found[1]) / 1024, 1) if found else 0.0


def report(all_told: list[dict[str, Any]]) -> int:
    """Prints the results; the exit code is 0 if all are good."""
    for told in all_told:
        print(json.dumps(told, indent=2))
    for told in all_told:
        verdict = "good" if good(told) else "BAD"
        print(f"{told['attack']} {told['way']}: {verdict}, {told['cut']} cut, medians x {told['times_the_median']}")
    return 0 if all(map(good, all_told)) else 1
