"""`sent-to`: the messages to a person over all their addresses, by Jobdeck and by the original."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from jobdeck.core.programme import people
from tests.core.cli.support import Jobdeck
from tests.core.programme.people_world import ADMIN, CAMPAIGN, COACH, JOB, PUPIL, PeopleWorld
from tests.support.people import People

KEY = "0123456789abcdef" * 4


def ids(jobdeck: Jobdeck, who: str, *options: str) -> list[str]:
    return [one["id"] for one in jobdeck("sent-to", who, "--json", *options).data["messages"]]


class TestMessages:
    def test_all_addresses_of_a_person_count_and_the_newest_message_is_first(
        self, jobdeck: Jobdeck, persons: PeopleWorld
    ) -> None:
        mail = persons.message("zzada@example.org", COACH, accepted_at="2026-03-01T10:00:00Z")
        text = persons.message("+15005550001", COACH, channel="sms", accepted_at="2026-03-02T10:00:00Z")
        former = persons.message("zzformer@example.org", COACH, accepted_at="2026-03-03T10:00:00Z")
        campaign = persons.message("zzada@example.org", accepted_at="2026-03-04T10:00:00Z")
        persons.message("zzgrace@example.org", ADMIN)
        assert ids(jobdeck, str(COACH)) == [str(one) for one in (campaign, former, text, mail)]
        assert ids(jobdeck, str(COACH), "--channel", "sms") == [str(text)]

    def test_the_shape_of_the_json_is_the_one_that_is_documented(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        made = persons.message("zzada@example.org", COACH, campaign_id=CAMPAIGN, provider_message_id="m-1")
        assert jobdeck("sent-to", str(COACH), "--json").data == {
            "person": {"kind": "coach", "id": str(COACH)},
            "messages": [{
                "at": "2026-03-01T10:00:00Z", "id": str(made), "channel": "email", "kind": "unread_alert",
                "address": "z…@example.org", "state": "delivered", "detail": None, "last_event": "delivered",
                "last_event_at": "2026-03-01T10:01:00Z", "job_id": str(JOB), "campaign_id": str(CAMPAIGN),
                "provider_message_id": "m-1", "sender": "jobdeck",
            }],
            "next": None,
        }  # fmt: skip

    def test_a_check_of_a_parents_address_counts_for_each_child_it_is_about(
        self, jobdeck: Jobdeck, persons: PeopleWorld
    ) -> None:
        sister = persons.pupil(uuid4(), "Ann", "Turing", parent_email="zzparent@example.org")
        probe = persons.message("zzparent@example.org", PUPIL, kind="parent_probe")
        for child in (PUPIL, sister):
            persons.conn.insert(
                "agreements", competitor_id=child, request_id="r", recipient_email_verification_outbox_id=probe,
            )  # fmt: skip
        assert ids(jobdeck, str(PUPIL)) == ids(jobdeck, str(sister)) == [str(probe)]
        assert ids(jobdeck, "zzparent@example.org") == [str(probe)]

    @pytest.mark.slow
    def test_what_the_original_sent_is_listed_too(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.conn.insert(
            "competitor_announcement_campaigns", id=CAMPAIGN, status="sent",
            completed_at="2026-01-03T00:00:00Z",
        )  # fmt: skip
        persons.conn.insert(
            "competitor_announcement_recipients", campaign_id=CAMPAIGN, competitor_id=PUPIL, email="ZZalan@example.org",
            status="unconfirmed", opened_at="2026-01-04T00:00:00Z",
        )  # fmt: skip
        persons.conn.insert(
            "agreements", competitor_id=PUPIL, request_id="r",
            recipient_email_verification_sent_at="2026-01-02T00:00:00Z", recipient_email_verification_status="bounce",
        )  # fmt: skip
        persons.conn.insert(
            "alert_log", coach_id=COACH, channel="sms", unread_count=2, sent_at="2026-01-01T00:00:00Z",
        )  # fmt: skip
        pupil = jobdeck("sent-to", str(PUPIL), "--json").data["messages"]
        assert [(one["kind"], one["state"], one["last_event"], one["sender"]) for one in pupil] == [
            ("announcement", "accepted", "open", "original"),
            ("parent_probe", "bounced", None, "original"),
        ]
        assert pupil == jobdeck("sent-to", "zzalan@example.org", "--json").data["messages"]
        coach = jobdeck("sent-to", str(COACH), "--json").data["messages"]
        assert [(one["channel"], one["kind"], one["state"]) for one in coach] == [("sms", "unread_alert", "accepted")]

    def test_pages_have_every_message_once(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        made = {str(persons.message("zzada@example.org", COACH)) for _ in range(5)}
        seen: list[str] = []
        after: tuple[str, ...] = ()
        while True:
            page = jobdeck("sent-to", str(COACH), "--limit", "2", "--json", *after).data
            seen += [one["id"] for one in page["messages"]]
            if page["next"] is None:
                break
            after = ("--after", page["next"])
        assert sorted(seen) == sorted(made)

    def test_hostile_text_is_harmless(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.message("zzada@example.org", COACH, last_event="\x1b[31mzzada@example.org", error_class="\x1b]0;x\x07")
        ran = jobdeck("sent-to", str(COACH))
        assert "\x1b" not in ran.out
        assert "zzada" not in ran.out


class TestPerson:
    @pytest.mark.parametrize(
        ("text", "person"),
        [
            (str(COACH), COACH), ("ada", COACH), ("ADA  byron", COACH), (" zzADA@example.org", COACH),
            ("500 555 0001", COACH), ("grace hopper", ADMIN), ("Alan Turing", PUPIL), ("turing, alan", PUPIL),
            ("ethel turing", PUPIL), ("zzalan@example.org", PUPIL),
        ],
    )  # fmt: skip
    @pytest.mark.usefixtures("persons")
    def test_an_id_a_name_or_an_address_means_a_person(self, jobdeck: Jobdeck, text: str, person: UUID) -> None:
        assert jobdeck("sent-to", text, "--json").data["person"]["id"] == str(person)

    @pytest.mark.parametrize("text", ["Turing", "Alan", "nobody", "", "zznobody@example.org", "+15005550099", str(JOB)])
    @pytest.mark.usefixtures("persons")
    def test_who_is_not_there_or_a_minor_by_a_part_of_the_name_is_not_found(self, jobdeck: Jobdeck, text: str) -> None:
        jobdeck("sent-to", text).refused(1)

    def test_of_namesakes_the_candidates_are_listed(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        other = persons.pupil(uuid4(), "Alan", "Turing")
        jobdeck("sent-to", "alan turing").refused(
            1, "Several people are meant", str(PUPIL), str(other), "competitor of Ada Byron, Example High"
        )
        second = persons.profile(uuid4(), "Ada", "Lovelace", school_name="Example\x1b[31m Low")
        jobdeck("sent-to", "ada").refused(1, str(COACH), str(second), "coach Ada Lovelace")
        assert jobdeck("sent-to", "ada byron", "--json").data["person"]["id"] == str(COACH)

    def test_an_address_of_several_people_is_asked_about_alone(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.pupil(uuid4(), "Ann", "Turing", email_personal="zzalan@example.org")
        mail = persons.message("zzalan@example.org")
        persons.message("zzother@example.org", PUPIL)
        found = jobdeck("sent-to", "zzalan@example.org", "--json").data
        assert found["person"] == {"kind": "address", "id": None}
        assert [one["id"] for one in found["messages"]] == [str(mail)]

    @pytest.mark.slow
    def test_an_erased_person_is_found_no_more(
        self, jobdeck: Jobdeck, persons: PeopleWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("JOBDECK_ERASURE_KEY", KEY)
        persons.message("zzalan@example.org", PUPIL)
        persons.bar("zzalan@example.org")
        assert jobdeck("erase", "--person", f"competitor={PUPIL}", "--yes").code == 0
        for text in (str(PUPIL), "Alan Turing", "zzalan@example.org"):
            jobdeck("sent-to", text).refused(1)
            jobdeck("suppressions", "list", "--person", text).refused(1)
        assert jobdeck("suppressions", "list", "--address", "zzalan@example.org").out == "No blocked addresses.\n"


class TestReveal:
    @pytest.mark.slow
    def test_addresses_are_masked_until_somebody_says_why(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.message("zzada@example.org", COACH)
        assert "zzada" not in jobdeck("sent-to", str(COACH)).out
        assert persons.audit() == []
        assert "zzada@example.org" in jobdeck("sent-to", str(COACH), "--reveal", "complaint 12").out
        found = jobdeck("sent-to", str(COACH), "--reveal", "complaint 12", "--json").data
        assert found["messages"][0]["address"] == "zzada@example.org"
        assert [(row["action"], row["after"]["person"], row["reason"]) for row in persons.audit()] == [
            ("reveal", str(COACH), "complaint 12")
        ] * 2

    def test_the_audit_has_no_address(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        persons.message("zzsomebody@example.org")
        ran = jobdeck("sent-to", "zzsomebody@example.org", "--reveal", "zzsomebody@example.org asked")
        assert "zzsomebody@example.org" in ran.out
        [row] = persons.audit()
        assert row["after"]["address"] == "z…@example.org"
        assert "zz" not in str(row)

    def test_a_reason_is_needed(self, jobdeck: Jobdeck, persons: PeopleWorld) -> None:
        with persons.conn.changes_nothing():
            jobdeck("sent-to", str(COACH), "--reveal", " ").refused(1, "Give a reason")

    @pytest.mark.slow
    def test_a_viewer_asks_by_id_alone_and_may_not_reveal(
        self, persons: PeopleWorld, accounts: People, database_url: str, jobdeck: Jobdeck,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        made = persons.message("zzada@example.org", COACH)
        with accounts.sign_in(database_url, "job_viewer") as viewer:
            user = viewer.info.user
        monkeypatch.setenv("DATABASE_URL", database_url.replace("//jobdeck@", f"//{user}@"))
        assert ids(jobdeck, str(COACH)) == [str(made)]
        for arguments in (("Ada Byron",), ("zzada@example.org",), (str(COACH), "--reveal", "why")):
            jobdeck("sent-to", *arguments).refused(1, "Only members of job_operator may")
        assert persons.audit() == []

    @pytest.mark.slow
    def test_an_operator_reveals(self, persons: PeopleWorld, accounts: People, database_url: str) -> None:
        made = persons.message("zzada@example.org", COACH)
        with accounts.sign_in(database_url, "job_operator") as operator:
            who = people.person(operator, "ada byron")
            assert people.reveal(operator, who, actor="me", reason="why") == {made: "zzada@example.org"}
