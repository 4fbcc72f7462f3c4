"""What the built packages hold, and that the wheel works beside an application's own `core` and `tui`."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.package.environments import ROOT, Environment, build, unpacked

GENERATED = ("__pycache__", ".dist-info/")


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def checked_in(*folders: str) -> set[str]:
    git = shutil.which("git")
    listed = git and subprocess.run(
        [git, "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if not listed or listed.returncode:
        pytest.skip("this is no checkout of git")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.mark.slow
def test_the_wheel_puts_jobdeck_and_nothing_else_into_site_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in files_of(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jobdeck"}


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_core_and_tui(wheel: Path) -> None:
    expected = {f"jobdeck/{name}" for name in checked_in("core", "tui")} | checked_in(
        "jobdeck/testing", "jobdeck/django"
    )
    expected |= {"jobdeck/__init__.py", "jobdeck/py.typed"}
    assert {name for name in files_of(wheel) if ".dist-info/" not in name} == expected
    for kind in ("core/schema/sql/01_namespace.sql", "tui/operations.md", "tui/app.tcss"):
        assert files_of(wheel)[f"jobdeck/{kind}"], "a link is packed as its file"


@pytest.mark.slow
def test_a_wheel_built_from_the_sdist_is_the_same(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    again = build("wheel", unpacked(sdist, tmp_path / "source"), tmp_path / "wheel")
    assert files_of(again) == files_of(wheel)


@pytest.mark.slow
def test_the_sdist_holds_what_packagers_and_operators_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("bench", "core", "deploy", "docs", "examples", "scripts", "tests", "tui")
    alone = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "run", "schema.sql", "test", "uv.lock"}
    assert checked_in(*folders) | alone <= names


def test_the_index_gets_no_link_that_leads_nowhere(wheel: Path) -> None:
    text = next(content for name, content in files_of(wheel).items() if name.endswith("/METADATA")).decode()
    assert "# Jobdeck" in text
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", text) == []


@pytest.mark.slow
def test_the_wheel_runs_beside_an_applications_own_core_and_tui(slim: Environment, tmp_path: Path) -> None:
    for name in ("core", "tui"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'the application'\n", encoding="utf-8")
    (tmp_path / "jobs.py").write_text(
        "import core, tui\n"
        "import jobdeck\n"
        "assert core.OWNER == tui.OWNER == 'the application'\n"
        "@jobdeck.job('beside', purpose='run beside')\n"
        "def run(params: jobdeck.Payload, ctx: jobdeck.JobContext) -> None: ...\n",
        encoding="utf-8",
    )
    listed = slim.run(slim.jobdeck, "types", "--handlers", "jobs", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert listed.returncode == 0, listed.stderr
    assert "beside" in listed.stdout
