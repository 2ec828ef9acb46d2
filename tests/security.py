"""`python -m tests.security template`: checkov over the template as CloudFormation gets it. Nothing leaves the machine.
`python -m tests.security audit`: asks the Python Package Index for known vulnerabilities of what ships.

What checkov finds must be mended, or explained in checkov.toml. An audit that cannot ask says so and fails; with
`if-reachable` it says so and succeeds.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tests.template.conftest import application

ROOT = Path(__file__).parents[1]
EXPLAINED = Path(__file__).with_name("checkov.toml")
TOOLS = ROOT / ".venv-security" / "bin"
WORK = ROOT / "build" / "security"
SHIPPED = ROOT / "requirements" / "layer" / "requirements.txt"

NOT_AUDITED = "NOT AUDITED: nobody could be asked for known vulnerabilities of what ships (make security, with network)"


def checkov() -> list[tuple[str, str]]:
    """(check, resource) of all that checkov finds in the translated template."""
    template = WORK / "template.json"
    template.write_text(json.dumps(application().template, indent=1), encoding="utf-8")
    # By its bare name: checkov writes the path that it is given into the values it then searches for secrets, and a
    # path with 40 characters between two dots is one (CKV_AWS_45), so that what it finds would depend on the checkout.
    command = [TOOLS / "checkov", "--framework", "cloudformation", "--file", template.name]
    options = ["--skip-download", "--soft-fail", "--output", "json"]
    done = subprocess.run([*command, *options], cwd=WORK, text=True, stdout=subprocess.PIPE, check=True)
    report = json.loads(done.stdout)
    summary = report["summary"]
    if summary["parsing_errors"] or not summary["passed"]:
        sys.exit(f"checkov cannot read the template: {summary}")
    print(f"checkov {summary['checkov_version']}: {summary['passed']} passed in {summary['resource_count']} resources")
    return [(each["check_id"], each["resource"]) for each in report["results"]["failed_checks"]]


def unexplained(found: Iterable[tuple[str, str]], left: Iterable[dict[str, str]]) -> list[str]:
    """Findings that nobody explains, and explanations of nothing."""
    findings, entries = sorted(set(found)), list(left)
    used = set()
    problems = []
    for check, resource in findings:
        reasons = [
            number
            for number, each in enumerate(entries)
            if each["check"] == check and fnmatchcase(resource, each["resources"])
        ]
        used.update(reasons)
        if not reasons:
            problems.append(f"{check} of {resource}: mend it, or explain it in {EXPLAINED.name}")
    stale = [each for number, each in enumerate(entries) if number not in used]
    return problems + [f"{each['check']} of {each['resources']} is not found any more" for each in stale]


def pip_audit() -> dict[str, Any] | None:
    """pip-audit's report; None when it has none, because not every package could be asked for."""
    report = WORK / "audit.json"
    report.unlink(missing_ok=True)
    command = [TOOLS / "pip-audit", "--requirement", SHIPPED, "--require-hashes", "--disable-pip"]
    options = ["--strict", "--progress-spinner", "off", "--format", "json", "--output", report]
    done = subprocess.run([*command, *options], text=True, stderr=subprocess.PIPE, check=False)
    if not report.exists():
        print(done.stderr.strip().rpartition("\n")[2], file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def vulnerable(report: dict[str, Any]) -> list[str]:
    """What is known of which package, and the releases that mend it."""
    return [
        f"{each['name']} {each['version']}: {one['id']}, mended in {', '.join(one['fix_versions']) or 'no release yet'}"
        for each in report["dependencies"]
        for one in each["vulns"]
    ]


def audit(report: dict[str, Any] | None, *, may_fail: bool) -> None:
    """Ends the process with what is wrong."""
    if report is None:
        print(NOT_AUDITED, file=sys.stderr)
        sys.exit(0 if may_fail else 1)
    if problems := vulnerable(report):
        sys.exit("\n".join(problems))
    print(f"pip-audit: no known vulnerability in {len(report['dependencies'])} packages")


def main() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    match sys.argv[1:]:
        case ["template"]:
            if problems := unexplained(checkov(), tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["left"]):
                sys.exit("\n".join(problems))
        case ["audit", *how]:
            audit(pip_audit(), may_fail=how == ["if-reachable"])
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
