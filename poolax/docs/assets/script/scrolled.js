// Tables and figures that are wider than the page scroll; keys reach what takes the focus.
const MANY_COLUMNS = 5;
const PROSE = 50;

function reached(element, label) {
  element.tabIndex = 0;
  element.setAttribute("role", "region");
  element.setAttribute("aria-label", label);
}

document$.subscribe(function () {
  for (const image of document.querySelectorAll('.md-typeset img[src*="figures/"]')) {
    image.parentElement.classList.add("figure");
    reached(image.parentElement, "figure");
  }
  for (const table of document.querySelectorAll(".md-typeset table:not([class])")) {
    const wide = table.tHead && table.tHead.rows[0].cells.length >= MANY_COLUMNS;
    for (const cell of wide ? table.querySelectorAll("td") : []) {
      cell.classList.toggle("prose", cell.textContent.length > PROSE);
    }
  }
  window.setTimeout(function () {
    for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap")) {
      reached(wrap, "table");
    }
  }, 0);
});
