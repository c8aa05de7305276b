"""The HTTP API of a running server: real clients seen and ended by it, and the whole of it held
against its own description by schemathesis."""

import asyncio
import base64
import hmac
import json
import os
import re
import secrets
import sys
import urllib.error
import urllib.request
from contextlib import asynccontextmanager

import pytest

import contract
from usher import ROOT, free_ports

# Commands after which this server, or the token in use, would be no more, and the one without end.
FATAL = ("stop", "restart", "epoch/raise", "keys/rotate", "keys/retire")
ENDLESS = ("session/watch",)
# Examples for each path: enough to try every argument, few enough to take a minute in all.
EXAMPLES = 12


class Api:
    """Requests with a token; what comes back is the status and the document."""

    def __init__(self, usher, token=None):
        self.port = usher.door.http
        self.root = f"http://127.0.0.1:{self.port}"
        self.token = token

    def request(self, path, body=None):
        request = urllib.request.Request(f"{self.root}/api/v1/{path}")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        return request

    async def __call__(self, path, body=None):
        def ask():
            try:
                with urllib.request.urlopen(self.request(path, body), timeout=20) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        return await asyncio.to_thread(ask)

    @asynccontextmanager
    async def watch(self):
        """Events of `session watch`: each call gives the next one's name and data."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            f"GET /api/v1/session/watch HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {self.token}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and b"text/event-stream" in head, head

        async def event():
            name = None
            async with asyncio.timeout(20):
                while True:
                    line = (await reader.readline()).decode().strip()
                    if line.startswith("event: "):
                        name = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        return name, json.loads(line.removeprefix("data: "))

        yield event
        writer.close()


async def api(usher, *scopes, name="boss", role="admin"):
    """The API for an administrator, with a token for these scopes."""
    jid, _ = await usher.account(name, "--role", role)
    options = [word for scope in scopes for word in ("--scope", scope)]
    _, token = await usher.mint(jid, "--purpose", "api", *options)
    return Api(usher, token)


async def test_a_client_is_seen_as_it_comes_and_is_really_gone_when_it_is_ended(
    usher, clients, kind
):
    admin = await api(usher, "list", "list-ip", "end")
    jid, password = await usher.account("alice")
    async with admin.watch() as event:
        client = await clients(kind, jid, password, resource="desk").online()
        names = []
        while "bound" not in names:
            names.append((await event())[0])
        assert names[:1] == ["connected"]

        status, found = await admin("session/list?pattern=alice*")
        assert status == 200
        [session] = [item for item in found["items"] if item["jid"] == client.jid]
        assert session["address"] == "127.0.0.1"

        end = {"selector": [client.jid], "reason": "over and out"}
        status, outcome = await admin("session/end", {**end, "dry-run": True})
        assert (status, outcome["items"][0]["outcome"]) == (200, contract.WOULD_END)
        status, outcome = await admin("session/end", end)
        assert (status, outcome["items"][0]["outcome"]) == (200, contract.ENDED)
        error = await client.expect("stream-error")
        assert "over and out" in error["text"]
        await client.closed()
        while True:
            name, data = await event()
            if name == "ended":
                break
        assert (data["jid"], data["text"]) == (client.jid, "over and out")
    assert not await usher.sessions()


async def test_a_token_without_the_scope_is_told_which_one(usher):
    admin = await api(usher, "list")
    status, problem = await admin("session/end", {"selector": ["alice@localhost"]})
    assert (status, problem["type"]) == (403, "urn:usher:problem:forbidden")
    assert "`end`" in problem["detail"]
    status, problem = await Api(usher)("session/list")
    assert (status, problem["type"]) == (401, "urn:usher:problem:unauthorized")


async def schemathesis(root, token, *options):
    """Runs it over the server's own description. Its report is the message of a failure."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{root}/api/v1/openapi.json"),
        *("--header", f"Authorization: Bearer {token}", "--max-examples", str(EXAMPLES)),
        *("--seed", "1", "--no-color", "--generation-database", "none", "--checks", "all"),
        # What is right by its type may still name nothing, or not go together with the rest.
        *("--exclude-checks", "positive_data_acceptance"),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    out, _ = await program.communicate()
    return program.returncode, out.decode()


@pytest.mark.timeout(300)
@pytest.mark.settings('[commands]\nperiod = "off"\n[auth]\naddress_failures = 0\npair_failures = 0\n')
async def test_the_api_keeps_what_its_description_promises(usher, tmp_path):
    rights = json.loads((ROOT / "doc/reference/openapi.json").read_text())
    scopes = {op["x-scope"] for path in rights["paths"].values() for op in path.values() if "x-scope" in op}
    admin = await api(usher, *sorted(scopes))
    for name in ("alice", "bob"):
        await usher.account(name)
    left_out = [word for path in FATAL + ENDLESS for word in ("--exclude-path", f"/api/v1/{path}")]
    status, report = await schemathesis(admin.root, admin.token, *left_out)
    assert status == 0, report
    # Still there, and still who it was.
    status, me = await admin("whoami")
    assert (status, me["jid"]) == (200, "boss@localhost")

    # The others by a token that may not: nobody is harmed.
    viewer = await api(usher, "list", name="viewer", role="viewer")
    only = [word for path in FATAL for word in ("--include-path", f"/api/v1/{path}")]
    status, report = await schemathesis(viewer.root, viewer.token, *only)
    assert status == 0, report


class Receiver:
    """A webhook's receiver that fails at first: what it was sent, and what it answered."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.sent = []
        self.server = None

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.hear, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def hear(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(re.search(r"content-length: (\d+)", head)[1])
        body = (await reader.readexactly(length)).decode()
        status = self.answers.pop(0) if self.answers else 202
        self.sent.append((status, head, body))
        writer.write(f"HTTP/1.1 {status} -\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    def heard(self):
        """The claims of what was answered with 2xx, once the signature was found right."""
        return [self.claims(body) for status, _, body in self.sent if status < 300]

    def claims(self, token):
        signed, _, signature = token.rpartition(".")
        want = hmac.digest(self.key.encode(), signed.encode(), "sha256")
        assert hmac.compare_digest(decoded(signature), want), "not signed with the key"
        return json.loads(decoded(signed.split(".")[1]))


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize("kind", ["slixmpp"])
async def test_a_webhook_that_fails_first_hears_of_each_end_once(usher, clients, kind):
    receiver = Receiver(500, 503)
    [receiver.port], receiver.key = free_ports(1), secrets.token_hex(32)
    settings = (
        f'[[webhook]]\nname = "test"\nurl = "http://127.0.0.1:{receiver.port}/hook"\n'
        f'key = "{receiver.key}"\n'
    )
    await usher.stop()
    usher.config.write_text(usher.config.read_text() + settings)
    usher.secrets.add(receiver.key)
    await usher.start()
    jid, password = await usher.account("alice")
    client = await clients(kind, jid, password, resource="desk").online()
    # Nobody listens yet.
    await usher.ok("session", "end", client.jid, "--reason", "over and out")
    await client.closed()
    other = await clients(kind, jid, password, resource="sofa").online()
    await other.logout()
    async with receiver:
        async with asyncio.timeout(60):
            while len(receiver.heard()) < 2:
                await asyncio.sleep(0.05)
        # The last one ends with the server, which starts again to tell of it.
        last = await clients(kind, jid, password, resource="last").online()
        assert await usher.stop() == 0
        await last.closed()
        await usher.start()
        async with asyncio.timeout(60):
            while len(receiver.heard()) < 3:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
    events = [claims["events"]["urn:usher:event:session-ended"] for claims in receiver.heard()]
    assert sorted((e["jid"], e["reason"]) for e in events) == [
        (f"{jid}/desk", "ended"),
        (f"{jid}/last", "shutdown"),
        (f"{jid}/sofa", "closed"),
    ]
    assert len({claims["jti"] for claims in receiver.heard()}) == 3
    assert "application/secevent+jwt" in receiver.sent[0][1]
    assert [status for status, _, _ in receiver.sent].count(202) == 3
