#include "serve/page.h"

namespace cbtm {

// clang-format off
std::string_view page() {
  return R"PAGE(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>cbtm</title>
<style>
:root { color-scheme: light dark; --back: #fbfbfa; --text: #1d1d1f; --soft: #6b6b70; --line: #d9d9de; --field: #fff; --act: #2456c9; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --back: #17181a; --text: #ececee; --soft: #9a9aa2; --line: #37383d; --field: #1f2023; --act: #7aa2ff; --bad: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; padding: .6rem 1rem; border-bottom: 1px solid var(--line); }
h1 { font-size: 1.1rem; margin: 0 auto 0 0; }
main { display: grid; grid-template-columns: minmax(0, 1fr) 20rem; gap: 1rem; padding: 1rem; max-width: 80rem; margin: auto; }
@media (max-width: 50rem) { main { grid-template-columns: minmax(0, 1fr); } }
textarea, select, input[type=password], input[type=number] { font: inherit; color: inherit; background: var(--field); border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .5rem; }
textarea { width: 100%; min-height: 6rem; resize: vertical; }
button { font: inherit; border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .9rem; background: var(--field); color: inherit; cursor: pointer; }
button:disabled { opacity: .45; cursor: default; }
button:focus-visible, textarea:focus-visible, select:focus-visible, input:focus-visible { outline: 2px solid var(--act); outline-offset: 1px; }
button.main { background: var(--act); border-color: var(--act); color: var(--back); }
button[aria-pressed=true] { border-color: var(--act); color: var(--act); }
.row { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: .5rem 0; }
#out { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: .4rem; background: var(--field); min-height: 10rem; padding: .7rem; }
#out .given { color: var(--soft); }
#out .token { border-bottom: 3px solid var(--of, transparent); cursor: default; }
#out .token:hover, #out .token.shown { background: color-mix(in srgb, var(--of, gray) 25%, transparent); }
#about { margin-top: .6rem; min-height: 3rem; color: var(--soft); font-size: .9rem; white-space: pre-wrap; }
#error { color: var(--bad); }
#state { color: var(--soft); font-size: .9rem; }
[hidden] { display: none !important; }
aside section { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; margin-bottom: 1rem; }
h2 { font-size: .95rem; margin: 0 0 .4rem; }
label { display: block; font-size: .9rem; margin: .4rem 0; }
label output { float: right; color: var(--soft); }
input[type=range] { width: 100%; }
.expert { margin: .5rem 0; font-size: .9rem; }
.expert b { border-left: .8rem solid var(--of); padding-left: .4rem; }
.expert .terms { color: var(--soft); overflow-wrap: anywhere; }
.bar { height: .3rem; background: var(--line); border-radius: .2rem; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--of); width: 0; }
</style>
</head>
<body>
<header>
  <h1>cbtm</h1>
  <button id="text" aria-pressed="true">Text</button>
  <button id="chat" aria-pressed="false">Chat</button>
  <select id="model" aria-label="model"></select>
  <input id="key" type="password" placeholder="API key" aria-label="API key" size="12" autocomplete="off" hidden>
</header>
<main>
  <div>
    <textarea id="prompt" aria-label="prompt" placeholder="A text to go on from"></textarea>
    <div class="row">
      <button id="go" class="main">Go on</button>
      <button id="stop" disabled>Stop</button>
      <button id="clear">Clear</button>
      <span id="state" role="status"></span>
      <span id="error" role="alert"></span>
    </div>
    <div id="out" aria-live="polite"></div>
    <div id="about">Point at a word, or tap it, to see who wrote it.</div>
  </div>
  <aside>
    <section>
      <h2>Settings</h2>
      <label class="mixing">Experts that are mixed <output id="topk-value"></output><input id="topk" type="range" min="1" max="1" step="1"></label>
      <label class="mixing">Router temperature T <output id="t-value"></output><input id="t" type="range" min="-3" max="1" step="0.05"></label>
      <label>Sampling temperature <output id="temperature-value"></output><input id="temperature" type="range" min="0" max="2" step="0.05" value="0.8"></label>
      <label>Tokens <input id="tokens" type="number" min="1" max="100000" value="128"></label>
    </section>
    <section class="mixing">
      <h2>Experts</h2>
      <div id="experts"></div>
    </section>
  </aside>
</main>
<script>
"use strict";
const $ = id => document.getElementById(id);
const shares = {}, colours = {}, history = [];
let chat = false, running = null, experts = false, temperatureMoved = false;

const headers = () => {
  const all = {"Content-Type": "application/json"};
  if ($("key").value) all.Authorization = "Bearer " + $("key").value;
  return all;
};
const show = (id, digits) => { $(id + "-value").textContent = Number(id === "t" ? 10 ** $("t").value : $(id).value).toFixed(digits); };
const element = (parent, tag, name, text) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
};

async function load() {
  $("error").textContent = "";
  try {
    const reply = await fetch("v1/models", {headers: headers()});
    const models = await reply.json();
    if (reply.status === 401) $("key").hidden = false;
    if (!reply.ok) throw new Error(models.error.message);
    $("model").replaceChildren();
    for (const model of models.data) element($("model"), "option", "", model.id);
    const answer = await fetch("v1/experts", {headers: headers()});
    experts = answer.ok;
    if (experts) showExperts(await answer.json());
    chooseModel();
  } catch (error) { $("error").textContent = error.message; }
}

// Only the ensemble mixes; the experts stay in sight when one of them is asked alone.
function chooseModel() {
  for (const part of document.querySelectorAll("section.mixing")) part.hidden = !experts;
  for (const part of document.querySelectorAll("label.mixing")) part.hidden = !experts || $("model").selectedIndex > 0;
}

function showExperts(list) {
  $("topk").max = list.data.length;
  $("topk").value = list.topk;
  $("t").value = Math.log10(list.router_temperature);
  show("topk", 0); show("t", 3);
  $("experts").replaceChildren();
  list.data.forEach((expert, number) => {
    const colour = colours[expert.expert] = `hsl(${Math.round(number * 137.5) % 360} 65% 50%)`;
    const box = element($("experts"), "div", "expert");
    box.style.setProperty("--of", colour);
    element(box, "b", "", expert.expert);
    const share = element(box, "span", "", "");
    element(box, "div", "terms", expert.top_terms.join(" "));
    const bar = element(element(box, "div", "bar"), "i");
    shares[expert.expert] = {tokens: 0, bar, share};
  });
}

function countShares(weights) {
  let sum = 0;
  for (const name in weights) if (shares[name]) shares[name].tokens += weights[name];
  for (const name in shares) sum += shares[name].tokens;
  for (const name in shares) {
    const part = sum ? shares[name].tokens / sum : 0;
    shares[name].bar.style.width = 100 * part + "%";
    shares[name].share.textContent = ` ${(100 * part).toFixed(0)} %`;
  }
}

function tell(span, weights, alternatives) {
  const lines = [];
  if (weights) lines.push(Object.entries(weights).sort((a, b) => b[1] - a[1]).map(([name, w]) => `${name}: ${(100 * w).toFixed(0)} %`).join("   "));
  if (alternatives) lines.push("instead: " + Object.entries(alternatives).sort((a, b) => b[1] - a[1]).map(([token, l]) => `${JSON.stringify(token)} ${(100 * Math.exp(l)).toFixed(0)} %`).join("   "));
  const tap = () => {
    for (const other of document.querySelectorAll(".shown")) other.classList.remove("shown");
    span.classList.add("shown");
    $("about").textContent = lines.join("\n");
  };
  span.title = lines.join("\n");
  span.onmouseenter = span.onclick = tap;
}

function add(choice) {
  const text = chat ? choice.delta.content : choice.text;
  const told = choice.x_cbtm && choice.x_cbtm.tokens;
  const last = told && told.length ? told[told.length - 1].weights : null;
  for (const token of told || []) countShares(token.weights);
  if (!text) return "";
  const span = element($("out"), "span", "token", text);
  if (last) span.style.setProperty("--of", colours[Object.keys(last).reduce((a, b) => last[a] >= last[b] ? a : b)]);
  let alternatives = null;
  if (choice.logprobs && !chat) alternatives = choice.logprobs.top_logprobs.at(-1);
  if (choice.logprobs && chat && choice.logprobs.content.length)
    alternatives = Object.fromEntries(choice.logprobs.content.at(-1).top_logprobs.map(t => [t.token, t.logprob]));
  tell(span, last, alternatives);
  return text;
}

async function go() {
  if (running) return;
  const prompt = $("prompt").value;
  if (!prompt) return;
  $("error").textContent = "";
  running = new AbortController();
  $("go").disabled = true; $("stop").disabled = false;
  const body = {model: $("model").value, stream: true, max_tokens: Number($("tokens").value), temperature: Number($("temperature").value)};
  if (experts && $("model").selectedIndex === 0) {
    body.x_cbtm = {weights: true, topk: Number($("topk").value)};
    if (temperatureMoved) body.x_cbtm.router_temperature = 10 ** $("t").value;  // else the server's own, not a rounded one
  }
  if (chat) {
    history.push({role: "user", content: prompt});
    Object.assign(body, {messages: history, logprobs: true, top_logprobs: 4});
    element($("out"), "div", "given", prompt);
    $("prompt").value = "";
  } else {
    Object.assign(body, {prompt, logprobs: 4});
    $("out").replaceChildren();
    element($("out"), "span", "given", prompt);
  }
  let answer = "", tokens = 0, finish = "";
  const begin = performance.now();
  $("state").textContent = "waiting";
  try {
    const reply = await fetch(chat ? "v1/chat/completions" : "v1/completions", {method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal});
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    const reader = reply.body.getReader(), decoder = new TextDecoder();
    for (let held = "";;) {
      const {value, done} = await reader.read();
      if (done) break;
      const events = (held + decoder.decode(value, {stream: true})).split("\n\n");
      held = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
        const data = JSON.parse(event.slice(6));
        if (data.error) throw new Error(data.error.message);
        for (const choice of data.choices) {
          answer += add(choice);
          finish = choice.finish_reason || finish;
          $("state").textContent = `${++tokens} tokens`;
        }
      }
    }
  } catch (error) {
    if (error.name === "AbortError") finish = "stopped";
    else $("error").textContent = error.message;
  }
  const seconds = (performance.now() - begin) / 1000;
  $("state").textContent = tokens ? `${tokens} tokens, ${(tokens / seconds).toFixed(1)} a second; ` +
    (finish === "length" ? "as long as was asked for" : finish === "stop" ? "it ended by itself" : finish || "cut off") : "";
  if (chat && answer) { history.push({role: "assistant", content: answer}); element($("out"), "div"); }
  else if (chat) {  // nothing came: the message is taken back, so that the next one can be another
    history.pop();
    $("out").lastElementChild?.remove();
    $("prompt").value ||= prompt;
  }
  running = null;
  $("go").disabled = false; $("stop").disabled = true;
}

function choose(toChat) {
  if (running) return;
  chat = toChat;
  $("text").setAttribute("aria-pressed", !chat);
  $("chat").setAttribute("aria-pressed", chat);
  $("go").textContent = chat ? "Send" : "Go on";
  $("prompt").placeholder = chat ? "A message" : "A text to go on from";
  clear();
}
function clear() {
  if (running) running.abort();
  history.length = 0;
  $("state").textContent = $("error").textContent = "";
  $("out").replaceChildren();
  $("about").textContent = "Point at a word, or tap it, to see who wrote it.";
  for (const name in shares) shares[name].tokens = 0;
  countShares({});
}

$("go").onclick = go;
$("stop").onclick = () => running && running.abort();
$("clear").onclick = clear;
$("text").onclick = () => choose(false);
$("chat").onclick = () => choose(true);
$("key").onchange = load;
$("model").onchange = chooseModel;
$("t").addEventListener("input", () => { temperatureMoved = true; });
$("prompt").onkeydown = event => { if (event.key === "Enter" && (chat ? !event.shiftKey : event.ctrlKey)) { event.preventDefault(); go(); } };
for (const [id, digits] of [["topk", 0], ["t", 3], ["temperature", 2]]) { $(id).oninput = () => show(id, digits); show(id, digits); }
load();
</script>
</body>
</html>
)PAGE";
}
// clang-format on

}  // namespace cbtm
