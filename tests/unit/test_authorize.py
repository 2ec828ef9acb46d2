"""authorize.handler: every kind of API is told whether billing lets the token's user in at this very moment."""

import json
import re
import runpy
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer

from gateway.access import Live
from gateway.errors import (
    KeysUnavailable,
    LedgerRejected,
    LedgerThrottled,
    LedgerUnavailable,
    UnexpectedError,
)
from gateway.ledger import Ledger
from gateway.tokens import Tokens
from tests.unit.issuer import CLIENT, Issuer, running
from tests.unit.operators import DENIED, SILENT, THROTTLED, Client, refusal
from tests.unit.steps import NOW, Json, module

Kind = Callable[[str | None], Json]

API = "arn:aws:execute-api:us-east-1:123456789012:abcdef123"


# ------------------------------------------------------------------ what API Gateway sends
# The shapes of its developer guide; what nobody reads is shortened.


def rest_token(value: str | None) -> Json:
    return {"type": "TOKEN", "authorizationToken": value, "methodArn": f"{API}/test/GET/request"}


def rest_request(value: str | None, header: str = "Authorization") -> Json:
    headers = {"Accept": "*/*", "X-Forwarded-For": "192.0.2.1"} | ({} if value is None else {header: value})
    return {
        "type": "REQUEST",
        "methodArn": f"{API}/test/GET/request",
        "resource": "/request",
        "path": "/request",
        "httpMethod": "GET",
        "headers": headers,
        "multiValueHeaders": {name: [each] for name, each in headers.items()},
        "queryStringParameters": {},
        "multiValueQueryStringParameters": {},
        "pathParameters": {},
        "stageVariables": {},
        "requestContext": {"path": "/request", "accountId": "123456789012", "stage": "test", "apiId": "abcdef123"},
    }


def http_1(value: str | None) -> Json:
    return {
        "version": "1.0",
        "type": "REQUEST",
        "methodArn": f"{API}/$default/GET/request",
        "identitySource": value,
        "authorizationToken": value,
        "resource": "/request",
        "path": "/request",
        "httpMethod": "GET",
        "headers": {"accept": "*/*"} | ({} if value is None else {"Authorization": value}),
        "queryStringParameters": {},
        "pathParameters": {},
        "stageVariables": {},
        "requestContext": {"path": "/request", "accountId": "123456789012", "stage": "$default", "apiId": "abcdef123"},
    }


def http_2(value: str | None) -> Json:
    return {
        "version": "2.0",
        "type": "REQUEST",
        "routeArn": f"{API}/$default/GET/request",
        "identitySource": None if value is None else [value],
        "routeKey": "GET /request",
        "rawPath": "/request",
        "rawQueryString": "",
        "headers": {"accept": "*/*"} | ({} if value is None else {"authorization": value}),
        "requestContext": {"accountId": "123456789012", "apiId": "abcdef123", "stage": "$default"},
    }


def websocket(value: str | None) -> Json:
    event = rest_request(value)
    event["requestContext"] |= {"routeKey": "$connect", "eventType": "CONNECT", "connectionId": "abc="}
    return {**event, "methodArn": f"{API}/production/$connect"}


KINDS: tuple[Kind, ...] = (rest_token, rest_request, http_1, http_2, websocket)
POLICY_KINDS: tuple[Kind, ...] = (rest_token, rest_request, http_1, websocket)
every_kind = pytest.mark.parametrize("kind", KINDS)


# ------------------------------------------------------------------ the authorizer


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running() as issuer:
        yield issuer


class Authorizer:
    """The handler, on a real ledger and a pool that answers."""

    def __init__(self, dynamodb: Any, issuer: Issuer, patch: pytest.MonkeyPatch) -> None:
        self.table = Client(dynamodb)
        self.ledger = Ledger(dynamodb, "orders")
        self.dynamodb = dynamodb
        self.issuer = issuer
        self._patch = patch
        self._module = module("Authorize")
        self.accepts(Tokens(issuer.url, issuer.keys_url, [CLIENT], "access"))
        patch.setattr(self._module, "ledger", Ledger(self.table, "orders"))

    def accepts(self, tokens: Any) -> None:
        self._patch.setattr(self._module, "tokens", tokens)

    def answer(self, event: Any) -> Json:
        """What API Gateway gets, as JSON."""
        context = SimpleNamespace(function_name="AuthorizeFunction", aws_request_id="request-1")
        answer: Json = json.loads(json.dumps(self._module.handler(event, context)))
        return answer

    def lets_in(self, event: Json) -> Json | None:
        """The context of whom API Gateway lets in; None: it lets nobody in."""
        answer = self.answer(event)
        return answer["context"] if allowed(event, answer) else None

    def reason(self, event: Json) -> str:
        """Why it lets nobody in."""
        answer = self.answer(event)
        assert not allowed(event, answer)
        assert answer["context"].keys() == {"reason"}
        return str(answer["context"]["reason"])

    def bearer(self, **claims: Any) -> str:
        return "Bearer " + self.issuer.token(**claims)


@pytest.fixture
def authorizer(dynamodb: Any, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> Authorizer:
    """sub-1 may have five dapps and has none."""
    authorizer = Authorizer(dynamodb, issuer, monkeypatch)
    authorizer.ledger.set_live("sub-1", Live(True, 5), NOW)
    return authorizer


def allowed(event: Json, answer: Json, asked: str | None = None) -> bool:
    """Whether API Gateway lets a request in after this answer: the one that was asked for, or another of its stage."""
    if event.get("version") == "2.0":
        assert answer.keys() == {"isAuthorized", "context"}
        assert type(answer["isAuthorized"]) is bool
        return bool(answer["isAuthorized"])
    assert answer.keys() == {"principalId", "policyDocument", "context"}
    assert answer["principalId"]
    policy = answer["policyDocument"]
    assert policy.keys() == {"Version", "Statement"}
    assert policy["Version"] == "2012-10-17"
    (statement,) = policy["Statement"]
    assert statement.keys() == {"Effect", "Action", "Resource"}
    assert statement["Action"] == "execute-api:Invoke"
    assert statement["Effect"] in ("Allow", "Deny")
    speaks = fnmatchcase(asked or event["methodArn"], statement["Resource"])
    return speaks and statement["Effect"] == "Allow"


# ------------------------------------------------------------------ who is let in


@every_kind
def test_a_user_whom_billing_lets_in_is_let_in(authorizer: Authorizer, kind: Kind) -> None:
    assert authorizer.lets_in(kind(authorizer.bearer())) == {"sub": "sub-1", "limit": 5, "used": 0}


@every_kind
def test_the_context_says_how_many_dapps_are_used(authorizer: Authorizer, kind: Kind) -> None:
    for dapp in ("a", "b"):
        assert authorizer.ledger.reserve_dapp("sub-1", dapp, NOW)
    assert authorizer.lets_in(kind(authorizer.bearer())) == {"sub": "sub-1", "limit": 5, "used": 2}


@every_kind
@pytest.mark.parametrize("good", [True, False])
def test_a_context_holds_nothing_but_text_numbers_and_flags(authorizer: Authorizer, kind: Kind, good: bool) -> None:
    answer = authorizer.answer(kind(authorizer.bearer() if good else "no token"))
    assert answer["context"]
    assert {type(value) for value in answer["context"].values()} <= {str, int, float, bool}


def test_a_policy_names_its_user(authorizer: Authorizer) -> None:
    for kind in POLICY_KINDS:
        assert authorizer.answer(kind(authorizer.bearer()))["principalId"] == "sub-1"


@pytest.mark.parametrize("use", ["access", "id"])
def test_tokens_of_the_wanted_use_are_accepted(authorizer: Authorizer, use: Any) -> None:
    authorizer.accepts(Tokens(authorizer.issuer.url, authorizer.issuer.keys_url, [CLIENT], use))
    assert authorizer.lets_in(http_2(authorizer.bearer(use=use))) is not None
    other = "id" if use == "access" else "access"
    assert authorizer.reason(http_2(authorizer.bearer(use=other))) == "token"


def test_the_template_says_whose_tokens_are_accepted() -> None:
    handler = module("Authorize")
    assert handler.ISSUER == "https://cognito-idp.us-east-1.amazonaws.com/UserPool"
    assert frozenset({"UserPoolClient"}) == handler.CLIENTS


@pytest.mark.parametrize(
    ("setting", "clients"),
    [("", set()), (" , ", set()), ("a", {"a"}), ("a,b", {"a", "b"}), (" a, b,\nc ,", {"a", "b", "c"})],
)
def test_clients_are_separated_by_commas(setting: str, clients: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"TOKEN_ISSUER": "https://issuer", "TOKEN_USE": "id", "ORDERS_TABLE": "orders"}
    for name, value in {**environment, "USER_POOL_CLIENT_IDS": setting}.items():
        monkeypatch.setenv(name, value)
    assert runpy.run_path("functions/authorize.py")["CLIENTS"] == clients


# ------------------------------------------------------------------ a kept answer


@pytest.mark.parametrize("kind", POLICY_KINDS)
@pytest.mark.parametrize("good", [True, False])
def test_a_kept_policy_speaks_of_every_method_of_the_stage_and_of_no_other(
    authorizer: Authorizer, kind: Kind, good: bool
) -> None:
    event = kind(authorizer.bearer() if good else "no token")
    answer = authorizer.answer(event)
    stage = event["methodArn"].split("/")[1]
    for method in ("GET/request", "POST/request", "DELETE/a/b/c", "GET/", "OPTIONS/other", "$connect", "sendmessage"):
        assert allowed(event, answer, f"{API}/{stage}/{method}") is good
    resource = answer["policyDocument"]["Statement"][0]["Resource"]
    for other in (f"{API}/{stage}2/GET/request", f"{API}/other/GET/request", f"{API}4/{stage}/GET/request"):
        assert not fnmatchcase(other, resource)


@pytest.mark.parametrize("path", ["", "a", "a/b/c", "a/*/c", "test/GET"])
def test_the_path_asked_for_does_not_change_a_policy(authorizer: Authorizer, path: str) -> None:
    event = {**rest_request(authorizer.bearer()), "methodArn": f"{API}/test/GET/{path}"}
    assert authorizer.answer(event)["policyDocument"]["Statement"][0]["Resource"] == f"{API}/test/*"


# ------------------------------------------------------------------ where the token is


@pytest.mark.parametrize("header", ["Authorization", "authorization", "AUTHORIZATION", "aUTHORIZATION"])
def test_the_header_is_found_in_any_case(authorizer: Authorizer, header: str) -> None:
    assert authorizer.lets_in(rest_request(authorizer.bearer(), header)) is not None


@every_kind
@pytest.mark.parametrize("scheme", ["", "Bearer ", "bearer ", "BEARER ", "Bearer   ", "  Bearer "])
def test_the_token_comes_after_bearer_or_alone(authorizer: Authorizer, kind: Kind, scheme: str) -> None:
    assert authorizer.lets_in(kind(f"{scheme}{authorizer.issuer.token()} ")) is not None


@every_kind
@pytest.mark.parametrize("value", [None, "", " ", "Bearer", "Bearer ", "no token"])
def test_a_request_without_a_token_is_refused(authorizer: Authorizer, kind: Kind, value: str | None) -> None:
    assert authorizer.reason(kind(value)) == "token"


@every_kind
@pytest.mark.parametrize("around", ["Basic {}", "Bearer Bearer {}", "{} more", "Bearer {} more", "Bearer {0},{0}"])
def test_a_token_among_other_things_is_none(authorizer: Authorizer, kind: Kind, around: str) -> None:
    assert authorizer.reason(kind(around.format(authorizer.issuer.token()))) == "token"


def test_a_request_with_several_tokens_is_refused(authorizer: Authorizer) -> None:
    """Who reads the header after the authorizer may take the other one."""
    good, other = authorizer.bearer(), authorizer.bearer(sub="sub-2")
    twice = rest_request(good)
    twice["multiValueHeaders"]["Authorization"] = [other, good]
    spelt = rest_request(good)
    spelt["headers"]["authorization"] = other
    for event in (twice, spelt):
        assert authorizer.reason(event) == "token"


@pytest.mark.parametrize("headers", [None, {}])
def test_headers_that_are_not_there_are_no_token(authorizer: Authorizer, headers: Any) -> None:
    for event in (rest_request(None), http_2(None)):
        assert authorizer.reason({**event, "headers": headers, "multiValueHeaders": headers}) == "token"


def test_the_header_counts_not_the_identity_source(authorizer: Authorizer) -> None:
    """HTTP APIs put all identity sources into authorizationToken, joined by commas."""
    event = http_1(authorizer.bearer())
    assert authorizer.lets_in({**event, "authorizationToken": f"{authorizer.bearer()},else"}) is not None
    assert authorizer.reason({**http_1("no token"), "authorizationToken": authorizer.bearer()}) == "token"


# ------------------------------------------------------------------ who is not


def inactive(ledger: Ledger) -> None:
    ledger.set_live("sub-1", Live(), NOW, signs_out=True)


def held(ledger: Ledger) -> None:
    ledger.hold("sub-1", {"reason": "spam", "requested_by": "jo", "at": NOW})


def held_while_inactive(ledger: Ledger) -> None:
    inactive(ledger)
    held(ledger)


def deleted(ledger: Ledger) -> None:
    ledger.bury_person("sub-1", NOW)


def deleted_while_held(ledger: Ledger) -> None:
    held(ledger)
    deleted(ledger)


def erased(ledger: Ledger) -> None:
    ledger.erase_person("sub-1", NOW)


def signed_out(ledger: Ledger) -> None:
    inactive(ledger)
    ledger.set_live("sub-1", Live(True, 5), NOW + 1)


def held_and_lifted(ledger: Ledger) -> None:
    held(ledger)
    ledger.lift("sub-1")
    ledger.set_live("sub-1", Live(True, 5), NOW + 1)


def lifted_and_not_yet_live(ledger: Ledger) -> None:
    held(ledger)
    ledger.lift("sub-1")


@every_kind
@pytest.mark.parametrize(
    ("happened", "reason"),
    [
        (inactive, "inactive"),
        (held, "held"),
        (held_while_inactive, "held"),
        (deleted, "deleted"),
        (deleted_while_held, "deleted"),
        (erased, "deleted"),
        (signed_out, "signed_out"),
        (held_and_lifted, "signed_out"),
        (lifted_and_not_yet_live, "inactive"),
    ],
)
def test_from_the_next_call_on_whoever_lost_access_is_refused(
    authorizer: Authorizer, kind: Kind, happened: Callable[[Ledger], None], reason: str
) -> None:
    token = authorizer.bearer(iat=NOW - 1, exp=4_000_000_000)
    assert authorizer.lets_in(kind(token)) is not None
    happened(authorizer.ledger)
    assert authorizer.reason(kind(token)) == reason


@every_kind
def test_a_user_whom_nobody_knows_is_refused(authorizer: Authorizer, kind: Kind) -> None:
    assert authorizer.reason(kind(authorizer.bearer(sub="sub-2"))) == "unknown"


@every_kind
@pytest.mark.parametrize("claims", [{"signer": "forger"}, {"exp": 1}, {"client_id": "other"}, {"iss": "https://other"}])
def test_a_token_that_is_not_good_is_refused(authorizer: Authorizer, kind: Kind, claims: Json) -> None:
    assert authorizer.reason(kind(authorizer.bearer(**claims))) == "token"


def test_nobody_in_particular_is_refused_a_policy(authorizer: Authorizer) -> None:
    for kind in POLICY_KINDS:
        for value in ("no token", authorizer.bearer(sub="sub-2")):
            assert authorizer.answer(kind(value))["principalId"] == "nobody"


def test_a_new_token_is_good_after_access_came_back(authorizer: Authorizer) -> None:
    signed_out(authorizer.ledger)
    assert authorizer.reason(http_2(authorizer.bearer(iat=NOW - 1, exp=4_000_000_000))) == "signed_out"
    assert authorizer.lets_in(http_2(authorizer.bearer(iat=NOW + 2, exp=4_000_000_000))) is not None


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"parties": ["cus_1"], "granted": {"sub_1": 5}, "tellings": 1},
        {"dapp_limit": 5},
        {"active": False, "dapp_limit": 5},
    ],
)
def test_a_row_that_an_earlier_version_wrote_lets_nobody_in(authorizer: Authorizer, row: Json) -> None:
    row = {"pk": "PERSON#sub-1", "sk": "PERSON", **row}
    item = {name: TypeSerializer().serialize(value) for name, value in row.items()}
    authorizer.dynamodb.put_item(TableName="orders", Item=item)
    assert authorizer.reason(http_2(authorizer.bearer())) == "inactive"


def test_another_row_of_the_user_lets_nobody_in(authorizer: Authorizer) -> None:
    """A token may say any user: none is the key of something else."""
    authorizer.ledger.reserve_dapp("sub-1", "a", NOW)
    for sub in ("sub-1#DAPP", "", " sub-1", "SUB-1", "PERSON#sub-1"):
        assert authorizer.reason(http_2(authorizer.bearer(sub=sub))) == "unknown"


# ------------------------------------------------------------------ one read


def test_one_call_costs_one_consistent_read(
    authorizer: Authorizer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Json] = []
    real = authorizer.dynamodb.get_item
    monkeypatch.setattr(authorizer.dynamodb, "get_item", lambda **given: requests.append(given) or real(**given))
    authorizer.lets_in(http_2(authorizer.bearer()))
    issuer.requests = 0
    for sub in ("sub-1", "sub-2"):
        requests.clear()
        authorizer.table.calls.clear()
        authorizer.answer(http_2(authorizer.bearer(sub=sub)))
        assert authorizer.table.calls == {"get_item": 1}
        (request,) = requests
        assert request["ConsistentRead"] is True
    assert issuer.requests == 0


@every_kind
def test_a_rejected_token_costs_no_read(authorizer: Authorizer, kind: Kind) -> None:
    for value in ("", "no token", authorizer.bearer(signer="forger"), authorizer.bearer(exp=1)):
        authorizer.reason(kind(value))
    assert authorizer.table.total == 0


# ------------------------------------------------------------------ nobody can tell


@every_kind
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (THROTTLED, LedgerThrottled),
        (refusal("InternalServerError", 500), LedgerUnavailable),
        (SILENT, LedgerUnavailable),
        (DENIED, LedgerRejected),
        (refusal("ResourceNotFoundException"), LedgerRejected),
    ],
)
def test_without_the_ledger_nobody_is_let_in_or_refused(
    authorizer: Authorizer, kind: Kind, error: Exception, name: type, lines: list[str]
) -> None:
    authorizer.table.errors["get_item"] = error
    with pytest.raises(name):
        authorizer.answer(kind(authorizer.bearer()))
    assert json.loads(lines[-1])["level"] == "ERROR"
    assert name.__name__ in lines[-1]


@every_kind
def test_without_the_pools_keys_nobody_is_let_in_or_refused(authorizer: Authorizer, kind: Kind) -> None:
    with running() as unwell:
        unwell.answer = (500, {}, b"")
        authorizer.accepts(Tokens(authorizer.issuer.url, unwell.keys_url, [CLIENT], "access"))
        with pytest.raises(KeysUnavailable):
            authorizer.answer(kind(authorizer.bearer()))
    assert authorizer.table.total == 0


@pytest.mark.parametrize("event", [{}, None, [], "event", {"headers": []}, {"headers": {"authorization": ["a"]}}])
def test_an_event_of_no_kind_is_a_defect(authorizer: Authorizer, event: Any) -> None:
    with pytest.raises(UnexpectedError, match="this is a defect"):
        authorizer.answer(event)


def test_a_request_without_a_method_is_a_defect(authorizer: Authorizer) -> None:
    event = rest_request(authorizer.bearer())
    del event["methodArn"]
    with pytest.raises(UnexpectedError, match=r"KeyError at authorize\.py"):
        authorizer.answer(event)


@every_kind
def test_a_defect_says_nothing_of_the_token(authorizer: Authorizer, kind: Kind, lines: list[str]) -> None:
    token = authorizer.issuer.token()
    authorizer.table.errors["get_item"] = RuntimeError(f"{token} is odd")
    with pytest.raises(UnexpectedError) as caught:
        authorizer.answer(kind(token))
    assert token[:8] not in str(caught.value)
    assert caught.value.__suppress_context__
    assert "RuntimeError" in lines[-1]
    assert token[:8] not in "".join(lines)


# ------------------------------------------------------------------ what is seen of it


@pytest.mark.parametrize(
    ("happened", "claims", "metrics"),
    [
        (lambda ledger: None, {}, {}),
        (lambda ledger: None, {"signer": "forger"}, {"TokenRejected": 1}),
        (lambda ledger: None, {"sub": "sub-2"}, {"AccessRefused": 1}),
        (inactive, {}, {"AccessRefused": 1}),
        (held, {}, {"AccessRefused": 1}),
        (deleted, {}, {"AccessRefused": 1}),
        (signed_out, {"iat": 1}, {"AccessRefused": 1}),
    ],
)
def test_refusals_are_counted(
    authorizer: Authorizer,
    counted: Callable[[], Json],
    happened: Callable[[Ledger], None],
    claims: Json,
    metrics: Json,
) -> None:
    happened(authorizer.ledger)
    authorizer.answer(http_2(authorizer.bearer(**claims)))
    assert counted() == metrics


@every_kind
@pytest.mark.parametrize(
    "claims", [{}, {"sub": "sub-2"}, {"signer": "forger"}, {"exp": 1}, {"kid": "unknown", "signer": "forger"}]
)
def test_nothing_of_a_token_is_logged(
    authorizer: Authorizer, kind: Kind, claims: Json, lines: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    token = authorizer.issuer.token(**claims)
    answer = authorizer.answer(kind(f"Bearer {token}"))
    seen = "".join(lines) + "".join(capfd.readouterr()) + json.dumps(answer)
    assert not any(part[start : start + 8] in seen for part in token.split(".") for start in range(len(part) - 7))
    assert CLIENT not in seen


def test_a_refusal_names_its_user_and_the_next_call_does_not(authorizer: Authorizer, lines: list[str]) -> None:
    authorizer.answer(http_2(authorizer.bearer(sub="sub-2")))
    authorizer.answer(http_2("no token"))
    refused, rejected = (json.loads(line) for line in lines)
    assert (refused["sub"], refused["message"]) == ("sub-2", "refused: unknown")
    assert rejected.get("sub") is None
    assert re.match("TokenRejected: ", rejected["message"])
    assert {each["request_id"] for each in (refused, rejected)} == {"request-1"}
