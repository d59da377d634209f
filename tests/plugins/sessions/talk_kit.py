"""A server that remembers, a model that counts its prompts' tokens, and somebody who talks to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx

from localllm import (
    ChatPrompt,
    ContextLengthExceededError,
    Finished,
    GenerateEvent,
    GenerateRequest,
    ModelSpec,
    Started,
    TextRequest,
    TextResult,
    TokenizeRequest,
)
from localllm.testing.app import SCRIPTED_MODEL, InProcessServer, ScriptedModel, ScriptedModels, serve_in_process
from localllm_sessions.interceptor import SessionInterceptor
from localllm_sessions.ordering import TurnOrder
from tests.plugins.sessions.memory_plugin import FaultyStore

T = TypeVar("T")
PLUGINS = {
    "chat": "localllm_chat",
    "completions": "localllm_completions",
    "sessions": "localllm_sessions",
    "memory": "tests.plugins.sessions.memory_plugin",
}
CHAT = "/v1/chat/completions"
ANSWER = "Hello there"


class CountingModel(ScriptedModel):
    """Says how many tokens (bytes) its prompts really have, and refuses those that are too long.

    Waits at ``gate`` before it writes; ``reached`` says that somebody waits there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = None
        self.reached = asyncio.Event()
        self.counted: list[int] = []
        self.measured: list[int] = []  # all texts that were counted

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        n_tokens = len((await self.convert(TokenizeRequest(cast("ChatPrompt", request.prompt)))).tokens)
        if n_tokens >= self.info.context_length:
            raise ContextLengthExceededError(n_tokens, self.info.context_length)
        self.counted.append(n_tokens)
        async for event in super().generate(request):
            match event:
                case Started():
                    yield replace(event, prompt_tokens=n_tokens)
                    if self.gate is not None:
                        self.reached.set()
                        await self.gate.wait()
                case Finished():
                    yield replace(event, usage=replace(event.usage, prompt_tokens=n_tokens))
                case _:
                    yield event

    async def convert(self, request: TextRequest) -> TextResult:
        """Count without tools, which the fake template knows nothing of."""
        if isinstance(request, TokenizeRequest) and isinstance(request.prompt, ChatPrompt):
            request = replace(request, prompt=replace(request.prompt, tools=()))
        result = await super().convert(request)
        self.measured.append(len(getattr(result, "tokens", ())))
        return result

    @property
    def prompts(self) -> list[list[Mapping[str, Any]]]:
        """The messages of all prompts, as they reached the model."""
        return [list(cast("ChatPrompt", request.prompt).messages) for request in self.requests]

    @property
    def said(self) -> list[str]:
        """What the messages of the last prompt say."""
        return [message["content"] for message in self.prompts[-1]]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str = ANSWER, **rest: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **rest}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


@dataclass
class Talk:
    """One client of a server; ``key`` is its API key."""

    server: InProcessServer
    key: str = ""
    session_id: str | None = "new"

    @property
    def model(self) -> CountingModel:
        return cast("CountingModel", self.server.model)

    @property
    def store(self) -> FaultyStore:
        return cast("FaultyStore", self.server.plugins.session_store())

    @property
    def order(self) -> TurnOrder:
        """Which sessions are held or waited for."""
        (interceptor,) = self.server.plugins.interceptors
        return cast("SessionInterceptor", interceptor).order

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**({"authorization": f"Bearer {self.key}"} if self.key else {}), **options.pop("headers", {})}
        return await self.server.client.request(method, path, headers=headers, **options)

    async def ask(self, *messages: str | Mapping[str, Any], **fields: Any) -> httpx.Response:
        """Send messages to the session, which begins with the first of them; texts are the user's."""
        wording = [user(one) if isinstance(one, str) else one for one in messages]
        body = {"messages": wording, **({"session_id": self.session_id} if self.session_id else {}), **fields}
        response = await self.request("POST", CHAT, json=body)
        if response.status_code == 200 and self.session_id:
            self.session_id = told(response)["session_id"]
        return response

    async def say(self, *messages: str | Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """Do the same, and return the answer, or the stream's first chunk. Raises for anything but 200."""
        response = await self.ask(*messages, **fields)
        assert response.status_code == 200, response.text
        return told(response)

    async def kept(self) -> list[dict[str, Any]]:
        """Return the session's messages as the server tells them, without where they stand."""
        path, found = f"/v1/sessions/{self.session_id}/messages", list[dict[str, Any]]()
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = (await self.request("GET", path, params={"limit": 100, **after})).json()
            found += page["data"]
            if not page["has_more"]:
                own = ("id", "object", "index", "turn", "created_at")
                return [{name: value for name, value in one.items() if name not in own} for one in found]

    async def texts(self) -> list[str]:
        return [one["content"] for one in await self.kept()]

    async def sessions(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", (await self.request("GET", "/v1/sessions")).json()["data"])


def told(response: httpx.Response) -> dict[str, Any]:
    """Return a response's object, or the first chunk of a stream."""
    if response.headers["content-type"].startswith("text/event-stream"):
        return cast("dict[str, Any]", events_of(response)[0])
    return cast("dict[str, Any]", response.json())


def events_of(response: httpx.Response) -> list[Any]:
    data = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    return [json.loads(one) for one in data if one != "[DONE]"]


@asynccontextmanager
async def talking(
    directory: Path,
    *,
    keys: Sequence[str] = (),
    specs: Sequence[ModelSpec] = (SCRIPTED_MODEL,),
    context_length: int = 2048,
    store: str = "memory",
    plugins: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Talk]:
    """Run a server with sessions in memory; ``settings`` are keys of ``[plugin.sessions]``."""
    models = ScriptedModels(specs)
    models.model = model = CountingModel()
    model.info = replace(model.info, context_length=context_length)
    config = {
        "state_directory": str(directory / "state"),
        "server": {"session_store": store, "api_keys": list(keys)},
        "plugin": {"sessions": settings},
    }
    async with serve_in_process(plugins or PLUGINS, directory, config=config, models=models) as server:
        yield Talk(server, keys[0] if keys else "")


def run(scenario: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(scenario)
