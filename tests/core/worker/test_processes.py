"""Jobs with `isolation="process"` on a real queue: what they tell, and how their processes end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.model import NewJob
from jobdeck.core.queue import leases, operator, producer
from jobdeck.core.queue.producers.tasks import job
from jobdeck.core.registry import JobType
from jobdeck.core.worker.context import RunContext
from jobdeck.core.worker.slots.child_process import ChildProcess
from jobdeck.core.worker.slots.processes import ProcessSlots
from jobdeck.core.worker.worker import Worker
from tests.core.worker.process_handlers import MODULE, NAMELESS_SIGNAL
from tests.core.worker.test_canaries import ask, ended
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE, until
from tests.support.worker_process import ROOT, bury, worker_process
from tests.support.working import a_worker, drain, job_type, nothing, quick_settings, working

SETTINGS = quick_settings(lease_seconds=120.0)
ONE = quick_settings(lease_seconds=120.0, process_concurrency=1)


def noted(note: Path, word: str) -> list[int]:
    """The process ids beside a word."""
    lines = [line.split() for line in note.read_text(encoding="utf-8").splitlines()]
    return [int(number) for found, number in lines if found == word]


def hear(worker: Worker, *, starting: bool = False) -> None:
    """Waits until the worker has heard that its runs have begun; with `starting` until their processes are to begin."""
    until(lambda: {run.starting for run in running(worker)} == {starting}, "what the processes say")


def use_up_the_time(worker: Worker, *, starting: bool = False) -> None:
    """Makes the runs as old as their types allow; with `starting` those whose processes have not begun them."""
    hear(worker, starting=starting)
    for run in running(worker):
        assert run.started is not None
        run.started -= 3600


def running(worker: Worker) -> list[RunContext]:
    assert worker._state is not None
    return worker._state.running()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second, where it ends between opening and reading
        return True


@pytest.mark.slow
def test_a_run_in_a_process_tells_what_one_in_a_thread_tells(
    database_url: str, conn: Connection, types: tuple[JobType, ...]
) -> None:
    job = conn.add("p_done", payload={"number": 7})
    drain(database_url, *types, settings=SETTINGS)
    run = conn.last_run(job.id)
    assert (run["outcome"], run["output"]["number"], run["output"]["attempt"]) == ("partial", 7, 1)
    assert run["output"]["pid"] != os.getpid()
    assert (run["progress"]["done"], run["progress"]["total"], run["progress"]["message"]) == (3, 3, "step 3")
    for line in ("a line of p_done", "printed by the handler", "and to the other stream"):
        assert line in run["log"]


@pytest.mark.slow
def test_a_process_is_used_again_and_there_are_no_more_than_the_setting_says(
    database_url: str, conn: Connection, types: tuple[JobType, ...]
) -> None:
    producer.enqueue_many(conn, [NewJob("p_done", {"number": 2})] * 30, actor=ACTOR)
    drain(database_url, *types, settings=quick_settings(lease_seconds=120.0, process_concurrency=2))
    assert conn.outcomes() == ["succeeded"] * 30
    pids = {pid for (pid,) in conn.execute("SELECT output ->> 'pid' FROM job_runs")}
    assert 1 <= len(pids) <= 2
    until(lambda: all(is_gone(int(pid)) for pid in pids), "the end of the processes")


@pytest.mark.slow
def test_a_checkpoint_is_saved_and_seen_and_the_process_has_a_connection_of_its_own(
    database_url: str, conn: Connection, types: tuple[JobType, ...]
) -> None:
    job = conn.add("p_continues")
    drain(database_url, *types, settings=SETTINGS)
    assert conn.outcomes(job.id) == ["continued", "succeeded"]
    assert conn.last_run(job.id)["output"] == {"stored": "2", "seen": {"page": 2}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "outcome", "kind", "words"),
    [
        (0, "retried", "ValueError", "ValueError: no luck"),
        pytest.param(1, "failed", "permanent", "never", marks=pytest.mark.slow),
        pytest.param(2, "retried", "SystemExit", "the handler called sys.exit(4)", marks=pytest.mark.slow),
        pytest.param(3, "failed", "not_storable", "output", marks=pytest.mark.slow),
    ],
)
def test_a_failure_is_recorded_as_that_of_a_thread(
    database_url: str, conn: Connection, types: tuple[JobType, ...], number: int, outcome: str, kind: str, words: str
) -> None:
    job = conn.add("p_fails", payload={"number": number}, max_attempts=2)
    drain(database_url, *types, settings=SETTINGS)
    assert conn.outcomes(job.id)[0] == outcome
    run = conn.last_run(job.id)
    assert run["error_kind"] == kind
    assert words in run["error"]
    assert "in fails" in run["traceback"] or number == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words", "log"),
    [
        pytest.param(0, "ended with status 3 before its run did", None, id="exit"),
        pytest.param(
            1, "was ended by SIGSEGV", "process_handlers.py", id="segmentation fault", marks=pytest.mark.slow
        ),
        pytest.param(
            2, "was killed (SIGKILL), perhaps because the machine has too little memory", None,
            id="killed", marks=pytest.mark.slow,
        ),
        pytest.param(
            3, f"was ended by signal {NAMELESS_SIGNAL:d}; the run's log has what it printed", None,
            id="a signal without a name", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_process_that_dies_is_a_failed_attempt_and_the_next_job_gets_another(
    database_url: str, conn: Connection, types: tuple[JobType, ...], number: int, words: str, log: str | None
) -> None:
    dead = conn.add("p_dies", payload={"number": number}, max_attempts=2)
    fine = conn.add("p_done", payload={"number": 2})
    drain(database_url, *types, settings=ONE)
    assert conn.outcomes(dead.id) == ["retried", "failed"]
    run = conn.last_run(dead.id)
    assert run["error_kind"] == "process_died"
    assert words in run["error"]
    assert log is None or log in run["log"]
    assert conn.outcomes(fine.id) == ["succeeded"]


@pytest.mark.slow
def test_a_run_over_its_timeout_is_killed_with_what_it_started_and_then_reported(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("child_process", "processes"):
        monkeypatch.setattr(f"jobdeck.core.worker.slots.{module}.POSITION_SECONDS", PATIENCE)
    job = conn.add("p_too_long", payload={"note": str(note)}, max_attempts=1)
    with working(database_url, *types, settings=SETTINGS) as worker:
        until(lambda: noted(note, "started"), "the run")
        use_up_the_time(worker)
        until(lambda: conn.status_of(job.id) == "failed", "the timeout")
    run = conn.last_run(job.id)
    assert (run["outcome"], run["error_kind"]) == ("failed", "timeout")
    assert run["error"] == "The run took longer than the 3600 seconds that p_too_long allows."
    assert "in too_long" in run["traceback"]
    assert "on the way" in run["log"]
    assert len(noted(note, "started")) == 1
    until(lambda: all(map(is_gone, noted(note, "started"))), "the end of what the handler started")


@pytest.mark.slow
def test_a_run_is_reported_when_its_process_is_gone(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = gone_at_each_report(note, monkeypatch)
    job = conn.add("p_spins", payload={"note": str(note)})
    with working(database_url, *types, settings=SETTINGS):
        until(lambda: noted(note, "spins"), "the run")
        operator.cancel(conn, [job.id], actor=ACTOR)
        until(lambda: conn.status_of(job.id) == "cancelled", "the report")
    assert gone
    assert all(gone)


def gone_at_each_report(note: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Gets, whenever reports are sent, whether the process of each run that spins has ended."""
    gone: list[bool] = []
    finish = leases.finish

    def watched(*arguments: Any, **options: Any) -> Any:
        gone.extend(map(is_gone, noted(note, "spins")))
        return finish(*arguments, **options)

    monkeypatch.setattr(leases, "finish", watched)
    return gone


@pytest.mark.slow
def test_the_end_of_a_worker_kills_a_process_before_its_job_is_handed_back(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.state.GRACE_SECONDS", 0.0)
    gone = gone_at_each_report(note, monkeypatch)
    job = conn.add("p_spins", payload={"note": str(note)})
    with working(database_url, *types, settings=SETTINGS) as worker:
        until(lambda: noted(note, "spins"), "the run")
        # The handler writes its note before the worker has heard that the run began.
        hear(worker)
        assert not worker.drain(0)
    assert conn.outcomes(job.id) == ["released"]
    assert gone
    assert all(gone)


@pytest.mark.slow
def test_a_handler_that_asks_is_cancelled_and_its_process_goes_on_for_others(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobdeck.core.worker.slots.processes.GRACE_SECONDS", PATIENCE)
    job = conn.add("p_asks", payload={"note": str(note)})
    with working(database_url, *types, settings=ONE):
        until(lambda: noted(note, "asks"), "the run")
        operator.cancel(conn, [job.id], actor=ACTOR)
        until(lambda: conn.status_of(job.id) == "cancelled", "the end")
        other = conn.add("p_done", payload={"number": 2})
        until(lambda: conn.outcomes(other.id), "the next run")
    assert conn.outcomes(job.id) == ["cancelled"]
    assert [conn.last_run(other.id)["output"]["pid"]] == noted(note, "asks")


@pytest.mark.slow
def test_a_handler_that_does_not_ask_is_killed_after_a_while(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path
) -> None:
    job = conn.add("p_spins", payload={"note": str(note)})
    with working(database_url, *types, settings=SETTINGS):
        until(lambda: noted(note, "spins"), "the run")
        operator.cancel(conn, [job.id], actor=ACTOR)
        until(lambda: conn.status_of(job.id) == "cancelled", "the end")
        assert all(map(is_gone, noted(note, "spins")))
    assert "its process was killed" in conn.last_run(job.id)["log"]


@pytest.mark.slow
def test_draining_hands_back_the_job_of_a_process_that_is_killed(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path
) -> None:
    job = conn.add("p_spins", payload={"note": str(note)})
    with working(database_url, *types, settings=SETTINGS) as worker:
        until(lambda: noted(note, "spins"), "the run")
        assert not worker.drain(0)
    until(lambda: all(map(is_gone, noted(note, "spins"))), "the end of the process")
    assert conn.outcomes(job.id) == ["released"]
    assert conn.execute("SELECT status, attempts FROM job_queue").fetchone() == ("pending", 0)


@pytest.mark.slow
@pytest.mark.parametrize("seen", [True, False])
def test_a_process_that_died_between_two_jobs_costs_the_next_one_no_attempt(
    database_url: str, conn: Connection, types: tuple[JobType, ...], monkeypatch: pytest.MonkeyPatch, *, seen: bool
) -> None:
    if not seen:
        # So it is while the last threads of a killed process end.
        monkeypatch.setattr(ChildProcess, "has_ended", False)
    first = conn.add("p_done", payload={"number": 2})
    with working(database_url, *types, settings=ONE):
        until(lambda: conn.outcomes(first.id), "the first run")
        pid = conn.last_run(first.id)["output"]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: is_gone(pid), "the end of the process")
        second = conn.add("p_done", payload={"number": 2})
        until(lambda: conn.outcomes(second.id), "the second run")
    assert conn.outcomes() == ["succeeded"] * 2


@pytest.mark.slow
def test_what_a_run_prints_is_in_its_own_log_to_the_last_line_and_in_no_other(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path
) -> None:
    first = conn.add("p_prints", payload={"number": 2000, "note": str(note)})
    with working(database_url, *types, settings=ONE):
        until(lambda: conn.outcomes(first.id), "the first run")
        # A thread that the first handler left in its process prints again when it sees this word.
        with note.open("a", encoding="utf-8") as file:
            file.write("go 1\n")
        until(lambda: noted(note, "late"), "the late line")
        second = conn.add("p_done", payload={"number": 2})
        until(lambda: conn.outcomes(second.id), "the second run")
    kept = conn.last_run(first.id)["log"]
    assert kept.endswith("PRINTED line 2000 of the first, without an end")
    assert "PRINTED line 1999 of the first\n" in kept
    assert "the first" not in conn.last_run(second.id)["log"]


@pytest.mark.slow
def test_a_process_imports_from_where_its_worker_does_and_hands_no_path_on(
    database_url: str, conn: Connection, types: tuple[JobType, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "jobdeck", "psycopg"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    job = conn.add("p_environment", max_attempts=1)
    drain(database_url, *types, settings=SETTINGS)
    assert conn.last_run(job.id)["output"] == {"path": None, "folder": str(tmp_path)}


@pytest.mark.slow
def test_a_worker_with_thousands_of_open_files_can_use_processes(
    database_url: str, conn: Connection, types: tuple[JobType, ...]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this account may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    job = conn.add("p_done", payload={"number": 2})
    try:
        with contextlib.ExitStack() as opened:
            for _ in range(1100):
                opened.enter_context(Path(os.devnull).open(encoding="utf-8"))
            drain(database_url, *types, settings=SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert conn.outcomes(job.id) == ["succeeded"]


@pytest.mark.slow
def test_a_library_that_logs_each_request_is_not_in_the_log_of_a_run(
    database_url: str, conn: Connection, types: tuple[JobType, ...]
) -> None:
    job = conn.add("p_chats")
    drain(database_url, *types, settings=SETTINGS)
    log = conn.last_run(job.id)["log"]
    assert "a warning" in log
    assert "a request" not in log


@pytest.mark.slow
def test_progress_that_json_cannot_have_is_a_failure_that_says_so(
    database_url: str, conn: Connection, types: tuple[JobType, ...]
) -> None:
    job = conn.add("p_progress", max_attempts=2)
    drain(database_url, *types, settings=SETTINGS)
    assert conn.outcomes(job.id) == ["failed"]
    assert conn.last_run(job.id)["error"].startswith("The progress of a run is a number of done items and a total")


@pytest.mark.slow
def test_an_exception_that_cannot_be_read_is_the_failure_of_its_run_alone(
    database_url: str, conn: Connection, types: tuple[JobType, ...]
) -> None:
    job = conn.add("p_unready", max_attempts=1)
    drain(database_url, *types, settings=SETTINGS)
    assert conn.outcomes(job.id) == ["failed"]
    assert conn.last_run(job.id)["error"].startswith("Unready was raised, and cannot be read")


@pytest.mark.slow
def test_the_processes_of_a_killed_worker_end_and_their_jobs_run_again(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path, tmp_path: Path
) -> None:
    job = conn.add("p_spins", payload={"note": str(note)}, max_attempts=2)
    with worker_process(database_url, tmp_path, JOBDECK_HANDLERS=MODULE, PYTHONPATH=str(ROOT)) as process:
        until(lambda: noted(note, "spins"), "the run")
        process.kill()
        process.wait()
    until(lambda: is_gone(noted(note, "spins")[0]), "the end of the process")
    bury(database_url)
    with working(database_url, *types, settings=SETTINGS):
        until(lambda: len(noted(note, "spins")) == 2, "the second run")
        operator.cancel(conn, [job.id], actor=ACTOR)
        until(lambda: conn.status_of(job.id) == "cancelled", "the end")
    assert conn.outcomes(job.id) == ["lost", "cancelled"]


@pytest.mark.slow
def test_a_canary_runs_beside_processes_that_are_all_taken(
    database_url: str, conn: Connection, types: tuple[JobType, ...], note: Path
) -> None:
    conn.add("p_asks", payload={"note": str(note)})
    with working(database_url, *types, settings=ONE):
        until(lambda: noted(note, "asks"), "the run")
        operator.pause(conn, reason=None, actor=ACTOR)
        waiting = conn.add("p_done", payload={"number": 2})
        assert ended(conn, ask(conn, waiting.id)).state == "succeeded"


@pytest.mark.slow
def test_a_cycle_runs_a_job_in_a_process(database_url: str, conn: Connection, types: tuple[JobType, ...]) -> None:
    conn.add("p_done", payload={"number": 2})
    with a_worker(database_url, *types, settings=SETTINGS, mode="cycle", source="cli") as worker:
        result = worker.run_cycle()
    assert (result.status, result.succeeded) == ("ok", 1)


def test_a_handler_that_no_other_process_can_import_fails_with_the_way_out(database_url: str, conn: Connection) -> None:
    job = conn.add("nowhere")
    drain(database_url, job_type("nowhere", nothing, isolation="process"), settings=SETTINGS)
    run = conn.last_run(job.id)
    assert (run["outcome"], run["error_kind"]) == ("failed", "permanent")
    assert "Move it into a module" in run["error"]


@pytest.mark.slow
def test_a_module_that_the_process_cannot_load_is_a_failed_attempt_that_says_so(
    database_url: str, conn: Connection
) -> None:
    job = conn.add("absent", max_attempts=1)
    drain(database_url, job_type("absent", nothing, isolation="process", module="no_such_module"), settings=SETTINGS)
    run = conn.last_run(job.id)
    assert (run["outcome"], run["error_kind"]) == ("failed", "process_died")
    assert "No module named 'no_such_module'" in run["error"]


@pytest.mark.slow
def test_the_start_of_a_process_is_no_part_of_the_time_of_its_run(
    database_url: str, conn: Connection, types: tuple[JobType, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, child = threading.Event(), ProcessSlots._child

    def slow(slots: ProcessSlots) -> ChildProcess:
        go_on.wait(PATIENCE)
        return child(slots)

    monkeypatch.setattr(ProcessSlots, "_child", slow)
    job = conn.add("p_done", payload={"number": 2}, max_attempts=1)
    short = tuple(replace(one, timeout=100) for one in types)
    with working(database_url, *short, settings=quick_settings(lease_seconds=600.0)) as worker:
        until(lambda: any(run.starting for run in running(worker)), "the start of the process")
        (waiting,) = running(worker)
        assert waiting.started is not None
        waiting.started -= 200
        assert worker._watchdog is not None
        worker._watchdog.look()
        assert waiting.stop is None
        go_on.set()
        until(lambda: conn.outcomes(job.id), "the run")
    run = conn.last_run(job.id)
    assert run["outcome"] == "succeeded"
    assert run["finished_at"] - run["started_at"] < timedelta(seconds=100)


@pytest.mark.slow
def test_a_process_that_does_not_start_is_a_failed_attempt_that_says_so_and_where_it_was(
    database_url: str, conn: Connection, note: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("child_process", "processes"):
        monkeypatch.setattr(f"jobdeck.core.worker.slots.{module}.POSITION_SECONDS", PATIENCE)
    (tmp_path / "hangs_while_imported.py").write_text(
        f"import threading\nopen({str(note)!r}, 'a').write('imports 1\\n')\nthreading.Event().wait()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    job = conn.add("absent", max_attempts=2)
    absent = job_type("absent", nothing, isolation="process", module="hangs_while_imported", retry_base=9000.0)
    with working(database_url, absent, settings=SETTINGS) as worker:
        until(lambda: noted(note, "imports"), "the import")
        use_up_the_time(worker, starting=True)
        until(lambda: conn.outcomes(job.id), "the end of the run")
    run = conn.last_run(job.id)
    assert (run["outcome"], run["error_kind"]) == ("retried", "process_not_started")
    assert run["error"].startswith("The process of the handler did not start within 300 seconds")
    assert "hangs_while_imported" in run["traceback"]


@pytest.mark.parametrize(
    ("isolation", "handler_is_async", "words"),
    [("fibre", False, 'isolation "fibre"'), ("process", True, "an async function")],
)
def test_an_isolation_that_cannot_be_is_refused_when_it_is_registered(
    isolation: Any, handler_is_async: bool, words: str
) -> None:
    async def on_loop(_params: Any, _ctx: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=words):
        job("apart", isolation=isolation)(on_loop if handler_is_async else nothing)
