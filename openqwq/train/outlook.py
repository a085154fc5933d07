"""What the miniature's run is about to do, and how long the whole of it still takes.

A bar shows how long its own stage takes. Someone who starts the demo wants to know about all of it,
and before the later stages have begun only earlier runs can tell.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

from openqwq.config import Config, RewardModelStage, Stage

# Seconds on two idle Zen 4 cores (bench/RESULTS.md). Only their proportions matter once a run has
# begun, as it shows how fast this machine is.
SECONDS_PER_STEP = {"sft": 0.55, "rl": 3.0, "reward_model": 2.0}
SECONDS_PER_EVALUATION = 20.0
SETTLED = 5.0  # expected seconds of work after which this machine's own pace is used

PURPOSE = {
    "sft": "copy worked solutions, a quarter of which think before they answer",
    "stage1": "RL on arithmetic and code: nothing but right answers is rewarded",
    "taste": "fit a reward model on pairs of the model's own answers",
    "stage2": "RL on instructions, preferences and a calculator",
}


@dataclass
class Outlook:
    """The parts of a run in order, each with the seconds that it is expected to take."""

    expected: dict[str, float]
    _started: float = field(default_factory=lambda: time.monotonic())
    _skipped: float | None = None  # expected seconds of what an earlier process had done

    def left(self, part: str, done: int, total: int) -> float | None:
        """Seconds to the end of the run, with `done` steps of `total` behind `part`.

        None for a part that is not on the list.
        """
        if part not in self.expected:
            return None
        behind = self._before(part) + self.expected[part] * done / max(1, total)
        if self._skipped is None:
            self._skipped = behind
        ahead = sum(self.expected.values()) - behind
        worked = behind - self._skipped
        if worked < SETTLED:
            return ahead
        return ahead * (time.monotonic() - self._started) / worked

    def _before(self, part: str) -> float:
        """Expected seconds of all that comes before `part`."""
        seconds = 0.0
        for name, expected in self.expected.items():
            if name == part:
                break
            seconds += expected
        return seconds


def outlook_of(config: Config) -> Outlook:
    """What to expect of a run whose stages are of the miniature's kinds and size."""
    expected: dict[str, float] = {}
    for stage in config.stages:
        steps, _ = _length(stage)
        expected[stage.name] = steps * SECONDS_PER_STEP.get(stage.kind, 0.0)
        if not isinstance(stage, RewardModelStage):
            expected[f"evaluate {stage.name}"] = SECONDS_PER_EVALUATION
    return Outlook(expected)


def introduction(config: Config, out: Path) -> str:
    """What `qwq demo` does: its stages, where the result goes, and about how long it takes."""
    minutes = round(sum(outlook_of(config).expected.values()) / 60)
    lines = [f"Training a small reasoning model from nothing, into {out}:"]
    for stage in config.stages:
        number, unit = _length(stage)
        what = PURPOSE.get(stage.name, stage.kind)
        lines.append(f"  {stage.name:<8} {number:>4} {unit:<6}  {what}")
    lines += [
        "Each policy is then evaluated on problems that training never sees.",
        f"About {minutes} minutes on two idle cores. Ctrl-C stops the run after the current step;"
        " the same command with --resume goes on.",
    ]
    return "\n".join(lines)


def _length(stage: Stage) -> tuple[int, str]:
    """How long a stage is, and in what unit its progress is counted."""
    if stage.steps:
        return stage.steps, "steps"
    return math.ceil(stage.epochs), "epochs"
