"""``shape = "simple"``: one text in, one message out, and what it has not is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localllm.contract.generation import Chunk
from tests.plugins.responses.kit import Server, run
from tests.plugins.responses.test_responses import error_of


def test_the_simple_shape(tmp_path: Path) -> None:
    async def scenario(server: Server) -> None:
        server.model.answers.append([Chunk(0, "Hm.", 1, region="reasoning"), Chunk(0, "Arrr", 1)])
        body = {"model": "scripted", "instructions": "You are a pirate.", "input": "What is the weather like today?"}
        answer = await server.post("/v1/responses", body)
        assert answer.json() == {"model": "scripted", "output": {"role": "assistant", "content": "Arrr"}}
        assert server.shown() == [("system", "You are a pirate."), ("user", "What is the weather like today?")]
        assert server.model.requests[0].sampling.temperature == 0.7
        assert (await server.post("/responses", {"input": "Hi", "temperature": 0})).status_code == 200
        assert server.model.requests[1].sampling.temperature == 0
        assert error_of(await server.post("/v1/responses", {"instructions": "x"}), 400)["param"] == "input"
        assert (await server.client.get("/v1/responses/resp_1")).status_code == 404

    run(tmp_path, scenario, shape="simple", keeps=False)


@pytest.mark.parametrize(
    ("name", "value", "neutral"),
    [
        ("stream", True, False),
        ("previous_response_id", "resp_1", None),
        ("conversation", "conv_1", None),
        ("background", True, False),
        ("tools", [{"type": "function", "name": "f"}], []),
        ("text", {"format": {"type": "json_object"}}, {"format": {"type": "text"}}),
    ],
)
def test_the_simple_shape_refuses_what_it_has_not(tmp_path: Path, name: str, value: Any, neutral: Any) -> None:
    async def scenario(server: Server) -> None:
        error = error_of(await server.post("/v1/responses", {"input": "Hi", name: value}), 400)
        assert (error["code"], error["param"]) == ("unsupported_feature", name)
        assert "plugin.responses" in error["message"]
        assert (await server.post("/v1/responses", {"input": "Hi", name: neutral})).status_code == 200

    run(tmp_path, scenario, shape="simple", keeps=False)
