"""Sort a file of messages by topic, one call a row; stopped or killed, it goes on where it was.

pip install -e '.[local]'                 # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/bulk.py
"""

from __future__ import annotations

import csv
import logging
import sys
from pathlib import Path

from dbllm import DbllmError, Limits, bulk

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
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        main()
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
