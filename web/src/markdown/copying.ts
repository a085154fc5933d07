/** What a selection copies: formulas as the TeX they were written in. */

/** Listens on the page; a selection without a formula is copied as the browser does. */
export function copyFormulasAsTex(): void {
  document.addEventListener("copy", (event) => {
    const selection = document.getSelection();
    if (!selection?.rangeCount || !event.clipboardData) return;
    const range = wholeFormulas(selection.getRangeAt(0));
    const fragment = range.cloneContents();
    const formulas = [...fragment.querySelectorAll(".math")];
    const replaced = formulas.map(replaceByTex).some(Boolean);
    if (!replaced) return;
    event.clipboardData.setData("text/plain", textOf(fragment));
    event.preventDefault();
  });
}

/** The range, widened so that no formula is halved. */
function wholeFormulas(range: Range): Range {
  const whole = range.cloneRange();
  const formulaOf = (node: Node) => {
    const element = node instanceof Element ? node : node.parentElement;
    return element?.closest(".math");
  };
  const first = formulaOf(whole.startContainer);
  const last = formulaOf(whole.endContainer);
  if (first) whole.setStartBefore(first);
  if (last) whole.setEndAfter(last);
  return whole;
}

function replaceByTex(formula: Element): boolean {
  const tex = formula.querySelector("annotation")?.textContent;
  if (!tex) return false;
  const mark = formula.classList.contains("display") ? "$$" : "$";
  formula.replaceWith(mark + tex + mark);
  return true;
}

/** The text with its line breaks, which only a laid-out element knows. */
function textOf(fragment: DocumentFragment): string {
  const box = document.createElement("div");
  box.className = "visually-hidden copied";
  box.append(fragment);
  document.body.append(box);
  const text = box.innerText;
  box.remove();
  return text;
}
