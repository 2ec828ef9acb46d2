"""Where no function can be run in a container, one sentence says why; and the network that containers are on."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.containers import engine


def test_without_an_engine_it_takes_root_on_debian_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "answers", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(engine.EngineError, match=r"no Docker engine answers .* as root on Debian"), engine.engine():
        pass


def test_an_engine_that_answers_is_used_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "answers", lambda: True)
    monkeypatch.setattr(engine.subprocess, "Popen", None)
    before = dict(os.environ)
    with engine.engine():
        assert dict(os.environ) == before


@pytest.mark.parametrize(("found", "asked"), [("", ["docker.io", "docker-cli", "iptables", "iproute2"]), ("ip", [])])
def test_what_is_missing_is_installed_though_one_of_debians_sources_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, found: str, asked: list[str]
) -> None:
    installed: list[str] = []

    def apt(*arguments: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "install":
            installed.append(arguments[-1])
        return subprocess.CompletedProcess(arguments, 100 if arguments == ("update",) else 0, "")

    monkeypatch.setattr(engine, "_apt", apt)
    monkeypatch.setattr(engine.shutil, "which", lambda command: found or None)
    engine._install()
    assert installed == asked


def test_what_cannot_be_installed_says_what_apt_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_apt", lambda *command: subprocess.CompletedProcess(command, 100, f"{command[0]}: no"))
    monkeypatch.setattr(engine.shutil, "which", lambda command: None)
    with pytest.raises(engine.EngineError, match=r"(?s)cannot install docker.io:.*update: no.*install: no"):
        engine._install()


@pytest.mark.skipif(os.geteuid() != 0, reason="an engine of our own, and so its bridge, takes root")
def test_the_bridge_keeps_its_address_when_a_container_comes() -> None:
    with engine._bridge() as name:
        address = Path(f"/sys/class/net/{name}/address")
        before = address.read_text(encoding="utf-8")
        lowest = f"{name}c"  # as a container's is
        link = ["ip", "link", "add", lowest, "master", name, "address", "02:00:00:00:00:01", "type", "veth"]
        subprocess.run(link, check=True)
        try:
            assert address.read_text(encoding="utf-8") == before
        finally:
            subprocess.run(["ip", "link", "delete", lowest], check=True)
