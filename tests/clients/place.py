"""Where the workspace of these tests is, and what opens it."""

from __future__ import annotations

from dataclasses import dataclass

PRINCIPAL, SECRET = "pipeline", "secret-of-the-pipeline"
UPSTREAM_KEY = "sk-of-the-upstream"


@dataclass(frozen=True)
class Up:
    """A workspace in a process of its own."""

    host: str
    token: str
    cluster_id: str

    @property
    def base_url(self) -> str:
        """What OpenAI's clients call by that name."""
        return f"{self.host}/serving-endpoints"

    @property
    def env(self) -> dict[str, str]:
        return {"DATABRICKS_HOST": self.host, "DATABRICKS_TOKEN": self.token, "DATABRICKS_CLUSTER_ID": self.cluster_id}
