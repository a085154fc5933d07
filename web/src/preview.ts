/** Runs in the preview's frame: shows the document that the page sends, once. */

addEventListener("message", ({ source, data }) => {
  if (source !== parent || typeof data !== "string") return;
  const shown = new DOMParser().parseFromString(data, "text/html");
  document.head.append(...shown.head.childNodes);
  document.body.replaceChildren(...shown.body.childNodes);
});
