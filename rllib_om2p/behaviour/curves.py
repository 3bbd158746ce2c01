"""The learning curve of a behaviour run as JSON and PNG; knows no training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rllib_om2p.envs import registry
from rllib_om2p.evaluation.figures import Curve, save_learning_curve
from rllib_om2p.evaluation.scores import References


class CurvePoint(NamedTuple):
    """One evaluation of a run."""

    joint_steps: int
    team_return: float  # with the collection noise


def save_curve(
    out: Path, env: str, seed: int, points: Sequence[CurvePoint], targets: Mapping[str, float]
) -> Path:
    """Write ENV-curve.json and .png into the folder `out` and return the JSON file.

    Args:
        out: An existing folder.
        env: The environment's registered name.
        seed: Of the run.
        points: Its evaluations in their order.
        targets: Returns at which a quality's policy is kept, drawn across.
    """
    file = out / f"{env.replace('/', '-')}-curve.json"
    steps = [point.joint_steps for point in points]
    returns = [point.team_return for point in points]
    record = {
        "env": env,
        "seed": seed,
        "targets": dict(targets),
        "joint_steps": steps,
        "team_return": returns,
    }
    file.write_text(json.dumps(record) + "\n")
    save_learning_curve(
        file.with_suffix(".png"),
        [Curve("with the collection noise", steps, returns)],
        lines={f"target {quality}": target for quality, target in targets.items()},
        references=References.from_mapping(registry.info(env).references),
        title=f"{env}, behaviour policies, seed {seed}",
        x_label="joint steps",
    )
    return file
