"""Says of which task types too many runs fail (`job_failing_types`, kept by the upkeep of workers), and until when."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.model import Finding, Verdict
from jobdeck.core.read.batch import Query, combine, select

if TYPE_CHECKING:
    from jobdeck.core.read.rows import Row

SIGNAL: Final = "failures"
"""The signal of these findings. Each has the task type as its subject."""
WINDOW: Final = timedelta(minutes=15)
"""The runs of this time are judged, and a verdict falls after this time."""
NEW: Final = timedelta(hours=1)
"""How long an error is new."""
LONGEST: Final = 60
"""Characters of an error that a finding shows."""

TYPES: Final = """
SELECT f.*, t.muted_until, t.muted_by, now() AS at,
    (SELECT coalesce(nullif(g.pattern, ''), g.error_kind) FROM job_error_groups AS g
        WHERE g.task_type = f.task_type AND g.first_at = f.new_since ORDER BY g.fingerprint LIMIT 1) AS new_error,
    coalesce((SELECT p.paused_at FROM job_paused_types AS p WHERE p.task_type = f.task_type
            AND (p.resume_at IS NULL OR p.resume_at > now())),
        (SELECT q.paused_at FROM job_queue_settings AS q
            WHERE q.id = 1 AND NOT q.processing_enabled AND (q.resume_at IS NULL OR q.resume_at > now()))) AS paused_at
FROM job_failing_types AS f
LEFT JOIN job_types AS t ON t.task_type = f.task_type AND t.muted_until > now()
WHERE f.verdict IS NOT NULL
ORDER BY f.verdict, f.lost DESC, f.failed DESC, f.task_type
"""


def facet_values() -> Query[dict[str, tuple[str, Any]]]:
    """By task type, the key of its facet and the value that a run has; without those that this session may not see."""
    return select(
        """
        SELECT f.task_type, f.facet_key, r.payload -> f.facet_key AS value FROM job_failing_types AS f
        JOIN job_run_list AS r ON r.run_token = f.facet_token AND NOT r.late
        WHERE f.verdict IS NOT NULL AND f.facet_key IS NOT NULL AND job_sees_payloads() AND r.payload ? f.facet_key
        """,
        read=lambda rows: {row["task_type"]: (row["facet_key"], row["value"]) for row in rows},
    )


def common_errors() -> Query[dict[str, str]]:
    """By task type with a verdict, the newest error of the group with the most of its newest failed runs.

    These are the runs of the 15 minutes before the last failure. It is the text that the page of errors shows.
    """
    return select(
        """
        WITH counted AS MATERIALIZED (
            SELECT f.task_type, e.fingerprint, sum(e.runs) AS runs FROM job_failing_types AS f
            JOIN job_stat_error_list AS e ON e.task_type = f.task_type AND e.fingerprint <> 'other'
                AND e.bucket >= job_stat_bucket(5, f.last_failed_at - interval '15 minutes')
            WHERE f.verdict IN ('warning', 'critical') GROUP BY 1, 2
        ), commonest AS MATERIALIZED (
            SELECT DISTINCT ON (task_type) task_type, fingerprint FROM counted
            ORDER BY task_type, runs DESC, fingerprint
        )
        SELECT c.task_type, coalesce(r.error, nullif(g.pattern, '')) AS error FROM commonest AS c
        CROSS JOIN LATERAL (
            SELECT max(k.pattern) AS pattern, max(k.sample_token) AS token FROM job_error_group_list AS k
            WHERE k.fingerprint = c.fingerprint AND k.task_type = c.task_type
        ) AS g
        LEFT JOIN job_run_list AS r ON r.run_token = g.token AND NOT r.late AND r.task_type = c.task_type
            AND r.fingerprint = c.fingerprint
        """,
        read=lambda rows: {row["task_type"]: row["error"] for row in rows if row["error"]},
    )


def causes() -> Query[tuple[dict[str, tuple[str, Any]], dict[str, str]]]:
    """What `facet_values` and `common_errors` say."""
    return combine(facet_values(), common_errors(), read=lambda values, errors: (values, errors))


def raised_alarms() -> Query[tuple[str, ...]]:
    """The names of the alarms that were raised and are not over."""
    return select("SELECT name FROM job_alarms ORDER BY name", read=lambda rows: tuple(row["name"] for row in rows))


def judge(types: list[Row]) -> list[Finding]:
    """A finding for each type of which too many runs fail, or failed when its runs ended.

    That one, and a muted one, is no reason for an alarm, and says so.
    """
    return [Finding(SIGNAL, _verdict(one), words(one), _since(one), subject=one["task_type"]) for one in types]


def words(one: dict[str, Any]) -> str:
    """What was found, what has become of it, and when it ends, as one sentence."""
    if one["verdict"] == "note":
        parts = [f"ended at {_value(one)}, no run since {_clock(one['last_at'], one)}"]
    elif one["calm_since"] and _is_over(one):
        parts = [f"recovering since {_clock(one['calm_since'], one)}: {_counted(one)}", _end(one)]
    else:
        parts = [*_facet(one), *_reasons(one), _end(one)]
    if one["muted_until"]:
        parts.append(f"muted by {one['muted_by']} until {one['muted_until']:%Y-%m-%d %H:%M}Z")
    return f"{one['task_type']}: {'; '.join(parts)}."


def facet_words(key: str, value: str | None = None) -> str:
    """What is said to fail: a key with its value, or one value of the key for those who may not see it."""
    shown = key if len(key) <= LONGEST else key[: LONGEST - 1] + "…"
    return f"one {shown}" if value is None else f"{shown} {value}"


def _facet(one: dict[str, Any]) -> list[str]:
    key = one["facet_key"]
    return [] if key is None else [f"{facet_words(key)} fails {_percent(one['facet_share'])}"]


def _verdict(one: dict[str, Any]) -> Verdict:
    return Verdict.OK if one["muted_until"] or one["verdict"] == "note" else Verdict(one["verdict"])


def _since(one: dict[str, Any]) -> datetime | None:
    since: datetime | None = one["since"]
    return None if one["verdict"] == "note" else since


def _percent(share: float) -> str:
    """A share as a number of percent, with a decimal below 10."""
    if 0 < share < 0.0005:
        return "under 0.1 %"
    return f"{100 * share:.{0 if share >= 0.0995 or not share else 1}f} %"


def _clock(at: datetime, one: dict[str, Any]) -> str:
    """A time by hours and minutes, with its date where another day may be meant."""
    near = abs(one["at"] - at) < timedelta(hours=20)
    return f"{at:%H:%M}Z" if near else f"{at:%m-%d %H:%M}Z"


def _share(one: dict[str, Any]) -> float:
    return one["failed"] / one["runs"] if one["runs"] else 0.0


def _is_high(one: dict[str, Any]) -> bool:
    """Whether the share of failures is reason enough, of 20 runs or more."""
    # Without a history, the share for a warning is above the one for critical.
    return one["runs"] >= 20 and _share(one) >= min(one["warning_share"] or 0, one["critical_share"] or 0)


def _reasons(one: dict[str, Any]) -> list[str]:
    """All that is reason enough, the worst first; only the first one says of which time it is."""
    first, found = f" in the 15 minutes to {_clock(one['judged_at'], one)}", []
    if _is_high(one):
        found.append(_counted(one))
    elif one["in_a_row"]:
        found.append(f"the last {one['failed_in_a_row']:,} runs failed")
    if one["lost"] >= one["lost_limit"]:
        found.append(f"{_jobs(one)} failed permanently{'' if found else first}")
    if one["new_runs"]:
        found.append(f"{one['new_runs']:,} runs with a new error{_error(one)}")
    if not _is_high(one) and not one["in_a_row"] and one["runs"]:
        found.append(f"{_percent(_share(one))} of {one['runs']:,} runs failed")
    return found


def _counted(one: dict[str, Any]) -> str:
    """How many of the judged runs failed."""
    usual = f", usually {_percent(one['usual'])}" if one["usual"] is not None else ""
    if one["few"]:
        counted = f"of the last {one['runs']:,} runs failed, up to {_clock(one['last_at'], one)}"
    else:
        counted = f"of runs failed in the 15 minutes to {_clock(one['judged_at'], one)}"
    return f"{_percent(_share(one))} {counted} ({one['failed']:,} of {one['runs']:,}{usual})"


def _jobs(one: dict[str, Any]) -> str:
    return "1 job" if one["lost"] == 1 else f"{one['lost']:,} jobs"


def _error(one: dict[str, Any]) -> str:
    """The error without its quoted texts and digits; nothing if it was erased."""
    text = " ".join((one["new_error"] or "").split())
    if not text:
        return ""
    return f": {text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + '…'}"


def _value(one: dict[str, Any]) -> str:
    """What was found last, in short."""
    if _is_high(one):
        return _percent(_share(one))
    if one["in_a_row"]:
        return f"{one['failed_in_a_row']:,} failed runs in a row"
    if one["lost"] >= one["lost_limit"]:
        return f"{_jobs(one)} that failed permanently in 15 minutes"
    return f"{one['new_runs']:,} runs with a new error{_error(one)}" if one["new_runs"] else _percent(_share(one))


def _end(one: dict[str, Any]) -> str:
    """What ends the verdict. Without runs nothing does, so it is said since when there are none."""
    last = one["last_at"] or one["judged_at"]
    if one["paused_at"]:
        return f"paused since {_clock(one['paused_at'], one)}"
    if one["at"] - last >= WINDOW:
        return f"no run since {_clock(last, one)}"
    if one["calm_since"]:
        less = _by("at", one["calm_since"] + WINDOW, one)
        if _is_over(one):
            return f"green {less} if no run fails"
        green = "" if one["few"] else f", {_green(one, last)}"
        return f"less bad since {_clock(one['calm_since'], one)}, a warning {less} if it gets no worse{green}"
    if one["few"]:
        good = "the next 20 good runs" if one["runs"] >= 20 else "15 minutes of good runs"
        return f"green after {good}{_from(one)}"
    return _green(one, last)


def _green(one: dict[str, Any], last: datetime) -> str:
    """By when the verdict ends: the failures are older than the judged runs, and 15 minutes more have passed."""
    ends = (one["last_failed_at"] or last).replace(second=0, microsecond=0) + timedelta(minutes=1) + 2 * WINDOW
    if one["new_since"]:
        ends = max(ends, one["new_since"] + NEW + WINDOW)
    return f"green {_by('by', ends, one)} if no run fails"


def _by(word: str, at: datetime, one: dict[str, Any]) -> str:
    """A time to come; where it has passed, what was found holds until the runs are judged again."""
    return f"{word} {_ceiling(at, one)}" if at > one["at"] else "at the next judgement"


def _from(one: dict[str, Any]) -> str:
    """The time until which a new error is one, where there is one."""
    return f", from {_ceiling(one['new_since'] + NEW, one)} on" if one["new_since"] else ""


def _is_over(one: dict[str, Any]) -> bool:
    """Whether nothing at all is found. A verdict that is critical becomes a warning where something is."""
    return not (_is_high(one) or one["in_a_row"] or one["lost"] >= one["lost_limit"] or one["new_runs"])


def _ceiling(at: datetime, one: dict[str, Any]) -> str:
    """A time to come, in full minutes, not earlier."""
    full = (at + timedelta(seconds=59, microseconds=999_999)).replace(second=0, microsecond=0)
    return f"{full:%H:%M}Z" if full - one["at"] < timedelta(hours=20) else f"{full:%m-%d %H:%M}Z"
