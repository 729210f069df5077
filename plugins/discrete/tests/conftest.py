"""Every process of this distribution, and a joint law of two dependent entries."""

from __future__ import annotations

import pytest
import torch
from diffcore_discrete.chain import Chain
from diffcore_discrete.proof import JOINT, PROCESSES

torch.set_num_threads(1)


@pytest.fixture
def chain() -> Chain:
    return Chain(JOINT)


@pytest.fixture(params=list(PROCESSES))
def process(request):
    return PROCESSES[request.param]
