"""The dashboard on a real pseudo-terminal over a real Postgres: first paint, keys, pages, quiet, memory.

    .venv/bin/python bench/dashboard.py [--quick] [--database-url URL] [--only NAME ...]

Without an address it starts the embedded server in a temporary folder. On a server of yours it makes databases named
`jobdeck_bench_…`, and drops them. Program, Postgres and this driver share the machine's processors, and what the
driver needs to understand the screen is in every time. Prints a table of what was wanted and what was measured.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from dashboard_data import CHANGE, COME_AND_GO, changing, filled

from jobdeck.core.model import Filter, Status
from jobdeck.core.postgres.embedded import EmbeddedPostgres
from jobdeck.core.read import reports
from jobdeck.core.read.jobs import needy
from jobdeck.core.read.pages import overview, series
from jobdeck.core.read.stats import backlog, facets
from jobdeck.core.settings import Settings
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.backend.protocol import Request
from tests.terminal.pty_terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
LARGE, RUNS_OF_LARGE = 1_000_000, 30_000_000
SMALL = 1_000
REFRESHES = 30_000
WINDOWS = {
    "1 h": timedelta(hours=1),
    "6 h": timedelta(hours=6),
    "24 h": timedelta(days=1),
    "7 d": timedelta(days=7),
    "30 d": timedelta(days=30),
}
Connection = psycopg.Connection[Any]


class Figures:
    """The table: one line for each figure."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str, bool]] = []

    def add(self, name: str, wanted: str, measured: str, *, held: bool) -> None:
        self.lines.append((name, wanted, measured, held))
        print(f"  {name}: {measured} (wanted {wanted}){'' if held else '  MISSED'}", file=sys.stderr, flush=True)

    def table(self) -> str:
        rows = [f"| {name} | {wanted} | {found} | {'yes' if held else '**no**'} |"
                for name, wanted, found, held in self.lines]  # fmt: skip
        return "\n".join(["| figure | wanted | measured | held |", "|---|---|---|---|", *rows])


class Probe(Terminal):
    """A dashboard whose keys are timed."""

    def press(self, keys: str, there: Callable[[], bool]) -> float:
        """Seconds from the key to the last byte of what shows its effect."""
        began = time.monotonic()
        self.send(keys)
        while time.monotonic() < began + 10:
            if select.select([self._master], [], [], 0.2)[0]:
                found = os.read(self._master, 65_536)
                heard = time.monotonic()
                self.raw += found
                self._stream.feed(found)
                if there():
                    return heard - began
        raise TimeoutError(f"{keys!r} has had no effect:\n{self.text}")

    def place(self) -> str:
        """What stands at the end of the line under the table: the job under the cursor, of how many."""
        row = self._screen.buffer[self._screen.lines - 2]
        return "".join(row[x].data for x in range(self._screen.columns)).rstrip().rpartition(" ")[2]

    def drain(self, seconds: float) -> int:
        """Counts the bytes of the next seconds."""
        end, count = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            if select.select([self._master], [], [], left)[0]:
                count += len(os.read(self._master, 65_536))
        return count

    def drain_until_quiet(self) -> None:
        """Takes what is written until there is a pause."""
        wait = 0.5
        while select.select([self._master], [], [], wait)[0]:
            os.read(self._master, 65_536)
            wait = 0.012

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """Resident memory in megabytes of 2**20 bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def dashboard(url: str, folder: Path, *words: str, **environ: str) -> Iterator[Probe]:
    """A dashboard over a database, at 80×24, left with q at the end."""
    given = {"DATABASE_URL": url, "JOBDECK_STATE_DIR": str(folder), "JOBDECK_CONFIG": os.devnull,
             "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}", **environ}  # fmt: skip
    with Probe(["-m", "tui", *words], environ=given) as probe:
        yield probe


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keeps that many processes busy all the while."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def first_paint(figures: Figures, folder: Path, times: int) -> None:
    """From the start of the program to its first screen, while the database takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        taken = []
        for _ in range(times + 1):
            began = time.monotonic()
            with dashboard(url, folder) as probe:
                probe.wait_for("Opening the database…")
                taken.append(time.monotonic() - began)
                probe.send("q")
                probe.wait_for_end()
    taken = sorted(taken[1:])
    text = f"median {statistics.median(taken):.2f} s, worst {taken[-1]:.2f} s of {times}"
    figures.add("first paint, before the database answers", "< 0.5 s", text, held=statistics.median(taken) < 0.5)


def commands(figures: Figures, times: int) -> None:
    """From the start of Python to the loaded command line, in a process of its own, without any command."""
    taken = []
    for _ in range(times + 1):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import jobdeck.core.cli.app"], check=True)
        taken.append(time.monotonic() - began)
    taken = sorted(taken[1:])
    text = f"median {statistics.median(taken):.2f} s, worst {taken[-1]:.2f} s of {times}"
    figures.add("import of the command line", "< 0.25 s", text, held=statistics.median(taken) < 0.25)


def keys(figures: Figures, probe: Probe, name: str, limit: float, presses: int) -> None:
    """Times keys, each while a reading that `r` has just begun is under way: down beyond the first screen, and up."""
    chance, taken = random.Random(3), []
    probe.press("g", lambda: probe.place().startswith("1/"))
    for number in range(presses):
        # Rows of several jobs are passed at once, and change meanwhile, so nothing is known of the next place.
        here = probe.place()
        key = "k" if number % 118 >= 59 and not here.startswith("1/") else "j"
        probe.send("r")
        time.sleep(0.001)
        taken.append(probe.press(key, lambda left=here: probe.place() != left))  # type: ignore[misc]
        end = time.monotonic() + chance.uniform(0.02, 0.12)
        while (left := end - time.monotonic()) > 0:
            probe.read(left)
    taken.sort()
    p50, p95 = (taken[int(len(taken) * share)] * 1000 for share in (0.5, 0.95))
    text = f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, worst {taken[-1] * 1000:.0f} ms of {presses}"
    figures.add(name, f"p95 < {limit:.0f} ms", text, held=p95 < limit)


def refresh(figures: Figures, small: str, large: str, times: int) -> None:
    """Readings as the dashboard makes them, on each tab: of one database and of the other in turn."""
    backends = [LiveBackend(Settings.model_validate({"database_url": url})) for url in (small, large)]
    try:
        for status in (None, *Status):
            request = Request(Filter(status=status))
            taken: tuple[list[float], list[float]] = ([], [])
            for _ in range(times + 5):
                for backend, found in zip(backends, taken, strict=True):
                    began = time.monotonic()
                    backend.view(request)
                    found.append((time.monotonic() - began) * 1000)
            less, more = (statistics.median(found[5:]) for found in taken)
            name = f"a refresh of the tab {status.value if status else 'all'}, large to small"
            text = f"{more / less:.2f} × ({less:.1f} ms, {more:.1f} ms)"
            figures.add(name, "≤ 1.5 ×", text, held=more / less <= 1.5)
    finally:
        for backend in backends:
            backend.close()


def pages(figures: Figures, url: str, times: int) -> None:
    """Each read of a page as the dashboard makes it: the time of the database, and what Python adds."""
    backend = LiveBackend(Settings.model_validate({"database_url": url}))
    try:
        backend.view(Request(Filter()))
        group = backend.errors(()).trends[0]
        reads: dict[str, Callable[[], object]] = {
            **{
                f"Trends of {name}": partial(backend.read, backlog.trend_report, window)
                for name, window in WINDOWS.items()
            },
            "Types": partial(backend.read, overview.types),
            "Series": partial(backend.read, series.series),
            "Errors": lambda: backend.errors(()),
            "the jobs of a group of errors": lambda: backend.view(
                Request(Filter(), group=(group.task_type, group.fingerprint))
            ),
            "facets of a group of errors": partial(backend.read, facets.of_group, group.task_type, group.fingerprint),
            "facets of the failed runs of a type": partial(backend.read, facets.of_group, group.task_type, None),
            "the audit": partial(backend.read, reports.audit, timedelta(hours=8)),
            "notes": backend.notes,
            "Cron Health": partial(backend.read, reports.cron, timeouts=backend.timeouts()),
            "Workers": partial(backend.read, reports.worker_report),
        }
        for name, read in reads.items():
            taken = []
            for _ in range(times):
                began = time.monotonic()
                read()
                taken.append((time.monotonic() - began) * 1000)
            text = f"first {taken[0]:.0f} ms, median {statistics.median(taken):.0f} ms, worst {max(taken):.0f} ms"
            most = 150 if name.startswith("facets") else 100
            figures.add(f"a read of {name}", f"median < {most} ms", text, held=statistics.median(taken) < most)
    finally:
        backend.close()


def quiet(figures: Figures, probe: Probe, url: str, seconds: float) -> None:
    """What an idle dashboard writes and costs, with the clock and frozen; then what one changed row costs."""
    probe.press("g", lambda: probe.place().startswith("1/"))
    probe.drain(3)
    cpu = probe.cpu()
    written = probe.drain(seconds) / seconds
    share = (probe.cpu() - cpu) / seconds * 100
    figures.add(
        f"idle for {seconds:.0f} s, clock and all", "≤ 20 bytes/s", f"{written:.1f} bytes/s", held=written <= 20
    )
    figures.add("processor time of the dashboard, idle", "≤ 1 %", f"{share:.2f} %", held=share <= 1)
    probe.send("z")
    probe.drain(3)
    frozen = probe.drain(seconds)
    figures.add(f"frozen with z for {seconds:.0f} s", "0 bytes", f"{frozen} bytes", held=frozen == 0)
    probe.send("z")
    probe.drain(3)
    with psycopg.connect(url, autocommit=True) as conn:
        job = needy(limit=5).run(conn).jobs[4]
        conn.execute("UPDATE job_queue SET last_error = 'no route', version = version + 1 WHERE id = %s", (job.id,))
    changed = probe.drain(3)
    text = f"{changed} bytes, three seconds of clock among them"
    figures.add("one changed row at 80×24", "< 2 000 bytes", text, held=60 < changed < 2_000)


def memory(figures: Figures, url: str, folder: Path, wanted: int) -> None:
    """Resident memory over that many readings, each of changed jobs, with pages in between."""
    opened = ("\r", "h", "e", "n", "?", "m", "o", "P", "D", ":", "b", "t", "y", "L")
    sizes: dict[int, float] = {}
    with dashboard(url, folder, "--refresh", "3600") as probe, psycopg.connect(url, autocommit=True) as conn:
        probe.wait_for("game_platform")
        for number in range(1, wanted + 1):
            conn.execute(CHANGE, (number % 150,))
            conn.execute(COME_AND_GO)
            probe.send("r")
            probe.drain_until_quiet()
            if number % 100 == 50:
                probe.send(opened[number // 100 % len(opened)])
                probe.drain(0.3)
                probe.send("\x1b")
                probe.drain(0.5)
            if number == 1000 or number % max(wanted // 8, 1) == 0:
                sizes[number] = probe.rss()
    early = sizes.get(1000, next(iter(sizes.values())))
    told = ", ".join(f"{number:,}: {size:.0f}" for number, size in sizes.items())
    grown = (sizes[wanted] / early - 1) * 100
    figures.add(f"memory over {wanted:,} readings", "≤ 90 MB", f"at most {max(sizes.values()):.1f} MB ({told})",
                held=max(sizes.values()) <= 90)  # fmt: skip
    figures.add("its growth after the first 1,000", "≤ 10 %", f"{grown:+.1f} %", held=grown <= 10)


def beside_a_worker(figures: Figures, url: str, folder: Path, presses: int) -> None:
    """Keys while the worker inside the dashboard takes as many jobs as it can."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("INSERT INTO job_queue (task_type) SELECT 'door_nothing' FROM generate_series(1, %s)",
                     (presses * 7_000,))  # fmt: skip
        conn.execute("VACUUM (ANALYZE) job_queue")
        with dashboard(url, folder, "--worker", "--handlers", "door_jobs") as probe:
            probe.wait_for("door_nothing")
            before, began = _ended(conn), time.monotonic()
            keys(figures, probe, "key beside the embedded worker at full load", 100, presses)
            after, seconds = _ended(conn), time.monotonic() - began
            left = conn.execute("SELECT count(*) FROM job_queue WHERE task_type = 'door_nothing'").fetchall()[0][0]
        rate = (after - before) / seconds
        figures.add("the worker meanwhile", "busy to the end", f"{rate:,.0f} jobs/s, {left:,} left", held=left > 0)


def _ended(conn: Connection) -> int:
    return int(conn.execute("SELECT count(*) FROM job_runs").fetchall()[0][0])


def measure(url: str, folder: Path, only: list[str], *, quick: bool) -> Figures:
    """All of it, or what is asked for."""
    figures = Figures()
    times, seconds, presses = (3, 10.0, 60) if quick else (9, 60.0, 300)
    if "paint" in only:
        first_paint(figures, folder, times)
    if "import" in only:
        commands(figures, times)
    if not set(only) - {"paint", "import"}:
        return figures
    share = 10 if quick else 1
    with filled(url, SMALL, SMALL) as small, filled(url, LARGE // share, RUNS_OF_LARGE // share) as large:
        if "refresh" in only:
            refresh(figures, small, large, 10 if quick else 40)
        if "pages" in only:
            pages(figures, large, times)
        if "keys" in only:
            with dashboard(large, folder) as probe, changing(large, 0.05):
                probe.wait_for("game_platform")
                keys(figures, probe, "key to changed cell, amid refreshes", 50, presses)
                with busy(2):
                    keys(figures, probe, "… beside two busy processes", 50, presses)
        if "quiet" in only:
            with dashboard(large, folder) as probe:
                probe.wait_for("game_platform")
                quiet(figures, probe, large, seconds)
        if "memory" in only:
            memory(figures, large, folder, REFRESHES // (15 if quick else 1))
        if "worker" in only:
            beside_a_worker(figures, small, folder, presses // 2)
    return figures


PARTS = ("paint", "import", "refresh", "pages", "keys", "quiet", "memory", "worker")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs and runs, and fewer readings")
    parser.add_argument("--database-url", default=os.environ.get("DATABASE_URL"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="jobdeck-bench-") as name:
        folder = Path(name)
        # As root, Postgres runs under another account, which has to get in.
        folder.chmod(0o755)
        if given.database_url:
            figures = measure(given.database_url, folder, given.only, quick=given.quick)
        else:
            with EmbeddedPostgres.open(folder / "server") as server:
                figures = measure(server.url, folder, given.only, quick=given.quick)
    print(f"{os.cpu_count()} processors; load {load:.1f} before, {os.getloadavg()[0]:.1f} after\n\n{figures.table()}")
    return 0 if all(held for *_, held in figures.lines) else 1


if __name__ == "__main__":
    sys.exit(main())
