"""The directory: who a key belongs to, and when it stops working."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from traghetto.accounts.directory import Directory, DirectoryRefusal, NewKey
from traghetto.accounts.pepper import PepperUnusable, read_or_create_pepper
from traghetto.accounts.values import KeyKind, ModelPrivacy
from traghetto.clock import ManualClock
from traghetto.ids import INFERENCE_KEY_PREFIX, new_api_key
from traghetto.money import LimitPeriod, SpendLimits
from traghetto.storage.memory import MemoryDisk, MemoryStore

DAY = "E:2026-01-01"
PEPPER = b"pepper" * 8


def open_directory(
    disk: MemoryDisk, clock: ManualClock | None = None, pepper: bytes = PEPPER
) -> Directory:
    store = MemoryStore(disk)
    return Directory(store, clock or ManualClock(), pepper, store.load(DAY))


async def with_key(directory: Directory, **members: object) -> NewKey:
    account, _ = directory.create_account("acme")
    created = directory.create_key(account.id, KeyKind.INFERENCE, **members)  # type: ignore[arg-type]
    await created.durable
    return created


def test_a_key_is_found_by_its_secret_only() -> None:
    """The right secret finds key and account; a well-formed stranger and junk find nothing."""

    async def run() -> None:
        directory = open_directory(MemoryDisk())
        created = await with_key(directory)
        found = directory.authenticate(created.secret)
        assert found is not None
        key, account = found
        assert (key, account.name) == (created.key, "acme")
        assert directory.authenticate(new_api_key(INFERENCE_KEY_PREFIX)) is None
        assert directory.authenticate(created.secret[:-1]) is None
        assert directory.authenticate("") is None

    asyncio.run(run())


def test_the_secret_is_not_stored() -> None:
    """Nothing on the disk contains the secret, and another pepper does not recognise it."""

    async def run() -> None:
        disk = MemoryDisk()
        created = await with_key(open_directory(disk))
        assert created.secret not in repr(disk.load(DAY))
        assert open_directory(disk).authenticate(created.secret) is not None
        assert open_directory(disk, pepper=b"x" * 32).authenticate(created.secret) is None

    asyncio.run(run())


def test_everything_about_a_key_survives_a_restart() -> None:
    """Limits, privacy, expiry and entitlements are what they were."""

    async def run() -> None:
        disk = MemoryDisk()
        directory = open_directory(disk)
        created = await with_key(
            directory,
            description="ci",
            limits=SpendLimits(5, 0, LimitPeriod.LIFETIME),
            model_privacy=ModelPrivacy.PRIVATE_ONLY,
            expires_at_ns=2**62,
            openai_errors=True,
        )
        account = replace(
            directory.account("acme"), is_pro=True, tier="partner", features=frozenset({"x", "y"})
        )
        await directory.save_account(account)
        assert open_directory(disk).authenticate(created.secret) == (created.key, account)

    asyncio.run(run())


def test_a_revoked_key_is_dead_at_once_and_for_good() -> None:
    """It fails before the change is durable, and still after a restart; it cannot be named again."""

    async def run() -> None:
        disk = MemoryDisk()
        directory = open_directory(disk)
        created = await with_key(directory)
        durable = directory.revoke_key(created.key.id)
        assert directory.authenticate(created.secret) is None
        assert directory.keys() == []
        await durable
        assert open_directory(disk).authenticate(created.secret) is None
        with pytest.raises(DirectoryRefusal, match="no key"):
            directory.revoke_key(created.key.id)

    asyncio.run(run())


def test_a_key_expires_by_the_clock() -> None:
    """Valid before its time, unknown from that instant on."""

    async def run() -> None:
        clock = ManualClock()
        directory = open_directory(MemoryDisk(), clock)
        created = await with_key(directory, expires_at_ns=clock.utc_ns() + 10**9)
        clock.advance(0.999)
        assert directory.authenticate(created.secret) is not None
        clock.advance(0.001)
        assert directory.authenticate(created.secret) is None

    asyncio.run(run())


def test_accounts_have_one_name_each() -> None:
    """A name is taken once; accounts are found by name and by id."""

    async def run() -> None:
        directory = open_directory(MemoryDisk())
        account, durable = directory.create_account("acme")
        await durable
        assert directory.account("acme") == directory.account(account.id) == account
        for name in ("acme", "", account.id):
            with pytest.raises(DirectoryRefusal, match="choose another"):
                directory.create_account(name)
        with pytest.raises(DirectoryRefusal, match="accounts list"):
            directory.account("nobody")

    asyncio.run(run())


def test_the_pepper_is_created_once_and_kept_private(tmp_path: Path) -> None:
    """32 random bytes in a 0600 file; a file others can read, or a short one, is refused."""
    path = tmp_path / "pepper"
    pepper = read_or_create_pepper(path)
    assert len(pepper) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_or_create_pepper(path) == pepper
    path.chmod(0o644)
    with pytest.raises(PepperUnusable, match="chmod 600"):
        read_or_create_pepper(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(PepperUnusable, match="at least 32"):
        read_or_create_pepper(path)
