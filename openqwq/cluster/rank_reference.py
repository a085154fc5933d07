"""What a policy is compared with, which every rank holds along with the one that it trains."""

from typing import ClassVar

from torch import Tensor

from openqwq.train.objective import Frozen
from openqwq.train.packing import MicroBatch


class RankReference:
    """What an objective carries to the ranks: there it asks what the process itself holds."""

    held: ClassVar[Frozen | None] = None

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """See `Learner.log_probs`."""
        assert RankReference.held is not None
        return RankReference.held.log_probs(batch)
