#!/usr/bin/env bash
# Measures every peer on each workload, one peer after another within a repetition, and appends to
# $BENCH_RESULTS.   run_all.sh [drain drain2 pickup enqueue_single enqueue_bulk backlog idle waits]
#
#   BENCH_PEERS   folders with peer_*.py, separated by colons (default: this one)
#   BENCH_REPEAT  repetitions (default: 3)
#   BENCH_ONLY    names of peer files, if not all
#   BENCH_SIZE    quick: fewer jobs before a smaller backlog, and less time idle
#   BENCH_WRAP    a command to put before each measurement, such as "flock -o FILE"
set -uo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
export BENCH_HOME=${BENCH_HOME:-${TMPDIR:-/tmp}/jobdeck-bench}
export PYTHONDONTWRITEBYTECODE=1
RESULTS=${BENCH_RESULTS:-$BENCH_HOME/results.jsonl}

bench() { "$BENCH_HOME/venv/bin/python" "$HERE/compare.py" "$@"; }
measure() { ${BENCH_WRAP:-} "$BENCH_HOME/venv/bin/python" "$HERE/compare.py" "$@"; }

declare -A COMMAND=(
    [drain]="drain 10000"
    [drain2]="drain 10000 --workers 2"
    [pickup]="pickup 200"
    [enqueue_single]="enqueue_single 2000"
    [enqueue_bulk]="enqueue_bulk 50000"
    [backlog]="backlog 10000"
    [idle]="idle 20"
    [drain_long]="drain 200000"
    [waits]="waits 10000"
)
if [ "${BENCH_SIZE:-}" = quick ]; then
    COMMAND[backlog]="backlog 3000 --pending 200000"
    COMMAND[idle]="idle 10"
fi
[ $# -gt 0 ] || set -- drain drain2 pickup enqueue_single enqueue_bulk backlog idle waits

PEERS=()
IFS=: read -ra FOLDERS <<<"${BENCH_PEERS:-$HERE}"
for folder in "${FOLDERS[@]}"; do
    for peer in "$folder"/peer_*.py; do
        [ -e "$peer" ] || continue
        [ -z "${BENCH_ONLY:-}" ] || [[ " $BENCH_ONLY " == *" ${peer##*/} "* ]] || continue
        bench "$peer" install || exit 1
        PEERS+=("$peer")
    done
done

failed=0
for workload in "$@"; do
    [ -n "${COMMAND[$workload]:-}" ] || { echo "no workload $workload" >&2; exit 2; }
    for repetition in $(seq "${BENCH_REPEAT:-3}"); do
        for peer in "${PEERS[@]}"; do
            for setting in $(bench "$peer" plan "$workload"); do
                # Word splitting wanted: the command and its arguments.
                # shellcheck disable=SC2086
                measure "$peer" ${COMMAND[$workload]} --setting "$setting" | tee -a "$RESULTS" ||
                    { echo "failed: $peer $workload $setting" >&2; failed=1; }
            done
        done
    done
done
exit $failed
