"""The report: Markdown, plots, what was promised, and who is faster than we are."""
