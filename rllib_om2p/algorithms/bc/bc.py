"""BC: every agent imitates the data's actions, with one of several kinds of policies.

Source: table 1 of VGM2P (see README.md) for the kinds of policies; equations in README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override

from rllib_om2p.algorithms.bc.networks import BCLoss, BCModule, BCNetworks
from rllib_om2p.algorithms.bc.policies import NUM_STEPS, POLICIES, Policy, PolicyName, make_policy
from rllib_om2p.core.actors import ActorConfig
from rllib_om2p.core.agent_groups import AgentGroup, RowLayout
from rllib_om2p.core.algorithm import Algorithm
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.phases import Networks, Phase

if TYPE_CHECKING:
    from typing import Self


class BCConfig(ActorConfig):
    """Configures behaviour cloning.

    Example:
        ```python
        config = BCConfig().offline_data(input_="data/set").training(policy="flow")
        ```
    """

    supports_discrete = True

    def __init__(self, algo_class: type | None = None) -> None:
        """Set a deterministic policy of OM2P's size."""
        super().__init__(algo_class=algo_class or BC)
        self.policy: PolicyName = "deterministic"
        self.sampling_steps: int | None = None

    @override(ActorConfig)
    def training(
        self,
        *,
        policy: PolicyName | None = NotProvided,
        sampling_steps: int | None = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """Set behaviour cloning's hyperparameters.

        Args:
            policy: "deterministic" (default): the mean action. "gaussian": a normal distribution
                whose samples are clipped to the box. "flow": flow matching. "diffusion":
                variance-preserving diffusion. "mean_flow": one-step mean flow. For discrete actions
                "deterministic" is the likeliest legal action and "gaussian" a sample of the legal
                actions' probabilities; the others act by the largest legal feature.
            sampling_steps: From noise to action, of "flow" (default 10), "diffusion" (default 15)
                and "mean_flow" (default 1). None (default): the policy's.
            **kwargs: See `ActorConfig.training`.
        """
        super().training(**kwargs)
        self._assign(policy=policy, sampling_steps=sampling_steps)
        return self

    @override(ActorConfig)
    def validate(self) -> None:
        """Check the settings.

        Raises:
            ValueError: A setting has no meaning; the text says which and what to do.
        """
        super().validate()
        self._check_one_of("policy", POLICIES)
        if self.sampling_steps is not None:
            self._check_positive("sampling_steps")
            if self.policy not in NUM_STEPS:
                raise ValueError(
                    f"policy={self.policy!r} samples in one pass, got sampling_steps="
                    f"{self.sampling_steps}; set it to None or choose one of {tuple(NUM_STEPS)}."
                )

    @override(OfflineConfig)
    def build_networks(
        self, groups: Sequence[AgentGroup], generator: torch.Generator
    ) -> BCNetworks:
        """Return stacked policies."""
        return BCNetworks(
            [self.build_actor(self._make_policy(group).net, group, generator) for group in groups]
        )

    @override(OfflineConfig)
    def build_phases(self, networks: Networks, layout: RowLayout) -> list[Phase]:
        """Return the one phase."""
        assert isinstance(networks, BCNetworks)
        device = next(networks.parameters()).device
        loss = BCLoss(networks, [self._make_policy(group, device) for group in layout.groups])
        return [Phase("bc", list(networks.actors), loss.draw, loss)]

    @override(OfflineConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the spec of the agents' modules."""
        return RLModuleSpec(
            module_class=BCModule,
            model_config={
                "policy": self.policy,
                "sampling_steps": self.sampling_steps,
                **self.actor_model_config,
            },
        )

    def _make_policy(self, group: AgentGroup, device: torch.device | None = None) -> Policy:
        return make_policy(
            self.policy,
            is_discrete=group.is_discrete,
            num_steps=self.sampling_steps,
            device=device,
        )


class BC(Algorithm):
    """Behaviour cloning, as an RLlib Algorithm."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> BCConfig:
        """Return the defaults."""
        return BCConfig()
