"""From a row to the call that it asks for: a verb and its arguments. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, Literal, get_args

from .results import RowInputError

Verb = Literal["complete", "chat", "embed", "predict", "respond"]
VERBS: tuple[str, ...] = get_args(Verb)

_NO_NAME = re.compile(r"[{}\"'\n]|[:!].*$")  # what a column's name hardly has, and JSON in a template does
CONTENT = {  # the columns that hold what a verb sends, the first that a row has
    "complete": ("prompt", "text"),
    "chat": ("messages", "prompt", "text"),
    "respond": ("input", "messages", "prompt", "text"),
    "embed": ("input", "text", "prompt"),
    "predict": (),
}
FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")  # of `predict`


@dataclass(frozen=True, slots=True)
class RowRequest:
    """What one row asks for.

    Attributes:
        verb: complete, chat, embed, predict or respond.
        content: what the verb sends: a prompt, messages, texts, items, or `{form: value}` for `predict`.
        params: the row's own parameters, which win over those of the job.
        key: the row's own name (`custom_id`), or None.
    """

    verb: str
    content: Any
    params: Mapping[str, Any]
    key: str | None = None

    def fingerprint(self) -> bytes:
        """16 bytes; equal for requests that ask the same of the same endpoint.

        Raises:
            RowInputError: its text is not Unicode.
        """
        asked = [self.verb, self.content, self.params]
        text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=repr)
        try:
            return hashlib.blake2b(text.encode(), digest_size=16).digest()
        except UnicodeEncodeError:
            raise RowInputError("text that is not Unicode: half of a surrogate pair, which cannot be sent.") from None


def most_tokens(params: Mapping[str, Any]) -> int | None:
    """The most output tokens that parameters allow; None if they do not say."""
    named = (params.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
    return next((value for value in named if isinstance(value, int) and not isinstance(value, bool)), None)


class Template:
    """A prompt with columns in braces: "Summarise: {text}"; `{{` and `}}` are braces.

    Raises:
        ValueError: a brace is missing, or braces are empty.
        TypeError: it is no str.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"the prompt template must be a str, got {type(text).__name__}.")
        if not text:
            raise ValueError('the prompt template is empty: write one, such as "Summarise: {text}", or leave it out.')
        self.text = text
        try:
            self._parts = [(before, name) for before, name, _, _ in _template_parts(text)]
        except ValueError as error:
            raise ValueError(f"the prompt template {text!r} cannot be read: {error}.") from None
        self.columns = tuple(dict.fromkeys(name for _, name in self._parts if name is not None))
        if "" in self.columns:
            raise ValueError(f"the prompt template {text!r} has braces without a column name in them.")

    def fill(self, row: Mapping[str, Any]) -> str:
        """The prompt of a row.

        Raises:
            RowInputError: a column is missing or empty.
        """
        made = []
        for before, name in self._parts:
            made.append(before)
            if name is None:
                continue
            if name not in row:
                braces = " Braces that are text are written twice: {{ }}." if _NO_NAME.search(name) else ""
                has = _named_columns(row)
                raise RowInputError(
                    f"column {name!r} of the prompt template is missing; the row's columns: {has}.{braces}"
                )
            if _is_nothing(value := row[name]):
                raise RowInputError(f"column {name!r} of the prompt template is empty in this row.")
            plain = isinstance(value, str) or not isinstance(value, (Mapping, list, tuple))
            made.append(str(value) if plain else json.dumps(value, ensure_ascii=False, default=str))
        return "".join(made)


def _named_columns(row: Mapping[str, Any]) -> str:
    """The names of a row's columns, as far as a message has room; odd ones so that they can be seen."""
    names = list(map(str, row))
    shown = [name if name.isprintable() and name and name == name.strip() else repr(name) for name in names[:20]]
    shown += [f"and {len(names) - 20:,} more"] if len(names) > 20 else []
    return ", ".join(name if len(name) <= 60 else name[:59] + "…" for name in shown) or "none"


def _template_parts(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """The template's pieces; the name of a column may hold dots, colons and brackets."""
    pieces: list[tuple[str, str | None, str | None, str | None]] = []
    for before, name, spec, conversion in Formatter().parse(text):
        if name is not None:
            name += (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        pieces.append((before, name, spec, conversion))
    return pieces


def request_of(row: Any, verb: str, template: Template | None = None) -> RowRequest:
    """The request of a row: a prompt (str), messages (a list), or a mapping of columns; OpenAI Batch's shape too.

    Raises:
        RowInputError: the row has nothing that the verb can send.
    """
    if isinstance(row, str) and template is None and verb != "predict":  # first, since an abstract class takes long
        return RowRequest(verb, row, {})
    if isinstance(row, Mapping) and isinstance(row.get("body"), Mapping) and ("custom_id" in row or "url" in row):
        if template is not None:
            raise RowInputError(
                "the row has OpenAI Batch's shape, whose body says what is sent: leave out the prompt template, or "
                "give rows of plain columns."
            )
        return _batch_row(row, verb)
    if template is not None:
        return _templated(row, verb, template)
    if isinstance(row, Mapping):
        return RowRequest(verb, _content(row, verb), {}, _key(row))
    if verb == "predict":
        return RowRequest(verb, {"inputs": [row]}, {})
    return RowRequest(verb, _sendable(row, verb), {})


def _templated(row: Any, verb: str, template: Template) -> RowRequest:
    if isinstance(row, str) and len(template.columns) <= 1:  # a plain text is the one column
        row = dict.fromkeys(template.columns, row)
    if not isinstance(row, Mapping):
        raise RowInputError(f"the prompt template needs a row with columns, got {type(row).__name__}.")
    prompt = template.fill(row)
    content: Any = {"dataframe_records": [{"prompt": prompt}]} if verb == "predict" else prompt
    return RowRequest(verb, content, {}, _key(row))


def _batch_row(row: Mapping[str, Any], verb: str) -> RowRequest:
    """A line of OpenAI's Batch API: what else the body says is a parameter."""
    body = row["body"]
    url = str(row.get("url", ""))
    verb = "embed" if "embeddings" in url else "respond" if url.endswith("/responses") else verb
    verb = "chat" if "messages" in body and verb in ("complete", "embed") else verb
    content = _content(body, verb)
    taken = {"model", "stream", *CONTENT[verb], *(FORMS if verb == "predict" else ())}
    params = {name: value for name, value in body.items() if name not in taken} if verb != "predict" else {}
    return RowRequest(verb, content, params, _key(row))


def _content(row: Mapping[str, Any], verb: str) -> Any:
    if verb == "predict":
        forms = [form for form in FORMS if form in row]
        return {forms[0]: row[forms[0]]} if len(forms) == 1 else {"dataframe_records": [dict(row)]}
    found = next((name for name in CONTENT[verb] if not _is_nothing(row.get(name))), None)
    if found is None:
        wanted = " or ".join(repr(name) for name in CONTENT[verb])
        raise RowInputError(
            f"{verb} needs a column {wanted}, or a prompt template; the row's columns: {_named_columns(row)}."
        )
    return _sendable(row[found], verb)


def _is_nothing(value: Any) -> bool:
    """None, or what pandas has in its place: NaN, NaT, NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def _sendable(content: Any, verb: str) -> Any:
    if isinstance(content, str):
        return content
    if verb != "complete" and isinstance(content, Sequence) and not isinstance(content, (bytes, bytearray)) and content:
        return list(content)
    if content in ([], ()):
        raise RowInputError(f"{verb} cannot send an empty list.")
    takes = "a text" if verb == "complete" else "a text or a list"
    raise RowInputError(f"{verb} sends {takes}, and got {type(content).__name__}.")


def _key(row: Mapping[str, Any]) -> str | None:
    key = row.get("custom_id")
    return None if key is None else str(key)
