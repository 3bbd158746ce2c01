"""BC: cloning with deterministic, Gaussian, flow, diffusion or one-step mean-flow policies."""

from __future__ import annotations

from rllib_om2p.algorithms.bc.bc import BC, BCConfig
from rllib_om2p.algorithms.bc.networks import BCModule, BCNetworks

__all__ = ["BC", "BCConfig", "BCModule", "BCNetworks"]
