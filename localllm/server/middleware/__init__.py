"""Pure ASGI middleware, one class in each module; ``localllm.server.app`` says in which order they run."""
