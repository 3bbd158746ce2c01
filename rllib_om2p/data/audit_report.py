"""An audit as Markdown, section by section. Adds nothing to what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rllib_om2p.data.audit_pass import Endings
from rllib_om2p.data.statistics import Summary

if TYPE_CHECKING:
    from rllib_om2p.data.audit import Audit

MAX_NAMED = 10


def summary(found: Audit) -> str:
    """Return the first sections: what it is, what is odd, returns and ends."""
    sections = [
        _overview(found),
        _section("Notices", [f"- {notice}" for notice in found.notices] or ["None."]),
        _section("Returns", _return_lines(found)),
        _section("Endings", _ending_lines(found.endings)),
    ]
    return "\n".join(sections)


def to_markdown(found: Audit) -> str:
    """Return the whole report."""
    sections = [
        summary(found),
        _section("Coverage", _coverage_lines(found)),
        _section("Actions", _action_lines(found)),
        *([_section("Presence", _presence_lines(found))] if found.spec.has_alive else []),
        _section("Constant features", _constant_lines(found)),
    ]
    return "\n".join(sections)


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    def line(cells: Sequence[object]) -> str:
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *(line(row) for row in rows)]


def _overview(found: Audit) -> str:
    spec, statistics = found.spec, found.statistics
    length = statistics.episode_length
    lines = [
        f"# {spec.dataset_id}",
        "",
        f"- quality: {spec.quality or 'not given'}; environment: {spec.env or 'not given'}",
        f"- {statistics.num_episodes} episodes, {statistics.num_transitions} joint steps, "
        f"{length.min:g} to {length.max:g} steps per episode",
        f"- team return: {spec.team_return}; time limit: {spec.time_limit}",
        f"- fingerprint: {found.fingerprint}",
        "",
    ]
    rows = [
        (a.name, a.obs_dim, a.num_actions or a.action_dim, "discrete" if a.num_actions else "box")
        for a in spec.agents
    ]
    return "\n".join([*lines, *_table(["agent", "obs", "actions", "space"], rows), ""])


def _return_lines(found: Audit) -> list[str]:
    statistics = found.statistics
    first = statistics.team_return
    header = ["", "mean", "sd", "min", *(f"{float(q):.0%}" for q in first.quantiles), "max"]

    def row(name: str, s: Summary) -> list[str]:
        return [name, *(f"{v:.4g}" for v in (s.mean, s.std, s.min, *s.quantiles.values(), s.max))]

    rows = [row("team", first)]
    rows += [row(name, summary) for name, summary in statistics.agent_returns.items()]
    lines = _table(header, rows)
    references = found.spec.references
    if "random" in references and "expert" in references:
        scale = references["expert"] - references["random"]
        if scale:
            score = 100 * (first.mean - references["random"]) / scale
            lines += ["", f"Normalised mean (random = 0, expert = 100): {score:.1f}."]
    return lines


def _ending_lines(endings: Endings) -> list[str]:
    rows = [
        ("terminated", endings.terminated),
        ("truncated", endings.truncated),
        ("both", endings.both),
        ("neither", endings.neither),
        ("terminated at the time limit", endings.terminated_at_limit),
    ]
    return _table(["end", "episodes"], rows)


def _coverage_lines(found: Audit) -> list[str]:
    groups = found.duplicate_episodes[:MAX_NAMED]
    named = [", ".join(map(str, group[:MAX_NAMED])) for group in groups]
    repeated = sum(len(group) - 1 for group in found.duplicate_episodes)
    lines = [
        f"- unique joint observations: {found.coverage.unique_obs:.2%}",
        f"- unique joint observation-action pairs: {found.coverage.unique_obs_actions:.2%}",
        f"- episodes that repeat another one: {repeated}",
    ]
    return lines + [f"  - episodes {group} are equal" for group in named]


def _action_lines(found: Audit) -> list[str]:
    rows = []
    for agent in found.spec.agents:
        used = found.actions[agent.name]
        for feature in range(agent.action_dim):
            moments = (m[feature] for m in (used.moments.mean, used.moments.std))
            limits = (m[feature] for m in (used.moments.min, used.moments.max))
            rows.append(
                [
                    agent.name,
                    feature,
                    f"[{agent.action_low[feature]:g}, {agent.action_high[feature]:g}]",
                    *(f"{value:.4g}" for value in (*moments, *limits)),
                    f"{used.at_low[feature]:.1%}",
                    f"{used.at_high[feature]:.1%}",
                ]
            )
    header = ["agent", "feature", "space", "mean", "sd", "min", "max", "at low end", "at high end"]
    return _table(header, rows)


def _presence_lines(found: Audit) -> list[str]:
    total = found.statistics.num_transitions
    rows = [(name, f"{1 - seen.absent / total:.1%}") for name, seen in found.presence.items()]
    return _table(["agent", "alive in joint steps"], rows)


def _constant_lines(found: Audit) -> list[str]:
    if not found.constant_features:
        return ["None."]
    return [
        f"- {name}: {', '.join(map(str, features[:MAX_NAMED]))}"
        f"{f' and {len(features) - MAX_NAMED} more' if len(features) > MAX_NAMED else ''}"
        for name, features in found.constant_features.items()
    ]
