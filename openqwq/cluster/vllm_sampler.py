"""vLLM as a sampler: token ids in, token ids and exact log-probs out, weights by its own API."""

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openqwq.cluster.actors import SampleRequest, software
from openqwq.cluster.meeting import Meeting
from openqwq.cluster.replies import DrawnTokens, draw
from openqwq.cluster.saved_policy import SavedPolicy
from openqwq.cluster.transfer import Manifest, Receiver
from openqwq.cluster.vllm_messages import (
    BACKEND,
    EXTENSION,
    manifest_message,
    meeting_message,
)
from openqwq.engine.limits import EngineLimits
from openqwq.engine.sequence import Sequence as Reply
from openqwq.engine.sequence import check_request, room_after
from openqwq.model import lora
from openqwq.model.lora import Adapter
from openqwq.text.stream import closing_ids, starts_in_thinking, think_tracker
from openqwq.types import Completion, OpenQwQError, SamplingParams

OLDEST = (0, 32)  # vLLM's weight transfer before it was another
NEEDED = (
    "init_weight_transfer_engine",
    "start_weight_update",
    "update_weights",
    "finish_weight_update",
    "update_weight_version",
    "pause_generation",
    "resume_generation",
)
UNSUPPORTED = (
    "grammar",
    "top_log_probs",
    "presence_penalty",
    "frequency_penalty",
    "adapter",
)
ADAPTERS = 4  # versions that may be drawing at once
VLLM_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class VllmSampler:
    """A sampler actor like `SamplerActor`, on vLLM."""

    def __init__(
        self, policy: SavedPolicy, limits: EngineLimits, threads: int, width: int
    ) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ["OMP_NUM_THREADS"] = str(threads)
        from vllm.config import WeightTransferConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        require_vllm(AsyncLLM)
        policy.require_seen()
        self.limits = limits
        self.version = 0
        self._adapter: _PushedAdapter | None = None
        options: dict[str, Any] = {}
        if policy.adapter is None:
            options["weight_transfer_config"] = WeightTransferConfig(backend=BACKEND)
            options["worker_extension_cls"] = EXTENSION
        else:
            _, adapter = policy.load()
            assert adapter is not None
            self._adapter = _PushedAdapter(adapter)
            options["enable_lora"] = True
            options["max_lora_rank"] = max(adapter.shape.rank, 8)
            options["max_loras"] = options["max_cpu_loras"] = ADAPTERS
        arguments = AsyncEngineArgs(
            model=str(policy.weights),
            skip_tokenizer_init=True,
            dtype=VLLM_DTYPES[policy.products],
            tensor_parallel_size=width,
            enforce_eager=not torch.cuda.is_available(),  # graphs are for GPUs
            max_model_len=limits.max_length,
            max_num_seqs=limits.slots,
            max_num_batched_tokens=max(limits.prefill_tokens, limits.max_length),
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            **options,
        )
        self.engine = AsyncLLM.from_engine_args(arguments)
        self.tokenizer = policy.tokenizer
        self.closing_ids = closing_ids(self.tokenizer)
        self._broken = False  # whether an update broke off

    async def software(self) -> dict[str, str]:
        """See `software`."""
        return software()

    async def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See `SamplerActor.generate`."""
        return list(await asyncio.gather(*(self._group(*request) for request in requests)))

    async def meet(self, meeting: Meeting, number: int) -> None:
        """See `SamplerActor.meet`; vLLM's workers are the receivers, of an adapter this process."""
        if self._adapter is not None:
            await asyncio.to_thread(self._adapter.meet, meeting, number)
            return
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        request = WeightTransferInitRequest(meeting_message(meeting, number))
        await self.engine.init_weight_transfer_engine(request)

    async def begin(self, manifest: Manifest) -> None:
        """See `SamplerActor.begin`; after an update that broke off this process starts again."""
        if self._adapter is not None:
            return
        if self._broken:
            os._exit(1)  # vLLM cannot load layers again that it has half loaded
        self._broken = True
        await self.engine.pause_generation(mode="keep", clear_cache=False)
        await self.engine.start_weight_update()

    async def receive(self, manifest: Manifest) -> None:
        """See `SamplerActor.receive`."""
        if self._adapter is not None:
            await asyncio.to_thread(self._adapter.take, manifest)
            return
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self.engine.update_weights(
            WeightTransferUpdateRequest(manifest_message(manifest))
        )

    async def finish(self) -> None:
        """See `SamplerActor.finish`."""
        if self._adapter is None:
            await self.engine.finish_weight_update()

    async def commit(self, version: int) -> None:
        """See `SamplerActor.commit`; replies in flight keep an adapter, but not weights."""
        if self._adapter is not None:
            await self.engine.add_lora(self._adapter.request(version))
        self.version = version
        await self.engine.update_weight_version(str(version))
        if self._adapter is None:
            self._broken = False
            await self.engine.resume_generation()

    async def _group(
        self, prompt_ids: list[int], params: SamplingParams, n: int
    ) -> list[Completion]:
        _refuse_unsupported(params)
        check_request(prompt_ids, params, self.tokenizer.vocab_size, len(self.closing_ids))
        limit = min(params.max_tokens, room_after(prompt_ids, self.limits.max_length))
        thinking = starts_in_thinking(self.tokenizer, prompt_ids)
        replies: list[Reply] = []
        for member in range(n):
            tracker = think_tracker(self.tokenizer, thinking)
            seed = params.seed + member
            replies.append(
                Reply(prompt_ids, params, seed, limit, tracker, self.closing_ids)
            )
        draws = [draw(reply, self._stream, lambda: self.version) for reply in replies]
        await asyncio.gather(*draws)
        return [reply.completion() for reply in replies]

    async def _stream(self, reply: Reply) -> AsyncGenerator[DrawnTokens, None]:
        """What vLLM draws after what a reply has so far; left early, its request is aborted."""
        begun = self.version
        async with aclosing(self._request(reply)) as outputs:
            async for output in outputs:
                part = output.outputs[0]
                token_ids = list(part.token_ids)
                rows = zip(token_ids, part.logprobs or [], strict=True)
                log_probs = [row[token_id].logprob for token_id, row in rows]
                # An adapter stays with its requests; new weights reach all of them.
                version = self.version if self._adapter is None else begun
                yield DrawnTokens(token_ids, log_probs, version)

    def _request(self, reply: Reply) -> Any:
        """A stream of vLLM's that goes on from what a reply has so far."""
        from vllm import SamplingParams as VllmParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params = reply.params
        seed = reply.seed + len(reply.token_ids)
        own = VllmParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            logit_bias=dict(params.logit_bias) or None,
            max_tokens=reply.max_tokens - len(reply.token_ids),
            seed=seed if torch.cuda.is_available() else None,  # its CPU build has none
            stop_token_ids=list(params.stop_token_ids),
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        # Keys of older weights are never reused, even while replies run through an update.
        ids = [*reply.prompt_ids, *reply.token_ids]
        prompt = TokensPrompt(prompt_token_ids=ids, cache_salt=str(self.version))
        adapter = None if self._adapter is None else self._adapter.current
        return self.engine.generate(prompt, own, uuid.uuid4().hex, lora_request=adapter)


class _PushedAdapter:
    """The adapter that requests name, a new one for each version; its files lie in memory."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        memory = Path("/dev/shm")
        place = memory if memory.is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="openqwq-adapter-", dir=place)
        self._receiver: Receiver | None = None
        self._number = 0  # vLLM wants a new one for each version
        self.current = self.request(0)

    def meet(self, meeting: Meeting, number: int) -> None:
        """See `SamplerActor.meet`."""
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = Receiver(meeting, number)

    def take(self, manifest: Manifest) -> None:
        """Receive a version; nothing changes where it does not come whole."""
        assert self._receiver is not None
        given: dict[str, Tensor] = {}

        def keep(arriving: Iterable[tuple[str, Tensor]]) -> None:
            for name, value in arriving:
                given[name] = value.clone()

        self._receiver.receive(manifest, keep)
        self.adapter.load(given)

    def request(self, version: int) -> Any:
        """What requests give vLLM from now on."""
        from vllm.lora.request import LoRARequest

        self._number += 1
        folder = Path(self._folder.name)
        target = folder / str(self._number)
        lora.save(self.adapter, target)
        shutil.rmtree(folder / str(self._number - 2 * ADAPTERS), ignore_errors=True)
        self.current = LoRARequest(f"version {version}", self._number, str(target))
        return self.current


def require_vllm(engine: type) -> None:
    """Raise OpenQwQError where vLLM's weight transfer is not the one that we speak."""
    import vllm

    numbers = tuple(int(part) for part in vllm.__version__.split(".")[:2])
    missing = [name for name in NEEDED if not hasattr(engine, name)]
    if numbers < OLDEST or missing:
        lacks = f" without {', '.join(missing)}" if missing else ""
        raise OpenQwQError(
            f"vLLM {vllm.__version__}{lacks} cannot be given weights as cluster.sampler = 'vllm' "
            f"does: install vllm>={'.'.join(map(str, OLDEST))} (0.32 is tested), or set "
            "cluster.sampler = 'torch'"
        )


def _refuse_unsupported(params: SamplingParams) -> None:
    plain = SamplingParams()
    for name in UNSUPPORTED:
        if getattr(params, name) != getattr(plain, name):
            raise OpenQwQError(
                f"{name} is not for the vLLM sampler: use cluster.sampler = 'torch'"
            )
