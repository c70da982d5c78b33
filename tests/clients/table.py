"""The tables "Works with other clients" of the README: which client did what, as a test run found it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Table:
    """One table of the README, found by one session of nox.

    Attributes:
        session: its name, which is in the marks around the table.
        clients: the columns.
        operations: the rows.
    """

    session: str
    clients: tuple[str, ...]
    operations: tuple[str, ...]

    @property
    def marks(self) -> tuple[str, str]:
        return f"<!-- {self.session}: begin -->", f"<!-- {self.session}: end -->"

    def found(self, page: str) -> str:
        """What stands between the two marks of a page."""
        begin, end = self.marks
        inside = re.search(f"{re.escape(begin)}\n(.*?)\n{re.escape(end)}", page, re.S)
        if inside is None:
            raise ValueError(f"the page has no {begin} … {end}")
        return inside[1]

    def replaced(self, page: str, inside: str) -> str:
        """The page with something else between the marks."""
        begin, end = self.marks
        return page.replace(f"{begin}\n{self.found(page)}\n{end}", f"{begin}\n{inside}\n{end}")


CLIENTS = Table(
    "clients",
    (
        "databricks-sdk",
        "mlflow deployments",
        "openai",
        "openai async",
        "databricks-openai",
        "langchain-community",
        "databricks-langchain",
    ),
    (
        "chat",
        "chat, streamed",
        "tools",
        "JSON schema",
        "completions",
        "completions, streamed",
        "embeddings",
        "responses",
        "responses, streamed",
        "AI gateway",
        "agent app",
        "custom model",
        "route-optimized endpoint",
        "model services and grants",
        "create and update an endpoint",
        "list, get and delete endpoints",
        "rate limits and AI gateway",
        "tags",
        "logs, metrics, OpenAPI",
        "permissions",
        "secrets and ACLs",
        "M2M login",
        "errors are the client's own",
    ),
)
MORE_CLIENTS = Table(
    "clients_more",
    ("pydantic-ai", "instructor", "LlamaIndex", "litellm", "DSPy", "openai (Node.js)", "Vercel AI SDK"),
    (
        "chat",
        "chat, streamed",
        "tools",
        "an agent with tools",
        "structured output",
        "completions",
        "embeddings",
        "responses",
        "responses, streamed",
        "errors are the client's own",
    ),
)
NEW_CLIENTS = Table(
    "clients_new",
    ("anthropic", "anthropic async", "openai 3", "openai 3 async"),
    (
        "chat",
        "chat, streamed",
        "tools",
        "structured output",
        "embeddings",
        "responses",
        "responses, streamed",
        "errors are the client's own",
    ),
)
TABLES = (CLIENTS, MORE_CLIENTS, NEW_CLIENTS)


@dataclass
class Outcomes:
    """What the tests of a run said: (client, operation) → whether every test of it passed."""

    cells: dict[tuple[str, str], bool] = field(default_factory=dict)

    def note(self, client: str, operation: str, *, worked: bool) -> None:
        """Take in one test.

        Raises:
            ValueError: no table has such a row and column.
        """
        if not any(client in one.clients and operation in one.operations for one in TABLES):
            raise ValueError(f"no table has a cell for {client!r} x {operation!r}")
        self.cells[client, operation] = self.cells.get((client, operation), True) and worked

    def table(self, of: Table) -> str:
        """Markdown; a cell is empty where no test is, and says so where one failed."""
        words = {True: "yes", False: "**fails**", None: ""}
        rows = [["", *of.clients], ["---"] * (len(of.clients) + 1)]
        for operation in of.operations:
            rows.append([operation, *(words[self.cells.get((client, operation))] for client in of.clients)])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def left_out(reasons: dict[str, str]) -> str:
    """A list of what is not called, and why."""
    return "\n".join(f"- {name}: {reason}" for name, reason in reasons.items())


def settle(table: Table, told: str, readme: Path, *, write: bool) -> None:
    """Write a table into the README, or say that the one there is stale."""
    page = readme.read_text("utf-8")
    if write:
        readme.write_text(table.replaced(page, told), "utf-8")
    else:
        assert table.found(page) == told, f"the README's table is stale: nox -s {table.session} -- --write-table"
