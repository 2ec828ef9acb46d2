"""The HTTP API in front of the functions: routes, authorisation and events as API Gateway has them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
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

_ANY = "x-amazon-apigateway-any-method"
_FUNCTION = re.compile(r"/functions/(.+)/invocations")
_TEXT_TYPES = ("application/json", "application/javascript", "application/xml")
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request, *"
    r"SignedHeaders=([^,]+), *Signature=([0-9a-f]{64})"
)

Invoke = Callable[[str, bytes], Answer]


@dataclass(frozen=True)
class Route:
    """A method and a path that lead to a function."""

    method: str
    path: str
    function: str
    signed: bool

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
    ) -> None:
        """`credentials`: access keys and secrets that IAM-authorised routes accept."""
        self.routes = sorted(_routes(body), key=lambda route: route.rank)
        self._invoke = invoke
        self._credentials = credentials
        self._region = region
        self._account_id = account_id

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
            for name in names:
                if schemes.get(name, {}).get("x-amazon-apigateway-authtype") != "awsSigv4":
                    raise NotImplementedError(f"{path}: authorizer {name}; only AWS_IAM runs here")
            yield Route("ANY" if method == _ANY else method.upper(), path, function[1], bool(names))


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
