"""gateway.executions: an attempt has one name and one input, whoever starts it and however often."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError

from gateway.errors import GatewayError, StartRejected, StartThrottled, StartUnavailable
from gateway.executions import StateMachine, console_link, execution_arn
from gateway.ledger import ATTEMPT_SECONDS, Attempt, Tombstone

NOW = 1_790_000_000
MACHINE = "arn:aws:states:us-east-1:123456789012:stateMachine:fulfillment"
DEFINITION = json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}})


def attempt(number: int = 1, customer_id: str | None = "cus_1", **changed: Any) -> Attempt:
    given = {"event_id": "evt_1", "order_id": "in_1", "state": "RECEIVED", "at": NOW, **changed}
    return Attempt(number=number, customer_id=customer_id, **given)


@pytest.fixture(scope="module")
def stepfunctions(_moto: None) -> Any:
    return boto3.client("stepfunctions", region_name="us-east-1")


@pytest.fixture
def machine(stepfunctions: Any) -> Iterator[str]:
    """A machine whose executions run until somebody stops them; its ARN."""
    role = "arn:aws:iam::123456789012:role/machine"
    arn = stepfunctions.create_state_machine(name="fulfillment", definition=DEFINITION, roleArn=role)["stateMachineArn"]
    yield arn
    stepfunctions.delete_state_machine(stateMachineArn=arn)


@pytest.fixture
def executions(stepfunctions: Any, machine: str) -> Callable[[], dict[str, str]]:
    """Name -> input of every execution there is."""

    def found() -> dict[str, str]:
        rows = stepfunctions.list_executions(stateMachineArn=machine)["executions"]
        return {
            row["name"]: stepfunctions.describe_execution(executionArn=row["executionArn"])["input"] for row in rows
        }

    return found


class TestStart:
    def test_names_the_execution_after_the_attempt(
        self, stepfunctions: Any, machine: str, executions: Callable[[], dict[str, str]]
    ) -> None:
        for number in (1, 2, 14):
            StateMachine(stepfunctions, machine).start(attempt(number))
        assert executions().keys() == {"evt_1", "evt_1-r2", "evt_1-r14"}

    @pytest.mark.parametrize(
        ("customer_id", "text"),
        [
            ("cus_1", '{"customer_id": "cus_1", "event_id": "evt_1", "order_id": "in_1"}'),
            (None, '{"customer_id": null, "event_id": "evt_1", "order_id": "in_1"}'),
        ],
    )
    def test_gives_every_attempt_the_same_input(
        self,
        stepfunctions: Any,
        machine: str,
        executions: Callable[[], dict[str, str]],
        customer_id: str | None,
        text: str,
    ) -> None:
        """Byte for byte: Step Functions compares texts. Neither the moment nor the state of the attempt is in it."""
        fulfillment = StateMachine(stepfunctions, machine)
        fulfillment.start(attempt(1, customer_id))
        fulfillment.start(attempt(2, customer_id, at=NOW + 900, state="UNFULFILLED"))
        assert executions() == {"evt_1": text, "evt_1-r2": text}

    def test_of_a_running_attempt_is_no_second_start(
        self, stepfunctions: Any, machine: str, executions: Callable[[], dict[str, str]]
    ) -> None:
        for at in (NOW, NOW + 1):
            StateMachine(stepfunctions, machine).start(attempt(at=at))
        assert len(executions()) == 1

    def test_of_an_attempt_that_has_run_is_no_second_start(
        self, stepfunctions: Any, machine: str, executions: Callable[[], dict[str, str]]
    ) -> None:
        fulfillment = StateMachine(stepfunctions, machine)
        fulfillment.start(attempt())
        arn = machine.replace(":stateMachine:", ":execution:")
        stepfunctions.stop_execution(executionArn=f"{arn}:evt_1")
        fulfillment.start(attempt())
        assert len(executions()) == 1

    def test_of_a_deletion_is_named_after_its_tombstone_and_attempt(
        self, stepfunctions: Any, machine: str, executions: Callable[[], dict[str, str]]
    ) -> None:
        for number in (1, 1, 2):
            StateMachine(stepfunctions, machine).start(
                Tombstone("t1", NOW, "RUNNING", number, NOW, email="a@b.example")
            )
        assert executions() == {f"t1-r{number}": '{"tombstone": "t1"}' for number in (1, 2)}

    def test_of_an_unknown_machine_is_rejected(self, stepfunctions: Any) -> None:
        with pytest.raises(StartRejected, match="StateMachineDoesNotExist"):
            StateMachine(stepfunctions, MACHINE + "-gone").start(attempt())


@pytest.mark.parametrize(
    ("state", "age", "over"),
    [
        ("RUNNING", 0, False),
        ("RUNNING", ATTEMPT_SECONDS - 1, False),
        ("RUNNING", ATTEMPT_SECONDS, True),
        ("FAILED", 0, True),
        ("DONE", 0, True),
    ],
)
def test_a_deletion_is_over_when_it_ended_or_cannot_run_any_more(state: Any, age: int, over: bool) -> None:
    assert Tombstone("t1", NOW - 9_999, state, 1, NOW).over(NOW + age) is over


@pytest.mark.parametrize(
    ("partition", "region", "host"),
    [
        ("aws", "us-east-1", "us-east-1.console.aws.amazon.com"),
        ("aws", "eu-central-1", "eu-central-1.console.aws.amazon.com"),
        ("aws-cn", "cn-north-1", "cn-north-1.console.amazonaws.cn"),
        ("aws-us-gov", "us-gov-west-1", "us-gov-west-1.console.amazonaws-us-gov.com"),
    ],
)
def test_an_execution_is_shown_by_the_console_of_its_partition(partition: str, region: str, host: str) -> None:
    machine = f"arn:{partition}:states:{region}:123456789012:stateMachine:fulfillment"
    execution = execution_arn(machine, "evt_1-r2")
    assert execution == f"arn:{partition}:states:{region}:123456789012:execution:fulfillment:evt_1-r2"
    assert execution_arn(f"{machine}:live", "evt_1-r2") == execution
    link = f"https://{host}/states/home?region={region}#/v2/executions/details/{execution}"
    assert console_link(execution) == link


class Broken:
    """Step Functions when every call ends like this."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def start_execution(self, **request: Any) -> Any:
        raise self._error


def refusal(code: str, status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "evt_1 cus_1 in_1"}, "ResponseMetadata": {}}
    response["ResponseMetadata"]["HTTPStatusCode"] = status
    return ClientError(response, "StartExecution")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (refusal("ThrottlingException"), StartThrottled),
        (refusal("TooManyRequestsException", 429), StartThrottled),
        (refusal("InternalServerError", 500), StartUnavailable),
        (refusal("ServiceUnavailable", 503), StartUnavailable),
        (ReadTimeoutError(endpoint_url="https://states"), StartUnavailable),
        (ConnectTimeoutError(endpoint_url="https://states"), StartUnavailable),
        (EndpointConnectionError(endpoint_url="https://states"), StartUnavailable),
        (refusal("AccessDeniedException"), StartRejected),
        (refusal("StateMachineDeleting"), StartRejected),
        (refusal("InvalidName"), StartRejected),
    ],
)
def test_a_failing_start_has_our_name_and_nothing_of_the_request(error: Exception, name: type[GatewayError]) -> None:
    with pytest.raises(name, match=r"^StartExecution ") as caught:
        StateMachine(Broken(error), MACHINE).start(attempt())
    assert type(caught.value) is name
    assert caught.value.__cause__ is None
    assert not any(value in str(caught.value) for value in ("evt_1", "cus_1", "in_1"))
