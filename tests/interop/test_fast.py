"""One round trip from nothing to a session: SASL 2 with Bind 2 and a token of FAST (XEP-0388, 0386,
0484), as `@xmpp/client` does it and in raw bytes."""

import asyncio
import base64
import hmac
import re

import pytest

import contract
from raw import HEADER, Raw, authenticate, auth, hashed
from usher import START

AGENT = "d4565fa7-4d72-4749-b3d3-740edbf87770"
FAST = "urn:xmpp:fast:0"
TOKEN = "HT-SHA-256-NONE"
PASSWORD = "SCRAM-SHA-1"


@pytest.fixture
async def alice(usher, clients, tls):
    """Logged in with her password; the token that she got is a secret to be looked for."""
    account = await usher.account("alice")
    client = clients(
        "@xmpp/client", *account, resource="desk", modern=True, agent=AGENT, tls=tls
    )
    await client.login()
    await remember(usher, client)
    return client


async def remember(usher, client):
    """The text of a client's token, which must not be found anywhere when the test is over."""
    token = (await client.token())["token"]
    assert contract.TOKEN.fullmatch(token), "not a token as RFC 8959 writes it"
    usher.secrets.update({token.removeprefix("secret-token:"), token[-20:]})
    return token


def exchange(client):
    """What was said of logging in, and takes it out: direction, element and mechanism."""
    said = [event for event in client.backlog if event.kind == "login"]
    client.backlog = [event for event in client.backlog if event.kind != "login"]
    return [(event["direction"], event["name"], event["mechanism"]) for event in said]


ONE_ROUND_TRIP = [("out", "authenticate", TOKEN), ("in", "success", None)]
WITH_PASSWORD = [
    ("out", "authenticate", PASSWORD),
    ("in", "challenge", None),
    ("out", "response", PASSWORD),
    ("in", "success", None),
]
FALLEN_BACK = [("out", "authenticate", TOKEN), ("in", "failure", None), *WITH_PASSWORD]


async def test_the_next_login_takes_one_round_trip(usher, alice):
    assert exchange(alice) == WITH_PASSWORD
    first, jid = await usher.session(alice.jid), alice.jid
    assert (first["mechanism"], first["token"]) == (PASSWORD, None)
    await alice.logout()
    assert not await alice.again()
    assert exchange(alice) == ONE_ROUND_TRIP
    assert alice.jid == jid, "the same installation has the same resource"
    second = await usher.session(alice.jid)
    assert second["mechanism"] == TOKEN
    assert second["token"] and second["id"] != first["id"]
    assert second["client"] == first["client"]
    # It is there for its account's owner to see and to revoke, and its text is not.
    [listed] = await usher.list("token", "list", alice.bare)
    assert listed[contract.TOKEN_ID] == second["token"]
    assert "secret" not in str(listed)
    await alice.roster()


@pytest.mark.parametrize("tls", ["starttls"])
async def test_a_resumption_takes_one_round_trip_too(usher, alice):
    await alice.roster()
    exchange(alice)
    first = await usher.session(alice.jid)
    await alice.cut()
    assert await alice.again()
    assert exchange(alice) == ONE_ROUND_TRIP
    second = await usher.session(alice.jid)
    assert second["id"] == first["id"]
    assert (second["mechanism"], second["resumptions"]) == (TOKEN, 1)
    await alice.roster()


@pytest.mark.parametrize("tls", ["starttls"])
@pytest.mark.settings('[tokens]\nfast_rotate = "1s"\n')
async def test_a_token_is_replaced_when_it_is_old(usher, alice):
    tokens = [await remember(usher, alice)]

    async def replaced():
        exchange(alice)
        async with asyncio.timeout(START):
            while (token := await remember(usher, alice)) in tokens:
                await alice.logout()
                assert not await alice.again()
                assert exchange(alice) == ONE_ROUND_TRIP
        tokens.append(token)

    await replaced()
    await replaced()
    [_] = await usher.sessions(alice.bare)
    # The first one is a stolen one by now.
    thief = await Raw.direct(usher.door)
    await thief.open()
    proof = b"alice\0" + hashed(tokens[0])
    thief.send(authenticate(TOKEN, proof, f"<user-agent id='{AGENT}'/><fast xmlns='{FAST}'/>"))
    assert "<credentials-expired" in await thief.until("</failure>")
    await alice.closed()
    exchange(alice)
    await alice.again()
    assert exchange(alice) == FALLEN_BACK
    await remember(usher, alice)


@pytest.mark.parametrize("tls", ["starttls"])
async def test_a_new_password_kills_the_token_and_the_client_falls_back(usher, alice):
    exchange(alice)
    new = usher.secret()
    await usher.ok("user", "password", alice.bare, "--password-stdin", input=new + "\n")
    error = await alice.expect("stream-error")
    assert error["condition"] == contract.PASSWORD_CHANGED
    await alice.closed()
    old = await alice.token()
    assert not await alice.again(new)
    assert exchange(alice) == FALLEN_BACK
    assert await remember(usher, alice) != old["token"]
    # And the new one is good.
    await alice.logout()
    assert not await alice.again()
    assert exchange(alice) == ONE_ROUND_TRIP


@pytest.mark.parametrize("tls", ["starttls"])
async def test_revoking_kills_the_token_but_not_the_password(usher, alice):
    exchange(alice)
    await usher.ok("session", "end", alice.jid, "--level", "revoke")
    error = await alice.expect("stream-error")
    assert error["condition"] == contract.REVOKED
    await alice.closed()
    assert not await alice.again()
    assert exchange(alice) == FALLEN_BACK
    await remember(usher, alice)


@pytest.mark.parametrize("tls", ["starttls"])
async def test_a_kick_leaves_the_token_alone(usher, alice):
    exchange(alice)
    await usher.ok("session", "end", alice.jid, "--level", "kick")
    await alice.expect("stream-error")
    await alice.closed()
    assert not await alice.again()
    assert exchange(alice) == ONE_ROUND_TRIP


@pytest.mark.parametrize("tls", ["starttls"])
async def test_a_token_outlives_kill_9(usher, alice):
    exchange(alice)
    await usher.kill9()
    await usher.start()
    assert not await alice.again()
    assert exchange(alice) == ONE_ROUND_TRIP


@pytest.mark.parametrize("tls", ["starttls"])
async def test_a_stream_goes_on_after_a_start_in_one_round_trip(usher, alice):
    await alice.presence()
    await alice.expect("presence", type=None)
    exchange(alice)
    before = await usher.session(alice.jid)
    assert await usher.stop() == 0
    await usher.start()
    assert await alice.again()
    assert exchange(alice) == ONE_ROUND_TRIP
    after = await usher.session(alice.jid)
    assert (after["id"], after["available"]) == (before["id"], True)
    assert (after["mechanism"], after["client"]) == (TOKEN, before["client"])


@pytest.mark.parametrize("tls", ["starttls"])
async def test_a_client_revoked_before_it_comes_back_after_a_start_needs_its_password(
    usher, alice
):
    exchange(alice)
    assert await usher.stop() == 0
    await usher.start()
    await usher.ok("session", "end", alice.bare, "--level", "revoke")
    assert not await alice.again()
    assert exchange(alice) == FALLEN_BACK
    await remember(usher, alice)


@pytest.mark.parametrize("tls", ["starttls"])
@pytest.mark.settings('[tokens]\nfast = "off"\n')
async def test_without_tokens_there_are_none(usher, clients, tls):
    account = await usher.account("alice")
    client = clients("@xmpp/client", *account, modern=True, agent=AGENT, tls=tls)
    await client.login()
    assert await client.token() is None
    await client.logout()
    exchange(client)
    await client.again()
    assert exchange(client) == WITH_PASSWORD


# --- raw bytes ------------------------------------------------------------------------------------


def inline(*, ask=False, resume="", count=None):
    """What comes with a login: Bind 2 with all it can have, and FAST."""
    counted = f" count='{count}'" if count else ""
    fast = f"<fast xmlns='{FAST}'{counted}/>"
    return (
        f"<user-agent id='{AGENT}'><software>raw</software></user-agent>{resume}"
        "<bind xmlns='urn:xmpp:bind:0'><tag>raw</tag><enable xmlns='urn:xmpp:sm:3' resume='1'/>"
        "<enable xmlns='urn:xmpp:carbons:2'/></bind>"
        + (f"<request-token xmlns='{FAST}' mechanism='{TOKEN}'/>" if ask else fast)
    )


def granted(usher, text):
    """The token and the id of the stream in a success."""
    token = re.search(r" token='([^']*)'", text)[1]
    usher.secrets.update({token.removeprefix("secret-token:"), token[-20:]})
    return token, re.search(r"<enabled[^>]* id='([^']*)'", text)[1]


@pytest.fixture
async def known(usher):
    """A raw client that has logged in with its password: itself, its token, its stream's id."""
    jid, password = await usher.account("alice")
    client = await Raw.direct(usher.door)
    await client.open()
    proof = f"\0alice\0{password}".encode()
    client.send(authenticate("PLAIN", proof, inline(ask=True)))
    text = await client.until("</stream:features>")
    return client, *granted(usher, text)


async def sent_at_once(usher, token, **more):
    """Everything that a login takes and a first request, in one write, before a byte has come."""
    client = await Raw.direct(usher.door)
    login = authenticate(TOKEN, b"alice\0" + hashed(token), inline(**more))
    ping = "<iq type='get' id='ping'><ping xmlns='urn:xmpp:ping'/></iq>"
    client.send(HEADER.format(usher.door.domain) + login + ping)
    return client


async def test_all_is_sent_at_once_and_answered_at_once(usher, known):
    old, token, _ = known
    old.send("</stream:stream>")
    await old.rest()
    client = await sent_at_once(usher, token)
    text = await client.until("id='ping'")
    order = ["<stream:stream ", "<stream:features>", "<success ", "<bound ", "<enabled ",
             "</success>", "<stream:features>", "<iq "]
    places = [found.start() for found in re.finditer("|".join(order), text)]
    assert [text[place:].startswith(part) for place, part in zip(places, order)] == [True] * 8
    # The server has the token as well.
    proof = re.search("<additional-data>(.*?)</additional-data>", text)[1]
    assert base64.b64decode(proof) == hmac.digest(token.encode(), b"Responder", "sha256")
    [session] = await usher.sessions("alice@localhost")
    assert (session["mechanism"], session["stage"]) == (TOKEN, "bound")
    assert (session["resumable"], session["resumptions"]) == (600, 0)


async def test_a_stream_goes_on_in_one_round_trip(usher, known):
    old, token, previd = known
    [before] = await usher.sessions("alice@localhost")
    old.cut()
    resume = f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>"
    client = await sent_at_once(usher, token, resume=resume)
    text = await client.until("id='ping'")
    after = text.partition("<success ")[2]
    assert re.search(f"<resumed [^>]*previd='{previd}' h='0'", after), after
    assert "<bound" not in after and "<stream:features" not in after
    [session] = await usher.sessions("alice@localhost")
    assert session["id"] == before["id"]


async def test_whoever_comes_later_has_the_stream_and_the_other_one_is_told(usher, known):
    old, token, previd = known
    resume = f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>"
    client = await sent_at_once(usher, token, resume=resume)
    await client.until("id='ping'")
    assert "<conflict" in await old.rest()
    await client.ping()


async def test_a_stream_that_is_over_is_not_resumed_and_a_resource_is_bound(usher, known):
    old, token, previd = known
    old.send("<message to='alice@localhost/x'/></stream:stream>")
    await old.rest()
    resume = f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>"
    client = await sent_at_once(usher, token, resume=resume)
    text = (await client.until("id='ping'")).partition("<success ")[2]
    # It is told how much of the old one was taken.
    assert re.search("<failed [^>]*h='1'><item-not-found", text), text
    assert text.index("<failed ") < text.index("<bound ") < text.index("<enabled ")


@pytest.mark.parametrize("name", ["bob", "nobody"])
async def test_a_token_is_good_for_its_owner_only(usher, known, name):
    _, token, _ = known
    await usher.account("bob")
    client = await Raw.direct(usher.door)
    await client.open()
    client.send(authenticate(TOKEN, f"{name}\0".encode() + hashed(token), inline()))
    assert "<not-authorized" in await client.until("</failure>")
    # The same stream takes the password.
    client.send(auth("PLAIN", b"\0bob\0wrong"))
    assert "<not-authorized" in await client.until("</failure>")


async def test_a_login_that_was_counted_is_not_repeated(usher, known):
    old, token, _ = known
    for count in (1, 2):
        client = await sent_at_once(usher, token, count=count)
        await client.until("id='ping'")
    for count in (2, 1):
        client = await sent_at_once(usher, token, count=count)
        assert "<not-authorized" in await client.until("</failure>")


async def test_a_login_that_fails_does_nothing_of_what_came_with_it(usher, known):
    old, token, previd = known
    resume = f"<resume xmlns='urn:xmpp:sm:3' previd='{previd}' h='0'/>"
    client = await sent_at_once(usher, token + "x", resume=resume)
    text = await client.rest()
    assert "<not-authorized" in text and "<resumed" not in text and "<bound" not in text
    await old.ping()
    [session] = await usher.sessions("alice@localhost")
    assert session["resumptions"] == 0


async def test_whoever_counts_less_than_it_gets_is_asked_again(usher, known):
    """A client that does not count everything is there all the same."""
    client, _, _ = known
    for number in range(3):
        client.send(f"<message to='alice@localhost' type='chat' id='m{number}'/>")
        client.send("<presence/>")
        await client.until("<r xmlns='urn:xmpp:sm:3'/>")
        client.send("<a xmlns='urn:xmpp:sm:3' h='0'/>")
        await client.ping()


async def test_a_login_without_bind_2_binds_afterwards_and_nobody_logs_in_twice(usher):
    jid, password = await usher.account("alice")
    proof = f"\0alice\0{password}".encode()
    client = await Raw.direct(usher.door)
    await client.open()
    client.send(authenticate("PLAIN", proof))
    text = await client.until("</stream:features>")
    assert f"<authorization-identifier>{jid}</authorization-identifier>" in text
    assert "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'" in text and "<mechanism" not in text
    bind = "<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
    client.send(bind)
    assert "type='result'" in await client.until("</iq>")
    client.send(bind)
    assert "<not-allowed" in await client.until("</iq>")
    client.send(authenticate("PLAIN", proof))
    assert "<stream:error>" in await client.rest()
    assert await usher.sessions(jid) == []


async def test_nobody_logs_in_by_sasl_2_in_the_clear(usher):
    jid, password = await usher.account("alice")
    client = await Raw.opened(usher.door)
    client.send(authenticate("PLAIN", f"\0alice\0{password}".encode()))
    client.send("</stream:stream>")
    assert "<success" not in await client.rest()
    assert await usher.sessions(jid) == []
