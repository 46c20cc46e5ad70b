"""Sphinx: MyST Markdown, the furo theme; no network at build time."""

project = "Converge"
author = "The Converge authors"
project_copyright = "The Converge authors, Apache-2.0"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
