import json
import stat
import subprocess

import pyrage
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from recovery.common.connections import Endpoint
from recovery.common.errors import KeyMaterialError
from recovery.crypto.key_kit import create_keys
from recovery.crypto.recipients import parse_identity, recipient_fingerprint
from recovery.crypto.signing import SigningKey, VerifyKey


def endpoint(password):
    return Endpoint("keys", password=password)


@pytest.fixture
def kit(tmp_path):
    return create_keys(tmp_path / "kit", "shop")


def test_create_keys_makes_a_kit_that_only_its_owner_can_read(kit):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in kit.folder.iterdir()}
    assert modes == {"identity.txt": 0o600, "signing.pem": 0o600, "public.pem": 0o644, "connections.json": 0o600}
    assert stat.S_IMODE(kit.folder.stat().st_mode) == 0o700


def test_create_keys_writes_connections_with_the_keys_of_the_kit(kit):
    connections = json.loads((kit.folder / "connections.json").read_text())
    assert set(connections) == {"shop_backup_identity", "shop_backup_signing"} == {kit.identity_connection, kit.signing_connection}
    passwords = {name: values["password"] for name, values in connections.items()}
    assert not any("\n" in password for password in passwords.values())
    assert str(parse_identity(endpoint(passwords["shop_backup_identity"])).to_public()) == kit.recipient
    assert SigningKey.from_endpoint(endpoint(passwords["shop_backup_signing"])).verify_key.fingerprint == kit.verify_key.fingerprint


def test_key_parsers_accept_whole_key_files_as_passwords(kit):
    text = (kit.folder / "identity.txt").read_text()
    for password in (text, text.replace("\n", "")):  # a browser's password field drops line breaks
        assert str(parse_identity(endpoint(password)).to_public()) == kit.recipient
    pem = (kit.folder / "signing.pem").read_text()
    for password in (pem, pem.replace("\n", "\r\n"), pem.replace("\n", "")):
        assert SigningKey.from_endpoint(endpoint(password)).verify_key.pem == kit.verify_key.pem
    public = (kit.folder / "public.pem").read_text()
    assert VerifyKey.from_pem(public).pem.decode() == VerifyKey.from_pem(public.splitlines()[1]).pem.decode() == public


def test_identity_of_the_kit_decrypts_with_stock_age(kit):
    sealed = pyrage.encrypt(b"hello", [pyrage.x25519.Recipient.from_str(kit.recipient)])
    opened = subprocess.run(["age", "-d", "-i", kit.folder / "identity.txt"], input=sealed, capture_output=True, check=True)
    assert opened.stdout == b"hello"


def test_signing_key_of_the_kit_works_with_stock_openssl(kit, tmp_path):
    public = subprocess.run(["openssl", "pkey", "-in", kit.folder / "signing.pem", "-pubout"], capture_output=True, check=True).stdout
    assert public == (kit.folder / "public.pem").read_bytes()
    (tmp_path / "data").write_bytes(b"some data")
    argv = ["openssl", "pkeyutl", "-sign", "-inkey", kit.folder / "signing.pem", "-rawin", "-in", tmp_path / "data"]
    signature = subprocess.run(argv, capture_output=True, check=True).stdout
    assert kit.verify_key.verifies(b"some data", signature)


def test_create_keys_never_overwrites_a_kit(kit):
    before = {path.name: path.read_bytes() for path in kit.folder.iterdir()}
    with pytest.raises(KeyMaterialError, match="never overwritten"):
        create_keys(kit.folder, "shop")
    (kit.folder / "identity.txt").unlink()
    with pytest.raises(KeyMaterialError, match=r"already has signing\.pem"):
        create_keys(kit.folder, "shop")
    after = {path.name: path.read_bytes() for path in kit.folder.iterdir()}
    assert after == {name: content for name, content in before.items() if name != "identity.txt"}


def test_signature_is_valid_only_for_its_data_and_its_key():
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = key.sign(b"data")
    assert key.verify_key.verifies(b"data", signature)
    assert not key.verify_key.verifies(b"Data", signature)
    assert not other.verify_key.verifies(b"data", signature)
    for wrong in (b"", signature[:-1], signature + b"x", bytes(64)):
        assert not key.verify_key.verifies(b"data", wrong)


def x25519_pem():
    key = X25519PrivateKey.generate()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


@pytest.mark.parametrize("password", ["", "secret", "AGE-SECRET-KEY-1", "MC4CAQAwBQYDK2VwBCIEIA==", "ä", x25519_pem()])
def test_key_parsers_refuse_invalid_keys_without_showing_the_password(password):
    for read in (parse_identity, SigningKey.from_endpoint):
        with pytest.raises(KeyMaterialError) as caught:
            read(endpoint(password))
        assert "'keys'" in caught.value.what
        assert not password or password not in str(caught.value) or password in "AGE-SECRET-KEY-1 Connection"


def test_parse_identity_refuses_two_identities():
    both = "\n".join(str(pyrage.x25519.Identity.generate()) for _ in range(2))
    with pytest.raises(KeyMaterialError, match="several age identities"):
        parse_identity(endpoint(both))


def test_verify_key_refuses_a_private_key():
    key = SigningKey.generate()
    with pytest.raises(KeyMaterialError, match="not an Ed25519 public key"):
        VerifyKey.from_pem(key.pem.decode())
    assert key.line not in repr(key)


def test_recipient_fingerprint_equals_the_result_of_stock_tools(kit):
    command = f"age-keygen -y {kit.folder / 'identity.txt'} | tr -d '\\n' | sha256sum | cut -c -16"
    stock = subprocess.run(["sh", "-c", command], capture_output=True, check=True, text=True).stdout
    assert recipient_fingerprint(kit.recipient) == stock.strip()
