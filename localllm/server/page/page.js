"use strict";

const find = (id) => document.getElementById(id);
let conversation = [];
let running = null;

const storedKey = () => sessionStorage.getItem("localllm.key") || "";
const headers = (more) => ({ ...more, ...(storedKey() ? { authorization: `Bearer ${storedKey()}` } : {}) });

const showing = ["models", "downloads"];
const hiding = ["key-form", "main", "downloads-section", "empty"];

/** Take over from a fresh copy of this page what has changed. */
function show(page) {
  const chosen = find("model").value;
  for (const id of [...showing, "model"]) {
    const fresh = page.getElementById(id);
    if (find(id).innerHTML === fresh.innerHTML) continue; // what is chosen or being selected stays so
    find(id).replaceChildren(...fresh.childNodes);
  }
  const hadFocus = find("key-form").contains(document.activeElement);
  for (const id of hiding) find(id).hidden = page.getElementById(id).hidden;
  if (hadFocus && find("key-form").hidden) find("text").focus();
  const options = [...find("model").options];
  if (options.some((option) => option.value === chosen)) find("model").value = chosen;
  find("send").disabled = running !== null || options.length === 0;
  const locked = !find("key-form").hidden;
  find("note").textContent = locked && storedKey() ? "The server does not know this key." : page.getElementById("note").textContent;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("./", { headers: headers({ accept: "text/html" }), cache: "no-store" });
    if (!answer.ok) throw new Error();
    show(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    find("note").textContent = "The server does not answer.";
  }
}

function say(kind, text) {
  const log = find("log");
  const paragraph = document.createElement("p");
  paragraph.className = kind;
  paragraph.textContent = text;
  log.append(paragraph);
  log.scrollTop = log.scrollHeight;
  return paragraph;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

/** Show an answer as it comes, and keep in `message` what there is of it. */
async function read(answer, message) {
  const shown = { text: null, thought: null };
  for await (const event of events(answer.body)) {
    if (event.error) throw new Error(event.error.message);
    const delta = event.choices?.[0]?.delta ?? {};
    if (delta.reasoning_content) {
      shown.thought ??= say("thought", "");
      shown.thought.textContent += delta.reasoning_content;
    }
    if (delta.content) {
      shown.text ??= say("assistant", "");
      shown.text.textContent += delta.content;
      message.content += delta.content;
    }
    find("log").scrollTop = find("log").scrollHeight;
  }
}

async function ask(text) {
  const question = { role: "user", content: text };
  const message = { role: "assistant", content: "" };
  const mine = conversation;
  say("user", text);
  running = new AbortController();
  find("log").setAttribute("aria-busy", "true"); // an answer is read out once it is whole, not word by word
  find("send").disabled = true;
  find("stop").disabled = false;
  try {
    const answer = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers({ "content-type": "application/json" }),
      body: JSON.stringify({ model: find("model").value, messages: [...mine, question], stream: true }),
      signal: running.signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    await read(answer, message);
    mine.push(question, message);
  } catch (error) {
    if (mine !== conversation) return; // another one was begun
    if (message.content) mine.push(question, message);
    if (error.name === "AbortError") say("thought", "Stopped.");
    else say("error", error.message);
  } finally {
    running = null;
    find("log").setAttribute("aria-busy", "false");
    if (document.activeElement === find("stop")) find("text").focus(); // what is disabled loses the focus
    find("send").disabled = false;
    find("stop").disabled = true;
    refresh();
  }
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("localllm.key", find("key").value.trim());
  find("key").value = "";
  refresh();
});
find("chat").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = find("text").value.trim();
  if (!text || running) return;
  find("text").value = "";
  find("text").focus();
  ask(text);
});
find("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("chat").requestSubmit();
  }
});
find("stop").addEventListener("click", () => running?.abort());
find("clear").addEventListener("click", () => {
  conversation = [];
  find("log").replaceChildren();
  running?.abort();
});
document.addEventListener("visibilitychange", refresh);
find("chat").hidden = false;
refresh();
setInterval(refresh, 3000);
