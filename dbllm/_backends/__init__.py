"""How the core waits: on an event loop, or blocking."""
