"""Prints what a run is measured on, as one record: commit, machine, versions, settings of server and peers."""

import json
import os
import platform
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

import common
import own_server

from jobdeck.core.postgres.binaries import find_binaries, server_account

HERE = Path(__file__).resolve().parent
DISTRIBUTIONS = ("psycopg", "textual", "pgqueuer", "oban", "procrastinate", "awa-pg")
SERVER = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "autovacuum_naptime",
    "jit",
)


def commit():
    """Which Jobdeck it is; marked where files differ from it."""
    asked = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "not in a repository"


def processor():
    """The model's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def version(name):
    """A library's version."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def embedded_version():
    """Of the Postgres that some measurements start for themselves."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # the account of the server enters it
        return find_binaries(server_account(), Path(folder)).version


def circumstances():
    """The record."""
    peers = [common.load_peer(str(file)) for file in sorted(HERE.glob("peer_*.py"))]
    with common.connect() as connection:
        server = {name: connection.execute(f"SHOW {name}").fetchone()[0] for name in SERVER}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "workload": "circumstances",
        "commit": commit(),
        "run": {"size": os.environ.get("BENCH_SIZE"), "repetitions": os.environ.get("BENCH_REPEAT")},
        "machine": f"{os.cpu_count()} processors ({processor()}), {memory:.1f} GiB, {platform.system()}",
        "load before": round(os.getloadavg()[0], 2),
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in DISTRIBUTIONS}},
        "server": server,
        "server of crowd, far, large, history and keys": {"server_version": embedded_version(), **own_server.SETTINGS},
        **{f"settings of {peer.NAME}": {name: str(value) for name, value in peer.SETTINGS.items()} for peer in peers},
    }


if __name__ == "__main__":
    print(json.dumps(circumstances()))
