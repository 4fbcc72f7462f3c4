"""Builds the package, and makes environments that have it with some extras and nothing else, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTEST_ADDOPTS")


def build(kind: str, source: Path, target: Path) -> Path:
    """Builds the `wheel` or the `sdist` of a checkout or of an unpacked sdist."""
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)],
        cwd=source, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return next(target.glob("jobdeck-*.whl" if kind == "wheel" else "jobdeck-*.tar.gz"))


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds the wheel."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def jobdeck(self) -> Path:
        return self.folder / "bin" / "jobdeck"

    def run(self, *command: str | Path, cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
        """Runs a program in a folder that is no checkout of Jobdeck."""
        return subprocess.run(
            [str(word) for word in command], cwd=cwd or self.folder, env=self.environ(changes),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def environ(self, changes: Mapping[str, str]) -> dict[str, str]:
        """The variables of a program in this environment: those of the test run and of this user are left out."""
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        own = {"XDG_CONFIG_HOME": str(self.folder), "JOBDECK_STATE_DIR": str(self.folder / "state"),
               "JOBDECK_PLUGINS": ""}  # fmt: skip
        return {**kept, **own, **changes}


def installed(folder: Path, wheel: Path, *extras: str, beside: Sequence[str] = ()) -> Environment:
    """A new environment with the wheel, what it requires with these extras, the packages beside it, and nothing else.

    The packages it requires are links to those of this test run.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for distribution in _closure([*_requirements(wheel), *beside], extras):
        for entry in {file.parts[0] for file in distribution.files or () if file.parts[0] not in {"..", "__pycache__"}}:
            (site / entry).symlink_to(Path(str(distribution.locate_file(entry))))
    environment = Environment(folder)
    for name, target in _scripts(site).items():
        module, _, function = target.partition(":")
        script = folder / "bin" / name
        script.write_text(
            f"#!{environment.python}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        script.chmod(0o755)
    return environment


def unpacked(sdist: Path, folder: Path) -> Path:
    """The folder that an sdist unpacks to."""
    shutil.unpack_archive(sdist, folder, filter="data")
    return next(folder.iterdir())


def _scripts(site: Path) -> dict[str, str]:
    parser = ConfigParser()
    parser.read(next(site.glob("jobdeck-*.dist-info/entry_points.txt")))
    return dict(parser["console_scripts"])


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode()
    return [line.partition(": ")[2] for line in text.split("\n\n")[0].splitlines() if line.startswith("Requires-Dist")]


def _closure(requirements: list[str], extras: tuple[str, ...]) -> Iterator[metadata.Distribution]:
    """The installed distributions that these requirements lead to."""
    waiting = [(Requirement(text), extras) for text in requirements]
    seen: set[tuple[str, str]] = set()
    names: set[str] = set()
    while waiting:
        requirement, active = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": one}) for one in (*active, "")):
            continue
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            distribution = metadata.distribution(name)
            waiting += [(Requirement(text), (extra,)) for text in distribution.requires or ()]
            if name not in names:
                names.add(name)
                yield distribution
