"""The prompt/stop signature: from a prompt to a flat request, and from a response to its text."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._protocol.models import Completion, Predictions
from .._protocol.reply import CallInfo
from .._protocol.requests import checked_params, prompt_request
from .._protocol.responses import answer_text, text_chunk
from .._protocol.tasks import Kind
from .._transport.replies import read_json, reply_of, unexpected

_FINISHED = {"completed": "stop", "incomplete": "length"}  # finish reasons for the status of a response


@dataclass(frozen=True, slots=True)
class PromptSignature:
    """The prompt/stop signature of a handle: default parameters and the user's transforms."""

    params: Mapping[str, Any] = field(default_factory=dict)
    transform_input: Callable[..., Any] | None = None
    transform_output: Callable[[Any], str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.params, Mapping):
            raise TypeError(f"params must be a dict of the model's parameters, got {type(self.params).__name__}.")
        for name in ("transform_input", "transform_output"):
            if (given := getattr(self, name)) is not None and not callable(given):
                raise TypeError(f"{name} must be a function, got {type(given).__name__}.")

    def request(self, prompt: object, stop: object, params: Mapping[str, Any], streaming: bool = False) -> Any:
        """The flat request, transformed.

        Raises:
            TypeError: `transform_input` returned no dict; or the call streams and there is a `transform_output`, which
                needs the whole response.
        """
        if streaming and self.transform_output is not None:
            raise TypeError("transform_output needs the whole response, so it cannot be combined with a stream.")
        flat = prompt_request(prompt, stop, checked_params((self.params, params)))
        changed = flat if self.transform_input is None else _waited(self.transform_input(**flat), "transform_input")
        if not isinstance(changed, Mapping):
            raise TypeError(f"transform_input must return the request as a dict, got {type(changed).__name__}.")
        return changed

    def text(self, kind: Kind, info: CallInfo) -> str:
        """The text of a response, transformed.

        Raises:
            APIResponseError: the response is not JSON, or it is not clear where its text is.
            TypeError: `transform_output` did not return a str.
        """
        return self._text(_response_content(kind, info), info)

    def completion(self, kind: Kind, info: CallInfo) -> Completion:
        """The response of any kind of endpoint as a `Completion`; raises as `text` does."""
        content = _response_content(kind, info)
        text, chunk = self._text(content, info), text_chunk(content)
        said = content if isinstance(content, Mapping) else {}
        choice = {"text": text, "finish_reason": chunk.finish_reason or _FINISHED.get(str(said.get("status")))}
        head = {name: said[name] for name in ("id", "model", "created", "usage") if said.get(name) is not None}
        completion = Completion.model_validate({**head, "object": "text_completion", "choices": [choice]})
        completion._call = info
        return completion

    def _text(self, content: Any, info: CallInfo) -> str:
        text = (self.transform_output or answer_text)(content)
        if isinstance(text, str):
            return text
        _waited(text, "transform_output")
        if self.transform_output is None:
            raise unexpected(info, "the answer holds no text", "Say where the text is with transform_output=.")
        raise TypeError(f"transform_output must return the text as a str, got {type(text).__name__}.")


def _waited(result: Any, name: str) -> Any:
    """What a transform returned, which nobody waits for."""
    if isinstance(result, Coroutine):
        result.close()
        raise TypeError(f"{name} must be a plain function, without async: dbllm does not wait for it.")
    return result


def _response_content(kind: Kind, info: CallInfo) -> Any:
    return reply_of(Predictions, info).first if kind == "custom" else read_json(info)
