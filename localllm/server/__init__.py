"""HTTP: the Starlette app, its middleware, and the helpers that endpoint plugins share."""
