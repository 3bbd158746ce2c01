"""`python -m rllib_om2p.cli`: the command rllib-om2p."""

from __future__ import annotations

import sys

from rllib_om2p.cli import main

sys.exit(main())
