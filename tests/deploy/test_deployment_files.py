"""cluster/ and docker/: valid, with the versions of this release, and nothing open by default."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import gfs_dist
from tests.deploy.linters import LINTERS, ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.M))
READMES = [*(ROOT / "cluster").rglob("*.md"), *(ROOT / "docker").glob("*.md")]
UNLINTED = {".md", ".json", ".dockerignore"}
TYPOS = [
    ("cluster/kuberay/raycluster.yaml", "rayVersion", "rayVerzion", "'rayVerzion' was unexpected"),
    ("cluster/kuberay/raycluster.yaml", "volumeMounts", "volumeMountz", "'volumeMountz' was"),
    ("cluster/kuberay/raycluster.yaml", "claimName: gfs-runs", "claimName: [x]", "claimName"),
    ("cluster/kuberay/rayjob.yaml", "entrypoint:", "entrypoit:", "'entrypoit' was unexpected"),
    ("cluster/kuberay/rayjob.yaml", "sizeLimit", "sizeLimmit", "'sizeLimmit' was unexpected"),
    ("cluster/kuberay/runs-volume.yaml", "accessModes", "accesModes", "'accesModes' was unex"),
    ("cluster/kuberay/network-policy.yaml", "policyTypes", "policyKinds", "'policyKinds' was"),
    ("cluster/ssh/cluster.yaml", "rsync_exclude", "rsync_excluded", "'rsync_excluded' was"),
    ("cluster/slurm/gfs.sbatch", '--ntasks="$SLURM_NNODES"', "--ntasks=$SLURM_NNODES", "SC2086"),
    ("docker/Dockerfile", "--no-cache-dir -c constraints.txt uv", "uv", "DL3013"),
    ("docker/compose.yaml", "shm_size", "shm_sise", "'shm_sise'"),
    ("docker/compose.gpu.yaml", "reservations", "reservation", "'reservation'"),
]


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def ray_specs() -> list[dict[str, Any]]:
    job = read("cluster/kuberay/rayjob.yaml")["spec"]["rayClusterSpec"]
    return [read("cluster/kuberay/raycluster.yaml")["spec"], job]


def pods() -> list[dict[str, Any]]:
    return [
        group["template"]
        for spec in ray_specs()
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    ]


@pytest.mark.parametrize("name", LINTERS)
def test_it_is_valid(name: str) -> None:
    assert LINTERS[name](ROOT / name) == ""


@pytest.mark.parametrize(("name", "right", "wrong", "words"), TYPOS)
def test_a_typing_error_is_found(
    tmp_path: Path, name: str, right: str, wrong: str, words: str
) -> None:
    text = (ROOT / name).read_text()
    assert right in text
    broken = tmp_path / Path(name).name
    broken.write_text(text.replace(right, wrong))
    assert words in LINTERS[name](broken)


def test_no_file_goes_unchecked() -> None:
    files = {
        str(file.relative_to(ROOT))
        for folder in ("cluster", "docker")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix not in UNLINTED
    }
    assert files == set(LINTERS)
    assert {name for name, *_ in TYPOS} == set(LINTERS)


def test_versions_are_those_of_this_release() -> None:
    docker = (ROOT / "docker/Dockerfile").read_text()
    (python,) = re.findall(r"^ARG PYTHON=(\S+)", docker, re.M)
    assert SETTINGS["project"]["requires-python"] == f">={python}"
    assert {spec["rayVersion"] for spec in ray_specs()} == {PINS["ray"]}
    texts = [file.read_text() for file in (*READMES, *(ROOT / name for name in LINTERS))]
    assert _named(r"gfs-dist:([\d.]+)-", texts) == {gfs_dist.__version__}
    assert _named(r"(?i)\bray (\d+\.[\d.]*\d)", texts) == {PINS["ray"]}
    assert _named(r"Python (\d+\.\d+)", texts) == {python}


def _named(pattern: str, texts: list[str]) -> set[str]:
    return {found for text in texts for found in re.findall(pattern, text)}


def test_links_lead_somewhere() -> None:
    for file in READMES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file}: {target}"


def test_everything_asks_for_a_token() -> None:
    assert all(spec["authOptions"] == {"mode": "token"} for spec in ray_specs())
    assert "RAY_AUTH_MODE=token" in (ROOT / "docker/Dockerfile").read_text()
    for service in read("docker/compose.yaml")["services"].values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
    ssh = read("cluster/ssh/cluster.yaml")
    for commands in (ssh["head_start_ray_commands"], ssh["worker_start_ray_commands"]):
        assert commands[-1].startswith("RAY_AUTH_MODE=token ")
        assert " ray start " in commands[-1]


def test_usage_statistics_are_off_everywhere() -> None:
    for name in LINTERS:
        text = (ROOT / name).read_text()
        starts = len(re.findall(r"ray start |- start$|rayStartParams|symmetric-run \\", text, re.M))
        assert text.count("disable-usage-stats") == starts, name


def test_only_loopback_gets_a_port_of_the_host() -> None:
    services = read("docker/compose.yaml")["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8265:8265"]


def test_pods_run_as_nobody_special_under_the_policy() -> None:
    policy = read("cluster/kuberay/network-policy.yaml")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    claim = read("cluster/kuberay/runs-volume.yaml")["metadata"]["name"]
    for pod in pods():
        spec = pod["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"shm": "/dev/shm", "runs": "/runs"}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim


def test_the_job_and_the_cluster_have_the_same_nodes() -> None:
    cluster, job = ray_specs()
    assert cluster == job


def test_workers_have_gpus() -> None:
    for spec in ray_specs():
        for group in spec["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


STAND_INS = {
    "scontrol": 'printf "node1\\nnode2\\n"',
    "srun": 'while [ "$1" != ray ]; do echo "srun $1" >>"$LOG"; shift; done; "$@"',
    "ray": 'echo "mode $RAY_AUTH_MODE, token $(stat -c %a "$RAY_AUTH_TOKEN_PATH"), $(wc -c '
    '<"$RAY_AUTH_TOKEN_PATH") characters" >>"$LOG"; [ -z "${DEAD:-}" ] || exit 0; '
    'while [ "$1" != -- ]; do echo "ray $1" >>"$LOG"; shift; done; shift; "$@"',
    "gfs": 'echo "gfs $*" >>"$LOG"; exit "${CODE:-0}"',
}


def sbatch(folder: Path, *words: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard error and what was called, with stand-ins for Slurm, Ray and gfs."""
    (folder / "bin").mkdir()
    for name, script in STAND_INS.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    log = folder / "log"
    log.touch()
    slurm = {
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "1",
    }
    done = subprocess.run(
        ["bash", str(ROOT / "cluster/slurm/gfs.sbatch"), *words],
        env={"PATH": os.environ["PATH"], "GFS_VENV": str(folder), "LOG": str(log)}
        | slurm
        | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert not list(folder.glob(".gfs-*"))  # neither token nor exit code stays
    return done.returncode, done.stderr, log.read_text()


def test_the_batch_script_starts_ray_with_a_token_of_its_own(tmp_path: Path) -> None:
    code, error, called = sbatch(tmp_path, "prune", "model.factory=a b:c", "out=/shared/half")
    assert (code, error) == (0, "")
    for line in (
        "srun --ntasks=2",
        "mode token, token 600, 64 characters",
        "ray node1:6379",
        "ray --min-nodes",
        "ray --disable-usage-stats",
        "gfs prune model.factory=a b:c out=/shared/half runtime.address=auto",
    ):
        assert line in called.splitlines()


def test_the_batch_script_exits_as_the_job_does(tmp_path: Path) -> None:
    assert sbatch(tmp_path, "prune", CODE="3")[0] == 3


def test_the_batch_script_notices_that_no_cluster_came_up(tmp_path: Path) -> None:
    code, error, _ = sbatch(tmp_path, "prune", DEAD="1")
    assert (code, "the Ray cluster did not come up on 2 nodes" in error) == (1, True)


def test_the_batch_script_says_what_it_needs(tmp_path: Path) -> None:
    code, error, _ = sbatch(tmp_path)
    assert (code, "found no command, accepted what gfs takes" in error) == (2, True)


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    code = (ROOT / "gfs_dist/runtime/prometheus.py").read_text()
    made = set()
    for kind, name in re.findall(r'(Counter|Gauge|Histogram)\(\s*"(gfs_\w+)"', code):
        ends = {"Counter": ["_total"], "Gauge": [""], "Histogram": ["_bucket", "_sum", "_count"]}
        made |= {f"ray_{name}{end}" for end in ends[kind]}
    text = (ROOT / "cluster/monitoring/grafana-dashboard.json").read_text()
    panels = json.loads(text)["panels"]
    asked = {name for target in _targets(panels) for name in re.findall(r"ray_\w+", target)}
    assert asked <= made
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in asked}
    assert shown == {re.sub("_(bucket|sum|count)$", "", name) for name in made}
    table = (ROOT / "cluster/monitoring/README.md").read_text()
    assert set(re.findall(r"^\| `(ray_\w+)`", table, re.M)) == shown


def _targets(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]
