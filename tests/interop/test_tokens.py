"""Tokens: minted at the console, used by real clients, revoked, and dead from then on.

RFC 8959 (the `secret-token:` form), RFC 7628 (OAUTHBEARER), RFC 6120 section 6.5 (refusals).
"""

import pytest

import contract
from client import Refused

WAYS = [("slixmpp", "PLAIN"), ("slixmpp", "OAUTHBEARER"), ("@xmpp/client", "PLAIN")]


async def refusal(client):
    with pytest.raises(Refused) as refused:
        await client.login()
    return refused.value


@pytest.mark.parametrize("kind, mechanism", WAYS)
async def test_a_client_comes_back_with_a_token(usher, clients, kind, mechanism, tls):
    jid, password = await usher.account("alice")
    first = await clients(kind, jid, password, resource="desk").online()
    await usher.ok("session", "end", first.jid)
    await first.closed()

    token_id, token = await usher.mint(jid, "--ttl", "1h", "--label", "desk at home")
    client = await clients(kind, jid, token, resource="desk", mechanism=mechanism, tls=tls).online()
    assert client.jid == f"{jid}/desk"
    session = await usher.session(client.jid)
    assert (session["mechanism"], session["token"]) == (mechanism, token_id)


@pytest.mark.parametrize("kind, mechanism", WAYS)
async def test_a_revoked_token_ends_its_session_and_says_why_it_is_refused(
    usher, clients, kind, mechanism
):
    jid, password = await usher.account("alice")
    token_id, token = await usher.mint(jid)
    client = await clients(kind, jid, token, mechanism=mechanism).online()
    other = await clients(kind, jid, password).online()

    await usher.ok("token", "revoke", token_id)
    assert {s["jid"] for s in await usher.sessions()} == {other.jid}
    error = await client.expect("stream-error")
    assert error["condition"] == contract.REVOKED
    assert error["extra"] == [contract.ENDED_ELEMENT]
    await client.closed()
    await other.barrier()

    refused = await refusal(clients(kind, jid, token, mechanism=mechanism))
    assert refused.condition == contract.TOKEN_REVOKED
    assert "revoked" in refused.text


@pytest.mark.parametrize("kind, mechanism", WAYS)
async def test_who_never_held_a_token_learns_nothing_about_it(usher, clients, kind, mechanism):
    jid, _ = await usher.account("alice")
    live_id, live = await usher.mint(jid)
    dead_id, dead = await usher.mint(jid)
    await usher.ok("token", "revoke", dead_id)
    told = set()
    for token in (live, dead):
        # The right id, and a secret that is wrong in one character.
        forged = token[:-3] + ("A" if token[-3] != "A" else "B") + token[-2:]
        refused = await refusal(clients(kind, jid, forged, mechanism=mechanism))
        told.add((refused.condition, refused.text))
    [(condition, _)] = told
    assert condition == contract.TOKEN_FORGED
    await clients(kind, jid, live, mechanism=mechanism).online()


@pytest.mark.parametrize("kind, mechanism", WAYS)
async def test_a_token_opens_no_other_account(usher, clients, kind, mechanism):
    alice, _ = await usher.account("alice")
    bob, _ = await usher.account("bob")
    _, token = await usher.mint(alice)
    refused = await refusal(clients(kind, bob, token, mechanism=mechanism))
    assert refused.condition == contract.TOKEN_FORGED


async def test_a_token_for_something_else_opens_no_session(usher, clients, kind):
    jid, _ = await usher.account("alice")
    _, token = await usher.mint(jid, "--purpose", "metrics")
    await refusal(clients(kind, jid, token, mechanism="PLAIN"))
    assert await usher.sessions(jid) == []


async def test_a_token_for_one_resource_binds_that_one(usher, clients, kind):
    jid, _ = await usher.account("alice")
    _, token = await usher.mint(jid, "--resource", "pager")
    client = clients(kind, jid, token, resource="pager", mechanism="PLAIN")
    await client.online()
    assert client.jid == f"{jid}/pager"
    free = await clients(kind, jid, token, mechanism="PLAIN").online()
    assert free.jid == f"{jid}/pager"


async def test_a_password_change_voids_tokens(usher, clients, kind):
    jid, _ = await usher.account("alice")
    _, token = await usher.mint(jid)
    await usher.ok("user", "password", jid, "--password-stdin", input=usher.secret() + "\n")
    refused = await refusal(clients(kind, jid, token, mechanism="PLAIN"))
    assert refused.condition == contract.TOKEN_REVOKED
    assert refused.text


async def test_the_list_names_tokens_and_shows_no_secret(usher):
    jid, _ = await usher.account("alice")
    ids = {(await usher.mint(jid, "--label", label))[0] for label in ("one", "two")}
    await usher.ok("token", "revoke", min(ids))
    listed = await usher.list("token", "list", jid)
    assert {token[contract.TOKEN_ID] for token in listed} == ids
    assert {token["label"] for token in listed} == {"one", "two"}
    states = {token[contract.TOKEN_ID]: token[contract.TOKEN_STATE] for token in listed}
    assert states == {min(ids): "revoked", max(ids): "valid"}
    # That no secret is in what was printed is searched for at the end of every test.


async def test_the_plain_output_of_mint_carries_the_token_once(usher, clients, kind):
    jid, _ = await usher.account("alice")
    done = await usher.cli("token", "mint", jid, record=False)
    assert done.status == contract.DONE
    [token] = contract.TOKEN.findall(done.out)
    usher.secrets.add(token.removeprefix("secret-token:"))
    await clients(kind, jid, token, mechanism="PLAIN").online()


async def test_a_token_that_is_not_there_is_nothing_matched(usher):
    jid, _ = await usher.account("alice")
    token_id, _ = await usher.mint(jid)
    # Revoked and without a session: known, but there is nothing to end.
    await usher.ok("token", "revoke", token_id)
    done = await usher.cli("session", "end", "--token", token_id)
    assert done.status == contract.NO_MATCH, str(done)
    await usher.ok("user", "delete", jid)
    done = await usher.cli("token", "revoke", token_id)
    assert done.status == contract.NO_MATCH, str(done)


@pytest.mark.parametrize(
    "arguments, status",
    [
        (["token", "mint", "nobody@localhost"], contract.FAILED),
        (["token", "mint"], contract.USAGE),
        (["token", "mint", "alice@localhost", "--ttl", "soon"], contract.USAGE),
        (["token", "revoke", "no such token"], contract.USAGE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_exit_status(usher, arguments, status):
    await usher.account("alice")
    done = await usher.cli(*arguments)
    assert done.status == status, str(done)
    said = done.err if status != contract.NO_MATCH else done.err + done.out
    assert said.strip(), "nothing says what was wrong"
