// The page: a picture goes to the function, and its answer is shown.

import { adviceOn, showAdvice } from "./advice.js";
import { $, element, milliseconds, side } from "./dom.js";
import * as overlay from "./overlay.js";
import { compare, describe, markGolden, showComparison, showGolden, showVersion } from "./version.js";

const STAGES = [
  ["decode_image", "Reading the picture"], ["preprocess", "Preparing the input"], ["network", "Network"],
  ["decode_people", "Finding the joints"], ["draw", "Drawing"],
];
const UNREACHABLE = "The function cannot be reached: is it still running?";
// What is on the page: the version that is described; the picture, the boxes asked for, the golden image that it is, the
// last answer and how it compares; which request is the newest.
const state = {
  version: null, described: null, file: null, plainUrl: null, boxes: [], golden: null, answer: null, comparison: null,
  request: 0,
};
// Joints with lower scores are not drawn, and pale in the list.
const threshold = () => state.version?.threshold ?? 0.2;

async function introduce() {
  try {
    const { model, limits } = await (await fetch("/pose")).json();
    showModel(model);
    $("limit").textContent = `; JPEG, PNG, WebP or GIF, up to ${(limits.image_bytes / 1e6).toFixed(1)} MB`;
    await introduceVersion(model.version);
  } catch (problem) {
    showError("No answer", UNREACHABLE, String(problem));
  }
}

/** Say what the version that answers is; again, when a channel has moved to another one. Whoever asks waits for it. */
function introduceVersion(version) {
  if (state.described !== version) Object.assign(state, { described: version, describing: describeVersion() });
  return state.describing;
}

async function describeVersion() {
  try {
    state.version = await describe();
    if (state.version) {
      showVersion(state.version);
      showGolden(state.version, (golden, file) => choose(file, golden));
    }
  } catch (problem) {
    state.version = null;
    showError("The version cannot be described", problem.message);
  }
}

$("curl").textContent = `curl -F image=@picture.jpg ${location.origin}/pose`;

function showError(title, message, note = "") {
  const [head, body, small] = $("error").children;
  head.textContent = title;
  body.textContent = message;
  small.textContent = note;
  $("error").hidden = false;
}

function choose(file, golden = null) {
  if (!file) return;
  if (state.plainUrl) URL.revokeObjectURL(state.plainUrl);
  const boxes = (golden?.people ?? []).map((person) => person.box).filter(Boolean);
  Object.assign(state, { file, plainUrl: URL.createObjectURL(file), boxes, golden, answer: null, comparison: null });
  for (const id of ["found", "timing", "result", "advice", "compared"]) $(id).hidden = true;
  send();
}

/** Ask with other boxes than before: what was measured in a golden image is about its own. */
function ask(boxes) {
  Object.assign(state, { boxes, golden: null });
  send();
}

async function send() {
  const request = ++state.request;
  const { golden } = state;
  markGolden(golden);
  $("error").hidden = true;
  $("stage").classList.add("busy");
  $("drop").setAttribute("aria-busy", "true");
  overlay.draw(state.boxes);
  await showPlain();
  const query = new URLSearchParams({ threshold: threshold() });
  if (state.boxes.length) query.set("boxes", JSON.stringify(state.boxes));
  let response, answer;
  try {
    // Of anything else the function shall say that it is not an image, not that its type is unknown.
    const kind = state.file.type.startsWith("image/") ? state.file.type : "application/octet-stream";
    const headers = { "Content-Type": kind, "Accept": "application/json" };
    response = await fetch(`/pose?${query}`, { method: "POST", body: state.file, headers });
    answer = await response.json();
    if (response.ok) await introduceVersion(answer.model.version);
  } catch (problem) {
    if (request === state.request) fail("No answer", UNREACHABLE, String(problem));
    return;
  }
  if (request !== state.request) return;
  if (!response.ok) {
    fail(`Error ${response.status}`, answer.error.message, answer.error.request_id && `Request ${answer.error.request_id}`);
    return;
  }
  const comparison = await measuredBeside(answer, golden);
  if (request === state.request) show(answer, comparison);
}

/** How an answer compares with what was measured; null for a picture that is not of this version's golden images. */
async function measuredBeside(answer, golden) {
  if (!golden || state.version?.version !== answer.model.version || !state.version.golden.includes(golden)) return null;
  try {
    return await compare(state.version, golden, answer);
  } catch (problem) {
    showError("The answer cannot be compared with what was measured", problem.message);
    return null;
  }
}

function fail(...texts) {
  idle();
  showError(...texts);
  // A picture that was read before stays, so that another box can be drawn.
  if (!state.answer) $("result").hidden = true;
}

function idle() {
  $("stage").classList.remove("busy");
  $("drop").removeAttribute("aria-busy");
}

async function showPlain() {
  if (state.answer) return;
  const image = $("image");
  image.src = state.plainUrl;
  try {
    await image.decode();
  } catch {
    return; // not a picture that the browser knows: the function says what is wrong with it
  }
  overlay.setSize(image.naturalWidth, image.naturalHeight);
  $("hint").textContent = "Looking for people …";
  for (const id of ["whole", "plain", "mark", "numbers"]) $(id).hidden = true;
  slim();
  $("result").hidden = false;
}

function slim() {
  $("drop").classList.add("slim");
  $("invitation").textContent = "Drop another picture";
}

function show(answer, comparison) {
  idle();
  slim();
  Object.assign(state, { answer, comparison });
  const { model, image, people, timings_ms: times } = answer;
  overlay.setSize(image.width, image.height);
  showModel(model);
  $("plain").setAttribute("aria-pressed", "false");
  showPicture();
  showTools(answer);
  $("people-title").textContent = people.length === 1 ? "1 person" : people.length ? `${people.length} people` : "No person found";
  $("people").replaceChildren(...people.map(personCard));
  // An answer that is as it was measured needs no excuse.
  showAdvice(comparison?.same ? null : adviceOn(answer, state.version, state.boxes));
  showComparison(comparison);
  showTimes(times);
  drawBoxes();
  for (const id of ["found", "timing", "result"]) $(id).hidden = false;
}

function showTools({ model, hpe, note }) {
  const single = (state.version?.takes_boxes ?? true);
  $("stage").classList.toggle("fixed", !single);
  const boxes = !single ? "" : state.boxes.length
    ? "Draw more boxes, or click into one to remove it."
    : "The whole picture was taken as one person. Draw a box around each person to find them one by one.";
  $("hint").textContent = [note, boxes].filter(Boolean).join(" ");
  $("whole").hidden = !state.boxes.length;
  // A finger scrolls the page, unless it was told to draw.
  $("mark").hidden = !single || !navigator.maxTouchPoints;
  $("numbers").hidden = !single;
  $("plain").hidden = !hpe;
}

function showModel(model) {
  $("model").replaceChildren(element("b", {}, model.name), ` ${model.version}`);
  $("model").hidden = false;
}

function showPicture() {
  const plain = $("plain").getAttribute("aria-pressed") === "true" || !state.answer.hpe;
  $("image").src = plain ? state.plainUrl : `data:image/jpeg;base64,${state.answer.hpe}`;
  $("image").alt = plain ? "The picture" : `The picture with skeletons: ${state.answer.people.length} found`;
}

/** The distances of a person's joints from where they were measured; null where nothing was. */
function distancesOf(index) {
  return state.comparison?.people.find((person) => person.found === index)?.distances_px ?? null;
}

function personCard(person, index) {
  const distances = distancesOf(index);
  const usual = state.version?.scores;
  const rows = person.joints.map((joint) => {
    const off = distances === null ? [] : [joint.name in distances ? distances[joint.name].toFixed(2) : "–"];
    const numbers = [joint.x.toFixed(1), joint.y.toFixed(1), joint.score.toFixed(2), ...off];
    const row = element("tr", joint.score < threshold() ? { class: "unsure" } : {},
      element("td", {}, element("i", { class: `dot ${side(joint.name)}` }), joint.name.replaceAll("_", " ")),
      ...numbers.map((number) => element("td", { class: "number" }, number)));
    row.addEventListener("pointerenter", () => overlay.point(joint));
    row.addEventListener("pointerleave", overlay.unpoint);
    return row;
  });
  const sure = person.joints.filter((joint) => joint.score >= threshold()).length;
  const low = usual && person.score < usual.low;
  const bar = element("div", { class: low ? "bar low" : "bar" }, element("i"));
  bar.firstChild.style.width = `${Math.round(100 * Math.min(1, Math.max(0, person.score)))}%`;
  const summary = element("summary", {}, element("b", {}, `Person ${index + 1}`), bar,
    element("span", { class: "note number" },
      `${low ? "low score" : "score"} ${person.score.toFixed(2)}, ${sure} ${sure === 1 ? "joint" : "joints"}`));
  summary.addEventListener("pointerenter", () => overlay.frame(person.box));
  summary.addEventListener("pointerleave", overlay.unpoint);
  const titles = ["Joint", "x", "y", "Score", ...(distances === null ? [] : ["Off by"])];
  const head = element("tr", {}, ...titles.map((name, i) =>
    element("th", { scope: "col", ...(i && { class: "number" }), ...(name === "Off by" && { title: "Pixels from where it was measured" }) }, name)));
  const card = element("details", { class: "person" }, summary,
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  card.open = index === 0;
  return card;
}

function showTimes(times) {
  $("total").textContent = milliseconds(times.total);
  const known = STAGES.filter(([key]) => key in times);
  $("stages").replaceChildren(...known.map(([key], i) => {
    const part = element("i");
    part.style.cssText = `flex: ${Math.max(times[key], 0.001)} 0 0; background: var(--stage-${i + 1})`;
    return part;
  }));
  $("times").replaceChildren(...known.flatMap(([key, label], i) => {
    const swatch = element("i");
    swatch.style.background = `var(--stage-${i + 1})`;
    return [element("dt", {}, swatch, label), element("dd", { class: "number" }, milliseconds(times[key]))];
  }));
}

// --- boxes ---

function drawBoxes(extra = null) {
  const measured = state.comparison && state.golden ? state.golden.people.flatMap((person) => person.joints) : [];
  overlay.draw([...state.boxes, ...(extra ? [extra] : [])], measured.filter((joint) => joint.score >= threshold()));
}

overlay.takeBoxes({
  allowed: () => state.answer && (state.version?.takes_boxes ?? true),
  drawing: drawBoxes,
  drawn: (box) => ask([...state.boxes, box]),
  clicked: (x, y) => {
    const hit = state.boxes.findLastIndex(([left, top, w, h]) => x >= left && x <= left + w && y >= top && y <= top + h);
    if (hit >= 0) ask(state.boxes.toSpliced(hit, 1));
  },
});
$("numbers").addEventListener("submit", (event) => {
  event.preventDefault();
  ask([...state.boxes, ["x", "y", "width", "height"].map((name) => $("numbers").elements[name].valueAsNumber)]);
});

// --- ways to bring a picture and to look at it ---

$("file").addEventListener("change", () => { choose($("file").files[0]); $("file").value = ""; });
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  choose(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
$("whole").addEventListener("click", () => ask([]));
$("mark").addEventListener("click", () => {
  const on = $("stage").classList.toggle("marking");
  $("mark").setAttribute("aria-pressed", on);
});
$("plain").addEventListener("click", () => {
  $("plain").setAttribute("aria-pressed", $("plain").getAttribute("aria-pressed") !== "true");
  showPicture();
});
introduce();
