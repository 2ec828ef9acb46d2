"""The template as CloudFormation sees it (translated by SAM), checked by rules of our own and by cfn-lint."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint

from gateway.ledger import LEASE_SECONDS
from gateway.searches import METRICS
from tests.local.template import Template
from tests.template.conftest import REPOSITORY, Application, Break, Rule, application, broken, calls, imports
from tests.watched import Metric, alarms_on, dashboard, of_alarm, of_dashboard, summed

# AWS's own policies: writing logs, writing traces. Both have to name every resource.
MANAGED_POLICIES = {
    "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole",
    "arn:aws:iam::aws:policy/AWSXrayWriteOnlyAccess",
}
# … and AWS's own for CodeDeploy, which points the webhook's alias to another version.
SHIFTS_TRAFFIC = ("CodeDeployServiceRole", "arn:aws:iam::aws:policy/service-role/AWSCodeDeployRoleForLambda")
# Calls that take no resource, so that their statement must name all.
MACHINES = ("Fulfillment", "Offboarding", "Reconciliation")
WITHOUT_RESOURCE = {(f"{name}StateMachineRole", "DeliverLogs") for name in MACHINES}
# The executions of one machine, which Step Functions names itself.
SHARDS = ("ReconciliationShardsPolicy", "WatchShards")
# Roles that SAM makes for schedules.
SCHEDULERS = {"ReconciliationStateMachineMissedEventsRole", "ReconciliationStateMachineDriftRole"}
NOTHING = {"Ref": "AWS::NoValue"}
# What runs by itself, with nothing changed: rule -> what it runs, how often, and which alarm hears of its silence.
SCHEDULES = {
    "RunDueFunctionEveryFiveMinutes": ("RunDueFunction", "rate(5 minutes)", "RunDueSilentAlarm"),
    "DoctorFunctionEverySixHours": ("DoctorFunction", "rate(6 hours)", "DoctorSilentAlarm"),
    "ReconciliationStateMachineMissedEvents": (
        "ReconciliationStateMachine",
        "rate(1 hour)",
        "NothingReconciledAlarm",
    ),
    "ReconciliationStateMachineDrift": ("ReconciliationStateMachine", "rate(1 day)", "NothingReconciledAlarm"),
}
SECONDS = {"minute": 60, "hour": 3600, "day": 86_400}
OURS = {
    "custom:num_dapps",
    "custom:payment_status",
    "custom:payment_provider",
    "custom:stripe_customer_id",
    "custom:disabled_by",
}
OUTPUTS = {"WebhookUrl", "OperatorApi", "OperatorApiArn", "UserPoolId", "UserPoolClientId", "StateMachineArn"}
OUTPUTS |= {
    "DoctorFunction",
    "Version",
    "StripeWebhookSecret",
    "HashKeySecret",
    "AlarmTopicArn",
    "DashboardUrl",
    "OffboardingStateMachineArn",
    "ReconciliationStateMachineArn",
    "OrdersTable",
    "DappsUrl",
}
FUNCTION_OUTPUTS = {"AuthorizerArn": "AuthorizeFunction", "AddClaimsArn": "AddClaimsFunction"}
NAMESPACE = "StripeCognitoGateway"
# What AWS itself counts: the dimensions, of which the first names a resource, and what of it we look at.
OF_AWS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "AWS/States": (
        ("StateMachineArn",),
        (
            "ExecutionsStarted",
            "ExecutionsSucceeded",
            "ExecutionsFailed",
            "ExecutionsTimedOut",
            "ExecutionsAborted",
            "ExecutionThrottled",
            "ExecutionTime",
        ),
    ),
    "AWS/Lambda": (("FunctionName",), ("Invocations", "Errors", "Throttles", "Duration")),
    # Of an HTTP API, by route; a REST API's have other names.
    "AWS/ApiGateway": (("ApiId", "Stage", "Method", "Resource"), ("4xx", "5xx", "Count", "Latency")),
}
OF_WHAT = {
    "AWS/States": "AWS::StepFunctions::StateMachine",
    "AWS/Lambda": "AWS::Lambda::Function",
    "AWS/ApiGateway": "AWS::ApiGatewayV2::Api",
}
SILENT = {"WebhookFailsAlarm", "FulfillmentFailsAlarm"}  # take an update back, and wake nobody for two bad minutes
GIVEN_BY_SUB = {"NoEvent", "NothingReconciled"}  # parts of the dashboard that depend on a condition
DESCRIPTION = 1024  # characters
COLUMNS = 24  # of a dashboard
WEBHOOK = ("POST", "/create")
OPERATORS = {("POST", "/read"), ("POST", "/update"), ("POST", "/delete"), ("POST", "/hold")}
USERS = {("POST", "/dapps"), ("GET", "/dapps"), ("DELETE", "/dapps/{id}")}
# Authorizers of any API of this account, in this region.
AUTHORIZERS = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:*/authorizers/*"
API_SECONDS = 30  # an HTTP API waits no longer for an answer
AUTHORIZER_SECONDS, TRIGGER_SECONDS = 10, 5  # nor for an authorizer's, nor Cognito for a trigger's
SPARE_SECONDS = 5  # between the end of a writing Lambda and the end of its lease
# MarkFulfilled has to close ten thousand orders, but holds the lease around publishing alone, and writes no user under
# it: where it expires all the same, a notice is published twice, with one id.
MAY_OUTLIVE_ITS_LEASE = {"MarkFulfilledFunction"}
KEPT_BY_SAM = {"AWS::Lambda::LayerVersion", "AWS::Lambda::Version", "AWS::StepFunctions::StateMachineVersion"}
READERS = ("required", "whole_number", "one_of", "optional")
USER_WRITES = ("create", "update", "enable", "disable", "sign_out", "rename", "invite_again", "delete", "link", "hold")
USER_WRITES += ("record_change", "bury", "bury_person", "set_live", "lift")


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _statements(app: Application) -> Iterator[tuple[str, dict[str, Any]]]:
    policies = {name: [policy] for name, policy in app.resources("AWS::IAM::Policy").items()}
    policies |= {name: role.get("Policies", []) for name, role in app.resources("AWS::IAM::Role").items()}
    for name, each in policies.items():
        for policy in each:
            for given in policy["PolicyDocument"]["Statement"]:
                for statement in given["Fn::If"][1:] if "Fn::If" in given else [given]:
                    if statement != NOTHING:
                        yield name, statement


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _settings_read(app: Application, function: str) -> set[str]:
    """What a function's module, and the modules of the package that it imports, read from the environment."""
    read: set[str] = set()
    seen: set[str] = set()
    left = [app.source_of(function)]
    while left:
        source = left.pop()
        read.update(each for each in calls(source, *READERS) if not each.startswith("AWS_"))  # botocore's own
        for module in imports(source) - seen:
            seen.add(module)
            path = f"{module.replace('.', '/')}.py"
            if path in app.sources:
                left.append(app.sources[path])
    return read - {"name"}  # settings.py itself


# ------------------------------------------------------------------ functions and their rights


def functions_and_files_are_one_to_one(app: Application) -> list[str]:
    files = {f"{function['Handler'].removesuffix('.handler')}.py" for function in app.functions.values()}
    problems = [f"functions/{path} and the template do not know each other" for path in files ^ app.handlers.keys()]
    if len(files) < len(app.functions):
        problems.append("two functions run the same file")
    return problems


def functions_are_made_alike(app: Application) -> list[str]:
    problems = []
    for name, function in app.functions.items():
        if function.get("Runtime") != "python3.13":
            problems.append(f"{name} runs on {function.get('Runtime')}")
        if function.get("TracingConfig") != {"Mode": "Active"}:
            problems.append(f"{name} is not traced")
        if function.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref") not in app.template["Resources"]:
            problems.append(f"{name} logs to a group that is kept for ever")
        if not function.get("Description"):
            problems.append(f"{name} does not say what it does")
    return problems


def every_function_has_a_role_of_its_own(app: Application) -> list[str]:
    roles = {name: json.dumps(function["Role"]) for name, function in app.functions.items()}
    return [
        f"{name} has the role {role}"
        for name, role in roles.items()
        if role != json.dumps({"Fn::GetAtt": [f"{name}Role", "Arn"]})
        or f"{name}Role" not in app.resources("AWS::IAM::Role")
    ]


def managed_policies_are_few(app: Application) -> list[str]:
    return [
        f"{name} has {policy}"
        for name, role in app.resources("AWS::IAM::Role").items()
        for policy in role.get("ManagedPolicyArns", [])
        if policy not in MANAGED_POLICIES and (name, policy) != SHIFTS_TRAFFIC
    ]


def resources_are_named(app: Application) -> list[str]:
    return [
        f"{name}, {statement.get('Sid')}: a right on {text}"
        for name, statement in _statements(app)
        if (name, statement.get("Sid")) not in WITHOUT_RESOURCE | {SHARDS}
        for text in _texts(statement.get("Resource", "*"))
        if "*" in text
    ]


def actions_are_named(app: Application) -> list[str]:
    return [
        f"{name}, {statement.get('Sid')}: {action}"
        for name, statement in _statements(app)
        for action in listed(statement.get("Action", "*"))
        if "*" in action
    ]


def statements_say_what_they_are_for(app: Application) -> list[str]:
    return [
        f"{name} has a statement without Sid"
        for name, statement in _statements(app)
        if not statement.get("Sid") and name not in SCHEDULERS
    ]


def schedules_start_their_machine_only(app: Application) -> list[str]:
    allowed = {"Effect": "Allow", "Action": "states:StartExecution", "Resource": {"Ref": "ReconciliationStateMachine"}}
    return [
        f"{name} may do {statement}"
        for name, statement in _statements(app)
        if name in SCHEDULERS and statement != allowed
    ]


def what_runs_by_itself_is_switched_on(app: Application) -> list[str]:
    rules = app.resources("AWS::Events::Rule")
    permissions = app.resources("AWS::Lambda::Permission").values()
    problems = [f"{name} is not known here" for name in sorted(rules.keys() ^ SCHEDULES.keys())]
    for name in sorted(rules.keys() & SCHEDULES.keys()):
        wanted, rate, _ = SCHEDULES[name]
        targets = [each["Arn"] for each in rules[name].get("Targets", [])]
        allowed = [
            each["FunctionName"]
            for each in permissions
            if (each["Action"], each["Principal"]) == ("lambda:InvokeFunction", "events.amazonaws.com")
            and each.get("SourceArn") == {"Fn::GetAtt": [name, "Arn"]}
        ]
        checks = {
            "is off": _by_default(app, rules[name].get("State", "ENABLED")) == "ENABLED",
            "has a condition": "Condition" not in app.template["Resources"][name],
            "runs at other times": _by_default(app, rules[name].get("ScheduleExpression")) == rate,
            "runs something else": [list(_names(each)) for each in targets] == [[wanted]],
            "may not run it": wanted not in app.functions or allowed == [{"Ref": wanted}],
        }
        problems += [f"{name} {problem}" for problem, fine in checks.items() if not fine]
    return problems


def _by_default(app: Application, value: Any) -> Any:
    """A value, or the default of the parameter that it is."""
    return app.template["Parameters"][value["Ref"]].get("Default") if isinstance(value, dict) else value


def silence_is_heard(app: Application) -> list[str]:
    """By an alarm to which no number is a bad one, and which looks back over more than a turn of the schedule."""
    alarms = _alarms(app)
    problems = []
    for name, (_, rate, alarm) in SCHEDULES.items():
        if alarm not in alarms:
            problems.append(f"nobody hears when {name} is silent")
            continue
        number, unit = re.findall(r"(\d+) (minute|hour|day)", rate)[0]
        found = alarms[alarm]
        seconds = found["Period"] * found["EvaluationPeriods"]
        if seconds <= int(number) * SECONDS[unit] or found["ComparisonOperator"] != "LessThanThreshold":
            problems.append(f"{alarm} blames {name} for its schedule, or does not hear its silence")
        counts_calls = found["Statistic"] == "SampleCount" and found["TreatMissingData"] == "breaching"
        # Zeros that RunDue counts stand for hours without a reconciliation, so a missing number is a stack that is new.
        counts_zeros = found["Statistic"] == "Sum" and f'"{found["MetricName"]}"' in app.sources["run_due.py"]
        if not (counts_calls or counts_zeros):
            problems.append(f"{alarm} takes no number for a good one")
    return problems


def shards_are_the_machines_own(app: Application) -> list[str]:
    """A distributed map starts, and watches, executions of its own machine."""
    found = {statement.get("Sid"): statement for name, statement in _statements(app) if name == SHARDS[0]}
    machine = {"Machine": {"Fn::GetAtt": ["ReconciliationStateMachine", "Name"]}}
    account = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}"
    must = {
        "StartShards": ("states:StartExecution", {"Ref": "ReconciliationStateMachine"}),
        "WatchShards": (
            ["states:DescribeExecution", "states:StopExecution"],
            [{"Fn::Sub": [f"{account}:execution:${{Machine}}{mark}*", machine]} for mark in ":/"],
        ),
    }
    may = {sid: (statement["Action"], statement["Resource"]) for sid, statement in found.items()}
    return [] if may == must else [f"the shards may {may}"]


def definitions_and_machines_are_one_to_one(app: Application) -> list[str]:
    resources = app.resources("AWS::StepFunctions::StateMachine")
    problems = [f"{name} has no definition" for name in resources.keys() - {each.resource for each in app.machines}]
    for machine in app.machines:
        runs = resources.get(machine.resource, {}).get("DefinitionS3Location", {}).get("Key")
        if runs != f"statemachine/{machine.name}.asl.json":
            problems.append(f"{machine.resource} runs {runs}")
    return problems


def machines_are_made_alike(app: Application) -> list[str]:
    problems = []
    for name, machine in app.resources("AWS::StepFunctions::StateMachine").items():
        if machine.get("StateMachineType") != "STANDARD":
            problems.append(f"{name} is {machine.get('StateMachineType')}")
        if machine.get("TracingConfiguration") != {"Enabled": True}:
            problems.append(f"{name} is not traced")
        if not machine.get("LoggingConfiguration", {}).get("Destinations"):
            problems.append(f"{name} does not log")
    return problems


def the_machine_may_invoke_its_tasks_only(app: Application) -> list[str]:
    problems = []
    for machine in app.machines:
        may = {
            json.dumps(resource)
            for name, statement in _statements(app)
            if name == f"{machine.resource}Role" and "lambda:InvokeFunction" in listed(statement["Action"])
            for resource in listed(statement["Resource"])
        }
        must = {json.dumps({"Fn::GetAtt": [f"{name}Function", "Arn"]}) for name in machine.tasks}
        problems += [f"{machine.name} may, or must, invoke {resource}" for resource in sorted(may ^ must)]
    return problems


def leases_outlive_their_writers(app: Application) -> list[str]:
    return [
        f"{name} may still write when its lease has expired"
        for name in app.functions
        if calls(app.source_of(name), "lease")
        and app.functions[name]["Timeout"] >= LEASE_SECONDS - SPARE_SECONDS
        and (name not in MAY_OUTLIVE_ITS_LEASE or _writes_users(app, name))
    ]


def _writes_users(app: Application, function: str) -> bool:
    """Whether a function does, or what it hands its users and ledger to."""
    return any(calls(source, *USER_WRITES) for source in (app.source_of(function), app.sources["gateway/telling.py"]))


def variables_are_read_and_given(app: Application) -> list[str]:
    problems = []
    for name, function in app.functions.items():
        given = {
            variable
            for variable, value in function.get("Environment", {}).get("Variables", {}).items()
            if not variable.startswith("POWERTOOLS_") and value != NOTHING
        }
        read = _settings_read(app, name)
        problems += [f"{name} reads {variable}, which it is not given" for variable in sorted(read - given)]
        problems += [f"{name} is given {variable}, which it does not read" for variable in sorted(given - read)]
    return problems


# ------------------------------------------------------------------ before anything else


def what_stays_waits_for_the_setup(app: Application) -> list[str]:
    """Otherwise a first deployment that fails there leaves tables and pools behind."""
    return [
        f"{name} stays, and does not wait for Setup"
        for name, body in app.template["Resources"].items()
        if body.get("DeletionPolicy") == "Retain"
        and body["Type"] not in KEPT_BY_SAM
        and not _waits(app.template["Resources"], name, set())
    ]


def _waits(resources: dict[str, Any], name: str, seen: set[str]) -> bool:
    """Whether a resource is made after Setup, because it says so or refers to one that does."""
    seen.add(name)
    found = set(listed(resources[name].get("DependsOn", []))) | _references(resources[name].get("Properties", {}))
    return "Setup" in found or any(_waits(resources, each, seen) for each in (found & resources.keys()) - seen)


def _references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*(_references(each) for each in value))
    if not isinstance(value, dict):
        return set()
    named = {str(listed(value[how])[0]) for how in ("Ref", "Fn::GetAtt") if how in value}
    return named.union(*(_references(each) for each in value.values()))


def custom_resources_hear_of_new_code(app: Application) -> list[str]:
    """The version of their function is among their properties; and nobody waits for an hour when it does not answer."""
    problems = []
    for name, body in app.template["Resources"].items():
        if body["Type"].startswith("Custom::"):
            properties = body["Properties"]
            function = properties["ServiceToken"]["Fn::GetAtt"][0]
            version = app.template["Resources"].get(properties.get("CodeVersion", {}).get("Ref"), {})
            if version.get("Properties", {}).get("FunctionName") != {"Ref": function}:
                problems.append(f"{name} does not hear when {function} changes")
            if not app.functions[function]["Timeout"] < properties.get("ServiceTimeout", 3600) <= 480:
                problems.append(f"{name} is given up too soon, or too late")
    return problems


def numbers_are_whole(app: Application) -> list[str]:
    """Setup looks at every number that a function reads, for CloudFormation takes fractions. CloudWatch itself refuses
    most days that logs could be kept."""
    numbers = {name for name, body in app.template["Parameters"].items() if body["Type"] == "Number"}
    given = [value for one in app.functions.values() for value in one["Environment"]["Variables"].values()]
    read = numbers & {value["Ref"] for value in given if isinstance(value, dict) and "Ref" in value}
    asked, looks = app.template["Resources"]["Setup"]["Properties"], app.source_of("CheckSetupFunction")
    return [
        f"{name} may be a fraction"
        for name in sorted(read - {"LogRetentionDays"})
        if asked.get(name) != {"Ref": name} or f'"{name}"' not in looks
    ]


def versions_go_with_a_roll_back(app: Application) -> list[str]:
    """Lambda publishes no second version of the same code: one that stayed would keep it from being deployed again."""
    versions = app.resources("AWS::Lambda::Version")
    return [f"{name} stays" for name in versions if app.template["Resources"][name].get("DeletionPolicy") != "Delete"]


# ------------------------------------------------------------------ what is remembered


def access_logs_name_nobody(app: Application) -> list[str]:
    """No token, no claim, and no path, for which users choose the ids of their dapps."""
    told = {"requestId", "identity.sourceIp", "routeKey", "status", "responseLatency", "integrationErrorMessage"}
    told |= {"authorizer.reason", "authorizer.error"}
    return [
        f"{name} logs $context.{each}"
        for name, stage in app.resources("AWS::ApiGatewayV2::Stage").items()
        for each in re.findall(r"\$context\.([\w.]+)", stage["AccessLogSettings"]["Format"])
        if each not in told
    ]


def log_groups_forget(app: Application) -> list[str]:
    groups = app.resources("AWS::Logs::LogGroup")
    return [f"{name} keeps its logs for ever" for name, group in groups.items() if not group.get("RetentionInDays")]


def tables_are_safe(app: Application) -> list[str]:
    problems = []
    for name, table in app.resources("AWS::DynamoDB::Table").items():
        body = app.template["Resources"][name]
        checks = {
            "cannot be restored to a point in time": table.get("PointInTimeRecoverySpecification")
            == {"PointInTimeRecoveryEnabled": True},
            "is not encrypted with a key of KMS": table.get("SSESpecification", {}).get("SSEEnabled"),
            "can be deleted": table.get("DeletionProtectionEnabled"),
            "is not on demand": table.get("BillingMode") == "PAY_PER_REQUEST",
            "goes with the stack": body.get("DeletionPolicy") == "Retain",
            "goes when it is replaced": body.get("UpdateReplacePolicy") == "Retain",
        }
        problems += [f"{name} {problem}" for problem, fine in checks.items() if not fine]
    return problems


def pools_are_safe(app: Application) -> list[str]:
    problems = []
    for name, pool in app.resources("AWS::Cognito::UserPool").items():
        body = app.template["Resources"][name]
        attributes = {f"custom:{each['Name']}": each for each in pool.get("Schema", [])}
        checks = {
            "tells upper from lower case": pool.get("UsernameConfiguration") == {"CaseSensitive": False},
            "lets anybody sign up": pool.get("AdminCreateUserConfig", {}).get("AllowAdminCreateUserOnly"),
            "does not sign in by e-mail": pool.get("UsernameAttributes") == ["email"],
            "can be deleted": pool.get("DeletionProtection") == "ACTIVE",
            "goes with the stack": body.get("DeletionPolicy") == "Retain",
            "goes when it is replaced": body.get("UpdateReplacePolicy") == "Retain",
            "lacks an attribute, or has one too many": attributes.keys() == OURS,
            "has an attribute that cannot be written": all(each.get("Mutable") for each in attributes.values()),
            "counts dapps in something else than numbers": attributes.get("custom:num_dapps", {}).get(
                "AttributeDataType"
            )
            == "Number",
        }
        problems += [f"{name} {problem}" for problem, fine in checks.items() if not fine]
    return problems


def nobody_writes_their_own_limit(app: Application) -> list[str]:
    problems = []
    for name, client in app.resources("AWS::Cognito::UserPoolClient").items():
        # Without a list, a client may write every standard attribute: the e-mail as well.
        writable = set(client.get("WriteAttributes", ["email"]))
        problems += [f"{name} may write {attribute}" for attribute in sorted(writable & (OURS | {"email"}))]
        if client.get("PreventUserExistenceErrors") != "ENABLED":
            problems.append(f"{name} tells who has an account")
        if client.get("EnableTokenRevocation") is not True:
            problems.append(f"{name} cannot be signed out of")
    return problems


# ------------------------------------------------------------------ alarms


def _shown(value: Any) -> Any:
    """The value with references as "<name>", as if every condition were true."""
    match value:
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": parts}:
            return f"<{'.'.join(parts)}>"
        case {"Fn::If": [_, then, _]}:
            return _shown(then)
        case {"Fn::Sub": [text, more]}:
            return re.sub(r"\$\{(\w+)\}", lambda name: _shown(more).get(name[1], name[0]), _shown({"Fn::Sub": text}))
        case {"Fn::Sub": str(text)}:
            names = r"\$\{([\w:.]+)\}"
            return re.sub(names, lambda name: name[0] if name[1] in GIVEN_BY_SUB else f"<{name[1]}>", text)
        case dict():
            return {name: _shown(each) for name, each in value.items()}
        case list():
            return [_shown(each) for each in value]
    return value


def _alarms(app: Application) -> dict[str, dict[str, Any]]:
    return {name: _shown(alarm) for name, alarm in app.resources("AWS::CloudWatch::Alarm").items()}


def _dashboards(app: Application) -> list[dict[str, Any]]:
    return [dashboard(_shown(each)) for each in app.resources("AWS::CloudWatch::Dashboard").values()]


def _real(app: Application, metric: Metric) -> bool:
    """Whether something emits the metric, with these dimensions."""
    dimensions = dict(metric.dimensions)
    if metric.namespace == NAMESPACE:
        named = f'"{metric.name}"' in "".join(app.sources.values()) or metric.name in METRICS.values()
        return named and dimensions == {"service": "<AWS::StackName>"}
    names, emitted = OF_AWS.get(metric.namespace, ((), ()))
    known = {f"<{name}>": body["Type"] for name, body in app.template["Resources"].items()}
    kind = OF_WHAT.get(metric.namespace)
    routes = {(method.upper(), path) for method, path in _routes(app)}
    return (
        metric.name in emitted
        and dimensions.keys() == set(names)
        and known.get(dimensions[names[0]]) == kind
        and dimensions.get("Stage") in (None, "$default")
        and ("Method" not in dimensions or (dimensions["Method"], dimensions["Resource"]) in routes)
    )


def alarms_watch_what_is_counted(app: Application) -> list[str]:
    """An alarm on a name that nothing counts never rings."""
    return [
        f"{name} watches {metric}, which nothing counts"
        for name, alarm in _alarms(app).items()
        for metric, _, _ in of_alarm(alarm).values()
        if not _real(app, metric)
    ]


def alarms_say_what_to_do(app: Application) -> list[str]:
    problems = []
    for name, alarm in app.resources("AWS::CloudWatch::Alarm").items():
        description = alarm.get("AlarmDescription", "")
        if alarm.get("AlarmActions") != [{"Ref": "AlarmTopic"}]:
            problems.append(f"{name} tells nobody")
        if alarm.get("ActionsEnabled", True) is (name in SILENT):
            problems.append(f"{name} is silent, or is not, and should")
        if "(README, Runbook)." not in description:
            problems.append(f"{name} does not say where to read what to do")
        if len(description) > DESCRIPTION:
            problems.append(f"{name} says more than CloudWatch keeps")
    return problems


def alarms_can_be_evaluated(app: Application) -> list[str]:
    """CloudWatch looks back a day at most, with periods of an hour or longer a week."""
    problems = []
    hours = app.template["Parameters"]["NoEventHours"]["MaxValue"]
    for name, alarm in _alarms(app).items():
        given = alarm["EvaluationPeriods"]
        periods = hours if given == "<NoEventHours>" else given
        lengths = {period for _, _, period in of_alarm(alarm).values()}
        checks = {
            "has metrics of several periods": len(lengths) == 1,
            "looks back too far": periods * max(lengths) <= (7 * 86_400 if max(lengths) >= 3600 else 86_400),
            "needs more periods than it looks at": alarm.get("DatapointsToAlarm", 1) <= periods,
            "does not say what missing data are": "TreatMissingData" in alarm,
        }
        if "Metrics" in alarm:
            checks["does not add up all of its metrics"] = sorted(summed(alarm)) == sorted(of_alarm(alarm))
            checks["looks at the latest period alone, whose numbers may still be missing"] = periods > 1
        problems += [f"{name} {problem}" for problem, fine in checks.items() if not fine]
    return problems


def the_dashboard_shows_what_there_is(app: Application) -> list[str]:
    problems = []
    arns = sorted(f"<{name}.Arn>" for name in _alarms(app))
    for body in _dashboards(app):
        problems += [f"{metric} is nowhere emitted" for metric, _ in of_dashboard(body) if not _real(app, metric)]
        problems += [] if sorted(alarms_on(body)) == arns else ["not every alarm is on the dashboard, once"]
        taken: set[tuple[int, int]] = set()
        for widget in body["widgets"]:
            x, y, width, height = (widget[name] for name in ("x", "y", "width", "height"))
            place = {(column, row) for column in range(x, x + width) for row in range(y, y + height)}
            if place & taken or x + width > COLUMNS:
                problems.append(f"the widget at {x}, {y} lies over another, or beyond the edge")
            taken |= place
    return problems if _dashboards(app) else ["there is no dashboard"]


def mails_are_sent_to_who_wants_them(app: Application) -> list[str]:
    """Nobody is subscribed unless somebody is named."""
    body = app.template["Resources"].get("AlarmSubscription", {})
    wanted = {"TopicArn": {"Ref": "AlarmTopic"}, "Protocol": "email", "Endpoint": {"Ref": "AlarmEmail"}}
    fine = body.get("Condition") == "SendsAlarmMails" and body.get("Properties") == wanted
    return [] if fine else ["AlarmEmail is not who is told"]


# ------------------------------------------------------------------ how an update arrives, and is taken back


def _serving(app: Application) -> dict[str, str]:
    """Alias -> function, of the aliases through which a function is invoked."""
    others = {
        name: body for name, body in app.template["Resources"].items() if body["Type"] != "AWS::Lambda::Permission"
    }
    return {
        alias: properties["FunctionName"]["Ref"]
        for alias, properties in app.resources("AWS::Lambda::Alias").items()
        if alias in {name for each in others.values() for name in _names(each)}
    }


def _names(value: Any) -> Iterator[str]:
    """Everything that a value refers to: parameters, resources, conditions."""
    if isinstance(value, list):
        for each in value:
            yield from _names(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == "Ref" and isinstance(each, str):
                yield each
            elif key in ("Fn::GetAtt", "Fn::If"):
                yield each[0]
            elif key == "Fn::Sub":
                yield from re.findall(r"\$\{(\w+)", each if isinstance(each, str) else each[0])
            yield from _names(each)


def a_version_holds_nothing_that_a_parameter_changes(app: Application) -> list[str]:
    """SAM makes a version when the template's text changes, not when a parameter's value does: whoever is invoked by an
    alias would keep the old one. StripeMode is the same for the whole life of a stack."""
    changing = (app.template["Parameters"].keys() | app.template["Conditions"].keys()) - {"StripeMode"}
    return [
        f"{function} keeps the {name} that {variable} had when its code changed last"
        for function in _serving(app).values()
        for variable, value in app.functions[function].get("Environment", {}).get("Variables", {}).items()
        for name in sorted(set(_names(value)) & changing)
    ]


def fulfillment_is_started_through_its_alias(app: Application) -> list[str]:
    """IAM knows the machine by its own ARN, and the alias by a condition. The alias' own ARN would match nothing:
    https://docs.aws.amazon.com/step-functions/latest/dg/auth-version-alias.html"""
    machine, alias = {"Ref": "FulfillmentStateMachine"}, {"Ref": "FulfillmentStateMachineAliaslive"}
    only = {"ForAnyValue:StringEquals": {"states:StateMachineQualifier": "live"}}
    starters = {}
    for role, statement in _statements(app):
        if "FulfillmentStateMachine" in json.dumps(statement.get("Resource")):
            starters[role.removesuffix("Role")] = statement
    problems = [
        f"{name} may do {statement}"
        for name, statement in starters.items()
        if (statement["Action"], statement["Resource"], statement.get("Condition"))
        != ("states:StartExecution", machine, only)
    ]
    for name in app.functions:
        started = app.functions[name].get("Environment", {}).get("Variables", {}).get("STATE_MACHINE_ARN")
        starts = started is not None and bool(calls(app.source_of(name), "StateMachine"))
        if starts and started != alias:
            problems.append(f"{name} starts {started}")
        if starts != (name in starters):
            problems.append(f"{name} may start fulfillment, or does, but not both")
    return problems


def updates_are_gradual_and_taken_back(app: Application) -> list[str]:
    """A tenth first, watched by alarms that are there; with AllAtOnce everything at once, whatever rings."""
    resources, group = app.template["Resources"], app.resources("AWS::CodeDeploy::DeploymentGroup")
    shift = app.resources("AWS::StepFunctions::StateMachineAlias")["FulfillmentStateMachineAliaslive"]
    preference, deployment = shift["DeploymentPreference"], group["WebhookFunctionDeploymentGroup"]
    names = ("WebhookFailsAlarm", "WebhookCrashesAlarm", "FulfillmentFailsAlarm")
    watched = {"Enabled": True, "Alarms": [{"Name": {"Ref": name}} for name in names]}
    policy = resources["WebhookFunctionAliaslive"].get("UpdatePolicy", {}).get("CodeDeployLambdaAliasUpdate", {})
    checks = {
        "Rollout decides nothing": app.template["Conditions"].get("Gradual")
        == {"Fn::Equals": [{"Ref": "Rollout"}, "Gradual"]},
        "nobody decides on it": app.template["Parameters"]["Rollout"]["Default"] == "Gradual",
        "the webhook's alias jumps": policy.get("DeploymentGroupName") == {"Ref": "WebhookFunctionDeploymentGroup"},
        "the webhook is not shifted in steps": [
            each["Fn::Sub"][1]["ConfigName"] for each in deployment["DeploymentConfigName"]["Fn::If"][1:]
        ]
        == ["Canary10Percent10Minutes", "AllAtOnce"],
        "no alarm takes the webhook back": deployment["AlarmConfiguration"] == {"Fn::If": ["Gradual", watched, {}]},
        "an alarm does not take the webhook back": {"DEPLOYMENT_STOP_ON_ALARM", "DEPLOYMENT_FAILURE"}
        <= set(deployment["AutoRollbackConfiguration"]["Events"]),
        "the machine is not shifted in steps": [preference[each] for each in ("Type", "Percentage", "Interval")]
        == [
            {"Fn::If": ["Gradual", "CANARY", "ALL_AT_ONCE"]},
            {"Fn::If": ["Gradual", 10, NOTHING]},
            {"Fn::If": ["Gradual", 10, NOTHING]},
        ],
        "no alarm takes the machine back": preference["Alarms"]
        == {"Fn::If": ["Gradual", [{"Ref": names[-1]}], NOTHING]},
        "an alarm rings after the shift": all(
            alarm["Period"] * alarm["EvaluationPeriods"] <= 300
            for name, alarm in app.resources("AWS::CloudWatch::Alarm").items()
            if name in names
        ),
        "Stripe asks no alias": "WebhookFunctionAliaslive" in _names(_routes(app)[WEBHOOK]),
    }
    return [problem for problem, fine in checks.items() if not fine]


# ------------------------------------------------------------------ the way in and out


def the_way_in_is_throttled(app: Application) -> list[str]:
    problems = []
    stages = app.resources("AWS::ApiGatewayV2::Stage")
    for name, stage in stages.items():
        limits = stage.get("DefaultRouteSettings", {})
        if not (limits.get("ThrottlingRateLimit") and limits.get("ThrottlingBurstLimit")):
            problems.append(f"{name} is not throttled")
        if not stage.get("AccessLogSettings", {}).get("DestinationArn"):
            problems.append(f"{name} logs no requests")
    if not app.functions["WebhookFunction"].get("ReservedConcurrentExecutions"):
        problems.append("the webhook may use up the account's concurrency")
    return problems if stages else ["there is no way in"]


def what_destroys_is_slow(app: Application) -> list[str]:
    """A stolen right to call it must not destroy much before somebody notices."""
    problems = []
    for name, stage in app.resources("AWS::ApiGatewayV2::Stage").items():
        for method, path in (("POST", "/delete"), ("POST", "/hold")):
            rate = stage.get("RouteSettings", {}).get(f"{method} {path}", {}).get("ThrottlingRateLimit")
            if (method, path) not in _routes(app) or not rate or rate > 2:
                problems.append(f"{name} throttles {method} {path} to {rate}")
    return problems


def _apis(app: Application) -> Iterator[dict[str, Any]]:
    """Every API, as OpenAPI describes it."""
    return (api["Body"] for api in app.resources("AWS::ApiGatewayV2::Api").values())


def _routes(app: Application) -> dict[tuple[str, str], dict[str, Any]]:
    """(method, path) -> operation."""
    return {
        (method.upper(), path): operation
        for api in _apis(app)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    }


def _authorizers(operation: dict[str, Any]) -> list[set[str]]:
    """Each of the ways to get in, by what it asks for. SAM writes NONE where a route asks for nothing."""
    return [each.keys() - {"NONE"} for each in operation.get("security", [])] or [set()]


def the_only_open_route_is_the_webhook(app: Application) -> list[str]:
    """Stripe signs what it sends; everything else needs an authorizer."""
    routes = _routes(app)
    problems = [
        f"{method} {path} is open to everybody"
        for (method, path), operation in routes.items()
        if (method, path) != WEBHOOK and set() in _authorizers(operation)
    ]
    if WEBHOOK in routes and _authorizers(routes[WEBHOOK]) != [set()]:
        problems.append("Stripe cannot get in")
    return problems + [f"{' '.join(route)} is not there" for route in {WEBHOOK, *OPERATORS, *USERS} - routes.keys()]


def operators_sign_what_they_ask(app: Application) -> list[str]:
    """With SigV4, so that IAM says who may."""
    schemes = {name: each for api in _apis(app) for name, each in api["components"]["securitySchemes"].items()}
    iam = {name for name, each in schemes.items() if each.get("x-amazon-apigateway-authtype") == "awsSigv4"}
    return [
        f"{method} {path} is not IAM-authorised"
        for (method, path), operation in _routes(app).items()
        if (method, path) != WEBHOOK
        and not _is_for_users(path)
        and not all(len(way) == 1 and way <= iam for way in _authorizers(operation))
    ]


def users_show_their_token(app: Application) -> list[str]:
    """To the authorizer, which says whether they may at this very moment."""
    return [
        f"{method} {path} does not ask the authorizer"
        for (method, path), operation in _routes(app).items()
        if _is_for_users(path) and _authorizers(operation) != [{"LiveAccess"}]
    ]


def _is_for_users(path: str) -> bool:
    return path.split("/")[1] == "dapps"


def the_authorizer_is_asked_as_it_answers(app: Application) -> list[str]:
    """With payload 2.0, which it answers simply, and the header that it reads; as seldom as the parameter says."""
    schemes = [scheme for api in _apis(app) for scheme in api["components"]["securitySchemes"].items()]
    asked = [each["x-amazon-apigateway-authorizer"] for name, each in schemes if name == "LiveAccess"]
    problems = [] if asked else ["there is no authorizer"]
    for each in asked:
        checks = {
            "is asked for something else than requests": each.get("type") == "request",
            "is another function": "AuthorizeFunction" in _texts(each.get("authorizerUri")),
            "gets another payload": each.get("authorizerPayloadFormatVersion") == "2.0",
            "answers with a policy": each.get("enableSimpleResponses") is True,
            "knows tokens by something else": each.get("identitySource") == ["$request.header.Authorization"],
            "is kept for some time": each.get("authorizerResultTtlInSeconds") == {"Ref": "AuthorizerCacheSeconds"},
        }
        problems += [f"the authorizer {problem}" for problem, fine in checks.items() if not fine]
    if app.template["Parameters"]["AuthorizerCacheSeconds"].get("Default") != 0:
        problems.append("the authorizer's answers are kept although nobody said so")
    return problems


def functions_are_invoked_from_this_account_only(app: Application) -> list[str]:
    permissions = app.resources("AWS::Lambda::Permission")
    problems = [
        f"{name}: somebody else's {permission['Principal']} may invoke it"
        for name, permission in permissions.items()
        if "Fn::GetAtt" not in permission.get("SourceArn", {})
        and not any(":${AWS::AccountId}:" in text for text in _texts(permission.get("SourceArn")))
    ]
    expected = {"Action": "lambda:InvokeFunction", "FunctionName": {"Ref": "AuthorizeFunction"}}
    expected |= {"Principal": "apigateway.amazonaws.com", "SourceArn": {"Fn::Sub": AUTHORIZERS}}
    if permissions.get("AuthorizePermission") != expected:
        problems.append("not exactly the authorizers of this account's APIs may ask the authorizer")
    return problems


def claims_come_with_the_pool_that_is_made_here(app: Application) -> list[str]:
    """A pool of yours has triggers of yours. The tier Lite knows the first version only."""
    resources = app.template["Resources"]
    pools = app.resources("AWS::Cognito::UserPool")
    trigger = {"LambdaArn": {"Fn::GetAtt": ["AddClaimsFunction", "Arn"]}}
    trigger |= {"LambdaVersion": {"Fn::If": ["LiteUserPool", "V1_0", "V2_0"]}}
    allowed = app.resources("AWS::Lambda::Permission").get("AddClaimsPermission", {})
    checks = {
        "a pool that nobody asked for": all(resources[name].get("Condition") == "CreateUserPool" for name in pools),
        "a pool without the claims": all(
            pool.get("LambdaConfig") == {"PreTokenGenerationConfig": trigger} for pool in pools.values()
        ),
        "a pool of another tier": all(pool.get("UserPoolTier") == {"Ref": "UserPoolTier"} for pool in pools.values()),
        "versions by something else than the tier": app.template["Conditions"]["LiteUserPool"]
        == {"Fn::Equals": [{"Ref": "UserPoolTier"}, "LITE"]},
        "a pool that may not ask for them": (allowed.get("Principal"), allowed.get("FunctionName"))
        == ("cognito-idp.amazonaws.com", {"Ref": "AddClaimsFunction"}),
    }
    return [problem for problem, fine in checks.items() if not fine]


def answers_are_in_time(app: Application) -> list[str]:
    problems = []
    for (method, path), operation in _routes(app).items():
        called = list(_names(operation.get("x-amazon-apigateway-integration", {})))
        called = [_serving(app).get(each, each) for each in called if not each.startswith("AWS")]
        if len(called) != 1:
            problems.append(f"{method} {path} calls {called}")
        problems += [
            f"{method} {path}: nobody waits any more when {name} answers"
            for name in called
            if app.functions[name]["Timeout"] >= API_SECONDS
        ]
    if app.functions["AuthorizeFunction"]["Timeout"] > AUTHORIZER_SECONDS:
        problems.append("nobody waits any more when the authorizer answers")
    if app.functions["AddClaimsFunction"]["Timeout"] > TRIGGER_SECONDS:
        problems.append("Cognito does not wait any more for the claims")
    return problems


def outputs_are_there(app: Application) -> list[str]:
    outputs = app.template["Outputs"]
    problems = [f"the output {name} is missing" for name in sorted(OUTPUTS - outputs.keys())]
    return problems + [
        f"the output {name} does not name {function}"
        for name, function in FUNCTION_OUTPUTS.items()
        if outputs.get(name, {}).get("Value") != {"Fn::GetAtt": [function, "Arn"]}
    ]


def parameters_say_what_they_mean(app: Application) -> list[str]:
    plain = {"Architecture"}
    parameters = app.template["Parameters"].items()
    return [
        f"parameter {name} has no description"
        for name, each in parameters
        if not each.get("Description") and name not in plain
    ]


def nothing_secret_is_written_down(app: Application) -> list[str]:
    text = json.dumps([app.template, app.definitions, app.sources])
    found = re.findall(r"\b(?:sk|rk)_(?:live|test)_\w+|\bwhsec_\w+|\bAKIA\w{16}\b", text)
    return [f"a secret in the open: {secret[:10]}" for secret in found]


# ------------------------------------------------------------------ each rule, and what it would find


def _resource(name: str, **changes: Any) -> Break:
    return lambda app: app.template["Resources"][name]["Properties"].update(changes)


def _logging(name: str) -> Break:
    """The access log tells one thing more."""
    settings = {"Format": json.dumps({"more": f"$context.{name}"})}
    return lambda app: app.resources("AWS::ApiGatewayV2::Stage")["ApiApiGatewayDefaultStage"].update(
        AccessLogSettings=settings
    )


def _body(name: str, **changes: Any) -> Break:
    return lambda app: app.template["Resources"][name].update(changes)


def _retained(kind: str) -> Break:
    """One resource of a type is kept."""
    return lambda app: app.template["Resources"][next(iter(app.resources(kind)))].update(DeletionPolicy="Retain")


def _unmade(name: str) -> Break:
    """Does not wait for anything."""
    return lambda app: app.template["Resources"][name].pop("DependsOn")


def _lacking(name: str, key: str) -> Break:
    return lambda app: app.template["Resources"][name]["Properties"].pop(key)


def _routes_throttled(*routes: str, rate: int = 2) -> Break:
    limits = {route: {"ThrottlingRateLimit": rate} for route in routes}
    return lambda app: app.resources("AWS::ApiGatewayV2::Stage")["ApiApiGatewayDefaultStage"].update(
        RouteSettings=limits
    )


def _statement(name: str, **changes: Any) -> Break:
    def breaks(app: Application) -> None:
        policy = app.resources("AWS::IAM::Role")[name]["Policies"][0]
        policy["PolicyDocument"]["Statement"][0].update(changes)

    return breaks


def _conditional(name: str, **changes: Any) -> Break:
    """Changes the first statement, and has it depend on a condition."""

    def breaks(app: Application) -> None:
        statements = app.resources("AWS::IAM::Role")[name]["Policies"][0]["PolicyDocument"]["Statement"]
        statements[0] = {"Fn::If": ["CreateUserPool", NOTHING, {**statements[0], **changes}]}

    return breaks


def _variable(function: str, change: Callable[[dict[str, Any]], object]) -> Break:
    return lambda app: change(app.functions[function]["Environment"]["Variables"])


def _source(path: str, old: str, new: str) -> Break:
    return lambda app: app.sources.update({path: app.sources[path].replace(old, new)})


def _attributes(change: Callable[[list[dict[str, Any]]], object]) -> Break:
    return lambda app: change(app.resources("AWS::Cognito::UserPool")["UserPool"]["Schema"])


def _api(app: Application) -> dict[str, Any]:
    (api,) = _apis(app)
    return api


def _route(path: str, **operations: Any) -> Break:
    return lambda app: _api(app)["paths"].update({path: operations})


def _security(path: str, *security: dict[str, Any], method: str = "post") -> Break:
    return lambda app: _api(app)["paths"][path][method].update(security=list(security))


def _scheme(**changes: Any) -> Break:
    return lambda app: _api(app)["components"]["securitySchemes"]["AWS_IAM"].update(changes)


def _authorizer(**changes: Any) -> Break:
    def breaks(app: Application) -> None:
        _api(app)["components"]["securitySchemes"]["LiveAccess"]["x-amazon-apigateway-authorizer"].update(changes)

    return breaks


def _trigger(**changes: Any) -> Break:
    config = "PreTokenGenerationConfig"
    return lambda app: app.resources("AWS::Cognito::UserPool")["UserPool"]["LambdaConfig"][config].update(changes)


def _output(name: str, value: Any) -> Break:
    return lambda app: app.template["Outputs"][name].update(Value=value)


def _machine(name: str, **changes: Any) -> Break:
    return lambda app: app.resources("AWS::StepFunctions::StateMachine")[name].update(changes)


def _alarm(name: str = "NotReconciledAlarm", **changes: Any) -> Break:
    return lambda app: app.resources("AWS::CloudWatch::Alarm")[name].update(changes)


def _metric_of(alarm: str, number: int, **changes: Any) -> Break:
    def breaks(app: Application) -> None:
        app.resources("AWS::CloudWatch::Alarm")[alarm]["Metrics"][number].update(changes)

    return breaks


def _drawn(old: str, new: str) -> Break:
    """Another text in the dashboard's body."""

    def breaks(app: Application) -> None:
        body = app.resources("AWS::CloudWatch::Dashboard")["Dashboard"]["DashboardBody"]["Fn::Sub"]
        assert old in body[0]
        body[0] = body[0].replace(old, new, 1)

    return breaks


def _every_alarm(**changes: Any) -> Break:
    return lambda app: [each.update(changes) for each in app.resources("AWS::CloudWatch::Alarm").values()]


def _starts(function: str, **changes: Any) -> Break:
    """Changes what a function may start; a change to None takes that away."""

    def breaks(app: Application) -> None:
        (policy,) = app.resources("AWS::IAM::Role")[f"{function}Role"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement["Sid"] == "StartFulfillment":
                statement.update(changes)
                for name in [name for name, value in changes.items() if value is None]:
                    del statement[name]

    return breaks


def _shift(**changes: Any) -> Break:
    alias = "FulfillmentStateMachineAliaslive"
    kind = "AWS::StepFunctions::StateMachineAlias"
    return lambda app: app.resources(kind)[alias]["DeploymentPreference"].update(changes)


def _shards(number: int, **changes: Any) -> Break:
    policy = SHARDS[0]
    return lambda app: app.resources("AWS::IAM::Policy")[policy]["PolicyDocument"]["Statement"][number].update(changes)


BROKEN: list[tuple[Rule, Break]] = [
    (functions_and_files_are_one_to_one, lambda app: app.sources.update({"new_step.py": ""})),
    (functions_and_files_are_one_to_one, lambda app: app.sources.pop("run_due.py")),
    (functions_and_files_are_one_to_one, _resource("RunDueFunction", Handler="webhook.handler")),
    (functions_are_made_alike, _resource("RunDueFunction", Runtime="python3.12")),
    (functions_are_made_alike, _lacking("RunDueFunction", "TracingConfig")),
    (functions_are_made_alike, _lacking("RunDueFunction", "LoggingConfig")),
    (functions_are_made_alike, _lacking("RunDueFunction", "Description")),
    (
        every_function_has_a_role_of_its_own,
        _resource("RunDueFunction", Role={"Fn::GetAtt": ["WebhookFunctionRole", "Arn"]}),
    ),
    (every_function_has_a_role_of_its_own, lambda app: app.template["Resources"].pop("RunDueFunctionRole")),
    (
        managed_policies_are_few,
        _resource("RunDueFunctionRole", ManagedPolicyArns=["arn:aws:iam::aws:policy/AdministratorAccess"]),
    ),
    (resources_are_named, _statement("RunDueFunctionRole", Resource="*")),
    (resources_are_named, _statement("RunDueFunctionRole", Resource={"Fn::Sub": "${OrdersTable.Arn}/index/*"})),
    (resources_are_named, _statement("FulfillmentStateMachineRole", Resource="*")),
    (resources_are_named, _conditional("RunDueFunctionRole", Resource="*")),
    (actions_are_named, _statement("RunDueFunctionRole", Action="dynamodb:*")),
    (actions_are_named, _conditional("RunDueFunctionRole", Action="dynamodb:*")),
    (actions_are_named, _statement("RunDueFunctionRole", Action=["dynamodb:Query", "states:Start*"])),
    (statements_say_what_they_are_for, _statement("RunDueFunctionRole", Sid="")),
    (statements_say_what_they_are_for, _conditional("RunDueFunctionRole", Sid="")),
    (resources_are_named, _statement("OffboardingStateMachineRole", Resource="*")),
    (
        statements_say_what_they_are_for,
        lambda app: app.resources("AWS::IAM::Policy")[SHARDS[0]]["PolicyDocument"]["Statement"][0].pop("Sid"),
    ),
    *(
        (schedules_start_their_machine_only, _statement(role, Resource={"Ref": "FulfillmentStateMachine"}))
        for role in sorted(SCHEDULERS)
    ),
    *(
        (shards_are_the_machines_own, _shards(number, **changes))
        for number, changes in (
            (0, {"Resource": {"Ref": "FulfillmentStateMachine"}}),
            (1, {"Resource": "*"}),
            (1, {"Action": "states:*"}),
        )
    ),
    (definitions_and_machines_are_one_to_one, lambda app: app.definitions.pop("offboarding")),
    (definitions_and_machines_are_one_to_one, lambda app: app.definitions.update(another={"States": {}})),
    (
        definitions_and_machines_are_one_to_one,
        _machine("OffboardingStateMachine", DefinitionS3Location={"Key": "statemachine/fulfillment.asl.json"}),
    ),
    (machines_are_made_alike, _machine("OffboardingStateMachine", StateMachineType="EXPRESS")),
    *(
        (alarms_watch_what_is_counted, _alarm(**changes))
        for changes in (
            {"MetricName": "Reconciledd"},
            {"Namespace": "Other"},
            {"Dimensions": []},
            {"Dimensions": [{"Name": "service", "Value": "gateway"}]},
        )
    ),
    (alarms_watch_what_is_counted, _alarm("WebhookErrorsAlarm", MetricName="5XXError")),
    (
        alarms_watch_what_is_counted,
        _alarm("WebhookCrashesAlarm", Dimensions=[{"Name": "FunctionName", "Value": "webhook"}]),
    ),
    *(
        (
            alarms_watch_what_is_counted,
            _alarm(
                "WebhookErrorsAlarm",
                Dimensions=[
                    {"Name": name, "Value": value}
                    for name, value in {
                        "ApiId": {"Ref": "Api"},
                        "Stage": "$default",
                        "Method": "POST",
                        "Resource": "/create",
                        **changes,
                    }.items()
                ],
            ),
        )
        for changes in (
            {"Stage": "Prod"},
            {"Resource": "/created"},
            {"Method": "GET"},
            {"ApiId": {"Ref": "AlarmTopic"}},
        )
    ),
    (
        alarms_watch_what_is_counted,
        lambda app: app.resources("AWS::CloudWatch::Alarm")["ThrottledAlarm"]["Metrics"][0]["MetricStat"][
            "Metric"
        ].update(MetricName="Throttles"),
    ),
    (alarms_watch_what_is_counted, _source("read_billing.py", '"LimitClamped"', '"LimitCut"')),
    (alarms_say_what_to_do, _alarm(AlarmActions=[])),
    (alarms_say_what_to_do, _alarm(ActionsEnabled=False)),
    (alarms_say_what_to_do, _alarm("WebhookFailsAlarm", ActionsEnabled=True)),
    (alarms_say_what_to_do, _alarm(AlarmDescription="")),
    (alarms_say_what_to_do, _alarm(AlarmDescription="x" * 1024 + "(README, Runbook).")),
    (alarms_can_be_evaluated, _alarm(EvaluationPeriods=289)),
    (alarms_can_be_evaluated, _alarm("NothingReconciledAlarm", EvaluationPeriods=169)),
    (alarms_can_be_evaluated, _alarm("MissedEventsAlarm", DatapointsToAlarm=4)),
    (alarms_can_be_evaluated, _lacking("NotReconciledAlarm", "TreatMissingData")),
    (alarms_can_be_evaluated, lambda app: app.template["Parameters"]["NoEventHours"].update(MaxValue=169)),
    (alarms_can_be_evaluated, _metric_of("ThrottledAlarm", 3, Expression="FILL(services, 0) + FILL(machine, 0)")),
    (alarms_can_be_evaluated, _alarm("HeldOrCompedPayingAlarm", EvaluationPeriods=1)),
    (
        alarms_can_be_evaluated,
        lambda app: app.resources("AWS::CloudWatch::Alarm")["ThrottledAlarm"]["Metrics"][0]["MetricStat"].update(
            Period=60
        ),
    ),
    *(
        (the_dashboard_shows_what_there_is, _drawn(old, new))
        for old, new in (
            ('"EventReceived"', '"EventsReceived"'),
            ('"${MailFailedAlarm.Arn}", ', ""),
            ('"${MailFailedAlarm.Arn}"', '"${MailFailedAlarm.Arn}", "${MailFailedAlarm.Arn}"'),
            ('"${LinkUserFunction}"', '"${LinkUsersFunction}"'),
            ('"/create"', '"/created"'),
            ('"x": 8, "y": 8', '"x": 7, "y": 8'),
            ('"x": 16, "y": 8', '"x": 17, "y": 8'),
        )
    ),
    (the_dashboard_shows_what_there_is, lambda app: app.template["Resources"].pop("Dashboard")),
    (mails_are_sent_to_who_wants_them, _body("AlarmSubscription", Condition="CreateUserPool")),
    (mails_are_sent_to_who_wants_them, _resource("AlarmSubscription", Endpoint="somebody@example.com")),
    (alarms_watch_what_is_counted, _resource("WebhookFailsAlarm", MetricName="WebhookUnavailables")),
    (alarms_watch_what_is_counted, _resource("WebhookCrashesAlarm", MetricName="Error")),
    (alarms_watch_what_is_counted, _resource("FulfillmentFailsAlarm", Dimensions=[])),
    (
        managed_policies_are_few,
        lambda app: app.resources("AWS::IAM::Role")["CodeDeployServiceRole"].update(
            ManagedPolicyArns=["arn:aws:iam::aws:policy/AdministratorAccess"]
        ),
    ),
    (managed_policies_are_few, _resource("RunDueFunctionRole", ManagedPolicyArns=[SHIFTS_TRAFFIC[1]])),
    *(
        (what_runs_by_itself_is_switched_on, by)
        for name in SCHEDULES
        for by in (
            _resource(name, State="DISABLED"),
            _resource(name, ScheduleExpression="rate(2 days)"),
            _resource(name, Targets=[{"Arn": {"Fn::GetAtt": ["WebhookFunction", "Arn"]}, "Id": "webhook"}]),
            _resource(name, Targets=[]),
            _body(name, Condition="CreateUserPool"),
            lambda app, name=name: app.template["Resources"].pop(name),
        )
    ),
    (
        what_runs_by_itself_is_switched_on,
        lambda app: app.template["Parameters"]["ReconciliationState"].update(Default="DISABLED"),
    ),
    *(
        (what_runs_by_itself_is_switched_on, by)
        for name in ("RunDueFunctionEveryFiveMinutesPermission", "DoctorFunctionEverySixHoursPermission")
        for by in (
            lambda app, name=name: app.template["Resources"].pop(name),
            _resource(name, FunctionName={"Ref": "WebhookFunction"}),
        )
    ),
    *(
        (silence_is_heard, by)
        for alarm in ("RunDueSilentAlarm", "DoctorSilentAlarm", "NothingReconciledAlarm")
        for by in (
            _alarm(alarm, ComparisonOperator="GreaterThanOrEqualToThreshold"),
            _alarm(alarm, Statistic="Maximum"),
            lambda app, alarm=alarm: app.template["Resources"].pop(alarm),
        )
    ),
    (silence_is_heard, _alarm("RunDueSilentAlarm", TreatMissingData="notBreaching")),
    (silence_is_heard, _alarm("DoctorSilentAlarm", TreatMissingData="ignore")),
    (silence_is_heard, _alarm("DoctorSilentAlarm", EvaluationPeriods=6)),
    (silence_is_heard, _alarm("NothingReconciledAlarm", EvaluationPeriods=24)),
    *(
        (
            a_version_holds_nothing_that_a_parameter_changes,
            _variable("WebhookFunction", lambda given, v=value: given.update(V=v)),
        )
        for value in (
            {"Ref": "GracePeriodHours"},
            {"Fn::Sub": "${GracePeriodHours} hours"},
            {"Fn::Sub": ["${Hours} hours", {"Hours": {"Ref": "GracePeriodHours"}}]},
            {"Fn::If": ["CreateUserPool", "ours", "theirs"]},
        )
    ),
    (
        a_version_holds_nothing_that_a_parameter_changes,
        lambda app: app.template["Resources"].update(
            ReadBillingAlias={
                "Type": "AWS::Lambda::Alias",
                "Properties": {"Name": "live", "FunctionName": {"Ref": "ReadBillingFunction"}},
            },
            Asks={"Type": "Custom::Asks", "Properties": {"Of": {"Ref": "ReadBillingAlias"}}},
        ),
    ),
    *(
        (fulfillment_is_started_through_its_alias, _starts(name, **changes))
        for name in ("WebhookFunction", "MendDriftFunction")
        for changes in (
            {"Condition": None},
            {"Condition": {"ForAnyValue:StringEquals": {"states:StateMachineQualifier": "1"}}},
            {"Condition": None, "Resource": {"Ref": "FulfillmentStateMachineAliaslive"}},
            {"Action": ["states:StartExecution", "states:StopExecution"]},
        )
    ),
    (
        fulfillment_is_started_through_its_alias,
        _variable("RunDueFunction", lambda given: given.update(STATE_MACHINE_ARN={"Ref": "FulfillmentStateMachine"})),
    ),
    (fulfillment_is_started_through_its_alias, _source("run_due.py", "StateMachine(", "Machine(")),
    *(
        (updates_are_gradual_and_taken_back, by)
        for by in (
            lambda app: app.template["Conditions"].update(Gradual={"Fn::Equals": [{"Ref": "Rollout"}, "AllAtOnce"]}),
            lambda app: app.template["Parameters"]["Rollout"].update(Default="AllAtOnce"),
            _body("WebhookFunctionAliaslive", UpdatePolicy={}),
            _resource("WebhookFunctionDeploymentGroup", AlarmConfiguration={}),
            _resource("WebhookFunctionDeploymentGroup", AutoRollbackConfiguration={"Enabled": False, "Events": []}),
            _shift(Type="ALL_AT_ONCE"),
            _shift(Percentage=50),
            _shift(Alarms=[]),
            _every_alarm(Period=3600),
            _every_alarm(EvaluationPeriods=60),
            lambda app: _api(app)["paths"]["/create"]["post"]["x-amazon-apigateway-integration"].update(
                uri={"Fn::Sub": "functions/${WebhookFunction.Arn}/invocations"}
            ),
        )
    ),
    (machines_are_made_alike, _lacking("OffboardingStateMachine", "TracingConfiguration")),
    (machines_are_made_alike, _lacking("OffboardingStateMachine", "LoggingConfiguration")),
    *(
        (the_machine_may_invoke_its_tasks_only, _statement(role, Resource={"Fn::GetAtt": ["WebhookFunction", "Arn"]}))
        for role in (f"{name}StateMachineRole" for name in MACHINES)
    ),
    *(
        (leases_outlive_their_writers, _resource(name, Timeout=LEASE_SECONDS - SPARE_SECONDS))
        for name in (
            "CreateUserFunction",
            "SetLiveAccessFunction",
            "DeleteUserFunction",
            "HoldUserFunction",
            "UpdateOrdersFunction",
            "WriteTombstoneFunction",
        )
    ),
    (
        leases_outlive_their_writers,
        _source("mark_fulfilled.py", "teller.tell(", "users.enable(run.sub), teller.tell("),
    ),
    (
        leases_outlive_their_writers,
        _source("gateway/telling.py", "self.ledger.told(", "self.users.enable(sub), self.ledger.told("),
    ),
    (variables_are_read_and_given, _variable("RunDueFunction", lambda given: given.pop("STATE_MACHINE_ARN"))),
    (variables_are_read_and_given, _variable("RunDueFunction", lambda given: given.update(USER_POOL_ID="pool"))),
    (variables_are_read_and_given, _source("run_due.py", '"STRIPE_MODE"', '"STRIPE_MODUS"')),
    (variables_are_read_and_given, _source("lookup_user.py", '"EMAIL_CHANGE"', '"EMAIL_CHANGES"')),
    (variables_are_read_and_given, _source("delete_account.py", '"LOG_RETENTION_DAYS"', '"LOG_DAYS"')),
    (variables_are_read_and_given, _source("mark_fulfilled.py", 'optional("PAYMENT', 'optional("OTHER')),
    (
        variables_are_read_and_given,
        _source("gateway/tokens.py", "class Tokens", "COLOUR = required('COLOUR')\n\n\nclass Tokens"),
    ),
    (variables_are_read_and_given, _variable("AuthorizeFunction", lambda given: given.pop("TOKEN_ISSUER"))),
    (variables_are_read_and_given, _variable("AddClaimsFunction", lambda given: given.update(USER_POOL_ID="pool"))),
    (variables_are_read_and_given, _source("authorize.py", '"TOKEN_USE"', '"TOKEN_USES"')),
    (
        variables_are_read_and_given,
        _source("gateway/people.py", "def user_of", "COLOUR = required('COLOUR')\n\n\ndef user_of"),
    ),
    *((what_stays_waits_for_the_setup, _unmade(name)) for name in ("OrdersTable", "HashKeySecret", "UserPool")),
    *(
        (custom_resources_hear_of_new_code, _resource(name, **changes))
        for name in ("Setup", "KnownAccount", "WebhookEndpoint")
        for changes in ({"CodeVersion": {"Ref": "WebhookFunction"}}, {"ServiceTimeout": 3600}, {"ServiceTimeout": 200})
    ),
    (numbers_are_whole, _lacking("Setup", "GracePeriodHours")),
    (numbers_are_whole, _source("check_setup.py", '"GracePeriodHours"', '"Hours"')),
    (numbers_are_whole, _variable("WebhookFunction", lambda given: given.update(HOURS={"Ref": "NoEventHours"}))),
    (versions_go_with_a_roll_back, _retained("AWS::Lambda::Version")),
    *(
        (access_logs_name_nobody, _logging(name))
        for name in ("path", "authorizer.sub", "authorizer.claims.email", "identity.userAgent")
    ),
    (log_groups_forget, _lacking("FunctionLogs", "RetentionInDays")),
    (tables_are_safe, _lacking("OrdersTable", "PointInTimeRecoverySpecification")),
    (tables_are_safe, _resource("OrdersTable", SSESpecification={"SSEEnabled": False})),
    (tables_are_safe, _lacking("OrdersTable", "DeletionProtectionEnabled")),
    (tables_are_safe, _lacking("OrdersTable", "BillingMode")),
    (tables_are_safe, _body("OrdersTable", DeletionPolicy="Delete")),
    (tables_are_safe, _body("OrdersTable", UpdateReplacePolicy="Delete")),
    (pools_are_safe, _lacking("UserPool", "UsernameConfiguration")),
    (pools_are_safe, _lacking("UserPool", "AdminCreateUserConfig")),
    (pools_are_safe, _resource("UserPool", UsernameAttributes=["email", "phone_number"])),
    (pools_are_safe, _lacking("UserPool", "DeletionProtection")),
    (pools_are_safe, _body("UserPool", DeletionPolicy="Delete")),
    (pools_are_safe, _body("UserPool", UpdateReplacePolicy="Delete")),
    (pools_are_safe, _attributes(lambda schema: schema.pop())),
    (pools_are_safe, _attributes(lambda schema: schema[0].update(Mutable=False))),
    (pools_are_safe, _attributes(lambda schema: schema[0].update(AttributeDataType="String"))),
    (nobody_writes_their_own_limit, _resource("UserPoolClient", WriteAttributes=["name", "custom:num_dapps"])),
    (nobody_writes_their_own_limit, _resource("UserPoolClient", WriteAttributes=["email"])),
    (nobody_writes_their_own_limit, _lacking("UserPoolClient", "WriteAttributes")),
    (nobody_writes_their_own_limit, _lacking("UserPoolClient", "PreventUserExistenceErrors")),
    (nobody_writes_their_own_limit, _lacking("UserPoolClient", "EnableTokenRevocation")),
    (the_way_in_is_throttled, _lacking("ApiApiGatewayDefaultStage", "DefaultRouteSettings")),
    (the_way_in_is_throttled, _lacking("ApiApiGatewayDefaultStage", "AccessLogSettings")),
    (the_way_in_is_throttled, _lacking("WebhookFunction", "ReservedConcurrentExecutions")),
    (the_way_in_is_throttled, lambda app: app.template["Resources"].pop("ApiApiGatewayDefaultStage")),
    (what_destroys_is_slow, _lacking("ApiApiGatewayDefaultStage", "RouteSettings")),
    (what_destroys_is_slow, _routes_throttled("POST /delete", "POST /bans")),
    (what_destroys_is_slow, _routes_throttled("POST /delete", "POST /hold", rate=100)),
    (the_only_open_route_is_the_webhook, _route("/delete", post={"responses": {}})),
    (the_only_open_route_is_the_webhook, _route("/create", get={"security": [{"AWS_IAM": []}]})),
    *(
        (the_only_open_route_is_the_webhook, _security("/delete", *security))
        for security in ([], [{}], [{"NONE": []}], [{"AWS_IAM": []}, {"NONE": []}])
    ),
    (the_only_open_route_is_the_webhook, _security("/create", {"AWS_IAM": []})),
    (the_only_open_route_is_the_webhook, lambda app: _api(app)["paths"].pop("/hold")),
    (the_only_open_route_is_the_webhook, lambda app: _api(app)["paths"]["/dapps"].pop("get")),
    (the_only_open_route_is_the_webhook, _security("/dapps/{id}", method="delete")),
    (operators_sign_what_they_ask, _security("/read", {"Visitors": []})),
    (operators_sign_what_they_ask, _security("/read", {"AWS_IAM": []}, {"Visitors": []})),
    (operators_sign_what_they_ask, _security("/read", {"NONE": []})),
    (operators_sign_what_they_ask, _security("/hold", {"LiveAccess": []})),
    (operators_sign_what_they_ask, _route("/dapp", post={"security": [{"LiveAccess": []}]})),
    (operators_sign_what_they_ask, _scheme(**{"x-amazon-apigateway-authtype": "custom"})),
    *(
        (users_show_their_token, _security(path, *security, method=method.lower()))
        for method, path in sorted(USERS)
        for security in ([{"AWS_IAM": []}], [{"LiveAccess": []}, {"AWS_IAM": []}], [{"NONE": []}], [])
    ),
    (users_show_their_token, _route("/dapps/all", get={"security": [{"AWS_IAM": []}]})),
    (the_authorizer_is_asked_as_it_answers, _authorizer(type="token")),
    (
        the_authorizer_is_asked_as_it_answers,
        _authorizer(authorizerUri={"Fn::Sub": "${ReserveDappFunction.Arn}/invocations"}),
    ),
    (the_authorizer_is_asked_as_it_answers, _authorizer(authorizerPayloadFormatVersion="1.0")),
    (the_authorizer_is_asked_as_it_answers, _authorizer(enableSimpleResponses=False)),
    (the_authorizer_is_asked_as_it_answers, _authorizer(identitySource=["$request.querystring.token"])),
    (the_authorizer_is_asked_as_it_answers, _authorizer(authorizerResultTtlInSeconds=300)),
    (
        the_authorizer_is_asked_as_it_answers,
        lambda app: app.template["Parameters"]["AuthorizerCacheSeconds"].update(Default=300),
    ),
    (
        the_authorizer_is_asked_as_it_answers,
        lambda app: _api(app)["components"]["securitySchemes"].pop("LiveAccess"),
    ),
    (functions_are_invoked_from_this_account_only, _lacking("AuthorizePermission", "SourceArn")),
    (functions_are_invoked_from_this_account_only, _lacking("AddClaimsPermission", "SourceArn")),
    (
        functions_are_invoked_from_this_account_only,
        _resource("AuthorizePermission", SourceArn={"Fn::Sub": AUTHORIZERS.replace("${AWS::AccountId}", "*")}),
    ),
    (
        functions_are_invoked_from_this_account_only,
        _resource("AuthorizePermission", SourceArn={"Fn::Sub": AUTHORIZERS.removesuffix("/authorizers/*")}),
    ),
    (functions_are_invoked_from_this_account_only, _resource("AuthorizePermission", Principal="*")),
    (
        functions_are_invoked_from_this_account_only,
        lambda app: app.template["Resources"].pop("AuthorizePermission"),
    ),
    (claims_come_with_the_pool_that_is_made_here, _body("UserPool", Condition="LiteUserPool")),
    (claims_come_with_the_pool_that_is_made_here, _lacking("UserPool", "LambdaConfig")),
    (claims_come_with_the_pool_that_is_made_here, _lacking("UserPool", "UserPoolTier")),
    (claims_come_with_the_pool_that_is_made_here, _trigger(LambdaVersion="V2_0")),
    (
        claims_come_with_the_pool_that_is_made_here,
        _trigger(LambdaVersion={"Fn::If": ["LiteUserPool", "V2_0", "V1_0"]}),
    ),
    (
        claims_come_with_the_pool_that_is_made_here,
        _trigger(LambdaArn={"Fn::GetAtt": ["AuthorizeFunction", "Arn"]}),
    ),
    (
        claims_come_with_the_pool_that_is_made_here,
        lambda app: app.template["Conditions"].update(LiteUserPool={"Fn::Equals": [{"Ref": "UserPoolTier"}, "PLUS"]}),
    ),
    (claims_come_with_the_pool_that_is_made_here, lambda app: app.template["Resources"].pop("AddClaimsPermission")),
    (answers_are_in_time, _resource("DeleteAccountFunction", Timeout=30)),
    (answers_are_in_time, _resource("ReserveDappFunction", Timeout=30)),
    (answers_are_in_time, _resource("AuthorizeFunction", Timeout=11)),
    (answers_are_in_time, _resource("AddClaimsFunction", Timeout=6)),
    (answers_are_in_time, lambda app: _api(app)["paths"]["/read"]["post"].pop("x-amazon-apigateway-integration")),
    *((outputs_are_there, lambda app, name=name: app.template["Outputs"].pop(name)) for name in sorted(OUTPUTS)),
    *((outputs_are_there, lambda app, name=name: app.template["Outputs"].pop(name)) for name in FUNCTION_OUTPUTS),
    (outputs_are_there, _output("AuthorizerArn", {"Ref": "AuthorizeFunction"})),
    (outputs_are_there, _output("AddClaimsArn", {"Fn::GetAtt": ["AuthorizeFunction", "Arn"]})),
    (parameters_say_what_they_mean, lambda app: app.template["Parameters"]["MaxDapps"].pop("Description")),
    (
        nothing_secret_is_written_down,
        _variable("WebhookFunction", lambda given: given.update(KEY="sk_test_" + "1" * 9)),
    ),
    (nothing_secret_is_written_down, _source("webhook.py", "import time", f"SECRET = 'whsec_{1:09}'")),
]
RULES = list(dict.fromkeys(rule for rule, _ in BROKEN))


@pytest.mark.parametrize("rule", RULES)
def test_the_template_keeps_the_rule(rule: Rule) -> None:
    assert rule(application()) == []


@pytest.mark.parametrize(("rule", "by"), BROKEN)
def test_the_rule_finds_a_broken_template(rule: Rule, by: Break) -> None:
    assert rule(broken(by)) != []


def test_every_lease_has_a_writer() -> None:
    """Otherwise the rule about leases would look at nothing."""
    app = application()
    writers = {name for name in app.functions if calls(app.source_of(name), "lease")}
    tasks = [(name, task) for machine in app.machines for name, task in machine.tasks.items()]
    looked_at_again = {f"{name}Function" for name, task in tasks if task["Next"] == "ReadBilling"}
    deleting = {"WriteTombstoneFunction", "DeleteUserFunction"}
    operators = {"HoldUserFunction", "UpdateOrdersFunction"}
    assert writers == looked_at_again | deleting | operators | MAY_OUTLIVE_ITS_LEASE


@pytest.mark.parametrize("hours", ["0", "72"])
@pytest.mark.parametrize("state", ["ENABLED", "DISABLED"])
def test_what_is_not_deployed_is_on_no_dashboard(hours: str, state: str) -> None:
    template = Template(REPOSITORY / "template.yaml", {"NoEventHours": hours, "ReconciliationState": state})
    for resource in template.in_order():
        template.created(resource.logical_id, resource.logical_id, Arn=f"arn:{resource.logical_id}")
    alarms = {resource.logical_id for resource in template.of_type("AWS::CloudWatch::Alarm")}
    assert ("NoEventAlarm" in alarms) is (hours != "0")
    assert ("NothingReconciledAlarm" in alarms) is (state == "ENABLED")
    (found,) = template.of_type("AWS::CloudWatch::Dashboard")
    shown = alarms_on(dashboard(template.resolve(found.properties)))
    assert sorted(shown) == sorted(f"arn:{name}" for name in alarms)


@pytest.mark.parametrize("email", ["", "night@example.com"])
def test_an_address_is_subscribed_when_there_is_one(email: str) -> None:
    template = Template(REPOSITORY / "template.yaml", {"AlarmEmail": email})
    assert len(template.of_type("AWS::SNS::Subscription")) == bool(email)


# ------------------------------------------------------------------ cfn-lint


# SAM writes the authorizer's ARN with the partition of the region that it translates for.
BY_SAM = {("I3042", "Api")}


def linted(template: dict[str, Any]) -> list[str]:
    """cfn-lint's errors, warnings and remarks, but for what is not ours."""
    found = lint(json.dumps(template), config=ManualArgs(regions=["us-east-1", "eu-central-1"], include_checks=["I"]))
    return [str(match) for match in found if (match.rule.id, *match.path[1:2]) not in BY_SAM]


def _with_the_definitions(app: Application) -> dict[str, Any]:
    """cfn-lint looks at no definition in a file, so it gets the machines with their definitions in them."""
    for machine in app.machines:
        properties = app.template["Resources"][machine.resource]["Properties"]
        del properties["DefinitionS3Location"]
        properties["Definition"] = machine.definition
    return app.template


def test_cfn_lint_finds_nothing() -> None:
    assert linted(application().template) == []


def test_cfn_lint_finds_nothing_in_the_definitions() -> None:
    assert linted(_with_the_definitions(application())) == []


@pytest.mark.parametrize(
    "by",
    [
        _resource("RunDueFunction", Timeout=1000),
        _resource("RunDueFunction", Role={"Fn::GetAtt": ["NoRole", "Arn"]}),
        lambda app: app.template["Resources"]["FunctionLogs"].pop("DeletionPolicy"),
        lambda app: app.definitions["fulfillment"]["States"]["LookupUser"].update(Type="Tusk"),
        lambda app: app.definitions["offboarding"]["States"]["AwaitIndexes"].update(Type="Weight"),
    ],
    ids=[
        "a value out of range",
        "a reference to nothing",
        "a remark",
        "a state of no type",
        "another in the other machine",
    ],
)
def test_cfn_lint_finds_a_broken_template(by: Break) -> None:
    assert linted(_with_the_definitions(broken(by))) != []
