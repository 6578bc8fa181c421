"""What the service costs, part by part; each keeps WORK/PART.json.

python -m tools.records.service WORK start load overhead   # any of them, in any order
python -m tools.records.service WORK keep                  # service.json and service.md of those

start: from nothing on one machine. load: 20 small jobs at once against the same in a row. overhead:
a step of ranks under a coordinator against the same loop on ranks without one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gfs_dist.files import atomic
from gfs_dist.service.capacity import Capacity
from gfs_dist.service.cluster import find_cluster
from gfs_dist.service.jobs import Job, Jobs
from gfs_dist.service.submission import Submission, send
from gfs_dist.workflows.submission import prepare, read_batch
from tests.service.command_line import Gfs
from tools.records import step_cost
from tools.records.record import keep, load_average

WORKERS = 2
SMALL = [
    "prune", "model.width=40", "data.samples=200", "steps=15", "train.iterations=20",
    "train.checkpoint_every=10", "workers=1",
]  # fmt: skip
JOBS = 20
LEAVE_S = 30.0

Row = dict[str, Any]


@contextmanager
def cluster(work: Path) -> Iterator[Gfs]:
    """``gfs up`` and, at the end, ``gfs down``."""
    gfs = Gfs(work)
    gfs("up", f"workers={WORKERS}")
    try:
        yield gfs
    finally:
        gfs("down")


def start(work: Path) -> list[Row]:
    """Seconds of each command, and until a job shows that it works."""
    gfs, rows = Gfs(work), list[Row]()

    def timed(*words: str) -> None:
        began = time.perf_counter()
        gfs(*words)
        rows.append({"what": "gfs " + words[0], "seconds": time.perf_counter() - began})

    timed("up", f"workers={WORKERS}")
    try:
        rows += _submit(gfs)
        timed("fetch", gfs.json("list")["jobs"][-1]["id"], "fetched")
    finally:
        timed("down")
    assert json.loads((work / "fetched" / "report.json").read_text())["status"] == "finished"
    return rows


def _submit(gfs: Gfs) -> list[Row]:
    """``gfs submit``, whose lines are read as they come."""
    began, marks = time.perf_counter(), dict[str, float]()
    with gfs.start("submit", *SMALL) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.perf_counter() - began
            if line.startswith("submitted as"):
                marks.setdefault("gfs submit: until it is submitted", now)
            elif line.startswith("train") and marks:  # before that it is the plan that says so
                marks.setdefault("gfs submit: until the first line of progress", now)
    assert process.returncode == 0
    marks["gfs submit: until the job has ended"] = time.perf_counter() - began
    return [{"what": what, "seconds": seconds} for what, seconds in marks.items()]


def load(work: Path) -> list[Row]:
    """Jobs that differ in their seed, handed over together and one by one; their picks agree."""
    with cluster(work) as gfs:
        os.environ["XDG_STATE_HOME"] = gfs.environment["XDG_STATE_HOME"]
        jobs = Jobs(find_cluster(None))
        capacity = Capacity.of(jobs.cluster.nodes())

        def run(submissions: list[Submission], together: bool) -> tuple[list[Job], float]:
            began, ended = time.perf_counter(), list[Job]()
            groups = [submissions] if together else [[one] for one in submissions]
            for group in groups:
                sent = [send(jobs, one, capacity).job for one in group]
                ended += [jobs.follow(job, lambda _: None) for job in sent]
            return ended, time.perf_counter() - began

        row, row_s = run([_small(work / "row", seed) for seed in range(JOBS)], together=False)
        once, once_s = run([_small(work / "once", seed) for seed in range(JOBS)], together=True)
        deadline = time.monotonic() + LEAVE_S
        while gfs.left and time.monotonic() < deadline:
            time.sleep(0.5)  # Ray sends no event
        left = gfs.left
    assert [_picks(job) for job in once] == [_picks(job) for job in row]
    return [
        {
            "jobs": len(ended),
            "how": how,
            "side by side": side_by_side,
            "finished": sum(job.status == "SUCCEEDED" for job in ended),
            "seconds": seconds,
            "seconds a job": seconds / len(ended),
            "left": len(left),
        }
        for how, side_by_side, ended, seconds in (
            ("at once", capacity.drivers, once, once_s),
            ("in a row", 1, row, row_s),
        )
    ]


def _small(folder: Path, seed: int) -> Submission:
    job, *words = SMALL
    own = [f"seed={seed}", f"out={folder / str(seed)}"]
    batch = read_batch([f"job={job}", *words, *own])
    return prepare(batch, *batch.configs)


def _picks(job: Job) -> list[str]:
    report = json.loads((Path(job.run_folder) / "report.json").read_text())
    return [row["picks_sha256"] for row in report["results"]]


PARTS = {"start": start, "load": load, "overhead": step_cost.measure}
NOTES = {
    "start": [
        f"start: gfs up workers={WORKERS}; the job trains 40 neurons on 200 samples, prunes three "
        "checkpoints with one worker",
    ],
    "load": [
        "load: the same job with other seeds; each is a process of its own that imports torch and "
        "Ray, and starts an actor. Handed over and waited for in one process, so that the start of "
        "the command counts in neither; left: placement groups, actors and drivers that jobs still "
        "held half a minute later; picks of the same seed agree",
    ],
    "overhead": step_cost.NOTES,
}


def main() -> None:
    """Measure the parts that are named, or keep what was measured."""
    work, parts = Path(sys.argv[1]).resolve(), sys.argv[2:]
    for part in [part for part in parts if part != "keep"]:
        folder = work / part
        folder.mkdir(parents=True)
        rows = PARTS[part](folder)
        atomic.write_json(work / f"{part}.json", rows)
        print(part, *rows, sep="\n", flush=True)
    if "keep" in parts:
        found = {part: work / f"{part}.json" for part in PARTS if (work / f"{part}.json").exists()}
        rows = [
            {"part": part, **row}
            for part, file in found.items()
            for row in json.loads(file.read_text())
        ]
        notes = [note for part in found for note in NOTES[part]]
        notes.append(load_average())
        command = " ".join(["python -m tools.records.service WORK", *found, "keep"])
        keep("service", command, rows, notes, by="part")


if __name__ == "__main__":
    main()
