"""Upserts solves and Flash CTF results in the caller's transaction."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from jobdeck.core.programme.sync.rules import category_label
from jobdeck.core.programme.vendors.metactf_wire import ChallengeSolve, FlashCtf, moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

    from jobdeck.core.programme.sync.fetch import Answers

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Written:
    """The effect of a write. `changed` counts rows inserted, updated or deleted."""

    new_solves: int = 0
    new_events: int = 0
    changed: int = 0
    collisions: int = 0
    events_without_start: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(*map(sum, zip(astuple(self), astuple(other), strict=True)))


def store_odl(conn: psycopg.Connection[Any], answers: Answers) -> Written:
    """Stores the on-demand (ODL) solves of an answer; unchanged rows are not written."""
    solves = answers.scores.challenge_solves if answers.scores else []
    return _upsert_solves(conn, answers, "odl", [("", solve) for solve in solves])


def store_flash(conn: psycopg.Connection[Any], answers: Answers) -> Written:
    """Stores a whole Flash CTF history. Events without a start time have no id; they are counted, not stored.

    If the plan says `replace_flash`, rows that the vendor no longer lists are deleted. That needs a complete answer
    with at least one event, because the vendor also sends an empty history for people it has lost.
    """
    listed = answers.flash.flash_ctfs if answers.flash else []
    events = {event.event_id: event for event in listed if event.event_id is not None}
    solves = [(event_id, solve) for event_id, event in events.items() for solve in event.challenge_solves]
    _adopt_old_rows(conn, answers, solves)
    written = _upsert_solves(conn, answers, "flash_ctf", solves)
    written += _upsert_events(conn, answers, events)
    written += Written(events_without_start=sum(event.event_id is None for event in listed))
    if answers.plan.replace_flash and events and not written.events_without_start:
        written += _remove_unlisted(conn, answers, list(events), solves)
    return written


def _upsert_solves(
    conn: psycopg.Connection[Any], answers: Answers, source: str, solves: Sequence[tuple[str, ChallengeSolve]]
) -> Written:
    rows = {(event_id, solve.challenge_solve_id): solve for event_id, solve in solves}
    if not rows:
        return Written()
    for key in _held_by_others(conn, answers, source, list(rows)):
        del rows[key]
    if not rows:
        return Written(collisions=len(solves))
    keys, found = list(rows), list(rows.values())
    inserted = conn.execute(
        """
        insert into public.game_platform_challenge_solves as s
          (synced_user_id, metactf_user_id, synced_team_id, source, event_id, challenge_solve_id, challenge_id,
           challenge_title, challenge_points, challenge_category, solved_at, raw_payload)
        select %(user)s, %(metactf_user_id)s, %(team)s, %(source)s, new.*
        from unnest(%(event_ids)s::text[], %(solve_ids)s::bigint[], %(challenge_ids)s::bigint[],
                    %(titles)s::text[], %(points)s::integer[], %(categories)s::text[],
                    %(solved_at)s::timestamptz[], %(raw)s::jsonb[]) as new
        on conflict (synced_user_id, source, event_id, challenge_solve_id) do update set
          challenge_id = excluded.challenge_id, challenge_title = excluded.challenge_title,
          challenge_points = excluded.challenge_points, challenge_category = excluded.challenge_category,
          solved_at = excluded.solved_at, raw_payload = excluded.raw_payload
        where (s.challenge_id, s.challenge_title, s.challenge_points, s.challenge_category, s.solved_at,
               s.raw_payload)
          is distinct from (excluded.challenge_id, excluded.challenge_title, excluded.challenge_points,
                            excluded.challenge_category, excluded.solved_at, excluded.raw_payload)
        returning xmax = 0
        """,
        {
            "user": answers.subject.synced_user_id,
            "metactf_user_id": answers.scores.metactf_user_id if answers.scores else answers.subject.metactf_user_id,
            "team": answers.subject.synced_team_id,
            "source": source,
            "event_ids": [event_id for event_id, _ in keys],
            "solve_ids": [solve_id for _, solve_id in keys],
            "challenge_ids": [solve.challenge_id for solve in found],
            "titles": [solve.challenge_title for solve in found],
            "points": [solve.challenge_points for solve in found],
            "categories": [category_label(solve.challenge_category) for solve in found],
            "solved_at": [moment(solve.timestamp_unix) for solve in found],
            "raw": [Jsonb(solve.raw()) for solve in found],
        },
    ).fetchall()
    return Written(
        new_solves=sum(new for (new,) in inserted),
        changed=len(inserted),
        collisions=len(solves) - len(rows),
    )


def _held_by_others(
    conn: psycopg.Connection[Any], answers: Answers, source: str, keys: Sequence[tuple[str, int]]
) -> list[tuple[str, int]]:
    """The solves that cannot be stored, because the database still has the original's key over (user, solve).

    A row of another event with the same id stays. `jobdeck cutover stay` drops that key, and the next full sync stores
    the rest.
    """
    if conn.execute("select from public.competition_key_of_solves()").fetchone() is None:
        return []
    held = dict(
        conn.execute(
            """
            select challenge_solve_id, case when source = %(source)s then event_id end
            from public.game_platform_challenge_solves
            where synced_user_id = %(user)s and challenge_solve_id = any (%(ids)s)
            """,
            {
                "user": answers.subject.synced_user_id,
                "source": source,
                "ids": [solve_id for _, solve_id in keys],
            },
        ).fetchall()
    )
    left_out = []
    for event_id, solve_id in keys:
        if held.setdefault(solve_id, event_id) != event_id:
            left_out.append((event_id, solve_id))
    return left_out


def _upsert_events(conn: psycopg.Connection[Any], answers: Answers, events: dict[str, FlashCtf]) -> Written:
    if not events:
        return Written()
    found = list(events.values())
    inserted = conn.execute(
        """
        insert into public.game_platform_flash_ctf_events as e
          (synced_user_id, metactf_user_id, event_id, flash_ctf_name, challenges_solved, points_earned, rank,
           max_points_possible, started_at, raw_payload)
        select %(user)s, %(metactf_user_id)s, new.*
        from unnest(%(event_ids)s::text[], %(names)s::text[], %(solved)s::integer[], %(points)s::integer[],
                    %(ranks)s::integer[], %(most)s::integer[], %(starts)s::timestamptz[], %(raw)s::jsonb[]) as new
        on conflict (synced_user_id, event_id) do update set
          flash_ctf_name = excluded.flash_ctf_name, challenges_solved = excluded.challenges_solved,
          points_earned = excluded.points_earned, rank = excluded.rank,
          max_points_possible = excluded.max_points_possible, started_at = excluded.started_at,
          raw_payload = excluded.raw_payload
        where (e.challenges_solved, e.points_earned, e.rank, e.max_points_possible, e.started_at, e.raw_payload)
          is distinct from (excluded.challenges_solved, excluded.points_earned, excluded.rank,
                            excluded.max_points_possible, excluded.started_at, excluded.raw_payload)
        returning xmax = 0
        """,
        {
            "user": answers.subject.synced_user_id,
            "metactf_user_id": answers.scores.metactf_user_id if answers.scores else answers.subject.metactf_user_id,
            "event_ids": list(events),
            "names": [event.flash_ctf_name for event in found],
            "solved": [event.challenges_solved for event in found],
            "points": [event.points_earned for event in found],
            "ranks": [event.rank for event in found],
            "most": [event.max_points_possible for event in found],
            "starts": [moment(event.flash_ctf_time_start_unix) for event in found],
            "raw": [Jsonb(event.raw()) for event in found],
        },
    ).fetchall()
    return Written(new_events=sum(new for (new,) in inserted), changed=len(inserted))


def _adopt_old_rows(
    conn: psycopg.Connection[Any], answers: Answers, solves: Iterable[tuple[str, ChallengeSolve]]
) -> None:
    """Sets the event on Flash CTF solves that were stored before the key included the event."""
    dated = [(event_id, solve) for event_id, solve in solves if solve.timestamp_unix]
    if not dated:
        return
    conn.execute(
        """
        update public.game_platform_challenge_solves as s set event_id = new.event_id
        from unnest(%(event_ids)s::text[], %(solve_ids)s::bigint[], %(solved_at)s::timestamptz[])
             as new (event_id, challenge_solve_id, solved_at)
        where s.synced_user_id = %(user)s and s.source = 'flash_ctf' and s.event_id = ''
          and s.challenge_solve_id = new.challenge_solve_id and s.solved_at = new.solved_at
          and not exists (
            select from public.game_platform_challenge_solves as k
            where k.synced_user_id = %(user)s and k.source = 'flash_ctf' and k.event_id = new.event_id
              and k.challenge_solve_id = new.challenge_solve_id)
        """,
        {
            "user": answers.subject.synced_user_id,
            "event_ids": [event_id for event_id, _ in dated],
            "solve_ids": [solve.challenge_solve_id for _, solve in dated],
            "solved_at": [moment(solve.timestamp_unix) for _, solve in dated],
        },
    )


def _remove_unlisted(
    conn: psycopg.Connection[Any],
    answers: Answers,
    event_ids: list[str],
    solves: Sequence[tuple[str, ChallengeSolve]],
) -> Written:
    values = {
        "user": answers.subject.synced_user_id,
        "events": event_ids,
        "event_ids": [event_id for event_id, _ in solves],
        "solve_ids": [solve.challenge_solve_id for _, solve in solves],
    }
    removed = conn.execute(
        """
        delete from public.game_platform_challenge_solves
        where synced_user_id = %(user)s and source = 'flash_ctf'
          and (event_id, challenge_solve_id) not in (
            select * from unnest(%(event_ids)s::text[], %(solve_ids)s::bigint[]))
        """,
        values,
    ).rowcount
    removed += conn.execute(
        "delete from public.game_platform_flash_ctf_events "
        "where synced_user_id = %(user)s and event_id <> all (%(events)s::text[])",
        values,
    ).rowcount
    return Written(changed=removed)
