"""A callback that notes what it is told."""

from lightning.pytorch import Callback

from lmrecipes.fabric.loop import HOOKS

HEARD = set()


class Hearing(Callback):
    """Notes the hooks that are called, and has one that Fabric's loop never calls."""

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        HEARD.add("on_train_epoch_end")


def _noting(hook):
    return lambda self, *rest, **more: HEARD.add(hook)


for _hook in HOOKS - {"state_dict", "load_state_dict"}:
    setattr(Hearing, _hook, _noting(_hook))
