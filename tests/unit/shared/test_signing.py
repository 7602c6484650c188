"""Keys are private, made once, and never half written."""

import pytest

from shared.errors import ConfigError
from shared.signing import SigningKey, is_signed_by, read_public_key


def test_a_signature_fits_its_message_and_key_alone():
    key = SigningKey.generate()
    signature = key.sign(b"message")
    assert is_signed_by(key.public, b"message", signature)
    assert not is_signed_by(key.public, b"massage", signature)
    assert not is_signed_by(SigningKey.generate().public, b"message", signature)
    assert not is_signed_by(b"no key", b"message", signature)


def test_a_key_is_made_once_and_is_private(tmp_path):
    folder = tmp_path / "keys"
    first = SigningKey.load_or_create(folder)
    assert SigningKey.load_or_create(folder).public == first.public
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes["module-signing.key"] == 0o600
    assert set(modes) == {"module-signing.key", "module-signing.pub"}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_public_half_is_for_others_to_read(tmp_path):
    assert read_public_key(tmp_path) is None
    key = SigningKey.load_or_create(tmp_path)
    assert read_public_key(tmp_path) == key.public
    (tmp_path / "module-signing.pub").write_text("junk")
    assert read_public_key(tmp_path) is None


def test_a_lost_public_half_comes_back(tmp_path):
    key = SigningKey.load_or_create(tmp_path)
    (tmp_path / "module-signing.pub").unlink()
    SigningKey.load_or_create(tmp_path)
    assert read_public_key(tmp_path) == key.public


def test_a_key_that_others_can_read_is_refused(tmp_path):
    SigningKey.load_or_create(tmp_path)
    (tmp_path / "module-signing.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        SigningKey.load_or_create(tmp_path)


def test_a_file_that_is_no_key_is_refused(tmp_path):
    path = tmp_path / "module-signing.key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="no Ed25519 key"):
        SigningKey.load_or_create(tmp_path)


def test_a_key_does_not_show_itself():
    key = SigningKey.generate()
    assert key._private.private_bytes_raw().hex() not in repr(key)
