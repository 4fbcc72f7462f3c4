"""The log of a process: its lines, where they go, and what never gets into them."""

from __future__ import annotations

import json
import logging
import stat
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from jobdeck.core import logs
from jobdeck.core.errors import ConfigurationError
from jobdeck.core.registry import Registry
from jobdeck.core.worker.context import RunResources
from jobdeck.core.worker.executor import Executor
from tests.support.interrupting import TookTooLong, interrupt
from tests.support.waiting import PATIENCE, until
from tests.support.working import claimed, job_type, quick_settings

log = logging.getLogger("jobdeck.core.test")
HOSTILE = "\x1b[31mred\x1b]0;owned\x07\nERROR forged \u202e\ud800 jane@example.org"


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Leaves the logging module as the test found it."""
    root = logging.getLogger()
    level, raising = root.level, logging.raiseExceptions
    yield
    logs.shutdown()
    root.setLevel(level)
    logging.raiseExceptions = raising
    logging.captureWarnings(capture=False)


def written(path: Path, form: Literal["text", "json"], write: Callable[[], object]) -> str:
    logs.configure(console=False, file=path, form=form)
    write()
    logs.shutdown()
    return path.read_text(encoding="utf-8")


def failing() -> None:
    try:
        int(HOSTILE + "no number")
    except ValueError:
        log.exception("caught")


def test_a_text_line_holds_time_level_logger_message_and_fields(tmp_path: Path) -> None:
    line = written(
        tmp_path / "log", "text", lambda: logs.event(log, logging.INFO, "runs finished", runs=5, why="a b", none=None)
    )
    stamp, rest = line.rstrip("\n").split(" ", 1)
    assert stamp.endswith("Z")
    assert rest == 'INFO jobdeck.core.test runs finished runs=5 why="a b"'


def test_a_json_line_is_one_object(tmp_path: Path) -> None:
    line = written(tmp_path / "log", "json", lambda: logs.event(log, logging.INFO, "runs finished", runs=5))
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {"level": "info", "logger": "jobdeck.core.test", "message": "runs finished", "runs": 5}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "write",
    [lambda: log.warning("%s", HOSTILE), lambda: logs.event(log, logging.WARNING, "failed", error=HOSTILE), failing],
    ids=["message", "field", "exception"],
)
def test_hostile_text_is_one_harmless_line_without_private_data(
    tmp_path: Path, form: Literal["text", "json"], write: Callable[[], object]
) -> None:
    text = written(tmp_path / "log", form, write)
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    assert "owned" in text
    assert "jane" not in text


class Key:
    def __str__(self) -> str:
        return "hunter2"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("value", ["hunter2", "hunter2 and more", ["hunter2"], {"a": "hunter2"}, Key()])
def test_a_field_is_masked_by_its_name(tmp_path: Path, form: Literal["text", "json"], value: Any) -> None:
    def handler(_params: Any, ctx: Any) -> None:
        logs.event(ctx.log, logging.INFO, "signed in", password=value, full_name=value, page=3)

    runner = Executor(Registry([job_type("test", handler)]), RunResources(quick_settings(), None))
    reports = []
    text = written(tmp_path / "log", form, lambda: reports.append(runner.run(claimed())))
    for shown in (text, reports[0].log or ""):
        assert "hunter2" not in shown
        assert "more" not in shown
        assert shown.count("<private>") >= 2
        assert "3" in shown


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_text_is_masked_before_it_is_cut(tmp_path: Path, form: Literal["text", "json"]) -> None:
    def write(before: int, after: int) -> None:
        log.warning("%s jane.doe@example.org", "x" * (logs.LONGEST_MESSAGE - before))
        log.error("caught", exc_info=ValueError(f"jane.doe@example.org {'x' * (logs.LONGEST_MESSAGE - after)}"))

    for at in range(1, 24, 4):
        text = written(tmp_path / f"log{at}", form, lambda at=at: write(at, at))  # type: ignore[misc]
        assert "jane" not in text
        assert "xx doe@" not in text
        assert "ample.org" not in text


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_part_of_a_line_can_hold_a_control_character(tmp_path: Path, form: Literal["text", "json"]) -> None:
    def write() -> None:
        hostile = logging.getLogger(f"jobdeck.{HOSTILE}")
        hostile.warning("x", extra={"fields": {HOSTILE: {HOSTILE: [HOSTILE]}}})

    text = written(tmp_path / "log", form, write)
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_written_during_a_run_carries_its_token(tmp_path: Path, form: Literal["text", "json"]) -> None:
    def handler(_params: Any, ctx: Any) -> None:
        ctx.log.info("from the run's logger")
        logging.getLogger("some.library").warning("from a library")

    runner = Executor(Registry([job_type("test", handler)]), RunResources(quick_settings(), None))
    job = claimed(run_token=4711)
    lines = written(tmp_path / "log", form, lambda: runner.run(job)).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "4711" in line
        assert str(job.id) in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_each_line_has_the_facts_of_its_own_run_and_its_own_fields_win(
    tmp_path: Path, form: Literal["text", "json"]
) -> None:
    def handler(params: Any, ctx: Any) -> None:
        ctx.log.info("before")
        logs.event(ctx.log, logging.INFO, "about another", job="another job", page=params.number)
        ctx.log.info("after")

    runner = Executor(Registry([job_type("test", handler)]), RunResources(quick_settings(), None))
    jobs = [claimed(run_token=token, payload={"number": token}) for token in (4711, 4712)]

    def write() -> None:
        for job in jobs:
            runner.run(job)

    lines = written(tmp_path / "log", form, write).splitlines()
    for job, (before, about, after) in zip(jobs, (lines[:3], lines[3:]), strict=True):
        for line in (before, after):
            assert str(job.run_token) in line
            assert str(job.id) in line
            assert "page" not in line
        assert "another job" in about
        assert about.count(str(job.run_token)) == 2
        assert str(job.id) not in about


def test_a_line_that_cannot_be_formatted_is_written_as_far_as_possible(tmp_path: Path) -> None:
    def write() -> None:
        log.info("%d", "many")

    assert "cannot be formatted" in written(tmp_path / "log", "text", write)


def test_a_log_file_is_its_owners_only_and_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1000)
    path = tmp_path / "folder" / "log"

    def write() -> None:
        for number in range(200):
            log.info("line %s", number)

    written(path, "text", write)
    kept = sorted(found.name for found in path.parent.iterdir())
    assert kept == ["log", *(f"log.{number}" for number in range(1, logs.FILES_KEPT + 1))]
    assert {stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()} == {0o600}


def test_a_log_file_that_everybody_could_read_becomes_its_owners_only(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch(0o644)
    path.chmod(0o644)
    written(path, "text", lambda: log.info("a line"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_followed_only_where_nobody_else_can_put_one(tmp_path: Path) -> None:
    folder, target = tmp_path / "folder", tmp_path / "target"
    folder.mkdir()
    target.write_text("")
    (folder / "log").symlink_to(target)
    assert "a line" in written(folder / "log", "text", lambda: log.info("a line"))
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="JOBDECK_LOG_FILE names"):
        logs.configure(console=False, file=folder / "log")
    assert target.read_text().count("\n") == 1


def test_without_a_console_nothing_reaches_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(console=False)
    log.error("an error")
    log.error("%d", "which cannot be formatted")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("a warning", stacklevel=1)
    assert capfd.readouterr() == ("", "")


def test_with_a_console_lines_go_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(console=True)
    log.info("started")
    out, err = capfd.readouterr()
    assert out == ""
    assert "INFO jobdeck.core.test started" in err


def test_configuring_again_replaces_what_was_there(tmp_path: Path) -> None:
    logs.configure(console=False, file=tmp_path / "first")
    logs.configure(console=False, file=tmp_path / "second")
    log.info("once")
    logs.shutdown()
    assert (tmp_path / "first").read_text() == ""
    assert (tmp_path / "second").read_text().count("once") == 1


def test_a_log_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="JOBDECK_LOG_FILE names"):
        logs.configure(console=False, file=tmp_path / "file" / "log")


def test_chatty_libraries_are_kept_to_warnings(tmp_path: Path) -> None:
    def write() -> None:
        logging.getLogger("httpx").info("HTTP Request: GET https://api.example.org/?email=jane%40example.org")
        logging.getLogger("httpx").warning("slow")

    assert "GET" not in written(tmp_path / "log", "text", write)


LEVELS: tuple[logs.Level, ...] = ("debug", "info", "warning", "error")


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("level", LEVELS)
def test_lines_below_the_level_are_not_written(
    tmp_path: Path, level: logs.Level, form: Literal["text", "json"]
) -> None:
    logs.configure(console=False, file=tmp_path / "log", form=form, level=level)
    for name in LEVELS:
        logs.event(log, logging.getLevelNamesMapping()[name.upper()], f"this is {name}")
    logs.shutdown()
    found = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    wanted = LEVELS[LEVELS.index(level) :]
    assert len(found) == len(wanted)
    assert all(f"this is {name}" in line for name, line in zip(wanted, found, strict=True))


@pytest.mark.parametrize("level", LEVELS)
def test_the_log_of_a_run_is_the_same_at_any_level(tmp_path: Path, level: logs.Level) -> None:
    def handler(_params: Any, ctx: Any) -> None:
        ctx.log.debug("of the handler, debug")
        ctx.log.info("of the handler, info")
        logging.getLogger("a.library").debug("of a library, debug")
        logging.getLogger("a.library").info("of a library, info")

    runner = Executor(Registry([job_type("test", handler)]), RunResources(quick_settings(), None))
    logs.configure(console=False, file=tmp_path / "log", level=level)
    report = runner.run(claimed())
    logs.shutdown()
    kept = [line.split(maxsplit=2)[2] for line in (report.log or "").splitlines()]
    assert kept == ["of the handler, info", "of a library, info"]
    written_too = (tmp_path / "log").read_text(encoding="utf-8").count("of the handler, debug")
    assert written_too == (level == "debug")


def test_at_debug_lines_are_masked_and_libraries_that_log_addresses_are_quiet(tmp_path: Path) -> None:
    logs.configure(console=False, file=tmp_path / "log", level="debug")
    log.debug("%s", HOSTILE)
    for name in ("httpx", "psycopg", "psycopg.pool", "urllib3.connectionpool", "httpcore.http11"):
        logging.getLogger(name).debug("GET https://api.example.org/people/7")
    logs.shutdown()
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert text.count("\n") == 1
    assert "owned" in text
    assert "jane" not in text


def test_times_are_utc(tmp_path: Path) -> None:
    before = time.strftime("%Y-%m-%dT", time.gmtime())
    line = written(tmp_path / "log", "text", lambda: logs.event(log, logging.INFO, "now"))
    assert line.startswith((before, time.strftime("%Y-%m-%dT", time.gmtime())))


@pytest.mark.parametrize("console", [True, False])
def test_an_exception_that_is_raised_in_a_thread_while_it_waits_to_log_leaves_the_log_to_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], console: bool
) -> None:
    path = tmp_path / "log"
    logs.configure(console=console, file=None if console else path)
    handler = logging.getLogger().handlers[-1]
    assert handler.lock is not None
    interrupted: list[type[BaseException]] = []

    def write() -> None:
        try:
            log.warning("interrupted")
        except TookTooLong as error:
            interrupted.append(type(error))

    thread = threading.Thread(target=write, daemon=True)
    with handler.lock:
        thread.start()
        until(lambda: waits_for(handler, thread), "the thread that waits to log")
        interrupt(thread.ident)
    thread.join(PATIENCE)
    assert interrupted == [TookTooLong]
    free = handler.lock.acquire(timeout=PATIENCE)
    # For what the handler does at the end, where it is not free.
    handler.createLock()
    assert free
    log.warning("still written")
    assert "still written" in (capsys.readouterr().err if console else path.read_text(encoding="utf-8"))


def test_an_event_is_logged_while_an_interrupted_thread_holds_the_lock_of_the_logging_module(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    # Nobody has asked for its level, so the logging module has not kept the answer.
    fresh = logging.getLogger("jobdeck.core.test.fresh")
    thread = threading.Thread(target=logs.event, args=(fresh, logging.WARNING, "still written"), daemon=True)
    with logging._lock:  # type: ignore[attr-defined]
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert caplog.messages == ["still written"]


def test_an_event_names_the_line_that_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    logs.event(log, logging.ERROR, "here", runs=1)
    (record,) = caplog.records
    named = (record.funcName, record.filename, record.levelname)
    assert named == ("test_an_event_names_the_line_that_logged_it", "test_logs.py", "ERROR")


def waits_for(handler: logging.Handler, thread: threading.Thread) -> bool:
    """Whether a thread executes the method of a handler that takes its lock."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_locals.get("self") is handler and frame.f_code.co_name in {"acquire", "handle"}
