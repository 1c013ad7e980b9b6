"use strict";
// Examples are filtered where they stand: without this script all of them are shown.
const filter = document.getElementById("filter");
if (filter) {
  const STEP = 20;
  const examples = [...document.querySelectorAll("#examples > li")];
  const more = document.getElementById("more");
  let limit = STEP;
  const apply = () => {
    const chosen = Object.fromEntries(new FormData(filter));
    const words = chosen.words.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const one of examples) {
      const text = one.textContent.toLowerCase();
      const fits =
        (!chosen.run || one.dataset.run === chosen.run) &&
        (!chosen.task || one.dataset.task === chosen.task) &&
        words.every((word) => text.includes(word));
      found += fits;
      one.hidden = !fits || found > limit;
    }
    filter.elements.count.value = `${found} of ${examples.length}`;
    more.hidden = found <= limit;
  };
  filter.hidden = false;
  filter.addEventListener("input", () => {
    limit = STEP;
    apply();
  });
  filter.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    limit += STEP;
    apply();
  });
  apply();
}
// What is folded away on a screen belongs on paper.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
