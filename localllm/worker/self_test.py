"""The first decode, before the worker calls itself ready: a build with broken kernels dies here, not under a user."""

from __future__ import annotations

from localllm.contract.backend import LoadedModel
from localllm.contract.decoder import Clear, Decoder, Plan, Sampled, SequenceKey, Slice
from localllm.contract.errors import ModelFileError, ModelLoadError
from localllm.contract.generation import SamplingParams

PROMPT_TOKENS = 48
"""Enough rows for matrix-matrix kernels (AMX tiles take 32 at a time), which single tokens never reach."""

_TEXT = "The quick brown fox jumps over the lazy dog. "
_REQUEST_ID = "self-test"
_SEQUENCE = 0


def run_self_test(model: LoadedModel, model_id: str) -> None:
    """Evaluate one short prompt and one further token, then forget both (step thread).

    Raises ``ModelLoadError`` when no token comes back, and ``ModelFileError`` when none could be drawn because the
    model computes no numbers; a miscompiled build ends the process by a signal instead.
    """
    decoder, key = model.decoder, SequenceKey(_REQUEST_ID, 0)
    prompt = _prompt(model)
    decoder.open(_REQUEST_ID, SamplingParams(temperature=0.0, seed=0, ignore_eos=True), prompt)
    try:
        first = _step(decoder, Plan(slices=(Slice(_SEQUENCE, 0, prompt, (key,)),)), key)
        if first.is_end:  # although the end is banned: there was nothing else to draw
            message = (
                f"What model {model_id!r} computes is not a number, so that its self-test found no token to draw. Its "
                "file is corrupt; download it again."
            )
            raise ModelFileError(message)
        _step(decoder, Plan(slices=(Slice(_SEQUENCE, len(prompt), (first.token,), (key,)),)), key)
    finally:
        decoder.close(_REQUEST_ID)
    decoder.submit(Plan(ops=(Clear(_SEQUENCE),)))
    decoder.collect()


def _prompt(model: LoadedModel) -> tuple[int, ...]:
    capabilities = model.decoder.capabilities
    length = max(1, min(PROMPT_TOKENS, capabilities.n_batch, capabilities.context_length - 2))
    tokens = model.tokenizer.encode(_TEXT, add_special=True, parse_special=False) or [0]
    return tuple((tokens * length)[:length])


def _step(decoder: Decoder, plan: Plan, key: SequenceKey) -> Sampled:
    decoder.submit(plan)
    drawn = decoder.collect().get(key)
    if not drawn:
        message = "The self-test drew no token: the engine returned nothing for the sequence it was asked for."
        raise ModelLoadError(message)
    return drawn[0]
