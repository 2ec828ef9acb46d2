"""Lambda's limits are real in a container: time, memory, and a file system that cannot be written to."""

import json
import time
from pathlib import Path

from tests.containers.conftest import World, event, local_invoke

PROBE = """
from pathlib import Path


def handler(event, context):
    return {folder: written(Path(folder)) for folder in event["folders"]}


def written(folder):
    try:
        (folder / "probe").write_text("x")
    except OSError as error:
        return type(error).__name__, error.strerror
    return "written"
"""


def test_a_function_that_takes_too_long_is_killed(world: World, tmp_path: Path) -> None:
    template = world.changed(tmp_path, "ReadBillingFunction", Timeout=2)
    world.gateway.stripe.faults.hang_next(1, 60)
    began = time.monotonic()
    try:
        found = local_invoke(template, "ReadBillingFunction", event("read_billing"))
    finally:
        world.gateway.stripe.faults.restore()
    assert found.error == ("NoAnswer", "")
    assert "Function 'ReadBillingFunction' timed out after 2 seconds" in found.log
    assert time.monotonic() - began < 60


def test_a_function_that_takes_too_much_memory_is_killed(world: World, tmp_path: Path) -> None:
    template = world.changed(tmp_path, "ReadOrdersFunction", MemorySize=16)
    found = local_invoke(template, "ReadOrdersFunction", event("read_orders"))
    assert found.error == ("NoAnswer", "")
    assert "Runtime exited with error: signal: killed" in found.log


def test_only_tmp_can_be_written_to(world: World, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/probe.py").write_text(PROBE, encoding="utf-8")
    template = world.changed(tmp_path, "ReadOrdersFunction", CodeUri=str(tmp_path / "code"), Handler="probe.handler")
    asked = tmp_path / "event.json"
    asked.write_text(json.dumps({"folders": ["/var/task", "/tmp"]}), encoding="utf-8")  # noqa: S108
    found = local_invoke(template, "ReadOrdersFunction", asked)
    assert found.answer == {"/var/task": ["OSError", "Read-only file system"], "/tmp": "written"}  # noqa: S108
    assert [path.name for path in (tmp_path / "code").iterdir()] == ["probe.py"]
