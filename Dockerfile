# OpenQwQ with its server, agent and llama.cpp, for a CPU or an NVIDIA GPU.
#
#     docker build -t openqwq .                                # CPU
#     docker build -t openqwq:cuda --build-arg DEVICE=cuda .   # CUDA
#     docker run -p 8000:8000 -v ~/models:/models openqwq serve /models/NAME --insecure
#
# The sandbox needs namespaces, which a container's default profile forbids: see docs/install.md.

# Any image of Debian or Ubuntu with Python 3.11 or newer, its venv module and its headers.
ARG BASE=python:3.13-slim
FROM ${BASE}

ARG DEVICE=cpu
# PyTorch's index for DEVICE=cpu; its CUDA build is the one that PyPI has.
ARG CPU_WHEELS=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# Debian's own Python takes packages into an environment alone.
RUN python3 -m venv /opt/openqwq
ENV PATH=/opt/openqwq/bin:$PATH

# PyTorch first and apart: its layer stays as it is when only OpenQwQ changes.
WORKDIR /build
COPY constraints.txt ./
RUN case "$DEVICE" in \
      cpu) pip install --constraint constraints.txt --index-url "$CPU_WHEELS" torch ;; \
      cuda) pip install --constraint constraints.txt torch ;; \
      *) echo "DEVICE is $DEVICE: it must be cpu or cuda" >&2; exit 1 ;; \
    esac

# gcc is for the few dependencies that come as source alone.
COPY pyproject.toml README.md LICENSE ./
COPY openqwq openqwq
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && \
    pip install --constraint constraints.txt '.[agent,data,hub,llamacpp,serve]' && \
    apt-get purge -y --auto-remove gcc libc6-dev && rm -rf /var/lib/apt/lists/* /build/*

# An ordinary user, as the sandbox wants: a container's root lacks CAP_SETFCAP.
RUN useradd --create-home --uid 1000 qwq
USER qwq
WORKDIR /home/qwq

# Servers of a container listen on its own network, which is published by name alone.
ENV QWQ_HOST=0.0.0.0 QWQ_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=300s \
    CMD python -c "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"QWQ_PORT\"]}/health', timeout=4)"

ENTRYPOINT ["qwq"]
CMD ["doctor"]
