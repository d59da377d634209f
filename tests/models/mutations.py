"""Breaks model files as transfers, disks and attackers do; a seed says how."""

from __future__ import annotations

import random

from tests.models.raw_gguf import parse


def mutate(content: bytes, seed: int, changes: int, *, small: bool = False) -> bytes:
    """Return ``content`` with some changes, most of them in its header, and sometimes cut or longer.

    ``small`` changes are of one byte each: more of them pass a reader that looks only at structure.
    """
    dice = random.Random(seed)
    parsed = parse(content)
    head = len(content) - len(parsed.data or b"")
    broken = bytearray(content)
    for _ in range(changes):
        at = dice.randrange(head if dice.random() < 0.8 else len(broken))
        match dice.randrange(2 if small else 5):
            case 0:
                broken[at] ^= 1 << dice.randrange(8)
            case 1:
                broken[at : at + 1] = bytes([dice.choice((0, 1, 0x7F, 0x80, 0xFF))])
            case 2:
                value = dice.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(content), dice.randrange(2**40)))
                broken[at : at + 8] = value.to_bytes(8, "little")
            case 3:
                other = dice.randrange(head)
                length = dice.randrange(1, 64)
                broken[at : at + length] = broken[other : other + length]
            case _:
                broken[at : at + 4] = dice.randbytes(4)
    if small:
        return bytes(broken)
    if dice.random() < 0.1:
        del broken[dice.randrange(len(broken)) :]
    elif dice.random() < 0.1:
        broken += dice.randbytes(dice.randrange(1, 4096))
    return bytes(broken)
