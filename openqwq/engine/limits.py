"""How much work an engine does at once."""

import math
from dataclasses import dataclass

from openqwq.types import OpenQwQError


@dataclass(frozen=True)
class EngineLimits:
    """How much runs at once: `slots` sequences of at most `max_length` tokens, prompt included;
    `prefill_tokens` prompt tokens a step, of `lanes` prompts at a time, and no more than take about
    `prefill_seconds`: a prompt that is cancelled keeps others waiting for so long.
    """

    slots: int = 256
    max_length: int = 2048
    prefill_tokens: int = 4096
    lanes: int = 16
    # a finite one makes numbers depend on the machine's load
    prefill_seconds: float = math.inf

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise OpenQwQError(f"engine.{name} is {value}: it must be at least 1")
