"""The local stack keeps its promises: what it runs behaves as on AWS, and moto's differences are mended.

A template and handlers of their own, not the product's. Each test names one promise or one correction.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from moto.cognitoidp.models import cognitoidp_backends
from moto.dynamodb.models.dynamo_type import Item
from moto.dynamodb.models.table import Table
from moto.stepfunctions.parser.backend.execution_worker import ExecutionWorker
from werkzeug.test import Client

from tests.e2e.conftest import Gateway
from tests.local import front, moto_fixes
from tests.local.front import HttpApi
from tests.local.lambda_service import Answer, TooManyRequestsError
from tests.local.permissions import Statement, roles
from tests.local.stack import ACCESS_KEY, SECRET_KEY, LocalStack
from tests.local.template import Template, TemplateError

TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Parameters:
  Mode: {Type: String, Default: test, AllowedValues: [test, live]}
  TokenMinutes: {Type: Number, Default: 15}
  Concurrency: {Type: Number, Default: 1}
  Greeting: {Type: String, Default: hello}
Conditions:
  Live: !Equals [!Ref Mode, live]
Globals:
  Function:
    Runtime: python3.13
    CodeUri: code/
    Timeout: 20
    Environment:
      Variables:
        MODE: !If [Live, "on", "off"]
Resources:
  Api:
    Type: AWS::Serverless::HttpApi
    Properties:
      Auth: {EnableIamAuthorizer: true}
  EchoFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: echo.handler
      AutoPublishAlias: live
      DeploymentPreference: {Type: AllAtOnce}
      Environment: {Variables: {TABLE: !Ref Table, GREETING: !Ref Greeting}}
      Events:
        Open: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: POST, Path: /echo}}
        Item: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: GET, Path: "/items/{id}"}}
        Signed:
          Type: HttpApi
          Properties: {ApiId: !Ref Api, Method: POST, Path: /signed, Auth: {Authorizer: AWS_IAM}}
  FailFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: fail.handler
      Events:
        Fail: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: POST, Path: /fail}}
  SlowFunction:
    Type: AWS::Serverless::Function
    Properties: {Handler: slow.handler, Timeout: 1}
  ExitFunction:
    Type: AWS::Serverless::Function
    Properties: {Handler: leave.handler}
  MissingFunction:
    Type: AWS::Serverless::Function
    Properties: {Handler: missing.handler}
  BusyFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: busy.handler
      ReservedConcurrentExecutions: !Ref Concurrency
      Events:
        Busy: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: POST, Path: /busy}}
  AwsFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: aws.handler
      Policies:
        - Statement:
            - Effect: Allow
              Action: [dynamodb:PutItem, dynamodb:GetItem, dynamodb:ConditionCheckItem]
              Resource: !GetAtt Table.Arn
            - Effect: Allow
              Action: dynamodb:Query
              Resource: !Sub ${Table.Arn}/index/ByOwner
            - Effect: Allow
              Action: secretsmanager:GetSecretValue
              Resource: !Ref Secret
            - Effect: Allow
              Action: cognito-idp:Admin*
              Resource: !GetAtt Pool.Arn
            - Effect: Allow
              Action: events:PutEvents
              Resource: !Sub arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/default
            - Effect: Allow
              Action: sns:Publish
              Resource: !Ref Topic
            - Effect: Allow
              Action: states:StartExecution
              Resource: !Ref Machine
              Condition: {"ForAnyValue:StringEquals": {"states:StateMachineQualifier": live}}
            - Effect: Allow
              Action: lambda:InvokeFunction
              Resource: !Ref EchoFunctionAliaslive
  ClaimsFunction:
    Type: AWS::Serverless::Function
    Properties: {Handler: claims.handler}
  TickFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: tick.handler
      Events:
        Often: {Type: Schedule, Properties: {Schedule: rate(5 minutes)}}
  OnlyLiveFunction:
    Type: AWS::Serverless::Function
    Condition: Live
    Properties: {Handler: echo.handler}
  Machine:
    Type: AWS::Serverless::StateMachine
    Properties:
      DefinitionUri: machine.asl.json
      AutoPublishAlias: live
      DefinitionSubstitutions:
        EchoArn: !GetAtt EchoFunction.Arn
        FailArn: !GetAtt FailFunction.Arn
        SlowArn: !GetAtt SlowFunction.Arn
        ExitArn: !GetAtt ExitFunction.Arn
        TickArn: !GetAtt TickFunction.Arn
      Policies:
        - Statement:
            - Effect: Allow
              Action: lambda:InvokeFunction
              Resource:
                - !GetAtt EchoFunction.Arn
                - !GetAtt FailFunction.Arn
                - !GetAtt SlowFunction.Arn
                - !GetAtt ExitFunction.Arn
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      SSESpecification: {SSEEnabled: true}
      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}
      TimeToLiveSpecification: {AttributeName: expires, Enabled: true}
      AttributeDefinitions:
        - {AttributeName: pk, AttributeType: S}
        - {AttributeName: owner, AttributeType: S}
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      GlobalSecondaryIndexes:
        - IndexName: ByOwner
          KeySchema: [{AttributeName: owner, KeyType: HASH}]
          Projection: {ProjectionType: ALL}
  Secret:
    Type: AWS::SecretsManager::Secret
    Properties: {GenerateSecretString: {PasswordLength: 40, ExcludePunctuation: true}}
  Topic:
    Type: AWS::SNS::Topic
  Queue:
    Type: AWS::SQS::Queue
  Pool:
    Type: AWS::Cognito::UserPool
    Properties:
      UserPoolTier: ESSENTIALS
      LambdaConfig: {PreTokenGenerationConfig: {LambdaArn: !GetAtt ClaimsFunction.Arn, LambdaVersion: V2_0}}
      UsernameAttributes: [email]
      UsernameConfiguration: {CaseSensitive: false}
      AdminCreateUserConfig: {AllowAdminCreateUserOnly: true}
      Policies: {PasswordPolicy: {MinimumLength: 14, RequireSymbols: false}}
      Schema:
        - Name: units
          AttributeDataType: Number
          Mutable: true
          NumberAttributeConstraints: {MinValue: "0", MaxValue: "100"}
        - Name: note
          AttributeDataType: String
          Mutable: true
          StringAttributeConstraints: {MinLength: "0", MaxLength: "5"}
        - {Name: origin, AttributeDataType: String, Mutable: false}
  Client:
    Type: AWS::Cognito::UserPoolClient
    Properties:
      UserPoolId: !Ref Pool
      ExplicitAuthFlows: [ALLOW_USER_PASSWORD_AUTH, ALLOW_REFRESH_TOKEN_AUTH]
      PreventUserExistenceErrors: ENABLED
      IdTokenValidity: !Ref TokenMinutes
      AccessTokenValidity: !Ref TokenMinutes
      TokenValidityUnits: {IdToken: minutes, AccessToken: minutes}
      ReadAttributes: [email, email_verified, "custom:units"]
      WriteAttributes: [name]
Outputs:
  Url: {Value: !Sub "https://${Api}.execute-api.${AWS::Region}.${AWS::URLSuffix}/echo"}
  OnlyLive: {Condition: Live, Value: !GetAtt OnlyLiveFunction.Arn}
"""

HANDLERS = {
    "echo": """
        import os
        def handler(event, context):
            print("echo was here")
            return {"event": event, "environment": dict(os.environ), "cwd": os.getcwd()}
        """,
    "fail": """
        class CardDeclined(Exception):
            pass
        def handler(event, context):
            raise CardDeclined("not enough")
        """,
    "slow": "import time\ndef handler(event, context): time.sleep(30)",
    "leave": "import os\ndef handler(event, context): os._exit(3)",
    "missing": "import os\nTABLE = os.environ['TABLE']\ndef handler(event, context): pass",
    "busy": """
        import os, time
        from pathlib import Path
        def handler(event, context):
            while not Path("go").exists():
                Path("started").touch()
                time.sleep(0.01)
            return {"statusCode": 204}
        """,
    "aws": """
        import boto3, json
        from botocore.config import Config
        from botocore.exceptions import ClientError
        CLIENTS = {}
        def handler(event, context):
            service = event["service"]
            if service not in CLIENTS:
                CLIENTS[service] = boto3.client(service, config=Config(retries={"total_max_attempts": 1}))
            try:
                answer = getattr(CLIENTS[service], event["method"])(**event["request"])
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                return {"status": status, **error.response["Error"]}
            return json.loads(json.dumps(answer, default=str))
        """,
    "claims": """
        def handler(event, context):
            if event["request"]["userAttributes"].get("custom:note") == "fail":
                raise RuntimeError("no claims today")
            claims = {"source": event["triggerSource"], "units": 7, "sub": "forged", "token_use": "other"}
            tokens = {"claimsToAddOrOverride": claims}
            details = {"idTokenGeneration": tokens, "accessTokenGeneration": tokens}
            event["response"] = {"claimsAndScopeOverrideDetails": details}
            return event
        """,
    "tick": "def handler(event, context): return event",
}


def task(function: str, **more: Any) -> dict[str, Any]:
    caught = [
        {"ErrorEquals": [name], "ResultPath": "$.error", "Next": end}
        for name, end in [
            ("CardDeclined", "Declined"),
            ("Sandbox.Timedout", "TimedOut"),
            ("Runtime.ExitError", "Exited"),
            ("Lambda.TooManyRequestsException", "Throttled"),
            ("States.ALL", "Other"),
        ]
    ]
    return {"Type": "Task", "Resource": f"${{{function}}}", "Catch": caught, "End": True, **more}


MACHINE = {
    "StartAt": "Which",
    "States": {
        "Which": {
            "Type": "Choice",
            "Choices": [
                {"Variable": "$.step", "StringEquals": name, "Next": name}
                for name in ["Echo", "Fail", "Slow", "Exit", "Tick", "Text"]
            ],
            "Default": "Other",
        },
        "Echo": task("EchoArn", Parameters={"run.$": "$", "began.$": "$$.Execution.StartTime"}),
        "Text": {"Type": "Pass", "Result": "only a text", "End": True},
        "Fail": task(
            "FailArn",
            Retry=[{"ErrorEquals": ["CardDeclined"], "IntervalSeconds": 60, "MaxAttempts": 2}],
        ),
        "Slow": task("SlowArn"),
        "Exit": task("ExitArn"),
        "Tick": task("TickArn"),
        **{name: {"Type": "Succeed"} for name in ["Declined", "TimedOut", "Exited", "Throttled"]},
        "Other": {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"},
    },
}


def write_project(folder: Path, template: str = TEMPLATE) -> Path:
    """The template, its definition and its handlers; returns the template's path."""
    code = folder / "code"
    code.mkdir()
    for name, source in HANDLERS.items():
        lines = source.splitlines()
        (code / f"{name}.py").write_text("\n".join(line.removeprefix(" " * 8) for line in lines))
    (folder / "machine.asl.json").write_text(json.dumps(MACHINE))
    (folder / "template.yaml").write_text(template)
    return folder / "template.yaml"


@pytest.fixture(scope="module", autouse=True)
def _open_routes() -> Iterator[None]:
    """Of the product only Stripe's route is open; of the template here most are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "OPEN_ROUTES", front.OPEN_ROUTES | {"/echo", "/items/{id}", "/fail", "/busy"})
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("project")
    write_project(path)
    return path


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[LocalStack]:
    with LocalStack(
        {},
        template=folder / "template.yaml",
        log=folder / "functions.log",
        schedule_seconds=None,
        retry_scale=0.001,
    ) as stack:
        yield stack


@pytest.fixture
def stack(shared: LocalStack) -> Iterator[LocalStack]:
    shared.calls.clear()
    shared.denied.clear()
    shared.outbox.clear()
    yield shared
    shared.faults.clear()
    shared.mail.restore()


def post(
    stack: LocalStack,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(stack.api.removeprefix("http://"))
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None
    finally:
        connection.close()


def run(stack: LocalStack, step: str, name: str | None = None) -> Any:
    arn = stack.client("stepfunctions").start_execution(
        stateMachineArn=stack.state_machine_arn,
        input=json.dumps({"step": step}),
        **({"name": name} if name else {}),
    )["executionArn"]
    stack.wait_idle(30)
    return next(execution for execution in stack.executions() if execution.arn == arn)


def aws(stack: LocalStack, service: str, method: str, **request: Any) -> Any:
    """A call that AwsFunction makes; a refusal comes back as `Code` and `status`."""
    result, error = stack.invoke("AwsFunction", {"service": service, "method": method, "request": request})
    assert error is None
    return result


def until(happened: Callable[[], Any], seconds: float = 20) -> None:
    """Waits for something that nothing announces."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def error_of(call: Any, **request: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**request)
    return str(caught.value.response["Error"]["Code"])


# ------------------------------------------------------------------------------------------ template


class TestTemplate:
    def test_parameters_are_refused_as_cloudformation_refuses_them(self, folder: Path) -> None:
        path = folder / "template.yaml"
        with pytest.raises(TemplateError, match="Nonsense"):
            Template(path, {"Nonsense": "1"})
        with pytest.raises(TemplateError, match="Mode cannot be 'loud'"):
            Template(path, {"Mode": "loud"})

    def test_conditions_decide_resources_values_and_outputs(self, folder: Path) -> None:
        live = Template(folder / "template.yaml", {"Mode": "live"})
        test = Template(folder / "template.yaml", {})
        assert "OnlyLiveFunction" in live.resources
        assert "OnlyLiveFunction" not in test.resources
        variables = test.resources["EchoFunction"].properties["Environment"]["Variables"]
        assert variables == {"MODE": "off", "TABLE": {"Ref": "Table"}, "GREETING": {"Ref": "Greeting"}}
        test.created("Api", "api")
        assert test.outputs() == {"Url": "https://api.execute-api.us-east-1.amazonaws.com/echo"}

    @pytest.mark.parametrize("value", [{"Ref": "Ghost"}, {"Fn::GetAtt": ["Ghost", "Arn"]}, {"Fn::Sub": "a-${Ghost}"}])
    def test_an_unresolvable_reference_is_an_error_with_its_name(self, folder: Path, value: Any) -> None:
        with pytest.raises(TemplateError, match="Ghost"):
            Template(folder / "template.yaml", {}).resolve(value)

    def test_functions_resolve(self, folder: Path) -> None:
        template = Template(folder / "template.yaml", {"Mode": "live"})
        template.created("Table", "orders", Arn="arn:table")
        for value, expected in [
            ({"Fn::Sub": "${AWS::Region}/${Table}/${Table.Arn}/${!kept}"},
             "us-east-1/orders/arn:table/${kept}"),
            ({"Fn::Sub": ["${A}-${Mode}", {"A": {"Ref": "Table"}}]}, "orders-live"),
            ({"Fn::Join": ["-", ["a", {"Ref": "Table"}]]}, "a-orders"),
            ({"Fn::If": ["Live", "yes", "no"]}, "yes"),
            ({"a": {"Fn::If": ["Live", {"Ref": "AWS::NoValue"}, 1]}, "b": 2}, {"b": 2}),
            ({"Fn::Select": [1, {"Fn::Split": [",", "a,b"]}]}, "b"),
            ({"Fn::And": [{"Condition": "Live"}, {"Fn::Not": [{"Fn::Equals": ["1", "2"]}]}]}, True),
            ({"Fn::Or": [{"Fn::Equals": [1, "1"]}, {"Condition": "Live"}]}, True),
        ]:  # fmt: skip
            assert template.resolve(value) == expected

    def test_an_unknown_resource_type_is_an_error(self, tmp_path: Path) -> None:
        more = "Resources:\n  Bucket: {Type: AWS::S3::Bucket}\n"
        path = write_project(tmp_path, TEMPLATE.replace("Resources:\n", more))
        with pytest.raises(TemplateError, match=r"Bucket.*AWS::S3::Bucket"):
            LocalStack({}, template=path)


# -------------------------------------------------------------------------------------------- Lambda


class TestLambda:
    def test_a_function_gets_exactly_the_variables_of_aws(
        self, stack: LocalStack, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LEAKED", "1")
        result, error = stack.invoke("EchoFunction", {"a": 1})
        assert error is None
        environment = result["environment"]
        own = {"MODE": "off", "TABLE": stack.orders_table, "GREETING": "hello"}
        assert own.items() <= environment.items()
        lambdas = {name for name in environment if name.startswith(("AWS_", "LAMBDA_", "_"))}
        rest = {"LANG", "PATH", "PYTHONPATH", "TZ", "LC_CTYPE"}
        assert environment.keys() - own.keys() - lambdas - rest == set()
        assert environment["AWS_ENDPOINT_URL"] == stack.aws_endpoint
        assert environment["LAMBDA_TASK_ROOT"] == result["cwd"] == str(folder / "code")
        assert "echo was here" in (folder / "functions.log").read_text()

    def test_a_missing_variable_fails_at_init_with_its_name(self, stack: LocalStack) -> None:
        result, error = stack.invoke("MissingFunction", {})
        assert result is None
        assert error is not None
        assert (error["errorType"], error["errorMessage"]) == ("KeyError", "'TABLE'")

    def test_an_exception_arrives_with_its_class_and_text(self, stack: LocalStack) -> None:
        _, error = stack.invoke("FailFunction", {})
        assert error is not None
        assert (error["errorType"], error["errorMessage"]) == ("CardDeclined", "not enough")

    def test_a_timeout_is_sandbox_timedout(self, stack: LocalStack) -> None:
        _, error = stack.invoke("SlowFunction", {})
        assert error is not None
        assert error["errorType"] == "Sandbox.Timedout"
        assert "Task timed out after 1.00 seconds" in error["errorMessage"]

    def test_a_process_that_exits_is_runtime_exiterror(self, stack: LocalStack) -> None:
        _, error = stack.invoke("ExitFunction", {})
        assert error is not None
        assert error["errorType"] == "Runtime.ExitError"
        assert "exit status 3" in error["errorMessage"]

    def test_reserved_concurrency_throttles(self, stack: LocalStack, folder: Path) -> None:
        first = threading.Thread(target=stack.invoke, args=("BusyFunction", {}))
        first.start()
        try:
            until((folder / "code/started").exists)
            with pytest.raises(TooManyRequestsError):
                stack.invoke("BusyFunction", {})
            assert post(stack, "/busy") == (503, {"message": "Service Unavailable"})
            invoke = stack.client("lambda").invoke
            assert error_of(invoke, FunctionName="local-BusyFunction") == "TooManyRequestsException"
        finally:
            (folder / "code/go").touch()
            first.join()
        assert post(stack, "/busy") == (204, None)

    def test_others_wait_for_a_free_environment(self, stack: LocalStack) -> None:
        threads = [threading.Thread(target=stack.invoke, args=("TickFunction", {})) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        log = stack.invoke("TickFunction", {"still": "well"})
        assert log == ({"still": "well"}, None)

    def test_a_deployment_with_other_parameters_starts_functions_anew(self, stack: LocalStack) -> None:
        def greeting() -> str:
            return str(stack.invoke("EchoFunction", {})[0]["environment"]["GREETING"])

        calls, others = stack.calls, self.processes_of(stack, "TickFunction")
        assert greeting() == "hello"
        with stack.deployed_with(Greeting="goodbye"):
            assert greeting() == "goodbye"
            aws(stack, "secretsmanager", "get_secret_value", SecretId="local-Secret")
        assert greeting() == "hello"
        assert [call.action for call in calls] == ["secretsmanager:GetSecretValue"]
        assert self.processes_of(stack, "TickFunction") == others
        with pytest.raises(TemplateError, match="Mode"), stack.deployed_with(Mode="live"):
            pass

    def processes_of(self, stack: LocalStack, function: str) -> set[int]:
        """The processes in which the function runs."""
        stack.invoke(function, {})
        pool = stack._functions._pools[stack.template.physical[function].ref]
        return {environment._process.pid for environment in pool._idle}

    def test_an_event_invocation_answers_at_once(self, stack: LocalStack) -> None:
        invoke = stack.client("lambda").invoke
        answer = invoke(FunctionName="local-TickFunction", InvocationType="Event", Payload=b"{}")
        assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
        assert error_of(invoke, FunctionName="ghost") == "ResourceNotFoundException"


# ------------------------------------------------------------------------------------------ HTTP API


class TestHttpApi:
    def test_an_event_has_payload_format_2(self, stack: LocalStack) -> None:
        status, answer = post(
            stack,
            "/echo?a=1&a=2&b=",
            b'{"x": 1}',
            {"Content-Type": "application/json", "X-Mixed-Case": "Kept"},
        )
        event = answer["event"]
        assert (status, event["version"], event["routeKey"]) == (200, "2.0", "POST /echo")
        assert event["headers"]["x-mixed-case"] == "Kept"
        assert event["queryStringParameters"] == {"a": "1,2", "b": ""}
        assert (event["body"], event["isBase64Encoded"]) == ('{"x": 1}', False)
        assert event["requestContext"]["http"]["method"] == "POST"

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("application/octet-stream", b"plain"),
            ("application/x-www-form-urlencoded", b"a=1"),
            ("application/json", b"\xff{"),
        ],
    )
    def test_what_is_not_text_comes_as_base64(self, stack: LocalStack, content_type: str, body: bytes) -> None:
        _, answer = post(stack, "/echo", body, {"Content-Type": content_type})
        assert answer["event"]["isBase64Encoded"]
        assert base64.b64decode(answer["event"]["body"]) == body

    def test_path_variables(self, stack: LocalStack) -> None:
        _, answer = post(stack, "/items/42", method="GET")
        assert answer["event"]["pathParameters"] == {"id": "42"}

    @pytest.mark.parametrize(("method", "path"), [("GET", "/echo"), ("POST", "/echo/more")])
    def test_other_paths_and_methods_are_not_found(self, stack: LocalStack, method: str, path: str) -> None:
        assert post(stack, path, method=method) == (404, {"message": "Not Found"})

    def test_too_large(self, stack: LocalStack) -> None:
        status, _ = post(stack, "/echo", b"x" * (10 * 1024 * 1024 + 1))
        assert status == 413

    def test_a_failing_function_is_500(self, stack: LocalStack) -> None:
        assert post(stack, "/fail") == (500, {"message": "Internal Server Error"})

    def test_iam_routes_need_a_right_signature(self, stack: LocalStack) -> None:
        def signed(body: bytes, secret: str = SECRET_KEY, service: str = "execute-api") -> Any:
            request = AWSRequest("POST", f"{stack.api}/signed", data=body)
            credentials = Credentials(ACCESS_KEY, secret)
            SigV4Auth(credentials, service, stack.region).add_auth(request)
            return dict(request.headers)

        forbidden = (403, {"message": "Forbidden"})
        assert post(stack, "/signed", b"{}") == forbidden
        assert post(stack, "/signed", b"{}", signed(b"{}", secret="wrong")) == forbidden
        assert post(stack, "/signed", b"{ }", signed(b"{}")) == forbidden
        assert post(stack, "/signed", b"{}", signed(b"{}", service="s3")) == forbidden
        status, answer = post(stack, "/signed", b"{}", signed(b"{}"))
        assert status == 200
        authorizer = answer["event"]["requestContext"]["authorizer"]
        assert authorizer["iam"]["accessKey"] == ACCESS_KEY

    def test_an_old_signature_is_refused(self, stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
        now = datetime.now(UTC).timestamp()
        monkeypatch.setattr("tests.local.front.time.time", lambda: now + 400)
        request = AWSRequest("POST", f"{stack.api}/signed", data=b"{}")
        SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "execute-api", stack.region).add_auth(request)
        assert post(stack, "/signed", b"{}", dict(request.headers))[0] == 403

    @pytest.mark.parametrize("more", [{}, {"security": []}, {"security": [{"NONE": []}]}])
    def test_a_route_that_is_open_by_mistake_is_an_error_when_built(self, stack: LocalStack, more: Any) -> None:
        integration = {"type": "aws_proxy", "payloadFormatVersion": "2.0", "uri": "arn:x/functions/f/invocations"}
        operation = {"x-amazon-apigateway-integration": integration, **more}
        with pytest.raises(TemplateError, match="POST /other has no authorizer"):
            HttpApi(
                {"paths": {"/other": {"post": operation}}},
                lambda *_: None,
                credentials={},
                region="",
                account_id="",
            )

    def test_other_authorizers_are_an_error_when_built(self, stack: LocalStack) -> None:
        integration = {
            "type": "aws_proxy",
            "payloadFormatVersion": "2.0",
            "uri": "arn:x/functions/f/invocations",
        }
        operation = {"x-amazon-apigateway-integration": integration, "security": [{"Own": []}]}
        with pytest.raises(NotImplementedError, match="Own"):
            HttpApi(
                {"paths": {"/": {"post": operation}}},
                lambda *_: None,
                credentials={},
                region="",
                account_id="",
            )

    def guarded(self, answers: list[Any], **definition: Any) -> tuple[HttpApi, list[Any], list[float]]:
        """An API with one guarded route, what its functions were asked, and its clock."""
        asked: list[Any] = []
        now = [0.0]

        def invoke(function: str, payload: bytes) -> Answer:
            asked.append((function, json.loads(payload)))
            answer = answers.pop(0) if function == "guard" else {"statusCode": 200, "body": "in"}
            answer = answer() if callable(answer) else answer
            return Answer(json.dumps(answer).encode(), answer == "failed")

        authorizer = {
            "type": "request",
            "authorizerUri": "arn:x/functions/guard/invocations",
            "authorizerPayloadFormatVersion": "2.0",
            "enableSimpleResponses": True,
            "identitySource": ["$request.header.Authorization"],
            "authorizerResultTtlInSeconds": 0,
            **definition,
        }
        integration = {"type": "aws_proxy", "payloadFormatVersion": "2.0", "uri": "arn:x/functions/f/invocations"}
        operation = {"x-amazon-apigateway-integration": integration, "security": [{"Guard": []}]}
        body = {
            "paths": {"/guarded/{id}": {"get": operation}},
            "components": {"securitySchemes": {"Guard": {"x-amazon-apigateway-authorizer": authorizer}}},
        }
        api = HttpApi(body, invoke, credentials={}, region="r", account_id="1", clock=lambda: now[0])
        return api, asked, now

    def get(self, api: HttpApi, token: str | None = "Bearer x", **headers: str) -> tuple[int, str]:
        headers |= {"Authorization": token} if token else {}
        answer = Client(api).get("/guarded/7?q=1", headers=headers)
        return answer.status_code, answer.text

    def test_whom_a_lambda_authorizer_lets_in_the_function_learns(self) -> None:
        api, asked, _ = self.guarded([{"isAuthorized": True, "context": {"sub": "s", "limit": 3}}])
        assert self.get(api) == (200, "in")
        (_, question), (_, event) = asked
        assert (question["version"], question["type"], question["routeKey"]) == ("2.0", "REQUEST", "GET /guarded/{id}")
        assert question["routeArn"] == "arn:aws:execute-api:r:1:local/$default/GET/guarded/7"
        assert question["identitySource"] == ["Bearer x"]
        assert (question["pathParameters"], question["queryStringParameters"]) == ({"id": "7"}, {"q": "1"})
        assert event["requestContext"]["authorizer"] == {"lambda": {"sub": "s", "limit": 3}}

    def test_without_its_identity_source_a_lambda_authorizer_is_not_asked(self) -> None:
        api, asked, _ = self.guarded([])
        assert self.get(api, None) == (401, '{"message": "Unauthorized"}')
        assert asked == []

    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            ({"isAuthorized": False}, 403),
            ("failed", 500),
            (None, 500),
            ({}, 500),
            ({"isAuthorized": "true"}, 500),
            ({"isAuthorized": True, "context": "text"}, 500),
        ],
    )
    def test_whom_a_lambda_authorizer_does_not_let_in_no_function_sees(self, answer: Any, status: int) -> None:
        api, asked, _ = self.guarded([answer])
        assert self.get(api)[0] == status
        assert [function for function, _ in asked] == ["guard"]

    def test_answers_are_kept_as_long_as_the_authorizer_says_but_no_errors(self) -> None:
        yes, no = {"isAuthorized": True}, {"isAuthorized": False}
        api, _, now = self.guarded(["failed", yes, no, no], authorizerResultTtlInSeconds="60")
        assert [self.get(api)[0] for _ in range(3)] == [500, 200, 200]
        assert self.get(api, "Bearer y")[0] == 403
        now[0] = 60.0
        assert self.get(api)[0] == 403

    def test_an_answer_is_kept_for_all_identity_sources_together(self) -> None:
        yes, no = {"isAuthorized": True}, {"isAuthorized": False}
        sources = ["$request.header.Authorization", "$request.header.X-Shop"]
        api, asked, _ = self.guarded([yes, no, no], identitySource=sources, authorizerResultTtlInSeconds=60)
        for token, shop, status in [("x", "one", 200), ("x", "two", 403), ("y", "one", 403), ("x", "one", 200)]:
            assert self.get(api, token, **{"x-sHOP": shop})[0] == status
        questions = [event["identitySource"] for function, event in asked if function == "guard"]
        assert questions == [["x", "one"], ["x", "two"], ["y", "one"]]
        assert self.get(api, "x")[0] == 401
        assert self.get(api, "x", **{"X-Shop": ""})[0] == 401

    def test_a_kept_answer_comes_with_its_context(self) -> None:
        api, asked, _ = self.guarded([{"isAuthorized": True, "context": {"n": 1}}], authorizerResultTtlInSeconds=60)
        assert [self.get(api)[0] for _ in range(2)] == [200, 200]
        contexts = [event["requestContext"]["authorizer"] for function, event in asked if function == "f"]
        assert contexts == [{"lambda": {"n": 1}}] * 2

    @pytest.mark.parametrize(("seconds", "status"), [(10.0, 200), (10.1, 500)])
    def test_an_authorizer_is_waited_for_ten_seconds(self, seconds: float, status: int) -> None:
        answers: list[Any] = [lambda: now.__setitem__(0, now[0] + seconds) or {"isAuthorized": True}]
        api, asked, now = self.guarded(answers, authorizerResultTtlInSeconds=60)
        answers.append({"isAuthorized": False})
        assert self.get(api)[0] == status
        assert [function for function, _ in asked] == ["guard", "f"][: 2 if status == 200 else 1]
        assert self.get(api)[0] == (200 if status == 200 else 403)  # an answer that came too late is not kept

    def test_while_an_authorizer_is_throttled_nobody_is_let_in_and_nothing_is_kept(self) -> None:
        def throttled() -> None:
            raise TooManyRequestsError("guard")

        api, asked, _ = self.guarded([throttled, throttled, {"isAuthorized": True}], authorizerResultTtlInSeconds=60)
        assert self.get(api) == (500, '{"message": "Internal Server Error"}')
        assert [self.get(api)[0] for _ in range(2)] == [500, 200]
        assert [function for function, _ in asked] == ["guard"] * 3 + ["f"]

    @pytest.mark.parametrize("error", ["failed", None, {}, {"isAuthorized": 1}])
    def test_no_error_of_an_authorizer_is_kept(self, error: Any) -> None:
        api, _, _ = self.guarded([error, error, {"isAuthorized": True}], authorizerResultTtlInSeconds=3600)
        assert [self.get(api)[0] for _ in range(3)] == [500, 500, 200]

    def test_without_a_time_to_live_it_is_asked_at_every_call(self) -> None:
        api, _, _ = self.guarded([{"isAuthorized": True}, {"isAuthorized": False}])
        assert [self.get(api)[0] for _ in range(2)] == [200, 403]

    @pytest.mark.parametrize(
        "definition",
        [
            {"type": "jwt"},
            {"authorizerPayloadFormatVersion": "1.0"},
            {"enableSimpleResponses": False},
            {"identitySource": ["$request.querystring.t"]},
            {"identitySource": []},
            {"identitySource": ["$request.header.Authorization", "$context.path"]},
            {"authorizerUri": "arn:x/stages/guard"},
            {"authorizerResultTtlInSeconds": 3601},
            {"authorizerResultTtlInSeconds": -1},
            {"authorizerCredentials": "arn"},
        ],
    )
    def test_a_lambda_authorizer_of_another_kind_is_an_error_when_built(self, definition: Any) -> None:
        with pytest.raises(NotImplementedError, match="authorizer Guard"):
            self.guarded([], **definition)

    @pytest.mark.parametrize("key", ["authorizerResultTtlInSeconds", "enableSimpleResponses", "identitySource"])
    def test_what_a_lambda_authorizer_does_not_say_is_not_guessed(self, key: str, monkeypatch: Any) -> None:
        build = front._authorizer
        monkeypatch.setattr(
            front,
            "_authorizer",
            lambda name, definition: build(name, {k: value for k, value in definition.items() if k != key}),
        )
        with pytest.raises(NotImplementedError, match="authorizer Guard"):
            self.guarded([])

    @pytest.mark.parametrize("security", [[{"Guard": []}, {"Iam": []}], [{"Guard": [], "Iam": []}]])
    def test_a_route_with_two_authorizers_is_an_error_when_built(self, security: Any) -> None:
        integration = {"type": "aws_proxy", "payloadFormatVersion": "2.0", "uri": "arn:x/functions/f/invocations"}
        operation = {"x-amazon-apigateway-integration": integration, "security": security}
        schemes = {name: {"x-amazon-apigateway-authtype": "awsSigv4"} for name in ("Guard", "Iam")}
        body = {"paths": {"/": {"get": operation}}, "components": {"securitySchemes": schemes}}
        with pytest.raises(NotImplementedError, match="Guard"):
            HttpApi(body, lambda *_: None, credentials={}, region="", account_id="")

    def test_outputs_have_the_local_address(self, stack: LocalStack) -> None:
        assert stack.outputs == {"Url": f"{stack.api}/echo"}


# ------------------------------------------------------------------------ permissions, calls, faults


class TestPermissions:
    def test_calls_are_recorded_with_action_and_resource(self, stack: LocalStack) -> None:
        table = f"arn:aws:dynamodb:us-east-1:123456789012:table/{stack.orders_table}"
        pool = f"arn:aws:cognito-idp:us-east-1:123456789012:userpool/{stack.user_pool_id}"
        secret = stack.template.physical["Secret"].ref
        aws(stack, "dynamodb", "put_item", TableName=stack.orders_table, Item={"pk": {"S": "1"}})
        aws(
            stack,
            "dynamodb",
            "query",
            TableName=stack.orders_table,
            IndexName="ByOwner",
            KeyConditionExpression="#o = :o",
            ExpressionAttributeNames={"#o": "owner"},
            ExpressionAttributeValues={":o": {"S": "x"}},
        )
        aws(stack, "secretsmanager", "get_secret_value", SecretId="local-Secret")
        aws(
            stack,
            "cognito-idp",
            "admin_get_user",
            UserPoolId=stack.user_pool_id,
            Username="nobody@example.com",
        )
        assert stack.calls == [
            ("AwsFunction", "dynamodb:PutItem", table),
            ("AwsFunction", "dynamodb:Query", f"{table}/index/ByOwner"),
            ("AwsFunction", "secretsmanager:GetSecretValue", secret),
            ("AwsFunction", "cognito-idp:AdminGetUser", pool),
        ]
        assert stack.denied == []

    @pytest.mark.parametrize(
        ("method", "request_"),
        [
            ("delete_item", {"Key": {"pk": {"S": "1"}}}),
            ("query", {"KeyConditionExpression": "pk = :o"}),
        ],
    )
    def test_what_the_role_does_not_allow_is_denied(self, stack: LocalStack, method: str, request_: Any) -> None:
        if method == "query":
            request_ = {**request_, "ExpressionAttributeValues": {":o": {"S": "x"}}}
        answer = aws(stack, "dynamodb", method, TableName=stack.orders_table, **request_)
        assert (answer["status"], answer["Code"]) == (400, "AccessDeniedException")
        assert "AwsFunction" in answer["Message"]
        assert [call.function for call in stack.denied] == ["AwsFunction"]

    def test_a_transaction_needs_its_single_actions(self, stack: LocalStack) -> None:
        table = stack.orders_table
        check = {
            "TableName": table,
            "Key": {"pk": {"S": "none"}},
            "ConditionExpression": "attribute_not_exists(pk)",
        }
        put = {"TableName": table, "Item": {"pk": {"S": "t"}}}
        delete = {"TableName": table, "Key": {"pk": {"S": "u"}}}
        answer = aws(
            stack,
            "dynamodb",
            "transact_write_items",
            TransactItems=[{"Put": put}, {"ConditionCheck": check}],
        )
        assert "Code" not in answer
        actions = [call.action for call in stack.calls]
        assert actions == ["dynamodb:PutItem", "dynamodb:ConditionCheckItem"]
        answer = aws(stack, "dynamodb", "transact_write_items", TransactItems=[{"Delete": delete}])
        assert answer["Code"] == "AccessDeniedException"

    def test_publishing_needs_its_bus_and_its_topic(self, stack: LocalStack) -> None:
        topic = stack.template.physical["Topic"].ref
        bus = "arn:aws:events:us-east-1:123456789012:event-bus/"
        default, other = entry(), entry(EventBusName="other")
        assert aws(stack, "events", "put_events", Entries=[default])["FailedEntryCount"] == 0
        assert "MessageId" in aws(stack, "sns", "publish", TopicArn=topic, Message="{}")
        assert stack.calls == [
            ("AwsFunction", "events:PutEvents", f"{bus}default"),
            ("AwsFunction", "sns:Publish", topic),
        ]
        assert stack.denied == []
        answer = aws(stack, "events", "put_events", Entries=[default, other])
        assert (answer["status"], answer["Code"]) == (400, "AccessDeniedException")
        answer = aws(stack, "sns", "publish", TopicArn=f"{topic}-other", Message="{}")
        assert (answer["status"], answer["Code"]) == (403, "AccessDeniedException")
        assert "sns:Publish" in answer["Message"]
        assert [call.resource for call in stack.denied] == [f"{bus}other", f"{topic}-other"]

    def test_scans_batches_and_listings_need_their_actions(self, stack: LocalStack) -> None:
        name = stack.orders_table
        table = f"arn:aws:dynamodb:us-east-1:123456789012:table/{name}"
        pool = f"arn:aws:cognito-idp:us-east-1:123456789012:userpool/{stack.user_pool_id}"
        key = {"pk": {"S": "1"}}
        for service, method, request in [
            ("dynamodb", "scan", {"TableName": name, "Segment": 0, "TotalSegments": 2}),
            ("dynamodb", "scan", {"TableName": name, "IndexName": "ByOwner"}),
            ("dynamodb", "batch_get_item", {"RequestItems": {name: {"Keys": [key]}}}),
            ("dynamodb", "batch_write_item", {"RequestItems": {name: [{"PutRequest": {"Item": key}}]}}),
            ("cognito-idp", "list_users", {"UserPoolId": stack.user_pool_id}),
        ]:
            assert aws(stack, service, method, **request)["Code"] == "AccessDeniedException"
        assert stack.denied == [
            ("AwsFunction", "dynamodb:Scan", table),
            ("AwsFunction", "dynamodb:Scan", f"{table}/index/ByOwner"),
            ("AwsFunction", "dynamodb:BatchGetItem", table),
            ("AwsFunction", "dynamodb:BatchWriteItem", table),
            ("AwsFunction", "cognito-idp:ListUsers", pool),
        ]

    def test_a_machine_is_started_through_the_alias_that_the_role_names(self, stack: LocalStack) -> None:
        machine, alias = stack.state_machine_arn, stack.template.physical["MachineAliaslive"].ref
        assert alias == f"{machine}:live"
        started = aws(
            stack, "stepfunctions", "start_execution", stateMachineArn=alias, name="by-alias", input='{"step": "Echo"}'
        )
        assert started["executionArn"] == f"{machine.replace(':stateMachine:', ':execution:')}:by-alias"
        for other in (machine, f"{machine}:1", f"{machine}:other"):
            answer = aws(stack, "stepfunctions", "start_execution", stateMachineArn=other, input='{"step": "Echo"}')
            assert answer["Code"] == "AccessDeniedException", other
        assert [call.resource for call in stack.denied] == [machine, f"{machine}:1", f"{machine}:other"]
        stack.wait_idle(30)
        assert [execution.status for execution in stack.executions() if execution.name == "by-alias"] == ["SUCCEEDED"]

    @pytest.mark.parametrize(
        ("resource", "qualifier", "allowed"),
        [
            ("{machine}", None, ["{machine}", "{machine}:live", "{machine}:1"]),
            ("{machine}", "live", ["{machine}:live"]),
            ("{machine}:live", None, []),  # IAM never compares with the alias' own ARN
            ("{machine}-other", "live", []),
        ],
    )
    def test_a_right_on_a_machine_is_judged_as_iam_does(
        self, resource: str, qualifier: str | None, allowed: list[str]
    ) -> None:
        machine = "arn:aws:states:us-east-1:123456789012:stateMachine:local-Machine"
        statement = Statement(True, ("states:StartExecution",), (resource.format(machine=machine),), qualifier)
        called = [machine, f"{machine}:live", f"{machine}:1"]
        matched = [each for each in called if statement.matches("states:StartExecution", each)]
        assert matched == [each.format(machine=machine) for each in allowed]

    @pytest.mark.parametrize(
        "condition",
        [
            "{StringLike: {'states:StateMachineQualifier': live}}",
            "{'ForAnyValue:StringEquals': {'aws:SourceArn': live}}",
            "{'ForAnyValue:StringEquals': {'states:StateMachineQualifier': live}, Bool: {'aws:SecureTransport': true}}",
        ],
    )
    def test_a_condition_that_is_not_understood_is_an_error(self, tmp_path: Path, condition: str) -> None:
        own = '{"ForAnyValue:StringEquals": {"states:StateMachineQualifier": live}}'
        assert own in TEMPLATE
        path = write_project(tmp_path, TEMPLATE.replace(own, condition))
        template = Template(path, {})
        for name in template.resources:
            template.created(name, name, Arn=name)
        with pytest.raises(TemplateError, match="AwsFunctionRole: the local stack cannot judge the condition"):
            roles(template)

    def test_a_function_is_invoked_through_the_alias_that_the_role_names(self, stack: LocalStack) -> None:
        function, alias = (stack.template.physical[f"EchoFunction{each}"] for each in ("", "Aliaslive"))
        assert alias.ref == f"{function.attributes['Arn']}:live"
        assert "Code" not in aws(stack, "lambda", "invoke", FunctionName=alias.ref)
        for other in (function.ref, function.attributes["Arn"]):
            assert aws(stack, "lambda", "invoke", FunctionName=other)["Code"] == "AccessDeniedException"

    def test_a_state_machine_needs_its_role_too(self, stack: LocalStack) -> None:
        execution = run(stack, "Tick")
        assert execution.status == "FAILED"
        assert execution.error == "Lambda.AWSLambdaException"
        assert "not authorized" in execution.cause
        assert [call.function for call in stack.denied] == ["Machine"]


class TestFaults:
    def put(self, stack: LocalStack, key: str) -> Any:
        item = {"pk": {"S": key}}
        return aws(stack, "dynamodb", "put_item", TableName=stack.orders_table, Item=item)

    def stored(self, stack: LocalStack, key: str) -> bool:
        answer = stack.client("dynamodb").get_item(TableName=stack.orders_table, Key={"pk": {"S": key}})
        return "Item" in answer

    def test_a_fault_hits_the_next_calls_and_ends(self, stack: LocalStack) -> None:
        code = "ProvisionedThroughputExceededException"
        fault = stack.faults.add("dynamodb", code, action="PutItem", count=2)
        assert [self.put(stack, "f1").get("Code") for _ in range(3)] == [code, code, None]
        assert fault.hits == 2

    def test_a_fault_can_be_narrowed_and_restored(self, stack: LocalStack) -> None:
        stack.faults.add("dynamodb", "InternalServerError", action="GetItem")
        stack.faults.add("dynamodb", "InternalServerError", function="EchoFunction")
        assert "Code" not in self.put(stack, "f2")
        down = stack.faults.add("dynamodb", "InternalServerError")
        assert self.put(stack, "f3")["status"] == 500
        stack.faults.remove(down)
        assert "Code" not in self.put(stack, "f3")

    def test_an_answer_can_be_lost_after_the_write(self, stack: LocalStack) -> None:
        stack.faults.add("dynamodb", "InternalServerError", count=1, applied=True)
        assert self.put(stack, "f4")["Code"] == "InternalServerError"
        assert self.stored(stack, "f4")

    def test_eventbridge_fails_as_a_whole_or_entry_by_entry(self, stack: LocalStack) -> None:
        stack.faults.add("events", "InternalException", count=1)
        stack.faults.add("events", "ThrottlingException", count=1, status=200)
        assert aws(stack, "events", "put_events", Entries=[entry()])["status"] == 500
        answer = aws(stack, "events", "put_events", Entries=[entry(), entry()])
        assert answer["FailedEntryCount"] == 2
        assert [failed["ErrorCode"] for failed in answer["Entries"]] == ["ThrottlingException"] * 2

    def test_an_error_of_a_query_service_can_be_read(self, stack: LocalStack) -> None:
        topic = stack.template.physical["Topic"].ref
        stack.faults.add("sns", "Throttled", count=1, status=429, message="<slower> & slower")
        answer = aws(stack, "sns", "publish", TopicArn=topic, Message="{}")
        assert (answer["status"], answer["Code"], answer["Message"]) == (429, "Throttled", "<slower> & slower")

    def test_a_function_can_die_at_a_call_before_or_after_it_happens(self, stack: LocalStack) -> None:
        request = {"TableName": stack.orders_table, "Item": {"pk": {"S": "f6"}}}
        for happens in (False, True):
            stack.faults.add("dynamodb", "killed", "PutItem", count=1, applied=happens, kill=True)
            event = {"service": "dynamodb", "method": "put_item", "request": request}
            _, error = stack.invoke("AwsFunction", event)
            assert error is not None
            assert error["errorType"] == "Runtime.ExitError"
            assert self.stored(stack, "f6") is happens

    def test_tests_themselves_are_not_hit(self, stack: LocalStack) -> None:
        stack.faults.add("dynamodb", "InternalServerError")
        assert not self.stored(stack, "f5")

    def test_lambda_throttling_reaches_the_state_machine(self, stack: LocalStack) -> None:
        stack.faults.add("lambda", "TooManyRequestsException", function="Machine", status=429)
        assert run(stack, "Echo").states[-1] == "Throttled"


# ---------------------------------------------------------------------------- EventBridge, SNS, SQS


def entry(**more: str) -> dict[str, str]:
    return {"Source": "shop", "DetailType": "Sold", "Detail": '{"units": 2}', **more}


class TestMessages:
    def received(self, stack: LocalStack) -> list[Any]:
        url = stack.template.physical["Queue"].ref
        answer = stack.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)
        return [json.loads(message["Body"]) for message in answer.get("Messages", [])]

    def test_an_event_reaches_the_queue_of_a_rule(self, stack: LocalStack) -> None:
        events, arn = stack.client("events"), stack.template.physical["Queue"].attributes["Arn"]
        events.put_rule(Name="all", EventPattern=json.dumps({"source": [{"prefix": ""}]}))
        events.put_targets(Rule="all", Targets=[{"Id": "queue", "Arn": arn}])
        aws(stack, "events", "put_events", Entries=[entry()])
        (event,) = self.received(stack)
        assert (event["source"], event["detail-type"], event["detail"]) == ("shop", "Sold", {"units": 2})

    def test_a_message_reaches_the_queue_of_a_subscription(self, stack: LocalStack) -> None:
        sns, topic = stack.client("sns"), stack.template.physical["Topic"].ref
        arn = stack.template.physical["Queue"].attributes["Arn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        aws(stack, "sns", "publish", TopicArn=topic, Message='{"event": "SOLD"}')
        (notification,) = self.received(stack)
        assert json.loads(notification["Message"]) == {"event": "SOLD"}


# ------------------------------------------------------------------------------------ Step Functions


class TestStepFunctions:
    @pytest.mark.parametrize(("step", "end"), [("Fail", "Declined"), ("Slow", "TimedOut"), ("Exit", "Exited")])
    def test_catch_sees_the_name_of_the_error(self, stack: LocalStack, step: str, end: str) -> None:
        execution = run(stack, step)
        assert (execution.status, execution.states) == ("SUCCEEDED", ["Which", step, end])

    def test_retries_wait_scaled_time(self, stack: LocalStack) -> None:
        began = time.monotonic()
        run(stack, "Fail")
        assert sum(call.function == "Machine" for call in stack.calls) == 3
        assert 0.18 < time.monotonic() - began < 20

    def test_a_result_comes_back(self, stack: LocalStack) -> None:
        execution = run(stack, "Echo")
        assert execution.status == "SUCCEEDED"
        assert execution.output["event"]["run"] == execution.input == {"step": "Echo"}
        began = execution.output["event"]["began"]
        assert began.endswith("Z")
        assert datetime.fromisoformat(began).tzinfo == UTC

    def test_a_text_is_an_output_too(self, stack: LocalStack) -> None:
        execution = run(stack, "Text")
        assert execution.output == "only a text"
        found = stack.client("stepfunctions").describe_execution(executionArn=execution.arn)
        assert found["output"] == '"only a text"'

    def test_an_execution_ends_even_when_the_interpreter_breaks(
        self, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(ExecutionWorker, "_get_evaluation_environment", broken)
        execution = run(stack, "Echo")
        assert (execution.status, execution.error) == ("FAILED", "States.Runtime")

    def test_one_name_is_one_execution(self, stack: LocalStack) -> None:
        start = stack.client("stepfunctions").start_execution
        request = {
            "stateMachineArn": stack.state_machine_arn,
            "name": "once",
            "input": '{"step": "Slow"}',
        }
        first = start(**request)
        assert start(**request)["executionArn"] == first["executionArn"]
        other = {**request, "input": '{"step": "Echo"}'}
        assert error_of(start, **other) == "ExecutionAlreadyExists"
        stack.wait_idle(30)
        assert error_of(start, **request) == "ExecutionAlreadyExists"

    def test_one_name_started_by_many_at_once_is_one_execution(self, stack: LocalStack) -> None:
        start = stack.client("stepfunctions").start_execution
        arns: list[str] = []

        def begin() -> None:
            arns.append(
                start(stateMachineArn=stack.state_machine_arn, name="race", input='{"step": "Slow"}')["executionArn"]
            )

        threads = [threading.Thread(target=begin) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stack.wait_idle(30)
        assert len(arns) == 8
        assert sum(execution.name == "race" for execution in stack.executions()) == 1

    def test_executions_without_a_name_get_one_each(self, stack: LocalStack) -> None:
        assert run(stack, "Echo").name != run(stack, "Echo").name

    def test_history_can_be_read_backwards_and_in_pages(self, stack: LocalStack) -> None:
        arn = run(stack, "Echo").arn
        read = stack.client("stepfunctions").get_execution_history
        last = read(executionArn=arn, reverseOrder=True, maxResults=1)
        assert [event["type"] for event in last["events"]] == ["ExecutionSucceeded"]
        more = read(executionArn=arn, reverseOrder=True, nextToken=last["nextToken"])
        assert more["events"][-1]["type"] == "ExecutionStarted"

    def test_a_stopped_execution_keeps_its_reason(self, stack: LocalStack) -> None:
        states = stack.client("stepfunctions")
        arn = states.start_execution(stateMachineArn=stack.state_machine_arn, input='{"step": "Slow"}')["executionArn"]
        until(lambda: any(e.arn == arn and "Slow" in e.states for e in stack.executions()))
        states.stop_execution(executionArn=arn, error="Operator", cause="enough")
        stack.wait_idle(0)
        time.sleep(1.2)  # what its task ends with must not matter
        found = states.describe_execution(executionArn=arn)
        assert (found["status"], found["error"]) == ("ABORTED", "Operator")

    def test_many_executions_at_once(self, stack: LocalStack) -> None:
        start = stack.client("stepfunctions").start_execution
        for _ in range(20):
            start(stateMachineArn=stack.state_machine_arn, input='{"step": "Echo"}')
        stack.wait_idle(20)
        assert {execution.status for execution in stack.executions()[-20:]} == {"SUCCEEDED"}

    def test_waiting_in_vain_says_what_runs(self, stack: LocalStack) -> None:
        stack.client("stepfunctions").start_execution(
            stateMachineArn=stack.state_machine_arn, name="long", input='{"step": "Slow"}'
        )
        with pytest.raises(TimeoutError, match="long"):
            stack.wait_idle(0.1)
        stack.wait_idle(30)


class TestSchedules:
    def test_by_hand(self, stack: LocalStack) -> None:
        ((name, answer),) = stack.run_schedules().items()
        assert name == "TickFunctionOften"
        assert answer.result["detail-type"] == "Scheduled Event"


# ------------------------------------------------------------------------------------------- storage


class TestStorage:
    def test_the_table_is_what_the_template_says(self, stack: LocalStack) -> None:
        dynamodb = stack.client("dynamodb")
        table = dynamodb.describe_table(TableName=stack.orders_table)["Table"]
        assert [index["IndexName"] for index in table["GlobalSecondaryIndexes"]] == ["ByOwner"]
        assert table["SSEDescription"]["Status"] == "ENABLED"
        ttl = dynamodb.describe_time_to_live(TableName=stack.orders_table)
        assert ttl["TimeToLiveDescription"]["AttributeName"] == "expires"
        backups = dynamodb.describe_continuous_backups(TableName=stack.orders_table)
        recovery = backups["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]
        assert recovery["PointInTimeRecoveryStatus"] == "ENABLED"

    def test_a_transaction_sent_twice_happens_once(self, stack: LocalStack) -> None:
        write = stack.client("dynamodb").transact_write_items
        item = {"pk": {"S": "transaction"}}
        put = {"TableName": stack.orders_table, "Item": item}
        new = {**put, "ConditionExpression": "attribute_not_exists(pk)"}
        write(TransactItems=[{"Put": new}], ClientRequestToken="first")
        write(TransactItems=[{"Put": new}], ClientRequestToken="first")
        with pytest.raises(ClientError, match="TransactionCanceledException"):
            write(TransactItems=[{"Put": new}], ClientRequestToken="second")

    def test_a_transaction_that_fails_takes_back_only_what_it_did(self, stack: LocalStack) -> None:
        client, table = stack.client("dynamodb"), stack.orders_table

        def write(name: str, value: int) -> dict[str, Any]:
            change = {"UpdateExpression": "SET v = :v", "ExpressionAttributeValues": {":v": {"N": str(value)}}}
            return {"TableName": table, "Key": {"pk": {"S": name}}, **change}

        def value(name: str) -> str:
            return str(client.get_item(TableName=table, Key={"pk": {"S": name}})["Item"]["v"]["N"])

        for name in ("mine", "theirs"):
            client.update_item(**write(name, 1))
        ended = threading.Event()

        def fail() -> None:
            impossible = {"TableName": table, "Key": {"pk": {"S": "no"}}, "ConditionExpression": "attribute_exists(pk)"}
            while not ended.is_set():
                with pytest.raises(ClientError, match="TransactionCanceled"):
                    client.transact_write_items(
                        TransactItems=[{"Update": write("mine", 2)}, {"ConditionCheck": impossible}]
                    )

        failing = threading.Thread(target=fail)
        failing.start()
        try:
            for number in range(100):
                client.update_item(**write("theirs", number))
                client.update_item(**write(f"new-{number}", number))
        finally:
            ended.set()
            failing.join()
        assert (value("mine"), value("theirs")) == ("1", "99")
        assert [value(f"new-{number}") for number in range(100)] == [str(number) for number in range(100)]

    def write_rows(self, stack: LocalStack, names: list[str]) -> None:
        """Rows with a number in `n`, a batch at a time."""
        puts = [
            {"PutRequest": {"Item": {"pk": {"S": name}, "n": {"N": str(number)}}}} for number, name in enumerate(names)
        ]
        for start in range(0, len(puts), 25):
            stack.client("dynamodb").batch_write_item(RequestItems={stack.orders_table: puts[start : start + 25]})

    def scanned(self, stack: LocalStack, **request: Any) -> list[str]:
        """The keys that a scan finds, page by page, in order."""
        pages = stack.client("dynamodb").get_paginator("scan").paginate(TableName=stack.orders_table, **request)
        return [row["pk"]["S"] for page in pages for row in page["Items"]]

    @pytest.mark.parametrize("page", [{}, {"Limit": 7}])
    def test_segments_of_a_scan_are_all_of_it_and_have_nothing_in_common(self, stack: LocalStack, page: Any) -> None:
        names = [f"scan-{number}" for number in range(100)]
        self.write_rows(stack, names)
        request = {
            "FilterExpression": "begins_with(pk, :prefix) AND n < :n",
            "ExpressionAttributeValues": {":prefix": {"S": "scan-"}, ":n": {"N": "90"}},
            "ProjectionExpression": "pk",
            "ConsistentRead": True,
            **page,
        }
        parts = [self.scanned(stack, Segment=part, TotalSegments=4, **request) for part in range(4)]
        assert all(parts)
        assert sorted(name for part in parts for name in part) == sorted(names[:90])

    def test_a_page_of_a_scan_costs_what_it_reads(self, stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write_rows(stack, [f"cost-{number}" for number in range(100)])
        looked: list[Any] = []
        within = Item.is_within_segment
        monkeypatch.setattr(Item, "is_within_segment", lambda row, of: looked.append(row) or within(row, of))
        found = self.scanned(stack, Limit=5)
        pages = len(found) // 5 + 1
        assert len(looked) <= len(found) + 2 * pages

    def test_an_index_has_pages(self, stack: LocalStack) -> None:
        client, table = stack.client("dynamodb"), stack.orders_table
        for number in reversed(range(7)):
            client.put_item(TableName=table, Item={"pk": {"S": f"owned-{number}"}, "owner": {"S": "somebody"}})
        pages = client.get_paginator("query").paginate(
            TableName=table,
            IndexName="ByOwner",
            KeyConditionExpression="#owner = :owner",
            ExpressionAttributeNames={"#owner": "owner"},
            ExpressionAttributeValues={":owner": {"S": "somebody"}},
            PaginationConfig={"PageSize": 2},
        )
        found = [row["pk"]["S"] for page in pages for row in page["Items"]]
        assert sorted(found) == [f"owned-{number}" for number in range(7)]

    def test_a_scan_goes_on_while_rows_come_and_go(self, stack: LocalStack) -> None:
        client, table = stack.client("dynamodb"), stack.orders_table
        names = [f"live-{number:02}" for number in range(20)]
        self.write_rows(stack, names)
        request: dict[str, Any] = {"TableName": table, "Limit": 5}
        found: list[str] = []
        while True:
            answer = client.scan(**request)
            found += [row["pk"]["S"] for row in answer["Items"] if row["pk"]["S"].startswith("live-")]
            if "LastEvaluatedKey" not in answer:
                break
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
            last = answer["LastEvaluatedKey"]["pk"]
            self.write_rows(stack, ["live-0", f"{last['S']}-new"])
            for name in (last["S"], names[-1]):
                client.delete_item(TableName=table, Key={"pk": {"S": name}})
                client.put_item(TableName=table, Item={"pk": {"S": name}})
            client.delete_item(TableName=table, Key={"pk": {"S": names[-2]}})
        assert [name for name in found if name in names] == [*names[:-2], names[-1]]
        assert len(found) == len(set(found))

    def test_a_batch_writes_25_rows_and_each_once(self, stack: LocalStack) -> None:
        write, table = stack.client("dynamodb").batch_write_item, stack.orders_table
        puts = [{"PutRequest": {"Item": {"pk": {"S": f"batch-{number}"}}}} for number in range(26)]
        again = {"PutRequest": {"Item": {"pk": {"S": "batch-0"}, "other": {"S": "than before"}}}}
        gone = {"DeleteRequest": {"Key": {"pk": {"S": "batch-0"}}}}
        for requests in (puts, [puts[0], again], [puts[0], gone]):
            assert error_of(write, RequestItems={table: requests}) == "ValidationException"
        assert [name for name in self.scanned(stack) if name.startswith("batch-")] == []
        assert write(RequestItems={table: puts[:25]})["UnprocessedItems"] == {}
        keys = [{"pk": {"S": f"batch-{number}"}} for number in range(100)]
        answer = stack.client("dynamodb").batch_get_item(RequestItems={table: {"Keys": keys, "ConsistentRead": True}})
        assert sorted(row["pk"]["S"] for row in answer["Responses"][table]) == sorted(
            put["PutRequest"]["Item"]["pk"]["S"] for put in puts[:25]
        )

    @pytest.mark.parametrize("operation", ["batch_get_item", "batch_write_item"])
    def test_what_a_batch_reads_and_writes_is_consistent(
        self, stack: LocalStack, monkeypatch: pytest.MonkeyPatch, operation: str
    ) -> None:
        alone: list[bool] = []
        for name in ("get_item", "put_item"):
            method = getattr(Table, name)

            def watched(*args: Any, method: Any = method, **more: Any) -> Any:
                alone.append(moto_fixes._table_lock._is_owned())
                return method(*args, **more)

            monkeypatch.setattr(Table, name, watched)
        row = {"pk": {"S": "alone"}}
        what = {"batch_get_item": {"Keys": [row]}, "batch_write_item": [{"PutRequest": {"Item": row}}]}
        getattr(stack.client("dynamodb"), operation)(RequestItems={stack.orders_table: what[operation]})
        assert alone
        assert all(alone)

    def test_a_transaction_that_fails_leaves_no_new_row(self, stack: LocalStack) -> None:
        client, table = stack.client("dynamodb"), stack.orders_table
        key, missing = {"pk": {"S": "never"}}, {"pk": {"S": "missing"}}
        check = {"TableName": table, "Key": missing, "ConditionExpression": "attribute_exists(pk)"}
        put = {"TableName": table, "Item": key}
        with pytest.raises(ClientError, match="TransactionCanceled"):
            client.transact_write_items(TransactItems=[{"Put": put}, {"ConditionCheck": check}])
        assert "Item" not in client.get_item(TableName=table, Key=key)

    def test_secrets_are_random_until_set(self, stack: LocalStack) -> None:
        def read() -> str:
            return str(
                aws(
                    stack,
                    "secretsmanager",
                    "get_secret_value",
                    SecretId=stack.template.physical["Secret"].ref,
                )["SecretString"]
            )

        assert len(read()) == 40
        stack.put_secret("Secret", "known")
        assert read() == "known"


# ------------------------------------------------------------------------------------------- Cognito


RESERVED = [
    *("acr", "amr", "at_hash", "aud", "auth_time", "azp", "cognito:username", "client_id", "dev:own", "device_key"),
    *("event_id", "exp", "iat", "identities", "iss", "jti", "nbf", "nonce", "origin_jti", "scope", "sub", "token_use"),
    *("username", "version"),
]
"""Claims that no trigger changes, by Cognito's guide."""

TOKENS = {"id": "IdToken", "access": "AccessToken"}


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims


class Trigger:
    """A pre-token-generation trigger in place of ClaimsFunction: what it was asked, and what it answers."""

    def __init__(self, stack: LocalStack) -> None:
        self.pool = cognitoidp_backends[stack.account_id][stack.region].user_pools[stack.user_pool_id]
        self.config = self.pool.extended_config["LambdaConfig"]["PreTokenGenerationConfig"]
        self.asked: list[Any] = []
        self.answer: Callable[[Any], Any] = lambda event: event

    def __call__(self, _: str, payload: bytes) -> Answer:
        event = json.loads(payload)
        self.asked.append(event)
        return Answer(json.dumps(self.answer(event)).encode(), failed=False)

    def says(self, **details: Any) -> None:
        """From now on, where its version wants it."""
        name = "claimsOverrideDetails" if self.config["LambdaVersion"] == "V1_0" else "claimsAndScopeOverrideDetails"
        self.answer = lambda event: {**event, "response": {name: details}}

    @property
    def tokens(self) -> int:
        """How many tokens the pool has made."""
        return len(self.pool.access_tokens) + len(self.pool.id_tokens)


class TestCognito:
    """Each test works on a user of its own."""

    PASSWORD = "Long-enough-4-all"

    def create(self, stack: LocalStack, email: str, **more: Any) -> Any:
        more.setdefault("DesiredDeliveryMediums", ["EMAIL"])
        return stack.client("cognito-idp").admin_create_user(UserPoolId=stack.user_pool_id, Username=email, **more)[
            "User"
        ]

    def attributes(self, stack: LocalStack, email: str) -> dict[str, str]:
        user = stack.client("cognito-idp").admin_get_user(UserPoolId=stack.user_pool_id, Username=email)
        return {entry["Name"]: entry["Value"] for entry in user["UserAttributes"]}

    def update(self, stack: LocalStack, email: str, /, **values: str) -> None:
        stack.client("cognito-idp").admin_update_user_attributes(
            UserPoolId=stack.user_pool_id, Username=email, UserAttributes=listed(values)
        )

    def sign_in(self, stack: LocalStack, email: str, password: str = PASSWORD) -> Any:
        return stack.client("cognito-idp").initiate_auth(
            ClientId=stack.user_pool_client_id,
            AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": email, "PASSWORD": password},
        )

    def refresh(self, stack: LocalStack, token: str) -> Any:
        return stack.client("cognito-idp").initiate_auth(
            ClientId=stack.user_pool_client_id,
            AuthFlow="REFRESH_TOKEN_AUTH",
            AuthParameters={"REFRESH_TOKEN": token},
        )

    def confirmed(self, stack: LocalStack, email: str, **attributes: str) -> Any:
        """A user with a password; returns the tokens of a first sign-in."""
        self.create(stack, email, UserAttributes=listed(attributes))
        stack.client("cognito-idp").admin_set_user_password(
            UserPoolId=stack.user_pool_id, Username=email, Password=self.PASSWORD, Permanent=True
        )
        return self.sign_in(stack, email)["AuthenticationResult"]

    def test_a_user_is_found_in_any_case_and_by_sub(self, stack: LocalStack) -> None:
        user = self.create(stack, "Case@Example.com")
        assert self.attributes(stack, "cASE@example.COM")["email"] == "Case@Example.com"
        assert self.attributes(stack, user["Username"])["sub"] == user["Username"]

    def test_a_second_user_in_another_case_exists_already(self, stack: LocalStack) -> None:
        self.create(stack, "twice@example.com")
        create = stack.client("cognito-idp").admin_create_user
        request = {"UserPoolId": stack.user_pool_id, "Username": "TWICE@example.com"}
        assert error_of(create, **request) == "UsernameExistsException"

    def test_two_creations_at_once_make_one_user(self, stack: LocalStack) -> None:
        errors: list[str] = []

        def create() -> None:
            try:
                self.create(stack, "race@example.com")
            except ClientError as error:
                errors.append(error.response["Error"]["Code"])

        threads = [threading.Thread(target=create) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == ["UsernameExistsException"] * 5

    def test_every_address_is_an_address(self, stack: LocalStack) -> None:
        self.create(stack, "o'neil+ü@exämple.com")
        create = stack.client("cognito-idp").admin_create_user
        request = {"UserPoolId": stack.user_pool_id, "Username": "no address"}
        assert error_of(create, **request) == "InvalidParameterException"

    @pytest.mark.parametrize(
        "attribute",
        [
            {"custom:undeclared": "1"},
            {"custom:units": "many"},
            {"custom:units": "101"},
            {"custom:units": "-1"},
            {"custom:note": "too long"},
            {"email_verified": "maybe"},
            {"sub": "mine"},
        ],
    )
    def test_attributes_follow_the_schema(self, stack: LocalStack, attribute: dict[str, str]) -> None:
        email = f"schema-{abs(hash(str(attribute)))}@example.com"
        create = stack.client("cognito-idp").admin_create_user
        request = {"UserPoolId": stack.user_pool_id, "Username": email}
        listed_ = listed(attribute)
        assert error_of(create, **request, UserAttributes=listed_) == "InvalidParameterException"
        self.create(stack, email)
        update = stack.client("cognito-idp").admin_update_user_attributes
        assert error_of(update, **request, UserAttributes=listed_) == "InvalidParameterException"

    def test_good_attributes_are_taken_and_standard_ones_exist(self, stack: LocalStack) -> None:
        values = {"custom:units": "100", "custom:note": "", "name": "N", "email_verified": "true"}
        self.create(stack, "good@example.com", UserAttributes=listed(values))
        assert values.items() <= self.attributes(stack, "good@example.com").items()

    def test_an_immutable_attribute_stays(self, stack: LocalStack) -> None:
        self.create(stack, "origin@example.com", UserAttributes=listed({"custom:origin": "checkout"}))
        with pytest.raises(ClientError, match="cannot be updated"):
            self.update(stack, "origin@example.com", **{"custom:origin": "other"})

    def test_a_blank_value_deletes(self, stack: LocalStack) -> None:
        self.create(stack, "blank@example.com", UserAttributes=listed({"custom:note": "x"}))
        self.update(stack, "blank@example.com", **{"custom:note": ""})
        assert "custom:note" not in self.attributes(stack, "blank@example.com")

    def test_a_changed_email_is_unverified(self, stack: LocalStack) -> None:
        verified = listed({"email_verified": "true"})
        self.create(stack, "old@example.com", UserAttributes=verified)
        self.update(stack, "old@example.com", email="new@example.com")
        assert self.attributes(stack, "new@example.com")["email_verified"] == "false"
        self.update(stack, "new@example.com", email="newer@example.com", email_verified="true")
        assert self.attributes(stack, "newer@example.com")["email_verified"] == "true"

    def test_sign_in_follows_the_address(self, stack: LocalStack) -> None:
        self.confirmed(stack, "moving@example.com", email_verified="true")
        sub = self.attributes(stack, "moving@example.com")["sub"]
        self.update(stack, sub, email="moved@example.com")
        assert self.sign_in(stack, "moved@example.com")["AuthenticationResult"]
        with pytest.raises(ClientError, match="NotAuthorizedException"):
            self.sign_in(stack, "moving@example.com")
        assert self.create(stack, "moving@example.com")["Username"] != sub

    def test_an_email_belongs_to_one_user(self, stack: LocalStack) -> None:
        self.create(stack, "holder@example.com")
        self.create(stack, "other@example.com")
        with pytest.raises(ClientError, match="AliasExistsException"):
            self.update(stack, "other@example.com", email="HOLDER@example.com", **{"custom:units": "9"})
        assert "custom:units" not in self.attributes(stack, "other@example.com")
        self.update(stack, "other@example.com", email="other@example.com")

    def test_an_invitation_has_a_password_that_works(self, stack: LocalStack) -> None:
        self.create(stack, "welcome@example.com")
        (mail,) = stack.outbox
        assert (mail.to, mail.resend) == ("welcome@example.com", False)
        challenge = self.sign_in(stack, "welcome@example.com", mail.temporary_password)
        assert challenge["ChallengeName"] == "NEW_PASSWORD_REQUIRED"
        assert challenge["ChallengeParameters"]["USER_ID_FOR_SRP"] == mail.username
        done = stack.client("cognito-idp").respond_to_auth_challenge(
            ClientId=stack.user_pool_client_id,
            ChallengeName="NEW_PASSWORD_REQUIRED",
            Session=challenge["Session"],
            ChallengeResponses={
                "USERNAME": "welcome@example.com",
                "NEW_PASSWORD": self.PASSWORD,
            },
        )
        assert "AccessToken" in done["AuthenticationResult"]

    def test_no_mail_when_suppressed_or_not_asked_for(self, stack: LocalStack) -> None:
        self.create(stack, "quiet@example.com", MessageAction="SUPPRESS")
        self.create(stack, "sms@example.com", DesiredDeliveryMediums=["SMS"])
        stack.client("cognito-idp").admin_create_user(UserPoolId=stack.user_pool_id, Username="default@example.com")
        assert stack.outbox == []

    def test_a_weak_temporary_password_is_refused(self, stack: LocalStack) -> None:
        with pytest.raises(ClientError, match="InvalidPasswordException"):
            self.create(stack, "weak@example.com", TemporaryPassword="Short1")

    def test_resend_is_for_users_who_never_signed_in(self, stack: LocalStack) -> None:
        self.create(stack, "again@example.com")
        self.create(stack, "again@example.com", MessageAction="RESEND")
        first, second = stack.outbox
        assert second.resend
        assert first.temporary_password != second.temporary_password
        users = stack.client("cognito-idp").list_users(
            UserPoolId=stack.user_pool_id, Filter='email = "again@example.com"'
        )
        assert len(users["Users"]) == 1
        self.sign_in(stack, "again@example.com", second.temporary_password)
        self.confirmed(stack, "member@example.com")
        with pytest.raises(ClientError, match="UnsupportedUserStateException"):
            self.create(stack, "member@example.com", MessageAction="RESEND")
        with pytest.raises(ClientError, match="UserNotFoundException"):
            self.create(stack, "ghost@example.com", MessageAction="RESEND")

    def test_a_user_who_never_signed_in_is_told_apart(self, stack: LocalStack) -> None:
        def look(email: str) -> Any:
            return stack.client("cognito-idp").admin_get_user(UserPoolId=stack.user_pool_id, Username=email)

        began = datetime.now(UTC).replace(microsecond=0)
        self.create(stack, "waiting@example.com")
        self.confirmed(stack, "inside@example.com")
        assert look("waiting@example.com")["UserStatus"] == "FORCE_CHANGE_PASSWORD"
        assert look("inside@example.com")["UserStatus"] == "CONFIRMED"
        created = look("waiting@example.com")["UserCreateDate"]
        assert began <= created <= datetime.now(UTC)
        stack.backdate("waiting@example.com", days=8)
        self.create(stack, "waiting@example.com", MessageAction="RESEND")
        waiting = look("waiting@example.com")
        assert created - waiting["UserCreateDate"] > timedelta(days=7)
        assert waiting["UserLastModifiedDate"] >= began

    @pytest.mark.parametrize(("days", "signs_in"), [(6.9, True), (7.1, False)])
    def test_a_temporary_password_expires_until_it_is_sent_again(
        self, stack: LocalStack, days: float, signs_in: bool
    ) -> None:
        email = f"expiring-{signs_in}@example.com"
        self.create(stack, email)
        stack.backdate(email, days)
        if signs_in:
            assert self.sign_in(stack, email, stack.outbox[0].temporary_password)["ChallengeName"]
            return
        with pytest.raises(ClientError, match="Temporary password has expired"):
            self.sign_in(stack, email, stack.outbox[0].temporary_password)
        self.create(stack, email, MessageAction="RESEND")
        assert self.sign_in(stack, email, stack.outbox[1].temporary_password)["ChallengeName"]
        with pytest.raises(ClientError, match="Incorrect username or password"):
            self.sign_in(stack, email, stack.outbox[0].temporary_password)

    def test_a_mail_that_cannot_be_delivered_leaves_a_user(self, stack: LocalStack) -> None:
        stack.mail.fail(2)
        for action in ({}, {"MessageAction": "RESEND"}):
            with pytest.raises(ClientError, match="CodeDeliveryFailureException"):
                self.create(stack, "unreachable@example.com", **action)
            assert self.attributes(stack, "unreachable@example.com")["email"] == "unreachable@example.com"
        assert stack.outbox == []
        self.create(stack, "unreachable@example.com", MessageAction="RESEND")
        assert [(mail.to, mail.resend) for mail in stack.outbox] == [("unreachable@example.com", True)]

    def test_a_mail_over_the_quota_makes_no_user(self, stack: LocalStack) -> None:
        stack.mail.exhaust(2)
        request = {"UserPoolId": stack.user_pool_id, "Username": "tomorrow@example.com"}
        for _ in range(2):
            # Not by boto3's usual client, which takes this error for throttling and tries again.
            answer = aws(stack, "cognito-idp", "admin_create_user", **request, DesiredDeliveryMediums=["EMAIL"])
            assert (answer["status"], answer["Code"]) == (400, "LimitExceededException")
            with pytest.raises(ClientError, match="UserNotFoundException"):
                self.attributes(stack, "tomorrow@example.com")
        self.create(stack, "tomorrow@example.com")
        assert len(stack.outbox) == 1

    def test_a_user_made_without_a_mail_needs_none(self, stack: LocalStack) -> None:
        stack.mail.exhaust(100)
        self.create(stack, "imported@example.com", MessageAction="SUPPRESS")
        with pytest.raises(ClientError, match="LimitExceededException"):
            self.create(stack, "imported@example.com", MessageAction="RESEND")

    def test_disabling_revokes_and_enabling_does_not_restore(self, stack: LocalStack) -> None:
        cognito = stack.client("cognito-idp")
        tokens = self.confirmed(stack, "out@example.com")
        sub = self.attributes(stack, "out@example.com")["sub"]
        self.refresh(stack, tokens["RefreshToken"])
        cognito.admin_disable_user(UserPoolId=stack.user_pool_id, Username=sub)
        for call in (
            lambda: self.sign_in(stack, "out@example.com"),
            lambda: self.refresh(stack, tokens["RefreshToken"]),
            lambda: cognito.get_user(AccessToken=tokens["AccessToken"]),
        ):
            assert error_of(call) == "NotAuthorizedException"
        cognito.admin_enable_user(UserPoolId=stack.user_pool_id, Username=sub)
        with pytest.raises(ClientError, match="revoked"):
            self.refresh(stack, tokens["RefreshToken"])
        self.sign_in(stack, "out@example.com")

    @pytest.mark.parametrize("name", ["sub", "email"])
    def test_signing_out_ends_sessions_opened_by_any_name(self, stack: LocalStack, name: str) -> None:
        cognito = stack.client("cognito-idp")
        tokens = self.confirmed(stack, f"Session-{name}@example.com")
        cognito.admin_user_global_sign_out(
            UserPoolId=stack.user_pool_id,
            Username=self.attributes(stack, f"session-{name}@example.com")[name],
        )
        for call in (
            lambda: self.refresh(stack, tokens["RefreshToken"]),
            lambda: cognito.get_user(AccessToken=tokens["AccessToken"]),
        ):
            assert error_of(call) == "NotAuthorizedException"

    def test_a_deleted_user_has_no_tokens(self, stack: LocalStack) -> None:
        tokens = self.confirmed(stack, "gone@example.com")
        stack.client("cognito-idp").admin_delete_user(UserPoolId=stack.user_pool_id, Username="gone@example.com")
        with pytest.raises(ClientError, match="NotAuthorizedException"):
            self.refresh(stack, tokens["RefreshToken"])

    def test_a_user_disabled_at_the_challenge_does_not_get_in(self, stack: LocalStack) -> None:
        cognito = stack.client("cognito-idp")
        self.create(stack, "late@example.com")
        challenge = self.sign_in(stack, "late@example.com", stack.outbox[0].temporary_password)
        cognito.admin_disable_user(UserPoolId=stack.user_pool_id, Username="late@example.com")
        answer = {"USERNAME": "late@example.com", "NEW_PASSWORD": self.PASSWORD}
        code = error_of(
            cognito.respond_to_auth_challenge,
            ClientId=stack.user_pool_client_id,
            ChallengeName="NEW_PASSWORD_REQUIRED",
            Session=challenge["Session"],
            ChallengeResponses=answer,
        )
        assert code == "NotAuthorizedException"

    def test_flows_that_the_client_does_not_allow_are_refused(self, stack: LocalStack) -> None:
        self.confirmed(stack, "flow@example.com")
        code = error_of(
            stack.client("cognito-idp").admin_initiate_auth,
            UserPoolId=stack.user_pool_id,
            ClientId=stack.user_pool_client_id,
            AuthFlow="ADMIN_USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": "flow@example.com", "PASSWORD": self.PASSWORD},
        )
        assert code == "InvalidParameterException"

    def test_an_unknown_user_looks_like_a_wrong_password(self, stack: LocalStack) -> None:
        code = error_of(lambda: self.sign_in(stack, "unknown@example.com"))
        assert code == "NotAuthorizedException"

    def test_the_id_token_holds_what_the_client_may_read(self, stack: LocalStack) -> None:
        values = {"email_verified": "true", "custom:units": "7", "custom:note": "inner"}
        tokens = self.confirmed(stack, "Claims@example.com", **values)
        claims = claims_of(tokens["IdToken"])
        assert claims["email"] == "Claims@example.com"
        assert claims["email_verified"] is True
        assert claims["custom:units"] == "7"
        assert "custom:note" not in claims
        assert claims["exp"] - claims["iat"] == tokens["ExpiresIn"] == 15 * 60
        user = stack.client("cognito-idp").get_user(AccessToken=tokens["AccessToken"])
        names = {entry["Name"] for entry in user["UserAttributes"]}
        assert names == {"sub", "email", "email_verified", "custom:units"}

    def test_the_email_in_the_id_token_is_the_users_whatever_they_signed_in_with(self, stack: LocalStack) -> None:
        self.confirmed(stack, "signed@example.com")
        sub = self.attributes(stack, "signed@example.com")["sub"]
        for name in (sub, "SIGNED@example.com"):
            tokens = self.sign_in(stack, name)["AuthenticationResult"]
            assert claims_of(tokens["IdToken"])["email"] == "signed@example.com"

    def test_the_trigger_adds_claims_to_both_tokens_but_changes_no_reserved_one(self, stack: LocalStack) -> None:
        tokens = self.confirmed(stack, "trigger@example.com")
        fresh = self.refresh(stack, tokens["RefreshToken"])["AuthenticationResult"]
        sub = self.attributes(stack, "trigger@example.com")["sub"]
        for answer, source in ((tokens, "TokenGeneration_Authentication"), (fresh, "TokenGeneration_RefreshTokens")):
            for name, use in (("IdToken", "id"), ("AccessToken", "access")):
                claims = claims_of(answer[name])
                assert (claims["source"], claims["units"]) == (source, 7)
                assert (claims["sub"], claims["token_use"]) == (sub, use)
                assert claims["exp"] - claims["iat"] == 15 * 60

    def test_while_the_trigger_fails_nobody_signs_in(self, stack: LocalStack) -> None:
        self.confirmed(stack, "broken@example.com")
        self.update(stack, "broken@example.com", **{"custom:note": "fail"})
        code = error_of(lambda: self.sign_in(stack, "broken@example.com"))
        assert code == "UserLambdaValidationException"

    @pytest.fixture
    def trigger(self, stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Trigger:
        trigger = Trigger(stack)
        monkeypatch.setattr(moto_fixes, "invoke", trigger)
        return trigger

    @pytest.fixture
    def first_version(self, trigger: Trigger, monkeypatch: pytest.MonkeyPatch) -> Trigger:
        monkeypatch.setitem(trigger.config, "LambdaVersion", "V1_0")
        return trigger

    def test_the_trigger_is_asked_once_for_all_tokens_of_a_sign_in(self, stack: LocalStack, trigger: Trigger) -> None:
        self.confirmed(stack, "asked@example.com", **{"custom:note": "n"})
        sub = self.attributes(stack, "asked@example.com")["sub"]
        (event,) = trigger.asked
        attributes = {"sub": sub, "email": "asked@example.com", "custom:note": "n", "cognito:user_status": "CONFIRMED"}
        assert attributes.items() <= event["request"].pop("userAttributes").items()
        assert event == {
            "version": "2",
            "triggerSource": "TokenGeneration_Authentication",
            "region": stack.region,
            "userPoolId": stack.user_pool_id,
            "userName": sub,
            "callerContext": {"awsSdkVersion": "aws-sdk-unknown-unknown", "clientId": stack.user_pool_client_id},
            "request": {
                "groupConfiguration": {"groupsToOverride": [], "iamRolesToOverride": [], "preferredRole": None},
                "scopes": ["aws.cognito.signin.user.admin"],
            },
            "response": {"claimsAndScopeOverrideDetails": None},
        }

    def test_each_token_gets_its_own_claims(self, stack: LocalStack, trigger: Trigger) -> None:
        trigger.says(
            idTokenGeneration={"claimsToAddOrOverride": {"a": [1, {"b": True}]}, "claimsToSuppress": ["email"]},
            accessTokenGeneration={"claimsToAddOrOverride": {"c": None}},
        )
        tokens = self.confirmed(stack, "own@example.com")
        identity, access = (claims_of(tokens[name]) for name in TOKENS.values())
        assert (identity["a"], access["c"]) == ([1, {"b": True}], None)
        assert {"email", "c"}.isdisjoint(identity)
        assert "a" not in access

    def test_the_trigger_learns_by_which_way_somebody_signs_in(self, stack: LocalStack, trigger: Trigger) -> None:
        cognito, email, pool = stack.client("cognito-idp"), "ways@example.com", stack.user_pool_id
        flows = ["ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
        admin = cognito.create_user_pool_client(UserPoolId=pool, ClientName="admin", ExplicitAuthFlows=flows)
        ids = {"UserPoolId": pool, "ClientId": admin["UserPoolClient"]["ClientId"]}

        def source() -> str:
            (event,) = trigger.asked
            trigger.asked.clear()
            return str(event["triggerSource"])

        def challenged(challenge: Any, call: Any, **more: Any) -> Any:
            assert trigger.asked == []  # no tokens yet
            answer = {"USERNAME": email, "NEW_PASSWORD": self.PASSWORD}
            name, session = challenge["ChallengeName"], challenge["Session"]
            return call(**more, ChallengeName=name, Session=session, ChallengeResponses=answer)["AuthenticationResult"]

        def as_admin(flow: str, **parameters: str) -> Any:
            return cognito.admin_initiate_auth(**ids, AuthFlow=flow, AuthParameters=parameters)

        self.create(stack, email)
        challenge = self.sign_in(stack, email, stack.outbox[-1].temporary_password)
        challenged(challenge, cognito.respond_to_auth_challenge, ClientId=stack.user_pool_client_id)
        assert source() == "TokenGeneration_NewPasswordChallenge"
        tokens = self.sign_in(stack, email)["AuthenticationResult"]
        assert source() == "TokenGeneration_Authentication"
        self.refresh(stack, tokens["RefreshToken"])
        assert source() == "TokenGeneration_RefreshTokens"

        temporary = "Temporary-4-now"
        cognito.admin_set_user_password(UserPoolId=pool, Username=email, Password=temporary, Permanent=False)
        challenge = as_admin("ADMIN_USER_PASSWORD_AUTH", USERNAME=email, PASSWORD=temporary)
        challenged(challenge, cognito.admin_respond_to_auth_challenge, **ids)
        assert source() == "TokenGeneration_NewPasswordChallenge"
        tokens = as_admin("ADMIN_USER_PASSWORD_AUTH", USERNAME=email, PASSWORD=self.PASSWORD)["AuthenticationResult"]
        assert source() == "TokenGeneration_Authentication"
        as_admin("REFRESH_TOKEN_AUTH", REFRESH_TOKEN=tokens["RefreshToken"])
        assert source() == "TokenGeneration_RefreshTokens"

    def test_version_1_adds_texts_to_the_id_token_alone(self, stack: LocalStack, first_version: Trigger) -> None:
        first_version.says(claimsToAddOrOverride={"limit": "3", "name": "N"}, claimsToSuppress=["email", "scope"])
        tokens = self.confirmed(stack, "first@example.com")
        (event,) = first_version.asked
        assert (event["version"], event["response"]) == ("1", {"claimsOverrideDetails": None})
        assert event["request"].keys() == {"userAttributes", "groupConfiguration"}
        identity, access = (claims_of(tokens[name]) for name in TOKENS.values())
        assert (identity["limit"], identity["name"], "email" in identity) == ("3", "N", False)
        assert {"limit", "name"}.isdisjoint(access)
        assert access["scope"] == "aws.cognito.signin.user.admin"

    @pytest.mark.parametrize("value", [3, True, None, ["3"], {"n": "3"}])
    def test_in_version_1_only_texts_are_claims(self, stack: LocalStack, first_version: Trigger, value: Any) -> None:
        email = f"texts-{type(value).__name__}@example.com"
        self.confirmed(stack, email)
        before = first_version.tokens
        first_version.says(claimsToAddOrOverride={"limit": value})
        assert error_of(lambda: self.sign_in(stack, email)) == "InvalidLambdaResponseException"
        assert first_version.tokens == before

    def test_no_trigger_changes_or_removes_a_reserved_claim(self, stack: LocalStack, trigger: Trigger) -> None:
        plain = self.confirmed(stack, "reserved@example.com")
        change = {"claimsToAddOrOverride": dict.fromkeys(RESERVED, "forged"), "claimsToSuppress": []}
        remove = {"claimsToAddOrOverride": {}, "claimsToSuppress": RESERVED}
        for said in (change, remove):
            trigger.says(idTokenGeneration=said, accessTokenGeneration=said)
            tokens = self.sign_in(stack, "reserved@example.com")["AuthenticationResult"]
            for name in TOKENS.values():
                claims, as_ever = claims_of(tokens[name]), claims_of(plain[name])
                assert claims.keys() == as_ever.keys()
                assert "forged" not in claims.values()
                assert {key for key in claims if claims[key] != as_ever[key]} <= {
                    "auth_time", "exp", "iat", "jti", "origin_jti"
                }  # fmt: skip

    @pytest.mark.parametrize(
        ("details", "groups"),
        [
            ({}, ["staff"]),
            ({"groupOverrideDetails": {"groupsToOverride": ["staff"]}}, ["staff"]),
            ({"groupOverrideDetails": {"groupsToOverride": ["guests", "new"]}}, ["guests", "new"]),
            ({"groupOverrideDetails": {"groupsToOverride": []}}, None),
            ({"groupOverrideDetails": {}}, None),
            ({"groupOverrideDetails": None}, None),
        ],
    )
    @pytest.mark.parametrize("version", ["V1_0", "V2_0"])
    def test_groups_are_those_that_the_trigger_hands_back(
        self,
        stack: LocalStack,
        trigger: Trigger,
        monkeypatch: pytest.MonkeyPatch,
        version: str,
        details: Any,
        groups: list[str] | None,
    ) -> None:
        monkeypatch.setitem(trigger.config, "LambdaVersion", version)
        cognito, email = stack.client("cognito-idp"), f"groups-{version}-{abs(hash(str(details)))}@example.com"
        if "staff" not in {group.group_name for group in trigger.pool.groups.values()}:
            cognito.create_group(UserPoolId=stack.user_pool_id, GroupName="staff")
        self.confirmed(stack, email)
        cognito.admin_add_user_to_group(UserPoolId=stack.user_pool_id, Username=email, GroupName="staff")
        trigger.says(**details)
        tokens = self.sign_in(stack, email)["AuthenticationResult"]
        assert trigger.asked[-1]["request"]["groupConfiguration"]["groupsToOverride"] == ["staff"]
        assert [claims_of(tokens[name]).get("cognito:groups") for name in TOKENS.values()] == [groups, groups]

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            "text",
            [],
            {},
            {"response": None},
            {"response": "text"},
            {"response": {"claimsAndScopeOverrideDetails": "text"}},
            {"response": {"claimsAndScopeOverrideDetails": {"idTokenGeneration": ["a"]}}},
            {"response": {"claimsAndScopeOverrideDetails": {"idTokenGeneration": {"claimsToAddOrOverride": ["a"]}}}},
            {"response": {"claimsAndScopeOverrideDetails": {"accessTokenGeneration": {"claimsToSuppress": "email"}}}},
            {"response": {"claimsAndScopeOverrideDetails": {"groupOverrideDetails": ["staff"]}}},
            {"response": {"claimsAndScopeOverrideDetails": {"groupOverrideDetails": {"groupsToOverride": "staff"}}}},
        ],
    )
    def test_an_answer_that_cannot_be_used_makes_no_token(
        self, stack: LocalStack, trigger: Trigger, answer: Any
    ) -> None:
        email = f"answer-{abs(hash(str(answer)))}@example.com"
        tokens = self.confirmed(stack, email)
        before, trigger.answer = trigger.tokens, lambda _: answer
        for call in (lambda: self.sign_in(stack, email), lambda: self.refresh(stack, tokens["RefreshToken"])):
            assert error_of(call) == "InvalidLambdaResponseException"
        assert trigger.tokens == before

    @pytest.mark.parametrize("answer", [{"response": {}}, {"response": {"claimsAndScopeOverrideDetails": None}}])
    def test_a_trigger_may_have_nothing_to_say(self, stack: LocalStack, trigger: Trigger, answer: Any) -> None:
        trigger.answer = lambda _: answer
        assert self.confirmed(stack, f"silent-{len(answer['response'])}@example.com")["AccessToken"]
        assert len(trigger.asked) == 1

    def test_a_trigger_that_cannot_be_invoked_makes_no_token(
        self, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def throttled(*_: Any) -> Any:
            raise TooManyRequestsError("ClaimsFunction")

        trigger, email = Trigger(stack), "unreachable-trigger@example.com"
        tokens = self.confirmed(stack, email)
        before = trigger.tokens
        for name, value in (("LambdaArn", trigger.config["LambdaArn"] + "-ghost"), (None, throttled)):
            with monkeypatch.context() as patch:
                if name:
                    patch.setitem(trigger.config, name, value)
                else:
                    patch.setattr(moto_fixes, "invoke", value)
                for call in (lambda: self.sign_in(stack, email), lambda: self.refresh(stack, tokens["RefreshToken"])):
                    assert error_of(call) == "UnexpectedLambdaException"
        assert trigger.tokens == before
        assert self.sign_in(stack, email)["AuthenticationResult"]

    def test_a_client_writes_only_its_write_attributes(self, stack: LocalStack) -> None:
        token = self.confirmed(stack, "writer@example.com")["AccessToken"]
        update = stack.client("cognito-idp").update_user_attributes
        update(AccessToken=token, UserAttributes=listed({"name": "W"}))
        for forbidden in ({"custom:units": "100"}, {"email": "x@example.com"}):
            code = error_of(update, AccessToken=token, UserAttributes=listed(forbidden))
            assert code == "NotAuthorizedException"
        assert self.attributes(stack, "writer@example.com")["name"] == "W"

    def test_nobody_signs_up_in_a_pool_of_administrators(self, stack: LocalStack) -> None:
        code = error_of(
            stack.client("cognito-idp").sign_up,
            ClientId=stack.user_pool_client_id,
            Username="self@example.com",
            Password=self.PASSWORD,
        )
        assert code == "NotAuthorizedException"

    def test_a_page_of_users_has_sixty(self, stack: LocalStack) -> None:
        backend = cognitoidp_backends["123456789012"][stack.region]
        with pytest.raises(Exception, match="60"):
            backend.list_users(stack.user_pool_id, None, limit=61)


class TestListUsers:
    """Each test works on a pool of its own."""

    @pytest.fixture
    def pool(self, stack: LocalStack) -> str:
        """A pool that takes capitals for small letters."""
        return self.make_pool(stack, "any-case", CaseSensitive=False)

    def make_pool(self, stack: LocalStack, name: str, **usernames: bool) -> str:
        units = {"Name": "units", "AttributeDataType": "Number", "Mutable": True}
        made = stack.client("cognito-idp").create_user_pool(
            PoolName=name, UsernameAttributes=["email"], UsernameConfiguration=usernames, Schema=[units]
        )
        return str(made["UserPool"]["Id"])

    def create(self, stack: LocalStack, pool: str, *emails: str, **attributes: str) -> list[str]:
        """Users with these addresses; their subs."""
        create = stack.client("cognito-idp").admin_create_user
        return [
            create(
                UserPoolId=pool, Username=email, MessageAction="SUPPRESS", UserAttributes=listed(attributes)
            )["User"]["Username"]
            for email in emails
        ]  # fmt: skip

    def list(self, stack: LocalStack, pool: str, **request: Any) -> list[str]:
        """The subs on one page."""
        answer = stack.client("cognito-idp").list_users(UserPoolId=pool, **request)
        return [user["Username"] for user in answer["Users"]]

    def test_pages_are_all_users_once_whoever_comes_or_goes_meanwhile(self, stack: LocalStack, pool: str) -> None:
        cognito = stack.client("cognito-idp")
        subs = self.create(stack, pool, *(f"{number}@example.com" for number in range(70)))
        first = cognito.list_users(UserPoolId=pool)
        assert [user["Username"] for user in first["Users"]] == subs[:60]
        # The last of that page, and the first of the next.
        for sub in subs[59:61]:
            cognito.admin_delete_user(UserPoolId=pool, Username=sub)
        (new,) = self.create(stack, pool, "new@example.com")
        second = cognito.list_users(UserPoolId=pool, PaginationToken=first["PaginationToken"])
        assert [user["Username"] for user in second["Users"]] == [*subs[61:], new]
        assert "PaginationToken" not in second

    def test_a_page_can_be_small_and_a_filter_has_pages_too(self, stack: LocalStack, pool: str) -> None:
        subs = self.create(stack, pool, *(f"a{number}@example.com" for number in range(5)), "b@example.com")
        pages = stack.client("cognito-idp").get_paginator("list_users")
        request = {"UserPoolId": pool, "Filter": 'email ^= "A"', "PaginationConfig": {"PageSize": 2}}
        found = [[user["Username"] for user in page["Users"]] for page in pages.paginate(**request)]
        assert found == [subs[0:2], subs[2:4], subs[4:5]]

    def test_a_token_is_good_for_its_own_filter(self, stack: LocalStack, pool: str) -> None:
        self.create(stack, pool, "one@example.com", "two@example.com")
        cognito = stack.client("cognito-idp")
        token = cognito.list_users(UserPoolId=pool, Limit=1)["PaginationToken"]
        for request in ({"PaginationToken": "forged"}, {"PaginationToken": token, "Filter": 'email = "x"'}):
            assert error_of(cognito.list_users, UserPoolId=pool, **request) == "InvalidParameterException"

    def test_a_user_is_found_by_sub_and_by_email(self, stack: LocalStack, pool: str) -> None:
        (one, two) = self.create(stack, pool, "One@example.com", "two@example.com")
        assert self.list(stack, pool, Filter=f'sub = "{two}"') == [two]
        assert self.list(stack, pool, Filter='email = "oNE@Example.com"') == [one]
        assert self.list(stack, pool, Filter='email = "one"') == []
        strict = self.make_pool(stack, "strict", CaseSensitive=True)
        (sub,) = self.create(stack, strict, "One@example.com")
        assert self.list(stack, strict, Filter='email = "one@example.com"') == []
        assert self.list(stack, strict, Filter='email = "One@example.com"') == [sub]

    def test_a_user_is_found_by_the_address_of_today(self, stack: LocalStack, pool: str) -> None:
        cognito = stack.client("cognito-idp")
        (sub,) = self.create(stack, pool, "before@example.com")
        after = listed({"email": "after@example.com"})
        cognito.admin_update_user_attributes(UserPoolId=pool, Username=sub, UserAttributes=after)
        assert self.list(stack, pool, Filter='email = "before@example.com"') == []
        assert self.list(stack, pool, Filter='email = "after@example.com"') == [sub]
        cognito.admin_delete_user(UserPoolId=pool, Username="after@example.com")
        assert self.list(stack, pool, Filter='email = "after@example.com"') == []
        (again,) = self.create(stack, pool, "after@example.com")
        assert cognito.admin_get_user(UserPoolId=pool, Username="after@example.com")["Username"] == again

    def test_a_user_is_found_without_a_look_at_all_others(
        self, stack: LocalStack, pool: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def all_others(_: Any) -> Any:
            raise AssertionError

        (sub,) = self.create(stack, pool, "one@example.com")
        monkeypatch.setattr(moto_fixes.Users, "values", all_others)
        self.create(stack, pool, "two@example.com")
        cognito = stack.client("cognito-idp")
        for name in (sub, "ONE@example.com"):
            assert cognito.admin_get_user(UserPoolId=pool, Username=name)["Username"] == sub
        for text in (f'sub = "{sub}"', 'email = "one@example.com"'):
            assert self.list(stack, pool, Filter=text) == [sub]

    @pytest.mark.parametrize("name", ["custom:units", "address"])
    def test_a_filter_is_on_what_can_be_searched(self, stack: LocalStack, pool: str, name: str) -> None:
        list_users = stack.client("cognito-idp").list_users
        assert error_of(list_users, UserPoolId=pool, Filter=f'{name} = "1"') == "InvalidParameterException"

    def test_attributes_asked_for_are_those_that_come(self, stack: LocalStack, pool: str) -> None:
        self.create(stack, pool, "one@example.com", **{"custom:units": "3"})
        for names in (["email"], ["sub", "custom:units"]):
            (user,) = stack.client("cognito-idp").list_users(UserPoolId=pool, AttributesToGet=names)["Users"]
            assert sorted(entry["Name"] for entry in user["Attributes"]) == sorted(names)

    def test_attributes_asked_for_must_exist_and_everybody_must_have_them(self, stack: LocalStack, pool: str) -> None:
        list_users = stack.client("cognito-idp").list_users
        unknown = {"UserPoolId": pool, "AttributesToGet": ["custom:unknown"]}
        assert error_of(list_users, **unknown) == "InvalidParameterException"
        self.create(stack, pool, "one@example.com", **{"custom:units": "3"})
        request = {"UserPoolId": pool, "AttributesToGet": ["custom:units"]}
        assert len(list_users(**request)["Users"]) == 1
        self.create(stack, pool, "two@example.com")
        assert error_of(list_users, **request) == "InvalidParameterException"


def listed(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in values.items()]


# ------------------------------------------------------------------------- several stacks, other ways


class TestLifeCycle:
    """Comes last: the shared stack is closed first, for only one can be open."""

    @pytest.fixture
    def alone(self, shared: LocalStack) -> None:
        shared.close()

    def test_only_one_stack_at_a_time(self, stack: LocalStack, folder: Path) -> None:
        with pytest.raises(RuntimeError, match="another LocalStack"):
            LocalStack({}, template=folder / "template.yaml")

    @pytest.mark.parametrize(
        ("tier", "triggers", "said"),
        [
            ("ESSENTIALS", "{PreTokenGeneration: !GetAtt ClaimsFunction.Arn}", "only PreTokenGenerationConfig"),
            ("ESSENTIALS", "{PreSignUp: !GetAtt ClaimsFunction.Arn}", "only PreTokenGenerationConfig"),
            ("PLUS", "{PreTokenGenerationConfig: {LambdaArn: x, LambdaVersion: V3_0}}", "V3_0"),
            ("PLUS", "{PreTokenGenerationConfig: {LambdaArn: x}}", "None of PreTokenGenerationConfig"),
            ("LITE", "{PreTokenGenerationConfig: {LambdaArn: x, LambdaVersion: V2_0}}", "LITE has no V2_0"),
        ],
    )
    def test_a_trigger_that_does_not_run_here_is_an_error(
        self, alone: None, tmp_path: Path, tier: str, triggers: str, said: str
    ) -> None:
        own = "LambdaConfig: {PreTokenGenerationConfig: {LambdaArn: !GetAtt ClaimsFunction.Arn, LambdaVersion: V2_0}}"
        assert own in TEMPLATE
        template = TEMPLATE.replace(own, f"LambdaConfig: {triggers}").replace("Tier: ESSENTIALS", f"Tier: {tier}")
        with pytest.raises(TemplateError, match=f"Pool: .*{said}"):
            LocalStack({}, template=write_project(tmp_path, template))

    def test_stacks_one_after_another_are_new(self, alone: None, folder: Path) -> None:
        pools = []
        for _ in range(2):
            with LocalStack({}, template=folder / "template.yaml", schedule_seconds=None) as stack:
                create = stack.client("cognito-idp").admin_create_user
                create(UserPoolId=stack.user_pool_id, Username="new@example.com")
                pools.append(stack.user_pool_id)
        assert len(set(pools)) == 2

    def test_the_python_runtime_client_does_the_same(self, alone: None, folder: Path) -> None:
        with LocalStack({}, template=folder / "template.yaml", schedule_seconds=None, python_client=True) as stack:
            for number in range(2):
                assert stack.invoke("TickFunction", {"n": number}) == ({"n": number}, None)
            _, error = stack.invoke("FailFunction", {})
            assert error is not None
            assert error["errorType"] == "CardDeclined"
            _, error = stack.invoke("MissingFunction", {})
            assert error is not None
            assert error["errorType"] == "KeyError"

    def test_schedules_run_by_themselves(self, alone: None, folder: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        (folder / "code/tick.py").write_text("def handler(event, context): print('ticked')")
        with LocalStack({}, template=folder / "template.yaml", schedule_seconds=0.05, log=log):
            until(lambda: log.read_text().count("ticked") > 2)

    def test_closing_ends_what_is_under_way(self, alone: None, folder: Path) -> None:
        (folder / "code/echo.py").write_text("import time\ndef handler(e, c): time.sleep(60)")
        began = time.monotonic()
        with LocalStack({}, template=folder / "template.yaml", schedule_seconds=None) as stack:
            stack.client("stepfunctions").start_execution(
                stateMachineArn=stack.state_machine_arn, input='{"step": "Echo"}'
            )
            until(lambda: stack.calls)
        assert time.monotonic() - began < 15


# --------------------------------------------------------- the product's own functions in its place

SUBSCRIBER = "keys@example.com"


@pytest.fixture(scope="class")
def product(shared: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The product with one subscriber, who pays for two dapps."""
    shared.close()
    with Gateway(tmp_path_factory.mktemp("product")) as gateway:
        gateway.subscriber(SUBSCRIBER, 2)
        yield gateway


class TestProduct:
    """Comes last too: the product's authorizer and its trigger, as the stack asks them."""

    @pytest.fixture
    def fresh(self, product: Gateway) -> Iterator[Gateway]:
        """Nobody has asked its authorizer yet."""
        self.restart(product)
        yield product
        product.stack.keys_reachable = True

    def restart(self, gateway: Gateway) -> None:
        """The authorizer forgets the keys that it knows."""
        functions, name = gateway.stack._functions, gateway.stack.template.physical["AuthorizeFunction"].ref
        function = functions.find(name)
        count = int(function.environment.get("RESTARTS", 0)) + 1
        functions.update(replace(function, environment={**function.environment, "RESTARTS": str(count)}))

    def token(self, gateway: Gateway) -> str:
        return str(gateway.sign_in(SUBSCRIBER)["AccessToken"])

    def ask(self, gateway: Gateway, token: str) -> int:
        """What whoever shows this token is answered."""
        status, told = post(gateway.stack, "/dapps", headers={"Authorization": f"Bearer {token}"}, method="GET")
        assert (told.get("limit") == 2) is (status == 200)
        return status

    def test_tokens_of_the_old_key_and_of_the_new_one_are_good_after_a_rotation(self, fresh: Gateway) -> None:
        old = self.token(fresh)
        fresh.stack.rotate_keys()
        new = self.token(fresh)
        assert old.split(".")[0] != new.split(".")[0]
        assert [self.ask(fresh, token) for token in (new, old)] == [200, 200]

    def test_a_withdrawn_key_is_worth_nothing_once_the_authorizer_looks(self, fresh: Gateway) -> None:
        old = self.token(fresh)
        assert self.ask(fresh, old) == 200
        fresh.stack.rotate_keys(withdraw=True)
        new = self.token(fresh)
        assert self.ask(fresh, old) == 200  # it knows that key, and asks for no other within the minute
        assert self.ask(fresh, new) == 403
        self.restart(fresh)
        assert [self.ask(fresh, token) for token in (old, new)] == [403, 200]

    def test_while_the_keys_are_out_of_reach_nobody_is_let_in_whose_key_is_not_known(self, fresh: Gateway) -> None:
        token = self.token(fresh)
        fresh.stack.keys_reachable = False
        assert [self.ask(fresh, each) for each in (token, token)] == [500, 500]
        fresh.stack.keys_reachable = True
        self.restart(fresh)
        assert self.ask(fresh, token) == 200
        fresh.stack.keys_reachable = False
        assert self.ask(fresh, token) == 200

    def test_the_limit_is_in_both_tokens(self, product: Gateway) -> None:
        tokens = product.sign_in(SUBSCRIBER)
        for name in TOKENS.values():
            assert claims_of(tokens[name]).items() >= {"dapp_limit": 2, "payment_status": "ACTIVE"}.items()


class TestProductInTheTierLite:
    """Comes last too."""

    def test_the_limit_is_a_text_in_the_id_token(self, shared: LocalStack, tmp_path: Path) -> None:
        shared.close()
        with Gateway(tmp_path, UserPoolTier="LITE") as lite:
            lite.subscriber(SUBSCRIBER, 2)
            tokens = lite.sign_in(SUBSCRIBER)
        assert claims_of(tokens["IdToken"]).items() >= {"dapp_limit": "2", "payment_status": "ACTIVE"}.items()
        assert {"dapp_limit", "payment_status"}.isdisjoint(claims_of(tokens["AccessToken"]))
