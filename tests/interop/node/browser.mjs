// A browser for the tests of the pages: Debian's Chromium, driven by playwright-core and by JSON lines.
//
// Standard input takes {"serial", "verb", ...}; standard output gives {"serial", "result"} or
// {"serial", "error"} for each. What is looked for is looked for as people do: by role and name. Each
// wait is bounded. The server's certificate is made for the test, and not verified here.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const WAIT = 15000;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

let browser;
let context;
let page;
let asked = [];
let complaints = [];

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const state = async (response) => ({
  status: response?.status() ?? null,
  path: new URL(page.url()).pathname + new URL(page.url()).search,
  title: await page.title(),
});

const verbs = {
  // A browser of its own: another one's cookies are not there.
  async begin({ origin, dark = false, width = 1280, height = 900, scripts = true }) {
    browser ??= await chromium.launch({
      executablePath: process.env.CHROMIUM,
      args: ["--no-sandbox", "--disable-dev-shm-usage"],
    });
    await context?.close();
    context = await browser.newContext({
      baseURL: origin,
      ignoreHTTPSErrors: true,
      colorScheme: dark ? "dark" : "light",
      viewport: { width, height },
      javaScriptEnabled: scripts,
      reducedMotion: "reduce",
    });
    context.setDefaultTimeout(WAIT);
    [asked, complaints] = [[], []];
    context.on("request", (request) => asked.push(request.url()));
    page = await context.newPage();
    page.on("console", (message) => {
      if (message.type() === "error") complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
  },
  async look({ dark, width, height }) {
    await page.emulateMedia({ colorScheme: dark ? "dark" : "light" });
    await page.setViewportSize({ width, height });
  },
  async open({ path }) {
    return state(await page.goto(path));
  },
  async fill({ label, text }) {
    await page.getByLabel(label, { exact: true }).first().fill(text);
  },
  async click({ role, name, within }) {
    const place = within ? page.locator(within.css).filter({ hasText: within.text }) : page;
    const target = place.getByRole(role, { name, exact: false }).first();
    const come = role === "checkbox" ? null : page.waitForNavigation({ timeout: WAIT });
    await target.click();
    return state(await come);
  },
  // Keys and nothing else; "Tab", "Enter", or text.
  async keys({ keys, comes = false }) {
    const come = comes && page.waitForNavigation({ timeout: WAIT });
    for (const key of keys) {
      if (key.length > 1 && /^(Shift\+)?[A-Z][A-Za-z]+$/.test(key)) await page.keyboard.press(key);
      else await page.keyboard.type(key);
    }
    return come ? state(await come) : null;
  },
  async focused() {
    return page.evaluate(() => {
      const one = document.activeElement;
      return (one.labels?.[0]?.textContent ?? one.textContent ?? "").trim().replace(/\s+/g, " ");
    });
  },
  // Until it is there, or is not; without loading the page again.
  async shows({ text, gone = false }) {
    const found = page.locator("main, #told").getByText(text, { exact: false }).first();
    await found.waitFor({ state: gone ? "hidden" : "visible" });
  },
  async listens() {
    await page.waitForSelector("body[data-listens=yes]");
  },
  async text() {
    return page.locator("main").innerText();
  },
  // What a page from elsewhere would send; it has no key, and the browser says whose it is.
  async forge({ url, fields }) {
    const inputs = Object.entries(fields)
      .map(([name, value]) => `<input name="${name}" value="${value}">`)
      .join("");
    const other = await context.newPage();
    await other.setContent(`<form method="post" action="${url}">${inputs}<button>x</button></form>`);
    const come = other.waitForNavigation({ timeout: WAIT });
    await other.getByRole("button").click();
    const answer = await come;
    const { pathname } = new URL(other.url());
    await other.close();
    return { status: answer.status(), path: pathname };
  },
  // A form of the page itself, with another key.
  async spoil({ key, role, name }) {
    await page.evaluate((key) => {
      for (const field of document.querySelectorAll("input[name=form]")) field.value = key;
    }, key);
    return verbs.click({ role, name });
  },
  // What axe-core finds that keeps people out.
  async axe() {
    if (!(await page.evaluate("typeof axe === 'object'"))) await page.evaluate(axe);
    const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    return found.violations.map(({ id, impact, help, nodes }) => ({
      id,
      impact,
      help,
      nodes: nodes.slice(0, 5).map((node) => `${node.html} ${node.failureSummary ?? ""}`),
    }));
  },
  // How much wider the page is than the window.
  async overflow() {
    return page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  },
  async shot({ file }) {
    await page.screenshot({ path: file, fullPage: true });
  },
  async cookies() {
    return context.cookies();
  },
  async asked() {
    return asked;
  },
  async complaints() {
    return complaints;
  },
  async end() {
    await browser?.close();
    browser = undefined;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { serial, verb, ...options } = JSON.parse(line);
  try {
    say({ serial, result: (await verbs[verb](options)) ?? null });
  } catch (error) {
    say({ serial, error: String(error?.stack ?? error) });
  }
}
await browser?.close();
