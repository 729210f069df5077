from diffcore.testing import conformance

test_conformance = conformance("diffcore-unified")
