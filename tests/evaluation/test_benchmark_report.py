"""The report of a benchmark: complete, honest about what is missing, and in need of nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy import stats

from rllib_om2p.evaluation.benchmark_report import brief_markdown, write_benchmark_report
from rllib_om2p.evaluation.records import load_comparison
from tests.evaluation.benchmark_records import write_plan, write_run, write_samples

CHEETAH = "mamujoco/2x3-HalfCheetah"


class Reader(HTMLParser):
    """Collects what a page refers to, its ids, and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.links.append(value)
            if name == "id":
                self.ids[value] += 1
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br", "img"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods and a sweep of one algorithm, on two environments; one run failed."""
    folder = Path(tmp_path_factory.mktemp("results"))
    for index, method in enumerate(("BC", "OM2P=0.1", "OM2P=1", "OM2P=8")):
        overrides = {"eta": float(method.split("=")[1])} if "=" in method else {}
        for env, quality in (
            ("mpe/simple_spread", "medium"),
            ("mpe/simple_spread", "expert"),
            (CHEETAH, "medium"),
        ):
            for seed in (0, 1):
                mean = 120.0 + 10 * index + seed
                file = write_run(
                    folder, method, seed, mean, env=env, quality=quality, overrides=overrides
                )
                if seed == 0:
                    write_samples(file, 3 if env == CHEETAH else 2)
    cell = {"method": "VGM2P", "dataset": "mpe/simple_spread/medium"}
    error = {"cell": cell, "error": "Traceback <of> a worker\nValueError: no & such thing"}
    (folder / "mpe-simple_spread-medium-VGM2P-0.failed").write_text(json.dumps(error))
    datasets = ["mpe/simple_spread/medium", "mpe/simple_spread/expert", f"{CHEETAH}/medium"]
    write_plan(folder, ["BC", "OM2P=0.1", "OM2P=1", "OM2P=8", "VGM2P"], datasets, 30)
    return folder


@pytest.fixture(scope="module")
def page(results: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Reader]:
    """The page, the tables, and the page as a browser reads it."""
    out = Path(tmp_path_factory.mktemp("report")) / "report.html"
    assert write_benchmark_report(results, out) == [out, out.with_suffix(".md")]
    reader = Reader()
    text = out.read_text(encoding="utf-8")
    reader.feed(text)
    assert reader.open == []
    return text, out.with_suffix(".md").read_text(encoding="utf-8"), reader


def test_page_needs_nothing_beside_it(page):
    text, _, reader = page
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert {link.split(":")[0] if ":" in link else link[0] for link in reader.links} == {
        "#",
        "data",
    }
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text


def test_ids_are_unique_and_found(page):
    text, _, reader = page
    assert {name for name, count in reader.ids.items() if count > 1} == set()
    targets = {link[1:] for link in reader.links if link.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(reader.ids)


def test_pictures_take_the_ink_of_the_page_and_have_titles(page):
    text, _, reader = page
    assert reader.tags["svg"] == reader.tags["figcaption"] == text.count("aria-label=") > 10
    assert "currentColor" in text
    assert "#123457" not in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(
    "words",
    [
        "24 of 30 runs are done",
        "1 runs failed",
        "Every run of VGM2P failed: the tables of returns alone name it.",
        "(1 of 1 failed)",
        "ValueError: no &amp; such thing",
        "Interquartile mean of normalised scores",
        "Probability that a run of the row beats one of the column",
        "mpe/simple_spread: every seed (dot)",
        "mamujoco/2x3-HalfCheetah: returns over training",
        "OM2P: what eta does",
        "mamujoco/2x3-HalfCheetah: what training takes",
        "mpe/simple_spread/medium, left: actions of the policies (colour) over the data&#x27;s",
        "gradient updates",
        "team return per episode",
        "ms per update",
        "commit: 0123456789",
        "A CPU, 2 cores, 8.0 GiB",
    ],
)
def test_page_shows(page, words):
    assert words in page[0]


def test_tables_stand_in_both_files(page):
    text, markdown, _ = page
    for heading in ("Over datasets", "Probability of improvement", "Settings that differ"):
        assert f"## {heading}" in markdown
    row = "| medium | OM2P=1 | 140.5 |"
    assert row in markdown
    assert '<td class="word">OM2P=1</td><td>140.5</td>' in text
    assert "140.0, 141.0" in markdown


def test_discrete_actions_and_single_features_are_drawn(tmp_path):
    for quality, number, discrete in (("medium", 1, False), ("expert", 1, True)):
        file = write_run(tmp_path, "A", 0, 150.0, quality=quality)
        write_samples(file, number, discrete=discrete)
    out = tmp_path / "report.html"
    write_benchmark_report(tmp_path, out)
    text = out.read_text()
    assert "action (number)" in text
    assert text.count(">share<") + text.count("share</text>") > 0


def test_results_that_were_not_scored_show_costs_alone(tmp_path):
    write_run(tmp_path, "A", 0, 150.0, returns=[], curve=[])
    out = tmp_path / "report.html"
    write_benchmark_report(tmp_path, out)
    text = out.read_text()
    assert "what training takes" in text
    assert "every seed" not in text.split("<h2")[1]
    assert "returns over training" not in text
    brief = brief_markdown(load_comparison(tmp_path))
    assert "| A | " in brief
    assert "time ÷ A" in brief


def test_brief_of_scored_results_leaves_the_costs_out(results):
    brief = brief_markdown(load_comparison(results))
    assert "mean returns" in brief
    assert "ms per update" not in brief


def test_what_the_suite_does_not_plan_is_left_out_and_said(tmp_path):
    for method in ("A", "A-old"):
        write_run(tmp_path, method, 0, 150.0)
    write_plan(tmp_path, ["A"], ["mpe/simple_spread/medium"], 2, seeds=[0, 1])
    out = tmp_path / "report.html"
    write_benchmark_report(tmp_path, out)
    for text in (out.read_text(), out.with_suffix(".md").read_text()):
        assert "Not complete: 1 of 2 runs are done." in text
        assert "Left out: 1 results that the suite does not plan (method A-old)." in text
    assert "<li>mpe-simple_spread-medium-A-old-0: method A-old</li>" in out.read_text()


def test_families_of_environments_have_chances_of_their_own(tmp_path):
    for env in ("mpe/simple_spread", "mpe/simple_tag", CHEETAH):
        for method, mean in (("A", 150.0), ("B", 160.0 if env == CHEETAH else 140.0)):
            for seed in (0, 1):
                write_run(tmp_path, method, seed, mean + seed, env=env)
    _, tables = write_benchmark_report(tmp_path, tmp_path / "report.html")
    sections = dict(s.split("\n", 1) for s in tables.read_text().split("\n## ")[1:])
    first_row = {
        name: text.split("\n| A |")[1].split("|")[1]
        for name, text in sections.items()
        if name.startswith("Probability")
    }
    assert first_row == {
        "Probability of improvement": " 0.67 (0.67-0.67) ",
        "Probability of improvement, mpe": " 1.00 (1.00-1.00) ",
    }


def test_every_interval_is_reckoned_once(results, tmp_path, monkeypatch):
    calls, bootstrap = [], stats.bootstrap

    def counted(*arguments, **options):
        calls.append(1)
        return bootstrap(*arguments, **options)

    monkeypatch.setattr(stats, "bootstrap", counted)
    write_benchmark_report(results, tmp_path / "report.html")
    # Of 4 methods over all datasets and on 2 environments, and of 6 pairs.
    assert len(calls) == 4 * 3 + 6


def test_report_takes_the_place_of_an_older_one_at_once(results, tmp_path):
    out = tmp_path / "report.html"
    for file in (out, out.with_suffix(".md")):
        file.write_text("older")
        file.with_suffix(f"{file.suffix}.kept").hardlink_to(file)
    write_benchmark_report(results, out)
    assert {file.read_text() for file in tmp_path.glob("*.kept")} == {"older"}
    assert out.read_text().startswith("<!doctype html>")


def test_costs_are_drawn_where_update_times_were_not_measured_or_kinds_differ(tmp_path):
    for index, method in enumerate(("S=1", "S=2", "S=4")):
        write_run(
            tmp_path,
            method,
            0,
            150.0,
            overrides={"n": float(index)},
            update_ms=None,
            updates_per_second=None,
        )
    write_run(tmp_path, "C", 0, 150.0, hyperparameters={"torch_compile": True})
    out = tmp_path / "report.html"
    write_benchmark_report(tmp_path, out)
    text = out.read_text()
    assert "S: what n does" in text
    assert "what training takes" in text
    assert "C, compiled" in text


def test_page_must_be_html(results, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.html, got"):
        write_benchmark_report(results, tmp_path / "report.md")
