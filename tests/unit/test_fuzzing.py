"""The webhook under whatever may arrive: Stripe's own events spoilt, their signatures and requests mangled.

Whatever it is, the answer is 200, 400 or 413. Nothing that Stripe did not sign leaves a trace. Nothing that it signed
is lost: it is recorded, or declared none of ours. And nothing of what was sent is in logs, metrics or executions.

The examples come from a fixed seed, so a red test is the fault of the change at hand.

    FUZZ=2000 pytest tests/unit/test_fuzzing.py     so many of each kind (make test-models does)
    FUZZ_SEED=7 pytest tests/unit/test_fuzzing.py   other ones
"""

import base64
import copy
import hashlib
import hmac
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from moto.dynamodb.models import dynamodb_backends

from gateway.errors import UnreadableEnvelope, UnusableEvent
from gateway.events import HANDLED_TYPES, Order, OrderItem, Purchase, envelope, order
from gateway.executions import StateMachine
from gateway.ledger import Ledger
from gateway.secret import Secret
from tests.handlers import imported
from tests.unit.test_events import ONE_OF_EACH_KIND, READ, SAMPLES
from tests.unit.test_events import event as sent_by_stripe
from tests.unit.test_webhook import (
    CONTEXT,
    NEW_SECRET,
    NOW,
    SECRET,
    Clock,
    Json,
    Machine,
    Vault,
    http_api,
    in_base64,
    rest_api,
    signature,
)

# A failing example may be large, and its assertion is what is to be read.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

EXAMPLES = int(os.environ.get("FUZZ", "300"))
FUZZED = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), print_blob=True)
seeded = seed(int(os.environ.get("FUZZ_SEED", "0")))

# What no log line, metric, execution or answer may repeat. Blanks keep it from passing for an id.
PERSONAL = "Marked Person <marked@person.example>"
PAYER = "marked@person.example"

ID = re.compile(r"[A-Za-z0-9_.-]{1,200}", re.ASCII)
EVENT_ID = re.compile(r"[A-Za-z0-9_]{1,70}", re.ASCII)

# What starts no run, and what nobody handles.
OTHERS = (*sorted(HANDLED_TYPES - {*READ}), "charge.succeeded", "customer.created", "gateway.recheck")
# What starts one, each kind of object about as often as the other.
RUNS = (*READ, *ONE_OF_EACH_KIND * 6)
TYPES = (*READ, *OTHERS)


def _nested(levels: int) -> Any:
    inner: Any = PERSONAL
    for level in range(levels):
        inner = [inner] if level % 2 else {"id": inner}
    return inner


# In the place of anything that Stripe sends.
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**15, -(10**18), 10**4000, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        " ",
        "\x00",
        "\n",
        "\ud800",
        "٣",
        "1e999",
        "🦄" * 700,
        "x" * 3000,
        PERSONAL,
        PAYER,
        f"{PAYER}\r\nlevel: ERROR",
    ),
    *("cus_../../v1/charges", "..", ".", "cus_1/../cus_2", "cus_1?expand[]=x", "cus_1#", "cus_1\n", "or_1", "cs_1"),
    *("${jndi:x}", "$.order", "%s%n", '"};', "ORDER#evt_1"),
    *([], {}, [None], [[]], {"": None}, {"id": PERSONAL}, {"id": {"id": "cus_1"}}, {"data": {"data": PERSONAL}}),
    *([PERSONAL] * 300, {f"key{number}": PERSONAL for number in range(100)}, {PERSONAL: PERSONAL}),
    *("\ud800", {"\ud800": "\udfff"}, {"plan": "\ud800" * 600}),
    *(_nested(5), _nested(200)),
)


# Where something strange is most likely to matter.
READ_FIELDS = (
    *("id", "object", "type", "status", "mode", "customer", "charge", "items", "lines", "data", "metadata"),
    *("email", "name", "customer_email", "customer_name", "customer_details", "currency", "parent"),
    *("amount", "amount_due", "amount_refunded", "amount_total", "created", "updated", "quantity"),
)


def _keys(content: Any) -> list[Any]:
    """The keys of a container, those that the code reads several times; none of anything else."""
    if isinstance(content, dict):
        return [*content, *[name for name in READ_FIELDS if name in content] * 3]
    return [*range(len(content))] if isinstance(content, list) else []


def _place(content: Any, choose: Random) -> tuple[Any, Any]:
    """A (container, key) somewhere within, the likelier the higher up."""
    key = choose.choice(_keys(content))
    if _keys(content[key]) and choose.random() < 0.5:
        return _place(content[key], choose)
    return content, key


def _spoilt(content: Any, choose: Random) -> Any:
    """A copy with up to five places swapped for something strange, dropped, repeated, wrapped or multiplied."""
    found = copy.deepcopy(content)
    for _ in range(choose.randrange(6)):
        if not _keys(found):
            break
        container, key = _place(found, choose)
        kept = container[key]
        match choose.choice(("swap", "swap", "swap", "drop", "repeat", "wrap", "multiply")):
            case "swap":
                container[key] = copy.deepcopy(choose.choice(STRANGE))
            case "drop":
                del container[key]
            case "repeat":
                other, place = _place(found, choose)
                other[place] = copy.deepcopy(kept)
            case "wrap":
                container[key] = choose.choice(([kept], {"id": kept}, {"data": kept}))
            case "multiply":
                container[key] = [kept] * (101 if len(json.dumps(kept)) < 3000 else 2)
    return found


def _of_a_payer(content: Any) -> Any:
    """A published object in which whoever is named is PAYER."""
    if isinstance(content, list):
        return [_of_a_payer(each) for each in content]
    if not isinstance(content, dict):
        return content
    names = {**dict.fromkeys(("email", "customer_email"), PAYER), **dict.fromkeys(("name", "customer_name"), PERSONAL)}
    return {key: names.get(key) or _of_a_payer(each) for key, each in content.items()}


OBJECTS = {each: _of_a_payer(SAMPLES.get(each, SAMPLES["charge.refunded"])) for each in TYPES}


EVENT = sent_by_stripe("invoice.paid", OBJECTS["invoice.paid"], livemode=False)
BODY = json.dumps(EVENT).encode()


# Hypothesis draws the same choices again and again; all of a number's follow from it.
CHOICES = st.integers(0, 2**64).map(Random)


def _event(choose: Random, types: Sequence[str] = TYPES) -> Json:
    """An event as Stripe publishes it, its object spoilt."""
    name = choose.choice(types)
    content = _spoilt(OBJECTS[name], choose)
    previous = choose.choice((None, {"metadata": {"dapps": "1"}}, *STRANGE))
    return sent_by_stripe(name, content, data={"object": content, "previous_attributes": previous}, livemode=False)


def events(types: Sequence[str] = TYPES) -> st.SearchStrategy[Json]:
    """Events of these types whose objects are spoilt."""
    return CHOICES.map(lambda choose: _event(choose, types))


# ------------------------------------------------------------------ the webhook, and what it leaves behind


@dataclass
class Webhook:
    """The handler and its world; what it leaves behind is forgotten before each request."""

    module: Any
    rows: dict[str, Any]
    machine: Machine
    lines: list[str]

    def ask(self, request: Json) -> tuple[int, str]:
        """Status and words of the answer. Nothing that was sent is repeated anywhere but in the ledger."""
        for memory in (self.rows, self.machine.executions, self.lines):
            memory.clear()
        with redirect_stdout(io.StringIO()) as metrics:
            answer = self.module.handler(request, CONTEXT)
        said = json.loads(answer["body"])["message"]
        traces = (*self.lines, metrics.getvalue(), str(self.machine.executions), said)
        assert not any(mark in trace for trace in traces for mark in (PAYER, "Marked Person", SECRET))
        assert not any("UnexpectedError" in line for line in self.lines)
        assert answer["statusCode"] in (200, 400, 413)
        if answer["statusCode"] != 200:
            assert (self.rows, self.machine.executions) == ({}, {})
        return answer["statusCode"], said

    def order(self, event_id: str) -> Json | None:
        """The event's order, as far as it is text."""
        for row in (row.attrs for partition in self.rows.values() for row in partition.values()):
            # Raises on lone surrogates, which DynamoDB does not take.
            json.dumps(row, ensure_ascii=False, default=lambda each: each.to_json()).encode()
            if row["pk"].value == f"ORDER#{event_id}":
                return {name: each.value for name, each in row.items() if each.type == "S"}
        return None


@pytest.fixture(scope="module")
def webhook(_dynamodb: Any, resources: Json) -> Iterator[Webhook]:
    names = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode")
    _dynamodb.create_table(TableName="fuzzed", **{name: resources["OrdersTable"][name] for name in names})
    rows = dynamodb_backends["123456789012"]["us-east-1"].tables["fuzzed"].items
    module, machine, clock, lines = imported("WebhookFunction"), Machine(), Clock(), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", clock)
        patch.setattr("stripe._webhook.time", clock)
        patch.setattr(module, "ledger", Ledger(_dynamodb, "fuzzed"))
        patch.setattr(module, "fulfillment", StateMachine(machine, "arn:machine"))
        patch.setattr(module, "signing", Secret(Vault(f"{SECRET}\n{NEW_SECRET}"), "arn:secret", clock.time))
        formatter = module.logger.registered_formatter
        patch.setattr(formatter, "format", _noted(formatter.format, lines))
        yield Webhook(module, rows, machine, lines)
    _dynamodb.delete_table(TableName="fuzzed")


def _noted(format_: Callable[[Any], str], lines: list[str]) -> Callable[[Any], str]:
    def noting(record: Any) -> str:
        lines.append(format_(record))
        return lines[-1]

    return noting


def delivered(body: bytes) -> Json:
    return http_api(body, signature(body))


# ------------------------------------------------------------------ what Stripe signed


@seeded
@FUZZED
@given(events(RUNS))
def test_an_authentic_event_is_recorded_or_declared_none_of_ours(webhook: Webhook, event: Json) -> None:
    content = event["data"]["object"]
    status, said = webhook.ask(delivered(json.dumps(event).encode()))
    found = webhook.order(event["id"])
    if not (isinstance(content, dict) and isinstance(content.get("id"), str) and content["id"]):
        assert status == 400  # no event of Stripe's: it has no object
    elif said == "an event of no interest":
        assert event["type"].startswith("checkout.session.")
        assert event["type"] == "checkout.session.expired" or content.get("mode") == "setup"
        assert (content.get("customer"), found) == (None, None)
    else:
        assert status == 200
        assert found is not None
        started = webhook.machine.executions
        if found["state"] == "RECEIVED":
            run = {"event_id": event["id"], "order_id": found["order_id"], "customer_id": found.get("customer_id")}
            assert started == {event["id"]: run}
        else:
            assert (found["state"], started) == ("UNFULFILLED", {})
            assert found["last_error"].startswith("UnusableEvent: ")
            assert PAYER not in found["last_error"]


@seeded
@FUZZED
@given(events(OTHERS) | CHOICES.map(lambda choose: _spoilt(_event(choose), choose)))
def test_whatever_is_signed_has_an_answer(webhook: Webhook, event: Any) -> None:
    status, said = webhook.ask(delivered(json.dumps(event).encode()))
    if status == 200:
        none_of_ours = said.startswith(("an event of ", "noted"))
        assert (webhook.order(event["id"]) is None) is none_of_ours


# Texts that JSON's readers understand in different ways, or not at all.
TEXTS = (
    *(b"", b" ", b"null", b"[]", b'"x"', b"NaN", b"{}{}", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"1e999"),
    *(
        b'{"id": "evt_1',
        b"\xef\xbb\xbf{}",
        '{"id": "evt_1"}'.encode("utf-16"),
        b"\xff\xfe",
        b"\x00",
        b'{"id": "\\ud800"}',
    ),
)


@seeded
@FUZZED
@given(
    st.sampled_from(TEXTS)
    | st.binary(max_size=60)
    | st.from_regex(r'\{("[a-z]{1,9}":[0-9a-z"{}\[\],:]{0,9},?)*\}').map(str.encode)
)
def test_whatever_text_is_signed_has_an_answer(webhook: Webhook, body: bytes) -> None:
    try:
        request = delivered(body)
    except UnicodeDecodeError:  # Stripe signs text; API Gateway hands the rest on in base64
        request = {**http_api(b"", signature(b"")), "body": base64.b64encode(body).decode(), "isBase64Encoded": True}
    assert webhook.ask(request)[0] == 400


@seeded
@FUZZED
@given(st.sampled_from(("id", "type", "livemode", "data", "object")), st.sampled_from(STRANGE))
def test_of_a_field_that_is_there_twice_the_last_one_counts(webhook: Webhook, name: str, value: Any) -> None:
    text, more = BODY.decode(), f"{json.dumps(name)}: {json.dumps(value)}"
    assert webhook.ask(delivered(f"{{{more}, {text[1:]}".encode()))[0] == 200
    assert webhook.order(EVENT["id"]) is not None
    webhook.ask(delivered(f"{text[:-1]}, {more}}}".encode()))
    means_the_same = name == "object" or (name == "livemode" and value is False)
    assert (webhook.order(EVENT["id"]) is not None) is means_the_same


# ------------------------------------------------------------------ what Stripe did not sign

MOMENTS = (NOW, NOW - 300, NOW - 301, NOW + 400, 0, -1)
KEYS = (SECRET, NEW_SECRET, "whsec_forged", "", "whsec_")


def _mac(moment: object, body: bytes, key: str) -> str:
    return hmac.new(key.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()


@st.composite
def headers(draw: st.DrawFn) -> str:
    """A Stripe-Signature header of good and bad parts."""
    moment = draw(st.sampled_from(MOMENTS))
    mac = st.builds(_mac, st.sampled_from(MOMENTS), st.sampled_from((BODY, BODY + b" ", b"")), st.sampled_from(KEYS))
    part = st.one_of(
        mac.map("v1={}".format),
        mac.map("v0={}".format),
        mac.map(lambda text: f"v1={text[:-1]}"),
        mac.map(lambda text: f"v1={text.upper()}"),
        st.sampled_from(MOMENTS).map("t={}".format),
        st.sampled_from(
            ("", "t=", "t", "v1", "v1=", "=", "t=1e9", "t=٣", f"t= {NOW}", f"t={NOW}\n", "v1=é", "v1=\ud800")
        ),
        st.text(max_size=8),
    )
    parts = draw(st.lists(part, max_size=5))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), f"t={moment}")
    return ",".join(parts)


def _signed(header: str, body: bytes) -> bool:
    """Stripe's scheme, read from its documentation: one of the keys signed "t.body", five minutes ago at most."""
    pairs = [part.split("=") for part in header.split(",")]
    try:
        moment = int(next(pair[1] for pair in pairs if pair[0] == "t"))
        macs = [pair[1] for pair in pairs if pair[0] == "v1"]
    except (IndexError, StopIteration, ValueError):
        return False
    return moment >= NOW - 300 and any(_mac(moment, body, key) in macs for key in (SECRET, NEW_SECRET))


@seeded
@FUZZED
@given(
    headers() | st.just(signature(BODY)),
    st.sampled_from((BODY, BODY, BODY, BODY + b" ", BODY[:-1], BODY.replace(b"in_", b"im_"), b"")),
    st.sampled_from((http_api, rest_api)),
    st.booleans(),
)
@example(signature(BODY), BODY, http_api, False)
@example(signature(BODY, at=NOW - 301), BODY, http_api, False)
@example(signature(BODY, "whsec_forged"), BODY, http_api, True)
@example(f"v1={'0' * 64},{signature(BODY, NEW_SECRET)}", BODY, rest_api, True)
def test_nothing_but_what_stripe_signed_is_recorded(
    webhook: Webhook, header: str, body: bytes, shape: Callable[[bytes, str], Json], encoded: bool
) -> None:
    request = shape(body, header)
    status, _ = webhook.ask(in_base64(request) if encoded else request)
    authentic = _signed(header, body) and body.startswith(BODY)
    assert status == 400 or authentic
    if all(re.fullmatch(r"[a-z0-9]+=[0-9a-z]+", part) for part in header.split(",")):  # no other way round for garbage
        assert status == (200 if authentic else 400)
    assert (webhook.order(EVENT["id"]) is not None) is (status == 200)


@seeded
@FUZZED
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "body": st.sampled_from((None, "", BODY.decode(), "\ud800", "====", "e30", "é", "x" * 1_500_000))
            | st.text(),
            "isBase64Encoded": st.booleans() | st.none(),
            "headers": st.none()
            | st.dictionaries(
                st.sampled_from(("stripe-signature", "Stripe-Signature", "STRIPE-SIGNATURE ", "host", "")),
                st.sampled_from(
                    ("", signature(BODY, "whsec_forged"), signature(BODY + b" "), "t=1,v1=x", "x" * 20_000)
                ),
            ),
            "requestContext": st.sampled_from(STRANGE),
            "rawPath": st.sampled_from(STRANGE),
            "queryStringParameters": st.sampled_from(STRANGE),
        },
    )
)
def test_a_request_without_stripes_signature_leaves_nothing(webhook: Webhook, request: Json) -> None:
    assert webhook.ask(request)[0] in (400, 413)


# ------------------------------------------------------------------ what is read from an event


def _whole(value: object) -> bool:
    return value is None or (type(value) is int and abs(value) <= 10**17)


def _text(value: object, length: int) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= length and value.encode() is not None)


def _assert_sound(found: Order) -> None:
    """Every field is what its type says; ids can stand in keys, paths and names; and it fits a row of the ledger."""
    assert EVENT_ID.fullmatch(found.event_id)
    ids = (found.order_id, found.party, found.customer_id, found.charge)
    assert all(each is None or (ID.fullmatch(each) and each.strip(".")) for each in ids)
    assert found.livemode is False
    assert found.status in ("paid", "canceled", "returned")
    assert all(_text(value, 500) for value in (found.email, found.name, found.currency))
    assert _whole(found.amount)
    assert type(found.updated) is int
    assert _whole(found.updated)
    assert len(found.metadata) <= 50
    assert all(_text(key, 40) and _text(value, 500) for key, value in found.metadata.items())
    bought = found.purchase.items if isinstance(found.purchase, Purchase) else ()
    for item in (*found.items, *bought):
        assert isinstance(item, OrderItem)
        assert item.price
        assert _text(item.price, 500)
        assert _whole(item.quantity)
    if found.purchase is not None:
        assert ID.fullmatch(found.purchase.id)
        assert type(found.purchase.version) is int
        assert _whole(found.purchase.created)
    TypeSerializer().serialize(asdict(found))  # raises on floats and the like
    assert len(json.dumps(asdict(found), ensure_ascii=False).encode()) < 390_000  # of DynamoDB's 409,600


@seeded
@settings(FUZZED, max_examples=3 * EXAMPLES)
@given(events(RUNS))
def test_what_is_read_from_a_spoilt_event_is_sound(event: Json) -> None:
    try:
        found = order(envelope(event))
    except (UnreadableEnvelope, UnusableEvent) as error:
        assert PAYER not in str(error)
    else:
        if found is not None:
            _assert_sound(found)
