/** Typesets formulas with KaTeX, which is fetched when the first one appears. */

import type katex from "katex";

type Katex = typeof katex;
interface DomTree {
  attributes?: Record<string, string>;
  children?: DomTree[];
  toNode(): Node;
}
type RenderTree = (tex: string, options: object) => DomTree;

const LONGEST_FORMULA = 5000;
let library: Katex | null = null;
let loading: Promise<void> | null = null;
const waiting = new Map<HTMLElement, string>();

/** Shows `element`'s text as a formula; until KaTeX is there it shows the TeX. */
export function typeset(element: HTMLElement): void {
  const tex = element.textContent ?? "";
  if (tex.length > LONGEST_FORMULA) return;
  if (library) return draw(library, element, tex);
  waiting.set(element, tex);
  loading ??= import("katex").then(
    (module) => {
      library = module.default;
      for (const [late, text] of waiting) if (late.isConnected) draw(library, late, text);
      waiting.clear();
    },
    () => {
      loading = null; // offline: the TeX stays readable, and the next formula tries again
    },
  );
}

function draw(renderer: Katex, element: HTMLElement, tex: string): void {
  const displayMode = element.classList.contains("display");
  const options = { displayMode, throwOnError: true, strict: "ignore", trust: false, maxSize: 20 };
  try {
    const render = (renderer as unknown as { __renderToDomTree: RenderTree }).__renderToDomTree;
    const tree = render(tex, { ...options, maxExpand: 500 });
    dropStyleAttributes(tree);
    element.replaceChildren(tree.toNode());
    if (displayMode) element.tabIndex = 0; // wide formulas scroll, by keyboard too
  } catch {
    element.classList.add("failed"); // not TeX, or not yet: the source stays
  }
}

/** KaTeX styles through the CSSOM, but for a few attributes in its MathML, which CSP refuses. */
function dropStyleAttributes(tree: DomTree): void {
  if (tree.attributes) delete tree.attributes["style"];
  tree.children?.forEach(dropStyleAttributes);
}
