"""What every measurement shares: options, databases, worker processes, readings of time, WAL and CPU, results."""

import argparse
import ctypes
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

HOME = Path(os.environ.get("BENCH_HOME") or Path(tempfile.gettempdir(), "jobdeck-bench")).resolve()
GIVE_UP_AFTER = 170.0
spawn = multiprocessing.get_context("spawn")


def url(database):
    return f"postgresql:///{database}?host={quote(str(HOME / 'pg'))}&user=postgres"


def connect(database="postgres"):
    return psycopg.connect(url(database), autocommit=True)


def finds_row(connection: Any, query: Any, params: Any = None) -> bool:
    """Whether the query returns a row. One without columns, as of `SELECT FROM`, is an empty tuple, and so is false."""
    return connection.execute(query, params).fetchone() is not None


def load_peer(path):
    """Imports a peer file under its own name, the same one in the driver and in the workers."""
    name = Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def make_template(peer):
    """A database with the peer's schema and nothing else, for the measurements to copy."""
    template = f"bench_{peer.NAME}_template"
    with connect() as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{template}" WITH (FORCE)')
        admin.execute(f'CREATE DATABASE "{template}"')
    peer.install(url(template))
    return template


@contextmanager
def fresh_database(peer):
    template = f"bench_{peer.NAME}_template"
    name = f"bench_{peer.NAME}_{os.getpid()}"
    with connect() as admin:
        if not finds_row(admin, "SELECT FROM pg_database WHERE datname = %s", [template]):
            make_template(peer)
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield name
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


class Tally:
    """Counts the handlers' runs and notes when each job's began, in memory that processes share."""

    def __init__(self, jobs, workers):
        self.runs = spawn.RawArray(ctypes.c_int64, workers)
        self.started = spawn.RawArray(ctypes.c_double, jobs + 1)

    def handler(self, worker):
        """The no-op job. Sequence numbers are 1 to `jobs`; 0 is a job that no result is about."""
        runs, started, lock = self.runs, self.started, threading.Lock()

        def run(seq):
            started[seq] = time.monotonic()
            with lock:
                runs[worker] += 1

        return run

    def all_ran(self):
        return sum(self.runs) >= len(self.started) - 1 and all(self.started[1:])


def _work(path, database, setting, tally, worker, ready, go):
    peer = load_peer(path)

    def gate():
        ready.release()
        go.wait()

    peer.work(url(database), peer.SETTINGS[setting], tally.handler(worker), gate)


class Workers:
    """`count` processes of one peer, held at the gate until `go`, killed at the end."""

    def __init__(self, peer, database, setting, tally, count=1):
        self.peer = peer
        self.go_event, ready = spawn.Event(), spawn.Semaphore(0)
        self.processes = [
            spawn.Process(
                target=_work,
                args=(peer.__file__, database, setting, tally, i, ready, self.go_event),
            )
            for i in range(count)
        ]
        for process in self.processes:
            process.start()
        for _ in self.processes:
            while not ready.acquire(timeout=1):
                self.check()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.join()

    def go(self):
        self.go_event.set()
        return time.monotonic()

    def check(self):
        if not all(process.is_alive() for process in self.processes):
            raise RuntimeError(f"a worker of {self.peer.NAME} ended by itself")

    def wait(self, condition, interval=0.002):
        """Sleeps until `condition()`; returns when it was last asked, not when it answered."""
        deadline = time.monotonic() + GIVE_UP_AFTER
        while True:
            now = time.monotonic()
            if condition():
                return now
            self.check()
            if now > deadline:
                raise TimeoutError(f"{self.peer.NAME} took longer than {GIVE_UP_AFTER:g} s")
            time.sleep(interval)

    def cpu_seconds(self):
        ticks = 0
        for process in self.processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss_mb(self):
        pages = sum(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) for process in self.processes)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def peak_mb(self):
        """The most memory that the processes have had."""
        status = [Path(f"/proc/{process.pid}/status").read_text() for process in self.processes]
        return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in status) / 1024


def _hold_imports(ready: Any, end: Any) -> None:
    importlib.import_module("psycopg")
    importlib.import_module("pydantic")
    ready.set()
    end.wait()


def memory_of_imports() -> float:
    """Megabytes of a process of the benchmarks that has imported the libraries and does nothing."""
    ready, end = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold_imports, args=(ready, end))
    process.start()
    if not ready.wait(GIVE_UP_AFTER):
        raise TimeoutError("the imports took too long")
    pages = int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1])
    end.set()
    process.join()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def wal_position(connection):
    lsn = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    return connection.execute(lsn).fetchone()[0]


def statements(connection, database):
    """Statements that pg_stat_statements has counted in the database so far."""
    return connection.execute(
        "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements AS s"
        " JOIN pg_database AS d ON d.oid = s.dbid WHERE d.datname = %s",
        [database],
    ).fetchone()[0]


def server_cpu_seconds(connection):
    """The processor time of the server and of all that it has started, those among them that have ended too."""
    folder = connection.execute("SHOW data_directory").fetchone()[0]
    server = int(Path(folder, "postmaster.pid").read_text().split()[0])
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, fields = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if pid == server:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == server:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def percentile(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def options(description: str | None, **defaults: Any) -> argparse.Namespace:
    """Reads the command line. Each option has the type of its default; False is that of a flag."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    for name, default in defaults.items():
        flag = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(default), default=default, help=f"default {default}")
    return parser.parse_args()


def emit(workload: str, *, peer: str = "jobdeck", setting: str = "default", **figures: Any) -> None:
    """Prints one result, a line of JSON."""
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"workload": workload, "peer": peer, "setting": setting} | rounded), flush=True)


def say(text: str) -> None:
    """Says to a person how far a measurement is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Timed:
    """A queue that is asked: its address, a connection, and the times of each measurement in milliseconds."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.conn: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
        self.times: dict[str, list[float]] = {}

    def time(self, name: str, call: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """Calls, and keeps how long it took."""
        began = time.perf_counter()
        try:
            return call(self.conn)
        finally:
            self.times.setdefault(name, []).append(1000 * (time.perf_counter() - began))

    def quantile(self, name: str, share: float = 0.5) -> float:
        """The time of one measurement that this share of all is below."""
        return percentile(sorted(self.times[name]), share)


def sizes(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, float]:
    """Megabytes of the queue's and the history's tables and indexes."""
    rows = connection.execute(
        "SELECT t.name, sum(pg_table_size(p.relid))::bigint, sum(pg_indexes_size(p.relid))::bigint"
        " FROM unnest(ARRAY['job_queue', 'job_runs']) AS t (name), LATERAL ("
        "     SELECT t.name::regclass AS relid UNION SELECT relid FROM pg_partition_tree(t.name::regclass)"
        " ) AS p GROUP BY 1"
    ).fetchall()
    return {
        f"{name}_{part}_mb": size / 2**20
        for name, *both in rows
        for part, size in zip(("table", "index"), both, strict=True)
    }
