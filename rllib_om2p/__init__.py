"""Offline multi-agent reinforcement learning for Ray RLlib with one-step mean-flow policies.

    from rllib_om2p import Algorithm, OM2PConfig
    algo = Algorithm.from_config(OM2PConfig().offline_data(input_="data/simple_spread-medium"))

Names are imported on first use, so that `rllib_om2p.data` alone starts neither Ray nor torch, and
`rllib_om2p.ops` no Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rllib_om2p.algorithms import (
        BC,
        MACQL,
        MAFQL,
        MATD3BC,
        OM2P,
        OMAR,
        VGM2P,
        BCConfig,
        MACFlow,
        MACFlowConfig,
        MACQLConfig,
        MAFQLConfig,
        MASfBC,
        MASfBCConfig,
        MATD3BCConfig,
        OM2PConfig,
        OMARConfig,
        VGM2PConfig,
    )
    from rllib_om2p.core.algorithm import Algorithm
    from rllib_om2p.core.recorder import Recorder
    from rllib_om2p.data.reader import OfflineDataset
    from rllib_om2p.data.writer import DatasetWriter

__version__ = "0.1.0"

__all__ = [
    "BC",
    "MACQL",
    "MAFQL",
    "MATD3BC",
    "OM2P",
    "OMAR",
    "VGM2P",
    "Algorithm",
    "BCConfig",
    "DatasetWriter",
    "MACFlow",
    "MACFlowConfig",
    "MACQLConfig",
    "MAFQLConfig",
    "MASfBC",
    "MASfBCConfig",
    "MATD3BCConfig",
    "OM2PConfig",
    "OMARConfig",
    "OfflineDataset",
    "Recorder",
    "VGM2PConfig",
    "__version__",
    "register",
]

# What the module defines itself is never looked up here.
_HOMES = dict.fromkeys(__all__, "rllib_om2p.algorithms") | {
    "Algorithm": "rllib_om2p.core.algorithm",
    "DatasetWriter": "rllib_om2p.data.writer",
    "OfflineDataset": "rllib_om2p.data.reader",
    "Recorder": "rllib_om2p.core.recorder",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)


def register() -> None:
    """Give Ray Tune the algorithms' names ("OM2P") and RLlib the environments' names.

    `tune.Tuner(OM2P, ...)` needs no registration; `tune.Tuner("OM2P", ...)` does.
    """
    from ray.tune.registry import register_trainable

    from rllib_om2p import algorithms, envs

    for name, (algorithm, _) in algorithms.ALGORITHMS.items():
        register_trainable(name, algorithm)
    envs.register()
