"""Fixtures: a server, clients that are closed at the end, and the pairs of kinds.

Each test has a server of its own on an empty data directory. When it is over, the whole run is
searched for secrets: the server's log, what the commands printed, and every file it stored.
"""

import asyncio
import shutil
from pathlib import Path

import pytest

from chrome import chromium
from client import Dropped
from slix import SlixClient
from usher import BINARY, Usher
from xmppjs import MODULES, SCRIPT, XmppJsClient, runtime

KINDS = {kind.kind: kind for kind in (SlixClient, XmppJsClient)}
# What makes their streams outlive a connection.
LASTING = {"slixmpp": {"managed": True}, "@xmpp/client": {"modern": True}}
PAIRS = [(one, other) for one in KINDS for other in KINDS]


def pytest_sessionstart(session):
    for needed, remedy in (
        (BINARY, "run `cargo build`"),
        (runtime(), "run `./test interop`, which installs it"),
        (Path(chromium() or "chromium"), "run `./test interop` as root on Debian, or install it"),
    ):
        if not needed.exists():
            pytest.exit(f"{needed} is missing: {remedy}", returncode=4)
    # Modules are looked for beside the script, and they are not kept in the source tree.
    shutil.copyfile(SCRIPT, MODULES / SCRIPT.name)


def pytest_generate_tests(metafunc):
    """Runs a test for each `kind`, `tls` or `pair` that it takes, unless it names its own."""
    own = {
        name.strip()
        for mark in metafunc.definition.iter_markers("parametrize")
        for name in mark.args[0].split(",")
    }
    for name, values in (
        ("kind", list(KINDS)),
        ("tls", ["starttls", "direct"]),
        ("pair", [pytest.param(pair, id="+".join(pair)) for pair in PAIRS]),
    ):
        if name in metafunc.fixturenames and name not in own:
            metafunc.parametrize(name, values)


@pytest.fixture
async def usher(tmp_path, request):
    """With further settings, if the test is marked with `settings`."""
    marked = request.node.get_closest_marker("settings")
    server = Usher(tmp_path, marked.args[0] if marked else "")
    await server.start()
    yield server
    if server.running:
        status = await server.stop()
        assert status == 0, f"exit {status} on SIGTERM:\n{server.log.read_text()[-4000:]}"
    assert not server.leaks()


@pytest.fixture
async def stranger(tmp_path):
    """A second server, with a certificate of its own for the same name."""
    (tmp_path / "stranger").mkdir()
    server = Usher(tmp_path / "stranger")
    await server.start()
    yield server
    await server.stop()


class Crowd:
    """Makes clients, and closes them when the test is over."""

    def __init__(self, usher):
        self._usher = usher
        self._made = []

    def __call__(self, kind, jid, secret, **options):
        client = KINDS[kind](self._usher.door, jid, secret, **options)
        self._made.append(client)
        return client

    async def friends(self, pair, *, resources=("desk", "phone"), lasting=False):
        """Two clients, online, each with a subscription to the other; nothing left in a backlog.

        `lasting`: with streams that can be resumed.
        """
        kind_a, kind_b = pair
        one, other = (LASTING[kind] if lasting else {} for kind in pair)
        alice = self(kind_a, *await self._usher.account("alice"), resource=resources[0], **one)
        bob = self(kind_b, *await self._usher.account("bob"), resource=resources[1], **other)
        await alice.online()
        await bob.online()
        await befriend(alice, bob)
        for one in (alice, bob):
            await one.barrier()
            one.backlog.clear()
        return alice, bob

    async def close(self):
        for client in self._made:
            try:
                await client.cut()
            except (Dropped, asyncio.CancelledError, RuntimeError):
                pass  # It is gone already: that is what was asked for.
            if isinstance(client, XmppJsClient):
                await client.stop()


async def befriend(one, other):
    """The dialogue of RFC 6121 section 3.1, both ways, by the clients themselves."""
    for asking, asked in ((one, other), (other, one)):
        await asking.presence(to=asked.bare, kind="subscribe")
        await asked.expect("presence", type="subscribe", **{"from": asking.bare})
        await asked.presence(to=asking.bare, kind="subscribed")
        await asking.expect("presence", type="subscribed", **{"from": asked.bare})
        await asking.expect("presence", type=None, **{"from": asked.jid})
    for client, contact in ((one, other), (other, one)):
        await client.expect(
            "roster-push", jid=contact.bare, contact=lambda c: c.subscription == "both"
        )


@pytest.fixture
async def clients(usher):
    crowd = Crowd(usher)
    yield crowd
    await crowd.close()
