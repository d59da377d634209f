"""The public surface for plugin authors: everything a plugin may import from the server, loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localllm.config.schema import setting
    from localllm.context import ModelAccess, PluginContext
    from localllm.contract.backend import BackendSpec, LoadedModel, LoadRequest, ModelClient, WorkerFactory
    from localllm.contract.decoder import (
        Capabilities,
        Clear,
        Copy,
        Decoder,
        KvLayout,
        Op,
        Plan,
        PromptRenderer,
        Sampled,
        SequenceKey,
        Slice,
        Tokenizer,
        Truncate,
    )
    from localllm.contract.errors import (
        ContextLengthExceededError,
        InvalidRequestError,
        LocalLLMError,
        ModelFileError,
        ModelLoadError,
        ModelNotFoundError,
        ModelUnsupportedError,
        OverloadedError,
        ProtocolError,
        SlowReaderError,
        UnavailableError,
        UnsupportedFeatureError,
        WorkerCrashedError,
    )
    from localllm.contract.events import Event, ModelLoaded, ModelUnloaded, RequestFinished, WorkerDied
    from localllm.contract.generation import (
        ChatPrompt,
        ChoiceFinished,
        Chunk,
        Failed,
        Finished,
        FinishReason,
        GenerateEvent,
        GenerateRequest,
        Prompt,
        SamplingParams,
        Started,
        TextPrompt,
        Timings,
        TokenAlternative,
        TokenLogprob,
        TokenPrompt,
        Usage,
    )
    from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
    from localllm.hookspecs import RegisterBackend, RegisterMiddleware, RegisterModel, RegisterRoute, hookimpl
    from localllm.server.disconnect import race_disconnect
    from localllm.server.json_body import read_json
    from localllm.server.pipeline import stream_generation
    from localllm.server.sse import EventStream

__version__: str

_HOMES = {
    "localllm.config.schema": "setting",
    "localllm.context": "ModelAccess PluginContext",
    "localllm.contract.backend": "BackendSpec LoadRequest LoadedModel ModelClient WorkerFactory",
    "localllm.contract.decoder": (
        "Capabilities Clear Copy Decoder KvLayout Op Plan PromptRenderer Sampled SequenceKey Slice Tokenizer Truncate"
    ),
    "localllm.contract.errors": (
        "ContextLengthExceededError InvalidRequestError LocalLLMError ModelFileError ModelLoadError ModelNotFoundError "
        "ModelUnsupportedError OverloadedError ProtocolError SlowReaderError UnavailableError "
        "UnsupportedFeatureError WorkerCrashedError"
    ),
    "localllm.contract.events": "Event ModelLoaded ModelUnloaded RequestFinished WorkerDied",
    "localllm.contract.generation": (
        "ChatPrompt ChoiceFinished Chunk Failed FinishReason Finished GenerateEvent GenerateRequest Prompt "
        "SamplingParams Started TextPrompt Timings TokenAlternative TokenLogprob TokenPrompt Usage"
    ),
    "localllm.contract.model": "Mode ModelInfo ModelKind ModelSpec",
    "localllm.hookspecs": "RegisterBackend RegisterMiddleware RegisterModel RegisterRoute hookimpl",
    "localllm.server.disconnect": "race_disconnect",
    "localllm.server.json_body": "read_json",
    "localllm.server.pipeline": "stream_generation",
    "localllm.server.sse": "EventStream",
}
"""Which module each public name lives in. PEP 562: importing ``localllm`` loads none of them, for the worker's sake."""

__all__ = [
    "BackendSpec",
    "Capabilities",
    "ChatPrompt",
    "ChoiceFinished",
    "Chunk",
    "Clear",
    "ContextLengthExceededError",
    "Copy",
    "Decoder",
    "Event",
    "EventStream",
    "Failed",
    "FinishReason",
    "Finished",
    "GenerateEvent",
    "GenerateRequest",
    "InvalidRequestError",
    "KvLayout",
    "LoadRequest",
    "LoadedModel",
    "LocalLLMError",
    "Mode",
    "ModelAccess",
    "ModelClient",
    "ModelFileError",
    "ModelInfo",
    "ModelKind",
    "ModelLoadError",
    "ModelLoaded",
    "ModelNotFoundError",
    "ModelSpec",
    "ModelUnloaded",
    "ModelUnsupportedError",
    "Op",
    "OverloadedError",
    "Plan",
    "PluginContext",
    "Prompt",
    "PromptRenderer",
    "ProtocolError",
    "RegisterBackend",
    "RegisterMiddleware",
    "RegisterModel",
    "RegisterRoute",
    "RequestFinished",
    "Sampled",
    "SamplingParams",
    "SequenceKey",
    "Slice",
    "SlowReaderError",
    "Started",
    "TextPrompt",
    "Timings",
    "TokenAlternative",
    "TokenLogprob",
    "TokenPrompt",
    "Tokenizer",
    "Truncate",
    "UnavailableError",
    "UnsupportedFeatureError",
    "Usage",
    "WorkerCrashedError",
    "WorkerDied",
    "WorkerFactory",
    "__version__",
    "hookimpl",
    "race_disconnect",
    "read_json",
    "setting",
    "stream_generation",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("localllm")
    else:
        home = next((module for module, names in _HOMES.items() if name in names.split()), None)
        if home is None:
            message = f"module 'localllm' has no public name {name!r}"
            raise AttributeError(message)
        from importlib import import_module

        value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
