"""The same thing twice attaches, goes on, or is shown; a stand-in takes the place of Ray."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from gfs_dist.errors import ClusterError, InputError
from gfs_dist.service.capacity import Capacity, Demand
from gfs_dist.service.jobs import AlreadyThereError, Job
from gfs_dist.service.submission import CONFIG, Submission, git_commit, send, stage

CAPACITY = Capacity((2.0,), (0.0,))
NOT_YET = (None, None, None, "")  # started, ended, exit code, message


@dataclass
class FakeJobs:
    known: list[Job] = field(default_factory=list)
    sent: list[tuple[str, str, str, dict[str, Any]]] = field(default_factory=list)
    raced: bool = False

    def list(self) -> list[Job]:
        return list(self.known)

    def find(self, name: str) -> Job:
        return next(job for job in self.known if job.id == name)

    def submit(self, job_id: str, entrypoint: str, folder: Path, facts, **reserve: Any) -> None:
        self.sent.append((job_id, entrypoint, (folder / CONFIG).read_text(), reserve))
        of = [facts[key] for key in ("run_folder", "config_sha256", "git_commit")]
        attempt = int(facts["gfs_attempt"])
        job = Job(job_id, facts["gfs_id"], attempt, facts["gfs_job"], "PENDING", *of, *NOT_YET)
        self.known.append(job)
        if self.raced:
            raise AlreadyThereError

    def end(self, status: str) -> None:
        self.known[-1] = replace(self.known[-1], status=status)


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    return Submission("prune", "text", "steps: 3\n", str(tmp_path / "run"), Demand(2, "auto"))


def test_the_id_follows_from_the_configuration_alone(submission: Submission) -> None:
    assert re.fullmatch(r"prune-[0-9a-f]{10}", submission.base)
    assert submission.base == replace(submission, run_folder="/x", config_text="").base
    assert submission.base != replace(submission, identity="other").base
    assert re.fullmatch(r"[A-Za-z0-9_-]+", replace(submission, job="a/b c").base)


def test_the_driver_names_the_users_own_code_as_the_user_did(
    submission: Submission, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").touch()
    jobs = FakeJobs()
    send(jobs, replace(submission, factory="nets:make it"), CAPACITY)
    [(_, entrypoint, *_)] = jobs.sent
    words = shlex.split(entrypoint)
    assert words[-3:] == ["--config", CONFIG, "model.factory=nets:make it"]


def test_a_new_one_is_submitted_with_all_that_is_known_of_it(submission: Submission) -> None:
    jobs = FakeJobs()
    sent = send(jobs, submission, CAPACITY)
    assert sent.how == "submitted"
    ((job_id, entrypoint, text, reserve),) = jobs.sent
    assert job_id == sent.job.id == f"{submission.base}-1"
    assert entrypoint == f"exec python -m gfs_dist prune --config {CONFIG}"
    assert text == "steps: 3\n"
    assert reserve == {"entrypoint_resources": {"node:__internal_head__": 0.5}}
    assert sent.job.config_sha256 == submission.sha256
    assert sent.job.run_folder == submission.run_folder


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_one_that_runs_is_attached_to(submission: Submission, status: str) -> None:
    jobs = FakeJobs()
    first = send(jobs, submission, CAPACITY).job
    jobs.end(status)
    again = send(jobs, submission, CAPACITY)
    assert (again.how, again.job.id, len(jobs.sent)) == ("attached", first.id, 1)


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_one_that_did_not_end_well_goes_on_as_the_next_attempt(
    submission: Submission, status: str
) -> None:
    jobs = FakeJobs()
    for attempt in range(1, 12):
        sent = send(jobs, submission, CAPACITY)
        assert sent.job.id == f"{submission.base}-{attempt}"
        jobs.end(status)
    assert sent.how == "resumed"


def test_one_that_has_finished_is_shown(submission: Submission) -> None:
    jobs = FakeJobs()
    send(jobs, submission, CAPACITY)
    jobs.end("SUCCEEDED")
    Path(submission.run_folder).mkdir()
    assert send(jobs, submission, CAPACITY).how == "finished"
    Path(submission.run_folder).rmdir()  # its results were deleted: made again
    assert send(jobs, submission, CAPACITY).job.attempt == 2


def test_a_run_folder_is_unseen_from_elsewhere_not_gone(submission: Submission) -> None:
    jobs, far = FakeJobs(), replace(submission, run_folder="/nowhere/on/this/machine/run")
    send(jobs, far, CAPACITY)
    jobs.end("SUCCEEDED")
    assert send(jobs, far, CAPACITY).how == "finished"


def test_a_run_folder_at_a_url_is_gone_when_nothing_is_there(submission: Submission) -> None:
    jobs, there = FakeJobs(), replace(submission, run_folder="memory://submitted/run")
    send(jobs, there, CAPACITY)
    jobs.end("SUCCEEDED")
    memory = fsspec.filesystem("memory")
    memory.pipe("/submitted/run/report.json", b"{}")
    assert send(jobs, there, CAPACITY).how == "finished"
    memory.rm("/submitted", recursive=True)
    assert send(jobs, there, CAPACITY).job.attempt == 2


def test_who_was_faster_is_attached_to(submission: Submission) -> None:
    jobs = FakeJobs(raced=True)
    assert send(jobs, submission, CAPACITY).how == "attached"


def test_two_jobs_never_share_a_run_folder(submission: Submission) -> None:
    jobs = FakeJobs()
    first = send(jobs, submission, CAPACITY).job
    with pytest.raises(ClusterError, match=f"out: .* is what {first.id} writes to"):
        send(jobs, replace(submission, identity="other"), CAPACITY)


def test_without_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() == ""


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    folder = tmp_path / "staged"
    folder.mkdir()
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x = 1\n")


def test_a_job_without_own_code_takes_its_configuration_alone(staged: Path, here: Path) -> None:
    write(here, "mine.py")
    assert stage(staged, "a: 1\n", None) == []
    assert [file.name for file in staged.iterdir()] == [CONFIG]
    assert (staged / CONFIG).read_text() == "a: 1\n"


def test_a_module_takes_the_python_files_beside_it(staged: Path, here: Path) -> None:
    write(here, "mine_a.py", "helper.py", "sub/more.py", "data.bin", "notes.txt")
    write(here, ".git/x.py", "env/pyvenv.cfg", "env/y.py", "runs/1/report.json", "runs/1/z.py")
    assert stage(staged, "", "mine_a:make") == ["helper.py", "mine_a.py", "sub/more.py"]
    assert (staged / "sub" / "more.py").read_text() == "x = 1\n"


def test_a_package_goes_whole_but_for_weights(staged: Path, here: Path) -> None:
    write(here, "nets_b/__init__.py", "nets_b/net.py", "nets_b/sizes.json", "nets_b/w.safetensors")
    write(here, "other.py", "sizes.json", "nets_b/__pycache__/net.pyc")
    assert stage(staged, "", "nets_b.net:make") == [
        "other.py", "nets_b/__init__.py", "nets_b/net.py", "nets_b/sizes.json",
    ]  # fmt: skip


def test_what_is_installed_stays(staged: Path, here: Path) -> None:
    write(here, "mine.py")
    assert stage(staged, "", "torch.nn:Linear") == []
    assert stage(staged, "", "json.decoder:JSONDecoder") == []


def test_a_module_that_is_nowhere_is_refused(staged: Path, here: Path) -> None:
    with pytest.raises(InputError, match="model.factory: found no module 'nowhere'"):
        stage(staged, "", "nowhere.at_all:make")
