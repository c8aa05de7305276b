"""Session control with real clients: what ended them is told, and who may come back does."""

import asyncio

import pytest

import contract
from client import Dropped, Refused, StanzaError


async def told(client, condition):
    error = await client.expect("stream-error")
    assert error["condition"] == condition
    assert error["extra"] == [contract.ENDED_ELEMENT]
    await client.closed()


async def test_a_blocked_client_stays_out_and_another_one_of_the_account_comes_in(
    usher, clients, kind
):
    jid, password = await usher.account("alice")
    phone = await clients(kind, jid, password, resource="phone").online()
    done = await usher.json("session", "end", phone.jid, "--level", "block", "--reason", "stolen")
    assert done[contract.ROWS][0]["ways_back"] == []
    await told(phone, contract.BLOCKED)

    again = clients(kind, jid, password, resource="phone")
    # The request to bind is refused and the stream is closed; a client tells of what it saw first.
    with pytest.raises((Dropped, StanzaError)) as refused:
        await again.login()
    if isinstance(refused.value, Dropped):
        assert refused.value.event["condition"] == contract.BLOCKED
    else:
        assert refused.value.condition == "not-allowed"
    laptop = await clients(kind, jid, password, resource="laptop").online()
    assert {s["jid"] for s in await usher.sessions()} == {laptop.jid}

    listed = await usher.json("client", "list", jid)
    blocked = next(client for client in listed if client["state"] == "blocked")
    await usher.ok("client", "unblock", blocked["id"])
    back = await clients(kind, jid, password, resource="phone").online()
    assert back.jid == f"{jid}/phone"


async def test_a_held_off_account_is_out_for_its_time_and_then_back(usher, clients, kind):
    jid, password = await usher.account("alice")
    client = await clients(kind, jid, password, resource="phone").online()
    await usher.ok("session", "end", jid, "--hold-off", "4s")
    await told(client, contract.KICKED)
    with pytest.raises(Refused) as refused:
        await clients(kind, jid, password, resource="phone").login()
    assert refused.value.condition == "temporary-auth-failure"
    await asyncio.sleep(4.5)
    await clients(kind, jid, password, resource="phone").online()


async def test_who_is_displaced_is_told_so_and_the_newer_one_stays(usher, clients, kind):
    jid, password = await usher.account("alice")
    await usher.ok("policy", "set", jid, "--max-sessions", "1", "--at-limit", "displace-oldest")
    older = await clients(kind, jid, password, resource="older").online()
    newer = await clients(kind, jid, password, resource="newer").online()
    await told(older, contract.REPLACED)
    await newer.barrier()
    assert {s["jid"] for s in await usher.sessions()} == {newer.jid}


async def test_a_frozen_client_is_silent_and_has_lost_nothing_when_it_thaws(usher, clients, kind):
    alice = await clients(kind, *await usher.account("alice"), resource="r").online()
    bob = await clients(kind, *await usher.account("bob"), resource="r").online()
    await usher.ok("session", "freeze", alice.jid)
    await bob.message(alice.jid, "are you there?")
    await bob.barrier()
    await asyncio.sleep(0.5)
    alice.none("message")
    await usher.ok("session", "unfreeze", alice.jid)
    heard = await alice.expect("message")
    assert heard["body"] == "are you there?"


async def test_a_client_is_known_again_across_a_restart(usher, clients, kind):
    jid, password = await usher.account("alice")
    first = await clients(kind, jid, password, resource="phone").online()
    before = await usher.session(first.jid)
    await usher.stop()
    await usher.start()
    again = await clients(kind, jid, password, resource="phone").online()
    after = await usher.session(again.jid)
    assert (after["client"], after["sid"]) == (before["client"], before["sid"])
    assert after["id"] != before["id"]


async def test_an_epoch_logs_everybody_out_and_the_password_still_opens(usher, clients, kind):
    jid, password = await usher.account("alice")
    _, token = await usher.mint(jid)
    by_password = await clients(kind, jid, password).online()
    by_token = await clients(kind, jid, token, mechanism="PLAIN").online()
    await usher.ok("epoch", "raise", "--host", "localhost")
    for client in (by_password, by_token):
        await told(client, "reset")
    with pytest.raises(Refused) as refused:
        await clients(kind, jid, token, mechanism="PLAIN").login()
    assert refused.value.condition == contract.TOKEN_REVOKED
    await clients(kind, jid, password).online()
