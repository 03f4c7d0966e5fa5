"""Serves the browser's side of the chat: the widget, SDK, console and demo page, as built files of this package."""

from actorchat.web.assets import Assets
from actorchat.web.pages import Pages
from actorchat.web.routes import public_paths, web_routes

__all__ = ["Assets", "Pages", "public_paths", "web_routes"]
