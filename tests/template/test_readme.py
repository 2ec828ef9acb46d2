"""What the README shows is true today."""

import json
import re

from gateway import errors, events
from gateway.errors import GatewayError
from tests.diagram import DEFINITION, README, drawn

TEXT = README.read_text(encoding="utf-8")
LEGACY = ("order.", "order_return.")  # Stripe offers them to no new endpoint


def test_the_diagram_is_todays_machine() -> None:
    definition = json.loads(DEFINITION.read_text(encoding="utf-8"))
    assert drawn(TEXT, definition) == TEXT, "run make diagram"


def test_a_changed_machine_makes_the_diagram_stale() -> None:
    definition = json.loads(DEFINITION.read_text(encoding="utf-8"))
    definition["States"]["CreateUser"]["Next"] = "LookupUser"
    assert drawn(TEXT, definition) != TEXT


def test_the_events_to_subscribe_to_are_those_that_the_code_handles() -> None:
    listed = re.search(r"(?s)<!-- events -->(.*)<!-- /events -->", TEXT)
    assert listed is not None
    assert re.findall(r"`([a-z_.]+)`", listed[1]) == sorted(
        each for each in events.HANDLED_TYPES if not each.startswith(LEGACY)
    )


def test_every_error_that_can_end_an_execution_is_explained() -> None:
    answered = {
        "UserExists",
        "MailNotDelivered",
        "NotAuthentic",
        "UnreadableEnvelope",
        "StartThrottled",
        "StartUnavailable",
    }
    named = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, GatewayError)}
    missing = {name for name in named - answered - {"GatewayError"} if f"`{name}`" not in TEXT}
    assert missing == set()
