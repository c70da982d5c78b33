"""Driver apps, and the proxy in front of them."""
