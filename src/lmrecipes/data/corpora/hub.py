"""The Hugging Face hub: which files a data set has, and downloading them."""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path


def newest_commit(repository: str, revision: str | None) -> str | None:
    """The commit of a dataset's revision; None if the hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(repository, revision=revision).sha
    except Exception:  # without a network what was downloaded before may still do
        return None


def repository_files(
    repository: str, config: str | None, commit: str | None, named: str | None = None
) -> list[tuple[str, int]]:
    """Names and sizes of a dataset's training files, without downloading them.

    Args:
        repository: name on the hub.
        config: folder of the repository; left out, all of it.
        commit: branch, tag or commit; left out, the newest.
        named: pattern that the files' names in that folder must match; left out, those for training.

    Raises:
        ValueError: if the hub cannot be asked.
    """
    folder = f"{config}/" if config else ""
    try:
        listed = _listed(repository, commit)
    except Exception as error:
        raise ValueError(not_loaded(repository, config, commit, error, "a source's path")) from error
    files = [file for file in listed if file[0].startswith(folder)]
    if named is not None:
        return [file for file in files if fnmatchcase(file[0].removeprefix(folder), named)]
    training = [file for file in files if "train" in file[0].removeprefix(folder)]
    return training or files


@cache
def _listed(repository: str, commit: str | None) -> list[tuple[str, int]]:
    """Names and sizes of all files, cached."""
    from huggingface_hub import HfApi

    found = HfApi().dataset_info(repository, revision=commit, files_metadata=True).siblings or []
    return sorted((file.rfilename, int(file.size or 0)) for file in found)


def download(repository: str, name: str, commit: str | None) -> Path:
    """One file of a data set, from the hub or from what was downloaded before.

    Raises:
        ValueError: if it cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(hf_hub_download(repository, name, revision=commit, repo_type="dataset"))
    except Exception as error:
        raise ValueError(not_loaded(repository, name, commit, error, "a source's path")) from error


def not_loaded(repository: str, what: str | None, revision: str | None, error: Exception, instead: str) -> str:
    """What to say of a repository that cannot be reached."""
    at = f" at revision {revision}" if revision else ""
    return (
        f"{repository} ({what}){at} could not be loaded from the Hugging Face hub ({type(error).__name__}); "
        f"run `lmrecipes prepare` where there is a network, or give local files with {instead}"
    )


_HUB = "hf://datasets/"


def local_file(path: str) -> Path:
    """A file by its path, or downloaded by its address on the Hugging Face hub.

    Args:
        path: `FOLDER/train.json`, or `hf://datasets/OWNER/NAME[@REVISION]/train.parquet`.

    Raises:
        ValueError: if it is not there, or cannot be downloaded.
    """
    if not path.startswith(_HUB):
        found = Path(path).expanduser()
        if not found.is_file():
            raise ValueError(f"{path} is no file; give a file in SQuAD format, or {_HUB}OWNER/NAME/FILE")
        return found
    owner, _, rest = path.removeprefix(_HUB).partition("/")
    name, _, file = rest.partition("/")
    name, _, revision = name.partition("@")
    if not (owner and name and file):
        raise ValueError(f"{path} is no address on the hub; one is like {_HUB}OWNER/NAME/FILE")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(f"{owner}/{name}", file, repo_type="dataset", revision=revision or None))
    except Exception as error:
        raise ValueError(
            f"{path} could not be had from the Hugging Face hub ({type(error).__name__}); run `lmrecipes prepare` "
            f"where there is a network, or give a local file"
        ) from error
