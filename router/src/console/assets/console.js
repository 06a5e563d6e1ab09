// The console's script. Pages are whole without it: it keeps them up to date, gives them keys, marks
// mistakes in the editor, and shows the firehose.
"use strict";

const $ = (selector, from = document) => from.querySelector(selector);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const body = document.body;

// What is shown of the connection.
const live = $("#live");
const say = (state, text) => {
  if (live.textContent === text && live.className === `live ${state}`) return;
  live.className = `live ${state}`;
  live.textContent = text;
  live.hidden = false;
};

// Up to date: the page is asked for anew, and what has changed of its marked parts is put in place.
let asking = null;
let again = false;
async function refresh() {
  if (asking) {
    again = true;
    return asking;
  }
  asking = (async () => {
    try {
      const response = await fetch(location.href, { headers: { accept: "text/html" } });
      if (response.redirected && new URL(response.url).pathname.startsWith("/console/sign-in")) {
        location.reload();
        return;
      }
      if (!response.ok) throw new Error(String(response.status));
      swap(new DOMParser().parseFromString(await response.text(), "text/html"));
      if (!source) say("", "Live");
    } catch {
      if (!source) say("lost", "Not connected, trying again");
    }
  })();
  await asking;
  asking = null;
  if (again) {
    again = false;
    soon();
  }
}

const was = new Map();
function swap(page) {
  if (source && body.dataset.stream && !page.body.dataset.stream) {
    source.close();
    say("over", "Ended");
  }
  for (const part of all("[data-swap]")) {
    const fresh = page.getElementById(part.id);
    const selected = getSelection();
    const isHeld = selected && !selected.isCollapsed && part.contains(selected.anchorNode);
    if (!fresh || isHeld || fresh.innerHTML === was.get(part)) continue;
    const open = all("details", part).map((details) => details.open);
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const key = focused && (focused.getAttribute("href") || focused.id);
    const scrolled = all(".diagram, .json", part).map((box) => [box.scrollLeft, box.scrollTop]);
    const at = all("[data-row]", part).findIndex((row) => row.classList.contains("at"));
    was.set(part, fresh.innerHTML);
    part.replaceChildren(...fresh.childNodes);
    all("details", part).forEach((details, index) => { details.open = open[index] ?? false; });
    all(".diagram, .json", part).forEach((box, index) => {
      if (scrolled[index]) [box.scrollLeft, box.scrollTop] = scrolled[index];
    });
    if (at >= 0) all("[data-row]", part)[at]?.classList.add("at");
    if (key) all("a, button, [id]", part).find((e) => (e.getAttribute("href") || e.id) === key)?.focus();
    furnish(part);
  }
}

let timer = null;
const soon = () => {
  timer ??= setTimeout(() => {
    timer = null;
    refresh();
  }, 200);
};

// By a stream: every event brings the page up to date. The browser itself takes it up again where it was cut.
let source = null;
function follow(url, onEvent, onOpen = () => {}) {
  source = new EventSource(url);
  source.onopen = () => {
    say("", "Live");
    // What came between the page and the stream, or while there was none.
    onOpen();
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      say("over", "Nothing more to come");
      onOpen();
    } else {
      say("lost", "Connection lost, trying again");
    }
  };
  for (const kind of kinds) source.addEventListener(kind, onEvent);
  source.onmessage = onEvent;
}
const kinds = [
  "workflow_started", "workflow_completed", "workflow_failed", "workflow_cancelled", "workflow_suspended",
  "workflow_resumed", "workflow_timed_out", "workflow_interrupted", "step_scheduled", "step_started",
  "step_completed", "step_failed", "step_skipped", "step_retrying", "step_suspended", "step_retry_attempt",
  "step_fallback", "step_ignored", "error_handler_invoked", "decision_requested", "decision_resolved",
  "signal_received", "wait_started", "wait_completed", "variable_set", "dag_mutated", "circuit_breaker_open",
  "circuit_breaker_half_open", "circuit_breaker_closed", "condition_evaluated", "loop_iter_started",
  "loop_iter_completed", "loop_completed", "parallel_started", "parallel_completed", "compensation_started",
  "compensation_completed", "compensation_failed", "custom", "lagged", "unreachable", "reachable",
];

// Keys: what has a `data-key` is reached by it, one after the other where it has two.
const keysAreOn = () => localStorage.getItem("opcode-keys") !== "off";
let first = null;
function keyed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input:not([type=radio], [type=checkbox]), textarea, select");
  if (event.key === "Escape") {
    if (typing) return void typing.blur();
    if (!$("dialog[open]")) press("Escape");
    return;
  }
  if (typing || $("dialog[open]") || !keysAreOn()) return;
  const pressed = first ? `${first} ${event.key}` : event.key;
  first = null;
  if (event.key === "?") help();
  else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  else if (event.key === "Enter" && $("tr.at") && document.activeElement === body) $("tr.at a")?.click();
  else if (event.key === "g" && pressed === "g") {
    first = "g";
    setTimeout(() => { first = null; }, 1500);
  } else if (!press(pressed)) return;
  event.preventDefault();
}

function press(key) {
  const found = all("[data-key]").find((e) => e.dataset.key === key && !e.hidden);
  if (!found) return false;
  if (found.matches("input[type=radio]")) {
    found.checked = true;
    found.focus();
  } else if (found.matches("input, select, textarea")) found.focus();
  else found.click();
  return true;
}

function step(by) {
  const rows = all("[data-row]");
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("at"));
  const next = Math.min(Math.max(at + by, 0), rows.length - 1);
  rows[at]?.classList.remove("at");
  rows[next].classList.add("at");
  rows[next].scrollIntoView({ block: "nearest" });
  $("a", rows[next])?.focus({ preventScroll: true });
}

function help() {
  const list = $("#help-list");
  const known = [["?", "these keys"], ["j / k", "the next row, the one before"], ["Enter", "open it"]];
  const named = all("[data-key]").filter((e) => !e.hidden).map((e) => {
    const clone = e.cloneNode(true);
    all("kbd", clone).forEach((kbd) => kbd.remove());
    const name = clone.textContent.trim() || e.getAttribute("placeholder") || e.value || "";
    return [e.dataset.key, name.slice(0, 60)];
  });
  const seen = new Set();
  list.replaceChildren(...[...known, ...named].filter(([key]) => !seen.has(key) && seen.add(key)).flatMap(([key, name]) => {
    const [dt, kbd, dd] = ["dt", "kbd", "dd"].map((tag) => document.createElement(tag));
    kbd.textContent = key;
    dt.append(kbd);
    dd.textContent = name;
    return [dt, dd];
  }));
  $("#help").showModal();
}

// The editor. Mistakes are underlined in a copy of the text behind it.
function edit(area) {
  const [box, marks, verdict] = ["div", "pre", "div"].map((tag) => document.createElement(tag));
  box.className = "editor";
  marks.className = "marks";
  marks.setAttribute("aria-hidden", "true");
  verdict.className = "verdict";
  verdict.setAttribute("role", "status");
  verdict.id = `${area.id}-verdict`;
  area.setAttribute("aria-describedby", verdict.id);
  area.before(box);
  box.append(marks, area);
  box.after(verdict);
  let turn = 0;
  let waiting = null;
  const scroll = () => { [marks.scrollTop, marks.scrollLeft] = [area.scrollTop, area.scrollLeft]; };
  const draw = (problems) => {
    const text = area.value;
    const lines = text.split("\n");
    const starts = [];
    lines.reduce((at, line) => (starts.push(at), at + line.length + 1), 0);
    const spans = problems
      .map(({ line, column }) => {
        const own = lines[line - 1] ?? "";
        // Columns count characters, strings here count halves of some.
        const before = [...own].slice(0, Math.max(column - 1, 0)).join("").length;
        const from = (starts[line - 1] ?? 0) + before;
        const word = /^("(?:[^"\\]|\\.)*"?|[\w.+-]+|.)/.exec(own.slice(before));
        return [from, from + Math.max(word ? word[0].length : 1, 1)];
      })
      .sort(([a], [b]) => a - b);
    const parts = [];
    let at = 0;
    for (const [from, to] of spans) {
      if (from < at) continue;
      const mark = document.createElement("mark");
      mark.textContent = text.slice(from, to) || " ";
      parts.push(text.slice(at, from), mark);
      at = to;
    }
    marks.replaceChildren(...parts, text.slice(at), "\n");
    scroll();
    return starts;
  };
  const check = async () => {
    const own = ++turn;
    if (!area.value.trim()) {
      draw([]);
      verdict.replaceChildren();
      area.removeAttribute("aria-invalid");
      return;
    }
    let told;
    try {
      const response = await fetch(area.dataset.editor, { method: "POST", headers: { "content-type": "application/json" }, body: area.value });
      told = await response.json();
    } catch {
      verdict.className = "verdict";
      verdict.textContent = "It cannot be checked just now.";
      return;
    }
    if (own !== turn) return;
    const starts = draw(told.problems);
    area.setAttribute("aria-invalid", String(!told.valid));
    verdict.className = told.valid ? "verdict good" : "verdict";
    if (told.valid) return void (verdict.textContent = "✓ It is valid.");
    const list = document.createElement("ol");
    for (const problem of told.problems.slice(0, 20)) {
      const [item, go] = ["li", "button"].map((tag) => document.createElement(tag));
      go.type = "button";
      go.textContent = `${problem.line}:${problem.column}`;
      go.setAttribute("aria-label", `Go to line ${problem.line}, column ${problem.column}`);
      go.onclick = () => {
        const at = (starts[problem.line - 1] ?? 0) + problem.column - 1;
        area.focus();
        area.setSelectionRange(at, at);
      };
      item.append(go, ` ${problem.message}`);
      list.append(item);
    }
    verdict.replaceChildren(list);
  };
  area.addEventListener("scroll", scroll);
  area.addEventListener("input", () => {
    draw([]);
    clearTimeout(waiting);
    waiting = setTimeout(check, 250);
  });
  check();
}

// A field of JSON says whether it is.
function json(area) {
  const check = () => {
    let error = "";
    try {
      if (area.value.trim()) JSON.parse(area.value);
    } catch (cause) {
      error = cause.message;
    }
    area.setAttribute("aria-invalid", String(Boolean(error)));
    area.setCustomValidity(error && `This is not JSON: ${error}`);
  };
  area.addEventListener("input", check);
  check();
}

// The firehose: the newest on top.
function firehose(table) {
  const rows = table.tBodies[0];
  const hold = $("#hold");
  let held = false;
  hold.hidden = false;
  hold.onclick = () => {
    held = !held;
    hold.setAttribute("aria-pressed", String(held));
    hold.textContent = held ? "Go on" : "Hold";
  };
  follow(table.dataset.firehose, (event) => {
    if (held) return;
    const told = JSON.parse(event.data);
    const row = document.createElement("tr");
    const cell = (text, href) => {
      const td = row.insertCell();
      const code = document.createElement("code");
      code.textContent = text ?? "";
      if (href) {
        const link = document.createElement("a");
        link.href = href;
        link.append(code);
        td.append(link);
      } else td.append(code);
      return td;
    };
    const text = told.data === undefined ? told.detail ?? "" : JSON.stringify(told.data);
    row.insertCell().textContent = (told.timestamp ?? "").slice(11, 23);
    row.insertCell().textContent = event.type.replaceAll("_", " ");
    cell(told.workflow_id, told.workflow_id && `/console/workflows/${encodeURIComponent(told.workflow_id)}`);
    cell(told.step_id);
    cell(told.shard).className = "num";
    cell(text.length > 120 ? `${text.slice(0, 119)}…` : text).className = "wide";
    rows.prepend(row);
    while (rows.rows.length > 500) rows.lastElementChild.remove();
  });
}

// What parts of a page are given beside what stands in them.
function furnish(part) {
  for (const box of all(".shell", part)) {
    const text = box.textContent;
    const copy = document.createElement("button");
    copy.type = "button";
    copy.textContent = "Copy";
    copy.onclick = async () => {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    };
    box.append(copy);
  }
  // A box of the diagram leads to its step, for who has a pointer; the table below leads there by keys.
  const links = new Map(all("tr[data-step]").map((row) => [row.dataset.step, $("a", row)?.href]));
  for (const box of all(".diagram .step", part)) {
    const href = links.get(box.dataset.step);
    if (!href) continue;
    box.dataset.link = "";
    box.addEventListener("click", (event) => {
      event.stopPropagation();
      location.href = href;
    });
  }
}

document.addEventListener("keydown", keyed);
const keys = $("#keys");
keys.hidden = false;
keys.onclick = help;
const on = $("#keys-on");
on.checked = keysAreOn();
on.onchange = () => localStorage.setItem("opcode-keys", on.checked ? "on" : "off");
for (const part of all("[data-swap]")) was.set(part, part.innerHTML);
furnish(document);
all("[data-editor]").forEach(edit);
all("[data-json]").forEach(json);
all("[data-firehose]").forEach(firehose);
if (body.dataset.stream) follow(body.dataset.stream, soon, soon);
else if (body.dataset.refresh) {
  say("", "Live");
  setInterval(() => { if (!document.hidden) refresh(); }, Number(body.dataset.refresh) * 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
}
