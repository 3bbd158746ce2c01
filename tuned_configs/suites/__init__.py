"""The named suites of `rllib-om2p benchmark`."""

from __future__ import annotations

from tuned_configs.suites import ablations, comparisons, cost

SUITES = {
    "cpu": comparisons.cpu,
    "cpu-128": comparisons.cpu_128,
    "discrete": comparisons.discrete,
    "paper": comparisons.paper,
    "rates": comparisons.rates,
    "search": comparisons.search,
    "ablation-losses": ablations.losses,
    "ablation-times": ablations.times,
    "ablation-derivative": ablations.derivative,
    "ablation-eta": ablations.eta,
    "ablation-omega": ablations.omega,
    "options": ablations.options,
    "cost": cost.cpu,
    "cost-gpu": cost.gpu,
}
