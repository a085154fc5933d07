/** A block of code: language, copy button, highlighting; grows without being drawn again. */

import DOMPurify from "dompurify";
import { copyText } from "../browser";
import type { HLJSApi } from "highlight.js";

const HIGHLIGHT_LIVE = 8_000;
const HIGHLIGHT_AT_ALL = 100_000;
const LINES_PER_CHUNK = 200;
const HIGHLIGHTED = {
  ALLOWED_TAGS: ["span"],
  ALLOWED_ATTR: ["class"],
  RETURN_DOM_FRAGMENT: true as const,
};

let library: HLJSApi | null = null;
let loading: Promise<void> | null = null;

function loadHighlighter(): Promise<void> {
  loading ??= import("highlight.js/lib/common").then(
    (module) => {
      library = module.default;
    },
    () => {
      loading = null;
    },
  );
  return loading;
}

export class CodeBlock {
  readonly element = document.createElement("figure");
  private readonly code = document.createElement("code");
  private text = "";
  private last: Text | null = null;
  private linesInLast = 0;

  constructor(private readonly language: string) {
    const bar = document.createElement("figcaption");
    const label = document.createElement("span");
    label.textContent = language || "text";
    bar.append(label, this.copyButton());
    const pre = document.createElement("pre");
    pre.tabIndex = 0;
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", `Code, ${language || "plain text"}`);
    pre.append(this.code);
    this.element.className = "code";
    this.element.append(bar, pre);
  }

  /** Shows `text`, which begins with what is shown already. */
  write(text: string): void {
    const added = text.slice(this.text.length);
    if (!added) return;
    this.text = text;
    if (text.length > HIGHLIGHT_LIVE || !this.highlight()) this.appendPlain(added);
  }

  /** The text is complete. */
  finish(): void {
    if (!this.language || this.text.length > HIGHLIGHT_AT_ALL || this.highlight()) return;
    void loadHighlighter().then(() => this.highlight());
  }

  private highlight(): boolean {
    if (!library) {
      void loadHighlighter();
      return false;
    }
    if (!this.language || !library.getLanguage(this.language)) return false;
    const { value } = library.highlight(this.text, { language: this.language });
    this.code.replaceChildren(DOMPurify.sanitize(value, HIGHLIGHTED));
    this.last = null;
    return true;
  }

  private appendPlain(added: string): void {
    if (!this.last && this.code.hasChildNodes()) {
      this.code.replaceChildren(); // highlighted so far: too long for that from now on
      added = this.text;
    }
    for (const line of added.split(/(?<=\n)/)) {
      if (!this.last || this.linesInLast >= LINES_PER_CHUNK) this.openChunk();
      this.last?.appendData(line);
      if (line.endsWith("\n")) this.linesInLast++;
    }
  }

  /** Chunks keep layout local: a growing block lays out its last lines only. */
  private openChunk(): void {
    const chunk = document.createElement("span");
    chunk.className = "chunk";
    this.last = document.createTextNode("");
    this.linesInLast = 0;
    chunk.append(this.last);
    this.code.append(chunk);
  }

  private copyButton(): HTMLButtonElement {
    const button = document.createElement("button");
    button.type = "button";
    const tell = (text: string) => {
      button.textContent = text;
      button.setAttribute("aria-label", `${text} code`);
    };
    tell("Copy");
    button.addEventListener("click", () => {
      void copyText(this.text).then((copied) => tell(copied ? "Copied" : "Copy failed"));
      setTimeout(() => tell("Copy"), 1500);
    });
    return button;
  }
}
