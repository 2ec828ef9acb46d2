"""Custom resources as CloudFormation asks for them: an event to a function, whose answer is an HTTP PUT.

The stack decides when each one's turn has come; here are the events, the answers, and what becomes of an update that
fails half-way.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from werkzeug.wrappers import Request, Response

from .lambda_service import Answer, FunctionNotFoundError, TooManyRequestsError

Json = dict[str, Any]

RESPONSES = "/custom-resource-responses/"
"""Where the answers go; what follows cannot be guessed, as the signature of a presigned URL cannot."""

MAX_RESPONSE = 4096
"""Bytes of an answer."""

INVOCATIONS = 3
"""CloudFormation invokes without waiting, and Lambda tries such an invocation twice more when it fails."""


class DeploymentFailed(Exception):
    """A custom resource failed. The stack has been put back as it was."""

    def __init__(self, logical_id: str, reason: str, physical_id: str | None = None) -> None:
        super().__init__(f"{logical_id}: {reason}")
        self.logical_id = logical_id
        self.reason = reason
        self.physical_id = physical_id


@dataclass(frozen=True)
class CustomResource:
    """One that exists, with the properties that it was last asked for."""

    logical_id: str
    type: str
    properties: Json
    physical_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def is_custom(type_: str) -> bool:
    """Whether a function, not CloudFormation, makes resources of this type."""
    return type_.startswith("Custom::") or type_ == "AWS::CloudFormation::CustomResource"


def as_text(value: Any) -> Any:
    """Properties as a function gets them: every value in them is text."""
    if isinstance(value, dict):
        return {name: as_text(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [as_text(entry) for entry in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


class CustomResources:
    """Those of one stack, oldest first."""

    def __init__(self, stack_id: str, endpoint: str, invoke: Callable[[str, bytes], Answer]) -> None:
        self.existing: dict[str, CustomResource] = {}
        self._stack_id = stack_id
        self._endpoint = endpoint
        self._invoke = invoke
        self._replaced: list[CustomResource] = []
        self._answers: dict[str, bytes | None] = {}

    def receive(self, request: Request) -> Response:
        """The PUT of a function. The first one counts; the URL is signed without a content type."""
        token = request.path.removeprefix(RESPONSES)
        if request.method != "PUT" or token not in self._answers or request.headers.get("Content-Type"):
            return Response("<Error><Code>SignatureDoesNotMatch</Code></Error>", 403, content_type="application/xml")
        self._answers[token] = self._answers[token] or request.get_data()
        return Response("")

    def apply(self, logical_id: str, type_: str, properties: Json) -> CustomResource:
        """Creates it, or updates it where it was asked for something else before."""
        old = self.existing.get(logical_id)
        wanted = CustomResource(logical_id, type_, as_text(properties))
        if old is None:
            made = self._make(wanted)
        elif old.properties == wanted.properties:
            made = old
        else:
            made = self._change(old, wanted)
        self.existing[logical_id] = made
        return made

    def clean_up(self, kept: Collection[str]) -> list[DeploymentFailed]:
        """After an update: deletes what was replaced, and what the template no longer has. Returns what failed, which
        CloudFormation leaves where it is."""
        removed = [one for name, one in self.existing.items() if name not in kept]
        gone, self._replaced = [*removed, *self._replaced], []
        for one in removed:
            del self.existing[one.logical_id]
        return self._delete(reversed(gone))

    def roll_back(self, before: Mapping[str, CustomResource]) -> list[DeploymentFailed]:
        """After a failure: what was there is put back, what was made is deleted. Returns what failed."""
        now, self.existing, self._replaced = self.existing, dict(before), []
        made = [one for name, one in now.items() if name not in before or one.physical_id != before[name].physical_id]
        failed = []
        for name, one in now.items():
            if one not in made and one != before[name]:
                try:
                    self.existing[name] = self._change(one, before[name])
                except DeploymentFailed as failure:
                    failed.append(failure)
        return failed + self._delete([*reversed(made), *reversed(self._replaced)])

    def _make(self, wanted: CustomResource) -> CustomResource:
        try:
            return self._ask("Create", wanted)
        except DeploymentFailed as failure:
            # CloudFormation deletes what failed as well, under an id of its own if it was told none.
            id_ = failure.physical_id or f"{wanted.logical_id}-{secrets.token_hex(6).upper()}"
            self.existing[wanted.logical_id] = replace(wanted, physical_id=id_)
            raise

    def _change(self, old: CustomResource, wanted: CustomResource) -> CustomResource:
        try:
            made = self._ask("Update", replace(wanted, physical_id=old.physical_id), old)
        except DeploymentFailed as failure:
            id_ = failure.physical_id or old.physical_id
            self.existing[old.logical_id] = replace(wanted, physical_id=id_, data=old.data)
            raise
        if made.physical_id != old.physical_id:
            self._replaced.append(old)
        return made

    def _delete(self, doomed: Iterable[CustomResource]) -> list[DeploymentFailed]:
        failed = []
        for one in doomed:
            try:
                self._ask("Delete", one)
            except DeploymentFailed as failure:
                failed.append(failure)
        return failed

    def _ask(self, request_type: str, wanted: CustomResource, old: CustomResource | None = None) -> CustomResource:
        """Sends one event and waits for its answer; what the resource is then."""
        token = secrets.token_urlsafe(32)
        event: Json = {
            "RequestType": request_type,
            "ServiceToken": wanted.properties["ServiceToken"],
            "ResponseURL": f"{self._endpoint}{RESPONSES}{token}",
            "StackId": self._stack_id,
            "RequestId": str(uuid.uuid4()),
            "LogicalResourceId": wanted.logical_id,
            "ResourceType": wanted.type,
            "ResourceProperties": wanted.properties,
        }
        if request_type != "Create":
            event["PhysicalResourceId"] = wanted.physical_id
        if old:
            event["OldResourceProperties"] = old.properties
        self._answers[token] = None
        try:
            self._tell(event, token)
            answer = _read(event, self._answers[token])
        finally:
            del self._answers[token]
        return replace(wanted, physical_id=answer["PhysicalResourceId"], data=answer.get("Data") or {})

    def _tell(self, event: Json, token: str) -> None:
        for _ in range(INVOCATIONS):
            try:
                failed = self._invoke(event["ServiceToken"], json.dumps(event).encode()).failed
            except (FunctionNotFoundError, TooManyRequestsError) as error:
                raise DeploymentFailed(event["LogicalResourceId"], str(error)) from None
            if not failed or self._answers[token]:
                return


def _read(event: Json, body: bytes | None) -> Json:
    """The answer, if it is one and says SUCCESS. AWS would wait an hour for one that does not come."""

    def refuse(reason: str) -> DeploymentFailed:
        return DeploymentFailed(event["LogicalResourceId"], reason)

    if not body:
        raise refuse("CloudFormation did not receive a response from your Custom Resource.")
    if len(body) > MAX_RESPONSE:
        raise refuse("Response object is too long.")
    try:
        answer: Json = json.loads(body)
        for name in ("StackId", "RequestId", "LogicalResourceId"):
            if answer[name] != event[name]:
                raise refuse(f"Invalid {name} in the response.")
        status, id_ = answer["Status"], answer["PhysicalResourceId"]
    except (ValueError, TypeError):
        raise refuse("Invalid response: it is no JSON object.") from None
    except KeyError as missing:
        raise refuse(f"Vendor response doesn't contain {missing} key in object.") from None
    if not isinstance(id_, str) or not id_:
        raise refuse("Invalid PhysicalResourceId.")
    if status == "FAILED" and answer.get("Reason"):
        raise DeploymentFailed(event["LogicalResourceId"], answer["Reason"], id_)
    if status != "SUCCESS":
        raise refuse("Invalid response: SUCCESS, or FAILED with a Reason.")
    return answer
