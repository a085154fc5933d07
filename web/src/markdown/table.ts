/** A long table that grows: its settled rows are never drawn again. */

const ROWS_AT_ONCE = 200;
const DELIMITER = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Where a table begins in `source`, as the offset of its head line; -1 where none does. */
export function tableStart(source: string): number {
  let before = -1;
  for (let at = 0; at < source.length;) {
    const end = source.indexOf("\n", at);
    if (end < 0) return -1;
    const line = source.slice(at, end);
    if (before >= 0 && line.includes("|") && DELIMITER.test(line)) return before;
    before = line.includes("|") ? at : -1;
    at = end + 1;
  }
  return -1;
}

export class TableBlock {
  readonly element = document.createElement("div");
  private readonly head: string;
  private body: HTMLElement | null = null;
  private consumed: number;
  private tail: Element[] = [];

  /** `source` begins with the head line; `draw` turns whole Markdown into nodes. */
  constructor(
    source: string,
    private readonly draw: (markdown: string) => DocumentFragment,
  ) {
    const firstLine = source.indexOf("\n") + 1;
    this.head = source.slice(0, source.indexOf("\n", firstLine) + 1);
    this.consumed = this.head.length;
    this.element.className = "table";
    this.element.tabIndex = 0;
  }

  /** Shows `source`, which begins with what is shown already. */
  write(source: string, complete: boolean): void {
    for (const row of this.tail) row.remove();
    this.tail = [];
    const settled = complete ? source.length : source.lastIndexOf("\n") + 1;
    while (this.consumed < settled) this.append(this.nextRows(source, settled));
    const unfinished = source.slice(this.consumed);
    if (unfinished.includes("|")) this.tail = this.append(unfinished);
  }

  private nextRows(source: string, settled: number): string {
    let end = this.consumed;
    for (let row = 0; row < ROWS_AT_ONCE && end < settled; row++) {
      const lineEnd = source.indexOf("\n", end);
      end = lineEnd < 0 ? settled : lineEnd + 1;
    }
    const rows = source.slice(this.consumed, end);
    this.consumed = end;
    return rows;
  }

  private append(rows: string): Element[] {
    const fragment = this.draw(this.head + rows);
    const made = [...fragment.querySelectorAll("tbody > tr")];
    if (!this.body) {
      const table = fragment.querySelector("table");
      if (table) this.element.replaceChildren(table);
      this.body = this.element.querySelector("tbody");
    } else {
      this.body.append(...made);
    }
    return made;
  }
}
