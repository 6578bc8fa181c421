"""The configuration of every command: schema, composing, checks.

Hydra and OmegaConf are imported in this package only; what leaves it is a dataclass.
"""

from pathlib import Path

CONF_FOLDER = Path(__file__).parent.parent / "conf"
"""Our own configuration files."""
