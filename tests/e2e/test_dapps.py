"""Users and their dapps: as many as are paid for at this very moment, however many are asked for at once."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from moto.cognitoidp.models import cognitoidp_backends

from tests.e2e.conftest import Answer, Gateway, Json, until
from tests.local import front, lambda_service

DAY = 24 * 3600
FORBIDDEN = (403, {"message": "Forbidden"})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A stack whose functions run four times side by side, and where nobody loses patience with the authorizer, for
    fifty at once wait for those four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lambda_service, "DEFAULT_ENVIRONMENTS", 4)
        patch.setattr(front, "AUTHORIZER_SECONDS", 60)
        with Gateway(tmp_path_factory.mktemp("gateway")) as opened:
            yield opened


def call(gateway: Gateway, method: str, path: str, authorization: str | None, content: Any = None) -> Answer:
    """A request with this header Authorization, if any."""
    connection = http.client.HTTPConnection(gateway.stack.api.removeprefix("http://"), timeout=60)
    headers = {} if authorization is None else {"Authorization": authorization}
    body = None if content is None else json.dumps(content)
    try:
        connection.request(method, path, body, headers | ({"Content-Type": "application/json"} if body else {}))
        response = connection.getresponse()
        return Answer(response.status, response.read().decode())
    finally:
        connection.close()


class Subscriber:
    """Somebody who pays for so many dapps, and has signed in."""

    def __init__(self, gateway: Gateway, email: str, quantity: int) -> None:
        self.gateway, self.email = gateway, email
        self.session = gateway.subscriber(email, quantity)
        self.tokens = gateway.sign_in(email)
        self.header = f"Bearer {self.tokens['AccessToken']}"

    def reserve(self, name: str) -> Answer:
        return call(self.gateway, "POST", "/dapps", self.header, {"id": name})

    def release(self, name: str) -> Answer:
        return call(self.gateway, "DELETE", f"/dapps/{name}", self.header)

    def listed(self) -> Answer:
        return call(self.gateway, "GET", "/dapps", self.header)

    def pays_for(self, quantity: int) -> None:
        """From now on; all is done that follows from it."""
        self.gateway.stripe.change_quantity(self.session["subscription"], quantity)
        self.gateway.settle()

    def cancel(self) -> None:
        self.gateway.stripe.cancel(self.session["subscription"])
        self.gateway.settle()

    def rows(self) -> list[str]:
        """The dapps in the ledger; and the count beside them is right."""
        person = self.gateway.person(self.email)
        found = [row["sk"] for row in self.gateway.rows(person["pk"]) if row["sk"].startswith("DAPP#")]
        assert person.get("used", 0) == len(found)
        return sorted(sk.removeprefix("DAPP#") for sk in found)

    def assert_listed(self, names: Sequence[str], limit: int) -> None:
        """The API tells the same as the ledger: these, of so many."""
        answer = self.listed()
        told = answer.document
        assert (answer.status, [each["id"] for each in told["dapps"]], told["next"]) == (200, sorted(names), None)
        assert (told["used"], told["limit"]) == (len(names), limit)
        assert self.rows() == sorted(names)


def at_once(task: Callable[[int], Answer], times: int, threads: int = 0) -> list[Answer]:
    """What as many requests are answered, so many of them side by side (all unless it is said)."""
    with ThreadPoolExecutor(threads or times) as pool:
        return list(pool.map(task, range(times)))


def statuses(answers: Sequence[Answer]) -> dict[int, int]:
    return dict(Counter(answer.status for answer in answers))


def persistently(task: Callable[[], Answer]) -> Answer:
    """Whoever is told to ask again (503) does so."""
    for _ in range(10):
        answer = task()
        if answer.status != 503:
            return answer
    return answer


# ------------------------------------------------------------------ as many as are paid for


def test_of_fifty_at_once_as_many_are_reserved_as_are_paid_for(gateway: Gateway) -> None:
    user = Subscriber(gateway, "fifty@example.com", 10)
    answers = at_once(lambda number: user.reserve(f"dapp-{number}"), 50)
    assert statuses(answers) == {201: 10, 403: 40}
    for number, answer in enumerate(answers):
        if answer.status == 201:
            assert answer.document.items() >= {"id": f"dapp-{number}", "limit": 10}.items()
        else:
            said = answer.document
            assert (said["error"], said["used"], said["limit"]) == ("LimitReached", 10, 10)
            assert "release one, or pay for more" in said["message"]
    user.assert_listed([f"dapp-{number}" for number, answer in enumerate(answers) if answer.status == 201], 10)


@pytest.mark.parametrize(
    "faults",
    [
        [{"code": "TransactionCanceledException", "action": "TransactWriteItems", "count": 40}],
        [{"code": "ThrottlingException", "action": "TransactWriteItems", "count": 40}],
        [{"code": "InternalServerError", "action": "TransactWriteItems", "count": 20, "applied": True}],
        [
            {"code": "TransactionCanceledException", "action": "TransactWriteItems", "count": 20},
            {"code": "InternalServerError", "action": "TransactWriteItems", "count": 10, "applied": True},
            {"code": "ThrottlingException", "action": "GetItem", "count": 20},
        ],
    ],
    ids=["conflicts", "throttling", "lost answers", "all of these"],
)
def test_it_is_as_many_whatever_goes_wrong_meanwhile(
    gateway: Gateway, faults: list[Json], request: pytest.FixtureRequest
) -> None:
    """Asked for again, what happened without an answer is answered with 200."""
    user = Subscriber(gateway, f"faults{request.node.callspec.indices['faults']}@example.com", 10)
    added = [gateway.stack.faults.add("dynamodb", function="ReserveDappFunction", **each) for each in faults]
    answers = at_once(lambda number: persistently(lambda: user.reserve(f"dapp-{number}")), 50, threads=16)
    assert all(fault.hits for fault in added)
    counted = statuses(answers)
    assert counted.keys() <= {200, 201, 403}
    assert counted[403] == 40
    assert {answer.document["error"] for answer in answers if answer.status == 403} == {"LimitReached"}
    user.assert_listed([f"dapp-{number}" for number, answer in enumerate(answers) if answer.status != 403], 10)


def test_one_name_is_one_dapp_however_often_it_is_asked_for_at_once(gateway: Gateway) -> None:
    user = Subscriber(gateway, "again@example.com", 3)
    answers = at_once(lambda _: user.reserve("my-dapp"), 20)
    assert statuses(answers) == {201: 1, 200: 19}
    assert {answer.text for answer in answers} == {'{"id": "my-dapp", "used": 1, "limit": 3}'}
    user.assert_listed(["my-dapp"], 3)
    assert statuses(at_once(lambda _: user.release("my-dapp"), 20)) == {200: 20}
    user.assert_listed([], 3)


def test_what_is_released_makes_room_for_another(gateway: Gateway) -> None:
    user = Subscriber(gateway, "room@example.com", 2)
    assert [user.reserve(name).status for name in ("a", "urn:b_1.2", "c")] == [201, 201, 403]
    answer = user.release("urn:b_1.2")
    assert (answer.status, answer.document) == (200, {"id": "urn:b_1.2", "used": 1, "limit": 2})
    assert user.reserve("c").status == 201
    user.assert_listed(["a", "c"], 2)
    page = call(gateway, "GET", "/dapps?next=a", user.header)
    assert [each["id"] for each in page.document["dapps"]] == ["c"]


def test_of_one_user_nothing_is_seen_or_taken_by_another(gateway: Gateway) -> None:
    one, other = (Subscriber(gateway, f"{name}@example.com", 1) for name in ("mine", "yours"))
    assert one.reserve("same").status == other.reserve("same").status == 201
    other.release("same")
    one.assert_listed(["same"], 1)
    other.assert_listed([], 1)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "ä", "x" * 129, None, 1])
def test_what_is_no_name_is_refused(gateway: Gateway, name: object, request: pytest.FixtureRequest) -> None:
    user = Subscriber(gateway, f"name{request.node.callspec.indices['name']}@example.com", 1)
    answer = call(gateway, "POST", "/dapps", user.header, {"id": name})
    assert (answer.status, answer.document["error"]) == (400, "RequestInvalid")
    assert user.rows() == []


# ------------------------------------------------------------------ while it changes what is paid for


def test_across_an_upgrade_never_more_than_the_new_limit_and_then_all_of_it(gateway: Gateway) -> None:
    user = Subscriber(gateway, "upgrade@example.com", 10)
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(user.reserve, f"dapp-{number:02}") for number in range(50)]
        user.pays_for(15)
        first = [each.result() for each in asked]
    assert statuses(first).keys() <= {201, 403}
    assert 10 <= statuses(first)[201] <= 15
    for answer in first:
        assert (answer.document["limit"], answer.document["used"] <= answer.document["limit"]) in {
            (10, True),
            (15, True),
        }
    again = at_once(lambda number: user.reserve(f"dapp-{number:02}"), 50, threads=16)
    counted = statuses(again)
    assert (counted[200], counted.get(201, 0), counted[403]) == (statuses(first)[201], 15 - statuses(first)[201], 35)
    user.assert_listed([f"dapp-{number:02}" for number, each in enumerate(again) if each.status != 403], 15)


def test_a_downgrade_takes_nothing_away_and_gives_nothing_more(gateway: Gateway) -> None:
    user = Subscriber(gateway, "downgrade@example.com", 5)
    for name in "abcde":
        user.reserve(name)
    user.pays_for(3)
    user.assert_listed("abcde", 3)
    refused = user.reserve("f")
    assert (refused.status, refused.document["used"], refused.document["limit"]) == (403, 5, 3)
    assert (user.reserve("e").status, user.release("a").status, user.release("b").status) == (200, 200, 200)
    assert user.reserve("f").status == 403
    user.assert_listed("cde", 3)
    user.pays_for(4)
    assert [user.reserve(name).status for name in "fg"] == [201, 403]
    user.assert_listed("cdef", 4)


# ------------------------------------------------------------------ when access ends


def cancel(user: Subscriber) -> None:
    user.cancel()


def hold(user: Subscriber) -> None:
    assert user.gateway.ask("/hold", user.email, hold=True, reason="abuse").status == 200


def delete(user: Subscriber) -> None:
    assert user.gateway.ask("/delete", user.email).status == 200


def lapse(user: Subscriber) -> None:
    """The last payment failed, and the grace is over."""
    user.gateway.stripe.fail_payment(user.session["subscription"])
    user.gateway.settle()
    assert user.reserve("in-grace").status == 201
    user.gateway.later(user.session["customer"], 4 * DAY)


@pytest.mark.parametrize("end", [cancel, hold, delete, lapse])
def test_the_very_next_call_with_the_same_token_is_refused(gateway: Gateway, end: Callable[[Subscriber], None]) -> None:
    user = Subscriber(gateway, f"{end.__name__}@example.com", 5)
    assert user.reserve("before").status == 201
    end(user)
    for answer in (user.listed(), user.reserve("after"), user.release("before")):
        assert (answer.status, answer.document) == FORBIDDEN
    gateway.settle()
    assert user.listed().status == 403
    if end is not delete:
        assert "after" not in user.rows()
        assert "before" in user.rows()


def test_a_token_from_before_stays_worthless_when_access_comes_back(gateway: Gateway) -> None:
    user = Subscriber(gateway, "back@example.com", 2)
    assert user.reserve("kept").status == 201
    user.cancel()
    ended = gateway.person(user.email)["signed_out_at"]
    gateway.stripe.create_subscription(user.session["customer"], gateway.seat, 3)
    gateway.settle()
    assert gateway.access(user.email) == (True, 3, "ACTIVE")
    assert user.listed().status == 403
    until(lambda: int(time.time()) > ended)  # a token of that very second is refused as well
    user.header = f"Bearer {gateway.sign_in(user.email)['AccessToken']}"
    user.assert_listed(["kept"], 3)


def test_nothing_is_reserved_any_more_once_the_ledger_knows_that_access_has_ended(gateway: Gateway) -> None:
    user = Subscriber(gateway, "race@example.com", 100)
    ended = threading.Event()
    asked: list[tuple[bool, Answer]] = []

    def insist(thread: int) -> None:
        """Ask until some were asked after the end."""
        for number in range(200):
            late = ended.is_set()
            asked.append((late, user.reserve(f"dapp-{thread}-{number}")))
            if late:
                return

    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(insist, thread) for thread in range(8)]
        until(lambda: len(asked) >= 8)
        gateway.stripe.cancel(user.session["subscription"])
        until(lambda: gateway.person(user.email)["active"] is False)
        known = len(user.rows())
        ended.set()
        for each in threads:
            each.result()
    gateway.settle()
    late = [answer for was_late, answer in asked if was_late]
    assert statuses(late) == {403: 8}
    reserved = [answer for _, answer in asked if answer.status == 201]
    assert 8 <= len(reserved) == len(user.rows()) == known <= 100
    assert {answer.status for _, answer in asked} == {201, 403}


def test_after_the_deletion_of_the_account_no_dapp_is_left(gateway: Gateway) -> None:
    user = Subscriber(gateway, "forgotten@example.com", 150)
    pk = gateway.person(user.email)["pk"]
    answers = at_once(lambda number: user.reserve(f"dapp-{number}"), 120, threads=8)
    assert statuses(answers) == {201: 120}
    delete(user)
    gateway.settle()
    assert [row["sk"] for row in gateway.rows(pk)] == ["PERSON"]
    assert user.reserve("again").status == 403
    assert [row["sk"] for row in gateway.rows(pk)] == ["PERSON"]


# ------------------------------------------------------------------ who may ask


def signed(user: Subscriber, **changed: Any) -> str:
    """The user's access token with other claims, signed with the pool's own key."""
    stack = user.gateway.stack
    key = cognitoidp_backends[stack.account_id][stack.region].user_pools[stack.user_pool_id].json_web_key
    claims = jwt.decode(user.tokens["AccessToken"], options={"verify_signature": False}) | changed
    headers = jwt.get_unverified_header(user.tokens["AccessToken"])
    return "Bearer " + jwt.encode(claims, key.as_pem(private=True), algorithm="RS256", headers={"kid": headers["kid"]})


def tampered(user: Subscriber) -> str:
    """Somebody else's sub under the user's signature."""
    head, _, signature = user.tokens["AccessToken"].split(".")
    body = signed(user, sub="11111111-2222-4333-8444-555555555555").split(".")[1]
    return f"Bearer {head}.{body}.{signature}"


def unsigned(user: Subscriber) -> str:
    claims = jwt.decode(user.tokens["AccessToken"], options={"verify_signature": False})
    return "Bearer " + jwt.encode(claims, None, algorithm="none", headers={"kid": "dummy"})


FORGED: list[tuple[str, Callable[[Subscriber], str]]] = [
    ("an ID token", lambda user: f"Bearer {user.tokens['IdToken']}"),
    ("a refresh token", lambda user: f"Bearer {user.tokens['RefreshToken']}"),
    ("expired", lambda user: signed(user, exp=int(time.time()) - 1)),
    ("of another pool", lambda user: signed(user, iss="https://cognito-idp.us-east-1.amazonaws.com/us-east-1_other")),
    ("of another app client", lambda user: signed(user, client_id="another")),
    ("of a user whom nobody knows", lambda user: signed(user, sub="11111111-2222-4333-8444-555555555555")),
    ("tampered", tampered),
    ("unsigned", unsigned),
    ("no token", lambda _: "Bearer nonsense"),
    ("another scheme", lambda user: f"Basic {user.tokens['AccessToken']}"),
    ("two tokens", lambda user: f"{user.header} {user.tokens['AccessToken']}"),
]


@pytest.fixture(scope="module")
def user(gateway: Gateway) -> Subscriber:
    return Subscriber(gateway, "honest@example.com", 2)


REQUESTS = [("POST", "/dapps", {"id": "a"}), ("DELETE", "/dapps/a", None), ("GET", "/dapps", None)]


@pytest.mark.parametrize("forge", [pytest.param(forge, id=name) for name, forge in FORGED])
@pytest.mark.parametrize(("method", "path", "content"), REQUESTS)
def test_whoever_shows_no_valid_token_is_refused(
    gateway: Gateway, user: Subscriber, method: str, path: str, content: Any, forge: Callable[[Subscriber], str]
) -> None:
    answer = call(gateway, method, path, forge(user), content)
    assert (answer.status, answer.document) == FORBIDDEN


@pytest.mark.parametrize(("method", "path", "content"), REQUESTS)
def test_whoever_shows_none_at_all_is_not_even_looked_at(
    gateway: Gateway, method: str, path: str, content: Any
) -> None:
    log, calls = gateway.log.stat().st_size, len(gateway.stack.calls)
    answer = call(gateway, method, path, None, content)
    assert (answer.status, answer.document) == (401, {"message": "Unauthorized"})
    assert (gateway.log.stat().st_size, len(gateway.stack.calls)) == (log, calls)


def test_whoever_shows_their_own_is_let_in_with_or_without_its_scheme(gateway: Gateway, user: Subscriber) -> None:
    for header in (user.header, user.header.replace("Bearer", "bearer"), user.tokens["AccessToken"], signed(user)):
        assert call(gateway, "GET", "/dapps", header).status == 200


def test_an_operators_signature_is_no_token(gateway: Gateway) -> None:
    body = b'{"id": "a"}'
    assert gateway.request("/dapps", body, gateway.signature("/dapps", body)).status == 403


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalServerError", "AccessDeniedException"])
def test_while_the_authorizer_cannot_look_nobody_is_let_in(gateway: Gateway, user: Subscriber, code: str) -> None:
    fault = gateway.stack.faults.add("dynamodb", code, "GetItem", function="AuthorizeFunction")
    before = user.rows()
    for answer in (user.listed(), user.reserve("blind"), user.release("blind")):
        assert (answer.status, answer.document) == (500, {"message": "Internal Server Error"})
    assert user.rows() == before
    assert fault.hits >= 3
    gateway.stack.faults.remove(fault)
    assert user.listed().status == 200
