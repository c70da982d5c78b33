"""A release refuses what is wrong before it changes anything, and leaves a tree as it was where it fails."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import tarfile
import zipfile
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="a release is a commit and a tag of git")

TODAY = date(2030, 1, 31)
CHANGELOG = """# Changelog

## [Unreleased]

### Added

- A verb.

## [0.1.0] - 2029-12-01

- The first.
"""
METADATA = """Metadata-Version: 2.4
Name: dbllm
Version: {version}
Summary: A summary of it
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.10
Description-Content-Type: text/markdown

# dbllm
"""


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", Path(__file__).with_name("release.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pack(out: Path, version: str, *, without: str = "", more: str = "") -> None:
    """A wheel and an sdist of the fewest files."""
    out.mkdir(exist_ok=True)
    code = {"dbllm/__init__.py": "", "dbllm/py.typed": "", "dbllm/local/page/page.html": "<!doctype html>"}
    info, texts = f"dbllm-{version}.dist-info", METADATA.format(version=version)
    extra = {more: ""} if more else {}
    wheel = {**code, f"{info}/METADATA": texts, f"{info}/licenses/LICENSE": "Apache License", **extra}
    wheel[f"{info}/entry_points.txt"] = "[console_scripts]\ndbllm = dbllm.__main__:main\n"
    sdist = {**code, "PKG-INFO": texts, "LICENSE": "", "README.md": "", "CHANGELOG.md": "", "pyproject.toml": ""}
    with zipfile.ZipFile(out / f"dbllm-{version}-py3-none-any.whl", "w") as packed:
        for name, text in wheel.items():
            if name != without:
                packed.writestr(name, text)
    with tarfile.open(out / f"dbllm-{version}.tar.gz", "w:gz") as tar:
        for name, text in sdist.items():
            member = tarfile.TarInfo(f"dbllm-{version}/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def git(folder: Path, *words: str) -> str:
    name = ("-c", "user.name=tester", "-c", "user.email=tester@example.com")
    return subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed project with a changelog and a version."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester@example.com")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    (folder / "pyproject.toml").write_text('[project]\nname = "dbllm"\nversion = "0.1.0"\n')
    (folder / ".gitignore").write_text("dist/\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "all")
    return folder


def test_a_release_is_a_section_a_version_a_commit_and_a_tag(release: ModuleType, project: Path) -> None:
    out = release.make_release(project, "0.2.0", TODAY, build=lambda _, out: pack(out, "0.2.0"))
    assert sorted(path.name for path in out.iterdir()) == ["dbllm-0.2.0-py3-none-any.whl", "dbllm-0.2.0.tar.gz"]
    changelog = (project / "CHANGELOG.md").read_text()
    assert "## [Unreleased]\n\n## [0.2.0] - 2030-01-31\n\n### Added\n\n- A verb.\n\n## [0.1.0]" in changelog
    assert 'version = "0.2.0"\n' in (project / "pyproject.toml").read_text()
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "log", "-1", "--format=%s") == "Release 0.2.0"
    assert git(project, "rev-parse", "v0.2.0^{commit}") == git(project, "rev-parse", "HEAD")


def test_what_is_built_wrong_leaves_the_tree_as_it_was(release: ModuleType, project: Path) -> None:
    head = git(project, "rev-parse", "HEAD")

    def fail(_: Path, out: Path) -> None:
        raise release.Refused("no compiler")

    for build, words in (
        (lambda _, out: pack(out, "0.2.0", without="dbllm/py.typed"), r"the wheel has no dbllm/py\.typed"),
        (lambda _, out: pack(out, "0.1.9"), "Version is '0.1.9'|one wheel and one sdist"),
        (fail, "no compiler"),
    ):
        with pytest.raises(release.Refused, match=words):
            release.make_release(project, "0.2.0", TODAY, build=build)
        assert git(project, "status", "--porcelain") == ""
        assert (git(project, "rev-parse", "HEAD"), git(project, "tag")) == (head, "")


def test_a_dry_run_keeps_nothing_but_the_files(release: ModuleType, project: Path) -> None:
    head = git(project, "rev-parse", "HEAD")
    release.make_release(project, "0.2.0", TODAY, keep=False, build=lambda _, out: pack(out, "0.2.0"))
    assert git(project, "status", "--porcelain") == ""
    assert (git(project, "rev-parse", "HEAD"), git(project, "tag")) == (head, "")


def test_changes_and_tags_that_are_there_are_refused(release: ModuleType, project: Path) -> None:
    git(project, "tag", "v0.2.0")
    with pytest.raises(release.Refused, match=r"the tag v0\.2\.0 is there already"):
        release.make_release(project, "0.2.0", TODAY)
    (project / "new.py").write_text("")
    with pytest.raises(release.Refused, match=r"what is committed; commit or remove first:\n\?\? new\.py"):
        release.make_release(project, "0.3.0", TODAY)


def test_versions_follow_each_other_and_the_changelog_says_why(release: ModuleType) -> None:
    removed = CHANGELOG.replace("### Added", "### Removed")
    empty = CHANGELOG.replace("### Added\n\n- A verb.\n\n", "")
    wrong = []
    for text, version, words in (
        (CHANGELOG, "0.1.0", "does not follow 0.1.0"),
        (CHANGELOG, "0.0.9", "does not follow 0.1.0"),
        (CHANGELOG, "0.1.0rc1", "does not follow 0.1.0"),
        (CHANGELOG, "0.2", "a version is X.Y.Z"),
        (CHANGELOG, "v0.2.0", "a version is X.Y.Z"),
        (removed, "0.1.1", "has another minor number"),
        (empty, "0.2.0", 'nothing under "Unreleased"'),
        (CHANGELOG.replace("[Unreleased]", "[unreleased]"), "0.2.0", "needs the line"),
        (CHANGELOG, "0.1.1", None),
        (CHANGELOG, "0.10.0", None),
        (CHANGELOG, "1.0.0rc2", None),
        (removed, "0.2.0", None),
    ):
        try:
            release.released_changelog(text, version, TODAY)
            said = None
        except release.Refused as error:
            said = str(error)
        if (said is None) != (words is None) or (words or "") not in (said or ""):
            wrong.append(f"{version}: {said}")
    assert not wrong, "\n".join(wrong)


def test_each_thing_that_a_wheel_must_have_or_not_have_is_looked_for(release: ModuleType, tmp_path: Path) -> None:
    pack(tmp_path / "right", "0.2.0")
    assert release.problems(tmp_path / "right", "0.2.0") == []
    for number, (change, words) in enumerate(
        (
            ({"without": "dbllm/local/page/page.html"}, "the wheel has no dbllm/local/page/page.html"),
            ({"without": "dbllm-0.2.0.dist-info/licenses/LICENSE"}, "no licence"),
            ({"without": "dbllm-0.2.0.dist-info/entry_points.txt"}, "the command dbllm"),
            ({"without": "dbllm-0.2.0.dist-info/METADATA"}, "Name is None"),
            ({"more": "tests/test_client.py"}, "the wheel has tests/test_client.py"),
            ({"more": "dbllm/GUIDE.md"}, "the wheel has dbllm/GUIDE.md"),
            ({"more": "dbllm/__pycache__/x.pyc"}, "the wheel has dbllm/__pycache__/x.pyc"),
        )
    ):
        pack(tmp_path / str(number), "0.2.0", **change)
        assert words in "\n".join(release.problems(tmp_path / str(number), "0.2.0"))


def test_words_that_are_wrong_are_answered_with_the_form(
    release: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        release.main([])
    assert ended.value.code == 2
    assert "name one version, such as 0.2.0" in capsys.readouterr().err
    assert release.main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("no release: ")
