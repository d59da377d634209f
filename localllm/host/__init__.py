"""The server's side of loaded models: worker processes, the client that speaks to them, and their life cycle."""
