// Explorers: a slider steps through frames that were drawn when the site was built.
(function () {
  function start(figure) {
    const slider = figure.querySelector('input[type=range]');
    const image = figure.querySelector('img');
    const shown = figure.querySelector('.tl-explorer-value');
    const frames = figure.querySelector('template').content.querySelectorAll('img');
    function show() {
      const frame = frames[Number(slider.value)];
      image.src = frame.src;
      image.alt = frame.alt;
      shown.textContent = frame.dataset.value;
      slider.setAttribute('aria-valuetext', frame.dataset.value);
    }
    slider.addEventListener('input', show);
    figure.querySelector('.tl-explorer-controls').hidden = false;
    show(); // a browser may restore the slider's last position
  }
  addEventListener('DOMContentLoaded', () => document.querySelectorAll('.tl-explorer').forEach(start));
})();
