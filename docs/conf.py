"""Sphinx's settings for the documentation site: `just docs` builds it into `docs/_build`."""

from __future__ import annotations

import ast
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

project = "actorchat"
copyright = "the actorchat maintainers"
version = release = installed_version("actorchat")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"actorchat {version}"

myst_heading_anchors = 3

default_role = "code"  # docstrings write code in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
copybutton_prompt_text = "$ "


def document_constants(package: str) -> None:
    """Give autodoc the docstrings of constants that `package` imports; alone it looks only in the package's file."""
    analyzer = ModuleAnalyzer.for_module(package)
    analyzer.analyze()
    for statement in ast.parse(analyzer.code).body:
        if isinstance(statement, ast.ImportFrom) and statement.module is not None:
            home = ModuleAnalyzer.for_module(statement.module)
            home.analyze()
            for alias in statement.names:
                docstring = home.attr_docs.get(("", alias.name))
                if docstring is not None:
                    analyzer.attr_docs["", alias.name] = docstring


def setup(app: Sphinx) -> None:
    """Prepare the reference."""
    for package in ("client", "protocol", "testing", "testing.simulation"):
        document_constants(f"actorchat.{package}")
