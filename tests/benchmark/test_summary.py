"""The tables in RESULTS.md are those of the committed results."""

from __future__ import annotations

import re

import pytest

from tuned_configs import markers, summary

TEXT = summary.RESULTS.read_text(encoding="utf-8")
SUITES = re.findall(r"begin: written by tuned_configs\.summary (\S+) -->", TEXT)


def test_there_are_some():
    assert "cpu" in SUITES


@pytest.mark.parametrize("suite", SUITES)
def test_tables_follow_from_the_committed_results(suite):
    _, _, rest = TEXT.partition(summary.mark(suite))
    assert rest.partition(markers.END)[0].strip() == summary.section(suite)
