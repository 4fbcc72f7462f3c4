"""Secrets that everybody knows or can guess: the server does not start with them, and `doctor` names them."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest

from jobdeck.core.http import cron
from jobdeck.core.http.clients import proof
from jobdeck.core.http.endpoints import Call, Declined
from jobdeck.core.postgres.database import Database
from jobdeck.core.registry import Registry
from tests.core.cli.support import ROOT, Jobdeck
from tests.core.cli.test_doctor import verdicts
from tests.core.http.support import METRICS, SECRET
from tests.support.working import quick_settings

BAD = [
    "CHANGE-ME", "changeme", "secret", "x", "fifteen-letters", "a" * 64, "abababababababababab",
    "your-cron-secret-here", "REPLACE_ME_WITH_A_SECRET", "CRON_SECRET", "change-me-" * 4, "1234567890123456",
    "0123456789abcdef", "<secret>", " ",
]  # fmt: skip
NAMES = ("CRON_SECRET", "JOBDECK_METRICS_TOKEN")


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_the_server_does_not_start_with_a_secret_that_can_be_guessed(
    jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch, name: str, bad: str
) -> None:
    assert proof.weakness(bad) is not None  # or the server would start, and this test would never end
    monkeypatch.setenv(name, bad)
    jobdeck("serve", "--port", "0").refused(1, name, "openssl rand -hex 32")


def test_both_bad_secrets_are_named_at_once(jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "changeme")
    jobdeck("serve", "--port", "0").refused(1, *NAMES)


def test_good_secrets_have_no_weakness() -> None:
    made = [text for _ in range(200) for text in (secrets.token_hex(32), secrets.token_urlsafe(16))]
    for good in [*made, SECRET, METRICS, "correct horse battery staple", "change of heart 81"]:
        assert proof.weakness(good) is None, good


def test_every_secret_in_our_own_documents_and_templates_is_refused() -> None:
    given = re.compile(rf"(?:{'|'.join(NAMES)})\s?[=:]\s?[\"']?([^\s\"'`,]+)")
    files = [ROOT / "README.md", ROOT / "core/programme/playbook.md", *(ROOT / "docs").rglob("*.md")]
    files += [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    found = {value for path in files for value in given.findall(path.read_text(encoding="utf-8"))}
    assert "CHANGE-ME" in found
    assert {value for value in found if proof.weakness(value) is None} == set()


@pytest.mark.parametrize("secret", ["", "   ", None])
def test_a_blank_secret_lets_nobody_in(database_url: str, secret: str | None) -> None:
    with Database(database_url, application_name="test door") as database:
        guarded = cron.Cron(database, Registry([]), quick_settings(cron_secret=secret))
        for header in ("Bearer ", "Bearer", "bearer  ", "", "Bearer \t"):
            with pytest.raises(Declined) as caught:
                guarded.secret.admit(Call("GET", cron.PATH, {"authorization": header}, {}))
            assert caught.value.status == 401


class TestDoctor:
    @pytest.mark.slow
    def test_a_bad_secret_is_critical_and_not_shown(self, jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
        assert verdicts(jobdeck)["secrets"][0] == "ok"
        monkeypatch.setenv("CRON_SECRET", "changeme")
        monkeypatch.setenv("JOBDECK_METRICS_TOKEN", "zq-short")
        ran = jobdeck("doctor", "--json")
        assert ran.code == 4
        verdict, evidence = verdicts(jobdeck)["secrets"]
        assert verdict == "critical"
        for name in NAMES:
            assert name in evidence
        assert "zq-short" not in ran.out + ran.err

    @pytest.mark.parametrize(
        ("mode", "line", "verdict"),
        [
            (0o600, 'CRON_SECRET = "SECRET"', "ok"),
            (0o640, 'CRON_SECRET = "SECRET"', "ok"),
            (0o644, 'CRON_SECRET = "SECRET"', "critical"),
            (0o644, 'TWILIO_AUTH_TOKEN = "SECRET"', "critical"),
            (0o644, "JOBDECK_CONCURRENCY = 3", "ok"),
            (0o602, "JOBDECK_CONCURRENCY = 3", "critical"),
        ],
    )
    @pytest.mark.slow
    def test_a_configuration_file_that_others_can_use_is_named_with_the_remedy(
        self, jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, line: str, verdict: str
    ) -> None:
        file = tmp_path / "con fig.toml"
        file.write_text(line.replace('SECRET"', f'{SECRET}"'), encoding="utf-8")
        file.chmod(mode)
        monkeypatch.setenv("JOBDECK_CONFIG", str(file))
        found = verdicts(jobdeck)["configuration file"]
        assert found[0] == verdict
        assert SECRET not in found[1]
        assert ("chmod o-rwx" in found[1]) is (verdict == "critical")
