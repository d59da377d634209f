"""The public surface for plugin authors: everything a plugin may import from the server, loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localllm.config.schema import setting
    from localllm.context import ModelAccess, PluginContext
    from localllm.contract.adapters import AdapterScale, adapter_group, scales_of
    from localllm.contract.backend import (
        BackendSpec,
        LoadedModel,
        LoadedPooler,
        LoadRequest,
        ModelClient,
        WorkerFactory,
    )
    from localllm.contract.chat_format import (
        CallFormat,
        CallStyle,
        ChatFormat,
        RenderedPrompt,
        ReplyRules,
        ThoughtFormat,
        Tool,
        ToolChoice,
    )
    from localllm.contract.decoder import (
        Capabilities,
        Clear,
        ConstraintCompiler,
        Copy,
        Decoder,
        InfillTokens,
        KvLayout,
        Op,
        Plan,
        PromptRenderer,
        Sampled,
        Scored,
        ScoringDecoder,
        SequenceKey,
        Slice,
        Tokenizer,
        Truncate,
    )
    from localllm.contract.diagnosis import Finding, Verdict
    from localllm.contract.errors import (
        ContextLengthExceededError,
        InvalidRequestError,
        LocalLLMError,
        ModelBusyError,
        ModelFileError,
        ModelLoadError,
        ModelMisconfiguredError,
        ModelNotFoundError,
        ModelNotLoadedError,
        ModelTooLargeError,
        ModelUnsupportedError,
        OverloadedError,
        ProtocolError,
        SlowReaderError,
        UnavailableError,
        UnsupportedFeatureError,
        WorkerCrashedError,
    )
    from localllm.contract.events import Event, ModelLoaded, ModelUnloaded, RequestFinished, WorkerDied
    from localllm.contract.fetch import (
        FileRole,
        ModelSource,
        PullError,
        RemoteFile,
        Resolution,
        SourceFactory,
        SourceSpec,
    )
    from localllm.contract.generation import (
        CallDelta,
        ChatPrompt,
        ChoiceFinished,
        Chunk,
        Constraint,
        ConstraintKind,
        Failed,
        Finished,
        FinishReason,
        GenerateEvent,
        GenerateRequest,
        InfillPrompt,
        Prompt,
        PromptLogprobs,
        PromptToken,
        Region,
        SamplingParams,
        Started,
        TextPrompt,
        Timings,
        TokenAlternative,
        TokenLogprob,
        TokenPrompt,
        Usage,
    )
    from localllm.contract.model import MemoryUse, Mode, ModelInfo, ModelKind, ModelSpec, RequestRules
    from localllm.contract.pooling import (
        PairPrompt,
        PoolCapabilities,
        Pooled,
        PoolEncoder,
        Pooler,
        PoolEvent,
        PoolFinished,
        PoolingInfo,
        PoolingKind,
        PoolInput,
        PoolItem,
        PoolRequest,
        PoolStarted,
        ScoreScale,
    )
    from localllm.contract.texts import DetokenizeRequest, RenderRequest, TextRequest, TextResult, TokenizeRequest
    from localllm.hookspecs import (
        RegisterBackend,
        RegisterMiddleware,
        RegisterModel,
        RegisterRoute,
        RegisterSource,
        hookimpl,
    )
    from localllm.server.conversion import Conversion, convert_texts
    from localllm.server.disconnect import race_disconnect
    from localllm.server.json_body import read_json
    from localllm.server.json_pieces import json_in_pieces
    from localllm.server.model_body import ModelBody, read_model_body
    from localllm.server.pipeline import stream_generation
    from localllm.server.pooling import PoolingModel, borrow_pooler, stream_pooling
    from localllm.server.sse import EventStream

__version__: str

_HOMES = {
    "localllm.contract.adapters": "AdapterScale adapter_group scales_of",
    "localllm.config.schema": "setting",
    "localllm.context": "ModelAccess PluginContext",
    "localllm.contract.backend": "BackendSpec LoadRequest LoadedModel LoadedPooler ModelClient WorkerFactory",
    "localllm.contract.chat_format": (
        "CallFormat CallStyle ChatFormat RenderedPrompt ReplyRules ThoughtFormat Tool ToolChoice"
    ),
    "localllm.contract.decoder": (
        "Capabilities Clear ConstraintCompiler Copy Decoder InfillTokens KvLayout Op Plan PromptRenderer Sampled "
        "Scored ScoringDecoder SequenceKey Slice Tokenizer Truncate"
    ),
    "localllm.contract.errors": (
        "ContextLengthExceededError InvalidRequestError LocalLLMError ModelBusyError ModelFileError ModelLoadError "
        "ModelMisconfiguredError ModelNotFoundError ModelNotLoadedError ModelTooLargeError "
        "ModelUnsupportedError OverloadedError ProtocolError "
        "SlowReaderError UnavailableError UnsupportedFeatureError WorkerCrashedError"
    ),
    "localllm.contract.diagnosis": "Finding Verdict",
    "localllm.contract.events": "Event ModelLoaded ModelUnloaded RequestFinished WorkerDied",
    "localllm.contract.fetch": "FileRole ModelSource PullError RemoteFile Resolution SourceFactory SourceSpec",
    "localllm.contract.generation": (
        "CallDelta ChatPrompt ChoiceFinished Chunk Constraint ConstraintKind Failed FinishReason Finished "
        "GenerateEvent GenerateRequest InfillPrompt Prompt PromptLogprobs PromptToken Region SamplingParams Started "
        "TextPrompt Timings TokenAlternative TokenLogprob TokenPrompt Usage"
    ),
    "localllm.contract.pooling": (
        "PairPrompt PoolCapabilities PoolEncoder PoolEvent PoolFinished PoolInput PoolItem PoolRequest PoolStarted "
        "Pooled Pooler PoolingInfo PoolingKind ScoreScale"
    ),
    "localllm.contract.model": "MemoryUse Mode ModelInfo ModelKind ModelSpec RequestRules",
    "localllm.contract.texts": "DetokenizeRequest RenderRequest TextRequest TextResult TokenizeRequest",
    "localllm.hookspecs": "RegisterBackend RegisterMiddleware RegisterModel RegisterRoute RegisterSource hookimpl",
    "localllm.server.conversion": "Conversion convert_texts",
    "localllm.server.disconnect": "race_disconnect",
    "localllm.server.json_body": "read_json",
    "localllm.server.json_pieces": "json_in_pieces",
    "localllm.server.model_body": "ModelBody read_model_body",
    "localllm.server.pipeline": "stream_generation",
    "localllm.server.pooling": "PoolingModel borrow_pooler stream_pooling",
    "localllm.server.sse": "EventStream",
}
"""Which module each public name lives in. PEP 562: importing ``localllm`` loads none of them, for the worker's sake."""

__all__ = [
    "AdapterScale",
    "BackendSpec",
    "CallDelta",
    "CallFormat",
    "CallStyle",
    "Capabilities",
    "ChatFormat",
    "ChatPrompt",
    "ChoiceFinished",
    "Chunk",
    "Clear",
    "Constraint",
    "ConstraintCompiler",
    "ConstraintKind",
    "ContextLengthExceededError",
    "Conversion",
    "Copy",
    "Decoder",
    "DetokenizeRequest",
    "Event",
    "EventStream",
    "Failed",
    "FileRole",
    "Finding",
    "FinishReason",
    "Finished",
    "GenerateEvent",
    "GenerateRequest",
    "InfillPrompt",
    "InfillTokens",
    "InvalidRequestError",
    "KvLayout",
    "LoadRequest",
    "LoadedModel",
    "LoadedPooler",
    "LocalLLMError",
    "MemoryUse",
    "Mode",
    "ModelAccess",
    "ModelBody",
    "ModelBusyError",
    "ModelClient",
    "ModelFileError",
    "ModelInfo",
    "ModelKind",
    "ModelLoadError",
    "ModelLoaded",
    "ModelMisconfiguredError",
    "ModelNotFoundError",
    "ModelNotLoadedError",
    "ModelSource",
    "ModelSpec",
    "ModelTooLargeError",
    "ModelUnloaded",
    "ModelUnsupportedError",
    "Op",
    "OverloadedError",
    "PairPrompt",
    "Plan",
    "PluginContext",
    "PoolCapabilities",
    "PoolEncoder",
    "PoolEvent",
    "PoolFinished",
    "PoolInput",
    "PoolItem",
    "PoolRequest",
    "PoolStarted",
    "Pooled",
    "Pooler",
    "PoolingInfo",
    "PoolingKind",
    "PoolingModel",
    "Prompt",
    "PromptLogprobs",
    "PromptRenderer",
    "PromptToken",
    "ProtocolError",
    "PullError",
    "Region",
    "RegisterBackend",
    "RegisterMiddleware",
    "RegisterModel",
    "RegisterRoute",
    "RegisterSource",
    "RemoteFile",
    "RenderRequest",
    "RenderedPrompt",
    "ReplyRules",
    "RequestFinished",
    "RequestRules",
    "Resolution",
    "Sampled",
    "SamplingParams",
    "ScoreScale",
    "Scored",
    "ScoringDecoder",
    "SequenceKey",
    "Slice",
    "SlowReaderError",
    "SourceFactory",
    "SourceSpec",
    "Started",
    "TextPrompt",
    "TextRequest",
    "TextResult",
    "ThoughtFormat",
    "Timings",
    "TokenAlternative",
    "TokenLogprob",
    "TokenPrompt",
    "TokenizeRequest",
    "Tokenizer",
    "Tool",
    "ToolChoice",
    "Truncate",
    "UnavailableError",
    "UnsupportedFeatureError",
    "Usage",
    "Verdict",
    "WorkerCrashedError",
    "WorkerDied",
    "WorkerFactory",
    "__version__",
    "adapter_group",
    "borrow_pooler",
    "convert_texts",
    "hookimpl",
    "json_in_pieces",
    "race_disconnect",
    "read_json",
    "read_model_body",
    "scales_of",
    "setting",
    "stream_generation",
    "stream_pooling",
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
