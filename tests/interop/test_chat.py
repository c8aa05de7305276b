"""Two people by real clients, in every pairing: contacts, presence, chat, offline messages.

RFC 6121 sections 2 to 5 and 8; XEP-0030, 0092, 0160, 0199, 0203.
"""

import re

import pytest

from client import StanzaError

DISCO = "http://jabber.org/protocol/disco#info"
VERSION = "jabber:iq:version"
PING = "urn:xmpp:ping"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def test_contacts_add_each_other_and_both_rosters_say_so(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    for one, other in ((alice, bob), (bob, alice)):
        contact = (await one.roster())[other.bare]
        assert (contact.subscription, contact.ask) == ("both", None)


async def test_a_roster_set_is_pushed_with_name_and_groups(usher, clients, kind):
    jid, password = await usher.account("alice")
    client = await clients(kind, jid, password).online()
    other = await clients(kind, jid, password).online()
    await client.roster_set("carol@localhost", "Carol & Co <1>", "Friends", "Work")
    for interested in (client, other):
        push = await interested.expect("roster-push", jid="carol@localhost")
        assert push["from"] in (None, jid)
        assert push["contact"].name == "Carol & Co <1>"
        assert push["contact"].groups == {"Friends", "Work"}
        assert push["contact"].subscription == "none"


async def test_an_unanswered_request_comes_again_at_the_next_login(usher, clients, pair):
    alice = await clients(pair[0], *await usher.account("alice")).online()
    jid, password = await usher.account("bob")
    await alice.presence(to=jid, kind="subscribe")
    push = await alice.expect("roster-push", jid=jid)
    assert (push["contact"].subscription, push["contact"].ask) == ("none", "subscribe")
    await alice.barrier()
    bob = await clients(pair[1], jid, password).online()
    await bob.expect("presence", type="subscribe", **{"from": alice.bare})


async def test_chat_both_ways_by_full_and_bare_address(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    for one, other in ((alice, bob), (bob, alice)):
        for to in (other.jid, other.bare):
            body = f"to {to}: ünï <&> \U0001f511 'quoted' \"twice\""
            await one.message(to, body)
            message = await other.expect("message", body=body)
            assert message["from"] == one.jid
            assert message["delays"] == []


async def test_a_hundred_messages_keep_their_order(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    bodies = [f"number {number}" for number in range(100)]
    for body in bodies:
        await alice.message(bob.jid, body)
    got = [(await bob.expect("message", **{"from": alice.jid}))["body"] for _ in bodies]
    assert got == bodies


async def test_presence_changes_reach_the_contact(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    await alice.presence(status="In a meeting")
    await bob.expect("presence", type=None, status="In a meeting", **{"from": alice.jid})
    await alice.presence(kind="unavailable")
    await bob.expect("presence", type="unavailable", **{"from": alice.jid})


async def test_the_contact_sees_a_logout(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    await alice.logout()
    await bob.expect("presence", type="unavailable", **{"from": alice.jid})


async def test_the_contact_sees_a_broken_connection(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    await alice.cut()
    await bob.expect("presence", type="unavailable", **{"from": alice.jid})


async def test_a_later_login_sees_who_is_there(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    phone = await clients(pair[0], alice.bare, alice.secret, resource="second").online()
    await phone.expect("presence", type=None, **{"from": bob.jid})
    await phone.expect("presence", type=None, **{"from": alice.jid})


async def test_offline_messages_come_once_in_order_and_stamped(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    await bob.logout()
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    for body in ("first", "second", "third"):
        await alice.message(bob.bare, body)
    await alice.barrier()

    await bob.online()
    for body in ("first", "second", "third"):
        message = await bob.expect("message")
        assert message["body"] == body
        assert message["from"] == alice.jid
        [(by, stamp)] = message["delays"]
        assert by == usher.domain
        assert STAMP.fullmatch(stamp), stamp
    await bob.barrier()
    bob.none("message")

    await bob.logout()
    await bob.online()
    await bob.barrier()
    bob.none("message")


async def test_the_server_answers_ping_disco_and_version(usher, clients, kind):
    client = await clients(kind, *await usher.account("alice")).online()
    await client.barrier()
    info = await client.iq("get", f"<query xmlns='{DISCO}'/>", to=usher.domain)
    identities = info.findall(f"{{{DISCO}}}query/{{{DISCO}}}identity")
    assert {("server", "im")} == {(one.get("category"), one.get("type")) for one in identities}
    features = {one.get("var") for one in info.iter(f"{{{DISCO}}}feature")}
    assert features >= {DISCO, PING, VERSION}
    version = await client.iq("get", f"<query xmlns='{VERSION}'/>", to=usher.domain)
    assert version.findtext(f"{{{VERSION}}}query/{{{VERSION}}}name") == "Usher"
    assert version.findtext(f"{{{VERSION}}}query/{{{VERSION}}}version")


async def test_clients_ping_each_other_through_the_server(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    for one, other in ((alice, bob), (bob, alice)):
        reply = await one.iq("get", f"<ping xmlns='{PING}'/>", to=other.jid)
        assert reply.get("from") == other.jid


async def test_what_nobody_answers_is_service_unavailable(usher, clients, kind):
    client = await clients(kind, *await usher.account("alice")).online()
    jid, _ = await usher.account("bob")
    nowhere = [usher.domain, f"{jid}/gone", f"nobody@{usher.domain}/gone"]
    for to in nowhere:
        with pytest.raises(StanzaError) as error:
            await client.iq("get", "<query xmlns='urn:example:unknown'/>", to=to)
        assert error.value.condition == "service-unavailable", to


async def test_a_message_to_an_unknown_account_bounces(usher, clients, kind):
    client = await clients(kind, *await usher.account("alice")).online()
    sent = await client.message(f"nobody@{usher.domain}", "anyone?")
    bounce = await client.expect("message", type="error")
    assert bounce["condition"] == "service-unavailable"
    assert bounce["id"] == sent
