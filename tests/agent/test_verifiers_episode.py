"""Episodes of the adapter for `verifiers` end, whatever their rollout waits for."""

import asyncio
from typing import Any

import pytest

from openqwq.agent import verifiers_adapter
from openqwq.agent.verifiers_adapter import VerifiersEpisode


class Owner:
    """What an episode uses of its environment; the package itself is not needed."""

    name, too_long = "slow", RuntimeError

    def __init__(self, pause: float) -> None:
        self.environment, self.pause = self, pause

    def relay(self, _: None) -> Any:
        return type("Client", (), {})()

    async def rollout(self, row: Any, client: Any, model: str, arguments: Any) -> dict[str, Any]:
        for _ in range(2):
            try:
                await client.get_response([])
            except RuntimeError as error:
                return {"error": error}
            await asyncio.sleep(self.pause)
        return {}


@pytest.mark.parametrize("waiting", [0.0, 0.2])
async def test_an_episode_closes_after_a_step_that_was_cancelled(
    monkeypatch: pytest.MonkeyPatch, waiting: float
) -> None:
    monkeypatch.setattr(verifiers_adapter, "_response", lambda reply: reply)
    episode = VerifiersEpisode(Owner(0.1), {})  # type: ignore[arg-type]
    assert await episode.next_prompt() == []
    step = asyncio.create_task(episode.step({"role": "assistant", "content": "hi"}, ()))
    await asyncio.sleep(0)
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    await asyncio.sleep(waiting)  # 0.2: its rollout has asked again meanwhile
    await asyncio.wait_for(episode.close(), 60)
    assert episode._rollout.result().keys() == {"error"}
