"""Rules on the thinking itself, which no judge of the answer sees: format, language, length."""

import unicodedata
from collections.abc import Mapping
from dataclasses import replace

from openqwq.types import Score, Task, Verifier

MARKERS = ("<think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
MIN_CONSISTENCY = 0.9  # share of the thinking's words


class ThinkingRules:
    """A verifier whose value loses the share `penalty` if the thinking is not in order.

    With the whole of it lost, the verdict is `wrong`. Parts: `format` (thinking and answer are
    there, the thinking ends once and holds no marker), `language` (at least `MIN_CONSISTENCY` of
    its words are in `script`, by Unicode's names: LATIN, CJK, CYRILLIC, ...), `budget` (at most
    `limit` words). Errors and cut-off attempts pass through.
    """

    def __init__(
        self, judge: Verifier, limit: int, script: str = "LATIN", penalty: float = 1.0
    ) -> None:
        self._judge = judge
        self._limit = limit
        self._script = script
        self._penalty = penalty

    async def score(self, task: Task, completion: str) -> Score:
        """See the class."""
        score = await self._judge.score(task, completion)
        if score.status in ("error", "truncated"):
            return score
        parts = self._parts(completion)
        broken = [name for name, held in parts.items() if not held]
        score = replace(score, parts={**score.parts, **parts})
        if not broken:
            return score
        value = score.value * (1 - self._penalty)
        detail = f"thinking: {', '.join(broken)}"
        if not value:
            return replace(score, value=value, status="wrong", detail=detail)
        return replace(score, value=value, detail=detail)

    def _parts(self, completion: str) -> Mapping[str, float]:
        thinking, *answers = completion.split("</think>")
        whole = len(answers) == 1 and bool(thinking.strip()) and bool(answers[0].strip())
        clean = not any(marker in thinking for marker in MARKERS)
        consistent = language_consistency(thinking, self._script) >= MIN_CONSISTENCY
        return {
            "format": float(whole and clean),
            "language": float(consistent),
            "budget": float(len(thinking.split()) <= self._limit),
        }


def language_consistency(text: str, script: str) -> float:
    """Share of the words of `text` whose letters are all of `script`; numbers and signs are none.

    DeepSeek-R1's reward against mixed languages (arXiv 2501.12948, section 2.3.2); 1 for a text
    without letters.
    """
    words = 0
    own = 0
    for word in text.split():
        letters = list(filter(str.isalpha, word))
        if letters:
            words += 1
            own += all(
                unicodedata.name(letter, "").startswith(script) for letter in letters
            )
    return own / words if words else 1.0
