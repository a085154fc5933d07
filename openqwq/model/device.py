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
