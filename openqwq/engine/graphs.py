"""Decoding on a GPU by CUDA graphs: a step is launched as a whole, not kernel by kernel.

A graph has fixed shapes, so there is one for each number of rows and length of context, rounded up
to 1, 2, 3, 4, 6, 8, 12, ...; it is made when it is first needed, in about the time of three steps.
"""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from openqwq.engine.adapters import NO_ADAPTER
from openqwq.engine.cache import DecodeAttention, SlotCache
from openqwq.engine.packed import PackedModel
from openqwq.engine.plain import PlainModel
from openqwq.engine.sampler import draw_plainly

LEAST_LENGTH = 128  # tokens
WITHOUT_PADDING = 4  # rows up to which each number has a graph of its own
_recording = threading.Lock()  # PyTorch records one graph at a time in a process

DecodeStep = Callable[[], None]


def rounded(count: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not below `count`."""
    step = 1 << max(0, count.bit_length() - 2)
    return -(-count // step) * step


class DecodeGraphs:
    """One new token for each of the first rows of `cache`, from `model`.

    A step of fewer rows than its graph has fills up with rows that write to the last row of
    `cache`, which no sequence may use where there are more than four `slots`. A `recorder` makes
    something replayable of a step; what it has made is dropped with it when the cache moves.
    """

    def __init__(
        self,
        model: PackedModel | PlainModel,
        cache: SlotCache,
        slots: int,
        recorder: Callable[[], Callable[[DecodeStep], DecodeStep]] | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.recorder = recorder or CudaRecorder

        rows = rounded(slots)
        device = model.device
        # token ids, slots, positions, adapters
        self.inputs = torch.zeros(4, rows, dtype=torch.long, device=device)
        self.outputs = torch.zeros(rows, model.config.vocab_size, device=device)
        self.draws = torch.zeros(rows, dtype=torch.float64, device=device)
        self.token_ids = torch.zeros(rows, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(rows, device=device)

        cache.before_moving = self.forget
        self.forget()

    def logits(
        self, token_ids: Sequence[int], starts: Sequence[int], adapters: Sequence[int] = ()
    ) -> Tensor:
        """Logits (rows, vocab) after each row's token, which follows the `starts` it has.

        `adapters` are the rows' numbers in the model's bank; empty: no row has one. The logits are
        good until the next call.
        """
        longest = max(starts) + 1
        self.cache.reserve(longest)
        cache_rows = self.cache.keys.shape[1]
        capacity = self.cache.keys.shape[3]
        count = len(token_ids)
        rows = min(rounded(count), cache_rows)
        length = min(rounded(max(longest, LEAST_LENGTH)), capacity)

        missing = rows - count
        zeros = [0] * missing
        last_slots = [cache_rows - 1] * missing
        numbers = list(adapters) or [NO_ADAPTER] * count
        numbers += [NO_ADAPTER] * missing
        inputs = torch.tensor(
            [
                [*token_ids, *zeros],
                [*range(count), *last_slots],
                [*starts, *zeros],
                numbers,
            ]
        )
        self.inputs[:, :rows].copy_(inputs)

        if (rows, length) not in self.steps:
            self.steps[rows, length] = self.record(self._forward(rows, length))
        self.steps[rows, length]()
        return self.outputs[:count]

    def draw(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """`draw_plainly` from the last logits by `draws` (rows,) fp64 from the CPU."""
        count = len(draws)
        rows = rounded(count)
        self.draws[:count].copy_(draws)
        if (rows, 0) not in self.steps:
            self.steps[rows, 0] = self.record(self._draw(rows))
        self.steps[rows, 0]()
        return self.token_ids[:count], self.log_probs[:count]

    def forget(self) -> None:
        """Drop what was recorded: tensors that it knows now lie elsewhere."""
        self.record = self.recorder()
        # by rows and length; 0: the draw
        self.steps: dict[tuple[int, int], DecodeStep] = {}

    def _forward(self, rows: int, length: int) -> DecodeStep:
        token_ids, slots, position_ids, adapters = self.inputs[:, :rows]

        def step() -> None:
            attend = DecodeAttention(self.cache, slots, position_ids, length)
            hidden = self.model.forward(token_ids, position_ids, attend, adapters)
            self.outputs[:rows] = self.model.logits(hidden)

        return step

    def _draw(self, rows: int) -> DecodeStep:
        def step() -> None:
            token_ids, log_probs = draw_plainly(self.outputs[:rows], self.draws[:rows])
            self.token_ids[:rows] = token_ids
            self.log_probs[:rows] = log_probs

        return step


class CudaRecorder:
    """Steps as CUDA graphs, whose intermediate results share their memory."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: DecodeStep) -> DecodeStep:
        """Run `step` once, so that kernels are loaded, then record it."""
        here = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            step()
        here.wait_stream(side)

        graph = torch.cuda.CUDAGraph()
        graphs = torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local")
        with _recording, graphs:
            step()
        return graph.replay
