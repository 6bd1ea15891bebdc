"""A callback that records which hooks are called."""

from lightning.pytorch import Callback

from lmrecipes.fabric.loop import HOOKS

CALLED = set()


class HookRecorder(Callback):
    """Records the hooks that are called; has one hook that Fabric's loop never calls."""

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        CALLED.add("on_train_epoch_end")


def _recording(hook):
    return lambda self, *rest, **more: CALLED.add(hook)


for _hook in HOOKS - {"state_dict", "load_state_dict"}:
    setattr(HookRecorder, _hook, _recording(_hook))
