"""The ledger: orders, parties, people, tombstones and leases in a DynamoDB table. The only module that calls DynamoDB.

    pk               sk               what
    ORDER#<event>    ORDER            one event: its content, its attempts, how it ended
    PARTY#<party>    PARTY            a Stripe customer, or an order without one; linked to a user by `sub`
    PARTY#<party>    PURCHASE#<id>    a one-time order of the party
    PARTY#<party>    MARK#<id>        a refund, dispute or fraud warning on a charge of the party
    PERSON#<sub>     PERSON           one Cognito user: what the authorizer lets them do, how many dapps they use,
                                      linked parties, last change, what was told of it, recheck_at
    PERSON#<sub>     DAPP#<id>        a dapp that the user has reserved
    TOMBSTONE#<id>   TOMBSTONE        an e-mail address (as a keyed hash) whose account was deleted, and how far that is
    LEASE#<subject>  LEASE            who may write to a person (or, before there is a user, a party) right now
    SEEN#<sub>       SEEN             when a reconciliation met the user in the pool last
    DRIFT#<search>   <sub or party>   who differed in one reconciliation, and how
    RECONCILIATION   REPORT#<at>#<id> what one reconciliation found and did; also EVENTS: up to when all are known

A deletion leaves of a party what Stripe's late events need (that it was deleted, and when), of a person and of an
address the same, and nothing personal.

Indexes: ByParty and ByEmail list orders (rank OPEN#… before it is fulfilled, DONE#… after), Due lists what RunDue has
to do. They are eventually consistent, so nothing that must be right reads them: they only find work.

Every write is one call to DynamoDB, so a caller's order of writes is visible where it is decided.
All moments are Unix seconds.
"""

import contextlib
import random
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import BotoCoreError, ClientError

from gateway import aws
from gateway.access import Before, Invitation, Live
from gateway.errors import (
    CognitoUnavailable,
    GatewayError,
    LedgerRejected,
    LedgerThrottled,
    LedgerUnavailable,
    PersonBusy,
)
from gateway.events import Mark, Order, OrderItem, Purchase

# Longer than any Lambda may live that writes to a user (20 s, template.yaml), so an expired lease belongs to nobody who
# still writes. MarkFulfilled lives longer, but under the lease it only publishes.
LEASE_SECONDS = 30

# An attempt without a word for this long is dead: the state machine's own time-out is 14 minutes.
ATTEMPT_SECONDS = 15 * 60

# RunDue's index is spread over this many keys: one key would take 1,000 writes a second at most.
DUE_SHARDS = 8

# An order that has failed this often raises an alarm at every further run, once a day: it is never given up. With the
# default first wait of five minutes that is about two days after its first run.
MAX_ATTEMPTS = 14
_LONGEST_WAIT = 6 * 3600
_DAY = 24 * 3600

# How many open orders are looked at for one that can be run.
_OLDEST = 100

# How many rows of a shard that are due within a day are looked at for the oldest open order. Where there are more, the
# alarms have rung long ago.
_WAITING = 2_000

# How many pages of the ledger are looked through for any customer.
_PAGES = 20

# A run closes other open orders only if they were recorded this long before it read Stripe: clocks differ.
CLOCK_SKEW = 5

# How long a single write waits at most for one transaction after another on its row (seconds).
_CONFLICT_WAITS = (0.05, 0.1, 0.2, 0.4)

_to_dynamo = TypeSerializer().serialize
_from_dynamo = TypeDeserializer().deserialize


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of an order, as far as the ledger knows. `number` counts from 1; 0: never run."""

    event_id: str
    order_id: str
    customer_id: str | None
    number: int
    state: str
    at: int

    @property
    def execution_name(self) -> str:
        """Step Functions' name of this run: two starters, one name."""
        return self.event_id if self.number <= 1 else f"{self.event_id}-r{self.number}"

    @property
    def execution_input(self) -> Mapping[str, Any]:
        """What its execution is given: no personal data."""
        return {"event_id": self.event_id, "order_id": self.order_id, "customer_id": self.customer_id}

    def over(self, now: int) -> bool:
        """Ended with a word, or started so long ago that it cannot be running any more."""
        return self.state != "RECEIVED" or now - self.at >= ATTEMPT_SECONDS


@dataclass(frozen=True, slots=True)
class Received:
    """What a run may ask of its order: the event's type, and the charge that it names."""

    event_type: str
    charge: str | None


@dataclass(frozen=True, slots=True)
class Party:
    """A Stripe customer, or an order without one, with what was learnt about it.

    `deleted_at`: its account was deleted then, so only what was bought later counts; `tombstone` names the deletion.
    `deleting`: that is still under way.
    """

    id: str
    sub: str | None = None
    email: str | None = None
    claimed_email: str | None = None
    subscribed: bool = False
    purchases: tuple[Purchase, ...] = ()
    marks: tuple[Mark, ...] = ()
    deleted_at: int | None = None
    deleting: bool = False
    tombstone: str | None = None

    @property
    def subject(self) -> str:
        """Whose lease protects the party's links: the user they point to (even one deleted by hand), else itself."""
        return self.sub or self.id


@dataclass(frozen=True, slots=True)
class Person:
    """One Cognito user and the parties that are linked to them.

    `granted`: what each subscription gave last (access.Access.units). `before`: set when the user existed before their
    first purchase ("adopted"). `told`: how the user stood when a change was published last (an adopted one: when they
    were adopted), `tellings`: how often that was. `telling`: the notice (JSON) that was to be published after that;
    whether it was is known to nobody. `held`: an operator's ban ({"reason", "requested_by", "at"}). `deleted_at`: their
    account was deleted then; `erased`: nothing else is known of them any more. `live` is what the authorizer lets them
    do, `used` how many dapps they have reserved; tokens issued until `signed_out_at` are worth nothing any more.
    """

    sub: str
    parties: frozenset[str]
    granted: Mapping[str, int] = field(default_factory=dict)
    before: Before | None = None
    recheck_at: int | None = None
    invitation: Invitation = field(default_factory=Invitation)
    told: Mapping[str, Any] | None = None
    tellings: int = 0
    telling: str | None = None
    last_change: Mapping[str, Any] | None = None
    held: Mapping[str, Any] | None = None
    deleted_at: int | None = None
    erased: bool = False
    live: Live = field(default_factory=Live)
    used: int = 0
    signed_out_at: int = 0

    @property
    def barred(self) -> str | None:
        """Why the user has no access, in one word; None when they have."""
        if self.deleted_at is not None:
            return "deleted"
        if self.held is not None:
            return "held"
        return None if self.live.active else "inactive"

    def refusal(self, issued_at: int) -> str | None:
        """Why a token that was issued then gives no access, in one word; None when it does."""
        return self.barred or ("signed_out" if issued_at <= self.signed_out_at else None)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A deletion of the account of one e-mail address. `id` is the address's keyed hash.

    `email` is known until the deletion is done. `account_known`: `sub` and `parties` are all that belongs to the
    address; parties that turn up later are added. `buried`: nothing of it counts any more that was bought before
    `deleted_at`.
    """

    id: str
    deleted_at: int
    state: Literal["RUNNING", "FAILED", "DONE"]
    attempts: int
    at: int
    email: str | None = None
    sub: str | None = None
    parties: frozenset[str] = frozenset()
    account_known: bool = False
    buried: bool = False
    canceled: int = 0
    last_error: str | None = None

    @property
    def execution_name(self) -> str:
        """Step Functions' name of this attempt: two starters, one name."""
        return f"{self.id}-r{self.attempts}"

    @property
    def execution_input(self) -> Mapping[str, Any]:
        """What its execution is given: no personal data."""
        return {"tombstone": self.id}

    def over(self, now: int) -> bool:
        """Ended with a word, or started so long ago that it cannot be running any more."""
        return self.state != "RUNNING" or now - self.at >= ATTEMPT_SECONDS


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a user: how they stood, will stand, and why."""

    before: Mapping[str, Any] | None
    after: Mapping[str, Any]
    reason: str
    execution: str


@dataclass(frozen=True, slots=True)
class DuePerson:
    """A person whose access may change now although Stripe sends nothing."""

    sub: str
    party: str
    recheck_at: int


def retry_delay(attempt: int, first: int) -> int:
    """Seconds until an order is run again after this attempt failed: doubling to six hours, then once a day."""
    if attempt >= MAX_ATTEMPTS:
        return _DAY
    return int(min(first * 2 ** (attempt - 1), _LONGEST_WAIT))


class Ledger:
    """The table, through a boto3 DynamoDB client."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    # -------------------------------------------------------------- orders

    def record(self, order: Order, now: int, *, problem: str | None = None) -> Attempt | None:
        """Write the order of an event, once. Returns None when it is new, else what the ledger has of it.

        A new order counts as attempt 1, which the caller is about to start. With a `problem` it cannot be run: it
        is recorded as UNFULFILLED with that reason and no attempt, until a delivery that can be read replaces it.
        """
        row: dict[str, Any] = {
            "pk": f"ORDER#{order.event_id}",
            "sk": "ORDER",
            **{k: v for k, v in asdict(order).items() if k not in ("purchase", "items")},
            "items": [asdict(item) for item in order.items],
            "party": order.party,
            "rank": f"OPEN#{now}#{order.event_id}",
            "received_at": now,
            "status_when_done": "fulfilled" if order.status == "paid" else order.status,
        }
        if problem is None:
            row |= {"state": "RECEIVED", "attempts": 1, "attempt_at": now}
            row |= {"due": _shard(order.event_id), "due_at": now + ATTEMPT_SECONDS}
        else:
            row |= {"state": "UNFULFILLED", "attempts": 0, "attempt_at": now, "last_error": problem}
        try:
            self._call(
                "put_item",
                Item=_row({key: value for key, value in row.items() if value is not None}),
                ConditionExpression="attribute_not_exists(pk) OR attempts < :attempts",
                ExpressionAttributeValues=_row({":attempts": min(row["attempts"], 1)}),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except _ConditionFailed as failed:
            return attempt_of(failed.row)
        return None

    def received(self, event_id: str) -> Received:
        """The order of an event; LedgerRejected when there is none."""
        answer = self._call("get_item", Key=_key(f"ORDER#{event_id}", "ORDER"), ConsistentRead=True)
        if "Item" not in answer:
            raise LedgerRejected(f"the ledger has no order {event_id}: was the execution started by hand?")
        row = _plain(answer["Item"])
        return Received(row["event_type"], row.get("charge"))

    def assign(self, event_id: str, party: str, now: int) -> None:
        """Give an open order to the party that it turned out to concern. It counts as recorded now: no run that read
        the party before may close it."""
        self._change(
            _key(f"ORDER#{event_id}", "ORDER"),
            "SET party = :party, #rank = :rank",
            {":party": party, ":rank": f"OPEN#{now}#{event_id}", ":fulfilled": "FULFILLED"},
            "attribute_exists(pk) AND #state <> :fulfilled",
        )

    def next_attempt(self, seen: Attempt, now: int) -> Attempt | None:
        """Take the attempt after `seen`; None when somebody else took it, or the order is fulfilled by now."""
        number = seen.number + 1
        taken = self._change(
            _key(f"ORDER#{seen.event_id}", "ORDER"),
            "SET attempts = :next, attempt_at = :now, #state = :received, due = :due, due_at = :at",
            {
                ":next": number,
                ":seen": seen.number,
                ":now": now,
                ":received": "RECEIVED",
                ":fulfilled": "FULFILLED",
                ":due": _shard(seen.event_id),
                ":at": now + (ATTEMPT_SECONDS if number <= MAX_ATTEMPTS else _DAY),
            },
            "attempts = :seen AND #state <> :fulfilled",
        )
        return replace(seen, number=number, state="RECEIVED", at=now) if taken else None

    def open_orders(self, party: str, recorded_before: int) -> Iterator[str]:
        """Event ids of the party's open orders recorded before that moment, oldest first, a page at a time."""
        for row in self._query(
            IndexName="ByParty",
            KeyConditionExpression="party = :party AND #rank BETWEEN :first AND :last",
            ExpressionAttributeNames={"#rank": "rank"},
            ExpressionAttributeValues=_row({":party": party, ":first": "OPEN#", ":last": f"OPEN#{recorded_before}"}),
        ):
            yield row["pk"].removeprefix("ORDER#")

    def close(
        self,
        event_id: str,
        now: int,
        *,
        execution: str,
        outcome: str,
        reason: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        erase: bool = False,
    ) -> bool:
        """Mark an order FULFILLED with how it ended; `erase` what it says of a person. False: it was fulfilled already
        and stays as it is."""
        return self._change(
            _key(f"ORDER#{event_id}", "ORDER"),
            "SET #state = :fulfilled, #rank = :rank, #status = status_when_done, execution = :execution,"
            " outcome = :outcome, reason = :reason, #before = :before, #after = :after, fulfilled_at = :now"
            " REMOVE due, due_at, last_error" + (f", {_PERSONAL}" if erase else ""),
            {
                ":fulfilled": "FULFILLED",
                ":rank": f"DONE#{now}#{event_id}",
                ":execution": execution,
                ":outcome": outcome,
                ":reason": reason,
                ":before": before,
                ":after": after,
                ":now": now,
            },
            "attribute_exists(pk) AND #state <> :fulfilled",
        )

    def fail(self, event_id: str, *, execution: str, error: str, retry_at: int) -> bool:
        """Mark an order UNFULFILLED with its reason, due again at `retry_at`. False: it was fulfilled meanwhile and
        stays so."""
        return self._change(
            _key(f"ORDER#{event_id}", "ORDER"),
            "SET #state = :unfulfilled, execution = :execution, last_error = :error, due = :due, due_at = :at",
            {
                ":unfulfilled": "UNFULFILLED",
                ":fulfilled": "FULFILLED",
                ":execution": execution,
                ":error": error,
                ":due": _shard(event_id),
                ":at": retry_at,
            },
            "attribute_exists(pk) AND #state <> :fulfilled",
        )

    def orders(self, party: str, *, fulfilled: bool, before: str | None, limit: int) -> list[str]:
        """The ranks of a party's orders, latest first: the open ones, then the `fulfilled` ones. `before`: the rank of
        the last one on the page before."""
        last = before or "OPEN$"
        answer = self._call(
            "query",
            IndexName="ByParty",
            KeyConditionExpression="party = :party AND #rank BETWEEN :first AND :last",
            ExpressionAttributeNames={"#rank": "rank"},
            ExpressionAttributeValues=_row(
                {":party": party, ":first": "DONE#" if fulfilled else "OPEN#", ":last": last}
            ),
            ScanIndexForward=False,
            Limit=limit + 1,
        )
        ranks = [str(_plain(item)["rank"]) for item in answer["Items"]]
        return [rank for rank in ranks if rank != before][:limit]

    def all_orders(self, party: str) -> Iterator[str]:
        """Event ids of all orders of a party, a page at a time."""
        for row in self._query(
            IndexName="ByParty",
            KeyConditionExpression="party = :party",
            ExpressionAttributeValues=_row({":party": party}),
        ):
            yield row["pk"].removeprefix("ORDER#")

    def rows(self, event_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The orders of these events as they are kept. Strongly consistent."""
        yield from self._batch([_key(f"ORDER#{event_id}", "ORDER") for event_id in event_ids])

    def erase_order(self, event_id: str) -> None:
        """Forget whom an order is about."""
        self._change(_key(f"ORDER#{event_id}", "ORDER"), f"REMOVE {_PERSONAL}", {}, "attribute_exists(pk)")

    def parties_of(self, email: str, recorded_until: int) -> frozenset[str]:
        """Customers who have this address, and parties with an order that names it, recorded until then."""
        found = set()
        for row in self._query(
            IndexName="ByEmail",
            KeyConditionExpression="email = :email",
            ExpressionAttributeValues=_row({":email": email}),
        ):
            if row["sk"] == "PARTY":
                found.add(row["pk"].removeprefix("PARTY#"))
            elif row["sk"] == "ORDER" and int(row["received_at"]) <= recorded_until:
                found.add(row["party"])
        return frozenset(found)

    def due(self, shard: int, now: int) -> Iterator[Attempt | DuePerson]:
        """What is due in one shard of the index (0 … DUE_SHARDS - 1), longest due first."""
        for row in self._query(
            IndexName="Due",
            KeyConditionExpression="due = :due AND due_at <= :now",
            ExpressionAttributeValues=_row({":due": f"DUE#{shard}", ":now": now}),
        ):
            if row["sk"] == "ORDER":
                yield attempt_of(row)
            else:
                yield DuePerson(row["sub"], min(row["parties"]), int(row["recheck_at"]))

    def oldest_open(self, now: int) -> tuple[int, str] | None:
        """When the oldest of the open orders that are run again was received, and its event; None: none is open.

        Each of them is due within a day. One whose content cannot be used is not: no run would help it.
        """
        found = []
        for shard in range(DUE_SHARDS):
            rows = self._query(
                IndexName="Due",
                KeyConditionExpression="due = :due AND due_at <= :until",
                ProjectionExpression="sk, event_id, received_at",
                ExpressionAttributeValues=_row({":due": f"DUE#{shard}", ":until": now + _DAY + CLOCK_SKEW}),
            )
            orders = (row for row in islice(rows, _WAITING) if row["sk"] == "ORDER")
            found += [(int(row["received_at"]), str(row["event_id"])) for row in orders]
        return min(found, default=None)

    # -------------------------------------------------------------- parties

    def party(self, party: str) -> Party:
        """All that is known of a party; an unknown one is empty. Strongly consistent."""
        rows = self._query(
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues=_row({":pk": f"PARTY#{party}"}),
            ConsistentRead=True,
        )
        known: dict[str, Any] = {}
        purchases = []
        marks = []
        email = None
        for row in rows:
            if row["sk"] == "PARTY":
                known = row
            elif row["sk"].startswith("MARK#"):
                marks.append(Mark(row["mark"], row["kind"], row["charge"], row.get("pays"), _whole(row.get("until"))))
            else:
                purchases.append(
                    Purchase(
                        row["purchase"],
                        row["status"],
                        int(row["version"]),
                        tuple(_order_item(item) for item in row["items"]),
                        _whole(row.get("created")),
                    )
                )
                email = email or row.get("email")
        found = _party(party, known)
        return replace(found, email=found.email or email, purchases=tuple(purchases), marks=tuple(marks))

    def remember_purchase(self, order: Order) -> None:
        """Keep a one-time order with its party; an older version than the one known changes nothing."""
        purchase = order.purchase
        if purchase is None:
            return
        values: dict[str, Any] = {
            ":purchase": purchase.id,
            ":status": purchase.status,
            ":version": purchase.version,
            ":items": [asdict(item) for item in purchase.items],
            ":rank": "PARTY",
            ":party": order.party,
        }
        change = "SET purchase = :purchase, #status = :status, version = :version, of_party = :party, #rank = :rank,"
        # A return carries no items and no address: those of the order stay.
        change += " #items = :items" if purchase.items else " #items = if_not_exists(#items, :items)"
        if order.email is not None:
            values[":email"] = order.email
            change += ", email = :email"
        if purchase.created is not None:
            values[":created"] = purchase.created
            change += ", created = :created"
        self._change(
            _key(f"PARTY#{order.party}", f"PURCHASE#{purchase.id}"),
            change,
            values,
            "attribute_not_exists(pk) OR version < :version",
        )

    def remember_mark(self, party: str, mark: Mark) -> None:
        """Keep a mark with the party whose charge it is on. Nothing of it ever changes."""
        row = {"pk": f"PARTY#{party}", "sk": f"MARK#{mark.id}", "mark": mark.id, "of_party": party, "rank": "PARTY"}
        row |= {"kind": mark.kind, "charge": mark.charge, "pays": mark.pays, "until": mark.until}  # type: ignore[dict-item]
        self._call("put_item", Item=_row({name: value for name, value in row.items() if value is not None}))

    def note_party(self, party: str, *, email: str | None, subscribed: bool, deleted_at: int | None = None) -> None:
        """Keep what Stripe says of a customer: the address they have now, and that they had a subscription; unless
        their account was deleted since (`deleted_at` is the deletion that the caller knows of)."""
        values: dict[str, Any] = {":subscribed": subscribed, ":rank": "PARTY", ":party": party}
        change = "SET subscribed = :subscribed, #rank = :rank, of_party = :party"
        if email is None:
            change += " REMOVE email"
        else:
            values[":email"] = email
            change += ", email = :email"
        unchanged = "attribute_not_exists(deleted_at)"
        if deleted_at is not None:
            values[":deleted_at"] = deleted_at
            unchanged = "deleted_at = :deleted_at"
        self._change(_key(f"PARTY#{party}", "PARTY"), change, values, unchanged)

    def claim_email(self, party: str, email: str) -> None:
        """Keep the address that a user is about to be created with: whoever comes after a kill finds that user."""
        self._change(
            _key(f"PARTY#{party}", "PARTY"),
            "SET claimed_email = :email, #rank = :rank, of_party = :party",
            {":email": email, ":rank": "PARTY", ":party": party},
        )

    def bury(self, party: str, deleted_at: int, tombstone: str, *, deleting: bool) -> None:
        """Only what the party buys after this moment counts; while `deleting`, nothing is made of that either."""
        self._change(
            _key(f"PARTY#{party}", "PARTY"),
            "SET deleted_at = :at, tombstone = :tombstone, #rank = :rank, of_party = :party"
            + (", deleting = :deleting" if deleting else ""),
            {":at": deleted_at, ":tombstone": tombstone, ":rank": "PARTY", ":party": party}
            | ({":deleting": True} if deleting else {}),
            "attribute_not_exists(deleted_at) OR deleted_at <= :at",
        )

    def erase_party(self, party: str, sub: str | None) -> bool:
        """Forget a party's address and its link to this user. False: it is linked to another user, and stays as it
        is."""
        own = "attribute_not_exists(#sub)" + ("" if sub is None else " OR #sub = :sub")
        return self._change(
            _key(f"PARTY#{party}", "PARTY"),
            "REMOVE email, claimed_email, deleting, #sub",
            {} if sub is None else {":sub": sub},
            f"attribute_exists(pk) AND ({own})",
        )

    def spare_party(self, party: str) -> None:
        """The deletion leaves the party alone."""
        self._change(_key(f"PARTY#{party}", "PARTY"), "REMOVE deleting", {}, "attribute_exists(pk)")

    def erase_purchase(self, party: str, purchase: str) -> None:
        """Forget the address that a one-time order was bought with."""
        self._change(_key(f"PARTY#{party}", f"PURCHASE#{purchase}"), "REMOVE email", {}, "attribute_exists(pk)")

    # -------------------------------------------------------------- people

    def person(self, sub: str) -> Person | None:
        """The person of a Cognito user. Strongly consistent."""
        answer = self._call("get_item", Key=_key(f"PERSON#{sub}", "PERSON"), ConsistentRead=True)
        if "Item" not in answer:
            return None
        return _person(_plain(answer["Item"]))

    def link(
        self,
        parties: Sequence[str],
        sub: str,
        *,
        replacing: str | None,
        before: Mapping[str, Any] | None = None,
        live: Live | None = None,
    ) -> bool:
        """Link parties to a user, all or none. False: one of them is linked to another user by now, or the account of
        the user is being deleted.

        `replacing` is the user that the link may point to today (one that was deleted by hand). `before`: how a user
        stood who existed before their first purchase; kept from the first link only. `live`: what the authorizer lets a
        new user do, unless somebody has decided that meanwhile.
        """
        person_change = "ADD parties :parties SET #sub = :sub"
        values: dict[str, Any] = {":parties": set(parties), ":sub": sub}
        if before is not None:
            person_change += ", before_adoption = if_not_exists(before_adoption, :before)"
            values[":before"] = before
        if live is not None:
            person_change += ", active = if_not_exists(active, :active)"
            person_change += ", dapp_limit = if_not_exists(dapp_limit, :limit)"
            values |= {":active": live.active, ":limit": live.dapp_limit}
        writes: list[dict[str, dict[str, Any]]] = [
            {
                "Update": {
                    "Key": _key(f"PERSON#{sub}", "PERSON"),
                    "UpdateExpression": person_change,
                    "ConditionExpression": "attribute_not_exists(deleted_at)",
                    "ExpressionAttributeNames": {"#sub": "sub"},
                    "ExpressionAttributeValues": _row(values),
                }
            }
        ]
        for party in parties:
            allowed = {":sub": sub, ":party": party, ":rank": "PARTY"}
            condition = "attribute_not_exists(#sub) OR #sub = :sub"
            if replacing is not None:
                allowed[":replacing"] = replacing
                condition += " OR #sub = :replacing"
            writes.append(
                {
                    "Update": {
                        "Key": _key(f"PARTY#{party}", "PARTY"),
                        "UpdateExpression": "SET #sub = :sub, of_party = :party, #rank = :rank",
                        "ConditionExpression": condition,
                        "ExpressionAttributeNames": {"#sub": "sub", "#rank": "rank"},
                        "ExpressionAttributeValues": _row(allowed),
                    }
                }
            )
        return self._transaction(*writes)

    def record_change(self, sub: str, now: int, change: Change) -> None:
        """Keep what is about to change on a user, and why."""
        self._change(
            _key(f"PERSON#{sub}", "PERSON"),
            "SET last_change = :change, #sub = :sub",
            {":sub": sub, ":change": {**asdict(change), "at": now}},
        )

    def set_live(
        self, sub: str, live: Live, now: int, change: Change | None = None, *, signs_out: bool = False
    ) -> None:
        """Let the authorizer know what the user may do from this moment on, and keep the change that it is part of.
        `signs_out`: tokens issued until now stay worth nothing, also when access comes back. A ban stays, whatever is
        written here."""
        values = {":sub": sub, ":active": live.active, ":limit": live.dapp_limit}
        update = "SET #sub = :sub, active = :active, dapp_limit = :limit"
        if signs_out:
            update += ", signed_out_at = :now"
            values[":now"] = now
        if change is not None:
            update += ", last_change = :change"
            values[":change"] = {**asdict(change), "at": now}
        self._change(_key(f"PERSON#{sub}", "PERSON"), update, values)

    def invited(self, sub: str, invitation: Invitation) -> None:
        """Keep what is known of the user's invitations."""
        self._change(
            _key(f"PERSON#{sub}", "PERSON"), "SET invitation = :invitation", {":invitation": asdict(invitation)}
        )

    def telling(self, sub: str, notice: str) -> None:
        """Keep a notice that is about to be published: whoever comes after a kill publishes the very same again."""
        self._change(_key(f"PERSON#{sub}", "PERSON"), "SET telling = :notice", {":notice": notice})

    def told(self, sub: str, shape: Mapping[str, Any], tellings: int) -> None:
        """Keep how the user stood when a change was published, and the how-manieth that was; a later one stays."""
        self._change(
            _key(f"PERSON#{sub}", "PERSON"),
            "SET told = :told, tellings = :tellings REMOVE telling",
            {":told": shape, ":tellings": tellings},
            "attribute_not_exists(tellings) OR tellings < :tellings",
        )

    def settle(self, sub: str, *, read_at: int, recheck_at: int | None, granted: Mapping[str, int]) -> bool:
        """Keep what a run that found nothing missing knows: what each subscription gives, and when RunDue looks again
        (None: not by itself). False: a run that read Stripe later has settled already."""
        change = "SET granted = :granted, settled_at = :read_at"
        values: dict[str, Any] = {":granted": granted, ":read_at": read_at}
        if recheck_at is None:
            change += " REMOVE recheck_at, due, due_at"
        else:
            change += ", recheck_at = :at, due = :due, due_at = :at"
            values |= {":at": recheck_at, ":due": _shard(sub)}
        return self._change(
            _key(f"PERSON#{sub}", "PERSON"),
            change,
            values,
            "attribute_exists(pk) AND attribute_not_exists(deleted_at)"
            " AND (attribute_not_exists(settled_at) OR settled_at <= :read_at)",
        )

    def rechecked(self, person: DuePerson) -> None:
        """The recheck of that moment has become an order: take it off the list, unless there is a new one."""
        self._change(
            _key(f"PERSON#{person.sub}", "PERSON"),
            "REMOVE recheck_at, due, due_at",
            {":at": person.recheck_at},
            "recheck_at = :at",
        )

    def hold(self, sub: str, held: Mapping[str, Any]) -> None:
        """Keep an operator's ban of the user; from this moment on the authorizer refuses them."""
        self._change(
            _key(f"PERSON#{sub}", "PERSON"),
            "SET #sub = :sub, held = :held, active = :active, dapp_limit = :limit, signed_out_at = :at",
            {":sub": sub, ":held": held, ":active": False, ":limit": 0, ":at": held["at"]},
        )

    def lift(self, sub: str) -> None:
        """The ban is over. What the user may do now is decided elsewhere."""
        self._change(_key(f"PERSON#{sub}", "PERSON"), "REMOVE held", {}, "attribute_exists(pk)")

    def bury_person(self, sub: str, deleted_at: int) -> frozenset[str]:
        """Nobody is linked to this user any more; returns who is."""
        row = self._changed(
            _key(f"PERSON#{sub}", "PERSON"),
            "SET deleted_at = :at, #sub = :sub",
            {":at": deleted_at, ":sub": sub},
            ReturnValues="ALL_NEW",
        )
        return frozenset((row or {}).get("parties", ()))

    def erase_person(self, sub: str, deleted_at: int) -> None:
        """Forget all of a person, but that they were deleted."""
        row = {"pk": f"PERSON#{sub}", "sk": "PERSON", "sub": sub, "deleted_at": deleted_at, "erased": True}
        self._call("put_item", Item=_row(row))

    # -------------------------------------------------------------- dapps

    def reserve_dapp(self, sub: str, dapp: str, now: int) -> bool:
        """Reserve a dapp within the user's limit, all in one transaction. False: this one is reserved already, none is
        left, or the user has no access. LedgerThrottled also when somebody else was writing to the person."""
        return self._transaction(
            {
                "Put": {
                    "Item": _row({"pk": f"PERSON#{sub}", "sk": f"DAPP#{dapp}", "reserved_at": now}),
                    "ConditionExpression": "attribute_not_exists(pk)",
                }
            },
            {
                "Update": {
                    "Key": _key(f"PERSON#{sub}", "PERSON"),
                    "UpdateExpression": "ADD used :one",
                    "ConditionExpression": "active = :yes AND attribute_not_exists(held)"
                    " AND attribute_not_exists(deleted_at)"
                    " AND (used < dapp_limit OR (attribute_not_exists(used) AND dapp_limit > :none))",
                    "ExpressionAttributeValues": _row({":one": 1, ":yes": True, ":none": 0}),
                }
            },
        )

    def release_dapp(self, sub: str, dapp: str) -> bool:
        """Give a reserved dapp back. False: it is not reserved."""
        return self._transaction(
            {"Delete": {"Key": _key(f"PERSON#{sub}", f"DAPP#{dapp}"), "ConditionExpression": "attribute_exists(pk)"}},
            {
                "Update": {
                    "Key": _key(f"PERSON#{sub}", "PERSON"),
                    "UpdateExpression": "ADD used :one",
                    "ConditionExpression": "used > :none",
                    "ExpressionAttributeValues": _row({":one": -1, ":none": 0}),
                }
            },
        )

    def has_dapp(self, sub: str, dapp: str) -> bool:
        """Whether the user has reserved this dapp. Strongly consistent."""
        return "Item" in self._call("get_item", Key=_key(f"PERSON#{sub}", f"DAPP#{dapp}"), ConsistentRead=True)

    def dapps(self, sub: str, *, after: str | None, limit: int) -> list[tuple[str, int]]:
        """The user's dapps in the order of their ids, and when each was reserved: the first ones after that id.
        Strongly consistent."""
        answer = self._call(
            "query",
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            # "$" comes right after "#"; a blank before every character of an id.
            ExpressionAttributeValues=_row(
                {":pk": f"PERSON#{sub}", ":first": f"DAPP#{after} " if after else "DAPP#", ":last": "DAPP$"}
            ),
            ConsistentRead=True,
            Limit=limit,
        )
        rows = map(_plain, answer["Items"])
        return [(row["sk"].removeprefix("DAPP#"), int(row["reserved_at"])) for row in rows]

    def erase_dapp(self, sub: str, dapp: str) -> None:
        """Forget a dapp of a user who is deleted."""
        self._call("delete_item", Key=_key(f"PERSON#{sub}", f"DAPP#{dapp}"))

    # -------------------------------------------------------------- deletions

    def tombstone(self, tombstone: str) -> Tombstone | None:
        """The deletion of an address's account. Strongly consistent."""
        answer = self._call("get_item", Key=_key(f"TOMBSTONE#{tombstone}", "TOMBSTONE"), ConsistentRead=True)
        return _tombstone(_plain(answer["Item"])) if "Item" in answer else None

    def deletion(self, tombstone: str) -> Tombstone:
        """The same; LedgerRejected when there is none."""
        found = self.tombstone(tombstone)
        if found is None:
            raise LedgerRejected(f"the ledger has no deletion {tombstone}: was the execution started by hand?")
        return found

    def begin_deletion(
        self, tombstone: str, seen: Tombstone | None, now: int, *, email: str, sub: str | None, requested_by: str
    ) -> Tombstone | None:
        """Take the next attempt to delete an account; None when somebody else took it.

        From here on nothing counts that was bought before. One that failed is taken up where it was; after one that is
        done, a new deletion begins.
        """
        change = "SET #state = :running, attempts = :next, attempt_at = :now, email = :email, requested_by = :by"
        values = {":running": "RUNNING", ":now": now, ":email": email, ":by": requested_by}
        if seen is None or seen.state == "DONE":
            change += ", deleted_at = :now, canceled = :none"
            values[":none"] = 0
        if sub is not None and (seen is None or seen.state == "DONE" or not seen.account_known):
            change += ", #sub = :sub"
            values[":sub"] = sub
        if seen is None or seen.state == "DONE":
            change += " REMOVE parties, account_known, buried, last_error" + ("" if sub is not None else ", #sub")
        return self._next_deletion(tombstone, seen, change, values)

    def retry_deletion(self, seen: Tombstone, now: int) -> Tombstone | None:
        """Take the next attempt of a deletion as it is; None when somebody else took it."""
        change = "SET #state = :running, attempts = :next, attempt_at = :now"
        return self._next_deletion(seen.id, seen, change, {":running": "RUNNING", ":now": now})

    def _next_deletion(
        self, tombstone: str, seen: Tombstone | None, change: str, values: Mapping[str, Any]
    ) -> Tombstone | None:
        row = self._changed(
            _key(f"TOMBSTONE#{tombstone}", "TOMBSTONE"),
            change,
            {**values, ":next": seen.attempts + 1 if seen else 1} | ({":seen": seen.attempts} if seen else {}),
            "attempts = :seen" if seen else "attribute_not_exists(pk)",
            ReturnValues="ALL_NEW",
        )
        return _tombstone(row) if row is not None else None

    def join_deletion(self, tombstone: str, parties: frozenset[str], sub: str | None = None) -> Tombstone:
        """Keep all that belongs to the account. LedgerRejected when there is no such deletion."""
        change, values = "SET account_known = :known", {":known": True, **({":sub": sub} if sub else {})}
        change += ", #sub = :sub" if sub else ""
        if parties:  # a set cannot be empty
            change += " ADD parties :parties"
            values[":parties"] = set(parties)
        return self._joined(tombstone, change, values)

    def join_late(self, tombstone: str, party: str) -> Tombstone:
        """Add a party that has turned up; what else belongs to the account may not be known yet. LedgerRejected when
        there is no such deletion."""
        return self._joined(tombstone, "ADD parties :parties", {":parties": {party}})

    def _joined(self, tombstone: str, change: str, values: Mapping[str, Any]) -> Tombstone:
        key = _key(f"TOMBSTONE#{tombstone}", "TOMBSTONE")
        row = self._changed(key, change, values, "attribute_exists(pk)", ReturnValues="ALL_NEW")
        if row is None:
            raise LedgerRejected(f"the ledger has no deletion {tombstone}: was the execution started by hand?")
        return _tombstone(row)

    def stamp(self, tombstone: str, now: int) -> Tombstone:
        """From this moment on nothing counts that was bought before; LedgerRejected when there is no such deletion."""
        key = _key(f"TOMBSTONE#{tombstone}", "TOMBSTONE")
        row = self._changed(key, "SET deleted_at = :now", {":now": now}, "attribute_exists(pk)", ReturnValues="ALL_NEW")
        if row is None:
            raise LedgerRejected(f"the ledger has no deletion {tombstone}: was the execution started by hand?")
        return _tombstone(row)

    def buried(self, tombstone: str) -> None:
        """All that belongs to the account is buried: the moment of the deletion is what it is."""
        key = _key(f"TOMBSTONE#{tombstone}", "TOMBSTONE")
        self._change(key, "SET buried = :buried", {":buried": True}, "attribute_exists(pk)")

    def count_canceled(self, tombstone: str, subscriptions: int) -> None:
        """Keep how many subscriptions a deletion has canceled."""
        key = _key(f"TOMBSTONE#{tombstone}", "TOMBSTONE")
        self._change(key, "ADD canceled :more", {":more": subscriptions}, "attribute_exists(pk)")

    def close_deletion(self, tombstone: str, parties: frozenset[str], now: int) -> bool:
        """The deletion is done: its address is forgotten. False: more belongs to the account than these parties."""
        return self._change(
            _key(f"TOMBSTONE#{tombstone}", "TOMBSTONE"),
            "SET #state = :done, done_at = :now REMOVE email, last_error",
            {":done": "DONE", ":now": now, **({":parties": set(parties)} if parties else {})},
            "parties = :parties" if parties else "attribute_exists(pk) AND attribute_not_exists(parties)",
        )

    def fail_deletion(self, tombstone: str, *, execution: str, error: str) -> None:
        """The deletion failed, for this reason."""
        self._change(
            _key(f"TOMBSTONE#{tombstone}", "TOMBSTONE"),
            "SET #state = :failed, execution = :execution, last_error = :error",
            {":failed": "FAILED", ":execution": execution, ":error": error, ":done": "DONE"},
            "attribute_exists(pk) AND #state <> :done",
        )

    # -------------------------------------------------------------- reconciliation

    def links(self, parties: Iterable[str]) -> dict[str, Party]:
        """What is known of parties, without their purchases and marks; an unknown one is not in it. Strongly
        consistent."""
        rows = self._batch([_key(f"PARTY#{party}", "PARTY") for party in sorted(set(parties))])
        return {row["pk"].removeprefix("PARTY#"): _party(row["pk"].removeprefix("PARTY#"), row) for row in rows}

    def waiting(self, party: str, now: int) -> bool:
        """Whether an order of the party is run, or will be run again by RunDue: the oldest open ones are looked at."""
        oldest = list(islice(self.open_orders(party, now + 60), _OLDEST))
        return any(row["attempts"] > 0 and row["state"] != "FULFILLED" for row in self.rows(oldest))

    def people(self, subs: Iterable[str]) -> dict[str, Person]:
        """The persons of these users; an unknown one is not in it. Strongly consistent."""
        rows = self._batch([_key(f"PERSON#{sub}", "PERSON") for sub in sorted(set(subs))])
        return {row["pk"].removeprefix("PERSON#"): _person(row) for row in rows}

    def mark_seen(self, subs: Iterable[str], at: int, expires_at: int) -> None:
        """Keep that a search has met these users in the pool at that moment."""
        rows = [{"pk": f"SEEN#{sub}", "sk": "SEEN", "seen_at": at, "expires_at": expires_at} for sub in subs]
        for start in range(0, len(rows), 25):
            left = {self._table: [{"PutRequest": {"Item": _row(row)}} for row in rows[start : start + 25]]}
            for wait in _CONFLICT_WAITS:
                left = self._call("batch_write_item", RequestItems=left).get("UnprocessedItems", {})
                if not left:
                    break
                time.sleep(random.uniform(0, wait))  # noqa: S311 - jitter, no secret
            else:
                raise LedgerThrottled("batch_write_item left rows out again and again")

    def unseen(self, subs: Iterable[str], since: int) -> set[str]:
        """Who of these users was not met by a search that began then, or later. Strongly consistent."""
        asked = set(subs)
        rows = self._batch([_key(f"SEEN#{sub}", "SEEN") for sub in sorted(asked)])
        return asked - {row["pk"].removeprefix("SEEN#") for row in rows if int(row["seen_at"]) >= since}

    def scan_people(
        self, segment: int, of: int, after: Mapping[str, str] | None
    ) -> tuple[list[Person], dict[str, str] | None]:
        """The persons on one page of a parallel scan, and where the next page begins; None after the last one. A page
        may have none."""
        rows, last = self._scanned("PERSON", after, Segment=segment, TotalSegments=of)
        return [_person(row) for row in rows], last

    def some_subscribers(self, most: int) -> list[str]:
        """Any customers who had a subscription, so many at most; none when the first pages of the ledger name none."""
        after: dict[str, str] | None = None
        for _ in range(_PAGES):
            rows, after = self._scanned("PARTY", after)
            found = [row["pk"].removeprefix("PARTY#") for row in rows if row.get("subscribed")]
            if found or after is None:
                return found[:most]
        return []

    def _scanned(
        self, kind: str, after: Mapping[str, str] | None, **more: Any
    ) -> tuple[list[dict[str, Any]], dict[str, str] | None]:
        if after is not None:
            more["ExclusiveStartKey"] = _row(after)
        answer = self._call(
            "scan", FilterExpression="sk = :kind", ExpressionAttributeValues=_row({":kind": kind}), **more
        )
        last = answer.get("LastEvaluatedKey")
        return [_plain(item) for item in answer["Items"]], _plain(last) if last else None

    def add_drift(self, search: str, subject: str, drift: Mapping[str, Any], expires_at: int) -> None:
        """Keep that a search found this person to differ; who is found again is kept once, and a link that is to be
        mended stays."""
        row = {"pk": f"DRIFT#{search}", "sk": subject, "expires_at": expires_at, **drift}
        with contextlib.suppress(_ConditionFailed):
            self._call(
                "put_item",
                Item=_row({name: value for name, value in row.items() if value is not None}),
                ConditionExpression="attribute_not_exists(pk) OR relink = :relink OR relink = :no",
                ExpressionAttributeValues=_row({":relink": drift["relink"], ":no": False}),
            )

    def drifts(self, search: str, after: str | None = None) -> Iterator[dict[str, Any]]:
        """Whom a search found to differ, in the order of their names (`sk`); `after`: only who comes after this one."""
        yield from self._query(
            KeyConditionExpression="pk = :pk AND sk > :after",
            ExpressionAttributeValues=_row({":pk": f"DRIFT#{search}", ":after": after or " "}),
            ConsistentRead=True,
        )

    def write_report(self, search: str, started: int, report: Mapping[str, Any], expires_at: int) -> None:
        """Keep what a search found and did; reports are in the order of time."""
        row = {"pk": "RECONCILIATION", "sk": f"REPORT#{started}#{search}", "expires_at": expires_at, **report}
        self._call("put_item", Item=_row(row))

    def events_known_until(self) -> int | None:
        """Up to when all of Stripe's events are known; None: nobody has looked yet."""
        answer = self._call("get_item", Key=_key("RECONCILIATION", "EVENTS"), ConsistentRead=True)
        return int(_plain(answer["Item"])["until"]) if "Item" in answer else None

    def know_events_until(self, moment: int) -> None:
        """All of Stripe's events up to this moment are known; a later one stays."""
        self._change(
            _key("RECONCILIATION", "EVENTS"),
            "SET #until = :until",
            {":until": moment},
            "attribute_not_exists(#until) OR #until < :until",
        )

    # -------------------------------------------------------------- leases

    @contextlib.contextmanager
    def lease(self, subject: str, owner: str, now: int) -> Iterator[None]:
        """Hold the only right to write to this person (sub) or party; PersonBusy when somebody else holds it.

        `owner` is one invocation, not one execution: if Step Functions starts a second invocation of the same task
        while the first still lives, the two must exclude each other as well. A holder that is killed, or whose write
        got no answer and may still arrive, keeps the lease until it expires; we compare the time ourselves
        (DynamoDB's TTL deletes hours later).
        """
        self.acquire(subject, owner, now)
        try:
            yield
        except GatewayError as error:
            if not isinstance(error, CognitoUnavailable | LedgerUnavailable):
                self.release(subject, owner)
            raise
        self.release(subject, owner)

    def acquire(self, subject: str, owner: str, now: int) -> None:
        """Take the lease, or PersonBusy."""
        try:
            self._call(
                "put_item",
                Item=_row(
                    {
                        "pk": f"LEASE#{subject}",
                        "sk": "LEASE",
                        "owner": owner,
                        "expires_at": now + LEASE_SECONDS,
                    }
                ),
                ConditionExpression="attribute_not_exists(pk) OR expires_at <= :now OR #owner = :owner",
                ExpressionAttributeNames={"#owner": "owner"},
                ExpressionAttributeValues=_row({":now": now, ":owner": owner}),
            )
        except _ConditionFailed:
            raise PersonBusy(
                f"another run is writing to this person; it is done or its lease expires within {LEASE_SECONDS} s"
            ) from None

    def release(self, subject: str, owner: str) -> None:
        """Give the lease back; somebody else's stays."""
        try:
            self._call(
                "delete_item",
                Key=_key(f"LEASE#{subject}", "LEASE"),
                ConditionExpression="#owner = :owner",
                ExpressionAttributeNames={"#owner": "owner"},
                ExpressionAttributeValues=_row({":owner": owner}),
            )
        except _ConditionFailed:
            return

    # -------------------------------------------------------------- the one way to DynamoDB

    def _change(
        self,
        key: dict[str, Any],
        change: str,
        values: Mapping[str, Any],
        condition: str | None = None,
    ) -> bool:
        """UpdateItem; False when the condition does not hold."""
        return self._changed(key, change, values, condition) is not None

    def _changed(
        self,
        key: dict[str, Any],
        change: str,
        values: Mapping[str, Any],
        condition: str | None = None,
        **more: Any,
    ) -> dict[str, Any] | None:
        """UpdateItem; the row if `more` asks for it, None when the condition does not hold."""
        used = f"{change} {condition or ''}"
        names = {f"#{name}": name for name in _RESERVED if f"#{name}" in used}
        request: dict[str, Any] = {"Key": key, "UpdateExpression": change, **more}
        if values:
            request["ExpressionAttributeValues"] = _row(values)
        if names:
            request["ExpressionAttributeNames"] = names
        if condition:
            request["ConditionExpression"] = condition
        try:
            return _plain(self._call("update_item", **request).get("Attributes", {}))
        except _ConditionFailed:
            return None

    def _transaction(self, *writes: dict[str, dict[str, Any]]) -> bool:
        """All of these writes or none; False when a condition does not hold."""
        items = [{kind: {**write, "TableName": self._table} for kind, write in each.items()} for each in writes]
        try:
            self._call("transact_write_items", TransactItems=items)
        except _ConditionFailed:
            return False
        return True

    def _batch(self, keys: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The rows with these keys, in any order, a hundred at a time."""
        for start in range(0, len(keys), 100):
            wanted = {self._table: {"Keys": keys[start : start + 100], "ConsistentRead": True}}
            while wanted:
                answer = self._call("batch_get_item", RequestItems=wanted)
                found = answer["Responses"].get(self._table, [])
                wanted = answer.get("UnprocessedKeys", {})
                if wanted and not found:
                    raise LedgerThrottled("batch_get_item answered nothing of what was asked for")
                yield from (_plain(item) for item in found)

    def _query(self, **request: Any) -> Iterator[dict[str, Any]]:
        """All rows of a query, a page at a time."""
        start: dict[str, Any] = {}
        while True:
            answer = self._call("query", **request, **start)
            yield from (_plain(item) for item in answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def _call(self, operation: str, **request: Any) -> dict[str, Any]:
        if operation not in ("batch_get_item", "batch_write_item", "transact_write_items"):
            request["TableName"] = self._table
        for wait in _CONFLICT_WAITS:
            try:
                return self._once(operation, request)
            except _Conflict:  # with a transaction, which is a reservation of a dapp
                time.sleep(random.uniform(0, wait))  # noqa: S311 - jitter, no secret
        try:
            return self._once(operation, request)
        except _Conflict:
            raise LedgerThrottled(f"{operation} came upon one transaction after another") from None

    def _once(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**request)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code == "ConditionalCheckFailedException":
                row: Any = error.response.get("Item", {})
                raise _ConditionFailed(_plain(row)) from None
            if code == "TransactionConflictException":
                raise _Conflict from None
            if code == "TransactionCanceledException":
                reasons = {each.get("Code") for each in error.response.get("CancellationReasons", [])}
                if "ConditionalCheckFailed" in reasons:
                    raise _ConditionFailed({}) from None
                if "ValidationError" not in reasons:
                    raise LedgerThrottled(f"{operation} was canceled by a conflict or throttling") from None
            raise _translated(error, operation) from None
        except BotoCoreError as error:
            raise _translated(error, operation) from None
        return answer


class _ConditionFailed(Exception):
    """The row is not as the caller expected; `row` is how it is, where DynamoDB says."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__()
        self.row = row


class _Conflict(Exception):
    """Somebody's transaction is writing to the same row."""


# Attribute names of ours that are words of DynamoDB's expression language.
_RESERVED = ("state", "rank", "status", "before", "after", "items", "sub", "name", "until")

# What an order says of a person.
_PERSONAL = "email, #name, metadata"


def _translated(error: ClientError | BotoCoreError, operation: str) -> Exception:
    return aws.translated(
        error,
        f"DynamoDB {operation}",
        throttled=LedgerThrottled,
        unavailable=LedgerUnavailable,
        rejected=LedgerRejected,
    )


def attempt_of(row: Mapping[str, Any]) -> Attempt:
    """The run that an order's row tells of."""
    return Attempt(
        row["event_id"],
        row["order_id"],
        row.get("customer_id"),
        int(row["attempts"]),
        row["state"],
        int(row["attempt_at"]),
    )


def _party(party: str, row: Mapping[str, Any]) -> Party:
    """Without its purchases and marks; an empty row is a party of which nothing is known."""
    return Party(
        party,
        row.get("sub"),
        row.get("email"),
        row.get("claimed_email"),
        row.get("subscribed", False),
        deleted_at=_whole(row.get("deleted_at")),
        deleting=row.get("deleting", False),
        tombstone=row.get("tombstone"),
    )


def _person(row: Mapping[str, Any]) -> Person:
    before = row.get("before_adoption")
    told = row.get("told", before)  # None: that the user is going
    return Person(
        row["pk"].removeprefix("PERSON#"),
        frozenset(row.get("parties", ())),
        {name: int(units) for name, units in row.get("granted", {}).items()},
        Before(int(before["dapp_limit"]), before["payment_status"]) if before else None,
        _whole(row.get("recheck_at")),
        _invitation(row.get("invitation")),
        {**told, "dapp_limit": int(told["dapp_limit"])} if told else None,
        int(row.get("tellings", 0)),
        row.get("telling"),
        row.get("last_change"),
        row.get("held"),
        _whole(row.get("deleted_at")),
        row.get("erased", False),
        Live(row.get("active", False), int(row.get("dapp_limit", 0))),
        int(row.get("used", 0)),
        int(row.get("signed_out_at", 0)),
    )


def _tombstone(row: Mapping[str, Any]) -> Tombstone:
    return Tombstone(
        row["pk"].removeprefix("TOMBSTONE#"),
        int(row["deleted_at"]),
        row["state"],
        int(row["attempts"]),
        int(row["attempt_at"]),
        row.get("email"),
        row.get("sub"),
        frozenset(row.get("parties", ())),
        row.get("account_known", False),
        row.get("buried", False),
        int(row.get("canceled", 0)),
        row.get("last_error"),
    )


def _invitation(kept: Mapping[str, Any] | None) -> Invitation:
    if kept is None:
        return Invitation()
    return Invitation(int(kept["sent_at"]), int(kept["resent"]), kept["paid_by"], _whole(kept["retry_at"]))


def _order_item(item: Mapping[str, Any]) -> OrderItem:
    return OrderItem(item["price"], _whole(item["quantity"]))


def _shard(name: str) -> str:
    return f"DUE#{zlib.crc32(name.encode()) % DUE_SHARDS}"


def _key(pk: str, sk: str) -> dict[str, Any]:
    return _row({"pk": pk, "sk": sk})


def _row(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _to_dynamo(value) for name, value in values.items()}


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _from_dynamo(value) for name, value in item.items()}


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
