// What lies on the picture: the boxes that are asked for, the measured joints, what the mouse points at.

import { $, shape } from "./dom.js";

const MIN_BOX_PX = 8;
const overlay = () => $("overlay");
const rectangle = ([x, y, width, height], kind) => shape("rect", { x, y, width, height, class: kind });
// Half a pixel, because joints are given at the centres of pixels.
const ring = (joint, radius, kind) => shape("circle", { cx: joint.x + 0.5, cy: joint.y + 0.5, r: radius, class: kind });

let size = [1, 1];

export function setSize(width, height) {
  size = [width, height];
  overlay().setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("stage").style.setProperty("--aspect", width / height);
}

/** Show boxes, and rings where joints were when they were measured. */
export function draw(boxes, measured = []) {
  const radius = Math.max(...size) / 110;
  overlay().replaceChildren(
    ...boxes.map((box) => rectangle(box, "box")),
    ...measured.map((joint) => ring(joint, radius, "measured")));
}
export function point(joint) { overlay().append(ring(joint, Math.max(...size) / 60, "shown")); }
export function frame(box) { overlay().append(rectangle(box, "shown")); }
export function unpoint() { for (const each of document.querySelectorAll("#overlay .shown")) each.remove(); }

/**
 * Let the mouse, a pen or a finger draw boxes.
 *
 * @param allowed Whether boxes may be drawn now; a finger only draws where the picture is marking.
 * @param drawing Called with the box while it grows, and with null when it is given up.
 * @param drawn Called with a finished box.
 * @param clicked Called with a point of the picture.
 */
export function takeBoxes({ allowed, drawing, drawn, clicked }) {
  let start = null;
  const at = (event) => {
    const area = overlay().getBoundingClientRect();
    const share = (value, low, extent) => Math.min(1, Math.max(0, (value - low) / extent));
    return [share(event.clientX, area.left, area.width) * size[0], share(event.clientY, area.top, area.height) * size[1]];
  };
  const boxTo = (event) => {
    const [x, y] = at(event);
    const rounded = (value) => Math.round(value * 10) / 10;
    return [Math.min(x, start.x), Math.min(y, start.y), Math.abs(x - start.x), Math.abs(y - start.y)].map(rounded);
  };
  overlay().addEventListener("pointerdown", (event) => {
    const scrolls = event.pointerType === "touch" && !$("stage").classList.contains("marking");
    if (!allowed() || event.button !== 0 || scrolls) return;
    const [x, y] = at(event);
    start = { x, y, clientX: event.clientX, clientY: event.clientY };
    overlay().setPointerCapture(event.pointerId);
  });
  overlay().addEventListener("pointermove", (event) => { if (start) drawing(boxTo(event)); });
  overlay().addEventListener("pointercancel", () => { start = null; drawing(null); });
  overlay().addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = boxTo(event), { x, y } = start;
    const wide = Math.abs(event.clientX - start.clientX), high = Math.abs(event.clientY - start.clientY);
    start = null;
    if (Math.min(wide, high) >= MIN_BOX_PX) drawn(box);
    else if (Math.max(wide, high) < MIN_BOX_PX) clicked(x, y);
    else drawing(null);
  });
}
