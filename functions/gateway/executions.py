"""Starts executions of the state machines. The only module that calls Step Functions."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from gateway import aws
from gateway.errors import StartRejected, StartThrottled, StartUnavailable


class Attempted(Protocol):
    """What a machine is started for: its name and its input are the same whoever starts it."""

    @property
    def execution_name(self) -> str: ...

    @property
    def execution_input(self) -> Mapping[str, Any]: ...


class StateMachine:
    """One state machine, through a boto3 stepfunctions client."""

    def __init__(self, client: Any, arn: str) -> None:
        self._client = client
        self._arn = arn

    def start(self, attempt: Attempted) -> None:
        """Start this attempt, once. Returns as well when it is running, or has run, already."""
        try:
            self._client.start_execution(
                stateMachineArn=self._arn,
                name=attempt.execution_name,
                input=json.dumps(attempt.execution_input, sort_keys=True),
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ExecutionAlreadyExists":
                raise _translated(error) from None
        except BotoCoreError as error:
            raise _translated(error) from None


def execution_arn(machine: str, name: str) -> str:
    """The ARN of the execution with this name of the machine with this ARN.

    An alias at the end of the machine's is none of the execution's:
    https://docs.aws.amazon.com/step-functions/latest/dg/execution-alias-version-associate.html
    """
    unqualified = ":".join(machine.split(":")[:7])
    return f"{unqualified.replace(':stateMachine:', ':execution:')}:{name}"


def console_link(execution: str) -> str:
    """Where the AWS console shows an execution."""
    _, partition, _, region, *_ = execution.split(":")
    host = _CONSOLES.get(partition, "console.aws.amazon.com")
    return f"https://{region}.{host}/states/home?region={region}#/v2/executions/details/{execution}"


_CONSOLES = {"aws-cn": "console.amazonaws.cn", "aws-us-gov": "console.amazonaws-us-gov.com"}


def _translated(error: ClientError | BotoCoreError) -> Exception:
    return aws.translated(
        error, "StartExecution", throttled=StartThrottled, unavailable=StartUnavailable, rejected=StartRejected
    )
