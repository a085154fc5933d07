/** Files, pastes and drops as text that goes along with a message. */

import { t } from "./language";
import type { Attachment } from "./types";

const MEGABYTE = 2 ** 20;
const LARGEST = 20;
const LONG_PASTE = 4_000;
const LONG_PASTE_LINES = 60;
const CONTROL = /[\x00-\x08\x0e-\x1f]/;

/** Something that cannot go along, in words for the reader. */
export class RefusedFile extends Error {}

/** Whether a pasted text is better shown as a chip than in the field. */
export function isLongPaste(text: string): boolean {
  return text.length > LONG_PASTE || (text.match(/\n/g)?.length ?? 0) >= LONG_PASTE_LINES;
}

export function pastedAttachment(text: string): Attachment {
  return attachment(t.pastedText, "paste", text);
}

/** The text of a file; raises RefusedFile where it has none. */
export async function attachFile(file: File): Promise<Attachment> {
  const name = file.name || t.pastedText;
  if (/^(image|video|audio)\//.test(file.type) && !/svg/.test(file.type)) {
    throw new RefusedFile(t.refusedImage(name));
  }
  if (file.size > LARGEST * MEGABYTE) throw new RefusedFile(t.refusedSize(name, LARGEST));
  if (file.size === 0) throw new RefusedFile(t.refusedEmpty(name));
  if (file.type === "application/pdf" || /\.pdf$/i.test(name)) return attachPdf(file, name);
  const text = decoded(await file.arrayBuffer());
  if (text === null) throw new RefusedFile(t.refusedBinary(name));
  if (!text.trim()) throw new RefusedFile(t.refusedEmpty(name));
  const separator = separatorOf(name, file.type);
  if (!separator) return attachment(name, "text", text);
  return attachment(name, "table", text, tableNote(text, separator));
}

async function attachPdf(file: File, name: string): Promise<Attachment> {
  const { readPdf } = await import("./pdf");
  try {
    const { text, pages, emptyPages } = await readPdf(await file.arrayBuffer());
    if (!text.trim()) throw new Error(t.pdfWithoutText);
    const notes = [t.pdfPages(pages)];
    if (emptyPages) notes.push(t.pdfEmptyPages(emptyPages));
    return attachment(name, "pdf", text, notes.join(", "));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new RefusedFile(t.refusedPdf(name, why.slice(0, 200)));
  }
}

function attachment(name: string, kind: Attachment["kind"], text: string, note = ""): Attachment {
  return { name: cleanName(name), kind, text, tokens: estimatedTokens(text), exact: false, note };
}

/** A name without what would break the line it stands on. */
function cleanName(name: string): string {
  return (
    name
      .replace(/[\p{C}`]/gu, " ")
      .trim()
      .slice(0, 120) || t.pastedText
  );
}

/** About how many tokens a text has: a quarter of its letters, each sign of Chinese for one. */
export function estimatedTokens(text: string): number {
  const signs = text.match(/[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]/gu)?.length ?? 0;
  return Math.ceil(signs + (text.length - signs) / 4);
}

/** Text in UTF-8 or, with its mark, UTF-16; null for bytes that are neither. */
function decoded(buffer: ArrayBuffer): string | null {
  const bytes = new Uint8Array(buffer, 0, Math.min(2, buffer.byteLength));
  const mark = bytes[0] === 0xff && bytes[1] === 0xfe ? "utf-16le" : "utf-8";
  const encoding = bytes[0] === 0xfe && bytes[1] === 0xff ? "utf-16be" : mark;
  try {
    const text = new TextDecoder(encoding, { fatal: true }).decode(buffer);
    return CONTROL.test(text) ? null : text.replaceAll("\r\n", "\n");
  } catch {
    return null;
  }
}

function separatorOf(name: string, type: string): string | null {
  if (/\.tsv$/i.test(name)) return "\t";
  return /\.csv$/i.test(name) || type === "text/csv" ? "," : null;
}

/** How large a table is; quoted cells may hold separators and line breaks. */
function tableNote(text: string, separator: string): string {
  let rows = 1;
  let columns = 1;
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === '"') quoted = !quoted;
    else if (quoted) continue;
    else if (character === "\n" && at < text.length - 1) rows++;
    else if (character === separator && rows === 1) columns++;
  }
  return t.tableSize(rows, columns);
}

/** An attachment as the model reads it: in a fence longer than any inside, under its name. */
export function fencedAttachment({ name, text }: Attachment): string {
  const inside = text.match(/`{3,}/g) ?? [];
  const longest = inside.reduce((most, run) => Math.max(most, run.length), 2);
  const fence = "`".repeat(longest + 1);
  return `${fence}${name}\n${text.replace(/\n+$/, "")}\n${fence}`;
}
