"""vLLM's half of a push: an engine of its weight-transfer API over our own stream.

vLLM's workers import this module through `worker_extension_cls`, which registers the engine before
the model is loaded. The same code runs over gloo on a CPU and over NCCL on GPUs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from openqwq.cluster.meeting import Meeting
from openqwq.cluster.transfer import Manifest, Parameter, Receiver
from openqwq.cluster.vllm_messages import BACKEND


@dataclass
class StreamInit(WeightTransferInitInfo):  # type: ignore[misc]
    """The fields of a `Meeting`, and the number of the sampler's first receiver."""

    meeting: dict[str, Any]
    number: int


@dataclass
class StreamUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """The fields of a `Manifest`, its parameters side by side."""

    version: int
    ranks: int
    names: list[str]
    shapes: list[list[int]]
    dtypes: list[str]

    def manifest(self) -> Manifest:
        """As sender and receiver read it."""
        parameters: list[Parameter] = []
        for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True):
            parameters.append(Parameter(name, tuple(shape), getattr(torch, dtype)))
        return Manifest(self.version, self.ranks, tuple(parameters))


class StreamEngine(WeightTransferEngine[StreamInit, StreamUpdate]):  # type: ignore[misc]
    """One worker's way from the ranks; each worker of a wide sampler is a receiver."""

    init_info_cls = StreamInit
    update_info_cls = StreamUpdate
    _receiver: Receiver | None = None

    def init_transfer_engine(self, init_info: StreamInit) -> None:
        """Meet the ranks."""
        self.shutdown()
        number = init_info.number + self.parallel_config.rank
        self._receiver = Receiver(Meeting(**init_info.meeting), number)

    def start_weight_update(self) -> None:
        """Make the layers ready to be loaded again, one by one."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """See `WeightTransferEngine.update_weights`; a CPU has nothing to wait for."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: StreamUpdate) -> None:
        """Load the weights that the ranks send on arrival."""
        assert self._receiver is not None
        self._receiver.receive(update_info.manifest(), self.model.load_weights)

    def finish_weight_update(self) -> None:
        """Lay the loaded layers out for the kernels."""
        finalize_layerwise_reload(self.model, self.model_config)
        head: Any = getattr(self.model, "lm_head", None)
        tied = self.model_config.hf_config.tie_word_embeddings
        if head is not None and tied and self.device.type == "cpu":
            # A tied head was not loaded again, and keeps the old embedding in its packed form.
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """Leave the ranks."""
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None


class StreamExtension:
    """What vLLM asks for by name; that it was imported is enough."""


WeightTransferEngineFactory.register_engine(BACKEND, StreamEngine)
