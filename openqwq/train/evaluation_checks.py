"""Whether a stage has anything to train on and to be evaluated with, before the run begins."""

import math
from collections.abc import Mapping

from openqwq.config import Config, RewardModelStage, SftStage, Stage
from openqwq.tasks.table import DataTable
from openqwq.train.curriculum import epoch_draws
from openqwq.train.held_out import MEAN, settings_of
from openqwq.train.preference_stage import row_pairs
from openqwq.train.reward_model import pairs_of_epochs
from openqwq.types import OpenQwQError


def check_epochs(config: Config, tables: Mapping[str, DataTable], stage: Stage) -> None:
    """Raise OpenQwQError where the epochs and weights of a stage come to no row of a table."""
    if isinstance(stage, SftStage) and not stage.steps:
        try:
            epoch_draws(tables, stage.data, stage.epochs)
        except OpenQwQError as error:
            raise OpenQwQError(f"stages.{stage.name}: {error}") from error
    if isinstance(stage, RewardModelStage) and stage.pairs is None:
        pairs = row_pairs(tables, stage.data, config.seed)
        pairs_of_epochs(len(pairs["train"]), stage)


def check_evaluation(config: Config, tables: Mapping[str, DataTable], stage: Stage) -> None:
    """Raise OpenQwQError where a named table has nothing to ask, or `best` names none of them."""
    path = f"stages.{stage.name}.evaluate"
    _require_held_out("evaluation.data", config.evaluation.data, tables)
    _require_held_out(f"{path}.data", stage.evaluate.data or (), tables)
    _require_held_out(f"{path}.also", stage.evaluate.also, tables)

    best = stage.evaluate.best
    known = [*settings_of(config, tables, stage).tables, MEAN]
    if best is not None and best not in known:
        raise OpenQwQError(
            f"{path}.best is {best!r}, which is not evaluated: it must be one of "
            f"{', '.join(known)}"
        )


def _require_held_out(
    path: str, names: tuple[str, ...], tables: Mapping[str, DataTable]
) -> None:
    for name in names:
        if not tables[name].held_out(1, 0):
            raise OpenQwQError(
                f"{path} names {name!r}, which holds no problem out: set data.{name}.held_out, or "
                "name other tables"
            )


def check_keeps_best(
    config: Config, tables: Mapping[str, DataTable], stage: Stage, path: str
) -> None:
    """Raise OpenQwQError where `stage`, whose best policy `path` names, can never keep one."""
    every = stage.evaluate.every
    steps = stage.steps
    if isinstance(stage, SftStage) and not steps:
        draws = epoch_draws(tables, stage.data, stage.epochs)
        steps = math.ceil(sum(draws.values()) / stage.batch_size)
    if not 0 < every < steps:
        raise OpenQwQError(
            f"{path} is '{stage.name}:best', but that stage keeps no best policy: "
            f"stages.{stage.name}.evaluate.every is {every} and its steps are {steps}; evaluate it "
            "before its last step"
        )
    if not settings_of(config, tables, stage).tables:
        raise OpenQwQError(
            f"{path} is '{stage.name}:best', but that stage is evaluated on no table: hold out "
            "problems, or name tables in its evaluate.data"
        )
