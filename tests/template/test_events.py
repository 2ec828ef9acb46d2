"""`sam local invoke <Function> -e tests/events/<file>.json`: every function has an event of the right shape."""

import json
from pathlib import Path

import pytest

from gateway.step import Run

FUNCTIONS = Path("functions")
EVENTS = Path("tests/events")
STEPS = sorted(path.stem for path in FUNCTIONS.glob("*.py") if "@step" in path.read_text(encoding="utf-8"))


def test_every_function_has_an_event_and_no_other() -> None:
    assert {path.stem for path in EVENTS.glob("*.json")} == {path.stem for path in FUNCTIONS.glob("*.py")}


@pytest.mark.parametrize("name", STEPS)
def test_the_event_of_a_step_is_what_the_machine_passes(name: str) -> None:
    event = json.loads((EVENTS / f"{name}.json").read_text(encoding="utf-8"))
    run = Run(event["execution"], "local", event["run"])
    assert (run.event_id, run.party, run.attempt) == ("evt_1", "cus_1", 1)
    if "billing" in run.state:
        assert run.access.reason
    if "lookup" in run.state:
        assert run.user.facts() == run.seen
        assert run.target.payment_status == run.access.status
