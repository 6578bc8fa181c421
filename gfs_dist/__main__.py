"""``python -m gfs_dist`` is the command ``gfs``. Modules are not imported from the current folder,
whose files may come from anyone, unless it is the checkout itself.
"""

import sys
from pathlib import Path

if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from gfs_dist.cli import main

sys.exit(main())
