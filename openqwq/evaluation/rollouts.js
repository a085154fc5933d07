"use strict";
const PAGE = 25;
const rows = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const list = document.getElementById("attempts");
const count = document.getElementById("count");
const back = document.getElementById("back");
const next = document.getElementById("next");
const orders = {
  step: (a, b) => a.step - b.step,
  reward: (a, b) => b.reward - a.reward,
  low: (a, b) => a.reward - b.reward,
  tokens: (a, b) => b.tokens - a.tokens,
};
let page = 0;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fillSelect(name) {
  const values = [...new Set(rows.map((row) => row[name]))].sort();
  for (const value of values) {
    const option = element("option", value);
    option.value = value;
    form.elements[name].append(option);
  }
}

function wanted() {
  const chosen = Object.fromEntries(new FormData(form));
  const found = rows.filter((row) => {
    for (const name of ["stage", "kind", "status", "task"]) {
      if (chosen[name] && row[name] !== chosen[name]) return false;
    }
    if (chosen.first && row.step < Number(chosen.first)) return false;
    if (chosen.last && row.step > Number(chosen.last)) return false;
    return !chosen.text || (row.question + row.text).includes(chosen.text);
  });
  return found.sort(orders[chosen.order]);
}

function attempt(row) {
  const made = element("article", undefined, "attempt");
  const head = element("header");
  head.append(element("span", `${row.stage}, step ${row.step}`));
  const follow = element("button", row.task);
  follow.type = "button";
  follow.title = "Follow this prompt through training";
  follow.addEventListener("click", () => {
    form.elements.task.value = row.task;
    form.elements.order.value = "step";
    draw(0);
    form.elements.task.focus();
  });
  head.append(follow);
  head.append(element("span", row.status, row.status));
  head.append(element("span", `reward ${Number(row.reward.toFixed(3))}`));
  head.append(element("span", `${row.tokens} tokens, ${row.thinking_tokens} thinking`));
  if (!row.trained) head.append(element("span", "not trained on"));
  const parts = Object.entries(row.parts).map(([name, value]) => `${name} ${Number(value.toFixed(3))}`);
  if (parts.length) head.append(element("span", parts.join(", ")));
  if (row.detail) head.append(element("span", row.detail));

  const closes = row.text.indexOf("</think>");
  const thinking = closes < 0 ? row.text : row.text.slice(0, closes + 8);
  const said = element("pre");
  said.tabIndex = 0;
  said.append(element("span", thinking, "thinking"), closes < 0 ? "" : row.text.slice(closes + 8));
  made.append(head, element("pre", row.question, "question"), said);
  return made;
}

function draw(start) {
  page = start;
  const found = wanted();
  const shown = found.slice(page * PAGE, (page + 1) * PAGE);
  list.replaceChildren(...shown.map(attempt));
  const last = page * PAGE + shown.length;
  count.textContent = found.length ? `${page * PAGE + 1} to ${last} of ${found.length}` : "No attempt matches.";
  back.disabled = page === 0;
  next.disabled = last >= found.length;
}

["stage", "kind", "status"].forEach(fillSelect);
form.addEventListener("input", () => draw(0));
form.addEventListener("submit", (event) => event.preventDefault());
back.addEventListener("click", () => draw(page - 1));
next.addEventListener("click", () => draw(page + 1));
draw(0);
