"""Every function as `sam build` leaves it, cold and warm, with its event of tests/events/, and the webhook's floor.
What a function asks of AWS and Stripe is answered by a stand-in that knows a user and no row, so some refuse: that is
an answer, too.
"""

import json
import os
from typing import Any

from tests.bench import measure, standin, webhook
from tests.bench.measure import Table
from tests.local.template import Template

SUB = "11111111-2222-4333-8444-555555555555"
USER = [{"Name": "sub", "Value": SUB}, {"Name": "email", "Value": "buyer@example.com"}]
NOTHING = (
    *("PutItem", "UpdateItem", "DeleteItem", "GetItem", "TransactWriteItems", "BatchWriteItem"),
    *("AdminUpdateUserAttributes", "AdminEnableUser", "AdminDisableUser", "AdminUserGlobalSignOut", "AdminDeleteUser"),
)
ANSWERS: dict[str, Any] = {
    **{operation: {} for operation in NOTHING},
    **webhook.ANSWERS,
    "Query": {"Items": []},
    "Scan": {"Items": []},
    "BatchGetItem": {"Responses": {}},
    "ListUsers": {"Users": []},
    "AdminGetUser": {
        "Username": SUB,
        "Enabled": True,
        "UserStatus": "CONFIRMED",
        "UserCreateDate": 1800000000,
        "UserAttributes": USER,
    },
    "AdminCreateUser": {"User": {"Username": SUB, "UserCreateDate": 1800000000, "Attributes": USER}},
    "PutEvents": {"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]},
    "GET /v1/": {"object": "list", "data": [], "has_more": False, "url": "/v1/list"},
    "GET /v1/customers/": {"id": "cus_1", "object": "customer", "email": "buyer@example.com", "livemode": False},
    "GET /": {"keys": []},
    "POST /v1/webhook_endpoints": {"id": "we_1", "object": "webhook_endpoint", "secret": webhook.SECRET},
    "PutSecretValue": {},
    "DescribeUserPool": {"UserPool": {}},
    "ListUserPoolClients": {"UserPoolClients": []},
    "PUT /": {},  # what CloudFormation is told
}


def works(endpoint: str) -> dict[str, dict[str, Any]]:
    """What tests/bench/cold.py needs of the floor and of each function."""
    template = Template(webhook.REPOSITORY / "template.yaml", {"StripeApiBase": endpoint})
    for name in template.resources:
        template.created(name, name, Arn=f"arn:aws:local:{webhook.ACCOUNT}:{name}")
    found = {"the webhook's floor": webhook.work(endpoint)["floor"]}
    for name, each in sorted(template.resources.items()):
        if each.type == "AWS::Lambda::Function":
            properties = template.resolve(each.properties)
            file = properties["Handler"].removesuffix(".handler")
            found[file] = {
                **found["the webhook's floor"],
                "handler": properties["Handler"],
                "code": str(webhook.built() / name),
                "layers": [str(webhook.built() / "DependenciesLayer")],
                "environment": {**webhook.ENVIRONMENT, **properties["Environment"]["Variables"]},
                "event": webhook.request() if file == "webhook" else _event(file, endpoint),
                "refusals": True,
            }
    return found


def _event(file: str, endpoint: str) -> dict[str, Any]:
    path = webhook.REPOSITORY / "tests" / "events" / f"{file}.json"
    event: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**event, "ResponseURL": f"{endpoint}/answer"} if "ResponseURL" in event else event


def bench() -> Table:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(webhook.REPOSITORY)}
    with standin.running(ANSWERS) as endpoint:
        each = works(endpoint)
        cold = measure.turn_by_turn([measure.first_answer(work, 2) for work in each.values()], environment, 2)
        warm = measure.turn_by_turn([measure.next_answer(work) for work in each.values()], environment, 1)
    rows = [
        (
            name,
            str(first),
            f"{first.against(cold[0])[0]:.2f}",
            f"{first.cpu * 1000:.0f} ms",
            f"{first.memory / 1e6:.0f} MB",
            str(again),
        )
        for name, first, again in zip(each, cold, warm, strict=True)
    ]
    return Table(
        "Every function, as built",
        ("", "first answer", "against the floor", "its CPU", "peak memory", "one more answer"),
        rows,
        "Each with its event of `tests/events`; what it asks of AWS and Stripe is answered at once, by a stand-in that "
        "has no rows and no keys: the steps of a deletion, the operators' endpoints, the setup's check and the "
        "authorizer refuse.",
    )
