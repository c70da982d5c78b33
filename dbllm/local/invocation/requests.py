"""The requests of the llm/v1 tasks, read strictly, and what they ask of the engine. All pure.

Foundation model endpoints refuse unknown fields (Databricks REST: 400 `Bad request: json: unknown field "x"`).
A null is a field that was not sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dbllm.local.errors import Problem, bad_request, unknown_field
from dbllm.local.invocation.limits import MAX_ANSWER_TOKENS
from dbllm.local.json_values import json_type
from dbllm.local.model import tools
from dbllm.local.model.grammar import read_format
from dbllm.local.model.llama import Job

SAMPLING = ("temperature", "max_tokens", "top_p", "top_k")
"""The parameters that every text endpoint hands to the model."""

GUIDED: Mapping[str, object] = {"temperature": 0, "dry_multiplier": 0.8}
"""How an answer under a grammar is sampled if the request does not say: greedily, and against saying the same again
and again, which this model does inside the quotes of a text until the text's bound."""

Body = Mapping[str, object]
Check = Callable[[str, object], None]


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A chat or completions request: the jobs (choice by choice) and how the answer is wanted.

    Attributes:
        jobs: what makes an answer in text.
        choices_per_prompt: `n`: prompts are counted once however many choices they get.
        stream: whether it is wanted piece by piece.
        usage_apart: whether a stream's usage comes once, on a chunk of its own (`stream_options.include_usage`);
            otherwise it is on every chunk.
        offer: the tools that may or must be called instead.
        question: the message that the tools are for.
        results: what came of the tools that were called for it already.
        alternatives: with logprobs, how many alternatives to each token are told.
    """

    jobs: tuple[Job, ...]
    choices_per_prompt: int
    stream: bool
    usage_apart: bool = False
    offer: tools.ToolOffer | None = None
    question: str = ""
    alternatives: int = 0
    results: tuple[str, ...] = ()

    def calling(self, tool: tools.Tool) -> TextRequest:
        """The same request once it is decided that a tool is called."""
        sampling = {name: value for name, value in self.jobs[0].request.items() if name in SAMPLING}
        engine_request = {**tools.arguments_request(tool, self.question, self.results), **GUIDED, **sampling}
        return replace(self, jobs=(Job("chat", engine_request),) * len(self.jobs), offer=None)


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """The texts to embed, in order, and whether the vectors are wanted as base64 of little-endian float32."""

    texts: tuple[str, ...]
    base64: bool
    stream: bool = False


def read_chat(body: object) -> TextRequest:
    """A llm/v1/chat request.

    Raises:
        Problem: 400 with the reason.
    """
    fields = _read_fields(body, _CHAT)
    if "messages" not in fields:
        raise bad_request("missing required field 'messages'")
    messages = fields["messages"]
    request: dict[str, object] = {"messages": _template_messages(messages), **_common(fields)}
    grammar = read_format(_object(fields.get("response_format", {"type": "text"})))
    if grammar is not None:
        request = {**GUIDED, **request, "grammar": grammar}
    if fields.get("logprobs"):
        request |= {"logprobs": True, "top_logprobs": max(1, _top(fields, "top_logprobs"))}  # with 0 llama.cpp has none
    offer = tools.read_offer(tools.read_tools(fields.get("tools", [])), fields.get("tool_choice"))
    results = results_since_question(messages)
    if offer is not None and offer.required:
        offer = tools.still_to_call(offer, [call.name for call, _ in results])
    elif last_role(messages) != "user":
        offer = None  # the result of a tool is there: what is left to do is the answer
    count = _choice_count(fields)
    return TextRequest(
        (Job("chat", request),) * count,
        count,
        _stream(fields),
        _usage_apart(fields),
        offer,
        last_question(messages),
        _top(fields, "top_logprobs"),
        tuple(tools.result_message(call, text)["content"] for call, text in results),
    )


def read_completions(body: object) -> TextRequest:
    """A llm/v1/completions request.

    The prompt goes through the model's chat template unless `use_raw_prompt` is true (Databricks REST: "the user
    prompt is transformed using a prompt template before being passed into the model").

    Raises:
        Problem: 400 with the reason.
    """
    fields = _read_fields(body, _COMPLETIONS)
    prompts = fields.get("prompt")
    if prompts is None:
        raise bad_request("missing required field 'prompt'")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise bad_request("field 'prompt' must be a string or a list of strings")
    for name in ("suffix", "echo"):
        if fields.get(name):
            raise bad_request(f"field '{name}' is not supported by this model")
    raw = bool(fields.get("use_raw_prompt"))
    count, request = _choice_count(fields), _common(fields)
    top = _top(fields, "logprobs")  # one number, where chat has a flag and a number
    if "logprobs" in fields:
        request |= {"logprobs": max(1, top)} if raw else {"logprobs": True, "top_logprobs": max(1, top)}
    jobs = [prompt_job(prompt, request, raw=raw) for prompt in prompts for _ in range(count)]
    return TextRequest(tuple(jobs), count, _stream(fields), _usage_apart(fields), alternatives=top)


def prompt_job(prompt: str, request: Body, *, raw: bool = False) -> Job:
    """A job for a plain prompt: in the model's chat template as the user's words, or continued as it stands."""
    if raw:
        # An instruct model ends a bare question at once, with an empty text; a continuation is what was asked for.
        return Job("raw", {"prompt": prompt, **request, "ignore_eos": True})
    return Job("chat", {"messages": [{"role": "user", "content": prompt}], **request})


def read_embeddings(body: object) -> EmbeddingsRequest:
    """A llm/v1/embeddings request; an `instruction` is put in front of each text.

    Raises:
        Problem: 400 with the reason.
    """
    fields = _read_fields(body, _EMBEDDINGS)
    texts = fields.get("input")
    if texts is None:
        raise Problem(400, "INVALID_PARAMETER_VALUE", "Missing required embeddings parameter: 'input'")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise bad_request("field 'input' must be a string or a list of strings, not empty")
    instruction = fields.get("instruction")
    prefix = f"{instruction} " if instruction else ""
    return EmbeddingsRequest(tuple(prefix + text for text in texts), fields.get("encoding_format") == "base64")


def read_sampling(params: Body) -> dict[str, object]:
    """The sampling parameters of a prompt/stop model, checked like those of an endpoint.

    Raises:
        Problem: 400 with the reason.
    """
    for name, value in params.items():
        _SAMPLING[name](name, value)
    return {"max_tokens": MAX_ANSWER_TOKENS, **params}


def _read_fields(body: object, known: Mapping[str, Check]) -> dict[str, object]:
    if not isinstance(body, dict):
        raise bad_request(f"json: cannot unmarshal {json_type(body)} into a request object")
    for name, value in body.items():
        if name not in known:
            raise unknown_field(name)
        if value is not None:
            known[name](name, value)
    return {name: value for name, value in body.items() if value is not None}


def _common(fields: Body) -> dict[str, object]:
    request: dict[str, object] = {"max_tokens": MAX_ANSWER_TOKENS}
    request.update({name: fields[name] for name in SAMPLING if name in fields})
    stop = fields.get("stop")
    if stop:
        request["stop"] = [stop] if isinstance(stop, str) else stop
    return request


def _choice_count(fields: Body) -> int:
    count = fields.get("n", 1)
    return count if isinstance(count, int) else 1


def _top(fields: Body, name: str) -> int:
    most = fields.get(name, 0)
    return most if isinstance(most, int) else 0


def _stream(fields: Body) -> bool:
    return bool(fields.get("stream"))


def _usage_apart(fields: Body) -> bool:
    return bool(_object(fields.get("stream_options", {})).get("include_usage"))


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def last_role(messages: object) -> str:
    """The role of the last of some messages that have been read."""
    return str(_object(messages[-1]).get("role")) if isinstance(messages, list) else ""


def last_question(messages: object) -> str:
    """What the user said last, of messages that have been read."""
    for message in reversed(messages if isinstance(messages, list) else []):
        if message["role"] == "user":
            return _text_of("messages", message["content"])
    return ""


def results_since_question(messages: object) -> list[tuple[tools.PastCall, str]]:
    """The calls that have a result since the user's last message, in the order of the results; read messages only."""
    results: list[tuple[tools.PastCall, str]] = []
    calls: dict[str, tools.PastCall] = {}
    for message in messages if isinstance(messages, list) else []:
        if message["role"] == "user":
            results = []
        elif message["role"] == "assistant":
            calls |= {call.id: call for call in tools.read_calls("tool_calls", message.get("tool_calls") or [])}
        elif message["role"] == "tool":
            results.append((calls[str(message["tool_call_id"])], _text_of("content", message["content"])))
    return results


def _template_messages(messages: object) -> list[tools.Message]:
    """Messages as the model's template takes them: tool calls and their results become text."""
    if not isinstance(messages, list) or not messages:
        raise bad_request("field 'messages' must be a list of messages, not empty")
    read: list[tools.Message] = []
    calls: dict[str, tools.PastCall] = {}
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise bad_request(f"'{where}' must be an object with 'role' and 'content', got {json_type(message)}")
        role = message.get("role")
        if role not in ("system", "user", "assistant", "tool"):
            raise bad_request(f"'{where}.role' must be one of system, user, assistant, tool; got {role!r}")
        if role == "assistant" and message.get("tool_calls"):
            new_calls = tools.read_calls(f"{where}.tool_calls", message["tool_calls"])
            ahead = messages[number - 1] if number else {}
            # Calls may come one message each (agents' items do).
            goes_on = ahead.get("role") == "assistant" and bool(ahead.get("tool_calls"))
            calls = (calls if goes_on else {}) | {call.id: call for call in new_calls}
            text = "" if message.get("content") is None else _text_of(f"{where}.content", message["content"])
            read.append(tools.assistant_message(text, new_calls))
            continue
        text = _text_of(f"{where}.content", message.get("content"))
        if role == "tool":
            call = calls.get(str(message.get("tool_call_id")))
            if call is None:
                raise bad_request(
                    f"'{where}' is a tool message, so 'tool_call_id' must name one of the tool_calls of the assistant "
                    f"message before it; got {_shorten(message.get('tool_call_id'))}"
                )
            read.append(tools.result_message(call, text))
        else:
            calls = {} if role == "assistant" else calls
            read.append({"role": role, "content": text})
    return tools.merge_messages(read) if calls else read


def _text_of(where: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        return "".join(_text_of_part(f"{where}[{number}]", part) for number, part in enumerate(content))
    raise bad_request(f"'{where}' must be a string or a list of content parts, got {json_type(content)}")


def _text_of_part(where: str, part: object) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "reasoning":  # what a reasoning model thought in an earlier turn; this one has no use for it
        return ""
    text = part.get("text") if isinstance(part, dict) and kind == "text" else None
    if not isinstance(text, str):
        raise bad_request(f"'{where}' must be a text part, got {_shorten(kind)}: this model takes no images or files")
    return text


def _number(low: float, high: float) -> Check:
    def check(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise bad_request(f"field '{name}' must be a number between {low:g} and {high:g}, got {_shorten(value)}")

    return check


def _integer(low: int, high: int) -> Check:
    def check(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise bad_request(f"field '{name}' must be an integer between {low} and {high}, got {_shorten(value)}")

    return check


def _typed(kind: type, words: str) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, kind):
            raise bad_request(f"field '{name}' must be {words}, got {_shorten(value)}")

    return check


def _one_of(*words: str) -> Check:
    def check(name: str, value: object) -> None:
        if value not in words:
            raise bad_request(f"field '{name}' must be one of {', '.join(words)}; got {_shorten(value)}")

    return check


def _stop(name: str, value: object) -> None:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise bad_request(f"field '{name}' must be a string or a list of strings, none of them empty")


def _text_map(name: str, value: object) -> None:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise bad_request(f"field '{name}' must be an object of strings, got {_shorten(value)}")


def _anything(_name: str, _value: object) -> None:
    """Accepted, and without meaning for this model."""


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


_STRING = _typed(str, "a string")
_BOOLEAN = _typed(bool, "true or false")
_OBJECT = _typed(dict, "an object")
_MANY = 1_000_000

_SAMPLING: dict[str, Check] = {
    "temperature": _number(0, 2),
    "max_tokens": _integer(1, _MANY),
    "top_p": _number(0, 1),
    "top_k": _integer(0, _MANY),
}
_EVERY: dict[str, Check] = {"model": _STRING, "client_request_id": _STRING, "usage_context": _text_map}
_TEXT: dict[str, Check] = {
    **_EVERY,
    **_SAMPLING,
    "stop": _stop,
    "n": _integer(1, 5),
    "stream": _BOOLEAN,
    "stream_options": _OBJECT,
}
_CHAT: dict[str, Check] = {
    **_TEXT,
    "messages": _anything,
    "tools": _anything,
    "tool_choice": _anything,
    "parallel_tool_calls": _BOOLEAN,
    "response_format": _OBJECT,
    "logprobs": _BOOLEAN,
    "top_logprobs": _integer(0, 20),
    "reasoning_effort": _anything,
    "thinking": _anything,
    "service_tier": _anything,
}
_COMPLETIONS: dict[str, Check] = {
    **_TEXT,
    "prompt": _anything,
    "suffix": _STRING,
    "echo": _BOOLEAN,
    "logprobs": _integer(0, 5),
    "use_raw_prompt": _BOOLEAN,
    "error_behavior": _one_of("error", "truncate"),
}
_EMBEDDINGS: dict[str, Check] = {
    **_EVERY,
    "input": _anything,
    "instruction": _STRING,
    "encoding_format": _one_of("float", "base64"),
}
