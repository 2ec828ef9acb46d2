"""The HTTP API in front of the functions: routes, authorisation and events as API Gateway has them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from werkzeug.wrappers import Request, Response

from .lambda_service import Answer, TooManyRequestsError
from .template import TemplateError

MAX_BODY = 10 * 1024 * 1024
"""Bytes that API Gateway takes; it answers 413 to more."""

MAX_SKEW = 300
"""Seconds that a signature may be old or early."""

OPEN_ROUTES = frozenset({"/create"})
"""Paths that may go without an authorizer: Stripe signs what it sends there, and the function checks that."""

AUTHORIZER_SECONDS = 10
"""How long API Gateway waits for an authorizer."""

_ANY = "x-amazon-apigateway-any-method"
_FUNCTION = re.compile(r"/functions/(.+)/invocations")
_TEXT_TYPES = ("application/json", "application/javascript", "application/xml")
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request, *"
    r"SignedHeaders=([^,]+), *Signature=([0-9a-f]{64})"
)

_IDENTITY = re.compile(r"\$request\.header\.([\w-]+)")

Invoke = Callable[[str, bytes], Answer]


@dataclass(frozen=True)
class Authorizer:
    """A Lambda authorizer with payload 2.0 and simple responses."""

    name: str
    function: str
    headers: tuple[str, ...]
    seconds: int
    """How long an answer is kept; 0 asks at every call."""


@dataclass(frozen=True)
class Route:
    """A method and a path that lead to a function."""

    method: str
    path: str
    function: str
    signed: bool
    authorizer: Authorizer | None = None

    @property
    def key(self) -> str:
        """The route's name in an event."""
        return self.path if self.path == "$default" else f"{self.method} {self.path}"

    @property
    def rank(self) -> tuple[bool, bool, int, bool]:
        """Lower goes first: exact paths, then variables, then greedy ones, then `$default`."""
        return (
            self.path == "$default",
            "+}" in self.path,
            self.path.count("{"),
            self.method == "ANY",
        )

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The path's variables if the route takes this request."""
        if self.path == "$default":
            return {}
        if self.method not in ("ANY", method):
            return None
        pattern = re.sub(
            r"\\\{(\w+)(\\\+)?\\\}",
            lambda found: f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})",
            re.escape(self.path),
        )
        found = re.fullmatch(pattern, path)
        return found.groupdict() if found else None


class HttpApi:
    """A WSGI application that answers like the `AWS::ApiGatewayV2::Api` with this OpenAPI body."""

    def __init__(
        self,
        body: Mapping[str, Any],
        invoke: Invoke,
        *,
        credentials: Mapping[str, str],
        region: str,
        account_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`credentials`: access keys and secrets that IAM-authorised routes accept; `clock`: of kept answers."""
        self.routes = sorted(_routes(body), key=lambda route: route.rank)
        self._invoke = invoke
        self._credentials = credentials
        self._region = region
        self._account_id = account_id
        self._clock = clock
        self._kept: dict[tuple[str, ...], tuple[float, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answers one request."""
        return self._answer(Request(environ))(environ, start_response)

    def _answer(self, request: Request) -> Response:
        # Also read when nobody wants it: what stays unread would be the next request.
        body = request.get_data()
        for route in self.routes:
            variables = route.match(request.method, request.path)
            if variables is not None:
                break
        else:
            return _message(404, "Not Found")
        if len(body) > MAX_BODY:
            return _message(413, "Request Entity Too Large")
        signer = self._signer(request, body) if route.signed else None
        if route.signed and signer is None:
            return _message(403, "Forbidden")
        event = self._event(request, body, route, variables, signer)
        if route.authorizer:
            verdict = self._verdict(route, route.authorizer, event)
            if isinstance(verdict, Response):
                return verdict
            event["requestContext"]["authorizer"] = {"lambda": verdict}
        try:
            answer = self._invoke(route.function, json.dumps(event).encode())
        except TooManyRequestsError:
            return _message(503, "Service Unavailable")
        if answer.failed:
            return _message(500, "Internal Server Error")
        try:
            return _response(json.loads(answer.payload))
        except (ValueError, TypeError, KeyError):
            return _message(500, "Internal Server Error")

    def _event(
        self,
        request: Request,
        body: bytes,
        route: Route,
        variables: dict[str, str],
        signer: str | None,
    ) -> dict[str, Any]:
        """The payload of format 2.0."""
        headers = {name.lower(): ",".join(request.headers.getlist(name)) for name, _ in request.headers}
        cookies = headers.pop("cookie", None)
        query = {name: ",".join(request.args.getlist(name)) for name in request.args}
        text, is_base64 = _body(body, request.mimetype)
        now = datetime.now(UTC)
        context: dict[str, Any] = {
            "accountId": self._account_id,
            "apiId": "local",
            "domainName": request.host.split(":")[0],
            "domainPrefix": "local",
            "http": {
                "method": request.method,
                "path": request.path,
                "protocol": request.environ.get("SERVER_PROTOCOL", "HTTP/1.1"),
                "sourceIp": request.remote_addr,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": uuid.uuid4().hex[:16],
            "routeKey": route.key,
            "stage": "$default",
            "time": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(now.timestamp() * 1000),
        }
        if signer:
            context["authorizer"] = {
                "iam": {
                    "accessKey": signer,
                    "accountId": self._account_id,
                    "callerId": signer,
                    "cognitoIdentity": None,
                    "principalOrgId": None,
                    "userArn": f"arn:aws:iam::{self._account_id}:user/local",
                    "userId": signer,
                }
            }
        optional = {
            "body": text,
            "cookies": re.split(r"; *", cookies) if cookies else None,
            "pathParameters": variables or None,
            "queryStringParameters": query or None,
        }
        return {
            "version": "2.0",
            "routeKey": route.key,
            "rawPath": request.path,
            "rawQueryString": request.query_string.decode("latin-1"),
            "headers": headers,
            "requestContext": context,
            "isBase64Encoded": is_base64,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _verdict(self, route: Route, authorizer: Authorizer, event: dict[str, Any]) -> Response | Any:
        """The context of who is let in, or the answer to who is not."""
        sources = [event["headers"].get(name) for name in authorizer.headers]
        if not all(sources):
            return _message(401, "Unauthorized")
        key = (authorizer.name, *map(str, sources))
        with self._lock:
            until, answer = self._kept.get(key, (0.0, None))
        now = self._clock()
        if answer is None or now >= until:
            answer = self._asked(route, authorizer, sources, event)
            if answer is None:
                return _message(500, "Internal Server Error")
            if authorizer.seconds:
                with self._lock:
                    self._kept[key] = (now + authorizer.seconds, answer)
        return answer.get("context") if answer["isAuthorized"] else _message(403, "Forbidden")

    def _asked(
        self, route: Route, authorizer: Authorizer, sources: list[Any], event: dict[str, Any]
    ) -> dict[str, Any] | None:
        """What the authorizer says; None when it fails, is too slow, or says what API Gateway does not understand."""
        method, path = event["requestContext"]["http"]["method"], event["rawPath"]
        asked = {
            **{name: value for name, value in event.items() if name not in ("body", "isBase64Encoded")},
            "type": "REQUEST",
            "routeArn": f"arn:aws:execute-api:{self._region}:{self._account_id}:local/$default/{method}{path}",
            "identitySource": sources,
        }
        began = self._clock()
        try:
            answer = self._invoke(authorizer.function, json.dumps(asked).encode())
        except TooManyRequestsError:
            return None
        if answer.failed or self._clock() - began > AUTHORIZER_SECONDS:
            return None
        said = json.loads(answer.payload)
        if not isinstance(said, dict) or not isinstance(said.get("isAuthorized"), bool):
            return None
        return said if isinstance(said.get("context"), dict | None) else None

    def _signer(self, request: Request, body: bytes) -> str | None:
        """The access key that signed the request, when the signature is right (SigV4)."""
        found = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
        date = request.headers.get("X-Amz-Date", "")
        if found is None or not re.fullmatch(r"\d{8}T\d{6}Z", date):
            return None
        key, region, service, signed, signature = found.groups()
        sent = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        digest = hashlib.sha256(body).hexdigest()
        if (
            key not in self._credentials
            or (service, region) != ("execute-api", self._region)
            or abs(time.time() - sent) > MAX_SKEW
            or request.headers.get("X-Amz-Content-SHA256", digest) != digest
            or not {"host", "x-amz-date"} <= set(signed.split(";"))
        ):
            return None
        copy = AWSRequest(
            method=request.method,
            url=f"http://{request.host}{request.environ['REQUEST_URI']}",
            data=body,
            headers={name: request.headers.get(name, "") for name in signed.split(";")},
        )
        copy.context["timestamp"] = date
        signer = SigV4Auth(Credentials(key, self._credentials[key]), service, region)
        text = signer.string_to_sign(copy, signer.canonical_request(copy))
        return key if hmac.compare_digest(signer.signature(text, copy), signature) else None


def _routes(body: Mapping[str, Any]) -> Iterable[Route]:
    schemes = body.get("components", {}).get("securitySchemes", {})
    for path, methods in body["paths"].items():
        for method, operation in methods.items():
            if method == "options" and "x-amazon-apigateway-integration" not in operation:
                continue
            integration = operation["x-amazon-apigateway-integration"]
            version = integration.get("payloadFormatVersion")
            if integration["type"].lower() != "aws_proxy" or version != "2.0":
                raise NotImplementedError(f"{path}: only Lambda proxies with payload 2.0 run here")
            function = _FUNCTION.search(integration["uri"])
            if function is None:
                raise NotImplementedError(f"{path}: {integration['uri']} is no function")
            # SAM writes NONE where a route goes without an authorizer on purpose.
            names = [name for entry in operation.get("security", []) for name in entry if name != "NONE"]
            if not names and path not in OPEN_ROUTES:
                raise TemplateError(f"{method.upper()} {path} has no authorizer: anybody could call it")
            if len(names) > 1:
                raise NotImplementedError(f"{path}: a route here has one authorizer, not {names}")
            scheme = schemes.get(names[0], {}) if names else {}
            authorizer = None
            if "x-amazon-apigateway-authorizer" in scheme:
                authorizer = _authorizer(names[0], scheme["x-amazon-apigateway-authorizer"])
            elif names and scheme.get("x-amazon-apigateway-authtype") != "awsSigv4":
                raise NotImplementedError(
                    f"{path}: authorizer {names[0]}; only AWS_IAM and Lambda authorizers run here"
                )
            signed = bool(names) and authorizer is None
            yield Route("ANY" if method == _ANY else method.upper(), path, function[1], signed, authorizer)


def _authorizer(name: str, definition: Mapping[str, Any]) -> Authorizer:
    """Whatever is not imitated is an error."""
    sources = definition.get("identitySource") or []
    found = [_IDENTITY.fullmatch(each) for each in (sources.split(",") if isinstance(sources, str) else sources)]
    headers = tuple(each[1].lower() for each in found if each)
    function = _FUNCTION.search(str(definition.get("authorizerUri")))
    seconds = int(definition.get("authorizerResultTtlInSeconds", -1))
    imitated = {
        "type": "request",
        "authorizerPayloadFormatVersion": "2.0",
        "enableSimpleResponses": True,
    }
    known = {*imitated, "authorizerUri", "authorizerResultTtlInSeconds", "identitySource"}
    if (
        definition.keys() != known
        or any(definition[key] != value for key, value in imitated.items())
        or function is None
        or not found
        or len(headers) != len(found)
        or not 0 <= seconds <= 3600
    ):
        raise NotImplementedError(
            f"authorizer {name}: only Lambda authorizers with payload 2.0, simple responses, headers as identity "
            "sources and a time to live of 0 to 3600 seconds run here"
        )
    return Authorizer(name, function[1], headers, seconds)


def _body(body: bytes, mimetype: str) -> tuple[str | None, bool]:
    """The body as an event carries it; API Gateway decides by content type what is text."""
    if not body:
        return None, False
    if mimetype.startswith("text/") or mimetype in _TEXT_TYPES:
        try:
            return body.decode("utf-8"), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True


def _response(result: Any) -> Response:
    """What a function's result means; a result without `statusCode` is a body."""
    if not isinstance(result, dict) or "statusCode" not in result:
        text = result if isinstance(result, str) else json.dumps(result)
        return Response(text, 200, content_type="application/json")
    text = result.get("body") or ""
    if not isinstance(text, str):
        raise TypeError("a body is text")
    body = base64.b64decode(text) if result.get("isBase64Encoded") else text.encode()
    response = Response(body, int(result["statusCode"]), content_type="text/plain;charset=UTF-8")
    for name, value in (result.get("headers") or {}).items():
        response.headers[name] = str(value)
    for cookie in result.get("cookies") or []:
        response.headers.add("Set-Cookie", cookie)
    return response


def _message(status: int, text: str) -> Response:
    return Response(json.dumps({"message": text}), status, content_type="application/json")
