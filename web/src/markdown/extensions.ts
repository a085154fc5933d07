/** What reasoning models write besides CommonMark: bare TeX, `<br>`, `<sub>`, task lists. */

import MarkdownIt from "markdown-it";
import type { StateBlock, StateCore, StateInline, Token } from "markdown-it";

/** Environments that make a display on their own, outside any dollar signs. */
const ENVIRONMENTS =
  "align alignat aligned array Bmatrix bmatrix cases CD darray dcases equation gather gathered matrix pmatrix rcases smallmatrix split Vmatrix vmatrix";
const BEGIN = new RegExp(`^\\\\begin\\{((?:${ENVIRONMENTS.replaceAll(" ", "|")})\\*?)\\}`);
const BOX = /^\\(boxed|fbox) ?\{/;
const TAG = /^<(\/?)(sub|sup|u|mark|kbd)>/i;
const BREAK = /^<\/?br\s*\/?>/i;
const LONGEST_FORMULA = 5000;

export function modelWriting(parser: InstanceType<typeof MarkdownIt>): void {
  parser.block.ruler.before("fence", "environment", environmentBlock, {
    alt: ["paragraph", "blockquote", "list"],
  });
  parser.inline.ruler.before("escape", "boxed", boxed);
  parser.inline.ruler.before("escape", "environment", environmentInline);
  parser.inline.ruler.before("html_inline", "plain_tags", plainTags);
  parser.core.ruler.after("inline", "tasks", tasks);
}

/** Where the brace that closes the one before `start` stands; -1 where it does not. */
function closingBrace(source: string, start: number): number {
  const limit = Math.min(source.length, start + LONGEST_FORMULA);
  let depth = 1;
  for (let at = start; at < limit; at++) {
    const character = source[at];
    if (character === "\\") at++;
    else if (character === "{") depth++;
    else if (character === "}" && --depth === 0) return at;
  }
  return -1;
}

/** A final answer in a box, as `\boxed{42}`, where no dollar sign says that it is mathematics. */
function boxed(state: StateInline, silent: boolean): boolean {
  const box = BOX.exec(state.src.slice(state.pos, state.pos + 10));
  if (!box) return false;
  const end = closingBrace(state.src, state.pos + box[0].length);
  if (end < 0 || end >= state.posMax) return false;
  if (!silent) {
    const token = state.push("math_inline", "span", 0);
    token.content = state.src.slice(state.pos, end + 1);
    token.meta = { display: false };
  }
  state.pos = end + 1;
  return true;
}

function environmentInline(state: StateInline, silent: boolean): boolean {
  const found = BEGIN.exec(state.src.slice(state.pos, state.pos + 32));
  if (!found) return false;
  const close = `\\end{${found[1]}}`;
  const at = state.src.indexOf(close, state.pos);
  const end = at + close.length;
  if (at < 0 || end > state.posMax || end - state.pos > LONGEST_FORMULA) return false;
  if (!silent) {
    const token = state.push("math_inline", "span", 0);
    token.content = state.src.slice(state.pos, end);
    token.meta = { display: true };
  }
  state.pos = end;
  return true;
}

/** An environment with lines of its own, blank ones included. */
function environmentBlock(
  state: StateBlock,
  startLine: number,
  endLine: number,
  silent: boolean,
): boolean {
  const first = lineOf(state, startLine);
  const found = BEGIN.exec(first);
  if (!found) return false;
  const close = `\\end{${found[1]}}`;
  const lines: string[] = [];
  for (let line = startLine; line < endLine; line++) {
    const text = lineOf(state, line);
    lines.push(text);
    const at = text.indexOf(close);
    if (at < 0) continue;
    if (text.slice(at + close.length).trim() !== "") return false;
    if (silent) return true;
    const token = state.push("math_block", "div", 0);
    token.content = lines.join("\n").trim();
    token.meta = { display: true };
    token.map = [startLine, line + 1];
    state.line = line + 1;
    return true;
  }
  return false;
}

function lineOf(state: StateBlock, line: number): string {
  const start = (state.bMarks[line] ?? 0) + (state.tShift[line] ?? 0);
  return state.src.slice(start, state.eMarks[line]);
}

/** The few tags that Markdown has no marks for; every other tag stays text. */
function plainTags(state: StateInline, silent: boolean): boolean {
  const rest = state.src.slice(state.pos, state.pos + 12);
  const lineBreak = BREAK.exec(rest);
  if (lineBreak) {
    if (!silent) state.push("hardbreak", "br", 0);
    state.pos += lineBreak[0].length;
    return true;
  }
  const tag = TAG.exec(rest);
  if (!tag) return false;
  const [whole, slash, written = ""] = tag;
  const name = written.toLowerCase();
  const closes = slash === "/";
  // One that opens must be closed within the paragraph, and the other way round.
  const opened = state.tokens.filter((token) => token.type === `${name}_open`).length;
  const closed = state.tokens.filter((token) => token.type === `${name}_close`).length;
  const paired = closes
    ? opened > closed
    : opened === closed && state.src.toLowerCase().includes(`</${name}>`, state.pos);
  if (!paired) return false;
  if (!silent) state.push(`${name}_${closes ? "close" : "open"}`, name, closes ? -1 : 1);
  state.pos += whole.length;
  return true;
}

/** `- [x] done`: the brackets become a mark, which is read out as one. */
function tasks(state: StateCore): void {
  state.tokens.forEach((token, index) => {
    const item = state.tokens[index - 2];
    const text = token.children?.[0];
    if (token.type !== "inline" || item?.type !== "list_item_open" || !text) return;
    const found = /^\[([ xX])\]\s/.exec(text.content);
    if (!found || text.type !== "text") return;
    text.content = text.content.slice(found[0].length);
    item.attrJoin("class", "task");
    token.children?.unshift(taskMark(state, found[1] !== " "));
  });
}

function taskMark(state: StateCore, done: boolean): Token {
  const mark = new state.Token("code_inline", "code", 0);
  mark.type = "task_mark";
  mark.content = done ? "☑" : "☐";
  return mark;
}
