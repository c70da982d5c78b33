"""Agent endpoints, task agent/v1/responses: OpenAI's Responses wire as Databricks' agents speak it.

The agent is the chat model itself: its items are read as messages, and it answers with a text or with a function
call that the caller carries out. `custom_inputs` come back as `custom_outputs`. A request is read as MLflow's scoring
server reads it for a ResponsesAgent (mlflow 3.17, ResponsesAgentRequest): a field of that type has to have its type,
any other is dropped. `instructions`, which are OpenAI's, are followed all the same.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import Request

from dbllm.local.errors import Problem, bad_request
from dbllm.local.http.asgi import Emit, decode_json
from dbllm.local.invocation.local_models import LocalModels
from dbllm.local.invocation.requests import TextRequest, read_chat
from dbllm.local.invocation.responses import Accumulator, Head
from dbllm.local.invocation.task import Task
from dbllm.local.json_values import Json, json_type
from dbllm.local.model.llama import Piece

ECHOED = (
    "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning", "temperature", "text",
    "tool_choice", "tools", "top_p", "truncation", "user",
)  # fmt: skip
"""Fields of a request that its answer repeats."""
SAME = ("temperature", "top_p", "stream", "parallel_tool_calls")
"""Fields that mean the same in a chat request."""
FIELD_TYPES = {
    "background": (bool, "true or false"),
    "context": (dict, "an object"),
    "custom_inputs": (dict, "an object"),
    "instructions": (str, "a string"),
    "metadata": (dict, "an object of strings"),
    "parallel_tool_calls": (bool, "true or false"),
    "reasoning": (dict, "an object"),
    "store": (bool, "true or false"),
    "stream": (bool, "true or false"),
    "tools": (list, "a list"),
    "truncation": (str, "a string"),
    "user": (str, "a string"),
}
"""The types of the fields that the chat request does not check."""
TEXT_PARTS = ("input_text", "output_text", "text")


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """A request to an agent: what it asks of the chat model, and what its answer repeats."""

    wanted: TextRequest
    echoed: Json
    custom_inputs: object

    @property
    def stream(self) -> bool:
        """Whether the answer is wanted piece by piece."""
        return self.wanted.stream


class AgentTask(Task[AgentRequest]):
    """agent/v1/responses.

    Args:
        response_id: of the one answer; made up for each when left out.
    """

    def __init__(self, response_id: str | None = None) -> None:
        self._response_id = response_id

    def read(self, request: Request, body: bytes) -> AgentRequest:
        by_model = "name" not in request.path_params  # the path of OpenAI's clients
        return read_response(decode_json(body), text_allowed=by_model)

    async def answer(self, models: LocalModels, model: str, wanted: AgentRequest) -> Json:
        async def drop(_event: object) -> None:
            pass

        return (await self.stream(models, model, wanted, drop)).whole()

    async def stream(self, models: LocalModels, model: str, wanted: AgentRequest, emit: Emit) -> ResponseEvents:
        head = Head(self._response_id or f"resp_{uuid.uuid4().hex}", int(time.time()), model, "llm/v1/chat")
        head, text_request = await models.decide_call(head, wanted.wanted)
        response = ResponseEvents(head, wanted)
        async with models.generate(text_request.jobs) as pieces:
            begun = False
            async for piece in pieces:
                for event in ([] if begun else response.begin()) + response.add(piece):
                    await emit(event)
                begun = True
        for event in response.end():
            await emit(event)
        return response


def read_response(body: object, *, text_allowed: bool = True) -> AgentRequest:
    """An agent's request: `input` is a list of items; on OpenAI's path, which `text_allowed` means, also a text.

    Raises:
        Problem: 400 with the reason.
    """
    if not isinstance(body, dict):
        raise bad_request(f"json: cannot unmarshal {json_type(body)} into a request object")
    fields = {name: value for name, value in body.items() if value is not None}
    if "input" not in fields:
        instead = "an agent of task agent/v1/responses takes 'input', not 'messages'"
        raise bad_request(instead if "messages" in fields else "missing required field 'input'")
    for name, (kind, words) in FIELD_TYPES.items():
        if name in fields and not isinstance(fields[name], kind):
            raise bad_request(f"field '{name}' must be {words}, got {json_type(fields[name])}")
    if not all(isinstance(value, str) for value in fields.get("metadata", {}).values()):
        raise bad_request("field 'metadata' must be an object of strings")
    if isinstance(fields["input"], str) and not text_allowed:
        # mlflow's words: its signature has `'input': Array(Any) (required)`.
        reason = "Failed to enforce schema of data. Error: Expected data of 'input' to be list, got str"
        example = '"input": [{"role": "user", "content": "..."}]'
        raise Problem(400, "INVALID_PARAMETER_VALUE", f"{reason}. Send a list of items: {example}")
    ahead = _instructions(fields.get("instructions"))
    chat = {name: fields[name] for name in SAME if name in fields}
    chat["messages"] = [*ahead, *_chat_messages(fields["input"])]
    if "max_output_tokens" in fields:
        chat["max_tokens"] = fields["max_output_tokens"]
    if "tools" in fields:
        chat["tools"] = _tools(fields["tools"])
    if "tool_choice" in fields:
        chat["tool_choice"] = _chat_tool_choice(fields["tool_choice"])
    if "text" in fields:
        chat["response_format"] = _format(fields["text"])
    try:
        wanted = read_chat(chat)
    except Problem as problem:
        raise bad_request(_in_our_words(problem.message, len(ahead))) from problem
    return AgentRequest(wanted, {name: fields[name] for name in ECHOED if name in fields}, fields.get("custom_inputs"))


def _in_our_words(message: str, ahead: int) -> str:
    """A problem of the chat request, in the names of this one."""
    message = re.sub(r"messages\[(\d+)\]", lambda at: f"input[{int(at[1]) - ahead}]", message)
    for theirs, ours in (("'messages'", "'input'"), ("max_tokens", "max_output_tokens"), (".function.", ".")):
        message = message.replace(theirs, ours)
    return message.replace("response_format.json_schema", "text.format").removeprefix("Bad request: ")


def _instructions(value: object) -> list[Json]:
    return [] if value is None else [{"role": "system", "content": value}]


def _chat_messages(value: object) -> list[Json]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise bad_request(f"field 'input' must be a list of items, not empty; got {json_type(value)}")
    return [_chat_message(f"input[{number}]", item) for number, item in enumerate(value)]


def _chat_message(where: str, item: object) -> Json:
    """One message per item, so that a problem with it names the right one."""
    if not isinstance(item, dict):
        raise bad_request(f"'{where}' must be an item, an object with 'role' or 'type'; got {json_type(item)}")
    kind = item.get("type", "message")
    if kind == "message":
        role = "system" if item.get("role") == "developer" else item.get("role")
        return {"role": role, "content": _chat_content(where, item.get("content"))}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        output = item.get("output")
        content = output if isinstance(output, str) else _chat_content(f"{where}.output", output)
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
    if kind == "reasoning":  # what a reasoning model thought in an earlier turn; this one has no use for it
        return {"role": "assistant", "content": ""}
    raise bad_request(f"'{where}.type' must be message, function_call, function_call_output or reasoning; got {kind!r}")


def _chat_content(where: str, content: object) -> object:
    if not isinstance(content, list):
        return content
    parts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            parts.append({"type": "text", "text": part.get("refusal")})
        elif kind in TEXT_PARTS:
            parts.append({"type": "text", "text": part.get("text")})
        else:
            raise bad_request(
                f"'{where}.content[{number}]' must be a text part, got {kind!r}: this model takes no images or files"
            )
    return parts


def _tools(value: object) -> object:
    if not isinstance(value, list):
        return value
    for number, tool in enumerate(value):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            kind = tool.get("type") if isinstance(tool, dict) else json_type(tool)
            raise bad_request(
                f"'tools[{number}].type' must be function: this agent has no tools of its own; got {kind!r}"
            )
    return [
        {"type": "function", "function": {name: one for name, one in tool.items() if name != "type"}} for tool in value
    ]


def _chat_tool_choice(value: object) -> object:
    if not isinstance(value, dict):
        return value
    if value.get("type") == "function" and "name" in value:
        return {"type": "function", "function": {"name": value["name"]}}
    if value.get("type") == "allowed_tools" and isinstance(value.get("tools"), list):
        allowed = {"mode": value.get("mode"), "tools": [_chat_tool_choice(tool) for tool in value["tools"]]}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    return value


def _format(value: object) -> object:
    """As a chat's `response_format`; the schema may also stand inside `json_schema`, as it does there."""
    if not isinstance(value, dict) or not isinstance(value.get("format") or {}, dict):
        raise bad_request('field \'text\' must be an object such as {"format": {"type": "text"}}')
    wanted = value.get("format") or {"type": "text"}
    if wanted.get("type") != "json_schema" or isinstance(wanted.get("json_schema"), dict):
        return wanted
    return {"type": "json_schema", "json_schema": {name: one for name, one in wanted.items() if name != "type"}}


@dataclass
class ResponseEvents:
    """Builds a response from the model's pieces: the events of its stream, and the whole.

    Args:
        head: id, time and model of the answer, and the function it calls, if it calls one.
        ask: the request.
    """

    head: Head
    ask: AgentRequest
    _tally: Accumulator = field(default_factory=lambda: Accumulator(1))
    _event_count: int = 0

    def begin(self) -> list[Json]:
        """The events before the first piece."""
        empty = self._item("in_progress", "")
        events: list[Json] = [
            {"type": "response.created", "response": self._response("in_progress", [])},
            {"type": "response.in_progress", "response": self._response("in_progress", [])},
            {"type": "response.output_item.added", "output_index": 0, "item": empty},
        ]
        if self.head.tool is None:
            events.append(
                {"type": "response.content_part.added", **self._at(), "content_index": 0, "part": _output_text("")}
            )
        return self._numbered(events)

    def add(self, piece: Piece) -> list[Json]:
        """The events of a piece."""
        self._tally.add(piece)
        if not piece.text:
            return []
        if self.head.tool is not None:
            return self._numbered(
                [{"type": "response.function_call_arguments.delta", **self._at(), "delta": piece.text}]
            )
        delta: Json = {**self._at(), "content_index": 0, "delta": piece.text, "logprobs": []}
        return self._numbered([{"type": "response.output_text.delta", **delta}])

    def end(self) -> list[Json]:
        """The events after the last piece."""
        text = self._tally.text(0)
        whole = self.whole()
        if self.head.tool is not None:
            done: list[Json] = [
                {
                    "type": "response.function_call_arguments.done",
                    **self._at(),
                    "name": self.head.tool,
                    "arguments": text,
                }
            ]
        else:
            place: Json = {**self._at(), "content_index": 0}
            done = [
                {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
                {"type": "response.content_part.done", **place, "part": _output_text(text)},
            ]
        item = {"type": "response.output_item.done", "output_index": 0, "item": self._item(self._status(), text)}
        return self._numbered([*done, item, {"type": f"response.{self._status()}", "response": whole}])

    def whole(self) -> Json:
        """The response itself."""
        return self._response(self._status(), [self._item(self._status(), self._tally.text(0))])

    def _status(self) -> str:
        return "incomplete" if self._tally.finish_reasons[0] == "length" else "completed"

    def _at(self) -> Json:
        return {"item_id": self._item_id(), "output_index": 0}

    def _item_id(self) -> str:
        return f"{'msg' if self.head.tool is None else 'fc'}_{self.head.id[-32:]}"

    def _item(self, status: str, text: str) -> Json:
        if self.head.tool is not None:
            call: Json = {"call_id": f"call_{self.head.id[-24:]}", "name": self.head.tool, "arguments": text}
            return {"type": "function_call", "id": self._item_id(), "status": status, **call}
        content = [] if status == "in_progress" else [_output_text(text)]
        return {"type": "message", "id": self._item_id(), "status": status, "role": "assistant", "content": content}

    def _response(self, status: str, output: list[Json]) -> Json:
        custom = {} if self.ask.custom_inputs is None else {"custom_outputs": self.ask.custom_inputs}
        defaults: Json = {"metadata": {}, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
        return {
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "model": self.head.model,
            "status": status,
            **defaults,
            **self.ask.echoed,
            "output": output,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "usage": None if status == "in_progress" else _usage(self._tally.usage()),
            **custom,
        }

    def _numbered(self, events: list[Json]) -> list[Json]:
        numbered = [{**event, "sequence_number": self._event_count + number} for number, event in enumerate(events)]
        self._event_count += len(events)
        return numbered


def _output_text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Mapping[str, object]) -> Json:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
