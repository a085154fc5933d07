/** Runs in the preview's frame: cleans the document that the page sends, and shows it. */

import DOMPurify from "dompurify";

const CLEAN = {
  WHOLE_DOCUMENT: true,
  FORBID_TAGS: ["script", "iframe", "object", "embed", "base", "meta", "link", "form"],
  ADD_TAGS: ["style"],
  RETURN_DOM: true as const,
};
const ADDRESSES = ["src", "srcset", "href", "xlink:href", "poster", "background", "action"];

// The frame's policy would refuse other addresses; without them it need not.
DOMPurify.addHook("afterSanitizeAttributes", (element) => {
  for (const name of ADDRESSES) {
    const address = element.getAttribute(name);
    if (address !== null && !/^(data:|#)/i.test(address)) element.removeAttribute(name);
  }
});

addEventListener("message", ({ source, data }) => {
  if (source !== parent || typeof data !== "string") return;
  const shown = DOMPurify.sanitize(data, CLEAN);
  document.documentElement.replaceWith(document.importNode(shown, true));
});
