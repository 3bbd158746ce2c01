"""Which settings of OM2P's options have no meaning, alone or together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rllib_om2p.algorithms.om2p.om2p import OM2PConfig


def check_together(config: OM2PConfig) -> None:
    """Check the options against each other and against what they need.

    Raises:
        ValueError: An option is out of range or would do nothing; the text says what to do.
    """
    if not 0 < config.expectile < 1:
        raise ValueError(f"expectile must be in (0, 1), got {config.expectile}.")
    if not config.needs_critic and (
        config.critic_loss == "expectile" or config.conservative_weight > 0
    ):
        raise ValueError(
            f"critic_loss={config.critic_loss!r} and conservative_weight="
            f"{config.conservative_weight} have no critics to train (eta=0, best_of_n=1, no "
            'advantage_temperature); set one of these, or critic_loss="td" and '
            "conservative_weight=0."
        )
    if config.critic_loss == "expectile" and config.conservative_weight > 0:
        raise ValueError(
            f"conservative_weight={config.conservative_weight} has nothing to do with "
            'critic_loss="expectile", which asks for the data\'s actions alone; set it to 0, or '
            'critic_loss="td".'
        )
    if config.adaptive_eta is not None and (
        not config.adaptive_eta >= 0 or config.eta == 0 or config.bc_weight == 0
    ):
        raise ValueError(
            "adaptive_eta must be at least 0 and needs eta, where it starts, and bc_weight "
            f"above 0, got adaptive_eta={config.adaptive_eta}, eta={config.eta}, bc_weight="
            f"{config.bc_weight}."
        )
    if not config.adaptive_loss_power >= 0 or (
        config.adaptive_loss_power and config.bc_weight == 0
    ):
        raise ValueError(
            "adaptive_loss_power must be at least 0 and weighs the matching loss, which "
            f"bc_weight=0 leaves out, got {config.adaptive_loss_power} with bc_weight="
            f"{config.bc_weight}."
        )
    if config.advantage_temperature is not None and (
        not config.advantage_temperature > 0
        or config.bc_weight == 0
        or config.adaptive_eta is not None
    ):
        raise ValueError(
            "advantage_temperature must be above 0 and weighs the matching loss, which bc_weight=0 "
            "leaves out, and which adaptive_eta compares with that of all data (unset one), got "
            f"{config.advantage_temperature} with bc_weight={config.bc_weight} and adaptive_eta="
            f"{config.adaptive_eta}."
        )
    if config.shared_noise and config.best_of_n > 1:
        raise ValueError(
            f"shared_noise with best_of_n={config.best_of_n} would share nothing: each agent "
            "takes the candidate that its own critic prefers. Set best_of_n=1."
        )
    if config.value_from == "path" and (config.form == "released" or config.sampling_steps > 1):
        raise ValueError(
            'value_from="path" judges single jumps of the paper\'s form: set form="paper" and '
            f"sampling_steps=1, got {config.form!r} and {config.sampling_steps}."
        )
    if config.form == "released" and (
        config.derivative != "none"
        or any(config.xi)
        or config.instant_fraction > 0
        or config.sampling_steps > 1
    ):
        raise ValueError(
            'form="released" has no derivative (its step of 1e-12 is none in float32), uniform '
            'times, no empty jumps and one step: set derivative="none", xi=(0, 0, 0, 0), '
            f"instant_fraction=0 and sampling_steps=1, got {config.derivative!r}, "
            f"{tuple(config.xi)}, {config.instant_fraction} and {config.sampling_steps}."
        )
