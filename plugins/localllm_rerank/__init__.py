"""``POST /v1/rerank``, ``/v2/rerank`` and other paths: a query and documents in, the documents by relevance out."""

from __future__ import annotations

from starlette.routing import Route

from localllm import PluginContext, RegisterRoute, hookimpl

from .doc import COHERE_V2_DOC, RERANK_DOC
from .endpoint import RerankEndpoint

PATHS = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking")
COHERE_V2_PATH = "/v2/rerank"


@hookimpl
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add one endpoint under the paths that clients ask for."""
    endpoint = RerankEndpoint(context)
    for path in PATHS:
        doc = RERANK_DOC if path == PATHS[0] else None
        register(Route(path, endpoint.handle, methods=["POST"]), name=f"rerank:{path}", doc=doc)
    route = Route(COHERE_V2_PATH, endpoint.handle_v2, methods=["POST"])
    register(route, name=f"rerank:{COHERE_V2_PATH}", doc=COHERE_V2_DOC)
