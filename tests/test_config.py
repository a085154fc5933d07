"""The config tree: what fills it, what it refuses."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openqwq.cli import MINI
from openqwq.config import Config, SourceConfig, dump_config, load_config
from openqwq.types import OpenQwQError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_later_files_and_overrides_win_key_by_key(tmp_path: Path) -> None:
    first = write(tmp_path / "a.toml", "seed = 1\n[rl]\nsteps = 5\ngroup_size = 4\n")
    second = write(tmp_path / "b.toml", "[rl]\nsteps = 6\n")
    config = load_config([first, second], ["rl.optimiser.lr=0.5"])
    assert (config.seed, config.rl.steps, config.rl.group_size) == (1, 6, 4)
    assert config.rl.optimiser.lr == 0.5


def test_a_partly_given_table_keeps_the_defaults_of_its_place_in_the_tree() -> None:
    config = load_config([], ["sft.optimiser.lr=0.5"])
    assert config.sft.optimiser.name == Config().sft.optimiser.name == "muon"
    assert config.rl.optimiser == Config().rl.optimiser


def test_the_dump_reads_back_to_an_equal_tree(tmp_path: Path) -> None:
    config = load_config([MINI], ["rl.objective=gspo", "tasks.0.weight=2.5"])
    assert load_config([write(tmp_path / "dump.toml", dump_config(config))]) == config
    assert (config.rl.objective, config.tasks[0].weight) == ("gspo", 2.5)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)


@settings(max_examples=60)
@given(st.dictionaries(texts, values, max_size=4))
@example({"of": [True, False], "deep": {"a b": {"": []}}, "said": '\n\r\t\x7f\x00\\"é😀\u2028'})
def test_options_of_any_kind_survive_dump_and_load(options: dict[str, Any]) -> None:
    config = Config(tasks=(SourceConfig("gym", options),))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dump.toml"
        path.write_bytes(dump_config(config).encode())
        loaded = load_config([path])
    assert repr(loaded) == repr(config)  # == would take True for 1


def test_plain_keys_stay_bare() -> None:
    config = Config(tasks=(SourceConfig("gym", {"min_digits": 1}),))
    assert "options = { min_digits = 1 }" in dump_config(config)


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("rl.checkpoint_every=0", "at least 1"),
        ("rl.prompts_per_step=0", "at least 1"),
        ("stage2.group_size=1", "at least 2"),
        ("stage2.reward_model.epochs=0", "at least 1"),
        ("stage2.replay_share=1.5", "from 0 to 1"),
        ("sft.batch_size=-1", "at least 1"),
        ("sft.steps=-1", "at least 0"),
        ("rl.optimiser.lr=-1e-06", "at least 0"),
        ("rl.optimiser.lr=nan", "at least 0"),
        ("tasks.0.weight=-2.0", "at least 0"),
        ("cluster.samplers=0", "at least 1"),
    ],
)
def test_a_number_out_of_range_is_refused_naming_key_value_and_rule(
    override: str, rule: str
) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(OpenQwQError, match=re.escape(f"{key} is {value}: it must be {rule}")):
        load_config([MINI], [override])


def test_nothing_at_all_is_a_choice_where_it_means_one() -> None:
    zeros = ("sft.steps=0", "rl.steps=0", "rl.max_refills=0", "cluster.max_staleness=0", "seed=0")
    assert load_config([MINI], zeros).rl.steps == 0


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("rl.stepz=1", ["rl.stepz", "'steps'"]),
        ("rll.steps=1", ["rll", "'rl'"]),
        ("rl.steps=many", ["rl.steps", "'many'", "int"]),
        ("rl.steps=1.5", ["rl.steps", "1.5", "int"]),
        ("rl.steps=true", ["rl.steps", "True", "int"]),
        ("rl.token_mask=1", ["rl.token_mask", "1", "bool"]),
        ("rl.objective=ppo", ["rl.objective", "'ppo'", "'cispo'"]),
        ("rl=3", ["rl", "3", "table"]),
        ("tasks=[{weight=1}]", ["tasks.0", "'source'"]),
        ("rl.steps", ["rl.steps", "'='"]),
        ("tasks.7.weight=1", ["tasks.7", "2"]),
        ("seed.deep=1", ["seed"]),
    ],
)
def test_a_wrong_override_is_an_error_naming_key_value_and_remedy(
    override: str, named: list[str], tmp_path: Path
) -> None:
    base = write(tmp_path / "a.toml", "seed = 1\n[[tasks]]\nsource='a'\n[[tasks]]\nsource='b'\n")
    with pytest.raises(OpenQwQError) as error:
        load_config([base], [override])
    assert all(part in str(error.value) for part in named), str(error.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match=r"none\.toml does not exist"):
        load_config([tmp_path / "none.toml"])
    with pytest.raises(OpenQwQError, match=r"bad\.toml is not valid TOML"):
        load_config([write(tmp_path / "bad.toml", "seed = = 1")])
