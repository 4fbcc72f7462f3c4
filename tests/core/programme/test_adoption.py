"""The competition takes over the original application's tables and enums, and those of nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import psycopg
import pytest

from jobdeck.core.errors import Refused
from jobdeck.core.schema import schema_text
from tests.core.handlers.test_programme_schema import CATALOGUE
from tests.support.queue import Connection
from tests.support.schema import install_everything

pytestmark = pytest.mark.installation

OTHERS = {
    "CREATE TABLE teams (id uuid PRIMARY KEY, name text)": "table public.teams has no column coach_id of type uuid",
    "CREATE TABLE team_members (id uuid, team_id uuid, user_id uuid)":
        "table public.team_members has no column competitor_id of type uuid",
    "CREATE TABLE messages (id bigint, body text)": "table public.messages has no column id of type uuid",
    "CREATE TABLE profiles (id uuid, email text, full_name text)": "table public.profiles has no column first_name",
    "CREATE TABLE conversations (id uuid, type varchar(20))": "public.conversations has no column created_by",
    "CREATE TABLE agreements (id uuid, signed boolean)": "public.agreements has no column competitor_id",
    "CREATE TABLE activity_logs (id serial)": "table public.activity_logs has no column id of type uuid",
    "CREATE TABLE provider_events (id uuid)": "table public.provider_events has no column id of type bigint",
    "CREATE VIEW teams AS SELECT 'x' AS name": "table public.teams has no column id of type uuid",
    "CREATE TYPE user_role AS ENUM ('admin', 'member')": "type public.user_role has no label coach",
    "CREATE TYPE team_status AS (forming text)": "type public.team_status has no label forming",
}  # fmt: skip


@pytest.fixture
def stranger(empty_database_url: str) -> Iterator[Connection]:
    with Connection.connect(empty_database_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(("made", "said"), OTHERS.items())
def test_what_is_somebody_elses_is_refused_by_name_and_nothing_is_changed(
    stranger: Connection, made: str, said: str
) -> None:
    stranger.execute(made.encode())
    before = stranger.execute(CATALOGUE).fetchall()
    with pytest.raises(Refused, match=said) as refused:
        install_everything(stranger)
    assert str(refused.value).count("\n") == 0
    assert stranger.execute(CATALOGUE).fetchall() == before


def test_what_came_after_the_queue_was_installed_alone_is_refused_too(stranger: Connection) -> None:
    stranger.execute(schema_text().encode())
    stranger.execute("CREATE TABLE teams (id uuid PRIMARY KEY, name text)")
    with pytest.raises(Refused, match=r"public\.teams has no column coach_id"):
        install_everything(stranger)


def test_an_enum_of_the_original_may_have_more_labels(stranger: Connection) -> None:
    stranger.execute("CREATE TYPE user_role AS ENUM ('owner', 'admin', 'coach')")
    install_everything(stranger)
    assert stranger.execute("SELECT enum_range(null::user_role)::text[]").fetchone() == (["owner", "admin", "coach"],)


def test_the_competition_is_installed_into_public_alone(stranger: Connection) -> None:
    adoption = (resources.files("jobdeck.core") / "programme" / "sql" / "adoption.sql").read_text(encoding="utf-8")
    stranger.execute("CREATE SCHEMA jobs; SET search_path = jobs, pg_temp")
    with pytest.raises(psycopg.Error, match="works only in the schema public, not in jobs") as refused:
        stranger.execute(adoption.encode())
    assert refused.value.sqlstate == "JD001"
