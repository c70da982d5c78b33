"""Lists that come in pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from .._protocol.reply import CallInfo
from .replies import read_json

PAGE_SIZE = 100
_MOST_PAGES = 10_000


async def read_pages(
    get: Callable[[str], Awaitable[CallInfo]], path: str, query: Mapping[str, str], field: str
) -> list[Any]:
    """The items of all pages of a list. A page may be empty, or lack the field, and others may still follow it.

    Args:
        get: GETs a path.
        path, query: of the list, without the pages' own parameters.
        field: where a page has its items.

    Raises:
        APIResponseError: a page is not of that form, or names itself as the next one.
    """
    items: list[Any] = []
    tokens: list[str] = []
    while True:
        own = {"page_token": tokens[-1]} if tokens else {}
        info = await get(f"{path}?{urlencode({**query, **own})}")
        page = read_json(info)
        if not isinstance(page, dict) or not isinstance(page.get(field) or [], list):
            raise info.unexpected(f"the answer has no list of {field}")
        items += page.get(field) or []
        token = page.get("next_page_token")
        if not token:
            return items
        if token in tokens:
            raise info.unexpected(f"the list of {field} has no end: a page names an earlier one as the next")
        if len(tokens) == _MOST_PAGES - 1:
            raise info.unexpected(f"the list of {field} has more than {_MOST_PAGES} pages")
        tokens.append(str(token))
