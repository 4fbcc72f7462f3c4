"""A database at the end of a line of 50 ms: drain beside a near one, the dashboard's first paint, turns of the line.

    python bench/far.py drain [--jobs 20000] [--repeat 3] [--line-ms 50]         one JSON line for each figure
    python bench/far.py dashboard
    python bench/far.py commands

A turn is a wait for the line: something was sent after an answer had come. Starts a Postgres of its own; both the near
and the far worker reach it through the proxy of `line.py`, which for the near one has no delay.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alone
import common
import own_server
import peer_jobdeck as peer
import psycopg
from line import line

from jobdeck.core.model import Filter, NewJob, Status
from jobdeck.core.postgres.cluster import SOCKET
from jobdeck.core.queue import leases, producer
from jobdeck.core.settings import Settings
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.backend.protocol import Request
from tests.terminal.pty_terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
DATABASE = "bench_far"
COMMANDS = (("status",), ("runs",), ("jobs",), ("health",), ("doctor",), ("enqueue", "noop", "--payload", '{"seq": 0}'))


@contextmanager
def lines(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, tuple[str, Any]]]]:
    """The address of a queue, and those through a near and a far line with the counters of their turns."""
    with own_server.own_server() as server:
        direct = own_server.make_queue(server, DATABASE)
        socket = str(server.socket_folder / SOCKET)
        with line(socket, 0.0) as near, line(socket, args.line_ms / 1000) as far:
            yield (
                direct,
                {
                    name: (f"postgresql://jobdeck@127.0.0.1:{port}/{DATABASE}", turns)
                    for name, (port, turns) in (("near", near), ("far", far))
                },
            )


def work(url: str, tally: common.Tally, calls: Any, ready: Any, go: Any) -> None:
    """The main function of the worker's process."""
    for at, name in enumerate(("claim", "finish")):
        setattr(leases, name, counted(getattr(leases, name), calls, at))
    ready.release()
    go.wait()
    peer.work(url, peer.SETTINGS["default"], tally.handler(0), lambda: None)


def counted(function: Any, calls: Any, at: int) -> Any:
    lock = threading.Lock()

    def call(*args: Any, **kwargs: Any) -> Any:
        with lock:
            calls[at] += 1
        return function(*args, **kwargs)

    return call


def drained(direct: str, url: str, jobs: int) -> dict[str, float]:
    """One drain by one worker: jobs a second from its start, and from the start of its first job."""
    tally, calls = common.Tally(jobs, 1), common.spawn.RawArray("q", 2)
    ready, go = common.spawn.Semaphore(0), common.spawn.Event()
    process = common.spawn.Process(target=work, args=(url, tally, calls, ready, go), daemon=True)
    with psycopg.connect(direct, autocommit=True) as conn:
        alone.enqueue(conn, jobs)
        conn.execute("VACUUM (ANALYZE) job_queue")
        process.start()
        try:
            ready.acquire()
            began = time.monotonic()
            go.set()
            deadline = began + common.GIVE_UP_AFTER
            while not tally.all_ran() or common.finds_row(conn, "SELECT FROM job_queue LIMIT 1"):
                if time.monotonic() > deadline:
                    raise TimeoutError("the drain took too long")
                time.sleep(0.005)
            end = time.monotonic()
        finally:
            process.kill()
            process.join()
    first = min(tally.started[1:])
    return {
        "rate": jobs / (end - began),
        "started": jobs / (end - first),
        "first": first - began,
        "claims": calls[0],
        "finishes": calls[1],
    }


def drain(args: argparse.Namespace) -> None:
    """Near and far in turns."""
    found: dict[str, list[dict[str, float]]] = {"near": [], "far": []}
    with lines(args) as (direct, both):
        for at in range(args.repeat + 1):
            for name, (url, _) in both.items():
                one = drained(direct, url, args.jobs)
                if at:
                    found[name].append(one)
    middle = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for name, runs in found.items()
    }
    near, far = middle["near"], middle["far"]
    common.emit(
        "far_drain",
        line_ms=args.line_ms,
        jobs=args.jobs,
        rate=far["rate"],
        near_rate=near["rate"],
        ratio=far["rate"] / near["rate"],
        ratio_started=far["started"] / near["started"],
        ratios=[a["rate"] / b["rate"] for a, b in zip(found["far"], found["near"], strict=True)],
        first_job_s=far["first"],
        near_first_job_s=near["first"],
        claims=far["claims"],
        near_claims=near["claims"],
        finishes=far["finishes"],
        near_finishes=near["finishes"],
    )


def dashboard(args: argparse.Namespace) -> None:
    """From the start of the program to the frame and to the first screen with jobs; turns and time of one reading."""
    with lines(args) as (direct, both), tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(direct, autocommit=True) as conn:
            producer.enqueue_many(conn, [NewJob("unhandled", {"seq": seq}) for seq in range(1000)], actor="bench")
        for name, (url, turns) in both.items():
            framed, taken, waited = [], [], []
            for _ in range(args.repeat + 1):
                before, began = turns[0], time.monotonic()
                given = {"DATABASE_URL": url, "JOBDECK_STATE_DIR": folder, "JOBDECK_CONFIG": os.devnull,
                         "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}"}  # fmt: skip
                with Terminal(["-m", "tui"], environ=given) as terminal:
                    terminal.wait_for(partial(painted, terminal))
                    framed.append(time.monotonic() - began)
                    terminal.wait_for("unhandled")
                    taken.append(time.monotonic() - began)
                    waited.append(turns[0] - before)
                    terminal.send("q")
                    terminal.wait_for_end()
            opening, readings = opened(url, turns)
            common.emit(
                f"far_dashboard_{name}",
                line_ms=args.line_ms if name == "far" else 0,
                frame_s=statistics.median(framed[1:]),
                first_paint_s=statistics.median(taken[1:]),
                first_paint_turns=max(waited),
                open_turns=opening,
                turns_per_reading=max(turns for turns, _ in readings),
                reading_ms=1000 * statistics.median(seconds for _, seconds in readings),
            )


def painted(terminal: Terminal) -> bool:
    """Whether the screen shows its frame, with jobs or with the word that it connects."""
    return "connecting…" in terminal.text or "unhandled" in terminal.text


def opened(url: str, turns: Any) -> tuple[int, list[tuple[int, float]]]:
    """Turns of the first reading with all that opens the database, and turns and seconds of the later ones."""
    backend = LiveBackend(Settings.model_validate({"database_url": url}))
    try:
        before = turns[0]
        backend.view(Request(Filter()))
        opening = turns[0] - before
        readings = []
        for status in (None, *Status) * 2:
            before, began = turns[0], time.monotonic()
            backend.view(Request(Filter(status=status)))
            readings.append((turns[0] - before, time.monotonic() - began))
        return opening, readings
    finally:
        backend.close()


def commands(args: argparse.Namespace) -> None:
    """Turns and seconds of a command, the start of Python among them."""
    with lines(args) as (direct, both), tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(direct, autocommit=True) as conn:
            producer.enqueue_many(conn, [NewJob("noop", {"seq": seq}) for seq in range(1000)], actor="bench")
        for words in COMMANDS:
            figures: dict[str, Any] = {}
            for name, (url, turns) in both.items():
                given = os.environ | {
                    "DATABASE_URL": url, "JOBDECK_STATE_DIR": folder, "JOBDECK_CONFIG": os.devnull,
                    "JOBDECK_HANDLERS": peer.__name__, "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}",
                }  # fmt: skip
                before, began = turns[0], time.monotonic()
                done = subprocess.run(
                    [sys.executable, "-m", "core", *words], env=given, capture_output=True, check=False, text=True
                )
                figures |= {f"{name}_s": time.monotonic() - began, f"{name}_turns": turns[0] - before}
                figures["exit"] = done.returncode
                if done.returncode not in {0, 4}:
                    figures["error"] = done.stderr[-300:]
            common.emit("far_command", command=" ".join(words[:1]), line_ms=args.line_ms, **figures)


def main() -> None:
    """Runs the workload named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=["commands", "dashboard", "drain"])
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--line-ms", type=float, default=50, help="there and back")
    args = parser.parse_args()
    {"commands": commands, "dashboard": dashboard, "drain": drain}[args.workload](args)


if __name__ == "__main__":
    main()
