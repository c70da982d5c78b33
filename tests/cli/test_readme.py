"""The code of the README and the guides runs as it stands, on a local workspace; their links and maps are right."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.documents import DOCUMENTS, README, ROOT, WITH_CODE, anchors, blocks, named, needs_langchain, shell_lines

from dbllm.local import Workspace
from dbllm.local.running import note_running

GUIDE = ROOT / "dbllm" / "GUIDE.md"
ARCHITECTURE = ROOT / "dbllm" / "ARCHITECTURE.md"
PYTHON = {  # code with LangChain runs where that is: tests/examples
    document: [block for block in blocks(document, "python") if not needs_langchain(block)] for document in WITH_CODE
}
SHELL = shell_lines(README)

NOT_RUN = {  # lines of the shell, and what runs them instead
    r"dbllm up$": "tests/cli/test_process.py",
    r"export DATABRICKS_\w+=": "a reader's own workspace",
    r"python3 -m venv |source |pip install |jupyter |.*dbllm demo$": "`nox -s stranger`",
}
SILENT = r"export |dbllm secrets (create-scope|delete-scope)|echo .* put-secret|printf .* > |eval |api\(\)"
SETTING_UP = 'dbllm() { "$PYTHON" -m dbllm "$@"; }; set -e -o pipefail'


def package_map() -> list[list[str]]:
    """The map of packages and modules, row by row."""
    rows = re.findall(r"^\| (`.*?) \|", ARCHITECTURE.read_text("utf-8").split("## The packages")[1], re.M)
    return [re.findall(r"`(\w+\.py|\w+/)`", row) for row in rows]


@pytest.fixture
def noted(
    workspace: Workspace, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """The environment in a new folder; the workspace can also be found as one that `dbllm up` runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with note_running(8765, workspace.env):
        yield dict(os.environ)


@pytest.mark.usefixtures("noted")
@pytest.mark.parametrize("document", WITH_CODE, ids=named)
def test_each_block_of_python_runs_and_prints(
    document: Path, app_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = []
    for block in PYTHON[document]:
        code = compile(block.replace("7777", str(app_port)), named(document), "exec")
        try:
            exec(code, {"__name__": "__main__"})  # noqa: S102 - the document's own code
        except Exception as error:
            wrong.append(f"{error!r}\n{block}")
        if not capsys.readouterr().out.strip():
            wrong.append(f"prints nothing\n{block}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("document", WITH_CODE, ids=named)
def test_each_line_of_the_shell_runs_and_prints(document: Path, app_port: int, noted: dict[str, str]) -> None:
    model = ast.literal_eval("".join(PYTHON[GUIDE]).split("model = {")[1].split("\n}\n")[0].join("{}"))
    Path("my-chat.json").write_text(json.dumps({"served_entities": [{"external_model": model}]}))
    shutil.copy(README, "README.md")  # a line reads it
    lines = [line for line in shell_lines(document) if not any(re.match(rest, line) for rest in NOT_RUN)]
    if document != README:  # what is there, too, is run once
        lines = [line for line in lines if line not in SHELL or "prompts.jsonl" in line]
    marked = [f"{line.replace('7777', str(app_port))}\necho '=== {number}'" for number, line in enumerate(lines)]
    ended = subprocess.run(
        ["bash", "-c", "\n".join([SETTING_UP, *marked])],
        env={**noted, "PYTHON": sys.executable, "OPENAI_API_KEY": "sk-of-a-reader"},
        capture_output=True,
        text=True,
        check=False,
    )
    parts = re.split(r"=== \d+\n", ended.stdout)
    assert ended.returncode == 0, f"{lines[len(parts) - 1]}: {ended.stdout[-500:]}{ended.stderr}"
    assert "Traceback" not in ended.stderr
    assert "sk-of-a-reader" not in ended.stdout + ended.stderr
    silent = [line for line, part in zip(lines, parts, strict=False) if not part.strip()]
    assert [line for line in silent if not re.match(SILENT, line)] == []


def test_there_is_code_for_every_kind_of_call() -> None:
    code = "".join(block for blocks_of_one in PYTHON.values() for block in blocks_of_one)
    for verb in ("complete", "chat", "stream_chat", "embed", "predict", "respond", "driver_app", "agent"):
        assert f".{verb}(" in code, verb
    lines = [line for document in WITH_CODE for line in shell_lines(document)]
    for command in ("complete", "chat", "embed", "predict", "bulk", "doctor", "endpoints", "secrets"):
        assert any(re.search(rf"\bdbllm {command}\b", line) for line in lines), command


def test_a_newcomer_s_first_code_is_short() -> None:
    first = next(block for block in PYTHON[README])
    assert "Client.local()" in first
    assert len(first.splitlines()) <= 8


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


def test_every_link_of_the_documents_leads_somewhere() -> None:
    assert len(DOCUMENTS) > 6
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = (document.parent / path).resolve() if path else document
            assert file.exists(), f"{named(document)}: {target}"
            assert not anchor or anchor in anchors(file), f"{named(document)}: {target}"
        for name in re.findall(r"`((?:tests|_[a-z]+)/[\w/]+\.\w+)`", text):
            assert (ROOT / name).exists() or (ROOT / "dbllm" / name).exists(), f"{named(document)}: {name}"


def test_the_readme_links_to_every_example_and_every_guide() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)[^)]*\)", README.read_text("utf-8")))
    examples = {named(path) for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")}
    assert examples | {named(document) for document in WITH_CODE[1:]} <= linked


def test_no_install_line_of_the_readme_needs_a_package_index_to_have_dbllm() -> None:
    installs = [line for line in SHELL if "pip install" in line and "nox" not in line]
    assert installs
    for line in installs:
        assert line.startswith("pip install -e '.["), line


def test_the_check_of_the_readme_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
