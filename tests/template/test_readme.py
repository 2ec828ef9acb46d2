"""What the README shows is true today."""

import ast
import json
import re

import pytest
from botocore.validate import validate_parameters

from gateway import account, errors, events
from gateway.errors import GatewayError
from tests import runbook
from tests.diagram import README, definitions, drawn
from tests.template.conftest import REPOSITORY, application

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


def rights(text: str) -> list[str]:
    """The rights of the Stripe key that step 2 of *Deploying* lists, as Stripe's dashboard calls them."""
    said = re.search(
        r"\*\*read\*\* access to ([^;]*), \*\*write\*\* access to ([^;]*); nothing else\.", " ".join(text.split())
    )
    assert said is not None
    found = []
    for names, right in zip(said.groups(), ("Read", "Write"), strict=True):
        *first, last = re.sub(r" \([^)]*\)", "", names).split(", ")
        found += [f"{name}: {right}" for name in (*first, *re.split(" and (?:to )?", last))]
    return found


def needed() -> list[str]:
    """The same as the code asks for it: who may write may read, which is one line in the dashboard."""
    read = [right for right in account._READS if right.replace("Read", "Write") not in account._WRITES]
    return [*sorted(read), *sorted(account._WRITES)]


def test_the_rights_of_the_stripe_key_are_those_that_the_code_asks_for() -> None:
    assert rights(TEXT) == needed()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (", Products and Radar,", " and Products,"),
        (", Products and Radar,", ", Products, Quotes and Radar,"),
        ("access to Charges and Refunds, ", "access to "),
        (" and to Webhook Endpoints;", ";"),
        (" and to Webhook Endpoints;", ", to Payouts and to Webhook Endpoints;"),
        ("Disputes, Events,", "Events, Disputes,"),
    ],
)
def test_other_rights_of_the_stripe_key_are_found(old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    assert rights(TEXT.replace(old, new)) != needed()


def test_every_error_that_can_end_an_execution_is_explained() -> None:
    answered = {"UserExists", "MailNotDelivered", "NotAuthentic", "UnreadableEnvelope"}
    named = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, GatewayError)}
    missing = {name for name in named - answered - {"GatewayError"} if f"`{name}`" not in TEXT}
    assert missing == set()


# ------------------------------------------------------------------ the Runbook

OF_THE_CLI = ["aws logs tail"]  # made by the AWS CLI itself, of several calls
ALARM = "WebhookErrorsAlarm"


def unexplained(text: str) -> list[str]:
    """What is wrong with the Runbook's paragraphs."""
    named = re.findall(r"(?m)^\*\*`(\w+Alarm)`\*\*", runbook.section(text))
    alarms = application().resources("AWS::CloudWatch::Alarm").keys()
    problems = [f"{name} has no paragraph" for name in sorted(alarms - set(named))]
    problems += [f"{name} is no alarm" for name in sorted(set(named) - alarms)]
    problems += [f"{name} has several paragraphs" for name in sorted(set(named)) if named.count(name) > 1]
    for name, paragraph in runbook.paragraphs(text).items():
        said = runbook.parts(paragraph)
        if tuple(said) != runbook.PARTS or not all(each.strip() for each in said.values()):
            problems.append(f"{name} does not say what to {', '.join(runbook.PARTS)}, in this order")
    return problems


def unusable(text: str) -> list[str]:
    """Commands that the AWS CLI would not take."""
    problems = []
    for command in runbook.commands(text):
        if any(command.startswith(each) for each in OF_THE_CLI):
            continue
        try:
            found = runbook.parsed(command)
            validate_parameters(found.parameters, found.shape)
        except (Exception, AssertionError) as error:
            problems.append(f"{command}: {error!r}")
    return problems


def test_every_alarm_has_a_paragraph_and_every_paragraph_an_alarm() -> None:
    assert unexplained(TEXT) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"**`{ALARM}`**", "**`WebhookAlarm`**"),
        (f"**`{ALARM}`**", "**`NoEventAlarm`**"),
        (f"**`{ALARM}`**", f"`{ALARM}`"),
        ("*Mend:*", "Mend:"),
        ("*Verify:*", "*Check:*"),
    ],
)
def test_an_alarm_that_is_not_explained_is_found(old: str, new: str) -> None:
    assert old in TEXT
    before, paragraph = TEXT.split("## Runbook", 1)
    assert unexplained(f"{before}## Runbook{paragraph.replace(old, new, 1)}") != []


def test_every_command_of_the_runbook_is_one_that_the_aws_cli_takes() -> None:
    assert len(runbook.commands(TEXT)) > 20
    assert unusable(TEXT) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("aws dynamodb create-backup", "aws dynamodb make-backup"),
        ("--backup-name restored", "--name restored"),
        ("--backup-name restored", ""),
        ("Enabled=true,AttributeName", "On=true,AttributeName"),
        ("--no-deletion-protection-enabled", "--deletion-protection-enabled no"),
        ("aws lambda invoke --function-name", "aws lambda invoke --name"),
    ],
)
def test_a_command_that_the_aws_cli_does_not_take_is_found(old: str, new: str) -> None:
    before, rest = TEXT.split("## Runbook", 1)
    assert old in rest
    assert unusable(f"{before}## Runbook{rest.replace(old, new, 1)}") != []


def test_what_is_imported_into_a_new_stack_is_what_a_deleted_one_leaves_and_refers_to_nothing_else() -> None:
    """jq is not here, so its filter is carried out by hand. Every deployment leaves old versions of the code, too."""
    (filtered,) = (command for command in runbook.in_blocks(TEXT) if command.startswith("jq "))
    names, removed = re.search(r"\.Resources \| \{([^}]+)\}", filtered), re.search(r"del\((.*)\)", filtered)
    assert names is not None
    assert removed is not None
    assert removed[1].rstrip(")") == ".[].DependsOn, .UserPool.Properties.LambdaConfig"
    template = application().template
    kept = {name: dict(template["Resources"][name]) for name in names[1].split(", ")}
    left = {name for name, body in template["Resources"].items() if body.get("DeletionPolicy") == "Retain"}
    left = {name for name in left if not template["Resources"][name]["Type"].endswith("Version")}
    assert kept.keys() == left
    for body in kept.values():
        body.pop("DependsOn", None)
    del kept["UserPool"]["Properties"]["LambdaConfig"]
    referred = set(re.findall(r'"Ref": "([\w:]+)"|"Fn::GetAtt": \["(\w+)"', json.dumps(kept)))
    referred = {name for pair in referred for name in pair if name and not name.startswith("AWS::")}
    assert referred <= kept.keys() | template["Parameters"].keys()
    assert referred & template["Parameters"].keys()


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ('{ $.function = "*Webhook*" && $.level = "ERROR" }', True),
        ('{ $.function = "*Webhook*" && $.level = "INFO" }', False),
        ('{ $.answer.outcome = "held" || $.answer.outcome = "comped" }', True),
        ('"oldest open order"', True),
        ('"oldest order"', False),
        ("?SettingMissing ?oldest", True),
        ("oldest SettingMissing", False),
    ],
)
def test_a_filter_of_logs_is_read_as_cloudwatch_reads_it(pattern: str, found: bool) -> None:
    line = {
        "function": "gateway-WebhookFunction-1",
        "level": "ERROR",
        "message": "oldest open order",
        "answer": {"outcome": "held"},
    }
    assert runbook.matches(pattern, line) is found


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
