"""The papers' ablations, in small networks: one part of an algorithm changed at a time.

They run on the two sets of each task that several policies collected, where an algorithm has to
choose among actions. The unchanged algorithm is taken over from the suite "cpu" where it has run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rllib_om2p.benchmark.suite import Method, Suite
from tuned_configs.suites.comparisons import NUM_UPDATES, WIDTH
from tuned_configs.suites.footing import SPREAD, TAG, cpu_settings
from tuned_configs.suites.members import chosen_methods

QUALITIES = ("medium-replay", "medium-expert")
TASKS = [replace(task, qualities=QUALITIES) for task in (SPREAD, TAG)]


def _suite(name: str, title: str, methods: Sequence[Method]) -> Suite:
    return Suite(
        name=name,
        title=title,
        methods=methods,
        tasks=TASKS,
        seeds=(0, 1, 2),
        num_updates=NUM_UPDATES,
        num_points=4,
        settings=cpu_settings(WIDTH, NUM_UPDATES),
        torch_compile=True,
    )


def _om2p(name: str, **settings: object) -> Method:
    """Return OM2P with its chosen eta by quality, and one thing changed."""
    (method,) = chosen_methods(["OM2P"])
    by_quality = {quality: {**chosen, **settings} for quality, chosen in method.by_quality.items()}
    return Method(name, method.algorithm, {**method.settings, **settings}, by_quality)


def losses() -> Suite:
    """Return OM2P with both of its losses and with each alone (OM2P figure 4)."""
    methods = [_om2p("OM2P"), _om2p("BC-only", eta=0.0), _om2p("Q-only", bc_weight=0.0)]
    return _suite("ablation-losses", "OM2P: matching and value, and each alone", methods)


def times() -> Suite:
    """Return OM2P with several distributions of flow times (OM2P figures 2 and 4)."""
    methods = [
        _om2p("beta-0.5-1", xi=(-0.5, 0.0, 0.0, 0.0)),
        _om2p("uniform", xi=(0.0, 0.0, 0.0, 0.0)),
        _om2p("beta-1-0.5", xi=(0.0, -0.5, 0.0, 0.0)),
        _om2p("beta-2-1", xi=(1.0, 0.0, 0.0, 0.0)),
    ]
    return _suite("ablation-times", "OM2P: distributions of flow times", methods)


def derivative() -> Suite:
    """Return OM2P with each derivative in its matching target (OM2P figure 2)."""
    kinds = ("none", "finite_difference", "tangent")
    methods = [_om2p(kind, derivative=kind) for kind in kinds]
    return _suite("ablation-derivative", "OM2P: the derivative in the matching target", methods)


def eta() -> Suite:
    """Return OM2P over the weight of its value, the same for every quality (OM2P figure 3)."""
    methods = [
        Method(f"eta={value:g}", "OM2P", {"critic": "own", "eta": value})
        for value in (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
    ]
    return _suite("ablation-eta", "OM2P: weight of the value", methods)


def omega() -> Suite:
    """Return VGM2P over the strength of its guidance (VGM2P figure 3), and our two other forms."""
    methods = [
        Method(f"omega={value:g}", "VGM2P", {"omega": value})
        for value in (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
    ]
    methods += [
        Method(f"good-only={value:g}", "VGM2P", {"omega": value, "guide_others": False})
        for value in (3.0, 10.0, 20.0)
    ]
    methods += [
        Method(f"label-dropout={value:g}", "VGM2P", {"omega": value, "guidance": "label_dropout"})
        for value in (1.0, 3.0)
    ]
    return _suite("ablation-omega", "VGM2P: strength of the guidance", methods)


def options() -> Suite:
    """Return OM2P with one of our options, or one of its code's differences, at a time."""
    methods = [
        _om2p("OM2P"),
        _om2p("vdn-critic", critic="vdn"),
        _om2p("value-from-path", value_from="path"),
        _om2p("weights", advantage_temperature=0.5),
        _om2p("path-and-weights", value_from="path", advantage_temperature=0.5),
        _om2p("expectile-critic", critic_loss="expectile"),
        _om2p("min-target", target_aggregate="min"),
        _om2p("normalized-q", normalize_q=True, eta=3.0),
        _om2p("adaptive-eta", adaptive_eta=0.1),
        _om2p("adaptive-loss", adaptive_loss_power=1.0),
        _om2p("clipped", grad_clip=1.0),
        _om2p("shared-noise", shared_noise=True),
        _om2p("best-of-8", best_of_n=8),
        _om2p("released", form="released", derivative="none", xi=(0.0, 0.0, 0.0, 0.0)),
    ]
    return _suite("options", "OM2P: one option at a time", methods)
