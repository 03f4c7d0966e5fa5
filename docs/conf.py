"""Sphinx's settings for the documentation site: `just docs` builds it into `docs/_build`."""

from importlib.metadata import version as installed_version

project = "actorchat"
copyright = "the actorchat maintainers"
version = release = installed_version("actorchat")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"actorchat {version}"
html_static_path: list[str] = []

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# `#` links between pages of the repository also work on the site.
myst_url_schemes = ["http", "https", "mailto"]

default_role = "code"  # docstrings write code in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
# The build reaches no other site: types of other projects are shown, not linked.
intersphinx_mapping: dict[str, tuple[str, None]] = {}
copybutton_prompt_text = "$ "
suppress_warnings = ["myst.xref_missing"]
