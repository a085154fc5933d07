"""One sandbox for the tests of this room, and the reason to skip them where there can be none."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from openqwq.sandbox.local import LocalSandbox, doctor


@pytest.fixture(scope="session")
def layers() -> dict[str, str]:
    """Every layer of this machine: "" where it holds, else why not."""
    return asyncio.run(doctor())


@pytest.fixture
async def sandbox(layers: dict[str, str]) -> AsyncIterator[LocalSandbox]:
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    async with LocalSandbox(workers=1) as running:
        yield running
