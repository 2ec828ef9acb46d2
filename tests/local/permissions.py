"""What the roles of the template allow, and which AWS calls were made by whom.

Every function, state machine and schedule signs with an access key of its own, so that each call that arrives at the
local endpoint can be told apart, recorded, and refused where its role does not allow it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from werkzeug.wrappers import Request, Response

from .template import Resource, Template, TemplateError

INVOKE_PATH = re.compile(r"/2015-03-31/functions/([^/]+)/invocations/?")

_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/\d+/([^/]+)/([^/]+)/aws4_request")
_FORM = "application/x-www-form-urlencoded"
_IAM_PREFIXES = {"email": "ses", "monitoring": "cloudwatch"}
_CALLERS = (
    "AWS::Events::Rule",
    "AWS::Lambda::Function",
    "AWS::Scheduler::Schedule",
    "AWS::StepFunctions::StateMachine",
)
_ONLY_QUALIFIER = "ForAnyValue:StringEquals", "states:StateMachineQualifier"
_TRANSACTION_ACTIONS = {
    "ConditionCheck": "dynamodb:ConditionCheckItem",
    "Delete": "dynamodb:DeleteItem",
    "Get": "dynamodb:GetItem",
    "Put": "dynamodb:PutItem",
    "Update": "dynamodb:UpdateItem",
}


class Call(NamedTuple):
    """One authorised action: who asked, `service:Action`, and the ARN where the request tells it."""

    function: str
    action: str
    resource: str | None


class AwsCall(NamedTuple):
    """A request to the endpoint: who signed it, for which service, and the actions that it needs.

    `xml`: the service speaks the older query protocol, in which errors are XML.
    """

    access_key: str
    service: str
    operation: str
    needs: tuple[tuple[str, str | None], ...]
    xml: bool = False


@dataclass(frozen=True)
class Statement:
    """One statement of an IAM policy. Both sides may hold `*` and `?`.

    `qualifier`: the alias of a state machine that its condition asks for. IAM compares resources with the ARN of the
    machine itself, whichever alias a call names:
    https://docs.aws.amazon.com/step-functions/latest/dg/auth-version-alias.html
    """

    allows: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    qualifier: str | None = None

    @property
    def called(self) -> tuple[str, ...]:
        """The resources as calls name them."""
        return tuple(f"{each}:{self.qualifier}" if self.qualifier else each for each in self.resources)

    def matches(self, action: str, resource: str | None) -> bool:
        """Whether the statement speaks of this; a resource that is not known matches any."""
        if not _any_matches(self.actions, action, re.IGNORECASE):
            return False
        if resource is None:
            return True
        machine, qualifier = _unqualified(resource)
        return _any_matches(self.resources, machine) and self.qualifier in (None, qualifier)


@dataclass(frozen=True)
class Role:
    """An `AWS::IAM::Role`: its inline policies, and every `AWS::IAM::Policy` that is attached to it.

    AWS's managed policies only let it write logs and traces.
    """

    logical_id: str
    statements: tuple[Statement, ...]

    def allows(self, action: str, resource: str | None) -> bool:
        """IAM's decision: some statement allows it and none denies it."""
        verdicts = {entry.allows for entry in self.statements if entry.matches(action, resource)}
        return verdicts == {True}


def role_of(resource: Resource) -> Any:
    """The role that a function, a machine or a schedule acts with, as the template refers to it; None: it has none."""
    properties = resource.properties
    targets = properties.get("Targets") or [properties.get("Target", {})]
    return properties.get("Role") or properties.get("RoleArn") or targets[0].get("RoleArn")


def access_key_of(logical_id: str) -> str:
    """The access key that the function, state machine or schedule signs with."""
    return "ASIA" + hashlib.sha256(logical_id.encode()).hexdigest()[:16].upper()


def roles(template: Template) -> dict[str, Role]:
    """The roles that exist so far, by logical id."""
    documents: dict[str, list[Any]] = {
        resource.logical_id: [policy["PolicyDocument"] for policy in resource.properties.get("Policies", [])]
        for resource in _existing(template, "AWS::IAM::Role")
    }
    for policy in _existing(template, "AWS::IAM::Policy"):
        for role in template.resolve(policy.properties["Roles"]):
            if role not in documents:
                raise TemplateError(f"{policy.logical_id}: its role {role} is not in the template")
            documents[role].append(policy.properties["PolicyDocument"])
    return {
        name: Role(
            name,
            tuple(
                _statement(name, template.resolve(statement))
                for document in several
                for statement in _listed(document["Statement"])
            ),
        )
        for name, several in documents.items()
    }


class Permissions:
    """Decides and records the calls of the template's functions, state machines, and schedules with a role."""

    def __init__(self, template: Template, secrets: Sequence[str] = ()) -> None:
        """`secrets`: ARNs of those that the template does not make."""
        self.calls: list[Call] = []
        self.denied: list[Call] = []
        self._template = template
        self._secrets = secrets
        self._lock = threading.Lock()
        by_id = roles(template)
        self._callers: dict[str, tuple[str, Role]] = {}
        for resource in _existing(template, *_CALLERS):
            arn = role_of(resource)
            if arn is None:
                continue
            role = template.resolve(arn).rsplit("/", 1)[-1]
            if role not in by_id:
                raise TemplateError(f"{resource.logical_id}: its role {arn} is not in the template")
            key = access_key_of(resource.logical_id)
            self._callers[key] = (resource.logical_id, by_id[role])

    def caller(self, call: AwsCall) -> str | None:
        """The logical id of who signed; None is the outside world, which may do anything."""
        found = self._callers.get(call.access_key)
        return found[0] if found else None

    def check(self, call: AwsCall) -> Response | None:
        """Records the call. The answer is AWS's refusal, or None when the role allows it."""
        why = self.refusal(call)
        if why is None:
            return None
        status = 403 if call.service in ("lambda", "sns") else 400
        return aws_error("AccessDeniedException", why, status=status, xml=call.xml)

    def refusal(self, call: AwsCall) -> str | None:
        """Records the call. Why the role of its caller does not allow it; None when it does."""
        if call.access_key not in self._callers:
            return None
        function, role = self._callers[call.access_key]
        refused = None
        with self._lock:
            for action, resource in call.needs:
                record = Call(function, action, resource)
                self.calls.append(record)
                if not role.allows(action, resource):
                    self.denied.append(record)
                    refused = refused or record
        if refused is None:
            return None
        account = self._template.pseudo["AWS::AccountId"]
        return (
            f"User: arn:aws:sts::{account}:assumed-role/{role.logical_id}/{function} is not "
            f"authorized to perform: {refused.action} on resource: {refused.resource or '*'} "
            f"because no identity-based policy allows the {refused.action} action"
        )

    def read(self, request: Request, body: bytes) -> AwsCall | None:
        """What a signed request asks for; None for a request without a SigV4 signature."""
        signature = _CREDENTIAL.search(request.headers.get("Authorization", ""))
        if signature is None:
            return None
        key, _, scope = signature.groups()
        service = _IAM_PREFIXES.get(scope, scope)
        form = dict(parse_qsl(body.decode())) if request.mimetype == _FORM else {}
        operation = form.get("Action") or _operation(request)
        needs = tuple(self._needs(service, operation, request, form or _json(body)))
        return AwsCall(key, service, operation, needs, xml=bool(form))

    def _needs(
        self, service: str, operation: str, request: Request, body: Mapping[str, Any]
    ) -> Iterable[tuple[str, str | None]]:
        action = f"{service}:{operation}"
        match service:
            case "dynamodb" if "TransactItems" in body:
                for entry in body["TransactItems"]:
                    for kind, item in entry.items():
                        yield _TRANSACTION_ACTIONS[kind], self._table(item)
            case "dynamodb" if "RequestItems" in body:
                for table in body["RequestItems"]:
                    yield action, self._table({"TableName": table})
            case "dynamodb" if "TableName" in body:
                yield action, self._table(body)
            case "cognito-idp" if "UserPoolId" in body:
                yield action, self._arn("cognito-idp", f"userpool/{body['UserPoolId']}")
            case "secretsmanager" if "SecretId" in body:
                yield action, self._secret(body["SecretId"])
            case "events" if "Entries" in body:
                for entry in body["Entries"]:
                    yield action, self._bus(entry.get("EventBusName") or "default")
            case "sns" if "TopicArn" in body:
                yield action, body["TopicArn"]
            case "states":
                yield action, body.get("stateMachineArn") or body.get("executionArn")
            case "lambda" if path := INVOKE_PATH.fullmatch(unquote(request.path)):
                named = path[1].split(":")
                name = ":".join(named[6:] if named[0] == "arn" else named)
                yield action, self._arn("lambda", f"function:{name}")
            case _:
                yield action, None

    def _table(self, body: Mapping[str, Any]) -> str:
        name = body["TableName"]
        arn = name if name.startswith("arn:") else self._arn("dynamodb", f"table/{name}")
        return f"{arn}/index/{body['IndexName']}" if "IndexName" in body else arn

    def _bus(self, name: str) -> str:
        return name if name.startswith("arn:") else self._arn("events", f"event-bus/{name}")

    def _secret(self, secret_id: str) -> str:
        """A secret's full ARN: it may be asked for by name, or without the six characters at its end."""
        prefix = secret_id if secret_id.startswith("arn:") else self._arn("secretsmanager", f"secret:{secret_id}")
        full = re.compile(re.escape(prefix) + "(-[A-Za-z0-9]{6})?")
        refs = (str(physical.ref) for physical in self._template.physical.values())
        return next((ref for ref in (*self._secrets, *refs) if full.fullmatch(ref)), prefix)

    def _arn(self, service: str, resource: str) -> str:
        pseudo = self._template.pseudo
        return f"arn:aws:{service}:{pseudo['AWS::Region']}:{pseudo['AWS::AccountId']}:{resource}"


def aws_error(code: str, message: str, status: int = 400, *, xml: bool = False) -> Response:
    """An error in the shape of AWS's JSON services, or of the query ones; the header serves Lambda's REST too."""
    if xml:
        error = f"<Type>Sender</Type><Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
        return Response(f"<ErrorResponse><Error>{error}</Error></ErrorResponse>", status, content_type="text/xml")
    return Response(
        json.dumps({"__type": code, "message": message, "Message": message}),
        status,
        content_type="application/x-amz-json-1.0",
        headers={"x-amzn-ErrorType": code},
    )


def _operation(request: Request) -> str:
    """The IAM action of a request in one of AWS's protocols, but for the query one, which has it in its form."""
    if target := request.headers.get("X-Amz-Target"):
        return target.rsplit(".", 1)[1]
    if INVOKE_PATH.fullmatch(unquote(request.path)):
        return "InvokeFunction"
    if "/operation/" in request.path:
        return request.path.rsplit("/", 1)[1]
    return f"{request.method} {request.path}"


def _existing(template: Template, *types: str) -> list[Resource]:
    return [resource for resource in template.of_type(*types) if resource.logical_id in template.physical]


def _statement(role: str, document: Mapping[str, Any]) -> Statement:
    if unknown := document.keys() - {"Sid", "Effect", "Action", "Resource", "Condition"}:
        raise TemplateError(f"{role}: the local stack cannot judge {', '.join(sorted(unknown))}")
    return Statement(
        document["Effect"] == "Allow",
        tuple(_listed(document["Action"])),
        tuple(_listed(document["Resource"])),
        _qualifier(role, document["Condition"]) if "Condition" in document else None,
    )


def _qualifier(role: str, condition: Mapping[str, Any]) -> str:
    operator, key = _ONLY_QUALIFIER
    match condition.get(operator, {}).get(key):
        case str(qualifier) if condition == {operator: {key: qualifier}}:
            return qualifier
    raise TemplateError(f"{role}: the local stack cannot judge the condition {json.dumps(condition)}")


def _unqualified(resource: str) -> tuple[str, str | None]:
    """The ARN of a state machine without its alias, and the alias; other ARNs as they are."""
    parts = resource.split(":")
    if parts[5:6] == ["stateMachine"] and len(parts) == 8:
        return ":".join(parts[:7]), parts[7]
    return resource, None


def _any_matches(patterns: Iterable[str], value: str, flags: int = 0) -> bool:
    return any(
        re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), value, flags) for pattern in patterns
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
