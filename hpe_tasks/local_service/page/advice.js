// Why an answer may be poor: its scores beside those of the people whom the version was measured on.

import { $, element, people, sentence } from "./dom.js";

const two = (value) => value.toFixed(2);

/** What to say of an answer; null where its scores are usual, or nothing is known to compare them with. */
export function adviceOn(answer, version, boxes) {
  const usual = version?.scores;
  const scores = answer.people.map((person) => person.score);
  const low = usual ? scores.filter((score) => score < usual.low) : [];
  if (scores.length && !low.length) return null;
  return {
    title: title(scores, low),
    fact: usual && scores.length ? fact(usual) : "",
    reasons: [...reasons(answer, version, boxes)],
  };
}

function title(scores, low) {
  if (!scores.length) return "No person was found.";
  if (scores.length === 1) return `A score of ${two(low[0])} is low: do not trust these joints.`;
  if (low.length === scores.length) return `All ${low.length} scores are low: do not trust these joints.`;
  return `${low.length} of ${scores.length} scores are low: do not trust the joints of these people.`;
}

function fact({ low, persons, from }) {
  return from === "evaluation"
    ? `Of the ${people(persons)} that this version was measured on, 95 in 100 scored more than ${two(low)}.`
    : `The ${people(persons)} in its golden images scored ${two(low)} or more.`;
}

function* reasons(answer, version, boxes) {
  if (version?.takes_boxes) {
    yield boxes.length
      ? "A box should hold one whole person, and end where the person ends."
      : "The model looks at one person at a time, and took the whole picture for one: draw a box around each person.";
  }
  if (version?.trained_on) {
    yield `It was trained on: ${sentence(version.trained_on)} This picture may be unlike that.`;
  } else if (version) {
    const { dataset, split } = version.accuracy;
    yield `What it was trained on is not recorded. It was measured on ${dataset} (${split}): this picture may be unlike that.`;
  }
}

export function showAdvice(advice) {
  $("advice").hidden = !advice;
  if (!advice) return $("advice").replaceChildren();
  $("advice").replaceChildren(
    element("b", {}, advice.title),
    ...(advice.fact ? [element("p", {}, advice.fact)] : []),
    ...(advice.reasons.length ? [element("ul", {}, ...advice.reasons.map((reason) => element("li", {}, reason)))] : []));
}
