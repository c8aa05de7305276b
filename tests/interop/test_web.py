"""The pages in a real browser, beside real clients: who comes is seen, who is ended leaves, and nobody
is kept out who uses a keyboard, a small screen or no scripts."""

import pytest

from chrome import Chrome

SMALL, LARGE = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
# A browser that has just come may end what was there before it.
OLD = '[clients]\nfresh = "off"\n'


@pytest.fixture
async def chrome(usher):
    """A browser that talks to the server over TLS."""
    browser = Chrome(f"https://localhost:{usher.door.https}")
    await browser.start()
    await browser.begin()
    yield browser
    strange = [url for url in await browser.asked() if not url.startswith(browser.origin)]
    await browser.stop()
    assert not strange, "asked for something elsewhere"


async def served(chrome):
    """Nothing was refused by the browser, least of all by the pages' own policy."""
    refused = [text for text in await chrome.complaints() if "status of 4" not in text]
    assert not refused


@pytest.mark.settings(OLD)
async def test_a_client_appears_on_the_page_and_is_really_gone_when_it_is_logged_out(
    usher, clients, chrome, kind
):
    jid, password = await usher.account("alice")
    await chrome.login(jid, password)
    await chrome.shows(text="This device")
    [cookie] = [one for one in await chrome.cookies() if one["name"] == "__Host-usher"]
    assert cookie["httpOnly"] and cookie["secure"] and cookie["sameSite"] == "Strict"
    await chrome.listens()

    client = await clients(kind, jid, password, resource="desk").online()
    # Nobody loads the page again.
    await chrome.shows(text=client.jid)
    await chrome.shows(text="Connected")
    # Tried by a page from elsewhere, and with a key that is not the right one.
    devices = await usher.json("client", "list", jid)
    phone = next(one for one in devices if one["connected"])
    fields = {"client": phone["id"], "how": "revoke"}
    page = await chrome.forge(url=f"{chrome.origin}/devices/end", fields=fields)
    # The browser has not even sent the cookie along.
    assert page["path"] == "/login"
    page = await chrome.forge(url=f"{chrome.origin}/login", fields={"jid": jid, "password": password})
    assert page["status"] == 403
    await chrome.click(role="link", name="Log out…", within={"css": ".device", "text": client.jid})
    page = await chrome.spoil(key="x", role="button", name="Log out a device")
    assert page["status"] == 403
    assert await usher.session(client.jid)

    await chrome.open(path="/devices")
    await chrome.click(role="link", name="Log out…", within={"css": ".device", "text": client.jid})
    await chrome.fill(label="Reason (if you like)", text="left in the tram")
    page = await chrome.click(role="button", name="Log out a device")
    assert page["status"] == 200
    await chrome.shows(text="1 session ended")
    error = await client.expect("stream-error")
    assert error["text"] == "left in the tram"
    await client.closed()
    assert not await usher.sessions(jid)
    await chrome.open(path="/devices")
    await chrome.shows(text="left in the tram")
    assert client.jid not in await chrome.text()

    await chrome.click(role="button", name="Log out")
    await chrome.shows(text="You are logged out")
    page = await chrome.open(path="/devices")
    assert page["path"].startswith("/login")
    await served(chrome)


async def test_an_admin_sees_a_session_come_ends_it_and_sees_it_leave(usher, clients, chrome, kind):
    boss, password = await usher.account("boss", "--role", "admin")
    jid, other = await usher.account("alice")
    desk = await clients(kind, jid, other, resource="desk").online()
    await chrome.login(boss, password, to="/admin/sessions")
    await chrome.listens()
    await chrome.shows(text=desk.jid)
    phone = await clients(kind, jid, other, resource="phone").online()
    await chrome.shows(text="1 session has come meanwhile.")
    await chrome.click(role="link", name="Show them")
    await chrome.shows(text=phone.jid)
    await chrome.listens()

    await chrome.click(role="checkbox", name=f"Choose {phone.jid}")
    await chrome.click(role="button", name="End…")
    await chrome.shows(text="1 session would end")
    assert phone.jid in await chrome.text() and desk.jid not in await chrome.text()
    await chrome.fill(label="Reason", text="maintenance")
    await chrome.click(role="button", name="End 1 session")
    await chrome.shows(text="1 session ended")
    error = await phone.expect("stream-error")
    assert error["text"] == "maintenance"
    await phone.closed()

    await chrome.open(path="/admin/sessions")
    await chrome.listens()
    # While one looks, somebody else ends the other.
    await usher.ok("session", "end", desk.jid)
    await desk.expect("stream-error")
    await chrome.shows(text="ended: ended")
    await served(chrome)


@pytest.mark.settings(OLD)
async def test_all_of_it_can_be_done_with_keys_and_without_scripts(usher, clients, chrome):
    jid, password = await usher.account("alice")
    client = await clients("slixmpp", jid, password, resource="desk").online()
    await chrome.begin(scripts=False)
    await chrome.open(path="/login")
    # The cursor is where one writes.
    page = await chrome.keys(keys=[jid, "Tab", password, "Enter"], comes=True)
    assert page["path"] == "/devices"
    await chrome.open(path="/devices")
    await chrome.keys(keys=["Tab"])
    assert await chrome.focused() == "To the content"
    await chrome.keys(keys=["Enter"])
    names = []
    while not names or not names[-1].startswith("Log out all other"):
        await chrome.keys(keys=["Tab"])
        names.append(await chrome.focused())
        assert len(names) < 40, names
    await chrome.keys(keys=["Enter"], comes=True)
    await chrome.shows(text="Each needs the password")
    names = []
    while not names or names[-1] != "Log out all other devices":
        await chrome.keys(keys=["Tab"])
        names.append(await chrome.focused())
        assert len(names) < 40, names
    await chrome.keys(keys=["Enter"], comes=True)
    await chrome.shows(text="1 session ended")
    await client.expect("stream-error")


async def test_no_page_keeps_anybody_out(usher, clients, chrome):
    """axe-core finds nothing serious, and nothing is wider than the smallest screen."""
    boss, password = await usher.account("boss", "--role", "admin")
    jid, other = await usher.account("alice")
    client = await clients("slixmpp", jid, other, resource="desk").online()
    await usher.mint(jid, "--label", "kitchen tablet")
    found = []

    async def look(name):
        for dark in (False, True):
            for size in (SMALL, LARGE):
                await chrome.look(dark=dark, **size)
                wide = await chrome.overflow()
                if wide > 0:
                    found.append(f"{name} at {size['width']} is {wide} too wide")
                for one in await chrome.axe():
                    if one["impact"] in ("serious", "critical", "moderate"):
                        found.append(f"{name}, dark {dark}, {size['width']}: {one}")

    await chrome.open(path="/login")
    await look("login")
    await chrome.fill(label="Address", text=boss)
    await chrome.fill(label="Password", text="wrong")
    await chrome.click(role="button", name="Log in")
    await look("login refused")
    await chrome.login(boss, password)
    quoted = jid.replace("@", "%40")
    for path in (
        "/devices",
        "/devices/end?which=all",
        "/admin/sessions",
        f"/admin/act/session-end?selector={quoted}",
        "/admin/accounts",
        f"/admin/account?jid={quoted}",
        "/admin/audit",
        "/admin/charts",
        "/nowhere",
    ):
        await chrome.open(path=path)
        await look(path)
    await chrome.open(path=f"/admin/act/session-end?selector={quoted}")
    await chrome.fill(label="Reason", text="maintenance")
    await chrome.click(role="button", name="End 1 session")
    await look("what became of it")
    await client.expect("stream-error")
    assert not found, "\n".join(found)
