"""Authorize against its floor: PyJWT and a boto3 client used by hand for the same token and the same GetItem.
Cold is a process of Python that imports what it needs and answers one call; warm is one more call. Keys and row come
from a stand-in on this machine, so all that differs is our code: settings, checks, log keys, the row as a Person.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what is timed must not import what times it
    from tests.bench.measure import Table

REPOSITORY = Path(__file__).parents[2]

ROW = {
    "pk": {"S": "PERSON#sub-1"},
    "sk": {"S": "PERSON"},
    "sub": {"S": "sub-1"},
    "parties": {"SS": ["cus_1"]},
    "granted": {"M": {"sub_1": {"N": "5"}}},
    "settled_at": {"N": "1800000000"},
    "tellings": {"N": "1"},
    "told": {"M": {"enabled": {"BOOL": True}, "dapp_limit": {"N": "5"}, "payment_status": {"S": "ACTIVE"}}},
    "last_change": {
        "M": {
            "before": {"NULL": True},
            "after": {"M": {"enabled": {"BOOL": True}, "dapp_limit": {"N": "5"}, "payment_status": {"S": "ACTIVE"}}},
            "reason": {"S": "sub_1 active"},
            "execution": {"S": "arn:aws:states:us-east-1:123456789012:execution:fulfillment:evt_1"},
            "at": {"N": "1800000000"},
        }
    },
    "active": {"BOOL": True},
    "dapp_limit": {"N": "5"},
    "used": {"N": "2"},
}


def ours() -> Callable[[dict[str, Any]], dict[str, Any]]:
    import authorize

    context = SimpleNamespace(function_name="AuthorizeFunction", aws_request_id="bench")
    return lambda event: authorize.handler(event, context)


def floor() -> Callable[[dict[str, Any]], dict[str, Any]]:
    import boto3
    import jwt

    issuer, client_id = os.environ["TOKEN_ISSUER"], os.environ["USER_POOL_CLIENT_IDS"]
    keys = jwt.PyJWKClient(f"{issuer}/.well-known/jwks.json")
    table = boto3.client("dynamodb")

    def handler(event: dict[str, Any]) -> dict[str, Any]:
        token = event["headers"]["authorization"].removeprefix("Bearer ")
        key = keys.get_signing_key(jwt.get_unverified_header(token)["kid"])
        claims = jwt.decode(token, key, algorithms=["RS256"], issuer=issuer)
        right = claims["client_id"] == client_id and claims["token_use"] == "access"
        row = table.get_item(
            TableName=os.environ["ORDERS_TABLE"],
            Key={"pk": {"S": f"PERSON#{claims['sub']}"}, "sk": {"S": "PERSON"}},
            ConsistentRead=True,
        )["Item"]
        context = {"sub": claims["sub"], "limit": int(row["dapp_limit"]["N"]), "used": int(row["used"]["N"])}
        return {"isAuthorized": right and row["active"]["BOOL"], "context": context}

    return handler


WAYS = {"ours": ours, "floor": floor}


def call(way: str) -> Callable[[], object]:
    """One call, as measured. Both ways must let the user in."""
    handler, event = WAYS[way](), json.loads(os.environ["EVENT"])
    wanted = {"isAuthorized": True, "context": {"sub": "sub-1", "limit": 5, "used": 2}}

    def called() -> None:
        answer = handler(event)
        if answer != wanted:
            raise AssertionError(answer)

    return called


def bench() -> "Table":
    from tests.bench import measure, standin
    from tests.unit.issuer import CLIENT, Issuer, public_jwk

    keys = {"keys": [public_jwk("kid-1"), public_jwk("kid-2")]}
    with standin.running({"GetItem": {"Item": ROW}, "GET /": keys}) as address:
        issuer = Issuer(address)
        event = {"version": "2.0", "headers": {"authorization": f"Bearer {issuer.token()}"}}
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'functions'}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_DYNAMODB": address,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
            "POWERTOOLS_SERVICE_NAME": "bench",
            "POWERTOOLS_METRICS_NAMESPACE": "bench",
            "ORDERS_TABLE": "orders",
            "TOKEN_ISSUER": issuer.url,
            "TOKEN_USE": "access",
            "USER_POOL_CLIENT_IDS": CLIENT,
            "EVENT": json.dumps(event),
        }
        setup = "from tests.bench import authorizer; call = authorizer.call('{}'); call()"
        rows, bars = [], []
        for name, ways in (
            ("cold: a process and its first call", [measure.process("-m", "tests.bench.authorizer", w) for w in WAYS]),
            ("warm: one call", [measure.call(setup.format(way)) for way in WAYS]),
        ):
            ours, floor = measure.turn_by_turn(ways, environment)
            ratio, spread = ours.against(floor)
            rows.append((name, str(ours), str(floor), measure.shown(ratio, None), spread))
            bars.append(measure.Bar(f"authorizer, {name.partition(':')[0]}, against its floor", ratio))
    return measure.Table(
        "The authorizer against its floor: PyJWT and one boto3 client by hand",
        ("", "ours", "floor", "ratio", "range"),
        rows,
        bars=bars,
    )


if __name__ == "__main__":
    call(sys.argv[1])()
