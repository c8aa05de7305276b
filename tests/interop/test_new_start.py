"""A new start in place, clients that are sent elsewhere, and sockets that somebody else has bound.

Whoever connects while the server starts anew waits, and is refused by nobody.
"""

import asyncio
import os
import shutil
import signal
import socket
import sys

import pytest

import contract
from raw import Raw
from usher import BINARY, START, Usher

HEADER = (
    "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    "to='localhost' version='1.0'>"
)

# Becomes the server with the sockets whose descriptors are its first argument, as systemd does.
ACTIVATE = """
import os, sys
given = [int(number) for number in sys.argv[1].split(',')]
high = [os.dup2(number, 100 + place, False) for place, number in enumerate(given)]
for place, number in enumerate(high):
    os.dup2(number, 3 + place)
os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_PID=str(os.getpid()),
                  LISTEN_FDNAMES=':'.join('usher.socket' for _ in high))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
async def usher(tmp_path):
    """With visitors who come as fast as they can."""
    server = Usher(tmp_path, "[limits]\nconnects_per_second = 0\n")
    await server.start()
    yield server
    if server.running:
        assert await server.stop() == 0
    assert not server.leaks()


class Visitors:
    """Connect one after another for as long as they are here, and note how that goes."""

    def __init__(self, port):
        self._port = port
        self.greeted = 0
        self.failed = []
        self._going = True

    async def _visit(self):
        while self._going:
            try:
                read, write = await asyncio.open_connection("127.0.0.1", self._port)
                write.write(HEADER.encode())
                async with asyncio.timeout(START):
                    answer = await read.read(4096)
                write.close()
            except (OSError, TimeoutError) as error:
                self.failed.append(repr(error))
                return
            if b"<stream:stream" not in answer:
                self.failed.append(f"was told {answer}")
                return
            self.greeted += 1

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._visit()) for _ in range(4)]
        return self

    async def __aexit__(self, *_):
        self._going = False
        await asyncio.gather(*self._tasks)


async def born(usher):
    """When the server that answers now was started; none if there is no answer."""
    done = await usher.cli("status", "--json")
    return done.json()["started"] if done.status == contract.DONE else None


async def new_start(usher, ask):
    """Asks for a new start and waits for the server that comes of it."""
    before = await born(usher)
    await ask()
    async with asyncio.timeout(START):
        while (await born(usher)) in (before, None):
            assert usher.process.returncode is None, usher.log.read_text()
            await asyncio.sleep(0.05)


def descriptors(usher):
    """What the server has open, but for connections that come and go."""
    base = f"/proc/{usher.process.pid}/fd"
    found = []
    for number in os.listdir(base):
        try:
            found.append(os.readlink(f"{base}/{number}"))
        except FileNotFoundError:
            pass
    return sorted(name.split(":")[0] for name in found)


@pytest.mark.parametrize("kind", ["slixmpp"])
async def test_nobody_is_refused_while_the_server_starts_anew(usher, clients, kind):
    async def by_signal():
        usher.process.send_signal(signal.SIGUSR2)

    async def by_command():
        await usher.ok("restart")

    jid, password = await usher.account("alice")
    pid = usher.process.pid
    counts = []
    async with Visitors(usher.door.c2s) as visitors:
        for ask in (by_signal, by_command, by_signal):
            client = await clients(kind, jid, password).online()
            greeted = visitors.greeted
            await new_start(usher, ask)
            error = await client.expect("stream-error")
            assert error["condition"] == contract.SHUTDOWN
            await client.closed()
            async with asyncio.timeout(START):
                while visitors.greeted <= greeted + 4 and not visitors.failed:
                    await asyncio.sleep(0.01)
            counts.append(len(usher.events("restarting")))
    assert visitors.failed == []
    assert counts == [1, 2, 3]
    assert (usher.process.pid, usher.process.returncode) == (pid, None)
    # The account is still there.
    await clients(kind, jid, password).online()


async def test_a_new_start_leaves_nothing_open(usher):
    async def ask():
        await usher.ok("restart")

    await new_start(usher, ask)
    once = descriptors(usher)
    await new_start(usher, ask)
    await new_start(usher, ask)
    async with asyncio.timeout(START):
        while len(descriptors(usher)) > len(once):
            await asyncio.sleep(0.05)


async def test_what_cannot_start_is_refused_and_harms_nobody(tmp_path):
    usher = Usher(tmp_path)
    program = tmp_path / "usher"
    shutil.copy(BINARY, program)
    await usher.start(program)
    try:
        before = await born(usher)
        settings = usher.config.read_text()
        usher.config.write_text(settings + "[listn]\n")
        # The command line reads that file itself, so it is asked by a signal.
        usher.process.send_signal(signal.SIGUSR2)
        async with asyncio.timeout(START):
            while not usher.events("restart-refused.*unknown key"):
                await asyncio.sleep(0.05)
        usher.config.write_text(settings)

        program.unlink()
        done = await usher.cli("restart")
        assert done.status == contract.FAILED, str(done)
        assert "hint: put the program back in its place" in done.err
        assert await born(usher) == before

        # Another one at its place, as an upgrade leaves it.
        shutil.copy(BINARY, program)

        async def ask():
            await usher.ok("restart")

        await new_start(usher, ask)
        assert os.readlink(f"/proc/{usher.process.pid}/exe") == str(program)
    finally:
        assert await usher.stop() == 0


def bound(count):
    """Listening sockets as systemd makes them."""
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


def configure(usher, sockets):
    ports = [one.getsockname()[1] for one in sockets]
    text = usher.config.read_text()
    for old, new in zip((usher.door.c2s, usher.door.c2s_tls), ports):
        text = text.replace(f":{old}\"", f":{new}\"")
    usher.config.write_text(text)
    return ports


async def activate(usher, sockets, **environment):
    """Starts the server with these sockets."""
    for one in sockets:
        one.set_inheritable(True)
    numbers = ",".join(str(one.fileno()) for one in sockets)
    with usher.log.open("ab") as log:
        usher.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ACTIVATE, numbers, str(BINARY)),
            *("serve", "--config", str(usher.config)),
            cwd=usher.base,
            env={**os.environ, **environment},
            pass_fds=[one.fileno() for one in sockets],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


async def test_sockets_of_the_service_manager_are_used_and_it_is_told(tmp_path):
    usher = Usher(tmp_path)
    sockets = bound(2)
    ports = configure(usher, sockets)
    told = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(told))
        ear.setblocking(False)

        async def hear(*wanted):
            async with asyncio.timeout(START):
                while wanted:
                    lines = (await asyncio.get_running_loop().sock_recv(ear, 4096)).decode()
                    wanted = [word for word in wanted if word not in lines.split()]

        # Comes before there is a server at all, and waits.
        read, write = await asyncio.open_connection("127.0.0.1", ports[0])
        write.write(HEADER.encode())
        await activate(
            usher, sockets, NOTIFY_SOCKET=str(told), WATCHDOG_USEC="200000", WATCHDOG_PID=""
        )
        for one in sockets:
            one.close()
        await hear("READY=1")
        async with asyncio.timeout(START):
            assert b"<stream:stream" in await read.read(4096)
        write.close()
        await hear("WATCHDOG=1")
        await hear("WATCHDOG=1")
        await usher.ok("restart")
        await hear("RELOADING=1")
        await hear("READY=1")
        async with Visitors(ports[0]) as visitors:
            while not visitors.greeted and not visitors.failed:
                await asyncio.sleep(0.01)
        assert visitors.failed == []
        await usher.ok("stop")
        await hear("STOPPING=1")
        assert await usher.gone() == 0


async def test_a_socket_that_nothing_is_configured_for_is_an_error(tmp_path):
    usher = Usher(tmp_path)
    sockets = bound(3)
    configure(usher, sockets[:2])
    await activate(usher, sockets)
    async with asyncio.timeout(START):
        assert await usher.process.wait() == 1
    usher.process = None
    text = usher.log.read_text()
    extra = sockets[2].getsockname()[1]
    assert f"127.0.0.1:{extra}" in text and "hint: " in text, text
    for one in sockets:
        one.close()


async def test_clients_are_sent_elsewhere_when_the_server_stops(usher):
    jid, password = await usher.account("alice")
    here = [await Raw.bound(usher.door, jid, password, resource=f"r{i}") for i in range(3)]
    for wrong in (["--move-to", "2001:db8::1"], ["--rate", "5"], ["--move-to", "b", "--rate", "0"]):
        assert (await usher.cli("stop", *wrong)).status == contract.USAGE, wrong
    await usher.ok("stop", "--move-to", "b.example:5222", "--rate", "1000")
    for client in here:
        assert ">b.example:5222</see-other-host>" in await client.rest()
    assert await usher.gone() == 0


async def test_a_signal_cuts_short_what_would_take_hours(usher):
    jid, password = await usher.account("alice")
    here = [await Raw.bound(usher.door, jid, password, resource=f"r{i}") for i in range(9)]
    await usher.ok("stop", "--move-to", "b.example", "--rate", "1")
    async with asyncio.timeout(START):
        while not usher.events("moving"):
            await asyncio.sleep(0.01)
    assert await usher.stop() == 0
    told = [await client.rest() for client in here]
    assert all("see-other-host" in text or "system-shutdown" in text for text in told), told
    assert sum("system-shutdown" in text for text in told) > 0
