"""gateway.step: what a task reads of its execution, and what leaves it when it fails."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aws_lambda_powertools.metrics import MetricUnit

from gateway.access import Access, Target, User
from gateway.errors import GatewayError, LedgerThrottled, PersonBusy, UnexpectedError
from gateway.ledger import Change
from gateway.step import Deletion, Run, defect, deletion_step, failure, shape, step
from gateway.telemetry import metrics

ARN = "arn:aws:states:us-east-1:123456789012:execution:fulfillment:"
PERSONAL = "payer@example.com"
CONTEXT = SimpleNamespace(aws_request_id="request-1", function_name="create-user")

ACCESS = {
    "wanted": True,
    "status": "ACTIVE",
    "dapp_limit": 5,
    "reason": "sub_1 active",
    "recheck_at": None,
    "alarms": ["limit clamped from 9 to 5"],
}
USER = User(True, sub="u-1", linked=True, enabled=True, provider="STRIPE", dapp_limit=3, payment_status="ACTIVE")
STOOD = {"enabled": True, "dapp_limit": 3, "payment_status": "ACTIVE"}
STANDS = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}


def run(execution: str = "evt_1", **state: Any) -> Run:
    given = {"event_id": "evt_1", "order_id": "in_1", "customer_id": "cus_1"}
    return Run(ARN + execution, "request-1", {**given, **state})


def billing(**changed: Any) -> dict[str, Any]:
    answer = {"pass": 2, "read_at": 1_790_000_000, "parties": ["cus_1"], "access": {**ACCESS, **changed}}
    return {**answer, "deleted_at": None, "erased": False, "left_over": [], "resume": False}


def lookup(user: User = USER) -> dict[str, Any]:
    return {"user": user.facts(), "target": {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}}


class TestRun:
    @pytest.mark.parametrize(
        ("order_id", "customer_id", "party", "customer"),
        [
            ("in_1", "cus_1", "cus_1", "cus_1"),
            ("cs_1", None, "cs_1", None),
            ("or_1", None, "or_1", None),
            ("or_1", "cus_1", "or_1", None),
        ],
    )
    def test_is_of_a_party(self, order_id: str, customer_id: str | None, party: str, customer: str | None) -> None:
        found = run(order_id=order_id, customer_id=customer_id)
        assert (found.event_id, found.party, found.customer_id) == ("evt_1", party, customer)

    @pytest.mark.parametrize(
        ("order_id", "customer_id", "unknown"),
        [
            ("in_1", "cus_1", False),
            ("cs_1", None, False),
            ("or_1", None, False),
            # What names only a charge: nobody knows whose it is.
            ("ch_1", None, True),
            ("du_1", None, True),
            ("re_1", None, True),
            ("issfr_1", None, True),
        ],
    )
    def test_has_a_payer_unless_only_a_charge_is_known(
        self, order_id: str, customer_id: str | None, unknown: bool
    ) -> None:
        assert run(order_id=order_id, customer_id=customer_id).payer_unknown is unknown

    @pytest.mark.parametrize(
        ("parties", "party", "customer"),
        [
            (["cus_1", "cus_2"], "cus_1", "cus_1"),
            (["cs_1", "cus_2"], "cs_1", None),
        ],
    )
    def test_is_of_the_payer_that_read_billing_found(
        self, parties: list[str], party: str, customer: str | None
    ) -> None:
        found = run(order_id="du_1", customer_id=None, billing={**billing(), "parties": parties})
        assert (found.party, found.customer_id, found.parties) == (party, customer, parties)
        assert found.payer_unknown is False

    @pytest.mark.parametrize(
        ("execution", "attempt"),
        [("evt_1", 1), ("evt_1-r2", 2), ("evt_1-r14", 14), ("evt_1-rx", 1), ("evt_1-r", 1), ("by-hand", 1)],
    )
    def test_knows_its_attempt_by_its_name(self, execution: str, attempt: int) -> None:
        assert run(execution).attempt == attempt

    def test_counts_its_looks_at_stripe(self) -> None:
        assert (run().passes, run(billing=billing()).passes) == (0, 2)

    def test_reads_what_the_tasks_before_it_answered(self) -> None:
        found = run(billing=json.loads(json.dumps(billing())), lookup=json.loads(json.dumps(lookup())))
        assert found.access == Access(True, "ACTIVE", 5, "sub_1 active")
        assert found.read_at == 1_790_000_000
        assert found.target == Target(True, 5, "ACTIVE")
        assert found.user == USER
        assert found.seen == USER.facts()
        assert found.sub == "u-1"

    @pytest.mark.parametrize(
        ("answered", "deleted_at", "erased"),
        [
            ({"deleted_at": None, "erased": False}, 0, False),
            ({"deleted_at": 1_790_000_000, "erased": False}, 1_790_000_000, False),
            ({"deleted_at": 1_790_000_000, "erased": True}, 1_790_000_000, True),
        ],
    )
    def test_knows_of_the_deletion_of_the_payers_account(
        self, answered: dict[str, Any], deleted_at: int, erased: bool
    ) -> None:
        found = run(billing={**billing(), **answered})
        assert (found.deleted_at, found.erased) == (deleted_at, erased)

    def test_says_what_it_is_about_to_change(self) -> None:
        found = run(billing=billing(), lookup=lookup())
        assert found.change(found.seen, STANDS) == Change(STOOD, STANDS, "sub_1 active", ARN + "evt_1")

    @pytest.mark.parametrize("before", [None, User(exists=False).facts()])
    def test_changes_nobody_into_a_new_user(self, before: dict[str, Any] | None) -> None:
        assert run(billing=billing()).change(before, STANDS).before is None

    @pytest.mark.parametrize(
        ("state", "before"),
        [
            ({}, STOOD),
            ({"change": {"before": None, "after": None}}, STOOD),
            ({"change": {"before": {**STOOD, "dapp_limit": 1}, "after": STOOD}}, {**STOOD, "dapp_limit": 1}),
        ],
        ids=["first change", "nothing changed yet", "second change"],
    )
    def test_answers_how_the_user_stood_before_the_first_change(
        self, state: dict[str, Any], before: dict[str, Any]
    ) -> None:
        assert run(lookup=lookup(), **state).changed(STANDS) == {"before": before, "after": STANDS}

    def test_that_creates_the_user_answers_that_there_was_none(self) -> None:
        assert run(lookup=lookup(User(exists=False))).changed(STANDS) == {"before": None, "after": STANDS}

    def test_that_wrote_nothing_answers_what_was_changed_so_far(self) -> None:
        so_far = {"before": STOOD, "after": STANDS}
        assert run().change_so_far == {"before": None, "after": None}
        assert run(change=so_far).change_so_far == so_far

    def test_shape_is_what_operators_ask_for(self) -> None:
        assert shape(USER.facts()) == STOOD
        assert shape(User(exists=False).facts()) is None


def _fail(error: Exception) -> Exception:
    try:
        raise error
    except Exception as raised:
        return raised


class TestDefect:
    @pytest.mark.parametrize(
        ("error", "name"),
        [(ValueError(PERSONAL), "ValueError"), (KeyError(PERSONAL), "KeyError"), (OSError(), "OSError")],
    )
    def test_names_type_and_place_and_never_the_text(self, error: Exception, name: str) -> None:
        text = defect(_fail(error))
        assert text.startswith(f"{name} at test_step.py:")
        assert text.endswith("; this is a defect")
        assert PERSONAL not in text


class TestStep:
    EVENT = {"execution": ARN + "evt_1-r2", "run": {"event_id": "evt_1", "order_id": "in_1", "customer_id": "cus_1"}}

    def test_makes_a_handler_of_a_task(self, lines: list[str]) -> None:
        seen: list[Run] = []

        @step
        def handler(run: Run) -> dict[str, Any]:
            """What it does."""
            seen.append(run)
            return {"closed": 1}

        assert handler(self.EVENT, CONTEXT) == {"closed": 1}
        assert seen == [Run(ARN + "evt_1-r2", "request-1", self.EVENT["run"])]
        assert handler.__doc__ == "What it does."
        line = json.loads(lines[-1])
        assert (line["message"], line["answer"]) == ("done", {"closed": 1})

    def test_names_event_order_and_execution_in_every_line(self, lines: list[str]) -> None:
        step(lambda run: {})(self.EVENT, CONTEXT)
        expected = {
            "function": "create-user",
            "event_id": "evt_1",
            "order_id": "in_1",
            "execution": ARN + "evt_1-r2",
        }
        assert json.loads(lines[-1]).items() >= expected.items()

    def test_lets_our_own_errors_pass(self, lines: list[str]) -> None:
        def task(run: Run) -> dict[str, Any]:
            raise PersonBusy("try again")

        with pytest.raises(PersonBusy, match=r"^try again$"):
            step(task)(self.EVENT, CONTEXT)
        assert json.loads(lines[-1])["message"] == "PersonBusy: try again"

    @pytest.mark.parametrize(
        ("error", "expected"), [(LedgerThrottled("later"), {"Throttled": 1}), (PersonBusy("later"), {})]
    )
    def test_counts_that_a_service_throttles(
        self, counted: Callable[[], dict[str, float]], error: GatewayError, expected: dict[str, float]
    ) -> None:
        def task(run: Run) -> dict[str, Any]:
            raise error

        with pytest.raises(type(error)):
            step(task)(self.EVENT, CONTEXT)
        assert counted() == expected

    def test_sends_what_its_task_counted_before_it_failed(self, counted: Callable[[], dict[str, float]]) -> None:
        def task(run: Run) -> dict[str, Any]:
            metrics.add_metric("Seen", MetricUnit.Count, 2)
            raise ValueError

        with pytest.raises(UnexpectedError):
            step(task)(self.EVENT, CONTEXT)
        assert counted() == {"Seen": 2}

    @pytest.mark.parametrize("error", [ValueError(PERSONAL), KeyError(PERSONAL), RuntimeError(PERSONAL, PERSONAL)])
    def test_makes_any_other_error_one_without_personal_data(self, lines: list[str], error: Exception) -> None:
        def task(run: Run) -> dict[str, Any]:
            raise error

        with pytest.raises(UnexpectedError) as caught:
            step(task)(self.EVENT, CONTEXT)
        assert str(caught.value).startswith(f"{type(error).__name__} at test_step.py:")
        assert caught.value.__suppress_context__
        assert not any(PERSONAL in line for line in [*lines, str(caught.value)])

    def test_leaves_exits_alone(self) -> None:
        def task(run: Run) -> dict[str, Any]:
            raise SystemExit(1)

        with pytest.raises(SystemExit):
            step(task)(self.EVENT, CONTEXT)

    def test_of_a_deletion_names_the_tombstone_in_every_line(self, lines: list[str]) -> None:
        seen: list[Deletion] = []

        @deletion_step
        def handler(run: Deletion) -> dict[str, Any]:
            """What it does."""
            seen.append(run)
            return {"deleted": True}

        event = {"execution": ARN + "t1-r2", "run": {"tombstone": "t1"}}
        assert handler(event, CONTEXT) == {"deleted": True}
        assert handler.__doc__ == "What it does."
        assert seen == [Deletion(ARN + "t1-r2", "request-1", {"tombstone": "t1"})]
        line = json.loads(lines[-1])
        assert line.items() >= {"message": "done", "tombstone": "t1", "execution": ARN + "t1-r2"}.items()

    def test_of_a_deletion_lets_no_personal_data_out(self, lines: list[str]) -> None:
        @deletion_step
        def handler(run: Deletion) -> dict[str, Any]:
            raise ValueError(PERSONAL)

        with pytest.raises(UnexpectedError, match=r"^ValueError at test_step\.py:\d+; this is a defect$"):
            handler({"execution": ARN + "t1-r1", "run": {"tombstone": "t1"}}, CONTEXT)
        assert not any(PERSONAL in line for line in lines)

    def test_every_error_has_a_name_of_its_own(self) -> None:
        """Step Functions matches the bare class name."""
        names = [each.__name__ for each in GatewayError.__subclasses__() if each.__module__.startswith("gateway.")]
        assert len(names) == len(set(names))


class TestDeletion:
    def test_counts_its_looks_at_what_remains(self) -> None:
        assert Deletion(ARN, "request-1", {"tombstone": "t1"}).passes == 0
        assert Deletion(ARN, "request-1", {"tombstone": "t1", "remains": {"pass": 3}}).passes == 3


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (json.dumps({"errorMessage": "try later", "errorType": "StripeThrottled"}), "StripeThrottled: try later"),
        (json.dumps({"errorMessage": 429}), "StripeThrottled: 429"),
        ("no JSON", "StripeThrottled: no JSON"),
        (json.dumps({"message": "no envelope"}), 'StripeThrottled: {"message": "no envelope"}'),
        (json.dumps(["no object"]), 'StripeThrottled: ["no object"]'),
        ("null", "StripeThrottled: null"),
        ("", "StripeThrottled: "),
        (None, "StripeThrottled: "),
    ],
)
def test_a_failure_is_the_errors_name_and_the_message_in_its_envelope(cause: str | None, message: str) -> None:
    given = {"Error": "StripeThrottled"} | ({} if cause is None else {"Cause": cause})
    assert failure(given) == message
