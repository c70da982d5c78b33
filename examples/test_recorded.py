"""A conversation that was recorded once, with the local workspace's model, and is replayed wherever this runs.

pip install -e '.[testing]'               # in the clone
pytest examples/test_recorded.py          # replays recordings/test_recorded/test_a_conversation.json

To record it anew, delete that file, start `dbllm up`, export what it prints, and run the test again.
"""

from __future__ import annotations

from dbllm import Client
from dbllm.testing import Recorder


def converse(*questions: str) -> list[str]:
    """The answers of a model that remembers what was said before: your own code."""
    messages: list[object] = []
    with Client() as client:
        endpoint = client.endpoint("smollm2-chat", params={"max_tokens": 24, "temperature": 0})
        for question in questions:
            messages.append({"role": "user", "content": question})
            with endpoint.stream_chat(messages) as stream:
                messages.append(stream.final().message)
    return [message.text for message in messages if not isinstance(message, dict)]


def test_a_conversation(recorded: Recorder) -> None:
    first, second = converse("Name a river.", "Where does it flow?")
    assert first
    assert second != first
