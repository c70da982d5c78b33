"""Who calls a local workspace, and what they may do there."""
