"""What a person should know before training on a dataset; one function per kind of oddity.

Knows an audit's findings only. Each notice says what was found and what to check.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from rllib_om2p.data.audit_pass import is_rounding

if TYPE_CHECKING:
    from rllib_om2p.data.audit import Audit

# More than this share of an agent's actions at the ends of its box is worth a look.
SATURATED_SHARE = 0.5
# Actions that use less than this share of their box suggest bounds of another unit.
USED_SHARE = 0.1


def notices(found: Audit) -> list[str]:
    """Return the notices about a dataset, the most serious first."""
    return [
        *_ends(found),
        *_presence(found),
        *_repetition(found),
        *_actions(found),
        *_features(found),
    ]


def _ends(found: Audit) -> Iterator[str]:
    endings, length = found.endings, found.statistics.episode_length
    has_terminated = endings.terminated + endings.both > 0
    has_truncated = endings.truncated + endings.both > 0
    if not has_terminated and not has_truncated:
        same = f", all after {length.max:g} steps" if length.min == length.max else ""
        yield (
            f"No end is marked: {endings.neither} episodes{same}, as when the dones of a source "
            "are all 0. If a time limit ended them, mark the last steps truncated; else they are "
            "terminated."
        )
    elif endings.neither:
        yield f"{endings.neither} episodes end without terminated or truncated."
    if not has_terminated:
        yield "terminated is never true: every last step is bootstrapped from."
    if not has_truncated:
        yield "truncated is never true: check that time limits are not marked terminated."
    if 1 < endings.terminated_at_limit > endings.terminated / 2:
        limit = found.spec.time_limit or f"{length.max:g}, the largest length there is"
        yield (
            f"{endings.terminated_at_limit} of {endings.terminated} terminated episodes end at "
            f"step {limit}: if that is a time limit, it is marked as an end for good; mark it "
            "truncated."
        )
    if endings.at_limit_without_truncation:
        yield (
            f"{endings.at_limit_without_truncation} episodes reach the time limit of "
            f"{found.spec.time_limit} steps without truncated."
        )
    if found.spec.time_limit is not None and length.max > found.spec.time_limit:
        yield (
            f"Episodes last up to {length.max:g} steps, longer than the time limit of "
            f"{found.spec.time_limit}."
        )


def _presence(found: Audit) -> Iterator[str]:
    first = found.spec.agent_ids[0]
    away = found.presence[first].absent
    if found.spec.team_return == "agent 0" and away:
        yield (
            f"The team's reward is that of {first}, who is absent in {away} rows: there the team "
            "earns nothing, whatever the others do. Choose another team_return."
        )
    for name, seen in found.presence.items():
        if seen.filled:
            yield (
                f"{seen.filled} rows of {name} hold an action, a reward, an end or an observation "
                "although it is not alive: set them to zero, or correct alive."
            )
        if seen.after_end:
            yield (
                f"{seen.after_end} rows of {name} come after it terminated, which is an end for "
                "good: mark it not alive there, or the flag is of another kind (out of fuel, goal "
                "reached) and belongs into the observation."
            )
        if seen.illegal:
            yield (
                f"{seen.illegal} actions of {name} are forbidden by its mask: check which row a "
                "mask belongs to; it stands beside the observation that the action answers."
            )
        if seen.no_choice:
            yield f"{seen.no_choice} rows of {name} have a mask without a legal action: allow one."
        if seen.absent == found.statistics.num_transitions:
            yield f"{name} is never alive: leave it out."


def _repetition(found: Audit) -> Iterator[str]:
    if found.duplicate_episodes:
        extra = sum(len(group) - 1 for group in found.duplicate_episodes)
        example = found.duplicate_episodes[0][:2]
        yield f"{extra} episodes repeat another one, for example {example}."
    team = found.statistics.team_return
    if is_rounding(team.max - team.min, np.array([team.min, team.max])):
        yield "Every episode has the same team return: there is nothing to prefer."


def _actions(found: Audit) -> Iterator[str]:
    for agent in found.spec.agents:
        used = found.actions[agent.name]
        if agent.num_actions is not None:
            never = np.flatnonzero(used.at_high == 0)
            if never.size:
                yield f"{agent.name} never takes actions {never.tolist()}."
            continue
        saturated = float((used.at_low + used.at_high).mean())
        if saturated > SATURATED_SHARE:
            yield f"{saturated:.0%} of the actions of {agent.name} lie at the ends of their box."
        span = np.array(agent.action_high) - np.array(agent.action_low)
        small = np.flatnonzero(used.moments.max - used.moments.min < USED_SHARE * span)
        if small.size:
            yield (
                f"Action features {small.tolist()} of {agent.name} use less than {USED_SHARE:.0%} "
                "of their box: check the units and the bounds."
            )


def _features(found: Audit) -> Iterator[str]:
    for name, features in found.constant_features.items():
        yield f"{len(features)} features of {name} never change."
