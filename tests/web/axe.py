"""Asks axe-core about a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Page

import actorchat

__all__ = ["needs_axe", "violations"]

AXE: Final = Path(actorchat.__file__).parent / "web" / "src" / "node_modules" / "axe-core" / "axe.min.js"

needs_axe: Final = pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: npm ci in actorchat/web/src")


def violations(page: Page) -> list[str]:
    """What axe finds on the page, shadow roots included, once nothing moves."""
    if not page.evaluate("!!window.axe"):
        page.evaluate(AXE.read_text())
    found: list[dict[str, Any]] = page.evaluate(
        """async () => {
            const roots = [document, ...[...document.querySelectorAll("*")].map(e => e.shadowRoot).filter(Boolean)]
            const ending = roots.flatMap(root => root.getAnimations())
                .filter(animation => animation.effect.getComputedTiming().iterations !== Infinity)
            await Promise.all(ending.map(animation => animation.finished)).catch(() => {})
            return (await axe.run()).violations
        }"""
    )
    return [f"{rule['id']}: {json.dumps([node['target'] for node in rule['nodes']])}" for rule in found]
