"""Runs a handler under AWS's runtime client, also where that ships no native client (macOS).

    python -P -s runtime.py HANDLER [--python-client]

The native module speaks the Runtime API over HTTP; `PythonClient` is the same four functions in Python.
It imports nothing of this project, for the handler must find only what it would find on AWS.
"""

import http.client
import os
import sys


class PythonClient:
    """Stands in for awslambdaric's native module `runtime_client`."""

    def __init__(self):
        self._connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])

    def initialize_client(self, user_agent):
        """The native client sends its name with every request; nobody reads it here."""

    def next(self):
        """Waits for the next invocation: its body and headers."""
        self._connection.request("GET", "/2018-06-01/runtime/invocation/next")
        response = self._connection.getresponse()
        return response.read(), dict(response.headers)

    def post_invocation_result(self, invoke_id, body, content_type, invocation_id=None):
        """Answers an invocation."""
        self._post(f"{invoke_id}/response", body, {"Content-Type": content_type})

    def post_error(self, invoke_id, error, xray_fault, invocation_id=None):
        """Fails an invocation."""
        self._post(f"{invoke_id}/error", error.encode(), {"Content-Type": "application/json"})

    def _post(self, path, body, headers):
        self._connection.request("POST", f"/2018-06-01/runtime/invocation/{path}", body=body, headers=headers)
        self._connection.getresponse().read()


def main(handler, *options):
    """Hands over to awslambdaric's own main program."""
    try:
        if options:
            raise ImportError("the Python client is asked for")
        import runtime_client  # noqa: F401
    except ImportError:
        sys.modules["runtime_client"] = PythonClient()
    from awslambdaric.__main__ import main as run

    run(["awslambdaric", handler])


if __name__ == "__main__":
    main(*sys.argv[1:])
