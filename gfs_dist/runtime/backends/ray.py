"""Workers as Ray actors: on a Ray cluster that exists, or on one embedded in this process.

The actors are placed together and live as long as the runtime; Ray restarts none of them, since
a restarted actor would come back without its group and state.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # else workers get a copy of the venv
import psutil
import ray
from ray.exceptions import AuthenticationError, GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gfs_dist.errors import InputError, WorkersLostError, first_line
from gfs_dist.runtime.backends.base import PlacementError, WorkerDiedError, module_path
from gfs_dist.runtime.messages import Identity
from gfs_dist.runtime.spec import RuntimeSpec
from gfs_dist.runtime.store import Address
from gfs_dist.urls import check_ray_address

OBJECT_STORE_BYTES = 256 * 2**20
FOLDER = "gfs-ray-"
STARTED_AGAIN = (
    "the Ray cluster was started again while this ran, and its workers are gone; resume=RUN_DIR "
    "goes on"
)
_LOG = logging.getLogger(__name__)


def _actor_class() -> Any:
    """The actor. Ray sends a class that is made in a function by value, so it can mend the
    module search path of a worker before anything of ours is imported there.
    """

    class RankActor:
        def __init__(self, path: list[str], address: Address, name: str) -> None:
            import sys
            from pathlib import Path

            sys.path += [p for p in path if p not in sys.path and Path(p).exists()]
            import ray

            from gfs_dist.runtime.worker import WorkHandler

            self.host = WorkHandler(address, name, ray.get_runtime_context().get_node_id())

        def handle(self, method: Any, *arguments: Any) -> Any:
            return self.host.handle(method, *arguments)

    return RankActor


class RayWorker:
    """One actor."""

    def __init__(self, name: str, slot: int, actor: Any, node: str) -> None:
        self.name, self.slot = name, slot
        self._actor, self._node = actor, node
        self._pid: int | None = None
        self._lock = threading.Lock()
        self._asked: set[Future[Any]] = set()
        self._killed = False

    def call(self, method: Callable[..., Any], *arguments: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        with self._lock:
            if self._killed:
                answer.set_exception(WorkerDiedError(f"actor {self.name} was ended"))
                return answer
            self._asked.add(answer)
        reply = self._actor.handle.remote(method, *arguments).future()
        reply.add_done_callback(lambda done: self._answer(answer, done))
        return answer

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            asked, self._asked = self._asked, set()
        # Ray takes five seconds to end a stopped process; on this machine there is a faster way.
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        with _gone_with_its_cluster():
            ray.kill(self._actor, no_restart=True)
        for answer in asked:
            answer.set_exception(WorkerDiedError(f"actor {self.name} was ended"))

    def _answer(self, answer: Future[Any], done: Future[Any]) -> None:
        with self._lock:
            if answer not in self._asked:
                return
            self._asked.discard(answer)
        error = done.exception()
        if isinstance(error, RayActorError):
            answer.set_exception(WorkerDiedError(first_line(error)))
        elif _is_of_other_cluster(error):
            answer.set_exception(WorkersLostError(STARTED_AGAIN))
        elif error is not None:
            answer.set_exception(error)
        elif (reply := done.result()).error is not None:
            answer.set_exception(reply.error)
        else:
            if isinstance(reply.value, Identity) and reply.value.node == self._node:
                self._pid = reply.value.pid
            answer.set_result(reply.value)


class RayLauncher:
    """Places actors on a cluster.

    The cluster is, in this order: one that this process has joined already (it is left running),
    ``spec.address``, Ray's own ``RAY_ADDRESS``, an embedded one that ends with :meth:`close`.
    """

    def __init__(self, spec: RuntimeSpec) -> None:
        self.spec = spec
        self._leave: Callable[[], None] | None = None
        self._embedded = False
        address = spec.address or os.environ.get("RAY_ADDRESS")
        if not ray.is_initialized():
            if address:
                join_cluster(address)
                self._leave = ray.shutdown
            else:
                self._leave = EmbeddedRay(spec.workers + spec.spares).close
                self._embedded = True
            # Ray prints a paragraph on standard output for every worker that dies, whatever
            # ``log_to_driver`` says; its debugger has this switch, and there is no public way.
            ray._private.worker._worker_logs_enabled = False  # noqa: SLF001
        self.host = ray.util.get_node_ip_address()
        self._node = ray.get_runtime_context().get_node_id()
        self._group: PlacementGroup | None = None
        self._workers: list[RayWorker] = []
        self._actor = ray.remote(_actor_class())
        gpus = ray.cluster_resources().get("GPU", 0)
        if spec.device == "cuda" and not gpus:
            self.close()
            raise InputError("device: found 'cuda', but the Ray cluster has no GPU; accepted 'cpu'")
        self._gpus = spec.device == "cuda" or (spec.device == "auto" and gpus >= spec.workers)
        self.device = "cuda" if self._gpus else "cpu"

    def open(self, num_workers: int) -> int:
        cpus = ray.cluster_resources().get("CPU", 0.0)
        bundle = {"CPU": max(0.01, min(1.0, int(100 * cpus / num_workers) / 100))}
        if self._gpus:
            bundle["GPU"] = 1.0
        if self._place(bundle, num_workers):
            return num_workers
        free = ray.available_resources()
        room = min(int(free.get(kind, 0.0) / need) for kind, need in bundle.items())
        for fewer in range(min(room, num_workers - 1), 0, -1):
            if self._place(bundle, fewer):
                return fewer
        raise PlacementError(
            f"workers: no room for one on the Ray cluster within {self.spec.placement_timeout_s:g} "
            f"s (each needs {bundle}); see `ray status`"
        )

    def _place(self, bundle: dict[str, float], num_workers: int) -> bool:
        """Reserve places for so many; waits its turn where others hold what is enough for all."""
        group = self._group = placement_group([bundle] * num_workers, strategy="PACK")
        told = False
        while True:
            with contextlib.suppress(GetTimeoutError):
                ray.get(group.ready(), timeout=self.spec.placement_timeout_s)
                return True
            if self._embedded or _room_of_nodes(bundle) < num_workers:
                remove_placement_group(group)
                self._group = None
                return False
            if not told:
                _LOG.warning("waiting for room: other jobs hold the cluster")
                told = True

    def start(self, name: str, slot: int, address: Address) -> RayWorker:
        assert self._group is not None
        bundle = self._group.bundle_specs[slot]
        options = self._actor.options(
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, slot),
        )
        try:
            actor = options.remote(module_path(), address, name)
        except AuthenticationError as error:
            if _is_of_other_cluster(error):
                raise WorkersLostError(STARTED_AGAIN) from error
            raise
        worker = RayWorker(name, slot, actor, self._node)
        self._workers.append(worker)
        return worker

    def share(self, payload: bytes) -> Any:
        return ray.put(payload)

    def close(self) -> None:
        if ray.is_initialized():
            for worker in self._workers:
                worker.kill()
            if self._group is not None:
                with _gone_with_its_cluster():
                    remove_placement_group(self._group)
        if self._leave is not None:
            self._leave()
            ray._private.worker._worker_logs_enabled = True  # noqa: SLF001


class EmbeddedRay:
    """A Ray of this process's own: no dashboard, its own token, its own folder, nothing left."""

    def __init__(self, num_workers: int) -> None:
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        ours = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join(module_path()),
        }
        self._before = {key: os.environ.get(key) for key in ours}
        _set_environment(ours)
        try:
            _init_ray(
                address="local",
                num_cpus=num_workers,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(self.folder),
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End its processes, remove its folder, restore the environment."""
        ray.shutdown()
        _set_environment(self._before)
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_of_other_cluster(error: BaseException | None) -> bool:
    """Whether Ray says that behind the same address there is another cluster now."""
    return isinstance(error, AuthenticationError) and "WrongClusterID" in str(error)


@contextlib.contextmanager
def _gone_with_its_cluster() -> Iterator[None]:
    """Around the end of what the cluster holds: one that was started again holds it no more."""
    try:
        yield
    except AuthenticationError as error:
        if not _is_of_other_cluster(error):
            raise


def _room_of_nodes(bundle: dict[str, float]) -> int:
    """How many bundles the live nodes could hold if nothing else ran on them."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(min(int(n.get(kind, 0) / need) for kind, need in bundle.items()) for n in nodes)


def _sweep() -> None:
    """Remove what embedded Rays left whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*-*"):
        pid = folder.name.removeprefix(FOLDER).split("-")[0]
        gone = pid.isdigit() and not psutil.pid_exists(int(pid))
        if gone and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)


def _set_environment(values: Mapping[str, str | None]) -> None:
    """Set variables, None to remove one, and have Ray read them again, for which there is no public
    way: it reads its mode of authentication when imported, and a token when first needed.
    """
    for key, value in values.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _init_ray(**options: Any) -> None:
    """``ray.init`` that prints nothing and keeps our handler of SIGTERM: Ray's dumps the stack and
    exits where ours interrupts.

    Workers search for modules where this process does, see :func:`_actor_class`. Ray would search
    the current folder, which is not trusted, first, except in jobs of its client; there is no
    public way to say so. A submitted job has its own folder, with the user's own code.
    """
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # it names that folder
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            job_config=ray.job_config.JobConfig(_client_job=not submitted),
            logging_level=logging.ERROR,
            log_to_driver=False,
            **options,
        )
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def join_cluster(address: str) -> None:
    """Connect to a Ray cluster that runs.

    Raises:
        InputError: nothing answers there (Ray itself would try for minutes), or it is not said
            whether the cluster asks for a token (Ray would then show none).
        PlacementError: Ray refused.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address  # as Ray has it
    check_ray_address(address)
    if os.environ.get("RAY_AUTH_MODE") not in ("token", "disabled"):
        raise InputError(
            "runtime.address: RAY_AUTH_MODE is not set; set it to token and RAY_AUTH_TOKEN_PATH to "
            "the file of the cluster's token (gfs up prints both), or to disabled for a cluster "
            "without one, on which whoever reaches it can run code"
        )
    try:
        _init_ray(address=address)
    except ConnectionError as error:
        raise PlacementError(
            f"Ray cluster at {address}: {first_line(error)}; is its token that of "
            "RAY_AUTH_TOKEN_PATH?"
        ) from error
    except (RuntimeError, RayError) as error:
        raise PlacementError(f"Ray cluster at {address}: {' '.join(str(error).split())}") from error
