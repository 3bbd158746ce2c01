"""Tables and the report folder, read as a person would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rllib_om2p.evaluation.report import Result, Table, results_table, write_report
from rllib_om2p.evaluation.scores import References
from rllib_om2p.evaluation.statistics import Interval

SPREAD = References(random=100.0, expert=300.0, source="test pair")
FACTS: dict[str, object] = {
    "command": "make demo",
    "commit": "abc123",
    "dirty": True,
    "date": "2026-01-01 00:00 UTC",
    "machine": {"cpu": "CPU", "cores": 2, "memory_gib": 8.0, "gpus": []},
    "python": "3.11.7",
    "packages": {"ray": "2.60.0"},
}


def results() -> list[Result]:
    return [
        Result("data", [200.0], "medium"),
        Result("OM2P", [200.0, 220.0, 240.0], "medium", note="eta 0.3"),
    ]


def test_table_holds_raw_interval_normalised_ratio_and_every_seed() -> None:
    table = results_table(results(), references=SPREAD, baseline="data")
    assert table.header == (
        *("dataset", "policy", "return", "95 % interval"),
        *("normalised", "÷ data", "each seed", "note"),
    )
    assert table.rows[0] == ("medium", "data", "200.0", "", "50.0", "1.00", "", "")
    # 220 +- 4.30265 * 20 / sqrt(3)
    assert table.rows[1] == (
        *("medium", "OM2P", "220.0", "170.3 to 269.7"),
        *("60.0", "1.10", "200.0, 220.0, 240.0", "eta 0.3"),
    )


def test_columns_without_content_are_left_out() -> None:
    table = results_table([Result("BC", [1.0]), Result("OM2P", [2.0])])
    assert table.header == ("policy", "return")


def test_an_interval_over_episodes_can_be_given_for_a_single_seed() -> None:
    table = results_table([Result("BC", [50.0], interval=Interval(50.0, 40.0, 60.0))])
    assert table.rows == (("BC", "50.0", "40.0 to 60.0"),)


def test_each_dataset_has_its_own_scale_and_baseline() -> None:
    rows = [
        Result("data", [100.0], "a"),
        Result("OM2P", [150.0], "a"),
        Result("worse", [-50.0], "a"),
        Result("data", [-5.0], "b"),
        Result("OM2P", [5.0], "b"),
    ]
    table = results_table(rows, references={"a": SPREAD}, baseline="data")
    normalised, ratio = (table.header.index(name) for name in ("normalised", "÷ data"))
    assert [row[normalised] for row in table.rows] == ["0.0", "25.0", "-75.0", "", ""]
    # No ratio of returns of different sign, nor to a negative one.
    assert [row[ratio] for row in table.rows] == ["1.00", "1.50", "", "", ""]


def test_markdown_and_terminal_show_the_same_cells() -> None:
    table = Table(("name", "x"), (("a|b", "1.0"), ("c", "20.0")), frozenset({"name"}))
    assert table.markdown().splitlines() == [
        "| name | x |",
        "| --- | ---: |",
        "| a\\|b | 1.0 |",
        "| c | 20.0 |",
    ]
    assert table.text().splitlines() == [
        "name     x",
        "----------",
        "a|b    1.0",
        "c     20.0",
    ]


def test_report_shows_tables_pictures_and_who_made_it(tmp_path: Path) -> None:
    picture = tmp_path / "learning curve.png"
    picture.write_bytes(b"picture")
    path = write_report(
        tmp_path / "report",
        title="OM2P on spread",
        results=results(),
        provenance=FACTS,
        seeds=[0, 1, 2],
        references=SPREAD,
        baseline="data",
        summary="One paragraph.",
        pictures={"Returns over training": picture},
    )
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# OM2P on spread\n\nOne paragraph.\n\n| dataset | policy |")
    assert "![Returns over training](learning%20curve.png)" in text
    assert (tmp_path / "report" / "learning curve.png").read_bytes() == b"picture"
    for line in (
        "- command: `make demo`",
        "- commit: abc123 with uncommitted changes",
        "- seeds: 0, 1, 2",
        "- machine: CPU, 2 cores, 8.0 GiB",
        "- packages: ray 2.60.0",
    ):
        assert line in text.splitlines()
    assert "0 is random (100), 100 is expert (300); test pair." in text


def test_report_keeps_the_numbers_as_json(tmp_path: Path) -> None:
    write_report(
        tmp_path, title="t", results=results(), provenance=FACTS, seeds=[7], references=SPREAD
    )
    record = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert record["seeds"] == [7]
    assert record["provenance"] == FACTS
    assert record["results"][1]["returns"] == [200.0, 220.0, 240.0]
    assert record["results"][1]["normalised"] == pytest.approx(60.0)
    assert record["results"][0]["interval"] is None


def test_report_replaces_an_older_one_and_leaves_no_drafts(tmp_path: Path) -> None:
    for title in ("first", "second"):
        write_report(tmp_path, title=title, results=results(), provenance=FACTS, seeds=[0])
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# second\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.md", "results.json"]


def test_missing_picture_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="picture 'Rollout' is not at"):
        write_report(
            tmp_path / "report",
            title="t",
            results=results(),
            provenance=FACTS,
            seeds=[0],
            pictures={"Rollout": tmp_path / "rollout.gif"},
        )
    assert not (tmp_path / "report").exists()


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="has no returns"):
        Result("OM2P", [])
    with pytest.raises(ValueError, match="at least one result"):
        results_table([])
    with pytest.raises(ValueError, match="holds 'data' twice"):
        results_table([Result("data", [1.0]), Result("data", [2.0])], baseline="data")
