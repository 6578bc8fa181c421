"""What ``gfs submit`` composes and identifies jobs by; what is said of their end and stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from gfs_dist.cli import main
from gfs_dist.config.cluster import SUBMITTED
from gfs_dist.config.commands import COMMANDS
from gfs_dist.config.compose import compose_file, to_yaml
from gfs_dist.errors import ClusterError, ConfigError, InputError, JobEndedError, RunFolderError
from gfs_dist.jobs import logs, stop, submit
from gfs_dist.service.capacity import Demand
from gfs_dist.service.jobs import Job
from gfs_dist.service.submission import Sent
from gfs_dist.workflows.follow_job import follow, next_commands
from gfs_dist.workflows.reporter import Reporter
from gfs_dist.workflows.submission import plan, prepare, read_batch


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(*words: str) -> Any:
    batch = read_batch(["job=prune", *words])
    return prepare(batch, *batch.configs)


def test_submit_has_its_own_keys_and_those_of_the_job() -> None:
    batch = read_batch(["job=prune", "steps=3", "wait=false"])
    assert (batch.keys.job, batch.keys.wait) == ("prune", False)
    assert [config.steps for config in batch.configs] == [3]
    with pytest.raises(ConfigError, match=r"^stepz: unknown key of gfs prune; did you mean steps"):
        read_batch(["job=prune", "stepz=3"])
    with pytest.raises(ConfigError, match=r"^job: found 'cut', accepted pretrain, prune"):
        read_batch(["job=cut"])


@pytest.mark.parametrize("job", SUBMITTED)
def test_every_job_that_can_be_submitted_writes_a_run_folder(job: str) -> None:
    assert {"out", "runtime", "workers", "device"} <= set(COMMANDS[job].__dataclass_fields__)
    words = {
        "advise": ["path=x"],
        "finetune": ["path=x"],
        "benchmark": ["suite=scaling"],
        "reproduce": ["experiment=figure2"],
    }.get(job, [])
    (config,) = read_batch([f"job={job}", *words]).configs
    assert config.runtime.kind == "ray"


def test_a_suite_of_one_machine_stays_on_one() -> None:
    batch = read_batch(["job=benchmark"])
    assert prepare(batch, *batch.configs).demand == Demand(1, "auto", together=True)


def test_the_same_words_have_the_same_id_and_folder(here: Path) -> None:
    one, two = prepared("steps=3"), prepared("steps=3")
    assert (one.base, one.run_folder) == (two.base, two.run_folder)
    assert one.run_folder == str(here / "runs" / one.base)
    assert prepared("steps=4").base != one.base
    assert prepared("steps=3", "out=x").base != one.base


def test_how_the_cluster_is_reached_does_not_matter() -> None:
    near, far = prepared(), prepared("runtime.address=http://elsewhere:8265")
    assert near.base == far.base
    assert "address: auto" in far.config_text


def test_paths_no_longer_depend_on_the_folder(here: Path) -> None:
    text = prepared(
        "data=cifar10", "data.root=pictures", "checkpoint=dense", "model=resnet20_cifar", "out=here"
    ).config_text
    for line in (f"root: {here}/pictures", f"checkpoint: {here}/dense", f"out: {here}/here"):
        assert line in text, line
    assert "partition: contiguous" in text
    assert f"partition: {here}/parts.json" in prepared("partition=parts.json").config_text


def test_a_url_stays_what_it_is() -> None:
    sent = prepared("out=memory://bucket/run")
    assert sent.run_folder == "memory://bucket/run"
    assert "out: memory://bucket/run" in sent.config_text
    batch = read_batch(["job=prune", "steps=1,2", "out=memory://b"], multirun=True)
    assert [prepare(batch, point).run_folder for point in batch.configs] == [
        "memory://b/0",
        "memory://b/1",
    ]


def test_the_log_of_a_rank_is_read_where_the_run_folder_lies(here: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/logged/run/logs/rank_1.log", b"said")
    (here / "logs").mkdir()
    (here / "logs" / "rank_1.log").write_text("said")
    for place in ("memory://logged/run", str(here)):
        ran = replace(job("SUCCEEDED"), run_folder=place)
        assert logs._of_rank(ran, 1) == "said"
        with pytest.raises(InputError, match=r"found no rank_0\.log, .* those of rank_1\.log"):
            logs._of_rank(ran, 0)
    memory.rm("/logged", recursive=True)


def test_every_point_of_a_sweep_is_a_job_with_a_folder() -> None:
    batch = read_batch(["job=prune", "steps=1,2"], multirun=True)
    assert len({prepare(batch, point).run_folder for point in batch.configs}) == 2
    named = read_batch(["job=prune", "steps=1,2", "out=x"], multirun=True)
    assert [Path(prepare(named, point).run_folder).name for point in named.configs] == ["0", "1"]


def test_what_a_job_takes_follows_from_its_keys() -> None:
    assert prepared("workers=3", "runtime.spares=1").demand == Demand(4, "auto")
    assert prepared("runtime=none").demand == Demand(1, "auto", together=True)
    assert prepared("runtime=local", "workers=3", "device=cpu").demand == Demand(
        3, "cpu", together=True
    )
    batch = read_batch(["job=benchmark", "suite=scaling", "workers=[1,4,2]"])
    assert prepare(batch, *batch.configs).demand.ranks == 4


def test_the_job_goes_on_where_its_folder_has_begun(here: Path) -> None:
    sent = prepared("steps=3", "out=run")
    file = here / "gfs-job.yaml"
    file.write_text(sent.config_text)
    config = compose_file("prune", file)
    assert (config.out, config.resume, config.steps) == (str(here / "run"), None, 3)
    (here / "run").mkdir()
    (here / "run" / "config.yaml").write_text(to_yaml(config))
    assert compose_file("prune", file).resume == str(here / "run")
    (here / "run" / "config.yaml").write_text(to_yaml(config).replace("steps: 3", "steps: 4"))
    with pytest.raises(ConfigError, match="steps: found 3, the run folder has 4"):
        compose_file("prune", file)


@pytest.mark.parametrize("content", ["", "a: [", "- x", "steps: 3"])
def test_a_file_that_is_no_configuration_is_refused(here: Path, content: str) -> None:
    (here / "x.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        compose_file("prune", here / "x.yaml")
    with pytest.raises(ConfigError, match=r"absent"):
        compose_file("prune", here / "absent")


def test_inputs_that_are_not_here_are_refused_on_our_cluster_only() -> None:
    (config,) = read_batch(["job=prune", "checkpoint=/nowhere", "model=two_layer"]).configs
    with pytest.raises(ConfigError, match="checkpoint: /nowhere does not exist"):
        plan("prune", config, own_cluster=True)
    (line,) = plan("prune", config, own_cluster=False)
    assert "cannot be seen from here" in line


def test_a_folder_that_cannot_be_written_is_refused_on_our_cluster(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (here / "file").touch()
    (config,) = read_batch(["job=prune", "out=file/run", "device=cuda"]).configs
    with pytest.raises(RunFolderError, match=r"^out: .*/file exists and is no folder$"):
        plan("prune", config, own_cluster=True)
    (line,) = plan("prune", config, own_cluster=False)
    assert "here is no GPU" in line


NAMED = SimpleNamespace(words=("runtime.address=http://a:1",))
"""A cluster that was named on the command line."""


def job(status: str, exit_code: int | None = None, message: str = "") -> Job:
    return Job("a-1", "a", 1, "prune", status, "/run", "0", "", 1.0, None, exit_code, message)


@pytest.mark.parametrize(
    ("ended", "exit_code", "words"),
    [
        (job("FAILED", 3, "log\ngfs: budget: too small\n"), 3, "exit code 3: budget: too small"),
        (job("FAILED", None, "lost its node"), 1, "a-1 failed: lost its node"),
        (job("STOPPED"), 130, "a-1 was stopped; submit it again to go on"),
    ],
)
def test_a_job_that_did_not_end_well_gives_its_exit_code(
    ended: Job, exit_code: int, words: str
) -> None:
    jobs: Any = SimpleNamespace(follow=lambda job, write: ended, cluster=NAMED)
    with pytest.raises(JobEndedError, match=words) as caught:
        follow(jobs, job("RUNNING"), Reporter())
    assert caught.value.exit_code == exit_code


def test_interrupting_says_that_the_job_goes_on() -> None:
    def interrupt(job: Job, write: Any) -> Job:
        raise KeyboardInterrupt

    jobs: Any = SimpleNamespace(follow=interrupt, cluster=NAMED)
    with pytest.raises(KeyboardInterrupt, match=r"a-1 goes on; .*gfs logs a-1 -f .*gfs stop a-1"):
        follow(jobs, job("RUNNING"), Reporter())


class Cluster:
    """Takes jobs, as far as it comes, and is then interrupted."""

    def __init__(self, *arrive: bool, silent: bool = False) -> None:
        self.arrive, self.silent = list(arrive), silent
        self.jobs: list[Job] = []
        self.cluster = SimpleNamespace(url="http://a", own=True, nodes=list, words=())

    def list(self) -> list[Job]:
        if self.silent:
            raise ClusterError("http://a does not answer")
        return self.jobs

    def send(self, _jobs: Any, submission: Any, _capacity: Any) -> Any:
        arrives = self.arrive.pop(0)
        if arrives:
            base = submission.base
            self.jobs.append(replace(job("PENDING"), id=f"{base}-1", base=base))
        if not self.arrive:
            raise KeyboardInterrupt
        return Sent(self.jobs[-1], "submitted")


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What ``gfs submit prune WORDS`` says when it is interrupted on a stand-in of a cluster."""
    monkeypatch.setattr(submit, "ASK_AGAIN_S", (0.0, 0.0))
    monkeypatch.setattr(submit, "plan", lambda *_, **__: [])
    monkeypatch.setattr(submit.Capacity, "check", lambda *_: "")

    def run(cluster: Cluster, *words: str) -> str:
        monkeypatch.setattr(submit, "find_cluster", lambda *_, **__: None)
        monkeypatch.setattr(submit, "Jobs", lambda _: cluster)
        monkeypatch.setattr(submit, "send", cluster.send)
        with pytest.raises(KeyboardInterrupt) as caught:
            submit.run(read_batch(["job=prune", *words], multirun=True), Reporter())
        return str(caught.value)

    return run


def test_an_interruption_says_whether_the_job_arrived(interrupted: Any) -> None:
    base = prepared().base
    assert interrupted(Cluster(True)) == (
        f"{base}-1 goes on; follow it: gfs logs {base}-1 -f; end it: gfs stop {base}-1"
    )
    assert interrupted(Cluster(False)) == (
        f"nothing was submitted ({base}: not at work on the cluster)"
    )
    assert interrupted(Cluster(False, silent=True)) == (
        f"whether {base} was submitted is not known: see gfs list"
    )


def test_an_interruption_says_which_jobs_of_a_sweep_arrived(interrupted: Any) -> None:
    cluster = Cluster(True, True, False)
    said = interrupted(cluster, "steps=1,2,3")
    assert said == f"2 of 3 jobs go on: {', '.join(job.id for job in cluster.jobs)}"


def test_an_interruption_before_anything_is_sent_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for name in (
        "jobs.submit.find_cluster",
        "workflows.submission.read_batch",
        "cli.shell._compose",
    ):
        monkeypatch.setattr(f"gfs_dist.{name}", interrupt)
        assert main(["submit", "prune"]) == 130
        assert capsys.readouterr().err == "gfs: interrupted; nothing was submitted\n"


def test_commands_name_the_cluster_that_was_named() -> None:
    jobs: Any = SimpleNamespace(cluster=NAMED)
    assert next_commands(jobs, job("SUCCEEDED"))[0] == "gfs fetch a-1 runtime.address=http://a:1"


def test_chunks_become_lines() -> None:
    class Notes(Reporter):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def relay(self, line: str) -> None:
            self.lines.append(line)

    def print_chunks(_job: Job, write: Any) -> Job:
        for chunk in ("a", "b\nc\n\nd", "e"):
            write(chunk)
        return job("SUCCEEDED")

    notes, jobs = Notes(), SimpleNamespace(follow=print_chunks, cluster=NAMED)
    follow(jobs, job("RUNNING"), notes)  # type: ignore[arg-type]
    assert notes.lines == ["ab", "c", "", "de"]


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``gfs stop a-1`` of a job in one state that ends in another."""

    def run(before: str, after: str | None) -> int:
        def end(found: Any) -> Any:
            if after is None:
                raise KeyboardInterrupt
            return replace(found, status=after)

        jobs = SimpleNamespace(stop=end, cluster=NAMED)
        monkeypatch.setattr(stop, "find_job", lambda _: (jobs, job(before)))
        return main(["stop", "a-1"])

    return run


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "PENDING",
            "STOPPED",
            "a-1 waits for its turn, and is stopped when that comes\n"
            "a-1: STOPPED; the same gfs submit goes on where it stopped",
        ),
        ("RUNNING", "STOPPED", "a-1: STOPPED; the same gfs submit goes on where it stopped"),
        ("RUNNING", "SUCCEEDED", "a-1: SUCCEEDED; it ended by itself"),
        ("FAILED", "FAILED", "a-1 is over already: FAILED"),
    ],
)
def test_a_job_that_is_over_in_the_end_exits_well(
    stopped: Any, capsys: pytest.CaptureFixture[str], before: str, after: str, said: str
) -> None:
    assert stopped(before, after) == 0
    assert said in capsys.readouterr().out


def test_who_waits_no_longer_is_told_that_the_request_stays(
    stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stopped("PENDING", None) == 130
    assert (
        capsys.readouterr().err == "gfs: interrupted; a-1 was asked to stop: see gfs status a-1\n"
    )
