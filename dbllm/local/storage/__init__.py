"""What a local workspace remembers from start to start."""
