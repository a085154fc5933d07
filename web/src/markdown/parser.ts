/** Markdown as models write it: hardly any HTML, no images, mathematics, links that are safe to follow. */

import MarkdownIt, {
  type RendererRule,
  type StateBlock,
  type StateCore,
  type StateInline,
  type Token,
} from "markdown-it";
import cjkFriendly from "markdown-it-cjk-friendly";
import { t } from "../language";
import { modelWriting } from "./extensions";
import { breakable } from "./words";

const SAFE_LINK = /^(https?:|mailto:)/i;
const MATH_PAIRS: [string, string, boolean][] = [
  ["$$", "$$", true],
  ["\\[", "\\]", true],
  ["\\(", "\\)", false],
  ["$", "$", false],
];

export const parser = new MarkdownIt({ html: false, linkify: true });
parser.set({ maxNesting: 40 });
parser.validateLink = (url) => SAFE_LINK.test(url.trim());
parser.linkify.set({ fuzzyEmail: false, fuzzyIP: false });
parser.inline.ruler.before("escape", "math", inlineMath);
parser.block.ruler.before("fence", "math", blockMath, { alt: ["paragraph", "blockquote", "list"] });
parser.use(cjkFriendly);
modelWriting(parser);
parser.core.ruler.push("calm", (state) => {
  state.tokens.forEach(calmBlock);
  imagesToLinks(state);
});

const math =
  (tag: "span" | "div"): RendererRule =>
  (tokens, index) => {
    const token = tokens[index] as Token;
    const mode = token.meta?.["display"] ? " display" : "";
    return `<${tag} class="math${mode}">${parser.utils.escapeHtml(token.content)}</${tag}>`;
  };
parser.renderer.rules["math_inline"] = math("span");
parser.renderer.rules["math_block"] = math("div");
parser.renderer.rules["text"] = (tokens, index) =>
  breakable(tokens[index]?.content ?? "")
    .map((part) => parser.utils.escapeHtml(part))
    .join("<wbr>");
parser.renderer.rules["task_mark"] = (tokens, index) =>
  `<span class="task-mark">${tokens[index]?.content ?? ""} </span>`;
parser.renderer.rules["table_open"] = () => '<div class="table"><table>';
parser.renderer.rules["table_close"] = () => "</table></div>";

/** Closing marks known to be missing in the rest of a text: looking again would take n² time. */
const hopeless = new WeakMap<object, Set<string>>();

function isHopeless(state: object, close: string): boolean {
  const missing = hopeless.get(state) ?? new Set();
  hopeless.set(state, missing);
  return missing.has(close);
}

function inlineMath(state: StateInline, silent: boolean): boolean {
  const pair = MATH_PAIRS.find(([open]) => state.src.startsWith(open, state.pos));
  if (!pair) return false;
  const [open, close, display] = pair;
  const start = state.pos + open.length;
  const end = isHopeless(state, close) ? -1 : closing(state.src, start, close, state.posMax);
  // Inside a link's text only that text was searched.
  if (end < 0 && state.posMax === state.src.length) hopeless.get(state)?.add(close);
  if (end < 0 || !state.src.slice(start, end).trim()) return false;
  if (open === "$") {
    // As in pandoc, so that prices stay prices.
    const after = state.src[end + 1] ?? "";
    if (/\s/.test(state.src[start] ?? " ") || /\s/.test(state.src[end - 1] ?? " ")) return false;
    if (/\d/.test(after)) return false;
  }
  if (!silent) {
    const token = state.push("math_inline", "span", 0);
    token.content = state.src.slice(start, end).trim();
    token.meta = { display };
  }
  state.pos = end + close.length;
  return true;
}

/** Where `close` stands from `start` on, not escaped by a backslash; -1 where it does not. */
function closing(source: string, start: number, close: string, limit: number): number {
  for (let at = source.indexOf(close, start); at >= 0; at = source.indexOf(close, at + 1)) {
    if (at + close.length > limit) return -1;
    let slashes = 0;
    while (source[at - 1 - slashes] === "\\") slashes++;
    if (slashes % 2 === 0) return at;
  }
  return -1;
}

function blockMath(
  state: StateBlock,
  startLine: number,
  endLine: number,
  silent: boolean,
): boolean {
  if ((state.sCount[startLine] ?? 0) - state.blkIndent >= 4) return false;
  const first = lineOf(state, startLine).trimStart();
  const pair = MATH_PAIRS.find(([open, , display]) => display && first.startsWith(open));
  if (!pair) return false;
  const [open, close] = pair;
  if (isHopeless(state, close)) return false;
  const lines: string[] = [];
  for (let line = startLine; line < endLine; line++) {
    const text = line === startLine ? first.slice(open.length) : lineOf(state, line);
    if (line > startLine && (state.sCount[line] ?? 0) < state.blkIndent) return false;
    const end = closing(text, 0, close, text.length);
    if (end < 0) {
      lines.push(text);
      continue;
    }
    if (text.slice(end + close.length).trim()) return false;
    if (silent) return true;
    const token = state.push("math_block", "div", 0);
    token.content = [...lines, text.slice(0, end)].join("\n").trim();
    token.meta = { display: true };
    token.map = [startLine, line + 1];
    state.line = line + 1;
    return true;
  }
  if (endLine === state.lineMax) hopeless.get(state)?.add(close);
  return false;
}

function lineOf(state: StateBlock, line: number): string {
  const start = (state.bMarks[line] ?? 0) + (state.tShift[line] ?? 0);
  return state.src.slice(start, state.eMarks[line]);
}

/** Table alignment by class, since the page allows no style. */
function calmBlock(token: Token): void {
  const style = token.attrGet("style");
  if (style === null) return;
  token.attrs = token.attrs?.filter(([name]) => name !== "style") ?? null;
  token.attrJoin("class", String(style).replace("text-align:", "align-"));
}

/** A picture from elsewhere would tell its owner who reads: it becomes a link. */
function imagesToLinks(state: StateCore): void {
  for (const block of state.tokens) {
    let inLink = 0;
    block.children = (block.children ?? []).flatMap((token) => {
      if (token.type === "link_open") inLink++;
      if (token.type === "link_close") inLink--;
      if (token.type !== "image") return [token];
      const text = new state.Token("text", "", 0);
      text.content = token.content ? t.imageOf(token.content) : t.image;
      if (inLink) return [text];
      const open = new state.Token("link_open", "a", 1);
      open.attrs = [["href", token.attrGet("src") ?? ""]];
      return [open, text, new state.Token("link_close", "a", -1)];
    });
  }
}
