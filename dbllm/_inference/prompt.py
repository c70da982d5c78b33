"""What the verbs share: options, the prompt/stop signature with its transforms, and the reading of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._protocol import requests
from .._protocol.models import Predictions
from .._protocol.responses import answer_text
from .._protocol.tasks import Kind
from .._transport.call import Answer
from .._transport.replies import read_json, reply_of


@dataclass(frozen=True, slots=True)
class PromptSignature:
    """The prompt/stop signature of a handle: default parameters and the user's transforms."""

    params: Mapping[str, Any] = field(default_factory=dict)
    transform_input: Callable[..., Any] | None = None
    transform_output: Callable[[Any], str] | None = None

    def request(self, prompt: object, stop: object, params: Mapping[str, Any], streaming: bool = False) -> Any:
        """The flat request, transformed.

        Raises:
            TypeError: `transform_input` returned no dict; or there is a `transform_output`, which needs the whole
                answer, and the answer is streamed.
        """
        if streaming and self.transform_output is not None:
            raise TypeError("transform_output needs the whole answer, so it cannot be combined with a stream.")
        flat = requests.prompt_request(prompt, stop, requests.model_params(self.params, params))
        changed = flat if self.transform_input is None else self.transform_input(**flat)
        if not isinstance(changed, Mapping):
            raise TypeError(f"transform_input returns the request, a dict, not {type(changed).__name__}.")
        return changed

    def text(self, kind: Kind, answer: Answer) -> str:
        """The text of an answer, transformed.

        Raises:
            APIResponseError: the answer is not JSON, or has no one place for a text.
            TypeError: `transform_output` returned something else than a str.
        """
        content = reply_of(Predictions, answer).first if kind == "custom" else read_json(answer)
        text = (self.transform_output or answer_text)(content)
        if isinstance(text, str):
            return text
        if self.transform_output is None:
            raise answer.meta.unexpected("the answer holds no text", "Say where the text is with transform_output=.")
        raise TypeError(f"transform_output returns the text, a str, not {type(text).__name__}.")
