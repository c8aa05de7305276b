"""A connection breaks and its session waits: the client comes back to it and has missed nothing.

Stream management (XEP-0198) as both libraries do it: slixmpp in its own elements, `@xmpp/client`
within SASL 2. Messages come exactly once and in order, and the contact never hears that anybody was
away.
"""

import asyncio
import json
import re
from datetime import datetime

import pytest

import contract
from client import Dropped, Refused, StanzaError
from conftest import LASTING
from raw import Raw
from usher import START

MANY = 25


def bodies(client):
    """Of the messages that a client has got, in order; they are taken out."""
    found = [event for event in client.backlog if event.kind == "message"]
    client.backlog = [event for event in client.backlog if event.kind != "message"]
    return [event["body"] for event in found]


async def asleep(usher, jid):
    """Waits until the session of this address has no connection."""
    async with asyncio.timeout(START):
        while not (await usher.session(jid))["hibernating"]:
            await asyncio.sleep(0.02)


async def cut(usher, client):
    """Breaks a client's connection, and waits until the server knows."""
    jid = client.jid
    await client.cut()
    await asleep(usher, jid)


@pytest.fixture
async def friends(clients, kind):
    """Alice, who stays, and Bob, whose connection breaks; both online, their streams resumable."""
    other = next(other for other in LASTING if other != kind)
    return await clients.friends((other, kind), lasting=True)


async def test_messages_come_once_and_in_order_and_the_contact_sees_no_break(usher, clients, pair):
    alice, bob = await clients.friends(pair, lasting=True)
    before = await usher.session(bob.jid)
    for number in range(MANY):
        await alice.message(bob.jid, f"before {number}")
    # Some are on their way, some have arrived, none is acknowledged for certain.
    await bob.expect("message", body="before 0")
    await cut(usher, bob)
    for number in range(MANY):
        await alice.message(bob.bare, f"meanwhile {number}")
    await alice.barrier()
    assert await bob.again()
    for number in range(MANY):
        await alice.message(bob.jid, f"after {number}")
    await bob.expect("message", body=f"after {MANY - 1}")
    await alice.barrier()
    await bob.barrier()
    texts = [f"{when} {n}" for when in ("before", "meanwhile", "after") for n in range(MANY)]
    assert bodies(bob) == texts[1:-1]
    alice.none("presence")
    after = await usher.session(bob.jid)
    assert (after["id"], after["hibernating"]) == (before["id"], False)


async def test_what_was_sent_into_a_broken_connection_arrives_once(usher, friends):
    alice, bob = friends
    for number in range(MANY):
        await bob.message(alice.jid, f"lost? {number}")
    await bob.written()
    await cut(usher, bob)
    assert await bob.again()
    await bob.message(alice.jid, "the end")
    await alice.expect("message", body="the end")
    await bob.barrier()
    await alice.barrier()
    assert bodies(alice) == [f"lost? {number}" for number in range(MANY)]
    alice.none("presence")


async def test_messages_that_waited_say_since_when(usher, friends):
    alice, bob = friends
    await cut(usher, bob)
    await alice.message(bob.bare, "waited")
    await alice.barrier()
    assert await bob.again()
    waited = await bob.expect("message", body="waited")
    assert [who for who, _ in waited["delays"]] == ["localhost"]
    await alice.message(bob.bare, "did not wait")
    assert (await bob.expect("message", body="did not wait"))["delays"] == []


async def test_a_stream_is_resumed_again_and_again(usher, friends):
    alice, bob = friends
    for number in range(5):
        await cut(usher, bob)
        await alice.message(bob.bare, f"round {number}")
        await alice.barrier()
        assert await bob.again()
    await bob.expect("message", body="round 4")
    await bob.barrier()
    assert bodies(bob) == [f"round {number}" for number in range(4)]
    alice.none("presence")
    assert (await usher.session(bob.jid))["resumptions"] == 5


async def test_a_closed_stream_is_over_at_once(usher, friends):
    alice, bob = friends
    await bob.logout()
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    assert [s["jid"] for s in await usher.sessions(bob.bare)] == []


@pytest.mark.settings('[sessions]\nresume = "2s"\n')
async def test_when_the_time_is_over_messages_wait_offline(usher, friends):
    alice, bob = friends
    gone = bob.jid
    await cut(usher, bob)
    for number in range(3):
        await alice.message(gone, f"message {number}")
    await alice.barrier()
    alice.none("presence")
    await alice.expect("presence", type="unavailable", **{"from": gone})
    assert not await bob.again()
    await bob.presence()
    got = [await bob.expect("message") for _ in range(3)]
    assert [event["body"] for event in got] == [f"message {number}" for number in range(3)]
    assert all(len(event["delays"]) == 1 for event in got)
    await bob.barrier()
    bob.none("message")


async def test_who_is_ended_while_away_comes_in_anew(usher, friends):
    alice, bob = friends
    gone = (await usher.session(bob.jid))["id"]
    await cut(usher, bob)
    await alice.message(bob.bare, "for later")
    await alice.barrier()
    assert (await usher.json("session", "end", bob.bare))[contract.END_COUNT] == 1
    await alice.expect("presence", type="unavailable")
    assert not await bob.again()
    await bob.presence()
    await bob.expect("message", body="for later")
    await bob.barrier()
    bob.none("message", body="for later")
    [now] = await usher.sessions(bob.bare)
    assert now["id"] != gone
    past = await usher.json("session", "show", gone)
    assert (past["stage"], past["reason"]) == ("ended", "ended")


async def test_the_password_changes_while_away_and_nothing_is_resumed(usher, friends):
    alice, bob = friends
    await cut(usher, bob)
    new = usher.secret()
    await usher.ok("user", "password", bob.bare, "--password-stdin", input=new + "\n")
    await alice.expect("presence", type="unavailable")
    with pytest.raises((Refused, Dropped)):
        await bob.again()
    assert await usher.sessions(bob.bare) == []


@pytest.mark.settings('[sessions]\nresume = "off"\n')
async def test_without_resumption_a_broken_connection_is_the_end(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    await bob.cut()
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    assert not await bob.again()


@pytest.mark.settings("[sessions]\nhibernating = 2\n")
async def test_the_one_that_has_waited_longest_makes_way(usher, clients, kind):
    jid, password = await usher.account("alice")
    made = []
    for resource in ("one", "two", "three"):
        client = clients(kind, jid, password, resource=resource, **LASTING[kind])
        await client.login()
        made.append(client)
    for client in made[:2]:
        await cut(usher, client)
    await made[2].cut()
    async with asyncio.timeout(START):
        while len(await usher.sessions(jid)) > 2:
            await asyncio.sleep(0.02)
    assert [await client.again() for client in made] == [False, True, True]


# --- what the operator sees -----------------------------------------------------------------------


def seconds(since, until):
    """From one time to another, as they are printed."""
    return (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()


async def test_who_is_away_is_listed_with_since_when_until_when_and_what_waits(usher, friends):
    alice, bob = friends
    awake = await usher.session(bob.jid)
    assert (awake["hibernating"], awake["resumable"], awake["resumptions"]) == (False, 600, 0)
    assert (awake["hibernating_since"], awake["hibernating_until"]) == (None, None)
    assert await usher.sessions("--hibernating") == []

    await cut(usher, bob)
    text = "x" * 1000
    for _ in range(3):
        await alice.message(bob.bare, text)
    await alice.barrier()
    [listed] = await usher.sessions("--hibernating")
    assert listed["jid"] == bob.jid
    # What it was is what it is: contacts see it still.
    for same in ("id", "stage", "available", "since", "client"):
        assert listed[same] == awake[same]
    assert seconds(listed["hibernating_since"], listed["hibernating_until"]) == 600
    assert listed["queued_stanzas"] >= 3 and listed["queued_bytes"] > 3000
    assert listed["queued_stanzas"] >= listed["unacknowledged"] + 3
    shown = await usher.json("session", "show", bob.jid)
    assert shown == listed
    assert (await usher.json("session", "count"))["hibernating"] == 1
    table = (await usher.ok("session", "list")).out
    header, *rows = table.splitlines()
    place = header.index("hibernating since")
    assert {row.split()[1]: row[place] == "-" for row in rows} == {
        alice.jid: True,
        bob.jid: False,
    }, table

    assert await bob.again()
    await bob.barrier()
    now = await usher.session(bob.jid)
    assert (now["hibernating"], now["resumptions"]) == (False, 1)
    assert (now["hibernating_since"], now["hibernating_until"]) == (None, None)
    assert (await usher.json("session", "count"))["hibernating"] == 0


async def test_those_who_are_away_are_ended_and_nobody_else(usher, friends):
    alice, bob = friends
    refused = await usher.cli("session", "end", "--hibernating")
    assert refused.status == contract.NO_MATCH, str(refused)
    await cut(usher, bob)
    would = await usher.json("session", "end", "--hibernating", "--dry-run")
    assert would[contract.DRY_RUN_COUNT] == 1
    done = await usher.json("session", "end", "--hibernating")
    assert [row["jid"] for row in done[contract.ROWS]] == [bob.jid]
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    assert [s["jid"] for s in await usher.sessions()] == [alice.jid]
    await alice.barrier()


async def test_watch_tells_of_a_broken_connection_and_of_the_resumption(usher, friends):
    alice, bob = friends
    watch = await usher.spawn("session", "watch", "--json")
    told = {}
    try:

        async def hear(change):
            async with asyncio.timeout(START):
                while change not in told:
                    event = json.loads(await watch.stdout.readline())
                    if event["jid"] == bob.jid:
                        told[event["change"]] = event

        # The watch is in place when it shows something.
        async with asyncio.timeout(START):
            first = asyncio.create_task(hear("unavailable"))
            while not first.done():
                await bob.presence(kind="unavailable")
                await bob.presence()
                await asyncio.wait([first], timeout=0.2)
        session = await usher.session(bob.jid)
        await bob.cut()
        await hear("hibernating")
        assert await bob.again()
        await hear("resumed")
        await bob.logout()
        await hear("ended")
    finally:
        watch.kill()
        await watch.wait()
    assert {event["id"] for event in told.values()} == {session["id"]}
    assert seconds(told["hibernating"]["at"], told["hibernating"]["until"]) == pytest.approx(600, 2)
    assert told["ended"]["reason"] == "closed"


# --- slixmpp alone --------------------------------------------------------------------------------


async def test_the_server_acknowledges_what_it_has_taken(usher, clients):
    alice, bob = await clients.friends(("slixmpp", "slixmpp"), lasting=True)
    sent = [await alice.message(bob.jid, f"message {number}") for number in range(10)]
    # It asks after every fifth stanza.
    for identity in sent[:5]:
        await alice.expect("acked", id=identity)
    await alice.expect("acked")


async def test_carbons_go_on_after_a_resumption_and_come_once(usher, clients, kind):
    alice = await clients(kind, *await usher.account("alice"), resource="a").online()
    jid, password = await usher.account("bob")
    phone = await clients("slixmpp", jid, password, resource="phone").online()
    desk = await clients("slixmpp", jid, password, resource="desk", managed=True).online()
    await desk.carbons()
    await desk.barrier()
    desk.backlog.clear()
    await cut(usher, desk)
    await alice.message(phone.jid, "to the phone")
    await phone.expect("message", body="to the phone")
    assert await desk.again()
    await alice.message(phone.jid, "and again")
    await phone.expect("message", body="and again")
    await desk.expect("carbon", body="and again")
    carbon = await desk.expect("carbon", body="to the phone")
    assert carbon["direction"] == "received"
    await desk.barrier()
    desk.none("carbon")


async def test_subscriptions_go_on_while_one_is_away(usher, clients, kind):
    alice = clients("slixmpp", *await usher.account("alice"), managed=True)
    bob = clients(kind, *await usher.account("bob"), **LASTING[kind])
    await alice.online()
    await bob.online()
    await cut(usher, bob)
    await alice.presence(to=bob.bare, kind="subscribe")
    await alice.barrier()
    assert await bob.again()
    await bob.expect("presence", type="subscribe", **{"from": alice.bare})
    await bob.presence(to=alice.bare, kind="subscribed")
    await alice.expect("presence", type="subscribed", **{"from": bob.bare})
    await alice.expect("presence", type=None, **{"from": bob.jid})


@pytest.mark.settings('[sessions]\nresume = "1s"\n')
async def test_an_iq_to_one_who_does_not_come_back_is_refused(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    await cut(usher, bob)
    with pytest.raises(StanzaError) as refused:
        await alice.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=bob.jid)
    assert refused.value.condition in ("service-unavailable", "recipient-unavailable")


async def test_who_comes_anew_in_place_of_itself_gets_what_waited(usher, clients, kind):
    """The client has lost its memory: it cannot resume, and takes the same resource."""
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    await cut(usher, bob)
    for number in range(MANY):
        await alice.message(bob.bare, f"bare {number}")
        await alice.message(bob.jid, f"full {number}")
    await alice.barrier()
    fresh = clients("slixmpp", bob.bare, bob.secret, resource=bob.jid.partition("/")[2])
    await fresh.login()
    await fresh.presence()
    got = [(await fresh.expect("message"))["body"] for _ in range(2 * MANY)]
    await fresh.barrier()
    fresh.none("message")
    for to in ("bare", "full"):
        assert [text for text in got if to in text] == [f"{to} {n}" for n in range(MANY)]
    assert len(await usher.sessions(bob.bare)) == 1


@pytest.mark.settings('[sessions]\nresume = "2s"\n')
async def test_what_another_device_has_got_does_not_come_again(usher, clients, kind):
    alice, bob = await clients.friends(("slixmpp", kind), lasting=True)
    phone = await clients("slixmpp", bob.bare, bob.secret, resource="other").online()
    gone = bob.jid
    await cut(usher, bob)
    for number in range(3):
        await alice.message(bob.bare, f"message {number}")
        await phone.expect("message", body=f"message {number}")
    await phone.expect("presence", type="unavailable", **{"from": gone})
    await phone.logout()
    assert not await bob.again()
    await bob.presence()
    await bob.barrier()
    bob.none("message")
    phone.none("message")


@pytest.mark.settings("[limits]\nmailbox_bytes = 65536\n")
async def test_too_much_for_one_who_is_away_goes_offline(usher, friends):
    alice, bob = friends
    await cut(usher, bob)
    texts = [f"{number} {'x' * 2500}" for number in range(40)]
    for text in texts:
        await alice.message(bob.bare, text)
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    await alice.barrier()
    assert not await bob.again()
    await bob.presence()
    got = [await bob.expect("message") for _ in texts]
    assert [event["body"] for event in got] == texts
    await bob.barrier()
    bob.none("message")


@pytest.mark.settings('[sessions]\ndead_after = "1s"\n')
async def test_who_does_not_acknowledge_in_time_hibernates(usher):
    """The network takes everything, and the software behind it has stopped."""
    jid, password = await usher.account("alice")
    client = await Raw.bound(usher.door, jid, password)
    client.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    previd = re.search(r" id='([^']*)'", await client.until("<enabled"))[1]
    client.send(f"<message to='{client.jid}' type='chat'><body>hello</body></message>")
    await client.until("<r xmlns='urn:xmpp:sm:3'/>")
    await asleep(usher, client.jid)
    assert "</stream:stream>" not in await client.rest()
    again = await Raw.authed(usher.door, jid, password)
    again.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>")
    assert "<body>hello</body>" in await again.until("</message>")


async def test_whoever_resumes_is_looked_at_and_gets_what_was_held_back(usher, clients):
    """XEP-0352 section 5: whoever nobody looked at is resumed as one that somebody looks at."""
    jid, password = await usher.account("alice")
    phone = await clients("slixmpp", jid, password, resource="phone").online()
    desk = await Raw.bound(usher.door, jid, password)
    desk.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    previd = re.search(r" id='([^']*)'", await desk.until("<enabled"))[1]
    desk.send("<presence/><inactive xmlns='urn:xmpp:csi:0'/>")
    await desk.ping()
    await phone.presence(status="held back")
    await phone.barrier()
    # A stanza as an answer would bring it along.
    desk.send("<r xmlns='urn:xmpp:sm:3'/>")
    assert "held back" not in await desk.until("<a ")
    desk.cut()
    await asleep(usher, desk.jid)
    await phone.presence(status="meanwhile")
    await phone.barrier()
    again = await Raw.authed(usher.door, jid, password)
    again.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>")
    await again.until("<status>meanwhile</status>")
    await phone.presence(status="at once")
    await again.until("<status>at once</status>")


@pytest.mark.parametrize("wrong", ["of another account", "forged", "of nobody"])
async def test_a_stream_is_its_owner_s_alone(usher, wrong):
    ids = {}
    for name in ("alice", "bob"):
        jid, password = await usher.account(name)
        client = await Raw.bound(usher.door, jid, password)
        client.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
        ids[name] = re.search(r" id='([^']*)'", await client.until("<enabled"))[1]
    previd = {
        "of another account": ids["alice"],
        "forged": ids["bob"][:-2] + ("AA" if ids["bob"][-2:] != "AA" else "BB"),
        "of nobody": "x",
    }[wrong]
    thief = await Raw.authed(usher.door, jid, password)
    thief.send(f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>")
    assert "<item-not-found" in await thief.until("</failed>")
    # It may go on without, and whoever has the stream has it still.
    thief.send("<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
    await thief.until("</iq>")
    await client.ping()


async def test_an_iq_to_one_who_is_away_is_answered_when_it_is_back(usher, clients):
    alice, bob = await clients.friends(("slixmpp", "slixmpp"), lasting=True)
    await cut(usher, bob)
    ping = asyncio.create_task(alice.iq("get", "<ping xmlns='urn:xmpp:ping'/>", to=bob.jid))
    await alice.barrier()
    assert await bob.again()
    try:
        await ping
    except StanzaError as error:
        # What slixmpp says of it is its own affair; that it was asked is the server's.
        assert error.condition == "feature-not-implemented"
