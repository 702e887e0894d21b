// Keeps a page fresh: fetches it again every few seconds and replaces the parts that say so. Without
// this script the page is the same, and is reloaded by hand. Stops while nobody looks, and when told.
"use strict";
(() => {
  const seconds = Number(document.body.dataset.live);
  if (!(seconds > 0)) return;
  let paused = false;
  let failures = 0;

  const bar = document.createElement("p");
  bar.className = "live";
  const word = document.createElement("span");
  word.setAttribute("role", "status");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  bar.append(word, " ", button);
  document.getElementById("main").prepend(bar);

  function say() {
    button.textContent = paused ? "Follow again" : "Stop following";
    const text = paused ? "Stands still" : failures ? "Cannot be reached; trying again" : "Follows live";
    if (word.textContent !== text) word.textContent = text;
  }
  button.addEventListener("click", () => {
    paused = !paused;
    say();
    if (!paused) refresh();
  });

  // What somebody is reading with the keyboard or marking stays where it is.
  function isInUse(part) {
    const selection = document.getSelection();
    const marked = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
    return marked || part.contains(document.activeElement);
  }

  async function refresh() {
    if (paused || document.hidden) return;
    try {
      const answer = await fetch(location.href, {
        headers: { accept: "text/html" },
        redirect: "manual",
        signal: AbortSignal.timeout(10000),
      });
      if (answer.type === "opaqueredirect" || answer.status === 401) {
        location.reload(); // the login ended
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live-part]")) {
        const other = fresh.getElementById(part.id);
        if (other && other.innerHTML !== part.innerHTML && !isInUse(part)) part.replaceWith(other);
      }
      failures = 0;
    } catch {
      failures += 1;
    }
    say();
  }

  async function follow() {
    for (;;) {
      const wait = seconds * Math.min(1 + failures, 10);
      await new Promise((done) => setTimeout(done, wait * 1000));
      await refresh();
    }
  }
  document.addEventListener("visibilitychange", refresh);
  say();
  follow();
})();
