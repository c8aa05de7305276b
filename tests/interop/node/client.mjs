// The @xmpp/client half of the real-client tests: one client, driven by JSON lines.
//
// Standard input takes {"serial", "verb", ...}; standard output gives {"serial", "result"} or
// {"serial", "error"} for each, and {"event", ...} for what happens on its own. The certificate of
// the server is pinned by NODE_EXTRA_CA_CERTS; verification stays on. It reconnects only when told
// to, so that a test sees an end as an end.

import { createInterface } from "node:readline";
import { client } from "@xmpp/client";
import parse from "@xmpp/xml/lib/parse.js";
import xml from "@xmpp/xml";

let xmpp;
let secret;

const FEATURES = "http://etherx.jabber.org/streams";
const SASL2 = "urn:xmpp:sasl:2";
const SM = "urn:xmpp:sm:3";

// A client from before SASL 2 and stream management: it does not see that they are offered.
const forget = (element) => {
  if (!element.is("features", FEATURES)) return;
  for (const [name, space] of [["authentication", SASL2], ["sm", SM]]) {
    const offered = element.getChild(name, space);
    if (offered) element.remove(offered);
  }
};

// 0.14.0 does not count the answers to its own requests as stanzas that it has handled.
const count = (element) => {
  const answer = element.name === "iq" && ["result", "error"].includes(element.attrs.type);
  if (answer && xmpp.iqCaller.handlers.has(element.attrs.id)) xmpp.streamManagement.inbound += 1;
};

// A token lives as long as this process, like the rest of what the client knows.
const log = (direction) => (element) => {
  if (element.getNS() !== SASL2) return;
  say({
    event: "login",
    direction,
    name: element.name,
    mechanism: element.attrs.mechanism ?? null,
    inside: element.getChildElements().map((child) => child.name),
  });
};

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// The condition's element carries all that a test asks about: condition, text, what stands behind.
const tell = (error) => ({
  name: error.name,
  condition: error.condition ?? null,
  text: error.text ?? String(error.message),
  xml: error.element?.toString() ?? null,
});

const verbs = {
  async login({
    service,
    domain,
    username,
    password,
    resource,
    mechanism,
    reconnect,
    modern,
    agent,
  }) {
    const userAgent = agent && xml("user-agent", { id: agent }, xml("software", {}, "xmpp.js"));
    secret = password;
    xmpp = client({
      service,
      domain,
      ...(resource && { resource }),
      credentials: async (authenticate, offered, fast, entity) => {
        if (!entity.isSecure()) throw new Error("asked to authenticate without TLS");
        const chosen = mechanism ?? offered[0];
        say({ event: "mechanism", mechanism: chosen });
        const token = await fast?.fetch();
        await authenticate({ username, password: secret, token }, chosen, userAgent);
      },
    });
    if (modern) {
      xmpp.prependListener("element", count);
      xmpp.on("element", log("in"));
      xmpp.on("send", log("out"));
      xmpp.streamManagement.on("resumed", () => say({ event: "resumed" }));
      xmpp.streamManagement.on("fail", (stanza) =>
        say({ event: "unsent", body: stanza.getChildText("body") }),
      );
    } else {
      xmpp.prependListener("element", forget);
    }
    xmpp.timeout = 15000;
    // What is written while something is read may bring the next piece at once, in the middle of
    // the one before; the parser of 0.14.0 takes one piece at a time.
    const take = xmpp._onData.bind(xmpp);
    const pieces = [];
    let taking = false;
    xmpp._onData = (data) => {
      pieces.push(data);
      if (taking) return;
      taking = true;
      try {
        while (pieces.length > 0) take(pieces.shift());
      } finally {
        taking = false;
      }
    };
    // 0.14.0 waits for the server's header only once its own is known to have left, and then for
    // ever if that was answered before.
    const open = xmpp.open.bind(xmpp);
    xmpp.open = (options) =>
      Promise.race([new Promise((done) => xmpp.once("open", done)), open(options)]);
    if (!reconnect) xmpp.reconnect.stop();
    xmpp.on("error", (error) => say({ event: "error", ...tell(error) }));
    xmpp.on("element", (element) => say({ event: "element", xml: element.toString() }));
    xmpp.on("online", (jid) => say({ event: "online", jid: String(jid) }));
    xmpp.on("disconnect", () => say({ event: "disconnect" }));
    const jid = await xmpp.start();
    return { jid: String(jid), tls: xmpp.socket.socket?.getProtocol?.() ?? null };
  },

  async send({ stanza }) {
    await xmpp.send(parse(stanza));
  },

  async iq({ stanza }) {
    const reply = await xmpp.iqCaller.request(parse(stanza), 15000);
    return reply.toString();
  },

  // Connects once more, with all that the client still knows; answers when it is in again.
  async again({ password }) {
    secret = password ?? secret;
    if (!["disconnect", "offline"].includes(xmpp.status)) {
      await new Promise((done) => xmpp.once("disconnect", done));
    }
    const resumed = new Promise((done) =>
      xmpp.streamManagement.once("resumed", () => done({ resumed: true })),
    );
    const online = new Promise((done) => xmpp.once("online", () => done({ resumed: false })));
    const failed = new Promise((_, fail) => xmpp.once("error", fail));
    const { service, domain } = xmpp.options;
    await xmpp.connect(service);
    const into = Promise.race([resumed, online, failed]);
    await xmpp.open({ domain });
    const { resumed: same } = await into;
    return { jid: String(xmpp.jid), resumed: same };
  },

  async token() {
    return (await xmpp.fast.fetch()) ?? null;
  },

  async logout() {
    await xmpp.stop();
  },

  async cut() {
    const { socket } = xmpp.socket;
    (socket ?? xmpp.socket).destroy();
  },
};

const lines = createInterface({ input: process.stdin });
lines.on("line", async (line) => {
  const { serial, verb, ...rest } = JSON.parse(line);
  try {
    say({ serial, result: (await verbs[verb](rest)) ?? null });
  } catch (error) {
    say({ serial, error: tell(error) });
  }
});
lines.on("close", () => process.exit(0));

