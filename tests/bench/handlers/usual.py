"""The webhook as it is usually written: boto3, stripe and Powertools with tracer, event handler and parser."""

import json
import os
import time
from typing import Any

import boto3
import stripe
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.parser import BaseModel, parse
from aws_lambda_powertools.utilities.typing import LambdaContext

logger, metrics, tracer = Logger(), Metrics(), Tracer()
app = APIGatewayHttpResolver()

table = boto3.resource("dynamodb").Table(os.environ["ORDERS_TABLE"])
machines = boto3.client("stepfunctions")
secret = boto3.client("secretsmanager").get_secret_value(SecretId=os.environ["STRIPE_WEBHOOK_SECRET_ARN"])


class Thing(BaseModel):
    """What happened to it."""

    id: str
    customer: str
    amount_paid: int
    currency: str


class Data(BaseModel):
    """Stripe's wrapping."""

    object: Thing


class Event(BaseModel):
    """Of an event, what is kept."""

    id: str
    type: str
    created: int
    data: Data


@app.post("/create")
@tracer.capture_method
def create() -> Response[str]:
    headers = app.current_event.headers
    body = app.current_event.decoded_body
    try:
        stripe.Webhook.construct_event(body, headers["stripe-signature"], secret["SecretString"])
    except stripe.SignatureVerificationError:
        return Response(400, "application/json", "{}")
    event = parse(event=json.loads(body), model=Event)
    thing = event.data.object
    table.put_item(
        Item={
            "pk": f"ORDER#{event.id}",
            "sk": "ORDER",
            "event_type": event.type,
            "customer_id": thing.customer,
            "amount": thing.amount_paid,
            "currency": thing.currency,
            "received_at": int(time.time()),
        },
        ConditionExpression="attribute_not_exists(pk)",
    )
    machines.start_execution(
        stateMachineArn=os.environ["STATE_MACHINE_ARN"],
        name=event.id,
        input=json.dumps({"event_id": event.id, "order_id": thing.id, "customer_id": thing.customer}),
    )
    metrics.add_metric("EventReceived", MetricUnit.Count, 1)
    logger.info("started", extra={"event_id": event.id})
    return Response(200, "application/json", '{"message": "accepted"}')


@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
