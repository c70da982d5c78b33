"""Real text embeddings: wordllama, whose weights come inside its wheel."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbllm.local.extras import load

VECTORS_NAME = "wordllama-l2-supercat-256"
DIMENSIONS = 256


class Vectors:
    """wordllama's 256-dimensional embeddings, loaded at the first use (about a second). Thread safe."""

    def __init__(self) -> None:
        self._model: Any = None
        self._lock = threading.Lock()

    def load(self) -> None:
        """Load the weights now; does nothing when they are there."""
        with self._lock:
            if self._model is None:
                self._model = _load()

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Unit vectors in the order of `texts`, and the number of tokens in all of them.

        A text without tokens (the empty string) gets zeros. Blocking: call it from a worker thread.
        """
        self.load()
        tokens = 0
        vectors: list[list[float]] = []
        for text in texts:
            # One by one: a batch is padded to its longest text, so one long text would cost all of them its memory.
            tokens += sum(self._model.tokenize([text])[0].attention_mask)
            vector = self._model.embed([text])[0]
            norm = float((vector @ vector) ** 0.5)
            vectors.append((vector / norm if norm else vector).tolist())
        return vectors, tokens


def _load() -> Any:
    with _root_logger_kept():
        wordllama = load("wordllama")
    # load() looks for the tokenizer below the cache folder only, and would download it: its own folder has it.
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """wordllama calls logging.basicConfig when imported; a library must not switch on logs for the whole process."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
