"""The algorithms, one folder each; none imports another."""

from __future__ import annotations

from rllib_om2p.algorithms.om2p import OM2P, OM2PConfig

ALGORITHMS = {"OM2P": (OM2P, OM2PConfig)}

__all__ = ["ALGORITHMS", "OM2P", "OM2PConfig"]
