"""The charts of an RL stage, from its log records."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openqwq.evaluation.plots import KIND_ROLES, Chart, Plotter

Records = Sequence[Mapping[str, Any]]
# each has a colour of its own
STATUSES = ("correct", "scored", "wrong", "truncated", "timeout", "error")
GROUPS = {"trained on": "correct", "no variance": "truncated"}


def rl_charts(
    plotter: Plotter, records: Records, kinds: Mapping[str, str], prefix: str = ""
) -> list[Chart]:
    """The charts of RL's log records; `kinds` gives each kind of problem its colour role.

    `prefix` goes before the names of the files.
    """
    drawing = _Drawing(plotter, prefix)
    # steps without a judged sample have no means
    judged = [record for record in records if record["status"]]
    return [
        *drawing.line("reward", "Reward", "mean reward", judged, "reward", top=1.02),
        *drawing.parts(
            "reward_by_kind", "Reward by kind", "mean reward", judged, kinds, top=1.02
        ),
        *_each_reward(drawing, judged),
        *drawing.line("thinking", "Thinking length", "tokens", judged, "thinking_tokens"),
        *drawing.parts(
            "thinking_by_kind", "Thinking length by kind", "tokens", judged, kinds
        ),
        *_verdicts(drawing, records),
        *_groups(drawing, records),
        *drawing.line("entropy", "Entropy", "nats/token", records, "entropy"),
        *drawing.line(
            "reference_kl",
            "KL from the stage's start",
            "nats/token",
            records,
            "reference_kl",
        ),
        *drawing.line(
            "log_prob_gap",
            "Sampler–learner gap",
            "mean |Δ log-prob|, nats",
            records,
            "log_prob_gap",
            log=True,
        ),
        *drawing.line(
            "grad_norm", "Gradient norm", "norm before clipping", records, "grad_norm"
        ),
        *drawing.line(
            "learning_rate", "Learning rate", "rate", records, "lr", average=False
        ),
    ]


@dataclass(frozen=True)
class _Drawing:
    """A plotter whose files all begin with `prefix`."""

    plotter: Plotter
    prefix: str

    def line(
        self, name: str, title: str, unit: str, records: Records, key: str, **options: Any
    ) -> list[Chart]:
        """One key of the records."""
        file = self.prefix + name
        return self.plotter.curves(file, title, unit, records, {key: "ink"}, **options)

    def parts(
        self,
        name: str,
        title: str,
        unit: str,
        records: Records,
        roles: Mapping[str, str],
        **options: Any,
    ) -> list[Chart]:
        """What the records hold under `name`, a line for each part."""
        file = self.prefix + name
        lines = [{"step": record["step"], **record[name]} for record in records]
        return self.plotter.curves(file, title, unit, lines, roles, **options)

    def stack(
        self,
        name: str,
        title: str,
        unit: str,
        records: Records,
        roles: Mapping[str, str],
        note: str = "",
    ) -> list[Chart]:
        """Counts as layers."""
        return self.plotter.stack(self.prefix + name, title, unit, records, roles, note)


def _each_reward(drawing: _Drawing, judged: Records) -> list[Chart]:
    records = [record for record in judged if "rewards" in record]
    names: set[str] = set()
    for record in records:
        # A reward's own parts are in the log alone.
        names |= {name for name in record["rewards"] if "/" not in name}
    roles = dict(zip(sorted(names), itertools.cycle(KIND_ROLES)))
    return drawing.parts("rewards", "Each reward", "mean", records, roles)


def _verdicts(drawing: _Drawing, records: Records) -> list[Chart]:
    counts: list[dict[str, Any]] = []
    for record in records:
        counts.append(
            {"step": record["step"], **record["status"], "error": record["errors"]}
        )
    roles = {status: status for status in STATUSES}
    return drawing.stack("verdicts", "Verdicts", "completions", counts, roles)


def _groups(drawing: _Drawing, records: Records) -> list[Chart]:
    counts: list[dict[str, Any]] = []
    for record in records:
        trained = record["groups_trained"]
        without = record["groups"] - trained
        counts.append(
            {"step": record["step"], "trained on": trained, "no variance": without}
        )
    refills = sum(record["refills"] for record in records)
    note = f"{refills} refill rounds in {len(records)} steps."
    return drawing.stack("groups", "Prompt groups", "groups", counts, GROUPS, note)
