"""Fetching models: into a staging folder, verified, then into their place at once. Runs in a process of its own."""
