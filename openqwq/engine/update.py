"""New weights that reach an engine piece by piece, without a second copy of the model.

The engine takes no step from `begin` to `commit`. An update that breaks off leaves it waiting: it
draws again when an update has come whole, and so never from half new weights.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from openqwq.engine.engine import Engine
from openqwq.model import lora
from openqwq.types import OpenQwQError

SHOWN = 3  # names in a refusal


class WeightUpdate:
    """The four phases of one engine's update; a phase out of turn raises OpenQwQError."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._waits = False  # whether the engine does, for this update
        self._version: int | None = None  # of the update that has begun
        self._whole = False
        self._adapter: dict[str, Tensor] | None = None

    def begin(self, version: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Stop the engine after its step, for weights of these names and shapes.

        An update that broke off makes way. Raises OpenQwQError, with nothing changed, for weights
        that are not the engine's.
        """
        adapts = lora.names_adapter(shapes)
        self._require_own(shapes, adapts)
        if not self._waits:
            self.engine.lock.acquire()
            self._waits = True
        self._version = version
        self._whole = False
        self._adapter = {} if adapts else None

    def take(self, named_params: Iterable[tuple[str, Tensor]]) -> None:
        """Lay out each weight on arrival; it may be overwritten once the next is asked for.

        An adapter is kept aside until `commit`, since it is small.
        """
        self._require(self._version is not None, "has not begun")
        if self._adapter is None:
            self.engine.model.take(named_params)
        else:
            for name, value in named_params:
                self._adapter[name] = value.clone()
        self._whole = True

    def finish(self) -> None:
        """See that everything came."""
        self._require(self._whole, "is not whole: begin again")

    def commit(self, version: int) -> None:
        """Draw with the new weights, as `version`, and reuse no cache that older ones filled."""
        self.finish()
        self._require(
            version == self._version, f"is another, not version {version}: begin again"
        )
        if self._adapter is None:
            self.engine.take_over(version)
        else:
            self.engine.take_over(version, self.engine.model.load_adapter(self._adapter))
        self._version = None
        self._whole = False
        self._waits = False
        self.engine.lock.release()

    def _require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            name = (
                "an update" if self._version is None else f"the update to {self._version}"
            )
            raise OpenQwQError(f"{name} {otherwise}")

    def _require_own(self, shapes: Mapping[str, tuple[int, ...]], adapts: bool) -> None:
        model = self.engine.model
        own = dict(model.shapes)
        if adapts:
            own = {name: p.shape for name, p in lora.named_parameters(model.own_layers)}
        wrong = sorted(own.keys() ^ shapes.keys())
        for name in sorted(own.keys() & shapes.keys()):
            if tuple(own[name]) != tuple(shapes[name]):
                wrong.append(f"{name} {list(shapes[name])} for {list(own[name])}")
        if wrong:
            raise OpenQwQError(
                f"the sampler holds another model than the learner: they differ in "
                f"{', '.join(wrong[:SHOWN])}; start both from one checkpoint"
            )
