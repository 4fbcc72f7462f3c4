"""`suppressions`: the blocks of both channels in one list, and adding and lifting one."""

from __future__ import annotations

import pytest

from jobdeck.core.programme import people
from tests.core.cli.support import Jobdeck
from tests.core.programme.people_world import COACH, PUPIL, PeopleWorld
from tests.support.people import People


def listed(jobdeck: Jobdeck, *options: str) -> list[tuple[str, str, str]]:
    """Channel, masked address and kind of each block."""
    found = jobdeck("suppressions", "list", "--json", *options).data["suppressions"]
    return [(one["channel"], one["address"], one["kind"]) for one in found]


class TestList:
    def test_both_channels_are_one_list_with_the_newest_first(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.bar("zzada@example.org", created_at="2026-01-01T00:00:00Z")
        persons.bar("zzalan@example.org", "manual", created_at="2026-01-03T00:00:00Z", source="operator")
        persons.bar_number("+15005550001", created_at="2026-01-02T00:00:00Z")
        assert listed(jobdeck) == [
            ("email", "z…@example.org", "manual"),
            ("sms", "…01", "stop"),
            ("email", "z…@example.org", "hard_bounce"),
        ]

    def test_the_shape_of_the_json_is_the_one_that_is_documented(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.bar("zzada@example.org", created_at="2026-01-01T00:00:00Z")
        found = jobdeck("suppressions", "list", "--json").data
        row = persons.conn.rows("select id::text from email_suppressions")[0]
        assert found == {
            "suppressions": [{
                "id": row["id"], "channel": "email", "address": "z…@example.org", "kind": "hard_bounce",
                "scope": "all", "source": "sendgrid event", "since": "2026-01-01T00:00:00Z", "ends": None,
            }],
            "next": None,
        }  # fmt: skip

    def test_a_block_that_is_over_is_not_listed(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.bar("zzada@example.org", expires_at="2020-01-01T00:00:00Z")
        persons.bar_number("+15005550001", cleared_at="2020-01-01T00:00:00Z")
        assert listed(jobdeck) == []
        assert jobdeck("suppressions", "list").out == "No blocked addresses.\n"

    @pytest.mark.slow
    def test_the_list_is_narrowed_by_channel_kind_person_and_address(
        self, jobdeck: Jobdeck, persons: PeopleWorld
    ) -> None:
        persons.bar("zzada@example.org")
        persons.bar("zzparent@example.org", "spam")
        persons.bar_number("+15005550001", "unusable")
        mail, parent, text = (
            ("email", "z…@example.org", "hard_bounce"), ("email", "z…@example.org", "spam"), ("sms", "…01", "unusable")
        )  # fmt: skip
        assert set(listed(jobdeck, "--channel", "email")) == {mail, parent}
        assert listed(jobdeck, "--kind", "spam") == [parent]
        assert set(listed(jobdeck, "--person", "ada byron")) == {mail, text}
        assert set(listed(jobdeck, "--person", str(COACH))) == {mail, text}
        assert listed(jobdeck, "--person", "Alan Turing") == [parent]
        assert listed(jobdeck, "--address", "zzADA@example.org") == [mail]
        assert listed(jobdeck, "--address", "(500) 555-0001") == [text]

    def test_the_addresses_of_a_person_are_read_once_however_many_blocks_there_are(self, persons: PeopleWorld) -> None:
        for place in range(20):
            persons.bar(f"zz{place}@example.org")
        with persons.conn.transaction():
            persons.conn.execute("set local track_functions = 'all'")
            persons.conn.execute("select outbox_blocks_of(%s, null)", (COACH,))
            calls = persons.conn.rows(
                "select calls from pg_stat_xact_user_functions where funcname = 'competition_addresses_of'"
            )
        assert calls[0]["calls"] <= 2  # once by the planner, for its estimate

    def test_pages_have_every_block_once(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        for place in range(5):
            persons.bar(f"zz{place}@example.org", created_at="2026-01-01T00:00:00Z")
        seen: list[str] = []
        after: tuple[str, ...] = ()
        while True:
            page = jobdeck("suppressions", "list", "--limit", "2", "--json", *after).data
            seen += [one["id"] for one in page["suppressions"]]
            if page["next"] is None:
                break
            after = ("--after", page["next"])
        assert len(seen) == len(set(seen)) == 5

    @pytest.mark.usefixtures("persons")
    def test_a_bad_cursor_is_refused(self, jobdeck: Jobdeck) -> None:
        jobdeck("suppressions", "list", "--after", "zz").refused(2, "not a cursor")
        jobdeck("suppressions", "list", "--after", "WzEsMl0").refused(2, "not a cursor")

    def test_the_block_of_an_erased_person_shows_nothing_of_them(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.bar(f"erased-{'a' * 64}")
        assert listed(jobdeck) == [("email", "erased", "hard_bounce")]

    def test_no_address_is_printed(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.bar("zzada@example.org", source="zzada@example.org\x1b[31m")
        ran = jobdeck("suppressions", "list")
        assert "zz" not in ran.out
        assert "\x1b" not in ran.out


class TestAdd:
    @pytest.mark.parametrize(
        ("address", "channel", "shown"),
        [(" zzNew@Example.org", "email", "z…@example.org"), ("(500) 555-0009", "sms", "…09")],
    )
    def test_an_address_that_was_added_is_blocked(
        self, jobdeck: Jobdeck, persons: PeopleWorld, address: str, channel: str, shown: str
    ) -> None:
        ran = jobdeck("suppressions", "add", address, "--reason", "asked on the phone", "--yes", "--json")
        assert [(one["channel"], one["address"], one["kind"]) for one in ran.data["suppressions"]] == [
            (channel, shown, "manual")
        ]
        assert listed(jobdeck) == [(channel, shown, "manual")]
        normal = "zznew@example.org" if channel == "email" else "+15005550009"
        found = persons.conn.rows(f"select outbox_suppression('unread_alert', '{channel}', '{normal}') as why")
        assert found[0]["why"] is not None

    def test_the_audit_has_the_reason_and_no_address(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        jobdeck("suppressions", "add", "zznew@example.org", "--reason", "zznew@example.org wrote to us", "--yes")
        [row] = persons.audit()
        assert (row["action"], row["after"]["address"], row["after"]["scope"]) == (
            "block address", "z…@example.org", "all"
        )  # fmt: skip
        assert row["reason"].endswith(" wrote to us")
        assert "zznew" not in str(row)

    def test_the_function_itself_keeps_the_address_out_of_the_audit(self, persons: PeopleWorld) -> None:
        persons.conn.execute("select outbox_suppress('zznew@example.org', 'all', 'me', 'ZZnew@example.org wrote')")
        assert "zznew" not in str(persons.audit()).lower()

    def test_only_announcements_can_be_blocked(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        jobdeck("suppressions", "add", "zznew@example.org", "--scope", "announcements", "--reason", "asked", "--yes")
        verdicts = persons.conn.rows(
            "select outbox_suppression('announcement', 'email', 'zznew@example.org') is null as announced, "
            "outbox_suppression('unread_alert', 'email', 'zznew@example.org') is null as alerted"
        )
        assert verdicts == [{"announced": False, "alerted": True}]
        assert jobdeck("suppressions", "add", "zznew@example.org", "--reason", "all", "--yes").code == 0

    @pytest.mark.parametrize(
        ("address", "options", "words"),
        [
            ("nobody", (), ("neither an e-mail address nor a phone number",)),
            ("zz@@example.org", (), ("neither an e-mail address nor a phone number",)),
            ("", (), ("neither an e-mail address nor a phone number",)),
            ("zzada@example.org", (), ("z…@example.org is blocked already (spam, since 2026-01-01)",)),
            ("+15005550001", ("--scope", "announcements"), ("Texts are never announcements",)),
        ],
    )
    def test_what_cannot_be_added_is_refused_in_one_sentence(
        self, jobdeck: Jobdeck, persons: PeopleWorld, address: str, options: tuple[str, ...], words: tuple[str, ...]
    ) -> None:
        persons.bar("zzada@example.org", "spam", created_at="2026-01-01T00:00:00Z")
        with persons.conn.changes_nothing():
            jobdeck("suppressions", "add", address, *options, "--reason", "why", "--yes").refused(1, *words)

    @pytest.mark.slow
    def test_a_reason_and_a_confirmation_are_needed(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        with persons.conn.changes_nothing():
            jobdeck("suppressions", "add", "zznew@example.org", "--reason", " ", "--yes").refused(1, "reason")
            jobdeck("suppressions", "add", "zznew@example.org", "--reason", "why").refused(
                1, "This would block z…@example.org; nothing was changed.", "--yes"
            )
            assert jobdeck("suppressions", "add", "zznew@example.org", "--reason", "why", "--dry-run").out.startswith(
                "Would block z…@example.org"
            )
            assert jobdeck("suppressions", "add", "zznew@example.org", "--yes").code == 2


class TestLift:
    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("hard_bounce", ("SendGrid keeps a list of its own", "Suppressions, Bounces", "the block comes back")),
            ("spam", ("Spam Reports",)),
            ("invalid", ("Invalid Emails",)),
            ("global_unsub", ("Global Unsubscribes", "Ask them first")),
            ("group_unsub", ("Unsubscribe Groups", "Ask them first")),
            ("manual", ("The block was made here, so the provider has none of it.",)),
        ],
    )
    def test_mail_flows_again_and_what_sendgrid_still_has_is_said(
        self, jobdeck: Jobdeck, persons: PeopleWorld, kind: str, words: tuple[str, ...]
    ) -> None:
        persons.bar("zzada@example.org", kind)
        ran = jobdeck("suppressions", "lift", "ZZada@example.org", "--reason", "mailbox works", "--yes")
        for word in words:
            assert word in ran.out
        assert listed(jobdeck) == []
        [row] = persons.audit()
        assert (row["action"], row["before"]["kind"], row["reason"]) == ("lift block", kind, "mailbox works")
        assert "zz" not in str(row)

    @pytest.mark.parametrize(
        ("source", "words"),
        [("stop", "until its owner texts START"), ("error_21610", "until its owner texts START"),
         ("unusable", "The next text shows"), ("manual", "The block was made here")],
    )  # fmt: skip
    def test_texts_flow_again_and_what_twilio_still_has_is_said(
        self, jobdeck: Jobdeck, persons: PeopleWorld, source: str, words: str
    ) -> None:
        persons.bar_number("+15005550001", source)
        found = jobdeck("suppressions", "lift", "500-555-0001", "--reason", "asked", "--yes", "--json").data["lifted"]
        assert [one["kind"] for one in found] == [source]
        assert words in found[0]["remains"]
        assert persons.conn.rows("select outbox_suppression('unread_alert', 'sms', '+15005550001') as why") == [
            {"why": None}
        ]

    @pytest.mark.slow
    def test_a_block_is_lifted_by_the_id_of_the_list(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.bar("zzada@example.org", "spam")
        persons.bar("zzada@example.org", "hard_bounce")
        ids = {one["kind"]: one["id"] for one in jobdeck("suppressions", "list", "--json").data["suppressions"]}
        assert jobdeck("suppressions", "lift", ids["spam"], "--reason", "mistake", "--yes").code == 0
        assert listed(jobdeck) == [("email", "z…@example.org", "hard_bounce")]

    @pytest.mark.slow
    def test_an_address_is_lifted_whole_or_by_kind(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        for kind in ("spam", "hard_bounce", "invalid"):
            persons.bar("zzada@example.org", kind)
        address = ("suppressions", "lift", "zzada@example.org", "--reason", "why")
        jobdeck(*address, "--kind", "spam").refused(1, "lift 1 block of z…@example.org")
        jobdeck(*address, "--kind", "spam", "--yes")
        assert len(listed(jobdeck)) == 2
        jobdeck(*address).refused(1, "lift 2 blocks of z…@example.org")
        jobdeck(*address, "--yes")
        assert listed(jobdeck) == []

    @pytest.mark.parametrize(
        ("which", "words"),
        [
            ("zzada@example.org", "z…@example.org is not blocked"),
            ("+15005550001", "…01 is not blocked"),
            ("ada", "neither an e-mail address nor a phone number, nor the id of a block"),
            ("00000000-0000-0000-0000-000000000001", "There is no block 00000000-0000-0000-0000-000000000001"),
        ],
    )
    def test_what_is_not_blocked_is_refused_in_one_sentence(
        self, jobdeck: Jobdeck, persons: PeopleWorld, which: str, words: str
    ) -> None:
        with persons.conn.changes_nothing():
            jobdeck("suppressions", "lift", which, "--reason", "why", "--yes").refused(1, words)

    def test_a_reason_is_needed(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.bar("zzada@example.org")
        jobdeck("suppressions", "lift", "zzada@example.org", "--reason", "", "--yes").refused(1, "reason")
        assert len(listed(jobdeck)) == 1

    def test_the_block_of_an_erased_person_stays(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.bar(f"erased-{'a' * 64}")
        block = jobdeck("suppressions", "list", "--json").data["suppressions"][0]["id"]
        jobdeck("suppressions", "lift", block, "--reason", "why", "--yes").refused(1, "erased", "It stays")
        assert len(listed(jobdeck)) == 1


class TestRights:
    @pytest.mark.slow
    def test_a_viewer_lists_blocks_but_asks_about_nobody_and_changes_nothing(
        self, persons: PeopleWorld, accounts: People, database_url: str, jobdeck: Jobdeck,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        persons.bar("zzada@example.org")
        with accounts.sign_in(database_url, "job_viewer") as viewer:
            user = viewer.info.user
        monkeypatch.setenv("DATABASE_URL", database_url.replace("//jobdeck@", f"//{user}@"))
        assert listed(jobdeck) == [("email", "z…@example.org", "hard_bounce")]
        for command in (
            ("list", "--person", "Ada Byron"),
            ("list", "--address", "zzada@example.org"),
            ("add", "zznew@example.org", "--reason", "why", "--yes"),
            ("lift", "zzada@example.org", "--reason", "why", "--yes"),
        ):
            jobdeck("suppressions", *command).refused(1, "Only members of job_operator may")

    @pytest.mark.slow
    def test_an_operator_does_all_of_it_and_reads_no_address(
        self, persons: PeopleWorld, accounts: People, database_url: str
    ) -> None:
        with accounts.sign_in(database_url, "job_operator") as operator:
            made = people.block(operator, "zznew@example.org", scope="all", actor="me", reason="asked")
            who = people.person(operator, str(PUPIL))
            assert people.blocks(operator, person=who) == ([], None)
            assert people.blocks(operator, address="zznew@example.org")[0] == [made]
            assert people.lift(operator, str(made.id), actor="me", reason="mistake") == [made]
        assert [row["action"] for row in persons.audit()] == ["block address", "lift block"]
