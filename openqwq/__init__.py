"""OpenQwQ: the open system that makes and serves a QwQ-like reasoning model."""

import os
import time

__version__ = "0.2.0"

LOOKS = 10
SECONDS_BETWEEN = 0.002


def cores_are_shared(loadavg: str = "/proc/loadavg") -> bool:
    """Whether running programs leave fewer cores than this process may use.

    Brief work of others does not count: it must be there in each of ten looks. False where the
    system does not tell.
    """
    try:
        cores = len(os.sched_getaffinity(0))
        for _ in range(LOOKS):
            with open(loadavg) as file:
                counts = file.read().split()[3]  # running/all
            running, _, _ = counts.partition("/")
            others = int(running) - 1
            if others + cores <= (os.cpu_count() or 1):
                return False
            time.sleep(SECONDS_BETWEEN)
    except (AttributeError, OSError):
        return False
    return True


# How often an OpenMP thread looks for work before it sleeps; OpenMP reads it when PyTorch or
# llama.cpp load it. By default it spins for milliseconds. Next to one busy process it then holds a
# core that others wait for, and a training step takes several times as long. Sleeping at once
# avoids that, and costs an idle machine a third of its speed (bench/busy.py).
if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
    os.environ["GOMP_SPINCOUNT"] = "0" if cores_are_shared() else "3000"
