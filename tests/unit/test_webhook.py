"""webhook.handler: whatever arrives at POST /create, in this process, signed as Stripe signs."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import stripe
from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError, ConnectTimeoutError

from gateway.events import Purchase
from gateway.executions import StateMachine
from gateway.ledger import ATTEMPT_SECONDS, MAX_ATTEMPTS, Attempt, Ledger
from gateway.secret import Secret
from tests.handlers import imported

Json = dict[str, Any]

NOW = 1_790_000_000
SECRET = "whsec_00000000000first"
NEW_SECRET = "whsec_0000000000second"
EMAIL = "markedmailbox@markeddomain.example"
NAME = "Markedgiven Markedfamily"
CONTEXT = SimpleNamespace(function_name="webhook", aws_request_id="request-1")

INVOICE = {
    "id": "in_1",
    "object": "invoice",
    "customer": "cus_1",
    "customer_email": EMAIL,
    "customer_name": NAME,
    "amount_due": 2000,
    "currency": "usd",
    "created": NOW - 5,
}
UNUSABLE = {**INVOICE, "customer": {"email": EMAIL}}
RUN = {"event_id": "evt_1", "order_id": "in_1", "customer_id": "cus_1"}


@dataclass
class Clock:
    now: float = NOW

    def time(self) -> float:
        return self.now


@dataclass
class Vault:
    """Secrets Manager with the signing secrets."""

    text: str = SECRET
    error: Exception | None = None
    calls: int = 0

    def get_secret_value(self, SecretId: str) -> Json:  # noqa: N803
        self.calls += 1
        if self.error is not None:
            raise self.error
        return {"ARN": SecretId, "SecretString": self.text}


@dataclass
class Machine:
    """Step Functions with memory: one name, one execution, for as long as anybody remembers it."""

    executions: dict[str, Json] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    error: Exception | None = None

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> None:  # noqa: A002, N803
        if self.error is not None:
            raise self.error
        run = json.loads(input)
        if name in self.executions and (name in self.ended or self.executions[name] != run):
            raise refusal("ExecutionAlreadyExists")
        self.executions[name] = run


class Broken:
    """A client whose every operation fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def fail(**request: Any) -> Any:
            raise self._error

        return fail


def refusal(code: str, status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": f"{EMAIL} {NAME}"}, "ResponseMetadata": {}}
    response["ResponseMetadata"]["HTTPStatusCode"] = status
    return ClientError(response, "Operation")


THROTTLED = refusal("ThrottlingException")
SILENT = ConnectTimeoutError(endpoint_url="https://aws")


# ------------------------------------------------------------------ what Stripe sends, and what API Gateway makes of it


def event(content: Json | None = None, **envelope: Any) -> Json:
    return {
        "id": "evt_1",
        "object": "event",
        "type": "invoice.paid",
        "livemode": False,
        "created": NOW,
        "data": {"object": INVOICE if content is None else content},
        "pending_webhooks": 1,
        **envelope,
    }


def written(event: Json) -> bytes:
    return json.dumps(event, indent=2).encode()


def signature(body: bytes, secret: str = SECRET, at: float = NOW) -> str:
    return stripe.WebhookSignature.generate_signature_header(body.decode(), secret, int(at))


def http_api(body: bytes, header: str | None) -> Json:
    """Payload 2.0: names of headers are lower case."""
    headers = {"content-type": "application/json"} | ({} if header is None else {"stripe-signature": header})
    return {
        "version": "2.0",
        "routeKey": "POST /create",
        "rawPath": "/create",
        "headers": headers,
        "body": body.decode(),
        "isBase64Encoded": False,
    }


def rest_api(body: bytes, header: str | None) -> Json:
    """Payload 1.0: names of headers as they were sent."""
    headers = {"Content-Type": "application/json"} | ({} if header is None else {"Stripe-Signature": header})
    return {
        "resource": "/create",
        "httpMethod": "POST",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "body": body.decode(),
        "isBase64Encoded": False,
    }


def in_base64(request: Json) -> Json:
    text = base64.b64encode(request["body"].encode()).decode()
    return {**request, "body": text, "isBase64Encoded": True}


class Gateway:
    """The handler and its world; `ledger` is the test's own way to the table."""

    def __init__(self, module: ModuleType, dynamodb: Any, vault: Vault, clock: Clock) -> None:
        self.vault = vault
        self.clock = clock
        self.machine = Machine()
        self.ledger = Ledger(dynamodb, "orders")
        self._module = module
        self.dynamodb = dynamodb

    def ask(self, request: Json) -> int:
        """The status of the answer; its words are in `said`."""
        answer = self._module.handler(request, CONTEXT)
        assert answer.keys() == {"statusCode", "headers", "body"}
        assert answer["headers"] == {"content-type": "application/json"}
        self.said = json.loads(answer["body"])["message"]
        return int(answer["statusCode"])

    def deliver(self, event: Json, secret: str = SECRET) -> int:
        """Stripe delivers this event now."""
        body = written(event)
        return self.ask(http_api(body, signature(body, secret, self.clock.now)))

    def order(self, event_id: str = "evt_1") -> Json:
        key = {"pk": {"S": f"ORDER#{event_id}"}, "sk": {"S": "ORDER"}}
        row = self.dynamodb.get_item(TableName="orders", Key=key, ConsistentRead=True).get("Item", {})
        return {name: TypeDeserializer().deserialize(value) for name, value in row.items()}

    @property
    def rows(self) -> int:
        return int(self.dynamodb.scan(TableName="orders", ConsistentRead=True)["Count"])

    @property
    def executions(self) -> list[str]:
        return sorted(self.machine.executions)


@pytest.fixture(scope="module")
def module(_moto: None) -> ModuleType:
    return imported("WebhookFunction")


@pytest.fixture
def gateway(module: ModuleType, dynamodb: Any, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    clock, vault = Clock(), Vault()
    gateway = Gateway(module, dynamodb, vault, clock)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr("stripe._webhook.time", clock)
    monkeypatch.setattr(module, "ledger", Ledger(dynamodb, "orders"))
    monkeypatch.setattr(module, "fulfillment", StateMachine(gateway.machine, "arn:machine"))
    monkeypatch.setattr(module, "signing", Secret(vault, "arn:secret", clock.time))
    return gateway


# ------------------------------------------------------------------ what is taken


class TestFirstDelivery:
    def test_becomes_an_order_and_an_execution(self, gateway: Gateway, counted: Callable[[], Any]) -> None:
        assert gateway.deliver(event()) == 200
        order = gateway.order()
        expected = {"state": "RECEIVED", "attempts": 1, "received_at": NOW, "party": "cus_1", "email": EMAIL}
        assert order.items() >= expected.items()
        assert gateway.machine.executions == {"evt_1": RUN}
        assert counted() == {"EventReceived": 1}

    @pytest.mark.parametrize("shape", [http_api, rest_api])
    @pytest.mark.parametrize("encoded", [False, True])
    def test_may_come_through_either_kind_of_api(
        self, gateway: Gateway, shape: Callable[..., Json], encoded: bool
    ) -> None:
        body = written(event({**INVOICE, "customer_name": "Zoë 🦄"}))
        request = shape(body, signature(body))
        assert gateway.ask(in_base64(request) if encoded else request) == 200
        assert gateway.executions == ["evt_1"]

    @pytest.mark.parametrize("name", ["stripe-signature", "Stripe-Signature", "STRIPE-SIGNATURE"])
    def test_has_its_signature_in_any_case(self, gateway: Gateway, name: str) -> None:
        body = written(event())
        assert gateway.ask({**http_api(body, None), "headers": {name: signature(body)}}) == 200

    def test_of_a_purchase_is_remembered_with_its_party(self, gateway: Gateway) -> None:
        session = {"id": "cs_1", "object": "checkout.session", "mode": "payment", "customer": None}
        session["customer_details"] = {"email": EMAIL, "name": NAME}
        assert gateway.deliver(event(session, type="checkout.session.completed")) == 200
        assert gateway.ledger.party("cs_1").purchases == (Purchase("cs_1", "session", 0, ()),)
        assert gateway.machine.executions == {"evt_1": {**RUN, "order_id": "cs_1", "customer_id": None}}

    def test_leaves_no_personal_data_in_logs_metrics_or_executions(
        self, gateway: Gateway, lines: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        gateway.deliver(event())
        traces = [*lines, capsys.readouterr().out, str(gateway.machine.executions), gateway.said]
        assert len(lines) > 0
        assert not any(text in trace for trace in traces for text in (EMAIL, NAME))

    def test_is_found_in_the_log_by_its_ids(self, gateway: Gateway, lines: list[str]) -> None:
        gateway.deliver(event())
        expected = {"function": "webhook", "event_id": "evt_1", "order_id": "in_1", "execution_name": "evt_1"}
        assert json.loads(lines[-1]).items() >= expected.items()
        gateway.ask(http_api(b"{}", None))  # the same container, another request
        assert not {"event_id", "event_type", "order_id"} & {
            name for name, value in json.loads(lines[-1]).items() if value
        }


def as_received(gateway: Gateway) -> None:
    """Recorded, and killed before the start."""
    gateway.machine.error = SILENT
    gateway.deliver(event())
    gateway.machine.error = None


def as_running(gateway: Gateway) -> None:
    gateway.deliver(event())


def as_ended_without_a_word(gateway: Gateway) -> None:
    gateway.deliver(event())
    gateway.machine.ended.add("evt_1")


def as_unfulfilled(gateway: Gateway) -> None:
    as_ended_without_a_word(gateway)
    gateway.ledger.fail("evt_1", execution="arn:run", error="StripeThrottled: 429", retry_at=NOW + 300)


def as_stuck(gateway: Gateway) -> None:
    """It has failed so often that its runs are a day apart."""
    as_ended_without_a_word(gateway)
    seen: Attempt | None = Attempt("evt_1", "in_1", "cus_1", 1, "RECEIVED", NOW)
    while seen is not None and seen.number < MAX_ATTEMPTS:
        seen = gateway.ledger.next_attempt(seen, NOW)
    gateway.ledger.fail("evt_1", execution="arn:run", error="StripeThrottled: 429", retry_at=NOW + 86_400)


def as_fulfilled(gateway: Gateway) -> None:
    as_ended_without_a_word(gateway)
    gateway.ledger.close("evt_1", NOW, execution="arn:run", outcome="enabled", reason="sub_1 active")


class TestRedelivery:
    @pytest.mark.parametrize(
        ("stands", "age", "said", "executions", "state", "attempts"),
        [
            # Started by its name: at most once.
            (as_received, 60, "accepted", ["evt_1"], "RECEIVED", 1),
            (as_running, 60, "accepted", ["evt_1"], "RECEIVED", 1),
            (as_ended_without_a_word, 60, "accepted", ["evt_1"], "RECEIVED", 1),
            (as_running, ATTEMPT_SECONDS - 1, "accepted", ["evt_1"], "RECEIVED", 1),
            # Cannot be running any more.
            (as_received, ATTEMPT_SECONDS, "accepted", ["evt_1-r2"], "RECEIVED", 2),
            (as_ended_without_a_word, ATTEMPT_SECONDS, "accepted", ["evt_1", "evt_1-r2"], "RECEIVED", 2),
            (as_unfulfilled, 0, "accepted", ["evt_1", "evt_1-r2"], "RECEIVED", 2),
            # Whoever delivers by hand has done something about it: no waiting for tomorrow.
            (as_stuck, 60, "accepted", ["evt_1", f"evt_1-r{MAX_ATTEMPTS + 1}"], "RECEIVED", MAX_ATTEMPTS + 1),
            (as_fulfilled, 0, "known", ["evt_1"], "FULFILLED", 1),
            (as_fulfilled, 86_400, "known", ["evt_1"], "FULFILLED", 1),
        ],
    )
    def test_never_doubles_what_runs_or_is_done_and_restarts_what_failed(
        self,
        gateway: Gateway,
        counted: Callable[[], Any],
        stands: Callable[[Gateway], object],
        age: int,
        said: str,
        executions: list[str],
        state: str,
        attempts: int,
    ) -> None:
        stands(gateway)
        counted()
        gateway.clock.now += age
        for _ in range(2):
            assert gateway.deliver(event()) == 200
            assert gateway.said == said
            assert gateway.executions == executions
        order = gateway.order()
        assert (order["state"], order["attempts"]) == (state, attempts)
        assert counted() == {"EventRedelivered": 2}

    def test_of_another_version_of_the_event_changes_nothing(self, gateway: Gateway) -> None:
        gateway.deliver(event())
        before = gateway.order()
        assert gateway.deliver(event({**INVOICE, "amount_due": 1}, pending_webhooks=0)) == 200
        assert gateway.order() == before

    def test_that_can_be_read_takes_the_place_of_one_that_could_not(
        self, gateway: Gateway, counted: Callable[[], Any]
    ) -> None:
        assert gateway.deliver(event(UNUSABLE)) == 200
        assert gateway.deliver(event()) == 200
        assert gateway.executions == ["evt_1"]
        order = gateway.order()
        assert (order["state"], order["attempts"], order["party"]) == ("RECEIVED", 1, "cus_1")
        assert "last_error" not in order
        assert counted() == {"UnusableEvent": 1, "EventReceived": 1}

    @pytest.mark.parametrize("stands", [as_running, as_unfulfilled, as_stuck, as_fulfilled])
    def test_that_cannot_be_read_takes_the_place_of_none_that_could(
        self, gateway: Gateway, stands: Callable[[Gateway], object]
    ) -> None:
        stands(gateway)
        before = gateway.order()
        assert gateway.deliver(event(UNUSABLE)) == 200
        assert gateway.order() == before

    def test_whose_next_attempt_somebody_else_has_taken_starts_none(
        self, gateway: Gateway, module: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Raced(Ledger):
            """RunDue, or a delivery at the same moment, is first."""

            def next_attempt(self, seen: Attempt, now: int) -> Attempt | None:
                assert super().next_attempt(seen, now) is not None
                return super().next_attempt(seen, now)

        as_unfulfilled(gateway)
        monkeypatch.setattr(module, "ledger", Raced(gateway.dynamodb, "orders"))
        assert gateway.deliver(event()) == 200
        assert (gateway.said, gateway.executions) == ("known", ["evt_1"])


class TestOfNoInterest:
    @pytest.mark.parametrize(
        ("sent", "metric"),
        [
            (event(livemode=True), "WrongMode"),
            (event(livemode=True, type="customer.created"), "WrongMode"),
            (event(account="acct_other"), "OtherAccount"),
            (event(type="customer.created"), "IgnoredEvent"),
            (event(type="charge.succeeded"), "IgnoredEvent"),
            (event({"object": "balance"}, type="balance.available"), "IgnoredEvent"),
        ],
    )
    def test_is_answered_counted_and_not_kept(
        self, gateway: Gateway, counted: Callable[[], Any], sent: Json, metric: str
    ) -> None:
        assert gateway.deliver(sent) == 200
        assert counted() == {metric: 1}
        assert (gateway.rows, gateway.executions) == (0, [])

    def test_is_counted_by_type(self, gateway: Gateway, blobs: Callable[[], list[Json]]) -> None:
        for number, name in enumerate(("customer.created", "charge.succeeded", "customer.created")):
            gateway.deliver(event(id=f"evt_{number}", type=name))
        found = [(blob["event_type"], blob["IgnoredEvent"]) for blob in blobs()]
        assert found == [("customer.created", [1.0]), ("charge.succeeded", [1.0]), ("customer.created", [1.0])]

    def test_is_counted_by_type_and_all_else_is_not(self, gateway: Gateway, blobs: Callable[[], list[Json]]) -> None:
        gateway.deliver(event(type="customer.created"))
        gateway.deliver(event(id="evt_2"))
        named = [blob["_aws"]["CloudWatchMetrics"][0] for blob in blobs()]
        dimensions = {metric["Name"]: each["Dimensions"][0] for each in named for metric in each["Metrics"]}
        assert "event_type" in dimensions["IgnoredEvent"]
        assert "event_type" not in dimensions["EventReceived"]

    def test_is_what_cannot_be_used_and_it_is_kept_for_an_operator(
        self, gateway: Gateway, counted: Callable[[], Any], lines: list[str]
    ) -> None:
        for _ in range(2):
            assert gateway.deliver(event(UNUSABLE)) == 200
            assert gateway.said == "recorded, but its content cannot be used"
        order = gateway.order()
        assert (order["state"], order["attempts"], order["party"]) == ("UNFULFILLED", 0, "in_1")
        assert order["last_error"] == "UnusableEvent: customer is missing or not a Stripe id"
        assert gateway.executions == []
        assert counted() == {"UnusableEvent": 2}
        assert not any(EMAIL in line for line in lines)


PRICE = {"id": "price_1", "object": "price", "metadata": {}, "lookup_key": None}


def changed_price(before: Json | None) -> Json:
    """`before` is what Stripe says was there."""
    return event(data={"object": PRICE, "previous_attributes": before}, type="price.updated")


class TestNotice:
    """Changes nobody's access, and somebody should know of it."""

    @pytest.mark.parametrize(
        ("sent", "metric"),
        [
            (event({"id": "sub_1"}, type="customer.subscription.trial_will_end"), "StripeNotice"),
            (event({"object": "invoice", "customer": "cus_1"}, type="invoice.upcoming"), "StripeNotice"),  # has no id
            (event(type="invoice.payment_action_required"), "StripeNotice"),
            (event(type="invoice.finalization_failed"), "FinalizationFailed"),
            (event({**PRICE, "metadata": {"dapps": "3"}}, type="price.created"), "MappingChanged"),
            (
                event(
                    data={"object": PRICE, "previous_attributes": {"metadata": {"dapps": "3"}}}, type="price.updated"
                ),
                "MappingChanged",
            ),
        ],
    )
    def test_is_answered_counted_and_not_kept(
        self, gateway: Gateway, counted: Callable[[], Any], lines: list[str], sent: Json, metric: str
    ) -> None:
        assert gateway.deliver(sent) == 200
        assert counted() == {metric: 1}
        assert (gateway.rows, gateway.executions) == (0, [])
        assert any(json.loads(line)["message"].startswith(f"{metric}: ") for line in lines)

    @pytest.mark.parametrize(
        "sent",
        [
            event(PRICE, type="price.created"),
            changed_price({"nickname": "old"}),
            changed_price(None),
        ],
    )
    def test_is_none_of_a_price_whose_mapping_stays(
        self, gateway: Gateway, counted: Callable[[], Any], sent: Json
    ) -> None:
        assert gateway.deliver(sent) == 200
        assert counted() == {"IgnoredEvent": 1}

    def test_of_the_other_mode_is_of_no_interest(self, gateway: Gateway, counted: Callable[[], Any]) -> None:
        assert gateway.deliver(event(type="invoice.finalization_failed", livemode=True)) == 200
        assert counted() == {"WrongMode": 1}


class TestMark:
    """A refund, dispute or fraud warning names a charge: whose it is, ReadBilling asks Stripe."""

    @pytest.mark.parametrize(
        ("type_", "content", "order_id"),
        [
            ("charge.refunded", {"id": "ch_1", "customer": "cus_1"}, "ch_1"),
            ("charge.refunded", {"id": "ch_1", "customer": None}, "ch_1"),
            ("refund.created", {"id": "re_1", "charge": "ch_1"}, "re_1"),
            ("refund.failed", {"id": "re_1", "charge": {"id": "ch_1"}}, "re_1"),
            ("charge.dispute.created", {"id": "du_1", "charge": "ch_1"}, "du_1"),
            ("charge.dispute.closed", {"id": "du_1", "charge": "ch_1"}, "du_1"),
            ("radar.early_fraud_warning.created", {"id": "issfr_1", "charge": "ch_1"}, "issfr_1"),
        ],
    )
    def test_is_an_order_of_its_own_party(
        self, gateway: Gateway, counted: Callable[[], Any], type_: str, content: Json, order_id: str
    ) -> None:
        assert gateway.deliver(event(content, type=type_)) == 200
        order = gateway.order()
        assert order.items() >= {"party": order_id, "charge": "ch_1", "state": "RECEIVED"}.items()
        assert "customer_id" not in order
        assert gateway.machine.executions == {"evt_1": {**RUN, "order_id": order_id, "customer_id": None}}
        assert gateway.rows == 1  # nothing is known of it but that it was heard of
        assert counted() == {"EventReceived": 1}

    @pytest.mark.parametrize("charge", [None, "", {"amount": 900}])
    def test_without_a_charge_cannot_be_used(
        self, gateway: Gateway, counted: Callable[[], Any], charge: object
    ) -> None:
        assert gateway.deliver(event({"id": "du_1", "charge": charge}, type="charge.dispute.created")) == 200
        assert gateway.order()["state"] == "UNFULFILLED"
        assert gateway.executions == []
        assert counted() == {"UnusableEvent": 1}

    def test_that_failed_is_run_again_with_the_same_input(self, gateway: Gateway) -> None:
        """Whoever the order was assigned to meanwhile."""
        sent = event({"id": "du_1", "charge": "ch_1"}, type="charge.dispute.created")
        gateway.deliver(sent)
        gateway.ledger.assign("evt_1", "cus_1", NOW)
        gateway.ledger.fail("evt_1", execution="arn:run", error="StripeThrottled: 429", retry_at=NOW + 300)
        assert gateway.deliver(sent) == 200
        assert gateway.machine.executions["evt_1-r2"] == gateway.machine.executions["evt_1"]
        assert gateway.order()["party"] == "cus_1"


# ------------------------------------------------------------------ what is refused

BODY = written(event())
SIGNED = signature(BODY)


class TestRefusal:
    @pytest.mark.parametrize(
        "sent",
        [
            http_api(BODY, None),
            http_api(BODY, ""),
            http_api(BODY, "t=now,v1=x"),
            http_api(BODY, signature(BODY, "whsec_other")),
            http_api(BODY, signature(BODY, at=NOW - 301)),
            http_api(BODY + b" ", SIGNED),
            http_api(b"", SIGNED),
            rest_api(BODY, None),
            {**http_api(BODY, SIGNED), "headers": None},
            {**http_api(BODY, SIGNED), "body": None},
            {**http_api(BODY, SIGNED), "body": "\ud800"},
            {**http_api(BODY, SIGNED), "isBase64Encoded": True},
            {**in_base64(http_api(BODY, SIGNED)), "isBase64Encoded": False},
            {**in_base64(http_api(BODY, SIGNED)), "body": "e30"},
            {},
        ],
    )
    def test_of_what_stripe_did_not_sign(
        self, gateway: Gateway, counted: Callable[[], Any], lines: list[str], sent: Json
    ) -> None:
        assert gateway.ask(sent) == 400
        assert counted() == {"SignatureRejected": 1}
        assert (gateway.rows, gateway.executions) == (0, [])
        assert not any(EMAIL in text for text in [*lines, gateway.said])

    def test_of_what_stripe_did_not_sign_costs_no_call_but_the_secrets(
        self, gateway: Gateway, module: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "ledger", Ledger(Broken(AssertionError()), "orders"))
        gateway.machine.error = AssertionError()
        for _ in range(3):
            assert gateway.deliver(event(), "whsec_forged") == 400
        assert gateway.vault.calls == 1

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b"9" * 5_000, "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b"[]", "not a JSON object"),
            (b"null", "not a JSON object"),
            (b"{}", "id is missing"),
            (written(event(id="../1")), "id is missing"),
            (written(event(type=None)), "type is missing"),
            (written(event(livemode="no")), "livemode is missing"),
            (written(event(data={})), "data.object is missing"),
            (written(event({**INVOICE, "id": None})), "data.object.id is missing"),
            (written(event(object="v2.core.event")), "payload style"),
        ],
    )
    def test_of_what_is_signed_and_no_event(
        self, gateway: Gateway, counted: Callable[[], Any], body: bytes, said: str
    ) -> None:
        assert gateway.ask(http_api(body, signature(body))) == 400
        assert said in gateway.said
        assert counted() == {"EnvelopeUnreadable": 1}
        assert (gateway.rows, gateway.executions) == (0, [])

    @pytest.mark.parametrize("encoded", [False, True])
    @pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 413), (500_000, 413)])
    def test_of_what_is_too_large(
        self,
        gateway: Gateway,
        module: ModuleType,
        counted: Callable[[], Any],
        encoded: bool,
        excess: int,
        status: int,
    ) -> None:
        body = BODY.ljust(module.MAX_BODY + excess)
        request = http_api(body, signature(body))
        assert gateway.ask(in_base64(request) if encoded else request) == status
        assert ("BodyTooLarge" in counted()) is (status == 413)
        assert gateway.vault.calls == (status == 200)  # nothing is paid for it

    def test_counts_bytes(self, gateway: Gateway, module: ModuleType) -> None:
        body = ("é" * (module.MAX_BODY // 2 + 1)).encode()
        assert gateway.ask(http_api(body, signature(body))) == 413


class TestUnavailable:
    """Stripe delivers again what is answered with 5xx, for three days."""

    @pytest.mark.parametrize("error", [THROTTLED, SILENT, refusal("InternalServerError", 500), refusal("NoSuchTable")])
    def test_when_the_ledger_is(
        self,
        gateway: Gateway,
        module: ModuleType,
        counted: Callable[[], Any],
        lines: list[str],
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
    ) -> None:
        with monkeypatch.context() as down:
            down.setattr(module, "ledger", Ledger(Broken(error), "orders"))
            assert gateway.deliver(event()) == 503
        assert gateway.executions == []
        assert counted() == {"WebhookUnavailable": 1} | ({"Throttled": 1} if error is THROTTLED else {})
        assert not any(text in line for line in [*lines, gateway.said] for text in (EMAIL, NAME))
        assert gateway.deliver(event()) == 200
        assert gateway.executions == ["evt_1"]

    @pytest.mark.parametrize("error", [THROTTLED, SILENT, refusal("InternalServerError", 500), refusal("AccessDenied")])
    def test_when_step_functions_is(
        self, gateway: Gateway, counted: Callable[[], Any], lines: list[str], error: Exception
    ) -> None:
        gateway.machine.error = error
        assert gateway.deliver(event()) == 503
        assert gateway.order()["state"] == "RECEIVED"  # RunDue would start it, too
        throttled = {"Throttled": 1} if error is THROTTLED else {}
        assert counted() == {"EventReceived": 1, "WebhookUnavailable": 1} | throttled
        assert not any(text in line for line in [*lines, gateway.said] for text in (EMAIL, NAME))
        gateway.machine.error = None
        assert gateway.deliver(event()) == 200
        assert gateway.executions == ["evt_1"]

    def test_when_the_next_attempt_cannot_be_started(self, gateway: Gateway) -> None:
        as_unfulfilled(gateway)
        gateway.machine.error = THROTTLED
        assert gateway.deliver(event()) == 503
        gateway.machine.error = None
        assert gateway.deliver(event()) == 200
        assert gateway.executions == ["evt_1", "evt_1-r2"]

    def test_when_the_secret_is(self, gateway: Gateway, counted: Callable[[], Any]) -> None:
        gateway.vault.error = refusal("AccessDeniedException")
        assert gateway.deliver(event()) == 503
        assert counted() == {"WebhookUnavailable": 1}
        gateway.vault.error = None
        gateway.clock.now += 60
        assert gateway.deliver(event()) == 200

    @pytest.mark.parametrize("error", [RuntimeError(f"{EMAIL} {NAME}"), KeyError(EMAIL), RecursionError(EMAIL)])
    def test_when_there_is_a_defect_and_its_text_stays_here(
        self,
        gateway: Gateway,
        module: ModuleType,
        counted: Callable[[], Any],
        lines: list[str],
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
    ) -> None:
        monkeypatch.setattr(module, "ledger", Ledger(Broken(error), "orders"))
        assert gateway.deliver(event()) == 500
        assert gateway.said == "the event cannot be taken now; deliver it again"
        assert counted() == {"WebhookUnavailable": 1}
        assert any(f"UnexpectedError: {type(error).__name__} at test_webhook.py:" in line for line in lines)
        assert not any(text in line for line in lines for text in (EMAIL, NAME))


class TestSecret:
    @pytest.mark.parametrize("text", [f"{SECRET} {NEW_SECRET}", f"{NEW_SECRET}\n{SECRET}\n", SECRET])
    def test_is_any_of_those_that_are_kept(self, gateway: Gateway, text: str) -> None:
        gateway.vault.text = text
        assert gateway.deliver(event()) == 200

    def test_is_read_once(self, gateway: Gateway) -> None:
        for number in range(5):
            assert gateway.deliver(event(id=f"evt_{number}")) == 200
        assert gateway.vault.calls == 1

    def test_that_was_rotated_is_read_again_without_a_lost_event(self, gateway: Gateway) -> None:
        gateway.deliver(event())
        gateway.vault.text = NEW_SECRET
        gateway.clock.now += 60
        assert gateway.deliver(event(id="evt_2"), NEW_SECRET) == 200
        assert gateway.vault.calls == 2
        assert gateway.deliver(event(id="evt_3"), SECRET) == 400  # the old one is worth nothing from now on

    def test_that_was_rotated_within_the_minute_is_taken_at_a_later_delivery(self, gateway: Gateway) -> None:
        gateway.deliver(event())
        gateway.vault.text = NEW_SECRET
        gateway.clock.now += 59
        assert gateway.deliver(event(id="evt_2"), NEW_SECRET) == 400
        gateway.clock.now += 1
        assert gateway.deliver(event(id="evt_2"), NEW_SECRET) == 200

    def test_is_not_read_for_every_forged_request(self, gateway: Gateway) -> None:
        for _ in range(120):
            gateway.clock.now += 1
            assert gateway.deliver(event(), "whsec_forged") == 400
        assert gateway.vault.calls <= 3

    def test_that_cannot_be_read_is_not_read_for_every_request_either(self, gateway: Gateway) -> None:
        gateway.vault.error = THROTTLED
        for _ in range(30):
            gateway.clock.now += 1
            assert gateway.deliver(event(), "whsec_forged") == 503
        assert gateway.vault.calls == 6  # every five seconds: nothing can be checked until it is back

    def test_that_cannot_be_read_again_stays_good(self, gateway: Gateway) -> None:
        gateway.deliver(event())
        gateway.vault.error = THROTTLED
        gateway.clock.now += 60
        assert gateway.deliver(event(), "whsec_forged") == 503
        assert gateway.deliver(event(), "whsec_forged") == 400
        assert gateway.deliver(event(id="evt_2")) == 200


def test_in_live_mode_test_events_are_the_wrong_ones(
    gateway: Gateway, module: ModuleType, counted: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIVEMODE", True)
    assert gateway.deliver(event()) == 200
    assert gateway.executions == []
    assert gateway.deliver(event(livemode=True)) == 200
    assert gateway.executions == ["evt_1"]
    assert counted() == {"WrongMode": 1, "EventReceived": 1}
