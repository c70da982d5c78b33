"""One call: its options, its attempts and retries, and its typed reply."""
