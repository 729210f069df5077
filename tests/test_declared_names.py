"""What distributions declare of their components: ids are ids, other tools' names are under the tools they come from."""

from __future__ import annotations

import re

import diffcore as dc


def test_ids_are_words_and_aliases_are_named_after_tools():
    registry, tools = dc.Registry.load(), set()
    assert [f"{p.dist}: {p.cause}" for p in registry.plugins if p.status != "ok"] == []
    for entry in registry.list():
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", entry.id), entry
        assert re.fullmatch(r"[\w.]+:\w+", entry.target), entry
        tools |= {alias.tool for alias in entry.aliases}
    assert tools <= {"A1111", "ComfyUI", "InvokeAI", "azula", "diffusers", "k-diffusion"}, tools
