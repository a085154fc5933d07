"""Environments of the `verifiers` package (0.1.x) as ours.

Such an environment drives its own rollout and asks a client for each reply. Here the client is a
relay: it hands the question out and waits until the episode's `step` brings the model's reply.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from openqwq.agent.call import run_calls
from openqwq.types import Message, Observation, OpenQwQError, Score, Task


class VerifiersEnvironment:
    """Wraps a `verifiers.Environment`, e.g. what `verifiers.load_environment(name)` returns.

    Its rubric must give rewards from 0 to 1. Raises OpenQwQError without `verifiers` 0.1.14 or
    later in 0.1.
    """

    def __init__(self, environment: Any, name: str) -> None:
        try:
            from verifiers.clients import Client
            from verifiers.errors import OverlongPromptError
        except ImportError as error:
            raise OpenQwQError(
                f"the package verifiers is missing or of another kind ({error}):"
                " pip install 'verifiers>=0.1.14,<0.2'"
            ) from error
        self.environment, self.name = environment, name
        # Its client is abstract in parts that a relay, which answers whole requests, never needs.
        self.relay = type("Relay", (Client,), dict.fromkeys(Client.__abstractmethods__))
        self.too_long = OverlongPromptError

    def tasks(self, split: str) -> list[Task]:
        """Its own training rows ("train"), or those it evaluates on ("held_out")."""
        rows = self._rows(split)
        defined = self.environment.tool_defs or []
        tools = tuple(
            {
                "type": "function",
                "function": {
                    "name": each.name,
                    "description": each.description,
                    "parameters": each.parameters,
                },
            }
            for each in defined
        )
        return [
            Task(
                id=f"{self.name}:{row['example_id']}",
                kind=self.name,
                messages=tuple(_message(each) for each in row["prompt"]),
                verifier="",
                environment=f"verifiers:{self.name}",
                reference=row,
                tools=tools,
            )
            for row in rows
        ]

    def _rows(self, split: str) -> list[dict[str, Any]]:
        """Without data to evaluate on there is nothing held out."""
        if split == "train":
            return list(self.environment.get_dataset().to_list())
        if getattr(self.environment, "eval_dataset", None) is None:
            return []
        return list(self.environment.get_eval_dataset().to_list())

    async def reset(self, task: Task, seed: int) -> "VerifiersEpisode":
        """See `Environment.reset`; `task` must be one of `tasks`."""
        episode = VerifiersEpisode(self, cast(Mapping[str, Any], task.reference))
        first = await episode.next_prompt()
        if first != list(task.messages):
            await episode.close()
            raise OpenQwQError(f"{self.name} opens task {task.id} with another prompt: {first!r}")
        return episode


class VerifiersEpisode:
    """One rollout, which runs in a task of its own and waits for `step`."""

    def __init__(self, owner: VerifiersEnvironment, row: Mapping[str, Any]) -> None:
        self._owner = owner
        self._shown = 0  # messages of the rollout that the model has seen or said
        self._asked: asyncio.Queue[tuple[list[Any], asyncio.Future[Any]]] = asyncio.Queue()
        self._pending: asyncio.Future[Any] | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client = owner.relay(None)
        client.get_response = self._relay
        self._rollout = asyncio.ensure_future(owner.environment.rollout(row, client, "openqwq", {}))

    async def _relay(self, prompt: list[Any], *_: Any, **__: Any) -> Any:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.put_nowait((prompt, reply))
        await asyncio.wait({reply, self._closed}, return_when=asyncio.FIRST_COMPLETED)
        if not reply.done():
            raise self._owner.too_long("no further reply")
        return reply.result()

    async def next_prompt(self) -> list[Message] | None:
        """What the environment said since the last reply; None where its rollout is over."""
        asking = asyncio.ensure_future(self._asked.get())
        try:
            await asyncio.wait({asking, self._rollout}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return None
        finally:
            asking.cancel()
        prompt, self._pending = asking.result()
        new = [_message(each.model_dump()) for each in prompt[self._shown :]]
        self._shown = len(prompt) + 1  # the reply to come is the environment's next message
        return new

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Observation:
        """See `Episode.step`; of malformed calls the environment hears nothing."""
        complaints = await run_calls({}, [], malformed_calls)
        told = tuple(complaint.message() for complaint in complaints)
        if malformed_calls and not reply.get("tool_calls"):
            return Observation(told, False)
        if self._pending is None or self._pending.done():
            raise OpenQwQError("the rollout is over: no further reply can be taken")
        self._pending.set_result(_response(reply))
        new = await self.next_prompt()
        return Observation((*(new or ()), *told), new is None)

    async def score(self) -> Score:
        """The rubric's reward; `truncated` where the rollout was not over."""
        cut = not self._rollout.done()
        state = await self._finish()
        if cut:
            return Score(0.0, "truncated", detail="the rollout was not over")
        if state is None or state.get("error"):
            problem = self._rollout.exception() if state is None else state["error"]
            return Score(0.0, "error", detail=f"{self._owner.name}: {problem!r}")
        try:
            await self._owner.environment.rubric.score_rollout(state)
        except Exception as error:  # a rubric is foreign code: its failure is not the model's
            return Score(0.0, "error", detail=f"{self._owner.name}: {error!r}")
        reward = state["reward"]
        if not 0 <= reward <= 1:
            detail = f"{self._owner.name} gave the reward {reward}: weigh its rubric to 0 to 1"
            return Score(0.0, "error", detail=detail)
        parts = {name: float(value) for name, value in (state["metrics"] or {}).items()}
        return Score(float(reward), "correct" if reward == 1 else "wrong", parts)

    async def close(self) -> None:
        """See `Episode.close`."""
        await self._finish()

    async def _finish(self) -> Any:
        """End the rollout where it stands; its state, or None where it failed."""
        if not self._closed.done():
            self._closed.set_result(None)
        await asyncio.wait({self._rollout})
        return None if self._rollout.exception() else self._rollout.result()


def _message(given: Mapping[str, Any]) -> Message:
    return cast(Message, {"role": given["role"], "content": _text(given["content"])})


def _text(content: Any) -> str:
    """A content that is text or a list of parts, of which only texts can be shown."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or f"[{part.get('type')}]" for part in content or [])


def _response(reply: Message) -> Any:
    from verifiers.types import Response, ResponseMessage, ToolCall

    calls = [
        ToolCall(id=f"call_{number}", name=call["name"], arguments=json.dumps(call["arguments"]))
        for number, call in enumerate(reply.get("tool_calls", []))
    ]
    message = ResponseMessage(
        content=reply["content"],
        tool_calls=calls or None,
        finish_reason="tool_calls" if calls else "stop",
        is_truncated=False,
    )
    return Response(id="", created=int(time.time()), model="openqwq", message=message)


def load_environment(name: str, options: Mapping[str, Any]) -> VerifiersEnvironment:
    """The environment that `verifiers` knows as `name`, made with `options`."""
    try:
        import verifiers
    except ImportError as error:
        raise OpenQwQError(
            f"verifiers:{name} needs the package verifiers ({error}): pip install verifiers"
        ) from error
    return VerifiersEnvironment(verifiers.load_environment(name, **options), name)
