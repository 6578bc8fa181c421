"""The jobs on one cluster, through Ray's Jobs API."""

from __future__ import annotations

import asyncio
import difflib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfs_dist.errors import ClusterError, ClusterLostError, InputError, RunError
from gfs_dist.service import http
from gfs_dist.service.cluster import VARIABLES, Cluster

STOP_TIMEOUT_S = 60.0
READ_TIMEOUT_S, WRITE_TIMEOUT_S = 2 * http.TIMEOUT_S, 60.0
"""Between two bytes of an answer; a job that is submitted may start before it comes."""
LOG_BYTES = 2**29
"""Of a job's log; a run folder that is printed has three quarters of that at most."""
_DAMAGED = (AttributeError, KeyError, TypeError, ValueError)
"""What Ray's client raises where an answer is not Ray's."""
_LIMIT_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Job:
    """One submission.

    Attributes:
        id: ``BASE-ATTEMPT``.
        base: the same for the same submission.
        attempt: from 1.
        job: the command.
        status: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED.
        run_folder: where it writes, on the cluster's storage or at a URL.
        config_sha256, git_commit: of what was submitted.
        started, ended: seconds since the epoch; None if not yet.
        exit_code: of its driver.
        message: Ray's description of its end.
    """

    id: str
    base: str
    attempt: int
    job: str
    status: str
    run_folder: str
    config_sha256: str
    git_commit: str
    started: float | None
    ended: float | None
    exit_code: int | None
    message: str

    @classmethod
    def of(cls, details: Any) -> Job | None:
        """From Ray's details; None if gfs did not submit it."""
        facts = details.metadata or {}
        if not details.submission_id or not facts.get("gfs_id"):
            return None
        return cls(
            id=details.submission_id,
            base=facts["gfs_id"],
            attempt=int(facts["gfs_attempt"]),
            job=facts["gfs_job"],
            status=str(getattr(details.status, "value", details.status)),
            run_folder=facts["run_folder"],
            config_sha256=facts["config_sha256"],
            git_commit=facts["git_commit"],
            started=details.start_time / 1000 if details.start_time else None,
            ended=details.end_time / 1000 if details.end_time else None,
            exit_code=details.driver_exit_code,
            message=details.message or "",
        )

    @property
    def over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def minutes(self) -> float | None:
        """From its submission to its end, or to now."""
        if self.started is None:
            return None
        return round(((self.ended or time.time()) - self.started) / 60, 1)


class AlreadyThereError(Exception):
    """Another process has submitted a job of that id meanwhile."""


class Jobs:
    """The jobs of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._client = _client(cluster)

    def list(self) -> list[Job]:
        """Those that gfs submitted, the oldest first.

        Raises:
            ClusterError: the cluster does not answer.
        """
        with _plain_errors(self.cluster):
            found = [job for row in self._client.list_jobs() if (job := Job.of(row)) is not None]
        return sorted(found, key=lambda job: (job.started or 0.0, job.id))

    def find(self, name: str) -> Job:
        """The job with that id, or the last attempt of that submission.

        Raises:
            InputError: there is none; names those that are alike.
        """
        jobs = self.list()
        matches = [job for job in jobs if name == job.id] or [j for j in jobs if name == j.base]
        if matches:
            return max(matches, key=lambda job: job.attempt)
        ids = [job.id for job in reversed(jobs)]
        close = difflib.get_close_matches(name, ids, n=3, cutoff=0.5)
        known = f"did you mean {', '.join(close)}?" if close else "gfs list shows those there are"
        raise InputError(f"id: no job {name!r} on {self.cluster.url}; {known}")

    def submit(
        self, job_id: str, entrypoint: str, folder: Path, facts: dict[str, str], **reserve: Any
    ) -> None:
        """Submit a job whose working directory is a copy of ``folder``.

        Raises:
            AlreadyThereError: the id is taken.
            ClusterError: the cluster does not take it.
        """
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size > _LIMIT_BYTES:
            raise InputError(
                f"model.factory: its code has {size / 2**20:.0f} MiB, accepted at most "
                f"{_LIMIT_BYTES // 2**20}: keep data out of its folder"
            )
        # On a cluster that asks for no token, the job's driver has to accept that too.
        accepted = {} if self.cluster.token else {"env_vars": {"RAY_AUTH_MODE": "disabled"}}
        with _plain_errors(self.cluster):
            try:
                self._client.submit_job(
                    submission_id=job_id,
                    entrypoint=entrypoint,
                    runtime_env={"working_dir": str(folder), **accepted},
                    metadata=facts,
                    **reserve,
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    raise AlreadyThereError from error
                raise

    def stop(self, job: Job) -> Job:
        """End a job; returns when it has ended.

        Ray ends one that is PENDING when its turn comes, however long that takes.

        Raises:
            RunError: it has begun, and does not end.
        """
        asked, began = False, None
        while not job.over:
            if not asked:  # Ray refuses until it knows the job's driver
                with _plain_errors(self.cluster):
                    asked = self._client.stop_job(job.id)
            if job.status != "PENDING":
                began = time.monotonic() if began is None else began
                if time.monotonic() - began > STOP_TIMEOUT_S:
                    raise RunError(f"{job.id}: still {job.status} after {STOP_TIMEOUT_S:g} s")
            time.sleep(0.5)  # the Jobs API has no events
            job = self.find(job.id)
        return job

    def output(self, name: str, entrypoint: str, folder: Path, timeout_s: float) -> str:
        """Run a small job that is not listed; returns its log.

        Raises:
            RunError: it takes too long.
        """
        self.submit(name, entrypoint, folder, {})
        deadline = time.monotonic() + timeout_s
        with _plain_errors(self.cluster):
            while not self._client.get_job_status(name).is_terminal():
                if time.monotonic() > deadline:
                    raise RunError(f"{name}: not done after {timeout_s:g} s")
                time.sleep(0.5)  # the Jobs API has no events
            return str(self._client.get_job_logs(name))

    def logs(self, job: Job) -> str:
        with _plain_errors(self.cluster):
            return str(self._client.get_job_logs(job.id))

    def follow(self, job: Job, write: Callable[[str], None]) -> Job:
        """Pass on the output of the driver until the job is over; returns the job then.

        Raises:
            ClusterLostError: the cluster no longer answers, or no longer knows the job.
        """
        written = 0
        try:
            while True:
                with _plain_errors(self.cluster):
                    written = asyncio.run(self._tail(job.id, write, written))
                job = self.find(job.id)
                if job.over:
                    return job
                time.sleep(1.0)  # the connection was cut: again, without what was shown
        except InputError as error:
            raise ClusterLostError(
                f"{job.id}: its cluster was lost ({error}); once one answers again, the same gfs "
                "submit goes on where the job stopped"
            ) from error

    async def _tail(self, job_id: str, write: Callable[[str], None], skip: int) -> int:
        """Pass the log on from character ``skip``; how many characters are shown now."""
        seen = 0
        try:
            async for chunk in self._client.tail_job_logs(job_id):
                if new := chunk[max(0, skip - seen) :]:
                    write(new)
                seen += len(chunk)
        except RuntimeError as error:
            if "closed unexpectedly" not in str(error):
                raise
        return max(seen, skip)


def _client(cluster: Cluster) -> Any:
    """Ray's client. Its address would lose against Ray's variables, so they say the same."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    headers = {} if cluster.token is None else {"Authorization": f"Bearer {cluster.token}"}
    with _variable(VARIABLES[0], cluster.url), _plain_errors(cluster):
        from ray.job_submission import JobSubmissionClient

        class Bounded(JobSubmissionClient):
            """Ray's own, which waits for ever and reads any amount, with limits."""

            def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
                limit = LOG_BYTES if endpoint.endswith("/logs") else http.MAX_BYTES
                hooks = {"response": functools.partial(_read_bounded, limit)}
                timeout = WRITE_TIMEOUT_S if method in ("POST", "PUT") else READ_TIMEOUT_S
                return super()._do_request(method, endpoint, timeout=timeout, hooks=hooks, **more)

        for name in [name for name in logging.root.manager.loggerDict if name.startswith("ray.")]:
            logging.getLogger(name).setLevel(logging.ERROR)  # it tells of every upload
        return Bounded(cluster.url, headers=headers)


def _read_bounded(limit: int, response: Any, **_: Any) -> None:
    """Read the body of an answer, which requests has not done yet where it calls this."""
    content = bytearray()
    for part in response.iter_content(2**20):
        content += part
        if len(content) > limit:
            raise RuntimeError(f"more than {limit // 2**20} MiB, no answer of Ray's")
    response._content = bytes(content)  # noqa: SLF001 - there is no public way


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _plain_errors(cluster: Cluster) -> Iterator[None]:
    """Errors of Ray's client, which quote whole tracebacks of the server, in one line."""
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError

    try:
        yield
    except (AuthenticationError, ClientError, OSError, RuntimeError, *_DAMAGED) as error:
        if isinstance(error, InputError | RunError):
            raise
        raise ClusterError(f"{cluster.url}{_message(error)}") from error


def _message(error: Exception) -> str:
    """The predicate for a cluster's URL: its own texts name pools, retries and objects."""
    import requests
    from aiohttp import ClientConnectionError, ClientResponseError

    silent = requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError
    if isinstance(error, (*silent, ClientConnectionError)):
        return " does not answer"
    if isinstance(error, ClientResponseError):
        return f" answers with status {error.status}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f": {lines[-1][:300] if lines else type(error).__name__}"
