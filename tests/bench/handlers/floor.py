"""The webhook as cheap as it can be: json, hmac and three boto3 clients with the calls of functions/webhook.py."""

import hashlib
import hmac
import json
import os
import time
from typing import Any

import boto3
from botocore.config import Config

CONFIG = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})

dynamodb = boto3.client("dynamodb", config=CONFIG)
machines = boto3.client("stepfunctions", config=CONFIG)
secret = boto3.client("secretsmanager", config=CONFIG)
known = ""


def handler(request: dict[str, Any], context: Any) -> dict[str, Any]:
    global known
    if not known:
        known = secret.get_secret_value(SecretId=os.environ["STRIPE_WEBHOOK_SECRET_ARN"])["SecretString"]
    now = int(time.time())
    signed = dict(part.split("=", 1) for part in request["headers"]["stripe-signature"].split(","))
    made = hmac.new(known.encode(), f"{signed['t']}.{request['body']}".encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(made, signed["v1"]) or now - int(signed["t"]) > 300:
        return {"statusCode": 400}
    event = json.loads(request["body"])
    thing = event["data"]["object"]
    dynamodb.put_item(
        TableName=os.environ["ORDERS_TABLE"],
        Item={
            "pk": {"S": f"ORDER#{event['id']}"},
            "sk": {"S": "ORDER"},
            "event_id": {"S": event["id"]},
            "event_type": {"S": event["type"]},
            "order_id": {"S": thing["id"]},
            "customer_id": {"S": thing["customer"]},
            "email": {"S": thing["customer_email"]},
            "created": {"N": str(event["created"])},
            "party": {"S": thing["customer"]},
            "rank": {"S": f"OPEN#{now}#{event['id']}"},
            "received_at": {"N": str(now)},
            "state": {"S": "RECEIVED"},
            "attempts": {"N": "1"},
            "attempt_at": {"N": str(now)},
            "due": {"S": "DUE#1"},
            "due_at": {"N": str(now + 900)},
            "status": {"S": "paid"},
            "status_when_done": {"S": "fulfilled"},
            "amount": {"N": str(thing["amount_paid"])},
            "currency": {"S": thing["currency"]},
            "metadata": {"M": {}},
            "items": {"L": [{"M": {"price": {"S": "price_1"}, "quantity": {"N": "1"}}}]},
        },
        ConditionExpression="attribute_not_exists(pk) OR attempts < :attempts",
        ExpressionAttributeValues={":attempts": {"N": "1"}},
        ReturnValuesOnConditionCheckFailure="ALL_OLD",
    )
    machines.start_execution(
        stateMachineArn=os.environ["STATE_MACHINE_ARN"],
        name=event["id"],
        input=json.dumps({"event_id": event["id"], "order_id": thing["id"], "customer_id": thing["customer"]}),
    )
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": '{"message": "accepted"}'}
