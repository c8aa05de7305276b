"""Clients that mean no good, in raw bytes. None of them may cost more than its own session.

Each test ends with nobody there, and with as many descriptors in use as before.
"""

import asyncio
import base64
import os
import random
import re

import pytest

from raw import HEADER, STARTTLS, Raw, auth
from usher import Usher

SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
OPEN = HEADER.format("localhost")


@pytest.fixture
async def usher(tmp_path):
    """With short waits, many connections and no pace; and looked at afterwards."""
    server = Usher(
        tmp_path,
        "[limits]\nper_address = 3000\nconnects_per_second = 0\nmailbox_bytes = 1000000\n"
        '[limits.unauthed]\ntime = "2s"\n[limits.bound]\nbytes_per_second = 0\n'
        '[sessions]\nclose_wait = "1s"\n[storage_limits]\noffline_messages = 20\n',
    )
    await server.start()
    before = descriptors(server)
    yield server
    try:
        async with asyncio.timeout(15):
            while (await server.json("session", "count"))["total"] != 0:
                await asyncio.sleep(0.1)
        # The store opens its files when it needs them: a few more are no leak.
        assert descriptors(server) <= before + 4
    finally:
        status = await server.stop()
    assert status == 0
    assert "panicked" not in server.log.read_text()
    assert not server.leaks()


def descriptors(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def resident(server):
    with open(f"/proc/{server.process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1])


@pytest.mark.parametrize(
    "sent, condition",
    [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "not-well-formed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "not-well-formed"),
        (OPEN.encode("utf-16"), "unsupported-encoding"),
        (OPEN.replace("etherx", "either"), "invalid-namespace"),
        (HEADER.format("elsewhere.example"), "host-unknown"),
        (OPEN + "<!DOCTYPE x [<!ENTITY a 'b'>]>", "restricted-xml"),
        (OPEN + "<a>&a;</a>", "restricted-xml"),
        (OPEN.encode() + b"<a>\xc0\x80</a>", "not-well-formed"),
        (OPEN + "<a b='1' b='2'/>", "not-well-formed"),
        (OPEN + "<x:a/>", "bad-namespace-prefix"),
        (OPEN + "<a>" * 100_000, "policy-violation"),
        (OPEN + "<a>" + "x" * 1_000_000, "policy-violation"),
        (OPEN + "<" + "a" * 1_000_000, "policy-violation"),
        (OPEN + "<a>" + "<b/>" * 100_000, "policy-violation"),
        (OPEN + "<a " + " ".join(f"b{i}=''" for i in range(10_000)), "policy-violation"),
        ("<?xml version='1.0'?><stream:stream " + "a='b' " * 100_000, "policy-violation"),
        (OPEN + "<message to='alice@localhost'><body/></message>", "not-authorized"),
    ],
    ids=range(17),
)
async def test_what_no_stream_may_contain_has_its_own_error(usher, sent, condition):
    raw = await Raw.connected(usher.door)
    raw.send(sent)
    # The end of what is sent may find the connection closed; the error comes in any case.
    assert f"<stream:error><{condition} " in await raw.rest()
    raw.cut()


async def test_what_is_pipelined_behind_starttls_is_never_carried_out(usher):
    await usher.account("alice")
    raw = await Raw.opened(usher.door)
    raw.send(STARTTLS + auth("PLAIN", b"\0alice\0guess") + "<garbage>")
    got = await raw.rest()
    assert "<proceed" in got
    assert "<failure" not in got and "<success" not in got
    assert not usher.events("login-refused")
    raw.cut()


async def test_what_is_no_tls_gets_no_further_on_the_tls_port(usher):
    for sent in (OPEN, "GET / HTTP/1.1\r\n\r\n", ""):
        raw = Raw(usher.door)
        raw.reader, raw.writer = await asyncio.open_connection("127.0.0.1", usher.door.c2s_tls)
        raw.send(sent)
        assert "stream:features" not in await raw.rest()
        raw.cut()


async def test_who_is_slow_to_log_in_is_cut_off_however_many(usher):
    async def crawl(raw):
        for byte in OPEN:
            raw.send(byte)
            await asyncio.sleep(0.2)

    async def slow(raw):
        crawling = asyncio.create_task(crawl(raw))
        told = await raw.rest()
        crawling.cancel()
        return told

    idle = await asyncio.gather(*(Raw.connected(usher.door) for _ in range(500)))
    slows = await asyncio.gather(*(Raw.connected(usher.door) for _ in range(20)))
    # That the kernel has taken them in does not mean that the server has by now.
    async with asyncio.timeout(2):
        while (await usher.json("session", "count"))["unauthed"] != 520:
            await asyncio.sleep(0.02)
    # Somebody who means well still gets in.
    jid, password = await usher.account("alice")
    alice = await Raw.bound(usher.door, jid, password)
    for told in await asyncio.gather(*(raw.rest() for raw in idle), *map(slow, slows)):
        assert "connection-timeout" in told and "reason='auth-timeout'" in told
    await alice.ping()
    for raw in (*idle, *slows, alice):
        raw.cut()


async def test_no_order_of_sasl_elements_lets_anybody_in(usher):
    await usher.account("alice")
    rng = random.Random(6120)
    mechanisms = ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "OAUTHBEARER", "EXTERNAL", ""]
    firsts = [
        *(b"n,,n=alice,r=abc", b"y,,n=alice,r=abc", b"n,a=bob,n=alice,r=abc", b"n,,n==,r=x"),
        *(b"p=tls-exporter,,n=alice,r=abc", b"n,,m=x,n=alice,r=abc", b"n,,n=,r=", b"n,,n=alice"),
    ]

    def element():
        noise = base64.b64encode(rng.randbytes(rng.randrange(80))).decode()
        return rng.choice(
            [
                auth(rng.choice(mechanisms), noise),
                auth(rng.choice(mechanisms), rng.choice(["=", "", "!!!!", "AAA"])),
                auth("SCRAM-SHA-256", rng.choice(firsts)),
                f"<response {SASL}>{rng.choice([noise, '=', '', '=='])}</response>",
                *(f"<abort {SASL}/>", f"<success {SASL}/>", f"<auth {SASL}>=</auth>"),
            ]
        )

    async def attempt(elements):
        raw = await Raw.secured(usher.door)
        for one in elements:
            raw.send(one)
        # Ends by itself after too many failures, or by its time.
        told = await raw.rest()
        raw.cut()
        return told

    dialogues = [[element() for _ in range(6)] for _ in range(60)]
    for told in await asyncio.gather(*map(attempt, dialogues)):
        assert "<success" not in told, told
        assert "<stream:error>" in told, told
    assert not usher.events('event="?logged-in')


async def test_nobody_speaks_for_somebody_else(usher):
    alice, password = await usher.account("alice")
    bob = await Raw.bound(usher.door, *await usher.account("bob"))
    await Raw.bound(usher.door, alice, password, resource="other")
    for claimed in (bob.jid, "bob@localhost", f"{alice}/other", "localhost", "@@"):
        raw = await Raw.bound(usher.door, alice, password)
        raw.send(f"<message from='{claimed}' to='{bob.jid}'><body>believe me</body></message>")
        assert "<stream:error><invalid-from " in await raw.rest(), claimed
        raw.cut()
    raw = await Raw.bound(usher.door, alice, password)
    query = "<query xmlns='jabber:iq:roster'>{}</query>"
    for kind, item in (("get", ""), ("set", "<item jid='eve@localhost'/>")):
        raw.send(f"<iq type='{kind}' id='r' to='bob@localhost'>{query.format(item)}</iq>")
        told = await raw.until("</iq>")
        assert "type='error'" in told and "<item" not in told
    await bob.ping()
    assert "believe me" not in bob.got
    assert (await usher.ok("session", "end", "--all")).status == 0


async def test_who_never_reads_is_ended_and_costs_a_bounded_amount(usher):
    alice = await Raw.bound(usher.door, *await usher.account("alice"))
    jid, password = await usher.account("bob")
    body = "x" * 50_000
    before, sloths = resident(usher), []
    for _ in range(3):
        sloth = await Raw.bound(usher.door, jid, password, receive_buffer=4096)
        sloth.writer.transport.pause_reading()
        for _ in range(600):
            alice.send(f"<message to='{jid}/raw' type='headline'><body>{body}</body></message>")
            await alice.drain()
        await alice.ping()
        sloths.append(sloth)
    async with asyncio.timeout(10):
        while len(usher.events("slow-reader")) < 3:
            await asyncio.sleep(0.1)
    for sloth in sloths:
        sloth.cut()
    # 90 MB were sent; each mailbox holds 1 MB. The rest is what the allocator keeps of what went
    # through it, 15 to 35 MB.
    assert resident(usher) - before < 45_000
    await alice.ping()
    alice.cut()


@pytest.mark.parametrize("reads", [0, 4096])
async def test_who_asks_more_than_it_reads_has_to_wait_and_is_not_ended(usher, reads):
    raw = await Raw.bound(usher.door, *await usher.account("alice"), receive_buffer=4096)
    if not reads:
        raw.writer.transport.pause_reading()
    before = resident(usher)
    query = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
    ask = f"<iq type='get' id='d' to='localhost'>{query}</iq>"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            while True:
                raw.send(ask * 100)
                if reads:
                    await raw.reader.read(reads)
                else:
                    await raw.drain()
                # `drain` alone lets nothing else run while there is room.
                await asyncio.sleep(0)
    [session] = await usher.sessions()
    assert session["queued_bytes"] < 1_000_000
    assert resident(usher) - before < 30_000
    raw.cut()


async def test_more_than_the_quota_is_not_kept_for_who_is_away(usher):
    alice = await Raw.bound(usher.door, *await usher.account("alice"))
    jid, password = await usher.account("bob")
    for number in range(50):
        alice.send(
            f"<message to='{jid}' type='chat' id='{number}'><body>{number}.</body></message>"
        )
    told = await alice.until("id='49'")
    assert told.count("<service-unavailable") + alice.got.count("<service-unavailable") == 30
    bob = await Raw.bound(usher.door, jid, password)
    bob.send("<presence/>")
    await bob.until("19.</body>")
    await bob.ping()
    assert "<message" not in bob.got
    alice.cut()
    bob.cut()
