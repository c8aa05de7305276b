"""An admin lists, watches and ends the sessions of real clients at the command line."""

import asyncio
import json

import pytest

import contract
from client import LOGIN, Refused


def outcomes(done):
    """JID and outcome of each session that `session end --json` names."""
    return {session["jid"]: session[contract.END_OUTCOME] for session in done[contract.ROWS]}


async def told(client, condition, text=None):
    """The client was told why, in full, and the stream was closed."""
    error = await client.expect("stream-error")
    assert error["condition"] == condition
    assert error["text"], "no word of explanation"
    assert error["extra"] == [contract.ENDED_ELEMENT]
    if text is not None:
        assert error["text"] == text
    await client.closed()


# --- seeing ---------------------------------------------------------------------------------------


async def test_each_stage_is_listed(usher, clients, kind):
    jid, password = await usher.account("alice")
    client = clients(kind, jid, password, resource="desk")
    await client.login()
    bound = await usher.session(client.jid)
    assert contract.SESSION_FIELDS <= bound.keys()
    assert (bound["stage"], bound["available"], bound["interested"]) == ("bound", False, False)

    await client.presence()
    await client.expect("presence", **{"from": client.jid})
    there = await usher.session(client.jid)
    assert (there["stage"], there["available"], there["interested"]) == ("available", True, False)

    await client.roster()
    both = await usher.session(client.jid)
    assert (both["stage"], both["available"], both["interested"]) == ("interested", True, True)
    assert both["id"] == bound["id"]
    assert both["rx_stanzas"] > bound["rx_stanzas"]
    assert both["rx_bytes"] > bound["rx_bytes"]
    assert both["tx_bytes"] > bound["tx_bytes"]


async def test_roster_before_presence_is_listed_too(usher, clients, kind):
    client = clients(kind, *await usher.account("alice"))
    await client.login()
    await client.roster()
    session = await usher.session(client.jid)
    assert (session["stage"], session["available"]) == ("interested", False)


async def test_a_bare_connection_is_listed_as_unauthed(usher):
    _, writer = await asyncio.open_connection("127.0.0.1", usher.door.c2s)
    port = writer.get_extra_info("sockname")[1]
    async with asyncio.timeout(LOGIN):
        while not (found := await usher.sessions("--stage", "unauthed")):
            await asyncio.sleep(0.05)
    [session] = found
    assert session["jid"] is None
    assert (session["address"], session["port"]) == ("127.0.0.1", port)
    assert (session["tls"], session["mechanism"]) == (None, None)
    writer.close()


async def test_authenticated_but_unbound_is_listed_and_ends_with_its_account(usher, clients):
    jid, password = await usher.account("alice")
    client = clients("slixmpp", jid, password, bind=False)
    await client.login()
    [session] = await usher.sessions("--stage", "c2s")
    assert session["jid"] == jid
    await usher.ok("session", "end", jid)
    await client.closed()
    assert await usher.sessions("--stage", "c2s") == []


async def test_list_filters_by_pattern_and_stage_and_count_agrees(usher, clients, kind):
    for name in ("alice", "alan", "bob"):
        await clients(kind, *await usher.account(name), resource="desk").online()
    assert {s["jid"] for s in await usher.sessions("al*")} == {
        "alice@localhost/desk",
        "alan@localhost/desk",
    }
    assert {s["jid"] for s in await usher.sessions("bob@localhost")} == {"bob@localhost/desk"}
    assert await usher.sessions("nobody@localhost") == []
    assert len(await usher.sessions("--stage", "interested")) == 3
    assert (await usher.json("session", "count"))[contract.COUNT_TOTAL] == 3


async def test_show_by_address_and_by_id(usher, clients, kind):
    client = await clients(kind, *await usher.account("alice")).online()
    by_jid = await usher.json("session", "show", client.jid)
    by_id = await usher.json("session", "show", by_jid["id"])
    assert by_jid["jid"] == by_id["jid"] == client.jid
    missing = await usher.cli("session", "show", "nobody@localhost/x", "--json")
    assert missing.status == contract.NO_MATCH, str(missing)


async def test_watch_tells_a_session_s_life(usher, clients, kind):
    jid, password = await usher.account("alice")
    watch = await usher.spawn("session", "watch", "--json")
    try:
        # The watch is in place when it shows a session that is made for the purpose.
        probes = []
        first = asyncio.create_task(watch.stdout.readline())
        async with asyncio.timeout(LOGIN):
            while not first.done():
                _, writer = await asyncio.open_connection("127.0.0.1", usher.door.c2s)
                probes.append(writer)
                await asyncio.wait([first], timeout=0.2)
        for writer in probes:
            writer.close()

        client = await clients(kind, jid, password, resource="desk").online()
        await usher.ok("session", "end", client.jid)
        session, events = None, {}
        async with asyncio.timeout(LOGIN):
            while session is None or events[session][-1] != "ended":
                change = json.loads(await watch.stdout.readline())
                events.setdefault(change["id"], []).append(change[contract.WATCH_CHANGE])
                if change["jid"] == client.jid:
                    session = change["id"]
        assert events[session] == contract.WATCH_LIFE
    finally:
        watch.kill()
        await watch.wait()


# --- ending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", ["full", "bare", "id", "token", "ip", "cidr", "all"])
async def test_end_by_each_selector(usher, clients, pair, selector):
    alice, bob = await clients.friends(pair)
    session = await usher.session(alice.jid)
    if selector == "token":
        # Alice comes back with a token first, for it to be the handle.
        await alice.logout()
        await alice.closed()
        await bob.expect("presence", type="unavailable", **{"from": alice.jid})
        token_id, token = await usher.mint(alice.bare)
        alice = clients(pair[0], alice.bare, token, resource="desk", mechanism="PLAIN")
        await alice.online()
        session = await usher.session(alice.jid)
        assert session["token"] == token_id
        await bob.expect("presence", type=None, **{"from": alice.jid})
    chosen = {
        "full": [alice.jid],
        "bare": [alice.bare],
        "id": ["--id", session["id"]],
        "token": ["--token", str(session["token"])],
        "ip": ["--ip", "127.0.0.1"],
        "cidr": ["--ip", "127.0.0.0/8"],
        "all": ["--all"],
    }[selector]
    everybody = selector in ("ip", "cidr", "all")
    ended = {alice.jid, bob.jid} if everybody else {alice.jid}

    before = await usher.sessions()
    dry = await usher.json("session", "end", *chosen, "--dry-run")
    assert dry[contract.DRY_RUN_COUNT] == len(ended)
    assert outcomes(dry) == dict.fromkeys(ended, contract.WOULD_END)
    assert {s["id"] for s in await usher.sessions()} == {s["id"] for s in before}
    for client in (alice, bob):
        await client.barrier()
        client.none("stream-error")

    done = await usher.json("session", "end", *chosen, "--reason", "Time for tea & cake")
    assert outcomes(done) == dict.fromkeys(ended, contract.ENDED)
    assert done[contract.END_COUNT] == len(ended)
    # It says so only when it is really gone.
    assert {s["jid"] for s in await usher.sessions()}.isdisjoint(ended)
    await told(alice, contract.KICKED, "Time for tea & cake")
    if everybody:
        await told(bob, contract.KICKED, "Time for tea & cake")
    else:
        await bob.expect("presence", type="unavailable", **{"from": alice.jid})
        await bob.barrier()
        bob.none("presence", type="unavailable")
        bob.none("stream-error")

    again = await usher.cli("session", "end", *chosen, "--json")
    assert again.status == contract.NO_MATCH, str(again)


async def test_a_full_address_ends_one_device_and_a_bare_one_all(usher, clients, kind):
    jid, password = await usher.account("alice")
    desk, phone, tablet = [
        await clients(kind, jid, password, resource=name).online()
        for name in ("desk", "phone", "tablet")
    ]
    assert outcomes(await usher.json("session", "end", desk.jid)) == {desk.jid: contract.ENDED}
    await told(desk, contract.KICKED)
    await phone.expect("presence", type="unavailable", **{"from": desk.jid})
    await phone.barrier()
    await tablet.barrier()

    done = await usher.json("session", "end", jid)
    assert outcomes(done) == dict.fromkeys((phone.jid, tablet.jid), contract.ENDED)
    await told(phone, contract.KICKED)
    await told(tablet, contract.KICKED)


async def test_several_selectors_end_each_session_once(usher, clients, kind):
    jid, password = await usher.account("alice")
    client = await clients(kind, jid, password).online()
    session = await usher.session(client.jid)
    done = await usher.json("session", "end", client.jid, jid, "--id", session["id"])
    assert len(done[contract.ROWS]) == 1
    assert outcomes(done) == {client.jid: contract.ENDED}


@pytest.mark.parametrize("level", contract.CONDITION_OF_LEVEL)
async def test_what_each_level_leaves_of_a_token(usher, clients, kind, level):
    jid, _ = await usher.account("alice")
    _, token = await usher.mint(jid)
    client = await clients(kind, jid, token, mechanism="PLAIN").online()
    await usher.ok("session", "end", client.jid, "--level", level)
    await told(client, contract.CONDITION_OF_LEVEL[level])

    back = clients(kind, jid, token, mechanism="PLAIN")
    if level == "revoke":
        with pytest.raises(Refused) as refused:
            await back.login()
        assert refused.value.condition == contract.TOKEN_REVOKED
    else:
        await back.online()


async def test_a_kicked_client_that_reconnects_by_itself_gets_in_again(usher, clients):
    client = clients("@xmpp/client", *await usher.account("alice"), resource="desk", reconnect=True)
    await client.login()
    await client.expect("online")
    first = await usher.session(client.jid)
    await usher.ok("session", "end", client.jid, "--level", "kick")
    await client.expect("stream-error", condition=contract.KICKED)
    await client.expect("online", jid="alice@localhost/desk")
    second = await usher.session(client.jid)
    assert second["id"] != first["id"]


async def test_a_client_that_stopped_answering_is_ended_all_the_same(usher, clients):
    alice, bob = await clients.friends(("@xmpp/client", "slixmpp"))
    alice.freeze()
    try:
        done = await usher.json("session", "end", alice.jid)
        assert outcomes(done) == {alice.jid: contract.ENDED}
        await bob.expect("presence", type="unavailable", **{"from": alice.jid})
    finally:
        alice.thaw()


@pytest.mark.parametrize(
    "arguments, status",
    [
        (["session", "end"], contract.USAGE),
        (["session", "end", "--ip", "not-an-address"], contract.USAGE),
        (["session", "end", "--level", "gently", "--all"], contract.USAGE),
        (["session", "end", "two@@ats"], contract.USAGE),
        (["session", "list", "--stage", "asleep"], contract.USAGE),
        (["session", "dance"], contract.USAGE),
        (["session", "end", "nobody@localhost"], contract.NO_MATCH),
        (["session", "end", "--id", "a" * 26], contract.NO_MATCH),
        (["session", "end", "--id", "no-such-session"], contract.USAGE),
        (["session", "end", "--token", "no such token"], contract.USAGE),
        (["session", "show", "a" * 26], contract.NO_MATCH),
        (["session", "end", "--ip", "192.0.2.0/24"], contract.NO_MATCH),
        (["user", "show", "two@@ats"], contract.USAGE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_exit_status(usher, arguments, status):
    done = await usher.cli(*arguments)
    assert done.status == status, str(done)
    said = done.err if status != contract.NO_MATCH else done.err + done.out
    assert said.strip(), "nothing says what was wrong"
