"""Where a model computes."""

import torch

from openqwq.types import Device, OpenQwQError


def chosen_device(asked: Device) -> torch.device:
    """The CPU or the first GPU; "auto" is the GPU if there is one.

    Raises OpenQwQError for "cuda" where PyTorch sees none.
    """
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise OpenQwQError(
            f"the device is cuda, but PyTorch {torch.__version__} sees no GPU here: choose cpu, or "
            "install its CUDA build and a driver"
        )
    return torch.device("cpu" if asked == "cpu" or not found else "cuda")


def without_memory(error: Exception) -> Exception:
    """An error of a GPU's full memory in our words, any other as it is."""
    if not isinstance(error, torch.OutOfMemoryError):
        return error
    reason = str(error).partition(". GPU")[0]
    return OpenQwQError(
        f"the GPU's memory is too small ({reason}): choose bf16, fewer slots, a shorter context, a "
        "smaller model, or the device cpu"
    )
