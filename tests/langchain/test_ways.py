"""A stream and the whole answer are the same, in LangChain and without it, whatever a server does.

By default some answers of the grammar are tried; DBLLM_ANSWERS=1000 in the environment tries that many, and -s shows
what they covered.
"""

from __future__ import annotations

import os
from collections import Counter

import answers
import pytest
from ways import Server, every_way, flaws

COUNT = int(os.environ.get("DBLLM_ANSWERS", "150"))
FEATURES = 20  # that each kind of answer has to cover at least, among those of the grammar


@pytest.mark.timeout(COUNT)
@pytest.mark.parametrize("kind", ["chat", "response"])
async def test_every_way_to_an_answer_says_the_same(kind: str) -> None:
    server, covered, wrong = Server(), Counter[str](), []
    make = getattr(answers, kind)
    for seed in range(COUNT // 2):
        answer = make(seed)
        covered.update(answer.features)
        wrong += [f"{kind}({seed}): {flaw}" for flaw in flaws(answer, await every_way(server, answer))]
    print(f"\n{COUNT // 2} answers: {kind}")
    print("\n".join(f"{number:6} {feature}" for feature, number in sorted(covered.items())))
    assert not wrong, "\n".join(wrong[:20])
    assert len(covered) >= {"chat": FEATURES, "response": 10}[kind], covered
