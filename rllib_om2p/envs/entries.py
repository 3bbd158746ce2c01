"""The environments that have a name: how each is made and what is known of it; imports none.

An entry describes itself for the settings that change who acts and what is seen, so that a card, a
comparison and the environment agree. It knows its other settings by name: returns under another
penalty are on another scale, a picture's size changes nothing.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rllib_om2p.envs.info import AgentInfo, EnvInfo
from rllib_om2p.envs.paper_constants import MAX_CYCLES, UNIT_FORCES
from rllib_om2p.envs.prey import PREY, PREY_AS_AGENT, PREY_OBS_DIMS, is_reference_prey
from rllib_om2p.team_return import TeamReturn

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv


@dataclass(frozen=True)
class Entry:
    """One named environment.

    Attributes:
        info: What is known of it with its default settings.
        create: Makes it; takes the settings.
        describe: Returns what is known of it with other settings; takes those of `settings`.
        settings: Names of the settings that change what is known.
        scale: Settings that change nothing but what returns are worth, with their defaults.
        drawing: Names of the settings that change pictures only.
    """

    info: EnvInfo
    create: Callable[..., ParallelEnv]
    describe: Callable[..., EnvInfo]
    settings: frozenset[str]
    scale: Mapping[str, Any]
    drawing: frozenset[str]

    @property
    def known(self) -> frozenset[str]:
        """Names of all settings."""
        return self.settings | self.scale.keys() | self.drawing


def _entry(
    describe: Callable[..., EnvInfo],
    create: Callable[..., ParallelEnv],
    *settings: str,
    scale: Mapping[str, Any],
    drawing: Sequence[str],
) -> Entry:
    return Entry(describe(), create, describe, frozenset(settings), scale, frozenset(drawing))


def _create_mpe(task: str, **kwargs: Any) -> ParallelEnv:
    from rllib_om2p.envs.mpe import make_mpe

    return make_mpe(task, **kwargs)


def _create_mamujoco(task: str, **kwargs: Any) -> ParallelEnv:
    from rllib_om2p.envs.mamujoco import MAMuJoCo

    return MAMuJoCo(task, **kwargs)


def _create_lbf(task: str, **kwargs: Any) -> ParallelEnv:
    from rllib_om2p.envs.lbf import LevelBasedForaging

    return LevelBasedForaging(task, **kwargs)


_PAPERS = "random and expert returns of the papers' datasets (OMAR, OM2P)"


def _mpe_entry(
    task: str, obs_dim: int, team_return: TeamReturn, references: Mapping[str, float]
) -> Entry:
    name = f"mpe/{task}"
    has_prey = name in PREY_OBS_DIMS

    def describe(
        *, continuous_actions: bool = True, prey: Any = None, max_cycles: int = MAX_CYCLES
    ) -> EnvInfo:
        sizes = {f"agent_{i}": obs_dim for i in range(3)}
        source = _PAPERS if continuous_actions else f"{_PAPERS}, whose forces are continuous"
        scale: dict[str, float | str] = {**references, "source": source}
        if prey == PREY_AS_AGENT:
            sizes[PREY] = PREY_OBS_DIMS[name]
        if has_prey and not is_reference_prey(name, prey):
            scale = {}  # what the predators can reach is another prey's choice
        if max_cycles != MAX_CYCLES:
            scale = {}  # returns of other episodes
        return EnvInfo(
            name=name,
            agents=tuple(
                AgentInfo.box(agent, size, 2)
                if continuous_actions
                else AgentInfo.discrete(agent, size, len(UNIT_FORCES))
                for agent, size in sizes.items()
            ),
            team_return=team_return,
            time_limit=max_cycles,
            references=scale,
        )

    settings = ("prey",) if has_prey else ()
    create = functools.partial(_create_mpe, task)
    return _entry(
        describe,
        create,
        "continuous_actions",
        "max_cycles",
        *settings,
        scale={"dynamics": "papers"},
        drawing=("render_mode", "dynamic_rescaling"),
    )


_MPE = (
    _mpe_entry("simple_spread", 18, "mean over agents", {"random": 159.8, "expert": 516.8}),
    # The predators' rewards are all alike; a prey that is an agent is their opponent.
    _mpe_entry("simple_tag", 16, "agent 0", {"random": -4.1, "expert": 185.6}),
    _mpe_entry("simple_world", 24, "agent 0", {"random": -6.8, "expert": 79.5}),
)


ROBOT_TIME_LIMIT = 1000
"""Steps of a robot's episode, as gymnasium registers it."""


def _mamujoco_entry(
    task: str,
    *,
    state_dim: int,
    local: Sequence[int],
    full: int,
    action_dim: int,
    references: Mapping[str, float | str],
    scale: Mapping[str, Any],
    papers: Literal["local", "full"] = "full",
) -> Entry:
    """Describe a robot; `local` and `full` are the agents' observation sizes.

    `scale` are gymnasium's settings of the robot (v5) that leave those sizes.
    """
    views = {"local": local, "full": [full] * len(local)}

    def describe(
        *, observations: str | None = None, max_episode_steps: int = ROBOT_TIME_LIMIT
    ) -> EnvInfo:
        view = papers if observations is None else observations
        if view not in views:
            raise ValueError(
                f"mamujoco/{task} has no observations={observations!r}; there are {[*views]}."
            )
        return EnvInfo(
            name=f"mamujoco/{task}",
            agents=tuple(
                AgentInfo.box(f"agent_{i}", size, action_dim) for i, size in enumerate(views[view])
            ),
            # Every agent receives the robot's reward; a mean of equal numbers would be rounded.
            team_return="agent 0",
            time_limit=max_episode_steps,
            references=references if max_episode_steps == ROBOT_TIME_LIMIT else {},
            state_dim=state_dim,
            can_terminate=not task.endswith("HalfCheetah"),
        )

    create = functools.partial(_create_mamujoco, task)
    return _entry(
        describe, create, "observations", "max_episode_steps", scale=scale, drawing=_CAMERA
    )


def _omiga(random: float, expert: float) -> dict[str, float | str]:
    source = (
        "random: mean of 500 to 1000 episodes, measured here; "
        "expert: mean return of OMIGA's expert dataset (VGM2P)"
    )
    return {"random": random, "expert": expert, "source": source}


_CAMERA = (
    "render_mode",
    "width",
    "height",
    "camera_id",
    "camera_name",
    "default_camera_config",
    "max_geom",
    "visual_options",
)
_CHEETAH: Mapping[str, Any] = {
    "xml_file": "half_cheetah.xml",
    "frame_skip": 5,
    "forward_reward_weight": 1.0,
    "ctrl_cost_weight": 0.1,
    "reset_noise_scale": 0.1,
}
_HOPPER: Mapping[str, Any] = {
    "xml_file": "hopper.xml",
    "frame_skip": 4,
    "forward_reward_weight": 1.0,
    "ctrl_cost_weight": 1e-3,
    "healthy_reward": 1.0,
    "terminate_when_unhealthy": True,
    "healthy_state_range": (-100.0, 100.0),
    "healthy_z_range": (0.7, math.inf),
    "healthy_angle_range": (-0.2, 0.2),
    "reset_noise_scale": 5e-3,
}
_ANT: Mapping[str, Any] = {
    "xml_file": "ant.xml",
    "frame_skip": 5,
    "forward_reward_weight": 1.0,
    "ctrl_cost_weight": 0.5,
    "contact_cost_weight": 5e-4,
    "healthy_reward": 1.0,
    "main_body": 1,
    "terminate_when_unhealthy": True,
    "healthy_z_range": (0.2, 1.0),
    "contact_force_range": (-1.0, 1.0),
    "reset_noise_scale": 0.1,
}

_MAMUJOCO = (
    _mamujoco_entry(
        "2x3-HalfCheetah",
        state_dim=17,
        local=(6, 6),
        full=19,
        action_dim=3,
        references={"random": -284.0, "expert": 3568.8, "source": _PAPERS},
        scale=_CHEETAH,
        papers="local",
    ),
    _mamujoco_entry(
        "6x1-HalfCheetah",
        state_dim=17,
        local=(9, 9, 8, 9, 9, 8),
        full=23,
        action_dim=1,
        references=_omiga(-292.9, 2785.0),
        scale=_CHEETAH,
    ),
    _mamujoco_entry(
        "3x1-Hopper",
        state_dim=11,
        local=(8, 9, 8),
        full=14,
        action_dim=1,
        references=_omiga(17.5, 2452.0),
        scale=_HOPPER,
    ),
    _mamujoco_entry(
        "2x4-Ant",
        state_dim=105,
        local=(63, 63),
        full=113,
        action_dim=4,
        references=_omiga(-49.4, 2055.0),
        scale=_ANT,
    ),
)

LBF_TIME_LIMIT = 50
"""Steps of an episode of level-based foraging, as lbforaging registers it."""

LBF_NUM_ACTIONS = 6
"""Nothing, north, south, west, east, load."""

# Foraging[-SIGHTs]-ROWSxCOLUMNS-PLAYERSp-FOODSf[-coop], as lbforaging names its tasks; it registers
# only those of up to four foods.
_LBF_TASK = re.compile(
    r"Foraging(-(?P<sight>\d+)s)?-(?P<rows>\d+)x(?P<columns>\d+)"
    r"-(?P<players>\d+)p-(?P<foods>\d+)f(?P<coop>-coop)?"
)


def lbf_settings(task: str) -> dict[str, Any]:
    """Return what lbforaging is made with for a task; levels are those of its own tasks."""
    found = _LBF_TASK.fullmatch(task)
    if found is None:
        raise ValueError(
            f"{task!r} is no task of level-based foraging; write it as Foraging-8x8-3p-2f, or with "
            "sight and forced cooperation as Foraging-2s-8x8-3p-2f-coop."
        )
    size = int(found["rows"]), int(found["columns"])
    return {
        "players": int(found["players"]),
        "min_player_level": 1,
        "max_player_level": 2,
        "min_food_level": 1,
        "max_food_level": None,  # what the three weakest agents can eat together
        "field_size": size,
        "max_num_food": int(found["foods"]),
        "sight": int(found["sight"] or max(size)),
        "force_coop": found["coop"] is not None,
    }


def _lbf_entry(task: str, random: float) -> Entry:
    """Describe a task by its name in lbforaging, such as Foraging-2s-10x10-3p-3f-coop."""
    made_with = lbf_settings(task)
    num_agents, num_foods = made_with.pop("players"), made_with.pop("max_num_food")
    scale: dict[str, float | str] = {
        "random": random,
        "expert": 1.0,
        "source": "random: mean of 1,000 episodes of legal random actions, measured here; "
        "expert: all food is eaten",
    }

    def describe(*, max_episode_steps: int = LBF_TIME_LIMIT) -> EnvInfo:
        return EnvInfo(
            name=f"lbf/{task}",
            # Of every food and every agent row, column and level.
            agents=tuple(
                AgentInfo.discrete(f"agent_{i}", 3 * (num_foods + num_agents), LBF_NUM_ACTIONS)
                for i in range(num_agents)
            ),
            team_return="sum",
            time_limit=max_episode_steps,
            references=scale if max_episode_steps == LBF_TIME_LIMIT else {},
            can_terminate=True,
            has_action_masks=True,
        )

    return _entry(
        describe,
        functools.partial(_create_lbf, task),
        "max_episode_steps",
        scale={**made_with, "normalize_reward": True, "penalty": 0.0},
        drawing=("render_mode",),
    )


# Those that comparisons of cooperative algorithms report, and a small one for three agents.
_LBF = tuple(
    _lbf_entry(task, random)
    for task, random in (
        ("Foraging-8x8-3p-2f", 0.180),
        ("Foraging-8x8-2p-2f-coop", 0.0045),
        ("Foraging-2s-8x8-2p-2f-coop", 0.0045),
        ("Foraging-10x10-3p-3f", 0.106),
        ("Foraging-2s-10x10-3p-3f", 0.106),
        ("Foraging-15x15-3p-5f", 0.052),
        ("Foraging-15x15-4p-3f", 0.084),
        ("Foraging-15x15-4p-5f", 0.079),
    )
)

ENTRIES: Mapping[str, Entry] = {entry.info.name: entry for entry in (*_MPE, *_MAMUJOCO, *_LBF)}
"""All of them by name."""

DESCRIBING_SETTINGS = frozenset().union(*(entry.settings for entry in ENTRIES.values()))
"""Settings that change what is known of at least one environment."""
