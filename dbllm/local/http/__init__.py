"""Serving HTTP: sockets, ASGI, the table of operations, and what stands in front of every route."""
