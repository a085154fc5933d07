"""A run small enough for tests (small.toml), and the parts of one."""

from collections.abc import Mapping
from pathlib import Path

from openqwq.config import Config, RlStage, dump_config, load_config
from openqwq.data.hub import DataLock
from openqwq.tasks.table import DataTable
from openqwq.train.prepare import prepare
from openqwq.train.rewards import Rewards, Term
from openqwq.types import Verifier

SMALL = Path(__file__).with_name("small.toml")


def small_config(*overrides: str) -> Config:
    return load_config([SMALL], overrides)


def write_config(path: Path, *overrides: str) -> Path:
    path.write_text(dump_config(small_config(*overrides)))
    return path


def rl_stage(config: Config, name: str = "stage1") -> RlStage:
    stage = config.stage(name)
    assert isinstance(stage, RlStage)
    return stage


def tables_of(config: Config) -> Mapping[str, DataTable]:
    return prepare(config, DataLock()).tables


def judged_by(**verifiers: Verifier) -> Rewards:
    """Rewards that are the verdicts themselves."""
    stage = RlStage("rl")
    return Rewards(verifiers, {}, [Term("verifier", 1.0, None, stage.rewards[0])])
