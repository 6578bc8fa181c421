"""Networks of transformers, timm and torchvision: made, and made again without weights.

How one was made is kept as plain data, a :class:`Builder`. Stored ones may come from anyone: only
classes and names that the packages themselves register are looked up, and settings that would
fetch or run something are refused.
"""

from __future__ import annotations

import importlib
import json
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gfs_dist.errors import ConfigError, error_line

PACKAGES = {"hf": "transformers", "timm": "timm", "torchvision": "torchvision"}
"""By the kind of builder the package that it takes."""

KWARGS = {
    "timm": {"num_classes", "in_chans", "img_size", "global_pool", "drop_rate", "drop_path_rate"},
    "torchvision": {"num_classes", "image_size", "aux_logits", "dropout", "transform_input"},
}
"""Arguments of constructors; others could name files and addresses."""

ATTENTION = ("eager", "sdpa")
"""Implementations of attention that are transformers' own; others are fetched and run."""

MAX_NUMBER, MAX_SIZE = 2**40, 2**28
"""In a configuration, and of an axis; they keep hostile numbers from overflowing memory."""


@dataclass(frozen=True)
class Builder:
    """How a network is made, as JSON has it.

    Attributes:
        kind: a key of :data:`PACKAGES`.
        settings: ``hf``: ``{"class", "config", "attention"}``, the name of a class of transformers
            and its configuration; others: ``{"name", "kwargs"}``.
        package, version: what made it.
    """

    kind: str
    settings: dict[str, Any]
    package: str
    version: str

    @classmethod
    def of(cls, kind: str, **settings: Any) -> Builder:
        """With the version of the package that is installed.

        Raises:
            ConfigError: it is not.
        """
        package(kind)
        plain = json.loads(json.dumps(settings))
        return cls(kind, plain, PACKAGES[kind], version(PACKAGES[kind]))

    @classmethod
    def parse(cls, content: object) -> Builder:
        """From JSON.

        Raises:
            ConfigError: no builder is written so.
        """
        fields = {"kind": str, "settings": dict, "package": str, "version": str}
        if isinstance(content, Mapping) and content.keys() == fields.keys():
            typed = all(isinstance(content[key], kind) for key, kind in fields.items())
            if typed and content["package"] == PACKAGES.get(content["kind"]):
                return cls(**content)
        raise ConfigError(
            f"builder: found {str(content)[:80]}, accepted {', '.join(fields)} of one of "
            f"{', '.join(PACKAGES)}"
        )


_MADE: weakref.WeakKeyDictionary[nn.Module, Builder] = weakref.WeakKeyDictionary()


def remember(network: nn.Module, builder: Builder) -> nn.Module:
    """The network, of which :func:`builder_of` will tell the builder."""
    _MADE[network] = builder
    return network


def builder_of(network: nn.Module) -> Builder | None:
    """How a network could be made again; None if it does not tell.

    It may have been changed since: whoever stores it has to compare. Networks made here are
    remembered; models of transformers tell their class and configuration, those of timm their name.
    """
    if network in _MADE:
        return _MADE[network]
    package = type(network).__module__.partition(".")[0]
    if package == "transformers":
        return _hf_builder(network)
    return _timm_builder(network) if package == "timm" else None


def make_built(
    kind: str,
    *,
    path: Path | str | None = None,
    name: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, Builder]:
    """A network of a package, evaluating, and its builder.

    Args:
        kind: ``hf``, with its weights, from a local folder; ``timm`` and ``torchvision`` by name,
            with fresh weights of torch's global generator. Nothing is downloaded.
        path: of ``hf``: the folder with ``config.json`` and safetensors.
        name, kwargs: of the others: the registered name, arguments of the constructor.

    Raises:
        ConfigError: the package is not installed; names the extra. Or folder, name or arguments
            are not accepted, or the package raises.
    """
    if kind == "hf":
        network = read_hf(Path(str(path)))
        builder = _hf_builder(network)
        if builder is None:
            raise ConfigError(f"model.path: {path}: its class is not one of transformers' own")
    elif kind in KWARGS:
        builder = Builder.of(kind, name=name, kwargs=dict(kwargs or {}))
        network = _named(builder)
    else:
        raise ConfigError(f"model: found {kind!r}, accepted {', '.join(PACKAGES)}")
    return remember(network.eval(), builder), builder


def build_empty(builder: Builder, most: int | None = None) -> nn.Module:
    """The architecture of a builder, its buffers made, its parameters on the meta device if may be.

    Args:
        most: parameters that may be made on the way; more are refused at once.

    Raises:
        ConfigError: the builder is not one that :func:`make_built` or :func:`builder_of` gives, or
            its package is not installed or refuses it.
    """
    make = _from_config if builder.kind == "hf" else _named
    with torch.random.fork_rng(devices=[]):
        with _without_weights(most):
            network = make(builder)
        if any(buffer.is_meta for buffer in network.buffers()):  # made of parameters
            network = make(builder)
    return remember(network.eval(), builder)


def package(kind: str) -> Any:
    """The package of a kind of builder.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(PACKAGES[kind])
    except ImportError as error:
        raise ConfigError(
            f"model={kind}: {PACKAGES[kind]} is not installed: pip install 'gfs-dist[{kind}]'"
        ) from error


def _asked(kind: str, where: str, make: Callable[[], Any]) -> Any:
    """What a package makes; whatever it raises in one line."""
    try:
        return make()
    except ConfigError:
        raise
    except Exception as error:  # the package's code may raise anything
        raise ConfigError(f"model={kind}: {where}: {error_line(error)}") from error


def _named(builder: Builder) -> nn.Module:
    kind, settings = builder.kind, builder.settings
    name, kwargs = settings.get("name"), settings.get("kwargs", {})
    if kind == "timm":
        found = package(kind)
        registered, make = found.is_model, found.create_model
    else:
        found = package(kind).models
        registered, make = set(found.list_models()).__contains__, found.get_model
    if not isinstance(name, str) or not name.replace("_", "a").replace(".", "a").isalnum():
        raise ConfigError(f"model.name: found {name!r}, accepted a name of {PACKAGES[kind]}")
    if not registered(name):
        raise ConfigError(f"model.name: {PACKAGES[kind]} has no model {name!r}")
    if unknown := sorted(map(str, kwargs.keys() - KWARGS[kind])):
        accepted = ", ".join(sorted(KWARGS[kind]))
        raise ConfigError(f"model.kwargs: found {unknown[0]!r}, accepted {accepted}")
    given = dict(kwargs)
    if kind == "torchvision" and hasattr(found, "get_model_weights"):
        given["weights"] = None
        if "weights_backbone" in found.get_model_builder(name).__annotations__:
            given["weights_backbone"] = None
    network: nn.Module = _asked(kind, name, lambda: make(name, **given))
    return network


def _timm_builder(network: Any) -> Builder | None:
    pretrained = getattr(network, "pretrained_cfg", None) or {}
    name, first = pretrained.get("architecture"), pretrained.get("first_conv")
    if not isinstance(name, str) or not package("timm").is_model(name):
        return None
    kwargs = {}
    if isinstance(classes := getattr(network, "num_classes", None), int):
        kwargs["num_classes"] = classes
    convolution = dict(network.named_modules()).get(first) if isinstance(first, str) else None
    if channels := getattr(convolution, "in_channels", 0):
        kwargs["in_chans"] = channels
    return Builder.of("timm", name=name, kwargs=kwargs)


def _hf_builder(network: Any) -> Builder | None:
    name = type(network).__name__
    if getattr(package("hf"), name, None) is not type(network):
        return None
    content = {**network.config.to_dict(), "architectures": [name]}
    if content.get("quantization_config"):
        return None
    attention = getattr(network.config, "_attn_implementation", None)
    settings = {"class": name, "config": _plain(content)}
    if attention in ATTENTION:
        settings["attention"] = attention
    return Builder.of("hf", **settings)


def _plain(content: Any) -> Any:
    """A configuration without what names code or weights elsewhere."""
    if isinstance(content, Mapping):
        return {str(k): _plain(v) for k, v in content.items() if not _names_elsewhere(str(k))}
    return [_plain(part) for part in content] if isinstance(content, list | tuple) else content


def _names_elsewhere(key: str) -> bool:
    others = ("auto_map", "use_pretrained_backbone", "_name_or_path", "backbone", "kernel_config")
    return "implementation" in key or key in others


def _checked_config(content: Any) -> Any:
    """A configuration of a file.

    Raises:
        ConfigError: it names what :func:`_plain` leaves out, models of timm, or a huge number.
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            kind = key == "model_type" and (not isinstance(value, str) or "timm" in value)
            if kind or _names_elsewhere(key):
                raise ConfigError(
                    f"builder.config: {key!r}: found {str(value)[:60]!r}, not accepted"
                )
            _checked_config(value)
    elif isinstance(content, list):
        for part in content:
            _checked_config(part)
    elif type(content) is int and abs(content) >= MAX_NUMBER:
        raise ConfigError(f"builder.config: found {str(content)[:60]}, accepted below {MAX_NUMBER}")
    return content


def _from_config(builder: Builder) -> nn.Module:
    settings = builder.settings
    transformers, name = package("hf"), str(settings.get("class"))
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    cls: Any = getattr(transformers, name, None)
    content = settings.get("config")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not _is_model_class(cls) or not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ConfigError(
            f"builder: found class {name[:60]!r} of {str(kind)[:60]!r}, accepted are those of "
            "transformers"
        )
    config = _asked("hf", name, lambda: CONFIG_MAPPING[kind].from_dict(_checked_config(content)))
    if not isinstance(config, cls.config_class):
        raise ConfigError(f"builder: found a configuration of {kind!r}, which is not one of {name}")
    attention = settings.get("attention")
    if attention is not None:
        if attention not in ATTENTION:
            raise ConfigError(
                f"builder.attention: found {str(attention)[:60]!r}, accepted {', '.join(ATTENTION)}"
            )
        config._attn_implementation = attention  # noqa: SLF001
    network: nn.Module = _asked("hf", name, lambda: cls(config))
    return network


def _is_model_class(cls: Any) -> bool:
    ours = isinstance(cls, type) and issubclass(cls, package("hf").PreTrainedModel)
    return ours and cls.__module__.startswith("transformers.models.")


def read_hf(path: Path) -> nn.Module:
    """The model of a local folder.

    Raises:
        ConfigError: it is none, lacks weights, or has others.
    """
    transformers = package("hf")
    if not (path / "config.json").is_file():
        raise ConfigError(f"model.path: found no config.json in {path}, accepted a local folder")
    local = {"local_files_only": True, "trust_remote_code": False}
    config = _asked(
        "hf", str(path), lambda: transformers.AutoConfig.from_pretrained(str(path), **local)
    )
    if hasattr(config, "use_cache"):
        config.use_cache = False
    names = [name for name in config.architectures or [] if hasattr(transformers, str(name))]
    cls: Any = getattr(transformers, names[0]) if names else None
    if not _is_model_class(cls):
        cls = transformers.AutoModel
    with quiet(transformers):
        network, found = _asked(
            "hf",
            str(path),
            lambda: cls.from_pretrained(
                str(path), config=config, output_loading_info=True, use_safetensors=True, **local
            ),
        )
    if sizes := sorted(map(str, found.get("mismatched_keys") or ())):
        raise ConfigError(f"model.path: {path}: weights of another size: {sizes[0][:80]}")
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(f"model.path: {path}: {cls.__name__} lacks the weights of {missing[0]!r}")
    made: nn.Module = network
    return made


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without progress bars and reports of loading."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


_lock = threading.Lock()


@contextmanager
def _without_weights(most: int | None) -> Iterator[None]:
    """Parameters that this thread makes go to the meta device, where filling them takes no time.

    Buffers stay: they are made by code, and files need not hold them.
    """
    register, thread = nn.Module.register_parameter, threading.get_ident()
    empty: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if threading.get_ident() == thread and isinstance(param, nn.Parameter):
            if most is not None and len(empty) > most:
                raise ConfigError(f"builder: it makes more than {most} parameters")
            if max(param.shape, default=0) >= MAX_SIZE:
                raise ConfigError(f"builder: it makes {name!r} of shape {tuple(param.shape)}")
            if not param.is_meta:
                made = nn.Parameter(param.to("meta"), param.requires_grad)
                param = empty.setdefault(id(param), (param, made))[1]
        register(self, name, param)

    with _lock:
        nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]
