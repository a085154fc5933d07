"""The config tree: what fills it, what it refuses."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openqwq.cli import MINI
from openqwq.config import (
    Config,
    DataConfig,
    LoraConfig,
    RewardConfig,
    RlStage,
    SftStage,
    ShapeConfig,
    dump_config,
    load_config,
)
from openqwq.types import OpenQwQError

BASE = """
[data.sums]
rows = "sums.jsonl"
[data.traces]
rows = "traces.jsonl"
[[stages]]
name = "sft"
kind = "sft"
epochs = 2
data = { traces = 1 }
[[stages]]
name = "rl"
kind = "rl"
steps = 5
data = { sums = 1 }
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path / "base.toml", BASE)


def rl(config: Config) -> RlStage:
    stage = config.stage("rl")
    assert isinstance(stage, RlStage)
    return stage


def test_later_files_and_overrides_win_key_by_key_stages_by_name(
    base: Path, tmp_path: Path
) -> None:
    second = write(
        tmp_path / "b.toml", '[[stages]]\nname = "rl"\nsteps = 6\n[data.sums]\nlimit = 3\n'
    )
    config = load_config(
        [base, second], ["stages.rl.optimiser.lr=0.5", "stages.0.epochs=3"]
    )
    assert [stage.name for stage in config.stages] == ["sft", "rl"]
    assert (rl(config).steps, rl(config).optimiser.lr) == (6, 0.5)
    assert config.stages[0].epochs == 3.0
    assert (config.data["sums"].limit, Path(config.data["sums"].rows).name) == (
        3,
        "sums.jsonl",
    )


def test_paths_start_from_the_file_that_holds_them_and_overrides_from_here(
    base: Path,
) -> None:
    rewards = '[{use="verifier"}, {use="rewards.py:brevity", weight=0.1}]'
    config = load_config(
        [
            base,
            write(base.parent / "r.toml", f'[[stages]]\nname="rl"\nrewards={rewards}\n'),
        ],
        ["data.traces.rows=here.jsonl"],
    )
    assert config.data["sums"].rows == str(base.parent / "sums.jsonl")
    assert config.data["traces"].rows == str(Path.cwd() / "here.jsonl")
    assert rl(config).rewards[1] == RewardConfig(f"{base.parent}/rewards.py:brevity", 0.1)
    hub = "hf://datasets/openai/gsm8k/main/train.parquet"
    assert load_config([base], [f"data.sums.rows={hub}"]).data["sums"].rows == hub


def test_a_path_may_start_from_the_home_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    more = '[data.home]\nrows = "~/rows.jsonl"\nverifier = "~/rewards.py:sign"\n'
    table = load_config([base, write(base.parent / "home.toml", more)]).data["home"]
    assert table.rows == str(tmp_path / "rows.jsonl")
    assert table.verifier == f"{tmp_path}/rewards.py:sign"


def test_the_rate_follows_from_the_kind_and_from_lora(base: Path) -> None:
    full = rl(load_config([base])).optimiser.lr
    low_rank = rl(load_config([base], ["stages.rl.lora={rank=4}"]))
    assert low_rank.lora == LoraConfig(4)
    assert low_rank.optimiser.lr > full > 0
    assert rl(load_config([base], ["stages.rl.lora=continue"])).lora == "continue"


def test_the_dump_reads_back_to_an_equal_tree(base: Path, tmp_path: Path) -> None:
    for config in (
        load_config(
            [MINI], ["stages.stage1.objective=gspo", "stages.stage1.data.linear=2.5"]
        ),
        load_config(
            [base], ["stages.rl.lora={rank=4}", "stages.rl.evaluate.data=['sums']"]
        ),
    ):
        assert load_config([write(tmp_path / "dump.toml", dump_config(config))]) == config


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
scalars = st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)


@settings(max_examples=60)
@given(st.dictionaries(texts, values, max_size=4))
@example(
    {"of": [True, False], "deep": {"a b": {"": []}}, "said": '\n\r\t\x7f\x00\\"é😀\u2028'}
)
def test_options_of_any_kind_survive_dump_and_load(options: dict[str, Any]) -> None:
    table = DataConfig(source="gym", options=options)
    config = Config(shape=ShapeConfig(), data={"g": table})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dump.toml"
        path.write_bytes(dump_config(config).encode())
        loaded = load_config([path])
    found = json.dumps(loaded.data["g"].options, sort_keys=True)
    assert found == json.dumps(options, sort_keys=True)  # == would take True for 1
    assert loaded == config


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("stages.stage1.checkpoint_every=0", "at least 1"),
        ("stages.stage1.prompts_per_step=0", "at least 1"),
        ("stages.stage2.group_size=1", "at least 2"),
        ("stages.taste.pairs.answers=1", "at least 2"),
        ("stages.sft.thinking_share=1.5", "from 0 to 1"),
        ("stages.sft.batch_size=-1", "at least 1"),
        ("stages.sft.steps=-1", "at least 0"),
        ("stages.stage1.optimiser.lr=-1e-06", "at least 0"),
        ("stages.stage1.optimiser.lr=nan", "at least 0"),
        ("stages.stage1.lora={rank=0}", "at least 1"),
        ("cluster.samplers=0", "at least 1"),
    ],
)
def test_a_number_out_of_range_is_refused_naming_key_value_and_rule(
    override: str, rule: str
) -> None:
    with pytest.raises(OpenQwQError, match=re.escape(f"it must be {rule}")) as error:
        load_config([MINI], [override])
    assert override.partition("=")[0] in str(error.value)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("stages.rl.stepz=1", ["stepz", "'steps'"]),
        ("rll.steps=1", ["rll"]),
        ("stages.rll.steps=1", ["'rll'", "'rl'"]),
        ("stages.rl.steps=many", ["steps", "'many'", "int"]),
        ("stages.rl.steps=1.5", ["steps", "1.5", "int"]),
        ("stages.rl.steps=true", ["steps", "True", "int"]),
        ("stages.rl.token_mask=1", ["token_mask", "1", "bool"]),
        ("stages.rl.objective=ppo", ["objective", "'ppo'", "'cispo'"]),
        ("stages.rl.kind=ppo", ["kind", "'ppo'", "sft, rl"]),
        ("stages.rl=3", ["3", "stages.1"]),
        ("stages.rl.steps", ["stages.rl.steps", "'='"]),
        ("stages.7.steps=1", ["'7'"]),
        ("seed.deep=1", ["seed"]),
        ("stages.rl.epochs=1", ["stages.rl", "steps 5", "exactly one"]),
        ("stages.rl.data.sum=1.0", ["'sum'", "'sums'"]),
        ("stages.rl.data.sums=0.0", ["sums", "above 0"]),
        ("stages.rl.name=tokenizer", ["'tokenizer'", "reserved"]),
        ("stages.rl.name=sft", ["two stages", "'sft'"]),
        ("stages.sft.thinking_share=0.5", ["thinking_share", "generator"]),
        ("data.sums.source=addition", ["data.sums", "one origin"]),
        ("data.sums.answer_pattern='#### .+'", ["answer_pattern", "no group"]),
        ("data.sums.answer_pattern='('", ["answer_pattern", "regular expression"]),
        ("data.sums.held_out=1.5", ["held_out", "1.5"]),
        ("data.new.prompt='{q}'", ["data.new", "no origin"]),
        ("stages.rl.rewards=[]", ["rewards", "empty"]),
        ("stages.rl.thinking_budgets=[2000]", ["thinking_budgets", "2000", "max_tokens"]),
        ("stages.sft.thinking_budgets=[-1]", ["thinking_budgets", "-1", "at least 1"]),
        ("stages.rl.optimiser.beta2=1.0", ["optimiser.beta2 is 1", "below 1"]),
        ("shape.hidden_size=20", ["num_attention_heads is 4", "hidden_size 20", "even"]),
        ("shape.num_key_value_heads=3", ["num_key_value_heads is 3", "must divide"]),
        (
            "data.e={environment='w.py:W',system='x'}",
            ["data.e.system", "has its own tasks"],
        ),
        ("data.e={environment='w.py:W',prompt='{x}'}", ["data.e.prompt", "w.py:W has"]),
        ("data.e={environment='w.py:W',verifier='math'}", ["data.e.verifier", "itself"]),
        ("data.s={source='addition',tools='{t}'}", ["data.s.tools", "source writes"]),
        ("stages.rl.evaluate.data=['sum']", ["evaluate", "'sum'", "'sums'"]),
        ("model=Qwen/Q", None),
    ],
)
def test_a_wrong_override_is_an_error_naming_key_value_and_remedy(
    override: str, named: list[str] | None, base: Path
) -> None:
    if named is None:  # a model is fine where there is no shape
        assert load_config([base], [override]).shape is None
        with pytest.raises(
            OpenQwQError, match=r"model is 'Qwen/Q' and there is a \[shape\]"
        ):
            load_config([base], [override, "shape.hidden_size=32"])
        return
    with pytest.raises(OpenQwQError) as error:
        load_config([base], [override])
    assert all(part in str(error.value) for part in named), str(error.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match=r"none\.toml does not exist"):
        load_config([tmp_path / "none.toml"])
    with pytest.raises(OpenQwQError, match=r"bad\.toml is not valid TOML"):
        load_config([write(tmp_path / "bad.toml", "seed = = 1")])


def test_a_config_of_the_old_form_says_where_to_read_about_the_new_one(
    tmp_path: Path,
) -> None:
    with pytest.raises(OpenQwQError, match=r"has \[rl\].*docs/your-data\.md"):
        load_config([write(tmp_path / "old.toml", "[rl]\nsteps = 5\n")])


def test_every_shipped_config_loads() -> None:
    for path in MINI.parent.glob("*.toml"):
        config = load_config([path])
        assert all(isinstance(stage.name, str) for stage in config.stages), path
        assert not any(
            isinstance(s, SftStage) and s.lora for s in config.stages if config.shape
        )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "stages.rl.lora.rnk=3",
            "unknown key stages.rl.lora.rnk in base.toml: did you mean 'rank'",
        ),
        ("data.sums.colum=1", "unknown key data.sums.colum in base.toml: there are rows, "),
        ("stages.rl.loss_on=last", "stages.rl.loss_on in base.toml is a key of sft stages"),
        ("stages.rl.temperature=0.0", "stages.rl.temperature is 0: all replies"),
        ("stages.rl.reward_seconds=0.0", "stages.rl.reward_seconds is 0"),
    ],
)
def test_a_wrong_key_is_named_by_its_stage_with_what_was_meant(
    base: Path, override: str, said: str
) -> None:
    with pytest.raises(OpenQwQError) as raised:
        load_config([base], [override])
    assert said in str(raised.value).replace(f"{base.parent}/", "")
