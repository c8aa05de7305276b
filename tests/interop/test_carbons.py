"""Message carbons as slixmpp understands them, with a contact of either kind (XEP-0280)."""

import pytest

DISCO = "http://jabber.org/protocol/disco#info"
CARBONS = "urn:xmpp:carbons:2"
RULES = "urn:xmpp:carbons:rules:0"
HINTS = "urn:xmpp:hints"
STATES = "http://jabber.org/protocol/chatstates"


@pytest.fixture
async def scene(usher, clients, kind):
    """Alice, and two clients of Bob that have carbons; nothing left in a backlog."""
    alice = await clients(kind, *await usher.account("alice"), resource="a").online()
    jid, password = await usher.account("bob")
    bob = []
    for resource in ("desk", "phone"):
        client = await clients("slixmpp", jid, password, resource=resource).online()
        await client.carbons()
        bob.append(client)
    for client in (alice, *bob):
        await client.barrier()
        client.backlog.clear()
    return alice, *bob


async def test_the_server_says_that_it_copies_and_by_which_rules(usher, clients, kind):
    client = await clients(kind, *await usher.account("alice")).online()
    info = await client.iq("get", f"<query xmlns='{DISCO}'/>", to="localhost")
    features = {feature.get("var") for feature in info.iter(f"{{{DISCO}}}feature")}
    assert {CARBONS, RULES} <= features


async def test_a_conversation_is_whole_on_the_other_device(scene):
    alice, desk, phone = scene
    question = "where <are> you & why?"
    await alice.message(desk.jid, question)
    await desk.expect("message", body=question, **{"from": alice.jid})
    carbon = await phone.expect("carbon", direction="received", body=question)
    assert (carbon["from"], carbon["to"], carbon["type"]) == (alice.jid, desk.jid, "chat")

    await desk.message(alice.jid, "here")
    carbon = await phone.expect("carbon", direction="sent", body="here")
    assert (carbon["from"], carbon["to"]) == (desk.jid, alice.jid)
    await alice.expect("message", body="here", **{"from": desk.jid})
    await desk.barrier()
    desk.none("carbon")


async def test_what_goes_to_all_devices_is_not_copied(scene):
    alice, desk, phone = scene
    await alice.message(desk.bare, "all of you")
    for client in (desk, phone):
        await client.expect("message", body="all of you", to=desk.bare)
        await client.barrier()
        client.none("carbon")
        client.none("message")


async def test_private_messages_stay_where_they_are(scene):
    alice, desk, phone = scene
    for sender, receiver in ((alice, desk), (desk, alice)):
        await sender.send(
            f"<message to='{receiver.jid}' type='chat'><body>psst</body>"
            f"<private xmlns='{CARBONS}'/><no-copy xmlns='{HINTS}'/></message>"
        )
        await receiver.expect("message", body="psst")
        await phone.barrier()
        phone.none("carbon")


async def test_chat_states_are_copied(scene):
    alice, desk, phone = scene
    await alice.send(
        f"<message to='{desk.jid}' type='chat' id='s'><composing xmlns='{STATES}'/></message>"
    )
    await desk.expect("message", id="s")
    await phone.expect("carbon", direction="received", id="s")


async def test_what_came_back_is_seen_on_both_devices(scene):
    _, desk, phone = scene
    sent = await desk.message("nobody@localhost", "is anybody there?")
    error = await desk.expect("message", type="error", id=sent)
    assert error["condition"] == "service-unavailable"
    await phone.expect("carbon", direction="sent", body="is anybody there?")
    carbon = await phone.expect("carbon", direction="received", type="error", id=sent)
    assert carbon["from"] == "nobody@localhost"
