"""The documents whose code is run as it stands: the README and the guides beside the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
WITH_CODE = [README, *sorted((ROOT / "dbllm").rglob("GUIDE.md"))]
DOCUMENTS = [*WITH_CODE, ROOT / "dbllm" / "ARCHITECTURE.md", *sorted((ROOT / ".github").glob("*.md"))]


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(document: Path, language: str) -> list[str]:
    """The blocks of code in one language, from top to bottom."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text("utf-8"), re.S | re.M)


def needs_langchain(block: str) -> bool:
    return "langchain" in block


def shell_lines(document: Path) -> list[str]:
    return "".join(blocks(document, "bash")).splitlines()


def anchors(document: Path) -> set[str]:
    """What `#...` may follow the document's name in a link, one for each heading."""
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.S | re.M)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
