"""Servers that a program of others makes from the description of an API that its vendor has published.

It needs Node, and what `npm install --prefix tests/vendors --ignore-scripts` brings. Nothing is asked of the network
then.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.waiting import PATIENCE

PACKAGES: Final = Path(__file__).parents[1] / "vendors" / "node_modules"
PRISM: Final = PACKAGES / "@stoplight" / "prism-cli" / "dist" / "index.js"
TWILIO: Final = PACKAGES / "@twilio-alpha" / "mcp" / "twilio-oai" / "spec" / "json" / "twilio_api_v2010.json"


def missing() -> str:
    """What keeps such a server from being had on this machine; empty where nothing does."""
    if shutil.which("node") is None:
        return "Node is not installed"
    if not (PRISM.is_file() and TWILIO.is_file()):
        return "the packages of tests/vendors/package.json are not installed"
    return ""


def narrowed(description: Path, folder: Path, path: str) -> Path:
    """A copy of a description with those paths alone that match; the whole takes long to read."""
    whole = json.loads(description.read_text(encoding="utf-8"))
    whole["paths"] = {name: what for name, what in whole["paths"].items() if re.fullmatch(path, name)}
    made = folder / description.name
    made.write_text(json.dumps(whole), encoding="utf-8")
    return made


class Described:
    """One running server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[str] = []
        self._up = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._up.wait(PATIENCE), self.said
        found = re.search(r"listening on (http://\S+)", self.said)
        assert found, self.said
        return found[1]

    @property
    def said(self) -> str:
        """What it has written so far."""
        return "".join(self._lines)

    def stop(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(re.sub(r"\x1b\[[0-9;]*m", "", line))
            if "listening on" in line:
                self._up.set()
        self._up.set()


@contextmanager
def served(description: Path, *, before: str | None = None) -> Iterator[Described]:
    """Serves a description. What does not fit it is refused.

    The answers are made up from its examples (some of which do not fit it), or are those of the server at `before`,
    which are judged too.
    """
    command = ["proxy", str(description), before, "--errors"] if before else ["mock", str(description)]
    node = shutil.which("node") or "node"
    with subprocess.Popen(
        [node, str(PRISM), *command, "-h", "127.0.0.1", "-p", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        running = Described(process)
        try:
            yield running
        finally:
            running.stop()
