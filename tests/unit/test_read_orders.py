"""read_orders.handler: what an operator is shown of an e-mail address, and why its user is as they are."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.access import Live, Mark, Purchase
from gateway.errors import SecretUnavailable, StripeKeyRejected, StripeUnavailable
from gateway.events import OrderItem
from gateway.events import Purchase as OneTime
from gateway.ledger import ATTEMPT_SECONDS
from tests.unit.operators import DENIED, HOSTILE, RUN, SILENT, THROTTLED, Operators, subscription
from tests.unit.steps import EMAIL, NOW, ORDER, Json

OTHER = "other@example.com"
NAME = "Markedgiven Markedfamily"
EXECUTION = "arn:aws:states:us-east-1:123456789012:execution:fulfillment:"
CONSOLE = "https://us-east-1.console.aws.amazon.com/states/home?region=us-east-1#/v2/executions/details/"


@pytest.fixture
def operators(dynamodb: Any, cognito: Any, pool_id: str, mail: object, monkeypatch: pytest.MonkeyPatch) -> Operators:
    operators = Operators(dynamodb, cognito, pool_id, monkeypatch)
    operators.stripe.subscribes("cus_1", subscription())
    return operators


def events(document: Json) -> list[str]:
    return [each["event"] for each in document["orders"]]


class TestOrder:
    def test_is_shown_in_the_words_of_its_contract(self, operators: Operators) -> None:
        items = (OrderItem("price_1", 2), OrderItem("price_2", None))
        operators.failed(name=NAME, charge="ch_1", items=items, metadata={"note": "Zoë 🦄"})
        assert operators.read() == {
            "email": EMAIL,
            "orders": [
                {
                    "id": "in_1",
                    "customer": "cus_1",
                    "amount": 2000,
                    "currency": "usd",
                    "charge": "ch_1",
                    "email": EMAIL,
                    "items": [{"price": "price_1", "quantity": 2}, {"price": "price_2", "quantity": None}],
                    "metadata": {"note": "Zoë 🦄"},
                    "name": NAME,
                    "status": "paid",
                    "updated": NOW - 5,
                    "event": "evt_1",
                    "event_type": "invoice.paid",
                    "received_at": NOW,
                    "state": "UNFULFILLED",
                    "attempts": 1,
                    "last_error": "StripeThrottled: 429",
                    "execution": RUN,
                    "console": CONSOLE + RUN,
                }
            ],
            "next": None,
            "deletion": None,
        }

    def test_that_says_little_has_the_same_fields(self, operators: Operators) -> None:
        nothing = {"name": None, "amount": None, "currency": None, "charge": None, "email": None}
        operators.record("evt_1")
        operators.record("evt_2", order_id="cs_1", customer_id=None, **{**nothing, "email": EMAIL})
        full, empty = (each["orders"][0] for each in (operators.read(), operators.read()))
        assert full.keys() == empty.keys()
        guest = next(each for each in operators.read()["orders"] if each["event"] == "evt_2")
        assert guest.keys() == full.keys()
        assert (guest["customer"], guest["amount"], guest["items"], guest["metadata"]) == (None, None, [], {})

    @pytest.mark.parametrize("age", [0, ATTEMPT_SECONDS])
    def test_whose_run_has_not_ended_shows_that_run(self, operators: Operators, age: int) -> None:
        operators.record()
        operators.clock.now += age
        order = operators.read()["orders"][0]
        assert (order["state"], order["execution"]) == ("RECEIVED", f"{EXECUTION}evt_1")
        assert order["console"] == f"{CONSOLE}{EXECUTION}evt_1"

    def test_that_is_run_again_shows_the_new_run(self, operators: Operators) -> None:
        operators.failed()
        operators.update()
        order = operators.read()["orders"][0]
        assert (order["attempts"], order["execution"]) == (2, f"{EXECUTION}evt_1-r2")

    def test_that_cannot_be_used_has_no_run(self, operators: Operators) -> None:
        operators.ledger.record(replace(ORDER, event_id="evt_bad"), NOW, problem="customer is missing")
        order = operators.read()["orders"][0]
        assert (order["state"], order["attempts"], order["last_error"]) == ("UNFULFILLED", 0, "customer is missing")
        assert (order["execution"], order["console"]) == (None, None)

    def test_whose_address_was_learnt_later_is_found(self, operators: Operators) -> None:
        operators.record(email=None)
        assert operators.ask("ReadOrders")[0] == 404
        operators.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        assert events(operators.read()) == ["evt_1"]

    def test_of_a_linked_customer_with_another_address_is_found(self, operators: Operators) -> None:
        operators.buyer(EMAIL, "cus_1", "cus_2")
        operators.failed("evt_2", customer_id="cus_2", email=OTHER)
        assert events(operators.read()) == ["evt_2"]

    def test_is_found_by_the_address_in_any_case(self, operators: Operators) -> None:
        operators.failed()
        assert events(operators.read(EMAIL.upper())) == ["evt_1"]
        assert operators.read(f" {EMAIL.title()} ")["email"] == EMAIL

    def test_of_somebody_else_is_not_shown(self, operators: Operators) -> None:
        operators.failed()
        operators.failed("evt_2", customer_id="cus_2", email=OTHER)
        operators.failed("evt_3", customer_id="cus_3", email=f"x{EMAIL}")
        assert events(operators.read()) == ["evt_1"]

    def test_that_is_fulfilled_is_shown_in_the_history_alone(self, operators: Operators) -> None:
        operators.failed("evt_done", NOW - 10)
        operators.close("evt_done")
        operators.failed("evt_open")
        assert events(operators.read()) == ["evt_open"]
        history = operators.read(history=True)
        assert events(history) == ["evt_open", "evt_done"]
        done = history["orders"][1]
        expected = {"state": "FULFILLED", "status": "fulfilled", "outcome": "enabled", "reason": "sub_1 active"}
        expected |= {"before": None, "after": {"enabled": True, "dapp_limit": 5}, "fulfilled_at": NOW}  # type: ignore[dict-item]
        expected |= {"execution": RUN, "console": CONSOLE + RUN, "last_error": None}  # type: ignore[dict-item]
        assert done.items() >= expected.items()

    def test_that_was_fulfilled_a_moment_ago_is_not_open(self, operators: Operators) -> None:
        """The index may still list it; the row knows."""
        operators.failed()
        operators.close("evt_1")
        key = {"pk": {"S": "ORDER#evt_1"}, "sk": {"S": "ORDER"}}
        operators.dynamodb.update_item(
            TableName="orders",
            Key=key,
            UpdateExpression="SET #rank = :rank",
            ExpressionAttributeNames={"#rank": "rank"},
            ExpressionAttributeValues={":rank": {"S": f"OPEN#{NOW}#evt_1"}},
        )
        assert operators.read()["orders"] == []
        assert events(operators.read(history=True)) == ["evt_1"]


class TestPages:
    @pytest.mark.parametrize("history", [False, True])
    def test_show_every_order_once(self, operators: Operators, history: bool) -> None:
        names = operators.orders(130) + operators.orders(120, "cus_2")
        shown, next_, sizes = [], None, []
        while not sizes or next_ is not None:
            document = operators.read(history=history, **({} if next_ is None else {"next": next_}))
            shown += events(document)
            sizes.append(len(document["orders"]))
            next_ = document["next"]
        assert sizes == [100, 100, 50]
        assert sorted(shown) == sorted(names)

    def test_explain_on_the_first_of_a_history_alone(self, operators: Operators) -> None:
        operators.orders(101)
        first = operators.read(history=True)
        assert "explanation" in first
        assert "explanation" not in operators.read(history=True, next=first["next"])
        assert "explanation" not in operators.read()

    @pytest.mark.parametrize("token", [*HOSTILE, "cus_2|OPEN#1#evt_1", "cus_1|DONE#1#evt_1"])
    def test_of_somebody_else_or_nobody_are_refused(self, operators: Operators, token: str) -> None:
        operators.failed()
        operators.failed("evt_2", customer_id="cus_2", email=OTHER)
        if token == "cus_1|OPEN#1#evt_1":  # what a page of this address may well have ended with
            assert operators.read(next=token)["orders"] == []
            return
        status, said = operators.ask("ReadOrders", {"email": EMAIL, "next": token})
        assert (status, said["error"]) == (400, "RequestInvalid")
        assert said["message"] == "next is not what a page of this address ended with"


class TestAddress:
    def test_of_nobody_is_unknown(self, operators: Operators) -> None:
        status, said = operators.ask("ReadOrders")
        assert (status, said["error"]) == (404, "AccountUnknown")
        assert EMAIL not in said["message"]

    def test_of_a_user_who_never_bought_has_no_orders(self, operators: Operators) -> None:
        operators.stranger()
        assert operators.read() == {"email": EMAIL, "orders": [], "next": None, "deletion": None}

    @pytest.fixture
    def two(self, operators: Operators) -> list[str]:
        """cus_1 has this address now, and is linked to a user with another one; this address is another user's."""
        owner, linked = operators.stranger(), operators.stranger(OTHER)
        operators.ledger.link(["cus_1"], linked, replacing=None)
        operators.ledger.link(["cus_2"], owner, replacing=None)
        operators.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        operators.failed("evt_1", customer_id="cus_1", email=None)
        operators.failed("evt_2", customer_id="cus_2", email=None)
        return sorted([owner, linked])

    def test_of_two_users_is_asked_about(self, operators: Operators, two: list[str]) -> None:
        status, said = operators.ask("ReadOrders")
        assert (status, said["error"]) == (409, "AccountAmbiguous")
        assert said["message"].endswith(f'say "sub": {two[0]} or {two[1]}')

    def test_of_two_users_shows_the_one_that_is_meant(self, operators: Operators, two: list[str]) -> None:
        shown = {sub: operators.read(sub=sub, history=True) for sub in two}
        assert sorted(events(each)[0] for each in shown.values()) == ["evt_1", "evt_2"]
        assert {each["explanation"]["cognito"]["sub"] for each in shown.values()} == set(two)

    @pytest.mark.parametrize("sub", ["00000000-0000-4000-8000-000000000000", *HOSTILE])
    def test_of_two_users_is_not_that_of_a_third(self, operators: Operators, two: list[str], sub: str) -> None:
        status, said = operators.ask("ReadOrders", {"email": EMAIL, "sub": sub})
        assert (status, said["error"]) == (409, "AccountAmbiguous")
        assert sub not in said["message"] or len(sub) == 1

    def test_of_one_user_may_say_so(self, operators: Operators) -> None:
        sub = operators.stranger()
        assert operators.read(sub=sub)["orders"] == []

    def test_whose_account_was_deleted_tells_of_that(self, operators: Operators) -> None:
        deletion = operators.ledger.begin_deletion(
            operators.tombstone, None, NOW, email=EMAIL, sub=None, requested_by="arn"
        )
        assert deletion is not None
        shown = {"id": operators.tombstone, "state": "RUNNING", "deleted_at": NOW, "attempts": 1, "last_error": None}
        assert operators.read() == {"email": EMAIL, "orders": [], "next": None, "deletion": shown}
        operators.ledger.fail_deletion(operators.tombstone, execution="arn:run", error="StripeKeyRejected: 401")
        assert operators.read(history=True)["deletion"] == {
            **shown,
            "state": "FAILED",
            "last_error": "StripeKeyRejected: 401",
        }
        operators.ledger.close_deletion(operators.tombstone, frozenset(), NOW + 5)
        assert operators.read()["deletion"] == {**shown, "state": "DONE"}
        assert operators.ask("ReadOrders", {"email": OTHER})[0] == 404


class TestExplanation:
    def explained(self, operators: Operators, email: str = EMAIL) -> Json:
        found: Json = operators.read(email, history=True)["explanation"]
        return found

    def test_holds_all_that_decides(self, operators: Operators) -> None:
        user = operators.buyer()
        operators.ledger.set_live(str(user.sub), Live(True, 5), 1)
        operators.ledger.reserve_dapp(str(user.sub), "one", 1)
        operators.stripe.marks["du_1"] = Mark("du_1", "disputed", "sub_1")
        explained = self.explained(operators)
        assert explained["cognito"] == user.facts()
        assert explained["summary"] == "The user is enabled, as it should be: sub_1 active."
        assert explained["rule"] == "sub_1 active"
        assert explained["target"] == {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
        stripe = explained["stripe"]
        assert (stripe["wanted"], stripe["dapp_limit"], stripe["units"]) == (True, 5, {"sub_1": 5})
        customer = stripe["customers"][0]
        assert (customer["id"], customer["email"], customer["account_deleted_at"]) == ("cus_1", EMAIL, None)
        assert customer["subscriptions"][0]["status"] == "active"
        assert (explained["held"], explained["last_change"], explained["next"]) == (None, None, [])
        assert explained["live"] == {"refused": None, "dapp_limit": 5, "used": 1}

    def test_of_one_whom_the_authorizer_does_not_know(self, operators: Operators) -> None:
        operators.buyer()
        explained = self.explained(operators)
        assert explained["live"] == {"refused": "inactive", "dapp_limit": 0, "used": 0}
        assert "the authorizer refuses them" in explained["summary"]

    def test_of_one_who_never_bought(self, operators: Operators) -> None:
        operators.stranger()
        assert self.explained(operators)["live"] == {"refused": "unknown", "dapp_limit": 0, "used": 0}

    def test_adds_up_what_all_customers_of_the_user_bought(self, operators: Operators) -> None:
        operators.buyer(EMAIL, "cus_1", "cus_2")
        operators.stripe.subscribes("cus_2", subscription("sub_2"))
        explained = self.explained(operators)
        assert explained["summary"] == (
            "The user is enabled with limit 5 (ACTIVE), and should be enabled with limit 10 (ACTIVE): sub_1 active; "
            "sub_2 active. The next run, or POST /update, mends it."
        )
        assert [each["id"] for each in explained["stripe"]["customers"]] == ["cus_1", "cus_2"]

    def test_of_one_who_stopped_paying(self, operators: Operators) -> None:
        sub = operators.buyer().sub
        assert sub is not None
        operators.stripe.subscribes("cus_1", subscription(status="canceled"))
        operators.users.update(sub, dapp_limit=0, payment_status="CANCELLED", disabled_by="billing")
        operators.users.disable(sub)
        explained = self.explained(operators)
        assert explained["summary"] == "The user is disabled, as it should be: sub_1 canceled."
        assert explained["next"] == [{"at": None, "what": "the next payment"}]

    def test_of_one_who_is_out_of_step(self, operators: Operators) -> None:
        operators.buyer()
        operators.stripe.subscribes("cus_1", subscription(status="unpaid"))
        operators.failed("evt_1", int(operators.clock.now))
        explained = self.explained(operators)
        assert explained["summary"].startswith("The user is enabled with limit 5 (ACTIVE), and should be disabled")
        due = int(operators.clock.now) + 300
        assert explained["next"][0] == {"at": due, "what": "open order evt_1 is run again"}

    def test_of_one_who_is_banned(self, operators: Operators) -> None:
        operators.buyer()
        operators.hold(reason="resells access")
        explained = self.explained(operators)
        assert explained["summary"] == (
            "The user is disabled by an operator (resells access); billing leaves them alone, and would say: "
            "sub_1 active."
        )
        assert explained["held"]["reason"] == "resells access"
        assert explained["live"]["refused"] == "held"
        assert explained["last_change"]["reason"] == "held"
        assert {"at": None, "what": "POST /hold with hold false lifts the ban"} in explained["next"]

    def test_of_one_whom_somebody_disabled_in_the_console(self, operators: Operators) -> None:
        sub = operators.buyer().sub
        assert sub is not None
        operators.users.disable(sub)
        explained = self.explained(operators)
        assert explained["summary"].startswith("The user is disabled by a person, in the console;")
        assert explained["held"] is None

    def test_of_one_who_is_comped(self, operators: Operators) -> None:
        operators.buyer(provider="ADMIN")
        assert "comped" in self.explained(operators)["summary"]

    def test_of_nobody_who_pays(self, operators: Operators) -> None:
        operators.failed()
        explained = self.explained(operators)
        assert explained["cognito"] is None
        assert explained["summary"] == "There is no user, and a user is missing: sub_1 active."

    def test_of_a_guest(self, operators: Operators) -> None:
        operators.failed(
            order_id="cs_1",
            customer_id=None,
            items=(OrderItem("price_1", 5),),
            purchase=OneTime("cs_1", "session", 0, ()),
        )
        operators.ledger.remember_purchase(
            replace(ORDER, order_id="cs_1", customer_id=None, purchase=OneTime("cs_1", "session", 0, ()))
        )
        operators.stripe.purchases["cs_1"] = Purchase("cs_1", "paid", subscription().items)
        assert self.explained(operators)["summary"] == "There is no user, and a user is missing: cs_1 paid."

    def test_of_one_whose_billing_cannot_be_told(self, operators: Operators) -> None:
        operators.buyer()
        operators.stripe.subscribes("cus_1", subscription(status="strange"))
        summary = self.explained(operators)["summary"]
        assert summary == "The user is enabled, and left as they are: sub_1 has an unknown status."

    def test_of_a_user_whose_address_somebody_paid_with(self, operators: Operators) -> None:
        operators.stranger()
        operators.failed()
        summary = self.explained(operators)["summary"]
        assert summary == "The user is enabled, and a run will join them to this customer: sub_1 active."

    def test_of_an_adopted_user_whose_grant_ended(self, operators: Operators) -> None:
        sub = operators.stranger(**{"custom:num_dapps": "2"})
        operators.ledger.link(["cus_1"], sub, replacing=None, before={"dapp_limit": 2, "payment_status": ""})
        operators.stripe.subscribes("cus_1", subscription(status="canceled"))
        explained = self.explained(operators)
        assert explained["target"] == {"enabled": True, "dapp_limit": 2, "payment_status": ""}
        assert explained["summary"] == "The user is enabled, as it should be: sub_1 canceled."

    def test_of_an_adopted_user_who_is_governed(self, operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
        sub = operators.stranger(**{"custom:num_dapps": "2"})
        operators.ledger.link(["cus_1"], sub, replacing=None, before={"dapp_limit": 2, "payment_status": ""})
        operators.stripe.subscribes("cus_1", subscription(status="canceled"))
        monkeypatch.setattr(operators.endpoint("ReadOrders"), "GOVERN", True)
        assert self.explained(operators)["target"]["enabled"] is False

    def test_counts_only_what_was_bought_after_a_deletion(self, operators: Operators) -> None:
        operators.failed()
        operators.stripe.subscribes("cus_1", subscription(created=NOW - 50))
        operators.ledger.bury("cus_1", NOW - 10, operators.tombstone, deleting=True)
        explained = self.explained(operators)
        assert explained["summary"] == "There is no user, and nobody is missing: nothing bought."
        assert explained["stripe"]["customers"][0]["account_deleted_at"] == NOW - 10

    @pytest.mark.parametrize("error", [StripeUnavailable("Stripe answered 500"), StripeKeyRejected("401")])
    def test_without_stripe_says_so_and_hides_nothing_else(self, operators: Operators, error: Exception) -> None:
        operators.buyer()
        operators.failed("evt_1", int(operators.clock.now))
        operators.hold()
        operators.stripe.error = error
        document = operators.read(history=True)
        assert "evt_1" in events(document)
        explained = document["explanation"]
        assert explained["stripe"] == {"error": f"{type(error).__name__}: {error}"}
        assert explained["cognito"]["held"] is True
        assert (explained["held"]["reason"], explained["last_change"]["reason"]) == ("spam", "held")

    def test_of_a_customer_whom_stripe_does_not_know_says_so(self, operators: Operators) -> None:
        operators.buyer()
        operators.stripe.customers.clear()
        error = self.explained(operators)["stripe"]["error"]
        assert error == "BillingIncomplete: Stripe does not know cus_1"

    def test_is_not_asked_of_stripe_without_the_history(self, operators: Operators) -> None:
        operators.buyer()
        operators.stripe.error = StripeUnavailable("Stripe answered 500")
        assert operators.read()["orders"] == []


class TestOutage:
    @pytest.mark.parametrize(
        ("operation", "error", "status", "name"),
        [
            ("query", THROTTLED, 503, "LedgerThrottled"),
            ("query", SILENT, 503, "LedgerUnavailable"),
            ("batch_get_item", DENIED, 502, "LedgerRejected"),
            ("admin_get_user", THROTTLED, 503, "CognitoThrottled"),
            ("admin_get_user", SILENT, 503, "CognitoUnavailable"),
            ("admin_get_user", DENIED, 502, "CognitoRejected"),
        ],
    )
    def test_of_aws_is_told(
        self, operators: Operators, operation: str, error: Exception, status: int, name: str, lines: list[str]
    ) -> None:
        operators.failed()
        client = operators.pool if operation == "admin_get_user" else operators.table
        client.errors[operation] = error
        found, said = operators.ask("ReadOrders")
        assert (found, said["error"]) == (status, name)
        assert EMAIL not in said["message"]
        assert not any(EMAIL in line for line in lines)

    def test_of_the_hash_key_is_told(self, operators: Operators) -> None:
        operators.failed()
        operators.secret_error = SecretUnavailable("the secret is empty")
        status, said = operators.ask("ReadOrders")
        assert (status, said["error"]) == (502, "SecretUnavailable")


def test_nothing_is_changed_and_nothing_personal_is_logged(operators: Operators, lines: list[str]) -> None:
    operators.buyer()
    operators.failed(name=NAME, metadata={"note": NAME})
    before = operators.everything()
    operators.read(history=True)
    assert operators.everything() == before
    assert json.loads(lines[-1])["message"] == "answered"
    assert not any(text in line for line in lines for text in (EMAIL, NAME))
