"""``python -m gfs_dist`` is the command ``gfs``."""

import sys

from gfs_dist.cli import main

sys.exit(main())
