/** Reads the outline of unfinished Markdown: fences, overlong paragraphs, half-written marks. */

/** Longer paragraphs are shown as they are: parsing one again for each token would take too long. */
const LONGEST_PARAGRAPH = 16_000;

export interface Fence {
  language: string;
  body: string;
  closed: boolean;
  /** Characters from the opening fence to the end of the closing one. */
  length: number;
}

/** The code fence that `source` begins with, if it does; an unfinished first line is none yet. */
export function openingFence(source: string, done: boolean): Fence | null {
  const opening = /^(`{3,}|~{3,})([^\n]*)(\n|$)/.exec(source);
  if (!opening) return null;
  const [line, mark = "", info = "", end = ""] = opening;
  if ((end === "" && !done) || (mark.startsWith("`") && info.includes("`"))) return null;
  const close = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}[ \\t]*$(\\n|(?![^]))`, "gm");
  close.lastIndex = line.length;
  const found = close.exec(source);
  const language = /^[\w+#.-]{1,32}/.exec(info.trim())?.[0].toLowerCase() ?? "";
  const body = source.slice(line.length, found ? found.index : source.length);
  return {
    language,
    // The last line break belongs to the closing fence, which may be arriving.
    body: (found ? body : body.replace(/\n?[`~]*$/, "")).replace(/\n$/, ""),
    closed: found !== null,
    length: found ? found.index + found[0].length : source.length,
  };
}

/** The first part of `source` without a blank line that is too long to parse. */
export function overlongPart(
  source: string,
): { start: number; end: number; ended: boolean } | null {
  for (let start = 0; source.length - start > LONGEST_PARAGRAPH;) {
    const blank = source.indexOf("\n\n", start);
    const end = blank < 0 ? source.length : blank + 2;
    if (end - start > LONGEST_PARAGRAPH) return { start, end, ended: blank >= 0 };
    start = end;
  }
  return null;
}

/** Makes unfinished Markdown look as it will: half-written marks are closed or held back. */
export function finishUp(source: string): string {
  const cut = source.lastIndexOf("\n") + 1;
  let head = source.slice(0, cut);
  let line = source.slice(cut);
  if (/^\s*([-=*_#+>~|: ]+|\d{1,9}[.)]?\s*|[`~]{3,}.*|\|.*)$/.test(line)) line = "";
  if (!line) head = withoutHalfTable(head);
  const paragraphStart = head.lastIndexOf("\n\n") + 1;
  const paragraph = head.slice(paragraphStart) + line;
  return head.slice(0, paragraphStart) + closeMarks(paragraph);
}

/** A table shows once its second line is there; before, its first would pass for text. */
function withoutHalfTable(head: string): string {
  const half = /(^|\n)\|[^\n]*\n$/.exec(head);
  if (!half) return head;
  const before = head.slice(0, half.index);
  return /(^|\n)\|[^\n]*$/.test(before) ? head : before + (half[1] ?? "");
}

function closeMarks(paragraph: string): string {
  const openMath = unclosedMath(paragraph);
  if (openMath >= 0) return closeMarks(paragraph.slice(0, openMath));
  if ((paragraph.match(/`/g)?.length ?? 0) % 2) {
    return paragraph.endsWith("`") ? paragraph.slice(0, -1) : `${paragraph}\``;
  }
  const text = paragraph.replace(/!?\[([^\]\n]*)\](\([^)\n]*)?$/, "$1");
  const marks = text.match(/\*\*/g)?.length ?? 0;
  if (marks % 2) return /\*\*\s*$/.test(text) ? text.replace(/\*\*\s*$/, "") : closeBold(text);
  return text;
}

function closeBold(text: string): string {
  return `${text.trimEnd().replace(/\*$/, "")}**`;
}

/** Where a formula begins that is not closed yet: half of one would only flicker. */
function unclosedMath(paragraph: string): number {
  const opened = /\\\[|\\\(|\$\$|\\boxed\{|\\begin\{[a-z]+\*?\}/g;
  paragraph = paragraph.replace(/`[^`\n]*`/g, (code) => " ".repeat(code.length));
  for (let match = opened.exec(paragraph); match; match = opened.exec(paragraph)) {
    const end = paragraph.indexOf(closingMark(match[0]), match.index + match[0].length);
    if (end < 0) return match.index;
    opened.lastIndex = end + 2;
  }
  return -1;
}

function closingMark(opening: string): string {
  if (opening.startsWith("\\begin")) return opening.replace("begin", "end");
  return { "\\[": "\\]", "\\(": "\\)", $$: "$$" }[opening] ?? "}";
}
