"""The conformance kit on every component of this distribution."""

from diffcore.testing import conformance

test_conformance = conformance("diffcore-parallel")
