"""Fixtures for the tests of plugins, loaded by pytest itself wherever localllm is installed. None is automatic."""

from __future__ import annotations
