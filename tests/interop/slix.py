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
from dataclasses import dataclass

from slixmpp import ClientXMPP
from slixmpp.exceptions import IqError
from slixmpp.util.sasl import client as sasl
from slixmpp.xmlstream import ET

from client import (
    LOGIN,
    STANZA_ERRORS,
    WAIT,
    Client,
    Contact,
    Dropped,
    Event,
    Refused,
    StanzaError,
    conditions,
    describe,
)

COMMANDS = "http://jabber.org/protocol/commands"
FORMS = "jabber:x:data"
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


@dataclass(frozen=True)
class Told:
    """What a command says: its status, notes as (type, text), fields and rows of its forms."""

    status: str
    notes: list
    fields: dict
    rows: list

    @classmethod
    def of(cls, xml):
        command = xml.find(f"{{{COMMANDS}}}command")
        notes = [(n.get("type"), n.text) for n in command.findall(f"{{{COMMANDS}}}note")]
        fields, rows = {}, []
        for form in command.findall(f"{{{FORMS}}}x"):
            fields |= values(form)
            rows += [values(item) for item in form.findall(f"{{{FORMS}}}item")]
        return cls(command.get("status"), notes, fields, rows)


def values(element):
    """The values of the fields right inside an element."""
    fields = element.findall(f"{{{FORMS}}}field")
    return {f.get("var"): [v.text or "" for v in f.findall(f"{{{FORMS}}}value")] for f in fields}


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

    # --- ad-hoc commands, by slixmpp's own way through them (XEP-0050, XEP-0133) ------------------

    async def commands(self):
        """The names of the commands that the server lists, by node."""
        self._library.register_plugin("xep_0133")
        found = await self._library.plugin["xep_0133"].get_commands(timeout=WAIT)
        return {node: name for _, node, name in found["disco_items"]["items"]}

    async def administer(self, use_case, **fields):
        """Carries out a use case of XEP-0133; names of fields with `__` for `-`."""
        self._library.register_plugin("xep_0133")
        begin = getattr(self._library.plugin["xep_0133"], use_case.replace("-", "_"))
        return await self._command(lambda session: begin(session=session), fields)

    async def command(self, node, **fields):
        """Begins a command of the server, and completes it if it asks for something."""
        return await self._command(self._start(node), fields)

    async def begin(self, node):
        """Begins a command; what it says and what to go on with."""
        session = {}
        return await self._step(session, lambda: self._start(node)(session)), session

    async def go_on(self, session, how, **fields):
        """The next step of a command: `complete` or `cancel`."""
        plugin = self._library.plugin["xep_0050"]
        form = self._library.plugin["xep_0004"].make_form(ftype="submit")
        for name, value in fields.items():
            form.add_field(var=name.replace("__", "-"), value=value)
        session["payload"] = form if how == "complete" else None
        send = {"complete": plugin.complete_command, "cancel": plugin.cancel_command}[how]
        return await self._step(session, lambda: send(session))

    def _start(self, node):
        self._library.register_plugin("xep_0050")
        plugin, host = self._library.plugin["xep_0050"], self._library.boundjid.server
        return lambda session: plugin.start_command(host, node, session)

    async def _command(self, start, fields):
        session = {}
        told = await self._step(session, lambda: start(session))
        if told.status == "executing":
            told = await self.go_on(session, "complete", **fields)
        return told

    async def _step(self, session, send):
        answered = asyncio.get_running_loop().create_future()

        def refused(iq, _):
            told = conditions(iq.xml.find("{jabber:client}error"), STANZA_ERRORS)
            answered.set_exception(StanzaError(told["condition"], told["extra"]))

        session["next"] = lambda iq, _: answered.set_result(Told.of(iq.xml))
        session["error"] = refused
        send()
        async with asyncio.timeout(WAIT):
            return await answered

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
