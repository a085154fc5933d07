/** Splits `<think>` text out of content, for servers that leave it there.
 *
 * Thinking is recognised where a model writes it: a `<think>` that opens the content, or (where
 * the template had opened it in the prompt) a `</think>` alone on its line. An answer that merely
 * mentions the tags stays whole.
 */

const OPEN = "<think>";
const CLOSE = "</think>";

export type Piece =
  | { kind: "text" | "thinking"; text: string }
  /** All text so far was thinking after all. */
  | { kind: "was-thinking" };

export class ThinkSplitter {
  private state: "start" | "thinking" | "text" | "answer" = "start";
  private held = "";
  /** A line break and the beginning of the last line given out. */
  private before = "\n";
  private inFence = false;

  /** Takes the next piece of content; what may be the beginning of a tag is held back. */
  push(content: string): Piece[] {
    this.held += content;
    const pieces: Piece[] = [];
    while (this.step(pieces));
    return pieces;
  }

  /** Gives out what was held back; no more content comes. */
  end(): Piece[] {
    const text = this.held;
    this.held = "";
    return text ? [{ kind: this.state === "thinking" ? "thinking" : "text", text }] : [];
  }

  private step(pieces: Piece[]): boolean {
    if (!this.held) return false;
    if (this.state === "answer") return this.give(pieces, "text", this.held.length);
    if (this.state === "start") return this.start();
    const at = this.held.indexOf(CLOSE);
    if (at < 0) {
      const kept = partialTag(this.held, CLOSE);
      this.give(pieces, this.state, this.held.length - kept);
      return false;
    }
    if (at > 0) return this.give(pieces, this.state, at);
    return this.closingTag(pieces);
  }

  private start(): boolean {
    const trimmed = this.held.trimStart();
    if (trimmed.startsWith(OPEN)) {
      this.held = trimmed.slice(OPEN.length).replace(/^\n/, "");
      this.state = "thinking";
    } else if (OPEN.startsWith(trimmed)) {
      return false;
    } else {
      this.state = "text";
    }
    return true;
  }

  private closingTag(pieces: Piece[]): boolean {
    if (this.state === "text" && (!this.before.endsWith("\n") || this.inFence)) {
      return this.give(pieces, "text", CLOSE.length);
    }
    if (this.state === "text") pieces.push({ kind: "was-thinking" });
    this.held = this.held.slice(CLOSE.length).replace(/^\s+/, "");
    this.state = "answer";
    return true;
  }

  private give(pieces: Piece[], kind: "text" | "thinking", length: number): boolean {
    if (length <= 0) return false;
    const text = this.held.slice(0, length);
    pieces.push({ kind, text });
    if (this.state === "text") {
      const fences = (this.before + text).match(/\n\s*(```|~~~)(?=[^\n]*\n)/g)?.length ?? 0;
      if (fences % 2) this.inFence = !this.inFence;
      const lastLine = (this.before + text).lastIndexOf("\n");
      this.before = (this.before + text).slice(lastLine, lastLine + 64);
    }
    this.held = this.held.slice(length);
    return true;
  }
}

/** How many characters at the end of `text` may be the beginning of `tag`. */
function partialTag(text: string, tag: string): number {
  for (let length = Math.min(tag.length - 1, text.length); length > 0; length--) {
    if (tag.startsWith(text.slice(-length))) return length;
  }
  return 0;
}
