"""`sam local invoke <Function> -e tests/events/<file>.json`: every function has an event of the right shape."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.drift import KINDS
from gateway.endpoint import Answer, Request, UserRequest, endpoint, user_endpoint
from gateway.step import Deletion, Run, Search
from tests.handlers import imported
from tests.template.conftest import answered, application, snake

APPLICATION = application()
FUNCTIONS = {path.removesuffix(".py"): text for path, text in APPLICATION.handlers.items()}
EVENTS = Path("tests/events")
TASKS = [(machine.name, name) for machine in APPLICATION.machines for name in machine.tasks]
# Task -> what its executions are executions of; what a Map runs for every item is an execution of its own.
RUN_BY = {
    task: machine.name if scope.name == machine.name else f"{machine.name}/{scope.name}"
    for machine in APPLICATION.machines
    for scope in machine.scopes
    for task in scope.tasks
}
STEPS = sorted(name for name, text in FUNCTIONS.items() if "\n@step\n" in text)
DELETION_STEPS = sorted(name for name, text in FUNCTIONS.items() if "\n@deletion_step\n" in text)
SEARCH_STEPS = sorted(name for name, text in FUNCTIONS.items() if "\n@search_step\n" in text)
ENDPOINTS = sorted(name for name, text in FUNCTIONS.items() if "\n@endpoint(" in text)
USER_ENDPOINTS = sorted(name for name, text in FUNCTIONS.items() if "\n@user_endpoint\n" in text)
ROUTES = sorted(name for name, text in FUNCTIONS.items() if re.match('"""(POST|GET|DELETE) /', text))
SUB = "11111111-2222-4333-8444-555555555555"


def event(name: str) -> dict[str, Any]:
    return dict(json.loads((EVENTS / f"{name}.json").read_text(encoding="utf-8")))


def test_every_function_has_an_event_and_no_other() -> None:
    assert {path.stem for path in EVENTS.glob("*.json")} == FUNCTIONS.keys()


def test_every_task_is_a_step_of_its_machine() -> None:
    steps = {"fulfillment": STEPS, "offboarding": DELETION_STEPS, "reconciliation": SEARCH_STEPS}
    assert {(machine, name) for machine, names in steps.items() for name in names} == {
        (machine, snake(name)) for machine, name in TASKS
    }


@pytest.mark.parametrize(("name", "task"), TASKS)
def test_the_event_of_a_task_has_what_the_tasks_before_it_answer(name: str, task: str) -> None:
    (machine,) = (each for each in APPLICATION.machines if each.name == name)
    passed = event(snake(task))
    assert f":execution:{RUN_BY[task]}:" in passed["execution"]
    answers = {
        state["ResultPath"].removeprefix("$."): answered(FUNCTIONS[snake(each)])
        for each, state in machine.tasks.items()
    }
    answers["error"] = {"Error", "Cause"}
    for path, answer in passed["run"].items():
        if isinstance(answer, dict):
            assert answer.keys() == answers[path], path


@pytest.mark.parametrize("name", STEPS)
def test_the_event_of_a_step_is_what_the_machine_passes(name: str) -> None:
    run = Run(event(name)["execution"], "local", event(name)["run"])
    assert (run.event_id, run.party, run.attempt) == ("evt_1", "cus_1", 1)
    if "billing" in run.state:
        assert run.access.reason
        assert run.state["billing"]["resume"] is bool(run.state["billing"]["left_over"])
        assert bool(run.deleted_at) is run.erased
    if "lookup" in run.state:
        assert run.user.facts() == run.seen
        assert run.unbanned is False
        assert run.target.payment_status == run.access.status


@pytest.mark.parametrize("name", DELETION_STEPS)
def test_the_event_of_a_deletion_step_is_what_the_machine_passes(name: str) -> None:
    run = Deletion(event(name)["execution"], "local", event(name)["run"])
    assert re.fullmatch("[0-9a-f]{40}", run.id)
    assert run.execution.endswith(f":{run.id}-r1")
    assert bool(run.passes) is ("remains" in run.state)


@pytest.mark.parametrize("name", SEARCH_STEPS)
def test_the_event_of_a_search_step_is_what_the_machine_passes(name: str) -> None:
    search = Search(event(name)["execution"], "local", event(name)["run"])
    assert search.id == "daily"
    if "plan" in search.state:
        assert search.execution.endswith(f":{search.plan['id']}")
        assert [event("compare_shard")["run"]] == search.plan["shards"][1:]
    if "shards" in search.state:
        compared = [shard["compared"] for shard in search.state["shards"]]
        assert all(each.keys() == answered(FUNCTIONS["compare_shard"]) for each in compared)
        without = [{key: each[key] for key in each if key != "compared"} for each in search.state["shards"]]
        assert without == search.plan["shards"]
    if "drift" in search.state:
        kinds = search.state["drift"]["kinds"]
        assert list(kinds) == list(KINDS)
        assert sum(kinds.values()) == search.state["drift"]["found"]


@pytest.mark.parametrize("name", ROUTES)
def test_the_event_of_a_route_is_sent_there(name: str) -> None:
    sent = event(name)
    assert FUNCTIONS[name].startswith(f'"""{sent["routeKey"]}: ')
    variables = sent.get("pathParameters") or {}
    assert f"{sent['requestContext']['http']['method']} {sent['rawPath']}" == sent["routeKey"].format(**variables)
    assert sent["requestContext"]["http"]["path"] == sent["rawPath"]


@pytest.mark.parametrize("name", ENDPOINTS)
def test_the_event_of_an_endpoint_is_a_request_that_it_can_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Request] = []

    def keeping(**fields: Any) -> Any:
        """The same decorator, around something that only keeps the request."""
        return lambda _: endpoint(**fields)(lambda request: requests.append(request) or Answer({}))

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("gateway.endpoint.endpoint", keeping)
    (function,) = (each for each, body in APPLICATION.functions.items() if body["Handler"] == f"{name}.handler")
    context = SimpleNamespace(function_name=name, aws_request_id="local", get_remaining_time_in_millis=lambda: 20_000)
    answer = imported(function).handler(event(name), context)
    assert (answer["statusCode"], answer["body"]) == (200, "{}")
    (request,) = requests
    assert request.caller == event(name)["requestContext"]["authorizer"]["iam"]["userArn"]
    said = json.loads(event(name)["body"])
    assert {"email": request.email, **{key: request.values[key] for key in said if key != "email"}} == said


@pytest.mark.parametrize("name", USER_ENDPOINTS)
def test_the_event_of_a_users_endpoint_is_a_request_that_it_can_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[UserRequest] = []

    def keeping(_: Any) -> Any:
        """The same decorator, around something that only keeps the request."""
        return user_endpoint(lambda request: requests.append(request) or Answer({}))

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("gateway.endpoint.user_endpoint", keeping)
    (function,) = (each for each, body in APPLICATION.functions.items() if body["Handler"] == f"{name}.handler")
    context = SimpleNamespace(function_name=name, aws_request_id="local")
    answer = imported(function).handler(event(name), context)
    assert (answer["statusCode"], answer["body"]) == (200, "{}")
    (request,) = requests
    asked = {"reserve_dapp": "dapp", "release_dapp": "dapp_in_path", "list_dapps": "next"}[name]
    assert (request.sub, getattr(request, asked)) == (SUB, "my-dapp")
    assert event(name)["requestContext"]["authorizer"]["lambda"].keys() == {"sub", "limit", "used"}


def test_the_event_of_the_authorizer_is_what_the_api_asks() -> None:
    """Payload 2.0 of an HTTP API, of a route that users may call."""
    sent = event("authorize")
    assert (sent["version"], sent["type"]) == ("2.0", "REQUEST")
    assert sent["routeKey"] in {event(name)["routeKey"] for name in USER_ENDPOINTS}
    assert sent["identitySource"] == [sent["headers"]["authorization"]]
    assert sent["routeArn"].startswith("arn:aws:execute-api:us-east-1:123456789012:")
    assert "authorizer" not in sent["requestContext"]


def test_the_event_of_the_trigger_is_what_cognito_asks() -> None:
    """Before it gives tokens to a user of ours."""
    sent = event("add_claims")
    assert sent["version"] in ("2", "3")
    assert sent["triggerSource"].startswith("TokenGeneration_")
    assert sent["request"]["userAttributes"].keys() >= {"sub", "custom:num_dapps", "custom:payment_status"}
    answer = imported("AddClaimsFunction").handler(sent, None)
    assert answer is sent
    assert answer["response"].keys() == {"claimsAndScopeOverrideDetails"}
