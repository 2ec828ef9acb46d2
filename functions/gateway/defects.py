"""What a failure may say: the name of an error of ours, and never the text of one that nobody here has written."""

import functools
import traceback
from collections.abc import Callable
from typing import Any

from gateway.errors import GatewayError, UnexpectedError


def defect(error: Exception) -> str:
    """Type and place of an exception; its text may hold anything, so it is left out."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {place.filename.rpartition('/')[2]}:{place.lineno}; this is a defect"


def harmless(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Have a Lambda handler fail with errors of ours alone, and say so in the log, at level ERROR.

    What leaves it is seen by whoever invoked it, in the log and in X-Ray: a defect leaves it as an UnexpectedError.
    """

    @functools.wraps(handler)
    def guarded(event: Any, context: Any) -> Any:
        try:
            return handler(event, context)
        except Exception as error:
            # Here, because users wait for AddClaims, which logs nothing else.
            from gateway.telemetry import logger

            ours = error if isinstance(error, GatewayError) else UnexpectedError(defect(error))
            logger.append_keys(function=context.function_name, request_id=context.aws_request_id)
            logger.error("%s: %s", type(ours).__name__, ours)
            raise ours from None

    return guarded
