"""Which `@job` functions count: those of the plugins, and all that a named module registers while it is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from jobdeck.core import registry
from jobdeck.core.errors import ConfigurationError
from jobdeck.core.plugins import Plugin, use_plugins
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import JobContext, NoArguments, Payload

Write = Callable[[dict[str, str]], None]

JOB = """
from jobdeck.core.queue.producers.tasks import job

@job("{0}")
def run(params, ctx):
    pass
"""


@pytest.fixture(autouse=True)
def no_plugins() -> Iterator[None]:
    with use_plugins():
        yield


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules by their paths; they are forgotten at the end."""
    before = set(sys.modules)

    def make(texts: dict[str, str]) -> None:
        for name, text in texts.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    for name in set(sys.modules) - before:
        if name.startswith("reg_"):
            del sys.modules[name]


def nothing(params: Payload, ctx: JobContext) -> None:
    pass


def names(*modules: str) -> list[str]:
    return registry.load(modules).names


def refusal(module: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        registry.load([module])
    return str(caught.value)


def test_without_plugins_there_is_no_task_type() -> None:
    assert names() == []


def test_a_module_counts_each_time_it_is_named(write: Write) -> None:
    write({"reg_plain": JOB.format("plain")})

    assert names("reg_plain") == names("reg_plain") == ["plain"]
    assert names() == []


def test_what_a_named_module_imports_counts(write: Write) -> None:
    write({"reg_top": "import reg_below.deep\n", "reg_below/deep": JOB.format("deep"), "reg_below/__init__": ""})

    assert names("reg_top") == ["deep"]


def test_a_package_counts_with_the_modules_it_imports(write: Write) -> None:
    write({"reg_pack/__init__": "from reg_pack import one\n", "reg_pack/one": JOB.format("one")})

    assert names("reg_pack") == ["one"]


def test_a_type_counts_whose_module_something_else_imported_before(write: Write) -> None:
    write({"reg_lib": JOB.format("lib"), "reg_late": "from reg_lib import run\n"})
    __import__("reg_lib")

    assert names("reg_late") == ["lib"]


def test_a_wrapped_function_counts_for_the_module_that_wraps_it(write: Write) -> None:
    write(
        {
            "reg_tools": """
            import functools
            from jobdeck.core.queue.producers.tasks import job

            def logged(function):
                @functools.wraps(function)
                def wrapper(params, ctx):
                    return function(params, ctx)
                return wrapper

            def own_job(name):
                return lambda function: job(name)(logged(function))

            def elsewhere(params, ctx):
                pass
        """,
            "reg_wrapped": """
            from reg_tools import elsewhere, own_job

            own_job("wrapped")(elsewhere)
        """,
        }
    )

    assert names("reg_wrapped") == ["wrapped"]


def test_a_module_that_registers_nothing_is_an_error_that_names_it(write: Write) -> None:
    write({"reg_empty": "x = 1\n"})

    assert "reg_empty registers no task type" in refusal("reg_empty")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is not in Python's path."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def test_a_module_in_the_current_folder_is_found_and_the_folder_is_not_left_in_the_path(folder: Path) -> None:
    (folder / "reg_beside.py").write_text("", encoding="utf-8")
    (folder / "reg_here.py").write_text("import reg_beside\n" + JOB.format("of_the_folder"), encoding="utf-8")
    before = [*sys.path]

    assert "of_the_folder" in registry.load(["reg_here"]).names
    assert sys.path == before


def test_a_module_of_the_folder_never_comes_before_a_package(folder: Path, write: Write) -> None:
    (folder / "reg_package.py").write_text("1 / 0", encoding="utf-8")
    (folder / "reg_needs.py").write_text("import reg_package\n" + JOB.format("of_the_folder"), encoding="utf-8")
    write({"reg_package": ""})

    assert "of_the_folder" in registry.load(["reg_needs"]).names


def test_a_module_that_is_in_the_folder_and_in_the_path_is_refused_with_both(
    folder: Path, write: Write, tmp_path: Path
) -> None:
    (folder / "reg_both.py").write_text(JOB.format("shadow"), encoding="utf-8")
    write({"reg_both": JOB.format("meant")})

    said = refusal("reg_both")
    assert str(folder / "reg_both.py") in said
    assert str(tmp_path / "reg_both.py") in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0", "(ZeroDivisionError: division by zero) at "),
        ("raise SystemExit(3)", "(SystemExit: 3) at "),
        ("import reg_not_there", "(No module named 'reg_not_there') at "),
        ("def f(:", "(SyntaxError: invalid syntax (reg_raises.py, line 2)). Correct the module"),
    ],
)
def test_a_module_that_raises_anything_is_an_error_that_names_the_line(write: Write, text: str, reason: str) -> None:
    write({"reg_raises": f"\n{text}"})

    said = refusal("reg_raises")
    assert f"The handler module reg_raises cannot be imported {reason}" in said
    assert "reg_raises.py, line 2" in said
    assert "JOBDECK_HANDLERS" not in said


@pytest.mark.parametrize("name", ["reg_nowhere", "reg_nowhere.jobs", "reg_there.py"])
def test_a_module_that_is_not_there_is_looked_for_where_it_was_named(write: Write, name: str) -> None:
    write({"reg_there": JOB.format("there")})

    said = refusal(name)
    assert "Check JOBDECK_HANDLERS or --handlers, PYTHONPATH and the current folder." in said
    assert ("The name of a module has no .py: reg_there." in said) == name.endswith(".py")


def test_what_a_failed_import_registered_does_not_count_twice(write: Write) -> None:
    write({"reg_again": JOB.format("again") + "\n1 / 0\n"})
    refusal("reg_again")
    write({"reg_again": JOB.format("again")})

    assert names("reg_again") == ["again"]


def test_two_handlers_of_one_type_are_refused_with_the_file_and_the_line_of_each(write: Write, tmp_path: Path) -> None:
    write({"reg_first": JOB.format("same"), "reg_both": JOB.format("same") + JOB.format("same")})

    for given, places in (
        (["reg_first", "reg_both"], (("reg_first", 4), ("reg_both", 4))),
        (["reg_both"], (("reg_both", 4), ("reg_both", 10))),
    ):
        first, second = (f"{tmp_path / name}.py:{line}" for name, line in places)
        with pytest.raises(ConfigurationError) as refused:
            registry.load(given)
        assert f"Two handlers are registered for same: {first} and {second}. " in str(refused.value)


def test_a_plugin_brings_all_modules_of_its_package_and_marks_their_types(write: Write) -> None:
    write(
        {
            "reg_plug/__init__": "",
            "reg_plug/one": JOB.format("one"),
            "reg_plug/two": JOB.format("two"),
            "reg_own": JOB.format("own"),
        }
    )

    with use_plugins(Plugin(name="shop", version=1, handlers=("reg_plug",))):
        found = registry.load(["reg_own"])

    assert {one.task_type: one.plugin for one in found} == {"one": "shop", "two": "shop", "own": ""}


def test_runs_exclude_each_other_by_type_or_by_a_payload_key() -> None:
    class Arguments(Payload):
        customer_id: str | None = None

    def key(concurrency: str | None, **values: str) -> str | None:
        job("reg_keys", payload=Arguments, concurrency=concurrency)(nothing)
        return registry.registered("reg_keys").concurrency_key(Arguments(**values))

    assert key(None) is None
    assert key("type", customer_id="7") == "reg_keys"
    assert key("payload:customerId", customer_id="7") == "reg_keys:7"
    assert key("payload:customerId") == "reg_keys"
    assert key("key:billing", customer_id="7") == "billing"


@pytest.mark.parametrize("concurrency", ["payload:nobody", "payload:", "key:", "customer", ""])
def test_a_concurrency_that_means_nothing_is_refused(concurrency: str) -> None:
    with pytest.raises(ConfigurationError, match="reg_odd has the concurrency"):
        job("reg_odd", payload=NoArguments, concurrency=concurrency)(nothing)


def test_a_key_of_the_payload_that_is_misspelt_gets_the_list_of_keys() -> None:
    class Arguments(Payload):
        customer_id: int

    with pytest.raises(ConfigurationError, match=r"as in JSON \(customerId\)"):
        job("reg_odd", payload=Arguments, concurrency="payload:customer_id")(nothing)


@pytest.mark.parametrize(
    ("options", "run", "sentence"),
    [
        ({"payload": dict}, nothing, "The payload of reg_odd is no model"),
        ({"payload": NoArguments()}, nothing, "The payload of reg_odd is no model"),
        ({}, len, "The handler of reg_odd cannot be called with a payload and a context"),
        ({}, setattr, "The handler of reg_odd cannot be called with a payload and a context"),
        ({"timeout": 0}, nothing, "reg_odd has timeout=0. It must be a number of seconds above 0."),
        ({"max_attempts": 0}, nothing, "has max_attempts=0. It must be a whole number from 1 to 1,000,000,000."),
        ({"max_attempts": 2.5}, nothing, "has max_attempts=2.5. It must be a whole number from 1 to 1,000,000,000."),
        ({"max_attempts": 2**31}, nothing, "has max_attempts=2147483648. It must be a whole number from 1 to"),
        ({"retry_base": "1m"}, nothing, "has retry_base='1m'. It must be a number of seconds, 0 or more."),
        ({"retry_base": -1}, nothing, "has retry_base=-1. It must be a number of seconds, 0 or more."),
        ({"retry_cap": float("inf")}, nothing, "has retry_cap=inf. It must be a number of seconds, 0 or more."),
        ({"timeout": "5"}, nothing, "reg_odd has timeout='5'. It must be a number of seconds above 0."),
    ],
)
def test_a_handler_that_could_never_run_is_refused(options: dict[str, Any], run: Any, sentence: str) -> None:
    before = len(registry.registrations)
    with pytest.raises(ConfigurationError, match=sentence):
        job("reg_odd", **options)(run)
    assert len(registry.registrations) == before


def test_a_decorator_without_a_name_is_refused() -> None:
    without_a_name: Any = nothing
    with pytest.raises(ConfigurationError, match=r'Write @job\("send_invoice"\)'):
        job(without_a_name)
