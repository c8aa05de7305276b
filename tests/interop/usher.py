"""One `usher serve` on loopback with a data directory of its own, and its command line.

Everything the server and its commands print is kept in files, so that at the end a test can search
the whole run, and the data directory, for secrets. Processes are ended by their own handle only.
"""

import asyncio
import json
import os
import re
import secrets
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import contract

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("USHER_BINARY", ROOT / "target" / "debug" / "usher"))

# Seconds. A debug build on a busy machine of two cores stays far below these.
START = 30
STOP = 20
COMMAND = 30


@dataclass(frozen=True)
class Door:
    """Where a client finds the server, and the certificate it pins."""

    domain: str
    c2s: int
    c2s_tls: int
    http: int
    https: int
    certificate: Path


@dataclass(frozen=True)
class Completed:
    """A command that has run."""

    args: tuple[str, ...]
    status: int
    out: str
    err: str

    def json(self):
        try:
            return json.loads(self.out)
        except ValueError:
            raise AssertionError(f"{self} did not print JSON") from None

    def __str__(self):
        return f"`usher {' '.join(self.args)}`: exit {self.status}\n{self.out}{self.err}"


def free_ports(count):
    """Ports that nobody listens on now; held open together so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Usher:
    """A server process, its data, and the secrets that must not leak from it."""

    domain = "localhost"

    def __init__(self, base, settings=""):
        self.base = Path(base)
        self.data = self.base / "data"
        self.config = self.base / "usher.toml"
        self.log = self.base / "server.log"
        self.command_log = self.base / "commands.log"
        self.process = None
        self.secrets = set()
        c2s, c2s_tls, http, https = free_ports(4)
        self.door = Door(self.domain, c2s, c2s_tls, http, https, self.data / "self-signed.crt")
        self.config.write_text(
            f'data_dir = "{self.data}"\n'
            f"[[host]]\n"
            f'name = "{self.domain}"\n'
            f"[listen]\n"
            f'c2s = ["127.0.0.1:{c2s}"]\n'
            f'c2s_tls = ["127.0.0.1:{c2s_tls}"]\n'
            f'http = ["127.0.0.1:{http}"]\n'
            f'https = ["127.0.0.1:{https}"]\n' + settings
        )

    # --- life ----------------------------------------------------------------------------------

    async def start(self, *program, **environment):
        """Starts it and waits until it answers; by another program if one is named."""
        assert self.process is None, "already running"
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(program or (BINARY,)),
                *("serve", "--config", str(self.config)),
                cwd=self.base,
                env={**os.environ, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(START):
            while not await self._ready():
                if self.process.returncode is not None:
                    status, self.process = self.process.returncode, None
                    raise AssertionError(f"exit {status} at start:\n{self.log.read_text()}")
                await asyncio.sleep(0.05)

    async def _ready(self):
        for port in (self.door.c2s, self.door.c2s_tls, self.door.http, self.door.https):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
        return (await self.cli("session", "count", "--json")).status == contract.DONE

    async def stop(self):
        """SIGTERM, a bounded wait, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return await self.gone()

    async def kill9(self):
        self.process.kill()
        return await self.gone()

    async def gone(self):
        """Waits, within bounds, until the process is over; its exit status."""
        try:
            async with asyncio.timeout(STOP):
                status = await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise AssertionError(f"still running {STOP} s after the signal") from None
        finally:
            self.process = None
        return status

    @property
    def running(self):
        return self.process is not None

    # --- commands ------------------------------------------------------------------------------

    async def cli(self, *args, input=None, record=True):
        """Runs one command to its end. `record=False` is for the one that may print a secret."""
        process = await self.spawn(*args)
        try:
            async with asyncio.timeout(COMMAND):
                out, err = await process.communicate(None if input is None else input.encode())
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"`usher {' '.join(args)}` took over {COMMAND} s") from None
        done = Completed(args, process.returncode, out.decode(), err.decode())
        if record:
            with self.command_log.open("a") as log:
                log.write(f"{done}\n")
        return done

    async def spawn(self, *args):
        """Starts a command that goes on by itself (`session watch`); the caller ends it."""
        return await asyncio.create_subprocess_exec(
            BINARY,
            *(*args, "--config", str(self.config)),
            cwd=self.base,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def ok(self, *args, input=None):
        done = await self.cli(*args, input=input)
        assert done.status == contract.DONE, str(done)
        return done

    async def json(self, *args, input=None):
        return (await self.ok(*args, "--json", input=input)).json()

    # --- the things tests do all the time --------------------------------------------------------

    def secret(self, length=15):
        """A fresh random secret that the scan will look for."""
        value = secrets.token_urlsafe(length)
        self.secrets.add(value)
        return value

    async def account(self, name, *options):
        """Adds an account with a random password; answers (bare JID, password)."""
        jid, password = f"{name}@{self.domain}", self.secret()
        await self.ok("user", "add", jid, "--password-stdin", *options, input=password + "\n")
        return jid, password

    async def mint(self, jid, *options):
        """Mints a token; answers (id, the `secret-token:` string)."""
        done = await self.cli("token", "mint", jid, *options, "--json", record=False)
        assert done.status == contract.DONE, f"token mint: exit {done.status}\n{done.err}"
        [minted] = done.json()[contract.ROWS]
        token = minted[contract.TOKEN_SECRET]
        assert contract.TOKEN.fullmatch(token), "not a token as RFC 8959 writes it"
        payload = token.removeprefix("secret-token:")
        # The id stands in front and is public; the tail is secret in any layout.
        self.secrets.update({payload, payload[-20:]})
        return minted[contract.TOKEN_ID], token

    async def list(self, *args):
        """A list, which may be empty."""
        done = await self.cli(*args, "--json")
        rows = done.json()
        assert done.status == (contract.DONE if rows else contract.NO_MATCH), str(done)
        return rows

    async def sessions(self, *pattern):
        return await self.list("session", "list", *pattern)

    async def session(self, jid):
        """The one session whose full JID this is."""
        found = [s for s in await self.sessions() if s["jid"] == jid]
        assert len(found) == 1, f"{len(found)} sessions are {jid}"
        return found[0]

    # --- the end of a run ------------------------------------------------------------------------

    def leaks(self):
        """Where a secret, or any token at all, was written down: messages for the test to show."""
        found = []
        texts = [self.log, self.command_log, *self.data.rglob("*.log")]
        for path in texts:
            if path.is_file() and contract.TOKEN.search(path.read_text(errors="replace")):
                found.append(f"{path.name} holds a token")
        stored = [path for path in self.data.rglob("*") if path.is_file()]
        for path in {*texts, *stored}:
            if not path.is_file():
                continue
            content = path.read_bytes()
            if any(value.encode() in content for value in self.secrets):
                found.append(f"{path.name} holds a password or a token's secret")
        return found

    def events(self, pattern):
        """Lines of the server's log that match, for a test that asks what was logged."""
        return [line for line in self.log.read_text().splitlines() if re.search(pattern, line)]
