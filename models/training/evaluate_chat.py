"""Measures the demo chat model through llama.cpp at temperature 0: `python -m models.training.evaluate_chat`."""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np

from .chat_markup import MESSAGE_END, PLAIN_SETTING, Message, Setting, Tool, ToolCall, prompt_text
from .dialogues import Dialogue, chat
from .heldout import KINDS, SETTING_KINDS, heldout_dialogues, long_recall_dialogues, setting_dialogues
from .unknown import code_snippet, noise

_MODELS = Path(__file__).parent.parent
BUNDLED = _MODELS / "chat" / "localllm-demo.gguf"
TOKENIZER = Path(__file__).parent / "checkpoints" / "chat" / "tokenizer.json"

# First used on the finished weights; smaller ones steered the training (which kinds to drill, when to stop).
_HELDOUT_SEEDS = (41, 42, 43, 44, 45)
_CONTEXT = 2048
# Characters before the question, for prompts of about 500, 1,000, 1,500 and 1,850 tokens.
_LONG_CHARACTERS = (1080, 2180, 3280, 4000)
# Questions of our own, with names and words that a reader would try.
EXAMPLES: tuple[tuple[str, ...], ...] = (
    ("Hello",),
    ("What is the capital of France?",),
    ("what's the capital of japan",),
    ("What is 7 + 5?",),
    ("My name is Alice.", "What is my name?"),
    ("My name is Zorbani.", "What is the capital of Italy?", "What is my name?"),
    ("My favorite color is teal.", "I live in Bremen.", "What is my favorite color?", "Where do I live?"),
    ("My name is Christopher and I live in Springfield. What is my name?",),
    ("What is my name?",),
    ("Repeat after me: the quick brown fox jumps over the lazy dog",),
    ("Say hello world",),
    ("Count from 1 to 20.",),
    ("Write a list of five animals.",),
    ("Tell me a little story.",),
    ("Tell me a story about a dragon.",),
    ("What is the capital of Atlantis?",),
    ("What is the airspeed velocity of an unladen swallow?",),
    ("print('hello')",),
    ("¿Qué tal? 你好 🙂",),
    ("Write a haiku about autumn.",),
    ("Thank you!",),
)
STYLED_EXAMPLES = (
    ("Answer in one word.", "What is the capital of France?"),
    ("You are a pirate.", "What is the capital of France?"),
    ("You are a helpful assistant.", "What is the capital of France?"),
    ("You are Bob, a senior engineer who writes short and precise code reviews in Markdown.", "What is 12 + 9?"),
)
_WEATHER = Tool("get_weather", (("city", "string"),))
_ADD = Tool("add", (("a", "integer"), ("b", "integer")))
_ASKED = Message("user", "What is the weather in Paris?")
_CALLED = Message("assistant", "", (ToolCall("get_weather", (("city", "Paris"),)),))
# Tools, thinking, messages.
SETTING_EXAMPLES: tuple[tuple[object, ...], ...] = (
    ((_WEATHER,), None, _ASKED),
    ((_WEATHER,), None, _ASKED, _CALLED, Message("tool", "18 degrees and sunny")),
    ((_WEATHER,), None, Message("user", "What's the weather like in Boston today?")),
    ((_WEATHER, _ADD), None, Message("user", "What is the weather in Paris and Rome?")),
    ((_WEATHER, _ADD), None, Message("user", "What is 31 + 45?")),
    ((_WEATHER,), None, Message("user", "What is the capital of France?")),
    ((_WEATHER,), None, Message("user", "Hello")),
    ((), True, Message("user", "What is the capital of France?")),
    ((), True, Message("user", "What is 3 + 4?")),
    ((), True, Message("user", "Hello")),
    ((_WEATHER,), True, _ASKED),
    ((), False, Message("user", "What is the capital of France?")),
)


@dataclass(frozen=True)
class Reply:
    """A greedy answer, its prompt's length, and the least distance in logits between first and second choice."""

    text: str
    prompt_tokens: int
    margin: float


class Demo:
    """The model under llama.cpp, one sequence, greedy."""

    def __init__(self, path: Path) -> None:
        self.llama = llama_cpp.Llama(str(path), n_ctx=_CONTEXT, n_threads=1, n_threads_batch=1, verbose=False)
        self._end = set(self._tokens(MESSAGE_END)) | {self.llama.token_bos()}

    def _tokens(self, text: str, special: bool = True) -> list[int]:
        return self.llama.tokenize(text.encode(), add_bos=False, special=special)

    def tokens_of_text(self, text: str) -> list[int]:
        """The tokens of a text in which control tokens are plain text."""
        return self._tokens(text, special=False)

    def _logits(self) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self.llama.n_vocab(),))

    def complete(self, prompt: str, limit: int = 600) -> Reply:
        """What follows the prompt, special tokens in it included."""
        tokens = self._tokens(prompt)
        self.llama.reset()
        self.llama.eval(tokens)
        written: list[int] = []
        margin = float("inf")
        while len(written) < min(limit, _CONTEXT - len(tokens) - 1):
            logits = self._logits()
            second, first = np.partition(logits, -2)[-2:]
            margin = min(margin, float(first - second))
            token = int(logits.argmax())
            if token in self._end:
                break
            written.append(token)
            self.llama.eval([token])
        return Reply(self.llama.detokenize(written).decode(errors="replace"), len(tokens), margin)

    def has_room_for(self, messages: tuple[Message, ...], setting: Setting = PLAIN_SETTING) -> bool:
        """Whether prompt and a short answer fit the context."""
        return len(self._tokens(prompt_text(messages, setting))) <= _CONTEXT - 60

    def answer(self, messages: tuple[Message, ...], setting: Setting = PLAIN_SETTING) -> Reply:
        """The assistant's next message."""
        return self.complete(prompt_text(messages, setting))


def measure(demo: Demo, dialogues: list[Dialogue], show: int) -> tuple[dict[str, float], list[float], float]:
    """Share of right answers by kind, the margins of right answers, and the mean prompt length in tokens."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    margins: list[float] = []
    lengths = []
    for dialogue in dialogues:
        if not demo.has_room_for(dialogue.messages, dialogue.setting):
            continue
        reply = demo.answer(dialogue.messages, dialogue.setting)
        lengths.append(reply.prompt_tokens)
        asked[dialogue.kind] += 1
        if dialogue.accepts(reply.text):
            right[dialogue.kind] += 1
            margins.append(reply.margin)
        elif show > 0:
            show -= 1
            shown = " / ".join(m.content[-150:] for m in dialogue.messages[-3:])
            print(
                f"wrong ({dialogue.kind}, {reply.prompt_tokens}): {shown!r}\n"
                f"   {reply.text[:160]!r} for {dialogue.answer[:160]!r}",
                file=sys.stderr,
            )
    return {kind: right[kind] / asked[kind] for kind in asked}, margins, float(np.mean(lengths))


def tokenizer_differences(demo: Demo, count: int) -> int:
    """How many of so many texts llama.cpp cuts otherwise than the tokenizer of the training."""
    from tokenizers import Tokenizer

    trained = Tokenizer.from_file(str(TOKENIZER))
    rng = random.Random("tokenizer check")
    texts: list[str] = []
    while len(texts) < count:
        texts += [message.content for message in chat(rng, 2)] + [noise(rng), noise(rng), code_snippet(rng)]
    return sum(trained.encode(text, add_special_tokens=False).ids != demo.tokens_of_text(text) for text in texts)


def show_examples(demo: Demo) -> None:
    """Prints what the model says to a reader's questions."""
    dialogues = [((), asks) for asks in EXAMPLES] + [
        ((Message("system", system),), (ask,)) for system, ask in STYLED_EXAMPLES
    ]
    for opening, asks in dialogues:
        messages: tuple[Message, ...] = opening
        for ask in asks:
            messages += (Message("user", ask),)
            reply = demo.answer(messages)
            messages += (Message("assistant", reply.text),)
            print(f"  > {ask}\n    {reply.text!r} (margin {reply.margin:.1f})")
        print("  --", *(message.content for message in opening))
    for tools, thinking, *said in SETTING_EXAMPLES:
        setting = Setting(tools, thinking)
        prompt = prompt_text(tuple(said), setting)
        print(f"  {prompt}\n    {demo.complete(prompt).text!r}\n  --")
    for prompt in (
        "The capital of Spain is",
        "1, 2, 3,",
        "Once upon a time",
        "<|fim_prefix|>1, 2, 3,<|fim_suffix|> 8, 9, 10<|fim_middle|>",
    ):
        print(f"  raw {prompt!r}: {demo.complete(prompt, 80).text!r}")


def main() -> None:
    """Prints the measurement as JSON, wrong answers to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--count", type=int, default=100, help="dialogues of each kind")
    parser.add_argument("--seeds", type=int, nargs="+", default=_HELDOUT_SEEDS)
    parser.add_argument("--long", type=int, default=100, help="dialogues for each length of long recall")
    parser.add_argument("--show", type=int, default=20, help="wrong answers to show")
    parser.add_argument("--output", type=Path, help="JSON file for export_chat's --accuracy")
    parser.add_argument("--examples", action="store_true", help="show example dialogues")
    arguments = parser.parse_args()
    demo, seeds = Demo(arguments.model), arguments.seeds
    dialogues = [
        dialogue
        for seed in seeds
        for dialogue in (
            *heldout_dialogues(arguments.count // len(seeds) * len(KINDS), seed),
            *setting_dialogues(arguments.count // len(seeds) * len(SETTING_KINDS), seed),
        )
    ]
    accuracy, margins, _ = measure(demo, dialogues, arguments.show)
    result: dict[str, object] = {"accuracy": accuracy}
    result["margins"] = {str(share): round(float(np.quantile(margins, share)), 2) for share in (0.0, 0.01, 0.05, 0.5)}
    result["long_recall"] = long_recall = {}
    for characters in _LONG_CHARACTERS if arguments.long else ():
        shares, _, tokens = measure(
            demo, long_recall_dialogues(arguments.long, seeds[0], characters), arguments.show // 4
        )
        long_recall[str(round(tokens))] = shares["recall"]
    if TOKENIZER.exists():
        result["tokenizer_differences"] = tokenizer_differences(demo, 6000)
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.examples:
        show_examples(demo)


if __name__ == "__main__":
    main()
