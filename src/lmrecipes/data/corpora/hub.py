"""The Hugging Face hub: which files a data set has, and downloading them."""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

_HUB = "hf://datasets/"


class NoFileError(ValueError):
    """A path of a recipe is no file."""


def newest_commit(repository: str, revision: str | None) -> str | None:
    """The commit of a dataset's revision; None if the hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(repository, revision=revision).sha
    except Exception:  # without a network, what was downloaded before may suffice
        return None


def repository_files(
    repository: str, config: str | None, commit: str | None, named: str | None = None
) -> list[tuple[str, int]]:
    """Names and sizes of a dataset's training files, without downloading them.

    Args:
        repository: name on the hub.
        config: folder of the repository; left out, all of it.
        commit: branch, tag or commit; left out, the newest.
        named: pattern of the files' names in that folder; left out, those for training.

    Raises:
        ValueError: if the hub cannot be reached.
    """
    folder = f"{config}/" if config else ""
    try:
        files = [file for file in _listed(repository, commit) if file[0].startswith(folder)]
    except Exception as error:
        raise ValueError(not_loaded(repository, config, commit, error, "a source's path")) from error
    if named is not None:
        return [file for file in files if fnmatchcase(file[0].removeprefix(folder), named)]
    training = [file for file in files if "train" in file[0].removeprefix(folder)]
    return training or files


@cache
def _listed(repository: str, commit: str | None) -> list[tuple[str, int]]:
    """Names and sizes of all files."""
    from huggingface_hub import HfApi

    files = HfApi().dataset_info(repository, revision=commit, files_metadata=True).siblings or []
    return sorted((file.rfilename, int(file.size or 0)) for file in files)


def download(repository: str, name: str, commit: str | None, instead: str = "a source's path") -> Path:
    """One file of a data set, from the hub or from what was downloaded before.

    Args:
        repository: name on the hub.
        name: of the file.
        commit: branch, tag or commit; left out, the newest.
        instead: option for local files, for the error.

    Raises:
        ValueError: if it cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(hf_hub_download(repository, name, revision=commit, repo_type="dataset"))
    except Exception as error:
        raise ValueError(not_loaded(repository, name, commit, error, instead)) from error


def not_loaded(repository: str, part: str | None, revision: str | None, error: Exception, instead: str) -> str:
    """The message for a repository that cannot be loaded; `instead` is the option for local files."""
    at = f" at revision {revision}" if revision else ""
    return (
        f"{repository} ({part}){at} could not be loaded from the Hugging Face hub ({type(error).__name__}); "
        f"run `lmrecipes prepare` where there is a network, or give local files with {instead}"
    )


def local_file(path: str) -> Path:
    """A file by its path, or downloaded by its address on the Hugging Face hub.

    Args:
        path: `FOLDER/train.json`, or `hf://datasets/OWNER/NAME[@REVISION]/train.parquet`.

    Raises:
        NoFileError: if it does not exist.
        ValueError: if it cannot be downloaded.
    """
    if not path.startswith(_HUB):
        file = Path(path).expanduser()
        if not file.is_file():
            raise NoFileError(f"{path or 'an empty path'} is not a file; give a local file, or {_HUB}OWNER/NAME/FILE")
        return file
    owner, _, rest = path.removeprefix(_HUB).partition("/")
    name, _, file_name = rest.partition("/")
    name, _, revision = name.partition("@")
    if not (owner and name and file_name):
        raise ValueError(f"{path} is not an address on the hub; give one like {_HUB}OWNER/NAME/FILE")
    return download(f"{owner}/{name}", file_name, revision or None, "a path in place of the address")


def file_identity(path: str) -> tuple[str, int, int] | tuple[()]:
    """Resolved path, size and modification time of a local file; empty for the hub's and embedded ones."""
    if "://" in path or path.startswith("embedded:"):
        return ()
    file = local_file(path)
    return str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns
