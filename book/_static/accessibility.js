// Small accessibility repairs for sphinx-book-theme 1.3.
(function () {
  function repair() {
    // A visible label and another one for screen readers: keep the visible one.
    document
      .querySelectorAll('.search-button-field[aria-label], details > summary[aria-label]')
      .forEach((e) => e.removeAttribute('aria-label'));
    // The icons of the theme switch are decoration: the button has its own name.
    document.querySelectorAll('.theme-switch-button svg:not([aria-hidden])').forEach((e) => {
      e.querySelectorAll('title').forEach((title) => title.remove());
      e.removeAttribute('role');
      e.removeAttribute('aria-labelledby');
      e.setAttribute('aria-hidden', 'true');
    });
    const logo = document.querySelector('.sidebar-primary-items__start');
    if (logo && !logo.hasAttribute('role')) {
      logo.setAttribute('role', 'region');
      logo.setAttribute('aria-label', 'Site title and search');
    }
    // Roles that the bibliography gives its parts and that no longer exist.
    document
      .querySelectorAll('.citation-list[role], .citation[role]')
      .forEach((e) => e.removeAttribute('role'));
    // What scrolls sideways can be reached by keyboard.
    document.querySelectorAll('div.cell_output table, .tl-scroll, div.math').forEach((e) => {
      const box = e.tagName === 'TABLE' ? e.parentElement : e;
      if (box.scrollWidth > box.clientWidth && !box.hasAttribute('tabindex')) {
        box.setAttribute('tabindex', '0');
      }
    });
  }
  addEventListener('load', () => {
    repair();
    new MutationObserver(repair).observe(document.body, { childList: true, subtree: true });
  });
})();
