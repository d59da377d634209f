"""What one GGUF file says of itself: the facts of a header that was read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from localllm.models.gguf_types import EMBEDDING_ARCHITECTURES, FILE_TYPES, POOLING_TYPES, Value


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What one file says.

    ``metadata`` has its scalars and the beginnings of its strings, ``arrays`` the lengths of all its arrays, ``lists``
    the values of the short ones (a number for each layer, tags). ``parameters`` counts them by the type they have.
    """

    version: int
    metadata: Mapping[str, Value]
    arrays: Mapping[str, int]
    n_tensors: int
    parameters: Mapping[str, int]
    size_bytes: int
    is_classifier: bool = False  # it has a classification head, as rerankers do
    lists: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """``general.architecture``; "" in the later parts of a split model, whose first part has it."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def role(self) -> str:
        """``general.type``: "model", or what else the file is ("adapter", "mmproj", "imatrix", …)."""
        role = self.text("general.type") or "model"
        return "mmproj" if self.architecture == "clip" else role

    @property
    def name(self) -> str | None:
        """The model's own name, if it has one."""
        return self.text("general.name")

    @property
    def base_names(self) -> tuple[str, ...]:
        """What an adapter or a projector says that it was made for, and what a model was made from."""
        keys = ("general.basename", "general.base_model.0.name", "general.base_model.0.repo_url")
        found = [self.text(key) for key in keys]
        return tuple(text.rstrip("/").rpartition("/")[2] for text in found if text)

    @property
    def tags(self) -> tuple[str, ...]:
        """``general.tags``: what its makers filed it under."""
        return tuple(tag for tag in self.lists.get("general.tags", ()) if isinstance(tag, str))

    @property
    def context_length(self) -> int | None:
        """Tokens of context that the model was trained for."""
        return self.integer(f"{self.architecture}.context_length")

    @property
    def embedding_length(self) -> int | None:
        """Width of the model."""
        return self.integer(f"{self.architecture}.embedding_length")

    @property
    def block_count(self) -> int | None:
        """Layers of the model."""
        return self.integer(f"{self.architecture}.block_count")

    @property
    def hyperparameters(self) -> dict[str, bool | int | float | tuple[Value, ...]]:
        """All numbers under ``<architecture>.``, by what follows it; some have one number for each layer."""
        prefix = f"{self.architecture}."
        found: dict[str, bool | int | float | tuple[Value, ...]] = {
            key.removeprefix(prefix): value
            for key, value in self.metadata.items()
            if key.startswith(prefix) and not isinstance(value, str)
        }
        return found | {key.removeprefix(prefix): v for key, v in self.lists.items() if key.startswith(prefix)}

    @property
    def vocab_size(self) -> int | None:
        """Tokens in the vocabulary."""
        return self.arrays.get("tokenizer.ggml.tokens") or self.integer(f"{self.architecture}.vocab_size")

    @property
    def n_params(self) -> int:
        """Parameters of the file's tensors."""
        return sum(self.parameters.values())

    @property
    def file_type(self) -> str | None:
        """The file type's name; None when none is stored, or one that has no name."""
        number = self.integer("general.file_type")
        return FILE_TYPES.get(number) if number is not None else None

    @property
    def quantisation(self) -> str:
        """The file type's name, or that of the type which most parameters have."""
        return self.file_type or main_type(self.parameters)

    @property
    def pooling_type(self) -> str | None:
        """How token vectors become one: "none", "mean", "cls", "last", "rank", or None when nothing is said."""
        pooling = self.integer(f"{self.architecture}.pooling_type")
        return POOLING_TYPES.get(pooling) if pooling is not None else None

    @property
    def is_encoder(self) -> bool:
        """Whether its architecture can only encode."""
        return self.architecture in EMBEDDING_ARCHITECTURES

    @property
    def has_chat_template(self) -> bool:
        """Whether a chat template is stored in the file."""
        return bool(self.metadata.get("tokenizer.chat_template"))

    @property
    def n_parts(self) -> int:
        """Files that the model was split into; 1 when it was not."""
        return self.integer("split.count") or 1

    def integer(self, key: str) -> int | None:
        """Return an integer of the metadata, None when it is absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, key: str) -> str | None:
        """Return a text of the metadata, None when it is absent, empty or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None


def main_type(parameters: Mapping[str, int]) -> str:
    """Return the type that most parameters have, "none" when there are none."""
    return max(parameters, key=lambda kind: parameters[kind], default="none")
