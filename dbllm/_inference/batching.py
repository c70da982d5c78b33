"""Splits many texts into several embedding requests, and merges the replies. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .._protocol.models import Embeddings, Usage
from .._protocol.reply import CallInfo
from .._transport.replies import reply_of


@dataclass(frozen=True)
class Batch:
    """The texts of one request: those from `begin` on, among `of` texts in all."""

    texts: list[str]
    begin: int
    of: int

    def reply(self, info: CallInfo) -> Embeddings:
        """The response, as one vector for each text.

        Raises:
            APIResponseError: the response is not that, or has another number of vectors.
        """
        reply = reply_of(Embeddings, info)
        if len(reply.data) != len(self.texts):
            raise info.unexpected(f"{len(self.texts)} texts were sent and {len(reply.data)} vectors came back")
        return reply

    def hint(self, hint: str) -> str:
        """The hint for an error of this request; it names the request if there are several."""
        end = self.begin + len(self.texts)
        return hint if len(self.texts) == self.of else f"{hint} It was the request for input[{self.begin}:{end}]."


def positive(name: str, value: object) -> int:
    """The value, if it is a whole number of at least 1.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be {'1 or more' if isinstance(value, int) else 'an integer'}, got {value!r}.")
    return value


def split(texts: Sequence[str], size: int, most: int) -> list[Batch]:
    """The texts as batches of at most `size` texts and `most` bytes; a longer text is a batch of its own.

    Raises:
        ValueError: a limit is below 1.
    """
    ends = [*_batch_ends(texts, positive("batch_size", size), positive("batch_bytes", most)), len(texts)]
    return [Batch([*texts[begin:end]], begin, len(texts)) for begin, end in zip([0, *ends], ends, strict=False)]


def _batch_ends(texts: Sequence[str], size: int, most: int) -> Iterator[int]:
    count = held = 0
    for place, text in enumerate(texts):
        length = len(text.encode("utf-8", "replace"))
        if count and (count == size or held + length > most):
            yield place
            count = held = 0
        count, held = count + 1, held + length


def merge_replies(replies: Sequence[Embeddings]) -> Embeddings:
    """One reply: the vectors in the order of the texts, the tokens added up, the rest from the first reply."""
    first = replies[0]
    if len(replies) == 1:
        return first
    items = [item for reply in replies for item in reply.ordered]
    for place, item in enumerate(items):
        item.index = place
    usages = [reply.usage for reply in replies if reply.usage is not None]
    sums = {
        name: sum(getattr(usage, name) or 0 for usage in usages)
        for name in ("prompt_tokens", "total_tokens")
        if any(getattr(usage, name) is not None for usage in usages)
    }
    whole = first.model_copy(update={"data": items, "usage": Usage(**sums) if usages else None})
    whole._call = CallInfo(first._call.raw, max(reply.attempts for reply in replies), first.answered_by)
    return whole
