import pytest

from services.user_monitor.hash_key import load_key, renew_key
from shared.errors import ConfigError


def test_the_key_is_made_once_and_is_readable_by_its_owner_alone(tmp_path):
    path = tmp_path / "config" / "hash.key"
    key = load_key(path, tmp_path / "data")
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, tmp_path / "data") == key


def test_a_key_in_the_data_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="lies in the data folder"):
        load_key(tmp_path / "data" / "keys" / "hash.key", tmp_path / "data")


def test_a_damaged_key_is_not_replaced_silently(tmp_path):
    path = tmp_path / "hash.key"
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes"):
        load_key(path, tmp_path / "data")
    assert path.read_bytes() == b"short"


def test_a_key_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "hash.key"
    load_key(path, tmp_path / "data")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(path, tmp_path / "data")


def test_a_renewed_key_replaces_the_old_one_and_leaves_no_copy(tmp_path):
    path = tmp_path / "config" / "hash.key"
    old = load_key(path, tmp_path / "data")
    new = renew_key(path)
    assert new != old
    assert load_key(path, tmp_path / "data") == new
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["hash.key"]
