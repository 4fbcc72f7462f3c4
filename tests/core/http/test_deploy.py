"""The ready-made files: what they run exists, what they set is read, and what checks them has no complaint."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from jobdeck.core.http.openapi import describe
from jobdeck.core.plugins import SETTING, load_plugins
from jobdeck.core.settings import Settings
from tests.core.cli.test_docs import aliases, unknown_options
from tests.support.serving import Quiet, serving
from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
SYSTEMD = shutil.which("systemd-analyze")
NGINX = shutil.which("nginx")
AUDIT = ROOT / "scripts" / "audit"
PATHS = set(describe()["paths"])


def commands(text: str) -> list[str]:
    """Every call of jobdeck in a file, as one would type it."""
    return [f"jobdeck {rest}" for rest in re.findall(r"/bin/jobdeck ([a-z][^|\n]*?)(?: 2>&1.*)?(?:\n|\|)", text)]


def test_every_command_in_the_files_exists_with_its_options() -> None:
    found = [
        line for path in DEPLOY.rglob("*") if path.is_file() for line in commands(path.read_text(encoding="utf-8"))
    ]
    assert len(found) >= 4
    assert {line: bad for line in found if (bad := unknown_options(line))} == {}


ENVIRONMENT = DEPLOY / "jobdeck.env.example"
ON = {"DATABASE_URL", "JOBDECK_ENV", "JOBDECK_LOG_FORMAT", "CRON_SECRET", "CRON_INTERVAL_MINUTES",
      "JOBDECK_METRICS_ADDRESS"}  # fmt: skip
EXAMPLES = {"JOBDECK_STATE_DIR", "JOBDECK_DOOR_URL"}


def test_the_environment_file_has_every_setting_once_with_its_meaning() -> None:
    blocks = re.split(r"\n\n", ENVIRONMENT.read_text(encoding="utf-8"))
    lines = [line for block in blocks for line in block.splitlines()]
    settings = [line for line in lines if re.match(r"#?[A-Z_]+=", line)]
    kinds: list[type[BaseSettings]] = [Settings, *(one.settings for one in load_plugins() if one.settings)]
    aliases_of = [field.validation_alias for kind in kinds for field in kind.model_fields.values()]
    expected = [str(one.choices[0]) for one in aliases_of if isinstance(one, AliasChoices)]
    assert len(expected) == len(aliases_of)
    assert sorted(re.findall(r"^#?([A-Z_]+)=", "\n".join(settings), re.MULTILINE)) == sorted([*expected, SETTING])
    assert {line.partition("=")[0] for line in settings if not line.startswith("#")} == ON | {SETTING}
    for first in (block.splitlines()[0] for block in blocks):
        assert first.startswith("# "), first


def test_a_line_of_the_environment_file_that_is_off_shows_the_default() -> None:
    known = aliases()
    lines = re.findall(r"^#([A-Z_]+)=(.*)$", ENVIRONMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) > len(EXAMPLES)
    for name, quoted in lines:
        shown, default = "".join(shlex.split(quoted)), known[name]
        if name in EXAMPLES:
            assert default in {None, ""}, name
        elif isinstance(default, float):
            assert float(shown) == default, name
        else:
            assert shown == ("" if default is None else str(default).lower() if default is False else str(default)), (
                name
            )


def test_what_starts_the_programs_of_the_competition_names_its_plugin() -> None:
    for path in (ROOT / "run", DEPLOY / "container" / "Containerfile", DEPLOY / "profile" / "jobdeck.sh", ENVIRONMENT):
        assert re.search(rf"^[^#]*\b{SETTING}\S*\bcompetition\b", path.read_text(encoding="utf-8"), re.MULTILINE), path
    for path in (*DEPLOY.glob("systemd/*.service"), DEPLOY / "cron" / "jobdeck"):
        assert "/etc/jobdeck/jobdeck.env" in path.read_text(encoding="utf-8"), path


def test_schedulers_and_the_proxy_call_what_the_door_serves() -> None:
    vercel = json.loads((DEPLOY / "http" / "vercel.json").read_text(encoding="utf-8"))
    called = {one["path"] for one in vercel["crons"]} | {one["source"] for one in vercel["rewrites"]}
    assert called < PATHS
    location = re.search(r"location ~ (\S+) \{", (DEPLOY / "proxy" / "nginx.conf").read_text(encoding="utf-8"))
    assert location
    assert {path for path in PATHS if re.match(location[1], path)} == PATHS - {"/metrics"}
    assert "/api/jobs/run" in (DEPLOY / "http" / "http-cron").read_text(encoding="utf-8")


@contextmanager
def proxy(folder: Path) -> Iterator[str]:
    """Runs nginx with the ready-made file, without TLS, at a socket in this folder, which it yields."""
    text = (DEPLOY / "proxy" / "nginx.conf").read_text(encoding="utf-8")
    text = re.sub(r"^\s*ssl_certificate.*\n", "", text, flags=re.MULTILINE)
    # Even slower, so that a busy reader does not find the whole answer. Addresses count, and a socket has none.
    text = text.replace("limit_rate 150;", "limit_rate 30;").replace("127.0.0.1:8080", f"unix:{folder}/nobody:")
    text = text.replace("$binary_remote_addr", "$server_name").replace("listen 443 ssl;", f"listen unix:{folder}/line;")
    own = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    around = f"daemon off; pid {folder}/pid; {user} events {{}} http {{ access_log off; {own} {text} }}"
    (folder / "nginx.conf").write_text(around, encoding="utf-8")
    assert NGINX is not None
    command = [NGINX, "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    with subprocess.Popen(command) as nginx:
        try:
            until((folder / "pid").exists, "nginx")
            yield f"{folder}/line"
        finally:
            nginx.terminate()


@pytest.mark.skipif(NGINX is None, reason="there is no nginx here")
def test_the_proxy_answers_a_client_beyond_its_limits_slowly(tmp_path: Path) -> None:
    asking = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 90
    answered = b""
    with proxy(tmp_path) as address:
        while b"HTTP/1.1 429" not in answered:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(PATIENCE)
                line.connect(address)
                line.sendall(asking)
                answered = b""
                while answered.count(b"HTTP/1.1 502") < 90 and b"HTTP/1.1 429" not in answered:
                    answered += line.recv(100_000)
    assert b"</html>" not in answered[answered.index(b"HTTP/1.1 429") :]


@pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd here")
def test_systemd_has_no_complaint(tmp_path: Path) -> None:
    for unit in (DEPLOY / "systemd").iterdir():
        # The program's place is that of an installation; here it is another.
        text = unit.read_text(encoding="utf-8").replace("/opt/jobdeck/venv/bin/jobdeck", "/usr/bin/env")
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    checked = subprocess.run(
        [str(SYSTEMD), "verify", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_container_copies_what_the_package_is_built_from() -> None:
    text = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
    copied = {
        name.strip("./") for line in re.findall(r"^COPY (?!--)(.*)$", text, re.MULTILINE) for name in line.split()
    }
    with (ROOT / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    packed = {name.split("/")[0] for name in wheel["only-include"]}
    links = {"docs"}  # what tui/operations.md leads to
    assert packed | links | {"pyproject.toml", "hatch_build.py", "uv.lock", "README.md", "LICENSE"} <= copied


def test_the_files_for_kubernetes_start_commands_that_exist_with_settings_that_are_read() -> None:
    text = (DEPLOY / "kubernetes" / "worker.yaml").read_text(encoding="utf-8")
    started = [f"jobdeck {' '.join(json.loads(line))}" for line in re.findall(r"args: (\[.*\])", text)]
    assert started == ["jobdeck worker", "jobdeck init --schema jobs"]
    assert [bad for line in started if (bad := unknown_options(line))] == []
    set_there = dict(re.findall(r'name: ([A-Z_]+), value: "?([^"}]+)', text))
    assert set_there.keys() | {"JOBDECK_METRICS_TOKEN"} <= aliases().keys()
    patience = re.search(r"terminationGracePeriodSeconds: (\d+)", text)
    assert patience
    assert int(patience[1]) >= float(set_there["JOBDECK_DRAIN_SECONDS"]) + 20
    assert set_there["JOBDECK_WORKER_METRICS_ADDRESS"].endswith(f":{re.findall('containerPort: ([0-9]+)', text)[0]}")


def test_what_builds_the_package_is_pinned() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    locked = {name: package.get("version") for name, package in packages_of_the_lock().items()}
    pins = [*project["build-system"]["requires"], *project["tool"]["uv"]["build-constraint-dependencies"]]
    assert {name: version for name, _, version in (pin.partition("==") for pin in pins)} == {
        name: locked[name] for name in ("hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers")
    }


@pytest.mark.parametrize("program", ["worker", "serve"])
def test_a_unit_is_started_again_however_often_its_program_ends(program: str) -> None:
    text = (DEPLOY / "systemd" / f"jobdeck-{program}.service").read_text(encoding="utf-8")
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["StartLimitIntervalSec"] == "0"
    assert settings["Restart"] == "always"
    assert int(settings["RestartSec"].removesuffix("s")) <= 10


def packages_of_the_lock() -> dict[str, Any]:
    with (ROOT / "uv.lock").open("rb") as file:
        return {package["name"]: package for package in tomllib.load(file)["package"]}


def test_what_builds_the_package_has_the_hashes_of_the_lock() -> None:
    text = (ROOT / "scripts" / "build.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([a-z-]+)==(\S+) \\\n((?: +--hash=\S+(?: \\)?\n)+)", text, re.MULTILINE)
    hashed = {(name, version): set(re.findall(r"sha256:[0-9a-f]{64}", hashes)) for name, version, hashes in pins}
    locked = packages_of_the_lock()
    assert len(hashed) == 6
    assert hashed == {
        (name, version): {file["hash"] for file in [locked[name]["sdist"], *locked[name]["wheels"]]}
        for name, version in hashed
        if locked[name]["version"] == version
    }


@pytest.mark.parametrize(
    "path", ["scripts/package", "docs/deployment.md", "docs/versioning.md", "deploy/container/Containerfile"]
)
def test_every_build_of_the_package_compares_hashes(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    builds = re.findall(r"""(?:\buv|"\$uv") build\s.*""", text)
    assert builds
    assert [line for line in builds if "--require-hashes -b scripts/build.txt" not in line] == []


def test_no_program_is_fetched_in_whatever_version_there_is() -> None:
    pinned = (ROOT / "scripts" / "uv.txt").read_text(encoding="utf-8")
    assert re.search(r"^uv==[0-9.]+ \\(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+\n*\Z", pinned, re.MULTILINE)
    script = (ROOT / "scripts" / "environment.sh").read_text(encoding="utf-8")
    container = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
    for text in (script, container):
        installs = [line for line in text.splitlines() if re.search(r"\bpip install\b(?! --no-deps)", line)]
        assert installs
        assert [line for line in installs if "--require-hashes" not in line or "scripts/uv.txt" not in line] == []
    assert set(re.findall(r"^FROM (\S+)", container, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", container, re.MULTILINE)
    assert re.search(r":\d+\.\d+\.\d+-|@sha256:", image)


class Advisories(Quiet, BaseHTTPRequestHandler):
    """Answers as the public database of advisories does; `bad` names what is vulnerable, `version` in which version."""

    bad: str | None = None
    version: str | None = None

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        self._answer({"results": [{"vulns": [{"id": "X-1"}]} if self._is_bad(one) else {} for one in asked]})

    def _is_bad(self, asked: dict[str, Any]) -> bool:
        return asked["package"]["name"] == self.bad and self.version in {None, asked["version"]}

    def do_GET(self) -> None:
        affected = [{"package": {"ecosystem": "PyPI", "name": self.bad}, "ranges": []}]
        told = {"id": "X-1", "summary": "It can be broken.", "modified": "2026-01-01T00:00:00Z", "affected": affected}
        self._answer(told)

    def _answer(self, content: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


@contextmanager
def advisories(bad: str | None, version: str | None = None) -> Iterator[str]:
    handler = type("Known", (Advisories,), {"bad": bad, "version": version})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}/"


def audited(service: str) -> subprocess.CompletedProcess[str]:
    told = subprocess.run(
        [AUDIT],
        env={**os.environ, "AUDIT_SERVICE_URL": service, "UV_HTTP_RETRIES": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240.0,  # it resolves all packages once
    )
    if "cannot be resolved" in told.stderr:
        pytest.skip("the audit needs the index of packages")
    return told


def lowest() -> dict[str, tuple[int, ...]]:
    """The lower end of the range of each package that Jobdeck installs, by name."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    lines = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    found = [re.match(r"([a-z0-9-]+)(?:\[\w+\])?>=([0-9.]+)", line) for line in lines]
    return {one[1]: tuple(map(int, one[2].split("."))) for one in found if one}


@pytest.mark.parametrize(
    ("package", "safe"),
    [
        ("h11", (0, 16)),  # chunks with a wrong ending: CVE-2025-43859
        ("starlette", (1, 3, 1)),  # limits of forms and paths: CVE-2026-54282, CVE-2026-54283, and earlier ones
        ("aiohttp", (3, 14, 3)),  # the upgrade to a WebSocket: CVE-2026-69243, CVE-2026-69244, and earlier ones
        ("jinja2", (3, 1, 6)),  # the sandbox of templates: CVE-2025-27516
    ],
)
def test_no_range_begins_below_the_release_that_mended_what_is_published(package: str, safe: tuple[int, ...]) -> None:
    assert lowest()[package] >= safe


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="the audit needs uv")
class TestAudit:
    def test_it_says_aloud_when_it_cannot_reach_the_advisories(self) -> None:
        told = audited("http://127.0.0.1:1/")
        assert told.returncode == 2
        assert "NOTHING WAS AUDITED" in told.stderr

    def test_it_says_how_many_packages_it_audited(self) -> None:
        with advisories(None) as service:
            told = audited(service)
        assert (told.returncode, told.stderr) == (0, "")
        assert re.search(r"Audited \d\d+ packages, all pinned with hashes", told.stdout)
        assert "Audited the lowest packages that pyproject.toml allows: none is known" in told.stdout

    def test_it_fails_when_one_is_vulnerable(self) -> None:
        with advisories("starlette") as service:
            told = audited(service)
        assert told.returncode == 1
        assert "X-1" in told.stdout

    def test_it_fails_when_the_lowest_that_a_range_allows_is_vulnerable(self) -> None:
        with advisories("starlette", ".".join(map(str, lowest()["starlette"]))) as service:
            told = audited(service)
        assert told.returncode == 1
        assert "all pinned with hashes: none is known" in told.stdout
        assert "Raise the lower ends of their ranges" in told.stderr


def test_each_unit_has_a_limit_of_memory_and_of_tasks() -> None:
    units = list((DEPLOY / "systemd").glob("*.service"))
    assert len(units) == 3
    for unit in units:
        lines = unit.read_text(encoding="utf-8").splitlines()
        assert {"MemoryMax", "TasksMax"} <= {line.partition("=")[0] for line in lines}, unit.name


def test_each_pod_of_kubernetes_runs_without_rights() -> None:
    pods = (DEPLOY / "kubernetes" / "worker.yaml").read_text(encoding="utf-8").split("\n---\n")
    assert len(pods) == 2
    for pod in pods:
        for line in (
            "runAsNonRoot: true",
            "allowPrivilegeEscalation: false",
            "readOnlyRootFilesystem: true",
            "limits:",
        ):
            assert line in pod
