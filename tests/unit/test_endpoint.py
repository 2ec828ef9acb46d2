"""gateway.endpoint: whatever an operator sends is answered with what to do, and leaves nothing personal in logs."""

import base64
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import errors
from gateway.endpoint import MAX_BODY, Answer, Request, UserRequest, endpoint, flag, said, text, user_endpoint
from gateway.errors import GatewayError, LedgerRejected, LedgerThrottled
from tests.unit.operators import CALLER, HOSTILE, UNPRINTABLE, Operators

Json = dict[str, Any]

EMAIL = "markedmailbox@markeddomain.example"
REASON = "markedreason"
SIGNED = {"authorizer": {"iam": {"userArn": CALLER}}}
CONTEXT = SimpleNamespace(
    function_name="endpoint", aws_request_id="request-1", get_remaining_time_in_millis=lambda: 2_500
)


class Desk:
    """An endpoint that remembers what it was asked, and answers, or fails, as it is told."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.answer = Answer({"fine": True})
        self.error: Exception | None = None

        @endpoint(sure=flag, hold=said, reason=text(20))
        def handler(request: Request) -> Answer:
            self.asked.append(request)
            if self.error is not None:
                raise self.error
            return self.answer

        self._handler = handler

    def send(self, event: Json) -> tuple[int, Json]:
        answer = self._handler(event, CONTEXT)
        assert answer.keys() == {"statusCode", "headers", "body"}
        assert answer["headers"] == {"content-type": "application/json", "cache-control": "no-store"}
        return answer["statusCode"], json.loads(answer["body"])

    def ask(self, **fields: Any) -> tuple[int, Json]:
        """A request as it should be, with these fields."""
        return self.send(request(json.dumps({"email": EMAIL, "hold": True, **fields})))


def request(body: object, **envelope: Any) -> Json:
    return {"version": "2.0", "requestContext": SIGNED, "body": body, "isBase64Encoded": False, **envelope}


@pytest.fixture
def desk() -> Desk:
    return Desk()


class TestRequest:
    def test_is_understood(self, desk: Desk) -> None:
        assert desk.ask(reason=f" {REASON} ") == (200, {"fine": True})
        asked = desk.asked[0]
        assert (asked.email, asked.caller, asked.owner, asked.seconds_left()) == (EMAIL, CALLER, "request-1", 2.5)
        assert asked.values == {"sure": False, "hold": True, "reason": REASON}

    @pytest.mark.parametrize("written", [EMAIL.upper(), EMAIL.title(), f"  {EMAIL}\n"])
    def test_may_write_the_address_in_any_case(self, desk: Desk, written: str) -> None:
        assert desk.ask(email=written)[0] == 200
        assert desk.asked[0].email == EMAIL

    @pytest.mark.parametrize("absent", [{"reason": None}, {}])
    def test_may_leave_out_what_is_not_needed(self, desk: Desk, absent: Json) -> None:
        assert desk.ask(**absent)[0] == 200
        assert desk.asked[0].values["reason"] is None

    def test_may_come_in_base64(self, desk: Desk) -> None:
        body = base64.b64encode(json.dumps({"email": EMAIL, "hold": False, "reason": "Zoë 🦄"}).encode()).decode()
        assert desk.send(request(body, isBase64Encoded=True))[0] == 200
        assert desk.asked[0].values["reason"] == "Zoë 🦄"

    def test_of_the_longest_size_is_read(self, desk: Desk) -> None:
        body = json.dumps({"email": EMAIL, "hold": True}).encode()
        padded = body + b" " * (MAX_BODY - len(body))
        assert desk.send(request(padded.decode()))[0] == 200
        assert desk.send(request(base64.b64encode(padded).decode(), isBase64Encoded=True))[0] == 200

    @pytest.mark.parametrize("encoded", [False, True])
    @pytest.mark.parametrize("filler", [b" ", "é".encode()])
    def test_that_is_larger_is_refused(self, desk: Desk, encoded: bool, filler: bytes) -> None:
        body = b'{"email": "' + filler * MAX_BODY + b'"}'
        sent = base64.b64encode(body) if encoded else body
        status, said = desk.send(request(sent.decode(), isBase64Encoded=encoded))
        assert (status, said) == (413, {"error": "TooLarge", "message": "the body is larger than 10000 bytes"})
        assert desk.asked == []


class TestUnsigned:
    @pytest.mark.parametrize(
        "context",
        [
            None,
            {},
            {"authorizer": None},
            {"authorizer": {}},
            {"authorizer": {"iam": None}},
            {"authorizer": {"iam": {}}},
            {"authorizer": {"iam": {"userArn": ""}}},
            {"authorizer": {"jwt": {"claims": {"sub": "somebody"}}}},
            {"identity": {"userArn": CALLER}},
        ],
    )
    @pytest.mark.parametrize("body", [json.dumps({"email": EMAIL, "hold": True}), "{"])
    def test_is_refused_before_anything_is_read(self, desk: Desk, context: Json | None, body: str) -> None:
        status, said = desk.send(request(body, requestContext=context))
        assert (status, said["error"]) == (403, "NotSigned")
        assert desk.asked == []

    def test_is_refused_without_any_context(self, desk: Desk) -> None:
        assert desk.send({"body": "{}"})[0] == 403


class TestBadInput:
    """400 says what is wrong, and repeats nothing of it."""

    def refused(self, desk: Desk, event: Json) -> str:
        status, said = desk.send(event)
        assert (status, said["error"]) == (400, "RequestInvalid")
        assert desk.asked == []
        return str(said["message"])

    @pytest.mark.parametrize(
        "body",
        [
            None,
            "",
            " ",
            "{",
            "email=a@example.com",
            "{'email': 'a@example.com'}",
            '{"email": "a@example.com"} {}',
            "\ud800",
            '{"email": "\ud800"}',
            "\x00",
            "9" * 9_000,
            "<email>a@example.com</email>",
        ],
    )
    def test_that_is_not_json(self, desk: Desk, body: str | None) -> None:
        assert self.refused(desk, request(body)) == "the body is not JSON"

    @pytest.mark.parametrize("body", ["*", "é", "YQ", "YQ=", "YQ==!", base64.b64encode(b"\xff\xfe{").decode()])
    def test_that_is_not_base64(self, desk: Desk, body: str) -> None:
        assert self.refused(desk, request(body, isBase64Encoded=True)) == "the body is not JSON"

    @pytest.mark.parametrize(
        "body", ["null", "true", "1", "1e999", "NaN", '"a@example.com"', "[]", '["a@example.com"]']
    )
    def test_that_is_no_object(self, desk: Desk, body: str) -> None:
        assert self.refused(desk, request(body)) == "the body is not a JSON object"

    @pytest.mark.parametrize("name", ["markedfield", "", "Email", "hold ", "__class__", "\x00", "\ud800", *HOSTILE])
    def test_of_an_unknown_field_does_not_repeat_its_name(self, desk: Desk, name: str) -> None:
        message = self.refused(desk, request(json.dumps({"email": EMAIL, "hold": True, name: 1})))
        assert message == "1 of the fields are not known here; known are email, sure, hold, reason"

    @pytest.mark.parametrize("body", ["[" * 4_900 + "]" * 4_900, '{"email": ' * 900 + "1" + "}" * 900, "[" * 9_900])
    def test_that_is_nested_deeply(self, desk: Desk, body: str) -> None:
        assert self.refused(desk, request(body))

    @pytest.mark.parametrize(
        "email",
        [
            None,
            True,
            0,
            10**400,
            1.5,
            [],
            [EMAIL],
            {},
            {"S": EMAIL},
            "",
            " ",
            "nobody",
            "@",
            "a@",
            "@example.com",
            "a@example",
            "a b@example.com",
            "a@b@example.com",
            "a@example.com,b@example.com",
            'a"@example.com',
            "<a@example.com>",
            "a@example.com; DROP TABLE orders",
            "a:b@example.com",
            "a" * 117 + "@example.com",
            "a" * 9_000 + "@example.com",
            *(f"a{each}@example.com" for each in UNPRINTABLE if each != "a\nb"),
            *HOSTILE,
        ],
    )
    def test_of_an_address_that_cannot_be_one(self, desk: Desk, email: object) -> None:
        message = self.refused(desk, request(json.dumps({"email": email, "hold": True})))
        assert message.startswith("the e-mail address is ")
        assert not isinstance(email, str) or len(email) < 3 or email not in message

    def test_of_no_address(self, desk: Desk) -> None:
        message = self.refused(desk, request('{"hold": true}'))
        assert message == "the e-mail address is missing or not text"

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            *(("sure", each, "sure is neither true nor false") for each in (0, 1, "true", "", [], {}, [True], 1.0)),
            *(("hold", each, "hold is neither true nor false") for each in (0, 1, "false", [], {})),
            ("hold", None, "hold is missing: say true or false"),
            *(("reason", each, "reason is not printable text") for each in (0, 10**400, True, 1.5, [], {}, ["x"])),
            *(("reason", each, "reason is not printable text") for each in UNPRINTABLE),
            *(("reason", each, "reason is empty, or longer than 20 characters") for each in ("", " ", "x" * 21)),
        ],
    )
    def test_of_a_field_names_it(self, desk: Desk, field: str, value: object, message: str) -> None:
        assert self.refused(desk, request(json.dumps({"email": EMAIL, "hold": True, field: value}))) == message


NAMED = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, GatewayError)]
PASSING = {
    "StripeThrottled",
    "StripeUnavailable",
    "CognitoThrottled",
    "CognitoUnavailable",
    "LedgerThrottled",
    "LedgerUnavailable",
    "StartThrottled",
    "StartUnavailable",
    "NoticeThrottled",
    "NoticeUnavailable",
    "KeysUnavailable",
    "PersonBusy",
}
OURS = {"AccountUnknown": 404, "AccountAmbiguous": 409, "DeletionUnderWay": 409, "RequestInvalid": 400}


class TestFailure:
    @pytest.mark.parametrize("error", NAMED, ids=lambda each: each.__name__)
    def test_says_whether_to_ask_again(
        self, desk: Desk, error: type[GatewayError], lines: list[str], counted: Callable[[], dict[str, float]]
    ) -> None:
        name = error.__name__
        desk.error = error("what to do")
        expected = OURS.get(name, 503 if name in PASSING else 502)
        assert desk.ask() == (expected, {"error": name, "message": "what to do"})
        line = json.loads(lines[-1])
        assert (line["level"], line["message"], line["status"]) == ("WARNING", f"{name}: what to do", expected)
        assert counted() == ({"Throttled": 1} if name.endswith("Throttled") else {})

    @pytest.mark.parametrize("error", [ValueError(EMAIL), KeyError(EMAIL), UnicodeError(EMAIL), RecursionError(EMAIL)])
    def test_of_ours_is_told_without_its_text(self, desk: Desk, error: Exception, lines: list[str]) -> None:
        desk.error = error
        status, said = desk.ask()
        assert (status, said["error"]) == (500, "UnexpectedError")
        assert said["message"].startswith(f"{type(error).__name__} at test_endpoint.py:")
        assert said["message"].endswith("; this is a defect")
        assert json.loads(lines[-1])["level"] == "ERROR"
        assert not any(EMAIL in line for line in lines)


class TestLog:
    @pytest.mark.parametrize(
        "how",
        [
            lambda desk: desk.ask(reason=REASON),
            lambda desk: desk.ask(reason=REASON, sure=1),
            lambda desk: desk.ask(reason=REASON * 3),
            lambda desk: desk.ask(reason=REASON, markedfield=1),
            lambda desk: desk.ask(email=f"{EMAIL}@", reason=REASON),
            lambda desk: desk.send(request(EMAIL)),
            lambda desk: desk.send(request(EMAIL * 1_000)),
        ],
    )
    def test_names_who_asked_and_nothing_of_what(
        self, desk: Desk, lines: list[str], how: Callable[[Desk], Any]
    ) -> None:
        how(desk)
        assert json.loads(lines[-1]).items() >= {"caller": CALLER, "request_id": "request-1"}.items()
        assert not any(marked in line for line in lines for marked in ("markedmailbox", REASON, "markedfield"))

    def test_of_an_unsigned_request_does_not_name_the_caller_before(self, desk: Desk, lines: list[str]) -> None:
        desk.ask()
        desk.send(request("{}", requestContext={}))
        assert json.loads(lines[-1]).get("caller") is None


def test_an_answer_has_the_status_it_says(desk: Desk) -> None:
    desk.answer = Answer({"state": "RUNNING"}, 202)
    assert desk.ask() == (202, {"state": "RUNNING"})


# ------------------------------------------------------------------ users

SUB = "11111111-2222-4333-8444-555555555555"
AUTHORISED = {"authorizer": {"lambda": {"sub": SUB, "limit": 5, "used": 1}}}
IDS = ["a", "Z9", "0", "my-dapp", "a.b", "a..", "urn:dapp:1", "A_b-C.d:e", "x" * 128]
NO_IDS: list[object] = [
    *(0, 1, 1.5, True, False, [], ["a"], {}, {"S": "a"}),
    *("", " ", ".", "..", "a/b", "/", "-a", "_a", ":a", ".a", "a b", " a", "a ", "a\n", "\na", "x" * 129),
    *("é", "aé", "Ａ", "а", "١", "a\u200b", "\ud800", "a#b", "a%2Fb", "a+b", "a\\b", "a,b", "a;b", 'a"b', "a?b"),
    *(each for each in (*HOSTILE, *UNPRINTABLE) if each not in ("x" * 63,)),
]
WRONG_ID = "id must be 1 to 128 letters, digits or . _ : - and begin with a letter or digit"


class Counter:
    """What users ask of: it reads of a request what it is told to, and answers that."""

    def __init__(self, read: Callable[[UserRequest], object]) -> None:
        self.asked: list[UserRequest] = []

        @user_endpoint
        def handler(request: UserRequest) -> Answer:
            self.asked.append(request)
            return Answer({"sub": request.sub, "read": read(request)})

        self._handler = handler

    def send(self, event: Json) -> tuple[int, Json]:
        answer = self._handler(event, CONTEXT)
        assert answer.keys() == {"statusCode", "headers", "body"}
        assert answer["headers"] == {"content-type": "application/json", "cache-control": "no-store"}
        return answer["statusCode"], json.loads(answer["body"])

    def ask(self, body: object = None, **envelope: Any) -> tuple[int, Json]:
        return self.send(request(body, **{"requestContext": AUTHORISED, **envelope}))

    def refused(self, body: object = None, **envelope: Any) -> str:
        """The message of a 400."""
        status, said = self.ask(body, **envelope)
        assert (status, said["error"]) == (400, "RequestInvalid")
        return str(said["message"])


@pytest.fixture
def body() -> Counter:
    return Counter(lambda request: request.dapp)


@pytest.fixture
def path() -> Counter:
    return Counter(lambda request: request.dapp_in_path)


@pytest.fixture
def page() -> Counter:
    return Counter(lambda request: request.next)


class TestUserRequest:
    @pytest.mark.parametrize(
        "context",
        [
            None,
            {},
            {"authorizer": None},
            {"authorizer": {}},
            {"authorizer": {"lambda": None}},
            {"authorizer": {"lambda": {}}},
            {"authorizer": {"lambda": {"sub": None}}},
            {"authorizer": {"lambda": {"sub": ""}}},
            {"authorizer": {"lambda": {"reason": "inactive"}}},
            {"authorizer": {"jwt": {"claims": {"sub": SUB}}}},
            {"authorizer": {"sub": SUB}},
            {"authorizer": {"iam": {"userArn": CALLER}}},
            {"lambda": {"sub": SUB}},
        ],
    )
    @pytest.mark.parametrize("said", ['{"id": "a"}', "{"])
    def test_that_nobody_authorised_is_refused_before_anything_is_read(
        self, body: Counter, context: Json | None, said: str
    ) -> None:
        status, answer = body.ask(said, requestContext=context)
        assert (status, answer["error"]) == (403, "NotSigned")
        assert body.asked == []

    def test_without_any_context_is_refused(self, body: Counter) -> None:
        assert body.send({"body": '{"id": "a"}'})[0] == 403

    def test_of_a_user_does_not_pass_for_an_operators(self, desk: Desk) -> None:
        sent = request(json.dumps({"email": EMAIL, "hold": True}), requestContext=AUTHORISED)
        assert desk.send(sent)[0] == 403

    @pytest.mark.parametrize("name", IDS)
    def test_names_a_dapp_in_its_body_its_path_or_as_the_page_before(
        self, body: Counter, path: Counter, page: Counter, name: str
    ) -> None:
        expected = (200, {"sub": SUB, "read": name})
        assert body.ask(json.dumps({"id": name})) == expected
        encoded = base64.b64encode(json.dumps({"id": name}).encode()).decode()
        assert body.ask(encoded, isBase64Encoded=True) == expected
        assert path.ask(pathParameters={"id": name}) == expected
        assert page.ask(queryStringParameters={"next": name}) == expected

    @pytest.mark.parametrize("name", NO_IDS, ids=ascii)
    def test_of_a_wrong_name_is_refused_and_does_not_repeat_it(
        self, body: Counter, path: Counter, page: Counter, name: object, lines: list[str]
    ) -> None:
        assert body.refused(json.dumps({"id": name})) == WRONG_ID
        if isinstance(name, str):
            assert path.refused(pathParameters={"id": name}) == WRONG_ID
            assert page.refused(queryStringParameters={"next": name}) == WRONG_ID.replace("id", "next", 1)
            assert len(name) < 6 or not any(name in line for line in lines)

    @pytest.mark.parametrize("said", ["{}", '{"id": null}'])
    def test_without_a_name_is_refused(self, body: Counter, said: str) -> None:
        assert body.refused(said) == "id is missing"

    @pytest.mark.parametrize("parameters", [None, {}, {"name": "a"}])
    def test_of_a_route_without_a_name_is_refused(self, path: Counter, parameters: Json | None) -> None:
        assert path.refused('{"id": "a"}', pathParameters=parameters) == "id is missing"
        assert path.refused('{"id": "a"}') == "id is missing"

    @pytest.mark.parametrize("parameters", [None, {}, {"limit": "9"}])
    def test_of_the_first_page_names_none(self, page: Counter, parameters: Json | None) -> None:
        assert page.ask(queryStringParameters=parameters) == (200, {"sub": SUB, "read": None})
        assert page.ask() == (200, {"sub": SUB, "read": None})

    @pytest.mark.parametrize("more", ["sub", "limit", "used", "Id", "__class__", "markedfield"])
    def test_knows_no_other_field(self, body: Counter, more: str) -> None:
        assert body.refused(json.dumps({"id": "a", more: 1})) == 'the body knows one field, "id"'

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            *((each, "the body is not JSON") for each in (None, "", " ", "{", "id=a", "{'id': 'a'}", "\ud800", "\x00")),
            *((each, "the body is not a JSON object") for each in ("null", "true", "1", '"a"', "[]", '["a"]')),
        ],
    )
    def test_that_is_no_json_object_is_refused(self, body: Counter, said: str | None, message: str) -> None:
        assert body.refused(said) == message

    @pytest.mark.parametrize("said", ["*", "YQ", base64.b64encode(b"\xff\xfe{").decode()])
    def test_that_is_no_base64_is_refused(self, body: Counter, said: str) -> None:
        assert body.refused(said, isBase64Encoded=True) == "the body is not JSON"

    @pytest.mark.parametrize("encoded", [False, True])
    def test_may_be_so_large_and_no_larger(self, body: Counter, encoded: bool) -> None:
        for size, status in ((MAX_BODY, 200), (MAX_BODY + 1, 413)):
            padded = b'{"id": "a"}'.ljust(size)
            sent = base64.b64encode(padded) if encoded else padded
            assert body.ask(sent.decode(), isBase64Encoded=encoded)[0] == status

    def test_of_no_body_is_not_read_where_none_is_needed(self, path: Counter, page: Counter) -> None:
        assert path.ask("{", pathParameters={"id": "a"})[0] == 200
        assert page.ask("x" * (MAX_BODY + 1))[0] == 200

    def test_is_logged_with_who_asked(self, body: Counter, lines: list[str]) -> None:
        body.ask(json.dumps({"id": "a", "markedfield": "markedvalue"}))
        assert json.loads(lines[-1]).items() >= {"caller": SUB, "status": 400, "request_id": "request-1"}.items()
        assert not any("marked" in line for line in lines)
        body.ask('{"id": "a"}', requestContext={})
        assert json.loads(lines[-1]).get("caller") is None

    @pytest.mark.parametrize("error", [LedgerThrottled("later"), LedgerRejected("never"), ValueError(EMAIL)])
    def test_fails_without_a_word_of_how_it_works_inside(self, error: Exception, lines: list[str]) -> None:
        def fail(_: UserRequest) -> None:
            raise error

        status, answer = Counter(fail).ask()
        asks_again = (503, {"error": "Unavailable", "message": "request request-1 could not be answered: ask again"})
        message = "request request-1 could not be answered: tell whoever runs this API"
        failed = {"error": "Failed", "message": message}
        told = {LedgerThrottled: asks_again, LedgerRejected: (502, failed)}
        assert (status, answer) == told.get(type(error), (500, failed))
        name = type(error).__name__ if isinstance(error, GatewayError) else "UnexpectedError"
        assert name in json.loads(lines[-1])["message"]
        assert not any(EMAIL in line for line in lines)


class TestEveryEndpoint:
    """What is proven above holds for each of the four: it is one way in."""

    @pytest.fixture
    def operators(self, dynamodb: Any, cognito: Any, pool_id: str, monkeypatch: pytest.MonkeyPatch) -> Operators:
        return Operators(dynamodb, cognito, pool_id, monkeypatch)

    @pytest.mark.parametrize(
        ("function", "fields"),
        [
            ("ReadOrders", "email, history, next, sub"),
            ("UpdateOrders", "email, next, sub"),
            ("DeleteAccount", "email, dry_run, sub"),
            ("HoldUser", "email, hold, reason, sub"),
        ],
    )
    def test_refuses_what_it_cannot_use_before_anything_is_called(
        self, operators: Operators, function: str, fields: str
    ) -> None:
        assert operators.ask(function, requestContext={})[0] == 403
        assert operators.ask(function, body="{")[0] == 400
        assert operators.ask(function, body=" " * (MAX_BODY + 1))[0] == 413
        assert operators.ask(function, {"email": "nobody"})[0] == 400
        status, said = operators.ask(function, {"email": EMAIL, "markedfield": 1})
        assert (status, said["message"]) == (400, f"1 of the fields are not known here; known are {fields}")
        assert operators.table.total == operators.pool.total == 0
