"""The embedded Postgres, with real processes that race, leave, crash and are killed."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobdeck.core.connect import open_database
from jobdeck.core.errors import EmbeddedPostgresError
from jobdeck.core.postgres import binaries
from jobdeck.core.postgres.binaries import find_binaries, run_tool, server_account, wheel_folders
from jobdeck.core.postgres.database import Database
from jobdeck.core.postgres.embedded import LEAVING, EmbeddedPostgres
from jobdeck.core.settings import Settings
from tests.support.postgres import scratch_folder
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, until

ROOT = Path(__file__).parents[3]
AS_ROOT = os.geteuid() == 0
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system shows no processes in /proc")
needs_root = pytest.mark.skipif(not AS_ROOT, reason="only root drops to another account")


@pytest.fixture
def scratch() -> Iterator[Path]:
    folder = scratch_folder(server_account())
    yield folder
    _end_server(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def finished_state() -> Iterator[Path]:
    """A state folder whose database was made and whose server was stopped."""
    folder = scratch_folder(server_account())
    with EmbeddedPostgres.open(folder / "state") as server, server.connect() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    yield folder / "state"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def state(scratch: Path, finished_state: Path) -> Path:
    """A copy of that folder, for tests that are not about making it."""
    return _copy(finished_state, scratch / "state")


class Client:
    """Another process on the same state folder."""

    def __init__(
        self, state: Path | None, *arguments: str, group: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.embedded_client", str(state or ""), *arguments],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=group,
        )

    def ready(self) -> str:
        """Waits until it is connected and returns the server's address."""
        answer: dict[str, str] = json.loads(self._line())
        return answer["url"]

    def ask(self, statement: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{statement}\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the client ended with {self.process.wait(PATIENCE)}"
        return line

    def quit(self) -> None:
        self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


@contextmanager
def clients(count: int, make: Callable[[], Client]) -> Iterator[list[Client]]:
    """That many clients, killed in the end if they are still there."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(make())
            stack.callback(made[-1].kill)
        yield made


@pytest.mark.slow
def test_four_processes_that_race_on_the_first_start_share_one_server(scratch: Path) -> None:
    state = scratch / "state"
    with clients(4, lambda: Client(state)) as racing:
        assert len({client.ready() for client in racing}) == 1
        starts = {client.ask("SELECT pg_postmaster_start_time()")[0][0] for client in racing}
        assert len(starts) == 1
        for client in racing:
            client.quit()
    assert _server_pid(state) is None


@pytest.mark.slow
def test_a_server_outlives_a_killed_client_and_the_next_one_out_stops_it(state: Path) -> None:
    with clients(2, lambda: Client(state)) as (killed, other):
        killed.ready()
        other.ready()
        killed.kill()
        assert other.ask("SELECT answer FROM kept") == [[42]]
        until(lambda: other.ask(SESSIONS) == [[2]], "the end of the killed client's sessions")
        other.quit()
    assert _server_pid(state) is None


@pytest.mark.slow
def test_a_server_whose_only_client_was_killed_is_taken_over(state: Path) -> None:
    with clients(1, lambda: Client(state)) as (only,):
        only.ready()
        pid = _server_pid(state)
    assert pid is not None
    with EmbeddedPostgres.open(state) as server, server.connect() as connection:
        assert _server_pid(state) == pid
        until(lambda: connection.execute(SESSIONS).fetchone() == (2,), "the end of the killed client's sessions")
    assert _server_pid(state) is None


@pytest.mark.slow
def test_a_killed_postmaster_is_replaced_at_once_and_nothing_is_lost(state: Path) -> None:
    with clients(1, lambda: Client(state)) as (client,):
        client.ready()
        client.ask("INSERT INTO kept VALUES (43)")
        _kill_server(state)
        with EmbeddedPostgres.open(state) as server, server.connect() as connection:
            assert connection.execute("SELECT answer FROM kept ORDER BY 1").fetchall() == [(42,), (43,)]


@pytest.mark.slow
@needs_proc
def test_children_of_a_killed_postmaster_are_waited_for(state: Path) -> None:
    with EmbeddedPostgres.open(state) as server, server.connect() as connection, ThreadPoolExecutor(1) as threads:
        child = connection.info.backend_pid
        os.kill(child, signal.SIGSTOP)
        try:
            _kill_server(state)
            opening = threads.submit(EmbeddedPostgres.open, state)
            until(lambda: _attempts_beside_dying_children(state) > 3)
            assert not opening.done()
        finally:
            os.kill(child, signal.SIGCONT)
        with opening.result(PATIENCE) as reopened, reopened.connect() as again:
            assert again.execute("SELECT answer FROM kept").fetchone() == (42,)


def _attempts_beside_dying_children(state: Path) -> int:
    """How often a start was refused because of a child, while others wrote their last line into the same log."""
    log = state / "server.log"
    with log.open("a") as file:
        file.write("FATAL:  terminating connection due to unexpected postmaster exit\n")
    return log.read_text().count("shared memory block")


@pytest.mark.slow
@needs_proc
def test_a_database_in_use_starts_its_killed_server_again(state: Path) -> None:
    settings = Settings(state_dir=state)
    with open_database(settings, application_name="test", embedded=True) as database:
        with database.connection() as connection:
            backend = connection.info.backend_pid
        _kill_server(state)
        until(lambda: not _command(backend))
        with database.connection() as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert _server_pid(state) is None


@pytest.mark.slow
@pytest.mark.parametrize("zombie", [False, True], ids=["a live process", "a zombie"])
def test_a_stale_pid_that_now_belongs_to_another_process_is_no_obstacle(state: Path, zombie: bool) -> None:
    with _stranger(zombie=zombie) as stranger:
        _leave_pid_files(state, stranger.pid)
        with EmbeddedPostgres.open(state) as server, server.connect() as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        if not zombie:
            assert stranger.poll() is None


@pytest.mark.slow
@needs_proc
def test_an_initdb_killed_half_way_is_done_over(scratch: Path) -> None:
    # A machine that pauses the test lets initdb end before it is caught; then the test needs another folder.
    state = next(folder for number in count() if _initdb_is_killed(folder := scratch / f"state{number}"))
    assert not (state / "data").exists()
    with EmbeddedPostgres.open(state) as server, server.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
@needs_proc
def test_an_interrupt_while_the_server_starts_leaves_none_behind(state: Path) -> None:
    def stops_the_server() -> bool:
        ended = client.process.poll() is not None
        return ended or any("stop" in _command(child) for child in _children(client.process.pid))

    with clients(1, lambda: Client(state)) as (client,):
        until(lambda: _server_pid(state) is not None)
        pid = _server_pid(state)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        client.process.send_signal(signal.SIGINT)
        until(stops_the_server)
        os.kill(pid, signal.SIGCONT)
        client.process.communicate(timeout=PATIENCE)
    assert _server_pid(state) is None


@pytest.mark.installation
@needs_root
@needs_proc
def test_programs_in_a_private_virtual_environment_are_copied_once(
    finished_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not wheel_folders():
        pytest.skip("the wheel with Postgres is not installed")
    real = wheel_folders()[0].parent.parent
    folder = scratch_folder(server_account(), for_programs=True)
    private = folder / "private"
    (private / real.name).mkdir(parents=True)
    (private / real.name / "__init__.py").touch()
    (private / real.name / "pginstall18").symlink_to(wheel_folders()[0].parent)
    (private / f"{real.name}.libs").symlink_to(real.with_name(f"{real.name}.libs"))
    private.chmod(0o700)
    monkeypatch.syspath_prepend(private)
    state = _copy(finished_state, folder / "state")
    copies = set()
    try:
        for _ in range(2):
            with EmbeddedPostgres.open(state):
                program = (Path("/proc") / str(_server_pid(state)) / "exe").resolve()
            assert program.is_relative_to(state / "binaries")
            copies.add((program, program.stat().st_ino))
        assert len(copies) == 1
        assert private.stat().st_mode & 0o777 == 0o700
    finally:
        _end_server(folder)
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a folder with spaces", "x" * 100, "it's $HOME", "état"])
def test_any_path_will_do(scratch: Path, name: str) -> None:
    state = scratch / name
    with EmbeddedPostgres.open(state) as server, server.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        sockets = Path(str(connection.info.host))
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert _server_pid(state) is None
    assert sockets.is_relative_to(state) or not sockets.exists()


@pytest.mark.installation
def test_a_socket_folder_that_somebody_else_made_is_refused(scratch: Path) -> None:
    state = scratch / ("x" * 100)
    with EmbeddedPostgres.open(state) as server, server.connect() as connection:
        sockets = Path(str(connection.info.host))
    sockets.mkdir()
    sockets.chmod(0o777)
    try:
        with pytest.raises(EmbeddedPostgresError, match="not a private folder"):
            EmbeddedPostgres.open(state)
    finally:
        sockets.rmdir()


@needs_root
@pytest.mark.parametrize("name", ["jobdeck.conf", "lock", "server.log", "jobdeck.log"])
def test_root_keeps_nothing_in_a_folder_that_another_account_can_change(scratch: Path, name: str) -> None:
    """As root, links in it would be followed to any file."""
    state, target = scratch / "state", scratch / "target"
    state.mkdir(mode=0o755)
    target.write_text("precious")
    (state / name).symlink_to(target)
    for owner, mode in ((65534, 0o755), (0, 0o777)):
        os.chown(state, owner, -1)
        state.chmod(mode)
        with pytest.raises(EmbeddedPostgresError, match="Another account can change"):
            EmbeddedPostgres.open(state)
        assert {found.name for found in state.iterdir()} == {name}
    assert target.read_text() == "precious"


@pytest.mark.slow
def test_the_server_lets_nobody_in_but_through_its_socket(state: Path) -> None:
    """Also a server whose data an earlier release made; lines that somebody added are kept."""
    rules = state / "data" / "pg_hba.conf"
    added = "host all all 192.0.2.0/24 scram-sha-256\n"
    host = "host    all             all             127.0.0.1/32            trust\n"
    with rules.open("a") as file:
        file.write(f"{host}{host.replace('127.0.0.1/32', '::1/128     ')}{added}")
    (state / "server.log").touch()
    (state / "server.log").chmod(0o644)
    with EmbeddedPostgres.open(state) as server, server.connect() as connection:
        found = connection.execute("SELECT type, auth_method FROM pg_hba_file_rules WHERE error IS NULL").fetchall()
    assert set(found) == {("local", "trust"), ("host", "scram-sha-256")}
    assert (state / "server.log").stat().st_mode & 0o077 == 0


def test_a_new_server_lets_nobody_in_but_through_its_socket(finished_state: Path) -> None:
    rules = (finished_state / "data" / "pg_hba.conf").read_text().splitlines()
    assert {line.split()[0] for line in rules if line.strip() and not line.startswith("#")} == {"local"}


@pytest.mark.installation
def test_a_strange_environment_changes_nothing(scratch: Path) -> None:
    strange = {
        "LANG": "xx_YY.bogus", "LC_ALL": "nonsense", "PGDATA": "/nowhere", "PGPORT": "1", "PGHOST": "nowhere",
        "PGHOSTADDR": "192.0.2.1",
    }  # fmt: skip
    with clients(1, lambda: Client(scratch / "state", env=strange)) as (client,):
        client.ready()
        assert client.ask("SHOW port") == [["5432"]]
        assert client.ask("SHOW lc_messages") == [["C"]]
        assert client.ask("SHOW server_encoding") == [["UTF8"]]
        client.quit()


@pytest.mark.installation
@needs_proc
def test_the_server_is_given_no_secret_of_the_environment(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENDGRID_API_KEY", "s3cret")
    with EmbeddedPostgres.open(state):
        environment = Path(f"/proc/{_server_pid(state)}/environ").read_text()
    assert "LC_ALL=C" in environment
    assert "s3cret" not in environment


@pytest.mark.installation
def test_without_the_wheel_the_systems_postgres_serves(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without_wheel:
        without_wheel.setattr(binaries, "WHEEL_MODULE", "no_such_module")
        try:
            system = find_binaries(server_account(), scratch / "copies")
        except EmbeddedPostgresError:
            pytest.skip("this machine has no Postgres of its own")
        with EmbeddedPostgres.open(scratch / "state") as server, server.connect() as connection:
            assert connection.info.server_version // 10_000 == system.major
    # With the wheel back, the data still needs the version that made it.
    with EmbeddedPostgres.open(scratch / "state") as server, server.connect() as connection:
        assert connection.info.server_version // 10_000 == system.major


def test_with_no_postgres_at_all_the_error_names_the_way_out(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "WHEEL_MODULE", "no_such_module")
    monkeypatch.setattr(binaries, "SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EmbeddedPostgresError, match="DATABASE_URL"):
        EmbeddedPostgres.open(scratch / "state")


@pytest.mark.slow
def test_data_of_a_version_that_is_not_installed_is_refused_and_left_alone(state: Path) -> None:
    (state / "data" / "PG_VERSION").write_text("9\n")
    before = sorted(path.name for path in (state / "data").iterdir())
    with pytest.raises(EmbeddedPostgresError, match="created by Postgres 9"):
        EmbeddedPostgres.open(state)
    assert sorted(path.name for path in (state / "data").iterdir()) == before


@pytest.mark.slow
def test_data_that_is_set_aside_gives_way_to_new_data_also_where_its_version_is_not_installed(state: Path) -> None:
    (state / "data" / "PG_VERSION").write_text("9\n")
    assert EmbeddedPostgres.set_aside(state) == state / "data.old"
    assert (state / "data.old" / "PG_VERSION").read_text() == "9\n"
    assert EmbeddedPostgres.set_aside(state) is None
    with EmbeddedPostgres.open(state) as server, server.connect() as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)
    with pytest.raises(EmbeddedPostgresError, match=r"kept in .*data\.old, and nothing was changed"):
        EmbeddedPostgres.set_aside(state)
    assert (state / "data").exists()


def test_a_folder_that_cannot_be_made_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="JOBDECK_STATE_DIR"):
        EmbeddedPostgres.open(tmp_path / "file" / "state")


@needs_root
def test_a_folder_that_the_account_cannot_enter_is_named_in_the_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedPostgresError, match=r"cannot enter .* Set JOBDECK_STATE_DIR"):
        EmbeddedPostgres.open(tmp_path / "state")
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_ctrl_c_to_the_whole_process_group_spares_the_server_for_the_others(state: Path) -> None:
    with clients(1, lambda: Client(state, group=0)) as (first,):
        first.ready()
        with clients(1, lambda: Client(state, group=first.process.pid)) as (second,):
            second.ready()
            with EmbeddedPostgres.open(state) as server, server.connect() as connection:
                os.killpg(first.process.pid, signal.SIGINT)
                for client in (first, second):
                    client.process.communicate(timeout=PATIENCE)
                    assert client.process.returncode == 130
                assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    assert _server_pid(state) is None


@pytest.mark.slow
def test_a_group_that_is_interrupted_together_leaves_no_server(state: Path) -> None:
    with clients(1, lambda: Client(state, group=0)) as (first,):
        first.ready()
        with clients(1, lambda: Client(state, group=first.process.pid)) as (second,):
            second.ready()
            os.killpg(first.process.pid, signal.SIGINT)
            for client in (first, second):
                client.process.communicate(timeout=PATIENCE)
    assert _server_pid(state) is None


@pytest.mark.slow
def test_a_connection_of_a_process_that_is_leaving_does_not_hold_the_server(state: Path) -> None:
    with EmbeddedPostgres.open(state) as server:
        leaving = Connection.connect(server.url, application_name=LEAVING)
    assert _server_pid(state) is None
    leaving.close()


@pytest.mark.slow
def test_a_dashboard_and_a_worker_share_one_data_folder(state: Path) -> None:
    with clients(2, lambda: Client(state)) as (dashboard, worker):
        dashboard.ready()
        worker.ready()
        dashboard.ask("INSERT INTO kept VALUES (44)")
        assert worker.ask("SELECT max(answer) FROM kept") == [[44]]
        dashboard.quit()
        assert worker.ask("SELECT count(*) FROM kept") == [[2]]
        worker.quit()
    assert _server_pid(state) is None


@pytest.mark.slow
def test_a_foreign_client_keeps_the_server_up(state: Path) -> None:
    server = EmbeddedPostgres.open(state)
    with Connection.connect(server.url, autocommit=True) as foreign:
        server.close()
        assert foreign.execute("SELECT answer FROM kept").fetchone() == (42,)
    with EmbeddedPostgres.open(state):
        pass
    assert _server_pid(state) is None


@pytest.mark.slow
@needs_root
def test_an_ordinary_user_has_a_server_of_his_own(scratch: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account = binaries.Account("nobody", nobody.pw_uid, nobody.pw_gid)
    programs = find_binaries(server_account(), scratch / "copies")
    try:
        run_tool([programs.folder / "postgres", "--version"], account)
    except PermissionError:
        pytest.skip("the programs lie in a folder that is closed to ordinary users")
    home = scratch / "home"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    scratch.chmod(0o755)
    env = {"HOME": str(home), "XDG_STATE_HOME": ""}
    with clients(1, lambda: Client(None, str(nobody.pw_uid), str(nobody.pw_gid), env=env)) as (client,):
        client.ready()
        state = home / ".local" / "state" / "jobdeck"
        assert (state / "data").stat().st_uid == nobody.pw_uid
        assert client.ask("SHOW fsync") == [["on"]]
        client.quit()
    assert _server_pid(state) is None


@pytest.mark.installation
def test_opening_installs_the_schema(scratch: Path) -> None:
    settings = Settings(state_dir=scratch / "state")
    for _ in range(2):
        with (
            open_database(settings, application_name="test", embedded=True) as database,
            database.connection() as connection,
        ):
            assert connection.execute("SELECT count(*) FROM job_queue").fetchone() == (0,)
            assert database.label == "embedded/jobdeck"


@pytest.mark.installation
def test_the_log_quotes_no_data(state: Path) -> None:
    with EmbeddedPostgres.open(state) as server, server.connect() as connection:
        connection.execute("CREATE TABLE person (email text PRIMARY KEY)")
        insert = "INSERT INTO person VALUES ('kim@example.org')"
        connection.execute(insert)
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(insert)
    log = (state / "server.log").read_text()
    assert "duplicate key" in log
    assert "kim@example.org" not in log


@pytest.mark.slow
def test_a_process_that_left_is_not_brought_back(state: Path) -> None:
    with EmbeddedPostgres.open(state) as server:
        database = Database(server.url, application_name="test", revive=server.ensure_running)
    with pytest.raises(psycopg.OperationalError, match="already closed the embedded Postgres"), database.connection():
        pass


def _copy(finished: Path, state: Path) -> Path:
    subprocess.run(["/bin/cp", "-a", str(finished), str(state)], check=True)
    return state


def _server_pid(state: Path) -> int | None:
    try:
        return int((state / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _kill_server(state: Path) -> None:
    pid = _server_pid(state)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _end_server(folder: Path) -> None:
    for pid_file in folder.rglob("postmaster.pid"):
        pid = int(pid_file.read_text().split("\n", 1)[0])
        if Path(f"/proc/{pid}/comm").exists() and Path(f"/proc/{pid}/comm").read_text().strip() == "postgres":
            os.kill(pid, signal.SIGQUIT)


@contextmanager
def _stranger(*, zombie: bool) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the server's account that is no Postgres, alive or ended and not yet waited for."""
    account = server_account()
    process = subprocess.Popen(
        ["/bin/true"] if zombie else ["/bin/sleep", "600"],
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    try:
        if zombie:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)


def _leave_pid_files(state: Path, pid: int) -> None:
    """What a crashed server leaves: its process id in the data folder and beside the socket."""
    account = server_account()
    lines = f"{pid}\n{state / 'data'}\n{int(time.time())}\n5432\n{state / 'socket'}\n\n"
    for path in (state / "data" / "postmaster.pid", state / "socket" / ".s.PGSQL.5432.lock"):
        path.write_text(lines)
        path.chmod(0o600)
        if account:
            os.chown(path, account.uid, account.gid)


def _initdb_is_killed(state: Path) -> bool:
    """Kills a client together with its initdb; false if initdb had ended, and the client uses the folder already."""
    with clients(1, lambda: Client(state)) as (client,):
        # By its folder: before that, the client asks each program for its version.
        until(lambda: any("data.init" in _command(child) for child in _children(client.process.pid)) or _is_made(state))
        client.process.send_signal(signal.SIGSTOP)
        # Only the client renames the folder, so it keeps its first name if the client was stopped in time.
        until(lambda: (state / "data.init" / "PG_VERSION").exists() or _is_made(state))
        if _is_made(state):
            client.process.send_signal(signal.SIGCONT)
            return False
        children = _children(client.process.pid)
        client.process.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return True


def _is_made(state: Path) -> bool:
    return (state / "data" / "PG_VERSION").exists()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
