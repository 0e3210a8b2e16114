const slides = [...document.querySelectorAll("section")];
const place = document.querySelector("nav span");
document.documentElement.classList.add("deck");
let at = 0;
function show(k) {
  at = Math.min(Math.max(k, 0), slides.length - 1);
  slides.forEach((slide, j) => slide.classList.toggle("shown", j === at));
  place.textContent = `${at + 1} / ${slides.length}`;
  history.replaceState(null, "", `#${at + 1}`);
  scrollTo(0, 0);
}
const turns = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in turns) show(at + turns[event.key]);
  else if (event.key === "Home") show(0);
  else if (event.key === "End") show(slides.length - 1);
  else return;
  event.preventDefault();
});
addEventListener("hashchange", () => show((parseInt(location.hash.slice(1)) || 1) - 1));
document.querySelectorAll("nav button").forEach((button) =>
  button.addEventListener("click", () => show(at + Number(button.value))));
show((parseInt(location.hash.slice(1)) || 1) - 1);
