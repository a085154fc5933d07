"""Messages in the form that a chat template reads, found by trying it on a small conversation.

transformers hands templates OpenAI's form: calls under `function`, and no content where a turn only
calls. Templates differ: some fail without content, some want it to be None, some want arguments as
JSON text, some show a call only where there is no content, many know no tools at all. What a
template cannot show is written into the text of the conversation, as Hermes' `<tool_call>` and
`<tool_response>` blocks.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from openqwq.text.rendering import AS_WRITTEN, AsWritten, ChatTemplate
from openqwq.types import Message

EmptyContent = Literal["left out", "none", "empty"]
EMPTY_CONTENTS: tuple[EmptyContent, ...] = ("left out", "none", "empty")
NAME = "probe_tool"
VALUE = "probe_value"
RESULT = "probe_result"
BROKEN = '{"probe_key": "probe_val'
SAID = "probe_text"
THOUGHT = "probe_thought"
THINKING = ("reasoning_content", "thinking", "reasoning")  # what templates call it
ARGUMENTS = {"probe_key": VALUE}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe_listed",
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {}},
    },
}
TOOLS_PROMPT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""  # Qwen's own words


@dataclass(frozen=True)
class HistoryForm:
    """What a template can show, and the form in which it must be given."""

    lists_tools: bool = True
    shows_calls: bool = True
    shows_results: bool = True
    shows_system: bool = True
    no_content: EmptyContent = "left out"  # of a turn that only calls
    arguments_as_text: bool = False
    calls_apart: bool = False  # calls need a turn without content
    one_call_a_turn: bool = False
    shows_broken: bool = False  # arguments that are no JSON, as they were written
    one_text: bool = False  # a turn with calls has content or thinking, not both
    needs_descriptions: bool = False  # of tools

    def listed(self, tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The tools as the template lists them; none where it does not."""
        if not self.lists_tools:
            return []
        if not self.needs_descriptions:
            return list(tools)
        described: list[Mapping[str, Any]] = []
        for tool in tools:
            function = {"description": "", **tool.get("function", tool)}
            described.append({**tool, "function": function})
        return described

    def messages(
        self, messages: Sequence[Message], tools: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """The conversation as the template must be given it."""
        turns: list[dict[str, Any]] = []
        waiting: list[dict[str, Any]] = []  # calls without a result so far
        unshown: list[dict[str, Any]] = []  # calls for turns of their own
        for message in messages:
            if message["role"] == "tool":
                answered = waiting[:1]
                waiting = waiting[1:]
                self._add_result(turns, message, answered)
                if unshown:
                    empty = Message(role="assistant", content="")
                    turns += self._calling(empty, [unshown.pop(0)])
            elif calls := message.get("tool_calls"):
                given = []
                for number, call in enumerate(calls):
                    openai_call = _openai_call(call, len(turns), number)
                    if (written := call.get("written")) is not None:
                        openai_call["function"]["arguments"] = self._broken(written)
                    given.append(openai_call)
                shown = given[:1] if self.one_call_a_turn else given
                turns += self._calling(message, shown)
                unshown = given[len(shown) :]
                waiting = list(given)
            else:
                turns.append(_without(message, "tool_calls"))
            if thinking := message.get("reasoning_content"):
                turns[-1] = self._thinking(turns[-1], thinking)
        listed = () if self.lists_tools else tools
        return self._with_system(turns, listed)

    def _thinking(self, turn: dict[str, Any], thinking: str) -> dict[str, Any]:
        """A turn with its thinking, under every name that templates read."""
        content = turn.get("content")
        if self.one_text and content and turn.get("tool_calls"):
            thinking = f"{thinking}\n\n{content}"
            turn = _without_content(turn, self.no_content)
        return {**turn, **dict.fromkeys(THINKING, thinking)}

    def _broken(self, written: str) -> Any:
        """Arguments that are no JSON object: their text, or a value where that cannot be shown."""
        if self.shows_calls and not self.shows_broken:
            return {"arguments": written}
        if self.shows_calls and not self.arguments_as_text:
            return {AS_WRITTEN: written}
        return written

    def _add_result(
        self,
        turns: list[dict[str, Any]],
        message: Message,
        answered: Sequence[Mapping[str, Any]],
    ) -> None:
        """Add a tool's result, which names the call that it answers if there is one."""
        if self.shows_results:
            result: dict[str, Any] = {**message}
            for call in answered:
                result |= {"tool_call_id": call["id"], "name": call["function"]["name"]}
            turns.append(result)
            return
        text = f"<tool_response>\n{message['content']}\n</tool_response>"
        if turns and turns[-1]["role"] == "user":
            turns[-1] = {**turns[-1], "content": f"{turns[-1]['content']}\n{text}"}
        else:
            turns.append({"role": "user", "content": text})

    def _calling(
        self, message: Message, calls: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """An assistant's turn with calls, which may take two."""
        content = message["content"]
        if not self.shows_calls:
            texts = [content] if content else []
            for call in calls:
                texts.append(f"<tool_call>\n{_call_text(call['function'])}\n</tool_call>")
            return [{**_without(message, "tool_calls"), "content": "\n".join(texts)}]
        if self.arguments_as_text:
            for call in calls:
                function = call["function"]
                if not isinstance(function["arguments"], str):
                    function["arguments"] = _json(function["arguments"])
        turn: dict[str, Any] = {**message, "tool_calls": calls}
        if not content:
            return [_without_content(turn, self.no_content)]
        if not self.calls_apart:
            return [turn]
        said = _without(message, "tool_calls")
        calling = {"role": "assistant", "tool_calls": calls}
        return [said, _without_content(calling, self.no_content)]

    def _with_system(
        self, turns: list[dict[str, Any]], listed: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Tools that the template does not list, and a system turn that it does not show."""
        texts = []
        if turns and turns[0]["role"] == "system" and (listed or not self.shows_system):
            texts.append(str(turns[0]["content"]))
            turns = turns[1:]
        if listed:
            texts.append(TOOLS_PROMPT.format(tools="\n".join(map(_json, listed))))
        if not texts:
            return turns
        text = "\n\n".join(texts)
        if self.shows_system:
            return [{"role": "system", "content": text}, *turns]
        if turns and turns[0]["role"] == "user":
            text = f"{text}\n\n{turns[0]['content']}"
            turns = turns[1:]
        return [{"role": "user", "content": text}, *turns]


@lru_cache(maxsize=64)
def history_form(template: ChatTemplate) -> HistoryForm:
    """The form that a template shows everything of, as far as it can."""
    lists_tools = "probe_listed" in _shown(template, [_user("a")], [TOOL])
    tools = [TOOL] if lists_tools else []
    function = _without(TOOL["function"], "description")
    listed_bare = _shown(template, [_user("a")], [{**TOOL, "function": function}])
    system = [{"role": "system", "content": SAID}, _user("a")]
    shows_system = SAID in _shown(template, system, [])
    usual = _shown(template, [_user("a")], tools)
    for arguments_as_text in (False, True):
        for no_content in EMPTY_CONTENTS:
            turn = _without_content(_call_turn(SAID, arguments_as_text), no_content)
            alone = _shown(template, [_user("a"), turn], tools)
            if not _shows_call(alone) or alone.count("None") > usual.count("None"):
                continue
            answered = [_user("a"), turn, _result()]
            shows_results = RESULT in _shown(template, answered, tools)
            both = _shown(
                template, [_user("a"), _call_turn(SAID, arguments_as_text)], tools
            )
            thoughtful = _call_turn(SAID, arguments_as_text)
            thoughtful |= dict.fromkeys(THINKING, THOUGHT)
            with_thinking = _shown(template, [_user("a"), thoughtful], tools)
            several = {**turn, "tool_calls": turn["tool_calls"] * 2}
            twice = _shown(template, [_user("a"), several], tools)
            broken = _without_content(_call_turn(SAID, arguments_as_text), no_content)
            broken["tool_calls"][0]["function"]["arguments"] = AsWritten(BROKEN)
            return HistoryForm(
                lists_tools,
                True,
                shows_results,
                shows_system,
                no_content,
                arguments_as_text,
                calls_apart=not _shows_call(both),
                one_call_a_turn=twice.count(VALUE) < 2,
                shows_broken=BROKEN in _shown(template, [_user("a"), broken], tools),
                one_text=bool(both) and not with_thinking,
                needs_descriptions=lists_tools and not listed_bare,
            )
    return HistoryForm(lists_tools, False, False, shows_system)


def call_rendering(template: ChatTemplate) -> tuple[str, str]:
    """A conversation in which the assistant says `SAID`, and one in which it makes a call."""
    form = history_form(template)
    tools = [TOOL] if form.lists_tools else []
    said = {"role": "assistant", "content": SAID}
    turn = _without_content(_call_turn(SAID, form.arguments_as_text), form.no_content)
    saying = _shown(template, [_user("a"), said], tools)
    calling = _shown(template, [_user("a"), turn], tools)
    return saying, calling


def tools_note(template: ChatTemplate) -> str:
    """What a user should know of tools with this template; empty where it lists them itself."""
    if history_form(template).lists_tools:
        return ""
    return "the chat template knows no tools: they are described in the system message"


def _shows_call(text: str) -> bool:
    """Whether a call is there by name, with arguments that are not a Python literal."""
    return NAME in text and VALUE in text and repr(ARGUMENTS) not in text


def _shown(
    template: ChatTemplate, turns: Sequence[Mapping[str, Any]], tools: Sequence[Any]
) -> str:
    """The rendering, empty where the template refuses."""
    variables = {"messages": turns, "tools": tools or None, "add_generation_prompt": False}
    try:
        return template.render(variables)
    except Exception:  # a template is foreign code and may raise anything
        return ""


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _result() -> dict[str, Any]:
    return {"role": "tool", "content": RESULT, "tool_call_id": "call00000", "name": NAME}


def _call_turn(content: str, arguments_as_text: bool) -> dict[str, Any]:
    arguments = _json(ARGUMENTS) if arguments_as_text else ARGUMENTS
    call = _openai_call({"name": NAME, "arguments": arguments}, 0, 0)
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def _openai_call(call: Mapping[str, Any], turn: int, number: int) -> dict[str, Any]:
    """OpenAI's form, with an id of nine characters as Mistral's templates demand."""
    function = call.get("function", call)
    kept = {"name": function["name"], "arguments": function["arguments"]}
    return {
        "id": f"call{turn % 1000:03}{number % 100:02}",
        "type": "function",
        "function": kept,
    }


def _call_text(function: Mapping[str, Any]) -> str:
    """A call in Hermes' form, broken arguments as they were written."""
    if isinstance(function["arguments"], str):
        return (
            f'{{"name": {_json(function["name"])}, "arguments": {function["arguments"]}}}'
        )
    return _json(function)


def _without_content(turn: Mapping[str, Any], how: EmptyContent) -> dict[str, Any]:
    """The turn with no content, in one of the ways in which templates expect that."""
    kept = _without(turn, "content")
    if how == "none":
        kept["content"] = None
    elif how == "empty":
        kept["content"] = ""
    return kept


def _without(turn: Mapping[str, Any], key: str) -> dict[str, Any]:
    kept = dict(turn)
    kept.pop(key, None)
    return kept


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
