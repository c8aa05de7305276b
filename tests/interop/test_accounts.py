"""Accounts at the command line, as the real clients of those accounts feel it."""

import pytest

import contract
from client import Refused


async def refusal(client):
    with pytest.raises(Refused) as refused:
        await client.login()
    return refused.value


async def told(client, condition):
    error = await client.expect("stream-error")
    assert error["condition"] == condition
    assert error["text"]
    await client.closed()


@pytest.mark.parametrize(
    "kind, mechanism",
    [
        ("slixmpp", "SCRAM-SHA-256"),
        ("slixmpp", "PLAIN"),
        ("@xmpp/client", "SCRAM-SHA-1"),
        ("@xmpp/client", "PLAIN"),
    ],
)
async def test_a_disabled_account_is_out_and_told_so(usher, clients, kind, mechanism):
    jid, password = await usher.account("alice")
    client = await clients(kind, jid, password).online()
    await usher.ok("user", "disable", jid)
    assert await usher.sessions(jid) == []
    await told(client, contract.DISABLED)
    assert (await usher.json("user", "show", jid))[contract.USER_ENABLED] is False

    refused = await refusal(clients(kind, jid, password, mechanism=mechanism))
    assert refused.condition == contract.ACCOUNT_DISABLED
    guess = await refusal(clients(kind, jid, usher.secret(), mechanism=mechanism))
    assert guess.condition == contract.WRONG_PASSWORD, "told to one who does not know the password"

    await usher.ok("user", "enable", jid)
    await clients(kind, jid, password, mechanism=mechanism).online()


async def test_a_token_of_a_disabled_account_is_out_too(usher, clients, kind):
    jid, _ = await usher.account("alice")
    _, token = await usher.mint(jid)
    await usher.ok("user", "disable", jid)
    refused = await refusal(clients(kind, jid, token, mechanism="PLAIN"))
    assert refused.condition == contract.ACCOUNT_DISABLED


async def test_a_deleted_account_is_gone_and_its_name_inherits_nothing(usher, clients, pair):
    alice, bob = await clients.friends(pair)
    await bob.logout()
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    _, token = await usher.mint(bob.bare)
    await bob.online()
    await usher.ok("user", "delete", bob.bare)
    await told(bob, contract.DELETED)
    await alice.expect("presence", type="unavailable", **{"from": bob.jid})
    refused = await refusal(clients(pair[1], bob.bare, bob.secret))
    assert refused.condition == contract.WRONG_PASSWORD
    assert [a[contract.USER_JID] for a in await usher.list("user", "list")] == [alice.bare]

    await usher.account("bob")
    assert await usher.list("token", "list", bob.bare) == []
    assert (await refusal(clients(pair[1], bob.bare, token, mechanism="PLAIN"))).condition in (
        contract.TOKEN_FORGED,
        contract.TOKEN_REVOKED,
    )


async def test_a_new_password_ends_sessions_and_only_it_opens_new_ones(usher, clients, kind):
    jid, old = await usher.account("alice")
    client = await clients(kind, jid, old).online()
    new = usher.secret()
    await usher.ok("user", "password", jid, "--password-stdin", input=new + "\n")
    await told(client, contract.PASSWORD_CHANGED)
    assert (await refusal(clients(kind, jid, old))).condition == contract.WRONG_PASSWORD
    await clients(kind, jid, new).online()


async def test_roles_are_set_and_shown(usher, clients, kind):
    jid, password = await usher.account("alice")
    admin, _ = await usher.account("root", "--role", "admin")
    assert (await usher.json("user", "show", jid))[contract.USER_ROLE] == "user"
    assert (await usher.json("user", "show", admin))[contract.USER_ROLE] == "admin"
    client = await clients(kind, jid, password).online()
    await usher.ok("user", "role", jid, "operator")
    assert (await usher.json("user", "show", jid))[contract.USER_ROLE] == "operator"
    # Its session has the new role at once, and stays.
    assert (await usher.json("session", "show", jid))["role"] == "operator"


@pytest.mark.parametrize("by_stdin", [False, True], ids=["file", "stdin"])
async def test_import_adds_the_good_rows_and_names_the_bad_ones(
    usher, clients, kind, by_stdin, tmp_path
):
    taken, _ = await usher.account("taken")
    words = {name: usher.secret() for name in ("ann", "ben", "cleo")}
    lost = usher.secret()
    rows = [
        f"ann@localhost,{words['ann']}",
        f"not a jid,{lost}",
        f"ben@localhost,{words['ben']},operator",
        "dan@localhost,",
        f"eve@localhost,{lost},emperor",
        f"{taken},{lost}",
        f"fay@elsewhere.example,{lost}",
        "gus@localhost",
        f"cleo@localhost,{words['cleo']},admin",
    ]
    table = tmp_path / "people.csv"
    table.write_text("\n".join(rows) + "\n")
    if by_stdin:
        done = await usher.json("user", "import", "-", input=table.read_text())
    else:
        done = await usher.json("user", "import", str(table))
    assert done[contract.IMPORT_ADDED] == 3
    assert done[contract.IMPORT_SKIPPED] == 6
    bad = sorted(row[contract.IMPORT_ROW] for row in done[contract.ROWS])
    assert bad == [2, 4, 5, 6, 7, 8]
    assert all(row[contract.IMPORT_PROBLEM] for row in done[contract.ROWS])
    table.unlink()

    roles = {a[contract.USER_JID]: a[contract.USER_ROLE] for a in await usher.list("user", "list")}
    assert roles == {
        "ann@localhost": "user",
        "ben@localhost": "operator",
        "cleo@localhost": "admin",
        taken: "user",
    }
    for name, password in words.items():
        await clients(kind, f"{name}@localhost", password).online()


@pytest.mark.parametrize("kind, spelling", [("slixmpp", "ALICE"), ("@xmpp/client", "Alice")])
async def test_letter_case_does_not_make_another_account(usher, clients, kind, spelling):
    _, password = await usher.account("alice")
    client = await clients(kind, f"{spelling}@localhost", password, resource="Desk").online()
    assert client.jid == "alice@localhost/Desk"


@pytest.mark.parametrize(
    "arguments, status",
    [
        (["user", "add", "alice@localhost", "--password-stdin"], contract.FAILED),
        (["user", "add", "x@elsewhere.example", "--password-stdin"], contract.FAILED),
        (["user", "add", "alice@localhost", "--password", "secret"], contract.USAGE),
        (["user", "add"], contract.USAGE),
        (["user", "role", "alice@localhost", "emperor"], contract.USAGE),
        (["user", "disable", "nobody@localhost"], contract.FAILED),
        (["user", "show", "nobody@localhost"], contract.NO_MATCH),
        (["user", "import", "no-such-file.csv"], contract.FAILED),
        (["user", "dance"], contract.USAGE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_exit_status(usher, arguments, status):
    await usher.account("alice")
    done = await usher.cli(*arguments, input="some password\n")
    assert done.status == status, str(done)
    said = done.err if status != contract.NO_MATCH else done.err + done.out
    assert said.strip(), "nothing says what was wrong"
