"""Whether a message calls for a tool, and for which: the language model's own likelihoods decide.

Asked in words, a model of 135M parameters says the same to everything. What it does know is which words follow which:
after "What is the weather in Paris? ... call the function that can:" the words "Get the current weather" are far more
likely than after a message that wants nothing, and "Add two integers" are not. So each tool's purpose is scored by
how much likelier the message makes it, per token, and the best one is called if it passes a threshold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from dbllm.local.errors import bad_request
from dbllm.local.model.grammar import MARK, marked, text_grammar
from dbllm.local.model.llama import Engine, Job
from dbllm.local.model.tools import Tool, ToolOffer

THRESHOLD = 0.15
"""Nats per token by which the message must raise a purpose for `tool_choice: auto` to call it."""
SMALL_TALK = (
    "Hello.",
    "Who was the first king of France?",
    "Tell me a story about a cat.",
    "Why is the grass green?",
    "I had a good day.",
)
"""Messages that want no tool: a purpose has to be likelier than after any of these."""
MAX_ASKED = 600
"""Characters of the message's end that are looked at."""
CACHE_SIZE = 512
"""Purposes whose likelihood after small talk is remembered, and grammars that are known to be enforced."""


class ToolChooser:
    """Chooses tools with one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._unprompted: OrderedDict[str, float] = OrderedDict()
        self._enforced: OrderedDict[str, bool] = OrderedDict()

    async def choose(self, offer: ToolOffer, message: str) -> Tool | None:
        """The tool that the message calls for, or None for an answer in text.

        Raises:
            EngineRefused, EngineStopped: from the engine.
        """
        if offer.required and len(offer.tools) == 1:
            return offer.tools[0]
        scores = await self.scores(offer.tools, message)
        best = max(range(len(scores)), key=scores.__getitem__)
        return offer.tools[best] if offer.required or scores[best] >= THRESHOLD else None

    async def check(self, grammar: str) -> None:
        """Make sure that llama.cpp enforces a grammar: it silently drops one that it cannot compile.

        Raises:
            Problem: 400, it does not.
            EngineRefused, EngineStopped: from the engine.
        """
        if grammar not in self._enforced:
            request = {"prompt": "x", "grammar": marked(grammar), "max_tokens": 8, "temperature": 0}
            async with self._engine.generate([Job("raw", request)]) as pieces:
                text = "".join([piece.text async for piece in pieces])
            self._enforced[grammar] = text.startswith(MARK)
            if len(self._enforced) > CACHE_SIZE:
                self._enforced.popitem(last=False)
        if not self._enforced[grammar]:
            raise bad_request(
                "the JSON schema cannot be enforced: it allows no value, or it has a 'pattern' with look-around or "
                "back references, alternatives of 'oneOf' that overlap, or words of a string that contradict each other"
            )

    async def scores(self, tools: Sequence[Tool], message: str) -> list[float]:
        """How much the message raises the likelihood of each tool's purpose, in nats per token."""
        purposes = [tool.purpose for tool in tools]
        new = [purpose for purpose in dict.fromkeys(purposes) if purpose not in self._unprompted]
        base = {purpose: self._unprompted[purpose] for purpose in purposes if purpose not in new}
        after = await self._likelihoods([(message[-MAX_ASKED:], purpose) for purpose in purposes])
        before = await self._likelihoods([(talk, purpose) for purpose in new for talk in SMALL_TALK])
        for number, purpose in enumerate(new):
            base[purpose] = max(before[number * len(SMALL_TALK) :][: len(SMALL_TALK)])
        self._unprompted.update(base)
        while len(self._unprompted) > CACHE_SIZE:
            self._unprompted.popitem(last=False)
        return [given - base[purpose] for given, purpose in zip(after, purposes, strict=True)]

    async def _likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The mean log-probability of a token of each purpose after its message."""
        per_pair: list[list[float]] = [[] for _ in pairs]
        async with self._engine.generate([_forced(message, purpose) for message, purpose in pairs]) as pieces:
            async for piece in pieces:
                per_pair[piece.job].extend(float(str(entry["logprob"])) for entry in piece.logprobs)
        return [sum(values) / max(1, len(values)) for values in per_pair]


def _forced(message: str, purpose: str) -> Job:
    """A job that can only write the purpose; what it is wanted for is how likely the model found each token of it."""
    prompt = f"User: {message}\n\nTo answer, call the function that can: "
    request = {"prompt": prompt, "grammar": text_grammar(purpose), "max_tokens": 128, "temperature": 0, "logprobs": 1}
    return Job("raw", request)
