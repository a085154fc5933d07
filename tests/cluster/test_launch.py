"""The launch examples, judged by the tools that would start them."""

import copy
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

EXAMPLES = Path(__file__).parents[2] / "examples" / "cluster"

# The eight nodes that the script asks for and one without GPUs, as cloud nodes that are switched
# off: Slurm plans with those, and none has to run.
SLURM_CONF = """
ClusterName=openqwq
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={directory}
SlurmctldPidFile={directory}/slurmctld.pid
SlurmctldLogFile={directory}/slurmctld.log
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=1
GresTypes=gpu
NodeName=gpu[1-8] NodeAddr=127.0.0.1 CPUs=64 RealMemory=900000 Gres=gpu:8 State=CLOUD
NodeName=plain NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=CLOUD
PartitionName=gpus Nodes=gpu[1-8] Default=YES
PartitionName=plain Nodes=plain
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find a controller of our own."""
    if shutil.which("slurmctld") is None or shutil.which("sbatch") is None:
        pytest.skip("needs Slurm (Debian: apt install slurmctld slurm-client)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = subprocess.run(
        ["id", "-un"], capture_output=True, text=True, check=True
    ).stdout.strip()
    conf = SLURM_CONF.format(
        host=socket.gethostname(), user=user, port=port, directory=tmp_path
    )
    (tmp_path / "slurm.conf").write_text(conf)
    (tmp_path / "gres.conf").write_text("NodeName=gpu[1-8] Name=gpu Count=8\n")
    environment = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    controller = subprocess.Popen(
        ["slurmctld", "-D"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            ping = subprocess.run(
                ["scontrol", "ping"], env=environment, capture_output=True
            )
            if b"UP" in ping.stdout:
                break
            time.sleep(0.1)
        else:
            pytest.fail((tmp_path / "slurmctld.log").read_text())
        yield environment
    finally:
        controller.kill()
        controller.wait()


def dry_run(slurm: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    script = str(EXAMPLES / "slurm.sbatch")
    command = ["sbatch", "--test-only", *options, script, "qwq-32b-64gpu", "runs/there"]
    return subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=60)


def test_slurm_would_start_the_script_on_eight_nodes_of_eight_gpus(
    slurm: dict[str, str],
) -> None:
    whole = dry_run(slurm)
    assert whole.returncode == 0
    assert "using 512 processors on nodes gpu[1-8]" in whole.stderr
    small = ("--partition=plain", "--nodes=1", "--gpus-per-node=0", "--cpus-per-task=2")
    assert "using 2 processors on nodes plain" in dry_run(slurm, *small).stderr
    assert dry_run(slurm, "--nodes=9").returncode != 0
    assert dry_run(slurm, "--partition=plain").returncode != 0


def test_the_script_is_shell() -> None:
    subprocess.run(["bash", "-n", EXAMPLES / "slurm.sbatch"], check=True)


def rayjob() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())
    return loaded


def strict(schema: Any) -> Any:
    """A CRD's schema as the API server applies it with strict validation: no unknown fields."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    open_ended = ("additionalProperties", "x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not any(
        key in schema for key in open_ended
    ):
        schema["additionalProperties"] = False
    return schema


def test_the_rayjob_follows_kuberays_own_schema() -> None:
    crd = os.environ.get("KUBERAY_CRD")
    if not crd:
        pytest.skip("needs KUBERAY_CRD, the path of KubeRay's ray.io_rayjobs.yaml")
    versions = yaml.load(Path(crd).read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (version,) = (v for v in versions if v["name"] == "v1")
    validator = Draft7Validator(strict(version["schema"]["openAPIV3Schema"]))
    job = rayjob()
    assert [error.message for error in validator.iter_errors(job)] == []
    for path, value in ((("backoffLimits",), 3), (("rayClusterSpec", "headGroupSpec"), {})):
        wrong = copy.deepcopy(job)
        inner = wrong["spec"]
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        assert not validator.is_valid(wrong)


def test_the_pods_of_the_rayjob_are_pods_to_kubernetes() -> None:
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="needs pip install kubernetes-validate"
    )
    cluster = rayjob()["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p"},
            **group["template"],
        }
        kubernetes.validate(pod, "1.37", strict=True)
        pod["spec"]["containers"][0]["volumeMount"] = []
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(pod, "1.37", strict=True)
