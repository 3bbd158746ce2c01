"""What an update costs, at the papers' size: every run in a process of its own, nothing is scored.

MA-SfBC evaluates M candidates wherever it needs an action, so its cost is shown over M. The others
are as in the comparison, with the first of their candidates.
"""

from __future__ import annotations

from rllib_om2p.benchmark.suite import Method, Suite, Task
from tuned_configs.suites.members import MEMBERS

CANDIDATES = (1, 4, 16, 32, 64)
LAYERS = (512,) * 4
OTHERS = (
    "BC",
    "BC-mean-flow",
    "MA-TD3+BC",
    "MA-CQL",
    "OMAR",
    "MAC-Flow",
    "VGM2P",
    "OM2P-weighted-VDN",
    "OM2P-conservative-VDN",
)


def cpu() -> Suite:
    """Return the costs on one core."""
    return _suite("cost", "cost of an update on one core, 4 x 512 networks", 15, 0.0)


def gpu() -> Suite:
    """Return the costs on a GPU, one run at a time."""
    return _suite("cost-gpu", "cost of an update on a GPU, 4 x 512 networks", 3000, 1.0)


def _suite(name: str, title: str, num_updates: int, gpus: float) -> Suite:
    return Suite(
        name=name,
        title=title,
        methods=[
            Method("OM2P", "OM2P"),
            Method("MA-FQL", "MAFQL"),
            *(Method(f"MA-SfBC={m}", "MASfBC", {"num_candidates": m}) for m in CANDIDATES),
            *(
                Method(member.name, member.algorithm, member.first)
                for member in MEMBERS
                if member.name in OTHERS
            ),
        ],
        tasks=(Task("mpe/simple_spread", ("medium",), 0, 0),),
        seeds=(0, 1, 2),
        num_updates=num_updates,
        num_points=3,
        settings={"actor_hidden": LAYERS, "critic_hidden": LAYERS, "train_batch_size": 256},
        gpus_per_cell=gpus,
        fresh_process=True,
    )
