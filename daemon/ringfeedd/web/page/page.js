"use strict";
// Brings the page up to date once a second: asks for its parts, and changes what has changed.
const EVERY_MS = 1000, AGAIN_MS = 2000, PATIENCE_MS = 5000;
const MOST_TURNS_A_SECOND = 0.15; // a ring that is read faster is shown turning no faster
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const notice = () => document.getElementById("notice");
let wheel = null; // where the ring's wheel stands, and when that was
let lostSince = "";

function morph(old, fresh) {
  if (fresh.hasAttribute("data-same")) return;
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open" && name !== "style") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.classList.contains("plot")) return morphChildren(old, fresh, (node) => node.classList?.contains("mark") || node.classList?.contains("read"));
  morphChildren(old, fresh, () => false);
}

function morphChildren(old, fresh, ours) {
  const there = [...old.childNodes].filter((node) => !ours(node));
  const wanted = [...fresh.childNodes];
  wanted.forEach((node, index) => {
    const known = there[index];
    if (!known) old.append(document.importNode(node, true));
    else if (known.nodeName !== node.nodeName || known.id !== node.id || known.className?.baseVal === "ring" !== (node.className?.baseVal === "ring")) known.replaceWith(document.importNode(node, true));
    else if (node.nodeType === Node.TEXT_NODE) { if (known.data !== node.data) known.data = node.data; }
    else morph(known, node);
  });
  there.slice(wanted.length).forEach((node) => node.remove());
}

// Loads the pictures that the page is about to show, so that no picture of another pair is seen above its name.
async function load(fresh) {
  const there = new Set([...document.images].map((image) => image.src));
  const wanted = [...fresh.querySelectorAll("img")].map((image) => new URL(image.getAttribute("src"), location.href).href);
  const loads = wanted.filter((source) => !there.has(source)).map((source) => {
    const image = new Image();
    image.src = source;
    return image.decode().catch(() => {});
  });
  await Promise.race([Promise.all(loads), new Promise((done) => setTimeout(done, PATIENCE_MS))]);
}

function turn() {
  const shown = document.querySelector(".wheel");
  if (!shown || calm.matches) { wheel = null; return; }
  const at = Number(shown.dataset.turn), now = performance.now();
  const ring = document.querySelector("[aria-current]")?.textContent;
  if (wheel && wheel.ring === ring && wheel.shown === shown && at >= wheel.at) {
    const seconds = Math.min((now - wheel.now) / 1000, 2);
    wheel.angle += Math.min(at - wheel.at, MOST_TURNS_A_SECOND * seconds);
    shown.style.transition = `transform ${seconds}s linear`;
  } else {
    wheel = { ring, angle: at % 1 };
    shown.style.transition = "none";
  }
  Object.assign(wheel, { at, now, shown });
  shown.style.transform = `rotate(${wheel.angle}turn)`;
}

function lost(why) {
  lostSince ||= new Date().toLocaleTimeString();
  document.body.classList.add("lost");
  notice().textContent = `No answer since ${lostSince}${why}. Trying again.`;
}

async function update() {
  const main = document.querySelector("main");
  const ring = new URLSearchParams(location.search).get("ring") ?? "";
  const asked = new URLSearchParams({ ring, points: main.dataset.points });
  let answer;
  try {
    answer = await fetch(`live?${asked}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch {
    lost("");
    return AGAIN_MS;
  }
  if (answer.status === 401) { location.reload(); return AGAIN_MS; }
  if (!answer.ok) { lost(` (${answer.status})`); return AGAIN_MS; }
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [header, body] = [fresh.querySelector("header"), fresh.querySelector("main")];
  if (!header || !body) { lost(""); return AGAIN_MS; }
  if (body.dataset.build !== main.dataset.build) { location.reload(); return AGAIN_MS; }
  await load(fresh);
  lostSince = "";
  document.body.classList.remove("lost");
  notice().textContent = "";
  morph(document.querySelector("header"), header);
  morph(main, body);
  turn();
  return EVERY_MS;
}

async function loop() {
  let wait = EVERY_MS;
  try { if (!document.hidden) wait = await update(); } finally { setTimeout(loop, wait); }
}

// Tells the values under the pointer.
function read(plot, x) {
  const { unit, lines } = JSON.parse(plot.dataset.plot);
  const times = JSON.parse(document.querySelector("[data-times]").dataset.times);
  const box = plot.getBoundingClientRect();
  const point = Math.round(Math.min(Math.max((x - box.left) / box.width, 0), 1) * (times.length - 1));
  clear(plot);
  if (times[point] === null) return;
  const shown = lines.filter(([, values]) => values[point] !== null).map(([name, values]) => `${name ? `${name}  ` : ""}${values[point].toLocaleString("en")} ${unit}`);
  const mark = document.createElement("span"), text = document.createElement("span");
  mark.className = "mark"; text.className = "read";
  const share = point / (times.length - 1);
  mark.style.left = `${100 * share}%`;
  text.style[share < 0.5 ? "left" : "right"] = `${100 * (share < 0.5 ? share : 1 - share)}%`;
  text.textContent = [new Date(1000 * times[point]).toLocaleTimeString(), ...shown.slice(0, 12)].join("\n");
  plot.append(mark, text);
}

function clear(plot) { plot.querySelectorAll(".mark, .read").forEach((node) => node.remove()); }

document.addEventListener("pointermove", (event) => {
  const plot = event.target.closest?.(".plot");
  document.querySelectorAll(".plot").forEach((each) => { if (each !== plot) clear(each); });
  if (plot) read(plot, event.clientX);
});
document.addEventListener("visibilitychange", () => { wheel = null; });
turn();
setTimeout(loop, EVERY_MS);
