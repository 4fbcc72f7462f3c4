"""The rules that keep the house in order: what may stand where, what may be loaded, how long things may grow."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from jobdeck.core.cli.app import commands

ROOT = Path(__file__).resolve().parents[2]
WRITE_ROOMS = ("core/queue/", "core/programme/")
READ_ROOMS = ("core/read/",)
SQL_ROOMS = WRITE_ROOMS + READ_ROOMS
CONNECTION_ROOMS = ("core/postgres/", "core/schema/")
EXECUTING = {"execute", "executemany", "copy", "stream"}
SQL_SHAPE = re.compile(
    r"\b(select\s.*\bfrom\s|select\s+\w+\(|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s|create\s+(table|index|or)\s"
    r"|alter\s+table\s|drop\s+(table|index|schema)\s)",
    re.IGNORECASE | re.DOTALL,
)
JOB_UPDATE = re.compile(r"update\s+(only\s+)?(public\.)?job_queue\b(?!_)", re.IGNORECASE)
HEAVY = ("textual", "rich", "sendgrid", "twilio", "httpx", "sentry_sdk", "starlette", "uvicorn", "mcp", "mcp_types",
         "aiohttp", "textual_serve")  # fmt: skip
SLOW = ("psycopg", "pydantic", "pydantic_settings", "click")
"""Packages that the dashboard loads beside its first screen."""
OF_OTHER_SCREENS = (
    "jobdeck.tui.form.", "jobdeck.tui.screens.dialogs", "jobdeck.tui.screens.job_detail", "jobdeck.tui.screens.page",
    "jobdeck.tui.text.job_detail", "jobdeck.tui.widgets.editor", "textual.widgets._text_area",
)  # fmt: skip
"""What the dashboard loads once its first screen shows jobs, by the beginning of the names."""
MODULE_LINES = 400
ROOM_FILES = {"core": 12}
FUNCTION_LINES = 60


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def holding(*words: str) -> list[Path]:
    """The tests with one of these words: to read a file is far quicker than to parse it."""
    return [path for path in sources("tests") if any(word in path.read_text(encoding="utf-8") for word in words)]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def in_rooms(path: Path, rooms: tuple[str, ...]) -> bool:
    return any(name(path) == room or (room.endswith("/") and name(path).startswith(room)) for room in rooms)


def docstrings(module: ast.Module) -> set[int]:
    """The identities of the constants that are documentation."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        id(statement.value)
        for node in ast.walk(module)
        if isinstance(node, owners)
        for statement in node.body
        if isinstance(statement, ast.Expr)
    }


def sql_texts(path: Path) -> list[tuple[int, str]]:
    """Line and text of every string that looks like SQL."""
    module = tree(path)
    prose = docstrings(module)
    return [
        (node.lineno, node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
        if SQL_SHAPE.search(node.value)
    ]


def executions(path: Path) -> list[ast.Call]:
    """Every call that hands a statement to a connection or a cursor."""
    return [
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in EXECUTING
    ]


def test_sql_stands_in_its_own_modules_only() -> None:
    strays = [
        f"{name(path)}:{line}: {text.split()[:6]}"
        for path in sources("core", "tui")
        if not in_rooms(path, SQL_ROOMS + CONNECTION_ROOMS)
        for line, text in sql_texts(path)
    ]
    assert strays == []


def test_nothing_else_executes_statements() -> None:
    strays = [
        f"{name(path)}:{call.lineno}"
        for path in sources("core", "tui")
        if not in_rooms(path, SQL_ROOMS + CONNECTION_ROOMS)
        for call in executions(path)
        if call.args and not (isinstance(call.func, ast.Attribute) and call.func.attr in {"copy", "stream"})
    ]
    assert strays == []


def test_statements_are_literal_text() -> None:
    """What is executed is a constant or the name of one: no f-string, no concatenation, no formatting.

    Only statements about a server's own objects, whose names cannot be bound, are composed with `psycopg.sql`.
    """
    strays = [
        f"{name(path)}:{call.lineno}"
        for path in sources("core", "tui")
        for call in executions(path)
        if call.args
        and isinstance(call.args[0], ast.JoinedStr | ast.BinOp | ast.Call)
        and not (in_rooms(path, CONNECTION_ROOMS) and ast.unparse(call.args[0]).startswith("sql.SQL("))
    ]
    strays += [
        f"{name(path)}:{node.lineno}"
        for path in sources("core", "tui")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.JoinedStr)
        and SQL_SHAPE.search("".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
    ]
    assert strays == []


def test_python_never_updates_job_queue() -> None:
    strays = [name(path) for path in sources("core", "tui") if JOB_UPDATE.search(path.read_text(encoding="utf-8"))]
    assert strays == []


def test_the_command_line_loads_nothing_heavy() -> None:
    modules = [
        "jobdeck.core.cli.app",
        *sorted({target.partition(":")[0] for target in commands().values()}),
    ]
    assert [module for module in loaded_by(*modules) if module.split(".")[0] in HEAVY] == []


def test_the_first_screen_of_the_dashboard_loads_nothing_that_it_does_not_need() -> None:
    loaded = loaded_by("jobdeck.tui.app")
    assert "textual.app" in loaded
    assert [module for module in loaded if module.split(".")[0] in (*HEAVY[2:], *SLOW)] == []
    assert [module for module in loaded if module.startswith(OF_OTHER_SCREENS)] == []


def loaded_by(*modules: str) -> list[str]:
    """The names of all modules that are loaded once these are imported."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys, {', '.join(modules)}; print('\\n'.join(sys.modules))"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


WORDS_OF_THE_COMPETITION = re.compile(
    r"competitor|coach|metactf|game.?platform|flash|sendgrid|twilio|\bsms|campaign|announcement|onboard|agreement|outbox"
    r"|vercel|(?<!\.)\bparents?\b(?!=True| folder)",
    re.IGNORECASE,
)
GENERAL_WORDS = {
    "core/redact.py": {"sms"},  # one name of a field with a phone number
    "core/worker/run_log.py": {"parent"},  # of a logger
}


def test_core_outside_the_competition_has_no_word_of_it() -> None:
    rooms = ("core/programme/", "core/handlers/")
    files = [path for path in (ROOT / "core").rglob("*") if path.suffix in {".py", ".sql", ".txt", ".toml", ".json"}]
    found = {name(path): words for path in files if not name(path).startswith(rooms) if (words := _foreign_words(path))}
    assert found == {}


def _foreign_words(path: Path) -> set[str]:
    found = {word.lower() for word in WORDS_OF_THE_COMPETITION.findall(path.read_text(encoding="utf-8"))}
    return found - GENERAL_WORDS.get(name(path), set())


def test_the_measurements_import_only_what_exists() -> None:
    """bench/ is not typed, and a stage of CI that cannot be imported judges nothing."""
    missing = [
        f"{name(path)}: {node.module}.{alias.name}"
        for path in sources("bench", "scripts")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"jobdeck", "tests"}
        for alias in node.names
        if not _exists(f"{node.module}", alias.name)
    ]
    assert not missing


def _exists(module: str, attribute: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(find_spec(f"{module}.{attribute}"))
    except ModuleNotFoundError:
        return False


def test_no_module_outgrows_its_job() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources("core", "tui")}
    assert {module: count for module, count in lines.items() if count > MODULE_LINES} == {}


def test_no_room_has_more_files_than_fit_on_one_page() -> None:
    files = Counter(path.parent.relative_to(ROOT).as_posix() for path in sources("core", "tui"))
    assert {room: count for room, count in files.items() if count > ROOM_FILES.get(room, 13)} == {}


def test_no_function_outgrows_its_job() -> None:
    long = [
        f"{name(path)}: {node.name}: {(node.end_lineno or node.lineno) - node.lineno + 1} lines"
        for path in sources("core", "tui")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_LINES
    ]
    assert long == []


def test_a_task_type_is_one_file_of_its_name() -> None:
    for path in sources("core/handlers"):
        if path.stem == "__init__":
            continue
        registered = [
            decorator.args[0].value
            for node in ast.walk(tree(path))
            if isinstance(node, ast.FunctionDef)
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call)
            and isinstance(decorator.func, ast.Name)
            and decorator.func.id == "job"
            and isinstance(decorator.args[0], ast.Constant)
        ]
        assert registered == [path.stem]


def test_no_test_sleeps() -> None:
    strays = [
        f"{name(path)}:{node.lineno}"
        for path in holding("sleep")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "time"
    ]
    assert strays == []


CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"}
CLOCK_READERS = {
    "tests/conftest.py",  # the age of the times in a template
    "tests/support/waiting.py",  # the one limit of all waits
    "tests/terminal/program.py",  # a program under test, whose clock goes on
}


def reads_a_clock(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS


def test_no_test_judges_by_the_clock() -> None:
    """A comparison with a clock fails on a busy machine. Waiting is for `tests.support.waiting`, timing for bench/."""
    strays = [
        f"{name(path)}:{node.lineno}"
        for path in holding(*CLOCKS)
        if name(path) not in CLOCK_READERS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert | ast.While | ast.If) and any(map(reads_a_clock, ast.walk(node.test)))
    ]
    assert strays == []
