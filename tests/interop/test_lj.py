"""LiveJournal's protocol of a running server, spoken by Python's own `xmlrpc.client` and `urllib`."""

import asyncio
import hashlib
import hmac
import urllib.error
import urllib.parse
import urllib.request
import xmlrpc.client

import pytest

import contract
from client import Refused

pytestmark = pytest.mark.settings("[lj]\nenabled = true\n")


class Failed(Exception):
    """What the server answers if it does not do it; by XML-RPC with a number."""

    def __init__(self, text, number=None):
        super().__init__(text)
        self.text, self.number = text, number


class Flat:
    """Forms, answered by lines."""

    def __init__(self, usher):
        self._url = f"http://127.0.0.1:{usher.door.http}/interface/flat"

    async def __call__(self, mode, cookie=None, expire=(), **fields):
        fields = {"mode": mode, **fields, **{f"expire_id_{id}": "1" for id in expire}}

        def ask():
            request = urllib.request.Request(
                self._url, data=urllib.parse.urlencode(fields).encode()
            )
            if cookie:
                request.add_header("Cookie", f"ljsession={cookie}")
                request.add_header("X-LJ-Auth", "cookie")
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.read().decode()

        lines = (await asyncio.to_thread(ask)).split("\n")[:-1]
        answer = dict(zip(lines[::2], lines[1::2], strict=True))
        if answer.pop("success") == "OK":
            assert "errmsg" not in answer
            return answer
        raise Failed(answer["errmsg"])


class XmlRpc:
    """Structs, answered by structs and faults."""

    def __init__(self, usher):
        self._url = f"http://127.0.0.1:{usher.door.http}/interface/xmlrpc"

    async def __call__(self, mode, cookie=None, expire=(), **fields):
        if "user" in fields:
            fields["username"] = fields.pop("user")
        if expire:
            fields["expire"] = list(expire)
        headers = [("Cookie", f"ljsession={cookie}"), ("X-LJ-Auth", "cookie")] if cookie else []

        def ask():
            with xmlrpc.client.ServerProxy(self._url, headers=headers) as server:
                return getattr(server.LJ.XMLRPC, mode)(fields)

        try:
            answer = await asyncio.to_thread(ask)
        except xmlrpc.client.Fault as fault:
            raise Failed(fault.faultString, fault.faultCode) from None
        outcome = answer.pop("outcome", {})
        answer.update({f"outcome_{id}": word for id, word in outcome.items()})
        return answer


@pytest.fixture(params=[Flat, XmlRpc], ids=["flat", "xmlrpc"])
def ask(request, usher):
    return request.param(usher)


async def failure(answer):
    with pytest.raises(Failed) as failed:
        await answer
    return failed.value


async def test_a_session_is_made_looked_at_and_ended(usher, ask):
    _, password = await usher.account("alice")
    alice = {"user": " Alice ", "password": password}
    assert (await ask("login", **alice))["username"] == "alice"
    session = (await ask("sessiongenerate", **alice, expiration="long"))["ljsession"]
    kind, user, number, auth = session.split(":")
    assert (kind, user, number) == ("ws", "alice", "1")
    usher.secrets.add(auth)

    visitor = {"user": "alice", "auth_method": "cookie", "cookie": session}
    seen = await ask("checksession", **visitor)
    assert (seen["class"], str(seen["session"]), seen["username"]) == ("long", number, "alice")
    assert auth not in str(seen)
    clients = await usher.json("client", "list", "alice@localhost")
    assert [client["sid"] for client in clients] == [int(number)]

    ended = await ask("sessionexpire", **alice, expire=[number, "77"], verbose="1")
    assert ended == {f"outcome_{number}": "ended", "outcome_77": "unknown"}
    refused = await failure(ask("checksession", **visitor))
    assert refused.text == "Invalid password" and refused.number in (None, 101)


async def test_everybody_is_logged_out_and_a_client_is_told(usher, clients, ask):
    jid, password = await usher.account("alice")
    online = await clients("slixmpp", jid, password).online()
    _, token = await usher.mint(jid)
    assert await ask("sessionexpire", user="alice", password=password, expireall="1") == {}
    error = await online.expect("stream-error")
    assert error["condition"] == contract.REVOKED
    await online.closed()
    assert await usher.sessions() == []
    with pytest.raises(Refused):
        await clients("slixmpp", jid, token, mechanism="OAUTHBEARER").login()


async def test_a_challenge_is_answered_with_an_application_password_once(usher, ask):
    jid, password = await usher.account("alice")
    options = ("--purpose", "lj-app", "--label", "old client", "--json")
    minted = await usher.cli("token", "mint", jid, *options, record=False)
    assert minted.status == contract.DONE, str(minted)
    app = minted.json()[contract.ROWS][0][contract.TOKEN_SECRET]
    assert len(app) == 26
    usher.secrets.add(app)
    md5 = hashlib.md5(app.encode()).hexdigest()
    usher.secrets.add(md5)

    for scheme in ("c0", "c1"):
        given = await ask("getchallenge", auth_scheme=scheme)
        assert given["auth_scheme"] == scheme
        assert int(given["expire_time"]) - int(given["server_time"]) == 60
        challenge = given["challenge"]
        answers = {
            "c0": hashlib.md5((challenge + md5).encode()).hexdigest(),
            "c1": hmac.new(app.encode(), challenge.encode(), "sha256").hexdigest(),
        }
        proof = {
            "user": "alice",
            "auth_method": "challenge",
            "auth_challenge": challenge,
            "auth_response": answers[scheme],
        }
        assert (await ask("login", **proof))["name"] == "alice"
        assert (await failure(ask("login", **proof))).text == "Invalid password"
    assert (await ask("login", user="alice", hpassword=md5))["name"] == "alice"
    own = hashlib.md5(password.encode()).hexdigest()
    assert (await failure(ask("login", user="alice", hpassword=own))).text == "Invalid password"


async def test_a_second_argument_is_a_fault_and_so_is_a_name_that_is_none(usher):
    url = f"http://127.0.0.1:{usher.door.http}/interface/xmlrpc"

    def ask(method, *params):
        with xmlrpc.client.ServerProxy(url) as server:
            with pytest.raises(xmlrpc.client.Fault) as fault:
                getattr(server.LJ.XMLRPC, method)(*params)
            return fault.value.faultCode

    assert await asyncio.to_thread(ask, "getchallenge", {}, {}) == 202
    assert await asyncio.to_thread(ask, "login", "alice") == 203
    assert await asyncio.to_thread(ask, "login", {"username": "a@b"}) == 100
    assert await asyncio.to_thread(ask, "postevent", {"username": "a"}) == 201


@pytest.mark.settings("")
async def test_it_is_off_unless_it_is_turned_on(usher):
    def ask():
        url = f"http://127.0.0.1:{usher.door.http}/interface/flat"
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(url, data=b"mode=getchallenge", timeout=20)
        return error.value.code

    assert await asyncio.to_thread(ask) == 404
