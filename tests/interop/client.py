"""What both real clients look like to a test: the same verbs, the same events.

A client keeps every stanza it has received until a test has asked for it: `expect` takes one event
out, or waits for it; `none` says that none is there. Nothing here sleeps to see that nothing comes:
`barrier` makes a round trip on the stream, behind which all that was sent before has arrived.
"""

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

CLIENT = "jabber:client"
STREAM = "http://etherx.jabber.org/streams"
STREAM_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"
STANZA_ERRORS = "urn:ietf:params:xml:ns:xmpp-stanzas"
SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
SASL2 = "urn:xmpp:sasl:2"
ROSTER = "jabber:iq:roster"
DELAY = "urn:xmpp:delay"
PING = "urn:xmpp:ping"

# Seconds until an event must be there, and until a login must be decided.
WAIT = 15
LOGIN = 30


class Refused(Exception):
    """SASL failure: the condition and the text the server gave."""

    def __init__(self, condition, text):
        super().__init__(f"{condition}: {text}")
        self.condition, self.text = condition, text


class Dropped(Exception):
    """The stream ended before the login was through; with the stream error, if there was one."""

    def __init__(self, event):
        super().__init__(event and f"{event['condition']}: {event['text']}")
        self.event = event


class StanzaError(Exception):
    """An iq was answered by an error; `extra` are the application's own conditions."""

    def __init__(self, condition, extra=()):
        super().__init__(condition, *extra)
        self.condition, self.extra = condition, list(extra)


@dataclass
class Event:
    """One thing that the client saw. Fields that do not apply are absent."""

    kind: str
    fields: dict = field(default_factory=dict)

    def __getitem__(self, name):
        return self.fields.get(name)

    def matches(self, kind, want):
        if kind != self.kind:
            return False
        return all(v(self[k]) if callable(v) else self[k] == v for k, v in want.items())


def parse(xml):
    """An element as a client printed it, with the namespaces the stream header declared."""
    return ET.fromstring(f"<s xmlns='{CLIENT}' xmlns:stream='{STREAM}'>{xml}</s>")[0]


def roster_items(element):
    """The items of a roster result or push, by JID."""
    found = element.findall(f"{{{ROSTER}}}query/{{{ROSTER}}}item")
    return {item.get("jid"): Contact.of(item) for item in found}


@dataclass(frozen=True)
class Contact:
    """A roster item as the server told it."""

    subscription: str
    ask: str | None
    name: str | None
    groups: frozenset

    @classmethod
    def of(cls, item):
        groups = frozenset(g.text for g in item.findall(f"{{{ROSTER}}}group"))
        return cls(item.get("subscription"), item.get("ask"), item.get("name"), groups)


def describe(element):
    """Turns an element of the stream into an `Event`, or None for what no test asks about."""
    space, _, name = element.tag[1:].partition("}")
    if (space, name) == (STREAM, "error"):
        return Event("stream-error", conditions(element, STREAM_ERRORS))
    if (space, name) == (SASL, "failure"):
        return Event("sasl-failure", conditions(element, SASL))
    if space != CLIENT:
        return None
    fields = {key: element.get(key) for key in ("from", "to", "id", "type")}
    error = element.find(f"{{{CLIENT}}}error")
    if error is not None:
        fields |= conditions(error, STANZA_ERRORS)
    if name == "message":
        delays = element.findall(f"{{{DELAY}}}delay")
        fields["body"] = element.findtext(f"{{{CLIENT}}}body")
        fields["delays"] = [(delay.get("from"), delay.get("stamp")) for delay in delays]
    elif name == "presence":
        fields["show"] = element.findtext(f"{{{CLIENT}}}show")
        fields["status"] = element.findtext(f"{{{CLIENT}}}status")
    elif name == "iq" and fields["type"] == "set" and (items := roster_items(element)):
        [(fields["jid"], fields["contact"])] = items.items()
        return Event("roster-push", fields)
    return Event(name, fields)


def conditions(element, space):
    """Condition, text and application's children of an error in namespace `space`."""
    told = [child for child in element if child.tag.startswith(f"{{{space}}}")]
    names = [child.tag.partition("}")[2] for child in told]
    return {
        "condition": next((name for name in names if name != "text"), None),
        "text": element.findtext(f"{{{space}}}text"),
        "extra": [c.tag.partition("}")[2] for c in element if c not in told],
    }


class Client(ABC):
    """A real client library behind one face. `tls` is "starttls" or "direct"."""

    #: What tests are parametrised by.
    kind = None

    def __init__(self, door, jid, secret, *, resource=None, tls="starttls", mechanism=None):
        self.door = door
        self.bare = jid
        self.secret = secret
        self.resource = resource
        self.tls = tls
        self.mechanism = mechanism
        self.backlog = []
        self._news = asyncio.Event()
        self._serial = 0

    # --- what a library must do ------------------------------------------------------------------

    @abstractmethod
    async def login(self):
        """Connects, secures, authenticates, binds. Raises `Refused` or `Dropped`."""

    @abstractmethod
    async def send(self, xml):
        """Sends one stanza."""

    @abstractmethod
    async def iq(self, kind, payload, to=None):
        """Makes a request; answers the result element or raises `StanzaError`."""

    @abstractmethod
    async def logout(self):
        """Closes the stream in good order."""

    @abstractmethod
    async def cut(self):
        """Breaks the TCP connection without closing the stream."""

    @property
    @abstractmethod
    def jid(self):
        """The full JID the server bound."""

    @property
    @abstractmethod
    def used(self):
        """The SASL mechanism that the last attempt used."""

    # --- events ----------------------------------------------------------------------------------

    def seen(self, event):
        if event is not None:
            self.backlog.append(event)
            self._news.set()

    async def expect(self, kind, **want):
        """Takes the first matching event out of the backlog, waiting for it if need be."""
        try:
            async with asyncio.timeout(WAIT):
                while True:
                    for event in self.backlog:
                        if event.matches(kind, want):
                            self.backlog.remove(event)
                            return event
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(
                f"{self} waited {WAIT} s for {kind} {want}; it saw {self.backlog}"
            ) from None

    def none(self, kind, **want):
        """Says that no such event is there. Meaningful behind a `barrier`."""
        found = [event for event in self.backlog if event.matches(kind, want)]
        assert not found, f"{self} saw {found}"

    async def closed(self):
        await self.expect("closed")

    async def barrier(self):
        """A round trip to the server and back."""
        await self.iq("get", f"<ping xmlns='{PING}'/>", to=self.door.domain)

    async def written(self):
        """All that was to be sent has been handed to the operating system."""

    # --- verbs ---------------------------------------------------------------------------------

    async def message(self, to, body, *, kind="chat"):
        self._serial += 1
        await self.send(
            f"<message to={quoteattr(to)} type={quoteattr(kind)} id='m{self._serial}'>"
            f"<body>{escape(body)}</body></message>"
        )
        return f"m{self._serial}"

    async def presence(self, *, to=None, kind=None, status=None):
        attributes = "".join(
            f" {name}={quoteattr(value)}" for name, value in (("to", to), ("type", kind)) if value
        )
        inner = f"<status>{escape(status)}</status>" if status else ""
        await self.send(f"<presence{attributes}>{inner}</presence>")

    async def roster(self):
        """Fetches the roster (which makes the session interested); items by JID."""
        return roster_items(await self.iq("get", f"<query xmlns='{ROSTER}'/>"))

    async def roster_set(self, jid, name, *groups):
        inner = "".join(f"<group>{escape(group)}</group>" for group in groups)
        await self.iq(
            "set",
            f"<query xmlns='{ROSTER}'><item jid={quoteattr(jid)} name={quoteattr(name)}>"
            f"{inner}</item></query>",
        )

    async def online(self, *, roster=True):
        """Logs in, and does what chat clients do next: roster, then presence."""
        await self.login()
        if roster:
            await self.roster()
        await self.presence()
        await self.expect("presence", **{"from": self.jid, "type": None})
        return self

    def __str__(self):
        return f"{self.kind} client of {self.bare}"
