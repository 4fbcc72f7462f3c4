"""What a script happens in: a folder, and commands and workers as processes of their own, in one environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 180.0


class Ran(NamedTuple):
    """A command's exit code, what it answered with `--json`, and what it wrote."""

    code: int
    data: Any
    text: str


class Worker:
    """One worker process, started again when asked to."""

    def __init__(self, arguments: list[str], environ: dict[str, str], log: Path) -> None:
        self.free = threading.Lock()
        self._command = [sys.executable, "-m", "core", "worker", *arguments]
        self._environ = environ
        self._log = log
        self._begun = 0
        """Where in the log the end of the worker begins."""
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environ,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, seconds: float = STOP_SECONDS) -> str:
        """Terminates the worker. Returns how it ended and what it wrote meanwhile, empty if it ended with 0.

        One that does not end within these seconds is aborted, and writes where its threads are.
        """
        self._begun = self._log.stat().st_size
        self.signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"did not end within {seconds:.0f} s of SIGTERM: {self.abort()}"
        return f"ended with {code} after SIGTERM: {self._written()}" if code else ""

    def abort(self) -> str:
        """Aborts the worker, and returns the stacks of its threads if it has the fault handler of Python."""
        self._begun = self._log.stat().st_size
        self.signal(signal.SIGABRT)
        self.process.wait()
        return self._written()

    def _written(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._begun)
            return log.read().decode(errors="replace").strip()


class World(ABC):
    """Everything, removed at the end. A world of its own kind begins in `_begin`, which sets `environ`."""

    NAME: ClassVar[str]
    PAUSE_SECONDS: ClassVar[float] = 0.1
    """Between two looks of `wait`."""

    def __init__(self) -> None:
        self.environ: dict[str, str] = {}
        self.workers: list[Worker] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.folder = Path(tempfile.mkdtemp(prefix=f"jobdeck-{self.NAME}-"))
            stack.callback(self._remove)
            self.folder.chmod(0o755)
            self._begin(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _remove(self) -> None:
        if os.environ.get("BENCH_KEEP"):
            print(f"kept {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def _begin(self, stack: ExitStack) -> None:
        """Starts what the world has; `stack` ends it, what was started last first."""

    def environment(self, url: str, **changes: str) -> dict[str, str]:
        """The environment of a worker or a command of this world, without the settings of this process."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JOBDECK_", "SENTRY_"))}
        return {
            **inherited,
            "DATABASE_URL": url,
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(self.folder),
            "JOBDECK_STATE_DIR": str(self.folder / "state"),
            **changes,
        }

    def command(self, *arguments: str, environ: dict[str, str] | None = None) -> Ran:
        """Runs `jobdeck ARGUMENTS --json`; without an answer in JSON, the data are empty."""
        done = self._ran(*arguments, "--json", environ=environ)
        try:
            return Ran(done.returncode, json.loads(done.stdout), done.stderr.strip())
        except ValueError:
            return Ran(done.returncode, {}, done.stderr.strip())

    def text(self, *arguments: str, environ: dict[str, str] | None = None) -> Ran:
        """Runs `jobdeck ARGUMENTS`, as a person does."""
        done = self._ran(*arguments, environ=environ)
        return Ran(done.returncode, {}, done.stdout.strip() or done.stderr.strip())

    def _ran(self, *arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "core", *arguments],
            cwd=ROOT, env=environ or self.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def start_workers(self, count: int, *arguments: str, **changes: str) -> None:
        """Starts this number of workers, with these arguments and changes of the environment."""
        for _ in range(count):
            log = self.folder / f"worker-{len(self.workers)}.log"
            worker = Worker([*arguments], self.environ | changes, log)
            self._stack.callback(worker.kill)
            self.workers.append(worker)

    def stop_workers(self) -> list[int | None]:
        """Terminates the workers and returns their exit codes."""
        for worker in self.workers:
            worker.process.terminate()
        # A second SIGTERM would return the running jobs.
        codes: list[int | None] = [worker.process.wait(STOP_SECONDS) for worker in self.workers]
        self.workers.clear()
        return codes

    def wait(
        self, condition: Callable[[], object], what: str, seconds: float = 180.0, *, pause: float | None = None
    ) -> None:
        """Waits for a step of the story itself.

        Raises:
            TimeoutError: it did not come.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
            time.sleep(self.PAUSE_SECONDS if pause is None else pause)
