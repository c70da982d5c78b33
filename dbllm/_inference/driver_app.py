"""Driver proxy apps."""

from __future__ import annotations

from .._protocol.tasks import Verb
from ..errors import APIStatusError
from .handle import ModelHandle


class AsyncDriverApp(ModelHandle):
    """A driver proxy app: a small HTTP server on a cluster's driver node. Making a handle sends nothing.

    The app takes POST / with `{"prompt": str, "stop"?: [str], ...}` and answers with a JSON string. If the request says
    `Accept: text/event-stream`, it may answer piece by piece.
    """

    _names = "app, endpoint"

    async def _explain(self, verb: Verb, error: APIStatusError, deadline: float) -> None:
        if error.status == 502:  # what the driver proxy answers if it does not reach the app
            error.hint = f"Is the app {self.name} (cluster:port) running, and listening on 0.0.0.0?"
