"""An action on many jobs: what the server needs to choose, delete and restore them.

    .venv/bin/python bench/bulk.py [--jobs 100000] [--keyed]

Prints for each step the seconds on the clock and, on Linux, the processor seconds of the server process that runs it.
The second figure is nearly the same on a machine that is busy with something else.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import psycopg

from jobdeck.core.model import Filter
from jobdeck.core.postgres.embedded import EmbeddedPostgres
from jobdeck.core.queue import bulk
from jobdeck.core.schema import install_schema

ACTOR = "the benchmark"


def fill(conn, jobs, keyed):
    key = "'key ' || n % 200" if keyed else "NULL"
    conn.execute(
        f"""
        INSERT INTO job_queue (task_type, payload, concurrency_key, in_line)
        SELECT 'webhook_push', jsonb_build_object('orderId', n, 'url', 'https://example.org/' || n), {key}, {keyed}
        FROM generate_series(1, {jobs}) AS n
        """
    )


def processor_seconds(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(conn, what, work):
    began, worked = time.monotonic(), processor_seconds(conn.info.backend_pid)
    found = work()
    clock, processor = time.monotonic() - began, processor_seconds(conn.info.backend_pid) - worked
    print(f"{what:8} {clock:7.2f} s on the clock, {processor:6.2f} s of the server's processor", flush=True)
    return found


def carry_out(conn, choice, verb):
    bulk.start(conn, choice.bulk.id, verb, actor=ACTOR)
    longest = 0.0
    while True:
        began = time.monotonic()
        now = bulk.step(conn, choice.bulk.id, driver=ACTOR)
        longest = max(longest, time.monotonic() - began)
        if now.state != "running":
            print(f"{verb}: {now.done:,} jobs, {now.refused:,} refused, longest batch {longest * 1000:.0f} ms")
            return now


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--keyed", action="store_true", help="give the jobs 200 concurrency keys")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with (
            EmbeddedPostgres.open(Path(folder) / "server") as server,
            psycopg.connect(server.url, autocommit=True) as conn,
        ):
            install_schema(conn)
            fill(conn, options.jobs, options.keyed)
            choice = measured(conn, "choose", lambda: bulk.choose(conn, Filter(), actor=ACTOR))
            done = measured(conn, "delete", lambda: carry_out(conn, choice, "delete"))
            again = bulk.choose_again(conn, done.id, "done", actor=ACTOR)
            measured(conn, "restore", lambda: carry_out(conn, again, "restore"))


if __name__ == "__main__":
    main()
