"""Runs a page of the documents as a reader would: writes its files, types its commands, compares what they print."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.waiting import PATIENCE

_BLOCK: Final = re.compile(r"```(python|sh|text)\n(.*?)```", re.DOTALL)
_FILE: Final = re.compile(r"# ([\w/]+\.py)(, appended)?\n")
_NOT_TYPED: Final = re.compile(r"pip install|createdb|jobdeck\s*(#|$)|jobdeck worker")


@dataclass(frozen=True)
class Typed:
    """A command of the page with what it printed on both streams, and its exit code."""

    line: str
    out: str
    code: int


def walk(text: str, folder: Path, settings: dict[str, str]) -> Iterator[Typed]:
    """Does what a page says, in its order, in a folder, and yields each command that was typed.

    A Python block whose first line names a file is written to it. The lines of a `sh` block are typed one by one, but
    those that install packages, make the database, open the dashboard, or start a worker that goes on; an export holds
    for later lines, except that the address of the database is the one in `settings`.
    Each line of a `text` block must be in the output of the command before it; `…` there is any text.

    Raises:
        AssertionError: a command failed, or did not print what the page says.
    """
    typed: Typed | None = None
    environment = dict(settings)
    for language, block in _BLOCK.findall(text):
        if language == "python":
            _write(block, folder)
        elif language == "sh":
            for line in filter(None, block.splitlines()):
                if _NOT_TYPED.match(line):
                    continue
                if line.startswith("export "):
                    environment |= dict(word.split("=", 1) for word in shlex.split(line)[1:]) | settings
                    continue
                typed = _type(line, folder, environment)
                assert typed.code == 0, typed
                yield typed
        else:
            assert typed is not None, block
            for line in block.splitlines():
                assert re.search(".*".join(map(re.escape, line.split("…"))), typed.out), (line, typed)


def write(text: str, folder: Path) -> None:
    """Writes the files of a page into a folder, and types no command."""
    for language, block in _BLOCK.findall(text):
        if language == "python":
            _write(block, folder)


def _write(block: str, folder: Path) -> None:
    named = _FILE.match(block)
    assert named, block
    (folder / named[1]).parent.mkdir(exist_ok=True)
    with (folder / named[1]).open("a" if named[2] else "w", encoding="utf-8") as file:
        file.write(f"\n\n{block}" if named[2] else block)


def _type(line: str, folder: Path, settings: dict[str, str]) -> Typed:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JOBDECK_")}
    place = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
    ran = subprocess.run(
        ["/bin/sh", "-c", line], cwd=folder, env=inherited | place | settings, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    return Typed(line, ran.stdout + ran.stderr, ran.returncode)
