"""The page at a workspace's address: endpoints, a playground, the last requests, and faults."""
