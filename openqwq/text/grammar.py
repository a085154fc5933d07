"""Grammars that an answer must follow: JSON of a schema, tool calls, or any llguidance grammar.

A grammar never governs the thinking: it begins with the answer, at the first token after
`</think>`. Added tokens (`<tool_call>`, `<|im_end|>`) are not text: no string can hold one.
"""

import json
from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache
from typing import Any

from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

# Pretty-printing is allowed, endless spaces are not.
_BLANKS = {"whitespace_pattern": r"[ \n]{1,24}"}
_NO_ARGUMENTS = {"type": "object", "additionalProperties": False}
_TEMPLATE_FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def json_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of JSON that a schema accepts (`{"type": "object"}`: any object).

    Raises OpenQwQError for a schema that is invalid or uses a keyword that cannot be enforced.
    """
    grammar = _lark("/\\n{0,2}/ answer", answer=_json(schema, _BLANKS))
    _require_valid(grammar, None)
    return grammar


def tool_call_grammar(
    tools: Sequence[Mapping[str, Any]],
    parallel: bool = True,
    answer: Mapping[str, Any] | None = None,
) -> str:
    """The grammar of one call, or several, of `tools` as chat templates write them.

    JSON of the schema `answer`, if there is one, may come instead.

    `tools` are specifications, bare or as `{"type": "function", "function": ...}`; give one to
    force that one. Arguments follow each tool's schema; without one there are none. Raises
    OpenQwQError for a bad schema.
    """
    if not tools:
        raise OpenQwQError("a tool call is required but there are no tools: give at least one")
    functions = [tool.get("function", tool) for tool in tools]
    rules = {
        f"call_{i}": _json(
            {
                "type": "object",
                "properties": {
                    "name": {"const": function["name"]},
                    "arguments": function.get("parameters") or _NO_ARGUMENTS,
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
                "$defs": (function.get("parameters") or {}).get("$defs", {}),
            },
            _TEMPLATE_FORM,
        )
        for i, function in enumerate(functions)
    }
    calls, other = " | ".join(rules), ""
    if answer is not None:
        rules["answer"], other = _json(answer, _BLANKS), " | answer"
    for rule in rules.values():
        _require_valid(_lark("answer", answer=rule), None)
    one = f'<tool_call> "\\n" ({calls}) "\\n" </tool_call>'
    more = f' ("\\n" {one})*' if parallel else ""
    return _lark(f"/\\n{{0,2}}/ ({one}{more}{other})", **rules)


class AnswerGrammar:
    """Which tokens may come next in one answer; one of `end_ids` ends it.

    Raises OpenQwQError for a bad grammar.
    """

    def __init__(self, tokenizer: Tokenizer, grammar: str) -> None:
        tokens = _tokens(tokenizer)
        _require_valid(grammar, tokens)
        self.end_ids = tokenizer.eos_ids
        self._matcher: Any = _llguidance().LLMatcher(tokens, grammar, log_level=0)

    def fork(self) -> "AnswerGrammar":
        """Another answer at the same place of the same grammar."""
        other = copy(self)
        other._matcher = self._matcher.deep_copy()
        return other

    def allowed(self) -> bytes:
        """One byte per id of the tokenizer: not 0 where the token may come next."""
        mask: bytes = self._matcher.compute_logit_bias()
        if self._matcher.is_error():
            raise OpenQwQError(f"the grammar cannot go on: {self._matcher.get_error()}")
        return mask

    def accept(self, token_id: int) -> None:
        """Advance by a token that `allowed` allowed."""
        if not self._matcher.consume_token(token_id):
            raise OpenQwQError(f"the grammar refuses token {token_id}: {self._matcher.get_error()}")


def _json(schema: Mapping[str, Any], form: Mapping[str, Any]) -> str:
    own = schema.get("x-guidance", {})
    if not isinstance(own, Mapping):
        raise OpenQwQError(f"x-guidance is {own!r:.100}: make it an object, or leave it out")
    return "%json " + json.dumps({**schema, "x-guidance": {**form, **own}})


def _lark(start: str, **rules: str) -> str:
    return "\n".join(
        ["%llguidance {}", f"start: {start}", *(f"{k}: {v}" for k, v in rules.items())]
    )


def _require_valid(grammar: str, tokens: Any) -> None:
    fault = _llguidance().LLMatcher.validate_grammar(grammar, tokens)
    if fault and not fault.startswith("WARNING"):
        raise OpenQwQError(f"the grammar or schema is not usable: {fault.splitlines()[0]}")


@lru_cache(maxsize=8)
def _tokens(tokenizer: Tokenizer) -> Any:
    """The tokenizer as llguidance sees it; building its trie takes a second for 150,000 tokens."""

    class Vocabulary:
        eos_token_id, bos_token_id = tokenizer.eos_ids[0], None
        tokens = tuple(tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size))
        special_token_ids = tuple(tokenizer.added_tokens.values())

        def __call__(self, text: str) -> list[int]:
            return tokenizer.encode(text)

    library = _llguidance()
    return library.LLTokenizer(
        library.TokenizerWrapper(Vocabulary()), eos_token=list(tokenizer.eos_ids)
    )


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise OpenQwQError(
            "grammars need the package llguidance: pip install 'openqwq[serve]'"
        ) from error
    return llguidance
