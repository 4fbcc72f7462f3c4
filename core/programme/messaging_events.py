"""What pulling delivery results needs of the tables: how far it has come, and which messages are still open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID  # noqa: TC003 -- dataclasses keep it as a value's type

from psycopg.rows import class_row

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    import psycopg


@dataclass(frozen=True, slots=True)
class OpenMail:
    """Mail under one category of which the outcome is not known, and when the first of it went out."""

    category: str
    since: datetime
    messages: int


@dataclass(frozen=True, slots=True)
class OpenText:
    """One text message of which the outcome is not known."""

    outbox_id: UUID
    sid: str


def clock(conn: psycopg.Connection[Any]) -> datetime:
    """The database's time."""
    at: datetime = conn.execute("select now()").fetchall()[0][0]
    return at


def cursor_of(conn: psycopg.Connection[Any], name: str) -> str | None:
    """Where a source was left, or None."""
    row = conn.execute("select position from provider_cursors where name = %s", (name,)).fetchone()
    return None if row is None else str(row[0])


def open_mail(conn: psycopg.Connection[Any], younger_than: timedelta) -> list[OpenMail]:
    """Categories with mail that is taken or uncertain and not older than that."""
    with conn.cursor(row_factory=class_row(OpenMail)) as cursor:
        return cursor.execute(
            """
            select case kind when 'announcement' then 'campaign-' || campaign_id else kind end as category,
                min(coalesce(accepted_at, updated_at)) as since, count(*) as messages
            from outbox_messages
            where channel = 'email' and state in ('accepted', 'uncertain')
                and coalesce(accepted_at, updated_at) > now() - %s::interval
            group by 1 order by 1
            """,
            (younger_than,),
        ).fetchall()


def open_texts(conn: psycopg.Connection[Any], younger_than: timedelta, limit: int) -> list[OpenText]:
    """Text messages that are taken and not older than that, oldest first."""
    with conn.cursor(row_factory=class_row(OpenText)) as cursor:
        return cursor.execute(
            """
            select id as outbox_id, provider_message_id as sid from outbox_messages
            where channel = 'sms' and state = 'accepted' and provider_message_id is not null
                and accepted_at > now() - %s::interval
            order by accepted_at limit %s
            """,
            (younger_than, limit),
        ).fetchall()
