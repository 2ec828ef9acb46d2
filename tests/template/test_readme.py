"""What the README shows is true today."""

import ast
import re

import pytest

from gateway import errors, events
from gateway.errors import GatewayError
from tests.diagram import README, definitions, drawn
from tests.template.conftest import REPOSITORY

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


def threats(text: str) -> dict[str, list[str]]:
    """Threat -> the tests that its row names."""
    section = text.partition("## Threat model\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| \*\*(.+?)\*\* \|.*\|(.*)\|$", section)
    return {threat: re.findall(r"`(\S+\.py::\S+)`", tests) for threat, tests in rows}


def is_there(test: str) -> bool:
    """Whether `file.py::name` or `file.py::Class::name`, from tests/ on, is a function (test or rule)."""
    path, *names = test.split("::")
    file = REPOSITORY / "tests" / path
    body = ast.parse(file.read_text(encoding="utf-8")).body if file.exists() else []
    for name in names:
        found = [each for each in body if isinstance(each, ast.FunctionDef | ast.ClassDef) and each.name == name]
        body = found[0].body if found else []
    return bool(body)


def test_every_threat_has_tests_and_they_exist() -> None:
    found = threats(TEXT)
    asked = {"Spoofed webhook", "Replay", "Forged token", "Stolen admin role", "Poisoned metadata", "Stranger's e-mail"}
    assert asked | {"Denial of wallet", "Stripe key of another account"} <= found.keys()
    assert {threat for threat, tests in found.items() if not tests} == set()
    assert {test for tests in found.values() for test in tests if not is_there(test)} == set()


@pytest.mark.parametrize(
    "test",
    [
        "unit/test_nothing.py::test_anything",
        "unit/test_webhook.py::test_anything",
        "unit/test_webhook.py::TestRefusal::test_anything",
        "unit/test_webhook.py::test_of_what_stripe_did_not_sign",  # a method of TestRefusal
    ],
)
def test_a_test_that_does_not_exist_is_found(test: str) -> None:
    assert not is_there(test)


def test_a_threat_without_a_test_is_found() -> None:
    row = "| **Fire** | water | none |"
    assert threats(f"## Threat model\n\n{row}\n\n## Decisions\n\n{row}\n") == {"Fire": []}
