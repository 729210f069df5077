"""The installed components, and the affine processes of the paths family."""

from __future__ import annotations

import pytest

import diffcore as dc

REGISTRY = dc.Registry.load()


@pytest.fixture(scope="session")
def make():
    return REGISTRY.make


@pytest.fixture(scope="session")
def registry():
    return REGISTRY
