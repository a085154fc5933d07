"""Continuous batching over one model: `Engine` implements the `Generate` seam."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from collections.abc import Sequence as Ids
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from openqwq.engine.cache import CacheAttention, SlotCache
from openqwq.engine.sampler import sample
from openqwq.engine.scheduler import Group, Scheduler
from openqwq.engine.sequence import Sequence
from openqwq.model.qwen2 import Qwen2
from openqwq.text.stream import ThinkTracker, starts_in_thinking
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, OpenQwQError, SamplingParams, TokenEvent


@dataclass(frozen=True)
class EngineLimits:
    """How much runs at once: `slots` sequences of at most `max_length` tokens, prompt included;
    `prefill_tokens` prompt tokens a step, of `lanes` prompts at a time.
    """

    slots: int = 256
    max_length: int = 2048
    prefill_tokens: int = 4096
    lanes: int = 16


class Engine:
    """Samples from `model`, which it owns: train another copy and `push` its weights here.

    One step prefills a budget of prompt tokens, then decodes one token for every running sequence.
    Steps run on a thread of the engine's own while the event loop stays free. `closing_text` is
    what a spent thinking budget forces.
    """

    def __init__(
        self,
        model: Qwen2,
        tokenizer: Tokenizer,
        limits: EngineLimits | None = None,
        closing_text: str = "\n</think>\n\n",
    ) -> None:
        tokenizer.require_fits(model.config.vocab_size)
        self.limits = limits or EngineLimits()
        self.model, self.tokenizer, self.version = model.eval(), tokenizer, 0
        self.closing_ids = tokenizer.encode(closing_text, allow_special=True)
        parameter = next(model.parameters())
        rows, length = self.limits.slots + self.limits.lanes, self.limits.max_length
        cache = SlotCache(model.config, rows, length, parameter.dtype, parameter.device)
        self.device = parameter.device
        self.scheduler = Scheduler(cache, self.limits.slots, self.limits.lanes)
        self._lock = threading.Lock()  # held while a step or a weight update touches the model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._pump: asyncio.Task[None] | None = None
        self._progress: asyncio.Event | None = None

    async def generate(
        self, prompt_ids: Ids[int], params: SamplingParams, n: int = 1
    ) -> list[Completion]:
        """See `Generate.generate`; raises OpenQwQError where the prompt leaves no room."""
        sequences = self._sequences(prompt_ids, params, n)
        self.scheduler.waiting.append(Group(list(sequences)))
        try:
            while any(s.finish_reason is None for s in sequences):
                await self._step_done()
        finally:
            self._cancel(sequences)
        return [s.completion() for s in sequences]

    async def stream(
        self, prompt_ids: Ids[int], params: SamplingParams
    ) -> AsyncIterator[TokenEvent]:
        """See `Generate.stream`."""
        sequences = self._sequences(prompt_ids, params, 1)
        (sequence,) = sequences
        self.scheduler.waiting.append(Group(list(sequences)))
        sent = 0
        try:
            while sequence.finish_reason is None:
                await self._step_done()
                while sent < len(sequence.token_ids):
                    last = sent == len(sequence.token_ids) - 1
                    yield TokenEvent(
                        sequence.token_ids[sent],
                        sequence.log_probs[sent],
                        sequence.sampled_mask[sent],
                        sequence.finish_reason if last else None,
                    )
                    sent += 1
        finally:
            self._cancel(sequences)

    def push(self, named_params: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copy new weights in (see `WeightLink`). Refused while sequences run on the old ones."""
        with self._lock:
            if self.scheduler.busy():
                raise RuntimeError("weights pushed while sequences are running")
            own = self.model.state_dict()
            with torch.no_grad():
                for name, value in named_params:
                    own[name].copy_(value)
            self.version = version

    def close(self) -> None:
        """Stop the engine's thread."""
        self._thread.shutdown(wait=True)

    def _sequences(self, prompt_ids: Ids[int], params: SamplingParams, n: int) -> list[Sequence]:
        if not prompt_ids:
            raise OpenQwQError("the prompt is empty: give at least one token")
        room = self.limits.max_length - len(prompt_ids)
        if room < 1:
            raise OpenQwQError(
                f"the prompt has {len(prompt_ids)} tokens, {1 - room} too many for a context of "
                f"{self.limits.max_length}: shorten it or raise engine.max_length"
            )
        ids, limit = list(prompt_ids), min(params.max_tokens, room)
        markers = self.tokenizer.think_open_id, self.tokenizer.think_close_id
        thinking = starts_in_thinking(self.tokenizer, ids)
        return [
            Sequence(
                ids, params, params.seed + i, limit, ThinkTracker(*markers, thinking), self.closing_ids
            )
            for i in range(n)
        ]

    def _cancel(self, sequences: list[Sequence]) -> None:
        if any(s.finish_reason is None for s in sequences):
            with self._lock:
                self.scheduler.cancel(sequences)

    async def _step_done(self) -> None:
        """Wait for the end of the next step, starting the pump if it is not running."""
        if self._pump is None or self._pump.done():
            self._progress = asyncio.Event()
            self._pump = asyncio.create_task(self._run())
        assert self._progress is not None
        progress = asyncio.create_task(self._progress.wait())
        await asyncio.wait((progress, self._pump), return_when=asyncio.FIRST_COMPLETED)
        progress.cancel()
        if self._pump.done():
            self._pump.result()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self.scheduler.busy():
            await loop.run_in_executor(self._thread, self._step)
            assert self._progress is not None
            self._progress.set()
            self._progress = asyncio.Event()

    def _step(self) -> None:
        with self._lock, torch.inference_mode():
            self.scheduler.admit()
            self._prefill()
            self.scheduler.retire()
            self._decode()
            self.scheduler.retire()

    def _prefill(self) -> None:
        plan = self.scheduler.chunks(self.limits.prefill_tokens)
        if not plan:
            return
        counts = [count for _, count in plan]
        lanes, starts = [g.lane for g, _ in plan], [g.cached for g, _ in plan]
        token_ids = [i for g, n in plan for i in g.members[0].prompt_ids[g.cached : g.cached + n]]
        hidden = self._forward(token_ids, lanes, starts, counts)
        lasts = torch.tensor(counts).cumsum(0) - 1
        drawn: list[Sequence] = []
        rows: list[int] = []
        for row, (group, count) in enumerate(plan):
            group.cached += count
            if group.remaining == 0:
                members = self.scheduler.fork(group)
                drawn += members
                rows += [int(lasts[row])] * len(members)
        if drawn:
            self._draw(drawn, self.model.logits(hidden[rows]))

    def _decode(self) -> None:
        running = self.scheduler.running
        if not running:
            return
        token_ids = [s.token_ids[-1] for s in running]
        starts = [len(s.prompt_ids) + len(s.token_ids) - 1 for s in running]
        hidden = self._forward(token_ids, range(len(running)), starts, [1] * len(running))
        self._draw(running, self.model.logits(hidden))

    def _forward(
        self, token_ids: list[int], slots: Ids[int], starts: list[int], counts: list[int]
    ) -> Tensor:
        attend = CacheAttention(self.scheduler.cache, slots, starts, counts)
        ids = torch.tensor(token_ids, device=self.device)
        hidden: Tensor = self.model(ids, attend.position_ids, attend)
        return hidden

    def _draw(self, sequences: list[Sequence], logits: Tensor) -> None:
        """Append a sampled or forced token to each sequence from its row of `logits`."""
        params = [s.params for s in sequences]
        steps = [len(s.token_ids) for s in sequences]
        token_ids, log_probs = sample(logits, params, [s.seed for s in sequences], steps)
        drawn = zip(sequences, token_ids.tolist(), log_probs.tolist(), strict=True)
        for sequence, token_id, log_prob in drawn:
            forced = sequence.next_forced()
            if forced is None:
                sequence.append(token_id, log_prob, True, self.version)
            else:
                sequence.append(forced, 0.0, False, self.version)
