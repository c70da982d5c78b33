"""What the text and embedding endpoints answer, whole and piece by piece. All pure.

Shapes are Databricks' llm/v1 answers (OpenAI's words); a stream carries cumulative usage on every chunk, as
pay-per-token models do.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from dbllm.local.json_values import Json
from dbllm.local.model.llama import Piece, Tokens

TextTaskName = Literal["llm/v1/chat", "llm/v1/completions"]


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of one answer repeats.

    Attributes:
        id: its id.
        created: the second it was made.
        model: the model that made it.
        task: of the endpoint.
        tool: the function that it calls: then the texts are arguments.
        alternatives: with logprobs, how many alternatives to each token are told.
    """

    id: str
    created: int
    model: str
    task: TextTaskName
    tool: str | None = None
    alternatives: int = 0


@dataclass
class Accumulator:
    """Tokens and texts of all choices so far; fed with the pieces in the order they come."""

    jobs: int
    choices_per_prompt: int = 1
    texts: list[list[str]] = field(init=False)
    tokens: list[Tokens] = field(init=False)
    finish_reasons: list[str | None] = field(init=False)
    logprobs: list[list[Mapping[str, Any]]] = field(init=False)

    def __post_init__(self) -> None:
        self.texts = [[] for _ in range(self.jobs)]
        self.tokens = [Tokens()] * self.jobs
        self.finish_reasons = [None] * self.jobs
        self.logprobs = [[] for _ in range(self.jobs)]

    def add(self, piece: Piece) -> None:
        """Count one piece."""
        self.texts[piece.job].append(piece.text)
        self.logprobs[piece.job].extend(piece.logprobs)
        if piece.tokens.completion:
            self.tokens[piece.job] = piece.tokens
        self.finish_reasons[piece.job] = piece.finish_reason or self.finish_reasons[piece.job]

    def text(self, job: int) -> str:
        """All text of one choice."""
        return "".join(self.texts[job])

    def usage(self) -> Json:
        """Tokens of all choices; a prompt counts once, however many choices it has."""
        firsts = self.tokens[:: self.choices_per_prompt]
        prompt = sum(tokens.prompt for tokens in firsts)
        completion = sum(tokens.completion for tokens in self.tokens)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(tokens.cached for tokens in firsts)},
        }


def whole(head: Head, tally: Accumulator) -> Json:
    """The whole answer of a text endpoint."""
    chat = head.task == "llm/v1/chat"
    return {
        "id": head.id,
        "object": "chat.completion" if chat else "text_completion",
        "created": head.created,
        "model": head.model,
        "choices": [
            _choice(
                job,
                {"message": _message(head, job, tally.text(job))} if chat else {"text": tally.text(job)},
                _reason(head, tally.finish_reasons[job] or "stop"),
                _logprobs(head, tally.logprobs[job]),
            )
            for job in range(tally.jobs)
        ],
        "usage": tally.usage(),
    }


def chunk(head: Head, piece: Piece, usage: Json | None, *, first: bool, offset: int = 0) -> Json:
    """One chunk of a stream; `first` is whether it is the first of its choice, `offset` the characters before it."""
    chat = head.task == "llm/v1/chat"
    return {
        **_chunk(head),
        "choices": [
            _choice(
                piece.job,
                {"delta": _delta(head, piece, first=first)} if chat else {"text": piece.text},
                _reason(head, piece.finish_reason),
                _logprobs(head, piece.logprobs, offset),
            )
        ],
        "usage": usage,
    }


def last_chunk(head: Head, usage: Json) -> Json:
    """The chunk that carries nothing but the usage (OpenAI: stream_options.include_usage)."""
    return {**_chunk(head), "choices": [], "usage": usage}


def _chunk(head: Head) -> Json:
    kind = "chat.completion.chunk" if head.task == "llm/v1/chat" else "text_completion"
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model}


def _message(head: Head, job: int, text: str) -> Json:
    if head.tool is None:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": None, "tool_calls": [_tool_call(head, job, text)]}


def _delta(head: Head, piece: Piece, *, first: bool) -> Json:
    if head.tool is None:
        return {"role": "assistant", "content": piece.text} if first else {"content": piece.text}
    if first:
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"index": 0, **_tool_call(head, piece.job, piece.text)}],
        }
    return {"tool_calls": [{"index": 0, "function": {"arguments": piece.text}}]}


def _tool_call(head: Head, job: int, arguments: str) -> Json:
    function = {"name": head.tool, "arguments": arguments}
    return {"id": f"call_{head.id[-24:]}{job}", "type": "function", "function": function}


def _reason(head: Head, reason: str | None) -> str | None:
    """A call that came to its end is its own reason to stop; one that was cut stays cut."""
    return "tool_calls" if head.tool is not None and reason == "stop" else reason


def _choice(index: int, text: Json, finish_reason: str | None, logprobs: Json | None) -> Json:
    return {"index": index, **text, "finish_reason": finish_reason, "logprobs": logprobs}


def _logprobs(head: Head, entries: Sequence[Mapping[str, Any]], offset: int = 0) -> Json | None:
    """One entry a token for chat; for completions lists side by side, as OpenAI's clients read them."""
    if not entries:
        return None
    tops = [entry["top_logprobs"][: head.alternatives] for entry in entries]
    if head.task == "llm/v1/chat":
        return {"content": [{**entry, "top_logprobs": top} for entry, top in zip(entries, tops, strict=True)]}
    tokens = [str(entry["token"]) for entry in entries]
    return {
        "tokens": tokens,
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{one["token"]: one["logprob"] for one in top} for top in tops],
        "text_offset": list(accumulate(map(len, tokens[:-1]), initial=offset)),
    }


def embeddings(model: str, vectors: Sequence[Sequence[float]], tokens: int, *, as_base64: bool) -> Json:
    """The answer of an embeddings endpoint; its usage has no completion_tokens (Databricks REST)."""
    return {
        "object": "list",
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else list(vector)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
