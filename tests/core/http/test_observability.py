"""What a monitor is given: the page that lists it, its names, the alert rules and the dashboard, by real scrapes."""

from __future__ import annotations

import ast
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jobdeck.core.alerts.alarms import OUTAGE_SECONDS
from jobdeck.core.model import Verdict
from jobdeck.core.read.sentences import DUE
from jobdeck.core.read.verdict import cannot_run, failing_types, health
from jobdeck.core.registry import Done
from tests.core.cli.test_docs import command_of, unknown_options
from tests.core.http.exporting import exported, exporting, of_the_queue, values
from tests.core.http.support import METRICS, opened
from tests.core.http.test_webhooks import event
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until
from tests.support.working import job_type

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "observability.md"
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
UNITS = ("seconds", "bytes", "total", "info")
LABELS = {
    "alive", "fate", "kind", "outcome", "part", "path", "provider", "result", "signal", "state", "status", "task_type",
}  # fmt: skip
FINE = job_type("fine", lambda _params, _context: Done())


@pytest.fixture
def scraped(database_url: str, conn: Connection) -> tuple[str, str]:
    """What a server and a worker export once there is something of each kind."""
    conn.add("fine")
    with exporting(database_url, FINE) as one, opened(database_url) as door:
        until(lambda: conn.outcomes() == ["succeeded"], "the run")
        until(lambda: values(one.text(), "jobdeck_worker_runs_total"), one.text)
        until(lambda: values(one.text(), "jobdeck_worker_last_upkeep_timestamp_seconds"), one.text)
        until(lambda: values(one.text(), "jobdeck_worker_last_heartbeat_timestamp_seconds"), one.text)
        conn.add("unknown here")
        door.run()
        door.report([event("bounce")])
        return of_the_queue(door), one.text()


def table() -> dict[str, tuple[str, frozenset[str], str]]:
    """Type, labels and process of each metric on the page."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and re.fullmatch(r"`[a-z_]+`", cells[0]):
            name = cells[0].strip("`")
            assert name not in rows
            rows[name] = (cells[1], frozenset(re.findall(r"`([a-z_]+)`", cells[2])), cells[3])
    return rows


@pytest.mark.slow
def test_the_page_lists_exactly_what_is_exported(scraped: tuple[str, str]) -> None:
    listed = table()
    assert len(listed) > 40
    for text, process in zip(scraped, ("queue", "worker"), strict=True):
        told = {name: row[:2] for name, row in listed.items() if row[2] in {process, "both"}}
        assert {one.name: (one.kind, one.labels) for one in exported(text)} == told


@pytest.mark.slow
def test_names_and_labels_keep_the_rules_of_prometheus(scraped: tuple[str, str]) -> None:
    for text in scraped:
        for one in exported(text):
            assert re.fullmatch(r"(jobdeck|process)_[a-z]+(_[a-z]+)*", one.name)
            assert one.name.endswith("_total") == (one.kind == "counter")
            if one.kind == "histogram":
                assert one.name.endswith("_seconds")
            assert one.labels <= LABELS


def promtool(*arguments: str, given: str | None = None) -> str:
    ran = subprocess.run(
        [str(PROMTOOL), *arguments], input=given, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_has_no_complaint_about_what_is_exported(scraped: tuple[str, str]) -> None:
    for text in scraped:
        assert promtool("check", "metrics", given=text) == ""


RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "jobdeck.json"
VERDICTS = ROOT / "core" / "read" / "verdict"
OPERATIONS = ROOT / "docs" / "operations.md"
FROM_PROMETHEUS = {"le", "instance", "job"}


@dataclass(frozen=True)
class Rule:
    """One alert rule, by its lines in the file."""

    alert: str
    expr: str
    wait: str
    text: str

    def told(self, key: str) -> str:
        found = re.search(rf"^ +{key}: (.+)$", self.text, re.MULTILINE)
        return found[1] if found else ""


def rules() -> list[Rule]:
    found = []
    for text in RULES.read_text(encoding="utf-8").split("- alert: ")[1:]:
        expr = re.search(r"^        expr: (.+)$", text, re.MULTILINE)
        wait = re.search(r"^        for: (.+)$", text, re.MULTILINE)
        assert expr
        found.append(Rule(text.splitlines()[0], expr[1], wait[1] if wait else "", text))
    return found


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def panel_expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def expressions() -> list[str]:
    return panel_expressions() + [rule.expr for rule in rules()]


def unknown_words(expression: str, known: dict[str, frozenset[str]]) -> list[str]:
    """The metrics and labels of an expression that are not in `known`, which has the labels of each sample's name."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    used = re.findall(r"\b((?:jobdeck|process)_[a-z_]+)(?:\{([^}]*)\})?", bare)
    assert used, expression
    bad = [name for name, _ in used if name not in known]
    labels = frozenset().union(*(known.get(name, frozenset()) for name, _ in used)) | FROM_PROMETHEUS
    for name, matchers in used:
        bad += [f"{name}: {one}" for one in re.findall(r"(\w+)\s*[=!]", matchers) if one not in known.get(name, ())]
    for grouped in re.findall(r"\b(?:by|without|on|ignoring) \(([^)]*)\)", bare):
        bad += [one for one in re.split(r",\s*", grouped) if one and one not in labels]
    return bad


@pytest.mark.slow
def test_rules_and_dashboard_use_only_metrics_and_labels_that_are_exported(scraped: tuple[str, str]) -> None:
    known = {
        sample.name: frozenset(sample.labels) - {"le"}
        for text in scraped
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert len(expressions()) > 40
    assert {one: bad for one in expressions() if (bad := unknown_words(one, known))} == {}
    assert unknown_words('sum by (person) (jobdeck_up{job_key="x"}) / jobdeck_down', known) == [
        "jobdeck_down", "jobdeck_up: job_key", "person"
    ]  # fmt: skip


def signals() -> set[str]:
    """Every signal that health can have, from the source."""
    found = set()
    of_types = {one.__name__.rpartition(".")[2]: one.SIGNAL for one in (cannot_run, failing_types)}
    for path in VERDICTS.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                name = node.args[0]
                known = name.value if isinstance(name, ast.Constant) else {"DUE": DUE}.get(getattr(name, "id", ""))
                found.add(known or f"{of_types[path.stem]} of .+")
    assert len(found) >= 15
    return {str(one) for one in found}


def test_each_signal_of_health_has_one_alert_without_a_threshold_of_its_own() -> None:
    own = [rule for rule in rules() if "jobdeck_health" in rule.expr]
    covered = [signal for rule in own for signal in re.findall(r'signal=~?"([^"]+)"', rule.expr)]
    assert sorted(covered) == sorted(signals() - {"set aside"})
    level = health.SEVERITY.index(Verdict.WARNING)
    assert {rule.expr.split("(jobdeck_health", 1)[1].split("}", 1)[1] for rule in own} == {f") >= {level}"}
    assert {rule.told("labels") for rule in own} == {
        "{severity: '{{ if eq $value 3.0 }}critical{{ else }}warning{{ end }}'}"
    }
    assert health.SEVERITY.index(Verdict.CRITICAL) == 3
    assert {rule.wait for rule in own} == {""}


def test_the_other_thresholds_are_those_of_the_program(conn: Connection) -> None:
    by_name = {rule.alert: rule for rule in rules()}
    assert by_name["JobdeckUnreachable"].wait == f"{OUTAGE_SECONDS:.0f}s"
    silent = re.search(r"> (\d+)$", by_name["JobdeckWorkerWithoutHeartbeat"].expr)
    assert silent
    ages = [int(silent[1]) - 1, int(silent[1])]
    statement = "SELECT job_worker_is_alive(now() - make_interval(secs => %s), now())"
    assert [conn.value(statement, age) for age in ages] == [True, False]


def test_each_rule_names_a_part_of_the_operators_page_and_a_command_that_exist() -> None:
    headings = re.findall(r"^## (.+)$", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    page = PAGE.read_text(encoding="utf-8")
    for rule in rules():
        name, _, anchor = rule.told("runbook").partition("#")
        assert (name, anchor in anchors) == ("docs/operations.md", True), rule.alert
        command = rule.told("command")
        assert command_of(command.split()) is not None, rule.alert
        assert unknown_options(command) == []
        assert f"`{command}`" in page or f"`{command} " in OPERATIONS.read_text(encoding="utf-8"), rule.alert
        assert rule.told("summary").endswith(".")
        assert f"`{rule.alert}`" in page, rule.alert


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = dashboard()
    assert (board["uid"], board["id"], board["title"]) == ("jobdeck", None, "Jobdeck")
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    places = set()
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["type"] in {"stat", "timeseries", "state-timeline"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places |= {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert all(target["expr"] and target["refId"] for target in panel["targets"])
    assert len(places) == sum(one["gridPos"]["w"] * one["gridPos"]["h"] for one in board["panels"])
    assert len({one["id"] for one in board["panels"]}) == len(board["panels"])
    used = set(re.findall(r"\$\{?([a-z_]+)\}?", json.dumps(board)))
    assert used - {"__rate_interval", "__all"} == set(variables)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_has_no_complaint_about_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", str(RULES))


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed")
class TestPrometheus:
    """A real one, which scrapes a real server and a real worker."""

    def test_an_alert_fires_and_resolves_and_every_expression_can_be_asked(
        self, database_url: str, conn: Connection, tmp_path: Path
    ) -> None:
        with opened(database_url) as door, exporting(database_url, FINE, start=False) as one:
            until(one.metrics.opened.is_set)
            with monitor(tmp_path, door.address, one.metrics.address) as ask:
                until(lambda: firing(ask) == {"JobdeckNoWorker": "critical"}, lambda: str(ask("alerts")))
                one.worker.start()
                conn.add("fine")
                until(lambda: firing(ask) == {}, lambda: str(ask("alerts")))
                groups = ask("rules")["groups"]
                assert {rule["name"]: rule["health"] for group in groups for rule in group["rules"]} == {
                    rule.alert: "ok" for rule in rules()
                }
                run = 'jobdeck_worker_runs_total{task_type="fine",outcome="succeeded"}'
                until(lambda: ask("query", query=run)["result"], one.text)
                for expression in panel_expressions():
                    asked = expression.replace("$__rate_interval", "1m").replace("$task_type", ".*")
                    ask("query", query=asked)


Ask = Callable[..., Any]


def firing(ask: Ask) -> dict[str, str]:
    """The alerts that fire, with their severity."""
    found = [one["labels"] for one in ask("alerts")["alerts"] if one["state"] == "firing"]
    return {labels["alertname"]: labels["severity"] for labels in found}


@contextmanager
def monitor(folder: Path, door: tuple[str, int], worker: tuple[str, int]) -> Iterator[Ask]:
    """A Prometheus with the rules. What it yields asks its API and fails where that answers with an error."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "prometheus.yml").write_text(
        f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{RULES}"]
scrape_configs:
  - job_name: jobdeck-serve
    authorization: {{credentials: {METRICS}}}
    static_configs: [{{targets: ["{door[0]}:{door[1]}"]}}]
  - job_name: jobdeck-worker
    static_configs: [{{targets: ["{worker[0]}:{worker[1]}"]}}]
""",
        encoding="utf-8",
    )

    def ask(what: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{port}/api/v1/{what}?{urlencode(query)}"
        with urlopen(url, timeout=PATIENCE) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return bool(ask("rules"))
        except OSError:
            return False

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(PROMETHEUS), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until(ready, (folder / "log").read_text)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)
