"""The dashboard over an in-memory queue, for a pty: says each reading on a descriptor, changes when told to.

Arguments: the descriptor to report on, the descriptor to take orders from, and words:
`still` for a clock that stands still, `fast` for one that goes ten times as fast, `calm` for a clock that goes as it
does and jobs that stay as they are, `hostile` for hostile jobs,
`fuzzed` for hostile text everywhere, other text at each reading, and how many there were reported at the end,
`stuck` for a database that never answers,
`busy` for an embedded worker with a running job, `twice` for a second SIGHUP just after the app has ended,
`broken` for an answer that nothing can make sense of.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta

from jobdeck.tui.backend.protocol import Request, View
from jobdeck.tui.terminal import options

BEGAN = time.monotonic()
THEME = options.prepare_environment(os.environ)
FEW_COLOURS = options.has_256_colours(os.environ)

from jobdeck.core.errors import DatabaseUnreachable  # noqa: E402 -- as below
from jobdeck.core.model import Status  # noqa: E402 -- Textual, after the environment is prepared
from jobdeck.tui.app import JobdeckApp  # noqa: E402 -- as above
from jobdeck.tui.backend.protocol import EmbeddedWorker  # noqa: E402 -- as above
from jobdeck.tui.deck import Options  # noqa: E402 -- as above
from jobdeck.tui.run import run  # noqa: E402 -- as above
from jobdeck.tui.terminal import type_ahead  # noqa: E402 -- as above
from tests.tui.fake import NOW, Clock, FakeBackend, make_job  # noqa: E402 -- as above
from tests.tui.fuzzed import FuzzedBackend  # noqa: E402 -- as above
from tests.tui.sample import sample  # noqa: E402 -- as above
from tests.tui.text.test_hostile_text import HOSTILE  # noqa: E402 -- as above


class Reporting(FakeBackend):
    """Writes `v` before each reading, `c` when it is closed; an order on the other descriptor changes one job."""

    def __init__(self, source: FakeBackend, report: int, orders: int, words: list[str]) -> None:
        super().__init__(source.jobs)
        self.counts, self.health, self.workers = source.counts, source.health, source.workers
        self.evidence = source.evidence
        self.evidence.backend = self
        self.report, self.orders, self.words = report, orders, words
        if "busy" in words:
            self.embedded = EmbeddedWorker("running", 1)

    def view(self, request: Request) -> View:
        os.write(self.report, b"v")
        if "stuck" in self.words:
            threading.Event().wait()
        if select.select([self.orders], [], [], 0)[0] and os.read(self.orders, 1):
            self.jobs[4] = replace(self.jobs[4], status=Status.RUNNING, attempts=3)
        if "fast" in self.words:
            self.at = NOW + timedelta(seconds=fast())
        if "calm" in self.words:
            self.at = NOW + timedelta(seconds=time.monotonic() - BEGAN)
        return None if "broken" in self.words else super().view(request)  # type: ignore[return-value]

    def close(self) -> None:
        os.write(self.report, b"c")


class ReportingFuzzed(Reporting, FuzzedBackend):
    """Is lost with an order, and reports when it is closed how many distinct texts it has served."""

    def view(self, request: Request) -> View:
        if select.select([self.orders], [], [], 0)[0]:
            raise DatabaseUnreachable(self.fuzz.text())
        return FuzzedBackend.view(self, request)  # what lies between would take an order that has just come

    def close(self) -> None:
        os.write(self.report, f"c{self.fuzz.count}".encode())


def fast() -> float:
    return (time.monotonic() - BEGAN) * 10


def calm() -> FakeBackend:
    return FakeBackend(make_job(at, Status.FAILED, task_type="game_platform_sync") for at in range(5))


def hostile() -> FakeBackend:
    return FakeBackend(
        make_job(at, status, task_type=HOSTILE, payload={HOSTILE: HOSTILE}, last_error=HOSTILE, locked_by=HOSTILE,
                 progress={"message": HOSTILE})
        for at, status in enumerate(Status)
    )  # fmt: skip


def hung_up_again(code: int | None) -> int | None:
    os.kill(os.getpid(), signal.SIGHUP)
    return code


def main() -> int:
    """Runs it."""
    # A process that does not get its turn must not take a key for one whose way is cut off.
    vars(type_ahead)["PATIENCE"] = 60.0
    report, orders, *words = sys.argv[1:]
    source = hostile() if "hostile" in words else calm() if "calm" in words else sample()
    kind = ReportingFuzzed if "fuzzed" in words else Reporting
    backend = kind(source, int(report), int(orders), words)
    monotonic = Clock() if "still" in words else fast if "fast" in words else time.monotonic
    app = JobdeckApp(lambda: backend, Options(THEME, FEW_COLOURS, interval=0.05), monotonic=monotonic)
    if "twice" in words:
        vars(app)["run"] = lambda **given: hung_up_again(JobdeckApp.run(app, **given))
    with app.log_lines.attached():
        return run(app)


if __name__ == "__main__":
    sys.exit(main())
