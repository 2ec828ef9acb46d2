"""What the unit tests share: an AWS that does not exist, and the tables and pools of template.yaml in it."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config
from hypothesis import settings
from moto import mock_aws
from moto.cognitoidp.models import cognitoidp_backends

from gateway import telemetry
from tests.local import moto_fixes
from tests.unit.searches import Searches
from tests.unit.steps import Steps

TEMPLATE = Path(__file__).parents[2] / "template.yaml"

# The same examples at every run, so a red test is a change of ours; raise max_examples to search for more.
settings.register_profile("unit", deadline=None, derandomize=True, database=None)
settings.load_profile("unit")


class _Loader(yaml.SafeLoader):
    """Reads template.yaml; a short form like `!Ref Name` becomes {"Ref": "Name"}."""


def _short_form(loader: _Loader, name: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _short_form)


def _resolved(value: Any, defaults: dict[str, str]) -> Any:
    """References to parameters become the parameters' defaults."""
    if isinstance(value, dict):
        if set(value) == {"Ref"} and value["Ref"] in defaults:
            return defaults[value["Ref"]]
        return {name: _resolved(each, defaults) for name, each in value.items()}
    return [_resolved(each, defaults) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """template.yaml with its parameters' defaults."""
    source = yaml.load(TEMPLATE.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    defaults = {name: str(each["Default"]) for name, each in source["Parameters"].items() if "Default" in each}
    found: dict[str, Any] = _resolved(source, defaults)
    return found


@pytest.fixture(scope="session")
def resources(template: dict[str, Any]) -> dict[str, Any]:
    """The properties of the template's resources, by logical id."""
    return {name: each["Properties"] for name, each in template["Resources"].items()}


@pytest.fixture(scope="session", autouse=True)
def _no_real_aws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(autouse=True)
def _metrics_have_a_namespace(template: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in every function's environment: without one, no metric can be sent."""
    namespace = template["Globals"]["Function"]["Environment"]["Variables"]["POWERTOOLS_METRICS_NAMESPACE"]
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", namespace)
    monkeypatch.setattr(telemetry.metrics, "namespace", namespace)


@pytest.fixture(scope="module")
def _moto() -> Iterator[None]:
    with mock_aws():
        yield


@pytest.fixture(scope="module")
def _dynamodb(_moto: None) -> Any:
    return boto3.client("dynamodb", region_name="us-east-1")


@pytest.fixture
def dynamodb(_dynamodb: Any, resources: dict[str, Any]) -> Iterator[Any]:
    """A DynamoDB client; the template's table exists in it, empty, as "orders"."""
    names = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode")
    _dynamodb.create_table(TableName="orders", **{name: resources["OrdersTable"][name] for name in names})
    yield _dynamodb
    _dynamodb.delete_table(TableName="orders")


@pytest.fixture(scope="module")
def cognito(_moto: None) -> Any:
    """A Cognito client that is refused at once: the library tries again what is over a quota."""
    config = Config(retries={"total_max_attempts": 1})
    return boto3.client("cognito-idp", region_name="us-east-1", config=config)


@pytest.fixture(scope="module")
def _pool_id(cognito: Any, resources: dict[str, Any]) -> str:
    names = ("UsernameAttributes", "UsernameConfiguration", "AutoVerifiedAttributes", "AdminCreateUserConfig", "Schema")
    pool = cognito.create_user_pool(PoolName="users", **{name: resources["UserPool"][name] for name in names})
    return str(pool["UserPool"]["Id"])


@pytest.fixture
def pool_id(_pool_id: str) -> str:
    """The template's user pool, without users."""
    cognitoidp_backends["123456789012"]["us-east-1"].user_pools[_pool_id].users.clear()
    return _pool_id


@pytest.fixture
def mail() -> Iterator[moto_fixes.Mail]:
    """What becomes of invitations; those that left are in moto_fixes.outbox, which is empty at first."""
    moto_fixes.outbox.clear()
    yield moto_fixes.mail
    moto_fixes.mail.restore()


@pytest.fixture
def steps(dynamodb: Any, cognito: Any, pool_id: str, mail: object, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The machine's tasks, with an empty ledger and an empty pool."""
    return Steps(dynamodb, cognito, pool_id, monkeypatch)


@pytest.fixture
def searches(
    dynamodb: Any, cognito: Any, pool_id: str, mail: object, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> Iterator[Searches]:
    """The tasks of a search, with an empty ledger and an empty pool. Nothing personal is logged."""
    yield Searches(dynamodb, cognito, pool_id, monkeypatch)
    assert not any("@" in line for line in lines)


@pytest.fixture
def blobs(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """The metrics sent since the last call, as CloudWatch gets them."""

    def found() -> list[dict[str, Any]]:
        parsed: list[dict[str, Any]] = []
        for line in capsys.readouterr().out.splitlines():
            with suppress(ValueError):
                parsed.append(json.loads(line))
        return [blob for blob in parsed if "_aws" in blob]

    return found


@pytest.fixture
def counted(blobs: Callable[[], list[dict[str, Any]]]) -> Callable[[], dict[str, float]]:
    """The metrics since the last call: name -> sum."""

    def found() -> dict[str, float]:
        sums: dict[str, float] = {}
        for blob in blobs():
            for metric in blob["_aws"]["CloudWatchMetrics"][0]["Metrics"]:
                sums[metric["Name"]] = sums.get(metric["Name"], 0) + sum(blob[metric["Name"]])
        return sums

    return found


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged meanwhile, as it leaves the Lambda."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(  # type: ignore[method-assign]
        telemetry.logger.registered_formatter.format(record)
    )
    telemetry.logger.addHandler(handler)
    yield found
    telemetry.logger._logger.removeHandler(handler)
