"""The table "Works with other clients" of the README: which client did what, as a test run found it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BEGIN, END = "<!-- clients: begin -->", "<!-- clients: end -->"
CLIENTS = (
    "databricks-sdk",
    "mlflow deployments",
    "openai",
    "openai async",
    "langchain-community",
    "databricks-langchain",
)
OPERATIONS = (
    "chat",
    "chat, streamed",
    "tools",
    "JSON schema",
    "completions",
    "completions, streamed",
    "embeddings",
    "responses",
    "responses, streamed",
    "custom model",
    "create and update an endpoint",
    "list, get and delete endpoints",
    "rate limits and AI gateway",
    "tags",
    "logs, metrics, OpenAPI",
    "permissions",
    "secrets and ACLs",
    "M2M login",
    "errors are the client's own",
)


@dataclass
class Outcomes:
    """What the tests of a run said: (client, operation) → whether every test of it passed."""

    cells: dict[tuple[str, str], bool] = field(default_factory=dict)

    def note(self, client: str, operation: str, *, worked: bool) -> None:
        """Take in one test.

        Raises:
            ValueError: the table has no such row or column.
        """
        if client not in CLIENTS or operation not in OPERATIONS:
            raise ValueError(f"the table has no cell for {client!r} x {operation!r}")
        self.cells[client, operation] = self.cells.get((client, operation), True) and worked

    def table(self) -> str:
        """Markdown; a cell is empty where no test is, and says so where one failed."""
        words = {True: "yes", False: "**fails**", None: ""}
        rows = [["", *CLIENTS], ["---"] * (len(CLIENTS) + 1)]
        for operation in OPERATIONS:
            rows.append([operation, *(words[self.cells.get((client, operation))] for client in CLIENTS)])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def left_out(reasons: dict[str, str]) -> str:
    """A list of what is not called, and why."""
    return "\n".join(f"- {name}: {reason}" for name, reason in reasons.items())


def found(text: str) -> str:
    """What stands between the two marks of a page."""
    inside = re.search(f"{re.escape(BEGIN)}\n(.*?)\n{re.escape(END)}", text, re.S)
    if inside is None:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return inside[1]


def replaced(text: str, inside: str) -> str:
    """The page with something else between the marks."""
    return text.replace(f"{BEGIN}\n{found(text)}\n{END}", f"{BEGIN}\n{inside}\n{END}")
