// What every part of the page uses to build it.

export const $ = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

export const counted = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
export const people = (number) => counted(number, "person", "people");
export const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
export const side = (joint) => joint.startsWith("left_") ? "left" : joint.startsWith("right_") ? "right" : "centre";
export const sentence = (text) => text.replace(/[\s.]+$/, "") + ".";

/** Ask this server; the document, or an error with what the server says of it. */
export async function ask(address, options = {}) {
  const response = await fetch(address, options);
  const document = await response.json();
  if (!response.ok) throw new Error(document.error.message);
  return document;
}
