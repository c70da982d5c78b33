"""What is not called of a client, and why: everything else of it is."""

from __future__ import annotations

LEFT_OUT = {
    "databricks-sdk `get_langchain_chat_open_ai_client`": "it needs langchain-openai, and is deprecated",
    "databricks-sdk `http_request`": "calls a connection of Unity Catalog; a local workspace has none, and answers 404",
    "langchain-community `Databricks` on a driver app": "it always says https, and nothing on loopback does",
    "langchain-community `Databricks` on a chat endpoint": "it sends `prompt`, which chat endpoints refuse (400)",
    **{
        f"mlflow deployments `{name}`": "MLflow has not made it for Databricks; it raises at once"
        for name in (
            "create_deployment",
            "delete_deployment",
            "explain",
            "get_deployment",
            "list_deployments",
            "update_deployment",
        )
    },
}
