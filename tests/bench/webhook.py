"""The webhook as `sam build` leaves it, cold and warm: against its floor (json, hmac and bare boto3 clients with the
same calls) and against the way it is usually written (handlers/). All run under Lambda's own runtime client, with the
runtime's boto3. The usual way has no bytecode, for `sam build` ships none by itself.
"""

import functools
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

from tests.bench import measure, standin
from tests.bench.measure import Table
from tests.build import build

REPOSITORY = Path(__file__).parents[2]
HANDLERS = Path(__file__).with_name("handlers")
USUAL = REPOSITORY / "build" / "usual"
RUNTIME = REPOSITORY / ".venv-runtime" / "bin" / "python"

SECRET = "whsec_00000000000bench"
ANSWERS = {"GetSecretValue": {"SecretString": SECRET}, "PutItem": {}, "StartExecution": {"startDate": 1800000000}}
ACCOUNT = "us-east-1:123456789012"
ENVIRONMENT = {
    "NO_PROXY": "127.0.0.1",
    "PYTHONDONTWRITEBYTECODE": "1",  # Lambda's folders cannot be written to
    "POWERTOOLS_SERVICE_NAME": "bench",
    "POWERTOOLS_METRICS_NAMESPACE": "bench",
    "ORDERS_TABLE": "orders",
    "STATE_MACHINE_ARN": f"arn:aws:states:{ACCOUNT}:stateMachine:fulfillment",
    "STRIPE_MODE": "test",
    "STRIPE_WEBHOOK_SECRET_ARN": f"arn:aws:secretsmanager:{ACCOUNT}:secret:webhook",
}
COLD_GOALS = {"floor": 1.35, "usual": 0.6}
WARM_GOALS = {"floor": 1.3}


@functools.cache
def built() -> Path:
    """What `sam build` makes of the sources as they are."""
    return build(REPOSITORY / "build" / "bench")


def request() -> dict[str, Any]:
    """A paid invoice of today, signed."""
    thing = {
        "id": "in_1",
        "object": "invoice",
        "customer": "cus_1",
        "customer_email": "buyer@example.com",
        "amount_paid": 1200,
        "currency": "eur",
    }
    event = {"id": "evt_1", "object": "event", "type": "invoice.paid", "livemode": False, "created": int(time.time())}
    body = json.dumps({**event, "data": {"object": thing}})
    at = int(time.time())
    signature = hmac.new(SECRET.encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest()
    return {
        "version": "2.0",
        "routeKey": "POST /create",
        "rawPath": "/create",
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "stripe-signature": f"t={at},v1={signature}"},
        "requestContext": {"http": {"method": "POST", "path": "/create"}, "requestId": "bench", "stage": "$default"},
        "body": body,
        "isBase64Encoded": False,
    }


def work(endpoint: str) -> dict[str, dict[str, Any]]:
    """What tests/bench/cold.py needs of each."""
    own = {"code": str(built() / "WebhookFunction"), "layers": [str(built() / "DependenciesLayer")]}
    others = {"code": str(HANDLERS), "layers": [str(USUAL)]}
    shared = {"endpoint": endpoint, "python": str(RUNTIME), "environment": ENVIRONMENT, "event": request()}
    return {
        "ours": {**shared, **own, "handler": "webhook.handler"},
        "floor": {**shared, **others, "layers": [], "handler": "floor.handler"},
        "usual": {**shared, **others, "handler": "usual.handler"},
    }


def bench() -> Table:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    with standin.running(ANSWERS) as endpoint:
        works = work(endpoint)
        ways = [measure.first_answer(each) for each in works.values()]
        cold = dict(zip(works, measure.turn_by_turn(ways, environment), strict=True))
        warm_works = ("ours", "floor")
        ways = [measure.cpu(works[each]) for each in warm_works]
        warm = dict(zip(warm_works, measure.turn_by_turn(ways, environment), strict=True))
    ours, rows, bars = cold["ours"], [], []
    names = {"ours": "ours", "floor": "the floor", "usual": "the usual way"}
    for way, name in names.items():
        ratio, spread = ours.against(cold[way])
        again = ("", "")
        if way in warm:
            warm_ratio, warm_spread = warm["ours"].against(warm[way])
            again = (str(warm[way]), f"{measure.shown(warm_ratio, WARM_GOALS.get(way))}, {warm_spread}")
        rows.append(
            (
                name,
                str(cold[way]),
                f"{cold[way].cpu * 1000:.0f} ms",
                f"{cold[way].memory / 1e6:.0f} MB",
                f"{measure.shown(ratio, COLD_GOALS.get(way))}, {spread}",
                *again,
            )
        )
    for way, goal in COLD_GOALS.items():
        bars.append(measure.Bar(f"webhook, first answer, against {names[way]}", ours.against(cold[way])[0], goal))
    for way, goal in WARM_GOALS.items():
        ratio, _ = warm["ours"].against(warm[way])
        bars.append(measure.Bar(f"webhook, CPU per event, against {names[way]}", ratio, goal))
    bars.append(measure.Bar("webhook, memory, against the floor", ours.memory / cold["floor"].memory))
    return Table(
        "The webhook, as built",
        (
            "",
            "first answer",
            "its CPU",
            "peak memory",
            "ours against it, range",
            "CPU of one more event",
            "ours against it, range",
        ),
        rows,
        "The floor: json, hmac and bare boto3 clients with the same calls, under the same runtime client. "
        "The usual way: boto3, stripe, Powertools with tracer, event handler and parser, and no bytecode, for `sam "
        "build` ships none by itself.",
        bars,
    )
