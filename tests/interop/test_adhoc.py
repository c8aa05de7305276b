"""Commands from a client: slixmpp's own way through XEP-0050 and XEP-0133."""

import asyncio

import pytest

import contract
from client import WAIT, Refused, StanzaError

ADMIN = "http://jabber.org/protocol/admin#"
OURS = "urn:usher:command:0#"


@pytest.fixture
async def admin(usher, clients):
    made = await usher.account("admin", "--role", "admin")
    return await clients("slixmpp", *made, resource="desk").online()


async def test_each_role_is_listed_what_it_may_do(usher, clients, admin):
    user = await clients("slixmpp", *await usher.account("alice")).online()
    all_of_them, own = await admin.commands(), await user.commands()
    for node in (f"{ADMIN}end-user-session", f"{OURS}session-end", f"{OURS}user-add"):
        assert all_of_them[node]
    assert f"{ADMIN}get-user-password" not in all_of_them
    # An owner may delete the own account.
    for node in (f"{ADMIN}delete-user", f"{OURS}session-end", f"{OURS}whoami"):
        assert node in own
    assert f"{OURS}user-add" not in own and f"{ADMIN}shutdown" not in own
    assert set(own) < set(all_of_them)
    with pytest.raises(StanzaError) as refused:
        await user.administer("disable-user")
    assert refused.value.condition == "forbidden"


async def test_sessions_end_by_full_address_or_all_by_the_bare_one(usher, clients, admin):
    jid, password = await usher.account("alice")
    phone = await clients("slixmpp", jid, password, resource="phone").online()
    desk = await clients("slixmpp", jid, password, resource="desk").online()
    end = {"accountjids": [phone.jid], "x__reason": "test"}
    told = await admin.administer("end-user-session", **end)
    assert (told.status, told.notes) == ("completed", [("info", "1 session ended")])
    assert (await phone.expect("stream-error"))["condition"] == contract.KICKED
    await desk.barrier()
    assert [s["jid"] for s in await usher.sessions(jid)] == [desk.jid]

    tablet = await clients("slixmpp", jid, password, resource="tablet").online()
    told = await admin.administer("end-user-session", **(end | {"accountjids": [jid]}))
    assert told.notes == [("info", "2 sessions ended")]
    for client in (desk, tablet):
        assert (await client.expect("stream-error"))["condition"] == contract.KICKED
    # Nobody is kept out by it.
    await clients("slixmpp", jid, password, resource="phone").online()


async def test_a_missing_reason_is_named_and_can_be_given_then(usher, clients, admin):
    jid, password = await usher.account("alice")
    await clients("slixmpp", jid, password, resource="phone").online()
    form, session = await admin.begin(f"{ADMIN}end-user-session")
    assert form.status == "executing" and "accountjids" in form.fields
    with pytest.raises(StanzaError) as refused:
        await admin.go_on(session, "complete", accountjids=[jid])
    assert (refused.value.condition, refused.value.extra) == ("bad-request", ["bad-payload"])
    told = await admin.go_on(session, "complete", accountjids=[jid], x__reason="test")
    assert told.notes == [("info", "1 session ended")]


async def test_who_is_there_and_since_when(usher, clients, admin):
    jid, password = await usher.account("alice")
    away, _ = await usher.account("bob")
    alice = await clients("slixmpp", jid, password, resource="phone").online()
    told = await admin.administer("get-online-users-list", max_items="25")
    assert told.fields["onlineuserjids"] == [admin.bare, jid]
    told = await admin.administer("get-registered-users-list", max_items="none")
    assert told.fields["registereduserjids"] == [admin.bare, jid, away]
    for use_case, field, count in (
        ("get-online-users-num", "onlineusersnum", "2"),
        ("get-registered-users-num", "registeredusersnum", "3"),
        ("get-active-users-num", "activeusersnum", "2"),
        ("get-idle-users-num", "idleusersnum", "0"),
    ):
        told = await admin.administer(use_case)
        assert (told.status, told.fields[field]) == ("completed", [count])
    told = await admin.administer("user-stats", accountjid=jid)
    assert told.fields["onlineresources"] == ["phone"]
    assert told.fields["ipaddresses"] == ["127.0.0.1"]
    await alice.logout()
    await alice.closed()
    # The history is written behind the login, and nobody waits for it.
    async with asyncio.timeout(WAIT):
        while not (shown := (await usher.json("user", "show", jid))["last_login"]):
            await asyncio.sleep(0.1)
    told = await admin.administer("get-user-lastlogin", accountjids=[jid])
    assert told.fields["lastlogin"] == [shown]


async def test_the_life_of_an_account(usher, clients, admin):
    jid, password, other = f"new@{usher.domain}", usher.secret(), usher.secret()
    told = await admin.administer("add-user", accountjid=jid, password=password)
    assert [kind for kind, _ in told.notes] == ["info"]
    client = await clients("slixmpp", jid, password).online()
    told = await admin.administer("change-user-password", accountjid=jid, password=other)
    assert [kind for kind, _ in told.notes] == ["info"]
    await client.expect("stream-error")
    client = await clients("slixmpp", jid, other).online()

    await admin.administer("disable-user", accountjids=[jid])
    assert (await client.expect("stream-error"))["condition"] == contract.DISABLED
    told = await admin.administer("get-disabled-users-list", max_items="25")
    assert told.fields["disableduserjids"] == [jid]
    with pytest.raises(Refused) as refused:
        await clients("slixmpp", jid, other).login()
    assert refused.value.condition == contract.ACCOUNT_DISABLED
    await admin.administer("reenable-user", accountjids=[jid])
    await clients("slixmpp", jid, other).online()

    told = await admin.administer("delete-user", accountjids=[jid])
    assert [kind for kind, _ in told.notes] == ["info"]
    with pytest.raises(Refused):
        await clients("slixmpp", jid, other).login()
    # What could not be done is completed, with an error.
    told = await admin.administer("delete-user", accountjids=[jid])
    assert (told.status, [kind for kind, _ in told.notes]) == ("completed", ["error"])


async def test_an_announcement_reaches_every_kind_of_client(usher, clients, admin, kind):
    client = await clients(kind, *await usher.account("alice")).online()
    told = await admin.administer("announce", announcement="Tea at eight")
    assert told.notes == [("info", "told 2 sessions")]
    heard = await client.expect("message", type="headline")
    assert (heard["from"], heard["body"]) == (usher.domain, "Tea at eight")


async def test_a_command_is_canceled_and_its_id_is_no_good_then(admin):
    form, session = await admin.begin(f"{OURS}session-list")
    assert form.status == "executing"
    assert (await admin.go_on(session, "cancel")).status == "canceled"
    with pytest.raises(StanzaError) as refused:
        await admin.go_on(session, "complete")
    assert (refused.value.condition, refused.value.extra) == ("not-allowed", ["session-expired"])
    session["id"] = "never"
    with pytest.raises(StanzaError) as refused:
        await admin.go_on(session, "complete")
    assert (refused.value.condition, refused.value.extra) == ("bad-request", ["bad-sessionid"])


async def test_an_owner_ends_all_sessions_and_hears_of_it_first(usher, clients):
    jid, password = await usher.account("alice")
    desk = await clients("slixmpp", jid, password, resource="desk").online()
    phone = await clients("slixmpp", jid, password, resource="phone").online()
    told = await desk.command(f"{OURS}session-end", selector=[jid])
    assert told.notes == [("info", "2 sessions ended")]
    assert {row["jid"][0] for row in told.rows} == {desk.jid, phone.jid}
    for client in (desk, phone):
        await client.expect("stream-error")
        await client.closed()
    assert await usher.sessions(jid) == []


async def test_who_shuts_the_service_down_is_told_so(usher, admin):
    told = await admin.administer("shutdown")
    assert told.notes == [("info", "the server is stopping")]
    assert (await admin.expect("stream-error"))["condition"] == "system-shutdown"
    assert await usher.gone() == 0
