"""Decides in which units RLlib stored actions, and brings them to those of the environment.

Episodes hold what the policy chose, not what the connector NormalizeAndClipActions made of it for
the environment (Ray 2.60, rllib/connectors/module_to_env/normalize_and_clip_actions.py,
rllib/env/single_agent_env_runner.py:367, rllib/utils/spaces/space_utils.py, unsquash_action):
- with normalize_actions=True (the default), low + (a + 1) / 2 * (high - low) acted, clipped to the
  box. Squashed policies (SAC) choose a in [-1, 1], Gaussian ones (PPO) leave it at times;
- with normalize_actions=False, and for sample(random_actions=True), a itself acted, clipped with
  clip_actions=True;
- in a box with an infinite end, a itself acted in any case.

The files hold neither setting. What they hold speaks for the smaller of [-1, 1] and the box that
no action leaves; if only a part of them overlaps, for [-1, 1].

Axes: T steps, A action.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.rllib_survey import Range, Survey
from rllib_om2p.data.schema import AgentSpec, AnyArray, DataError


def find_normalised(
    agents: Sequence[AgentSpec],
    found: Survey,
    options: ImportOptions,
    path: Path,
    notes: list[str],
) -> frozenset[str]:
    """Return the agents whose stored actions are normalised to [-1, 1] while their box is another.

    Args:
        agents: The agents that are kept, with the box of their environment.
        found: What the files hold.
        options: --action-units decides; without it, the range of the stored actions.
        path: What is imported, for error texts.
        notes: Receives what was assumed and how to say otherwise.

    Raises:
        DataError: Actions leave both [-1, 1] and the box and are not to be clipped, or
            --action-units is "normalised" and the box is not bounded.
    """
    agents = [agent for agent in agents if agent.name in found.ranges]
    unknown = [agent.name for agent in agents if not _has_box(agent, found, options)]
    scaled = [agent for agent in agents if agent.name not in unknown and not _is_unit(agent)]
    if options.action_units == "environment":
        return frozenset()
    if options.action_units == "normalised" and unknown:
        raise DataError(
            f"{path}: --action-units normalised needs a bounded action box, but the files hold "
            f"none of {unknown}; give it with --action-low and --action-high, or leave the option "
            "out where the environment's box is infinite: RLlib does not normalise it."
        )
    if unknown:
        notes.append(
            f"the files hold no bounded action box of {unknown}: actions are kept as stored, in "
            f"[{options.low:g}, {options.high:g}]. If the environment's box is another, give it by "
            "--action-low and --action-high: RLlib normalises actions of bounded boxes by default."
        )
    is_normalised = options.action_units is not None
    if scaled and options.action_units is None:
        is_normalised = _looks_normalised(scaled, found, options, path, notes)
    return frozenset(agent.name for agent in scaled if is_normalised)


def to_box(agent: AgentSpec, actions: AnyArray) -> AnyArray:
    """Return normalised actions in the units of the agent's box, (T, A)."""
    low, high = np.array(agent.action_low), np.array(agent.action_high)
    return np.asarray(low + (actions.astype(np.float64) + 1) / 2 * (high - low))


def _has_box(agent: AgentSpec, found: Survey, options: ImportOptions) -> bool:
    space = found.pieces[agent.name].action_space
    if isinstance(space, tuple):
        return bool(np.isfinite(space).all())
    return options.action_low is not None or options.action_high is not None


def _is_unit(agent: AgentSpec) -> bool:
    return set(agent.action_low) == {-1.0} and set(agent.action_high) == {1.0}


def _looks_normalised(
    agents: Sequence[AgentSpec],
    found: Survey,
    options: ImportOptions,
    path: Path,
    notes: list[str],
) -> bool:
    names = [agent.name for agent in agents]
    seen = [found.ranges[agent.name] for agent in agents]
    boxes = [Range(np.array(agent.action_low), np.array(agent.action_high)) for agent in agents]
    unit = Range(np.array(-1.0), np.array(1.0))
    in_unit = all(_holds(unit, values) for values in seen)
    in_box = all(map(_holds, boxes, seen))
    span = f"{min(s.least.min() for s in seen):g} to {max(s.greatest.max() for s in seen):g}"
    if in_box and (not in_unit or all(_holds(unit, box) for box in boxes)):
        notes.append(
            f"actions of {names} ({span}) are taken as the environment's: they "
            + ("stay in its box, which is a part of [-1, 1]" if in_unit else "leave [-1, 1]")
            + ". If RLlib normalised them (normalize_actions=True, its default), as it may be with "
            "a Gaussian policy (PPO), give --action-units normalised --clip-actions."
        )
        return False
    if not in_unit and not options.clip_actions:
        raise DataError(
            f"{path}: actions of {names} go from {span}, out of [-1, 1] and out of the action box: "
            "the policy was not bounded, and RLlib clipped its actions on their way to the "
            "environment. Give --clip-actions, with --action-units normalised (RLlib's default, "
            "normalize_actions=True) or --action-units environment."
        )
    notes.append(
        f"actions of {names} ({span}) are taken as normalised, as RLlib stores them by default "
        "(normalize_actions=True), and brought from [-1, 1] to the action box of the environment; "
        "--action-units environment keeps them as they are stored."
    )
    return True


def _holds(box: Range, values: Range) -> bool:
    return bool((values.least >= box.least).all() and (values.greatest <= box.greatest).all())
