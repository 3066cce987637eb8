"""API keys: only hashes are kept, changes hold at once, and a rotation costs its holder nothing."""

import time

import pytest
from redis import Redis

from unet_factory.domain.errors import ApiKeyInvalid, ApiKeyUnknown
from unet_factory.platform.api_keys import KeyStore, Scope


@pytest.fixture
def keys(redis: Redis) -> KeyStore:
    return KeyStore(redis)


def accepted(keys: KeyStore, token: str, now: float | None = None) -> bool:
    found = keys.named_in(token)
    return found is not None and found.accepts(token, time.time() if now is None else now)


def test_only_the_key_itself_is_accepted_and_nothing_stored_gives_it_away(keys: KeyStore, redis: Redis) -> None:
    key, token = keys.create("archive", (Scope.SEGMENT,))
    other = keys.create("other", (Scope.SEGMENT,)).token
    assert accepted(keys, token)
    secret = token.rpartition("_")[2]
    wrong = (
        *("", "unf_", secret, token[:-1], token + "0", token.upper(), token[:-1] + ("0" if token[-1] != "0" else "1")),
        f"unf_{key.id}_{other.rpartition('_')[2]}",  # another key's secret
    )
    assert [text for text in wrong if accepted(keys, text)] == []
    stored = b"".join(redis.dump(name) or b"" for name in redis.keys("*"))
    assert key.id.encode() in stored
    assert secret.encode() not in stored
    assert next(found.id for found in keys.all()) == key.id


def test_a_rotated_key_holds_for_the_overlap_alone_and_stays_the_same_key(keys: KeyStore) -> None:
    key, first = keys.create("archive", (Scope.SEGMENT,))
    rotated, second = keys.rotate(key.id, overlap_s=60)
    assert (rotated.id, rotated.owner) == (key.id, key.owner)
    assert accepted(keys, first)
    assert accepted(keys, second)
    assert not accepted(keys, first, time.time() + 61)
    assert accepted(keys, second, time.time() + 61)
    third = keys.rotate(key.id, overlap_s=0).token
    assert [accepted(keys, token) for token in (first, second, third)] == [False, False, True]


def test_what_is_revoked_or_expired_ends_at_once_and_for_good(keys: KeyStore) -> None:
    revoked = keys.create("archive", (Scope.SEGMENT,))
    since = keys.revoke(revoked.key.id).revoked
    assert not accepted(keys, revoked.token)
    assert keys.revoke(revoked.key.id).revoked == since
    expired = keys.create("archive", (Scope.SEGMENT,), expires=time.time() - 1)
    assert not accepted(keys, expired.token)
    for key in (revoked.key, expired.key):
        with pytest.raises(ApiKeyInvalid, match="revoked or has expired"):
            keys.rotate(key.id, 60)


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.SEGMENT, {Scope.SEGMENT, Scope.READ}),
        (Scope.WEIGHTS, {Scope.WEIGHTS}),
        (Scope.READ, {Scope.READ}),
        (Scope.ADMIN, set(Scope)),
    ],
)
def test_a_scope_allows_what_it_says(keys: KeyStore, scope: Scope, allowed: set[Scope]) -> None:
    key = keys.create("archive", (scope,)).key
    assert {other for other in Scope if key.allows(other)} == allowed


def test_a_key_may_share_the_jobs_of_another(keys: KeyStore) -> None:
    first = keys.create("archive", (Scope.SEGMENT,)).key
    viewer = keys.create("viewer", (Scope.READ,), shares_jobs_of=first.id).key
    assert viewer.owner == first.id
    assert keys.create("viewer 2", (Scope.READ,), shares_jobs_of=viewer.id).key.owner == first.id
    with pytest.raises(ApiKeyUnknown, match="there is no API key 'none'"):
        keys.create("viewer 3", (Scope.READ,), shares_jobs_of="none")


@pytest.mark.parametrize("name", ["", " x", "x" * 65, "a\nb", "ümlaut"])
def test_a_name_is_plain(keys: KeyStore, name: str) -> None:
    with pytest.raises(ApiKeyInvalid):
        keys.create(name, (Scope.READ,))


def test_a_key_without_a_scope_is_none(keys: KeyStore) -> None:
    with pytest.raises(ApiKeyInvalid, match="segment, weights, read, admin"):
        keys.create("archive", ())
