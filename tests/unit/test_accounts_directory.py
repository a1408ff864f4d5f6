"""The directory: who a key belongs to, and when it stops working."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from traghetto.accounts.directory import Directory, DirectoryRefusal, NewKey
from traghetto.accounts.pepper import PepperUnusable, open_pepper
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
            with pytest.raises(DirectoryRefusal, match=r"choose another|needs a name"):
                directory.create_account(name)
        with pytest.raises(DirectoryRefusal, match="accounts list"):
            directory.account("nobody")

    asyncio.run(run())


async def pepper_in(path: Path, disk: MemoryDisk) -> bytes:
    """What a start with these books and that file finds, once its proof is on the disk."""
    store = MemoryStore(disk)
    pepper = open_pepper(path, store, store.load(DAY))
    await store.aclose()
    return pepper


async def a_key_is_made(disk: MemoryDisk) -> None:
    store = MemoryStore(disk)
    directory = Directory(store, ManualClock(), PEPPER, store.load(DAY))
    account, _ = directory.create_account("acme")
    directory.create_key(account.id, KeyKind.INFERENCE)
    await store.aclose()


def test_the_pepper_is_created_once_and_kept_private(tmp_path: Path) -> None:
    """32 random bytes in a 0600 file; a file others can read, or a short one, is refused."""

    async def run() -> None:
        path, disk = tmp_path / "pepper", MemoryDisk()
        pepper = await pepper_in(path, disk)
        assert len(pepper) == 32
        assert path.stat().st_mode & 0o777 == 0o600
        assert await pepper_in(path, disk) == pepper
        path.chmod(0o644)
        with pytest.raises(PepperUnusable, match="chmod 600"):
            await pepper_in(path, disk)
        path.chmod(0o600)
        path.write_bytes(b"short")
        with pytest.raises(PepperUnusable, match="at least 32"):
            await pepper_in(path, disk)

    asyncio.run(run())


def test_books_with_keys_refuse_another_pepper(tmp_path: Path) -> None:
    """A swapped or missing pepper would turn every key away: it is refused, and none is made."""

    async def run() -> None:
        path, disk = tmp_path / "pepper", MemoryDisk()
        pepper = await pepper_in(path, disk)
        await a_key_is_made(disk)
        assert await pepper_in(path, disk) == pepper
        path.write_bytes(b"x" * 32)
        with pytest.raises(PepperUnusable, match=r"another pepper.*TRAGHETTO_PEPPER_FILE"):
            await pepper_in(path, disk)
        path.unlink()
        with pytest.raises(PepperUnusable, match=r"does not exist.*`pepper_file`"):
            await pepper_in(path, disk)
        assert not path.exists()
        path.write_bytes(pepper)
        path.chmod(0o600)
        assert await pepper_in(path, disk) == pepper
        assert pepper not in repr(disk.load(DAY)).encode("latin-1")

    asyncio.run(run())


def test_books_without_keys_take_the_pepper_they_are_given(tmp_path: Path) -> None:
    """Before the first key nothing depends on the pepper, so it may still be moved."""

    async def run() -> None:
        disk = MemoryDisk()
        first = await pepper_in(tmp_path / "one", disk)
        second = await pepper_in(tmp_path / "two", disk)
        assert first != second
        await a_key_is_made(disk)
        assert await pepper_in(tmp_path / "two", disk) == second
        with pytest.raises(PepperUnusable, match="another pepper"):
            await pepper_in(tmp_path / "one", disk)

    asyncio.run(run())


def test_older_books_remember_the_pepper_from_now_on(tmp_path: Path) -> None:
    """Keys from before there was a proof: the pepper that is there is believed, none is made."""

    async def run() -> None:
        path, disk = tmp_path / "pepper", MemoryDisk()
        await a_key_is_made(disk)
        with pytest.raises(PepperUnusable, match="does not exist"):
            await pepper_in(path, disk)
        path.write_bytes(PEPPER)
        path.chmod(0o600)
        assert await pepper_in(path, disk) == PEPPER
        path.write_bytes(b"x" * 32)
        with pytest.raises(PepperUnusable, match="another pepper"):
            await pepper_in(path, disk)

    asyncio.run(run())
