from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from dbllm.local.model.embeddings import DIMENSIONS, Vectors


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return Vectors()


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_meaning_decides_how_near_two_texts_are(vectors: Vectors) -> None:
    (hello, hi, physics), tokens = vectors.embed(["hello", "hi there", "quantum physics"])
    assert dot(hello, hi) > dot(hello, physics) + 0.2
    assert tokens == 5


def test_vectors_have_length_one_and_do_not_depend_on_their_neighbours(vectors: Vectors) -> None:
    (alone,), _ = vectors.embed(["hello"])
    (beside, _), _ = vectors.embed(["hello", "a much longer text " * 50])
    assert len(alone) == DIMENSIONS
    assert dot(alone, alone) == pytest.approx(1, abs=1e-5)
    assert alone == beside


def test_the_empty_text_is_all_zeros(vectors: Vectors) -> None:
    assert vectors.embed([""]) == ([[0.0] * DIMENSIONS], 0)


def test_loading_leaves_the_logging_of_the_process_alone() -> None:
    code = (
        "import logging; from dbllm.local.model.embeddings import Vectors; Vectors().load(); "
        "print(logging.root.level, logging.root.handlers)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(logging.WARNING), "[]"]
