"""Reads the topics' grammar files and writes sentences from them, of which it knows what they say.

A file in `topics/` has lines of these forms:

    topic: NAME              what follows belongs to this topic
    words: A B C             words of the topic
    name = a/b | c           a table: {name} is one row; / parts words for the same row
    name : other = a : x | b : y    a table of two columns: {name} and {other} come from the same row
    ? TEXT                   a way to ask
    . TEXT                   a way to say or to answer

`?` and `.` lines up to an empty line are one frame: the ways to ask and to say one thing. In a line, `(a|b|)` is one of
these at will, and a slot in braces stays the same in all texts that say the same: a table's column, {n} and {n2}
(numbers), {day}, {word}, {word2} (made-up words), {Name} and {Name2} (made-up names).

A sentence in six (by the checksum of its text), a choice of rows in eight and a syllable in eight are held out: they
never occur in training.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

TOPICS_FOLDER = Path(__file__).parent / "topics"

_SLOT = re.compile(r"{(\w+)}")
_CHOICE = re.compile(r"\(([^()]*)\)")
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MADE_UP = {"word": str.lower, "word2": str.lower, "Name": str.capitalize, "Name2": str.capitalize}
_NUMBERS = ("n", "n2")
_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl fr gl gr kr pl pr sh sk sl st th tr".split()
_VOWELS = "a e i o u a e i o u ai ea ei ia io oo ou".split()
_CODAS = ["", "", ""] + "n r l s m t k nd rt st x ng".split()
_ROW_SHARE, _SENTENCE_SHARE, _SYLLABLE_SHARE = 8, 6, 8
_MIN_COMBINATIONS = 16
_ATTEMPTS = 400

Facts = dict[str, str]
"""What a text says: for each table or made-up word in it, the row's first entry or the word."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text, and the frames it stands for with what each of them says."""

    words: str
    topic: str
    parts: tuple[tuple[int, Facts], ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """The ways to ask and to say one thing; tables by the names of the slots that draw from them."""

    number: int
    topic: str
    asks: tuple[str, ...]
    says: tuple[str, ...]
    tables: dict[str, str]


@dataclass(slots=True)
class Grammar:
    """All topics. Rows of a table map its columns to the words for them."""

    topics: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, list[str]]]] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)


def _checksum_is_heldout(text: str, share: int) -> bool:
    return zlib.crc32(text.encode()) % share == 0


_CORES = [onset + vowel for onset in _ONSETS for vowel in dict.fromkeys(_VOWELS)]
_TRAIN_CORES = [core for core in _CORES if not _checksum_is_heldout(core, _SYLLABLE_SHARE)]
_HELDOUT_CORES = [core for core in _CORES if _checksum_is_heldout(core, _SYLLABLE_SHARE)]


def made_up_word(rng: random.Random, heldout: bool) -> str:
    """Two or three syllables; those of held-out words never occur in training."""
    cores = _HELDOUT_CORES if heldout else _TRAIN_CORES
    return "".join(rng.choice(cores) + rng.choice(_CODAS) for _ in range(rng.choice((2, 2, 3))))


def is_heldout_sentence(words: str) -> bool:
    """Whether the sentence may not occur in training; case and marks don't count."""
    return _checksum_is_heldout("".join(re.findall(r"\w+ ?", words.lower())), _SENTENCE_SHARE)


def _read_file(path: Path, grammar: Grammar) -> None:
    topic, asks, says = "", [], []
    columns: dict[str, str] = {}
    pending: list[tuple[list[str], list[str]]] = []

    def end_topic() -> None:
        for ask, say in pending:
            slots = set(_SLOT.findall(" ".join(ask + say)))
            tables = {slot: columns.get(slot, slot) for slot in slots}
            unknown = {s for s in slots if s not in columns and s not in {*_MADE_UP, *_NUMBERS, "day"}}
            if unknown:
                raise ValueError(f"{path.name}: topic {topic!r} has no table for {sorted(unknown)}; add one")
            grammar.frames.append(Frame(len(grammar.frames), topic, tuple(ask), tuple(say), tables))
        pending.clear()

    for line in [*path.read_text().splitlines(), ""]:
        mark, _, rest = line.partition(" ")
        if mark == "?":
            asks.append(rest)
        elif mark == ".":
            says.append(rest)
        elif says:
            pending.append((asks, says))
            asks, says = [], []
        if mark == "topic:":
            end_topic()
            topic, columns = rest, {}
        elif mark == "words:":
            grammar.topics[topic] = list(dict.fromkeys(rest.split()))
        elif " = " in line and mark not in ("?", ".", "#"):
            head, _, entries = line.partition(" = ")
            names = [name.strip() for name in head.split(" : ")]
            table = f"{topic}.{names[0]}"
            columns |= dict.fromkeys(names, table)
            grammar.rows[table] = [
                {name: cell.strip().split("/") for name, cell in zip(names, entry.split(" : "), strict=True)}
                for entry in entries.split(" | ")
            ]
    end_topic()


@cache
def grammar() -> Grammar:
    """The grammar of all files in `topics/`, read once."""
    result = Grammar()
    for path in sorted(TOPICS_FOLDER.glob("*.txt")):
        _read_file(path, result)
    return result


def _row_key(row: dict[str, list[str]]) -> str:
    return next(iter(row.values()))[0]


@cache
def _combinations(number: int) -> int:
    rows = grammar().rows
    count = 1
    for table in set(grammar().frames[number].tables.values()):
        count *= len(rows[table]) if table in rows else 100
    return count


def is_heldout_choice(frame: Frame, facts: Facts) -> bool:
    """Whether these rows together may not occur in training; a frame with fewer than 16 choices has none held out."""
    rows = grammar().rows
    chosen = " ".join(f"{table}={facts[table]}" for table in sorted(facts) if table in rows)
    if not chosen or _combinations(frame.number) < _MIN_COMBINATIONS:
        return False
    return _checksum_is_heldout(f"{(*frame.asks, *frame.says)[0]} {chosen}", _ROW_SHARE)


def _draw_fact(rng: random.Random, table: str, heldout: bool) -> str:
    if table in _NUMBERS:
        return str(rng.randint(2, 99))
    if table == "day":
        return rng.choice(_DAYS)
    if table in _MADE_UP:
        return _MADE_UP[table](made_up_word(rng, heldout))
    return _row_key(rng.choice(grammar().rows[table]))


def _draw_all(rng: random.Random, frame: Frame, heldout: bool, kept: Facts) -> Facts:
    tables = sorted(set(frame.tables.values()))
    return {table: kept[table] if table in kept else _draw_fact(rng, table, heldout) for table in tables}


@cache
def _holds_out(number: int) -> bool:
    """Whether some choice of the frame's rows is held out; a small table may have none."""
    frame = grammar().frames[number]
    rng = random.Random(number)
    return any(is_heldout_choice(frame, _draw_all(rng, frame, True, {})) for _ in range(_ATTEMPTS))


def draw_facts(rng: random.Random, frame: Frame, heldout: bool, given: Facts | None = None) -> Facts:
    """A row or word for each slot of the frame, those given where it has them and the choice may be used.

    Held-out choices come if and only if they are asked for, from frames that have some.
    """
    wanted = heldout and _holds_out(frame.number)
    for attempt in range(_ATTEMPTS):
        facts = _draw_all(rng, frame, heldout, given if given is not None and attempt < _ATTEMPTS // 10 else {})
        if is_heldout_choice(frame, facts) == wanted:
            return facts
    raise ValueError(f"{_ATTEMPTS} draws for {frame.says[0]!r} gave no choice that may be used; add rows to its tables")


def _fill(rng: random.Random, line: str, frame: Frame, facts: Facts) -> str:
    rows = grammar().rows

    def value(match: re.Match[str]) -> str:
        table = frame.tables[match[1]]
        if table not in rows:
            return facts[table]
        row = next(row for row in rows[table] if _row_key(row) == facts[table])
        return rng.choice(row[match[1]])

    while _CHOICE.search(line):
        line = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), line)
    words = re.sub(r" +([?.,!:])", r"\1", re.sub(r"\s+", " ", _SLOT.sub(value, line))).strip()
    words = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", words)
    return words[:1].upper() + words[1:]


def write(rng: random.Random, frame: Frame, facts: Facts, lines: tuple[str, ...], heldout: bool) -> Text | None:
    """A sentence by one of these lines of the frame, held out or not as told; None where none was found."""
    for _ in range(12):
        line = rng.choice(lines)
        words = _fill(rng, line, frame, facts)
        if is_heldout_sentence(words) == heldout:
            used = {frame.tables[slot] for slot in _SLOT.findall(line)}
            # A choice may have dropped a slot: numbers and made-up words count only where they stand in the text.
            used = {table for table in used if table in grammar().rows or facts[table] in words}
            return Text(words, frame.topic, ((frame.number, {table: facts[table] for table in used}),))
    return None


def agree(first: Text, second: Text) -> bool:
    """Whether the texts may say the same: some frame is in both, and no fact of it differs."""
    return any(
        number == other and all(theirs.get(table, row) == row for table, row in facts.items())
        for number, facts in first.parts
        for other, theirs in second.parts
    )


def siblings(frame: Frame) -> list[Frame]:
    """The topic's other frames, those that share a table with this one only, if there are any."""
    others = [other for other in grammar().frames if other.topic == frame.topic and other.number != frame.number]
    shared = {table for table in frame.tables.values() if table in grammar().rows}
    return [other for other in others if shared & set(other.tables.values())] or others
