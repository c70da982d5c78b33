"""A script that does not await: the same names, without an event loop.

pip install -e '.[local]'                 # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/script.py
"""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor

from dbllm import Client, DbllmError

QUESTIONS = ["Name a river.", "Name a colour.", "Name a city.", "Name an animal."]


def main() -> None:
    with Client(timeout=60) as client:
        dolly = client.endpoint("dolly", params={"max_tokens": 30})
        print("one text:", dolly.complete("How are you?", stop=["."]))

        with dolly.stream_complete("Tell me about rivers.") as stream:
            print("a stream:", end=" ")
            for chunk in stream:
                print(chunk.text, end="", flush=True)
            print()

        # One client may be shared by threads, so plain code can wait for several answers at once.
        with ThreadPoolExecutor() as threads:
            for question, text in zip(QUESTIONS, threads.map(dolly.complete, QUESTIONS), strict=True):
                print(question, "->", text)

        try:
            client.endpoint("dollly").complete("How are you?")
        except DbllmError as error:
            print("an error:", error)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        main()
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
