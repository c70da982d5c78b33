"""The names of spans, attributes and metrics: one table, by the conventions that it names."""

from __future__ import annotations

CONVENTIONS = "open-telemetry/semantic-conventions-genai at 024a4f9 (no release yet), on semantic-conventions 1.44.0"

PROVIDER = "databricks"  # the conventions list no such provider, and allow others

# What our verbs are called there. The last three have no name there; they are runs of agents on Databricks Apps.
OPERATIONS = {
    "chat": "chat",
    "complete": "text_completion",
    "respond": "invoke_agent",
    "embed": "embeddings",
    "predict": "predict",
    "start": "start_run",
    "events": "run_events",
    "result": "run_result",
}

# --- attributes

OPERATION = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
AGENT = "gen_ai.agent.name"
STREAM = "gen_ai.request.stream"
REQUEST = {  # parameters of a request, by their names on the wire
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "reasoning_effort": "gen_ai.request.reasoning.level",
}
STOP = "gen_ai.request.stop_sequences"
DIMENSIONS = "gen_ai.embeddings.dimension.count"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
USAGE = {  # our `Usage`'s names
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
INPUT = "gen_ai.input.messages"
OUTPUT = "gen_ai.output.messages"
ADDRESS = "server.address"
PORT = "server.port"
ERROR = "error.type"
METHOD = "http.request.method"
PATH = "url.path"
STATUS = "http.response.status_code"

# What the conventions have no name for.
OUTCOME = "dbllm.outcome"
ATTEMPTS = "dbllm.attempts"
REQUEST_ID = "dbllm.request_id"
SERVED_MODEL = "dbllm.served_model"
ANSWERED_BY = "dbllm.answered_by"
EVENTS = "dbllm.stream.events"

# --- events of a span

ATTEMPT = "dbllm.attempt"
TOKEN_REFRESH = "dbllm.token_refresh"  # noqa: S105

# --- metrics

DURATION = "gen_ai.client.inference.duration"
EMBEDDINGS_DURATION = "gen_ai.client.embeddings.duration"
REQUEST_DURATION = "dbllm.client.request.duration"
TIME_TO_FIRST_CHUNK = "gen_ai.client.inference.time_to_first_chunk"
TOKENS = {
    "prompt_tokens": "gen_ai.client.inference.usage.input_tokens",
    "completion_tokens": "gen_ai.client.inference.usage.output_tokens",
    "cached_tokens": "gen_ai.client.inference.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.client.inference.usage.reasoning.output_tokens",
}
EMBEDDINGS_TOKENS = "gen_ai.client.embeddings.operation.input_tokens"
RETRIES = "dbllm.client.retries"
CONNECTION_WAIT = "dbllm.client.connection.wait.duration"
LIMITS_WAIT = "dbllm.client.limits.wait.duration"
LIMITS_CHANGES = "dbllm.client.limits.changes"
LIMITS_CONCURRENCY = "dbllm.client.limits.concurrency"

SECONDS_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS_BUCKETS = tuple(4**power for power in range(14))

# --- keys of the context

# Set by instrumentations that stand on opentelemetry-util-genai (LangChain's, say) around a call that they have a span
# for: then ours would be its second. What we know of the call is written into the value.
INFERENCE_CONTEXT = "opentelemetry.genai.client.inference.context"
EMBEDDING_CONTEXT = "opentelemetry.genai.client.embedding.context"
# Set by OpenLLMetry's instrumentations (LangChain's, LlamaIndex's …) around such a call: no other is to count it.
SUPPRESSED_FOR_MODELS = "suppress_language_model_instrumentation"
CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
