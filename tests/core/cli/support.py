"""How the tests of the command line run it and compare what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import pytest

from jobdeck.core.cli.app import main
from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[3]
HANDLERS = "tests.core.cli.handlers"


@dataclass(frozen=True)
class Ran:
    """One command's exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        assert self.code in {0, 1, 4, 5}, self.err
        return json.loads(self.out)

    def refused(self, code: int, *words: str) -> None:
        """Is one sentence on stderr, with these words, and this exit code; nothing on stdout."""
        assert self.code == code, (self.code, self.err)
        assert self.out == ""
        assert self.err.count("\n") == 1
        assert self.err.startswith("jobdeck: ")
        assert self.err.endswith(".\n")
        for word in words:
            assert word in self.err


class Jobdeck(Protocol):
    """Runs one command against the test's database."""

    def __call__(self, *arguments: str) -> Ran: ...


def environment(monkeypatch: pytest.MonkeyPatch, folder: Path, url: str | None) -> None:
    """Points the process at a database, its job types, and folders of its own."""
    if url is not None:
        monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("JOBDECK_HANDLERS", HANDLERS)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.setenv("JOBDECK_STATE_DIR", str(folder / "state"))


def runner(capsys: pytest.CaptureFixture[str]) -> Jobdeck:
    """Runs commands in this process."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        assert not any(line.startswith("Traceback") for line in captured.err.splitlines())
        return Ran(code, captured.out, captured.err)

    return run


@contextmanager
def started(*arguments: str, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """A command as a process of its own, which does not outlive the test."""
    with subprocess.Popen(
        [sys.executable, "-m", "core", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ran_alone(*arguments: str, **changes: str) -> Ran:
    """Runs a command as a process of its own."""
    with started(*arguments, **changes) as process:
        return finish(process)


def finish(process: subprocess.Popen[str]) -> Ran:
    """Waits for a process that was started."""
    out, err = process.communicate(timeout=PATIENCE)
    assert not any(line.startswith("Traceback") for line in err.splitlines())
    return Ran(process.returncode, out, err)


def enqueued(conn: Connection, task_type: str = "cli_echo", **payload: Any) -> UUID:
    """The id of a new job with this payload."""
    return producer.enqueue(conn, NewJob(task_type, payload), actor="test").job_id


def everything(conn: Connection) -> dict[str, list[str]]:
    """All rows of all tables, as text."""
    return {name: text.splitlines() for name, text in conn.contents().items()}
