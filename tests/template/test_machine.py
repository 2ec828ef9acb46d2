"""The definition of the state machine, checked by rules of our own: neither moto nor cfn-lint looks at these."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.access import Access, Target, User
from gateway.ledger import ATTEMPT_SECONDS, LEASE_SECONDS
from tests.template.conftest import Application, Break, Rule, application, broken, calls

# What the Lambda service, and the state machine itself, answer when a function could not do its work.
LAMBDA_ERRORS = {
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Sandbox.Timedout",
    "States.Timeout",
}
RETRIER_FIELDS = {"ErrorEquals", "IntervalSeconds", "MaxAttempts", "BackoffRate", "MaxDelaySeconds", "JitterStrategy"}
COMMON_FIELDS = {"Type", "Comment"}
FIELDS = {
    "Task": {"Resource", "Parameters", "TimeoutSeconds", "ResultPath", "Retry", "Catch", "Next"},
    "Choice": {"Choices", "Default"},
    "Succeed": set(),
    "Fail": {"ErrorPath", "CausePath"},
}
# Under which path a state finds what (functions/gateway/step.py).
PATHS = {
    "$.billing.access": {each.name for each in dataclasses.fields(Access)},
    "$.lookup.user": set(User(exists=False).facts()),
    "$.lookup.target": {each.name for each in dataclasses.fields(Target)},
}
SPARE_SECONDS = 5  # between the end of a writing Lambda and the end of its lease
# MarkFulfilled has to close ten thousand orders, but holds the lease around publishing alone, and writes no user under
# it: where it expires all the same, a notice is published twice, with one id.
MAY_OUTLIVE_ITS_LEASE = {"MarkFulfilledFunction"}
USER_WRITES = ("create", "update", "enable", "disable", "sign_out", "rename", "invite_again", "link", "record_change")


def snake(name: str) -> str:
    """LookupUser -> lookup_user"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _targets(state: dict[str, Any]) -> list[str]:
    """Where a state may lead."""
    targets = [state.get("Next"), state.get("Default")]
    targets += [each.get("Next") for each in (*state.get("Choices", []), *state.get("Catch", []))]
    return [target for target in targets if target is not None]


def _reached(states: dict[str, Any], start: str) -> set[str]:
    """All states that can follow, this one included."""
    reached, left = set(), [start]
    while left:
        name = left.pop()
        if name in states and name not in reached:
            reached.add(name)
            left += _targets(states[name])
    return reached


def _retriers(app: Application) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, group) for name, state in app.tasks.items() for group in state.get("Retry", []))


def _function_timeout(app: Application, state: str) -> int:
    return int(app.functions.get(f"{state}Function", {}).get("Timeout", 0))


def _comparisons(choice: Any) -> Iterator[dict[str, Any]]:
    """Every comparison in a choice, however deep."""
    if isinstance(choice, list):
        for each in choice:
            yield from _comparisons(each)
    elif isinstance(choice, dict):
        if "Variable" in choice:
            yield choice
        for operator in ("And", "Or", "Not"):
            yield from _comparisons(choice.get(operator, []))


def _answered(source: str) -> set[str]:
    """The keys of the dictionary that a handler returns."""
    (handler,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "handler"
    )
    answers = [node.value for node in ast.walk(handler) if isinstance(node, ast.Return)]
    return {
        key.value
        for answer in answers
        if isinstance(answer, ast.Dict)
        for key in answer.keys
        if isinstance(key, ast.Constant)
    }


def _promised(source: str, kind: str) -> set[str]:
    """The error names that a handler's docstring lists under `raises` as (passing) or (lasting)."""
    raises = re.search(r"^raises(.*)", source.split('"""')[1], re.MULTILINE | re.DOTALL)
    for group in (raises[1] if raises else "").split(";"):
        if f"({kind})" in group:
            return set(re.findall(r"[A-Z]\w+", group))
    return set()


def _passing_errors(app: Application) -> set[str]:
    """The classes of the first section of errors.py."""
    first = app.sources["gateway/errors.py"].split("# ---- passing")[1].split("# ---- lasting")[0]
    return set(re.findall(r"^class (\w+)", first, re.MULTILINE))


# ------------------------------------------------------------------ the rules


def targets_exist(app: Application) -> list[str]:
    states = app.states
    named = [("StartAt", app.definition["StartAt"])]
    named += [(name, target) for name, state in states.items() for target in _targets(state)]
    return [f"{name} leads to {target}, which is not there" for name, target in named if target not in states]


def states_are_reachable(app: Application) -> list[str]:
    lost = app.states.keys() - _reached(app.states, app.definition["StartAt"])
    return [f"nothing leads to {name}" for name in sorted(lost)]


def states_lead_on(app: Application) -> list[str]:
    return [
        f"{name} neither leads on nor ends the execution"
        for name, state in app.states.items()
        if state["Type"] not in ("Succeed", "Fail") and not _targets(state)
    ]


def fields_are_known(app: Application) -> list[str]:
    problems = [f"{key} is no field of a machine" for key in app.definition.keys() - _MACHINE_FIELDS]
    for name, state in app.states.items():
        if state["Type"] not in FIELDS:
            problems.append(f"{name} is a {state['Type']}, which these rules do not know")
        else:
            unknown = state.keys() - FIELDS[state["Type"]] - COMMON_FIELDS
            problems += [f"{name}: {key} is no field of a {state['Type']} here" for key in sorted(unknown)]
    return problems


_MACHINE_FIELDS = {"Comment", "StartAt", "TimeoutSeconds", "States"}


def states_say_what_they_do(app: Application) -> list[str]:
    return [f"{name} has no comment" for name, state in app.states.items() if not state.get("Comment")]


def tasks_retry_and_catch(app: Application) -> list[str]:
    problems = []
    for name, task in app.tasks.items():
        if not task.get("Retry"):
            problems.append(f"{name} has no Retry")
        catches = [catch["ErrorEquals"] for catch in task.get("Catch", [])]
        if catches[-1:] != [["States.ALL"]]:
            problems.append(f"{name}: the last Catch is not States.ALL alone")
        if any("States.ALL" in names for names in catches[:-1]):
            problems.append(f"{name}: States.ALL hides the catches after it")
    return problems


def tasks_retry_the_lambda_service(app: Application) -> list[str]:
    return [
        f"{name}: no Retry group of its own has all errors of the Lambda service"
        for name, task in app.tasks.items()
        if LAMBDA_ERRORS not in [set(group["ErrorEquals"]) for group in task.get("Retry", [])]
    ]


def retriers_are_written_out(app: Application) -> list[str]:
    problems = []
    for name, group in _retriers(app):
        where = f"{name}, {group['ErrorEquals'][0]}"
        if group.keys() != RETRIER_FIELDS:
            problems.append(f"{where}: {sorted(group.keys() ^ RETRIER_FIELDS)} missing or unknown")
            continue
        if group["BackoffRate"] < 1:
            problems.append(f"{where}: BackoffRate below 1")
        if group["JitterStrategy"] != "FULL":
            problems.append(f"{where}: no full jitter, so all runs come back at once")
        if group["MaxAttempts"] < 1 or not 1 <= group["IntervalSeconds"] <= group["MaxDelaySeconds"]:
            problems.append(f"{where}: MaxAttempts, IntervalSeconds and MaxDelaySeconds do not fit")
    return problems


def waits_fit_into_an_execution(app: Application) -> list[str]:
    """Patience with one error must leave room to write the failure down."""
    problems = []
    for name, group in _retriers(app):
        backoffs = (group["IntervalSeconds"] * group["BackoffRate"] ** n for n in range(group["MaxAttempts"]))
        worst = sum(min(backoff, group["MaxDelaySeconds"]) for backoff in backoffs)
        if worst >= app.definition["TimeoutSeconds"] / 2:
            problems.append(f"{name}, {group['ErrorEquals'][0]}: waits up to {worst:.0f} s")
    return problems


def error_names_are_known(app: Application) -> list[str]:
    own = set(re.findall(r"^class (\w+)", app.sources["gateway/errors.py"], re.MULTILINE))
    known = LAMBDA_ERRORS | (own - {"GatewayError"})
    problems = []
    for name, group in _retriers(app):
        unknown = [error for error in group["ErrorEquals"] if error not in known]
        problems += [f"{name} retries {error}, which nothing raises" for error in unknown]
    for name, task in app.tasks.items():
        retried = [error for group in task.get("Retry", []) for error in group["ErrorEquals"]]
        problems += [f"{name} retries {error} twice" for error in sorted(set(retried)) if retried.count(error) > 1]
    return problems


def passing_errors_are_retried(app: Application) -> list[str]:
    """A handler's docstring says which errors pass; the machine has to wait for exactly those."""
    problems = []
    for name, task in app.tasks.items():
        source = app.sources[f"{snake(name)}.py"]
        retried = {error for group in task.get("Retry", []) for error in group["ErrorEquals"]} - LAMBDA_ERRORS
        promised = _promised(source, "passing")
        if retried != promised:
            problems.append(f"{name}: retried and not promised, or the reverse: {sorted(retried ^ promised)}")
        problems += [f"{name}: {error} does not pass" for error in sorted(promised - _passing_errors(app))]
        lasting = _promised(source, "lasting") & _passing_errors(app)
        problems += [f"{name}: {error} does pass" for error in sorted(lasting)]
    return problems


def failures_end_in_fail(app: Application) -> list[str]:
    """What went wrong must not end green."""
    problems = []
    for name, task in app.tasks.items():
        for catch in task.get("Catch", []):
            after = _reached(app.states, catch["Next"])
            ends = {app.states[end]["Type"] for end in after} & {"Succeed", "Fail"}
            if ends != {"Fail"}:
                problems.append(f"{name}: what is caught does not always end in a Fail state")
    return problems


def failures_are_named(app: Application) -> list[str]:
    """A Fail state reads the error of the first failure; a path that is not there would be States.Runtime."""
    problems = []
    for name, state in app.states.items():
        if state["Type"] == "Fail" and (state.get("ErrorPath"), state.get("CausePath")) != _ERROR_PATHS:
            problems.append(f"{name} does not say error and cause")
    for name, task in app.tasks.items():
        for catch in task.get("Catch", []):
            first = name != "MarkUnfulfilled"
            if (catch.get("ResultPath") == "$.error") is not first:
                problems.append(f"{name}: its Catch does not leave the first error under $.error")
    return problems


_ERROR_PATHS = ("$.error.Error", "$.error.Cause")


def choices_have_a_default(app: Application) -> list[str]:
    choices = [(name, state) for name, state in app.states.items() if state["Type"] == "Choice"]
    return [f"{name} has no Default" for name, state in choices if "Default" not in state]


def choices_compare_what_is_there(app: Application) -> list[str]:
    """A path that leads nowhere stops the execution with States.Runtime, which no Catch catches."""
    paths = [
        (name, path)
        for name, state in app.states.items()
        for comparison in _comparisons(state.get("Choices", []))
        for key, path in comparison.items()
        if key == "Variable" or key.endswith("Path")
    ]
    known = {**PATHS, "$.lookup": _answered(app.sources["lookup_user.py"]) - {"user", "target"}}
    return [
        f"{name} looks at {path}, which no task answers"
        for name, path in paths
        if path.rpartition(".")[2] not in known.get(path.rpartition(".")[0], ())
    ]


def tasks_get_the_run(app: Application) -> list[str]:
    run = {"execution.$": "$$.Execution.Id", "run.$": "$"}
    return [f"{name} does not get {run}" for name, task in app.tasks.items() if task.get("Parameters") != run]


def tasks_keep_the_run(app: Application) -> list[str]:
    """An answer goes beside the input, never in its place."""
    return [
        f"{name} writes its answer to {task.get('ResultPath', '$')}"
        for name, task in app.tasks.items()
        if not re.fullmatch(r"\$\.[a-z]+", task.get("ResultPath", "$"))
    ]


def substitutions_fit(app: Application) -> list[str]:
    used = set(re.findall(r"\$\{(\w+)\}", str(app.definition)))
    (machine,) = app.resources("AWS::StepFunctions::StateMachine").values()
    given = machine["DefinitionSubstitutions"]
    problems = [f"${{{name}}} is used and not given, or the reverse" for name in sorted(used ^ given.keys())]
    wrong = [name for name, value in given.items() if value != {"Fn::GetAtt": [name.removesuffix("Arn"), "Arn"]}]
    return problems + [f"${{{name}}} is something else" for name in wrong]


def the_machine_ends_before_its_attempt_counts_as_dead(app: Application) -> list[str]:
    timeout = app.definition.get("TimeoutSeconds", float("inf"))
    return [] if timeout < ATTEMPT_SECONDS else [f"the machine may run {timeout} s, an attempt {ATTEMPT_SECONDS} s"]


def tasks_outlive_their_functions(app: Application) -> list[str]:
    return [
        f"{name} gives up before its function's own time-out"
        for name, task in app.tasks.items()
        if task.get("TimeoutSeconds", 0) <= _function_timeout(app, name)
    ]


def leases_outlive_their_writers(app: Application) -> list[str]:
    return [
        f"{name} may still write when its lease has expired"
        for name in app.functions
        if calls(app.source_of(name), "lease")
        and app.functions[name]["Timeout"] >= LEASE_SECONDS - SPARE_SECONDS
        and (name not in MAY_OUTLIVE_ITS_LEASE or calls(app.source_of(name), *USER_WRITES))
    ]


def one_name_in_five_places(app: Application) -> list[str]:
    problems = []
    for name, task in app.tasks.items():
        function = app.functions.get(f"{name}Function", {})
        if task["Resource"] != f"${{{name}FunctionArn}}":
            problems.append(f"{name} calls {task['Resource']}")
        if function.get("Handler") != f"{snake(name)}.handler":
            problems.append(f"{name}Function runs {function.get('Handler')}")
        if f"{snake(name)}.py" not in app.handlers:
            problems.append(f"functions/{snake(name)}.py is not there")
        elif not re.match(rf'"""{name}: ', app.handlers[f"{snake(name)}.py"]):
            problems.append(f"functions/{snake(name)}.py does not begin with its name")
        if not re.search(rf'"{name}"', app.tests):
            problems.append(f"no test names {name}")
    return problems


# ------------------------------------------------------------------ each rule, and what it would find


def _state(name: str, **changes: Any) -> Break:
    return lambda app: app.definition["States"][name].update(changes)


def _retrier(name: str, **changes: Any) -> Break:
    return lambda app: app.definition["States"][name]["Retry"][-1].update(changes)


def _without(name: str, *path: Any) -> Break:
    def breaks(app: Application) -> None:
        place = app.definition["States"][name]
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return breaks


def _catch(name: str, **changes: Any) -> Break:
    return lambda app: app.definition["States"][name]["Catch"][0].update(changes)


def _source(path: str, old: str, new: str) -> Break:
    return lambda app: app.sources.update({path: app.sources[path].replace(old, new)})


def _function(name: str, **changes: Any) -> Break:
    return lambda app: app.template["Resources"][name]["Properties"].update(changes)


def _machine(**changes: Any) -> Break:
    return lambda app: app.definition.update(changes)


def _choice(**changes: Any) -> Break:
    return lambda app: app.definition["States"]["DecideAccess"]["Choices"][0].update(changes)


def _substitution(name: str, value: Any) -> Break:
    def breaks(app: Application) -> None:
        (machine,) = app.resources("AWS::StepFunctions::StateMachine").values()
        machine["DefinitionSubstitutions"][name] = value

    return breaks


BROKEN: list[tuple[Rule, Break]] = [
    (targets_exist, _state("LookupUser", Next="DecideAcces")),
    (targets_exist, _state("DecideAccess", Default="MarkFulfiled")),
    (targets_exist, _choice(Next="MarkFulfiled")),
    (targets_exist, _catch("CreateUser", Next="MarkUnfulfiled")),
    (targets_exist, _machine(StartAt="Begin")),
    (states_are_reachable, lambda app: app.definition["States"].update(Forgotten={"Type": "Succeed"})),
    (states_are_reachable, lambda app: app.definition["States"]["DecideAccess"]["Choices"].pop(2)),
    (states_lead_on, _state("DecideAccess", Choices=[], Default=None)),
    (fields_are_known, _state("LookupUser", TimeoutSecond=30)),
    (fields_are_known, _state("LookupUser", Type="Parallel")),
    (fields_are_known, _machine(QueryLanguage="JSONata")),
    (states_say_what_they_do, _without("LookupUser", "Comment")),
    (tasks_retry_and_catch, _without("LookupUser", "Retry")),
    (tasks_retry_and_catch, _without("LookupUser", "Catch")),
    (tasks_retry_and_catch, _catch("LookupUser", ErrorEquals=["States.TaskFailed"])),
    (
        tasks_retry_and_catch,
        lambda app: app.definition["States"]["LookupUser"].update(
            Catch=[{"ErrorEquals": ["States.ALL"], "Next": "MarkUnfulfilled"}] * 2
        ),
    ),
    (tasks_retry_the_lambda_service, _without("MarkFulfilled", "Retry", 0, "ErrorEquals", 4)),
    (tasks_retry_the_lambda_service, _without("MarkFulfilled", "Retry", 0)),
    *(
        (retriers_are_written_out, _without("CreateUser", "Retry", 3, name))
        for name in sorted(RETRIER_FIELDS - {"ErrorEquals"})
    ),
    (retriers_are_written_out, _retrier("CreateUser", BackoffRate=0.5)),
    (retriers_are_written_out, _retrier("CreateUser", JitterStrategy="NONE")),
    (retriers_are_written_out, _retrier("CreateUser", MaxAttempts=0)),
    (retriers_are_written_out, _retrier("CreateUser", IntervalSeconds=9)),
    (waits_fit_into_an_execution, _retrier("CreateUser", MaxDelaySeconds=60)),
    (error_names_are_known, _retrier("CreateUser", ErrorEquals=["PersonBussy"])),
    (error_names_are_known, _retrier("CreateUser", ErrorEquals=["States.TimedOut"])),
    (error_names_are_known, _retrier("CreateUser", ErrorEquals=["GatewayError"])),
    (error_names_are_known, _retrier("CreateUser", ErrorEquals=["LedgerThrottled"])),
    (error_names_are_known, _source("gateway/errors.py", "class PersonBusy(", "class PersonIsBusy(")),
    (passing_errors_are_retried, _without("CreateUser", "Retry", 3)),
    (passing_errors_are_retried, _retrier("LookupUser", ErrorEquals=["CognitoRejected"])),
    (passing_errors_are_retried, _source("lookup_user.py", "CognitoThrottled, ", "")),
    (passing_errors_are_retried, _source("gateway/errors.py", "class PersonBusy(", "class PersonIsBusy(")),
    (passing_errors_are_retried, _source("create_user.py", "EmailUnusable, Mail", "PersonBusy, Mail")),
    (failures_end_in_fail, _catch("LookupUser", Next="MarkFulfilled")),
    (failures_end_in_fail, _state("MarkUnfulfilled", Next="Fulfilled")),
    (failures_are_named, _without("NotFulfilled", "ErrorPath")),
    (failures_are_named, _catch("LookupUser", ResultPath="$.failure")),
    (failures_are_named, _catch("MarkUnfulfilled", ResultPath="$.error")),
    (choices_have_a_default, _without("DecideAccess", "Default")),
    (choices_compare_what_is_there, _choice(Variable="$.billing.access.wantet")),
    (choices_compare_what_is_there, _choice(Variable="$.lookup.wanted")),
    (choices_compare_what_is_there, _choice(Variable="$.lookup.user")),
    (choices_compare_what_is_there, _source("lookup_user.py", '"invite":', '"invitation":')),
    (choices_compare_what_is_there, _choice(And=[{"Not": {"Variable": "$.lookup.user.limit"}}])),
    (choices_compare_what_is_there, _choice(NumericEqualsPath="$.lookup.target.limit")),
    (tasks_get_the_run, _state("LookupUser", Parameters={"run.$": "$"})),
    (tasks_keep_the_run, _without("LookupUser", "ResultPath")),
    (tasks_keep_the_run, _state("LookupUser", ResultPath="$")),
    (substitutions_fit, _state("LookupUser", Resource="${FindUserFunctionArn}")),
    (substitutions_fit, _substitution("UnusedFunctionArn", {"Fn::GetAtt": ["UnusedFunction", "Arn"]})),
    (substitutions_fit, _substitution("LookupUserFunctionArn", {"Fn::GetAtt": ["CreateUserFunction", "Arn"]})),
    (the_machine_ends_before_its_attempt_counts_as_dead, _machine(TimeoutSeconds=ATTEMPT_SECONDS)),
    (the_machine_ends_before_its_attempt_counts_as_dead, lambda app: app.definition.pop("TimeoutSeconds")),
    (tasks_outlive_their_functions, _state("LookupUser", TimeoutSeconds=20)),
    (tasks_outlive_their_functions, _without("LookupUser", "TimeoutSeconds")),
    (tasks_outlive_their_functions, _function("MarkFulfilledFunction", Timeout=300)),
    (leases_outlive_their_writers, _function("CreateUserFunction", Timeout=LEASE_SECONDS - SPARE_SECONDS)),
    (
        leases_outlive_their_writers,
        _source("mark_fulfilled.py", "ledger.told(", "users.enable(run.sub), ledger.told("),
    ),
    (one_name_in_five_places, _state("LookupUser", Resource="${CreateUserFunctionArn}")),
    (one_name_in_five_places, _function("LookupUserFunction", Handler="create_user.handler")),
    (one_name_in_five_places, lambda app: app.sources.pop("lookup_user.py")),
    (one_name_in_five_places, _source("lookup_user.py", "LookupUser: ", "FindUser: ")),
    (one_name_in_five_places, lambda app: setattr(app, "tests", app.tests.replace('"LookupUser"', ""))),
]
RULES = list(dict.fromkeys(rule for rule, _ in BROKEN))


@pytest.mark.parametrize("rule", RULES)
def test_the_machine_keeps_the_rule(rule: Rule) -> None:
    assert rule(application()) == []


@pytest.mark.parametrize(("rule", "by"), BROKEN)
def test_the_rule_finds_a_broken_machine(rule: Rule, by: Break) -> None:
    assert rule(broken(by)) != []


def test_every_lease_has_a_writer() -> None:
    """Otherwise the rule about leases would look at nothing."""
    app = application()
    writers = {name for name in app.functions if calls(app.source_of(name), "lease")}
    looked_at_again = {f"{name}Function" for name, task in app.tasks.items() if task["Next"] == "ReadBilling"}
    assert writers == looked_at_again | MAY_OUTLIVE_ITS_LEASE
