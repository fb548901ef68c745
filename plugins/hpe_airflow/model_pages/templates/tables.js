// Tables can be sorted by a press on a column's head, and searched; without this they are plain tables.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  for (const [place, head] of [...table.tHead.rows[0].cells].entries()) {
    if (!head.dataset.sort) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => row.cells[place].dataset.value ?? row.cells[place].textContent.trim();
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = head.dataset.sort === "number" ? x - y : x.localeCompare(y);
        return down ? -order : order;
      });
      body.append(...rows);
    });
  }
}
for (const search of document.querySelectorAll("[data-search]")) {
  search.hidden = false;
  const field = search.querySelector("input[type=search]");
  const verdict = search.querySelector("select");
  const told = search.querySelector("[role=status]");
  const body = document.getElementById(search.dataset.search).tBodies[0];
  const look = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word)) || (verdict.value && row.dataset.state !== verdict.value
        && !(row.dataset.also || "").split(" ").includes(verdict.value));
      shown += !row.hidden;
    }
    told.textContent = `${shown} of ${body.rows.length} shown`;
  };
  field.addEventListener("input", look);
  verdict.addEventListener("change", look);
}
const chosen = document.getElementById("compare");
if (chosen) {
  const button = chosen.querySelector("button[type=submit]");
  const look = () => {
    const count = chosen.querySelectorAll("input[name=version]:checked").length;
    button.textContent = count ? `Compare ${count} versions` : "Compare";
    button.disabled = count < 2 || count > 6;
  };
  chosen.addEventListener("change", look);
  look();
}
