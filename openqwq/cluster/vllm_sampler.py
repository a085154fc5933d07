"""vLLM as a sampler: token ids in, token ids and exact log-probs out, weights from a directory."""

import asyncio
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openqwq.cluster.actors import Request, software
from openqwq.cluster.weights import write_version
from openqwq.engine.engine import EngineLimits
from openqwq.model import checkpoint
from openqwq.text.stream import ThinkTracker, starts_in_thinking
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, FinishReason, OpenQwQError, SamplingParams

UNSUPPORTED = ("thinking_budget", "grammar", "top_log_probs", "stop_loops")


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def untied(weights: Path, target: Path) -> Path:
    """A checkpoint with a head of its own: vLLM's CPU build never reloads a tied, packed one."""
    model = checkpoint.load(weights)
    if not model.config.tie_word_embeddings:
        return weights
    copy = checkpoint.empty_model(replace(model.config, tie_word_embeddings=False))
    tensors = {HEAD: model.model.embed_tokens.weight.clone(), **dict(model.named_parameters())}
    checkpoint.save(checkpoint.fill(copy, tensors), target, Tokenizer.load(weights))
    return target


class VllmSampler:
    """A sampler actor like `SamplerActor`, on vLLM."""

    def __init__(
        self,
        weights: Path,
        tokenizer: Path,
        limits: EngineLimits,
        threads: int,
        precision: str,
        width: int,
    ) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ["OMP_NUM_THREADS"] = str(threads)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.directory = tempfile.TemporaryDirectory(prefix="openqwq-weights-")
        start = untied(weights, Path(self.directory.name) / "start")
        arguments = AsyncEngineArgs(
            model=str(start),
            skip_tokenizer_init=True,
            dtype=precision,
            tensor_parallel_size=width,
            enforce_eager=True,
            max_model_len=limits.max_length,
            max_num_seqs=limits.slots,
            max_num_batched_tokens=max(limits.prefill_tokens, limits.max_length),
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
        )
        self.engine = AsyncLLM.from_engine_args(arguments)
        self.tokenizer, self.version = Tokenizer.load(tokenizer), 0

    async def software(self) -> dict[str, str]:
        """See `software`."""
        return software()

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """See `SamplerActor.generate`."""
        return list(await asyncio.gather(*(self._group(*request) for request in requests)))

    async def push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """See `SamplerActor.push`."""
        weights = {HEAD: weights[EMBEDDING].clone(), **weights}
        directory = Path(self.directory.name)
        written = await asyncio.to_thread(write_version, directory, weights.items(), version)
        await self.engine.collective_rpc("reload_weights", kwargs={"weights_path": str(written)})
        await self.engine.reset_prefix_cache()
        self.version = version

    async def _group(self, prompt_ids: list[int], params: SamplingParams, n: int) -> Any:
        from vllm import SamplingParams as VllmParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        own = VllmParams(
            n=n,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            max_tokens=params.max_tokens,
            seed=params.seed if torch.cuda.is_available() else None,  # its CPU build has none
            stop_token_ids=list(params.stop_token_ids),
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        _refuse_unsupported(params)
        replies = [_Reply() for _ in range(n)]
        # Keys of older weights are never reused, even while replies run through an update.
        prompt = TokensPrompt(prompt_token_ids=prompt_ids, cache_salt=str(self.version))
        async for output in self.engine.generate(prompt, own, uuid.uuid4().hex):
            for part in output.outputs:
                replies[part.index].take(part, self.version)
        return [reply.completion(self.tokenizer, prompt_ids) for reply in replies]


class _Reply:
    """One sample, piece by piece; a token has the version that was current when it was drawn."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.log_probs: list[float] = []
        self.versions: list[int] = []
        self.finish_reason: FinishReason = "cancelled"

    def take(self, part: Any, version: int) -> None:
        new = list(part.token_ids)
        self.token_ids += new
        self.log_probs += [row[i].logprob for row, i in zip(part.logprobs or [], new, strict=True)]
        self.versions += [version] * len(new)
        if part.finish_reason in ("stop", "length"):
            self.finish_reason = part.finish_reason

    def completion(self, tokenizer: Tokenizer, prompt_ids: list[int]) -> Completion:
        tracker = ThinkTracker(tokenizer, starts_in_thinking(tokenizer, prompt_ids))
        for token_id in self.token_ids:
            tracker.feed(token_id)
        return Completion(
            self.token_ids,
            self.log_probs,
            [True] * len(self.token_ids),
            self.versions,
            self.finish_reason,
            len(prompt_ids),
            tracker.reasoning_tokens,
        )


def _refuse_unsupported(params: SamplingParams) -> None:
    plain = SamplingParams()
    for name in UNSUPPORTED:
        if getattr(params, name) != getattr(plain, name):
            raise OpenQwQError(f"{name} is not for the vLLM sampler: use cluster.sampler = 'torch'")
