"""Tells the rest of the company that somebody's access has changed. The only module that calls EventBridge and SNS."""

import json
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from gateway import aws
from gateway.errors import NoticeRejected, NoticeThrottled, NoticeUnavailable

SOURCE = "stripe-cognito-gateway"
DETAIL_TYPE = "Access Changed"


class Notices:
    """An event bus and, for consumers of the older contract, a topic; through boto3 clients."""

    def __init__(self, events: Any, bus: str, sns: Any = None, topic: str | None = None) -> None:
        self._events = events
        self._bus = bus
        self._sns = sns
        self._topic = topic

    def publish(self, change: Mapping[str, Any]) -> None:
        """Put one event on the bus; `change` is its detail."""
        entry = {
            "EventBusName": self._bus,
            "Source": SOURCE,
            "DetailType": DETAIL_TYPE,
            "Detail": json.dumps(change, sort_keys=True),
        }
        try:
            answer = self._events.put_events(Entries=[entry])
        except (ClientError, BotoCoreError) as error:
            raise _translated(error, "PutEvents") from None
        if answer.get("FailedEntryCount"):
            code = answer["Entries"][0].get("ErrorCode", "Unknown")
            raise NoticeUnavailable(f"EventBridge did not take the event ({code})")

    def message(self, status: str, email: str) -> None:
        """Send the older contract's message."""
        message = {"event": "PAYMENT_STATUS", "status": status, "email": email}
        try:
            self._sns.publish(TopicArn=self._topic, Message=json.dumps(message))
        except (ClientError, BotoCoreError) as error:
            raise _translated(error, "Publish") from None


def _translated(error: ClientError | BotoCoreError, action: str) -> Exception:
    return aws.translated(
        error, action, throttled=NoticeThrottled, unavailable=NoticeUnavailable, rejected=NoticeRejected
    )
