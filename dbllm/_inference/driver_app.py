"""Driver proxy apps."""

from __future__ import annotations

from .._protocol.tasks import Verb
from ..errors import APIStatusError
from .handle import ModelHandle


class AsyncDriverApp(ModelHandle):
    """A driver proxy app: a small HTTP server on a cluster's driver node. Making a handle sends nothing.

    Its contract: POST / with `{"prompt": str, "stop"?: [str], ...}`, answered by a JSON string; asked for it by
    `Accept: text/event-stream`, it may answer piece by piece.
    """

    async def _add_hint(self, verb: Verb, error: APIStatusError, deadline: float) -> None:
        if error.status == 502:  # the driver proxy's own word for it
            error.hint = f"Is the app {self.name} (cluster:port) running, and listening on 0.0.0.0?"
