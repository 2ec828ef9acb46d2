"""Updates of a stack: which of them make a new version, what none may replace, and what releases are called."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.template.conftest import application, translated

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")

# SAM keeps them when their resource goes. They hold code, nothing that is remembered.
VERSIONS = {"AWS::Lambda::LayerVersion", "AWS::Lambda::Version", "AWS::StepFunctions::StateMachineVersion"}


# ------------------------------------------------------------------ versions of the webhook


def _version(change: Callable[[Any], object] = lambda source: None, **parameters: str) -> str:
    """Under what name SAM publishes the webhook; another name is another version for the alias to shift to."""
    resources = translated(change, **parameters)["Resources"]
    (name,) = (each for each in resources if each.startswith("WebhookFunctionVersion"))
    return str(name)


def _webhook(**changes: Any) -> Callable[[Any], object]:
    return lambda source: source["Resources"]["WebhookFunction"]["Properties"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        _webhook(CodeUri="s3://package/changed"),
        _webhook(Timeout=21),
        lambda source: source["Resources"]["DependenciesLayer"]["Properties"].update(ContentUri="s3://package/changed"),
        lambda source: source["Globals"]["Function"]["Environment"]["Variables"].update(NEW="text"),
    ],
    ids=["code", "setting", "layer", "variable"],
)
def test_what_runs_changed_makes_a_version(change: Callable[[Any], object]) -> None:
    assert _version(change) != _version()


def test_nothing_changed_makes_none() -> None:
    assert _version() == _version()


def test_the_new_value_of_a_parameter_makes_none() -> None:
    """The reason why no variable of the webhook may hold a parameter that can change (test_template.py)."""
    assert _version(StripeMode="live") == _version(StripeMode="test")


# ------------------------------------------------------------------ what no update may replace


def _policy() -> list[dict[str, Any]]:
    """The stack policy of the README."""
    (found,) = re.findall(r"--stack-policy-body '(.*?)'", README, re.DOTALL)
    return list(json.loads(found)["Statement"])


def _types(statement: dict[str, Any]) -> Any:
    """The resource types that a statement is about; None: all."""
    return statement["Condition"]["StringEquals"]["ResourceType"] if "Condition" in statement else None


def _allowed(action: str, kind: str) -> bool:
    """CloudFormation's decision: some statement allows it and none denies it."""
    effects = {
        statement["Effect"]
        for statement in _policy()
        if {"Update:*", action} & set(statement["Action"]) and (_types(statement) is None or kind in _types(statement))
    }
    return effects == {"Allow"}


def _kept() -> dict[str, str]:
    """Logical id -> type, of what stays when the stack goes."""
    resources = application().template["Resources"]
    kept = {name: each["Type"] for name, each in resources.items() if each.get("DeletionPolicy") == "Retain"}
    return {name: kind for name, kind in kept.items() if kind not in VERSIONS}


def test_what_is_kept_is_known() -> None:
    assert {"OrdersTable", "UserPool", "UserPoolClient", "HashKeySecret"} <= _kept().keys()


@pytest.mark.parametrize("kind", sorted({*_kept().values(), "AWS::ApiGatewayV2::Api"}))
def test_what_is_kept_is_changed_but_never_replaced(kind: str) -> None:
    """Nor the API: Stripe, the users and the operators know its address."""
    assert _allowed("Update:Modify", kind)
    assert not _allowed("Update:Replace", kind)
    assert not _allowed("Update:Delete", kind)


@pytest.mark.parametrize(
    "kind", ["AWS::Lambda::Function", "AWS::IAM::Role", "AWS::Lambda::Version", "AWS::Events::Rule"]
)
def test_everything_else_may_be_replaced(kind: str) -> None:
    assert all(_allowed(f"Update:{action}", kind) for action in ("Modify", "Replace", "Delete"))


def test_the_policy_names_no_resource_of_its_own() -> None:
    """CloudFormation refuses a policy with a logical id that the stack has not, as UserPool when the pool is yours."""
    assert {(statement["Principal"], statement["Resource"]) for statement in _policy()} == {("*", "*")}
    there = {each["Type"] for each in application().template["Resources"].values()}
    assert {kind for statement in _policy() for kind in _types(statement) or ()} <= there


# ------------------------------------------------------------------ what a release is called


def _releases() -> list[str]:
    return re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", CHANGELOG, re.MULTILINE)


def test_the_newest_release_of_the_changelog_is_what_a_stack_says_it_runs() -> None:
    assert application().template["Outputs"]["Version"]["Value"] == _releases()[0]


def test_every_heading_of_the_changelog_is_a_release_newest_first() -> None:
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert len(headings) - ("[Unreleased]" in headings) == len(_releases())
    numbers = [tuple(map(int, each.split("."))) for each in _releases()]
    assert numbers == sorted(set(numbers), reverse=True)


def test_the_version_is_written_nowhere_else() -> None:
    assert not re.search(r'^version = "', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_release_says_how_to_upgrade() -> None:
    sections = re.split(r"^## \[", CHANGELOG, flags=re.MULTILINE)[1:]
    assert [
        each[:9] for each in sections if "\n### Upgrading\n" not in each and not each.startswith("Unreleased")
    ] == []
