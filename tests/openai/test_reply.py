"""Ids and fingerprints of answers, and their JSON in pieces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest

from localllm.contract.model import ModelSpec
from localllm.openai import body_pieces, new_reply
from localllm.openai.reply import system_fingerprint

SPEC = ModelSpec("demo", "llama_cpp", path="/models/demo.gguf", settings={"parallel": 4}, created=1)


def test_every_answer_has_its_own_id() -> None:
    replies = [new_reply("chatcmpl", SPEC, "1.0") for _ in range(100)]
    assert len({reply.id for reply in replies}) == 100
    assert all(reply.id.startswith("chatcmpl-") for reply in replies)
    assert {reply.model for reply in replies} == {"demo"}


def test_fingerprint_names_version_model_and_settings() -> None:
    same = system_fingerprint(SPEC, "1.0")
    assert same == system_fingerprint(replace(SPEC, settings={"parallel": 4}), "1.0")
    others = [
        system_fingerprint(SPEC, "1.1"),
        system_fingerprint(replace(SPEC, path="/models/other.gguf"), "1.0"),
        system_fingerprint(replace(SPEC, created=2), "1.0"),
        system_fingerprint(replace(SPEC, settings={"parallel": 8}), "1.0"),
        system_fingerprint(replace(SPEC, settings={"draft": PurePosixPath("x")}), "1.0"),
    ]
    assert len({same, *others}) == 6


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "x", "choices": [], "usage": {"a": [1, 2]}, "prompt_logprobs": [None, {"1": {"logprob": -1.5}}]},
        {"choices": [{"index": 0, "text": 'é"\n'}, {"index": 1}], "warnings": ["One.", "Two."], "usage": None},
    ],
)
def test_pieces_are_the_json_of_the_body(body: dict[str, Any]) -> None:
    pieces = list(body_pieces(body))
    assert json.loads(b"".join(pieces)) == body
    assert list(json.loads(b"".join(pieces))) == list(body)
    assert all(sum(f'"index":{index}'.encode() in piece for index in range(2)) <= 1 for piece in pieces)
