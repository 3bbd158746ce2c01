"""OM2P: one-step mean-flow policies guided by a critic."""

from __future__ import annotations

from rllib_om2p.algorithms.om2p.networks import OM2PModule, OM2PNetworks
from rllib_om2p.algorithms.om2p.om2p import OM2P, OM2PConfig

__all__ = ["OM2P", "OM2PConfig", "OM2PModule", "OM2PNetworks"]
