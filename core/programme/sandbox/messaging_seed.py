"""Inserts the sample's conversations, release forms and campaign. Existing rows are not changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

Row = dict[str, Any]


def add_admins(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into profiles (id, email, role, full_name, first_name, last_name, school_name, is_approved)
            values (%(id)s, %(email)s, 'admin', %(first_name)s || ' ' || %(last_name)s, %(first_name)s, %(last_name)s,
                    'Competition office', true)
            on conflict do nothing
            """,
            rows,
        )


def set_numbers(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    """Sets the number and the text message preference of coaches without a number."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            update profiles set mobile_number = %(number)s, sms_notifications_enabled = %(sms)s
            where id = %(id)s and mobile_number is null
            """,
            rows,
        )


def add_conversations(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    """Inserts conversations whose members joined a month ago."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            with conversation as (
                insert into conversations (id, type, title, created_by)
                values (%(id)s, 'group', %(title)s, %(created_by)s) on conflict do nothing returning id)
            insert into conversation_members (conversation_id, user_id, joined_at)
            select c.id, m, now() - interval '30 days' from conversation c, unnest(%(members)s::uuid[]) as m
            on conflict do nothing
            """,
            rows,
        )


def add_messages(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    """Inserts messages; `age` is in minutes."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into messages (id, conversation_id, sender_id, body, created_at)
            values (%(id)s, %(conversation_id)s, %(sender_id)s, %(body)s, now() - make_interval(mins => %(age)s))
            on conflict do nothing
            """,
            rows,
        )


def archive(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    """Archives messages for people without a read receipt, like the original program."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into message_user_state (user_id, message_id, archived_at)
            values (%(user_id)s, %(message_id)s, now() - interval '1 hour')
            on conflict do nothing
            """,
            rows,
        )


def add_agreements(conn: psycopg.Connection[Any], rows: Sequence[Row]) -> None:
    """Inserts minors' release forms; `age` is the number of hours since they were sent."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into agreements (id, competitor_id, provider, template_kind, request_id, status, created_at)
            values (%(id)s, %(competitor_id)s, 'zoho', 'minor', %(request_id)s, 'sent',
                    now() - make_interval(hours => %(age)s))
            on conflict do nothing
            """,
            rows,
        )


def add_campaign(conn: psycopg.Connection[Any], row: Row) -> None:
    """Inserts a campaign to everyone on the platform, with its recipients, unless it exists."""
    conn.execute(
        """
        with campaign as (
            insert into competitor_announcement_campaigns
                (id, subject, body_markdown, body_html, status, audience, created_by, created_by_actor)
            values (%(id)s, %(subject)s, %(body_markdown)s, %(body_html)s, 'pending', 'game_platform', %(created_by)s,
                    'the sample')
            on conflict do nothing returning id)
        insert into competitor_announcement_recipients
            (campaign_id, competitor_id, email, email_norm, status, skip_reason)
        select c.id, a.competitor_id, a.address_norm, a.address_norm,
            case when a.reason is null then 'queued' else 'skipped' end, a.reason
        from campaign c, outbox_audience('game_platform', null) a order by a.place
        """,
        row,
    )
