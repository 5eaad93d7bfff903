"use strict";
// All that people and models have said is put in by textContent, as text: there is no HTML in it to run.

const part = (id) => document.getElementById(id);
let policies = [];
let reference = "";

function add(parent, kind, name, text = "") {
  const element = document.createElement(kind);
  element.className = name;
  element.textContent = text;
  parent.append(element);
  return element;
}

function newTurn(user) {
  const turn = add(part("log"), "section", "turn");
  add(turn, "div", "user", user);
  const notes = add(turn, "div", "notes");
  const replies = add(turn, "div", "replies");
  const cells = new Map(policies.map(({ name }) => [name, add(replies, "div", "reply")]));
  turn.scrollIntoView({ block: "end" });
  return { turn, notes, cells };
}

function finish(cell, reply) {
  cell.textContent = (reply.text || "(says nothing)") + (reply.finished ? "" : " …");
  if (reply.reward === null) return;
  const means = reply.strange ? `: means nothing, ${reference} would hardly say this` : "";
  const sign = reply.reward < 0 ? "−" : "+";
  add(cell, "small", "reward", `implicit reward ${sign}${Math.abs(reply.reward).toFixed(2)}${means}`);
}

async function load() {
  const talk = await (await fetch("conversation")).json();
  policies = talk.policies;
  reference = talk.reference;
  part("memory").checked = talk.memory;
  part("heads").replaceChildren();
  part("log").replaceChildren();
  for (const { label } of policies) add(part("heads"), "span", "head", label);
  if (talk.missing.length > 0) {
    part("hint").textContent = `This run is not finished, and lacks ${talk.missing.join(", ")}: week6 run --resume makes what is missing.`;
  }
  for (const turn of talk.turns) {
    const shown = newTurn(turn.user);
    for (const note of turn.notes) add(shown.notes, "div", "note", note);
    for (const [name, reply] of Object.entries(turn.replies)) finish(shown.cells.get(name), reply);
  }
}

async function post(path, content) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
  });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

function hear(shown, { policy, text, reply }) {
  if (policy === null) add(shown.notes, "div", "note", text);
  else if (reply !== null) finish(shown.cells.get(policy), reply);
  else shown.cells.get(policy).textContent += text;
  shown.turn.scrollIntoView({ block: "end" });
}

async function send() {
  const text = part("text").value;
  const answer = await post("say", {
    text,
    temperature: Number(part("temperature").value),
    seed: Number(part("seed").value),
    memory: part("memory").checked,
  });
  const shown = newTurn(text);
  part("text").value = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) hear(shown, JSON.parse(line));
  }
}

async function guarded(work) {
  const buttons = [part("send"), part("clear")];
  for (const button of buttons) button.disabled = true;
  part("hint").textContent = "";
  try {
    await work();
  } catch (error) {
    part("hint").textContent = error.message;
  } finally {
    for (const button of buttons) button.disabled = false;
    part("text").focus();
  }
}

part("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!part("send").disabled) guarded(send);
});
part("clear").addEventListener("click", () => guarded(async () => {
  await post("clear", {});
  await load();
}));
guarded(load);
