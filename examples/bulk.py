"""Sort a file of messages by topic, one call a row; stopped or killed, it goes on where it was.

dbllm up                                  # in another terminal; it prints the variables that clients need
python bulk.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from dbllm import Limits, bulk

MESSAGES = [
    "My parcel has not arrived.",
    "The invoice has the wrong address.",
    "How do I change my password?",
    "My parcel has not arrived.",  # asked once, answered twice
]


def main() -> None:
    source, output = Path("messages.csv"), Path("topics.jsonl")
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([["message"], *([message] for message in MESSAGES)])

    options = {"prompt": "Name the topic in one word: {message}", "params": {"max_tokens": 12, "temperature": 0}}
    print(bulk.estimate(source, **options))
    report = bulk.run_sync(
        source, output, endpoint="smollm2-chat", limits=Limits(requests_per_minute=600), report="topics.html", **options
    )
    print(report)
    print(output.read_text())


if __name__ == "__main__":
    main()
