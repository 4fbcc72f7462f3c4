"""Makes one wrong change of the code after the other, in a copy of the checkout, and says which the tests notice."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.mutations.changes import chosen, read_changes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.mutations.changes import Change

ROOT: Final = Path(__file__).parents[2]
NOTICED, MISSED, ABSENT, RED = "noticed", "NOT NOTICED", "does not apply", "red without the change"
BAD: Final = (MISSED, ABSENT, RED)


@dataclass(frozen=True, slots=True)
class Run:
    """How a run of tests ended: whether all passed, and if not, which was first to fail."""

    green: bool
    first: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Tries the changes that are named, or all; 1 if one is not noticed or does not apply, unless it is known so."""
    parser = argparse.ArgumentParser(prog="scripts/mutations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a change of bench/mutations (default: all)")
    parser.add_argument("--limit", type=int, default=300, metavar="SECONDS", help="time for the tests of a change")
    parser.add_argument("--green", action="store_true", help="the tests are known to be green: do not run them first")
    parser.add_argument("--list", action="store_true", help="print the changes and end")
    options = parser.parse_args(arguments)
    try:
        changes = chosen(read_changes(Path(__file__).parent), options.names)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        for change in changes:
            print(f"{change.name}{'  (known)' if change.known else ''}")
        return 0
    with tempfile.TemporaryDirectory(prefix="jobdeck-mutations-") as folder:
        copy = Path(folder) / "checkout"
        copy_checkout(ROOT, copy)
        imported = _python(copy, "-c", "import jobdeck; print(jobdeck.__file__)", limit=60).stdout.strip()
        if not Path(imported).is_relative_to(copy):
            print(f"The copy is not what is tested: Python imports {imported}.", file=sys.stderr)
            return 2
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        red = [] if options.green else _red_before(copy, changes, options.limit)
        return _try_all(copy, changes, red, options.limit)


def copy_checkout(root: Path, copy: Path) -> None:
    """Copies the files of a checkout that git knows of, as they are now; links stay links."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (root / name).is_symlink() or (root / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name, follow_symlinks=False)


def summary(found: Iterable[tuple[Change, str]]) -> tuple[str, bool]:
    """The last line, and whether all is well: changes that are known to be missed are counted apart."""
    told = Counter((change.known, verdict) for change, verdict in found)

    def part(known: bool) -> str:
        verdicts = {verdict: count for (is_known, verdict), count in told.items() if is_known is known}
        each = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        changes = "change" if sum(verdicts.values()) == 1 else "changes"
        return f"{sum(verdicts.values())} {changes}: {each}" if verdicts else ""

    apart = f" · known, {part(True)}" if part(True) else ""
    bad = any(told[False, verdict] for verdict in BAD) or told[True, RED] > 0
    return (part(False) or "0 changes") + apart + ".", not bad


def _try_all(copy: Path, changes: Sequence[Change], red: Sequence[Change], limit: int) -> int:
    found: list[tuple[Change, str]] = []
    for change in changes:
        began = time.monotonic()
        verdict, why = (RED, "") if change in red else _try(copy, change, limit)
        found.append((change, verdict))
        known = "  (known)" if change.known else ""
        print(f"{verdict:15} {change.name}{known}  {time.monotonic() - began:.0f} s  {why}".rstrip(), flush=True)
    line, well = summary(found)
    print(line)
    return 0 if well else 1


def _red_before(copy: Path, changes: Sequence[Change], limit: int) -> list[Change]:
    """The changes whose tests are not green as the code is."""
    tests = sorted({test for change in changes for test in change.tests})
    if _pytest(copy, ["-n", "2", "--dist", "worksteal", *tests], limit * max(1, len(changes))).green:
        return []
    return [change for change in changes if not _pytest(copy, change.tests, limit).green]


def _try(copy: Path, change: Change, limit: int) -> tuple[str, str]:
    edits = change.edits(copy)
    if not edits:
        return ABSENT, ""
    right = {path: path.read_text() for path in edits}
    try:
        for path, text in edits.items():
            path.write_text(text)
        run = _pytest(copy, change.tests, limit)
    finally:
        for path, text in right.items():
            path.write_text(text)
    return (MISSED, "") if run.green else (NOTICED, run.first)


def _pytest(copy: Path, tests: Sequence[str], limit: int) -> Run:
    options = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-o", "addopts=", "-rfE", "--tb=no")
    try:
        ended = _python(copy, "-m", "pytest", *options, *tests, limit=limit)
    except subprocess.TimeoutExpired:
        return Run(False, f"not over after {limit} s")
    failed = re.search(r"^(FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    passed = re.search(r"^\d+ passed|, \d+ passed", ended.stdout, re.MULTILINE) is not None
    words = failed.expand(r"\2") + (" (did not begin)" if failed[1] == "ERROR" else "") if failed else "no test passed"
    return Run(ended.returncode == 0 and passed, words)


def _python(copy: Path, *arguments: str, limit: int) -> subprocess.CompletedProcess[str]:
    """Runs Python in the copy. Its packages come first, before those of the checkout that the environment links to."""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=copy, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
        except BaseException:
            _end(process)
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, output, "")


def _end(process: subprocess.Popen[str]) -> None:
    """Has pytest end its servers, and kills all that is left."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


if __name__ == "__main__":
    sys.exit(main())
