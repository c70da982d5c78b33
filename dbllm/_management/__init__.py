"""`client.endpoints` and `client.secrets`: what a workspace has, and who may use it."""
