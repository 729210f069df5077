"""The commands of the core: name -> ("module:attribute" in `diffcore.cli`, one line of help)."""

from __future__ import annotations

COMMANDS = {
    "plugins": ("catalogue:plugins", "Installed plugins: version, status, components, and why one is not loaded."),
    "list": ("catalogue:list_components", "Installed components, of one kind or of all."),
    "show": ("show:show", "One component: fields, source, what it needs and fits, an example."),
    "check": ("specs:check", "Every fault of a spec, with file, line and column."),
    "explain": ("specs:explain", "The assembled pipeline, its time grid and its cost."),
    "schema": ("specs:schema", "JSON Schema of all installed components, for editors."),
    "run": ("runs:run", "Train, sample, measure and report: the whole spec."),
    "train": ("runs:train", "Train only."),
    "sample": ("runs:sample", "Sample from a run or a weights file."),
    "evaluate": ("runs:evaluate", "Measure a run again."),
    "calibrate": ("runs:calibrate", "Calibrate the solvers of a run that need it to its model."),
    "bench": ("bench:bench", "Compare solvers on a trained model, error against network calls."),
    "trajectory": ("bench:trajectory", "Draw the states of a run on their way, and the error of every step."),
    "compare": ("runs:compare", "Put several runs side by side."),
    "new": ("new:new", "Write a new plugin that passes its conformance tests."),
    "conform": ("conform:conform", "Run the conformance kit on an installed component or distribution."),
}
