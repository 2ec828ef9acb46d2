"""The whole product on this machine, built from template.yaml: no AWS, no Docker.

    with LocalStack({"StripeApiBase": stripe}, log=tmp_path / "functions.log") as stack:
        requests.post(f"{stack.api}/create", ...)
        stack.wait_idle(30)

One process holds moto's server (DynamoDB, Cognito, Secrets Manager, Step Functions), the Lambda service
and the HTTP API. moto keeps its state in the process: one stack at a time, any number one after another.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.cognitoidp.models import cognitoidp_backends
from moto.events.models import events_backends
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.stepfunctions.parser.api import ExecutionStatus
from moto.stepfunctions.parser.models import stepfunctions_parser_backends
from werkzeug.serving import ThreadedWSGIServer
from werkzeug.wrappers import Request, Response

from . import moto_fixes
from .custom_resources import RESPONSES, CustomResource, CustomResources, DeploymentFailed, is_custom
from .front import HttpApi
from .lambda_service import (
    Answer,
    Function,
    FunctionNotFoundError,
    LambdaService,
    TooManyRequestsError,
)
from .permissions import INVOKE_PATH, AwsCall, Call, Permissions, access_key_of, aws_error
from .template import LOCAL_BUCKET, Physical, Resource, Template, TemplateError, read

REPOSITORY = Path(__file__).parents[2]

ACCESS_KEY, SECRET_KEY = "test", "test"
"""Credentials of the operator: they may do anything, here and on IAM-authorised routes."""

STRIPE_KEY = "local/stripe-api-key"
"""The secret with the Stripe key, which exists before the stack: its name begins with the stack's."""

IGNORED_TYPES = {
    "AWS::ApiGatewayV2::Stage",
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::CodeDeploy::Application",  # an update reaches the local stack at once
    "AWS::CodeDeploy::DeploymentGroup",
    "AWS::IAM::Policy",  # read by permissions.py
    "AWS::IAM::Role",  # so is this
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::LayerVersion",  # given to LocalStack as built folders
    "AWS::Lambda::Permission",
    "AWS::Logs::LogGroup",
    "AWS::Logs::MetricFilter",
    "AWS::Logs::QueryDefinition",
    "AWS::Logs::ResourcePolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
}
"""Resources that nothing here depends on; references to them still resolve."""

_KEYS_PATH = re.compile(r"/([^/]+)/\.well-known/jwks\.json")
_ONE_AT_A_TIME = threading.Lock()


class Invocation(NamedTuple):
    """What a function returned, or its error document (`errorType`, `errorMessage`)."""

    result: Any
    error: dict[str, Any] | None


@dataclass(frozen=True)
class Execution:
    """One execution of a state machine, with the states it entered in order."""

    name: str
    arn: str
    status: str
    states: list[str]
    input: Any
    output: Any
    error: str | None
    cause: str | None


@dataclass(frozen=True)
class Schedule:
    """What a schedule runs, with which input (None: an event that tells the time), and every how many seconds.

    One with a cron expression counts as daily. `enabled` is as it was deployed; a rule may have been changed since.
    """

    rule: bool  # of EventBridge; otherwise a schedule of EventBridge Scheduler
    target: str
    input: bytes | None
    enabled: bool
    seconds: int


@dataclass
class Fault:
    """One way in which an AWS service fails for the functions and state machines of the stack."""

    service: str
    action: str | None
    function: str | None
    code: str
    message: str
    status: int
    remaining: int | None
    applied: bool
    kill: bool
    hits: int = 0

    def concerns(self, caller: str, call: AwsCall) -> bool:
        """Whether it is this call's turn to fail."""
        actions = {call.operation, *(action.split(":")[1] for action, _ in call.needs)}
        return (
            self.remaining != 0
            and self.service == call.service
            and self.action in (None, *actions)
            and self.function in (None, caller)
        )


class Faults:
    """Which calls fail. Calls of the tests themselves never do."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        service: str,
        code: str,
        action: str | None = None,
        function: str | None = None,
        count: int | None = None,
        message: str = "A fault of the local stack.",
        status: int | None = None,
        applied: bool = False,
        kill: bool = False,
    ) -> Fault:
        """Lets calls of a service (its IAM prefix) fail with an error code.

        `action` (such as PutItem) and `function` (logical id) narrow it; `count` ends it after so many calls.
        `applied`: the service does what it was asked, only its answer is lost. `status` 200 is EventBridge's way:
        PutEvents succeeds, and says of each entry that it failed.
        `kill`: the function that calls dies before it gets an answer.
        """
        if status is None:
            status = 500 if code.startswith(("Internal", "Service")) else 400
        fault = Fault(service, action, function, code, message, status, count, applied, kill)
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Restores what this fault broke."""
        with self._lock:
            self._faults.remove(fault)

    def clear(self) -> None:
        """Restores every service."""
        with self._lock:
            self._faults.clear()

    def take(self, caller: str, call: AwsCall) -> Fault | None:
        """The fault that this call meets."""
        with self._lock:
            for fault in self._faults:
                if fault.concerns(caller, call):
                    fault.hits += 1
                    if fault.remaining is not None:
                        fault.remaining -= 1
                    return fault
        return None


class _Handler(MotoRequestHandler):
    disable_nagle_algorithm = True

    def log(self, *args: Any) -> None:
        """Requests are not logged."""


class _Server(ThreadedWSGIServer):
    """A WSGI server on one address of this machine that leaves no socket and no thread behind."""

    daemon_threads = False

    def __init__(self, host: str, port: int, app: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(host, port, app, _Handler)
        self.url = f"http://{host}:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        self.shutdown()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.server_close()


class LocalStack:
    """Every resource of the template, running. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        parameters: Mapping[str, str],
        code: Path | None = None,
        layers: Sequence[Path] = (),
        python: str = sys.executable,
        port: int = 0,
        log: Path | None = None,
        schedule_seconds: float | None = 3,
        retry_scale: float = 0.05,
        template: Path = REPOSITORY / "template.yaml",
        python_client: bool = False,
        host: str = "127.0.0.1",
        secrets: Mapping[str, str] | None = None,
        custom_resources: bool = False,
    ) -> None:
        """Creates the stack; functions start when they are first invoked.

        code: folder of every function; by default what the template's CodeUri says.
        layers: built layers (folders with a `python` folder).
        port: of the HTTP API; 0 is any.
        log: takes the output of all functions.
        schedule_seconds: what five minutes of a schedule take; None: only `run_schedules()`.
        retry_scale: seconds really waited for each second of a Retry.
        python_client: use the Runtime API client in Python that macOS needs.
        host: the address of this machine that everything listens on.
        secrets: what exists in Secrets Manager before the stack does, by name.
        custom_resources: make those too, by their functions; otherwise references to them are placeholders.

        Raises DeploymentFailed when a custom resource does, after what was made of them is deleted again.
        """
        if not _ONE_AT_A_TIME.acquire(blocking=False):
            raise RuntimeError("another LocalStack is open in this process: close it first")
        self._opened = contextlib.ExitStack()
        self._opened.callback(_ONE_AT_A_TIME.release)
        try:
            self._open(parameters, code, layers, python, host, port, log, retry_scale, template, python_client)
            self._make(secrets or {}, custom_resources)
            self._start_schedules(schedule_seconds)
        except BaseException:
            self.close()
            raise

    def _open(
        self,
        parameters: Mapping[str, str],
        code: Path | None,
        layers: Sequence[Path],
        python: str,
        host: str,
        port: int,
        log: Path | None,
        retry_scale: float,
        template: Path,
        python_client: bool,
    ) -> None:
        self._source, self._parameters = template.resolve(), dict(parameters)
        self.template = Template(self._source, self._parameters)
        self.region: str = self.template.pseudo["AWS::Region"]
        self.account_id: str = self.template.pseudo["AWS::AccountId"]
        self.faults = Faults()
        self.keys_reachable = True
        self._code = code.resolve() if code else None
        self._layers = tuple(layer.resolve() for layer in layers)
        self._schedules: dict[str, Schedule] = {}
        self._scheduler: threading.Thread | None = None
        self._http_api: HttpApi | None = None
        self._permissions: Permissions | None = None
        self._custom: CustomResources | None = None
        self._secrets: list[str] = []
        self._version = 1
        self._session = boto3.Session(
            aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name=self.region
        )
        self._clients: dict[tuple[str | None, str], Any] = {}
        self._client_lock = threading.Lock()

        moto_api_backend.reset()
        self._opened.callback(moto_api_backend.reset)
        self._moto = DomainDispatcherApplication(create_backend_app)
        endpoint = _Server(host, 0, self._answer_aws)
        self._opened.callback(endpoint.close)
        front = _Server(host, port, self._answer_api)
        self._opened.callback(front.close)
        self.aws_endpoint = endpoint.url
        self.api = front.url
        self._opened.callback(self._close_clients)

        moto_fixes.endpoint = endpoint.url
        moto_fixes.retry_scale = retry_scale
        moto_fixes.access_keys.clear()
        moto_fixes.aliases.clear()
        moto_fixes.outbox.clear()
        moto_fixes.mail.restore()
        moto_fixes.stopping.clear()
        moto_fixes.refusal = self._refusal
        self._opened.callback(self._wait_for_end)
        self._functions = LambdaService(endpoint.url, log=log, python=python, python_client=python_client)
        self._opened.callback(self._functions.close)
        moto_fixes.invoke = self._functions.invoke
        self._opened.callback(self._stop_executions)

    def _make(self, secrets: Mapping[str, str], custom_resources: bool) -> None:
        """What was there before, and then the stack."""
        for name, value in secrets.items():
            made = self.client("secretsmanager").create_secret(Name=name, SecretString=value)
            self._secrets.append(made["ARN"])
        if custom_resources:
            stack_id = self.template.pseudo["AWS::StackId"]
            self._custom = CustomResources(stack_id, self.aws_endpoint, self._functions.invoke)
        with self._rolled_back({}):
            for resource in self.template.in_order():
                self._create(resource)
        self._permit(self.template)
        self.outputs = {name: self._local(value) for name, value in self.template.outputs().items()}

    @contextlib.contextmanager
    def _rolled_back(self, before: Mapping[str, CustomResource]) -> Iterator[None]:
        """If the block fails, the custom resources are put back; what that leaves behind is noted in the error."""
        try:
            yield
        except DeploymentFailed as failure:
            if self._custom:
                for left in self._custom.roll_back(before):
                    failure.add_note(f"roll-back: {left}")
            raise

    def _permit(self, template: Template) -> None:
        """From now on roles allow what this template says, of what exists so far."""
        before, self._permissions = self._permissions, Permissions(template, self._secrets)
        if before:
            self._permissions.calls, self._permissions.denied = before.calls, before.denied

    # ---------------------------------------------------------------------------- what tests look at

    @property
    def user_pool_id(self) -> str:
        """The user pool: the output `UserPoolId`, or the only pool of the template."""
        return self._output_or_only("UserPoolId", "AWS::Cognito::UserPool")

    @property
    def user_pool_client_id(self) -> str:
        """The app client: the output `UserPoolClientId`, or the only one of the template."""
        return self._output_or_only("UserPoolClientId", "AWS::Cognito::UserPoolClient")

    @property
    def state_machine_arn(self) -> str:
        """The machine: the output `StateMachineArn`, or the only one of the template."""
        return self._output_or_only("StateMachineArn", "AWS::StepFunctions::StateMachine")

    @property
    def orders_table(self) -> str:
        """The ledger: the output `OrdersTable`, or the only table of the template."""
        return self._output_or_only("OrdersTable", "AWS::DynamoDB::Table")

    @property
    def calls(self) -> list[Call]:
        """Every AWS call of the functions and state machines so far."""
        return self._permissions.calls if self._permissions else []

    @property
    def denied(self) -> list[Call]:
        """Those that their role did not allow."""
        return self._permissions.denied if self._permissions else []

    @property
    def outbox(self) -> list[moto_fixes.Invitation]:
        """The welcome mails that Cognito would have sent."""
        return moto_fixes.outbox

    def client(self, service: str) -> Any:
        """A boto3 client of the operator, who may do anything."""
        return self._client_of(None, service)

    def _client_of(self, logical_id: str | None, service: str) -> Any:
        """A client that signs as this resource of the template, or as the operator."""
        with self._client_lock:
            key = (logical_id, service)
            if key not in self._clients:
                self._clients[key] = self._session.client(
                    service,
                    endpoint_url=self.aws_endpoint,
                    config=Config(proxies={}),
                    aws_access_key_id=access_key_of(logical_id) if logical_id else ACCESS_KEY,
                    aws_secret_access_key=SECRET_KEY,
                )
            return self._clients[key]

    def for_sam(self, build: Path = REPOSITORY / ".aws-sam" / "build") -> dict[str, Any]:
        """The template for `sam local`: the functions that `sam build` made, with the variables that they have here.

        Each calls AWS as itself, so its role counts in a container as well. The stack must listen on an address that
        containers reach.
        """
        source = read(self._source)
        for name, value in self.template.parameters.items():
            source["Parameters"][name]["Default"] = ",".join(value) if isinstance(value, list) else value
        source["Globals"]["Function"].pop("Environment", None)
        for logical_id, resource in source["Resources"].items():
            match resource["Type"]:
                case "AWS::Serverless::Function" if logical_id in self.template.physical:
                    function = self._functions.find(self.template.physical[logical_id].ref)
                    variables = {
                        **function.environment,
                        "AWS_ENDPOINT_URL": self.aws_endpoint,
                        "AWS_ACCESS_KEY_ID": function.access_key,
                        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                    }
                    resource["Properties"]["CodeUri"] = str(build / logical_id)
                    resource["Properties"]["Environment"] = {"Variables": variables}
                case "AWS::Serverless::LayerVersion":
                    resource["Properties"]["ContentUri"] = str(build / logical_id)
        return source

    def invoke(self, logical_id: str, payload: Any) -> Invocation:
        """Invokes a function by its logical id."""
        answer = self._functions.invoke(self.template.physical[logical_id].ref, json.dumps(payload).encode())
        document = json.loads(answer.payload)
        return Invocation(None, document) if answer.failed else Invocation(document, None)

    @contextlib.contextmanager
    def deployed_with(self, **parameters: str) -> Iterator[None]:
        """As if the stack were deployed again with some other parameters, until the end of the block.

        Functions whose variables differ start anew, roles allow what they allow then, and schedules are as they are
        then; resources stay.
        """
        changed = Template(self._source, {**self._parameters, **parameters})
        changed.physical = self.template.physical
        if changed.resources.keys() != self.template.resources.keys():
            raise TemplateError(f"{', '.join(parameters)}: another value makes or removes resources")
        now = self.template
        self._deploy(changed)
        try:
            yield
        finally:
            self._deploy(now)

    def _deploy(self, template: Template) -> None:
        for resource in template.of_type("AWS::Lambda::Function"):
            self._deploy_function(template, resource)
        for resource in template.of_type("AWS::Events::Rule", "AWS::Scheduler::Schedule"):
            self._put_schedule(resource, template.resolve(resource.properties))
        self._permit(template)

    def _deploy_function(self, template: Template, resource: Resource) -> None:
        function = self._functions.find(template.physical[resource.logical_id].ref)
        environment = self._local(_variables(template.resolve(resource.properties)))
        self._functions.update(replace(function, environment=environment, revision=self._version))

    def update(self, *, code_changed: bool = False, **parameters: str) -> list[DeploymentFailed]:
        """Deploys the stack again, with some other parameters and the code as it is now.

        Functions get their variables anew, new resources are made, and custom resources whose properties changed are
        updated; everything else stays. `code_changed`: functions have a new version, and start again.
        Returns what could not be cleaned up. Raises DeploymentFailed, and the stack is as it was (but for the code).
        """
        before, version, custom = self.template, self._version, dict(self._custom.existing) if self._custom else {}
        parameters = {**self._parameters, **parameters}
        self.template = Template(self._source, parameters)
        self.template.physical = dict(before.physical)
        self._version += code_changed
        try:
            with self._rolled_back(custom):
                try:
                    for resource in self.template.in_order():
                        self._update(resource)
                except Exception:
                    self.template, self._version = before, version
                    self._deploy(before)
                    raise
        finally:
            for name, one in self._custom.existing.items() if self._custom else ():
                self.template.created(name, one.physical_id, **one.data)
        self._parameters = parameters
        self._deploy(self.template)
        self.outputs = {name: self._local(value) for name, value in self.template.outputs().items()}
        return self._custom.clean_up(self.template.resources) if self._custom else []

    def _update(self, resource: Resource) -> None:
        logical_id = resource.logical_id
        if (
            is_custom(resource.type)
            or resource.type == "AWS::Lambda::Version"
            or logical_id not in self.template.physical
        ):
            self._create(resource)
        elif resource.type == "AWS::Lambda::Function":
            self._deploy_function(self.template, resource)

    def delete(self) -> None:
        """Deletes the custom resources, the newest first; `close` takes the rest."""
        for failure in self._custom.clean_up(()) if self._custom else []:
            raise failure

    def peak_memory(self, logical_id: str) -> int:
        """The most that a function's processes have used, in bytes."""
        return self._functions.peak_memory(self.template.physical[logical_id].ref)

    def run_schedules(self, *names: str) -> dict[str, Invocation]:
        """Runs each schedule that is enabled once, now, or only those named; the results by their logical ids.

        Whoever disables a rule of EventBridge, or deletes it, keeps it from running here, too.
        The result of one that starts a machine is the ARN of the execution.
        """
        enabled = [name for name in self._schedules if self._enabled(name)]
        return {name: self._run_schedule(name) for name in enabled if not names or name in names}

    def _run_schedule(self, logical_id: str) -> Invocation:
        schedule = self._schedules[logical_id]
        event = schedule.input or self._scheduled_event(logical_id)
        if ":states:" in schedule.target:
            states = self._client_of(logical_id, "stepfunctions")
            try:
                started = states.start_execution(stateMachineArn=schedule.target, input=event.decode())
            except ClientError as error:
                refused = error.response["Error"]
                return Invocation(None, {"errorType": refused["Code"], "errorMessage": refused["Message"]})
            return Invocation(started["executionArn"], None)
        answer = self._functions.invoke(schedule.target, event)
        document = json.loads(answer.payload)
        return Invocation(None, document) if answer.failed else Invocation(document, None)

    @property
    def mail(self) -> moto_fixes.Mail:
        """What becomes of the next invitations."""
        return moto_fixes.mail

    def backdate(self, username: str, days: float) -> None:
        """Move the creation of a user of the pool, and their temporary password, into the past."""
        moto_fixes.backdate(self.account_id, self.region, self.user_pool_id, username, days)

    def rotate_keys(self, *, withdraw: bool = False) -> None:
        """From now on the user pool signs with a new key; `withdraw`: tokens of the old ones are worthless."""
        moto_fixes.rotate_keys(self._pool(self.user_pool_id), withdraw=withdraw)

    def secret(self, secret: str) -> str:
        """What a secret holds: one of the template by its logical id, any other by its name."""
        made = self.template.physical.get(secret)
        found = self.client("secretsmanager").get_secret_value(SecretId=made.ref if made else secret)
        return str(found["SecretString"])

    def put_secret(self, secret: str, value: str) -> None:
        """Gives a secret a new value: one of the template by its logical id, any other by its name."""
        made = self.template.physical.get(secret)
        self.client("secretsmanager").put_secret_value(SecretId=made.ref if made else secret, SecretString=value)

    def executions(self) -> list[Execution]:
        """Every execution so far, oldest first."""
        found = []
        for execution in self._executions():
            if execution.exec_worker is None:  # being started right now
                continue
            events = execution.to_history_output()["events"]
            entered = [event.get("stateEnteredEventDetails") for event in list(events)]
            status = execution.status
            output = execution.output if status == "SUCCEEDED" else None
            found.append(
                Execution(
                    name=execution.name,
                    arn=execution.execution_arn,
                    status=status,
                    states=[details["name"] for details in entered if details],
                    input=execution.input_data,
                    output=json.loads(output) if isinstance(output, str) else output,
                    error=execution.error,
                    cause=execution.cause,
                )
            )
        return found

    def wait_idle(self, timeout: float) -> None:
        """Waits until no execution is running; TimeoutError names those that still are."""
        with moto_fixes.execution_ended:
            if not moto_fixes.execution_ended.wait_for(lambda: not self._running(), timeout):
                states = {e.name: e.states for e in self.executions() if e.status == "RUNNING"}
                raise TimeoutError(f"still running after {timeout} s: {states}")

    def close(self) -> None:
        """Ends executions, processes, servers and connections."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------- what servers answer

    def _answer_api(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        app = self._http_api or Response('{"message":"Not Found"}', 404)
        return app(environ, start_response)

    def _answer_aws(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Permission, fault, service: in this order, as the caller of a real service meets them."""
        request = Request(environ)
        if keys := _KEYS_PATH.fullmatch(request.path):
            return self._answer_keys(keys[1])(environ, start_response)
        if self._custom and request.path.startswith(RESPONSES):
            return self._custom.receive(request)(environ, start_response)
        body = request.get_data()
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
        call = self._permissions.read(request, body) if self._permissions else None
        caller = self._permissions.caller(call) if self._permissions and call else None
        fault = None
        if self._permissions and call and caller:
            refused = self._permissions.check(call)
            if refused:
                return refused(environ, start_response)
            fault = self.faults.take(caller, call)
        if fault is None or fault.applied:
            path = INVOKE_PATH.fullmatch(unquote(request.path))
            service = self._answer_invocation(request, path[1], body) if path else self._moto
            if fault is None:
                return service(environ, start_response)
            Response.from_app(service, environ)
        if fault.kill and caller:
            self._functions.kill(self.template.physical[caller].ref)
        if fault.status == 200:
            entries = [{"ErrorCode": fault.code, "ErrorMessage": fault.message} for _ in call.needs] if call else []
            refusal = {"FailedEntryCount": len(entries), "Entries": entries}
            return Response(json.dumps(refusal), content_type="application/x-amz-json-1.1")(environ, start_response)
        xml = call is not None and call.xml
        return aws_error(fault.code, fault.message, fault.status, xml=xml)(environ, start_response)

    def _answer_keys(self, pool_id: str) -> Response:
        """The public keys of a user pool; `keys_reachable` False takes them away."""
        if not self.keys_reachable:
            return Response("", 503)
        return Response(json.dumps(moto_fixes.published_keys(self._pool(pool_id))), content_type="application/json")

    def _pool(self, pool_id: str) -> Any:
        return cognitoidp_backends[self.account_id][self.region].describe_user_pool(pool_id)

    def _answer_invocation(self, request: Request, reference: str, body: bytes) -> Response:
        """Lambda's Invoke."""
        try:
            if request.headers.get("X-Amz-Invocation-Type") == "Event":
                self._functions.find(reference)
                work = threading.Thread(target=self._invoke_quietly, args=(reference, body), daemon=True)
                work.start()
                return Response(b"", 202)
            answer = self._functions.invoke(reference, body or b"{}")
        except TooManyRequestsError:
            return aws_error("TooManyRequestsException", "Rate Exceeded.", 429)
        except FunctionNotFoundError as error:
            return aws_error("ResourceNotFoundException", str(error), 404)
        headers = {"X-Amz-Executed-Version": "$LATEST"}
        if answer.failed:
            headers["X-Amz-Function-Error"] = "Unhandled"
        return Response(answer.payload, 200, headers, content_type="application/json")

    def _invoke_quietly(self, reference: str, body: bytes) -> Answer | None:
        with contextlib.suppress(TooManyRequestsError, FunctionNotFoundError):
            return self._functions.invoke(reference, body or b"{}")
        return None

    # ---------------------------------------------------------------------------- resources

    def _create(self, resource: Resource) -> None:
        """Creates one resource; a type that is neither known nor ignorable is an error."""
        properties = self.template.resolve(resource.properties)
        logical_id = resource.logical_id
        match resource.type:
            case "AWS::DynamoDB::Table":
                self._create_table(logical_id, properties)
            case "AWS::SecretsManager::Secret":
                self._create_secret(logical_id, properties)
            case "AWS::Cognito::UserPool":
                self._create_user_pool(logical_id, properties)
            case "AWS::Cognito::UserPoolClient":
                name = self._name(logical_id, properties.pop("ClientName", None))
                request = {**properties, "ClientName": name}
                client = self._call("cognito-idp", "CreateUserPoolClient", request)
                client_id = client["UserPoolClient"]["ClientId"]
                secret = client["UserPoolClient"].get("ClientSecret", "")
                self.template.created(logical_id, client_id, ClientId=client_id, ClientSecret=secret)
            case "AWS::Lambda::Function":
                self._create_function(logical_id, properties)
            case "AWS::Lambda::Version":
                arn = f"{self._functions.find(properties['FunctionName']).arn}:{self._version}"
                self.template.created(logical_id, arn, Version=str(self._version))
            case "AWS::Lambda::Alias":
                arn = self._functions.find(properties["FunctionName"]).arn
                self.template.created(logical_id, f"{arn}:{properties['Name']}")
            case "AWS::StepFunctions::StateMachine":
                self._create_state_machine(logical_id, properties)
            case "AWS::StepFunctions::StateMachineVersion":
                arn = f"{properties['StateMachineArn']}:1"
                self.template.created(logical_id, arn, Arn=arn)
            case "AWS::StepFunctions::StateMachineAlias":
                machine, _, _ = properties["DeploymentPreference"]["StateMachineVersionArn"].rpartition(":")
                arn = f"{machine}:{properties['Name']}"
                moto_fixes.aliases[arn] = machine
                self.template.created(logical_id, arn, Arn=arn)
            case "AWS::ApiGatewayV2::Api":
                self._create_http_api(logical_id, properties)
            case "AWS::Events::Rule" | "AWS::Scheduler::Schedule":
                self._create_schedule(resource, properties)
            case "AWS::SNS::Topic":
                name = self._name(logical_id, properties.get("TopicName"))
                arn = self.client("sns").create_topic(Name=name)["TopicArn"]
                self.template.created(logical_id, arn, TopicArn=arn, TopicName=name)
            case "AWS::SQS::Queue":
                name = self._name(logical_id, properties.get("QueueName"))
                url = self.client("sqs").create_queue(QueueName=name)["QueueUrl"]
                arn = self._arn("sqs", name)
                self.template.created(logical_id, url, Arn=arn, QueueName=name, QueueUrl=url)
            case custom if is_custom(custom):
                self._create_custom(logical_id, custom, properties)
            case ignored if ignored in IGNORED_TYPES:
                self._create_reference(logical_id, ignored, properties)
            case unknown:
                raise TemplateError(f"{logical_id}: the local stack cannot make {unknown}")

    def _create_table(self, logical_id: str, properties: dict[str, Any]) -> None:
        name = self._name(logical_id, properties.pop("TableName", None))
        ttl = properties.pop("TimeToLiveSpecification", None)
        recovery = properties.pop("PointInTimeRecoverySpecification", None)
        properties.pop("ContributorInsightsSpecification", None)
        if "SSESpecification" in properties:
            encryption = properties["SSESpecification"]
            encryption["Enabled"] = encryption.pop("SSEEnabled", True)
        if "StreamSpecification" in properties:
            properties["StreamSpecification"]["StreamEnabled"] = True
        made = self._call("dynamodb", "CreateTable", {**properties, "TableName": name})
        if ttl:
            request = {"TableName": name, "TimeToLiveSpecification": ttl}
            self._call("dynamodb", "UpdateTimeToLive", request)
        if recovery:
            request = {"TableName": name, "PointInTimeRecoverySpecification": recovery}
            self._call("dynamodb", "UpdateContinuousBackups", request)
        table = made["TableDescription"]
        stream = table.get("LatestStreamArn", "")
        self.template.created(logical_id, name, Arn=table["TableArn"], StreamArn=stream)

    def _create_secret(self, logical_id: str, properties: dict[str, Any]) -> None:
        name = self._name(logical_id, properties.pop("Name", None))
        generate = properties.pop("GenerateSecretString", None)
        if generate is not None:
            template = generate.pop("SecretStringTemplate", None)
            key = generate.pop("GenerateStringKey", None)
            made = self._call("secretsmanager", "GetRandomPassword", generate)["RandomPassword"]
            value = json.dumps({**json.loads(template), key: made}) if template else made
            properties["SecretString"] = value
        made = self._call("secretsmanager", "CreateSecret", {**properties, "Name": name})
        self.template.created(logical_id, made["ARN"], Id=made["ARN"])

    def _create_user_pool(self, logical_id: str, properties: dict[str, Any]) -> None:
        _check_triggers(logical_id, properties)
        name = self._name(logical_id, properties.pop("UserPoolName", None))
        factors = properties.pop("EnabledMfas", None)
        made = self._call("cognito-idp", "CreateUserPool", {**properties, "PoolName": name})
        pool_id, arn = made["UserPool"]["Id"], made["UserPool"]["Arn"]
        if factors:
            request: dict[str, Any] = {
                "UserPoolId": pool_id,
                "MfaConfiguration": properties.get("MfaConfiguration", "OFF"),
                "SoftwareTokenMfaConfiguration": {"Enabled": "SOFTWARE_TOKEN_MFA" in factors},
            }
            self._call("cognito-idp", "SetUserPoolMfaConfig", request)
        provider = f"cognito-idp.{self.region}.amazonaws.com/{pool_id}"
        self.template.created(
            logical_id,
            pool_id,
            Arn=arn,
            ProviderName=provider,
            ProviderURL=f"https://{provider}",
            UserPoolId=pool_id,
        )

    def _create_function(self, logical_id: str, properties: dict[str, Any]) -> None:
        if not properties.get("Runtime", "").startswith("python"):
            raise TemplateError(f"{logical_id}: only Python functions run in the local stack")
        name = self._name(logical_id, properties.get("FunctionName"))
        arn = self._arn("lambda", f"function:{name}")
        reserved = properties.get("ReservedConcurrentExecutions")
        function = Function(
            logical_id=logical_id,
            name=name,
            arn=arn,
            handler=properties["Handler"],
            code=self._code or self._packaged(logical_id, properties["Code"], "S3Bucket", "S3Key"),
            access_key=access_key_of(logical_id),
            region=self.region,
            runtime=properties["Runtime"],
            environment=self._local(_variables(properties)),
            layers=self._layers,
            log_group=properties.get("LoggingConfig", {}).get("LogGroup", ""),
            memory=int(properties.get("MemorySize", 128)),
            timeout=float(properties.get("Timeout", 3)),
            reserved=None if reserved is None else int(reserved),
        )
        self._functions.add([function])
        self.template.created(logical_id, name, Arn=arn)

    def _create_state_machine(self, logical_id: str, properties: dict[str, Any]) -> None:
        if "DefinitionS3Location" in properties:
            location = properties["DefinitionS3Location"]
            path = self._packaged(logical_id, location, "Bucket", "Key")
            definition = path.read_text(encoding="utf-8")
        else:
            definition = properties.get("DefinitionString") or json.dumps(properties["Definition"])
        values = properties.get("DefinitionSubstitutions", {})

        def substitute(found: re.Match[str]) -> str:
            if found[1] not in values:
                raise TemplateError(f"{logical_id}: its definition names ${{{found[1]}}}")
            return _text(values[found[1]])

        role = properties["RoleArn"]
        name = self._name(logical_id, properties.get("StateMachineName"))
        made = self.client("stepfunctions").create_state_machine(
            name=name,
            definition=re.sub(r"\$\{(\w+)\}", substitute, definition),
            roleArn=role,
            type=properties.get("StateMachineType", "STANDARD"),
        )
        moto_fixes.access_keys[role] = access_key_of(logical_id)
        arn = made["stateMachineArn"]
        self.template.created(logical_id, arn, Arn=arn, Name=name, StateMachineRevisionId="1")

    def _create_http_api(self, logical_id: str, properties: dict[str, Any]) -> None:
        if self._http_api:
            raise TemplateError(f"{logical_id}: the local stack has one HTTP API")
        self._http_api = HttpApi(
            properties["Body"],
            self._functions.invoke,
            credentials={ACCESS_KEY: SECRET_KEY},
            region=self.region,
            account_id=self.account_id,
        )
        api_id = logical_id.lower()
        address = f"https://{api_id}.execute-api.{self.region}.amazonaws.com"
        self.template.created(logical_id, api_id, ApiId=api_id, ApiEndpoint=address)

    def _create_schedule(self, resource: Resource, properties: dict[str, Any]) -> None:
        logical_id = resource.logical_id
        if "ScheduleExpression" not in properties:
            raise TemplateError(f"{logical_id}: only rules with a schedule run in the local stack")
        targets = properties["Targets"] if "Targets" in properties else [properties["Target"]]
        if len(targets) != 1 or "InputTransformer" in targets[0] or "InputPath" in targets[0]:
            raise TemplateError(f"{logical_id}: a schedule here has one target, as it is")
        if ":states:" in _schedule(resource, properties).target and "RoleArn" not in targets[0]:
            raise TemplateError(f"{logical_id}: no role lets it start the machine")
        self.template.created(
            logical_id,
            self._name(logical_id, properties.get("Name")),
            Arn=self._arn("events", f"rule/{self._name(logical_id, properties.get('Name'))}"),
        )
        self._put_schedule(resource, properties)

    def _put_schedule(self, resource: Resource, properties: dict[str, Any]) -> None:
        """As CloudFormation does: what the template has not changed stays as it is, whatever somebody did to it."""
        schedule = _schedule(resource, properties)
        if schedule == self._schedules.get(resource.logical_id):
            return
        self._schedules[resource.logical_id] = schedule
        if schedule.rule:  # no targets: moto would send them what is on the bus
            self.client("events").put_rule(
                Name=self.template.physical[resource.logical_id].ref,
                ScheduleExpression=properties["ScheduleExpression"],
                State="ENABLED" if schedule.enabled else "DISABLED",
            )

    def _enabled(self, logical_id: str) -> bool:
        """Whether a schedule runs: a rule as EventBridge has it now, one of EventBridge Scheduler as deployed."""
        if not self._schedules[logical_id].rule:
            return self._schedules[logical_id].enabled
        rules = events_backends[self.account_id][self.region].event_buses["default"].rules
        rule = rules.get(self.template.physical[logical_id].ref)
        return rule is not None and rule.state == "ENABLED"

    def _create_custom(self, logical_id: str, kind: str, properties: dict[str, Any]) -> None:
        if self._custom is None:
            placeholder = Physical(logical_id, defaultdict(lambda: logical_id))
            self.template.physical[logical_id] = placeholder
            return
        self._permit(self.template)
        made = self._custom.apply(logical_id, kind, self._local(properties))
        self.template.created(logical_id, made.physical_id, **made.data)

    def _create_reference(self, logical_id: str, kind: str, properties: dict[str, Any]) -> None:
        """Nothing is made; names and ARNs still mean something."""
        if kind == "AWS::IAM::Role":
            arn = f"arn:aws:iam::{self.account_id}:role/{logical_id}"
            self.template.created(logical_id, logical_id, Arn=arn)
        elif kind == "AWS::Logs::LogGroup":
            name = self._name(logical_id, properties.get("LogGroupName"))
            self.template.created(logical_id, name, Arn=self._arn("logs", f"log-group:{name}:*"))
        else:
            service = kind.split("::")[1].lower()
            self.template.created(logical_id, logical_id, Arn=self._arn(service, logical_id))

    # ---------------------------------------------------------------------------- small parts

    def _call(self, service: str, operation: str, properties: dict[str, Any]) -> Any:
        """Calls an API with properties of the template, which CloudFormation would give their types."""
        client = self.client(service)
        shape = client.meta.service_model.operation_model(operation).input_shape
        return getattr(client, xform_name(operation))(**_typed(properties, shape, operation))

    def _name(self, logical_id: str, name: str | None) -> str:
        return name or f"{self.template.pseudo['AWS::StackName']}-{logical_id}"

    def _arn(self, service: str, resource: str) -> str:
        return f"arn:aws:{service}:{self.region}:{self.account_id}:{resource}"

    def _packaged(self, logical_id: str, place: dict[str, str], bucket: str, key: str) -> Path:
        """The local file or folder that a packaged template would have in S3."""
        if place.get(bucket) != LOCAL_BUCKET:
            raise TemplateError(f"{logical_id}: its code is not in the folder of the template")
        path = self.template.folder / place[key]
        if not path.exists():
            raise TemplateError(f"{logical_id}: {place[key]} does not exist")
        return path

    def _local(self, value: Any) -> Any:
        """An output or a property, with the address of the HTTP API that it has here."""
        if isinstance(value, dict):
            return {name: self._local(entry) for name, entry in value.items()}
        if isinstance(value, list):
            return [self._local(entry) for entry in value]
        pattern = rf"https://[a-z0-9]+\.execute-api\.{self.region}\.amazonaws\.com"
        return re.sub(pattern, self.api, value) if isinstance(value, str) else value

    def _output_or_only(self, output: str, kind: str) -> str:
        if output in self.outputs:
            return str(self.outputs[output])
        (resource,) = self.template.of_type(kind)
        return self.template.physical[resource.logical_id].ref

    def _scheduled_event(self, logical_id: str) -> bytes:
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": self.account_id,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": self.region,
            "resources": [self.template.physical[logical_id].attributes["Arn"]],
            "detail": {},
        }
        return json.dumps(event).encode()

    def _start_schedules(self, seconds: float | None) -> None:
        if seconds is None or not self._schedules:
            return
        ended = threading.Event()
        periods = {name: schedule.seconds * seconds / 300 for name, schedule in self._schedules.items()}
        due = {name: time.monotonic() + period for name, period in periods.items()}

        def run() -> None:
            while not ended.wait(max(0, min(due.values()) - time.monotonic())):
                name = min(due, key=lambda each: due[each])
                with contextlib.suppress(TooManyRequestsError, FunctionNotFoundError):
                    self.run_schedules(name)
                due[name] = time.monotonic() + periods[name]

        self._scheduler = threading.Thread(target=run, daemon=True)
        self._scheduler.start()
        self._opened.callback(ended.set)

    def _refusal(self, role: str, machine: str) -> str | None:
        """Why the role of a machine may not run a Distributed Map of it, by AWS's list of what that needs."""
        if self._permissions is None:
            return None
        executions = f"{machine.replace(':stateMachine:', ':execution:')}:*"
        needs = (
            ("states:StartExecution", machine),
            ("states:DescribeExecution", executions),
            ("states:StopExecution", executions),
        )
        key = moto_fixes.access_keys.get(role, "")
        return self._permissions.refusal(AwsCall(key, "states", "StartExecution", needs))

    def _executions(self) -> Iterator[Any]:
        backend = stepfunctions_parser_backends[self.account_id][self.region]
        for machine in list(backend.state_machines):
            yield from list(machine.executions)

    def _running(self) -> list[Any]:
        states = (None, ExecutionStatus.RUNNING)
        return [entry for entry in self._executions() if entry.exec_status in states]

    def _stop_executions(self) -> None:
        moto_fixes.stopping.set()
        for execution in self._running():
            with contextlib.suppress(AttributeError):  # it has not begun
                execution.stop(datetime.now(UTC), error="", cause="the local stack was closed")

    def _wait_for_end(self) -> None:
        """Comes after the functions are closed, which ends whatever is under way."""
        if self._scheduler:
            self._scheduler.join()
        with moto_fixes.execution_ended:
            moto_fixes.execution_ended.wait_for(lambda: not self._running(), timeout=5)

    def _close_clients(self) -> None:
        moto_fixes.close_clients()
        for client in self._clients.values():
            client.close()


def _check_triggers(logical_id: str, properties: Mapping[str, Any]) -> None:
    """Of Cognito's triggers one runs here, in the versions that its tier has."""
    triggers = properties.get("LambdaConfig") or {}
    if triggers.keys() - {"PreTokenGenerationConfig"}:
        raise TemplateError(
            f"{logical_id}: of Cognito's triggers only PreTokenGenerationConfig runs in the local stack"
        )
    if not triggers:
        return
    version = triggers["PreTokenGenerationConfig"].get("LambdaVersion")
    if version not in ("V1_0", "V2_0"):
        raise TemplateError(f"{logical_id}: {version} of PreTokenGenerationConfig does not run in the local stack")
    if version == "V2_0" and properties.get("UserPoolTier") == "LITE":
        raise TemplateError(f"{logical_id}: the tier LITE has no {version} of PreTokenGenerationConfig")


def _schedule(resource: Resource, properties: Mapping[str, Any]) -> Schedule:
    target = properties["Targets"][0] if "Targets" in properties else properties["Target"]
    rate = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", properties["ScheduleExpression"])
    payload = target.get("Input")
    return Schedule(
        rule=resource.type == "AWS::Events::Rule",
        target=target["Arn"],
        input=payload.encode() if payload else None,
        enabled=properties.get("State") != "DISABLED",
        seconds=int(rate[1]) * {"minute": 60, "hour": 3600, "day": 86_400}[rate[2]] if rate else 86_400,
    )


def _variables(properties: Mapping[str, Any]) -> dict[str, str]:
    """The environment of a function: its variables, and those that Lambda makes of its LoggingConfig."""
    variables = dict(properties.get("Environment", {}).get("Variables", {}))
    logging = properties.get("LoggingConfig", {})
    if logging.get("LogFormat") == "JSON":
        variables["AWS_LAMBDA_LOG_FORMAT"] = "JSON"
        variables["AWS_LAMBDA_LOG_LEVEL"] = logging.get("ApplicationLogLevel", "INFO")
    return {key: _text(value) for key, value in variables.items()}


def _text(value: Any) -> str:
    """A value as CloudFormation writes it into text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _typed(value: Any, shape: Any, where: str) -> Any:
    """The value with the types of the API: parameters of a template are all text."""
    match shape.type_name:
        case "structure":
            if unknown := value.keys() - shape.members.keys():
                raise TemplateError(f"{where}: the local stack does not map {sorted(unknown)}")
            return {name: _typed(entry, shape.members[name], f"{where}.{name}") for name, entry in value.items()}
        case "list":
            return [_typed(entry, shape.member, where) for entry in value]
        case "map":
            return {name: _typed(entry, shape.value, where) for name, entry in value.items()}
        case "integer" | "long":
            return int(value)
        case "boolean":
            return value if isinstance(value, bool) else value == "true"
        case "string":
            return _text(value)
    return value
