"""How much of the prompts one step reads, so that a request waiting for it need not wait long."""

import math
import time

FIRST_TOKENS = 256  # of the first step, whose speed nobody knows yet
LEAST_TOKENS = 32


class Pace:
    """Lets a step read as many prompt tokens as take about `seconds`, and at most `most`.

    What a cancelled prompt keeps waiting is one step. The speed is that of the last step, so that
    it follows the machine's load.
    """

    def __init__(self, most: int, seconds: float = math.inf) -> None:
        self._most = most
        self._seconds = seconds
        self._speed = 0.0  # tokens a second, 0 until a step has been timed
        self._started = 0.0

    def begin(self) -> int:
        """Start a step: the tokens that it may read."""
        self._started = time.perf_counter()
        if math.isinf(self._seconds):
            return self._most
        tokens = self._speed * self._seconds if self._speed else FIRST_TOKENS
        return min(self._most, max(LEAST_TOKENS, int(tokens)))

    def end(self, tokens: int) -> None:
        """End a step that has read `tokens`; few of them say little about the speed."""
        if tokens >= LEAST_TOKENS:
            self._speed = tokens / (time.perf_counter() - self._started)
