"""Starts an execution of the fulfillment machine. The only module that calls Step Functions."""

import json
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from gateway import aws
from gateway.errors import StartRejected, StartThrottled, StartUnavailable
from gateway.ledger import Attempt


class Fulfillment:
    """The machine, through a boto3 stepfunctions client."""

    def __init__(self, client: Any, state_machine_arn: str) -> None:
        self._client = client
        self._arn = state_machine_arn

    def start(self, attempt: Attempt) -> None:
        """Start this attempt, once: its name and its input are the same whoever starts it.

        Returns as well when it is running, or has run, already.
        """
        run = {"event_id": attempt.event_id, "order_id": attempt.order_id, "customer_id": attempt.customer_id}
        try:
            self._client.start_execution(
                stateMachineArn=self._arn, name=attempt.execution_name, input=json.dumps(run, sort_keys=True)
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ExecutionAlreadyExists":
                raise _translated(error) from None
        except BotoCoreError as error:
            raise _translated(error) from None


def _translated(error: ClientError | BotoCoreError) -> Exception:
    return aws.translated(
        error, "StartExecution", throttled=StartThrottled, unavailable=StartUnavailable, rejected=StartRejected
    )
