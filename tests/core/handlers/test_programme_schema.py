"""The programme's part of `schema.sql` over nothing, over itself, and over the original application's tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from jobdeck.core.programme.cutover import ends
from tests.support.queue import Connection
from tests.support.schema import install_everything

pytestmark = pytest.mark.installation

# The original's tables where ours differ: nullable dates, the old key over solves, statistics without a key.
ORIGINAL = """
create type user_role as enum ('admin', 'coach');
create type metactf_sync_status as enum ('pending', 'user_created', 'approved', 'denied', 'error');
create type metactf_role as enum ('coach', 'user');
create type competitor_division as enum ('middle_school', 'high_school', 'college');
create table profiles (
  id uuid primary key, email text not null unique, role user_role not null default 'coach', full_name text not null,
  first_name text not null, last_name text not null, school_name text not null, division text, region text,
  is_approved boolean default false, game_platform_user_id text, game_platform_last_synced_at timestamptz,
  mobile_number text, email_alerts_enabled boolean default true, email_alert_address text,
  sms_notifications_enabled boolean default false, instant_sms_enabled boolean default false,
  last_unread_alert_at timestamptz, last_unread_alert_count int,
  created_at timestamptz default now(), updated_at timestamptz default now(), favourite_colour text);
create table competitors (
  id uuid primary key, coach_id uuid not null references profiles on delete cascade, first_name text not null,
  last_name text not null, email_personal text, email_school text, is_18_or_over boolean default false,
  grade text, gender text, race text, ethnicity text, level_of_technology text, years_competing int,
  parent_name text, parent_email text, media_release_date timestamptz, participation_agreement_date timestamptz,
  parent_email_is_valid boolean, parent_email_validated_at timestamptz, parent_email_invalid_reason text,
  division competitor_division, program_track text check (program_track in ('traditional', 'adult_ed')),
  status text default 'pending', is_active boolean default true, game_platform_id text unique,
  game_platform_synced_at timestamptz, game_platform_sync_error text, syned_school_id text, syned_region_id text,
  syned_coach_user_id text, created_at timestamptz default now(), updated_at timestamptz default now());
create table game_platform_profiles (
  id uuid primary key default gen_random_uuid(), coach_id uuid unique references profiles on delete cascade,
  competitor_id uuid unique references competitors on delete cascade, metactf_role metactf_role not null,
  synced_user_id text unique, metactf_user_id int, metactf_username text,
  status metactf_sync_status default 'pending', last_synced_at timestamptz, sync_error text,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now());
create table game_platform_challenge_solves (
  id bigint generated always as identity primary key, synced_user_id text not null, metactf_user_id bigint,
  synced_team_id text, challenge_solve_id bigint not null, challenge_id bigint, challenge_title text,
  challenge_category text, challenge_points int, solved_at timestamptz,
  source text not null default 'odl' check (source in ('odl', 'flash_ctf')), raw_payload jsonb,
  created_at timestamptz not null default now(), unique (synced_user_id, challenge_solve_id));
create unique index old_key_again on game_platform_challenge_solves (synced_user_id, challenge_solve_id);
create table game_platform_sync_state (
  synced_user_id text primary key, last_odl_synced_at timestamptz, last_flash_ctf_synced_at timestamptz,
  last_remote_accessed_at timestamptz, last_attempt_at timestamptz, last_login_at timestamptz,
  last_result text check (last_result in ('success', 'failure')), error_message text,
  needs_totals_refresh boolean default false, updated_at timestamptz default now());
create table game_platform_stats (
  id uuid primary key default gen_random_uuid(), competitor_id uuid not null references competitors on delete cascade,
  challenges_completed int default 0, monthly_ctf_challenges int default 0, total_score int default 0,
  last_activity timestamptz, synced_at timestamptz, created_at timestamptz default now(),
  updated_at timestamptz default now());
create table game_platform_sync_runs (
  id uuid primary key default gen_random_uuid(), started_at timestamptz not null default now(),
  completed_at timestamptz, status text not null default 'running', competitors_synced int default 0,
  competitors_failed int default 0, error_message text, sync_type text default 'incremental',
  created_at timestamptz default now());
insert into profiles (id, email, full_name, first_name, last_name, school_name, favourite_colour)
  values ('00000000-0000-0000-0000-00000000000c', 'coach@example.org', 'A B', 'A', 'B', 'Example High', 'green');
insert into competitors (id, coach_id, first_name, last_name, game_platform_id, created_at)
  values ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-00000000000c', 'C', 'D', 'c-1', null);
insert into game_platform_profiles (competitor_id, metactf_role, synced_user_id, status)
  values ('00000000-0000-0000-0000-000000000001', 'user', 'c-1', 'error');
insert into game_platform_challenge_solves (synced_user_id, challenge_solve_id, source)
  values ('c-1', 1, 'odl'), ('c-1', 2, 'flash_ctf');
insert into game_platform_sync_state (synced_user_id, needs_totals_refresh)
  values ('c-1', null), ('c-2', true);
insert into game_platform_stats (competitor_id, total_score, updated_at)
  values ('00000000-0000-0000-0000-000000000001', 10, now() - interval '1 day'),
         ('00000000-0000-0000-0000-000000000001', 20, now());
insert into game_platform_sync_runs (status) values ('completed'), ('abandoned');
"""

CATALOGUE = """
select 'column', table_name || '.' || column_name,
       concat_ws(' ', data_type, udt_name, is_nullable, column_default)
from information_schema.columns where table_schema = 'public'
union all select 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) || conkey::text
from pg_constraint where connamespace = 'public'::regnamespace
union all select 'index', indexname, indexdef from pg_indexes where schemaname = 'public'
union all select 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid)
from pg_trigger where not tgisinternal
union all select 'function', p.oid::regprocedure::text, md5(prosrc) || coalesce(proacl::text, '')
from pg_proc p where pronamespace = 'public'::regnamespace
union all select 'enum', enumtypid::regtype || '.' || enumlabel, enumsortorder::text from pg_enum
order by 1, 2, 3
"""


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Connection]:
    with Connection.connect(empty_database_url, autocommit=True) as connection:
        yield connection


def _count(connection: Connection, query: str) -> Any:
    return connection.execute(query.encode()).fetchall()[0][0]


def test_a_second_run_changes_nothing(empty: Connection) -> None:
    install_everything(empty)
    first = empty.execute(CATALOGUE).fetchall()
    install_everything(empty)
    assert empty.execute(CATALOGUE).fetchall() == first


def test_the_originals_rows_and_columns_survive(empty: Connection) -> None:
    empty.execute(ORIGINAL)
    install_everything(empty)
    assert _count(empty, "select favourite_colour from profiles") == "green"
    assert _count(empty, "select count(*) from game_platform_challenge_solves where event_id = ''") == 2
    assert _count(empty, "select created_at is not null from competitors") is True
    assert _count(empty, "select total_score from game_platform_stats") == 20
    assert _count(empty, "select total_score from game_platform_stats_duplicates") == 10
    assert _count(empty, "select count(*) from game_platform_sync_runs") == 2
    assert _count(empty, "select count(*) from game_platform_sync_state where needs_totals_refresh") == 1
    assert _count(empty, "select totals_dirty_at is not null from game_platform_sync_state where needs_totals_refresh")
    assert _count(empty, "select status from game_platform_profiles") == "error"
    first = empty.execute(CATALOGUE).fetchall()
    install_everything(empty)
    assert empty.execute(CATALOGUE).fetchall() == first
    assert _count(empty, "select count(*) from game_platform_stats_duplicates") == 1


def test_the_new_status_and_the_new_key_work_over_the_originals(empty: Connection) -> None:
    empty.execute(ORIGINAL)
    install_everything(empty)
    ends.stay(empty, actor="test", reason=None)
    empty.execute("update game_platform_profiles set status = 'pending_approval'")
    insert = "insert into game_platform_challenge_solves (synced_user_id, challenge_solve_id, source, event_id) values "
    empty.execute(f"{insert} ('c-1', 1, 'flash_ctf', 'Spring:1'), ('c-1', 1, 'flash_ctf', 'Summer:2')".encode())
    with pytest.raises(psycopg.errors.UniqueViolation):
        empty.execute(f"{insert} ('c-1', 1, 'flash_ctf', 'Spring:1')".encode())
    empty.execute("insert into game_platform_stats (competitor_id) select id from competitors")
    assert _count(empty, "select count(*) from game_platform_stats where total_score = 20") == 1
    with pytest.raises(psycopg.errors.CheckViolation):
        empty.execute("insert into game_platform_sync_runs (status) values ('abandoned')")


def test_a_team_takes_six(conn: Connection) -> None:
    conn.execute(
        "insert into profiles (id, email, full_name, first_name, last_name, school_name) values "
        "('00000000-0000-0000-0000-00000000000c', 'coach@example.org', 'A B', 'A', 'B', 'Example High')"
    )
    conn.execute(
        "insert into competitors (coach_id, first_name, last_name) "
        "select '00000000-0000-0000-0000-00000000000c', 'A', 'B' from generate_series(1, 7)"
    )
    conn.execute("insert into teams (coach_id, name) values ('00000000-0000-0000-0000-00000000000c', 'T')")
    add = "insert into team_members (team_id, competitor_id) select t.id, c.id from teams t, competitors c limit %s"
    conn.execute(add, (6,))
    with pytest.raises(psycopg.errors.CheckViolation, match="at most 6"):
        conn.execute(f"{add} offset 6".encode(), (1,))


def test_nobody_is_given_the_trigger_functions(conn: Connection) -> None:
    conn.execute("drop role if exists sync_stranger")
    conn.execute("create role sync_stranger")
    try:
        for function in ("programme_touch()", "programme_limit_team()"):
            may = conn.execute("select has_function_privilege('sync_stranger', %s, 'execute')", (function,))
            assert may.fetchall() == [(False,)]
    finally:
        conn.execute("drop role sync_stranger")
