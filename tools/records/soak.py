"""Many short runs, each with several faults on a seeded schedule: what became of each.

python -m tools.records.soak [FAULTS] [SEED]   # keeps soak.json and soak.md

Workers are killed, stopped, leave or lose their connections; the driver is killed and the run
resumed. Every run must end with the picks of an undisturbed one; none may hang or leave a process,
a file or shared memory. Where other programs use shared memory too, give the soak its own:
unshare --mount sh -c 'mount -t tmpfs none /dev/shm && exec python -m tools.records.soak'
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gfs_dist.service.processes import MARK, end_marked, marked
from tools.records.record import keep, load_average

STEPS, WORKERS = 300, 3
DRIVER = -1
LIMIT_S = 240
HANG_FLOOR_S = 2
SHARED_MEMORY = Path("/dev/shm")
WORDS = [
    f"steps={STEPS}", "model.width=200", "runtime=local", f"workers={WORKERS}", "threads=1",
    f"runtime.hang_floor_s={HANG_FLOOR_S}",
]  # fmt: skip


@dataclass
class Outcome:
    """One run, over all the processes that it took.

    Attributes:
        scheduled: faults that were to come.
        faults: those that came: kind, step, which process of the run (part), recovered_s.
        trouble: what is not as it should be.
    """

    scheduled: int
    faults: list[dict[str, Any]] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    @property
    def injected(self) -> int:
        """Faults that came; several ranks notice one hang, which counts once."""
        return len({(row["part"], row["step"]) for row in self.faults})


class Soak:
    """Runs of one small problem.

    Args:
        folder: empty; all files of the runs lie in it, temporary ones too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.mark = f"soak-{os.getpid()}"
        self.dense = folder / "dense"
        words = ["model.width=200", "train.iterations=50", "train.checkpoint_every=50"]
        assert self._gfs("pretrain", *words, "runtime=none", f"out={self.dense}").returncode == 0
        self.checkpoint = self.dense / "checkpoints" / "step_00000050"
        out = self._prune("undisturbed")
        assert out.returncode == 0, out.stderr
        self.expected = self._picks("undisturbed")

    def run(self, name: str, chance: random.Random) -> Outcome:
        """One run with one to four faults; after the death of its driver it is resumed."""
        parts = schedule(chance)
        outcome = Outcome(sum(len(part) for part in parts))
        before, seen = set(SHARED_MEMORY.iterdir()), 0
        died: dict[str, Any] | None = None
        for number, faults in enumerate(parts):
            try:
                done = self._prune(name, faults, resume=number > 0)
            except subprocess.TimeoutExpired:
                outcome.trouble.append(f"hung with {faults}")
                end_marked(self.mark)
                return outcome
            events = self._events(name)[seen:]
            seen += len(events)
            step = next(time_of(events, "step"), None)
            if died is not None and step is not None:  # else it is killed again before that
                died["recovered_s"] = step - died["time"]
            outcome.faults += [{**row, "part": number} for row in faults_of(events)]
            if done.returncode == -signal.SIGKILL:
                died = {"kind": "driver killed", "step": None, "recovered_s": None}
                died |= {"part": number, "time": time.time()}
                outcome.faults.append(died)
            elif done.returncode != 0:
                said = done.stderr.strip().splitlines()[-1:]
                outcome.trouble.append(f"exit {done.returncode} with {faults}: {said}")
        if not outcome.trouble and self._picks(name) != self.expected:
            outcome.trouble.append(f"other picks with {parts}")
        outcome.trouble += self._left(before)
        return outcome

    def _prune(
        self, name: str, faults: list[dict[str, Any]] | None = None, *, resume: bool = False
    ) -> subprocess.CompletedProcess[str]:
        out = self.folder / name
        words = [f"resume={out}"] if resume else [f"checkpoint={self.checkpoint}", f"out={out}"]
        return self._gfs("prune", *words, *([] if resume else WORDS), faults=faults)

    def _gfs(
        self, *words: str, faults: list[dict[str, Any]] | None = None
    ) -> subprocess.CompletedProcess[str]:
        env = os.environ | {MARK: self.mark, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        env["GFS_FAULTS"] = json.dumps(faults or [])
        command = [sys.executable, "-m", "gfs_dist", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S)

    def _picks(self, name: str) -> str:
        report = json.loads((self.folder / name / "report.json").read_text())
        return str(report["results"][0]["picks_sha256"])

    def _events(self, name: str) -> list[dict[str, Any]]:
        """All rows so far; a line that a killed driver left torn is none."""
        file = self.folder / name / "events.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _left(self, before: set[Path]) -> list[str]:
        """Processes, files and shared memory that outlived the run."""
        found = [f"process {process.pid}" for process in marked(self.mark)]
        end_marked(self.mark)
        found += [f"file {path.name}" for path in self.temporary.iterdir()]
        found += [f"shared memory {path.name}" for path in set(SHARED_MEMORY.iterdir()) - before]
        return [f"left: {what}" for what in found]


def schedule(chance: random.Random) -> list[list[dict[str, Any]]]:
    """Faults of each process of a run, by generation and rising step; the last driver lives."""
    parts: list[list[dict[str, Any]]] = [[]]
    step = generation = 0
    for _ in range(chance.randint(1, 4)):
        step += chance.randint(1, STEPS // 5)
        if chance.random() < 0.25:
            parts[-1].append({"rank": DRIVER, "step": step, "generation": generation})
            parts.append([])
            generation = 0
        else:
            kind = chance.choice(["kill", "exit", "stop", "cut"])
            rank = chance.randrange(WORKERS)
            parts[-1].append({"rank": rank, "step": step, "kind": kind, "generation": generation})
            generation += 1
    return parts


def soak(folder: Path, faults: int, seed: int) -> list[Outcome]:
    """Runs until so many faults have come."""
    made, chance, outcomes = Soak(folder), random.Random(seed), list[Outcome]()
    while sum(outcome.injected for outcome in outcomes) < faults:
        outcome = made.run(f"run_{len(outcomes):03d}", chance)
        outcomes.append(outcome)
        total = sum(outcome.injected for outcome in outcomes)
        print(f"run {len(outcomes)}: {total} faults so far", *outcome.trouble, flush=True)
    return outcomes


def time_of(events: list[dict[str, Any]], what: str) -> Iterator[float]:
    """Times of one kind of event."""
    return (row["time"] for row in events if row["event"] == what)


def faults_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Faults that one process noticed, and the seconds from there to the first new step."""
    made = []
    for number, row in enumerate(events):
        if row["event"] == "fault":
            later = [after for after in events[number:] if after["rank"] == row["rank"]]
            recovered = next(time_of(later, "recovered"), None)
            seconds = None if recovered is None else recovered - row["time"]
            made.append({"kind": row["kind"], "step": row["step"], "recovered_s": seconds})
    return made


def rows_of(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """By kind of fault: how many, and how long it took to go on."""
    kinds: dict[str, list[float | None]] = {}
    for outcome in outcomes:
        for row in outcome.faults:
            kinds.setdefault(row["kind"], []).append(row["recovered_s"])
    return [
        {"fault": kind, "noticed": len(times), **_spread([t for t in times if t is not None])}
        for kind, times in sorted(kinds.items())
    ]


def _spread(times: list[float]) -> dict[str, float | None]:
    parts = {"least_s": 0.0, "median_s": 0.5, "p90_s": 0.9, "most_s": 1.0}
    times = sorted(times)
    return {
        name: times[math.ceil(part * (len(times) - 1))] if times else None
        for name, part in parts.items()
    }


def main() -> None:
    """Soak, and keep what became of the runs."""
    faults, seed = (int(word) for word in [*sys.argv[1:], "100", "0"][:2])
    with tempfile.TemporaryDirectory(prefix="gfs-soak-") as folder:
        outcomes = soak(Path(folder), faults, seed)
    bad = [outcome for outcome in outcomes if outcome.trouble]
    notes = [
        f"{len(outcomes)} runs of {STEPS} picks by {WORKERS} local workers, "
        f"{sum(outcome.injected for outcome in outcomes)} faults that came of "
        f"{sum(outcome.scheduled for outcome in outcomes)} scheduled (one that lies behind where a "
        f"run goes on does not); a driver that died is followed by resume=; {load_average()}",
        f"{len(outcomes) - len(bad)} of {len(outcomes)} ended with the undisturbed picks and left "
        "no process, temporary file or shared memory",
        *(f"not so: {trouble}" for outcome in bad for trouble in outcome.trouble),
        "what the coordinator noticed: killed (those that left, too), hung, collective (cut); "
        "seconds from there to the first new step; of a killed driver: from its end to the first "
        "new step of the process that goes on",
    ]
    keep("soak", f"python -m tools.records.soak {faults} {seed}", rows_of(outcomes), notes)


if __name__ == "__main__":
    main()
