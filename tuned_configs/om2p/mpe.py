"""OM2P on the MPE tasks at a size that a CPU trains in minutes; only what differs from defaults.

Every method shares `cpu`; a method adds its critic, and eta by quality as the papers do.
"""

from __future__ import annotations

from collections.abc import Mapping

from rllib_om2p import OM2PConfig

# Enough for the curves of behaviour cloning to level off; expert data takes twice as long.
NUM_UPDATES: Mapping[str, int] = {
    "medium-replay": 6000,
    "medium": 6000,
    "medium-expert": 6000,
    "medium-expert-50": 6000,
    "expert": 12_000,
}

TAU = 0.01

# Beta(1/2, 1): flow times that keep long jumps, r near 0 and t near 1, in every batch. With uniform
# times the value alone decides the one jump that acts, and the policy leaves the data (RESULTS.md).
XI = (-0.5, 0.0, 0.0, 0.0)

# Weight of the value by quality of the data, chosen with seed 100 and start states that the
# comparison does not use.
ETA_OWN: Mapping[str, float] = {
    "medium-replay": 0.3,
    "medium": 0.3,
    "medium-expert": 0.2,
    "medium-expert-50": 0.2,
    "expert": 0.1,
}
ETA_VDN: Mapping[str, float] = {
    "medium-replay": 1.0,
    "medium": 1.0,
    "medium-expert": 0.5,
    "medium-expert-50": 0.5,
    "expert": 0.1,
}
# A slower target lets the policy bear a larger eta on these; TAU elsewhere.
TAU_VDN: Mapping[str, float] = {"medium": 0.005, "expert": 0.005}


def cpu(num_updates: int) -> OM2PConfig:
    """Return what all methods share: 2 x 128 networks, batch 256, a learning rate that falls."""
    return OM2PConfig().training(
        actor_hidden=(128, 128),
        critic_hidden=(128, 128),
        lr=[[0, 1e-3], [num_updates, 1e-5]],
        xi=XI,
        gamma=0.95,
        tau=TAU,
        num_updates_per_iteration=1000,
    )


def bc(quality: str, num_updates: int | None = None) -> OM2PConfig:
    """Return one-step mean-flow behaviour cloning: OM2P without the value."""
    return cpu(num_updates or NUM_UPDATES[quality]).training(eta=0.0)


def om2p(quality: str, num_updates: int | None = None) -> OM2PConfig:
    """Return OM2P in the paper's form, with each agent's own critic."""
    return cpu(num_updates or NUM_UPDATES[quality]).training(eta=ETA_OWN[quality])


def om2p_vdn(quality: str, num_updates: int | None = None) -> OM2PConfig:
    """Return OM2P with the team's critic, an option of ours."""
    return cpu(num_updates or NUM_UPDATES[quality]).training(
        eta=ETA_VDN[quality], critic="vdn", tau=TAU_VDN.get(quality, TAU)
    )


METHODS = {"bc": bc, "om2p": om2p, "om2p-vdn": om2p_vdn}
