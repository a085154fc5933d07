"""Grammars that an answer must follow: JSON of a schema, tool calls, or any llguidance grammar.

A grammar never governs the thinking: it begins with the answer, at the first token after
`</think>`. Added tokens (`<tool_call>`, `<|im_end|>`) are not text: no string can hold one.
"""

import json
import re
from collections.abc import Mapping, Sequence
from copy import copy
from functools import lru_cache
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote

from openqwq.text.forms import CallForm, call_form
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

# Pretty-printing is allowed however deep, endless spaces are not. llama.cpp does not keep to the
# limit, and a reply that exceeds it ends there with an error.
_BLANKS = {"whitespace_pattern": r"[ \n]{1,200}"}
_NO_ARGUMENTS = {"type": "object", "additionalProperties": False}
# Of what no grammar can enforce, the model is trusted with what is not strict.
_LOOSE = {"lenient": True, "coerce_one_of": True}
_TEMPLATE_FORM = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


def json_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of JSON that a schema accepts (`{"type": "object"}`: any object).

    Raises OpenQwQError for a schema that is invalid or uses a keyword that cannot be enforced.
    """
    grammar = _lark("/\\n{0,2}/ answer", answer=_json(schema, _BLANKS))
    _require_valid(grammar, None)
    return grammar


def tool_call_grammar(
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, Any]],
    parallel: bool = True,
    answer: Mapping[str, Any] | None = None,
) -> str:
    """The grammar of one call, or several, of `tools` in the form the tokenizer's template writes.

    JSON of the schema `answer`, if there is one, may come instead. `tools` are specifications, bare
    or as `{"type": "function", "function": ...}`; give one to force that one. Arguments follow each
    tool's schema; without one there are none. Keywords that cannot be enforced are left to the
    model, but not those of a `strict` tool. Raises OpenQwQError for them and for a bad schema.
    """
    if not tools:
        raise OpenQwQError(
            "a tool call is required but there are no tools: give at least one"
        )
    form = call_form(tokenizer)
    rules: dict[str, str] = {}
    calls: list[str] = []
    for number, tool in enumerate(tools):
        function = tool.get("function", tool)
        schema = function.get("parameters") or _NO_ARGUMENTS
        if not function.get("strict"):
            schema = {**schema, "x-guidance": {**_LOOSE, **_guidance(schema)}}
        between = _with_markers(tokenizer, form.between)
        calls.append(
            _call(f"arguments_{number}", function["name"], schema, form, rules, between)
        )
    rules["call"] = " | ".join(f"({call})" for call in calls)
    start = _around("call", form, parallel and not form.one_a_turn, tokenizer)
    if answer is not None:
        rules["answer"] = _json(answer, _BLANKS)
        header = ""
        if tokenizer.writes_channels:
            header = _with_markers(tokenizer, "<|channel|>final<|message|>")
        start = f"{start} | {header} answer"
    for name, rule in rules.items():
        if rule.startswith("%json"):
            _require_valid(_lark(name, **{name: rule}), None)
    if tokenizer.writes_channels:
        return _lark(start, **rules)
    return _lark(f"/\\n{{0,2}}/ ({start})", **rules)


def _call(
    rule: str,
    name: str,
    schema: Mapping[str, Any],
    form: CallForm,
    rules: dict[str, str],
    between: str,
) -> str:
    """One tool's call without what stands around it; its schema's rules are added to `rules`."""
    properties = schema.get("properties") or {}
    if form.kind == "parameters":
        parts = [_parameter(rule, key, schema, rules) for key in properties]
        return " ".join([f'"<function={name}>\\n"', *parts, '"</function>"'])
    if form.kind == "pythonic":
        return f'{_text(name + "(")} {_keywords(rule, schema, rules)} ")"'
    whole = schema if "type" in schema or "$ref" in schema else {**schema, "type": "object"}
    rules[rule] = _json(whole, _TEMPLATE_FORM)
    if form.kind == "named":
        return f"{_text(name)} {between} {rule}"
    head = _text(f'{{"name": {json.dumps(name)}, "{form.arguments_key}": ')
    if form.has_ids:
        call_id = _text(', "id": "')
        end = _text('"}')
        return f"{head} {rule} {call_id} /[a-zA-Z0-9]{{9}}/ {end}"
    return f'{head} {rule} "}}"'


def _parameter(
    rule: str, key: str, schema: Mapping[str, Any], rules: dict[str, str]
) -> str:
    """A parameter between tags: text as it is, anything else as JSON."""
    declared = schema["properties"][key]
    opening = _text(f"<parameter={key}>\n")
    closing = _text("\n</parameter>\n")
    if not isinstance(declared, dict) or declared.get("type") != "string":
        value = f"{_part_rule(rule, key, schema, rules)} {closing}"
    elif declared.get("enum") is not None or declared.get("const") is not None:
        # a null is how some clients write what they do not set
        value = f"({_choices(key, declared)}) {closing}"
    else:
        value = 'text_value "\\n"'
        # a pattern with a tag behind it would take the tag for text
        rules['text_value[suffix="</parameter>"]'] = "/(?s:.*)/"
    part = f"{opening} {value}"
    return part if key in schema.get("required", ()) else f"({part})?"


def _choices(key: str, declared: Mapping[str, Any]) -> str:
    """The texts that a parameter may be."""
    named = declared.get("enum")
    if named is None:
        named = [declared["const"]]
    texts: list[str] = []
    if isinstance(named, list):
        texts += [_text(choice) for choice in named if isinstance(choice, str)]
    if not texts:
        raise OpenQwQError(
            f"parameter {key} is a string, but {named!r:.100} names no text: name one"
        )
    return " | ".join(texts)


def _keywords(rule: str, schema: Mapping[str, Any], rules: dict[str, str]) -> str:
    """Keyword arguments, the required ones first."""
    required = list(schema.get("required", ()))
    keys = [key for key in schema.get("properties") or {} if key not in required]
    written = ""
    for key in reversed(keys):
        follows = f' (", " {written})?' if written else ""
        written = f"{_text(key + '=')} {_part_rule(rule, key, schema, rules)}{follows}"
    optional = ""
    if written:
        optional = f'(", " {written})?' if required else f"({written})?"
    given = [
        f"{_text(key + '=')} {_part_rule(rule, key, schema, rules)}" for key in required
    ]
    return ' ", " '.join(given) + f" {optional}"


def _part_rule(
    rule: str, key: str, schema: Mapping[str, Any], rules: dict[str, str]
) -> str:
    """The rule of one argument; references still lead into the whole schema."""
    name = f"{rule}_{len(rules)}"
    part: dict[str, Any] = {"x-guidance": _guidance(schema)}
    if key in (schema.get("properties") or {}):
        pointer = quote(key.replace("~", "~0").replace("/", "~1"), safe="")
        part["$ref"] = f"#/$defs/tool/properties/{pointer}"
        part["$defs"] = {"tool": _below(schema, "/$defs/tool")}
    rules[name] = _json(part, _TEMPLATE_FORM)
    return name


def _below(schema: Any, place: str) -> Any:
    """A schema whose references hold where it stands at `place` of another."""
    if isinstance(schema, list):
        return [_below(each, place) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {
        key: _below(value, place) for key, value in schema.items() if key != "x-guidance"
    }
    reference = schema.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = f"#{place}{reference[1:]}"
    return moved


def _around(call: str, form: CallForm, parallel: bool, tokenizer: Tokenizer) -> str:
    """What stands around a call, or around several."""
    opening = _with_markers(tokenizer, form.opening)
    closing = _with_markers(tokenizer, form.closing)
    if tokenizer.added_tokens.get(form.closing) in tokenizer.eos_ids:
        closing = ""  # the reply's end, which follows every grammar
    if form.is_list:
        more = f' (", " {call})*' if parallel else ""
        return f'{opening} "[" {call}{more} "]" {closing}'
    one = f"{opening} {call} {closing}"
    may_repeat = parallel and form.kind != "named" and bool(form.opening)
    return f'{one} ("\\n" {one})*' if may_repeat else one


def _with_markers(tokenizer: Tokenizer, text: str) -> str:
    """A text of the template in which added tokens are these tokens, by id."""
    parts: list[str] = []
    for part in tokenizer.split_markers(text):
        token_id = tokenizer.added_tokens.get(part)
        if token_id is not None:
            parts.append(f"<[{token_id}]>")
        elif part:
            parts.append(_text(part))
    return " ".join(parts)


def _text(text: str) -> str:
    return json.dumps(text)


def opening_first(grammar: str, opening_id: int) -> str:
    """The same grammar, or the one token that opens a thinking, and then nothing."""
    start = f"start: <[{opening_id}]> | only_answer\nonly_answer:"
    return re.sub(r"(?m)^start\s*:", start, grammar, count=1)


def answer_grammar(tokenizer: Tokenizer, grammar: str) -> "AnswerGrammar":
    """`AnswerGrammar` of these, compiled once for as long as others do not crowd it out.

    A request's grammar is checked when it is asked and followed when it is drawn.
    """
    return _compiled(tokenizer, grammar).fork()


@lru_cache(maxsize=16)
def _compiled(tokenizer: Tokenizer, grammar: str) -> "AnswerGrammar":
    return AnswerGrammar(tokenizer, grammar)


class AnswerGrammar:
    """Which tokens may come next in one answer; one of `end_ids` ends it.

    Raises OpenQwQError for a bad grammar.
    """

    def __init__(self, tokenizer: Tokenizer, grammar: str) -> None:
        if tokenizer.adds_a_space:
            # llama.cpp reads each token without the space it begins with
            raise OpenQwQError(
                f"llama.cpp cannot follow a grammar with the tokenizer of {tokenizer.source}, which"
                " puts a space before a text: leave the JSON schema or the forced call out"
            )
        tokens = _tokens(tokenizer)
        _require_valid(grammar, tokens)
        self.end_ids = _end_ids(tokenizer)
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
            raise OpenQwQError(
                f"the grammar refuses token {token_id}: {self._matcher.get_error()}"
            )


def _json(schema: Mapping[str, Any], form: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {**form, **_guidance(schema)}})


def _guidance(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema itself tells llguidance."""
    own = schema.get("x-guidance", {})
    if not isinstance(own, Mapping):
        raise OpenQwQError(
            f"x-guidance is {own!r:.100}: make it an object, or leave it out"
        )
    return own


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
        eos_token_id = tokenizer.eos_ids[0]
        bos_token_id = None
        tokens = tuple(tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size))
        special_token_ids = tuple(tokenizer.added_tokens.values())

        def __call__(self, text: str) -> list[int]:
            return tokenizer.encode(text, goes_on=True)

    library = _llguidance()
    return library.LLTokenizer(
        library.TokenizerWrapper(Vocabulary()), eos_token=list(_end_ids(tokenizer))
    )


def _end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids that end an answer: llama.cpp also draws the one that ends a message in a channel."""
    if tokenizer.writes_channels:
        return (*tokenizer.eos_ids, tokenizer.added_tokens["<|end|>"])
    return tokenizer.eos_ids


def can_compile() -> bool:
    """Whether the package that grammars need is there."""
    return find_spec("llguidance") is not None


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise OpenQwQError(
            "grammars need the package llguidance: pip install 'openqwq[serve]'"
        ) from error
    return llguidance
