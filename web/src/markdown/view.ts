/** Shows Markdown that is still being written: what is settled is never drawn again.
 *
 * A block is settled once the next one has begun. Only the last block is parsed and drawn again;
 * top-level code fences, long tables and overlong paragraphs merely grow.
 */

import DOMPurify from "dompurify";
import type { Env, Token } from "markdown-it";
import { CodeBlock } from "./code";
import { typeset } from "./math";
import { parser } from "./parser";
import { finishUp, openingFence, overlongPart, type Fence } from "./source";
import { TableBlock, tableStart } from "./table";
import { appendBreakable } from "./words";

const TAGS =
  "a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr kbd li mark ol p pre s span strong sub sup table tbody td th thead tr u ul wbr";
const SANITIZE = {
  ALLOWED_TAGS: TAGS.split(" "),
  ALLOWED_ATTR: ["class", "href", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true as const,
};

const FIRST_LETTER =
  /(?<rtl>[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}])|\p{L}/u;

export class MarkdownView {
  /** Characters of the text whose blocks are final. */
  private settled = 0;
  private tail: ChildNode[] = [];
  private code: CodeBlock | null = null;
  private plain: HTMLPreElement | null = null;
  private plainLength = 0;
  private table: TableBlock | null = null;
  private env: Env = {};
  /** The levels, as written, of the headings around the end of what is settled. */
  private levels: number[] = [];
  private ended = false;

  constructor(private readonly root: HTMLElement) {}

  /** Shows `text`, which begins with the text shown before; `done` when no more comes. */
  update(text: string, done: boolean): void {
    const goesOn = this.ended && (!done || text.length > this.settled);
    if (text.length < this.settled || goesOn) this.reset();
    this.ended = done;
    let goOn = true;
    while (goOn && this.settled < text.length) {
      const source = text.slice(this.settled);
      const fence = openingFence(source, done);
      goOn = fence ? this.writeFence(fence, done) : this.writeMarkdown(source, done);
    }
  }

  /** Forgets what is drawn, so that the next update draws all of it. */
  reset(): void {
    this.root.replaceChildren();
    this.settled = 0;
    this.tail = [];
    this.code = this.plain = this.table = null;
    this.env = {};
    this.levels = [];
  }

  /** Like every writer here: true once its part is settled, so that the next may begin. */
  private writeFence(fence: Fence, done: boolean): boolean {
    if (!this.code) {
      this.code = new CodeBlock(fence.language);
      this.replaceTail([]);
      this.root.append(this.code.element);
    }
    this.code.write(fence.body);
    if (!fence.closed && !done) return false;
    this.code.finish();
    this.code = null;
    this.settled += fence.length;
    return true;
  }

  private writeMarkdown(source: string, done: boolean): boolean {
    const next = source.search(/^(`{3,}[^`\n]*|~{3,}.*)\n/m);
    const markdown = next < 0 ? source : source.slice(0, next);
    const complete = done || next >= 0;
    const overlong = overlongPart(markdown);
    if (!overlong) return this.writeBlocks(markdown, complete);
    if (overlong.start > 0) return this.writeBlocks(markdown.slice(0, overlong.start), true);
    const part = markdown.slice(0, overlong.end);
    const table = tableStart(part);
    if (table > 0) return this.writeBlocks(part.slice(0, table), true);
    if (table === 0) return this.writeTable(part, complete || overlong.ended);
    return this.writePlain(part, complete || overlong.ended);
  }

  private writeTable(text: string, complete: boolean): boolean {
    if (!this.table) {
      this.table = new TableBlock(text, (rows) => this.draw(parser.parse(rows, this.env)));
      this.replaceTail([]);
      this.root.append(this.table.element);
    }
    this.table.write(text, complete);
    if (!complete) return false;
    this.table = null;
    this.settled += text.length;
    return true;
  }

  private writePlain(text: string, complete: boolean): boolean {
    if (!this.plain) {
      this.plain = document.createElement("pre");
      this.plain.className = "overlong";
      this.plainLength = 0;
      this.replaceTail([]);
      this.root.append(this.plain);
    }
    appendBreakable(this.plain, text.slice(this.plainLength));
    this.plainLength = text.length;
    if (!complete) return false;
    this.plain = null;
    this.settled += text.length;
    return true;
  }

  private writeBlocks(source: string, complete: boolean): boolean {
    const tokens = parser.parse(complete ? source : finishUp(source), this.env);
    const last = tokens.findLastIndex((token) => token.level === 0 && token.nesting >= 0);
    if (complete || last < 0) {
      this.replaceTail([]);
      this.root.append(this.draw(tokens));
      this.settled += complete ? source.length : 0;
      return complete;
    }
    const settled = [...this.draw(tokens.slice(0, last)).childNodes];
    const levels = [...this.levels];
    const tail = [...this.draw(tokens.slice(last)).childNodes];
    this.levels = levels;
    this.replaceTail([...settled, ...tail]);
    this.tail = tail;
    this.settled += offsetOfLine(source, tokens[last]?.map?.[0] ?? 0);
    return false;
  }

  private replaceTail(nodes: ChildNode[]): void {
    for (const node of this.tail) node.remove();
    this.tail = [];
    this.root.append(...nodes);
  }

  /** Headings in steps of one, whatever the levels that the text uses: none is skipped. */
  private levelHeadings(tokens: Token[]): void {
    for (const token of tokens) {
      if (token.type === "heading_open") {
        const level = token.markup.startsWith("#") ? token.markup.length : Number(token.tag[1]);
        this.levels = this.levels.filter((above) => above < level);
        this.levels.push(level);
      }
      if (token.type.startsWith("heading_")) token.tag = `h${Math.min(6, 2 + this.levels.length)}`;
    }
  }

  private draw(tokens: Token[]): DocumentFragment {
    this.levelHeadings(tokens);
    const html = parser.renderer.render(tokens, parser.options, this.env);
    const fragment = DOMPurify.sanitize(html, SANITIZE);
    for (const link of fragment.querySelectorAll("a")) {
      link.target = "_blank";
      link.rel = "noopener noreferrer nofollow";
      if (link.textContent === link.getAttribute("href")) link.classList.add("bare");
    }
    for (const block of fragment.querySelectorAll("p, li, td, th, blockquote, h3, h4, h5, h6")) {
      block.setAttribute("dir", "auto");
    }
    // "auto" looks past children that have a direction of their own, as all items do.
    for (const list of fragment.querySelectorAll<HTMLElement>("ul, ol, table")) {
      if (FIRST_LETTER.exec(list.textContent ?? "")?.groups?.["rtl"]) list.dir = "rtl";
    }
    for (const table of fragment.querySelectorAll<HTMLElement>("div.table")) table.tabIndex = 0;
    for (const code of fragment.querySelectorAll("pre > code")) {
      const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
      const block = new CodeBlock(language);
      block.write(code.textContent?.replace(/\n$/, "") ?? "");
      block.finish();
      code.parentElement?.replaceWith(block.element);
    }
    for (const formula of fragment.querySelectorAll<HTMLElement>(".math")) typeset(formula);
    return fragment;
  }
}

function offsetOfLine(source: string, line: number): number {
  let offset = 0;
  for (let n = 0; n < line; n++) offset = source.indexOf("\n", offset) + 1;
  return offset;
}
