"""Debian's Chromium: `node/browser.mjs` in a Node process of its own, driven by JSON lines."""

import asyncio
import itertools
import json
import os
import shutil
from pathlib import Path

from xmppjs import MODULES, ended, runtime

SCRIPT = Path(__file__).parent / "node" / "browser.mjs"
# Above every wait of the script.
WAIT = 40
NAMES = ("chromium", "chromium-browser")


def chromium():
    """Where the browser is; none: it is not installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Failed(AssertionError):
    """The browser could not do what it was asked for."""


class Chrome:
    """See the module: verbs of the script are methods of the same names."""

    def __init__(self, origin):
        self.origin = origin
        self._process = None
        self._numbers = itertools.count(1)

    async def start(self):
        # Modules are looked for beside the script, and they are not kept in the source tree.
        shutil.copyfile(SCRIPT, MODULES / SCRIPT.name)
        self._process = await asyncio.create_subprocess_exec(
            runtime(),
            MODULES / SCRIPT.name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"CHROMIUM": chromium()},
            limit=1 << 24,
        )

    async def stop(self):
        await ended(self._process, WAIT)

    async def ask(self, verb, **options):
        serial = next(self._numbers)
        line = json.dumps({"serial": serial, "verb": verb, **options})
        self._process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(WAIT):
            answer = json.loads(await self._process.stdout.readline())
        assert answer["serial"] == serial
        if "error" in answer:
            raise Failed(f"{verb} {options}: {answer['error']}")
        return answer["result"]

    def __getattr__(self, verb):
        return lambda **options: self.ask(verb, **options)

    async def begin(self, **options):
        await self.ask("begin", origin=self.origin, **options)

    async def login(self, jid, password, to="/devices"):
        await self.open(path=f"/login?next={to}")
        await self.fill(label="Address", text=jid)
        await self.fill(label="Password", text=password)
        page = await self.click(role="button", name="Log in")
        assert page["path"] == to, page
        return page
