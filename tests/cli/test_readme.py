"""The README's code runs as it stands, against a real local workspace; its map and its commands are the real ones."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.S | re.M)
PYTHON = [block for block in BLOCKS if "dbllm.langchain" not in block]  # those run where LangChain is: tests/examples
SHELL = "".join(re.findall(r"^```bash\n(.*?)^```$", README, re.S | re.M)).splitlines()
CALLS = [line for line in SHELL if re.search(r"\bdbllm (complete|chat|embed|predict)\b", line)]


def package_map() -> list[list[str]]:
    """The map of packages and modules, row by row."""
    rows = re.findall(r"^\| (`.*?) \|", README.split("## How it is built")[1], re.M)
    return [re.findall(r"`(\w+\.py|\w+/)`", row) for row in rows]


def title(block: str) -> str:
    """The line of a block that says most, for the test's name."""
    return next((line.strip() for line in block.splitlines() if "client." in line), "code")[:40]


@pytest.mark.usefixtures("environ")
@pytest.mark.parametrize("block", PYTHON, ids=title)
def test_a_python_block_runs_and_prints(
    block: str, app_port: int, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile(block.replace("7777", str(app_port)), "README.md", "exec")
    exec(code, {"__name__": "__main__"})  # noqa: S102 - the README's own code
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("line", CALLS)
def test_a_shell_line_runs_and_prints(line: str, app_port: int, environ: dict[str, str]) -> None:
    script = f'dbllm() {{ "{sys.executable}" -m dbllm "$@"; }}\n{line.replace("7777", str(app_port))}'
    ended = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip()


def test_the_lines_that_manage_run_one_after_another(environ: dict[str, str], tmp_path: Path) -> None:
    lines = [line for line in SHELL if re.search(r"\bdbllm (secrets|endpoints)\b", line)]
    assert len(lines) > 3
    block = next(block for block in PYTHON if "external_model" in block)
    model = ast.literal_eval(block.split("model = ")[1].split("\n\n")[0])
    (tmp_path / "my-chat.json").write_text(json.dumps({"served_entities": [{"external_model": model}]}))
    tidy = ["dbllm endpoints delete my-chat", "dbllm secrets delete-scope my-scope"]
    script = "\n".join(["set -e -o pipefail", f'dbllm() {{ "{sys.executable}" -m dbllm "$@"; }}', *lines, *tidy])
    ended = subprocess.run(
        ["bash", "-c", script],
        env={**environ, "OPENAI_API_KEY": "sk-of-the-readme"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "my-chat\t" in ended.stdout
    assert "openai-api-key" in ended.stdout
    assert "sk-of-the-readme" not in ended.stdout


def test_there_is_code_for_every_kind_of_call() -> None:
    for word in (".complete(", ".chat(", ".stream_chat(", ".embed(", ".predict(", ".driver_app(", "with Client()"):
        assert any(word in block for block in PYTHON), word
    assert {line.split("dbllm ")[1].split()[0] for line in CALLS} == {"complete", "chat", "embed", "predict"}


def test_the_two_commands_of_the_first_page_are_one_line_each() -> None:
    assert [line for line in SHELL if line.endswith("dbllm demo")] == ["pip install -e '.[local]' && dbllm demo"]
    assert [line for line in SHELL if line.startswith("pip install nox")] == ["pip install nox && nox"]


def test_the_map_names_every_package_and_module() -> None:
    named = [name for row in package_map() for name in row]
    assert len(named) == len(set(named))
    there = {path.name for path in (ROOT / "dbllm").glob("*.py")}
    there |= {f"{path.parent.name}/" for path in (ROOT / "dbllm").glob("*/__init__.py")}
    assert set(named) == there - {"__init__.py"}


def test_packages_import_only_what_the_map_puts_below_or_beside_them() -> None:
    rows = [[name.removesuffix(".py").removesuffix("/") for name in row] for row in package_map()]
    core = [row for row in rows if set(row) & {"_client", "errors"} or all(name.startswith("_") for name in row)]
    core = [row for row in core if "__main__" not in row]
    row_of = {name: number for number, row in enumerate(core) for name in row}
    assert len(row_of) > 8
    for name, row in row_of.items():
        package = ROOT / "dbllm" / name
        for file in package.glob("*.py") if package.is_dir() else [package.with_suffix(".py")]:
            above = {other for other in imported(file) if row_of.get(other, row) < row}
            assert not above, f"{file.relative_to(ROOT)} imports {above}"


def imported(file: Path) -> set[str]:
    """The packages and modules at the top of dbllm that a file imports, anywhere in it."""
    package = file.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            path = [*base, *(node.module or "").split(".")]
            path = [part for part in path if part]
            if path[:1] == ["dbllm"]:
                found |= {path[1]} if len(path) > 1 else {alias.name for alias in node.names}
    return found


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    documents = [ROOT / "README.md", ROOT / "dbllm" / "ARCHITECTURE.md", *(ROOT / ".github").glob("*.md")]
    assert len(documents) == 4
    for document in documents:
        text = document.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert "://" in target or (document.parent / target).exists(), f"{document.name}: {target}"
        for name in re.findall(r"`((?:tests|_[a-z]+)/[\w/]+\.\w+)`", text):
            assert (ROOT / name).exists() or (ROOT / "dbllm" / name).exists(), f"{document.name}: {name}"


def test_no_install_line_of_the_readme_needs_a_package_index_to_have_dbllm() -> None:
    installs = [line for line in SHELL if "pip install" in line and "nox" not in line]
    assert installs
    for line in installs:
        assert line.startswith("pip install -e '.["), line


def test_the_check_of_the_readme_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
