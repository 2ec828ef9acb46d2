"""update_orders.handler: one run for each person, whoever asks and how often; it heals all of that person's orders."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.access import Live
from gateway.ledger import ATTEMPT_SECONDS, MAX_ATTEMPTS, Attempt, Ledger
from tests.unit.operators import DENIED, HOSTILE, SILENT, THROTTLED, Operators
from tests.unit.steps import EMAIL, NOW, ORDER, Json, Then

OTHER = "other@example.com"
EXECUTION = "arn:aws:states:us-east-1:123456789012:execution:fulfillment:"
HEALS = "this run heals all orders of the person"


@pytest.fixture
def operators(dynamodb: Any, cognito: Any, pool_id: str, mail: object, monkeypatch: pytest.MonkeyPatch) -> Operators:
    return Operators(dynamodb, cognito, pool_id, monkeypatch)


def results(document: Json) -> Counter[str]:
    return Counter(each["result"] for each in document["orders"])


def runs(operators: Operators) -> list[str]:
    return sorted(operators.machine.executions)


class TestOrder:
    def test_that_failed_is_run_again(self, operators: Operators) -> None:
        operators.failed()
        assert operators.update() == {
            "email": EMAIL,
            "orders": [
                {
                    "id": "in_1",
                    "event": "evt_1",
                    "result": "started",
                    "why": HEALS,
                    "execution": f"{EXECUTION}evt_1-r2",
                    "console": "https://us-east-1.console.aws.amazon.com/states/home?region=us-east-1"
                    f"#/v2/executions/details/{EXECUTION}evt_1-r2",
                }
            ],
            "next": None,
        }
        run = {"event_id": "evt_1", "order_id": "in_1", "customer_id": "cus_1"}
        assert operators.machine.executions == {"evt_1-r2": run}
        order = operators.order()
        assert (order["state"], order["attempts"]) == ("RECEIVED", 2)

    def test_that_was_killed_without_a_word_is_run_again(self, operators: Operators) -> None:
        operators.record()
        operators.clock.now += ATTEMPT_SECONDS
        assert results(operators.update()) == {"started": 1}
        assert runs(operators) == ["evt_1-r2"]

    def test_that_is_stuck_is_run_again_at_once(self, operators: Operators) -> None:
        operators.record()
        seen: Attempt | None = Attempt("evt_1", "in_1", "cus_1", 1, "RECEIVED", NOW)
        while seen is not None and seen.number < MAX_ATTEMPTS:
            seen = operators.ledger.next_attempt(seen, NOW)
        operators.ledger.fail("evt_1", execution="arn", error="x", retry_at=NOW + 86_400)
        assert results(operators.update()) == {"started": 1}
        assert runs(operators) == [f"evt_1-r{MAX_ATTEMPTS + 1}"]

    @pytest.mark.parametrize("age", [0, ATTEMPT_SECONDS - 1])
    def test_that_is_running_is_left_to_its_run(self, operators: Operators, age: int) -> None:
        operators.record()
        operators.machine.executions["evt_1"] = {"event_id": "evt_1", "order_id": "in_1", "customer_id": "cus_1"}
        operators.clock.now += age
        line = operators.update()["orders"][0]
        assert (line["result"], line["why"], line["execution"]) == ("already running", HEALS, f"{EXECUTION}evt_1")
        assert (runs(operators), operators.order()["attempts"]) == (["evt_1"], 1)

    def test_that_is_fulfilled_is_none_of_these(self, operators: Operators) -> None:
        operators.failed()
        operators.close("evt_1")
        said = operators.update()
        assert (said["email"], said["next"], [each["id"] for each in said["orders"]]) == (EMAIL, None, ["cus_1"])

    def test_that_was_fulfilled_meanwhile_is_left_alone(
        self, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        operators.failed()
        names = Ledger.orders

        def then_closed(self: Ledger, party: str, **more: Any) -> list[str]:
            found = names(self, party, **more)
            operators.close("evt_1")
            return found

        monkeypatch.setattr(Ledger, "orders", then_closed)
        line, _ = operators.update()["orders"]
        assert (line["result"], line["why"], line["console"]) == ("nothing to do", "it was fulfilled meanwhile", None)
        assert "evt_1-r2" not in runs(operators)

    def test_whose_person_was_healed_after_the_page_was_read_is_left_alone(
        self, operators: Operators, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        operators.failed()
        rows = Ledger.rows

        def then_closed(self: Ledger, event_ids: Any) -> Any:
            found = list(rows(self, event_ids))
            operators.close("evt_1")
            return iter(found)

        monkeypatch.setattr(Ledger, "rows", then_closed)
        operators.update()
        assert runs(operators) == []

    def test_that_cannot_be_used_is_not_run(self, operators: Operators) -> None:
        operators.ledger.record(replace(ORDER, event_id="evt_bad"), NOW, problem="customer is missing")
        line, _ = operators.update()["orders"]
        assert (line["result"], line["execution"]) == ("nothing to do", None)
        assert line["why"] == "its content cannot be used; resend the event in Stripe once that is mended"
        assert operators.order("evt_bad")["attempts"] == 0
        assert not any(name.startswith("evt_bad") for name in runs(operators))

    @pytest.mark.parametrize("unusable", [1, 9, 10, 25])
    def test_is_run_however_many_others_cannot_be_used(self, operators: Operators, unusable: int) -> None:
        for each in range(unusable):
            bad = replace(ORDER, event_id=f"evt_bad{each}")
            operators.ledger.record(bad, NOW - 50 + each, problem="customer is missing")
        operators.failed("evt_good")
        assert results(operators.update()) == {"started": 1, "nothing to do": unusable}
        assert runs(operators) == ["evt_good-r2"]


class TestPerson:
    def test_with_many_orders_gets_one_run_of_the_oldest(self, operators: Operators) -> None:
        names = operators.orders(40)
        document = operators.update()
        assert results(document) == {"started": 40}
        assert {each["execution"] for each in document["orders"]} == {f"{EXECUTION}{names[0]}-r2"}
        assert runs(operators) == [f"{names[0]}-r2"]

    def test_with_several_customers_gets_one_run(self, operators: Operators) -> None:
        operators.buyer(EMAIL, "cus_1", "cus_2", "cus_3")
        for party in ("cus_3", "cus_1", "cus_2"):
            operators.clock.now += 60
            operators.orders(20, party, email=None)
        assert results(operators.update()) == {"started": 60}
        assert runs(operators) == ["evt_cus3_00000-r2"]

    def test_one_of_whose_orders_is_running_gets_no_other_run(self, operators: Operators) -> None:
        operators.buyer(EMAIL, "cus_1", "cus_2")
        operators.orders(5)
        now = int(operators.clock.now)
        operators.record("evt_running", now, customer_id="cus_2")
        operators.machine.executions["evt_running"] = {
            "event_id": "evt_running",
            "order_id": "in_1",
            "customer_id": "cus_2",
        }
        assert results(operators.update()) == {"already running": 6}
        assert runs(operators) == ["evt_running"]

    def test_that_is_unknown_yet_gets_a_run_for_each_customer(self, operators: Operators) -> None:
        first, second = operators.orders(3)[0], operators.orders(3, "cus_2")[0]
        operators.failed("evt_guest", order_id="cs_1", customer_id=None)
        assert results(operators.update()) == {"started": 7}
        assert runs(operators) == sorted([f"{first}-r2", f"{second}-r2", "evt_guest-r2"])

    def test_and_a_customer_who_is_not_linked_yet_get_a_run_each(self, operators: Operators) -> None:
        operators.buyer()
        linked, new = operators.orders(2)[0], operators.orders(2, "cus_new")[0]
        assert results(operators.update()) == {"started": 4}
        assert runs(operators) == sorted([f"{linked}-r2", f"{new}-r2"])

    def test_and_a_customer_of_whom_nothing_is_open_get_a_run_each(self, operators: Operators) -> None:
        """What they bought while the person was comped is fulfilled, and was never granted."""
        operators.buyer()
        linked = operators.orders(1)[0]
        operators.close(*operators.orders(1, "cus_new"))
        line, other = operators.update()["orders"]
        assert (line["event"], other["id"]) == (linked, "cus_new")
        assert len(runs(operators)) == 2

    @pytest.mark.parametrize("linked", [("cus_1",), ("cus_2", "cus_1")])
    def test_without_open_orders_is_looked_at_all_the_same(self, operators: Operators, linked: tuple[str, ...]) -> None:
        """An operator has changed something that no event tells of."""
        operators.buyer(EMAIL, *linked)
        (line,) = operators.update()["orders"]
        assert (line["id"], line["result"]) == ("cus_1", "started")
        assert line["why"] == "nothing was open; billing looks at the person"
        assert line["execution"] == f"{EXECUTION}{line['event']}"
        run = {"event_id": line["event"], "order_id": "cus_1", "customer_id": "cus_1"}
        assert operators.machine.executions == {line["event"]: run}
        order = operators.order(line["event"])
        assert (order["event_type"], order["livemode"], order["state"]) == ("gateway.recheck", False, "RECEIVED")

    def test_without_open_orders_and_without_a_user_gets_a_run_for_each_customer(self, operators: Operators) -> None:
        for party in ("cus_1", "cus_2"):
            operators.close(*operators.orders(1, party))
        assert sorted(each["id"] for each in operators.update()["orders"]) == ["cus_1", "cus_2"]
        assert len(runs(operators)) == 2

    def test_without_open_orders_is_looked_at_from_the_first_page_only(self, operators: Operators) -> None:
        operators.buyer()
        operators.orders(101)
        page = operators.update()
        operators.machine.executions.clear()
        operators.close(*operators.orders(101))
        assert operators.update(next=page["next"])["orders"] == []
        assert runs(operators) == []

    @pytest.mark.parametrize(
        ("attributes", "banned", "stood", "live"),
        [
            ({"custom:payment_provider": "ADMIN", "custom:num_dapps": "7"}, False, None, Live(True, 7)),
            ({"custom:payment_provider": "ADMIN", "custom:num_dapps": "7"}, False, Live(True, 3), Live(True, 7)),
            ({"custom:payment_provider": "ADMIN"}, False, None, Live(True, 0)),
            ({"custom:payment_provider": "ADMIN", "custom:num_dapps": "7"}, True, None, Live()),
            ({"custom:num_dapps": "7"}, False, Live(True, 7), Live()),  # comped once
        ],
    )
    def test_who_never_bought_has_what_an_operator_gave_them(
        self, operators: Operators, attributes: dict[str, str], banned: bool, stood: Live | None, live: Live
    ) -> None:
        sub = operators.stranger(**attributes)
        if stood is not None:
            operators.ledger.set_live(sub, stood, 1)
        if banned:
            operators.ledger.hold(sub, {"reason": "spam", "requested_by": "jo", "at": 1})
        assert operators.update()["orders"] == []
        person = operators.ledger.person(sub)
        assert person is not None
        assert person.live == live
        assert operators.row(f"LEASE#{sub}", "LEASE") == {}

    def test_who_is_comped_no_more_signs_in_again(self, operators: Operators) -> None:
        sub = operators.stranger(**{"custom:num_dapps": "7"})
        operators.ledger.set_live(sub, Live(True, 7), 1)
        operators.update()
        person = operators.ledger.person(sub)
        assert person is not None
        assert person.signed_out_at == int(operators.clock.now)

    def test_who_never_bought_and_is_not_comped_is_left_alone(self, operators: Operators) -> None:
        sub = operators.stranger(**{"custom:num_dapps": "7"})
        operators.update()
        assert operators.ledger.person(sub) is None

    def test_whom_a_run_looks_at_is_left_to_it(self, operators: Operators) -> None:
        sub = str(operators.buyer(provider="ADMIN").sub)
        operators.update()
        person = operators.ledger.person(sub)
        assert person is not None
        assert person.live == Live()

    @pytest.mark.parametrize(
        "deed",
        [
            lambda operators, sub: operators.ledger.link(["cus_1"], sub, replacing=None),
            lambda operators, sub: operators.ledger.bury_person(sub, 1),
            lambda operators, sub: operators.users.delete(sub),
        ],
        ids=["linked", "deleted", "deleted by hand"],
    )
    def test_who_is_somebody_elses_business_meanwhile_is_left_to_them(
        self, operators: Operators, deed: Callable[[Operators, str], object]
    ) -> None:
        sub = operators.stranger(**{"custom:payment_provider": "ADMIN", "custom:num_dapps": "7"})
        module = operators.endpoint("UpdateOrders")
        operators.module("UpdateOrders", ledger=Then(operators.ledger, "lease", lambda: deed(operators, sub)))
        module._bring_in_line(sub, "an owner", int(operators.clock.now))
        person = operators.ledger.person(sub)
        assert person is None or person.live == Live()

    def test_who_is_nobody_is_unknown(self, operators: Operators) -> None:
        assert operators.ask("UpdateOrders")[0] == 404

    def test_who_may_be_one_of_two_is_asked_about(self, operators: Operators) -> None:
        subs = [operators.stranger(), operators.stranger(OTHER)]
        operators.ledger.link(["cus_1"], subs[1], replacing=None)
        operators.failed()
        assert operators.ask("UpdateOrders")[0] == 409
        assert operators.machine.calls == []
        assert results(operators.update(sub=subs[1])) == {"started": 1}

    def test_with_an_order_of_another_persons_customer_is_not_run_by_it(self, operators: Operators) -> None:
        mine, theirs = operators.stranger(), operators.stranger(OTHER)
        operators.ledger.link(["cus_2"], theirs, replacing=None)
        operators.failed("evt_2", customer_id="cus_2")  # bought with this address, by a customer of the other
        operators.failed("evt_1")
        assert [each["event"] for each in operators.update(sub=mine)["orders"]] == ["evt_1"]
        assert runs(operators) == ["evt_1-r2"]


class TestTwice:
    def test_starts_one_run(self, operators: Operators) -> None:
        operators.orders(5)
        assert results(operators.update()) == {"started": 5}
        operators.clock.now += 1
        for _ in range(3):
            assert results(operators.update()) == {"already running": 5}
        assert runs(operators) == ["evt_cus1_00000-r2"]

    def test_after_that_run_has_failed_starts_another(self, operators: Operators) -> None:
        operators.failed()
        operators.update()
        operators.machine.ended.add("evt_1-r2")
        operators.ledger.fail("evt_1", execution="arn", error="x", retry_at=NOW + 600)
        assert results(operators.update()) == {"started": 1}
        assert runs(operators) == ["evt_1-r2", "evt_1-r3"]

    def test_after_that_run_has_healed_all_does_nothing(self, operators: Operators) -> None:
        names = operators.orders(5)
        operators.update()
        operators.close(*names)
        assert [each["id"] for each in operators.update()["orders"]] == ["cus_1"]
        assert len(runs(operators)) == 2


class TestAtTheSameTime:
    def test_many_operators_start_one_run_for_each_person(self, operators: Operators) -> None:
        operators.buyer(EMAIL, "cus_1", "cus_2")
        operators.orders(3)
        operators.orders(3, "cus_2")
        operators.orders(3, "cus_new")
        begin, found, lock = threading.Barrier(6), [], threading.Lock()
        module = operators.endpoint("UpdateOrders")
        page_of = module.page_of

        def together(*args: Any, **kwargs: Any) -> Any:
            page = page_of(*args, **kwargs)
            begin.wait(30)  # everybody has read before anybody takes
            return page

        operators._patch.setattr(module, "page_of", together)
        operators.endpoint = lambda function: module  # type: ignore[method-assign]

        def ask() -> None:
            status, document = operators.ask("UpdateOrders")
            with lock:
                found.append((status, document))

        askers = [threading.Thread(target=ask) for _ in range(6)]
        for each in askers:
            each.start()
        for each in askers:
            each.join(60)
        assert [status for status, _ in found] == [200] * 6
        assert {result for _, document in found for result in results(document)} <= {"started", "already running"}
        assert runs(operators) == ["evt_cus1_00000-r2", "evt_cusnew_00000-r2"]

    @pytest.mark.parametrize("method", ["party", "orders", "rows", "open_orders", "next_attempt"])
    def test_another_one_between_any_two_calls_starts_no_second_run(
        self, operators: Operators, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        operators.buyer(EMAIL, "cus_1", "cus_2")
        operators.orders(3)
        operators.orders(3, "cus_2")
        real: Callable[..., Any] = getattr(Ledger, method)
        other: list[Json] = []

        def after_another(self: Ledger, *args: Any, **kwargs: Any) -> Any:
            if not other:
                other.append({})
                other[0] = operators.update()
            return real(self, *args, **kwargs)

        monkeypatch.setattr(Ledger, method, after_another)
        assert set(results(operators.update())) == {"already running"}
        assert results(other[0]) == {"started": 6}
        assert runs(operators) == ["evt_cus1_00000-r2"]

    def test_who_loses_the_race_says_so(self, operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
        operators.failed()
        monkeypatch.setattr(Ledger, "next_attempt", lambda *args: None)
        line = operators.update()["orders"][0]
        assert (line["result"], line["why"]) == ("already running", "somebody else has just started it")
        assert (line["execution"], line["console"]) == (None, None)
        assert operators.machine.calls == []


def test_ten_thousand_orders_are_answered_a_page_at_a_time_with_one_run_and_few_calls(operators: Operators) -> None:
    operators.buyer()
    bulk(operators, 10_000)
    operators.table.calls.clear()
    document = operators.update()
    assert (results(document), document["next"] is not None) == ({"started": 100}, True)
    assert runs(operators) == ["evt_first-r2"]
    # The account: by e-mail (a page of the index for each MB), its customer, its person. The orders: a page of the
    # index, and the rows. The run: the oldest and the latest, their rows, and the attempt.
    assert operators.table.total <= 14, operators.table.calls


def bulk(operators: Operators, count: int) -> None:
    """Open orders of cus_1 whose runs failed, without a call for each: copies of one, as the ledger writes it."""
    now = int(operators.clock.now)
    operators.failed("evt_first", now - count)
    key = {"pk": {"S": "ORDER#evt_first"}, "sk": {"S": "ORDER"}}
    row = operators.dynamodb.get_item(TableName="orders", Key=key)["Item"]
    for start in range(1, count, 25):
        puts = []
        for each in range(start, min(start + 25, count)):
            name, at = f"evt_{each:05}", now - count + each
            copy = row | {"pk": {"S": f"ORDER#{name}"}, "event_id": {"S": name}, "received_at": {"N": str(at)}}
            puts.append({"PutRequest": {"Item": copy | {"rank": {"S": f"OPEN#{at}#{name}"}}}})
        operators.dynamodb.batch_write_item(RequestItems={"orders": puts})


class TestRunThatCannotBeStarted:
    @pytest.mark.parametrize(
        ("error", "status", "name"),
        [
            (THROTTLED, 503, "StartThrottled"),
            (SILENT, 503, "StartUnavailable"),
            (DENIED, 502, "StartRejected"),
        ],
    )
    def test_is_told_and_its_order_stays_due(
        self, operators: Operators, error: Exception, status: int, name: str, lines: list[str]
    ) -> None:
        operators.failed()
        operators.machine.errors.append(error)
        found, said = operators.ask("UpdateOrders")
        assert (found, said["error"]) == (status, name)
        assert not any(EMAIL in line for line in lines)
        due = [each for shard in range(8) for each in operators.ledger.due(shard, NOW + ATTEMPT_SECONDS)]
        assert [each.event_id for each in due if isinstance(each, Attempt)] == ["evt_1"]

    def test_is_started_by_whoever_asks_again(self, operators: Operators) -> None:
        operators.failed()
        operators.machine.errors.append(THROTTLED)
        assert operators.ask("UpdateOrders")[0] == 503
        assert runs(operators) == []
        line = operators.update()["orders"][0]
        assert (line["result"], line["execution"]) == ("already running", f"{EXECUTION}evt_1-r2")
        assert runs(operators) == ["evt_1-r2"]


@pytest.mark.parametrize("token", ["cus_2|OPEN#1#evt_1", "cus_1|DONE#1#evt_1", "cus_1", *HOSTILE[:7], *HOSTILE[8:]])
def test_a_page_of_somebody_else_starts_nothing(operators: Operators, token: str) -> None:
    operators.failed()
    operators.failed("evt_2", customer_id="cus_2", email=OTHER)
    assert operators.ask("UpdateOrders", {"email": EMAIL, "next": token})[0] == 400
    assert operators.machine.calls == []


def test_nothing_personal_is_logged_or_given_to_the_run(operators: Operators, lines: list[str]) -> None:
    operators.failed()
    operators.update()
    assert not any(EMAIL in trace for trace in (*lines, str(operators.machine.executions)))
