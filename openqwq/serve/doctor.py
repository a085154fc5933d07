"""`qwq doctor`: one page on what works on this machine, to read and to paste into a bug report.

Imported for every `qwq --help`: what is heavy is imported where it runs.
"""

import argparse
import asyncio
import os
import platform
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from openqwq import __version__
from openqwq.types import OpenQwQError

HUB = "https://huggingface.co"
HUB_SECONDS = 5.0  # to wait for an answer
GIB = 2**30
Finding = tuple[str, str]


def add_doctor_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq doctor`."""
    parser.set_defaults(verb=doctor_verb)


def doctor_verb(_: argparse.Namespace) -> None:
    """Print the page; a part that cannot be examined is a line that says so."""
    for title, examine in PARTS.items():
        print(title)
        for name, finding in examine():
            print(f"  {name:<14} {finding}", flush=True)
        print()


def machine() -> Iterator[Finding]:
    """The interpreter, the system, its cores, memory and disk."""
    import psutil

    yield "OpenQwQ", f"{__version__} in {Path(__file__).parents[1]}"
    yield "Python", f"{platform.python_version()} at {sys.executable}"
    yield "system", f"{platform.platform()} on {platform.machine()}"
    yield "cores", busy_cores(os.cpu_count() or 1, os.getloadavg()[0])
    memory = psutil.virtual_memory()
    yield (
        "memory",
        f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available",
    )
    for place in (Path.cwd(), Path.home()):
        disk = shutil.disk_usage(place)
        yield "disk", f"{disk.free / GIB:.0f} of {disk.total / GIB:.0f} GiB free at {place}"


def busy_cores(cores: int, load: float) -> str:
    """How many cores there are and how many other programs keep busy, with what that means."""
    text = f"{cores}, of which {min(load, cores):.1f} are busy"
    if load > cores / 2:
        return f"{text} (load {load:.1f}): training and serving will be slower than they could be"
    return text


def engines() -> Iterator[Finding]:
    """What runs models here: PyTorch with its device and precision, and llama.cpp."""
    try:
        import torch

        from openqwq.model.device import chosen_device
        from openqwq.model.precision import has_bf16
    except (ImportError, OSError) as error:
        # OSError: a library that the loader does not find
        yield "PyTorch", f"cannot be loaded: {error}"
        return
    device = chosen_device("auto")
    yield "PyTorch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        size = torch.cuda.get_device_properties(device).total_memory
        yield "device", f"cuda: {torch.cuda.get_device_name(device)}, {size / GIB:.0f} GiB"
        bf16 = torch.cuda.is_bf16_supported()
    else:
        yield "device", "cpu: PyTorch sees no NVIDIA GPU"
        bf16 = has_bf16()
    yield (
        "precision",
        "fp32 and bf16" if bf16 else "fp32: this device does not multiply in bf16",
    )
    yield "llama.cpp", version_of("xllamacpp", "llamacpp")


def sandbox() -> Iterator[Finding]:
    """Every isolation layer, tried from inside a confined process."""
    from openqwq.sandbox.doctor import REMEDIES
    from openqwq.sandbox.local import doctor

    try:
        found = asyncio.run(doctor())
    except OpenQwQError as error:
        yield "none", str(error)
        return
    for layer, problem in found.items():
        if problem:
            yield layer, f"missing: {problem}. It needs {REMEDIES[layer]}"
        else:
            yield layer, "holds"


def hub() -> Iterator[Finding]:
    """Whether checkpoints can be downloaded."""
    yield "client", version_of("huggingface_hub", "hub")
    address = os.environ.get("HF_ENDPOINT", HUB)
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "on", "true", "yes"):
        yield "access", "off: HF_HUB_OFFLINE is set"
        return
    request = urllib.request.Request(address, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            yield "access", f"{address} answers"
    except urllib.error.HTTPError as error:
        yield "access", f"{address} answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        yield "access", f"{address} cannot be reached: {error}"


def packages() -> Iterator[Finding]:
    """The version of each package that OpenQwQ or one of its extras asks for."""
    try:
        requirements = metadata.requires("openqwq") or []
    except metadata.PackageNotFoundError:
        yield "openqwq", "not installed: this is a directory of its source"
        return
    found: dict[str, str] = {}
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement)[0]
        extra = re.search(r"extra == ['\"](.+?)['\"]", requirement)
        if name != "openqwq" and (extra is None or extra[1] != "test"):
            found.setdefault(name, version_of(name, extra[1] if extra else ""))
    width = max(map(len, found))
    for name in sorted(found):
        yield name.ljust(width), found[name]


def version_of(package: str, extra: str) -> str:
    """The installed version of `package`, or how the extra that brings it is installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        wanted = f"openqwq[{extra}]" if extra else "openqwq"
        return f"not installed: pip install '{wanted}'"


PARTS: dict[str, Callable[[], Iterator[Finding]]] = {
    "This machine": machine,
    "Engines": engines,
    "Sandbox": sandbox,
    "Hugging Face hub": hub,
    "Packages": packages,
}
