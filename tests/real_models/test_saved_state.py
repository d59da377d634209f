"""The next turn of a conversation costs only what is new: when others had its place, and when the server restarts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.real_models.conftest import ROOT, RunningServer, running_server

pytestmark = pytest.mark.real_model

TIGHT = "parallel = 1\ncached_sequences = 1\n"
NAMES = ("Zorbani", "Anna", "Peter", "Maria")
SAID = ("I live in Lisbon.", "My dog is called Rex.", "What is the capital of France?", "My favourite colour is green.")
LAST = "What is my name?"


@dataclass(frozen=True)
class Turn:
    text: str
    prompt_tokens: int
    cached_tokens: int
    history_tokens: int  # after it


def ask(server: RunningServer, messages: list[dict[str, str]], **body: Any) -> Turn:
    """Ask greedily for up to 40 tokens."""
    answer = httpx.post(
        f"{server.base_url}/chat/completions",
        json={"messages": messages, "temperature": 0, "max_tokens": 40, **body},
        timeout=60,
    ).raise_for_status()
    usage = answer.json()["usage"]
    return Turn(
        answer.json()["choices"][0]["message"]["content"],
        usage["prompt_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
        usage["total_tokens"],
    )


def say(server: RunningServer, session_id: str, text: str) -> Turn:
    return ask(server, [{"role": "user", "content": text}], session_id=session_id)


def begin(server: RunningServer) -> str:
    answer = httpx.post(f"{server.url}/v1/sessions", json={}, timeout=60).raise_for_status()
    return str(answer.json()["id"])


def states(directory: Path) -> list[Path]:
    return sorted((directory / "state" / "conversations").glob("*.state"))


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_conversations_that_take_turns_keep_what_was_evaluated(tmp_path: Path, layout: str) -> None:
    with running_server(tmp_path, define=f'{TIGHT}kv_layout = "{layout}"\n') as server:
        sessions = {name: begin(server) for name in NAMES}
        histories = dict.fromkeys(NAMES, 0)
        for turn in range(1 + len(SAID)):
            for name, session_id in sessions.items():
                said = say(server, session_id, SAID[turn - 1] if turn else f"My name is {name}.")
                if histories[name] > 40:  # less is evaluated as fast as it is put back
                    assert said.cached_tokens >= 0.9 * histories[name]
                histories[name] = said.history_tokens
        for _ in range(3):  # these are nobody's conversations, and leave nothing
            ask(server, [{"role": "user", "content": "Something else altogether. " * 8}])
        for name, session_id in sessions.items():
            said = say(server, session_id, LAST)
            assert said.cached_tokens >= 0.9 * histories[name]
            assert name in said.text


@dataclass(frozen=True)
class Past:
    """A server that has stopped: its folder, the conversation, how long that was, and what it would have said next."""

    directory: Path
    session_id: str
    history_tokens: int
    expected: str


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    directory = tmp_path_factory.mktemp("past")
    messages: list[dict[str, str]] = []
    with running_server(directory, define=TIGHT) as server:
        session_id = begin(server)
        for text in (f"My name is {NAMES[0]}.", *SAID):
            turn = say(server, session_id, text)
            messages += [{"role": "user", "content": text}, {"role": "assistant", "content": turn.text}]
        told = ask(server, [*messages, {"role": "user", "content": LAST}], cache_prompt=False)
    assert NAMES[0] in told.text
    assert told.cached_tokens == 0
    [file] = states(directory)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    return Past(directory, session_id, turn.history_tokens, told.text)


def resume(past: Past, directory: Path, define: str = TIGHT, **server: Any) -> Turn:
    with running_server(directory, define=define, **server) as running:
        return say(running, past.session_id, LAST)


def copy_of(past: Past, directory: Path) -> Path:
    return Path(shutil.copytree(past.directory, directory / "server"))


def test_the_first_turn_after_a_restart_evaluates_only_what_is_new(past: Past, tmp_path: Path) -> None:
    directory = copy_of(past, tmp_path)
    turn = resume(past, directory)
    assert turn.cached_tokens >= 0.9 * past.history_tokens
    assert turn.text == past.expected
    assert len(states(directory)) == 1, "it went on, and is filed anew"
    again = resume(past, directory)
    assert again.cached_tokens >= 0.9 * turn.history_tokens
    assert again.text == past.expected


def flip(place: Callable[[int], int]) -> Callable[[Path], None]:
    def flip_in(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[place(len(data))] ^= 4
        file.write_bytes(data)

    return flip_in


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGES = {
    "magic": flip(lambda size: 3),
    "head": flip(lambda size: 120),
    "keys": flip(lambda size: size // 2),
    "end": flip(lambda size: size - 1),
    "truncated": truncate,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_evaluated_again_and_never_used(past: Past, tmp_path: Path, damage: str) -> None:
    directory = copy_of(past, tmp_path)
    [file] = states(directory)
    DAMAGES[damage](file)
    turn = resume(past, directory)
    assert turn.cached_tokens == 0
    assert turn.text == past.expected
    assert not file.exists()


def test_other_settings_evaluate_again(past: Past, tmp_path: Path) -> None:
    turn = resume(past, copy_of(past, tmp_path), TIGHT + 'cache_type_k = "f32"\ncache_type_v = "f32"\n')
    assert turn.cached_tokens == 0
    assert turn.text == past.expected


def test_another_file_under_the_same_name_evaluates_again(past: Past, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "chat").mkdir(parents=True)
    shutil.copy(ROOT / "models" / "chat" / "localllm-demo.gguf", models / "chat")  # of another time
    turn = resume(past, copy_of(past, tmp_path), models=models)
    assert turn.cached_tokens == 0
    assert turn.text == past.expected
