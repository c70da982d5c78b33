"""The two wire formats of agents on Databricks Apps: invocations, and the older responses. Pure.

Invocations (`/api/invocations`): the client makes a run's id, so that a POST may be sent again; further fields are
refused. Responses (`/responses`): OpenAI's format, where the server makes the id of a run in the background.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .paths import quoted
from .sse import Event

APPS = "/api/2.0/apps"
OVER = frozenset({"completed", "failed", "cancelled", "canceled", "incomplete"})


@dataclass(frozen=True, slots=True)
class AgentWire:
    """One of the two formats.

    Attributes:
        path: where runs are started.
        makes_id: whether the client makes a run's id.
    """

    path: str
    makes_id: bool

    def body(
        self, run_id: str, items: Sequence[Any], session_id: str | None, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The body that starts a run.

        Raises:
            ConfigError: `more` has what this format has no place for.
        """
        if not self.makes_id:
            context = {"context": {"conversation_id": session_id}} if session_id else {}
            return {"input": [*items], **context, **more}
        if more:
            raise ConfigError(
                f"this agent's app takes no {' and no '.join(more)}: an invocation has only an input, session_id= and "
                "an id. Put it into the input, if the agent reads it there."
            )
        return {"id": run_id, "input": [*items], **({"session_id": session_id} if session_id else {})}

    def run_path(self, run_id: str) -> str:
        """The path of a run's state."""
        return f"{self.path}/{quoted(run_id, 'a run')}"

    def events_path(self, run_id: str, after: int | None) -> str:
        """The path of a run's events, those after a cursor."""
        if self.makes_id:
            return f"{self.run_path(run_id)}/events?after={after or 0}"
        return f"{self.run_path(run_id)}?stream=true&starting_after={after or 0}"

    def cursor(self, event: Event) -> int | None:
        """Where an event stands in its run; None if it does not say."""
        if len(event.id) < 20 and event.id.isascii() and event.id.isdigit():
            return int(event.id)
        if self.makes_id or b'"sequence_number"' not in event.data:
            return None
        try:
            value = json.loads(event.data).get("sequence_number")
        except (ValueError, AttributeError, RecursionError):
            return None
        return value if isinstance(value, int) and not isinstance(value, bool) else None


INVOCATIONS = AgentWire("/api/invocations", makes_id=True)
RESPONSES = AgentWire("/responses", makes_id=False)


def wire_of_run(run_id: str, known: AgentWire | None) -> AgentWire | None:
    """The format in which an app is asked for a run: ids of invocations are UUIDs, so any other is of the older one."""
    try:
        uuid.UUID(run_id)
    except ValueError:
        return RESPONSES
    return known


def run_id_of(value: str | None) -> str:
    """A run's id: the caller's, or a new one.

    Raises:
        ValueError: it is no UUID.
    """
    try:
        return str(uuid.uuid4() if value is None else uuid.UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"id must be a UUID, as str(uuid.uuid4()) makes them, got {value!r}.") from None


def status_of(state: Any) -> str:
    """The status in a run's state: queued, active, completed, failed …; an answer without one is complete."""
    status = state.get("status") if isinstance(state, dict) else None
    if isinstance(status, str) and status:
        return status.lower()
    return "failed" if isinstance(state, dict) and state.get("error") else "completed"


def response_json(state: Any) -> Any:
    """The response in a run's state, whatever the agent has returned as its output."""
    if not isinstance(state, dict) or "output" not in state:
        return state
    output = state["output"]
    if isinstance(output, dict) and isinstance(output.get("output"), list):
        return {**output, "id": state.get("id"), "status": state.get("status")}
    return {**state, "output": _output_items(output)}


def _output_items(output: Any) -> list[Any]:
    if output is None:
        return []
    if isinstance(output, list):
        return [_text_message(item) if isinstance(item, str) else item for item in output]
    if isinstance(output, dict) and ("type" in output or "role" in output):
        return [{"type": "message", **output}]
    return [_text_message(output if isinstance(output, str) else json.dumps(output, ensure_ascii=False))]


def _text_message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
