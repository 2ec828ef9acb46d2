"""`make demo`: one customer's life, played against the local stack and checked at every step."""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

import requests
from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from .serve import PRICE, Product, running
from .stack import Execution
from .stripe_account import StripeAccount
from .stripe_delivery import send
from .terminal import Report

Json = dict[str, Any]
Found = TypeVar("Found")

BUYER = "buyer@example.com"
PASSWORD = "Correct-Horse-7-Battery"
PATIENCE = 60
"""Seconds that anything may take before the demo gives up."""

LEGACY_ORDER: Json = {
    "id": "or_1ESq9uLJpPPc8UJfhy80WPz2",
    "object": "order",
    "amount": 300,
    "charge": "ch_1ESq9uLJpPPc8UJfVTVfBBph",
    "currency": "usd",
    "customer": None,
    "email": "juan@eximchain.com",
    "items": [
        {
            "object": "order_item",
            "amount": 150,
            "currency": "usd",
            "description": "Banana",
            "parent": "1",
            "quantity": 1,
            "type": "sku",
        },
        {
            "object": "order_item",
            "amount": 0,
            "currency": "usd",
            "description": "Taxes (included)",
            "parent": None,
            "quantity": None,
            "type": "tax",
        },
        {
            "object": "order_item",
            "amount": 0,
            "currency": "usd",
            "description": "Free shipping",
            "parent": "ship_free-shipping",
            "quantity": None,
            "type": "shipping",
        },
    ],
    "metadata": {},
    "shipping": {"name": "Juan Huertas"},
    "status": "paid",
    "status_transitions": {"canceled": None, "fulfiled": None, "paid": 1556131771, "returned": None},
    "updated": 1556131771,
}
"""An order of Stripe's Orders API of 2019: no customer, no price, and nowhere to read it again."""


class Life:
    """The customer, what they hold in their hands, and what can be seen of them from outside."""

    def __init__(self, account: StripeAccount, product: Product, report: Report) -> None:
        self.account = account
        self.stack = product.stack
        self.webhook_secret = product.webhook_secret
        self.check = report.check
        self.tell = report.tell
        self.subscription = ""
        self.sub = ""
        self.refresh_token = ""
        self.access_token = ""
        self.ended_at = 0
        self._cognito = self.stack.client("cognito-idp")
        self._shown: set[str] = set()

    # ---------------------------------------------------------------- what happens

    def runs(self) -> list[Execution]:
        """The executions of the fulfillment machine since the last call, when all is delivered and has ended; each is
        shown with its states. Searches, which are started by the clock, are not looked at."""
        if not self.account.wait_delivered(PATIENCE):
            raise TimeoutError(f"Stripe's events are not delivered after {PATIENCE} s")
        self.stack.wait_idle(PATIENCE)
        ours = f"{self.stack.state_machine_arn.replace(':stateMachine:', ':execution:')}:"
        new = [run for run in self.stack.executions() if run.name not in self._shown and run.arn.startswith(ours)]
        self._shown |= {run.name for run in new}
        types = {event["id"]: event["type"] for event in self.account.events}
        for run in new:
            kind = types.get(run.name.partition("-r")[0], "")
            end = f" ({run.error})" if run.error else ""
            self.tell(f"{run.name} {kind}: {' > '.join(run.states)}{end}")
        return new

    def fulfilled_runs(self) -> list[Execution]:
        """The same, where every run must end well."""
        runs = self.runs()
        self.check("runs, each of which ended", {run.states[-1] for run in runs}, {"Fulfilled"})
        return runs

    def until(self, what: str, look: Callable[[], Found | None]) -> Found:
        """Wait for something that nothing announces."""
        deadline = time.monotonic() + PATIENCE
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not after {PATIENCE} s")
            time.sleep(0.05)
        return found

    # ---------------------------------------------------------------- what can be seen

    def users(self, email: str) -> list[Json]:
        """The users with this address, in whatever case, with their attributes."""
        pages = self._cognito.get_paginator("list_users").paginate(UserPoolId=self.stack.user_pool_id)
        users = [
            {**user, **{each["Name"]: each["Value"] for each in user["Attributes"]}}
            for page in pages
            for user in page["Users"]
        ]
        return [user for user in users if user["email"].lower() == email.lower()]

    def check_user(self, email: str, *, enabled: bool, dapps: int, status: str) -> Json:
        """One user has this address, and stands like this."""
        users = self.users(email)
        self.check("users with that address", len(users), 1)
        (user,) = users
        self.check("user", user["email"], email)
        self.check("enabled", user["Enabled"], enabled)
        self.check("custom:num_dapps", user.get("custom:num_dapps"), str(dapps))
        self.check("custom:payment_status", user.get("custom:payment_status"), status)
        return user

    def mails(self, email: str) -> int:
        """How many welcome mails went to this address."""
        return sum(mail.to.lower() == email.lower() for mail in self.stack.outbox)

    def order(self, event_id: str) -> Json:
        """What the ledger keeps of an event, empty when it is unknown."""
        key = {"pk": {"S": f"ORDER#{event_id}"}, "sk": {"S": "ORDER"}}
        answer = self.stack.client("dynamodb").get_item(TableName=self.stack.orders_table, Key=key, ConsistentRead=True)
        return {name: TypeDeserializer().deserialize(value) for name, value in answer.get("Item", {}).items()}

    def order_in_state(self, event_id: str, state: str) -> Json | None:
        """The order, once it is in that state."""
        order = self.order(event_id)
        return order if order.get("state") == state else None

    # ---------------------------------------------------------------- what the customer does with their access

    def sign_in(self, password: str) -> Json:
        """Cognito's answer: tokens or a challenge."""
        return self._auth("USER_PASSWORD_AUTH", USERNAME=BUYER, PASSWORD=password)

    def refresh(self) -> Json:
        """Tokens for the refresh token that they got last."""
        return self._auth("REFRESH_TOKEN_AUTH", REFRESH_TOKEN=self.refresh_token)

    def choose_password(self, challenge: Json) -> Json:
        """Answers NEW_PASSWORD_REQUIRED."""
        answer: Json = self._cognito.respond_to_auth_challenge(
            ClientId=self.stack.user_pool_client_id,
            ChallengeName=challenge["ChallengeName"],
            Session=challenge["Session"],
            ChallengeResponses={"USERNAME": BUYER, "NEW_PASSWORD": PASSWORD},
        )
        return answer

    def check_tokens(self, answer: Json, dapps: int) -> None:
        """The tokens are genuine and say this limit; their refresh token is the one that they have now."""
        tokens = answer["AuthenticationResult"]
        self.refresh_token = tokens.get("RefreshToken", self.refresh_token)
        verdict, claims = self._read(tokens["IdToken"])
        self.check("ID token, against the pool's published keys", verdict, "valid")
        self.check("claim sub", claims["sub"], self.sub)
        self.check("claim custom:num_dapps", claims.get("custom:num_dapps"), str(dapps))
        self.access_token = tokens["AccessToken"]
        for use, said in (("ID", claims), ("access", self._read(self.access_token, "access")[1])):
            self.check(f"claim dapp_limit of the {use} token", said.get("dapp_limit"), dapps)
            self.check(f"claim payment_status of the {use} token", said.get("payment_status"), "ACTIVE")
        self.tell(f"Authorization: Bearer {tokens['IdToken'][:12]}…{tokens['IdToken'][-6:]}")

    def dapps(self, token: str, name: str | None = None) -> tuple[int, Json]:
        """The API's answer to this access token: to a reservation, or to the question what is reserved."""
        url, headers = f"{self.stack.api}/dapps", {"Authorization": f"Bearer {token}"}
        if name is None:
            answer = requests.get(url, headers=headers, timeout=PATIENCE)
        else:
            answer = requests.post(url, headers=headers, json={"id": name}, timeout=PATIENCE)
        return answer.status_code, answer.json()

    def check_reserves(self, names: str, *, limit: int) -> None:
        """With their access token they reserve these, the last of which is one too many."""
        for name in names[:-1]:
            self.check(f"reserve dapp {name}", self.dapps(self.access_token, name)[0], 201)
        status, said = self.dapps(self.access_token, names[-1])
        refused = (status, said.get("error"), said.get("used"), said.get("limit"))
        self.check(f"reserve dapp {names[-1]}", refused, (403, "LimitReached", limit, limit))

    def check_refused(self, token: str) -> None:
        """The API refuses a token whose signature and time are still right."""
        self.check("access token, against the pool's published keys", self._read(token, "access")[0], "valid")
        self.check("list dapps with it", self.dapps(token), (403, {"message": "Forbidden"}))

    def _read(self, token: str, use: str = "id") -> tuple[str, Json]:
        """Verified as the company's API would do it: signature, issuer, audience, use and time."""
        pool = self.stack.user_pool_id
        keys = requests.get(f"{self.stack.aws_endpoint}/{pool}/.well-known/jwks.json", timeout=10).json()
        rules = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": f"https://cognito-idp.{self.stack.region}.amazonaws.com/{pool}"},
            token_use={"essential": True, "value": use},
            **{
                "aud" if use == "id" else "client_id": {"essential": True, "value": self.stack.user_pool_client_id},
            },
            exp={"essential": True},
        )
        try:
            decoded = jwt.decode(token, KeySet.import_key_set(keys), algorithms=["RS256"])
            rules.validate(decoded.claims)
        except JoseError as error:
            return str(error), {}
        return "valid", decoded.claims

    def _auth(self, flow: str, **parameters: str) -> Json:
        answer: Json = self._cognito.initiate_auth(
            ClientId=self.stack.user_pool_client_id, AuthFlow=flow, AuthParameters=parameters
        )
        return answer


def refusal(act: Callable[[], Json]) -> str:
    """Why Cognito refuses, `accepted` when it does not."""
    try:
        act()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "accepted"


# -------------------------------------------------------------------- the life, step by step


def buys(life: Life) -> None:
    """A customer buys 3 dapps in Stripe Checkout"""
    session = life.account.checkout(BUYER, PRICE, 3, name="The Buyer")
    life.subscription = session["subscription"]
    runs = life.fulfilled_runs()
    life.check("a run went through CreateUser", any("CreateUser" in run.states for run in runs), True)
    user = life.check_user(BUYER, enabled=True, dapps=3, status="ACTIVE")
    life.sub = user["sub"]
    life.check("custom:stripe_customer_id", user["custom:stripe_customer_id"], session["customer"])
    life.check("welcome mails to them", life.mails(BUYER), 1)
    orders = {life.order(run.name)["state"] for run in runs}
    life.check("orders in the ledger, all", orders, {"FULFILLED"})


def signs_in(life: Life) -> None:
    """They sign in with the mailed password and set their own"""
    mail = next(mail for mail in life.stack.outbox if mail.to == BUYER)
    challenge = life.sign_in(mail.temporary_password)
    life.check("challenge", challenge.get("ChallengeName"), "NEW_PASSWORD_REQUIRED")
    life.check_tokens(life.choose_password(challenge), dapps=3)
    life.check("sign-in with the mailed password", refusal(lambda: life.sign_in(mail.temporary_password)), REFUSED)
    life.check_reserves("abcd", limit=3)


def raises(life: Life) -> None:
    """They raise the subscription to 5 dapps"""
    life.account.change_quantity(life.subscription, 5)
    life.fulfilled_runs()
    life.check_user(BUYER, enabled=True, dapps=5, status="ACTIVE")
    life.check_reserves("def", limit=5)
    life.check_tokens(life.refresh(), dapps=5)
    life.check("list dapps with the new access token", life.dapps(life.access_token)[0], 200)


def cancels(life: Life) -> None:
    """They cancel and lose access"""
    life.account.cancel(life.subscription)
    life.fulfilled_runs()
    user = life.check_user(BUYER, enabled=False, dapps=0, status="CANCELLED")
    life.check("custom:disabled_by", user.get("custom:disabled_by"), "billing")
    life.check_refused(life.access_token)
    life.check("refresh", refusal(life.refresh), REFUSED)
    life.check("sign-in", refusal(lambda: life.sign_in(PASSWORD)), REFUSED)
    life.ended_at = int(time.time())


def returns(life: Life) -> None:
    """They come back, to Stripe as a new customer in capitals"""
    first = life.account.get("subscription", life.subscription)["customer"]
    session = life.account.checkout(BUYER.upper(), PRICE, 4, name="The Buyer")
    life.subscription = session["subscription"]
    runs = life.fulfilled_runs()
    life.check("another Stripe customer", session["customer"] != first, True)
    life.check("a run went through LinkUser", any("LinkUser" in run.states for run in runs), True)
    life.check("a run went through EnableUser", any("EnableUser" in run.states for run in runs), True)
    user = life.check_user(BUYER, enabled=True, dapps=4, status="ACTIVE")
    life.check("the same user", user["sub"], life.sub)
    life.check("custom:disabled_by", user.get("custom:disabled_by"), None)
    life.check("welcome mails to them, as before", life.mails(BUYER), 1)
    life.check("refresh token from before", refusal(life.refresh), REFUSED)
    before = life.access_token
    life.check_refused(before)
    # A token tells the second in which it was issued; one of the second in which access ended is from before.
    life.until("the next second", lambda: int(time.time()) > life.ended_at or None)
    life.check_tokens(life.sign_in(PASSWORD), dapps=4)
    life.check_refused(before)
    status, said = life.dapps(life.access_token)
    life.check("list dapps with the new one", (status, said.get("used"), said.get("limit")), (200, 5, 4))
    life.check("dapps", [each["id"] for each in said.get("dapps", [])], list("abcde"))


def meets_an_outage(life: Life) -> None:
    """Stripe goes down in the middle of their change to 7 dapps"""
    life.account.faults.outage()
    life.account.change_quantity(life.subscription, 7)
    event_id = life.account.events[-1]["id"]
    unfulfilled = life.until("the run fails", lambda: life.order_in_state(event_id, "UNFULFILLED"))
    life.check("order while Stripe is down", unfulfilled["state"], "UNFULFILLED")
    life.check("its reason", unfulfilled["last_error"], "StripeUnavailable: Stripe answered 500")
    life.check_user(BUYER, enabled=True, dapps=4, status="ACTIVE")
    life.account.faults.restore()
    healed = life.until("RunDue heals it", lambda: life.order_in_state(event_id, "FULFILLED"))
    runs = life.runs()
    life.check("order after RunDue ran it again", healed["state"], "FULFILLED")
    life.check("run that healed it", runs[-1].name, f"{event_id}-r{healed['attempts']}")
    life.check(
        "how each run ended", [run.states[-1] for run in runs], [*["NotFulfilled"] * (len(runs) - 1), "Fulfilled"]
    )
    life.check_user(BUYER, enabled=True, dapps=7, status="ACTIVE")


def is_attacked(life: Life) -> None:
    """Somebody forges an event for 1000 dapps"""
    forged = deepcopy(life.account.events[-1]) | {"id": "evt_forged"}
    forged["data"]["object"]["items"]["data"][0]["quantity"] = 1000
    life.check("answer", send(f"{life.stack.api}/create", "whsec_guessed", json.dumps(forged).encode(), PATIENCE), 400)
    life.check("runs", life.runs(), [])
    life.check("order in the ledger", life.order("evt_forged"), {})
    life.check_user(BUYER, enabled=True, dapps=7, status="ACTIVE")


def hears_everything_twice(life: Life) -> None:
    """All events come again, doubled and shuffled, three late"""
    # Held back by Stripe: only the last says how it is now, and it need not be the last to arrive.
    life.account.auto_deliver = False
    for quantity in (9, 2, 7):
        life.account.change_quantity(life.subscription, quantity)
    life.account.auto_deliver = True
    held_back = {event["id"] for event in life.account.events[-3:]}
    deliveries = [event["id"] for event in life.account.events if life.account.endpoints_for(event["type"])] * 2
    random.Random(7).shuffle(deliveries)
    with ThreadPoolExecutor(4) as senders:
        answers = set(senders.map(life.account.deliver, deliveries))
    runs = life.fulfilled_runs()
    life.check(f"answers to {len(deliveries)} deliveries", answers, {200})
    life.check("runs of the three, one each", sorted(run.name for run in runs), sorted(held_back))
    user = life.check_user(BUYER, enabled=True, dapps=7, status="ACTIVE")
    life.check("the same user", user["sub"], life.sub)
    life.check("welcome mails to them, as before", life.mails(BUYER), 1)


def an_old_order_arrives(life: Life) -> None:
    """Juan's order of 2019 arrives"""
    event = life.account.emit("order.payment_succeeded", LEGACY_ORDER)
    # No endpoint that is made today can subscribe to it: one of that time sends it.
    body = json.dumps(event).encode()
    life.check("answer", send(f"{life.stack.api}/create", life.webhook_secret, body, PATIENCE), 200)
    life.fulfilled_runs()
    life.check_user(LEGACY_ORDER["email"], enabled=True, dapps=1, status="ACTIVE")
    life.check("welcome mails to him", life.mails(LEGACY_ORDER["email"]), 1)
    order = life.order(event["id"])
    life.check("order", order["order_id"], LEGACY_ORDER["id"])
    life.check("its state", order["state"], "FULFILLED")
    life.check("its status", order["status"], "fulfilled")


REFUSED = "NotAuthorizedException"

LIFE: tuple[Callable[[Life], None], ...] = (
    buys,
    signs_in,
    raises,
    cancels,
    returns,
    meets_an_outage,
    is_attacked,
    hears_everything_twice,
    an_old_order_arrives,
)


def main(account: StripeAccount | None = None) -> int:
    """Play the life, with this stand-in for Stripe; the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal knows a check mark
    if account is None:
        account = StripeAccount()
    print("Starting the local stack from template.yaml …", flush=True)
    with running(account) as product:
        report = Report(sys.stdout, product.log)
        life = Life(account, product, report)
        for step in LIFE:
            report.play(str(step.__doc__), partial(step, life))
    status = report.summary()
    if status == 0:  # otherwise somebody wants to read the log
        shutil.rmtree(product.log.parent)
    return status
