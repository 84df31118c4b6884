"use strict";

const field = id => document.getElementById(id);
const result = field("result");
let routers = [];

// The rules that are stored, if the page is about some: a field that says what as.
const name = field("dtab").dataset.name, stored = field("dtab").defaultValue;

function rules() { return field("dtab").value.trim().replace(/[;\s]+$/, ""); }

const flat = text => text.split(/[;\n]/).map(r => r.replace(/\s+/g, "")).filter(Boolean).join(";");

// changed says that other rules are tried than are stored.
function changed() { return name !== undefined && flat(rules()) !== flat(stored); }

// make returns an element; all text goes in as text.
function make(tag, className, ...content) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...content);
  return e;
}

function router() { return field("router") ? routers.find(r => r.label === field("router").value) : undefined; }

function own(r) { return (r.appends ? "" : r.dtab).split(";").filter(Boolean).join(";\n"); }

// describe says what the rules in the form count for.
function describe() {
  if (name !== undefined) {
    field("effect").textContent = changed() ? "only tried here; namerctl dtab update " + name + " FILE would store them" : "as they are stored; change them to try others";
    field("stored").hidden = !changed();
    return;
  }
  const r = router();
  field("effect").textContent = !r ? field("router").value ? "" : "only the namers of the proxy count" :
    r.appends ? "these come after the router's own, so they win" :
    "these take the place of the router's own" + (r.namerd ? ", after those of the namerd at " + r.namerd : r.stored ? ", after those that are stored" : "");
}

function kids(n) {
  if (n.delegate) return [[n.delegate]];
  if (n.tree) return [[n.tree]];
  if (n.alt) return n.alt.map(k => [k]);
  return (n.union || []).map(b => [b.tree, b.weight]);
}

const outcomes = new WeakMap(); // of nodes: to look at each branch once keeps deep trees quick

// outcome is the type of what a node comes to: "leaf" if requests can go there.
function outcome(n) {
  if (!outcomes.has(n)) outcomes.set(n, judge(n));
  return outcomes.get(n);
}

function judge(n) {
  if (n.message) return "exception";
  switch (n.type) {
  case "delegate": return outcome(n.delegate);
  case "transformation": return outcome(n.tree);
  case "alt": return n.alt.map(outcome).find(o => o !== "neg") || "neg";
  case "union": {
    const got = shares(n), all = n.union.map(b => outcome(b.tree));
    if (got.some(s => s > 0)) return all.some((o, i) => o === "leaf" && got[i] > 0) ? "leaf" : "empty";
    return all.includes("pending") ? "pending" : all.length && all.every(o => o === "exception") ? "exception" : "neg";
  }
  }
  return n.type;
}

// shares says which part of the requests each branch of a union gets: those that lead nowhere get
// none, and all weights 0 count as equal ones.
function shares(n) {
  const stays = n.union.map(b => ["leaf", "empty"].includes(outcome(b.tree)));
  const count = stays.filter(Boolean).length;
  const sum = n.union.reduce((sum, b, i) => stays[i] ? sum + b.weight : sum, 0);
  return n.union.map((b, i) => !stays[i] ? 0 : sum > 0 && count > 1 ? b.weight / sum : 1 / count);
}

// ends returns the leaves that requests get to, as show marks them.
function ends(n) {
  if (outcome(n) !== "leaf") return [];
  if (n.type === "leaf") return [n];
  if (n.type === "alt") return ends(n.alt.find(k => outcome(k) !== "neg"));
  const got = n.type === "union" ? shares(n) : [1];
  return kids(n).flatMap(([k], i) => got[i] > 0 ? ends(k) : []);
}

// verdict says what a tree comes to, and whether that is bad.
function verdict(n) {
  const o = outcome(n), all = ends(n), open = all.filter(l => l.bound?.addr?.addrs?.length);
  if (!all.length) return ["it leads nowhere: " + (n.message || WHY[o] || o), true];
  const ids = [...new Set(all.map(l => l.bound?.id || l.path))];
  const to = "it leads to " + (ids.length > 2 ? ids.length + " places" : ids.join(" and "));
  if (open.length === all.length) return [to, false];
  return [to + (all.length === 1 ? ", which has no endpoints" : open.length ? ", some of which have no endpoints" : ", all without endpoints"), true];
}

const WHY = {
  neg: "there is no such thing", fail: "a rule stops here", empty: "without endpoints", pending: "the namer has not answered yet", exception: "failed",
};

const percent = share => Number((share * 100).toPrecision(3)) + "\u00a0%";

// show draws a node; taken says that requests get here, of all of them that share.
function show(n, taken, weight, share = 1, above = undefined) {
  const o = outcome(n), addresses = n.bound?.addr?.addrs || [], reached = taken && o === "leaf" && !(n.type === "leaf" && !addresses.length);
  const li = make("li", reached ? "taken" : taken && o !== "neg" ? "bad" : "lost");
  const line = make("div", "node", make("code", "", (weight === undefined ? "" : weight + " × ") + (n.path || n.type)));
  const said = weight !== undefined && above?.prefix === n.dentry?.prefix && above?.dst === n.dentry?.dst; // of the union
  if (n.dentry && !said) line.append(make("code", "rule", "by " + n.dentry.prefix + " => " + n.dentry.dst));
  if (n.name) line.append(make("span", "why", n.name));
  const all = kids(n);
  if (WHY[o] && (!all.length || n.message)) line.append(make("span", "why", n.message || WHY[o]));
  if (!taken && o === "leaf" && !all.length) line.append(make("span", "why", "not needed"));
  li.append(line);
  if (n.type === "leaf" && n.bound) {
    li.classList.add("leaf");
    if (taken) line.append(make("span", "why", share < 1 ? "gets " + percent(share) : "chosen"));
    const a = n.bound.addr || {}, list = make("ul", "endpoints");
    for (const e of addresses) list.append(make("li", "", make("code", "", (e.ip.includes(":") ? "[" + e.ip + "]" : e.ip) + ":" + e.port), make("span", "why", Object.entries(e.meta || {}).map(([k, v]) => k + " " + v).join(", "))));
    if (!addresses.length) list.append(make("li", taken ? "bad" : "", "no endpoints" + (a.cause || a.type !== "bound" ? ": " + (a.cause || WHY[a.type] || a.type || "unknown") : "")));
    li.append(list);
  }
  if (all.length) {
    const list = make("ul");
    let open = taken; // of alternatives, until one counts
    const got = n.type === "union" ? shares(n) : undefined;
    for (const [i, [k, w]] of all.entries()) {
      const part = got ? got[i] : 1;
      // A branch that fails is worth a look, though others take its requests.
      list.append(show(k, open && (part > 0 || got !== undefined && outcome(k) !== "leaf" && w > 0), w, share * part, n.dentry));
      if (n.type === "alt" && outcome(k) !== "neg") open = false;
    }
    li.append(list);
  }
  return li;
}

const LONG = 4000; // characters of an address: servers refuse much longer ones

// send asks a question, whose rules may be many.
function send(q) {
  if (!q.has("dtab") || ("" + q).length <= LONG) return fetch("delegator.json?" + q);
  const all = Object.fromEntries(q);
  all.dtab = all.dtab.replace(/[ \t]+/g, " "); // they are aligned
  return fetch("delegator.json", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(all) });
}

// remember has the page's address say what is asked, but for rules that are too long for one.
function remember(q) {
  const all = new URLSearchParams(q);
  if (("" + q).length > LONG) all.delete("dtab");
  history.replaceState(null, "", "?" + all);
}

// ask returns the answer to a question as what to show.
async function ask(q, prefix) {
  try {
    const res = await send(q), text = await res.text();
    if (!res.ok) return [make("p", "bad", text)];
    const n = JSON.parse(text), [said, bad] = verdict(n);
    return [make("h2", bad ? "bad" : "", prefix ? prefix + " " + said : said[0].toUpperCase() + said.slice(1)), make("ul", "tree", show(n, true))];
  } catch (e) {
    return [make("p", "bad", "no answer: " + e.message)];
  }
}

let asked = 0; // an answer to an older question is not shown

async function explain() {
  const q = new URLSearchParams(), turn = ++asked;
  for (const id of ["router", "path", "dtab", "caller"]) {
    const f = field(id);
    if (!f) continue;
    const value = id === "dtab" ? rules() : f.value.trim();
    if (id === "dtab" ? name !== undefined ? changed() : value !== "" || !router()?.appends : value !== "") q.set(f.name, value);
  }
  remember(q);
  result.replaceChildren("…");
  let questions = [[q, ""]];
  if (name !== undefined) { // which are not known to whoever answers
    const was = new URLSearchParams(q);
    was.set("dtab", stored.replace(/[;\s]+$/, ""));
    questions = changed() ? [[q, "With these rules"], [was, "As stored"]] : [[was, ""]];
  }
  const answers = await Promise.all(questions.map(([q, prefix]) => ask(q, prefix)));
  if (turn === asked) result.replaceChildren(...answers.flat());
}

// choose has what a link stands for tried: a name, or rules of before.
function choose(e) {
  const a = e.target.closest("a.name, a.past");
  if (!a || e.ctrlKey || e.metaKey || e.shiftKey) return;
  e.preventDefault();
  if (a.classList.contains("past")) {
    field("dtab").value = a.dataset.rules;
    describe();
    field("dtab").scrollIntoView({ block: "center" });
    if (!result.hasChildNodes()) return;
  } else {
    field("path").value = a.dataset.path;
    field("caller").value = a.dataset.caller;
  }
  explain();
}

// beginProxy fills in what the routers of a proxy are, and returns the path to begin with.
async function beginProxy(q) {
  try {
    const config = await (await fetch("config.json")).json();
    routers = (config.tulle && config.tulle.routers) || [];
  } catch (e) {
    result.replaceChildren(make("p", "bad", "its routers are unknown: " + e.message));
  }
  for (const r of routers) field("router").append(new Option(r.label, r.label));
  field("router").append(new Option("none: namers alone", ""));
  const label = q.get("router") ?? q.get("namespace"); // the latter as in Linkerd 1.x
  if (label && !routers.some(r => r.label === label)) field("router").append(new Option(label, label)); // the answer says what there is
  if (label !== null) field("router").value = label;
  field("router").addEventListener("change", () => { field("dtab").value = router() ? own(router()) : ""; describe(); });
  const r = router();
  field("dtab").value = r ? own(r) : "";
  return r ? r.dstPrefix.replace(/\/$/, "") + "/" : "/";
}

async function begin() {
  const q = new URLSearchParams(location.search);
  const path = field("router") ? await beginProxy(q) : "/svc/";
  field("path").value = q.get("path") || path;
  field("caller").value = q.get("caller") || "";
  if (q.has("dtab")) field("dtab").value = q.get("dtab");
  describe();
  field("dtab").addEventListener("input", describe);
  field("stored")?.addEventListener("click", () => { field("dtab").value = stored; describe(); if (result.hasChildNodes()) explain(); });
  field("ask").addEventListener("keydown", e => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) field("ask").requestSubmit(); });
  field("ask").addEventListener("submit", e => { e.preventDefault(); explain(); });
  document.addEventListener("click", choose);
  if (q.has("path")) explain();
}

begin();
