"""Hashes of passwords, those of imported accounts included."""

from __future__ import annotations

import bcrypt
import pytest

from karma.identity.passwords.hashes import DUMMY_HASH, Argon2Passwords

passwords = Argon2Passwords()


@pytest.mark.req("R-K-32")
class TestHashes:
    def test_a_new_hash_is_argon2id_and_salted(self) -> None:
        first, second = passwords.hash("correct horse"), passwords.hash("correct horse")
        assert first.startswith("$argon2id$")
        assert first != second
        assert passwords.verify(first, "correct horse")
        assert not passwords.verify(first, "correct house")
        assert not passwords.outdated(first, "correct horse")

    @pytest.mark.req("R-K-34")
    def test_bcrypt_hashes_of_imported_accounts_verify_and_are_outdated(self) -> None:
        old = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode()
        assert passwords.verify(old, "correct horse")
        assert not passwords.verify(old, "correct house")
        assert passwords.outdated(old, "correct horse")

    def test_a_long_password_verifies_as_bcrypt_cut_it(self) -> None:
        old = bcrypt.hashpw(b"p" * 72, bcrypt.gensalt(4)).decode()
        assert passwords.verify(old, "p" * 100)

    @pytest.mark.parametrize("broken", ["", "plain", "$2b$04$short", "$argon2id$v=19$broken"])
    def test_an_unreadable_hash_verifies_nothing(self, broken: str) -> None:
        assert not passwords.verify(broken, "correct horse")

    def test_other_parameters_are_outdated(self) -> None:
        assert passwords.outdated("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA", "")

    def test_the_dummy_costs_what_a_real_hash_costs_and_matches_nothing(self) -> None:
        assert not passwords.outdated(DUMMY_HASH, "password")
        assert not passwords.verify(DUMMY_HASH, "")
        assert not passwords.verify(DUMMY_HASH, "password")
