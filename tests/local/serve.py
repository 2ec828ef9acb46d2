"""`make serve`: the whole product on this machine, until it is told to end.

One JSON line on standard output says where everything is; hints for people go to standard error. Environment:

    BIND_ADDRESS     of this machine; nothing: 127.0.0.1. With that of Docker's bridge containers reach the
                     stack; as long as it runs, build/local.json is a template for `sam local`
    PORT             of the HTTP API; 0 or nothing: any
    STRIPE_API_BASE  another Stripe than the stand-in that is started otherwise
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from .stack import ACCESS_KEY, REPOSITORY, SECRET_KEY, STRIPE_KEY, LocalStack
from .stripe_account import StripeAccount
from .stripe_http import StripeServer
from .template import ARCHITECTURE

PRICE = "price_dapp"
"""The stand-in's price: one dapp a month."""

LOOPBACK = "127.0.0.1"
"""What is listened on unless BIND_ADDRESS says otherwise: nobody else reaches it."""

TEMPLATE_FOR_SAM = REPOSITORY / "build" / "local.json"

LEGACY_SKUS = {"1": 1}
"""Dapps per unit of what old orders name; there is no price to read them from."""


class SettingError(Exception):
    """The environment says something that cannot be done."""


@dataclass(frozen=True)
class Product:
    """The running product, and where the Stripe is that it asks."""

    stack: LocalStack
    stripe_api: str
    webhook_secret: str
    log: Path

    def addresses(self) -> dict[str, str]:
        """The JSON line of `make serve`."""
        return {
            "api": self.stack.api,
            "aws_endpoint": self.stack.aws_endpoint,
            "stripe_api": self.stripe_api,
            "user_pool_id": self.stack.user_pool_id,
            "user_pool_client_id": self.stack.user_pool_client_id,
            "webhook_secret": self.webhook_secret,
            "state_machine_arn": self.stack.state_machine_arn,
            "orders_table": self.stack.orders_table,
            "region": self.stack.region,
        }


@contextmanager
def running(
    stripe: StripeAccount | str, *, host: str = LOOPBACK, port: int = 0, schedule_seconds: float = 2
) -> Iterator[Product]:
    """The product, deployed as a user does: Stripe's key first, then all else. `stripe` is a stand-in's account, which
    is served, and in which the deployment registers the webhook; or the URL of another Stripe, which is asked for
    nothing then, and knows by itself where to send its events."""
    api_key = f"rk_test_{secrets.token_hex(16)}"
    log = Path(tempfile.mkdtemp(prefix="stripe-cognito-gateway-")) / "functions.log"
    own = isinstance(stripe, StripeAccount)
    with ExitStack() as opened:
        if isinstance(stripe, StripeAccount):
            url = opened.enter_context(StripeServer(stripe, host=host)).url
            stripe.faults.accept_keys({api_key})
            api = stripe.create_product("API")
            stripe.create_price(
                api["id"], 500, recurring={"interval": "month"}, metadata={"dapps": "1"}, price_id=PRICE
            )
        else:
            url = stripe
        parameters = {
            "StripeApiBase": url,
            "ManageWebhookEndpoint": str(own).lower(),
            "DappPrices": json.dumps(LEGACY_SKUS),
            "Architecture": ARCHITECTURE,
            "RetryAfterSeconds": "1",
        }
        stack = opened.enter_context(
            LocalStack(
                parameters,
                host=host,
                port=port,
                log=log,
                schedule_seconds=schedule_seconds,
                secrets={STRIPE_KEY: api_key},
                custom_resources=own,
            )
        )
        if not own:
            stack.put_secret("StripeWebhookSecret", f"whsec_{secrets.token_hex(16)}")
        webhook_secret = stack.secret("StripeWebhookSecret").split()[-1]  # behind the endpoint's id
        yield Product(stack, url, webhook_secret, log)


def main(environ: Mapping[str, str]) -> int:
    """Serve until SIGINT or SIGTERM; the exit status."""
    try:
        host = _address(environ.get("BIND_ADDRESS", ""))
        port = _port(environ.get("PORT", ""), host)
        stripe_api = _stripe_api(environ.get("STRIPE_API_BASE", ""))
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    asked_to_end: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: asked_to_end.put(number))
    with (
        _sole_writer_of_stdout() as out,
        running(stripe_api or StripeAccount(), host=host, port=port) as product,
        _template_for_sam(product.stack) if host != LOOPBACK else nullcontext(),
    ):
        print(json.dumps(product.addresses()), file=out, flush=True)
        print(_hints(product, own_stripe=not stripe_api, in_containers=host != LOOPBACK), file=sys.stderr, flush=True)
        _show_mail(product.stack, asked_to_end)
    return 0


@contextmanager
def _template_for_sam(stack: LocalStack) -> Iterator[None]:
    """In this block the template for `sam local` lies where the README says."""
    TEMPLATE_FOR_SAM.parent.mkdir(exist_ok=True)
    TEMPLATE_FOR_SAM.write_text(json.dumps(stack.for_sam(), indent=2), encoding="utf-8")
    try:
        yield
    finally:
        TEMPLATE_FOR_SAM.unlink(missing_ok=True)


def _address(text: str) -> str:
    """An address of this machine; the one that nobody else reaches unless it is said."""
    if why := _refusal(text or LOOPBACK, 0):
        raise SettingError(f"BIND_ADDRESS {text} cannot be used: {why}")
    return text or LOOPBACK


def _port(text: str, host: str) -> int:
    """A port that is free now."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise SettingError(f"PORT must be a number from 0 to 65535, not {text!r}")
    if why := _refusal(host, int(text)):
        raise SettingError(f"PORT {text} cannot be used: {why}")
    return int(text)


def _refusal(host: str, port: int) -> str | None:
    """Why nobody can listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _stripe_api(text: str) -> str:
    """Another Stripe's address, empty for the stand-in."""
    if text and not (urlsplit(text).scheme in ("http", "https") and urlsplit(text).netloc):
        raise SettingError(f"STRIPE_API_BASE must be a URL such as http://127.0.0.1:12111, not {text!r}")
    return text.rstrip("/")


@contextmanager
def _sole_writer_of_stdout() -> Iterator[TextIO]:
    """Standard output for one writer; whatever else is printed, by any library, goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        yield out


def _hints(product: Product, *, own_stripe: bool, in_containers: bool) -> str:
    stack = product.stack
    buying = [
        f"Stripe is {product.stripe_api}. It does not know the webhook: sign events with webhook_secret,",
        f"  and POST them to {stack.api}/create",
    ]
    if own_stripe:
        order = json.dumps({"email": "buyer@example.com", "price": PRICE, "quantity": 3})
        buying = [
            "Buy 3 dapps, as a customer in Stripe Checkout:",
            f"  curl -d '{order}' {product.stripe_api}/_standin/checkout",
            "What else can happen at Stripe (refunds, failing cards, an outage):",
            f"  curl {product.stripe_api}/_standin",
        ]
    invoking = [
        f"Run a function in a container, after sam build --parameter-overrides Architecture={ARCHITECTURE}:",
        "  sam local invoke ReadOrdersFunction -e tests/events/read_orders.json"
        f" -t {TEMPLATE_FOR_SAM.relative_to(REPOSITORY)}",
    ]
    return "\n".join(
        [
            "",
            *buying,
            "See the users:",
            f"  AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY} aws cognito-idp list-users"
            f" --region {stack.region} --endpoint-url {stack.aws_endpoint} --user-pool-id {stack.user_pool_id}",
            "Ask why a user is as they are (README, Operating, has the other calls):",
            f"  curl --aws-sigv4 aws:amz:{stack.region}:execute-api --user {ACCESS_KEY}:{SECRET_KEY}"
            f""" -d '{{"email": "buyer@example.com", "history": true}}' {stack.api}/read""",
            *(invoking if in_containers else []),
            f"Log of the functions: {product.log}",
            "Nothing sends mail here: welcome mails appear below. Ctrl-C ends it all.",
        ]
    )


def _show_mail(stack: LocalStack, asked_to_end: queue.SimpleQueue[int]) -> None:
    """Until asked to end: the welcome mails, as they would go out."""
    shown = 0
    while True:
        try:
            asked_to_end.get(timeout=0.5)
        except queue.Empty:
            for mail in stack.outbox[shown:]:
                shown += 1
                print(f"Mail to {mail.to}: temporary password {mail.temporary_password}", file=sys.stderr, flush=True)
        else:
            return
