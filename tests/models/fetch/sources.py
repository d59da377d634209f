"""Sources that the fetching process of a test imports by their dotted names."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from localllm.contract.fetch import RemoteFile, Resolution


class OneFile:
    """``ORIGIN/name.gguf``: that file."""

    def resolve(self, reference: str) -> Resolution:
        return Resolution((RemoteFile(reference.rpartition("/")[2], url=reference),), f"test:{reference}")


class Misbehaving:
    """Does what the reference says."""

    def resolve(self, reference: str) -> Resolution:
        if reference == "die":
            os.write(2, b"something broke\nMisbehavingError: out of luck\n")
            os._exit(3)
        if reference == "raise":
            raise ZeroDivisionError("by accident")
        if reference == "print":
            print("not a line of JSON")  # noqa: T201
            sys.stdout.flush()
            os.write(1, b"neither is this\n")
        if reference == "hang":
            time.sleep(600)
        return Resolution((), "test:nothing")


def one_file(settings: Mapping[str, Any]) -> OneFile:
    return OneFile()


def misbehaving(settings: Mapping[str, Any]) -> Misbehaving:
    return Misbehaving()
