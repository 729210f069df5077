"""A model to work with, by the path of its run, its weights or its spec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffcore.declare.errors import SpecError
from diffcore.run.assemble import assemble
from diffcore.run.pipeline import Pipeline
from diffcore.run.report.escaping import word
from diffcore.run.runs import folder_of
from diffcore.run.sections import load_spec
from diffcore.specs.registry import Registry


def model_of(path: str, registry: Registry, overrides: Sequence[str], device: str | None) -> tuple[Pipeline, Path]:
    """The pipeline of a run, or of a spec that was trained (or needs no training), and its folder."""
    if Path(path).suffix not in (".yaml", ".yml"):
        return Pipeline.load(path, registry=registry, overrides=overrides, device=device), folder_of(Path(path))
    spec = load_spec(path, registry, overrides)
    folder = Path("runs") / spec.name
    if (folder / "weights.safetensors").exists():
        return Pipeline.load(folder, registry=registry, overrides=overrides, device=device), folder
    if spec.trainer.steps > 0 and spec.init is None:
        raise SpecError(
            f"{path} is not trained: there is no {folder}/weights.safetensors; train it first: diffcore train {word(path)}"
        )
    return assemble(path, registry=registry, overrides=overrides, device=device), folder
