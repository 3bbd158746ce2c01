"""The comparisons of the whole family, and the search before them."""

from __future__ import annotations

from dataclasses import replace

from rllib_om2p.benchmark.suite import Method, Suite, Task
from tuned_configs.suites.footing import SPREAD, TASKS, cpu_settings, falling
from tuned_configs.suites.members import MEMBERS, candidate_methods, chosen_methods

NUM_UPDATES = 4000
WIDTH = 64

# Of the suite "cpu", trained again in larger networks.
BEST = ("MA-TD3+BC-VDN", "MA-FQL-VDN", "OM2P", "OM2P-weighted-VDN")


def cpu() -> Suite:
    """Return all methods in small networks, each run a minute or less on one core."""
    return Suite(
        name="cpu",
        title="all methods, 2 x 64 networks, 4000 updates",
        methods=chosen_methods(),
        tasks=TASKS,
        seeds=(0, 1, 2),
        num_updates=NUM_UPDATES,
        num_points=4,
        settings=cpu_settings(WIDTH, NUM_UPDATES),
        torch_compile=True,
    )


def cpu_128() -> Suite:
    """Return the best of "cpu", and the paper's OM2P, in networks of twice the width.

    With twice the width goes half the learning rate: at 1e-2 MA-TD3+BC's actor saturates in its
    first updates (RESULTS.md).
    """
    return replace(
        cpu(),
        name="cpu-128",
        title="the best of cpu, 2 x 128 networks, 4000 updates",
        methods=chosen_methods(BEST),
        settings=cpu_settings(128, NUM_UPDATES, lr=5e-3),
    )


def discrete() -> Suite:
    """Return methods that choose among discrete actions, as chosen for Cooperative Navigation."""
    names = ("BC", "BC-mean-flow", "MA-FQL-VDN", "VGM2P", "OM2P", "OM2P-weighted-VDN")
    methods, (vgm2p,) = chosen_methods(names), chosen_methods(["VGM2P"])
    qualities = ("medium", "medium-expert", "expert")
    navigation = [f"{quality}-discrete" for quality in qualities]
    return Suite(
        name="discrete",
        title="discrete actions, 2 x 64 networks, 4000 updates",
        methods=[_with_discrete(method) for method in (*methods, _good_only(vgm2p))],
        tasks=(
            Task(SPREAD.env, navigation, 500, 100, SPREAD.settings),
            Task("lbf/Foraging-8x8-3p-2f", qualities, 200, 50, SPREAD.settings),
        ),
        seeds=(0, 1, 2),
        num_updates=NUM_UPDATES,
        num_points=4,
        settings=cpu_settings(WIDTH, NUM_UPDATES),
        torch_compile=True,
    )


def _good_only(method: Method) -> Method:
    """Return VGM2P without guidance of the actions that are not good, at the omegas of VGM2P.

    Those of its own search diverge with discrete actions (RESULTS.md).
    """
    settings = {**method.settings, "guide_others": False}
    return replace(method, name=f"{method.name}-good-only", settings=settings)


def _with_discrete(method: Method) -> Method:
    same = {f"{quality}-discrete": chosen for quality, chosen in method.by_quality.items()}
    return replace(method, by_quality={**method.by_quality, **same})


def paper() -> Suite:
    """Return all methods at the papers' size, for a GPU."""
    return Suite(
        name="paper",
        title="all methods, 4 x 512 networks, 1M updates",
        methods=chosen_methods(),
        tasks=TASKS,
        seeds=(0, 1, 2, 3, 4),
        num_updates=1_000_000,
        num_points=20,
        settings={
            "actor_hidden": (512,) * 4,
            "critic_hidden": (512,) * 4,
            "train_batch_size": 256,
            "lr": 3e-4,
        },
        gpus_per_cell=0.25,
        torch_compile=True,
    )


def rates() -> Suite:
    """Return learning rates, from which that of the small networks was chosen.

    With the seed and start states of the search, and each method's weights before it.
    """
    names = ("BC-mean-flow", "MA-TD3+BC", "MA-FQL", "VGM2P", "OM2P")
    members = [member for member in MEMBERS if member.name in names]
    return replace(
        search(),
        name="rates",
        title="learning rates, 2 x 64 networks, 4000 updates",
        methods=[
            Method(
                f"{member.name}={lr:g}",
                member.algorithm,
                {**member.first, "lr": falling(lr, NUM_UPDATES)},
            )
            for member in members
            for lr in (1e-3, 3e-3, 1e-2, 3e-2)
        ],
        tasks=(Task(SPREAD.env, ("medium-replay", "expert"), 200, 0, SPREAD.settings),),
    )


def search() -> Suite:
    """Return every candidate of every method, with a seed and start states of its own."""
    return Suite(
        name="search",
        title="candidates of the hyperparameters",
        methods=candidate_methods(),
        tasks=(Task(SPREAD.env, SPREAD.qualities, 200, 0, SPREAD.settings),),
        seeds=(100,),
        num_updates=NUM_UPDATES,
        num_points=1,
        settings=cpu_settings(WIDTH, NUM_UPDATES),
        first_seed=3_000_000,
        torch_compile=True,
    )
