"""The route /v1/embeddings: texts to vectors, by the mean of the model's last states."""

import asyncio
import base64
import struct
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from openqwq.engine.open import OpenedModel
from openqwq.engine.scoring import Embeds
from openqwq.sandbox.ascii_json import AsciiJson
from openqwq.serve.asking import adapter_of, require_known, require_room
from openqwq.serve.asking_completions import token_ids
from openqwq.serve.protocol import ApiError
from openqwq.serve.service import Service


class EmbeddingsRoutes:
    """The route; the engines of others do not show their states, which is a 404."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """The route."""
        return [Route("/v1/embeddings", self.embed, methods=["POST"])]

    async def embed(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        body = await self._service.body(request, "EmbeddingsRequest")
        with ExitStack() as place:
            model = await self._service.lend(body, place)
            ids = await asyncio.to_thread(token_ids, model, body["input"], "input")
            vectors = await self._vectors(model, ids)
        width = len(vectors[0])
        if body.get("dimensions", width) != width:
            text = f"dimensions is {body['dimensions']}: the vectors of {model.name} have {width}"
            raise ApiError(
                400, f"{text} and cannot be shortened: leave it out", "dimensions"
            )
        as_text = body.get("encoding_format") == "base64"
        data: list[dict[str, Any]] = []
        for index, vector in enumerate(vectors):
            entry: dict[str, Any] = {
                "object": "embedding",
                "index": index,
                "embedding": vector,
            }
            if as_text:
                entry["embedding"] = _base64(vector)
            data.append(entry)
        tokens = sum(map(len, ids))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return AsciiJson(
            {"object": "list", "data": data, "model": model.name, "usage": usage}
        )

    async def _vectors(
        self, model: OpenedModel, inputs: list[list[int]]
    ) -> list[list[float]]:
        if not isinstance(model.generate, Embeds):
            text = f"{model.name} has no embeddings here: its engine {model.engine} shows no states"
            raise ApiError(404, text, "model", "model_not_found")
        for ids in inputs:
            require_known(model, ids, "input")
            require_room(model, len(ids), None)
        asked = [model.generate.embed(ids, adapter_of(model)) for ids in inputs]
        return await asyncio.gather(*asked)


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
