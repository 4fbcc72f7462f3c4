"""Finds archived messages without a read receipt and inserts the missing receipts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import class_row

if TYPE_CHECKING:
    from datetime import datetime

    import psycopg


@dataclass(frozen=True, slots=True)
class Batch:
    """The result of one batch, and the position of its last message, or None if there was none."""

    scanned: int
    inserted: int
    archived_at: datetime | None
    id: UUID | None


def missing(conn: psycopg.Connection[Any], most: int | None) -> int:
    """Number of archived messages without a receipt, up to `most`."""
    row = conn.execute(
        """
        select count(*) from (
            select from message_user_state s
            where s.archived_at is not null and not exists (
                select from message_read_receipts r where r.message_id = s.message_id and r.user_id = s.user_id)
            limit %s) found
        """,
        (most,),
    ).fetchall()[0]
    return int(row[0])


def first(conn: psycopg.Connection[Any], count: int) -> list[UUID]:
    """The ids of the first archived messages without a receipt, in the order of `fill`."""
    rows = conn.execute(
        """
        select s.message_id from message_user_state s
        where s.archived_at is not null and not exists (
            select from message_read_receipts r where r.message_id = s.message_id and r.user_id = s.user_id)
        order by s.archived_at, s.id limit %s
        """,
        (count,),
    )
    return [message for (message,) in rows]


def fill(conn: psycopg.Connection[Any], size: int, *, after: tuple[str, str] | None) -> Batch:
    """Inserts the missing receipts of the next archived messages, with the archive time as the read time.

    `after` is the archive time and id of the last message processed.
    """
    at, last = after if after is not None else (None, None)
    with conn.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(
            """
            with found as (
                select s.id, s.message_id, s.user_id, s.archived_at from message_user_state s
                where s.archived_at is not null
                    and (s.archived_at, s.id) > (coalesce(%(at)s::timestamptz, '-infinity'),
                        coalesce(%(last)s::uuid, '00000000-0000-0000-0000-000000000000'))
                    and not exists (select from message_read_receipts r
                        where r.message_id = s.message_id and r.user_id = s.user_id)
                order by s.archived_at, s.id limit %(size)s),
            made as (
                insert into message_read_receipts (message_id, user_id, read_at)
                select message_id, user_id, archived_at from found
                on conflict (message_id, user_id) do nothing returning 1)
            select (select count(*) from found) as scanned, (select count(*) from made) as inserted, l.archived_at, l.id
            from (select) as one
            left join (select archived_at, id from found order by archived_at desc, id desc limit 1) as l on true
            """,
            {"at": at, "last": last, "size": size},
        ).fetchall()[0]
