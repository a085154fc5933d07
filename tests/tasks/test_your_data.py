"""`docs/your-data.md` says what the package does: its configs load, its Python runs."""

import re
from pathlib import Path

import pytest

from openqwq.config import load_config
from openqwq.verify.completion_text import CompletionText

PAGE = (Path(__file__).parents[2] / "docs" / "your-data.md").read_text(encoding="utf-8")
CONFIGS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_every_config_of_the_page_loads(tmp_path: Path, config: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(config, encoding="utf-8")
    loaded = load_config([path])
    assert loaded.data
    for table in loaded.data.values():
        assert Path(table.rows).is_absolute() or "://" in table.rows or table.source


def test_the_reward_of_the_page_falls_with_the_length_of_the_thinking() -> None:
    (source,) = re.findall(r"```python\n# rewards\.py.*?\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(source, names)
    reward = names["brevity"]
    assert callable(reward)
    values = [
        reward(None, CompletionText("", "so " * words, "5", ()))
        for words in (0, 50, 100, 500)
    ]
    assert values == [1.0, 0.5, 0.0, 0.0]


def test_links_of_the_page_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            path = target.partition("#")[0]
            assert (Path(__file__).parents[2] / "docs" / path).exists(), target
