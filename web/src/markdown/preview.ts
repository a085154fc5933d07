/** HTML and SVG that a model wrote, shown in a frame without scripts, network or an origin.
 *
 * The frame is a page of its own (`preview.html`), whose policy lets nothing be loaded and no
 * script of the text run; DOMPurify cleans the text there before it is shown.
 */

import { t } from "../language";

const LONGEST = 500_000;
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
  // The frame has no origin, so there is none to name; it alone is written to.
  frame.addEventListener("load", () => frame.contentWindow?.postMessage(source, "*"));
  return frame;
}
