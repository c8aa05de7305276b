"""What has access to an account, seen and taken away by slixmpp (its `xep_0494`), XEP-0494.

slixmpp asks to revoke in an IQ of type `get`, where the specification and this server have `set`: the
stanza is slixmpp's own, sent in the right type.
"""

import asyncio

import pytest
from slixmpp.exceptions import IqError
from slixmpp.plugins.xep_0494 import ClientType, PermissionEnum

import contract
from client import LOGIN, WAIT, Refused

CAM = "urn:xmpp:cam:0"
ERROR = "{jabber:client}error"


def cam(client):
    library = client._library
    if "xep_0494" not in library.plugin:
        library.register_plugin("xep_0494")
    return library.plugin["xep_0494"]


async def listed(client, **to):
    found = await cam(client).get_clients(timeout=WAIT, **to)
    return {one["id"]: one for one in found}


async def revoke(client, client_id, to=None):
    """The error's condition and application-specific conditions; none if it was done."""
    cam(client)
    iq = client._library.make_iq_set(ito=to)
    iq["revoke"]["id"] = client_id
    try:
        await iq.send(timeout=WAIT)
    except IqError as refused:
        error = refused.iq.xml.find(ERROR)
        assert error is not None
        return refused.condition, [child.tag for child in error if child.tag.startswith(f"{{{CAM}}}")]
    return None


async def lost(usher, client):
    """Its connection breaks, and the server has noticed: it can be resumed."""
    jid = client.jid
    await client.cut()
    async with asyncio.timeout(LOGIN):
        while jid not in {one["jid"] for one in await usher.list("session", "list", "--hibernating")}:
            await asyncio.sleep(0.05)


async def client_of(usher, jid):
    return (await usher.session(jid))["client"]


async def test_pr_22_each_kind_of_client_is_listed(usher, clients):
    jid, password = await usher.account("alice")
    desk = await clients("slixmpp", jid, password, resource="desk").online()
    phone = await clients("slixmpp", jid, password, resource="phone", managed=True).online()
    away = await clients("@xmpp/client", jid, password, resource="away").online()
    _, token = await usher.mint(jid, "--label", "a bot")
    bot = await clients("slixmpp", jid, token, mechanism="PLAIN").online()
    await usher.mint(jid)

    ids = [await client_of(usher, one.jid) for one in (desk, phone, away, bot)]
    await lost(usher, phone)
    await away.logout()
    await away.closed()

    seen = await listed(desk)
    assert len(seen) == 5
    for client_id, connected in zip(ids, (True, True, False, True)):
        one = seen[client_id]
        assert (one["connected"], one["type"]) == (connected, ClientType.SESSION)
    for client_id in ids[:3]:
        assert seen[client_id]["auth"]["password"], "it has shown the password"
        assert seen[client_id]["permission"] == PermissionEnum.UNRESTRICTED
    robot = seen[ids[3]]
    assert "grant" in robot["auth"] and not robot["auth"]["password"]
    assert robot["permission"] == PermissionEnum.NORMAL
    [unused] = [one for client_id, one in seen.items() if client_id not in ids]
    assert (unused["connected"], unused["type"]) == (False, ClientType.ACCESS)
    for to in (jid, usher.domain):
        assert (await listed(desk, ito=to)).keys() == seen.keys()
    info = await desk.iq("get", "<query xmlns='http://jabber.org/protocol/disco#info'/>", to=jid)
    assert CAM in {feature.get("var") for feature in info.iter() if feature.get("var")}


async def test_pr_22_each_kind_of_client_is_revoked(usher, clients):
    jid, password = await usher.account("alice")
    desk = await clients("slixmpp", jid, password, resource="desk").online()
    phone = await clients("slixmpp", jid, password, resource="phone", managed=True).online()
    _, token = await usher.mint(jid)
    bot = await clients("slixmpp", jid, token, mechanism="PLAIN").online()
    own, asleep, robot = [await client_of(usher, one.jid) for one in (desk, phone, bot)]
    await lost(usher, phone)
    await usher.mint(jid)
    [unused] = [i for i, one in (await listed(desk)).items() if one["type"] == ClientType.ACCESS]

    # A client that knows the password is as it was, and so is what it has.
    needed = ("service-unavailable", [f"{{{CAM}}}password-reset-required"])
    assert await revoke(desk, asleep) == needed
    assert (await listed(desk)).keys() == {own, asleep, robot, unused}
    assert await phone.again(), "its stream goes on"

    assert await revoke(desk, robot) is None
    error = await bot.expect("stream-error")
    assert (error["condition"], error["extra"]) == (contract.REVOKED, [contract.ENDED_ELEMENT])
    await bot.closed()
    assert await revoke(desk, unused) is None
    assert (await listed(desk)).keys() == {own, asleep}
    with pytest.raises(Refused) as refused:
        await clients("slixmpp", jid, token, mechanism="PLAIN").login()
    assert refused.value.condition == contract.TOKEN_REVOKED
    assert await revoke(desk, robot) == ("item-not-found", [])


@pytest.mark.settings('[clients]\nrevoke_password = "block"\n')
async def test_b_02_by_policy_who_knows_the_password_is_blocked(usher, clients):
    jid, password = await usher.account("alice")
    desk = await clients("slixmpp", jid, password, resource="desk").online()
    phone = await clients("slixmpp", jid, password, resource="phone", managed=True).online()
    asleep = await client_of(usher, phone.jid)
    await lost(usher, phone)
    assert await revoke(desk, asleep) is None
    assert {one["jid"] for one in await usher.sessions(jid)} == {desk.jid}
    # And itself: the answer comes first.
    own = await client_of(usher, desk.jid)
    assert await revoke(desk, own) is None
    error = await desk.expect("stream-error")
    assert error["condition"] == contract.BLOCKED
    await desk.closed()


async def test_pr_22_the_clients_of_others_are_nobody_s_business(usher, clients):
    alice = await clients("slixmpp", *await usher.account("alice"), resource="desk").online()
    bob = await clients("slixmpp", *await usher.account("bob"), resource="desk").online()
    theirs = await client_of(usher, bob.jid)
    for to in (bob.bare, "nobody@localhost"):
        with pytest.raises(IqError) as refused:
            await listed(alice, ito=to)
        assert refused.value.condition == "forbidden"
        assert (await revoke(alice, theirs, to))[0] == "item-not-found"
    assert (await revoke(alice, theirs))[0] == "item-not-found"
    await bob.barrier()
    root = await clients("slixmpp", *await usher.account("root", "--role", "admin")).online()
    assert (await listed(root, ito=bob.bare)).keys() == {theirs}


async def test_b_11_a_client_is_told_when_another_one_comes_and_goes(usher, clients, kind):
    jid, password = await usher.account("alice")
    desk = await clients(kind, jid, password, resource="desk").online()
    await desk.iq("set", "<subscribe xmlns='urn:usher:session:0'/>")
    phone = await clients("slixmpp", jid, password, resource="phone").online()
    await desk.expect("iq", type="set")
    # The libraries do not know this, and say so; nobody minds.
    await desk.barrier()
    desk.backlog.clear()
    await phone.logout()
    await desk.expect("iq", type="set")
    await desk.iq("set", "<unsubscribe xmlns='urn:usher:session:0'/>")
    desk.backlog.clear()
    await clients("slixmpp", jid, password, resource="phone").login()
    await desk.barrier()
    desk.none("iq", type="set")
