"""Job types for the tests of producers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jobdeck

if TYPE_CHECKING:
    from collections.abc import Mapping


class Greeting(jobdeck.Payload):
    to_whom: str
    times: int = 1


@jobdeck.job("made_greet", payload=Greeting, max_attempts=3, concurrency="payload:toWhom")
def greet(params: Greeting, ctx: jobdeck.JobContext) -> jobdeck.Done:
    return jobdeck.Done({"said": params.to_whom * params.times})


def judge(params: Any, admission: Any) -> Mapping[str, str]:
    return {"toWhom": "is nobody"} if params.to_whom == "nobody" else {}


@jobdeck.job("made_judged", payload=Greeting, admit=judge)
def judged(params: Greeting, ctx: jobdeck.JobContext) -> None: ...
