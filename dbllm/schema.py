"""What goes over the wire and what comes back, typed and without loss.

Unknown fields survive (`model_extra`), and what Databricks' own answers leave out or set to null may be missing here
too. What dbllm knows about the call (`request_id`, `attempts`, `raw`) stays out of `model_dump()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator

from .errors import APIResponseError, Raw

ModelT = TypeVar("ModelT", bound="WireModel")


class WireModel(BaseModel):
    """A JSON object as it goes over the wire; fields that have no name here are kept."""

    # Built at first use: a program that only embeds never pays for the chat models.
    model_config = ConfigDict(extra="allow", defer_build=True, protected_namespaces=(), coerce_numbers_to_str=True)


class Meta(NamedTuple):
    """What is known of the call behind an answer."""

    request_id: str | None = None
    attempts: int = 1
    raw: Raw | None = None

    def unexpected(self, detail: str, hint: str = "") -> APIResponseError:
        """The error for an answer that is not what was promised; it keeps the whole answer."""
        return APIResponseError(detail, hint=hint, request_id=self.request_id, attempts=self.attempts, raw=self.raw)


class Traced:
    """What came, and the call that brought it."""

    _meta: Meta

    @property
    def request_id(self) -> str | None:
        """The workspace's id of the request (header `x-request-id`); of a stream, once it is open."""
        return self._meta.request_id

    @property
    def attempts(self) -> int:
        """How often the call was sent until the answer came; 0 for a stream that is not open yet."""
        return self._meta.attempts

    @property
    def raw(self) -> Raw | None:
        """Status, headers and body as they came (no body for a stream)."""
        return self._meta.raw


class Reply(WireModel, Traced):
    """An answer and the call that brought it."""

    _meta: Meta = Meta()


class PromptRequest(WireModel):
    """The prompt/stop signature: `{"prompt": str, "stop"?: [str], ...}`; further fields are the model's parameters.

    A custom MLflow model takes it as one row, a driver proxy app as the body; both answer a string.
    """

    prompt: StrictStr
    stop: list[StrictStr] | None = None

    @property
    def params(self) -> dict[str, Any]:
        """The parameters beside prompt and stop, as they came."""
        return dict(self.model_extra or {})


class Usage(WireModel):
    """Tokens billed. Embeddings have no completion tokens; any of them may be missing."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class FunctionCall(WireModel):
    """The function a model wants called; `arguments` is JSON text as the model wrote it."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ToolCall(WireModel):
    """One call of a tool; in a stream's pieces `index` says which call a piece belongs to."""

    id: str | None = None
    type: str | None = None
    function: FunctionCall | None = None


Content = str | list[Any] | None


def content_text(content: object) -> str:
    """The text of a message's content: itself, or the `text` items of a list (reasoning and images are left out)."""
    if isinstance(content, str):
        return content
    items = content if isinstance(content, list) else []
    texts = (item for item in items if isinstance(item, dict) and item.get("type") in ("text", "output_text"))
    return "".join(str(item.get("text") or "") for item in texts)


class _Said(WireModel):
    content: Content = None
    tool_calls: list[ToolCall] | None = None

    @property
    def text(self) -> str:
        """The content as text; "" where there is none."""
        return content_text(self.content)


class Delta(_Said):
    """What a chunk adds to a message."""

    role: str | None = None


class Message(_Said):
    """One message of a chat; `content` is text, null (a pure tool call) or a list of content items."""

    role: str = "assistant"

    def as_wire(self) -> dict[str, Any]:
        """The message as it is sent: what was set, and nothing that was not."""
        return {"role": self.role, **self.model_dump(exclude_unset=True)}


class Choice(WireModel):
    """One of the `n` answers."""

    index: int = 0
    message: Message
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """The message's text."""
        return self.message.text


class ChunkChoice(WireModel):
    """What a chunk adds to one choice."""

    index: int = 0
    # A server that does not stream sends a whole answer, and that has a `message`.
    delta: Delta = Field(default_factory=Delta, validation_alias=AliasChoices("delta", "message"))
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """The text that is added."""
        return self.delta.text


class CompletionChoice(WireModel):
    """One of the `n` continuations, or a piece of it."""

    index: int = 0
    text: str = ""
    finish_reason: str | None = None


class Head(WireModel):
    """What chat and completions answers, and their chunks, have in common; any of it may be missing.

    `model` is the provider's model, not the endpoint's name. `created` is in epoch seconds.
    """

    id: str | None = None
    object: str | None = None
    created: int | float | None = None
    model: str | None = None
    choices: list[Any] = []
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """The first choice's text, or what this piece adds to it; "" for a pure tool call."""
        return "".join(choice.text for choice in self.choices if choice.index == 0)

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended: stop, length, tool_calls …; None before its end, or when nobody says."""
        return next((choice.finish_reason for choice in self.choices if choice.index == 0), None)


class ChatCompletion(Head, Reply):
    """Answer of `llm/v1/chat`."""

    choices: list[Choice] = Field(min_length=1)

    @property
    def message(self) -> Message:
        """The first choice's message."""
        return self.choices[0].message


class Completion(Head, Reply):
    """Answer of `llm/v1/completions`."""

    choices: list[CompletionChoice] = Field(min_length=1)


class ChatCompletionChunk(Head):
    """One piece of a streamed chat. `choices` may be empty; `usage`, where it comes, is cumulative: never add it up."""

    choices: list[ChunkChoice] = []


class CompletionChunk(Head):
    """One piece of streamed text: of `llm/v1/completions`, or of any other endpoint through `stream_complete`."""

    choices: list[CompletionChoice] = []


class Embedding(WireModel):
    """One vector and the place of its text in the request."""

    index: int | None = None
    embedding: list[float]


class Embeddings(Reply):
    """Answer of `llm/v1/embeddings`."""

    object: str | None = None
    model: str | None = None
    data: list[Embedding]
    usage: Usage | None = None

    @property
    def vectors(self) -> list[list[float]]:
        """The vectors in the order of the texts, whatever order they came in."""
        places = ((place if item.index is None else item.index, item) for place, item in enumerate(self.data))
        return [item.embedding for _, item in sorted(places, key=lambda pair: pair[0])]


class Predictions(Reply):
    """Answer of a custom model: `{"predictions": …}`, or the bare output of a model that leaves the wrapper out."""

    predictions: Any

    @model_validator(mode="before")
    @classmethod
    def _wrapped(cls, content: Any) -> Any:
        return content if isinstance(content, dict) and "predictions" in content else {"predictions": content}

    @property
    def first(self) -> Any:
        """The first row's prediction, or the prediction itself where it is no list.

        Raises:
            APIResponseError: the list is empty.
        """
        if self.predictions == []:
            raise self._meta.unexpected("the answer has no predictions")
        return self.predictions[0] if isinstance(self.predictions, list) else self.predictions


def answer_text(answer: Any) -> str | None:
    """The text in any answer that has one place for it, or None.

    A bare string; `choices` (chat, completions), `candidates` (llama2/chat), `messages` (agent/v2/chat), `output`
    (agent responses); a list stands for its first item.
    """
    match answer:
        case str():
            return answer
        case [first, *_]:
            return answer_text(first)
        case {"choices": [{"message": {"content": content}}, *_]} | {"messages": [*_, {"content": content}]}:
            return content_text(content)
        case {"choices": [{"text": str(text)}, *_]} | {"candidates": [{"text": str(text)}, *_]}:
            return text
        case {"output": list(items)}:
            said = (item for item in items if isinstance(item, dict) and item.get("type") == "message")
            return "".join(content_text(item.get("content")) for item in said)
    return None


def text_chunk(piece: Any) -> CompletionChunk:
    """Any server's piece of streamed text as a `CompletionChunk`, told by its shape.

    A JSON string (driver apps, custom models), chat and completions chunks, `agent` deltas, the events of
    `agent/v*/responses`; and a whole answer, from a server that does not stream. What has no text gives none.
    """
    match piece:
        case {"choices": list(choices)}:
            return CompletionChunk.model_validate(
                _without_nulls({**piece, "choices": [_text_choice(choice) for choice in choices]})
            )
        case {"type": "response.output_text.delta", "delta": str(text)} | {"delta": {"content": text}}:
            return _text_piece(content_text(text))
        case {"type": "response.completed" | "responses.completed"}:
            return _text_piece("", "stop", _usage(piece))
        case {"predictions": whole}:
            return _text_piece(answer_text(whole) or "")
    return _text_piece(answer_text(piece) or "")


def _text_piece(text: str, finish_reason: str | None = None, usage: object = None) -> CompletionChunk:
    choice = {"text": text, "finish_reason": finish_reason}
    return CompletionChunk.model_validate({"choices": [choice], "usage": usage})


def _usage(piece: Any) -> object:
    match piece:
        case {"response": {"usage": dict(usage)}}:
            tokens = {"prompt_tokens": usage.get("input_tokens"), "completion_tokens": usage.get("output_tokens")}
            return {**tokens, **usage}
    return None


def _text_choice(choice: Any) -> Any:
    if not isinstance(choice, dict) or "text" in choice:
        return choice
    said = choice.get("delta") or choice.get("message") or {}
    rest = {key: value for key, value in choice.items() if key not in ("delta", "message")}
    return {**rest, "text": content_text(said.get("content")) if isinstance(said, dict) else ""}


def parse(model: type[ModelT], data: bytes) -> ModelT:
    """JSON text as a model.

    A null where the schema has a plain value counts as left out: gateways write some (`"delta": null`, `"text": null`).
    They are looked for only once the quick way has failed.

    Raises:
        ValidationError: it is not JSON, or not that model.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            content = None
        if content is None:
            raise
        return model.model_validate(_without_nulls(content))


def _without_nulls(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nulls(value) for key, value in content.items() if value is not None}
    return [_without_nulls(item) for item in content] if isinstance(content, list) else content


def first_flaw(error: ValidationError) -> str:
    """Where and why a JSON text is not the schema, in one sentence without the values themselves."""
    flaw = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in flaw["loc"])
    return f"{place}: {flaw['msg']}" if place else flaw["msg"]


def assemble_chat(chunks: Iterable[ChatCompletionChunk]) -> ChatCompletion:
    """The whole answer from its chunks: texts joined, tool calls merged by index, the last usage kept."""
    head: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        piece = chunk.model_dump(exclude_unset=True)
        for choice in piece.pop("choices", None) or ():
            place = choice.setdefault("index", 0)
            choices[place] = _grown(choices.get(place, {}), choice)
        head.update({key: value for key, value in piece.items() if value is not None})
    whole = []
    for _, choice in sorted(choices.items()):
        message = {"role": "assistant", **choice.pop("delta", {})}
        for call in message.get("tool_calls") or ():
            call.pop("index", None)  # only a stream's pieces need it
        whole.append({**choice, "message": message})
    return ChatCompletion.model_validate({**head, "object": "chat.completion", "choices": whole})


# Strings that name a thing come whole, though some servers repeat them on every piece; all others grow.
_WHOLE = frozenset({"role", "type", "id", "name", "finish_reason", "signature"})


def _grown(known: Any, piece: Any, key: str = "") -> Any:
    """What is known of a value, and the next piece of it."""
    if piece is None or (key in _WHOLE and known and not piece):
        return known
    if isinstance(known, dict) and isinstance(piece, dict):
        for name, value in piece.items():
            known[name] = _grown(known.get(name), value, name)
        return known
    if isinstance(known, list) or isinstance(piece, list):
        known = _items(known)
        for item in _items(piece):
            index = item.get("index") if isinstance(item, dict) else None
            same = (old for old in known if isinstance(old, dict) and old.get("index") == index)
            if index is None or (old := next(same, None)) is None:
                known.append(item)
            else:
                _grown(old, item)
        return known
    return known + piece if isinstance(known, str) and isinstance(piece, str) and key not in _WHOLE else piece


def _items(value: Any) -> list[Any]:
    return [{"type": "text", "text": value}] if value and isinstance(value, str) else value or []
