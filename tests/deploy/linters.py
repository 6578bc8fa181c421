"""Validators for the files of cluster/ and docker/; none of them needs an engine or a network."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import ray
import yaml
from jsonschema import Draft7Validator, ValidationError

ROOT = Path(__file__).parent.parent.parent
SCHEMAS = Path(__file__).parent / "schemas"
RAY_UP = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"


def rayjob(path: Path) -> str:
    """A RayJob: KubeRay's schema, and Kubernetes's for its pods."""
    spec = _spec(path).get("rayClusterSpec", {})
    return _vendored("rayjob.v1", path) + _pods(spec)


def raycluster(path: Path) -> str:
    """A RayCluster: KubeRay's schema, and Kubernetes's for its pods."""
    return _vendored("raycluster.v1", path) + _pods(_spec(path))


def kubernetes(path: Path) -> str:
    """One object of Kubernetes itself."""
    return _kubernetes(json.dumps(yaml.safe_load(path.read_text())))


def compose(path: Path) -> str:
    """A compose file."""
    return _vendored("compose-spec", path)


def ray_up(path: Path) -> str:
    """What `ray up` takes."""
    return _schema(RAY_UP.read_bytes(), path)


def dockerfile(path: Path) -> str:
    """Hadolint, whose least remark counts."""
    return _run("hadolint", "--no-color", "--failure-threshold", "style", str(path))


def bash(path: Path) -> str:
    """ShellCheck, whose least remark counts; #SBATCH lines are comments to it."""
    return _run("shellcheck", "--shell=bash", "--severity=style", str(path))


LINTERS: dict[str, Callable[[Path], str]] = {
    "cluster/kuberay/raycluster.yaml": raycluster,
    "cluster/kuberay/rayjob.yaml": rayjob,
    "cluster/kuberay/runs-volume.yaml": kubernetes,
    "cluster/kuberay/network-policy.yaml": kubernetes,
    "cluster/slurm/gfs.sbatch": bash,
    "cluster/ssh/cluster.yaml": ray_up,
    "docker/Dockerfile": dockerfile,
    "docker/compose.yaml": compose,
    "docker/compose.gpu.yaml": compose,
}


def _spec(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()).get("spec", {})


def _pods(spec: dict[str, Any]) -> str:
    groups = [spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", [])]
    facts = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pods"}}
    pods = [json.dumps({**facts, "template": group.get("template")}) for group in groups]
    return "".join(map(_kubernetes, pods))


@cache
def _kubernetes(text: str) -> str:
    """What is said against one object, as JSON; the same pods occur in several files."""
    version = kubernetes_validate.latest_version()
    try:
        kubernetes_validate.validate(json.loads(text), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}\n"
    return ""


def _vendored(name: str, path: Path) -> str:
    return _schema(gzip.decompress((SCHEMAS / f"{name}.json.gz").read_bytes()), path)


def _schema(text: bytes, path: Path) -> str:
    found = Draft7Validator(json.loads(text)).iter_errors(yaml.safe_load(path.read_text()))
    return "".join(map(_told, found))


def _told(error: ValidationError) -> str:
    """An error and those of its alternatives."""
    return f"{error.json_path}: {error.message}\n" + "".join(map(_told, error.context or ()))


def _run(tool: str, *words: str) -> str:
    """What the tool says against it; nothing if it exits with 0."""
    command = [str(Path(sys.executable).parent / tool), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    return "" if done.returncode == 0 else f"{tool} {done.stdout}{done.stderr}"
