"""The `@xmpp/client` client: `node/client.mjs` in a Node process of its own, driven by JSON lines.

Its certificate check stays on: the server's certificate is the one extra root that Node trusts.
"""

import asyncio
import itertools
import json
import os
import signal
from pathlib import Path

from client import (
    LOGIN,
    SASL,
    SASL2,
    WAIT,
    Client,
    Dropped,
    Event,
    Refused,
    StanzaError,
    conditions,
    describe,
    parse,
)
from usher import ROOT

MODULES = Path(os.environ.get("USHER_NODE", ROOT / "target" / "node"))
SCRIPT = Path(__file__).parent / "node" / "client.mjs"


def runtime():
    """The Node binary that was installed beside the library."""
    return MODULES / "node_modules" / ".bin" / "node"


async def ended(process, wait):
    """Lets a process end that ends with its input; not for ever."""
    process.stdin.close()
    try:
        async with asyncio.timeout(wait):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


class XmppJsClient(Client):
    """See the module. `reconnect=True` leaves the library's own reconnection on.

    By default it is a client from before SASL 2 and stream management. `modern=True` lets the
    library do all that it can: SASL 2, Bind 2, stream management, and FAST if it has an `agent` (a
    UUID). Each element of SASL 2 is an event `login` then, each stanza that was given up one
    `unsent`.
    """

    kind = "@xmpp/client"

    def __init__(self, *args, reconnect=False, modern=False, agent=None, **options):
        super().__init__(*args, **options)
        self._reconnect = reconnect
        self._modern = modern
        self._agent = agent
        self._process = None
        self._reader = None
        self._asked = {}
        self._numbers = itertools.count(1)
        self._jid = None
        self._used = None

    async def login(self):
        await self.stop()
        self.backlog.clear()
        self._process = await asyncio.create_subprocess_exec(
            runtime(),
            MODULES / SCRIPT.name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"NODE_EXTRA_CA_CERTS": str(self.door.certificate)},
            limit=1 << 20,
        )
        self._reader = asyncio.create_task(self._read(self._process.stdout))
        scheme, port = {
            "starttls": ("xmpp", self.door.c2s),
            "direct": ("xmpps", self.door.c2s_tls),
        }[self.tls]
        done = await self._ask(
            "login",
            service=f"{scheme}://localhost:{port}",
            domain=self.door.domain,
            username=self.bare.partition("@")[0],
            password=self.secret,
            resource=self.resource,
            mechanism=self.mechanism,
            reconnect=self._reconnect,
            modern=self._modern,
            agent=self._agent,
        )
        assert done["tls"], "logged in without TLS"
        self._jid = done["jid"]

    async def send(self, xml):
        await self._ask("send", stanza=xml)

    async def iq(self, kind, payload, to=None):
        address = f" to='{to}'" if to else ""
        return parse(await self._ask("iq", stanza=f"<iq type='{kind}'{address}>{payload}</iq>"))

    async def again(self, password=None):
        """Connects once more; whether the stream was resumed. Events of before are kept."""
        done = await self._ask("again", password=password)
        self._jid = done["jid"]
        return done["resumed"]

    async def token(self):
        """The token that it has for its next login, if it has one."""
        return await self._ask("token")

    async def logout(self):
        await self._ask("logout")

    async def cut(self):
        """Breaks the connection; the process goes on, to tell of the end."""
        if self._process is not None and self._process.returncode is None:
            await self._ask("cut")

    def freeze(self):
        """Stops the process where it is: the connection stays open and nobody answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    async def stop(self):
        """Ends the Node process, if there is one."""
        if self._process is None:
            return
        await ended(self._process, WAIT)
        await self._reader
        self._process = None

    @property
    def jid(self):
        return self._jid

    @property
    def used(self):
        return self._used

    # --- the lines -------------------------------------------------------------------------------

    async def _ask(self, verb, **rest):
        serial = next(self._numbers)
        answer = self._asked[serial] = asyncio.get_running_loop().create_future()
        line = json.dumps({"serial": serial, "verb": verb, **rest})
        self._process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(LOGIN):
            return await answer

    async def _read(self, lines):
        async for line in lines:
            said = json.loads(line)
            if "serial" in said:
                self._answer(said)
            elif said["event"] == "element":
                self.seen(describe(parse(said["xml"])))
            elif said["event"] == "online":
                self._jid = said["jid"]
                self.seen(Event("online", {"jid": self._jid}))
            elif said["event"] == "mechanism":
                self._used = said["mechanism"]
            elif said["event"] in ("login", "resumed", "unsent"):
                self.seen(Event(said.pop("event"), said))
            elif said["event"] == "disconnect":
                self.seen(Event("closed"))
        for answer in self._asked.values():
            answer.cancel()

    def _answer(self, said):
        answer = self._asked.pop(said["serial"])
        if answer.done():
            return
        if "error" in said:
            answer.set_exception(self._failure(said["error"]))
        else:
            answer.set_result(said["result"])

    def _failure(self, error):
        if error["name"] == "StanzaError":
            return StanzaError(error["condition"])
        if error["name"] == "SASLError" and error["xml"]:
            # Read from the element, not from the library's idea of it: it is the server's word.
            failure = parse(error["xml"])
            told = conditions(failure, SASL)
            # In SASL 2 the condition is in the old namespace, and the text is in the new one.
            told["text"] = told["text"] or failure.findtext(f"{{{SASL2}}}text")
            return Refused(told["condition"], told["text"])
        if error["name"] == "StreamError":
            return Dropped(Event("stream-error", error))
        return RuntimeError(f"{error['name']}: {error['text']}")
