"""One HTTP request over one connection."""
