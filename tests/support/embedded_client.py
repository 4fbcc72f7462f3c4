"""A process that uses the embedded Postgres until it is told to quit, is interrupted, or is killed.

Prints one JSON line when it is connected, and one for each line of SQL it reads.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from jobdeck.core.postgres.embedded import EmbeddedPostgres


def main() -> int:
    state = Path(sys.argv[1]) if sys.argv[1] else None
    if len(sys.argv) > 2:
        _become(int(sys.argv[2]), int(sys.argv[3]))
    try:
        with EmbeddedPostgres.open(state) as server, server.connect() as connection:
            _say({"url": server.url})
            for line in sys.stdin:
                cursor = connection.execute(line)
                _say(cursor.fetchall() if cursor.description else None)
    except KeyboardInterrupt:
        return 130
    return 0


def _say(answer: Any) -> None:
    sys.stdout.write(f"{json.dumps(answer, default=str)}\n")
    sys.stdout.flush()


def _become(uid: int, gid: int) -> None:
    """Turns into an ordinary user, for good; everything is imported by now."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


if __name__ == "__main__":
    raise SystemExit(main())
