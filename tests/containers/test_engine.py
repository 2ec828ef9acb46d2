"""Where no function can be run in a container, one sentence says why."""

import os

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
