"""Makes a release: `nox -s release -- 0.2.0`. Nothing is uploaded without `--upload`; `--dry-run` keeps nothing.

    python tests/release/release.py 0.2.0 [--upload] [--dry-run]
    python tests/release/release.py --check FOLDER       only looks into the sdist and the wheel of a folder

It refuses a version that does not follow the last one, a tree with changes and an empty changelog. It moves what is
under "Unreleased" to a section of its own, sets the version, builds the sdist and, of that, the wheel, looks into both,
commits and tags. Where one of these fails, the tree is as it was.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from datetime import date, datetime, timezone
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[2]
UV = os.environ.get("UV", "uv")  # the one that nox has need not be on the path
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:rc(\d+))?")
UNRELEASED = "## [Unreleased]\n"
SECTION = re.compile(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", re.M)
FINAL = 10**6  # sorts behind every release candidate

IN_THE_WHEEL = ("dbllm/py.typed", "dbllm/local/page/page.html", "dbllm/__init__.py")
IN_THE_SDIST = (
    "dbllm/py.typed",
    "dbllm/local/page/page.html",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "pyproject.toml",
)
FOREIGN = re.compile(r"(^|/)(__pycache__|\.nox|\.git|site|dist)/|\.(pyc|gguf|key|pem)$")
METADATA = {  # and what each field looks like
    "Name": "dbllm",
    "Summary": ".{10,}",
    "License-Expression": "Apache-2.0",
    "License-File": "LICENSE",
    "Requires-Python": r">=3\.\d+",
    "Description-Content-Type": "text/markdown",
    "Metadata-Version": r"2\.\d",
}


class Refused(Exception):
    """Why there is no release, and what to do."""


# --- decisions --------------------------------------------------------------------------------------------------------


def version_key(version: str) -> tuple[int, int, int, int]:
    """What versions are sorted by.

    Raises:
        Refused: it is none.
    """
    found = VERSION.fullmatch(version)
    if found is None:
        raise Refused(f"a version is X.Y.Z or X.Y.ZrcN, got {version!r}.")
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch), FINAL if candidate is None else int(candidate)


def released_changelog(text: str, version: str, today: date) -> str:
    """The changelog with a section for the version.

    Raises:
        Refused: the version does not follow the last one, or nothing is said about it.
    """
    key = version_key(version)
    before = [found[1] for found in SECTION.finditer(text)]
    if before and key <= version_key(before[0]):
        raise Refused(f"{version} does not follow {before[0]}, the last release in CHANGELOG.md.")
    if UNRELEASED not in text:
        raise Refused(f"CHANGELOG.md needs the line {UNRELEASED.strip()!r}.")
    head, rest = text.split(UNRELEASED, 1)
    news = re.split(r"^## \[", rest, maxsplit=1, flags=re.M)[0].strip()
    if not re.search(r"^- ", news, re.M):
        raise Refused('CHANGELOG.md says nothing under "Unreleased": name what users will notice.')
    if "### Removed" in news and before and key[:2] == version_key(before[0])[:2]:
        raise Refused(f'"Removed" breaks users\' code, so the version after {before[0]} has another minor number.')
    return f"{head}{UNRELEASED}\n## [{version}] - {today.isoformat()}\n\n{rest.lstrip()}"


def with_version(pyproject: str, version: str) -> str:
    """pyproject.toml with another version."""
    changed, count = re.subn(r'^version = ".*"$', f'version = "{version}"', pyproject, count=1, flags=re.M)
    if count != 1:
        raise Refused('pyproject.toml should have one line version = "…".')
    return changed


# --- what was built ---------------------------------------------------------------------------------------------------


def problems(folder: Path, version: str | None = None) -> list[str]:
    """What is wrong with the one sdist and the one wheel of a folder."""
    wheels, sdists = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        return [f"{folder} should have one wheel and one sdist, it has {[path.name for path in (*wheels, *sdists)]}"]
    (wheel,), (sdist,) = wheels, sdists
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        info = next((name.partition("/")[0] for name in names if ".dist-info/" in name), "none.dist-info")
        texts = {name: packed.read(name) for name in names if name.startswith(info)}
    with tarfile.open(sdist) as tar:
        inside = [name.partition("/")[2] for name in tar.getnames()]
        packaged = tar.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/PKG-INFO")
        texts["PKG-INFO"] = packaged.read() if packaged is not None else b""

    found = [f"the wheel has no {name}" for name in IN_THE_WHEEL if name not in names]
    found += [f"the sdist has no {name}" for name in IN_THE_SDIST if name not in inside]
    found += [
        f"the wheel has {name}" for name in names if not name.startswith(("dbllm/", info)) or name.endswith(".md")
    ]
    found += [
        f"the {kind} has {name}"
        for kind, all_ in (("wheel", names), ("sdist", inside))
        for name in all_
        if FOREIGN.search(name)
    ]
    if b"Apache License" not in texts.get(f"{info}/licenses/LICENSE", b""):
        found.append("the wheel has no licence in .dist-info/licenses")
    if b"dbllm = dbllm.__main__:main" not in texts.get(f"{info}/entry_points.txt", b""):
        found.append("the wheel does not install the command dbllm")
    for place in ("PKG-INFO", f"{info}/METADATA"):
        fields = message_from_bytes(texts.get(place, b""))
        for name, form in {**METADATA, "Version": re.escape(version) if version else r"\d.*"}.items():
            if not re.fullmatch(form, str(fields.get(name, ""))):
                found.append(f"{place}: {name} is {fields.get(name)!r}")
        if "# dbllm" not in str(fields.get_payload()):
            found.append(f"{place}: the description is not the README")
    return found


# --- deeds ------------------------------------------------------------------------------------------------------------


def run(command: Sequence[str], folder: Path) -> str:
    """A command's output.

    Raises:
        Refused: it failed.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout.strip()


def build(folder: Path, out: Path) -> None:
    """The sdist, and the wheel of the sdist."""
    constraints = str(folder / "tests" / "requirements" / "build.txt")
    run([UV, "build", "--quiet", "--clear", "--out-dir", str(out), "--build-constraints", constraints], folder)


def make_release(
    folder: Path, version: str, today: date, *, keep: bool = True, build: Callable[[Path, Path], None] = build
) -> Path:
    """Make the files, a commit and a tag; the folder of the files.

    Raises:
        Refused: there is no release, and the tree is as it was.
    """
    changelog, pyproject = folder / "CHANGELOG.md", folder / "pyproject.toml"
    before = {path: path.read_text("utf-8") for path in (changelog, pyproject)}
    after = {
        changelog: released_changelog(before[changelog], version, today),
        pyproject: with_version(before[pyproject], version),
    }
    if changes := run(["git", "status", "--porcelain"], folder):
        raise Refused(f"a release is made of what is committed; commit or remove first:\n{changes}")
    tag = f"v{version}"
    if run(["git", "tag", "--list", tag], folder):
        raise Refused(f"the tag {tag} is there already.")
    out = folder / "dist"
    done = False
    try:
        for path, text in after.items():
            path.write_text(text, "utf-8")
        build(folder, out)
        if wrong := problems(out, version):
            raise Refused("what was built is not right:\n" + "\n".join(wrong))
        if keep:
            run(["git", "commit", "--quiet", "-m", f"Release {version}", "--", changelog.name, pyproject.name], folder)
            done = True
            run(["git", "tag", "--annotate", tag, "-m", f"dbllm {version}"], folder)
    finally:
        if not done:
            for path, text in before.items():
                path.write_text(text, "utf-8")
    return out


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="nox -s release --", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("version", nargs="?", help="such as 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="build and check, then leave all as it was")
    parser.add_argument("--upload", action="store_true", help="`uv publish` what was built")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="only look into its sdist and wheel")
    given = parser.parse_args(arguments)
    if (given.version is None) == (given.check is None):
        parser.error("name one version, such as 0.2.0, or --check FOLDER")
    try:
        if given.check is not None:
            if wrong := problems(given.check):
                raise Refused("\n".join(wrong))
            print(f"the sdist and the wheel in {given.check} are right")
            return 0
        out = make_release(ROOT, given.version, datetime.now(timezone.utc).date(), keep=not given.dry_run)
        files = sorted(str(path) for path in out.iterdir() if path.suffix in (".whl", ".gz"))
        print("built and checked:", *files)
        if given.dry_run:
            return 0
        print(f"committed and tagged v{given.version}; when it should be seen: git push --follow-tags")
        if given.upload:
            print(run([UV, "publish", *files], ROOT) or "uploaded")
        else:
            print(f"not uploaded; that would be: uv publish {' '.join(files)}")
    except Refused as error:
        print(f"no release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
