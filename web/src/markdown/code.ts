/** A block of code: language, copying, running, preview, highlighting; grows without a redraw. */

import DOMPurify from "dompurify";
import type { HLJSApi } from "highlight.js";
import { copyText } from "../browser";
import { t } from "../language";
import { previewFrame, previewable } from "./preview";

const HIGHLIGHT_LIVE = 8_000;
const HIGHLIGHT_AT_ALL = 100_000;
const LINES_PER_CHUNK = 200;
const LONGEST_OUTPUT = 20_000;
const PYTHON = new Set(["python", "py", "python3"]);
const HIGHLIGHTED = {
  ALLOWED_TAGS: ["span"],
  ALLOWED_ATTR: ["class"],
  RETURN_DOM_FRAGMENT: true as const,
};

interface Output {
  result: string;
  error: boolean;
}

/** What runs a Python block, once the page knows a server that does. */
export const codeRunner: { run: ((code: string) => Promise<Output>) | null } = { run: null };

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
  private readonly bar = document.createElement("figcaption");
  private readonly code = document.createElement("code");
  private text = "";
  private last: Text | null = null;
  private linesInLast = 0;
  private output: HTMLElement | null = null;
  private frame: HTMLIFrameElement | null = null;

  constructor(private readonly language: string) {
    const label = document.createElement("span");
    label.textContent = language || "text";
    this.bar.append(label, this.copyButton());
    const pre = document.createElement("pre");
    pre.tabIndex = 0;
    pre.setAttribute("role", "group");
    pre.setAttribute("aria-label", t.code_(language || t.plainText));
    pre.append(this.code);
    this.element.className = "code";
    this.element.append(this.bar, pre);
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
    if (PYTHON.has(this.language)) this.bar.lastElementChild?.before(this.runButton());
    if (previewable(this.language, this.text)) {
      this.bar.lastElementChild?.before(this.previewButton());
    }
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
    const button = newButton("copy-code");
    const tell = (text: string, label: string) => {
      button.textContent = text;
      button.setAttribute("aria-label", label);
    };
    tell(t.copy, t.copyCode);
    button.addEventListener("click", () => {
      void copyText(this.text).then((copied) => {
        if (copied) tell(t.copied, t.copiedCode);
        else tell(t.copyFailed, t.copyCodeFailed);
      });
      setTimeout(() => tell(t.copy, t.copyCode), 1500);
    });
    return button;
  }

  /** Shown by the style sheet where the server runs Python. */
  private runButton(): HTMLButtonElement {
    const button = newButton("run-code");
    button.textContent = t.runCode;
    button.addEventListener("click", () => {
      if (!codeRunner.run) return;
      button.disabled = true;
      button.textContent = t.runningCode;
      void codeRunner.run(this.text).then((output) => {
        button.disabled = false;
        button.textContent = t.runCode;
        this.showOutput(output);
      });
    });
    return button;
  }

  private showOutput({ result, error }: Output): void {
    this.output ??= document.createElement("pre");
    this.output.className = error ? "code-output failed" : "code-output";
    this.output.tabIndex = 0;
    this.output.setAttribute("role", "group");
    this.output.setAttribute("aria-label", error ? t.error : t.output);
    const more = result.length - LONGEST_OUTPUT;
    const cut = more > 0 ? `${result.slice(0, LONGEST_OUTPUT)}\n${t.moreCharacters(more)}` : result;
    this.output.textContent = cut.trimEnd() || t.noOutput;
    this.element.append(this.output);
  }

  private previewButton(): HTMLButtonElement {
    const button = newButton("preview-code");
    button.textContent = t.preview;
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      if (this.frame) {
        this.frame.remove();
        this.frame = null;
      } else {
        this.frame = previewFrame(this.language, this.text);
        this.element.append(this.frame);
      }
      button.textContent = this.frame ? t.hidePreview : t.preview;
      button.setAttribute("aria-pressed", String(this.frame !== null));
    });
    return button;
  }
}

function newButton(name: string): HTMLButtonElement {
  const button = document.createElement("button");
  button.type = "button";
  button.className = name;
  return button;
}
