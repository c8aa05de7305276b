"""A client without manners: bytes on a socket, for what no library would send.

It knows just enough XMPP to get to where the misbehaving starts (`opened`, `secured`, `authed`,
`bound`), takes what comes as text, and looks for substrings in it. PLAIN is its only mechanism.
"""

import asyncio
import base64
import hmac
import re
import socket
import ssl

WAIT = 15
HEADER = (
    "<?xml version='1.0'?><stream:stream to='{}' version='1.0' xmlns='jabber:client' "
    "xmlns:stream='http://etherx.jabber.org/streams'>"
)
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"


def auth(mechanism, payload):
    """An `<auth/>` with this initial response; bytes are encoded, text is sent as it is."""
    if isinstance(payload, bytes):
        payload = base64.b64encode(payload).decode()
    space = "urn:ietf:params:xml:ns:xmpp-sasl"
    return f"<auth xmlns='{space}' mechanism='{mechanism}'>{payload}</auth>"


def hashed(token, binding=b""):
    """The initial response of SASL-HT, up to the name (draft-schmaus-kitten-sasl-ht)."""
    return hmac.digest(token.encode(), b"Initiator" + binding, "sha256")


def authenticate(mechanism, payload, inside=""):
    """An `<authenticate/>` of SASL 2 with this initial response, and what is to come with it."""
    payload = base64.b64encode(payload).decode()
    return (
        f"<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'>"
        f"<initial-response>{payload}</initial-response>{inside}</authenticate>"
    )


def context(versions=(None, None), alpn=()):
    """TLS without any check: who the server is does not matter to a vandal."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    low, high = versions
    if low or high:
        made.set_ciphers("ALL:@SECLEVEL=0")
    if low:
        made.minimum_version = low
    if high:
        made.maximum_version = high
    if alpn:
        made.set_alpn_protocols(list(alpn))
    return made


class Raw:
    """One connection."""

    def __init__(self, door):
        self.door = door
        self.got = ""
        self.ended = False

    # --- as far as one wants to go ---------------------------------------------------------------

    @classmethod
    async def connected(cls, door, *, receive_buffer=None):
        self = cls(door)
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", door.c2s))
        # A small limit: a client that does not read must not read ahead either.
        self.reader, self.writer = await asyncio.open_connection(sock=plain, limit=4096)
        return self

    @classmethod
    async def direct(cls, door, **tls):
        self = cls(door)
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", door.c2s_tls, ssl=context(**tls)
        )
        return self

    @classmethod
    async def opened(cls, door, **options):
        self = await cls.connected(door, **options)
        await self.open()
        return self

    @classmethod
    async def secured(cls, door, **options):
        self = await cls.opened(door, **options)
        await self.starttls()
        await self.open()
        return self

    @classmethod
    async def authed(cls, door, jid, password, **options):
        self = await cls.secured(door, **options)
        self.send(auth("PLAIN", f"\0{jid.split('@')[0]}\0{password}".encode()))
        await self.until("<success")
        await self.open()
        return self

    @classmethod
    async def bound(cls, door, jid, password, resource="raw", **options):
        self = await cls.authed(door, jid, password, **options)
        self.send(
            "<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>"
            f"<resource>{resource}</resource></bind></iq>"
        )
        self.jid = re.search(r"<jid>(.*?)</jid>", await self.until("</iq>"))[1]
        return self

    async def open(self):
        self.send(HEADER.format(self.door.domain))
        return await self.until("</stream:features>")

    async def starttls(self, **tls):
        self.send(STARTTLS)
        await self.until("<proceed")
        await self.writer.start_tls(context(**tls), server_hostname=self.door.domain)

    # --- bytes -----------------------------------------------------------------------------------

    def send(self, data):
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def drain(self):
        await self.writer.drain()

    async def until(self, wanted, within=WAIT):
        """What came up to and with `wanted`, which is taken out."""
        try:
            async with asyncio.timeout(within):
                while wanted not in self.got:
                    if not await self._more():
                        raise AssertionError(f"closed before {wanted!r}: {self.got[-2000:]!r}")
        except TimeoutError:
            raise AssertionError(f"no {wanted!r} in {within} s: {self.got[-2000:]!r}") from None
        at = self.got.index(wanted) + len(wanted)
        # To the end of the tag, so that the next look does not find its rest.
        if not wanted.endswith(">"):
            at = self.got.find(">", at) + 1 or len(self.got)
        taken, self.got = self.got[:at], self.got[at:]
        return taken

    async def rest(self, within=WAIT):
        """All that comes until the server closes."""
        try:
            async with asyncio.timeout(within):
                while await self._more():
                    pass
        except TimeoutError:
            raise AssertionError(f"still open after {within} s: {self.got[-2000:]!r}") from None
        taken, self.got = self.got, ""
        return taken

    async def _more(self):
        try:
            data = await self.reader.read(65536)
        except (OSError, ssl.SSLError):
            data = b""
        self.ended = not data
        self.got += data.decode(errors="replace")
        return bool(data)

    async def ping(self):
        """A round trip: behind it, all that was sent before has been dealt with."""
        self.send("<iq type='get' id='ping'><ping xmlns='urn:xmpp:ping'/></iq>")
        return await self.until("id='ping'")

    def cut(self):
        self.writer.transport.abort()
