"""Servers elsewhere: an imitation of vLLM, a real llama-server, and chats over text."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from served import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from openqwq.engine import remote
from openqwq.engine.open import open_model
from openqwq.engine.relay import Relay
from openqwq.engine.remote import RemoteChat, RemoteError, open_remote, probe
from openqwq.engine.remote_scores import RemoteScores
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError, SamplingParams, Steering, TokenEvent

pytestmark = pytest.mark.usefixtures("no_test_hangs")


class FakeVllm:
    """What vLLM does with token ids; its token at a position is a sum of ids, seed and index."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.failures: list[int] = []  # statuses to answer first
        self.running = 0
        self.entry: dict[str, Any] = {"id": "tiny", "owned_by": "vllm", "max_model_len": 64}
        self.gives_ids, self.pause, self.breaks = True, 0.0, ""
        routes = [
            Route(
                "/v1/models",
                lambda _: JSONResponse({"data": [self.entry, {"id": "second"}]}),
            ),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes)
        self.chat_answer: Any = None

    @staticmethod
    def token(prompt: list[int], place: int, seed: int) -> int:
        return (sum(prompt) * 31 + len(prompt) * 7 + place * place + seed * 13) % 256

    async def _refuse(self, request: Request) -> Response | None:
        self.requests.append(
            {**await request.json(), "key": request.headers.get("authorization")}
        )
        status = self.failures.pop(0) if self.failures else 0
        return JSONResponse({"error": "no"}, status) if status else None

    async def completions(self, request: Request) -> Response:
        if refusal := await self._refuse(request):
            return refusal
        return StreamingResponse(
            self._stream(self.requests[-1]), media_type="text/event-stream"
        )

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        assert body["ignore_eos"] and body["stream"] and body["return_token_ids"]
        self.running += 1
        try:
            active = set(range(body["n"]))
            for place in range(body["max_tokens"]):
                for index in sorted(active):
                    token = self.token(body["prompt"], place, body["seed"] + index)
                    last = (
                        token in body["stop_token_ids"] or place == body["max_tokens"] - 1
                    )
                    table = {
                        f"token_id:{token}": -0.5,
                        f"token_id:{(token + 1) % 256}": -0.9,
                    }
                    choice = {
                        "index": index,
                        "text": "",
                        "token_ids": [token] if self.gives_ids else None,
                        "logprobs": {"token_logprobs": [-0.5], "top_logprobs": [table]},
                        "finish_reason": "stop" if last else None,
                    }
                    active -= {index} if last else set()
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n"
                if self.breaks:
                    yield self.breaks
                await asyncio.sleep(self.pause)
            yield "data: [DONE]\n\n"
        finally:
            self.running -= 1

    async def chat(self, request: Request) -> Response:
        refusal = await self._refuse(request)
        return refusal or JSONResponse(self.chat_answer)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.delenv(remote.KEY, raising=False)
    return FakeVllm()


@pytest.fixture
def url(vllm: FakeVllm) -> Iterator[str]:
    with served(vllm.app) as url:
        yield url


@pytest.fixture
def relay(url: str, tokenizer: Tokenizer) -> Relay:
    return open_remote(url, 4, None, lambda _: tokenizer)[1]


async def collect(relay: Relay, ids: list[int], params: SamplingParams) -> list[TokenEvent]:
    return [event async for event in relay.stream(ids, params)]


async def test_token_ids_go_in_and_come_out(
    relay: Relay, vllm: FakeVllm, plain: Callable[..., SamplingParams]
) -> None:
    prompt = [5, 6, 7]
    completions = await relay.generate(prompt, plain(5, seed=3), 3)
    for i, completion in enumerate(completions):
        assert completion.token_ids == [
            vllm.token(prompt, place, 3 + i) for place in range(5)
        ]
        assert completion.log_probs == [-0.5] * 5 and completion.prompt_tokens == 3
        assert completion.finish_reason == "length" and all(completion.sampled_mask)
    assert len(vllm.requests) == 1 and vllm.requests[0]["model"] == "tiny"
    events = await collect(relay, prompt, plain(5, seed=3, top_log_probs=2))
    assert [event.token_id for event in events] == completions[0].token_ids
    best, second = events[0].alternatives
    assert best == (events[0].token_id, -0.5) and second[1] == -0.9
    assert [event.finish_reason for event in events] == [None] * 4 + ["length"]


async def test_sampling_settings_are_vllms(relay: Relay, vllm: FakeVllm) -> None:
    await relay.generate([5], SamplingParams(0.6, 0.95, 0, 0.1, 2, (9,), 4))
    sent = vllm.requests[0]
    expected = {"temperature": 0.6, "top_p": 0.95, "top_k": -1, "min_p": 0.1, "seed": 4}
    assert expected.items() <= sent.items() and sent["stop_token_ids"] == [9]


async def test_a_stop_id_ends_a_reply(
    relay: Relay, vllm: FakeVllm, plain: Callable[..., SamplingParams]
) -> None:
    stop = vllm.token([5], 3, 0)
    (completion,) = await relay.generate([5], plain(20, stop_token_ids=(stop,)))
    assert completion.finish_reason == "stop" and completion.token_ids[-1] == stop
    assert len(completion.token_ids) == 4


async def test_a_spent_budget_begins_a_new_request_behind_the_closing(
    relay: Relay, vllm: FakeVllm, plain: Callable[..., SamplingParams]
) -> None:
    tokenizer = relay.tokenizer
    prompt = tokenizer.encode("<think>\n", allow_special=True)
    closing = tokenizer.encode("\n</think>\n\n", allow_special=True)
    completions = await relay.generate(prompt, plain(20, thinking_budget=6), 2)
    for completion in completions:
        assert completion.token_ids[6 : 6 + len(closing)] == closing
        assert completion.sampled_mask == [True] * 6 + [False] * len(closing) + [True] * (
            14 - len(closing)
        )
    assert [request["n"] for request in vllm.requests] == [2, 1, 1]
    assert vllm.requests[1]["prompt"][-len(closing) :] == closing


async def test_answer_now_closes_the_thinking(
    relay: Relay, vllm: FakeVllm, plain: Callable[..., SamplingParams]
) -> None:
    prompt = relay.tokenizer.encode("<think>\n", allow_special=True)
    steering, ids = Steering(), []
    async for event in relay.stream(prompt, plain(30), steering):
        ids.append(event.token_id)
        steering.answer_now = len(ids) >= 4
    assert ids.index(relay.tokenizer.think_close_id) < 8 and len(ids) == 30


async def test_closing_a_stream_hangs_up(
    relay: Relay, vllm: FakeVllm, plain: Callable[..., SamplingParams]
) -> None:
    vllm.pause = 0.02
    stream = relay.stream([5], plain(60))
    await anext(stream)
    assert vllm.running == 1
    await stream.aclose()  # type: ignore[attr-defined]
    for _ in range(200):
        if vllm.running == 0:
            break
        await asyncio.sleep(0.02)
    assert vllm.running == 0


async def test_passing_failures_are_tried_again_and_others_are_not(
    relay: Relay, vllm: FakeVllm, plain: Callable[..., SamplingParams]
) -> None:
    vllm.failures = [503, 429]
    assert len(await collect(relay, [5], plain(2))) == 2 and len(vllm.requests) == 3
    vllm.failures = [503] * 9
    with pytest.raises(RemoteError, match="answered 503: ") as busy:
        await collect(relay, [5], plain(2))
    assert (busy.value.failure, busy.value.status, busy.value.passing) == (
        "busy",
        503,
        True,
    )
    assert len(vllm.requests) == 3 + remote.ATTEMPTS
    vllm.failures = [401]
    with pytest.raises(
        RemoteError, match=r"answered 401 .is OPENAI_API_KEY set"
    ) as refused:
        await collect(relay, [5], plain(2))
    assert refused.value.failure == "refused" and not refused.value.passing
    assert len(vllm.requests) == 4 + remote.ATTEMPTS


async def test_the_key_is_sent(
    relay: Relay,
    vllm: FakeVllm,
    plain: Callable[..., SamplingParams],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(remote.KEY, "secret")
    await collect(relay, [5], plain(1))
    assert vllm.requests[0]["key"] == "Bearer secret"


@pytest.mark.parametrize(
    ("line", "message", "failure"),
    [
        ("data: {oops\n\n", "sent an event that is not JSON", "broken"),
        ('data: {"error": {"message": "out of memory"}}\n\n', "out of memory", "refused"),
    ],
)
async def test_a_broken_stream_is_a_typed_error(
    line: str,
    message: str,
    failure: str,
    relay: Relay,
    vllm: FakeVllm,
    plain: Callable[..., SamplingParams],
) -> None:
    vllm.breaks = line
    with pytest.raises(RemoteError, match=message) as broken:
        await collect(relay, [5], plain(3))
    assert broken.value.failure == failure


async def test_silence_is_a_time_out(
    relay: Relay,
    vllm: FakeVllm,
    plain: Callable[..., SamplingParams],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "TIMEOUT", httpx.Timeout(5.0, read=0.1))
    vllm.pause = 2.0
    with pytest.raises(RemoteError, match="did not answer in time") as late:
        await collect(relay, [5], plain(3))
    assert late.value.failure == "timeout"


async def test_a_server_without_token_ids_is_named(
    relay: Relay, vllm: FakeVllm, plain: Callable[..., SamplingParams]
) -> None:
    vllm.gives_ids = False
    with pytest.raises(OpenQwQError, match="gives no token ids"):
        await collect(relay, [5], plain(3))


def test_a_model_is_chosen_by_name(url: str, vllm: FakeVllm) -> None:
    assert probe(f"{url}/v1/").model == "tiny"
    assert probe(f"{url}#second").model == "second"
    with pytest.raises(RemoteError, match=r"serves tiny, second: name one as .*#MODEL"):
        probe(f"{url}#third")


def test_the_context_is_the_servers_at_most(url: str, tokenizer: Tokenizer) -> None:
    for asked, given in ((None, 64), (32, 32)):
        assert open_remote(url, 1, asked, lambda _: tokenizer)[1].context_length == given
    for asked in (0, 1000):
        with pytest.raises(OpenQwQError, match=f"context length is {asked}: .*own, 64"):
            open_remote(url, 1, asked, lambda _: tokenizer)


def test_a_text_server_cannot_generate(
    url: str, vllm: FakeVllm, tokenizer: Tokenizer
) -> None:
    vllm.entry = {"id": "gpt", "owned_by": "someone"}
    with pytest.raises(OpenQwQError, match=r"neither vLLM nor llama-server.*chat endpoint"):
        open_remote(url, 1, None, lambda _: tokenizer)


def test_nobody_there_is_one_clear_error() -> None:
    with pytest.raises(
        RemoteError, match=r"127.0.0.1:9 cannot be reached .*: is the server run"
    ):
        open_model("http://127.0.0.1:9")


def test_a_servers_model_without_a_tokenizer_here_is_named(url: str) -> None:
    with pytest.raises(
        OpenQwQError, match="no tokenizer for the server's model: tiny does not ex"
    ):
        open_model(url)


async def test_a_real_llama_server_takes_and_gives_token_ids(
    smollm2: Any, plain: Callable[..., SamplingParams]
) -> None:
    xllamacpp = pytest.importorskip(
        "xllamacpp", reason="needs llama.cpp: pip install xllamacpp"
    )
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.verbosity = str(smollm2), 512, -1
    params.warmup, params.cpuparams.n_threads, params.n_parallel = False, 1, 2
    server = xllamacpp.Server(params)
    model = await asyncio.to_thread(
        open_model, server.listening_address, tokenizer=str(smollm2)
    )
    assert (
        model.engine == "remote" and model.context_length == 256 and "llamacpp" in model.why
    )
    question = {"role": "user", "content": "What is the capital of France? Answer briefly."}
    ids = encode_chat(model.tokenizer, [question])  # type: ignore[list-item]
    greedy = SamplingParams(0.0, max_tokens=20, stop_token_ids=model.tokenizer.eos_ids)
    (completion,) = await model.generate.generate(ids, greedy)
    assert model.tokenizer.decode(completion.token_ids) == (
        "The capital of France is Paris.<|im_end|>"
    )
    two = await model.generate.generate(ids, plain(4), 2)
    assert [len(c.token_ids) for c in two] == [4, 4]
    chat = await asyncio.to_thread(RemoteChat, server.listening_address)
    reply = await chat.reply([question], greedy)  # type: ignore[list-item]
    assert reply.message["content"] == "The capital of France is Paris."
    assert reply.finish_reason == "stop" and reply.completion_tokens == 8


CALLS = [
    {"function": {"name": "add", "arguments": '{"x": 1}'}},
    {"function": {"name": "add", "arguments": "{oops"}},
]


async def test_a_chat_reply_is_parsed(url: str, vllm: FakeVllm) -> None:
    message = {"content": "\nok", "reasoning_content": "hm", "tool_calls": CALLS}
    usage = {"prompt_tokens": 7, "completion_tokens": 9}
    vllm.chat_answer = {
        "choices": [{"message": message, "finish_reason": "tool_calls"}],
        "usage": usage,
    }
    chat = await asyncio.to_thread(RemoteChat, url)
    reply = await chat.reply(
        [{"role": "user", "content": "Hi"}], SamplingParams(), [{"a": 1}]
    )
    assert reply.message == {
        "role": "assistant",
        "content": "ok",
        "reasoning_content": "hm",
        "tool_calls": [{"name": "add", "arguments": {"x": 1}}],
    }
    assert "oops" in reply.malformed_calls[0] and reply.finish_reason == "tool_calls"
    assert (reply.prompt_tokens, reply.completion_tokens) == (7, 9)
    assert vllm.requests[0]["tools"] == [{"a": 1}] and vllm.requests[0]["top_k"] == 40


async def test_thinking_inside_the_text_is_taken_out(url: str, vllm: FakeVllm) -> None:
    content = "<think>\nhm\n</think>\n\nok"
    vllm.chat_answer = {
        "choices": [{"message": {"content": content}, "finish_reason": "stop"}]
    }
    chat = await asyncio.to_thread(RemoteChat, url)
    reply = await chat.reply([{"role": "user", "content": "Hi"}], SamplingParams())
    assert reply.message == {
        "role": "assistant",
        "content": "ok",
        "reasoning_content": "hm",
    }


async def test_plain_openai_servers_get_only_openais_fields(
    url: str, vllm: FakeVllm
) -> None:
    vllm.entry = {"id": "gpt", "owned_by": "someone"}
    vllm.chat_answer = {
        "choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}]
    }
    chat = await asyncio.to_thread(RemoteChat, url)
    call = {"name": "add", "arguments": {"x": 1}}
    messages: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    await chat.reply(messages, SamplingParams(seed=3))
    sent = vllm.requests[0]
    assert not {"top_k", "min_p"} & sent.keys() and sent["seed"] == 3
    first, second = (entry["id"] for entry in sent["messages"][1]["tool_calls"])
    assert [m["tool_call_id"] for m in sent["messages"][2:]] == [
        first,
        second,
    ] and first != second
    assert json.loads(sent["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "x": 1
    }
    with pytest.raises(OpenQwQError, match="message 0 is a tool's, but no call waits"):
        await chat.reply(messages[2:], SamplingParams())
    with pytest.raises(OpenQwQError, match="neither a thinking budget nor a grammar"):
        await chat.reply(messages, SamplingParams(thinking_budget=5))


async def test_an_answer_that_is_no_chat_completion_is_a_typed_error(
    url: str, vllm: FakeVllm
) -> None:
    vllm.chat_answer = {"choices": []}
    chat = await asyncio.to_thread(RemoteChat, url)
    with pytest.raises(RemoteError, match="not a chat completion") as broken:
        await chat.reply([{"role": "user", "content": "Hi"}], SamplingParams())
    assert broken.value.failure == "broken"


class Cut(BaseHTTPRequestHandler):
    """A server that ends the connection inside of every answer, or refuses to say what it is."""

    status = 200

    def do_GET(self) -> None:
        """What it serves."""
        body = b'{"data": [{"id": "x"}]}' if self.status == 200 else b"no such key"
        self.send_response(self.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """A part of an answer."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices"')

    def log_message(self, *_: Any) -> None:
        """Nothing is said."""


@pytest.fixture
def cut() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Cut) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_an_answer_that_is_cut_is_a_typed_error(cut: str) -> None:
    chat = await asyncio.to_thread(RemoteChat, cut)
    with pytest.raises(RemoteError, match="/v1/chat/completions cannot be reached"):
        await chat.reply([{"role": "user", "content": "Hi"}], SamplingParams())
    scores = await asyncio.to_thread(RemoteScores, cut)
    with pytest.raises(RemoteError, match="/v1/completions cannot be reached"):
        await scores.log_probs([1, 2, 3])


@pytest.mark.parametrize("name", ["", "#x"])
@pytest.mark.parametrize(
    ("status", "message", "failure"),
    [
        (401, r"answered 401 \(is OPENAI_API_KEY set\?\): no such key", "refused"),
        (503, "answered 503", "busy"),
    ],
)
def test_a_server_that_does_not_say_what_it_serves_is_quoted(
    cut: str,
    name: str,
    status: int,
    message: str,
    failure: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Cut, "status", status)
    with pytest.raises(RemoteError, match=message) as refused:
        probe(cut + name)
    assert (refused.value.failure, refused.value.status) == (failure, status)
