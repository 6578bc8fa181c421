"""The steps of a forward pass, recorded by ``torch.fx``."""

from __future__ import annotations

import builtins
import inspect
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from gfs_dist.errors import error_line
from gfs_dist.networks.graph.allowed import MODULE_NAMES
from gfs_dist.networks.graph.json_values import UnstorableError

OTHER_SHAPES = "the network was recorded for inputs of other shapes"


def trace(network: nn.Module, inputs: Sequence[Tensor]) -> fx.Graph:
    """The steps of ``network`` in its mode.

    Args:
        network: constants of ``forward`` become its attributes; training may change its buffers.
        inputs: what ``forward`` is given by position, on the network's device; other arguments
            keep their defaults.

    Raises:
        UnstorableError: it cannot be recorded; gives the reason.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.random.fork_rng(devices=[]),
            _lengths_recorded(network),
        ):
            return _Tracer(inputs).trace(network)
    except Exception as error:  # the network's code meets stand-ins and may raise anything
        raise UnstorableError(
            f"its forward pass cannot be recorded ({error_line(error)}): take out what depends "
            "on the numbers in tensors, sets parts of them, or is not torch's"
        ) from error


class _Known:
    """A stand-in that Python may use as a number or count; the tracer computes it."""

    tracer: Any

    def __int__(self) -> int:
        return int(self.tracer.number(self))

    def __index__(self) -> int:
        return operator.index(self.tracer.number(self))

    def __float__(self) -> float:
        return float(self.tracer.number(self))

    def __len__(self) -> int:
        return self.tracer.count(self)


class _Proxy(_Known, fx.Proxy):
    """Stands for a result."""

    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)


class _Attribute(_Known, fx.proxy.Attribute):
    """Stands for an attribute of a result, or for a method of it."""


class _Tracer(fx.Tracer):
    """Follows conditions and numbers that depend on shapes, for the shapes of the example.

    They are computed by running the steps recorded so far, and recorded as assertions. Those that
    depend on the numbers in a tensor are refused, as ``torch.fx`` does.
    """

    proxy_buffer_attributes = True

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._inputs = inputs
        self._runner: fx.Interpreter | None = None
        self._running = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if type(m) is nn.SyncBatchNorm:  # one process alone takes the steps of a batch norm
            return False
        return type(m) in MODULE_NAMES or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        names = [f"input_{number}" for number in range(len(self._inputs))]
        stand_ins = [self.create_proxy("placeholder", name, (), {}) for name in names]
        return root_fn, [self.root, *stand_ins]

    def proxy(self, node: fx.Node) -> _Proxy:
        return _Proxy(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any
    ) -> Any:
        # A Python function outside torch that ``torch.fx.wrap`` marked as a leaf is followed.
        is_python = kind == "call_function" and isinstance(target, FunctionType)
        if is_python and not _of_torch(target):
            return target(*args, **kwargs)
        return super().create_proxy(kind, target, args, kwargs, *more, **named)

    def to_bool(self, obj: fx.Proxy) -> bool:
        found = self._run_to(obj.node)
        if isinstance(found, Tensor):
            return super().to_bool(obj)  # raises
        self._require(obj if found else self._call(operator.not_, obj))
        return bool(found)

    def number(self, obj: Any) -> Any:
        """The value of a stand-in for the example."""
        found = self._run_to(obj.node)
        if not isinstance(found, int | float):
            raise TypeError(f"a {type(found).__name__} was taken for a number")
        self._require(self._call(operator.eq, obj, found))
        return found

    def count(self, obj: Any) -> int:
        """Length of a list or shape that a stand-in has for the example."""
        found = self._run_to(obj.node)
        if not isinstance(found, list | tuple):
            kind = type(found).__name__
            raise TypeError(f"the parts of a {kind} were counted; of tensors use x.shape[0]")
        return len(found)

    def length(self, obj: Any) -> Any:
        """``len(obj)``; a stand-in for a tensor, so that batches of other sizes run too."""
        found = self._run_to(obj.node)
        return obj.shape[0] if isinstance(found, Tensor) else len(obj)

    def iter(self, obj: Any) -> Iterator[Any]:
        return iter([obj[place] for place in range(self.count(obj))])

    def _call(self, function: Callable[..., Any], *args: Any) -> fx.Proxy:
        return self.create_proxy("call_function", function, args, {})

    def _require(self, condition: fx.Proxy) -> None:
        self._call(torch._assert, condition, OTHER_SHAPES)  # noqa: SLF001

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._running:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    @torch.no_grad()
    def _run_to(self, wanted: fx.Node) -> Any:
        """The result of a step on the example; results are kept."""
        if self._runner is None:
            self._runner = fx.Interpreter(self.root, False, graph=self.graph)
            self._runner.args_iter = iter([x.clone() for x in self._inputs])
        self._running = True  # meanwhile the network's layers compute, and are not recorded
        try:
            for node in self.graph.nodes:
                if node not in self._runner.env:
                    self._runner.env[node] = self._runner.run_node(node)
                if node is wanted:
                    break
        finally:
            self._running = False
        return self._runner.env[wanted]


def _length(obj: Any) -> Any:
    return obj.tracer.length(obj) if isinstance(obj, _Known) else builtins.len(obj)


@contextmanager
def _lengths_recorded(network: nn.Module) -> Iterator[None]:
    """Replace ``len`` in the network's own code: Python's returns nothing but numbers."""
    kinds = {type(module) for module in network.modules()}
    forwards = [inspect.unwrap(kind.forward) for kind in kinds if not _of_torch(kind)]
    places = {id(place): place for f in forwards if (place := getattr(f, "__globals__", None))}
    changed = [place for place in places.values() if "len" not in place]
    for place in changed:
        place["len"] = _length
    try:
        yield
    finally:
        for place in changed:
            del place["len"]


def _of_torch(what: Any) -> bool:
    return str(what.__module__).partition(".")[0] == "torch"
