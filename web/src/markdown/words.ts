/** Places where a word without any may break: one unbroken run of text is laid out as a whole. */

const LONG_WORD = /\S{160,}/g;
const PART = 80;

/** `text` in parts between which a line may break; one part where no word is long. */
export function breakable(text: string): string[] {
  if (text.length < 2 * PART) return [text];
  const parts: string[] = [];
  let from = 0;
  for (const match of text.matchAll(LONG_WORD)) {
    const end = match.index + match[0].length;
    for (let at = match.index + PART; at < end; at += PART) {
      const cut = insidePair(text, at) ? at + 1 : at;
      parts.push(text.slice(from, cut));
      from = cut;
    }
  }
  parts.push(text.slice(from));
  return parts;
}

export function appendBreakable(element: HTMLElement, text: string): void {
  breakable(text).forEach((part, index) => {
    if (index) element.append(document.createElement("wbr"));
    element.append(part);
  });
}

/** Whether a cut at `at` would halve a character outside Unicode's first plane. */
function insidePair(text: string, at: number): boolean {
  const before = text.charCodeAt(at - 1);
  return before >= 0xd800 && before < 0xdc00;
}
