"""Continuous batching over one model: `Engine` implements the `Generate` seam."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from collections.abc import Sequence as Ids
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from openqwq.engine.adapters import NO_ADAPTER
from openqwq.engine.cache import CacheAttention, DecodeAttention, SlotCache
from openqwq.engine.drawing import Draw, extend
from openqwq.engine.graphs import WITHOUT_PADDING, DecodeGraphs
from openqwq.engine.limits import EngineLimits
from openqwq.engine.pace import Pace
from openqwq.engine.packed import PackedModel
from openqwq.engine.plain import PlainModel
from openqwq.engine.sampler import draw_plainly
from openqwq.engine.scheduler import EngineStatistics, Prefill, Scheduler
from openqwq.engine.scoring import MeanState, PromptReader, PromptScores
from openqwq.engine.sequence import Sequence, check_request, room_after
from openqwq.model import lora
from openqwq.model.device import without_memory
from openqwq.model.lora import Adapter
from openqwq.model.qwen2 import Qwen2
from openqwq.text.grammar import answer_grammar
from openqwq.text.stream import closing_ids, starts_in_thinking, think_tracker
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, OpenQwQError, SamplingParams, Steering, TokenEvent


class Engine:
    """Samples from a copy of `model` in its own layout; `push` brings later weights.

    The base of a model that an adapter hangs on is not copied, unless the engine `packs` it: that
    decodes a sixth faster and holds the base twice (`fit.room_for_pack`).
    A model that is `invariant` makes the engine so: its layout is kept, and a request's tokens and
    log-probs are the same, bit by bit, in any company and at any stage of the cache.

    One step prefills a budget of prompt tokens, then decodes one token for every running sequence.
    Steps run on `thread`, by default one of the engine's own, so that the event loop stays free.

    OpenMP gives each thread that computes a team of its own, and where all teams together outnumber
    the cores they sleep between any two operations: other computation in this process costs a
    fifth of its speed. So load the model in a thread that ends (`on_a_thread`), and where the
    caller itself computes in turn with the engine, as in training, give it `CallersThread`.
    """

    def __init__(
        self,
        model: Qwen2,
        tokenizer: Tokenizer,
        limits: EngineLimits | None = None,
        thread: Executor | None = None,
        device: torch.device | None = None,
        packs: bool = False,
    ) -> None:
        tokenizer.require_fits(model.config.vocab_size)
        self.limits = limits or EngineLimits()
        self.invariant = model.invariant
        self.model = (
            PlainModel(model) if self.invariant else PackedModel(model, device, packs)
        )
        self.device = self.model.device
        self.tokenizer = tokenizer
        self.version = 0
        self.closing_ids = closing_ids(tokenizer)
        on_gpu = self.device.type == "cuda"
        rows = self.limits.slots + self.limits.lanes
        if on_gpu and self.limits.slots > WITHOUT_PADDING:
            rows += 1
        length = self.limits.max_length
        cache = SlotCache(model.config, rows, length, self.model.dtype, self.device)
        self.graphs = DecodeGraphs(self.model, cache, self.limits.slots) if on_gpu else None
        self.scheduler = Scheduler(cache, self.limits.slots, self.limits.lanes)
        self.lock = threading.Lock()  # held while a step or an update touches the model
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._drawn_tokens = 0
        self._pace = Pace(self.limits.prefill_tokens, self.limits.prefill_seconds)
        self._pump: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()  # set at the end of the step, and replaced

    async def generate(
        self,
        prompt_ids: Ids[int],
        params: SamplingParams,
        n: int = 1,
        begun: Completion | None = None,
    ) -> list[Completion]:
        """See `Generate.generate`; raises OpenQwQError where the prompt leaves no room.

        What `interrupt` ends returns what it has, with the finish reason "cancelled". Given as
        `begun`, with n = 1 and the member's own seed, it goes on from there: the draws are those of
        a completion that was never interrupted.
        """
        if begun is not None and n != 1:
            raise OpenQwQError(
                f"one completion was begun, but {n} are asked for: ask for one"
            )
        sequences = self._submit(prompt_ids, params, n, begun=begun)
        try:
            while any(s.finish_reason is None for s in sequences):
                await self._step_done()
        finally:
            for sequence in sequences:
                sequence.cancel()
        return [s.completion() for s in sequences]

    async def score(
        self, token_ids: Ids[int], top_log_probs: int = 0, adapter: str = ""
    ) -> list[TokenEvent]:
        """See `Scores.score`."""
        scores = PromptScores(top_log_probs)
        await self._read(token_ids, scores, adapter)
        return scores.events

    async def embed(self, token_ids: Ids[int], adapter: str = "") -> list[float]:
        """See `Embeds.embed`."""
        states = MeanState()
        await self._read(token_ids, states, adapter)
        return states.unit()

    async def _read(self, token_ids: Ids[int], reader: PromptReader, adapter: str) -> None:
        """Show `reader` the states of every token, none of which is taken from the cache."""
        params = SamplingParams(temperature=0, max_tokens=1, adapter=adapter)
        (sequence,) = self._submit(token_ids, params, 1)
        sequence.reader = reader
        try:
            while sequence.finish_reason is None:
                await self._step_done()
        finally:
            sequence.cancel()
        sequence.completion()  # raises what made it fail

    async def stream(
        self, prompt_ids: Ids[int], params: SamplingParams, steering: Steering | None = None
    ) -> AsyncIterator[TokenEvent]:
        """See `Generate.stream`."""
        (sequence,) = self._submit(prompt_ids, params, 1, steering)
        sent = 0
        try:
            while True:
                event = sequence.event(sent)
                if event is not None:
                    sent += 1
                    yield event
                    if event.finish_reason:
                        return
                elif sequence.failure:
                    raise sequence.failure
                else:
                    await self._step_done()
        finally:
            sequence.cancel()

    def push(
        self,
        named_params: Iterable[tuple[str, Tensor]],
        version: int,
        in_flight: bool = False,
    ) -> None:
        """Copy new weights in (see `WeightLink`). Refused while sequences run on the old ones.

        A model with an adapter gets the adapter's weights alone: its base is frozen and shared.
        With `in_flight` running sequences continue: later tokens have the new version, while the
        keys and values of earlier ones are kept (PipelineRL, arXiv 2509.19128).
        """
        given = dict(named_params)
        with self.lock:
            if self.scheduler.unfinished() and not in_flight:
                raise RuntimeError("weights pushed while sequences are running")
            if lora.names_adapter(given):
                self.take_over(version, self.model.load_adapter(given))
            else:
                self.model.load(given.items())
                self.take_over(version)

    def take_over(self, version: int, adapter: int | None = None) -> None:
        """Call the weights `version` and outdate the cache: of `adapter` alone, if only it is new.

        The caller holds `lock` and has changed the model.
        """
        self.scheduler.cache.outdate(adapter)
        self.version = version

    def add_adapter(self, name: str, adapter: Adapter, default: bool = False) -> None:
        """Serve an adapter of the engine's base to requests that name it.

        With `default` also to those that name none. Raises OpenQwQError for a name that is taken,
        and in deterministic mode.
        """
        if self.invariant:
            raise OpenQwQError(
                f"deterministic mode cannot serve the adapter {name!r}: merge it"
            )
        with self.lock:
            self.model.adapters.add(name, adapter.layers, default)
            if self.graphs:
                self.graphs.forget()

    def interrupt(self) -> None:
        """End every request now, so that a training step need not wait for its longest completion.

        Call it from the event loop that asked.
        """
        for sequence in self.scheduler.unfinished():
            sequence.cancel()

    def statistics(self) -> EngineStatistics:
        """For metrics; may be asked at any time from any thread."""
        scheduler = self.scheduler
        running = len(scheduler.running)
        unfinished = len(scheduler.unfinished())
        return EngineStatistics(
            running=running,
            waiting=max(0, unfinished - running),
            prompt_tokens=scheduler.prompt_tokens,
            reused_prompt_tokens=scheduler.reused_tokens,
            drawn_tokens=self._drawn_tokens,
        )

    def close(self) -> None:
        """Stop the engine's thread; requests that wait or come later get a RuntimeError."""
        self._thread.shutdown(wait=True)

    def _submit(
        self,
        prompt_ids: Ids[int],
        params: SamplingParams,
        n: int,
        steering: Steering | None = None,
        begun: Completion | None = None,
    ) -> list[Sequence]:
        room = room_after(prompt_ids, self.limits.max_length)
        vocab_size = self.model.config.vocab_size
        check_request(prompt_ids, params, vocab_size, len(self.closing_ids))
        limit = min(params.max_tokens, room)
        adapter = self.model.adapters.number_of(params.adapter)
        thinking = starts_in_thinking(self.tokenizer, prompt_ids)
        grammar = answer_grammar(self.tokenizer, params.grammar) if params.grammar else None
        ids = list(prompt_ids)
        sequences = [
            Sequence(
                ids,
                params,
                params.seed + i,
                limit,
                think_tracker(self.tokenizer, thinking),
                self.closing_ids,
                grammar and grammar.fork(),
                steering,
                adapter,
                follows_grammars=True,
            )
            for i in range(n)
        ]
        if begun is not None:
            sequences[0].go_on_from(begun)
        self.scheduler.waiting.append(Prefill(list(sequences)))
        return sequences

    async def _step_done(self) -> None:
        """Wait for the end of a step, starting the pump if it is not running."""
        if self._pump is None or self._pump.done():
            self._progress = asyncio.Event()  # an old one may belong to another loop
            self._pump = asyncio.create_task(self._run())
        await self._progress.wait()

    async def _run(self) -> None:
        """Step until nothing is left; every exit has woken all that wait.

        First tokens are out before all that runs draws the next ones.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                if self.scheduler.waiting or self.scheduler.prefilling:
                    await loop.run_in_executor(self._thread, self._read_prompts)
                    self._wake()
                    await asyncio.sleep(0)
                await loop.run_in_executor(self._thread, self._draw_next)
                # Python 3.14 awaits what is done without a turn of the loop
                await asyncio.sleep(0)
            except Exception as error:  # whatever it is, each caller must learn of it
                failure = without_memory(error)
                for sequence in self.scheduler.unfinished():
                    sequence.cancel(failure)
            finally:
                self._wake()
            if not self.scheduler.unfinished():
                return

    def _wake(self) -> None:
        """Let all that wait look for new tokens."""
        self._progress.set()
        self._progress = asyncio.Event()

    def _read_prompts(self) -> None:
        with self.lock, torch.inference_mode():
            self.scheduler.admit()
            self._prefill()
            self.scheduler.retire()

    def _draw_next(self) -> None:
        with self.lock, torch.inference_mode():
            self.scheduler.retire()
            self._decode()
            self.scheduler.retire()

    def _prefill(self) -> None:
        chunks = self.scheduler.chunks(self._pace.begin())
        if not chunks:
            return
        counts = [count for _, count in chunks]
        lanes = [prefill.lane for prefill, _ in chunks]
        starts = [prefill.cached for prefill, _ in chunks]
        token_ids: list[int] = []
        adapters: list[int] = []
        for prefill, count in chunks:
            token_ids += prefill.token_ids[prefill.cached : prefill.cached + count]
            adapters += [prefill.adapter] * count

        cache = self.scheduler.cache
        attend = CacheAttention(cache, lanes, starts, counts, self.invariant)
        ids = torch.tensor(token_ids, device=self.device)
        hidden = self.model.forward(
            ids, attend.position_ids, attend, self._numbers(adapters)
        )
        cache.record(lanes, starts, counts, token_ids)
        self._pace.end(len(token_ids))

        lasts = torch.tensor(counts).cumsum(0) - 1
        drawn: list[Sequence] = []
        rows: list[int] = []
        for row, (prefill, count) in enumerate(chunks):
            if prefill.reader:
                end = int(lasts[row]) + 1
                following = prefill.token_ids[
                    prefill.cached + 1 : prefill.cached + 1 + count
                ]
                prefill.reader.add(hidden[end - count : end], following, self.model.logits)
            prefill.cached += count
            if prefill.remaining == 0:
                members = self.scheduler.fork(prefill)
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
        adapters = [s.adapter for s in running]
        plainly: Draw | None = None
        if self.graphs:
            logits = self.graphs.logits(token_ids, starts, adapters)
            plainly = self.graphs.draw
        else:
            logits = self._logits(token_ids, starts, adapters)

        rows = range(len(running))
        self.scheduler.cache.record(rows, starts, [1] * len(running), token_ids)
        self._draw(running, logits, plainly)

    def _logits(
        self, token_ids: list[int], starts: list[int], adapters: list[int]
    ) -> Tensor:
        """(rows, vocab) after row i's token, which goes to position `starts[i]` of slot i."""
        cache = self.scheduler.cache
        length = max(starts) + 1
        cache.reserve(length)
        slots = torch.arange(len(starts), device=self.device)
        ids = torch.tensor(token_ids, device=self.device)
        positions = torch.tensor(starts, device=self.device)
        attend = DecodeAttention(cache, slots, positions, length, self.invariant)
        hidden = self.model.forward(ids, positions, attend, self._numbers(adapters))
        return self.model.logits(hidden)

    def _draw(
        self, sequences: list[Sequence], logits: Tensor, plainly: Draw | None = None
    ) -> None:
        """Append a token to each sequence from its row of `logits` (rows, vocab)."""
        if plainly is None and not self.invariant:
            plainly = partial(draw_plainly, logits, exact=False)
        extend(sequences, logits, self.version, plainly)
        self._drawn_tokens += len(sequences)

    def _numbers(self, adapters: list[int]) -> Tensor | None:
        """Each token's adapter for the model; None where all use the base."""
        if all(number == NO_ADAPTER for number in adapters):
            return None
        return torch.tensor(adapters, device=self.device)
