"""What a run directory says so far: its config, its log, its evaluations, its reward models."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwq.config import Config, RlStage, load_config
from openqwq.evaluation.evaluate import Outcome
from openqwq.types import OpenQwQError

Families = Mapping[str, Sequence[str]]
START = "start"  # the evaluation before the first stage
FINISHED = "finished.json"  # the steps of each stage whose result is saved


@dataclass(frozen=True)
class RunData:
    """Everything that a run directory says so far."""

    directory: Path
    config: Config
    config_text: str
    log: list[dict[str, Any]]
    unreadable: int  # log lines that a kill cut short
    outcomes: dict[str, list[Outcome]]  # by checkpoint
    # by stage: held-out pairs, and training log
    reward_models: Mapping[str, Mapping[str, Any]]
    finished: Mapping[str, int]  # by stage: its steps, once its result is saved

    @property
    def missing(self) -> str:
        """The stage whose result or evaluation is the first one missing; "" where none is.

        A run whose tables hold nothing out is never evaluated.
        """
        if not self.outcomes:
            stages = [stage.name for stage in self.config.stages]
            return next((name for name in stages if name not in self.finished), "")
        last = self.checkpoints[-1]
        return "" if last in self.outcomes else last

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Those that the run has evaluated or will, in order: its start, then its policies."""
        policies = [
            stage.name for stage in self.config.stages if stage.kind != "reward_model"
        ]
        if START in self.outcomes:
            policies.insert(0, START)
        return tuple(policies)

    @property
    def rl_records(self) -> list[dict[str, Any]]:
        """The steps of every RL stage."""
        records: list[dict[str, Any]] = []
        for stage in self.config.stages:
            if isinstance(stage, RlStage):
                records += self.steps(stage.name, "seconds")
        return records

    def log_lines(self, stage: str) -> list[dict[str, Any]]:
        """The log lines of a stage."""
        return [record for record in self.log if record["stage"] == stage]

    def steps(self, stage: str, field: str) -> list[dict[str, Any]]:
        """The log lines of a stage that have `field`."""
        return [record for record in self.log_lines(stage) if field in record]

    def kinds(self, families: Families) -> list[str]:
        """Every kind of problem seen, in the order of the families."""
        seen: dict[str, None] = {}
        for outcomes in self.outcomes.values():
            seen |= dict.fromkeys(outcome.kind for outcome in outcomes)
        for record in self.rl_records:
            seen |= dict.fromkeys(record["reward_by_kind"])
        ordered: list[str] = []
        for members in families.values():
            ordered += [kind for kind in members if kind in seen]
        return ordered + [kind for kind in seen if kind not in ordered]

    def compared(self, kind: str) -> tuple[str, str]:
        """The checkpoints before and after the first RL stage that trains on this table."""
        names = list(self.checkpoints)
        for stage in self.config.stages:
            if (
                isinstance(stage, RlStage)
                and kind in stage.data
                and stage.name in names[1:]
            ):
                return names[names.index(stage.name) - 1], stage.name
        return names[0], names[-1]


def read_run(directory: Path) -> RunData:
    """Read a run directory, finished or not; OpenQwQError if it has no data or damaged data."""
    path = directory / "config.toml"
    if not path.exists():
        raise OpenQwQError(
            f"{directory} is not a run directory (it has no config.toml): check the path"
        )
    config = load_config([path])
    log, unreadable = _read_log(directory / "log.jsonl")
    outcomes = {}
    for name in (START, *(stage.name for stage in config.stages)):
        saved = directory / "evaluation" / f"{name}.json"
        if saved.exists():
            outcomes[name] = _read_outcomes(saved)
    if not log and not outcomes:
        raise OpenQwQError(
            f"run {directory} has no data yet: go on with it first (--resume)"
        )
    reward_models: dict[str, Any] = {}
    for stage in config.stages:
        rated = directory / f"{stage.name}.json"
        if stage.kind == "reward_model" and rated.exists():
            reward_models[stage.name] = json.loads(rated.read_bytes())
    done = directory / FINISHED
    finished = json.loads(done.read_bytes()) if done.exists() else {}
    return RunData(
        directory,
        config,
        path.read_text(),
        log,
        unreadable,
        outcomes,
        reward_models,
        finished,
    )


def _read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a log, and how many lines a kill cut short."""
    log: list[dict[str, Any]] = []
    unreadable = 0
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        try:
            log.append(json.loads(line))
        except ValueError:
            unreadable += 1
    return log, unreadable


def _read_outcomes(path: Path) -> list[Outcome]:
    try:
        entries = json.loads(path.read_bytes())["outcomes"]
        return [Outcome(**entry) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise OpenQwQError(
            f"evaluation {path} is unreadable ({error!r}): remove it, then --resume"
        ) from error
