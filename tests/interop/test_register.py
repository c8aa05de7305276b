"""The owner changes the password and removes the account in-band (XEP-0077), by slixmpp's `xep_0077`."""

import asyncio

import pytest
from slixmpp.exceptions import IqError

import contract
from client import LOGIN, WAIT, Refused


def register(client):
    library = client._library
    if "xep_0077" not in library.plugin:
        library.register_plugin("xep_0077")
    return library.plugin["xep_0077"]


async def told(client, condition):
    error = await client.expect("stream-error")
    assert (error["condition"], error["extra"]) == (condition, [contract.ENDED_ELEMENT])
    await client.closed()


async def test_ro_18_the_password_is_changed_and_the_others_have_to_go(usher, clients, tls):
    jid, password = await usher.account("alice")
    desk = await clients("slixmpp", jid, password, resource="desk", tls=tls).online()
    phone = await clients("slixmpp", jid, password, resource="phone").online()
    form = (await register(desk).get_registration(jid=usher.domain, timeout=WAIT))["register"]
    assert form["registered"] and form["username"] == "alice" and not form["password"]

    for wrong in ("", "\x7f"):
        with pytest.raises(IqError):
            await register(desk).change_password(wrong, jid=usher.domain, timeout=WAIT)
    new = usher.secret()
    await register(desk).change_password(new, jid=usher.domain, timeout=WAIT)
    await told(phone, contract.PASSWORD_CHANGED)
    await desk.barrier()
    with pytest.raises(Refused):
        await clients("slixmpp", jid, password).login()
    await clients("slixmpp", jid, new, resource="phone").online()


async def test_ro_28_a_token_is_not_enough(usher, clients):
    jid, password = await usher.account("alice")
    _, token = await usher.mint(jid)
    bot = await clients("slixmpp", jid, token, mechanism="PLAIN").online()
    for act in (
        register(bot).change_password(usher.secret(), jid=usher.domain, timeout=WAIT),
        register(bot).cancel_registration(timeout=WAIT),
    ):
        with pytest.raises(IqError) as refused:
            await act
        assert refused.value.condition == "not-authorized"
        assert "log in again with the password" in refused.value.text
    await bot.barrier()
    await clients("slixmpp", jid, password).online()


@pytest.mark.settings('[registration]\ngrace = "off"\n[clients]\nfresh = "off"\n')
async def test_pr_24_an_account_is_removed_and_the_answer_comes_first(usher, clients):
    jid, password = await usher.account("alice")
    desk = await clients("slixmpp", jid, password, resource="desk").online()
    phone = await clients("slixmpp", jid, password, resource="phone", managed=True).online()
    friend = await clients("slixmpp", *await usher.account("bob")).online()
    await friend.presence(to=jid, kind="subscribe")
    await register(desk).cancel_registration(timeout=WAIT)
    for one in (desk, phone):
        await told(one, contract.DELETED)
    with pytest.raises(Refused):
        await clients("slixmpp", jid, password).login()
    async with asyncio.timeout(LOGIN):
        while (await usher.cli("user", "show", jid)).status == contract.DONE:
            await asyncio.sleep(0.1)
    assert (await usher.cli("user", "show", jid)).status == contract.NO_MATCH


async def test_pr_24_it_is_removed_with_grace_and_can_be_brought_back(usher, clients):
    jid, password = await usher.account("alice")
    desk = await clients("slixmpp", jid, password, resource="desk").online()
    await register(desk).cancel_registration(timeout=WAIT)
    await told(desk, contract.DELETED)
    with pytest.raises(Refused) as refused:
        await clients("slixmpp", jid, password).login()
    assert refused.value.condition == contract.ACCOUNT_DISABLED
    await usher.ok("user", "restore", jid)
    await clients("slixmpp", jid, password).online()


async def test_nobody_gets_an_account_here(usher, clients):
    alice = await clients("slixmpp", *await usher.account("alice")).online()
    other = "<query xmlns='jabber:iq:register'><username>carol</username><password>x</password></query>"
    with pytest.raises(Exception) as refused:
        await alice.iq("set", other, to=usher.domain)
    assert refused.value.condition == "forbidden"
    assert (await usher.cli("user", "show", "carol@localhost")).status == contract.NO_MATCH
