"""Credit for the rules that hold while others do not: a denser signal to learn from."""

from dataclasses import replace

from openqwq.types import Score, Task, Verifier


class PartialCredit:
    """A verifier's value, of which `share` is replaced by the fraction of rules that hold.

    That fraction is the verdict's part `fraction`; the status stays as it was, and so does a
    verdict without that part.
    """

    def __init__(self, judge: Verifier, share: float) -> None:
        self._judge = judge
        self._share = share

    async def score(self, task: Task, completion: str) -> Score:
        """See the class."""
        score = await self._judge.score(task, completion)
        fraction = score.parts.get("fraction", score.value)
        value = (1 - self._share) * score.value + self._share * fraction
        return replace(score, value=value)
