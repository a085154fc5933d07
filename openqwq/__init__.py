"""OpenQwQ: the open system that makes and serves a QwQ-like reasoning model."""

import os

__version__ = "0.2.0"

# How often an OpenMP thread looks for work before it sleeps; OpenMP reads it when PyTorch or
# llama.cpp load it. By default it spins for milliseconds. Next to one busy process it
# then holds a core that others wait for, and a training step takes many times as long. Sleeping at
# once would cost an idle machine a third of its speed (bench/busy.py).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
