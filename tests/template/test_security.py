"""tests.security: nothing that checkov or pip-audit finds is passed over; an audit that did not happen is none."""

from pathlib import Path
from typing import Any

import pytest

from tests.security import NOT_AUDITED, audit, checkov, pip_audit, unexplained, vulnerable

TOPIC, ALARMS = "CKV_AWS_26", "AWS::SNS::Topic.AlarmTopic"
LEFT = [{"check": TOPIC, "resources": ALARMS, "why": "…"}]


def report(*vulns: dict[str, Any]) -> dict[str, Any]:
    """As pip-audit writes it."""
    return {"dependencies": [{"name": "stripe", "version": "16.1.0", "vulns": [*vulns]}], "fixes": []}


BAD = report({"id": "PYSEC-2026-1", "fix_versions": ["16.1.1"], "aliases": [], "description": ""})


@pytest.mark.parametrize(
    ("found", "problems"),
    [
        ([(TOPIC, ALARMS)], []),
        ([(TOPIC, ALARMS), (TOPIC, ALARMS)], []),
        ([(TOPIC, ALARMS), (TOPIC, "AWS::SNS::Topic.Another")], ["CKV_AWS_26 of AWS::SNS::Topic.Another: mend it"]),
        ([(TOPIC, ALARMS), ("CKV_AWS_1", ALARMS)], ["CKV_AWS_1 of AWS::SNS::Topic.AlarmTopic: mend it"]),
        ([], ["CKV_AWS_26 of AWS::SNS::Topic.AlarmTopic is not found any more"]),
    ],
)
def test_the_list_of_what_is_left_is_exact(found: list[tuple[str, str]], problems: list[str]) -> None:
    told = unexplained(found, LEFT)
    assert len(told) == len(problems)
    assert all(each.startswith(problem) for each, problem in zip(told, problems, strict=True))


def test_what_checkov_finds_does_not_depend_on_where_the_checkout_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path with 40 characters between two dots would be a secret in each function's variables (CKV_AWS_45)."""
    tool = tmp_path / "checkov"
    tool.write_text(
        """#!/bin/bash
while [ "$1" != --file ]; do shift; done
[ -s "$2" ] || exit 1
echo '{"results": {"failed_checks": [{"check_id": "'"$2"'", "resource": "given"}]},
       "summary": {"checkov_version": "3", "passed": 1, "parsing_errors": 0, "resource_count": 1}}'
""",
        encoding="utf-8",
    )
    tool.chmod(0o755)
    monkeypatch.setattr("tests.security.TOOLS", tmp_path)
    monkeypatch.setattr("tests.security.WORK", tmp_path)
    assert checkov() == [("template.json", "given")]


def test_a_vulnerability_is_named_with_what_mends_it() -> None:
    assert vulnerable(report()) == []
    assert vulnerable(BAD) == ["stripe 16.1.0: PYSEC-2026-1, mended in 16.1.1"]


@pytest.mark.parametrize(
    ("found", "may_fail", "status"),
    [
        (None, False, 1),
        (None, True, 0),
        (BAD, False, "stripe 16.1.0: PYSEC-2026-1, mended in 16.1.1"),
        (BAD, True, "stripe 16.1.0: PYSEC-2026-1, mended in 16.1.1"),
    ],
)
def test_an_audit_that_found_something_or_did_not_happen_says_so(
    capsys: pytest.CaptureFixture[str], found: dict[str, Any] | None, may_fail: bool, status: int | str
) -> None:
    with pytest.raises(SystemExit) as ended:
        audit(found, may_fail=may_fail)
    assert ended.value.code == status
    out, err = capsys.readouterr()
    assert out == ""  # nothing is called good
    assert (NOT_AUDITED in err) is (found is None)


@pytest.mark.parametrize(("script", "found"), [("exit 1", None), ('echo "{}" > "${!#}"; exit 1', {})])
def test_an_audit_counts_by_its_report_and_not_by_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, found: dict[str, Any] | None
) -> None:
    """pip-audit ends with 1 for what it found and for what it could not ask alike."""
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    tool.chmod(0o755)
    (tmp_path / "audit.json").write_text('{"dependencies": []}', encoding="utf-8")
    monkeypatch.setattr("tests.security.TOOLS", tmp_path)
    monkeypatch.setattr("tests.security.WORK", tmp_path)
    assert pip_audit() == found
