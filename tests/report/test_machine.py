"""What a report says about the machine: enough to compare, nothing private."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
import sys

import torch

from gfs_dist.report import machine, versions


def test_machine_is_json_of_known_facts():
    facts = json.loads(json.dumps(machine()))
    assert set(facts) == {"cpu", "cores", "memory_bytes", "gpus", "python", "os"}
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 2**28
    assert facts["python"] == platform.python_version()


def test_machine_holds_no_environment_variable_or_host_name(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "a-secret-that-must-stay")
    words = json.dumps([machine(), versions()])
    assert "a-secret-that-must-stay" not in words
    assert socket.gethostname() not in words


def test_versions_are_those_installed():
    found = versions()
    assert found["torch"] == torch.__version__
    assert "numpy" in found


def test_importing_the_report_leaves_matplotlib_alone():
    code = "import sys, gfs_dist.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
