"""A Distributed Map, loops, and the schedules and roles of machines run in the local stack as on AWS.

A template, a machine and handlers of their own, not the product's. Each test names one promise or one correction.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import moto.stepfunctions.parser.utils as parser_utils
import pytest

from tests.e2e.test_local_stack import until
from tests.local.permissions import roles
from tests.local.stack import Execution, LocalStack
from tests.local.template import Template, TemplateError

TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Parameters:
  Hourly: {Type: String, Default: DISABLED, AllowedValues: [ENABLED, DISABLED]}
  MayStop: {Type: String, Default: "yes"}
Conditions:
  Stops: !Equals [!Ref MayStop, "yes"]
Globals:
  Function: {Runtime: python3.13, CodeUri: code/, Timeout: 20}
Resources:
  LookFunction:
    Type: AWS::Serverless::Function
    Properties: {Handler: look.handler}
  Machine:
    Type: AWS::Serverless::StateMachine
    Properties:
      DefinitionUri: machine.asl.json
      DefinitionSubstitutions: {LookArn: !GetAtt LookFunction.Arn}
      Policies:
        - Statement: [{Effect: Allow, Action: lambda:InvokeFunction, Resource: !GetAtt LookFunction.Arn}]
      Events:
        Daily: {Type: Schedule, Properties: {Schedule: rate(1 day), Input: '{"items": [{"id": 1}]}'}}
        Hourly: {Type: Schedule, Properties: {Schedule: rate(1 hour), State: !Ref Hourly, Input: '{"items": []}'}}
        Nightly: {Type: ScheduleV2, Properties: {ScheduleExpression: "cron(0 3 * * ? *)", Input: '{"turns": 1}'}}
  MapPolicy:
    Type: AWS::IAM::Policy
    Properties:
      PolicyName: distributed-map
      Roles: [!Ref MachineRole]
      PolicyDocument:
        Version: "2012-10-17"
        Statement:
          - {Effect: Allow, Action: states:StartExecution, Resource: !Ref Machine}
          - Effect: Allow
            Action: [states:DescribeExecution, !If [Stops, states:StopExecution, !Ref AWS::NoValue]]
            Resource: !Sub arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:execution:${Machine.Name}:*
"""

LOOK = """
import json, time
from pathlib import Path
class Throttled(Exception): pass
class Broken(Exception): pass
def handler(event, context):
    run = event["run"]
    with open("log", "a") as log:
        log.write(json.dumps({"id": run.get("id"), "execution": event["execution"], "at": "in"}) + "\\n")
    while "wait" in run and not Path(run["wait"]).exists():
        time.sleep(0.01)
    if "fails" in run:
        once = Path(f"once-{run['id']}")
        if run["fails"] == "Broken" or not once.exists():
            once.touch()
            raise globals()[run["fails"]]("as asked")
    time.sleep(run.get("seconds", 0))
    with open("log", "a") as log:
        log.write(json.dumps({"id": run.get("id"), "at": "out"}) + "\\n")
    before = run.get("looked") or {"turns": 0}
    turns = before["turns"] + 1
    return {"done": turns >= run.get("turns", 1), "turns": turns, "cursor": None, "found": False}
"""


def looking(next_state: str, **more: Any) -> dict[str, Any]:
    return {
        "Type": "Task",
        "Resource": "${LookArn}",
        "Parameters": {"execution.$": "$$.Execution.Id", "run.$": "$"},
        "ResultPath": "$.looked",
        "Retry": [{"ErrorEquals": ["Throttled"], "IntervalSeconds": 1, "MaxAttempts": 3}],
        "Next": next_state,
        **more,
    }


def decide(again: str, otherwise: str) -> dict[str, Any]:
    more = {"Variable": "$.looked.done", "BooleanEquals": False, "Next": again}
    return {"Type": "Choice", "Choices": [more], "Default": otherwise}


def caught(by: str) -> list[dict[str, Any]]:
    return [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": by}]


MACHINE: dict[str, Any] = {
    "StartAt": "Which",
    "States": {
        "Which": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.items", "IsPresent": True, "Next": "Map"}],
            "Default": "Look",
        },
        "Look": looking("Decide"),
        "Decide": decide("Look", "Done"),
        "Map": {
            "Type": "Map",
            "ItemsPath": "$.items",
            "MaxConcurrency": 2,
            "ItemProcessor": {
                "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
                "StartAt": "WhichItem",
                "States": {
                    "WhichItem": {
                        "Type": "Choice",
                        "Choices": [{"Variable": "$.nothing", "IsPresent": True, "Next": "ItemDone"}],
                        "Default": "LookAtItem",
                    },
                    "LookAtItem": looking("DecideItem", Catch=caught("ItemFailed")),
                    "DecideItem": decide("LookAtItem", "ItemDone"),
                    "ItemDone": {"Type": "Succeed"},
                    "ItemFailed": {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"},
                },
            },
            "ResultPath": "$.looked",
            "Catch": caught("Failed"),
            "Next": "Done",
        },
        "Done": {"Type": "Succeed"},
        "Failed": {"Type": "Fail", "ErrorPath": "$.error.Error", "CausePath": "$.error.Cause"},
    },
}


def write_project(folder: Path, template: str = TEMPLATE) -> Path:
    (folder / "code").mkdir()
    (folder / "code/look.py").write_text(LOOK)
    (folder / "machine.asl.json").write_text(json.dumps(MACHINE))
    (folder / "template.yaml").write_text(template)
    return folder / "template.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps")
    write_project(path)
    return path


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[LocalStack]:
    template = folder / "template.yaml"
    with LocalStack({}, template=template, schedule_seconds=None, retry_scale=0.001) as stack:
        yield stack


@pytest.fixture
def stack(shared: LocalStack, folder: Path) -> LocalStack:
    for file in (folder / "code").iterdir():
        if file.name != "look.py" and file.is_file():
            file.unlink()
    shared.calls.clear()
    shared.denied.clear()
    return shared


def start(stack: LocalStack, **what: Any) -> str:
    states = stack.client("stepfunctions")
    return str(states.start_execution(stateMachineArn=stack.state_machine_arn, input=json.dumps(what))["executionArn"])


def ended(stack: LocalStack, arn: str) -> Execution:
    stack.wait_idle(120)
    return next(execution for execution in stack.executions() if execution.arn == arn)


def run(stack: LocalStack, **what: Any) -> Execution:
    return ended(stack, start(stack, **what))


def log(folder: Path) -> list[dict[str, Any]]:
    """What the function was asked and when it answered, in order."""
    path = folder / "code/log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def interpreting() -> list[str]:
    """The threads in which something of a machine still runs."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.endswith(("(eval)", "(_exec_and_notify)", "(_execution_logic)"))]


class TestMapRuns:
    def test_outputs_come_in_the_order_of_the_items_with_nulls_and_falses(self, stack: LocalStack) -> None:
        items = [{"id": number, "turns": 1 + number % 3} for number in range(6)]
        execution = run(stack, items=items)
        looked = [{"done": True, "turns": item["turns"], "cursor": None, "found": False} for item in items]
        expected = [{**item, "looked": its} for item, its in zip(items, looked, strict=True)]
        assert execution.status == "SUCCEEDED"
        assert execution.output == {"items": items, "looked": expected}
        assert execution.states == ["Which", "Map", "Done"]

    def test_no_items_are_no_children(self, stack: LocalStack) -> None:
        assert run(stack, items=[]).output == {"items": [], "looked": []}

    def test_a_child_is_an_execution_of_its_own(self, stack: LocalStack, folder: Path) -> None:
        execution = run(stack, items=[{"id": 1, "turns": 2}, {"id": 2}])
        first, again, second = sorted((each for each in log(folder) if each["at"] == "in"), key=lambda each: each["id"])
        prefix = f"{stack.state_machine_arn.replace(':stateMachine:', ':execution:')}/"
        assert first["execution"] == again["execution"] != second["execution"]
        for child in (first, second):
            assert child["execution"].startswith(prefix)
            assert child["execution"] != execution.arn

    def test_one_child_that_fails_fails_the_map_and_no_other_is_started(self, stack: LocalStack, folder: Path) -> None:
        broken = {"id": 0, "fails": "Broken", "wait": "fail"}
        arn = start(stack, items=[broken, *({"id": number, "wait": "go", "turns": 2} for number in range(1, 6))])
        until(lambda: len(log(folder)) == 2)
        (folder / "code/fail").touch()
        execution = ended(stack, arn)
        (folder / "code/go").touch()
        assert (execution.status, execution.error) == ("FAILED", "States.ExceedToleratedFailureThreshold")
        assert execution.cause == "The specified tolerated failure threshold was exceeded"
        assert execution.states == ["Which", "Map", "Failed"]
        until(lambda: interpreting() == [])
        assert sorted((each["id"], each["at"]) for each in log(folder)) == [(0, "in"), (1, "in"), (1, "out")]

    def test_the_history_of_a_failed_map_says_so(self, stack: LocalStack) -> None:
        arn = run(stack, items=[{"id": 0, "fails": "Broken"}]).arn
        events = stack.client("stepfunctions").get_execution_history(executionArn=arn)["events"]
        kinds = [event["type"] for event in events if event["type"].startswith("Map")]
        assert kinds[1:-1] == ["MapStateStarted", "MapRunStarted", "MapRunFailed", "MapStateFailed"]
        (failed,) = [event["mapRunFailedEventDetails"] for event in events if "mapRunFailedEventDetails" in event]
        assert failed["error"] == "States.ExceedToleratedFailureThreshold"

    def test_a_child_retries_by_the_name_of_the_error(self, stack: LocalStack, folder: Path) -> None:
        execution = run(stack, items=[{"id": number, "fails": "Throttled"} for number in range(4)])
        assert execution.status == "SUCCEEDED"
        assert sorted(each["id"] for each in log(folder) if each["at"] == "in") == [0, 0, 1, 1, 2, 2, 3, 3]

    def test_no_more_children_run_at_once_than_the_map_says(self, stack: LocalStack, folder: Path) -> None:
        run(stack, items=[{"id": number, "seconds": 0.05} for number in range(8)])
        running, most = 0, 0
        for each in log(folder):
            running += 1 if each["at"] == "in" else -1
            most = max(most, running)
        assert most == 2

    def test_a_map_can_have_any_number_of_items(self, stack: LocalStack) -> None:
        items = [{"nothing": number} for number in range(2500)]
        execution = run(stack, items=items)
        assert execution.status == "SUCCEEDED"
        assert execution.output["looked"] == items
        assert parser_utils.TMP_THREADS == []
        until(lambda: interpreting() == [])

    def test_a_loop_can_have_any_number_of_turns(self, stack: LocalStack) -> None:
        execution = run(stack, turns=300)
        assert execution.status == "SUCCEEDED"
        assert execution.output["looked"]["turns"] == 300
        assert execution.states.count("Look") == 300

    def test_stopping_ends_the_children_too(self, stack: LocalStack, folder: Path) -> None:
        states = stack.client("stepfunctions")
        arn = start(stack, items=[{"id": number, "wait": "go", "turns": 2} for number in range(6)])
        until(lambda: len(log(folder)) == 2)
        states.stop_execution(executionArn=arn, error="Operator", cause="enough")
        execution = ended(stack, arn)
        assert (execution.status, execution.error) == ("ABORTED", "Operator")
        assert interpreting()
        (folder / "code/go").touch()
        until(lambda: interpreting() == [])
        assert sorted(each["id"] for each in log(folder)) == [0, 0, 1, 1]
        assert states.describe_execution(executionArn=arn)["status"] == "ABORTED"


class TestRolesOfMachines:
    def test_a_map_needs_what_aws_says_it_needs(self, stack: LocalStack) -> None:
        run(stack, items=[{"id": 1}])
        executions = f"{stack.state_machine_arn.replace(':stateMachine:', ':execution:')}:*"
        assert [call for call in stack.calls if call.action.startswith("states:")] == [
            ("Machine", "states:StartExecution", stack.state_machine_arn),
            ("Machine", "states:DescribeExecution", executions),
            ("Machine", "states:StopExecution", executions),
        ]
        assert stack.denied == []

    def test_without_one_of_these_rights_the_map_fails(self, stack: LocalStack, folder: Path) -> None:
        with stack.deployed_with(MayStop="no"):
            execution = run(stack, items=[{"id": 1}])
            assert (execution.status, execution.error) == ("FAILED", "States.Permissions")
            assert "is not authorized to perform: states:StopExecution" in (execution.cause or "")
            assert run(stack, turns=2).status == "SUCCEEDED"
        assert [call.action for call in stack.denied] == ["states:StopExecution"]
        assert run(stack, items=[{"id": 1}]).status == "SUCCEEDED"

    def test_a_policy_of_an_unknown_role_is_an_error(self, folder: Path, tmp_path: Path) -> None:
        path = write_project(tmp_path, TEMPLATE.replace("Roles: [!Ref MachineRole]", "Roles: [someone]"))
        template = Template(path, {})
        template.created("MapPolicy", "MapPolicy")
        with pytest.raises(TemplateError, match="MapPolicy: its role someone"):
            roles(template)


class TestSchedulesOfMachines:
    def test_an_execution_gets_the_input_of_the_schedule(self, stack: LocalStack) -> None:
        results = stack.run_schedules()
        assert results.keys() == {"MachineDaily", "MachineNightly"}
        execution = ended(stack, results["MachineDaily"].result)
        assert (execution.status, execution.input) == ("SUCCEEDED", {"items": [{"id": 1}]})
        again = stack.run_schedules("MachineDaily")
        assert again.keys() == {"MachineDaily"}
        assert again["MachineDaily"].result != execution.arn
        stack.wait_idle(30)

    def test_a_schedule_is_on_or_off_by_a_parameter(self, stack: LocalStack) -> None:
        assert stack.run_schedules("MachineHourly") == {}
        with stack.deployed_with(Hourly="ENABLED"):
            execution = ended(stack, stack.run_schedules("MachineHourly")["MachineHourly"].result)
        assert execution.input == {"items": []}
        assert stack.run_schedules("MachineHourly") == {}

    def test_a_rule_that_somebody_disabled_rests_until_it_is_enabled_and_no_deployment_does_that(
        self, stack: LocalStack
    ) -> None:
        events = stack.client("events")
        (rule,) = events.list_rules(NamePrefix="local-MachineDaily")["Rules"]
        events.disable_rule(Name=rule["Name"])
        assert stack.run_schedules("MachineDaily") == {}
        assert stack.run_schedules().keys() == {"MachineNightly"}
        with stack.deployed_with(Hourly="ENABLED"):
            assert stack.run_schedules("MachineDaily") == {}
        events.enable_rule(Name=rule["Name"])
        assert stack.run_schedules("MachineDaily").keys() == {"MachineDaily"}
        stack.wait_idle(30)

    def test_a_schedule_starts_it_with_its_own_role(self, stack: LocalStack) -> None:
        stack.run_schedules("MachineDaily")
        stack.wait_idle(30)
        assert stack.calls[0] == ("MachineDaily", "states:StartExecution", stack.state_machine_arn)
        stack.faults.add("states", "ServiceUnavailable", function="MachineDaily", count=10)
        try:
            result, error = stack.run_schedules("MachineDaily")["MachineDaily"]
        finally:
            stack.faults.clear()
        assert result is None
        assert error is not None
        assert error["errorType"] == "ServiceUnavailable"

    def test_a_schedule_without_a_role_cannot_start_it(self, shared: LocalStack, tmp_path: Path) -> None:
        """Comes last: the shared stack is closed first, for only one can be open."""
        shared.close()
        rule = """
  Bare:
    Type: AWS::Events::Rule
    Properties: {ScheduleExpression: rate(1 day), Targets: [{Arn: !Ref Machine, Id: machine}]}
"""
        path = write_project(tmp_path, TEMPLATE + rule)
        with pytest.raises(TemplateError, match="Bare: no role"):
            LocalStack({}, template=path)

    def test_schedules_run_as_often_as_they_say(self, shared: LocalStack, folder: Path) -> None:
        """Comes last too."""
        shared.close()
        template = folder / "template.yaml"
        with LocalStack({"Hourly": "ENABLED"}, template=template, schedule_seconds=0.02) as stack:
            until(lambda: "MachineNightly" in [call.function for call in stack.calls])
            callers = [call.function for call in stack.calls]
        counted = {name: callers.count(name) for name in ("MachineHourly", "MachineDaily")}
        assert counted["MachineDaily"] <= 2
        assert counted["MachineHourly"] >= 4 * counted["MachineDaily"]
