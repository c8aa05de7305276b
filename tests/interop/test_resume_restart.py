"""The server stops or starts anew, and streams that can be resumed go on as if nothing had been.

What `kill -9` leaves is another matter: the last tests say what is kept then, and what is not.
"""

import asyncio
import re
import signal

import pytest

import contract
from conftest import LASTING
from raw import Raw
from usher import START

MANY = 10


async def sigterm(usher):
    assert await usher.stop() == 0
    await usher.start()


async def anew(usher, ask):
    """Asks for a new start in place, and waits for the server that comes of it."""
    before, pid = (await usher.json("status"))["started"], usher.process.pid
    await ask()
    async with asyncio.timeout(START):
        while (done := await usher.cli("status", "--json")).status != contract.DONE or (
            done.json()["started"] == before
        ):
            await asyncio.sleep(0.05)
    assert (usher.process.pid, usher.process.returncode) == (pid, None)


async def sigusr2(usher):
    async def ask():
        usher.process.send_signal(signal.SIGUSR2)

    await anew(usher, ask)


async def restart(usher):
    async def ask():
        await usher.ok("restart")

    await anew(usher, ask)


HOW = pytest.mark.parametrize("how", [sigterm, sigusr2, restart], ids=lambda how: how.__name__)


def bodies(client):
    return [event["body"] for event in client.backlog if event.kind == "message"]


async def asleep(usher, *jids):
    """Waits until these sessions have no connection."""
    async with asyncio.timeout(START):
        while {s["jid"] for s in await usher.sessions("--hibernating")} < set(jids):
            await asyncio.sleep(0.02)


@HOW
async def test_nobody_notices_that_the_server_was_away(usher, clients, kind, how):
    other = next(other for other in LASTING if other != kind)
    alice, bob = await clients.friends((other, kind), lasting=True)
    before = {jid: await usher.session(jid) for jid in (alice.jid, bob.jid)}
    # Some are on their way to one who is there, some wait for one who is not.
    for number in range(MANY):
        await alice.message(bob.jid, f"before {number}")
    await alice.barrier()
    await bob.cut()
    await asleep(usher, bob.jid)
    for number in range(MANY):
        await alice.message(bob.bare, f"meanwhile {number}")
    await alice.barrier()
    await how(usher)

    listed = await usher.sessions("--hibernating")
    assert {s["jid"]: s["id"] for s in listed} == {j: s["id"] for j, s in before.items()}
    assert await alice.again()
    for number in range(MANY):
        await alice.message(bob.bare, f"after {number}")
    await alice.barrier()
    assert await bob.again()
    await bob.barrier()
    await alice.barrier()
    texts = [f"{when} {n}" for when in ("before", "meanwhile", "after") for n in range(MANY)]
    assert bodies(bob) == texts
    alice.none("presence")
    bob.none("presence")
    for client in (alice, bob):
        client.none("stream-error")
        session = await usher.session(client.jid)
        then = before[client.jid]
        kept = ("id", "since", "authed_since", "client", "available", "interested", "resumable")
        assert {name: session[name] for name in kept} == {name: then[name] for name in kept}
        assert session["resumptions"] == 1
    # Both are where they were: presence and messages go through.
    await bob.presence(status="back")
    await alice.expect("presence", status="back", **{"from": bob.jid})
    await bob.message(alice.jid, "hello")
    await alice.expect("message", body="hello")


@HOW
async def test_what_was_sent_when_the_server_stopped_arrives_once(usher, clients, kind, how):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    for number in range(MANY * 3):
        await bob.message(alice.jid, f"message {number}")
    await bob.written()
    await how(usher)
    assert await alice.again()
    assert await bob.again()
    await bob.message(alice.jid, "the end")
    await alice.expect("message", body="the end")
    assert bodies(alice) == [f"message {number}" for number in range(MANY * 3)]


@pytest.mark.parametrize("handled", [0, 1, 2])
async def test_what_was_handled_and_not_acknowledged_before_a_start_may_be_afterwards(
    usher, handled
):
    jid, password = await usher.account("alice")
    client = await Raw.bound(usher.door, jid, password)
    client.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    previd = re.search(r" id='([^']*)'", await client.until("<enabled"))[1]
    for number in range(2):
        client.send(f"<message to='{client.jid}' type='chat'><body>{number}</body></message>")
        await client.until("</message>")
    await sigterm(usher)
    # It is told what was taken of its own, and the stream is not closed: it goes on.
    last = await client.rest()
    assert "<a xmlns='urn:xmpp:sm:3' h='2'/>" in last and "</stream:stream>" not in last
    client = await Raw.authed(usher.door, jid, password)
    client.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='{handled}'/>")
    assert "h='2'" in await client.until("<resumed")
    text = await client.ping()
    assert re.findall("<body>(.)</body>", text) == ["0", "1"][handled:]


async def test_streams_go_on_after_every_one_of_many_new_starts(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    for number in range(3):
        await sigusr2(usher)
        assert await alice.again()
        await alice.message(bob.jid, f"round {number}")
        await alice.barrier()
    # Bob has slept through two of them.
    assert await bob.again()
    await bob.barrier()
    assert bodies(bob) == [f"round {number}" for number in range(3)]
    alice.none("presence")
    assert (await usher.session(bob.jid))["resumptions"] == 1


@pytest.mark.settings('[sessions]\nresume = "3s"\n')
async def test_whoever_does_not_come_back_after_a_start_is_gone_in_time(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    gone = bob.jid
    await alice.message(gone, "for later")
    await bob.expect("message", body="for later")
    await alice.message(gone, "for later still")
    await alice.barrier()
    await bob.cut()
    await asleep(usher, gone)
    await alice.message(gone, "for the next time")
    await alice.barrier()
    await sigterm(usher)
    assert await alice.again()
    await alice.expect("presence", type="unavailable", **{"from": gone})
    assert not await bob.again()
    await bob.presence()
    await bob.expect("message", body="for the next time")
    await bob.barrier()
    bob.none("message", body="for the next time")


async def test_whoever_is_ended_before_it_comes_back_does_not_resume(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    gone = bob.jid
    await sigterm(usher)
    assert await alice.again()
    await usher.ok("session", "end", gone)
    await alice.expect("presence", type="unavailable", **{"from": gone})
    assert not await bob.again()


async def test_a_disabled_account_is_not_woken(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    await bob.cut()
    await asleep(usher, bob.jid)
    await usher.ok("user", "disable", bob.bare)
    await alice.expect("presence", type="unavailable")
    await sigterm(usher)
    assert await usher.sessions(bob.bare) == []


# --- kill -9 --------------------------------------------------------------------------------------


async def test_kill_9_ends_streams_and_clients_log_in_anew(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    await usher.kill9()
    await usher.start()
    assert await usher.sessions() == []
    # Their roster is what they had, and their resources are free.
    for client in (alice, bob):
        assert not await client.again()
        await client.roster()
        await client.presence()
    await alice.expect("presence", type=None, **{"from": bob.jid})
    await bob.expect("presence", type=None, **{"from": alice.jid})
    await alice.message(bob.jid, "hello")
    await bob.expect("message", body="hello")


async def test_kill_9_loses_no_message_that_was_offline_and_no_roster(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    await bob.logout()
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    for number in range(MANY):
        await alice.message(bob.bare, f"message {number}")
    await alice.roster_set("carol@localhost", "Carol")
    await alice.barrier()
    await usher.kill9()
    await usher.start()
    assert not await alice.again()
    assert (await alice.roster())["carol@localhost"].name == "Carol"
    assert not await bob.again()
    await bob.presence()
    got = [await bob.expect("message") for _ in range(MANY)]
    assert [event["body"] for event in got] == [f"message {number}" for number in range(MANY)]


async def test_kill_9_after_a_start_finds_the_streams_as_they_were_stored(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    await bob.cut()
    await asleep(usher, bob.jid)
    await alice.message(bob.jid, "stored")
    await alice.barrier()
    await sigterm(usher)
    await usher.kill9()
    await usher.start()
    assert await alice.again()
    assert await bob.again()
    await bob.expect("message", body="stored")
    await bob.barrier()
    bob.none("message")
    alice.none("presence")


async def test_a_stream_that_was_resumed_is_not_found_again_after_kill_9(usher, clients, kind):
    """It would be as it was long ago."""
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    await sigterm(usher)
    assert await bob.again()
    await usher.kill9()
    await usher.start()
    # Alice did not come back before, so hers is still as it was stored.
    assert {s["jid"] for s in await usher.sessions()} == {alice.jid}
    assert not await bob.again()
    assert await alice.again()
