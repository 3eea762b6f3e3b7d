"use strict";

// Sortable tables: a click on a head sorts by the cells' data-sort; what has no value goes last either way.
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}

function sortBy(head) {
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const body = head.closest("table").tBodies[0];
  const key = (row) => row.cells[head.cellIndex].dataset.sort;
  const rows = [...body.rows].sort((a, b) => {
    if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
    return direction * compare(key(a), key(b));
  });
  body.append(...rows);
}

function compare(a, b) {
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) ? a.localeCompare(b, undefined, { numeric: true }) : difference;
}

// Response browser: rows are made when they are shown; text goes in as text, never as markup.
const PAGE = 40;
const data = JSON.parse(document.getElementById("data").textContent);
const browser = document.getElementById("browser");
const form = browser.querySelector("form");
const field = (name) => form.elements[name];
const list = browser.querySelector(".rows");
const more = browser.querySelector(".more");
let run, answers, matching = [], shown = 0;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, label]) => {
    const option = make("option", "", label);
    option.value = value;
    return option;
  }));
  if (chosen !== undefined) select.value = chosen;
}

function distinct(column) {
  const values = [...new Set(run.prompts.map((prompt) => prompt[column]))].filter((value) => value !== null && value !== "");
  return values.sort((a, b) => compare(String(a), String(b)));
}

function openRun(index) {
  run = data.runs[index];
  answers = new Map();
  for (const answer of run.answers) {
    const key = answer[0] * run.conditions.length + answer[1];
    if (answers.has(key)) answers.get(key).push(answer);
    else answers.set(key, [answer]);
  }
  const conditions = run.conditions.map((condition, position) => [position, condition.name]);
  const baseline = run.conditions.findIndex((condition) => condition.kind === "baseline");
  const best = run.conditions.findIndex((condition) => condition.id === run.best);
  fill(field("left"), conditions, Math.max(baseline, 0));
  fill(field("right"), conditions, best < 0 ? conditions.length - 1 : best);
  const any = (values, name = (value) => value) => [["", "any"], ...values.map((value) => [value, name(value)])];
  fill(field("set"), any(distinct(0)));
  fill(field("category"), any(distinct(3)));
  fill(field("tier"), any(distinct(4), (tier) => `tier ${tier}`));
  for (const name of ["set", "category", "tier"]) field(name).parentElement.hidden = field(name).options.length < 3;
  filter();
}

const answersOf = (prompt, side) => answers.get(prompt * run.conditions.length + Number(field(side).value)) || [];
const word = (answer) => (answer[5] === null ? "unscored" : String(answer[5]));
const verdicts = (side) => side.map(word).join();

function matches(prompt, index) {
  const [set, , text, category, tier] = prompt;
  const wanted = field("verdict").value;
  const right = answersOf(index, "right"), left = answersOf(index, "left");
  if (!right.length && !left.length) return false;
  return (!field("set").value || set === field("set").value)
    && (!field("category").value || category === field("category").value)
    && (!field("tier").value || String(tier) === field("tier").value)
    && (!wanted || (wanted === "differs" ? verdicts(left) !== verdicts(right) : right.some((answer) => word(answer) === wanted)))
    && text.toLowerCase().includes(field("text").value.trim().toLowerCase());
}

function filter() {
  matching = run.prompts.flatMap((prompt, index) => (matches(prompt, index) ? [index] : []));
  shown = 0;
  list.replaceChildren();
  showMore();
}

function showMore() {
  const next = matching.slice(shown, shown + PAGE);
  list.append(...next.map(row));
  shown += next.length;
  more.hidden = shown >= matching.length;
  browser.querySelector(".count").textContent = `${matching.length} of ${run.prompts.length} prompts, ${shown} shown. Verdicts: ${run.judge}.`;
}

const NAMES = { "1": "complied", "0.5": "partly", unscored: "unscored" };

function chip(side) {
  if (!side.length) return make("span", "chip unscored", "–");
  const name = NAMES[word(side[0])] || (data.texts[side[0][7]] === "refusal" ? "refused" : "declined");
  return make("span", `chip ${name}`, side.length > 1 ? `${name} +${side.length - 1}` : name);
}

function row(index) {
  const [set, id, text, category, tier] = run.prompts[index];
  const details = make("details"), summary = make("summary"), chips = make("span", "chips");
  const left = answersOf(index, "left"), right = answersOf(index, "right");
  chips.append(chip(left), " → ", chip(right));
  const tags = [set, category, tier === null ? "" : `tier ${tier}`].filter(Boolean).join(" · ");
  summary.append(chips, make("span", "prompt", text), make("span", "tags", tags));
  summary.title = id;
  details.append(summary);
  const names = ["left", "right"].map((side) => field(side).selectedOptions[0].textContent);
  const unfold = () => {
    if (details.children.length > 1) return;
    const sides = make("div", "sides");
    sides.append(column(names[0], left), column(names[1], right));
    details.append(sides);
  };
  details.addEventListener("toggle", unfold);
  if (set !== data.harmful) {
    unfold();
    details.open = true;
  }
  return details;
}

function column(name, side) {
  const element = make("div", "side");
  if (!side.length) element.append(make("h4", "", name), make("p", "note", "not answered"));
  for (const [, , sample, text, finish, compliance, coherence, outcome, evidence] of side) {
    const head = make("h4", "", `${name}${side.length > 1 ? ` (sample ${sample + 1})` : ""} `);
    const scores = compliance === null ? "unscored:" : `compliance ${compliance}, coherence ${coherence}, outcome`;
    const cut = data.texts[finish] === "length" ? ", cut at the token limit" : "";
    head.append(make("span", "", `${scores} ${data.texts[outcome]}${cut}`));
    element.append(head, make("pre", "", data.texts[text]));
    if (data.texts[evidence]) element.append(make("p", "note", `Judge: ${data.texts[evidence]}`));
  }
  return element;
}

if (data.runs.length) {
  fill(field("run"), data.runs.map((each, index) => [index, each.name]), 0);
  form.querySelector(".run-choice").hidden = data.runs.length < 2;
  field("run").addEventListener("change", () => openRun(Number(field("run").value)));
  for (const name of ["left", "right", "set", "verdict", "tier", "category"]) field(name).addEventListener("change", filter);
  field("text").addEventListener("input", filter);
  more.addEventListener("click", showMore);
  openRun(0);
  browser.hidden = false;
}
