"""gateway.ledger: the table of template.yaml, written and read as the functions do."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError, ConnectTimeoutError

from gateway import events
from gateway.access import Before, Invitation
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
    retry_delay,
)

NOW = 1_790_000_000
ENDING = {"execution": "arn:run", "outcome": "enabled", "reason": "sub_1 active"}
STANDS = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}

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
        holders += ("ResendInvitation", "ChangeEmail")
        usual = template["Globals"]["Function"]["Timeout"]
        assert max(resources[f"{name}Function"].get("Timeout", usual) for name in holders) < LEASE_SECONDS


OPERATIONS: dict[str, Callable[[Ledger], object]] = {
    "record": lambda ledger: ledger.record(ORDER, NOW),
    "received": lambda ledger: ledger.received("evt_1"),
    "assign": lambda ledger: ledger.assign("evt_1", "cus_1", NOW),
    "next_attempt": lambda ledger: ledger.next_attempt(FIRST, NOW),
    "open_orders": lambda ledger: list(ledger.open_orders("cus_1", NOW)),
    "close": lambda ledger: ledger.close("evt_1", NOW, **ENDING),
    "fail": lambda ledger: ledger.fail("evt_1", execution="arn:run", error="no", retry_at=NOW),
    "due": lambda ledger: list(ledger.due(0, NOW)),
    "party": lambda ledger: ledger.party("cus_1"),
    "remember_purchase": lambda ledger: ledger.remember_purchase(purchased("paid", 1)),
    "remember_mark": lambda ledger: ledger.remember_mark("cus_1", TestMark.MARKS[0]),
    "note_party": lambda ledger: ledger.note_party("cus_1", email=None, subscribed=True),
    "claim_email": lambda ledger: ledger.claim_email("cus_1", "payer@example.com"),
    "person": lambda ledger: ledger.person("u-1"),
    "link": lambda ledger: ledger.link(["cus_1"], "u-1", replacing=None),
    "record_change": lambda ledger: ledger.record_change("u-1", NOW, Change(None, STANDS, "", "arn:run")),
    "invited": lambda ledger: ledger.invited("u-1", Invitation()),
    "told": lambda ledger: ledger.told("u-1", STANDS, 1),
    "settle": lambda ledger: settle(ledger, NOW),
    "rechecked": lambda ledger: ledger.rechecked(DuePerson("u-1", "cus_1", NOW)),
    "acquire": lambda ledger: ledger.acquire("u-1", "one", NOW),
    "release": lambda ledger: ledger.release("u-1", "one"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (answer("ProvisionedThroughputExceededException"), LedgerThrottled),
        (answer("ThrottlingException"), LedgerThrottled),
        (answer("TransactionCanceledException", 400, "None", "TransactionConflict"), LedgerThrottled),
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
def test_a_lost_link_is_an_answer_and_no_error(reasons: tuple[str, ...], answered: bool) -> None:
    error = answer("TransactionCanceledException", 400, "None", *reasons)
    assert Ledger(Broken(error), "orders").link(["cus_1"], "u-1", replacing=None) is answered


def test_a_missing_table_is_refused(dynamodb: Any) -> None:
    with pytest.raises(LedgerRejected, match="ResourceNotFoundException"):
        Ledger(dynamodb, "no-such-table").party("cus_1")
