from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trainvitals.tls import check_tls


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key."""
    return made_pair(tmp_path_factory.mktemp("pair"))


def made_pair(folder: Path, *options: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    made_of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]
    made_of += ["-addext", "subjectAltName = IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", *made_of, *files, *(options or ["-noenc"])]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_a_certificate_and_its_key_are_a_pair_and_none_is_no_tls(pair: tuple[Path, Path]) -> None:
    assert check_tls(*pair)
    assert not check_tls(None, None)


def test_one_without_the_other_is_refused(pair: tuple[Path, Path]) -> None:
    for certificate, key in ((pair[0], None), (None, pair[1])):
        with pytest.raises(ValueError, match="--tls-cert and --tls-key go together"):
            check_tls(certificate, key)


def test_what_is_no_pair_is_said_and_nobody_is_asked_for_a_password(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    _, other_key = made_pair(tmp_path)
    (tmp_path / "no.pem").write_text("nothing")
    (tmp_path / "locked").mkdir()
    locked = made_pair(tmp_path / "locked", "-passout", "pass:secret")

    for certificate, key, said in (
        (pair[0], other_key, "the key is not that of the certificate"),
        (pair[0], tmp_path / "no.pem", "not in PEM form|damaged"),
        (tmp_path / "no.pem", pair[1], "not in PEM form|damaged"),
        (pair[0], tmp_path / "none", r"--tls-key .*/none cannot be read \(No such file or directory\)"),
        (tmp_path, pair[1], r"--tls-cert .* cannot be read \(Is a directory\)"),
        (*locked, "the key has a password"),
    ):
        with pytest.raises(ValueError, match=said):
            check_tls(certificate, key)
