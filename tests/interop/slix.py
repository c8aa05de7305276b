"""The slixmpp client.

Stanzas go out through slixmpp's own calls and come in through its own parser; `incoming_filter`,
which it offers for that, is where the test sees them. It pins the server's certificate and checks
the host name. Two mechanisms that slixmpp lacks are added at its own extension point: channel
binding by `tls-server-end-point` (RFC 5929; Python's TLS has no exporter) and OAUTHBEARER
(RFC 7628).
"""

import asyncio
import hashlib
import ssl

from slixmpp import ClientXMPP
from slixmpp.exceptions import IqError
from slixmpp.util.sasl import client as sasl
from slixmpp.xmlstream import ET

from client import LOGIN, WAIT, Client, Contact, Dropped, Event, Refused, StanzaError, describe

END_POINT = b"tls-server-end-point:"
Scram = sasl.MECHANISMS["SCRAM-SHA-256"]


class BoundScram(Scram):
    """SCRAM that can bind to the server's certificate; else it does what slixmpp does."""

    def setup(self, name):
        binding = self.credentials["channel_binding"]
        self.end_point = binding.startswith(END_POINT) and name.endswith("-PLUS")
        super().setup(name)

    def process_1(self, challenge):
        if not self.end_point:
            return super().process_1(challenge)
        super().process_1(challenge)
        binding = self.credentials["channel_binding"]
        self.credentials["channel_binding"] = binding.removeprefix(END_POINT)
        self.gs2_header = b"p=tls-server-end-point,,"
        self.client_first_message = self.gs2_header + self.client_first_message_bare
        return self.client_first_message


class OAuthBearer(sasl.Mech):
    """RFC 7628 with the token where the password would be."""

    name = "OAUTHBEARER"
    required_credentials = {"username", "password", "host"}
    security = {"encrypted"}

    def process(self, challenge=b""):
        if challenge:
            # Section 3.2.3: an error message is acknowledged by one octet; then comes the failure.
            return b"\x01"
        who = self.credentials["username"] + b"@" + self.credentials["host"]
        token = self.credentials["password"]
        return b"n,a=" + who + b",\x01auth=Bearer " + token + b"\x01\x01"


for scram in ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"):
    sasl.MECHANISMS[scram] = BoundScram
sasl.MECHANISMS[OAuthBearer.name] = OAuthBearer
# Below every other, so that it is used only by a test that names it.
sasl.MECH_SEC_SCORES[OAuthBearer.name] = 0


class Library(ClientXMPP):
    """slixmpp, showing each incoming element to the test."""

    show = None

    def incoming_filter(self, xml):
        self.show(xml)
        return xml


class SlixClient(Client):
    """See the module. `bind=False` stops after authentication; `channel_binding` binds SCRAM-PLUS.

    `managed=True` turns stream management on. A stanza that the server has acknowledged is an event
    `acked` then.
    """

    kind = "slixmpp"

    def __init__(self, *args, bind=True, channel_binding=None, managed=False, **options):
        super().__init__(*args, **options)
        self._bind = bind
        self._managed = managed
        self._channel_binding = channel_binding
        self._library = None

    async def login(self):
        self.backlog.clear()
        library = self._library_of()
        done = "session_start" if self._bind else "stream_negotiated"
        await self._enter(library, "sm_enabled" if self._managed else done)

    async def again(self):
        """Connects once more; whether the stream was resumed. Events of before are kept."""
        await self.expect("closed")
        return await self._enter(self._library, "session_resumed", "sm_enabled")

    async def _enter(self, library, *into):
        """Connects and waits for one of these; whether it was the first of several."""
        outcome = asyncio.get_running_loop().create_future()

        def decide(result):
            if not outcome.done():
                if isinstance(result, Exception):
                    outcome.set_exception(result)
                else:
                    outcome.set_result(result)

        def failed(_):
            last = next(e for e in reversed(self.backlog) if e.kind == "sasl-failure")
            decide(Refused(last["condition"], last["text"]))

        def gone(_):
            errors = [event for event in self.backlog if event.kind == "stream-error"]
            decide(Dropped(errors[-1] if errors else None))

        self._library = library
        handlers = [
            ("failed_auth", failed),
            ("failed_all_auth", lambda _: decide(Dropped(None))),
            ("disconnected", gone),
            ("connection_failed", gone),
        ]
        for name in into:
            handlers.append((name, lambda _, name=name: decide(name)))
        for handler in handlers:
            library.add_event_handler(*handler)
        port = self.door.c2s_tls if self.tls == "direct" else self.door.c2s
        library.connect("127.0.0.1", port)
        try:
            async with asyncio.timeout(LOGIN):
                return await outcome == into[0]
        except BaseException:
            library.cancel_connection_attempt()
            library.abort()
            raise
        finally:
            for handler in handlers:
                library.del_event_handler(*handler)

    def _library_of(self):
        trust = ssl.create_default_context(cafile=self.door.certificate)
        if self.tls == "direct":
            trust.set_alpn_protocols(["xmpp-client"])
        wanted = f"{self.bare}/{self.resource}" if self.resource else self.bare
        library = Library(wanted, self.secret, sasl_mech=self.mechanism, ssl_context=trust)
        library.show = lambda xml: self.seen(describe(xml))
        library.enable_direct_tls = self.tls == "direct"
        library.enable_starttls = self.tls == "starttls"
        library.enable_plaintext = False
        # The tests answer subscription requests themselves.
        library.auto_authorize = None
        library.auto_subscribe = False
        for plugin in ("xep_0030", "xep_0092", "xep_0115", "xep_0199", "xep_0203"):
            library.register_plugin(plugin)
        library.add_event_handler("disconnected", lambda _: self.seen(Event("closed")))
        if self._managed:
            library.register_plugin("xep_0198")
            library.add_event_handler(
                "stanza_acked", lambda stanza: self.seen(Event("acked", {"id": stanza["id"]}))
            )
        if not self._bind:
            for order, feature in list(library._stream_feature_order):
                if feature in ("bind", "session"):
                    library.unregister_feature(feature, order)
        if self._channel_binding is not None:
            self._bind_channel(library)
        return library

    def _bind_channel(self, library):
        mechanisms = library.plugin["feature_mechanisms"]
        usual = mechanisms.sasl_callback

        def credentials(required, optional):
            found = usual(required, optional)
            if "channel_binding" in required | optional:
                der = library.socket.getpeercert(True)
                # SHA-256 for every certificate that is signed with SHA-256 or less.
                digest = hashlib.sha256(der).digest()
                found["channel_binding"] = END_POINT + self._channel_binding(digest)
            return found

        mechanisms.sasl_callback = credentials

    async def send(self, xml):
        self._library.send_raw(xml)

    async def written(self):
        async with asyncio.timeout(WAIT):
            await self._library.waiting_queue.join()

    async def message(self, to, body, *, kind="chat"):
        message = self._library.make_message(to, body, mtype=kind)
        message["id"] = self._library.new_id()
        message.send()
        return message["id"]

    async def presence(self, *, to=None, kind=None, status=None):
        self._library.send_presence(pto=to, ptype=kind, pstatus=status)

    async def roster(self):
        done = asyncio.get_running_loop().create_future()
        self._library.get_roster(callback=done.set_result, timeout=WAIT)
        async with asyncio.timeout(WAIT):
            await done
        # Not from the result: with versioning it is empty when nothing has changed (RFC 6121
        # section 2.6.3). What slixmpp now believes is what counts.
        held = self._library.client_roster
        return {jid: self._held(held[jid]) for jid in held if jid != self.bare}

    @staticmethod
    def _held(item):
        ask = "subscribe" if item["pending_out"] else None
        groups = frozenset(item["groups"])
        return Contact(item["subscription"], ask, item["name"] or None, groups)

    async def iq(self, kind, payload, to=None):
        iq = self._library.make_iq(ito=to, itype=kind)
        iq.append(ET.fromstring(payload))
        try:
            return (await iq.send(timeout=WAIT)).xml
        except IqError as error:
            raise StanzaError(error.condition) from None

    async def carbons(self):
        """Turns message carbons on; each that slixmpp accepts is an event `carbon` from then on."""
        self._library.register_plugin("xep_0280")

        def copied(direction):
            def handler(copy):
                message = copy[f"carbon_{direction}"]
                fields = {key: str(message[key]) for key in ("from", "to", "id", "type", "body")}
                self.seen(Event("carbon", fields | {"direction": direction}))

            return handler

        for direction in ("received", "sent"):
            self._library.add_event_handler(f"carbon_{direction}", copied(direction))
        await self._library.plugin["xep_0280"].enable(timeout=WAIT)

    async def logout(self):
        await self._library.disconnect()

    async def cut(self):
        if self._library is not None:
            self._library.cancel_connection_attempt()
            self._library.abort()

    @property
    def jid(self):
        return self._library.boundjid.full

    @property
    def used(self):
        return self._library.plugin["feature_mechanisms"].mech.name
