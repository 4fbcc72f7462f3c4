"""Load on the HTTP door: SendGrid's events at a fixed rate for a minute, and a worker's drain beside it.

    python bench/door.py [--quick] [--rate 200] [--events 100] [--seconds 60]
    python bench/door.py --attack all|pipeline|chunks|slow|endless|greedy|half_open [--minutes 5]

The door, its database, the worker and the senders all run on this machine and share its processors. Requests are
scheduled ahead (an open loop): one that waits because the door is busy has its wait counted. Prints one JSON object.
Says what was measured: nothing is asserted about speed, everything about loss. With `--attack`, it calls with a secret
alone and beside an attack (`door_attackers.py`), directly and behind nginx where it is installed; `half_open` attacks
the browser's server. The exit code is 1 if a call is cut or a median is more than doubled.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import door_attack
import door_ways
import psycopg
from door_attackers import ATTACKS, Target, half_open

from jobdeck.core.postgres.embedded import EmbeddedPostgres
from jobdeck.core.programme.sandbox.sendgrid import SendGrid
from jobdeck.core.queue.producers import tokens
from jobdeck.core.schema import install_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SENDERS = 2
PEOPLE = 500
PATH = "/api/sendgrid/events"
KINDS = ("processed", "delivered", "open", "click", "deferred")


def prepare(url: str) -> list[str]:
    """Installs the schema and a few hundred accepted messages; returns their ids."""
    with psycopg.connect(url, autocommit=True) as conn:
        install_schema(conn)
        rows = conn.execute(
            """
            INSERT INTO outbox_messages (kind, channel, recipient_ref, address, address_norm, dedupe_key, state,
                accepted_at)
            SELECT 'unread_alert', 'email', gen_random_uuid(), 'p' || n || '@example.org', 'p' || n || '@example.org',
                'bench ' || n || ' ' || gen_random_uuid(), 'accepted', now()
            FROM generate_series(1, %s) AS n RETURNING id
            """,
            (PEOPLE,),
        ).fetchall()
    return [str(row[0]) for row in rows]


def made(vendor: SendGrid, people: list[str], count: int, number: int) -> tuple[bytes, dict[str, str]]:
    """One signed request with so many events of its own."""
    now = int(time.time())
    return vendor.signed(
        {
            "event": KINDS[(number + index) % len(KINDS)],
            "timestamp": now,
            "sg_event_id": uuid4().hex,
            "sg_message_id": f"{uuid4().hex}.recvd-1",
            "email": "p@example.org",
            "outbox_id": people[(number * count + index) % len(people)],
        }
        for index in range(count)
    )


def send(port: int, requests: list[tuple[float, bytes, dict[str, str]]], begin: float, found: Any) -> None:
    """Sends requests at their times over a few connections; puts into a queue what became of each."""
    lock, place = threading.Lock(), [0]
    results: list[tuple[float, float, int]] = []

    def run() -> None:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                if place[0] >= len(requests):
                    break
                at, body, headers = requests[place[0]]
                place[0] += 1
            wait = begin + at - time.time()
            if wait > 0:
                time.sleep(wait)
            try:
                line.request("POST", PATH, body, headers)
                response = line.getresponse()
                response.read()
                status = response.status
            except (OSError, http.client.HTTPException):
                line.close()
                status = 0
            ended = time.time() - begin
            results.append((ended - at, ended, status))
        line.close()

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.put(results)


def drain_rate(url: str, jobs: int) -> float:
    """Jobs a second that a worker with 4 slots gets through, of a type that does nothing."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}", "DATABASE_URL": url}
    program = [sys.executable, "-m", "core", "--handlers", "door_jobs"]
    subprocess.run([*program, "enqueue-many", "door_nothing", "--count", str(jobs)], env=environment, check=True,
                   capture_output=True)  # fmt: skip
    began = time.monotonic()
    subprocess.run([*program, "worker", "--drain"], env=environment, check=True, capture_output=True)
    return jobs / (time.monotonic() - began)


def measure(url: str, given: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement on one database."""
    people = prepare(url)
    vendor = SendGrid()
    total = int(given.rate * given.seconds)
    requests = [(number / given.rate, *made(vendor, people, given.events, number)) for number in range(total)]
    alone = drain_rate(url, given.jobs)
    with serving(url, vendor) as (_, port):
        return loaded(url, given, requests, port) | {"drain_per_second_alone": round(alone)}


def attacks(url: str, given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The results of one attack or of all, in each way that there is."""
    prepare(url)
    vendor, secret, found = SendGrid(), secrets.token_hex(32), []
    with psycopg.connect(url, autocommit=True) as conn:
        often, seldom = tokens.Rate(1_000_000, 1), tokens.Rate(1000, 86_400)
        token = tokens.add(conn, "shop", ["door_nothing"], often, actor="bench")
        spent = tokens.add(conn, "greedy", ["door_nothing"], seldom, actor="bench")
        conn.execute("UPDATE job_producers SET level = 0 WHERE name = 'greedy'")
    chosen = [name for name in ATTACKS if given.attack in {name, "all"}]
    with serving(url, vendor, CRON_SECRET=secret) as (process, port):
        for name in chosen:
            made = door_attack.kinds(port, secret, token, vendor)
            told = door_attack.attacked(ATTACKS[name], Target(port, spent), process, made, given.minutes)
            found.append({**told, "way": "directly"})
        if chosen and door_ways.NGINX is not None:
            with door_ways.behind_nginx(port, folder) as proxy:
                for name in chosen:
                    made = door_attack.kinds(proxy, secret, token, vendor)
                    told = door_attack.attacked(ATTACKS[name], Target(proxy, spent), process, made, given.minutes)
                    found.append({**told, "way": "behind nginx"})
    if given.attack in {half_open.__name__, "all"}:
        with door_ways.browser(url, folder) as (process, port, log):
            made = door_ways.person(port, folder)
            told = door_attack.attacked(half_open, Target(port), process, made, given.minutes)
            found.append({**told, "way": "directly", "log_bytes": log.stat().st_size})
    return found


@contextmanager
def serving(url: str, vendor: SendGrid, **more: str) -> Iterator[tuple[int, int]]:
    """A server as a process of its own; its process id and its port."""
    environment = {
        **os.environ, "DATABASE_URL": url, "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}", **more,
        "SENDGRID_EVENT_WEBHOOK_PUBLIC_KEY": vendor.public_key, "SENDGRID_EVENT_MAX_AGE_SECONDS": "7200",
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "core", "--handlers", "door_jobs", "serve", "--port", "0"],
        env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as door:  # fmt: skip
        try:
            assert door.stdout is not None
            yield door.pid, int(door.stdout.readline().rpartition(":")[2])
        finally:
            door.terminate()


def loaded(url: str, given: argparse.Namespace, requests: list[Any], port: int) -> dict[str, Any]:
    """Sends everything, with a worker draining beside it, and waits until all is applied."""
    found: Any = multiprocessing.Queue()
    begin = time.time() + 1.0
    senders = [
        multiprocessing.Process(target=send, args=(port, requests[part::SENDERS], begin, found))
        for part in range(SENDERS)
    ]
    for sender in senders:
        sender.start()
    beside = drain_rate(url, given.jobs)
    results = [one for _ in senders for one in found.get()]
    for sender in senders:
        sender.join()
    sent = max(ended for _, ended, _ in results)
    with psycopg.connect(url, autocommit=True) as conn:
        while waiting(conn):
            time.sleep(0.2)
        applied = time.time() - begin
        kept, once = conn.execute(
            "SELECT count(*), count(*) FILTER (WHERE applied_at IS NOT NULL AND failures = 0) FROM provider_events"
        ).fetchall()[0]
    seconds = sorted(taken for taken, _, status in results if status == 200)
    expected = len(requests) * given.events
    return {
        "rate_asked": given.rate, "events_each": given.events, "seconds_asked": given.seconds,
        "requests": len(results), "answered_200": len(seconds), "seconds_until_all_answered": round(sent, 1),
        "rate_reached": round(len(seconds) / sent, 1),
        "p50_ms": at(seconds, 0.5), "p95_ms": at(seconds, 0.95), "p99_ms": at(seconds, 0.99),
        "events_sent": expected, "events_kept": kept, "events_applied_once": once,
        "lost": len(seconds) * given.events - kept, "seconds_until_all_applied": round(applied, 1),
        "drain_per_second_beside": round(beside), "processors": os.cpu_count(),
    }  # fmt: skip


def waiting(conn: psycopg.Connection[Any]) -> int:
    return int(conn.execute("SELECT count(*) FROM provider_events WHERE applied_at IS NULL").fetchall()[0][0])


def at(seconds: list[float], share: float) -> float | None:
    """A percentile in milliseconds."""
    return round(seconds[min(len(seconds) - 1, int(len(seconds) * share))] * 1000, 1) if seconds else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 requests a second for 5 seconds")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs that the worker drains beside the load")
    parser.add_argument("--attack", choices=[*ATTACKS, half_open.__name__, "all"], help="call beside an attack")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long the attack lasts")
    given = parser.parse_args()
    os.environ["JOBDECK_PLUGINS"] = "competition"  # for this process and the servers: the webhooks are the plugin's
    if given.quick:
        given.rate, given.seconds, given.jobs = 20.0, 5.0, 2_000
    with tempfile.TemporaryDirectory(prefix="jobdeck-bench-") as folder:
        # As root, Postgres runs under another account, which has to get in.
        Path(folder).chmod(0o755)
        with EmbeddedPostgres.open(Path(folder)) as server:
            if given.attack:
                return door_attack.report(attacks(server.url, given, Path(folder)))
            told = measure(server.url, given)
    print(json.dumps(told, indent=2))
    return 0 if told["lost"] == 0 and told["events_kept"] == told["events_applied_once"] else 1


if __name__ == "__main__":
    sys.exit(main())
