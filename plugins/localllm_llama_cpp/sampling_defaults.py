"""What a request means that leaves a sampling parameter out."""

from __future__ import annotations

from dataclasses import dataclass

from localllm import SamplingParams

from .chain import ChainParams


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a request means that leaves a parameter out: the file's ``general.sampling.*``, or these."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05

    def fill(self, sampling: SamplingParams) -> ChainParams:
        """Return the chain's parameters for one request."""
        top_k = self.top_k if sampling.top_k is None else sampling.top_k
        return ChainParams(
            temperature=self.temperature if sampling.temperature is None else sampling.temperature,
            top_k=max(0, top_k),
            top_p=self.top_p if sampling.top_p is None else sampling.top_p,
            min_p=self.min_p if sampling.min_p is None else sampling.min_p,
            typical_p=sampling.typical_p,
            top_n_sigma=sampling.top_n_sigma,
            xtc_probability=sampling.xtc_probability,
            xtc_threshold=sampling.xtc_threshold,
            mirostat=sampling.mirostat,
            mirostat_tau=sampling.mirostat_tau,
            mirostat_eta=sampling.mirostat_eta,
        )
