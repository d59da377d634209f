"""The format of ``localllm.toml``: what keys exist, what they mean, and how a file becomes checked dataclasses."""
