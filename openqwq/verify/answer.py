"""What a completion answers: only the text after its thinking counts, never the thinking."""

import re

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


def final_answer(completion: str, thinking: bool = True) -> str | None:
    """The text after the first `</think>`, or None if the thinking never ends.

    A completion starts inside the thinking, which QwQ's template opens in the prompt. Of a model
    that does not think (`thinking` False) the whole completion is the answer.
    """
    _, end, answer = completion.partition("</think>")
    return (answer if end else None) if thinking else completion


def last_program(answer: str) -> str:
    """The last closed fenced code block; an answer without one is itself the program."""
    blocks = _FENCE.findall(answer)
    return blocks[-1] if blocks else answer
