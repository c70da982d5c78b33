"""What goes over the wire and what comes back, typed and without loss.

Unknown fields survive (`model_extra`), and what Databricks' own answers leave out or set to null may be missing here
too. What dbllm knows about the call (`request_id`, `attempts`, `raw`) stays out of `model_dump()`.
"""

from __future__ import annotations

import base64
import sys
from array import array
from typing import TYPE_CHECKING, Any, Generic

from pydantic import AliasChoices, Field, StrictStr, model_validator

from .._lazy import WholeImport
from .content import content_text, reasoning_text, token_count, with_predictions
from .display import MOST_ROWS, Shown, html_table, html_text, prediction_table
from .reply import Reply, RowList, WireModel

if TYPE_CHECKING:  # a default for a type variable: for type checkers, as Python itself has it from 3.13 on only
    from numpy import float32
    from numpy.typing import NDArray
    from typing_extensions import TypeVar

    ParsedT = TypeVar("ParsedT", default=None)
else:
    from typing import TypeVar

    ParsedT = TypeVar("ParsedT")
    # As near as it gets without numpy, for who asks for the annotations.
    NDArray, float32 = list, float


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
    """Tokens billed. Embeddings have no completion tokens; any of them may be missing.

    The Responses wire says `input_tokens` and `output_tokens`; here they have one name everywhere.
    """

    prompt_tokens: int | None = Field(default=None, validation_alias=AliasChoices("prompt_tokens", "input_tokens"))
    completion_tokens: int | None = Field(
        default=None, validation_alias=AliasChoices("completion_tokens", "output_tokens")
    )
    total_tokens: int | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the model had read before, and that cost less; None where nobody says."""
        return token_count(self.model_extra, "cached_tokens")

    @property
    def reasoning_tokens(self) -> int | None:
        """Completion tokens that the model thought with; None where nobody says."""
        return token_count(self.model_extra, "reasoning_tokens")


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


class _TextContent(WireModel):
    content: Content = None
    tool_calls: list[ToolCall] | None = None

    @property
    def text(self) -> str:
        """The content as text; "" where there is none."""
        return content_text(self.content)


class Delta(_TextContent):
    """What a chunk adds to a message."""

    role: str | None = None


class Message(_TextContent):
    """One message of a chat; `content` is text, null (a pure tool call) or a list of content items."""

    role: str = "assistant"

    @property
    def reasoning(self) -> str:
        """What the model thought before its answer, where the endpoint shows it; else ""."""
        return reasoning_text(self.content) or reasoning_text(self.model_extra)

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


class _CompletionFields(WireModel):
    """What chat and completions answers, and their chunks, have in common; any of it may be missing.

    `model` is the provider's model, not the endpoint's name. `created` is in epoch seconds.
    """

    id: str | None = None
    object: str | None = None
    created: int | float | None = None
    model: str | None = None
    choices: list[Any] = []
    usage: Usage | None = None

    _shown = ("text", "_tool_calls", "parsed", "finish_reason", "model", "usage", "request_id")

    @property
    def _tool_calls(self) -> list[ToolCall]:
        said = [getattr(choice, "message", None) or getattr(choice, "delta", None) for choice in self.choices]
        return [call for each in said for call in getattr(each, "tool_calls", None) or ()]

    @property
    def text(self) -> str:
        """What this piece adds to the first choice's text; "" for a pure tool call."""
        return "".join(choice.text for choice in self.choices if choice.index == 0)

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended: stop, length, tool_calls …; None before its end, or when nobody says."""
        for choice in self.choices:  # no generator: this is asked of each chunk
            if choice.index == 0:
                return choice.finish_reason  # type: ignore[no-any-return]
        return None


class _WholeFields(_CompletionFields):
    """A whole answer; whatever its choices are numbered from, the first is the one of the lowest number."""

    @property
    def _first(self) -> Any:
        return self.choices[0] if len(self.choices) == 1 else min(self.choices, key=lambda choice: choice.index)

    @property
    def text(self) -> str:
        """The first choice's text; "" for a pure tool call."""
        return self._first.text  # type: ignore[no-any-return]

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended: stop, length, tool_calls …; None when nobody says."""
        return self._first.finish_reason  # type: ignore[no-any-return]

    def _repr_html_(self) -> str:
        facts = dict(self._attributes())
        called = [call.function or FunctionCall() for call in facts.pop("tool_calls", ())]
        said = [facts.pop("text", ""), *(f"→ {each.name}({each.arguments})" for each in called)]
        reasoning = getattr(getattr(self._first, "message", None), "reasoning", "")
        return html_text("\n".join(filter(None, said)), facts, reasoning)


PARSED = "_parsed"  # where an answer keeps what its text was read as: beside its fields


class ChatCompletion(_WholeFields, Reply, Generic[ParsedT]):
    """Answer of `llm/v1/chat`."""

    choices: list[Choice] = Field(min_length=1)

    @property
    def parsed(self) -> ParsedT:
        """The text as the `response_model` it was asked for; None without one, or where a tool is called instead."""
        return self.__dict__.get(PARSED)  # type: ignore[return-value]

    @property
    def message(self) -> Message:
        """The first choice's message."""
        return self._first.message  # type: ignore[no-any-return]


class Completion(_WholeFields, Reply):
    """Answer of `llm/v1/completions`."""

    choices: list[CompletionChoice] = Field(min_length=1)


class ChatCompletionChunk(_CompletionFields):
    """One piece of a streamed chat. `choices` may be empty; `usage`, where it comes, is cumulative: never add it up."""

    choices: list[ChunkChoice] = []


class CompletionChunk(_CompletionFields):
    """One piece of streamed text: of `llm/v1/completions`, or of any other endpoint through `stream_complete`."""

    choices: list[CompletionChoice] = []


class Embedding(WireModel):
    """One vector and the place of its text in the request; a str is base64 (`encoding_format="base64"`)."""

    index: int | None = None
    embedding: list[float] | str

    @property
    def decoded(self) -> list[float] | array[float]:
        """The vector; of base64, its float32 as they are.

        Raises:
            ValueError: the base64 is broken.
        """
        if not isinstance(self.embedding, str):
            return self.embedding
        numbers = array("f", base64.b64decode(self.embedding, validate=True))
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers


class Embeddings(RowList[list[float]], Reply):  # type: ignore[misc]  # pydantic iterates over fields
    """Answer of `llm/v1/embeddings`. Where the texts went in several requests, `raw` is the first one's answer."""

    object: str | None = None
    model: str | None = None
    data: list[Embedding]
    usage: Usage | None = None

    _shown = ("_vectors", "model", "usage", "request_id")

    @property
    def _vectors(self) -> Shown:
        length = len(self.data[0].decoded) if self.data else 0
        return Shown(f"<{len(self.data):,} of {length:,} numbers>")

    def _repr_html_(self) -> str:
        rows = [(place, *item.decoded[:8], "…") for place, item in enumerate(self.ordered[:MOST_ROWS])]
        titles = ["", *range(max([len(row) - 2 for row in rows], default=0)), "…"]
        return html_table(titles, rows, len(self.data), dict(self._attributes()))

    @property
    def ordered(self) -> list[Embedding]:
        """`data` in the order of the texts, whatever order it came in."""
        places = ((place if item.index is None else item.index, item) for place, item in enumerate(self.data))
        return [item for _, item in sorted(places, key=lambda pair: pair[0])]

    @property
    def vectors(self) -> list[list[float]]:
        """The vectors in the order of the texts, whatever order they came in.

        Raises:
            APIResponseError: one is broken base64.
        """
        return [[*vector] if isinstance(vector, array) else vector for vector in self._decoded()]

    def as_numpy(self) -> NDArray[float32]:
        """The vectors as one array of float32, a row for each text in its order.

        Raises:
            APIResponseError: one is broken base64.
            ImportError: numpy is not installed.
        """
        try:
            with WholeImport():
                import numpy
        except ImportError:
            raise ImportError("as_numpy() needs numpy: pip install numpy. Without it there is .vectors.") from None
        return numpy.array(self._decoded(), numpy.float32)

    def _decoded(self) -> list[list[float] | array[float]]:
        try:
            return [item.decoded for item in self.ordered]
        except ValueError as error:
            raise self._call.unexpected(f"a vector of the answer is no base64 of float32 ({error})") from None


class Predictions(RowList[Any], Reply):  # type: ignore[misc]
    """Answer of a custom model: `{"predictions": …}`, `{"outputs": …}` of feature serving, or a bare output."""

    predictions: Any

    @model_validator(mode="before")
    @classmethod
    def _wrapped(cls, content: Any) -> Any:
        return with_predictions(content)

    @property
    def first(self) -> Any:
        """The first row's prediction, or the prediction itself where it is no list.

        Raises:
            APIResponseError: the list is empty.
        """
        if self.predictions == []:
            raise self._call.unexpected("the answer has no predictions")
        return self.predictions[0] if isinstance(self.predictions, list) else self.predictions

    def as_pandas(self, index: Any = None) -> Any:
        """The predictions as a pandas DataFrame, a row for each.

        Predictions that are objects have a column for each of their names, lists have numbered ones, and plain values
        are the column "prediction".

        Args:
            index: the rows' index, such as that of the DataFrame that was sent; default: 0, 1, 2 …

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            with WholeImport():
                import pandas  # type: ignore[import-untyped, unused-ignore]
        except ImportError:
            raise ImportError(
                "as_pandas() needs pandas: pip install pandas. Without it there is .predictions."
            ) from None
        columns, rows = prediction_table(self.predictions)
        return pandas.DataFrame(rows, columns=columns, index=index)

    def _repr_html_(self) -> str:
        columns, rows = prediction_table(self.predictions)
        return html_table(columns, rows, len(rows), {"request_id": self.request_id})


class OutputItem(WireModel):
    """One item of an agent's output: a message, a call of a tool or what it gave, reasoning …; told by `type`."""

    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: Content = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Any = None

    @property
    def text(self) -> str:
        """The text of a message; "" for any other item."""
        return content_text(self.content) if self.type == "message" else ""


class Response(Reply):
    """Answer of `agent/v1/responses`, on OpenAI's Responses wire."""

    id: str | None = None
    object: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[OutputItem] = []
    custom_outputs: dict[str, Any] | None = None
    error: Any = None
    usage: Usage | None = None

    _shown = ("text", "_calls", "custom_outputs", "status", "error", "model", "usage", "request_id")

    @property
    def _calls(self) -> list[str]:
        return [f"{item.name}({item.arguments})" for item in self.output if item.type == "function_call"]

    @property
    def text(self) -> str:
        """The texts of all messages, joined."""
        return "".join(item.text for item in self.output)

    def _repr_html_(self) -> str:
        facts = dict(self._attributes())
        said = [facts.pop("text", ""), *(f"→ {call}" for call in facts.pop("calls", ()))]
        return html_text("\n".join(filter(None, said)), facts)


class ResponseEvent(WireModel):
    """One event of a streamed response, told by `type`: `response.output_text.delta`, `response.output_item.done` …"""

    type: str
    delta: Any = None
    item: OutputItem | None = None
    response: Response | None = None
    custom_outputs: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The text that is added."""
        return str(self.delta or "") if self.type == "response.output_text.delta" else ""

    @property
    def usage(self) -> Usage | None:
        """The usage so far, where the event tells it."""
        return self.response.usage if self.response else None

    @property
    def finish_reason(self) -> str | None:
        """Why the response ended: "completed" or "incomplete"; None before its end."""
        last = self.type in ("response.completed", "responses.completed", "response.incomplete")
        return self.type.rpartition(".")[2] if last else None
