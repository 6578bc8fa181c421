"""Follows one real forward pass of any module, and notes what it does as steps.

Every function of torch that the pass calls on results, and every layer, becomes a step: the pass
itself runs, so that conditions, caches and shapes are its own. Numbers that follow from shapes are
constants of the steps, which hold for inputs of these shapes alone. A module whose inside cannot be
noted (numbers read out of tensors, functions that are not torch's, views changed in place) becomes
one step as a whole.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from gfs_dist.networks.graph.graph_network import Step, ordered
from gfs_dist.networks.graph.json_values import StepOutput, needed
from gfs_dist.networks.measure.inputs import BatchForm, Inputs, tensors_of

X = "inputs?"
"""Name of the inputs among results."""

READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "numpy", "__array__"}
"""Methods by which numbers leave tensors."""

MAIN_SHARE = 0.5
"""A module with more of the parameters than this is followed inside, whatever it reads."""

OPERATORS = {
    f"Tensor.__{side}{name}__": f"operator.{name}"
    for name in ("add", "sub", "mul", "truediv", "matmul", "pow")
    for side in ("", "r", "i")
}

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_BLOCKS = (nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder)
_INSIDE = (*_BLOCKS, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass(frozen=True)
class FollowedStep(Step):
    """A step of a followed pass; it needs the inputs, by which its constants are chosen.

    Attributes:
        function: of a ``call``.
        autocast: dtype of the autocast that it runs under; None without.
    """

    function: Callable[..., Any] | None = None
    autocast: torch.dtype | None = None

    @cached_property
    def needs(self) -> set[str]:
        return needed([self.args, self.kwargs]) | {X}

    @cached_property
    def plain(self) -> bool:
        others = [arg for arg in self.args if not isinstance(arg, StepOutput)]
        return not needed([others, self.kwargs])


@dataclass(frozen=True)
class Followed:
    """The steps of one pass.

    Attributes:
        steps: in order.
        output: a template of the floating tensors that came out, one or a tuple.
        guards: numbers that the code read out of tensors: the step of each, what it gave, and
            where the code is.
        ends: why the steps end before the pass does, with what is left then as output; empty if
            they go to its end.
    """

    steps: dict[str, FollowedStep]
    output: Any
    guards: tuple[tuple[str, Any, str], ...]
    ends: str = ""


class OpaqueError(Exception):
    """A module that has to be one step: its name, and why."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(module, reason)
        self.module, self.reason = module, reason


class CannotFollowError(Exception):
    """The module itself does what cannot be noted."""


def follow(
    root: nn.Module,
    x: Inputs,
    opaque: set[str],
    select: Callable[[Any], Any] = lambda out: out,
    *,
    to_the_end: bool = True,
) -> Followed:
    """The steps of a forward pass.

    Args:
        root: in evaluation mode, its layers not in place; left as it was.
        x: on its device.
        opaque: modules that are one step; those that turn out so are added.
        select: the part of the outputs that counts.
        to_the_end: else up to the last layer.

    Raises:
        CannotFollowError: says what cannot be noted.
    """
    while True:
        follower = _Follower(root, opaque)
        try:
            found = follower.run(x, select)
            return found if to_the_end else follower.up_to_here("as asked")
        except OpaqueError as error:
            if error.module in follower.main | opaque:
                return follower.up_to_here(error.reason)
            opaque.add(error.module)


@dataclass
class _Known:
    """Tensors and other objects that steps gave, by identity."""

    steps: dict[int, tuple[Any, StepOutput]] = field(default_factory=dict)
    constants: dict[int, Any] = field(default_factory=dict)

    def put(self, value: Any, step: StepOutput) -> None:
        try:
            self.steps[id(value)] = weakref.ref(value), step
        except TypeError:  # lists and the like
            self.steps[id(value)] = (lambda: value), step

    def find(self, value: Any) -> StepOutput | None:
        ref, step = self.steps.get(id(value), (None, None))
        return step if ref is not None and ref() is value else None

    def shares_memory(self, tensor: Tensor) -> bool:
        """Whether another living result lies in the same memory."""
        place = tensor.untyped_storage().data_ptr()
        living = (ref() for ref, _ in self.steps.values())
        return any(
            isinstance(other, Tensor)
            and other is not tensor
            and other.layout == torch.strided
            and other.untyped_storage().data_ptr() == place
            for other in living
        )


def _unnoted(method: Callable[..., None]) -> Callable[..., None]:
    """A hook whose own look at tensors makes no steps."""

    @functools.wraps(method)
    def hook(self: _Follower, *args: Any) -> None:
        if self.thread == threading.get_ident():  # others may run the same layers meanwhile
            with torch._C.DisableTorchFunction():  # noqa: SLF001
                method(self, *args)

    return hook


class _Follower(TorchFunctionMode):
    """Notes the steps of one pass."""

    def __init__(self, root: nn.Module, opaque: set[str]) -> None:
        super().__init__()
        self.root, self.opaque = root, opaque
        self.names = {module: name for name, module in root.named_modules()}
        self.own: dict[int, str] = {}
        for name, tensor in (*root.named_parameters(), *root.named_buffers()):
            self.own.setdefault(id(tensor), name)
        self.known, self.steps = _Known(), dict[str, FollowedStep]()
        self.thread = threading.get_ident()
        self.stack: list[str] = []
        self.inside = 0  # depth within a leaf
        self.counts: Counter[str] = Counter()
        self.guards: list[tuple[str, Any, str]] = []
        self.from_inputs = {X}  # steps that no weight takes part in
        self.floating: set[str] = set()  # steps that give a floating tensor
        sizes = {name: sum(p.numel() for p in m.parameters()) for m, name in self.names.items()}
        self.main = {n for n, size in sizes.items() if size > MAIN_SHARE * sizes[""]} | {""}
        self.pending: list[tuple[list[Any], dict[str, Any], list[tuple[Tensor, int]]]] = []

    def run(self, x: Inputs, select: Callable[[Any], Any]) -> Followed:
        for module in self.names:
            for value in tree_leaves([v for k, v in vars(module).items() if k[:1] != "_"]):
                if isinstance(value, Tensor):
                    self.known.constants.setdefault(id(value), value)
        x = x.each(lambda tensor: tensor.view_as(tensor))
        for name, tensor in x.tensors.items():
            step = self._add(name, "call", "input", [StepOutput(X)], {}, partial(_input, name))
            self.known.put(tensor, step)
        assert x.form is not None
        if x.form.images:
            x = self._listed(x, x.form)
        with self._hooked(), torch.no_grad(), self:
            outputs = select(x.run(self.root))
        found = [t for t in tensors_of(outputs) if t.is_floating_point()]
        template = tuple(self._argument(t, []) for t in found)
        if not needed(template):
            raise CannotFollowError("no floating tensor in its output depends on its input")
        output = template[0] if len(template) == 1 else template
        steps = ordered([X], [*self.steps.values()], output)
        return Followed({s.name: s for s in steps}, output, tuple(self.guards))  # type: ignore[misc]

    def up_to_here(self, reason: str) -> Followed:
        """The steps up to the last layer; what is left then is the output.

        So the boxes of a detector may be sorted out by functions that are not torch's: layers come
        before.

        Raises:
            CannotFollowError: no layer has been called.
        """
        every = [*self.steps.values()]
        count = max((i for i, step in enumerate(every, 1) if step.kind == "module"), default=0)
        while count and count < len(every) and every[count].target == "part":
            count += 1
        steps = every[:count]
        used: set[str] = set().union(*(needed([step.args, step.kwargs]) for step in steps))
        left = [step.name for step in steps if step.name in self.floating - used]
        left = [name for name in left if name not in self.from_inputs]
        if not left:
            raise CannotFollowError(reason)
        output = tuple(StepOutput(name) for name in left)
        steps = ordered([X], steps, output)  # type: ignore[arg-type, assignment]
        guards = [guard for guard in self.guards if guard[0] in {step.name for step in steps}]
        return Followed({s.name: s for s in steps}, output, tuple(guards), reason)

    def _listed(self, x: Inputs, form: BatchForm) -> Inputs:
        """Inputs of which lists of samples are made here, so that each has a step."""
        rows: dict[int, list[Tensor]] = {}
        for name in form.images:
            step = self.known.find(x.tensors[name])
            rows[id(x.tensors[name])] = parts = list(x.tensors[name])
            for place, part in enumerate(parts):
                self.known.put(part, self._add("row", "call", "row", [step, place], {}, _row))
        return _Rows(x.tensors, form, rows)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        hooks = []
        for module, name in self.names.items():
            enter, leave = partial(self._enter, name), partial(self._leave, name)
            hooks += [
                module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True),
                module.register_forward_hook(leave, with_kwargs=True),
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _is_leaf(self, name: str, module: nn.Module) -> bool:
        if name in self.opaque:
            return True
        if isinstance(module, (*_CONTAINERS, *_INSIDE)):
            return False
        return type(module).__module__.startswith("torch.nn.") or not any(module.children())

    @_unnoted
    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.inside:
            self.inside += 1
        elif self._is_leaf(name, module) and name:
            changed: list[tuple[Tensor, int]] = []
            given = [self._argument(a, changed) for a in args]
            named = {key: self._argument(a, changed) for key, a in kwargs.items()}
            self.pending.append((given, named, changed))
            self.inside = 1
        else:
            self.stack.append(name)

    @_unnoted
    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if not self.inside:
            self.stack.pop()
            return
        self.inside -= 1
        if self.inside:
            return
        given, named, versions = self.pending.pop()
        if any(tensor._version != version for tensor, version in versions):  # noqa: SLF001
            if name in self.opaque:
                raise OpaqueError(self._innermost(), f"{name!r} changes its input in place")
            self.opaque.add(name)
        if any(out is value for value in (*args, *kwargs.values())):
            return  # the identity
        step = self._add(name, "module", name, given, named)
        self._put_outputs(out, step)

    def _innermost(self) -> str:
        return self.stack[-1] if self.stack else ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        given = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        versions = [tensor._version for tensor in given]  # noqa: SLF001
        out = func(*args, **kwargs)
        changed = [t for t, v in zip(given, versions, strict=True) if t._version != v]  # noqa: SLF001
        self._note(func, args, kwargs, out, changed)
        return out

    def _note(self, func: Any, args: Any, kwargs: Any, out: Any, changed: list[Tensor]) -> None:
        name = getattr(func, "__name__", "")
        reads = name in READS and any(self.known.find(arg) for arg in args)
        gives = reads or changed or any(isinstance(v, Tensor) for v in tree_leaves(out))
        if not gives:
            return
        tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        if not any(self.known.find(t) is not None or id(t) in self.own for t in tensors):
            for value in (*tree_leaves(out), *changed):  # made of constants
                if isinstance(value, Tensor):
                    self.known.constants[id(value)] = value
            unknown = [t for t in tensors if id(t) not in self.known.constants]
            if not unknown:
                return
        if isinstance(out, Tensor) and not changed and any(out is t for t in tensors):
            return  # the identity
        self._call(func, args, kwargs, out, changed, reads)

    def _call(
        self, func: Any, args: Any, kwargs: Any, out: Any, changed: list[Tensor], reads: bool
    ) -> None:
        given = [self._argument(arg, []) for arg in args]
        named = {key: self._argument(arg, []) for key, arg in kwargs.items()}
        target, function = _name_of(func), func
        if reads:
            where = self._innermost()
            step = self._add(target, "call", target, given, named, function)
            if step.name not in self.from_inputs and where not in self.main:
                raise OpaqueError(where, "its code reads numbers out of tensors")
            self.guards.append((step.name, out, where))
            return
        if changed:
            (tensor, *others) = changed
            if others or id(tensor) in self.own:
                reason = "it changes a part of a tensor, or a weight, in place"
                raise OpaqueError(self._innermost(), reason)
            place = next((i for i, arg in enumerate(args) if arg is tensor), None)
            if place is None or self.known.shares_memory(tensor):
                raise OpaqueError(self._innermost(), "it changes a tensor in place")
            function = partial(_on_a_copy, func, place)
            self.known.put(tensor, self._add(target, "call", target, given, named, function))
            return
        self._put_outputs(out, self._add(target, "call", target, given, named, function))

    def _argument(self, value: Any, seen: list[tuple[Tensor, int]]) -> Any:
        """``value`` with the results of steps in their places."""
        if (step := self.known.find(value)) is not None:
            if isinstance(value, Tensor):
                seen.append((value, value._version))  # noqa: SLF001
            return step
        if isinstance(value, Tensor):
            if (name := self.own.get(id(value))) is not None:
                return self._add(name, "tensor", name, [], {}, once=True)
            if id(value) in self.known.constants:
                return value
            raise OpaqueError(self._innermost(), "its code makes tensors by functions not torch's")
        if type(value) in (list, tuple, torch.Size):
            kind = list if type(value) is list else tuple
            return kind(self._argument(part, seen) for part in value)
        if isinstance(value, dict):
            found = {key: self._argument(part, seen) for key, part in value.items()}
            return found if needed(found) else value
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return slice(*(self._argument(part, seen) for part in parts))
        return value

    def _put_outputs(self, out: Any, step: StepOutput) -> None:
        """Note the results in the output of a step, by a step each where it is no tensor."""
        if isinstance(out, Tensor):
            self.known.put(out, step)
            if out.is_floating_point():
                self.floating.add(step.name)
            return
        if isinstance(out, (str, int, float, bool, type(None), torch.dtype, torch.device)):
            return
        self.known.put(out, step)
        if isinstance(out, Mapping):
            parts: list[tuple[Any, Any]] = list(out.items())
        elif isinstance(out, list | tuple):
            parts = list(enumerate(out))
        else:
            parts = [(_Attribute(key), value) for key, value in _attributes(out).items()]
        for key, part in parts:
            if _holds_tensors(part):
                self._put_outputs(part, self._add("part", "call", "part", [step, key], {}, _part))

    def _add(
        self,
        base: str,
        kind: str,
        target: str,
        args: list[Any],
        kwargs: dict[str, Any],
        function: Callable[..., Any] | None = None,
        *,
        once: bool = False,
    ) -> StepOutput:
        """A new step; its name is the same in networks that differ in their widths alone."""
        if kind == "call" and target != "input":
            base = f"{self._innermost()}/{base}"
        elif kind == "tensor":
            base = f"{base}!"
        if once and base in self.steps:
            return StepOutput(base)
        self.counts[base] += 1
        name = base if self.counts[base] == 1 else f"{base}#{self.counts[base]}"
        on = None
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                on = torch.get_autocast_dtype(device)
        self.steps[name] = FollowedStep(name, kind, target, args, kwargs, (), function, on)
        if kind == "call" and needed([args, kwargs]) <= self.from_inputs:
            self.from_inputs.add(name)
        return StepOutput(name)


class _Rows(Inputs):
    """Inputs whose lists of samples are the ones that steps are known of."""

    def __init__(
        self, tensors: dict[str, Tensor], form: BatchForm, rows: dict[int, list[Tensor]]
    ) -> None:
        super().__init__(tensors, form)
        self.__dict__["rows"] = rows

    def run(self, model: nn.Module) -> Any:
        assert self.form is not None
        rows: dict[int, Any] = self.__dict__["rows"]
        named = {name: rows.get(id(tensor), tensor) for name, tensor in self.tensors.items()}
        return self.form.run(model, named)


@dataclass(frozen=True)
class _Attribute:
    """The name of an attribute, where the parts of other objects have keys."""

    name: str


def _attributes(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})


def _holds_tensors(value: Any, depth: int = 3) -> bool:
    leaves = tree_leaves(value)
    if any(isinstance(leaf, Tensor) for leaf in leaves):
        return True
    inner = [part for leaf in leaves for part in _attributes(leaf).values()]
    return depth > 0 and any(_holds_tensors(part, depth - 1) for part in inner)


def _part(whole: Any, key: Any) -> Any:
    return getattr(whole, key.name) if isinstance(key, _Attribute) else whole[key]


def _input(name: str, x: Inputs) -> Tensor:
    return x.tensors[name]


def _row(tensor: Tensor, place: int) -> Tensor:
    return tensor[place]


def _on_a_copy(func: Callable[..., Any], place: int, *args: Any, **kwargs: Any) -> Tensor:
    """The tensor that ``func`` changes in place, changed; the one that is given stays."""
    copy: Tensor = args[place].clone()
    func(*args[:place], copy, *args[place + 1 :], **kwargs)
    return copy


def _name_of(func: Any) -> str:
    """The name of a function as recorded networks have it: ``torch.relu``, ``operator.add``."""
    name = resolve_name(func) or getattr(func, "__qualname__", str(func))
    if name.startswith("torch.Tensor."):
        name = name.removeprefix("torch.")
    return OPERATORS.get(name, name)
