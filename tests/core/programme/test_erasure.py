"""Erasing a person: nothing of them is left, what is refused changes nothing, and nobody is written to twice."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from uuid import uuid4

import pytest

from jobdeck.core.errors import ConfigurationError, Refused, UsageError
from jobdeck.core.plugins import Erased
from jobdeck.core.programme.erasure import erase
from jobdeck.core.programme.events import hand_on
from jobdeck.core.programme.settings import CompetitionSettings
from jobdeck.core.settings import Settings
from tests.core.programme.erasure_world import KEY, QUEUE, Child, Coach, campaign, message
from tests.support.dump import dumped, places
from tests.support.queue import Connection


def settings(key: str | None = KEY) -> Settings:
    return Settings().having(CompetitionSettings(erasure_key=key))


def erased(conn: Connection, kind: str, wanted: object, *, keep_shared: bool = False) -> list[Erased]:
    with conn.transaction():
        return erase(conn, settings(), kind, str(wanted), keep_shared, "mara")


@pytest.fixture
def coach(conn: Connection) -> Coach:
    return Coach(conn)


@pytest.fixture
def child(conn: Connection, coach: Coach) -> Child:
    return Child(conn, coach.id)


@pytest.fixture
def unchanged(conn: Connection) -> Iterator[None]:
    """What is refused leaves every table as it was. To be asked for after the people."""
    before = dumped(conn)
    yield
    assert dumped(conn) == before


class TestNothingIsLeft:
    """The dump of the whole database, before and after."""

    @pytest.mark.slow
    def test_of_a_competitor_and_their_parent(self, conn: Connection, child: Child) -> None:
        put = child.put_everywhere()
        before = places(dumped(conn), child.texts)
        assert put <= before.keys()
        assert set(child.texts) == {text for found in before.values() for text in found}
        told = {one.place.partition(" ")[0] for one in erased(conn, "competitor", child.id)}
        assert places(dumped(conn), child.texts) == {}
        assert put <= told | {"provider_events"}

    @pytest.mark.slow
    def test_of_a_coach(self, conn: Connection, coach: Coach) -> None:
        put = coach.put_everywhere()
        before = places(dumped(conn), coach.texts)
        assert put <= before.keys()
        assert set(coach.texts[:5]) <= {text for found in before.values() for text in found}
        erased(conn, "profile", coach.id)
        assert places(dumped(conn), coach.texts) == {}

    @pytest.mark.slow
    def test_of_a_parent_while_the_children_stay(self, conn: Connection, coach: Coach, child: Child) -> None:
        sibling = Child(conn, coach.id, word="Quaggar")
        child.put_everywhere()
        erased(conn, "email", f" {child.parent_email.upper()}")
        assert places(dumped(conn), [child.parent_email, child.parent_name]) == {}
        assert conn.value("select count(*) from competitors where id in (%s, %s)", child.id, sibling.id) == 2

    def test_a_name_that_another_parent_has_too_stays(self, conn: Connection, coach: Coach, child: Child) -> None:
        other = Child(conn, coach.id, word="Quaggar", parent="zzother")
        conn.execute("update competitors set parent_name = %s", (child.parent_name,))
        erased(conn, "email", child.parent_email)
        assert conn.value("select parent_name from competitors where id = %s", other.id) == child.parent_name
        assert conn.value("select parent_name from competitors where id = %s", child.id) is None

    @pytest.mark.slow
    def test_of_an_address_whose_person_the_application_has_deleted(self, conn: Connection, child: Child) -> None:
        message(conn, child.id, "zzgone@zz.example", "announcement", "announcement:x:zzgone@zz.example")
        erased(conn, "email", "zzgone@zz.example")
        assert places(dumped(conn), ["zzgone@zz.example"]) == {}
        assert conn.value("select count(*) from competitors") == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("way", ["email", "school_email"])
    def test_an_address_of_their_own_means_the_whole_person(self, conn: Connection, child: Child, way: str) -> None:
        erased(conn, "email", getattr(child, way))
        assert places(dumped(conn), child.texts) == {}

    @pytest.mark.slow
    def test_a_number_means_the_whole_coach(self, conn: Connection, coach: Coach) -> None:
        erased(conn, "phone", f"{coach.phone[2:5]}-{coach.phone[5:8]}-{coach.phone[8:]}")
        assert places(dumped(conn), coach.texts) == {}

    @pytest.mark.parametrize("form", ["text", "hex", "base64", "compressed"])
    def test_the_search_itself_finds_each_form(self, conn: Connection, form: str) -> None:
        text = b"before zzhidden@zz.example after"
        made = {
            "text": text.decode(),
            "hex": text.hex(),
            "base64": base64.b64encode(text).decode(),
            "compressed": base64.b64encode(zlib.compress(text)).decode(),
        }[form]
        conn.insert("job_alarms", name=made)
        assert places(dumped(conn), ["zzhidden@zz.example"]) == {"job_alarms": {"zzhidden@zz.example"}}

    @pytest.mark.slow
    def test_others_stay_as_they_are(self, conn: Connection, coach: Coach, child: Child) -> None:
        near = Child(conn, coach.id, word="jquokkar", parent="yzzparent")
        near_message = message(conn, near.id, f"x{child.email}", "announcement", "k-near")
        erased(conn, "competitor", child.id)
        assert conn.rows("select email_personal, parent_email from competitors") == [
            {"email_personal": near.email, "parent_email": near.parent_email}
        ]
        assert conn.value("select address from outbox_messages where id = %s", near_message) == f"x{child.email}"

    @pytest.mark.slow
    def test_a_job_that_waits_is_cancelled(self, conn: Connection, child: Child) -> None:
        child.put_everywhere()
        erased(conn, "competitor", child.id)
        assert conn.rows("select status, count(*) from job_queue group by 1 order by 1") == [
            {"status": "cancelled", "count": 1},
            {"status": "failed", "count": 1},
        ]

    @pytest.mark.slow
    def test_a_request_for_the_second_receiver_about_them_is_removed(self, conn: Connection, child: Child) -> None:
        child.put_everywhere()
        form = conn.value("select id::text from agreements")
        others = {"email": "other@example.org", "competitor_id": "00000000-0000-4000-8000-000000000001"}
        about = [{"email": f" {child.email.upper()} "}, {"competitor_id": str(child.id)},
                 {"custom_args": {"agreement_id": form}}]  # fmt: skip
        for entry in about:
            request = hand_on.wanted(json.dumps([others, entry]).encode(), "signature", "1")
            assert request is not None
            hand_on.keep(conn, request)
        kept = hand_on.wanted(json.dumps([others]).encode(), "signature", "1")
        assert kept is not None
        hand_on.keep(conn, kept)
        assert ("provider_requests", 3) in [(one.place, one.rows) for one in erased(conn, "competitor", child.id)]
        assert conn.rows("select body from provider_requests") == [{"body": kept.body}]

    @pytest.mark.slow
    def test_the_audit_says_that_somebody_was_erased_and_not_who(self, conn: Connection, child: Child) -> None:
        erased(conn, "competitor", child.id)
        (row,) = conn.rows("select actor, after, job_id, reason from job_audit where action = 'erase'")
        assert row["actor"].startswith("mara (")
        assert (row["after"], row["job_id"], row["reason"]) == ({"kind": "competitor"}, None, None)

    @pytest.mark.slow
    def test_a_dry_run_lists_the_places_and_changes_nothing(
        self, conn: Connection, child: Child, request: pytest.FixtureRequest
    ) -> None:
        put = child.put_everywhere()
        request.getfixturevalue("unchanged")
        with conn.transaction(force_rollback=True):
            found = erase(conn, settings(), "competitor", str(child.id), False, "mara")
        assert put - {one.place.partition(" ")[0] for one in found} <= {"provider_events"}
        assert all(one.rows > 0 for one in found)


class TestSpellings:
    """Texts that contain an address, a number or an id, wherever they are and however they are written."""

    @pytest.mark.slow
    def test_texts_around_an_address_and_an_id_are_emptied(self, conn: Connection, child: Child) -> None:
        mum, ident = child.parent_email, str(child.id)
        texts = [
            f"welcome-{child.email}",
            f"{child.email}-2026",
            f"probe-{mum}",
            f"sync-{ident}",
            ident.replace("-", ""),
        ]
        for at, text in enumerate(texts):
            conn.insert(
                "job_queue", task_type="zz", dedupe_key=f"a{text}", concurrency_key=text, payload={"a": [[text]]}
            )
            conn.insert("job_bulk", actor="zz", words=f"{at} {text}")
            conn.insert("conversations", type="dm", title=text)
        found = erased(conn, "competitor", child.id)
        assert places(dumped(conn), [*child.texts, *texts]) == {}
        assert [one for one in found if one.remains] == []
        assert conn.value("select count(*) from job_queue where status = 'pending'") == len(texts)

    @pytest.mark.slow
    def test_a_number_is_found_in_each_of_its_forms(self, conn: Connection, coach: Coach) -> None:
        area, office, line = coach.phone[2:5], coach.phone[5:8], coach.phone[8:]
        forms = [
            f"({area}) {office}-{line}",
            f"{area}.{office}.{line}",
            f"+1 {area} {office} {line}",
            f"1{area}{office}{line}",
        ]
        for form in forms:
            conn.insert("conversations", type="dm", title=f"call {form}!")
        erased(conn, "profile", coach.id)
        assert places(dumped(conn), forms) == {}

    @pytest.mark.slow
    def test_a_short_id_is_erased_in_its_fields_alone(self, conn: Connection, child: Child) -> None:
        conn.execute("update competitors set game_platform_id = '4711'")
        payload = {"who": {"synced_user_id": 4711, "syncedUserId": "4711", "n": 4711, "note": "4711"}}
        job = conn.insert("job_queue", task_type="zz", payload=payload)
        found = erased(conn, "competitor", child.id)
        who = conn.value("select payload -> 'who' from job_queue where id = %s", job)
        gone = conn.value("select job_erased_mark()")
        assert who == {"synced_user_id": gone, "syncedUserId": gone, "n": 4711, "note": "4711"}
        assert [one for one in found if one.remains] == []

    @pytest.mark.slow
    @pytest.mark.parametrize("key", ["competitorIds", "coachIds"])
    def test_a_job_for_several_people_runs_for_the_others(self, conn: Connection, child: Child, key: str) -> None:
        other = str(uuid4())
        job = conn.insert("job_queue", task_type="zz", payload={key: [str(child.id), other]})
        erased(conn, "competitor", child.id)
        assert conn.rows("select status, payload from job_queue where id = %s", job) == [
            {"status": "pending", "payload": {key: [other]}}
        ]

    @pytest.mark.slow
    def test_a_series_for_the_person_is_left_and_listed(self, conn: Connection, coach: Coach) -> None:
        series = conn.insert(
            "job_queue", task_type="zz", payload={"coachId": str(coach.id)}, is_recurring=True,
            recurrence_interval_minutes=5,
        )  # fmt: skip
        found = erased(conn, "profile", coach.id)
        assert [one.place for one in found if one.remains] == [f"job_queue (series {series})"]

    @pytest.mark.slow
    def test_others_whose_addresses_names_and_ids_are_longer_stay(
        self, conn: Connection, coach: Coach, child: Child
    ) -> None:
        conn.execute("update competitors set game_platform_id = 'platform-quokkar'")
        longer = conn.insert(
            "competitors", coach_id=coach.id, first_name="Zed", last_name="Quokkar Smith",
            email_personal=f"ann.{child.email}", email_school="zzschool@zz.example",
            parent_email=f"x-{child.parent_email}", game_platform_id="eu-platform-quokkar", is_active=True,
        )  # fmt: skip
        texts = [f"dear Zed Quokkar Smith <ann.{child.email}>", "eu-platform-quokkar", f"(x-{child.parent_email})"]
        for text in texts:
            conn.insert("conversations", type="dm", title=text)
        before = conn.rows("select * from competitors where id = %s", longer)
        found = erased(conn, "competitor", child.id)
        assert conn.rows("select * from competitors where id = %s", longer) == before
        assert {row["title"] for row in conn.rows("select title from conversations")} == set(texts)
        assert [one for one in found if one.remains] == []


class TestRefusals:
    """One sentence, and nothing half done."""

    def refused(self, conn: Connection, kind: str, wanted: object, words: str, **options: bool) -> None:
        with pytest.raises((Refused, ConfigurationError, UsageError)) as refusal:
            erased(conn, kind, wanted, **options)
        assert words in str(refusal.value)

    @pytest.mark.usefixtures("child", "unchanged")
    @pytest.mark.parametrize(
        ("kind", "wanted"),
        [
            ("competitor", uuid4()), ("profile", uuid4()), ("email", "zznobody@zz.example"), ("phone", "+15005559999"),
            ("email", ""), ("phone", "x"),
        ],
    )  # fmt: skip
    def test_somebody_who_is_not_there(self, conn: Connection, kind: str, wanted: object) -> None:
        self.refused(conn, kind, wanted, "Nobody was found. Nothing was erased.")

    @pytest.mark.usefixtures("child", "unchanged")
    def test_what_is_no_id(self, conn: Connection) -> None:
        self.refused(conn, "competitor", "5", "is not a UUID")

    @pytest.mark.parametrize("status", ["queued", "sending"])
    def test_somebody_whom_a_running_campaign_is_still_to_reach(
        self, conn: Connection, child: Child, status: str, request: pytest.FixtureRequest
    ) -> None:
        conn.insert(
            "competitor_announcement_recipients", campaign_id=campaign(conn, status="sending"),
            competitor_id=child.id, email=child.email, email_norm=child.email.lower(), status=status,
        )  # fmt: skip
        request.getfixturevalue("unchanged")
        self.refused(conn, "competitor", child.id, "which is being sent, is still to reach them. Nothing was erased.")

    @pytest.mark.slow
    def test_somebody_whom_a_running_campaign_has_reached_is_erased(self, conn: Connection, child: Child) -> None:
        conn.insert(
            "competitor_announcement_recipients", campaign_id=campaign(conn, status="sending"),
            competitor_id=child.id, email=child.email, email_norm=child.email.lower(), status="unconfirmed",
        )  # fmt: skip
        erased(conn, "competitor", child.id)
        assert conn.value("select count(*) from competitors") == 0

    def test_siblings_under_one_parents_address(
        self, conn: Connection, coach: Coach, child: Child, request: pytest.FixtureRequest
    ) -> None:
        Child(conn, coach.id, word="Quaggar")
        request.getfixturevalue("unchanged")
        self.refused(
            conn, "competitor", child.id, "1 of their addresses also belong to 1 other people (z…@zz-home.example)"
        )

    @pytest.mark.slow
    def test_with_keep_shared_the_sibling_keeps_the_address_and_the_rest_goes(
        self, conn: Connection, coach: Coach, child: Child
    ) -> None:
        sibling = Child(conn, coach.id, word="Quaggar")
        child.put_everywhere()
        erased(conn, "competitor", child.id, keep_shared=True)
        theirs = {child.parent_email, child.parent_name, *child.texts[9:]}
        assert places(dumped(conn), [text for text in child.texts if text not in theirs]) == {}
        assert conn.value("select parent_email from competitors where id = %s", sibling.id) == child.parent_email
        erased(conn, "competitor", sibling.id)
        assert places(dumped(conn), child.texts) == {}

    @pytest.mark.usefixtures("child")
    def test_an_address_of_several_people(self, conn: Connection, coach: Coach, request: pytest.FixtureRequest) -> None:
        conn.execute("update competitors set email_school = %s", (coach.email,))
        request.getfixturevalue("unchanged")
        self.refused(conn, "email", coach.email, "2 people have this address")

    @pytest.mark.usefixtures("child", "unchanged")
    def test_a_coach_who_has_competitors(self, conn: Connection, coach: Coach) -> None:
        self.refused(conn, "profile", coach.id, "This coach has 1 competitors and 0 teams")

    @pytest.mark.slow
    def test_somebody_whom_a_running_job_is_about(
        self, conn: Connection, child: Child, request: pytest.FixtureRequest
    ) -> None:
        job = conn.insert(
            "job_queue", task_type="zz", payload={"competitorId": str(child.id)}, status="running", run_token=1,
            lease_expires_at="9998-01-01", locked_by="w",
        )  # fmt: skip
        request.getfixturevalue("unchanged")
        self.refused(conn, "competitor", child.id, f"Job {job}, whose texts would be erased, is running.")

    def test_somebody_to_whom_a_message_is_being_sent(
        self, conn: Connection, child: Child, request: pytest.FixtureRequest
    ) -> None:
        message(conn, child.id, child.email, "announcement", "k", state="sending", lease_until="9998-01-01")
        request.getfixturevalue("unchanged")
        self.refused(conn, "competitor", child.id, "A message to them is being sent.")

    @pytest.mark.slow
    def test_somebody_to_whom_a_table_of_the_application_refers(
        self, conn: Connection, child: Child, request: pytest.FixtureRequest
    ) -> None:
        conn.execute("create table medals (who uuid references competitors (id))")
        conn.insert("medals", who=child.id)
        request.getfixturevalue("unchanged")
        self.refused(conn, "competitor", child.id, "The table medals, which is not Jobdeck's, refers to this person")

    @pytest.mark.slow
    def test_somebody_whose_row_another_session_has_locked(
        self, conn: Connection, child: Child, database_url: str, request: pytest.FixtureRequest
    ) -> None:
        request.getfixturevalue("unchanged")
        with Connection.connect(database_url) as other:
            other.execute("select from competitors for update")
            self.refused(conn, "competitor", child.id, "Another session has locked a row of theirs. Nothing was erased")

    @pytest.mark.parametrize(
        ("key", "words"),
        [(None, "is not set"), ("short", "fewer than 16"), ("CHANGE-ME", "placeholder"), ("a" * 30, "different")],
    )
    @pytest.mark.usefixtures("child", "unchanged")
    def test_without_a_good_key(self, conn: Connection, child: Child, key: str | None, words: str) -> None:
        with pytest.raises(ConfigurationError, match=words) as refusal, conn.transaction():
            erase(conn, settings(key), "competitor", str(child.id), False, "mara")
        assert "JOBDECK_ERASURE_KEY" in str(refusal.value)

    @pytest.mark.slow
    def test_with_another_key_than_before(
        self, conn: Connection, coach: Coach, child: Child, request: pytest.FixtureRequest
    ) -> None:
        erased(conn, "competitor", child.id)
        request.getfixturevalue("unchanged")
        with pytest.raises(Refused, match="is not the key"), conn.transaction():
            erase(conn, settings(KEY[::-1]), "profile", str(coach.id), False, "mara")


def test_the_tables_of_the_queue_that_have_texts_are_all_searched(conn: Connection) -> None:
    assert set(conn.value("select job_tables_with_texts()")) >= QUEUE
