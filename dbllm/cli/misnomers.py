"""Commands and options of other command lines, and what to write instead. Pure; read when somebody has typed one."""

from __future__ import annotations

COMMANDS = {  # by their group, "dbllm" for the first one; of a group's own it is the command alone
    "dbllm": {
        "ask talk message query invoke": '`dbllm chat ENDPOINT "…"`, or `dbllm complete` for a custom model',
        "generate completion infer text": '`dbllm complete ENDPOINT "…"`',
        "score": "`dbllm predict ENDPOINT BODY`",
        "responses agent agents apps": '`dbllm respond AGENT "…"`',
        "batch map": "`dbllm bulk`",
        "login auth configure config logout whoami profiles": "`databricks auth login`, or DATABRICKS_HOST and "
        "DATABRICKS_TOKEN; `dbllm doctor` says what is found",
        "list ls models show get serving": "`dbllm endpoints list`",
        "create delete rm update deploy": "`dbllm endpoints`, which makes, changes and deletes them",
        "run start server local workspace": "`dbllm up`, which runs a local workspace",
        "stop down kill": "Ctrl-C in the terminal of `dbllm up`",
        "ps status info": "`dbllm env`, which finds the local workspace that runs, or `dbllm doctor`",
        "pull download install": "`dbllm up`, which fetches its model by itself",
        "test check ping debug": "`dbllm doctor`",
        "version": "`dbllm --version`",
        "help": "`dbllm --help`",
        "completions": "`dbllm complete`, or `dbllm --install-completion` for the shell's",
        "secret scopes": "`dbllm secrets`",
    },
    "endpoints": {
        "ls all": "list",
        "show describe info status read": "get",
        "rm remove del drop": "delete",
        "new make add deploy put": "create",
        "edit set change patch update-config": "update",
        "query invoke call chat predict": "`dbllm chat`, `dbllm complete`, `dbllm embed` or `dbllm predict`",
    },
    "secrets": {
        "ls list all": "list-secrets SCOPE",
        "scopes": "list-scopes",
        "put set add create write new update": "put-secret SCOPE KEY",
        "get show read": "get-secret SCOPE KEY",
        "rm remove del delete drop": "delete-secret SCOPE KEY",
        "acls permissions": "list-acls SCOPE",
    },
    "services": {
        "ls all": "list",
        "show describe info": "get",
        "rm remove del drop": "delete",
        "new make add": "create",
        "edit set change": "update",
        "permissions grant": "grants",
    },
}
OPTIONS = {
    "--token --api-key --access-token --api-token --pat --password --key": "Set DATABRICKS_TOKEN, or name a --profile: "
    "others can read what stands on a command line",
    "--client-secret --secret": "Set DATABRICKS_CLIENT_SECRET, or name a --profile: others can read what stands on a "
    "command line",
    "--client-id": "Set DATABRICKS_CLIENT_ID, or name a --profile",
    "--base-url --api-base --url --workspace --server": "The workspace is --host",
}
MODEL_OPTIONS = {  # of a command that calls one endpoint
    "--model --endpoint --endpoint-name --deployment -m": "The endpoint's name is the first argument",
    "--prompt --message --input --text --question -p": "The text is an argument itself, or piped in",
    "--max-retries --retries --attempts": "A command tries up to four times; a program says how often, by Retry",
    "--debug --log-level": "--verbose shows each call; DBLLM_LOG=debug shows more",
    "--output --out --file -o": "The shell writes a file: > FILE",
}
BULK_OPTIONS = {
    "--model --endpoint-name --deployment -m": "It is named by --endpoint",
    "--message --template --text -p": 'The template is --prompt "Summarise: {column}"',
    "--input --file -i": "The input's name is the argument",
    "--out --output-file": "The output is named by --output",
    "--max-retries --retries": "--attempts says how often a row is tried",
    "--workers --parallel --threads --max-concurrency -j": "--concurrency says how many calls run at once",
    "--resume --continue": "None is needed: the same command goes on with its job",
}


def other_command(group: str, name: str) -> str:
    """What to use in place of a command that a group does not have; "" where nobody can tell."""
    own = _find(COMMANDS.get(group, {}), name)
    return f"`dbllm {group} {own}`" if own and "`" not in own and group != "dbllm" else own


def other_option(command: str, option: str, *, of_models: bool) -> str:
    """What to write in place of an option that a command does not have, as a sentence; "" where nobody can tell.

    Args:
        command: its name.
        option: with its dashes.
        of_models: whether the command calls a model, and so takes its parameters.
    """
    tables = ({**BULK_OPTIONS, **OPTIONS} if command == "bulk" else {**MODEL_OPTIONS, **OPTIONS}) if of_models else {}
    return _find(tables or OPTIONS, option)


def _find(table: dict[str, str], name: str) -> str:
    return next((instead for names, instead in table.items() if name in names.split()), "")
