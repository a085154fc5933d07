"""Settings for every test: one torch thread, no network, reproducible examples, shared data."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Read when torch and the hub client are first imported, and inherited by subprocesses. One thread
# gives the same sums on every machine and suits the tests' tiny tensors.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}

# The same examples in every run, and no failure because a busy machine was slow.
settings.register_profile("openqwq", derandomize=True, deadline=None)
settings.load_profile("openqwq")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data sets beside the checkout; tests that need them are skipped where they are absent."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the shared data sets, and {path} is not a directory")
    return path
