"""Names: one name means one thing, and it is the field's own word."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import dbllm

ROOT = Path(dbllm.__file__).parent
TREES = {  # dotted name below dbllm: its tree
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text("utf-8"))
    for path in sorted(ROOT.rglob("*.py"))
}

TWINS = {  # names that two modules define on purpose: the modules, and the one concept that they share
    "Endpoint": (
        "_sync_client local.management.catalog",
        "a serving endpoint: as a caller and as its workspace has it",
    ),
    "Endpoints": ("_management.endpoints local.management.endpoints", "the endpoints of a workspace: from both sides"),
    "Options": ("_transport.options local.options", "what a user may choose: of a call, of a local workspace"),
    "Run": ("_sync_client local.apps.runs", "a run of an agent: as a caller and as its app has it"),
    "Secrets": ("_management.secrets dbutils", "the secrets of a workspace, under dbllm's and under dbutils' names"),
    "_Events": ("local.gateway.anthropic local.gateway.cohere", "a provider's stream as chat chunks"),
    "is_loopback": ("_urls local.http.client", "the same question; an extra uses no private module"),
    "main": ("__main__ cli.main", "the command `dbllm`: the first looks for its packages and starts the second"),
    "run": ("bulk.entry cli.demo", "a whole job from its beginning to its end"),
    "response_format": ("_protocol.structured_output langchain.tools", "the field of a chat request of that name"),
    "_tool_choice": (
        "local.gateway.anthropic local.gateway.cohere local.invocation.agent",
        "the field of that name, in a wire format's words",
    ),
    "_usage": (
        "local.gateway.anthropic local.gateway.cohere local.invocation.agent",
        "tokens in a wire format's words",
    ),
    "respond": (
        "cli.models spark.functions",
        "a verb of the clients: run by the command, done for each row of a table",
    ),
    **dict.fromkeys(
        ("chat", "complete", "embed", "predict"),
        (
            "cli.demo cli.models spark.functions",
            "a verb of the clients: shown by the demo, run by the command of its name, done for each row of a table",
        ),
    ),
}

# Names that were private metaphors or bare participles, by the packages in which they were; all have the field's word.
METAPHORS = {
    "_backends": (
        "Leaf AsyncLeaf BlockingLeaf drive Home _Process _Loop _homes _parents soon gather Plain now made as_a"
    ),
    "_http _urls": (
        "Gate Wire DirectWire HttpxWire Way Outgoing cut_at Fields unreached broke told bare parsed "
        "plain_headers wires watched _Cut _Cutting _Discreet _SEEN_AT _genuine Chunks Sized _alarm _rings "
        "_ends silent route _tls _trusting DIRECT"
    ),
    "_protocol": (
        "Traced Meta _Said Head M content_of _grown first_flaw kind_of checked_task guesses all_refused "
        "which_verb which_exist flat_request envelope wire_params checked_stop Place"
    ),
    "_inference": (
        "Signature _promised _sound text_piece chat_piece response_piece joined Reading _came _at_hand "
        "_advance Plain kind_of"
    ),
    "_transport": "_promised _sound _signed _whole _begun _good _go_on again wait_before Class",
    "_auth": (
        "Told _Asked Lease Renewed fixed refused says_expired REST Hidden _Unseen hide kept scrubbed Place "
        "_Search _asked _foreign _last_resort halves saved serving allowed asked lease sdk_there truth told"
    ),
    "_client _sync_client _management": (
        "Workspace _owns Plain now made Control _ask _learn _explain forget _settled _look story scrubbed"
    ),
    "cli": "told complain moment",
    "local": "Outside Passes Answers Ask Tally Telling Offer Chooser Guard Gate Models",
}


def definitions() -> dict[str, set[str]]:
    """Each class and function at the top of a module, with the modules that define it; Python's own hooks apart."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[:2] != "__":
                found[node.name].add(module)
    return found


def top_names(tree: ast.Module) -> Iterator[str]:
    """What a module defines: classes, functions and variables."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def test_a_name_is_defined_once_or_means_the_same_wherever_it_is() -> None:
    listed = {name: set(modules.split()) for name, (modules, _) in TWINS.items()}
    wrong = {
        name: sorted(modules - listed.get(name, set()) if name in listed else modules)
        for name, modules in definitions().items()
        if len(modules) > 1 and not modules <= listed.get(name, set())
    }
    assert wrong == {}, "rename them, or say in TWINS why they are one concept"


def test_each_allowed_twin_has_a_reason_and_is_still_one() -> None:
    defined = definitions()
    for name, (modules, reason) in TWINS.items():
        assert len(defined[name] & set(modules.split())) > 1, f"{name} is a twin no more: take it out"
        assert len(reason.split()) > 3, name


def test_no_private_metaphor_is_left_where_the_field_has_a_word() -> None:
    left = []
    for packages, names in METAPHORS.items():
        for module, tree in TREES.items():
            if module.split(".")[0] in packages.split():
                left += [f"{module}: {name}" for name in top_names(tree) if name in names.split()]
    left += [
        f"{module}: {name}"
        for module, tree in TREES.items()
        for name in top_names(tree)
        if module.startswith("local") and name.startswith(("MOST_", "_MOST_"))
    ]
    assert left == []
