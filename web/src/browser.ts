/** What browsers keep from pages of plain HTTP (a phone that opens a laptop's chat) done without. */

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  // The letter keeps ids out of the number-like keys, which objects would sort.
  return "t" + [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Puts `text` on the clipboard; false where the browser refuses. */
export async function copyText(text: string): Promise<boolean> {
  try {
    if (!window.isSecureContext) return copyBySelection(text);
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** The old way, the only one that plain HTTP leaves. */
function copyBySelection(text: string): boolean {
  const area = document.createElement("textarea");
  const focused = document.activeElement;
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return copied;
}
