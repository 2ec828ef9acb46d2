"""The tasks of the fulfillment machine in this process: real handlers, a real ledger and pool in moto, time as a value.

What goes in and out of a task passes through JSON, as Step Functions passes it.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer

from gateway.access import User
from gateway.events import Order
from gateway.ledger import Ledger
from gateway.users import Users
from tests.handlers import imported
from tests.local import moto_fixes

Json = dict[str, Any]

NOW = 1_800_000_000
EMAIL = "payer@example.com"
KEY = "a key that nobody knows"
ARN = "arn:aws:states:us-east-1:123456789012:execution:fulfillment:"

ORDER = Order(
    event_id="evt_1",
    event_type="invoice.paid",
    livemode=False,
    order_id="in_1",
    customer_id="cus_1",
    email=EMAIL,
    name=None,
    amount=2000,
    currency="usd",
    charge=None,
    items=(),
    metadata={},
    status="paid",
    updated=NOW - 5,
)


@functools.cache
def module(state: str) -> ModuleType:
    """The Lambda behind a state, imported once."""
    return imported(f"{state}Function")


@dataclass
class Clock:
    """The time that handlers see."""

    now: float = NOW

    def time(self) -> float:
        return self.now


class HashKey:
    """The secret that addresses are hashed with (gateway.secret.Secret)."""

    def text(self) -> str:
        return KEY


class Steps:
    """Tasks, and what they work on: the test's own ledger and users are the handlers' as well."""

    def __init__(self, dynamodb: Any, cognito: Any, pool_id: str, patch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.dynamodb = dynamodb
        self.cognito = cognito
        self.pool_id = pool_id
        self.ledger = Ledger(dynamodb, "orders")
        self.users = Users(cognito, pool_id)
        self.hash_key = HashKey()
        self._patch = patch

    # -------------------------------------------------------------- tasks

    def module(self, state: str, **given: Any) -> ModuleType:
        """A handler's module with this world in it; `given` takes the place of names in it."""
        found = module(state)
        world = {"time": self.clock, "ledger": self.ledger, "users": self.users, "hash_key": self.hash_key}
        for name, value in {**world, **given}.items():
            if hasattr(found, name):
                self._patch.setattr(found, name, value)
        return found

    def run(self, state: str, given: Json, execution: str = "evt_1", **replaced: Any) -> Json:
        """A task's answer to an execution's state."""
        event = json.loads(json.dumps({"execution": ARN + execution, "run": given}))
        context = SimpleNamespace(function_name=state, aws_request_id=f"invocation of {state}")
        answer: Json = json.loads(json.dumps(self.module(state, **replaced).handler(event, context)))
        return answer

    def state(self, user: User | None = None, **changed: Any) -> Json:
        """An execution's data after ReadBilling, and after LookupUser if a user is given."""
        access = {"wanted": True, "status": "ACTIVE", "dapp_limit": 5, "reason": "sub_1 active", "recheck_at": None}
        access |= {"units": {"sub_1": 5}, "alarms": [], **changed.pop("access", {})}
        billing = {"pass": 1, "read_at": int(self.clock.now), "parties": ["cus_1"], "access": access}
        billing |= {"deleted_at": None, "erased": False, "left_over": [], "resume": False}
        state = {"event_id": "evt_1", "order_id": "in_1", "customer_id": "cus_1", "billing": billing}
        if user is not None:
            target = {"enabled": True, "dapp_limit": access["dapp_limit"], "payment_status": access["status"]}
            live = {"active": True, "dapp_limit": access["dapp_limit"]}
            state["lookup"] = {"user": user.facts(), "target": target, "unbanned": False}
            state["lookup"] |= {"invite": False, "rename": False}
            state["lookup"] |= {"live": {"sub": user.sub, "active": False, "dapp_limit": 0}, "live_target": live}
        billing |= {name: changed.pop(name) for name in tuple(changed) if name in billing}
        return state | changed

    # -------------------------------------------------------------- the world

    def record(self, event_id: str = "evt_1", at: int | None = None, **changed: Any) -> None:
        """An order in the ledger, as the webhook records it."""
        order = replace(ORDER, event_id=event_id, **changed)
        self.ledger.record(order, int(self.clock.now) if at is None else at)

    def buyer(self, email: str = EMAIL, *parties: str, provider: str = "STRIPE") -> User:
        """A user who is made now for these customers (cus_1 unless given), as LookupUser sees them."""
        sub, _ = self.users.create(email, dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        self.clock.now = self.seen(sub).created_at
        if provider != "STRIPE":
            self.write(sub, **{"custom:payment_provider": provider})
        self.ledger.link(parties or ("cus_1",), sub, replacing=None)
        self.ledger.note_party("cus_1", email=email, subscribed=True)
        return self.seen(sub)

    def seen(self, sub: str, email: str | None = None) -> User:
        """The user as they are now, linked to the payer; `email` is the payer's."""
        user = self.users.get(sub, email)
        assert user is not None
        return replace(user, linked=True)

    def write(self, sub: str, **attributes: str) -> None:
        """An operator writes attributes of a user."""
        pairs = [{"Name": name, "Value": value} for name, value in attributes.items()]
        self.cognito.admin_update_user_attributes(UserPoolId=self.pool_id, Username=sub, UserAttributes=pairs)

    def sign_in(self, sub: str) -> None:
        """The user chooses a password of their own."""
        self.cognito.admin_set_user_password(
            UserPoolId=self.pool_id, Username=sub, Password="Correct-horse-7-battery", Permanent=True
        )

    def row(self, pk: str, sk: str) -> Json:
        """A row of the table."""
        key = {"pk": {"S": pk}, "sk": {"S": sk}}
        row = self.dynamodb.get_item(TableName="orders", Key=key, ConsistentRead=True).get("Item", {})
        return {name: TypeDeserializer().deserialize(value) for name, value in row.items()}

    def order(self, event_id: str = "evt_1") -> Json:
        return self.row(f"ORDER#{event_id}", "ORDER")

    @property
    def mails(self) -> list[str]:
        """To whom invitations left, in order."""
        return [each.to for each in moto_fixes.outbox if each.user_pool_id == self.pool_id]


class Then:
    """Something whose method `name` is followed by `deed`, once: what happens just after a read or a write."""

    def __init__(self, real: Any, name: str, deed: Callable[[], object]) -> None:
        self._real, self._name, self._deeds = real, name, [deed]

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)
        if name != self._name:
            return method

        def then(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            if self._deeds:
                self._deeds.pop()()
            return answer

        return then
