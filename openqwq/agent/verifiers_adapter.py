"""Environments of the `verifiers` package (0.4 and later, its `verifiers.v1`) as ours.

Such an environment drives its own episode and asks an endpoint for each reply. Here the endpoint
hands the question out and waits until the episode's `step` brings the model's reply.
"""

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, TypeVar, cast

from openqwq.agent.call import run_calls
from openqwq.types import Message, Observation, OpenQwQError, Score, Task

INSTALL = "pip install 'openqwq[verifiers]'"
FULL_REWARD = 1.0 - 1e-6  # sums of weighted floats
Found = TypeVar("Found")


def load_environment(name: str, options: Mapping[str, Any]) -> "VerifiersEnvironment":
    """The environment that `verifiers` knows as `name`.

    `options` is what stands under `env` in a config of the package: `taskset`, `agent`, ...
    Raises OpenQwQError without the package, for an unknown name, for options it refuses, and for
    an environment that needs more than a conversation.
    """
    try:
        import verifiers.v1 as v1

        from openqwq.agent import verifiers_harness
    except ImportError as error:
        raise OpenQwQError(
            f"verifiers:{name} needs the package verifiers, 0.4 or later ({error}): {INSTALL}"
        ) from error
    verifiers_harness.register()
    settings = _settings(name, options)
    try:
        config = v1.resolve_env_config(settings)
        seats = [key for key, value in config if isinstance(value, v1.AgentConfig)]
        played = [key for key in seats if getattr(config, key).model is None]
        if len(played) != 1:
            raise OpenQwQError(
                f"verifiers:{name} has {len(played)} agents to play ({', '.join(played)}), and "
                "one model plays one: give the others a model in the table's options"
            )
        environment = v1.load_environment(_with_our_harness(config, played[0]))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise OpenQwQError(f"verifiers:{name} cannot be opened: {error}") from error
    return VerifiersEnvironment(environment, name)


def _settings(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    settings = dict(options)
    taskset = dict(settings.get("taskset", {}))
    taskset["id"] = name
    settings["taskset"] = taskset
    return settings


def _with_our_harness(config: Any, seat: str) -> Any:
    """`config` with its agent played in this process; raises OpenQwQError where it cannot be."""
    import verifiers.v1 as v1

    from openqwq.agent.verifiers_harness import HARNESS_ID

    agent = getattr(config, seat)
    needed = agent.harness
    if needed is None and config.taskset.id == v1.default_harness_id(config.taskset.id):
        needed = v1.default_harness_id(config.taskset.id)
    if needed is not None:
        raise OpenQwQError(
            f"verifiers:{config.taskset.id} names the harness {getattr(needed, 'id', needed)!r}: "
            "here a model talks and calls the environment's tools; leave the harness out"
        )
    update: dict[str, Any] = {"harness": v1.harness_config_type(HARNESS_ID)(id=HARNESS_ID)}
    if "runtime" not in agent.model_fields_set:
        update["runtime"] = v1.SubprocessConfig()  # of the environment's own tools
    return config.model_copy(update={seat: agent.model_copy(update=update)})


class VerifiersEnvironment:
    """Wraps a `verifiers.v1.Env`; what it serves is opened by the first `reset`."""

    def __init__(self, environment: Any, name: str) -> None:
        self.environment = environment
        self.name = name
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._endpoint: Any = None

    def tasks(self, split: str) -> list[Task]:
        """The tasks of its taskset, all of them for "train"; a share of them may be held out.

        Plays the first of them up to its first question, which says what tools there are.
        """
        taskset = self.environment.taskset
        if split != "train":
            return []
        if not taskset.bounded:
            raise OpenQwQError(
                f"verifiers:{self.name} makes tasks without end: limit them by an option of its "
                "taskset"
            )
        found = list(taskset)
        if not found:
            return []
        body = _in_new_loop(self._first_question(found[0]))
        tools = tuple(body.get("tools", ()))
        return [self._task(each, tools) for each in found]

    def _task(self, given: Any, tools: tuple[Mapping[str, Any], ...]) -> Task:
        from openqwq.agent.verifiers_harness import opening

        wire = opening(given.data.system_prompt, given.data.prompt)
        return Task(
            id=f"{self.name}:{given.data.idx}",
            kind=self.name,
            messages=tuple(_message(each) for each in wire),
            verifier="",
            environment=f"verifiers:{self.name}",
            reference=given,
            tools=tools,
            row=given.data.model_dump(mode="json"),
        )

    async def _first_question(self, given: Any) -> dict[str, Any]:
        try:
            episode = await self._begin(given)
            try:
                return episode.body
            finally:
                await episode.close()
        finally:
            await self.close()

    async def reset(self, task: Task, seed: int) -> "VerifiersEpisode":
        """See `Environment.reset`; `task` must be one of `tasks`."""
        episode = await self._begin(task.reference)
        if tuple(episode.first) != task.messages:
            await episode.close()
            raise OpenQwQError(
                f"verifiers:{self.name} opens task {task.id} with another prompt: {episode.first}"
            )
        return episode

    async def _begin(self, given: Any) -> "VerifiersEpisode":
        """An episode that has asked its first question."""
        import verifiers.v1 as v1

        await self._open()
        client = v1.EvalClientConfig(base_url=self._endpoint.url)
        episode = VerifiersEpisode(self.name, self._endpoint)
        context = v1.ModelContext("openqwq", client)
        run = self.environment.run_episode(given, context, on_trace=episode.join)
        await episode.begin(run)
        return episode

    async def _open(self) -> None:
        from openqwq.agent.verifiers_endpoint import Endpoint

        async with self._opening:
            if self._endpoint is not None:
                return
            endpoint = Endpoint()
            await endpoint.start()
            self._stack.push_async_callback(endpoint.stop)
            await self._stack.enter_async_context(self.environment.serving())
            self._endpoint = endpoint

    async def close(self) -> None:
        """Stop what `reset` opened."""
        await self._stack.aclose()
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._endpoint = None


class VerifiersEpisode:
    """One episode, which runs in a task of its own and waits for `step`."""

    def __init__(self, name: str, endpoint: Any) -> None:
        from openqwq.agent.verifiers_endpoint import Line

        self.body: dict[str, Any] = {}  # of the newest question
        self.first: list[Message] = []
        self._name = name
        self._endpoint = endpoint
        self._line: Any = Line()
        self._sessions: list[str] = []
        self._question: Any = None
        self._run: asyncio.Task[Any] | None = None

    def join(self, trace: Any) -> None:
        """Take the questions of one run of the package's agents as this episode's."""
        self._sessions.append(trace.id)
        self._endpoint.lines[trace.id] = self._line

    async def begin(self, run: Coroutine[Any, Any, Any]) -> None:
        """Start `run` and wait for its first question; OpenQwQError where it ends before that."""
        self._run = asyncio.create_task(run)
        first = await self._next_messages()
        if first is None:
            problem = _problem(self._run)
            await self.close()
            raise OpenQwQError(f"verifiers:{self._name} asks for no reply: {problem}")
        self.first = first

    async def _next_messages(self) -> list[Message] | None:
        """What was said since the last reply; None where the episode is over."""
        assert self._run is not None
        asking = asyncio.ensure_future(self._line.questions.get())
        try:
            await asyncio.wait({asking, self._run}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return None
        finally:
            asking.cancel()

        question = asking.result()
        earlier = self._question
        messages = question.body["messages"]
        self._question = question
        self.body = question.body
        if earlier is None:
            return [_message(each) for each in messages]
        known = earlier.body["messages"]
        if question.session != earlier.session or messages[: len(known)] != known:
            raise OpenQwQError(
                f"verifiers:{self._name} begins a second conversation in one episode, or changes "
                "what was said: one conversation that only grows can be trained on"
            )
        return [_message(each) for each in messages[len(known) + 1 :]]

    async def step(self, reply: Message, malformed_calls: Sequence[str]) -> Observation:
        """See `Episode.step`; of malformed calls the environment hears nothing."""
        complaints = await run_calls({}, [], malformed_calls)
        told = tuple(complaint.message() for complaint in complaints)
        if malformed_calls and not reply.get("tool_calls"):
            return Observation(told, False)
        if self._question is None or self._question.reply.done():
            raise OpenQwQError("the episode is over: no further reply can be taken")
        self._question.reply.set_result(_completion(reply))
        new = await self._next_messages()
        return Observation((*(new or ()), *told), new is None)

    async def score(self) -> Score:
        """The environment's reward: `correct` from 1 upwards; `truncated` where it was not over."""
        assert self._run is not None
        if not self._run.done():
            return Score(0.0, "truncated", detail="the episode was not over")
        problem = _problem(self._run)
        if problem:
            return Score(0.0, "error", detail=f"verifiers:{self._name}: {problem}")
        played = [
            trace for trace in self._run.result().traces if trace.id in self._sessions
        ]
        trace = played[-1]
        parts: dict[str, float] = {}
        for key, reward in trace.rewards.items():
            if reward is not None:
                parts[key] = float(reward.score)
        for key, metric in trace.metrics.items():
            if metric is not None:
                parts[key] = float(metric)
        status = "correct" if trace.reward >= FULL_REWARD else "wrong"
        return Score(float(trace.reward), cast(Any, status), parts)

    async def close(self) -> None:
        """See `Episode.close`."""
        self._line.hang_up()
        for session in self._sessions:
            self._endpoint.lines.pop(session, None)
        if self._run is not None:
            self._run.cancel()
            await asyncio.wait({self._run})


def _problem(run: "asyncio.Task[Any]") -> str:
    """What went wrong in an episode that has ended; empty: nothing."""
    if run.cancelled():
        return "it was cancelled"
    error = run.exception()
    if error is not None:
        return repr(error)
    episode = run.result()
    if episode.ok:
        return ""
    errors = list(episode.errors)
    for trace in episode.traces:
        errors += trace.errors
    said = [f"{each.type}: {each.message}" for each in errors]
    return "; ".join(said) or "it ended without a result"


def _message(wire: Mapping[str, Any]) -> Message:
    """A message of OpenAI's chat API as ours; of parts, only texts can be shown."""
    content = wire.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(part.get("text") or f"[{part.get('type')}]" for part in content)
    message = Message(role=wire["role"], content=content)
    calls = wire.get("tool_calls") or []
    if calls:
        message["tool_calls"] = []
        for call in calls:
            function = call["function"]
            arguments = json.loads(function["arguments"] or "{}")
            message["tool_calls"].append({"name": function["name"], "arguments": arguments})
    return message


def _completion(reply: Message) -> dict[str, Any]:
    """The model's reply as OpenAI's chat API returns it."""
    message: dict[str, Any] = {"role": "assistant", "content": reply["content"]}
    if reply.get("reasoning_content"):
        message["reasoning_content"] = reply["reasoning_content"]
    calls: list[dict[str, Any]] = []
    for number, call in enumerate(reply.get("tool_calls", [])):
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        calls.append({"id": f"call_{number}", "type": "function", "function": function})
    if calls:
        message["tool_calls"] = calls
    finish = "tool_calls" if calls else "stop"
    return {
        "id": "openqwq",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "openqwq",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }


def _in_new_loop(found: Coroutine[Any, Any, Found]) -> Found:
    """The result of `found`, whether or not an event loop runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, found).result()
