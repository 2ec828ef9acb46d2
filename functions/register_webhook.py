"""RegisterWebhook, at every deployment: has Stripe send what the gateway handles, and keeps the signing secret.

in   a custom resource's request {Url, …}; the physical id is the webhook endpoint's (we_…)
out  what gateway/custom_resource.py says. Another API version makes a second endpoint: CloudFormation has the first one
     deleted when all else is done, which disables it
"""

import time

from gateway import aws, signature
from gateway.account import account_with
from gateway.custom_resource import Request, custom_resource
from gateway.errors import SecretUnavailable, StripeKeyRejected
from gateway.events import ENDPOINT_TYPES, ENDPOINT_VERSION
from gateway.secret import Secret
from gateway.settings import required
from gateway.telemetry import logger

account = account_with(Secret(aws.client("secretsmanager"), required("STRIPE_API_KEY_SECRET"), time.monotonic))
signing = Secret(aws.client("secretsmanager"), required("STRIPE_WEBHOOK_SECRET_ARN"), time.monotonic)


@custom_resource
def handler(request: Request) -> None:
    if request.kind == "Delete":
        _disable(request.resource, patient=not request.last_try)
    elif request.kind == "Update" and _fits(request.resource):
        account.change_endpoint(request.resource, request.properties["Url"], ENDPOINT_TYPES)
    else:
        # A failed update comes back to the one that is there.
        account.remove_disabled(request.stack, but=request.was)
        request.resource, secret = account.add_endpoint(
            request.properties["Url"], ENDPOINT_TYPES, ENDPOINT_VERSION, request.stack, key=request.id
        )
        signing.put(signature.with_secret(signing.latest(), request.resource, secret))


def _fits(endpoint: str) -> bool:
    """Whether the endpoint is still at Stripe, speaks the right API version, and has its signing secret here."""
    versions = {each["id"]: each["api_version"] for each in account.endpoints()}
    return versions.get(endpoint) == ENDPOINT_VERSION and signature.has_secret(signing.latest(), endpoint)


def _disable(endpoint: str, *, patient: bool) -> None:
    if not endpoint.startswith("we_"):  # it was never made
        return
    try:
        if not account.disable_endpoint(endpoint):
            # Of another account, or deleted. The other one may still send: its events stay welcome.
            logger.warning("Stripe does not know %s with this key", endpoint)
            return
        signing.put(signature.without_secret(signing.latest(), endpoint))
    except (SecretUnavailable, StripeKeyRejected) as error:  # a secret went first; a deletion must not fail for that
        if patient and isinstance(error, SecretUnavailable):  # or is it only throttled?
            raise
        logger.warning("disable %s in Stripe by hand: %s", endpoint, error)
