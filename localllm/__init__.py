"""The public surface for plugin authors: everything a plugin may import from the server, loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localllm.config.schema import setting as setting
    from localllm.context import (
        ModelAccess as ModelAccess,
        PluginContext as PluginContext,
    )
    from localllm.contract.adapters import (
        AdapterScale as AdapterScale,
        adapter_group as adapter_group,
        scales_of as scales_of,
    )
    from localllm.contract.backend import (
        BackendSpec as BackendSpec,
        LoadedModel as LoadedModel,
        LoadedPooler as LoadedPooler,
        LoadRequest as LoadRequest,
        ModelClient as ModelClient,
        WorkerFactory as WorkerFactory,
    )
    from localllm.contract.chat_format import (
        CallFormat as CallFormat,
        CallStyle as CallStyle,
        ChatFormat as ChatFormat,
        RenderedPrompt as RenderedPrompt,
        ReplyRules as ReplyRules,
        ThoughtFormat as ThoughtFormat,
        Tool as Tool,
        ToolChoice as ToolChoice,
    )
    from localllm.contract.decoder import (
        Capabilities as Capabilities,
        Clear as Clear,
        ConstraintCompiler as ConstraintCompiler,
        Copy as Copy,
        Decoder as Decoder,
        InfillTokens as InfillTokens,
        KvLayout as KvLayout,
        Op as Op,
        Plan as Plan,
        PromptRenderer as PromptRenderer,
        Sampled as Sampled,
        SavingDecoder as SavingDecoder,
        Scored as Scored,
        ScoringDecoder as ScoringDecoder,
        SequenceKey as SequenceKey,
        Slice as Slice,
        State as State,
        StateSaving as StateSaving,
        Tokenizer as Tokenizer,
        Truncate as Truncate,
    )
    from localllm.contract.diagnosis import (
        Finding as Finding,
        Verdict as Verdict,
    )
    from localllm.contract.endpoint_doc import (
        MODEL_ERRORS as MODEL_ERRORS,
        EndpointDoc as EndpointDoc,
        ParameterDoc as ParameterDoc,
        ResponseDoc as ResponseDoc,
    )
    from localllm.contract.errors import (
        ContextLengthExceededError as ContextLengthExceededError,
        InvalidRequestError as InvalidRequestError,
        LocalLLMError as LocalLLMError,
        ModelBusyError as ModelBusyError,
        ModelFileError as ModelFileError,
        ModelLoadError as ModelLoadError,
        ModelMisconfiguredError as ModelMisconfiguredError,
        ModelNotFoundError as ModelNotFoundError,
        ModelNotLoadedError as ModelNotLoadedError,
        ModelTooLargeError as ModelTooLargeError,
        ModelUnsupportedError as ModelUnsupportedError,
        OverloadedError as OverloadedError,
        ProtocolError as ProtocolError,
        SlowReaderError as SlowReaderError,
        UnavailableError as UnavailableError,
        UnsupportedFeatureError as UnsupportedFeatureError,
        WorkerCrashedError as WorkerCrashedError,
    )
    from localllm.contract.events import (
        Event as Event,
        ModelLoaded as ModelLoaded,
        ModelUnloaded as ModelUnloaded,
        RequestFinished as RequestFinished,
        WorkerDied as WorkerDied,
    )
    from localllm.contract.fetch import (
        FileRole as FileRole,
        ModelSource as ModelSource,
        PullError as PullError,
        RemoteFile as RemoteFile,
        Resolution as Resolution,
        SourceFactory as SourceFactory,
        SourceSpec as SourceSpec,
    )
    from localllm.contract.generation import (
        CallDelta as CallDelta,
        ChatPrompt as ChatPrompt,
        ChoiceFinished as ChoiceFinished,
        Chunk as Chunk,
        Constraint as Constraint,
        ConstraintKind as ConstraintKind,
        Failed as Failed,
        Finished as Finished,
        FinishReason as FinishReason,
        GenerateEvent as GenerateEvent,
        GenerateRequest as GenerateRequest,
        InfillPrompt as InfillPrompt,
        Prompt as Prompt,
        PromptLogprobs as PromptLogprobs,
        PromptToken as PromptToken,
        Region as Region,
        SamplingParams as SamplingParams,
        Started as Started,
        TextPrompt as TextPrompt,
        Timings as Timings,
        TokenAlternative as TokenAlternative,
        TokenLogprob as TokenLogprob,
        TokenPrompt as TokenPrompt,
        Usage as Usage,
    )
    from localllm.contract.interception import (
        Answered as Answered,
        AnswerMessage as AnswerMessage,
        Asked as Asked,
        Interception as Interception,
        Interceptor as Interceptor,
        SessionWish as SessionWish,
    )
    from localllm.contract.model import (
        MemoryUse as MemoryUse,
        Mode as Mode,
        ModelInfo as ModelInfo,
        ModelKind as ModelKind,
        ModelSpec as ModelSpec,
        RequestRules as RequestRules,
    )
    from localllm.contract.pooling import (
        PairPrompt as PairPrompt,
        PoolCapabilities as PoolCapabilities,
        Pooled as Pooled,
        PoolEncoder as PoolEncoder,
        Pooler as Pooler,
        PoolEvent as PoolEvent,
        PoolFinished as PoolFinished,
        PoolingInfo as PoolingInfo,
        PoolingKind as PoolingKind,
        PoolInput as PoolInput,
        PoolItem as PoolItem,
        PoolRequest as PoolRequest,
        PoolStarted as PoolStarted,
        ScoreScale as ScoreScale,
    )
    from localllm.contract.sessions import (
        Record as Record,
        Session as Session,
        SessionChange as SessionChange,
        SessionConflictError as SessionConflictError,
        SessionNotFoundError as SessionNotFoundError,
        SessionQuotaExceededError as SessionQuotaExceededError,
        SessionStorageFullError as SessionStorageFullError,
        SessionStore as SessionStore,
        SessionStoreUnavailableError as SessionStoreUnavailableError,
        StoredMessage as StoredMessage,
        Turn as Turn,
        new_session_id as new_session_id,
    )
    from localllm.contract.texts import (
        DetokenizeRequest as DetokenizeRequest,
        RenderRequest as RenderRequest,
        TextRequest as TextRequest,
        TextResult as TextResult,
        TokenizeRequest as TokenizeRequest,
    )
    from localllm.hookspecs import (
        ErrorForm as ErrorForm,
        RegisterBackend as RegisterBackend,
        RegisterCommands as RegisterCommands,
        RegisterInterceptor as RegisterInterceptor,
        RegisterMiddleware as RegisterMiddleware,
        RegisterModel as RegisterModel,
        RegisterRoute as RegisterRoute,
        RegisterSource as RegisterSource,
        RegisterStore as RegisterStore,
        hookimpl as hookimpl,
    )
    from localllm.server.conversion import (
        Conversion as Conversion,
        convert_texts as convert_texts,
    )
    from localllm.server.disconnect import race_disconnect as race_disconnect
    from localllm.server.errors import error_body as error_body
    from localllm.server.json_body import (
        check_content_type as check_content_type,
        read_json as read_json,
        read_json_object as read_json_object,
    )
    from localllm.server.json_pieces import json_in_pieces as json_in_pieces
    from localllm.server.model_body import (
        ModelBody as ModelBody,
        read_model_body as read_model_body,
    )
    from localllm.server.pipeline import stream_generation as stream_generation
    from localllm.server.pooling import (
        PoolingModel as PoolingModel,
        borrow_pooler as borrow_pooler,
        stream_pooling as stream_pooling,
    )
    from localllm.server.record import caller_of as caller_of
    from localllm.server.sse import EventStream as EventStream

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
        "SavingDecoder Scored ScoringDecoder SequenceKey Slice State StateSaving Tokenizer Truncate"
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
    "localllm.contract.endpoint_doc": "MODEL_ERRORS EndpointDoc ParameterDoc ResponseDoc",
    "localllm.contract.interception": "AnswerMessage Answered Asked Interception Interceptor SessionWish",
    "localllm.contract.sessions": (
        "Record Session SessionChange SessionConflictError SessionNotFoundError "
        "SessionQuotaExceededError SessionStorageFullError SessionStore SessionStoreUnavailableError "
        "StoredMessage Turn new_session_id"
    ),
    "localllm.server.record": "caller_of",
    "localllm.contract.texts": "DetokenizeRequest RenderRequest TextRequest TextResult TokenizeRequest",
    "localllm.hookspecs": (
        "ErrorForm RegisterBackend RegisterCommands RegisterInterceptor RegisterMiddleware RegisterModel RegisterRoute "
        "RegisterSource RegisterStore hookimpl"
    ),
    "localllm.server.conversion": "Conversion convert_texts",
    "localllm.server.disconnect": "race_disconnect",
    "localllm.server.errors": "error_body",
    "localllm.server.json_body": "check_content_type read_json read_json_object",
    "localllm.server.json_pieces": "json_in_pieces",
    "localllm.server.model_body": "ModelBody read_model_body",
    "localllm.server.pipeline": "stream_generation",
    "localllm.server.pooling": "PoolingModel borrow_pooler stream_pooling",
    "localllm.server.sse": "EventStream",
}
"""Which module each public name lives in. PEP 562: importing ``localllm`` loads none of them, for the worker's sake."""

__all__ = sorted(["__version__", *(name for names in _HOMES.values() for name in names.split())])


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
