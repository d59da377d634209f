"""The pure engine room: which tokens are evaluated when, and which text may leave. No clock, thread or I/O."""
