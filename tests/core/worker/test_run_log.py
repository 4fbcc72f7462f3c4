"""The log of a run: which lines it keeps, with and without other handlers, and what is masked in them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdeck.core.logs import message_of
from jobdeck.core.model import FinishedRun
from jobdeck.core.redact import safe_text, safe_texts
from jobdeck.core.registry import Registry
from jobdeck.core.worker import context, run_log
from jobdeck.core.worker.context import RunContext, RunResources
from jobdeck.core.worker.executor import Executor
from jobdeck.core.worker.run_log import LogBuffer
from tests.support.waiting import PATIENCE, together
from tests.support.working import claimed, job_type, nothing, quick_settings


class Collecting(logging.Handler):
    """Another listener, as the process's own log is one."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def heard_by(*others: logging.Handler) -> Iterator[None]:
    """Has only the log of runs and these listen; pytest hears everything, so that no line would be the run's alone."""
    root = logging.getLogger()
    kept, root.handlers = root.handlers, [*others, run_log._handler]
    try:
        yield
    finally:
        root.handlers = kept


def run(handler: Callable[..., Any], *others: logging.Handler) -> FinishedRun:
    executor = Executor(Registry([job_type("test", handler)]), RunResources(quick_settings(), None))
    with heard_by(*others):
        return executor.run(claimed())


def test_the_first_run_of_a_type_logs_while_an_interrupted_thread_holds_the_lock_of_the_logging_module() -> None:
    registry = Registry([job_type("first_run", lambda _params, ctx: ctx.log.warning("said"))])
    executor = Executor(registry, RunResources(quick_settings(), None))
    finished: list[FinishedRun] = []

    def run_it() -> None:
        finished.append(executor.run(claimed("first_run")))

    thread = threading.Thread(target=run_it, daemon=True)
    with logging._lock:  # type: ignore[attr-defined]
        thread.start()
        thread.join(PATIENCE)
    assert [run.log is not None and "said" in run.log for run in finished] == [True]


OTHERS = [(), (logging.NullHandler(),), (Collecting(),), (Collecting(logging.WARNING),)]
LISTENERS = pytest.mark.parametrize("others", OTHERS, ids=["alone", "beside nobody", "heard", "half heard"])


def messages(buffer: LogBuffer) -> list[str]:
    return [line.split(maxsplit=2)[2] for line in buffer.text().splitlines()]


def test_a_run_that_logs_nothing_has_no_log() -> None:
    assert run(nothing).log is None


@LISTENERS
def test_what_a_handler_logs_is_kept_harmless_and_redacted(others: Sequence[logging.Handler]) -> None:
    def handler(params: Any, ctx: Any) -> None:
        ctx.log.info("sent to %s", "jane@example.org")
        ctx.log.warning("odd \x1b[31mcolour")
        ctx.log.debug("too fine")
        try:
            int("many")
        except ValueError:
            ctx.log.exception("caught")

    log = run(handler, *others).log or ""
    assert "INFO    sent to <email>" in log
    assert "WARNING odd \\x1b[31mcolour" in log
    assert "too fine" not in log
    assert "ValueError: invalid literal" in log
    assert log.startswith("12:00:0")


def test_a_line_that_cannot_be_formatted_is_kept_as_far_as_possible() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%d is no number", ("this",), None)
    assert message_of(record) == "%d is no number (arguments cannot be formatted: TypeError)"


@LISTENERS
def test_what_is_switched_off_for_the_whole_process_is_not_kept(others: Sequence[logging.Handler]) -> None:
    def handler(_: Any, ctx: RunContext) -> None:
        ctx.log.info("switched off")
        ctx.log.warning("still on")

    logging.disable(logging.INFO)
    try:
        log = run(handler, *others).log or ""
    finally:
        logging.disable(logging.NOTSET)
    assert "switched off" not in log
    assert "still on" in log


@LISTENERS
def test_other_loggers_and_threads_of_a_run_are_kept_too(others: Sequence[logging.Handler]) -> None:
    def handler(params: Any, ctx: Any) -> None:
        logging.getLogger("some.library").warning("from a library")
        together(lambda: ctx.log.info("from a helper thread"))

    log = run(handler, *others).log or ""
    assert "from a library" in log
    assert "from a helper thread" in log


@LISTENERS
def test_what_is_logged_outside_a_run_is_in_no_runs_log(others: Sequence[logging.Handler]) -> None:
    finished = run(lambda _, ctx: ctx.log.info("inside"), *others)
    logging.getLogger("some.library").warning("outside")
    assert (finished.log or "").count("\n") == 0


@LISTENERS
def test_a_log_keeps_its_last_lines_only(others: Sequence[logging.Handler]) -> None:
    def handler(params: Any, ctx: Any) -> None:
        for number in range(1000):
            ctx.log.info("line %s %s", number, "x" * 3000 if number % 100 == 0 else "")

    log = run(handler, *others).log or ""
    lines = log.splitlines()
    assert lines[0] == "(800 earlier lines left out)"
    assert lines[-1].rstrip().endswith("line 999")
    assert len(log) < 70_000


# Which lines are kept


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("this object has no text")


@LISTENERS
@pytest.mark.parametrize(
    ("log", "kept"),
    [
        (lambda log: log.info("plain"), "INFO    plain"),
        (lambda log: log.info("100% of it"), "INFO    100% of it"),
        (lambda log: log.info("%s and %d", "one", 2), "INFO    one and 2"),
        (lambda log: log.info("%(name)s", {"name": "an entry"}), "INFO    an entry"),
        (lambda log: log.info("%s", {}), "INFO    {}"),
        (lambda log: log.info(None), "INFO    None"),
        (lambda log: log.info("%d", "many"), "INFO    %d (arguments cannot be formatted: TypeError)"),
        (lambda log: log.info("%s", Unprintable()), "INFO    %s (arguments cannot be formatted: ValueError)"),
        (lambda log: log.log(25, "between"), "Level 25 between"),
        (lambda log: log.error("gone", exc_info=KeyError("k")), "ERROR   gone\nKeyError: 'k'"),
        (lambda log: log.info("signed in", extra={"fields": {"page": 3}}), "INFO    signed in page=3"),
        (lambda log: logging.LoggerAdapter(log, {}).info("adapted"), "INFO    adapted"),
    ],
)
def test_a_line_is_kept_alike_whether_others_listen_or_not(
    others: Sequence[logging.Handler], log: Callable[[Any], object], kept: str
) -> None:
    text = run(lambda _, ctx: log(ctx.log) and None, *others).log or ""
    assert text.partition(" ")[2] == kept


def test_a_listener_that_is_added_during_a_run_gets_the_lines_from_then_on() -> None:
    added = Collecting(logging.WARNING)

    def handler(_: Any, ctx: RunContext) -> None:
        ctx.log.warning("before")
        logging.root.addHandler(added)
        ctx.log.info("too low for it")
        ctx.log.warning("after")

    log = run(handler).log or ""
    assert [record.getMessage() for record in added.records] == ["after"]
    assert [line.rpartition("  ")[2] for line in log.splitlines()][1] == "too low for it"
    assert log.count("\n") == 2


def test_a_filter_of_the_runs_logger_is_asked_of_each_line() -> None:
    def handler(_: Any, ctx: RunContext) -> None:
        ctx.log.addFilter(lambda record: "secret" not in record.getMessage())
        ctx.log.info("a secret")
        ctx.log.info("no problem")

    log = run(handler).log or ""
    assert "a secret" not in log
    assert "no problem" in log


def test_a_library_that_watches_all_records_sees_the_lines_that_nobody_else_gets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    original = logging.Logger.callHandlers

    def watching(self: logging.Logger, record: logging.LogRecord) -> None:
        seen.append(record.getMessage())
        original(self, record)

    monkeypatch.setattr(logging.Logger, "callHandlers", watching)
    log = run(lambda _, ctx: ctx.log.info("watched")).log or ""
    assert seen == ["watched"]
    assert log.endswith("watched")


def test_records_of_an_applications_own_factory_are_made_for_each_line() -> None:
    class Masking(logging.LogRecord):
        def getMessage(self) -> str:  # noqa: N802 -- the name it has in the standard library
            return super().getMessage().replace("jane", "(a customer)")

    logging.setLogRecordFactory(Masking)
    try:
        log = run(lambda _, ctx: ctx.log.info("sent to jane")).log or ""
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    assert log.endswith("sent to (a customer)")


def test_a_record_names_the_line_of_the_handler() -> None:
    listening = Collecting()

    def helper(log: logging.Logger) -> None:
        log.info("of the caller", stacklevel=2)

    def handler(_: Any, ctx: RunContext) -> None:
        ctx.log.info("own")
        helper(ctx.log)

    run(handler, listening)
    assert [(record.filename, record.funcName) for record in listening.records] == [("test_run_log.py", "handler")] * 2


# The buffer


def test_what_is_logged_while_lines_are_masked_is_kept_and_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masking may free an object, which may log a line of its own."""
    buffer = LogBuffer()

    def freeing(texts: list[str], limit: int) -> list[str]:
        monkeypatch.setattr(run_log, "safe_texts", safe_texts)
        buffer.add(0.0, "INFO", "x" * (run_log.LONGEST_LINE + 1))
        buffer.add(0.0, "INFO", "freed")
        return safe_texts(texts, limit)

    buffer.add(0.0, "INFO", "first")
    monkeypatch.setattr(run_log, "safe_texts", freeing)
    buffer.text()
    assert sorted(map(len, messages(buffer))) == [5, 5, run_log.LONGEST_LINE]
    assert buffer.count == 3


def test_a_line_that_comes_while_the_lines_before_it_are_taken_is_kept() -> None:
    class Busy(list[Any]):
        """Gets one more line from another thread as soon as it was copied."""

        def __getitem__(self, part: Any) -> Any:
            copied = super().__getitem__(part)
            if len(self) < 3:
                self.append((0.0, "INFO", "late"))
            return copied

    buffer = LogBuffer()
    buffer._new = Busy()
    for text in ("first", "second"):
        buffer.add(0.0, "INFO", text)
    assert buffer.tail()[-1].endswith("second")
    assert messages(buffer) == ["first", "second", "late"]


def test_lines_of_several_threads_are_all_counted_and_in_the_order_of_each_thread() -> None:
    buffer = LogBuffer()
    threads, each = 4, run_log.LINES // 4
    begin = threading.Barrier(threads)

    def write(number: int) -> None:
        begin.wait()
        for line in range(each):
            buffer.add(time.time(), "INFO", f"{number} {line}")
            buffer.tail()

    together(*(partial(write, number) for number in range(threads)))
    kept = [tuple(map(int, message.split())) for message in messages(buffer)]
    assert buffer.count == len(kept) == threads * each
    for number in range(threads):
        assert [line for of, line in kept if of == number] == list(range(each))


def test_a_line_that_comes_while_the_log_of_its_run_is_made_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(LogBuffer):
        """Another thread logs the first line as well, before this one is in place."""

        def __init__(self) -> None:
            super().__init__()
            monkeypatch.setattr(context, "LogBuffer", LogBuffer)
            together(lambda: one.keep_line("INFO", "other"))

    monkeypatch.setattr(context, "LogBuffer", Slow)
    one = RunContext(claimed(), RunResources(quick_settings(), None), 0.0, float("inf"))
    one.keep_line("INFO", "own")
    assert [line.split()[-1] for line in one.log_tail()] == ["other", "own"]


MESSAGES = ("quiet", "to jane@example.org", "password=", "hunter2hunter2", "a\x1b\nb", "+47 900", "12 345")


@given(st.lists(st.sampled_from(MESSAGES), max_size=120), st.integers(1, 60))
def test_a_log_is_the_same_however_often_it_is_looked_at(texts: list[str], every: int) -> None:
    watched, unwatched = LogBuffer(), LogBuffer()
    for number, text in enumerate(texts):
        for buffer in (watched, unwatched):
            buffer.add(number / 7, "INFO", text)
        if number % every == 0:
            watched.tail()
    assert watched.text() == unwatched.text()
    assert watched.tail() == unwatched.tail()
    assert [line.split(" ", 2)[2] for line in "\n".join(watched.tail()).split("\n") if " INFO " in line] == [
        f"   {safe_text(text)}".split("\n")[0] for text in texts[-run_log.TAIL :]
    ]
