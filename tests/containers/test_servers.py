"""`sam local start-api` takes what Stripe sends; `sam local start-lambda` runs the steps of the machine."""

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.containers.conftest import Server, World, outcome, serving
from tests.e2e.conftest import WEBHOOK_SECRET, Answer, Gateway, Json, sign
from tests.local.lambda_service import Answer as Invoked


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[Server]:
    """The HTTP API, with a container behind each route."""
    with serving("start-api", world.template) as started:
        yield started


@pytest.fixture
def api(server: Server) -> Iterator[str]:
    yield server.address
    print(server.log.read_text(encoding="utf-8"))  # pytest shows it with a test that fails


@pytest.fixture
def steps_in_containers(world: World) -> Iterator[list[str]]:
    """The Lambda endpoint that the machine asks hands on to `start-lambda`; the functions that were asked."""
    functions, asked = world.gateway.stack._functions, []

    def invoke(reference: str, payload: bytes) -> Invoked:
        name = functions.find(reference).logical_id
        asked.append(name)
        text = post(server.address, f"/2015-03-31/functions/{name}/invocations", payload, {}).text
        # Of a function that has failed, the emulator says so in the document only; the machine looks at the header.
        return Invoked(text.encode(), failed=outcome(json.loads(text)).error is not None)

    with serving("start-lambda", world.template) as server, pytest.MonkeyPatch.context() as patched:
        patched.setattr(functions, "invoke", invoke)
        yield asked
        print(server.log.read_text(encoding="utf-8"))


def post(address: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection(address, timeout=120)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"} | headers)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode())
    finally:
        connection.close()


def paid(gateway: Gateway, email: str, quantity: int) -> Json:
    """Somebody buys, and Stripe's event about it."""
    _, event = gateway.undelivered(email, quantity)
    gateway.stripe.auto_deliver = False
    return event


def deliver(api: str, body: bytes, secret: str = WEBHOOK_SECRET) -> int:
    """The status that Stripe is told."""
    return post(api, "/create", body, {"Stripe-Signature": sign(body, secret)}).status


def test_a_signed_event_becomes_an_order_and_a_forged_one_does_not(world: World, api: str) -> None:
    event = paid(world.gateway, "signed@example.com", 1)
    forged = json.dumps(event | {"id": "evt_forged"}).encode()
    assert deliver(api, forged, "whsec_forged") == 400
    assert deliver(api, json.dumps(event).encode()) == 200
    assert [row["event_id"] for row in world.gateway.orders(event["data"]["object"]["customer"])] == [event["id"]]
    world.gateway.settle()


def test_a_purchase_gives_access_with_every_function_in_a_container(
    world: World, api: str, steps_in_containers: list[str]
) -> None:
    event = paid(world.gateway, "contained@example.com", 4)
    assert deliver(api, json.dumps(event).encode()) == 200
    world.gateway.settle(240)
    (run,) = world.gateway.runs(event["id"])
    assert (run.status, run.error) == ("SUCCEEDED", None)
    assert run.states[-2:] == ["MarkFulfilled", "Fulfilled"]
    steps = [state for state in run.states if state not in ("DecideAccess", "Fulfilled")]
    assert steps_in_containers == [f"{state}Function" for state in steps]
    assert world.gateway.access("contained@example.com") == (True, 4, "ACTIVE")
    assert world.gateway.order(event["id"])["state"] == "FULFILLED"


def test_the_machine_meets_the_errors_that_a_container_raises_by_name(
    world: World, api: str, steps_in_containers: list[str]
) -> None:
    event = paid(world.gateway, "unknown@example.com", 1)
    event["data"]["object"]["customer"] = "cus_of_another_account"
    assert deliver(api, json.dumps(event).encode()) == 200
    world.gateway.settle(240)
    (run,) = world.gateway.runs(event["id"])
    assert (run.status, run.error) == ("FAILED", "BillingIncomplete")
    assert run.states == ["ReadBilling", "MarkUnfulfilled", "NotFulfilled"]
    assert steps_in_containers == ["ReadBillingFunction", "MarkUnfulfilledFunction"]
