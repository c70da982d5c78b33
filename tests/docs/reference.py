"""Makes the reference of all public names from their docstrings, with the guides: `nox -s docs`.

    python -W error tests/docs/reference.py FOLDER

It fails where a public name has no docstring, a link leads nowhere, or a docstring or an annotation cannot be read.
"""

from __future__ import annotations

import html
import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pdoc.render
from jinja2 import pass_context
from jinja2.runtime import Context

ROOT = Path(__file__).parents[2]
MODULES = {  # and the guide that its page begins with
    "dbllm": "dbllm/GUIDE.md",
    "dbllm.bulk": "dbllm/bulk/GUIDE.md",
    "dbllm.dbutils": None,
    "dbllm.deployments": None,
    "dbllm.langchain": None,
    "dbllm.local": "dbllm/local/GUIDE.md",
    "dbllm.otel": None,
    "dbllm.serve": None,
    "dbllm.spark": None,
    "dbllm.testing": "dbllm/testing/GUIDE.md",
}
HAVE_NONE = {"cli", "errors"}  # the command, and what is on the page of dbllm
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def main(folder: Path) -> int:
    """Write the reference; how many things are wrong with it."""
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    modules = {name: importlib.import_module(name) for name in MODULES}
    for module in modules.values():
        resolve_names(module)
    share_classes()
    for name, module in modules.items():
        if guide := MODULES[name]:
            module.__doc__ = f"{inspect.getdoc(module)}\n\n{adapted((ROOT / guide).read_text('utf-8'))}"
    pdoc.render.env.filters["to_markdown"] = escaped_stars
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"dbllm {version[1] if version else ''}")
    os.chdir(Path(__file__).parent)  # beside a folder of that name pdoc asks which dbllm is meant
    folder.mkdir(parents=True, exist_ok=True)
    pdoc.pdoc(*MODULES, output_directory=folder)
    for page in folder.rglob("*.html"):
        page.write_text(without_links_to_others_members(page.read_text("utf-8")), "utf-8")
    here = {path.stem for path in (ROOT / "dbllm").iterdir() if path.stem[0] != "_" and holds_code(path)}
    wrong = [f"dbllm.{name} has no page" for name in here - HAVE_NONE if f"dbllm.{name}" not in MODULES]
    wrong += [*undocumented(modules), *missing(modules, folder), *dead_links(folder)]
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{folder / 'index.html'}: {len(list(folder.rglob('*.html')))} pages")
    return len(wrong)


def holds_code(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").exists()


def resolve_names(module: ModuleType) -> None:
    """Put names that are imported when they are first used where pdoc looks for them, and what classes inherit."""
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        setattr(module, name, thing)
        if inspect.isclass(thing):
            inherit(thing)


def share_classes() -> None:
    """An alias may hold the name of a class as a text, and pdoc looks it up in the module that uses the alias."""
    modules = [module for name, module in sys.modules.items() if name.startswith("dbllm")]
    classes = {
        name: thing
        for module in modules
        for name, thing in vars(module).items()
        if inspect.isclass(thing) and thing.__module__ == module.__name__
    }
    for module in modules:
        for name, thing in classes.items():
            vars(module).setdefault(name, thing)


def inherit(cls: type[Any]) -> None:
    """Give a public class the public members of its private bases as its own: pdoc shows no private base."""
    for base in cls.__mro__[1:]:
        if not base.__module__.startswith("dbllm.") or inspect.isabstract(base):
            continue
        for name, value in vars(base).items():
            if not name.startswith("_") and name not in vars(cls) and (inspect.isroutine(value) or is_property(value)):
                setattr(cls, name, value)
        annotations = {name: one for name, one in inspect.get_annotations(base).items() if not name.startswith("_")}
        cls.__annotations__ = {**annotations, **inspect.get_annotations(cls)}


def is_property(value: object) -> bool:
    return hasattr(value, "__get__") and hasattr(value, "fget")


MARKDOWN = pdoc.render.env.filters["to_markdown"]


@pass_context
def escaped_stars(context: Context, docstring: str) -> str:
    """A docstring as Markdown; the stars of `**params:` in a list of arguments stay stars."""
    arguments = re.compile(r"^ *[\w, *]+(?=:)", re.M)
    return str(MARKDOWN(context, arguments.sub(lambda names: names[0].replace("*", "\\*"), docstring)))


def adapted(guide: str) -> str:
    """A guide as a part of a page: links to other guides lead to their pages, those to other files are text."""

    def replaced(link: re.Match[str]) -> str:
        text, target = link.groups()
        if target.startswith(("#", "https:")):
            return link[0]
        for name, page in MODULES.items():
            if page and (Path("dbllm") / target.partition("#")[0]).resolve() == Path(page).resolve():
                return f"[{text}]({'../' * (name != 'dbllm')}{name.replace('.', '/')}.html)"
        return text

    return LINK.sub(replaced, guide)


def without_links_to_others_members(page: str) -> str:
    """A page whose docstrings link to no members that pydantic, LangChain or a public base has."""
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    link = re.compile(r'<code><a href="#(\w+\.\w+)">([^<]*)</a></code>')
    return link.sub(lambda found: found[0] if found[1] in ids else f"<code>{found[2]}</code>", page)


def undocumented(modules: dict[str, ModuleType]) -> list[str]:
    """Public classes and functions without a docstring, and public methods of the classes."""
    found = set()
    for name, module in modules.items():
        for public in getattr(module, "__all__", ()):
            thing = getattr(module, public)
            if not (inspect.isclass(thing) or inspect.isroutine(thing)):
                continue
            if not inspect.getdoc(thing):
                found.add(f"{name}.{public} has no docstring")
            if not inspect.isclass(thing):
                continue
            for method in vars(thing):
                value = inspect.getattr_static(thing, method)
                if (
                    not method.startswith(("_", "model_post_init"))  # of pydantic
                    and inspect.isroutine(value)
                    and not inspect.getdoc(getattr(thing, method))
                ):
                    found.add(f"{name}.{public}.{method} has no docstring")
    return sorted(found)


def missing(modules: dict[str, ModuleType], folder: Path) -> list[str]:
    """Public names that their page does not have."""
    found = []
    for name, module in modules.items():
        page = (folder / f"{name.replace('.', '/')}.html").read_text("utf-8")
        found += [f"{name}: {one} is missing" for one in getattr(module, "__all__", ()) if f'id="{one}"' not in page]
    return found


def dead_links(folder: Path) -> list[str]:
    """Links between the pages, and inside one, that lead nowhere."""
    pages = {path.resolve(): path.read_text("utf-8") for path in folder.rglob("*.html")}
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    found = []
    for path, text in pages.items():
        without_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.S)
        for target in re.findall(r'<a[^>]* href="([^"]+)"', without_scripts):
            file, _, anchor = html.unescape(target).partition("#")
            if "://" in target:
                continue
            other = (path.parent / file).resolve() if file else path
            if other not in pages or (anchor and anchor not in ids[other]):
                found.append(f"{path.name}: the link to {target} leads nowhere")
    return sorted(set(found))


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1]).resolve()) else 0)
