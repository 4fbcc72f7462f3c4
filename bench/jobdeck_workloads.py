"""What is measured of Jobdeck alone: backlogs that cannot run, churn, long transactions, payloads, the dashboard.

    python jobdeck_workloads.py stuck paused        one JSON line for each figure

Each compares two states of one queue within one process, so that the ratio does not depend on the machine.
"""

import argparse

import common
import peer_jobdeck
from backlogs import KINDS, churn, stuck
from mixes import lending, limited, mixed, payloads
from processes import computing, growth, snapshot, start, waiting

WORKLOADS = {
    found.__name__: found
    for found in (stuck, churn, payloads, mixed, lending, limited, waiting, computing, growth, start, snapshot)
}


def main():
    """Runs the workload named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("kind", nargs="?", choices=sorted(KINDS))
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--backlog", type=int, default=1_000_000, help="for stuck")
    parser.add_argument("--old-transaction", action="store_true")
    args = parser.parse_args()
    common.make_template(peer_jobdeck)  # an earlier run may have left that of another schema
    WORKLOADS[args.workload](args)


if __name__ == "__main__":
    main()
