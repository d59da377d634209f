"""``python -m localllm`` is the same as the ``localllm`` command."""

from __future__ import annotations

from localllm.cli import main

if __name__ == "__main__":
    main()
