"""Login by both clients: STARTTLS and direct TLS, SCRAM with and without channel binding, refusals.

RFC 6120 sections 5 to 7, RFC 5802, RFC 5929, XEP-0368, XEP-0440.
"""

import base64
import re
from dataclasses import replace

import pytest

import contract
from client import Dropped, Refused
from raw import Raw, auth


async def test_logs_in_over_both_kinds_of_tls(usher, clients, kind, tls):
    client = clients(kind, *await usher.account("alice"), resource="desk", tls=tls)
    await client.online()
    assert client.jid == "alice@localhost/desk"
    assert client.used.startswith("SCRAM-SHA-")

    session = await usher.session(client.jid)
    assert session["mechanism"] == client.used
    assert "1.3" in str(session["tls"]), session
    assert session["address"].startswith("127.0.0.1"), session
    assert session["token"] is None


@pytest.mark.parametrize(
    "kind, mechanism",
    [
        ("slixmpp", "SCRAM-SHA-256"),
        ("slixmpp", "SCRAM-SHA-1"),
        ("slixmpp", "PLAIN"),
        ("@xmpp/client", "SCRAM-SHA-1"),
        ("@xmpp/client", "PLAIN"),
    ],
)
async def test_each_mechanism_opens_a_session(usher, clients, kind, mechanism):
    client = clients(kind, *await usher.account("alice"), mechanism=mechanism)
    await client.online()
    assert client.used == mechanism
    assert (await usher.session(client.jid))["mechanism"] == mechanism


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"])
async def test_scram_binds_to_the_certificate(usher, clients, mechanism, tls):
    client = clients(
        "slixmpp",
        *await usher.account("alice"),
        tls=tls,
        mechanism=mechanism,
        channel_binding=lambda digest: digest,
    )
    await client.online()
    assert client.used == mechanism
    assert (await usher.session(client.jid))["mechanism"] == mechanism


async def test_the_wrong_certificate_in_the_binding_is_refused(usher, clients):
    client = clients(
        "slixmpp",
        *await usher.account("alice"),
        mechanism="SCRAM-SHA-256-PLUS",
        channel_binding=lambda digest: bytes(byte ^ 1 for byte in digest),
    )
    with pytest.raises(Refused) as refused:
        await client.login()
    assert refused.value.condition == contract.WRONG_PASSWORD


@pytest.mark.parametrize(
    "kind, mechanism",
    [
        ("slixmpp", "SCRAM-SHA-256"),
        ("slixmpp", "PLAIN"),
        ("@xmpp/client", "SCRAM-SHA-1"),
        ("@xmpp/client", "PLAIN"),
    ],
)
async def test_wrong_password_and_unknown_user_look_the_same(usher, clients, kind, mechanism):
    jid, _ = await usher.account("alice")
    answers = []
    for who in (jid, f"nobody@{usher.domain}"):
        client = clients(kind, who, usher.secret(), mechanism=mechanism)
        with pytest.raises(Refused) as refused:
            await client.login()
        answers.append((refused.value.condition, refused.value.text))
    assert answers[0] == answers[1]
    assert answers[0][0] == contract.WRONG_PASSWORD
    assert all(session["jid"] is None for session in await usher.sessions())


async def test_certificates_are_really_verified(usher, clients, kind, tls, stranger):
    """Guards the tests: a client that pins another server's certificate does not get in."""
    client = clients(kind, *await usher.account("alice"), tls=tls)
    client.door = replace(client.door, certificate=stranger.door.certificate)
    with pytest.raises((Dropped, RuntimeError)):
        await client.login()
    assert all(session["mechanism"] is None for session in await usher.sessions())


async def test_the_server_chooses_a_resource_when_none_is_asked_for(usher, clients, kind):
    jid, password = await usher.account("alice")
    one = await clients(kind, jid, password).online()
    other = await clients(kind, jid, password).online()
    assert one.jid != other.jid
    assert all(client.jid.startswith(f"{jid}/") for client in (one, other))


async def test_the_same_resource_again_replaces_the_older_session(usher, clients, pair):
    jid, password = await usher.account("alice")
    older = await clients(pair[0], jid, password, resource="desk").online()
    newer = await clients(pair[1], jid, password, resource="desk").online()
    error = await older.expect("stream-error")
    assert error["condition"] == contract.REPLACED
    await older.closed()
    assert newer.jid == f"{jid}/desk"
    await newer.barrier()
    await usher.session(newer.jid)


async def test_a_refused_login_is_in_the_log_with_its_account_and_address(usher):
    jid, password = await usher.account("alice")
    raw = await Raw.secured(usher.door)
    for user, secret in (("alice", usher.secret()), ("nobody", password)):
        raw.send(auth("PLAIN", f"\0{user}\0{secret}".encode()))
        await raw.until("</failure>")
    raw.send(auth("SCRAM-SHA-256", b"n,,n=alice,r=abc"))
    challenge = re.search(r">([^<>]*)</challenge>", await raw.until("</challenge>"))[1]
    nonce = re.search(r"r=[^,]*", base64.b64decode(challenge).decode())[0]
    wrong = base64.b64encode(f"c=biws,{nonce},p={'A' * 43}=".encode()).decode()
    raw.send(f"<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{wrong}</response>")
    await raw.until("</failure>")
    refused = usher.events("login-refused")
    assert len(refused) == 3, refused
    for line, who in zip(refused, (jid, f"nobody@{usher.domain}", jid)):
        assert f'jid="{who}"' in line and 'condition="not-authorized"' in line, line
        assert "address=127.0.0.1" in line, line
    raw.cut()
