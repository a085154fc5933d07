"""What a stage compares with and does not train: a teacher, or a KL penalty's reference."""

from collections.abc import Callable

from openqwq.config import DistillStage, RlStage, SftStage
from openqwq.model.fit import parameter_counts
from openqwq.model.qwen2 import ModelConfig
from openqwq.train.prepare import START
from openqwq.train.teachers import is_endpoint

BYTES = 4  # of a parameter: it is loaded in fp32


def name_of_frozen(stage: RlStage | DistillStage) -> str | None:
    """The frozen policy, where it is loaded from elsewhere than what the stage begins with."""
    if isinstance(stage, DistillStage):
        return None if is_endpoint(stage.teacher) else stage.teacher
    if stage.kl_coefficient and stage.reference != START:
        return stage.reference
    return None


def has_copy_of_its_start(stage: SftStage | RlStage | DistillStage) -> bool:
    """Whether a KL penalty's reference is what an RL stage of whole weights begins with."""
    if not isinstance(stage, RlStage) or stage.lora is not None:
        return False
    return stage.kl_coefficient > 0 and stage.reference == START


def loaded_bytes(
    stage: SftStage | RlStage | DistillStage, shape_of: Callable[[str], ModelConfig]
) -> int:
    """What another policy takes that is loaded to compare with; 0: none is."""
    if isinstance(stage, SftStage):
        return 0
    name = name_of_frozen(stage)
    if name is None:
        return 0
    parameters, _ = parameter_counts(shape_of(name))
    return BYTES * parameters
