"""Packages inside a worker: where they are, and how they are imported once for all programs."""

from collections.abc import Sequence
from importlib import import_module

PACKAGES = "/packages"  # where a worker's root holds them
# One thread each: a library that starts one a core runs into the limits of a case.
THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def import_packages(modules: Sequence[str]) -> None:
    """Import what programs may import; raise ImportError naming what cannot be imported."""
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # whatever a package raises when it is imported
            raise ImportError(f"{name}: {type(error).__name__}: {error}") from error
    if "numpy" in modules:
        import_module("numpy.random").seed(0)  # as `random` is: the same numbers every time
