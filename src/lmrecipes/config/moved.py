"""Class paths and arguments of earlier versions, so that configurations saved by them still open."""

from __future__ import annotations

from typing import Any

# Modules by their earlier names; a class kept its name where none is given.
_MODULES = {
    "lmrecipes.callbacks.accuracy": "lmrecipes.callbacks.text_accuracy",
    "lmrecipes.callbacks.answers": "lmrecipes.callbacks.squad_answers",
    "lmrecipes.callbacks.fail_together": "lmrecipes.callbacks.fail_fast",
    "lmrecipes.callbacks.monitors": "lmrecipes.callbacks.check_monitors",
    "lmrecipes.callbacks.optimizer_settings": "lmrecipes.callbacks.optimizer_state",
    "lmrecipes.callbacks.progress": "lmrecipes.callbacks.console_log",
    "lmrecipes.callbacks.resume": "lmrecipes.callbacks.resume_log",
    "lmrecipes.callbacks.sudden_end": "lmrecipes.callbacks.fault_injection",
    "lmrecipes.callbacks.weights_from": "lmrecipes.callbacks.init_weights",
    "lmrecipes.checkpoint_io": "lmrecipes.checkpoints.io",
    "lmrecipes.data.squad_batches": "lmrecipes.data.tasks.squad.collators",
    "lmrecipes.models.electra.squad": "lmrecipes.models.electra.reader_module",
    "lmrecipes.models.mt5.decoding": "lmrecipes.models.common.generation",
    "lmrecipes.models.mt5.tuning": "lmrecipes.models.common.peft",
}
# Classes by their paths in these modules, where recipes name them by another.
_CLASSES = {
    f"lmrecipes.data.tasks.squad.collators.{name}": f"lmrecipes.datamodules.{name}"
    for name in ("SpanCollator", "TextCollator")
}
# Arguments by their earlier names, of the classes that had them.
_ARGUMENTS = {"lmrecipes.models.mt5.MT5Module": {"recompute": "activation_checkpointing"}}


def with_current_paths(content: Any) -> Any:
    """The configuration with every `class_path` and argument of an earlier version renamed."""
    if isinstance(content, list):
        return [with_current_paths(item) for item in content]
    if not isinstance(content, dict):
        return content
    renewed = {key: with_current_paths(value) for key, value in content.items()}
    if isinstance(path := renewed.get("class_path"), str):
        renewed["class_path"] = current_path(path)
        if isinstance(arguments := renewed.get("init_args"), dict):
            renewed["init_args"] = _current_arguments(renewed["class_path"], arguments)
    return renewed


def current_path(class_path: str) -> str:
    """The current path of a class."""
    module, _, name = class_path.rpartition(".")
    path = f"{_MODULES.get(module, module)}.{name}" if module else class_path
    return _CLASSES.get(path, path)


def _current_arguments(class_path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    names = _ARGUMENTS.get(class_path, {})
    renewed = {names.get(name, name): value for name, value in arguments.items()}
    if class_path == "lmrecipes.datamodules.DocumentsDataModule" and "masking" in renewed:
        masking = renewed.pop("masking")
        masked = {"class_path": "lmrecipes.datamodules.MaskedLM", "init_args": {"masking": masking}}
        renewed.setdefault("objective", None if masking is None else masked)
    return renewed
