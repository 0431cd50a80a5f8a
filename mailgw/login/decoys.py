"""What is compared where there is no such user: it takes the time and has the looks of what most users have."""

import hmac
from collections import Counter

from attrs import define, field

from mailgw.credentials import ScramVerifier
from mailgw.login.schemes import StoredPassword, read_stored

__all__ = ["Decoys"]

_MOST_KINDS = 100
_UNSEEN = read_stored(
    "$argon2id$v=19$m=65536,t=3,p=4$Z5Pvnw3cwAxPzs2wd5WZfQ$ih57dIjLGl7vEY9BUASJ5k7YECd7grOLJFJOx2Xjozw"  # of a password nobody has
)
_UNSEEN_SCRAM = (100_000, 16)  # iterations, octets of salt


@define(eq=False)
class Decoys:
    """Sees what is kept of real users' passwords, and gives what is most like it."""

    secret: bytes = field(repr=False)  # no user knows it; the same in all processes, today and tomorrow
    _kinds: Counter[tuple[str, str]] = field(factory=Counter, init=False)
    _examples: dict[tuple[str, str], StoredPassword] = field(factory=dict, init=False, repr=False)
    _scram: Counter[tuple[str, int, int]] = field(factory=Counter, init=False)

    def see(self, stored: StoredPassword) -> None:
        """Take notice of a real one."""
        kind = stored.scheme, stored.cost
        if stored.scheme == "locked" or (len(self._kinds) >= _MOST_KINDS and kind not in self._kinds):
            return
        self._kinds[kind] += 1
        self._examples.setdefault(kind, stored)
        if stored.verifier is not None:
            self._scram[stored.verifier.hash_name, stored.verifier.iterations, len(stored.verifier.salt)] += 1

    @property
    def password(self) -> StoredPassword:
        """One of those that cost what most cost: whether it is right must count for nothing."""
        for kind, _ in self._kinds.most_common(1):
            return self._examples[kind]
        return _UNSEEN

    def verifier(self, key: str, hash_name: str) -> ScramVerifier:
        """A verifier for a user who has none: always the same for one key, and not to be told from a real one."""
        shapes = (shape[1:] for shape, _ in self._scram.most_common() if shape[0] == hash_name)
        iterations, length = next(shapes, _UNSEEN_SCRAM)
        size = 20 if hash_name == "SHA-1" else 32
        salt, keys = (hmac.digest(self.secret, f"{hash_name} {part} {key}".encode(), "sha512") for part in ("salt", "keys"))
        return ScramVerifier(hash_name, salt[:length], iterations, keys[:size], keys[32 : 32 + size], made_up=True)
