"""The local stack asks for custom resources as CloudFormation does, in a template of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local.custom_resources import DeploymentFailed
from tests.local.stack import LocalStack

Json = dict[str, Any]

TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Parameters:
  Size: {Type: String, Default: small}
  Second: {Type: String, Default: "yes"}
Conditions:
  HasSecond: !Equals [!Ref Second, "yes"]
Globals:
  Function: {Runtime: python3.13, CodeUri: code/, Timeout: 20}
Resources:
  Api: {Type: AWS::Serverless::HttpApi}
  MakeFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: make.handler
      AutoPublishAlias: live
      Environment: {Variables: {SIZE: !Ref Size}}
      Policies:
        - Statement:
            - Effect: Allow
              Action: [secretsmanager:GetSecretValue, secretsmanager:PutSecretValue]
              Resource: !Sub arn:aws:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:${AWS::StackName}/key-??????
            - Effect: Allow
              Action:
                - cognito-idp:DescribeUserPool
                - cognito-idp:ListUserPoolClients
                - cognito-idp:DescribeUserPoolClient
              Resource: !GetAtt Pool.Arn
      Events:
        Create: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: POST, Path: /create}}
  Pool: {Type: AWS::Cognito::UserPool}
  First:
    Type: Custom::First
    Properties:
      ServiceToken: !GetAtt MakeFunction.Arn
      Version: !Ref MakeFunction.Version
      Url: !Sub https://${Api}.execute-api.${AWS::Region}.${AWS::URLSuffix}/create
      Size: !Ref Size
      Flags: {Strict: true, Numbers: [1, 2.5]}
      Nothing: !Ref AWS::NoValue
  Second:
    Type: AWS::CloudFormation::CustomResource
    Condition: HasSecond
    Properties: {ServiceToken: !GetAtt MakeFunction.Arn, Of: !Ref First, Name: !GetAtt First.Name, Size: !Ref Size}
  Third:
    Type: Custom::Third
    DependsOn: First
    Properties: {ServiceToken: !GetAtt MakeFunction.Arn, Size: !Ref Size}
  Topic:
    Type: AWS::SNS::Topic
    DependsOn: Third
Outputs:
  First: {Value: !Ref First}
  Name: {Value: !GetAtt First.Name}
"""

HANDLER = """
import json
import os
import urllib.request
from pathlib import Path

import boto3

def handler(event, context):
    if "variable" in event:
        return os.environ[event["variable"]]
    if "service" in event:
        client = boto3.client(event["service"])
        try:
            return json.loads(json.dumps(getattr(client, event["method"])(**event["request"]), default=str))
        except client.exceptions.ClientError as error:
            return error.response["Error"]
    with open("events.jsonl", "a") as file:
        file.write(json.dumps(event) + "\\n")
    path = Path("answers.json")
    answers = json.loads(path.read_text())
    name = event["LogicalResourceId"]
    planned = answers.get(f"{name} {event['RequestType']}", [])
    how = planned.pop(0) if planned else {}
    path.write_text(json.dumps(answers))
    if "secret" in how:
        try:
            boto3.client("secretsmanager").get_secret_value(SecretId=how.pop("secret"))
        except Exception as error:
            how |= {"Status": "FAILED", "Reason": str(error)}
    if "raise" in how:
        raise RuntimeError("no answer")
    if "silent" in how:
        return
    answer = {
        "Status": "SUCCESS",
        "PhysicalResourceId": event.get("PhysicalResourceId", f"{name.lower()}-1"),
        **{key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")},
        "Data": {"Name": f"{name} {event['ResourceProperties']['Size']}"},
        **how,
    }
    answer = {key: value for key, value in answer.items() if value is not None}
    headers = {"Content-Type": answer.pop("type", "")}
    request = urllib.request.Request(event["ResponseURL"], json.dumps(answer).encode(), headers, method="PUT")
    urllib.request.urlopen(request).close()
"""


class Project:
    """The template, its function, what the function was asked, and what it is to answer."""

    def __init__(self, folder: Path) -> None:
        self.code = folder / "code"
        self.code.mkdir()
        self.template = folder / "template.yaml"
        self.template.write_text(TEMPLATE)
        (self.code / "make.py").write_text(HANDLER)
        (self.code / "events.jsonl").touch()
        self.answer({})

    def answer(self, answers: dict[str, list[Json]]) -> None:
        """For each event, such as "First Update": what differs in the next answers from a success."""
        (self.code / "answers.json").write_text(json.dumps(answers))

    def asked(self) -> list[Json]:
        """The events since the last question."""
        events = [json.loads(line) for line in (self.code / "events.jsonl").read_text().splitlines()]
        (self.code / "events.jsonl").write_text("")
        return events

    def told(self) -> list[str]:
        """The same in short."""
        return [
            f"{event['RequestType']} {event.get('PhysicalResourceId', event['LogicalResourceId'])}"
            for event in self.asked()
        ]

    def stack(self, **more: Any) -> LocalStack:
        return LocalStack({}, template=self.template, schedule_seconds=None, **{"custom_resources": True, **more})


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def stack(project: Project) -> Iterator[LocalStack]:
    """With its three custom resources, which have just been made."""
    with project.stack(secrets={"local/key": "first", "local/key-other": "hidden"}) as stack:
        assert project.told() == ["Create First", "Create Second", "Create Third"]
        yield stack


@pytest.fixture(scope="class")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, LocalStack]]:
    """The same for several tests, each of which updates it."""
    project = Project(tmp_path_factory.mktemp("opened"))
    with project.stack() as stack:
        project.asked()
        yield project, stack


class TestCreation:
    def test_the_event_has_what_aws_documents_and_values_are_text(self, project: Project) -> None:
        with project.stack() as stack:
            event, second, _ = project.asked()
            function = stack.template.physical["MakeFunction"].attributes["Arn"]
            assert event.pop("ResponseURL").startswith("http://127.0.0.1:")
            assert len(event.pop("RequestId")) == 36
            assert event == {
                "RequestType": "Create",
                "ServiceToken": function,
                "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/local/0",
                "LogicalResourceId": "First",
                "ResourceType": "Custom::First",
                "ResourceProperties": {
                    "ServiceToken": function,
                    "Version": f"{function}:1",
                    "Url": f"{stack.api}/create",
                    "Size": "small",
                    "Flags": {"Strict": "true", "Numbers": ["1", "2.5"]},
                },
            }
            assert second["ResourceType"] == "AWS::CloudFormation::CustomResource"
            assert second["ResourceProperties"].items() >= {"Of": "first-1", "Name": "First small"}.items()
            assert stack.outputs == {"First": "first-1", "Name": "First small"}
            made = list(stack.template.physical)
            assert made.index("MakeFunction") < made.index("First") < made.index("Third") < made.index("Topic")

    def test_nobody_is_asked_unless_told_and_references_still_resolve(self, project: Project) -> None:
        with project.stack(custom_resources=False) as stack:
            assert stack.outputs == {"First": "First", "Name": "First"}
            stack.update(Size="large", code_changed=True)
            stack.delete()
            assert project.told() == []

    def test_one_that_fails_ends_the_deployment_and_nothing_stays(self, project: Project) -> None:
        project.answer(
            {"Third Create": [{"Status": "FAILED", "Reason": "no more room", "PhysicalResourceId": "third-9"}]}
        )
        with pytest.raises(DeploymentFailed, match="Third: no more room") as failed, project.stack():
            pass
        assert (failed.value.logical_id, failed.value.reason) == ("Third", "no more room")
        *made, last, second, first = project.told()
        assert sorted([last, second]) == ["Delete second-1", "Delete third-9"] or made == [
            "Create First",
            "Create Third",
        ]
        assert first == "Delete first-1"

    def test_its_function_may_do_what_its_role_allows(self, project: Project) -> None:
        project.answer({"First Create": [{"secret": "local/key"}], "Second Create": [{"secret": "local/key-other"}]})
        with (
            pytest.raises(
                DeploymentFailed, match=r"Second: .*not authorized to perform: secretsmanager:GetSecretValue"
            ),
            project.stack(secrets={"local/key": "first", "local/key-other": "hidden"}),
        ):
            pass

    def test_what_never_answered_is_deleted_too(self, project: Project) -> None:
        project.answer({"First Create": [{"silent": True}], "First Delete": [{"Status": "FAILED", "Reason": "who?"}]})
        with pytest.raises(DeploymentFailed, match="did not receive a response") as failed, project.stack():
            pass
        assert failed.value.__notes__ == ["roll-back: First: who?"]
        create, delete = project.asked()
        assert (create["RequestType"], delete["RequestType"]) == ("Create", "Delete")
        assert delete["PhysicalResourceId"].startswith("First-")


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ({"silent": True}, "did not receive a response"),
            ({"type": "application/json"}, "did not receive a response"),
            ({"StackId": "another"}, "Invalid StackId"),
            ({"RequestId": "another"}, "Invalid RequestId"),
            ({"LogicalResourceId": "Second"}, "Invalid LogicalResourceId"),
            ({"PhysicalResourceId": None}, "doesn't contain 'PhysicalResourceId'"),
            ({"PhysicalResourceId": ""}, "Invalid PhysicalResourceId"),
            ({"Status": "FAILED"}, "FAILED with a Reason"),
            ({"Status": "DONE"}, "SUCCESS, or FAILED"),
            ({"Data": {"Name": "x" * 4096}}, "too long"),
        ],
    )
    def test_what_is_no_answer_fails(self, opened: tuple[Project, LocalStack], answer: Json, reason: str) -> None:
        project, stack = opened
        project.answer({"First Update": [answer] * 3 if "type" in answer else [answer]})
        with pytest.raises(DeploymentFailed, match=reason):
            stack.update(Size=f"size of {reason}")
        assert {event["LogicalResourceId"] for event in project.asked()} == {"First"}

    def test_an_invocation_that_fails_is_tried_twice_more(self, opened: tuple[Project, LocalStack]) -> None:
        project, stack = opened
        project.answer({"First Update": [{"raise": True}] * 2})
        stack.update(Size="tried again")
        events = [event for event in project.asked() if event["LogicalResourceId"] == "First"]
        assert len(events) == 3
        assert len({event["RequestId"] for event in events}) == 1
        project.answer({"First Update": [{"raise": True}] * 3})
        with pytest.raises(DeploymentFailed, match="did not receive a response"):
            stack.update(Size="given up")


class TestUpdates:
    def test_only_what_changed_is_told(self, project: Project, stack: LocalStack) -> None:
        assert stack.update() == []
        assert project.asked() == []
        stack.update(code_changed=True)
        [event] = project.asked()
        function = event["ServiceToken"]
        assert (event["RequestType"], event["PhysicalResourceId"]) == ("Update", "first-1")
        assert event["OldResourceProperties"] == {**event["ResourceProperties"], "Version": f"{function}:1"}
        assert event["ResourceProperties"]["Version"] == f"{function}:2"
        stack.update(Size="large")
        events = project.asked()
        assert [event["LogicalResourceId"] for event in events] == ["First", "Second", "Third"]
        assert events[1]["ResourceProperties"]["Name"] == "First large"
        assert events[1]["OldResourceProperties"]["Name"] == "First small"
        assert stack.outputs["Name"] == "First large"
        assert stack.update() == []
        assert project.asked() == []

    def test_functions_start_again_with_the_code_as_it_is_now(self, project: Project, stack: LocalStack) -> None:
        (project.code / "make.py").write_text(HANDLER.replace('f"{name} {', 'f"New {name} {'))
        stack.update(Size="large", code_changed=True)
        assert stack.outputs["Name"] == "New First large"

    def test_what_was_replaced_is_deleted_when_all_else_is_done(self, project: Project, stack: LocalStack) -> None:
        project.answer({"First Update": [{"PhysicalResourceId": "first-2"}]})
        assert stack.update(Size="large") == []
        *updated, deleted = project.told()
        assert updated == ["Update first-1", "Update second-1", "Update third-1"]
        assert deleted == "Delete first-1"
        assert stack.outputs["First"] == "first-2"
        stack.delete()
        assert project.told() == ["Delete third-1", "Delete second-1", "Delete first-2"]

    def test_a_clean_up_that_fails_does_not_fail_the_update(self, project: Project, stack: LocalStack) -> None:
        project.answer(
            {
                "First Update": [{"PhysicalResourceId": "first-2"}],
                "First Delete": [{"Status": "FAILED", "Reason": "in use"}],
            }
        )
        assert [str(left) for left in stack.update(Size="large")] == ["First: in use"]
        assert stack.outputs["First"] == "first-2"

    def test_what_the_template_no_longer_has_is_deleted_and_may_come_back(
        self, project: Project, stack: LocalStack
    ) -> None:
        stack.update(Second="no")
        assert project.told() == ["Delete second-1"]
        stack.update(Second="yes")
        assert project.told() == ["Create Second"]

    def test_a_failed_update_is_rolled_back(self, project: Project, stack: LocalStack) -> None:
        project.answer(
            {
                "First Update": [{"PhysicalResourceId": "first-2"}],
                "Third Update": [{"Status": "FAILED", "Reason": "no more room"}],
            }
        )
        with pytest.raises(DeploymentFailed, match="Third: no more room"):
            stack.update(Size="large", code_changed=True)
        events = project.asked()
        forth = [event for event in events if event["ResourceProperties"]["Size"] == "large"]
        back = [event for event in events if event not in forth]
        told = [(event["RequestType"], event["PhysicalResourceId"]) for event in events]
        assert told[0] == ("Update", "first-1")
        assert told[-1] == ("Delete", "first-2")
        assert ("Delete", "first-1") not in told
        assert {event["LogicalResourceId"] for event in back} == {event["LogicalResourceId"] for event in forth} - {
            "First"
        }
        for event in back:
            assert (event["RequestType"], event["OldResourceProperties"]["Size"]) == ("Update", "large")
        assert stack.outputs == {"First": "first-1", "Name": "First small"}
        assert stack.invoke("MakeFunction", {"variable": "SIZE"}) == ("small", None)
        stack.update(Size="large")
        assert stack.invoke("MakeFunction", {"variable": "SIZE"}) == ("large", None)
        assert [event["OldResourceProperties"]["Size"] for event in project.asked()] == ["small"] * 3

    def test_what_a_failed_update_made_is_deleted(self, project: Project, stack: LocalStack) -> None:
        failure = {"Status": "FAILED", "Reason": "half made", "PhysicalResourceId": "first-2"}
        project.answer({"First Update": [failure]})
        with pytest.raises(DeploymentFailed, match="First: half made"):
            stack.update(Size="large")
        assert project.told() == ["Update first-1", "Delete first-2"]

    def test_a_stack_is_deleted_from_its_end(self, project: Project, stack: LocalStack) -> None:
        stack.delete()
        assert project.told() == ["Delete third-1", "Delete second-1", "Delete first-1"]
        stack.delete()
        assert project.told() == []

    def test_a_deletion_that_fails_is_told(self, project: Project, stack: LocalStack) -> None:
        project.answer({"Second Delete": [{"Status": "FAILED", "Reason": "in use"}]})
        with pytest.raises(DeploymentFailed, match="Second: in use"):
            stack.delete()
        assert project.told() == ["Delete third-1", "Delete second-1", "Delete first-1"]

    def test_other_parameters_for_a_while_ask_nobody(self, project: Project, stack: LocalStack) -> None:
        with stack.deployed_with(Size="large"):
            assert project.told() == []


class TestSecretsOfBefore:
    def ask(self, stack: LocalStack, service: str, method: str, **request: str) -> Json:
        result, error = stack.invoke("MakeFunction", {"service": service, "method": method, "request": request})
        assert error is None
        return dict(result)

    def test_a_secret_is_known_by_its_name_and_the_right_to_it_by_wildcards(self, stack: LocalStack) -> None:
        assert self.ask(stack, "secretsmanager", "get_secret_value", SecretId="local/key")["SecretString"] == "first"
        stack.put_secret("local/key", "second")
        assert self.ask(stack, "secretsmanager", "get_secret_value", SecretId="local/key")["SecretString"] == "second"
        self.ask(stack, "secretsmanager", "put_secret_value", SecretId="local/key", SecretString="third")
        arn = stack.client("secretsmanager").describe_secret(SecretId="local/key")["ARN"]
        assert {(call.action, call.resource) for call in stack.calls} == {
            ("secretsmanager:GetSecretValue", arn),
            ("secretsmanager:PutSecretValue", arn),
        }
        assert stack.denied == []
        refused = self.ask(stack, "secretsmanager", "get_secret_value", SecretId="local/key-other")
        assert refused["Code"] == "AccessDeniedException"

    def test_a_pool_and_its_clients_can_be_described_with_the_right(self, stack: LocalStack) -> None:
        pool, other = stack.user_pool_id, "us-east-1_other"
        client = stack.client("cognito-idp").create_user_pool_client(UserPoolId=pool, ClientName="app")
        client_id = client["UserPoolClient"]["ClientId"]
        for method, more in (
            ("describe_user_pool", {}),
            ("list_user_pool_clients", {}),
            ("describe_user_pool_client", {"ClientId": client_id}),
        ):
            assert "Code" not in self.ask(stack, "cognito-idp", method, UserPoolId=pool, **more)
            refused = self.ask(stack, "cognito-idp", method, UserPoolId=other, **more)
            assert refused["Code"] == "AccessDeniedException"
