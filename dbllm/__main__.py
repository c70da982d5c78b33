"""The command `dbllm`, also as `python -m dbllm`."""

from __future__ import annotations

import sys

MISSING = "dbllm: {} is not installed. The command line needs an extra: pip install 'dbllm[local]' (or 'dbllm[cli]')."


def main() -> None:
    """Run the command line; where its packages are missing, say how to get them."""
    try:
        from dbllm.cli.main import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(MISSING.format(error.name))
    except KeyboardInterrupt:  # before the command line could take it
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
