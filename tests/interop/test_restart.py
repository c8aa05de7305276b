"""The server goes away, in good order or not, and comes back on the same data.

What it had acknowledged is there, once; what it had ended stays ended.
"""

import asyncio

import pytest

import contract
from client import Refused


async def test_sigterm_says_system_shutdown_to_everybody(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    assert await usher.stop() == 0
    for client in (alice, bob):
        error = await client.expect("stream-error")
        assert error["condition"] == contract.SHUTDOWN
        await client.closed()


async def test_a_restart_keeps_rosters_offline_messages_and_tokens(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    _, token = await usher.mint(bob.bare)
    await bob.logout()
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    await alice.message(bob.bare, "for later")
    await alice.barrier()
    assert await usher.stop() == 0

    await usher.start()
    await alice.online()
    bob = clients(pair[1], bob.bare, token, resource="phone", mechanism="PLAIN")
    await bob.online()
    message = await bob.expect("message", body="for later")
    assert len(message["delays"]) == 1
    await bob.barrier()
    bob.none("message")
    await bob.expect("presence", type=None, **{"from": alice.jid})
    await alice.expect("presence", type=None, **{"from": bob.jid})
    for one, other in ((alice, bob), (bob, alice)):
        assert (await one.roster())[other.bare].subscription == "both"


async def test_kill_9_loses_nothing_acknowledged_and_revives_nothing_ended(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    live_id, live = await usher.mint(bob.bare)
    dead_id, dead = await usher.mint(bob.bare)
    await bob.logout()
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    bodies = [f"message {number}" for number in range(20)]
    for body in bodies:
        await alice.message(bob.bare, body)
    await alice.barrier()
    await alice.roster_set("carol@localhost", "Carol", "Friends")
    await usher.ok("token", "revoke", dead_id)
    await usher.kill9()

    await usher.start()
    await clients(pair[0], alice.bare, alice.secret).online()
    fresh = clients(pair[0], alice.bare, alice.secret)
    await fresh.login()
    contact = (await fresh.roster())["carol@localhost"]
    assert (contact.name, contact.groups) == ("Carol", {"Friends"})

    lost = clients(pair[1], bob.bare, dead, mechanism="PLAIN")
    with pytest.raises(Refused) as refused:
        await lost.login()
    assert refused.value.condition == contract.TOKEN_REVOKED

    back = clients(pair[1], bob.bare, live, mechanism="PLAIN")
    await back.online()
    assert [(await back.expect("message"))["body"] for _ in bodies] == bodies
    await back.barrier()
    back.none("message")
    assert (await usher.session(back.jid))["token"] == live_id


async def test_messages_that_came_before_kill_9_do_not_come_again(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    await bob.logout()
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    await alice.message(bob.bare, "once")
    await alice.barrier()
    await bob.online()
    await bob.expect("message", body="once")
    # A round trip says nothing about the disk; a write that is acknowledged stands behind the
    # message's removal there.
    await bob.roster_set("carol@localhost", "Carol")
    await usher.kill9()

    await usher.start()
    bob = await clients(pair[1], bob.bare, bob.secret).online()
    await bob.barrier()
    bob.none("message")


async def test_kill_9_in_the_middle_of_traffic_keeps_every_acknowledged_roster_set(
    usher, clients, kind
):
    jid, password = await usher.account("alice")
    client = await clients(kind, jid, password).online()
    acknowledged = []

    async def write():
        for number in range(10_000):
            await client.roster_set(f"contact{number}@localhost", f"Contact {number}")
            acknowledged.append(f"contact{number}@localhost")

    writing = asyncio.create_task(write())
    while len(acknowledged) < 25 and not writing.done():
        await asyncio.sleep(0)
    await usher.kill9()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert len(acknowledged) >= 25

    await usher.start()
    roster = await (await clients(kind, jid, password).online()).roster()
    assert set(acknowledged) <= roster.keys()


async def test_no_session_is_listed_after_a_restart(usher, clients, kind):
    await clients(kind, *await usher.account("alice")).online()
    assert len(await usher.sessions()) == 1
    await usher.kill9()
    await usher.start()
    assert [s for s in await usher.sessions() if s["jid"]] == []
