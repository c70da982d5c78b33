"""Structured extraction: texts in, checked objects out, several at once; a text that gives none ends no other.

pip install -e '.[local]'                 # in the clone
dbllm up                                  # in another terminal
eval "$(dbllm env)"
python examples/extract.py
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Literal

from pydantic import BaseModel, Field

from dbllm import APIResponseError, AsyncClient, AsyncEndpoint, DbllmError

CHAT = os.environ.get("CHAT_ENDPOINT", "smollm2-chat")
AT_ONCE = 4
MESSAGES = [
    "My parcel 4711 has not arrived. Please answer soon. Anna",
    "I would like to return the blue lamp that I bought on Monday. Ben",
    "Thank you, the chairs are lovely! Clara",
]


class Ticket(BaseModel):
    """A message of a customer. The descriptions are part of the schema, so the model reads them."""

    customer: str = Field(max_length=20, description="the customer's first name")
    topic: Literal["delivery", "return", "praise", "other"]
    urgent: bool


async def extract(model: AsyncEndpoint, message: str) -> Ticket | APIResponseError | None:
    """The ticket of one message, or why there is none."""
    try:
        reply = await model.chat(f"Read this message of a customer: {message}", response_model=Ticket)
    except APIResponseError as error:  # the model's text does not fit; error.raw has it
        logging.getLogger("extract").warning("no ticket (request %s): %s", error.request_id, error)
        return error
    return reply.parsed


async def main() -> None:
    async with AsyncClient(max_connections=AT_ONCE, timeout=120) as client:
        model = client.endpoint(CHAT, params={"max_tokens": 100, "temperature": 0})
        for message, ticket in zip(
            MESSAGES, await asyncio.gather(*(extract(model, message) for message in MESSAGES)), strict=True
        ):
            print(f"{message}\n  -> {ticket!r}")


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")  # retries are warnings
    try:
        asyncio.run(main())
    except DbllmError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
