/** Tells a screen reader what happens, by whole sentences rather than by tokens. */

import { t } from "./language";

const PAUSE = 1200;

/** How much of one reply's answer has been read out. */
export interface Reading {
  spoken: number;
}

export class Announcer {
  private queue: string[] = [];
  private timer = 0;

  constructor(private readonly region: () => HTMLElement | null) {}

  /** A short notice, such as "Thinking". */
  say(notice: string): void {
    this.queue.push(notice);
    this.flush();
  }

  /** An answer so far; sentences that have ended since the last call are read out. */
  answer(reading: Reading, text: string, done: boolean): void {
    if (this.timer && !done) return; // nothing can be said yet, so there is no need to look
    const end = done ? text.length : lastSentenceEnd(text, reading.spoken);
    if (end <= reading.spoken) return;
    const words = speakable(text.slice(reading.spoken, end));
    reading.spoken = end;
    if (words) this.queue.push(words);
    this.flush();
  }

  private flush(): void {
    if (this.timer || !this.queue.length) return;
    const region = this.region();
    if (region) region.textContent = this.queue.splice(0).join(" ");
    this.timer = window.setTimeout(() => {
      this.timer = 0;
      this.flush();
    }, PAUSE);
  }
}

function lastSentenceEnd(text: string, from: number): number {
  let end = from;
  for (const match of text.slice(from).matchAll(/[.!?…:](?=\s)|[。！？]|\n\n/g)) {
    end = from + match.index + match[0].length;
  }
  // Inside a code block nothing ends: it is read out as "code block" when it is complete.
  return (text.slice(0, end).match(/^(```|~~~)/gm)?.length ?? 0) % 2 ? from : end;
}

function speakable(markdown: string): string {
  return markdown
    .replace(/^(```|~~~)[^]*?^\1.*$/gm, t.say.codeBlock)
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/[*_`#>|~]+/g, " ")
    .replace(/\s+/g, " ")
    .trim();
}
