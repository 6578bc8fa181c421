"""Which keys go with which suite of ``gfs benchmark``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfs_dist.errors import ConfigError

if TYPE_CHECKING:
    from gfs_dist.config.commands import Benchmark

PRESETS = ("smoke", "paper", "cluster")
OBJECTIVES = ("network_loss", "layer_output", "least_squares")
DEFAULT_MODEL = "resnet34"

KEYS = {
    "select": (),
    "appendix_d": (
        "layers", "objectives", "workers", "image_size", "images", "batch", "steps", "candidates",
        "repeats",
    ),
    "scaling": ("workers", "neurons", "samples", "steps", "repeats"),
    "guard": ("repeats", "record", "margin"),
}  # fmt: skip
"""Keys that are null where a preset decides, by the suites that take them."""

ON_CLUSTERS = ("appendix_d", "scaling")


def check(config: Benchmark) -> None:
    """Refuse keys that the suite does not take, or that do not go together.

    Raises:
        ConfigError: names the key, what was found and what is accepted.
    """
    suite = f"suite={config.suite}"
    for key in dict.fromkeys(key for keys in KEYS.values() for key in keys):
        if getattr(config, key) is not None and key not in KEYS[config.suite]:
            suites = ", ".join(name for name, keys in KEYS.items() if key in keys)
            raise ConfigError(f"{key}: goes with suite={suites}, found {suite}")
    if config.preset == "cluster":
        if config.suite not in ON_CLUSTERS:
            raise ConfigError(f"preset: found cluster, accepted smoke, paper with {suite}")
        if config.runtime.kind != "ray":
            raise ConfigError(
                f"runtime: found {config.runtime.kind}, accepted ray with preset=cluster"
            )
    if config.suite != "appendix_d" and config.model.name != DEFAULT_MODEL:
        raise ConfigError(f"model: found {config.model.name}, accepted with suite=appendix_d")
    if config.model.name in ("two_layer", "stored"):
        raise ConfigError(
            f"model: found {config.model.name}, accepted the name of a deep network, or custom"
        )
    if config.suite == "guard" and config.threads is not None:
        raise ConfigError(
            f"threads: found {config.threads}, accepted null (one a rank) with {suite}"
        )
    if config.suite in ("select", "guard") and config.device == "cuda":
        raise ConfigError(f"device: found cuda, accepted auto, cpu with {suite}")
    if config.suite in ("select", "guard") and config.runtime.kind != "local":
        raise ConfigError(f"runtime: found {config.runtime.kind}, accepted local with {suite}")
