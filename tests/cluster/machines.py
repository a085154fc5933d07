"""Two machines on one: network namespaces, joined by one wire, with a Ray node in each."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats")
# One learner rank goes to each machine, the driver to the first, the other actors to the second.
PLACED = ("cluster.cpus_per_actor=1", "cluster.gpus_per_learner=1", "cluster.learners=2")
PLACED += ("cluster.samplers=1", "cluster.verifiers=1")


class NoNamespaces(Exception):  # noqa: N818 - a reason to skip
    """This machine makes no network namespaces; the message says why."""


@dataclass(frozen=True)
class Machines:
    """Numbers 0 and 1; nothing but `wire` leads from one to the other."""

    names: tuple[str, str]
    addresses: tuple[str, str]
    temporary: str
    token: str

    @property
    def meeting(self) -> str:
        """Where Ray's head listens."""
        return f"{self.addresses[0]}:6379"

    def command(self, machine: int, *command: str) -> list[str]:
        """`command`, to be run on a machine."""
        known = ("env", "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={self.token}")
        named = (*known, "GLOO_SOCKET_IFNAME=wire", "RAY_raylet_start_wait_time_s=200")
        return ["ip", "netns", "exec", self.names[machine], *named, *command]

    def start_ray(self, machine: int, store: int = 200_000_000) -> None:
        """Start Ray's head on machine 0, a node that joins it on machine 1.

        `store` is the size of its object store, bytes.
        """
        options = [f"--node-ip-address={self.addresses[machine]}", "--num-gpus=1"]
        options += ["--include-log-monitor=false", f"--object-store-memory={store}"]
        if machine == 0:
            options += [
                "--head",
                "--port=6379",
                f"--temp-dir={self.temporary}",
                "--num-cpus=1",
            ]
            options += ["--include-dashboard=false", "--no-monitor"]
        else:
            options += [f"--address={self.meeting}", "--num-cpus=3"]
        command = self.command(machine, *RAY, *options)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self, machine: int) -> dict[int, str]:
        """What runs on a machine: process ids and command lines."""
        found = subprocess.run(
            ["ip", "netns", "pids", self.names[machine]], capture_output=True, text=True
        )
        lines = {
            pid: Path(f"/proc/{pid}/cmdline") for pid in map(int, found.stdout.split())
        }
        return {
            pid: path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            for pid, path in lines.items()
            if path.exists()
        }

    def sent(self, machine: int) -> int:
        """Bytes that a machine has put on the wire."""
        show = ["ip", "-n", self.names[machine], "-s", "-j", "link", "show", "wire"]
        found = json.loads(subprocess.run(show, check=True, capture_output=True).stdout)
        count: int = found[0]["stats64"]["tx"]["bytes"]
        return count


@contextmanager
def two_machines() -> Iterator[Machines]:
    """Make them, and take away all that ran there; raises NoNamespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NoNamespaces(
            "needs root and ip (Debian's iproute2) to make network namespaces"
        )
    names = f"qwq-{os.getpid()}-0", f"qwq-{os.getpid()}-1"
    addresses = "10.123.77.1", "10.123.77.2"
    commands = [f"netns add {name}" for name in names]
    commands += [
        f"link add wire netns {names[0]} type veth peer name wire netns {names[1]}"
    ]
    for name, address in zip(names, addresses, strict=True):
        commands += [f"-n {name} address add {address}/24 dev wire"]
        commands += [f"-n {name} link set {device} up" for device in ("lo", "wire")]
    # short: sockets have paths of 107 bytes
    temporary = tempfile.mkdtemp(prefix="qwq-ray-")
    machines = Machines(names, addresses, temporary, uuid.uuid4().hex)
    try:
        for command in commands:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
            if done.returncode:
                raise NoNamespaces(f"network namespaces do not work here: {done.stderr}")
        yield machines
    finally:
        for machine, name in enumerate(names):
            for pid in machines.processes(machine):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        shutil.rmtree(temporary, ignore_errors=True)
