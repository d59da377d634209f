// Opens the server's page as a browser would, asks the model something, and prints what a person would then see.
"use strict";

const { JSDOM } = require("jsdom");

const [address, key, question] = process.argv.slice(2);

function until(window, holds) {
  return new Promise((resolve) => {
    if (holds()) {
      resolve();
      return;
    }
    const observer = new window.MutationObserver(() => {
      if (!holds()) return;
      observer.disconnect();
      resolve();
    });
    observer.observe(window.document, { subtree: true, childList: true, attributes: true, characterData: true });
  });
}

async function main() {
  const html = await (await fetch(address, { headers: { accept: "text/html" } })).text();
  const asked = [];
  const { window } = new JSDOM(html, {
    url: address,
    runScripts: "dangerously",
    pretendToBeVisual: true,
    beforeParse(page) {
      page.fetch = (path, options) => {
        asked.push(path);
        return fetch(new URL(path, address), { ...options, signal: undefined });
      };
      page.TextDecoderStream = TextDecoderStream;
    },
  });
  const find = (id) => window.document.getElementById(id);
  const submit = (id) => find(id).dispatchEvent(new window.Event("submit", { cancelable: true }));
  const seen = { asks: !find("key-form").hidden };
  if (seen.asks) {
    find("key").value = "wrong";
    submit("key-form");
    await until(window, () => find("note").textContent.includes("does not know"));
    find("key").value = key;
    find("key").focus();
    submit("key-form");
    await until(window, () => !find("main").hidden);
    seen.focused = window.document.activeElement.id;
  }
  await until(window, () => !find("chat").hidden);
  find("text").value = question;
  find("send").focus();
  submit("chat");
  seen.asking = { busy: find("log").getAttribute("aria-busy"), focused: window.document.activeElement.id };
  await until(window, () => find("log").querySelector(".assistant") && !find("send").disabled);
  seen.busy = find("log").getAttribute("aria-busy");
  seen.user = find("log").querySelector(".user").textContent;
  seen.answer = find("log").querySelector(".assistant").textContent;
  await until(window, () => find("models").textContent.includes("ready"));
  seen.models = [...find("models").querySelectorAll("td.name")].map((cell) => cell.textContent);
  const option = find("model").options[0];
  find("note").textContent = "until the state is fetched again";
  window.document.dispatchEvent(new window.Event("visibilitychange"));
  await until(window, () => find("note").textContent === "");
  seen.keeps = option === find("model").options[0];
  find("clear").click();
  seen.left = find("log").childElementCount;
  seen.asked = [...new Set(asked)].sort();
  console.log(JSON.stringify(seen));
  window.close();
}

main().then(() => process.exit(0));
