"""hold_user.handler: a ban holds when it is answered; lifting it gives the user back to whoever decides about them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.access import Live
from gateway.errors import PersonBusy
from gateway.ledger import LEASE_SECONDS
from tests.unit.operators import CALLER, DENIED, HOSTILE, SILENT, THROTTLED, UNPRINTABLE, Killed, Operators
from tests.unit.steps import EMAIL, Json

OTHER = "other@example.com"
REASON = "markedreason"
EXECUTION = "arn:aws:states:us-east-1:123456789012:execution:fulfillment:"
FACTS = ("enabled", "held", "disabled_by")


@pytest.fixture
def operators(dynamodb: Any, cognito: Any, pool_id: str, mail: object, monkeypatch: pytest.MonkeyPatch) -> Operators:
    return Operators(dynamodb, cognito, pool_id, monkeypatch)


# ------------------------------------------------------------------ who may be banned


def paying(operators: Operators) -> str:
    return str(operators.buyer().sub)


def unpaid(operators: Operators) -> str:
    sub = paying(operators)
    operators.users.update(sub, disabled_by="billing", dapp_limit=0, payment_status="FAILED")
    operators.users.disable(sub)
    return sub


def comped(operators: Operators) -> str:
    return operators.stranger(**{"custom:payment_provider": "ADMIN"})


def comped_payer(operators: Operators) -> str:
    return str(operators.buyer(provider="ADMIN").sub)


def never_bought(operators: Operators) -> str:
    return operators.stranger()


def adopted(operators: Operators) -> str:
    sub = operators.stranger(**{"custom:num_dapps": "2"})
    operators.ledger.link(["cus_1"], sub, replacing=None, before={"dapp_limit": 2, "payment_status": ""})
    return sub


def disabled_by_hand(operators: Operators) -> str:
    sub = operators.stranger()
    operators.users.disable(sub)
    return sub


def payer_disabled_by_hand(operators: Operators) -> str:
    sub = paying(operators)
    operators.users.disable(sub)
    return sub


Who = Callable[[Operators], str]
LINKED: tuple[Who, ...] = (paying, unpaid, comped_payer, adopted, payer_disabled_by_hand)
UNLINKED: tuple[Who, ...] = (comped, never_bought, disabled_by_hand)
EVERYBODY = LINKED + UNLINKED


def stands(operators: Operators, sub: str) -> tuple[bool, bool, str]:
    user = operators.seen(sub)
    return user.enabled, user.held, user.disabled_by


def held(operators: Operators, sub: str) -> Any:
    person = operators.ledger.person(sub)
    return None if person is None else person.held


def lease_is_free(operators: Operators, sub: str) -> bool:
    return operators.row(f"LEASE#{sub}", "LEASE") == {}


def rechecks(operators: Operators) -> list[str]:
    return sorted(operators.machine.executions)


class TestBan:
    @pytest.mark.parametrize("who", EVERYBODY)
    def test_holds_when_it_is_answered(self, operators: Operators, who: Who) -> None:
        sub = who(operators)
        said = operators.hold(reason=REASON)
        expected = {"email": EMAIL, "sub": sub, "held": True, "enabled": False}
        assert said.items() >= expected.items()
        assert said.keys() == {*expected, "run", "console"}
        assert stands(operators, sub) == (False, True, "operator")
        ban = {"reason": REASON, "requested_by": CALLER, "at": int(operators.clock.now)}
        assert held(operators, sub) == ban
        assert lease_is_free(operators, sub)

    @pytest.mark.parametrize("who", EVERYBODY)
    def test_has_the_authorizer_refuse_them_from_its_first_write_on(self, operators: Operators, who: Who) -> None:
        sub = who(operators)
        operators.ledger.set_live(sub, Live(True, 5), 1)
        stood = stands(operators, sub)
        operators.table.killed_after = 2  # the lease is the first
        with pytest.raises(Killed):
            operators.hold()
        person = operators.ledger.person(sub)
        assert person is not None
        assert (person.barred, person.live, person.signed_out_at) == ("held", Live(), int(operators.clock.now))
        assert stands(operators, sub) == stood

    @pytest.mark.parametrize("who", LINKED)
    def test_of_a_customers_user_starts_a_run_that_tells_others(self, operators: Operators, who: Who) -> None:
        who(operators)
        said = operators.hold()
        name = said["run"].removeprefix(EXECUTION)
        assert operators.machine.executions == {name: {"event_id": name, "order_id": "cus_1", "customer_id": "cus_1"}}
        assert said["console"].endswith(f"/details/{said['run']}")
        order = operators.order(name)
        assert (order["event_type"], order["party"], order["state"]) == ("gateway.recheck", "cus_1", "RECEIVED")
        assert order["livemode"] is False

    @pytest.mark.parametrize("who", UNLINKED)
    def test_of_anybody_else_starts_none(self, operators: Operators, who: Who) -> None:
        who(operators)
        said = operators.hold()
        assert (said["run"], said["console"], operators.machine.calls) == (None, None, [])

    def test_signs_out_before_it_disables_and_says_who_before_both(self, operators: Operators) -> None:
        paying(operators)
        operators.hold()
        writes = [name for name in operators.pool.calls if name != "admin_get_user"]
        assert writes == ["admin_update_user_attributes", "admin_user_global_sign_out", "admin_disable_user"]

    def test_of_a_disabled_user_only_says_so(self, operators: Operators) -> None:
        unpaid(operators)
        operators.hold()
        assert {*operators.pool.calls} == {"admin_get_user", "admin_update_user_attributes"}

    def test_leaves_limit_and_status_as_they_are(self, operators: Operators) -> None:
        sub = paying(operators)
        operators.hold()
        user = operators.seen(sub)
        assert (user.dapp_limit, user.payment_status, user.provider) == (5, "ACTIVE", "STRIPE")

    def test_is_the_last_change_of_the_person(self, operators: Operators) -> None:
        sub = paying(operators)
        operators.hold()
        person = operators.ledger.person(sub)
        assert person is not None
        stood = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
        expected = {"before": stood, "after": {**stood, "enabled": False}, "reason": "held", "execution": CALLER}
        assert person.last_change is not None
        assert person.last_change.items() >= expected.items()

    def test_twice_keeps_the_latest_reason(self, operators: Operators) -> None:
        sub = paying(operators)
        operators.hold(reason="first")
        operators.hold(reason="second")
        assert held(operators, sub)["reason"] == "second"
        assert stands(operators, sub) == (False, True, "operator")

    @pytest.mark.parametrize("reason", [None, "", " ", "x" * 501, 1, True, [], *UNPRINTABLE])
    def test_needs_a_reason(self, operators: Operators, reason: object) -> None:
        paying(operators)
        before = operators.everything()
        status, said = operators.ask("HoldUser", {"email": EMAIL, "hold": True, "reason": reason})
        assert (status, said["error"]) == (400, "RequestInvalid")
        assert said["message"].startswith("reason is ")
        assert operators.everything() == before

    @pytest.mark.parametrize("reason", [*HOSTILE, "Zoë 🦄", "x" * 500])
    def test_takes_any_printable_reason(self, operators: Operators, reason: str) -> None:
        sub = paying(operators)
        operators.hold(reason=reason)
        assert held(operators, sub)["reason"] == reason

    @pytest.mark.parametrize("hold", [None, "true", 1, 0, []])
    def test_must_be_said(self, operators: Operators, hold: object) -> None:
        paying(operators)
        assert operators.ask("HoldUser", {"email": EMAIL, "hold": hold, "reason": REASON})[0] == 400
        assert operators.machine.calls == []


class TestLift:
    @pytest.mark.parametrize("who", [paying, unpaid, adopted, payer_disabled_by_hand])
    def test_of_whom_billing_governs_leaves_the_rest_to_a_run(self, operators: Operators, who: Who) -> None:
        sub = who(operators)
        operators.hold()
        operators.machine.executions.clear()
        said = operators.lift()
        assert (said["held"], said["enabled"]) == (False, False)
        assert stands(operators, sub) == (False, False, "billing")
        assert held(operators, sub) is None
        assert rechecks(operators) == [said["run"].removeprefix(EXECUTION)]

    @pytest.mark.parametrize("who", UNLINKED)
    def test_of_anybody_else_enables_them(self, operators: Operators, who: Who) -> None:
        sub = who(operators)
        operators.hold()
        said = operators.lift()
        assert (said["held"], said["enabled"], said["run"]) == (False, True, None)
        assert stands(operators, sub) == (True, False, "")
        assert held(operators, sub) is None
        assert lease_is_free(operators, sub)

    @pytest.mark.parametrize(
        ("who", "live"),
        [
            (comped, Live(True, 7)),
            (comped_payer, Live(True, 5)),
            (paying, Live()),  # a run lets them in, if they pay
            (unpaid, Live()),
            (adopted, Live()),
            (never_bought, Live()),  # nothing gives them access
        ],
    )
    def test_has_the_authorizer_let_in_only_who_is_comped(self, operators: Operators, who: Who, live: Live) -> None:
        sub = who(operators)
        if who is comped:
            operators.write(sub, **{"custom:num_dapps": "7"})
        operators.hold()
        operators.lift()
        person = operators.ledger.person(sub)
        assert person is not None
        assert (person.held, person.live) == (None, live)

    def test_of_one_whom_billing_disabled_before_they_were_comped_lets_nobody_in(self, operators: Operators) -> None:
        sub = comped(operators)
        operators.users.update(sub, disabled_by="billing")
        operators.users.disable(sub)
        assert operators.lift()["enabled"] is False
        person = operators.ledger.person(sub)
        assert person is not None
        assert person.live == Live()

    def test_of_one_who_is_comped_and_a_customer_enables_them(self, operators: Operators) -> None:
        sub = comped_payer(operators)
        operators.hold()
        said = operators.lift()
        assert (said["enabled"], said["run"] is not None) == (True, True)
        assert stands(operators, sub) == (True, False, "")

    @pytest.mark.parametrize(
        ("who", "stood", "enabled"),
        [
            (paying, (True, False, ""), True),
            (never_bought, (True, False, ""), True),
            (comped, (True, False, ""), True),
            (unpaid, (False, False, "billing"), False),
        ],
    )
    def test_of_no_ban_changes_nothing(
        self, operators: Operators, who: Who, stood: tuple[bool, bool, str], enabled: bool
    ) -> None:
        sub = who(operators)
        assert operators.lift()["enabled"] is enabled
        assert stands(operators, sub) == stood

    def test_of_one_whom_somebody_disabled_in_the_console_is_a_lift(self, operators: Operators) -> None:
        sub = disabled_by_hand(operators)
        assert operators.lift()["enabled"] is True
        assert stands(operators, sub) == (True, False, "")

    def test_twice_is_a_lift(self, operators: Operators) -> None:
        sub = never_bought(operators)
        operators.hold()
        assert operators.lift()["enabled"] is operators.lift()["enabled"] is True
        assert stands(operators, sub) == (True, False, "")

    def test_needs_no_reason(self, operators: Operators) -> None:
        never_bought(operators)
        assert operators.ask("HoldUser", {"email": EMAIL, "hold": False})[0] == 200


class TestRuns:
    def test_of_a_ban_and_its_lift_in_one_second_are_two(self, operators: Operators) -> None:
        paying(operators)
        first, second = operators.hold()["run"], operators.lift()["run"]
        assert first != second
        assert len(rechecks(operators)) == 2
        assert len({operators.order(name)["event_id"] for name in rechecks(operators)}) == 2

    def test_have_names_that_step_functions_takes(self, operators: Operators) -> None:
        paying(operators)
        name = operators.hold()["run"].removeprefix(EXECUTION)
        assert name.replace("_", "").isalnum()
        assert len(f"{name}-r9999") <= 80

    def test_that_cannot_be_started_are_due(self, operators: Operators) -> None:
        sub = paying(operators)
        operators.machine.errors.append(THROTTLED)
        status, said = operators.ask("HoldUser", {"email": EMAIL, "hold": True, "reason": REASON})
        assert (status, said["error"]) == (503, "StartThrottled")
        assert stands(operators, sub) == (False, True, "operator")  # the ban holds nevertheless
        later = int(operators.clock.now) + 900
        due = [each.event_id for shard in range(8) for each in operators.ledger.due(shard, later)]  # type: ignore[union-attr]
        assert len(due) == 1
        assert due[0].startswith("recheck_")

    def test_in_live_mode_are_of_live_mode(self, operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
        paying(operators)
        monkeypatch.setattr(operators.endpoint("HoldUser"), "LIVEMODE", True)
        assert operators.order(operators.hold()["run"].removeprefix(EXECUTION))["livemode"] is True


class TestWhileARunWrites:
    def test_a_ban_waits_for_it(self, operators: Operators) -> None:
        sub = paying(operators)
        operators.ledger.acquire(sub, "a run", int(operators.clock.now))
        operators.clock.meanwhile = [lambda: None, lambda: operators.ledger.release(sub, "a run")]
        assert operators.hold()["enabled"] is False
        assert operators.clock.slept == [1.0, 1.0]
        assert stands(operators, sub) == (False, True, "operator")

    def test_a_ban_sees_what_it_wrote(self, operators: Operators) -> None:
        sub = unpaid(operators)
        operators.ledger.acquire(sub, "a run", int(operators.clock.now))

        def enables() -> None:
            operators.users.enable(sub)
            operators.users.update(sub, disabled_by="")
            operators.ledger.release(sub, "a run")

        operators.clock.meanwhile = [enables]
        operators.hold()
        assert stands(operators, sub) == (False, True, "operator")

    @pytest.mark.parametrize("hold", [True, False])
    def test_that_does_not_end_is_told_to_ask_again(self, operators: Operators, hold: bool) -> None:
        sub = paying(operators)
        operators.ledger.acquire(sub, "a run", int(operators.clock.now))
        before = operators.everything()
        status, said = operators.ask("HoldUser", {"email": EMAIL, "hold": hold, "reason": REASON})
        assert (status, said["error"]) == (503, "PersonBusy")
        assert operators.clock.slept == [1.0] * 4
        assert operators.everything() == before
        assert operators.machine.calls == []

    def test_that_was_killed_is_waited_for_no_longer_than_its_lease(self, operators: Operators) -> None:
        sub = paying(operators)
        operators.ledger.acquire(sub, "a run", int(operators.clock.now) - LEASE_SECONDS + 2)
        assert operators.hold()["held"] is True
        assert operators.clock.slept == [1.0, 1.0]

    def test_a_run_that_comes_meanwhile_is_busy(self, operators: Operators) -> None:
        sub = paying(operators)
        busy: list[bool] = []
        disable = operators.users.disable

        class Users(type(operators.users)):  # type: ignore[misc]
            def disable(self, sub: str) -> None:
                try:
                    operators.ledger.acquire(sub, "a run", int(operators.clock.now))
                except PersonBusy:
                    busy.append(True)
                disable(sub)

        endpoint = operators.endpoint

        def with_users(function: str) -> Any:
            module = endpoint(function)
            operators._patch.setattr(module, "users", Users(operators.cognito, operators.pool_id))
            return module

        operators.endpoint = with_users  # type: ignore[method-assign]
        operators.hold()
        assert busy == [True]
        assert lease_is_free(operators, sub)


class TestWhom:
    def test_nobody_has_the_address(self, operators: Operators) -> None:
        assert operators.ask("HoldUser", {"email": EMAIL, "hold": True, "reason": REASON})[0] == 404
        assert operators.everything() == []

    def test_only_a_customer_has_the_address(self, operators: Operators) -> None:
        operators.failed()
        before = operators.everything()
        status, said = operators.ask("HoldUser", {"email": EMAIL, "hold": True, "reason": REASON})
        assert (status, said["error"], said["message"]) == (404, "AccountUnknown", "no user has this address")
        assert operators.everything() == before

    def test_several_users_have_the_address(self, operators: Operators) -> None:
        owner, linked = operators.stranger(), operators.stranger(OTHER)
        operators.ledger.link(["cus_1"], linked, replacing=None)
        operators.failed()
        assert operators.ask("HoldUser", {"email": EMAIL, "hold": True, "reason": REASON})[0] == 409
        assert operators.hold(sub=linked)["sub"] == linked
        assert (operators.seen(owner).enabled, operators.seen(linked).enabled) == (True, False)

    def test_the_address_is_not_the_users_own(self, operators: Operators) -> None:
        sub = operators.stranger(OTHER)
        operators.ledger.link(["cus_1"], sub, replacing=None)
        operators.failed()
        status, said = operators.ask("HoldUser", {"email": EMAIL, "hold": True, "reason": REASON})
        assert (status, said["error"]) == (409, "AccountAmbiguous")
        assert operators.seen(sub).enabled is True
        assert operators.hold(sub=sub)["held"] is True

    @pytest.mark.parametrize("sub", HOSTILE)
    def test_nobody_has_the_sub(self, operators: Operators, sub: str) -> None:
        mine = paying(operators)
        status, _ = operators.ask("HoldUser", {"email": EMAIL, "hold": True, "reason": REASON, "sub": sub})
        assert status == 409
        assert operators.seen(mine).enabled is True

    def test_the_user_is_deleted_meanwhile(self, operators: Operators) -> None:
        sub = paying(operators)
        operators.ledger.acquire(sub, "a run", int(operators.clock.now))

        def deletes() -> None:
            operators.users.delete(sub)
            operators.ledger.release(sub, "a run")

        operators.clock.meanwhile = [deletes]
        assert operators.ask("HoldUser", {"email": EMAIL, "hold": True, "reason": REASON})[0] == 404
        assert lease_is_free(operators, sub)

    def test_the_account_is_being_deleted(self, operators: Operators) -> None:
        """A ban still holds until the user is gone; nobody is let in again."""
        sub = paying(operators)
        operators.ledger.bury_person(sub, int(operators.clock.now))
        operators.hold()
        assert stands(operators, sub) == (False, True, "operator")
        status, said = operators.ask("HoldUser", {"email": EMAIL, "hold": False})
        assert (status, said["error"]) == (409, "DeletionUnderWay")
        assert stands(operators, sub) == (False, True, "operator")
        assert lease_is_free(operators, sub)


# ------------------------------------------------------------------ what goes wrong between two calls

WRITES = 9  # more than either endpoint makes


class TestKilled:
    """Between any two calls; whoever asks again, once the lease is over, completes it."""

    def killed(self, operators: Operators, client: str, after: int, content: Json) -> bool:
        """Whether it came to that."""
        getattr(operators, client).killed_after = after
        try:
            operators.ask("HoldUser", content)
        except Killed:
            return True
        finally:
            getattr(operators, client).killed_after = None
        return False

    @pytest.mark.parametrize("client", ["table", "pool"])
    @pytest.mark.parametrize("after", range(1, WRITES))
    @pytest.mark.parametrize("who", [paying, unpaid, never_bought, comped_payer])
    def test_a_ban_is_completed_by_whoever_asks_again(
        self, operators: Operators, who: Who, after: int, client: str
    ) -> None:
        sub = who(operators)
        if not self.killed(operators, client, after, {"email": EMAIL, "hold": True, "reason": REASON}):
            assert after > 1
            return
        operators.clock.now += LEASE_SECONDS
        operators.hold(reason="again")
        assert stands(operators, sub) == (False, True, "operator")
        assert held(operators, sub)["reason"] == "again"
        assert bool(rechecks(operators)) is (who is not never_bought)

    @pytest.mark.parametrize("client", ["table", "pool"])
    @pytest.mark.parametrize("after", range(1, WRITES))
    @pytest.mark.parametrize("who", [paying, unpaid, never_bought, comped_payer])
    def test_a_lift_is_completed_by_whoever_asks_again(
        self, operators: Operators, who: Who, after: int, client: str
    ) -> None:
        sub = who(operators)
        operators.hold()
        operators.machine.executions.clear()
        if not self.killed(operators, client, after, {"email": EMAIL, "hold": False}):
            return
        operators.clock.now += LEASE_SECONDS
        operators.lift()
        governed = who in (paying, unpaid)
        assert stands(operators, sub) == ((False, False, "billing") if governed else (True, False, ""))
        assert held(operators, sub) is None
        assert bool(rechecks(operators)) is (who is not never_bought)

    @pytest.mark.parametrize("after", range(1, WRITES))
    @pytest.mark.parametrize("client", ["table", "pool"])
    def test_a_ban_can_be_lifted(self, operators: Operators, after: int, client: str) -> None:
        sub = never_bought(operators)
        self.killed(operators, client, after, {"email": EMAIL, "hold": True, "reason": REASON})
        operators.clock.now += LEASE_SECONDS
        operators.lift()
        assert stands(operators, sub) == (True, False, "")
        assert held(operators, sub) is None


class TestOutage:
    @pytest.mark.parametrize("hold", [True, False])
    @pytest.mark.parametrize(("error", "status"), [(THROTTLED, 503), (SILENT, 503), (DENIED, 502)])
    @pytest.mark.parametrize(
        "operation", ["query", "get_item", "put_item", "update_item", "admin_get_user", "admin_update_user_attributes"]
    )
    def test_is_told_and_whoever_asks_again_completes_it(
        self, operators: Operators, operation: str, error: Exception, status: int, hold: bool, lines: list[str]
    ) -> None:
        sub = paying(operators)
        if not hold:
            operators.hold()
        client = operators.pool if operation.startswith("admin") else operators.table
        client.errors[operation] = error
        content = {"email": EMAIL, "hold": hold, "reason": REASON}
        assert operators.ask("HoldUser", content)[0] == status
        client.errors.clear()
        operators.clock.now += LEASE_SECONDS  # a write without an answer keeps the lease
        assert operators.ask("HoldUser", content)[0] == 200
        assert stands(operators, sub) == ((False, True, "operator") if hold else (False, False, "billing"))
        assert not any(EMAIL in line for line in lines)

    @pytest.mark.parametrize("operation", ["admin_user_global_sign_out", "admin_disable_user"])
    def test_of_the_last_calls_of_a_ban_is_told(self, operators: Operators, operation: str) -> None:
        sub = paying(operators)
        operators.pool.errors[operation] = THROTTLED
        assert operators.ask("HoldUser", {"email": EMAIL, "hold": True, "reason": REASON})[0] == 503
        operators.pool.errors.clear()
        operators.hold()
        assert stands(operators, sub) == (False, True, "operator")

    def test_of_the_enabling_is_told(self, operators: Operators) -> None:
        sub = never_bought(operators)
        operators.hold()
        operators.pool.errors["admin_enable_user"] = THROTTLED
        assert operators.ask("HoldUser", {"email": EMAIL, "hold": False})[0] == 503
        assert stands(operators, sub) == (False, True, "operator")
        operators.pool.errors.clear()
        assert operators.lift()["enabled"] is True


def test_the_reason_and_the_address_are_not_logged_and_the_caller_is(operators: Operators, lines: list[str]) -> None:
    paying(operators)
    operators.hold(reason=REASON)
    operators.lift()
    assert json.loads(lines[-1])["caller"] == CALLER
    assert not any(text in trace for trace in (*lines, str(operators.machine.executions)) for text in (EMAIL, REASON))
