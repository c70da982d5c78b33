"""Evaluate prompts over a table: which wording answers most rows right, at what cost?

pip install -e '.[local]'                 # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/evaluate.py               # or a CSV of your own, with the columns text and expected
"""

from __future__ import annotations

import csv
import logging
import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from dbllm import DbllmError, bulk

CHAT = os.environ.get("CHAT_ENDPOINT", "smollm2-chat")
TABLE = [
    {"text": "The soup was cold and the waiter rude.", "expected": "bad"},
    {"text": "A wonderful evening, we will come again!", "expected": "good"},
    {"text": "The best bread in town.", "expected": "good"},
    {"text": "I waited an hour for a burnt steak.", "expected": "bad"},
]
PROMPTS = {
    "short": "Is this review good or bad? {text}",
    "long": "You read reviews of restaurants. Is the guest happy (good) or unhappy (bad)?\nReview: {text}",
}


class Verdict(BaseModel):
    """What the model says of one row."""

    verdict: Literal["good", "bad"]


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def main(file: str | None) -> None:
    table = read(Path(file)) if file else TABLE
    print(f"{'prompt':8} {'right':>8} {'errors':>6} {'tokens':>6} {'seconds':>7}")
    for name, prompt in PROMPTS.items():
        mapper = bulk.RowMapper(
            CHAT, prompt=prompt, response_model=Verdict, params={"max_tokens": 20, "temperature": 0}
        )
        results = sorted(bulk.rows_sync(mapper, table), key=lambda result: result.index)
        answered = [result for result in results if result.error is None]
        right = [result for result in answered if result.parsed.verdict == table[result.index]["expected"]]
        tokens = sum((result.input_tokens or 0) + (result.output_tokens or 0) for result in answered)
        share, seconds = f"{len(right)} of {len(table)}", sum(result.latency for result in answered)
        print(f"{name:8} {share:>8} {len(results) - len(answered):>6} {tokens:>6} {seconds:>7.1f}")
        for result in results:  # what to look at: the rows that are wrong
            if result.error is not None:
                print(f"    error: {result.error.message}")
            elif result not in right:
                print(f"    wrong: {table[result.index]['text']}")


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
