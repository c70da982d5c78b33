"""A scripted answer in the wire format that a request asks for: whole, or as server-sent events. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from dbllm.local.errors import Problem
from dbllm.local.gateway.messages import STOP_REASONS, MessageStream, whole_message
from dbllm.testing.fault_plans import FAULT_KINDS, FaultName
from dbllm.testing.scripted_answers import NO_PREDICTIONS, ScriptedAnswer, ScriptedToolCall, error_code_of
from dbllm.testing.wire_requests import WireKind, wants_stream

Json = dict[str, Any]
Ending = Literal["whole", "cut", "reset", "stall"]
_PIECES = re.compile(r"\S+\s*|\s+")
_CREATED = 1_700_000_000
_MODEL = "scripted"
_DONE = "data: [DONE]\n\n"
_FORMS = {"embeddings": ("vectors",), "custom": ("predictions", "a text"), "other": ("JSON",)}
_WITHOUT_TOOLS = ("completions", "custom", "driver_app")


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """An answer as it goes over the wire.

    Attributes:
        status: HTTP status.
        headers: names in lower case.
        body: of a whole answer.
        frames: of a stream: the seconds that pass before each server-sent event, and its bytes.
        delay: seconds before a whole answer begins.
        ending: how it ends; all but "whole" break off where the frames, or the body, end.
        fault: what else happens to it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    frames: tuple[tuple[float, bytes], ...] = ()
    delay: float = 0.0
    ending: Ending = "whole"
    fault: FaultName | None = None

    @property
    def streams(self) -> bool:
        return bool(self.frames)


class UnfitError(ValueError):
    """A scripted answer that does not fit what the request asks for."""


def forms_for(kind: WireKind) -> tuple[str, ...]:
    """The forms of scripted answers that a request of this kind can get; an error and JSON fit all."""
    return (*_FORMS.get(kind, ("a text",)), "JSON", "an error")


def wire_answer(kind: WireKind, body: Json, accept: str, answer: ScriptedAnswer, *, pause: float = 0.2) -> WireAnswer:
    """A scripted answer to a request.

    Args:
        kind: what the request asks for.
        body: its JSON object.
        accept: its header.
        answer: what the test wrote.
        pause: seconds of the fault "slow_first_token".

    Raises:
        UnfitError: the answer is of another form than the request asks for.
    """
    request_id = {"x-request-id": f"scripted-{_id_part(answer)}"}
    if answer.status >= 400:
        return _error(kind, answer, request_id)
    if answer.fault == "slow_first_token":
        answer = replace(answer, first_token=answer.first_token + pause)
    elif answer.fault == "refusal":
        refusal = answer.refusal or "I cannot help with that."
        answer = replace(answer, text="", tool_calls=(), refusal=refusal)
    elif answer.fault == "cut_tool_arguments" and answer.tool_calls:
        *first, last = answer.tool_calls
        last = replace(last, arguments=last.arguments[: len(last.arguments) // 2])
        answer = replace(answer, tool_calls=(*first, last), finish_reason="length")
    if kind in _WITHOUT_TOOLS or kind == "messages":
        answer = _without_refusal(kind, answer)
    pieces = _tokens_of(answer)
    between = 1 / answer.tokens_per_second if answer.tokens_per_second else 0.0
    if answer.json is None and wants_stream(kind, body, accept):
        frames = tuple(_timed(_stream_events(kind, body, answer), answer.first_token, between))
        made = WireAnswer(200, {"content-type": "text/event-stream", **request_id, **answer.headers}, frames=frames)
    else:
        value = answer.json if answer.json is not None else json.dumps(_whole_body(kind, body, answer)).encode()
        delay = answer.first_token + between * max(0, len(pieces) - 1)
        headers = {"content-type": "application/json", **request_id, **answer.headers}
        made = WireAnswer(answer.status, headers, value, delay=delay)
    return _with_fault(made, answer, kind)


def _without_refusal(kind: WireKind, answer: ScriptedAnswer) -> ScriptedAnswer:
    """The same in a wire format where a refusal is a text as any other."""
    if answer.tool_calls and kind in _WITHOUT_TOOLS:
        raise UnfitError(f"the scripted answer calls tools, and the request is of a kind that has none ({kind})")
    if answer.refusal is None:
        return answer
    return replace(answer, text=answer.refusal, refusal=None, finish_reason=answer.finish_reason or "content_filter")


def _error(kind: WireKind, answer: ScriptedAnswer, request_id: Mapping[str, str]) -> WireAnswer:
    problem = Problem(answer.status, error_code_of(answer.status, answer.error_code), answer.message)
    content: object = {"detail": answer.message} if kind == "agent" else problem.body()
    value = answer.json if answer.json is not None else json.dumps(content).encode()
    headers = {"content-type": "application/json", **request_id, **answer.headers}
    return WireAnswer(answer.status, headers, value, delay=answer.first_token)


# --- whole answers ----------------------------------------------------------------------------------------------------


def _whole_body(kind: WireKind, body: Json, answer: ScriptedAnswer) -> object:
    wanted, *others = _FORMS.get(kind, ("a text",))
    if answer.form not in (wanted, *others):
        said = "calls no model" if kind == "other" else f"asks for {wanted} ({kind})"
        raise UnfitError(f"the scripted answer is {answer.form}, and the request {said}")
    if kind == "embeddings":
        return _vectors_body(body, answer)
    if kind == "custom":
        texts = [answer.text] * _row_count(body)
        return {"predictions": texts if answer.predictions is NO_PREDICTIONS else answer.predictions}
    if kind == "driver_app":
        return answer.text
    if kind in ("responses", "agent"):
        return _agent_whole(body, answer) if kind == "agent" and "id" in body else response(answer)
    usage = _usage_of_text(body, answer)
    if kind == "messages":
        return _anthropic_message(body, answer)
    if kind == "chat":
        choice: Json = {"message": _assistant_message(answer), "finish_reason": _finish_reason(answer)}
        name = "chat.completion"
    else:
        choice, name = {"text": answer.text, "finish_reason": _finish_reason(answer)}, "text_completion"
    choices = [{"index": index, **choice, "logprobs": None} for index in range(_choices_wanted(body))]
    return {**_common_fields(answer, name), "choices": choices, "usage": usage}


def _anthropic_message(body: Json, answer: ScriptedAnswer) -> Json:
    """A whole message of Anthropic's interface."""
    made = whole_message(cast("Json", _whole_body("chat", _as_chat(body), answer)))
    return {**made, "stop_reason": _stop_reason(answer) or made["stop_reason"], "usage": _message_usage(made, answer)}


def _as_chat(body: Json) -> Json:
    system = [body["system"]] if body.get("system") else []
    return {"messages": [*system, *body["messages"]] if isinstance(body.get("messages"), list) else []}


def _stop_reason(answer: ScriptedAnswer) -> str | None:
    """Where the test says it in Anthropic's words."""
    known = (None, "stop", *STOP_REASONS)
    return None if answer.finish_reason in known else answer.finish_reason


def _message_usage(made: Json, answer: ScriptedAnswer) -> Json:
    said = answer.usage or {}
    return {**made["usage"], **(said if "input_tokens" in said or "output_tokens" in said else {})}


def _vectors_body(body: Json, answer: ScriptedAnswer) -> Json:
    texts = body.get("input")
    texts = texts if isinstance(texts, list) else [texts]
    vectors = answer.vectors or ()
    if len(vectors) not in (1, len(texts)):
        raise UnfitError(f"the scripted answer has {len(vectors)} vectors, and the request has {len(texts)} texts")
    data = [
        {"object": "embedding", "index": index, "embedding": list(vectors[index % len(vectors)])}
        for index in range(len(texts))
    ]
    tokens = sum(_count(str(text)) for text in texts)
    return {
        "object": "list",
        "model": _MODEL,
        "data": data,
        "usage": answer.usage or {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _assistant_message(answer: ScriptedAnswer) -> Json:
    content = answer.text if answer.text or not (answer.tool_calls or answer.refusal) else None
    message: Json = {"role": "assistant", "content": content}
    if answer.refusal is not None:
        message["refusal"] = answer.refusal
    if answer.tool_calls:
        message["tool_calls"] = [_tool_call_body(answer, index, call) for index, call in enumerate(answer.tool_calls)]
    return message


def response(answer: ScriptedAnswer) -> Json:
    """A whole response of the Responses interface."""
    items = [_item_with_status(item, "completed") for item in _answer_items(answer)]
    return _response(answer, _status(answer), items)


def _agent_whole(body: Json, answer: ScriptedAnswer) -> Json:
    return {"id": body["id"], "status": "completed", "output": response(answer)}


# --- streams ----------------------------------------------------------------------------------------------------------

Event = tuple[str, int]
"""A server-sent event, and how many tokens it carries."""


def _stream_events(kind: WireKind, body: Json, answer: ScriptedAnswer) -> Iterator[Event]:
    if answer.form != "a text":
        raise UnfitError(f"the scripted answer is {answer.form}, and the request asks for a stream of text ({kind})")
    if kind == "driver_app":
        yield from ((_data_frame(piece), 1) for piece in _tokens_of(answer))
    elif kind in ("responses", "agent"):
        numbered = kind == "agent" and "id" in body
        for number, (event, tokens) in enumerate(_response_events(answer)):
            begin = f"id: {number + 1}\n" if numbered else ""
            yield begin + _named_frame({**event, "sequence_number": number}), tokens
        if numbered:
            return
    elif kind == "messages":
        yield from _message_events(body, answer)
        return
    else:
        yield from ((_data_frame(chunk), tokens) for chunk, tokens in _chat_chunks(kind, body, answer))
    yield _DONE, 0


def _chat_chunks(kind: WireKind, body: Json, answer: ScriptedAnswer) -> Iterator[tuple[Json, int]]:
    chat = kind == "chat"
    head = _common_fields(answer, "chat.completion.chunk" if chat else "text_completion")
    indexes = range(_choices_wanted(body))

    def chunk(content: Json, reason: str | None = None, usage: object = None) -> Json:
        said = {"delta": content} if chat else content
        choices = [{"index": index, **said, "finish_reason": reason} for index in indexes]
        return {**head, "choices": choices, "usage": usage}

    if chat:
        yield chunk({"role": "assistant", "content": ""}), 0
    for piece in _PIECES.findall(answer.text):
        yield chunk({"content": piece} if chat else {"text": piece}), 1
    if answer.refusal is not None:
        yield chunk({"refusal": answer.refusal}), 1
    for index, call in enumerate(answer.tool_calls):
        first = {"index": index, **_tool_call_body(answer, index, ScriptedToolCall(call.name, ""))}
        yield chunk({"tool_calls": [first]}), 1
        for piece in _PIECES.findall(call.arguments):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}), 1
    yield chunk({} if chat else {"text": ""}, _finish_reason(answer), _usage_of_text(body, answer)), 0


def _message_events(body: Json, answer: ScriptedAnswer) -> Iterator[Event]:
    """The events of a message of Anthropic's interface, from the chunks of the same chat."""
    chat, events = _as_chat(body), MessageStream()
    usage = _usage_of_text(chat, answer)
    for chunk, tokens in _chat_chunks("chat", chat, answer):
        made = list(events.feed({**chunk, "usage": usage}))
        yield from ((_named_frame(event), tokens if event is made[-1] else 0) for event in made)
    for event in events.end():
        if event["type"] == "message_delta":
            delta: Any = event["delta"]
            delta = {**delta, "stop_reason": _stop_reason(answer) or delta["stop_reason"]}
            yield _named_frame({**event, "delta": delta, "usage": _message_usage(event, answer)}), 0
        else:
            yield _named_frame(event), 0


def _response_events(answer: ScriptedAnswer) -> Iterator[tuple[Json, int]]:
    items = _answer_items(answer)
    empty = _response(answer, "in_progress", [])
    yield {"type": "response.created", "response": empty}, 0
    yield {"type": "response.in_progress", "response": empty}, 0
    for number, item in enumerate(items):
        call = item["type"] == "function_call"
        begun: Json = {**item, "status": "in_progress", **({"arguments": ""} if call else {"content": []})}
        yield {"type": "response.output_item.added", "output_index": number, "item": begun}, 0
        at = {"item_id": item["id"], "output_index": number}
        if call:
            arguments = item["arguments"]
            for piece in _PIECES.findall(arguments):
                yield {"type": "response.function_call_arguments.delta", **at, "delta": piece}, 1
            ended = {"type": "response.function_call_arguments.done", **at, "arguments": arguments}
            yield {**ended, "name": item["name"]}, 0
        else:
            part = item["content"][0]
            name = "refusal" if part["type"] == "refusal" else "text"
            said, at = part[name], {**at, "content_index": 0}
            yield {"type": "response.content_part.added", **at, "part": {**part, name: ""}}, 0
            event = f"response.{'refusal' if name == 'refusal' else 'output_text'}"
            for piece in _PIECES.findall(said):
                yield {"type": f"{event}.delta", **at, "delta": piece}, 1
            yield {"type": f"{event}.done", **at, name: said}, 0
            yield {"type": "response.content_part.done", **at, "part": part}, 0
        yield (
            {"type": "response.output_item.done", "output_index": number, "item": _item_with_status(item, "completed")},
            0,
        )
    yield {"type": f"response.{_status(answer)}", "response": response(answer)}, 0


def _timed(events: Iterator[Event], first: float, between: float) -> Iterator[tuple[float, bytes]]:
    """Each event with the seconds before it: the first token is late, the others follow at the rate."""
    begun = False
    for text, tokens in events:
        wait = 0.0
        if tokens:
            wait, begun = between if begun else first, True
        yield wait, text.encode()


def _data_frame(value: object) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _named_frame(event: Json) -> str:
    return f"event: {event['type']}\n{_data_frame(event)}"


# --- faults -----------------------------------------------------------------------------------------------------------


def _with_fault(made: WireAnswer, answer: ScriptedAnswer, kind: WireKind) -> WireAnswer:
    fault = answer.fault
    if fault in FAULT_KINDS:
        return replace(made, fault=cast("FaultName", fault))
    half = max(1, len(made.frames) // 2)
    endings: dict[str, Ending] = {"stream_cut": "cut", "stream_reset": "reset", "stream_stall": "stall"}
    if fault in endings:
        return replace(made, frames=made.frames[:half], body=made.body[: len(made.body) // 2], ending=endings[fault])
    message = f"{_MODEL}: the model failed in the middle of its answer"
    if fault == "error_frame":
        error: Json = {"error": {"message": message, "type": "internal_error", "code": "INTERNAL_ERROR"}}
        if kind in ("responses", "agent"):
            error = {"type": "error", "code": "INTERNAL_ERROR", "message": message, "sequence_number": half}
        if kind == "messages":
            error = {"type": "error", "error": {"type": "api_error", "message": message}}
        whole = {"error_code": "INTERNAL_ERROR", "message": message}
        if not made.streams:
            return replace(made, body=_dumped(whole))
        said = _named_frame(error) if kind == "messages" else _data_frame(error)
        return replace(made, frames=(*made.frames[:half], (0.0, said.encode())))
    if fault == "bad_json":
        if not made.streams:
            return replace(made, body=made.body[: len(made.body) // 2])
        frame = made.frames[half][1].rstrip()
        data = frame.index(b"data: ") + len(b"data: ")
        broken = (0.0, frame[: (data + len(frame)) // 2] + b"\n\n")
        return replace(made, frames=(*made.frames[:half], broken, *made.frames[half + 1 :]))
    if fault == "stream_ends_early":
        return replace(made, frames=made.frames[:half], body=made.body[: len(made.body) // 2])
    return made


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


# --- parts ------------------------------------------------------------------------------------------------------------


def _common_fields(answer: ScriptedAnswer, name: str) -> Json:
    return {"id": f"scripted-{_id_part(answer)}", "object": name, "created": _CREATED, "model": _MODEL}


def _id_part(answer: ScriptedAnswer) -> str:
    """What ids are made of: the same in every run, and another for each call."""
    said = f"{answer.serial}/{answer.text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=6).hexdigest()


def _tokens_of(answer: ScriptedAnswer) -> Sequence[str]:
    found: list[str] = _PIECES.findall(answer.text)
    for call in answer.tool_calls:
        found += [call.name, *_PIECES.findall(call.arguments)]
    return found


def _count(text: str) -> int:
    return len(_PIECES.findall(text))


def _usage_of_text(body: Json, answer: ScriptedAnswer) -> Json:
    if answer.usage is not None:
        return dict(answer.usage)
    asked = body.get("messages", body.get("prompt", body.get("input", "")))
    prompt = _count(asked if isinstance(asked, str) else json.dumps(asked))
    completion = len(_tokens_of(answer)) * _choices_wanted(body)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _finish_reason(answer: ScriptedAnswer) -> str:
    return answer.finish_reason or ("tool_calls" if answer.tool_calls else "stop")


def _choices_wanted(body: Json) -> int:
    wanted = body.get("n")
    return wanted if isinstance(wanted, int) and 1 <= wanted <= 16 else 1


def _row_count(body: Json) -> int:
    rows = body.get("dataframe_records") or body.get("instances") or body.get("inputs")
    if isinstance(body.get("dataframe_split"), dict):
        rows = body["dataframe_split"].get("data")
    return len(rows) if isinstance(rows, list) else 1


def _tool_call_body(answer: ScriptedAnswer, index: int, call: ScriptedToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{index}_{_id_part(answer)}", "type": "function", "function": function}


def _answer_items(answer: ScriptedAnswer) -> list[Json]:
    items: list[Json] = []
    if answer.refusal is not None:
        items.append(_message_item(answer, {"type": "refusal", "refusal": answer.refusal}))
    elif answer.text or not answer.tool_calls:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        items.append(_message_item(answer, part))
    for index, call in enumerate(answer.tool_calls):
        known = {"id": f"fc_{index}_{_id_part(answer)}", "call_id": f"call_{index}_{_id_part(answer)}"}
        items.append({"type": "function_call", **known, "name": call.name, "arguments": call.arguments})
    return items


def _message_item(answer: ScriptedAnswer, part: Json) -> Json:
    return {"type": "message", "id": f"msg_{_id_part(answer)}", "role": "assistant", "content": [part]}


def _item_with_status(item: Json, status: str) -> Json:
    return {**item, "status": status}


def _status(answer: ScriptedAnswer) -> str:
    return "incomplete" if answer.finish_reason == "length" else "completed"


def _response(answer: ScriptedAnswer, status: str, output: list[Json]) -> Json:
    known: Json = {"id": f"resp_{_id_part(answer)}", "object": "response", "created_at": _CREATED, "model": _MODEL}
    tokens = len(_tokens_of(answer))
    usage = answer.usage or {"input_tokens": 1, "output_tokens": tokens, "total_tokens": 1 + tokens}
    return {
        **known,
        "status": status,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "output": output,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "usage": None if status == "in_progress" else usage,
    }
