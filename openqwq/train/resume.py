"""Which settings of a run may change when it goes on, and which would make it another run."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from openqwq.config import Config, RewardModelStage
from openqwq.config.build import joined, key_of
from openqwq.types import OpenQwQError

ABSENT = "(absent)"
# Keys that decide neither what is trained nor how.
SAFE = (
    "evaluation",
    "device",
    "trackers",
    "plan",
    "threads",
    "cluster.timeout",
    "cluster.address",
)
SAFE_IN_A_STAGE = (
    "evaluate",
    "checkpoint_every",
    "max_error_share",
    "reward_seconds",
    "skip_checks",
)


# A reward model that has begun is finished or begins again, so these may be another.
DECAY = ("optimiser.decay_share", "optimiser.final_lr_share")


def check_resumable(old: Config, new: Config, begun: Mapping[str, int], where: str) -> None:
    """Raise OpenQwQError naming the first setting that may not change.

    `begun` are the stages that have begun, and the steps that each has done. A stage that has not
    begun may change in any way, and so may a table that only such stages use.
    """
    order = [stage.name for stage in old.stages]
    kept = [stage.name for stage in new.stages]
    for place, name in enumerate(order):
        if name in begun and (place >= len(kept) or kept[place] != name):
            raise OpenQwQError(
                f"{where} has begun stage {name!r}, which the config now lacks or has in another "
                "place: keep the stages that have begun, or use another --out"
            )

    before = flattened(old)
    after = flattened(new)
    for key in dict.fromkeys([*before, *after]):
        was = before.get(key, ABSENT)
        now = after.get(key, ABSENT)
        if was == now or _may_change(key, was, now, old, begun):
            continue
        later = _begun_behind(key, old, begun)
        reason = f", and stage {later!r} has begun from its end" if later else ""
        raise OpenQwQError(
            f"{where} was begun with {key} = {was!r}, now it is {now!r}{reason}: keep it, or use "
            "another --out (the steps of the last stage, engine.max_length and "
            "max_tokens_per_micro_batch may grow; evaluation, threads, trackers and "
            "checkpoint_every may change)"
        )


def _may_change(
    key: str, was: Any, now: Any, old: Config, begun: Mapping[str, int]
) -> bool:
    if key == "threads" and old.deterministic:
        return False
    if key == "engine.max_length":
        return bool(now > was)
    if any(key == safe or key.startswith(f"{safe}.") for safe in SAFE):
        return True
    top, _, rest = key.partition(".")
    name, _, setting = rest.partition(".")
    if top == "stages":
        return _may_change_in_stage(name, setting, was, now, old, begun)
    if top == "data":
        users = {stage.name for stage in old.stages if name in stage.data}
        is_in_tokenizer = not old.model and name in old.staged_data()
        return not is_in_tokenizer and not users & set(begun)
    return False


def _may_change_in_stage(
    name: str, setting: str, was: Any, now: Any, old: Config, begun: Mapping[str, int]
) -> bool:
    if name not in begun:
        return True
    if setting.split(".")[0] in SAFE_IN_A_STAGE:
        return True
    if setting == "optimiser.max_tokens_per_micro_batch" and was != ABSENT:
        return bool(0 < was < now)
    (stage,) = [stage for stage in old.stages if stage.name == name]
    if isinstance(stage, RewardModelStage) and setting in DECAY:
        return True
    if setting not in ("steps", "epochs") or now == ABSENT:
        return False
    return bool(now > was) and not _begun_behind(f"stages.{name}.{setting}", old, begun)


def _begun_behind(key: str, old: Config, begun: Mapping[str, int]) -> str:
    """The first begun stage behind the one whose length `key` sets; "" where there is none."""
    top, _, rest = key.partition(".")
    name, _, setting = rest.partition(".")
    names = [stage.name for stage in old.stages]
    if top != "stages" or name not in names or setting not in ("steps", "epochs"):
        return ""
    later = names[names.index(name) + 1 :]
    return next((stage for stage in later if stage in begun), "")


def flattened(config: Config) -> dict[str, Any]:
    """Every setting by its dotted key, stages by their names."""
    return dict(_flat(dataclasses.asdict(config), ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, joined(path, key_of(key)))
    elif path == "stages":
        for stage in value:
            yield from _flat(stage, joined(path, stage["name"]))
    else:
        yield path, value
