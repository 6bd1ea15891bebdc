"""The script for `fabric run`: `fabric run ... src/lmrecipes/fabric/__main__.py fit --config RECIPE`."""

import sys

if __name__ == "__main__":
    # Python puts a script's folder first on its path, where `loop` and `checkpoint` would shadow other packages.
    sys.path.pop(0)
    from lmrecipes.__main__ import command

    sys.argv.insert(1, "fabric")
    command()
