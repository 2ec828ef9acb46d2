"""What the README shows is true today."""

import re

import pytest

from gateway import errors, events
from gateway.errors import GatewayError
from tests.diagram import README, definitions, drawn

TEXT = README.read_text(encoding="utf-8")
LEGACY = ("order.", "order_return.")  # Stripe offers them to no new endpoint


def test_the_diagrams_are_todays_machines() -> None:
    assert drawn(TEXT, definitions()) == TEXT, "run make diagram"


@pytest.mark.parametrize(("name", "state"), [("fulfillment", "CreateUser"), ("offboarding", "AwaitIndexes")])
def test_a_changed_machine_makes_its_diagram_stale(name: str, state: str) -> None:
    machines = definitions()
    machines[name]["States"][state]["Next"] = machines[name]["States"][state]["Next"] + "Again"
    assert drawn(TEXT, machines) != TEXT


def test_a_machine_without_a_place_in_the_readme_is_found() -> None:
    with pytest.raises(ValueError, match="another"):
        drawn(TEXT, definitions() | {"another": {}})


def test_the_events_to_subscribe_to_are_those_that_the_code_handles() -> None:
    listed = re.search(r"(?s)<!-- events -->(.*)<!-- /events -->", TEXT)
    assert listed is not None
    assert re.findall(r"`([a-z_.]+)`", listed[1]) == sorted(
        each for each in events.HANDLED_TYPES if not each.startswith(LEGACY)
    )


def test_every_error_that_can_end_an_execution_is_explained() -> None:
    answered = {"UserExists", "MailNotDelivered", "NotAuthentic", "UnreadableEnvelope"}
    named = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, GatewayError)}
    missing = {name for name in named - answered - {"GatewayError"} if f"`{name}`" not in TEXT}
    assert missing == set()
