"""Who calls: where host and credentials are found, and the headers they become."""
