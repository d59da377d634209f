"""Conversations that fall out of the KV cache come back to it, from memory and from files; others are just gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.contract.decoder import Capabilities, Clear, Copy, Plan, State, StateSaving
from localllm.contract.generation import Chunk, Finished, SamplingParams
from localllm.engine.keeping import Conversation
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm.testing.byte_text import ByteTokenizer
from localllm.testing.decoders import ContractViolation, FakeDecoder
from localllm.testing.fake_memory import FakeMemory

SAVING = StateSaving(ram_bytes=100_000, bytes_per_token=10)
TWO = Capabilities(context_length=400, n_cells=4000, n_seq_max=2, n_batch=64, parallel=1, saving=SAVING)
LAYOUTS = [TWO, replace(TWO, layout="streams"), replace(TWO, can_truncate=False), replace(TWO, can_copy=False)]
IDS = ["unified", "streams", "no-truncation", "no-copies"]
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


@dataclass
class MemoryFiles:
    """Files that are no files."""

    filed: list[tuple[Conversation, bytes]] = field(default_factory=list)
    room: int = 1000
    n_reads: int = 0

    def index(self) -> Sequence[tuple[str, Conversation]]:
        return [(str(place), conversation) for place, (conversation, _) in reversed(list(enumerate(self.filed)))]

    def read(self, name: str) -> State | None:
        self.n_reads += 1
        return self.filed[int(name)][1] or None

    def write(self, conversation: Conversation, state: State, is_late: Callable[[], bool]) -> bool:
        if len(self.filed) >= self.room:
            return False
        self.filed.append((replace(conversation, tokens=tuple(conversation.tokens)), bytes(state)))
        return True


class Talk:
    """Turns of conversations with one engine, each of which must be what an engine of its own says."""

    def __init__(self, capabilities: Capabilities, files: MemoryFiles | None = None, **faults: int) -> None:
        self.decoder = FakeDecoder(capabilities, **faults)
        self.loop = StepLoop(self.decoder, ByteTokenizer(), lambda: 0.0, files)
        self._n = 0

    def say(self, prompt: bytes, *, goes_on: bool = True, owner: str = "", group: str = "") -> tuple[bytes, int]:
        """Return the conversation after the answer, and how much of the prompt was cached."""
        self._n += 1
        request = PreparedRequest(
            str(self._n), tuple(prompt), GREEDY, owner, cache_prompt=True, queued_at=0.0, group=group, goes_on=goes_on
        )
        text, cached = self._run(self.loop, request)
        alone = StepLoop(FakeDecoder(replace(self.decoder.capabilities, saving=None)), ByteTokenizer(), lambda: 0.0)
        assert text == self._run(alone, request)[0]
        return prompt + text, cached

    @staticmethod
    def _run(loop: StepLoop, request: PreparedRequest) -> tuple[bytes, int]:
        loop.submit(request)
        text, cached = "", 0
        while loop.has_work:
            for _, event in loop.step().events:
                if isinstance(event, Chunk):
                    text += event.text
                elif isinstance(event, Finished):
                    cached = event.usage.cached_tokens
            loop.check()
        return text.encode(), cached


def names(n: int) -> list[bytes]:
    return [bytes([65 + index]) * 60 for index in range(n)]


@pytest.mark.parametrize("capabilities", LAYOUTS, ids=IDS)
def test_conversations_that_take_turns_on_two_sequences_are_never_evaluated_again(capabilities: Capabilities) -> None:
    talk = Talk(capabilities)
    conversations = names(6)
    for turn in range(4):
        for index, prompt in enumerate(conversations):
            history, cached = talk.say(prompt)
            assert cached == (len(prompt) - 4 if turn else 0)  # three are new, one was drawn and not evaluated
            conversations[index] = history + b"and"


@pytest.mark.parametrize("capabilities", LAYOUTS, ids=IDS)
def test_what_does_not_go_on_is_just_gone(capabilities: Capabilities) -> None:
    talk = Talk(capabilities)
    for prompt in names(4):
        talk.say(prompt, goes_on=False)
    assert talk.say(names(1)[0] + b"x") == (talk.say(names(1)[0] + b"x")[0], 0)
    assert talk.decoder.n_saves == 0


def test_an_engine_that_can_not_save_is_not_asked_to() -> None:
    talk = Talk(replace(TWO, saving=None))
    for prompt in names(4):
        talk.say(prompt)
    assert talk.decoder.n_saves == talk.decoder.n_restores == 0


def test_owners_and_groups_do_not_see_what_others_saved() -> None:
    talk = Talk(TWO)
    mine, _ = talk.say(names(1)[0], owner="mine")
    for prompt in names(4)[1:]:
        talk.say(prompt, owner="mine")
    assert talk.say(mine + b"x", owner="theirs")[1] == 0
    assert talk.say(mine + b"x", owner="mine", group="adapted")[1] == 0
    assert talk.decoder.n_restores == 0
    assert talk.say(mine + b"x", owner="mine")[1] == len(mine) - 1


def test_the_longest_ago_saved_gives_way_when_memory_is_full() -> None:
    talk = Talk(replace(TWO, saving=replace(SAVING, ram_bytes=2 * 10 * 67)))
    histories = [talk.say(prompt)[0] for prompt in names(6)]  # two are in the cache and two in memory
    cached = [talk.say(history + b"x")[1] for history in histories[2:]]
    assert cached[:2] == [67, 67]
    assert talk.say(histories[0] + b"x")[1] == 0


def test_a_state_that_is_larger_than_all_memory_is_not_saved() -> None:
    talk = Talk(replace(TWO, saving=replace(SAVING, ram_bytes=10 * 66)))
    for prompt in names(4):
        talk.say(prompt)
    assert talk.decoder.n_saves == 0


def test_another_conversation_that_takes_a_sequence_over_does_not_cost_the_first_one_its_tail() -> None:
    talk = Talk(replace(TWO, n_seq_max=1))
    system = b"system " * 10
    first, _ = talk.say(system + b"a" * 50)
    assert talk.say(system + b"b" * 50)[1] == len(system), "it goes on in the only sequence there is"
    assert talk.say(first + b"x")[1] == len(first) - 1


def test_the_same_conversation_that_goes_on_otherwise_is_not_saved_over_and_over() -> None:
    talk = Talk(replace(TWO, n_seq_max=1))
    prompt = b"a" * 60
    for index in range(5):  # the answer is written otherwise in the history: without its thoughts, say
        talk.say(prompt)
        prompt += b"<%d>" % index
    assert talk.decoder.n_saves == 0


@pytest.mark.parametrize("one_in", [1, 2, 3])
@pytest.mark.parametrize("capabilities", LAYOUTS, ids=IDS)
def test_states_that_can_not_be_had_cost_time_only(capabilities: Capabilities, one_in: int) -> None:
    talk = Talk(capabilities, fail_state_one_in=one_in)
    conversations = names(4)
    for _ in range(4):
        for index, prompt in enumerate(conversations):
            conversations[index] = talk.say(prompt)[0] + b"and"
    assert talk.decoder.n_saves > 3


@pytest.mark.parametrize("capabilities", LAYOUTS, ids=IDS)
def test_all_conversations_outlive_the_engine_in_files(capabilities: Capabilities) -> None:
    files = MemoryFiles()
    talk = Talk(capabilities, files)
    histories = [talk.say(prompt)[0] for prompt in names(5)]
    talk.say(b"not worth it " * 5, goes_on=False)
    talk.loop.leave(lambda: False)
    assert [bytes(filed.tokens)[:1] for filed, _ in files.filed] == [b"E", b"D", b"C", b"B", b"A"], "newest first"
    again = Talk(capabilities, files)
    for history in histories:
        assert again.say(history + b"x")[1] == len(history) - 1
    assert files.n_reads == 5


def test_what_was_running_is_filed_as_far_as_it_got() -> None:
    files = MemoryFiles()
    talk = Talk(TWO, files)
    sampling = SamplingParams(temperature=0.0, max_tokens=100)
    talk.loop.submit(PreparedRequest("r", tuple(b"a" * 60), sampling, "", True, 0.0, goes_on=True))
    for _ in range(5):
        talk.loop.step()
    talk.loop.leave(lambda: False)
    assert len(files.filed[0][0].tokens) == 64
    assert not talk.loop.has_work
    assert talk.decoder.open_requests == frozenset()


def test_filing_ends_when_it_is_late_or_there_is_no_room() -> None:
    late = iter([False, False, True])
    for files, is_late in ((MemoryFiles(), lambda: next(late)), (MemoryFiles(room=2), lambda: False)):
        talk = Talk(TWO, files)
        for prompt in names(4):
            talk.say(prompt)
        talk.loop.leave(is_late)
        assert len(files.filed) == 2


def test_a_file_that_is_gone_or_broken_is_not_asked_for_again() -> None:
    files = MemoryFiles()
    talk = Talk(TWO, files)
    history, _ = talk.say(names(1)[0])
    talk.loop.leave(lambda: False)
    files.filed[0] = (files.filed[0][0], b"")
    again = Talk(TWO, files)
    for prompt in (history + b"x", *names(4)[1:], history + b"y"):
        again.say(prompt, goes_on=False)
    assert files.n_reads == 1


def test_files_of_longer_contexts_and_of_next_to_nothing_are_left_alone() -> None:
    files = MemoryFiles([(Conversation("", "", tuple(b"x" * n), 0), b"") for n in (5, 400)])
    again = Talk(TWO, files)
    assert again.say(b"x" * 60)[1] == 0
    assert files.n_reads == 0


def test_a_fork_that_is_not_copied_yet_is_not_saved_and_its_source_is() -> None:
    """Cancelled between the step that drew for both and the next one, which would copy; evicted in that one."""
    capabilities = replace(TWO, n_seq_max=4, parallel=2, layout="streams")
    talk = Talk(capabilities)
    sampling = SamplingParams(n=2, seed=1, max_tokens=50)
    talk.loop.submit(PreparedRequest("two", tuple(b"a" * 60), sampling, "", True, 0.0, goes_on=True))
    talk.loop.step()
    talk.loop.cancel("two")
    for prompt in names(6)[1:]:
        talk.say(prompt)
    assert talk.say(b"a" * 60 + b"b")[1] == 60


def test_the_strict_memory_refuses_what_real_ones_get_wrong() -> None:
    memory = FakeMemory(replace(TWO, n_seq_max=3, layout="streams"))
    loop = Talk(replace(TWO, n_seq_max=3, layout="streams"))
    loop.say(b"abc")
    memory = loop.decoder.memory
    state = memory.save(0)
    memory.run(Plan((Copy(0, 1, 10),)))
    with pytest.raises(ContractViolation, match="may not be there yet"):
        memory.save(1)
    with pytest.raises(ContractViolation, match="not empty"):
        memory.restore(1, state, 10)
    memory.run(Plan((Clear(0), Clear(1))))
    for seq in (0, 1):
        with pytest.raises(ContractViolation, match="may still read or write it"):
            memory.restore(seq, state, 10)
    with pytest.raises(ContractViolation, match="not the state of 9"):
        memory.restore(2, state, 9)
    memory.restore(2, state, 10)
    assert memory.held(2) == 10
    with pytest.raises(ContractViolation, match="holds nothing"):
        memory.save(0)


turns = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), min_size=4, max_size=30)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(LAYOUTS), st.integers(1, 4), st.integers(0, 4000), turns)
def test_text_never_changes_whatever_is_saved_restored_and_filed(
    capabilities: Capabilities, n_seq_max: int, ram_bytes: int, told: list[tuple[int, bool, bool]]
) -> None:
    saving = StateSaving(ram_bytes, bytes_per_token=10, worthwhile_tokens=4)
    capabilities = replace(capabilities, n_seq_max=n_seq_max, saving=saving)
    files = MemoryFiles()
    talk = Talk(capabilities, files)
    conversations = [b"system prompt " + name[:9] for name in names(6)]
    for index, goes_on, restarts in told:
        history, _ = talk.say(conversations[index][-300:], goes_on=goes_on)  # at the end, the window slides
        conversations[index] = history + b"and"
        if restarts:
            talk.loop.leave(lambda: False)
            talk = Talk(capabilities, files)
