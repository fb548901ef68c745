// The version that answers: what it was trained and measured on, and its golden images.

import { $, ask, counted, element, people, sentence } from "./dom.js";

const FORMS = [["fp32", "of FP32"], ["quantsim", "of QuantSim"], ["onnx", "of this file"]];
const count = (number, what) => counted(number, what, `${what}s`);

/** The description of the version that answers; null where this server has none. */
export async function describe() {
  const response = await fetch("/model");
  if (response.status === 404) return null;
  const document = await response.json();
  if (!response.ok) throw new Error(document.error.message);
  return document;
}

export function showVersion(version) {
  const { accuracy } = version;
  $("trained").textContent = version.trained_on
    ? `Trained on: ${sentence(version.trained_on)}`
    : "What it was trained on is not recorded: model.trained_on in the run's settings would say it here.";
  $("refused").textContent = refusal(version);
  $("refused").hidden = !version.channel?.refused;
  $("measured").textContent = expectation(version);
  $("figures").replaceChildren(...FORMS.map(([form, label]) => element("div", form === "onnx" ? { class: "main" } : {},
    element("dt", {}, `${accuracy.metric} ${label}`), element("dd", {}, accuracy.figures[form]))));
  $("facts").replaceChildren(...facts(version).filter(([, text]) => text).flatMap(([label, text]) =>
    [element("dt", {}, label), element("dd", {}, text)]));
  $("about").hidden = false;
}

function refusal({ channel }) {
  return channel?.refused ? `This version stays, because something else was refused: ${channel.refused.reason}` : "";
}

function expectation({ accuracy, scores, takes_boxes }) {
  const measured = `${accuracy.metric} ${accuracy.figures.onnx} on ${people(accuracy.persons)} in ` +
    `${count(accuracy.images, "image")} of ${accuracy.dataset} (${accuracy.split}` +
    `${accuracy.subset ? ", a subset" : ""}), in ${accuracy.boxes}. ${accuracy.meaning}`;
  const usual = scores ? ` A person's score is usually about ${scores.median.toFixed(2)}.` : "";
  const one = takes_boxes ? " It finds one person in each box; without boxes, one in the whole picture." : "";
  return measured + usual + one;
}

function facts(version) {
  const date = new Date(version.published_at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  return [
    ["Version", `${version.name} ${version.version}`],
    ["Served from", version.origin],
    ["Channel", version.channel?.counter ? `moved ${version.channel.moved_at}, counter ${version.channel.counter}` : ""],
    ["Published", `${date}, by ${version.published_by || "unknown"}`],
    ["Network", `${version.architecture}, input ${version.input_sizes.map((size) => size.join("×")).join(" or ")}, ` +
      `${count(version.joints, "joint")}, codec ${version.codec}`],
    ["Checkpoint", `${version.checkpoint}${version.preset ? `, preset ${version.preset}` : ""}`],
    ["Recipe", version.recipe],
    ["Proved", version.proof],
    ["Measured on", version.processor.length ? `a processor with ${version.processor.join(", ")}` : ""],
  ];
}

/**
 * Show the golden images as pictures to click.
 *
 * @param chosen Called with the golden image and its file.
 */
export async function showGolden(version, chosen) {
  $("golden-note").textContent = version.no_golden;
  $("golden-note").hidden = !version.no_golden;
  $("golden-text").hidden = Boolean(version.no_golden);
  const buttons = version.golden.map((golden, index) => thumbnail(version, golden, index, chosen));
  $("thumbnails").replaceChildren(...buttons);
  $("golden").hidden = false;
}

function thumbnail(version, golden, index, chosen) {
  const who = golden.people.length ? people(golden.people.length) : "no person";
  const image = element("img", { alt: `Golden image ${index + 1}`, width: golden.width, height: golden.height });
  const button = element("button", { type: "button", class: "thumbnail", "aria-pressed": "false" }, image,
    element("span", {}, who));
  button.disabled = true;
  button.dataset.role = golden.role;
  load(version, golden).then((file) => {
    image.src = URL.createObjectURL(file);
    button.disabled = false;
    button.addEventListener("click", () => chosen(golden, file));
  }, (problem) => {
    button.title = button.lastChild.textContent = "cannot be loaded";
    $("golden-note").textContent = problem.message;
    $("golden-note").hidden = false;
  });
  return button;
}

async function load(version, golden) {
  const response = await fetch(`/golden/${version.version}/${golden.role}`);
  if (!response.ok) throw new Error((await response.json()).error.message);
  const blob = await response.blob();
  return new File([blob], golden.role, { type: blob.type });
}

/** Mark the golden image that is shown; none with null. */
export function markGolden(golden) {
  for (const button of $("thumbnails").children) {
    button.setAttribute("aria-pressed", button.dataset.role === golden?.role);
  }
}

/** Compare an answer with what was measured in a golden image. */
export function compare(version, golden, answer) {
  const headers = { "Content-Type": "application/json" };
  return ask(`/golden/${version.version}/${golden.role}`,
    { method: "POST", headers, body: JSON.stringify(answer.people) });
}

export function showComparison(comparison) {
  $("compared").hidden = !comparison;
  if (!comparison) return;
  const { same, limit, min_oks: oks, mean_px: mean, max_px: max, clear, more } = comparison;
  $("compared").classList.toggle("differs", !same);
  $("compared-title").textContent = same ? "The same as when it was measured" : "Not as it was measured";
  const alike = oks === null ? "No person has five confident joints to compare."
    : `OKS ${clear > 1 ? "at least " : ""}${oks.toFixed(3)}${clear > 1 ? ` for each of ${people(clear)}` : ""}, where ` +
      `${limit} is asked.`;
  const apart = mean === null ? ""
    : ` Confident joints lie ${mean.toFixed(2)} pixels from where they were, in the mean; ${max.toFixed(2)} at most.`;
  const others = more ? ` ${people(more)} more than there were.` : "";
  $("compared-text").textContent = `${alike}${apart}${others} Rings show where the joints were measured.`;
}
