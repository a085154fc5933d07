/** Finds words in a part of the page and marks them, without changing the part. */

import { useEffect, useRef, useState } from "preact/hooks";

const MOST = 2000;

interface HighlightRegistry {
  set(name: string, highlight: object): void;
  delete(name: string): void;
}

export function useTextSearch(box: { current: HTMLElement | null }) {
  const ranges = useRef<Range[]>([]);
  const [count, setCount] = useState(0);
  const [at, setAt] = useState(0);
  useEffect(() => () => mark([], 0), []);

  const show = (place: number) => {
    setAt(ranges.current.length ? place + 1 : 0);
    mark(ranges.current, place);
    ranges.current[place]?.startContainer.parentElement?.scrollIntoView({ block: "nearest" });
  };
  const search = (query: string) => {
    ranges.current = box.current && query ? found(box.current, query.toLowerCase()) : [];
    setCount(ranges.current.length);
    show(0);
  };
  const next = (step: number) => {
    const { length } = ranges.current;
    if (length) show((at - 1 + step + length) % length);
  };
  return { count, at, search, next };
}

function found(root: HTMLElement, query: string): Range[] {
  const ranges: Range[] = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = (node.textContent ?? "").toLowerCase();
    for (let place = text.indexOf(query); place >= 0; place = text.indexOf(query, place + 1)) {
      const range = document.createRange();
      range.setStart(node, place);
      range.setEnd(node, place + query.length);
      ranges.push(range);
      if (ranges.length === MOST) return ranges;
    }
  }
  return ranges;
}

/** Older browsers mark nothing; the matches are counted and scrolled to all the same. */
function mark(ranges: Range[], current: number): void {
  const registry = (CSS as unknown as { highlights?: HighlightRegistry }).highlights;
  const Highlight = (window as unknown as { Highlight?: new (...ranges: Range[]) => object })
    .Highlight;
  if (!registry || !Highlight) return;
  registry.delete("found");
  registry.delete("found-now");
  if (ranges.length) registry.set("found", new Highlight(...ranges));
  const now = ranges[current];
  if (now) registry.set("found-now", new Highlight(now));
}
