"use strict";
// Beside the page the contents stand open; above it they would push everything down.
if (matchMedia("(max-width: 75rem)").matches) document.querySelector("nav details").open = false;

// Tables that are marked as grids are sorted by their headings and filtered by a field above them.
for (const grid of document.querySelectorAll("[data-grid]")) {
  const body = grid.querySelector("tbody");
  const rows = Array.from(body.rows);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const headings = Array.from(grid.querySelectorAll("thead th"));

  const tools = document.createElement("div");
  tools.className = "tools";
  const label = document.createElement("label");
  label.append("Filter ");
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "words of a row";
  label.append(field);
  const count = document.createElement("output");
  tools.append(label, count);
  grid.querySelector(".scroll").before(tools);

  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      row.hidden = !words.every((word) => texts[place].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };
  field.addEventListener("input", filter);
  filter();

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent.trim();
    heading.replaceChildren(button);
    const keys = new Map(rows.map((row) => [row, row.cells[column].dataset.key]));
    const areNumbers = rows.some((row) => row.cells[column].classList.contains("n"));
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const compare = (one, other) => {
        const [a, b] = [keys.get(one), keys.get(other)];
        // What is not known comes last, whichever way.
        if (a === "" || b === "") return (a === "") - (b === "");
        return sign * (areNumbers ? Number(a) - Number(b) : a.localeCompare(b));
      };
      body.append(...rows.slice().sort(compare));
    });
  });
}
