// The @xmpp/client half of the real-client tests: one client, driven by JSON lines.
//
// Standard input takes {"serial", "verb", ...}; standard output gives {"serial", "result"} or
// {"serial", "error"} for each, and {"event", ...} for what happens on its own. The certificate of
// the server is pinned by NODE_EXTRA_CA_CERTS; verification stays on. It reconnects only when told
// to, so that a test sees an end as an end.

import { createInterface } from "node:readline";
import { client } from "@xmpp/client";
import parse from "@xmpp/xml/lib/parse.js";

let xmpp;

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// The condition's element carries all that a test asks about: condition, text, what stands behind.
const tell = (error) => ({
  name: error.name,
  condition: error.condition ?? null,
  text: error.text ?? String(error.message),
  xml: error.element?.toString() ?? null,
});

const verbs = {
  async login({ service, domain, username, password, resource, mechanism, reconnect }) {
    xmpp = client({
      service,
      domain,
      ...(resource && { resource }),
      credentials: async (authenticate, offered, _fast, entity) => {
        if (!entity.isSecure()) throw new Error("asked to authenticate without TLS");
        const chosen = mechanism ?? offered[0];
        say({ event: "mechanism", mechanism: chosen });
        await authenticate({ username, password }, chosen);
      },
    });
    xmpp.timeout = 15000;
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

