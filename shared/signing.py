"""Ed25519 keys and signatures; the only file that names the cryptography library.

Reads and writes one private key file (mode 0600) in a folder that the caller gives. The trainer
alone holds the private key; runners know public keys, as 32 raw bytes.
"""

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import ConfigError
from shared.secret_files import keep_secret

__all__ = ["PUBLIC_KEY_BYTES", "SIGNATURE_BYTES", "SigningKey", "is_signed_by", "read_public_key"]

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_KEY_FILE = "module-signing.key"
_PUBLIC_FILE = "module-signing.pub"


class SigningKey:
    """Hold a private key; it shows itself in no repr and leaves only through its file."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def generate(cls) -> "SigningKey":
        """Return a new key that is on no disk."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, folder: Path) -> "SigningKey":
        """Return the folder's key, made on first use (0600; the public half beside it).

        Raises ConfigError if the file is readable by others or is no key.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / _KEY_FILE
        if not path.exists():
            keep_secret(path, cls.generate()._private.private_bytes_raw())
        key = cls._load(path)
        if read_public_key(folder) != key.public:
            (folder / _PUBLIC_FILE).write_text(key.public.hex() + "\n")
        return key

    @classmethod
    def _load(cls, path: Path) -> "SigningKey":
        if path.stat().st_mode & 0o077:
            raise ConfigError(
                f"{path} can be read by other accounts: chmod 600 it, or make a new key"
            )
        data = path.read_bytes()
        if len(data) != PUBLIC_KEY_BYTES:
            raise ConfigError(f"{path} is no Ed25519 key ({len(data)} bytes, not 32): move it away")
        return cls(Ed25519PrivateKey.from_private_bytes(data))

    @property
    def public(self) -> bytes:
        """Return the public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the message's signature, 64 bytes."""
        return self._private.sign(message)


def read_public_key(folder: Path) -> bytes | None:
    """Return the public key of the signer whose folder this is, or None while there is none."""
    try:
        public = bytes.fromhex((folder / _PUBLIC_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return public if len(public) == PUBLIC_KEY_BYTES else None


def is_signed_by(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is that of `message` under `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
