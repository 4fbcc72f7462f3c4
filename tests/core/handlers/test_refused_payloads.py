"""Payloads of the competition's job types that do not fit, each refused with the name of its field."""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

import pytest

from jobdeck.core import registry
from jobdeck.core.errors import InvalidPayload

WRONG: Final[dict[str, dict[str, list[Any]]]] = {
    "admin_alert_dispatch": {
        "roles.0": [["amdin"]],
        "roles": [[]],
        "windowMinutes": [-1, 0, 2.5],
        "coachId": ["x"],
        "force": ["no"],
        "limit": [5],
    },
    "competitor_announcement_dispatch": {
        "campaignId": ["x"],
        "batchSize": [0, 1001, "20"],
        "maxRecipients": [0],
        "dryRun": ["yes"],
        "unknown": [1],
    },
    "game_platform_onboard_coaches": {"coachIds": [[], [""], ["a", "b"], [None]]},
    "game_platform_onboard_competitors": {
        "competitorIds": [[], ["", None, 5], ["anna@example.org"]],
        "forceReonboard": ["yes"],
        "onlyActive": [0],
        "coachId": ["c"],
        "source": ["other"],
        "competitors": [[]],
    },
    "game_platform_profile_refresh": {"coachId": ["k"], "batchSize": [3], "dryRun": [1]},
    "game_platform_sync": {
        "dryRun": ["true", 1],
        "batchSize": [True, "50"],
        "mode": ["half"],
        "coachId": ["everyone"],
        "syncTeams": ["no"],
        "unknown": [1],
    },
    "game_platform_totals_sweep": {"forceAll": ["yes"], "coachId": [str(uuid4())[:-1]], "batch": [3]},
    "message_read_receipts_backfill": {
        "batchSize": [0, 10_001, "500"],
        "maxRows": [-1, 1.5],
        "dryRun": ["yes"],
        "coachId": [None],
    },
    "release_parent_email_verification": {
        "limit": [0, 1001, "50"],
        "staleHours": [-1, float("inf"), "4"],
        "dryRun": [1],
        "coachId": [None],
    },
    "sms_digest_processor": {
        "roles.0": [["coaches"]],
        "roles.1": [["coach", "Admin"]],
        "roles": [[], None, "coach"],
        "audience": [["coach"]],
        "windowMinutes": [0, -5, 43_201, "60"],
        "coachId": ["somebody"],
        "force": [1],
        "dryRun": ["true"],
        "allowSms": [None],
        "dry": [True],
    },
}
"""The values that each type refuses, by the field that the refusal names."""


def refusal(task_type: str, payload: dict[str, Any]) -> InvalidPayload:
    with pytest.raises(InvalidPayload) as caught:
        registry.load().validate(task_type, payload)
    return caught.value


@pytest.mark.parametrize("task_type", WRONG)
def test_a_payload_that_does_not_fit_is_refused_with_the_field(task_type: str) -> None:
    needed = {"campaignId": str(uuid4())} if task_type == "competitor_announcement_dispatch" else {}
    for field, values in WRONG[task_type].items():
        for value in values:
            refused = refusal(task_type, needed | {field.partition(".")[0]: value})
            assert list(refused.problems) == [field], value
            assert "anna" not in str(refused)


def test_a_field_that_another_one_needs_is_missed() -> None:
    assert list(refusal("competitor_announcement_dispatch", {}).problems) == ["campaignId"]
    assert "payload" in refusal("game_platform_onboard_competitors", {"forceReonboard": True}).problems
