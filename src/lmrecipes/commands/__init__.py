"""One file per command of `lmrecipes`, each with `run(argv) -> exit code`."""
