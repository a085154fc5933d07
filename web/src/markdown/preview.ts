/** HTML and SVG that a model wrote, shown in a frame without scripts, network or an origin.
 *
 * The frame is a page of its own (`preview.html`), whose policy lets nothing be loaded and no
 * script of the text run; what comes into it has gone through DOMPurify before.
 */

import DOMPurify from "dompurify";
import { t } from "../language";

const LONGEST = 500_000;
const CLEAN = {
  WHOLE_DOCUMENT: true,
  FORBID_TAGS: ["script", "iframe", "object", "embed", "base", "meta", "link", "form"],
  ADD_TAGS: ["style"],
  FORCE_BODY: false,
};

export function previewable(language: string, text: string): boolean {
  if (text.length > LONGEST) return false;
  if (["html", "svg", "htm"].includes(language)) return true;
  return language === "xml" && /^\s*(<\?xml[^>]*>\s*)?<svg[\s>]/.test(text);
}

export function previewFrame(language: string, text: string): HTMLIFrameElement {
  const frame = document.createElement("iframe");
  frame.className = "preview";
  frame.title = t.previewTitle;
  frame.setAttribute("sandbox", "allow-scripts");
  frame.src = "preview.html";
  const isHtml = language === "html" || language === "htm";
  const source = isHtml ? text : text.replace(/^\s*<\?xml[^>]*>/, "");
  const clean = String(DOMPurify.sanitize(source, CLEAN));
  // The frame has no origin, so there is none to name; it alone is written to.
  frame.addEventListener("load", () => frame.contentWindow?.postMessage(clean, "*"));
  return frame;
}
