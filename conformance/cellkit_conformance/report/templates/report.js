"use strict";
(() => {
  // All text reaches the page through textContent: nothing that a cell says can become markup.
  const data = JSON.parse(document.getElementById("data").textContent);
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const byKey = new Map(data.results.map((r) => [[r.cell, r.backend, r.requirement].join("\n"), r]));
  const kindOf = (outcome) => data.outcomes[outcome].kind;
  const state = { cell: data.start, kind: data.kind, text: "" };
  const list = document.getElementById("requirements");
  const select = document.getElementById("cell");
  const search = document.getElementById("search");
  const dialog = document.querySelector("dialog");

  for (const name of ["", ...data.cells]) select.append(new Option(name || "all cells", name));

  // Sentences write code between backquotes.
  const prose = (tag, name, text) => {
    const node = make(tag, name);
    text.split("`").forEach((part, i) => node.append(i % 2 ? make("code", "", part) : part));
    return node;
  };

  const wanted = (result) => state.kind === "all" || kindOf(result.outcome) === state.kind;

  // Below 1 the headroom says how far beyond its limit an error is: that number is the one to read.
  const margin = (headroom) =>
    headroom >= 1 ? `${round(headroom)}×` : `${headroom > 0 ? Math.round(1 / headroom).toLocaleString("en") : "∞"} × the limit`;

  function mark(result, backend) {
    if (!result) return make("span", "mark na", " ");
    const { symbol, kind } = data.outcomes[result.outcome];
    const node = make("button", `mark ${kind}`, symbol);
    if (result.headroom !== null && result.headroom < 1e6) node.append(make("small", "", ` ${margin(result.headroom)}`));
    node.type = "button";
    node.title = result.outcome + (result.message ? `: ${result.message}` : "");
    node.setAttribute("aria-label", `${result.requirement} on ${backend}: ${result.outcome}`);
    node.addEventListener("click", () => open(result));
    return node;
  }

  function tally(found, backend) {
    // Many cells: what is worst decides the colour, the number says how many.
    const count = { good: 0, bad: 0, open: 0, na: 0 };
    // A cell that cannot be made says nothing about a requirement, unless it is all there is.
    const told = found.some((result) => result.outcome !== "blocked") ? found.filter((result) => result.outcome !== "blocked") : found;
    for (const result of told) count[kindOf(result.outcome)] += 1;
    const kind = ["bad", "open", "good", "na"].find((name) => count[name]) || "na";
    const first = told.find((result) => kindOf(result.outcome) === kind);
    if (!first) return make("span", "mark na", " ");
    const node = make("button", `mark ${kind}`, `${data.symbols[kind]} ${count[kind]}`);
    node.append(make("small", "", ` / ${found.length}`));
    node.type = "button";
    node.title = told.filter((r) => kindOf(r.outcome) === kind).map((r) => r.cell).join(", ");
    node.setAttribute("aria-label", `${first.requirement} on ${backend}: ${count[kind]} ${kind}`);
    node.addEventListener("click", () => (kind === "good" || kind === "na" ? open(first) : choose(first.cell)));
    return node;
  }

  function draw() {
    list.replaceChildren();
    const head = make("div", "requirement head");
    head.append(make("span", "", "id"), make("span", "", "what must hold"));
    for (const backend of data.backends) head.append(make("b", "", backend));
    list.append(head);
    let group = "", shown = 0;
    for (const [id, requirement] of Object.entries(data.requirements)) {
      const words = `${id} ${requirement.sentence} ${requirement.hint}`.toLowerCase();
      if (!words.includes(state.text.toLowerCase())) continue;
      const cells = state.cell ? [state.cell] : data.cells;
      const found = data.backends.map((backend) =>
        cells.map((cell) => byKey.get([cell, backend, id].join("\n"))).filter((result) => result && wanted(result)));
      if (!found.some((results) => results.length)) continue;
      if (group !== id.split("-")[0]) {
        group = id.split("-")[0];
        list.append(make("div", "group", `${group} · ${data.groups[group] || ""}`));
      }
      const row = make("div", "requirement");
      const text = prose("span", "text", requirement.sentence);
      if (requirement.level !== "must") text.append(make("span", "should", requirement.level));
      const marks = make("span", "marks");
      data.backends.forEach((backend, i) => {
        const node = state.cell ? mark(found[i][0], backend) : tally(found[i], backend);
        node.dataset.short = data.short[i];
        marks.append(node);
      });
      row.append(make("code", "id", id), text, marks);
      list.append(row);
      shown += 1;
    }
    if (!shown) list.append(make("div", "nothing", "Nothing here: no check fits these filters."));
    select.value = state.cell;
    const here = data.results.filter((result) => !state.cell || result.cell === state.cell);
    for (const chip of document.querySelectorAll("[data-kind]")) {
      const { kind, name } = chip.dataset;
      const count = here.filter((result) => kind === "all" || kindOf(result.outcome) === kind).length;
      chip.textContent = `${name} ${count}`;
      chip.disabled = !count && kind !== state.kind;
      chip.setAttribute("aria-pressed", String(kind === state.kind));
    }
    for (const unit of document.querySelectorAll(".unit")) unit.setAttribute("aria-pressed", String(unit.dataset.cell === state.cell && data.cells.length > 1));
  }

  const round = (number) => (number >= 100 ? Math.round(number).toLocaleString("en") : Number(number.toPrecision(2)).toString());

  function code(text, name) {
    const box = make("div", `code ${name}`);
    const button = make("button", "icon", "Copy");
    button.type = "button";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        // A page opened from a file has no clipboard everywhere: select, so that Ctrl-C does it.
        getSelection().selectAllChildren(box.querySelector("pre"));
        button.textContent = "Press Ctrl-C";
      }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    box.append(make("pre", "", text), button);
    return box;
  }

  function facts(pairs) {
    const node = make("dl");
    for (const [key, value] of pairs) node.append(make("dt", "", key), make("dd", "mono", value));
    return node;
  }

  function open(result) {
    const { kind } = data.outcomes[result.outcome];
    const requirement = data.requirements[result.requirement];
    const sheet = make("div", "sheet");
    const header = make("header");
    const close = make("button", "icon", "Close");
    close.type = "button";
    close.addEventListener("click", () => dialog.close());
    const title = make("h2");
    title.append(make("span", "", `${result.requirement}  `), make("span", kind, result.outcome));
    const left = make("div");
    left.append(title, make("span", "soft", `${result.cell} on ${result.backend}`));
    header.append(left, close);
    sheet.append(header, prose("p", "", requirement.sentence));
    if (result.message) sheet.append(make("h3", "", kind === "bad" ? "Found" : "Why"), make("p", `message ${kind}`, result.message));
    if (result.extra && result.extra.reason) sheet.append(make("p", "", `Reason given: ${result.extra.reason}`));
    if (result.extra && result.extra.link) sheet.append(make("p", "soft", `More: ${result.extra.link}`));
    if (kind === "bad") sheet.append(make("h3", "", "Look for"), prose("p", "", requirement.hint));
    if (result.error !== null) {
      sheet.append(make("h3", "", "Largest error"));
      const share = result.headroom > 0 ? 1 / result.headroom : 0;
      const scale = make("div", "scale");
      const inner = make("i");
      inner.style.width = `${Math.max(1, Math.min(100, 100 * share))}%`;
      inner.style.background = share > 1 ? "var(--bar-bad)" : "var(--bar-good)";
      scale.append(inner);
      const times = share > 1 ? `${round(share)} times its limit` : share ? `${round(1 / share)} times smaller than its limit` : "no error at all";
      sheet.append(scale, make("p", "", `${number(result.error)}, limit ${number(result.limit)}: ${times}`));
    }
    if (result.example) {
      sheet.append(make("h3", "", "Smallest example found"));
      sheet.append(facts(Object.entries(result.example).map(([key, value]) => [key, Array.isArray(value) ? value.join("  ") : typeof value === "object" ? JSON.stringify(value) : String(value)])));
    }
    if (result.script) sheet.append(make("h3", "", "A program that shows it"), code(result.script, ""));
    if (result.reproduce) sheet.append(make("h3", "", "Run this check again"), code(result.reproduce, "line"));
    if (result.detail && result.detail !== result.message) sheet.append(make("h3", "", "Details"), code(result.detail, ""));
    const ran = [["time", `${Number(result.seconds).toFixed(2)} s`], ["seed", String(result.seed)]];
    if (result.examples) ran.unshift(["examples", String(result.examples)]);
    sheet.append(make("h3", "", "This check"), facts(ran));
    dialog.replaceChildren(sheet);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    history.replaceState(null, "", `#${[result.cell, result.backend, result.requirement].map(encodeURIComponent).join("/")}`);
  }

  const number = (value) => (typeof value === "number" ? value.toExponential(2) : String(value));

  function choose(cell, kind = state.kind) {
    Object.assign(state, { cell, kind });
    draw();
    document.getElementById("all").scrollIntoView({ block: "start" });
  }

  dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  select.addEventListener("change", () => { state.cell = select.value; draw(); });
  search.addEventListener("input", () => { state.text = search.value; draw(); });
  for (const chip of document.querySelectorAll("[data-kind]")) chip.addEventListener("click", () => { state.kind = chip.dataset.kind; draw(); });
  for (const node of document.querySelectorAll("[data-cell]")) node.addEventListener("click", () => choose(node.dataset.cell, node.dataset.bad ? "bad" : "all"));
  for (const node of document.querySelectorAll("[data-open]")) node.addEventListener("click", () => open(byKey.get(node.dataset.open)));
  draw();
  const linked = byKey.get(location.hash.slice(1).split("/").map(decodeURIComponent).join("\n"));
  if (linked) { state.cell = linked.cell; draw(); open(linked); }
})();
