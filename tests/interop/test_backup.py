"""`usher backup`: a copy taken while the server works is a server's data of its own."""

import stat

import contract


async def test_a_backup_is_whole_and_is_restored_by_putting_it_in_place(usher, tmp_path):
    await usher.account("alice")
    copy = tmp_path / "copy.db"
    await usher.ok("backup", str(copy))
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    # It never overwrites one.
    again = await usher.cli("backup", str(copy))
    assert again.status == contract.FAILED
    assert "copy.db" in again.err
    await usher.account("came-later")

    await usher.stop()
    for file in usher.data.glob("usher.db*"):
        file.unlink()
    copy.rename(usher.data / "usher.db")
    await usher.start()
    names = [row["jid"].split("@")[0] for row in await usher.list("user", "list")]
    assert names == ["alice"]
