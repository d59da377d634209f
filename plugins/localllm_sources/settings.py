"""``[plugin.sources]``: what is chosen where a source has several files that would do."""

from __future__ import annotations

from dataclasses import dataclass

from localllm import setting


@dataclass(frozen=True, slots=True)
class SourcesSettings:
    """Taste in files of Hugging Face repositories."""

    quantisation: str = setting("Q4_K_M", "Quantisation that is fetched from Hugging Face when a source names none.")
    use_hub_cache: bool = setting(
        True, "Take files out of Hugging Face's own cache, without the network, where they lie there already."
    )
    projector: bool = setting(True, "Fetch a model's projector (mmproj) too, where its repository has one.")
