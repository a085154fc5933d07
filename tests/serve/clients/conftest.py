"""A model that says what each client's first example needs, and the clients' own environments."""

import re
from collections.abc import Iterator, Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from scripted import Scripted

from openqwq.engine.open import OpenedModel
from openqwq.serve import routes_responses
from openqwq.serve.catalogue import Catalogue
from openqwq.serve.server import ServerOptions
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import SamplingParams

PLAIN = "The quick brown fox."
CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call>'
SUNNY = "It is sunny in Oslo."
CITY = '{"city": "Oslo", "degrees": 21}'
KNOWN = {
    "get_weather": '{"city": "Oslo"}',
    "exec_command": '{"cmd": "echo sunny"}',  # codex
    "Bash": '{"command": "echo sunny", "description": "Say it"}',  # Claude Code
}
SECONDS = 0.001  # between tokens: without a pause all of them travel as one event
FORM = "[[ ## answer ## ]]\nsunny\n\n[[ ## completed ## ]]"  # what dspy's adapter asks for


def answer(prompt: str, grammar: str | None) -> str:
    """What the model says behind its thinking."""
    system, _, talk = prompt.partition("<|im_start|>user")
    tools = re.findall(r'"name": "(\w+)"', system)
    seen = "<tool_response>" in talk or "Observation:" in talk
    if "final_answer" in tools and seen:  # smolagents answers by a call
        return CALL % ("final_answer", f'{{"answer": "{SUNNY}"}}')
    if seen:
        return SUNNY
    for name, arguments in KNOWN.items():
        if name in tools:
            return CALL % (name, arguments)
    if tools and grammar:
        # the result as a call, of a client that wants a structured answer
        return CALL % (tools[0], CITY)
    if grammar:
        return CITY
    return FORM if "[[ ## answer ## ]]" in prompt else PLAIN


class Puppet(Scripted):
    """Thinks a little, then says what `answer` makes of the prompt."""

    def text(self, prompt_ids: Sequence[int], params: SamplingParams) -> str:
        prompt = self.tokenizer.decode(prompt_ids)
        return f"let me see</think>\n\n{answer(prompt, params.grammar)}"


@pytest.fixture
def puppet(
    tokenizer: Tokenizer, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A server of the model `puppet`, which every other name means too.

    Its responses have the same ids in every run, since recorded requests refer to them.
    """
    numbers = count()
    fixed = SimpleNamespace(token_hex=lambda size: f"{next(numbers):0{2 * size}x}")
    monkeypatch.setattr(routes_responses, "secrets", fixed)
    model = OpenedModel(
        "puppet", Puppet(tokenizer, (), SECONDS), tokenizer, 200_000, "torch", "a test"
    )
    with serve(Catalogue.of(model, ["*"]), ServerOptions(slots=8)) as server:
        yield server
