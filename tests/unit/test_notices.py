"""gateway.notices: what other systems of the company are told, and what they are not told when it fails."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError

from gateway.errors import GatewayError, NoticeRejected, NoticeThrottled, NoticeUnavailable
from gateway.notices import Notices

Json = dict[str, Any]

EMAIL = "payer@example.com"
TOPIC = "arn:aws:sns:us-east-1:123456789012:payment-status"
CHANGE = {
    "sub": "u-1",
    "id": "u-1-1",
    "before": None,
    "after": {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"},
}
TAKEN: Json = {"FailedEntryCount": 0, "Entries": [{"EventId": "e-1"}]}


@dataclass
class Bus:
    """EventBridge with memory."""

    answer: Json = field(default_factory=lambda: TAKEN)
    error: Exception | None = None
    entries: list[Json] = field(default_factory=list)

    def put_events(self, *, Entries: list[Json]) -> Json:  # noqa: N803
        if self.error is not None:
            raise self.error
        self.entries += Entries
        return self.answer


@dataclass
class Topic:
    """SNS with memory."""

    error: Exception | None = None
    messages: list[tuple[str, str]] = field(default_factory=list)

    def publish(self, *, TopicArn: str, Message: str) -> None:  # noqa: N803
        if self.error is not None:
            raise self.error
        self.messages.append((TopicArn, Message))


def refusal(code: str, status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": EMAIL}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "Operation")


def test_a_change_is_one_event_on_the_bus() -> None:
    bus = Bus()
    Notices(bus, "company").publish(CHANGE)
    (entry,) = bus.entries
    assert json.loads(entry.pop("Detail")) == CHANGE
    assert entry == {
        "EventBusName": "company",
        "Source": "stripe-cognito-gateway",
        "DetailType": "Access Changed",
    }


def test_a_change_told_twice_is_the_same_text() -> None:
    """Whoever drops repetitions may compare texts."""
    bus = Bus()
    for change in (CHANGE, dict(reversed(CHANGE.items()))):
        Notices(bus, "company").publish(change)
    assert len({entry["Detail"] for entry in bus.entries}) == 1


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"ErrorCode": "InternalFailure", "ErrorMessage": EMAIL}, "InternalFailure"),
        ({"ErrorCode": "ThrottlingException"}, "ThrottlingException"),
        ({}, "Unknown"),
    ],
)
def test_an_event_that_the_bus_did_not_take_is_tried_again(entry: Json, code: str) -> None:
    """PutEvents answers 200 all the same."""
    answer = {"FailedEntryCount": 1, "Entries": [entry]}
    with pytest.raises(NoticeUnavailable, match=rf"\({code}\)") as caught:
        Notices(Bus(answer), "company").publish(CHANGE)
    assert EMAIL not in str(caught.value)


def test_an_answer_without_a_count_is_a_success() -> None:
    Notices(Bus({}), "company").publish(CHANGE)


def test_the_older_contract_gets_a_message() -> None:
    topic = Topic()
    Notices(Bus(), "company", topic, TOPIC).message("LAPSED", EMAIL)
    ((arn, text),) = topic.messages
    assert arn == TOPIC
    assert json.loads(text) == {"event": "PAYMENT_STATUS", "status": "LAPSED", "email": EMAIL}


@pytest.mark.parametrize(
    ("tell", "action"),
    [
        (lambda error: Notices(Bus(error=error), "company").publish(CHANGE), "PutEvents"),
        (lambda error: Notices(Bus(), "company", Topic(error), TOPIC).message("ACTIVE", EMAIL), "Publish"),
    ],
    ids=["event", "message"],
)
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (refusal("ThrottlingException"), NoticeThrottled),
        (refusal("ThrottledException", 429), NoticeThrottled),
        (refusal("InternalException", 500), NoticeUnavailable),
        (refusal("InternalError", 500), NoticeUnavailable),
        (ReadTimeoutError(endpoint_url="https://events"), NoticeUnavailable),
        (ConnectTimeoutError(endpoint_url="https://events"), NoticeUnavailable),
        (refusal("AccessDeniedException"), NoticeRejected),
        (refusal("ResourceNotFoundException"), NoticeRejected),
        (refusal("AuthorizationError", 403), NoticeRejected),
        (refusal("NotFound", 404), NoticeRejected),
    ],
)
def test_a_failure_has_our_name_and_no_address(
    tell: Callable[[Exception], None], action: str, error: Exception, name: type[GatewayError]
) -> None:
    with pytest.raises(name, match=rf"^{action} ") as caught:
        tell(error)
    assert type(caught.value) is name
    assert EMAIL not in str(caught.value)
    assert caught.value.__suppress_context__
