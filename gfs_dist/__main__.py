"""``python -m gfs_dist`` is the command ``gfs``. Modules are not looked for in the current folder,
which may be anybody's, unless it is the checkout itself.
"""

import sys
from pathlib import Path

if not sys.flags.safe_path and not Path(__file__).resolve().is_relative_to(sys.path[0]):
    del sys.path[0]

from gfs_dist.cli import main

sys.exit(main())
