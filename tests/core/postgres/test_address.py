"""Addresses with parameters of a pooler: dropped with a warning that names them, unless safety may depend on one."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.postgres import address
from jobdeck.core.postgres.address import Address
from tests.core.cli.support import ran_alone

BEFORE = "postgresql://kim:s3%3Fcret@db.example.org:6543/jobs"


@pytest.fixture(autouse=True)
def warned_of_nothing() -> None:
    address._warn.cache_clear()


@pytest.mark.parametrize(
    "name",
    ["supa", "pgbouncer", "schema", "currentSchema", "connection_limit", "pool_timeout", "statement_cache_size",
     "workaround", "uselibpqcompat", "search_path", "statement_timeout"],
)  # fmt: skip
def test_a_parameter_that_libpq_does_not_know_is_dropped_and_named_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for query in (f"{name}=s3cret", f"sslmode=require&{name}=s3cret", f"{name}=s3cret&sslmode=require", f"{name}="):
        found = Address.parse(f"{BEFORE}?{query}")
        expected = conninfo_to_dict(f"{BEFORE}{'?sslmode=require' if 'sslmode' in query else ''}")
        assert found.parameters == expected
        assert found.label == "db.example.org:6543/jobs"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f'DATABASE_URL has a parameter "{name}", which libpq does not know. It is ignored.'


def test_several_are_dropped_and_what_libpq_accepts_in_addresses_only_is_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = Address.parse(f"{BEFORE}?supa=base-pooler.x&ssl=true&pgbouncer=true")
    assert found.parameters["sslmode"] == "require"
    assert [record.args for record in caplog.records] == [("supa",), ("pgbouncer",)]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("sslmod", "sslmode"), ("sslMode", "sslmode"), ("ssl_mode", "sslmode"), ("SSLMODE", "sslmode"),
     ("ssl_root_cert", "sslrootcert"), ("sslrotcert", "sslrootcert"), ("channelbinding", "channel_binding"),
     ("target_session_attr", "target_session_attrs"), ("conect_timeout", "connect_timeout"), ("pasword", "password"),
     ("option", "options"), ("require-auth", "require_auth")],
)  # fmt: skip
def test_a_misspelt_parameter_is_refused_with_the_one_that_was_meant(
    name: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        ConfigurationError, match=f'parameter "{name}", which .*; did you mean "{meant}"\\?$'
    ) as refused:
        Address.parse(f"{BEFORE}?supa=x&{name}=s3cret")
    assert "s3" not in str(refused.value)
    assert caplog.records == []


@pytest.mark.parametrize("name", ["sslaccept", "use_tls", "readOnly", "verify-ca", "clientcert_path", "passphrase"])
def test_a_parameter_on_which_safety_may_depend_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f'parameter "{name}", which libpq does not know\\. The conn'
    ) as refused:
        Address.parse(f"{BEFORE}?{name}=s3cret")
    assert "s3" not in str(refused.value)


@pytest.mark.parametrize("query", ["=x", "su%00pa=x", "supa=x=y&sslmode=a=b", "\x1b[31m=x", f"{'x' * 64}=y", "a b=c"])
def test_what_is_no_parameter_is_refused_as_an_address(query: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match="is not a valid address"):
        Address.parse(f"{BEFORE}?{query}")
    assert caplog.records == []


@pytest.mark.slow
def test_a_command_warns_on_stderr_and_does_its_work(database_url: str, tmp_path: Path) -> None:
    sign = "&" if "?" in database_url else "?"
    ran = ran_alone("jobs", "--json", DATABASE_URL=f"{database_url}{sign}supa=s3cret", XDG_CONFIG_HOME=str(tmp_path))
    assert ran.data["jobs"] == []
    assert ran.err == 'DATABASE_URL has a parameter "supa", which libpq does not know. It is ignored.\n'


@pytest.mark.parametrize(
    "password",
    ["s3@cret", "s3/cret", "s3/c@ret", "s3@c/ret", "@s3cret", "/s3cret", "12/s3cret", "s3?c@ret", "s3?c/r@et",
     "12@s3cret"],
)  # fmt: skip
@pytest.mark.parametrize(
    "rest", ["@db.example.org/jobs", "@db.example.org:5432/jobs?sslmode=require", "@db.example.org"]
)
def test_a_password_with_an_unescaped_character_is_refused_and_no_part_of_it_is_named(password: str, rest: str) -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as refusal:
        Address.parse(f"postgresql://kim:{password}{rest}")
    assert not {"s3", "cret", "ret", "kim"} & set(re.split(r"[^a-z0-9]+", str(refusal.value)))


def test_a_port_that_is_no_number_is_not_quoted() -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as refusal:
        Address.parse("postgresql://kim:s3cret/jobs")
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("postgresql://kim:s3%40c%2Fret@db.example.org/jobs", "db.example.org/jobs"),
        ("postgresql://kim%40example.org:s3cret@db.example.org/jobs", "db.example.org/jobs"),
        ("postgresql://kim:s3cret@a.example.org:1,b.example.org:2/jobs", "a.example.org,b.example.org:1,2/jobs"),
        ("postgresql://kim:s3cret@[::1]:6000/jobs", "::1:6000/jobs"),
        ("postgresql://kim:s3cret@/jobs?host=/tmp", "local/jobs"),
        ("host=@abstract password='a@/b' dbname=jobs", "local/jobs"),
        ("postgresql://kim:s3cret@db.example.org/jobs%40home", "db.example.org/…"),
        ("host=db.example.org dbname='jobs@home'", "db.example.org/…"),
    ],
)  # fmt: skip
def test_an_address_that_is_escaped_is_taken_and_shown_without_a_name_that_has_an_at_sign(url: str, label: str) -> None:
    assert Address.parse(url).label == label
