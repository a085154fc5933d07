/** The language that the page speaks; `t` holds its words. */

import type { LanguageName } from "../types";
import { en, type Language } from "./en";
import { zh } from "./zh";

const LANGUAGES: Record<"en" | "zh", Language> = { en, zh };

/** The words of the chosen language; a live binding, read at every drawing. */
export let t: Language = en;

/** "auto" is the browser's first language that the page knows. */
export function speak(name: LanguageName): void {
  t = LANGUAGES[name === "auto" ? preferred() : name];
  document.documentElement.lang = name === "auto" ? preferred() : name;
}

function preferred(): "en" | "zh" {
  for (const tag of navigator.languages) {
    if (/^zh\b/i.test(tag)) return "zh";
    if (/^en\b/i.test(tag)) return "en";
  }
  return "en";
}
