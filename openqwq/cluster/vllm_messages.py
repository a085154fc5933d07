"""What a vLLM sampler tells its workers, in the plain values that vLLM carries to them."""

from typing import Any

from openqwq.cluster.meeting import Meeting
from openqwq.cluster.transfer import Manifest

BACKEND = "openqwq"  # the name of our engine among vLLM's
EXTENSION = "openqwq.cluster.vllm_engine.StreamExtension"


def meeting_message(meeting: Meeting, number: int) -> dict[str, Any]:
    """The fields of `StreamInit`."""
    return {"meeting": dict(vars(meeting)), "number": number}


def manifest_message(manifest: Manifest) -> dict[str, Any]:
    """The fields of `StreamUpdate`."""
    names: list[str] = []
    shapes: list[list[int]] = []
    dtypes: list[str] = []
    for parameter in manifest.parameters:
        names.append(parameter.name)
        shapes.append(list(parameter.shape))
        dtypes.append(str(parameter.dtype).removeprefix("torch."))
    return {
        "version": manifest.version,
        "ranks": manifest.ranks,
        "names": names,
        "shapes": shapes,
        "dtypes": dtypes,
    }
