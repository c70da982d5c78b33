"""The command `dbllm`. Needs the extra: pip install 'dbllm[cli]' (or 'dbllm[local]')."""
