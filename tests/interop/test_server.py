"""Starting, configuring, asking and stopping the server."""

import asyncio
import os
import signal
import stat

import pytest

import contract
from usher import BINARY, Usher


async def test_the_example_configuration_checks_out(usher, tmp_path):
    example = await usher.ok("config", "example")
    path = tmp_path / "example.toml"
    path.write_text(example.out)
    usher.config = path
    await usher.ok("config", "check")


async def test_an_unknown_key_is_an_error_that_names_the_nearest(usher):
    usher.config.write_text(usher.config.read_text().replace("c2s_tls", "c2s_tsl"))
    done = await usher.cli("config", "check")
    assert done.status == contract.FAILED, str(done)
    assert "c2s_tsl" in done.err
    assert "c2s_tls" in done.err


async def test_a_port_in_use_is_one_clear_line(usher, tmp_path):
    (tmp_path / "second").mkdir()
    second = Usher(tmp_path / "second")
    text = second.config.read_text()
    second.config.write_text(text.replace(str(second.door.c2s), str(usher.door.c2s)))
    done = await second.cli("serve")
    assert done.status == contract.FAILED, str(done)
    assert str(usher.door.c2s) in done.err
    assert "panicked" not in done.err


async def test_commands_without_a_server_say_that_there_is_none(usher):
    await usher.stop()
    done = await usher.cli("session", "list")
    assert done.status == contract.FAILED
    assert "serve" in done.err, str(done)


async def test_files_that_hold_secrets_are_for_the_owner_alone(usher):
    await usher.account("alice")
    modes = {
        path.relative_to(usher.data): stat.S_IMODE(path.lstat().st_mode)
        for path in usher.data.rglob("*")
        if not path.is_dir() and path != usher.door.certificate
    }
    assert any(stat.S_ISSOCK(path.lstat().st_mode) for path in usher.data.rglob("*"))
    loose = {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077}
    directory = stat.S_IMODE(usher.data.stat().st_mode)
    assert not loose or not directory & 0o077, loose


async def test_what_changes_anything_is_audited_without_its_secrets(usher):
    jid, password = await usher.account("alice")
    token_id, _ = await usher.mint(jid, "--label", "phone")
    await usher.ok("token", "revoke", token_id)
    await usher.cli("user", "add", jid, "--password-stdin", input=password + "\n")
    await usher.sessions()
    entries = await usher.json("audit", "list")
    assert [(entry["what"], entry["ok"]) for entry in entries] == [
        ("user add", False),
        ("token revoke", True),
        ("token mint", True),
        ("user add", True),
    ]
    for entry in entries:
        assert contract.AUDIT_FIELDS <= entry.keys()
        assert entry["who"]
        assert password not in str(entry)


async def test_stop_does_what_sigterm_does(usher, clients, kind):
    client = await clients(kind, *await usher.account("alice")).online()
    await usher.ok("stop")
    error = await client.expect("stream-error")
    assert error["condition"] == contract.SHUTDOWN
    await client.closed()
    assert await usher.gone() == 0


async def test_a_second_server_on_the_same_data_is_refused(usher, tmp_path):
    (tmp_path / "second").mkdir()
    second = Usher(tmp_path / "second")
    text = second.config.read_text()
    second.config.write_text(text.replace(str(second.data), str(usher.data)))
    async with asyncio.timeout(30):
        done = await second.cli("serve")
    assert done.status == contract.FAILED, str(done)
    # And the first one has not been harmed.
    await usher.ok("session", "count")


@pytest.mark.parametrize("broken", ["stdout", "stderr"])
async def test_nobody_has_to_read_what_the_server_says(tmp_path, broken):
    """A full disk under the log, a reader that has gone: the server goes on without them."""
    usher = Usher(tmp_path)
    reader, gone = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:
        for sink in (gone, full):
            rest = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
            usher.process = await asyncio.create_subprocess_exec(
                *(BINARY, "serve", "--config", str(usher.config)), **(rest | {broken: sink})
            )
            async with asyncio.timeout(30):
                while (await usher.cli("status")).status != contract.DONE:
                    assert usher.process.returncode is None, f"exit {usher.process.returncode}"
                    await asyncio.sleep(0.05)
            # An act that is logged.
            await usher.cli("user", "add", "bob@localhost", "--password-stdin", input="x\n")
            await usher.ok("user", "show", "bob@localhost")
            assert await usher.stop() == 0
    os.close(gone)


async def test_the_log_has_colours_on_a_terminal_only(usher):
    await usher.account("alice")
    log = usher.log.read_text()
    assert "audit" in log
    assert "\x1b" not in log


@pytest.mark.parametrize("wrong", ["certificate", "listen", "key", "data_dir"])
async def test_the_last_line_says_why_it_does_not_start(usher, tmp_path, wrong):
    (tmp_path / "second").mkdir()
    second = Usher(tmp_path / "second")
    (tmp_path / "file").write_text("")
    settings = {
        "certificate": f'[tls]\ncertificate = "{tmp_path}"\nkey = "{tmp_path}"\n',
        "key": f'[tls]\ncertificate = "{usher.door.certificate}"\nkey = "{tmp_path}/nope"\n',
    }
    text = second.config.read_text() + settings.get(wrong, "")
    if wrong == "listen":
        text = text.replace(str(second.door.c2s), str(usher.door.c2s))
    if wrong == "data_dir":
        text = text.replace(str(second.data), str(tmp_path / "file"))
    second.config.write_text(text)
    done = await second.cli("serve")
    assert done.status == contract.FAILED, str(done)
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ") and last.count("; hint: ") == 1, str(done)
    assert last.count("os error") <= 1, "it says its cause twice"


async def test_a_dry_run_counts_what_would_end_though_nothing_does(usher):
    done = await usher.cli("session", "end", "--all", "--dry-run", "--json")
    assert done.status == contract.NO_MATCH
    assert done.json()[contract.DRY_RUN_COUNT] == 0
    assert contract.END_COUNT not in done.json()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
async def test_a_signal_that_comes_early_finds_the_server_ready_for_it(tmp_path, number):
    """The first word that it says is late enough: nothing is left to the system's default."""
    for attempt in range(5):
        (tmp_path / str(attempt)).mkdir()
        usher = Usher(tmp_path / str(attempt))
        usher.process = await asyncio.create_subprocess_exec(
            *(BINARY, "serve", "--config", str(usher.config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await usher.process.stdout.readuntil(b"listening")
        usher.process.send_signal(number)
        if number == signal.SIGHUP:
            await usher.process.stdout.readuntil(b"no account yet")
            usher.process.send_signal(signal.SIGTERM)
        assert await usher.gone() == 0
