"""What is known of public datasets before they are opened: tasks by name, and qualities.

A table of facts, so that data need not know the environments; a test compares it with the
registry. Sources: the papers' released code and OG-MARL's dataset cards.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, NamedTuple

from rllib_om2p.data.schema import DataError
from rllib_om2p.team_return import TeamReturn

_PAPERS = "random and expert returns of the papers' datasets (OMAR, OM2P)"

# gymnasium-robotics drives actuator k of the 2x4 Ant with feature ANT_ACTUATORS[k] of the joint
# action (agents side by side); the simulator behind OMIGA's data drove actuator k with feature k.
ANT_ACTUATORS = (6, 7, 0, 1, 2, 3, 4, 5)


class KnownTask(NamedTuple):
    """A task of the papers.

    Args:
        env: Our name.
        pattern: What its path looks like in public datasets, in lower case.
        num_agents: Learned agents; they come first, a frozen prey after them.
        num_recorded: Agents that the public datasets may hold, the prey included.
        obs_dims: Observation lengths of a learned agent, by whom it was recorded.
        action_dim: Actions of each agent.
        time_limit: Steps of an episode.
        team_return: How rewards form the team's return.
        references: "random", "expert" and "source", or {}.
    """

    env: str
    pattern: str
    num_agents: int
    num_recorded: int
    obs_dims: tuple[int, ...]
    action_dim: int
    time_limit: int
    team_return: TeamReturn
    references: dict[str, Any]

    def misfit(self, obs_dims: list[int], action_dims: list[int]) -> str | None:
        """Say why agents of these sizes cannot be those of the task; None if they can."""
        if len(obs_dims) != self.num_agents:
            return f"{self.env} has {self.num_agents} learned agents, not {len(obs_dims)}"
        if any(dim not in self.obs_dims for dim in obs_dims):
            return f"{self.env} observes {self.obs_dims} numbers per agent, not {obs_dims}"
        if any(dim != self.action_dim for dim in action_dims):
            return f"{self.env} has {self.action_dim} actions per agent, not {action_dims}"
        return None


def _mpe(name: str, obs_dim: int, prey: int, team: TeamReturn, low: float, top: float) -> KnownTask:
    references = {"random": low, "expert": top, "source": _PAPERS}
    return KnownTask(
        f"mpe/{name}", name.replace("_", "[_-]?"), 3, 3 + prey, (obs_dim,), 2, 25, team, references
    )


def _omiga(random: float, expert: float) -> dict[str, Any]:
    source = "random: measured here; expert: mean return of OMIGA's expert dataset (VGM2P)"
    return {"random": random, "expert": expert, "source": source}


# Every agent of a robot receives the robot's reward, so "agent 0" is the team's return.
TASKS = (
    _mpe("simple_spread", 18, 0, "mean over agents", 159.8, 516.8),
    _mpe("simple_tag", 16, 1, "agent 0", -4.1, 185.6),
    _mpe("simple_world", 24, 1, "agent 0", -6.8, 79.5),
    KnownTask(
        "mamujoco/6x1-HalfCheetah",
        "(?<!\\d)6[_-]?halfcheetah|halfcheetah.*6x1|6x1.*halfcheetah",
        *(6, 6, (23,), 1, 1000, "agent 0", _omiga(-292.9, 2785.0)),
    ),
    KnownTask(
        "mamujoco/3x1-Hopper",
        "(?<!\\d)3[_-]?hopper|hopper.*3x1|3x1.*hopper",
        *(3, 3, (14,), 1, 1000, "agent 0", _omiga(17.5, 2452.0)),
    ),
    KnownTask(
        "mamujoco/2x4-Ant",
        "(?<!\\d)2[_-]?ant(?![a-z])|(?<![a-z])ant.*2x4|2x4.*ant",
        *(2, 2, (113,), 4, 1000, "agent 0", _omiga(-49.4, 2055.0)),
    ),
    # The papers' folder is called HalfCheetah alone, so this one comes last.
    KnownTask(
        "mamujoco/2x3-HalfCheetah",
        "halfcheetah",
        *(2, 2, (6,), 3, 1000, "agent 0"),
        {"random": -284.0, "expert": 3568.8, "source": _PAPERS},
    ),
)

_QUALITIES = ("medium-replay", "medium-expert", "medium", "expert", "random", "replay")


def find_task(env: str | None, path: str) -> KnownTask | None:
    """Return the task called `env`, or, when None, the one that the path looks like.

    Raises:
        DataError: `env` is not known; the text lists near ones.
    """
    if env == "none":
        return None
    if env is None:
        text = "/".join(path.lower().rstrip("/").split("/")[-4:])
        return next((task for task in TASKS if re.search(task.pattern, text)), None)
    names = [task.env for task in TASKS]
    if env not in names:
        near = difflib.get_close_matches(env, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {names}."
        raise DataError(f"--env knows no {env!r}; {hint} 'none' names no environment.")
    return TASKS[names.index(env)]


def find_quality(path: str) -> str:
    """Return the quality that the last parts of a path name, "" if none."""
    for part in reversed(path.lower().rstrip("/").split("/")[-3:]):
        for quality in _QUALITIES:
            if re.search(quality.replace("-", "[_-]?"), part):
                return quality
    return ""
