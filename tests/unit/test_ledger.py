"""gateway.ledger: the table of template.yaml, written and read as the functions do."""

import inspect
import json
import random
import string
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError, ConnectTimeoutError

from gateway import events
from gateway.access import Before, Invitation, Live
from gateway.errors import (
    CognitoRejected,
    CognitoThrottled,
    CognitoUnavailable,
    GatewayError,
    LedgerRejected,
    LedgerThrottled,
    LedgerUnavailable,
    MailLimitReached,
    PersonBusy,
)
from gateway.events import Mark, Order, OrderItem, Purchase
from gateway.ledger import (
    ATTEMPT_SECONDS,
    DUE_SHARDS,
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    Attempt,
    Change,
    DuePerson,
    Ledger,
    Party,
    Person,
    Received,
    Tombstone,
    retry_delay,
)

NOW = 1_790_000_000
ENDING = {"execution": "arn:run", "outcome": "enabled", "reason": "sub_1 active"}
STANDS = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
BAN = {"reason": "spam", "requested_by": "jo", "at": NOW}

ORDER = Order(
    event_id="evt_1",
    event_type="invoice.paid",
    livemode=False,
    order_id="in_1",
    customer_id="cus_1",
    email="payer@example.com",
    name=None,
    amount=2000,
    currency="usd",
    charge=None,
    items=(OrderItem("price_1", 2), OrderItem("price_2", None)),
    metadata={"plan": "big"},
    status="paid",
    updated=NOW - 5,
)
GUEST = replace(ORDER, order_id="or_1", customer_id=None)
FIRST = Attempt("evt_1", "in_1", "cus_1", 1, "RECEIVED", NOW)


@pytest.fixture
def ledger(dynamodb: Any) -> Ledger:
    return Ledger(dynamodb, "orders")


@pytest.fixture
def row(dynamodb: Any) -> Callable[[str, str], dict[str, Any]]:
    """A row as it is in the table."""

    def read(pk: str, sk: str) -> dict[str, Any]:
        key = {"pk": {"S": pk}, "sk": {"S": sk}}
        item = dynamodb.get_item(TableName="orders", Key=key, ConsistentRead=True).get("Item", {})
        return {name: TypeDeserializer().deserialize(value) for name, value in item.items()}

    return read


@pytest.fixture
def order_row(row: Callable[[str, str], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    return lambda: row("ORDER#evt_1", "ORDER")


def order(number: int, **changed: Any) -> Order:
    return replace(ORDER, **{"event_id": f"evt_{number}", **changed})


def purchased(status: str, version: int, *items: OrderItem, **changed: Any) -> Order:
    return replace(GUEST, purchase=Purchase("or_1", status, version, items), **changed)


def all_due(ledger: Ledger, now: int) -> list[Attempt | DuePerson]:
    return [each for shard in range(DUE_SHARDS) for each in ledger.due(shard, now)]


class InPagesOfTwo:
    """A client whose queries answer two rows at a time."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.pages = 0

    def query(self, **request: Any) -> Any:
        self.pages += 1
        return self._client.query(**request, Limit=2)


class Broken:
    """A client whose every operation fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def fail(**request: Any) -> Any:
            raise self._error

        return fail


def answer(code: str, status: int = 400, *reasons: str) -> ClientError:
    text = "payer@example.com"
    response: Any = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    if reasons:
        response["CancellationReasons"] = [{"Code": each, "Message": text} for each in reasons]
    return ClientError(response, "Operation")


class TestRecord:
    def test_keeps_the_order_as_its_first_attempt(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        assert ledger.record(ORDER, NOW) is None
        found = order_row()
        assert found.pop("due").startswith("DUE#")
        assert found == {
            "pk": "ORDER#evt_1",
            "sk": "ORDER",
            "event_id": "evt_1",
            "event_type": "invoice.paid",
            "livemode": False,
            "order_id": "in_1",
            "customer_id": "cus_1",
            "party": "cus_1",
            "email": "payer@example.com",
            "amount": 2000,
            "currency": "usd",
            "items": [{"price": "price_1", "quantity": 2}, {"price": "price_2", "quantity": None}],
            "metadata": {"plan": "big"},
            "status": "paid",
            "status_when_done": "fulfilled",
            "updated": NOW - 5,
            "received_at": NOW,
            "rank": f"OPEN#{NOW}#evt_1",
            "state": "RECEIVED",
            "attempts": 1,
            "attempt_at": NOW,
            "due_at": NOW + ATTEMPT_SECONDS,
        }

    def test_of_a_redelivery_answers_what_is_known_and_changes_nothing(
        self, ledger: Ledger, order_row: Callable[[], Any]
    ) -> None:
        ledger.record(ORDER, NOW)
        before = order_row()
        assert ledger.record(replace(ORDER, amount=1, order_id="in_2"), NOW + 60) == FIRST
        assert order_row() == before

    def test_of_a_guest_answers_no_customer(self, ledger: Ledger) -> None:
        ledger.record(GUEST, NOW)
        known = ledger.record(GUEST, NOW)
        assert known is not None
        assert (known.order_id, known.customer_id) == ("or_1", None)

    def test_of_an_unusable_event_is_found_by_operators_and_never_run(
        self, ledger: Ledger, order_row: Callable[[], Any]
    ) -> None:
        assert ledger.record(ORDER, NOW, problem="UnusableEvent: no") is None
        found = order_row()
        assert (found["state"], found["attempts"], found["last_error"]) == ("UNFULFILLED", 0, "UnusableEvent: no")
        assert all_due(ledger, NOW + 10**6) == []

    @pytest.mark.parametrize(
        ("status", "when_done"), [("paid", "fulfilled"), ("canceled", "canceled"), ("returned",) * 2]
    )
    def test_knows_the_status_that_the_order_will_end_with(
        self, ledger: Ledger, order_row: Callable[[], Any], status: Any, when_done: str
    ) -> None:
        ledger.record(replace(ORDER, status=status), NOW)
        assert order_row()["status"] == status
        ledger.close("evt_1", NOW, **ENDING)
        assert order_row()["status"] == when_done


class TestAttempt:
    @pytest.mark.parametrize(("number", "name"), [(0, "evt_1"), (1, "evt_1"), (2, "evt_1-r2"), (14, "evt_1-r14")])
    def test_names_its_execution(self, number: int, name: str) -> None:
        assert replace(FIRST, number=number).execution_name == name

    @pytest.mark.parametrize(
        ("state", "age", "over"),
        [
            ("RECEIVED", 0, False),
            ("RECEIVED", ATTEMPT_SECONDS - 1, False),
            ("RECEIVED", ATTEMPT_SECONDS, True),
            ("UNFULFILLED", 0, True),
            ("FULFILLED", 0, True),
        ],
    )
    def test_is_over_when_it_ended_or_cannot_run_any_more(self, state: str, age: int, over: bool) -> None:
        assert replace(FIRST, state=state).over(NOW + age) is over

    def test_lasts_longer_than_its_execution_may(self, resources: dict[str, Any]) -> None:
        definition = resources["FulfillmentStateMachine"]["DefinitionUri"]
        machine = json.loads((Path(__file__).parents[2] / definition).read_text(encoding="utf-8"))
        assert machine["TimeoutSeconds"] < ATTEMPT_SECONDS

    def test_the_next_one_goes_to_one_of_two_starters(self, ledger: Ledger) -> None:
        ledger.record(ORDER, NOW)
        second = replace(FIRST, number=2, at=NOW + 900)
        assert ledger.next_attempt(FIRST, NOW + 900) == second
        assert ledger.next_attempt(FIRST, NOW + 900) is None
        assert ledger.record(ORDER, NOW + 901) == second

    def test_the_next_one_is_due_when_it_ends_without_a_word(self, ledger: Ledger) -> None:
        ledger.record(ORDER, NOW)
        ledger.fail("evt_1", execution="arn:run", error="no", retry_at=NOW + 300)
        second = ledger.next_attempt(FIRST, NOW + 60)
        assert all_due(ledger, NOW + 60 + ATTEMPT_SECONDS - 1) == []
        assert all_due(ledger, NOW + 60 + ATTEMPT_SECONDS) == [second]

    def test_there_is_none_after_the_order_is_fulfilled(self, ledger: Ledger) -> None:
        ledger.record(ORDER, NOW)
        ledger.close("evt_1", NOW, **ENDING)
        assert ledger.next_attempt(FIRST, NOW + 900) is None

    def test_there_is_none_of_an_unknown_order(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        assert ledger.next_attempt(FIRST, NOW) is None
        assert order_row() == {}


class TestClose:
    def test_keeps_how_the_order_ended(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        ledger.record(ORDER, NOW)
        ledger.fail("evt_1", execution="arn:old", error="PersonBusy: later", retry_at=NOW + 60)
        assert ledger.close("evt_1", NOW + 9, **ENDING, before=None, after=STANDS) is True
        found = order_row()
        expected = {
            **ENDING,
            "state": "FULFILLED",
            "status": "fulfilled",
            "rank": f"DONE#{NOW + 9}#evt_1",
            "before": None,
            "after": STANDS,
            "fulfilled_at": NOW + 9,
        }
        assert found.items() >= expected.items()
        assert not found.keys() & {"due", "due_at", "last_error"}

    def test_happens_once(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        ledger.record(ORDER, NOW)
        ledger.close("evt_1", NOW, **ENDING)
        before = order_row()
        assert ledger.close("evt_1", NOW + 1, **{**ENDING, "outcome": "disabled"}) is False
        assert order_row() == before

    def test_of_an_unknown_order_makes_none(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        assert ledger.close("evt_1", NOW, **ENDING) is False
        assert order_row() == {}


class TestFail:
    def test_leaves_the_order_open_and_due_with_its_reason(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        ledger.record(ORDER, NOW)
        assert ledger.fail("evt_1", execution="arn:run", error="StripeThrottled: 429", retry_at=NOW + 300) is True
        found = order_row()
        assert (found["state"], found["execution"], found["last_error"]) == (
            "UNFULFILLED",
            "arn:run",
            "StripeThrottled: 429",
        )
        assert found["rank"] == f"OPEN#{NOW}#evt_1"
        assert all_due(ledger, NOW + 299) == []
        assert all_due(ledger, NOW + 300) == [replace(FIRST, state="UNFULFILLED")]

    def test_of_a_fulfilled_order_changes_nothing(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        ledger.record(ORDER, NOW)
        ledger.close("evt_1", NOW, **ENDING)
        before = order_row()
        assert ledger.fail("evt_1", execution="arn:late", error="no", retry_at=NOW) is False
        assert order_row() == before

    def test_of_an_unknown_order_makes_none(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        assert ledger.fail("evt_1", execution="arn:run", error="no", retry_at=NOW) is False
        assert order_row() == {}

    @pytest.mark.parametrize(
        ("attempt", "delay"),
        [
            (1, 300),
            (2, 600),
            (3, 1200),
            (7, 19_200),
            (8, 21_600),
            (MAX_ATTEMPTS - 1, 21_600),
            (MAX_ATTEMPTS, 86_400),
            (99, 86_400),
        ],
    )
    def test_waits_twice_as_long_each_time_up_to_six_hours_and_then_a_day(self, attempt: int, delay: int) -> None:
        assert retry_delay(attempt, 300) == delay

    def test_raises_the_alarm_after_about_two_days(self) -> None:
        delays = [retry_delay(attempt, 300) for attempt in range(1, MAX_ATTEMPTS)]
        assert 1.5 * 86_400 < sum(delays) < 2.5 * 86_400


class TestOpenOrders:
    def test_are_the_partys_own_that_were_recorded_before_oldest_first(self, ledger: Ledger) -> None:
        for number, at in ((3, NOW - 30), (1, NOW - 10), (2, NOW - 20), (4, NOW), (5, NOW + 10)):
            ledger.record(order(number), at)
        ledger.record(order(6, customer_id="cus_2"), NOW - 30)
        assert list(ledger.open_orders("cus_1", NOW)) == ["evt_3", "evt_2", "evt_1"]

    def test_are_not_the_fulfilled_ones_but_the_failed_ones(self, ledger: Ledger) -> None:
        for number in (1, 2, 3):
            ledger.record(order(number), NOW - number)
        ledger.close("evt_1", NOW, **ENDING)
        ledger.fail("evt_2", execution="arn:run", error="no", retry_at=NOW + 300)
        assert list(ledger.open_orders("cus_1", NOW)) == ["evt_3", "evt_2"]

    def test_are_all_found_however_many_pages_there_are(self, ledger: Ledger, dynamodb: Any) -> None:
        for number in range(5):
            ledger.record(order(number), NOW - 10 + number)
        client = InPagesOfTwo(dynamodb)
        assert list(Ledger(client, "orders").open_orders("cus_1", NOW)) == [f"evt_{number}" for number in range(5)]
        assert client.pages == 3

    def test_are_read_a_page_at_a_time(self, ledger: Ledger, dynamodb: Any) -> None:
        for number in range(5):
            ledger.record(order(number), NOW - 10 + number)
        client = InPagesOfTwo(dynamodb)
        assert next(Ledger(client, "orders").open_orders("cus_1", NOW)) == "evt_0"
        assert client.pages == 1

    def test_of_an_unknown_party_are_none(self, ledger: Ledger) -> None:
        assert list(ledger.open_orders("cus_1", NOW)) == []

    @pytest.mark.parametrize(
        ("index", "key", "value"), [("ByEmail", "email", "payer@example.com"), ("ByParty", "party", "cus_1")]
    )
    def test_come_before_the_fulfilled_ones_for_an_operator(
        self, ledger: Ledger, dynamodb: Any, index: str, key: str, value: str
    ) -> None:
        ledger.record(order(1), NOW)
        ledger.record(order(2), NOW + 1)
        ledger.close("evt_1", NOW + 2, **ENDING)
        answered = dynamodb.query(
            TableName="orders",
            IndexName=index,
            KeyConditionExpression=f"{key} = :value",
            ExpressionAttributeValues={":value": {"S": value}},
            ScanIndexForward=False,
        )
        assert [each["pk"]["S"] for each in answered["Items"]] == ["ORDER#evt_2", "ORDER#evt_1"]


class TestReceived:
    """What a run may ask of its order."""

    @pytest.mark.parametrize("charge", ["ch_1", None])
    def test_is_its_type_and_the_charge_it_names(self, ledger: Ledger, charge: str | None) -> None:
        ledger.record(replace(ORDER, event_type="charge.refunded", charge=charge), NOW)
        assert ledger.received("evt_1") == Received("charge.refunded", charge)

    def test_stays_what_it_was_when_the_order_is_done(self, ledger: Ledger) -> None:
        ledger.record(ORDER, NOW)
        ledger.close("evt_1", NOW, **ENDING)
        assert ledger.received("evt_1") == Received("invoice.paid", None)

    def test_of_an_unknown_event_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerRejected, match="no order evt_1: was the execution started by hand"):
            ledger.received("evt_1")


class TestAssign:
    """The order of a charge becomes its payer's, once Stripe has told who that is."""

    DISPUTE = replace(ORDER, event_type="charge.dispute.created", order_id="du_1", customer_id=None, charge="ch_1")

    def test_gives_the_order_to_the_payer(self, ledger: Ledger) -> None:
        ledger.record(self.DISPUTE, NOW)
        ledger.assign("evt_1", "cus_1", NOW + 1)
        assert list(ledger.open_orders("du_1", NOW + 60)) == []
        assert list(ledger.open_orders("cus_1", NOW + 60)) == ["evt_1"]

    def test_counts_as_recorded_then(self, ledger: Ledger) -> None:
        """No run that read the payer before may close it."""
        ledger.record(self.DISPUTE, NOW)
        ledger.assign("evt_1", "cus_1", NOW + 30)
        assert list(ledger.open_orders("cus_1", NOW + 30)) == []
        assert list(ledger.open_orders("cus_1", NOW + 31)) == ["evt_1"]

    def test_changes_nothing_else(self, ledger: Ledger, order_row: Callable[[], dict[str, Any]]) -> None:
        ledger.record(self.DISPUTE, NOW)
        before = order_row()
        ledger.assign("evt_1", "cus_1", NOW + 30)
        assert order_row() == before | {"party": "cus_1", "rank": f"OPEN#{NOW + 30}#evt_1"}

    def test_of_a_failed_order_leaves_it_due(self, ledger: Ledger) -> None:
        ledger.record(self.DISPUTE, NOW)
        ledger.fail("evt_1", execution="arn:run", error="no", retry_at=NOW + 300)
        ledger.assign("evt_1", "cus_1", NOW + 30)
        (attempt,) = all_due(ledger, NOW + 300)
        assert attempt == Attempt("evt_1", "du_1", None, 1, "UNFULFILLED", NOW)  # the input of a run never changes

    def test_of_a_fulfilled_order_changes_nothing(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        ledger.record(self.DISPUTE, NOW)
        ledger.close("evt_1", NOW, **ENDING)
        before = order_row()
        ledger.assign("evt_1", "cus_1", NOW + 1)
        assert order_row() == before

    def test_of_an_unknown_order_makes_none(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        ledger.assign("evt_1", "cus_1", NOW)
        assert order_row() == {}


class TestDue:
    def test_is_everything_whose_time_has_come_and_once(self, ledger: Ledger) -> None:
        for number in range(40):
            ledger.record(order(number), NOW + number)
        due = all_due(ledger, NOW + ATTEMPT_SECONDS + 19)
        assert sorted(each.at for each in due if isinstance(each, Attempt)) == [NOW + n for n in range(20)]

    def test_comes_longest_due_first(self, ledger: Ledger) -> None:
        for number in range(40):
            ledger.record(order(number), NOW - number)
        for shard in range(DUE_SHARDS):
            moments = [each.at for each in ledger.due(shard, NOW * 2) if isinstance(each, Attempt)]
            assert moments == sorted(moments)
            assert moments  # the keys are spread

    def test_is_found_however_many_pages_there_are(self, ledger: Ledger, dynamodb: Any) -> None:
        for number in range(40):
            ledger.record(order(number), NOW)
        assert len(all_due(Ledger(InPagesOfTwo(dynamodb), "orders"), NOW * 2)) == 40

    def test_may_be_a_person(self, ledger: Ledger) -> None:
        ledger.link(["cus_2", "cus_1"], "u-1", replacing=None)
        settle(ledger, NOW + 60)
        assert all_due(ledger, NOW + 59) == []
        assert all_due(ledger, NOW + 60) == [DuePerson("u-1", "cus_1", NOW + 60)]


class TestOldestOpen:
    def test_is_none_where_nothing_is_open(self, ledger: Ledger) -> None:
        ledger.record(order(1), NOW)
        ledger.close("evt_1", NOW, execution="arn:run", outcome="enabled", reason="sub_1 active")
        ledger.record(order(2), NOW, problem="UnusableEvent: no id")
        ledger.link(["cus_1"], "u-1", replacing=None)
        settle(ledger, NOW)
        assert ledger.oldest_open(NOW) is None

    def test_is_the_first_that_was_received_however_late_it_is_due(self, ledger: Ledger) -> None:
        for number in range(40):
            ledger.record(order(number), NOW - number)
        ledger.fail("evt_39", execution="arn:run", error="StripeThrottled: 429", retry_at=NOW + 86_400)
        assert ledger.oldest_open(NOW) == (NOW - 39, "evt_39")

    def test_is_found_however_many_pages_there_are(self, ledger: Ledger, dynamodb: Any) -> None:
        for number in range(40):
            ledger.record(order(number), NOW - number)
        assert Ledger(InPagesOfTwo(dynamodb), "orders").oldest_open(NOW) == (NOW - 39, "evt_39")

    def test_is_not_looked_for_among_more_rows_than_that(
        self, ledger: Ledger, dynamodb: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.ledger._WAITING", 1)
        for number in range(40):
            ledger.record(order(number), NOW + number)
        pages = InPagesOfTwo(dynamodb)
        assert Ledger(pages, "orders").oldest_open(NOW) == (NOW, "evt_0")
        assert pages.pages == DUE_SHARDS


class TestParty:
    def test_that_is_unknown_is_empty(self, ledger: Ledger) -> None:
        assert ledger.party("cus_1") == Party("cus_1")

    def test_is_all_that_was_learnt(self, ledger: Ledger) -> None:
        ledger.note_party("cus_1", email="payer@example.com", subscribed=True)
        ledger.claim_email("cus_1", "claimed@example.com")
        ledger.link(["cus_1"], "u-1", replacing=None)
        purchase = Purchase("cs_1", "session", 0, ())
        ledger.remember_purchase(replace(ORDER, email="typed@example.com", purchase=purchase))
        assert ledger.party("cus_1") == Party(
            "cus_1", "u-1", "payer@example.com", "claimed@example.com", True, (purchase,)
        )

    def test_is_read_from_all_pages(self, ledger: Ledger, dynamodb: Any) -> None:
        for number in range(5):
            purchase = Purchase(f"cs_{number}", "session", 0, ())
            ledger.remember_purchase(replace(ORDER, purchase=purchase))
        assert len(Ledger(InPagesOfTwo(dynamodb), "orders").party("cus_1").purchases) == 5

    @pytest.mark.parametrize(
        ("email", "subscribed"), [("new@example.com", True), (None, True), ("old@example.com", False), (None, False)]
    )
    def test_is_as_noted_last(self, ledger: Ledger, email: str | None, subscribed: bool) -> None:
        ledger.claim_email("cus_1", "claimed@example.com")
        ledger.note_party("cus_1", email="old@example.com", subscribed=True)
        ledger.note_party("cus_1", email=email, subscribed=subscribed)
        assert ledger.party("cus_1") == Party("cus_1", None, email, "claimed@example.com", subscribed)

    def test_claims_the_address_of_the_last_try(self, ledger: Ledger) -> None:
        ledger.claim_email("cus_1", "old@example.com")
        ledger.claim_email("cus_1", "new@example.com")
        assert ledger.party("cus_1") == Party("cus_1", claimed_email="new@example.com")

    def test_is_found_by_e_mail(self, ledger: Ledger, dynamodb: Any) -> None:
        ledger.note_party("cus_1", email="payer@example.com", subscribed=True)
        ledger.remember_purchase(purchased("paid", 1))
        answered = dynamodb.query(
            TableName="orders",
            IndexName="ByEmail",
            KeyConditionExpression="email = :value",
            ExpressionAttributeValues={":value": {"S": "payer@example.com"}},
        )
        assert {each["pk"]["S"] for each in answered["Items"]} == {"PARTY#cus_1", "PARTY#or_1"}


class TestPurchase:
    ITEM = OrderItem("sku_1", 2)

    def test_of_an_order_without_one_is_not_kept(self, ledger: Ledger) -> None:
        ledger.remember_purchase(ORDER)
        assert ledger.party("cus_1") == Party("cus_1")

    def test_is_kept_with_its_items_and_address(self, ledger: Ledger) -> None:
        ledger.remember_purchase(purchased("paid", 11, self.ITEM, OrderItem("sku_2", None)))
        assert ledger.party("or_1") == Party(
            "or_1",
            email="payer@example.com",
            purchases=(Purchase("or_1", "paid", 11, (self.ITEM, OrderItem("sku_2", None))),),
        )

    @pytest.mark.parametrize(
        ("versions", "status"),
        [
            ([("paid", 11), ("canceled", 22)], "canceled"),
            ([("canceled", 22), ("paid", 11)], "canceled"),
            ([("paid", 11), ("paid", 11)], "paid"),
            ([("returned", 13), ("canceled", 12), ("paid", 11)], "returned"),
            ([("paid", 11), ("returned", 13), ("canceled", 12)], "returned"),
            ([("canceled", 12), ("paid", 21)], "paid"),
        ],
    )
    def test_is_the_highest_version_in_whatever_order_they_come(
        self, ledger: Ledger, versions: list[tuple[str, int]], status: str
    ) -> None:
        for each in versions:
            ledger.remember_purchase(purchased(*each, self.ITEM))
        assert [each.status for each in ledger.party("or_1").purchases] == [status]

    def test_of_the_same_moment_is_returned_before_canceled_before_paid(self, ledger: Ledger) -> None:
        content = {"id": "or_1", "email": "payer@example.com", "items": [], "updated": NOW}
        for status in ("returned", "paid", "canceled", "created", "fulfilled"):
            found = events.order(events.Envelope("evt_1", "order.updated", False, None, {**content, "status": status}))
            assert found is not None
            ledger.remember_purchase(found)
        assert [each.status for each in ledger.party("or_1").purchases] == ["returned"]

    def test_that_is_older_changes_nothing(self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]) -> None:
        ledger.remember_purchase(purchased("canceled", 22, self.ITEM))
        before = row("PARTY#or_1", "PURCHASE#or_1")
        ledger.remember_purchase(purchased("paid", 11, OrderItem("sku_2", 9), email="late@example.com"))
        assert row("PARTY#or_1", "PURCHASE#or_1") == before

    def test_that_is_returned_keeps_items_and_address_of_its_order(self, ledger: Ledger) -> None:
        ledger.remember_purchase(purchased("paid", 11, self.ITEM))
        ledger.remember_purchase(purchased("returned", 23, email=None))
        assert ledger.party("or_1") == Party(
            "or_1", email="payer@example.com", purchases=(Purchase("or_1", "returned", 23, (self.ITEM,)),)
        )

    def test_may_be_returned_before_its_order_arrives(self, ledger: Ledger) -> None:
        ledger.remember_purchase(purchased("returned", 23, email=None))
        assert ledger.party("or_1").purchases == (Purchase("or_1", "returned", 23, ()),)


class TestMark:
    MARKS = (
        Mark("ch_1", "refund", "ch_1", "sub_1", NOW + 60),
        Mark("du_1", "dispute", "ch_2", "cs_1", None),
        Mark("issfr_1", "fraud_warning", "ch_3", None, None),
    )

    def test_is_kept_with_the_party_whose_charge_it_is_on(self, ledger: Ledger) -> None:
        for mark in self.MARKS:
            ledger.remember_mark("cus_1", mark)
        assert ledger.party("cus_1") == Party("cus_1", marks=self.MARKS)
        assert ledger.party("cus_2") == Party("cus_2")

    def test_is_kept_once_however_often_it_is_told(
        self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]
    ) -> None:
        for _ in range(3):
            ledger.remember_mark("cus_1", self.MARKS[0])
        assert ledger.party("cus_1").marks == self.MARKS[:1]
        assert row("PARTY#cus_1", "MARK#ch_1") == {
            "pk": "PARTY#cus_1",
            "sk": "MARK#ch_1",
            "mark": "ch_1",
            "kind": "refund",
            "charge": "ch_1",
            "pays": "sub_1",
            "until": NOW + 60,
            "of_party": "cus_1",
            "rank": "PARTY",
        }

    def test_lies_beside_purchases_and_all_else(self, ledger: Ledger) -> None:
        ledger.note_party("cus_1", email="payer@example.com", subscribed=True)
        purchase = Purchase("cs_1", "session", 0, ())
        ledger.remember_purchase(replace(ORDER, purchase=purchase))
        ledger.remember_mark("cus_1", self.MARKS[1])
        assert ledger.party("cus_1") == Party(
            "cus_1", None, "payer@example.com", None, True, (purchase,), self.MARKS[1:2]
        )

    def test_may_be_a_guests(self, ledger: Ledger) -> None:
        ledger.remember_purchase(purchased("paid", 11, OrderItem("sku_1", 1)))
        ledger.remember_mark("or_1", self.MARKS[1])
        found = ledger.party("or_1")
        assert ([each.id for each in found.purchases], found.marks) == (["or_1"], self.MARKS[1:2])


class TestPerson:
    def test_that_is_unknown_is_none(self, ledger: Ledger) -> None:
        assert ledger.person("u-1") is None

    def test_is_linked_with_all_parties_or_none(self, ledger: Ledger) -> None:
        ledger.link(["cus_2"], "u-other", replacing=None)
        assert ledger.link(["cus_1", "cus_2", "cus_3"], "u-1", replacing=None) is False
        assert ledger.person("u-1") is None
        assert [ledger.party(each).sub for each in ("cus_1", "cus_2", "cus_3")] == [None, "u-other", None]

    def test_gains_parties_and_loses_none(self, ledger: Ledger) -> None:
        assert ledger.link(["cus_1"], "u-1", replacing=None) is True
        assert ledger.link(["cus_2", "or_1"], "u-1", replacing=None) is True
        assert ledger.person("u-1") == Person("u-1", frozenset({"cus_1", "cus_2", "or_1"}))
        assert ledger.party("or_1").sub == "u-1"

    def test_is_linked_again_without_harm(self, ledger: Ledger) -> None:
        for _ in range(2):
            assert ledger.link(["cus_1"], "u-1", replacing=None) is True
        assert ledger.person("u-1") == Person("u-1", frozenset({"cus_1"}))

    def test_of_two_that_link_one_party_one_loses(self, ledger: Ledger) -> None:
        assert [ledger.link(["cus_1"], sub, replacing=None) for sub in ("u-1", "u-2")] == [True, False]
        assert (ledger.party("cus_1").sub, ledger.person("u-2")) == ("u-1", None)

    def test_takes_the_parties_of_the_deleted_user_they_replace(self, ledger: Ledger) -> None:
        ledger.link(["cus_1", "cus_2"], "u-gone", replacing=None)
        assert ledger.link(["cus_1", "cus_2", "cus_3"], "u-new", replacing="u-gone") is True
        assert [ledger.party(each).sub for each in ("cus_1", "cus_2", "cus_3")] == ["u-new"] * 3

    def test_replaces_only_the_user_that_was_seen(self, ledger: Ledger) -> None:
        ledger.link(["cus_1"], "u-other", replacing=None)
        assert ledger.link(["cus_1"], "u-new", replacing="u-gone") is False
        assert ledger.party("cus_1").sub == "u-other"

    def test_keeps_what_is_known_of_a_party_when_linking(self, ledger: Ledger) -> None:
        ledger.note_party("cus_1", email="payer@example.com", subscribed=True)
        ledger.link(["cus_1"], "u-1", replacing=None)
        assert ledger.party("cus_1") == Party("cus_1", "u-1", "payer@example.com", None, True)

    def test_that_was_adopted_keeps_how_they_stood_before_the_first_link(self, ledger: Ledger) -> None:
        for number, limit in ((1, 3), (2, 99)):
            stood = {"enabled": True, "dapp_limit": limit, "payment_status": "VIP"}
            ledger.link([f"cus_{number}"], "u-1", replacing=None, before=stood)
        found = ledger.person("u-1")
        assert found is not None
        assert found.before == Before(3, "VIP")

    @pytest.mark.parametrize(
        "invitation", [Invitation(retry_at=NOW + 60), Invitation(NOW, 2, "in_1", NOW + 60), Invitation(NOW, 1, "cs_1")]
    )
    def test_keeps_what_became_of_their_invitation(self, ledger: Ledger, invitation: Invitation) -> None:
        ledger.link(["cus_1"], "u-1", replacing=None)
        ledger.invited("u-1", Invitation(NOW - 60, 1, "in_0", NOW))
        ledger.invited("u-1", invitation)
        assert ledger.person("u-1") == Person("u-1", frozenset({"cus_1"}), invitation=invitation)

    def test_keeps_what_was_told_of_them_and_how_often(self, ledger: Ledger) -> None:
        ledger.link(["cus_1"], "u-1", replacing=None)
        for tellings, limit in ((1, 3), (2, 5)):
            ledger.told("u-1", {**STANDS, "dapp_limit": limit}, tellings)
        assert ledger.person("u-1") == Person("u-1", frozenset({"cus_1"}), told=STANDS, tellings=2)

    @pytest.mark.parametrize("tellings", [1, 2])
    def test_keeps_what_was_told_last_whoever_writes_it_down_late(self, ledger: Ledger, tellings: int) -> None:
        ledger.told("u-1", STANDS, 2)
        ledger.told("u-1", {**STANDS, "dapp_limit": 3}, tellings)
        found = ledger.person("u-1")
        assert found is not None
        assert (found.told, found.tellings) == (STANDS, 2)

    def test_of_whom_nothing_was_told_was_told_of_when_they_were_adopted(self, ledger: Ledger) -> None:
        stood = {"enabled": True, "dapp_limit": -1, "payment_status": ""}
        ledger.link(["cus_1"], "u-1", replacing=None, before=stood)
        found = ledger.person("u-1")
        assert found == Person("u-1", frozenset({"cus_1"}), before=Before(-1, ""), told=stood)
        ledger.told("u-1", STANDS, 1)
        assert ledger.person("u-1") == replace(found, told=STANDS, tellings=1)

    def test_passes_what_was_told_on_as_json(self, ledger: Ledger) -> None:
        """DynamoDB's own numbers are no JSON."""
        ledger.told("u-1", STANDS, 1)
        found = ledger.person("u-1")
        assert found is not None
        assert json.loads(json.dumps([found.told, found.tellings])) == [STANDS, 1]

    def test_keeps_the_last_change_for_an_operator(
        self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]
    ) -> None:
        ledger.record_change("u-1", NOW, Change(STANDS, {**STANDS, "dapp_limit": 9}, "why", "arn:run"))
        found = row("PERSON#u-1", "PERSON")
        assert found["sub"] == "u-1"
        assert found["last_change"] == {
            "before": STANDS,
            "after": {**STANDS, "dapp_limit": 9},
            "reason": "why",
            "execution": "arn:run",
            "at": NOW,
        }


def settle(ledger: Ledger, at: int | None, *, sub: str = "u-1", read_at: int = NOW) -> bool:
    return ledger.settle(sub, read_at=read_at, recheck_at=at, granted={"sub_1": 5})


class TestSettle:
    @pytest.fixture(autouse=True)
    def _person(self, ledger: Ledger) -> None:
        ledger.link(["cus_1"], "u-1", replacing=None)

    def test_is_due_at_the_moment_given_last(self, ledger: Ledger) -> None:
        assert settle(ledger, NOW + 60)
        assert settle(ledger, NOW + 90)
        assert all_due(ledger, NOW + 89) == []
        assert all_due(ledger, NOW + 90) == [DuePerson("u-1", "cus_1", NOW + 90)]
        assert ledger.person("u-1") == Person("u-1", frozenset({"cus_1"}), {"sub_1": 5}, recheck_at=NOW + 90)

    def test_of_no_moment_takes_it_off_the_list(self, ledger: Ledger) -> None:
        settle(ledger, NOW + 60)
        assert settle(ledger, None)
        assert all_due(ledger, NOW * 2) == []
        assert ledger.person("u-1") == Person("u-1", frozenset({"cus_1"}), {"sub_1": 5})

    @pytest.mark.parametrize("at", [NOW + 30, None])
    def test_of_a_run_that_read_stripe_earlier_changes_nothing(self, ledger: Ledger, at: int | None) -> None:
        settle(ledger, NOW + 60, read_at=NOW + 1)
        assert settle(ledger, at, read_at=NOW) is False
        assert all_due(ledger, NOW + 60) == [DuePerson("u-1", "cus_1", NOW + 60)]

    @pytest.mark.parametrize("at", [NOW, None])
    def test_of_an_unknown_person_makes_none(self, ledger: Ledger, at: int | None) -> None:
        assert settle(ledger, at, sub="u-2") is False
        assert ledger.person("u-2") is None

    def test_done_is_not_due_again(self, ledger: Ledger) -> None:
        settle(ledger, NOW)
        for each in all_due(ledger, NOW):
            assert isinstance(each, DuePerson)
            ledger.rechecked(each)
        assert all_due(ledger, NOW * 2) == []

    def test_done_leaves_a_newer_one(self, ledger: Ledger) -> None:
        settle(ledger, NOW)
        settle(ledger, NOW + 60)
        ledger.rechecked(DuePerson("u-1", "cus_1", NOW))
        assert all_due(ledger, NOW + 60) == [DuePerson("u-1", "cus_1", NOW + 60)]

    def test_done_of_an_unknown_person_makes_none(self, ledger: Ledger) -> None:
        ledger.rechecked(DuePerson("u-2", "cus_1", NOW))
        assert ledger.person("u-2") is None


class TestUnusableOrder:
    def test_is_replaced_once_a_delivery_can_be_read(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        ledger.record(replace(ORDER, customer_id=None), NOW, problem="UnusableEvent: no")
        assert ledger.record(ORDER, NOW + 60) is None
        found = order_row()
        assert (found["state"], found["attempts"], found["customer_id"]) == ("RECEIVED", 1, ORDER.customer_id)
        assert "last_error" not in found

    def test_replaces_none_that_can_be_read(self, ledger: Ledger, order_row: Callable[[], Any]) -> None:
        ledger.record(ORDER, NOW)
        assert ledger.record(ORDER, NOW + 60, problem="UnusableEvent: no") == FIRST
        assert order_row()["state"] == "RECEIVED"


class TestLease:
    @pytest.mark.parametrize("later", [0, 1, LEASE_SECONDS - 1])
    def test_excludes_everybody_else(self, ledger: Ledger, later: int) -> None:
        ledger.acquire("u-1", "one", NOW)
        with pytest.raises(PersonBusy, match=f"within {LEASE_SECONDS} s"):
            ledger.acquire("u-1", "two", NOW + later)

    def test_of_another_person_is_free(self, ledger: Ledger) -> None:
        ledger.acquire("u-1", "one", NOW)
        ledger.acquire("u-2", "two", NOW)

    def test_expires(self, ledger: Ledger) -> None:
        ledger.acquire("u-1", "one", NOW)
        ledger.acquire("u-1", "two", NOW + LEASE_SECONDS)
        with pytest.raises(PersonBusy):
            ledger.acquire("u-1", "one", NOW + LEASE_SECONDS)

    def test_may_be_taken_again_by_its_owner(self, ledger: Ledger) -> None:
        ledger.acquire("u-1", "one", NOW)
        ledger.acquire("u-1", "one", NOW + 20)
        with pytest.raises(PersonBusy):
            ledger.acquire("u-1", "two", NOW + LEASE_SECONDS)

    def test_given_back_is_free(self, ledger: Ledger) -> None:
        ledger.acquire("u-1", "one", NOW)
        ledger.release("u-1", "one")
        ledger.acquire("u-1", "two", NOW)

    def test_of_somebody_else_cannot_be_given_back(self, ledger: Ledger) -> None:
        ledger.acquire("u-1", "one", NOW)
        ledger.release("u-1", "two")
        with pytest.raises(PersonBusy):
            ledger.acquire("u-1", "two", NOW)

    def test_that_nobody_holds_can_be_given_back(self, ledger: Ledger) -> None:
        ledger.release("u-1", "one")

    def test_is_held_within_the_block_and_no_longer(self, ledger: Ledger) -> None:
        with ledger.lease("u-1", "one", NOW), pytest.raises(PersonBusy):
            ledger.acquire("u-1", "two", NOW)
        ledger.acquire("u-1", "two", NOW)

    def test_that_is_taken_keeps_the_block_from_running(self, ledger: Ledger) -> None:
        ledger.acquire("u-1", "one", NOW)
        with pytest.raises(PersonBusy), ledger.lease("u-1", "two", NOW):
            pytest.fail("two may not write")
        with pytest.raises(PersonBusy):  # and is still held
            ledger.acquire("u-1", "two", NOW)

    @pytest.mark.parametrize(
        ("error", "held"),
        [
            (CognitoRejected("no"), False),
            (CognitoThrottled("later"), False),
            (MailLimitReached("tomorrow"), False),
            (LedgerThrottled("later"), False),
            (CognitoUnavailable("?"), True),  # the write may still arrive
            (LedgerUnavailable("?"), True),
            (RuntimeError("a defect: who knows what it wrote"), True),
        ],
    )
    def test_is_kept_after_a_failure_only_while_a_write_may_still_arrive(
        self, ledger: Ledger, error: Exception, held: bool
    ) -> None:
        with pytest.raises(type(error)), ledger.lease("u-1", "one", NOW):
            raise error
        if held:
            with pytest.raises(PersonBusy):
                ledger.acquire("u-1", "two", NOW)
        ledger.acquire("u-1", "two", NOW + LEASE_SECONDS if held else NOW)

    def test_outlives_the_functions_that_hold_it(self, template: dict[str, Any], resources: dict[str, Any]) -> None:
        holders = ("CreateUser", "LinkUser", "EnableUser", "DisableUser", "SetDappLimit")
        holders += ("ResendInvitation", "ChangeEmail", "SetLiveAccess", "UpdateOrders", "HoldUser")
        usual = template["Globals"]["Function"]["Timeout"]
        assert max(resources[f"{name}Function"].get("Timeout", usual) for name in holders) < LEASE_SECONDS


# ------------------------------------------------------------------ deletions


def begun(ledger: Ledger, now: int = NOW, sub: str | None = None, seen: Tombstone | None = None) -> Tombstone | None:
    """A deletion is asked for."""
    return ledger.begin_deletion("t1", seen, now, email="payer@example.com", sub=sub, requested_by="jo")


def ended(ledger: Ledger, *parties: str) -> Tombstone:
    """A deletion of these parties is done."""
    begun(ledger, sub="u-1")
    ledger.join_deletion("t1", frozenset(parties), "u-1")
    assert ledger.close_deletion("t1", frozenset(parties), NOW + 5)
    return ledger.deletion("t1")


class TestDeletion:
    FIRST = Tombstone("t1", NOW, "RUNNING", 1, NOW, "payer@example.com")

    def test_that_nobody_asked_for_is_none(self, ledger: Ledger) -> None:
        assert ledger.tombstone("t1") is None

    @pytest.mark.parametrize(
        "ask",
        [
            lambda ledger: ledger.deletion("t1"),
            lambda ledger: ledger.join_deletion("t1", frozenset({"cus_1"})),
            lambda ledger: ledger.join_late("t1", "cus_1"),
            lambda ledger: ledger.stamp("t1", NOW),
        ],
        ids=["deletion", "join_deletion", "join_late", "stamp"],
    )
    def test_that_nobody_asked_for_is_refused_and_not_made(self, ledger: Ledger, ask: Callable[[Ledger], Any]) -> None:
        with pytest.raises(LedgerRejected, match="no deletion t1: was the execution started by hand"):
            ask(ledger)
        assert ledger.tombstone("t1") is None

    @pytest.mark.parametrize(
        "write",
        [
            lambda ledger: ledger.buried("t1"),
            lambda ledger: ledger.count_canceled("t1", 1),
            lambda ledger: ledger.close_deletion("t1", frozenset(), NOW),
            lambda ledger: ledger.fail_deletion("t1", execution="arn:run", error="no"),
        ],
        ids=["buried", "count_canceled", "close_deletion", "fail_deletion"],
    )
    def test_that_nobody_asked_for_is_made_by_no_other_write(
        self, ledger: Ledger, write: Callable[[Ledger], Any]
    ) -> None:
        write(ledger)
        assert ledger.tombstone("t1") is None

    @pytest.mark.parametrize("sub", [None, "u-1"])
    def test_begins_with_its_first_attempt(
        self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]], sub: str | None
    ) -> None:
        assert begun(ledger, sub=sub) == replace(self.FIRST, sub=sub)
        assert ledger.tombstone("t1") == ledger.deletion("t1") == replace(self.FIRST, sub=sub)
        assert row("TOMBSTONE#t1", "TOMBSTONE")["requested_by"] == "jo"

    def test_begins_once_for_two_who_ask_together(self, ledger: Ledger) -> None:
        begun(ledger)
        assert begun(ledger, NOW + 9) is None
        assert ledger.tombstone("t1") == self.FIRST

    def test_that_failed_is_taken_up_where_it_was(self, ledger: Ledger) -> None:
        """Nothing that was bought meanwhile goes: the moment stays, and what is known of the account."""
        begun(ledger, sub="u-1")
        known = ledger.join_deletion("t1", frozenset({"cus_1"}), "u-1")
        ledger.buried("t1")
        ledger.count_canceled("t1", 2)
        ledger.fail_deletion("t1", execution="arn:run", error="StripeThrottled: 429")
        failed = ledger.deletion("t1")
        assert failed == replace(known, state="FAILED", buried=True, canceled=2, last_error="StripeThrottled: 429")
        again = begun(ledger, NOW + 60, "u-other", failed)  # another user than the one that is half gone
        assert again == replace(failed, state="RUNNING", attempts=2, at=NOW + 60)

    def test_that_failed_before_its_account_was_known_may_be_told_the_user(self, ledger: Ledger) -> None:
        begun(ledger)
        ledger.fail_deletion("t1", execution="arn:run", error="AccountAmbiguous: say sub")
        again = begun(ledger, NOW + 60, "u-1", ledger.deletion("t1"))
        assert again is not None
        assert (again.sub, again.deleted_at) == ("u-1", NOW)

    @pytest.mark.parametrize("sub", [None, "u-2"])
    def test_after_one_that_is_done_begins_anew(self, ledger: Ledger, sub: str | None) -> None:
        begun(ledger, sub="u-1")
        ledger.buried("t1")
        ledger.count_canceled("t1", 2)
        done = ended_now(ledger)
        again = begun(ledger, NOW + 60, sub, done)
        assert again == Tombstone("t1", NOW + 60, "RUNNING", 2, NOW + 60, "payer@example.com", sub)

    def test_is_started_again_as_it_is(self, ledger: Ledger) -> None:
        done = ended(ledger, "cus_1")
        again = ledger.retry_deletion(done, NOW + 60)
        assert again == replace(done, state="RUNNING", attempts=2, at=NOW + 60)
        assert (done.deleted_at, done.email) == (NOW, None)

    def test_is_started_again_by_one_of_two(self, ledger: Ledger) -> None:
        done = ended(ledger)
        assert ledger.retry_deletion(done, NOW + 60) is not None
        assert ledger.retry_deletion(done, NOW + 61) is None

    def test_gains_parties_and_loses_none(self, ledger: Ledger) -> None:
        begun(ledger)
        assert ledger.join_deletion("t1", frozenset()).parties == frozenset()
        assert ledger.join_deletion("t1", frozenset({"cus_1"}), "u-1").account_known
        found = ledger.join_deletion("t1", frozenset({"cus_2"}))
        assert (found.parties, found.sub) == (frozenset({"cus_1", "cus_2"}), "u-1")
        assert found == ledger.deletion("t1")

    @pytest.mark.parametrize("known", [True, False])
    def test_gains_what_turns_up_late_without_knowing_the_account_by_that(self, ledger: Ledger, known: bool) -> None:
        begun(ledger)
        if known:
            ledger.join_deletion("t1", frozenset({"cus_1"}))
        found = ledger.join_late("t1", "cus_2")
        assert (found.parties, found.account_known) == ({"cus_2", "cus_1"} if known else {"cus_2"}, known)

    def test_is_stamped_with_the_moment_from_which_nothing_counts(self, ledger: Ledger) -> None:
        begun(ledger)
        assert ledger.stamp("t1", NOW + 7) == replace(self.FIRST, deleted_at=NOW + 7)

    def test_counts_what_it_canceled(self, ledger: Ledger) -> None:
        begun(ledger)
        for more in (1, 2):
            ledger.count_canceled("t1", more)
        assert ledger.deletion("t1").canceled == 3

    def test_done_forgets_the_address(self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]) -> None:
        ended(ledger, "cus_1")
        kept = row("TOMBSTONE#t1", "TOMBSTONE")
        assert (kept["state"], kept["done_at"], "email" in kept) == ("DONE", NOW + 5, False)
        assert "payer@example.com" not in repr(kept)

    @pytest.mark.parametrize(
        ("known", "looked_at", "done"),
        [
            (["cus_1"], ["cus_1"], True),
            (["cus_1", "cus_2"], ["cus_1"], False),
            (["cus_1"], [], False),
            ([], [], True),
            ([], ["cus_1"], False),
        ],
    )
    def test_is_not_done_when_more_has_turned_up(
        self, ledger: Ledger, known: list[str], looked_at: list[str], done: bool
    ) -> None:
        begun(ledger)
        ledger.join_deletion("t1", frozenset(known))
        assert ledger.close_deletion("t1", frozenset(looked_at), NOW) is done
        assert ledger.deletion("t1").state == ("DONE" if done else "RUNNING")

    def test_that_is_done_does_not_fail_any_more(self, ledger: Ledger) -> None:
        done = ended(ledger)
        ledger.fail_deletion("t1", execution="arn:run", error="States.Timeout: ")
        assert ledger.deletion("t1") == done


def ended_now(ledger: Ledger) -> Tombstone:
    found = ledger.join_deletion("t1", frozenset({"cus_1"}), "u-1")
    assert ledger.close_deletion("t1", found.parties, NOW + 5)
    return ledger.deletion("t1")


class TestBurial:
    @pytest.mark.parametrize("deleting", [True, False])
    def test_of_a_party_keeps_what_is_known_of_it(self, ledger: Ledger, deleting: bool) -> None:
        ledger.link(["cus_1"], "u-1", replacing=None)
        ledger.note_party("cus_1", email="payer@example.com", subscribed=True)
        known = ledger.party("cus_1")
        ledger.bury("cus_1", NOW, "t1", deleting=deleting)
        assert ledger.party("cus_1") == replace(known, deleted_at=NOW, tombstone="t1", deleting=deleting)

    @pytest.mark.parametrize(("then", "moment", "by"), [(-1, NOW, "t1"), (0, NOW, "t2"), (1, NOW + 1, "t2")])
    def test_of_a_party_is_the_latest(self, ledger: Ledger, then: int, moment: int, by: str) -> None:
        ledger.bury("cus_1", NOW, "t1", deleting=False)
        ledger.bury("cus_1", NOW + then, "t2", deleting=False)
        assert (ledger.party("cus_1").deleted_at, ledger.party("cus_1").tombstone) == (moment, by)

    @pytest.mark.parametrize(
        ("caller_knows", "noted"), [(None, False), (NOW - 1, False), (NOW, True), (NOW + 1, False)]
    )
    def test_of_a_party_keeps_a_run_that_does_not_know_of_it_from_noting_an_address(
        self, ledger: Ledger, caller_knows: int | None, noted: bool
    ) -> None:
        ledger.bury("cus_1", NOW, "t1", deleting=False)
        ledger.note_party("cus_1", email="payer@example.com", subscribed=True, deleted_at=caller_knows)
        assert ledger.party("cus_1").email == ("payer@example.com" if noted else None)

    def test_of_a_person_answers_who_is_linked(self, ledger: Ledger) -> None:
        ledger.link(["cus_1", "cs_2"], "u-1", replacing=None)
        assert ledger.bury_person("u-1", NOW) == {"cus_1", "cs_2"}
        found = ledger.person("u-1")
        assert found is not None
        assert (found.deleted_at, found.erased, found.parties) == (NOW, False, {"cus_1", "cs_2"})

    def test_of_a_person_whom_nobody_knows_is_kept(self, ledger: Ledger) -> None:
        assert ledger.bury_person("u-1", NOW) == frozenset()
        assert ledger.person("u-1") == Person("u-1", frozenset(), deleted_at=NOW)

    def test_of_a_person_keeps_everybody_from_being_linked(self, ledger: Ledger) -> None:
        ledger.bury_person("u-1", NOW)
        assert ledger.link(["cus_1"], "u-1", replacing=None) is False
        assert ledger.party("cus_1").sub is None

    @pytest.mark.parametrize("at", [NOW, None])
    def test_of_a_person_keeps_rundue_away(self, ledger: Ledger, at: int | None) -> None:
        ledger.link(["cus_1"], "u-1", replacing=None)
        ledger.bury_person("u-1", NOW)
        assert settle(ledger, at) is False
        assert all_due(ledger, NOW * 2) == []


class TestErasure:
    def test_of_an_order_leaves_nothing_of_a_person(
        self, ledger: Ledger, order_row: Callable[[], dict[str, Any]]
    ) -> None:
        ledger.record(replace(ORDER, name="Pat Payer"), NOW)
        before = order_row()
        ledger.erase_order("evt_1")
        assert order_row() == {k: v for k, v in before.items() if k not in ("email", "name", "metadata")}
        assert before.keys() - order_row().keys() == {"email", "name", "metadata"}

    @pytest.mark.parametrize("erase", [True, False])
    def test_of_an_order_may_come_with_its_end(
        self, ledger: Ledger, order_row: Callable[[], dict[str, Any]], erase: bool
    ) -> None:
        ledger.record(replace(ORDER, name="Pat Payer"), NOW)
        assert ledger.close("evt_1", NOW, **ENDING, erase=erase)
        assert order_row()["state"] == "FULFILLED"
        assert {"email", "name", "metadata"} & order_row().keys() == (set() if erase else {"email", "name", "metadata"})

    @pytest.mark.parametrize(
        ("linked", "sub", "erased"),
        [("u-1", "u-1", True), (None, "u-1", True), (None, None, True), ("u-2", "u-1", False), ("u-2", None, False)],
    )
    def test_of_a_party_leaves_one_alone_that_is_another_users(
        self, ledger: Ledger, linked: str | None, sub: str | None, erased: bool
    ) -> None:
        if linked is not None:
            ledger.link(["cus_1"], linked, replacing=None)
        ledger.note_party("cus_1", email="payer@example.com", subscribed=True)
        ledger.claim_email("cus_1", "payer@example.com")
        ledger.bury("cus_1", NOW, "t1", deleting=True)
        known = ledger.party("cus_1")
        assert ledger.erase_party("cus_1", sub) is erased
        gone = replace(known, sub=None, email=None, claimed_email=None, deleting=False)
        assert ledger.party("cus_1") == (gone if erased else known)
        ledger.spare_party("cus_1")
        assert ledger.party("cus_1") == (gone if erased else replace(known, deleting=False))

    def test_of_a_purchase_leaves_what_was_bought(self, ledger: Ledger) -> None:
        ledger.remember_purchase(purchased("paid", 1, OrderItem("price_1", 2)))
        known = ledger.party("or_1")
        ledger.erase_purchase("or_1", "or_1")
        assert (known.email, ledger.party("or_1")) == ("payer@example.com", replace(known, email=None))

    def test_of_a_person_leaves_that_they_were_deleted(
        self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]
    ) -> None:
        ledger.link(["cus_1"], "u-1", replacing=None, before={"enabled": True, "dapp_limit": 2, "payment_status": ""})
        ledger.told("u-1", STANDS, 1)
        ledger.set_live("u-1", Live(True, 5), NOW)
        ledger.reserve_dapp("u-1", "a", NOW)
        ledger.hold("u-1", BAN)
        settle(ledger, NOW)
        ledger.erase_person("u-1", NOW)
        assert ledger.person("u-1") == Person("u-1", frozenset(), deleted_at=NOW, erased=True)
        assert row("PERSON#u-1", "PERSON").keys() == {"pk", "sk", "sub", "deleted_at", "erased"}
        assert all_due(ledger, NOW * 2) == []

    @pytest.mark.parametrize("operation", ["erase_order", "erase_party", "erase_purchase", "spare_party"])
    def test_of_what_nobody_knows_makes_nothing(self, ledger: Ledger, dynamodb: Any, operation: str) -> None:
        OPERATIONS[operation](ledger)
        assert dynamodb.scan(TableName="orders")["Count"] == 0


class TestHold:
    @pytest.mark.parametrize("known", [True, False])
    def test_is_kept_until_it_is_lifted(self, ledger: Ledger, known: bool) -> None:
        if known:
            ledger.link(["cus_1"], "u-1", replacing=None)
        parties = frozenset({"cus_1"} if known else ())
        ledger.hold("u-1", BAN)
        assert ledger.person("u-1") == Person("u-1", parties, held=BAN, signed_out_at=NOW)
        ledger.lift("u-1")
        assert ledger.person("u-1") == Person("u-1", parties, signed_out_at=NOW)

    def test_takes_all_access_away_in_the_same_write(self, ledger: Ledger) -> None:
        ledger.set_live("u-1", Live(True, 5), NOW - 60)
        ledger.hold("u-1", BAN)
        found = person(ledger)
        assert (found.live, found.barred) == (Live(), "held")

    def test_that_is_lifted_gives_no_access_by_itself(self, ledger: Ledger) -> None:
        ledger.set_live("u-1", Live(True, 5), NOW - 60)
        ledger.hold("u-1", BAN)
        ledger.lift("u-1")
        assert person(ledger).barred == "inactive"
        ledger.set_live("u-1", Live(True, 5), NOW + 60)
        assert [person(ledger).refusal(NOW + at) for at in (-1, 0, 1)] == ["signed_out", "signed_out", None]

    def test_bars_also_whom_billing_lets_in_meanwhile(self, ledger: Ledger) -> None:
        ledger.hold("u-1", BAN)
        ledger.set_live("u-1", Live(True, 5), NOW + 60)
        assert person(ledger).barred == "held"

    def test_of_nobody_known_is_lifted_without_making_anybody(self, ledger: Ledger) -> None:
        ledger.lift("u-1")
        assert ledger.person("u-1") is None


def person(ledger: Ledger, sub: str = "u-1") -> Person:
    found = ledger.person(sub)
    assert found is not None
    return found


class TestLive:
    """What the authorizer lets a user do."""

    @pytest.mark.parametrize("live", [Live(True, 5), Live(True, 0), Live(False, 0), Live(False, 5)])
    @pytest.mark.parametrize("known", [True, False])
    def test_is_what_was_written_last(self, ledger: Ledger, known: bool, live: Live) -> None:
        if known:
            ledger.link(["cus_1"], "u-1", replacing=None)
            settle(ledger, NOW + 60)
        before = ledger.person("u-1") or Person("u-1", frozenset())
        for each in (Live(True, 9), live):
            ledger.set_live("u-1", each, NOW)
        assert ledger.person("u-1") == replace(before, live=live)

    def test_of_whom_nothing_was_written_is_none(self, ledger: Ledger) -> None:
        ledger.link(["cus_1"], "u-1", replacing=None)
        found = person(ledger)
        assert (found.live, found.used, found.signed_out_at, found.barred) == (Live(), 0, 0, "inactive")

    def test_that_ends_takes_the_tokens_from_before_with_it_for_ever(self, ledger: Ledger) -> None:
        for live, at in (
            (Live(True, 5), NOW - 60),
            (Live(), NOW),
            (Live(True, 5), NOW + 60),
            (Live(True, 6), NOW + 90),
        ):
            ledger.set_live("u-1", live, at, signs_out=not live.active)
        assert person(ledger).signed_out_at == NOW
        assert [person(ledger).refusal(NOW + at) for at in (-1, 0, 1)] == ["signed_out", "signed_out", None]

    def test_that_ends_again_takes_more_of_them(self, ledger: Ledger) -> None:
        for at in (NOW, NOW + 60):
            ledger.set_live("u-1", Live(), at, signs_out=True)
        assert person(ledger).signed_out_at == NOW + 60

    def test_that_was_over_already_takes_no_tokens_with_it(self, ledger: Ledger) -> None:
        ledger.set_live("u-1", Live(), NOW, signs_out=True)
        ledger.set_live("u-1", Live(), NOW + 60)
        assert person(ledger).signed_out_at == NOW

    @pytest.mark.parametrize("live", [Live(True, 5), Live()])
    def test_is_kept_with_the_change_that_it_is_part_of(
        self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]], live: Live
    ) -> None:
        ledger.set_live("u-1", live, NOW, Change(STANDS, {**STANDS, "dapp_limit": 9}, "why", "arn:run"))
        change = {"before": STANDS, "after": {**STANDS, "dapp_limit": 9}, "reason": "why", "execution": "arn:run"}
        assert row("PERSON#u-1", "PERSON")["last_change"] == change | {"at": NOW}
        assert person(ledger).live == live

    def test_without_a_change_leaves_the_last_one(
        self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]
    ) -> None:
        ledger.record_change("u-1", NOW - 60, Change(None, STANDS, "why", "arn:run"))
        before = row("PERSON#u-1", "PERSON")
        ledger.set_live("u-1", Live(True, 5), NOW)
        assert row("PERSON#u-1", "PERSON") == before | {"active": True, "dapp_limit": 5}

    def test_leaves_what_is_reserved(self, ledger: Ledger) -> None:
        ledger.set_live("u-1", Live(True, 5), NOW)
        ledger.reserve_dapp("u-1", "a", NOW)
        for live in (Live(), Live(True, 9)):
            ledger.set_live("u-1", live, NOW)
            assert (person(ledger).live, person(ledger).used) == (live, 1)

    @pytest.mark.parametrize(
        ("facts", "barred"),
        [
            ({"live": Live(True, 5)}, None),
            ({"live": Live(True, 0)}, None),
            ({}, "inactive"),
            ({"live": Live(False, 5)}, "inactive"),
            ({"live": Live(True, 5), "held": BAN}, "held"),
            ({"held": BAN}, "held"),
            ({"live": Live(True, 5), "deleted_at": NOW}, "deleted"),
            ({"live": Live(True, 5), "held": BAN, "deleted_at": NOW}, "deleted"),
        ],
    )
    @pytest.mark.parametrize("issued_at", [NOW - 1, NOW, NOW + 1])
    def test_says_in_one_word_why_it_is_none(self, facts: Any, barred: str | None, issued_at: int) -> None:
        found = Person("u-1", frozenset(), signed_out_at=NOW, **facts)
        assert found.barred == barred
        assert found.refusal(issued_at) == (barred or ("signed_out" if issued_at <= NOW else None))


def at_once(task: Callable[[int], object], times: int) -> list[object]:
    """What as many threads answer, all of which begin together."""
    ready = threading.Barrier(times)

    def begin(number: int) -> object:
        ready.wait()
        return task(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(begin, range(times)))


class TestDapps:
    ALPHABET = string.ascii_letters + string.digits

    @pytest.fixture(autouse=True)
    def _buyer(self, ledger: Ledger) -> None:
        ledger.link(["cus_1"], "u-1", replacing=None)
        ledger.set_live("u-1", Live(True, 3), NOW)

    def reserved(self, ledger: Ledger, sub: str = "u-1") -> list[str]:
        """The ids; and the count on the person's row is theirs."""
        found = [dapp for dapp, _ in ledger.dapps(sub, after=None, limit=1000)]
        assert person(ledger, sub).used == len(found)
        return found

    def test_are_reserved_up_to_the_limit(self, ledger: Ledger) -> None:
        assert [ledger.reserve_dapp("u-1", dapp, NOW) for dapp in "abcd"] == [True, True, True, False]
        assert self.reserved(ledger) == ["a", "b", "c"]
        assert [ledger.has_dapp("u-1", dapp) for dapp in "abcd"] == [True, True, True, False]

    def test_are_kept_with_the_moment_and_nothing_else_changes(
        self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]
    ) -> None:
        before = row("PERSON#u-1", "PERSON")
        ledger.reserve_dapp("u-1", "my:dapp", NOW)
        assert row("PERSON#u-1", "DAPP#my:dapp") == {"pk": "PERSON#u-1", "sk": "DAPP#my:dapp", "reserved_at": NOW}
        assert row("PERSON#u-1", "PERSON") == before | {"used": 1}

    def test_are_reserved_once_each(self, ledger: Ledger) -> None:
        assert [ledger.reserve_dapp("u-1", "a", NOW + at) for at in range(2)] == [True, False]
        assert ledger.dapps("u-1", after=None, limit=9) == [("a", NOW)]
        assert person(ledger).used == 1

    def test_of_one_user_are_not_anothers(self, ledger: Ledger) -> None:
        ledger.set_live("u-2", Live(True, 1), NOW)
        for sub in ("u-1", "u-2"):
            assert ledger.reserve_dapp(sub, "a", NOW)
        assert ledger.release_dapp("u-1", "a")
        assert (self.reserved(ledger), self.reserved(ledger, "u-2")) == ([], ["a"])
        assert ledger.dapps("u-", after=None, limit=9) == []

    @pytest.mark.parametrize(
        "bar",
        [
            lambda ledger: ledger.set_live("u-1", Live(), NOW),
            lambda ledger: ledger.set_live("u-1", Live(False, 3), NOW),
            lambda ledger: ledger.set_live("u-1", Live(True, 0), NOW),
            lambda ledger: ledger.hold("u-1", BAN),
            lambda ledger: (ledger.hold("u-1", BAN), ledger.set_live("u-1", Live(True, 3), NOW)),
            lambda ledger: (ledger.hold("u-1", BAN), ledger.lift("u-1")),
            lambda ledger: ledger.bury_person("u-1", NOW),
            lambda ledger: ledger.erase_person("u-1", NOW),
        ],
        ids=["ended", "inactive", "limit 0", "held", "held, but active", "just lifted", "deleted", "erased"],
    )
    @pytest.mark.parametrize("used", [0, 1])
    def test_are_not_reserved_without_access(self, ledger: Ledger, bar: Callable[[Ledger], Any], used: int) -> None:
        for number in range(used):
            ledger.reserve_dapp("u-1", f"d{number}", NOW)
        bar(ledger)
        before = ledger.person("u-1")
        assert ledger.reserve_dapp("u-1", "new", NOW) is False
        assert (ledger.person("u-1"), ledger.has_dapp("u-1", "new")) == (before, False)

    @pytest.mark.parametrize("linked", [True, False])
    def test_are_not_reserved_by_whom_nobody_has_let_in(self, ledger: Ledger, linked: bool) -> None:
        if linked:
            ledger.link(["cus_2"], "u-2", replacing=None)
        before = ledger.person("u-2")
        assert ledger.reserve_dapp("u-2", "a", NOW) is False
        assert (ledger.person("u-2"), ledger.has_dapp("u-2", "a")) == (before, False)

    @pytest.mark.parametrize("limit", [2, 0])
    def test_stay_when_the_limit_falls_below_them(self, ledger: Ledger, limit: int) -> None:
        for dapp in "abc":
            ledger.reserve_dapp("u-1", dapp, NOW)
        ledger.set_live("u-1", Live(True, limit), NOW)
        assert self.reserved(ledger) == ["a", "b", "c"]
        for released in "abc"[: 3 - limit]:
            assert ledger.reserve_dapp("u-1", "d", NOW) is False
            ledger.release_dapp("u-1", released)
        assert ledger.reserve_dapp("u-1", "d", NOW) is False
        assert len(self.reserved(ledger)) == limit

    def test_are_reserved_again_once_the_limit_has_risen(self, ledger: Ledger) -> None:
        for dapp in "abc":
            ledger.reserve_dapp("u-1", dapp, NOW)
        for limit, more in ((1, False), (3, False), (4, True), (4, False)):
            ledger.set_live("u-1", Live(True, limit), NOW)
            assert ledger.reserve_dapp("u-1", f"d{more:d}", NOW) is more
        assert self.reserved(ledger) == ["a", "b", "c", "d1"]

    def test_that_are_released_make_room(self, ledger: Ledger) -> None:
        for dapp in "abc":
            ledger.reserve_dapp("u-1", dapp, NOW)
        assert ledger.release_dapp("u-1", "b") is True
        assert ledger.reserve_dapp("u-1", "d", NOW) is True
        assert self.reserved(ledger) == ["a", "c", "d"]

    def test_are_released_once_each(self, ledger: Ledger) -> None:
        for dapp in "ab":
            ledger.reserve_dapp("u-1", dapp, NOW)
        assert [ledger.release_dapp("u-1", dapp) for dapp in ("a", "a", "unknown")] == [True, False, False]
        assert self.reserved(ledger) == ["b"]

    def test_of_nobody_known_are_released_without_making_anybody(self, ledger: Ledger) -> None:
        assert ledger.release_dapp("u-2", "a") is False
        assert ledger.person("u-2") is None

    @pytest.mark.parametrize("used", [None, 0])
    def test_are_never_fewer_than_none(self, ledger: Ledger, dynamodb: Any, used: int | None) -> None:
        """Also of a count that is wrong."""
        if used is not None:
            ledger.reserve_dapp("u-1", "b", NOW)
            ledger.release_dapp("u-1", "b")
        dynamodb.put_item(TableName="orders", Item={"pk": {"S": "PERSON#u-1"}, "sk": {"S": "DAPP#a"}})
        assert ledger.release_dapp("u-1", "a") is False
        assert (person(ledger).used, ledger.has_dapp("u-1", "a")) == (0, True)

    @pytest.mark.parametrize("end", [Live(), Live(True, 0)])
    def test_are_released_without_access_as_well(self, ledger: Ledger, end: Live) -> None:
        ledger.reserve_dapp("u-1", "a", NOW)
        ledger.set_live("u-1", end, NOW)
        assert ledger.release_dapp("u-1", "a") is True
        assert self.reserved(ledger) == []

    @pytest.mark.parametrize("size", [1, 7, 1000])
    def test_are_listed_in_the_order_of_their_ids_a_page_at_a_time(self, ledger: Ledger, size: int) -> None:
        """All characters that an id may have, and ids that begin with others."""
        names = [*self.ALPHABET, *(f"a{each}{end}" for each in self.ALPHABET + "._:-" for end in ("", "a", "-"))]
        ledger.set_live("u-1", Live(True, len(names)), NOW)
        for name in random.Random(1).sample(names, len(names)):
            assert ledger.reserve_dapp("u-1", name, NOW)
        found: list[str] = []
        while page := ledger.dapps("u-1", after=found[-1] if found else None, limit=size):
            assert len(page) <= size
            assert not found or page[0][0] > found[-1]
            found += [name for name, _ in page]
        assert found == sorted(names)

    def test_are_listed_after_one_that_is_released_meanwhile(self, ledger: Ledger) -> None:
        for dapp in ("a", "a-b", "b"):
            ledger.reserve_dapp("u-1", dapp, NOW)
        ledger.release_dapp("u-1", "a")
        assert [dapp for dapp, _ in ledger.dapps("u-1", after="a", limit=9)] == ["a-b", "b"]
        assert ledger.dapps("u-1", after="b", limit=9) == []

    def test_of_a_deleted_user_are_forgotten_one_by_one(self, ledger: Ledger) -> None:
        for dapp in ("a", "ab"):
            ledger.reserve_dapp("u-1", dapp, NOW)
        ledger.bury_person("u-1", NOW)
        for dapp in ("a", "a", "unknown"):
            ledger.erase_dapp("u-1", dapp)
        assert ledger.dapps("u-1", after=None, limit=9) == [("ab", NOW)]
        ledger.erase_person("u-1", NOW)
        ledger.erase_dapp("u-1", "ab")
        assert ledger.person("u-1") == Person("u-1", frozenset(), deleted_at=NOW, erased=True)
        assert ledger.dapps("u-1", after=None, limit=9) == []

    def test_are_as_many_as_the_limit_however_many_try_at_once(self, ledger: Ledger) -> None:
        ledger.set_live("u-1", Live(True, 10), NOW)
        answers = at_once(lambda number: ledger.reserve_dapp("u-1", f"d{number}", NOW), 40)
        assert sorted(answers) == [False] * 30 + [True] * 10
        assert len(self.reserved(ledger)) == 10

    def test_with_one_id_are_one_however_many_try_at_once(self, ledger: Ledger) -> None:
        for deed in (lambda _: ledger.reserve_dapp("u-1", "a", NOW), lambda _: ledger.release_dapp("u-1", "a")):
            assert sorted(at_once(deed, 20)) == [False] * 19 + [True]
        assert self.reserved(ledger) == []

    @pytest.mark.parametrize("seed", range(4))
    def test_are_counted_right_whatever_happens(self, ledger: Ledger, seed: int) -> None:
        chance = random.Random(seed)
        expected: set[str] = set()
        live = Live(True, 3)
        for _ in range(60):
            dapp = chance.choice("abcde")
            match chance.randrange(5):
                case 0:
                    live = Live(chance.random() < 0.8, chance.randrange(5))
                    ledger.set_live("u-1", live, NOW)
                case 1 | 2:
                    assert ledger.release_dapp("u-1", dapp) is (dapp in expected)
                    expected.discard(dapp)
                case _:
                    fits = live.active and dapp not in expected and len(expected) < live.dapp_limit
                    assert ledger.reserve_dapp("u-1", dapp, NOW) is fits
                    expected |= {dapp} if fits else set()
            assert self.reserved(ledger) == sorted(expected)


class TestOrders:
    """What an operator reads: a page at a time, the open ones first."""

    @pytest.fixture(autouse=True)
    def _orders(self, ledger: Ledger) -> None:
        for number in range(1, 6):
            ledger.record(order(number), NOW + number)
        for number in (1, 2, 3):
            ledger.close(f"evt_{number}", NOW + 10 + number, **ENDING)
        ledger.record(order(9, customer_id="cus_2"), NOW)

    OPEN = [f"OPEN#{NOW + 5}#evt_5", f"OPEN#{NOW + 4}#evt_4"]
    DONE = [f"DONE#{NOW + 10 + number}#evt_{number}" for number in (3, 2, 1)]

    @pytest.mark.parametrize(
        ("fulfilled", "before", "limit", "found"),
        [
            (False, None, 9, OPEN),
            (False, None, 2, OPEN),
            (False, None, 1, OPEN[:1]),
            (False, OPEN[0], 9, OPEN[1:]),
            (True, None, 9, OPEN + DONE),
            (True, None, 3, OPEN + DONE[:1]),
            (True, OPEN[1], 2, DONE[:2]),
            (True, DONE[1], 2, DONE[2:]),
            (True, DONE[2], 2, []),
        ],
    )
    def test_are_latest_first_and_the_open_ones_before_the_others(
        self, ledger: Ledger, fulfilled: bool, before: str | None, limit: int, found: list[str]
    ) -> None:
        assert ledger.orders("cus_1", fulfilled=fulfilled, before=before, limit=limit) == found

    def test_of_a_party_are_all_of_them_in_any_state(self, ledger: Ledger, dynamodb: Any) -> None:
        found = Ledger(InPagesOfTwo(dynamodb), "orders").all_orders("cus_1")
        assert sorted(found) == [f"evt_{number}" for number in range(1, 6)]

    def test_are_read_as_they_are_kept(self, ledger: Ledger) -> None:
        found = {each["event_id"]: each["state"] for each in ledger.rows(["evt_1", "evt_4", "evt_unknown"])}
        assert found == {"evt_1": "FULFILLED", "evt_4": "RECEIVED"}
        assert list(ledger.rows([])) == []

    def test_are_read_a_hundred_at_a_time(self, ledger: Ledger) -> None:
        names = [f"evt_x{number:03}" for number in range(101)]
        for name in names:
            ledger.record(replace(ORDER, event_id=name), NOW)
        assert sorted(each["event_id"] for each in ledger.rows(names)) == names

    def test_that_dynamodb_leaves_out_are_asked_for_again(self, dynamodb: Any) -> None:
        asked: list[int] = []

        class OneAtATime:
            def batch_get_item(self, RequestItems: Any) -> Any:  # noqa: N803
                keys = RequestItems["orders"]["Keys"]
                asked.append(len(keys))
                answer = dynamodb.batch_get_item(RequestItems={"orders": {"Keys": keys[:1], "ConsistentRead": True}})
                return answer | {"UnprocessedKeys": {"orders": {"Keys": keys[1:]}} if keys[1:] else {}}

        found = Ledger(OneAtATime(), "orders").rows(["evt_1", "evt_2", "evt_3"])
        assert [each["event_id"] for each in found] == ["evt_1", "evt_2", "evt_3"]
        assert asked == [3, 2, 1]

    def test_of_which_dynamodb_answers_nothing_are_throttled(self) -> None:
        class Nothing:
            def batch_get_item(self, RequestItems: Any) -> Any:  # noqa: N803
                return {"Responses": {}, "UnprocessedKeys": RequestItems}

        with pytest.raises(LedgerThrottled):
            list(Ledger(Nothing(), "orders").rows(["evt_1"]))


class TestPartiesOf:
    """Whom an address leads to."""

    def test_are_customers_who_have_it_and_parties_with_an_order_that_names_it(self, ledger: Ledger) -> None:
        ledger.note_party("cus_1", email="payer@example.com", subscribed=True)
        ledger.note_party("cus_2", email="other@example.com", subscribed=True)
        ledger.record(order(3, customer_id="cus_3"), NOW)
        ledger.record(order(4, customer_id=None, order_id="cs_4"), NOW)
        ledger.record(order(5, customer_id="cus_5", email="other@example.com"), NOW)
        assert ledger.parties_of("payer@example.com", NOW) == {"cus_1", "cus_3", "cs_4"}
        assert ledger.parties_of("nobody@example.com", NOW) == frozenset()

    @pytest.mark.parametrize(("until", "found"), [(NOW - 1, set()), (NOW, {"cus_1"}), (NOW + 1, {"cus_1"})])
    def test_are_those_of_orders_recorded_until_then(self, ledger: Ledger, until: int, found: set[str]) -> None:
        ledger.record(ORDER, NOW)
        assert ledger.parties_of("payer@example.com", until) == found

    def test_are_not_found_by_a_deletion_of_the_address(self, ledger: Ledger) -> None:
        begun(ledger)
        assert ledger.parties_of("payer@example.com", NOW) == frozenset()


# ------------------------------------------------------------------ reconciliation


class Part:
    """A client that does a part of each batch, and says what it left; `asked` are the sizes."""

    def __init__(self, real: Any, times: int) -> None:
        self._real, self.times = real, times
        self.asked: list[int] = []

    def batch_write_item(self, RequestItems: Any) -> Any:  # noqa: N803
        rows = RequestItems["orders"]
        self.asked.append(len(rows))
        done, left = (rows[:1], rows[1:]) if self.times else (rows, [])
        self.times -= bool(self.times)
        self._real.batch_write_item(RequestItems={"orders": done})
        return {"UnprocessedItems": {"orders": left} if left else {}}


class InScans(InPagesOfTwo):
    """The same for scans, which may go on where one ended."""

    def scan(self, **request: Any) -> Any:
        self.pages += 1
        return self._client.scan(**request, Limit=2)


class Counting:
    """A client whose calls are remembered by operation."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.asked: list[tuple[str, Any]] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**request: Any) -> Any:
            self.asked.append((operation, request))
            return getattr(self._real, operation)(**request)

        return call


class TestLinks:
    """What is known of a page of Stripe's customers."""

    def test_are_as_each_party_is_alone_without_what_it_bought(self, ledger: Ledger) -> None:
        ledger.note_party("cus_1", email="payer@example.com", subscribed=True)
        ledger.claim_email("cus_1", "payer@example.com")
        ledger.link(["cus_1"], "u-1", replacing=None)
        ledger.bury("cus_2", NOW, "t1", deleting=True)
        ledger.remember_purchase(purchased("paid", 1, customer_id="cus_1"))
        ledger.remember_mark("cus_1", TestMark.MARKS[0])
        found = ledger.links(["cus_1", "cus_2", "cus_3", "cus_1"])
        assert found == {
            "cus_1": replace(ledger.party("cus_1"), purchases=(), marks=()),
            "cus_2": Party("cus_2", deleted_at=NOW, deleting=True, tombstone="t1"),
        }
        assert found["cus_1"] == Party("cus_1", "u-1", "payer@example.com", "payer@example.com", subscribed=True)

    def test_of_who_only_bought_something_once_are_none(self, ledger: Ledger) -> None:
        ledger.remember_purchase(purchased("paid", 1, customer_id="cus_1"))
        assert ledger.links(["cus_1"]) == {}

    def test_of_nobody_ask_nothing(self) -> None:
        assert Ledger(Broken(answer("AccessDeniedException")), "orders").links([]) == {}

    def test_are_read_a_hundred_at_a_time_and_consistently(self, ledger: Ledger, dynamodb: Any) -> None:
        names = [f"cus_{number:03}" for number in range(201)]
        for name in names[::10]:
            ledger.note_party(name, email=None, subscribed=True)
        client = Counting(dynamodb)
        assert sorted(Ledger(client, "orders").links(iter(names * 2))) == names[::10]
        asked = [request["RequestItems"]["orders"] for _, request in client.asked]
        assert [len(each["Keys"]) for each in asked] == [100, 100, 1]
        assert all(each["ConsistentRead"] for each in asked)


class TestPeople:
    """The persons of a page of users."""

    def test_are_as_each_is_alone(self, ledger: Ledger) -> None:
        ledger.link(["cus_1", "cus_2"], "u-1", replacing=None, before=STANDS, live=Live(True, 5))
        settle(ledger, NOW)
        ledger.told("u-1", STANDS, 2)
        ledger.invited("u-1", Invitation(NOW, 1, "in_1"))
        ledger.hold("u-2", BAN)
        ledger.bury_person("u-3", NOW)
        found = ledger.people(["u-1", "u-2", "u-3", "u-4", "u-1"])
        assert found == {sub: ledger.person(sub) for sub in ("u-1", "u-2", "u-3")}

    def test_of_a_page_are_one_read(self, ledger: Ledger, dynamodb: Any) -> None:
        subs = [f"u-{number}" for number in range(60)]
        for sub in subs:
            ledger.set_live(sub, Live(True, 1), NOW)
        client = Counting(dynamodb)
        assert sorted(Ledger(client, "orders").people(subs)) == sorted(subs)
        assert [operation for operation, _ in client.asked] == ["batch_get_item"]


class TestWaiting:
    """Whether somebody looks at a party already, or will without being asked."""

    def test_is_nobody_without_an_order(self, ledger: Ledger) -> None:
        assert ledger.waiting("cus_1", NOW) is False

    @pytest.mark.parametrize(
        ("age", "expected"), [(-61, False), (-30, True), (0, True), (ATTEMPT_SECONDS, True), (400 * 86_400, True)]
    )
    def test_is_an_order_that_is_run_and_whose_run_said_no_word(self, ledger: Ledger, age: int, expected: bool) -> None:
        """RunDue runs it again. The webhook's clock may be ahead of ours."""
        ledger.record(ORDER, NOW - age)
        assert ledger.waiting("cus_1", NOW) is expected
        assert ledger.waiting("cus_2", NOW) is False

    @pytest.mark.parametrize("retry_at", [NOW - 1, NOW + 86_400])
    def test_is_an_order_that_failed_and_is_run_again(self, ledger: Ledger, retry_at: int) -> None:
        ledger.record(ORDER, NOW - 4_000)
        ledger.fail("evt_1", execution="arn:run", error="no", retry_at=retry_at)
        assert ledger.waiting("cus_1", NOW) is True
        assert ledger.next_attempt(replace(FIRST, state="UNFULFILLED"), NOW) is not None
        assert ledger.waiting("cus_1", NOW) is True

    def test_is_none_that_is_fulfilled(self, ledger: Ledger) -> None:
        ledger.record(order(1), NOW)
        ledger.record(order(2), NOW)
        ledger.close("evt_1", NOW, **ENDING)
        assert ledger.waiting("cus_1", NOW) is True
        ledger.close("evt_2", NOW, **ENDING)
        assert ledger.waiting("cus_1", NOW) is False

    def test_is_none_that_the_index_does_not_know_as_fulfilled_yet(self, ledger: Ledger, dynamodb: Any) -> None:
        """An index lags behind; the row decides."""
        ledger.record(ORDER, NOW)
        old = dynamodb.query(
            TableName="orders",
            IndexName="ByParty",
            KeyConditionExpression="party = :party",
            ExpressionAttributeValues={":party": {"S": "cus_1"}},
        )
        ledger.close("evt_1", NOW, **ENDING)

        class Behind(Counting):
            def query(self, **request: Any) -> Any:
                return old

        assert Ledger(Behind(dynamodb), "orders").waiting("cus_1", NOW) is False

    def test_is_none_that_cannot_be_run(self, ledger: Ledger) -> None:
        ledger.record(ORDER, NOW, problem="UnusableEvent")
        assert ledger.waiting("cus_1", NOW) is False

    def test_may_be_one_behind_many_that_cannot(self, ledger: Ledger, dynamodb: Any) -> None:
        for number in range(99):
            ledger.record(order(number), NOW - 9_000 + number, problem="UnusableEvent")
        ledger.record(order(99), NOW)
        client = Counting(dynamodb)
        assert Ledger(client, "orders").waiting("cus_1", NOW) is True
        assert len([each for each, _ in client.asked if each == "batch_get_item"]) == 1

    def test_is_looked_for_among_the_oldest(self, ledger: Ledger) -> None:
        """However many orders nobody could fulfill: the time it takes has an end."""
        for number in range(100):
            ledger.record(order(number), NOW - 9_000 + number, problem="UnusableEvent")
        ledger.record(order(100), NOW)
        assert ledger.waiting("cus_1", NOW) is False


class TestSeen:
    """Whom a search has met in the pool."""

    @pytest.fixture(autouse=True)
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
        """The bounds that each wait was drawn from; none takes time."""
        slept: list[tuple[float, float]] = []
        monkeypatch.setattr("gateway.ledger.random.uniform", lambda *bounds: bounds)
        monkeypatch.setattr("gateway.ledger.time.sleep", slept.append)
        return slept

    def test_are_those_who_were_marked_since(self, ledger: Ledger) -> None:
        ledger.mark_seen(["u-1", "u-2"], NOW, NOW + 90)
        ledger.mark_seen(["u-2"], NOW + 50, NOW + 140)
        assert ledger.unseen(["u-1", "u-2", "u-3", "u-3"], NOW) == {"u-3"}
        assert ledger.unseen(iter(["u-1", "u-2"]), NOW + 1) == {"u-1"}
        assert ledger.unseen(["u-1", "u-2"], NOW + 50) == {"u-1"}
        assert ledger.unseen(["u-2"], NOW + 51) == {"u-2"}
        assert ledger.unseen([], NOW) == set()

    def test_is_a_row_that_ends(self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]) -> None:
        ledger.mark_seen(["u-1"], NOW, NOW + 90)
        expected = {"pk": "SEEN#u-1", "sk": "SEEN", "seen_at": NOW, "expires_at": NOW + 90}
        assert row("SEEN#u-1", "SEEN") == expected

    def test_are_marked_twenty_five_at_a_time(
        self, ledger: Ledger, dynamodb: Any, waits: list[tuple[float, float]]
    ) -> None:
        subs = [f"u-{number}" for number in range(60)]
        client = Part(dynamodb, 0)
        Ledger(client, "orders").mark_seen(iter(subs), NOW, NOW + 90)
        assert (client.asked, waits) == ([25, 25, 10], [])
        assert ledger.unseen(subs, NOW) == set()

    def test_that_dynamodb_left_out_are_marked_then(
        self, ledger: Ledger, dynamodb: Any, waits: list[tuple[float, float]]
    ) -> None:
        client = Part(dynamodb, 3)
        Ledger(client, "orders").mark_seen(["u-1", "u-2", "u-3", "u-4", "u-5"], NOW, NOW + 90)
        assert client.asked == [5, 4, 3, 2]
        assert waits == [(0, 0.05), (0, 0.1), (0, 0.2)]
        assert ledger.unseen(["u-1", "u-2", "u-3", "u-4", "u-5"], NOW) == set()

    def test_that_dynamodb_leaves_out_again_and_again_are_throttled(self, dynamodb: Any) -> None:
        client = Part(dynamodb, 9)
        with pytest.raises(LedgerThrottled):
            Ledger(client, "orders").mark_seen([f"u-{number}" for number in range(9)], NOW, NOW + 90)
        assert client.asked == [9, 8, 7, 6]

    def test_of_nobody_asks_nothing(self, dynamodb: Any) -> None:
        client = Part(dynamodb, 0)
        Ledger(client, "orders").mark_seen([], NOW, NOW + 90)
        assert client.asked == []


class TestScan:
    """All persons, a page and a segment at a time, beside everything else that the table has."""

    @pytest.fixture(autouse=True)
    def _rows(self, ledger: Ledger) -> None:
        for number in range(9):
            ledger.record(order(number), NOW)
            ledger.note_party(f"cus_{number}", email=None, subscribed=False)
            ledger.link([f"cus_{number}"], f"u-{number}", replacing=None, live=Live(True, number))
            ledger.mark_seen([f"u-{number}"], NOW, NOW + 90)
        ledger.reserve_dapp("u-3", "a", NOW)

    def people(self, client: Any, segment: int, of: int) -> list[Person]:
        ledger, after = Ledger(client, "orders"), None
        found: list[Person] = []
        while True:
            rows, after = ledger.scan_people(segment, of, after)
            found += rows
            if after is None:
                return found

    @pytest.mark.parametrize("segments", [1, 3])
    @pytest.mark.parametrize("paged", [False, True])
    def test_meets_everybody_once(self, ledger: Ledger, dynamodb: Any, segments: int, paged: bool) -> None:
        client = InScans(dynamodb) if paged else dynamodb
        found = [each for number in range(segments) for each in self.people(client, number, segments)]
        assert sorted(each.sub for each in found) == [f"u-{number}" for number in range(9)]
        assert all(each == ledger.person(each.sub) for each in found)

    def test_goes_on_after_what_passes_through_a_state(self, ledger: Ledger, dynamodb: Any) -> None:
        paged = Ledger(InScans(dynamodb), "orders")
        first, after = paged.scan_people(0, 1, None)
        assert after is not None
        assert set(after) == {"pk", "sk"}
        second, _ = paged.scan_people(0, 1, json.loads(json.dumps(after)))
        assert not {each.sub for each in first} & {each.sub for each in second}

    def test_asks_for_its_segment(self, dynamodb: Any) -> None:
        client = Counting(dynamodb)
        Ledger(client, "orders").scan_people(2, 8, None)
        ((operation, request),) = client.asked
        assert (operation, request["Segment"], request["TotalSegments"]) == ("scan", 2, 8)


class TestSomeSubscribers:
    """Customers by whom Stripe's account is known again."""

    def test_are_none_in_an_empty_ledger(self, ledger: Ledger) -> None:
        assert ledger.some_subscribers(3) == []

    def test_are_customers_who_had_a_subscription(self, ledger: Ledger) -> None:
        ledger.note_party("cus_1", email=None, subscribed=False)
        ledger.link(["cs_1"], "u-1", replacing=None)
        ledger.record(ORDER, NOW)
        assert ledger.some_subscribers(3) == []
        ledger.note_party("cus_2", email=None, subscribed=True)
        ledger.note_party("cus_3", email=None, subscribed=True)
        assert sorted(ledger.some_subscribers(3)) == ["cus_2", "cus_3"]

    def test_are_so_many_at_most(self, ledger: Ledger) -> None:
        names = {f"cus_{number}" for number in range(5)}
        for name in names:
            ledger.note_party(name, email=None, subscribed=True)
        found = ledger.some_subscribers(3)
        assert len(found) == len(set(found)) == 3
        assert names.issuperset(found)

    def test_are_those_of_the_first_page_that_has_any(self, ledger: Ledger, dynamodb: Any) -> None:
        for number in range(9):
            ledger.note_party(f"cus_{number}", email=None, subscribed=number == 8)
        client = InScans(dynamodb)
        assert Ledger(client, "orders").some_subscribers(3) == ["cus_8"]
        assert client.pages <= 5

    def test_are_looked_for_on_twenty_pages(self) -> None:
        class Endless:
            pages = 0

            def scan(self, **request: Any) -> Any:
                self.pages += 1
                return {"Items": [], "LastEvaluatedKey": {"pk": {"S": "a"}, "sk": {"S": "b"}}}

        client = Endless()
        assert Ledger(client, "orders").some_subscribers(3) == []
        assert client.pages == 20


DRIFT = {"kind": "wrong_limit", "party": "cus_1", "sub": "u-1", "disables": False, "relink": False, "replacing": None}


class TestDrift:
    """Who differs, as one search found it."""

    def test_is_kept_without_what_is_unknown(self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]) -> None:
        ledger.add_drift("s1", "u-1", DRIFT, NOW + 90)
        known = {name: value for name, value in DRIFT.items() if value is not None}
        assert row("DRIFT#s1", "u-1") == {"pk": "DRIFT#s1", "sk": "u-1", "expires_at": NOW + 90, **known}

    def test_of_a_person_is_kept_once(self, ledger: Ledger) -> None:
        for kind in ("wrong_limit", "hold_lost"):
            ledger.add_drift("s1", "u-1", {**DRIFT, "kind": kind}, NOW + 90)
        assert [each["kind"] for each in ledger.drifts("s1")] == ["hold_lost"]

    @pytest.mark.parametrize(
        ("first", "then", "kept"), [(True, False, 1), (False, True, 2), (True, True, 2), (False, False, 2)]
    )
    def test_of_a_link_that_is_to_be_mended_stays(self, ledger: Ledger, first: bool, then: bool, kept: int) -> None:
        """The run of whoever is found again does not mend that."""
        for number, relink in enumerate((first, then), 1):
            ledger.add_drift("s1", "cus_1", {**DRIFT, "relink": relink, "number": number}, NOW + 90)
        assert [each["number"] for each in ledger.drifts("s1")] == [kept]

    def test_of_one_search_is_not_anothers(self, ledger: Ledger) -> None:
        ledger.add_drift("s1", "u-1", DRIFT, NOW + 90)
        ledger.add_drift("s10", "u-2", DRIFT, NOW + 90)
        assert [each["sk"] for each in ledger.drifts("s1")] == ["u-1"]
        assert list(ledger.drifts("s2")) == []

    def test_is_listed_by_name_a_page_at_a_time_and_after_any_name(self, ledger: Ledger, dynamodb: Any) -> None:
        names = sorted(["cus_1", "cs_live_9", "0f1e", "ffff", "Zoe", "or_1", "-1"])
        for name in names[::-1]:
            ledger.add_drift("s1", name, DRIFT, NOW + 90)
        client = InPagesOfTwo(dynamodb)
        paged = Ledger(client, "orders")
        assert [each["sk"] for each in paged.drifts("s1")] == names
        assert client.pages == 4
        for place, name in enumerate(names):
            assert [each["sk"] for each in paged.drifts("s1", name)] == names[place + 1 :]

    def test_is_read_consistently(self, dynamodb: Any) -> None:
        client = Counting(dynamodb)
        assert list(Ledger(client, "orders").drifts("s1")) == []
        assert client.asked[0][1]["ConsistentRead"] is True


class TestReports:
    def test_are_kept_in_the_order_of_time(self, ledger: Ledger, dynamodb: Any) -> None:
        ledger.write_report("s2", NOW + 60, {"drift": {"found": 2}}, NOW + 90)
        ledger.write_report("s1", NOW, {"drift": {"found": 1, "kinds": {"hold_lost": 1}}, "dry_run": True}, NOW + 90)
        ledger.know_events_until(NOW)
        answer = dynamodb.query(
            TableName="orders",
            KeyConditionExpression="pk = :pk AND begins_with(sk, :sk)",
            ExpressionAttributeValues={":pk": {"S": "RECONCILIATION"}, ":sk": {"S": "REPORT#"}},
        )
        rows = [
            {name: TypeDeserializer().deserialize(value) for name, value in each.items()} for each in answer["Items"]
        ]
        assert [each["sk"] for each in rows] == [f"REPORT#{NOW}#s1", f"REPORT#{NOW + 60}#s2"]
        assert rows[0]["drift"] == {"found": 1, "kinds": {"hold_lost": 1}}
        assert (rows[0]["dry_run"], rows[0]["expires_at"]) == (True, NOW + 90)

    def test_of_one_search_are_one(self, ledger: Ledger, row: Callable[[str, str], dict[str, Any]]) -> None:
        for found in (1, 2):
            ledger.write_report("s1", NOW, {"drift": {"found": found}}, NOW + 90)
        assert row("RECONCILIATION", f"REPORT#{NOW}#s1")["drift"] == {"found": 2}


class TestEventsKnownUntil:
    def test_is_none_until_somebody_has_looked(self, ledger: Ledger) -> None:
        assert ledger.events_known_until() is None

    def test_never_goes_back(self, ledger: Ledger) -> None:
        """Of two searches the one that began first may end last."""
        for moment, known in ((NOW, NOW), (NOW + 9, NOW + 9), (NOW + 8, NOW + 9), (NOW + 9, NOW + 9)):
            ledger.know_events_until(moment)
            assert ledger.events_known_until() == known


OPERATIONS: dict[str, Callable[[Ledger], object]] = {
    "record": lambda ledger: ledger.record(ORDER, NOW),
    "received": lambda ledger: ledger.received("evt_1"),
    "assign": lambda ledger: ledger.assign("evt_1", "cus_1", NOW),
    "next_attempt": lambda ledger: ledger.next_attempt(FIRST, NOW),
    "open_orders": lambda ledger: list(ledger.open_orders("cus_1", NOW)),
    "close": lambda ledger: ledger.close("evt_1", NOW, **ENDING),
    "fail": lambda ledger: ledger.fail("evt_1", execution="arn:run", error="no", retry_at=NOW),
    "due": lambda ledger: list(ledger.due(0, NOW)),
    "oldest_open": lambda ledger: ledger.oldest_open(NOW),
    "party": lambda ledger: ledger.party("cus_1"),
    "remember_purchase": lambda ledger: ledger.remember_purchase(purchased("paid", 1)),
    "remember_mark": lambda ledger: ledger.remember_mark("cus_1", TestMark.MARKS[0]),
    "note_party": lambda ledger: ledger.note_party("cus_1", email=None, subscribed=True),
    "claim_email": lambda ledger: ledger.claim_email("cus_1", "payer@example.com"),
    "person": lambda ledger: ledger.person("u-1"),
    "link": lambda ledger: ledger.link(["cus_1"], "u-1", replacing=None),
    "record_change": lambda ledger: ledger.record_change("u-1", NOW, Change(None, STANDS, "", "arn:run")),
    "invited": lambda ledger: ledger.invited("u-1", Invitation()),
    "telling": lambda ledger: ledger.telling("u-1", "{}"),
    "told": lambda ledger: ledger.told("u-1", STANDS, 1),
    "settle": lambda ledger: settle(ledger, NOW),
    "rechecked": lambda ledger: ledger.rechecked(DuePerson("u-1", "cus_1", NOW)),
    "orders": lambda ledger: ledger.orders("cus_1", fulfilled=False, before=None, limit=1),
    "all_orders": lambda ledger: list(ledger.all_orders("cus_1")),
    "rows": lambda ledger: list(ledger.rows(["evt_1"])),
    "erase_order": lambda ledger: ledger.erase_order("evt_1"),
    "parties_of": lambda ledger: ledger.parties_of("payer@example.com", NOW),
    "bury": lambda ledger: ledger.bury("cus_1", NOW, "t1", deleting=True),
    "erase_party": lambda ledger: ledger.erase_party("cus_1", None),
    "spare_party": lambda ledger: ledger.spare_party("cus_1"),
    "erase_purchase": lambda ledger: ledger.erase_purchase("cus_1", "or_1"),
    "hold": lambda ledger: ledger.hold("u-1", BAN),
    "lift": lambda ledger: ledger.lift("u-1"),
    "set_live": lambda ledger: ledger.set_live("u-1", Live(True, 5), NOW),
    "reserve_dapp": lambda ledger: ledger.reserve_dapp("u-1", "a", NOW),
    "release_dapp": lambda ledger: ledger.release_dapp("u-1", "a"),
    "has_dapp": lambda ledger: ledger.has_dapp("u-1", "a"),
    "dapps": lambda ledger: ledger.dapps("u-1", after=None, limit=1),
    "erase_dapp": lambda ledger: ledger.erase_dapp("u-1", "a"),
    "bury_person": lambda ledger: ledger.bury_person("u-1", NOW),
    "erase_person": lambda ledger: ledger.erase_person("u-1", NOW),
    "tombstone": lambda ledger: ledger.tombstone("t1"),
    "deletion": lambda ledger: ledger.deletion("t1"),
    "begin_deletion": lambda ledger: begun(ledger),
    "retry_deletion": lambda ledger: ledger.retry_deletion(Tombstone("t1", NOW, "FAILED", 1, NOW), NOW),
    "join_deletion": lambda ledger: ledger.join_deletion("t1", frozenset({"cus_1"})),
    "join_late": lambda ledger: ledger.join_late("t1", "cus_1"),
    "stamp": lambda ledger: ledger.stamp("t1", NOW),
    "buried": lambda ledger: ledger.buried("t1"),
    "count_canceled": lambda ledger: ledger.count_canceled("t1", 1),
    "close_deletion": lambda ledger: ledger.close_deletion("t1", frozenset(), NOW),
    "fail_deletion": lambda ledger: ledger.fail_deletion("t1", execution="arn:run", error="no"),
    "links": lambda ledger: ledger.links(["cus_1"]),
    "waiting": lambda ledger: ledger.waiting("cus_1", NOW),
    "people": lambda ledger: ledger.people(["u-1"]),
    "mark_seen": lambda ledger: ledger.mark_seen(["u-1"], NOW, NOW),
    "unseen": lambda ledger: ledger.unseen(["u-1"], NOW),
    "scan_people": lambda ledger: ledger.scan_people(0, 1, None),
    "some_subscribers": lambda ledger: ledger.some_subscribers(1),
    "add_drift": lambda ledger: ledger.add_drift("s1", "u-1", DRIFT, NOW),
    "drifts": lambda ledger: list(ledger.drifts("s1")),
    "write_report": lambda ledger: ledger.write_report("s1", NOW, {}, NOW),
    "events_known_until": lambda ledger: ledger.events_known_until(),
    "know_events_until": lambda ledger: ledger.know_events_until(NOW),
    "acquire": lambda ledger: ledger.acquire("u-1", "one", NOW),
    "release": lambda ledger: ledger.release("u-1", "one"),
    "lease": lambda ledger: ledger.lease("u-1", "one", NOW).__enter__(),
}


def test_the_table_of_errors_knows_every_method() -> None:
    public = {name for name, _ in inspect.getmembers(Ledger, inspect.isfunction) if not name.startswith("_")}
    assert public == OPERATIONS.keys()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (answer("ProvisionedThroughputExceededException"), LedgerThrottled),
        (answer("ThrottlingException"), LedgerThrottled),
        (answer("TransactionInProgressException"), LedgerThrottled),
        (answer("TransactionCanceledException", 400, "None", "TransactionConflict"), LedgerThrottled),
        (answer("TransactionCanceledException", 400, "ThrottlingError", "None"), LedgerThrottled),
        (answer("TransactionCanceledException", 400, "None", "ValidationError"), LedgerRejected),
        (answer("InternalServerError", 500), LedgerUnavailable),
        (ConnectTimeoutError(endpoint_url="https://dynamodb"), LedgerUnavailable),
        (answer("AccessDeniedException"), LedgerRejected),
        (answer("ResourceNotFoundException"), LedgerRejected),
    ],
    ids=lambda value: (
        None if isinstance(value, type) else str(getattr(value, "response", {}).get("Error", {}).get("Code"))
    ),
)
def test_every_error_of_dynamodb_has_our_name_and_no_data(
    operation: str, error: Exception, name: type[GatewayError]
) -> None:
    with pytest.raises(name) as caught:
        OPERATIONS[operation](Ledger(Broken(error), "orders"))
    assert type(caught.value) is name
    assert "payer@example.com" not in str(caught.value)


@pytest.mark.parametrize(
    ("reasons", "answered"),
    [(("ConditionalCheckFailed",), False), (("TransactionConflict", "ConditionalCheckFailed"), False)],
)
@pytest.mark.parametrize("operation", ["link", "reserve_dapp", "release_dapp"])
def test_a_condition_that_does_not_hold_is_an_answer_and_no_error(
    operation: str, reasons: tuple[str, ...], answered: bool
) -> None:
    error = answer("TransactionCanceledException", 400, "None", *reasons)
    assert OPERATIONS[operation](Ledger(Broken(error), "orders")) is answered


class Busy(Broken):
    """DynamoDB, while one transaction after another is writing to the row: so many times."""

    def __init__(self, real: Any, times: int) -> None:
        super().__init__(answer("TransactionConflictException"))
        self.real, self.times = real, times

    def __getattr__(self, name: str) -> Any:
        if self.times:
            self.times -= 1
            return super().__getattr__(name)
        return getattr(self.real, name)


def test_a_write_waits_for_transactions_on_its_row_but_not_for_ever(
    dynamodb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("gateway.ledger.time.sleep", slept.append)
    monkeypatch.setattr("gateway.ledger.random.uniform", lambda least, most: most)
    Ledger(Busy(dynamodb, 4), "orders").set_live("u-1", Live(True, 5), NOW)
    assert slept == [0.05, 0.1, 0.2, 0.4]
    assert person(Ledger(dynamodb, "orders")).live == Live(True, 5)
    with pytest.raises(LedgerThrottled):
        Ledger(Busy(dynamodb, 5), "orders").set_live("u-1", Live(True, 6), NOW)
    assert person(Ledger(dynamodb, "orders")).live == Live(True, 5)


def test_a_missing_table_is_refused(dynamodb: Any) -> None:
    with pytest.raises(LedgerRejected, match="ResourceNotFoundException"):
        Ledger(dynamodb, "no-such-table").party("cus_1")
