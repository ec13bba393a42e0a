// Tables that are wider than the page scroll; keys reach what takes the focus.
document$.subscribe(function () {
  window.setTimeout(function () {
    for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap")) {
      wrap.tabIndex = 0;
      wrap.setAttribute("role", "region");
      wrap.setAttribute("aria-label", "table");
    }
  }, 0);
});
