"""Tables of a benchmark's results, against hand numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rllib_om2p.evaluation.comparison import (
    aggregate_table,
    aggregates,
    distance_table,
    improvement,
    overview_table,
    pooled_parts,
    returns_table,
    settings_table,
    shared_datasets,
    sweeps,
)
from rllib_om2p.evaluation.costs import cost_table
from rllib_om2p.evaluation.records import load_comparison
from rllib_om2p.evaluation.statistics import Interval
from tests.evaluation.benchmark_records import write_plan, write_run

SPREAD = "mpe/simple_spread"


def test_order_is_the_plan_s(tmp_path):
    for method in ("C", "A", "B"):
        write_run(tmp_path, method, 0, 150.0)
    assert load_comparison(tmp_path).methods == ["A", "B", "C"]
    write_plan(tmp_path, ["B", "C", "A"], [f"{SPREAD}/medium"], 6)
    comparison = load_comparison(tmp_path)
    assert comparison.methods == ["B", "C", "A"]
    assert (comparison.name, comparison.num_planned, len(comparison.runs)) == ("mine", 6, 3)


def test_results_that_the_suite_does_not_plan_are_left_out_and_named(tmp_path):
    for method in ("A", "B"):
        for quality in ("medium", "expert"):
            write_run(tmp_path, method, 0, 150.0, quality=quality)
    write_run(tmp_path, "A-old", 0, 150.0)  # renamed since; it lacks "expert"
    write_run(tmp_path, "A", 0, 150.0, quality="random")
    write_run(tmp_path, "A", 7, 150.0)
    datasets = [f"{SPREAD}/medium", f"{SPREAD}/expert"]
    write_plan(tmp_path, ["A", "B"], datasets, 8, seeds=[0, 1])
    comparison = load_comparison(tmp_path)
    assert len(comparison.runs) == 4
    assert comparison.left_out == {
        "mpe-simple_spread-medium-A-old-0": "method A-old",
        "mpe-simple_spread-random-A-0": f"dataset {SPREAD}/random",
        "mpe-simple_spread-medium-A-7": "seed 7",
    }
    assert shared_datasets(comparison, comparison.datasets) == datasets
    write_plan(tmp_path, ["C"], datasets, 4)
    with pytest.raises(ValueError, match=r"no results in .*suite\.json plans none of the 7 that"):
        load_comparison(tmp_path)


def test_failures_of_runs_that_were_made_since_or_are_not_planned_are_forgotten(tmp_path):
    made = write_run(tmp_path, "A", 0, 150.0)
    write_plan(tmp_path, ["A"], [f"{SPREAD}/medium"], 2)
    for file, method in ((made, "A"), (tmp_path / "b.json", "B"), (tmp_path / "a1.json", "A")):
        failure = {"cell": {"method": method}, "error": "Traceback\nValueError: no"}
        file.with_suffix(".failed").write_text(json.dumps(failure))
    assert load_comparison(tmp_path).failures == {"a1": "ValueError: no"}


def test_runs_that_failed_or_did_not_play_are_counted_in_their_cell_and_listed(tmp_path):
    write_run(tmp_path, "A", 0, 150.0)
    write_run(tmp_path, "A", 1, 160.0)
    nan = write_run(tmp_path, "A", 2, float("nan"))
    lost = tmp_path / "mpe-simple_spread-medium-A-3.failed"
    lost.write_text(json.dumps({"cell": {"method": "A", "dataset": f"{SPREAD}/medium"}}))
    write_plan(tmp_path, ["A"], [f"{SPREAD}/medium"], 4)
    comparison = load_comparison(tmp_path)
    assert comparison.failures == {
        nan.stem: "an episode's return is not finite",
        lost.stem: "no reason was written",
    }
    assert len(comparison.runs) == 2
    table = overview_table(comparison, SPREAD)
    assert table is not None
    assert table.rows[1] == ("A", "155.0 ± 7.1 (2 of 4 failed)")


def test_method_and_dataset_of_which_every_run_failed_are_named(tmp_path):
    write_run(tmp_path, "A", 0, 150.0)
    lost = [("B", f"{SPREAD}/medium"), ("A", f"{SPREAD}/expert"), ("B", f"{SPREAD}/expert")]
    for index, (method, dataset) in enumerate(lost):
        failure = json.dumps({"cell": {"method": method, "dataset": dataset}, "error": "no"})
        (tmp_path / f"{index}.failed").write_text(failure)
    write_plan(tmp_path, ["A", "B"], [f"{SPREAD}/medium", f"{SPREAD}/expert"], 4)
    comparison = load_comparison(tmp_path)
    assert (comparison.methods, comparison.lost_methods) == (["A"], ["B"])
    assert (comparison.datasets, comparison.lost_datasets) == (
        [f"{SPREAD}/medium"],
        [f"{SPREAD}/expert"],
    )
    table = overview_table(comparison, SPREAD)
    assert table is not None
    assert table.rows == (("data", "150.0"), ("A", "150.0"), ("B", "(1 of 1 failed)"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cell": {"fingerprint": "f", "first_seed": 5, "settings": {"eta": 9}}}, "settings of A"),
        ({"references": {"random": 0.0, "expert": 1.0, "source": "b"}}, "scales"),
        ({"hyperparameters": {"eta": 1, "tau": 0.2, "torch_compile": True}}, "tau of A (0.1, 0.2)"),
    ],
)
def test_seeds_of_one_method_that_are_no_repetitions_are_not_on_equal_footing(
    tmp_path, changes, text
):
    cell = {"fingerprint": "f", "first_seed": 5, "settings": {"eta": 1}}
    values = {"eta": 1, "tau": 0.1, "torch_compile": False, "older": 1}
    same = {"cell": cell, "hyperparameters": values}
    write_run(tmp_path, "A", 0, 150.0, **same)
    write_run(tmp_path, "A", 1, 150.0, **same | {"hyperparameters": values | {"newer": None}})
    assert load_comparison(tmp_path).differences() == []
    write_run(tmp_path, "A", 1, 150.0, **same | changes)
    assert load_comparison(tmp_path).differences() == [
        f"{SPREAD}/medium: runs with different {text}"
    ]


def test_folder_without_results_and_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there are no results in"):
        load_comparison(tmp_path)
    file = write_run(tmp_path, "A", 0, 150.0)
    file.write_text(file.read_text()[:50])
    with pytest.raises(ValueError, match="is no JSON"):
        load_comparison(tmp_path)
    write_run(tmp_path, "A", 0, 150.0)
    for name in ("suite.json", "other.failed"):
        (tmp_path / name).write_bytes(b"\xff")
        with pytest.raises(ValueError, match=f"{name}' is no JSON .*; remove or renew it"):
            load_comparison(tmp_path)
        (tmp_path / name).unlink()


def test_aggregate_is_the_interquartile_mean_of_normalised_scores(tmp_path):
    for seed, mean in enumerate((110.0, 120.0, 130.0, 200.0)):
        write_run(tmp_path, "A", seed, mean)
    comparison = load_comparison(tmp_path)
    (found,) = aggregates(comparison, comparison.datasets).values()
    assert found.value == pytest.approx(25.0)  # of 10, 20, 30, 100 the middle two
    assert found.mean == pytest.approx(40.0)
    assert found.interval is not None
    assert 10.0 <= found.interval.low < 25.0 < found.interval.high <= 100.0


def test_only_datasets_that_all_methods_have_are_pooled(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, "A", seed, 110.0)
        write_run(tmp_path, "B", seed, 120.0)
        write_run(tmp_path, "A", seed, 190.0, quality="expert")
    comparison = load_comparison(tmp_path)
    found = aggregates(comparison, comparison.datasets)
    assert {name: own.value for name, own in found.items()} == pytest.approx({"A": 10, "B": 20})
    table = aggregate_table(comparison, pooled_parts(comparison))
    assert table is not None
    assert table.header[1] == "IQM, all (1)"


def test_families_of_several_environments_are_pooled_beside_all_and_each(tmp_path):
    envs = {"mpe/a": 110.0, "mpe/b": 130.0, "lbf/c": 180.0}
    for env, mean in envs.items():
        write_run(tmp_path, "A", 0, mean, env=env)
    parts = {part.name: part for part in pooled_parts(load_comparison(tmp_path))}
    assert list(parts) == ["all", "mpe", "lbf/c", "mpe/a", "mpe/b"]
    assert (parts["mpe"].num_datasets, parts["mpe"].scores["A"].mean) == (2, pytest.approx(20.0))


def test_dataset_of_which_more_seeds_have_run_weighs_no_more(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path, "A", seed, 110.0)
    write_run(tmp_path, "A", 0, 190.0, quality="expert")
    found = aggregates(
        load_comparison(tmp_path), ["mpe/simple_spread/medium", "mpe/simple_spread/expert"]
    )
    assert found["A"].mean == found["A"].value == pytest.approx(50.0)


def test_single_seed_has_no_interval(tmp_path):
    write_run(tmp_path, "A", 0, 110.0)
    comparison = load_comparison(tmp_path)
    assert aggregates(comparison, comparison.datasets)["A"].interval is None


def test_returns_are_shown_raw_and_normalised_with_every_seed_and_the_data(tmp_path):
    for seed, mean in enumerate((160.0, 170.0)):
        write_run(tmp_path, "A", seed, mean)
    table = returns_table(load_comparison(tmp_path), SPREAD)
    assert table is not None
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [row["policy"] for row in rows] == ["data", "A"]
    assert rows[0]["return"] == "150.0"
    expected = {
        "return": "165.0",
        "normalised": "65.0",
        "÷ data": "1.10",
        "each seed": "160.0, 170.0",
    }
    assert {name: rows[1][name] for name in expected} == expected


def test_small_returns_are_shown_with_three_decimals(tmp_path):
    for seed, mean in enumerate((0.612, 0.634)):
        write_run(tmp_path, "A", seed, mean, dataset_return=0.6)
    comparison = load_comparison(tmp_path)
    overview, returns = overview_table(comparison, SPREAD), returns_table(comparison, SPREAD)
    assert overview is not None
    assert returns is not None
    assert [row[1] for row in overview.rows] == ["0.600", "0.623 ± 0.016"]
    assert dict(zip(returns.header, returns.rows[1], strict=True))["each seed"] == "0.612, 0.634"


def test_a_method_without_an_environment_is_left_out_of_what_pools_it(tmp_path):
    for env in (SPREAD, "mpe/simple_tag"):
        for method in ("A", "B"):
            write_run(tmp_path, method, 0, 150.0, env=env)
    write_run(tmp_path, "C", 0, 180.0)
    parts = {part.name: part for part in pooled_parts(load_comparison(tmp_path))}
    assert set(parts["all"].scores) == {"A", "B"}
    assert parts["all"].num_datasets == 2
    assert parts[SPREAD].scores["C"].value == pytest.approx(80.0)
    assert set(parts["mpe/simple_tag"].scores) == {"A", "B"}


def test_overview_marks_the_best_and_what_is_not_told_apart_from_it(tmp_path):
    for method, means in {
        "best": (150.0, 160.0, 170.0),
        "level": (140.0, 160.0, 165.0),
        "behind": (120.0, 121.0, 122.0),
        "wild": (60.0, 150.0, 210.0),  # not told apart, and 20 of 100 points below
        "alone": (165.0,),
    }.items():
        for seed, mean in enumerate(means):
            write_run(tmp_path, method, seed, mean)
    write_run(tmp_path, "best", 0, 180.0, quality="expert")
    datasets = [f"{SPREAD}/expert", f"{SPREAD}/medium"]
    write_plan(tmp_path, ["best", "level", "behind", "wild", "alone"], datasets, 13)
    table = overview_table(load_comparison(tmp_path), SPREAD)
    assert table is not None
    assert table.header == ("method", "expert", "medium")
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["data"] == ("150.0", "150.0")
    assert cells["best"] == ("180.0", "160.0 ± 10.0")
    assert cells["behind"] == ("", "121.0 ± 1.0")
    strong = {(table.rows[i][0], table.header[j]) for i, j in table.strong}
    # On both the largest mean is one run's, with which nothing can be compared.
    assert strong == set()
    for file in tmp_path.glob("*alone*"):
        file.unlink()
    table = overview_table(load_comparison(tmp_path), SPREAD)
    assert table is not None
    strong = {(table.rows[i][0], table.header[j]) for i, j in table.strong}
    assert strong == {("best", "medium"), ("level", "medium")}
    assert "| **160.0 ± 10.0** |" in table.markdown()


def test_improvement_counts_won_pairs(tmp_path):
    for seed, (first, second) in enumerate(((110.0, 105.0), (120.0, 130.0))):
        write_run(tmp_path, "A", seed, first)
        write_run(tmp_path, "B", seed, second)
        write_run(tmp_path, "A", seed, 190.0, env="mpe/simple_tag")
        write_run(tmp_path, "B", seed, 110.0, env="mpe/simple_tag")
    comparison = load_comparison(tmp_path)
    both = improvement(comparison, comparison.datasets)
    assert both["A", "B"].estimate == 0.75  # all of the other environment's
    found = improvement(comparison, [f"{SPREAD}/medium"])
    assert found["A", "B"].estimate == 0.5  # 110 and 120 each beat 105, neither beats 130
    assert found["B", "A"].estimate == 0.5
    assert set(found) == {("A", "B"), ("B", "A")}


def test_improvement_leaves_out_methods_that_lack_seeds_on_a_pooled_dataset(tmp_path):
    for seed in (0, 1):
        for method in ("A", "B", "C"):
            write_run(tmp_path, method, seed, 110.0 + seed)
            if seed == 0 or method != "C":
                write_run(tmp_path, method, seed, 110.0 + seed, quality="expert")
    comparison = load_comparison(tmp_path)
    assert set(improvement(comparison, comparison.datasets)) == {("A", "B"), ("B", "A")}
    assert len(improvement(comparison, [f"{SPREAD}/medium"])) == 6


def test_improvement_and_its_interval_mirror_each_other(tmp_path):
    for method, means in {"A": (110, 120, 140), "B": (105, 130, 115, 125)}.items():
        for seed, mean in enumerate(means):
            write_run(tmp_path, method, seed, mean)
    found = improvement(load_comparison(tmp_path), [f"{SPREAD}/medium"])
    ours, theirs = found["A", "B"], found["B", "A"]
    assert ours.estimate == pytest.approx(7 / 12)  # 110 beats 1, 120 beats 2, 140 beats 4
    assert 0.0 <= ours.low < ours.estimate < ours.high <= 1.0
    assert theirs == Interval(1.0 - ours.estimate, 1.0 - ours.high, 1.0 - ours.low)


def test_costs_are_medians_and_ratios_to_the_first_method(tmp_path):
    memory = {"before": 400.0, "built": 430.0, "gpu_peak": 0.0}
    for seed, milliseconds in enumerate((20.0, 30.0, 100.0)):
        write_run(tmp_path, "A", seed, 150.0)
        write_run(
            tmp_path,
            "B",
            seed,
            150.0,
            update_ms={"wall": 1.0, "processor": milliseconds},
            memory_mib=memory | {"fresh_process": True, "peak": 650.0},
        )
        write_run(
            tmp_path, "C", seed, 150.0, memory_mib=memory | {"fresh_process": False, "peak": 9.0}
        )
    table = cost_table(load_comparison(tmp_path), SPREAD)
    assert table is not None
    first, second, third = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert (first["ms per update"], second["ms per update"]) == ("10.0", "30.0")
    assert second["time ÷ A"] == "3.00"
    # The clock ran for 12 ms an update, 2 of which were other processes'.
    assert (first["updates/s"], first["minutes per run"]) == ("120", "0.917")
    assert (first["MiB of training"], second["MiB of training"]) == ("100", "250")
    assert second["memory ÷ A"] == "2.50"
    # A process that trained others before says nothing of what this one added.
    assert third["MiB of training"] == third["memory ÷ A"] == ""


def test_memory_of_shared_processes_is_not_shown_and_the_clock_is(tmp_path):
    memory = {"fresh_process": False, "before": 400.0, "built": 430.0, "peak": 650.0}
    write_run(tmp_path, "A", 0, 150.0, memory_mib=memory | {"gpu_peak": 0.0})
    table = cost_table(load_comparison(tmp_path), SPREAD)
    assert table is not None
    assert not [name for name in table.header if "MiB" in name or "memory" in name]
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["minutes by the clock"] == "1.00"  # 6 s + 30 s + 24 s


def test_distances_to_the_data_are_means_over_seeds(tmp_path):
    for seed, distance in enumerate((0.25, 0.75)):
        write_run(tmp_path, "A", seed, 150.0, action_rmse=distance)
    write_run(tmp_path, "B", 0, 150.0, quality="expert")
    table = distance_table(load_comparison(tmp_path), SPREAD)
    assert table is not None
    assert table.header == ("method", "expert", "medium")
    assert table.rows == (("A", "", "0.500"), ("B", "", ""))
    assert distance_table(load_comparison(tmp_path), "mpe/simple_tag") is None


def test_on_a_gpu_time_is_by_the_clock_and_memory_torch_s(tmp_path):
    memory = {"fresh_process": True, "before": 400.0, "built": 430.0, "peak": 999.0}
    write_run(tmp_path, "A", 0, 150.0, memory_mib=memory | {"gpu_peak": 77.0})
    table = cost_table(load_comparison(tmp_path), SPREAD)
    assert table is not None
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert (row["ms per update"], row["MiB of training"]) == ("12.0", "77")
    assert (row["updates/s"], row["minutes per run"]) == ("100", "1.00")


def test_settings_that_differ_are_shown_and_others_not(tmp_path):
    write_run(tmp_path, "A", 0, 150.0, overrides={"eta": 0.1, "lr": 1.0})
    write_run(tmp_path, "A", 0, 150.0, overrides={"eta": 0.3, "lr": 1.0}, quality="expert")
    write_run(tmp_path, "B", 0, 150.0, overrides={"lr": 1.0})
    write_run(tmp_path, "C", 0, 150.0, overrides={"lr": 1.0, "eta": 2.0})
    write_run(tmp_path, "C", 0, 150.0, overrides={"lr": 1.0}, quality="expert")
    table = settings_table(load_comparison(tmp_path))
    assert table is not None
    assert table.header == ("method", "eta")
    assert table.rows == (("A", "0.3 / 0.1"), ("B", "default"), ("C", "default / 2.0"))


def test_setting_that_one_method_has_on_some_datasets_only_is_shown(tmp_path):
    write_run(tmp_path, "A", 0, 150.0, overrides={"eta": 0.1})
    assert settings_table(load_comparison(tmp_path)) is None
    write_run(tmp_path, "A", 0, 150.0, quality="expert")
    table = settings_table(load_comparison(tmp_path))
    assert table is not None
    assert table.rows == (("A", "default / 0.1"),)


def test_sweep_is_found_where_one_number_differs(tmp_path):
    for value in (3.0, 0.1, 1.0):
        for quality in ("medium", "expert"):
            overrides = {"eta": value, "lr": 1.0, "tau": 0.1 if quality == "medium" else 0.2}
            write_run(tmp_path, f"A={value:g}", 0, 150.0, quality=quality, overrides=overrides)
    write_run(tmp_path, "B", 0, 150.0)
    (sweep,) = sweeps(load_comparison(tmp_path))
    assert (sweep.algorithm, sweep.setting, sweep.fixed) == ("A", "eta", {})
    assert list(sweep.values.items()) == [("A=0.1", 0.1), ("A=1", 1.0), ("A=3", 3.0)]


def test_each_form_of_an_algorithm_has_a_sweep_of_its_own(tmp_path):
    for value in (1.0, 2.0, 3.0):
        write_run(tmp_path, f"A={value:g}", 0, 150.0, overrides={"omega": value})
        overrides = {"omega": value, "guide_others": False}
        write_run(tmp_path, f"A-good={value:g}", 0, 150.0, algorithm="A", overrides=overrides)
    older = {"omega": 1.0, "guidance": "dropout"}
    write_run(tmp_path, "A-old=1", 0, 150.0, algorithm="A", overrides=older)
    plain, good = sorted(sweeps(load_comparison(tmp_path)), key=lambda sweep: len(sweep.fixed))
    assert (plain.fixed, good.fixed) == ({}, {"guide_others": False})
    assert list(plain.values) == ["A=1", "A=2", "A=3"]
    assert list(good.values) == ["A-good=1", "A-good=2", "A-good=3"]


def test_methods_that_differ_in_two_numbers_or_by_dataset_are_no_sweep(tmp_path):
    for index, value in enumerate((0.1, 1.0, 3.0)):
        write_run(tmp_path / "two", f"A={value}", 0, 1.0, overrides={"eta": value, "lr": index})
        for quality, factor in (("medium", 1.0), ("expert", 2.0)):
            overrides = {"eta": value * factor}
            write_run(tmp_path / "by", f"A={value}", 0, 1.0, quality=quality, overrides=overrides)
    assert sweeps(load_comparison(tmp_path / "two")) == []
    assert sweeps(load_comparison(tmp_path / "by")) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": {"fingerprint": "g", "first_seed": 5}}, "different contents of the data (f, g)"),
        ({"cell": {"fingerprint": "f", "first_seed": 6}}, "different start states (5, 6)"),
        ({"updates": 20}, "different numbers of updates (10, 20)"),
        ({"returns": [1.0]}, "different numbers of episodes (1, 2)"),
    ],
)
def test_unequal_footing_is_said(tmp_path: Path, fields, message):
    write_run(tmp_path, "A", 0, 150.0)
    write_run(tmp_path, "B", 0, 150.0, **fields)
    (found,) = load_comparison(tmp_path).differences()
    assert found == f"{SPREAD}/medium: runs with {message}"


def test_costs_of_compiled_runs_are_not_mixed_with_others(tmp_path):
    for seed, milliseconds in enumerate((10.0, 10.0, 4.0)):
        compiled = {"torch_compile": milliseconds == 4.0}
        times = {"wall": milliseconds, "processor": milliseconds}
        write_run(tmp_path, "A", seed, 150.0, update_ms=times, hyperparameters=compiled)
    table = cost_table(load_comparison(tmp_path), SPREAD)
    assert table is not None
    assert table.rows[0][table.header.index("ms per update")] == "4.00"


def write_timed(folder: Path, method: str, seed: int, milliseconds: float, compiled: bool) -> None:
    write_run(
        folder,
        method,
        seed,
        150.0,
        update_ms={"wall": milliseconds, "processor": milliseconds},
        hyperparameters={"torch_compile": compiled},
    )


def cost_rows(folder: Path) -> dict[str, dict[str, str]]:
    table = cost_table(load_comparison(folder), SPREAD)
    assert table is not None
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


@pytest.mark.parametrize(
    ("kinds_of_b", "expected"), [([False], ("13.0", "10.0")), ([False, True], ("4.00", "8.00"))]
)
def test_costs_are_of_the_kind_of_runs_that_all_methods_have(tmp_path, kinds_of_b, expected):
    # A, compiled and not; B, not compiled alone or both.
    write_timed(tmp_path, "A", 0, 4.0, True)
    write_timed(tmp_path, "A", 1, 13.0, False)
    for seed, compiled in enumerate(kinds_of_b):
        write_timed(tmp_path, "B", seed, 8.0 if compiled else 10.0, compiled)
    rows = cost_rows(tmp_path)
    assert tuple(rows[method]["ms per update"] for method in ("A", "B")) == expected
    assert "compiled" not in rows["A"]


def test_costs_of_compiled_and_other_methods_are_marked_and_not_divided(tmp_path):
    write_timed(tmp_path, "A", 0, 10.0, False)
    write_timed(tmp_path, "B", 0, 5.0, False)
    write_timed(tmp_path, "B", 1, 3.0, True)
    write_timed(tmp_path, "C", 0, 4.0, True)
    rows = cost_rows(tmp_path)
    names = ("compiled", "ms per update", "time ÷ A", "memory ÷ A")
    assert [tuple(rows[method][name] for name in names) for method in "ABC"] == [
        ("no", "10.0", "1.00", "1.00"),
        ("no", "5.00", "0.50", "1.00"),
        ("yes", "4.00", "", ""),
    ]


def test_update_time_that_was_not_measured_is_blank(tmp_path):
    write_run(tmp_path, "A", 0, 150.0)
    write_run(tmp_path, "B", 0, 150.0, update_ms=None, updates_per_second=None)
    row = cost_rows(tmp_path)["B"]
    assert {name for name, cell in row.items() if not cell} == {
        "updates/s", "ms per update", "time ÷ A",
    }  # fmt: skip
    assert row["minutes per run"] == "1.00"


def test_older_records_without_costs_are_read(tmp_path):
    file = write_run(tmp_path, "A", 0, 150.0)
    record = json.loads(file.read_text())
    for name in ("dataset", "cell", "overrides", "seconds", "memory_mib", "update_ms"):
        del record[name]
    file.write_text(json.dumps(record))
    comparison = load_comparison(tmp_path)
    assert comparison.datasets == [f"{SPREAD}/medium"]
    assert comparison.differences() == []
    table = cost_table(comparison, SPREAD)
    assert table is not None
    assert table.rows[0][:3] == ("A", "100", "")
