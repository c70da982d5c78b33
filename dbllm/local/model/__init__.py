"""The language model and the text embeddings of a local workspace."""
