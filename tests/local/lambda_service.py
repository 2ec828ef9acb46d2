"""Lambda without Docker: AWS's own runtime client in one process per execution environment.

Each environment has its own small Runtime API server, so what `invoke` answers is what AWS answers:
the handler's JSON, or the error document with `errorType` and the mark that the function failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, NamedTuple

DEFAULT_ENVIRONMENTS = 4
"""Execution environments of a function without reserved concurrency; further callers wait."""

INIT_SECONDS = 60
"""How long an environment may take to get ready. AWS gives ten seconds; test machines are slower."""

_RUNTIME = Path(__file__).with_name("runtime.py")


class TooManyRequestsError(Exception):
    """Every reserved execution environment of the function is busy."""


class FunctionNotFoundError(Exception):
    """No function has this name."""


class Answer(NamedTuple):
    """What an invocation returned: its JSON document, and whether that is an error document."""

    payload: bytes
    failed: bool


@dataclass(frozen=True)
class Function:
    """What the template says about a function, resolved."""

    logical_id: str
    name: str
    arn: str
    handler: str
    code: Path
    access_key: str
    region: str = "us-east-1"
    runtime: str = "python3.13"
    environment: dict[str, str] = field(default_factory=dict)
    layers: tuple[Path, ...] = ()
    log_group: str = ""
    memory: int = 128
    timeout: float = 3
    reserved: int | None = None
    revision: int = 1  # of its code: another one is another process

    def variables(self, endpoint: str, runtime_api: str) -> dict[str, str]:
        """All variables that the process gets: the template's, Lambda's own, and the local endpoint."""
        search = [self.code, *(layer / "python" for layer in self.layers)]
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{self.runtime}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory),
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": self.log_group or f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"local/{uuid.uuid4().hex}",
            "AWS_LAMBDA_RUNTIME_API": runtime_api,
            "AWS_REGION": self.region,
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
            "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000",
            "LAMBDA_RUNTIME_DIR": str(_RUNTIME.parent),
            "LAMBDA_TASK_ROOT": str(self.code),
            "LANG": "en_US.UTF-8",
            "PATH": os.defpath,
            "PYTHONPATH": os.pathsep.join(map(str, search)),
            "TZ": ":UTC",
            "_HANDLER": self.handler,
            **self.environment,
        }


class _RuntimeApi(ThreadingHTTPServer):
    """The Runtime API of one environment. Everything the runtime says ends in the queue `said`."""

    daemon_threads = False

    def __init__(self, function_arn: str) -> None:
        super().__init__(("127.0.0.1", 0), _RuntimeApiHandler)
        self.address = f"127.0.0.1:{self.server_port}"
        self.function_arn = function_arn
        self.invocations: queue.SimpleQueue[tuple[str, bytes, float] | None] = queue.SimpleQueue()
        self.said: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing:
            self.handle_request()

    def close(self) -> None:
        """Ends the server and its threads. The process must have ended before."""
        self._closing = True
        self.invocations.put(None)
        socket.create_connection(("127.0.0.1", self.server_port)).close()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A process that is killed while it talks is no news."""


class _RuntimeApiHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _RuntimeApi

    def do_GET(self) -> None:
        """`next`: says that the runtime is ready and waits for an invocation."""
        self.server.said.put(("ready", b""))
        invocation = self.server.invocations.get()
        if invocation is None:
            self.close_connection = True
            return
        request_id, payload, deadline = invocation
        self._answer(
            200,
            payload,
            {
                "Content-Type": "application/json",
                "Lambda-Runtime-Aws-Request-Id": request_id,
                "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": self.server.function_arn,
                "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};"
                "Parent=0000000000000000;Sampled=0",
            },
        )

    def do_POST(self) -> None:
        """`response`, `error` and `init/error`."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = "init error" if self.path.endswith("/init/error") else self.path.rsplit("/", 1)[1]
        self.server.said.put((what, body))
        self._answer(202, b'{"status":"OK"}', {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Says nothing: the functions' own output is the log."""


class _Environment:
    """An execution environment: one process that answers one invocation at a time."""

    def __init__(self, function: Function, service: LambdaService) -> None:
        self.function = function
        self._api = _RuntimeApi(function.arn)
        options = ["--python-client"] if service.python_client else []
        self._process = subprocess.Popen(
            [service.python, "-P", "-s", str(_RUNTIME), function.handler, *options],
            cwd=function.code,
            env=function.variables(service.endpoint, self._api.address),
            stdin=subprocess.DEVNULL,
            stdout=service.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._watch = threading.Thread(target=self._tell_exit, daemon=True)
        self._watch.start()
        self.alive = True

    def run(self, payload: bytes) -> Answer:
        """Hands one invocation to the process. After an error of the environment `alive` is False."""
        request_id = str(uuid.uuid4())
        what, body = self._wait(INIT_SECONDS)
        if what == "ready":
            self._api.invocations.put((request_id, payload, time.time() + self.function.timeout))
            what, body = self._wait(self.function.timeout)
        match what:
            case "response":
                return Answer(body, failed=False)
            case "error":
                return Answer(body, failed=True)
        self.stop()
        match what:
            case "init error":
                return Answer(body, failed=True)
            case "exit":
                error, text = "Runtime.ExitError", f"Runtime exited with error: {body.decode()}"
            case _:
                error = "Sandbox.Timedout"
                text = f"Task timed out after {self.function.timeout:.2f} seconds"
        message = f"RequestId: {request_id} Error: {text}"
        return Answer(json.dumps({"errorType": error, "errorMessage": message}).encode(), failed=True)

    def kill(self) -> None:
        """Kills the process and whatever it started; `run` then answers `Runtime.ExitError`."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def peak_memory(self) -> int:
        """In bytes, as Linux tells it; 0 elsewhere."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
            return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
        return 0

    def stop(self) -> None:
        """Ends the process and its Runtime API."""
        self.alive = False
        self.kill()
        self._watch.join()
        self._api.close()

    def _wait(self, seconds: float) -> tuple[str, bytes]:
        try:
            return self._api.said.get(timeout=seconds)
        except queue.Empty:
            return "timeout", b""

    def _tell_exit(self) -> None:
        code = self._process.wait()
        said = f"signal: {-code}" if code < 0 else f"exit status {code}"
        self._api.said.put(("exit", said.encode()))


class _Pool:
    """The execution environments of one function."""

    def __init__(self, function: Function, service: LambdaService) -> None:
        self.function = function
        self._service = service
        limit = DEFAULT_ENVIRONMENTS if function.reserved is None else function.reserved
        self._slots = threading.Semaphore(limit)
        self._changed = threading.Condition()
        self._idle: list[_Environment] = []
        self._busy: set[_Environment] = set()
        self._closed = False

    def run(self, payload: bytes) -> Answer:
        if not self._slots.acquire(blocking=self.function.reserved is None):
            raise TooManyRequestsError(self.function.name)
        try:
            environment = self._take()
            try:
                return environment.run(payload)
            finally:
                self._give_back(environment)
        finally:
            self._slots.release()

    def kill(self) -> None:
        with self._changed:
            for environment in self._busy:
                environment.kill()

    @property
    def peak_memory(self) -> int:
        with self._changed:
            return max((each.peak_memory for each in self._idle), default=0)

    def update(self, function: Function) -> None:
        with self._changed:
            if function == self.function:
                return
            self.function = function
            for environment in self._idle:
                environment.stop()
            self._idle.clear()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for environment in self._busy:
                environment.kill()
            for environment in self._idle:
                environment.stop()
            self._changed.wait_for(lambda: not self._busy, timeout=5)

    def _take(self) -> _Environment:
        with self._changed:
            if self._closed:
                raise FunctionNotFoundError(f"{self.function.name}: the stack is closed")
            idle = self._idle.pop() if self._idle else None
            environment = idle or _Environment(self.function, self._service)
            self._busy.add(environment)
            return environment

    def _give_back(self, environment: _Environment) -> None:
        if environment.alive and (self._closed or environment.function != self.function):
            environment.stop()
        with self._changed:
            self._busy.discard(environment)
            if environment.alive:
                self._idle.append(environment)
            self._changed.notify_all()


class LambdaService:
    """All functions of a stack. Environments start when they are first needed."""

    def __init__(
        self,
        endpoint: str,
        *,
        log: Path | None = None,
        python: str = sys.executable,
        python_client: bool = False,
    ) -> None:
        """`python_client` forces the Python Runtime API client that macOS needs."""
        self.endpoint = endpoint
        self.python = python
        self.python_client = python_client
        self._file: IO[bytes] | None = log.open("ab") if log else None
        self.log: IO[bytes] | int = self._file or subprocess.DEVNULL
        self._pools: dict[str, _Pool] = {}

    def add(self, functions: Iterable[Function]) -> None:
        """Makes functions known."""
        for function in functions:
            self._pools[function.name] = _Pool(function, self)

    def kill(self, reference: str) -> None:
        """Kills the function's processes that are answering an invocation."""
        self._pools[self.find(reference).name].kill()

    def update(self, function: Function) -> None:
        """Changes a function; environments that have what it was before end when they are idle."""
        self._pools[function.name].update(function)

    def peak_memory(self, reference: str) -> int:
        """The most that an idle environment of the function has ever used, in bytes."""
        return self._pools[self.find(reference).name].peak_memory

    def find(self, reference: str) -> Function:
        """The function with this name or ARN, with or without a qualifier."""
        parts = reference.split(":")
        name = parts[6] if len(parts) > 6 else parts[0]
        if name not in self._pools:
            raise FunctionNotFoundError(f"Function not found: {reference}")
        return self._pools[name].function

    def invoke(self, reference: str, payload: bytes) -> Answer:
        """Invokes a function and waits for its answer."""
        return self._pools[self.find(reference).name].run(payload)

    def close(self) -> None:
        """Ends every process; what is still running is killed."""
        for pool in self._pools.values():
            pool.close()
        if self._file:
            self._file.close()
