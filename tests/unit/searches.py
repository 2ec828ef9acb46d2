"""The tasks of the reconciliation machine in this process: real handlers, a real ledger and pool in moto, time as a
value; Stripe and Step Functions have memory. A call of a task that lists something ends after one page.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from gateway import differences, rechecks, searches
from gateway.access import Live, Subscription
from gateway.errors import BillingIncomplete
from gateway.executions import StateMachine
from gateway.ledger import Ledger
from gateway.users import ListedUsers
from tests.unit import operators
from tests.unit.operators import FULFILLMENT, Machine, subscription
from tests.unit.steps import NOW, Json, Steps, module

SEARCH = "daily"  # the execution's name
DAY = 86_400
HAS_PAID = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
ENDED = {"enabled": False, "dapp_limit": 0, "payment_status": "CANCELLED"}
PLAN: Json = {
    "id": SEARCH,
    "started": NOW,
    "find_events": True,
    "find_undelivered": True,
    "find_drift": True,
    "dry_run": False,
    "backfill": False,
    "events_from": NOW - DAY,
    "max_disabled": 100,
    "max_disabled_percent": 5,
    "shards": [],
}

_Row = TypeVar("_Row")


@dataclass
class Stripe(operators.Stripe):
    """Stripe whose lists have pages of `at_most` rows, latest first. `asked`: its answers' questions, in order."""

    sessions: list[Json] = field(default_factory=list)
    happened: list[Json] = field(default_factory=list)
    undelivered: set[str] = field(default_factory=set)  # events that some endpoint has not taken
    at_most: int = 100
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    errors: list[Exception | None] = field(default_factory=list)  # what the next lists end with

    def customer(self, customer_id: str) -> Any:
        self.asked.append(("customer", customer_id))
        return super().customer(customer_id)

    def subscriptions_made(
        self, since: int, until: int, after: str | None
    ) -> tuple[list[tuple[str, Subscription]], str | None]:
        self.asked.append(("subscriptions", since, until, after))
        rows = [(customer.id, each) for customer in self.customers.values() for each in customer.subscriptions]
        made = [row for row in rows if since <= (row[1].created or 0) < until]
        made.sort(key=lambda row: (-(row[1].created or 0), row[1].id))
        return self._page(made, after, lambda row: row[1].id)

    def one_time_sessions(self, since: int, until: int, after: str | None) -> tuple[list[Json], str | None]:
        self.asked.append(("sessions", since, until, after))
        made = [each for each in self.sessions if since <= each["created"] < until]
        rows, last = self._page(sorted(made, key=lambda each: -each["created"]), after, lambda each: str(each["id"]))
        return [each for each in rows if each["mode"] == "payment"], last

    def events(
        self, types: Sequence[str], since: int, until: int, after: str | None, *, undelivered: bool
    ) -> tuple[list[Json], str | None]:
        self.asked.append(("events", undelivered, tuple(types), since, until, after))
        found = [each for each in self.happened if each["type"] in types and since <= each["created"] < until]
        found = [each for each in found if not undelivered or each["id"] in self.undelivered]
        return self._page(sorted(found, key=lambda each: -each["created"]), after, lambda each: str(each["id"]))

    def first_made_at(self, now: int, *, sessions: bool = False) -> int | None:
        self._fail()
        made = [each["created"] for each in self.sessions]
        if not sessions:
            made = [each.created for customer in self.customers.values() for each in customer.subscriptions]
        return min((at for at in made if at is not None and at < now), default=None)

    def _page(self, rows: list[_Row], after: str | None, name: Callable[[_Row], str]) -> tuple[list[_Row], str | None]:
        self._fail()
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        names = [name(row) for row in rows]
        if after is not None and after not in names:
            raise BillingIncomplete(f"Stripe does not know {after}")
        start = 0 if after is None else names.index(after) + 1
        page = rows[start : start + self.at_most]
        return page, name(page[-1]) if start + len(page) < len(rows) else None


class Clock(operators.Clock):
    """One clock for what a handler reads and for what it waits for."""

    def monotonic(self) -> float:
        return self.now


class Pages:
    """An AWS client that lists this many rows at most on a page, counts its calls, and whose next ones may fail."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.at_most: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.errors: dict[str, list[Exception | None]] = {}

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**request: Any) -> Any:
            self.calls[operation] += 1
            errors = self.errors.get(operation)
            if errors and (error := errors.pop(0)) is not None:
                raise error
            if operation in self.at_most and "Filter" not in request:
                request["Limit"] = self.at_most[operation]
            return getattr(self._real, operation)(**request)

        return call


class Searches(Steps):
    """Tasks of a search, and what they work on."""

    def __init__(self, dynamodb: Any, cognito: Any, pool_id: str, patch: pytest.MonkeyPatch) -> None:
        super().__init__(dynamodb, cognito, pool_id, patch)
        self.clock: Clock = Clock()  # type: ignore[assignment]
        self.stripe, self.machine = Stripe(), Machine()
        # What the handlers call; the test's own ways to the table and the pool have no pages and never fail.
        self.table, self.pool = Pages(dynamodb), Pages(cognito)
        for each in (differences, rechecks, searches):
            patch.setattr(each, "time", self.clock)
        patch.setattr(searches, "TURN_SECONDS", 0)

    # -------------------------------------------------------------- tasks

    def ask(self, state: str, given: Json | None = None, **replaced: Any) -> Json:
        """A task's answer; nothing personal is in it. `govern`: what the operator wants of adopted users; `search`: the
        execution's name."""
        govern, search = replaced.pop("govern", False), replaced.pop("search", SEARCH)
        ledger, users = Ledger(self.table, "orders"), ListedUsers(self.pool, self.pool_id)
        policy = module("CompareShard").POLICY
        world = {
            "ledger": ledger,
            "users": users,
            "billing": self.stripe,
            "fulfillment": StateMachine(self.machine, FULFILLMENT),
            "differences": differences.Differences(ledger, self.stripe, users, policy, govern=govern),  # type: ignore[arg-type]
            "GOVERN": govern,
        }
        answer = self.run(state, {"plan": PLAN} if given is None else given, search, **{**world, **replaced})
        assert "@" not in json.dumps(answer)
        return answer

    def ask_all(
        self, state: str, result: str, given: Json | None = None, *, lost: bool = False, **replaced: Any
    ) -> Any:
        """The answers of a task that is called until it is done, each time with the one before. `lost`: every first
        answer is, so that each call is made twice."""
        given = {"plan": PLAN} if given is None else given
        answers: list[Json] = []
        while not answers or not answers[-1]["done"]:
            assert len(answers) < 50, "it comes to no end"
            state_so_far = {**given, result: answers[-1]} if answers else given
            for _ in range(1 + lost):
                answer = self.ask(state, state_so_far, **replaced)
            answers.append(answer)
        return answers

    # -------------------------------------------------------------- the world

    def payer(self, name: str = "1", **changed: Any) -> str:
        """A user of ours who pays as customer cus_<name>, with nothing missing; their sub. `changed`: how the
        subscription is now."""
        customer, email = f"cus_{name}", f"{name}@example.com"
        sub, _ = self.users.create(email, dapp_limit=5, payment_status="ACTIVE", customer_id=customer)
        self.subscribes(customer, **changed)
        self.ledger.note_party(customer, email=email, subscribed=True)
        self.ledger.link([customer], sub, replacing=None, live=Live(True, 5))
        self.ledger.told(sub, HAS_PAID, 1)
        self.ledger.settle(sub, read_at=NOW - DAY, recheck_at=None, granted={f"sub_{name}": 5})
        return sub

    def ended(self, name: str = "1") -> str:
        """A user of ours who has paid once, and was disabled; their sub."""
        sub = self.payer(name, status="canceled")
        self.users.update(sub, dapp_limit=0, payment_status="CANCELLED", disabled_by="billing")
        self.users.disable(sub)
        self.ledger.set_live(sub, Live(), NOW - DAY)
        self.ledger.told(sub, ENDED, 2)
        self.ledger.settle(sub, read_at=NOW - DAY, recheck_at=None, granted={})
        return sub

    def subscribes(self, customer: str, **changed: Any) -> None:
        """The customer's one subscription, to five dapps, is like this now."""
        name = customer.removeprefix("cus_")
        made = {"created": NOW - 100 * DAY, **changed}
        self.stripe.subscribes(customer, subscription(f"sub_{name}", **made), email=f"{name}@example.com")

    def drift(self) -> list[Json]:
        """Who is kept as differing, without what is the same of everybody."""
        rows = [{**row} for row in self.ledger.drifts(SEARCH)]
        for row in rows:
            assert row.pop("pk") == f"DRIFT#{SEARCH}"
            assert row.pop("expires_at") == NOW + searches.KEPT
            names = (row.get("party"), row.get("sub")) if row["relink"] else (row.get("sub"), row.get("party"))
            assert row["sk"] == next(name for name in names if name is not None)
            del row["sk"]
        return rows

    def everything(self) -> list[str]:
        """All rows of the ledger but those that only searches need, and all users."""
        pages = self.dynamodb.get_paginator("scan").paginate(TableName="orders", ConsistentRead=True)
        rows = [row for page in pages for row in page["Items"]]
        kept = [row for row in rows if not row["pk"]["S"].startswith(("SEEN#", "DRIFT#", "RECONCILIATION"))]
        users = self.cognito.list_users(UserPoolId=self.pool_id)["Users"]
        return sorted(json.dumps(each, sort_keys=True, default=str) for each in [*kept, *users])
