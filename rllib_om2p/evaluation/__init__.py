"""From returns to a judgement: scores, statistics, figures and reports; plain arrays in."""
