"""A process without a home folder has a place for caches."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from lmrecipes.runtime.home import ensure_home


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without a home, whose temporary folder is tmp_path."""

    def expanduser(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "USER", "LMRECIPES_CACHE"):
        monkeypatch.delenv(name, raising=False)


def test_a_user_without_a_home_gets_a_private_one_that_is_named(nobody, tmp_path, capsys):
    ensure_home()
    home = Path(os.environ["HOME"])
    assert home.parent == tmp_path
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert f"{home}/.cache/lmrecipes; set LMRECIPES_CACHE" in capsys.readouterr().err


def test_a_folder_that_another_put_there_is_not_used(nobody, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"lmrecipes-home-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"belongs to another user.*; set HOME"):
        ensure_home()


def test_a_home_that_exists_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_home()
    assert os.environ["HOME"] == str(tmp_path)
