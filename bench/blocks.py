"""What is small enough to be measured in blocks, by turns on open connections: one enqueue, and one round of a job.

    python bench/blocks.py enqueue [--rounds 14] [--block 200]
    python bench/blocks.py chain [--rounds 14] [--block 100]

Each prints a line of JSON. `ratio` is the median of the ratios of each round: of the rates for `enqueue`, of the times
for `chain`. `server_us` and `client_us` are the processor time of the server's process and of this program for one call
or round. `enqueue` is beside the INSERT of the bare loop, each in a transaction of its own. A round of `chain` claims a
job, and reports that it succeeded: jobs of one key, of which one runs at a time, beside jobs without keys.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import peer_jobdeck as peer
import peer_raw

from jobdeck.core.model import FinishedRun, NewJob, RunOutcome
from jobdeck.core.queue import leases, presence, producer

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

ACTOR = "bench"
WARM = 20


class Blocks:
    """Blocks of one kind of call: the seconds of each, and the processor time of all."""

    def __init__(self, conn: psycopg.Connection[Any], call: Callable[[], object]) -> None:
        self.seconds: list[float] = []
        self._call = call
        self._process = Path(f"/proc/{conn.info.backend_pid}/schedstat")
        self._server = self._client = self._calls = 0.0
        for _ in range(WARM):
            call()

    def run(self, block: int) -> None:
        """One block."""
        server, client, began = self._server_seconds(), time.process_time(), time.perf_counter()
        for _ in range(block):
            self._call()
        self.seconds.append((time.perf_counter() - began) / block)
        self._client += time.process_time() - client
        self._server += self._server_seconds() - server
        self._calls += block

    def figures(self) -> dict[str, float]:
        """The median of the blocks, and microseconds of processor time for one call."""
        return {
            "rate": 1 / statistics.median(self.seconds),
            "server_us": 1e6 * self._server / self._calls,
            "client_us": 1e6 * self._client / self._calls,
        }

    def _server_seconds(self) -> float:
        return int(self._process.read_text().split()[0]) / 1e9


def by_turns(workload: str, ours: Blocks, beside: Blocks, args: argparse.Namespace, *, times: bool) -> None:
    """Runs the blocks, and prints what they took."""
    for turn in range(args.rounds):
        for blocks in (ours, beside) if turn % 2 else (beside, ours):
            blocks.run(args.block)
    ratios = [mine / other for mine, other in zip(ours.seconds, beside.seconds, strict=True)]
    ratio = statistics.median(ratios if times else [1 / each for each in ratios])
    others = {f"beside_{name}": value for name, value in beside.figures().items()}
    common.emit(workload, jobs=args.rounds * args.block, ratio=ratio, **ours.figures(), **others)


def enqueue(args: argparse.Namespace) -> None:
    """One call and commit for each job, beside the bare loop's."""
    with (
        common.fresh_database(peer) as database,
        common.fresh_database(peer_raw) as bare,
        common.connect(database) as conn,
        common.connect(bare) as loop,
    ):
        types = peer.registry()

        def one() -> None:
            job_type, payload = types.validate("noop", {"seq": 1})
            producer.enqueue(conn, NewJob("noop", job_type.dump(payload)), actor=ACTOR)

        def insert() -> None:
            loop.execute("INSERT INTO job (args) VALUES (%s)", ['{"seq": 1}'])

        by_turns("blocks_enqueue", Blocks(conn, one), Blocks(loop, insert), args, times=False)


def chain(args: argparse.Namespace) -> None:
    """Jobs of one key by turns with jobs of another type that have none."""
    jobs = args.rounds * args.block + WARM
    with common.fresh_database(peer) as database, common.connect(database) as conn:
        # The next job of a line is put first where a live worker runs its type.
        presence.report_worker(conn, worker_id=ACTOR, host=ACTOR, pid=1, mode="headless", version=ACTOR,
                               concurrency=8, task_types=["chained", "plain"], running=0)  # fmt: skip
        for kind, key in (("chained", "one"), ("plain", None)):
            producer.enqueue_many(
                conn, [NewJob(kind, {"seq": seq}, concurrency_key=key) for seq in range(jobs)], actor=ACTOR
            )
        conn.execute("VACUUM (ANALYZE)")

        def a_round(kind: str) -> Callable[[], None]:
            def run() -> None:
                [claimed] = leases.claim(conn, ACTOR, [kind], 1, 60.0, free=1)
                now = time.time()
                done = FinishedRun(claimed.id, claimed.run_token, RunOutcome.SUCCEEDED, now, now)
                leases.finish(conn, ACTOR, [done], retry_base=30.0, retry_cap=3600.0)

            return run

        by_turns("blocks_chain", Blocks(conn, a_round("chained")), Blocks(conn, a_round("plain")), args, times=True)


def main() -> None:
    """Measures one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("workload", choices=("enqueue", "chain"))
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--block", type=int, default=200)
    args = parser.parse_args()
    for each in (peer, peer_raw):
        common.make_template(each)  # an earlier run may have left that of another schema
    {"enqueue": enqueue, "chain": chain}[args.workload](args)


if __name__ == "__main__":
    main()
