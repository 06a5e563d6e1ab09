// A person at the console, in headless Chromium: starts, decides, retries, cancels and writes a template by
// keys alone, watches a workflow change without loading anything, and has axe-core look at every page in
// light and dark.
//
// Started with the node's URL, the browser's path, and a folder for pictures. Prints one line of JSON: what
// was seen, and what was wrong.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [url, executablePath, pictures] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args: flags });
const page = await (await browser.newContext({ viewport: { width: 1280, height: 860 } })).newPage();
const complaints = [];
page.on("console", (message) => {
  // A page of a refusal is a failed load to the browser, and meant here.
  if (message.type() === "error" && !message.text().startsWith("Failed to load")) complaints.push(message.text());
});
page.on("pageerror", (error) => complaints.push(String(error)));
page.setDefaultTimeout(20_000);

const post = async (path, body) => {
  const response = await fetch(url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${path}: ${JSON.stringify(answer)}`);
  return answer;
};
const asks = (id, labels = {}) => ({ id, labels, definition: { steps: [{ id: "ask", type: "reasoning",
  config: { prompt_context: "Go on?", options: [{ id: "yes", description: "Go on" }, { id: "no", description: "Stop" }] } }] } });
const decision = { type: "decision", step_id: "ask", payload: { choice: "yes" } };
const seen = {};
const keys = page.keyboard;
const loaded = (action) => Promise.all([page.waitForNavigation(), action()]);

// Goes on with the tabulator, as somebody without a mouse does.
const tabTo = async (selector) => {
  for (let presses = 0; presses < 120; presses += 1) {
    await keys.press("Tab");
    if (await page.evaluate((wanted) => document.activeElement.matches(wanted), selector)) return;
  }
  throw new Error(`${selector} cannot be reached by keys on ${page.url()}`);
};
const go = async (...pressed) => {
  await page.evaluate(() => document.activeElement.blur());
  await loaded(async () => { for (const key of pressed) await keys.press(key); });
};

// First run, from an empty node, by keys alone.
await page.goto(url);
seen.empty = await page.textContent("main");
await page.screenshot({ path: `${pictures}/empty.png`, fullPage: true });
await go("n");
await tabTo("#id");
await keys.type("first");
await tabTo("main button.primary");
await loaded(() => keys.press("Enter"));
await page.waitForSelector("h1 .s-suspended");
await go("x");
await keys.press("1");
await tabTo("main button.primary");
await loaded(() => keys.press("Enter"));
await page.waitForSelector("h1 .s-completed");
seen.first = await page.textContent("h1");

// A workflow changes under the eyes of somebody who does nothing.
await post("/v1/workflows?wait=10s", asks("live"));
await page.goto(`${url}/console/workflows/live`);
await page.waitForSelector("#live:not(.lost):not([hidden])");
await page.evaluate(() => { window.isTheSame = true; });
await post("/v1/workflows/live/signals", decision);
await page.waitForSelector("h1 .s-completed");
seen.live = await page.evaluate(() => window.isTheSame === true);

// A failed one is retried from a step, with other params.
await post("/v1/workflows?wait=10s", { id: "failed", params: { n: 1 }, definition: { steps: [
  { id: "good", action: "workflow.log", params: { message: "m" } },
  { id: "bad", action: "workflow.fail", depends_on: ["good"], params: { reason: "no tea" } }] } });
await page.goto(`${url}/console/workflows/failed`);
await go("r");
await tabTo("#from_step");
await keys.type("good");
await tabTo("#params");
await keys.press("Control+A");
await keys.type('{"n": 2}');
await tabTo("main button.primary");
await loaded(() => keys.press("Enter"));
seen.retried = await page.textContent(".note");

// Many are cancelled, once their number was seen.
for (const id of ["m1", "m2", "m3"]) await post("/v1/workflows?wait=10s", asks(id, { team: "tea" }));
await page.goto(`${url}/console/workflows?label=team%3Atea`);
await tabTo("#action");
await tabTo(".bulk button");
await loaded(() => keys.press("Enter"));
seen.matched = await page.textContent("#matched");
await tabTo("main button.danger");
await loaded(() => keys.press("Enter"));
seen.cancelled = await page.textContent("main .big");

// A template is written with a mistake, which is underlined; put right, it is saved.
await go("g", "t");
await go("c");
await tabTo("#file");
await keys.press("Control+A");
await keys.insertText('{\n  "name": "made",\n  "definition": {"steps": [{"id": "a", "action": "crypto.uuidd"}]}\n}');
await page.waitForSelector(".editor mark");
seen.mistake = [await page.textContent(".editor mark"), await page.textContent(".verdict")];
await page.screenshot({ path: `${pictures}/mistake.png` });
await keys.press("Control+A");
await keys.insertText('{\n  "name": "made",\n  "definition": {"steps": [{"id": "a", "action": "crypto.uuid"}]}\n}');
await page.waitForSelector(".verdict.good");
await tabTo("main button.primary");
await loaded(() => keys.press("Enter"));
seen.saved = await page.textContent("h1");

// The keys tell what they do.
await keys.press("?");
seen.help = (await page.textContent("#help-list")).includes("g w");
await keys.press("Escape");

// Every page, in light and dark.
await post("/v1/templates", { name: "made", definition: { steps: [{ id: "b", action: "crypto.uuid" }] } });
await post("/v1/schedules", { id: "nightly", template: "made", cron: "0 3 * * *" });
await post("/v1/workflows?wait=10s", asks("waiting"));
const branches = { yes: [{ id: "log", action: "workflow.log", params: { message: "m" } }], no: [{ id: "stop", action: "workflow.log", params: { message: "n" } }] };
const body = [{ id: "round", action: "workflow.log", params: { message: "r" } }];
await post("/v1/workflows?wait=10s", { id: "nested", labels: { team: "tea" }, definition: { steps: [
  { id: "begin", action: "workflow.log", params: { message: "m" } },
  { id: "pick", type: "condition", depends_on: ["begin"], config: { expression: "'yes'", branches } },
  { id: "each", type: "loop", depends_on: ["begin"], config: { mode: "for_each", over: [1, 2, 3], body } },
  { id: "fails", action: "workflow.fail", depends_on: ["pick", "each"], params: { reason: "the shop is closed" } },
  { id: "after", action: "workflow.log", depends_on: ["fails"], params: { message: "n" } }] } });
const pages = ["", "workflows", "workflows?status=completed&status=failed", "bulk?action=cancel", "start", "start?from=nested",
  "workflows/nested", "workflows/nested?tab=events", "workflows/nested?tab=data", "workflows/nested?tab=definition",
  "workflows/nested/step?id=fails", "workflows/waiting", "workflows/waiting/why", "workflows/waiting/do/cancel",
  "workflows/failed/do/retry", "workflows/waiting/do/signal", "decisions", "decision?workflow=waiting&step=ask", "templates",
  "template/made", "template/made/diff?from=v1&to=v2", "templates/edit?name=made", "schedules", "schedule/nightly",
  "schedules/new", "schedule/nightly/do/delete", "events", "agents", "plugins", "audit", "cluster", "cluster/do/drain?node=1", "settings",
  "settings/do/token", "sign-in", "workflows/none"];
seen.axe = [];
for (const colorScheme of ["light", "dark"]) {
  await page.emulateMedia({ colorScheme });
  for (const path of pages) {
    await page.goto(`${url}/console/${path}`);
    if (path === "events") {
      await page.waitForSelector("#live:not([hidden])");
      await post("/v1/workflows?wait=10s", asks(`seen-${colorScheme}`));
      await page.waitForSelector("#firehose tbody tr");
    }
    await page.evaluate(axe);
    const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
    const { violations } = await page.evaluate((values) => window.axe.run(document, { runOnly: { type: "tag", values } }), tags);
    for (const { id, impact, nodes } of violations) {
      if (impact === "serious" || impact === "critical") seen.axe.push(`${colorScheme} ${path}: ${id}: ${nodes[0].html}`);
    }
    const name = path.replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") || "overview";
    await page.screenshot({ path: `${pictures}/${colorScheme}-${name}.png`, fullPage: true });
  }
}
seen.pages = pages.length;
seen.complaints = complaints;
console.log(JSON.stringify(seen));
await browser.close();
