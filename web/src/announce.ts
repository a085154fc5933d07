/** Tells a screen reader what happens, by whole sentences rather than by tokens. */

const PAUSE = 1200;

export class Announcer {
  private spoken = 0;
  private queue: string[] = [];
  private timer = 0;

  constructor(private readonly region: () => HTMLElement | null) {}

  /** A short notice, such as "Thinking". */
  say(notice: string): void {
    this.queue.push(notice);
    this.flush();
  }

  /** A new reply begins. */
  begin(): void {
    this.spoken = 0;
  }

  /** The answer so far; sentences that have ended since the last call are read out. */
  answer(text: string, done: boolean): void {
    const end = done ? text.length : lastSentenceEnd(text, this.spoken);
    if (end <= this.spoken) return;
    const words = speakable(text.slice(this.spoken, end));
    this.spoken = end;
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
    .replace(/^(```|~~~)[^]*?^\1.*$/gm, " Code block. ")
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/[*_`#>|~]+/g, " ")
    .replace(/\s+/g, " ")
    .trim();
}
