"""What the start of a command and of the dashboard costs beside the imports that neither can avoid, by turns.

    python bench/starts.py [--repeat N]

Counts processor time, which another load on the machine changes little.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import common
import peer_jobdeck as peer

from tests.terminal.pty_terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {
    "client": "import psycopg, click",
    "app": "import jobdeck.core.cli.app",
    "status_imports": "import jobdeck.core.cli.app, jobdeck.core.cli.commands.look.status",
    "textual": "import textual.app, psycopg",
}
ROWS = ("app", "status", "header", "rows")
BESIDE = {"app": "client", "status": "status_imports", "header": "textual", "rows": "textual"}


def command(words: list[str], environ: Mapping[str, str]) -> float:
    """Milliseconds of processor time of a command of Python."""
    with subprocess.Popen(
        [sys.executable, *words], env={**os.environ, **environ}, cwd=ROOT, stdout=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words} has ended with {process.returncode}")
    return 1000 * (used.ru_utime + used.ru_stime)


def used(process: int) -> float:
    """Milliseconds of processor time of all threads of a process so far."""
    threads = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(thread.read_text(encoding="ascii").split()[0]) for thread in threads) / 1e6


def dashboard(environ: Mapping[str, str]) -> tuple[float, float]:
    """The same of the dashboard, until its header is there and until the rows are."""
    with Terminal(["-m", "tui"], environ=environ) as terminal:
        terminal.wait_for(lambda: bool(terminal.lines[0].strip()))
        header = used(terminal.process.pid)
        terminal.wait_for("noop")
        rows = used(terminal.process.pid)
        terminal.send("q")
        terminal.wait_for_end()
    return header, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    common.make_template(peer)  # an earlier run may have left that of another schema
    taken: dict[str, list[float]] = {name: [] for name in (*IMPORTS, *ROWS)}
    with common.fresh_database(peer) as database, tempfile.TemporaryDirectory() as folder:
        environ = {"DATABASE_URL": common.url(database), "JOBDECK_STATE_DIR": folder, "JOBDECK_CONFIG": os.devnull,
                   "PYTHONPATH": str(ROOT)}  # fmt: skip
        with common.connect(database) as connection:
            connection.execute("INSERT INTO job_queue (task_type) SELECT 'noop' FROM generate_series(1, 1000)")
        for turn in range(args.repeat + 1):
            found = {name: command(["-c", code], environ) for name, code in IMPORTS.items()}
            found["status"] = command(["-m", "jobdeck.core", "status"], environ)
            found["header"], found["rows"] = dashboard(environ)
            for name, milliseconds in found.items() if turn else ():
                taken[name].append(milliseconds)
    middle = {name: median(times) for name, times in taken.items()}
    ratios = {f"{name}_ratio": middle[name] / middle[beside] for name, beside in BESIDE.items()}
    times = {f"{name}_cpu_ms": middle[name] for name in middle}
    common.emit("starts", **ratios, **times)


if __name__ == "__main__":
    main()
